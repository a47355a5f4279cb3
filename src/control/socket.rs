//! The socket's file: its directory, its lock, and that it belongs to exactly one daemon.
//!
//! A lock file beside the socket decides who the daemon is. The kernel gives the lock back when its holder dies, however
//! it dies, so a socket that is found while holding the lock is either a dead daemon's, and is replaced, or something
//! else answers on it, and is left alone.
//!
//! systemd may make the socket instead (`telecon.socket`) and hand it over. Then the file is systemd's: it is served, and
//! neither made nor removed here.

use std::{
    env,
    fs::{self, File, OpenOptions, Permissions},
    io::{self, ErrorKind},
    os::unix::{
        fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt},
        net::UnixListener as StdListener,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::FlockOperation,
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt},
};
use tokio::net::UnixListener;

use super::server::ServeError;
use crate::private::prepare_directory;

/// `sun_path` of `sockaddr_un` (unix(7)), without the closing NUL.
const MAX_PATH_BYTES: usize = 107;

/// A bound socket file. Dropping it removes the file, if it was made here and is still this one, and gives the lock back.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode of the file that was made here; `None`: it is systemd's.
    made: Option<(u64, u64)>,
    /// Holds the lock for as long as it is open. The lock file itself stays: removing it would let two daemons lock two files.
    _lock: File,
}

impl SocketFile {
    /// Takes the lock, replaces a dead daemon's socket and listens.
    pub fn bind(path: &Path) -> Result<(Self, UnixListener), ServeError> {
        if path.as_os_str().len() > MAX_PATH_BYTES {
            return Err(ServeError::PathTooLong { path: path.into() });
        }
        let io_error = |source| ServeError::Io { path: path.into(), source };
        let lock = lock(path)?;
        clear_stale(path)?;
        let listener = UnixListener::bind(path).map_err(io_error)?;
        fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(io_error)?;
        let metadata = fs::symlink_metadata(path).map_err(io_error)?;
        Ok((Self { path: path.into(), made: Some((metadata.dev(), metadata.ino())), _lock: lock }, listener))
    }

    /// Takes the lock for a socket that somebody else made and that listens already.
    pub fn adopt(path: &Path, listener: StdListener) -> Result<(Self, UnixListener), ServeError> {
        let io_error = |source| ServeError::Io { path: path.into(), source };
        let bad = |cause: String| ServeError::HandedOver { path: path.into(), cause };
        let address = listener.local_addr().map_err(io_error)?;
        let found = address.as_pathname().ok_or_else(|| bad("it has no path".into()))?;
        if !is_same(found, path) {
            return Err(bad(format!("it is at {}", found.display())));
        }
        if !sockopt::socket_acceptconn(&listener).map_err(|error| io_error(error.into()))? {
            return Err(bad("it does not listen".into()));
        }
        let lock = lock(path)?;
        listener.set_nonblocking(true).map_err(io_error)?;
        let listener = UnixListener::from_std(listener).map_err(io_error)?;
        Ok((Self { path: path.into(), made: None, _lock: lock }, listener))
    }
}

/// The socket that systemd hands over to this process (sd_listen_fds(3)), if it does.
///
/// It takes LISTEN_PID and LISTEN_FDS out of the environment, which only a process with a single thread may do.
///
/// # Errors
/// [`ServeError::HandedOver`] when it is not exactly one Unix stream socket.
pub fn handed_over(path: &Path) -> Result<Option<StdListener>, ServeError> {
    let bad = |cause: String| ServeError::HandedOver { path: path.into(), cause };
    // The crate takes an absent LISTEN_PID for our own, and so a parent's variables that were left over.
    let meant = env::var("LISTEN_PID").is_ok_and(|pid| pid.parse() == Ok(std::process::id()));
    if !meant {
        return Ok(None);
    }
    let mut sockets = listenfd::ListenFd::from_env();
    match sockets.len() {
        0 => Ok(None),
        1 => sockets.take_unix_listener(0).map_err(|error| bad(error.to_string())),
        more => Err(bad(format!("{more} sockets were handed over, and telecon has one"))),
    }
}

fn is_same(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| fs::canonicalize(path).ok();
    one == other || real(one).is_some_and(|one| Some(one) == real(other))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let Ok(found) = fs::symlink_metadata(&self.path) else { return };
        if Some((found.dev(), found.ino())) == self.made
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(%error, "the control socket could not be removed");
        }
    }
}

/// Keeps daemons from starting on this socket for as long as the returned file is open. The socket's directory is made where it is
/// missing.
///
/// # Errors
/// [`ServeError::AlreadyRunning`] while a daemon has it, and everything about its directory.
pub fn lock(path: &Path) -> Result<File, ServeError> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    prepare_directory(dir)?;
    let mut lock_path = path.as_os_str().to_owned();
    lock_path.push(".lock");
    let lock_path = PathBuf::from(lock_path);
    let io_error = |source| ServeError::Io { path: lock_path.clone(), source };
    let mut options = OpenOptions::new();
    let lock = options.write(true).create(true).truncate(false).mode(0o600).open(&lock_path).map_err(io_error)?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(Errno::WOULDBLOCK) => Err(ServeError::AlreadyRunning { path: path.into() }),
        Err(error) => Err(io_error(error.into())),
    }
}

fn clear_stale(path: &Path) -> Result<(), ServeError> {
    let io_error = |source| ServeError::Io { path: path.into(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_error(error)),
        Ok(found) if !found.file_type().is_socket() => return Err(ServeError::NotASocket { path: path.into() }),
        Ok(_) => {}
    }
    match knock(path) {
        // A full backlog is somebody's, too.
        Ok(()) | Err(Errno::AGAIN | Errno::INPROGRESS) => Err(ServeError::AlreadyRunning { path: path.into() }),
        Err(Errno::CONNREFUSED) => fs::remove_file(path).map_err(io_error),
        Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(io_error(error.into())),
    }
}

/// Connects without ever waiting.
fn knock(path: &Path) -> Result<(), Errno> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)
}

/// Whether a connecting process may give orders: only the daemon's own user.
pub fn permitted(peer_uid: u32) -> bool {
    peer_uid == rustix::process::geteuid().as_raw()
}

/// The peer's user, as the kernel says (`SO_PEERCRED`).
pub fn peer_uid(stream: &tokio::net::UnixStream) -> io::Result<u32> {
    stream.peer_cred().map(|credentials| credentials.uid())
}

#[cfg(test)]
mod tests;
