//! What other participants say. Every signal is verified already; here it is decided whether it may change something.

use super::Engine;
use crate::proto::{
    call::{Member, Peer, Phase, Presence},
    id::{CallId, Did, Instance, MessageId},
    io::{Event, Now, Output, Setup},
    leg::Leg,
    mutant::mutant,
    outbox::Persistence,
    signal::{self, Body, Contact, Decline, Incoming, MAX_PARTICIPANTS, MediaState, Outgoing, Sealing, Topic},
};

impl Engine {
    pub(super) fn handle_signal(&mut self, incoming: Incoming, now: Now) {
        let Incoming { from, instance, sealing, signal } = incoming;
        let (id, call) = (signal.id, signal.call);
        if self.is_blocked(&from) && !matches!(signal.body, Body::Offer(_) | Body::Cancel(_) | Body::Ack(_)) {
            return;
        }
        if let (Sealing::Pairwise, Some(instance)) = (sealing, instance) {
            self.has_our_join(call, &from, instance, now);
        }
        match signal.body {
            Body::Ack(of) => self.handle_ack(of, &from, now),
            Body::Offer(offer) => self.handle_offer(from, id, *offer, now),
            Body::Cancel(reason) => self.handle_cancel(&from, id, call, reason, now),
            Body::Answered(answered) => self.handle_answered(&from, call, answered, now),
            Body::Join(presence) => self.handle_presence(&from, Some(id), call, presence, now),
            Body::Hello(presence) => self.handle_presence(&from, None, call, presence, now),
            body => self.handle_participant(&from, instance, sealing, (id, call, body), now),
        }
    }

    /// Who seals pairwise with this stay knows its join block.
    fn has_our_join(&mut self, call: CallId, from: &Did, instance: Instance, now: Now) {
        if let Some(peer) = self.peer_mut(call, from).filter(|peer| peer.instance == instance) {
            peer.stamp_signalled(now.mono);
        }
    }

    fn handle_ack(&mut self, of: MessageId, from: &Did, now: Now) {
        // A Join may be acknowledged by another device of that DID than the one that is in the call, or comes into it.
        let member = |outgoing: &Outgoing| {
            let join = outgoing.signal.id == of && matches!(outgoing.signal.body, Body::Join(_));
            let member = || self.calls.get(&outgoing.signal.call)?.members.get(from);
            member().filter(|_| join && outgoing.to.as_ref() == Some(from))
        };
        let unproven = |peer: &Peer| peer.met_at.is_some() && peer.setup.signalled.is_none();
        if self.outbox.any(|outgoing| member(outgoing).and_then(Member::peer).is_some_and(unproven)) {
            return;
        }
        // Who said no, or is blocked, is not waited for.
        let blocked = self.is_blocked(from);
        let absent = |outgoing: &Outgoing| {
            let presence = member(outgoing).map(|member| &member.presence);
            presence.is_some_and(|presence| !blocked && !matches!(presence, Presence::In(_) | Presence::Declined(_)))
        };
        if self.outbox.slow_down(now.mono, absent) {
            return;
        }
        let Some(outgoing) = self.outbox.acknowledge(of, from, now.mono) else { return };
        let Some(member) = self.calls.get_mut(&outgoing.signal.call).and_then(|call| call.members.get_mut(from)) else {
            return;
        };
        if let (Presence::Invited { reached, .. }, Body::Offer(_)) = (&mut member.presence, &outgoing.signal.body) {
            *reached = true;
        }
        // A State is sealed for exactly one stay, which shows from now on what it says.
        if let (Presence::In(peer), Body::State(state)) = (&mut member.presence, &outgoing.signal.body) {
            peer.knows_recording = state.recording;
        }
    }

    /// A Join (`id` is to be acknowledged) or a Hello.
    fn handle_presence(
        &mut self,
        from: &Did,
        id: Option<MessageId>,
        call: CallId,
        presence: signal::Presence,
        now: Now,
    ) {
        if from == &self.config.did {
            return self.handle_own_presence(call, id, presence.instance, now);
        }
        let Some(known) = self.calls.get_mut(&call) else { return };
        if !known.members.contains_key(from) && known.members.len() + 1 >= MAX_PARTICIPANTS {
            return;
        }
        let until = known.ring_until;
        let member = known.members.entry(from.clone()).or_insert_with(|| Member::invited(false, until));
        // It said no to the own invitation, not to somebody else's.
        let by_another = presence.granted_by.as_ref().is_some_and(|inviter| *inviter != self.config.did);
        if matches!(member.presence, Presence::Declined(_)) && !by_another && !mutant!(DeclinedComesIn) {
            // It said no to this invitation; a new one needs a new offer.
            return;
        }
        if let Some(id) = id {
            self.acknowledge(call, from, Sealing::Envelope, id);
        }
        if self.heard_of(call, from, presence, now)
            && from > &self.config.did
            && let Some(known) = self.calls.get_mut(&call)
        {
            known.hello.open(now.mono);
        }
    }

    /// A participant is in the call; true if this device, which is in it too, had not met that stay yet.
    fn heard_of(&mut self, call: CallId, from: &Did, presence: signal::Presence, now: Now) -> bool {
        let Some(known) = self.calls.get_mut(&call) else { return false };
        let phase = known.phase;
        let Some(member) = known.members.get_mut(from) else { return false };
        if member.left.is_some_and(|left| presence.instance <= left) {
            return false;
        }
        match &member.presence {
            Presence::In(peer) if peer.instance == presence.instance => {
                self.heard_state(call, from, presence.state);
                self.heard_contact(call, from, presence.contact, now);
                return false;
            }
            Presence::In(peer) if peer.instance > presence.instance => return false,
            _ => {}
        }
        if let Phase::Ended { instance, .. } = phase {
            // It does not know that we are gone.
            let told = self.outbox.say_again(now.mono, |outgoing| {
                let leaves = matches!(outgoing.signal.body, Body::Leave(_));
                leaves && outgoing.signal.call == call && outgoing.to.as_ref() == Some(from)
            });
            if let Some(leave) = instance.filter(|_| !told).map(Body::Leave) {
                self.post(call, from, Sealing::Pairwise, leave, Persistence::UntilAcked, now.mono);
            }
            return false;
        }
        // What it said last in this stay holds, however late this comes.
        let last = match &member.presence {
            Presence::Out { instance, lost } if *instance == presence.instance => *lost,
            Presence::Out { .. } | Presence::Invited { .. } | Presence::Declined(_) => None,
            Presence::Unreachable | Presence::Expired | Presence::In(_) => None,
        };
        let state = last.filter(|last| last.version > presence.state.version).unwrap_or(presence.state);
        let came_back = member.peer().is_some();
        let continues = member.peer().is_some_and(|peer| peer.leg.as_ref().map_or(peer.continues, Leg::was_up));
        self.stop_leg(call, from, now.mono);
        let Some(member) = self.calls.get_mut(&call).and_then(|known| known.members.get_mut(from)) else {
            return false;
        };
        member.presence = Presence::In(Box::new(Peer {
            continues,
            instance: presence.instance,
            state,
            knows_recording: false,
            met_at: None,
            leg: None,
            setup: Setup::default(),
        }));
        member.contact = presence.contact.or(member.contact.take());
        self.outbox.drop_where(|outgoing| {
            let to_it = outgoing.signal.call == call && outgoing.to.as_ref() == Some(from);
            to_it && !matches!(outgoing.signal.body, Body::Join(_))
        });
        let joined = matches!(phase, Phase::Joined { .. });
        if joined {
            // It may have been invited by somebody else.
            self.subscribe(call, Topic::Member(call, from.clone()));
            self.meet(call, from, now.mono);
        } else if came_back && self.calls.get(&call).is_some_and(|known| known.is_inviter(from)) {
            // An inviter that was killed does not know any more that it rings here.
            self.say_ringing(call, from, now.mono);
        }
        self.keep(call, now);
        joined
    }

    /// A Hello tells of a stay and not where its node can be dialled: that comes with the Join, which may be later.
    fn heard_contact(&mut self, call: CallId, from: &Did, contact: Option<Contact>, now: Now) {
        let Some(known) = self.calls.get_mut(&call) else { return };
        let joined = known.instance().is_some();
        let Some(member) = known.members.get_mut(from) else { return };
        if contact.is_none() || contact == member.contact {
            return;
        }
        member.contact = contact;
        if joined {
            self.dial(call, from);
        }
        self.keep(call, now);
    }

    fn heard_state(&mut self, call: CallId, from: &Did, state: MediaState) {
        let member = self.calls.get_mut(&call).and_then(|call| call.members.get_mut(from));
        let Some(peer) = member.and_then(Member::peer_mut) else { return };
        if state.version > peer.state.version || mutant!(OldStateCounts) {
            peer.state = state;
        }
    }

    /// What only somebody on the roster may say.
    fn handle_participant(
        &mut self,
        from: &Did,
        instance: Option<Instance>,
        sealing: Sealing,
        (id, call, body): (MessageId, CallId, Body),
        now: Now,
    ) {
        let Some(member) = self.calls.get_mut(&call).and_then(|call| call.members.get_mut(from)) else { return };
        if sealing == Sealing::Pairwise && !matches!(body, Body::Leave(_)) && member.is_to_be_met(instance) {
            // It would be lost: not acknowledged, it comes again when that stay was met.
            return;
        }
        let news = member.heard.insert(id);
        if sealing != Sealing::Broadcast && (news || !mutant!(AckedOnce)) {
            self.acknowledge(call, from, sealing, id);
        }
        if !news {
            return;
        }
        match (body, instance) {
            (Body::Ringing, _) => self.handle_ringing(call, from),
            (Body::Decline(decline), _) => self.handle_decline(call, from, decline, now),
            (Body::Leave(left), Some(_)) => self.mark_out(call, from, left, now),
            (body, Some(instance)) if sealing == Sealing::Pairwise => {
                self.handle_pairwise(call, from, instance, body, now);
            }
            // Of a later version, or in a place where it means nothing.
            (_, Some(_) | None) => {}
        }
    }

    fn handle_ringing(&mut self, call: CallId, from: &Did) {
        let member = self.calls.get_mut(&call).and_then(|call| call.members.get_mut(from));
        let Some(member) = member.filter(|member| member.invited_here) else { return };
        if let Presence::Invited { reached, rings } = &mut member.presence {
            *reached = true;
            *rings = true;
        }
    }

    fn handle_decline(&mut self, call: CallId, from: &Did, decline: Decline, now: Now) {
        let member = self.calls.get_mut(&call).and_then(|call| call.members.get_mut(from));
        let Some(member) = member.filter(|member| member.invited_here && member.is_invited()) else { return };
        let (did, Decline { reason, text }) = (from.clone(), decline.clone());
        member.presence = Presence::Declined(decline);
        self.outbox.drop_where(|outgoing| outgoing.signal.call == call && outgoing.to.as_ref() == Some(from));
        self.output(Output::Event(Event::ParticipantDeclined { call, did, reason, text }));
        self.keep(call, now);
    }

    fn handle_pairwise(&mut self, call: CallId, from: &Did, instance: Instance, body: Body, now: Now) {
        self.revive(call, from, instance, now);
        let member = self.calls.get(&call).and_then(|call| call.members.get(from));
        if member.and_then(Member::peer).is_none_or(|peer| peer.instance != instance) {
            return;
        }
        match body {
            Body::Sdp(sdp) => self.drive_leg(call, from, now.mono, |leg, cx| leg.handle_sdp(sdp, cx)),
            Body::Ice(ice) => self.drive_leg(call, from, now.mono, |leg, cx| leg.handle_ice(ice, cx)),
            Body::Restart(attempt) => {
                self.drive_leg(call, from, now.mono, |leg, cx| leg.handle_restart(attempt, cx));
            }
            Body::State(state) => self.heard_state(call, from, state),
            Body::Offer(_)
            | Body::Cancel(_)
            | Body::Answered(_)
            | Body::Ringing
            | Body::Decline(_)
            | Body::Join(_)
            | Body::Hello(_)
            | Body::Leave(_)
            | Body::Ack(_)
            | Body::Unknown(_) => {}
        }
    }

    /// A participant that counted as left for want of a network speaks again.
    pub(super) fn revive(&mut self, call: CallId, from: &Did, instance: Instance, now: Now) {
        let member = self.calls.get(&call).and_then(|call| call.members.get(from));
        if let Some(Member { presence: Presence::Out { instance: former, lost: Some(state) }, .. }) = member
            && *former == instance
        {
            let presence = signal::Presence { instance, state: *state, contact: None, granted_by: None };
            self.heard_of(call, from, presence, now);
        }
    }

    /// A participant left: its signed word, for all stays up to that one.
    fn mark_out(&mut self, call: CallId, from: &Did, left: Instance, now: Now) {
        let Some(member) = self.calls.get_mut(&call).and_then(|call| call.members.get_mut(from)) else { return };
        if matches!(member.presence, Presence::Declined(_)) {
            // It never was in, and its no stands.
            return;
        }
        let left = if mutant!(LeaveForGood) { Instance { number: u64::MAX, ..left } } else { left };
        if Some(left) <= member.left {
            // The same word again; it may have been invited anew since.
            return;
        }
        member.left = Some(left);
        if member.peer().is_some_and(|peer| peer.instance > left) {
            return;
        }
        self.stop_leg(call, from, now.mono);
        if let Some(member) = self.calls.get_mut(&call).and_then(|call| call.members.get_mut(from)) {
            member.presence = Presence::Out { instance: left, lost: None };
        }
        self.outbox.drop_where(|outgoing| outgoing.signal.call == call && outgoing.to.as_ref() == Some(from));
    }
}
