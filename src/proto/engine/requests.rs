//! What users ask: each request is done whole, or refused with a reason and without a trace.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use rand::RngExt;

use super::{Arrival, Effect, Engine, MAX_JOINED, TALK, UNASKED_SPREAD};
use crate::proto::{
    call::{Call, HelloWindow, Member, Phase, Presence},
    id::{CallId, Did, Instance, MessageId},
    io::{EndReason, Event, Former, Now, Output, Policy, Reply, Request, RequestError},
    mutant::mutant,
    outbox::Persistence,
    signal::{
        self, Answered, Body, CallKey, Contact, Decline, DeclineReason, MAX_CHAIN, MAX_PARTICIPANTS, Offer, Outgoing,
        Sealing, Settings, Ticket, Topic,
    },
};

impl Engine {
    /// A user asks for something.
    pub fn handle_request(&mut self, request: Request, now: Now) -> Result<Reply, RequestError> {
        let done = |()| Reply::Done;
        let reply = match request {
            Request::Offer { invitees, settings } => self.offer(invitees, settings, now).map(Reply::Offered),
            Request::Accept(call, former) => self.accept_request(call, former, now).map(done),
            Request::Reject(call, decline) => self.reject(call, &decline, now).map(done),
            Request::Hangup(call) => self.hang_up(call, now).map(done),
            Request::Join(call, former) => self.join_request(call, former, now).map(done),
            Request::Invite { call, invitees } => self.invite(call, invitees, now).map(done),
            Request::Hold(call) => self.hold_request(call, now).map(done),
            Request::Resume(call) => self.resume(call, Former::Hold, now).map(done),
            Request::Record { call, on } => self.record_request(call, on, now.mono).map(done),
            Request::Mute(muted) => Ok(self.change_media(now.mono, |engine| engine.muted = muted)),
            Request::Deafen(deafened) => Ok(self.change_media(now.mono, |engine| engine.deafened = deafened)),
            Request::Talk(talks) => self.talk(talks, now.mono),
            Request::SetDoNotDisturb(on) => Ok(self.set_do_not_disturb(on)),
            Request::SetContacts(contacts) => Ok(self.set_contacts(contacts, now)),
            Request::SetAddresses(contact) => Ok(self.set_addresses(contact)),
            Request::Restore { calls, rejoin } => Ok(self.restore(calls, rejoin, now)),
            Request::Shutdown => Ok(self.shut_down(now)),
        };
        self.settle(now);
        reply
    }

    fn offer(&mut self, invitees: Vec<Did>, settings: Settings, now: Now) -> Result<CallId, RequestError> {
        let invitees = self.invitable(invitees, 0)?;
        let me = self.config.did.clone();
        // Somebody was faster, and it rings here: to call the same people is to take that call.
        if let Some(same) = self.ringing_with(&invitees, settings) {
            self.accept_request(same, Former::Hold, now)?;
            return Ok(same);
        }
        self.make_way(Former::Hold, now)?;
        let key = CallKey(self.rng.random());
        let id = CallId::derive(&me, &settings, &key.0);
        let ticket = Ticket { call: id, creator: me.clone(), settings, key, chain: Vec::new() };
        self.add_call(ticket, me, invitees.clone(), now.mono + self.config.ring);
        self.join(id, Arrival::Wanted, now);
        self.send_offers(id, &invitees, now.mono);
        self.announce(id, now.mono);
        self.keep(id, now);
        self.output(Output::Event(Event::CallOffered { call: id, invitees: invitees.into_iter().collect() }));
        Ok(id)
    }

    /// Those of them who may be invited into a call that has so many other participants already.
    fn invitable(&self, invitees: Vec<Did>, present: usize) -> Result<BTreeSet<Did>, RequestError> {
        if self.stopping {
            return Err(RequestError::Stopping);
        }
        let invitees: BTreeSet<Did> = invitees.into_iter().collect();
        if invitees.is_empty() || present + invitees.len() >= MAX_PARTICIPANTS || invitees.contains(&self.config.did) {
            return Err(RequestError::BadInvitees);
        }
        if invitees.iter().any(|did| self.is_blocked(did)) {
            return Err(RequestError::Blocked);
        }
        Ok(invitees)
    }

    /// Asks more people into a call; who is in it, or is being asked from here, is not asked again.
    fn invite(&mut self, id: CallId, invitees: Vec<Did>, now: Now) -> Result<(), RequestError> {
        let call = self.alive(id)?;
        if call.instance().is_none() {
            return Err(RequestError::NotInCall);
        }
        let ticket = &call.ticket;
        if ticket.settings.closed && ticket.creator != self.config.did {
            return Err(RequestError::Closed);
        }
        if ticket.chain.len() >= MAX_CHAIN {
            return Err(RequestError::TooFar);
        }
        let inviters: Vec<Did> = ticket.chain.iter().map(|grant| grant.inviter.clone()).collect();
        let others = call.members.keys().filter(|did| !invitees.contains(did)).count();
        let is_expected = |did: &Did| {
            let offered = |outgoing: &Outgoing| {
                let offers = matches!(outgoing.signal.body, Body::Offer(_));
                offers && outgoing.signal.call == id && outgoing.to.as_ref() == Some(did)
            };
            call.members.get(did).is_some_and(|member| member.peer().is_some()) || self.outbox.any(offered)
        };
        let mut asked = self.invitable(invitees, others)?;
        asked.retain(|did| !is_expected(did));
        if inviters.iter().any(|did| asked.contains(did)) {
            return Err(RequestError::InvitedYou);
        }
        if asked.is_empty() {
            return Ok(());
        }
        for did in &asked {
            self.outbox.drop_where(|outgoing| outgoing.signal.call == id && outgoing.to.as_ref() == Some(did));
            self.subscribe(id, Topic::Member(id, did.clone()));
        }
        self.send_offers(id, &asked, now.mono);
        for did in &asked {
            self.send_join(id, did, now.mono);
        }
        self.keep(id, now);
        self.output(Output::Event(Event::CallInvited { call: id, invitees: asked.into_iter().collect() }));
        Ok(())
    }

    /// Invites them for as long as it is to ring.
    fn send_offers(&mut self, id: CallId, invitees: &BTreeSet<Did>, now: Instant) {
        for did in invitees {
            let offer = MessageId(self.rng.random());
            self.expect_answer(id, did, offer, now + self.config.ring);
        }
        for did in invitees {
            self.send_offer(id, did, now);
        }
    }

    /// Whoever is asked belongs to the roster that the offers name.
    pub(super) fn expect_answer(&mut self, id: CallId, did: &Did, offer: MessageId, until: Instant) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        let member = call.members.entry(did.clone()).or_insert_with(|| Member::invited(true, until));
        member.presence = Presence::Invited { reached: false, rings: false };
        (member.invited_here, member.offer, member.invited_until) = (true, Some(offer), until);
    }

    pub(super) fn send_offer(&mut self, id: CallId, did: &Did, now: Instant) {
        let Some(call) = self.calls.get(&id) else { return };
        let Some(Member { offer: Some(message), invited_until: until, .. }) = call.members.get(did) else { return };
        let (message, until) = (*message, *until);
        let ring_ms = u32::try_from(until.saturating_duration_since(now).as_millis()).unwrap_or(u32::MAX);
        let participants: Vec<Did> = call.members.keys().chain([&self.config.did]).cloned().collect();
        let offer = Body::Offer(Box::new(Offer { ticket: call.ticket.clone(), participants, ring_ms }));
        let mut outgoing = self.address(id, did, Sealing::Envelope, offer);
        outgoing.signal.id = message;
        self.outbox.push(outgoing, Persistence::Until(until), now);
    }

    /// The call that rings here and has exactly these people in it.
    fn ringing_with(&self, others: &BTreeSet<Did>, settings: Settings) -> Option<CallId> {
        let mut ringing = self.calls.iter().filter(|(_, call)| call.rings() && call.ticket.settings == settings);
        ringing.find(|(_, call)| call.members.keys().eq(others)).map(|(id, _)| *id)
    }

    pub(super) fn accept_request(&mut self, id: CallId, former: Former, now: Now) -> Result<(), RequestError> {
        if !self.alive(id)?.rings() {
            return Err(RequestError::NotRinging);
        }
        self.make_way(former, now)?;
        self.enter(id, false, Arrival::Wanted, now);
        Ok(())
    }

    /// Makes room for another active call: the one that is goes on hold, or is left; one that everybody else has left ends.
    pub(super) fn make_way(&mut self, former: Former, now: Now) -> Result<(), RequestError> {
        let active = self.active_call();
        let deserted = |call: &Call| call.met && !call.has_company() && !call.is_awaited();
        let ends = active.is_some_and(|id| former == Former::Leave || deserted(&self.calls[&id]));
        if !ends && self.joined() >= MAX_JOINED {
            return Err(RequestError::TooManyCalls);
        }
        match (active, former) {
            (None, _) => {}
            (Some(id), _) if deserted(&self.calls[&id]) => self.end_call(id, EndReason::Empty, now),
            (Some(id), Former::Leave) => self.end_call(id, EndReason::HungUp, now),
            (Some(id), Former::Hold) => self.set_on_hold(id, true, now),
        }
        Ok(())
    }

    /// This device is in the call from now on, on hold or as the active one; there must be no other active one then.
    pub(super) fn enter(&mut self, id: CallId, on_hold: bool, arrival: Arrival, now: Now) {
        if let Some(call) = self.calls.get_mut(&id) {
            call.on_hold = on_hold;
        }
        self.join(id, arrival, now);
        self.announce(id, now.mono);
        let joined = self.calls.get(&id).and_then(Call::instance).map(|instance| instance.number);
        self.tell_own_devices(id, joined, now.mono);
        self.output(Output::Event(Event::CallJoined { call: id }));
        // Whom the user has spoken to may ring again at once.
        if let Some(call) = self.calls.get(&id) {
            self.strangers.retain(|(did, ..)| !call.is_inviter(did));
        }
        for did in self.awaited(id) {
            self.dial(id, &did);
        }
        for did in self.present(id) {
            self.meet(id, &did, now.mono);
        }
        self.keep(id, now);
    }

    fn hold_request(&mut self, id: CallId, now: Now) -> Result<(), RequestError> {
        let call = self.alive(id)?;
        if call.instance().is_none() {
            return Err(RequestError::NotInCall);
        }
        self.set_on_hold(id, true, now);
        Ok(())
    }

    pub(super) fn resume(&mut self, id: CallId, former: Former, now: Now) -> Result<(), RequestError> {
        let call = self.alive(id)?;
        if call.instance().is_none() {
            return Err(RequestError::NotInCall);
        }
        if call.on_hold {
            match (self.active_call(), former) {
                (None, _) => {}
                (Some(active), Former::Leave) => self.end_call(active, EndReason::HungUp, now),
                (Some(active), Former::Hold) => self.set_on_hold(active, true, now),
            }
            self.set_on_hold(id, false, now);
        }
        Ok(())
    }

    fn set_on_hold(&mut self, id: CallId, on_hold: bool, now: Now) {
        let Some(call) = self.calls.get_mut(&id).filter(|call| call.on_hold != on_hold) else { return };
        call.on_hold = on_hold;
        self.media_version += 1;
        self.tell_state(id, now.mono);
        let event = if on_hold { Event::CallHeld { call: id } } else { Event::CallResumed { call: id } };
        self.output(Output::Event(event));
        self.keep(id, now);
    }

    /// The others are told by the same input that makes the plan write: before the first sample.
    fn record_request(&mut self, id: CallId, on: bool, now: Instant) -> Result<(), RequestError> {
        let call = self.alive(id)?;
        if call.instance().is_none() {
            return Err(RequestError::NotInCall);
        }
        if call.recording == on {
            return Ok(());
        }
        if on {
            self.may_record(id)?;
        }
        self.set_recording(id, on);
        self.media_version += 1;
        self.tell_state(id, now);
        // Whom it rings with shall know before they accept.
        let invited = self.calls.get(&id).into_iter().flat_map(|call| &call.members);
        let invited = invited.filter(|(_, member)| member.is_invited()).map(|(did, _)| did.clone());
        for did in invited.collect::<Vec<_>>() {
            self.send_join(id, &did, now);
        }
        Ok(())
    }

    /// Whether a recording of this call may begin now.
    pub fn may_record(&self, id: CallId) -> Result<(), RequestError> {
        let call = self.alive(id)?;
        if call.instance().is_none() {
            return Err(RequestError::NotInCall);
        }
        if call.on_hold {
            return Err(RequestError::OnHold);
        }
        if self.calls.values().any(|call| call.recording) {
            return Err(RequestError::RecordsAnother);
        }
        Ok(())
    }

    /// Begins or ends the recording of a call, and tells clients.
    pub(super) fn set_recording(&mut self, id: CallId, on: bool) {
        let Some(call) = self.calls.get_mut(&id).filter(|call| call.recording != on) else { return };
        call.recording = on;
        let event = if on { Event::RecordingStarted { call: id } } else { Event::RecordingEnded { call: id } };
        self.output(Output::Event(event));
    }

    pub(super) fn reject(&mut self, id: CallId, decline: &Decline, now: Now) -> Result<(), RequestError> {
        let call = self.alive(id)?;
        if !call.rings() {
            return Err(RequestError::NotRinging);
        }
        let inviters = call.also_from.iter().chain([&call.from]).filter(|did| !self.is_blocked(did));
        let inviters: Vec<Did> = inviters.cloned().collect();
        self.end_call(id, EndReason::Rejected, now);
        for inviter in inviters {
            let no = Body::Decline(decline.clone());
            self.post(id, &inviter, Sealing::Envelope, no, Persistence::UntilAcked, now.mono);
        }
        self.tell_own_devices(id, None, now.mono);
        Ok(())
    }

    /// An incoming call that is hung up is refused: both mean that the user does not want it.
    fn hang_up(&mut self, id: CallId, now: Now) -> Result<(), RequestError> {
        if self.alive(id)?.rings() {
            return self.reject(id, &DeclineReason::Declined.into(), now);
        }
        self.end_call(id, EndReason::HungUp, now);
        Ok(())
    }

    fn talk(&mut self, talks: bool, now: Instant) -> Result<Reply, RequestError> {
        if !self.config.push_to_talk {
            return Err(RequestError::NoPushToTalk);
        }
        if talks && self.joined() == 0 {
            return Err(RequestError::NoCall);
        }
        Ok(self.change_media(now, |engine| engine.talks_until = talks.then_some(now + TALK)))
    }

    /// Changes microphone or ears; clients and participants are told when it made a difference.
    pub(super) fn change_media(&mut self, now: Instant, change: impl FnOnce(&mut Self)) -> Reply {
        let before = (self.muted(), self.deafened);
        change(self);
        let (muted, deafened) = (self.muted(), self.deafened);
        if (muted, deafened) == before {
            return Reply::Done;
        }
        self.media_version += 1;
        self.output(Output::Event(Event::MediaChanged { muted, deafened }));
        let joined = self.calls.iter().filter(|(_, call)| call.instance().is_some()).map(|(id, _)| *id);
        for id in joined.collect::<Vec<_>>() {
            self.tell_state(id, now);
        }
        Reply::Done
    }

    /// Tells all participants of the call what holds now of microphone, ears and recording. Who was recorded and hears that it
    /// is over has to acknowledge the next beginning.
    fn tell_state(&mut self, id: CallId, now: Instant) {
        let state = self.media_state(id);
        self.outbox.drop_where(|outgoing| outgoing.signal.call == id && matches!(outgoing.signal.body, Body::State(_)));
        let blocked = |did: &Did| self.contacts.get(did) == Some(&Policy::Block);
        self.outbox.refresh_state(id, state, now, |to| {
            let is_told = !to.is_some_and(blocked);
            is_told.then(|| MessageId(self.rng.random()))
        });
        for did in self.present(id) {
            if let Some(peer) = self.peer_mut(id, &did) {
                peer.knows_recording &= state.recording || mutant!(KnowsForEver);
            }
            self.post(id, &did, Sealing::Pairwise, Body::State(state), Persistence::UntilAcked, now);
        }
    }

    fn set_do_not_disturb(&mut self, on: bool) -> Reply {
        if on != self.do_not_disturb {
            self.do_not_disturb = on;
            self.output(Output::Event(Event::DoNotDisturbChanged { on }));
        }
        Reply::Done
    }

    /// Who is blocked now is out of every call, as far as this device is concerned.
    fn set_contacts(&mut self, contacts: Vec<(Did, Policy)>, now: Now) -> Reply {
        self.effects.push_back(Effect::SetContacts(super::acquainted(&contacts)));
        let former = std::mem::replace(&mut self.contacts, contacts.into_iter().collect());
        let calls: Vec<CallId> = self.calls.keys().copied().collect();
        for id in calls {
            for (did, _) in former.iter().filter(|(_, policy)| **policy == Policy::Block) {
                if !self.is_blocked(did) {
                    self.meet_again(id, did, now);
                }
            }
            for did in self.present(id) {
                if self.is_blocked(&did) {
                    self.count_as_left(id, &did, now.mono);
                }
            }
            let Some(call) = self.calls.get_mut(&id).filter(|call| call.rings()) else { continue };
            let inviters: Vec<Did> = call.also_from.iter().chain([&call.from]).cloned().collect();
            let mut blocked = inviters.iter().filter(|did| self.contacts.get(did) == Some(&Policy::Block));
            if blocked.all(|did| call.uninvite(did)) {
                self.keep(id, now);
            } else {
                self.end_call(id, EndReason::Rejected, now);
            }
        }
        Reply::Done
    }

    /// Who was blocked for a while may still be there; if it is not, that is noticed as with everybody.
    fn meet_again(&mut self, id: CallId, did: &Did, now: Now) {
        let member = self.calls.get(&id).and_then(|call| call.members.get(did));
        if let Some(Presence::Out { instance, lost: Some(_) }) = member.map(|member| &member.presence) {
            self.revive(id, did, *instance, now);
        }
    }

    fn set_addresses(&mut self, contact: Contact) -> Reply {
        self.contact = Some(contact);
        Reply::Done
    }

    fn shut_down(&mut self, now: Now) -> Reply {
        self.stopping = true;
        let alive: Vec<CallId> = self.calls.iter().filter(|(_, call)| call.is_alive()).map(|(id, _)| *id).collect();
        for id in alive {
            self.end_call(id, EndReason::Stopped, now);
        }
        Reply::Done
    }

    /// The call that this device is in and has not put on hold.
    pub(super) fn active_call(&self) -> Option<CallId> {
        self.calls.iter().find(|(_, call)| call.is_active()).map(|(id, _)| *id)
    }

    fn alive(&self, id: CallId) -> Result<&Call, RequestError> {
        let shown = |call: &&Call| call.instance().is_some() || call.rings();
        self.calls.get(&id).filter(shown).ok_or(RequestError::NoSuchCall)
    }

    /// Who else is in the call.
    pub(super) fn present(&self, id: CallId) -> Vec<Did> {
        let Some(call) = self.calls.get(&id) else { return Vec::new() };
        call.members.iter().filter(|(_, member)| member.peer().is_some()).map(|(did, _)| did.clone()).collect()
    }

    /// Who may be in the call, or come.
    fn awaited(&self, id: CallId) -> Vec<Did> {
        let Some(call) = self.calls.get(&id) else { return Vec::new() };
        call.members.iter().filter(|(_, member)| member.is_invited()).map(|(did, _)| did.clone()).collect()
    }

    /// A call whose keys and inbox are open; it rings here until `ring_until`. One that is over here begins again with what
    /// is known of its participants.
    pub(super) fn add_call(&mut self, ticket: Ticket, from: Did, invited: BTreeSet<Did>, ring_until: Instant) {
        let id = ticket.call;
        self.effects.push_back(Effect::OpenCall(ticket.clone()));
        let former = self.calls.remove(&id);
        // A Leave of the former stay still has to arrive; a Decline has nothing to say any more.
        self.outbox
            .drop_where(|outgoing| outgoing.signal.call == id && !matches!(outgoing.signal.body, Body::Leave(_)));
        let (mut members, topics, stay) = former.map_or_else(
            || (BTreeMap::new(), BTreeSet::new(), 0),
            |former| (former.members, former.topics, former.stay),
        );
        for did in invited {
            let member: &mut Member = members.entry(did).or_insert_with(|| Member::invited(false, ring_until));
            if member.peer().is_none() {
                member.presence = Presence::Invited { reached: false, rings: false };
            }
            (member.invited_here, member.invited_until) = (false, ring_until);
        }
        let call = Call {
            ticket,
            from,
            also_from: BTreeSet::new(),
            phase: Phase::Incoming { until: ring_until, silent: false },
            members,
            on_hold: false,
            recording: false,
            ring_until,
            topics,
            hello: HelloWindow::default(),
            met: false,
            rejoined: false,
            stay,
            alone_since: None,
        };
        self.calls.insert(id, call);
        self.subscribe(id, Topic::Member(id, self.config.did.clone()));
    }

    /// Begins the own stay in the call, numbered above every other of the own DID that is known.
    pub(super) fn join(&mut self, id: CallId, arrival: Arrival, now: Now) {
        // A machine that woke up goes on where it was. Nobody has pushed for this stay yet.
        let mutes = self.config.automute && arrival != Arrival::Woken && !mutant!(BeginsAloud);
        self.change_media(now.mono, |engine| {
            engine.muted |= mutes;
            engine.talks_until = engine.talks_until.filter(|_| mutant!(TalkOutlivesCall));
        });
        let Some(call) = self.calls.get_mut(&id) else { return };
        let above = if mutant!(StayNotAbove) { 0 } else { call.stay.saturating_add(1) };
        call.stay = match arrival {
            Arrival::Wanted => now.unix_ms.max(above),
            Arrival::Woken => above.saturating_add(self.rng.random_range(0..UNASKED_SPREAD / 2)),
            Arrival::Restarted => above.saturating_add(self.rng.random_range(UNASKED_SPREAD / 2..UNASKED_SPREAD)),
        };
        let instance = Instance { number: call.stay, device: self.config.device };
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
    /// Other devices of the own DID hear it, too: the call has moved here.
    pub(super) fn announce(&mut self, id: CallId, now: Instant) {
        let Some(call) = self.calls.get(&id) else { return };
        let members: Vec<Did> = call.members.keys().chain([&self.config.did]).cloned().collect();
        for did in members {
            self.send_join(id, &did, now);
        }
    }

    /// Sends the own Join to one participant, or hurries the one that is under way.
    pub(super) fn send_join(&mut self, id: CallId, to: &Did, now: Instant) {
        // The own DID may have no other device.
        let persistence = if *to == self.config.did { Persistence::Patiently } else { Persistence::UntilAcked };
        let under_way = self.outbox.hurry(now, persistence, |outgoing| {
            outgoing.signal.call == id
                && outgoing.to.as_ref() == Some(to)
                && matches!(outgoing.signal.body, Body::Join(_))
        });
        if under_way || self.is_blocked(to) || mutant!(NoJoin) {
            return;
        }
        let Some(instance) = self.calls.get(&id).and_then(Call::instance) else { return };
        let join = self.own_join(id, instance);
        self.post(id, to, Sealing::Envelope, join, persistence, now);
    }

    /// What tells of that own stay.
    pub(super) fn own_join(&self, id: CallId, instance: Instance) -> Body {
        let (state, contact) = (self.media_state(id), self.contact.clone());
        Body::Join(signal::Presence { instance, state, contact, granted_by: None })
    }

    /// `joined`: the own stay; `None`: the call was refused.
    pub(super) fn tell_own_devices(&mut self, id: CallId, joined: Option<u64>, now: Instant) {
        let me = self.config.did.clone();
        let Some(ring_until) = self.calls.get(&id).map(|call| call.ring_until) else { return };
        let answered = Body::Answered(Answered { device: self.config.device, joined });
        self.post(id, &me, Sealing::Envelope, answered, Persistence::Until(ring_until), now);
    }
}
