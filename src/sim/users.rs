//! Users who press anything at any time, also twice and also wrongly; and what each press must lead to.

use crate::proto::{
    id::{CallId, Did},
    io::{CallState, CallView, Former, PastCall, Policy, Request},
    signal::{Decline, DeclineReason, Settings},
};

use super::agenda::Chance;

/// What a user sees before pressing.
pub struct Sight<'a> {
    pub own: &'a Did,
    pub people: &'a [Did],
    pub contacts: &'a [(Did, Policy)],
    pub views: &'a [CallView],
    /// Calls that were left or missed.
    pub past: &'a [PastCall],
    /// All calls that ever were, anybody's.
    pub calls: &'a [CallId],
    /// There is a key to push.
    pub push_to_talk: bool,
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

    fn is_blocked(&self, did: &Did) -> bool {
        self.contacts.iter().any(|(contact, policy)| contact == did && *policy == Policy::Block)
    }

    pub fn verdict(&self, request: &Request) -> Verdict {
        let must = |done| if done { Verdict::Done } else { Verdict::Refused };
        let engaged = |call: &CallId| self.state(*call).is_some_and(|state| state != CallState::Incoming);
        match request {
            Request::Offer { invitees, .. } => {
                let fine = !invitees.is_empty() && !invitees.contains(self.own);
                let fine = fine && !invitees.iter().any(|did| self.is_blocked(did));
                if fine { self.room() } else { Verdict::Refused }
            }
            Request::Accept(call, _) => {
                let rings = self.state(*call) == Some(CallState::Incoming);
                if rings { self.room() } else { Verdict::Refused }
            }
            Request::Join(call, _) if engaged(call) => Verdict::Done,
            Request::Join(call, _) => {
                let rings = self.state(*call) == Some(CallState::Incoming);
                let known = rings || self.past.iter().any(|past| past.call == *call);
                if known { self.room() } else { Verdict::Refused }
            }
            Request::Reject(call, _) => must(self.state(*call) == Some(CallState::Incoming)),
            Request::Hangup(call) => must(self.state(*call).is_some()),
            Request::Hold(call) | Request::Resume(call) => must(engaged(call)),
            Request::Record { call, on: false } => must(engaged(call)),
            Request::Record { call, on: true } => {
                let recorded = self.views.iter().find(|view| view.recording).map(|view| view.call);
                let free = recorded.is_none() && self.state(*call) != Some(CallState::OnHold);
                must(engaged(call) && (free || recorded == Some(*call)))
            }
            Request::Invite { call, invitees } => {
                let fine = engaged(call) && !invitees.contains(self.own);
                let fine = fine && !invitees.iter().any(|did| self.is_blocked(did));
                // Chains and settings are not to be seen.
                if fine { Verdict::Either } else { Verdict::Refused }
            }
            Request::Talk(on) => {
                let in_call = self.views.iter().any(|view| view.state != CallState::Incoming);
                must(self.push_to_talk && (in_call || !on))
            }
            Request::Mute(_) | Request::Deafen(_) | Request::SetContacts(_) | Request::SetAddresses(_) => Verdict::Done,
            Request::SetDoNotDisturb(_) | Request::Restore { .. } => Verdict::Done,
            Request::Shutdown => Verdict::Either,
        }
    }
}

/// What this user presses now; `None`: nothing.
pub fn press(sight: &Sight<'_>, chance: &mut Chance) -> Option<Request> {
    if chance.percent(8) {
        return Some(press_wrongly(sight, chance));
    }
    if chance.percent(6) {
        return Some(change_mind(sight, chance));
    }
    let ringing = sight.calls_in(&[CallState::Incoming]);
    if !ringing.is_empty() && chance.percent(60) {
        let call = *chance.pick(&ringing);
        return Some(match chance.below(4) {
            0 => Request::Reject(call, no(chance)),
            1 => Request::Join(call, former(chance)),
            _ => Request::Accept(call, former(chance)),
        });
    }
    let engaged = sight.calls_in(&[CallState::Active, CallState::Outgoing, CallState::OnHold]);
    if !engaged.is_empty() && chance.percent(85) {
        return press_in_call(*chance.pick(&engaged), sight, chance);
    }
    match chance.below(10) {
        0..3 => Some(offer(sight, chance)),
        3 if !sight.past.is_empty() => Some(Request::Join(chance.pick(sight.past).call, former(chance))),
        _ => None,
    }
}

fn press_in_call(call: CallId, sight: &Sight<'_>, chance: &mut Chance) -> Option<Request> {
    match chance.below(14) {
        0 => Some(Request::Hangup(call)),
        1 | 2 => Some(Request::Mute(chance.percent(50))),
        3 => Some(Request::Deafen(chance.percent(50))),
        4 => Some(Request::Hold(call)),
        5 | 6 => Some(Request::Resume(call)),
        7 => {
            let invitees = some_people(sight, chance);
            Some(Request::Invite { call, invitees })
        }
        10 | 11 if sight.push_to_talk => Some(Request::Talk(chance.percent(60))),
        8 | 9 => Some(Request::Record { call, on: chance.percent(70) }),
        _ => None,
    }
}

fn former(chance: &mut Chance) -> Former {
    *chance.pick(&[Former::Hold, Former::Hold, Former::Leave])
}

fn no(chance: &mut Chance) -> Decline {
    let reason = *chance.pick(&[DeclineReason::Declined, DeclineReason::Busy, DeclineReason::NotNow]);
    let text = if chance.percent(30) { "in a meeting".parse().ok() } else { None };
    Decline { reason, text }
}

/// How calls are taken from now on.
fn change_mind(sight: &Sight<'_>, chance: &mut Chance) -> Request {
    if chance.percent(40) || sight.contacts.is_empty() {
        return Request::SetDoNotDisturb(chance.percent(40));
    }
    let mut contacts = sight.contacts.to_vec();
    let at = chance.below(contacts.len() as u64) as usize;
    if contacts[at].1 == Policy::Block {
        // Taking it back during a call is for scenarios: what was said in between may be lost.
        return Request::SetDoNotDisturb(false);
    }
    contacts[at].1 = *chance.pick(&[Policy::Ask, Policy::Ask, Policy::Allow, Policy::Block]);
    Request::SetContacts(contacts)
}

fn some_people(sight: &Sight<'_>, chance: &mut Chance) -> Vec<Did> {
    let mut others: Vec<Did> = sight.people.iter().filter(|did| *did != sight.own).cloned().collect();
    let most = if others.len() > 6 && chance.percent(50) { others.len() as u64 } else { 4 };
    let wanted = chance.between(1, most) as usize;
    while others.len() > wanted {
        others.swap_remove(chance.below(others.len() as u64) as usize);
    }
    others
}

fn offer(sight: &Sight<'_>, chance: &mut Chance) -> Request {
    let settings = Settings { closed: chance.percent(15) };
    Request::Offer { invitees: some_people(sight, chance), settings }
}

fn press_wrongly(sight: &Sight<'_>, chance: &mut Chance) -> Request {
    let never = CallId::from_bytes([0x8f; 16]);
    let call = if sight.calls.is_empty() { never } else { *chance.pick(sight.calls) };
    match chance.below(13) {
        11 => Request::Talk(true),
        0 => Request::Offer { invitees: Vec::new(), settings: Settings::default() },
        1 => Request::Offer { invitees: vec![sight.own.clone()], settings: Settings::default() },
        2 => Request::Accept(call, former(chance)),
        3 => Request::Reject(call, DeclineReason::Declined.into()),
        4 => Request::Hangup(call),
        5 => Request::Hangup(never),
        6 => Request::Join(call, former(chance)),
        7 => Request::Invite { call, invitees: some_people(sight, chance) },
        8 => Request::Hold(call),
        9 => Request::Resume(call),
        10 => Request::Record { call, on: chance.percent(80) },
        _ => offer(sight, chance),
    }
}
