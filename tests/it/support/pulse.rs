//! A headless sound server of a test's own, PulseAudio or PipeWire: a microphone and a speaker, each a null sink, in a
//! temporary directory. Both speak PulseAudio's protocol.
//!
//! The programs under test find it through `PULSE_SERVER` ([`PulseServer::address`]), which works across network
//! namespaces. The microphone is fed inside the server, so that no feeder adds delay of its own.

use std::{
    io::Read,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{daemon::NO_SYSTEM_BUS, wav};

/// 48 kHz mono throughout.
const RATE_HZ: f64 = 48_000.0;

/// What a PipeWire needs to speak PulseAudio's protocol; Debian's own file for that comes with a package that would take
/// over the desktop's sound.
const PIPEWIRE_PULSE: &str = r#"
context.spa-libs = { audio.convert.* = audioconvert/libspa-audioconvert support.* = support/libspa-support }
context.modules = [
    { name = libpipewire-module-protocol-native }
    { name = libpipewire-module-client-node }
    { name = libpipewire-module-adapter }
    { name = libpipewire-module-metadata }
    { name = libpipewire-module-protocol-pulse }
]
pulse.properties = { server.address = [ "unix:native" ] }
"#;

/// A sound server that ends with this value.
pub struct PulseServer {
    kind: Kind,
    children: Vec<Child>,
    directory: TempDir,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    PulseAudio,
    PipeWire,
}

impl PulseServer {
    /// Starts a PulseAudio and waits until it answers.
    pub fn start() -> Self {
        Self::start_kind(Kind::PulseAudio)
    }

    /// Starts a PipeWire, with its session manager, and waits until it answers.
    pub fn start_pipewire() -> Self {
        Self::start_kind(Kind::PipeWire)
    }

    fn start_kind(kind: Kind) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        std::fs::create_dir(directory.path().join("home")).expect("a home in the temporary directory");
        let mut server = Self { kind, children: Vec::new(), directory };
        server.restart();
        server
    }

    /// Starts it again after [`Self::kill`], at the same address.
    pub fn restart(&mut self) {
        self.children = match self.kind {
            Kind::PulseAudio => launch_pulseaudio(self.directory.path(), &self.socket()),
            Kind::PipeWire => launch_pipewire(self.directory.path()),
        };
        self.until("it answers", |server| UnixStream::connect(server.socket()).is_ok() && server.pactl(&["info"]));
        for sink in ["microphone", "speaker"] {
            self.plug_in(sink, 48_000, 1);
        }
        // PipeWire's session manager takes a moment to know them.
        self.until("the devices are there", |server| {
            server.pactl(&["set-default-source", "microphone.monitor"])
                && server.pactl(&["set-default-sink", "speaker"])
                && server.info("Default Sink") == "speaker"
                && server.info("Default Source") == "microphone.monitor"
        });
    }

    fn until(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let limit = Instant::now() + Duration::from_secs(20);
        while !done(self) {
            assert!(Instant::now() < limit, "{:?}: waited in vain until {what}", self.kind);
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    fn info(&self, field: &str) -> String {
        let info = self.ask(&["info"]);
        let value = info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(": "));
        value.unwrap_or_default().to_owned()
    }

    fn socket(&self) -> PathBuf {
        match self.kind {
            Kind::PulseAudio => self.directory.path().join("native"),
            Kind::PipeWire => self.directory.path().join("runtime/native"),
        }
    }

    /// For the `PULSE_SERVER` of the program under test.
    pub fn address(&self) -> String {
        format!("unix:{}", self.socket().display())
    }

    /// For the `XDG_RUNTIME_DIR` of a program under test that speaks PipeWire's own protocol.
    pub fn runtime(&self) -> &Path {
        self.directory.path()
    }

    /// A `HOME` for the program under test, so that it makes its PulseAudio cookie there.
    pub fn home(&self) -> PathBuf {
        self.directory.path().join("home")
    }

    /// Plays a clip into the microphone, once, and returns at once.
    pub fn speak(&self, clip: &[f32]) {
        let path = self.directory.path().join("clip.wav");
        wav::write(&path, clip);
        assert!(self.pactl(&["upload-sample", path.to_str().unwrap(), "clip"]), "the clip goes into the server");
        assert!(self.pactl(&["play-sample", "clip", "microphone"]), "the clip is played");
    }

    /// Records what goes into a sink, `microphone` or `speaker`, until [`Recording::stop`].
    pub fn record(&self, sink: &str) -> Recording {
        let mut command = Command::new("parec");
        command
            .args(["--raw", "--format=s16le", "--rate=48000", "--channels=1", "--latency-msec=5"])
            .arg(format!("--device={sink}.monitor"));
        let mut child = own_world(&mut command, self.directory.path())
            .env("PULSE_SERVER", self.address())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("this test needs parec: apt-get install pulseaudio-utils");
        let mut pipe = child.stdout.take().expect("a pipe was asked for");
        let taken = Arc::new(Mutex::new(Taken { samples: Vec::new(), began: None, loud: None }));
        let (shared, stopped) = (taken.clone(), Arc::new(AtomicBool::new(false)));
        let stop = stopped.clone();
        let reader = std::thread::spawn(move || {
            let mut bytes = [0; 4_096];
            let mut odd = Vec::new();
            while !stop.load(Relaxed) {
                let Ok(length @ 1..) = pipe.read(&mut bytes) else { return };
                let now = Instant::now();
                odd.extend_from_slice(&bytes[..length]);
                let whole = odd.len() / 2 * 2;
                let mut taken = shared.lock().unwrap();
                taken.samples.extend(
                    odd[..whole].chunks_exact(2).map(|b| f32::from(i16::from_le_bytes([b[0], b[1]])) / 32_768.0),
                );
                odd.drain(..whole);
                let from = taken.samples.len() - whole / 2;
                let is_loud = |sample: &f32| sample.abs() > 0.05;
                if let Some(first) = taken.samples[from..].iter().position(is_loud) {
                    let last = taken.samples.iter().rposition(is_loud).unwrap_or(from + first);
                    taken.loud = Some((taken.loud.map_or(from + first, |(first, _)| first), last));
                }
                // The reading that came quickest tells best when sample 0 was there.
                let began = now - Duration::from_secs_f64(taken.samples.len() as f64 / RATE_HZ);
                taken.began = Some(taken.began.map_or(began, |earlier: Instant| earlier.min(began)));
            }
        });
        Recording { child, taken, stopped, reader: Some(reader) }
    }

    /// Runs `pactl` against this server; true when it succeeded.
    pub fn pactl(&self, arguments: &[&str]) -> bool {
        let mut command = Command::new("pactl");
        own_world(&mut command, self.directory.path())
            .args(arguments)
            .env("PULSE_SERVER", self.address())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .expect("this test needs pactl: apt-get install pulseaudio-utils")
            .success()
    }

    /// Plugs in a speaker of that name, with that rate and so many channels; `NAME.monitor` is a microphone that hears it.
    pub fn plug_in(&self, name: &str, rate_hz: u32, channels: u32) {
        let sink = [format!("sink_name={name}"), format!("rate={rate_hz}"), format!("channels={channels}")];
        let loaded = self.pactl(&["load-module", "module-null-sink", &sink[0], &sink[1], &sink[2]]);
        assert!(loaded, "{name} is plugged in");
    }

    /// Plays silence there, so that it runs in short steps: an idle one takes two seconds at once, and its monitor with it.
    pub fn keep_awake(&mut self, name: &str) {
        let mut command = Command::new("pacat");
        command.args(["--raw", "--rate=48000", "--channels=1", "--latency-msec=10"]).arg(format!("--device={name}"));
        let silence = std::fs::File::open("/dev/zero").expect("/dev/zero");
        let mut child = own_world(&mut command, self.directory.path());
        child = child.env("PULSE_SERVER", self.address()).stdin(silence).stdout(Stdio::null()).stderr(Stdio::null());
        self.children.push(child.spawn().expect("this test needs pacat: apt-get install pulseaudio-utils"));
    }

    /// Unplugs it.
    pub fn unplug(&self, name: &str) {
        let modules = self.list("modules");
        let module =
            modules.lines().find(|line| line.split_whitespace().any(|word| word == format!("sink_name={name}")));
        let index = module.and_then(|line| line.split_whitespace().next()).expect("it is plugged in");
        assert!(self.pactl(&["unload-module", index]), "{name} is unplugged");
    }

    /// `pactl list short …`
    pub fn list(&self, what: &str) -> String {
        self.ask(&["list", "short", what])
    }

    fn ask(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("pactl");
        let output = own_world(&mut command, self.directory.path())
            .args(arguments)
            .env("PULSE_SERVER", self.address())
            .output()
            .expect("this test needs pactl: apt-get install pulseaudio-utils");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        for child in &self.children {
            let pid = Pid::from_raw(child.id().cast_signed()).expect("a child has a number");
            kill_process(pid, signal).expect("the server is this test's own child");
        }
    }

    /// Ends the server at once, as a crash would.
    pub fn kill(&mut self) {
        for mut child in self.children.drain(..) {
            child.kill().expect("the server is this test's own child");
            child.wait().expect("it was started here");
        }
    }
}

impl Drop for PulseServer {
    fn drop(&mut self) {
        for child in &mut self.children {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

struct Taken {
    samples: Vec<f32>,
    began: Option<Instant>,
    /// Its first and last loud sample.
    loud: Option<(usize, usize)>,
}

/// A running recording.
pub struct Recording {
    child: Child,
    taken: Arc<Mutex<Taken>>,
    stopped: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl Recording {
    /// How much is there, in samples.
    pub fn len(&self) -> usize {
        self.taken.lock().unwrap().samples.len()
    }

    /// When something loud came first and last, by its place in the recording: a reading that comes late changes nothing.
    /// Instants of two recordings of one server are comparable.
    pub fn loud(&self) -> Option<(Instant, Instant)> {
        let taken = self.taken.lock().unwrap();
        let (began, (first, last)) = (taken.began?, taken.loud?);
        let at = |sample: usize| began + Duration::from_secs_f64(sample as f64 / RATE_HZ);
        Some((at(first), at(last)))
    }

    /// Ends it; returns the samples and when sample 0 was recorded. Instants of two recordings of one server are
    /// comparable: both lag by the same.
    pub fn stop(mut self) -> (Vec<f32>, Instant) {
        self.end();
        let taken = self.taken.lock().unwrap();
        (taken.samples.clone(), taken.began.expect("something was recorded"))
    }

    fn end(&mut self) {
        self.stopped.store(true, Relaxed);
        drop(self.child.kill());
        drop(self.child.wait());
        if let Some(reader) = self.reader.take() {
            drop(reader.join());
        }
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.end();
    }
}

fn launch_pulseaudio(directory: &Path, socket: &Path) -> Vec<Child> {
    let script = directory.join("telecon.pa");
    let module = format!("load-module module-native-protocol-unix auth-anonymous=1 socket={}\n", socket.display());
    std::fs::write(&script, module).expect("the server's script");
    let mut command = Command::new("pulseaudio");
    command
        .args(["-n", "--daemonize=no", "--use-pid-file=no", "--exit-idle-time=-1", "--log-level=error", "-F"])
        .arg(script);
    vec![spawn(&mut command, directory)]
}

/// Its session manager connects streams to devices, and wants a message bus.
fn launch_pipewire(directory: &Path) -> Vec<Child> {
    let script = directory.join("pulse.conf");
    std::fs::write(&script, PIPEWIRE_PULSE).expect("the server's configuration");
    let bus = directory.join("bus");
    let address = format!("unix:path={}", bus.display());
    let (graph, parts) = (directory.join("pipewire-0"), ["pipewire", "wireplumber"]);
    for leftover in [&bus, &graph] {
        drop(std::fs::remove_file(leftover));
    }
    let mut daemon = Command::new("dbus-daemon");
    daemon.args(["--session", "--nofork", "--nopidfile", "--address", &address]);
    let mut children = vec![spawn(&mut daemon, directory)];
    until_there(&bus);
    for part in parts {
        let mut command = Command::new(part);
        children.push(spawn(command.env("DBUS_SESSION_BUS_ADDRESS", &address), directory));
        until_there(&graph);
    }
    let mut command = Command::new("pipewire");
    children.push(spawn(command.arg("-c").arg(script).env("DBUS_SESSION_BUS_ADDRESS", &address), directory));
    children
}

fn until_there(socket: &Path) {
    let limit = Instant::now() + Duration::from_secs(20);
    while UnixStream::connect(socket).is_err() {
        assert!(Instant::now() < limit, "{} does not answer", socket.display());
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

fn spawn(command: &mut Command, directory: &Path) -> Child {
    let bus: Option<std::ffi::OsString> = command
        .get_envs()
        .find(|(key, _)| *key == "DBUS_SESSION_BUS_ADDRESS")
        .and_then(|(_, value)| Some(value?.into()));
    own_world(command, directory).stdout(Stdio::null()).stderr(Stdio::null());
    command.envs(bus.map(|bus| ("DBUS_SESSION_BUS_ADDRESS", bus)));
    command.spawn().unwrap_or_else(|error| {
        let program = command.get_program().to_string_lossy().into_owned();
        panic!("this test needs {program} ({error}): scripts/setup test")
    })
}

/// Nothing of the user's own sound configuration is read or touched, and the machine's message bus is not asked for anything.
fn own_world<'a>(command: &'a mut Command, directory: &Path) -> &'a mut Command {
    command
        .env("HOME", directory)
        .env("XDG_RUNTIME_DIR", directory)
        .env("XDG_CONFIG_HOME", directory)
        .env("PULSE_RUNTIME_PATH", directory.join("runtime"))
        .envs([NO_SYSTEM_BUS])
        .env_remove("PULSE_SERVER")
        .env_remove("DBUS_SESSION_BUS_ADDRESS")
        .stdin(Stdio::null())
}
