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

/// What a speaker that gives way has still to play, so long it stays open; a sound server holds some tens of ms.
const DRAIN: Duration = Duration::from_millis(150);

/// After so long without sound from a sound server whose sound has flowed, `status` says so.
const STILL: Duration = Duration::from_secs(3);

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

/// Whether sound still flows: a sound server that hangs says nothing.
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
        if self.began {
            self.still = self.still.saturating_add(passed.min(LONGEST_TURN));
        }
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
    /// Sound flows.
    fn runs(&self) -> bool;
    /// Why it does not work any more.
    fn stopped(&mut self) -> Option<String>;
    /// What is said of one whose sound has ceased to flow.
    fn hangs(&self, device: &str) -> String;
}
impl Stops for dyn Capture {
    fn runs(&self) -> bool {
        self.flows()
    }

    fn stopped(&mut self) -> Option<String> {
        self.broken()
    }

    fn hangs(&self, device: &str) -> String {
        format!("the microphone {device} has given no sound for a while; the sound server may hang: restart it")
    }
}
impl Stops for dyn Playback {
    fn runs(&self) -> bool {
        self.flows()
    }

    fn stopped(&mut self) -> Option<String> {
        self.broken()
    }

    fn hangs(&self, device: &str) -> String {
        format!("the speaker {device} has taken no sound for a while; the sound server may hang: restart it")
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
            State::Open(open) if open.flow.still >= STILL && !keeps_its_own_clock(&open.name) => {
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
                close(open, Duration::ZERO);
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
            State::Opening { attempt, .. } => *attempt = Pending { answer: open(), since: now },
            State::Open(present) => {
                present.next = Some(Next { attempt: Pending { answer: open(), since: now }, opened: None });
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
            Some((mut device, name)) => device.stopped().map_or(Ok((device, name)), Err),
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
                close(State::Open(present), DRAIN);
                Open::new(device, name, now)
            }
            Ok(opened) => {
                next.opened = Some(opened);
                present.next = Some(next);
                present
            }
            Err(why) => {
                tracing::warn!(%why, "audio does not go over to another device");
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
        tracing::warn!(%why, "audio stopped");
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
                if self.problem.as_deref() != Some(&why) {
                    tracing::warn!(%why, "audio does not open");
                }
                self.problem = Some(why);
                State::Broken { stand_in, retry_at: now + RETRY }
            }
        }
    }
}

/// No sound server is asked for its sound.
fn keeps_its_own_clock(name: &Opened) -> bool {
    matches!(name.backend.as_str(), "alsa" | "file" | "null")
}

/// Closing a device may wait for its server: not on the audio thread.
fn close<T: ?Sized + Send + 'static>(state: State<T>, after: Duration) {
    let State::Open(open) = state else { return };
    let Open { device, name, next, .. } = *open;
    if matches!(name.backend.as_str(), "file" | "null") {
        return drop(device);
    }
    let close = move || {
        drop(next);
        std::thread::sleep(after);
        drop(device);
    };
    // Without a thread it is dropped here and now by `spawn` itself.
    drop(std::thread::Builder::new().name("audio-close".into()).spawn(close));
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::sync_channel,
    };

    use super::*;
    use crate::audio::{Block, backend::Nowhere, opener::named};

    /// A speaker of a test: whether it runs, and whether it has broken.
    #[derive(Clone, Default)]
    struct Fake {
        runs: Arc<AtomicBool>,
        broken: Arc<AtomicBool>,
    }

    impl Playback for Fake {
        fn wants(&mut self, _now: Instant) -> bool {
            false
        }
        fn play(&mut self, _block: &Block) {}
        fn due(&self) -> Option<Instant> {
            None
        }
        fn flows(&self) -> bool {
            self.runs.load(Relaxed)
        }
        fn broken(&mut self) -> Option<String> {
            self.broken.swap(false, Relaxed).then(|| "unplugged".into())
        }
    }

    fn opened(fake: &Fake, device: &str) -> Attempt<dyn Playback> {
        Ok((Box::new(fake.clone()), Opened { backend: "null".into(), device: device.into(), instead: None }))
    }

    fn answered(attempt: Attempt<dyn Playback>) -> Receiver<Attempt<dyn Playback>> {
        let (send, answer) = sync_channel(1);
        send.send(attempt).unwrap();
        answer
    }

    fn unasked() -> Receiver<Attempt<dyn Playback>> {
        panic!("nothing is opened by itself")
    }

    fn open(fake: &Fake, now: Instant) -> Port<dyn Playback> {
        let mut port: Port<dyn Playback> = Port::new(|| Box::new(Nowhere::new()));
        assert!(port.drive(true, now, || answered(opened(fake, "first"))));
        port
    }

    fn device(port: &Port<dyn Playback>) -> String {
        port.name().map_or_else(|| "none".into(), |opened| opened.device)
    }

    #[test]
    fn the_present_device_goes_on_until_the_next_one_is_open_and_runs() {
        let (now, first, second) = (Instant::now(), Fake::default(), Fake::default());
        let mut port = open(&first, now);
        let (send, answer) = sync_channel(1);
        port.switch(now, || answer);
        assert!(!port.drive(true, now, unasked));
        send.send(opened(&second, "second")).unwrap();
        assert!(!port.drive(true, now, unasked));
        assert_eq!(device(&port), "first", "open, and not running yet");
        second.runs.store(true, Relaxed);
        assert!(port.drive(true, now, unasked));
        assert_eq!(device(&port), "second");
    }

    #[test]
    fn one_that_never_runs_is_taken_after_a_while() {
        let now = Instant::now();
        let mut port = open(&Fake::default(), now);
        port.switch(now, || answered(opened(&Fake::default(), "second")));
        port.drive(true, now + PATIENCE, unasked);
        assert_eq!(device(&port), "first");
        port.drive(true, now + PATIENCE + Duration::from_millis(1), unasked);
        assert_eq!(device(&port), "second");
    }

    #[test]
    fn a_switch_that_fails_leaves_the_present_device_and_says_why() {
        let now = Instant::now();
        let mut port = open(&Fake::default(), now);
        port.switch(now, || answered(Err("there is no second".into())));
        assert!(port.drive(true, now, unasked));
        assert_eq!((device(&port).as_str(), port.problem().as_deref()), ("first", Some("there is no second")));
    }

    #[test]
    fn a_closed_port_knows_what_did_not_work_until_it_works_or_another_device_is_wanted() {
        let (now, why) = (Instant::now(), || Err("no server".into()));
        let mut port: Port<dyn Playback> = Port::new(|| Box::new(Nowhere::new()));
        assert!(port.drive(true, now, || answered(why())));
        for _ in 0..2 {
            assert!(!port.drive(false, now, unasked) && !port.drive(true, now, || answered(why())), "nothing new");
            assert_eq!(port.problem().as_deref(), Some("no server"));
        }
        port.drive(false, now, unasked);
        port.switch(now, unasked);
        assert_eq!(port.problem(), None);
        let name = Opened { instead: Some("no headset".into()), ..named("null", "first") };
        assert!(port.drive(true, now, || answered(Ok((Box::new(Fake::default()), name)))));
        assert!(port.drive(false, now, unasked), "it has no name any more");
        assert_eq!(port.problem().as_deref(), Some("no headset"));
        assert!(port.drive(true, now, || answered(opened(&Fake::default(), "headset"))));
        port.drive(false, now, unasked);
        assert_eq!(port.problem(), None);
    }

    #[test]
    fn a_sound_server_that_hangs_is_told_of_until_sound_flows_again() {
        let mut now = Instant::now();
        let mut port: Port<dyn Playback> = Port::new(|| Box::new(Nowhere::new()));
        let attempt = || answered(Ok((Box::new(Fake::default()), named("pulseaudio", "first"))));
        assert!(port.drive(true, now, attempt));
        let mut pass = |port: &mut Port<dyn Playback>, turns: u32| {
            (0..turns).any(|_| {
                now += LONGEST_TURN;
                port.drive(true, now, unasked)
            })
        };
        let turns = STILL.div_duration_f64(LONGEST_TURN) as u32;
        assert!(!pass(&mut port, 2 * turns), "some take their time to begin");
        port.flowed();
        assert!(!pass(&mut port, turns - 1));
        port.flowed();
        assert!(!pass(&mut port, turns - 1), "it has flowed in between");
        assert!(pass(&mut port, 1), "nothing is told after {STILL:?} without sound");
        let problem = port.problem().unwrap();
        assert!(
            problem.starts_with("the speaker first has taken no sound") && problem.ends_with("restart it"),
            "{problem}"
        );
        port.flowed();
        assert_eq!(port.problem(), None);
    }

    #[test]
    fn a_daemon_that_stood_still_and_a_device_with_a_clock_of_its_own_give_no_alarm() {
        for (backend, turn) in [("pulseaudio", 20 * STILL), ("alsa", LONGEST_TURN)] {
            let mut now = Instant::now();
            let mut port: Port<dyn Playback> = Port::new(|| Box::new(Nowhere::new()));
            port.drive(true, now, || answered(Ok((Box::new(Fake::default()), named(backend, "first")))));
            port.flowed();
            for _ in 0..if backend == "alsa" { 100 } else { 1 } {
                now += turn;
                assert!(!port.drive(true, now, unasked), "{backend}: {:?}", port.problem());
            }
        }
    }

    #[test]
    fn a_device_that_breaks_meanwhile_makes_way_at_once() {
        let (now, first, second) = (Instant::now(), Fake::default(), Fake::default());
        let mut port = open(&first, now);
        port.switch(now, || answered(opened(&second, "second")));
        port.drive(true, now, unasked);
        first.broken.store(true, Relaxed);
        assert!(port.drive(true, now, unasked));
        assert_eq!((device(&port).as_str(), port.problem()), ("second", None));
    }

    #[test]
    fn what_breaks_after_a_while_is_opened_again_at_once_and_what_breaks_soon_only_later() {
        let (now, first, again) = (Instant::now(), Fake::default(), Fake::default());
        let mut port = open(&first, now);
        let later = now + RETRY + Duration::from_millis(1);
        first.broken.store(true, Relaxed);
        assert!(port.drive(true, later, || answered(opened(&again, "again"))));
        assert!(port.drive(true, later, unasked), "its answer is taken");
        assert_eq!(device(&port), "again");
        again.broken.store(true, Relaxed);
        assert!(port.drive(true, later, unasked));
        assert_eq!((device(&port).as_str(), port.problem().as_deref()), ("none", Some("unplugged")));
        assert!(!port.drive(true, later, unasked), "not yet");
    }
}
