//! `telecon id export|import`: real commands, real files, a terminal of the test's own, and two devices of one person.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::daemon::Daemon;

const PASSPHRASE: &str = "correct horse battery";
const SILENT: &str = "[audio]\nbackend = \"null\"\n";

fn telecon(home: &Path, verb: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_telecon"));
    command.env_clear().arg("--home").arg(home).args(verb).stdin(Stdio::null());
    command
}

/// Runs a verb with that on its stdin.
fn told(home: &Path, verb: &[&str], stdin: &str) -> Output {
    let mut command = telecon(home, verb);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program");
    // One that refuses before it reads has closed its end.
    let _unread = child.stdin.take().expect("piped").write_all(stdin.as_bytes());
    child.wait_with_output().expect("it ends")
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("no signal")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn refused(output: &Output, expected: i32, words: &[&str]) {
    let said = stderr(output);
    assert_eq!((code(output), output.stdout.as_slice()), (expected, &b""[..]), "{said}");
    assert!(said.starts_with("telecon: ") && words.iter().all(|word| said.contains(word)), "{words:?}: {said}");
}

fn json(output: &Output) -> Value {
    assert_eq!((code(output), stderr(output).as_str()), (0, ""));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// A home whose daemon has run once and a backup of its person.
fn exported() -> (Daemon, PathBuf, TempDir) {
    let dir = tempfile::tempdir().expect("a directory");
    let daemon = Daemon::start(SILENT);
    let file = dir.path().join("backup");
    let output = told(daemon.home(), &["id", "export", file.to_str().expect("text"), "--json"], PASSPHRASE);
    let answer = json(&output);
    assert_eq!((&answer["did"], &answer["file"]), (&daemon.did.clone().into(), &file.to_str().into()));
    (daemon, file, dir)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

#[test]
fn a_backup_makes_a_second_device_of_the_same_person_that_can_be_called() {
    let (mut first, file, _dir) = exported();
    assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
    let mut second = Daemon::start_prepared(SILENT, |home| {
        let answer = json(&told(home, &["id", "import", text(&file), "--json"], PASSPHRASE));
        assert_eq!((&answer["did"], &answer["changed"]), (&first.did.clone().into(), &true.into()));
        let again = json(&told(home, &["id", "import", text(&file), "--json"], PASSPHRASE));
        assert_eq!(again["changed"], false, "the same person again is no mistake");
    });
    assert_eq!(second.did, first.did);
    let peer = |daemon: &Daemon| daemon.json(&["id"])["peer_id"].clone();
    assert_ne!(peer(&first), peer(&second), "each device has a node key of its own");

    // A friend calls the person: both devices ring.
    let mut friend = Daemon::start(SILENT);
    friend.connect(&mut first);
    friend.connect(&mut second);
    friend.json(&["call", &first.did]);
    for device in [&mut first, &mut second] {
        device.until(&["calls"], |calls| calls["calls"][0]["state"] == "incoming");
    }
}

#[test]
fn a_running_daemon_keeps_an_import_out_and_its_key_as_it_is() {
    let (daemon, file, _dir) = exported();
    let other = Daemon::start(SILENT);
    let key = other.home().join("identity.key");
    let before = fs::read(&key).expect("a key");
    refused(&told(other.home(), &["id", "import", text(&file)], PASSPHRASE), 75, &["is running", "stop it first"]);
    assert_eq!(fs::read(&key).expect("a key"), before);
    drop(daemon);
}

#[test]
fn another_persons_installation_is_not_taken_over() {
    let (_daemon, file, dir) = exported();
    let mut other = Daemon::start(SILENT);
    other.terminate();
    let key = other.home().join("identity.key");
    let before = fs::read(&key).expect("a key");
    let output = told(other.home(), &["id", "import", text(&file)], PASSPHRASE);
    refused(&output, 65, &["identity.key", &other.did, "nothing was changed", "--home"]);
    assert_eq!(fs::read(&key).expect("a key"), before);
    assert!(dir.path().join("backup").exists());
}

#[test]
fn an_existing_file_is_never_overwritten_and_no_passphrase_is_asked_for_in_vain() {
    let (daemon, file, dir) = exported();
    let before = fs::read(&file).expect("a backup");
    refused(&told(daemon.home(), &["id", "export", text(&file)], ""), 65, &["exists already", "another name"]);
    assert_eq!(fs::read(&file).expect("a backup"), before);
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(dir.path().join("nowhere"), &link).expect("own directory");
    refused(&told(daemon.home(), &["id", "export", text(&link)], PASSPHRASE), 65, &["exists already"]);
    assert!(!dir.path().join("nowhere").exists());
    let missing = dir.path().join("missing/backup");
    refused(
        &told(daemon.home(), &["id", "export", text(&missing)], PASSPHRASE),
        70,
        &["missing/backup", "check the folder"],
    );
}

#[test]
fn wrong_passphrases_damaged_later_and_foreign_files_are_told_apart_and_change_nothing() {
    let (_daemon, file, dir) = exported();
    let home = dir.path().join("home");
    let good = fs::read_to_string(&file).expect("a backup");
    let import = |content: &str, passphrase: &str| {
        let copy = dir.path().join("copy");
        fs::write(&copy, content).expect("own directory");
        told(&home, &["id", "import", text(&copy)], passphrase)
    };
    refused(&import(&good, "correct horse batteri"), 77, &["passphrase is wrong", "copy"]);
    refused(&import(&good, "short"), 65, &["at least 8 characters"]);
    refused(&import(&good, ""), 65, &["at least 8 characters"]);
    refused(&import(&good[..200], PASSPHRASE), 65, &["damaged", "another copy"]);
    refused(&import(&good.replace("backup 1", "backup 2"), PASSPHRASE), 65, &["later telecon"]);
    refused(&import("my shopping list", PASSPHRASE), 65, &["no backup of telecon"]);
    let missing = told(&home, &["id", "import", "/nonexistent"], PASSPHRASE);
    refused(&missing, 65, &["/nonexistent", "cannot be read"]);
    assert!(!home.join("identity.key").exists());
    assert_eq!(code(&import(&good, &format!("{PASSPHRASE}\nand more"))), 0);
}

#[test]
fn without_an_identity_there_is_nothing_to_export_and_none_is_made() {
    let dir = tempfile::tempdir().expect("a directory");
    let home = dir.path().join("home");
    let file = dir.path().join("backup");
    refused(&told(&home, &["id", "export", text(&file)], PASSPHRASE), 65, &["no identity", "id import"]);
    assert!(!home.exists() && !file.exists());
}

#[test]
fn the_passphrase_may_come_from_a_file() {
    let (daemon, _file, dir) = exported();
    let passphrase = dir.path().join("passphrase");
    fs::write(&passphrase, format!("{PASSPHRASE}\nthe rest is not read\n")).expect("own directory");
    let file = dir.path().join("second");
    let export = ["id", "export", text(&file), "--passphrase-file", text(&passphrase)];
    assert_eq!(code(&told(daemon.home(), &export, "")), 0);
    let home = dir.path().join("home");
    assert_eq!(code(&told(&home, &["id", "import", text(&file)], PASSPHRASE)), 0);
    fs::write(&passphrase, "short\n").expect("own directory");
    let export = ["id", "export", "/nonexistent/x", "--passphrase-file", text(&passphrase)];
    refused(&told(daemon.home(), &export, PASSPHRASE), 65, &["at least 8 characters"]);
}

/// A terminal, and the end of it at which the user sits.
struct Terminal {
    user: File,
    seen: String,
    program: File,
}

impl Terminal {
    fn new() -> Self {
        let user = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&user).expect("own terminal");
        unlockpt(&user).expect("own terminal");
        let name = ptsname(&user, Vec::new()).expect("its name").into_string().expect("text");
        let program = OpenOptions::new().read(true).write(true).open(name).expect("its other end");
        Self { user: user.into(), seen: String::new(), program }
    }

    /// Waits until the screen shows that; then types.
    fn type_after(&mut self, prompt: &str, line: &str) {
        let mut byte = [0];
        while !self.seen.ends_with(prompt) {
            self.user.read_exact(&mut byte).expect("the program still asks");
            self.seen.push(byte[0].into());
        }
        self.user.write_all(format!("{line}\n").as_bytes()).expect("the program still listens");
    }

    fn run(&mut self, home: &Path, verb: &[&str], answers: &[(&str, &str)]) -> Output {
        let end = || Stdio::from(self.program.try_clone().expect("a descriptor"));
        let child = telecon(home, verb).stdin(end()).stderr(end()).stdout(Stdio::piped()).spawn().expect("the program");
        for (prompt, line) in answers {
            self.type_after(prompt, line);
        }
        child.wait_with_output().expect("it ends")
    }
}

#[test]
fn on_a_terminal_the_passphrase_is_asked_for_and_never_shown() {
    let (daemon, _file, dir) = exported();
    let file = dir.path().join("typed");
    let mut terminal = Terminal::new();
    let echoes = |terminal: &Terminal| {
        let modes = rustix::termios::tcgetattr(&terminal.program).expect("a terminal").local_modes;
        modes.contains(rustix::termios::LocalModes::ECHO)
    };
    let export = ["id", "export", text(&file)];
    let slip = [("Passphrase: ", PASSPHRASE), ("The same again: ", "correct horse batteri")];
    assert_eq!(code(&terminal.run(daemon.home(), &export, &slip)), 65, "{}", terminal.seen);
    assert!(!file.exists() && echoes(&terminal));
    let right = [("Passphrase: ", PASSPHRASE), ("The same again: ", PASSPHRASE)];
    assert_eq!(code(&terminal.run(daemon.home(), &export, &right)), 0, "{}", terminal.seen);
    let home = dir.path().join("home");
    let once = [("Passphrase: ", PASSPHRASE)];
    assert_eq!(code(&terminal.run(&home, &["id", "import", text(&file)], &once)), 0, "{}", terminal.seen);
    assert!(echoes(&terminal), "the terminal is as it was");
    assert!(terminal.seen.contains("the two passphrases differ"), "{}", terminal.seen);
    assert!(!terminal.seen.contains("horse"), "{}", terminal.seen);
}
