//! What became of the packets, in both directions: RTCP congestion control feedback (RFC 8888).
//!
//! The receiver tells when each packet of the last half second arrived, the sender compares that with when it sent them.
//! What follows from it is the adaptation's business, not this file's.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use rtc::rtcp::transport_feedbacks::cc_feedback_report::{
    CcFeedbackMetricBlock, CcFeedbackReport, CcFeedbackReportBlock,
};

use super::adaptation::{Fate, Outcome};

/// Between reports while packets are missing: 7.4 kbit/s of IP bytes…
const EAGER: Duration = Duration::from_millis(125);
/// …and while none is.
const CALM: Duration = Duration::from_millis(250);
/// So long after a packet was missed reports come eagerly.
const EAGER_FOR: Duration = Duration::from_secs(2);
/// Packets that each report tells of. They overlap, since reports are lost too: with 50 packets a second a packet is told
/// of twice at least, and four times while packets are missing.
const REPORTED: usize = 24;
/// Packets that are remembered as sent; those of which nothing is heard are forgotten (2.5 s of 10 ms frames).
const MAX_SENT: usize = 256;
/// A packet is lost when one that was sent so much later has arrived: until then it may be on another way.
const REORDERED: usize = 3;
/// A packet of which nothing is heard although this much later ones are told of: its reports are lost.
const UNHEARD: usize = 64;
/// Offsets from here on say that the arrival is not known (RFC 8888, §3.1).
const UNKNOWN_ARRIVAL: u16 = 0x1ffe;
/// Arrivals are put within a thousand years, so that sums of them stay numbers.
const MAX_CLOCK_US: i128 = 30_000_000_000_000_000;

/// The receiver's side: what arrived.
#[derive(Debug)]
pub(super) struct Arrivals {
    epoch: Instant,
    /// By unwrapped sequence number; [`REPORTED`] at most.
    arrived: BTreeMap<i64, Instant>,
    /// Something arrived that was not reported yet.
    news: bool,
    last_report: Instant,
    last_missed: Option<Instant>,
}

impl Arrivals {
    pub(super) fn new(now: Instant) -> Self {
        Self { epoch: now, arrived: BTreeMap::new(), news: false, last_report: now, last_missed: None }
    }

    /// Notes a packet.
    pub(super) fn received(&mut self, sequence: u16, now: Instant) {
        let newest = self.arrived.last_key_value().map(|(newest, _)| *newest);
        let sequence = newest.map_or(i64::from(sequence), |newest| {
            newest + i64::from(sequence.wrapping_sub(newest as u16).cast_signed())
        });
        if newest.is_some_and(|newest| sequence > newest + 1) {
            self.last_missed = Some(now);
        }
        if newest.is_some_and(|newest| sequence - newest > REPORTED as i64 || newest - sequence > 1000) {
            self.arrived.clear(); // A gap of more than is told of, or a restarted sender.
        }
        self.arrived.entry(sequence).or_insert(now);
        self.news = true;
        let newest = self.arrived.last_key_value().map_or(sequence, |(newest, _)| *newest);
        self.arrived = self.arrived.split_off(&(newest - REPORTED as i64 + 1));
    }

    /// When the next report is to be sent, as long as there is something to tell.
    pub(super) fn due(&self) -> Option<Instant> {
        let is_eager = self.last_missed.is_some_and(|at| self.last_report.saturating_duration_since(at) < EAGER_FOR);
        self.news.then(|| self.last_report + if is_eager { EAGER } else { CALM })
    }

    /// The report about the stream `of`.
    pub(super) fn report(&mut self, own: u32, of: u32, now: Instant) -> Option<CcFeedbackReport> {
        self.news = false;
        self.last_report = now;
        let ((first, _), (last, _)) = (self.arrived.first_key_value()?, self.arrived.last_key_value()?);
        let metric_blocks = (*first..=*last).map(|sequence| self.metric(sequence, now)).collect();
        let block = CcFeedbackReportBlock { media_ssrc: of, begin_sequence: *first as u16, metric_blocks };
        // The scale of NTP's middle 32 bits, from a moment of its own: nothing here compares it with a wall clock.
        let ticks = now.saturating_duration_since(self.epoch).as_micros() * 65_536 / 1_000_000;
        Some(CcFeedbackReport { sender_ssrc: own, report_blocks: vec![block], report_timestamp: ticks as u32 })
    }

    fn metric(&self, sequence: i64, now: Instant) -> CcFeedbackMetricBlock {
        let Some(arrived) = self.arrived.get(&sequence) else { return CcFeedbackMetricBlock::default() };
        let offset = now.saturating_duration_since(*arrived).as_micros() * 1024 / 1_000_000;
        let arrival_time_offset = u16::try_from(offset).map_or(UNKNOWN_ARRIVAL, |offset| offset.min(UNKNOWN_ARRIVAL));
        CcFeedbackMetricBlock { received: true, arrival_time_offset, ..Default::default() }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    Nothing,
    Missing,
    /// With the time on its way, if that was told: on two clocks, so only differences mean something.
    Arrived(Option<i64>),
}

#[derive(Debug)]
struct Sent {
    at: Instant,
    length_ms: u16,
    heard: Heard,
}

/// The sender's side: what was sent, and what was heard of it.
#[derive(Debug)]
pub(super) struct Departures {
    epoch: Instant,
    /// Sequence number of the first of `sent`; numbers go on by one.
    first: u16,
    sent: VecDeque<Sent>,
    /// The peer's latest report timestamp without wrap-around.
    peer_ticks: Option<i64>,
}

impl Departures {
    pub(super) fn new(now: Instant) -> Self {
        Self { epoch: now, first: 0, sent: VecDeque::new(), peer_ticks: None }
    }

    /// Notes a packet that stands for so much sound.
    pub(super) fn sent(&mut self, sequence: u16, length_ms: u16, now: Instant) {
        if self.sent.is_empty() {
            self.first = sequence;
        }
        self.sent.push_back(Sent { at: now, length_ms, heard: Heard::Nothing });
        if self.sent.len() > MAX_SENT {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) -> Option<Sent> {
        self.first = self.first.wrapping_add(1);
        self.sent.pop_front()
    }

    /// Takes in a report about the stream `own`; what became of further packets, in the order in which they were sent.
    pub(super) fn acknowledge(&mut self, report: &CcFeedbackReport, own: u32) -> Vec<Outcome> {
        let ticks = self.unwrap(report.report_timestamp);
        for block in report.report_blocks.iter().filter(|block| block.media_ssrc == own) {
            for (nth, metric) in block.metric_blocks.iter().enumerate() {
                let sequence = block.begin_sequence.wrapping_add(nth as u16);
                let at = usize::from(sequence.wrapping_sub(self.first));
                let Some(sent) = self.sent.get_mut(at) else { continue };
                let offset = metric.arrival_time_offset;
                // One that was told of keeps its first time.
                if metric.received && !matches!(sent.heard, Heard::Arrived(_)) {
                    let arrived = i128::from(ticks) - i128::from(offset) * 64;
                    // A clock that leaps on with every report stays within what can be counted with.
                    let arrived_us = (arrived * 1_000_000 / 65_536).clamp(-MAX_CLOCK_US, MAX_CLOCK_US) as i64;
                    let sent_us = sent.at.saturating_duration_since(self.epoch).as_micros() as i64;
                    sent.heard = Heard::Arrived((offset < UNKNOWN_ARRIVAL).then_some(arrived_us - sent_us));
                } else if !metric.received && sent.heard == Heard::Nothing {
                    sent.heard = Heard::Missing;
                }
            }
        }
        self.settle()
    }

    fn unwrap(&mut self, timestamp: u32) -> i64 {
        let ticks = match self.peer_ticks {
            Some(before) => before.saturating_add(timestamp.wrapping_sub(before as u32).cast_signed().into()),
            None => i64::from(timestamp),
        };
        self.peer_ticks = Some(self.peer_ticks.map_or(ticks, |before| before.max(ticks)));
        ticks
    }

    fn settle(&mut self) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        let newest = self.sent.iter().rposition(|sent| matches!(sent.heard, Heard::Arrived(_)));
        let Some(mut newest) = newest else { return outcomes };
        while let Some(sent) = self.sent.front() {
            let fate = match sent.heard {
                Heard::Arrived(transit_us) => Some(Fate::Arrived { transit_us }),
                Heard::Missing if newest >= REORDERED => Some(Fate::Lost),
                Heard::Nothing if newest >= UNHEARD => None,
                Heard::Missing | Heard::Nothing => break,
            };
            outcomes.extend(fate.map(|fate| Outcome { sent: sent.at, length_ms: sent.length_ms, fate }));
            self.forget_first();
            if newest == 0 {
                break;
            }
            newest -= 1;
        }
        outcomes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: u32 = 7;

    /// Packets of 20 ms, each 30 ms on its way, of which `lost` never arrive; what each report brought to light.
    fn outcomes(packets: u64, lost: impl Fn(u64) -> bool, report_passes: impl Fn(u64) -> bool) -> Vec<Outcome> {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let (mut departures, mut arrivals) = (Departures::new(start), Arrivals::new(start));
        let (mut outcomes, mut reports) = (Vec::new(), 0);
        let sequence = |n: u64| 65_500_u16.wrapping_add(n as u16);
        for ms in 0..packets * 20 + 500 {
            if ms % 20 == 0 && ms / 20 < packets {
                departures.sent(sequence(ms / 20), 20, at(ms));
            }
            if ms >= 30 && (ms - 30) % 20 == 0 && (ms - 30) / 20 < packets && !lost((ms - 30) / 20) {
                arrivals.received(sequence((ms - 30) / 20), at(ms));
            }
            if arrivals.due().is_some_and(|due| due <= at(ms)) {
                let report = arrivals.report(1, OWN, at(ms)).expect("there is something to tell");
                reports += 1;
                if report_passes(reports) {
                    outcomes.extend(departures.acknowledge(&report, OWN));
                }
            }
        }
        outcomes
    }

    fn losses(outcomes: &[Outcome]) -> usize {
        outcomes.iter().filter(|outcome| outcome.fate == Fate::Lost).count()
    }

    #[test]
    fn every_packet_is_told_of_once_and_with_the_time_it_took() {
        let outcomes = outcomes(200, |_| false, |_| true);
        assert_eq!((outcomes.len(), losses(&outcomes)), (200, 0));
        for outcome in &outcomes {
            let Fate::Arrived { transit_us: Some(transit_us) } = outcome.fate else { panic!("{outcome:?}") };
            assert!((transit_us - 30_000).abs() <= 1_000, "{transit_us}");
        }
    }

    #[test]
    fn exactly_the_lost_ones_are_lost_even_when_every_third_report_is() {
        let lost = |n: u64| n % 7 == 3 || (100..108).contains(&n);
        let outcomes = outcomes(301, lost, |report| report % 3 != 0);
        assert_eq!(outcomes.len(), 301);
        for (n, outcome) in outcomes.iter().enumerate() {
            assert_eq!(outcome.fate == Fate::Lost, lost(n as u64), "{n}");
        }
    }

    #[test]
    fn reordered_packets_are_not_lost() {
        let start = Instant::now();
        let (mut departures, mut arrivals) = (Departures::new(start), Arrivals::new(start));
        (0..6).for_each(|n| departures.sent(n, 20, start));
        [0, 2, 3].iter().for_each(|n| arrivals.received(*n, start));
        let report = arrivals.report(1, OWN, start).unwrap();
        assert_eq!(departures.acknowledge(&report, OWN).len(), 1, "the second may still come");
        [1, 4, 5].iter().for_each(|n| arrivals.received(*n, start));
        let report = arrivals.report(1, OWN, start).unwrap();
        let outcomes = departures.acknowledge(&report, OWN);
        assert_eq!((outcomes.len(), losses(&outcomes)), (5, 0));
    }

    #[test]
    fn reports_are_rarer_on_a_clean_path_and_never_about_nothing() {
        let start = Instant::now();
        let mut arrivals = Arrivals::new(start);
        assert_eq!(arrivals.due(), None);
        arrivals.received(0, start);
        assert_eq!(arrivals.due(), Some(start + CALM));
        arrivals.received(2, start);
        assert_eq!(arrivals.due(), Some(start + EAGER));
        arrivals.report(1, OWN, start + EAGER).unwrap();
        assert_eq!(arrivals.due(), None);
    }

    #[test]
    fn a_clock_that_leaps_on_with_every_report_is_survived() {
        let start = Instant::now();
        let (mut departures, mut arrivals) = (Departures::new(start), Arrivals::new(start));
        for n in 0..10_000_u16 {
            departures.sent(n, 20, start);
            arrivals.received(n, start);
            let mut report = arrivals.report(1, OWN, start).expect("there is something to tell");
            report.report_timestamp = u32::from(n).wrapping_mul(0x7fff_ffff);
            for outcome in departures.acknowledge(&report, OWN) {
                let Fate::Arrived { transit_us: Some(transit_us) } = outcome.fate else { panic!("{outcome:?}") };
                assert!(i128::from(transit_us).abs() <= MAX_CLOCK_US, "{transit_us}");
            }
        }
    }

    #[test]
    fn reports_about_others_and_of_nonsense_change_nothing() {
        let start = Instant::now();
        let mut departures = Departures::new(start);
        (0..5).for_each(|n| departures.sent(n, 20, start));
        let metric_blocks = vec![CcFeedbackMetricBlock { received: true, ..Default::default() }; 500];
        for (media_ssrc, begin_sequence) in [(OWN + 1, 0), (OWN, 5), (OWN, 60_000)] {
            let block = CcFeedbackReportBlock { media_ssrc, begin_sequence, metric_blocks: metric_blocks.clone() };
            let report = CcFeedbackReport { sender_ssrc: 1, report_blocks: vec![block], report_timestamp: u32::MAX };
            assert_eq!(departures.acknowledge(&report, OWN).len(), 0);
        }
    }
}
