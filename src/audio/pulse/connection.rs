//! A connection to the sound server: greets it, sends commands, and reads what comes. What that means is for others.
//!
//! Blocking: for a thread of its own.

use std::{
    error::Error,
    ffi::CString,
    io::{self, BufRead, BufReader, Read},
    os::unix::net::UnixStream,
    time::Duration,
};

use pulseaudio::protocol::{
    self, Command, CommandReply, CommandTag, Prop, Props, ProtocolError, TagStructRead, TagStructReader,
};

/// A server that does not answer for so long is treated as gone.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest message that is read; a list of many devices has some ten KiB.
const MAX_MESSAGE_BYTES: u32 = 4 << 20;

/// Whatever is wrong, it is only told.
pub type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// What came. Its bytes stay in the connection until the next message is read.
#[derive(Clone, Copy)]
pub enum Message {
    /// Sound of the one stream that a connection has.
    Sound,
    /// What was asked for by the command with this number.
    Reply(u32),
    /// Something that was not.
    Command(CommandTag),
}

/// A connection that has greeted.
pub struct Connection {
    socket: BufReader<UnixStream>,
    /// The protocol's, which both sides speak.
    pub version: u16,
    /// The number of the last command.
    sequence: u32,
    /// The message that was read last; its room serves the next one.
    pub message: Vec<u8>,
    /// The server has told of a change since this was last cleared.
    pub changed: bool,
}

impl Connection {
    /// Connects to the server of the environment, as cpal's client does.
    pub fn open() -> Result<Self> {
        let path = pulseaudio::socket_path_from_env().ok_or(io::Error::from(io::ErrorKind::NotFound))?;
        let socket = UnixStream::connect(path)?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let (socket, version) = (BufReader::new(socket), protocol::MAX_VERSION);
        let mut connection = Self { socket, version, sequence: 0, message: Vec::new(), changed: false };
        let cookie = pulseaudio::cookie_path_from_env().and_then(|path| std::fs::read(path).ok()).unwrap_or_default();
        let auth = protocol::AuthParams { version, supports_shm: false, supports_memfd: false, cookie };
        let reply: protocol::AuthReply = connection.ask(&Command::Auth(auth))?;
        connection.version = reply.version.min(version);
        let mut props = Props::new();
        props.set(Prop::ApplicationName, c"telecon");
        props.set(Prop::ApplicationProcessId, CString::new(std::process::id().to_string())?);
        connection.order(&Command::SetClientName(props))?;
        Ok(connection)
    }

    /// The socket, to write to it without waiting; shut down, it ends whatever waits here.
    pub fn socket(&self) -> io::Result<UnixStream> {
        self.socket.get_ref().try_clone()
    }

    /// Sends a command; what is replied comes like all else, with the number 0.
    pub fn send(&self, command: &Command) -> Result<()> {
        protocol::write_command_message(&mut self.socket.get_ref(), 0, command, self.version)?;
        Ok(())
    }

    /// Sends a command and waits for what is replied.
    pub fn ask<T: CommandReply>(&mut self, command: &Command) -> Result<T> {
        self.order(command)?;
        self.content()
    }

    /// Sends a command and waits until it is carried out.
    pub fn order(&mut self, command: &Command) -> Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        self.socket.get_ref().set_read_timeout(Some(PATIENCE))?;
        protocol::write_command_message(self.socket.get_mut(), self.sequence, command, self.version)?;
        loop {
            if matches!(self.read()?, Message::Reply(number) if number == self.sequence) {
                return Ok(());
            }
        }
    }

    /// Waits until there is something to read, or for `limit`; false when there is nothing.
    pub fn wait(&mut self, limit: Option<Duration>) -> Result<bool> {
        self.socket.get_ref().set_read_timeout(limit)?;
        match self.socket.fill_buf() {
            // The end is something to read as well.
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads the next message; a refusal is an error.
    pub fn read(&mut self) -> Result<Message> {
        if self.socket.fill_buf()?.is_empty() {
            return Err("the sound server closed the connection".into());
        }
        let head = protocol::read_descriptor(&mut self.socket)?;
        if head.length > MAX_MESSAGE_BYTES {
            return Err("the sound server sends too much at once".into());
        }
        self.message.resize(head.length as usize, 0);
        self.socket.read_exact(&mut self.message)?;
        if head.channel != u32::MAX {
            return Ok(Message::Sound);
        }
        let mut message = &self.message[..];
        let mut reader = TagStructReader::new(&mut message, self.version);
        let (kind, number) = (reader.read_enum()?, reader.read_u32()?);
        match kind {
            CommandTag::Error => return Err(ProtocolError::ServerError(reader.read_enum()?).into()),
            CommandTag::Reply => return Ok(Message::Reply(number)),
            CommandTag::SubscribeEvent => self.changed = true,
            _ => {}
        }
        Ok(Message::Command(kind))
    }

    /// What the command or reply says that was read last.
    pub fn content<T: TagStructRead>(&self) -> Result<T> {
        let mut message = &self.message[..];
        let mut reader = TagStructReader::new(&mut message, self.version);
        // Its kind and its number.
        reader.read_u32()?;
        reader.read_u32()?;
        Ok(reader.read()?)
    }
}
