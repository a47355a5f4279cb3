//! Calls that this device is in, left or missed, so that it can go back to them after a restart.
//!
//! Each holds its call key. Discarded ones are overwritten with zeros in the database itself (`secure_delete`); the write-ahead log
//! may hold them until it is folded in.

use rusqlite::params;
use tracing::warn;
use zeroize::Zeroizing;

use super::{Store, StoreError};
use crate::proto::{
    id::CallId,
    io::KeptCall,
    wire::{decode_kept, encode_kept},
};

/// Most calls that are kept; the one that was written longest ago goes first. The core keeps far fewer.
pub const MAX_KEPT_CALLS: u32 = 256;

impl Store {
    /// Writes a call down, over what was written of it before.
    pub fn keep_call(&mut self, kept: &KeptCall) -> Result<(), StoreError> {
        let Some(bytes) = encode_kept(kept) else {
            warn!(call = %kept.ticket.call, "a call beyond the protocol's limits is not kept");
            return Ok(());
        };
        self.write(|transaction| {
            // `REPLACE` gives it a new id, and with it the last place in the queue of those that go.
            transaction
                .prepare_cached("INSERT OR REPLACE INTO kept_calls (call, bytes) VALUES (?1, ?2)")?
                .execute(params![kept.ticket.call.to_string(), &bytes[..]])?;
            let surplus = "DELETE FROM kept_calls WHERE id IN
                           (SELECT id FROM kept_calls ORDER BY id DESC LIMIT -1 OFFSET ?1)";
            transaction.prepare_cached(surplus)?.execute([MAX_KEPT_CALLS]).map(drop)
        })
    }

    /// Forgets a call that was kept; one that was not is no error.
    pub fn discard_call(&mut self, call: CallId) -> Result<(), StoreError> {
        self.write(|transaction| {
            transaction.prepare_cached("DELETE FROM kept_calls WHERE call = ?1")?.execute([call.to_string()]).map(drop)
        })
    }

    /// Everything that was kept and not discarded, in the order in which it was written. What cannot be read is logged and dropped:
    /// one lost call is better than a daemon that does not start.
    pub fn kept_calls(&mut self) -> Result<Vec<KeptCall>, StoreError> {
        let rows = self.read(|db| {
            let mut query = db.prepare("SELECT call, bytes FROM kept_calls ORDER BY id")?;
            query.query_map([], |row| Ok((row.get(0)?, Zeroizing::new(row.get(1)?))))?.collect()
        })?;
        let rows: Vec<(String, Zeroizing<Vec<u8>>)> = rows;
        let mut calls = Vec::with_capacity(rows.len());
        for (call, bytes) in rows {
            match decode_kept(&bytes) {
                Ok(kept) if kept.ticket.call.to_string() == call => calls.push(kept),
                Ok(_) => self.drop_kept(&call, "it is another call's"),
                Err(error) => self.drop_kept(&call, &error.to_string()),
            }
        }
        Ok(calls)
    }

    fn drop_kept(&mut self, call: &str, why: &str) {
        warn!(?call, why, "a call that was kept cannot be read, and is forgotten");
        // Should that fail, the write has said so, and the next start comes here again.
        let _told =
            self.write(|transaction| transaction.execute("DELETE FROM kept_calls WHERE call = ?1", [call]).map(drop));
    }
}
