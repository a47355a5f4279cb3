//! What sound costs: `cargo bench` prints the time of each piece of work, for 20 ms of sound where nothing else is said.

use std::time::{Duration, Instant};

use bytes::Bytes;
use divan::{Bencher, black_box};
use telecon::{
    audio::{
        FRAME_SAMPLES, FRAMES_A_SECOND, ReceivedPacket,
        bench::{JitterBuffer, Limiter, Processing, Pull, Remote, Stages, add},
        codec::{Decoder, Encoder, Settings},
    },
    config,
};

const BLOCK_SAMPLES: usize = FRAME_SAMPLES / 2;

fn main() {
    divan::main();
}

/// A second of speech in frames of 20 ms.
fn speech() -> Vec<[f32; FRAME_SAMPLES]> {
    let mut clip = hound::WavReader::open("assets/voices/ada.wav").expect("a clip of the repository");
    let samples: Vec<f32> = clip.samples::<i16>().map(|sample| f32::from(sample.unwrap_or(0)) / 32_768.0).collect();
    samples.as_chunks().0.to_vec()
}

fn encoder(settings: Settings) -> Encoder {
    let mut encoder = Encoder::new().expect("an encoder");
    encoder.set(settings).expect("settings that libopus takes");
    encoder
}

fn packets(settings: Settings) -> Vec<Bytes> {
    let mut encoder = encoder(settings);
    speech().iter().map(|frame| encoder.encode(frame).expect("a packet")).collect()
}

/// The same in frames of so many samples.
fn short_packets<const SAMPLES: usize>(settings: Settings) -> Vec<Bytes> {
    let mut encoder = encoder(settings);
    let frames = speech().into_iter().flat_map(|frame| frame.as_chunks::<SAMPLES>().0.to_vec());
    frames.map(|frame| encoder.encode(&frame).expect("a packet")).collect()
}

const PLAIN: Settings = Settings {
    bitrate_bps: 32_000,
    constant_bitrate: false,
    dtx: false,
    fec: false,
    expected_loss_percent: 0,
    dred: false,
};
const FEC: Settings = Settings { fec: true, expected_loss_percent: 10, ..PLAIN };
const CLEAR: Settings = Settings { bitrate_bps: 64_000, ..PLAIN };
const DEEP: Settings = Settings { dred: true, ..CLEAR };
const CONSTANT: Settings = Settings { constant_bitrate: true, ..PLAIN };

#[divan::bench(args = [("32 kbit/s", PLAIN), ("FEC", FEC), ("64 kbit/s", CLEAR), ("constant", CONSTANT)].map(Named))]
fn encode(bencher: Bencher, settings: &Named) {
    let mut frames = speech().into_iter().cycle();
    let mut encoder = encoder(settings.0.1);
    bencher.with_inputs(|| frames.next().expect("speech")).bench_local_values(|frame| encoder.encode(&frame));
}

#[divan::bench(args = [("32 kbit/s", PLAIN), ("FEC", FEC), ("64 kbit/s", CLEAR)].map(Named))]
fn decode(bencher: Bencher, settings: &Named) {
    let mut packets = packets(settings.0.1).into_iter().cycle();
    let mut decoder = Decoder::new().expect("a decoder");
    bencher
        .with_inputs(|| packets.next().expect("speech"))
        .bench_local_values(|packet| decoder.decode(&packet, FRAME_SAMPLES).len());
}

/// A lost frame from the FEC of the next one.
#[divan::bench]
fn recover(bencher: Bencher) {
    let mut packets = packets(FEC).into_iter().cycle();
    let mut decoder = Decoder::new().expect("a decoder");
    bencher
        .with_inputs(|| packets.next().expect("speech"))
        .bench_local_values(|packet| decoder.recover(&packet, FRAME_SAMPLES).len());
}

/// A lost frame with nothing to make it of, as the first of a gap.
#[divan::bench]
fn conceal(bencher: Bencher) {
    let mut packets = packets(PLAIN).into_iter().cycle();
    let decoder = std::cell::RefCell::new(Decoder::new().expect("a decoder"));
    bencher
        .with_inputs(|| decoder.borrow_mut().decode(&packets.next().expect("speech"), FRAME_SAMPLES).len())
        .bench_local_values(|_| decoder.borrow_mut().conceal(FRAME_SAMPLES).len());
}

/// The packets of a participant; `lost` says of which nothing comes, and nothing means that none is.
fn stream(
    packets: Vec<Bytes>,
    samples: u32,
    epoch: Instant,
    lost: Option<u32>,
    dred: bool,
) -> impl FnMut() -> Option<ReceivedPacket> {
    let mut number = 0_u32;
    move || {
        let (sequence, timestamp) = (number as u16, number.wrapping_mul(samples));
        let payload = packets[number as usize % packets.len()].clone();
        let arrival = epoch + Duration::from_micros(u64::from(number) * u64::from(samples) * 1000 / 48);
        number += 1;
        let comes = lost.is_none_or(|every| !number.is_multiple_of(every));
        comes.then_some(ReceivedPacket { sequence, timestamp, payload, copy: false, dred, arrival })
    }
}

/// Two blocks of one participant: jitter buffer, decoder, gain. The packets come as they should, or every tenth does not; or
/// they are the dearest that somebody can send: every second is missing, and they are as short as possible, or 10 ms long and
/// with deep redundancy.
#[divan::bench(args = ["as it should be", "10 % loss", "holes of 2.5 ms", "holes of 10 ms, DRED"])]
fn leg(bencher: Bencher, packets_come: &str) {
    let epoch = Instant::now();
    let (mut slots, taken) = rtrb::RingBuffer::new(8);
    let mut leg = Remote::new(taken, epoch);
    let (packets, samples, lost) = match packets_come {
        "10 % loss" => (packets(FEC), FRAME_SAMPLES as u32, Some(10)),
        "holes of 2.5 ms" => (short_packets::<120>(CLEAR), 120, Some(2)),
        "holes of 10 ms, DRED" => (short_packets::<BLOCK_SAMPLES>(DEEP), BLOCK_SAMPLES as u32, Some(2)),
        _ => (packets(FEC), FRAME_SAMPLES as u32, None),
    };
    let mut next = stream(packets, samples, epoch, lost, packets_come.ends_with("DRED"));
    let mut number = 0_u32;
    bencher.bench_local(|| {
        let now = epoch + Duration::from_millis(20) * number;
        number += 1;
        for _ in 0..FRAME_SAMPLES as u32 / samples {
            if let Some(packet) = next() {
                drop(slots.push(ReceivedPacket { arrival: now, ..packet }));
            }
        }
        leg.receive(true);
        let first = leg.block(now, &mut false);
        (first, leg.block(now + Duration::from_millis(10), &mut false))
    });
}

/// 20 ms of one participant through the jitter buffer alone: a packet in, and what is to be decoded out.
#[divan::bench(args = ["as it should be", "10 % loss", "10 % loss, copies"])]
fn jitter_buffer(bencher: Bencher, packets_come: &str) {
    let epoch = Instant::now();
    let mut buffer = JitterBuffer::new(epoch);
    let lost = (packets_come != "as it should be").then_some(10);
    let copies = packets_come.ends_with("copies");
    let mut next = stream(packets(PLAIN), FRAME_SAMPLES as u32, epoch, lost, false);
    let mut number = 0_u32;
    bencher.bench_local(|| {
        number += 1;
        if let Some(packet) = next() {
            let behind = |frames: u32| packet.timestamp.wrapping_sub(frames * FRAME_SAMPLES as u32);
            for timestamp in (1..=if copies { 2 } else { 0 }).rev().map(behind) {
                buffer.push(ReceivedPacket { timestamp, copy: true, ..packet.clone() });
            }
            buffer.push(packet);
        }
        let pull: Pull = buffer.pull(epoch + Duration::from_millis(20) * number, 0);
        (pull, buffer.advice(FRAME_SAMPLES))
    });
}

/// 20 ms of the most packets that a leg passes on: each without its predecessor, and describing 400 ms of which nothing came.
#[divan::bench]
fn jitter_buffer_flood(bencher: Bencher) {
    let epoch = Instant::now();
    let mut buffer = JitterBuffer::new(epoch);
    buffer.reaches(400 * 48);
    // 10 ms: what describes the past in shorter steps is not learned from.
    let payload = Bytes::from_static(&[30 << 3, 0]);
    let mut number = 0_u32;
    bencher.bench_local(|| {
        for _ in 0..FRAMES_A_SECOND / 50 {
            number += 1;
            let arrival = epoch + Duration::from_secs(1) * number / FRAMES_A_SECOND;
            // No frame of the past is described twice.
            let (sequence, timestamp) = (2 * number as u16, 31 * number);
            let payload = payload.clone();
            buffer.push(ReceivedPacket { sequence, timestamp, payload, copy: false, dred: true, arrival });
        }
        buffer.pull(epoch + Duration::from_secs(1) * number / FRAMES_A_SECOND, 0)
    });
}

/// What is done to 10 ms of the microphone's sound while somebody else is heard: each part alone, and all of them.
#[divan::bench(args = ["high-pass", "echo", "noise", "gain", "all"])]
fn process(bencher: Bencher, part: &str) {
    let is_on = |name: &str| part == name || part == "all";
    let stages = Stages::of(&config::Audio {
        high_pass: is_on("high-pass"),
        echo_cancellation: is_on("echo"),
        noise_suppression: is_on("noise"),
        auto_gain: is_on("gain"),
        ..config::Audio::default()
    });
    let mut processing = Processing::new(stages).expect("something to do");
    let blocks: Vec<[f32; BLOCK_SAMPLES]> = speech().iter().flat_map(|frame| frame.as_chunks().0.to_vec()).collect();
    let mut number = 0;
    let mut next = || {
        number += 1;
        let at = |block: usize| blocks[block % blocks.len()];
        // Half a second later, and its echo.
        let mut captured = at(number + 50);
        captured.iter_mut().zip(at(number + blocks.len() - 6)).for_each(|(near, echo)| *near += 0.3 * echo);
        (at(number), captured)
    };
    let mut both = |(played, mut captured)| {
        processing.played(&played);
        processing.captured(&mut captured, 60.0);
        captured
    };
    // What it costs once it knows the room.
    for _ in 0..500 {
        both(next());
    }
    bencher.with_inputs(next).bench_local_values(both);
}

/// 10 ms of so many voices into one sum below the limit.
#[divan::bench(args = [1, 7, 31])]
fn mix(bencher: Bencher, voices: usize) {
    let blocks: Vec<[f32; BLOCK_SAMPLES]> =
        speech().iter().flat_map(|frame| frame.as_chunks().0.to_vec()).take(voices).collect();
    let mut limiter = Limiter::default();
    bencher.bench_local(|| {
        let mut sum = [0.0; BLOCK_SAMPLES];
        blocks.iter().for_each(|block| add(&mut sum, black_box(block)));
        limiter.apply(&mut sum);
        sum
    });
}

/// Settings with a name for the table.
struct Named((&'static str, Settings));

impl std::fmt::Display for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.0)
    }
}
