//! The state machine of all calls: told what happened and what time it is, it says what to do.
//!
//! No deadline is stored twice: each is derived from the state it belongs to, and after every input
//! `settle` does whatever has become due. What users ask stands in `engine/requests.rs`, invitations from others in
//! `engine/offers.rs`, what participants say in `engine/signals.rs`, legs in `engine/legs.rs`, the end of calls in
//! `engine/ending.rs`, and what outlives the daemon in `engine/kept.rs`.

mod ending;
mod kept;
mod legs;
mod offers;
mod requests;
mod signals;

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{
    call::{Call, Member, Phase, Presence},
    id::{CallId, DeviceId, Did, Instance, LegId, MessageId},
    io::{AudioPlan, CallView, EndReason, Event, Input, KeptCall, Now, Output, PastCall, Policy, Recorded},
    leg::Leg,
    mutant::mutant,
    outbox::{Outbox, Persistence},
    seen::Seen,
    signal::{Body, Contact, MediaState, Outgoing, Sealing, Signal, Ticket, Topic},
};
use crate::config::{AutoAccept, WhoMayRing};

/// Incoming calls that ring at once; further offers are not answered, so that their senders try again.
const MAX_RINGING: usize = 8;
/// As many of them may come from strangers.
const MAX_RINGING_STRANGERS: usize = 4;
/// The same stranger rings once in this time; for further offers it only looks so to the caller. The user is told of the first.
const STRANGER_WINDOW: Duration = Duration::from_secs(30);
/// Strangers whose last ring is remembered; the oldest is forgotten.
const MAX_STRANGERS: usize = 256;
/// Calls that this device is in at once: one active, the others on hold.
const MAX_JOINED: usize = 8;
/// Calls that can be joined though this device is not in them; the oldest is forgotten.
const MAX_PAST: usize = 32;
/// A stranger's offer may ring so often, after [`STRANGERS_BURST`] at once: who offers and cancels without end is a nuisance.
const STRANGERS_PAUSE: Duration = Duration::from_secs(5);
const STRANGERS_BURST: u32 = 8;
/// Calls that are over and whose last signals are repeated still; beyond that the oldest falls silent. The seal has room
/// for 64 calls in all.
const MAX_ENDED: usize = 16;
/// Cancels that overtook their offers; the oldest is dropped.
const MAX_EARLY_CANCELS: usize = 256;
const EARLY_CANCEL_KEPT: Duration = Duration::from_secs(300);
/// Who accepted and meets nobody leaves after this.
const MEET_PATIENCE: Duration = Duration::from_secs(30);
/// Stays that begin unasked are numbered so far apart at most, those that begin when the machine woke half as far: where the last
/// one was not written down, the next must hardly ever be numbered the same, and one after a wake never lower, since the others
/// would not listen to it. A user needs longer to go to another device than these milliseconds.
const UNASKED_SPREAD: u64 = 1_000;
/// Clients hear of the same participant's microphone, ears and recording no oftener: who switches all the time fills no journal.
const MEDIA_PAUSE: Duration = Duration::from_secs(1);
/// How long one push to talk lasts: whoever died with a finger on the key is not listened to for ever.
pub const TALK: Duration = Duration::from_secs(60);
/// How long the last signals of a call are repeated.
const LAST_WORDS: Duration = Duration::from_secs(30);

/// What the engine has to know beforehand.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// The own DID.
    pub did: Did,
    /// This installation.
    pub device: DeviceId,
    /// How long own offers ring.
    pub ring: Duration,
    /// How long a call that everybody else left goes on; zero: until it is hung up.
    pub grace: Duration,
    /// How long a participant may be without network before it counts as left.
    pub reconnect: Duration,
    /// Whose calls are accepted without asking.
    pub auto_accept: AutoAccept,
    /// Whose offers ring.
    pub who_may_ring: WhoMayRing,
    /// The microphone is open only while [`Request::Talk`] holds.
    pub push_to_talk: bool,
    /// Whoever comes into a call is muted at first.
    pub automute: bool,
}

/// How a stay begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Arrival {
    /// The user is at this device: it takes the call from every other one.
    Wanted,
    /// After a crash: a device that the user has gone to meanwhile keeps the call. The stay is therefore numbered right above the
    /// former one, and not after the clock.
    Restarted,
    /// After a sleep: likewise.
    Woken,
}

/// What the engine wants, before sealing: [`super::node::Node`] turns it into [`Output`]s.
#[derive(Debug)]
pub enum Effect {
    /// Seal and publish.
    Send(Box<Outgoing>),
    /// The seal needs this call's keys.
    OpenCall(Ticket),
    /// The seal begins a stay.
    Join(CallId, Instance),
    /// The seal forgets the call's keys.
    CloseCall(CallId),
    /// The seal learns who has a budget of their own.
    SetContacts(Vec<Did>),
    /// For the shell.
    Output(Output),
}

/// All calls of one device.
#[derive(Debug)]
pub struct Engine {
    config: EngineConfig,
    rng: StdRng,
    contacts: BTreeMap<Did, Policy>,
    seen: Seen,
    calls: BTreeMap<CallId, Call>,
    /// Calls that were left or missed, and until when they can be joined.
    past: BTreeMap<CallId, (KeptCall, Instant)>,
    early_cancels: VecDeque<EarlyCancel>,
    /// When each stranger rang last, oldest first, and whether the user was told that it called without ringing.
    strangers: VecDeque<(Did, Instant, bool)>,
    /// When all rings of strangers so far will have been paid for.
    strangers_paid: Option<Instant>,
    outbox: Outbox,
    /// Connections that have not reported `Closed` yet.
    legs: BTreeMap<LegId, Connection>,
    last_leg: u64,
    /// By the user, whatever is pushed.
    muted: bool,
    /// With push-to-talk: until when the user is listened to, in the calls that this device was in when the key was pushed.
    talks_until: Option<Instant>,
    deafened: bool,
    /// Grows with every change of what participants are told of microphone, ears and recording.
    media_version: u32,
    do_not_disturb: bool,
    contact: Option<Contact>,
    plan: AudioPlan,
    stopping: bool,
    effects: VecDeque<Effect>,
}

/// A leg's connection, until it is closed completely.
#[derive(Debug)]
struct Connection {
    call: CallId,
    to: Did,
    closing: bool,
}

/// A `Cancel` (or an own device's `Answered`) that was heard before its offer.
#[derive(Debug)]
struct EarlyCancel {
    from: Did,
    call: CallId,
    until: Instant,
}

impl Engine {
    /// An engine without calls. `seed` feeds all its randomness; `seen` are the offers that rang before.
    pub fn new(
        config: EngineConfig,
        seed: [u8; 32],
        contacts: Vec<(Did, Policy)>,
        seen: Vec<(Did, MessageId)>,
    ) -> Self {
        let inbox = Topic::Inbox(config.did.clone());
        let acquainted = acquainted(&contacts);
        let mut engine = Self {
            config,
            rng: StdRng::from_seed(seed),
            seen: Seen::new(&acquainted, seen),
            contacts: contacts.into_iter().collect(),
            calls: BTreeMap::new(),
            past: BTreeMap::new(),
            early_cancels: VecDeque::new(),
            strangers: VecDeque::new(),
            strangers_paid: None,
            outbox: Outbox::default(),
            legs: BTreeMap::new(),
            last_leg: 0,
            muted: false,
            talks_until: None,
            deafened: false,
            media_version: 0,
            do_not_disturb: false,
            contact: None,
            plan: AudioPlan::default(),
            stopping: false,
            effects: VecDeque::new(),
        };
        engine.effects.push_back(Effect::SetContacts(acquainted));
        engine.output(Output::Subscribe(inbox));
        engine
    }

    /// Something happened.
    pub fn handle_input(&mut self, input: Input, now: Now) {
        match input {
            Input::Signal(incoming) => self.handle_signal(incoming, now),
            Input::Subscribed(topic) => self.outbox.subscribed(&topic, now.mono),
            Input::Leg(id, event) => self.handle_leg_event(id, event, now.mono),
            Input::Woke(slept) => self.wake_up(slept, now),
        }
        self.settle(now);
    }

    /// The time that [`Self::poll_timeout`] named has come.
    pub fn handle_timeout(&mut self, now: Now) {
        self.settle(now);
    }

    /// What to do next, until `None`.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When [`Self::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let calls = self.calls.values().filter_map(|call| self.call_deadline(call));
        let past = self.past.values().map(|(_, until)| *until);
        calls.chain(self.outbox.deadline()).chain(past).chain(self.talks_until).min()
    }

    /// Calls that are not over.
    pub fn calls(&self) -> Vec<CallView> {
        self.calls.values().filter_map(|call| call.view(&self.config.did)).collect()
    }

    /// Calls that can be joined, though this device is not in them.
    pub fn past_calls(&self) -> Vec<PastCall> {
        self.past.values().filter_map(|(kept, _)| kept::past_view(kept)).collect()
    }

    /// The user wants to hear no calls.
    pub fn do_not_disturb(&self) -> bool {
        self.do_not_disturb
    }

    /// The own microphone is off: by the user's will, or since nothing is pushed.
    pub fn muted(&self) -> bool {
        self.muted || (self.config.push_to_talk && self.talks_until.is_none() && !mutant!(TalkIgnored))
    }

    /// The own microphone is off only since nothing is pushed.
    pub fn waits_for_talk(&self) -> bool {
        self.muted() && !self.muted
    }

    /// The own ears are off.
    pub fn deafened(&self) -> bool {
        self.deafened
    }

    /// The own DID.
    pub fn did(&self) -> &Did {
        &self.config.did
    }

    /// No call, nobody who has to acknowledge something, no connection left: a shutdown may finish.
    pub fn is_idle(&self) -> bool {
        !self.calls.values().any(Call::is_alive) && !self.outbox.is_waiting() && self.legs.is_empty()
    }

    /// Does whatever has become due, and tells what has changed.
    fn settle(&mut self, now: Now) {
        self.outbox.expire(now.mono);
        let calls: Vec<CallId> = self.calls.keys().copied().collect();
        for call in calls {
            self.settle_call(call, now);
        }
        let nobody_listens = self.joined() == 0 && !mutant!(TalkOutlivesCall);
        let pushed_long = |until: Instant| until <= now.mono && !mutant!(TalksForEver);
        if self.talks_until.is_some_and(|until| nobody_listens || pushed_long(until)) {
            self.change_media(now.mono, |engine| engine.talks_until = None);
        }
        self.forget_past(now.mono);
        self.early_cancels.retain(|cancel| now.mono < cancel.until);
        // Who records says so before the first sample, even of the own microphone, and takes it back after the last.
        let ceases = self.plan.recording.is_some() && self.plan_audio().recording.is_none();
        if ceases || mutant!(RecordingToldLate) {
            self.change_plan();
        }
        while let Some(outgoing) = self.outbox.poll(now.mono) {
            self.effects.push_back(Effect::Send(Box::new(outgoing)));
        }
        self.change_plan();
    }

    fn change_plan(&mut self) {
        let plan = self.plan_audio();
        if plan != self.plan {
            self.plan = plan.clone();
            self.output(Output::Audio(plan));
        }
    }

    fn settle_call(&mut self, id: CallId, now: Now) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        match call.phase {
            Phase::Incoming { until, .. } if until <= now.mono && !mutant!(RingsOn) => {
                self.end_call(id, EndReason::Missed, now)
            }
            Phase::Incoming { .. } => {}
            Phase::Joined { .. } => {
                self.expire_invitations(id, now.mono);
                self.advance_legs(id, now.mono);
                self.settle_company(id, now);
                self.say_hello(id, now.mono);
            }
            Phase::Ended { .. } => {}
        }
        self.show_changes(id, now.mono);
        // It may have ended just now.
        if let Some(Call { phase: Phase::Ended { until, .. }, .. }) = self.calls.get(&id)
            && (*until <= now.mono || !self.outbox.any(|outgoing| outgoing.signal.call == id))
        {
            self.forget_call(id);
        }
    }

    fn expire_invitations(&mut self, id: CallId, now: Instant) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        for (did, member) in call.members.iter_mut().filter(|(_, member)| member.invited_until <= now) {
            let Presence::Invited { reached, .. } = member.presence else { continue };
            let unreachable = member.invited_here && !reached;
            member.presence = if unreachable { Presence::Unreachable } else { Presence::Expired };
            let to_it = |outgoing: &Outgoing| outgoing.signal.call == id && outgoing.to.as_ref() == Some(did);
            // It may have accepted where no word of it came through: our Join goes on, and it answers when it can.
            self.outbox.drop_where(|outgoing| to_it(outgoing) && !matches!(outgoing.signal.body, Body::Join(_)));
            self.outbox.be_patient(to_it);
        }
    }

    /// Ends a call in which nobody else is, once nobody can be expected.
    fn settle_company(&mut self, id: CallId, now: Now) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        if call.has_company() {
            call.met = true;
            call.alone_since = None;
            return;
        }
        call.alone_since.get_or_insert(now.mono);
        if self.lonely_until(&self.calls[&id]).is_some_and(|until| until <= now.mono) {
            let call = &self.calls[&id];
            let reason = match (call.met, call.is_offered_by(&self.config.did)) {
                (true, _) => EndReason::Empty,
                (false, true) => call.unanswered_reason(),
                (false, false) => EndReason::Gone,
            };
            self.end_call(id, reason, now);
        }
    }

    /// Until when a call without company goes on; `None`: as long as the user likes, or it has company.
    fn lonely_until(&self, call: &Call) -> Option<Instant> {
        let alone_since = call.alone_since?;
        let offered_here = call.is_offered_by(&self.config.did);
        if call.is_awaited() && (call.met || offered_here) {
            return None;
        }
        match (call.met, offered_here) {
            (true, _) if self.config.grace.is_zero() || mutant!(NoGrace) => None,
            (true, _) => Some(alone_since + self.config.grace),
            (false, true) => Some(alone_since),
            (false, false) => {
                let asked = call.members.values().filter(|member| member.invited_here && member.is_invited());
                asked.map(|member| member.invited_until).chain([alone_since + MEET_PATIENCE]).max()
            }
        }
    }

    fn say_hello(&mut self, id: CallId, now: Instant) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        let Some(instance) = call.instance() else { return };
        if !call.hello.take(now) {
            return;
        }
        // Other devices of the own DID may not exist: that they are silent says nothing.
        let me = &self.config.did;
        let unheard = self.outbox.any(|outgoing| {
            let join = outgoing.signal.call == id && matches!(outgoing.signal.body, Body::Join(_));
            join && outgoing.to.as_ref() != Some(me)
        });
        if !unheard {
            // Everybody on the roster has acknowledged the Join, so there is nobody left to tell.
            return call.hello.close();
        }
        let state = self.media_state(id);
        self.broadcast(id, Body::Hello(super::signal::Presence { instance, state, contact: None, granted_by: None }));
    }

    fn show_changes(&mut self, id: CallId, now: Instant) {
        // Before this device is in the call, nobody is connecting to it.
        let Some(call) = self.calls.get_mut(&id).filter(|call| call.instance().is_some()) else { return };
        for (did, member) in &mut call.members {
            let state = member.state();
            if state != member.shown {
                member.shown = state;
                let event = Event::ParticipantChanged { call: id, did: did.clone(), state };
                self.effects.push_back(Effect::Output(Output::Event(event)));
            }
            if member.no_connection_at().is_some_and(|at| at <= now) {
                member.no_connection = true;
                let event = Event::NoConnection { call: id, did: did.clone() };
                self.effects.push_back(Effect::Output(Output::Event(event)));
            } else if member.leg().is_some_and(Leg::is_up) {
                member.no_connection = false;
            }
            if let Some(media) =
                member.unshown_media().filter(|_| member.media_shown.1.is_none_or(|until| until <= now))
            {
                member.media_shown = (media, Some(now + MEDIA_PAUSE));
                let (did, MediaState { version: _, muted, deafened, on_hold, recording }) = (did.clone(), media);
                let event = Event::ParticipantMedia { call: id, did, muted, deafened, on_hold, recording };
                self.effects.push_back(Effect::Output(Output::Event(event)));
            }
        }
    }

    fn plan_audio(&self) -> AudioPlan {
        let counts = |call: &&Call| call.is_active() || (mutant!(HoldKeepsMicrophone) && call.instance().is_some());
        let active = self.calls.values().find(counts);
        let legs = active.into_iter().flat_map(Call::legs).collect();
        let is_recorded = |call: &&Call| call.is_recorded() || (mutant!(HoldKeepsRecording) && call.recording);
        let recorded = self.calls.values().find(is_recorded);
        AudioPlan {
            legs,
            recording: recorded.map(|call| Recorded { call: call.ticket.call, who: call.recorded_legs().collect() }),
            microphone: active.is_some_and(|call| call.has_leg_up() || mutant!(MicrophoneEarly)),
            playback: active.is_some_and(Call::has_company),
            muted: self.muted(),
            deafened: self.deafened,
            ring: self.calls.values().any(Call::rings),
            ring_back: active.is_some_and(|call| call.rings_elsewhere(&self.config.did)),
        }
    }

    /// What the participants of the call are told of microphone, ears and recording.
    fn media_state(&self, id: CallId) -> MediaState {
        let call = self.calls.get(&id);
        MediaState {
            version: self.media_version,
            muted: self.muted(),
            deafened: self.deafened,
            on_hold: call.is_some_and(|call| call.on_hold),
            recording: call.is_some_and(Call::is_recorded) && !mutant!(RecordingUntold),
        }
    }

    fn policy(&self, did: &Did) -> Option<Policy> {
        self.contacts.get(did).copied()
    }

    /// Nothing of it is heard, and no leg to it is made.
    fn is_blocked(&self, did: &Did) -> bool {
        self.policy(did) == Some(Policy::Block)
    }

    /// A contact that may call.
    fn is_known(&self, did: &Did) -> bool {
        self.policy(did).is_some_and(|policy| policy != Policy::Block)
    }

    fn call_deadline(&self, call: &Call) -> Option<Instant> {
        match call.phase {
            Phase::Incoming { until, .. } | Phase::Ended { until, .. } => Some(until),
            Phase::Joined { .. } => {
                let invited = call.members.values().filter(|member| member.is_invited());
                let expiry = invited.map(|member| member.invited_until).min();
                let legs = call.members.values().filter_map(|member| member.peer()?.leg.as_ref());
                let legs =
                    legs.flat_map(|leg| [leg.deadline(), leg.down_since().map(|since| since + self.config.reconnect)]);
                let unshown = call.members.values().filter(|member| member.unshown_media().is_some());
                let media = unshown.filter_map(|member| member.media_shown.1).min();
                let unconnected = call.members.values().filter_map(Member::no_connection_at).min();
                let times = [expiry, media, unconnected, call.hello.deadline(), self.lonely_until(call)];
                times.into_iter().chain(legs).flatten().min()
            }
        }
    }

    fn subscribe(&mut self, id: CallId, topic: Topic) {
        if let Some(call) = self.calls.get_mut(&id)
            && call.topics.insert(topic.clone())
        {
            self.output(Output::Subscribe(topic));
        }
    }

    /// Sends to one participant until it is acknowledged.
    fn post(&mut self, call: CallId, to: &Did, sealing: Sealing, body: Body, persistence: Persistence, now: Instant) {
        let outgoing = self.address(call, to, sealing, body);
        self.outbox.push(outgoing, persistence, now);
    }

    fn address(&mut self, call: CallId, to: &Did, sealing: Sealing, body: Body) -> Outgoing {
        let topic = match body {
            Body::Offer(_) | Body::Cancel(_) | Body::Answered(_) => Topic::Inbox(to.clone()),
            Body::Ringing
            | Body::Decline(_)
            | Body::Join(_)
            | Body::Hello(_)
            | Body::Leave(_)
            | Body::Sdp(_)
            | Body::Ice(_)
            | Body::Restart(_)
            | Body::State(_)
            | Body::Ack(_)
            | Body::Unknown(_) => Topic::Member(call, to.clone()),
        };
        let id = MessageId(self.rng.random());
        Outgoing { topic, sealing, to: Some(to.clone()), signal: Signal { id, call, body } }
    }

    fn broadcast(&mut self, call: CallId, body: Body) {
        let id = MessageId(self.rng.random());
        let signal = Signal { id, call, body };
        let outgoing = Outgoing { topic: Topic::Call(call), sealing: Sealing::Broadcast, to: None, signal };
        self.effects.push_back(Effect::Send(Box::new(outgoing)));
    }

    fn output(&mut self, output: Output) {
        self.effects.push_back(Effect::Output(output));
    }
}

/// Whose envelopes the seal gives a budget of their own.
fn acquainted(contacts: &[(Did, Policy)]) -> Vec<Did> {
    contacts.iter().filter(|(_, policy)| *policy != Policy::Block).map(|(did, _)| did.clone()).collect()
}
