//! What clients ask about people: who they are, how their calls are taken, how they are heard.

use std::collections::BTreeMap;

use libp2p::Multiaddr;
use serde::Serialize;
use serde_json::json;

use super::{Answer, store_failed};
use crate::{
    audio::Gain,
    control::wire::{ContactEntry, Failure},
    daemon::{
        Daemon,
        resolve::{self, shown},
    },
    net,
    proto::{
        id::Did,
        io::{Event, Now, Policy},
    },
    store::{Contact, ContactError, ContactName, MAX_VOLUME_PERCENT},
};

impl Daemon {
    pub(super) fn add_contact(&mut self, did: &str, name: &str, address: Option<&str>, now: Now) -> Answer {
        let contact = self.contact(did, name, address)?;
        let stored = self.store.put_contact(&contact).map_err(refused)?;
        self.reload_contacts(now)?;
        Ok(json!(stored))
    }

    /// All of them, or none.
    pub(super) fn import_contacts(&mut self, entries: Vec<ContactEntry>, rename: bool, now: Now) -> Answer {
        let contacts = entries.into_iter().enumerate().map(|(at, entry)| {
            let named = |failure: Failure| Failure::new(&failure.code, format!("contact {}: {failure}", at + 1));
            self.imported(entry).map_err(named)
        });
        let contacts = contacts.collect::<Result<Vec<_>, _>>()?;
        let plan = plan(self.people.contacts(), &contacts, rename)?;
        let news = plan.added + plan.changed > 0;
        let answer = json!(plan);
        if news {
            self.store.put_contacts(&contacts).map_err(refused)?;
            self.reload_contacts(now)?;
        }
        Ok(answer)
    }

    pub(super) fn remove_contact(&mut self, who: &str, now: Now) -> Answer {
        let did = resolve::person(who, self.people.contacts())?;
        if !self.store.remove_contact(&did).map_err(store_failed)? {
            return Err(no_contact());
        }
        self.reload_contacts(now)?;
        Ok(json!({ "removed": did }))
    }

    pub(super) fn set_policy(&mut self, who: &str, policy: Policy, now: Now) -> Answer {
        let did = resolve::person(who, self.people.contacts())?;
        let before = self.people.contact(&did).map(|contact| contact.policy).ok_or_else(no_contact)?;
        if before != policy {
            self.store.set_policy(&did, policy).map_err(store_failed)?;
            self.reload_contacts(now)?;
        }
        Ok(json!(self.people.contact(&did)))
    }

    pub(super) fn volume(&mut self, who: &str, percent: u16, now: Now) -> Answer {
        if percent > MAX_VOLUME_PERCENT {
            let message = format!("{percent} % is too loud; say 0 to {MAX_VOLUME_PERCENT}, 100 is as it comes");
            return Err(Failure::new("bad_volume", message));
        }
        self.hear(who, |gain| Gain { percent, ..gain }, now)
    }

    pub(super) fn block_audio(&mut self, who: &str, blocked: bool, now: Now) -> Answer {
        self.hear(who, |gain| Gain { blocked, ..gain }, now)
    }

    /// Decides how somebody is heard: for good where it is a contact, until the daemon ends otherwise.
    fn hear(&mut self, who: &str, change: impl FnOnce(Gain) -> Gain, now: Now) -> Answer {
        let did = resolve::person(who, self.people.contacts())?;
        if did == self.did {
            return Err(Failure::new("own_did", "that is your own DID; to be heard less, turn your microphone down"));
        }
        let before = self.people.gain(&did);
        let Gain { percent, blocked } = change(before);
        if before != (Gain { percent, blocked }) {
            if self.people.contact(&did).is_some() {
                if percent != before.percent {
                    self.store.set_volume(&did, percent).map_err(store_failed)?;
                }
                if blocked != before.blocked {
                    self.store.set_audio_blocked(&did, blocked).map_err(store_failed)?;
                }
                let contacts = self.store.contacts().map_err(store_failed)?;
                self.people.replace_contacts(contacts);
            } else {
                self.people.set_gain(&did, Gain { percent, blocked });
            }
            self.apply_gains();
            self.tell(Event::VolumeChanged { did: did.clone(), percent, blocked }, now);
        }
        let name = self.people.name(&did);
        Ok(json!({ "did": did, "name": name, "volume_percent": percent, "audio_blocked": blocked }))
    }

    fn contact(&self, did: &str, name: &str, address: Option<&str>) -> Result<Contact, Failure> {
        let did = resolve::did(did)?;
        if did == self.did {
            return Err(Failure::new("own_did", "that is your own DID; add the DIDs of others"));
        }
        let name = name.parse().map_err(refused)?;
        let address = address.map(net::parse_address).transpose().map_err(ContactError::from).map_err(refused)?;
        // What was decided about a stranger holds when it gets a name.
        let Gain { percent, blocked } = self.people.gain(&did);
        Ok(Contact { volume_percent: percent, audio_blocked: blocked, ..Contact::new(did, name, address) })
    }

    fn imported(&self, entry: ContactEntry) -> Result<Contact, Failure> {
        let ContactEntry { did, name, address, policy, volume_percent, audio_blocked } = entry;
        let contact = self.contact(&did, &name, address.as_deref())?;
        if volume_percent.is_some_and(|percent| percent > MAX_VOLUME_PERCENT) {
            let message = format!("volume_percent is 0 to {MAX_VOLUME_PERCENT}, 100 is as it comes");
            return Err(Failure::new("bad_volume", message));
        }
        Ok(Contact {
            policy: policy.unwrap_or_default(),
            volume_percent: volume_percent.unwrap_or(contact.volume_percent),
            audio_blocked: audio_blocked.unwrap_or(contact.audio_blocked),
            ..contact
        })
    }

    fn reload_contacts(&mut self, now: Now) -> Result<(), Failure> {
        let contacts = self.store.contacts().map_err(store_failed)?;
        let before = self.people.replace_contacts(contacts);
        let dropped = dropped_addresses(&before, self.people.contacts(), &self.config.network.peers);
        self.net.forget(dropped);
        self.contacts_changed(now);
        self.tell(Event::ContactsChanged, now);
        Ok(())
    }
}

/// What an import does to the list.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Plan<'a> {
    added: usize,
    /// Renamed, or dialled at another address.
    changed: usize,
    unchanged: usize,
    renamed: Vec<Renamed<'a>>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Renamed<'a> {
    did: &'a Did,
    from: &'a ContactName,
    to: &'a ContactName,
}

/// Compares the list with what is imported. Somebody who is there under another name is renamed only where the user said so; how
/// the calls of those who are there are taken, and how they are heard, is not touched.
fn plan<'a>(known: &'a [Contact], imported: &'a [Contact], rename: bool) -> Result<Plan<'a>, Failure> {
    let mut plan = Plan::default();
    let mut list: BTreeMap<&Did, &Contact> = known.iter().map(|contact| (&contact.did, contact)).collect();
    for new in imported {
        match list.insert(&new.did, new) {
            None => plan.added += 1,
            Some(old) if old.name != new.name && !rename => {
                let message = format!(
                    "{} is called {} here and {} in the import; make them equal, or import with --rename",
                    new.did,
                    shown(old.name.as_str()),
                    shown(new.name.as_str())
                );
                return Err(Failure::new("contact_exists", message));
            }
            Some(old) if old.name != new.name => {
                plan.changed += 1;
                plan.renamed.push(Renamed { did: &new.did, from: &old.name, to: &new.name });
            }
            Some(old) if new.address.is_some() && old.address != new.address => plan.changed += 1,
            Some(_) => plan.unchanged += 1,
        }
    }
    Ok(plan)
}

fn no_contact() -> Failure {
    let message = "no contact has that DID; `telecon contacts list` shows all, `telecon contacts add DID NAME` adds it";
    Failure::new("unknown_contact", message)
}

pub(super) fn refused(error: ContactError) -> Failure {
    let code = match error {
        ContactError::Name => "bad_name",
        ContactError::Address(_) => "bad_address",
        ContactError::Taken { .. } => "contact_exists",
        ContactError::TooMany => "too_many_contacts",
        ContactError::Store(error) => return store_failed(error),
    };
    Failure::new(code, error.to_string())
}

/// Addresses that no contact has any more, and that are not kept for their own sake (`[network] peers`).
fn dropped_addresses(before: &[Contact], after: &[Contact], peers: &[String]) -> Vec<Multiaddr> {
    let still = |address: &Multiaddr| {
        after.iter().any(|contact| contact.address.as_ref() == Some(address)) || peers.contains(&address.to_string())
    };
    before.iter().filter_map(|contact| contact.address.clone()).filter(|address| !still(address)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::id::Did;

    #[test]
    fn an_address_is_forgotten_with_its_last_owner() {
        let address = |port: u16| format!("/ip4/192.0.2.7/tcp/{port}").parse::<Multiaddr>().unwrap();
        let contact = |seed: u8, port: u16| {
            let did = Did::from_key(ed25519_dalek::SigningKey::from_bytes(&[seed; 32]).verifying_key());
            Contact::new(did, format!("c{seed}").parse().unwrap(), Some(address(port)))
        };
        let before = [contact(1, 1), contact(2, 2), contact(3, 2), contact(4, 4)];
        let after = [contact(3, 2)];
        assert_eq!(dropped_addresses(&before, &after, &[address(4).to_string()]), [address(1)]);
    }
}
