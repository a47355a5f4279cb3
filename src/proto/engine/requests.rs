//! What users ask: each request is done whole, or refused with a reason and without a trace.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use rand::RngExt;

use super::{Effect, Engine};
use crate::proto::{
    call::{Call, HelloWindow, Member, Phase},
    id::{CallId, Did, Instance},
    io::{EndReason, Event, Now, Output, Policy, Reply, Request, RequestError},
    outbox::Persistence,
    signal::{
        Answered, Body, CallKey, Contact, Decline, DeclineReason, MAX_PARTICIPANTS, Offer, Presence, Sealing, Settings,
        Ticket, Topic,
    },
};

impl Engine {
    /// A user asks for something.
    pub fn handle_request(&mut self, request: Request, now: Now) -> Result<Reply, RequestError> {
        let reply = match request {
            Request::Offer { invitees, settings } => self.offer(invitees, settings, now).map(Reply::Offered),
            Request::Accept(call, _former) => self.accept_request(call, now).map(|()| Reply::Done),
            Request::Reject(call, decline) => self.reject(call, decline, now.mono).map(|()| Reply::Done),
            Request::Join(..) => Err(RequestError::NotJoinable),
            Request::Invite { .. } | Request::Hold(_) | Request::Resume(_) => Err(RequestError::NotInCall),
            Request::SetDoNotDisturb(_) | Request::Restore { .. } => Ok(Reply::Done),
            Request::Hangup(call) => self.hang_up(call, now.mono).map(|()| Reply::Done),
            Request::Mute(muted) => Ok(self.set_media(muted, self.media.deafened, now.mono)),
            Request::Deafen(deafened) => Ok(self.set_media(self.media.muted, deafened, now.mono)),
            Request::SetContacts(contacts) => Ok(self.set_contacts(contacts)),
            Request::SetContact(contact) => Ok(self.set_contact(contact)),
            Request::Shutdown => Ok(self.shut_down(now.mono)),
        };
        self.settle(now.mono);
        reply
    }

    fn offer(&mut self, invitees: Vec<Did>, settings: Settings, now: Now) -> Result<CallId, RequestError> {
        if self.stopping {
            return Err(RequestError::Stopping);
        }
        let invitees: BTreeSet<Did> = invitees.into_iter().collect();
        if invitees.is_empty() || invitees.len() >= MAX_PARTICIPANTS || invitees.contains(&self.config.did) {
            return Err(RequestError::BadInvitees);
        }
        self.make_way(now.mono)?;
        let me = self.config.did.clone();
        // Somebody was faster, and it rings here: to call the same people is to take that call.
        if let Some(same) = self.ringing_with(&invitees, settings) {
            self.accept(same, now);
            return Ok(same);
        }
        let key = CallKey(self.rng.random());
        let id = CallId::derive(&me, &settings, &key.0);
        let ticket = Ticket { call: id, creator: me.clone(), settings, key, chain: Vec::new() };
        let ring_until = now.mono + self.config.ring;
        self.add_call(ticket.clone(), me.clone(), invitees.clone(), ring_until);
        self.join(id, now);
        let participants: Vec<Did> = std::iter::once(me).chain(invitees.iter().cloned()).collect();
        let ring_ms = u32::try_from(self.config.ring.as_millis()).unwrap_or(u32::MAX);
        for did in &invitees {
            let offer = Offer { ticket: ticket.clone(), participants: participants.clone(), ring_ms };
            self.post(
                id,
                did,
                Sealing::Envelope,
                Body::Offer(Box::new(offer)),
                Persistence::Until(ring_until),
                now.mono,
            );
        }
        self.announce(id, now.mono);
        self.output(Output::Event(Event::CallOffered { call: id, invitees: invitees.into_iter().collect() }));
        Ok(id)
    }

    /// The call that rings here and has exactly these people in it.
    fn ringing_with(&self, others: &BTreeSet<Did>, settings: Settings) -> Option<CallId> {
        let mut ringing = self.calls.iter().filter(|(_, call)| call.is_incoming() && call.ticket.settings == settings);
        ringing.find(|(_, call)| call.members.keys().eq(others)).map(|(id, _)| *id)
    }

    fn accept_request(&mut self, id: CallId, now: Now) -> Result<(), RequestError> {
        let call = self.alive(id)?;
        if !call.is_incoming() {
            return Err(RequestError::NotRinging);
        }
        self.make_way(now.mono)?;
        self.accept(id, now);
        Ok(())
    }

    /// Another call is possible when there is none, or one in which everybody else has left.
    fn make_way(&mut self, now: Instant) -> Result<(), RequestError> {
        let Some(active) = self.active_call() else { return Ok(()) };
        let call = &self.calls[&active];
        if !call.met || call.has_company() || call.is_awaited() {
            return Err(RequestError::TooManyCalls);
        }
        self.end_call(active, EndReason::Empty, now);
        Ok(())
    }

    /// Joins a call that rings here.
    pub(super) fn accept(&mut self, id: CallId, now: Now) {
        self.join(id, now);
        self.announce(id, now.mono);
        let joined = self.calls.get(&id).and_then(Call::instance).map(|instance| instance.number);
        self.tell_own_devices(id, joined, now.mono);
        self.output(Output::Event(Event::CallJoined { call: id }));
        for did in self.present(id) {
            self.meet(id, &did, now.mono);
        }
    }

    fn reject(&mut self, id: CallId, decline: Decline, now: Instant) -> Result<(), RequestError> {
        let call = self.alive(id)?;
        if !call.is_incoming() {
            return Err(RequestError::NotRinging);
        }
        let from = call.from.clone();
        self.end_call(id, EndReason::Rejected, now);
        self.post(id, &from, Sealing::Envelope, Body::Decline(decline), Persistence::UntilAcked, now);
        self.tell_own_devices(id, None, now);
        Ok(())
    }

    /// An incoming call that is hung up is refused: both mean that the user does not want it.
    fn hang_up(&mut self, id: CallId, now: Instant) -> Result<(), RequestError> {
        if self.alive(id)?.is_incoming() {
            return self.reject(id, DeclineReason::Declined.into(), now);
        }
        self.end_call(id, EndReason::HungUp, now);
        Ok(())
    }

    fn set_media(&mut self, muted: bool, deafened: bool, now: Instant) -> Reply {
        if (muted, deafened) == (self.media.muted, self.media.deafened) {
            return Reply::Done;
        }
        self.media.version += 1;
        self.media.muted = muted;
        self.media.deafened = deafened;
        self.output(Output::Event(Event::MediaChanged { muted, deafened }));
        if let Some(id) = self.active_call() {
            self.outbox.drop_where(|outgoing| matches!(outgoing.signal.body, Body::State(_)));
            self.outbox.refresh_state(id, self.media);
            for did in self.present(id) {
                let state = Body::State(self.media);
                self.post(id, &did, Sealing::Pairwise, state, Persistence::UntilAcked, now);
            }
        }
        Reply::Done
    }

    fn set_contacts(&mut self, contacts: Vec<(Did, Policy)>) -> Reply {
        self.contacts = contacts.into_iter().collect();
        self.effects.push_back(Effect::SetContacts(self.contacts.keys().cloned().collect()));
        Reply::Done
    }

    fn set_contact(&mut self, contact: Contact) -> Reply {
        self.contact = Some(contact);
        Reply::Done
    }

    fn shut_down(&mut self, now: Instant) -> Reply {
        self.stopping = true;
        let alive: Vec<CallId> = self.calls.iter().filter(|(_, call)| call.is_alive()).map(|(id, _)| *id).collect();
        for id in alive {
            self.end_call(id, EndReason::Stopped, now);
        }
        Reply::Done
    }

    /// The call that this device is in.
    pub(super) fn active_call(&self) -> Option<CallId> {
        self.calls.iter().find(|(_, call)| call.instance().is_some()).map(|(id, _)| *id)
    }

    fn alive(&self, id: CallId) -> Result<&Call, RequestError> {
        self.calls.get(&id).filter(|call| call.is_alive()).ok_or(RequestError::NoSuchCall)
    }

    /// Who else is in the call.
    pub(super) fn present(&self, id: CallId) -> Vec<Did> {
        let Some(call) = self.calls.get(&id) else { return Vec::new() };
        call.members.iter().filter(|(_, member)| member.peer().is_some()).map(|(did, _)| did.clone()).collect()
    }

    /// A call whose keys and inbox are open; it rings here until `ring_until`.
    pub(super) fn add_call(&mut self, ticket: Ticket, from: Did, members: BTreeSet<Did>, ring_until: Instant) {
        let id = ticket.call;
        self.effects.push_back(Effect::OpenCall(ticket.clone()));
        let members: BTreeMap<Did, Member> = members.into_iter().map(|did| (did, Member::invited())).collect();
        let call = Call {
            ticket,
            from,
            phase: Phase::Incoming { until: ring_until },
            members,
            ring_until,
            topics: BTreeSet::new(),
            hello: HelloWindow::default(),
            on_hold: false,
            met: false,
            alone_since: None,
        };
        self.calls.insert(id, call);
        self.subscribe(id, Topic::Member(id, self.config.did.clone()));
    }

    /// Begins the own stay in the call.
    fn join(&mut self, id: CallId, now: Now) {
        let instance = Instance { number: now.unix_ms, device: self.config.device };
        let Some(call) = self.calls.get_mut(&id) else { return };
        call.phase = Phase::Joined { instance };
        call.hello.open(now.mono);
        let members: Vec<Did> = call.members.keys().cloned().collect();
        self.effects.push_back(Effect::Join(id, instance));
        self.subscribe(id, Topic::Call(id));
        for did in members {
            self.subscribe(id, Topic::Member(id, did));
        }
    }

    /// Sends the own Join to everyone who is, or may come to be, in the call.
    fn announce(&mut self, id: CallId, now: Instant) {
        let Some(call) = self.calls.get(&id) else { return };
        let members: Vec<Did> = call.members.keys().cloned().collect();
        for did in members {
            self.send_join(id, &did, now);
        }
    }

    /// Sends the own Join to one participant, or hurries the one that is under way.
    pub(super) fn send_join(&mut self, id: CallId, to: &Did, now: Instant) {
        let under_way = self.outbox.hurry(now, |outgoing| {
            outgoing.signal.call == id
                && outgoing.to.as_ref() == Some(to)
                && matches!(outgoing.signal.body, Body::Join(_))
        });
        let Some(instance) = self.calls.get(&id).and_then(Call::instance).filter(|_| !under_way) else { return };
        let presence = Presence { instance, state: self.media, contact: self.contact.clone() };
        self.post(id, to, Sealing::Envelope, Body::Join(presence), Persistence::UntilAcked, now);
    }

    /// `joined`: the own stay; `None`: the call was refused.
    fn tell_own_devices(&mut self, id: CallId, joined: Option<u64>, now: Instant) {
        let me = self.config.did.clone();
        let Some(ring_until) = self.calls.get(&id).map(|call| call.ring_until) else { return };
        let answered = Body::Answered(Answered { device: self.config.device, joined });
        self.post(id, &me, Sealing::Envelope, answered, Persistence::Until(ring_until), now);
    }
}
