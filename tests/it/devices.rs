//! A daemon and its sound server over time: what it opens it closes, and what it is told it does not ask.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::{
    daemon::{Daemon, Start},
    pulse::PulseServer,
    speech::speech,
    wav,
};

fn daemon_at(server: &PulseServer) -> Daemon {
    Daemon::start_with(Start {
        config: "[audio]\nbackend = \"pulseaudio\"\n[call]\nauto_accept = \"all\"\n".into(),
        env: vec![("PULSE_SERVER".into(), server.address()), ("HOME".into(), server.home().display().to_string())],
        ..Start::default()
    })
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let limit = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < limit, "waited in vain for {what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

#[test]
fn devices_are_listed_with_the_default_ones_and_with_what_only_hears_a_speaker() {
    let server = PulseServer::start();
    server.plug_in("headset", 48_000, 2);
    let mut listed: Vec<String> = daemon_at(&server).json(&["devices"])["devices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|device| {
            let mark = |mark: &str| if device[mark] == true { format!(" {mark}") } else { String::new() };
            let [direction, name] = ["direction", "name"].map(|field| device[field].as_str().unwrap());
            format!("{direction} {name}{}{}", mark("default"), mark("monitor"))
        })
        .collect();
    listed.sort();
    let expected = [
        "input headset.monitor monitor",
        "input microphone.monitor default monitor",
        "input speaker.monitor monitor",
        "output headset",
        "output microphone",
        "output speaker default",
    ];
    assert_eq!(listed, expected);
}

#[test]
fn connections_to_the_sound_server_do_not_pile_up() {
    let server = PulseServer::start();
    server.plug_in("headset", 48_000, 2);
    let mut ada = daemon_at(&server);
    let clients = || server.list("clients").lines().count();
    ada.until(&["status"], |status| status["audio"]["backend"] == "pulseaudio");
    let idle = clients();
    for name in ["headset", "default", "headset"] {
        ada.json(&["devices"]);
        ada.json(&["device", "output", name]);
        ada.json(&["test", "speaker"]);
        assert!(ada.run(&["test", "mic", "--seconds", "1"]).status.success());
        ada.until(&["status"], |status| status["audio"]["playing"] == false && status["audio"]["test"].is_null());
    }
    until("all but one connection to be closed", || clients() <= idle);
}

#[test]
fn a_sound_server_that_is_missing_is_logged_once_for_all_that_need_it() {
    let ada = Daemon::start_with(Start {
        config: "[audio]\nbackend = \"pulseaudio\"\n".into(),
        env: vec![("PULSE_SERVER".into(), "unix:/nonexistent".into())],
        ..Start::default()
    });
    for what in ["speaker", "mic", "speaker"] {
        let output = ada.run(&["test", what]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            output.status.code() == Some(14) && said.contains("no PulseAudio or PipeWire server answers"),
            "{said}"
        );
    }
    let log = ada.log();
    assert_eq!(log.matches("no PulseAudio or PipeWire server answers").count(), 1, "{log}");
}

#[test]
fn without_a_sound_server_its_lack_is_named_and_libasound_fills_no_log() {
    let ada = Daemon::start_with(Start {
        config: "[audio]\nbackend = \"auto\"\n".into(),
        env: ["PULSE_SERVER", "ALSA_CONFIG_PATH"].map(|name| (name.into(), "unix:/nonexistent".into())).into(),
        ..Start::default()
    });
    for what in ["speaker", "mic"] {
        let output = ada.run(&["test", what]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(14) && said.contains("start PulseAudio or PipeWire"), "{said}");
    }
    let log = ada.log();
    assert!(!log.contains("ALSA lib"), "{log}");
}

/// A daemon whose two devices are open, and the one that it talks to.
fn in_call(server: &PulseServer) -> (Daemon, Daemon) {
    let mut ada = daemon_at(server);
    let mut ben = Daemon::start("[audio]\nbackend = \"null\"\n");
    ben.connect(&mut ada);
    ben.json(&["call", &ada.did]);
    ada.until(&["status"], |status| status["audio"]["capturing"] == true && status["audio"]["playing"] == true);
    (ada, ben)
}

#[test]
fn in_a_call_the_sound_server_is_not_asked_for_what_it_tells() {
    /// Where nobody tells, lists are read every two seconds, and once more six seconds after a change.
    const LONGER: Duration = Duration::from_secs(7);
    let server = PulseServer::start();
    let (ada, _ben) = in_call(&server);
    until("seven seconds in which the look-out sleeps without a break", || {
        let sleeps = ada.sleeps("audio-watch");
        std::thread::park_timeout(LONGER);
        sleeps.is_some() && ada.sleeps("audio-watch") == sleeps
    });
}

#[test]
fn a_sound_server_that_hangs_in_a_call_is_told_of_until_it_goes_on() {
    let server = PulseServer::start();
    let (mut ada, _ben) = in_call(&server);
    server.signal(Signal::STOP);
    ada.until(&["status"], |status| {
        let problem = status["audio"]["problem"].as_str().unwrap_or_default();
        problem.contains("microphone.monitor has given no sound") && problem.contains("speaker has taken no sound")
    });
    server.signal(Signal::CONT);
    ada.until(&["status"], |status| status["audio"]["problem"].is_null());
}

#[test]
fn who_talks_to_a_speaker_beside_a_microphone_does_not_come_back() {
    const SECOND: usize = 48_000;
    let server = PulseServer::start();
    let beside = ["module-loopback", "source=speaker.monitor", "sink=microphone", "latency_msec=50"];
    assert!(server.pactl(&[&["load-module"][..], &beside].concat()));
    let files = tempfile::tempdir().unwrap();
    let (says, hears) = (files.path().join("says.wav"), files.path().join("hears.wav"));
    let clip = speech(10.0);
    wav::write(&says, &clip);
    let mut ada = daemon_at(&server);
    let mut ben =
        Daemon::start(&format!("[audio]\nbackend = \"file\"\ninput_file = {says:?}\noutput_file = {hears:?}\n"));
    ben.connect(&mut ada);
    let microphone = server.record("microphone");
    ben.json(&["call", &ada.did]);
    until("Ben's voice in Ada's microphone", || microphone.loud().is_some());
    let power = |sound: &[f32]| sound.iter().map(|sample| sample * sample).sum::<f32>() / sound.len() as f32;
    let begin = wav::read(&hears).len();
    until("three seconds in which what comes back is 20 dB weaker", || {
        let heard = wav::read(&hears);
        let last = &heard[begin.max(heard.len().saturating_sub(3 * SECOND)).min(heard.len())..];
        last.len() == 3 * SECOND && last.chunks(SECOND).all(|second| power(second) < 0.01 * power(&clip))
    });
}
