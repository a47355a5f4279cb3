//! What the user switched and what outlives the daemon, apart from the configuration file: that one is the user's own to write.

use super::{Store, StoreError};
use crate::audio::Role;

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

    /// The device that the user chose; `None`: what the configuration says.
    pub fn device(&self, role: Role) -> Result<Option<String>, StoreError> {
        let column = device_column(role);
        self.read(|db| db.query_row(&format!("SELECT {column} FROM settings"), [], |row| row.get(0)))
    }

    /// Chooses a device, or what the configuration says.
    pub fn set_device(&mut self, role: Role, name: Option<&str>) -> Result<(), StoreError> {
        let column = device_column(role);
        self.write(|transaction| transaction.execute(&format!("UPDATE settings SET {column} = ?1"), [name]).map(drop))
    }
}

fn device_column(role: Role) -> &'static str {
    match role {
        Role::Input => "audio_input",
        Role::Output => "audio_output",
        Role::Ring => "audio_ring",
    }
}
