//! The echo canceller: WebRTC's AEC3, fed with what is played and what is captured.
//!
//! It works on blocks of 4 ms, and sound comes in 10 ms: every second time 2 ms wait for the rest of their block. WebRTC
//! delays by a whole block there.

use sonora::three_band_filter_bank::ThreeBandFilterBank;
use sonora_aec3::{block::Block as Bands4Ms, block_processor::BlockProcessor, config::EchoCanceller3Config};

use super::{BAND_SAMPLES, BANDS, Bands, SILENT_BANDS};
use crate::audio::{Block, SAMPLE_RATE_HZ};

/// AEC3's own block, in one band.
const STEP_SAMPLES: usize = 64;
/// 160 samples and then 320 are to leave for two blocks and then five: so many must wait from the beginning.
const LEAD_SAMPLES: usize = 32;
/// Of a band no more than this ever waits: 63 before a block is whole, or the lead and what is left over, and 10 ms.
const QUEUE_SAMPLES: usize = 2 * BAND_SAMPLES;
/// A sample from here on means that the microphone is overdriven, at the scale of 16 bits.
const SATURATED: f32 = 32_700.0;

/// Removes what the speaker plays from what the microphone captures.
pub struct EchoCanceller {
    aec: BlockProcessor,
    played: ThreeBandFilterBank,
    to_play: Queue,
    captured: Queue,
    cleaned: Queue,
    step: Bands4Ms,
}

impl EchoCanceller {
    /// Knows nothing of the room.
    pub fn new() -> Self {
        let mut cleaned = Queue::new();
        cleaned.filled = LEAD_SAMPLES;
        Self {
            aec: BlockProcessor::new(&settings(), SAMPLE_RATE_HZ as usize, 1, 1),
            played: ThreeBandFilterBank::new(),
            to_play: Queue::new(),
            captured: Queue::new(),
            cleaned,
            step: Bands4Ms::new(BANDS, 1),
        }
    }

    /// What will be heard, at the scale of 16 bits.
    pub fn played(&mut self, block: &Block) {
        let mut bands = SILENT_BANDS;
        self.played.analysis(block, &mut bands);
        self.to_play.put(|band| &bands[band]);
        while self.to_play.take_step(&mut self.step) {
            self.aec.buffer_render(&self.step);
        }
    }

    /// Takes the echo out of 10 ms in bands, in place; `delay_ms` is between a sound's way out and its way in here.
    pub fn captured(&mut self, bands: &mut Bands, delay_ms: f64) {
        // AEC3 begins with this and then measures for itself.
        self.aec.set_audio_buffer_delay(delay_ms.round() as i32);
        let saturated = bands.iter().flatten().any(|sample| sample.abs() >= SATURATED);
        self.captured.put(|band| &bands[band]);
        while self.captured.take_step(&mut self.step) {
            self.aec.process_capture(false, saturated, None, &mut self.step);
            let step = &self.step;
            self.cleaned.put(|band| step.view(band, 0));
        }
        self.cleaned.take(|band, sound| bands[band].copy_from_slice(sound), BAND_SAMPLES);
    }
}

/// WebRTC's settings for one channel, but for what two voices at once need: with its own, the near one is torn to pieces
/// (PESQ-WB 1.2 with an echo 9 dB below it, 2.9 with these), at the price of a slower first second.
fn settings() -> EchoCanceller3Config {
    let mut settings = EchoCanceller3Config::default();
    // The coarse filter takes the near voice for a change of the room and follows it.
    settings.filter.enable_coarse_filter_output_usage = false;
    // What the fine one has learned it forgets slowly: a room whose delay changes is noticed as such, and begun anew.
    settings.filter.refined.leakage_converged = 1e-6;
    settings.filter.refined.leakage_diverged = 1e-3;
    // What a filter is measured to remove (up to 30 and 25 dB instead of 6 and 2) need not be suppressed as well.
    settings.erle.max_l = 1000.0;
    settings.erle.max_h = 300.0;
    // No reverberation is made up beyond what the filter knows.
    settings.ep_strength.default_len = 0.5;
    settings.ep_strength.nearend_len = 0.5;
    settings.ep_strength.use_conservative_tail_frequency_response = false;
    settings.echo_model.render_pre_window_size = 0;
    settings.echo_model.render_post_window_size = 0;
    // While the near voice is the louder one, it masks what is left of the far one.
    let suppressor = &mut settings.suppressor;
    for mask in [&mut suppressor.nearend_tuning.mask_lf, &mut suppressor.nearend_tuning.mask_hf] {
        mask.enr_transparent *= 30.0;
        mask.enr_suppress *= 60.0;
    }
    for mask in [&mut suppressor.normal_tuning.mask_lf, &mut suppressor.normal_tuning.mask_hf] {
        mask.enr_suppress *= 2.0;
    }
    settings
}

/// Sound in bands that waits for a whole block.
struct Queue {
    bands: [[f32; QUEUE_SAMPLES]; BANDS],
    filled: usize,
}

impl Queue {
    fn new() -> Self {
        Self { bands: [[0.0; QUEUE_SAMPLES]; BANDS], filled: 0 }
    }

    /// Adds as much of every band.
    fn put<'a>(&mut self, sound: impl Fn(usize) -> &'a [f32]) {
        let added = sound(0).len();
        for (number, band) in self.bands.iter_mut().enumerate() {
            band[self.filled..self.filled + added].copy_from_slice(sound(number));
        }
        self.filled += added;
    }

    /// Hands out the oldest samples of each band; they must be there.
    fn take(&mut self, mut to: impl FnMut(usize, &[f32]), samples: usize) {
        for (number, band) in self.bands.iter_mut().enumerate() {
            to(number, &band[..samples]);
            band.copy_within(samples..self.filled, 0);
        }
        self.filled -= samples;
    }

    /// The oldest 4 ms; false when there are not so many.
    fn take_step(&mut self, step: &mut Bands4Ms) -> bool {
        let whole = self.filled >= STEP_SAMPLES;
        if whole {
            self.take(|band, sound| step.view_mut(band, 0).copy_from_slice(sound), STEP_SAMPLES);
        }
        whole
    }
}
