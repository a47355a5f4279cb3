//! What the jitter buffer remembers: transits of packets, offsets of pulls, what was lost and made up. All bounded.

use std::collections::VecDeque;

/// Ten seconds of 20 ms packets.
const LONG_PACKETS: usize = 500;
/// One second: the part that makes the delay grow quickly.
const SHORT_PACKETS: usize = 50;
/// Share of the long window that should be in time.
const LONG_QUANTILE: f64 = 0.97;
/// Share of the last second that should be in time.
const SHORT_QUANTILE: f64 = 0.92;
/// Pulls over which the lowest offset is taken.
const PULLS: usize = 32;
/// Weight of the newest packet in loss and concealment: about ten seconds of memory.
const NEWEST_WEIGHT: f64 = 1.0 / 500.0;

/// Arrival minus timestamp of the packets of the last ten seconds, in samples.
#[derive(Default)]
pub struct Transits {
    window: VecDeque<i64>,
    scratch: Vec<i64>,
    needed: i64,
    lowest: i64,
    /// RFC 3550, §6.4.1.
    jitter: f64,
}

impl Transits {
    pub fn add(&mut self, transit: i64) {
        if let Some(latest) = self.latest() {
            self.jitter += ((transit - latest).abs() as f64 - self.jitter) / 16.0;
        }
        if self.window.len() == LONG_PACKETS {
            self.window.pop_front();
        }
        self.window.push_back(transit);
        let long = self.quantile(LONG_PACKETS, LONG_QUANTILE);
        self.needed = long.max(self.quantile(SHORT_PACKETS, SHORT_QUANTILE));
        self.lowest = self.window.iter().copied().min().unwrap_or(transit);
    }

    pub fn forget(&mut self) {
        self.window.clear();
    }

    pub fn latest(&self) -> Option<i64> {
        self.window.back().copied()
    }

    /// The offset at which nearly all packets are in time.
    pub fn needed(&self) -> i64 {
        self.needed
    }

    /// The quickest packet's.
    pub fn lowest(&self) -> i64 {
        self.lowest
    }

    pub fn jitter(&self) -> f64 {
        self.jitter
    }

    fn quantile(&mut self, newest: usize, share: f64) -> i64 {
        self.scratch.clear();
        self.scratch.extend(self.window.iter().rev().take(newest));
        let rank = ((self.scratch.len() - 1) as f64 * share).ceil() as usize;
        *self.scratch.select_nth_unstable(rank).1
    }
}

/// Pull time minus timestamp of the last pulls, in samples: how late sound is played. The lowest counts, because a
/// pull that comes early is the one that finds its packet missing.
#[derive(Default)]
pub struct Offsets {
    window: VecDeque<i64>,
}

impl Offsets {
    pub fn add(&mut self, offset: i64) {
        if self.window.len() == PULLS {
            self.window.pop_front();
        }
        self.window.push_back(offset);
    }

    /// All later pulls will be this much later (or, negative, earlier).
    pub fn shift(&mut self, samples: i64) {
        self.window.iter_mut().for_each(|offset| *offset += samples);
    }

    pub fn lowest(&self) -> Option<i64> {
        self.window.iter().copied().min()
    }
}

/// Counts what came, what did not, what was played and what was made up; the past fades over about ten seconds.
#[derive(Default)]
pub struct Reception {
    highest: Option<u16>,
    /// The 64 sequence numbers up to the highest, newest in bit 0.
    seen: u64,
    expected: f64,
    received: f64,
    played: f64,
    made_up: f64,
    lossy: bool,
}

impl Reception {
    /// False for a packet that was here before.
    pub fn received(&mut self, sequence: u16) -> bool {
        let Some(highest) = self.highest else {
            (self.highest, self.seen) = (Some(sequence), 1);
            (self.expected, self.received) = (self.expected + 1.0, self.received + 1.0);
            return true;
        };
        let ahead = sequence.wrapping_sub(highest) as i16;
        match ahead {
            1..=i16::MAX => {
                // A jump beyond the window is a new count, not thousands of lost packets.
                let advance = if ahead > 64 { 1 } else { ahead };
                self.seen = self.seen.checked_shl(ahead.unsigned_abs().into()).unwrap_or(0) | 1;
                self.highest = Some(sequence);
                let fade = (1.0 - NEWEST_WEIGHT).powi(advance.into());
                self.expected = self.expected * fade + f64::from(advance);
                self.received = self.received * fade + 1.0;
            }
            -63..=0 => {
                let bit = 1 << -ahead;
                if self.seen & bit != 0 {
                    return false;
                }
                self.seen |= bit;
                self.received += 1.0;
            }
            i16::MIN..=-64 => return false,
        }
        // One packet may still be on its way.
        let missing = self.expected - self.received > 1.5;
        self.lossy = missing && self.loss() > if self.lossy { 0.005 } else { 0.01 };
        true
    }

    /// A restarted sender counts from anywhere.
    pub fn restart(&mut self) {
        self.highest = None;
    }

    pub fn played(&mut self, samples: i64) {
        self.played = self.played * (1.0 - NEWEST_WEIGHT) + samples as f64;
        self.made_up *= 1.0 - NEWEST_WEIGHT;
    }

    pub fn made_up(&mut self, samples: i64) {
        self.made_up = self.made_up * (1.0 - NEWEST_WEIGHT) + samples as f64;
        self.played *= 1.0 - NEWEST_WEIGHT;
    }

    /// 0..=1.
    pub fn loss(&self) -> f64 {
        if self.expected < 1.0 { 0.0 } else { (1.0 - self.received / self.expected).clamp(0.0, 1.0) }
    }

    /// 0..=1.
    pub fn concealed(&self) -> f64 {
        if self.made_up == 0.0 { 0.0 } else { self.made_up / (self.made_up + self.played) }
    }

    /// Loss is worth waiting for the next packet's FEC; with hysteresis.
    pub fn lossy(&self) -> bool {
        self.lossy
    }
}
