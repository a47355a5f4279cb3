//! Rules for single packets: pauses, restarts, frames of several lengths, garbage.

use super::*;

/// 10, 20 and 40 ms of sound.
const LENGTHS: [(&[u8], u32); 3] = [(&[30 << 3, 0], 480), (&[31 << 3, 0], 960), (&[31 << 3 | 1, 0, 0], 1920)];

#[test]
fn a_pause_ends_in_silence_and_playing_goes_on_after_it() {
    let mut trace = steady(30, 1.0);
    trace.retain(|packet| !(500..650).contains(&packet.number));
    let outcome = Bench::new("3 s lost").run(trace, 30.0);
    assert!(outcome.made_up_ms <= 260, "{}", outcome.made_up_ms);
    assert!(outcome.idle_pulls > 250);
    assert!(outcome.mean_delay_ms(14.0, 30.0) < 40.0);
    // The sender's clock stood still meanwhile.
    let mut trace = steady(30, 1.0);
    trace.iter_mut().skip(500).for_each(|packet| packet.at_ms += 700.0);
    let bench = Bench { behind_ms: 700.0, ..Bench::new("clock stood still") };
    let outcome = bench.run(trace, 30.0);
    assert!(outcome.made_up_ms < 300, "{}", outcome.made_up_ms);
    assert!(outcome.mean_delay_ms(25.0, 30.0) < 740.0);
}

/// Plays packets (arrival ms, packet) and returns what was pulled at each tick of 10 ms at which the ear was empty.
fn pulls(packets: &[(u32, ReceivedPacket)], until_ms: u32, buffer: &mut JitterBuffer) -> Vec<(u32, Pull)> {
    let mut pulled = Vec::new();
    let (mut left, mut waiting) = (0_usize, packets.iter().peekable());
    for now_ms in (0..until_ms).step_by(10) {
        let now = buffer.epoch + Duration::from_millis(now_ms.into());
        while let Some((_, packet)) = waiting.next_if(|(arrival, _)| *arrival <= now_ms) {
            buffer.push(packet.clone());
        }
        while left < BLOCK_SAMPLES {
            let pull = buffer.pull(now, left);
            left += match &pull {
                Pull::Idle | Pull::Pause => BLOCK_SAMPLES,
                Pull::Packet(payload) => packet_samples(payload).unwrap(),
                Pull::Recover(_, samples) | Pull::Conceal(samples, _) => *samples,
            };
            pulled.push((now_ms, pull));
        }
        left -= BLOCK_SAMPLES;
    }
    pulled
}

/// A packet of 20 ms that is sent `at_ms`, and arrives 5 ms later.
fn sent(buffer: &JitterBuffer, sequence: u16, at_ms: u32) -> (u32, ReceivedPacket) {
    let arrival = buffer.epoch + Duration::from_millis(u64::from(at_ms) + 5);
    let payload = Bytes::from_static(PLAIN);
    (at_ms + 5, ReceivedPacket { sequence, timestamp: at_ms * 48, payload, copy: false, dred: false, arrival })
}

#[test]
fn a_gap_in_time_without_one_in_numbers_is_a_pause_and_nothing_of_it_counts() {
    for gap_ms in [60, 100, 400, 3_000] {
        let mut buffer = JitterBuffer::new(Instant::now());
        let gap = |number: u32| if number < 50 { 0 } else { gap_ms };
        let packets: Vec<_> = (0..100).map(|n| sent(&buffer, n as u16, 20 * n + gap(n))).collect();
        let pulled = pulls(&packets, 1_900 + gap_ms, &mut buffer);
        let stats = buffer.stats();
        assert_eq!((stats.concealed_pct, stats.loss_pct, stats.late), (0.0, 0.0, 0), "{gap_ms} ms");
        let last = pulled.iter().rev().find(|(at, pull)| *at < 1_900 + gap_ms && matches!(pull, Pull::Packet(_)));
        assert!(last.is_some());
        assert!(stats.target_ms < 6.0 && stats.wait_ms < 20.0, "{gap_ms} ms: {stats:?}");
        let played = pulled.iter().filter(|(_, pull)| matches!(pull, Pull::Packet(_))).count();
        assert!(played >= 94, "{gap_ms} ms: {played}");
    }
}

#[test]
fn the_same_gap_with_lost_numbers_is_loss() {
    let mut buffer = JitterBuffer::new(Instant::now());
    let packets: Vec<_> = (0..100).filter(|n| !(50..53).contains(n)).map(|n| sent(&buffer, n as u16, 20 * n)).collect();
    let pulled = pulls(&packets, 1_900, &mut buffer);
    let concealed = pulled.iter().filter(|(_, pull)| matches!(pull, Pull::Conceal(960, _))).count();
    assert_eq!(concealed, 3);
    assert!(buffer.stats().concealed_pct > 2.0 && buffer.stats().loss_pct > 2.0, "{:?}", buffer.stats());
}

#[test]
fn a_spurt_after_a_pause_has_the_delay_that_is_right_now() {
    let mut buffer = JitterBuffer::new(Instant::now());
    // The first second came 200 ms late, then the path was a quick one, and then comes a pause.
    let mut packets: Vec<_> = (0..100).map(|n| sent(&buffer, n as u16, 20 * n)).collect();
    for (arrival_ms, packet) in &mut packets[..50] {
        *arrival_ms += 200;
        packet.arrival += Duration::from_millis(200);
    }
    packets.extend((100..150).map(|n| sent(&buffer, n as u16, 20 * n + 400)));
    packets.sort_by_key(|(arrival_ms, _)| *arrival_ms);
    let pulled = pulls(&packets, 3_400, &mut buffer);
    let before = pulled.iter().rfind(|(at, pull)| *at < 2_400 && matches!(pull, Pull::Packet(_))).unwrap();
    let spurt = pulled.iter().find(|(at, pull)| *at >= 2_400 && matches!(pull, Pull::Packet(_))).unwrap();
    assert!((2_185..2_210).contains(&before.0), "frame 99, sent at 1980 ms: {before:?}");
    assert!((2_405..2_425).contains(&spurt.0), "frame 100, sent at 2400 ms: {spurt:?}");
}

#[test]
fn a_pause_that_is_announced_ends_the_sound_there() {
    let mut buffer = JitterBuffer::new(Instant::now());
    let mut packets: Vec<_> = (0..11).map(|n| sent(&buffer, n as u16, 20 * n)).collect();
    packets[10].1.payload = Bytes::from_static(crate::audio::PAUSE);
    let pulled = pulls(&packets, 600, &mut buffer);
    let kinds: Vec<_> = pulled.iter().filter(|(_, pull)| *pull != Pull::Idle).collect();
    assert_eq!(kinds.len(), 11);
    assert_eq!(kinds[10].1, Pull::Pause);
}

#[test]
fn frames_of_10_20_and_40_ms_may_alternate() {
    let mut buffer = JitterBuffer::new(Instant::now());
    let (mut packets, mut at) = (Vec::new(), 0_u32);
    for sequence in 0..400_u16 {
        let (payload, samples) = LENGTHS[usize::from(sequence / 7 % 3)];
        let (at_ms, mut packet) = sent(&buffer, sequence, at / 48);
        packet.payload = Bytes::from_static(payload);
        // Sent when it is complete, as others are.
        let late_ms = samples / 48;
        packet.arrival += Duration::from_millis(late_ms.into());
        if sequence % 50 != 49 {
            packets.push((at_ms + late_ms, packet));
        }
        at += samples;
    }
    let pulled = pulls(&packets, at / 48, &mut buffer);
    let made_up: usize =
        pulled.iter().map(|(_, pull)| if let Pull::Conceal(samples, _) = pull { *samples } else { 0 }).sum();
    let lost: u32 = (0..8).map(|n| LENGTHS[(n * 50 + 49) / 7 % 3].1).sum();
    assert!(made_up as u32 <= lost + 3 * 960, "{made_up} of {lost}");
    let played = pulled.iter().filter(|(_, pull)| matches!(pull, Pull::Packet(_))).count();
    assert!(played > 385, "{played}");
    assert!(buffer.stats().late <= 2, "{:?}", buffer.stats());
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
            let mut packet = bench.packet(Arrived { number: tick / 2, at_ms: 0.0, behind: None }, now);
            if tick >= 200 {
                packet.sequence = packet.sequence.wrapping_add(30_000);
                packet.timestamp = packet.timestamp.wrapping_add(2_000_000_000);
            }
            buffer.push(packet);
        }
        if tick % 2 == 1 {
            packets += u32::from(matches!(buffer.pull(now, 0), Pull::Packet(..)));
        }
    }
    assert!(packets > 190, "{packets}");
    assert!(buffer.stats().loss_pct < 1.0);
}

#[test]
fn stray_packets_and_copies_change_nothing() {
    let epoch = Instant::now();
    let mut buffer = JitterBuffer::new(epoch);
    let bench = Bench::new("stray");
    for number in 0..100 {
        let now = epoch + Duration::from_millis(20 * u64::from(number));
        let packet = bench.packet(Arrived { number, at_ms: 0.0, behind: None }, now);
        buffer.push(packet.clone());
        for stray in 0..3 {
            let timestamp = packet.timestamp.wrapping_mul(40_503 + stray);
            let (sequence, copy) = (packet.sequence.wrapping_mul(7_919), stray > 0);
            if copy || number % 10 == 5 {
                buffer.push(ReceivedPacket { sequence, timestamp, copy, ..packet.clone() });
            }
        }
        let pulled = buffer.pull(now + Duration::from_millis(4), 0);
        assert!(number < 2 || matches!(pulled, Pull::Packet(..)), "{number}: {pulled:?}");
    }
    assert_eq!(buffer.stats().by_copy, 0);
}

/// A frame of 2.5 ms.
const SHORT: &[u8] = &[28 << 3, 0];

#[test]
fn packets_are_looked_into_for_deep_redundancy_at_most_once_for_10_ms_that_are_missing() {
    let mut seen = 0;
    for (payload, ms_tenths, there) in [(SHORT, 25_u32, 1), (SHORT, 25, 4), (PLAIN, 200, 1), (PLAIN, 200, 3)] {
        for dred in [false, true] {
            let mut buffer = JitterBuffer::new(Instant::now());
            let packets: Vec<_> = (0..20_000 / ms_tenths)
                .filter(|n| n / there % 2 == 0)
                .map(|n| {
                    let at_ms = n * ms_tenths / 10;
                    let (arrival, packet) = sent(&buffer, n as u16, at_ms);
                    let timestamp = n * ms_tenths * 48 / 10;
                    (arrival, ReceivedPacket { payload: Bytes::from_static(payload), timestamp, dred, ..packet })
                })
                .collect();
            let mut waiting = packets.iter().peekable();
            let (mut looks, mut made_up, mut left) = (0, 0, 0);
            for now_ms in (0..2_000).step_by(10) {
                while let Some((_, packet)) = waiting.next_if(|(arrival, _)| *arrival <= now_ms) {
                    buffer.push(packet.clone());
                }
                while left < BLOCK_SAMPLES {
                    let now = buffer.epoch + Duration::from_millis(now_ms.into());
                    left += match buffer.pull(now, left) {
                        Pull::Idle | Pull::Pause => BLOCK_SAMPLES,
                        Pull::Packet(payload) => {
                            looks += usize::from(buffer.overlooked().is_some());
                            packet_samples(&payload).unwrap()
                        }
                        Pull::Recover(_, samples) => samples,
                        Pull::Conceal(samples, later) => {
                            looks += usize::from(later.is_some());
                            made_up += samples;
                            samples
                        }
                    };
                }
                left -= BLOCK_SAMPLES;
            }
            seen += looks;
            println!("{ms_tenths} {there} {dred}: {looks} looks, {} ms made up", made_up / 48);
            assert!(looks * BLOCK_SAMPLES <= made_up);
            assert!(dred || looks == 0, "not agreed upon");
        }
    }
    assert!(seen > 0);
}

#[test]
fn what_is_decoded_ahead_is_told_apart_from_what_waits() {
    let mut buffer = JitterBuffer::new(Instant::now());
    for n in 0..200 {
        let (arrival_ms, packet) = sent(&buffer, n as u16, 20 * n);
        buffer.push(packet);
        buffer.pull(buffer.epoch + Duration::from_millis(u64::from(arrival_ms) + 5), FRAME_SAMPLES + 48);
    }
    let stats = buffer.stats();
    assert!((stats.wait_ms - 5.0).abs() < 0.1 && (stats.ahead_ms - 21.0).abs() < 0.1, "{stats:?}");
}

#[test]
fn what_is_lost_comes_from_a_copy_or_else_from_fec_and_only_then_from_deep_redundancy() {
    let instead_of = |lost: std::ops::Range<u16>, copied: bool| {
        let mut buffer = JitterBuffer::new(Instant::now());
        let mut packets = Vec::new();
        for n in (0..60).filter(|n| !lost.contains(n)) {
            let (mut at_ms, packet) = sent(&buffer, n, 20 * u32::from(n));
            let mut packet = ReceivedPacket { payload: Bytes::from_static(WITH_FEC), dred: true, ..packet };
            // The way was longer before, so that what follows on a lost one is there in time.
            if n < 45 {
                at_ms += 60;
                packet.arrival += Duration::from_millis(60);
            }
            if copied && n == lost.end {
                packets.push((
                    at_ms,
                    ReceivedPacket { timestamp: 960 * u32::from(lost.start), copy: true, ..packet.clone() },
                ));
            }
            packets.push((at_ms, packet));
        }
        packets.sort_by_key(|(at_ms, _)| *at_ms);
        let pulled = pulls(&packets, 1_240, &mut buffer).into_iter().filter(|(at_ms, _)| *at_ms > 900);
        let kinds = pulled.filter_map(|(_, pull)| match pull {
            Pull::Packet(_) => None,
            Pull::Recover(_, samples) => Some(("FEC", samples)),
            Pull::Conceal(samples, Some(_)) => Some(("DRED", samples)),
            Pull::Conceal(samples, None) => Some(("nothing", samples)),
            Pull::Idle | Pull::Pause => Some(("silence", 0)),
        });
        (kinds.collect::<Vec<_>>(), buffer.stats().by_copy)
    };
    assert_eq!(instead_of(50..51, true), (vec![], 1));
    assert_eq!(instead_of(50..51, false), (vec![("FEC", 960)], 0));
    assert_eq!(instead_of(50..52, false), (vec![("DRED", 960), ("FEC", 960)], 0));
}

#[test]
fn what_is_described_later_is_waited_for() {
    let wait_ms = |reach, payload, tenths_ms: u32| {
        let mut buffer = JitterBuffer::new(Instant::now());
        buffer.reaches(reach);
        let mut dice = Dice(5);
        let packets: Vec<_> = (0..80_000 / tenths_ms)
            .filter(|_| dice.roll() < 0.5)
            .map(|n| {
                let (at, packet) = sent(&buffer, n as u16, tenths_ms * n / 10);
                let (timestamp, payload) = (tenths_ms * n * 48 / 10, Bytes::from_static(payload));
                (at, ReceivedPacket { dred: true, timestamp, payload, ..packet })
            })
            .collect();
        pulls(&packets, 7_900, &mut buffer);
        buffer.stats().target_ms
    };
    let (without, with) = (wait_ms(0, PLAIN, 200), wait_ms(9_600, PLAIN, 200));
    println!("{without:.0} ms, and {with:.0} ms where 200 ms are described");
    assert!(without < 10.0 && (60.0..=200.0).contains(&with));
    // The shortest frames would make the most work.
    assert_eq!(wait_ms(9_600, SHORT, 25), wait_ms(0, SHORT, 25));
}

#[test]
fn a_flood_is_bounded_and_garbage_is_dropped() {
    let epoch = Instant::now();
    let mut buffer = JitterBuffer::new(epoch);
    buffer.reaches(MAX_DELAY_SAMPLES as usize);
    let mut dice = Dice(9);
    for round in 0..50_000_u64 {
        let timestamp = (dice.roll() * 4e9) as u32;
        buffer.push(ReceivedPacket {
            sequence: (dice.roll() * 65e3) as u16,
            timestamp: if round % 3 == 0 { timestamp } else { (round * 120) as u32 },
            payload: Bytes::from_static(match round % 7 {
                0 => &[],
                1 => WITH_FEC,
                _ => PLAIN,
            }),
            copy: round % 5 == 0,
            dred: round % 2 == 0,
            arrival: epoch + Duration::from_micros(round * 50),
        });
        assert!(buffer.packets.len() <= MAX_PACKETS);
        assert!(buffer.packets.iter().is_sorted_by(|one, other| one.at <= other.at));
        if let (Some(first), Some(last)) = (buffer.packets.front(), buffer.packets.back()) {
            assert!(last.at - first.at <= MAX_DELAY_SAMPLES);
        }
        if round % 100 == 0 {
            let now = epoch + Duration::from_micros(round * 50);
            buffer.pull(now, (dice.roll() * 2_000.0) as usize);
            if let Advice::Grow(samples, _) = buffer.advice(100) {
                buffer.stretched(samples.min(720) as i64, 100);
            }
        }
    }
}
