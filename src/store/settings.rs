//! What the user switched and what outlives the daemon, apart from the configuration file: that one is the user's own to write.

use super::{Store, StoreError};

impl Store {
    /// The user wants to hear no calls; off at first.
    pub fn do_not_disturb(&self) -> Result<bool, StoreError> {
        self.read(|db| db.query_row("SELECT do_not_disturb FROM settings", [], |row| row.get(0)))
    }

    /// Switches do-not-disturb.
    pub fn set_do_not_disturb(&mut self, on: bool) -> Result<(), StoreError> {
        self.write(|transaction| transaction.execute("UPDATE settings SET do_not_disturb = ?1", [on]).map(drop))
    }

    /// Up to which event the user has taken notice; 0 at first.
    pub fn marked_seq(&self) -> Result<u64, StoreError> {
        let seq: i64 = self.read(|db| db.query_row("SELECT marked_seq FROM settings", [], |row| row.get(0)))?;
        Ok(u64::try_from(seq).unwrap_or(0))
    }

    /// Marks the events up to this one; they stay where they are.
    pub fn mark_seq(&mut self, seq: u64) -> Result<(), StoreError> {
        let seq = i64::try_from(seq).unwrap_or(i64::MAX);
        self.write(|transaction| transaction.execute("UPDATE settings SET marked_seq = ?1", [seq]).map(drop))
    }
}
