//! Adds up what is heard and keeps it within the scale; measures levels.

use super::Block;

/// Peaks above this are turned down.
const CEILING: f32 = 0.95;
/// How much of the way back to full gain is gone in one block of 10 ms.
const RELEASE: f32 = 0.05;
/// What the level of a silent leg reads, dBFS.
pub const FLOOR_DB: f64 = -120.0;
/// Weight of one block of 10 ms in the level: about a second of memory.
const LEVEL_WEIGHT: f64 = 0.01;

/// Turns the sum down as soon as it peaks and slowly up again; what still sticks out is clipped.
pub struct Limiter {
    gain: f32,
}

impl Default for Limiter {
    fn default() -> Self {
        Self { gain: 1.0 }
    }
}

impl Limiter {
    /// Limits the block in place to -1..=1.
    pub fn apply(&mut self, block: &mut Block) {
        let peak = block.iter().fold(0.0_f32, |peak, sample| peak.max(sample.abs()));
        let wanted = if peak > CEILING { CEILING / peak } else { 1.0 };
        let before = self.gain;
        self.gain = if wanted < before { wanted } else { before + (wanted - before) * RELEASE };
        if before == 1.0 && self.gain == 1.0 {
            return;
        }
        let step = (self.gain - before) / block.len() as f32;
        let mut gain = before;
        for sample in block.iter_mut() {
            gain += step;
            *sample = (*sample * gain).clamp(-1.0, 1.0);
        }
        if self.gain > 0.999 {
            self.gain = 1.0;
        }
    }
}

/// A gain that is never changed with a step: every change takes the 10 ms of one block.
#[derive(Default)]
pub struct Ramp {
    gain: f32,
}

impl Ramp {
    /// Scales the block; its end has the gain `to`.
    pub fn apply(&mut self, block: &mut Block, to: f32) {
        let from = std::mem::replace(&mut self.gain, to);
        if from == 1.0 && to == 1.0 {
            return;
        }
        let step = (to - from) / block.len() as f32;
        for (at, sample) in block.iter_mut().enumerate() {
            *sample *= from + step * (at + 1) as f32;
        }
    }

    /// What was heard last ended in silence.
    pub fn is_silent(&self) -> bool {
        self.gain == 0.0
    }

    /// Sound has ended by itself; what comes next begins softly.
    pub fn rest(&mut self) {
        self.gain = 0.0;
    }
}

/// Adds `sound` to `sum`.
pub fn add(sum: &mut Block, sound: &Block) {
    for (sum, sample) in sum.iter_mut().zip(sound) {
        *sum += sample;
    }
}

/// The level of about the last second.
#[derive(Default)]
pub struct Meter {
    mean_square: f64,
}

impl Meter {
    /// Takes a block in; `None` is silence.
    pub fn add(&mut self, block: Option<&Block>) {
        let energy = block.map_or(0.0, |block| block.iter().map(|sample| sample * sample).sum::<f32>());
        let mean_square = f64::from(energy) / super::BLOCK_SAMPLES as f64;
        self.mean_square += (mean_square - self.mean_square) * LEVEL_WEIGHT;
    }

    /// RMS in dBFS, [`FLOOR_DB`] at least.
    pub fn level_db(&self) -> f64 {
        (10.0 * self.mean_square.max(1e-30).log10()).max(FLOOR_DB)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audio::BLOCK_SAMPLES;

    fn tone(amplitude: f32) -> Block {
        std::array::from_fn(|at| amplitude * (at as f32 * 0.1).sin())
    }

    #[test]
    fn a_sum_of_loud_voices_stays_within_the_scale_and_recovers() {
        let mut limiter = Limiter::default();
        for _ in 0..50 {
            let mut sum = [0.0; BLOCK_SAMPLES];
            (0..4).for_each(|_| add(&mut sum, &tone(0.9)));
            limiter.apply(&mut sum);
            assert!(sum.iter().all(|sample| sample.abs() <= 1.0));
        }
        let mut last = tone(0.5);
        for _ in 0..300 {
            last = tone(0.5);
            limiter.apply(&mut last);
        }
        assert_eq!(last, tone(0.5), "full gain again after three seconds");
    }

    #[test]
    fn a_single_voice_is_not_touched() {
        let (mut limiter, mut block) = (Limiter::default(), tone(0.9));
        limiter.apply(&mut block);
        assert_eq!(block, tone(0.9));
    }

    #[test]
    fn a_gain_changes_within_one_block_and_without_a_step() {
        let mut ramp = Ramp::default();
        let mut heard = Vec::new();
        for gain in [1.0, 1.0, 0.5, 2.0, 0.0, 0.0] {
            let mut block = [0.25; BLOCK_SAMPLES];
            ramp.apply(&mut block, gain);
            assert!((block[BLOCK_SAMPLES - 1] - 0.25 * gain).abs() < 1e-6);
            heard.extend(block);
        }
        let steepest = heard.windows(2).map(|pair| (pair[1] - pair[0]).abs()).fold(0.0, f32::max);
        assert!(steepest <= 0.25 * 2.0 / BLOCK_SAMPLES as f32 + 1e-6, "{steepest}");
        assert!(ramp.is_silent() && heard[5 * BLOCK_SAMPLES..].iter().all(|sample| *sample == 0.0));
    }

    #[test]
    fn the_level_is_that_of_the_last_second_and_has_a_floor() {
        let mut meter = Meter::default();
        assert!(meter.level_db() <= FLOOR_DB);
        (0..500).for_each(|_| meter.add(Some(&[0.1; BLOCK_SAMPLES])));
        assert!((meter.level_db() + 20.0).abs() < 0.1, "{}", meter.level_db());
        (0..500).for_each(|_| meter.add(None));
        assert!(meter.level_db() < -35.0);
    }
}
