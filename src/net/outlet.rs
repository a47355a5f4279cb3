//! What the daemon is told. Never blocks the swarm, never grows.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tokio::sync::mpsc;

use super::{NetEvent, counters::Counters, gossip::Topics};

/// Topics published to that are remembered, so that subscriptions to them are never dropped.
const MAX_PUBLISHED: usize = 1024;
/// Subscriptions of strangers to topics that we have nothing to do with, waiting to be told.
const MAX_OTHERS: usize = 1024;

/// Gossip messages are dropped when the channel is full. Everything else is kept as a set of facts and told when there
/// is room again: a topic that several peers subscribed to meanwhile is told once.
pub(super) struct Outlet {
    events: mpsc::Sender<NetEvent>,
    counters: Arc<Counters>,
    topics: Topics,
    /// With the time (a plain count) of the latest use; bounded by [`MAX_PUBLISHED`], the longest unused is dropped.
    published: BTreeMap<String, u64>,
    uses: u64,
    /// Bounded by the own subscriptions, [`MAX_PUBLISHED`] and [`MAX_OTHERS`].
    subscribed: BTreeSet<String>,
    listen_changed: bool,
}

impl Outlet {
    pub fn new(events: mpsc::Sender<NetEvent>, counters: Arc<Counters>, topics: Topics) -> Self {
        Self {
            events,
            counters,
            topics,
            published: BTreeMap::new(),
            uses: 0,
            subscribed: BTreeSet::new(),
            listen_changed: false,
        }
    }

    pub fn message(&mut self, topic: String, bytes: Vec<u8>) {
        self.flush();
        match self.events.try_send(NetEvent::Message { topic, bytes }) {
            Ok(()) => self.counters.delivered.add(),
            Err(_full_or_closed) => self.counters.events_full.add(),
        }
    }

    pub fn subscribed(&mut self, topic: &str) {
        let mine = self.published.contains_key(topic) || self.topics.contains(topic);
        if mine || self.subscribed.len() < MAX_OTHERS {
            self.subscribed.insert(topic.to_owned());
        } else {
            self.counters.subscriptions_dropped.add();
        }
        self.flush();
    }

    pub fn published(&mut self, topic: &str) {
        self.uses += 1;
        if let Some(last) = self.published.get_mut(topic) {
            *last = self.uses;
            return;
        }
        if self.published.len() >= MAX_PUBLISHED {
            let oldest = self.published.iter().min_by_key(|(_, last)| **last).map(|(topic, _)| topic.clone());
            oldest.map(|topic| self.published.remove(&topic));
        }
        self.published.insert(topic.to_owned(), self.uses);
    }

    pub fn listen_changed(&mut self) {
        self.listen_changed = true;
        self.flush();
    }

    /// Whether something waits for room.
    pub fn waiting(&self) -> bool {
        self.listen_changed || !self.subscribed.is_empty()
    }

    /// A sender of its own to wait for room with.
    pub fn events(&self) -> mpsc::Sender<NetEvent> {
        self.events.clone()
    }

    /// Tells what waits, as far as there is room.
    pub fn flush(&mut self) {
        while self.waiting() {
            let Ok(room) = self.events.try_reserve() else { return };
            if std::mem::take(&mut self.listen_changed) {
                room.send(NetEvent::ListenChanged);
            } else if let Some(topic) = self.subscribed.pop_first() {
                room.send(NetEvent::Subscribed { topic });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outlet(room: usize) -> (Outlet, mpsc::Receiver<NetEvent>, Arc<Counters>) {
        let (sender, receiver) = mpsc::channel(room);
        let counters = Arc::new(Counters::default());
        (Outlet::new(sender, counters.clone(), Topics::default()), receiver, counters)
    }

    #[test]
    fn a_full_channel_drops_messages_but_no_subscription() {
        let (mut outlet, mut events, counters) = outlet(2);
        for _ in 0..5 {
            outlet.message("telecon/a".into(), vec![1]);
        }
        outlet.subscribed("telecon/a");
        outlet.subscribed("telecon/b");
        outlet.subscribed("telecon/a");
        outlet.listen_changed();
        assert_eq!((counters.snapshot().delivered, counters.snapshot().events_full), (2, 3));
        let mut told = Vec::new();
        while let Ok(event) = events.try_recv() {
            outlet.flush();
            told.push(event);
        }
        let topic = |topic: &str| NetEvent::Subscribed { topic: topic.into() };
        assert_eq!(told[2..], [NetEvent::ListenChanged, topic("telecon/a"), topic("telecon/b")]);
        assert!(!outlet.waiting());
    }

    #[test]
    fn strangers_topics_are_bounded_and_our_own_get_through() {
        let (mut outlet, mut events, counters) = outlet(1);
        outlet.message("telecon/full".into(), vec![]);
        outlet.published("telecon/mine");
        for number in 0..2 * MAX_OTHERS {
            outlet.subscribed(&format!("telecon/{number}"));
        }
        outlet.subscribed("telecon/mine");
        assert_eq!(outlet.subscribed.len(), MAX_OTHERS + 1);
        assert_eq!(counters.snapshot().subscriptions_dropped, MAX_OTHERS as u64);
        let mut told = false;
        while let Ok(event) = events.try_recv() {
            told |= event == NetEvent::Subscribed { topic: "telecon/mine".into() };
            outlet.flush();
        }
        assert!(told);
    }

    #[test]
    fn published_topics_are_remembered_up_to_a_bound_the_longest_unused_goes() {
        let (mut outlet, _events, _) = outlet(1);
        for number in 0..MAX_PUBLISHED {
            outlet.published(&format!("telecon/{number}"));
        }
        outlet.published("telecon/0");
        outlet.published("telecon/new");
        assert_eq!(outlet.published.len(), MAX_PUBLISHED);
        assert!(outlet.published.contains_key("telecon/0"));
        assert!(!outlet.published.contains_key("telecon/1"));
    }
}
