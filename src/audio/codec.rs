//! Opus (RFC 6716) with telecon's settings: 48 kHz, mono, 20 ms, in-band FEC.
//!
//! Which packet is decoded when is the jitter buffer's business, not this file's.

use bytes::Bytes;
use opus::{Application, Bitrate, Channels, Signal};

use super::{FRAME_SAMPLES, SAMPLE_RATE_HZ};

/// Clear fullband speech: measured at PESQ-WB 4.27.
const BITRATE_BPS: i32 = 32_000;
/// 0..=10; 9 costs 151 µs a frame against 110 µs at 5, and sounds better under hybrid coding.
const COMPLEXITY: i32 = 9;
/// What libopus is told to expect, so that it spends bits on in-band FEC; 0 would switch FEC off.
const EXPECTED_LOSS_PERCENT: i32 = 10;
/// Longest payload that leaves the encoder; fits one datagram with all headers.
pub const MAX_PAYLOAD_BYTES: usize = 1200;
/// A frame of no bytes behind its table-of-contents byte (RFC 6716, §3.1): the sender pauses. Fullband CELT, mono, 20 ms.
pub const PAUSE: &[u8] = &[31 << 3];
/// Longest packet that RFC 6716, §3.2.5 allows: 120 ms.
pub const MAX_PACKET_SAMPLES: usize = 5760;

/// One encoder a source, whatever the number of legs.
pub struct Encoder {
    opus: opus::Encoder,
    buffer: [u8; MAX_PAYLOAD_BYTES],
}

impl Encoder {
    /// An encoder with telecon's settings.
    pub fn new() -> Result<Self, opus::Error> {
        let mut opus = opus::Encoder::new(SAMPLE_RATE_HZ, Channels::Mono, Application::Voip)?;
        opus.set_bitrate(Bitrate::Bits(BITRATE_BPS))?;
        opus.set_vbr(true)?;
        opus.set_complexity(COMPLEXITY)?;
        opus.set_signal(Signal::Voice)?;
        opus.set_inband_fec(true)?;
        opus.set_packet_loss_perc(EXPECTED_LOSS_PERCENT)?;
        Ok(Self { opus, buffer: [0; MAX_PAYLOAD_BYTES] })
    }

    /// Encodes one frame of 20 ms into at most [`MAX_PAYLOAD_BYTES`].
    pub fn encode(&mut self, frame: &[f32; FRAME_SAMPLES]) -> Result<Bytes, opus::Error> {
        let length = self.opus.encode_float(frame, &mut self.buffer)?;
        Ok(Bytes::copy_from_slice(&self.buffer[..length]))
    }
}

/// One decoder a leg.
pub struct Decoder {
    opus: opus::Decoder,
    buffer: Box<[f32; MAX_PACKET_SAMPLES]>,
}

impl Decoder {
    /// A decoder in its initial state.
    pub fn new() -> Result<Self, opus::Error> {
        let opus = opus::Decoder::new(SAMPLE_RATE_HZ, Channels::Mono)?;
        Ok(Self { opus, buffer: Box::new([0.0; MAX_PACKET_SAMPLES]) })
    }

    /// Forgets what was decoded: what comes next does not follow on it.
    pub fn reset(&mut self) {
        if let Err(error) = self.opus.reset_state() {
            tracing::debug!(%error, "a decoder was not reset");
        }
    }

    /// Decodes a packet; one that libopus refuses is concealed, so that a stranger's bytes cannot stop a leg.
    pub fn decode(&mut self, payload: &[u8], expected_samples: usize) -> &mut [f32] {
        match self.opus.decode_float(payload, &mut self.buffer[..], false) {
            Ok(samples) if !payload.is_empty() => &mut self.buffer[..samples],
            Ok(_) | Err(_) => self.conceal(expected_samples),
        }
    }

    /// The frame before `following`, from the in-band FEC of `following` (libopus conceals where there is none).
    pub fn recover(&mut self, following: &[u8], samples: usize) -> &mut [f32] {
        let samples = whole_frames(samples);
        match self.opus.decode_float(following, &mut self.buffer[..samples], true) {
            Ok(decoded) => &mut self.buffer[..decoded],
            Err(_) => self.conceal(samples),
        }
    }

    /// Makes up what was lost; fades when it goes on.
    pub fn conceal(&mut self, samples: usize) -> &mut [f32] {
        let samples = whole_frames(samples);
        match self.opus.decode_float(&[], &mut self.buffer[..samples], false) {
            Ok(decoded) => &mut self.buffer[..decoded],
            Err(_) => {
                self.buffer[..samples].fill(0.0);
                &mut self.buffer[..samples]
            }
        }
    }
}

/// libopus conceals multiples of 2.5 ms only.
fn whole_frames(samples: usize) -> usize {
    const SHORTEST: usize = 120;
    (samples / SHORTEST * SHORTEST).clamp(SHORTEST, MAX_PACKET_SAMPLES)
}

/// Whether a packet holds no sound, only the news that its sender pauses.
pub fn is_pause(payload: &[u8]) -> bool {
    payload.len() == 1
}

/// Samples in an Opus packet at 48 kHz, or `None` when its framing is not valid (RFC 6716, §3.4).
pub fn packet_samples(payload: &[u8]) -> Option<usize> {
    opus::packet::get_nb_samples(payload, SAMPLE_RATE_HZ)
        .ok()
        .filter(|samples| !payload.is_empty() && (1..=MAX_PACKET_SAMPLES).contains(samples))
}

/// Samples at the end of the packet before that can be had from this one's in-band FEC (RFC 6716, §4.2.4), or `None`.
pub fn fec_samples(payload: &[u8]) -> Option<usize> {
    let (&toc, rest) = payload.split_first()?;
    let (per_frame_ms, silk_frames) = match toc >> 3 {
        silk @ 0..12 => [(10, 1), (20, 1), (40, 2), (60, 3)][usize::from(silk & 3)],
        hybrid @ 12..16 => [(10, 1), (20, 1)][usize::from(hybrid & 1)],
        _ => return None,
    };
    // Where the first frame's bytes begin (§3.2); of several frames only those of the same length occur in speech.
    let first = match toc & 3 {
        0 | 1 => *rest.first()?,
        2 => *rest.get(if *rest.first()? < 252 { 1 } else { 2 })?,
        _ => first_of_many(rest)?,
    };
    // One bit for each frame's voice activity, then whether there is FEC: for mono, the first bits of the range coder.
    (first >> (7 - silk_frames) & 1 == 1).then_some(per_frame_ms * SAMPLE_RATE_HZ as usize / 1000)
}

/// The first byte of the first of any number of frames (RFC 6716, §3.2.5).
fn first_of_many(rest: &[u8]) -> Option<u8> {
    let (&count, mut rest) = rest.split_first()?;
    let (varies, padded, frames) = (count & 0x80 != 0, count & 0x40 != 0, count & 0x3F);
    while padded {
        let (&length, after) = rest.split_first()?;
        rest = after;
        if length < 255 {
            break;
        }
    }
    for _ in 1..if varies { frames } else { 1 } {
        rest = rest.get(if *rest.first()? < 252 { 1 } else { 2 }..)?;
    }
    rest.first().copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audio::testing::{best_correlation, speech};

    #[test]
    fn speech_survives_the_codec() {
        let clip = speech(4.0);
        let (mut encoder, mut decoder) = (Encoder::new().unwrap(), Decoder::new().unwrap());
        let mut heard = Vec::new();
        for frame in clip.as_chunks::<FRAME_SAMPLES>().0 {
            let payload = encoder.encode(frame).unwrap();
            assert!(payload.len() <= MAX_PAYLOAD_BYTES);
            assert_eq!(packet_samples(&payload), Some(FRAME_SAMPLES));
            heard.extend_from_slice(decoder.decode(&payload, FRAME_SAMPLES));
        }
        let (correlation, _) = best_correlation(&clip, &heard, 960);
        println!("correlation through the codec: {correlation:.3}");
        assert!(correlation > 0.9, "{correlation}");
    }

    #[test]
    fn a_lost_frame_comes_back_from_the_next_ones_fec() {
        let clip = speech(2.0);
        let (mut encoder, mut decoder) = (Encoder::new().unwrap(), Decoder::new().unwrap());
        let packets: Vec<Bytes> =
            clip.as_chunks::<FRAME_SAMPLES>().0.iter().map(|frame| encoder.encode(frame).unwrap()).collect();
        let mut heard = Vec::new();
        for (at, packet) in packets.iter().enumerate() {
            match packets.get(at + 1) {
                Some(next) if at % 5 == 3 => heard.extend_from_slice(decoder.recover(next, FRAME_SAMPLES)),
                _ => heard.extend_from_slice(decoder.decode(packet, FRAME_SAMPLES)),
            }
        }
        let (correlation, _) = best_correlation(&clip, &heard, 960);
        assert!(correlation > 0.88, "{correlation}");
    }

    #[test]
    fn garbage_is_concealed_and_never_panics() {
        let mut decoder = Decoder::new().unwrap();
        let mut state = 1_u32;
        for length in 0..300_usize {
            let bytes: Vec<u8> = (0..length)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (state >> 24) as u8
                })
                .collect();
            assert!(!decoder.decode(&bytes, FRAME_SAMPLES).is_empty());
            assert!(!decoder.recover(&bytes, FRAME_SAMPLES).is_empty());
            let _ = packet_samples(&bytes);
        }
    }
}
