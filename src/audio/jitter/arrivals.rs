//! What arrivals teach: how long frames should be waited for.
//!
//! The *transit* of a frame is the moment at which it could first be played, however it came, minus its timestamp; so a
//! frame that was lost and came as a copy is simply a late one. Waiting costs delay, not waiting costs sound. Both have a
//! price, and the delay with the lowest sum is the best: random loss with copies near by, bursts with a copy far behind,
//! Wi-Fi's spikes and plain jitter all are shapes of one histogram. A transit that nobody would wait for is not waited for.

use std::collections::VecDeque;

use super::MS;

/// What is seen within seven seconds lets the delay stay where it is needed again and again…
const LONG: Window = Window { samples: 7_000 * MS, price: 0.9, forgiven: 0 };
/// …and what is seen within two makes it grow at once; but a single frame is an accident.
const SHORT: Window = Window { samples: 2_000 * MS, price: 3.0, forgiven: 20 * MS };
/// Delay that could be saved is kept while it saves any sound, up to this many ms.
const RELUCTANCE_MS: f32 = 18.0;
/// Arrivals older than this are not remembered, however little was said since.
const OLDEST: i64 = 9_000 * MS;
/// Most arrivals kept: seven seconds of 5 ms frames. When full, the oldest goes.
const MAX_ARRIVALS: usize = 1400;
/// Width of a bin of the histogram: 1 ms.
const BIN: i64 = MS;
/// Transits further apart than this many bins cannot both be waited for.
const BINS: usize = 512;

/// So many frames in a row…
const OTHER_PATH_FRAMES: usize = 25;
/// …so many bins quicker than half of those before came by another path, or a queue has drained.
const OTHER_PATH_BINS: i64 = 10;

/// How a stretch of the past is judged.
struct Window {
    /// So much sound.
    samples: i64,
    /// Delay, in ms, that is worth a millisecond of sound saved within the window.
    price: f32,
    /// So much may come too late without any delay being paid for it.
    forgiven: i64,
}

struct Arrival {
    at: i64,
    bin: i64,
    samples: i32,
}

/// Transits of the last seconds, in bins of a millisecond.
pub struct Arrivals {
    recent: VecDeque<Arrival>,
    long: Histogram,
    short: Histogram,
    /// How many of `recent`, from the back, are in `short`.
    in_short: usize,
    best: i64,
    /// Arrivals in a row that were quicker than what was usual.
    quicker: usize,
}

impl Default for Arrivals {
    fn default() -> Self {
        Self {
            recent: VecDeque::new(),
            long: Histogram::new(),
            short: Histogram::new(),
            in_short: 0,
            best: 0,
            quicker: 0,
        }
    }
}

impl Arrivals {
    /// `samples` of sound became playable at `at`, that is `transit` after their timestamp. To be weighed afterwards.
    pub fn add(&mut self, at: i64, transit: i64, samples: i64) {
        let bin = transit.div_euclid(BIN);
        self.expire(at);
        if !self.long.takes(bin) {
            self.forget();
        }
        self.quicker =
            if self.long.total > 0 && bin + OTHER_PATH_BINS < self.long.median { self.quicker + 1 } else { 0 };
        self.insert(Arrival { at, bin, samples: samples as i32 });
        if self.quicker >= OTHER_PATH_FRAMES {
            let mut recent = std::mem::take(&mut self.recent);
            recent.drain(..recent.len().saturating_sub(OTHER_PATH_FRAMES));
            self.forget();
            recent.into_iter().for_each(|arrival| self.insert(arrival));
        }
    }

    /// Looks what pays after all that was added. It looks at every bin, so once is enough for what came with one packet.
    pub fn weigh(&mut self) {
        self.best = self.long.best(&LONG).max(self.short.best(&SHORT));
    }

    fn insert(&mut self, arrival: Arrival) {
        self.long.add(&arrival);
        self.short.add(&arrival);
        self.in_short += 1;
        self.recent.push_back(arrival);
    }

    /// What was learned holds no longer.
    pub fn forget(&mut self) {
        *self = Self { recent: std::mem::take(&mut self.recent), ..Self::default() };
        self.recent.clear();
    }

    /// The transit, in samples, up to which waiting paid when it was weighed last.
    pub fn best(&self) -> i64 {
        self.best
    }

    /// The quickest one, in samples.
    pub fn lowest(&self) -> Option<i64> {
        (self.long.total > 0).then_some(self.long.lowest * BIN)
    }

    fn expire(&mut self, now: i64) {
        while self.short.total > SHORT.samples {
            let Some(old) = self.recent.get(self.recent.len() - self.in_short) else { break };
            self.short.remove(old);
            self.in_short -= 1;
        }
        while let Some(old) = self.recent.front()
            && (self.long.total > LONG.samples || now - old.at > OLDEST || self.recent.len() >= MAX_ARRIVALS)
        {
            self.long.remove(old);
            if self.in_short == self.recent.len() {
                self.short.remove(old);
                self.in_short -= 1;
            }
            self.recent.pop_front();
        }
    }
}

/// Sound by transit; the bins are a ring, because transits wander with the clocks.
struct Histogram {
    bins: Box<[i32; BINS]>,
    /// Sound in all bins.
    total: i64,
    /// First and last bin that hold something, while any does.
    lowest: i64,
    highest: i64,
    /// The bin at which half of the sound is there, when [`Self::best`] was asked last.
    median: i64,
    /// What [`Self::best`] said last.
    best: i64,
}

impl Histogram {
    fn new() -> Self {
        Self { bins: Box::new([0; BINS]), total: 0, lowest: 0, highest: 0, median: 0, best: 0 }
    }

    /// There is room for this bin beside the others.
    fn takes(&self, bin: i64) -> bool {
        self.total == 0 || self.highest.max(bin) - self.lowest.min(bin) < BINS as i64
    }

    fn add(&mut self, &Arrival { bin, samples, .. }: &Arrival) {
        if self.total == 0 {
            (self.lowest, self.highest) = (bin, bin);
        }
        self.lowest = self.lowest.min(bin);
        self.highest = self.highest.max(bin);
        self.total += i64::from(samples);
        *self.bin(bin) += samples;
    }

    fn remove(&mut self, old: &Arrival) {
        self.total -= i64::from(old.samples);
        *self.bin(old.bin) -= old.samples;
        while self.lowest < self.highest && *self.bin(self.lowest) == 0 {
            self.lowest += 1;
        }
        while self.highest > self.lowest && *self.bin(self.highest) == 0 {
            self.highest -= 1;
        }
    }

    fn bin(&mut self, bin: i64) -> &mut i32 {
        &mut self.bins[bin.rem_euclid(BINS as i64) as usize]
    }

    /// The end of the bin up to which waiting pays, in samples.
    fn best(&mut self, window: &Window) -> i64 {
        let (lowest, highest, mut late) = (self.lowest, self.highest, self.total);
        let (mut best, mut cheapest, mut kept) = (lowest, f32::INFINITY, None);
        let mut missed_at_best = 0.0;
        for bin in lowest..=highest {
            if 2 * late >= self.total {
                self.median = bin;
            }
            late -= i64::from(*self.bin(bin));
            let missed_ms = (late - window.forgiven).max(0) as f32 / MS as f32;
            let cost = ((bin - lowest) * BIN / MS) as f32 + window.price * missed_ms;
            if cost < cheapest {
                (best, cheapest, missed_at_best) = (bin, cost, missed_ms);
            }
            if bin == self.best {
                kept = Some((cost, missed_ms));
            }
        }
        // Time is not shrunk for little while sound would be missed by it: it would soon have to grow again.
        let keep = kept.is_some_and(|(cost, missed_ms)| missed_ms < missed_at_best && cost < cheapest + RELUCTANCE_MS);
        if !keep || best >= self.best {
            self.best = best;
        }
        (self.best + 1) * BIN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The wait that pays when every `n`th frame of 20 ms has `late(n)` of extra transit.
    fn wait_ms(frames: i64, late_ms: impl Fn(i64) -> i64) -> i64 {
        let mut arrivals = Arrivals::default();
        for number in 0..frames {
            arrivals.add(number * 20 * MS, late_ms(number) * MS + 5_000 * MS, 20 * MS);
            arrivals.weigh();
        }
        (arrivals.best() - arrivals.lowest().unwrap()) / MS
    }

    /// Copies 20, 40 and 60 ms back under `percent` of random loss.
    fn with_copies(percent: i64) -> impl Fn(i64) -> i64 {
        move |number| {
            let mut dice = (number as u32).wrapping_mul(2_654_435_761).rotate_left(13).wrapping_mul(2_246_822_519);
            let mut tries = 0;
            while tries < 3 && i64::from(dice >> 8) % 100 < percent {
                dice = dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                tries += 1;
            }
            tries * 20
        }
    }

    #[test]
    fn copies_are_waited_for_as_far_as_it_pays() {
        assert_eq!(wait_ms(3_000, |_| 0), 1);
        for (percent, bounds_ms) in [(5, 20..=45), (10, 40..=65), (20, 40..=65), (30, 60..=65)] {
            let wait_ms = wait_ms(3_000, with_copies(percent));
            println!("{percent} % loss: {wait_ms} ms");
            assert!(bounds_ms.contains(&wait_ms), "{percent} %: {wait_ms}");
        }
    }

    #[test]
    fn delay_that_saves_a_frame_now_and_then_is_kept() {
        let (mut arrivals, mut waited_ms, mut shrunk) = (Arrivals::default(), 0, 0);
        for number in 0..3_000 {
            // Two or three times in what is remembered: on both sides of what pays.
            let late_ms = if number % 140 == 0 { 40 } else { 0 };
            arrivals.add(number * 20 * MS, late_ms * MS + 5_000 * MS, 20 * MS);
            arrivals.weigh();
            let wait_ms = (arrivals.best() - arrivals.lowest().unwrap()) / MS;
            shrunk += usize::from(wait_ms < waited_ms);
            waited_ms = wait_ms;
        }
        assert_eq!((waited_ms, shrunk), (41, 0));
    }

    #[test]
    fn an_outage_with_a_far_copy_is_learned_at_once_and_forgotten_within_seven_seconds() {
        let outages = |until: i64| move |number: i64| if number < until && number % 100 < 7 { 200 } else { 0 };
        assert_eq!(wait_ms(107, outages(107)), 201, "after the first");
        assert_eq!(wait_ms(3_099, outages(3_099)), 201, "all the time");
        assert_eq!(wait_ms(3_000 + 350, outages(3_000)), 1, "seven seconds after the last");
    }

    #[test]
    fn a_single_spike_is_not_remembered_for_long_and_a_single_late_frame_not_at_all() {
        let spike = |number: i64| if (1_000..1_010).contains(&number) { (1_010 - number) * 20 } else { 0 };
        assert!(wait_ms(1_020, spike) > 150);
        assert_eq!(wait_ms(1_010 + 110, spike), 1, "two seconds later");
        assert_eq!(wait_ms(1_020, |number| if number == 1_000 { 150 } else { 0 }), 1);
    }

    #[test]
    fn a_queue_that_drained_is_forgotten_within_half_a_second() {
        assert!(wait_ms(1_000, |number| if number < 980 { 200 } else { 0 }) > 150);
        assert_eq!(wait_ms(1_000, |number| if number < 970 { 200 } else { 0 }), 1);
    }

    #[test]
    fn all_that_came_together_is_weighed_once() {
        let mut arrivals = Arrivals::default();
        for late_ms in 0..100 {
            arrivals.add(0, late_ms * MS, 20 * MS);
            assert_eq!(arrivals.best(), 0, "nothing was weighed yet");
        }
        arrivals.weigh();
        assert_eq!(arrivals.best(), 100 * MS);
    }

    #[test]
    fn a_path_that_became_another_one_is_learned_anew() {
        assert_eq!(wait_ms(1_000, |number| if number < 900 { 2_000 } else { 0 }), 1);
        let mut arrivals = Arrivals::default();
        for number in 0..100_000 {
            // A stranger's frames of 2.5 ms.
            arrivals.add(number * 120, (number * 7_919) % 9_999, 120);
            assert!(arrivals.recent.len() <= MAX_ARRIVALS);
        }
    }
}
