//! The daemon as systemd starts it: it says that it is ready and alive, and takes the socket that it is handed.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    os::unix::{
        fs::MetadataExt,
        net::{UnixDatagram, UnixListener, UnixStream},
    },
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::daemon::{NO_SYSTEM_BUS, PROGRAM, program};

/// What has not happened by then does not happen.
const PATIENCE: Duration = Duration::from_secs(30);

/// A home for a daemon that bothers nobody.
fn home() -> TempDir {
    let home = tempfile::tempdir().expect("a directory");
    let quiet = "[network]\nlisten = [\"/ip4/127.0.0.1/tcp/0\"]\nmdns = false\n[audio]\nbackend = \"null\"\n[call]\nrejoin = false\n";
    fs::write(home.path().join("telecon.toml"), quiet).expect("own directory");
    home
}

/// A child that ends with this value, as a failed test must leave nothing behind.
struct Daemon(Child);

impl Daemon {
    fn spawn(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).spawn().expect("the program starts"))
    }

    fn terminate(mut self) -> ExitStatus {
        let pid = rustix::process::Pid::from_raw(self.0.id().cast_signed()).expect("a child");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("own child");
        self.ended()
    }

    fn ended(&mut self) -> ExitStatus {
        let limit = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.0.try_wait().expect("own child") {
                return status;
            }
            assert!(Instant::now() < limit, "it does not end");
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A daemon to which descriptor 3 is handed over, as systemd does it: a shell sets `LISTEN_PID` to what it is itself, then becomes
/// the daemon.
fn handed_over(home: &Path, socket: &UnixListener, said: File) -> Daemon {
    let socket = socket.try_clone().expect("a descriptor");
    let script = "exec 3<&0 0</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" --home \"$1\" daemon";
    let mut command = Command::new("sh");
    command.args(["-c", script, PROGRAM]).arg(home).envs([NO_SYSTEM_BUS]).stderr(said);
    Daemon(command.stdin(std::os::fd::OwnedFd::from(socket)).spawn().expect("the program starts"))
}

/// Connects and reads the greeting.
fn greeting(socket: &Path) -> Value {
    let stream = UnixStream::connect(socket).expect("somebody listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).expect("a greeting");
    serde_json::from_str(&line).expect("JSON")
}

#[test]
fn the_daemon_says_that_it_is_ready_then_again_and_again_that_it_is_alive_and_at_last_that_it_stops() {
    let home = home();
    let path = home.path().join("notify");
    let notified = UnixDatagram::bind(&path).expect("free");
    notified.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let mut command = program();
    command.arg("--home").arg(home.path()).arg("daemon").stderr(Stdio::null());
    let daemon = Daemon::spawn(command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "200000"));
    let said = || {
        let mut buffer = [0; 256];
        let length = notified.recv(&mut buffer).expect("systemd is told in time");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    assert_eq!(said(), "READY=1\n");
    for _ in 0..3 {
        assert_eq!(said(), "WATCHDOG=1\n");
    }
    assert!(daemon.terminate().success());
    let limit = Instant::now() + PATIENCE;
    while said() != "STOPPING=1\n" {
        assert!(Instant::now() < limit, "it did not say that it stops");
    }
}

#[test]
fn without_a_watchdog_nobody_is_told_of_being_alive() {
    let home = home();
    let path = home.path().join("notify");
    let notified = UnixDatagram::bind(&path).expect("free");
    notified.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let mut command = program();
    command.arg("--home").arg(home.path()).arg("daemon").stderr(Stdio::null()).env("NOTIFY_SOCKET", &path);
    // Meant for another process, such as a parent.
    let daemon = Daemon::spawn(command.env("WATCHDOG_USEC", "1000").env("WATCHDOG_PID", "1"));
    let mut buffer = [0; 256];
    let length = notified.recv(&mut buffer).expect("systemd is told in time");
    assert_eq!(&buffer[..length], b"READY=1\n");
    assert!(daemon.terminate().success());
    let length = notified.recv(&mut buffer).expect("systemd is told in time");
    assert_eq!(&buffer[..length], b"STOPPING=1\n");
}

#[test]
fn a_daemon_serves_the_socket_that_it_is_handed_and_leaves_it_there_for_the_next() {
    let home = home();
    let path = home.path().join("control.sock");
    let socket = UnixListener::bind(&path).expect("free");
    let made = fs::symlink_metadata(&path).expect("there").ino();
    let mut dids = Vec::new();
    for _ in 0..2 {
        let said = File::create(home.path().join("log")).expect("own directory");
        // Who comes before the daemon waits in the queue.
        let early = UnixStream::connect(&path).expect("somebody listens");
        let daemon = handed_over(home.path(), &socket, said);
        early.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let mut line = String::new();
        BufReader::new(early).read_line(&mut line).expect("a greeting");
        assert!(line.contains("\"telecon\""), "{line}");
        dids.push(greeting(&path)["did"].clone());
        // Its clients find it as ever, and a second daemon does not come up beside it.
        let status = program().arg("--home").arg(home.path()).arg("status").output().expect("it starts");
        assert!(status.status.success(), "{status:?}");
        let second = program().arg("--home").arg(home.path()).arg("daemon").output().expect("it starts");
        assert_eq!(second.status.code(), Some(75), "{second:?}");
        assert!(daemon.terminate().success(), "{}", fs::read_to_string(home.path().join("log")).expect("a log"));
        assert_eq!(fs::symlink_metadata(&path).expect("still there").ino(), made);
    }
    assert_eq!(dids[0], dids[1]);
}

#[test]
fn a_socket_that_is_not_the_control_socket_is_refused_with_cause_and_remedy() {
    let home = home();
    let other = home.path().join("other.sock");
    let socket = UnixListener::bind(&other).expect("free");
    let log = home.path().join("log");
    let mut daemon = handed_over(home.path(), &socket, File::create(&log).expect("own directory"));
    assert_eq!(daemon.ended().code(), Some(78));
    let said = fs::read_to_string(&log).expect("a log");
    let wanted = home.path().join("control.sock");
    assert!(said.contains(&format!("it is at {}; ", other.display())), "{said}");
    assert!(said.contains(&format!("ListenStream={}", wanted.display())), "{said}");
    assert!(!wanted.exists());
}

#[test]
fn what_was_handed_to_somebody_else_is_not_taken() {
    let home = home();
    let mut command = program();
    command.arg("--home").arg(home.path()).arg("daemon").stderr(Stdio::null());
    let daemon = Daemon::spawn(command.env("LISTEN_PID", "1").env("LISTEN_FDS", "1"));
    let path = home.path().join("control.sock");
    let limit = Instant::now() + PATIENCE;
    while UnixStream::connect(&path).is_err() {
        assert!(Instant::now() < limit, "it makes its own socket");
        std::thread::park_timeout(Duration::from_millis(5));
    }
    assert!(daemon.terminate().success());
    assert!(!path.exists(), "its own socket it removes");
}
