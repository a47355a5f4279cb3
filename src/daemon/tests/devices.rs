//! Choosing and testing sound devices, and which event is heard how.

use super::*;
use crate::{
    audio::{Role, Sound},
    daemon::devices::{Found, Present, sound_of, with_choices},
    proto::{
        id::CallId,
        io::{EndReason, ParticipantState},
    },
};

impl Home {
    async fn select(&mut self, direction: &str, name: &str) -> Result<Value, Failure> {
        let (reply, answer) = oneshot::channel();
        let select = method("audio.select", json!({ "direction": direction, "name": name }));
        let method: Method = serde_json::from_value(select).unwrap();
        self.daemon.command(Command::Call { method, request_key: None, reply }, now());
        let found = self.doors.found.recv().await.unwrap();
        self.daemon.device_found(found);
        answer.await.unwrap()
    }
}

#[tokio::test]
async fn only_a_device_that_is_there_can_be_chosen_and_default_goes_back_to_the_configuration() {
    let mut home = home().await;
    home.daemon.store.set_device(Role::Output, Some("headset")).unwrap();
    let refused = home.select("output", "hdmi").await.unwrap_err();
    assert_eq!(refused.code, "no_such_device");
    assert_eq!(with_choices(quiet().audio, &home.daemon.store).unwrap().output, "headset", "nothing changed");
    let chosen = home.select("output", "default").await.unwrap();
    assert_eq!(chosen, json!({ "direction": "output", "name": "default" }));
    assert_eq!(with_choices(quiet().audio, &home.daemon.store).unwrap(), quiet().audio);
}

#[tokio::test]
async fn a_name_however_long_is_repeated_in_part_only() {
    let mut home = home().await;
    home.daemon.config.audio.backend = Backend::Alsa;
    let refused = home.select("output", &"x".repeat(60_000)).await.unwrap_err();
    assert!(refused.message.len() < 200 && refused.message.contains("xxx…\"; `telecon devices`"), "{refused}");
}

#[tokio::test]
async fn of_two_choices_the_later_one_holds_whichever_is_found_first() {
    let mut home = home().await;
    let [first, second, third] = [(); 3].map(|()| home.daemon.choices.next());
    let missing = Err(Failure::new("no_such_device", ""));
    for (number, device) in [(third, missing), (second, Ok(Some("second".into()))), (first, Ok(Some("first".into())))] {
        let (reply, _answer) = oneshot::channel();
        home.daemon.device_found(Found { role: Role::Output, number, device, reply });
    }
    assert_eq!(with_choices(quiet().audio, &home.daemon.store).unwrap().output, "second");
}

#[tokio::test]
async fn a_device_that_is_found_when_nobody_waits_for_it_any_more_is_not_chosen() {
    let mut home = home().await;
    let (number, (reply, answer)) = (home.daemon.choices.next(), oneshot::channel());
    drop(answer);
    home.daemon.device_found(Found { role: Role::Output, number, device: Ok(Some("headset".into())), reply });
    assert_eq!(with_choices(quiet().audio, &home.daemon.store).unwrap(), quiet().audio);
}

#[tokio::test]
async fn microphone_and_speaker_are_tested_without_a_call_only() {
    let mut home = home().await;
    assert_eq!(home.refusal("audio.test_mic", json!({ "seconds": 31 })).await, "bad_seconds");
    let offered = home.ask(offer(&[did_of(2).as_str()])).await.unwrap();
    for test in ["audio.test_mic", "audio.test_speaker"] {
        assert_eq!(home.refusal(test, json!({})).await, "in_call");
    }
    home.done("audio.test_mic", json!({ "seconds": 0 })).await;
    home.done("call.hangup", json!({ "call": offered["call"] })).await;
    home.done("audio.test_speaker", json!({})).await;
    assert_eq!(home.done("audio.test_mic", json!({ "seconds": 2 })).await["seconds"], 2);
    assert_eq!(home.refusal("audio.test_mic", json!({ "seconds": 2 })).await, "try_again");
    while home.done("daemon.status", json!({})).await["audio"]["test"].is_null() {
        tokio::task::yield_now().await;
    }
    home.done("audio.test_mic", json!({ "seconds": 0 })).await;
    while !home.done("daemon.status", json!({})).await["audio"]["test"].is_null() {
        tokio::task::yield_now().await;
    }
    home.done("audio.test_mic", json!({ "seconds": 1 })).await;
}

#[test]
fn who_comes_and_goes_is_heard_in_the_call_and_that_nobody_takes_it_is_always() {
    let call = CallId::from_bytes([1; 16]);
    let changed = |state| sound_of(&Event::ParticipantChanged { call, did: did_of(2), state });
    let ended = |reason| sound_of(&Event::CallEnded { call, reason });
    assert_eq!(changed(ParticipantState::Joined), Some((Some(call), Sound::Joined)));
    assert_eq!(changed(ParticipantState::Left), Some((Some(call), Sound::Left)));
    assert_eq!(changed(ParticipantState::Ringing), None);
    for reason in [EndReason::Declined, EndReason::Busy, EndReason::NoAnswer, EndReason::Unreachable] {
        assert_eq!(ended(reason), Some((None, Sound::Busy)));
    }
    assert_eq!((ended(EndReason::HungUp), ended(EndReason::Missed)), (None, None));
}

#[test]
fn who_comes_back_from_hold_or_an_interruption_is_not_announced_and_who_had_left_is() {
    use ParticipantState::{Connecting, Joined, Left, OnHold, Reconnecting};
    let mut present = Present::default();
    let [here, there] = [1, 2].map(|byte| CallId::from_bytes([byte; 16]));
    let mut joins = |call, states: &[ParticipantState]| {
        let is_news = |state: &ParticipantState| {
            let event = Event::ParticipantChanged { call, did: did_of(2), state: *state };
            present.is_news(&event) && *state == Joined
        };
        states.iter().map(is_news).filter(|is_news| *is_news).count()
    };
    assert_eq!(
        joins(here, &[Connecting, Joined, OnHold, Joined, Reconnecting, Joined, OnHold, Reconnecting, Joined]),
        1
    );
    assert_eq!(joins(there, &[Joined]), 1, "that is another call");
    assert_eq!(joins(here, &[Left, Joined, Joined]), 1);
    assert!(present.is_news(&Event::CallEnded { call: here, reason: EndReason::HungUp }));
    let again = |call| Event::ParticipantChanged { call, did: did_of(2), state: Joined };
    assert_eq!([here, there].map(|call| present.is_news(&again(call))), [true, false]);
}
