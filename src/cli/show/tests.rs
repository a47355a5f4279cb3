//! What people read, to the letter; and that nobody can put a control character into it.

use serde_json::json;

use super::*;

fn call() -> Value {
    json!({
        "call": "0b1e0f3a-5d0c-8a54-9c0e-3c6a2f1d7b42", "state": "active", "from": "did:key:zBob", "from_name": "bob",
        "participants": [
            { "did": "did:key:zBob", "name": "bob", "state": "joined", "muted": true, "speaking": false },
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
fn a_participant_that_no_connection_comes_about_to_is_named_with_cause_and_remedy() {
    let mut stuck = call();
    stuck["participants"][0]["problem"] = "a firewall; name a TURN server".into();
    let shown = calls(&json!({ "calls": [stuck] }));
    assert_eq!(shown.lines().nth(2), Some("bob: a firewall; name a TURN server"));
    let shown = status(&json!({ "active_call": stuck }));
    assert!(shown.contains("(reconnecting)\n           bob: a firewall; name a TURN server\n"), "{shown}");
    let told = over(&json!({ "event": "no_connection", "call": "c", "did": "did:key:zBob" }));
    assert!(told.contains("no audio connection comes about"), "{told}");
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
fn who_records_is_named_wherever_the_call_is() {
    let mut recorded = call();
    recorded["participants"][0]["recording"] = true.into();
    assert_eq!(with(&recorded), "bob (joined, records, muted), did:key:zEve (reconnecting)");
    recorded["recording"] = true.into();
    recorded["participants"][0]["recorded"] = false.into();
    assert_eq!(with(&recorded), "bob (joined, records, not recorded yet, muted), did:key:zEve (reconnecting)");
    let entered =
        json!({ "call": "c", "recorded_by": [{ "did": "did:key:zBob", "name": "bob" }, { "did": "did:key:zEve" }] });
    assert_eq!(accepted(&entered), "accepted c\nbob records this call\ndid:key:zEve records this call\n");
    assert_eq!(joined(&json!({ "call": "c", "recorded_by": [] })), "joined c\n");
    recorded["participants"][1]["deafened"] = true.into();
    assert!(with(&recorded).ends_with("did:key:zEve (reconnecting, deafened)"), "{}", with(&recorded));
    let own = json!({ "recording": { "call": "0b1e0f3a-5d0c", "directory": "/d", "paused": true }, "recording_problem": null });
    assert!(status(&own).contains("recording  0b1e0f3a into /d (paused, on hold)\n"), "{}", status(&own));
    let failed = json!({ "recording": null, "recording_problem": "no space left; free some" });
    assert!(status(&failed).contains("recording  no space left; free some\n"), "{}", status(&failed));
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
        "audio": { "backend": "pulseaudio", "input": "mic", "output": "speaker", "problem": "no microphone",
                   "processing": ["echo_cancellation", "high_pass"] },
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
           microphone with echo cancellation, high pass
           no microphone
switches   microphone off, speaker on
";
    assert_eq!(shown, expected);
}

#[test]
fn what_is_wrong_with_sound_is_said_to_be_of_old_while_nothing_is_open() {
    let sound = |playing: bool| {
        let audio = json!({ "backend": "alsa", "capturing": false, "playing": playing, "problem": "no headset" });
        status(&json!({ "audio": audio, "active_call": null }))
    };
    assert!(sound(true).contains("no headset\n"), "{}", sound(true));
    assert!(sound(false).contains("no headset (when it was last tried; the next call tries again)\n"));
}

#[test]
fn who_is_not_heard_can_be_heard_again() {
    let shown =
        |blocked: bool| volume(&json!({ "did": "d", "name": "bob", "volume_percent": 50, "audio_blocked": blocked }));
    assert_eq!(shown(true), "bob is not heard; telecon volume bob on ends that\n");
    assert_eq!(shown(false), "bob is heard at 50 %\n");
}

#[test]
fn a_microphone_that_waits_for_a_push_is_told_from_one_that_is_muted() {
    let switches = |waits: bool| {
        let shown = status(&json!({ "muted": true, "deafened": false, "push_to_talk": true, "waits_for_talk": waits }));
        shown.lines().last().unwrap_or_default().to_owned()
    };
    assert_eq!(switches(true), "switches   microphone off until you push to talk, speaker on");
    assert_eq!(switches(false), "switches   microphone off, speaker on");
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
fn calls_that_can_be_joined_stand_below_those_that_go_on() {
    let past = json!({
        "call": "c2", "state": "past", "from": "did:key:zMe", "from_name": null, "since_ms": 5,
        "participants": [{ "did": "did:key:zBob", "name": "bob" }],
    });
    let mut held = call();
    held["state"] = "on_hold".into();
    let shown = calls(&json!({ "calls": [held], "past": [past] }));
    let lines: Vec<&str> = shown.lines().collect();
    assert!(lines[1].contains("on hold") && lines[2].ends_with("can be joined  you   bob"), "{shown}");
}

#[test]
fn how_somebody_is_heard_and_why_somebody_declined_is_shown_where_it_matters() {
    let shown = with(&json!({ "state": "active", "participants": [
        { "did": "a", "state": "joined", "volume_percent": 100, "audio_blocked": false, "decline": null },
        { "did": "b", "state": "joined", "volume_percent": 30, "audio_blocked": false },
        { "did": "c", "state": "on_hold", "volume_percent": 30, "audio_blocked": true },
        { "did": "d", "state": "declined", "decline": { "reason": "not_now", "text": "in an hour?" } },
    ] }));
    assert_eq!(shown, "a (joined), b (joined, 30 %), c (on hold, not heard), d (declined: not now, \"in an hour?\")");
}

#[test]
fn status_tells_what_waits_for_the_user_only_when_something_does() {
    let shown = status(&json!({
        "held": [call()], "missed": 2, "do_not_disturb": true, "muted": false, "deafened": false,
    }));
    assert!(shown.contains("on hold    0b1e0f3a, with bob (joined, muted), did:key:zEve (reconnecting)\n"), "{shown}");
    assert!(shown.contains("missed     2; telecon history --seen shows them and marks them as seen\n"), "{shown}");
    assert!(shown.ends_with("switches   microphone on, speaker on, do not disturb\n"), "{shown}");
    let quiet = status(&json!({ "held": [], "missed": 0, "do_not_disturb": false }));
    assert!(!quiet.contains("missed") && !quiet.contains("on hold") && !quiet.contains("disturb"), "{quiet}");
}

#[test]
fn the_history_is_a_line_a_call() {
    let bob = json!({ "did": "did:key:zBob", "name": "bob" });
    let eve = json!({ "did": "did:key:zEve", "name": null });
    let shown = history(&json!({ "history": [
        { "call": "0b1e0f3a-5d", "direction": "out", "from": "did:key:zMe", "participants": [bob, eve], "known": true,
          "started_ms": 1_795_176_215_224_u64, "joined_ms": 1_795_176_220_000_u64, "ended_ms": 1_795_176_400_000_u64,
          "outcome": "hung_up" },
        { "call": "c2c2c2c2-5d", "direction": "in", "from": "did:key:zEve", "participants": [eve, bob], "known": false,
          "started_ms": 951_782_400_000_u64, "joined_ms": null, "ended_ms": 951_782_445_000_u64, "outcome": "missed" },
    ] }));
    assert_eq!(
        shown,
        "BEGAN              CALL      WHO                                          WHAT     LASTED\n\
         2026-11-20 12:03Z  0b1e0f3a  to bob, did:key:zEve                         hung up  3 min\n\
         2000-02-29 00:00Z  c2c2c2c2  from did:key:zEve (not a contact), with bob  missed\n"
    );
    assert_eq!(history(&json!({ "history": [] })), "no calls\n");
    let gave_up = |direction: &str| {
        let call = json!({ "direction": direction, "from": "did:key:zBob", "outcome": "cancelled" });
        history(&json!({ "history": [call] })).contains("missed (taken back)")
    };
    assert_eq!((gave_up("in"), gave_up("out")), (true, false), "status counts the first one as missed");
}

#[test]
fn every_event_of_the_daemon_is_a_sentence() {
    let names = Names::of(&json!({ "contacts": [{ "did": "did:key:zBob", "name": "bob" }] }));
    let bob = "did:key:zBob";
    for (event_of, sentence) in [
        (json!({ "event": "call_held", "call": "c" }), "c is on hold"),
        (json!({ "event": "call_resumed", "call": "c" }), "c goes on"),
        (json!({ "event": "call_invited", "call": "c", "invitees": [bob] }), "c you invited bob"),
        (
            json!({ "event": "call_silenced", "call": "c", "from": bob, "participants": [bob], "known": true }),
            "c did not ring, do not disturb is on: bob",
        ),
        (
            json!({ "event": "call_interrupted", "call": "c", "from": bob }),
            "c was interrupted when the daemon ended; go back with telecon join",
        ),
        (
            json!({ "event": "participant_declined", "call": "c", "did": bob, "reason": "busy", "text": null }),
            "c bob declined: busy",
        ),
        (
            json!({ "event": "participant_media", "call": "c", "did": bob, "muted": false, "deafened": false, "on_hold": true }),
            "c bob: microphone on, speaker on, has put the call on hold",
        ),
        (
            json!({ "event": "participant_media", "call": "c", "did": bob, "muted": true, "deafened": false, "recording": true }),
            "c bob: microphone off, speaker on, records the call",
        ),
        (json!({ "event": "recording_started", "call": "c" }), "c is recorded here"),
        (json!({ "event": "recording_ended", "call": "c" }), "c is not recorded here any more"),
        (
            json!({ "event": "recording_failed", "call": "c", "problem": "no space left" }),
            "c recording failed: no space left",
        ),
        (json!({ "event": "do_not_disturb_changed", "on": true }), "do not disturb on"),
        (json!({ "event": "participant_speaking", "call": "c", "did": bob, "speaking": true }), "c bob speaks"),
        (json!({ "event": "participant_speaking", "call": "c", "did": bob, "speaking": false }), "c bob is silent"),
        (
            json!({ "event": "audio_changed", "input": "mic", "output": "headset", "problem": null }),
            "sound: mic to headset",
        ),
        (
            json!({ "event": "audio_changed", "input": "mic", "output": "hdmi", "problem": "there is no \u{1b}headset" }),
            "sound: mic to hdmi; there is no \\u{1b}headset",
        ),
        (json!({ "event": "talked_while_muted" }), "you are talking, and your microphone is off"),
        (json!({ "event": "volume_changed", "did": bob, "percent": 30, "blocked": false }), "bob is heard at 30 %"),
        (json!({ "event": "volume_changed", "did": bob, "percent": 30, "blocked": true }), "bob is not heard"),
        (json!({ "event": "contacts_changed" }), "the contacts changed"),
        (json!({ "event": "events_marked", "up_to": 7 }), "seen up to 7"),
    ] {
        let shown = event(&event_of, &names);
        assert!(shown.ends_with(&format!("  {sentence}\n")), "{shown}");
    }
}

#[test]
fn what_a_stranger_wrote_is_escaped_everywhere() {
    let evil = "\u{1b}[2J\u{202e}\n";
    let names = Names::of(&json!({ "contacts": [{ "did": "d", "name": evil }] }));
    let event_of = |kind: &str| json!({ "seq": 1, "time_ms": 0, "event": kind, "did": "d", "from": "d", "call": evil, "state": evil, "reason": evil, "text": evil, "x": evil });
    let mut shown: Vec<String> =
        ["call_rang", "call_ended", "participant_changed", "participant_declined", "unheard_of"]
            .iter()
            .flat_map(|kind| [event(&event_of(kind), &names), step(&event_of(kind), &names)])
            .collect();
    let call = json!({ "call": evil, "state": evil, "from": evil, "participants": [{ "name": evil, "state": evil, "decline": { "reason": evil, "text": evil } }] });
    shown.push(calls(&json!({ "calls": [call.clone()], "past": [call.clone()] })));
    shown.push(history(&json!({ "history": [call.clone()] })));
    shown.push(imported(&json!({ "added": evil, "renamed": [{ "from": evil, "to": evil }] })));
    shown.push(policy(&json!({ "name": evil, "policy": "ask" })));
    shown.push(volume(&json!({ "did": evil, "volume_percent": evil })));
    shown.push(status(&json!({ "active_call": call, "pending": [call], "did": evil, "audio": { "problem": evil } })));
    shown.push(stats(&json!({ "legs": [{ "name": evil }], "rejected": { evil: 1 } })));
    shown.push(devices(&json!({ "devices": [{ "name": evil, "direction": "input", "default": true }] })));
    shown.push(contacts(&json!({ "contacts": [{ "name": evil, "did": evil, "address": evil }] })));
    shown.push(identity(&json!({ "did": evil })));
    shown.push(added(&json!({ "name": evil })));
    shown.push(accepted(&json!({ "call": evil, "recorded_by": [{ "did": evil, "name": evil }] })));
    shown.push(record_started(&json!({ "directory": evil })));
    shown.push(status(&json!({ "recording": { "directory": evil }, "recording_problem": evil })));
    for text in shown {
        assert!(text.chars().all(|c| c == '\n' || !c.is_control() && c != '\u{202e}'), "{text:?}");
    }
}

#[test]
fn events_are_sentences_with_names() {
    let names = Names::of(&json!({ "contacts": [{ "did": "did:key:zBob", "name": "bob" }] }));
    let names = names.with_own(&json!({ "did": "did:key:zMe" }));
    let rang = json!({ "seq": 12, "time_ms": 3_661_000, "event": "call_rang", "call": "0b1e0f3a-5d0c", "from": "did:key:zBob", "participants": ["did:key:zBob", "did:key:zMe", "did:key:zEve"], "known": false });
    assert_eq!(event(&rang, &names), "01:01:01Z    12  0b1e0f3a rings: bob (not a contact), with did:key:zEve\n");
    let joined = json!({ "event": "call_joined", "call": "c" });
    assert_eq!(step(&joined, &names), "c you are in\n");
    let told = json!({ "event": "participant_media", "call": "c", "did": "did:key:zBob", "muted": false, "deafened": false, "on_hold": false });
    assert_eq!(step(&told, &names), "", "of a call that is waited for only what leads to somebody being there");
    let records = json!({ "event": "participant_media", "call": "c", "did": "did:key:zBob", "muted": false, "deafened": false, "recording": true });
    assert_eq!(step(&records, &names), "c bob: microphone on, speaker on, records the call\n");
    let changed = json!({ "event": "participant_changed", "call": "c", "did": "did:key:zBob", "state": "on_hold" });
    assert_eq!(step(&changed, &names), "bob on hold\n");
}
