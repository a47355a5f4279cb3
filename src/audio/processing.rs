//! What is done to the microphone's sound before it is encoded: rumble, echo, noise and level.
//!
//! ```text
//!  captured ─ high-pass ─┬─ three bands ─ echo canceller ─ noise reduction ─── one band ─┬─ automatic gain ─> encoder
//!                        └───────────── where neither of the two is wanted ─────────────┘
//!  played ──────────────── three bands ────────┘
//! ```
//!
//! The parts are those of WebRTC's audio processing (the `sonora` crates). They are put together here and not by
//! `sonora` itself, since that forces a high-pass of the sixth order on whoever wants one of the others (clean speech
//! falls from PESQ-WB 4.64 to 4.1 by its phase alone), and cannot be told how much its echo canceller may believe.
//! It runs on the audio thread, never in a callback: the echo canceller and the gain allocate.

mod echo;
mod noise;
#[cfg(test)]
mod tests;

use super::{BLOCK_SAMPLES, Block, SAMPLE_RATE_HZ};
use crate::config;
use echo::EchoCanceller;
use noise::NoiseReduction;
use sonora::{AudioProcessing, StreamConfig, config::AdaptiveDigital, three_band_filter_bank::ThreeBandFilterBank};

/// WebRTC's parts compute with samples of this scale, in floating point.
const SCALE: f32 = 32_768.0;
/// Bands of 16 kHz each, and what 10 ms are in one of them.
const BANDS: usize = 3;
const BAND_SAMPLES: usize = BLOCK_SAMPLES / BANDS;
type Bands = [[f32; BAND_SAMPLES]; BANDS];
const SILENT_BANDS: Bands = [[0.0; BAND_SAMPLES]; BANDS];

/// Below it there are steps, wind and mains hum, and hardly a voice.
const HIGH_PASS_HZ: f64 = 70.0;
/// A microphone is turned up so far at most, and not at the beginning: a loud one would be heard distorted.
const MAX_GAIN_DB: f32 = 30.0;
const FIRST_GAIN_DB: f32 = 0.0;
/// What each part adds between mouth and ear: filters, blocks and overlapping windows.
const BANDS_DELAY_MS: f64 = 1.0;
const ECHO_DELAY_MS: f64 = 6.0;

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stages {
    high_pass: bool,
    echo_cancellation: bool,
    noise_suppression: bool,
    auto_gain: bool,
    /// Also to the sound of files.
    files: bool,
}

impl Stages {
    /// What the configuration asks for.
    pub fn of(config: &config::Audio) -> Self {
        Self {
            high_pass: config.high_pass,
            echo_cancellation: config.echo_cancellation,
            noise_suppression: config.noise_suppression,
            auto_gain: config.auto_gain,
            files: config.process_files,
        }
    }

    /// What is done to the sound of that backend: files stay as they are unless it was asked for, and silence always.
    pub fn on(self, backend: &str) -> Self {
        match backend {
            "file" if self.files => self,
            "file" | "null" => Self {
                high_pass: false,
                echo_cancellation: false,
                noise_suppression: false,
                auto_gain: false,
                files: self.files,
            },
            _ => self,
        }
    }

    /// The keys of the configuration that are in force, for `status`.
    pub fn names(self) -> Vec<String> {
        let all = [
            (self.echo_cancellation, "echo_cancellation"),
            (self.noise_suppression, "noise_suppression"),
            (self.auto_gain, "auto_gain"),
            (self.high_pass, "high_pass"),
        ];
        all.into_iter().filter(|(on, _)| *on).map(|(_, name)| name.to_owned()).collect()
    }
}

/// The microphone's sound, made better; remembers the room.
pub struct Processing {
    high_pass: Option<HighPass>,
    bands: ThreeBandFilterBank,
    echo: Option<EchoCanceller>,
    noise: Option<NoiseReduction>,
    gain: Option<AudioProcessing>,
}

impl Processing {
    /// Knows nothing of the room; `None` where nothing is to be done.
    pub fn new(stages: Stages) -> Option<Self> {
        let Stages { high_pass, echo_cancellation, noise_suppression, auto_gain, files: _ } = stages;
        (high_pass || echo_cancellation || noise_suppression || auto_gain).then(|| Self {
            high_pass: high_pass.then(|| HighPass::new(HIGH_PASS_HZ)),
            bands: ThreeBandFilterBank::new(),
            echo: echo_cancellation.then(EchoCanceller::new),
            noise: noise_suppression.then(NoiseReduction::new),
            gain: auto_gain.then(automatic_gain),
        })
    }

    /// The way from speaker to microphone is another one: the echo is learned anew, from the delay that is told next.
    pub fn forget_echo(&mut self) {
        if self.echo.is_some() {
            self.echo = Some(EchoCanceller::new());
        }
    }

    /// What the speaker is given, in the order in which it will be heard.
    pub fn played(&mut self, block: &Block) {
        if let Some(echo) = &mut self.echo {
            echo.played(&block.map(|sample| sample * SCALE));
        }
    }

    /// Makes what was captured better, in place. `delay_ms` is from [`Self::played`] to the ear and from the microphone
    /// to here: where the echo canceller begins to look.
    pub fn captured(&mut self, block: &mut Block, delay_ms: f64) {
        if let Some(high_pass) = &mut self.high_pass {
            high_pass.apply(block);
        }
        if self.echo.is_some() || self.noise.is_some() {
            self.clean(block, delay_ms);
        }
        if let Some(gain) = &mut self.gain {
            let before = *block;
            if let Err(error) = gain.process_capture_f32(&[&before], &mut [&mut block[..]]) {
                tracing::debug!(?error, "automatic gain");
            }
        }
    }

    fn clean(&mut self, block: &mut Block, delay_ms: f64) {
        block.iter_mut().for_each(|sample| *sample *= SCALE);
        let mut bands = SILENT_BANDS;
        self.bands.analysis(block, &mut bands);
        // Before the echo canceller, whose comfort noise is not the room's.
        if let Some(noise) = &mut self.noise {
            noise.learn(&bands[0]);
        }
        if let Some(echo) = &mut self.echo {
            echo.captured(&mut bands, delay_ms);
        }
        if let Some(noise) = &mut self.noise {
            noise.apply(&mut bands);
        }
        self.bands.synthesis(&bands, block);
        block.iter_mut().for_each(|sample| *sample /= SCALE);
    }

    /// What it adds between mouth and ear.
    pub fn delay_ms(&self) -> f64 {
        let bands = self.echo.is_some() || self.noise.is_some();
        let of = |on: bool, delay_ms: f64| if on { delay_ms } else { 0.0 };
        let noise_ms = self.noise.as_ref().map_or(0.0, NoiseReduction::delay_ms);
        of(bands, BANDS_DELAY_MS) + of(self.echo.is_some(), ECHO_DELAY_MS) + noise_ms
    }
}

/// WebRTC's second automatic gain control and its limiter, and nothing else of `sonora`'s own pipeline: it neither
/// delays nor filters.
fn automatic_gain() -> AudioProcessing {
    let adaptive =
        AdaptiveDigital { initial_gain_db: FIRST_GAIN_DB, max_gain_db: MAX_GAIN_DB, ..AdaptiveDigital::default() };
    let gain = sonora::config::GainController2 { adaptive_digital: Some(adaptive), ..Default::default() };
    let mono = StreamConfig::new(SAMPLE_RATE_HZ, 1);
    let config = sonora::Config { gain_controller2: Some(gain), ..Default::default() };
    AudioProcessing::builder().config(config).capture_config(mono).render_config(mono).build()
}

/// A Butterworth filter of the second order, as a biquad in the transposed direct form II.
struct HighPass {
    forward: [f64; 3],
    back: [f64; 2],
    memory: [f64; 2],
}

impl HighPass {
    /// Half the power passes at `corner_hz`.
    fn new(corner_hz: f64) -> Self {
        let angle = std::f64::consts::TAU * corner_hz / f64::from(SAMPLE_RATE_HZ);
        let (sine, cosine) = angle.sin_cos();
        // Q = 1/√2.
        let alpha = sine / std::f64::consts::SQRT_2;
        let scale = 1.0 / (1.0 + alpha);
        let outer = (1.0 + cosine) / 2.0 * scale;
        Self {
            forward: [outer, -2.0 * outer, outer],
            back: [-2.0 * cosine * scale, (1.0 - alpha) * scale],
            memory: [0.0; 2],
        }
    }

    fn apply(&mut self, block: &mut Block) {
        for sample in block {
            let input = f64::from(*sample);
            let output = self.forward[0] * input + self.memory[0];
            self.memory[0] = self.forward[1] * input - self.back[0] * output + self.memory[1];
            self.memory[1] = self.forward[2] * input - self.back[1] * output;
            *sample = output as f32;
        }
        // What fades for ever becomes numbers that a processor is slow with.
        self.memory.iter_mut().filter(|memory| memory.abs() < 1e-20).for_each(|memory| *memory = 0.0);
    }
}
