//! The microphone test: listens for a while, then plays what it heard. Nothing of it leaves the machine.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{
    BLOCK_SAMPLES, Block, SAMPLE_RATE_HZ,
    mixer::{self, Meter},
};

/// Longest that a test listens, in seconds (5.8 MB).
pub const MAX_SECONDS: u32 = 30;
/// So much longer than its sound a stage may last, since devices take their time to open. Then it ends without sound, whether
/// somebody still waits for it or not.
const LATE: Duration = Duration::from_secs(10);

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
    /// When it began, and how long each stage may last.
    begun: Instant,
    patience: Duration,
    /// What of the clip was played.
    played: usize,
    meter: Meter,
}

impl Trial {
    /// Listens for so many seconds, [`MAX_SECONDS`] at most.
    pub fn new(seconds: u32, now: Instant) -> Self {
        let seconds = seconds.clamp(1, MAX_SECONDS);
        let (wanted, patience) = ((seconds * SAMPLE_RATE_HZ) as usize, Duration::from_secs(seconds.into()) + LATE);
        Self { clip: Vec::with_capacity(wanted), wanted, begun: now, patience, played: 0, meter: Meter::default() }
    }

    /// Time passes also where no sound does: no device is kept open for sound that never comes.
    pub fn tick(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.begun);
        if passed >= self.patience {
            self.wanted = self.clip.len();
        }
        if passed >= 2 * self.patience {
            self.played = self.clip.len();
        }
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
        mixer::add(sum, &block);
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
        let mut trial = Trial::new(1, Instant::now());
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
        assert_eq!(Trial::new(u32::MAX, Instant::now()).status().left_ms, MAX_SECONDS * 1000);
    }

    #[test]
    fn it_ends_by_the_clock_where_no_sound_comes_or_goes() {
        let begun = Instant::now();
        let late = |seconds: u64| begun + Duration::from_secs(seconds) + LATE;
        let mut trial = Trial::new(5, begun);
        trial.tick(late(4));
        assert!(trial.listens());
        trial.tick(late(5));
        assert!(!trial.listens() && trial.is_over(), "there is nothing to play");
        let mut trial = Trial::new(5, begun);
        trial.hear(&[0.1; BLOCK_SAMPLES]);
        trial.tick(late(5));
        assert!(!trial.listens() && !trial.is_over(), "what there is is played");
        trial.tick(late(10) + LATE);
        assert!(trial.is_over());
    }
}
