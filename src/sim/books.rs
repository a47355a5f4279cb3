//! What a node tells its clients, entered into the world's books: consent, counts, and what must never be told.

use crate::{
    config::AutoAccept,
    proto::{
        id::{CallId, Did},
        io::{CallState, EndReason, Event, ParticipantState},
        signal::DeclineReason,
    },
};

use super::{
    coverage::Mark,
    oracle,
    world::{NodeIx, World},
};

/// The same stranger rings once in this time, unless a call was taken in between.
const STRANGER_WINDOW_US: u64 = 30_000_000;
/// Offers are taken from clocks that differ by 120 s, and may have been under way for some time.
const FAR_SKEW_MS: u64 = 150_000;
/// Longer than a message is ever under way.
const TRAVEL_US: u64 = 20_000_000;

impl World {
    /// Keeps the books.
    pub fn event(&mut self, ix: NodeIx, event: &Event) -> Result<(), String> {
        if self.trace.is_on() {
            self.events.push((ix, event.clone()));
        }
        if matches!(event, Event::CallOffered { .. } | Event::CallJoined { .. }) {
            self.nodes[ix].talks_until = None;
            if self.setup.automute {
                self.coverage.mark(Mark::BegunMuted);
                self.nodes[ix].mute = true;
            }
        }
        match event {
            Event::CallOffered { invitees, .. } => {
                self.coverage.mark(if invitees.len() > 1 { Mark::GroupOffer } else { Mark::Offer });
            }
            Event::CallRang { call, known, from, .. } => self.rang(ix, *call, from, *known)?,
            Event::CallJoined { call } => self.joined(ix, *call)?,
            Event::CallEnded { call, reason } => self.ended(ix, *call, *reason),
            Event::CallInvited { call, invitees } => {
                self.coverage.mark(Mark::Invited);
                self.nodes[ix].refused_by.retain(|(refused, did)| refused != call || !invitees.contains(did));
                // Who said no to one may say yes to another.
                for did in invitees {
                    self.asked_later.insert((*call, did.clone()));
                }
                // A new invitation rings anew.
                self.ledger.borrow_mut().police.invited_anew(*call, &self.dids[ix]);
                let invited = (0..self.nodes.len()).filter(|node| invitees.contains(&self.dids[*node]));
                invited.for_each(|node| *self.nodes[node].asked_anew.entry(*call).or_default() += 1);
            }
            Event::ParticipantChanged { state, .. } => match state {
                ParticipantState::Reconnecting => self.coverage.mark(Mark::Reconnecting),
                ParticipantState::OnHold => self.coverage.mark(Mark::ShownOnHold),
                ParticipantState::Invited | ParticipantState::Ringing | ParticipantState::Connecting => {}
                ParticipantState::Joined | ParticipantState::Declined | ParticipantState::Unreachable => {}
                ParticipantState::Expired | ParticipantState::Left => {}
            },
            Event::ParticipantDeclined { call, did, reason, .. } => {
                self.nodes[ix].refused_by.insert((*call, did.clone()));
                if *reason == DeclineReason::DoNotDisturb {
                    self.coverage.mark(Mark::ToldNotToDisturb);
                }
            }
            Event::ParticipantMedia { recording, .. } => {
                self.coverage.mark(if *recording { Mark::ShownRecording } else { Mark::MediaState });
            }
            Event::RecordingStarted { .. } => self.coverage.mark(Mark::Recorded),
            Event::CallHeld { call } => {
                self.coverage.mark(Mark::Held);
                if self.nodes[ix].records == Some(*call) {
                    self.coverage.mark(Mark::RecordingPaused);
                }
            }
            Event::CallResumed { .. } => self.coverage.mark(Mark::Resumed),
            Event::CallSilenced { from, .. } => {
                self.coverage.mark(Mark::Silenced);
                if self.nodes[ix].blocks(from) {
                    return Err("an event about a blocked caller".into());
                }
            }
            Event::NoConnection { .. } => self.nodes[ix].told_no_connection += 1,
            Event::MediaChanged { .. }
            | Event::CallInterrupted { .. }
            | Event::DoNotDisturbChanged { .. }
            | Event::TalkedWhileMuted
            | Event::ParticipantSpeaking { .. }
            | Event::RecordingEnded { .. }
            | Event::RecordingFailed { .. }
            | Event::AudioChanged { .. }
            | Event::ContactsChanged
            | Event::VolumeChanged { .. }
            | Event::EventsMarked { .. } => {}
        }
        Ok(())
    }

    fn rang(&mut self, ix: NodeIx, call: CallId, from: &Did, known: bool) -> Result<(), String> {
        let now_us = self.agenda.now_us;
        let (now, device) = (self.agenda.now(self.nodes[ix].clock), self.nodes[ix].device);
        let cancelled = self.ledger.borrow().police.was_cancelled(&self.dids[ix], device, call, from, now);
        let insiders = self.is_insiders(from);
        let node = &mut self.nodes[ix];
        *node.rang.entry(call).or_default() += 1;
        if !node.rang_by.insert((call, from.clone())) && !insiders {
            // Each later invitation may ring once more, and they may come all at once.
            let anew = node.asked_anew.entry(call).or_default();
            *anew = anew.checked_sub(1).ok_or_else(|| format!("{call} rang again"))?;
        }
        if node.restoring {
            return Ok(());
        }
        if std::mem::take(&mut node.remembered) == 0 {
            return Err("it rang before the seen-set was written".into());
        }
        // Who has known the call before may be invited to it anew. If that was taken back, too, the Cancel that overtook it
        // ended what was there (perhaps unheard), and comes again.
        let knew = node.ended.contains_key(&call) || node.forgot.contains_key(&call);
        if cancelled && !insiders && !knew {
            return Err("it rang although it was taken back".into());
        }
        if node.blocks(from) {
            return Err("a blocked caller rang".into());
        }
        // What is glare, or accepted by configuration, makes no sound.
        let aloud = node.node.calls().iter().any(|view| view.call == call && view.state == CallState::Incoming);
        if aloud && node.node.do_not_disturb() {
            return Err("it rang although the user wants to hear no calls".into());
        }
        let mut lately =
            || node.strangers.insert(from.clone(), now_us).is_some_and(|at| now_us < at + STRANGER_WINDOW_US);
        let asked = self.setup.auto_accept != AutoAccept::All;
        if asked && aloud && !known && lately() {
            return Err("the same stranger rang twice in half a minute".into());
        }
        let own_ms = node.clock.skew_ms;
        let callers = || (0..self.dids.len()).filter(|caller| self.dids[*caller] == *from);
        let far = |caller: NodeIx| self.nodes[caller].clock.skew_ms.abs_diff(own_ms) > FAR_SKEW_MS;
        if self.jumped_at_us.is_some_and(|at_us| at_us + TRAVEL_US < now_us) && callers().all(far) {
            return Err("an offer from another time rang".into());
        }
        self.coverage.mark(if known { Mark::Ring } else { Mark::StrangerRing });
        let elsewhere = |other: NodeIx| other != ix && self.dids[other] == self.dids[ix];
        if (0..self.nodes.len()).any(|other| elsewhere(other) && self.nodes[other].rang.contains_key(&call)) {
            self.coverage.mark(Mark::RangOnTwoDevices);
        }
        let called_back = |view: &crate::proto::io::CallView| {
            view.state == CallState::Outgoing && view.participants.iter().any(|other| other.did == *from)
        };
        if self.nodes[ix].node.calls().iter().any(called_back) {
            self.coverage.mark(Mark::CrossingOffer);
        }
        Ok(())
    }

    fn joined(&mut self, ix: NodeIx, call: CallId) -> Result<(), String> {
        self.nodes[ix].refused_by.retain(|(refused, _)| *refused != call);
        self.nodes[ix].strangers.clear();
        self.ledger.borrow_mut().police.speaks_again(&self.dids[ix], self.nodes[ix].device, call);
        if !self.nodes[ix].consent.contains(&call) {
            if std::mem::take(&mut self.nodes[ix].superseded) {
                self.coverage.mark(Mark::Glare);
            } else if oracle::consents_by_configuration(self, ix, call) {
                self.coverage.mark(Mark::AutoAccept);
            } else {
                return Err("joined without consent".into());
            }
            self.nodes[ix].consent.insert(call);
        }
        Ok(())
    }

    fn ended(&mut self, ix: NodeIx, call: CallId, reason: EndReason) {
        let node = &mut self.nodes[ix];
        let consented = node.consent.remove(&call);
        node.talks_until = node.talks_until.filter(|_| !node.consent.is_empty());
        node.superseded = reason == EndReason::Superseded && consented;
        node.ended.insert(call, reason);
        if reason == EndReason::AnsweredElsewhere {
            self.ledger.borrow_mut().police.went_elsewhere(&self.dids[ix], node.device, call);
        }
        let mark = match reason {
            EndReason::HungUp => Mark::Leave,
            EndReason::Rejected => Mark::Decline,
            EndReason::Cancelled => Mark::Cancel,
            EndReason::Missed => Mark::RingTimeout,
            EndReason::Declined | EndReason::Busy => Mark::Declined,
            EndReason::NoAnswer => Mark::NoAnswer,
            EndReason::Unreachable => Mark::Unreachable,
            EndReason::Gone => Mark::Gone,
            EndReason::Empty => Mark::Empty,
            EndReason::AnsweredElsewhere if consented => Mark::MovedElsewhere,
            EndReason::AnsweredElsewhere => Mark::AnsweredElsewhere,
            EndReason::Superseded => Mark::Superseded,
            EndReason::Silenced | EndReason::Stopped => return,
        };
        self.coverage.mark(mark);
    }
}
