//! A client of the daemon's control socket: what the command line uses, and what other programs may use.
//!
//! It sends requests and reads answers and events; it does not start a daemon, keep state or connect again by itself.
//!
//! ```no_run
//! use telecon::{client::Client, config::Paths, control::wire::Method};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let socket = Paths::resolve(None)?.socket;
//! // Watch first, ask then: no event of the new call is missed.
//! let mut watch = Client::connect(&socket).await?.watch(None).await?;
//! let mut client = Client::connect(&socket).await?;
//! let offered = client.request(Method::CallOffer { who: vec!["bob".into()], closed: false }, None).await?;
//! println!("the call is {}", offered["call"]);
//! while let Some(event) = watch.next().await {
//!     println!("{}", event?);
//! }
//! # Ok(())
//! # }
//! ```

use std::{
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    time::Duration,
};

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio_util::codec::{Framed, LinesCodec, LinesCodecError};

use crate::control::{
    server::API,
    wire::{Failure, Method},
};

/// Longest line that is read: an answer of 1 MiB and what stands around it.
const MAX_LINE_BYTES: usize = 1024 * 1024 + 4096;
/// A daemon that is alive greets at once.
const GREETING_WITHIN: Duration = Duration::from_secs(5);

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens on the socket.
    #[error("the daemon is not running (nothing answers on {}); start it with: telecon daemon", socket.display())]
    NotRunning {
        /// The socket.
        socket: PathBuf,
    },
    /// Somebody listens and says nothing: a daemon that hangs, or that was stopped (`SIGSTOP`).
    #[error(
        "the daemon on {} does not answer; if it was stopped, let it go on (fg, kill -CONT), if it hangs, end it and start it again",
        socket.display()
    )]
    Silent {
        /// The socket.
        socket: PathBuf,
    },
    /// The socket is another user's.
    #[error("the daemon on {} belongs to another user; run this as the user who started it", socket.display())]
    NotPermitted {
        /// The socket.
        socket: PathBuf,
    },
    /// The daemon said no, and why.
    #[error("{0}")]
    Failed(Failure),
    /// The daemon went away.
    #[error("the daemon closed the connection; look at its log, and try again")]
    Closed,
    /// Too many events waited to be read.
    #[error("events came faster than they were read; watch again since the last seq")]
    Lagged,
    /// Something that is no telecon daemon, or one of another age, answers.
    #[error("what answers on the control socket does not speak telecon's protocol: {0}")]
    Protocol(String),
    /// The socket broke.
    #[error("the control socket failed: {0}")]
    Io(#[from] io::Error),
}

impl From<LinesCodecError> for ClientError {
    fn from(error: LinesCodecError) -> Self {
        match error {
            LinesCodecError::MaxLineLengthExceeded => Self::Protocol("a line is too long".into()),
            LinesCodecError::Io(error) => match error.kind() {
                ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => Self::Closed,
                ErrorKind::InvalidData => Self::Protocol("a line is not UTF-8".into()),
                _ => Self::Io(error),
            },
        }
    }
}

/// A connection for requests, one at a time.
#[derive(Debug)]
pub struct Client {
    lines: Framed<UnixStream, LinesCodec>,
    greeting: Value,
    last_id: u64,
}

impl Client {
    /// Connects and reads the greeting.
    ///
    /// # Errors
    /// [`ClientError::NotRunning`] when nobody listens, [`ClientError::Silent`] when there is no greeting within 5 s,
    /// [`ClientError::NotPermitted`] when the socket is another user's, [`ClientError::Failed`] when the daemon turns this
    /// client away.
    pub async fn connect(socket: &Path) -> Result<Self, ClientError> {
        Self::connect_within(GREETING_WITHIN, socket).await
    }

    async fn connect_within(patience: Duration, socket: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(socket).await.map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused | ErrorKind::NotADirectory => {
                ClientError::NotRunning { socket: socket.into() }
            }
            ErrorKind::PermissionDenied => ClientError::NotPermitted { socket: socket.into() },
            _ => ClientError::Io(error),
        })?;
        let lines = Framed::new(stream, LinesCodec::new_with_max_length(MAX_LINE_BYTES));
        let mut client = Self { lines, greeting: Value::Null, last_id: 0 };
        let greeting = tokio::time::timeout(patience, client.read())
            .await
            .map_err(|_| ClientError::Silent { socket: socket.into() })??
            .ok_or_else(|| ClientError::NotRunning { socket: socket.into() })?;
        if let Some(failure) = failure_of(&greeting) {
            return Err(match failure.code.as_str() {
                "not_permitted" => ClientError::NotPermitted { socket: socket.into() },
                _ => ClientError::Failed(failure),
            });
        }
        if greeting["telecon"].is_null() || greeting["api"] != API {
            return Err(ClientError::Protocol("it greets in another way".into()));
        }
        client.greeting = greeting;
        Ok(client)
    }

    /// What the daemon said first: `telecon` (its version), `api`, `did`.
    pub fn greeting(&self) -> &Value {
        &self.greeting
    }

    /// Asks and waits for the answer. The same `request_key` again returns the first answer and does nothing twice.
    ///
    /// # Errors
    /// [`ClientError::Failed`] when the daemon refused; then nothing changed.
    pub async fn request(&mut self, method: Method, request_key: Option<String>) -> Result<Value, ClientError> {
        let mut request = serde_json::to_value(method).map_err(|error| ClientError::Protocol(error.to_string()))?;
        if let Some(key) = request_key {
            request["params"]["request_key"] = key.into();
        }
        self.ask(request).await
    }

    /// Turns the connection into a stream of events: a snapshot, then what happened after `since`, then what happens.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub async fn watch(mut self, since: Option<u64>) -> Result<Watch, ClientError> {
        let snapshot = self.ask(json!({ "method": "events.watch", "params": { "since": since } })).await?;
        Ok(Watch { client: self, snapshot, over: false })
    }

    async fn ask(&mut self, mut request: Value) -> Result<Value, ClientError> {
        self.last_id += 1;
        request["jsonrpc"] = "2.0".into();
        request["id"] = self.last_id.into();
        self.lines.send(request.to_string()).await?;
        loop {
            let mut answer = self.read().await?.ok_or(ClientError::Closed)?;
            if answer["id"] != self.last_id && !answer["id"].is_null() {
                // The answer to a request that was given up while it was waited for.
                continue;
            }
            return match failure_of(&answer) {
                Some(failure) => Err(ClientError::Failed(failure)),
                None if answer.get("result").is_some() => Ok(answer["result"].take()),
                None => Err(ClientError::Protocol("an answer has neither a result nor an error".into())),
            };
        }
    }

    async fn read(&mut self) -> Result<Option<Value>, ClientError> {
        let Some(line) = self.lines.next().await else { return Ok(None) };
        let value: Value = serde_json::from_str(&line?).map_err(|error| ClientError::Protocol(error.to_string()))?;
        if value.is_object() { Ok(Some(value)) } else { Err(ClientError::Protocol("a line is no object".into())) }
    }
}

/// The stream of events; see [`Client::watch`].
#[derive(Debug)]
pub struct Watch {
    client: Client,
    /// `daemon.status` at the start of the watch, with `seq` of the last event before it.
    pub snapshot: Value,
    over: bool,
}

impl Watch {
    /// The next event: `seq`, `time_ms`, `event` and its fields. `None` when the daemon ended the watch; an error is the
    /// last item. May be dropped while it waits: no event is lost.
    pub async fn next(&mut self) -> Option<Result<Value, ClientError>> {
        while !self.over {
            let mut line = match self.client.read().await {
                Ok(Some(line)) => line,
                Ok(None) => break,
                Err(error) => {
                    self.over = true;
                    return Some(Err(error));
                }
            };
            match line["method"].as_str() {
                Some("event") => return Some(Ok(line["params"].take())),
                Some("lagged") => {
                    self.over = true;
                    return Some(Err(ClientError::Lagged));
                }
                // Later versions may tell more.
                Some(_) | None => {}
            }
        }
        self.over = true;
        None
    }
}

fn failure_of(answer: &Value) -> Option<Failure> {
    let error = answer.get("error")?;
    let word = |value: &Value, otherwise: &str| value.as_str().unwrap_or(otherwise).to_owned();
    Some(Failure {
        code: word(&error["data"]["code"], "unknown"),
        message: word(&error["message"], "the daemon refused and did not say why"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_daemon_that_hangs_is_not_called_one_that_is_not_running() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let _hangs = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let error = Client::connect_within(Duration::from_millis(1), &socket).await.unwrap_err();
        assert!(matches!(error, ClientError::Silent { .. }), "{error}");
    }
}
