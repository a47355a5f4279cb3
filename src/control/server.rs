//! Accepts clients on the control socket and hands what they ask to the daemon's loop.
//!
//! Every client is a task of its own (`connection`), so that one that dies, floods or never reads costs nobody else
//! anything. No daemon state lives here.

use std::{
    os::unix::net::UnixListener as StdListener,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    connection::{self, FLUSH},
    rpc, socket,
    socket::SocketFile,
    wire::{Command, Failure},
};
use crate::{private::DirectoryError, proto::id::Did};

pub use socket::handed_over;

/// Clients at once. One more gets a line that says so and is closed.
pub const MAX_CLIENTS: usize = 64;
/// Version of the socket's form, in the greeting.
pub const API: u32 = 1;
/// Wait after `accept` failed (no descriptors left, say), so that the loop never spins.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The first line that a client gets.
#[derive(Debug, Clone)]
pub struct Greeting {
    /// Whose daemon this is.
    pub did: Did,
}

impl Greeting {
    fn line(&self) -> String {
        json!({ "telecon": env!("CARGO_PKG_VERSION"), "api": API, "did": self.did }).to_string()
    }
}

/// Why the socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Another daemon has this socket.
    #[error("another telecon daemon is running on {}; stop it first, or use another --home", path.display())]
    AlreadyRunning {
        /// The socket.
        path: PathBuf,
    },
    /// There is a file that telecon did not make.
    #[error("{} is not a socket; move it away", path.display())]
    NotASocket {
        /// The file.
        path: PathBuf,
    },
    /// The socket's directory; in a shared one somebody else could replace the socket.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// Not the socket that is wanted.
    #[error("the socket that was handed over (LISTEN_FDS) cannot be used: {cause}; telecon.socket must have one line ListenStream={}", path.display())]
    HandedOver {
        /// Where it ought to be.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// A Unix socket's path is at most 107 bytes long (unix(7)).
    #[error("the socket's path {} is longer than 107 bytes; use a shorter --home", path.display())]
    PathTooLong {
        /// The socket.
        path: PathBuf,
    },
    /// The file system said no.
    #[error("the control socket cannot be opened: {}: {source}; check the directory's permissions and its disk", path.display())]
    Io {
        /// What was touched.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// The open socket. Dropping it closes every client and removes the socket's file; [`Server::shutdown`] lets them read
/// the last answers first.
#[derive(Debug)]
pub struct Server {
    stop: CancellationToken,
    tasks: TaskTracker,
    _file: SocketFile,
}

impl Server {
    /// Stops accepting, sends what is answered already, closes all clients. Takes at most 0.3 s.
    pub async fn shutdown(self) {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(FLUSH + Duration::from_millis(50), self.tasks.wait()).await.is_err() {
            tracing::debug!("a control client did not close in time");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Serves the control socket: the one that systemd handed over, or a new one (file 0600, directory 0700). Must be called
/// inside a tokio runtime.
///
/// Each client has at most 16 requests in `commands` or with the daemon; when `commands` is full, clients wait in turn.
pub fn serve(
    path: &Path,
    handed_over: Option<StdListener>,
    greeting: Greeting,
    commands: mpsc::Sender<Command>,
) -> Result<Server, ServeError> {
    let (file, listener) = match handed_over {
        Some(listener) => SocketFile::adopt(path, listener)?,
        None => SocketFile::bind(path)?,
    };
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    let door = Door { greeting: greeting.line(), commands, stop: stop.clone(), tasks: tasks.clone() };
    tasks.spawn(door.accept(listener));
    Ok(Server { stop, tasks, _file: file })
}

struct Door {
    greeting: String,
    commands: mpsc::Sender<Command>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Door {
    async fn accept(self, listener: UnixListener) {
        let places = Arc::new(Semaphore::new(MAX_CLIENTS));
        loop {
            let accepted = tokio::select! {
                () = self.stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a control client could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            if !socket::peer_uid(&stream).is_ok_and(socket::permitted) {
                turn_away(&stream, "not_permitted", "only the user who runs the daemon may control it");
                continue;
            }
            let Ok(place) = places.clone().try_acquire_owned() else {
                let message = format!("{MAX_CLIENTS} clients are connected already; close one of them");
                turn_away(&stream, "too_many_clients", &message);
                continue;
            };
            let served = connection::serve(stream, &self.greeting, self.commands.clone(), self.stop.clone());
            self.tasks.spawn(async move {
                served.await;
                drop(place);
            });
        }
    }
}

/// In place of the greeting; a fresh socket's buffer has room for one line.
fn turn_away(stream: &UnixStream, code: &str, message: &str) {
    let line = rpc::failure_line(&Value::Null, &Failure::new(code, message)) + "\n";
    if let Err(error) = stream.try_write(line.as_bytes()) {
        tracing::debug!(%error, "a control client was turned away without a word");
    }
}
