//! The state machine of all calls: told what happened and what time it is, it says what to do.
//!
//! No deadline is stored twice: each is derived from the state it belongs to, and after every input
//! `settle` does whatever has become due. Requests stand in `engine/requests.rs`, signals in
//! `engine/signals.rs`, legs in `engine/legs.rs`.

mod legs;
mod requests;
mod signals;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{
    call::{Call, Phase, Presence},
    id::{CallId, DeviceId, Did, Instance, LegId, MessageId},
    io::{AudioPlan, CallView, EndReason, Event, Input, Now, Output, PastCall, Policy},
    outbox::{Outbox, Persistence},
    seen::Seen,
    signal::{Body, CancelReason, Contact, MediaState, Outgoing, Sealing, Signal, Ticket, Topic},
};
use crate::config::{AutoAccept, WhoMayRing};

/// Incoming calls that ring at once; further offers are not answered, so that their senders try again.
const MAX_RINGING: usize = 8;
/// As many of them may come from strangers.
const MAX_RINGING_STRANGERS: usize = 4;
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
    early_cancels: VecDeque<EarlyCancel>,
    /// When all rings of strangers so far will have been paid for.
    strangers_paid: Option<Instant>,
    outbox: Outbox,
    /// Connections that have not reported `Closed` yet, and to whom they lead.
    legs: BTreeMap<LegId, Did>,
    last_leg: u64,
    media: MediaState,
    contact: Option<Contact>,
    plan: AudioPlan,
    stopping: bool,
    effects: VecDeque<Effect>,
}

/// A `Cancel` that was heard before its offer.
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
        let dids: Vec<Did> = contacts.iter().map(|(did, _)| did.clone()).collect();
        let inbox = Topic::Inbox(config.did.clone());
        let mut engine = Self {
            config,
            rng: StdRng::from_seed(seed),
            contacts: contacts.into_iter().collect(),
            seen: Seen::new(&dids, seen),
            calls: BTreeMap::new(),
            early_cancels: VecDeque::new(),
            strangers_paid: None,
            outbox: Outbox::default(),
            legs: BTreeMap::new(),
            last_leg: 0,
            media: MediaState::default(),
            contact: None,
            plan: AudioPlan::default(),
            stopping: false,
            effects: VecDeque::new(),
        };
        engine.effects.push_back(Effect::SetContacts(dids));
        engine.output(Output::Subscribe(inbox));
        engine
    }

    /// Something happened.
    pub fn handle_input(&mut self, input: Input, now: Now) {
        match input {
            Input::Signal(incoming) => self.handle_signal(incoming, now),
            Input::Subscribed(topic) => self.outbox.subscribed(&topic, now.mono),
            Input::Leg(id, event) => self.handle_leg_event(id, event, now.mono),
            Input::Woke(_) => {}
        }
        self.settle(now.mono);
    }

    /// The time that [`Self::poll_timeout`] named has come.
    pub fn handle_timeout(&mut self, now: Now) {
        self.settle(now.mono);
    }

    /// What to do next, until `None`.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When [`Self::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let calls = self.calls.values().filter_map(|call| self.call_deadline(call));
        calls.chain(self.outbox.deadline()).min()
    }

    /// Calls that are not over.
    pub fn calls(&self) -> Vec<CallView> {
        self.calls.values().filter_map(|call| call.view(&self.config.did)).collect()
    }

    /// Calls that can be joined, though this device is not in them.
    pub fn past_calls(&self) -> Vec<PastCall> {
        Vec::new()
    }

    /// The user wants to hear no calls.
    pub fn do_not_disturb(&self) -> bool {
        false
    }

    /// The own microphone is off.
    pub fn muted(&self) -> bool {
        self.media.muted
    }

    /// The own ears are off.
    pub fn deafened(&self) -> bool {
        self.media.deafened
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
    fn settle(&mut self, now: Instant) {
        self.outbox.expire(now);
        let calls: Vec<CallId> = self.calls.keys().copied().collect();
        for call in calls {
            self.settle_call(call, now);
        }
        self.early_cancels.retain(|cancel| now < cancel.until);
        while let Some(outgoing) = self.outbox.poll(now) {
            self.effects.push_back(Effect::Send(Box::new(outgoing)));
        }
        let plan = self.plan_audio();
        if plan != self.plan {
            self.plan = plan.clone();
            self.output(Output::Audio(plan));
        }
    }

    fn settle_call(&mut self, id: CallId, now: Instant) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        match call.phase {
            Phase::Incoming { until } if until <= now => self.end_call(id, EndReason::Missed, now),
            Phase::Incoming { .. } => {}
            Phase::Joined { .. } => {
                self.expire_invitations(id, now);
                self.advance_legs(id, now);
                self.settle_company(id, now);
                self.say_hello(id, now);
            }
            Phase::Ended { .. } => {}
        }
        self.show_changes(id);
        // It may have ended just now.
        if let Some(Call { phase: Phase::Ended { until, .. }, .. }) = self.calls.get(&id)
            && (*until <= now || !self.outbox.any(|outgoing| outgoing.signal.call == id))
        {
            self.forget_call(id);
        }
    }

    fn expire_invitations(&mut self, id: CallId, now: Instant) {
        let Some(call) = self.calls.get_mut(&id).filter(|call| call.ring_until <= now) else { return };
        let by_me = call.from == self.config.did;
        for (did, member) in &mut call.members {
            let Presence::Invited { reached, .. } = member.presence else { continue };
            member.presence = if by_me && !reached { Presence::Unreachable } else { Presence::Expired };
            let to_it = |outgoing: &Outgoing| outgoing.signal.call == id && outgoing.to.as_ref() == Some(did);
            // It may have accepted where no word of it came through: our Join goes on, and it answers when it can.
            self.outbox.drop_where(|outgoing| to_it(outgoing) && !matches!(outgoing.signal.body, Body::Join(_)));
            self.outbox.be_patient(to_it);
        }
    }

    /// Ends a call in which nobody else is, once nobody can be expected.
    fn settle_company(&mut self, id: CallId, now: Instant) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        if call.has_company() {
            call.met = true;
            call.alone_since = None;
            return;
        }
        call.alone_since.get_or_insert(now);
        if self.lonely_until(&self.calls[&id]).is_some_and(|until| until <= now) {
            let call = &self.calls[&id];
            let reason = match (call.met, call.from == self.config.did) {
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
        if call.is_awaited() && (call.met || call.from == self.config.did) {
            return None;
        }
        match (call.met, call.from == self.config.did) {
            (true, _) if self.config.grace.is_zero() => None,
            (true, _) => Some(alone_since + self.config.grace),
            (false, true) => Some(alone_since),
            (false, false) => Some(alone_since + MEET_PATIENCE),
        }
    }

    fn say_hello(&mut self, id: CallId, now: Instant) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        let Some(instance) = call.instance() else { return };
        if !call.hello.take(now) {
            return;
        }
        let unheard =
            self.outbox.any(|outgoing| outgoing.signal.call == id && matches!(outgoing.signal.body, Body::Join(_)));
        if !unheard {
            // Everybody on the roster has acknowledged the Join, so there is nobody left to tell.
            return call.hello.close();
        }
        let hello = Body::Hello(super::signal::Presence { instance, state: self.media, contact: None });
        self.broadcast(id, hello);
    }

    fn show_changes(&mut self, id: CallId) {
        // Before this device is in the call, nobody is connecting to it.
        let Some(call) = self.calls.get_mut(&id).filter(|call| call.instance().is_some()) else { return };
        for (did, member) in &mut call.members {
            let state = member.state();
            if state != member.shown {
                member.shown = state;
                let event = Event::ParticipantChanged { call: id, did: did.clone(), state };
                self.effects.push_back(Effect::Output(Output::Event(event)));
            }
        }
    }

    fn plan_audio(&self) -> AudioPlan {
        let active = self.calls.values().find(|call| call.instance().is_some());
        let legs = active.into_iter().flat_map(|call| call.members.values());
        let legs = legs.filter_map(|member| member.peer()?.leg.as_ref()?.id()).collect();
        AudioPlan {
            legs,
            microphone: active.is_some_and(Call::has_leg_up),
            playback: active.is_some_and(Call::has_company),
            muted: self.media.muted,
            deafened: self.media.deafened,
            ring: self.calls.values().any(Call::is_incoming),
        }
    }

    fn call_deadline(&self, call: &Call) -> Option<Instant> {
        match call.phase {
            Phase::Incoming { until } | Phase::Ended { until, .. } => Some(until),
            Phase::Joined { .. } => {
                let expiry = call.is_awaited().then_some(call.ring_until);
                let legs = call.members.values().filter_map(|member| member.peer()?.leg.as_ref());
                let legs =
                    legs.flat_map(|leg| [leg.deadline(), leg.down_since().map(|since| since + self.config.reconnect)]);
                let times = [expiry, call.hello.deadline(), self.lonely_until(call)];
                times.into_iter().chain(legs).flatten().min()
            }
        }
    }

    /// The call is over here: says what the others have to know, and closes its legs.
    fn end_call(&mut self, id: CallId, reason: EndReason, now: Instant) {
        let rang_out = matches!(reason, EndReason::NoAnswer | EndReason::Unreachable);
        let cancel = if rang_out { CancelReason::RangOut } else { CancelReason::Cancelled };
        self.end_call_with(id, reason, cancel, now);
    }

    /// As [`Self::end_call`]; `cancel` is what those hear who have not answered yet.
    fn end_call_with(&mut self, id: CallId, reason: EndReason, cancel: CancelReason, now: Instant) {
        let Some(call) = self.calls.get(&id).filter(|call| call.is_alive()) else { return };
        let instance = call.instance();
        let ring_until = call.ring_until;
        let (by_me, met) = (call.from == self.config.did, call.met);
        let present: Vec<Did> =
            call.members.iter().filter(|(_, m)| m.peer().is_some()).map(|(did, _)| did.clone()).collect();
        // Who has accepted a moment ago and lacks our Join can read no Leave of ours.
        let lacks_join = |did: &Did| {
            self.outbox.any(|outgoing| {
                let join = outgoing.signal.call == id && matches!(outgoing.signal.body, Body::Join(_));
                join && outgoing.to.as_ref() == Some(did)
            })
        };
        let invited: Vec<Did> = call
            .members
            .iter()
            .filter(|(did, member)| match member.presence {
                Presence::Invited { .. } | Presence::Expired | Presence::Unreachable => true,
                Presence::In(_) => lacks_join(did),
                Presence::Declined(_) | Presence::Out { .. } => false,
            })
            .map(|(did, _)| did.clone())
            .collect();
        self.outbox.drop_where(|outgoing| outgoing.signal.call == id);
        for did in &present {
            self.stop_leg(id, did, now);
        }
        let silent = reason == EndReason::AnsweredElsewhere;
        if let Some(instance) = instance.filter(|_| !silent) {
            self.broadcast(id, Body::Leave(instance));
            for did in &present {
                self.post(id, did, Sealing::Pairwise, Body::Leave(instance), Persistence::UntilAcked, now);
            }
            // Where an offer arrived late it rings longer than here.
            let persistence = if now < ring_until { Persistence::Until(ring_until) } else { Persistence::UntilAcked };
            for did in invited.iter().filter(|_| by_me && (now < ring_until || !met)) {
                self.post(id, did, Sealing::Envelope, Body::Cancel(cancel), persistence, now);
            }
        }
        if let Some(call) = self.calls.get_mut(&id) {
            call.phase = Phase::Ended { instance, until: ring_until.max(now + LAST_WORDS) };
        }
        self.output(Output::Event(Event::CallEnded { call: id, reason }));
        let ended = self.calls.iter().filter_map(|(id, call)| match call.phase {
            Phase::Ended { until, .. } => Some((until, *id)),
            Phase::Incoming { .. } | Phase::Joined { .. } => None,
        });
        let ended: BTreeSet<(Instant, CallId)> = ended.collect();
        if ended.len() > MAX_ENDED
            && let Some((_, oldest)) = ended.first()
        {
            self.forget_call(*oldest);
        }
    }

    fn forget_call(&mut self, id: CallId) {
        let Some(call) = self.calls.remove(&id) else { return };
        self.outbox.drop_where(|outgoing| outgoing.signal.call == id);
        for topic in call.topics {
            self.output(Output::Unsubscribe(topic));
        }
        self.effects.push_back(Effect::CloseCall(id));
        let calls = &self.calls;
        self.outbox.retain_round_trips(|did| calls.values().any(|call| call.members.contains_key(did)));
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
