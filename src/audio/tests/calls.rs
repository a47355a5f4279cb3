//! Several calls: who is heard and spoken to, how switching sounds, what a pause costs, how loud somebody is.

use super::*;

const HERE: LegId = LegId(1);
const THERE: LegId = LegId(2);
/// Timestamps wrap after a second.
const FIRST: u32 = u32::MAX - 48_000;

/// A far end that hums one note.
struct Hum {
    encoder: Encoder,
    hz: f32,
    amplitude: f32,
    sequence: u16,
    timestamp: u32,
}

impl Hum {
    fn new(hz: f32) -> Self {
        Self { encoder: Encoder::new().unwrap(), hz, amplitude: 0.25, sequence: 65_530, timestamp: FIRST }
    }

    fn packet(&mut self, arrival: Instant) -> ReceivedPacket {
        let began = self.timestamp;
        let frame: [f32; FRAME_SAMPLES] =
            std::array::from_fn(|at| self.amplitude * tone(self.hz, began.wrapping_sub(FIRST).wrapping_add(at as u32)));
        let payload = self.encoder.encode(&frame).unwrap();
        self.timestamp = began.wrapping_add(FRAME_SAMPLES as u32);
        self.numbered(payload, began, arrival)
    }

    /// What the leg's task sends when nothing is said.
    fn pause(&mut self, arrival: Instant) -> ReceivedPacket {
        self.numbered(Bytes::from_static(PAUSE), self.timestamp, arrival)
    }

    fn numbered(&mut self, payload: Bytes, timestamp: u32, arrival: Instant) -> ReceivedPacket {
        self.sequence = self.sequence.wrapping_add(1);
        ReceivedPacket { sequence: self.sequence, timestamp, payload, copy: false, dred: false, arrival }
    }
}

fn tone(hz: f32, at: u32) -> f32 {
    // Every note here has whole periods in a second.
    (std::f32::consts::TAU * hz * (at % SAMPLE_RATE_HZ) as f32 / SAMPLE_RATE_HZ as f32).sin()
}

/// Amplitude of one note in `sound`: the mean over tenths of a second, since stretched time changes its phase.
fn amplitude(sound: &[f32], hz: f32) -> f32 {
    let tenths = sound.chunks_exact(4_800);
    tenths.clone().map(|tenth| amplitude_of_steady(tenth, hz)).sum::<f32>() / tenths.len() as f32
}

/// Goertzel's sum, by its definition.
fn amplitude_of_steady(sound: &[f32], hz: f32) -> f32 {
    let (mut sine, mut cosine) = (0.0, 0.0);
    for (at, sample) in sound.iter().enumerate() {
        let angle = std::f32::consts::TAU * hz * at as f32 / SAMPLE_RATE_HZ as f32;
        sine += sample * angle.sin();
        cosine += sample * angle.cos();
    }
    2.0 * f32::hypot(sine, cosine) / sound.len() as f32
}

fn steepest(sound: &[f32]) -> f32 {
    sound.windows(2).map(|pair| (pair[1] - pair[0]).abs()).fold(0.0, f32::max)
}

fn loudest(sound: &[f32]) -> f32 {
    sound.iter().fold(0.0, |peak, sample| peak.max(sample.abs()))
}

/// A leg in virtual time: a packet every 20 ms from `next`, a block every 10 ms into the result.
struct Bench {
    epoch: Instant,
    slots: rtrb::Producer<ReceivedPacket>,
    leg: Remote,
    ticks: u64,
}

impl Bench {
    fn new() -> Self {
        let epoch = Instant::now();
        let (slots, taken) = rtrb::RingBuffer::new(SLOTS);
        Self { epoch, slots, leg: Remote::new(taken, epoch), ticks: 0 }
    }

    fn run(&mut self, ms: u64, in_plan: bool, mut next: impl FnMut(Instant) -> Option<ReceivedPacket>) -> Vec<f32> {
        let mut sound = Vec::new();
        for _ in 0..ms / 10 {
            let now = self.epoch + Duration::from_millis(10 * self.ticks);
            if self.ticks.is_multiple_of(2)
                && let Some(packet) = next(now)
            {
                self.slots.push(packet).unwrap();
            }
            self.leg.receive(in_plan);
            let later = now + Duration::from_millis(3);
            sound.extend(self.leg.block(later, &mut false).unwrap_or([0.0; BLOCK_SAMPLES]));
            self.ticks += 1;
        }
        sound
    }
}

#[test]
fn leaving_and_coming_back_to_a_call_neither_clicks_nor_replays() {
    let (mut bench, mut before, mut meanwhile) = (Bench::new(), Hum::new(300.0), Hum::new(700.0));
    let mut all = bench.run(1_000, true, |at| Some(before.packet(at)));
    let steady = steepest(&all[24_000..]);
    (meanwhile.sequence, meanwhile.timestamp) = (before.sequence, before.timestamp);
    let away = bench.run(1_000, false, |at| Some(meanwhile.packet(at)));
    assert!(loudest(&away[..480]) > 0.1, "it fades");
    assert!(loudest(&away[480..]) == 0.0);
    all.extend(away);
    (before.sequence, before.timestamp) = (meanwhile.sequence, meanwhile.timestamp);
    let again = bench.run(1_000, true, |at| Some(before.packet(at)));
    assert!(loudest(&again[..60 * 48]) > 0.2, "heard at once");
    assert!(amplitude(&again[..200 * 48], 700.0) < 0.01, "what was said meanwhile is not heard late");
    all.extend(again);
    assert!(steepest(&all) < 1.5 * steady, "a click: {} against {steady}", steepest(&all));
    let stats = bench.leg.stats(DelayShares::default());
    assert_eq!((stats.loss_pct, stats.concealed_pct), (0.0, 0.0));
}

#[test]
fn a_pause_is_neither_loss_nor_concealed_and_sound_goes_on_after_it() {
    let (mut bench, mut hum) = (Bench::new(), Hum::new(300.0));
    let mut all = bench.run(1_000, true, |at| Some(hum.packet(at)));
    let steady = steepest(&all[24_000..]);
    let mut slots = 0;
    let silence = bench.run(3_500, true, |at| {
        // The last frame is followed by a pause at once, then by one a second.
        let packet = (slots % 50 == 0).then(|| hum.pause(at));
        (slots, hum.timestamp) = (slots + 1, hum.timestamp.wrapping_add(FRAME_SAMPLES as u32));
        packet
    });
    assert_eq!(loudest(&silence[80 * 48..]), 0.0, "silent soon, and no sound of the pauses");
    all.extend(silence);
    let stats = bench.leg.stats(DelayShares::default());
    assert_eq!((stats.loss_pct, stats.concealed_pct), (0.0, 0.0));
    let again = bench.run(1_000, true, |at| Some(hum.packet(at)));
    assert!(loudest(&again[..60 * 48]) > 0.2, "heard at once");
    all.extend(again);
    assert!(steepest(&all) < 1.5 * steady, "a click: {} against {steady}", steepest(&all));
    let stats = bench.leg.stats(DelayShares::default());
    assert_eq!((stats.loss_pct, stats.concealed_pct), (0.0, 0.0));
    assert!(stats.jitter_ms < 1.0 && stats.jitter_buffer_ms < 40.0, "{stats:?}");
}

#[test]
fn the_delay_that_is_told_is_the_same_in_the_middle_of_a_frame() {
    let (mut bench, mut hum) = (Bench::new(), Hum::new(300.0));
    bench.run(3_000, true, |at| Some(hum.packet(at)));
    let delays_ms: Vec<f64> = (0..20)
        .map(|_| {
            bench.run(10, true, |at| Some(hum.packet(at)));
            bench.leg.stats(DelayShares::default()).playout_delay_ms
        })
        .collect();
    let (least, most) = delays_ms.iter().fold((f64::MAX, 0.0_f64), |(l, m), ms| (l.min(*ms), m.max(*ms)));
    assert!(most - least < 1.0 && least > 1.0, "{delays_ms:?}");
}

#[test]
fn a_leg_that_pauses_when_its_call_is_left_is_not_heard_later() {
    let (mut bench, mut hum) = (Bench::new(), Hum::new(300.0));
    bench.run(500, true, |at| Some(hum.packet(at)));
    bench.run(20, true, |at| Some(hum.pause(at)));
    bench.run(480, true, |_| None);
    hum.timestamp = hum.timestamp.wrapping_add(24_000);
    assert_eq!(loudest(&bench.run(500, false, |at| Some(hum.packet(at)))), 0.0);
}

#[test]
fn a_leg_that_was_never_heard_is_started_by_sound_and_not_by_pauses() {
    let (mut bench, mut hum) = (Bench::new(), Hum::new(300.0));
    bench.leg.receive(true);
    let mut started = false;
    for tick in 0..100 {
        let now = bench.epoch + Duration::from_millis(20 * tick);
        bench.slots.push(if tick < 50 { hum.pause(now) } else { hum.packet(now) }).unwrap();
        hum.timestamp = hum.timestamp.wrapping_add(if tick < 50 { FRAME_SAMPLES as u32 } else { 0 });
        bench.leg.receive(true);
        for _ in 0..2 {
            bench.leg.block(now, &mut started);
        }
        assert!(tick >= 50 || !started);
    }
    assert!(started);
}

#[test]
fn gain_makes_a_leg_louder_or_softer_and_blocked_is_counted_but_not_decoded() {
    let (mut bench, mut hum) = (Bench::new(), Hum::new(300.0));
    let mut levels = Vec::new();
    let mut all = Vec::new();
    for percent in [100, 50, 200, 0] {
        bench.leg.set_gain(Gain { percent, blocked: false });
        let sound = bench.run(500, true, |at| Some(hum.packet(at)));
        levels.push(amplitude(&sound[9_600..], 300.0));
        all.extend(sound);
    }
    assert!((levels[0] - 0.25).abs() < 0.03, "{levels:?}");
    assert!((levels[1] * 2.0 - levels[0]).abs() < 0.02 && (levels[2] / 2.0 - levels[0]).abs() < 0.02, "{levels:?}");
    assert!(levels[3] < 0.001, "{levels:?}");
    assert!(steepest(&all) < 3.0 * steepest(&all[..24_000]), "no clicks");
    bench.leg.set_gain(Gain { percent: 100, blocked: true });
    let blocked = bench.run(500, true, |at| {
        let packet = hum.packet(at);
        (packet.sequence % 5 != 0).then_some(packet)
    });
    assert_eq!(loudest(&blocked), 0.0);
    assert!(bench.leg.stats(DelayShares::default()).loss_pct > 1.0, "{:?}", bench.leg.stats(DelayShares::default()));
}

#[test]
fn of_two_calls_only_the_active_one_is_heard_and_spoken_to() {
    let room = Room::new(Some(&speech(2.0)));
    let mut microphone = room.audio.microphone();
    let mut far = [(HERE, Hum::new(300.0)), (THERE, Hum::new(700.0))].map(|(leg, hum)| (room.audio.add_leg(leg), hum));
    for (active, note, other) in [(HERE, 300.0, 700.0), (THERE, 700.0, 300.0), (HERE, 300.0, 700.0)] {
        room.audio.apply(call(active.0));
        let (from, mut spoken_to) = (room.length(), Vec::new());
        wait("a second and a half", || {
            while let Ok(frame) = microphone.try_recv() {
                if frame.payload != PAUSE {
                    far.iter_mut().for_each(|(input, hum)| input.push(hum.packet(Instant::now())));
                }
                spoken_to.push((frame.to, frame.payload == PAUSE));
            }
            room.length() > from + 72_000
        });
        // The file lags behind by a fifth of a second, the jitter buffer by less.
        let heard = &room.recorded()[from + 24_000..from + 72_000];
        let (loud, soft) = (amplitude(heard, note), amplitude(heard, other));
        assert!(loud > 0.1 && soft < 0.01, "{active:?}: {loud} against {soft}");
        let to_active = |to: &BTreeSet<LegId>| to.iter().eq([&active]);
        let switched = spoken_to.iter().position(|(to, _)| to_active(to)).unwrap();
        assert!(spoken_to[switched..].iter().all(|(to, pauses)| to_active(to) && !pauses));
        let left = spoken_to[..switched].last();
        assert!(left.is_none_or(|(_, pauses)| *pauses), "a call that is left is told so");
    }
}

#[test]
fn voices_that_are_too_loud_together_are_limited_and_not_cut() {
    let room = Room::new(Some(&speech(2.0)));
    let mut microphone = room.audio.microphone();
    let mut far = [(HERE, 300.0), (THERE, 700.0)].map(|(leg, hz)| {
        let input = room.audio.add_leg(leg);
        room.audio.set_gain(leg, Gain { percent: 200, blocked: false });
        (input, Hum { amplitude: 0.4, ..Hum::new(hz) })
    });
    room.audio.apply(AudioPlan { legs: [HERE, THERE].into(), ..call(0) });
    wait("a second and a half", || {
        while microphone.try_recv().is_ok() {
            far.iter_mut().for_each(|(input, hum)| input.push(hum.packet(Instant::now())));
        }
        room.length() > 72_000
    });
    let loudest = loudest(&room.recorded());
    assert!((0.8..0.96).contains(&loudest), "{loudest}, where 1.6 comes together");
}

#[test]
fn a_gain_that_is_set_with_the_leg_holds_from_its_first_sound() {
    let room = Room::new(Some(&speech(2.0)));
    let mut microphone = room.audio.microphone();
    let mut far = [(HERE, Hum::new(300.0)), (THERE, Hum::new(700.0))].map(|(leg, hum)| (room.audio.add_leg(leg), hum));
    room.audio.set_gain(HERE, Gain { percent: 100, blocked: true });
    room.audio.set_gain(THERE, Gain { percent: 20, blocked: false });
    room.audio.apply(AudioPlan { legs: [HERE, THERE].into(), ..call(0) });
    wait("a second", || {
        while microphone.try_recv().is_ok() {
            far.iter_mut().for_each(|(input, hum)| input.push(hum.packet(Instant::now())));
        }
        room.length() > 48_000
    });
    let heard = room.recorded();
    assert!(amplitude(&heard, 300.0) < 0.002);
    assert!(amplitude(&heard[24_000..], 700.0) > 0.02 && loudest(&heard) < 0.09, "{}", loudest(&heard));
}
