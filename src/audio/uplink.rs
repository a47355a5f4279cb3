//! The way of the own voice: from the microphone's blocks to encoded frames, and to whom they are spoken.
//!
//! There is one encoder for all legs, so what they wish is brought together here, at the border between two frames. What one
//! participant tells of its path, truly or not, makes the voice a little worse for the others at most.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use tokio::sync::broadcast;

use super::{
    BLOCK_SAMPLES, Block, EncodedFrame, SAMPLE_RATE_HZ,
    codec::{Encoder, PAUSE, Settings, without_dred_bps},
};
use crate::proto::id::LegId;

/// Longest frame: 40 ms.
const MAX_FRAME_SAMPLES: usize = 4 * BLOCK_SAMPLES;
/// Packets of libopus up to this length say only that nobody speaks (opus_encode's documentation).
const MAX_DTX_BYTES: usize = 2;

/// How a leg would like the own voice to be encoded, as its path asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// Of the encoded voice alone.
    pub bitrate_bps: u32,
    /// 10, 20 or 40.
    pub frame_ms: u8,
    /// In-band FEC.
    pub fec: bool,
    /// What the encoder is to expect.
    pub expected_loss_pct: u8,
    /// Deep redundancy (DRED) instead of FEC, out of the bitrate. It is for a voice of which nothing else would be left, so
    /// only all who hear it together get it.
    pub dred: bool,
}

impl Default for Wish {
    /// Clear fullband speech that survives some loss: PESQ-WB 4.27. A minority never makes the voice worse for all.
    fn default() -> Self {
        Self { bitrate_bps: 32_000, frame_ms: 20, fec: true, expected_loss_pct: 10, dred: false }
    }
}

impl Wish {
    /// How the voice is encoded for all who hear it.
    pub(crate) fn granted(mut wishes: Vec<Self>, constant_bitrate: bool) -> Self {
        // The size of deep redundancy tells of what was said; and it is for all who hear, or for none.
        if constant_bitrate || !wishes.iter().all(|wish| wish.dred) {
            wishes.iter_mut().for_each(|wish| *wish = wish.without_dred());
        }
        Self::together(&wishes).unwrap_or_default()
    }

    /// What suits all who hear; `None` when nobody wishes anything. The narrowest path sets bitrate and frame length, the
    /// worst one the protection; but only most of them together ask for more than [`Wish::default`].
    fn together(wishes: &[Self]) -> Option<Self> {
        let strictest = wishes.iter().copied().reduce(Self::and)?;
        let enough = Self::default();
        let most =
            |ask: fn(&Self, &Self) -> bool| wishes.iter().filter(|wish| ask(wish, &enough)).count() * 2 > wishes.len();
        let mut all = strictest;
        if !most(|wish, enough| wish.bitrate_bps < enough.bitrate_bps) {
            all.bitrate_bps = all.bitrate_bps.max(enough.bitrate_bps);
        }
        if !most(|wish, enough| wish.frame_ms > enough.frame_ms) {
            all.frame_ms = all.frame_ms.min(enough.frame_ms);
        }
        if !most(|wish, enough| wish.expected_loss_pct > enough.expected_loss_pct) {
            all.expected_loss_pct = all.expected_loss_pct.min(enough.expected_loss_pct);
        }
        Some(all)
    }

    fn and(self, other: Self) -> Self {
        Self {
            bitrate_bps: self.bitrate_bps.min(other.bitrate_bps),
            frame_ms: self.frame_ms.max(other.frame_ms),
            fec: self.fec || other.fec,
            expected_loss_pct: self.expected_loss_pct.max(other.expected_loss_pct),
            dred: self.dred && other.dred,
        }
    }

    /// What is left of it where deep redundancy is not granted: as much voice, and so as many copies of it.
    fn without_dred(self) -> Self {
        Self { bitrate_bps: self.copy_bps(), dred: false, ..self }
    }

    /// What is sent of it a second time: all but deep redundancy.
    pub fn copy_bps(&self) -> u32 {
        if self.dred { without_dred_bps(self.bitrate_bps) } else { self.bitrate_bps }
    }

    fn to_bits(self) -> u64 {
        let flags = u8::from(self.fec) | u8::from(self.dred) << 1;
        let [frame_ms, flags, loss] = [self.frame_ms, flags, self.expected_loss_pct].map(u64::from);
        u64::from(self.bitrate_bps) << 32 | frame_ms << 16 | flags << 8 | loss
    }

    /// `None` for [`NO_WISH`].
    fn from_bits(bits: u64) -> Option<Self> {
        let [.., frame_ms, flags, expected_loss_pct] = bits.to_be_bytes();
        let (bitrate_bps, fec, dred) = ((bits >> 32) as u32, flags & 1 != 0, flags & 2 != 0);
        (bits != NO_WISH).then_some(Self { bitrate_bps, frame_ms, fec, expected_loss_pct, dred })
    }
}

/// A bitrate of nothing is wished by nobody.
const NO_WISH: u64 = 0;

/// Where a leg leaves its wish. A number that is written as a whole: nobody waits for anybody.
pub struct WishWriter(Arc<AtomicU64>);

/// Where its wish is found.
pub struct WishReader(Arc<AtomicU64>);

/// Both ends of a leg's wish.
pub fn wish() -> (WishWriter, WishReader) {
    let shared = Arc::new(AtomicU64::new(NO_WISH));
    (WishWriter(shared.clone()), WishReader(shared))
}

impl WishWriter {
    /// The latest holds; `None` as if there was none.
    pub fn set(&self, wish: Option<Wish>) {
        self.0.store(wish.map_or(NO_WISH, Wish::to_bits), Ordering::Relaxed);
    }
}

impl WishReader {
    fn get(&self) -> Option<Wish> {
        Wish::from_bits(self.0.load(Ordering::Relaxed))
    }

    fn is_abandoned(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }
}

/// From the microphone's blocks to encoded frames, and to whom they are spoken.
pub struct Uplink {
    encoder: Option<Encoder>,
    /// Every frame has the same size and silence is sent like speech, so that sizes and times tell nothing.
    constant_bitrate: bool,
    frame: [f32; MAX_FRAME_SAMPLES],
    filled: usize,
    /// Of the frame that is being filled.
    frame_samples: usize,
    /// What is decoded lags so much behind what was encoded.
    lookahead_samples: usize,
    /// As wished when it was begun.
    bitrate_bps: u32,
    /// And without deep redundancy.
    copy_bps: u32,
    timestamp: u32,
    /// The legs of the plan.
    to: Arc<BTreeSet<LegId>>,
    wishes: BTreeMap<LegId, WishReader>,
    microphone: broadcast::Sender<EncodedFrame>,
}

impl Uplink {
    /// An uplink to nobody; its frames go to `microphone`.
    pub fn new(microphone: broadcast::Sender<EncodedFrame>, constant_bitrate: bool) -> Self {
        Self {
            encoder: None,
            constant_bitrate,
            frame: [0.0; MAX_FRAME_SAMPLES],
            filled: 0,
            frame_samples: samples(Wish::default().frame_ms),
            lookahead_samples: 0,
            bitrate_bps: Wish::default().bitrate_bps,
            copy_bps: Wish::default().copy_bps(),
            timestamp: 0,
            to: Arc::default(),
            wishes: BTreeMap::new(),
            microphone,
        }
    }

    /// A leg's wishes count while it is spoken to.
    pub fn add_leg(&mut self, id: LegId, wish: WishReader) {
        self.wishes.insert(id, wish);
    }

    /// Its wishes do not count any more.
    pub fn remove_leg(&mut self, id: LegId) {
        self.wishes.remove(&id);
    }

    /// As [`Uplink::remove_leg`] for each whose task is gone.
    pub fn forget_abandoned_legs(&mut self) {
        self.wishes.retain(|_, wish| !wish.is_abandoned());
    }

    /// What is said from now on is for these legs. Those that were left are told so at once, and when none stays, nothing of
    /// what was said before reaches the new ones: neither half a frame nor the encoder's memory.
    pub fn address(&mut self, to: BTreeSet<LegId>, epoch: Instant, now: Instant) {
        let left = self.to.difference(&to).copied().collect();
        self.pause(Arc::new(left));
        let speaks_on = self.encoder.is_none() || !self.to.is_disjoint(&to);
        self.to = Arc::new(to);
        if !speaks_on {
            self.begin(epoch, now);
        }
    }

    /// The microphone closes.
    pub fn end(&mut self) {
        self.pause(self.to.clone());
        self.encoder = None;
    }

    /// Tells these legs that nothing more follows, so that the silence is not taken for loss.
    fn pause(&self, to: Arc<BTreeSet<LegId>>) {
        if self.encoder.is_some() && !to.is_empty() {
            self.send(Bytes::from_static(PAUSE), self.timestamp, to);
        }
    }

    /// The microphone opens: timestamps go on by the time that passed, so that the pause is seen as one.
    pub fn begin(&mut self, epoch: Instant, now: Instant) {
        let elapsed_us = now.saturating_duration_since(epoch).as_micros();
        let by_clock = (elapsed_us * u128::from(SAMPLE_RATE_HZ) / 1_000_000) as u32;
        // A microphone that runs fast is ahead of the clock: never back.
        if by_clock.wrapping_sub(self.timestamp).cast_signed() > 0 {
            self.timestamp = by_clock;
        }
        self.filled = 0;
        self.encoder = Encoder::new().inspect_err(|error| tracing::error!(%error, "no memory for Opus")).ok();
        let lookahead = self.encoder.as_mut().and_then(|encoder| encoder.lookahead_samples().ok());
        self.lookahead_samples = lookahead.unwrap_or(0);
    }

    /// Adds 10 ms; the last block of a frame completes it.
    pub fn add(&mut self, block: &Block) {
        if self.filled == 0 {
            self.suit();
        }
        self.frame[self.filled..self.filled + BLOCK_SAMPLES].copy_from_slice(block);
        self.filled += BLOCK_SAMPLES;
        if self.filled < self.frame_samples {
            return;
        }
        self.filled = 0;
        let frame = &mut self.frame[..self.frame_samples];
        let timestamp = self.timestamp;
        self.timestamp = timestamp.wrapping_add(self.frame_samples as u32);
        match self.encoder.as_mut().map(|encoder| encoder.encode(frame)) {
            Some(Ok(payload)) if payload.len() <= MAX_DTX_BYTES => {
                self.send(Bytes::from_static(PAUSE), timestamp, self.to.clone());
            }
            Some(Ok(payload)) => self.send(payload, timestamp, self.to.clone()),
            Some(Err(error)) => tracing::warn!(%error, "a frame was not encoded"),
            None => {}
        }
    }

    /// The next frame is encoded as the legs that hear it wish.
    fn suit(&mut self) {
        let wishes = self.to.iter().filter_map(|id| self.wishes.get(id)?.get()).collect();
        let wish = Wish::granted(wishes, self.constant_bitrate);
        (self.frame_samples, self.bitrate_bps, self.copy_bps) =
            (samples(wish.frame_ms), wish.bitrate_bps, wish.copy_bps());
        let settings = Settings {
            bitrate_bps: wish.bitrate_bps.cast_signed(),
            constant_bitrate: self.constant_bitrate,
            dtx: !self.constant_bitrate,
            fec: wish.fec,
            expected_loss_percent: i32::from(wish.expected_loss_pct),
            dred: wish.dred,
        };
        if let Some(Err(error)) = self.encoder.as_mut().map(|encoder| encoder.set(settings)) {
            tracing::warn!(%error, "the encoder did not take its settings");
        }
    }

    /// How long a frame delays what is said: until it is complete, and by how much the encoder looks ahead, in ms.
    pub fn frame_ms(&self) -> f64 {
        (self.frame_samples + self.lookahead_samples) as f64 * 1000.0 / f64::from(SAMPLE_RATE_HZ)
    }

    fn send(&self, payload: Bytes, timestamp: u32, to: Arc<BTreeSet<LegId>>) {
        // An error says that no leg listens, which is no fault.
        let (samples, bitrate_bps, copy_bps) = (self.frame_samples as u32, self.bitrate_bps, self.copy_bps);
        drop(self.microphone.send(EncodedFrame { payload, timestamp, samples, bitrate_bps, copy_bps, to }));
    }
}

/// Samples of a frame; what Opus does not know becomes 20 ms.
fn samples(frame_ms: u8) -> usize {
    match frame_ms {
        10 => BLOCK_SAMPLES,
        40 => MAX_FRAME_SAMPLES,
        _ => 2 * BLOCK_SAMPLES,
    }
}

#[cfg(test)]
mod tests;
