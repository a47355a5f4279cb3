//! What the jitter buffer remembers: offsets of pulls, which frames came, what was lost and made up. All bounded.

use std::collections::VecDeque;

/// Pulls over which the lowest offset is taken.
const PULLS: usize = 32;
/// Weight of the newest packet in loss and concealment: about ten seconds of memory.
const NEWEST_WEIGHT: f64 = 1.0 / 500.0;
/// Frames that are remembered: a copy of 10 ms frames comes at most 34 frames late (RFC 2198 reaches 341 ms back).
const FRAMES: usize = 160;

/// Figures of one leg. Counts are of frames since the leg began.
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
    /// How much of what was decoded before them is still to be played when they are, smoothed.
    pub ahead_ms: f64,
    /// How long the quickest packet should wait here.
    pub target_ms: f64,
    /// Frames that were lost and played from a copy.
    pub by_copy: u64,
    /// Frames that were lost and played from the next one's in-band FEC.
    pub by_fec: u64,
    /// Pieces of lost frames that were restored from a later one's deep redundancy.
    pub by_dred: u64,
    /// Frames that came after their place was played.
    pub late: u64,
    /// Changes of the delay by stretching time.
    pub stretches: u64,
}

/// Pull time minus timestamp of the last pulls, in samples: how late sound is decoded. The lowest counts, because a
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

    /// Playing begins anew.
    pub fn clear(&mut self) {
        self.window.clear();
    }

    pub fn lowest(&self) -> Option<i64> {
        self.window.iter().copied().min()
    }
}

/// What a frame is worth that came itself, or as a copy.
pub const WHOLE_TENTHS: i64 = 10;

/// Which frames of late were there and how well, by timestamp, so that a copy is told from news.
#[derive(Default)]
pub struct Frames {
    /// Timestamp, and how many tenths of its worth were there; ordered.
    recent: VecDeque<(i64, i64)>,
}

impl Frames {
    /// So many tenths of a frame's worth have come; how many of them are news. What is too old to know is none.
    pub fn came(&mut self, timestamp: i64, tenths: i64) -> i64 {
        match self.find(timestamp) {
            Ok(at) => {
                let known = &mut self.recent[at].1;
                let news = (tenths - *known).max(0);
                *known += news;
                news
            }
            Err(at) if self.insert(at, (timestamp, tenths)) => tenths,
            Err(_) => 0,
        }
    }

    /// The sender began anew.
    pub fn clear(&mut self) {
        self.recent.clear();
    }

    fn find(&self, timestamp: i64) -> Result<usize, usize> {
        // Nearly always the newest.
        match self.recent.back() {
            Some((newest, _)) if *newest < timestamp => Err(self.recent.len()),
            Some(_) | None => self.recent.binary_search_by_key(&timestamp, |(at, _)| *at),
        }
    }

    fn insert(&mut self, mut at: usize, frame: (i64, i64)) -> bool {
        if self.recent.len() == FRAMES {
            if at == 0 {
                return false;
            }
            self.recent.pop_front();
            at -= 1;
        }
        self.recent.insert(at, frame);
        true
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
    latest_transit: Option<i64>,
    /// RFC 3550, §6.4.1, in samples.
    jitter: f64,
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
        true
    }

    /// The packet just before this one, which is here, is here as well (or too old to know).
    pub fn follows(&self, sequence: u16) -> bool {
        let behind = self.highest.map_or(0, |highest| highest.wrapping_sub(sequence)).saturating_add(1);
        behind > 63 || self.seen & (1 << behind) != 0
    }

    /// The transit of a packet, in samples.
    pub fn took(&mut self, transit: i64) {
        if let Some(latest) = self.latest_transit.replace(transit) {
            self.jitter += ((transit - latest).abs() as f64 - self.jitter) / 16.0;
        }
    }

    /// The last packet's.
    pub fn latest_transit(&self) -> Option<i64> {
        self.latest_transit
    }

    /// Interarrival jitter, in samples.
    pub fn jitter(&self) -> f64 {
        self.jitter
    }

    /// A restarted sender counts from anywhere.
    pub fn restart(&mut self) {
        self.highest = None;
        self.latest_transit = None;
    }

    pub fn played(&mut self, samples: i64) {
        self.played = self.played * (1.0 - NEWEST_WEIGHT) + samples as f64;
        self.made_up *= 1.0 - NEWEST_WEIGHT;
    }

    pub fn made_up(&mut self, samples: i64) {
        self.made_up = self.made_up * (1.0 - NEWEST_WEIGHT) + samples as f64;
        self.played *= 1.0 - NEWEST_WEIGHT;
    }

    /// What was counted as made up just now was not.
    pub fn restored(&mut self, samples: i64) {
        let samples = (samples as f64).min(self.made_up);
        (self.made_up, self.played) = (self.made_up - samples, self.played + samples);
    }

    /// 0..=1.
    pub fn loss(&self) -> f64 {
        if self.expected < 1.0 { 0.0 } else { (1.0 - self.received / self.expected).clamp(0.0, 1.0) }
    }

    /// 0..=1.
    pub fn concealed(&self) -> f64 {
        if self.made_up == 0.0 { 0.0 } else { self.made_up / (self.made_up + self.played) }
    }
}
