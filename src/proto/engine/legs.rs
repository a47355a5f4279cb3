//! Legs: carries the decisions of [`super::super::leg`] out, and counts participants without network as left.

use std::time::Instant;

use super::{Connection, Engine};
use crate::proto::{
    call::{Member, Peer, Presence},
    id::{CallId, Did, LegId},
    io::{LegCommand, LegEvent, Output, Role},
    leg::{Action, Context, Leg},
    mutant::mutant,
    outbox::Persistence,
    signal::{Body, Sealing},
};

impl Engine {
    pub(super) fn handle_leg_event(&mut self, id: LegId, event: LegEvent, now: Instant) {
        let Some(did) = self.legs.get(&id).map(|leg| leg.to.clone()) else { return };
        if event == LegEvent::Closed {
            self.legs.remove(&id);
        }
        let owner = self.calls.iter_mut().find_map(|(call, known)| {
            let peer = known.members.get_mut(&did)?.peer_mut()?;
            let owns = peer.leg.as_ref()?.id() == Some(id);
            owns.then_some((*call, peer))
        });
        let Some((call, peer)) = owner else { return };
        peer.stamp(&event, now);
        self.drive_leg(call, &did, now, |leg, cx| leg.handle_event(id, event, cx));
    }

    /// Both are in the call: each tells the other, and the leg is made.
    pub(super) fn meet(&mut self, call: CallId, did: &Did, now: Instant) {
        let lower = (self.config.did < *did) ^ mutant!(HigherInitiates);
        let role = if lower { Role::Initiator } else { Role::Answerer };
        // In another call there may be a leg to the same person: that one is left alone.
        let in_the_way = |leg: &Connection| leg.to == *did && (leg.call == call || leg.closing);
        let former = self.legs.iter().filter(|(_, leg)| in_the_way(leg)).max_by_key(|(_, leg)| leg.call == call);
        let former = former.map(|(id, _)| *id).filter(|_| !mutant!(SecondLegEarly));
        let Some(known) = self.calls.get_mut(&call) else { return };
        known.met = true;
        let Some(member) = known.members.get_mut(did) else { return };
        let attempts = member.attempts;
        let Some(peer) = member.peer_mut() else { return };
        // Numbers of attempts grow as long as either side may remember them.
        let attempt = attempts.filter(|(of, _)| role == Role::Initiator || *of == peer.instance).map_or(0, |(_, n)| n);
        (peer.met_at, peer.knows_recording) = (Some(now), mutant!(RecordsWhoDoesNotKnow));
        peer.leg = Some(Leg::after(former, attempt, role, now));
        if !mutant!(NobodyAnswersJoin) {
            self.send_join(call, did, now);
        }
        let state = self.media_state(call);
        if state.recording {
            // The Join says so too, but whoever acknowledges that may be another device of the DID.
            self.post(call, did, Sealing::Pairwise, Body::State(state), Persistence::UntilAcked, now);
        }
        self.dial(call, did);
        self.drive_leg(call, did, now, Leg::advance);
    }

    /// Has its node dialled, if it said where that can be done.
    pub(super) fn dial(&mut self, call: CallId, did: &Did) {
        let contact = self.calls.get(&call).and_then(|call| call.members.get(did)?.contact.clone());
        if let Some(contact) = contact.filter(|_| !self.is_blocked(did)) {
            self.output(Output::Dial(did.clone(), contact));
        }
    }

    /// Lets the time pass for all legs of the call.
    pub(super) fn advance_legs(&mut self, call: CallId, now: Instant) {
        let reconnect = self.config.reconnect;
        let lost = |leg: &Leg| leg.down_since().is_some_and(|since| since + reconnect <= now);
        let is_due = |leg: &Leg| lost(leg) || leg.deadline().is_some_and(|at| at <= now);
        let Some(known) = self.calls.get(&call) else { return };
        let legs = known.members.iter().filter(|(_, member)| member.leg().is_some_and(is_due));
        let due: Vec<Did> = legs.map(|(did, _)| did.clone()).collect();
        for did in due {
            self.drive_leg(call, &did, now, Leg::advance);
            if self.calls.get(&call).and_then(|call| call.members.get(&did)?.leg()).is_some_and(lost) {
                self.count_as_left(call, &did, now);
            }
        }
    }

    pub(super) fn count_as_left(&mut self, call: CallId, did: &Did, now: Instant) {
        self.stop_leg(call, did, now);
        let member = self.calls.get_mut(&call).and_then(|call| call.members.get_mut(did));
        if let Some(member) = member
            && let Some((instance, state)) = member.peer().map(|peer| (peer.instance, peer.state))
        {
            member.presence = Presence::Out { instance, lost: Some(state) };
        }
        self.outbox.drop_where(|outgoing| outgoing.signal.call == call && outgoing.to.as_ref() == Some(did));
        // It may think the same of us: whoever gets through first is met again.
        self.send_join(call, did, now);
        self.outbox.be_patient(|outgoing| outgoing.signal.call == call && outgoing.to.as_ref() == Some(did));
    }

    /// Closes the leg; its connection stays known until it has reported `Closed`.
    pub(super) fn stop_leg(&mut self, call: CallId, did: &Did, now: Instant) {
        self.drive_leg(call, did, now, Leg::stop);
        let member = self.calls.get_mut(&call).and_then(|call| call.members.get_mut(did));
        if let Some(member) = member
            && let Some(peer) = member.peer_mut()
            && let Some(leg) = peer.leg.take()
        {
            member.attempts = Some((peer.instance, leg.attempt()));
        }
    }

    /// Asks a leg for its decision and carries it out.
    pub(super) fn drive_leg(
        &mut self,
        call: CallId,
        did: &Did,
        now: Instant,
        decide: impl FnOnce(&mut Leg, &mut Context<'_>),
    ) {
        let round_trip = self.outbox.round_trip(did);
        let Some(known) = self.calls.get_mut(&call) else { return };
        let Some(leg) = known.members.get_mut(did).and_then(Member::peer_mut).and_then(|peer| peer.leg.as_mut()) else {
            return;
        };
        let mut cx = Context { now, round_trip, last_leg: &mut self.last_leg, actions: Vec::new() };
        decide(leg, &mut cx);
        for action in cx.actions {
            match action {
                Action::Open(id, role) => {
                    self.legs.insert(id, Connection { call, to: did.clone(), closing: false });
                    self.output(Output::Leg(id, LegCommand::Open { call, peer: did.clone(), role }));
                }
                Action::Command(id, command) => {
                    if let Some(leg) = self.legs.get_mut(&id).filter(|_| command == LegCommand::Close) {
                        leg.closing = true;
                    }
                    self.output(Output::Leg(id, command));
                }
                Action::Send(body) => self.post(call, did, Sealing::Pairwise, body, Persistence::UntilAcked, now),
                Action::DropSignals => self.outbox.drop_where(|outgoing| {
                    let of_leg = matches!(outgoing.signal.body, Body::Sdp(_) | Body::Ice(_) | Body::Restart(_));
                    of_leg && outgoing.signal.call == call && outgoing.to.as_ref() == Some(did)
                }),
            }
        }
    }

    pub(super) fn peer_mut(&mut self, call: CallId, did: &Did) -> Option<&mut Peer> {
        self.calls.get_mut(&call)?.members.get_mut(did)?.peer_mut()
    }
}
