//! The built program: what it prints, where, and with which exit code.

use std::{
    path::Path,
    process::{Output, Stdio},
};

use serde_json::{Value, json};
use telecon::{
    audio::Role,
    control::wire::Method,
    proto::{
        io::{EndReason, Event, ParticipantState},
        signal::DeclineReason,
    },
};
use tokio::process::Command;

use super::fake::{Answer, Fake, Journal, call, did, failure, soon};

fn telecon(home: &Path, arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_telecon"));
    command
        .env_clear()
        .arg("--home")
        .arg(home)
        .args(arguments.split_whitespace())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

async fn run(home: &Path, arguments: &str) -> Output {
    soon(telecon(home, arguments).output()).await.expect("the program starts")
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("no signal")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

#[tokio::test]
async fn without_a_daemon_every_request_says_how_to_start_it_and_exits_with_69() {
    let home = tempfile::tempdir().expect("a directory");
    for verb in [
        "id",
        "connect /ip4/192.0.2.7/tcp/1",
        "call bob",
        "call bob --wait",
        "accept",
        "reject",
        "hangup",
        "calls",
        "status",
        "stats",
        "mute",
        "unmute",
        "deafen",
        "undeafen",
        "contacts list",
        "contacts add did:key:z bob",
        "contacts remove bob",
        "contacts allow bob",
        "contacts export",
        "join",
        "invite 0b1e bob",
        "hold",
        "resume",
        "volume bob 50",
        "dnd on",
        "history",
        "history --seen",
        "watch",
        "status --json",
    ] {
        let output = run(home.path(), verb).await;
        let socket = home.path().join("control.sock");
        let sentence = format!(
            "telecon: the daemon is not running (nothing answers on {}); start it with: telecon daemon\n",
            socket.display()
        );
        assert_eq!((code(&output), stdout(&output), stderr(&output)), (69, String::new(), sentence), "{verb}");
    }
}

#[tokio::test]
async fn devices_and_configuration_need_no_daemon() {
    let home = tempfile::tempdir().expect("a directory");
    for verb in ["devices", "config check", "config show", "config default"] {
        let output = run(home.path(), verb).await;
        assert_eq!((code(&output), stderr(&output).as_str()), (0, ""), "{verb}");
        assert!(!output.stdout.is_empty(), "{verb}");
        let json = run(home.path(), &format!("{verb} --json")).await;
        assert!(serde_json::from_slice::<Value>(&json.stdout).expect("JSON").is_object(), "{verb}");
    }
}

#[tokio::test]
async fn wrong_arguments_exit_with_64() {
    let home = tempfile::tempdir().expect("a directory");
    for arguments in [
        "",
        "cal",
        "call",
        "status x",
        "watch --since x",
        "contacts add did:key:z",
        "reject --reason bored",
        "volume bob 201",
        "volume bob loud",
        "dnd",
        "history --limit 501",
        "invite 0b1e",
    ] {
        let output = run(home.path(), arguments).await;
        assert_eq!((code(&output), stdout(&output).as_str()), (64, ""), "{arguments}");
        assert!(!output.stderr.is_empty());
    }
    assert!(stderr(&run(home.path(), "cal").await).starts_with("telecon: unrecognized subcommand 'cal'\n"));
    for arguments in ["--help", "call --help", "--version", "help", "help call"] {
        assert_eq!(code(&run(home.path(), arguments).await), 0, "{arguments}");
    }
}

#[tokio::test]
async fn a_bad_configuration_exits_with_78_and_names_file_line_key_cause_and_remedy() {
    let home = tempfile::tempdir().expect("a directory");
    let file = home.path().join("telecon.toml");
    std::fs::write(&file, "[network]\nlisen = []\n\n[call]\nring_seconds = 0\n").expect("own directory");
    let said = format!(
        "telecon: {0}:2: network.lisen: there is no such key; did you mean network.listen?\n\
         telecon: {0}:5: call.ring_seconds: 0 seconds are out of range; write a whole number from 1 to 3600\n",
        file.display()
    );
    for verb in ["config check", "config show", "daemon", "devices"] {
        let output = run(home.path(), verb).await;
        assert_eq!((code(&output), stderr(&output), stdout(&output).as_str()), (78, said.clone(), ""), "{verb}");
    }
    let json = run(home.path(), "config check --json").await;
    let answer: Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!((&answer["ok"], &answer["mistakes"][1]["key"]), (&false.into(), &"call.ring_seconds".into()));
    let output = run(home.path(), "daemon --config /no/such.toml").await;
    assert_eq!(code(&output), 78);
    assert!(stderr(&output).starts_with("telecon: /no/such.toml does not exist; "), "{}", stderr(&output));
}

#[tokio::test]
async fn config_check_names_the_keys_that_have_no_effect_yet() {
    let home = tempfile::tempdir().expect("a directory");
    let file = home.path().join("telecon.toml");
    std::fs::write(&file, "[network]\ndht = false\nmdns = false\nbootstrap = []\n[audio]\nauto_gain = true\n")
        .expect("own directory");
    let output = run(home.path(), "config check").await;
    let said = format!(
        "{0} is right\n{0}:2: network.dht has no effect yet\n{0}:4: network.bootstrap has no effect yet\n",
        file.display()
    );
    assert_eq!((code(&output), stdout(&output)), (0, said));
}

#[tokio::test]
async fn config_check_notes_a_file_backend_without_files() {
    let home = tempfile::tempdir().expect("a directory");
    let file = home.path().join("telecon.toml");
    std::fs::write(&file, "[audio]\nbackend = \"file\"\noutput_file = \"/tmp/heard.wav\"\n").expect("own directory");
    let output = run(home.path(), "config check").await;
    let note = "audio.backend is \"file\" and audio.input_file is not set: the others hear silence";
    assert_eq!((code(&output), stdout(&output)), (0, format!("{0} is right\n{0}: {note}\n", file.display())));
    let json: Value = serde_json::from_slice(&run(home.path(), "config check --json").await.stdout).expect("JSON");
    assert_eq!((&json["ok"], &json["notes"]), (&true.into(), &json!([note])));
}

#[tokio::test]
async fn config_check_notes_files_and_a_backend_that_cannot_be_had() {
    let home = tempfile::tempdir().expect("a directory");
    let (file, clip) = (home.path().join("telecon.toml"), home.path().join("clip.wav"));
    std::fs::write(&clip, "no WAV").expect("own directory");
    let output = home.path().join("nowhere/heard.wav");
    let config = format!("[audio]\nbackend = \"file\"\ninput_file = {clip:?}\noutput_file = {output:?}\n");
    std::fs::write(&file, config).expect("own directory");
    let notes = stdout(&run(home.path(), "config check").await);
    assert!(notes.contains("clip.wav of [audio] input_file cannot be spoken"), "{notes}");
    assert!(notes.contains("there is no directory") && notes.contains("/nowhere; make it"), "{notes}");
    if cfg!(not(feature = "pipewire")) {
        std::fs::write(&file, "[audio]\nbackend = \"pipewire\"\n").expect("own directory");
        let notes = stdout(&run(home.path(), "config check").await);
        assert!(notes.contains("this build has no native PipeWire backend"), "{notes}");
    }
}

#[tokio::test]
async fn config_show_hides_passwords_and_config_default_is_a_right_configuration() {
    let home = tempfile::tempdir().expect("a directory");
    let file = home.path().join("telecon.toml");
    let server = "[[network.ice_servers]]\nurls = [\"turn:a.example\"]\nusername = \"me\"\ncredential = \"geheim\"\n";
    std::fs::write(&file, server).expect("own directory");
    for verb in ["config show", "config show --json"] {
        let shown = stdout(&run(home.path(), verb).await);
        assert!(shown.contains("turn:a.example") && !shown.contains("geheim"), "{shown}");
    }
    std::fs::write(&file, stdout(&run(home.path(), "config default").await)).expect("own directory");
    assert_eq!(code(&run(home.path(), "config check").await), 0);
}

#[tokio::test]
async fn json_is_what_the_daemon_said_and_text_is_for_people() {
    let status = json!({ "did": did(1), "peer_id": "12D3", "version": "0.1.0", "uptime_s": 5, "listen": [], "peers": 0,
        "active_call": null, "pending": [], "muted": false, "deafened": false,
        "audio": { "backend": "null", "input": "a", "output": "b" } });
    let said = status.clone();
    let fake = Fake::answering(move |method, _| match method {
        Method::DaemonStatus {} => Some(Ok(said.clone())),
        _ => None,
    });
    let json = run(fake.dir.path(), "status --json").await;
    assert_eq!(serde_json::from_slice::<Value>(&json.stdout).expect("one object"), status);
    assert_eq!(stdout(&json).lines().count(), 1);
    let text = stdout(&run(fake.dir.path(), "status").await);
    assert!(text.starts_with(&format!("did        {}\n", did(1))), "{text}");
}

#[tokio::test]
async fn every_verb_asks_for_what_it_says() {
    let fake = Fake::new();
    let call = || Some("0b1e".to_owned());
    let contact = |address| Method::ContactAdd { did: "did:key:z".into(), name: "bob".into(), address };
    let verbs = [
        ("id", Method::IdentityShow {}),
        ("connect /ip4/x", Method::NetConnect { address: "/ip4/x".into() }),
        ("call bob carol", Method::CallOffer { who: vec!["bob".into(), "carol".into()], closed: false }),
        ("accept", Method::CallAccept { call: None, leave: false }),
        ("call bob --closed", Method::CallOffer { who: vec!["bob".into()], closed: true }),
        ("accept 0b1e --leave", Method::CallAccept { call: call(), leave: true }),
        ("reject 0b1e", Method::CallReject { call: call(), reason: None, text: None }),
        (
            "reject --reason not_now --text later",
            Method::CallReject { call: None, reason: Some("not_now".into()), text: Some("later".into()) },
        ),
        ("join", Method::CallJoin { call: None, leave: false }),
        ("join 0b1e --leave", Method::CallJoin { call: call(), leave: true }),
        ("invite 0b1e bob carol", Method::CallInvite { call: call(), who: vec!["bob".into(), "carol".into()] }),
        ("hold", Method::CallHold { call: None }),
        ("resume 0b1e", Method::CallResume { call: call() }),
        ("dnd on", Method::CallDoNotDisturb { on: true }),
        ("dnd off", Method::CallDoNotDisturb { on: false }),
        ("history", Method::HistoryList { limit: Some(50), before_ms: None }),
        ("history --limit 5 --before 99", Method::HistoryList { limit: Some(5), before_ms: Some(99) }),
        ("volume bob 150", Method::MediaVolume { who: "bob".into(), percent: 150 }),
        ("volume bob 30%", Method::MediaVolume { who: "bob".into(), percent: 30 }),
        ("volume bob off", Method::MediaBlock { who: "bob".into() }),
        ("volume bob on", Method::MediaUnblock { who: "bob".into() }),
        ("hangup 0b1e", Method::CallHangup { call: call() }),
        ("calls", Method::CallList {}),
        ("status", Method::DaemonStatus {}),
        ("stats", Method::MediaStats {}),
        ("mute", Method::MediaMute {}),
        ("unmute", Method::MediaUnmute {}),
        ("deafen", Method::MediaDeafen {}),
        ("undeafen", Method::MediaUndeafen {}),
        ("devices", Method::AudioDevices {}),
        ("device ring hdmi", Method::AudioSelect { direction: Role::Ring, name: "hdmi".into() }),
        ("device input default", Method::AudioSelect { direction: Role::Input, name: "default".into() }),
        ("contacts list", Method::ContactList {}),
        ("contacts add did:key:z bob", contact(None)),
        ("contacts add did:key:z bob --address /ip4/x", contact(Some("/ip4/x".into()))),
        ("contacts remove bob", Method::ContactRemove { who: "bob".into() }),
        ("contacts allow bob", Method::ContactAllow { who: "bob".into() }),
        ("contacts ask bob", Method::ContactAsk { who: "bob".into() }),
        ("contacts block bob", Method::ContactBlock { who: "bob".into() }),
        ("contacts export --json", Method::ContactExport {}),
    ];
    for (verb, _) in &verbs {
        let output = run(fake.dir.path(), verb).await;
        assert_eq!((code(&output), stderr(&output).as_str()), (0, ""), "{verb}");
    }
    assert_eq!(fake.asked(), verbs.map(|(_, method)| method));
}

/// A daemon whose sound is as in these, one after the other; the last one stays.
fn with_sound(states: Vec<Value>) -> Fake {
    let mut states = states.into_iter();
    let mut last = Value::Null;
    Fake::answering(move |method, _| match method {
        Method::DaemonStatus {} => {
            last = states.next().unwrap_or_else(|| last.take());
            Some(Ok(json!({ "audio": last })))
        }
        _ => Some(Ok(json!({ "output": "default", "input": "default" }))),
    })
}

#[tokio::test]
async fn a_test_names_the_device_that_was_opened() {
    let closed = json!({ "input": "default", "output": "default", "capturing": false, "playing": false, "test": null });
    let open = |stage: &str, level_db: i32| {
        let capturing = stage == "listening";
        let test = json!({ "stage": stage, "level_db": level_db, "left_ms": 100 });
        json!({ "input": "headset.mic", "output": "headset", "capturing": capturing, "playing": true, "test": test })
    };
    let all = [closed.clone(), open("listening", -30), open("listening", -20), open("playing", -90), closed.clone()];
    // So long after the tones have ended, too.
    let heard = json!({ "output": "default", "playing": false, "speaker_test": "headset" });
    let speaker = run(with_sound(vec![closed.clone(), heard]).dir.path(), "test speaker").await;
    assert_eq!((code(&speaker), stdout(&speaker).as_str()), (0, "four tones are played through headset\n"));
    let mic = run(with_sound(all.to_vec()).dir.path(), "test mic").await;
    let said = "say something: headset.mic listens for 5 s, then you hear it\nthe loudest was -20 dB\n";
    assert_eq!((code(&mic), stdout(&mic).as_str()), (0, said));
    let json = stdout(&run(with_sound(all.to_vec()).dir.path(), "test mic --json").await);
    let lines: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines[..3], [1, 2, 3].map(|at| all[at]["test"].clone()));
    let over = json!({ "stage": "over", "input": "headset.mic", "heard": true, "loudest_db": -20, "problem": null });
    assert_eq!(lines[3..], [over]);
}

#[tokio::test]
async fn a_device_that_does_not_open_is_an_error_that_says_why() {
    let problem = "no server answers; start one";
    let test = json!({ "stage": "listening", "level_db": -120, "left_ms": 100 });
    let state = json!({ "playing": false, "capturing": false, "speaker_test": null, "problem": problem, "test": test });
    for what in ["speaker", "mic"] {
        let fake = with_sound(vec![state.clone()]);
        let output = run(fake.dir.path(), &format!("test {what}")).await;
        let said = (code(&output), stdout(&output), stderr(&output));
        assert_eq!(said, (14, String::new(), format!("telecon: {problem}\n")));
        assert!(
            what != "mic" || fake.asked().contains(&Method::AudioTestMic { seconds: Some(0) }),
            "nobody listens any more"
        );
    }
    let output = run(with_sound(vec![state]).dir.path(), "test mic --json").await;
    let over = json!({ "stage": "over", "input": null, "heard": false, "loudest_db": -120, "problem": problem });
    let last: Value = serde_json::from_str(stdout(&output).lines().last().expect("a line")).expect("JSON");
    assert_eq!((code(&output), last), (14, over));
}

#[tokio::test]
async fn a_refusal_is_one_sentence_on_stderr_with_its_exit_code() {
    for (word, expected) in [("unknown_contact", 65), ("too_many_calls", 75), ("unreachable", 13), ("bad_params", 64)] {
        let fake = Fake::answering(move |_, _| failure(word, "no contact is called \"bop\"; did you mean bob?"));
        for verb in ["call bop", "call bop --json"] {
            let output = run(fake.dir.path(), verb).await;
            let sentence = "telecon: no contact is called \"bop\"; did you mean bob?\n";
            assert_eq!((code(&output), stdout(&output).as_str(), stderr(&output).as_str()), (expected, "", sentence));
        }
    }
}

#[tokio::test]
async fn what_strangers_wrote_does_not_reach_the_terminal_as_it_is() {
    const EVIL: &str = "\u{1b}]0;owned\u{7}\u{9b}2J\u{202e}\r\n";
    let fake = Fake::answering(|method, _| match method {
        Method::ContactList {} => Some(Ok(json!({ "contacts": [{ "did": "d", "name": EVIL, "address": EVIL }] }))),
        _ => failure("no_such_call", EVIL),
    });
    for verb in ["contacts list", "contacts list --json", "hangup"] {
        let output = run(fake.dir.path(), verb).await;
        let printed = stdout(&output) + &stderr(&output);
        assert!(printed.contains("owned") && printed.contains("u{202e}") | printed.contains("u202e"), "{printed:?}");
        assert!(printed.chars().all(|c| c == '\n' || !c.is_control() && c != '\u{202e}'), "{printed:?}");
    }
}

#[tokio::test]
async fn a_reader_that_has_gone_ends_the_program_quietly() {
    let rows = json!({ "contacts": vec![json!({ "did": "d", "name": "n", "address": "x".repeat(100) }); 5_000] });
    let fake = Fake::answering(move |_, _| Some(Ok(rows.clone())));
    for verb in ["contacts list", "contacts list --json", "config default", "--help"] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut command = telecon(fake.dir.path(), verb);
        let child = command.stdout(writer).stderr(Stdio::piped()).spawn().expect("the program starts");
        let output = soon(child.wait_with_output()).await.expect("it ends");
        assert_eq!((code(&output), stderr(&output).as_str()), (0, ""), "{verb}");
    }
}

#[tokio::test]
async fn a_call_that_is_waited_for_ends_its_waiting_with_its_reader() {
    use tokio::io::{AsyncBufReadExt, BufReader};
    let fake = course(Vec::new());
    let mut command = telecon(fake.dir.path(), "call bob --wait");
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    assert_eq!(soon(lines.next_line()).await.expect("UTF-8"), Some(call(7).to_string()));
    drop(lines);
    let output = soon(child.wait_with_output()).await.expect("it ends, and no event comes");
    assert_eq!((code(&output), stderr(&output).as_str()), (0, ""));
}

#[tokio::test]
async fn contacts_are_exported_a_line_each_and_imported_in_one_request() {
    let bob = json!({ "did": "did:key:zBob", "name": "bob", "policy": "block" });
    let carol = json!({ "did": "did:key:zCarol", "name": "carol" });
    let contacts = json!({ "contacts": [bob, carol] });
    let answers = contacts.clone();
    let fake = Fake::answering(move |method, _| match method {
        Method::ContactExport {} => Some(Ok(answers.clone())),
        _ => Some(Ok(json!({ "added": 1, "changed": 1, "unchanged": 0, "renamed": [{ "from": "bo", "to": "bob" }] }))),
    });
    let exported = run(fake.dir.path(), "contacts export").await;
    assert_eq!((code(&exported), stdout(&exported)), (0, format!("{bob}\n{carol}\n")));
    let file = fake.dir.path().join("contacts.jsonl");
    std::fs::write(&file, &exported.stdout).expect("own directory");
    let imported = run(fake.dir.path(), &format!("contacts import {} --rename", file.display())).await;
    assert_eq!((code(&imported), stderr(&imported).as_str()), (0, ""));
    assert_eq!(stdout(&imported), "1 added, 1 changed, 0 unchanged\nbo is now bob\n");
    match fake.asked().last() {
        Some(Method::ContactImport { contacts: asked, rename: true }) => {
            assert_eq!(json!({ "contacts": asked }), contacts);
        }
        other => panic!("{other:?}"),
    }
    for (text, sentence) in [
        ("{}\n".to_owned(), format!("telecon: {}:1: missing field `did`; ", file.display())),
        (
            format!("{bob}\n").repeat(2_000),
            format!("telecon: {} has more than the 64 KiB of one import", file.display()),
        ),
    ] {
        std::fs::write(&file, text).expect("own directory");
        let refused = run(fake.dir.path(), &format!("contacts import {}", file.display())).await;
        assert_eq!(code(&refused), 65);
        assert!(stderr(&refused).starts_with(&sentence), "{}", stderr(&refused));
    }
    assert_eq!(fake.asked().len(), 2, "nothing of it reached the daemon");
}

#[tokio::test]
async fn the_history_is_marked_as_seen_up_to_what_was_known_before_it_was_read() {
    let fake = Fake::answering(|method, _| match method {
        Method::DaemonStatus {} => Some(Ok(json!({ "seq": 41 }))),
        _ => Some(Ok(json!({ "history": [] }))),
    });
    let output = run(fake.dir.path(), "history --seen").await;
    assert_eq!((code(&output), stdout(&output).as_str()), (0, "no calls\n"));
    let asked = fake.asked();
    assert_eq!(asked[1], Method::HistoryList { limit: Some(50), before_ms: None });
    assert_eq!((&asked[0], &asked[2]), (&Method::DaemonStatus {}, &Method::EventsMark { seq: 41 }));
}

#[tokio::test]
async fn a_watch_ends_with_its_reader_and_does_not_wait_for_an_event() {
    use tokio::io::{AsyncBufReadExt, BufReader};
    let fake = Fake::new();
    for verb in ["watch", "watch --json"] {
        let mut command = telecon(fake.dir.path(), verb);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        soon(async {
            while fake.journal.watchers() == 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        if verb.ends_with("json") {
            soon(lines.next_line()).await.expect("UTF-8").expect("the snapshot");
        }
        drop(lines);
        let output = soon(child.wait_with_output()).await.expect("it ends");
        assert_eq!((code(&output), stderr(&output).as_str()), (0, ""), "{verb}");
        soon(async {
            while fake.journal.watchers() > 0 {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        })
        .await;
    }
}

/// A daemon on which a call to bob takes this course.
fn course(events: Vec<Event>) -> Fake {
    Fake::answering(move |method: &Method, journal: &Journal| -> Answer {
        match method {
            Method::ContactList {} => Some(Ok(json!({ "contacts": [{ "did": did(2), "name": "bob" }] }))),
            Method::CallOffer { .. } => {
                // Before the answer: who does not watch first misses them.
                journal.emit(Event::CallOffered { call: call(7), invitees: vec![did(2)] });
                events.iter().for_each(|event| journal.emit(event.clone()));
                Some(Ok(json!({ "call": call(7) })))
            }
            _ => None,
        }
    })
}

fn changed(state: ParticipantState) -> Event {
    Event::ParticipantChanged { call: call(7), did: did(2), state }
}

#[tokio::test]
async fn a_call_that_is_waited_for_is_done_when_somebody_is_there() {
    use ParticipantState::{Connecting, Joined, Ringing};
    let fake = course(vec![changed(Ringing), changed(Connecting), changed(Joined)]);
    let output = run(fake.dir.path(), "call bob --wait").await;
    let said = format!("{}\nbob ringing\nbob connecting\nbob joined\n", call(7));
    assert_eq!((code(&output), stdout(&output), stderr(&output).as_str()), (0, said, ""));
    let json = run(fake.dir.path(), "call bob --wait --json").await;
    let lines: Vec<Value> =
        stdout(&json).lines().map(|line| serde_json::from_str(line).expect("JSON on every line")).collect();
    assert_eq!(lines[0], json!({ "call": call(7) }));
    assert_eq!(lines.last().expect("some")["state"], "joined");
}

#[tokio::test]
async fn a_call_that_is_waited_for_in_vain_says_why_and_has_its_exit_code() {
    for (reason, expected, sentence) in [
        (EndReason::Declined, 10, "the call was declined"),
        (EndReason::NoAnswer, 11, "nobody answered"),
        (EndReason::Busy, 12, "busy: in another call"),
        (EndReason::Unreachable, 13, "unreachable: no device answered; is the other daemon running and connected?"),
        (EndReason::Gone, 14, "the call was accepted, but no audio connection came about"),
    ] {
        let fake = course(vec![Event::CallEnded { call: call(7), reason }]);
        let output = run(fake.dir.path(), "call bob --wait").await;
        let said = (format!("{}\n", call(7)), format!("telecon: {sentence}\n"));
        assert_eq!((code(&output), (stdout(&output), stderr(&output))), (expected, said));
    }
}

#[tokio::test]
async fn a_no_is_told_with_its_reason_and_its_words() {
    for (reason, text, ended, expected, said) in [
        (DeclineReason::NotNow, Some("in an hour?"), EndReason::Declined, 10, "bob declined: not now, \"in an hour?\""),
        (DeclineReason::DoNotDisturb, None, EndReason::Declined, 10, "bob declined: do not disturb"),
        (DeclineReason::Declined, None, EndReason::Declined, 10, "bob declined"),
        (DeclineReason::Busy, None, EndReason::Busy, 12, "bob declined: busy"),
    ] {
        let text = text.map(|text| text.parse().expect("a note"));
        let declined = Event::ParticipantDeclined { call: call(7), did: did(2), reason, text };
        let over = Event::CallEnded { call: call(7), reason: ended };
        let fake = course(vec![declined, changed(ParticipantState::Declined), over]);
        let output = run(fake.dir.path(), "call bob --wait").await;
        assert_eq!((code(&output), stdout(&output)), (expected, format!("{}\n{said}\n", call(7))));
    }
}

#[tokio::test]
async fn a_daemon_that_ends_while_a_call_is_waited_for_is_told() {
    let mut fake = course(vec![changed(ParticipantState::Ringing)]);
    let mut command = telecon(fake.dir.path(), "call bob --wait");
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
    soon(async {
        while !fake.asked().iter().any(|method| matches!(method, Method::CallOffer { .. })) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    soon(fake.server.take().expect("running").shutdown()).await;
    let output = soon(child.wait_with_output()).await.expect("it ends");
    assert_eq!(code(&output), 69, "{}", stderr(&output));
}

#[tokio::test]
async fn watch_prints_what_is_kept_and_then_what_happens() {
    use tokio::io::{AsyncBufReadExt, BufReader};
    let fake = course(Vec::new());
    fake.journal.emit(changed(ParticipantState::Ringing));
    for (arguments, first, second) in [
        ("watch --since 0", "00:00:01Z     1  07070707 bob ringing", "00:00:01Z     2  07070707 bob joined"),
        ("watch --since 2 --json", "", ""),
    ] {
        let mut command = telecon(fake.dir.path(), arguments);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the program starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let first_line = soon(lines.next_line()).await.expect("UTF-8").expect("a line");
        fake.journal.emit(changed(ParticipantState::Joined));
        let second_line = soon(lines.next_line()).await.expect("UTF-8").expect("a line");
        if arguments.ends_with("json") {
            let [snapshot, event] = [&first_line, &second_line]
                .map(|line| serde_json::from_str::<Value>(line).expect("JSON on every line"));
            assert_eq!((&snapshot["event"], &snapshot["seq"]), (&"snapshot".into(), &2.into()));
            assert_eq!((&event["seq"], &event["state"]), (&3.into(), &"joined".into()));
        } else {
            assert_eq!((first_line.as_str(), second_line.as_str()), (first, second));
        }
        child.kill().await.expect("own child");
    }
}
