//! The jitter buffer: decides, at each pull, what the decoder does next. Sans-IO: no clock, no codec, no samples.
//!
//! Sound is played with an *offset*: pull time minus timestamp, in samples. A frame was there in time when its *transit*
//! (arrival minus timestamp) is not above it. Which offset pays is learned from the transits of late ([`arrivals`]); the
//! present one is steered there by stretching time ([`Advice`]), and freely where the sender pauses. Clock drift needs
//! nothing of its own: the transits move, the target follows.
//!
//! What it does not do: stretch or decode (that is `remote`), look into Opus beyond its table of contents.

mod advice;
mod arrivals;
mod history;
#[cfg(test)]
mod tests;

use std::{collections::VecDeque, time::Instant};

use bytes::Bytes;

use super::{
    BLOCK_SAMPLES, FRAME_SAMPLES, ReceivedPacket, SAMPLE_RATE_HZ,
    codec::{fec_samples, is_pause, packet_samples},
};
pub use advice::{Advice, Haste};
use arrivals::Arrivals;
pub use history::JitterStats;
use history::{Frames, Offsets, Reception, WHOLE_TENTHS};

/// 20 ms, the longest step of concealment.
const FRAME: i64 = FRAME_SAMPLES as i64;
/// 10 ms: pulls come in steps of what is mixed at once.
const BLOCK: i64 = BLOCK_SAMPLES as i64;
/// Most delay that is ever built up: 400 ms.
pub const MAX_DELAY_SAMPLES: i64 = 400 * MS;
/// Most packets kept; 400 ms of 5 ms packets and then some. When full, the oldest goes.
const MAX_PACKETS: usize = 128;
/// Played this much later than arrivals ask: pulls and wake-ups are not exact.
const MARGIN: i64 = 3 * MS;
/// Concealment ends here, and the leg is silent until packets come again.
const MAX_CONCEALED: i64 = 240 * MS;
/// A transit this far from the one before belongs to a restarted sender or clock.
const RESTART: i64 = 1000 * MS;
/// So many packets in a row, each later than may be waited for, are another path.
const OTHER_PATH_PACKETS: u8 = 3;
/// Nobody pulled for so long: not the network was late, but this machine.
const STALL: i64 = 80 * MS;
/// What in-band FEC gives back of a frame, in tenths: with it, 5 % loss cost 0.1 of the 1.4 PESQ that they cost without.
const FEC_TENTHS: i64 = 9;
/// And deep redundancy: of a voice it saves that it is understood. Worth 2, less is waited and more is missing.
const DRED_TENTHS: i64 = 5;
/// What was seen of its reach loses an eighth with each look, since silence is not described.
const DRED_REACH_EIGHTHS: i64 = 7;
const MS: i64 = SAMPLE_RATE_HZ as i64 / 1000;

/// What the decoder is to do for the next piece of sound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pull {
    /// Nothing plays: the sender pauses, nothing came for long, or the first packets are not due yet.
    Idle,
    /// Decode this packet.
    Packet(Bytes),
    /// So many samples are lost; the packet follows them and holds FEC of their end.
    Recover(Bytes, usize),
    /// So many samples are missing; the next packet that is there, so many samples after their beginning, may describe
    /// them (DRED): tell with [`JitterBuffer::restored`] when it did.
    Conceal(usize, Option<(Bytes, usize)>),
    /// The sender said that it stops here: let the sound end.
    Pause,
}

struct Waiting {
    at: i64,
    samples: i64,
    payload: Bytes,
    arrival: i64,
    /// `None` for a copy.
    sequence: Option<u16>,
    /// Deep redundancy may be looked for in it.
    dred: bool,
}

impl Waiting {
    fn end(&self) -> i64 {
        self.at + self.samples
    }
}

/// Reorders, waits as long as it pays, and fills the holes. Bounded in packets and in time.
pub struct JitterBuffer {
    epoch: Instant,
    /// By unwrapped timestamp.
    packets: VecDeque<Waiting>,
    /// Highest unwrapped timestamp so far.
    newest: Option<i64>,
    arrivals: Arrivals,
    frames: Frames,
    offsets: Offsets,
    reception: Reception,
    /// A packet that seems to be of a restarted sender; believed when the next one agrees.
    stray: Option<i64>,
    /// Packets in a row that were later than may be waited for.
    beyond: u8,
    /// Timestamp of the next sample to play; `None` while idle.
    next: Option<i64>,
    /// Sequence number of the packet that begins there, as far as it is known: no loss is where it follows on a pause.
    due: Option<u16>,
    /// Length of the last packet played.
    length: i64,
    /// Samples made up since the last packet, which may stand for what begins at `next`.
    concealed: i64,
    /// Samples made up while nothing was there: loss or a pause, as the next packet will tell.
    unsure: i64,
    last_pull: i64,
    /// Arrivals until then tell of this machine, not of the network.
    deaf_until: i64,
    since_stretch: i64,
    /// How far back the sender's packets describe what was before them, as far as that was seen.
    dred_reach: i64,
    /// A packet was given out to be looked into since the last one that was played.
    looked: bool,
    /// What might have been, had it been there by then.
    overlooked: Option<Bytes>,
    /// When the last packet played had arrived.
    arrival: i64,
    /// How long packets waited until they were decoded, and how much of what was decoded before them was still to be played
    /// then; smoothed.
    wait: f64,
    ahead: f64,
    counts: JitterStats,
}

impl JitterBuffer {
    /// An empty buffer; `epoch` is any moment not after the first arrival.
    pub fn new(epoch: Instant) -> Self {
        Self {
            epoch,
            packets: VecDeque::with_capacity(MAX_PACKETS + 1),
            newest: None,
            arrivals: Arrivals::default(),
            frames: Frames::default(),
            offsets: Offsets::default(),
            reception: Reception::default(),
            stray: None,
            beyond: 0,
            next: None,
            due: None,
            length: FRAME,
            concealed: 0,
            unsure: 0,
            last_pull: 0,
            deaf_until: 0,
            since_stretch: 0,
            dred_reach: 0,
            looked: false,
            overlooked: None,
            arrival: 0,
            wait: 0.0,
            ahead: 0.0,
            counts: JitterStats::default(),
        }
    }

    /// Takes a packet in. Malformed, doubled and overdue ones are dropped.
    pub fn push(&mut self, packet: ReceivedPacket) {
        let Some(samples) = packet_samples(&packet.payload) else { return };
        let arrival = self.samples(packet.arrival);
        let Some(at) = self.unwrap(&packet, arrival) else { return };
        if !packet.copy && !self.reception.received(packet.sequence) {
            return;
        }
        let sequence = (!packet.copy).then_some(packet.sequence);
        let waiting = Waiting {
            at,
            samples: samples as i64,
            payload: packet.payload,
            arrival,
            sequence,
            dred: packet.dred && !packet.copy,
        };
        if is_pause(&waiting.payload) {
            return self.pause_at(Waiting { samples: 1, ..waiting });
        }
        if !packet.copy {
            self.reception.took(arrival - at);
        }
        self.newest = Some(self.newest.map_or(at, |newest| newest.max(at)));
        if !self.learn(&waiting) {
            return;
        }
        // Overdue, unless what was made up for it is all that has been played since.
        if self.next.is_some_and(|next| waiting.end() <= next) {
            self.counts.late += 1;
            return;
        }
        self.insert(waiting);
    }

    /// A pause says where the sound ends and nothing else: it comes by a timer, so its transit tells nothing, and while
    /// nothing plays there is nothing to end.
    fn pause_at(&mut self, pause: Waiting) {
        let plays = self.next.is_some() || !self.packets.is_empty();
        let overdue = self.next.is_some_and(|next| pause.end() <= next);
        if self.newest.is_some() && pause.sequence.is_some() && plays && !overdue {
            self.insert(pause);
        }
    }

    /// Takes the frame's transit into account; false when it was there before.
    fn learn(&mut self, packet: &Waiting) -> bool {
        let news = self.frames.came(packet.at, WHOLE_TENTHS);
        if news == 0 {
            return false;
        }
        // Nobody pulled meanwhile, so nobody read from the socket either.
        let stalled = self.next.is_some() && packet.arrival - self.last_pull > STALL;
        if stalled || packet.arrival < self.deaf_until {
            return true;
        }
        let transit = packet.arrival - packet.at;
        // Later than may be waited for: an accident, or what went before is no measure any more.
        if self.arrivals.lowest().is_some_and(|lowest| transit - lowest > MAX_DELAY_SAMPLES) {
            self.beyond += 1;
            if self.beyond < OTHER_PATH_PACKETS {
                return true;
            }
            self.arrivals.forget();
        }
        self.beyond = 0;
        self.arrivals.add(packet.arrival, transit, packet.samples * news / WHOLE_TENTHS);
        if packet.sequence.is_some_and(|sequence| !self.reception.follows(sequence)) {
            if let Some(samples) = fec_samples(&packet.payload) {
                self.learn_of_lost(packet, samples as i64, samples as i64, FEC_TENTHS);
            }
            // No honest sender's frames with deep redundancy are shorter, and each step back takes its time.
            let reach = if packet.dred && packet.samples >= BLOCK { self.dred_reach } else { 0 };
            for back in 1..=reach / packet.samples {
                self.learn_of_lost(packet, back * packet.samples, packet.samples, DRED_TENTHS);
            }
        }
        self.arrivals.weigh();
        true
    }

    /// The packet tells something of the frame that begins so long before it.
    fn learn_of_lost(&mut self, packet: &Waiting, back: i64, samples: i64, tenths: i64) {
        let before = packet.at - back;
        let news = self.frames.came(before, tenths);
        if news > 0 {
            self.arrivals.add(packet.arrival, packet.arrival - before, samples * news / WHOLE_TENTHS);
        }
    }

    /// Throws away what waits, and stays idle until packets come again. What is known of the network stays.
    pub fn discard(&mut self) {
        self.packets.clear();
        self.unsure = 0;
        self.rest();
    }

    /// What to decode now, when the output needs more sound or will need it after `ahead` samples that are decoded.
    pub fn pull(&mut self, now: Instant, ahead: usize) -> Pull {
        let pulled = self.samples(now);
        let pull = self.pull_for(pulled + ahead as i64 / BLOCK * BLOCK);
        if matches!(pull, Pull::Packet(_)) {
            self.wait += ((pulled - self.arrival) as f64 - self.wait) / 16.0;
            self.ahead += (ahead as f64 - self.ahead) / 16.0;
        }
        pull
    }

    /// As [`Self::pull`], for the block that begins at this time.
    fn pull_for(&mut self, now: i64) -> Pull {
        if self.next.is_some() && now - self.last_pull > STALL {
            self.deaf_until = now + STALL;
        }
        self.last_pull = now;
        let Some(next) = self.next.or_else(|| self.start(now)) else { return Pull::Idle };
        self.next = Some(next);
        self.offsets.add(now - next - self.concealed);
        let reached = next + self.concealed;
        self.skip_what_was_made_up();
        match self.packets.front() {
            Some(front) if front.at <= reached => self.play(),
            Some(_) => self.bridge(now, reached),
            None if self.concealed >= MAX_CONCEALED => self.rest(),
            None => {
                self.unsure += FRAME;
                self.conceal(FRAME, None)
            }
        }
    }

    /// A packet waits that follows directly on what was pulled: more can be decoded ahead.
    pub fn has_next(&self) -> bool {
        let front = self.packets.front();
        front.is_some_and(|front| Some(front.at) == self.next && !is_pause(&front.payload)) && self.concealed == 0
    }

    /// Packets describe so many samples before them.
    pub fn reaches(&mut self, samples: usize) {
        self.dred_reach = (samples as i64).max(self.dred_reach / 8 * DRED_REACH_EIGHTHS).min(MAX_DELAY_SAMPLES);
    }

    /// Had it been waited for longer, this packet might have described what was made up before the one that was pulled: tell
    /// with [`Self::reaches`] how much it does.
    pub fn overlooked(&self) -> Option<&Bytes> {
        self.overlooked.as_ref()
    }

    /// What was pulled last as missing was restored from deep redundancy.
    pub fn restored(&mut self, samples: usize) {
        self.reception.restored(samples as i64);
        self.counts.by_dred += 1;
    }

    /// Present figures.
    pub fn stats(&self) -> JitterStats {
        let wait = self.target().zip(self.arrivals.lowest()).map_or(0, |(target, lowest)| target - lowest);
        JitterStats {
            jitter_ms: self.reception.jitter() / MS as f64,
            loss_pct: 100.0 * self.reception.loss(),
            concealed_pct: 100.0 * self.reception.concealed(),
            wait_ms: self.wait / MS as f64,
            ahead_ms: self.ahead / MS as f64,
            target_ms: wait as f64 / MS as f64,
            ..self.counts
        }
    }

    fn samples(&self, at: Instant) -> i64 {
        let micros = at.saturating_duration_since(self.epoch).as_micros();
        i64::try_from(micros).unwrap_or(i64::MAX / 1000) * MS / 1000
    }

    /// The timestamp without wrap-around; `None` for a packet that does not fit into the stream (so far).
    fn unwrap(&mut self, packet: &ReceivedPacket, arrival: i64) -> Option<i64> {
        let Some(newest) = self.newest else { return Some(i64::from(packet.timestamp)) };
        let unwrapped = newest + i64::from(packet.timestamp.wrapping_sub(newest as u32) as i32);
        let transit = arrival - unwrapped;
        let fits = self.reception.latest_transit().is_none_or(|latest| (transit - latest).abs() < RESTART);
        if packet.copy {
            return fits.then_some(unwrapped);
        }
        if fits {
            self.stray = None;
            return Some(unwrapped);
        }
        if self.stray.replace(transit).is_none_or(|stray| (transit - stray).abs() >= RESTART) {
            return None;
        }
        self.restart();
        Some(unwrapped)
    }

    /// The sender began anew: nothing learned of the old stream holds.
    fn restart(&mut self) {
        self.packets.clear();
        self.newest = None;
        self.arrivals.forget();
        self.frames.clear();
        self.reception.restart();
        self.stray = None;
        self.due = None;
        self.unsure = 0;
        self.deaf_until = 0;
        self.rest();
    }

    fn insert(&mut self, packet: Waiting) {
        let behind = self.packets.iter().rev().take_while(|waiting| waiting.at > packet.at).count();
        let at = self.packets.len() - behind;
        // What overlaps would be said twice.
        let before = at.checked_sub(1).and_then(|before| self.packets.get(before));
        if before.is_some_and(|before| before.end() > packet.at && !is_pause(&before.payload))
            || self.packets.get(at).is_some_and(|after| packet.end() > after.at)
        {
            return;
        }
        self.packets.insert(at, packet);
        self.bound();
    }

    /// Where playing begins: at the first packet that is due, skipping those that would only add delay.
    fn start(&mut self, now: i64) -> Option<i64> {
        let target = self.target()?;
        while let Some(front) = self.packets.front() {
            let overdue = now - front.at - target;
            if overdue < 0 {
                return None;
            }
            if overdue < front.samples || self.packets.len() == 1 {
                return Some(self.begin());
            }
            self.packets.pop_front();
        }
        None
    }

    /// Playing begins at the first packet.
    fn begin(&mut self) -> i64 {
        let (at, sequence) = self.packets.front().map_or((0, None), |front| (front.at, front.sequence));
        // It follows on what was played last: what was made up in between was a pause.
        if self.due.is_some() && self.due == sequence {
            self.unsure = 0;
        }
        self.offsets.clear();
        self.concealed = 0;
        at
    }

    /// What arrived after it was made up is played late only where more delay is wanted, or nothing else is there.
    fn skip_what_was_made_up(&mut self) {
        while let (Some(next), Some(front)) = (self.next, self.packets.front()) {
            let reached = next + self.concealed;
            let end = front.end();
            if end > next {
                let stands_for = end <= reached && self.packets.get(1).is_some_and(|second| second.at <= reached);
                let lacking = self.offsets.lowest().zip(self.target()).map_or(0, |(offset, target)| target - offset);
                if !stands_for || lacking > front.samples / 2 || is_pause(&front.payload) {
                    return;
                }
                self.counts.late += 1;
                self.concealed -= end - next;
                self.next = Some(end);
                self.due = self.after(front.sequence);
            }
            self.packets.pop_front();
        }
    }

    /// What follows on a packet, or on a copy of what was due.
    fn after(&self, sequence: Option<u16>) -> Option<u16> {
        sequence.or(self.due).map(|sequence| sequence.wrapping_add(1))
    }

    fn play(&mut self) -> Pull {
        let (Some(next), Some(packet)) = (self.next, self.packets.pop_front()) else { return Pull::Idle };
        let hole = packet.at - next;
        let paused = self.due.is_some() && self.due == packet.sequence;
        // A copy does not say how many were lost before it.
        self.due = if packet.sequence.is_none() && hole > 0 { None } else { self.after(packet.sequence) };
        let unsure = std::mem::take(&mut self.unsure) - if paused { hole } else { 0 };
        if unsure > 0 {
            self.reception.made_up(unsure);
        }
        if is_pause(&packet.payload) {
            self.rest();
            return Pull::Pause;
        }
        let overlooks = self.concealed >= BLOCK && !std::mem::take(&mut self.looked);
        let mut later = std::iter::once(&packet).chain(&self.packets).filter(|packet| packet.dred && overlooks);
        self.overlooked = later.next().map(|packet| packet.payload.clone());
        // Made up more than was missing: the packet is played late, and the delay has grown by that.
        self.offsets.shift(self.concealed - hole);
        self.concealed = 0;
        self.next = Some(packet.end());
        self.length = packet.samples;
        self.reception.played(packet.samples);
        self.counts.by_copy += u64::from(packet.sequence.is_none());
        self.arrival = packet.arrival;
        self.since_stretch = self.since_stretch.saturating_add(packet.samples);
        Pull::Packet(packet.payload)
    }

    /// Something is missing before the first packet that is there.
    fn bridge(&mut self, now: i64, reached: i64) -> Pull {
        let Some(front) = self.packets.front() else { return Pull::Idle };
        let hole = front.at - reached;
        let lost = self.due.zip(front.sequence).map(|(due, sequence)| i64::from(sequence.wrapping_sub(due) as i16));
        let is_pause = lost.is_some_and(|lost| lost >= 0 && lost * self.length.max(front.samples) <= self.concealed);
        if is_pause {
            // The talk spurt after a pause has the delay that is right now; nothing of it is skipped.
            self.unsure = 0;
            let due = self.target().is_none_or(|target| now - front.at >= target);
            self.next = due.then(|| self.begin());
            self.concealed = 0;
            return if due { self.pull_first(now) } else { Pull::Idle };
        }
        if hole > MAX_CONCEALED {
            return self.rest();
        }
        match fec_samples(&front.payload).map(|samples| samples as i64) {
            Some(samples) if hole == samples || (samples..=FRAME).contains(&hole) => {
                let payload = front.payload.clone();
                self.concealed += hole;
                self.counts.by_fec += 1;
                self.reception.played(hole);
                Pull::Recover(payload, usize::try_from(hole).unwrap_or(FRAME_SAMPLES))
            }
            Some(samples) if hole > samples => self.conceal_loss((hole - samples).min(FRAME), hole),
            Some(_) | None => self.conceal_loss(hole.min(FRAME), hole),
        }
    }

    fn pull_first(&mut self, now: i64) -> Pull {
        if let Some(next) = self.next {
            self.offsets.add(now - next);
        }
        self.play()
    }

    fn conceal_loss(&mut self, samples: i64, hole: i64) -> Pull {
        self.reception.made_up(samples);
        let first = self.packets.front().map_or(0, |front| front.at);
        // What is shorter is concealed as well, and a stranger could ask for it with every frame.
        let later = self.packets.iter().find(|packet| packet.dred && samples >= BLOCK);
        self.looked |= later.is_some();
        let later = later.map(|later| (later.payload.clone(), usize::try_from(hole + later.at - first).unwrap_or(0)));
        self.conceal(samples, later)
    }

    fn conceal(&mut self, samples: i64, later: Option<(Bytes, usize)>) -> Pull {
        self.concealed += samples;
        Pull::Conceal(usize::try_from(samples).unwrap_or(FRAME_SAMPLES), later)
    }

    fn rest(&mut self) -> Pull {
        self.next = None;
        self.concealed = 0;
        Pull::Idle
    }

    /// The offset that pays, when anything was learned.
    fn target(&self) -> Option<i64> {
        let most = self.arrivals.lowest()? + MAX_DELAY_SAMPLES - FRAME;
        Some((self.arrivals.best() + MARGIN).min(most))
    }

    /// Holds both bounds: what would be played more than [`MAX_DELAY_SAMPLES`] late is skipped.
    fn bound(&mut self) {
        let Some(last) = self.packets.back().map(Waiting::end) else { return };
        while let Some(front) = self.packets.front() {
            if last - front.at <= MAX_DELAY_SAMPLES && self.packets.len() <= MAX_PACKETS {
                return;
            }
            let end = front.end();
            self.due = self.after(front.sequence);
            self.packets.pop_front();
            if let Some(next) = self.next.filter(|next| *next < end) {
                self.offsets.shift(next - end);
                self.next = Some(end);
                self.concealed = 0;
            }
        }
    }
}
