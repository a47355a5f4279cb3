//! Several devices of one person that cannot always hear each other. As in `scenarios`, each test is a sentence, in a quiet world.

use std::time::Duration;

use crate::proto::{
    io::{CallState, EndReason, Former, ParticipantState, Reply, Request},
    signal::Body,
};

use super::{legs::SimLeg, setup::Setup, stage::Stage, world::Fate};

#[test]
fn a_laptop_that_wakes_up_leaves_the_call_that_the_phone_took_and_left() {
    // The simulator's find: nobody told it, and whoever was still there did not listen to so old a stay.
    let (ring, grace) = (Duration::from_secs(5), Duration::ZERO);
    let mut stage = Stage::with(Setup { owners: vec![0, 1, 1], ring, grace, ..Setup::calm(3) });
    let call = stage.offer(0, &[1]);
    stage.until(1, "both ring", |stage| stage.rings(1) && stage.rings(2));
    stage.accept(1, call);
    stage.until(2, "the phone stops ringing", |stage| !stage.rings(2));
    stage.world.suspend(1, Duration::from_secs(60));
    stage.world.nodes[2].consent.insert(call);
    assert_eq!(stage.ask(2, Request::Join(call, Former::Hold)), Ok(Reply::Done));
    stage.until(5, "the phone is there", |stage| stage.shown(2, call, 0) == Some(ParticipantState::Joined));
    assert_eq!(stage.ask(2, Request::Hangup(call)), Ok(Reply::Done));
    stage.pass(Duration::from_secs(60));
    stage.until(5, "the laptop gives way", |stage| stage.ended(1, call) == Some(EndReason::AnsweredElsewhere));
    assert_eq!(stage.state(0, call), Some(CallState::Active));
    stage.settles();
}

#[test]
fn a_device_gives_way_to_another_that_was_in_the_call_and_left_it_where_the_network_was_parted() {
    // The simulator's find: who had left acknowledged the older stay, and said nothing.
    let ring = Duration::from_secs(5);
    let mut stage = Stage::with(Setup { owners: vec![0, 1, 1, 2], ring, ..Setup::calm(4) });
    let call = stage.offer(0, &[1, 3]);
    stage.until(1, "all ring", |stage| (1..4).all(|node| stage.rings(node)));
    stage.world.part(0b1100);
    for node in 1..4 {
        stage.accept(node, call);
        stage.pass(Duration::from_millis(100));
    }
    stage.until(3, "the other part is connected", |stage| stage.all_hear_each_other(&[2, 3], call));
    // No Answered is sent any more.
    stage.pass(ring);
    let left = stage.world.dids[2].clone();
    stage.censor(move |from, sealed| {
        let ack = matches!(sealed.outgoing.signal.body, Body::Ack(_)) && sealed.outgoing.to.as_ref() == Some(&left);
        if from == 3 && ack { Fate::Drop } else { Fate::Pass }
    });
    assert_eq!(stage.ask(2, Request::Hangup(call)), Ok(Reply::Done));
    stage.pass(Duration::from_secs(1));
    stage.world.heal();
    stage.until(10, "it gives way", |stage| stage.ended(1, call) == Some(EndReason::AnsweredElsewhere));
    stage.world.censor = None;
    stage.until(5, "the others go on", |stage| stage.all_hear_each_other(&[0, 3], call));
    stage.settles();
}

#[test]
fn who_comes_in_while_another_device_answers_for_one_that_cannot_be_reached_meets_that_one_later() {
    // The simulator's find: each Join was acknowledged, one by a device that rang still, the other by a daemon that forgot it.
    let mut stage = Stage::with(Setup { owners: vec![0, 1, 1, 2], ..Setup::calm(4) });
    let call = stage.offer(3, &[0, 1]);
    stage.until(1, "all ring", |stage| (0..3).all(|node| stage.rings(node)));
    let person = stage.world.dids[1].clone();
    stage.censor(move |from, sealed| {
        let to_itself = sealed.outgoing.to.as_ref() == Some(&person);
        if from == 2 && to_itself { Fate::Drop } else { Fate::Pass }
    });
    stage.accept(2, call);
    stage.until(3, "they hear each other", |stage| stage.all_hear_each_other(&[2, 3], call));
    stage.pass(Duration::from_secs(1));
    stage.world.part(0b100);
    stage.world.kill(0);
    assert_eq!(stage.world.revive(0), Ok(()));
    assert!(stage.rings(0) && stage.rings(1));
    stage.accept(0, call);
    // No Hello is sent any more.
    stage.pass(Duration::from_secs(6));
    stage.world.censor = None;
    stage.world.heal();
    stage.until(40, "all hear each other", |stage| stage.all_hear_each_other(&[0, 2, 3], call));
}

#[test]
fn of_three_devices_that_accept_at_once_the_last_is_in_the_call() {
    // The simulator's find: one that had given way told of the highest stay as if it were its own.
    let mut stage = Stage::with(Setup { owners: vec![0, 1, 1, 1], ..Setup::calm(4) });
    stage.world.nodes.iter_mut().for_each(|node| node.clock.skew_ms = 0);
    for _ in 0..20 {
        let call = stage.offer(0, &[1]);
        stage.until(1, "all ring", |stage| (1..4).all(|node| stage.rings(node)));
        // None hears of the others before it accepts.
        stage.censor(|_, _| Fate::DelayMs(10));
        // By their ids the last is the lowest.
        for node in [2, 3, 1] {
            stage.accept(node, call);
            stage.pass(Duration::from_millis(2));
        }
        stage.until(3, "the last is in it", |stage| {
            let hears = |leg: &SimLeg| stage.world.legs.connected(leg) && stage.world.legs.far_end(leg) == Some(1);
            stage.world.legs.of(0).any(hears) && (2..4).all(|node| stage.state(node, call).is_none())
        });
        assert_eq!(stage.ask(0, Request::Hangup(call)), Ok(Reply::Done));
        stage.pass(Duration::from_secs(50));
    }
}
