//! One remote participant's sound: from the packets that its leg's task pushes to blocks for the mixer.
//!
//! A leg without packets costs nothing: it has no decoder before its first packet and decodes nothing while idle. One
//! that is not to be heard is counted, faded out and then thrown away packet by packet.

use std::time::Instant;

use super::{
    BLOCK_SAMPLES, Block, FRAME_SAMPLES, Gain, LegAudioStats, ReceivedPacket, SAMPLE_RATE_HZ,
    codec::Decoder,
    jitter::{Advice, JitterBuffer, Pull},
    mixer::{Meter, Ramp},
    stretch,
};

/// Made-up sound is played at full level for so long (it fades by itself, too)…
const CONCEAL_FULL_SAMPLES: usize = SAMPLE_RATE_HZ as usize / 10;
/// …and is silent after as much again.
const CONCEAL_FADE_SAMPLES: f32 = CONCEAL_FULL_SAMPLES as f32;

/// Receives, orders, decodes and measures one leg.
pub struct Remote {
    slots: rtrb::Consumer<ReceivedPacket>,
    jitter: JitterBuffer,
    decoder: Option<Decoder>,
    /// The decoder was used since it was last reset.
    decoded: bool,
    /// Decoded, not yet mixed; `read` samples of it are used up.
    sound: Vec<f32>,
    read: usize,
    /// Samples made up in a row.
    concealed: usize,
    gain: Gain,
    /// It is of the active call.
    in_plan: bool,
    ramp: Ramp,
    meter: Meter,
    /// The latest block before its gain.
    raw: Block,
}

impl Remote {
    /// A leg whose packets come through `slots`; `epoch` is not after the first arrival.
    pub fn new(slots: rtrb::Consumer<ReceivedPacket>, epoch: Instant) -> Self {
        Self {
            slots,
            jitter: JitterBuffer::new(epoch),
            decoder: None,
            decoded: false,
            sound: Vec::with_capacity(8 * FRAME_SAMPLES),
            read: 0,
            concealed: 0,
            gain: Gain::default(),
            in_plan: false,
            ramp: Ramp::default(),
            meter: Meter::default(),
            raw: [0.0; BLOCK_SAMPLES],
        }
    }

    /// How it is heard from now on.
    pub fn set_gain(&mut self, gain: Gain) {
        self.gain = gain;
    }

    /// Takes over what the leg's task pushed; `in_plan` says whether the leg is to be heard now.
    pub fn receive(&mut self, in_plan: bool) {
        self.in_plan = in_plan;
        while let Ok(packet) = self.slots.pop() {
            self.jitter.push(packet);
        }
        if !self.is_wanted() && self.ramp.is_silent() {
            self.discard();
        }
    }

    /// Nothing is mixed any more: what was begun is not ended later.
    pub fn cut(&mut self) {
        self.ramp.rest();
        self.discard();
    }

    fn is_wanted(&self) -> bool {
        self.in_plan && !self.gain.blocked
    }

    fn discard(&mut self) {
        self.jitter.discard();
        self.sound.clear();
        self.read = 0;
        self.end();
    }

    /// What is decoded next does not follow on what was.
    fn end(&mut self) {
        self.concealed = 0;
        if std::mem::take(&mut self.decoded)
            && let Some(decoder) = &mut self.decoder
        {
            decoder.reset();
        }
    }

    /// Its task is gone: nothing will come any more.
    pub fn is_abandoned(&self) -> bool {
        self.slots.is_abandoned()
    }

    /// The next 10 ms, or `None` when the leg is silent. `started` is set when its first packet was decoded.
    pub fn block(&mut self, now: Instant, started: &mut bool) -> Option<Block> {
        let is_wanted = self.is_wanted();
        if is_wanted || !self.ramp.is_silent() {
            while self.sound.len() - self.read < BLOCK_SAMPLES && self.decode(now, started) {}
        }
        let rest = &self.sound[self.read..];
        if rest.is_empty() {
            self.ramp.rest();
            self.meter.add(None);
            return None;
        }
        let mut block = [0.0; BLOCK_SAMPLES];
        let samples = rest.len().min(BLOCK_SAMPLES);
        block[..samples].copy_from_slice(&rest[..samples]);
        self.read += samples;
        self.meter.add(Some(&block));
        self.raw = block;
        self.ramp.apply(&mut block, if is_wanted { f32::from(self.gain.percent) / 100.0 } else { 0.0 });
        Some(block)
    }

    /// What [`Self::block`] gave last, as loud as it came.
    pub fn raw(&self) -> &Block {
        &self.raw
    }

    /// Figures of this leg; `output_ms` is what lies between the mixer and the ear.
    pub fn stats(&self, output_ms: f64) -> LegAudioStats {
        let jitter = self.jitter.stats();
        let decoded_ms = (self.sound.len() - self.read) as f64 * 1000.0 / f64::from(SAMPLE_RATE_HZ);
        LegAudioStats {
            jitter_ms: jitter.jitter_ms,
            loss_pct: jitter.loss_pct,
            concealed_pct: jitter.concealed_pct,
            jitter_buffer_ms: jitter.wait_ms,
            playout_delay_ms: jitter.wait_ms + decoded_ms + output_ms,
            level_db: self.meter.level_db(),
        }
    }

    /// Decodes one more piece; false when there is nothing to play.
    fn decode(&mut self, now: Instant, started: &mut bool) -> bool {
        let pull = self.jitter.pull(now);
        if pull == Pull::Idle || (pull == Pull::Pause && !self.decoded) {
            return false;
        }
        if self.decoder.is_none() {
            match Decoder::new() {
                Ok(decoder) => {
                    self.decoder = Some(decoder);
                    *started = true;
                }
                Err(error) => {
                    tracing::error!(%error, "no memory for an Opus decoder");
                    return false;
                }
            }
        }
        let Some(decoder) = &mut self.decoder else { return false };
        self.sound.drain(..self.read);
        self.read = 0;
        self.decoded = true;
        match pull {
            Pull::Idle => return false,
            Pull::Pause => {
                let ending = decoder.conceal(FRAME_SAMPLES);
                fade(ending, self.concealed);
                fade_out(ending);
                self.sound.extend_from_slice(ending);
                self.end();
            }
            Pull::Packet(payload, advice) => {
                self.concealed = 0;
                let mut frame = decoder.decode(&payload, FRAME_SAMPLES).to_vec();
                let changed = match advice {
                    Advice::Keep => 0,
                    Advice::Shrink => stretch::shrink(&mut frame),
                    Advice::Grow => stretch::grow(&mut frame),
                };
                if changed > 0 {
                    self.jitter.stretched();
                }
                self.sound.append(&mut frame);
            }
            Pull::Recover(following, samples) => self.sound.extend_from_slice(decoder.recover(&following, samples)),
            Pull::Conceal(samples) => {
                let made_up = decoder.conceal(samples);
                fade(made_up, self.concealed);
                self.concealed += made_up.len();
                self.sound.extend_from_slice(made_up);
            }
        }
        true
    }
}

/// From as loud as it is to silence.
fn fade_out(ending: &mut [f32]) {
    let length = ending.len() as f32;
    ending.iter_mut().enumerate().for_each(|(at, sample)| *sample *= 1.0 - (at + 1) as f32 / length);
}

/// Fades what is made up `so_far` samples after the last real sound.
fn fade(made_up: &mut [f32], so_far: usize) {
    for (at, sample) in made_up.iter_mut().enumerate() {
        let into = (so_far + at).saturating_sub(CONCEAL_FULL_SAMPLES);
        *sample *= (1.0 - into as f32 / CONCEAL_FADE_SAMPLES).max(0.0);
    }
}
