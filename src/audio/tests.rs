//! The whole room: a lossy leg with real Opus in virtual time, and the thread with its file and null backends.

mod calls;
mod voice;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{
    codec::Encoder,
    remote::Remote,
    testing::{best_correlation, correlation, speech, wav},
    *,
};
use crate::config::Backend;

/// What a leg played of a clip that was sent through a lossy network, and its figures when the clip ended.
struct Heard {
    sound: Vec<f32>,
    stats: LegAudioStats,
    longest_playout_ms: f64,
}

/// Sends `clip` through real Opus, a network that drops packet n when `lost(n)` and delays by `delay_ms(n)`, and a leg.
fn through_a_network(clip: &[f32], lost: impl Fn(usize) -> bool, delay_ms: impl Fn(usize) -> f64) -> Heard {
    let epoch = Instant::now();
    let (mut slots, taken) = rtrb::RingBuffer::new(SLOTS);
    let mut leg = Remote::new(taken, epoch);
    let mut encoder = Encoder::new().unwrap();
    let mut packets: Vec<ReceivedPacket> = Vec::new();
    for (number, frame) in clip.as_chunks::<FRAME_SAMPLES>().0.iter().enumerate() {
        let payload = encoder.encode(frame).unwrap();
        // A frame is complete 20 ms after it began.
        let arrival = epoch + Duration::from_secs_f64(((number + 1) as f64 * 20.0 + delay_ms(number)) / 1000.0);
        let (sequence, timestamp) = (number as u16, (number * FRAME_SAMPLES) as u32);
        if !lost(number) {
            packets.push(ReceivedPacket { sequence, timestamp, payload, copy: false, dred: false, arrival });
        }
    }
    packets.sort_by_key(|packet| packet.arrival);
    let mut packets = packets.into_iter().peekable();
    let (mut sound, mut longest_playout_ms, mut stats) = (Vec::new(), 0.0_f64, LegAudioStats::default());
    for tick in 0..clip.len() / BLOCK_SAMPLES + 40 {
        let now = epoch + Duration::from_micros(4_000 + tick as u64 * 10_000);
        while let Some(packet) = packets.next_if(|packet| packet.arrival <= now) {
            slots.push(packet).unwrap();
        }
        leg.receive(true);
        sound.extend(leg.block(now, &mut false).unwrap_or([0.0; BLOCK_SAMPLES]));
        if tick < clip.len() / BLOCK_SAMPLES {
            stats = leg.stats(DelayShares { device_ms: 10.0, ..DelayShares::default() });
            longest_playout_ms = longest_playout_ms.max(stats.playout_delay_ms);
        }
    }
    Heard { sound, stats, longest_playout_ms }
}

/// 10 % at random, and 60 ms of nothing every 2 s.
fn ten_percent_and_outages(number: usize) -> bool {
    let scrambled = (number as u32).wrapping_mul(2_654_435_761).rotate_left(13).wrapping_mul(2_246_822_519);
    scrambled >> 8 < (1 << 24) / 10 || number % 100 >= 97
}

/// The longest stretch, in ms, in which `clip` speaks (10 ms pieces above -40 dBFS) and `heard` does not.
fn longest_silence_ms(clip: &[f32], heard: &[f32], lag: usize) -> usize {
    let speaks = |piece: &[f32], floor: f32| piece.iter().map(|s| s * s).sum::<f32>() / piece.len() as f32 > floor;
    let (mut run, mut longest) = (0, 0);
    for (said, got) in clip.as_chunks::<480>().0.iter().zip(heard[lag..].as_chunks::<480>().0) {
        run = if speaks(said, 1e-4) && !speaks(got, 1e-6) { run + 10 } else { 0 };
        longest = longest.max(run);
    }
    longest
}

#[test]
fn a_clean_network_delivers_clean_speech_with_little_delay() {
    let clip = speech(10.0);
    let heard = through_a_network(&clip, |_| false, |_| 5.0);
    let (correlation, lag) = best_correlation(&clip, &heard.sound, 9_600);
    println!("clean: correlation {correlation:.3}, {} ms from capture to mix", lag / 48);
    assert!(correlation > 0.9, "{correlation}");
    assert!(lag < 48 * 50, "{lag} samples");
    assert_eq!((heard.stats.loss_pct, heard.stats.concealed_pct), (0.0, 0.0));
    assert!(heard.stats.level_db > -40.0 && heard.stats.level_db < -5.0, "{}", heard.stats.level_db);
}

#[test]
fn ten_percent_loss_with_outages_leaves_speech_whole() {
    let clip = speech(30.0);
    let heard = through_a_network(&clip, ten_percent_and_outages, |number| 5.0 + (number * 7 % 5) as f64);
    let (whole, lag) = best_correlation(&clip, &heard.sound, 9_600);
    let (clip, sound) = (&clip[48_000..], &heard.sound[48_000..]);
    let settled = correlation(clip, sound, lag, 1);
    let silence_ms = longest_silence_ms(clip, sound, lag);
    println!(
        "10 % + outages: correlation {whole:.3} ({settled:.3} after the first second), {} ms from capture to mix, playout \
         {:.0} ms at most, longest silence {silence_ms} ms, {:?}",
        lag / 48,
        heard.longest_playout_ms,
        heard.stats
    );
    assert!(settled >= 0.85, "{settled}");
    assert!(heard.longest_playout_ms <= 150.0, "{}", heard.longest_playout_ms);
    assert!(silence_ms <= 60, "{silence_ms} ms");
    assert!((8.0..18.0).contains(&heard.stats.loss_pct), "{}", heard.stats.loss_pct);
}

#[test]
fn after_a_spike_speech_catches_up_within_two_seconds_without_a_click_or_a_gap() {
    let clip = speech(8.0);
    // Nothing for 300 ms, then everything at once: what the short-term memory waits for is over 2 s later.
    let spike = |number: usize| if (100..115).contains(&number) { 5.0 + (115 - number) as f64 * 20.0 } else { 5.0 };
    let heard = through_a_network(&clip, |_| false, spike);
    println!("after a spike: playout {:.0} ms at most, {:?}", heard.longest_playout_ms, heard.stats);
    assert!(heard.longest_playout_ms > 150.0, "{}", heard.longest_playout_ms);
    assert!(heard.stats.playout_delay_ms < 55.0, "{:?}", heard.stats);
    let (_, lag) = best_correlation(&clip[6 * 48_000..], &heard.sound[6 * 48_000..], 24_000);
    assert!(lag < 48 * 70, "{} ms", lag / 48);
    let steepest = |sound: &[f32]| sound.windows(2).map(|pair| (pair[1] - pair[0]).abs()).fold(0.0, f32::max);
    assert!(steepest(&heard.sound[150 * 960..]) < 1.5 * steepest(&clip), "no click");
}

#[test]
fn a_room_goes_on_while_its_sender_pauses_and_is_silent_when_it_is_gone() {
    let mut state = 7_u32;
    let room: Vec<f32> = (0..5 * 48_000)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            0.004 * ((state >> 8) as f32 / (1 << 23) as f32 - 1.0)
        })
        .collect();
    let heard = through_a_network(&room, |number| number > 100, |_| 5.0);
    let level = |sound: &[f32]| 10.0 * (sound.iter().map(|s| s * s).sum::<f32>() / sound.len() as f32).log10();
    let said = level(&heard.sound[48_000..96_000]);
    for piece in heard.sound[98_000..98_000 + 48_000 * 3 / 2].chunks_exact(4_800) {
        assert!((level(piece) - said).abs() < 4.0, "{} against {said} dB", level(piece));
    }
    // Nobody is there any more.
    assert!(heard.sound[48_000 * 9 / 2..].iter().all(|sample| *sample == 0.0));
}

#[test]
fn a_leg_that_ends_fades_to_silence_and_costs_nothing_then() {
    let clip = speech(3.0);
    let heard = through_a_network(&clip, |number| number > 75, |_| 5.0);
    let end = 76 * FRAME_SAMPLES + 48 * 300;
    assert!(heard.sound[end..].iter().all(|sample| *sample == 0.0), "silent 300 ms later");
    let steepest = heard.sound.windows(2).map(|pair| (pair[1] - pair[0]).abs()).fold(0.0, f32::max);
    let natural = clip.windows(2).map(|pair| (pair[1] - pair[0]).abs()).fold(0.0, f32::max);
    assert!(steepest < 1.5 * natural, "no click: {steepest} against {natural}");
}

/// The thread with a `file` backend in a directory of its own.
struct Room {
    audio: Audio,
    events: mpsc::Receiver<AudioEvent>,
    output: PathBuf,
    _directory: tempfile::TempDir,
}

impl Room {
    fn new(clip: Option<&[f32]>) -> Self {
        Self::with(clip, config::Audio::default())
    }

    fn with(clip: Option<&[f32]>, config: config::Audio) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (input, output) = (directory.path().join("in.wav"), directory.path().join("out.wav"));
        if let Some(clip) = clip {
            wav::write_channels(&input, 2, clip);
        }
        let config = config::Audio {
            backend: Backend::File,
            input_file: input.to_str().unwrap().into(),
            output_file: output.to_str().unwrap().into(),
            ..config
        };
        let (sender, events) = mpsc::channel(16);
        Self { audio: Audio::start(&config, sender), events, output, _directory: directory }
    }

    fn recorded(&self) -> Vec<f32> {
        read_wav(&self.output)
    }

    /// Of what was recorded, in samples. To read all of it again and again would hold up who looks.
    fn length(&self) -> usize {
        hound::WavReader::open(&self.output).map_or(0, |reader| reader.len() as usize)
    }

    /// Waits until the output file is closed, which is told after it has happened.
    fn until_closed(&self) {
        wait("the output file to be closed", || !self.audio.status().playing);
    }

    /// Sends the own microphone back into a leg until `done`, like an echo service.
    fn loop_back(&mut self, leg: u64, mut done: impl FnMut(&mut Self) -> bool) {
        let mut microphone = self.audio.microphone();
        let mut input = self.audio.add_leg(LegId(leg));
        let mut sequence = 0_u16;
        let mut began = false;
        let limit = Instant::now() + Duration::from_secs(30);
        while !done(self) {
            assert!(Instant::now() < limit, "what was waited for did not happen");
            let Ok(EncodedFrame { payload, timestamp, to, .. }) = microphone.try_recv() else {
                std::thread::yield_now();
                std::thread::park_timeout(Duration::from_millis(1));
                continue;
            };
            let is_for_it = to.contains(&LegId(leg));
            assert!(is_for_it || !began, "what is for it has begun, and this is for another");
            if !is_for_it {
                continue; // Spoken before the present plan.
            }
            began = true;
            sequence = sequence.wrapping_add(1);
            input.push(arrived(sequence, timestamp, payload));
        }
    }
}

/// A packet that has just been read from the socket.
fn arrived(sequence: u16, timestamp: u32, payload: Bytes) -> ReceivedPacket {
    ReceivedPacket { sequence, timestamp, payload, copy: false, dred: false, arrival: Instant::now() }
}

/// A call with one leg.
fn call(leg: u64) -> AudioPlan {
    AudioPlan { legs: [LegId(leg)].into(), microphone: true, playback: true, ..AudioPlan::default() }
}

fn read_wav(path: &Path) -> Vec<f32> {
    let Ok(mut reader) = hound::WavReader::open(path) else { return Vec::new() };
    let spec = reader.spec();
    assert_eq!((spec.channels, spec.sample_rate, spec.bits_per_sample), (1, 48_000, 16));
    reader.samples::<i16>().map(|sample| f32::from(sample.unwrap()) / 32_768.0).collect()
}

fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let limit = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < limit, "{what}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// How well a quarter of a second of the clip fits, half of them better: on a busy machine the jitter buffer changes the
/// delay on the way.
fn median_correlation(clip: &[f32], recorded: &[f32]) -> f32 {
    let pieces = clip.chunks_exact(12_000).enumerate();
    let mut correlations: Vec<f32> =
        pieces.map(|(number, piece)| best_correlation(piece, &recorded[number * 12_000..], 24_000).0).collect();
    correlations.sort_by(f32::total_cmp);
    correlations[correlations.len() / 2]
}

#[test]
fn a_clip_spoken_into_a_call_is_found_in_the_output_file() {
    let clip = speech(2.0);
    let mut room = Room::new(Some(&clip));
    assert_eq!(room.audio.status().backend, "file");
    room.audio.apply(call(7));
    let mut stats = LegAudioStats::default();
    room.loop_back(7, |room| {
        stats = room.audio.leg_stats().get(&LegId(7)).copied().unwrap_or(stats);
        room.length() > 48_000 * 5 / 2
    });
    assert!(std::iter::from_fn(|| room.events.try_recv().ok()).any(|event| event == AudioEvent::FirstAudio(LegId(7))));
    let status = room.audio.status();
    assert_eq!(status.problem, None);
    // The file is whole while the thread still runs: what a kill would leave behind.
    let recorded = room.recorded();
    let correlation = median_correlation(&clip[..72_000], &recorded);
    println!("file backend: median correlation {correlation:.3}, {stats:?}");
    assert!(correlation > 0.8, "{correlation}");
    assert!(stats.level_db > -40.0, "{stats:?}");
    let (input_us, output_us) = (status.input_started_unix_us.unwrap(), status.output_started_unix_us.unwrap());
    assert!(input_us.abs_diff(output_us) < 4_000_000, "{input_us} {output_us}");
}

#[test]
fn a_muted_microphone_sends_silence_and_a_deafened_speaker_plays_it() {
    let mut room = Room::new(Some(&speech(1.0)));
    for plan in [AudioPlan { muted: true, ..call(1) }, AudioPlan { deafened: true, ..call(0) }] {
        room.audio.apply(plan.clone());
        let before = room.length();
        room.loop_back(u64::from(plan.muted), |room| room.length() > before + 48_000);
        assert!(room.recorded()[before..].iter().all(|sample| sample.abs() < 0.001), "{plan:?}");
    }
}

#[test]
fn the_ring_tone_sounds_without_a_call_and_stops_with_the_ringing() {
    let room = Room::new(None);
    room.audio.apply(AudioPlan { ring: true, ..AudioPlan::default() });
    wait("half a second of ringing", || room.length() > 24_000);
    room.audio.apply(AudioPlan::default());
    let loudest = room.recorded().iter().fold(0.0_f32, |peak, sample| peak.max(sample.abs()));
    assert!(loudest > 0.1, "{loudest}");
    room.until_closed();
}

#[test]
fn a_ring_tone_that_is_switched_off_is_not_heard() {
    let room = Room::with(None, config::Audio { ring_sound: false, ..config::Audio::default() });
    room.audio.apply(AudioPlan { ring: true, playback: true, ..AudioPlan::default() });
    wait("half a second of silence", || room.length() > 24_000);
    assert!(room.recorded().iter().all(|sample| *sample == 0.0));
}

#[test]
fn a_constant_bitrate_that_is_configured_knows_no_pauses() {
    let config = config::Audio { constant_bitrate: true, ..config::Audio::default() };
    let room = Room::with(None, config::Audio { backend: Backend::Null, ..config });
    let mut microphone = room.audio.microphone();
    room.audio.apply(call(1));
    let mut sizes = Vec::new();
    wait("half a second of silence", || {
        sizes.extend(std::iter::from_fn(|| microphone.try_recv().ok()).map(|frame| frame.payload.len()));
        sizes.len() > 25
    });
    assert!(sizes[0] > 60 && sizes.iter().all(|size| *size == sizes[0]), "{sizes:?}");
}

#[test]
fn a_second_call_continues_the_recording_and_starts_the_clip_anew() {
    let clip = speech(2.0);
    let mut room = Room::new(Some(&clip));
    for leg in 0..2 {
        room.audio.apply(call(leg));
        let before = room.length();
        room.loop_back(leg, |room| room.length() >= before + 72_000);
        room.audio.apply(AudioPlan::default());
        room.until_closed();
        let recorded = room.recorded();
        let correlation = median_correlation(&clip[..48_000], &recorded[before..]);
        assert!(correlation > 0.8, "call {leg}: {correlation}");
    }
}

#[test]
fn a_missing_clip_and_a_foreign_output_file_are_said_and_stop_nothing() {
    let room = Room::new(None);
    std::fs::write(&room.output, b"not a recording, and not to be lost").unwrap();
    let mut microphone = room.audio.microphone();
    room.audio.apply(call(1));
    wait("both problems", || {
        let problem = room.audio.status().problem.unwrap_or_default();
        problem.contains("in.wav") && problem.contains("out.wav")
    });
    wait("silence instead of the clip", || microphone.try_recv().is_ok());
    drop(room.audio);
    assert_eq!(std::fs::read(&room.output).unwrap(), b"not a recording, and not to be lost");
}

#[test]
fn an_audio_thread_that_hangs_does_not_hold_up_the_end() {
    let (sender, _events) = mpsc::channel(1);
    let audio = Audio::start(&config::Audio { backend: Backend::Null, ..config::Audio::default() }, sender);
    let shared = audio.shared.clone();
    // As long as this is held it cannot tell its status, with which its first turn in a call ends.
    let hangs = shared.board();
    shared.inbox().sounds.push(Sound::Left);
    audio.apply(call(1));
    wait("it to begin with that turn", || shared.inbox().sounds.is_empty());
    let (done, is_done) = sync_channel(0);
    std::thread::spawn(move || {
        drop(audio);
        done.send(())
    });
    is_done.recv_timeout(Duration::from_secs(30)).expect("the end");
    drop(hangs);
}

#[test]
fn a_microphone_test_can_begin_right_after_another_one_was_ended() {
    let (sender, _events) = mpsc::channel(1);
    let audio = Audio::start(&config::Audio { backend: Backend::Null, ..config::Audio::default() }, sender);
    let shared = audio.shared.clone();
    // As long as this is held the audio thread does not come to its next turn.
    let hangs = shared.board();
    assert!(audio.test_microphone(5));
    wait("it to begin with the test", || shared.inbox().test.is_none());
    assert!(!audio.test_microphone(5), "one is under way");
    assert!(audio.test_microphone(0) && audio.test_microphone(5));
    drop(hangs);
    wait("the second test to begin", || shared.inbox().test.is_none() && audio.status().test.is_some());
    assert!(!audio.test_microphone(5), "the second one is under way");
}

#[test]
fn what_a_speaker_test_was_heard_through_stays_known_until_the_next_one() {
    let (sender, _events) = mpsc::channel(1);
    let audio = Audio::start(&config::Audio { backend: Backend::Null, ..config::Audio::default() }, sender);
    audio.play(Sound::Test);
    wait("the tones to begin", || audio.status().speaker_test.is_some());
    wait("the tones to end", || !audio.status().playing);
    assert_eq!(audio.status().speaker_test.as_deref(), Some("nowhere"));
    let not_yet = audio.shared.inbox();
    std::thread::scope(|scope| {
        scope.spawn(|| audio.play(Sound::Test));
        wait("the next test to be asked for", || audio.status().speaker_test.is_none());
        drop(not_yet);
    });
    wait("its tones to begin", || audio.status().speaker_test.is_some());
}

#[test]
fn the_null_backend_sends_silence_and_hears_legs() {
    let (sender, mut events) = mpsc::channel(1);
    let config = config::Audio { backend: Backend::Null, ..config::Audio::default() };
    let audio = Audio::start(&config, sender);
    let mut microphone = audio.microphone();
    audio.apply(call(1));
    let mut input = audio.add_leg(LegId(1));
    let mut heard = false;
    let mut sequence = 0;
    wait("the first packet to be decoded", || {
        if let Ok(EncodedFrame { payload, timestamp, .. }) = microphone.try_recv() {
            sequence += 1;
            input.push(arrived(sequence, timestamp, payload));
        }
        while let Ok(event) = events.try_recv() {
            heard |= event == AudioEvent::FirstAudio(LegId(1));
        }
        heard
    });
    wait("figures", || audio.leg_stats().contains_key(&LegId(1)));
    assert!(audio.leg_stats()[&LegId(1)].level_db < -60.0);
    audio.remove_leg(LegId(1));
    audio.apply(AudioPlan::default());
    assert_eq!(audio.status().problem, None);
}

#[test]
fn who_talks_while_muted_is_told_so() {
    let mut room = Room::new(Some(&speech(2.0)));
    room.audio.apply(AudioPlan { muted: true, ..call(1) });
    let mut microphone = room.audio.microphone();
    let mut decoder = codec::Decoder::new().unwrap();
    let mut told = false;
    wait("to be told", || {
        while let Ok(frame) = microphone.try_recv() {
            let sent = decoder.decode(&frame.payload, FRAME_SAMPLES);
            assert!(sent.iter().all(|sample| sample.abs() < 0.001), "only silence leaves");
        }
        told |= std::iter::from_fn(|| room.events.try_recv().ok()).any(|event| event == AudioEvent::TalkedWhileMuted);
        told
    });
}

#[test]
fn who_speaks_is_told_of_the_user_and_of_a_leg_and_so_is_the_end_of_it() {
    // Three seconds of speech, three of silence.
    let clip = [speech(3.0), vec![0.0; 144_000]].concat();
    let mut room = Room::new(Some(&clip));
    room.audio.apply(call(3));
    let mut told: Vec<(Option<LegId>, bool)> = Vec::new();
    room.loop_back(3, |room| {
        let news = std::iter::from_fn(|| room.events.try_recv().ok());
        told.extend(news.filter_map(|event| match event {
            AudioEvent::Speaking { who, speaking } => Some((who, speaking)),
            AudioEvent::FirstAudio(_)
            | AudioEvent::TalkedWhileMuted
            | AudioEvent::RecordingMade
            | AudioEvent::RecordingEnded
            | AudioEvent::Changed => None,
        }));
        [None, Some(LegId(3))].iter().all(|who| told.contains(&(*who, false)))
    });
    for who in [None, Some(LegId(3))] {
        let of_it: Vec<bool> = told.iter().filter(|(of, _)| *of == who).map(|(_, speaking)| *speaking).collect();
        assert_eq!(of_it[..2], [true, false], "{told:?}");
    }
}

#[test]
fn a_wav_is_treated_as_a_microphone_only_when_that_was_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let input = directory.path().join("in.wav");
    wav::write_channels(&input, 2, &speech(1.0));
    for process_files in [false, true] {
        let input_file = input.to_str().unwrap().into();
        let config = config::Audio { backend: Backend::File, input_file, process_files, ..config::Audio::default() };
        let (sender, _events) = mpsc::channel(16);
        let audio = Audio::start(&config, sender);
        let mut microphone = audio.microphone();
        audio.apply(call(1));
        wait("a frame", || microphone.try_recv().is_ok());
        assert_eq!(audio.status().processing.len(), if process_files { 4 } else { 0 });
    }
}
