//! Invitations from others: whose rings, whose only seems to, what takes them back, and both calling each other at once.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use super::{
    Arrival, EARLY_CANCEL_KEPT, EarlyCancel, Effect, Engine, MAX_EARLY_CANCELS, MAX_JOINED, MAX_RINGING,
    MAX_RINGING_STRANGERS, MAX_STRANGERS, STRANGER_WINDOW, STRANGERS_BURST, STRANGERS_PAUSE,
};
use crate::{
    config::{AutoAccept, WhoMayRing},
    proto::{
        call::{Call, Phase},
        id::{CallId, DeviceId, Did, Instance, MessageId},
        io::{EndReason, Event, Former, Now, Output, Policy},
        mutant::mutant,
        outbox::Persistence,
        signal::{Answered, Body, CancelReason, DeclineReason, MAX_PARTICIPANTS, Offer, Sealing},
    },
};

/// What an offer may ask for: shorter rings nobody, longer is a nuisance.
const RING_MS: std::ops::RangeInclusive<u32> = 1_000..=120_000;

pub(super) fn longest_ring() -> Duration {
    Duration::from_millis(u64::from(*RING_MS.end()))
}

/// Until when an offer rings that arrived just now.
fn ring_until(offer: &Offer, now: Now) -> Instant {
    let ring_ms = offer.ring_ms.clamp(*RING_MS.start(), *RING_MS.end());
    now.mono + Duration::from_millis(u64::from(ring_ms))
}

/// How an offer is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Welcome {
    /// It rings, or is accepted where that was agreed to beforehand.
    Ring,
    /// The caller sees what an unanswered caller sees, and nobody here is told.
    Pretend,
    /// The user wants to hear no calls, or none of this stranger now. A contact is told so, a stranger sees an unanswered call.
    Silence,
}

impl Engine {
    pub(super) fn handle_offer(&mut self, from: Did, id: MessageId, offer: Offer, now: Now) {
        let call = offer.ticket.call;
        let may_ring = self.is_known(&from) || self.config.who_may_ring == WhoMayRing::Anyone;
        if self.stopping || !may_ring {
            return;
        }
        let seen = self.seen.contains(&from, id) && !mutant!(NoSeenSet);
        // What only seems to ring for one caller may ring for another.
        let pretended = |known: &Call| matches!(known.phase, Phase::Incoming { silent: true, .. });
        if let Some(known) = self.calls.get(&call)
            && (seen || (known.is_alive() && (known.is_inviter(&from) || !pretended(known))))
        {
            return self.handle_further_offer(&from, id, &offer, now);
        }
        if seen {
            return;
        }
        let me = &self.config.did;
        if self.early_cancels.iter().any(|cancel| cancel.call == call && (cancel.from == from || cancel.from == *me)) {
            return self.acknowledge(call, &from, Sealing::Envelope, id);
        }
        let glare = self.glare(&offer).filter(|_| !self.is_blocked(&from));
        let wins = |own: CallId| ((own < call) ^ mutant!(GlareHigherWins)) || mutant!(GlareBothWin);
        if glare.is_some_and(wins) {
            // Ours wins: the other side finds that out by itself and comes over.
            self.remember_cancel(from.clone(), call, now);
            return self.acknowledge(call, &from, Sealing::Envelope, id);
        }
        let known = self.is_known(&from);
        if glare.is_none() && !(self.has_room_to_ring(known) && (known || self.takes_stranger(now.mono))) {
            return;
        }
        self.remember_offer(&from, id);
        let welcome = if glare.is_some() { Welcome::Ring } else { self.welcome(&from, now.mono) };
        self.ring(&from, id, offer, welcome, now);
        if let Some(own) = glare {
            self.supersede(own, call, now);
        } else if welcome == Welcome::Ring
            && self.is_free()
            && self.accepts_unasked(call)
            && self.make_way(Former::Hold, now).is_ok()
        {
            self.enter(call, false, Arrival::Wanted, now);
        }
    }

    /// No call is active, but for one that this device came back to and in which it has met nobody: it may be over.
    fn is_free(&self) -> bool {
        let active = self.active_call().and_then(|id| self.calls.get(&id));
        active.is_none_or(|call| call.rejoined && !call.met)
    }

    /// Before anything rings, and so that a repetition never rings again.
    fn remember_offer(&mut self, from: &Did, id: MessageId) {
        self.seen.insert(from.clone(), id, self.is_known(from));
        self.output(Output::Remember(from.clone(), id));
    }

    /// An offer of a call that is known here: the same one again, or somebody else's invitation to it.
    fn handle_further_offer(&mut self, from: &Did, id: MessageId, offer: &Offer, now: Now) {
        let call = offer.ticket.call;
        let news = !self.seen.contains(from, id);
        if news {
            self.remember_offer(from, id);
        }
        self.acknowledge(call, from, Sealing::Envelope, id);
        let (blocked, known_inviter) = (self.is_blocked(from), self.is_known(from));
        let Some(known) = self.calls.get_mut(&call) else { return };
        let taken_back = self.early_cancels.iter().any(|cancel| cancel.call == call && cancel.from == *from);
        let further = !known.is_inviter(from) && *from != self.config.did && !taken_back;
        if further && !blocked && known.also_from.len() < MAX_PARTICIPANTS {
            known.also_from.insert(from.clone());
            // A stranger's rings no longer for it: who offers and cancels in turn would ring for ever.
            if let Phase::Incoming { until, .. } = &mut known.phase
                && news
                && known_inviter
            {
                *until = (*until).max(ring_until(offer, now));
                known.ring_until = *until;
                self.keep(call, now);
            }
        }
        match self.calls.get(&call).map(|known| known.phase) {
            Some(Phase::Incoming { .. }) if news => self.say_ringing(call, from, now.mono),
            Some(Phase::Joined { .. }) if news => self.send_join(call, from, now.mono),
            Some(Phase::Incoming { .. } | Phase::Joined { .. } | Phase::Ended { .. }) | None => {}
        }
    }

    /// Tells an inviter that it rings here, unless that is under way.
    pub(super) fn say_ringing(&mut self, call: CallId, to: &Did, now: Instant) {
        let under_way = self.outbox.any(|outgoing| {
            let ringing = outgoing.signal.call == call && outgoing.signal.body == Body::Ringing;
            ringing && outgoing.to.as_ref() == Some(to)
        });
        if !under_way {
            self.post(call, to, Sealing::Envelope, Body::Ringing, Persistence::UntilAcked, now);
        }
    }

    fn welcome(&mut self, from: &Did, now: Instant) -> Welcome {
        if self.is_blocked(from) {
            return Welcome::Pretend;
        }
        let quiet = self.do_not_disturb && !mutant!(QuietRings);
        let unasked = self.config.auto_accept == AutoAccept::All && !quiet;
        let welcome = if quiet { Welcome::Silence } else { Welcome::Ring };
        if unasked || self.is_known(from) { welcome } else { self.welcome_stranger(from, welcome, now) }
    }

    /// A stranger is welcome once in [`STRANGER_WINDOW`]; the user is told once that it called without ringing.
    fn welcome_stranger(&mut self, stranger: &Did, welcome: Welcome, now: Instant) -> Welcome {
        self.strangers.retain(|(_, rang, _)| now < *rang + STRANGER_WINDOW);
        let lately = self.strangers.iter_mut().find(|(did, ..)| did == stranger && !mutant!(StrangersRingOn));
        if let Some((.., told)) = lately {
            return if std::mem::replace(told, true) { Welcome::Pretend } else { Welcome::Silence };
        }
        if self.strangers.len() >= MAX_STRANGERS {
            self.strangers.pop_front();
        }
        self.strangers.push_back((stranger.clone(), now, welcome == Welcome::Silence));
        welcome
    }

    /// The own unanswered offer to the same people, if there is one: both sides called each other.
    fn glare(&self, offer: &Offer) -> Option<CallId> {
        let theirs: BTreeSet<&Did> = offer.participants.iter().collect();
        self.calls.values().find_map(|call| {
            let unanswered = call.instance().is_some() && call.is_offered_by(&self.config.did) && !call.met;
            let ours: BTreeSet<&Did> = call.members.keys().chain([&self.config.did]).collect();
            let same = ours == theirs && call.ticket.settings == offer.ticket.settings;
            (unanswered && same).then_some(call.ticket.call)
        })
    }

    fn has_room_to_ring(&self, known: bool) -> bool {
        let ringing = || self.calls.values().filter(|call| matches!(call.phase, Phase::Incoming { .. }));
        let strangers = ringing().filter(|call| !self.is_known(&call.from)).count();
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

    fn ring(&mut self, from: &Did, id: MessageId, offer: Offer, welcome: Welcome, now: Now) {
        let call = offer.ticket.call;
        let known = self.is_known(from);
        let ring_until = ring_until(&offer, now);
        let me = &self.config.did;
        let members: BTreeSet<Did> = offer.participants.iter().filter(|did| *did != me).cloned().collect();
        self.add_call(offer.ticket, from.clone(), members, ring_until);
        self.acknowledge(call, from, Sealing::Envelope, id);
        let refused = welcome == Welcome::Silence && known;
        if !refused {
            self.say_ringing(call, from, now.mono);
        }
        let (from, participants) = (from.clone(), offer.participants);
        match welcome {
            Welcome::Ring => {
                self.output(Output::Event(Event::CallRang { call, from, participants, known }));
                self.keep(call, now);
            }
            Welcome::Pretend if mutant!(BlockedIsTold) => drop(self.reject(call, &DeclineReason::Declined.into(), now)),
            Welcome::Pretend => self.fall_silent(call),
            Welcome::Silence => {
                self.output(Output::Event(Event::CallSilenced { call, from: from.clone(), participants, known }));
                if refused {
                    self.end_call(call, EndReason::Silenced, now);
                    let no = Body::Decline(DeclineReason::DoNotDisturb.into());
                    self.post(call, &from, Sealing::Envelope, no, Persistence::UntilAcked, now.mono);
                    self.tell_own_devices(call, None, now.mono);
                } else {
                    self.fall_silent(call);
                }
            }
        }
    }

    /// For the caller it rings on.
    fn fall_silent(&mut self, call: CallId) {
        if let Some(Phase::Incoming { silent, .. }) = self.calls.get_mut(&call).map(|call| &mut call.phase) {
            *silent = true;
        }
    }

    /// Glare that the other side's call has won: no further key press, the user wanted this call.
    fn supersede(&mut self, own: CallId, winner: CallId, now: Now) {
        let on_hold = self.calls.get(&own).is_some_and(|call| call.on_hold);
        self.end_call_with(own, EndReason::Superseded, CancelReason::SupersededBy(winner), now);
        self.enter(winner, on_hold, Arrival::Wanted, now);
    }

    fn accepts_unasked(&self, call: CallId) -> bool {
        let Some(call) = self.calls.get(&call).filter(|_| self.joined() < MAX_JOINED) else { return false };
        let all_are = |fits: &dyn Fn(Policy) -> bool| call.members.keys().all(|did| self.policy(did).is_some_and(fits));
        match self.config.auto_accept {
            AutoAccept::All => true,
            AutoAccept::Contacts if all_are(&|policy| policy != Policy::Block) => true,
            AutoAccept::None | AutoAccept::Contacts => all_are(&|policy| policy == Policy::Allow),
        }
    }

    pub(super) fn handle_cancel(&mut self, from: &Did, id: MessageId, call: CallId, reason: CancelReason, now: Now) {
        let Some(known) = self.calls.get_mut(&call) else {
            if self.is_known(from) || self.config.who_may_ring == WhoMayRing::Anyone {
                // What can be joined was here already: it overtakes nothing, and a new invitation is to ring.
                if !self.past.contains_key(&call) {
                    self.remember_cancel(from.clone(), call, now);
                }
                self.acknowledge(call, from, Sealing::Envelope, id);
            }
            return;
        };
        if mutant!(CancelIgnored) {
            return;
        }
        if !known.is_inviter(from) {
            // Known through somebody else; it overtakes its sender's own offer.
            if known.instance().is_none() && !self.past.contains_key(&call) {
                self.remember_cancel(from.clone(), call, now);
            }
            return;
        }
        let still_invited = known.uninvite(from);
        let (phase, joined, on_hold) = (known.phase, known.instance().is_some(), known.on_hold);
        self.acknowledge(call, from, Sealing::Envelope, id);
        let others = self.present(call).iter().any(|did| did != from);
        match phase {
            // It rings on for whoever else invites.
            Phase::Incoming { .. } if still_invited => self.keep(call, now),
            // A Cancel names no stay: it may be late, and its sender here again.
            Phase::Joined { .. } if still_invited || others => {
                if self.peer_mut(call, from).is_some() {
                    self.count_as_left(call, from, now.mono);
                }
            }
            Phase::Incoming { .. } | Phase::Joined { .. } => match reason {
                CancelReason::RangOut if !joined => self.end_call(call, EndReason::Missed, now),
                CancelReason::Cancelled | CancelReason::RangOut => self.end_call(call, EndReason::Cancelled, now),
                CancelReason::SupersededBy(winner) => {
                    self.end_call(call, EndReason::Superseded, now);
                    if joined && self.is_same_call(call, winner) {
                        self.enter(winner, on_hold, Arrival::Wanted, now);
                    }
                }
            },
            Phase::Ended { .. } => {}
        }
    }

    /// Whether `winner`, which rings here, is what glare would have made of `loser`: whoever took that one wanted this
    /// one too. In a call with other people the user has to be asked.
    fn is_same_call(&self, loser: CallId, winner: CallId) -> bool {
        let (Some(lost), Some(won)) = (self.calls.get(&loser), self.calls.get(&winner)) else { return false };
        let same_people = lost.members.keys().eq(won.members.keys());
        won.rings() && winner < loser && same_people && lost.ticket.settings == won.ticket.settings
    }

    fn remember_cancel(&mut self, from: Did, call: CallId, now: Now) {
        if mutant!(EarlyCancelForgotten) {
            return;
        }
        self.early_cancels.retain(|cancel| !(cancel.call == call && cancel.from == from));
        if self.early_cancels.len() >= MAX_EARLY_CANCELS {
            // Strangers push out each other's, and none of a contact's.
            let a_strangers = self.early_cancels.iter().position(|cancel| !self.is_known(&cancel.from));
            match a_strangers {
                Some(at) => drop(self.early_cancels.remove(at)),
                None if self.is_known(&from) => drop(self.early_cancels.pop_front()),
                None => return,
            }
        }
        self.early_cancels.push_back(EarlyCancel { from, call, until: now.mono + EARLY_CANCEL_KEPT });
    }

    /// Another device of this DID took the call, or refused it.
    pub(super) fn handle_answered(&mut self, from: &Did, call: CallId, answered: Answered, now: Now) {
        if from != &self.config.did || answered.device == self.config.device || mutant!(DevicesApart) {
            return;
        }
        let past = || self.past.get(&call).map(|(kept, _)| kept.stay);
        let stay = self.calls.get(&call).map(|known| known.stay).or_else(past);
        if let Some(stay) = stay.filter(|stay| answered.joined.is_some_and(|number| number < *stay)) {
            // A later stay took the call from that one, and may have left it: the others do not listen to it any more.
            return self.show_stay(call, stay);
        }
        let Some(known) = self.calls.get_mut(&call) else {
            match self.past.get_mut(&call) {
                Some((kept, _)) => kept.stay = kept.stay.max(answered.joined.unwrap_or(0)),
                None => self.remember_cancel(from.clone(), call, now),
            }
            return;
        };
        known.stay = known.stay.max(answered.joined.unwrap_or(0));
        let over = match (known.phase, answered.joined) {
            (Phase::Incoming { .. }, _) => true,
            (Phase::Joined { instance }, Some(number)) => Instance { number, device: answered.device } > instance,
            // One accepted what the other refused at the same moment: whoever has met somebody stays.
            (Phase::Joined { .. }, None) => !known.met,
            (Phase::Ended { .. }, _) => false,
        };
        if over {
            self.end_call(call, EndReason::AnsweredElsewhere, now);
        }
    }

    /// Tells the other devices of the DID of the highest stay, once: who is in a lower one tells of it again. Whose it is was
    /// not written down; it is not to look higher than itself to that device.
    fn show_stay(&mut self, call: CallId, stay: u64) {
        let me = self.config.did.clone();
        let answered = Body::Answered(Answered { device: DeviceId::LOWEST, joined: Some(stay) });
        let outgoing = self.address(call, &me, Sealing::Envelope, answered);
        self.effects.push_back(Effect::Send(Box::new(outgoing)));
    }

    /// Another device of this DID shows its stay. The higher one stays in the call, the other goes without a word.
    pub(super) fn handle_own_presence(&mut self, call: CallId, id: Option<MessageId>, other: Instance, now: Now) {
        if other.device == self.config.device || mutant!(DevicesApart) {
            return;
        }
        let Some(known) = self.calls.get_mut(&call) else { return };
        known.stay = known.stay.max(other.number);
        let phase = known.phase;
        let me = self.config.did.clone();
        if let Phase::Ended { instance: Some(instance), .. } = phase
            && other < instance
        {
            // Not acknowledged: it comes again, and is answered again, until that device knows that it lost the call.
            let join = self.own_join(call, instance);
            let join = self.address(call, &me, Sealing::Envelope, join);
            return self.effects.push_back(Effect::Send(Box::new(join)));
        }
        if let Some(id) = id {
            self.acknowledge(call, &me, Sealing::Envelope, id);
        }
        match phase {
            Phase::Joined { instance } if other < instance => self.send_join(call, &me, now.mono),
            Phase::Incoming { .. } | Phase::Joined { .. } => {
                self.end_call(call, EndReason::AnsweredElsewhere, now);
            }
            Phase::Ended { .. } => {}
        }
    }

    pub(super) fn acknowledge(&mut self, call: CallId, to: &Did, sealing: Sealing, id: MessageId) {
        let ack = self.address(call, to, sealing, Body::Ack(id));
        self.effects.push_back(Effect::Send(Box::new(ack)));
    }

    /// Calls that this device is in, on hold or not.
    pub(super) fn joined(&self) -> usize {
        self.calls.values().filter(|call: &&Call| call.instance().is_some()).count()
    }
}
