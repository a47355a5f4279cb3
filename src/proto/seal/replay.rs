//! What was opened before: a sliding window of counters, and a bounded memory of single transmissions.

use std::{
    collections::{BTreeSet, VecDeque},
    time::{Duration, Instant},
};

/// How far behind the highest counter a late one may be.
const WINDOW: u64 = 64;

/// Which counters of one sender were seen: the highest and the [`WINDOW`] below it (after RFC 4303, §3.4.3).
#[derive(Debug, Clone, Default)]
pub(super) struct Window {
    highest: Option<u64>,
    /// Bit n: `highest - n` was seen.
    seen: u64,
}

impl Window {
    /// Whether the counter is new. Changes nothing: a counter is recorded only after its message proved genuine.
    pub(super) fn is_fresh(&self, counter: u64) -> bool {
        match self.highest {
            None => true,
            Some(highest) if counter > highest => true,
            Some(highest) => highest - counter < WINDOW && self.seen & (1 << (highest - counter)) == 0,
        }
    }

    /// Marks a fresh counter as seen.
    pub(super) fn record(&mut self, counter: u64) {
        match self.highest {
            Some(highest) if counter <= highest => {
                if highest - counter < WINDOW {
                    self.seen |= 1 << (highest - counter);
                }
            }
            Some(highest) => {
                let step = counter - highest;
                self.seen = if step < WINDOW { self.seen << step | 1 } else { 1 };
                self.highest = Some(counter);
            }
            None => {
                self.seen = 1;
                self.highest = Some(counter);
            }
        }
    }
}

/// Remembers single transmissions by 32 bytes that are unique to each.
///
/// Bounded: when full, the oldest is forgotten, and could then be opened once more; what sits above must be idempotent
/// anyway, since the same message comes in several transmissions.
#[derive(Debug)]
pub(super) struct Recent {
    capacity: usize,
    /// `None`: kept until pushed out.
    keep: Option<Duration>,
    order: VecDeque<(Instant, [u8; 32])>,
    seen: BTreeSet<[u8; 32]>,
}

impl Recent {
    pub(super) fn new(capacity: usize, keep: Option<Duration>) -> Self {
        Self { capacity, keep, order: VecDeque::new(), seen: BTreeSet::new() }
    }

    pub(super) fn contains(&self, transmission: &[u8; 32]) -> bool {
        self.seen.contains(transmission)
    }

    /// Remembers a transmission and forgets those that are too old or too many.
    pub(super) fn record(&mut self, transmission: [u8; 32], now: Instant) {
        if !self.seen.insert(transmission) {
            return;
        }
        self.order.push_back((now, transmission));
        while let Some((at, oldest)) = self.order.front() {
            let expired = self.keep.is_some_and(|keep| now.saturating_duration_since(*at) > keep);
            if !expired && self.order.len() <= self.capacity {
                break;
            }
            self.seen.remove(oldest);
            self.order.pop_front();
        }
    }
}

/// Two memories apart, so that strangers cannot push out what contacts sent.
#[derive(Debug)]
pub(super) struct Replays {
    known: Recent,
    strangers: Recent,
}

impl Replays {
    pub(super) fn new(known: Recent, strangers: Recent) -> Self {
        Self { known, strangers }
    }

    pub(super) fn contains(&self, transmission: &[u8; 32]) -> bool {
        self.known.contains(transmission) || self.strangers.contains(transmission)
    }

    pub(super) fn record(&mut self, is_known: bool, transmission: [u8; 32], now: Instant) {
        if is_known { self.known.record(transmission, now) } else { self.strangers.record(transmission, now) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::seal::tests::start;

    #[test]
    fn a_window_takes_each_counter_once_in_any_order_within_64() {
        let mut window = Window::default();
        for counter in [5, 3, 4, 100, 37] {
            assert!(window.is_fresh(counter), "{counter}");
            window.record(counter);
            assert!(!window.is_fresh(counter), "{counter} twice");
        }
        assert!(!window.is_fresh(36), "64 behind is too late");
        assert!(!window.is_fresh(5));
        assert!(window.is_fresh(38));
        assert!(window.is_fresh(101));
    }

    #[test]
    fn a_window_survives_the_largest_counters() {
        let mut window = Window::default();
        window.record(0);
        window.record(u64::MAX);
        assert!(!window.is_fresh(u64::MAX));
        assert!(!window.is_fresh(0));
        assert!(window.is_fresh(u64::MAX - 63));
        window.record(u64::MAX - 63);
        assert!(!window.is_fresh(u64::MAX - 63));
    }

    #[test]
    fn the_memory_of_transmissions_is_bounded_in_number_and_time() {
        let start = start().mono;
        let mut recent = Recent::new(3, Some(Duration::from_secs(10)));
        for n in 0..5 {
            recent.record([n; 32], start);
        }
        assert!(!recent.contains(&[1; 32]));
        assert!(recent.contains(&[2; 32]));
        assert_eq!((recent.order.len(), recent.seen.len()), (3, 3));
        recent.record([9; 32], start + Duration::from_secs(11));
        assert!(!recent.contains(&[4; 32]));
        assert_eq!((recent.order.len(), recent.seen.len()), (1, 1));
    }

    #[test]
    fn strangers_cannot_push_out_what_contacts_sent() {
        let start = start().mono;
        let mut replays = Replays::new(Recent::new(2, None), Recent::new(2, None));
        replays.record(true, [1; 32], start);
        for n in 10..20 {
            replays.record(false, [n; 32], start);
        }
        assert!(replays.contains(&[1; 32]));
        assert!(!replays.contains(&[10; 32]));
    }
}
