//! What outlives the daemon: contacts and what was decided about them, the seen-set (so that a replayed offer does not ring after a
//! restart), the event log, the history, the calls that can be gone back to, answers to requests, a few settings.
//!
//! One SQLite file, `telecon.db` in the state directory (0600, WAL). It holds no key of the person, but the keys of the calls that
//! this device is in, or could go back to. A file that is not ours, is damaged or comes from a later version is refused and left as
//! it is.
//!
//! Only the daemon's loop writes. A write is one transaction of a few rows into the WAL, without fsync (`synchronous = NORMAL`):
//! a killed daemon loses nothing, a power cut at most the last seconds. The first of a row of writes that fail is logged here; who
//! asked for it decides what a failure means, and for calls it means nothing.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, Transaction, TransactionBehavior};
use serde::{Serialize, de::DeserializeOwned};
use tracing::{error, info};

use crate::private::DirectoryError;

mod answers;
pub mod contacts;
mod events;
mod history;
mod kept;
mod migrations;
mod open;
mod seen;
mod settings;

pub use answers::{ANSWER_MS, KEPT_ANSWERS, KeptAnswer};
pub use contacts::{Contact, ContactError, ContactName, MAX_VOLUME_PERCENT};
pub use events::{KEPT_EVENTS, read_events};
pub use history::{Direction, HistoryEntry, KEPT_HISTORY, Outcome};
pub use kept::MAX_KEPT_CALLS;
pub use seen::{SEEN_MS, Sender};

/// The database's name in the state directory.
pub const FILE_NAME: &str = "telecon.db";

/// The open database.
#[derive(Debug)]
pub struct Store {
    db: Connection,
    path: PathBuf,
    /// The last write failed, which was logged.
    failing: bool,
}

/// Why the database cannot be used. Each sentence names the file, the cause and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The state directory.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The file cannot be made or reached.
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
    /// Another program holds the lock.
    #[error("another program has locked the database {path}; close it (a backup, an sqlite3?), then try again")]
    Locked {
        /// The database.
        path: PathBuf,
    },
    /// No space is left.
    #[error("the disk is full: the database {path} cannot be written; free some space, then try again")]
    Full {
        /// The database.
        path: PathBuf,
    },
    /// The file or its disk cannot be written.
    #[error(
        "the database {path} is read-only; check the file's permissions, and whether its disk is mounted for writing"
    )]
    ReadOnly {
        /// The database.
        path: PathBuf,
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
    /// earlier ones are migrated. What a former daemon left open in the history is closed.
    pub fn open(state_dir: &Path) -> Result<Self, StoreError> {
        let path = state_dir.join(FILE_NAME);
        let db = open::open_or_create(state_dir, &path)?;
        let mut store = Self { db, path, failing: false };
        store.close_history()?;
        Ok(store)
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

    /// Does all of `work`, or nothing.
    fn write<T>(&mut self, work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        let transaction = self.db.transaction_with_behavior(TransactionBehavior::Immediate);
        let done = transaction.and_then(|transaction| {
            let done = work(&transaction)?;
            transaction.commit()?;
            Ok(done)
        });
        let done = done.map_err(|source| open::explain(&self.path, source));
        self.note_health(done.as_ref().err());
        done
    }

    fn read<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        work(&self.db).map_err(|source| open::explain(&self.path, source))
    }

    /// Logs when writes begin to fail, and when they work again. While somebody else holds the lock only the first write waits for
    /// it: the loop that writes has calls to look after.
    fn note_health(&mut self, failure: Option<&StoreError>) {
        match failure {
            Some(failure) if !self.failing => {
                error!(error = %failure, "what happens now will be missing in the database; calls go on");
            }
            None if self.failing => info!("the database can be written again"),
            Some(_) | None => {}
        }
        if failure.is_some() || self.failing {
            let patience = if failure.is_some() { Duration::ZERO } else { open::BUSY_TIMEOUT };
            // It sets a number, and cannot fail.
            let _set = self.db.busy_timeout(patience);
        }
        self.failing = failure.is_some();
    }

    fn unreadable(&self, what: &str) -> StoreError {
        StoreError::Damaged { path: self.path.clone(), detail: format!("{what} in it is unreadable") }
    }
}

/// The word that stands for a value in the database: the same that clients are told.
fn word<T: Serialize>(value: &T) -> rusqlite::Result<String> {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => Ok(word),
        Ok(other) => Err(rusqlite::Error::ToSqlConversionFailure(format!("{other} is no word").into())),
        Err(error) => Err(rusqlite::Error::ToSqlConversionFailure(error.into())),
    }
}

fn from_word<T: DeserializeOwned>(word: &str) -> Option<T> {
    serde_json::from_value(word.into()).ok()
}

#[cfg(test)]
mod tests;
