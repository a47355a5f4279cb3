//! A daemon and its sound server over time: what it opens it closes, and what it is told it does not ask.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::{
    daemon::{Daemon, Start},
    pulse::PulseServer,
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
fn in_a_call_the_sound_server_is_not_asked_for_what_it_tells() {
    /// Where nobody tells, lists are read every two seconds, and once more six seconds after a change.
    const LONGER: Duration = Duration::from_secs(7);
    let server = PulseServer::start();
    let mut ada = daemon_at(&server);
    let mut ben = Daemon::start("[audio]\nbackend = \"null\"\n");
    ben.connect(&mut ada);
    ben.json(&["call", &ada.did]);
    ada.until(&["status"], |status| status["audio"]["capturing"] == true && status["audio"]["playing"] == true);
    until("seven seconds in which the look-out sleeps without a break", || {
        let sleeps = ada.sleeps("audio-watch");
        std::thread::park_timeout(LONGER);
        sleeps.is_some() && ada.sleeps("audio-watch") == sleeps
    });
}

#[test]
fn a_sound_server_that_hangs_in_a_call_is_told_of_until_it_goes_on() {
    let server = PulseServer::start();
    let mut ada = daemon_at(&server);
    let mut ben = Daemon::start("[audio]\nbackend = \"null\"\n");
    ben.connect(&mut ada);
    ben.json(&["call", &ada.did]);
    ada.until(&["status"], |status| status["audio"]["capturing"] == true && status["audio"]["playing"] == true);
    server.signal(Signal::STOP);
    ada.until(&["status"], |status| {
        let problem = status["audio"]["problem"].as_str().unwrap_or_default();
        problem.contains("microphone.monitor has given no sound") && problem.contains("speaker has taken no sound")
    });
    server.signal(Signal::CONT);
    ada.until(&["status"], |status| status["audio"]["problem"].is_null());
}
