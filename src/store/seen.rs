//! The seen-set: which messages already reached this person, so that a replayed offer never rings again, restarts included.
//!
//! Envelopes are checked against the clock (±120 s), so what is older than ten minutes cannot be replayed and is forgotten.
//! Contacts and strangers have rooms of their own: strangers cannot push a contact's messages out. When a room is full, its oldest goes.

use rusqlite::params;

use super::{Store, StoreError};
use crate::proto::{
    id::{Did, MessageId},
    seen,
};

/// How long a message is remembered, in ms.
pub const SEEN_MS: u64 = 10 * 60 * 1000;

/// Which room a sender's messages are kept in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// In the contact list when the message came.
    Contact,
    /// Everybody else.
    Stranger,
}

impl Sender {
    fn room(self) -> (bool, u32) {
        match self {
            Self::Contact => (true, seen::MAX_CONTACTS as u32),
            Self::Stranger => (false, seen::MAX_STRANGERS as u32),
        }
    }
}

impl Store {
    /// All messages that were seen in the ten minutes before `now_ms` (unix time), oldest first.
    pub fn seen(&self, now_ms: u64) -> Result<Vec<(Did, MessageId)>, StoreError> {
        let rows: Vec<(String, [u8; 16])> = self.read(|db| {
            let sql = "SELECT sender, message FROM seen WHERE time_ms >= ?1 ORDER BY time_ms, id";
            let mut query = db.prepare_cached(sql)?;
            query.query_map([oldest(now_ms)], |row| row.try_into())?.collect()
        })?;
        let parsed = rows.into_iter().map(|(sender, message)| Some((sender.parse().ok()?, MessageId(message))));
        parsed.collect::<Option<_>>().ok_or_else(|| self.unreadable("its seen-set"))
    }

    /// Remembers a message before anything rings because of it, and forgets what is too old or too much.
    pub fn remember(&mut self, from: &Did, message: MessageId, sender: Sender, now_ms: u64) -> Result<(), StoreError> {
        let (contact, kept) = sender.room();
        self.write(|transaction| {
            transaction
                .prepare_cached(
                    "INSERT INTO seen (sender, message, contact, time_ms) VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT (sender, message) DO NOTHING",
                )?
                .execute(params![from.as_str(), message.0, contact, now_ms as i64])?;
            for room in [false, true] {
                transaction
                    .prepare_cached("DELETE FROM seen WHERE contact = ?1 AND time_ms < ?2")?
                    .execute(params![room, oldest(now_ms)])?;
            }
            transaction
                .prepare_cached(
                    "DELETE FROM seen WHERE id IN
                     (SELECT id FROM seen WHERE contact = ?1 ORDER BY time_ms DESC, id DESC LIMIT -1 OFFSET ?2)",
                )?
                .execute(params![contact, kept])
                .map(drop)
        })
    }
}

fn oldest(now_ms: u64) -> i64 {
    i64::try_from(now_ms.saturating_sub(SEEN_MS)).unwrap_or(i64::MAX)
}
