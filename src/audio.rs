//! Sound: one thread owns the devices, the encoder, the jitter buffers and the mixer.
//!
//! ```text
//!  microphone ─ ring ─┐                          ┌─ broadcast of EncodedFrame ─> every leg's own task writes RTP
//!                     ├─ audio thread: encode ───┘
//!  speaker ◄── ring ──┘  mix ◄─ gain ◄─ decode, conceal ◄─ jitter buffer ◄─ rtrb slot ◄─ leg's own task reads RTP
//! ```
//!
//! There may be legs of several calls; the plan names those of the active one. Every frame says which legs it is for, so
//! that no word reaches another call, whenever the plan changes. What other legs bring is counted and thrown away.

mod backend;
mod callback;
mod choice;
pub mod codec;
mod comfort;
mod device;
mod engine;
mod file;
mod jitter;
mod listing;
mod mixer;
mod opener;
mod port;
mod processing;
mod pulse;
mod realtime;
mod recording;
mod remote;
mod resample;
mod speech;
mod stretch;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod tone;
mod trial;
mod uplink;
mod watch;

/// What `benches/` measures beside the codec; not for use.
#[doc(hidden)]
pub mod bench {
    pub use super::{
        jitter::{JitterBuffer, Pull},
        mixer::{Limiter, add},
        processing::{Processing, Stages},
        remote::Remote,
    };
}

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, sync_channel},
    },
    thread::Thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, mpsc};

use uplink::{WishReader, WishWriter};

use crate::{
    config,
    proto::{id::LegId, io::AudioPlan},
};

pub use codec::{PAUSE, is_pause};
pub use device::NO_PIPEWIRE;
pub use file::check_clip;
pub use listing::{Device, Hangs, devices};
pub use recording::{NewRecording, Recording, RecordingError, RecordingStatus};
pub use trial::{MAX_SECONDS as MAX_TEST_SECONDS, MicTest};
pub use uplink::Wish;

/// Sample rate of everything inside: 48 kHz, mono, f32 in -1..=1.
pub const SAMPLE_RATE_HZ: u32 = 48_000;
/// One Opus frame: 20 ms.
pub const FRAME_SAMPLES: usize = 960;

/// What is mixed and moved at once inside: 10 ms.
const BLOCK_SAMPLES: usize = 480;
type Block = [f32; BLOCK_SAMPLES];
/// Encoded frames that a slow leg may lag behind (320 ms); then it loses the oldest.
const MICROPHONE_FRAMES: usize = 16;
/// Frames between a leg's task and the audio thread (1.3 s, each with three copies); when full, new ones are dropped.
pub(crate) const SLOTS: usize = 256;
/// Frames, copies too, that a leg hands on in a second: of the shortest (2.5 ms), each with three copies. telecon itself sends
/// a quarter of that. What the audio thread learns of each costs it time that all participants need.
pub const FRAMES_A_SECOND: u32 = 1600;
/// Legs that wait to be taken over by the audio thread; more are refused (a call has 31).
const MAX_WAITING_LEGS: usize = 256;
/// How long a device or a file may take to close when the daemon stops.
const CLOSES_IN: Duration = Duration::from_secs(1);
/// How long a recording may take to be completed when the daemon stops.
const LAST_PAGES: Duration = Duration::from_secs(1);
/// Short sounds that wait for the audio thread; more are not played.
const MAX_WAITING_SOUNDS: usize = 8;
/// Loudest that a participant can be made.
pub const MAX_GAIN_PERCENT: u16 = 200;

/// One encoded frame of the own microphone, shared by all legs.
#[derive(Debug, Clone)]
pub struct EncodedFrame {
    /// An Opus packet (RFC 6716).
    pub payload: Bytes,
    /// Sampling instant of its first sample, in 48 kHz units, wrapping; the RTP timestamp without offset.
    pub timestamp: u32,
    /// Its length, in samples at 48 kHz.
    pub samples: u32,
    /// What the encoder aims at, for all who hear it.
    pub bitrate_bps: u32,
    /// And without deep redundancy, of which no copies are sent.
    pub copy_bps: u32,
    /// The legs it was spoken to; no other may send it.
    pub to: Arc<BTreeSet<LegId>>,
}

/// How a leg is heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gain {
    /// 100 is as it came; at most [`MAX_GAIN_PERCENT`].
    pub percent: u16,
    /// Not at all: it is not even decoded.
    pub blocked: bool,
}

impl Default for Gain {
    fn default() -> Self {
        Self { percent: 100, blocked: false }
    }
}

/// One RTP packet of a remote participant.
#[derive(Debug, Clone)]
pub struct ReceivedPacket {
    /// RTP sequence number.
    pub sequence: u16,
    /// RTP timestamp, 48 kHz.
    pub timestamp: u32,
    /// An Opus packet.
    pub payload: Bytes,
    /// It came a second time behind a later frame (RFC 2198): `sequence` is that frame's, and it stands for no packet.
    pub copy: bool,
    /// Its sender has the same libopus, so that deep redundancy may be looked for in it.
    pub dred: bool,
    /// When it was read from the socket.
    pub arrival: Instant,
}

/// What the audio thread tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AudioEvent {
    /// The first packet of that leg was decoded.
    FirstAudio(LegId),
    /// The user speaks while the plan says `muted`: told at once after each mute, then at most every five seconds.
    TalkedWhileMuted,
    /// The files of a recording are there, or cannot be: [`Audio::made_recording`] says which.
    RecordingMade,
    /// The files of a recording are closed, because it is over or cannot be written any further: [`Audio::recording`] says which.
    RecordingEnded,
    /// Somebody began or ceased to speak, as heard here.
    Speaking {
        /// The leg; `None`: the user, to the others.
        who: Option<LegId>,
        /// Begins, or ceases.
        speaking: bool,
    },
    /// [`Audio::status`] has news.
    Changed,
}

/// A sound that telecon makes once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sound {
    /// Somebody is there.
    Joined,
    /// Somebody left.
    Left,
    /// The call came to nothing.
    Busy,
    /// For somebody who wants to know whether the speaker works; it cannot be silenced.
    Test,
}

/// What a device is chosen for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The microphone.
    Input,
    /// The speaker.
    Output,
    /// The ring tone.
    Ring,
}

/// Where sound comes from and goes to, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AudioStatus {
    /// `pipewire`, `pulseaudio`, `alsa`, `file` or `null`; `none` when no sound system answers.
    pub backend: String,
    /// The capture device or file.
    pub input: String,
    /// The playback device or file.
    pub output: String,
    /// The ring tone's device, where it has one of its own.
    pub ring: Option<String>,
    /// The microphone is open.
    pub capturing: bool,
    /// The speaker is open.
    pub playing: bool,
    /// The microphone test that runs.
    pub test: Option<MicTest>,
    /// The device through which the last speaker test is heard; `None` until it is.
    pub speaker_test: Option<String>,
    /// What is done to the sound of the input, by its keys in the configuration.
    pub processing: Vec<String>,
    /// What does not work: cause and remedy in one sentence each.
    pub problem: Option<String>,
    /// The audio thread has real-time priority, from RealtimeKit; it is given back when sound costs too much.
    pub realtime: bool,
    /// `file` backend: unix time in µs at which sample 0 of the present pass of the input file was spoken.
    pub input_started_unix_us: Option<u64>,
    /// `file` backend: unix time in µs at which sample 0 of the output file was played. For a file that was continued, the
    /// time at which sample 0 would have been played had there been no pause, so that the present stretch is right.
    pub output_started_unix_us: Option<u64>,
}

/// The receiving side of one leg in figures.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct LegAudioStats {
    /// Interarrival jitter (RFC 3550, §6.4.1).
    pub jitter_ms: f64,
    /// Packets of about the last ten seconds that never came.
    pub loss_pct: f64,
    /// Sound of about the last ten seconds that was made up; what FEC restored does not count.
    pub concealed_pct: f64,
    /// How long packets wait in the jitter buffer, smoothed.
    pub jitter_buffer_ms: f64,
    /// How long the quickest packets should wait there, as arrivals ask.
    pub target_ms: f64,
    /// From a packet's arrival to the ear, as far as the sound system tells.
    pub playout_delay_ms: f64,
    /// Frames that were lost and played from a copy behind a later one (RFC 2198).
    pub recovered_by_copy: u64,
    /// Frames that were lost and played from the next one's in-band FEC.
    pub recovered_by_fec: u64,
    /// Pieces of lost frames, 20 ms at most, that were restored from a later one's deep redundancy (DRED).
    pub recovered_by_dred: u64,
    /// Frames that came after their place was played.
    pub late: u64,
    /// Times that the delay was changed by stretching sound.
    pub stretches: u64,
    /// Where the delay arises.
    pub delay: DelayShares,
    /// RMS of about the last second, dBFS, -120 at least.
    pub level_db: f64,
}

/// Every stage's share of the delay in ms, apart from the network: the first three of the own voice, the others of what
/// is heard.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct DelayShares {
    /// From the microphone to the audio thread, for the last sample of a block; as far as the sound system tells.
    pub capture_ms: f64,
    /// In the filters that it passes before it is encoded.
    pub processing_ms: f64,
    /// Until a frame is complete, its first sample waits for its last; and by how much the encoder looks ahead.
    pub frame_ms: f64,
    /// In the jitter buffer.
    pub jitter_buffer_ms: f64,
    /// Decoded, not yet mixed: behind what was decoded before.
    pub decoded_ms: f64,
    /// Mixed, waiting for the device to ask.
    pub ring_ms: f64,
    /// From there to the ear, as far as the sound system tells.
    pub device_ms: f64,
}

/// The handle to the audio thread. Dropping it closes all streams and files, and ends the thread; what hangs is left behind.
pub struct Audio {
    shared: Arc<Shared>,
    microphone: broadcast::Sender<EncodedFrame>,
    events: mpsc::Sender<AudioEvent>,
    thread: Option<Thread>,
    /// Closed when the thread has ended.
    ended: Mutex<Receiver<()>>,
    /// Of the latest recording. Held for a copy only.
    recorder: Mutex<Option<recording::Running>>,
    /// What became of the files of the next one.
    made: Arc<Mutex<Option<Result<Recording, RecordingError>>>>,
}

impl Audio {
    /// Starts the audio thread. It never fails: [`Audio::status`] says what is wrong, and silence stands in for it.
    ///
    /// `events` is never waited for: what finds it full is sent later.
    pub fn start(config: &config::Audio, events: mpsc::Sender<AudioEvent>) -> Self {
        let shared = Arc::new(Shared::new(config));
        let (microphone, _) = broadcast::channel(MICROPHONE_FRAMES);
        let (config, sender, own) = (config.clone(), microphone.clone(), shared.clone());
        let stages = processing::Stages::of(&config);
        let told = events.clone();
        let (ends, ended) = sync_channel::<()>(0);
        let run = move || {
            // Dropped at the very end, also of a thread that panics.
            let _ends = ends;
            let constant_bitrate = config.constant_bitrate;
            let board = own.clone();
            realtime::raise(move |given| board.board().status.realtime = given);
            let opener = opener::Opener::new(config, backend::Waker::here());
            engine::Engine::new(own, opener, stages, sender, constant_bitrate, told).run();
        };
        let thread = std::thread::Builder::new().name("audio".into()).spawn(run);
        if let Err(error) = &thread {
            let problem = format!("there is no thread for audio ({error}); free some memory and restart telecon");
            shared.board().status.problem = Some(problem);
        }
        let thread = thread.ok().map(|thread| thread.thread().clone());
        Self {
            shared,
            microphone,
            events,
            thread,
            ended: Mutex::new(ended),
            recorder: Mutex::default(),
            made: Arc::default(),
        }
    }

    /// Sets what is to be captured and played; the latest plan holds. Never blocks.
    pub fn apply(&self, plan: AudioPlan) {
        self.shared.inbox().plan = plan;
        self.wake();
    }

    /// Takes another device from now on, by its name or description, or `default`; for [`Role::Ring`], nothing means the
    /// output. What is open goes over as soon as the other one is open. Never blocks.
    pub fn select(&self, role: Role, name: &str) {
        self.shared.inbox().selected.insert(role, name.to_owned());
        self.wake();
    }

    /// While nothing is open, looks again for the devices, since what was wrong may not be any more. Never blocks.
    pub fn look_again(&self) {
        self.shared.inbox().look_again = true;
        self.wake();
    }

    /// Plays a short sound once, if the configuration does not silence it. Never blocks; when many wait, it is not played.
    pub fn play(&self, sound: Sound) {
        self.shared.board().status.speaker_test.take_if(|_| sound == Sound::Test);
        let mut inbox = self.shared.inbox();
        if inbox.sounds.len() < MAX_WAITING_SOUNDS {
            inbox.sounds.push(sound);
        }
        drop(inbox);
        self.wake();
    }

    /// Opens the microphone for so many seconds ([`MAX_TEST_SECONDS`] at most), then plays what it heard; 0 ends a test at
    /// once, and so does anything that is to be heard of a call. Never blocks; false when another test is under way.
    pub fn test_microphone(&self, seconds: u32) -> bool {
        let mut inbox = self.shared.inbox();
        if inbox.testing && seconds > 0 {
            return false;
        }
        inbox.testing = seconds > 0;
        inbox.test = Some(seconds);
        drop(inbox);
        self.wake();
        true
    }

    /// The own voice, encoded once for all legs: each sends the frames that are for it. A receiver that lags behind loses
    /// the oldest frames.
    pub fn microphone(&self) -> broadcast::Receiver<EncodedFrame> {
        self.microphone.subscribe()
    }

    /// Makes room for a leg's sound; what is pushed into the input is played while the plan names the leg.
    pub fn add_leg(&self, id: LegId) -> LegInput {
        let (slots, played) = rtrb::RingBuffer::new(SLOTS);
        let (wish, reader) = uplink::wish();
        let mut inbox = self.shared.inbox();
        if inbox.added.len() < MAX_WAITING_LEGS {
            inbox.added.push((id, played, reader));
        } else {
            tracing::error!("the audio thread takes no legs over; one will not be heard");
        }
        drop(inbox);
        self.wake();
        LegInput { slots, wish }
    }

    /// Sets how a leg is heard; the latest holds. A leg that was not added is not remembered. Never blocks.
    pub fn set_gain(&self, id: LegId, gain: Gain) {
        let gain = Gain { percent: gain.percent.min(MAX_GAIN_PERCENT), ..gain };
        let mut inbox = self.shared.inbox();
        if inbox.gains.len() < MAX_WAITING_LEGS || inbox.gains.contains_key(&id) {
            inbox.gains.insert(id, gain);
        }
        drop(inbox);
        self.wake();
    }

    /// Forgets a leg and its figures. One whose [`LegInput`] was dropped is forgotten as well, if later.
    pub fn remove_leg(&self, id: LegId) {
        let mut inbox = self.shared.inbox();
        inbox.added.retain(|(added, ..)| *added != id);
        inbox.gains.remove(&id);
        if inbox.removed.len() < MAX_WAITING_LEGS && !inbox.removed.contains(&id) {
            inbox.removed.push(id);
        }
        drop(inbox);
        self.shared.board().legs.remove(&id);
        self.wake();
    }

    /// Has the files of a recording made, however long the disk takes: [`AudioEvent::RecordingMade`] follows. Never blocks.
    ///
    /// # Errors
    /// When there is no thread for it.
    pub fn make_recording(&self, new: NewRecording) -> Result<(), RecordingError> {
        let (events, ended, slot) = (self.events.clone(), self.events.clone(), self.made.clone());
        let made = move |recording| {
            *lock(&slot) = Some(recording);
            let _daemon_gone = events.blocking_send(AudioEvent::RecordingMade);
        };
        let ended = move || {
            let _daemon_gone = ended.blocking_send(AudioEvent::RecordingEnded);
        };
        recording::start(new, made, ended)
    }

    /// What became of the files that [`Self::make_recording`] asked for last, once. Never blocks.
    pub fn made_recording(&self) -> Option<Result<Recording, RecordingError>> {
        lock(&self.made).take()
    }

    /// Begins the recording, in place of one that may still run; it goes on while the plan names its call. Never blocks.
    pub fn start_recording(&self, recording: Recording) {
        *lock(&self.recorder) = Some(recording.running);
        self.shared.inbox().tap = Some(Some(recording.tap));
        self.wake();
    }

    /// Ends the recording, if there is one; its files are completed in a moment, and [`AudioEvent::RecordingEnded`] follows. Never
    /// blocks.
    pub fn stop_recording(&self) {
        self.shared.inbox().tap = Some(None);
        self.wake();
    }

    /// The latest recording, also when it has ended. Never blocks.
    pub fn recording(&self) -> Option<RecordingStatus> {
        lock(&self.recorder).as_ref().map(recording::Running::status)
    }

    /// Where sound comes from and goes to. Never blocks.
    pub fn status(&self) -> AudioStatus {
        self.shared.board().status.clone()
    }

    /// Figures of every leg, renewed four times a second while something plays. Never blocks.
    pub fn leg_stats(&self) -> BTreeMap<LegId, LegAudioStats> {
        self.shared.board().legs.clone()
    }

    fn wake(&self) {
        if let Some(thread) = &self.thread {
            thread.unpark();
        }
    }
}

impl Drop for Audio {
    fn drop(&mut self) {
        self.shared.inbox().stop = true;
        self.wake();
        let ended = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner);
        if ended.recv_timeout(CLOSES_IN) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("a sound device or its file hangs; the end does not wait for it");
        }
        if let Some(recorder) = lock(&self.recorder).take() {
            // It ends with the audio thread. A disk that hangs holds nothing up.
            recorder.wait(LAST_PAGES);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nobody panics while holding one, and every state of it is a right one.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where a leg's task puts what it receives, and says how its path wants the own voice encoded.
pub struct LegInput {
    slots: rtrb::Producer<ReceivedPacket>,
    wish: WishWriter,
}

impl LegInput {
    /// An input and what comes out of it, for tests of legs.
    #[cfg(test)]
    pub(crate) fn pair(packets: usize) -> (Self, rtrb::Consumer<ReceivedPacket>) {
        let (input, played, _) = Self::heeded(packets);
        (input, played)
    }

    /// As [`LegInput::pair`], with where its wishes are found.
    #[cfg(test)]
    fn heeded(packets: usize) -> (Self, rtrb::Consumer<ReceivedPacket>, WishReader) {
        let (slots, played) = rtrb::RingBuffer::new(packets);
        let (wish, reader) = uplink::wish();
        (Self { slots, wish }, played, reader)
    }

    /// Hands a packet to the audio thread. Never blocks; when the thread lags 256 packets behind, the packet is dropped.
    pub fn push(&mut self, packet: ReceivedPacket) {
        // Full: as if it had been lost on the way.
        drop(self.slots.push(packet));
    }

    /// Says how this leg would like the own voice to be encoded, or that it has no say; the latest holds. Never blocks and
    /// wakes nothing: it counts from the next frame on.
    pub fn wish(&mut self, wish: Option<Wish>) {
        self.wish.set(wish);
    }
}

/// What callers and the audio thread share. Both locks are held for a copy only, and never by a callback.
struct Shared {
    epoch: Instant,
    inbox: Mutex<Inbox>,
    board: Mutex<Board>,
}

/// What callers left for the thread. A mailbox rather than a channel: the latest plan must arrive whatever else waits.
#[derive(Default)]
struct Inbox {
    plan: AudioPlan,
    added: Vec<(LegId, rtrb::Consumer<ReceivedPacket>, WishReader)>,
    /// Taken over after what was added.
    gains: BTreeMap<LegId, Gain>,
    removed: Vec<LegId>,
    selected: BTreeMap<Role, String>,
    look_again: bool,
    sounds: Vec<Sound>,
    /// A microphone test of so many seconds.
    test: Option<u32>,
    /// One waits here, or runs.
    testing: bool,
    /// Another recording; `Some(None)`: none any more.
    tap: Option<Option<recording::Tap>>,
    stop: bool,
}

/// What the thread shows.
struct Board {
    status: AudioStatus,
    legs: BTreeMap<LegId, LegAudioStats>,
}

impl Shared {
    fn new(config: &config::Audio) -> Self {
        let (backend, input, output) = match config.backend {
            config::Backend::File => ("file", config.input_file.clone(), config.output_file.clone()),
            config::Backend::Null => ("null", "silence".into(), "nowhere".into()),
            config::Backend::Auto | config::Backend::Pipewire | config::Backend::Pulseaudio | config::Backend::Alsa => {
                ("none", config.input.clone(), config.output.clone())
            }
        };
        let processing = processing::Stages::of(config).on(backend).names();
        let status = AudioStatus { backend: backend.into(), input, output, processing, ..AudioStatus::default() };
        Self {
            epoch: Instant::now(),
            inbox: Mutex::default(),
            board: Mutex::new(Board { status, legs: BTreeMap::new() }),
        }
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        lock(&self.inbox)
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        lock(&self.board)
    }
}
