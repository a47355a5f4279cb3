//! Recordings of real calls, played by an independent decoder: in step with what was heard, playable after a crash, and never
//! without the others being shown that there is one.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use serde_json::Value;
use telecon::demo::correlate::Haystack;

use crate::support::{
    daemon::{Daemon, Start},
    namespace::Namespace,
    speech::speech,
    wav,
};

/// For files to be complete.
const PATIENCE: Duration = Duration::from_secs(10);
const SILENT: &str = "[audio]\nbackend = \"null\"\n[call]\nauto_accept = \"all\"\n";
/// Samples in a millisecond at 48 kHz.
const PER_MS: usize = 48;
const SECOND: usize = 1000 * PER_MS;

/// What a player makes of the file, which has to have sound in it.
fn play(file: &Path) -> Vec<f32> {
    try_to_play(file).unwrap_or_else(|refused| panic!("{}: {refused}", file.display()))
}

fn try_to_play(file: &Path) -> Result<Vec<f32>, String> {
    let output =
        Command::new("opusdec").args(["--quiet", "--rate", "48000", "--no-dither"]).arg(file).arg("-").output();
    let output = output.expect("this test needs opusdec: apt-get install opus-tools");
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let samples = output.stdout.as_chunks::<2>().0.iter();
    Ok(samples.map(|bytes| f32::from(i16::from_le_bytes(*bytes)) / 32_768.0).collect())
}

/// The recorder has ended every file, with a last page that says so (RFC 3533, §6).
fn all_complete(directory: &Path) -> bool {
    let is_complete = |path: PathBuf| {
        let bytes = fs::read(path).unwrap();
        let last_page = bytes.windows(4).rposition(|word| word == b"OggS");
        last_page.and_then(|at| bytes.get(at + 5)).is_some_and(|flags| flags & 4 != 0)
    };
    fs::read_dir(directory).unwrap().all(|file| is_complete(file.unwrap().path()))
}

fn until_complete(directory: &Path) {
    let limit = Instant::now() + PATIENCE;
    while !all_complete(directory) {
        assert!(Instant::now() < limit, "{} is never complete", directory.display());
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

fn play_all(directory: &Path) -> BTreeMap<String, Vec<f32>> {
    let files = fs::read_dir(directory).unwrap().map(|file| file.unwrap().path());
    files.map(|path| (path.file_stem().unwrap().to_str().unwrap().to_owned(), play(&path))).collect()
}

/// A daemon in the namespace that says the clip, and writes down what it hears.
fn speaker(namespace: &Namespace, files: &Path, name: &str, clip: &[f32]) -> Daemon {
    let (says, hears) = (files.join(format!("{name}-says.wav")), files.join(format!("{name}-hears.wav")));
    wav::write(&says, clip);
    let audio = format!("[audio]\nbackend = \"file\"\ninput_file = {says:?}\noutput_file = {hears:?}\n");
    let config = format!("{audio}[call]\nauto_accept = \"all\"\n");
    Daemon::start_with(Start { config, through: namespace.enter(), ..Start::default() })
}

fn records(calls: &Value, did: &str) -> bool {
    let calls = calls["calls"].as_array().cloned().unwrap_or_default();
    let mut others = calls.iter().flat_map(|call| call["participants"].as_array().cloned().unwrap_or_default());
    others.any(|other| other["did"] == did && other["recording"] == true)
}

/// Waits until that one is shown as recording, or not as that.
fn until_records(daemon: &mut Daemon, did: &str, recording: bool) {
    daemon.until(&["calls"], |calls| records(calls, did) == recording);
}

fn directory(answer: &Value) -> PathBuf {
    answer["directory"].as_str().expect("a directory").into()
}

fn bytes(file: &Path) -> u64 {
    fs::metadata(file).map_or(0, |file| file.len())
}

/// Waits until the recording is longer by that much.
fn until_longer(daemon: &mut Daemon, directory: &Path, seconds: usize) {
    // For the first half second there is nothing to play.
    let samples = || try_to_play(&directory.join("mixed.opus")).map_or(0, |played| played.len());
    let wanted = samples() + seconds * SECOND;
    daemon.until(&["status"], |_| samples() >= wanted);
}

/// The seconds of a file in which somebody speaks, and which they are.
fn spoken(file: &[f32]) -> impl Iterator<Item = (usize, &[f32])> {
    let power = |piece: &[f32]| piece.iter().map(|sample| sample * sample).sum::<f32>() / piece.len() as f32;
    file.chunks_exact(SECOND).enumerate().filter(move |(_, piece)| power(piece) > 1e-4)
}

/// How many samples later each second of one's file is in what was heard; it is looked for anywhere, or around what is
/// expected.
fn shifts(file: &[f32], heard: &mut Haystack, expected: Option<i64>) -> BTreeMap<usize, i64> {
    let found = spoken(file).filter_map(|(number, piece)| {
        let from = (number * SECOND) as i64;
        let lags = match expected {
            Some(shift) => {
                let around = usize::try_from(from + shift).unwrap_or(0);
                around.saturating_sub(SECOND / 2)..around + SECOND / 2
            }
            None => 0..heard.lags(SECOND),
        };
        let (at, fits) = heard.best(piece, lags)?;
        (fits > 0.6).then(|| (number, at as i64 - from))
    });
    found.collect()
}

#[test]
fn all_files_are_in_step_with_what_was_heard_over_loss_mute_and_coming_back() {
    let namespace = Namespace::new();
    let mut firewall = namespace.firewall();
    let files = tempfile::tempdir().unwrap();
    // Longer than the call, so that nothing is said twice before somebody comes back.
    let clip = speech(120.0);
    let (first, second) = clip.split_at(60 * SECOND);
    let mut ada = speaker(&namespace, files.path(), "ada", first);
    let mut ben = speaker(&namespace, files.path(), "ben", second);
    let mut cyn = speaker(&namespace, files.path(), "cyn", &clip[SECOND..2 * SECOND]);
    ada.connect(&mut ben);
    cyn.connect(&mut ada);
    cyn.connect(&mut ben);
    cyn.json(&["contacts", "add", &ada.did, "ada"]);
    cyn.json(&["contacts", "add", &ben.did, "ben"]);
    cyn.json(&["call", "ada", "ben"]);
    let me = cyn.did.clone();
    for other in [&mut ada, &mut ben] {
        cyn.until_shown(&other.did, "joined");
        other.until_shown(&me, "joined");
        assert!(!records(&other.json(&["calls"]), &me));
    }
    let directory = directory(&cyn.json(&["record", "start", files.path().join("kept").to_str().unwrap()]));
    for other in [&mut ada, &mut ben] {
        until_records(other, &me, true);
    }
    until_longer(&mut cyn, &directory, 3);
    firewall.lose_percent(10);
    until_longer(&mut cyn, &directory, 4);
    ada.json(&["mute"]);
    until_longer(&mut cyn, &directory, 2);
    ada.json(&["unmute"]);
    ada.json(&["hangup"]);
    cyn.until_shown(&ada.did, "left");
    until_longer(&mut cyn, &directory, 1);
    ada.json(&["join"]);
    cyn.until_shown(&ada.did, "joined");
    // Who comes back is told with the first word.
    until_records(&mut ada, &me, true);
    until_longer(&mut cyn, &directory, 4);
    cyn.json(&["record", "stop"]);
    assert!(all_complete(&directory), "they can be played at once");
    for other in [&mut ada, &mut ben] {
        until_records(other, &me, false);
    }
    cyn.json(&["hangup"]);
    cyn.terminate();

    let played = play_all(&directory);
    assert_eq!(played.keys().collect::<Vec<_>>(), ["ada", "ben", "mixed", "own"], "one file a person");
    let lengths: Vec<usize> = played.values().map(Vec::len).collect();
    assert!(lengths.iter().all(|length| *length == lengths[0]), "{lengths:?}");
    let mut heard = Haystack::new(wav::read(&files.path().join("cyn-hears.wav")));
    let mut mixed = Haystack::new(played["mixed"].clone());
    // On a slow machine the call is longer than the clip, and some of it said again.
    let mut anywhere: Vec<i64> = shifts(&played["ben"], &mut heard, None).into_values().collect();
    anywhere.sort_unstable();
    let [adas, bens] = ["ada", "ben"].map(|name| shifts(&played[name], &mut heard, Some(anywhere[anywhere.len() / 2])));
    println!("later in the speaker than in the file, in samples: {adas:?} and {bens:?}");
    assert!(adas.len() >= 6 && bens.len() >= 6, "not everything was recorded");
    // Where the machine stands still, what is heard of all of them comes later.
    for (second, shift) in &adas {
        let apart = bens.get(second).map_or(0, |other| (shift - other).abs());
        assert!(apart <= 20 * PER_MS as i64, "second {second}: {:.1} ms apart", apart as f64 / PER_MS as f64);
    }
    let all_files = [&played["ada"], &played["ben"], &played["own"]];
    let sum: Vec<f32> = (0..lengths[0]).map(|at| all_files.iter().map(|file| file[at]).sum()).collect();
    for (number, piece) in spoken(&sum) {
        let from = number * SECOND;
        let (_, fits) = mixed.best(piece, from.saturating_sub(PER_MS)..from + PER_MS).expect("the mix is as long");
        assert!(fits > 0.9, "second {number} of the mix is not the sum of the others': {fits}");
    }
}

#[test]
fn what_was_said_before_a_kill_can_be_played_and_nobody_goes_on_recording_in_secret() {
    let namespace = Namespace::new();
    let files = tempfile::tempdir().unwrap();
    let clip = speech(3.0);
    let mut ada = speaker(&namespace, files.path(), "ada", &clip);
    let mut ben = speaker(&namespace, files.path(), "ben", &clip);
    ben.connect(&mut ada);
    ada.json(&["call", &ben.did]);
    ada.until_shown(&ben.did, "joined");
    let directory = directory(&ada.json(&["record", "start"]));
    assert!(directory.starts_with(ada.home().join("recordings")), "{}", directory.display());
    until_records(&mut ben, &ada.did, true);
    // Longer than the clip and one of its seconds, so that each of them is in it whole, wherever it began.
    until_longer(&mut ada, &directory, 5);
    let before = play_all(&directory);
    ada.kill();
    let after = play_all(&directory);
    assert_eq!(after.len(), 3, "own, Ben's and mixed");
    for (name, played) in &after {
        assert!(played.len() >= before[name].len(), "{name}");
    }
    let mut own = Haystack::new(after["own"].clone());
    // The machine may stand still while one of them is said.
    let fits: Vec<_> = spoken(&clip).filter_map(|(_, second)| Some(own.best(second, 0..own.lags(SECOND))?.1)).collect();
    assert!(fits.iter().any(|fits| *fits > 0.9), "{fits:?}");

    ada.restart();
    ada.until_shown(&ben.did, "joined");
    assert_eq!(ada.json(&["status"])["recording"], Value::Null);
    until_records(&mut ben, &ada.did, false);
    let bytes_before = bytes(&directory.join("own.opus"));
    // The same call once more: another recording, and the first one stays as it is.
    let again = self::directory(&ada.json(&["record", "start"]));
    assert_ne!(again, directory);
    until_records(&mut ben, &ada.did, true);
    until_longer(&mut ada, &again, 1);
    assert_eq!(bytes(&directory.join("own.opus")), bytes_before);
}

#[test]
fn a_full_disk_ends_the_recording_with_a_reason_and_not_the_call() {
    let files = tempfile::tempdir().unwrap();
    let says = files.path().join("says.wav");
    wav::write(&says, &speech(2.0));
    let audio = format!("[audio]\nbackend = \"file\"\ninput_file = {says:?}\n[call]\nauto_accept = \"all\"\n");
    let (mut ada, disk) = Daemon::start_on_disk(&audio, 4096);
    let mut ben = Daemon::start(SILENT);
    ada.connect(&mut ben);
    ada.json(&["call", &ben.did]);
    ada.until_shown(&ben.did, "joined");
    ada.json(&["record", "start"]);
    until_records(&mut ben, &ada.did, true);
    disk.fill();
    let status = ada.until(&["status"], |status| status["recording"].is_null());
    let problem = status["recording_problem"].as_str().unwrap_or_default();
    assert!(problem.contains("recordings/") && problem.contains("space"), "{status}");
    until_records(&mut ben, &ada.did, false);
    ada.until_shown(&ben.did, "joined");
    let refused = ada.run(&["record", "start"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(65) && said.contains("space"), "{said}");
    for recording in fs::read_dir(ada.home().join("recordings")).unwrap().map(|recording| recording.unwrap().path()) {
        let played = play_all(&recording);
        assert!(!played.is_empty() && played.values().all(|samples| !samples.is_empty()), "{}", recording.display());
    }
    disk.free();
    ada.json(&["record", "start"]);
    until_records(&mut ben, &ada.did, true);
    assert_eq!(ada.json(&["status"])["recording_problem"], Value::Null);
}

#[test]
fn on_hold_nothing_is_recorded_and_one_call_is_at_a_time() {
    let mut ada = Daemon::start(SILENT);
    let (mut ben, mut cyn) = (Daemon::start(SILENT), Daemon::start(SILENT));
    ada.connect(&mut ben);
    ada.connect(&mut cyn);
    let none = ada.run(&["record", "start"]);
    assert_eq!(none.status.code(), Some(65), "there is no call");
    let first = ada.json(&["call", &ben.did])["call"].as_str().unwrap().to_owned();
    ada.until_shown(&ben.did, "joined");
    let directory = directory(&ada.json(&["record", "start"]));
    assert_eq!(self::directory(&ada.json(&["record", "start"])), directory, "twice is once");
    until_records(&mut ben, &ada.did, true);
    ada.json(&["call", &cyn.did]);
    ada.until_shown(&cyn.did, "joined");
    until_records(&mut ben, &ada.did, false);
    let status = ada.json(&["status"]);
    assert_eq!((&status["recording"]["call"], &status["recording"]["paused"]), (&first.clone().into(), &true.into()));
    let refused = ada.run(&["record", "start"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("telecon record stop"), "{refused:?}");
    assert!(!records(&cyn.json(&["calls"]), &ada.did));
    ada.json(&["resume", &first]);
    until_records(&mut ben, &ada.did, true);
    ada.json(&["hangup", &first]);
    ada.until(&["status"], |status| status["recording"].is_null());
    assert_eq!(ada.run(&["record", "stop"]).status.code(), Some(65), "it ended with the call");
    until_complete(&directory);
    let played = play_all(&directory);
    assert_eq!(played["own"].len(), played["mixed"].len());
}

#[test]
fn who_accepts_a_call_that_is_recorded_is_told_so() {
    let mut ada = Daemon::start("[audio]\nbackend = \"null\"\n");
    let mut ben = Daemon::start("[audio]\nbackend = \"null\"\n");
    ada.connect(&mut ben);
    ben.json(&["contacts", "add", &ada.did, "ada"]);
    ada.json(&["call", &ben.did]);
    ada.json(&["record", "start"]);
    until_records(&mut ben, &ada.did, true);
    let accepted = ben.run(&["accept"]);
    let said = String::from_utf8_lossy(&accepted.stdout).into_owned();
    assert!(said.contains("ada records this call\n"), "{said}");
    let shown = String::from_utf8_lossy(&ben.run(&["status"]).stdout).into_owned();
    assert!(shown.contains("records"), "{shown}");
    let own = String::from_utf8_lossy(&ada.run(&["status"]).stdout).into_owned();
    assert!(own.contains("recording"), "{own}");
}
