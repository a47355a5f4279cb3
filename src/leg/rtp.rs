//! The numbers in this leg's RTP headers (RFC 3550, §5.1; RFC 7587, §4).

use std::time::Instant;

use bytes::Bytes;
use rtc::rtp;

use crate::audio::{EncodedFrame, PAUSE, SAMPLE_RATE_HZ};

/// Numbers one outgoing stream. Sequence number and timestamp start at random (RFC 3550, §5.1).
#[derive(Debug)]
pub(super) struct RtpNumbers {
    ssrc: u32,
    sequence: u16,
    /// From the microphone's timestamps to this stream's, once there was a frame.
    offset: Option<u32>,
    /// The microphone's timestamp of a frame that follows on the last one.
    expected: Option<u32>,
    /// What was numbered last, or the random beginning.
    latest: (Instant, u32),
}

impl RtpNumbers {
    /// A stream with random numbers.
    pub(super) fn random(now: Instant) -> Self {
        let latest = (now, rand::random());
        Self { ssrc: rand::random(), sequence: rand::random(), offset: None, expected: None, latest }
    }

    /// The stream's synchronisation source.
    pub(super) fn ssrc(&self) -> u32 {
        self.ssrc
    }

    /// The packet for a frame, whose payload may hold more than it. The marker says that the frame does not follow on the
    /// one before (RFC 3551, §4.1).
    pub(super) fn packet(
        &mut self,
        payload_type: u8,
        payload: Bytes,
        frame: &EncodedFrame,
        now: Instant,
    ) -> rtp::Packet {
        let timestamp = frame.timestamp;
        let by_clock = self.timestamp_at(now);
        let offset = *self.offset.get_or_insert_with(|| by_clock.wrapping_sub(timestamp));
        let marker = self.expected != Some(timestamp);
        self.expected = Some(timestamp.wrapping_add(frame.samples));
        self.numbered(payload_type, marker, timestamp.wrapping_add(offset), payload, now)
    }

    /// A packet that says only that this end is still there and pauses.
    pub(super) fn keep_alive(&mut self, payload_type: u8, now: Instant) -> rtp::Packet {
        let timestamp = self.timestamp_at(now);
        self.numbered(payload_type, false, timestamp, Bytes::from_static(PAUSE), now)
    }

    /// The stream's time, which goes on while nothing is sent.
    fn timestamp_at(&self, now: Instant) -> u32 {
        let (at, timestamp) = self.latest;
        let elapsed_us = now.saturating_duration_since(at).as_micros();
        timestamp.wrapping_add((elapsed_us * u128::from(SAMPLE_RATE_HZ) / 1_000_000) as u32)
    }

    fn numbered(
        &mut self,
        payload_type: u8,
        marker: bool,
        timestamp: u32,
        payload: Bytes,
        now: Instant,
    ) -> rtp::Packet {
        self.latest = (now, timestamp);
        let sequence_number = self.sequence;
        self.sequence = self.sequence.wrapping_add(1);
        let ssrc = self.ssrc;
        let header =
            rtp::Header { version: 2, marker, payload_type, sequence_number, timestamp, ssrc, ..Default::default() };
        rtp::Packet { header, payload }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::audio::FRAME_SAMPLES;

    fn packet(numbers: &mut RtpNumbers, frame: EncodedFrame, now: Instant) -> rtp::Packet {
        numbers.packet(111, frame.payload.clone(), &frame, now)
    }

    fn frame(timestamp: u32) -> EncodedFrame {
        EncodedFrame {
            payload: Bytes::from_static(b"opus"),
            timestamp,
            samples: FRAME_SAMPLES as u32,
            bitrate_bps: 32_000,
            copy_bps: 32_000,
            to: Default::default(),
        }
    }

    #[test]
    fn numbers_go_on_by_one_and_by_a_frame_over_the_wrap() {
        let now = Instant::now();
        let mut numbers = RtpNumbers { ssrc: 7, sequence: u16::MAX, ..RtpNumbers::random(now) };
        let first = packet(&mut numbers, frame(u32::MAX - 959), now);
        let second = packet(&mut numbers, frame(0), now);
        assert_eq!((first.header.sequence_number, second.header.sequence_number), (u16::MAX, 0));
        assert_eq!(second.header.timestamp.wrapping_sub(first.header.timestamp), 960);
        assert_eq!((second.header.ssrc, second.header.payload_type), (7, 111));
    }

    #[test]
    fn the_marker_stands_at_the_start_of_talk_only() {
        let now = Instant::now();
        let mut numbers = RtpNumbers::random(now);
        let markers = [0, 960, 1920, 48_000, 48_960].map(|at| packet(&mut numbers, frame(at), now).header.marker);
        assert_eq!(markers, [true, false, false, true, false]);
    }

    #[test]
    fn keep_alives_go_on_with_the_clock_and_talk_goes_on_from_there() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut numbers = RtpNumbers::random(start);
        // Two seconds before the first word; the microphone's own timestamps begin anywhere.
        let mut packets = [1_000, 2_000].map(|ms| numbers.keep_alive(111, at(ms))).to_vec();
        packets.push(packet(&mut numbers, frame(5_000_000), at(2_500)));
        packets.push(numbers.keep_alive(111, at(3_500)));
        packets.push(packet(&mut numbers, frame(5_000_000 + 96_000), at(4_500)));
        let steps = packets.windows(2).map(|pair| {
            let (before, after) = (&pair[0].header, &pair[1].header);
            assert_eq!(after.sequence_number, before.sequence_number.wrapping_add(1));
            after.timestamp.wrapping_sub(before.timestamp)
        });
        assert_eq!(steps.collect::<Vec<_>>(), [48_000, 24_000, 48_000, 48_000]);
        assert_eq!(&packets[1].payload[..], PAUSE);
    }
}
