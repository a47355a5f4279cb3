//! Real-time priority for the threads that sound waits for, from RealtimeKit over D-Bus where there is one.
//!
//! One call with two numbers: this speaks as much of the D-Bus protocol as that takes (D-Bus Specification 0.43), which is
//! less than any library brings along. Where the kit or the bus is missing, nothing happens and calls work as before.
//!
//! The kernel kills a process whose real-time thread does not sleep for long. Before that it warns, and then the thread goes
//! on without the priority: a call that stutters is better than none.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixStream},
    },
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use rustix::process::{Resource, Rlimit};

use super::lock;

/// Among the real-time priorities a low one, as sound servers' clients take; the kit gives 20 at most.
const PRIORITY: u32 = 10;
/// A real-time thread that does not sleep for so long is stopped by the kernel together with its process. The kit asks for a
/// limit of at most this (its `RTTimeUSecMax`), so that nobody can freeze the machine; one turn of telecon takes 1 ms.
const LONGEST_TURN_US: u64 = 200_000;
/// After so long without sleep the kernel warns. The audio thread rests earlier, if its turn ends.
const WARNED_AFTER_US: u64 = 150_000;
/// A thread was warned and has heeded it.
static GIVEN_BACK: AtomicBool = AtomicBool::new(false);
/// The bus may have to start the kit.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest message that is read; the kit's have some 100 bytes.
const MAX_MESSAGE_BYTES: u32 = 64 << 10;
const SYSTEM_BUS: &str = "unix:path=/run/dbus/system_bus_socket";

/// Asks for real-time priority for the thread that calls this, without waiting; `told` learns whether it was given.
pub fn raise(told: impl FnOnce(bool) + Send + 'static) {
    let thread = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs().into();
    let ask = move || {
        let given = heed_warnings().and_then(|()| ask_kit(&system_bus(), thread));
        if let Err(why) = &given {
            tracing::debug!(%why, "no real-time priority");
        }
        told(given.is_ok());
    };
    if let Err(error) = std::thread::Builder::new().name("audio-realtime".into()).spawn(ask) {
        tracing::debug!(%error, "no thread to ask for real-time priority");
    }
}

/// Whether the kernel has warned a thread since this was asked last.
pub fn was_given_back() -> bool {
    GIVEN_BACK.swap(false, Relaxed)
}

/// Has threads heed the kernel's warning from now on. It is delivered to the very thread that does not rest; any other one
/// might not get to run in time.
#[expect(unsafe_code, reason = "a signal handler")]
fn heed_warnings() -> io::Result<()> {
    static HEEDS: Mutex<bool> = Mutex::new(false);
    let mut heeds = lock(&HEEDS);
    if !*heeds {
        // SAFETY: it makes two system calls and sets a flag; it takes no lock and no memory.
        unsafe { signal_hook_registry::register(libc::SIGXCPU, give_back) }?;
        *heeds = true;
    }
    Ok(())
}

/// Returns the thread that calls this to the kernel's ordinary scheduling.
#[expect(unsafe_code, reason = "no safe crate has this system call")]
fn give_back() {
    const THIS_THREAD: libc::pid_t = 0;
    // The kit set this flag, and only the privileged may clear it.
    let policy = libc::SCHED_OTHER | libc::SCHED_RESET_ON_FORK;
    let priority: libc::c_int = 0;
    // SAFETY: the kernel reads one integer behind the pointer (its `struct sched_param`), which is there, and writes nothing.
    unsafe { libc::syscall(libc::SYS_sched_setscheduler, THIS_THREAD, policy, &raw const priority) };
    // With the warning the kernel has moved the limit for the next one, beyond that at which it kills.
    drop(limit_turns());
    GIVEN_BACK.store(true, Relaxed);
}

/// Sets how long a real-time thread may go without sleep, as the kit demands.
fn limit_turns() -> io::Result<()> {
    let limit = Rlimit { current: Some(WARNED_AFTER_US), maximum: Some(LONGEST_TURN_US) };
    Ok(rustix::process::setrlimit(Resource::Rttime, limit)?)
}

/// Where the machine's bus is. Unit tests have none: a developer's desktop is not asked.
fn system_bus() -> String {
    if cfg!(test) {
        return String::new();
    }
    std::env::var("DBUS_SYSTEM_BUS_ADDRESS").unwrap_or_else(|_| SYSTEM_BUS.into())
}

/// Asks the kit on the bus at `address` for real-time priority for one thread of this process.
fn ask_kit(address: &str, thread: u64) -> io::Result<()> {
    let mut bus = Bus::connect(address)?;
    limit_turns()?;
    let body = [&thread.to_le_bytes()[..], &PRIORITY.to_le_bytes()].concat();
    let kit = Target {
        name: "org.freedesktop.RealtimeKit1",
        path: "/org/freedesktop/RealtimeKit1",
        interface: "org.freedesktop.RealtimeKit1",
    };
    bus.call(&kit, "MakeThreadRealtime", "tu", &body)
}

/// Who is called.
struct Target {
    name: &'static str,
    path: &'static str,
    interface: &'static str,
}

/// A connection to a message bus.
struct Bus {
    socket: BufReader<UnixStream>,
    serial: u32,
}

impl Bus {
    /// Connects to the first address of a list that is a Unix socket, and says hello.
    fn connect(addresses: &str) -> io::Result<Self> {
        let address = addresses.split(';').find_map(socket_address).ok_or(io::ErrorKind::Unsupported)??;
        let socket = UnixStream::connect_addr(&address)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let mut bus = Self { socket: BufReader::new(socket), serial: 0 };
        bus.authenticate()?;
        let broker =
            Target { name: "org.freedesktop.DBus", path: "/org/freedesktop/DBus", interface: "org.freedesktop.DBus" };
        bus.call(&broker, "Hello", "", &[])?;
        Ok(bus)
    }

    /// Who this is, the kernel tells the bus; the name goes as decimal digits in hexadecimal.
    fn authenticate(&mut self) -> io::Result<()> {
        let user: String = rustix::process::getuid().to_string().bytes().map(|digit| format!("{digit:02x}")).collect();
        self.socket.get_mut().write_all(format!("\0AUTH EXTERNAL {user}\r\n").as_bytes())?;
        let mut answer = String::new();
        self.socket.by_ref().take(MAX_MESSAGE_BYTES.into()).read_line(&mut answer)?;
        if !answer.starts_with("OK ") {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        self.socket.get_mut().write_all(b"BEGIN\r\n")
    }

    /// Calls a method and waits for the answer, which is dropped; an error's text is returned as the error.
    fn call(&mut self, target: &Target, method: &str, signature: &str, body: &[u8]) -> io::Result<()> {
        self.serial += 1;
        let fields = [(1, 'o', target.path), (2, 's', target.interface), (3, 's', method), (6, 's', target.name)];
        let message = encode(METHOD_CALL, self.serial, &fields, signature, body);
        self.socket.get_mut().write_all(&message)?;
        loop {
            let (kind, body) = self.read()?;
            match kind {
                METHOD_RETURN => return Ok(()),
                ERROR => return Err(io::Error::other(format!("{:?}", first_text(&body).unwrap_or_default()))),
                // The bus tells of names as well.
                _ => {}
            }
        }
    }

    /// The next message: its kind and its body.
    fn read(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let mut head = [0; 16];
        self.socket.read_exact(&mut head)?;
        let number = |at: usize| {
            let bytes = [head[at], head[at + 1], head[at + 2], head[at + 3]];
            if head[0] == b'l' { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) }
        };
        let (body, fields) = (number(4), number(12));
        if body > MAX_MESSAGE_BYTES || fields > MAX_MESSAGE_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut rest = vec![0; fields.next_multiple_of(8) as usize + body as usize];
        self.socket.read_exact(&mut rest)?;
        Ok((head[1], rest.split_off(fields.next_multiple_of(8) as usize)))
    }
}

const METHOD_CALL: u8 = 1;
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;

/// A message with fields that are strings (`s`) or paths (`o`).
fn encode(kind: u8, serial: u32, fields: &[(u8, char, &str)], signature: &str, body: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    for (code, of, value) in fields {
        all.resize(all.len().next_multiple_of(8), 0);
        all.extend([*code, 1, *of as u8, 0]);
        all.extend((value.len() as u32).to_le_bytes());
        all.extend(value.bytes().chain([0]));
    }
    if !signature.is_empty() {
        all.resize(all.len().next_multiple_of(8), 0);
        all.extend([8, 1, b'g', 0, signature.len() as u8]);
        all.extend(signature.bytes().chain([0]));
    }
    let mut message = vec![b'l', kind, 0, 1];
    message.extend((body.len() as u32).to_le_bytes());
    message.extend(serial.to_le_bytes());
    message.extend((all.len() as u32).to_le_bytes());
    message.extend(all);
    message.resize(message.len().next_multiple_of(8), 0);
    message.extend(body);
    message
}

/// The text that an error begins with.
fn first_text(body: &[u8]) -> Option<String> {
    let (length, text) = body.split_first_chunk()?;
    let text = text.get(..u32::from_le_bytes(*length) as usize)?;
    Some(String::from_utf8_lossy(text).into_owned())
}

/// `unix:path=…` or `unix:abstract=…`, with other keys behind it.
fn socket_address(address: &str) -> Option<io::Result<SocketAddr>> {
    let mut keys = address.strip_prefix("unix:")?.split(',');
    keys.find_map(|key| match key.split_once('=')? {
        ("path", path) => Some(SocketAddr::from_pathname(path)),
        ("abstract", name) => Some(SocketAddr::from_abstract_name(name)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::net::UnixListener,
        process::{Command, Stdio},
        thread::JoinHandle,
    };

    use super::*;

    /// A bus that answers one hello, and then one call with a message of this kind; what that call asked for.
    fn bus_with_a_kit(home: &tempfile::TempDir, kind: u8, text: &'static str) -> (String, JoinHandle<Vec<u8>>) {
        let path = home.path().join("bus");
        let listener = UnixListener::bind(&path).unwrap();
        let serve = move || {
            let mut bus = Bus { socket: BufReader::new(listener.accept().unwrap().0), serial: 0 };
            let mut line = String::new();
            bus.socket.read_line(&mut line).unwrap();
            bus.socket.get_mut().write_all(b"OK 0123456789abcdef\r\n").unwrap();
            line.clear();
            bus.socket.read_line(&mut line).unwrap();
            assert_eq!((bus.read().unwrap(), line.as_str()), ((METHOD_CALL, Vec::new()), "BEGIN\r\n"));
            // A bus tells one's own name after the hello; that is no answer.
            for kind in [METHOD_RETURN, 4] {
                bus.socket.get_mut().write_all(&encode(kind, 1, &[], "", &[])).unwrap();
            }
            let (asked, body) = bus.read().unwrap();
            assert_eq!(asked, METHOD_CALL);
            let text = [&(text.len() as u32).to_le_bytes()[..], text.as_bytes(), &[0]].concat();
            bus.socket.get_mut().write_all(&encode(kind, 2, &[], "s", &text)).unwrap();
            body
        };
        (format!("unix:path={},guid=0123", path.display()), std::thread::spawn(serve))
    }

    #[test]
    fn a_kit_is_asked_for_one_thread_of_this_process_with_a_limit_on_its_turns() {
        let home = tempfile::tempdir().unwrap();
        let (address, kit) = bus_with_a_kit(&home, METHOD_RETURN, "");
        ask_kit(&address, 4711).unwrap();
        assert_eq!(kit.join().unwrap(), [&4711_u64.to_le_bytes()[..], &PRIORITY.to_le_bytes()].concat());
        assert_eq!(rustix::process::getrlimit(Resource::Rttime).maximum, Some(LONGEST_TURN_US));
    }

    /// The scheduling policy of a thread of this process (proc(5), field 41 of its `stat`).
    fn policy(thread: i32) -> i32 {
        let stat = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat")).unwrap();
        let behind_the_name = stat.rsplit_once(')').unwrap().1;
        behind_the_name.split_whitespace().nth(41 - 3).unwrap().parse().unwrap()
    }

    /// In a process of its own: one whose thread works without a rest is killed when nobody heeds the warning.
    fn work_without_a_rest() {
        heed_warnings().unwrap();
        limit_turns().unwrap();
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        let raised = Command::new("chrt").args(["--rr", "--pid", "10", &thread.to_string()]).status().unwrap();
        if !raised.success() {
            return println!("not tested: only who has CAP_SYS_NICE may make a thread real-time");
        }
        assert_eq!(policy(thread), libc::SCHED_RR);
        while policy(thread) == libc::SCHED_RR {}
        assert_eq!((policy(thread), was_given_back()), (libc::SCHED_OTHER, true));
        assert_eq!(
            rustix::process::getrlimit(Resource::Rttime).current,
            Some(WARNED_AFTER_US),
            "the next one is warned, too"
        );
    }

    #[test]
    fn a_process_whose_real_time_thread_does_not_rest_goes_on_without_priority() {
        const CHILD: &str = "TELECON_TEST_WITHOUT_A_REST";
        if std::env::var_os(CHILD).is_some() {
            return work_without_a_rest();
        }
        let name = "a_process_whose_real_time_thread_does_not_rest_goes_on_without_priority";
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", &format!("audio::realtime::tests::{name}")])
            .env(CHILD, "")
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success() && told.contains("1 passed"), "{}: {told}", child.status);
        // Past the harness, which keeps the words of tests that pass to itself.
        let untested = told.lines().filter(|line| line.contains("not tested"));
        untested.for_each(|line| writeln!(std::io::stderr(), "{name}: {line}").unwrap());
    }

    #[test]
    fn a_kit_that_refuses_is_quoted_without_what_a_terminal_must_not_see() {
        let home = tempfile::tempdir().unwrap();
        let (address, kit) = bus_with_a_kit(&home, ERROR, "too many\u{1b}[2J");
        assert_eq!(ask_kit(&address, 1).unwrap_err().to_string(), r#""too many\u{1b}[2J""#);
        kit.join().unwrap();
    }

    #[test]
    fn a_real_bus_without_a_kit_understands_and_says_so() {
        let home = tempfile::tempdir().unwrap();
        let mut bus = Command::new("dbus-daemon")
            .args(["--session", "--nofork", "--print-address"])
            .arg(format!("--address=unix:path={}", home.path().join("bus").display()))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("dbus-daemon; scripts/setup test installs it");
        let mut address = String::new();
        BufReader::new(bus.stdout.take().unwrap()).read_line(&mut address).unwrap();
        let refused = ask_kit(address.trim(), 1).unwrap_err().to_string();
        bus.kill().unwrap();
        bus.wait().unwrap();
        assert!(refused.contains("org.freedesktop.RealtimeKit1"), "{refused}");
    }

    #[test]
    fn without_a_bus_it_is_an_error_and_no_more() {
        for address in ["", "tcp:host=localhost", "unix:path=/nowhere/at/all", "unix:guid=1"] {
            assert!(ask_kit(address, 1).is_err(), "{address}");
        }
    }
}
