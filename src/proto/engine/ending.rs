//! The end of calls: who is told what, what is repeated for a while, when the last trace goes.

use std::{collections::BTreeSet, time::Instant};

use super::{Effect, Engine, LAST_WORDS, MAX_ENDED};
use crate::proto::{
    call::{Phase, Presence},
    id::{CallId, Did},
    io::{EndReason, Event, Now, Output},
    mutant::mutant,
    outbox::Persistence,
    signal::{Body, CancelReason, Sealing},
};

impl Engine {
    /// The call is over here: says what the others have to know, and closes its legs.
    pub(super) fn end_call(&mut self, id: CallId, reason: EndReason, now: Now) {
        let rang_out = matches!(reason, EndReason::NoAnswer | EndReason::Unreachable);
        let cancel = if rang_out { CancelReason::RangOut } else { CancelReason::Cancelled };
        self.end_call_with(id, reason, cancel, now);
    }

    /// As [`Self::end_call`]; `cancel` is what those hear who have not answered yet.
    pub(super) fn end_call_with(&mut self, id: CallId, reason: EndReason, cancel: CancelReason, now: Now) {
        let Some(call) = self.calls.get(&id).filter(|call| call.is_alive()) else { return };
        let (instance, ring_until) = (call.instance(), call.ring_until);
        let silent = matches!(call.phase, Phase::Incoming { silent: true, .. });
        let present = self.present(id);
        let invited = self.invited(id, now.mono);
        self.retire(id, reason, now);
        self.set_recording(id, false);
        // That this stay was taken is still to be heard by the other devices of the DID: one of them may be in a lower one.
        let elsewhere = reason == EndReason::AnsweredElsewhere;
        let moot = |body: &Body| elsewhere || !matches!(body, Body::Answered(_));
        self.outbox.drop_where(|outgoing| outgoing.signal.call == id && moot(&outgoing.signal.body));
        for did in &present {
            self.stop_leg(id, did, now.mono);
        }
        // Another device of this DID goes on: this one has not left for the others.
        let goes_on = reason == EndReason::AnsweredElsewhere && !mutant!(ElsewhereAloud);
        if let Some(instance) = instance.filter(|_| !goes_on) {
            self.broadcast(id, Body::Leave(instance));
            for did in &present {
                self.post(id, did, Sealing::Pairwise, Body::Leave(instance), Persistence::UntilAcked, now.mono);
            }
            for (did, persistence) in &invited {
                self.post(id, did, Sealing::Envelope, Body::Cancel(cancel), *persistence, now.mono);
            }
        }
        if let Some(call) = self.calls.get_mut(&id) {
            call.phase = Phase::Ended { instance, until: ring_until.max(now.mono + LAST_WORDS) };
        }
        if !silent {
            self.output(Output::Event(Event::CallEnded { call: id, reason }));
        }
        self.bound_ended();
    }

    /// Whom this device has invited and who may not know yet that it is in vain; each with how long to tell it.
    fn invited(&self, id: CallId, now: Instant) -> Vec<(Did, Persistence)> {
        let Some(call) = self.calls.get(&id) else { return Vec::new() };
        // Who has accepted a moment ago and lacks our Join can read no Leave of ours.
        let lacks_join = |did: &Did| {
            self.outbox.any(|outgoing| {
                let join = outgoing.signal.call == id && matches!(outgoing.signal.body, Body::Join(_));
                join && outgoing.to.as_ref() == Some(did)
            })
        };
        let by_me = call.members.iter().filter(|(_, member)| member.invited_here);
        let in_vain = by_me.filter(|(did, member)| match member.presence {
            Presence::Invited { .. } | Presence::Expired | Presence::Unreachable => true,
            Presence::In(_) => lacks_join(did),
            Presence::Declined(_) | Presence::Out { .. } => false,
        });
        let pending = in_vain.filter(|(_, member)| now < member.invited_until || !call.met);
        let told = pending.map(|(did, member)| {
            // Where an offer arrived late it rings longer than here.
            let until = member.invited_until;
            (did.clone(), if now < until { Persistence::Until(until) } else { Persistence::UntilAcked })
        });
        told.collect()
    }

    fn bound_ended(&mut self) {
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

    pub(super) fn forget_call(&mut self, id: CallId) {
        let Some(call) = self.calls.remove(&id) else { return };
        self.outbox.drop_where(|outgoing| outgoing.signal.call == id);
        for topic in call.topics {
            self.output(Output::Unsubscribe(topic));
        }
        self.effects.push_back(Effect::CloseCall(id));
        let calls = &self.calls;
        self.outbox.retain_round_trips(|did| calls.values().any(|call| call.members.contains_key(did)));
    }
}
