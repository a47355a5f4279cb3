//! What people read, to the letter; and that nobody can put a control character into it.

use serde_json::json;

use super::*;

fn call() -> Value {
    json!({
        "call": "0b1e0f3a-5d0c-8a54-9c0e-3c6a2f1d7b42", "state": "active", "from": "did:key:zBob", "from_name": "bob",
        "participants": [
            { "did": "did:key:zBob", "name": "bob", "state": "joined", "muted": true },
            { "did": "did:key:zEve", "name": null, "state": "reconnecting", "muted": false },
        ],
    })
}

#[test]
fn calls_show_names_where_known_and_states_as_words() {
    let shown = calls(&json!({ "calls": [call()] }));
    assert_eq!(
        shown,
        "CALL                                  STATE   FROM  WITH\n\
         0b1e0f3a-5d0c-8a54-9c0e-3c6a2f1d7b42  active  bob   bob (joined, muted), did:key:zEve (reconnecting)\n"
    );
    assert_eq!(calls(&json!({ "calls": [] })), "no calls\n");
}

#[test]
fn a_call_that_rings_shows_who_is_in_it_without_states() {
    let mut ringing = call();
    ringing["state"] = "incoming".into();
    assert_eq!(with(&ringing), "bob, did:key:zEve");
}

#[test]
fn sound_without_files_goes_from_silence_to_nowhere() {
    let shown = status(&json!({ "audio": { "backend": "file", "input": "", "output": "" } }));
    assert!(shown.contains("sound      file: silence to nowhere\n"), "{shown}");
}

#[test]
fn an_own_call_is_yours() {
    let own = json!({ "call": "c", "state": "outgoing", "from": "did:key:zMe", "participants": [] });
    assert_eq!(caller(&own), "you");
}

#[test]
fn status_shows_what_matters() {
    let shown = status(&json!({
        "did": "did:key:zMe", "peer_id": "12D3", "version": "0.1.0", "uptime_s": 3720, "peers": 2,
        "listen": ["/ip4/127.0.0.1/tcp/1", "/ip4/127.0.0.1/udp/1/quic-v1"],
        "active_call": call(), "pending": [{ "call": "ffff0000-", "from": "did:key:zEve" }],
        "muted": true, "deafened": false,
        "audio": { "backend": "pulseaudio", "input": "mic", "output": "speaker", "problem": "no microphone" },
    }));
    let expected = "\
did        did:key:zMe
peer id    12D3
version    0.1.0, up 1 h 2 min
addresses  /ip4/127.0.0.1/tcp/1
           /ip4/127.0.0.1/udp/1/quic-v1
peers      2
call       0b1e0f3a active, with bob (joined, muted), did:key:zEve (reconnecting)
ringing    ffff0000 from did:key:zEve
sound      pulseaudio: mic to speaker
           no microphone
switches   microphone off, speaker on
";
    assert_eq!(shown, expected);
}

#[test]
fn devices_show_what_to_write_into_the_configuration() {
    let shown = devices(&json!({ "devices": [
        { "direction": "input", "name": "alsa_input.usb", "description": "USB microphone", "default": true },
        { "direction": "output", "name": "speaker", "description": "speaker", "default": false },
    ] }));
    assert_eq!(
        shown,
        "DIRECTION  NAME            DESCRIPTION\n\
         input      alsa_input.usb  USB microphone  default\n\
         output     speaker\n"
    );
}

#[test]
fn stats_have_a_row_a_leg_and_what_was_dropped() {
    let shown = stats(&json!({
        "legs": [{ "did": "did:key:zBob", "name": "bob", "state": "joined", "rtt_ms": 12.34, "loss_pct": 0.0, "level_db": null }],
        "rejected": { "bad_signature": 2 },
    }));
    let lines: Vec<&str> = shown.lines().collect();
    assert!(lines[0].starts_with("WHO  STATE   RTT ms  JITTER ms"), "{shown}");
    assert!(lines[1].starts_with("bob  joined  12.3    -          0"), "{shown}");
    assert_eq!(lines[2], "dropped signals: 2 bad signature");
    assert_eq!(stats(&json!({ "legs": [] })), "nobody is connected\n");
}

#[test]
fn what_a_stranger_wrote_is_escaped_everywhere() {
    let evil = "\u{1b}[2J\u{202e}\n";
    let names = Names::of(&json!({ "contacts": [{ "did": "d", "name": evil }] }));
    let event_of = |kind: &str| json!({ "seq": 1, "time_ms": 0, "event": kind, "did": "d", "from": "d", "call": evil, "state": evil, "reason": evil, "x": evil });
    let mut shown: Vec<String> = ["call_rang", "call_ended", "participant_changed", "unheard_of"]
        .iter()
        .flat_map(|kind| [event(&event_of(kind), &names), step(&event_of(kind), &names)])
        .collect();
    let call = json!({ "call": evil, "state": evil, "from": evil, "participants": [{ "name": evil, "state": evil }] });
    shown.push(calls(&json!({ "calls": [call.clone()] })));
    shown.push(status(&json!({ "active_call": call, "pending": [call], "did": evil, "audio": { "problem": evil } })));
    shown.push(stats(&json!({ "legs": [{ "name": evil }], "rejected": { evil: 1 } })));
    shown.push(devices(&json!({ "devices": [{ "name": evil, "direction": "input", "default": true }] })));
    shown.push(contacts(&json!({ "contacts": [{ "name": evil, "did": evil, "address": evil }] })));
    shown.push(identity(&json!({ "did": evil })));
    shown.push(added(&json!({ "name": evil })));
    for text in shown {
        assert!(text.chars().all(|c| c == '\n' || !c.is_control() && c != '\u{202e}'), "{text:?}");
    }
}

#[test]
fn events_are_sentences_with_names() {
    let names = Names::of(&json!({ "contacts": [{ "did": "did:key:zBob", "name": "bob" }] }));
    let names = names.with_own(&json!({ "did": "did:key:zMe" }));
    let rang = json!({ "seq": 12, "time_ms": 3_661_000, "event": "call_rang", "call": "0b1e0f3a-5d0c", "from": "did:key:zBob", "participants": ["did:key:zBob", "did:key:zMe"], "known": false });
    assert_eq!(event(&rang, &names), "01:01:01Z    12  0b1e0f3a rings: bob (not a contact), with bob, you\n");
    let joined = json!({ "event": "call_joined", "call": "c" });
    assert_eq!(step(&joined, &names), "c you are in\n");
    let changed = json!({ "event": "participant_changed", "call": "c", "did": "did:key:zBob", "state": "on_hold" });
    assert_eq!(step(&changed, &names), "bob on hold\n");
}
