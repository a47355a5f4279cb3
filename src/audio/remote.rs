//! One remote participant's sound: from the packets that its leg's task pushes to blocks for the mixer.
//!
//! A leg without packets costs nothing: it has no decoder before its first packet and decodes nothing while idle. One
//! that is not to be heard is counted, faded out and then thrown away packet by packet.

use std::time::Instant;

use super::{
    BLOCK_SAMPLES, Block, DelayShares, FRAME_SAMPLES, Gain, LegAudioStats, ReceivedPacket, SAMPLE_RATE_HZ,
    codec::{Decoder, MAX_PACKET_SAMPLES},
    comfort::ComfortNoise,
    jitter::{Advice, JitterBuffer, Pull},
    mixer::{Meter, Ramp},
    stretch::{self, Place},
};

/// Made-up sound is played at full level for so long (it fades by itself, too)…
const CONCEAL_FULL_SAMPLES: usize = SAMPLE_RATE_HZ as usize / 10;
/// …and is silent after as much again.
const CONCEAL_FADE_SAMPLES: f32 = CONCEAL_FULL_SAMPLES as f32;
/// The room is heard for so many blocks (1.5 s) after the last packet; a sender that pauses refreshes it every 400 ms…
const ROOM_BLOCKS: u32 = 150;
/// …and is silent after so many more.
const ROOM_FADE_BLOCKS: u32 = 50;
/// A sender that was silent for so many blocks (1 s) has begun anew, and the decoder does so, too.
const ANEW_BLOCKS: u32 = 100;
/// Shrinking looks at this much sound (30 ms): two periods of the lowest voices.
const SHRINK_SAMPLES: usize = 2 * stretch::LONGEST;
/// Played sound that is kept for stretching; more is there between two tidyings.
const PLAYED_SAMPLES: usize = stretch::LONGEST;
/// What may be kept, waiting and new at once, so that nothing is ever allocated: and a stretch.
const SOUND_SAMPLES: usize = 2 * MAX_PACKET_SAMPLES + PLAYED_SAMPLES + SHRINK_SAMPLES + BLOCK_SAMPLES;

/// Receives, orders, decodes and measures one leg.
pub struct Remote {
    slots: rtrb::Consumer<ReceivedPacket>,
    jitter: JitterBuffer,
    decoder: Option<Decoder>,
    /// The decoder was used since it was last reset.
    decoded: bool,
    /// What was decoded last has not been brought to an end.
    sounds: bool,
    /// Decoded; `read` samples of it were played, the last of which are kept for stretching.
    sound: Vec<f32>,
    read: usize,
    /// More is to be decoded than the next block needs, so that there is room to shrink it.
    looks_ahead: bool,
    /// Samples made up in a row.
    concealed: usize,
    comfort: ComfortNoise,
    /// Blocks since the last one of sound.
    absent: u32,
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
            sounds: false,
            sound: Vec::with_capacity(SOUND_SAMPLES),
            read: 0,
            looks_ahead: false,
            concealed: 0,
            comfort: ComfortNoise::default(),
            absent: 0,
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
        // Nobody hears how the room is cut off.
        self.absent = u32::MAX;
        self.comfort.rest();
    }

    /// What is decoded next does not follow on what was.
    fn end(&mut self) {
        self.concealed = 0;
        self.sounds = false;
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
            while self.unplayed() < if self.looks_ahead { SHRINK_SAMPLES } else { BLOCK_SAMPLES }
                && self.decode(now, started)
            {}
        }
        let mut block = [0.0; BLOCK_SAMPLES];
        let samples = self.unplayed().min(BLOCK_SAMPLES);
        block[..samples].copy_from_slice(&self.sound[self.read..self.read + samples]);
        self.read += samples;
        self.absent = if samples > 0 { 0 } else { self.absent.saturating_add(1) };
        let room = self.comfort.add_to(&mut block, self.room());
        if samples == 0 && !room {
            self.ramp.rest();
            self.meter.add(None);
            return None;
        }
        self.meter.add(Some(&block));
        self.raw = block;
        self.ramp.apply(&mut block, if is_wanted { f32::from(self.gain.percent) / 100.0 } else { 0.0 });
        Some(block)
    }

    /// What [`Self::block`] gave last, as loud as it came.
    pub fn raw(&self) -> &Block {
        &self.raw
    }

    /// Figures of this leg; `around` holds the stages that are not its own.
    pub fn stats(&self, around: DelayShares) -> LegAudioStats {
        let jitter = self.jitter.stats();
        LegAudioStats {
            jitter_ms: jitter.jitter_ms,
            loss_pct: jitter.loss_pct,
            concealed_pct: jitter.concealed_pct,
            jitter_buffer_ms: jitter.wait_ms,
            target_ms: jitter.target_ms,
            playout_delay_ms: jitter.wait_ms + jitter.ahead_ms + around.ring_ms + around.device_ms,
            recovered_by_copy: jitter.by_copy,
            recovered_by_fec: jitter.by_fec,
            recovered_by_dred: jitter.by_dred,
            late: jitter.late,
            stretches: jitter.stretches,
            delay: DelayShares { jitter_buffer_ms: jitter.wait_ms, decoded_ms: jitter.ahead_ms, ..around },
            level_db: self.meter.level_db(),
        }
    }

    fn unplayed(&self) -> usize {
        self.sound.len() - self.read
    }

    /// How present the room is beside the sound: where that is missing, or has faded.
    fn room(&self) -> f32 {
        if self.absent == 0 {
            return 1.0 - level_after(self.concealed);
        }
        let over = self.absent.saturating_sub(ROOM_BLOCKS).min(ROOM_FADE_BLOCKS);
        1.0 - over as f32 / ROOM_FADE_BLOCKS as f32
    }

    /// Decodes one more piece; false when there is nothing (more) to play.
    fn decode(&mut self, now: Instant, started: &mut bool) -> bool {
        if self.looks_ahead && !(self.unplayed() < BLOCK_SAMPLES || self.jitter.has_next()) {
            self.looks_ahead = false;
            return false;
        }
        let pull = self.jitter.pull(now, self.unplayed());
        if matches!(pull, Pull::Idle | Pull::Pause) {
            return self.finish();
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
        self.tidy();
        let Some(decoder) = &mut self.decoder else { return false };
        (self.decoded, self.sounds) = (true, true);
        match pull {
            Pull::Idle | Pull::Pause => return false,
            Pull::Packet(payload) => {
                if let Some(packet) = self.jitter.overlooked() {
                    let reach = decoder.reach(packet);
                    self.jitter.reaches(reach);
                }
                self.concealed = 0;
                if self.absent > ANEW_BLOCKS {
                    decoder.reset();
                }
                let frame = decoder.decode(&payload, FRAME_SAMPLES);
                self.comfort.learn(frame);
                self.sound.extend_from_slice(frame);
                self.stretch();
            }
            Pull::Recover(following, samples) => {
                self.concealed = 0;
                self.sound.extend_from_slice(decoder.recover(&following, samples));
            }
            Pull::Conceal(samples, later) => {
                if let Some((packet, _)) = &later {
                    self.jitter.reaches(decoder.reach(packet));
                }
                if let Some(restored) = later.and_then(|(packet, back)| decoder.dred(&packet, back, samples)) {
                    self.concealed = 0;
                    self.sound.extend_from_slice(restored);
                    self.jitter.restored(samples);
                    return true;
                }
                let made_up = decoder.conceal(samples);
                fade(made_up, self.concealed);
                self.concealed += made_up.len();
                self.sound.extend_from_slice(made_up);
            }
        }
        true
    }

    /// Lets what sounds end softly; false when nothing does. The decoder keeps what it knows: the talk spurt after a short
    /// pause builds on it.
    fn finish(&mut self) -> bool {
        let sounds = std::mem::take(&mut self.sounds) && level_after(self.concealed) > 0.0;
        self.tidy();
        if let Some(decoder) = self.decoder.as_mut().filter(|_| sounds) {
            let ending = decoder.conceal(FRAME_SAMPLES);
            fade(ending, self.concealed);
            fade_out(ending);
            self.sound.extend_from_slice(ending);
        }
        sounds
    }

    /// Forgets what was played long enough ago.
    fn tidy(&mut self) {
        let old = self.read.saturating_sub(PLAYED_SAMPLES);
        self.sound.drain(..old);
        self.read -= old;
    }

    /// Brings the delay nearer to where it should be. What is far above is shrunk at two places at once.
    fn stretch(&mut self) {
        let mut from = self.read;
        for _ in 0..2 {
            let ahead = self.unplayed();
            let noise = self.comfort.floor();
            let changed = match self.jitter.advice(ahead) {
                Advice::Keep => break,
                Advice::Shrink(..) if ahead < SHRINK_SAMPLES && from == self.read && self.jitter.has_next() => {
                    self.looks_ahead = true;
                    return;
                }
                Advice::Shrink(most, haste) => {
                    -(stretch::shrink(&mut self.sound, Place { from, most, haste, noise }) as i64)
                }
                Advice::Grow(..) if from > self.read => break,
                Advice::Grow(most, haste) => stretch::grow(&mut self.sound, Place { from, most, haste, noise }) as i64,
            };
            if changed != 0 {
                self.jitter.stretched(changed, ahead);
            }
            from = (from + BLOCK_SAMPLES.max(changed.unsigned_abs() as usize)).min(self.sound.len());
        }
        self.looks_ahead = false;
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
        *sample *= level_after(so_far + at);
    }
}

/// How loud made-up sound is so many samples after the last real one.
fn level_after(concealed: usize) -> f32 {
    let into = concealed.saturating_sub(CONCEAL_FULL_SAMPLES);
    (1.0 - into as f32 / CONCEAL_FADE_SAMPLES).max(0.0)
}
