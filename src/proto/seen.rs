//! Offers that were seen before: an offer rings once, whatever is replayed; and the bounded memory that serves for more.

use std::collections::{BTreeSet, VecDeque};

use super::id::{Did, MessageId};

/// Offers of contacts that are remembered.
pub const MAX_CONTACTS: usize = 4_096;
/// Offers of strangers, apart, so that they cannot push out the others.
pub const MAX_STRANGERS: usize = 16_384;

/// Bounded memory of (sender, offer).
#[derive(Debug)]
pub struct Seen {
    contacts: Recent<(Did, MessageId)>,
    strangers: Recent<(Did, MessageId)>,
}

impl Seen {
    /// Takes over what was remembered before, oldest first.
    pub fn new(contacts: &[Did], seen: Vec<(Did, MessageId)>) -> Self {
        let mut all = Self { contacts: Recent::new(MAX_CONTACTS), strangers: Recent::new(MAX_STRANGERS) };
        for (did, id) in seen {
            let known = contacts.contains(&did);
            all.insert(did, id, known);
        }
        all
    }

    /// Whether this offer was seen.
    pub fn contains(&self, from: &Did, id: MessageId) -> bool {
        let key = (from.clone(), id);
        self.contacts.contains(&key) || self.strangers.contains(&key)
    }

    /// Remembers an offer; the oldest of its kind is forgotten when there are too many.
    pub fn insert(&mut self, from: Did, id: MessageId, is_contact: bool) {
        let memory = if is_contact { &mut self.contacts } else { &mut self.strangers };
        memory.insert((from, id));
    }
}

/// The latest of something; the oldest is forgotten beyond `capacity`.
#[derive(Debug)]
pub struct Recent<T> {
    capacity: usize,
    order: VecDeque<T>,
    known: BTreeSet<T>,
}

impl<T: Ord + Clone> Recent<T> {
    /// An empty memory.
    pub fn new(capacity: usize) -> Self {
        Self { capacity, order: VecDeque::new(), known: BTreeSet::new() }
    }

    /// Whether it is remembered.
    pub fn contains(&self, item: &T) -> bool {
        self.known.contains(item)
    }

    /// Remembers it; true the first time.
    pub fn insert(&mut self, item: T) -> bool {
        if !self.known.insert(item.clone()) {
            return false;
        }
        self.order.push_back(item);
        if self.order.len() > self.capacity
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}
