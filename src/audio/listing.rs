//! The list of sound devices. A sound server may hang: one thread at a time asks it, all who want to know wait for its answer,
//! and nobody waits for ever.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Condvar, Mutex},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{device, lock};
use crate::config::{self, Backend};

/// A sound server that has not answered by then hangs.
const PATIENCE: Duration = Duration::from_secs(5);

/// A sound device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// What to write into `[audio] input` or `output`.
    pub name: String,
    /// What people call it.
    pub description: String,
    /// `input` or `output`.
    pub direction: String,
    /// The sound system's default.
    pub default: bool,
    /// An input that hears what a speaker plays, and no microphone.
    pub monitor: bool,
}

/// The sound server has not said which devices there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the sound server does not answer; restart it, then try again")]
pub struct Hangs;

/// The devices of the configured sound system; none when there is no such system. May take seconds.
///
/// # Errors
/// When the sound server hangs.
pub fn devices(config: &config::Audio) -> Result<Vec<Device>, Hangs> {
    static LISTING: Listing<Vec<Device>> = Listing::new();
    let only = |direction: &str, name: &str, description: &str| Device {
        name: name.to_owned(),
        description: description.to_owned(),
        direction: direction.to_owned(),
        default: true,
        monitor: false,
    };
    match config.backend {
        Backend::File => Ok(vec![
            only("input", &config.input_file, "a WAV file that is spoken"),
            only("output", &config.output_file, "a WAV file of what is heard"),
        ]),
        Backend::Null => Ok(vec![only("input", "silence", ""), only("output", "nowhere", "")]),
        backend @ (Backend::Auto | Backend::Pipewire | Backend::Pulseaudio | Backend::Alsa) => {
            LISTING.ask(move || device::devices(backend), PATIENCE).ok_or(Hangs)
        }
    }
}

/// What one thread at a time finds for all who wait.
struct Listing<T> {
    state: Mutex<State<T>>,
    ended: Condvar,
}

struct State<T> {
    under_way: bool,
    /// How many have ended, and what the last one found.
    ended: u64,
    found: Option<T>,
}

impl<T: Clone + Send> Listing<T> {
    const fn new() -> Self {
        Self { state: Mutex::new(State { under_way: false, ended: 0, found: None }), ended: Condvar::new() }
    }

    /// What `look` finds, or the look that is under way; `None` when that takes longer than `patience`.
    fn ask(&'static self, look: impl FnOnce() -> T + Send + 'static, patience: Duration) -> Option<T> {
        let mut state = lock(&self.state);
        if !state.under_way {
            let run = move || {
                // Also after a panic others may look again.
                let found = catch_unwind(AssertUnwindSafe(look)).ok();
                let mut state = lock(&self.state);
                (state.under_way, state.ended, state.found) = (false, state.ended + 1, found);
                self.ended.notify_all();
            };
            std::thread::Builder::new().name("audio-devices".into()).spawn(run).ok()?;
            state.under_way = true;
        }
        let before = state.ended;
        let (state, waited) = self.ended.wait_timeout_while(state, patience, |state| state.ended == before).ok()?;
        if waited.timed_out() { None } else { state.found.clone() }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_look_that_hangs_holds_nobody_up_and_is_the_only_one_until_it_answers_all() {
        static LISTING: Listing<u32> = Listing::new();
        let (answer, hangs) = channel();
        assert_eq!(LISTING.ask(move || hangs.recv().unwrap_or(0), Duration::ZERO), None);
        assert_eq!(LISTING.ask(|| panic!("a second one"), Duration::ZERO), None);
        assert_eq!(LISTING.state.lock().unwrap().ended, 0, "no second one was begun");
        let waits = std::thread::spawn(|| LISTING.ask(|| 2, Duration::MAX));
        answer.send(1).unwrap();
        let found = waits.join().unwrap();
        assert!(matches!(found, Some(1 | 2)), "{found:?}: of the one under way, or of its own after that");
        assert_eq!(LISTING.ask(|| 3, Duration::MAX), Some(3));
    }

    #[test]
    fn after_a_look_that_panics_others_look_again() {
        static LISTING: Listing<u32> = Listing::new();
        assert_eq!(LISTING.ask(|| panic!("the sound system's client"), Duration::MAX), None);
        assert_eq!(LISTING.ask(|| 1, Duration::MAX), Some(1));
    }
}
