//! Who is who here: names, how their calls are taken, how loud they are heard, who speaks now.
//!
//! A copy of the store's contacts, so that nothing waits for the disk; and what was decided about how others are heard, which
//! lasts as long as the daemon runs.

use std::collections::{BTreeMap, VecDeque};

use libp2p::Multiaddr;

use crate::{
    audio::Gain,
    proto::{
        id::{CallId, Did, LegId},
        io::Policy,
    },
    store::Contact,
};

/// People without a name here whose volume was set; the oldest are forgotten.
const MAX_OTHERS: usize = 256;

/// Everybody whom something is known of.
#[derive(Debug, Default)]
pub(super) struct People {
    contacts: Vec<Contact>,
    others: VecDeque<(Did, Gain)>,
    /// In which call; `None` is the user. Bounded as the legs are.
    speaking: BTreeMap<Option<LegId>, (CallId, Did)>,
}

impl People {
    /// Only contacts, as the store has them.
    pub(super) fn new(contacts: Vec<Contact>) -> Self {
        Self { contacts, ..Self::default() }
    }

    /// The other end of a leg, or the user, is heard.
    pub(super) fn begins_to_speak(&mut self, who: Option<LegId>, call: CallId, did: Did) {
        self.speaking.insert(who, (call, did));
    }

    /// Not any more; in which call that was, and who it is.
    pub(super) fn ceases_to_speak(&mut self, who: Option<LegId>) -> Option<(CallId, Did)> {
        self.speaking.remove(&who)
    }

    /// The user is heard by the others.
    pub(super) fn user_speaks(&self) -> bool {
        self.speaking.contains_key(&None)
    }

    /// That participant is heard.
    pub(super) fn speaks(&self, call: CallId, did: &Did) -> bool {
        self.speaking.values().any(|(in_call, who)| (*in_call, who) == (call, did))
    }

    /// All contacts by name.
    pub(super) fn contacts(&self) -> &[Contact] {
        &self.contacts
    }

    /// Takes the store's list; returns the former one.
    pub(super) fn replace_contacts(&mut self, contacts: Vec<Contact>) -> Vec<Contact> {
        std::mem::replace(&mut self.contacts, contacts)
    }

    /// Whose name it is.
    pub(super) fn contact(&self, did: &Did) -> Option<&Contact> {
        self.contacts.iter().find(|contact| contact.did == *did)
    }

    /// What a person is called here.
    pub(super) fn name(&self, did: &Did) -> Option<&str> {
        self.contact(did).map(|contact| contact.name.as_str())
    }

    /// How the contacts' calls are taken.
    pub(super) fn policies(&self) -> Vec<(Did, Policy)> {
        self.contacts.iter().map(|contact| (contact.did.clone(), contact.policy)).collect()
    }

    /// Where contacts are dialled.
    pub(super) fn addresses(&self) -> Vec<Multiaddr> {
        self.contacts.iter().filter_map(|contact| contact.address.clone()).collect()
    }

    /// How a person is heard.
    pub(super) fn gain(&self, did: &Did) -> Gain {
        if let Some(contact) = self.contact(did) {
            return Gain { percent: contact.volume_percent, blocked: contact.audio_blocked };
        }
        self.others.iter().find(|(other, _)| other == did).map_or_else(Gain::default, |(_, gain)| *gain)
    }

    /// Decides how somebody without a name here is heard.
    pub(super) fn set_gain(&mut self, did: &Did, gain: Gain) {
        self.others.retain(|(other, _)| other != did);
        if gain == Gain::default() {
            return;
        }
        if self.others.len() == MAX_OTHERS {
            self.others.pop_front();
        }
        self.others.push_back((did.clone(), gain));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::views::samples::{contact, did_of};

    #[test]
    fn a_contact_is_heard_as_the_store_says_and_others_as_was_said_last() {
        let quiet = Contact { volume_percent: 30, audio_blocked: true, ..contact(2, "Bob") };
        let mut people = People::new(vec![quiet]);
        assert_eq!(people.gain(&did_of(2)), Gain { percent: 30, blocked: true });
        assert_eq!(people.gain(&did_of(3)), Gain { percent: 100, blocked: false });
        for percent in [150, 50] {
            people.set_gain(&did_of(3), Gain { percent, blocked: false });
        }
        assert_eq!((people.gain(&did_of(3)).percent, people.others.len()), (50, 1));
        people.set_gain(&did_of(3), Gain::default());
        assert!(people.others.is_empty(), "as it comes is nothing to remember");
    }

    #[test]
    fn what_is_known_of_people_without_a_name_is_bounded() {
        let did = |at: u16| {
            let seed: Vec<u8> = at.to_be_bytes().repeat(16);
            Did::from_key(ed25519_dalek::SigningKey::from_bytes(&seed.try_into().unwrap()).verifying_key())
        };
        let mut people = People::default();
        for at in 0..=MAX_OTHERS as u16 {
            people.set_gain(&did(at), Gain { percent: 50, blocked: false });
        }
        assert_eq!(people.others.len(), MAX_OTHERS);
        assert_eq!((people.gain(&did(0)).percent, people.gain(&did(1)).percent), (100, 50));
    }
}
