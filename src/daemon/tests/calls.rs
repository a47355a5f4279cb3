//! What is asked about calls, as far as one daemon alone can show it; the rest is in `e2e`.

use super::*;

fn states(calls: &Value) -> Vec<(String, String)> {
    let calls = calls["calls"].as_array().unwrap();
    let mut states: Vec<_> =
        calls.iter().map(|one| (one["call"].as_str().unwrap().into(), one["state"].as_str().unwrap().into())).collect();
    states.sort();
    states
}

fn sorted(mut expected: Vec<(&Value, &str)>) -> Vec<(String, String)> {
    expected.sort_by_key(|(call, _)| call.to_string());
    expected.into_iter().map(|(call, state)| (call.as_str().unwrap().into(), state.into())).collect()
}

#[tokio::test]
async fn a_second_call_puts_the_first_on_hold_and_resume_changes_over() {
    let mut home = home().await;
    let first = home.ask(offer(&[did_of(2).as_str()])).await.unwrap()["call"].take();
    let second = home.ask(offer(&[did_of(3).as_str()])).await.unwrap()["call"].take();
    let calls = home.done("call.list", json!({})).await;
    assert_eq!(states(&calls), sorted(vec![(&first, "on_hold"), (&second, "outgoing")]));
    let status = home.done("daemon.status", json!({})).await;
    assert_eq!((&status["active_call"]["call"], &status["held"][0]["call"]), (&second, &first));

    assert_eq!(home.done("call.resume", json!({})).await["call"], first, "the only one on hold");
    let status = home.done("daemon.status", json!({})).await;
    assert_eq!((&status["active_call"]["call"], &status["held"][0]["call"]), (&first, &second));

    assert_eq!(home.done("call.hold", json!({})).await["call"], first, "the active one");
    assert_eq!(home.refusal("call.hold", json!({})).await, "no_such_call");
    assert_eq!(home.refusal("call.resume", json!({})).await, "ambiguous_call");
    home.done("call.resume", json!({ "call": second })).await;
    let told: Vec<Value> = home.events().await.into_iter().map(|event| event["event"].clone()).collect();
    let expected = "call_offered call_held call_offered call_held call_resumed call_held call_resumed";
    assert_eq!(told, expected.split(' ').map(Value::from).collect::<Vec<_>>());
}

#[tokio::test]
async fn more_people_are_invited_into_the_active_call_or_the_one_that_is_named() {
    let mut home = home().await;
    let first = home.ask(offer(&[did_of(2).as_str()])).await.unwrap()["call"].take();
    let invited = home.done("call.invite", json!({ "who": [did_of(3)] })).await;
    assert_eq!(invited, json!({ "call": first, "invitees": [did_of(3)] }));
    home.ask(offer(&[did_of(4).as_str()])).await.unwrap();
    home.done("call.invite", json!({ "call": first, "who": [did_of(5)] })).await;
    let shown = home.done("call.show", json!({ "call": first })).await;
    assert_eq!(shown["participants"].as_array().unwrap().len(), 3);
    let told: Vec<Value> = home.events().await.into_iter().filter(|event| event["event"] == "call_invited").collect();
    assert_eq!((told.len(), &told[0]["invitees"]), (2, &json!([did_of(3)])));
    assert_eq!(home.refusal("call.invite", json!({ "who": [did_of(1)], "call": "zz" })).await, "no_such_call");
}

#[tokio::test]
async fn a_closed_call_is_shown_as_one() {
    let mut home = home().await;
    for closed in [true, false] {
        let offered = home.done("call.offer", json!({ "who": [did_of(2)], "closed": closed })).await;
        let shown = home.done("call.show", json!({ "call": offered["call"] })).await;
        assert_eq!(shown["closed"], closed);
    }
}

#[tokio::test]
async fn do_not_disturb_outlives_the_daemon_and_everybody_sees_it() {
    let mut home = home().await;
    assert_eq!(home.done("daemon.status", json!({})).await["do_not_disturb"], false);
    assert_eq!(home.done("call.do_not_disturb", json!({ "on": true })).await, json!({ "do_not_disturb": true }));
    let told = home.events().await;
    assert_eq!((&told[0]["event"], &told[0]["on"]), (&json!("do_not_disturb_changed"), &json!(true)));
    let mut home = home.killed_and_started().await;
    assert_eq!(home.done("daemon.status", json!({})).await["do_not_disturb"], true);
    home.done("call.do_not_disturb", json!({ "on": false })).await;
    let mut home = home.killed_and_started().await;
    assert_eq!(home.done("daemon.status", json!({})).await["do_not_disturb"], false);
}

#[tokio::test]
async fn do_not_disturb_works_without_a_disk() {
    let mut home = home().await;
    home.daemon.store.break_for_tests();
    home.done("call.do_not_disturb", json!({ "on": true })).await;
    assert_eq!(home.done("daemon.status", json!({})).await["do_not_disturb"], true);
}

#[tokio::test]
async fn the_history_tells_what_became_of_calls_with_names_and_by_the_page() {
    let mut home = home().await;
    home.done("contact.add", json!({ "did": did_of(2), "name": "Bob" })).await;
    let first = home.ask(offer(&["bob"])).await.unwrap()["call"].take();
    home.done("call.hangup", json!({})).await;
    let all = home.done("history.list", json!({})).await;
    let entry = &all["history"][0];
    assert_eq!((&entry["call"], &entry["direction"], &entry["outcome"]), (&first, &json!("out"), &json!("hung_up")));
    assert_eq!(entry["participants"], json!([{ "did": did_of(2), "name": "Bob" }]));
    let before = json!({ "limit": 10, "before_ms": entry["started_ms"] });
    assert_eq!(home.done("history.list", before).await, json!({ "history": [] }));
    assert_eq!(home.done("history.list", json!({ "limit": 0 })).await, json!({ "history": [] }));
    let mut home = home.killed_and_started().await;
    assert_eq!(home.done("history.list", json!({})).await, all);
}

#[tokio::test]
async fn events_are_marked_for_all_clients_and_never_go_back_or_away() {
    let mut home = home().await;
    for name in ["media.mute", "media.unmute", "media.mute"] {
        home.done(name, json!({})).await;
    }
    assert_eq!(home.done("events.mark", json!({ "seq": 2 })).await, json!({ "marked": 2, "missed": 0 }));
    assert_eq!(home.done("events.mark", json!({ "seq": 1 })).await, json!({ "marked": 2, "missed": 0 }));
    let told = home.events().await;
    assert_eq!((told.len(), &told[3]["event"], &told[3]["up_to"]), (4, &json!("events_marked"), &json!(2)));
    let mut home = home.killed_and_started().await;
    let status = home.done("daemon.status", json!({})).await;
    assert_eq!((&status["marked"], &status["seq"]), (&json!(2), &json!(4)));
    assert_eq!(home.events().await.len(), 4);
}

#[tokio::test]
async fn a_sleep_is_told_to_the_core_before_anything_else_is_handled() {
    let mut home = home().await;
    home.ask(offer(&[did_of(2).as_str()])).await.unwrap();
    home.daemon.look_at_the_clocks();
    assert_eq!(home.done("call.list", json!({})).await["calls"].as_array().unwrap().len(), 1, "nobody slept");
    // As if the machine had slept for longer than a call rings: the other clock went on.
    home.daemon.clocks.boot = home.daemon.clocks.boot.checked_sub(Duration::from_secs(60)).unwrap();
    home.daemon.look_at_the_clocks();
    assert_eq!(home.done("call.list", json!({})).await["calls"], json!([]), "it has rung out");
    let told = home.events().await;
    assert_eq!(told.last().unwrap()["event"], "call_ended", "{told:?}");
    home.ask(offer(&[did_of(2).as_str()])).await.unwrap();
    home.daemon.look_at_the_clocks();
    assert_eq!(
        home.done("call.list", json!({})).await["calls"].as_array().unwrap().len(),
        1,
        "once slept is once told"
    );
}
