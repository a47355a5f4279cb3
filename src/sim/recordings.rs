//! Recordings as the others in the call see them. As in `scenarios`, each test is a sentence, in a quiet world.

use std::time::Duration;

use crate::proto::{
    id::CallId,
    io::{Former, ParticipantState, Reply, Request, RequestError},
    signal::{Body, Topic},
};

use super::{
    seal::{Ledger, Sealed},
    stage::Stage,
    world::{Fate, NodeIx},
};

fn record(stage: &mut Stage, node: NodeIx, call: CallId, on: bool) -> Result<Reply, RequestError> {
    stage.ask(node, Request::Record { call, on })
}

/// Whether `node` shows that `other` records the call.
fn sees(stage: &Stage, node: NodeIx, call: CallId, other: NodeIx) -> bool {
    let views = stage.world.nodes[node].node.calls();
    let participants = views.iter().filter(|view| view.call == call).flat_map(|view| &view.participants);
    participants.into_iter().any(|one| one.did == stage.world.dids[other] && one.recording)
}

fn writes(stage: &Stage, node: NodeIx) -> bool {
    stage.world.nodes[node].plan.recording.is_some()
}

/// Whether the sound of `other` is in the recording of `node`.
fn has(stage: &Stage, node: NodeIx, other: NodeIx) -> bool {
    let recording = stage.world.nodes[node].plan.recording.as_ref();
    recording.is_some_and(|recorded| recorded.who.values().any(|did| *did == stage.world.dids[other]))
}

fn is_state(sealed: &Sealed) -> bool {
    matches!(sealed.outgoing.signal.body, Body::State(_))
}

#[test]
fn everybody_sees_who_records_and_whoever_comes_later_does_at_once() {
    let mut stage = Stage::of(4);
    let call = stage.call(0, &[1, 2]);
    assert_eq!(record(&mut stage, 0, call, true), Ok(Reply::Done));
    assert_eq!(record(&mut stage, 0, call, true), Ok(Reply::Done), "twice is once");
    assert!(writes(&stage, 0));
    assert!(!has(&stage, 0, 1) && !has(&stage, 0, 2), "nobody knows yet");
    stage.until(1, "both see it", |stage| sees(stage, 1, call, 0) && sees(stage, 2, call, 0));
    stage.until(1, "both are in it", |stage| has(stage, 0, 1) && has(stage, 0, 2));
    let invitees = vec![stage.world.dids[3].clone()];
    assert_eq!(stage.ask(1, Request::Invite { call, invitees }), Ok(Reply::Done));
    stage.until(1, "it rings", |stage| stage.rings(3));
    stage.accept(3, call);
    stage.until(3, "it is connected", |stage| stage.shown(3, call, 0) == Some(ParticipantState::Joined));
    assert!(sees(&stage, 3, call, 0), "nobody is connected to a recorder without seeing it");
    stage.until(1, "whoever comes later is in it", |stage| has(stage, 0, 3));
    assert_eq!(record(&mut stage, 0, call, false), Ok(Reply::Done));
    assert!(!writes(&stage, 0));
    stage.until(1, "all see that it is over", |stage| (1..4).all(|node| !sees(stage, node, call, 0)));
}

#[test]
fn a_recording_pauses_on_hold_and_one_call_is_recorded_at_a_time() {
    let mut stage = Stage::of(3);
    let first = stage.call(0, &[1]);
    assert_eq!(record(&mut stage, 0, first, true), Ok(Reply::Done));
    let second = stage.call(0, &[2]);
    assert!(!writes(&stage, 0));
    stage.until(1, "it is seen", |stage| !sees(stage, 1, first, 0));
    assert_eq!(record(&mut stage, 0, second, true), Err(RequestError::RecordsAnother));
    assert_eq!(stage.ask(0, Request::Resume(first)), Ok(Reply::Done));
    assert!(writes(&stage, 0));
    stage.until(1, "it is seen", |stage| sees(stage, 1, first, 0) && !sees(stage, 2, second, 0));
    assert_eq!(record(&mut stage, 0, second, true), Err(RequestError::OnHold));
    assert_eq!(stage.ask(0, Request::Hangup(first)), Ok(Reply::Done));
    assert!(!writes(&stage, 0));
    assert_eq!(record(&mut stage, 0, first, true), Err(RequestError::NoSuchCall));
    assert_eq!(stage.ask(0, Request::Join(first, Former::Hold)), Ok(Reply::Done));
    assert!(!writes(&stage, 0), "who comes back begins no recording");
}

#[test]
fn whom_no_word_of_it_reaches_is_heard_and_not_recorded() {
    let mut stage = Stage::of(3);
    let call = stage.call(0, &[1, 2]);
    let (deaf, silent) = (stage.world.dids[1].clone(), 2);
    // One of them is not told. The other is, and its word that it knows is lost.
    stage.censor(move |from, sealed| {
        let is_ack = matches!(sealed.outgoing.signal.body, Body::Ack(_));
        let lost = (is_state(sealed) && sealed.outgoing.to.as_ref() == Some(&deaf)) || (from == silent && is_ack);
        if lost { Fate::Drop } else { Fate::Pass }
    });
    assert_eq!(record(&mut stage, 0, call, true), Ok(Reply::Done));
    stage.pass(Duration::from_secs(20));
    assert!(stage.all_hear_each_other(&[0, 1, 2], call) && writes(&stage, 0));
    assert!(!has(&stage, 0, 1) && !sees(&stage, 1, call, 0));
    assert!(!has(&stage, 0, 2) && sees(&stage, 2, call, 0));
    stage.world.censor = None;
    stage.until(5, "both are told, and in it", |stage| has(stage, 0, 1) && has(stage, 0, 2));
}

#[test]
fn who_was_recorded_before_a_hold_is_told_again_before_it_is_after_it() {
    let mut stage = Stage::of(2);
    let call = stage.call(0, &[1]);
    assert_eq!(record(&mut stage, 0, call, true), Ok(Reply::Done));
    stage.until(1, "it is in it", |stage| has(stage, 0, 1));
    assert_eq!(stage.ask(0, Request::Mute(true)), Ok(Reply::Done));
    assert!(has(&stage, 0, 1), "another switch changes nothing");
    assert_eq!(stage.ask(0, Request::Hold(call)), Ok(Reply::Done));
    stage.until(1, "it is seen", |stage| !sees(stage, 1, call, 0));
    stage.censor(|_, sealed| if is_state(sealed) { Fate::DelayMs(3_000) } else { Fate::Pass });
    assert_eq!(stage.ask(0, Request::Resume(call)), Ok(Reply::Done));
    stage.pass(Duration::from_secs(2));
    assert!(writes(&stage, 0) && !has(&stage, 0, 1));
    stage.until(3, "it is in it again", |stage| has(stage, 0, 1));
}

#[test]
fn who_comes_back_is_told_before_it_is_recorded_again() {
    let mut stage = Stage::of(2);
    let call = stage.call(0, &[1]);
    assert_eq!(record(&mut stage, 0, call, true), Ok(Reply::Done));
    stage.until(1, "it is in it", |stage| has(stage, 0, 1));
    stage.world.kill(1);
    stage.censor(|_, sealed| if is_state(sealed) { Fate::DelayMs(3_000) } else { Fate::Pass });
    assert_eq!(stage.world.revive(1), Ok(()));
    stage.until(5, "they hear each other", |stage| stage.all_hear_each_other(&[0, 1], call));
    assert!(!has(&stage, 0, 1));
    stage.until(5, "it is in it again", |stage| has(stage, 0, 1));
}

#[test]
fn that_it_is_recorded_is_shown_on_when_an_older_word_of_the_recorder_comes_after_a_long_silence() {
    let mut stage = Stage::of(2);
    stage.lose(|body| matches!(body, Body::Join(_)));
    let call = stage.offer(0, &[1]);
    stage.until(1, "it rings", |stage| stage.rings(1));
    stage.world.censor = None;
    stage.accept(1, call);
    stage.until(5, "they hear each other", |stage| stage.all_hear_each_other(&[0, 1], call));
    assert_eq!(record(&mut stage, 0, call, true), Ok(Reply::Done));
    stage.until(1, "it is in it", |stage| has(stage, 0, 1));
    stage.world.part(1);
    stage.until(60, "they lose each other", |stage| stage.shown(1, call, 0) == Some(ParticipantState::Left));
    stage.censor(|_, _| Fate::Drop);
    stage.world.heal();
    // The first Join, which was lost, and says nothing of a recording.
    let (from, to) = (&stage.world.dids[0], stage.world.dids[1].clone());
    let is_join = |sealed: &Sealed| matches!(sealed.outgoing.signal.body, Body::Join(_));
    let late = stage.world.ledger.borrow().sealed.iter().position(|sealed| sealed.from == *from && is_join(sealed));
    stage.world.publish(0, Topic::Member(call, to), Ledger::bytes(late.unwrap()));
    stage.until(2, "it is heard of", |stage| stage.shown(1, call, 0) != Some(ParticipantState::Left));
    assert!(sees(&stage, 1, call, 0));
}

#[test]
fn that_it_is_recorded_counts_only_as_heard_by_who_shows_it() {
    // The simulator's find: who came back knew the recorder's keys, and acknowledged what it could not note down yet.
    let mut stage = Stage::of(2);
    let call = stage.call(0, &[1]);
    assert_eq!(stage.ask(1, Request::Hangup(call)), Ok(Reply::Done));
    stage.until(1, "it left", |stage| stage.shown(0, call, 1) == Some(ParticipantState::Left));
    let late = |delay_ms| {
        move |from: NodeIx, sealed: &Sealed| match sealed.outgoing.signal.body {
            Body::Join(_) if from == 0 => Fate::DelayMs(delay_ms),
            Body::Hello(_) => Fate::Drop,
            _ => Fate::Pass,
        }
    };
    stage.censor(late(500));
    assert_eq!(stage.ask(1, Request::Join(call, Former::Hold)), Ok(Reply::Done));
    stage.until(1, "it is back", |stage| stage.shown(0, call, 1) == Some(ParticipantState::Connecting));
    // What tells of the recording as well comes later than what does not.
    stage.censor(late(5_000));
    assert_eq!(record(&mut stage, 0, call, true), Ok(Reply::Done));
    stage.until(4, "they hear each other", |stage| stage.all_hear_each_other(&[0, 1], call));
    stage.until(1, "it is in it", |stage| has(stage, 0, 1) && sees(stage, 1, call, 0));
}

#[test]
fn a_daemon_that_was_killed_is_back_in_its_call_and_does_not_go_on_recording() {
    let mut stage = Stage::of(2);
    let call = stage.call(0, &[1]);
    assert_eq!(record(&mut stage, 0, call, true), Ok(Reply::Done));
    stage.until(1, "it is seen", |stage| sees(stage, 1, call, 0));
    stage.world.kill(0);
    stage.pass(Duration::from_secs(1));
    assert_eq!(stage.world.revive(0), Ok(()));
    stage.until(5, "they hear each other", |stage| stage.all_hear_each_other(&[0, 1], call));
    assert!(!writes(&stage, 0) && !sees(&stage, 1, call, 0));
}

#[test]
fn a_machine_that_slept_goes_on_recording_and_says_so_again() {
    let mut stage = Stage::of(2);
    let call = stage.call(0, &[1]);
    assert_eq!(record(&mut stage, 0, call, true), Ok(Reply::Done));
    stage.world.suspend(0, Duration::from_secs(30));
    stage.pass(Duration::from_secs(30));
    stage.until(5, "they hear each other", |stage| stage.all_hear_each_other(&[0, 1], call));
    assert!(writes(&stage, 0) && sees(&stage, 1, call, 0));
    stage.until(1, "and the other is in it", |stage| has(stage, 0, 1));
}

#[test]
fn who_is_still_asked_sees_it_while_it_rings() {
    let mut stage = Stage::of(2);
    let call = stage.offer(0, &[1]);
    stage.until(1, "it rings", |stage| stage.rings(1));
    stage.pass(Duration::from_secs(1));
    assert_eq!(record(&mut stage, 0, call, true), Ok(Reply::Done));
    stage.until(1, "it is seen", |stage| sees(stage, 1, call, 0));
    assert!(stage.rings(1));
}

#[test]
fn who_acknowledges_an_older_join_late_still_learns_of_the_recording() {
    // The simulator's find: the acknowledgement of a former transmission counted for the one that told of the recording.
    let mut stage = Stage::of(2);
    let call = stage.offer(0, &[1]);
    stage.until(1, "it rings", |stage| stage.rings(1));
    stage.censor(|from, sealed| match sealed.outgoing.signal.body {
        Body::Ack(_) if from == 1 => Fate::DelayMs(300),
        _ => Fate::Pass,
    });
    stage.accept(1, call);
    assert_eq!(record(&mut stage, 0, call, true), Ok(Reply::Done));
    stage.until(3, "they hear each other", |stage| stage.all_hear_each_other(&[0, 1], call));
    stage.pass(Duration::from_secs(2));
    assert!(sees(&stage, 1, call, 0));
}
