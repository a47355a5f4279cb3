//! The audio thread: opens and closes what the plan asks for, encodes the microphone, mixes the legs.
//!
//! It sleeps until a callback, a command or its own next deadline wakes it; with an empty plan it sleeps for ever.
//! It never waits for a device: those are opened and closed by threads of their own ([`super::port`]).

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{broadcast, mpsc};

use super::{
    AudioEvent, BLOCK_SAMPLES, Block, DelayShares, EncodedFrame, LegAudioStats, Shared,
    backend::{Nowhere, Silence},
    mixer::{self, Limiter, Ramp},
    port::{Opener, Port},
    remote::Remote,
    tone::RingTone,
    uplink::Uplink,
};
use crate::proto::{id::LegId, io::AudioPlan};

/// Figures for `leg_stats` and `status` are renewed so often while something plays.
const REPORT: Duration = Duration::from_millis(250);
/// Longest sleep while something is open: a callback that does not come is noticed.
const LONGEST_SLEEP: Duration = Duration::from_millis(100);

/// All that the audio thread owns.
pub struct Engine {
    shared: Arc<Shared>,
    events: mpsc::Sender<AudioEvent>,
    /// Events that found the channel full; bounded by the legs, sent again at the next turn.
    unsent: Vec<AudioEvent>,
    plan: AudioPlan,
    opener: Opener,
    input: Port<dyn super::backend::Capture>,
    output: Port<dyn super::backend::Playback>,
    uplink: Uplink,
    legs: BTreeMap<LegId, Remote>,
    ears: Ramp,
    limiter: Limiter,
    tone: RingTone,
    report_at: Instant,
}

impl Engine {
    pub fn new(
        shared: Arc<Shared>,
        opener: Opener,
        microphone: broadcast::Sender<EncodedFrame>,
        events: mpsc::Sender<AudioEvent>,
    ) -> Self {
        Self {
            shared,
            events,
            unsent: Vec::new(),
            plan: AudioPlan::default(),
            opener,
            input: Port::new(|| Box::new(Silence::new())),
            output: Port::new(|| Box::new(Nowhere::new())),
            uplink: Uplink::new(microphone),
            legs: BTreeMap::new(),
            ears: Ramp::default(),
            limiter: Limiter::default(),
            tone: RingTone::default(),
            report_at: Instant::now(),
        }
    }

    /// Runs until it is told to stop.
    pub fn run(mut self) {
        while self.take_commands() {
            let now = Instant::now();
            self.drive_ports(now);
            self.capture(now);
            self.playback(now);
            self.report(now);
            match self.wake_at(now) {
                Some(at) => std::thread::park_timeout(at.saturating_duration_since(Instant::now())),
                None => std::thread::park(),
            }
        }
        self.input.close();
        self.output.close();
    }

    /// Takes over what callers left; false when the thread should end.
    fn take_commands(&mut self) -> bool {
        let mut inbox = self.shared.inbox();
        if inbox.stop {
            return false;
        }
        let new_plan = (inbox.plan != self.plan).then(|| inbox.plan.clone());
        for (id, slots) in inbox.added.drain(..) {
            self.legs.insert(id, Remote::new(slots, self.shared.epoch));
        }
        while let Some((id, gain)) = inbox.gains.pop_first() {
            if let Some(leg) = self.legs.get_mut(&id) {
                leg.set_gain(gain);
            }
        }
        for id in inbox.removed.drain(..) {
            self.legs.remove(&id);
        }
        drop(inbox);
        if let Some(plan) = new_plan {
            self.follow(plan);
        }
        true
    }

    fn follow(&mut self, plan: AudioPlan) {
        if plan.legs != self.plan.legs {
            self.uplink.address(plan.legs.clone(), self.shared.epoch, Instant::now());
        }
        self.plan = plan;
        self.tone.ring(self.plan.ring);
    }

    /// Opens, closes and retries; tells when that changed the status.
    fn drive_ports(&mut self, now: Instant) {
        let input = self.plan.microphone;
        let output = self.plan.playback || self.plan.ring || (self.tone.sounds() && self.output.is_open());
        let mut changed = self.opener.take_probe(&self.shared);
        let was_capturing = self.input.is_wanted();
        changed |= self.input.drive(input, now, || self.opener.input());
        changed |= self.output.drive(output, now, || self.opener.output());
        if self.input.is_wanted() && !was_capturing {
            self.uplink.begin(self.shared.epoch, now);
        }
        if was_capturing && !self.input.is_wanted() {
            self.uplink.end();
        }
        if changed {
            self.publish_status();
            self.emit(AudioEvent::Changed);
        }
    }

    fn capture(&mut self, now: Instant) {
        let Some(microphone) = self.input.active() else { return };
        let mut block = [0.0; BLOCK_SAMPLES];
        while microphone.read(&mut block, now) {
            if self.uplink.add(&block, self.plan.muted) {
                self.unsent.push(AudioEvent::TalkedWhileMuted);
            }
        }
    }

    fn playback(&mut self, now: Instant) {
        let plays = self.output.is_wanted();
        for (id, leg) in &mut self.legs {
            leg.receive(self.plan.playback && self.plan.legs.contains(id));
            if !plays {
                leg.cut();
            }
        }
        while self.output.active().is_some_and(|speaker| speaker.wants(now)) {
            let block = self.mix(now);
            if let Some(speaker) = self.output.active() {
                speaker.play(&block);
            }
        }
    }

    fn mix(&mut self, now: Instant) -> Block {
        let mut sum = [0.0; BLOCK_SAMPLES];
        for (id, leg) in &mut self.legs {
            let mut started = false;
            if let Some(block) = leg.block(now, &mut started) {
                mixer::add(&mut sum, &block);
            }
            if started {
                self.unsent.push(AudioEvent::FirstAudio(*id));
            }
        }
        self.ears.apply(&mut sum, if self.plan.deafened { 0.0 } else { 1.0 });
        self.tone.add_to(&mut sum);
        self.limiter.apply(&mut sum);
        sum
    }

    fn report(&mut self, now: Instant) {
        let unsent = std::mem::take(&mut self.unsent);
        unsent.into_iter().for_each(|event| self.emit(event));
        if now < self.report_at || (!self.input.is_wanted() && !self.output.is_wanted()) {
            return;
        }
        self.report_at = now + REPORT;
        self.legs.retain(|_, leg| !leg.is_abandoned());
        let (ring_ms, device_ms) = self.output.active().map_or((0.0, 0.0), |speaker| speaker.delays_ms());
        let capture_ms = self.input.active().map_or(0.0, |microphone| microphone.delay_ms());
        let frame_ms = self.uplink.frame_ms();
        let around = DelayShares { capture_ms, frame_ms, ring_ms, device_ms, ..DelayShares::default() };
        let stats: BTreeMap<LegId, LegAudioStats> =
            self.legs.iter().map(|(id, leg)| (*id, leg.stats(around))).collect();
        self.shared.board().legs = stats;
        self.publish_status();
    }

    fn publish_status(&mut self) {
        let mut problems = Vec::new();
        for problem in [self.opener.problem(), self.output.problem(), self.input.problem()].into_iter().flatten() {
            if !problems.contains(&problem) {
                problems.push(problem);
            }
        }
        let input_started = self.input.active().and_then(|microphone| microphone.started_unix_us());
        let output_started = self.output.active().and_then(|speaker| speaker.started_unix_us());
        let names = (self.input.name(), self.output.name());
        let mut board = self.shared.board();
        let status = &mut board.status;
        status.problem = if problems.is_empty() { None } else { Some(problems.join("; ")) };
        // The last pass's times stay readable after the call.
        status.input_started_unix_us = input_started.or(status.input_started_unix_us);
        status.output_started_unix_us = output_started.or(status.output_started_unix_us);
        if let Some(opened) = names.0 {
            status.backend = opened.backend;
            status.input = opened.device;
        }
        if let Some(opened) = names.1 {
            status.backend = opened.backend;
            status.output = opened.device;
        }
    }

    fn emit(&mut self, event: AudioEvent) {
        if let Err(mpsc::error::TrySendError::Full(event)) = self.events.try_send(event)
            && !self.unsent.contains(&event)
        {
            self.unsent.push(event);
        }
    }

    /// When there is something to do again without being woken.
    fn wake_at(&mut self, now: Instant) -> Option<Instant> {
        let input = self.input.due(|microphone| microphone.due());
        let output = self.output.due(|speaker| speaker.due());
        let retry = (!self.unsent.is_empty()).then_some(now + LONGEST_SLEEP);
        let alive = (self.input.is_wanted() || self.output.is_wanted()).then_some(now + LONGEST_SLEEP);
        [input, output, retry, alive].into_iter().flatten().min()
    }
}
