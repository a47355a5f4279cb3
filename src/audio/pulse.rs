//! A look-out's own connection to PulseAudio (or PipeWire, which speaks its protocol): what devices there are, where the
//! streams of this process are, and to be told when that changes. cpal's client tells none of that.
//!
//! Blocking, with limits: for a thread of its own.

use std::{
    ffi::CStr,
    io::{self, BufRead, BufReader, Read},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use pulseaudio::protocol::{
    self, Command, CommandReply, CommandTag, Prop, Props, ProtocolError, ServerInfo, SinkInfo, SinkInputInfo,
    SourceInfo, SourceOutputInfo, SubscriptionMask, TagStructReader,
};

use super::watch::{Seen, Sight};

/// A server that does not answer for so long is treated as gone.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest message that is read; a list of many devices has some ten KiB.
const MAX_MESSAGE_BYTES: u32 = 4 << 20;

/// A connection that has asked to be told of changes.
pub struct Pulse {
    socket: BufReader<UnixStream>,
    version: u16,
    sequence: u32,
    /// Something changed since the last look began.
    changed: bool,
}

impl Pulse {
    /// Connects to the server of the environment, as cpal's client does.
    pub fn connect() -> Result<Self, ProtocolError> {
        let path = pulseaudio::socket_path_from_env().ok_or(io::Error::from(io::ErrorKind::NotFound))?;
        let socket = UnixStream::connect(path)?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let mut pulse =
            Self { socket: BufReader::new(socket), version: protocol::MAX_VERSION, sequence: 0, changed: false };
        let cookie = pulseaudio::cookie_path_from_env().and_then(|path| std::fs::read(path).ok()).unwrap_or_default();
        let version = protocol::MAX_VERSION;
        let auth = protocol::AuthParams { version, supports_shm: false, supports_memfd: false, cookie };
        let reply: protocol::AuthReply = pulse.ask(&Command::Auth(auth))?;
        pulse.version = reply.version.min(protocol::MAX_VERSION);
        let mut props = Props::new();
        props.set(Prop::ApplicationName, c"telecon");
        let _name: protocol::SetClientNameReply = pulse.ask(&Command::SetClientName(props))?;
        let streams = SubscriptionMask::SINK_INPUT | SubscriptionMask::SOURCE_OUTPUT;
        let devices = SubscriptionMask::SINK | SubscriptionMask::SOURCE | SubscriptionMask::SERVER;
        pulse.order(&Command::Subscribe(streams | devices))?;
        Ok(pulse)
    }

    /// The connection itself: shut down, it ends [`Self::wait`].
    pub fn ear(&self) -> io::Result<UnixStream> {
        self.socket.get_ref().try_clone()
    }

    /// What is there now.
    pub fn look(&mut self) -> Result<Sight, ProtocolError> {
        let at = Instant::now();
        self.changed = false;
        let server: ServerInfo = self.ask(&Command::GetServerInfo)?;
        let sinks: Vec<SinkInfo> = self.ask(&Command::GetSinkInfoList)?;
        let sources: Vec<SourceInfo> = self.ask(&Command::GetSourceInfoList)?;
        let clients = self.own_clients()?;
        let inputs: Vec<SinkInputInfo> = self.ask(&Command::GetSinkInputInfoList)?;
        let outputs: Vec<SourceOutputInfo> = self.ask(&Command::GetSourceOutputInfoList)?;
        let is_own = |client: Option<u32>| client.is_some_and(|client| clients.contains(&client));
        let at_sink = inputs.iter().filter(|stream| is_own(stream.client_index)).map(|stream| stream.sink_index);
        let at_source = outputs.iter().filter(|stream| is_own(stream.client_index)).map(|stream| stream.source_index);
        let sinks = sinks.iter().map(|sink| (sink.index, &*sink.name, sink.description.as_deref()));
        let sources = sources.iter().map(|source| (source.index, &*source.name, source.description.as_deref()));
        Ok(Sight {
            input: seen(at, sources, server.default_source_name.as_deref(), at_source.collect()),
            output: seen(at, sinks, server.default_sink_name.as_deref(), at_sink.collect()),
        })
    }

    /// Waits until something has changed since the last look began, or for `limit`; false when nothing has.
    pub fn wait(&mut self, limit: Option<Duration>) -> Result<bool, ProtocolError> {
        if self.changed {
            return Ok(true);
        }
        self.socket.get_ref().set_read_timeout(limit)?;
        match self.socket.fill_buf() {
            Ok([]) => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            // What it tells does not matter: one looks again.
            Ok(_) => self.message().map(|_| true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The numbers of this process's clients: those of cpal, which have streams.
    fn own_clients(&mut self) -> Result<Vec<u32>, ProtocolError> {
        let clients: Vec<protocol::ClientInfo> = self.ask(&Command::GetClientInfoList)?;
        let own = std::process::id().to_string();
        let is_own = |client: &protocol::ClientInfo| {
            client
                .props
                .get(Prop::ApplicationProcessId)
                .is_some_and(|id| id.strip_suffix(b"\0") == Some(own.as_bytes()))
        };
        Ok(clients.iter().filter(|client| is_own(client)).map(|client| client.index).collect())
    }

    fn ask<T: CommandReply>(&mut self, command: &Command) -> Result<T, ProtocolError> {
        let reply = self.order(command)?;
        let mut reply = &reply[..];
        let mut reader = TagStructReader::new(&mut reply, self.version);
        // The kind of message and its number, which `order` has read.
        reader.read_u32()?;
        reader.read_u32()?;
        reader.read()
    }

    /// Sends a command and returns the reply, as it came.
    fn order(&mut self, command: &Command) -> Result<Vec<u8>, ProtocolError> {
        self.sequence += 1;
        self.socket.get_ref().set_read_timeout(Some(PATIENCE))?;
        protocol::write_command_message(self.socket.get_mut(), self.sequence, command, self.version)?;
        loop {
            if let Some(reply) = self.message()? {
                return Ok(reply);
            }
        }
    }

    /// The next message, when it is the reply to the last command.
    fn message(&mut self) -> Result<Option<Vec<u8>>, ProtocolError> {
        let head = protocol::read_descriptor(&mut self.socket)?;
        if head.length > MAX_MESSAGE_BYTES {
            return Err(ProtocolError::Invalid("a message is too long".into()));
        }
        let mut body = vec![0; head.length as usize];
        self.socket.read_exact(&mut body)?;
        let mut rest = &body[..];
        let mut reader = TagStructReader::new(&mut rest, self.version);
        let (kind, number) = (reader.read_enum::<CommandTag>()?, reader.read_u32()?);
        match kind {
            CommandTag::Error => Err(ProtocolError::ServerError(reader.read_enum()?)),
            CommandTag::Reply if number == self.sequence => Ok(Some(body)),
            kind => {
                self.changed |= kind == CommandTag::SubscribeEvent;
                Ok(None)
            }
        }
    }
}

fn seen<'a>(
    at: Instant,
    devices: impl Iterator<Item = (u32, &'a CStr, Option<&'a CStr>)> + Clone,
    default: Option<&CStr>,
    ours: Vec<u32>,
) -> Seen {
    let text = |text: &CStr| text.to_string_lossy().into_owned();
    let ours = ours.iter().filter_map(|index| devices.clone().find(|(device, ..)| device == index));
    Seen {
        at,
        ours: ours.map(|(_, name, _)| text(name)).collect(),
        default: default.map(text).filter(|name| devices.clone().any(|(_, device, _)| text(device) == *name)),
        devices: devices.map(|(_, name, description)| (text(name), text(description.unwrap_or(name)))).collect(),
    }
}
