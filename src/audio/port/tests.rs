//! How a port goes from one device to another, and what it says of one that does not do.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
    mpsc::{SyncSender, sync_channel},
};
use std::thread::ThreadId;

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
    let late = BEGINS.div_duration_f64(LONGEST_TURN) as u32;
    assert!(!pass(&mut port, late - 1), "some take their time to begin");
    assert!(pass(&mut port, 1) && port.problem().is_some());
    port.flowed();
    assert!(!pass(&mut port, turns - 1));
    port.flowed();
    assert!(!pass(&mut port, turns - 1), "it has flowed in between");
    assert!(pass(&mut port, 1), "nothing is told after {STILL:?} without sound");
    let problem = port.problem().unwrap();
    assert!(
        problem.starts_with("the speaker first has taken no sound") && problem.ends_with("restart the server"),
        "{problem}"
    );
    port.flowed();
    assert_eq!(port.problem(), None);
}

#[test]
fn a_daemon_that_stood_still_and_what_is_no_device_give_no_alarm() {
    for (backend, turn) in [("pulseaudio", 20 * STILL), ("null", LONGEST_TURN)] {
        let mut now = Instant::now();
        let mut port: Port<dyn Playback> = Port::new(|| Box::new(Nowhere::new()));
        port.drive(true, now, || answered(Ok((Box::new(Fake::default()), named(backend, "first")))));
        port.flowed();
        for _ in 0..if backend == "null" { 100 } else { 1 } {
            now += turn;
            assert!(!port.drive(true, now, unasked), "{backend}: {:?}", port.problem());
        }
    }
}

/// A speaker that tells which thread closed it.
struct Closing(SyncSender<ThreadId>);

impl Playback for Closing {
    fn wants(&mut self, _now: Instant) -> bool {
        false
    }
    fn play(&mut self, _block: &Block) {}
    fn due(&self) -> Option<Instant> {
        None
    }
    fn flows(&self) -> bool {
        false
    }
    fn broken(&mut self) -> Option<String> {
        Some("unplugged".into())
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.send(std::thread::current().id()).unwrap();
    }
}

#[test]
fn no_device_is_closed_by_the_thread_that_moves_the_sound() {
    let (tell, closed) = sync_channel(16);
    let device = || answered(Ok((Box::new(Closing(tell.clone())), named("pulseaudio", "one"))));
    let now = Instant::now();
    let mut silent = Vec::new();
    let mut opening = || {
        let mut port: Port<dyn Playback> = Port::new(|| Box::new(Nowhere::new()));
        let (server, answer) = sync_channel(1);
        silent.push(server);
        port.drive(true, now, || answer);
        port.switch(now, device);
        port
    };
    let on_the_way = || {
        let mut port = open(&Fake::default(), now);
        port.switch(now, device);
        port
    };
    let waiting = || {
        let mut port = on_the_way();
        assert!(!port.drive(true, now, unasked), "it is open, and does not run");
        port
    };
    let by = |what: &str| {
        let by = closed.recv_timeout(PATIENCE).unwrap();
        assert_ne!(by, std::thread::current().id(), "{what}");
    };
    for (what, mut port) in [("opening", opening()), ("on the way", on_the_way()), ("waiting", waiting())] {
        port.switch(now, || sync_channel(1).1);
        by(what);
    }
    opening().drive(false, now, unasked);
    by("not wanted any more");
    waiting().drive(true, now, unasked);
    by("broken before it ran");
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

#[test]
fn a_speaker_that_is_not_wanted_any_more_plays_out_what_it_has() {
    /// Closed when it is dropped.
    struct Closes(#[expect(dead_code, reason = "its end tells")] SyncSender<()>);
    impl Playback for Closes {
        fn wants(&mut self, _now: Instant) -> bool {
            false
        }
        fn play(&mut self, _block: &Block) {}
        fn due(&self) -> Option<Instant> {
            None
        }
    }
    let (tells, closed) = sync_channel(0);
    let mut port: Port<dyn Playback> = Port::new(|| Box::new(Nowhere::new()));
    let now = Instant::now();
    assert!(port.drive(true, now, || answered(Ok((Box::new(Closes(tells)), named("pulseaudio", "ear"))))));
    assert!(port.drive(false, now, unasked));
    assert!(closed.recv().is_err());
    assert!(now.elapsed() >= DRAIN, "{:?}", now.elapsed());
}
