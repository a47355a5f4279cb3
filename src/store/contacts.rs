//! The contact list: who has a name here, and where their node can be dialled.

use std::{fmt, str::FromStr};

use libp2p::Multiaddr;
use rusqlite::{OptionalExtension, params};
use serde::{Serialize, Serializer};

use super::{Store, StoreError};
use crate::{net::AddressError, proto::id::Did, text::is_dangerous};

/// Longest contact name in characters.
pub const MAX_NAME_CHARS: usize = 64;
/// Most contacts; one more is refused. The whole list fits into one answer on the control socket (1 MiB).
pub const MAX_CONTACTS: usize = 1024;

/// A contact's name: trimmed, 1 to 64 characters, no control characters, not beginning with `did:`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ContactName(String);

/// Somebody whom this user knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Contact {
    /// Who.
    pub did: Did,
    /// What the user calls them; unique, whatever the case.
    pub name: ContactName,
    /// Where their node is dialled at start.
    pub address: Option<Multiaddr>,
}

/// Why a contact was not stored. Nothing changed.
#[derive(Debug, thiserror::Error)]
pub enum ContactError {
    /// Empty, too long, or with characters that a terminal would obey.
    #[error(
        "a contact's name has 1 to {MAX_NAME_CHARS} characters, no control characters, and does not begin with did:"
    )]
    Name,
    /// Nothing that can be dialled.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The name belongs to somebody else.
    #[error("the name {name} is already {owner}'s; choose another, or remove that contact first")]
    Taken {
        /// The name.
        name: ContactName,
        /// Whose it is.
        owner: Box<Did>,
    },
    /// The list is full.
    #[error("there are {MAX_CONTACTS} contacts already; remove one first")]
    TooMany,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ContactName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The form in which names are compared.
    pub fn folded(&self) -> String {
        self.0.to_lowercase()
    }
}

impl FromStr for ContactName {
    type Err = ContactError;

    fn from_str(text: &str) -> Result<Self, ContactError> {
        let name = text.trim();
        let fits = (1..=MAX_NAME_CHARS).contains(&name.chars().count());
        let is_did = name.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("did:"));
        if !fits || is_did || name.chars().any(is_dangerous) {
            return Err(ContactError::Name);
        }
        Ok(Self(name.to_owned()))
    }
}

impl fmt::Display for ContactName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl Serialize for ContactName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl Store {
    /// All contacts by name.
    pub fn contacts(&self) -> Result<Vec<Contact>, StoreError> {
        let read = || -> rusqlite::Result<Vec<(String, String, Option<String>)>> {
            let mut query = self.db.prepare_cached("SELECT did, name, address FROM contacts ORDER BY folded")?;
            let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
            rows.collect()
        };
        let rows = read().map_err(|error| self.failed(error))?;
        rows.into_iter().map(|row| self.parse_contact(row)).collect()
    }

    /// Adds a contact, or renames the one of that DID; an address that is left out stays as it was. Returns what is stored now.
    pub fn put_contact(&mut self, contact: &Contact) -> Result<Contact, ContactError> {
        let folded = contact.name.folded();
        let taken = "SELECT did FROM contacts WHERE folded = ?1 AND did != ?2";
        let owner: Option<String> = self
            .db
            .query_row(taken, params![folded, contact.did.as_str()], |row| row.get(0))
            .optional()
            .map_err(|error| self.failed(error))?;
        if let Some(owner) = owner {
            let owner = Box::new(owner.parse().map_err(|_| self.unreadable_row())?);
            return Err(ContactError::Taken { name: contact.name.clone(), owner });
        }
        let before = self.contacts()?;
        if before.len() >= MAX_CONTACTS && !before.iter().any(|known| known.did == contact.did) {
            return Err(ContactError::TooMany);
        }
        let put = "INSERT INTO contacts (did, name, folded, address) VALUES (?1, ?2, ?3, ?4)
                   ON CONFLICT (did) DO UPDATE SET name = ?2, folded = ?3, address = coalesce(?4, address)";
        let address = contact.address.as_ref().map(Multiaddr::to_string);
        self.db
            .execute(put, params![contact.did.as_str(), contact.name.as_str(), folded, address])
            .map_err(|error| self.failed(error))?;
        let kept = before.into_iter().find(|known| known.did == contact.did).and_then(|known| known.address);
        Ok(Contact { address: contact.address.clone().or(kept), ..contact.clone() })
    }

    /// Removes a contact; whether there was one.
    pub fn remove_contact(&mut self, did: &Did) -> Result<bool, StoreError> {
        let removed = self.db.execute("DELETE FROM contacts WHERE did = ?1", [did.as_str()]);
        removed.map(|rows| rows > 0).map_err(|error| self.failed(error))
    }

    fn parse_contact(&self, (did, name, address): (String, String, Option<String>)) -> Result<Contact, StoreError> {
        let did = did.parse().map_err(|_| self.unreadable_row())?;
        let name = name.parse().map_err(|_| self.unreadable_row())?;
        let address = address.map(|text| text.parse()).transpose().map_err(|_| self.unreadable_row())?;
        Ok(Contact { did, name, address })
    }

    fn unreadable_row(&self) -> StoreError {
        StoreError::Damaged { path: self.path.clone(), detail: "a contact in it is unreadable".into() }
    }
}
