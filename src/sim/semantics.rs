//! More of what people do with calls: hold and switch, invite, come back, refuse with a reason, use several devices,
//! block, want quiet. As in `scenarios`, each test is a sentence, in a quiet world.

use std::time::Duration;

use crate::{
    config::{AutoAccept, WhoMayRing},
    proto::{
        id::CallId,
        io::{
            CallState, EndReason, Event, Former, Input, ParticipantState, ParticipantView, Policy, Reply, Request,
            RequestError,
        },
        signal::{Body, CancelReason, Decline, DeclineReason, Settings},
    },
};

use super::{
    seal::Sealed,
    setup::Setup,
    stage::Stage,
    world::{Fate, NodeIx},
};

fn view(stage: &Stage, node: NodeIx, call: CallId, other: NodeIx) -> ParticipantView {
    let views = stage.world.nodes[node].node.calls();
    let view = views.iter().find(|view| view.call == call).expect("the call is there");
    view.participants.iter().find(|p| p.did == stage.world.dids[other]).expect("on the roster").clone()
}

fn set_policy(stage: &mut Stage, node: NodeIx, of: NodeIx, policy: Policy) {
    let did = stage.world.dids[of].clone();
    let mut contacts = stage.world.nodes[node].contacts.clone();
    contacts.iter_mut().filter(|(known, _)| *known == did).for_each(|(_, known)| *known = policy);
    assert_eq!(stage.ask(node, Request::SetContacts(contacts)), Ok(Reply::Done));
}

fn invite(stage: &mut Stage, node: NodeIx, call: CallId, whom: &[NodeIx]) -> Result<Reply, RequestError> {
    let invitees = whom.iter().map(|node| stage.world.dids[*node].clone()).collect();
    stage.ask(node, Request::Invite { call, invitees })
}

#[test]
fn a_call_on_hold_neither_captures_nor_ends_and_the_others_see_it() {
    let mut stage = Stage::of(3);
    let call = stage.call(0, &[1, 2]);
    assert_eq!(stage.ask(0, Request::Hold(call)), Ok(Reply::Done));
    assert_eq!(stage.ask(0, Request::Hold(call)), Ok(Reply::Done), "twice is once");
    assert!(!stage.world.nodes[0].plan.microphone && stage.world.nodes[0].plan.legs.is_empty());
    stage.until(1, "both see it", |stage| {
        [1, 2].iter().all(|node| stage.shown(*node, call, 0) == Some(ParticipantState::OnHold))
    });
    assert!(view(&stage, 1, call, 0).on_hold && !view(&stage, 1, call, 2).on_hold);
    stage.pass(Duration::from_secs(300));
    assert_eq!(stage.state(0, call), Some(CallState::OnHold));
    assert_eq!(stage.ask(0, Request::Resume(call)), Ok(Reply::Done));
    stage.until(1, "all hear each other again", |stage| stage.all_hear_each_other(&[0, 1, 2], call));
    assert_eq!(stage.ask(1, Request::Hold(CallId::from_bytes([7; 16]))), Err(RequestError::NoSuchCall));
}

#[test]
fn who_accepts_a_call_may_leave_the_former_one() {
    let mut stage = Stage::of(3);
    let first = stage.call(0, &[1]);
    let second = stage.offer(2, &[0]);
    stage.until(1, "it rings", |stage| stage.rings(0));
    assert_eq!(stage.ask(0, Request::Accept(second, Former::Leave)), Ok(Reply::Done));
    assert_eq!(stage.ended(0, first), Some(EndReason::HungUp));
    stage.until(2, "they hear each other", |stage| stage.all_hear_each_other(&[0, 2], second));
    stage.settles();
}

#[test]
fn two_calls_with_the_same_person_live_beside_each_other() {
    let mut stage = Stage::of(3);
    let group = stage.call(0, &[1, 2]);
    let aside = stage.call(0, &[1]);
    assert_eq!(stage.state(0, group), Some(CallState::OnHold));
    assert_eq!(stage.state(1, group), Some(CallState::OnHold));
    assert_eq!(stage.ask(0, Request::Hangup(aside)), Ok(Reply::Done));
    assert_eq!(stage.ask(0, Request::Resume(group)), Ok(Reply::Done));
    stage.until(15, "the side call is over", |stage| stage.state(1, aside).is_none());
    assert_eq!(stage.ask(1, Request::Resume(group)), Ok(Reply::Done));
    stage.until(2, "all hear each other again", |stage| stage.all_hear_each_other(&[0, 1, 2], group));
}

#[test]
fn who_is_invited_mid_call_meets_everybody_and_may_invite_further() {
    let mut stage = Stage::of(5);
    let call = stage.call(0, &[1, 2]);
    assert_eq!(invite(&mut stage, 1, call, &[3]), Ok(Reply::Done));
    stage.until(1, "it rings", |stage| stage.rings(3));
    stage.until(1, "the inviter knows", |stage| stage.shown(1, call, 3) == Some(ParticipantState::Ringing));
    assert_eq!(stage.shown(0, call, 3), None, "only the inviter knows");
    stage.accept(3, call);
    stage.until(3, "all four hear each other", |stage| stage.all_hear_each_other(&[0, 1, 2, 3], call));
    assert_eq!(invite(&mut stage, 3, call, &[4, 0]), Ok(Reply::Done), "who is in it is not asked again");
    stage.until(1, "it rings", |stage| stage.rings(4));
    stage.accept(4, call);
    stage.until(3, "all five hear each other", |stage| stage.all_hear_each_other(&[0, 1, 2, 3, 4], call));
    stage.settles();
}

#[test]
fn a_chain_of_invitations_ends_after_four_and_the_real_seal_agrees() {
    let setup = Setup { real_seal: true, ..Setup::calm(6) };
    let mut stage = Stage::with(setup);
    let call = stage.call(0, &[1]);
    for inviter in 1..=3 {
        assert_eq!(invite(&mut stage, inviter, call, &[inviter + 1]), Ok(Reply::Done));
        stage.until(1, "it rings", |stage| stage.rings(inviter + 1));
        stage.accept(inviter + 1, call);
        let all: Vec<NodeIx> = (0..=inviter + 1).collect();
        stage.until(5, "all hear each other", |stage| stage.all_hear_each_other(&all, call));
    }
    assert_eq!(invite(&mut stage, 4, call, &[5]), Err(RequestError::TooFar));
    assert_eq!(stage.ask(0, Request::Hangup(call)), Ok(Reply::Done));
    stage.until(2, "the creator is out", |stage| stage.shown(1, call, 0) == Some(ParticipantState::Left));
    assert_eq!(invite(&mut stage, 1, call, &[0]), Err(RequestError::InvitedYou), "it can join by itself");
}

#[test]
fn only_the_creator_invites_into_a_closed_call() {
    let mut stage = Stage::of(4);
    let invitees = vec![stage.world.dids[1].clone()];
    let settings = Settings { closed: true };
    let Ok(Reply::Offered(call)) = stage.ask(0, Request::Offer { invitees, settings }) else { panic!() };
    stage.until(1, "it rings", |stage| stage.rings(1));
    stage.accept(1, call);
    stage.until(3, "they hear each other", |stage| stage.all_hear_each_other(&[0, 1], call));
    assert_eq!(invite(&mut stage, 1, call, &[2]), Err(RequestError::Closed));
    assert_eq!(invite(&mut stage, 0, call, &[2]), Ok(Reply::Done));
    stage.until(1, "it rings", |stage| stage.rings(2));
    stage.accept(2, call);
    stage.until(3, "all hear each other", |stage| stage.all_hear_each_other(&[0, 1, 2], call));
}

#[test]
fn who_said_no_can_be_asked_again() {
    let mut stage = Stage::of(3);
    let call = stage.call(0, &[1]);
    assert_eq!(invite(&mut stage, 0, call, &[2]), Ok(Reply::Done));
    stage.until(1, "it rings", |stage| stage.rings(2));
    let decline = Decline { reason: DeclineReason::NotNow, text: "in ten minutes".parse().ok() };
    assert_eq!(stage.ask(2, Request::Reject(call, decline.clone())), Ok(Reply::Done));
    stage.until(1, "the inviter knows", |stage| stage.shown(0, call, 2) == Some(ParticipantState::Declined));
    assert_eq!(view(&stage, 0, call, 2).decline, Some(decline));
    assert_eq!(invite(&mut stage, 0, call, &[2]), Ok(Reply::Done));
    stage.until(1, "it rings again", |stage| stage.rings(2));
    stage.accept(2, call);
    stage.until(3, "all hear each other", |stage| stage.all_hear_each_other(&[0, 1, 2], call));
}

#[test]
fn who_refuses_one_and_accepts_another_is_met_by_both() {
    for real_seal in [false, true] {
        let mut stage = Stage::with(Setup { real_seal, ..Setup::calm(3) });
        let call = stage.call(0, &[1]);
        assert_eq!(invite(&mut stage, 0, call, &[2]), Ok(Reply::Done));
        stage.until(1, "it rings", |stage| stage.rings(2));
        assert_eq!(stage.ask(2, Request::Reject(call, DeclineReason::Declined.into())), Ok(Reply::Done));
        stage.until(1, "the inviter knows", |stage| stage.shown(0, call, 2) == Some(ParticipantState::Declined));
        assert_eq!(invite(&mut stage, 1, call, &[2]), Ok(Reply::Done));
        stage.until(2, "it rings again", |stage| stage.rings(2));
        stage.accept(2, call);
        stage.until(5, "all hear each other", |stage| stage.all_hear_each_other(&[0, 1, 2], call));
    }
}

#[test]
fn one_who_is_invited_by_two_rings_until_both_took_it_back() {
    let mut stage = Stage::of(4);
    let call = stage.call(0, &[1, 2]);
    assert_eq!(invite(&mut stage, 0, call, &[3]), Ok(Reply::Done));
    stage.until(1, "it rings", |stage| stage.rings(3));
    assert_eq!(invite(&mut stage, 1, call, &[3]), Ok(Reply::Done));
    stage.until(2, "the second inviter knows", |stage| stage.shown(1, call, 3) == Some(ParticipantState::Ringing));
    assert_eq!(stage.ask(0, Request::Hangup(call)), Ok(Reply::Done));
    stage.pass(Duration::from_secs(5));
    assert!(stage.rings(3), "one invitation still holds");
    assert_eq!(stage.ask(1, Request::Hangup(call)), Ok(Reply::Done));
    stage.until(5, "nothing rings", |stage| !stage.rings(3));
    assert_eq!(stage.ended(3, call), Some(EndReason::Cancelled));
}

#[test]
fn who_left_a_call_can_join_it_again_for_an_hour() {
    let mut stage = Stage::of(3);
    let call = stage.call(0, &[1, 2]);
    assert_eq!(stage.ask(1, Request::Hangup(call)), Ok(Reply::Done));
    stage.until(1, "the others know", |stage| stage.shown(0, call, 1) == Some(ParticipantState::Left));
    stage.pass(Duration::from_secs(3_000));
    assert_eq!(stage.world.nodes[1].node.past_calls().len(), 1);
    assert_eq!(stage.ask(1, Request::Join(call, Former::Hold)), Ok(Reply::Done));
    stage.until(3, "all hear each other again", |stage| stage.all_hear_each_other(&[0, 1, 2], call));
    assert_eq!(stage.ask(1, Request::Hangup(call)), Ok(Reply::Done));
    stage.pass(Duration::from_secs(3_601));
    assert_eq!(stage.ask(1, Request::Join(call, Former::Hold)), Err(RequestError::NotJoinable));
    assert!(stage.world.nodes[1].node.past_calls().is_empty() && stage.world.nodes[1].store.calls.is_empty());
}

#[test]
fn a_missed_call_can_be_joined_and_a_refused_one_cannot() {
    let mut stage = Stage::with(Setup { ring: Duration::from_secs(5), ..Setup::calm(4) });
    let call = stage.offer(0, &[1, 2, 3]);
    stage.until(1, "all ring", |stage| (1..4).all(|node| stage.rings(node)));
    stage.accept(3, call);
    assert_eq!(stage.ask(2, Request::Reject(call, DeclineReason::Declined.into())), Ok(Reply::Done));
    stage.pass(Duration::from_secs(20));
    assert_eq!(stage.ended(1, call), Some(EndReason::Missed));
    assert_eq!(stage.ask(2, Request::Join(call, Former::Hold)), Err(RequestError::NotJoinable));
    assert_eq!(stage.ask(1, Request::Join(call, Former::Hold)), Ok(Reply::Done));
    stage.until(3, "three hear each other", |stage| stage.all_hear_each_other(&[0, 1, 3], call));
}

#[test]
fn who_joins_a_call_that_is_over_everywhere_is_told_so() {
    let mut stage = Stage::of(2);
    let call = stage.call(0, &[1]);
    assert_eq!(stage.ask(0, Request::Hangup(call)), Ok(Reply::Done));
    stage.until(15, "nobody is in it", |stage| stage.state(1, call).is_none());
    stage.pass(Duration::from_secs(120));
    assert_eq!(stage.ask(0, Request::Join(call, Former::Hold)), Ok(Reply::Done));
    stage.until(31, "it gives up", |stage| stage.state(0, call).is_none());
    assert_eq!(stage.ended(0, call), Some(EndReason::Gone));
}

#[test]
fn a_daemon_that_is_killed_in_a_call_is_back_and_never_was_gone_for_the_others() {
    let mut stage = Stage::of(3);
    let call = stage.call(0, &[1, 2]);
    stage.world.kill(1);
    stage.pass(Duration::from_secs(1));
    assert!(stage.world.revive(1).is_ok());
    let not_gone = |stage: &Stage, node: NodeIx| {
        let shown = stage.shown(node, call, 1);
        matches!(shown, Some(ParticipantState::Joined | ParticipantState::Reconnecting))
    };
    stage.until(3, "all hear each other again", |stage| {
        assert!(not_gone(stage, 0) && not_gone(stage, 2), "{:?}", stage.shown(0, call, 1));
        stage.all_hear_each_other(&[0, 1, 2], call)
    });
    stage.settles();
}

#[test]
fn who_comes_back_to_a_call_that_is_over_can_be_called_at_once() {
    let mut stage = Stage::with(Setup { auto_accept: AutoAccept::All, ..Setup::calm(2) });
    let call = stage.offer(0, &[1]);
    stage.until(2, "they hear each other", |stage| stage.all_hear_each_other(&[0, 1], call));
    stage.world.kill(1);
    assert_eq!(stage.ask(0, Request::Hangup(call)), Ok(Reply::Done));
    stage.pass(Duration::from_secs(1));
    assert!(stage.world.revive(1).is_ok());
    let again = stage.offer(0, &[1]);
    stage.until(2, "they hear each other", |stage| stage.all_hear_each_other(&[0, 1], again));
    stage.until(31, "the former call is over", |stage| stage.ended(1, call) == Some(EndReason::Gone));
}

#[test]
fn a_call_on_hold_is_on_hold_after_a_crash() {
    let mut stage = Stage::of(3);
    let first = stage.call(0, &[1]);
    let second = stage.call(0, &[2]);
    stage.world.kill(0);
    assert!(stage.world.revive(0).is_ok());
    assert_eq!(stage.state(0, first), Some(CallState::OnHold));
    stage.until(3, "the second goes on", |stage| stage.all_hear_each_other(&[0, 2], second));
    stage.until(3, "the first waits", |stage| stage.shown(1, first, 0) == Some(ParticipantState::OnHold));
}

#[test]
fn a_daemon_that_is_killed_while_it_rings_rings_on() {
    let mut stage = Stage::of(2);
    let call = stage.offer(0, &[1]);
    stage.until(1, "it rings", |stage| stage.rings(1));
    stage.world.kill(1);
    stage.pass(Duration::from_secs(2));
    assert!(stage.world.revive(1).is_ok() && stage.rings(1));
    stage.accept(1, call);
    stage.until(3, "they hear each other", |stage| stage.all_hear_each_other(&[0, 1], call));
}

#[test]
fn a_caller_that_is_killed_while_it_rings_takes_nobody_by_surprise() {
    let mut stage = Stage::of(2);
    let call = stage.offer(0, &[1]);
    stage.until(1, "it rings", |stage| stage.rings(1));
    stage.world.kill(0);
    assert!(stage.world.revive(0).is_ok());
    stage.until(46, "nothing rings", |stage| !stage.rings(1));
    assert_eq!(stage.world.nodes[0].node.calls(), [], "nobody came: {:?}", stage.ended(0, call));
}

#[test]
fn a_machine_that_slept_is_back_in_its_call_when_it_wakes() {
    let mut stage = Stage::of(3);
    let call = stage.call(0, &[1, 2]);
    let before = stage.world.nodes[1].store.calls[&call].stay;
    stage.world.suspend(1, Duration::from_secs(90));
    stage.pass(Duration::from_secs(90));
    stage.until(5, "all hear each other again", |stage| stage.all_hear_each_other(&[0, 1, 2], call));
    assert!(stage.world.nodes[1].store.calls[&call].stay > before, "a stay of its own");
    stage.settles();
}

#[test]
fn what_rang_when_the_machine_fell_asleep_is_missed_when_it_wakes() {
    let mut stage = Stage::of(2);
    let call = stage.offer(0, &[1]);
    stage.until(1, "it rings", |stage| stage.rings(1));
    let woke = stage.world.input(1, Input::Woke(Duration::from_secs(60)));
    assert!(woke.is_ok() && !stage.rings(1));
    assert_eq!(stage.ended(1, call), Some(EndReason::Missed));
}

#[test]
fn an_allowed_contact_is_answered_without_a_key_press_and_a_call_with_others_is_not() {
    let mut stage = Stage::of(3);
    set_policy(&mut stage, 1, 0, Policy::Allow);
    let group = stage.offer(0, &[1, 2]);
    stage.until(1, "it rings", |stage| stage.rings(1) && stage.rings(2));
    assert_eq!(stage.ask(0, Request::Hangup(group)), Ok(Reply::Done));
    stage.until(1, "nothing rings", |stage| !stage.rings(1) && !stage.rings(2));
    let call = stage.offer(0, &[1]);
    stage.until(2, "they hear each other", |stage| stage.all_hear_each_other(&[0, 1], call));
}

#[test]
fn a_blocked_caller_sees_what_an_unanswered_stranger_sees() {
    let mut seen = Vec::new();
    for blocked in [false, true] {
        // With a stranger's envelopes: he is not among the contacts.
        let mut stage = Stage::with(Setup { ring: Duration::from_secs(5), ..Setup::calm(2) });
        if blocked {
            set_policy(&mut stage, 1, 0, Policy::Block);
        }
        let call = stage.offer(0, &[1]);
        stage.until(2, "ringing is shown", |stage| stage.shown(0, call, 1) == Some(ParticipantState::Ringing));
        assert_eq!(stage.rings(1), !blocked);
        stage.pass(Duration::from_secs(60));
        assert_eq!(stage.world.nodes[1].ended.contains_key(&call), !blocked, "nobody here is told");
        let ledger = stage.world.ledger.borrow();
        let heard = ledger.sealed.iter().filter(|sealed| sealed.from == stage.world.dids[1]);
        let kinds: std::collections::BTreeSet<String> =
            heard.map(|sealed| format!("{:?}", std::mem::discriminant(&sealed.outgoing.signal.body))).collect();
        seen.push((kinds, stage.ended(0, call)));
    }
    assert_eq!(seen[0], seen[1]);
    assert_eq!(seen[0].1, Some(EndReason::NoAnswer));
}

#[test]
fn a_call_in_which_a_blocked_one_invites_too_rings_for_the_others_invitation_alone() {
    for blocked_first in [false, true] {
        let mut stage = Stage::of(4);
        let call = stage.call(0, &[1, 2]);
        set_policy(&mut stage, 3, 0, Policy::Block);
        let (first, second) = if blocked_first { (0, 1) } else { (1, 0) };
        assert_eq!(invite(&mut stage, first, call, &[3]), Ok(Reply::Done));
        stage.pass(Duration::from_secs(1));
        assert_eq!(stage.rings(3), !blocked_first);
        assert_eq!(invite(&mut stage, second, call, &[3]), Ok(Reply::Done));
        stage.until(2, "it rings", |stage| stage.rings(3));
        assert_eq!(stage.ask(1, Request::Hangup(call)), Ok(Reply::Done));
        stage.until(5, "nothing rings", |stage| !stage.rings(3));
    }
}

#[test]
fn a_blocked_caller_hears_nothing_where_only_contacts_may_ring() {
    let mut stage =
        Stage::with(Setup { ring: Duration::from_secs(5), who_may_ring: WhoMayRing::Contacts, ..Setup::calm(2) });
    set_policy(&mut stage, 1, 0, Policy::Block);
    let call = stage.offer(0, &[1]);
    stage.pass(Duration::from_secs(20));
    assert_eq!(stage.ended(0, call), Some(EndReason::Unreachable));
}

#[test]
fn no_leg_is_made_to_somebody_who_is_blocked_and_the_others_go_on() {
    let mut stage = Stage::of(3);
    let call = stage.call(0, &[1, 2]);
    set_policy(&mut stage, 1, 2, Policy::Block);
    stage.pass(Duration::from_secs(60));
    assert!(stage.world.legs.of(1).all(|leg| leg.peer == 0));
    assert_eq!(stage.shown(1, call, 0), Some(ParticipantState::Joined));
    assert_eq!(stage.shown(1, call, 2), Some(ParticipantState::Left));
    assert_eq!(stage.ask(1, Request::Hangup(call)), Ok(Reply::Done));
    let invitees = vec![stage.world.dids[2].clone()];
    let offer = Request::Offer { invitees, settings: Settings::default() };
    assert_eq!(stage.ask(1, offer), Err(RequestError::Blocked));
}

#[test]
fn who_wants_no_calls_hears_none_and_contacts_are_told_so() {
    let mut stage = Stage::of(2);
    assert_eq!(stage.ask(1, Request::SetDoNotDisturb(true)), Ok(Reply::Done));
    let call = stage.offer(0, &[1]);
    stage.until(2, "the caller knows", |stage| stage.ended(0, call) == Some(EndReason::Declined));
    assert!(!stage.world.nodes[1].rang.contains_key(&call));
    assert_eq!(stage.ended(1, call), Some(EndReason::Silenced));
    assert_eq!(stage.world.nodes[1].node.past_calls().len(), 1, "it can be joined like a missed one");
    assert_eq!(stage.ask(1, Request::SetDoNotDisturb(false)), Ok(Reply::Done));
    stage.offer(0, &[1]);
    stage.until(1, "it rings", |stage| stage.rings(1));
}

#[test]
fn a_cancel_that_overtakes_its_offer_still_counts() {
    let mut stage = Stage::of(2);
    stage.censor(|_, sealed| match sealed.outgoing.signal.body {
        Body::Offer(_) => Fate::DelayMs(3_000),
        _ => Fate::Pass,
    });
    let call = stage.offer(0, &[1]);
    assert_eq!(stage.ask(0, Request::Hangup(call)), Ok(Reply::Done));
    stage.pass(Duration::from_secs(10));
    assert!(!stage.world.nodes[1].rang.contains_key(&call));
    let told = |body: &Body| matches!(body, Body::Cancel(CancelReason::Cancelled));
    assert!(stage.world.ledger.borrow().sealed.iter().any(|sealed| told(&sealed.outgoing.signal.body)));
}

#[test]
fn every_turn_of_a_call_is_told() {
    let mut stage = Stage::of(2);
    let call = stage.call(0, &[1]);
    for request in [Request::Hold(call), Request::Resume(call), Request::Mute(true), Request::SetDoNotDisturb(true)] {
        stage.world.events.clear();
        assert_eq!(stage.ask(0, request.clone()), Ok(Reply::Done));
        let told = stage.world.events.iter().any(|(node, event)| match (&request, event) {
            (Request::Hold(_), Event::CallHeld { call: of }) => *node == 0 && *of == call,
            (Request::Resume(_), Event::CallResumed { call: of }) => *node == 0 && *of == call,
            (Request::Mute(_), Event::MediaChanged { muted, .. }) => *node == 0 && *muted,
            (Request::SetDoNotDisturb(_), Event::DoNotDisturbChanged { on }) => *node == 0 && *on,
            _ => false,
        });
        assert!(told, "{request:?}");
    }
}

#[test]
fn who_was_blocked_for_a_while_is_met_again() {
    // The simulator's find: it counted as left for good.
    let mut stage = Stage::of(3);
    let call = stage.call(0, &[1, 2]);
    set_policy(&mut stage, 1, 2, Policy::Block);
    stage.pass(Duration::from_secs(60));
    assert_eq!(stage.shown(1, call, 2), Some(ParticipantState::Left));
    set_policy(&mut stage, 1, 2, Policy::Ask);
    stage.until(40, "all hear each other again", |stage| stage.all_hear_each_other(&[0, 1, 2], call));
}

#[test]
fn of_two_devices_that_accept_at_once_one_is_in_the_call() {
    // The last two nodes are one person's.
    let mut stage = Stage::with(Setup { owners: vec![0, 1, 1], ..Setup::calm(3) });
    let call = stage.offer(0, &[1]);
    stage.until(1, "both ring", |stage| stage.rings(1) && stage.rings(2));
    stage.accept(1, call);
    stage.accept(2, call);
    let inside =
        |stage: &Stage| [1, 2].into_iter().filter(|node| stage.state(*node, call).is_some()).collect::<Vec<_>>();
    stage.until(2, "one gives way", |stage| inside(stage).len() == 1);
    let stays = inside(&stage)[0];
    assert_eq!(stage.ended(3 - stays, call), Some(EndReason::AnsweredElsewhere));
    let connected = |stage: &Stage| {
        stage
            .world
            .legs
            .of(0)
            .any(|leg| stage.world.legs.connected(leg) && stage.world.legs.far_end(leg) == Some(stays))
    };
    stage.until(3, "the caller hears it", connected);
    stage.settles();
}

#[test]
fn a_caller_that_is_killed_before_its_offer_arrived_offers_again() {
    let mut stage = Stage::of(3);
    stage.lose(|body| matches!(body, Body::Offer(_)));
    let call = stage.offer(0, &[1, 2]);
    stage.pass(Duration::from_millis(500));
    stage.world.kill(0);
    stage.lose(|_| false);
    assert_eq!(stage.world.revive(0), Ok(()));
    stage.until(3, "both ring", |stage| stage.rings(1) && stage.rings(2));
    assert_eq!(stage.ask(2, Request::Reject(call, DeclineReason::Declined.into())), Ok(Reply::Done));
    stage.until(2, "the no is known", |stage| stage.shown(0, call, 2) == Some(ParticipantState::Declined));
    stage.world.kill(0);
    assert_eq!(stage.world.revive(0), Ok(()));
    stage.accept(1, call);
    stage.until(5, "they hear each other", |stage| stage.all_hear_each_other(&[0, 1], call));
    assert!(!stage.rings(2), "it said no");
}

#[test]
fn a_caller_that_is_killed_while_it_rings_knows_again_that_it_does() {
    let mut stage = Stage::of(2);
    let call = stage.offer(0, &[1]);
    stage.until(1, "the caller knows", |stage| stage.shown(0, call, 1) == Some(ParticipantState::Ringing));
    stage.world.kill(0);
    assert_eq!(stage.world.revive(0), Ok(()));
    stage.until(3, "it knows again", |stage| stage.shown(0, call, 1) == Some(ParticipantState::Ringing));
}

#[test]
fn a_laptop_that_wakes_up_leaves_the_call_to_the_phone_that_took_it() {
    for crashes in [false, true] {
        let mut stage = Stage::with(Setup { owners: vec![0, 1, 1], ..Setup::calm(3) });
        let call = stage.offer(0, &[1]);
        stage.until(1, "both ring", |stage| stage.rings(1) && stage.rings(2));
        stage.accept(1, call);
        stage.until(2, "the phone stops ringing", |stage| !stage.rings(2));
        stage.pass(Duration::from_secs(2));
        if crashes {
            stage.world.kill(1);
        } else {
            stage.world.suspend(1, Duration::from_secs(5));
        }
        stage.world.nodes[2].consent.insert(call);
        assert_eq!(stage.ask(2, Request::Join(call, Former::Hold)), Ok(Reply::Done));
        stage.pass(Duration::from_secs(5));
        if crashes {
            assert_eq!(stage.world.revive(1), Ok(()));
        }
        stage.until(5, "the laptop gives way", |stage| stage.ended(1, call) == Some(EndReason::AnsweredElsewhere));
        assert_eq!(stage.state(2, call), Some(CallState::Active));
        stage.until(5, "they hear each other", |stage| stage.shown(2, call, 0) == Some(ParticipantState::Joined));
        stage.settles();
    }
}

#[test]
fn who_leaves_and_comes_back_at_once_takes_no_invitation_back_any_more() {
    let mut stage = Stage::of(3);
    // So that the first never knows whether the second has its Join, and hears of it late.
    let slow = |delay_ms| {
        move |from: NodeIx, sealed: &Sealed| match sealed.outgoing.signal.body {
            Body::Ack(_) if from == 1 => Fate::Drop,
            _ if from == 1 => Fate::DelayMs(delay_ms),
            _ => Fate::Pass,
        }
    };
    stage.censor(slow(1));
    let call = stage.call(0, &[1, 2]);
    stage.censor(slow(4_000));
    assert_eq!(stage.ask(0, Request::Hangup(call)), Ok(Reply::Done));
    stage.pass(Duration::from_secs(1));
    assert_eq!(stage.ask(0, Request::Join(call, Former::Hold)), Ok(Reply::Done));
    let back = stage.world.ledger.borrow().sealed.len();
    stage.pass(Duration::from_secs(20));
    let ledger = stage.world.ledger.borrow();
    let cancels = |body: &Body| matches!(body, Body::Cancel(_));
    assert!(!ledger.sealed[back..].iter().any(|sealed| cancels(&sealed.outgoing.signal.body)));
    drop(ledger);
    assert!(stage.all_hear_each_other(&[0, 1, 2], call));
}

#[test]
fn who_comes_back_to_an_empty_call_can_ask_people_in_and_waits_for_them() {
    let mut stage = Stage::of(3);
    let call = stage.call(0, &[1, 2]);
    for node in 0..3 {
        assert_eq!(stage.ask(node, Request::Hangup(call)), Ok(Reply::Done));
    }
    stage.pass(Duration::from_secs(60));
    assert_eq!(stage.ask(0, Request::Join(call, Former::Hold)), Ok(Reply::Done));
    assert_eq!(invite(&mut stage, 0, call, &[2]), Ok(Reply::Done));
    stage.until(1, "it rings", |stage| stage.rings(2));
    stage.pass(Duration::from_secs(40));
    stage.accept(2, call);
    stage.until(3, "they hear each other", |stage| stage.all_hear_each_other(&[0, 2], call));
}

#[test]
fn whom_another_one_asked_and_gave_up_can_be_asked_at_once() {
    let mut stage = Stage::of(3);
    let call = stage.offer(0, &[1, 2]);
    stage.until(1, "both ring", |stage| stage.rings(1) && stage.rings(2));
    stage.accept(1, call);
    stage.until(3, "they hear each other", |stage| stage.all_hear_each_other(&[0, 1], call));
    assert_eq!(invite(&mut stage, 1, call, &[2]), Ok(Reply::Done));
    assert_eq!(stage.ask(0, Request::Hangup(call)), Ok(Reply::Done));
    stage.pass(Duration::from_secs(5));
    assert!(stage.rings(2), "the second invitation holds");
    stage.accept(2, call);
    stage.until(3, "they hear each other", |stage| stage.all_hear_each_other(&[1, 2], call));
}

#[test]
fn a_machine_that_slept_for_an_hour_can_join_nothing_of_before() {
    let mut stage = Stage::of(2);
    let call = stage.call(0, &[1]);
    assert_eq!(stage.ask(1, Request::Hangup(call)), Ok(Reply::Done));
    let woke = stage.world.input(1, Input::Woke(Duration::from_secs(3_601)));
    assert!(woke.is_ok() && stage.world.nodes[1].node.past_calls().is_empty());
    assert!(stage.world.nodes[1].store.calls.is_empty(), "its key is gone");
}
