//! Frames that are sent again behind a later one (RFC 2198), packed and taken apart.
//!
//! Which frames are sent again is the adaptation's business, not this file's.

use std::collections::VecDeque;

use bytes::{BufMut as _, Bytes, BytesMut};

use crate::audio::{EncodedFrame, codec::without_dred};

/// Farthest that a copy can lie behind its packet: 14 bits of timestamp, 341 ms (RFC 2198, §3).
pub(super) const REACH_SAMPLES: u32 = (1 << 14) - 1;
/// Longest copy: 10 bits (RFC 2198, §3). Longer frames are sent once.
const MAX_COPY_BYTES: usize = (1 << 10) - 1;
/// What a copy costs beside itself.
pub(super) const COPY_HEADER_BYTES: usize = 4;
/// What the present frame costs beside itself.
pub(super) const PRIMARY_HEADER_BYTES: usize = 1;
/// Most copies that a packet may bring; telecon itself sends three.
const MAX_COPIES: usize = 8;
/// Copies that would make a packet longer are left out, so that it fits one datagram with all headers.
const MAX_PACKET_BYTES: usize = 1200;
/// Frames that are kept to be sent again: as far as copies reach, in the shortest frames.
const MAX_KEPT: usize = 36;

/// A frame that came again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Copy {
    /// How far its first sample lies before that of the packet's own frame, 48 kHz.
    pub(super) behind: u32,
    /// An Opus packet.
    pub(super) payload: Bytes,
}

/// What was spoken to one leg of late, to be sent again. Bounded by the reach of copies.
#[derive(Debug, Default)]
pub(super) struct Spoken {
    frames: VecDeque<EncodedFrame>,
}

impl Spoken {
    /// Keeps a frame that is sent now. Deep redundancy is not worth repeating: later frames have it, too.
    pub(super) fn keep(&mut self, frame: &EncodedFrame) {
        if self.frames.len() == MAX_KEPT {
            self.frames.pop_front();
        }
        let mut frame = frame.clone();
        if frame.copy_bps < frame.bitrate_bps {
            frame.payload = without_dred(&frame.payload);
        }
        self.frames.push_back(frame);
    }

    /// The frames that were spoken so many samples before `frame`, oldest first, as far as there are such and the payload has
    /// room. Pauses are not worth repeating.
    pub(super) fn copies(&self, frame: &EncodedFrame, behind: impl Iterator<Item = u32>, room: usize) -> Vec<Copy> {
        let room = room.min(MAX_PACKET_BYTES);
        let mut copies: Vec<Copy> = Vec::new();
        let mut bytes = PRIMARY_HEADER_BYTES + frame.payload.len();
        for behind in behind {
            let at = frame.timestamp.wrapping_sub(behind);
            let spoken = self.frames.iter().rev().find(|spoken| at.wrapping_sub(spoken.timestamp) < spoken.samples);
            let Some(spoken) = spoken.filter(|spoken| is_worth_repeating(&spoken.payload)) else { continue };
            let behind = frame.timestamp.wrapping_sub(spoken.timestamp);
            let is_new = copies.iter().all(|copy| copy.behind != behind);
            let size = COPY_HEADER_BYTES + spoken.payload.len();
            if is_new && (1..=REACH_SAMPLES).contains(&behind) && bytes + size <= room {
                bytes += size;
                copies.push(Copy { behind, payload: spoken.payload.clone() });
            }
        }
        copies.sort_unstable_by_key(|copy| std::cmp::Reverse(copy.behind));
        copies
    }
}

/// Frames without sound have two bytes at most.
fn is_worth_repeating(payload: &Bytes) -> bool {
    (3..=MAX_COPY_BYTES).contains(&payload.len())
}

/// The payload of a packet: the copies, then its own frame. Each block is Opus of this payload type.
pub(super) fn pack(opus: u8, copies: &[Copy], primary: &Bytes) -> Bytes {
    let copied: usize = copies.iter().map(|copy| COPY_HEADER_BYTES + copy.payload.len()).sum();
    let mut packet = BytesMut::with_capacity(copied + PRIMARY_HEADER_BYTES + primary.len());
    for copy in copies {
        packet.put_u8(0x80 | opus);
        // 14 bits of offset, then 10 of length.
        let fields = copy.behind << 10 | copy.payload.len() as u32;
        packet.put_uint(u64::from(fields), 3);
    }
    packet.put_u8(opus);
    for copy in copies {
        packet.put_slice(&copy.payload);
    }
    packet.put_slice(primary);
    packet.freeze()
}

/// Takes a packet apart into copies and its own frame; `None` unless all of it is as [`pack`] makes it.
pub(super) fn parse(opus: u8, packet: &Bytes) -> Option<(Vec<Copy>, Bytes)> {
    let mut headers = Vec::new();
    let mut at = 0;
    loop {
        let first = *packet.get(at)?;
        if first & 0x7f != opus {
            return None;
        }
        if first & 0x80 == 0 {
            at += PRIMARY_HEADER_BYTES;
            break;
        }
        let &[_, high, middle, low] = packet.get(at..at + COPY_HEADER_BYTES)? else { return None };
        let fields = u32::from_be_bytes([0, high, middle, low]);
        headers.push((fields >> 10, (fields & 0x3ff) as usize));
        if headers.len() > MAX_COPIES {
            return None;
        }
        at += COPY_HEADER_BYTES;
    }
    let mut copies = Vec::with_capacity(headers.len());
    for (behind, length) in headers {
        let end = at + length;
        if end > packet.len() {
            return None;
        }
        // One of no bytes stands for a frame that was not sent, and one of no offset for the frame itself.
        if length > 0 && behind > 0 {
            copies.push(Copy { behind, payload: packet.slice(at..end) });
        }
        at = end;
    }
    (at < packet.len()).then(|| (copies, packet.slice(at..)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::audio::{FRAME_SAMPLES, PAUSE};

    const FRAME: u32 = FRAME_SAMPLES as u32;

    fn frame(timestamp: u32, payload: Vec<u8>) -> EncodedFrame {
        EncodedFrame {
            payload: payload.into(),
            timestamp,
            samples: FRAME,
            bitrate_bps: 32_000,
            copy_bps: 32_000,
            to: Default::default(),
        }
    }

    fn copy(behind: u32, bytes: &[u8]) -> Copy {
        Copy { behind, payload: Bytes::copy_from_slice(bytes) }
    }

    #[test]
    fn the_bytes_are_those_of_the_rfc() {
        let packed = pack(111, &[copy(960, b"abc")], &Bytes::from_static(b"de"));
        // F = 1, type 111; offset 960, length 3; F = 0, type 111.
        assert_eq!(&packed[..], [0x80 | 111, 0x0f, 0x00, 0x03, 111, b'a', b'b', b'c', b'd', b'e']);
        let farthest = pack(96, &[copy(REACH_SAMPLES, &[7; MAX_COPY_BYTES])], &Bytes::from_static(b"x"));
        assert_eq!(farthest[..5], [0x80 | 96, 0xff, 0xff, 0xff, 96]);
    }

    #[test]
    fn copies_are_the_frames_that_were_spoken_then() {
        let mut spoken = Spoken::default();
        let start = u32::MAX - 4 * FRAME;
        for n in 0..12_u32 {
            spoken.keep(&frame(start.wrapping_add(n * FRAME), vec![n as u8; 10]));
        }
        let now = frame(start.wrapping_add(12 * FRAME), vec![12; 10]);
        let found = |behind: &[u32]| {
            let copies = spoken.copies(&now, behind.iter().copied(), MAX_PACKET_BYTES);
            copies.iter().map(|copy| (copy.behind, copy.payload[0])).collect::<Vec<_>>()
        };
        assert_eq!(found(&[FRAME, 10 * FRAME]), [(10 * FRAME, 2), (FRAME, 11)], "oldest first, over the wrap");
        assert_eq!(found(&[FRAME / 2, FRAME]), [(FRAME, 11)], "once each");
        assert_eq!(found(&[0, 13 * FRAME, REACH_SAMPLES]), [], "nothing was spoken then");
    }

    #[test]
    fn pauses_and_frames_that_do_not_fit_are_not_sent_again() {
        let mut spoken = Spoken::default();
        spoken.keep(&frame(0, PAUSE.to_vec()));
        spoken.keep(&frame(FRAME, vec![1; MAX_COPY_BYTES + 1]));
        spoken.keep(&frame(2 * FRAME, vec![2; 700]));
        spoken.keep(&frame(3 * FRAME, vec![3; 700]));
        for (room, sent_again) in [(usize::MAX, &[3][..]), (805, &[3]), (804, &[])] {
            let behind = (1..=4).map(|back| back * FRAME);
            let copies = spoken.copies(&frame(4 * FRAME, vec![4; 100]), behind, room);
            assert_eq!(copies.iter().map(|copy| copy.payload[0]).collect::<Vec<_>>(), sent_again, "{room}");
        }
    }

    #[test]
    fn packets_that_are_cut_off_too_many_or_of_another_type_are_refused() {
        let whole = pack(111, &[copy(960, b"abc"), copy(480, b"d")], &Bytes::from_static(b"e"));
        assert!(parse(111, &whole).is_some());
        for length in 0..whole.len() {
            assert_eq!(parse(111, &whole.slice(..length)), None, "{length}");
        }
        assert_eq!(parse(110, &whole), None);
        let many = vec![copy(960, b"a"); MAX_COPIES + 1];
        assert_eq!(parse(111, &pack(111, &many, &Bytes::from_static(b"e"))), None);
    }

    proptest! {
        #[test]
        fn what_was_packed_comes_out_again(
            copies in prop::collection::vec((1..=REACH_SAMPLES, prop::collection::vec(any::<u8>(), 1..200)), 0..=MAX_COPIES),
            primary in prop::collection::vec(any::<u8>(), 1..300),
        ) {
            let copies: Vec<Copy> = copies.into_iter().map(|(behind, bytes)| copy(behind, &bytes)).collect();
            let primary = Bytes::from(primary);
            prop_assert_eq!(parse(111, &pack(111, &copies, &primary)), Some((copies, primary)));
        }

        #[test]
        fn no_bytes_of_a_stranger_do_harm(packet in prop::collection::vec(any::<u8>(), 0..1500)) {
            let opus = packet.first().map_or(0, |byte| byte & 0x7f);
            let packet = Bytes::from(packet);
            if let Some((copies, primary)) = parse(opus, &packet) {
                prop_assert!(copies.len() <= MAX_COPIES && !primary.is_empty());
                let bytes: usize = copies.iter().map(|copy| copy.payload.len()).sum();
                prop_assert!(bytes + primary.len() < packet.len());
            }
        }
    }
}
