//! Steady noise is turned down, where there is any: in a quiet room the voice stays as it was spoken, and is not delayed
//! either, since whatever suppresses noise takes a little of a voice, too (0.2 of PESQ-WB), and 6 ms.

use sonora_ns::{
    config::{NsConfig, SuppressionLevel},
    noise_suppressor::NoiseSuppressor,
};

use super::{BAND_SAMPLES, BANDS, Bands, SCALE};
use crate::audio::mixer::mean_square;

/// Noise is turned down by about 6 dB; 12 dB cost another 0.2 of PESQ-WB in clean speech.
const LEVEL: SuppressionLevel = SuppressionLevel::K6dB;
/// By how much the suppressor delays, in one band.
const DELAY_SAMPLES: usize = 96;
/// Below this level of the lowest band a room is quiet, dBFS…
const QUIET_DB: f32 = -64.0;
/// …and from here on it is noisy; between, it is a little of both.
const NOISY_DB: f32 = -54.0;
/// The room's level is the lowest of so many windows…
const WINDOWS: usize = 16;
/// …of 250 ms: nobody speaks for four seconds without a pause between two words.
const WINDOW_BLOCKS: usize = 25;
/// How much of the way to another mixture is gone in 10 ms: about half a second for it.
const CHANGE: f32 = 0.05;
/// It steps in when so much of the sound is to be suppressed, and out when hardly anything is.
const STEPS_IN: f32 = 0.05;
const STEPS_OUT: f32 = 0.005;
/// What it delays by.
const DELAY_MS: f64 = 6.0;

/// Turns steady noise down.
pub struct NoiseReduction {
    suppressor: NoiseSuppressor,
    /// The end of what came, in each band.
    waiting: [[f32; DELAY_SAMPLES]; BANDS],
    /// Lowest level of each window, dBFS; the one that is being filled stands first.
    lowest_db: [f32; WINDOWS],
    blocks: usize,
    /// How much of what is heard was suppressed, 0..=1.
    share: f32,
    /// It has stepped in.
    works: bool,
}

impl NoiseReduction {
    /// Believes the room to be quiet.
    pub fn new() -> Self {
        Self {
            suppressor: NoiseSuppressor::new_with_bands(NsConfig { target_level: LEVEL }, BANDS),
            waiting: [[0.0; DELAY_SAMPLES]; BANDS],
            lowest_db: [QUIET_DB; WINDOWS],
            blocks: 0,
            share: 0.0,
            works: false,
        }
    }

    /// Learns the noise, from the lowest band as it was captured.
    pub fn learn(&mut self, lowest: &[f32; BAND_SAMPLES]) {
        self.suppressor.analyze(lowest);
        let level_db = 10.0 * (mean_square(lowest) / SCALE.powi(2)).max(1e-12).log10();
        if self.blocks == 0 {
            self.lowest_db.rotate_right(1);
            self.lowest_db[0] = level_db;
        }
        self.blocks = (self.blocks + 1) % WINDOW_BLOCKS;
        self.lowest_db[0] = self.lowest_db[0].min(level_db);
        let room_db = self.lowest_db.iter().copied().fold(f32::MAX, f32::min);
        let wanted = ((room_db - QUIET_DB) / (NOISY_DB - QUIET_DB)).clamp(0.0, 1.0);
        self.share += (wanted - self.share) * CHANGE;
    }

    /// Turns it down, in place.
    pub fn apply(&mut self, bands: &mut Bands) {
        let worked = self.works;
        self.works = self.share > if worked { STEPS_OUT } else { STEPS_IN };
        let came = *bands;
        if self.works || worked {
            self.suppress(bands);
        }
        if self.works != worked {
            // From the sound that is late to the one that is not, or the reverse, within 10 ms.
            for (late, came) in bands.iter_mut().zip(&came) {
                for (at, (late, came)) in late.iter_mut().zip(came).enumerate() {
                    let passed = (at + 1) as f32 / BAND_SAMPLES as f32;
                    let late_share = if self.works { passed } else { 1.0 - passed };
                    *late = came + (*late - came) * late_share;
                }
            }
        }
        for (waiting, came) in self.waiting.iter_mut().zip(&came) {
            waiting.copy_from_slice(&came[BAND_SAMPLES - DELAY_SAMPLES..]);
        }
    }

    /// What it delays by now.
    pub fn delay_ms(&self) -> f64 {
        if self.works { DELAY_MS } else { 0.0 }
    }

    /// Late by [`DELAY_SAMPLES`], and so much of it suppressed as the room asks.
    fn suppress(&mut self, bands: &mut Bands) {
        let mut suppressed = bands[0];
        self.suppressor.process(&mut suppressed);
        for (band, waiting) in bands.iter_mut().zip(&self.waiting) {
            band.copy_within(..BAND_SAMPLES - DELAY_SAMPLES, DELAY_SAMPLES);
            band[..DELAY_SAMPLES].copy_from_slice(waiting);
        }
        let [lowest, upper @ ..] = bands;
        for (sample, suppressed) in lowest.iter_mut().zip(suppressed) {
            *sample += (suppressed - *sample) * self.share;
        }
        let gain = 1.0 + (self.suppressor.upper_band_gain() - 1.0) * self.share;
        upper.iter_mut().flatten().for_each(|sample| *sample *= gain);
    }
}
