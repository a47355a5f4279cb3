//! Arrival traces: what the buffer does with each, and that delay and concealment both stay within bounds.

mod rules;

use std::time::Duration;

use super::{advice::SHORTEST_STRETCH, *};

/// Fullband CELT frames of 20 ms (RFC 6716, §3.1) hold no FEC; one byte of payload.
const PLAIN: &[u8] = &[31 << 3, 0];
/// A hybrid frame of 20 ms that holds FEC of the one before.
const WITH_FEC: &[u8] = &[15 << 3, 0xC0];
/// Modelled traces…
const WIFI: &str = include_str!("traces/wifi.txt");
const BUFFERBLOAT: &str = include_str!("traces/bufferbloat.txt");
/// …and recorded ones, of a minute each: their heads say of what.
const BUSY: &str = include_str!("traces/busy.txt");
const UPLOAD: &str = include_str!("traces/upload.txt");

/// A packet as it arrives.
#[derive(Debug, Clone, Copy)]
struct Arrived {
    /// Frame n is sent at 20·n ms.
    number: u32,
    at_ms: f64,
    /// The packet that carried it, when it is a copy.
    behind: Option<u32>,
}

type Trace = Vec<Arrived>;

#[derive(Debug, Default)]
struct Outcome {
    played: Vec<u32>,
    made_up_ms: i64,
    stretched_ms: f64,
    idle_pulls: usize,
    /// From sending to playing, ms, by time of playing.
    delays_ms: Vec<(f64, f64)>,
    stats: JitterStats,
}

impl Outcome {
    fn within(&self, from_s: f64, to_s: f64) -> Vec<f64> {
        self.delays_ms.iter().filter(|(at, _)| (from_s * 1e3..to_s * 1e3).contains(at)).map(|(_, d)| *d).collect()
    }

    fn mean_delay_ms(&self, from_s: f64, to_s: f64) -> f64 {
        let within = self.within(from_s, to_s);
        within.iter().sum::<f64>() / within.len() as f64
    }

    fn longest_delay_ms(&self, from_s: f64, to_s: f64) -> f64 {
        self.within(from_s, to_s).into_iter().fold(0.0, f64::max)
    }

    /// Asserts the trade-off: mean delay and share of sound made up, both at most.
    fn costs(&self, name: &str, delay_ms: f64, made_up_pct: f64) {
        let pct = 100.0 * self.made_up_ms as f64 / (20.0 * self.played.len() as f64 + self.made_up_ms as f64);
        let mean = self.mean_delay_ms(0.0, 1e9);
        println!("{name:<34} {mean:>5.1} of {delay_ms:>3} ms, made up {pct:>5.2} of {made_up_pct} %");
        assert!(mean <= delay_ms && pct <= made_up_pct, "{name}: {mean} ms, {pct} %");
    }
}

/// A sender's numbering, and a receiver that plays blocks of 10 ms; its clock runs `ppm` faster.
struct Bench {
    first_sequence: u16,
    first_timestamp: u32,
    ppm: f64,
    /// How much the sender's numbering falls behind its clock in the trace.
    behind_ms: f64,
    /// Time at which the audio thread stands still, and for how long.
    stall_ms: Option<(f64, f64)>,
    payload: &'static [u8],
    /// Only places that are good in haste.
    rough: bool,
    name: &'static str,
}

impl Bench {
    fn new(name: &'static str) -> Self {
        Self {
            first_sequence: 65_500,
            first_timestamp: u32::MAX - 100_000,
            ppm: 0.0,
            behind_ms: 0.0,
            stall_ms: None,
            payload: PLAIN,
            rough: false,
            name,
        }
    }

    fn packet(&self, arrived: Arrived, arrival: Instant) -> ReceivedPacket {
        ReceivedPacket {
            sequence: self.first_sequence.wrapping_add(arrived.behind.unwrap_or(arrived.number) as u16),
            timestamp: self.first_timestamp.wrapping_add(arrived.number.wrapping_mul(960)),
            payload: Bytes::from_static(self.payload),
            copy: arrived.behind.is_some(),
            dred: false,
            arrival,
        }
    }

    fn run(&self, mut trace: Trace, seconds: f64) -> Outcome {
        trace.sort_by(|a, b| a.at_ms.total_cmp(&b.at_ms));
        let epoch = Instant::now();
        let at = |ms: f64| epoch + Duration::from_secs_f64(ms / 1000.0);
        let mut ear =
            Ear { buffer: JitterBuffer::new(epoch), left: 0, ahead: false, dice: Dice(5), outcome: Outcome::default() };
        let mut arrivals = trace.into_iter().peekable();
        let step_ms = 10.0 / (1.0 + self.ppm / 1e6);
        for tick in 0..(seconds * 1000.0 / step_ms) as u32 {
            let now_ms = 3.0 + f64::from(tick) * step_ms;
            if self.stall_ms.is_some_and(|(from, length)| (from..from + length).contains(&now_ms)) {
                continue;
            }
            while let Some(arrived) = arrivals.next_if(|arrived| arrived.at_ms <= now_ms) {
                ear.buffer.push(self.packet(arrived, at(arrived.at_ms)));
            }
            ear.hear(self, at(now_ms), now_ms);
            assert!(ear.buffer.packets.len() <= MAX_PACKETS);
        }
        let mut outcome = ear.outcome;
        outcome.stats = ear.buffer.stats();
        let (stats, longest) = (outcome.stats, outcome.longest_delay_ms(0.0, 1e9));
        println!(
            "{:<34} {:>5} played, {} copies, {} FEC, {} late, {} ms made up, {:.0} ms in {} stretches, delay {:.1} ms, \
             longest {longest:.0}",
            self.name,
            outcome.played.len(),
            stats.by_copy,
            stats.by_fec,
            stats.late,
            outcome.made_up_ms,
            outcome.stretched_ms,
            stats.stretches,
            outcome.mean_delay_ms(0.0, 1e9),
        );
        // What was decoded before comes on top.
        assert!(longest <= 410.0 + self.behind_ms, "{}: {longest}", self.name);
        assert!(outcome.played.is_sorted_by(|a, b| a < b), "{}: played once and in order", self.name);
        outcome
    }
}

/// What `remote` does, without sound: every third place is good enough to stretch at, by half of what is asked.
struct Ear {
    buffer: JitterBuffer,
    left: i64,
    ahead: bool,
    dice: Dice,
    outcome: Outcome,
}

impl Ear {
    fn hear(&mut self, bench: &Bench, now: Instant, now_ms: f64) {
        while self.left < BLOCK || (self.ahead && self.left < 3 * BLOCK && self.buffer.has_next()) {
            self.ahead = false;
            match self.buffer.pull(now, self.left as usize) {
                Pull::Idle | Pull::Pause => {
                    self.outcome.idle_pulls += 1;
                    self.left = BLOCK;
                }
                Pull::Packet(_) => {
                    let number = (self.buffer.next.unwrap() - FRAME) as u32;
                    let number = number.wrapping_sub(bench.first_timestamp) / 960;
                    self.outcome.played.push(number);
                    let delay_ms = now_ms + self.left as f64 / 48.0 - f64::from(number) * 20.0;
                    self.outcome.delays_ms.push((now_ms, delay_ms));
                    self.left += FRAME;
                    self.stretch(bench);
                }
                Pull::Recover(_, samples) => self.left += samples as i64,
                Pull::Conceal(samples, _) => {
                    self.outcome.made_up_ms += samples as i64 / MS;
                    self.left += samples as i64;
                }
            }
        }
        self.left -= BLOCK;
    }

    fn stretch(&mut self, bench: &Bench) {
        for place in 0..2 {
            let left = self.left;
            let (most, sign, haste) = match self.buffer.advice(left as usize) {
                Advice::Keep => return,
                Advice::Shrink(..) if left < 3 * BLOCK && place == 0 && self.buffer.has_next() => {
                    self.ahead = true;
                    return;
                }
                Advice::Shrink(most, haste) => (most as i64, -1, haste),
                Advice::Grow(..) if place > 0 => return,
                Advice::Grow(most, haste) => (most as i64, 1, haste),
            };
            let good = match haste {
                Haste::Calm => !bench.rough && self.dice.roll() < 0.3,
                Haste::Quick => self.dice.roll() < 0.5,
                Haste::Now => self.dice.roll() < 0.8,
            };
            let room = left / 2 - place * BLOCK;
            if good && most.min(room) >= SHORTEST_STRETCH {
                let samples = sign * most.min(room).min(120 + (self.dice.roll() * 480.0) as i64);
                self.left += samples;
                self.outcome.stretched_ms += samples.abs() as f64 / MS as f64;
                self.buffer.stretched(samples, left as usize);
            }
        }
    }
}

/// A small generator, so that traces are the same in every run.
struct Dice(u32);

impl Dice {
    /// 0.0..1.0
    fn roll(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f64::from(self.0 >> 8) / f64::from(1 << 24)
    }
}

/// Packets that take 5 ms and up to `jitter_ms` more.
fn steady(seconds: u32, jitter_ms: f64) -> Trace {
    let mut dice = Dice(1);
    let packet =
        |number| Arrived { number, at_ms: f64::from(number) * 20.0 + 5.0 + jitter_ms * dice.roll(), behind: None };
    (0..seconds * 50).map(packet).collect()
}

/// Loses what `lost` says, and puts copies of the frames `back` behind what is left.
fn lossy(trace: Trace, back: &[u32], mut lost: impl FnMut(u32) -> bool) -> Trace {
    let mut left = Trace::new();
    for packet in trace {
        if !lost(packet.number) {
            left.push(packet);
            let copy = |back: &u32| packet.number.checked_sub(*back);
            let numbers = back.iter().filter_map(copy);
            left.extend(numbers.map(|number| Arrived { number, behind: Some(packet.number), ..packet }));
        }
    }
    left
}

fn random(percent: f64) -> impl FnMut(u32) -> bool {
    let mut dice = Dice(3);
    move |_| dice.roll() * 100.0 < percent
}

/// 100 to 200 ms of nothing every 2 s, until `until_s`.
fn outages(until_s: u32) -> impl FnMut(u32) -> bool {
    move |number| number < until_s * 50 && number % 100 >= 30 && number % 100 < 35 + (number / 100 * 7) % 6
}

fn transits(text: &str) -> Trace {
    let all = text.lines().filter(|line| !line.starts_with('#')).flat_map(str::split_whitespace);
    let packet = |(number, transit): (usize, &str)| {
        let number = number as u32;
        transit.parse::<f64>().ok().map(|transit| Arrived {
            number,
            at_ms: f64::from(number) * 20.0 + transit,
            behind: None,
        })
    };
    all.enumerate().filter_map(packet).collect()
}

#[test]
fn a_steady_network_costs_one_frame_of_delay_and_nothing_is_made_up_or_stretched() {
    for jitter_ms in [0.0, 2.0] {
        let outcome = Bench::new("steady").run(steady(60, jitter_ms), 60.0);
        outcome.costs("steady", 20.0, 0.0);
        assert!(outcome.played.len() > 2_990);
        assert!(outcome.longest_delay_ms(0.0, 60.0) < 25.0, "5 ms of them on the way");
        assert!(outcome.stats.stretches <= 2);
    }
}

#[test]
fn jitter_is_waited_for() {
    Bench::new("jitter 20 ms").run(steady(60, 20.0), 60.0).costs("jitter 20 ms", 40.0, 0.3);
    Bench::new("jitter 40 ms").run(steady(60, 40.0), 60.0).costs("jitter 40 ms", 62.0, 0.5);
}

#[test]
fn after_spikes_the_delay_comes_back() {
    let mut trace = steady(60, 1.0);
    // 150 ms of nothing every second from 5 s to 15 s, then all at once.
    for packet in &mut trace[250..750] {
        let into = (packet.number * 20 % 1000) as f64;
        if into < 150.0 {
            packet.at_ms += 150.0 - into;
        }
    }
    let outcome = Bench::new("spikes").run(trace, 60.0);
    outcome.costs("spikes", 60.0, 1.2);
    let (before, during) = (outcome.mean_delay_ms(1.0, 5.0), outcome.mean_delay_ms(8.0, 15.0));
    assert!((120.0..190.0).contains(&during), "{during}");
    let after = outcome.longest_delay_ms(24.0, 60.0);
    assert!(after < before + 12.0, "{after} after {before}: within ten seconds");
}

#[test]
fn one_spike_of_200_ms_is_over_soon() {
    let mut trace = steady(20, 1.0);
    for packet in &mut trace[500..510] {
        packet.at_ms += 20.0 * f64::from(510 - packet.number);
    }
    let outcome = Bench::new("one spike").run(trace, 20.0);
    outcome.costs("one spike of 200 ms", 55.0, 1.1);
    assert!(outcome.longest_delay_ms(14.0, 20.0) < 30.0, "two seconds to be sure and one and a half to shrink");
}

#[test]
fn wifi_and_bufferbloat_cost_what_they_must() {
    let wifi = Bench { payload: WITH_FEC, ..Bench::new("Wi-Fi") }.run(transits(WIFI), 20.0);
    wifi.costs("Wi-Fi", 120.0, 2.5);
    let mut trace = transits(BUFFERBLOAT);
    trace.extend(steady(30, 2.0).into_iter().skip(1000).map(|packet| Arrived { at_ms: packet.at_ms + 13.0, ..packet }));
    let bloat = Bench { payload: WITH_FEC, ..Bench::new("bufferbloat") }.run(trace, 30.0);
    bloat.costs("bufferbloat", 150.0, 2.5);
    assert!(bloat.longest_delay_ms(24.0, 30.0) < 45.0, "ten seconds after the queue has drained");
}

#[test]
fn a_busy_machine_and_a_full_line_as_they_were_recorded_cost_what_they_must() {
    let busy = Bench { payload: WITH_FEC, ..Bench::new("busy machine") }.run(transits(BUSY), 60.0);
    busy.costs("busy machine, recorded", 65.0, 1.0);
    let upload = Bench { payload: WITH_FEC, ..Bench::new("upload") }.run(transits(UPLOAD), 60.0);
    upload.costs("upload, recorded", 130.0, 3.0);
    let (during, after) = (upload.mean_delay_ms(25.0, 40.0), upload.longest_delay_ms(52.0, 60.0));
    println!("{during:.0} ms during the upload, {after:.0} ms at most from ten seconds after it on");
    assert!(after < 30.0, "{after}");
}

#[test]
fn reordered_and_doubled_packets_are_put_right() {
    let mut trace = steady(30, 0.0);
    for pair in trace.chunks_exact_mut(2) {
        (pair[0].number, pair[1].number) = (pair[1].number, pair[0].number);
    }
    trace.extend(trace.clone());
    let outcome = Bench::new("reordered, doubled").run(trace, 30.0);
    outcome.costs("reordered, doubled", 40.0, 0.4);
    assert_eq!(outcome.stats.loss_pct, 0.0);
    assert!(outcome.played.len() > 1_485);
}

#[test]
fn random_loss_with_copies_is_waited_for_as_far_as_it_pays() {
    for (percent, delay_ms, made_up_pct) in [(5.0, 60.0, 0.5), (10.0, 70.0, 0.5), (20.0, 82.0, 1.2), (30.0, 88.0, 2.0)]
    {
        let trace = lossy(steady(120, 1.0), &[1, 2, 3], random(percent));
        let outcome = Bench::new("copies 20, 40, 60 ms back").run(trace, 120.0);
        outcome.costs(&format!("{percent} % loss, three copies"), delay_ms, made_up_pct);
        assert!((outcome.stats.loss_pct - percent).abs() < 5.0, "copies are not received packets");
    }
}

#[test]
fn outages_with_a_far_copy_are_bridged_and_forgotten() {
    let trace = lossy(steady(60, 1.0), &[10], outages(40));
    let outcome = Bench::new("outages, copy 200 ms back").run(trace, 60.0);
    outcome.costs("outages, copy 200 ms back", 175.0, 1.2);
    let (during, after) = (outcome.mean_delay_ms(6.0, 40.0), outcome.longest_delay_ms(49.0, 60.0));
    assert!((205.0..245.0).contains(&during), "{during}");
    assert!(after < 30.0, "{after}");
    assert!(outcome.stats.by_copy > 110, "{}", outcome.stats.by_copy);
}

#[test]
fn isolated_losses_come_back_through_fec_and_are_not_waited_for_without() {
    let lost = |payload, name| {
        let bench = Bench { payload, ..Bench::new(name) };
        bench.run(lossy(steady(60, 1.0), &[], random(10.0)), 60.0)
    };
    let outcome = lost(WITH_FEC, "10 % loss, FEC");
    outcome.costs("10 % loss, FEC", 42.0, 1.6);
    assert!(outcome.stats.by_fec > 240, "{}", outcome.stats.by_fec);
    lost(PLAIN, "10 % loss, nothing against it").costs("10 % loss, nothing against it", 21.0, 10.5);
}

#[test]
fn a_copy_is_better_than_fec() {
    let bench = Bench { payload: WITH_FEC, ..Bench::new("10 % loss, FEC and a copy") };
    let outcome = bench.run(lossy(steady(60, 1.0), &[1], random(10.0)), 60.0);
    outcome.costs("10 % loss, FEC and a copy", 45.0, 1.6);
    assert!(outcome.stats.by_fec < 10 && outcome.stats.by_copy > 240, "{:?}", outcome.stats);
}

#[test]
fn drift_of_300_ppm_is_followed_without_concealment() {
    for ppm in [-300.0, 300.0] {
        let bench = Bench { ppm, ..Bench::new("drift 300 ppm") };
        let outcome = bench.run(steady(600, 2.0), 600.0);
        outcome.costs("drift 300 ppm", 30.0, 0.05);
        assert!(outcome.longest_delay_ms(0.0, 600.0) < 42.0);
        let drifted_ms = 600.0 * 0.3;
        assert!(outcome.stretched_ms < 3.0 * drifted_ms, "{} ms", outcome.stretched_ms);
    }
}

#[test]
fn a_stall_of_the_audio_thread_is_over_after_two_seconds_and_teaches_nothing() {
    let bench = Bench { stall_ms: Some((10_000.0, 500.0)), ..Bench::new("stall of 500 ms") };
    let outcome = bench.run(steady(30, 1.0), 30.0);
    outcome.costs("stall of 500 ms", 40.0, 0.5);
    assert!(outcome.longest_delay_ms(10.5, 11.0) > 100.0);
    assert!(outcome.longest_delay_ms(12.5, 30.0) < 35.0, "{}", outcome.longest_delay_ms(12.5, 30.0));
    // The whole machine stood still: all packets seem to come late.
    let mut trace = steady(30, 1.0);
    trace.iter_mut().filter(|packet| (10_000.0..10_500.0).contains(&packet.at_ms)).for_each(|p| p.at_ms = 10_500.0);
    let outcome = bench.run(trace, 30.0);
    assert!(outcome.longest_delay_ms(12.5, 30.0) < 35.0, "{}", outcome.longest_delay_ms(12.5, 30.0));
}

#[test]
fn delay_shrinks_by_200_ms_in_a_second_and_a_half_once_that_is_known_to_be_right() {
    let mut trace = steady(10, 0.0);
    // Another path, 200 ms shorter, all at once.
    trace.iter_mut().filter(|packet| packet.number < 250).for_each(|packet| packet.at_ms += 200.0);
    let outcome = Bench::new("a shorter path").run(trace, 10.0);
    assert!(outcome.longest_delay_ms(2.0, 5.0) > 200.0);
    assert!(outcome.longest_delay_ms(7.0, 10.0) < 30.0, "{}", outcome.longest_delay_ms(7.0, 10.0));
    assert_eq!(outcome.made_up_ms, 0);
}
