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

/// Stand-in until the sound devices are here.
pub fn devices(_: &crate::config::Audio) -> Vec<serde_json::Value> {
    Vec::new()
}
