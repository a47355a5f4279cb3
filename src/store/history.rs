//! The history: one row for each call that was made or that came, with what became of it.
//!
//! Rows follow from events alone, in the transaction that logs the event. A call that is joined again goes on in its row.

use rusqlite::{Row, Transaction, params};
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::{Store, StoreError, from_word, word};
use crate::proto::{
    id::{CallId, Did},
    io::{EndReason, Event, ParticipantState},
    signal::MAX_PARTICIPANTS,
};

/// Most calls in the history; those that began first go first.
pub const KEPT_HISTORY: u32 = 10_000;

/// Who made a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// This person.
    Out,
    /// Somebody else.
    In,
}

/// What became of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The daemon ended in it.
    Interrupted,
    /// It ended here for that reason.
    #[serde(untagged)]
    Ended(EndReason),
}

/// A call in the history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// The call.
    pub call: CallId,
    /// Who made it.
    pub direction: Direction,
    /// Who invited this person; the own DID where the call was made here.
    pub from: Did,
    /// Everyone who was invited or took part, as far as known here; the own DID left out.
    pub participants: Vec<Did>,
    /// It was made here, or its inviter was a contact when it came.
    pub known: bool,
    /// When it was offered or came, unix time in ms.
    pub started_ms: u64,
    /// When this device first joined it, or first met somebody in a call that it offered; unix time in ms.
    pub joined_ms: Option<u64>,
    /// When it ended here, unix time in ms; `None` while it goes on.
    pub ended_ms: Option<u64>,
    /// What became of it; `None` while it goes on.
    pub outcome: Option<Outcome>,
}

impl Store {
    /// The latest calls that began before `before_ms` (unix time), latest first, at most `limit`.
    pub fn history(&self, limit: u32, before_ms: Option<u64>) -> Result<Vec<HistoryEntry>, StoreError> {
        let before = before_ms.and_then(|ms| i64::try_from(ms).ok()).unwrap_or(i64::MAX);
        let sql = "SELECT call, direction, inviter, participants, known, started_ms, joined_ms, ended_ms, outcome
                   FROM history WHERE started_ms < ?1 ORDER BY started_ms DESC, call LIMIT ?2";
        let rows: Vec<Option<HistoryEntry>> = self.read(|db| {
            let mut query = db.prepare_cached(sql)?;
            query.query_map(params![before, limit], |row| Ok(entry(row)))?.collect()
        })?;
        if rows.contains(&None) {
            warn!("some calls of the history cannot be read; they are left out");
        }
        Ok(rows.into_iter().flatten().collect())
    }

    /// Closes what a daemon that was killed left open, at the time of the last event that it logged. A call that is joined again by
    /// itself is opened again by its event.
    pub(super) fn close_history(&mut self) -> Result<(), StoreError> {
        let last = "SELECT coalesce(max(time_ms), 0) FROM events";
        let close = format!(
            "UPDATE history SET outcome = ?1, ended_ms = max(started_ms, coalesce(joined_ms, 0), ({last}))
             WHERE ended_ms IS NULL"
        );
        self.write(|transaction| transaction.execute(&close, [word(&Outcome::Interrupted)?]).map(drop))
    }
}

/// Writes what an event means for the history; most mean nothing.
pub(super) fn note(db: &Transaction<'_>, event: &Event, own: &Did, time_ms: u64) -> rusqlite::Result<()> {
    match event {
        Event::CallOffered { call, invitees } => {
            begin(db, &Beginning { call, direction: Direction::Out, from: own, known: true, time_ms })?;
            add(db, call, own, invitees)
        }
        Event::CallRang { call, from, participants, known } => {
            begin(db, &Beginning { call, direction: Direction::In, from, known: *known, time_ms })?;
            add(db, call, own, participants)
        }
        Event::CallSilenced { call, from, participants, known } => {
            begin(db, &Beginning { call, direction: Direction::In, from, known: *known, time_ms })?;
            add(db, call, own, participants)?;
            // No end is told of those whose caller thinks that they ring.
            end(db, call, Outcome::Ended(EndReason::Silenced), time_ms)
        }
        Event::CallInvited { call, invitees } => add(db, call, own, invitees),
        Event::ParticipantChanged { call, did, state } => {
            add(db, call, own, std::slice::from_ref(did))?;
            if *state == ParticipantState::Joined { meet(db, call, time_ms) } else { Ok(()) }
        }
        Event::CallJoined { call } => join(db, call, time_ms),
        Event::CallEnded { call, reason } => end(db, call, Outcome::Ended(*reason), time_ms),
        Event::CallInterrupted { call, .. } => end(db, call, Outcome::Interrupted, time_ms),
        Event::CallHeld { .. }
        | Event::CallResumed { .. }
        | Event::NoConnection { .. }
        | Event::ParticipantDeclined { .. }
        | Event::ParticipantMedia { .. }
        | Event::RecordingStarted { .. }
        | Event::RecordingEnded { .. }
        | Event::RecordingFailed { .. }
        | Event::MediaChanged { .. }
        | Event::DoNotDisturbChanged { .. }
        | Event::TalkedWhileMuted
        | Event::ParticipantSpeaking { .. }
        | Event::AudioChanged { .. }
        | Event::ContactsChanged
        | Event::VolumeChanged { .. }
        | Event::EventsMarked { .. } => Ok(()),
    }
}

struct Beginning<'a> {
    call: &'a CallId,
    direction: Direction,
    from: &'a Did,
    known: bool,
    time_ms: u64,
}

/// A call that rings once more (its inviter asked again) goes on in its row.
fn begin(db: &Transaction<'_>, new: &Beginning<'_>) -> rusqlite::Result<()> {
    let sql = "INSERT INTO history (call, direction, inviter, participants, known, started_ms)
               VALUES (?1, ?2, ?3, '[]', ?4, ?5)
               ON CONFLICT (call) DO UPDATE SET ended_ms = NULL, outcome = NULL";
    let (call, direction) = (new.call.to_string(), word(&new.direction)?);
    db.prepare_cached(sql)?.execute(params![call, direction, new.from.as_str(), new.known, new.time_ms as i64])?;
    let surplus = "DELETE FROM history WHERE call IN
                   (SELECT call FROM history ORDER BY started_ms DESC, call LIMIT -1 OFFSET ?1)";
    db.prepare_cached(surplus)?.execute([KEPT_HISTORY]).map(drop)
}

/// Adds whoever is not there yet, as many as a call can have.
fn add(db: &Transaction<'_>, call: &CallId, own: &Did, dids: &[Did]) -> rusqlite::Result<()> {
    let sql = "UPDATE history SET participants = json_insert(participants, '$[#]', ?2)
               WHERE call = ?1 AND json_array_length(participants) < ?3
               AND NOT EXISTS (SELECT 1 FROM json_each(participants) WHERE value = ?2)";
    let mut add = db.prepare_cached(sql)?;
    for did in dids.iter().filter(|did| *did != own) {
        add.execute(params![call.to_string(), did.as_str(), MAX_PARTICIPANTS as i64])?;
    }
    Ok(())
}

fn join(db: &Transaction<'_>, call: &CallId, time_ms: u64) -> rusqlite::Result<()> {
    let sql = "UPDATE history SET joined_ms = coalesce(joined_ms, ?2), ended_ms = NULL, outcome = NULL WHERE call = ?1";
    db.prepare_cached(sql)?.execute(params![call.to_string(), time_ms as i64]).map(drop)
}

/// Who offers a call is in it from the start: it is joined when somebody is there.
fn meet(db: &Transaction<'_>, call: &CallId, time_ms: u64) -> rusqlite::Result<()> {
    let sql = "UPDATE history SET joined_ms = coalesce(joined_ms, ?2) WHERE call = ?1";
    db.prepare_cached(sql)?.execute(params![call.to_string(), time_ms as i64]).map(drop)
}

/// A call ends once; only an interruption is replaced by what became of the call after it.
fn end(db: &Transaction<'_>, call: &CallId, outcome: Outcome, time_ms: u64) -> rusqlite::Result<()> {
    let sql = "UPDATE history SET outcome = ?2, ended_ms = max(started_ms, ?3)
               WHERE call = ?1 AND (ended_ms IS NULL OR (outcome = ?4 AND outcome != ?2))";
    let interrupted = word(&Outcome::Interrupted)?;
    db.prepare_cached(sql)?.execute(params![call.to_string(), word(&outcome)?, time_ms as i64, interrupted]).map(drop)
}

/// `None`: a row that nobody of ours wrote.
fn entry(row: &Row<'_>) -> Option<HistoryEntry> {
    let text = |at: usize| row.get::<_, String>(at).ok();
    let time = |at: usize| row.get::<_, Option<i64>>(at).ok().map(|ms| ms.and_then(|ms| u64::try_from(ms).ok()));
    let outcome: Option<String> = row.get(8).ok()?;
    Some(HistoryEntry {
        call: text(0)?.parse().ok()?,
        direction: from_word(&text(1)?)?,
        from: text(2)?.parse().ok()?,
        participants: serde_json::from_str(&text(3)?).ok()?,
        known: row.get(4).ok()?,
        started_ms: time(5)??,
        joined_ms: time(6)?,
        ended_ms: time(7)?,
        outcome: match outcome {
            Some(word) => Some(from_word(&word)?),
            None => None,
        },
    })
}
