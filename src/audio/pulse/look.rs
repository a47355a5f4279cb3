//! A look-out's connection: what devices there are, where the streams of this process are, and to be told when that changes.
//!
//! Blocking, with limits: for a thread of its own.

use std::{
    ffi::CStr,
    io,
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use pulseaudio::protocol::{
    ClientInfo, Command, Prop, ServerInfo, SinkInfo, SinkInputInfo, SourceInfo, SourceOutputInfo, SubscriptionMask,
};

use super::connection::{Connection, Result};
use crate::audio::watch::{Listed, Seen, Sight};

/// A connection that has asked to be told of changes.
pub struct LookOut {
    connection: Connection,
}

impl LookOut {
    /// Connects to the server of the environment.
    pub fn open() -> Result<Self> {
        let mut connection = Connection::open()?;
        let streams = SubscriptionMask::SINK_INPUT | SubscriptionMask::SOURCE_OUTPUT;
        let devices = SubscriptionMask::SINK | SubscriptionMask::SOURCE | SubscriptionMask::SERVER;
        connection.order(&Command::Subscribe(streams | devices))?;
        Ok(Self { connection })
    }

    /// The connection itself: shut down, it ends [`Self::wait`].
    pub fn ear(&self) -> io::Result<UnixStream> {
        self.connection.socket()
    }

    /// What is there now.
    pub fn look(&mut self) -> Result<Sight> {
        let at = Instant::now();
        self.connection.changed = false;
        let server: ServerInfo = self.connection.ask(&Command::GetServerInfo)?;
        let sinks: Vec<SinkInfo> = self.connection.ask(&Command::GetSinkInfoList)?;
        let sources: Vec<SourceInfo> = self.connection.ask(&Command::GetSourceInfoList)?;
        let clients = self.own_clients()?;
        let inputs: Vec<SinkInputInfo> = self.connection.ask(&Command::GetSinkInputInfoList)?;
        let outputs: Vec<SourceOutputInfo> = self.connection.ask(&Command::GetSourceOutputInfoList)?;
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
    pub fn wait(&mut self, limit: Option<Duration>) -> Result<bool> {
        if self.connection.changed {
            return Ok(true);
        }
        let told = self.connection.wait(limit)?;
        if told {
            // What it tells does not matter: one looks again.
            self.connection.read()?;
        }
        Ok(told)
    }

    /// The numbers of this process's clients: those that have streams are among them.
    fn own_clients(&mut self) -> Result<Vec<u32>> {
        let clients: Vec<ClientInfo> = self.connection.ask(&Command::GetClientInfoList)?;
        let own = std::process::id().to_string();
        let is_own = |client: &ClientInfo| {
            client
                .props
                .get(Prop::ApplicationProcessId)
                .is_some_and(|id| id.strip_suffix(b"\0") == Some(own.as_bytes()))
        };
        Ok(clients.iter().filter(|client| is_own(client)).map(|client| client.index).collect())
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
        devices: devices
            .map(|(number, name, description)| {
                let description = text(description.unwrap_or(name));
                Listed { name: text(name), description, number }
            })
            .collect(),
    }
}
