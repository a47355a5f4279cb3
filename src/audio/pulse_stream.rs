//! One direction of sound over PulseAudio's protocol (PipeWire speaks it, too): a connection and a thread of its own that
//! sleeps until the server sends sound, or asks for some. What it asks for, the audio thread mixes then and sends itself:
//! nothing waits between the two.
//!
//! cpal finds the devices, but does not move the sound: its client clears 1 MiB before every read and asks for the latency
//! after every period, which costs more processor time than all the rest of a call.

use std::{
    ffi::CString,
    io::{self, BufRead, BufReader, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use pulseaudio::protocol::{
    self, ChannelMap, Command, CommandReply, CommandTag, Prop, Props, ProtocolError, SampleFormat, SampleSpec,
    TagStructReader, stream::BufferAttr, stream::StreamFlags,
};
use rustix::net::{SendFlags, send};

use super::{
    BLOCK_SAMPLES, Block, SAMPLE_RATE_HZ,
    backend::{Playback, Waker},
    callback::InputEnd,
    device::Broken,
    realtime,
};

/// A server that does not answer for so long does not open a stream.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often the server is asked how far behind the ear is.
const LATENCY_EVERY: Duration = Duration::from_secs(1);
/// Longest message that is taken, and longest piece of sound that is sent (340 ms).
const MAX_MESSAGE_BYTES: usize = 64 << 10;
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

impl Drop for Stream {
    fn drop(&mut self) {
        // Its thread reads the end and ends itself; a server that has gone has ended it already.
        drop(self.socket.shutdown(Shutdown::Both));
    }
}

/// Begins to hear `source`, 48 kHz mono. `broken` is told once why it ended, if it was not dropped.
pub fn record(source: &str, end: InputEnd, broken: impl FnOnce(String) + Send + 'static) -> Result<Stream, String> {
    let params = protocol::RecordStreamParams {
        sample_spec: sample_spec(),
        channel_map: ChannelMap::mono(),
        source_name: Some(CString::new(source).map_err(|error| error.to_string())?),
        buffer_attr: BufferAttr { fragment_size: BLOCK_BYTES, ..BufferAttr::default() },
        flags: StreamFlags { adjust_latency: true, ..StreamFlags::default() },
        ..protocol::RecordStreamParams::default()
    };
    let mut connection = Connection::open().map_err(|error| error.to_string())?;
    let create = Command::CreateRecordStream(params);
    let reply: protocol::CreateRecordStreamReply = connection.ask(&create).map_err(|error| error.to_string())?;
    let work = Record { channel: reply.channel, sound: vec![0.0; MAX_MESSAGE_BYTES / SAMPLE_BYTES], end };
    connection.run("audio-in", work, broken)
}

/// Begins to play to `sink`, 48 kHz mono; wakes the audio thread when a block is wanted.
pub fn play(sink: &str, waker: Waker, broken: Arc<Broken>) -> Result<Speaker, String> {
    let params = protocol::PlaybackStreamParams {
        sample_spec: sample_spec(),
        channel_map: ChannelMap::mono(),
        sink_name: Some(CString::new(sink).map_err(|error| error.to_string())?),
        buffer_attr: BufferAttr {
            target_length: 2 * REQUEST_BYTES,
            pre_buffering: BLOCK_BYTES,
            minimum_request_length: REQUEST_BYTES,
            ..BufferAttr::default()
        },
        flags: StreamFlags { adjust_latency: true, ..StreamFlags::default() },
        ..protocol::PlaybackStreamParams::default()
    };
    let mut connection = Connection::open().map_err(|error| error.to_string())?;
    let create = Command::CreatePlaybackStream(params);
    let reply: protocol::CreatePlaybackStreamReply = connection.ask(&create).map_err(|error| error.to_string())?;
    let channel = reply.channel;
    let gauge = Arc::new(SpeakerGauge::default());
    gauge.wanted_bytes.store(i64::from(reply.requested_bytes) - i64::from(BLOCK_BYTES), Relaxed);
    gauge.least_bytes.store(REQUEST_BYTES.into(), Relaxed);
    // Silence to begin with: a server asks for more, and so shows that the device runs, before anybody has sound for it.
    let mut message = Vec::new();
    sound_message(&mut message, channel, &[0.0; BLOCK_SAMPLES])
        .and_then(|()| connection.socket.get_mut().write_all(&message).map_err(Into::into))
        .map_err(|error| error.to_string())?;
    let (version, sequence) = (connection.version, connection.sequence);
    let work = Play { channel, gauge: gauge.clone(), waker };
    let told = broken.clone();
    let stream = connection.run("audio-out", work, move |why| told.stop(&why))?;
    Ok(Speaker { stream, channel, version, sequence, gauge, message, asked: None, calm_since: None, broken })
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

/// A speaker, as the audio thread holds it.
pub struct Speaker {
    stream: Stream,
    channel: u32,
    version: u16,
    sequence: u32,
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
    fn send(&self) -> Result<(), String> {
        match send(&self.stream.socket, &self.message, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(sent) if sent == self.message.len() => Ok(()),
            Ok(_) => Err("the sound server does not take what it asked for".into()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn send_sound(&mut self, block: &Block) -> Result<(), String> {
        self.message.clear();
        sound_message(&mut self.message, self.channel, block).map_err(|error| error.to_string())?;
        self.send()
    }

    /// Asks how long what was sent last waits.
    fn ask_latency(&mut self) -> Result<(), String> {
        let command = Command::GetPlaybackLatency(protocol::LatencyParams {
            channel: self.channel,
            now: std::time::SystemTime::now(),
        });
        self.sequence = self.sequence.wrapping_add(1);
        self.message.clear();
        protocol::write_command_message(&mut self.message, self.sequence, &command, self.version)
            .map_err(|error| error.to_string())?;
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

/// Writes 10 ms of sound as the server takes them.
fn sound_message(message: &mut Vec<u8>, channel: u32, block: &Block) -> Result<(), ProtocolError> {
    let flags = protocol::DescriptorFlags::empty();
    protocol::write_descriptor(message, &protocol::Descriptor { length: BLOCK_BYTES, channel, offset: 0, flags })?;
    message.extend(block.iter().flat_map(|sample| sample.to_le_bytes()));
    Ok(())
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
            self.broken.stop(&why);
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

/// What a stream does with what the server sends.
trait Work: Send + 'static {
    /// Sound of `channel` came.
    fn sound(&mut self, channel: u32, bytes: &[u8]);
    /// Something else came.
    fn command(&mut self, connection: &mut Connection, kind: CommandTag, message: &[u8]) -> Result<(), ProtocolError>;
}

struct Record {
    channel: u32,
    sound: Vec<f32>,
    end: InputEnd,
}

impl Work for Record {
    fn sound(&mut self, channel: u32, bytes: &[u8]) {
        let samples = bytes.as_chunks().0;
        if channel == self.channel {
            self.sound.iter_mut().zip(samples).for_each(|(sample, bytes)| *sample = f32::from_le_bytes(*bytes));
            self.end.captured(&self.sound[..samples.len()]);
        }
    }

    fn command(&mut self, _: &mut Connection, kind: CommandTag, _: &[u8]) -> Result<(), ProtocolError> {
        if kind == CommandTag::RecordStreamKilled { Err(killed()) } else { Ok(()) }
    }
}

struct Play {
    channel: u32,
    gauge: Arc<SpeakerGauge>,
    waker: Waker,
}

impl Play {
    /// The answer came right behind a block: what is sent next waits for as much less.
    fn learn(&self, latency: &protocol::PlaybackLatency) {
        let waiting = u64::try_from(latency.write_offset - latency.read_offset).unwrap_or(0);
        let waiting_us =
            waiting.saturating_sub(BLOCK_BYTES.into()) * 1_000_000 / (u64::from(SAMPLE_RATE_HZ) * SAMPLE_BYTES as u64);
        self.gauge.delay_us.store(u32::try_from(latency.sink_usec + waiting_us).unwrap_or(u32::MAX), Relaxed);
    }
}

impl Work for Play {
    fn sound(&mut self, _: u32, _: &[u8]) {}

    fn command(&mut self, connection: &mut Connection, kind: CommandTag, message: &[u8]) -> Result<(), ProtocolError> {
        match kind {
            CommandTag::Request => {
                if let Command::Request(request) = Command::read_tag_prefixed(&mut &*message, connection.version)?.1
                    && request.channel == self.channel
                {
                    let more = i64::from(request.length);
                    let wanted = self.gauge.wanted_bytes.fetch_add(more, Relaxed) + more;
                    self.gauge.flows.store(true, Relaxed);
                    if wanted >= self.gauge.least_bytes.load(Relaxed) {
                        self.waker.wake();
                    }
                }
                Ok(())
            }
            CommandTag::Reply => {
                self.learn(&connection.reply(message)?);
                Ok(())
            }
            CommandTag::Underflow => {
                self.gauge.dry.store(true, Relaxed);
                Ok(())
            }
            CommandTag::PlaybackStreamKilled => Err(killed()),
            _ => Ok(()),
        }
    }
}

fn killed() -> ProtocolError {
    ProtocolError::Invalid("the sound server ended the stream".into())
}

struct Connection {
    socket: BufReader<UnixStream>,
    version: u16,
    sequence: u32,
}

impl Connection {
    /// Connects to the server of the environment and greets it.
    fn open() -> Result<Self, ProtocolError> {
        let path = pulseaudio::socket_path_from_env().ok_or(io::Error::from(io::ErrorKind::NotFound))?;
        let socket = UnixStream::connect(path)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let version = protocol::MAX_VERSION;
        let mut connection = Self { socket: BufReader::new(socket), version, sequence: 0 };
        let cookie = pulseaudio::cookie_path_from_env().and_then(|path| std::fs::read(path).ok()).unwrap_or_default();
        let auth = protocol::AuthParams { version, supports_shm: false, supports_memfd: false, cookie };
        let reply: protocol::AuthReply = connection.ask(&Command::Auth(auth))?;
        connection.version = reply.version.min(version);
        let mut props = Props::new();
        props.set(Prop::ApplicationName, c"telecon");
        let process = CString::new(std::process::id().to_string()).unwrap_or_default();
        props.set(Prop::ApplicationProcessId, process);
        let _client: protocol::SetClientNameReply = connection.ask(&Command::SetClientName(props))?;
        Ok(connection)
    }

    /// Sends a command and waits for its reply, before there is any stream.
    fn ask<T: CommandReply>(&mut self, command: &Command) -> Result<T, ProtocolError> {
        self.send(command)?;
        let mut message = Vec::new();
        loop {
            self.read(&mut message)?;
            if self.kind(&message)? == CommandTag::Reply {
                return self.reply(&message);
            }
        }
    }

    fn send(&mut self, command: &Command) -> Result<(), ProtocolError> {
        self.sequence = self.sequence.wrapping_add(1);
        protocol::write_command_message(self.socket.get_mut(), self.sequence, command, self.version)
    }

    /// Reads the next message and returns its channel, or that of commands.
    fn read(&mut self, message: &mut Vec<u8>) -> Result<u32, ProtocolError> {
        let head = protocol::read_descriptor(&mut self.socket)?;
        let length = head.length as usize;
        if length > MAX_MESSAGE_BYTES {
            return Err(ProtocolError::Invalid("the sound server sends too much at once".into()));
        }
        message.resize(length, 0);
        self.socket.read_exact(message)?;
        Ok(head.channel)
    }

    /// What kind of command a message is; a refusal is an error.
    fn kind(&self, mut message: &[u8]) -> Result<CommandTag, ProtocolError> {
        let mut reader = TagStructReader::new(&mut message, self.version);
        match reader.read_enum()? {
            CommandTag::Error => {
                reader.read_u32()?;
                Err(ProtocolError::ServerError(reader.read_enum()?))
            }
            kind => Ok(kind),
        }
    }

    fn reply<T: CommandReply>(&self, mut message: &[u8]) -> Result<T, ProtocolError> {
        let mut reader = TagStructReader::new(&mut message, self.version);
        // Its kind and its number.
        reader.read_u32()?;
        reader.read_u32()?;
        reader.read()
    }

    /// Works on a thread of its own until the stream is dropped or ends.
    fn run(
        self,
        thread: &str,
        work: impl Work,
        broken: impl FnOnce(String) + Send + 'static,
    ) -> Result<Stream, String> {
        let socket = self.socket.get_ref();
        let ready = socket.set_read_timeout(None).and_then(|()| socket.try_clone());
        let stream = Stream { socket: ready.map_err(|error| error.to_string())? };
        let run = move || {
            realtime::raise(|_| {});
            match self.serve(work) {
                Ok(()) => broken("the sound server closed the connection".into()),
                Err(error) => broken(error.to_string()),
            }
        };
        std::thread::Builder::new().name(thread.into()).spawn(run).map_err(|error| error.to_string())?;
        Ok(stream)
    }

    /// Until the connection closes.
    fn serve(mut self, mut work: impl Work) -> Result<(), ProtocolError> {
        let mut message = Vec::new();
        while !self.socket.fill_buf()?.is_empty() {
            match self.read(&mut message)? {
                u32::MAX => {
                    let kind = self.kind(&message)?;
                    work.command(&mut self, kind, &message)?;
                }
                channel => work.sound(channel, &message),
            }
        }
        Ok(())
    }
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
