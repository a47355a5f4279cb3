//! The answers that were given under a `request_key`, so that the same request again gets the first one, over restarts too.
//!
//! The daemon reads them once at its start and then only adds; it looks them up in its own memory, which works without a disk.

use rusqlite::params;
use serde_json::Value;
use tracing::warn;

use super::{Store, StoreError};

/// Most answers that are kept; the oldest go first.
pub const KEPT_ANSWERS: usize = 1000;
/// How long an answer is kept, in ms.
pub const ANSWER_MS: u64 = 24 * 3600 * 1000;

/// An answer, and what it was an answer to.
#[derive(Debug, Clone, PartialEq)]
pub struct KeptAnswer {
    /// The client's `request_key`.
    pub key: String,
    /// A hash of the request.
    pub asked: [u8; 32],
    /// The answer, success or failure.
    pub answer: Value,
    /// When it was given, unix time in ms.
    pub time_ms: u64,
}

impl Store {
    /// Keeps an answer, and forgets those that are too old or too many.
    pub fn keep_answer(&mut self, kept: &KeptAnswer) -> Result<(), StoreError> {
        let json = kept.answer.to_string();
        self.write(|transaction| {
            transaction
                .prepare_cached("INSERT OR REPLACE INTO answers (key, asked, json, time_ms) VALUES (?1, ?2, ?3, ?4)")?
                .execute(params![kept.key, kept.asked, json, kept.time_ms as i64])?;
            transaction.prepare_cached("DELETE FROM answers WHERE time_ms < ?1")?.execute([oldest(kept.time_ms)])?;
            let surplus = "DELETE FROM answers WHERE id IN
                           (SELECT id FROM answers ORDER BY id DESC LIMIT -1 OFFSET ?1)";
            transaction.prepare_cached(surplus)?.execute([KEPT_ANSWERS as i64]).map(drop)
        })
    }

    /// The answers that are not too old at `now_ms`, oldest first. One that cannot be read is logged and left out.
    pub fn answers(&self, now_ms: u64) -> Result<Vec<KeptAnswer>, StoreError> {
        let rows: Vec<(String, [u8; 32], String, i64)> = self.read(|db| {
            let mut query =
                db.prepare("SELECT key, asked, json, time_ms FROM answers WHERE time_ms >= ?1 ORDER BY id")?;
            query.query_map([oldest(now_ms)], |row| row.try_into())?.collect()
        })?;
        let parsed = rows.into_iter().filter_map(|(key, asked, json, time_ms)| match serde_json::from_str(&json) {
            Ok(answer) => Some(KeptAnswer { key, asked, answer, time_ms: u64::try_from(time_ms).unwrap_or(0) }),
            Err(error) => {
                warn!(%error, "the answer to a former request cannot be read");
                None
            }
        });
        Ok(parsed.collect())
    }
}

fn oldest(now_ms: u64) -> i64 {
    i64::try_from(now_ms.saturating_sub(ANSWER_MS)).unwrap_or(i64::MAX)
}
