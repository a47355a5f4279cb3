//! One direction of sound over PulseAudio's protocol (PipeWire speaks it, too): a connection and a thread of its own that
//! sleeps until the server sends sound, or asks for some.
//!
//! cpal finds the devices, but does not move the sound: its client clears 1 MiB before every read and asks for the latency
//! after every period, which costs more processor time than all the rest of a call.

use std::{
    ffi::CString,
    io::{self, BufRead, BufReader, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use pulseaudio::protocol::{
    self, ChannelMap, Command, CommandReply, CommandTag, Prop, Props, ProtocolError, SampleFormat, SampleSpec,
    TagStructReader, stream::BufferAttr, stream::StreamFlags,
};

use super::{
    BLOCK_SAMPLES, SAMPLE_RATE_HZ,
    callback::{InputEnd, OutputEnd},
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
const PERIOD_BYTES: u32 = (BLOCK_SAMPLES * SAMPLE_BYTES) as u32;

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
        buffer_attr: BufferAttr { max_length: PERIOD_BYTES, fragment_size: PERIOD_BYTES, ..BufferAttr::default() },
        flags: StreamFlags { adjust_latency: true, ..StreamFlags::default() },
        ..protocol::RecordStreamParams::default()
    };
    let mut connection = Connection::open().map_err(|error| error.to_string())?;
    let create = Command::CreateRecordStream(params);
    let reply: protocol::CreateRecordStreamReply = connection.ask(&create).map_err(|error| error.to_string())?;
    let work = Record { channel: reply.channel, sound: vec![0.0; MAX_MESSAGE_BYTES / SAMPLE_BYTES], end };
    connection.run("audio-in", work, broken)
}

/// Begins to play to `sink`, 48 kHz mono. `broken` is told once why it ended, if it was not dropped.
pub fn play(sink: &str, end: OutputEnd, broken: impl FnOnce(String) + Send + 'static) -> Result<Stream, String> {
    let params = protocol::PlaybackStreamParams {
        sample_spec: sample_spec(),
        channel_map: ChannelMap::mono(),
        sink_name: Some(CString::new(sink).map_err(|error| error.to_string())?),
        // One period is played while the next is asked for.
        buffer_attr: BufferAttr {
            max_length: 2 * PERIOD_BYTES,
            target_length: 2 * PERIOD_BYTES,
            minimum_request_length: PERIOD_BYTES,
            ..BufferAttr::default()
        },
        flags: StreamFlags { adjust_latency: true, ..StreamFlags::default() },
        ..protocol::PlaybackStreamParams::default()
    };
    let mut connection = Connection::open().map_err(|error| error.to_string())?;
    let create = Command::CreatePlaybackStream(params);
    let reply: protocol::CreatePlaybackStreamReply = connection.ask(&create).map_err(|error| error.to_string())?;
    let sound = vec![0.0; MAX_MESSAGE_BYTES / SAMPLE_BYTES];
    let mut work = Play { channel: reply.channel, sound, message: Vec::new(), end, delay_us: 0, asked: None };
    work.fill(&mut connection, reply.requested_bytes).map_err(|error| error.to_string())?;
    connection.run("audio-out", work, broken)
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
    sound: Vec<f32>,
    message: Vec<u8>,
    end: OutputEnd,
    /// From what is asked for to the ear, as the server last said.
    delay_us: u32,
    asked: Option<Instant>,
}

impl Play {
    /// Sends what the server asked for, and asks it from time to time how long that waits.
    fn fill(&mut self, connection: &mut Connection, bytes: u32) -> Result<(), ProtocolError> {
        let mut samples = bytes as usize / SAMPLE_BYTES;
        while samples > 0 {
            let sound = samples.min(self.sound.len());
            samples -= sound;
            let sound = &mut self.sound[..sound];
            self.end.wanted(sound, self.delay_us);
            let length = size_of_val(sound) as u32;
            let flags = protocol::DescriptorFlags::empty();
            let head = protocol::Descriptor { length, channel: self.channel, offset: 0, flags };
            self.message.clear();
            protocol::write_descriptor(&mut self.message, &head)?;
            self.message.extend(sound.iter().flat_map(|sample| sample.to_le_bytes()));
            connection.socket.get_mut().write_all(&self.message)?;
        }
        if self.asked.is_none_or(|asked| asked.elapsed() >= LATENCY_EVERY) {
            let now = std::time::SystemTime::now();
            connection.send(&Command::GetPlaybackLatency(protocol::LatencyParams { channel: self.channel, now }))?;
            self.asked = Some(Instant::now());
        }
        Ok(())
    }

    /// The answer came right behind what was sent: what is asked for next waits for one period less.
    fn learn(&mut self, latency: &protocol::PlaybackLatency) {
        let waiting = u64::try_from(latency.write_offset - latency.read_offset).unwrap_or(0);
        let waiting_us =
            waiting.saturating_sub(PERIOD_BYTES.into()) * 1_000_000 / (u64::from(SAMPLE_RATE_HZ) * SAMPLE_BYTES as u64);
        self.delay_us = u32::try_from(latency.sink_usec + waiting_us).unwrap_or(u32::MAX);
    }
}

impl Work for Play {
    fn sound(&mut self, _: u32, _: &[u8]) {}

    fn command(&mut self, connection: &mut Connection, kind: CommandTag, message: &[u8]) -> Result<(), ProtocolError> {
        match kind {
            CommandTag::Request => match Command::read_tag_prefixed(&mut &*message, connection.version)?.1 {
                Command::Request(request) if request.channel == self.channel => self.fill(connection, request.length),
                _ => Ok(()),
            },
            CommandTag::Reply => {
                self.learn(&connection.reply(message)?);
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
