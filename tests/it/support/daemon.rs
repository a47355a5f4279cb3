//! A real daemon of a test's own: a child process with a home in a temporary directory, driven by the command line.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use super::disk::Disk;

/// The binary under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_telecon");
/// Everything that is waited for happens in well under a second; a busy machine takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Loopback only, nothing but what the test itself connects.
const LOOPBACK: &str = r#"
[network]
listen = ["/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0"]
mdns = false
ice_interfaces = ["lo"]
"#;

/// Nobody is there: the machine's own RealtimeKit is not asked.
pub const NO_SYSTEM_BUS: (&str, &str) = ("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent");

/// The program, out of reach of the machine's message bus.
pub fn program() -> Command {
    let mut command = Command::new(PROGRAM);
    command.envs([NO_SYSTEM_BUS]);
    command
}

/// A daemon that ends with this value.
pub struct Daemon {
    child: Child,
    home: TempDir,
    /// `home` as the test sees it.
    seen: PathBuf,
    start: Start,
    /// Its DID.
    pub did: String,
    /// An address at which others can dial it.
    pub address: String,
}

/// How a daemon is started.
#[derive(Default, Clone)]
pub struct Start {
    /// `[audio]` and `[call]` of its configuration.
    pub config: String,
    /// Its `[network]` is the default one, not that of the loopback.
    pub whole_network: bool,
    /// Additional environment.
    pub env: Vec<(String, String)>,
    /// A command that the daemon is started through, such as one that enters a namespace.
    pub through: Vec<String>,
    /// The root of its files as the test sees it, where that is another one.
    pub root: Option<PathBuf>,
}

impl Daemon {
    /// Starts a daemon on the loopback and waits until it answers and listens.
    pub fn start(config: &str) -> Self {
        Self::start_with(Start { config: config.into(), ..Start::default() })
    }

    /// As [`Self::start`], with more to say.
    pub fn start_with(start: Start) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), start)
    }

    /// As [`Self::start`], after something was done in its home.
    pub fn start_prepared(config: &str, prepare: impl FnOnce(&Path)) -> Self {
        let home = tempfile::tempdir().unwrap();
        prepare(home.path());
        Self::start_in(home, Start { config: config.into(), ..Start::default() })
    }

    /// As [`Self::start`], with its home on a disk of that size.
    pub fn start_on_disk(config: &str, kib: u32) -> (Self, Disk) {
        let home = tempfile::tempdir().unwrap();
        let disk = Disk::over(home.path(), kib);
        let (config, through, root) = (config.into(), disk.enter(), Some(disk.root()));
        (Self::start_in(home, Start { config, through, root, ..Start::default() }), disk)
    }

    fn start_in(home: TempDir, start: Start) -> Self {
        let network = if start.whole_network { "" } else { LOOPBACK };
        let seen = seen(home.path(), &start);
        fs::write(seen.join("telecon.toml"), format!("{network}\n{}", start.config)).unwrap();
        let child = launch(home.path(), &start);
        let mut daemon = Self { child, home, seen, start, did: String::new(), address: String::new() };
        daemon.learn_names();
        daemon
    }

    /// Starts it again in the same home, after it has ended.
    pub fn restart(&mut self) {
        self.child = launch(self.home.path(), &self.start);
        self.learn_names();
    }

    fn learn_names(&mut self) {
        let id = self.until(&["id"], |id| id["listen"].as_array().is_some_and(|listen| !listen.is_empty()));
        self.did = id["did"].as_str().unwrap().into();
        self.address = id["listen"][0].as_str().unwrap().into();
    }

    /// Where its files are.
    pub fn home(&self) -> &Path {
        &self.seen
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(log_file(self.home.path())).unwrap()
    }

    /// Runs a verb against it.
    pub fn run(&self, verb: &[&str]) -> Output {
        Command::new(PROGRAM).arg("--home").arg(&self.seen).args(verb).stdin(Stdio::null()).output().unwrap()
    }

    /// Runs a verb that must succeed, and reads its JSON.
    pub fn json(&self, verb: &[&str]) -> Value {
        let output = self.run(&[verb, &["--json"]].concat());
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{verb:?}: {out}{err}");
        serde_json::from_str(out.trim()).unwrap_or_else(|error| panic!("{verb:?} printed {out:?}: {error}"))
    }

    /// Runs a verb again and again until its JSON is as wanted.
    pub fn until(&mut self, verb: &[&str], wanted: impl Fn(&Value) -> bool) -> Value {
        let limit = Instant::now() + PATIENCE;
        let mut last = String::new();
        while Instant::now() < limit {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the daemon has ended ({status}):\n{}", self.log());
            }
            let output = self.run(&[verb, &["--json"]].concat());
            last = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            if let Ok(value) = serde_json::from_str(last.trim())
                && wanted(&value)
            {
                return value;
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        panic!("{verb:?} never became as wanted; last: {last}\nlog:\n{}", self.log());
    }

    /// Dials another daemon and waits until both are connected.
    pub fn connect(&mut self, other: &mut Self) {
        self.json(&["connect", &other.address]);
        for daemon in [self, other] {
            daemon.until(&["status"], |status| status["peers"].as_u64() >= Some(1));
        }
    }

    /// The states of all participants of its calls, by DID.
    pub fn roster(calls: &Value) -> Vec<(String, String)> {
        let calls = calls["calls"].as_array().cloned().unwrap_or_default();
        let participants = calls.iter().flat_map(|call| call["participants"].as_array().cloned().unwrap_or_default());
        participants.map(|p| (p["did"].as_str().unwrap().to_owned(), p["state"].as_str().unwrap().to_owned())).collect()
    }

    /// Waits until it shows that participant in that state.
    pub fn until_shown(&mut self, did: &str, state: &str) {
        self.until(&["calls"], |calls| Self::roster(calls).iter().any(|(who, how)| who == did && how == state));
    }

    /// Ends it at once, as `kill -9` does.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// How often its thread of that name went to sleep so far; `None` when there is no such thread.
    pub fn sleeps(&self, thread: &str) -> Option<u64> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let named = |task: &Path| fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == thread);
        let task = tasks.map(|task| task.unwrap().path()).find(|task| named(task))?;
        let status = fs::read_to_string(task.join("status")).ok()?;
        let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
        count.trim().parse().ok()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.child.id().cast_signed()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Ends it as systemd does, and waits until it is gone.
    pub fn terminate(&mut self) {
        self.signal(rustix::process::Signal::TERM);
        let limit = Instant::now() + PATIENCE;
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < limit, "it does not end:\n{}", self.log());
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn seen(home: &Path, start: &Start) -> PathBuf {
    match &start.root {
        Some(root) => root.join(home.strip_prefix("/").unwrap()),
        None => home.to_owned(),
    }
}

fn log_file(home: &Path) -> PathBuf {
    home.join("log")
}

fn launch(home: &Path, start: &Start) -> Child {
    let mut words: Vec<&str> = start.through.iter().map(String::as_str).collect();
    words.push(PROGRAM);
    let log = File::options().create(true).append(true).open(log_file(home)).unwrap();
    Command::new(words[0])
        .args(&words[1..])
        .arg("--home")
        .arg(home)
        .arg("daemon")
        .envs([NO_SYSTEM_BUS])
        .envs(start.env.iter().cloned())
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}
