//! The contact list: who has a name here, and where their node can be dialled.

use std::{fmt, str::FromStr};

use libp2p::Multiaddr;
use rusqlite::{Row, params};
use serde::{Serialize, Serializer};

use super::{Store, StoreError, from_word, word};
use crate::{
    net::AddressError,
    proto::{id::Did, io::Policy},
    text::is_dangerous,
};

/// Longest contact name in characters.
pub const MAX_NAME_CHARS: usize = 64;
/// Most contacts; one more is refused. The whole list fits into one answer on the control socket (1 MiB).
pub const MAX_CONTACTS: usize = 1024;

/// A contact's name: trimmed, 1 to 64 characters, no control characters, not beginning with `did:`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ContactName(String);

/// Loudest that a participant is made, in percent of what it sends.
pub const MAX_VOLUME_PERCENT: u16 = 200;

/// Somebody whom this user knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Contact {
    /// Who.
    pub did: Did,
    /// What the user calls them; unique, whatever the case.
    pub name: ContactName,
    /// Where their node is dialled at start.
    pub address: Option<Multiaddr>,
    /// How their calls are taken.
    pub policy: Policy,
    /// How loud they are heard, 0 to [`MAX_VOLUME_PERCENT`].
    pub volume_percent: u16,
    /// They are not heard at all.
    pub audio_blocked: bool,
}

impl Contact {
    /// Somebody about whom nothing else was decided: rings, and is heard as loud as everybody.
    pub fn new(did: Did, name: ContactName, address: Option<Multiaddr>) -> Self {
        Self { did, name, address, policy: Policy::default(), volume_percent: 100, audio_blocked: false }
    }
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
        let rows: Vec<Option<Contact>> = self.read(|db| {
            let mut query = db.prepare_cached(&format!("SELECT {COLUMNS} FROM contacts ORDER BY folded"))?;
            query.query_map([], |row| Ok(parse(row)))?.collect()
        })?;
        rows.into_iter().collect::<Option<_>>().ok_or_else(|| self.unreadable("a contact"))
    }

    /// Adds a contact, or renames the one of that DID; an address that is left out stays as it was, and so does what was decided
    /// about a contact that is there already. Returns what is stored now.
    pub fn put_contact(&mut self, contact: &Contact) -> Result<Contact, ContactError> {
        let stored = self.put_contacts(std::slice::from_ref(contact))?;
        stored.into_iter().next().ok_or_else(|| self.unreadable("a contact").into())
    }

    /// Puts all of these, one after the other, as [`Self::put_contact`] does, or none. Returns what is stored of them now.
    pub fn put_contacts(&mut self, contacts: &[Contact]) -> Result<Vec<Contact>, ContactError> {
        let mut list = self.contacts()?;
        let merged = contacts.iter().map(|contact| merge(&mut list, contact)).collect::<Result<Vec<_>, _>>()?;
        let put = format!(
            "INSERT INTO contacts ({COLUMNS}, folded) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
             ON CONFLICT (did) DO UPDATE SET name = ?2, address = ?3, folded = ?7"
        );
        self.write(|transaction| {
            let mut put = transaction.prepare_cached(&put)?;
            for Contact { did, name, address, policy, volume_percent, audio_blocked } in &merged {
                let (address, policy) = (address.as_ref().map(Multiaddr::to_string), word(policy)?);
                let row = params![did.as_str(), name.0, address, policy, volume_percent, audio_blocked, name.folded()];
                put.execute(row)?;
            }
            Ok(())
        })?;
        Ok(merged)
    }

    /// Removes a contact; whether there was one.
    pub fn remove_contact(&mut self, did: &Did) -> Result<bool, StoreError> {
        self.write(|transaction| Ok(transaction.execute("DELETE FROM contacts WHERE did = ?1", [did.as_str()])? > 0))
    }

    /// Decides how a contact's calls are taken; whether there is such a contact.
    pub fn set_policy(&mut self, did: &Did, policy: Policy) -> Result<bool, StoreError> {
        self.write(|transaction| {
            let set = "UPDATE contacts SET policy = ?2 WHERE did = ?1";
            Ok(transaction.execute(set, params![did.as_str(), word(&policy)?])? > 0)
        })
    }

    /// Decides how loud a contact is heard, at most [`MAX_VOLUME_PERCENT`]; whether there is such a contact.
    pub fn set_volume(&mut self, did: &Did, percent: u16) -> Result<bool, StoreError> {
        self.write(|transaction| {
            let set = "UPDATE contacts SET volume_percent = ?2 WHERE did = ?1";
            Ok(transaction.execute(set, params![did.as_str(), percent.min(MAX_VOLUME_PERCENT)])? > 0)
        })
    }

    /// Decides whether a contact is heard at all; whether there is such a contact.
    pub fn set_audio_blocked(&mut self, did: &Did, blocked: bool) -> Result<bool, StoreError> {
        self.write(|transaction| {
            let set = "UPDATE contacts SET audio_blocked = ?2 WHERE did = ?1";
            Ok(transaction.execute(set, params![did.as_str(), blocked])? > 0)
        })
    }
}

const COLUMNS: &str = "did, name, address, policy, volume_percent, audio_blocked";

/// `None`: a row that nobody of ours wrote.
fn parse(row: &Row<'_>) -> Option<Contact> {
    let text = |at: usize| row.get::<_, String>(at).ok();
    let address: Option<String> = row.get(2).ok()?;
    Some(Contact {
        did: text(0)?.parse().ok()?,
        name: text(1)?.parse().ok()?,
        address: address.map(|text| text.parse()).transpose().ok()?,
        policy: from_word(&text(3)?)?,
        volume_percent: row.get(4).ok()?,
        audio_blocked: row.get(5).ok()?,
    })
}

/// Puts a contact into the list; returns what stands there now.
fn merge(list: &mut Vec<Contact>, new: &Contact) -> Result<Contact, ContactError> {
    let folded = new.name.folded();
    if let Some(owner) = list.iter().find(|known| known.did != new.did && known.name.folded() == folded) {
        return Err(ContactError::Taken { name: new.name.clone(), owner: Box::new(owner.did.clone()) });
    }
    if let Some(known) = list.iter_mut().find(|known| known.did == new.did) {
        known.name = new.name.clone();
        known.address = new.address.clone().or(known.address.take());
        return Ok(known.clone());
    }
    if list.len() >= MAX_CONTACTS {
        return Err(ContactError::TooMany);
    }
    let volume_percent = new.volume_percent.min(MAX_VOLUME_PERCENT);
    list.push(Contact { volume_percent, ..new.clone() });
    Ok(Contact { volume_percent, ..new.clone() })
}
