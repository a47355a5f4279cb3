//! What outlives the daemon and the user's presence: calls that ring, that this device is in, that it left or missed;
//! and coming back to them, by the user's wish, after a crash, after the machine slept.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{Arrival, Engine, MAX_JOINED, MAX_PAST, MEET_PATIENCE};
use crate::proto::{
    call::{Call, Phase, Presence},
    id::{CallId, Did},
    io::{Asked, EndReason, Event, Former, JOINABLE, KeptCall, Now, Output, PastCall, Reply, RequestError, Standing},
    mutant::mutant,
    signal::Body,
};

/// What rings for less than this at a restart has rung out.
const LEAST_RING_MS: u64 = 1_000;

/// For clients; `None`: not over.
pub(super) fn past_view(kept: &KeptCall) -> Option<PastCall> {
    let Standing::Past(since_ms) = kept.standing else { return None };
    let participants = kept.members.keys().cloned().collect();
    Some(PastCall { call: kept.ticket.call, from: kept.from.clone(), participants, since_ms })
}

impl Engine {
    /// Writes down where the call stands, if it rings or this device is in it.
    pub(super) fn keep(&mut self, id: CallId, now: Now) {
        let Some(call) = self.calls.get(&id) else { return };
        let standing = match call.phase {
            Phase::Incoming { until, silent: false } => {
                let left = until.saturating_duration_since(now.mono);
                Standing::Ringing(now.unix_ms.saturating_add(ms(left)))
            }
            Phase::Joined { .. } if mutant!(NotWrittenDown) => return,
            Phase::Joined { .. } => Standing::In { on_hold: call.on_hold },
            Phase::Incoming { silent: true, .. } | Phase::Ended { .. } => return,
        };
        let kept = kept(call, standing, now);
        self.past.remove(&id);
        self.output(Output::Keep(Box::new(kept)));
    }

    /// The call ends here: it can be joined for a while, or there is nothing to come back to.
    pub(super) fn retire(&mut self, id: CallId, reason: EndReason, now: Now) {
        let Some(call) = self.calls.get(&id) else { return };
        if matches!(call.phase, Phase::Incoming { silent: true, .. }) {
            return;
        }
        let joinable = match reason {
            EndReason::Missed | EndReason::Silenced | EndReason::AnsweredElsewhere => true,
            EndReason::HungUp | EndReason::Stopped | EndReason::Gone | EndReason::Empty => {
                call.met || !call.is_offered_by(&self.config.did)
            }
            // The others may go on without who took the invitation back.
            EndReason::Cancelled => call.met || call.members.len() > 1,
            EndReason::Rejected
            | EndReason::Declined
            | EndReason::Busy
            | EndReason::NoAnswer
            | EndReason::Unreachable
            | EndReason::Superseded => false,
        };
        if joinable {
            let kept = kept(call, Standing::Past(now.unix_ms), now);
            self.remember_past(kept, now);
        } else {
            self.output(Output::Discard(id));
        }
    }

    fn remember_past(&mut self, kept: KeptCall, now: Now) {
        self.output(Output::Keep(Box::new(kept.clone())));
        self.insert_past(kept, now);
    }

    fn insert_past(&mut self, kept: KeptCall, now: Now) {
        let Standing::Past(since_ms) = kept.standing else { return };
        // A clock that was set back makes it no longer.
        let age = Duration::from_millis(now.unix_ms.saturating_sub(since_ms));
        let until = now.mono + JOINABLE.saturating_sub(age);
        self.past.insert(kept.ticket.call, (kept, until));
        // Strangers push out each other's, and none of a contact's.
        let rank = |(kept, until): &(KeptCall, Instant)| (self.is_known(&kept.from), *until);
        if self.past.len() > MAX_PAST
            && let Some(oldest) = self.past.iter().min_by_key(|(_, past)| rank(past)).map(|(id, _)| *id)
        {
            self.past.remove(&oldest);
            self.output(Output::Discard(oldest));
        }
    }

    /// Forgets what cannot be joined any more, its keys with it.
    pub(super) fn forget_past(&mut self, now: Instant) {
        let over: Vec<CallId> = self.past.iter().filter(|(_, (_, until))| *until <= now).map(|(id, _)| *id).collect();
        for id in over {
            self.past.remove(&id);
            self.output(Output::Discard(id));
        }
    }

    /// The user goes (back) to a call. One that rings is accepted, one on hold resumed.
    pub(super) fn join_request(&mut self, id: CallId, former: Former, now: Now) -> Result<(), RequestError> {
        match self.calls.get(&id).map(|call| call.phase) {
            Some(Phase::Incoming { silent: false, .. }) => return self.accept_request(id, former, now),
            Some(Phase::Joined { .. }) => return self.resume(id, former, now),
            Some(Phase::Incoming { silent: true, .. } | Phase::Ended { .. }) | None => {}
        }
        if self.stopping {
            return Err(RequestError::Stopping);
        }
        if self.past.get(&id).is_none_or(|(_, until)| *until <= now.mono) {
            return Err(RequestError::NotJoinable);
        }
        self.make_way(former, now)?;
        if let Some((kept, _)) = self.past.remove(&id) {
            self.come_back(kept, false, Arrival::Wanted, now);
        }
        Ok(())
    }

    /// A new stay in a call that may go on without this device. Who is in it answers the Join.
    fn come_back(&mut self, kept: KeptCall, on_hold: bool, arrival: Arrival, now: Now) {
        let (id, asked) = (kept.ticket.call, kept.asked.clone());
        let until = now.mono + MEET_PATIENCE;
        let here = kept.from == self.config.did;
        self.add_kept(kept, until);
        let Some(call) = self.calls.get_mut(&id) else { return };
        call.ring_until = until;
        call.rejoined = true;
        call.met = false;
        call.alone_since = None;
        for member in call.members.values_mut() {
            member.presence = Presence::Invited { reached: false, rings: false };
            member.invited_here = here;
            member.invited_until = until;
        }
        self.enter(id, on_hold, arrival, now);
        if arrival == Arrival::Restarted {
            self.ask_again(id, asked, now);
        }
        self.keep(id, now);
    }

    /// Adds the call with all that was written down of it but where it stands.
    fn add_kept(&mut self, kept: KeptCall, until: Instant) {
        let id = kept.ticket.call;
        self.add_call(kept.ticket, kept.from, kept.members.keys().cloned().collect(), until);
        let Some(call) = self.calls.get_mut(&id) else { return };
        call.stay = call.stay.max(kept.stay);
        for (did, contact) in kept.members {
            if let Some(member) = call.members.get_mut(&did) {
                member.contact = contact.or(member.contact.take());
            }
        }
    }

    /// Their invitations may never have arrived. They are the same ones: what was refused does not ring again.
    fn ask_again(&mut self, id: CallId, asked: BTreeMap<Did, Asked>, now: Now) {
        for (did, Asked { offer, until_ms }) in asked {
            let left_ms = until_ms.saturating_sub(now.unix_ms);
            if left_ms >= LEAST_RING_MS && !self.is_blocked(&did) {
                let until = now.mono + Duration::from_millis(left_ms).min(self.config.ring);
                self.expect_answer(id, &did, offer, until);
                self.send_offer(id, &did, now.mono);
            }
        }
    }

    /// The daemon starts with what it wrote down.
    pub(super) fn restore(&mut self, calls: Vec<KeptCall>, rejoin: bool, now: Now) -> Reply {
        for mut kept in calls {
            let (call, from) = (kept.ticket.call, kept.from.clone());
            // Whatever stands in the file: nobody is a participant beside oneself.
            kept.members.remove(&self.config.did);
            if self.calls.contains_key(&call) {
                continue;
            }
            match kept.standing {
                Standing::Ringing(until_ms) if until_ms >= now.unix_ms + LEAST_RING_MS => {
                    self.ring_again(kept, until_ms - now.unix_ms, now);
                }
                Standing::Ringing(until_ms) => {
                    kept.standing = Standing::Past(until_ms);
                    self.remember_past(kept, now);
                    self.output(Output::Event(Event::CallEnded { call, reason: EndReason::Missed }));
                }
                Standing::In { on_hold } if rejoin && self.joined() < MAX_JOINED => {
                    let on_hold = on_hold || self.active_call().is_some();
                    self.come_back(kept, on_hold, Arrival::Restarted, now);
                }
                Standing::In { .. } => {
                    kept.standing = Standing::Past(now.unix_ms);
                    self.remember_past(kept, now);
                    self.output(Output::Event(Event::CallInterrupted { call, from }));
                }
                Standing::Past(_) => self.insert_past(kept, now),
            }
        }
        Reply::Done
    }

    /// It rang when the daemon ended, and its time is not over.
    fn ring_again(&mut self, kept: KeptCall, left_ms: u64, now: Now) {
        let (call, from) = (kept.ticket.call, kept.from.clone());
        let longest = super::offers::longest_ring();
        let until = now.mono + Duration::from_millis(left_ms).min(longest);
        let participants = kept.members.keys().chain([&self.config.did]).cloned().collect();
        self.add_kept(kept, until);
        self.say_ringing(call, &from, now.mono);
        let known = self.is_known(&from);
        self.output(Output::Event(Event::CallRang { call, from, participants, known }));
    }

    /// The machine slept, and nobody counted: what should have rung out has, and every stay begins anew, since the others
    /// may have given this device up.
    pub(super) fn wake_up(&mut self, slept: Duration, now: Now) {
        let earlier = |at: &mut Instant| *at = at.checked_sub(slept).unwrap_or(now.mono);
        for call in self.calls.values_mut() {
            earlier(&mut call.ring_until);
            call.members.values_mut().for_each(|member| earlier(&mut member.invited_until));
            if let Phase::Incoming { until, .. } = &mut call.phase {
                earlier(until);
            }
        }
        self.past.values_mut().for_each(|(_, until)| earlier(until));
        let joined = self.calls.iter().filter(|(_, call)| call.instance().is_some()).map(|(id, _)| *id);
        for id in joined.collect::<Vec<_>>() {
            self.begin_anew(id, now);
        }
    }

    /// A new stay right after the former one: the same people, new legs.
    fn begin_anew(&mut self, id: CallId, now: Now) {
        let present = self.present(id);
        for did in &present {
            self.stop_leg(id, did, now.mono);
        }
        self.outbox
            .drop_where(|outgoing| outgoing.signal.call == id && !matches!(outgoing.signal.body, Body::Offer(_)));
        self.join(id, Arrival::Woken, now);
        self.announce(id, now.mono);
        if let Some(call) = self.calls.get_mut(&id) {
            // Another device that was in the call meanwhile has to hear of this stay, even if it has left.
            call.ring_until = call.ring_until.max(now.mono + MEET_PATIENCE);
            let stay = call.stay;
            self.tell_own_devices(id, Some(stay), now.mono);
        }
        for did in &present {
            if let Some(peer) = self.peer_mut(id, did) {
                peer.continues = true;
            }
            self.meet(id, did, now.mono);
        }
        self.keep(id, now);
    }
}

fn kept(call: &Call, standing: Standing, now: Now) -> KeptCall {
    let members = call.members.iter().map(|(did, member)| (did.clone(), member.contact.clone())).collect();
    let asked = call.members.iter().filter(|(_, member)| member.invited_here && member.is_invited());
    let until_ms = |until: Instant| now.unix_ms.saturating_add(ms(until.saturating_duration_since(now.mono)));
    let asked = asked.filter_map(|(did, member)| {
        Some((did.clone(), Asked { offer: member.offer?, until_ms: until_ms(member.invited_until) }))
    });
    let asked = asked.collect();
    KeptCall { ticket: call.ticket.clone(), from: call.from.clone(), members, asked, stay: call.stay, standing }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
