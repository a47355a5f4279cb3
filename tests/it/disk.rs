//! Disks that are full or cannot be written, and a real daemon on them: calls go on, keys stay, and the sentence names the remedy.

use std::{fs, path::Path, process::Output};

use serde_json::Value;

use crate::support::{
    daemon::{Daemon, NO_SYSTEM_BUS, PROGRAM},
    disk::Disk,
};

const SILENT: &str = "[audio]\nbackend = \"null\"\n[call]\nauto_accept = \"all\"\n";

/// The first lets the second's call in; both have joined.
fn talk(caller: &mut Daemon, callee: &mut Daemon) {
    caller.json(&["call", &callee.did]);
    caller.until_shown(&callee.did.clone(), "joined");
    callee.until_shown(&caller.did.clone(), "joined");
}

/// More sound from that participant arrives than had arrived.
fn is_heard(daemon: &mut Daemon, from: &str) {
    let packets = |stats: &Value| {
        let legs = stats["legs"].as_array().cloned().unwrap_or_default();
        legs.iter().find(|leg| leg["did"] == from).and_then(|leg| leg["packets_received"].as_u64()).unwrap_or(0)
    };
    let before = packets(&daemon.json(&["stats"]));
    daemon.until(&["stats"], |stats| packets(stats) > before + 20);
}

fn events(daemon: &Daemon) -> u64 {
    daemon.json(&["status"])["seq"].as_u64().unwrap()
}

/// Presses mute and unmute so often that what is told of it needs new pages.
fn chatter(daemon: &mut Daemon) {
    let before = events(daemon);
    for _ in 0..50 {
        daemon.json(&["mute"]);
        daemon.json(&["unmute"]);
    }
    assert_eq!(events(daemon), before + 100, "numbers go on");
}

#[test]
fn a_call_survives_that_the_disk_becomes_full_and_the_next_one_does_too() {
    let (mut ada, disk) = Daemon::start_on_disk(SILENT, 2048);
    let mut ben = Daemon::start(SILENT);
    ada.connect(&mut ben);
    talk(&mut ada, &mut ben);
    ada.json(&["contacts", "add", &ben.did, "ben"]);
    disk.fill();

    chatter(&mut ada);
    let names = (ada.did.clone(), ben.did.clone());
    is_heard(&mut ada, &names.1);
    is_heard(&mut ben, &names.0);
    // What the user asks of the disk is refused with the reason, and what is there can be read.
    let refused = ada.run(&["contacts", "remove", "ben"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        refused.status.code() == Some(75) && said.contains("telecon.db") && said.contains("free some space"),
        "{said}"
    );
    assert_eq!(ada.json(&["contacts", "list"])["contacts"][0]["name"], "ben");
    // One call ends and the next begins.
    ada.json(&["hangup"]);
    ben.until(&["calls"], |calls| calls["calls"].as_array().is_some_and(Vec::is_empty));
    talk(&mut ben, &mut ada);
    let told = |daemon: &Daemon, words: &str| daemon.log().matches(words).count();
    assert_eq!(told(&ada, "will be missing in the database"), 1, "{}", ada.log());

    disk.free();
    ada.json(&["contacts", "remove", "ben"]);
    assert_eq!(told(&ada, "can be written again"), 1, "{}", ada.log());
    let did = ada.did.clone();
    ada.kill();
    ada.restart();
    assert_eq!(ada.did, did);
    assert!(ada.json(&["contacts", "list"])["contacts"].as_array().unwrap().is_empty());
}

/// A daemon's home on a disk of its own, without a daemon.
struct Idle {
    home: tempfile::TempDir,
    disk: Disk,
}

impl Idle {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let disk = Disk::over(home.path(), 512);
        Self { home, disk }
    }

    /// Starts a daemon that must end by itself.
    fn start(&self) -> Output {
        let mut timeout = self.disk.command("timeout");
        timeout
            .args(["60", PROGRAM, "--home"])
            .arg(self.home.path())
            .arg("daemon")
            .envs([NO_SYSTEM_BUS])
            .output()
            .unwrap()
    }

    /// Starts one that runs, asks it who it is, and ends it.
    fn run_once(&self) {
        let script = r#"
            "$0" --home "$1" daemon 2>"$1/log" & daemon=$!
            until "$0" --home "$1" status >/dev/null 2>&1; do kill -0 $daemon || exit 1; sleep 0.05; done
            kill $daemon && wait $daemon; rm "$1/log"
        "#;
        let config = "[network]\nlisten = []\nmdns = false\n[audio]\nbackend = \"null\"\n";
        fs::write(self.path().join("telecon.toml"), config).unwrap();
        let done = self.disk.command("sh").args(["-c", script, PROGRAM]).arg(self.home.path()).status().unwrap();
        assert!(done.success());
    }

    fn path(&self) -> std::path::PathBuf {
        self.disk.root().join(self.home.path().strip_prefix("/").unwrap())
    }

    fn files(&self) -> Vec<(String, Vec<u8>)> {
        let entries = fs::read_dir(self.path()).unwrap().map(|entry| entry.unwrap().path());
        let content = |path: &Path| fs::read(path).unwrap_or_default();
        let mut files: Vec<_> =
            entries.map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), content(&path))).collect();
        files.retain(|(name, _)| name.starts_with("identity") || name.starts_with(".identity") || name == "telecon.db");
        files.sort();
        files
    }
}

fn says(output: &Output, words: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && output.status.code() != Some(124), "it ran: {said}");
    assert!(words.iter().all(|word| said.contains(word)), "{words:?}: {said}");
}

#[test]
fn a_first_start_on_a_full_disk_leaves_no_half_of_a_key_and_works_once_there_is_space() {
    let idle = Idle::new();
    idle.disk.fill();
    says(&idle.start(), &["identity", "No space left on device", "check the disk"]);
    assert_eq!(idle.files(), []);
    idle.disk.free();
    idle.run_once();
    assert_eq!(idle.files().len(), 2);
}

#[test]
fn a_start_on_a_full_disk_is_refused_and_changes_neither_key_nor_database() {
    let idle = Idle::new();
    idle.run_once();
    let before = idle.files();
    idle.disk.fill();
    says(&idle.start(), &["telecon.db", "space"]);
    assert!(idle.files() == before);
    idle.disk.free();
    idle.run_once();
    assert!(idle.files()[0] == before[0], "the key is the same");
}

#[test]
fn a_backup_onto_a_full_disk_leaves_no_half_of_one() {
    let idle = Idle::new();
    idle.run_once();
    let passphrase = idle.path().join("passphrase");
    fs::write(&passphrase, "correct horse battery").unwrap();
    idle.disk.fill();
    let backup = idle.path().join("backup");
    let mut export = std::process::Command::new(PROGRAM);
    export.arg("--home").arg(idle.path()).args(["id", "export"]).arg(&backup).arg("--passphrase-file").arg(passphrase);
    says(&export.output().unwrap(), &["backup", "No space left on device", "free space"]);
    assert!(!backup.exists());
    idle.disk.free();
    assert!(export.output().unwrap().status.success() && backup.exists());
}

#[test]
fn a_start_on_a_read_only_disk_is_refused_with_the_file_and_the_cause() {
    let idle = Idle::new();
    idle.run_once();
    let before = idle.files();
    idle.disk.make_read_only();
    says(&idle.start(), &[idle.home.path().to_str().unwrap(), "Read-only file system", "check"]);
    assert!(idle.files() == before);
    let first = Idle::new();
    first.disk.make_read_only();
    says(&first.start(), &["identity", "Read-only file system", "check"]);
}
