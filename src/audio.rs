//! Sound: one thread owns the devices, the encoder, the jitter buffers and the mixer.
//!
//! ```text
//!  microphone ─ ring ─┐                          ┌─ broadcast of EncodedFrame ─> every leg's own task writes RTP
//!                     ├─ audio thread: encode ───┘
//!  speaker ◄── ring ──┘  mix ◄─ gain ◄─ decode, conceal ◄─ jitter buffer ◄─ rtrb slot ◄─ leg's own task reads RTP
//! ```

use std::time::Instant;

use bytes::Bytes;

/// Sample rate of everything inside: 48 kHz, mono, f32 in -1..=1.
pub const SAMPLE_RATE_HZ: u32 = 48_000;
/// One Opus frame: 20 ms.
pub const FRAME_SAMPLES: usize = 960;

/// One encoded frame of the own microphone, shared by all legs.
#[derive(Debug, Clone)]
pub struct EncodedFrame {
    /// An Opus packet (RFC 6716).
    pub payload: Bytes,
    /// Sampling instant of its first sample, in 48 kHz units, wrapping; the RTP timestamp without offset.
    pub timestamp: u32,
}

/// One RTP packet of a remote participant.
#[derive(Debug, Clone)]
pub struct ReceivedPacket {
    /// RTP sequence number.
    pub sequence: u16,
    /// RTP timestamp, 48 kHz.
    pub timestamp: u32,
    /// An Opus packet.
    pub payload: Bytes,
    /// When it was read from the socket.
    pub arrival: Instant,
}

/// Where a leg's task puts what it receives.
pub struct LegInput {
    slots: rtrb::Producer<ReceivedPacket>,
}

impl LegInput {
    /// An input whose packets are read by a test.
    #[cfg(test)]
    pub(crate) fn pair(packets: usize) -> (Self, rtrb::Consumer<ReceivedPacket>) {
        let (slots, consumer) = rtrb::RingBuffer::new(packets);
        (Self { slots }, consumer)
    }

    /// Hands a packet to the audio thread. Never blocks; when the thread lags behind, the packet is dropped.
    pub fn push(&mut self, packet: ReceivedPacket) {
        // Full: as if it had been lost on the way.
        drop(self.slots.push(packet));
    }
}
