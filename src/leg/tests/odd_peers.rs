//! What participants can do to the sound by sending strange things: nothing that lasts, and nothing to anybody else.

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use rtc::rtp;

use super::{
    super::{
        media::{Codecs, Media},
        red,
        rtp::RtpNumbers,
    },
    *,
};
use crate::audio::{DelayShares, bench::Remote, codec::Encoder, testing::speech};

const OPUS: u8 = 111;
const RED: u8 = 63;
const BLOCKS_A_SECOND: usize = 100;

/// One who listens to a single participant, in virtual time.
struct Listener {
    epoch: Instant,
    media: Media,
    remote: Remote,
}

impl Listener {
    fn new() -> Self {
        let epoch = Instant::now();
        let (speaker, heard) = LegInput::pair(256);
        let mut media = Media::new(speaker, RtpNumbers::random(epoch), epoch);
        media.begin(Codecs { opus: OPUS, red: Some(RED), feedback: true, dred: true }, epoch);
        Self { epoch, media, remote: Remote::new(heard, epoch) }
    }

    /// Packets of 20 ms each, from the block `from` on; the level of what is heard in each second, in dB of full scale.
    fn hear(&mut self, from: usize, packets: impl Iterator<Item = rtp::Packet>) -> Vec<f64> {
        let mut sound = Vec::new();
        for (n, packet) in packets.enumerate() {
            let at = |block: usize| self.epoch + Duration::from_millis(10) * (from + 2 * n + block) as u32;
            self.media.received(packet, at(0));
            if let Some(due) = self.media.report_due().filter(|due| *due <= at(0)) {
                self.media.report(due);
            }
            self.remote.receive(true);
            for block in 0..2 {
                sound.extend(self.remote.block(at(block), &mut false).unwrap_or([0.0; FRAME_SAMPLES / 2]));
                let stats = self.remote.stats(DelayShares::default());
                assert!(stats.target_ms <= 400.0 && stats.playout_delay_ms.is_finite(), "{stats:?}");
            }
        }
        assert!(sound.iter().all(|sample| sample.abs() < 4.0), "numbers, and no loud ones");
        let power = |second: &[f32]| second.iter().map(|s| f64::from(s * s)).sum::<f64>() / second.len() as f64;
        sound
            .chunks(BLOCKS_A_SECOND * FRAME_SAMPLES / 2)
            .map(|second| 10.0 * power(second).max(1e-12).log10())
            .collect()
    }
}

/// A voice in packets as they should be.
fn voice(seconds: f32) -> Vec<rtp::Packet> {
    let mut encoder = Encoder::new().unwrap();
    let packet = |(n, frame): (usize, &[f32; FRAME_SAMPLES])| rtp::Packet {
        header: rtp::Header {
            version: 2,
            payload_type: OPUS,
            sequence_number: n as u16,
            timestamp: (n * FRAME_SAMPLES) as u32,
            ssrc: 7,
            ..Default::default()
        },
        payload: encoder.encode(frame).unwrap(),
    };
    speech(seconds).as_chunks().0.iter().enumerate().map(packet).collect()
}

/// A voice that is changed for three seconds. What is heard then may be anything; of the second after the next one it is the
/// voice.
fn is_heard_again_after(what: &str, mut change: impl FnMut(usize, &mut rtp::Packet)) {
    let mut packets = voice(6.0);
    packets[..150].iter_mut().enumerate().for_each(|(n, packet)| change(n, packet));
    let levels_db = Listener::new().hear(0, packets.into_iter());
    println!("{what}: {levels_db:.0?} dB");
    let proper_db = Listener::new().hear(0, voice(6.0).into_iter());
    assert!((levels_db[5] - proper_db[5]).abs() < 3.0, "{what}: {levels_db:.0?}, and should be {proper_db:.0?}");
}

#[test]
fn clocks_of_another_rate_are_survived() {
    for rate_hz in [8_000, 16_000, 44_100, 50_000, 96_000] {
        is_heard_again_after(&format!("{rate_hz} Hz"), |n, packet| {
            packet.header.timestamp = (n * rate_hz / 50) as u32;
        });
    }
}

#[test]
fn numbers_that_leap_are_survived() {
    let mut random = StdRng::seed_from_u64(1);
    is_heard_again_after("sequence numbers by chance", |_, packet| packet.header.sequence_number = random.random());
    is_heard_again_after("timestamps by chance", |_, packet| packet.header.timestamp = random.random());
    is_heard_again_after("another stream with every second packet", |n, packet| {
        if n % 2 == 1 {
            packet.header.ssrc = 8;
            packet.header.sequence_number = packet.header.sequence_number.wrapping_add(30_000);
            packet.header.timestamp = packet.header.timestamp.wrapping_add(1 << 31);
        }
    });
    is_heard_again_after("a leap of ten seconds in each half one", |n, packet| {
        packet.header.timestamp = packet.header.timestamp.wrapping_add((n / 25 * 480_000) as u32);
    });
    is_heard_again_after("a stream that goes backwards", |n, packet| {
        packet.header.sequence_number = 1_000 - n as u16;
        packet.header.timestamp = ((1_000 - n) * FRAME_SAMPLES) as u32;
    });
    is_heard_again_after("one and the same packet", |_, packet| {
        (packet.header.sequence_number, packet.header.timestamp) = (0, 0);
    });
}

#[test]
fn frames_of_any_shape_are_survived() {
    let mut random = StdRng::seed_from_u64(2);
    is_heard_again_after("noise for frames", |_, packet| {
        let length = random.random_range(1..400);
        packet.payload = (0..length).map(|_| random.random()).collect::<Vec<u8>>().into();
    });
    // The third bit of the first byte: as if it were stereo (RFC 6716, §3.1).
    is_heard_again_after("stereo now and then", |n, packet| {
        if n % 3 == 0 {
            let mut payload = packet.payload.to_vec();
            payload[0] ^= 4;
            packet.payload = payload.into();
        }
    });
    let mut encoder = Encoder::new().unwrap();
    let sound = speech(1.0);
    is_heard_again_after("120 ms with every 20 ms", |n, packet| {
        let from = n % 7 * FRAME_SAMPLES;
        packet.payload = encoder.encode(&sound[from..from + 6 * FRAME_SAMPLES]).unwrap();
    });
    is_heard_again_after("2.5 ms with every 20 ms", |n, packet| {
        packet.payload = encoder.encode(&sound[n * 120..(n + 1) * 120]).unwrap();
    });
}

#[test]
fn copies_of_any_shape_are_survived() {
    let mut random = StdRng::seed_from_u64(3);
    let own = voice(1.0).remove(20).payload;
    is_heard_again_after("copies that say anything of any time", |_, packet| {
        let copies = (0..random.random_range(1..=8)).map(|_| red::Copy {
            behind: random.random_range(1..=red::REACH_SAMPLES),
            payload: own.slice(..random.random_range(1..own.len())),
        });
        packet.header.payload_type = RED;
        packet.payload = red::pack(OPUS, &copies.collect::<Vec<_>>(), &packet.payload);
    });
    is_heard_again_after("copies of which nothing fits", |n, packet| {
        let mut payload = red::pack(OPUS, &[red::Copy { behind: 960, payload: own.clone() }], &packet.payload).to_vec();
        let at = n % 5;
        payload[at] ^= random.random_range(1..=255_u8);
        (packet.header.payload_type, packet.payload) = (RED, payload.into());
    });
}

#[test]
fn what_is_too_long_too_much_or_of_another_kind_is_counted_and_not_heard() {
    let mut listener = Listener::new();
    let opus = voice(0.1).remove(3).payload;
    // Six frames of 20 ms and 1 275 bytes each, the most that Opus knows (RFC 6716, §3.4).
    let mut longest = vec![0xff, 6];
    longest.resize(2 + 6 * 1_275, 7);
    let many = vec![red::Copy { behind: 960, payload: opus.slice(..4) }; 50];
    let nested = red::pack(RED, &[red::Copy { behind: 960, payload: opus.clone() }], &opus);
    let refused = [
        (OPUS, longest.into()),
        (RED, red::pack(OPUS, &many, &opus)),
        (RED, nested),
        (RED, opus.clone()),
        (OPUS, Bytes::new()),
        (0, opus),
    ];
    let count = refused.len() as u64;
    let packets = refused.into_iter().enumerate().map(|(n, (payload_type, payload))| rtp::Packet {
        header: rtp::Header { payload_type, timestamp: (n * FRAME_SAMPLES) as u32, ..Default::default() },
        payload,
    });
    let levels_db = listener.hear(0, packets);
    assert_eq!((levels_db[0], listener.media.meter.stats.packets_ignored), (-120.0, count));
}
