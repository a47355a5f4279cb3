//! Virtual time: one seeded source of chance and one queue of what is to happen, ordered by (time, sequence).
//!
//! Whoever wants something to happen later adds it here; [`super::world`] takes it out and makes it happen.

use std::{
    cmp::Ordering,
    collections::BinaryHeap,
    time::{Duration, Instant},
};

use crate::proto::io::Now;

use super::world::Happening;

/// Unix time at which every world begins, in ms (2026-01-01).
const EPOCH_UNIX_MS: u64 = 1_767_225_600_000;

/// SplitMix64 (Steele, Lea, Flood 2014): small, fast and the same on every machine.
#[derive(Debug, Clone)]
pub struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Self {
        Self(seed ^ 0x7465_6c65_636f_6e31)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Uniform in `0..bound`; 0 when `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next() % bound }
    }

    /// Uniform in `low..=high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True in `percent` of 100 cases.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of them, evenly. Panics on an empty slice, as indexing does.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }

    /// A source of its own, for whoever cannot hold this one meanwhile.
    pub fn split(&mut self) -> Self {
        Self(self.next())
    }

    pub fn bytes(&mut self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes());
        }
        bytes
    }
}

/// SplitMix64's finalizer; also the stand-in seal's checksum.
pub fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[derive(Debug)]
struct Entry {
    at_us: u64,
    sequence: u64,
    what: Happening,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    /// Reversed, since the heap gives its greatest entry first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at_us, other.sequence).cmp(&(self.at_us, self.sequence))
    }
}

/// How a node's clocks differ from the world's.
#[derive(Debug, Clone, Copy, Default)]
pub struct Clock {
    /// Its wall clock is ahead by this.
    pub skew_ms: i64,
    /// Its monotonic clock stood still for so long, while the machine was suspended.
    pub slept_us: u64,
}

/// The clock, the queue and the dice of one world.
#[derive(Debug)]
pub struct Agenda {
    base: Instant,
    pub now_us: u64,
    sequence: u64,
    queue: BinaryHeap<Entry>,
    pub chance: Chance,
}

impl Agenda {
    pub fn new(seed: u64) -> Self {
        // The base is arbitrary: nothing but differences is ever looked at.
        Self { base: Instant::now(), now_us: 0, sequence: 0, queue: BinaryHeap::new(), chance: Chance::new(seed) }
    }

    /// What a node is told whose clocks are like this.
    pub fn now(&self, clock: Clock) -> Now {
        let unix_ms = (EPOCH_UNIX_MS + self.now_us / 1000).saturating_add_signed(clock.skew_ms);
        Now { mono: self.base + Duration::from_micros(self.now_us - clock.slept_us), unix_ms }
    }

    /// The virtual time of an instant that such a node named, in µs, rounded up so that it is never early.
    pub fn at_us(&self, instant: Instant, clock: Clock) -> u64 {
        instant.saturating_duration_since(self.base).as_nanos().div_ceil(1000) as u64 + clock.slept_us
    }

    pub fn after_us(&mut self, delay_us: u64, what: Happening) {
        self.at(self.now_us + delay_us, what);
    }

    pub fn at(&mut self, at_us: u64, what: Happening) {
        self.sequence += 1;
        self.queue.push(Entry { at_us: at_us.max(self.now_us), sequence: self.sequence, what });
    }

    /// The next thing that happens up to `until_us`; time moves on to it.
    pub fn next(&mut self, until_us: u64) -> Option<Happening> {
        if self.queue.peek().is_none_or(|entry| entry.at_us > until_us) {
            self.now_us = self.now_us.max(until_us);
            return None;
        }
        let entry = self.queue.pop()?;
        self.now_us = entry.at_us;
        Some(entry.what)
    }
}
