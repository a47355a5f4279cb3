//! What outlives the daemon: contacts, the seen-set (so that a replayed offer does not ring after a restart) and the event log.
//!
//! One SQLite file, `telecon.db` in the state directory (0600, WAL). It holds no keys and no call: calls end with the daemon.
//! A file that is not ours, is damaged or comes from a later version is refused and left as it is.
//!
//! Only the daemon's loop writes. A write is one transaction of a few rows into the WAL, without fsync (`synchronous = NORMAL`):
//! a killed daemon loses nothing, a power cut at most the last seconds.

use std::{
    io,
    path::{Path, PathBuf},
};

use rusqlite::Connection;

pub mod contacts;
mod events;
mod open;
mod seen;

pub use contacts::{Contact, ContactError, ContactName};
pub use events::{KEPT_EVENTS, read_events};
pub use seen::{SEEN_MS, Sender};

/// The database's name in the state directory.
pub const FILE_NAME: &str = "telecon.db";

/// The open database.
#[derive(Debug)]
pub struct Store {
    db: Connection,
    path: PathBuf,
}

/// Why the database cannot be used. Each sentence names the file, the cause and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The state directory or the file cannot be made or reached.
    #[error(
        "cannot use the database {path}: {source}; check the directory's owner, its permissions and the free space"
    )]
    Unreachable {
        /// The database.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Some other program's file.
    #[error("{path} is not a telecon database; move it away and start again")]
    Foreign {
        /// The database.
        path: PathBuf,
    },
    /// Truncated, overwritten in part, or otherwise broken.
    #[error(
        "the database {path} is damaged ({detail}); restore it from a backup, or move it away to start without contacts and history"
    )]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What SQLite found.
        detail: String,
    },
    /// Made by a later telecon.
    #[error(
        "the database {path} has version {found}, this telecon knows {known} at most; install the later telecon again, or move the file away"
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its `user_version`.
        found: i64,
        /// The latest that this build knows.
        known: i64,
    },
    /// The write-ahead log of a database that is gone: it must not be played onto a new one.
    #[error(
        "{wal} is there, but its database {path} is not; restore the database, or move the log away to start without contacts and history"
    )]
    LogAlone {
        /// The database that is missing.
        path: PathBuf,
        /// The log.
        wal: PathBuf,
    },
    /// Reading or writing failed.
    #[error("the database {path} failed: {source}; check the free space and the file's permissions")]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
}

impl Store {
    /// Opens `telecon.db` in `state_dir`, and makes both (0700, 0600) when they are not there. Later versions' files are refused,
    /// earlier ones are migrated.
    pub fn open(state_dir: &Path) -> Result<Self, StoreError> {
        let path = state_dir.join(FILE_NAME);
        let db = open::open_or_create(state_dir, &path)?;
        Ok(Self { db, path })
    }

    /// The database file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// From now on every write fails, as on a full disk.
    #[cfg(test)]
    pub(crate) fn break_for_tests(&self) {
        self.db.pragma_update(None, "query_only", true).unwrap();
    }

    fn failed(&self, source: rusqlite::Error) -> StoreError {
        open::explain(&self.path, source)
    }
}

#[cfg(test)]
mod tests;
