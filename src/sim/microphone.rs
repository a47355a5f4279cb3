//! Scenarios of one's own microphone: push-to-talk, and calls that begin muted. Everybody configures the same.

use crate::proto::io::{Reply, Request, RequestError};

use super::{setup::Setup, stage::Stage, world::NodeIx};

/// A call of two, in a world with these switches.
fn talkers(push_to_talk: bool, automute: bool) -> Stage {
    let mut stage = Stage::with(Setup { push_to_talk, automute, ..Setup::calm(2) });
    stage.call(0, &[1]);
    stage
}

fn is_open(stage: &Stage, node: NodeIx) -> bool {
    let plan = &stage.world.nodes[node].plan;
    plan.microphone && !plan.muted
}

/// What `node` is told of the other's microphone.
fn is_told_open(stage: &Stage, node: NodeIx) -> bool {
    let views = stage.world.nodes[node].node.calls();
    views.iter().all(|view| view.participants.iter().all(|other| !other.muted))
}

#[test]
fn who_pushes_is_heard_until_the_key_is_let_go() {
    let mut stage = talkers(true, false);
    stage.until(2, "closed", |stage| !is_open(stage, 0) && !is_told_open(stage, 1));
    assert_eq!(stage.ask(0, Request::Talk(true)), Ok(Reply::Done));
    assert!(is_open(&stage, 0) && !is_open(&stage, 1));
    stage.until(2, "told", |stage| is_told_open(stage, 1));
    assert_eq!(stage.ask(0, Request::Talk(false)), Ok(Reply::Done));
    assert!(!is_open(&stage, 0));
    stage.until(2, "told", |stage| !is_told_open(stage, 1));
}

#[test]
fn a_push_that_is_not_repeated_ends_after_a_minute() {
    let mut stage = talkers(true, false);
    let pushed_us = stage.world.now_us();
    assert_eq!(stage.ask(0, Request::Talk(true)), Ok(Reply::Done));
    stage.until(61, "closed", |stage| !is_open(stage, 0));
    assert_eq!(stage.world.now_us() - pushed_us, 60_000_000);
    stage.until(2, "told", |stage| !is_told_open(stage, 1));
}

#[test]
fn a_push_ends_with_the_last_call_and_holds_for_no_later_one() {
    let mut stage = talkers(true, false);
    let first = stage.world.calls[0];
    assert_eq!(stage.ask(0, Request::Talk(true)), Ok(Reply::Done));
    stage.offer(0, &[1]);
    assert!(stage.world.nodes[0].plan.muted, "nobody has pushed for this call");
    assert_eq!(stage.ask(0, Request::Talk(true)), Ok(Reply::Done));
    assert_eq!(stage.ask(0, Request::Hangup(first)), Ok(Reply::Done));
    assert!(!stage.world.nodes[0].plan.muted, "there is still a call");
    let second = stage.world.calls[1];
    assert_eq!(stage.ask(0, Request::Hangup(second)), Ok(Reply::Done));
    assert!(stage.world.nodes[0].plan.muted);
    assert_eq!(stage.ask(0, Request::Talk(true)), Err(RequestError::NoCall));
    assert_eq!(stage.ask(0, Request::Talk(false)), Ok(Reply::Done), "to let go is never wrong");
}

#[test]
fn mute_is_stronger_than_a_push_and_without_push_to_talk_there_is_nothing_to_push() {
    let mut stage = talkers(true, false);
    for request in [Request::Mute(true), Request::Talk(true)] {
        assert_eq!(stage.ask(0, request), Ok(Reply::Done));
        assert!(!is_open(&stage, 0));
    }
    assert_eq!(stage.ask(0, Request::Mute(false)), Ok(Reply::Done));
    assert!(is_open(&stage, 0), "it is still pushed");
    let mut stage = talkers(false, false);
    assert!(is_open(&stage, 0));
    assert_eq!(stage.ask(0, Request::Talk(true)), Err(RequestError::NoPushToTalk));
}

#[test]
fn calls_begin_muted_where_that_is_wanted_and_every_call_does() {
    let mut stage = talkers(false, true);
    for node in [0, 1] {
        assert!(!is_open(&stage, node));
        assert_eq!(stage.ask(node, Request::Mute(false)), Ok(Reply::Done));
        assert!(is_open(&stage, node));
    }
    stage.offer(0, &[1]);
    assert!(stage.world.nodes[0].plan.muted, "the next call, too");
}
