//! Single turns of the audio thread, with devices that do as a test says.

use std::sync::{
    atomic::{AtomicUsize, Ordering::Relaxed},
    mpsc::{Receiver, Sender, channel, sync_channel},
};

use assert_no_alloc::assert_no_alloc;

use super::*;
use crate::{
    audio::{
        backend::{Capture, Playback, Waker},
        codec::Decoder,
        opener::named,
        port::Attempt,
        testing::speech,
        uplink::{Wish, wish},
    },
    config,
};

const LEG: LegId = LegId(1);

struct Bench {
    engine: Engine,
    frames: broadcast::Receiver<EncodedFrame>,
    _events: mpsc::Receiver<AudioEvent>,
}

fn bench() -> Bench {
    let config = config::Audio { backend: config::Backend::Null, ..config::Audio::default() };
    let (shared, stages) = (Arc::new(Shared::new(&config)), Stages::of(&config));
    let (microphone, frames) = broadcast::channel(64);
    let (events, told) = mpsc::channel(64);
    let engine = Engine::new(shared, Opener::new(config, Waker::here()), stages, microphone, false, events);
    Bench { engine, frames, _events: told }
}

fn ready<T: ?Sized>(device: Box<T>) -> Receiver<Attempt<T>> {
    let (send, answer) = sync_channel(1);
    send.send(Ok((device, named("null", "test")))).unwrap();
    answer
}

/// A microphone into which a test speaks.
struct Mouth(Receiver<Block>);

impl Capture for Mouth {
    fn read(&mut self, block: &mut Block, _now: Instant) -> bool {
        self.0.try_recv().map(|said| *block = said).is_ok()
    }
    fn due(&self) -> Option<Instant> {
        None
    }
}

impl Bench {
    /// Opens a microphone whose voice goes to [`LEG`] in frames of 40 ms.
    fn mouth(&mut self) -> Sender<Block> {
        let (mouth, said) = channel();
        let now = Instant::now();
        let engine = &mut self.engine;
        engine.input.drive(true, now, || ready(Box::new(Mouth(said))));
        let (writer, reader) = wish();
        writer.set(Some(Wish { frame_ms: 40, ..Wish::default() }));
        engine.uplink.add_leg(LEG, reader);
        engine.uplink.address([LEG].into(), now, now);
        engine.uplink.begin(now, now);
        mouth
    }

    /// Speaks a block in each turn, muted or not; returns how loud that is heard (a mean square).
    fn speak(&mut self, mouth: &Sender<Block>, blocks: &[(Block, bool)]) -> f32 {
        for (block, muted) in blocks {
            mouth.send(*block).unwrap();
            self.engine.plan.muted = *muted;
            self.engine.capture(Instant::now());
        }
        let mut decoder = Decoder::new().unwrap();
        let frames = std::iter::from_fn(|| self.frames.try_recv().ok());
        let heard: Vec<f32> = frames.flat_map(|frame| decoder.decode(&frame.payload, 1920).to_vec()).collect();
        assert!(heard.len() >= 1920, "a whole frame");
        heard.iter().map(|sample| sample * sample).sum::<f32>() / heard.len() as f32
    }
}

#[test]
fn what_is_said_while_muted_is_never_sent_and_what_was_said_before_a_mute_always() {
    const QUIET: Block = [0.0; BLOCK_SAMPLES];
    let clip = speech(1.0);
    let [.., one, two, three] = clip[..24_000].as_chunks::<BLOCK_SAMPLES>().0 else { panic!("a short clip") };
    let said = |muted| [one, two, three].map(|block| (*block, muted));
    let mut bench = bench();
    let mouth = bench.mouth();
    let secret = bench.speak(&mouth, &[&said(true)[..], &[(QUIET, false)]].concat());
    let meant = bench.speak(&mouth, &[&said(false)[..], &[(QUIET, true)]].concat());
    println!("{secret} of what nobody may hear, {meant} of what was meant for them");
    assert!(secret < 1e-9 && meant > 1e-3, "{secret} {meant}");
}

/// How often a speaker that always wants more got it.
static TAKEN: AtomicUsize = AtomicUsize::new(0);

/// It asks for 10 s at once.
struct Greedy;

impl Playback for Greedy {
    fn wants(&mut self, _now: Instant) -> bool {
        TAKEN.load(Relaxed) < 1_000
    }
    fn play(&mut self, _block: &Block) {
        TAKEN.fetch_add(1, Relaxed);
    }
    fn due(&self) -> Option<Instant> {
        None
    }
}

#[test]
fn no_speaker_has_the_audio_thread_for_itself_however_much_it_asks_for() {
    let greedy = || ready::<dyn Playback>(Box::new(Greedy));
    for rings in [false, true] {
        let mut bench = bench();
        let port = if rings { &mut bench.engine.ring } else { &mut bench.engine.output };
        port.drive(true, Instant::now(), greedy);
        TAKEN.store(0, Relaxed);
        bench.engine.playback(Instant::now());
        assert_eq!(TAKEN.load(Relaxed), BLOCKS_A_TURN, "rings: {rings}");
    }
}

#[test]
fn a_microphone_that_gives_no_sound_is_closed_when_the_time_of_its_test_is_over() {
    let mut bench = bench();
    let (_silent, said) = channel();
    let begun = Instant::now();
    bench.engine.input.drive(true, begun, || ready(Box::new(Mouth(said))));
    bench.engine.trial = Some(Trial::new(1, begun));
    for (seconds, listens) in [(0, true), (5, true), (60, false)] {
        bench.engine.drive_ports(begun + Duration::from_secs(seconds));
        assert_eq!(
            (bench.engine.input.is_open(), bench.engine.trial.is_some()),
            (listens, listens),
            "after {seconds} s"
        );
    }
}

#[test]
fn a_turn_without_a_microphone_costs_nothing() {
    let mut bench = bench();
    assert_no_alloc(|| bench.engine.capture(Instant::now()));
}
