//! The event log: what clients were told, kept so that one that comes back can be told again.

use std::{path::Path, sync::Arc};

use rusqlite::{OptionalExtension, params};

use super::{Store, StoreError, history, open};
use crate::{
    control::wire::EventRecord,
    proto::{
        id::{CallId, Did},
        io::Event,
    },
};

/// Most events that are kept; the oldest go first.
pub const KEPT_EVENTS: u64 = 10_000;

impl Store {
    /// The number of the latest event; 0 when there was none.
    pub fn last_seq(&self) -> Result<u64, StoreError> {
        let last: i64 =
            self.read(|db| db.query_row("SELECT coalesce(max(seq), 0) FROM events", [], |row| row.get(0)))?;
        Ok(u64::try_from(last).unwrap_or(0))
    }

    /// The call whose recording has begun and was never told to have ended: the daemon was killed.
    pub fn unfinished_recording(&self) -> Result<Option<CallId>, StoreError> {
        let last = "SELECT json FROM events WHERE json ->> 'event' IN ('recording_started', 'recording_ended', 'recording_failed') \
                    ORDER BY seq DESC LIMIT 1";
        let last: Option<String> = self.read(|db| db.query_row(last, [], |row| row.get(0)).optional())?;
        let event = last.and_then(|json| serde_json::from_str(&json).ok());
        Ok(if let Some(Event::RecordingStarted { call }) = event { Some(call) } else { None })
    }

    /// Appends an event, writes what it means into the history, and drops what is more than [`KEPT_EVENTS`] behind it.
    /// `own`: this person.
    pub fn append_event(&mut self, record: &EventRecord, own: &Did) -> Result<(), StoreError> {
        self.write(|transaction| {
            let json = serde_json::to_string(&record.event)
                .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
            transaction
                .prepare_cached("INSERT OR REPLACE INTO events (seq, time_ms, json) VALUES (?1, ?2, ?3)")?
                .execute(params![record.seq as i64, record.time_ms as i64, json])?;
            transaction
                .prepare_cached("DELETE FROM events WHERE seq <= ?1")?
                .execute([record.seq.saturating_sub(KEPT_EVENTS) as i64])?;
            history::note(transaction, &record.event, own, record.time_ms)
        })
    }
}

/// Kept events with `after < seq < before`, oldest first, through a connection of their own: a long replay is read beside the
/// daemon's loop, not on it. Events of a kind that this version does not know are left out.
pub fn read_events(database: &Path, after: u64, before: u64) -> Result<Vec<Arc<EventRecord>>, StoreError> {
    let db = open::open_to_read(database)?;
    let read = || -> rusqlite::Result<Vec<(i64, i64, String)>> {
        let mut query = db.prepare("SELECT seq, time_ms, json FROM events WHERE seq > ?1 AND seq < ?2 ORDER BY seq")?;
        let bounds = [after, before].map(|seq| i64::try_from(seq).unwrap_or(i64::MAX));
        let rows = query.query_map(bounds, |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        rows.collect()
    };
    let rows = read().map_err(|error| open::explain(database, error))?;
    let known = rows.into_iter().filter_map(|(seq, time_ms, json)| {
        let (seq, time_ms) = (u64::try_from(seq).ok()?, u64::try_from(time_ms).ok()?);
        let event = serde_json::from_str(&json).ok()?;
        Some(Arc::new(EventRecord { seq, time_ms, event }))
    });
    Ok(known.collect())
}
