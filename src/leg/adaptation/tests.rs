//! The adaptation on simulated paths. Each prints what it cost and what it saved.

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::*;

/// Packets of 20 ms.
const FRAME_MS: u64 = 20;
/// From a packet's sending to the moment when the sender knows its fate.
const FEEDBACK_MS: u64 = 180;

/// What became of one simulated call.
#[derive(Debug)]
struct Course {
    /// IP bytes of each packet.
    bytes: Vec<usize>,
    plans: Vec<Plan>,
    /// Neither the frame nor a copy of it arrived.
    missing: Vec<bool>,
    lost: Vec<bool>,
}

impl Course {
    /// IP bytes a second over the packets of these seconds.
    fn kbps(&self, from_s: f64, to_s: f64) -> f64 {
        let of = |s: f64| ((s * 50.0) as usize).min(self.bytes.len());
        let bytes = &self.bytes[of(from_s)..of(to_s)];
        bytes.iter().sum::<usize>() as f64 * 8.0 / 1000.0 / (bytes.len() as f64 / 50.0)
    }

    fn missing_pct(&self, from_s: f64) -> f64 {
        let missing = &self.missing[(from_s * 50.0) as usize..];
        100.0 * missing.iter().filter(|missing| **missing).count() as f64 / missing.len() as f64
    }

    fn changes(&self, from_s: f64) -> usize {
        let plans = &self.plans[(from_s * 50.0) as usize..];
        plans.windows(2).filter(|pair| (pair[0].near, pair[0].far_ms) != (pair[1].near, pair[1].far_ms)).count()
    }

    fn tell(&self, name: &str) {
        let plan = self.plans.last().expect("a plan");
        println!(
            "{name:28} {:6.1} kbit/s  lost {:5.2} %  missing {:5.2} %  changes {:2}  last {:?} + {:?} ms at {} bit/s",
            self.kbps(2.0, f64::MAX),
            100.0 * self.lost.iter().filter(|lost| **lost).count() as f64 / self.lost.len() as f64,
            self.missing_pct(1.0),
            self.changes(2.0),
            plan.near,
            plan.far_ms,
            plan.wish.bitrate_bps
        );
    }
}

fn circumstances() -> Circumstances {
    let (redundancy, feedback, dred) = (true, true, true);
    Circumstances { redundancy, feedback, dred, rtt_ms: Some(40.0), ip_bytes: IPV4_BYTES, legs: 1, voice: None }
}

/// A call over a path that loses what `loses` says, which is told the number of the packet and the time in ms.
fn call(seconds: u64, mut loses: impl FnMut(u64) -> bool) -> Course {
    let start = Instant::now();
    let at = |ms: u64| start + Duration::from_millis(ms);
    let mut adaptation = Adaptation::new(start);
    let mut course = Course { bytes: Vec::new(), plans: Vec::new(), missing: Vec::new(), lost: Vec::new() };
    let mut plan = adaptation.plan(start, circumstances());
    let mut fates: Vec<Outcome> = Vec::new();
    let mut told = 0;
    for n in 0..seconds * 1000 / FRAME_MS {
        let ms = n * FRAME_MS;
        if ms.is_multiple_of(120) {
            let known = fates.iter().filter(|outcome| outcome.sent + Duration::from_millis(FEEDBACK_MS) <= at(ms));
            let known = known.count().max(told);
            adaptation.learn(&fates[told..known], 0.0, at(ms));
            told = known;
            plan = adaptation.plan(at(ms), circumstances());
        }
        let lost = loses(ms);
        let far = plan.far_ms.map(|ms| u64::from(ms).div_ceil(FRAME_MS));
        let behind = plan.near.iter().map(|back| u64::from(*back)).chain(far);
        let copies: Vec<u64> = behind.filter_map(|back| n.checked_sub(back)).collect();
        let frame_bytes = plan.wish.bitrate_bps as usize / 8 * FRAME_MS as usize / 1000;
        let copy_bytes = plan.wish.copy_bps() as usize / 8 * FRAME_MS as usize / 1000;
        course.bytes.push(frame_bytes + copy_bytes * copies.len() + overhead(copies.len(), IPV4_BYTES) as usize);
        course.missing.push(lost);
        course.lost.push(lost);
        if !lost {
            copies.iter().for_each(|copied| course.missing[*copied as usize] = false);
        }
        course.plans.push(plan);
        let fate = if lost { Fate::Lost } else { Fate::Arrived { transit_us: Some(30_000) } };
        fates.push(Outcome { sent: at(ms), length_ms: FRAME_MS as u16, fate });
    }
    course
}

fn random(loss: f64, seed: u64) -> impl FnMut(u64) -> bool {
    let mut random = StdRng::seed_from_u64(seed);
    move |_| random.random::<f64>() < loss
}

/// 100 to 200 ms of nothing every two seconds.
fn outages(seed: u64) -> impl FnMut(u64) -> bool {
    let mut random = StdRng::seed_from_u64(seed);
    let mut length_ms = 150;
    move |ms| {
        if ms % 2000 == 0 {
            length_ms = random.random_range(100..=200);
        }
        ms % 2000 >= 1000 && ms % 2000 < 1000 + length_ms
    }
}

#[test]
fn clean_speech_gets_the_best_bitrate_and_nothing_beside_it() {
    let course = call(20, |_| false);
    course.tell("clean");
    assert_eq!(course.plans[0].near, [1], "nothing is known yet");
    let last = course.plans.last().unwrap();
    assert_eq!((last.near, last.far_ms, last.wish.bitrate_bps, last.wish.fec), (&[][..], None, 64_000, false));
    assert!(course.kbps(3.0, 20.0) <= 105.0 && course.changes(0.0) == 1);
}

#[test]
fn random_loss_is_repaired_within_the_budget_and_without_swinging() {
    for (loss, missing_pct) in [(0.05, 0.1), (0.1, 0.3), (0.2, 1.0), (0.3, 1.5)] {
        for seed in 0..3 {
            let course = call(60, random(loss, seed));
            course.tell(&format!("{:.0} % random", loss * 100.0));
            assert!(course.kbps(0.0, 60.0) <= 150.0);
            assert!(course.plans.iter().all(|plan| wire_kbps(plan.wish, plan.near.len(), IPV4_BYTES) <= 150.0));
            assert!(course.missing_pct(1.0) <= missing_pct, "{loss} {}", course.missing_pct(1.0));
            assert!(course.changes(2.0) <= 6, "{loss} {}", course.changes(2.0));
        }
    }
}

#[test]
fn hopeless_loss_gets_deep_redundancy_and_what_is_less_never_does() {
    let last = |loss, seconds| call(seconds, random(loss, 1)).plans.last().unwrap().wish;
    for loss in [0.4, 0.5, 0.6, 0.7] {
        let course = call(30, random(loss, 2));
        course.tell(&format!("{:.0} % random", loss * 100.0));
        let (begins, plans) = (10 * 50, &course.plans);
        assert!(plans[begins..].iter().all(|plan| plan.wish.dred && !plan.wish.fec), "without flickering");
        assert!(plans[begins..].iter().all(|plan| plan.near == [1, 2, 3] && plan.far_ms.is_none()));
        assert!(plans.iter().all(|plan| wire_kbps(plan.wish, plan.near.len(), IPV4_BYTES) <= 150.0));
    }
    assert!(!last(0.3, 60).dred && !last(0.2, 60).dred);
    let mut bad = random(0.5, 3);
    let healed = call(60, |ms| ms < 30_000 && bad(ms));
    assert!(healed.plans[25 * 50].wish.dred && !healed.plans[40 * 50].wish.dred);
}

#[test]
fn deep_redundancy_is_for_peers_that_read_it_and_for_open_paths() {
    let start = Instant::now();
    let mut lost = random(0.5, 1);
    let fate = |lost| if lost { Fate::Lost } else { Fate::Arrived { transit_us: None } };
    let outcomes: Vec<Outcome> =
        (0..300).map(|n| Outcome { sent: start, length_ms: 20, fate: fate(lost(n)) }).collect();
    let dred = |circumstances| {
        let mut adaptation = Adaptation::new(start);
        adaptation.learn(&outcomes, 90.0, start);
        adaptation.plan(start, circumstances).wish.dred
    };
    assert!(dred(circumstances()));
    assert!(!dred(Circumstances { dred: false, ..circumstances() }));
    assert!(!dred(Circumstances { redundancy: false, ..circumstances() }));
    assert!(!dred(Circumstances { legs: 8, ..circumstances() }), "nothing is left for it");
}

#[test]
fn outages_get_a_copy_farther_back_than_they_last() {
    for seed in 0..3 {
        let course = call(60, outages(seed));
        course.tell("outages of 100-200 ms");
        assert!(course.missing_pct(4.0) <= 0.2, "{}", course.missing_pct(4.0));
        assert!(course.kbps(4.0, 60.0) <= 150.0);
        let last = course.plans.last().unwrap();
        assert!(last.near.is_empty() && last.far_ms.is_some_and(|ms| (200..=240).contains(&ms)));
        assert!(course.changes(5.0) <= 2, "{}", course.changes(5.0));
    }
}

#[test]
fn outages_amid_random_loss_get_both_kinds_of_copies() {
    let (mut single, mut long) = (random(0.05, 1), outages(1));
    let course = call(60, |ms| single(ms) | long(ms));
    course.tell("5 % and outages");
    let last = course.plans.last().unwrap();
    assert!(last.near == [1, 2] && last.far_ms.is_some());
    assert!(course.missing_pct(4.0) < 1.0 && course.kbps(0.0, 60.0) <= 150.0);
}

#[test]
fn the_first_loss_is_answered_within_a_few_hundred_ms_and_forgotten_in_ten_seconds() {
    let course = call(40, |ms| (10_000..12_000).contains(&ms) && ms % 200 == 0);
    let answered = course.plans.iter().position(|plan| plan.near.len() == 2).unwrap() as u64 * FRAME_MS;
    println!("answered after {} ms", answered - 10_000);
    assert!(answered - 10_000 <= 350);
    let from = (12_000 / FRAME_MS) as usize;
    let forgotten = course.plans[from..].iter().position(|plan| plan.near.is_empty()).unwrap() as u64 * FRAME_MS;
    println!("forgotten after {forgotten} ms");
    assert!((7_000..=9_500).contains(&forgotten));
    assert!(course.kbps(22.0, 40.0) <= 105.0);
    assert_eq!(course.changes(2.0), 2);
}

#[test]
fn a_peer_without_copies_gets_in_band_fec_when_it_loses() {
    let start = Instant::now();
    let mut adaptation = Adaptation::new(start);
    let alone = Circumstances { redundancy: false, ..circumstances() };
    assert!(!adaptation.plan(start, alone).wish.fec);
    let fate = |n: u32| if n.is_multiple_of(10) { Fate::Lost } else { Fate::Arrived { transit_us: None } };
    let outcomes: Vec<_> = (0..101).map(|n| Outcome { sent: start, length_ms: 20, fate: fate(n) }).collect();
    adaptation.learn(&outcomes, 90.0, start);
    let plan = adaptation.plan(start, alone);
    assert!(plan.wish.fec && plan.near.is_empty() && plan.wish.expected_loss_pct == 10, "{plan:?}");
}

#[test]
fn a_peer_that_tells_nothing_gets_a_little_against_everything() {
    let start = Instant::now();
    let blind = Circumstances { feedback: false, ..circumstances() };
    let plan = Adaptation::new(start).plan(start, blind);
    assert!(plan.near == [2] && plan.wish.fec && plan.wish.expected_loss_pct == 10, "{plan:?}");
}

#[test]
fn small_budgets_drop_copies_first_and_lengthen_frames_then() {
    let (mut before, mut lines) = (usize::MAX, 0);
    for budget in [140.0, 110.0, 90.0, 70.0, 50.0, 40.0, 36.0] {
        let plan = fitted(3, Some(200), true, Room { kbps: budget, ip_bytes: IPV4_BYTES });
        let copies = plan.near.len() + usize::from(plan.far_ms.is_some());
        let wire = wire_kbps(plan.wish, copies, IPV4_BYTES);
        println!(
            "{budget:5.0}: {:?} + {:?}, {} bit/s in {} ms, {wire:.0} kbit/s",
            plan.near, plan.far_ms, plan.wish.bitrate_bps, plan.wish.frame_ms
        );
        assert!(wire <= budget + 0.5 && copies <= before);
        assert!(plan.wish.bitrate_bps >= MIN_BITRATE_BPS - 100);
        before = copies;
        lines += usize::from(plan.wish.frame_ms == 40);
    }
    assert!(lines > 0 && before == 0);
}

#[test]
fn a_leg_whose_wish_was_not_granted_sends_fewer_copies() {
    let thinned = |near, far_ms, voice: (u32, u8), budget_kbps| {
        let (bitrate_bps, frame_ms) = voice;
        let room = |kbps| Room { kbps, ip_bytes: IPV4_BYTES };
        let plan = fitted(near, far_ms, false, room(MOST_KBPS));
        let plan = thinned(plan, Some(Voice { bitrate_bps, copy_bps: bitrate_bps, frame_ms }), room(budget_kbps));
        (plan.near, plan.far_ms)
    };
    let (none, clear) = (&[][..], (32_000, 20));
    assert_eq!(thinned(2, None, (36_000, 20), MOST_KBPS), (&[1, 2][..], None), "what was wished is granted");
    assert_eq!(thinned(2, None, (64_000, 20), MOST_KBPS), (none, None), "the encoder has not heard of it yet");
    assert_eq!(thinned(2, None, clear, 100.0), (&[1][..], None));
    assert_eq!(thinned(1, Some(200), clear, 100.0), (none, Some(200)), "those close behind go first");
    assert_eq!(thinned(1, Some(200), clear, 60.0), (none, None));
    assert_eq!(thinned(0, None, clear, 36.0), (none, None), "the voice itself always goes out");
}

#[test]
fn a_queue_that_grows_with_what_is_sent_leaves_less_to_send() {
    let start = Instant::now();
    let at = |ms: u64| start + Duration::from_millis(ms);
    let mut adaptation = Adaptation::new(start);
    let kbps = |adaptation: &mut Adaptation, ms| {
        let plan = adaptation.plan(at(ms), circumstances());
        wire_kbps(plan.wish, plan.near.len(), IPV4_BYTES)
    };
    let mut sends = kbps(&mut adaptation, 0);
    let before = sends;
    let mut queue_ms = 0.0;
    for ms in (0..10_000).step_by(100) {
        let outcomes: Vec<Outcome> = (0..5)
            .map(|packet| {
                queue_ms = (queue_ms + 20.0 * (sends / 70.0 - 1.0)).max(0.0);
                let transit_us = Some(30_000 + (queue_ms * 1000.0) as i64);
                Outcome { sent: at(ms + 20 * packet), length_ms: 20, fate: Fate::Arrived { transit_us } }
            })
            .collect();
        adaptation.learn(&outcomes, sends, at(ms + 100));
        sends = kbps(&mut adaptation, ms + 100);
    }
    println!("{before:.0} kbit/s, then {sends:.0} where 70 fit through");
    assert!(before > 100.0 && sends <= 70.0 && queue_ms < 200.0, "{before} {sends} {queue_ms} ms");
}

#[test]
fn many_legs_share_what_a_line_carries() {
    let start = Instant::now();
    let mut adaptation = Adaptation::new(start);
    let plan = |legs, adaptation: &mut Adaptation| adaptation.plan(start, Circumstances { legs, ..circumstances() });
    for legs in [1, 2, 7, 15, 31] {
        let plan = plan(legs, &mut adaptation);
        let total = wire_kbps(plan.wish, plan.near.len(), IPV4_BYTES) * legs as f64;
        println!("{legs} legs: {:?}, {total:.0} kbit/s", plan.wish);
        assert!(total <= ALL_LEGS_KBPS.max(LEAST_KBPS * legs as f64 + 1.0));
    }
    assert_eq!(plan(31, &mut adaptation).wish.frame_ms, 40);
}

#[test]
fn frames_are_short_on_a_long_clean_way_only() {
    let start = Instant::now();
    let outcomes = |lost: bool| {
        let fate = |n: u32| if lost && n == 5 { Fate::Lost } else { Fate::Arrived { transit_us: None } };
        (0..60).map(|n| Outcome { sent: start, length_ms: 20, fate: fate(n) }).collect::<Vec<_>>()
    };
    let frame_ms = |rtt_ms, lost| {
        let mut adaptation = Adaptation::new(start);
        adaptation.learn(&outcomes(lost), 90.0, start);
        let plan = adaptation.plan(start, Circumstances { rtt_ms: Some(rtt_ms), ..circumstances() });
        assert!(lost || wire_kbps(plan.wish, plan.near.len(), IPV4_BYTES) <= 105.0);
        plan.wish.frame_ms
    };
    assert_eq!((frame_ms(200.0, false), frame_ms(20.0, false), frame_ms(200.0, true)), (10, 20, 20));
}

#[test]
fn whatever_the_path_is_like_no_leg_takes_more_than_160_kbit_and_a_clean_one_105() {
    let start = Instant::now();
    for (loss, ip_bytes) in [0.0, 0.05, 0.3, 0.5].into_iter().flat_map(|loss| [(loss, IPV4_BYTES), (loss, IPV6_BYTES)])
    {
        let mut lost = random(loss, 1);
        let fate = |lost| if lost { Fate::Lost } else { Fate::Arrived { transit_us: None } };
        let outcomes: Vec<Outcome> =
            (0..300).map(|n| Outcome { sent: start, length_ms: 20, fate: fate(lost(n)) }).collect();
        for rtt_ms in [20.0, 200.0] {
            let mut adaptation = Adaptation::new(start);
            adaptation.learn(&outcomes, 90.0, start);
            let path = Circumstances { rtt_ms: Some(rtt_ms), ip_bytes, ..circumstances() };
            let plan = adaptation.plan(start, path);
            // It is granted, or another leg wishes for a voice as clear as can be.
            let clear = Voice { bitrate_bps: 64_000, copy_bps: 64_000, frame_ms: 20 };
            for voice in [plan.wish.into(), clear] {
                let copies = adaptation.plan(start, Circumstances { voice: Some(voice), ..path }).near.len();
                let wire = wire_kbps(voice, copies, ip_bytes);
                println!(
                    "{loss} lost, {ip_bytes} bytes of IP, {rtt_ms} ms: {voice:?} and {copies} copies, {wire:.1} kbit/s"
                );
                // What is told of what arrives, RTCP and ICE's checks come on top.
                assert!(wire <= if loss > 0.0 || voice == clear { 145.5 } else { 90.0 });
                assert!(voice == clear || copies == plan.near.len(), "what was wished for is not too much");
            }
        }
    }
}

#[test]
fn deep_redundancy_that_is_not_granted_costs_no_copy() {
    let copies = |loss, others: &[Wish], constant_bitrate| {
        let wish = call(30, random(loss, 1)).plans.last().unwrap().wish;
        let granted = Wish::granted([wish].iter().chain(others).copied().collect(), constant_bitrate);
        let mut adaptation = Adaptation::new(Instant::now());
        let mut lost = random(loss, 1);
        let fate = |lost| if lost { Fate::Lost } else { Fate::Arrived { transit_us: None } };
        let start = Instant::now();
        let outcomes: Vec<Outcome> =
            (0..300).map(|n| Outcome { sent: start, length_ms: 20, fate: fate(lost(n)) }).collect();
        adaptation.learn(&outcomes, 90.0, start);
        let legs = 1 + others.len();
        adaptation.plan(start, Circumstances { voice: Some(granted.into()), legs, ..circumstances() }).near.len()
    };
    let at_30 = call(30, random(0.3, 1)).plans.last().unwrap().wish;
    assert_eq!((copies(0.3, &[], true), copies(0.4, &[], true)), (3, 3), "at constant bitrate");
    assert_eq!(copies(0.4, &[at_30], false), 3, "beside a leg that does not ask for it");
    assert_eq!(copies(0.4, &[], false), 3);
}
