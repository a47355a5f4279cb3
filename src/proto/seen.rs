//! Offers that were seen before: an offer rings once, whatever is replayed.

use std::collections::{BTreeSet, VecDeque};

use super::id::{Did, MessageId};

/// Offers of contacts that are remembered.
pub const MAX_CONTACTS: usize = 4_096;
/// Offers of strangers, apart, so that they cannot push out the others.
pub const MAX_STRANGERS: usize = 16_384;

/// Bounded memory of (sender, offer).
#[derive(Debug, Default)]
pub struct Seen {
    contacts: Shelf,
    strangers: Shelf,
}

#[derive(Debug, Default)]
struct Shelf {
    order: VecDeque<(Did, MessageId)>,
    known: BTreeSet<(Did, MessageId)>,
}

impl Seen {
    /// Takes over what was remembered before, oldest first.
    pub fn new(contacts: &[Did], seen: Vec<(Did, MessageId)>) -> Self {
        let mut all = Self::default();
        for (did, id) in seen {
            let known = contacts.contains(&did);
            all.insert(did, id, known);
        }
        all
    }

    /// Whether this offer was seen.
    pub fn contains(&self, from: &Did, id: MessageId) -> bool {
        let key = (from.clone(), id);
        self.contacts.known.contains(&key) || self.strangers.known.contains(&key)
    }

    /// Remembers an offer; the oldest of its kind is forgotten when there are too many.
    pub fn insert(&mut self, from: Did, id: MessageId, is_contact: bool) {
        let (shelf, most) =
            if is_contact { (&mut self.contacts, MAX_CONTACTS) } else { (&mut self.strangers, MAX_STRANGERS) };
        if !shelf.known.insert((from.clone(), id)) {
            return;
        }
        shelf.order.push_back((from, id));
        if shelf.order.len() > most
            && let Some(oldest) = shelf.order.pop_front()
        {
            shelf.known.remove(&oldest);
        }
    }
}
