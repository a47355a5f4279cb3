//! The demo with real daemons: green when everybody is heard, red when somebody is not, gone when it is interrupted.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use telecon::{
    control::wire::Method,
    demo::{self, Options, cast::Cast, report},
};

use crate::support::daemon::{NO_SYSTEM_BUS, PROGRAM, program};

/// Command lines of the processes that have `marker` in theirs: each daemon of a demo names its home.
fn processes_of(marker: &Path) -> Vec<String> {
    let marker = marker.to_string_lossy().into_owned();
    let entries = fs::read_dir("/proc").expect("Linux").flatten();
    let lines = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " ")).filter(|line| line.contains(&marker)).collect()
}

fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).unwrap().next().is_none()
}

#[test]
fn three_daemons_really_hear_each_other_and_leave_only_their_recordings() {
    let (work, temporary) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let output = program()
        .args(["demo", "--participants", "3", "--seconds", "6", "--json"])
        .current_dir(work.path())
        .env("TMPDIR", temporary.path())
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");

    let result: Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    assert_eq!(result["ok"], true, "{result}");
    let participants = result["participants"].as_array().unwrap();
    assert_eq!(participants.len(), 3);
    for participant in participants {
        let wav = Path::new(participant["wav"].as_str().unwrap());
        assert!(wav.starts_with(work.path().canonicalize().unwrap()) && wav.exists(), "{}", wav.display());
        assert_eq!(participant["heard"].as_array().unwrap().len(), 2);
        for heard in participant["heard"].as_array().unwrap() {
            assert!(heard["correlation"].as_f64().unwrap() >= 0.8, "{heard}");
            assert_ne!(heard["did"], participant["did"], "nobody hears itself");
            assert!(heard["latency_ms"].is_f64() && heard["loss_pct"].is_number(), "{heard}");
        }
    }
    assert!(result["setup_ms"].is_u64() && result["connected_ms"].is_u64(), "{result}");
    println!("set-up {} ms, accept to first audio {} ms", result["setup_ms"], result["connected_ms"]);
    assert!(is_empty(temporary.path()), "the daemons' homes are still there");
    assert_eq!(processes_of(temporary.path()), Vec::<String>::new());
}

#[tokio::test]
async fn a_demo_in_which_one_participant_is_muted_is_not_ok() {
    let work = tempfile::tempdir().unwrap();
    let mut options = Options::new(3, 6).unwrap();
    // The daemons take this process's environment; what starts them takes the system bus out of it.
    let (start, (name, nowhere)) = (work.path().join("start"), NO_SYSTEM_BUS);
    let script = format!("#!/bin/sh\n{name}={nowhere} exec {PROGRAM} \"$@\"\n");
    let mut shell = Command::new("sh");
    let written = shell.args(["-c", "printf %s \"$1\" > \"$0\" && chmod 755 \"$0\""]).arg(&start).arg(script);
    assert!(written.status().unwrap().success());
    options.program = start;
    let voices = options.voices();
    let mut cast = Cast::new().unwrap();
    cast.start(&options.program, &voices).await.unwrap();
    cast.introduce().await.unwrap();
    cast.request(1, Method::MediaMute {}).await.unwrap();
    let setup = cast.call().await.unwrap();
    demo::listen(&mut cast, options.seconds(), &mut |_| ()).await.unwrap();
    let seen = cast.observe().await.unwrap();
    cast.stop().await.unwrap();

    let report = report::report(&voices, &seen, setup, work.path()).unwrap();
    assert!(!report.ok, "{report:?}");
    for participant in &report.participants {
        for heard in &participant.heard {
            let expected = heard.name != "Ben";
            assert_eq!(heard.correlation >= 0.8, expected, "{} of {}: {heard:?}", participant.name, heard.name);
        }
    }
}

#[test]
fn an_interrupted_demo_leaves_no_process_and_no_file() {
    let (work, temporary) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut child = program()
        .args(["demo", "--seconds", "60"])
        .current_dir(work.path())
        .env("TMPDIR", temporary.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut progress = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("is connected") {
        line.clear();
        assert_ne!(progress.read_line(&mut line).unwrap(), 0, "it ended before it was interrupted");
    }
    assert_eq!(processes_of(temporary.path()).len(), 3);

    let pid = Pid::from_raw(child.id().cast_signed()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    let mut rest = String::new();
    progress.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest}");
    assert!(rest.contains("interrupted"), "{rest}");
    assert_eq!(processes_of(temporary.path()), Vec::<String>::new());
    assert!(is_empty(temporary.path()) && is_empty(work.path()));
}

#[test]
fn a_demo_that_cannot_write_its_recordings_says_so_before_it_starts_anything() {
    let work = tempfile::tempdir().unwrap();
    fs::write(work.path().join("telecon-demo"), "in the way").unwrap();
    let output = program().arg("demo").current_dir(work.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(70), "{said}");
    assert!(said.starts_with("telecon: the recordings cannot be put into /"), "{said}");
}

#[test]
fn a_demo_with_too_many_participants_says_how_many_voices_there_are() {
    let output = program().args(["demo", "--participants", "9"]).output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("2 to 8 participants"), "{said}");
}
