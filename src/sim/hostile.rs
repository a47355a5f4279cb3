//! What insiders and strangers say to one engine, message by message: nothing grows, nobody is moved, others get through.
//!
//! The seal has let everything through that stands here: its senders are who they say, and may be in the call.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use crate::{
    config::{AutoAccept, WhoMayRing},
    proto::{
        engine::{Effect, Engine, EngineConfig},
        id::{CallId, DeviceId, Did, Instance, MessageId},
        io::{
            CallState, Event, Former, Input, KeptCall, LegCommand, LegEvent, Now, Output, ParticipantState, Policy,
            Reply, Request, Standing,
        },
        signal::{
            Body, CallKey, CancelReason, DeclineReason, Ice, Incoming, MediaState, Offer, Presence, Sdp, SdpKind,
            Sealing, Settings, Signal, Ticket,
        },
    },
};

use super::setup::person;

/// One engine, whose owner has the highest DID, and what it has done so far.
struct Victim {
    engine: Engine,
    me: Did,
    others: Vec<Did>,
    now: Now,
    messages: u128,
    rang: usize,
    silenced: usize,
    opened: BTreeSet<CallId>,
    legs_opened: usize,
    offers_sent: usize,
    media_told: usize,
    told_muted: bool,
}

impl Victim {
    /// The first of the others is its only contact.
    fn new(auto_accept: AutoAccept) -> Self {
        let mut dids: Vec<Did> = (0..6).map(|ix| person(ix).did.clone()).collect();
        dids.sort();
        let me = dids.pop().unwrap();
        let config = EngineConfig {
            did: me.clone(),
            device: DeviceId([1; 16]),
            ring: Duration::from_secs(45),
            grace: Duration::from_secs(10),
            reconnect: Duration::from_secs(45),
            auto_accept,
            who_may_ring: WhoMayRing::Anyone,
            push_to_talk: false,
            automute: false,
        };
        let engine = Engine::new(config, [7; 32], vec![(dids[0].clone(), Policy::Ask)], Vec::new());
        let now = Now { mono: Instant::now(), unix_ms: 1_800_000_000_000 };
        let mut victim = Self {
            engine,
            me,
            others: dids,
            now,
            messages: 0,
            rang: 0,
            silenced: 0,
            opened: BTreeSet::new(),
            legs_opened: 0,
            offers_sent: 0,
            media_told: 0,
            told_muted: false,
        };
        victim.drain();
        victim
    }

    /// Does what a shell would; every connection closes as soon as it is told to.
    fn drain(&mut self) {
        while let Some(effect) = self.engine.poll_effect() {
            match effect {
                Effect::OpenCall(ticket) => drop(self.opened.insert(ticket.call)),
                Effect::CloseCall(call) => drop(self.opened.remove(&call)),
                Effect::Send(outgoing) if matches!(outgoing.signal.body, Body::Offer(_)) => self.offers_sent += 1,
                Effect::Output(Output::Event(Event::CallRang { .. })) => self.rang += 1,
                Effect::Output(Output::Event(Event::ParticipantMedia { muted, .. })) => {
                    self.media_told += 1;
                    self.told_muted = muted;
                }
                Effect::Output(Output::Event(Event::CallSilenced { .. })) => self.silenced += 1,
                Effect::Output(Output::Leg(_, LegCommand::Open { .. })) => self.legs_opened += 1,
                Effect::Output(Output::Leg(id, LegCommand::Close)) => {
                    self.engine.handle_input(Input::Leg(id, LegEvent::Closed), self.now);
                }
                _ => {}
            }
        }
    }

    fn pass(&mut self, span: Duration) {
        let end = self.now.mono + span;
        while let Some(at) = self.engine.poll_timeout().filter(|at| *at <= end) {
            self.now.mono = self.now.mono.max(at);
            self.engine.handle_timeout(self.now);
            self.drain();
        }
        self.now.mono = end;
        self.now.unix_ms += span.as_millis() as u64;
    }

    fn ask(&mut self, request: Request) -> Reply {
        let reply = self.engine.handle_request(request, self.now).expect("it is done");
        self.drain();
        reply
    }

    fn hear(&mut self, from: &Did, instance: Option<Instance>, sealing: Sealing, call: CallId, body: Body) {
        self.messages += 1;
        let signal = Signal { id: MessageId(self.messages.to_be_bytes()), call, body };
        let incoming = Incoming { from: from.clone(), instance, sealing, signal };
        self.engine.handle_input(Input::Signal(incoming), self.now);
        self.drain();
    }

    fn hear_offer(&mut self, from: &Did, key: u16, others: &[Did]) -> CallId {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&key.to_be_bytes());
        let settings = Settings::default();
        let call = CallId::derive(from, &settings, &bytes);
        let ticket = Ticket { call, creator: from.clone(), settings, key: CallKey(bytes), chain: Vec::new() };
        let participants = [from, &self.me].into_iter().chain(others).cloned().collect();
        let offer = Body::Offer(Box::new(Offer { ticket, participants, ring_ms: 45_000 }));
        self.hear(from, None, Sealing::Envelope, call, offer);
        call
    }

    /// `from` invites into a call that is known here.
    fn hear_further_offer(&mut self, from: &Did, call: CallId) {
        let settings = Settings::default();
        let ticket = Ticket { call, creator: from.clone(), settings, key: CallKey([0; 32]), chain: Vec::new() };
        let participants = vec![from.clone(), self.me.clone()];
        let offer = Body::Offer(Box::new(Offer { ticket, participants, ring_ms: 45_000 }));
        self.hear(from, None, Sealing::Envelope, call, offer);
    }

    fn hear_join(&mut self, from: &Did, call: CallId, number: u64) -> Instance {
        let instance = Instance { number, device: DeviceId([9; 16]) };
        let join = Body::Join(Presence { instance, state: MediaState::default(), contact: None, granted_by: None });
        self.hear(from, Some(instance), Sealing::Envelope, call, join);
        instance
    }

    /// In a call with `from`, who has a leg to it.
    fn in_call_with(&mut self, from: &Did) -> (CallId, Instance) {
        let call = self.hear_offer(from, 1, &[]);
        self.ask(Request::Accept(call, Former::Hold));
        let instance = self.hear_join(from, call, 5);
        (call, instance)
    }

    fn state(&self, call: CallId) -> Option<CallState> {
        self.engine.calls().iter().find(|view| view.call == call).map(|view| view.state)
    }

    fn shown(&self, call: CallId, other: &Did) -> Option<ParticipantState> {
        let views = self.engine.calls();
        let view = views.iter().find(|view| view.call == call)?;
        view.participants.iter().find(|participant| participant.did == *other).map(|participant| participant.state)
    }

    /// How much it holds, roughly.
    fn size(&self) -> usize {
        format!("{:?}", self.engine).len()
    }
}

#[test]
fn a_cancel_moves_nobody_into_a_call_with_other_people() {
    let mut victim = Victim::new(AutoAccept::None);
    let (mallory, eve) = (victim.others[0].clone(), victim.others[2].clone());
    let (accepted, _) = victim.in_call_with(&mallory);
    let other = (2..100).find(|key| {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&u16::to_be_bytes(*key));
        CallId::derive(&mallory, &Settings::default(), &bytes) < accepted
    });
    let other = victim.hear_offer(&mallory, other.unwrap(), &[eve]);
    let cancel = Body::Cancel(CancelReason::SupersededBy(other));
    victim.hear(&mallory, None, Sealing::Envelope, accepted, cancel);
    assert_eq!(victim.state(accepted), None);
    assert_eq!(victim.state(other), Some(CallState::Incoming), "nobody has accepted that one");
}

#[test]
fn a_cancel_moves_nobody_into_a_call_that_does_not_win() {
    let mut victim = Victim::new(AutoAccept::None);
    let mallory = victim.others[0].clone();
    let (accepted, _) = victim.in_call_with(&mallory);
    let other = (2..100).find(|key| {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&u16::to_be_bytes(*key));
        CallId::derive(&mallory, &Settings::default(), &bytes) > accepted
    });
    let other = victim.hear_offer(&mallory, other.unwrap(), &[]);
    let cancel = Body::Cancel(CancelReason::SupersededBy(other));
    victim.hear(&mallory, None, Sealing::Envelope, accepted, cancel);
    assert_eq!(victim.state(other), Some(CallState::Incoming), "the lower id wins");
}

#[test]
fn candidates_of_attempts_that_never_come_are_bounded_even_when_there_are_none() {
    let mut victim = Victim::new(AutoAccept::None);
    let mallory = victim.others[1].clone();
    let (call, instance) = victim.in_call_with(&mallory);
    let empty = |attempt| Body::Ice(Ice { attempt, candidates: Vec::new() });
    for attempt in 1..300 {
        victim.hear(&mallory, Some(instance), Sealing::Pairwise, call, empty(attempt));
    }
    let before = victim.size();
    for attempt in 300..3_000 {
        victim.hear(&mallory, Some(instance), Sealing::Pairwise, call, empty(attempt));
    }
    let grown = victim.size().saturating_sub(before);
    assert!(grown < 2_000, "{grown} more");
}

#[test]
fn who_says_hello_again_and_again_to_one_who_left_keeps_nobody_from_calling() {
    let mut victim = Victim::new(AutoAccept::None);
    let (friend, mallory) = (victim.others[0].clone(), victim.others[1].clone());
    let (call, _) = victim.in_call_with(&mallory);
    victim.ask(Request::Hangup(call));
    for number in 6..700 {
        victim.hear_join(&mallory, call, number);
    }
    victim.ask(Request::Offer { invitees: vec![friend], settings: Settings::default() });
    assert_eq!(victim.offers_sent, 1, "the outbox has no room");
}

#[test]
fn calls_that_are_over_are_forgotten_when_they_are_too_many() {
    let mut victim = Victim::new(AutoAccept::All);
    let mallory = victim.others[1].clone();
    for key in 1..200 {
        victim.pass(Duration::from_secs(1));
        let call = victim.hear_offer(&mallory, key, &[]);
        victim.hear_join(&mallory, call, 5);
        victim.hear(&mallory, None, Sealing::Envelope, call, Body::Cancel(CancelReason::Cancelled));
    }
    // The seal holds 64 calls; no further one could be accepted.
    assert!(victim.opened.len() <= 32, "{} calls are open", victim.opened.len());
}

#[test]
fn a_stranger_who_offers_and_cancels_all_the_time_rings_once_in_a_window() {
    let mut victim = Victim::new(AutoAccept::None);
    let (friend, mallory) = (victim.others[0].clone(), victim.others[1].clone());
    for key in 1..590 {
        let call = victim.hear_offer(&mallory, key, &[]);
        victim.hear(&mallory, None, Sealing::Envelope, call, Body::Cancel(CancelReason::Cancelled));
        victim.pass(Duration::from_millis(50));
    }
    assert_eq!((victim.rang, victim.silenced), (1, 1), "in 29 s the user hears of it, and of its calling on, once");
    victim.hear_offer(&friend, 1, &[]);
    assert_eq!(victim.rang, 2, "a contact never waits for strangers");
}

#[test]
fn a_crowd_of_strangers_rings_now_and_then_and_keeps_no_contact_waiting() {
    let mut victim = Victim::new(AutoAccept::None);
    let friend = victim.others[0].clone();
    for number in 0..200u8 {
        let mallory = Did::from_key(ed25519_dalek::SigningKey::from_bytes(&[number; 32]).verifying_key());
        let call = victim.hear_offer(&mallory, 1, &[]);
        victim.hear(&mallory, None, Sealing::Envelope, call, Body::Cancel(CancelReason::Cancelled));
        victim.pass(Duration::from_millis(300));
    }
    assert!((4..40).contains(&victim.rang), "it rang {} times in a minute", victim.rang);
    let before = victim.rang;
    victim.hear_offer(&friend, 1, &[]);
    assert_eq!(victim.rang, before + 1, "a contact never waits for strangers");
}

#[test]
fn cancels_of_strangers_push_out_none_of_a_contact() {
    let mut victim = Victim::new(AutoAccept::None);
    let (friend, mallory) = (victim.others[0].clone(), victim.others[1].clone());
    let key = [[0, 3].as_slice(), &[0; 30]].concat().try_into().unwrap();
    let overtaken = CallId::derive(&friend, &Settings::default(), &key);
    victim.hear(&friend, None, Sealing::Envelope, overtaken, Body::Cancel(CancelReason::Cancelled));
    for number in 0..1_000_u128 {
        let call = CallId::from_bytes(number.to_be_bytes());
        victim.hear(&mallory, None, Sealing::Envelope, call, Body::Cancel(CancelReason::Cancelled));
    }
    assert_eq!(victim.hear_offer(&friend, 3, &[]), overtaken);
    assert_eq!(victim.rang, 0, "it was taken back before it came");
}

#[test]
fn an_initiator_that_offers_without_end_makes_a_few_connections_a_second() {
    let mut victim = Victim::new(AutoAccept::None);
    let mallory = victim.others[1].clone();
    let (call, instance) = victim.in_call_with(&mallory);
    for attempt in (1..2_000).chain([u32::MAX]) {
        let sdp = Sdp { attempt, kind: SdpKind::Offer, sdp: String::new(), fingerprint: [0; 32] };
        victim.hear(&mallory, Some(instance), Sealing::Pairwise, call, Body::Sdp(sdp));
        victim.pass(Duration::from_millis(5));
    }
    assert!((1..=60).contains(&victim.legs_opened), "{} connections in 10 s", victim.legs_opened);
}

#[test]
fn the_largest_numbers_break_nothing() {
    let mut victim = Victim::new(AutoAccept::None);
    let mallory = victim.others[1].clone();
    let (call, _) = victim.in_call_with(&mallory);
    let last = victim.hear_join(&mallory, call, u64::MAX);
    let pairwise = |victim: &mut Victim, body| victim.hear(&mallory, Some(last), Sealing::Pairwise, call, body);
    pairwise(
        &mut victim,
        Body::State(MediaState { version: u32::MAX, muted: true, deafened: true, ..MediaState::default() }),
    );
    pairwise(&mut victim, Body::Restart(u32::MAX));
    pairwise(&mut victim, Body::Unknown(u16::MAX));
    let sdp = Sdp { attempt: u32::MAX, kind: SdpKind::Offer, sdp: String::new(), fingerprint: [0; 32] };
    pairwise(&mut victim, Body::Sdp(sdp));
    pairwise(&mut victim, Body::Leave(last));
    victim.pass(Duration::from_secs(100));
    assert_eq!(victim.engine.calls().len(), 0);
}

#[test]
fn who_declined_comes_in_neither_by_a_join_nor_after_a_leave() {
    let mut victim = Victim::new(AutoAccept::None);
    let (friend, mallory) = (victim.others[0].clone(), victim.others[1].clone());
    let Reply::Offered(call) =
        victim.ask(Request::Offer { invitees: vec![friend, mallory.clone()], settings: Settings::default() })
    else {
        panic!("it is offered")
    };
    let no = Body::Decline(DeclineReason::Declined.into());
    victim.hear(&mallory, None, Sealing::Envelope, call, no);
    let first = victim.hear_join(&mallory, call, 5);
    victim.hear(&mallory, Some(first), Sealing::Broadcast, call, Body::Leave(first));
    victim.hear_join(&mallory, call, 6);
    let views = victim.engine.calls();
    let shown = views[0].participants.iter().find(|other| other.did == mallory).unwrap();
    assert_eq!(shown.state, ParticipantState::Declined);
    assert_eq!(victim.legs_opened, 0);
}

#[test]
fn a_leave_ends_the_stay_that_it_names_and_no_later_one() {
    let mut victim = Victim::new(AutoAccept::None);
    let friend = victim.others[0].clone();
    let (call, first) = victim.in_call_with(&friend);
    let second = victim.hear_join(&friend, call, 6);
    let state = |victim: &Victim| victim.engine.calls()[0].participants[0].state;
    victim.hear(&friend, Some(second), Sealing::Pairwise, call, Body::Leave(first));
    assert_eq!(state(&victim), ParticipantState::Connecting);
    victim.hear(&friend, Some(second), Sealing::Pairwise, call, Body::Leave(second));
    assert_eq!(state(&victim), ParticipantState::Left);
}

/// In a call with two, of whom the first invites.
fn in_call_with_two(victim: &mut Victim) -> (CallId, Did, Instance) {
    let (inviter, friend) = (victim.others[1].clone(), victim.others[0].clone());
    let call = victim.hear_offer(&inviter, 1, std::slice::from_ref(&friend));
    victim.ask(Request::Accept(call, Former::Hold));
    victim.hear_join(&friend, call, 5);
    let stay = victim.hear_join(&inviter, call, 5);
    (call, inviter, stay)
}

fn shown(victim: &Victim, did: &Did) -> (ParticipantState, bool) {
    let views = victim.engine.calls();
    let shown = views[0].participants.iter().find(|other| other.did == *did).expect("on the roster");
    (shown.state, shown.on_hold)
}

#[test]
fn a_cancel_that_comes_late_keeps_nobody_out() {
    // The simulator's find: it names no stay, and was taken as the last word of whichever was there.
    let mut victim = Victim::new(AutoAccept::None);
    let (call, inviter, _) = in_call_with_two(&mut victim);
    victim.hear(&inviter, None, Sealing::Envelope, call, Body::Cancel(CancelReason::Cancelled));
    assert_eq!(shown(&victim, &inviter).0, ParticipantState::Left);
    victim.hear_join(&inviter, call, 5);
    assert_eq!(shown(&victim, &inviter).0, ParticipantState::Connecting);
}

#[test]
fn who_is_heard_again_after_a_gap_has_the_call_still_on_hold() {
    // The simulator's find: it came back as if it had never put it on hold.
    let mut victim = Victim::new(AutoAccept::None);
    let (call, other, stay) = in_call_with_two(&mut victim);
    let held = MediaState { version: 1, on_hold: true, ..MediaState::default() };
    victim.hear(&other, Some(stay), Sealing::Pairwise, call, Body::State(held));
    victim.pass(Duration::from_secs(50));
    assert_eq!(shown(&victim, &other), (ParticipantState::Left, false));
    victim.hear(&other, Some(stay), Sealing::Pairwise, call, Body::Unknown(999));
    assert_eq!(shown(&victim, &other), (ParticipantState::Connecting, true));
}

#[test]
fn a_second_inviters_cancel_ends_no_call_that_another_invitation_holds() {
    let mut victim = Victim::new(AutoAccept::None);
    let (friend, mallory) = (victim.others[0].clone(), victim.others[1].clone());
    let taken_back = Body::Cancel(CancelReason::Cancelled);
    let invitees = vec![friend.clone(), mallory.clone()];
    let Reply::Offered(own) = victim.ask(Request::Offer { invitees, settings: Settings::default() }) else {
        panic!("it is offered")
    };
    victim.hear_further_offer(&mallory, own);
    victim.hear(&mallory, None, Sealing::Envelope, own, taken_back.clone());
    assert_eq!(victim.state(own), Some(CallState::Outgoing), "the friend may still accept");
    let accepted = victim.hear_offer(&friend, 1, &[]);
    victim.ask(Request::Accept(accepted, Former::Hold));
    victim.hear_further_offer(&mallory, accepted);
    victim.hear(&mallory, None, Sealing::Envelope, accepted, taken_back);
    assert_eq!(victim.state(accepted), Some(CallState::Active), "the friend's invitation holds");
}

#[test]
fn a_second_invitation_that_is_repeated_rings_no_more_once_the_call_was_refused() {
    let mut victim = Victim::new(AutoAccept::None);
    let (friend, other) = (victim.others[0].clone(), victim.others[1].clone());
    let call = victim.hear_offer(&friend, 1, std::slice::from_ref(&other));
    victim.hear_further_offer(&other, call);
    victim.ask(Request::Reject(call, DeclineReason::Declined.into()));
    victim.messages -= 1; // the same message again
    victim.hear_further_offer(&other, call);
    assert_eq!((victim.rang, victim.state(call)), (1, None));
}

#[test]
fn a_call_that_two_contacts_invite_to_rings_until_the_later_invitation_is_over() {
    let mut victim = Victim::new(AutoAccept::None);
    let (friend, other) = (victim.others[0].clone(), victim.others[1].clone());
    let known = [&friend, &other].map(|did| (did.clone(), Policy::Ask));
    victim.ask(Request::SetContacts(known.to_vec()));
    let call = victim.hear_offer(&friend, 1, std::slice::from_ref(&other));
    victim.pass(Duration::from_secs(30));
    victim.hear_further_offer(&other, call);
    victim.pass(Duration::from_secs(30));
    assert_eq!(victim.state(call), Some(CallState::Incoming));
    victim.pass(Duration::from_secs(16));
    assert_eq!((victim.rang, victim.state(call)), (1, None));
}

#[test]
fn a_blocked_insider_who_invites_without_end_keeps_nobody_from_calling() {
    let mut victim = Victim::new(AutoAccept::None);
    let (friend, mallory) = (victim.others[0].clone(), victim.others[1].clone());
    let known = vec![(friend.clone(), Policy::Ask), (mallory.clone(), Policy::Block)];
    victim.ask(Request::SetContacts(known));
    let call = victim.hear_offer(&friend, 1, std::slice::from_ref(&mallory));
    for _ in 0..700 {
        victim.hear_further_offer(&mallory, call);
    }
    victim.ask(Request::Offer { invitees: vec![friend], settings: Settings::default() });
    assert_eq!(victim.offers_sent, 1, "the outbox has no room");
}

#[test]
fn a_leave_that_comes_twice_takes_no_new_invitation_back() {
    let mut victim = Victim::new(AutoAccept::None);
    let (friend, other) = (victim.others[0].clone(), victim.others[1].clone());
    let (call, stay) = victim.in_call_with(&friend);
    let other_stay = victim.hear_join(&other, call, 5);
    victim.hear(&other, Some(other_stay), Sealing::Broadcast, call, Body::Leave(other_stay));
    victim.ask(Request::Invite { call, invitees: vec![other.clone()] });
    victim.hear(&other, Some(other_stay), Sealing::Pairwise, call, Body::Leave(other_stay));
    assert_eq!(victim.shown(call, &other), Some(ParticipantState::Invited));
    victim.hear(&friend, Some(stay), Sealing::Pairwise, call, Body::Leave(stay));
    assert_eq!(victim.shown(call, &friend), Some(ParticipantState::Left));
}

#[test]
fn who_took_an_invitation_back_and_speaks_on_is_still_there() {
    let mut victim = Victim::new(AutoAccept::None);
    let (friend, other) = (victim.others[0].clone(), victim.others[1].clone());
    let (call, _) = victim.in_call_with(&friend);
    victim.hear_join(&other, call, 5);
    victim.hear(&friend, None, Sealing::Envelope, call, Body::Cancel(CancelReason::Cancelled));
    assert_eq!(victim.shown(call, &friend), Some(ParticipantState::Left));
    victim.hear_join(&friend, call, 5);
    assert_eq!(victim.shown(call, &friend), Some(ParticipantState::Connecting), "a Cancel names no stay");
}

#[test]
fn a_cancel_that_goes_on_after_the_call_is_over_takes_no_later_invitation_back() {
    let mut victim = Victim::new(AutoAccept::None);
    let (friend, other) = (victim.others[0].clone(), victim.others[1].clone());
    let call = victim.hear_offer(&friend, 1, std::slice::from_ref(&other));
    for _ in 0..3 {
        victim.hear(&friend, None, Sealing::Envelope, call, Body::Cancel(CancelReason::Cancelled));
        victim.pass(Duration::from_secs(3));
    }
    assert_eq!(victim.hear_offer(&friend, 1, std::slice::from_ref(&other)), call);
    assert_eq!((victim.rang, victim.state(call)), (2, Some(CallState::Incoming)));
}

#[test]
fn a_blocked_one_who_calls_back_takes_over_no_call() {
    let mut victim = Victim::new(AutoAccept::None);
    let mallory = victim.others[1].clone();
    let Reply::Offered(own) =
        victim.ask(Request::Offer { invitees: vec![mallory.clone()], settings: Settings::default() })
    else {
        panic!("it is offered")
    };
    victim.ask(Request::SetContacts(vec![(mallory.clone(), Policy::Block)]));
    let lower = (2..2_000).find(|key: &u16| {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&key.to_be_bytes());
        CallId::derive(&mallory, &Settings::default(), &bytes) < own
    });
    let theirs = victim.hear_offer(&mallory, lower.unwrap(), &[]);
    assert_eq!((victim.state(own), victim.state(theirs)), (Some(CallState::Outgoing), None));
}

#[test]
fn a_call_whose_inviter_is_blocked_while_it_rings_rings_on_for_another_inviter() {
    let mut victim = Victim::new(AutoAccept::None);
    let (friend, mallory) = (victim.others[0].clone(), victim.others[1].clone());
    let call = victim.hear_offer(&mallory, 1, std::slice::from_ref(&friend));
    victim.hear_further_offer(&friend, call);
    let block = |did: &Did| (did.clone(), Policy::Block);
    victim.ask(Request::SetContacts(vec![block(&mallory)]));
    assert_eq!(victim.state(call), Some(CallState::Incoming));
    victim.ask(Request::SetContacts(vec![block(&mallory), block(&friend)]));
    assert_eq!(victim.state(call), None);
}

#[test]
fn a_stranger_who_calls_without_end_one_who_wants_no_calls_is_noted_once_in_a_window() {
    for auto_accept in [AutoAccept::None, AutoAccept::All] {
        let mut victim = Victim::new(auto_accept);
        let mallory = victim.others[1].clone();
        victim.ask(Request::SetDoNotDisturb(true));
        for key in 1..6 {
            let call = victim.hear_offer(&mallory, key, &[]);
            victim.hear(&mallory, None, Sealing::Envelope, call, Body::Cancel(CancelReason::Cancelled));
            victim.pass(Duration::from_secs(5));
        }
        assert_eq!(victim.silenced, 1, "in 25 s");
    }
}

#[test]
fn nobody_meets_oneself_in_a_call_whose_record_was_changed() {
    let mut victim = Victim::new(AutoAccept::None);
    let friend = victim.others[0].clone();
    let settings = Settings::default();
    let call = CallId::derive(&friend, &settings, &[0; 32]);
    let ticket = Ticket { call, creator: friend.clone(), settings, key: CallKey([0; 32]), chain: Vec::new() };
    let members = [(friend.clone(), None), (victim.me.clone(), None)].into();
    let standing = Standing::In { on_hold: false };
    let calls = vec![KeptCall { ticket, from: friend.clone(), members, asked: [].into(), stay: u64::MAX, standing }];
    victim.ask(Request::Restore { calls, rejoin: true });
    let others: Vec<Did> = victim.engine.calls()[0].participants.iter().map(|other| other.did.clone()).collect();
    assert_eq!(others, [friend]);
}

#[test]
fn a_participant_who_switches_its_microphone_all_the_time_is_told_of_once_a_second() {
    let mut victim = Victim::new(AutoAccept::None);
    let mallory = victim.others[1].clone();
    let (call, stay) = victim.in_call_with(&mallory);
    for version in 1..=1_001 {
        let state = MediaState { version, muted: version % 2 == 1, ..MediaState::default() };
        victim.hear(&mallory, Some(stay), Sealing::Pairwise, call, Body::State(state));
        victim.pass(Duration::from_millis(10));
    }
    assert!((5..=12).contains(&victim.media_told), "told {} times in 10 s", victim.media_told);
    victim.pass(Duration::from_secs(1));
    let views = victim.engine.calls();
    assert!(views[0].participants[0].muted && victim.told_muted, "the last word counts");
}
