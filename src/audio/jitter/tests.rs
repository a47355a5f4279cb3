//! Arrival traces: what the buffer does with each, and that it stays within its bounds.

use std::time::Duration;

use super::*;

/// The table-of-contents byte of a 20 ms fullband CELT packet (RFC 6716, §3.1), and one byte of payload.
const PACKET: &[u8] = &[31 << 3, 0];

/// A packet's number and its arrival, in ms after the start. Packet n is sent at 20·n ms.
type Trace = Vec<(u32, f64)>;

#[derive(Debug, Default)]
struct Outcome {
    played: Vec<u32>,
    recovered: usize,
    concealed: usize,
    idle_pulls: usize,
    /// From sending to playing, ms, by time of playing.
    delays_ms: Vec<(f64, f64)>,
}

impl Outcome {
    fn mean_delay_ms(&self, from_s: f64, to_s: f64) -> f64 {
        let within: Vec<f64> =
            self.delays_ms.iter().filter(|(at, _)| (from_s * 1e3..to_s * 1e3).contains(at)).map(|(_, d)| *d).collect();
        within.iter().sum::<f64>() / within.len() as f64
    }

    fn longest_delay_ms(&self) -> f64 {
        self.delays_ms.iter().map(|(_, delay)| *delay).fold(0.0, f64::max)
    }
}

/// A sender's numbering, and a receiver that plays blocks of 10 ms; its clock runs `ppm` faster.
struct Bench {
    first_sequence: u16,
    first_timestamp: u32,
    ppm: f64,
    /// How much the sender's numbering falls behind its clock in the trace.
    behind_ms: f64,
    name: &'static str,
}

impl Bench {
    fn new(name: &'static str) -> Self {
        Self { first_sequence: 65_500, first_timestamp: u32::MAX - 100_000, ppm: 0.0, behind_ms: 0.0, name }
    }

    fn packet(&self, number: u32, arrival: Instant) -> ReceivedPacket {
        ReceivedPacket {
            sequence: self.first_sequence.wrapping_add(number as u16),
            timestamp: self.first_timestamp.wrapping_add(number.wrapping_mul(960)),
            payload: Bytes::from_static(PACKET),
            copy: false,
            arrival,
        }
    }

    fn run(&self, mut trace: Trace, seconds: f64) -> Outcome {
        trace.sort_by(|a, b| a.1.total_cmp(&b.1));
        let epoch = Instant::now();
        let at = |ms: f64| epoch + Duration::from_secs_f64(ms / 1000.0);
        let mut buffer = JitterBuffer::new(epoch);
        let mut arrivals = trace.into_iter().peekable();
        let mut outcome = Outcome::default();
        let mut left = 0_i64;
        let step_ms = 10.0 / (1.0 + self.ppm / 1e6);
        for tick in 0..(seconds * 1000.0 / step_ms) as u32 {
            let now_ms = 3.0 + f64::from(tick) * step_ms;
            while let Some((number, arrival)) = arrivals.next_if(|(_, arrival)| *arrival <= now_ms) {
                buffer.push(self.packet(number, at(arrival)));
            }
            while left < 480 {
                match buffer.pull(at(now_ms)) {
                    Pull::Idle | Pull::Pause => {
                        outcome.idle_pulls += 1;
                        left = 480;
                    }
                    Pull::Packet(_, advice) => {
                        let newest = buffer.next.unwrap() - FRAME;
                        let number = (newest as u32).wrapping_sub(self.first_timestamp) / 960;
                        outcome.played.push(number);
                        outcome.delays_ms.push((now_ms, now_ms + left as f64 / 48.0 - f64::from(number) * 20.0));
                        left += match advice {
                            Advice::Keep => 960,
                            Advice::Shrink => 960 - 240,
                            Advice::Grow => 960 + 240,
                        };
                        if advice != Advice::Keep {
                            buffer.stretched();
                        }
                    }
                    Pull::Recover(_, samples) => {
                        outcome.recovered += 1;
                        left += samples as i64;
                    }
                    Pull::Conceal(samples) => {
                        outcome.concealed += 1;
                        left += samples as i64;
                    }
                }
            }
            left -= 480;
            assert!(buffer.packets.len() <= MAX_PACKETS);
        }
        println!(
            "{:<22} played {:>5}, FEC {:>4}, concealed {:>4}, delay mean {:>5.1} ms, longest {:>5.1} ms",
            self.name,
            outcome.played.len(),
            outcome.recovered,
            outcome.concealed,
            outcome.mean_delay_ms(0.0, 1e9),
            outcome.longest_delay_ms(),
        );
        assert!(outcome.longest_delay_ms() <= 400.0 + self.behind_ms, "{}: {}", self.name, outcome.longest_delay_ms());
        assert!(outcome.played.is_sorted_by(|a, b| a < b), "{}: played once and in order", self.name);
        outcome
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
    (0..seconds * 50).map(|number| (number, f64::from(number) * 20.0 + 5.0 + jitter_ms * dice.roll())).collect()
}

#[test]
fn a_steady_network_costs_little_delay_and_nothing_is_made_up() {
    for jitter_ms in [0.0, 2.0] {
        let outcome = Bench::new("steady").run(steady(60, jitter_ms), 60.0);
        assert_eq!((outcome.concealed, outcome.recovered), (0, 0));
        assert!(outcome.played.len() > 2_990);
        assert!(outcome.longest_delay_ms() < 35.0, "5 ms of them on the way");
    }
}

#[test]
fn jitter_of_40_ms_is_waited_for() {
    let outcome = Bench::new("jitter 40 ms").run(steady(60, 40.0), 60.0);
    assert!(outcome.concealed < 30, "{}", outcome.concealed);
    assert!(outcome.mean_delay_ms(10.0, 60.0) < 75.0);
}

#[test]
fn after_a_spike_the_delay_comes_back() {
    let mut trace = steady(60, 1.0);
    // 150 ms of nothing every second from 5 s to 15 s, then all at once.
    for (number, arrival) in &mut trace[250..750] {
        let into = (*number * 20 % 1000) as f64;
        if into < 150.0 {
            *arrival += 150.0 - into;
        }
    }
    let outcome = Bench::new("spikes").run(trace, 60.0);
    let (before, during, after) =
        (outcome.mean_delay_ms(1.0, 5.0), outcome.mean_delay_ms(8.0, 15.0), outcome.mean_delay_ms(32.0, 60.0));
    println!("  delay before {before:.0}, during {during:.0}, after {after:.0} ms");
    assert!(during > 120.0 && during < 220.0, "{during}");
    assert!(after < before + 15.0, "{after}");
    assert!(outcome.concealed < 60, "{}", outcome.concealed);
}

#[test]
fn reordered_and_doubled_packets_are_put_right() {
    let mut trace = steady(30, 0.0);
    for pair in trace.chunks_exact_mut(2) {
        (pair[0].0, pair[1].0) = (pair[1].0, pair[0].0);
    }
    trace.extend(trace.clone());
    let outcome = Bench::new("reordered, doubled").run(trace, 30.0);
    assert!(outcome.concealed + outcome.recovered <= 8, "{outcome:?}");
    assert!(outcome.played.len() > 1_485);
}

#[test]
fn isolated_losses_come_back_through_fec_and_runs_are_concealed() {
    let mut dice = Dice(3);
    let mut trace = steady(60, 1.0);
    trace.retain(|(number, _)| dice.roll() >= 0.1 && number % 100 >= 3);
    let lost = 3_000 - trace.len();
    let outcome = Bench::new("10 % loss, outages").run(trace, 60.0);
    assert!(outcome.recovered * 10 > lost * 6, "{} of {lost}", outcome.recovered);
    assert!(outcome.recovered + outcome.concealed < lost + 10, "no more is filled than was lost");
    assert!(outcome.longest_delay_ms() < 70.0);
}

#[test]
fn drift_of_300_ppm_is_followed_without_concealment() {
    for ppm in [-300.0, 300.0] {
        let bench = Bench { ppm, ..Bench::new("drift 300 ppm") };
        let outcome = bench.run(steady(600, 2.0), 600.0);
        assert!(outcome.concealed <= 2, "{ppm}: {}", outcome.concealed);
        assert!(outcome.longest_delay_ms() < 45.0 + 10.0, "{ppm}: {}", outcome.longest_delay_ms());
    }
}

#[test]
fn a_pause_ends_in_silence_and_playing_goes_on_after_it() {
    let mut trace = steady(30, 1.0);
    trace.retain(|(number, _)| !(500..650).contains(number));
    let outcome = Bench::new("pause of 3 s").run(trace, 30.0);
    assert!(outcome.concealed <= 13, "{}", outcome.concealed);
    assert!(outcome.idle_pulls > 250);
    assert!(outcome.mean_delay_ms(14.0, 30.0) < 40.0);
    // The sender's clock stood still meanwhile.
    let mut trace = steady(30, 1.0);
    trace.iter_mut().skip(500).for_each(|(_, arrival)| *arrival += 700.0);
    let bench = Bench { behind_ms: 700.0, ..Bench::new("clock stood still") };
    let outcome = bench.run(trace, 30.0);
    assert!(outcome.concealed < 40, "{}", outcome.concealed);
    assert!(outcome.mean_delay_ms(25.0, 30.0) < 740.0);
}

#[test]
fn a_restarted_sender_is_heard_at_once() {
    let epoch = Instant::now();
    let mut buffer = JitterBuffer::new(epoch);
    let bench = Bench::new("restart");
    let mut packets = 0;
    for tick in 0..400_u32 {
        let now = epoch + Duration::from_millis(u64::from(tick) * 10);
        if tick % 2 == 0 {
            let mut packet = bench.packet(tick / 2, now);
            if tick >= 200 {
                packet.sequence = packet.sequence.wrapping_add(30_000);
                packet.timestamp = packet.timestamp.wrapping_add(2_000_000_000);
            }
            buffer.push(packet);
            packets += u32::from(matches!(buffer.pull(now), Pull::Packet(..)));
        }
    }
    assert!(packets > 190, "{packets}");
    assert!(buffer.stats().loss_pct < 1.0);
}

#[test]
fn a_single_stray_packet_changes_nothing() {
    let epoch = Instant::now();
    let mut buffer = JitterBuffer::new(epoch);
    let bench = Bench::new("stray");
    for number in 0..100 {
        let now = epoch + Duration::from_millis(20 * u64::from(number));
        buffer.push(bench.packet(number, now));
        if number % 10 == 5 {
            let mut stray = bench.packet(number.wrapping_mul(7_919), now);
            stray.timestamp = stray.timestamp.wrapping_mul(40_503);
            buffer.push(stray);
        }
        let pulled = buffer.pull(now);
        assert!(number < 2 || matches!(pulled, Pull::Packet(..)), "{number}: {pulled:?}");
    }
}

#[test]
fn a_flood_is_bounded_and_garbage_is_dropped() {
    let epoch = Instant::now();
    let mut buffer = JitterBuffer::new(epoch);
    let mut dice = Dice(9);
    for round in 0..50_000_u64 {
        let timestamp = (dice.roll() * 4e9) as u32;
        buffer.push(ReceivedPacket {
            sequence: (dice.roll() * 65e3) as u16,
            timestamp: if round % 3 == 0 { timestamp } else { (round * 120) as u32 },
            payload: Bytes::from_static(if round % 7 == 0 { &[] } else { PACKET }),
            copy: false,
            arrival: epoch + Duration::from_micros(round * 50),
        });
        assert!(buffer.packets.len() <= MAX_PACKETS);
        let ends = (buffer.packets.first_key_value(), buffer.packets.last_key_value());
        if let (Some((first, _)), Some((last, _))) = ends {
            assert!(last - first <= MAX_DELAY_SAMPLES);
        }
        if round % 100 == 0 {
            buffer.pull(epoch + Duration::from_micros(round * 50));
        }
    }
}
