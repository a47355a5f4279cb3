//! The ring tone: two soft chords, then a pause, again and again.

use std::f32::consts::TAU;

use super::{Block, SAMPLE_RATE_HZ};

/// One round: chord, chord, pause.
const ROUND_SAMPLES: usize = 3 * SAMPLE_RATE_HZ as usize;
/// Beginnings of the two chords in a round, and their pitches: a falling third above a C.
const CHORDS: [(usize, [f32; 2]); 2] = [(0, [523.25, 659.25]), (SAMPLE_RATE_HZ as usize * 45 / 100, [440.0, 554.37])];
/// A chord rings for so long.
const CHORD_SAMPLES: usize = SAMPLE_RATE_HZ as usize;
const ATTACK_SAMPLES: f32 = 0.02 * SAMPLE_RATE_HZ as f32;
const DECAY_SAMPLES: f32 = 0.3 * SAMPLE_RATE_HZ as f32;
const AMPLITUDE: f32 = 0.16;

/// Synthesises the ring tone block by block.
#[derive(Default)]
pub struct RingTone {
    at: usize,
    ringing: bool,
    gain: f32,
}

impl RingTone {
    /// Starts from the beginning, or fades out within the next block.
    pub fn ring(&mut self, ringing: bool) {
        if ringing && !self.ringing {
            self.at = 0;
        }
        self.ringing = ringing;
    }

    /// Something is still to be played.
    pub fn sounds(&self) -> bool {
        self.ringing || self.gain > 0.0
    }

    /// Adds the next 10 ms to `sum`.
    pub fn add_to(&mut self, sum: &mut Block) {
        if !self.sounds() {
            return;
        }
        let step = (if self.ringing { 1.0 } else { 0.0 } - self.gain) / sum.len() as f32;
        for sample in sum.iter_mut() {
            self.gain += step;
            *sample += self.gain * tone_at(self.at);
            self.at = (self.at + 1) % ROUND_SAMPLES;
        }
        self.gain = if self.ringing { 1.0 } else { 0.0 };
    }
}

fn tone_at(at: usize) -> f32 {
    let mut sum = 0.0;
    for (begin, pitches) in CHORDS {
        let Some(within) = at.checked_sub(begin).filter(|within| *within < CHORD_SAMPLES) else { continue };
        let within = within as f32;
        let tail = ((CHORD_SAMPLES as f32 - within) / ATTACK_SAMPLES).min(1.0);
        let envelope = (within / ATTACK_SAMPLES).min(1.0) * (-within / DECAY_SAMPLES).exp() * tail;
        let seconds = within / SAMPLE_RATE_HZ as f32;
        sum += envelope * pitches.iter().map(|hz| (TAU * hz * seconds).sin()).sum::<f32>();
    }
    AMPLITUDE * sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audio::BLOCK_SAMPLES;

    fn render(tone: &mut RingTone, blocks: usize) -> Vec<f32> {
        let mut all = Vec::new();
        for _ in 0..blocks {
            let mut block = [0.0; BLOCK_SAMPLES];
            tone.add_to(&mut block);
            all.extend(block);
        }
        all
    }

    #[test]
    fn it_rings_in_rounds_with_a_pause_and_without_clicks() {
        let mut tone = RingTone::default();
        assert!(!tone.sounds());
        tone.ring(true);
        let mut all = render(&mut tone, 600);
        tone.ring(false);
        all.extend(render(&mut tone, 1));
        assert!(!tone.sounds(), "one block fades it out");
        let peak = all.iter().fold(0.0_f32, |peak, sample| peak.max(sample.abs()));
        assert!((0.1..0.6).contains(&peak), "{peak}");
        assert!(all.windows(2).all(|pair| (pair[1] - pair[0]).abs() < 0.06));
        assert_eq!(all[2 * 48_000..3 * 48_000], [0.0; 48_000], "the pause");
        assert!(all[3 * 48_000..4 * 48_000].iter().any(|sample| sample.abs() > 0.1), "the second round");
    }
}
