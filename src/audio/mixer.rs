//! Adds up what is heard and keeps it within the scale; measures levels.

use super::{BLOCK_SAMPLES, Block};

/// Peaks above this are turned down.
const CEILING: f32 = 0.95;
/// The limiter looks so far ahead, and delays by it: 0.5 ms.
const AHEAD_SAMPLES: usize = 24;
/// How much of the way back to full gain is gone in one piece: a time constant of 200 ms, so slow that neither words nor the
/// waves of a deep voice are heard to pump.
const RELEASE: f32 = 0.0025;
/// A mute takes so long to be without a step: 2.5 ms.
const GATE_SAMPLES: usize = 120;
/// What the level of a silent leg reads, dBFS.
pub const FLOOR_DB: f64 = -120.0;
/// Weight of one block of 10 ms in the level: about a second of memory.
const LEVEL_WEIGHT: f64 = 0.01;

/// Keeps the sum within the scale without ever cutting a wave: the gain has come down before a peak leaves, and rises slowly
/// after it.
pub struct Limiter {
    /// What leaves next.
    held: [f32; AHEAD_SAMPLES],
    /// The gain that it may have at most.
    allowed: f32,
    /// The gain of the last sample that left.
    gain: f32,
}

impl Default for Limiter {
    fn default() -> Self {
        Self { held: [0.0; AHEAD_SAMPLES], allowed: 1.0, gain: 1.0 }
    }
}

impl Limiter {
    /// Limits the block in place to [`CEILING`], half a millisecond late.
    pub fn apply(&mut self, block: &mut Block) {
        let (pieces, _) = block.as_chunks_mut::<AHEAD_SAMPLES>();
        for piece in pieces {
            let peak = piece.iter().fold(0.0_f32, |peak, sample| peak.max(sample.abs()));
            let allowed = if peak > CEILING { CEILING / peak } else { 1.0 };
            let released = self.gain + (1.0 - self.gain) * RELEASE;
            // Where two pieces meet, the gain suits both: between, it is a straight line.
            let to = released.min(self.allowed).min(allowed);
            let step = (to - self.gain) / AHEAD_SAMPLES as f32;
            for (at, (sample, held)) in piece.iter_mut().zip(&mut self.held).enumerate() {
                let leaves = std::mem::replace(held, *sample);
                *sample = leaves * (self.gain + step * (at + 1) as f32);
            }
            self.allowed = allowed;
            self.gain = if to > 0.999 && allowed == 1.0 { 1.0 } else { to };
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

/// What of the own microphone others may hear: nothing of a block that was captured while muted, and all of what was said before a
/// mute, although both may meet in one frame.
#[derive(Default)]
pub struct Gate {
    /// The last sample that passed; `None` while nothing does.
    passed: Option<f32>,
}

impl Gate {
    /// The block as it may be sent, without a step: it begins softly, and at a mute nothing but the last sample before it fades away.
    pub fn apply(&mut self, block: &mut Block, muted: bool) {
        let passes = (!muted).then_some(block[BLOCK_SAMPLES - 1]);
        let passed = std::mem::replace(&mut self.passed, passes);
        if muted {
            block.fill(0.0);
            block[..GATE_SAMPLES].fill(passed.unwrap_or(0.0));
        }
        if muted || passed.is_none() {
            for (at, sample) in block[..GATE_SAMPLES].iter_mut().enumerate() {
                let share = (at + 1) as f32 / GATE_SAMPLES as f32;
                *sample *= if muted { 1.0 - share } else { share };
            }
        }
    }

    /// Nothing passes from here on: what is to follow on the last block, so that it does not end with a step.
    pub fn close(&mut self) -> Block {
        let mut ending = [0.0; BLOCK_SAMPLES];
        self.apply(&mut ending, true);
        ending
    }
}

/// Adds `sound` to `sum`.
pub fn add(sum: &mut Block, sound: &Block) {
    for (sum, sample) in sum.iter_mut().zip(sound) {
        *sum += sample;
    }
}

/// The power of a sound; 0 of none.
pub fn mean_square(sound: &[f32]) -> f32 {
    sound.iter().map(|sample| sample * sample).sum::<f32>() / sound.len().max(1) as f32
}

/// The level of about the last second.
#[derive(Default)]
pub struct Meter {
    mean_square: f64,
}

impl Meter {
    /// Takes a block in; `None` is silence.
    pub fn add(&mut self, block: Option<&Block>) {
        let mean_square = f64::from(block.map_or(0.0, |block| mean_square(block)));
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

    /// What leaves a limiter, block after block.
    fn limited(limiter: &mut Limiter, sound: &[f32]) -> Vec<f32> {
        let mut heard = sound.to_vec();
        heard.as_chunks_mut::<BLOCK_SAMPLES>().0.iter_mut().for_each(|block| limiter.apply(block));
        heard
    }

    fn hum(hz: f32, seconds: f32, amplitude: impl Fn(f32) -> f32) -> Vec<f32> {
        let at = |at: usize| at as f32 / 48_000.0;
        (0..(seconds * 48_000.0) as usize)
            .map(|n| amplitude(at(n)) * (std::f32::consts::TAU * hz * at(n)).sin())
            .collect()
    }

    fn loudest(sound: &[f32]) -> f32 {
        sound.iter().fold(0.0, |peak, sample| peak.max(sample.abs()))
    }

    #[test]
    fn no_sum_of_voices_leaves_the_scale_wherever_its_peaks_fall() {
        // Bursts of all kinds of lengths, from silence to four times full scale at once.
        for period in [37, 480, 613, 4_801] {
            let sum: Vec<f32> = hum(311.0, 2.0, |_| 4.0)
                .iter()
                .enumerate()
                .map(|(n, s)| if n / period % 2 == 0 { 0.0 } else { *s })
                .collect();
            let heard = limited(&mut Limiter::default(), &sum);
            assert!(loudest(&heard) <= CEILING + 1e-5, "{period}: {}", loudest(&heard));
        }
    }

    #[test]
    fn a_wave_that_is_too_loud_keeps_its_shape() {
        // Deep enough that a gain which followed the wave would bend it.
        let loud = hum(100.0, 1.0, |_| 2.0);
        let heard = limited(&mut Limiter::default(), &loud);
        let (loud, heard) = (&loud[24_000..47_000], &heard[24_000 + AHEAD_SAMPLES..47_000 + AHEAD_SAMPLES]);
        let gain = loudest(heard) / loudest(loud);
        let wrong: f32 = loud.iter().zip(heard).map(|(l, h)| (gain * l - h).powi(2)).sum();
        let right: f32 = heard.iter().map(|h| h * h).sum();
        let distortion_db = 10.0 * (wrong / right).log10();
        println!("distortion {distortion_db:.1} dB");
        assert!(distortion_db < -40.0, "{distortion_db}");
    }

    #[test]
    fn after_a_peak_the_gain_comes_back_slowly_and_wholly() {
        let shout = hum(200.0, 3.0, |t| if t < 0.1 { 3.0 } else { 0.5 });
        let heard = limited(&mut Limiter::default(), &shout);
        let gain_at = |ms: usize| loudest(&heard[ms * 48..ms * 48 + 480]) / 0.5;
        let (soon, later) = (gain_at(130), gain_at(300));
        assert!(soon < 0.5 && (0.5..0.9).contains(&later), "{soon:.2} after 30 ms, {later:.2} after 200 ms");
        let (heard, said) = (&heard[100_000 + AHEAD_SAMPLES..143_000], &shout[100_000..143_000 - AHEAD_SAMPLES]);
        assert!(heard == said, "two seconds later it is not as it was said");
    }

    #[test]
    fn a_single_voice_passes_unchanged_half_a_millisecond_late() {
        let voice = hum(440.0, 0.5, |_| 0.9);
        let heard = limited(&mut Limiter::default(), &voice);
        assert_eq!(heard[AHEAD_SAMPLES..], voice[..voice.len() - AHEAD_SAMPLES]);
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
    fn a_mute_lets_nothing_through_that_was_captured_in_it_and_has_no_step() {
        let (mut gate, mut heard) = (Gate::default(), Vec::new());
        for muted in [false, false, true, true, false] {
            // What is said while muted is another voice, so to speak.
            let mut block = [if muted { -0.7 } else { 0.5 }; BLOCK_SAMPLES];
            gate.apply(&mut block, muted);
            heard.extend(block);
        }
        assert!(heard.iter().all(|sample| *sample >= 0.0), "nothing of the other voice");
        assert!(heard[BLOCK_SAMPLES..2 * BLOCK_SAMPLES].iter().all(|sample| *sample == 0.5), "all before the mute");
        assert!(heard[2 * BLOCK_SAMPLES + GATE_SAMPLES..4 * BLOCK_SAMPLES].iter().all(|sample| *sample == 0.0));
        let steepest = heard.windows(2).map(|pair| (pair[1] - pair[0]).abs()).fold(heard[0], f32::max);
        assert!(steepest <= 0.5 / GATE_SAMPLES as f32 + 1e-6, "{steepest}");
    }

    #[test]
    fn the_level_is_that_of_the_last_second_and_has_a_floor() {
        let mut meter = Meter::default();
        assert!(meter.level_db() <= FLOOR_DB);
        let mut level_after = |blocks, block: Option<&Block>| {
            (0..blocks).for_each(|_| meter.add(block));
            meter.level_db()
        };
        let (tone, a_second_later) = (level_after(500, Some(&[0.1; BLOCK_SAMPLES])), level_after(100, None));
        assert!((tone + 20.0).abs() < 0.1, "{tone} dBFS");
        // A memory of a second has 1/e of its power then.
        assert!((a_second_later + 24.3).abs() < 0.5, "{a_second_later} dBFS");
        assert!(level_after(100_000, None) <= FLOOR_DB);
    }
}
