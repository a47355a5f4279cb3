//! What other participants say. Every signal is verified already; here it is decided whether it may change something.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use super::{
    EARLY_CANCEL_KEPT, EarlyCancel, Effect, Engine, MAX_EARLY_CANCELS, MAX_RINGING, MAX_RINGING_STRANGERS,
    STRANGERS_BURST, STRANGERS_PAUSE,
};
use crate::{
    config::{AutoAccept, WhoMayRing},
    proto::{
        call::{Call, Member, Peer, Phase, Presence},
        id::{CallId, DeviceId, Did, Instance, MessageId},
        io::{EndReason, Event, Now, Output, Setup},
        outbox::Persistence,
        signal::{self, Body, CancelReason, Decline, Incoming, MAX_PARTICIPANTS, MediaState, Offer, Sealing},
    },
};

/// What an offer may ask for: shorter rings nobody, longer is a nuisance.
const RING_MS: std::ops::RangeInclusive<u32> = 1_000..=120_000;

impl Engine {
    pub(super) fn handle_signal(&mut self, incoming: Incoming, now: Now) {
        let Incoming { from, instance, sealing, signal } = incoming;
        let (id, call) = (signal.id, signal.call);
        match signal.body {
            Body::Ack(of) => self.handle_ack(of, &from, now),
            Body::Offer(offer) => self.handle_offer(from, id, *offer, now),
            Body::Cancel(reason) => self.handle_cancel(&from, id, call, reason, now),
            Body::Answered(answered) => self.handle_answered(&from, call, answered.device, now),
            Body::Join(presence) => self.handle_presence(&from, Some(id), call, presence, now),
            Body::Hello(presence) => self.handle_presence(&from, None, call, presence, now),
            body => self.handle_participant(&from, instance, sealing, (id, call, body), now),
        }
    }

    fn handle_ack(&mut self, of: MessageId, from: &Did, now: Now) {
        let Some(outgoing) = self.outbox.acknowledge(of, from, now.mono) else { return };
        let Some(member) = self.calls.get_mut(&outgoing.signal.call).and_then(|call| call.members.get_mut(from)) else {
            return;
        };
        match (&mut member.presence, outgoing.signal.body) {
            (Presence::Invited { reached, .. }, Body::Offer(_)) => *reached = true,
            (Presence::In(peer), Body::Join(_)) => peer.stamp_signalled(now.mono),
            _ => {}
        }
    }

    fn handle_offer(&mut self, from: Did, id: MessageId, offer: Offer, now: Now) {
        let call = offer.ticket.call;
        if let Some(known) = self.calls.get(&call) {
            if known.from == from {
                self.acknowledge(call, &from, Sealing::Envelope, id);
            }
            return;
        }
        let known = self.contacts.contains_key(&from);
        let may_ring = known || self.config.who_may_ring == WhoMayRing::Anyone;
        if self.stopping || !may_ring || self.seen.contains(&from, id) {
            return;
        }
        if self.early_cancels.iter().any(|cancel| cancel.call == call && cancel.from == from) {
            return self.acknowledge(call, &from, Sealing::Envelope, id);
        }
        let glare = self.glare(&offer);
        if glare.is_some_and(|own| own < call) {
            // Ours wins: the other side finds that out by itself and comes over.
            self.remember_cancel(from.clone(), call, now);
            return self.acknowledge(call, &from, Sealing::Envelope, id);
        }
        let may_ring = self.has_room_to_ring(known) && (known || self.takes_stranger(now.mono));
        if glare.is_none() && !may_ring {
            return;
        }
        self.seen.insert(from.clone(), id, known);
        self.output(Output::Remember(from.clone(), id));
        self.ring(&from, id, offer, known, now);
        if let Some(own) = glare {
            self.supersede(own, call, now);
        } else if self.active_call().is_none() && self.accepts_unasked(call) {
            self.accept(call, now);
        }
    }

    /// The own unanswered offer to the same people, if there is one: both sides called each other.
    fn glare(&self, offer: &Offer) -> Option<CallId> {
        let theirs: BTreeSet<&Did> = offer.participants.iter().collect();
        self.calls.values().find_map(|call| {
            let unanswered = call.instance().is_some() && call.from == self.config.did && !call.met;
            let ours: BTreeSet<&Did> = call.members.keys().chain([&self.config.did]).collect();
            let same = ours == theirs && call.ticket.settings == offer.ticket.settings;
            (unanswered && same).then_some(call.ticket.call)
        })
    }

    fn has_room_to_ring(&self, known: bool) -> bool {
        let ringing = || self.calls.values().filter(|call| call.is_incoming());
        let strangers = ringing().filter(|call| !self.contacts.contains_key(&call.from)).count();
        ringing().count() < MAX_RINGING && (known || strangers < MAX_RINGING_STRANGERS)
    }

    /// Counts a stranger's ring, unless there were too many lately.
    fn takes_stranger(&mut self, now: Instant) -> bool {
        let paid = self.strangers_paid.map_or(now, |paid| paid.max(now));
        let may = paid.duration_since(now) <= STRANGERS_PAUSE * (STRANGERS_BURST - 1);
        if may {
            self.strangers_paid = Some(paid + STRANGERS_PAUSE);
        }
        may
    }

    fn ring(&mut self, from: &Did, id: MessageId, offer: Offer, known: bool, now: Now) {
        let call = offer.ticket.call;
        let ring_ms = offer.ring_ms.clamp(*RING_MS.start(), *RING_MS.end());
        let ring_until = now.mono + Duration::from_millis(u64::from(ring_ms));
        let members: BTreeSet<Did> =
            offer.participants.iter().filter(|did| **did != self.config.did).cloned().collect();
        self.add_call(offer.ticket, from.clone(), members, ring_until);
        self.acknowledge(call, from, Sealing::Envelope, id);
        self.post(call, from, Sealing::Envelope, Body::Ringing, Persistence::UntilAcked, now.mono);
        let event = Event::CallRang { call, from: from.clone(), participants: offer.participants, known };
        self.output(Output::Event(event));
    }

    /// Glare that the other side's call has won: no further key press, the user wanted this call.
    fn supersede(&mut self, own: CallId, winner: CallId, now: Now) {
        self.end_call_with(own, EndReason::Superseded, CancelReason::SupersededBy(winner), now.mono);
        self.accept(winner, now);
    }

    fn accepts_unasked(&self, call: CallId) -> bool {
        let Some(call) = self.calls.get(&call) else { return false };
        match self.config.auto_accept {
            AutoAccept::None => false,
            AutoAccept::Contacts => call.members.keys().all(|did| self.contacts.contains_key(did)),
            AutoAccept::All => true,
        }
    }

    fn handle_cancel(&mut self, from: &Did, id: MessageId, call: CallId, reason: CancelReason, now: Now) {
        let Some(known) = self.calls.get(&call) else {
            if self.contacts.contains_key(from) || self.config.who_may_ring == WhoMayRing::Anyone {
                self.remember_cancel(from.clone(), call, now);
                self.acknowledge(call, from, Sealing::Envelope, id);
            }
            return;
        };
        if &known.from != from {
            return;
        }
        self.acknowledge(call, from, Sealing::Envelope, id);
        let others = self.present(call).iter().any(|did| did != from);
        match self.calls[&call].phase {
            Phase::Joined { .. } if others => self.mark_out(call, from, None, now),
            Phase::Incoming { .. } | Phase::Joined { .. } => {
                let joined = self.calls[&call].instance().is_some();
                match reason {
                    CancelReason::RangOut if !joined => self.end_call(call, EndReason::Missed, now.mono),
                    CancelReason::Cancelled | CancelReason::RangOut => {
                        self.end_call(call, EndReason::Cancelled, now.mono);
                    }
                    CancelReason::SupersededBy(winner) => {
                        self.end_call(call, EndReason::Superseded, now.mono);
                        if joined && self.is_same_call(call, winner) {
                            self.accept(winner, now);
                        }
                    }
                }
            }
            Phase::Ended { .. } => {}
        }
    }

    /// Whether `winner`, which rings here, is what glare would have made of `loser`: whoever took that one wanted this
    /// one too. In a call with other people the user has to be asked.
    fn is_same_call(&self, loser: CallId, winner: CallId) -> bool {
        let (Some(lost), Some(won)) = (self.calls.get(&loser), self.calls.get(&winner)) else { return false };
        let same_people = lost.members.keys().eq(won.members.keys());
        won.is_incoming() && winner < loser && same_people && lost.ticket.settings == won.ticket.settings
    }

    fn remember_cancel(&mut self, from: Did, call: CallId, now: Now) {
        self.early_cancels.retain(|cancel| !(cancel.call == call && cancel.from == from));
        if self.early_cancels.len() >= MAX_EARLY_CANCELS {
            // Strangers push out each other's, and none of a contact's.
            let a_strangers = self.early_cancels.iter().position(|cancel| !self.contacts.contains_key(&cancel.from));
            match a_strangers {
                Some(at) => drop(self.early_cancels.remove(at)),
                None if self.contacts.contains_key(&from) => drop(self.early_cancels.pop_front()),
                None => return,
            }
        }
        self.early_cancels.push_back(EarlyCancel { from, call, until: now.mono + EARLY_CANCEL_KEPT });
    }

    fn handle_answered(&mut self, from: &Did, call: CallId, device: DeviceId, now: Now) {
        let rings = self.calls.get(&call).is_some_and(Call::is_incoming);
        if rings && from == &self.config.did && device != self.config.device {
            self.end_call(call, EndReason::AnsweredElsewhere, now.mono);
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
            return self.handle_own_presence(call, presence.instance, now);
        }
        let me = self.config.did.clone();
        let Some(known) = self.calls.get_mut(&call) else { return };
        if !known.members.contains_key(from) && known.members.len() + 1 >= MAX_PARTICIPANTS {
            return;
        }
        let member = known.members.entry(from.clone()).or_insert_with(Member::invited);
        if known.from == me && matches!(member.presence, Presence::Declined(_)) {
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

    /// Another device of this DID is in the call.
    fn handle_own_presence(&mut self, call: CallId, other: Instance, now: Now) {
        let Some(known) = self.calls.get(&call) else { return };
        let moved = match known.phase {
            Phase::Incoming { .. } => true,
            Phase::Joined { instance } => other > instance,
            Phase::Ended { .. } => false,
        };
        if moved && other.device != self.config.device {
            self.end_call(call, EndReason::AnsweredElsewhere, now.mono);
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
        match &mut member.presence {
            Presence::In(peer) if peer.instance == presence.instance => {
                peer.contact = presence.contact.or(peer.contact.take());
                self.heard_state(call, from, presence.state);
                return false;
            }
            Presence::In(peer) if peer.instance > presence.instance => return false,
            _ => {}
        }
        if let Phase::Ended { instance, .. } = phase {
            // It does not know that we are gone.
            let told = self.outbox.hurry(now.mono, |outgoing| {
                let leaves = matches!(outgoing.signal.body, Body::Leave(_));
                leaves && outgoing.signal.call == call && outgoing.to.as_ref() == Some(from)
            });
            if let Some(leave) = instance.filter(|_| !told).map(Body::Leave) {
                self.post(call, from, Sealing::Pairwise, leave, Persistence::UntilAcked, now.mono);
            }
            return false;
        }
        self.stop_leg(call, from, now.mono);
        let Some(known) = self.calls.get_mut(&call) else { return false };
        let Some(member) = known.members.get_mut(from) else { return false };
        member.presence = Presence::In(Box::new(Peer {
            instance: presence.instance,
            state: presence.state,
            contact: presence.contact,
            met_at: None,
            leg: None,
            setup: Setup::default(),
        }));
        self.outbox.drop_where(|outgoing| {
            let to_it = outgoing.signal.call == call && outgoing.to.as_ref() == Some(from);
            to_it && !matches!(outgoing.signal.body, Body::Join(_))
        });
        self.show_media(call, from);
        let joined = matches!(phase, Phase::Joined { .. });
        if joined {
            self.meet(call, from, now.mono);
        }
        joined
    }

    fn heard_state(&mut self, call: CallId, from: &Did, state: MediaState) {
        let member = self.calls.get_mut(&call).and_then(|call| call.members.get_mut(from));
        let Some(peer) = member.and_then(Member::peer_mut) else { return };
        if state.version > peer.state.version {
            peer.state = state;
            self.show_media(call, from);
        }
    }

    fn show_media(&mut self, call: CallId, did: &Did) {
        let Some(peer) = self.calls.get(&call).and_then(|call| call.members.get(did)?.peer()) else { return };
        let MediaState { version, muted, deafened, on_hold } = peer.state;
        if version > 0 {
            self.output(Output::Event(Event::ParticipantMedia { call, did: did.clone(), muted, deafened, on_hold }));
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
        let news = member.heard.insert(id);
        if sealing != Sealing::Broadcast {
            self.acknowledge(call, from, sealing, id);
        }
        if !news {
            return;
        }
        match (body, instance) {
            (Body::Ringing, _) => self.handle_ringing(call, from),
            (Body::Decline(decline), _) => self.handle_decline(call, from, decline),
            (Body::Leave(left), Some(_)) => self.mark_out(call, from, Some(left), now),
            (body, Some(instance)) if sealing == Sealing::Pairwise => {
                self.handle_pairwise(call, from, instance, body, now);
            }
            // Of a later version, or in a place where it means nothing.
            (_, Some(_) | None) => {}
        }
    }

    fn handle_ringing(&mut self, call: CallId, from: &Did) {
        let me = self.config.did.clone();
        let Some(known) = self.calls.get_mut(&call).filter(|call| call.from == me) else { return };
        if let Some(Member { presence: Presence::Invited { reached, rings }, .. }) = known.members.get_mut(from) {
            *reached = true;
            *rings = true;
        }
    }

    fn handle_decline(&mut self, call: CallId, from: &Did, decline: Decline) {
        let me = self.config.did.clone();
        let Some(known) = self.calls.get_mut(&call).filter(|call| call.from == me) else { return };
        let Some(member) = known.members.get_mut(from) else { return };
        if matches!(member.presence, Presence::Invited { .. }) {
            member.presence = Presence::Declined(decline);
            self.outbox.drop_where(|outgoing| outgoing.signal.call == call && outgoing.to.as_ref() == Some(from));
        }
    }

    fn handle_pairwise(&mut self, call: CallId, from: &Did, instance: Instance, body: Body, now: Now) {
        self.revive(call, from, instance, now);
        let member = self.calls.get_mut(&call).and_then(|call| call.members.get_mut(from));
        let Some(peer) = member.and_then(Member::peer_mut).filter(|peer| peer.instance == instance) else { return };
        peer.stamp_signalled(now.mono);
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
    fn revive(&mut self, call: CallId, from: &Did, instance: Instance, now: Now) {
        let member = self.calls.get(&call).and_then(|call| call.members.get(from));
        if let Some(Member { presence: Presence::Out { instance: lost, lost: true }, .. }) = member
            && *lost == instance
        {
            let presence = signal::Presence { instance, state: MediaState::default(), contact: None };
            self.heard_of(call, from, presence, now);
        }
    }

    /// A participant left (`instance`: its signed word for all stays up to that one).
    fn mark_out(&mut self, call: CallId, from: &Did, instance: Option<Instance>, now: Now) {
        let Some(member) = self.calls.get_mut(&call).and_then(|call| call.members.get_mut(from)) else { return };
        if matches!(member.presence, Presence::Declined(_)) {
            // It never was in, and its no stands.
            return;
        }
        let present = member.peer().map(|peer| peer.instance);
        let Some(instance) = instance.or(present) else { return };
        member.left = member.left.max(Some(instance));
        if present.is_some_and(|present| present > instance) {
            return;
        }
        self.stop_leg(call, from, now.mono);
        if let Some(member) = self.calls.get_mut(&call).and_then(|call| call.members.get_mut(from)) {
            member.presence = Presence::Out { instance, lost: false };
        }
        self.outbox.drop_where(|outgoing| outgoing.signal.call == call && outgoing.to.as_ref() == Some(from));
    }

    fn acknowledge(&mut self, call: CallId, to: &Did, sealing: Sealing, id: MessageId) {
        let ack = self.address(call, to, sealing, Body::Ack(id));
        self.effects.push_back(Effect::Send(Box::new(ack)));
    }
}
