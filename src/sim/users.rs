//! Users who press anything at any time, also twice and also wrongly; and what each press must lead to.

use crate::proto::{
    id::{CallId, Did},
    io::{CallState, CallView, Former, Request},
    signal::{DeclineReason, Settings},
};

use super::agenda::Chance;

/// What a user sees before pressing.
pub struct Sight<'a> {
    pub own: &'a Did,
    pub dids: &'a [Did],
    pub views: &'a [CallView],
    /// All calls that ever were, anybody's.
    pub calls: &'a [CallId],
}

/// What must become of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Done,
    Refused,
    /// The protocol leaves it open.
    Either,
}

impl Sight<'_> {
    fn state(&self, call: CallId) -> Option<CallState> {
        self.views.iter().find(|view| view.call == call).map(|view| view.state)
    }

    fn calls_in(&self, states: &[CallState]) -> Vec<CallId> {
        self.views.iter().filter(|view| states.contains(&view.state)).map(|view| view.call).collect()
    }

    /// There is room for one call more, unless very many are on hold.
    fn room(&self) -> Verdict {
        let engaged = self.calls_in(&[CallState::Active, CallState::Outgoing, CallState::OnHold]).len();
        if engaged < 8 { Verdict::Done } else { Verdict::Either }
    }

    pub fn verdict(&self, request: &Request) -> Verdict {
        let must = |done| if done { Verdict::Done } else { Verdict::Refused };
        match request {
            Request::Offer { invitees, .. } => {
                let fine = !invitees.is_empty() && !invitees.contains(self.own);
                if fine { self.room() } else { Verdict::Refused }
            }
            Request::Accept(call, _) => {
                let rings = self.state(*call) == Some(CallState::Incoming);
                if rings { self.room() } else { Verdict::Refused }
            }
            Request::Reject(call, _) => must(self.state(*call) == Some(CallState::Incoming)),
            Request::Hangup(call) => match self.state(*call) {
                Some(CallState::Active | CallState::OnHold | CallState::Outgoing | CallState::Incoming) => {
                    Verdict::Done
                }
                None => Verdict::Refused,
            },
            Request::Mute(_) | Request::Deafen(_) | Request::SetContacts(_) | Request::SetContact(_) => Verdict::Done,
            Request::Join(..)
            | Request::Invite { .. }
            | Request::Hold(_)
            | Request::Resume(_)
            | Request::SetDoNotDisturb(_)
            | Request::Restore { .. }
            | Request::Shutdown => Verdict::Either,
        }
    }
}

/// What this user presses now; `None`: nothing.
pub fn press(sight: &Sight<'_>, chance: &mut Chance) -> Option<Request> {
    if chance.percent(8) {
        return Some(press_wrongly(sight, chance));
    }
    let ringing = sight.calls_in(&[CallState::Incoming]);
    if !ringing.is_empty() && chance.percent(60) {
        let call = *chance.pick(&ringing);
        let reason = *chance.pick(&[DeclineReason::Declined, DeclineReason::Busy]);
        return Some(if chance.percent(75) {
            Request::Accept(call, Former::Hold)
        } else {
            Request::Reject(call, reason.into())
        });
    }
    match sight.calls_in(&[CallState::Active, CallState::Outgoing]).first() {
        Some(call) => match chance.below(10) {
            0 => Some(Request::Hangup(*call)),
            1 | 2 => Some(Request::Mute(chance.percent(50))),
            3 => Some(Request::Deafen(chance.percent(50))),
            _ => None,
        },
        None if chance.percent(30) => Some(offer(sight, chance)),
        None => None,
    }
}

fn offer(sight: &Sight<'_>, chance: &mut Chance) -> Request {
    let mut others: Vec<Did> = sight.dids.iter().filter(|did| *did != sight.own).cloned().collect();
    let wanted = chance.between(1, 4) as usize;
    while others.len() > wanted {
        others.swap_remove(chance.below(others.len() as u64) as usize);
    }
    Request::Offer { invitees: others, settings: Settings::default() }
}

fn press_wrongly(sight: &Sight<'_>, chance: &mut Chance) -> Request {
    let never = CallId::from_bytes([0x8f; 16]);
    let call = if sight.calls.is_empty() { never } else { *chance.pick(sight.calls) };
    match chance.below(7) {
        0 => Request::Offer { invitees: Vec::new(), settings: Settings::default() },
        1 => Request::Offer { invitees: vec![sight.own.clone()], settings: Settings::default() },
        2 => Request::Accept(call, Former::Hold),
        3 => Request::Reject(call, DeclineReason::Declined.into()),
        4 => Request::Hangup(call),
        5 => Request::Hangup(never),
        _ => offer(sight, chance),
    }
}
