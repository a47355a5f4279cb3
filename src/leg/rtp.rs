//! The numbers in this leg's RTP headers (RFC 3550, §5.1; RFC 7587, §4).

use bytes::Bytes;
use rtc::rtp;

use crate::audio::{EncodedFrame, FRAME_SAMPLES};

/// Numbers one outgoing stream. Sequence number and timestamp start at random (RFC 3550, §5.1).
#[derive(Debug)]
pub(super) struct RtpNumbers {
    ssrc: u32,
    sequence: u16,
    offset: u32,
    expected: Option<u32>,
}

impl RtpNumbers {
    /// A stream with random numbers.
    pub(super) fn random() -> Self {
        Self { ssrc: rand::random(), sequence: rand::random(), offset: rand::random(), expected: None }
    }

    /// The stream's synchronisation source.
    pub(super) fn ssrc(&self) -> u32 {
        self.ssrc
    }

    /// The packet for a frame. The marker says that the frame does not follow on the one before (RFC 3551, §4.1).
    pub(super) fn packet(&mut self, payload_type: u8, frame: EncodedFrame) -> rtp::Packet {
        let EncodedFrame { payload, timestamp } = frame;
        let marker = self.expected != Some(timestamp);
        self.expected = Some(timestamp.wrapping_add(FRAME_SAMPLES as u32));
        let sequence_number = self.sequence;
        self.sequence = self.sequence.wrapping_add(1);
        rtp::Packet { header: self.header(payload_type, marker, sequence_number, timestamp), payload }
    }

    fn header(&self, payload_type: u8, marker: bool, sequence_number: u16, timestamp: u32) -> rtp::Header {
        rtp::Header {
            version: 2,
            marker,
            payload_type,
            sequence_number,
            timestamp: timestamp.wrapping_add(self.offset),
            ssrc: self.ssrc,
            ..Default::default()
        }
    }
}

/// Bytes of an RTP packet on the wire without IP, UDP and SRTP.
pub(super) fn wire_bytes(payload: &Bytes) -> u64 {
    const HEADER: usize = 12;
    (HEADER + payload.len()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(timestamp: u32) -> EncodedFrame {
        EncodedFrame { payload: Bytes::from_static(b"opus"), timestamp }
    }

    #[test]
    fn numbers_go_on_by_one_and_by_a_frame_over_the_wrap() {
        let mut numbers = RtpNumbers { ssrc: 7, sequence: u16::MAX, offset: 100, expected: None };
        let first = numbers.packet(111, frame(u32::MAX - 959));
        let second = numbers.packet(111, frame(0));
        assert_eq!((first.header.sequence_number, second.header.sequence_number), (u16::MAX, 0));
        assert_eq!(second.header.timestamp.wrapping_sub(first.header.timestamp), 960);
        assert_eq!(second.header.timestamp, 100);
        assert_eq!((second.header.ssrc, second.header.payload_type), (7, 111));
    }

    #[test]
    fn the_marker_stands_at_the_start_of_talk_only() {
        let mut numbers = RtpNumbers::random();
        let markers = [0, 960, 1920, 48_000, 48_960].map(|at| numbers.packet(111, frame(at)).header.marker);
        assert_eq!(markers, [true, false, false, true, false]);
    }
}
