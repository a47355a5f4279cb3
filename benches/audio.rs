//! What sound costs: `cargo bench` prints the time of each piece of work, for 20 ms of sound where nothing else is said.

use std::time::{Duration, Instant};

use bytes::Bytes;
use divan::{Bencher, black_box};
use telecon::audio::{
    FRAME_SAMPLES, ReceivedPacket,
    bench::{Limiter, Remote, add},
    codec::{Decoder, Encoder, Settings},
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

const DEEP: Settings = Settings { bitrate_bps: 48_000, fec: false, expected_loss_percent: 20, dred_ms: 500, ..PLAIN };
const PLAIN: Settings = Settings {
    bitrate_bps: 32_000,
    constant_bitrate: false,
    dtx: false,
    fec: false,
    expected_loss_percent: 0,
    dred_ms: 0,
};
const FEC: Settings = Settings { fec: true, expected_loss_percent: 10, ..PLAIN };
const CLEAR: Settings = Settings { bitrate_bps: 64_000, ..PLAIN };
const CONSTANT: Settings = Settings { constant_bitrate: true, ..PLAIN };

#[divan::bench(args = [("32 kbit/s", PLAIN), ("FEC", FEC), ("64 kbit/s", CLEAR), ("constant", CONSTANT), ("DRED", DEEP)].map(Named))]
fn encode(bencher: Bencher, settings: &Named) {
    let mut frames = speech().into_iter().cycle();
    let mut encoder = encoder(settings.0.1);
    bencher.with_inputs(|| frames.next().expect("speech")).bench_local_values(|frame| encoder.encode(&frame));
}

#[divan::bench(args = [("32 kbit/s", PLAIN), ("FEC", FEC), ("64 kbit/s", CLEAR), ("DRED", DEEP)].map(Named))]
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

/// A lost frame from the deep redundancy of a packet 100 ms later, which is read for it.
#[divan::bench]
fn dred(bencher: Bencher) {
    let mut packets = packets(DEEP).into_iter().cycle();
    let decoder = std::cell::RefCell::new(Decoder::new().expect("a decoder"));
    let next = || {
        let packet = packets.next().expect("speech");
        decoder.borrow_mut().decode(&packet, FRAME_SAMPLES);
        packet
    };
    bencher.with_inputs(next).bench_local_values(|packet| {
        decoder.borrow_mut().dred(&packet, 5 * FRAME_SAMPLES, FRAME_SAMPLES).map(|sound| sound.len())
    });
}

/// Two blocks of one participant: jitter buffer, decoder, gain; the packets come as they should, or every tenth does not.
#[divan::bench(args = [0, 10])]
fn leg(bencher: Bencher, loss_percent: u32) {
    let epoch = Instant::now();
    let (mut slots, taken) = rtrb::RingBuffer::new(8);
    let mut leg = Remote::new(taken, epoch);
    let packets = packets(FEC);
    let mut number = 0_u32;
    bencher.bench_local(|| {
        let now = epoch + Duration::from_millis(20) * number;
        let (sequence, timestamp) = (number as u16, number.wrapping_mul(FRAME_SAMPLES as u32));
        let payload = packets[number as usize % packets.len()].clone();
        number += 1;
        if loss_percent == 0 || !number.is_multiple_of(100 / loss_percent) {
            drop(slots.push(ReceivedPacket { sequence, timestamp, payload, copy: false, arrival: now }));
        }
        leg.receive(true);
        let first = leg.block(now, &mut false);
        (first, leg.block(now + Duration::from_millis(10), &mut false))
    });
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
