//! One direction of sound: closed, opening, open, or broken and tried again; and how it goes over to another device.
//!
//! Devices open and close on threads of their own, because a sound server may hang. Until a device is there, and while
//! it is broken, a stand-in (silence) keeps the clock, so that a call goes on without a sound card. While another device
//! opens, the one that is open goes on.

use std::{
    sync::mpsc::{Receiver, TryRecvError},
    time::{Duration, Instant},
};

use super::{
    backend::{Capture, Playback},
    choice::{Choice, Step},
    watch::Seen,
};

/// Between two attempts to open what is broken.
const RETRY: Duration = Duration::from_secs(3);

/// Silence of a sound server after which `status` says so; the attempt goes on.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a speaker that is closed or gives way has still to play, so long it stays open; a sound server holds some tens of ms.
const DRAIN: Duration = Duration::from_millis(150);

/// After so long without sound from a device whose sound has flowed, `status` says so.
const STILL: Duration = Duration::from_secs(3);

/// And after so long without any: a device that was asleep, or Bluetooth's, may begin late.
const BEGINS: Duration = Duration::from_secs(5);

/// Who did not look for longer than this, because the machine or the daemon stood still, has seen nothing of the rest.
const LONGEST_TURN: Duration = Duration::from_millis(200);

/// What an opened port is called in `status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// `pipewire`, `pulseaudio`, `alsa`, `file` or `null`.
    pub backend: String,
    /// The device's name.
    pub device: String,
    /// It stands in for another one: a sentence for the user.
    pub instead: Option<String>,
}

/// The outcome of an attempt; the error is a sentence for the user.
pub type Attempt<T> = Result<(Box<T>, Opened), String>;

/// An attempt that is under way.
struct Pending<T: ?Sized> {
    answer: Receiver<Attempt<T>>,
    since: Instant,
}

/// One direction of sound.
pub struct Port<T: ?Sized> {
    state: State<T>,
    stand_in: fn() -> Box<T>,
    problem: Option<String>,
}

enum State<T: ?Sized> {
    Closed,
    Opening { stand_in: Box<T>, attempt: Pending<T> },
    Open(Box<Open<T>>),
    Broken { stand_in: Box<T>, retry_at: Instant },
}

struct Open<T: ?Sized> {
    device: Box<T>,
    name: Opened,
    flow: Flow,
    /// What was seen of the sound system before does not count.
    since: Instant,
    /// What takes its place as soon as it runs.
    next: Option<Next<T>>,
    /// Not before then another device is tried again by itself.
    patient_until: Instant,
}

impl<T: ?Sized> Open<T> {
    fn new(device: Box<T>, name: Opened, now: Instant) -> Box<Self> {
        let flow = Flow { began: false, looked: now, still: Duration::ZERO };
        Box::new(Self { device, name, flow, since: now, next: None, patient_until: now })
    }
}

/// Whether sound flows: a sound server that hangs says nothing.
struct Flow {
    began: bool,
    looked: Instant,
    /// How long it has been seen not to flow.
    still: Duration,
}

impl Flow {
    fn flowed(&mut self) {
        (self.began, self.still) = (true, Duration::ZERO);
    }

    fn look(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(std::mem::replace(&mut self.looked, now));
        self.still = self.still.saturating_add(passed.min(LONGEST_TURN));
    }

    /// It should have come by now.
    fn is_missed(&self) -> bool {
        self.still >= if self.began { STILL } else { BEGINS }
    }
}

/// The device that takes over.
struct Next<T: ?Sized> {
    attempt: Pending<T>,
    /// Open, and perhaps not running yet: some (Bluetooth) take a second.
    opened: Option<(Box<T>, Opened)>,
}

/// What the engine asks of both kinds of ports.
pub trait Stops {
    /// So long it stays open when it is not wanted any more: what was played is heard to its end.
    const PLAYS_ON: Duration;
    /// Sound flows.
    fn runs(&self) -> bool;
    /// Why it does not work any more.
    fn stopped(&mut self) -> Option<String>;
    /// What is said of one whose sound has ceased to flow.
    fn hangs(&self, device: &str) -> String;
}
impl Stops for dyn Capture {
    const PLAYS_ON: Duration = Duration::ZERO;

    fn runs(&self) -> bool {
        self.flows()
    }

    fn stopped(&mut self) -> Option<String> {
        self.broken()
    }

    fn hangs(&self, device: &str) -> String {
        format!(
            "the microphone {device} has given no sound for a while: it is suspended, or it or the sound server hangs; resume it, choose another one, or restart the server"
        )
    }
}
impl Stops for dyn Playback {
    const PLAYS_ON: Duration = DRAIN;

    fn runs(&self) -> bool {
        self.flows()
    }

    fn stopped(&mut self) -> Option<String> {
        self.broken()
    }

    fn hangs(&self, device: &str) -> String {
        format!(
            "the speaker {device} has taken no sound for a while: it is suspended, or it or the sound server hangs; resume it, choose another one, or restart the server"
        )
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
        matches!(self.state, State::Open(_))
    }

    /// A device is expected soon.
    pub fn is_opening(&self, now: Instant) -> bool {
        matches!(&self.state, State::Opening { attempt, .. } if now.saturating_duration_since(attempt.since) <= PATIENCE)
    }

    /// The device, or its stand-in; `None` when closed.
    pub fn active(&mut self) -> Option<&mut T> {
        match &mut self.state {
            State::Closed => None,
            State::Opening { stand_in, .. } | State::Broken { stand_in, .. } => Some(stand_in),
            State::Open(open) => Some(&mut open.device),
        }
    }

    /// When the device, or its stand-in, is due.
    pub fn due(&mut self, due: impl Fn(&mut T) -> Option<Instant>) -> Option<Instant> {
        self.active().and_then(due)
    }

    /// What is open.
    pub fn name(&self) -> Option<Opened> {
        match &self.state {
            State::Open(open) => Some(open.name.clone()),
            State::Closed | State::Opening { .. } | State::Broken { .. } => None,
        }
    }

    /// A block was read, or wanted.
    pub fn flowed(&mut self) {
        if let State::Open(open) = &mut self.state {
            open.flow.flowed();
        }
    }

    /// What does not work, and what to do about it.
    pub fn problem(&self) -> Option<String> {
        match &self.state {
            State::Open(open) if open.flow.is_missed() && !keeps_its_own_clock(&open.name) => {
                Some(open.device.hangs(&open.name.device))
            }
            State::Open(open) => self.problem.clone().or_else(|| open.name.instead.clone()),
            State::Closed | State::Opening { .. } | State::Broken { .. } => self.problem.clone(),
        }
    }

    /// Brings the port to what is wanted; true when the status changed.
    pub fn drive(&mut self, wanted: bool, now: Instant, open: impl FnOnce() -> Receiver<Attempt<T>>) -> bool {
        let before = (self.name(), self.problem());
        let begin = || Pending { answer: open(), since: now };
        self.state = match std::mem::replace(&mut self.state, State::Closed) {
            State::Closed if wanted => self.settle((self.stand_in)(), begin(), now),
            State::Closed => State::Closed,
            mut open @ (State::Opening { .. } | State::Open(_) | State::Broken { .. }) if !wanted => {
                // What did not work the last time may be known until the next.
                if let State::Open(open) = &mut open {
                    self.problem = open.name.instead.take();
                }
                close(open, T::PLAYS_ON);
                State::Closed
            }
            State::Opening { stand_in, attempt } => self.settle(stand_in, attempt, now),
            State::Open(mut open) => {
                open.flow.look(now);
                match open.device.stopped() {
                    None => State::Open(self.go_over(open, now)),
                    Some(why) => self.replace(open, why, begin, now),
                }
            }
            State::Broken { stand_in, retry_at } if now >= retry_at => self.settle(stand_in, begin(), now),
            State::Broken { stand_in, retry_at } => State::Broken { stand_in, retry_at },
        };
        before != (self.name(), self.problem())
    }

    /// Another device is wanted: it opens while the present one goes on. A closed port only forgets what was
    /// wrong with the one before.
    pub fn switch(&mut self, now: Instant, open: impl FnOnce() -> Receiver<Attempt<T>>) {
        match &mut self.state {
            State::Closed => self.forget(),
            State::Opening { attempt, .. } => {
                drop_apart(std::mem::replace(attempt, Pending { answer: open(), since: now }), Duration::ZERO);
            }
            State::Open(present) => {
                let next = Next { attempt: Pending { answer: open(), since: now }, opened: None };
                if let Some(unwanted) = present.next.replace(next) {
                    drop_apart(unwanted, Duration::ZERO);
                }
                present.patient_until = now + RETRY;
            }
            State::Broken { retry_at, .. } => *retry_at = now,
        }
    }

    /// What did not work the last time says nothing any more. A port that is not closed speaks for itself.
    pub fn forget(&mut self) {
        if matches!(self.state, State::Closed) {
            self.problem = None;
        }
    }

    /// Goes after what was seen of the sound system: to another device, or after a stream that was moved. True when the
    /// status changed.
    pub fn follow(
        &mut self,
        choice: &mut Choice,
        seen: &Seen,
        now: Instant,
        open: impl FnOnce(&Choice) -> Receiver<Attempt<T>>,
    ) -> bool {
        let State::Open(present) = &mut self.state else { return false };
        if seen.at < present.since || present.next.is_some() {
            return false;
        }
        match choice.step(&present.name.device, seen) {
            Step::Stay => false,
            Step::Moved(to) => {
                tracing::info!(from = present.name.device, to, "the sound server moved a stream");
                to.clone_into(&mut present.name.device);
                true
            }
            Step::Switch if now < present.patient_until => false,
            Step::Switch => {
                self.switch(now, || open(choice));
                false
            }
        }
    }

    /// Closes it for good, without waiting for a device.
    pub fn close(&mut self) {
        close(std::mem::replace(&mut self.state, State::Closed), Duration::ZERO);
    }

    /// The next device takes over when it runs; the present one plays out what it has.
    fn go_over(&mut self, mut present: Box<Open<T>>, now: Instant) -> Box<Open<T>> {
        let Some(mut next) = present.next.take() else { return present };
        let opened = match next.opened.take() {
            Some((mut device, name)) => match device.stopped() {
                None => Ok((device, name)),
                Some(why) => {
                    drop_apart(device, Duration::ZERO);
                    Err(why)
                }
            },
            None => match next.attempt.answer.try_recv() {
                Ok(opened) => opened,
                Err(TryRecvError::Disconnected) => return present,
                Err(TryRecvError::Empty) => {
                    present.next = Some(next);
                    return present;
                }
            },
        };
        let late = now.saturating_duration_since(next.attempt.since) > PATIENCE;
        match opened {
            Ok((device, name)) if late || device.runs() => {
                self.problem = None;
                close(State::Open(present), T::PLAYS_ON);
                Open::new(device, name, now)
            }
            Ok(opened) => {
                next.opened = Some(opened);
                present.next = Some(next);
                present
            }
            Err(why) => {
                self.problem = Some(why);
                present
            }
        }
    }

    /// A device that has worked for a while is replaced at once, one that has not only later.
    fn replace(
        &mut self,
        mut present: Box<Open<T>>,
        why: String,
        begin: impl FnOnce() -> Pending<T>,
        now: Instant,
    ) -> State<T> {
        self.problem = Some(why);
        let (next, worked) = (present.next.take(), now.saturating_duration_since(present.since) > RETRY);
        close(State::Open(present), Duration::ZERO);
        let stand_in = (self.stand_in)();
        match next {
            Some(Next { opened: Some((device, name)), .. }) => {
                self.problem = None;
                State::Open(Open::new(device, name, now))
            }
            Some(Next { attempt, opened: None }) => State::Opening { stand_in, attempt },
            None if worked => State::Opening { stand_in, attempt: begin() },
            None => State::Broken { stand_in, retry_at: now + RETRY },
        }
    }

    /// What an attempt has come to.
    fn settle(&mut self, stand_in: Box<T>, attempt: Pending<T>, now: Instant) -> State<T> {
        let answer = match attempt.answer.try_recv() {
            Ok(answer) => answer,
            Err(TryRecvError::Empty) => {
                if now.saturating_duration_since(attempt.since) > PATIENCE {
                    self.problem = Some("the sound server does not answer; restart it".into());
                }
                return State::Opening { stand_in, attempt };
            }
            Err(TryRecvError::Disconnected) => Err("the sound system did not answer; restart telecon".into()),
        };
        match answer {
            Ok((device, name)) => {
                self.problem = None;
                State::Open(Open::new(device, name, now))
            }
            Err(why) => {
                self.problem = Some(why);
                State::Broken { stand_in, retry_at: now + RETRY }
            }
        }
    }
}

/// It is no device.
fn keeps_its_own_clock(name: &Opened) -> bool {
    matches!(name.backend.as_str(), "file" | "null")
}

/// What is open plays on for a moment.
fn close<T: ?Sized + Send + 'static>(state: State<T>, after: Duration) {
    match state {
        State::Closed | State::Broken { .. } => {}
        // It may be open by now.
        State::Opening { attempt, .. } => drop_apart(attempt, Duration::ZERO),
        // Whoever closes a file may read it at once.
        State::Open(open) if keeps_its_own_clock(&open.name) => drop(open),
        State::Open(mut open) => {
            if let Some(next) = open.next.take() {
                drop_apart(next, Duration::ZERO);
            }
            drop_apart(open, after);
        }
    }
}

/// Drops what is or may be a device, which may wait for its server: not on the audio thread.
fn drop_apart(device: impl Send + 'static, after: Duration) {
    let close = move || {
        std::thread::sleep(after);
        drop(device);
    };
    // Without a thread it is dropped here and now by `spawn` itself.
    drop(std::thread::Builder::new().name("audio-close".into()).spawn(close));
}

#[cfg(test)]
mod tests;
