//! Whole recordings, written by the thread and read back with an independent reader of Ogg.

use std::{
    fs::File,
    os::unix::fs::{MetadataExt, PermissionsExt},
};

use super::*;
use crate::{
    audio::{
        Audio, FRAME_SAMPLES,
        codec::Decoder,
        testing::{best_correlation, speech},
    },
    config,
    proto::io::{AudioPlan, Recorded},
};

const CALL: [u8; 16] = [0x11; 16];
const PATIENCE: Duration = Duration::from_secs(30);

fn did_of(seed: u8) -> Did {
    Did::from_key(ed25519_dalek::SigningKey::from_bytes(&[seed; 32]).verifying_key())
}

/// A recording under way, with a clock of its own for the places.
struct Session {
    tap: Option<Tap>,
    running: Option<Running>,
    _parent: tempfile::TempDir,
    now: Instant,
    /// What each leg leads to.
    who: BTreeMap<LegId, Did>,
}

impl Session {
    fn new(names: &[(Did, &str)]) -> Self {
        let parent = tempfile::tempdir().unwrap();
        let new = new_recording(parent.path(), names);
        let Recording { tap, running } = made(new).unwrap();
        Self { tap: Some(tap), running: Some(running), _parent: parent, now: Instant::now(), who: BTreeMap::new() }
    }

    fn directory(&self) -> PathBuf {
        self.running.as_ref().unwrap().directory.clone()
    }

    fn follow(&mut self, call: u8) {
        let recorded = Recorded { call: CallId::from_bytes([call; 16]), who: self.who.clone() };
        self.tap.as_mut().unwrap().follow(Some(&recorded));
    }

    fn hold(&mut self) {
        self.tap.as_mut().unwrap().follow(None);
    }

    /// 10 ms in which the own microphone and these legs bring that.
    fn block(&mut self, own: &[f32], legs: &[(u64, &[f32])]) {
        let tap = self.tap.as_mut().unwrap();
        tap.own(own.try_into().unwrap(), self.now);
        tap.tick(self.now);
        for (leg, block) in legs {
            tap.heard(LegId(*leg), (*block).try_into().unwrap());
        }
        self.now += Duration::from_millis(10);
        // As fast as the thread writes: what would be lost is not to be tested here.
        while tap.pieces.slots() < 256 {
            std::thread::yield_now();
        }
    }

    /// Ends it and reads all files: samples by name.
    fn end(mut self) -> BTreeMap<String, Vec<f32>> {
        let directory = self.directory();
        drop(self.tap.take());
        let running = self.running.take().unwrap();
        let end = running.end.clone();
        running.wait(PATIENCE);
        assert_eq!(end.get(), Some(&Ok(true)));
        read_all(&directory)
    }
}

/// A recording that begins, as soon as its files are there.
fn made(new: NewRecording) -> Result<Recording, RecordingError> {
    let (told, made) = sync_channel(1);
    start(new, move |result| told.send(result).unwrap(), || ()).unwrap();
    made.recv_timeout(PATIENCE).unwrap()
}

fn new_recording(parent: &Path, names: &[(Did, &str)]) -> NewRecording {
    NewRecording {
        call: CallId::from_bytes(CALL),
        parent: parent.to_owned(),
        is_private: false,
        unix_ms: 951_827_696_000,
        own: did_of(1),
        names: names.iter().map(|(did, name)| (did.clone(), (*name).to_owned())).collect(),
    }
}

fn read_all(directory: &Path) -> BTreeMap<String, Vec<f32>> {
    let files = std::fs::read_dir(directory).unwrap().map(|file| file.unwrap());
    files.map(|file| (file.file_name().into_string().unwrap(), read(&file.path()))).collect()
}

/// As RFC 7845 says: the pre-skip is left out, and so is what the last granule position does not cover.
fn read(path: &Path) -> Vec<f32> {
    let mut reader = ogg::PacketReader::new(File::open(path).unwrap());
    let head = reader.read_packet().unwrap().expect("a header").data;
    assert_eq!((&head[..8], head[8] & 0xf0, head[9]), (&b"OpusHead"[..], 0, 1));
    let pre_skip = usize::from(u16::from_le_bytes([head[10], head[11]]));
    let tags = reader.read_packet().unwrap().expect("comments").data;
    assert_eq!(&tags[..8], b"OpusTags");
    let (mut decoder, mut samples, mut end) = (Decoder::new().unwrap(), Vec::new(), 0);
    // The last page of a daemon that was killed may be cut off.
    while let Ok(Some(packet)) = reader.read_packet() {
        samples.extend_from_slice(decoder.decode(&packet.data, FRAME_SAMPLES));
        if packet.last_in_page() {
            end = packet.absgp_page() as usize;
        }
    }
    samples.truncate(end);
    samples.split_off(pre_skip.min(end))
}

fn blocks_of(clip: &[f32]) -> impl Iterator<Item = &[f32]> {
    clip.chunks_exact(BLOCK_SAMPLES)
}

fn power(samples: &[f32]) -> f32 {
    samples.iter().map(|sample| sample * sample).sum::<f32>() / samples.len() as f32
}

const QUIET: [f32; BLOCK_SAMPLES] = [0.0; BLOCK_SAMPLES];

#[test]
fn every_file_has_each_voice_at_its_place_and_all_are_equally_long() {
    let bob = did_of(2);
    let mut session = Session::new(&[(bob.clone(), "Bob")]);
    session.who = [(LegId(5), bob)].into();
    session.follow(0x11);
    let (mine, his) = (speech(3.0), speech(2.0));
    let mut mine_blocks = blocks_of(&mine);
    // He speaks a second later, over a leg that is replaced in the middle of it.
    for at in 0..300 {
        let own = mine_blocks.next().unwrap();
        if at == 180 {
            session.who = [(LegId(9), did_of(2))].into();
            session.follow(0x11);
        }
        let leg = if at < 180 { 5 } else { 9 };
        match at >= 100 {
            true => session.block(own, &[(leg, &his[(at - 100) * BLOCK_SAMPLES..(at - 99) * BLOCK_SAMPLES])]),
            false => session.block(own, &[]),
        }
    }
    let files = session.end();
    assert_eq!(files.keys().collect::<Vec<_>>(), ["Bob.opus", "mixed.opus", "own.opus"]);
    let lengths: BTreeSet<usize> = files.values().map(Vec::len).collect();
    assert_eq!(lengths.len(), 1, "{lengths:?}");
    let begin = lengths.first().unwrap() - 300 * BLOCK_SAMPLES;
    let (own_fits, own_at) = best_correlation(&mine, &files["own.opus"], begin + 480);
    let (his_fits, his_at) = best_correlation(&his, &files["Bob.opus"], begin + 48_480);
    assert!(own_fits > 0.95 && his_fits > 0.95, "{own_fits} {his_fits}");
    let late = [own_at.abs_diff(begin), his_at.abs_diff(begin + 48_000)];
    assert!(late.iter().all(|samples| *samples <= 2), "samples from their places: {late:?}");
    assert!(power(&files["Bob.opus"][..begin + 47_000]) < 1e-9, "he said nothing yet");
    let both: Vec<f32> = files["own.opus"].iter().zip(&files["Bob.opus"]).map(|(own, his)| own + his).collect();
    let (mix_fits, mix_at) = best_correlation(&both, &files["mixed.opus"], 480);
    // The limiter looks half a millisecond ahead.
    assert!(mix_fits > 0.9 && mix_at <= 48, "{mix_fits} {mix_at}");
}

#[test]
fn a_pause_is_silence_of_its_length_and_what_follows_sounds_as_ever() {
    let mut session = Session::new(&[]);
    session.who = [(LegId(1), did_of(2))].into();
    let clip = speech(1.0);
    session.follow(0x11);
    let begun = session.now;
    blocks_of(&clip).for_each(|block| session.block(block, &[(1, block)]));
    session.hold();
    // Meanwhile another call is the active one, and not recorded.
    session.follow(0x22);
    blocks_of(&clip).for_each(|block| session.block(block, &[(1, block)]));
    session.hold();
    session.now = begun + Duration::from_secs(20);
    session.follow(0x11);
    blocks_of(&clip).for_each(|block| session.block(block, &[(1, block)]));
    let files = session.end();
    let other = format!("{}.opus", did_of(2).as_str().rsplit(':').next().unwrap());
    for (name, samples) in &files {
        let (first_fits, first) = best_correlation(&clip, samples, 9_600);
        let (again_fits, again) = best_correlation(&clip, &samples[19 * 48_000..], 2 * 48_000);
        assert!(first_fits > 0.9 && again_fits > 0.9, "{name}: {first_fits} {again_fits}");
        let apart = again + 19 * 48_000 - first;
        assert!(apart.abs_diff(20 * 48_000) <= BLOCK_SAMPLES, "{name}: {apart} samples apart");
        // libopus' filter against DC (3 Hz) rings off for some time after the pulses of this voice.
        let pause = &samples[first + 72_000..again + 18 * 48_000];
        let loudest = pause.chunks(4_800).map(power).enumerate().max_by(|one, other| one.1.total_cmp(&other.1));
        assert!(loudest.is_some_and(|(_, power)| power < 1e-9), "{name}: nothing was recorded: {loudest:?}");
    }
    assert!(files.contains_key(&other), "{:?}", files.keys());
}

#[test]
fn whom_the_plan_does_not_name_is_in_no_file_and_not_in_the_mix() {
    let mut session = Session::new(&[(did_of(2), "Bob")]);
    let clip = speech(1.0);
    session.follow(0x11);
    blocks_of(&clip).for_each(|block| session.block(&QUIET, &[(1, block)]));
    session.who = [(LegId(1), did_of(2))].into();
    session.follow(0x11);
    blocks_of(&clip).for_each(|block| session.block(&QUIET, &[(1, block)]));
    session.who.clear();
    session.follow(0x11);
    blocks_of(&clip).for_each(|block| session.block(&QUIET, &[(1, block)]));
    let files = session.end();
    assert_eq!(files.keys().collect::<Vec<_>>(), ["Bob.opus", "mixed.opus", "own.opus"]);
    for name in ["Bob.opus", "mixed.opus"] {
        let samples = &files[name];
        let (fits, at) = best_correlation(&clip, samples, 2 * 48_000);
        assert!(fits > 0.9 && at.abs_diff(48_000) <= 960, "{name}: {fits} at {at}");
        let before_and_after = [&samples[..47_000], &samples[2 * 48_000 + 9_600..]].map(power);
        assert!(before_and_after.iter().all(|power| *power < 1e-7), "{name}: {before_and_after:?}");
    }
}

#[test]
fn what_does_not_fit_into_the_ring_is_silence_in_its_place() {
    let (sender, mut pieces) = rtrb::RingBuffer::new(4);
    let shared = Arc::new(Shared { started: Instant::now(), place: AtomicU64::new(0), people: Mutex::default() });
    let mut tap = Tap::new(CallId::from_bytes(CALL), sender, shared.clone());
    tap.follow(Some(&Recorded { call: CallId::from_bytes(CALL), who: BTreeMap::new() }));
    for at in 0..6_u32 {
        let now = shared.started + Duration::from_millis(10) * at;
        tap.own(&QUIET, now);
        tap.tick(now);
    }
    let places: Vec<u64> = std::iter::from_fn(|| pieces.pop().ok()).map(|piece| piece.at).collect();
    assert_eq!(places, [0, 1, 2, 3]);
    let now = shared.started + Duration::from_millis(60);
    tap.own(&QUIET, now);
    tap.tick(now);
    assert_eq!(pieces.pop().unwrap().at, 6);
}

#[test]
fn an_own_microphone_that_is_always_late_is_fitted_into_the_beat() {
    let (sender, mut pieces) = rtrb::RingBuffer::new(1024);
    let shared = Arc::new(Shared { started: Instant::now(), place: AtomicU64::new(0), people: Mutex::default() });
    let mut tap = Tap::new(CallId::from_bytes(CALL), sender, shared.clone());
    tap.follow(Some(&Recorded { call: CallId::from_bytes(CALL), who: BTreeMap::new() }));
    let mark = |number: u32| std::array::from_fn(|_| number as f32);
    // Five blocks came at once at the beginning, and from then on one with every beat.
    (0..5).for_each(|number| tap.own(&mark(number), shared.started));
    for at in 0..300 {
        let now = shared.started + Duration::from_millis(10) * at;
        tap.own(&mark(at + 5), now);
        tap.tick(now);
    }
    let last = std::iter::from_fn(|| pieces.pop().ok()).last().unwrap();
    assert_eq!(last.at, 299);
    assert!(last.block[0] >= 303.0, "{} is {} blocks late", last.block[0], 304.0 - last.block[0]);
}

#[test]
fn what_is_said_while_the_speaker_hangs_is_recorded_and_in_step_again_when_it_goes_on() {
    let (sender, mut pieces) = rtrb::RingBuffer::new(1024);
    let shared = Arc::new(Shared { started: Instant::now(), place: AtomicU64::new(0), people: Mutex::default() });
    let mut tap = Tap::new(CallId::from_bytes(CALL), sender, shared.clone());
    tap.follow(Some(&Recorded { call: CallId::from_bytes(CALL), who: BTreeMap::new() }));
    for at in 0..400_u32 {
        let now = shared.started + Duration::from_millis(10) * at;
        tap.own(&[at as f32; BLOCK_SAMPLES], now);
        if !(50..300).contains(&at) {
            tap.tick(now);
        }
    }
    // Where two blocks meet, nothing is to be joined.
    let said: Vec<(u64, f32)> =
        std::iter::from_fn(|| pieces.pop().ok()).map(|piece| (piece.at, piece.block[0])).collect();
    assert_eq!(said[1..], (1..400).map(|at| (at, at as f32)).collect::<Vec<_>>());
}

#[test]
fn what_is_written_is_playable_while_it_is_being_recorded() {
    let mut session = Session::new(&[]);
    session.follow(0x11);
    let clip = speech(5.0);
    blocks_of(&clip).for_each(|block| session.block(block, &[]));
    let own = session.directory().join("own.opus");
    // Nothing has been ended: this is what a kill would leave behind.
    let limit = Instant::now() + PATIENCE;
    while read(&own).len() < clip.len() - 30_000 {
        assert!(Instant::now() < limit, "{} samples", read(&own).len());
        std::thread::park_timeout(Duration::from_millis(5));
    }
    let heard = read(&own);
    let (fits, _) = best_correlation(&clip[..heard.len() - 4_800], &heard, 4_800);
    assert!(fits > 0.95, "{fits}");
    session.end();
}

#[test]
fn names_of_files_hold_nothing_that_a_shell_or_a_terminal_would_obey() {
    let mut names = FileNames::default();
    assert_eq!(names.give("own"), "own.opus");
    assert_eq!(names.give("own"), "own-2.opus");
    assert_eq!(names.give("../../etc/passwd"), "______etc_passwd.opus");
    assert_eq!(names.give("Änne B."), "Änne_B_.opus");
    assert_eq!(names.give("\u{1b}[31m\n"), "__31m_.opus");
    assert!(names.give(&"ß".repeat(500)).len() < 255);
}

#[test]
fn recordings_are_nobody_elses_and_two_of_one_second_do_not_meet() {
    let parent = tempfile::tempdir().unwrap();
    let deep = parent.path().join("deep");
    let new = new_recording(&deep, &[]);
    let both: Vec<_> = (0..2).map(|_| made(new.clone()).unwrap()).collect();
    let names: Vec<_> = both.iter().map(|recording| recording.directory().to_owned()).collect();
    assert_eq!(names[0], deep.join("20000229T123456Z-11111111"));
    assert_eq!(names[1], deep.join("20000229T123456Z-11111111-2"));
    let mode = |path: &Path| path.metadata().unwrap().mode() & 0o777;
    assert_eq!((mode(&names[0]), mode(&names[0].join("own.opus"))), (0o700, 0o600));
}

#[test]
fn where_nothing_can_be_written_it_is_said_and_nothing_begins() {
    let parent = tempfile::tempdir().unwrap();
    let file = parent.path().join("file");
    std::fs::write(&file, "").unwrap();
    let refused = made(new_recording(&file.join("below"), &[])).err().unwrap().to_string();
    assert!(refused.contains("file/below") && refused.contains(';'), "{refused}");
    let relative = made(new_recording(Path::new("meetings"), &[])).err().unwrap();
    assert!(matches!(relative, RecordingError::Relative { .. }), "{relative}");
    for beginning in [Path::new(""), parent.path()] {
        let long = made(new_recording(&beginning.join("x".repeat(60_000)), &[])).err().unwrap().to_string();
        assert!(long.len() < 500 && long.contains("xxx…") && long.contains(';'), "{}", long.len());
    }
    std::fs::set_permissions(parent.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let shared = made(NewRecording { is_private: true, ..new_recording(parent.path(), &[]) }).err().unwrap();
    assert!(matches!(shared, RecordingError::Parent(_)), "{shared}");
}

#[test]
fn a_recording_that_does_not_begin_leaves_nothing_behind() {
    let parent = tempfile::tempdir().unwrap();
    let Recording { tap, running } = made(new_recording(parent.path(), &[])).unwrap();
    assert!(running.directory.join("own.opus").exists());
    let end = running.end.clone();
    drop(tap);
    running.wait(PATIENCE);
    assert_eq!(end.get(), Some(&Ok(false)));
    assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0);
}

#[test]
fn what_cannot_go_on_keeps_the_files_that_hold_sound_and_no_others() {
    for (before, left) in [(0.3, &["Bob.opus"][..]), (3.0, &["Bob.opus", "mixed.opus", "own.opus"])] {
        let parent = tempfile::tempdir().unwrap();
        let (recorder, Recording { mut tap, running }, _) =
            make(&new_recording(parent.path(), &[(did_of(2), "Bob")])).unwrap();
        // His file cannot be made.
        std::fs::write(running.directory.join("Bob.opus"), "somebody else's").unwrap();
        let who = [(LegId(1), did_of(2))].into();
        tap.follow(Some(&Recorded { call: CallId::from_bytes(CALL), who }));
        let mut now = Instant::now();
        for block in blocks_of(&speech(before)) {
            tap.own(block.try_into().unwrap(), now);
            tap.tick(now);
            now += Duration::from_millis(10);
        }
        tap.heard(LegId(1), &QUIET);
        drop(tap);
        let problem = recorder.run().unwrap_err().to_string();
        assert!(problem.contains("Bob.opus"), "{problem}");
        let files = std::fs::read_dir(&running.directory).unwrap();
        let names: BTreeSet<String> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        assert_eq!(names.iter().map(String::as_str).collect::<Vec<_>>(), left);
        assert_eq!(std::fs::read_to_string(running.directory.join("Bob.opus")).unwrap(), "somebody else's");
    }
}

#[test]
fn who_comes_late_is_at_the_right_place_behind_a_silence_that_costs_next_to_nothing() {
    let late = Duration::from_secs(60);
    let mut session = Session::new(&[(did_of(2), "Bob")]);
    session.follow(0x11);
    session.block(&QUIET, &[]);
    session.now += late;
    session.who = [(LegId(1), did_of(2))].into();
    session.follow(0x11);
    let clip = speech(1.0);
    blocks_of(&clip).for_each(|block| session.block(block, &[(1, block)]));
    let directory = session.directory();
    drop(session.tap.take());
    session.running.take().unwrap().wait(PATIENCE);
    let files = read_all(&directory);
    let lengths: BTreeSet<usize> = files.values().map(Vec::len).collect();
    assert_eq!(lengths.len(), 1, "{lengths:?}");
    let places = files.values().map(|samples| best_correlation(&clip, &samples[59 * 48_000..], 2 * 48_000));
    let places: Vec<usize> = places.map(|(fits, at)| if fits > 0.9 { at } else { usize::MAX }).collect();
    assert!(places.iter().all(|at| at.abs_diff(places[0]) <= 48 && at.abs_diff(48_000) <= 1_440), "{places:?}");
    for name in ["Bob.opus", "own.opus"] {
        let mut reader = ogg::PacketReader::new(File::open(directory.join(name)).unwrap());
        let (mut packets, mut pages) = (0, 0);
        while let Some(packet) = reader.read_packet().unwrap() {
            (packets, pages) = (packets + 1, pages + usize::from(packet.last_in_page()));
        }
        // Eight packets a second in silence, up to 255 of them on a page; then the clip.
        assert!(packets < 8 * 61 + 80 && pages < 12, "{name}: {packets} packets on {pages} pages");
    }
}

#[test]
fn what_is_made_up_for_after_the_machine_stood_still_makes_no_recording_longer() {
    let directory = tempfile::tempdir().unwrap();
    let output_file = directory.path().join("heard.wav").to_str().unwrap().into();
    let config = config::Audio { backend: config::Backend::File, output_file, ..config::Audio::default() };
    let (events, _told) = tokio::sync::mpsc::channel(16);
    let audio = Audio::start(&config, events);
    let began = Instant::now();
    let recording = made(new_recording(&directory.path().join("kept"), &[])).unwrap();
    let own = recording.directory().join("own.opus");
    audio.start_recording(recording);
    let recorded = Recorded { call: CallId::from_bytes(CALL), who: BTreeMap::new() };
    audio.apply(AudioPlan { playback: true, recording: Some(recorded), ..AudioPlan::default() });
    let until_longer_than = |samples: usize| {
        let limit = Instant::now() + PATIENCE;
        while read(&own).len() <= samples {
            assert!(Instant::now() < limit, "{} samples", read(&own).len());
            std::thread::park_timeout(Duration::from_millis(5));
        }
        read(&own).len()
    };
    let before = until_longer_than(0);
    // As long as this is held the audio thread does not come to its next turn.
    let stands_still = audio.shared.board();
    let (stood_still, length) = (Instant::now(), Duration::from_secs(1));
    while let Some(rest) = length.checked_sub(stood_still.elapsed()) {
        std::thread::park_timeout(rest);
    }
    drop(stands_still);
    until_longer_than(before + 2 * 48_000);
    drop(audio);
    let (recorded_ms, passed_ms) = (read(&own).len() / 48, began.elapsed().as_millis());
    assert!(recorded_ms as u128 <= passed_ms, "{recorded_ms} ms in {passed_ms} ms");
}

#[test]
fn noise_that_nobody_hears_is_silence() {
    let mut session = Session::new(&[]);
    session.follow(0x11);
    // A tone of -80 dBFS, then one of -60 dBFS.
    let tone = |level: f32| (0..48_000).map(move |at| level * (at as f32 * 0.1).sin());
    let both: Vec<f32> = tone(1e-4 * 2f32.sqrt()).chain(tone(1e-3 * 2f32.sqrt())).collect();
    blocks_of(&both).for_each(|block| session.block(block, &[]));
    let directory = session.directory();
    drop(session.tap.take());
    session.running.take().unwrap().wait(PATIENCE);
    let own = &read_all(&directory)["own.opus"];
    let (soft, loud) = own.split_at(own.len() - 48_000);
    assert!(power(&soft[..soft.len() - 4_800]) < 1e-10, "{}", power(soft));
    assert!((0.5e-6..2e-6).contains(&power(loud)), "{}", power(loud));
}

#[test]
fn a_recording_whose_files_are_removed_ends_with_the_reason() {
    let mut session = Session::new(&[]);
    session.follow(0x11);
    session.block(&QUIET, &[]);
    std::fs::remove_dir_all(session.directory()).unwrap();
    drop(session.tap.take());
    let running = session.running.take().unwrap();
    let end = running.end.clone();
    running.wait(PATIENCE);
    let problem = end.get().cloned().unwrap().unwrap_err();
    assert!(problem.contains("it has been removed"), "{problem}");
}
