//! PulseAudio's own protocol (PipeWire speaks it, too), for what cpal does not tell or does not do well.
//!
//! cpal finds the devices. Its client cannot say when they change, or where a stream was moved to; and it does not move the
//! sound, because it clears 1 MiB before every read and asks for the latency after every period, which costs more processor
//! time than all the rest of a call.

mod connection;
mod look;
mod stream;

use std::{fs::OpenOptions, io::Write, os::unix::fs::OpenOptionsExt, path::PathBuf};

pub use look::LookOut;
pub use stream::{play, record};

/// `PA_NATIVE_COOKIE_LENGTH` of PulseAudio's protocol.
const COOKIE_BYTES: usize = 256;

/// PulseAudio drops clients that send no cookie, even where it asks for none, so libpulse makes one when there is none;
/// cpal's client does not.
pub fn make_cookie() {
    let Some(home) = std::env::home_dir() else { return };
    let named = std::env::var_os("PULSE_COOKIE").map(PathBuf::from);
    let cookie = home.join(".config/pulse/cookie");
    let known = [named, Some(cookie.clone()), Some(home.join(".pulse-cookie"))];
    if known.into_iter().flatten().any(|path| path.exists()) {
        return;
    }
    let write = || {
        std::fs::create_dir_all(home.join(".config/pulse"))?;
        let mut bytes = [0_u8; COOKIE_BYTES];
        rand::fill(&mut bytes[..]);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&cookie)?;
        file.write_all(&bytes)
    };
    if let Err(error) = write() {
        tracing::debug!(%error, "no PulseAudio cookie");
    }
}
