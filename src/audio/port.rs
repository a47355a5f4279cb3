//! One direction of sound: closed, opening, open, or broken and tried again; and who opens it for which backend.
//!
//! Devices open and close on threads of their own, because a sound server may hang. Until a device is there, and while
//! it is broken, a stand-in (silence) keeps the clock, so that a call goes on without a sound card.

use std::{
    path::PathBuf,
    sync::mpsc::{Receiver, TryRecvError, sync_channel},
    time::{Duration, Instant},
};

use super::{
    Shared,
    backend::{self, Capture, Nowhere, Playback, Silence},
    device, file,
};
use crate::config::{self, Backend};

/// Between two attempts to open what is broken.
const RETRY: Duration = Duration::from_secs(3);

/// Silence of a sound server after which `status` says so; the attempt goes on.
const PATIENCE: Duration = Duration::from_secs(5);

/// What an opened port is called in `status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// `pulseaudio`, `alsa`, `file` or `null`.
    pub backend: String,
    /// The device's name.
    pub device: String,
}

/// The outcome of an attempt; the error is a sentence for the user.
pub type Attempt<T> = Result<(Box<T>, Opened), String>;

/// One direction of sound.
pub struct Port<T: ?Sized> {
    state: State<T>,
    stand_in: fn() -> Box<T>,
    problem: Option<String>,
}

enum State<T: ?Sized> {
    Closed,
    Opening { stand_in: Box<T>, answer: Receiver<Attempt<T>>, since: Instant },
    Open { device: Box<T>, name: Opened },
    Broken { stand_in: Box<T>, retry_at: Instant },
}

/// What the engine asks of both kinds of ports.
pub trait Stops {
    /// Why it does not work any more.
    fn stopped(&mut self) -> Option<String>;
}
impl Stops for dyn Capture {
    fn stopped(&mut self) -> Option<String> {
        self.broken()
    }
}
impl Stops for dyn Playback {
    fn stopped(&mut self) -> Option<String> {
        self.broken()
    }
}

impl<T: ?Sized + Stops + Send + 'static> Port<T> {
    /// A closed port; `stand_in` makes what keeps the clock without a device.
    pub fn new(stand_in: fn() -> Box<T>) -> Self {
        Self { state: State::Closed, stand_in, problem: None }
    }

    /// It is not closed.
    pub fn is_wanted(&self) -> bool {
        !matches!(self.state, State::Closed)
    }

    /// A device is open.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. })
    }

    /// The device, or its stand-in; `None` when closed.
    pub fn active(&mut self) -> Option<&mut T> {
        match &mut self.state {
            State::Closed => None,
            State::Opening { stand_in, .. } | State::Broken { stand_in, .. } => Some(stand_in),
            State::Open { device, .. } => Some(device),
        }
    }

    /// When the device, or its stand-in, is due.
    pub fn due(&mut self, due: impl Fn(&mut T) -> Option<Instant>) -> Option<Instant> {
        self.active().and_then(due)
    }

    /// What is open.
    pub fn name(&self) -> Option<Opened> {
        match &self.state {
            State::Open { name, .. } => Some(name.clone()),
            State::Closed | State::Opening { .. } | State::Broken { .. } => None,
        }
    }

    /// What does not work, and what to do about it.
    pub fn problem(&self) -> Option<String> {
        self.problem.clone()
    }

    /// Brings the port to what is wanted; true when the status changed.
    pub fn drive(&mut self, wanted: bool, now: Instant, open: impl FnOnce() -> Receiver<Attempt<T>>) -> bool {
        let before = (self.name(), self.problem.clone());
        self.state = match std::mem::replace(&mut self.state, State::Closed) {
            State::Closed if wanted => self.settle((self.stand_in)(), open(), now, now),
            State::Closed => State::Closed,
            open @ (State::Opening { .. } | State::Open { .. } | State::Broken { .. }) if !wanted => {
                close(open);
                State::Closed
            }
            State::Opening { stand_in, answer, since } => self.settle(stand_in, answer, since, now),
            State::Open { mut device, name } => match device.stopped() {
                None => State::Open { device, name },
                Some(why) => {
                    tracing::warn!(%why, "audio stopped");
                    self.problem = Some(why);
                    close(State::Open { device, name });
                    State::Broken { stand_in: (self.stand_in)(), retry_at: now + RETRY }
                }
            },
            State::Broken { stand_in, retry_at } if now >= retry_at => self.settle(stand_in, open(), now, now),
            State::Broken { stand_in, retry_at } => State::Broken { stand_in, retry_at },
        };
        before != (self.name(), self.problem.clone())
    }

    /// Closes it for good, without waiting for a device.
    pub fn close(&mut self) {
        close(std::mem::replace(&mut self.state, State::Closed));
    }

    /// What an attempt has come to.
    fn settle(&mut self, stand_in: Box<T>, answer: Receiver<Attempt<T>>, since: Instant, now: Instant) -> State<T> {
        let attempt = match answer.try_recv() {
            Ok(attempt) => attempt,
            Err(TryRecvError::Empty) => {
                if now.saturating_duration_since(since) > PATIENCE {
                    self.problem = Some("the sound server does not answer; restart it".into());
                }
                return State::Opening { stand_in, answer, since };
            }
            Err(TryRecvError::Disconnected) => Err("the sound system did not answer; restart telecon".into()),
        };
        match attempt {
            Ok((device, name)) => {
                self.problem = None;
                State::Open { device, name }
            }
            Err(why) => {
                if self.problem.as_deref() != Some(&why) {
                    tracing::warn!(%why, "audio does not open");
                }
                self.problem = Some(why);
                State::Broken { stand_in, retry_at: now + RETRY }
            }
        }
    }
}

/// Closing a device may wait for its server: not on the audio thread.
fn close<T: ?Sized + Send + 'static>(state: State<T>) {
    let State::Open { device, name } = state else { return };
    if matches!(name.backend.as_str(), "file" | "null") {
        return drop(device);
    }
    // Without a thread it is dropped here and now by `spawn` itself.
    drop(std::thread::Builder::new().name("audio-close".into()).spawn(move || drop(device)));
}

/// Opens ports as the configuration says.
pub struct Opener {
    config: config::Audio,
    waker: backend::Waker,
    clip: Option<file::Clip>,
    probe: Option<Receiver<device::Probe>>,
    problem: Option<String>,
}

impl Opener {
    /// Looks for what the configuration names, without opening it.
    pub fn new(config: config::Audio, waker: backend::Waker) -> Self {
        let mut opener = Self { config, waker, clip: None, probe: None, problem: None };
        match opener.config.backend {
            Backend::File => opener.problem = opener.load_clip().err(),
            Backend::Null => {}
            Backend::Auto | Backend::Pipewire | Backend::Pulseaudio | Backend::Alsa => {
                let config = opener.config.clone();
                let waker = opener.waker.clone();
                opener.probe = Some(in_background("audio-probe", move || device::probe(&config), waker));
            }
        }
        opener
    }

    /// What the configuration asks for and cannot have.
    pub fn problem(&self) -> Option<String> {
        self.problem.clone()
    }

    /// Takes over what the look-around at start found; true when that was news.
    pub fn take_probe(&mut self, shared: &Shared) -> bool {
        let Some(Ok(probe)) = self.probe.as_ref().map(Receiver::try_recv) else { return false };
        self.probe = None;
        self.problem = probe.problem;
        let mut board = shared.board();
        board.status.backend = probe.backend;
        board.status.input = probe.input;
        board.status.output = probe.output;
        true
    }

    /// Begins to open the microphone.
    pub fn input(&mut self) -> Receiver<Attempt<dyn Capture>> {
        // From here on the ports speak for themselves; what cannot be had stays said.
        self.forget_probe();
        match self.config.backend {
            Backend::Null => ready(Ok((Box::new(Silence::new()), named("null", "silence")))),
            Backend::File => ready(self.open_file_input()),
            Backend::Auto | Backend::Pipewire | Backend::Pulseaudio | Backend::Alsa => {
                let (config, waker) = (self.config.clone(), self.waker.clone());
                let open = move || device::open_input(&config, waker);
                in_background("audio-open-input", open, self.waker.clone())
            }
        }
    }

    /// Begins to open the speaker.
    pub fn output(&mut self) -> Receiver<Attempt<dyn Playback>> {
        self.forget_probe();
        match self.config.backend {
            Backend::Null => ready(Ok((Box::new(Nowhere::new()), named("null", "nowhere")))),
            Backend::File => ready(self.open_file_output()),
            Backend::Auto | Backend::Pipewire | Backend::Pulseaudio | Backend::Alsa => {
                let (config, waker) = (self.config.clone(), self.waker.clone());
                let open = move || device::open_output(&config, waker);
                in_background("audio-open-output", open, self.waker.clone())
            }
        }
    }

    fn forget_probe(&mut self) {
        self.probe = None;
        self.problem = match self.config.backend {
            Backend::Pipewire => Some(device::NO_PIPEWIRE.into()),
            Backend::Auto | Backend::Pulseaudio | Backend::Alsa | Backend::File | Backend::Null => None,
        };
    }

    fn open_file_input(&mut self) -> Attempt<dyn Capture> {
        if self.config.input_file.is_empty() {
            return Ok((Box::new(Silence::new()), named("file", "silence")));
        }
        let clip = self.load_clip()?;
        Ok((Box::new(file::FileInput::new(clip)), named("file", &self.config.input_file)))
    }

    fn open_file_output(&mut self) -> Attempt<dyn Playback> {
        if self.config.output_file.is_empty() {
            return Ok((Box::new(Nowhere::new()), named("file", "nowhere")));
        }
        let output = file::FileOutput::open(&PathBuf::from(&self.config.output_file))?;
        Ok((Box::new(output), named("file", &self.config.output_file)))
    }

    /// Read once; when that failed, again with the next attempt.
    fn load_clip(&mut self) -> Result<file::Clip, String> {
        if self.config.input_file.is_empty() {
            return Ok([0].into());
        }
        if let Some(clip) = &self.clip {
            return Ok(clip.clone());
        }
        let clip = file::read_clip(&PathBuf::from(&self.config.input_file))?;
        self.clip = Some(clip.clone());
        Ok(clip)
    }
}

/// A port's name.
pub fn named(backend: &str, device: &str) -> Opened {
    Opened { backend: backend.into(), device: device.into() }
}

fn ready<T>(value: T) -> Receiver<T> {
    let (sender, receiver) = sync_channel(1);
    // The receiver is right here and the channel holds one.
    drop(sender.send(value));
    receiver
}

/// Runs `work` on a thread of its own and wakes the audio thread when it is done.
fn in_background<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
    waker: backend::Waker,
) -> Receiver<T> {
    let (sender, receiver) = sync_channel(1);
    let run = move || {
        // Nobody may wait any more: then the device closes here.
        drop(sender.send(work()));
        waker.wake();
    };
    if let Err(error) = std::thread::Builder::new().name(name.into()).spawn(run) {
        tracing::error!(%error, "no thread to open a sound device");
    }
    receiver
}
