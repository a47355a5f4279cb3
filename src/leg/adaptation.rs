//! How the own voice is protected on its way to one participant. Pure: no clock, no socket, no WebRTC.
//!
//! It is told what became of each packet and decides which frames are sent again behind later ones, and which bitrate,
//! frame length and in-band FEC the leg would like ([`Wish`]). Losses of one packet here and there ask for copies close
//! behind; outages ask for one copy farther back than they last. It reacts to the first loss at once and forgets it after
//! [`HOLD`], so that protection neither comes late nor flickers.

#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{
    congestion::{Congestion, LEAST_KBPS, MOST_KBPS},
    red::{COPY_HEADER_BYTES, PRIMARY_HEADER_BYTES},
};
use crate::audio::Wish;

/// IP's header.
pub(super) const IPV4_BYTES: usize = 20;
pub(super) const IPV6_BYTES: usize = 40;
/// Beside it, UDP (8), RTP (12) and SRTP's tag (16, RFC 7714) of each packet.
pub(super) const PACKET_OVERHEAD_BYTES: usize = 36;
/// A loss is remembered for so long. With the time that reports take, 10 s after the last one nothing is left of it.
const HOLD: Duration = Duration::from_secs(8);
/// Most outcomes that are remembered: of [`HOLD`] in frames of 10 ms.
const MAX_REMEMBERED: usize = 820;
/// A path about which this much is not known yet gets one copy, although nothing was lost.
const KNOWN_PACKETS: usize = 50;
/// Heavy loss, which three copies are for: this share of so many packets is lost…
const HEAVY: [(usize, f64); 2] = [(50, 0.24), (150, 0.155)];
/// …until less than this is lost of all that is remembered.
const HEAVY_NO_MORE: f64 = 0.11;
/// Hopeless loss, which deep redundancy beside the three copies is for: this share of all that is remembered is lost, and
/// that is so many packets…
const HOPELESS: (usize, f64) = (250, 0.38);
/// …until less than this is.
const HOPELESS_NO_MORE: f64 = 0.32;
/// How the voice is encoded then: 26 kbit/s are left for the voice, which keep its upper band, and 13 describe what was
/// before, as far as with 40.5 kbit/s and with 38.3 a third less…
const HOPELESS_BITRATE_BPS: u32 = 39_300;
/// …and where IP's header takes more.
const HOPELESS_IPV6_BITRATE_BPS: u32 = 36_100;
/// IP bytes of that, which an open path has room for: what is described takes the same in each packet, so the busiest second
/// is as busy as with [`MOST_KBPS`] of voice that varies.
const HOPELESS_KBPS: f64 = 145.5;
/// An outage lasts this long at least.
const SHORTEST_OUTAGE_MS: u16 = 80;
/// Copies against outages lie this far behind at least…
const NEAREST_FAR_MS: u16 = 200;
/// …and at most: RFC 2198 reaches 341 ms.
const FARTHEST_FAR_MS: u16 = 320;
/// Lowest bitrate: below it the voice loses its upper band.
const MIN_BITRATE_BPS: u32 = 24_000;
/// Highest by the number of copies: clean speech at 64 kbit/s scores PESQ-WB 4.50, at 48 4.43, at 32 4.27.
const MAX_BITRATE_BPS: [u32; 4] = [64_000, 48_000, 36_000, 32_000];
/// All legs together: more is more than many lines carry upwards.
const ALL_LEGS_KBPS: f64 = 1000.0;
/// Short frames are for long ways, where each 10 ms is missed: one way of such a round trip is near the 150 ms from which on
/// people begin to talk into each other (ITU-T G.114)…
const LONG_ROUND_TRIP_MS: f64 = 150.0;
/// …and for few legs, where this much is left for the voice: below it is better in frames of 20 ms.
const SHORT_FRAME_LEGS: usize = 2;
const SHORT_FRAME_LEAST_BPS: u32 = 40_000;
/// Most IP bytes of a voice that needs no protection: with reports and checks it stays below 105.
const CLEAN_KBPS: f64 = 90.0;

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It arrived; `transit_us` is measured on two clocks, so only differences mean something.
    Arrived { transit_us: Option<i64> },
    /// It did not.
    Lost,
}

/// A packet and its fate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) sent: Instant,
    /// How much sound it stands for.
    pub(super) length_ms: u16,
    pub(super) fate: Fate,
}

/// What is known of a leg beside its packets' fates.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Circumstances {
    /// The other side takes copies.
    pub(super) redundancy: bool,
    /// The other side tells what arrives.
    pub(super) feedback: bool,
    /// The other side reads deep redundancy.
    pub(super) dred: bool,
    pub(super) rtt_ms: Option<f64>,
    /// IP's header on this path.
    pub(super) ip_bytes: usize,
    /// Legs that hear the same voice.
    pub(super) legs: usize,
    /// How it is encoded for all of them, once that is known.
    pub(super) voice: Option<Voice>,
}

/// How the voice is encoded at present, whatever this leg wished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Voice {
    pub(super) bitrate_bps: u32,
    /// What a copy of it takes.
    pub(super) copy_bps: u32,
    pub(super) frame_ms: u8,
}

impl From<Wish> for Voice {
    fn from(wish: Wish) -> Self {
        Self { bitrate_bps: wish.bitrate_bps, copy_bps: wish.copy_bps(), frame_ms: wish.frame_ms }
    }
}

/// How the next frames are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan {
    /// Copies of the frames so many frames back.
    pub(super) near: &'static [u8],
    /// And of what was spoken so long before.
    pub(super) far_ms: Option<u16>,
    /// How the voice should be encoded.
    pub(super) wish: Wish,
}

/// What was seen of the path of late.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Seen {
    /// Share of packets that were lost, outages included; `None` before anything is known.
    pub(super) loss: Option<f64>,
    /// Share of packets that were lost outside of outages.
    pub(super) random: f64,
    /// The longest outage.
    pub(super) outage_ms: Option<u16>,
    /// How much longer than without a queue packets take.
    pub(super) queue_ms: Option<f64>,
}

/// One packet that is remembered; a lost one knows how many were lost in a row with it, and how long that was.
#[derive(Debug, Clone, Copy)]
struct Remembered {
    sent: Instant,
    run: u16,
    run_ms: u16,
}

/// Decides for one leg.
#[derive(Debug)]
pub(super) struct Adaptation {
    remembered: VecDeque<Remembered>,
    /// Lost packets in a row up to now.
    run: Vec<Instant>,
    run_ms: u16,
    /// Outcomes so far, up to [`KNOWN_PACKETS`].
    known: usize,
    heavy: bool,
    hopeless: bool,
    /// How far back the copy against outages lies; it grows only, until there is none of them any more.
    far_ms: Option<u16>,
    seen: Seen,
    congestion: Congestion,
    budget_kbps: f64,
}

impl Adaptation {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            remembered: VecDeque::new(),
            run: Vec::new(),
            run_ms: 0,
            known: 0,
            heavy: false,
            hopeless: false,
            far_ms: None,
            seen: Seen::default(),
            congestion: Congestion::new(now),
            budget_kbps: MOST_KBPS,
        }
    }

    /// What was seen of late.
    pub(super) fn seen(&self) -> Seen {
        self.seen
    }

    /// Takes in what became of packets, in the order in which they were sent, while so many IP bytes were sent.
    pub(super) fn learn(&mut self, outcomes: &[Outcome], sent_kbps: f64, now: Instant) {
        for outcome in outcomes {
            self.known = (self.known + 1).min(KNOWN_PACKETS);
            match outcome.fate {
                Fate::Lost => {
                    self.run.push(outcome.sent);
                    self.run_ms = self.run_ms.saturating_add(outcome.length_ms);
                    // Nobody protects against more; and it stays bounded.
                    if self.run.len() == MAX_REMEMBERED / 2 {
                        self.end_run();
                    }
                }
                Fate::Arrived { transit_us } => {
                    self.end_run();
                    self.remember(Remembered { sent: outcome.sent, run: 0, run_ms: 0 });
                    if let Some(transit_us) = transit_us {
                        self.congestion.arrived(outcome.sent, transit_us);
                    }
                }
            }
        }
        self.budget_kbps = self.congestion.budget_kbps(now, sent_kbps);
    }

    fn end_run(&mut self) {
        let (run, run_ms) = (self.run.len() as u16, std::mem::take(&mut self.run_ms));
        for sent in std::mem::take(&mut self.run) {
            self.remember(Remembered { sent, run, run_ms });
        }
    }

    fn remember(&mut self, packet: Remembered) {
        if self.remembered.len() == MAX_REMEMBERED {
            self.remembered.pop_front();
        }
        self.remembered.push_back(packet);
    }

    /// How the next frames are to be sent.
    pub(super) fn plan(&mut self, now: Instant, circumstances: Circumstances) -> Plan {
        self.look(now);
        let Circumstances { redundancy, feedback, dred, rtt_ms, ip_bytes, legs, voice } = circumstances;
        let most = (ALL_LEGS_KBPS / legs.max(1) as f64).clamp(LEAST_KBPS, MOST_KBPS);
        let budget = Room { kbps: self.budget_kbps.min(most), ip_bytes };
        if redundancy && feedback && dred && self.hopeless && budget.kbps >= MOST_KBPS {
            return thinned(deep(ip_bytes), voice, Room { kbps: HOPELESS_KBPS, ip_bytes });
        }
        let lossy = self.seen.random > 0.0;
        let (near, far_ms) = match (redundancy, feedback) {
            (false, _) => (0, None),
            // Nobody tells what is lost: a little against everything.
            (true, false) => (1, None),
            (true, true) => self.wanted(),
        };
        let blind = !feedback;
        let plan = fitted(near, far_ms, lossy || blind, budget);
        let expected = if blind { 0.1 } else { self.seen.random };
        let fec = (lossy || blind) && plan.near.len() < 2;
        let expected_loss_pct = if fec { (expected * 100.0).round().clamp(5.0, 25.0) as u8 } else { 0 };
        let mut wish = Wish { fec, expected_loss_pct, ..plan.wish };
        if plan.near.is_empty() && far_ms.is_none() && !fec {
            let clean = Room { kbps: CLEAN_KBPS, ip_bytes };
            wish.bitrate_bps = wish.bitrate_bps.min(clean.bitrate(wish.frame_ms, 0));
            let short = Wish { frame_ms: 10, bitrate_bps: clean.bitrate(10, 0), ..wish };
            let pays = rtt_ms.is_some_and(|rtt_ms| rtt_ms >= LONG_ROUND_TRIP_MS) && legs <= SHORT_FRAME_LEGS;
            if pays && short.bitrate_bps >= SHORT_FRAME_LEAST_BPS && budget.holds(short, 0) {
                wish = short;
            }
        }
        thinned(Plan { wish, ..plan }, voice, budget)
    }

    /// Forgets what is old and sums up the rest.
    fn look(&mut self, now: Instant) {
        while self.remembered.front().is_some_and(|packet| now.saturating_duration_since(packet.sent) > HOLD) {
            self.remembered.pop_front();
        }
        let of = self.remembered.len() as f64;
        let lost = |longest: u16| self.remembered.iter().filter(|p| (1..longest).contains(&p.run)).count() as f64;
        // How many in a row are no chance any more depends on how many are lost one by one.
        let outage = match if of > 0.0 { lost(4) / of } else { 0.0 } {
            few if few < 0.03 => 4,
            some if some < 0.08 => 5,
            many if many < 0.15 => 6,
            _ => 8,
        };
        let is_outage = |packet: &Remembered| packet.run >= outage && packet.run_ms >= SHORTEST_OUTAGE_MS;
        let outages = self.remembered.iter().filter(|packet| is_outage(packet));
        let outage_ms = outages.clone().map(|packet| packet.run_ms).max();
        let single = |packet: &&Remembered| packet.run > 0 && !is_outage(packet);
        let others = of - outages.count() as f64;
        let share = |packets: usize| {
            let latest = self.remembered.iter().rev().filter(|packet| !is_outage(packet)).take(packets);
            latest.filter(single).count() as f64 / packets as f64
        };
        let random = if others > 0.0 { self.remembered.iter().filter(single).count() as f64 / others } else { 0.0 };
        let known = others as usize;
        let is_heavy = HEAVY.iter().any(|(packets, least)| known >= *packets && share(*packets) >= *least);
        self.heavy = is_heavy || (self.heavy && random >= HEAVY_NO_MORE);
        let is_hopeless = known >= HOPELESS.0 && random >= HOPELESS.1;
        self.hopeless = is_hopeless || (self.hopeless && random >= HOPELESS_NO_MORE);
        let loss = (of > 0.0).then(|| self.remembered.iter().filter(|packet| packet.run > 0).count() as f64 / of);
        let queue_ms = self.congestion.queue_us().map(|queue_us| queue_us as f64 / 1000.0);
        let far = |ms: u16| ms.saturating_add(20).clamp(NEAREST_FAR_MS, FARTHEST_FAR_MS);
        self.far_ms = outage_ms.map(|ms| far(ms).max(self.far_ms.unwrap_or(0)));
        self.seen = Seen { loss, random, outage_ms, queue_ms };
    }

    /// How many copies close behind, and one how far back.
    fn wanted(&self) -> (usize, Option<u16>) {
        let near = match (self.seen.random > 0.0, self.heavy, self.far_ms) {
            (true, true, None) => 3,
            (true, _, _) => 2,
            (false, _, None) if self.known < KNOWN_PACKETS => 1,
            (false, _, _) => 0,
        };
        (near, self.far_ms)
    }
}

/// As much of what is wanted as the budget allows: fewer copies close behind rather than less than the lowest bitrate, then
/// longer frames, then no copy far back.
fn fitted(near: usize, far_ms: Option<u16>, lossy: bool, budget: Room) -> Plan {
    let fars = [far_ms, None];
    let fars = if far_ms.is_some() { &fars[..] } else { &fars[..1] };
    for far_ms in fars {
        for near in (0..=near).rev() {
            for frame_ms in [20, 40] {
                let copies = near + usize::from(far_ms.is_some());
                let bitrate_bps = budget.bitrate(frame_ms, copies);
                if bitrate_bps >= MIN_BITRATE_BPS {
                    let bitrate_bps = bitrate_bps.min(MAX_BITRATE_BPS[copies.min(3)]);
                    let wish = Wish { bitrate_bps, frame_ms, fec: false, expected_loss_pct: 0, dred: false };
                    return Plan { near: frames_back(near, lossy), far_ms: *far_ms, wish };
                }
            }
        }
    }
    let wish = Wish { bitrate_bps: MIN_BITRATE_BPS, frame_ms: 40, fec: false, expected_loss_pct: 0, dred: false };
    Plan { near: &[], far_ms: None, wish }
}

/// Everything against random loss. There is no copy far back: deep redundancy tells of longer outages, too.
fn deep(ip_bytes: usize) -> Plan {
    let bitrate_bps = if ip_bytes > IPV4_BYTES { HOPELESS_IPV6_BITRATE_BPS } else { HOPELESS_BITRATE_BPS };
    let wish = Wish { bitrate_bps, frame_ms: 20, fec: false, expected_loss_pct: 0, dred: true };
    Plan { near: frames_back(3, true), far_ms: None, wish }
}

/// With fewer copies where the others' voice, which this leg sends as well, is dearer than what it wished.
fn thinned(plan: Plan, voice: Option<Voice>, budget: Room) -> Plan {
    let Some(voice) = voice else { return plan };
    let fits = |copies: usize| copies == 0 || budget.holds(voice, copies);
    let far_ms = plan.far_ms.filter(|_| fits(1));
    let mut near = plan.near;
    while let [fewer @ .., _] = near
        && !fits(near.len() + usize::from(far_ms.is_some()))
    {
        near = fewer;
    }
    Plan { near, far_ms, ..plan }
}

/// A single copy lies two frames back where in-band FEC restores the last one.
fn frames_back(copies: usize, fec: bool) -> &'static [u8] {
    match copies {
        0 => &[],
        1 if fec => &[2],
        1 => &[1],
        2 => &[1, 2],
        _ => &[1, 2, 3],
    }
}

/// So many IP bytes may be sent, in packets with such a header.
#[derive(Debug, Clone, Copy)]
struct Room {
    kbps: f64,
    ip_bytes: usize,
}

impl Room {
    /// The bitrate that fills it.
    fn bitrate(self, frame_ms: u8, copies: usize) -> u32 {
        let packets = 1000.0 / f64::from(frame_ms);
        let payload = self.kbps * 125.0 / packets - overhead(copies, self.ip_bytes);
        (payload.max(0.0) / (1 + copies) as f64 * 8.0 * packets) as u32
    }

    /// Whether a voice with so many copies fits.
    fn holds(self, voice: impl Into<Voice>, copies: usize) -> bool {
        wire_kbps(voice, copies, self.ip_bytes) <= self.kbps
    }
}

/// IP bytes that a voice costs with so many copies.
pub(super) fn wire_kbps(voice: impl Into<Voice>, copies: usize, ip_bytes: usize) -> f64 {
    let Voice { bitrate_bps, copy_bps, frame_ms } = voice.into();
    let packets = 1000.0 / f64::from(frame_ms);
    (f64::from(bitrate_bps) + f64::from(copy_bps) * copies as f64) / 1000.0
        + overhead(copies, ip_bytes) * packets / 125.0
}

fn overhead(copies: usize, ip_bytes: usize) -> f64 {
    let red = if copies > 0 { copies * COPY_HEADER_BYTES + PRIMARY_HEADER_BYTES } else { 0 };
    (ip_bytes + PACKET_OVERHEAD_BYTES + red) as f64
}
