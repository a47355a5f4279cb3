//! The way of the own voice: from the microphone's blocks to encoded frames, and to whom they are spoken.

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use bytes::Bytes;
use tokio::sync::broadcast;

use super::{
    BLOCK_SAMPLES, Block, EncodedFrame, FRAME_SAMPLES, SAMPLE_RATE_HZ,
    codec::{Encoder, PAUSE},
    speech::TalkGate,
};
use crate::proto::id::LegId;

/// From the microphone's blocks to encoded frames, and to whom they are spoken.
pub struct Uplink {
    encoder: Option<Encoder>,
    frame: [f32; FRAME_SAMPLES],
    filled: usize,
    timestamp: u32,
    /// The legs of the plan.
    to: Arc<BTreeSet<LegId>>,
    gate: TalkGate,
    microphone: broadcast::Sender<EncodedFrame>,
}

impl Uplink {
    /// An uplink to nobody; its frames go to `microphone`.
    pub fn new(microphone: broadcast::Sender<EncodedFrame>) -> Self {
        Self {
            encoder: None,
            frame: [0.0; FRAME_SAMPLES],
            filled: 0,
            timestamp: 0,
            to: Arc::default(),
            gate: TalkGate::new(),
            microphone,
        }
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
    }

    /// Adds 10 ms; every second block completes a frame. A muted frame is silence as a whole; true when it is time to tell
    /// the user that it was not before.
    pub fn add(&mut self, block: &Block, muted: bool) -> bool {
        self.frame[self.filled..self.filled + BLOCK_SAMPLES].copy_from_slice(block);
        self.filled += BLOCK_SAMPLES;
        if self.filled < FRAME_SAMPLES {
            return false;
        }
        self.filled = 0;
        let talked = self.gate.hears(&self.frame, muted);
        if muted {
            self.frame.fill(0.0);
        }
        let timestamp = self.timestamp;
        self.timestamp = timestamp.wrapping_add(FRAME_SAMPLES as u32);
        match self.encoder.as_mut().map(|encoder| encoder.encode(&self.frame)) {
            Some(Ok(payload)) => self.send(payload, timestamp, self.to.clone()),
            Some(Err(error)) => tracing::warn!(%error, "a frame was not encoded"),
            None => {}
        }
        talked
    }

    /// Until a frame is complete, in ms.
    pub fn frame_ms(&self) -> f64 {
        FRAME_SAMPLES as f64 * 1000.0 / f64::from(SAMPLE_RATE_HZ)
    }

    fn send(&self, payload: Bytes, timestamp: u32, to: Arc<BTreeSet<LegId>>) {
        // An error says that no leg listens, which is no fault.
        drop(self.microphone.send(EncodedFrame { payload, timestamp, samples: FRAME_SAMPLES as u32, to }));
    }
}
