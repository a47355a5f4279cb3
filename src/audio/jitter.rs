//! The jitter buffer: decides, at each pull, what the decoder does next. Sans-IO: no clock, no codec, no samples.
//!
//! Every packet has a *transit*: arrival minus RTP timestamp, in samples. Playing with an *offset* (pull time minus
//! timestamp) of at least a packet's transit means that it was there in time. So the target offset is a high quantile of
//! the transits of late, plus a margin, and the present offset is steered towards it by stretching time ([`Advice`]).
//! Clock drift needs nothing of its own: the transits move, the target follows.
//!
//! What it does not do: stretch or decode (that is `remote`), look into the Opus packets.

mod history;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, time::Instant};

use bytes::Bytes;

use super::{
    FRAME_SAMPLES, ReceivedPacket, SAMPLE_RATE_HZ,
    codec::{is_pause, packet_samples},
};
use history::{Offsets, Reception, Transits};

/// 20 ms, the step of concealment.
const FRAME: i64 = FRAME_SAMPLES as i64;
/// Most delay that is ever built up: 400 ms.
pub const MAX_DELAY_SAMPLES: i64 = 400 * MS;
/// Most packets kept; 400 ms of 5 ms packets and then some. When full, the oldest goes.
const MAX_PACKETS: usize = 128;
/// Played this much later than the arrival quantile asks: pulls and wake-ups are not exact.
const MARGIN: i64 = 5 * MS;
/// An offset up to this far above the target is left alone.
const TOLERANCE: i64 = 12 * MS;
/// This far above the target time is shrunk with every packet instead of every [`CALM_PACKETS`]th…
const FAR_ABOVE: i64 = 60 * MS;
/// …and this far below it, where packets come too late already, it grows so.
const FAR_BELOW: i64 = -10 * MS;
/// Packets between two stretches near the target.
const CALM_PACKETS: u32 = 10;
/// Concealment ends here, and the leg is silent until packets come again.
const MAX_CONCEALED: i64 = 240 * MS;
/// A transit this far from the one before belongs to a restarted sender or clock.
const RESTART: i64 = 1000 * MS;
/// After a pause this long, what is known of arrivals is forgotten.
const FORGET: i64 = 1000 * MS;
const MS: i64 = SAMPLE_RATE_HZ as i64 / 1000;

/// What the decoder is to do for the next piece of sound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pull {
    /// Nothing plays: no packet for long, or the first ones are not due yet.
    Idle,
    /// Decode this packet.
    Packet(Bytes, Advice),
    /// A frame of so many samples is lost; this packet follows it and may hold its FEC.
    Recover(Bytes, usize),
    /// So many samples are missing.
    Conceal(usize),
    /// The sender pauses here: let the sound end.
    Pause,
}

/// How the decoded packet should be stretched; tell the buffer with [`JitterBuffer::stretched`] what was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advice {
    /// Leave it.
    Keep,
    /// Play it shorter: the delay is more than needed.
    Shrink,
    /// Play it longer: packets come later than they are played.
    Grow,
}

/// Figures of one leg.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct JitterStats {
    /// Interarrival jitter (RFC 3550, §6.4.1).
    pub jitter_ms: f64,
    /// Packets of about the last ten seconds that never came.
    pub loss_pct: f64,
    /// Sound of about the last ten seconds that was made up.
    pub concealed_pct: f64,
    /// How long packets wait here, smoothed.
    pub wait_ms: f64,
}

struct Waiting {
    payload: Bytes,
    samples: i64,
    arrival: i64,
}

/// Reorders, waits as long as arrivals ask, and fills the holes. Bounded in packets and in time.
pub struct JitterBuffer {
    epoch: Instant,
    /// By unwrapped timestamp.
    packets: BTreeMap<i64, Waiting>,
    /// Highest unwrapped timestamp so far, and when the last packet arrived.
    newest: Option<(i64, i64)>,
    transits: Transits,
    offsets: Offsets,
    reception: Reception,
    /// A packet that seems to be of a restarted sender; believed when the next one agrees.
    stray: Option<(i64, u32)>,
    /// Timestamp of the next sample to play; `None` while idle.
    next: Option<i64>,
    /// Samples made up since the last packet, which may stand for what begins at `next`.
    concealed: i64,
    since_stretch: u32,
    wait: f64,
}

impl JitterBuffer {
    /// An empty buffer; `epoch` is any moment not after the first arrival.
    pub fn new(epoch: Instant) -> Self {
        Self {
            epoch,
            packets: BTreeMap::new(),
            newest: None,
            transits: Transits::default(),
            offsets: Offsets::default(),
            reception: Reception::default(),
            stray: None,
            next: None,
            concealed: 0,
            since_stretch: 0,
            wait: 0.0,
        }
    }

    /// Takes a packet in. Malformed, doubled and overdue ones are dropped.
    pub fn push(&mut self, packet: ReceivedPacket) {
        let Some(samples) = packet_samples(&packet.payload) else { return };
        let arrival = self.samples(packet.arrival);
        let Some(timestamp) = self.unwrap(packet.timestamp, arrival) else { return };
        if !self.reception.received(packet.sequence) {
            return;
        }
        if is_pause(&packet.payload) {
            return self.pause_at(timestamp, Waiting { payload: packet.payload, samples: samples as i64, arrival });
        }
        let transit = arrival - timestamp;
        let paused = self.newest.is_some_and(|(_, before)| arrival - before > FORGET);
        // Later than may be waited for: what went before is no measure any more.
        if paused || transit - self.transits.lowest() > MAX_DELAY_SAMPLES {
            self.transits.forget();
        }
        self.transits.add(transit);
        let newest = self.newest.map_or(timestamp, |(newest, _)| newest.max(timestamp));
        self.newest = Some((newest, arrival));
        // Overdue, unless what was made up for it is all that has been played since.
        if self.next.is_some_and(|next| timestamp + (samples as i64) <= next) {
            return;
        }
        self.packets.insert(timestamp, Waiting { payload: packet.payload, samples: samples as i64, arrival });
        self.bound(newest);
    }

    /// A pause says where the sound ends and nothing else: it comes by a timer, so its transit tells nothing, and while
    /// nothing plays there is nothing to end.
    fn pause_at(&mut self, timestamp: i64, pause: Waiting) {
        let Some((newest, _)) = self.newest else { return };
        let plays = self.next.is_some() || !self.packets.is_empty();
        let overdue = self.next.is_some_and(|next| timestamp + pause.samples <= next);
        if plays && !overdue {
            self.packets.entry(timestamp).or_insert(pause);
            self.bound(newest);
        }
    }

    /// Throws away what waits, and stays idle until packets come again. What is known of the network stays.
    pub fn discard(&mut self) {
        self.packets.clear();
        self.rest();
    }

    /// What to decode now, at the moment when the output needs more sound.
    pub fn pull(&mut self, now: Instant) -> Pull {
        let now = self.samples(now);
        let Some(next) = self.next.or_else(|| self.start(now)) else { return Pull::Idle };
        self.next = Some(next);
        self.offsets.add(now - next - self.concealed);
        while self.packets.first_key_value().is_some_and(|(at, waiting)| at + waiting.samples <= next) {
            self.packets.pop_first();
        }
        match self.packets.first_key_value() {
            Some((&at, _)) if at <= next + self.concealed => self.play(now, next),
            Some((&at, waiting)) => {
                let hole = at - next - self.concealed;
                if hole > MAX_CONCEALED {
                    return self.rest();
                }
                let following = (hole <= FRAME && !is_pause(&waiting.payload)).then(|| waiting.payload.clone());
                self.fill(hole.min(FRAME), following)
            }
            None if self.concealed >= MAX_CONCEALED => self.rest(),
            None => self.fill(FRAME, None),
        }
    }

    /// The packet just pulled is played longer or shorter than it is: offsets are measured anew.
    pub fn stretched(&mut self) {
        self.offsets = Offsets::default();
        self.since_stretch = 0;
    }

    /// Present figures.
    pub fn stats(&self) -> JitterStats {
        JitterStats {
            jitter_ms: self.transits.jitter() / MS as f64,
            loss_pct: 100.0 * self.reception.loss(),
            concealed_pct: 100.0 * self.reception.concealed(),
            wait_ms: self.wait / MS as f64,
        }
    }

    fn samples(&self, at: Instant) -> i64 {
        let micros = at.saturating_duration_since(self.epoch).as_micros();
        i64::try_from(micros).unwrap_or(i64::MAX / 1000) * MS / 1000
    }

    /// The timestamp without wrap-around; `None` for a packet that does not fit into the stream (so far).
    fn unwrap(&mut self, timestamp: u32, arrival: i64) -> Option<i64> {
        let Some((newest, _)) = self.newest else { return Some(i64::from(timestamp)) };
        let unwrapped = newest + i64::from(timestamp.wrapping_sub(newest as u32) as i32);
        let fits = self.transits.latest().is_none_or(|latest| (arrival - unwrapped - latest).abs() < RESTART);
        if fits {
            self.stray = None;
            return Some(unwrapped);
        }
        let agrees = self.stray.is_some_and(|(transit, _)| (arrival - unwrapped - transit).abs() < RESTART);
        if !agrees {
            self.stray = Some((arrival - unwrapped, timestamp));
            return None;
        }
        self.restart();
        Some(unwrapped)
    }

    /// The sender began anew: nothing learned of the old stream holds.
    fn restart(&mut self) {
        self.packets.clear();
        self.newest = None;
        self.transits = Transits::default();
        self.reception.restart();
        self.stray = None;
        self.next = None;
        self.concealed = 0;
    }

    /// Where playing begins: at the first packet that is due, skipping those that would only add delay.
    fn start(&mut self, now: i64) -> Option<i64> {
        let target = self.target();
        while let Some((&at, waiting)) = self.packets.first_key_value() {
            if now < at + target {
                return None;
            }
            let overdue = now - at - target;
            if overdue < waiting.samples || self.packets.len() == 1 {
                self.offsets = Offsets::default();
                self.concealed = 0;
                return Some(at);
            }
            self.packets.pop_first();
        }
        None
    }

    fn play(&mut self, now: i64, next: i64) -> Pull {
        let Some((at, waiting)) = self.packets.pop_first() else { return Pull::Idle };
        if is_pause(&waiting.payload) {
            self.rest();
            return Pull::Pause;
        }
        // Made up more than was missing: the packet is played late, and the delay has grown by that.
        self.offsets.shift(self.concealed - (at - next));
        self.concealed = 0;
        self.next = Some(at + waiting.samples);
        self.reception.played(waiting.samples);
        self.wait += ((now - waiting.arrival) as f64 - self.wait) / 16.0;
        self.since_stretch = self.since_stretch.saturating_add(1);
        Pull::Packet(waiting.payload, self.advice())
    }

    fn advice(&self) -> Advice {
        let Some(offset) = self.offsets.lowest() else { return Advice::Keep };
        let excess = offset - self.target();
        let may = self.since_stretch >= CALM_PACKETS;
        if excess > TOLERANCE && (may || excess > FAR_ABOVE) {
            Advice::Shrink
        } else if excess < 0 && (may || excess < FAR_BELOW) {
            Advice::Grow
        } else {
            Advice::Keep
        }
    }

    fn fill(&mut self, samples: i64, following: Option<Bytes>) -> Pull {
        self.concealed += samples;
        let length = usize::try_from(samples).unwrap_or(FRAME_SAMPLES);
        match following {
            Some(payload) if samples == FRAME => {
                self.reception.played(samples);
                Pull::Recover(payload, length)
            }
            Some(_) | None => {
                self.reception.made_up(samples);
                Pull::Conceal(length)
            }
        }
    }

    fn rest(&mut self) -> Pull {
        self.next = None;
        self.concealed = 0;
        Pull::Idle
    }

    /// Offset that plays nearly all packets in time; with loss, late enough to have the next packet's FEC at hand.
    fn target(&self) -> i64 {
        let fec = if self.reception.lossy() { FRAME } else { 0 };
        let most = self.transits.lowest() + MAX_DELAY_SAMPLES - FRAME;
        (self.transits.needed() + MARGIN + fec).min(most)
    }

    /// Holds both bounds: what would be played more than [`MAX_DELAY_SAMPLES`] late is skipped.
    fn bound(&mut self, newest: i64) {
        if self.packets.len() > MAX_PACKETS {
            self.packets.pop_first();
        }
        while let Some((&at, waiting)) = self.packets.first_key_value() {
            let after = at + waiting.samples;
            if newest + FRAME - at <= MAX_DELAY_SAMPLES {
                return;
            }
            self.packets.pop_first();
            if let Some(next) = self.next.filter(|next| *next < after) {
                self.offsets.shift(next - after);
                self.next = Some(after);
                self.concealed = 0;
            }
        }
    }
}
