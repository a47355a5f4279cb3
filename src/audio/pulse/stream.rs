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
/// The server asks for so much at once, and a block is sent when it lacks so much: when that much is still to be played.
const REQUEST_BYTES: u32 = BLOCK_BYTES / 2;
/// A server that ran dry gets its blocks so much earlier, each time, up to this…
const MOST_AHEAD_BYTES: i64 = 4 * REQUEST_BYTES as i64;
/// …and as much later again when it has not run dry for so long.
const CALM: Duration = Duration::from_secs(60);
/// What it tells within this time belongs to what was before.
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

/// Begins to hear `source`, 48 kHz mono. `broken` is told why it ended.
pub fn record(source: &str, mut end: InputEnd, broken: Arc<Broken>) -> Result<Stream> {
    let params = protocol::RecordStreamParams {
        sample_spec: sample_spec(),
        channel_map: ChannelMap::mono(),
        source_name: Some(CString::new(source)?),
        buffer_attr: BufferAttr { fragment_size: BLOCK_BYTES, ..BufferAttr::default() },
        flags: StreamFlags { adjust_latency: true, ..StreamFlags::default() },
        ..protocol::RecordStreamParams::default()
    };
    let mut connection = Connection::open()?;
    connection.order(&Command::CreateRecordStream(params))?;
    let mut block = [0.0; BLOCK_SAMPLES];
    Stream::run(connection, "audio-in", broken, move |message, connection| {
        match message {
            Message::Sound => {
                for piece in connection.message.as_chunks().0.chunks(BLOCK_SAMPLES) {
                    let sound = &mut block[..piece.len()];
                    sound.iter_mut().zip(piece).for_each(|(sample, bytes)| *sample = f32::from_le_bytes(*bytes));
                    end.captured(sound);
                }
            }
            Message::Command(CommandTag::RecordStreamKilled) => return Err(KILLED.into()),
            Message::Command(_) | Message::Reply(_) => {}
        }
        Ok(())
    })
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
    gauge.least_bytes.store(REQUEST_BYTES.into(), Relaxed);
    let ear = gauge.clone();
    let stream = Stream::run(connection, "audio-out", broken.clone(), move |message, connection| {
        ear.told(message, connection, &waker)
    })?;
    let message = Vec::new();
    let mut speaker = Speaker { stream, channel, version, gauge, message, asked: None, calm_since: None, broken };
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
        let waiting = u64::try_from(latency.write_offset - latency.read_offset).unwrap_or(0);
        let waiting_us =
            waiting.saturating_sub(BLOCK_BYTES.into()) * 1_000_000 / (u64::from(SAMPLE_RATE_HZ) * SAMPLE_BYTES as u64);
        self.delay_us.store(u32::try_from(latency.sink_usec + waiting_us).unwrap_or(u32::MAX), Relaxed);
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
    /// When the pace was last changed; `None` before it is used.
    calm_since: Option<Instant>,
    broken: Arc<Broken>,
}

impl Speaker {
    /// So much must be wanted for another block to be sent.
    fn least_wanted(&mut self, now: Instant) -> i64 {
        let least = self.gauge.least_bytes.load(Relaxed);
        let calm = now.saturating_duration_since(*self.calm_since.get_or_insert(now));
        let Some(paced) = pace(least, self.gauge.dry.swap(false, Relaxed), calm) else { return least };
        self.calm_since = Some(now);
        self.gauge.least_bytes.store(paced, Relaxed);
        paced
    }

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

/// How much is to be wanted from now on for a block to be sent, where that changes: later is better for the talk, and too
/// late is heard. `calm` is the time since the last change.
fn pace(least: i64, dry: bool, calm: Duration) -> Option<i64> {
    let step = i64::from(REQUEST_BYTES);
    let paced = match dry {
        true if calm >= SETTLING => (least - step).max(step - MOST_AHEAD_BYTES),
        false if calm >= CALM => (least + step).min(step),
        true | false => return None,
    };
    Some(paced)
}

impl Playback for Speaker {
    fn wants(&mut self, now: Instant) -> bool {
        let least = self.least_wanted(now);
        self.gauge.wanted_bytes.load(Relaxed) >= least
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
    use super::*;

    #[test]
    fn a_server_that_runs_dry_gets_its_sound_earlier_within_a_bound_and_later_again_when_it_is_calm() {
        let first = i64::from(REQUEST_BYTES);
        let mut least = first;
        assert_eq!(pace(least, false, SETTLING), None, "nothing happened");
        assert_eq!(pace(least, true, Duration::ZERO), None, "that was before the last change");
        let mut changes = 0;
        while let Some(earlier) = pace(least, true, SETTLING).filter(|earlier| *earlier < least) {
            (least, changes) = (earlier, changes + 1);
        }
        assert_eq!((changes, first - least), (4, MOST_AHEAD_BYTES));
        for _ in 0..changes {
            least = pace(least, false, CALM).unwrap();
        }
        assert_eq!((least, pace(least, false, CALM)), (first, Some(first)));
    }
}
