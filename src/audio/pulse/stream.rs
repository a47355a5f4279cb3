//! One direction of sound: a connection and a thread of its own that sleeps until the server sends sound, or asks for some.
//! What it asks for, the audio thread mixes then and sends itself: nothing waits between the two.

use std::{
    ffi::CString,
    net::Shutdown,
    os::unix::net::UnixStream,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use pulseaudio::protocol::{
    self, ChannelMap, Command, CommandTag, SampleFormat, SampleSpec, stream::BufferAttr, stream::StreamFlags,
};
use rustix::net::{SendFlags, send};

use super::connection::{Connection, Message, Result};
use crate::audio::{
    BLOCK_SAMPLES, Block, SAMPLE_RATE_HZ,
    backend::{Playback, Waker},
    callback::InputEnd,
    device::Broken,
    realtime,
};

/// Why a stream ends that the server, or somebody who tells it to, has ended.
const KILLED: &str = "the sound server ended the stream";
/// How often the server is asked how far behind the ear is.
const LATENCY_EVERY: Duration = Duration::from_secs(1);
const SAMPLE_BYTES: usize = size_of::<f32>();
/// 10 ms.
const BLOCK_BYTES: u32 = (BLOCK_SAMPLES * SAMPLE_BYTES) as u32;
/// The server asks for so much at once, and a block is sent when it lacks so much. PulseAudio has as much left to play then.
const REQUEST_BYTES: u32 = BLOCK_BYTES / 2;
const STEP_BYTES: i64 = REQUEST_BYTES as i64;
/// A server that ran dry gets its blocks a step earlier, each time, up to this…
const MOST_AHEAD_BYTES: i64 = 4 * STEP_BYTES;
/// …and a step later again when it has not run dry for so long; twice as long each time it has, up to eight times.
const CALM: Duration = Duration::from_secs(60);
/// What it tells within this time after a step belongs to what was before.
const SETTLING: Duration = Duration::from_millis(200);

/// A running stream. Dropping it ends it, and the server lets the device go.
pub struct Stream {
    socket: UnixStream,
}

impl Stream {
    /// Hands every message to `work`, on a thread of its own, until the stream is dropped or ends; `broken` is told why.
    fn run(
        mut connection: Connection,
        thread: &str,
        broken: Arc<Broken>,
        mut work: impl FnMut(Message, &Connection) -> Result<()> + Send + 'static,
    ) -> Result<Self> {
        let stream = Self { socket: connection.socket()? };
        stream.socket.set_read_timeout(None)?;
        let run = move || {
            realtime::raise(|_| {});
            loop {
                if let Err(why) = connection.read().and_then(|message| work(message, &connection)) {
                    return broken.stop(&why.to_string());
                }
            }
        };
        std::thread::Builder::new().name(thread.into()).spawn(run)?;
        Ok(stream)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // Its thread reads the end and ends itself; a server that has gone has ended it already.
        drop(self.socket.shutdown(Shutdown::Both));
    }
}

/// Begins to hear `source`, 48 kHz mono. `broken` is told why it ended, `delay_us` how old the last sample is that comes.
pub fn record(source: &str, mut end: InputEnd, delay_us: Arc<AtomicU32>, broken: Arc<Broken>) -> Result<Stream> {
    let params = protocol::RecordStreamParams {
        sample_spec: sample_spec(),
        channel_map: ChannelMap::mono(),
        source_name: Some(CString::new(source)?),
        buffer_attr: BufferAttr { fragment_size: BLOCK_BYTES, ..BufferAttr::default() },
        flags: StreamFlags { adjust_latency: true, ..StreamFlags::default() },
        ..protocol::RecordStreamParams::default()
    };
    let mut connection = Connection::open()?;
    let created: protocol::CreateRecordStreamReply = connection.ask(&Command::CreateRecordStream(params))?;
    let (channel, mut asked) = (created.channel, None);
    let mut block = [0.0; BLOCK_SAMPLES];
    Stream::run(connection, "audio-in", broken, move |message, connection| {
        match message {
            Message::Sound => {
                for piece in connection.message.as_chunks().0.chunks(BLOCK_SAMPLES) {
                    let sound = &mut block[..piece.len()];
                    sound.iter_mut().zip(piece).for_each(|(sample, bytes)| *sample = f32::from_le_bytes(*bytes));
                    end.captured(sound);
                }
                // Right behind what came: what is there after that is what comes later than it could.
                if asked.is_none_or(|asked: Instant| asked.elapsed() >= LATENCY_EVERY) {
                    asked = Some(Instant::now());
                    let params = protocol::LatencyParams { channel, now: std::time::SystemTime::now() };
                    connection.send(&Command::GetRecordLatency(params))?;
                }
            }
            Message::Reply(_) => delay_us.store(age_us(&connection.content()?), Relaxed),
            Message::Command(CommandTag::RecordStreamKilled) => return Err(KILLED.into()),
            Message::Command(_) => {}
        }
        Ok(())
    })
}

/// How old sound is when it comes: what waits in the device, and what the server has not sent.
fn age_us(latency: &protocol::RecordLatency) -> u32 {
    let unsent = latency.write_offset.saturating_sub(latency.read_offset);
    let unsent = u64::try_from(unsent).unwrap_or(0) / SAMPLE_BYTES as u64;
    let unsent_us = unsent.saturating_mul(1_000_000) / u64::from(SAMPLE_RATE_HZ);
    u32::try_from(latency.source_usec.saturating_add(unsent_us)).unwrap_or(u32::MAX)
}

/// Begins to play to `sink`, 48 kHz mono; wakes the audio thread when a block is wanted.
pub fn play(sink: &str, waker: Waker, broken: Arc<Broken>) -> Result<Speaker> {
    let params = protocol::PlaybackStreamParams {
        sample_spec: sample_spec(),
        channel_map: ChannelMap::mono(),
        sink_name: Some(CString::new(sink)?),
        buffer_attr: BufferAttr {
            target_length: 2 * REQUEST_BYTES,
            pre_buffering: BLOCK_BYTES,
            minimum_request_length: REQUEST_BYTES,
            ..BufferAttr::default()
        },
        flags: StreamFlags { adjust_latency: true, ..StreamFlags::default() },
        ..protocol::PlaybackStreamParams::default()
    };
    let mut connection = Connection::open()?;
    let created: protocol::CreatePlaybackStreamReply = connection.ask(&Command::CreatePlaybackStream(params))?;
    let (channel, version) = (created.channel, connection.version);
    let gauge = Arc::new(SpeakerGauge::default());
    gauge.wanted_bytes.store(i64::from(created.requested_bytes) - i64::from(BLOCK_BYTES), Relaxed);
    gauge.least_bytes.store(STEP_BYTES, Relaxed);
    let ear = gauge.clone();
    let stream = Stream::run(connection, "audio-out", broken.clone(), move |message, connection| {
        ear.told(message, connection, &waker)
    })?;
    let message = Vec::new();
    let mut speaker = Speaker { stream, channel, version, gauge, message, asked: None, pace: None, broken };
    // Silence to begin with: a server asks for more, and so shows that the device runs, before anybody has sound for it.
    speaker.send_sound(&[0.0; BLOCK_SAMPLES])?;
    Ok(speaker)
}

/// What the server says, for the audio thread; and when that is to be woken.
#[derive(Default)]
struct SpeakerGauge {
    /// Asked for, and not sent; negative when more was sent than asked for.
    wanted_bytes: AtomicI64,
    /// A block is sent when so much is wanted.
    least_bytes: AtomicI64,
    /// The server has run dry since this was last taken.
    dry: AtomicBool,
    /// It has asked for more than its first fill.
    flows: AtomicBool,
    /// From what is sent to the ear.
    delay_us: AtomicU32,
}

impl SpeakerGauge {
    fn told(&self, message: Message, connection: &Connection, waker: &Waker) -> Result<()> {
        match message {
            Message::Command(CommandTag::Request) => {
                let request: protocol::Request = connection.content()?;
                let more_bytes = i64::from(request.length);
                let wanted = self.wanted_bytes.fetch_add(more_bytes, Relaxed) + more_bytes;
                self.flows.store(true, Relaxed);
                if wanted >= self.least_bytes.load(Relaxed) {
                    waker.wake();
                }
            }
            Message::Reply(_) => self.learn(&connection.content()?),
            Message::Command(CommandTag::Underflow) => self.dry.store(true, Relaxed),
            Message::Command(CommandTag::PlaybackStreamKilled) => return Err(KILLED.into()),
            Message::Command(_) | Message::Sound => {}
        }
        Ok(())
    }

    /// The answer came right behind a block: what is sent next waits for as much less.
    fn learn(&self, latency: &protocol::PlaybackLatency) {
        let waiting = latency.write_offset.saturating_sub(latency.read_offset).saturating_sub(BLOCK_BYTES.into());
        let waiting = u64::try_from(waiting).unwrap_or(0) / SAMPLE_BYTES as u64;
        let waiting_us = waiting.saturating_mul(1_000_000) / u64::from(SAMPLE_RATE_HZ);
        let delay_us = latency.sink_usec.saturating_add(waiting_us);
        self.delay_us.store(u32::try_from(delay_us).unwrap_or(u32::MAX), Relaxed);
    }
}

/// A speaker, as the audio thread holds it.
pub struct Speaker {
    stream: Stream,
    channel: u32,
    version: u16,
    gauge: Arc<SpeakerGauge>,
    message: Vec<u8>,
    /// When the server was last asked for its latency.
    asked: Option<Instant>,
    /// `None` before it is used.
    pace: Option<Pace>,
    broken: Arc<Broken>,
}

impl Speaker {
    /// The message, whole and at once: who asked for the sound has room for it.
    fn send(&self) -> Result<()> {
        match send(&self.stream.socket, &self.message, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(sent) if sent == self.message.len() => Ok(()),
            Ok(_) => Err("the sound server does not take what it asked for".into()),
            Err(error) => Err(error.into()),
        }
    }

    fn send_sound(&mut self, block: &Block) -> Result<()> {
        let flags = protocol::DescriptorFlags::empty();
        let head = protocol::Descriptor { length: BLOCK_BYTES, channel: self.channel, offset: 0, flags };
        self.message.clear();
        protocol::write_descriptor(&mut self.message, &head)?;
        self.message.extend(block.iter().flat_map(|sample| sample.to_le_bytes()));
        self.send()
    }

    /// Asks how long what was sent last waits.
    fn ask_latency(&mut self) -> Result<()> {
        let command = Command::GetPlaybackLatency(protocol::LatencyParams {
            channel: self.channel,
            now: std::time::SystemTime::now(),
        });
        self.message.clear();
        // Nothing else is asked, so no number needs to tell replies apart.
        protocol::write_command_message(&mut self.message, 0, &command, self.version)?;
        self.send()
    }
}

/// When blocks are sent: later is better for the talk, and too late is heard.
struct Pace {
    /// When so much is wanted.
    least_bytes: i64,
    /// When that was last changed, and how long it stays without anything happening.
    since: Instant,
    calm: Duration,
    settled_at: Instant,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self { least_bytes: STEP_BYTES, since: now, calm: CALM / 2, settled_at: now + SETTLING }
    }

    /// `dry`: the server has run dry since this was last told.
    fn follow(&mut self, dry: bool, now: Instant) {
        if dry && now >= self.settled_at {
            self.least_bytes = (self.least_bytes - STEP_BYTES).max(STEP_BYTES - MOST_AHEAD_BYTES);
            (self.since, self.calm) = (now, (2 * self.calm).min(8 * CALM));
            self.settled_at = now + SETTLING;
        } else if now.saturating_duration_since(self.since) >= self.calm {
            (self.least_bytes, self.since) = ((self.least_bytes + STEP_BYTES).min(STEP_BYTES), now);
        }
    }
}

impl Playback for Speaker {
    fn wants(&mut self, now: Instant) -> bool {
        let pace = self.pace.get_or_insert_with(|| Pace::new(now));
        pace.follow(self.gauge.dry.swap(false, Relaxed), now);
        self.gauge.least_bytes.store(pace.least_bytes, Relaxed);
        self.gauge.wanted_bytes.load(Relaxed) >= pace.least_bytes
    }

    fn play(&mut self, block: &Block) {
        self.gauge.wanted_bytes.fetch_sub(BLOCK_BYTES.into(), Relaxed);
        let mut sent = self.send_sound(block);
        if sent.is_ok() && self.asked.is_none_or(|asked| asked.elapsed() >= LATENCY_EVERY) {
            self.asked = Some(Instant::now());
            sent = self.ask_latency();
        }
        if let Err(why) = sent {
            self.broken.stop(&why.to_string());
        }
    }

    fn due(&self) -> Option<Instant> {
        None
    }

    fn delays_ms(&self) -> (f64, f64) {
        (0.0, f64::from(self.gauge.delay_us.load(Relaxed)) / 1000.0)
    }

    fn flows(&self) -> bool {
        self.gauge.flows.load(Relaxed)
    }

    fn broken(&mut self) -> Option<String> {
        self.broken.take()
    }
}

fn sample_spec() -> SampleSpec {
    SampleSpec { format: SampleFormat::Float32Le, channels: 1, sample_rate: SAMPLE_RATE_HZ }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_server_that_runs_dry_gets_its_sound_earlier_within_a_bound_and_later_again_when_it_is_calm() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        let mut follow = |dry, after| {
            now += after;
            pace.follow(dry, now);
            pace.least_bytes
        };
        assert_eq!(follow(true, Duration::ZERO), STEP_BYTES, "that was before");
        assert_eq!(follow(false, SETTLING), STEP_BYTES);
        let bytes: Vec<i64> = (0..6).map(|_| follow(true, SETTLING)).collect();
        assert_eq!(bytes, [0, -1, -2, -3, -3, -3].map(|steps| steps * STEP_BYTES));
        assert_eq!(follow(false, 7 * CALM), -3 * STEP_BYTES);
        assert_eq!(follow(false, CALM), -2 * STEP_BYTES);
        assert_eq!(follow(true, Duration::ZERO), -3 * STEP_BYTES, "a step later is not settled");
        let later: Vec<i64> = (0..5).map(|_| follow(false, 8 * CALM)).collect();
        assert_eq!(later, [-2, -1, 0, 1, 1].map(|steps| steps * STEP_BYTES));
    }

    #[test]
    fn a_block_is_sent_when_enough_is_wanted_and_one_more_to_a_server_that_ran_dry() {
        let (ours, mut server) = UnixStream::pair().unwrap();
        let gauge = Arc::new(SpeakerGauge::default());
        let broken = Broken::new(Waker::here(), "the speaker".into());
        let (stream, version) = (Stream { socket: ours }, protocol::MAX_VERSION);
        let (asked, message) = (Some(Instant::now()), Vec::new());
        let mut speaker =
            Speaker { stream, channel: 7, version, gauge: gauge.clone(), message, asked, pace: None, broken };
        let now = Instant::now();
        gauge.wanted_bytes.store(2 * STEP_BYTES, Relaxed);
        assert!(speaker.wants(now));
        speaker.play(&[0.5; BLOCK_SAMPLES]);
        let mut sent = [0; 5 * 4 + BLOCK_BYTES as usize];
        server.read_exact(&mut sent).unwrap();
        assert_eq!(sent[..8], [BLOCK_BYTES.to_be_bytes(), 7_u32.to_be_bytes()].concat());
        assert!(sent[20..].chunks(4).all(|sample| sample == 0.5_f32.to_le_bytes()));
        assert!(!speaker.wants(now + SETTLING));
        gauge.dry.store(true, Relaxed);
        assert!(speaker.wants(now + SETTLING), "it may have more than it asked for");
        drop(server);
        speaker.play(&[0.0; BLOCK_SAMPLES]);
        assert!(speaker.broken().is_some());
    }

    #[test]
    fn what_a_server_says_of_the_age_of_sound_may_be_any_numbers() {
        let says = |write_offset, read_offset, source_usec| {
            let (local_time, remote_time) = (std::time::SystemTime::now(), std::time::SystemTime::now());
            age_us(&protocol::RecordLatency {
                write_offset,
                read_offset,
                source_usec,
                sink_usec: 0,
                playing: true,
                local_time,
                remote_time,
            })
        };
        assert_eq!(says(i64::from(BLOCK_BYTES), 0, 500), 10_500);
        assert_eq!(says(i64::MAX, i64::MIN, u64::MAX), u32::MAX);
        assert_eq!(says(i64::MIN, i64::MAX, 0), 0);
    }

    #[test]
    fn what_a_server_says_of_its_latency_may_be_any_numbers() {
        let gauge = SpeakerGauge::default();
        let says = |write_offset, read_offset, sink_usec| {
            let now = std::time::SystemTime::now();
            gauge.learn(&protocol::PlaybackLatency {
                write_offset,
                read_offset,
                sink_usec,
                source_usec: 0,
                playing: true,
                local_time: now,
                remote_time: now,
                underrun_for: 0,
                playing_for: 0,
            });
            gauge.delay_us.load(Relaxed)
        };
        assert_eq!(says(i64::from(3 * BLOCK_BYTES), 0, 500), 20_500);
        assert_eq!(says(i64::MAX, i64::MIN, u64::MAX), u32::MAX);
        assert_eq!(says(i64::MIN, i64::MAX, 0), 0);
    }
}
