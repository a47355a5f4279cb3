//! Opus (RFC 6716) with telecon's settings: 48 kHz, mono, fullband speech.
//!
//! Which packet is decoded when is the jitter buffer's business, not this file's.

mod opus;

use bytes::Bytes;
use opus::{Control, Dred, VOICE};
pub use opus::{Error, version};

/// 0..=10; under hybrid coding 9 sounds better than less (PESQ-WB 4.38 against 4.29 at 32 kbit/s).
const ENCODER_COMPLEXITY: i32 = 9;
/// From here on fullband CELT hardly gains by it…
const PLENTY_BPS: i32 = 48_000;
/// …so it is spared: a seventh of the time for nothing that PESQ-WB hears. 6 would spare the analysis that tells music from
/// speech as well, a quarter in all, and costs 0.02.
const PLENTY_COMPLEXITY: i32 = 7;
/// 5 is the least that conceals with libopus' network instead of repeating the last pitch period.
const DECODER_COMPLEXITY: i32 = 5;
/// Longest payload that leaves the encoder; fits one datagram with all headers.
pub const MAX_PAYLOAD_BYTES: usize = 1200;
/// A frame of no bytes behind its table-of-contents byte (RFC 6716, §3.1): the sender pauses. Fullband CELT, mono, 20 ms.
pub const PAUSE: &[u8] = &[31 << 3];
/// Longest packet that RFC 6716, §3.2.5 allows: 120 ms.
pub const MAX_PACKET_SAMPLES: usize = 5760;
/// libopus makes up multiples of 2.5 ms only.
const SHORTEST_SAMPLES: usize = 120;

/// How the own voice is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Of the payload; 32 000 is clear fullband speech, measured at PESQ-WB 4.27.
    pub bitrate_bps: i32,
    /// Every packet has the same size, whatever is said.
    pub constant_bitrate: bool,
    /// Hardly anything is sent while nobody speaks.
    pub dtx: bool,
    /// Every packet holds its predecessor at a lower bitrate (in-band FEC).
    pub fec: bool,
    /// What libopus is told to expect, so that it spends bits on FEC; at 0 it spends none.
    pub expected_loss_percent: i32,
    /// Every packet describes the sound before it as well (deep redundancy, DRED), out of the same bits. FEC would take them.
    pub dred: bool,
}

/// Every packet describes so much of the sound before it: 200 ms. What is farther back has been played.
const DRED_DURATION: i32 = 20;
/// libopus takes 12 % of the bits beyond 12 kbit/s for DRED, for each percent of loss that it is told to expect
/// (`compute_dred_bitrate`); with 5 and more the voice loses its upper band.
const DRED_EXPECTED_LOSS_PERCENT: i32 = 4;

/// What DRED leaves of a bitrate for the voice in frames of 20 ms.
pub fn without_dred_bps(bitrate_bps: u32) -> u32 {
    bitrate_bps - bitrate_bps.saturating_sub(12_000) / 100 * 12 * DRED_EXPECTED_LOSS_PERCENT.cast_unsigned()
}

/// An Opus packet without the DRED and the padding that are in it; itself when it is none.
pub fn without_dred(packet: &Bytes) -> Bytes {
    let mut bare = packet.to_vec();
    if opus::unpad(&mut bare).is_ok() { bare.into() } else { packet.clone() }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            bitrate_bps: 32_000,
            constant_bitrate: false,
            dtx: false,
            fec: true,
            expected_loss_percent: 10,
            dred: false,
        }
    }
}

/// Of a recording, whose packets are never lost: fullband CELT, which is transparent for one voice.
const RECORDING_BITRATE_BPS: i32 = 48_000;
/// Without the analysis that tells music from speech: up to nine files are encoded at once, and it costs more than they gain.
const RECORDING_COMPLEXITY: i32 = 5;

/// One encoder a source, whatever the number of legs.
pub struct Encoder {
    opus: opus::Encoder,
    settings: Option<Settings>,
    buffer: [u8; MAX_PAYLOAD_BYTES],
}

impl Encoder {
    /// An encoder with the default settings.
    pub fn new() -> Result<Self, Error> {
        let mut opus = opus::Encoder::for_speech()?;
        opus.set(Control::Signal, VOICE)?;
        let mut encoder = Self { opus, settings: None, buffer: [0; MAX_PAYLOAD_BYTES] };
        encoder.set(Settings::default())?;
        Ok(encoder)
    }

    /// An encoder for what is kept and not sent.
    pub fn for_recording() -> Result<Self, Error> {
        let opus = opus::Encoder::for_any_sound()?;
        let mut encoder = Self { opus, settings: None, buffer: [0; MAX_PAYLOAD_BYTES] };
        let bitrate_bps = RECORDING_BITRATE_BPS;
        encoder.set(Settings { bitrate_bps, fec: false, expected_loss_percent: 0, ..Settings::default() })?;
        encoder.opus.set(Control::Complexity, RECORDING_COMPLEXITY)?;
        Ok(encoder)
    }

    /// By how much what is decoded lags behind what was encoded, in samples at 48 kHz.
    pub fn lookahead_samples(&mut self) -> Result<usize, Error> {
        self.opus.lookahead()
    }

    /// Changes the settings from the next frame on. After an error some of them may hold and others not.
    pub fn set(&mut self, settings: Settings) -> Result<(), Error> {
        if self.settings == Some(settings) {
            return Ok(());
        }
        self.settings = None;
        let complexity = if settings.bitrate_bps < PLENTY_BPS { ENCODER_COMPLEXITY } else { PLENTY_COMPLEXITY };
        self.opus.set(Control::Complexity, complexity)?;
        self.opus.set(Control::Bitrate, settings.bitrate_bps)?;
        self.opus.set(Control::VariableBitrate, i32::from(!settings.constant_bitrate))?;
        self.opus.set(Control::Dtx, i32::from(settings.dtx))?;
        self.opus.set(Control::InbandFec, i32::from(settings.fec))?;
        let dred = (DRED_EXPECTED_LOSS_PERCENT, DRED_DURATION);
        let (expected_loss, dred) = if settings.dred { dred } else { (settings.expected_loss_percent, 0) };
        self.opus.set(Control::ExpectedLoss, expected_loss)?;
        self.opus.set(Control::DredDuration, dred)?;
        self.settings = Some(settings);
        Ok(())
    }

    /// Encodes one frame of 10, 20 or 40 ms into at most [`MAX_PAYLOAD_BYTES`].
    pub fn encode(&mut self, frame: &[f32]) -> Result<Bytes, Error> {
        let length = self.opus.encode(frame, &mut self.buffer)?;
        Ok(Bytes::copy_from_slice(&self.buffer[..length]))
    }
}

/// One decoder a leg.
pub struct Decoder {
    opus: opus::Decoder,
    history: Option<History>,
    buffer: Box<[f32; MAX_PACKET_SAMPLES]>,
}

/// What the last packet that was asked tells of the sound before it.
struct History {
    dred: Dred,
    packet: Bytes,
    /// From so many samples before the packet…
    from: usize,
    /// …to so many.
    to: usize,
}

impl Decoder {
    /// A decoder in its initial state.
    pub fn new() -> Result<Self, Error> {
        let mut opus = opus::Decoder::new()?;
        opus.set_complexity(DECODER_COMPLEXITY)?;
        Ok(Self { opus, history: None, buffer: Box::new([0.0; MAX_PACKET_SAMPLES]) })
    }

    /// Forgets what was decoded: what comes next does not follow on it.
    pub fn reset(&mut self) {
        if let Err(error) = self.opus.reset() {
            tracing::debug!(%error, "a decoder was not reset");
        }
    }

    /// Decodes a packet; one that libopus refuses is concealed, so that a stranger's bytes cannot stop a leg.
    pub fn decode(&mut self, payload: &[u8], expected_samples: usize) -> &mut [f32] {
        let packet = (!payload.is_empty()).then_some(payload);
        match packet.map(|packet| self.opus.decode(Some(packet), false, &mut self.buffer[..])) {
            Some(Ok(samples)) => &mut self.buffer[..samples],
            Some(Err(_)) | None => self.conceal(expected_samples),
        }
    }

    /// The frame before `following`, from the in-band FEC of `following` (libopus conceals where there is none).
    pub fn recover(&mut self, following: &[u8], samples: usize) -> &mut [f32] {
        let samples = whole_frames(samples);
        let packet = (!following.is_empty()).then_some(following);
        match self.opus.decode(packet, packet.is_some(), &mut self.buffer[..samples]) {
            Ok(decoded) => &mut self.buffer[..decoded],
            Err(_) => self.conceal(samples),
        }
    }

    /// The `samples` that begin `back` samples before `following`, from the deep redundancy of `following`; `None` when it
    /// does not reach there. To be asked for in order, and before `following` is decoded. Packets are read once however
    /// often they are asked.
    pub fn dred(&mut self, following: &Bytes, back: usize, samples: usize) -> Option<&mut [f32]> {
        let samples = whole_frames(samples);
        let history = Self::history(&mut self.history, following)?;
        if back > history.from || back <= history.to {
            return None;
        }
        let decoded = self.opus.decode_dred(&mut history.dred, back, &mut self.buffer[..samples]).ok()?;
        Some(&mut self.buffer[..decoded])
    }

    /// How far back `following` describes the sound before it, in samples.
    pub fn reach(&mut self, following: &Bytes) -> usize {
        Self::history(&mut self.history, following).map_or(0, |history| history.from)
    }

    /// What `packet` tells, read now unless it was the last one that was read.
    fn history<'a>(history: &'a mut Option<History>, packet: &Bytes) -> Option<&'a mut History> {
        if history.is_none() {
            let dred = Dred::new().inspect_err(|error| tracing::error!(%error, "no memory for DRED")).ok()?;
            *history = Some(History { dred, packet: Bytes::new(), from: 0, to: 0 });
        }
        let history = history.as_mut()?;
        if history.packet != packet {
            (history.from, history.to) = history.dred.parse(packet).unwrap_or((0, 0));
            history.packet = packet.clone();
        }
        Some(history)
    }

    /// Makes up what was lost; fades when it goes on.
    pub fn conceal(&mut self, samples: usize) -> &mut [f32] {
        let samples = whole_frames(samples);
        match self.opus.decode(None, false, &mut self.buffer[..samples]) {
            Ok(decoded) => &mut self.buffer[..decoded],
            Err(_) => {
                self.buffer[..samples].fill(0.0);
                &mut self.buffer[..samples]
            }
        }
    }
}

/// So many samples that libopus makes them up.
fn whole_frames(samples: usize) -> usize {
    (samples / SHORTEST_SAMPLES * SHORTEST_SAMPLES).clamp(SHORTEST_SAMPLES, MAX_PACKET_SAMPLES)
}

/// Whether a packet holds no sound, only the news that its sender pauses.
pub fn is_pause(payload: &[u8]) -> bool {
    payload.len() == 1
}

/// Samples in an Opus packet at 48 kHz, or `None` when its framing is not valid (RFC 6716, §3.4).
pub fn packet_samples(payload: &[u8]) -> Option<usize> {
    opus::packet_samples(payload)
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
    (first >> (7 - silk_frames) & 1 == 1).then_some(per_frame_ms * super::SAMPLE_RATE_HZ as usize / 1000)
}

/// The first byte of the first of any number of frames (RFC 6716, §3.2.5).
fn first_of_many(rest: &[u8]) -> Option<u8> {
    let (&count, mut rest) = rest.split_first()?;
    let (varies, padded, frames) = (count & 0x80 != 0, count & 0x40 != 0, count & 0x3F);
    if padded {
        // 255 says that another byte follows.
        let bytes = rest.iter().position(|length| *length < 255)?;
        rest = &rest[bytes + 1..];
    }
    for _ in 1..if varies { frames } else { 1 } {
        rest = rest.get(if *rest.first()? < 252 { 1 } else { 2 }..)?;
    }
    rest.first().copied()
}

#[cfg(test)]
mod tests;
