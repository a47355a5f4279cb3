//! Single turns of the audio thread, with devices that do as a test says.

use std::sync::{
    atomic::{AtomicUsize, Ordering::Relaxed},
    mpsc::{Receiver, Sender, channel, sync_channel},
};

use assert_no_alloc::assert_no_alloc;

use super::*;
use crate::{
    audio::{
        FRAME_SAMPLES, PAUSE, ReceivedPacket, Sound,
        backend::{Capture, Playback, Waker},
        codec::{Decoder, Encoder},
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

/// A speaker that wants 10 ms in each turn, and keeps what it played.
struct Ear {
    heard: Sender<Block>,
    now: Option<Instant>,
}

impl Playback for Ear {
    fn wants(&mut self, now: Instant) -> bool {
        self.now.replace(now) != Some(now)
    }
    fn play(&mut self, block: &Block) {
        let _nobody_listens = self.heard.send(*block);
    }
    fn due(&self) -> Option<Instant> {
        None
    }
}

/// An engine with an ear that listens to a leg, in virtual time.
struct Listener {
    engine: Engine,
    heard: Receiver<Block>,
    hum: (rtrb::Producer<ReceivedPacket>, Encoder, u16),
    now: Instant,
}

impl Listener {
    /// The ear opens when the first value is sent.
    fn new() -> (Self, impl FnOnce()) {
        let mut engine = bench().engine;
        let (sender, heard) = channel();
        let (open, answer) = sync_channel(1);
        let now = Instant::now();
        engine.output.drive(true, now, || answer);
        let (slots, packets) = rtrb::RingBuffer::new(64);
        engine.shared.inbox().added.push((LEG, packets, wish().1));
        let opens = move || {
            let ear: Box<dyn Playback> = Box::new(Ear { heard: sender, now: None });
            open.send(Ok((ear, named("null", "ear")))).unwrap();
        };
        (Self { engine, heard, hum: (slots, Encoder::new().unwrap(), 0), now }, opens)
    }

    fn plan(&mut self, plan: AudioPlan) {
        self.engine.shared.inbox().plan = plan;
    }

    fn speaks(&mut self) {
        self.plan(AudioPlan { legs: [LEG].into(), playback: true, ..AudioPlan::default() });
    }

    /// So many tenths of a second pass, in which the leg hums; returns what the ear heard.
    fn pass(&mut self, tenths: u32) -> Vec<f32> {
        for turn in 0..10 * tenths {
            let (slots, encoder, sequence) = &mut self.hum;
            if turn % 2 == 0 {
                let timestamp = u32::from(*sequence) * FRAME_SAMPLES as u32;
                let wave = |at| 0.5 * ((timestamp + at as u32) as f32 * std::f32::consts::TAU / 160.0).sin();
                let payload = encoder.encode(&std::array::from_fn::<_, FRAME_SAMPLES, _>(wave)).unwrap();
                let packet = ReceivedPacket {
                    sequence: *sequence,
                    timestamp,
                    payload,
                    copy: false,
                    dred: false,
                    arrival: self.now,
                };
                // Of one that has left nothing is taken any more.
                drop(slots.push(packet));
                *sequence += 1;
            }
            assert!(self.engine.take_commands());
            self.engine.drive_ports(self.now);
            self.engine.playback(self.now);
            self.now += Duration::from_millis(10);
        }
        self.heard.try_iter().flatten().collect()
    }
}

/// The largest step, from silence and to it as well.
fn steepest(sound: &[f32]) -> f32 {
    let around = [&[0.0], sound, &[0.0]].concat();
    around.windows(2).map(|pair| (pair[1] - pair[0]).abs()).fold(0.0, f32::max)
}

/// Half of full scale at 300 Hz.
const STEEPEST_OF_THE_HUM: f32 = 0.5 * std::f32::consts::TAU / 160.0;

#[test]
fn what_is_heard_ends_softly_when_its_call_is_left_or_ends_and_then_the_speaker_closes() {
    for ends in [false, true] {
        let (mut listener, opens) = Listener::new();
        opens();
        listener.speaks();
        let mut heard = listener.pass(5);
        assert!(heard[24_000 - 480..].iter().any(|sample| sample.abs() > 0.2), "to the last");
        listener.plan(AudioPlan::default());
        if ends {
            listener.engine.shared.inbox().removed.push(LEG);
        }
        heard.extend(listener.pass(1));
        assert!(!listener.engine.output.is_wanted());
        assert_eq!(listener.engine.legs.contains_key(&LEG), !ends);
        let steepest = steepest(&heard);
        assert!(steepest < 1.3 * STEEPEST_OF_THE_HUM, "ends: {ends}, {steepest}");
    }
}

#[test]
fn one_who_leaves_a_call_that_goes_on_fades_out() {
    let (mut listener, opens) = Listener::new();
    opens();
    listener.speaks();
    let mut heard = listener.pass(5);
    listener.plan(AudioPlan { playback: true, ..AudioPlan::default() });
    listener.engine.shared.inbox().removed.push(LEG);
    heard.extend(listener.pass(1));
    assert!(heard[48_000 / 2 + 960..].iter().all(|sample| *sample == 0.0));
    assert!(steepest(&heard) < 1.3 * STEEPEST_OF_THE_HUM, "{}", steepest(&heard));
    assert!(listener.engine.legs.is_empty());
}

#[test]
fn a_speaker_that_opens_in_the_middle_of_a_word_begins_softly() {
    let (mut listener, opens) = Listener::new();
    listener.speaks();
    assert!(listener.pass(5).is_empty());
    opens();
    let heard = listener.pass(5);
    assert!(heard[..960].iter().any(|sample| sample.abs() > 0.2), "at once");
    assert!(heard[..48].iter().all(|sample| sample.abs() < 0.06), "and softly");
}

#[test]
fn telecons_own_sounds_are_heard_to_their_end() {
    let (mut listener, opens) = Listener::new();
    opens();
    listener.engine.sounds.play(Sound::Busy);
    let heard = listener.pass(30);
    assert!(!listener.engine.output.is_wanted());
    let end = &heard[heard.len() - BLOCK_SAMPLES..];
    assert!(end.iter().all(|sample| *sample == 0.0), "nothing is left in the limiter");
}

#[test]
fn a_speaker_that_takes_no_sound_is_closed_nevertheless() {
    let (mut listener, opens) = Listener::new();
    opens();
    listener.speaks();
    listener.pass(5);
    listener.plan(AudioPlan::default());
    assert!(listener.engine.take_commands());
    for (ms, is_open) in [(0, true), (199, true), (200, false)] {
        listener.engine.drive_ports(listener.now - Duration::from_millis(10) + Duration::from_millis(ms));
        assert_eq!(listener.engine.output.is_open(), is_open, "after {ms} ms");
    }
}

#[test]
fn what_was_said_before_a_hold_is_sent_to_its_end_which_is_soft() {
    let mut bench = bench();
    let mouth = bench.mouth();
    bench.engine.plan.legs = [LEG].into();
    let word: [f32; 3 * BLOCK_SAMPLES] =
        std::array::from_fn(|at| 0.5 * (at as f32 * std::f32::consts::TAU / 160.0).cos());
    for block in word.as_chunks().0 {
        mouth.send(*block).unwrap();
        bench.engine.capture(Instant::now());
    }
    bench.engine.follow(AudioPlan::default());
    let (frame, pause) = (bench.frames.try_recv().unwrap(), bench.frames.try_recv().unwrap());
    assert!(frame.to.contains(&LEG) && pause.to.contains(&LEG) && pause.payload == PAUSE);
    let heard = Decoder::new().unwrap().decode(&frame.payload, 1920).to_vec();
    // The codec is late by 6.5 ms.
    let (said, after) = heard.split_at(312 + 1_440 - 40);
    assert!(said[1_400..].iter().any(|sample| sample.abs() > 0.3), "to the last");
    let steepest = after.windows(2).map(|pair| (pair[1] - pair[0]).abs()).fold(0.0, f32::max);
    assert!(steepest < 1.3 * STEEPEST_OF_THE_HUM, "and softly: {steepest}");
    let mut next = [0.5; BLOCK_SAMPLES];
    bench.engine.gate.apply(&mut next, false);
    assert!(next[0] < 0.01, "whoever hears it next hears it begin softly");
}
