//! The microphone test: listens for a while, then plays what it heard. Nothing of it leaves the machine.

use serde::{Deserialize, Serialize};

use super::{BLOCK_SAMPLES, Block, SAMPLE_RATE_HZ, mixer::Meter};

/// Longest that a test listens, in seconds (5.8 MB).
pub const MAX_SECONDS: u32 = 30;

/// How a microphone test stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MicTest {
    /// `listening` or `playing`.
    pub stage: String,
    /// How loud it is, dBFS (RMS of about the last second).
    pub level_db: i32,
    /// Until this stage ends.
    pub left_ms: u32,
}

/// A microphone test that runs.
pub struct Trial {
    clip: Vec<f32>,
    wanted: usize,
    /// What of the clip was played.
    played: usize,
    meter: Meter,
}

impl Trial {
    /// Listens for so many seconds, [`MAX_SECONDS`] at most.
    pub fn new(seconds: u32) -> Self {
        let wanted = (seconds.clamp(1, MAX_SECONDS) * SAMPLE_RATE_HZ) as usize;
        Self { clip: Vec::with_capacity(wanted), wanted, played: 0, meter: Meter::default() }
    }

    /// The microphone is to be open.
    pub fn listens(&self) -> bool {
        self.clip.len() < self.wanted
    }

    /// Everything was played.
    pub fn is_over(&self) -> bool {
        !self.listens() && self.played >= self.clip.len()
    }

    /// Takes 10 ms of the microphone.
    pub fn hear(&mut self, block: &Block) {
        if self.listens() {
            self.clip.extend_from_slice(block);
            self.meter.add(Some(block));
        }
    }

    /// Adds the next 10 ms of what was heard to `sum`, once everything was.
    pub fn add_to(&mut self, sum: &mut Block) {
        if self.listens() || self.is_over() {
            return;
        }
        let mut block = [0.0; BLOCK_SAMPLES];
        for (sample, said) in block.iter_mut().zip(&self.clip[self.played..]) {
            *sample = *said;
        }
        self.played += BLOCK_SAMPLES;
        self.meter.add(Some(&block));
        sum.iter_mut().zip(&block).for_each(|(sum, sample)| *sum += sample);
    }

    /// How it stands.
    pub fn status(&self) -> MicTest {
        let (stage, left) = match self.listens() {
            true => ("listening", self.wanted - self.clip.len()),
            false => ("playing", self.clip.len().saturating_sub(self.played)),
        };
        let level_db = self.meter.level_db().round() as i32;
        MicTest { stage: stage.into(), level_db, left_ms: (left as u64 * 1000 / u64::from(SAMPLE_RATE_HZ)) as u32 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audio::testing::speech;

    #[test]
    fn it_listens_then_plays_exactly_what_it_heard_and_ends() {
        let clip = speech(1.5);
        let mut trial = Trial::new(1);
        let mut blocks = clip.as_chunks::<BLOCK_SAMPLES>().0.iter();
        while trial.listens() {
            assert_eq!(trial.status().stage, "listening");
            let mut sum = [0.0; BLOCK_SAMPLES];
            trial.add_to(&mut sum);
            assert_eq!(sum, [0.0; BLOCK_SAMPLES], "nothing is played meanwhile: that would howl");
            trial.hear(blocks.next().unwrap());
        }
        assert!(trial.status().level_db > -40, "{:?}", trial.status());
        let mut played = Vec::new();
        while !trial.is_over() {
            assert_eq!(trial.status().stage, "playing");
            let mut sum = [0.0; BLOCK_SAMPLES];
            trial.add_to(&mut sum);
            played.extend(sum);
        }
        assert_eq!(played, clip[..48_000]);
        assert_eq!(trial.status().left_ms, 0);
    }

    #[test]
    fn nobody_makes_it_listen_for_long() {
        assert_eq!(Trial::new(u32::MAX).status().left_ms, MAX_SECONDS * 1000);
    }
}
