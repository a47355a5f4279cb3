//! The audio thread: opens and closes what the plan asks for, cleans and encodes the microphone, mixes the legs.
//!
//! It sleeps until a callback, a command or its own next deadline wakes it; with an empty plan it sleeps for ever.
//! It never waits for a device: those are opened and closed by threads of their own ([`super::port`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{broadcast, mpsc};

use super::{
    AudioEvent, BLOCK_SAMPLES, Block, DelayShares, EncodedFrame, LegAudioStats, Role, Shared,
    backend::{Nowhere, Silence},
    mixer::{self, Gate, Limiter, Ramp},
    opener::Opener,
    port::{Opened, Port},
    processing::{Processing, Stages},
    realtime,
    recording::Tap,
    remote::Remote,
    speech::{OwnVoice, SpeechDetector},
    tone::Sounds,
    trial::Trial,
    uplink::Uplink,
};
use crate::proto::{id::LegId, io::AudioPlan};

/// Figures for `leg_stats` and `status` are renewed so often while something plays.
const REPORT: Duration = Duration::from_millis(250);
/// The same while somebody looks at the level.
const METER: Duration = Duration::from_millis(100);
/// Longest sleep while something is open: a callback that does not come is noticed.
const LONGEST_SLEEP: Duration = Duration::from_millis(100);
/// A block's first sample is so much older than its last.
const BLOCK_MS: f64 = 10.0;

/// Without a rest for so long, it takes one. Half of what the kernel allows real-time threads ([`super::realtime`]).
const LONGEST_BUSY: Duration = Duration::from_millis(100);
/// Sound that nobody wants any more may take so long to end softly; a device that asks for none does not keep itself open.
const LAST_FADE: Duration = Duration::from_millis(200);
/// What counts as a rest.
const REST: Duration = Duration::from_micros(100);
/// So many blocks of 10 ms are read or mixed in one turn; the rest follows in the next.
const BLOCKS_A_TURN: usize = 10;

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
    /// The ring tone's own device, where it has one.
    ring: Port<dyn super::backend::Playback>,
    /// What is to be done to the microphone's sound…
    stages: Stages,
    /// …and what is done to it, while a device is open…
    processing: Option<Processing>,
    /// …and between which input and output sound may come back.
    room: (Option<Opened>, Option<Opened>),
    /// While the microphone is open.
    voice: Option<OwnVoice>,
    gate: Gate,
    uplink: Uplink,
    /// The uplink has begun.
    speaks: bool,
    legs: BTreeMap<LegId, Remote>,
    /// Of each leg that was heard.
    voices: BTreeMap<LegId, SpeechDetector>,
    /// Who was told to be speaking: legs, and `None` for the user.
    speaking: BTreeSet<Option<LegId>>,
    ears: Ramp,
    limiter: Limiter,
    /// A speaker that opens begins softly.
    opens: Ramp,
    /// What was mixed last was not silent…
    sounded: bool,
    /// …and by when it is to end, should nobody want any more of it.
    ends_by: Instant,
    sounds: Sounds,
    trial: Option<Trial>,
    report_at: Instant,
    /// What was last said not to work.
    problems: Vec<String>,
    recording: Option<Tap>,
}

impl Engine {
    pub fn new(
        shared: Arc<Shared>,
        opener: Opener,
        stages: Stages,
        microphone: broadcast::Sender<EncodedFrame>,
        constant_bitrate: bool,
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
            ring: Port::new(|| Box::new(Nowhere::new())),
            stages,
            processing: None,
            room: (None, None),
            voice: None,
            gate: Gate::default(),
            uplink: Uplink::new(microphone, constant_bitrate),
            speaks: false,
            legs: BTreeMap::new(),
            voices: BTreeMap::new(),
            speaking: BTreeSet::new(),
            ears: Ramp::default(),
            limiter: Limiter::default(),
            opens: Ramp::default(),
            sounded: false,
            ends_by: Instant::now(),
            sounds: Sounds::new(),
            trial: None,
            report_at: Instant::now(),
            problems: Vec::new(),
            recording: None,
        }
    }

    /// Runs until it is told to stop.
    pub fn run(mut self) {
        let mut rested_at = Instant::now();
        while self.take_commands() {
            let now = Instant::now();
            self.drive_ports(now);
            self.capture(now);
            self.playback(now);
            self.tell_who_speaks();
            self.report(now);
            let done = Instant::now();
            match self.wake_at(now) {
                // It never catches up: what else runs here may need the time, and real-time threads must rest.
                Some(_) if done.saturating_duration_since(rested_at) > LONGEST_BUSY => std::thread::sleep(REST),
                Some(at) => std::thread::park_timeout(at.saturating_duration_since(done)),
                None => std::thread::park(),
            }
            let woken = Instant::now();
            if woken.saturating_duration_since(done) >= REST {
                rested_at = woken;
            }
        }
        self.input.close();
        self.output.close();
        self.ring.close();
    }

    /// Takes over what callers left; false when the thread should end.
    fn take_commands(&mut self) -> bool {
        let mut inbox = self.shared.inbox();
        if inbox.stop {
            return false;
        }
        let new_plan = (inbox.plan != self.plan).then(|| inbox.plan.clone());
        for (id, slots, wish) in inbox.added.drain(..) {
            self.uplink.add_leg(id, wish);
            self.legs.insert(id, Remote::new(slots, self.shared.epoch));
        }
        while let Some((id, gain)) = inbox.gains.pop_first() {
            if let Some(leg) = self.legs.get_mut(&id) {
                leg.set_gain(gain);
            }
        }
        for id in inbox.removed.drain(..) {
            self.uplink.remove_leg(id);
            if let Some(leg) = self.legs.get_mut(&id) {
                leg.leave();
            }
        }
        let selected = std::mem::take(&mut inbox.selected);
        let look_again = std::mem::take(&mut inbox.look_again);
        let (sounds, test) = (std::mem::take(&mut inbox.sounds), inbox.test.take());
        let new_tap = inbox.tap.take();
        drop(inbox);
        let is_new = new_tap.is_some();
        self.recording = new_tap.unwrap_or(self.recording.take());
        selected.into_iter().for_each(|(role, name)| self.select(role, &name));
        if look_again && !self.is_in_use() {
            self.opener.look_again();
        }
        match test {
            Some(seconds) if seconds > 0 && !self.plan.is_heard() => {
                self.trial = Some(Trial::new(seconds, Instant::now()));
            }
            Some(_) => self.end_trial(),
            None => {}
        }
        if let Some(plan) = new_plan {
            self.follow(plan);
        } else if is_new {
            self.follow_recording();
        }
        sounds.into_iter().filter(|sound| self.opener.lets_sound(*sound)).for_each(|sound| self.sounds.play(sound));
        true
    }

    fn follow(&mut self, plan: AudioPlan) {
        if plan.legs != self.plan.legs {
            if plan.legs.is_disjoint(&self.plan.legs) {
                self.uplink.finish(&self.gate.close());
            }
            self.uplink.address(plan.legs.clone(), self.shared.epoch, Instant::now());
        }
        self.plan = plan;
        self.sounds.ring(self.plan.ring && self.opener.lets_ring());
        self.sounds.ring_back(self.plan.ring_back && self.opener.lets_ring_back());
        if self.plan.is_heard() {
            // A call comes first.
            self.end_trial();
        }
        self.follow_recording();
    }

    fn end_trial(&mut self) {
        self.trial = None;
        let mut inbox = self.shared.inbox();
        // Another one may wait by now.
        inbox.testing = inbox.test.is_some_and(|seconds| seconds > 0);
    }

    fn follow_recording(&mut self) {
        if let Some(tap) = &mut self.recording {
            tap.follow(self.plan.recording.as_ref());
        }
    }

    /// Another device: what is open goes over to it.
    fn select(&mut self, role: Role, name: &str) {
        if !self.opener.choose(role, name) {
            return;
        }
        let now = Instant::now();
        match role {
            Role::Input => self.input.switch(now, || self.opener.input()),
            Role::Output => self.output.switch(now, || self.opener.output()),
            Role::Ring => self.ring.switch(now, || self.opener.ring()),
        }
    }

    /// Opens, closes and retries; tells when that changed the status.
    fn drive_ports(&mut self, now: Instant) {
        if let Some(trial) = &mut self.trial {
            trial.tick(now);
        }
        let trial_ended = self.trial.as_ref().is_some_and(Trial::is_over);
        if trial_ended {
            self.end_trial();
        }
        let listens = self.trial.as_ref().is_some_and(Trial::listens);
        let rings = self.sounds.rings() && (self.plan.ring || self.output.is_open() || self.ring.is_open());
        let rings_apart = rings && self.opener.rings_apart();
        let sounds = self.sounds.sounds() || self.trial.is_some() || (rings && !rings_apart);
        let plays = self.plan.playback || sounds;
        if plays {
            self.ends_by = now + LAST_FADE;
        }
        let plays = plays || (self.sounded && now < self.ends_by);
        let mut changed = trial_ended;
        if self.opener.take_probe(&self.shared) {
            self.input.forget();
            self.output.forget();
            self.ring.forget();
            changed = true;
        }
        let answered = [
            (Role::Input, self.input.drive(self.plan.microphone || listens, now, || self.opener.input())),
            (Role::Output, self.output.drive(plays, now, || self.opener.output())),
            (Role::Ring, self.ring.drive(rings_apart, now, || self.opener.ring())),
        ];
        for (role, _) in answered.into_iter().filter(|(_, answered)| *answered) {
            self.opener.answered(role);
            changed = true;
        }
        // From time to time also without news: what could not be had before may be tried again by now.
        if self.opener.watch(self.is_in_use()) || changed || now >= self.report_at {
            changed |= self.opener.lead(&mut self.input, &mut self.output, &mut self.ring, now);
        }
        if self.plan.microphone && !self.speaks {
            self.uplink.begin(self.shared.epoch, now);
        }
        if self.speaks && !self.plan.microphone {
            self.uplink.end();
        }
        self.speaks = self.plan.microphone;
        if changed {
            self.furnish();
            self.publish_status();
            self.emit(AudioEvent::Changed);
        }
    }

    fn is_in_use(&self) -> bool {
        self.input.is_wanted() || self.output.is_wanted() || self.ring.is_wanted()
    }

    /// Another device is another room: nothing that was learned of the last one is true there.
    fn furnish(&mut self) {
        let room = (self.input.name(), self.output.name());
        if room == self.room {
            return;
        }
        if room.1.is_some() && room.1 != self.room.1 {
            self.opens.rest();
        }
        match &room.0 {
            None => self.processing = None,
            Some(input) if self.room.0.as_ref() != Some(input) => {
                self.processing = Processing::new(self.stages.on(&input.backend));
            }
            Some(_) => {
                if let Some(processing) = &mut self.processing {
                    processing.forget_echo();
                }
            }
        }
        self.room = room;
    }

    fn capture(&mut self, now: Instant) {
        let to_ear_ms = self.output.active().map_or(0.0, |speaker| speaker.delay_ms());
        let (muted, opening) = (self.plan.muted, self.input.is_opening(now));
        let Some(microphone) = self.input.active() else {
            (self.voice, self.gate) = (None, Gate::default());
            return;
        };
        let voice = self.voice.get_or_insert_default();
        let mut block = [0.0; BLOCK_SAMPLES];
        let mut flowed = false;
        for _ in 0..BLOCKS_A_TURN {
            if !microphone.read(&mut block, now) {
                break;
            }
            flowed = true;
            // Also while muted: it stays in tune with the room, and does not take the others' voices for the user's.
            if let Some(processing) = &mut self.processing {
                processing.captured(&mut block, to_ear_ms + BLOCK_MS + microphone.delay_ms());
            }
            // As others would hear it, and not what stands in for a device that takes its time.
            if let Some(trial) = &mut self.trial {
                if !opening {
                    trial.hear(&block);
                }
                continue;
            }
            if voice.hears(Some(&block), muted) {
                self.unsent.push(AudioEvent::TalkedWhileMuted);
            }
            self.gate.apply(&mut block, muted);
            if let Some(tap) = &mut self.recording {
                tap.own(&block, now);
            }
            self.uplink.add(&block);
        }
        if flowed {
            self.input.flowed();
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
        for _ in 0..BLOCKS_A_TURN {
            let Some(speaker) = self.output.active() else { break };
            // A file gets what was missed while the machine stood still: each block of it has its own moment.
            let due = speaker.due().map_or(now, |due| due.min(now));
            if !speaker.wants(now) {
                break;
            }
            self.output.flowed();
            let block = self.mix(now, due);
            if let Some(processing) = &mut self.processing {
                processing.played(&block);
            }
            if let Some(speaker) = self.output.active() {
                speaker.play(&block);
            }
        }
        self.legs.retain(|_, leg| !leg.is_over());
        self.voices.retain(|id, _| self.legs.contains_key(id));
        for _ in 0..BLOCKS_A_TURN {
            if !self.ring.active().is_some_and(|speaker| speaker.wants(now)) {
                break;
            }
            self.ring.flowed();
            let mut block = [0.0; BLOCK_SAMPLES];
            self.sounds.add_ring_to(&mut block);
            if let Some(speaker) = self.ring.active() {
                speaker.play(&block);
            }
        }
    }

    fn mix(&mut self, now: Instant, due: Instant) -> Block {
        let mut sum = [0.0; BLOCK_SAMPLES];
        if let Some(tap) = &mut self.recording {
            tap.tick(due);
        }
        for (id, leg) in &mut self.legs {
            let mut started = false;
            let block = leg.block(now, &mut started);
            if let Some(block) = &block {
                mixer::add(&mut sum, block);
                self.voices.entry(*id).or_default();
                if let Some(tap) = &mut self.recording {
                    tap.heard(*id, leg.raw());
                }
            }
            if let Some(voice) = self.voices.get_mut(id) {
                voice.hears(block.as_ref());
            }
            if started {
                self.unsent.push(AudioEvent::FirstAudio(*id));
            }
        }
        self.ears.apply(&mut sum, if self.plan.deafened { 0.0 } else { 1.0 });
        self.sounds.add_to(&mut sum);
        if !self.ring.is_wanted() {
            self.sounds.add_ring_to(&mut sum);
        }
        if let Some(trial) = &mut self.trial {
            trial.add_to(&mut sum);
        }
        self.limiter.apply(&mut sum);
        self.opens.apply(&mut sum, 1.0);
        self.sounded = sum.iter().any(|sample| *sample != 0.0);
        sum
    }

    /// Tells who began and who ceased to speak. What the channel has no room for is told at a later turn.
    fn tell_who_speaks(&mut self) {
        if !self.output.is_wanted() {
            self.voices.clear();
        }
        let heard = self.voices.iter().filter(|(_, voice)| voice.speaks()).map(|(id, _)| Some(*id));
        let user = self.voice.as_ref().is_some_and(OwnVoice::speaks).then_some(None);
        let speaking: BTreeSet<_> = heard.chain(user).collect();
        let news: Vec<_> = speaking.symmetric_difference(&self.speaking).copied().collect();
        for who in news {
            let begins = speaking.contains(&who);
            if self.events.try_send(AudioEvent::Speaking { who, speaking: begins }).is_err() {
                return;
            }
            if begins {
                self.speaking.insert(who);
            } else {
                self.speaking.remove(&who);
            }
        }
    }

    fn report(&mut self, now: Instant) {
        let unsent = std::mem::take(&mut self.unsent);
        unsent.into_iter().for_each(|event| self.emit(event));
        if now < self.report_at || (!self.input.is_wanted() && !self.output.is_wanted()) {
            return;
        }
        self.report_at = now + if self.trial.is_some() { METER } else { REPORT };
        if realtime::was_given_back() {
            tracing::warn!("this machine is too busy for sound at real-time priority; it goes on without");
            self.shared.board().status.realtime = false;
        }
        self.uplink.forget_abandoned_legs();
        let (ring_ms, device_ms) = self.output.active().map_or((0.0, 0.0), |speaker| speaker.delays_ms());
        let capture_ms = self.input.active().map_or(0.0, |microphone| microphone.delay_ms());
        let frame_ms = self.uplink.frame_ms();
        let processing_ms = self.processing.as_ref().map_or(0.0, Processing::delay_ms);
        let around = DelayShares { capture_ms, processing_ms, frame_ms, ring_ms, device_ms, ..DelayShares::default() };
        let legs = self.legs.iter().filter(|(_, leg)| !leg.has_left());
        let stats: BTreeMap<LegId, LegAudioStats> = legs.map(|(id, leg)| (*id, leg.stats(around))).collect();
        self.shared.board().legs = stats;
        self.publish_status();
    }

    fn publish_status(&mut self) {
        let mut problems = Vec::new();
        let ports = [self.output.problem(), self.ring.problem(), self.input.problem()];
        for problem in self.opener.problems().into_iter().chain(ports.into_iter().flatten()) {
            if !problems.contains(&problem) {
                problems.push(problem);
            }
        }
        // A server that does not answer is the same for all ports, and the log says it once.
        for problem in problems.iter().filter(|problem| !self.problems.contains(problem)) {
            tracing::warn!(problem, "sound");
        }
        let input_started = self.input.active().and_then(|microphone| microphone.started_unix_us());
        let output_started = self.output.active().and_then(|speaker| speaker.started_unix_us());
        let names = (self.input.name(), self.output.name());
        let stages = names.0.as_ref().map(|opened| self.stages.on(&opened.backend));
        let mut board = self.shared.board();
        let status = &mut board.status;
        status.problem = if problems.is_empty() { None } else { Some(problems.join("; ")) };
        self.problems = problems;
        // The last pass's times stay readable after the call.
        status.input_started_unix_us = input_started.or(status.input_started_unix_us);
        status.output_started_unix_us = output_started.or(status.output_started_unix_us);
        if let Some(stages) = stages {
            status.processing = stages.names();
        }
        if let Some(opened) = names.0 {
            status.backend = opened.backend;
            status.input = opened.device;
        }
        if let Some(opened) = names.1 {
            if self.sounds.tests() {
                status.speaker_test = Some(opened.device.clone());
            }
            status.backend = opened.backend;
            status.output = opened.device;
        }
        (status.capturing, status.playing) = (self.input.is_open(), self.output.is_open());
        status.ring = self.opener.ring_name(self.ring.name());
        status.test = self.trial.as_ref().map(Trial::status);
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
        let ring = self.ring.due(|speaker| speaker.due());
        let untold = !self.unsent.is_empty() || !self.speaking.is_empty();
        let retry = untold.then_some(now + LONGEST_SLEEP);
        let alive = self.is_in_use().then_some(now + LONGEST_SLEEP);
        [input, output, ring, retry, alive].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests;
