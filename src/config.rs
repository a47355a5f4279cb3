//! The configuration file: its keys, their defaults, and one clear sentence for each mistake in it.
//!
//! The structs below are what the rest of the program reads. `keys` says what each key may hold and whether it has an
//! effect yet, `check` holds a file against that, `paths` says where the files are. It is read once, at start.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::Path,
};

use serde::{Deserialize, Serialize};

mod check;
mod keys;
mod paths;

pub use check::{Checked, ConfigError, Idle, Mistake};
pub use keys::MAX_SECONDS;
pub use paths::{Paths, PathsError};

/// The commented default configuration, as shipped.
pub const DEFAULT_TOML: &str = include_str!("../config/telecon.toml");

/// The longest file that is read, far more than anybody writes: 1 MiB.
const MAX_FILE_BYTES: u64 = 1 << 20;

impl Config {
    /// Reads the file; one that does not exist means the defaults.
    ///
    /// # Errors
    /// Every mistake in the file, each with its line, its key, the cause and the remedy.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        Self::check(file).map(|checked| checked.config)
    }

    /// As [`Config::load`], and tells which keys were set that have no effect yet.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn check(file: &Path) -> Result<Checked, ConfigError> {
        match read(file) {
            Ok(text) => check::check(&text, file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Checked::default()),
            Err(source) => Err(ConfigError::Unreadable { file: file.into(), source }),
        }
    }

    /// For showing: without the TURN servers' passwords, since what is shown ends up in bug reports.
    pub fn without_passwords(mut self) -> Self {
        for server in self.network.ice_servers.iter_mut().filter(|server| !server.credential.is_empty()) {
            server.credential = "(hidden)".into();
        }
        self
    }
}

/// The whole text. What a FIFO or a device gives may never begin, or never end.
fn read(file: &Path) -> io::Result<String> {
    let refused = |why| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    if !fs::metadata(file)?.is_file() {
        return refused("it is not a regular file");
    }
    let mut text = String::new();
    if File::open(file)?.take(MAX_FILE_BYTES + 1).read_to_string(&mut text)? as u64 > MAX_FILE_BYTES {
        return refused("it is longer than 1 MiB");
    }
    Ok(text)
}

/// `telecon.toml`. Every key may be left out.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Signalling and ICE.
    pub network: Network,
    /// Sound.
    pub audio: Audio,
    /// Call behaviour.
    pub call: Call,
}

/// `[network]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Network {
    /// Multiaddrs to listen on.
    pub listen: Vec<String>,
    /// Multiaddrs that are dialled at start and kept connected.
    pub peers: Vec<String>,
    /// Find other nodes on the local network.
    pub mdns: bool,
    /// Find nodes through the Kademlia DHT.
    pub dht: bool,
    /// Kademlia bootstrap nodes.
    pub bootstrap: Vec<String>,
    /// STUN and TURN servers.
    pub ice_servers: Vec<IceServer>,
    /// Interfaces that ICE may use; empty: all but the loopback, which serves when there is no other.
    pub ice_interfaces: Vec<String>,
    /// Use relays only (hides the own address from the other side).
    pub ice_relay_only: bool,
}

/// `[[network.ice_servers]]`
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IceServer {
    /// `stun:…` and `turn:…` URLs.
    pub urls: Vec<String>,
    /// TURN user.
    pub username: String,
    /// TURN password.
    pub credential: String,
}

/// `[audio]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Audio {
    /// Where sound comes from and goes to.
    pub backend: Backend,
    /// Capture device, or `default`.
    pub input: String,
    /// Playback device, or `default`.
    pub output: String,
    /// Where calls ring: a device, `default`, or nothing for the same as `output`.
    pub ring_output: String,
    /// Incoming calls are to be heard ringing.
    pub ring_sound: bool,
    /// What else telecon makes heard of calls: ring-back, busy, who joins and who leaves.
    pub sounds: bool,
    /// For the `file` backend: a WAV that is spoken into the call, looped.
    pub input_file: String,
    /// For the `file` backend: a WAV of what the speaker would play.
    pub output_file: String,
    /// Remove the speaker's sound from the microphone.
    pub echo_cancellation: bool,
    /// Turn steady noise of the microphone down.
    pub noise_suppression: bool,
    /// Turn a quiet microphone up.
    pub auto_gain: bool,
    /// Remove rumble from the microphone.
    pub high_pass: bool,
    /// Do all of this to the `file` backend's input, too.
    pub process_files: bool,
    /// The microphone is closed but while `telecon talk on` holds.
    pub push_to_talk: bool,
    /// Whoever comes into a call is muted at first.
    pub automute: bool,
    /// Send silence like speech, in packets of one size.
    pub constant_bitrate: bool,
}

/// `[audio] backend`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// The best sound server that runs.
    Auto,
    /// PipeWire's native protocol.
    Pipewire,
    /// PulseAudio's protocol, which PipeWire speaks too.
    Pulseaudio,
    /// ALSA.
    Alsa,
    /// Two WAV files.
    File,
    /// Silence in, nothing out.
    Null,
}

/// `[call]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Call {
    /// How long an offer rings.
    pub ring_seconds: u32,
    /// Whose calls are accepted without asking.
    pub auto_accept: AutoAccept,
    /// Whose offers ring.
    pub who_may_ring: WhoMayRing,
    /// How long a leg may be without network before its participant counts as left.
    pub reconnect_seconds: u32,
    /// How long a call that everybody else left goes on; 0: until it is hung up.
    pub grace_seconds: u32,
    /// A daemon that ended in a call without leaving it goes back when it starts again.
    pub rejoin: bool,
}

/// `[call] auto_accept`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AutoAccept {
    /// Always ask.
    None,
    /// When every participant is a contact.
    Contacts,
    /// Everybody's.
    All,
}

/// `[call] who_may_ring`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WhoMayRing {
    /// Contacts only; others are not answered at all.
    Contacts,
    /// Everybody; strangers are marked so and rate-limited.
    Anyone,
}

impl Default for Network {
    fn default() -> Self {
        let listen = ["/ip4/0.0.0.0/udp/0/quic-v1", "/ip4/0.0.0.0/tcp/0", "/ip6/::/udp/0/quic-v1", "/ip6/::/tcp/0"];
        Self {
            listen: listen.map(String::from).to_vec(),
            peers: Vec::new(),
            mdns: true,
            dht: true,
            bootstrap: Vec::new(),
            ice_servers: Vec::new(),
            ice_interfaces: Vec::new(),
            ice_relay_only: false,
        }
    }
}

impl Default for Audio {
    fn default() -> Self {
        Self {
            backend: Backend::Auto,
            input: "default".into(),
            output: "default".into(),
            ring_output: String::new(),
            ring_sound: true,
            sounds: true,
            input_file: String::new(),
            output_file: String::new(),
            echo_cancellation: true,
            noise_suppression: true,
            auto_gain: true,
            high_pass: true,
            process_files: false,
            push_to_talk: false,
            automute: false,
            constant_bitrate: false,
        }
    }
}

impl Default for Call {
    fn default() -> Self {
        Self {
            ring_seconds: 45,
            auto_accept: AutoAccept::None,
            who_may_ring: WhoMayRing::Anyone,
            reconnect_seconds: 45,
            grace_seconds: 10,
            rejoin: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_file_is_the_built_in_default() {
        let checked = check::check(DEFAULT_TOML, Path::new("telecon.toml")).expect("the shipped file is right");
        assert_eq!(checked.config, Config::default());
    }

    #[test]
    fn the_shipped_file_names_every_key() {
        let shipped: toml::Table = DEFAULT_TOML.parse().expect("TOML");
        let default = toml::Table::try_from(Config::default()).expect("serialises");
        assert_eq!(shipped, default);
    }

    #[test]
    fn a_missing_file_means_the_defaults() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(Config::load(&dir.path().join("telecon.toml")).expect("defaults"), Config::default());
    }

    #[test]
    fn a_directory_in_the_files_place_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let error = Config::load(dir.path()).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{} cannot be read: ", dir.path().display())), "{error}");
    }

    #[test]
    fn what_may_never_begin_or_end_is_refused_and_not_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let (pipe, long) = (dir.path().join("pipe"), dir.path().join("long"));
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("a FIFO");
        File::create(&long).and_then(|file| file.set_len(MAX_FILE_BYTES + 1)).expect("a long file");
        for (file, why) in [
            (pipe.as_path(), "it is not a regular file"),
            (Path::new("/dev/zero"), "it is not a regular file"),
            (&long, "it is longer than 1 MiB"),
        ] {
            let error = Config::load(file).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
