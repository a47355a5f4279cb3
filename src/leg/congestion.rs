//! How much one leg may send: as much as it likes until packets queue up behind each other because of it.
//!
//! Pure: it knows no clock and no packets, only how long those that arrived were on their way. Packets that are late one
//! by one are jitter; a queue is there when the quickest ones of half a second are late as well. A queue that stays as it
//! is although less was sent is somebody else's (or the path got longer): then there is no reason to send less.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Most that the voice of one leg may take, in IP bytes. What is told of what arrives is 5 kbit/s more, RTCP and ICE's checks
/// are 4 to 7, all of that 2 or 3 more over IPv6: the sum stays below 160.
pub(super) const MOST_KBPS: f64 = 140.0;
/// Least: the lowest bitrate in the longest frames.
pub(super) const LEAST_KBPS: f64 = 36.0;
/// The quickest packet of this time tells of a queue…
const PRESENT: Duration = Duration::from_millis(500);
/// …if there were so many of them.
const ENOUGH: usize = 8;
/// Seconds of which the quickest packet tells how long the way is without one. Clocks drift by 6 ms meanwhile at most.
const BASE_SECONDS: usize = 20;
/// A queue this long is cut down…
const LONG_US: i64 = 40_000;
/// …and one this long quickly.
const VERY_LONG_US: i64 = 200_000;
/// Below this the queue counts as gone.
const SHORT_US: i64 = 15_000;
/// A queue grows or shrinks when it changes by more than this share of the time that passes.
const STEADY: f64 = 0.05;
/// This share of what the path carried while the queue grew is sent from then on.
const SAFE: f64 = 0.85;
/// What is left of the rate when the queue does not grow and does not shrink.
const CUT: f64 = 0.7;
/// Between two cuts: each must show its effect.
const CUT_PAUSE: Duration = Duration::from_secs(1);
/// Cuts in a row after which the queue was as before: then it is not ours.
const FUTILE_CUTS: u32 = 2;
/// After a cut the rate stays for so long, and then grows…
const CALM: Duration = Duration::from_secs(3);
/// …by so much a second…
const GROWTH_KBPS: f64 = 8.0;
/// …up to what was safe; beyond that only when it was calm for so long.
const FORGIVEN: Duration = Duration::from_secs(30);

/// Watches the delay of one leg's packets.
#[derive(Debug)]
pub(super) struct Congestion {
    epoch: Instant,
    /// When they were sent, and how long they took; of [`PRESENT`], bounded by the packets of that time.
    present: VecDeque<(Instant, i64)>,
    /// The quickest of each second, with its number.
    base: VecDeque<(u64, i64)>,
    budget_kbps: f64,
    /// What was safe after the last cut.
    safe_kbps: Option<f64>,
    last_cut: Option<Instant>,
    futile: u32,
    last_look: Instant,
}

impl Congestion {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            epoch: now,
            present: VecDeque::new(),
            base: VecDeque::new(),
            budget_kbps: MOST_KBPS,
            safe_kbps: None,
            last_cut: None,
            futile: 0,
            last_look: now,
        }
    }

    /// A packet took so long; on two clocks, so only differences mean something.
    pub(super) fn arrived(&mut self, sent: Instant, transit_us: i64) {
        let second = sent.saturating_duration_since(self.epoch).as_secs();
        match self.base.back_mut() {
            Some((last, quickest)) if *last >= second => *quickest = transit_us.min(*quickest),
            Some(_) | None => self.base.push_back((second, transit_us)),
        }
        if self.base.len() > BASE_SECONDS {
            self.base.pop_front();
        }
        self.present.push_back((sent, transit_us));
        while self.present.front().is_some_and(|(first, _)| sent.saturating_duration_since(*first) > PRESENT) {
            self.present.pop_front();
        }
    }

    /// How much longer than without a queue packets take; `None` while too few tell.
    pub(super) fn queue_us(&self) -> Option<i64> {
        let base = self.base.iter().map(|(_, quickest)| *quickest).min()?;
        let present = self.present.iter().map(|(_, transit)| *transit).min()?;
        (self.present.len() >= ENOUGH).then_some(present - base)
    }

    /// What may be sent from now on, while `sent_kbps` are sent. To be asked with each report.
    pub(super) fn budget_kbps(&mut self, now: Instant, sent_kbps: f64) -> f64 {
        let passed = now.saturating_duration_since(self.last_look).as_secs_f64().min(1.0);
        self.last_look = now;
        let since_cut = self.last_cut.map(|at| now.saturating_duration_since(at));
        match self.queue_us() {
            Some(queue_us) if queue_us > LONG_US => {
                if since_cut.is_none_or(|since| since >= CUT_PAUSE) {
                    self.cut(now, queue_us, sent_kbps.min(self.budget_kbps));
                }
            }
            Some(queue_us) if queue_us < SHORT_US => {
                self.futile = 0;
                if since_cut.is_none_or(|since| since >= FORGIVEN) {
                    self.safe_kbps = None;
                }
                let most = self.safe_kbps.unwrap_or(MOST_KBPS);
                if since_cut.is_none_or(|since| since >= CALM) && self.budget_kbps < most {
                    self.budget_kbps = (self.budget_kbps + GROWTH_KBPS * passed).min(most);
                }
            }
            Some(_) | None => {}
        }
        self.budget_kbps
    }

    fn cut(&mut self, now: Instant, queue_us: i64, sends_kbps: f64) {
        let growth = self.growth();
        if growth > STEADY {
            // More goes in than comes out: by this much.
            let safe = (SAFE * sends_kbps / (1.0 + growth)).max(LEAST_KBPS);
            (self.safe_kbps, self.budget_kbps, self.futile) = (Some(safe), safe, 0);
        } else if growth >= -STEADY {
            if self.futile == FUTILE_CUTS {
                return self.accept(queue_us);
            }
            self.futile += 1;
            self.budget_kbps = (CUT * sends_kbps).max(LEAST_KBPS);
        } else if queue_us > VERY_LONG_US {
            self.budget_kbps = (CUT * sends_kbps).max(LEAST_KBPS);
        } else {
            return; // It goes away by itself.
        }
        self.last_cut = Some(now);
    }

    /// What looked like a queue is the way itself: measured anew from here.
    fn accept(&mut self, queue_us: i64) {
        (self.futile, self.last_cut, self.safe_kbps) = (0, None, None);
        self.budget_kbps = MOST_KBPS;
        self.base = self.base.split_off(self.base.len().saturating_sub(1));
        self.base.iter_mut().for_each(|(_, quickest)| *quickest += queue_us);
    }

    /// By how much packets take longer from one to the next, as a share of the time between them: the slope of a straight
    /// line through the present ones.
    fn growth(&self) -> f64 {
        let Some((first, _)) = self.present.front() else { return 0.0 };
        let points = self
            .present
            .iter()
            .map(|(sent, transit_us)| (sent.saturating_duration_since(*first).as_micros() as f64, *transit_us as f64));
        let (count, sum) = (self.present.len() as f64, |(x, y): (f64, f64), (a, b)| (x + a, y + b));
        let (mean_x, mean_y) = points.clone().fold((0.0, 0.0), sum);
        let (mean_x, mean_y) = (mean_x / count, mean_y / count);
        let spread: f64 = points.clone().map(|(x, _)| (x - mean_x).powi(2)).sum();
        let product: f64 = points.map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
        if spread > 0.0 { product / spread } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sender that would like `wanted_kbps` and follows the budget, told of its packets 150 ms late; a step is 100 ms. Returns
    /// what was sent and the queue in ms for each.
    fn run(seconds: u64, wanted_kbps: f64, carries_kbps: f64, way_ms: impl Fn(u64) -> f64) -> Vec<(f64, f64)> {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut congestion = Congestion::new(start);
        let (mut queue_ms, mut budget, mut log) = (0.0, MOST_KBPS, Vec::new());
        let mut on_the_way = VecDeque::new();
        for step in 0..seconds * 10 {
            let sends = wanted_kbps.min(budget);
            for ms in (0..5).map(|packet| step * 100 + packet * 20) {
                on_the_way.push_back((ms, ((way_ms(ms) + queue_ms) * 1000.0) as i64));
                queue_ms = (queue_ms + 20.0 * (sends / carries_kbps - 1.0)).max(0.0);
            }
            while let Some((ms, transit_us)) = on_the_way.pop_front_if(|(ms, _)| *ms + 150 < step * 100) {
                congestion.arrived(at(ms), transit_us);
            }
            budget = congestion.budget_kbps(at(step * 100 + 100), sends);
            log.push((sends, queue_ms));
        }
        log
    }

    const WIDE: f64 = 1e9;

    /// 0 to 20 ms, another for each packet.
    fn jitter(ms: u64) -> f64 {
        (ms.wrapping_mul(2_654_435_761) >> 8 & 0xff) as f64 * 20.0 / 255.0
    }

    #[test]
    fn a_wide_path_with_jitter_is_used_as_one_likes() {
        let log = run(60, MOST_KBPS, WIDE, |ms| 40.0 + jitter(ms));
        assert!(log.iter().all(|(sends, _)| *sends == MOST_KBPS));
    }

    #[test]
    fn a_narrow_path_is_not_filled_and_the_rate_does_not_swing() {
        for capacity in [130.0, 100.0, 70.0, 50.0] {
            let log = run(120, 140.0, capacity, |ms| 30.0 + jitter(ms));
            let worst = log[100..].iter().fold(0.0_f64, |worst, (_, queue)| worst.max(*queue));
            let mean = log[100..].iter().map(|(sends, _)| sends).sum::<f64>() / (log.len() - 100) as f64;
            let cuts = log.windows(2).filter(|pair| pair[1].0 < pair[0].0 * 0.9).count();
            println!("{capacity} kbit/s: mean {mean:.0}, worst queue after 10 s {worst:.0} ms, {cuts} cuts in 120 s");
            assert!(mean <= capacity && mean > 0.75 * capacity, "{mean}");
            assert!(worst < 200.0 && cuts <= 8, "{worst} {cuts}");
        }
    }

    #[test]
    fn a_way_that_got_longer_is_no_reason_to_send_less_for_long() {
        let log = run(30, 140.0, WIDE, |ms| jitter(ms) + if ms < 10_000 { 30.0 } else { 120.0 });
        assert!(log[100..140].iter().any(|(sends, _)| *sends < 140.0), "it was tried");
        assert!(log[140..].iter().all(|(sends, _)| *sends == 140.0), "and given up");
    }
}
