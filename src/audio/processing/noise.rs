//! Steady noise is turned down, where there is any: in a quiet room the voice stays as it was spoken, since whatever
//! suppresses noise takes a little of a voice, too (0.2 of PESQ-WB).

use sonora_ns::{
    config::{NsConfig, SuppressionLevel},
    noise_suppressor::NoiseSuppressor,
};

use super::{BAND_SAMPLES, BANDS, Bands, SCALE};

/// Noise is turned down by about 6 dB; 12 dB cost another 0.2 of PESQ-WB in clean speech.
const LEVEL: SuppressionLevel = SuppressionLevel::K6dB;
/// By how much the suppressor delays, in one band.
const DELAY_SAMPLES: usize = 96;
/// Below this level of the lowest band a room is quiet, dBFS…
const QUIET_DB: f32 = -64.0;
/// …and from here on it is noisy; between, it is a little of both.
const NOISY_DB: f32 = -54.0;
/// The room's level is the lowest of so many windows…
const WINDOWS: usize = 8;
/// …of 250 ms, so that words do not count.
const WINDOW_BLOCKS: usize = 25;
/// How much of the way to another mixture is gone in 10 ms: about half a second for it.
const CHANGE: f32 = 0.05;

/// Turns steady noise down.
pub struct NoiseReduction {
    suppressor: NoiseSuppressor,
    /// The lowest band as it came, while it waits.
    waiting: [f32; DELAY_SAMPLES],
    /// Lowest level of each window, dBFS; the one that is being filled stands first.
    lowest_db: [f32; WINDOWS],
    blocks: usize,
    /// How much of what is heard was suppressed, 0..=1.
    share: f32,
}

impl NoiseReduction {
    /// Believes the room to be quiet.
    pub fn new() -> Self {
        Self {
            suppressor: NoiseSuppressor::new_with_bands(NsConfig { target_level: LEVEL }, BANDS),
            waiting: [0.0; DELAY_SAMPLES],
            lowest_db: [QUIET_DB; WINDOWS],
            blocks: 0,
            share: 0.0,
        }
    }

    /// Learns the noise, from the lowest band as it was captured.
    pub fn learn(&mut self, lowest: &[f32; BAND_SAMPLES]) {
        self.suppressor.analyze(lowest);
        let energy = lowest.iter().map(|sample| (sample / SCALE).powi(2)).sum::<f32>() / BAND_SAMPLES as f32;
        let level_db = 10.0 * energy.max(1e-12).log10();
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
        let [lowest, upper @ ..] = bands;
        let came = *lowest;
        self.suppressor.process(lowest);
        let late = self.waiting.iter().chain(&came);
        for (sample, came) in lowest.iter_mut().zip(late) {
            *sample = came + (*sample - came) * self.share;
        }
        self.waiting.copy_from_slice(&came[BAND_SAMPLES - DELAY_SAMPLES..]);
        let gain = 1.0 + (self.suppressor.upper_band_gain() - 1.0) * self.share;
        for (number, band) in upper.iter_mut().enumerate() {
            self.suppressor.process_upper_band(band, number, gain);
        }
    }
}
