//! gossipsub's settings, and what is dropped before gossipsub remembers it.
//!
//! What a message means is not known here; the core opens it.

use std::{
    collections::BTreeSet,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use libp2p::{
    gossipsub::{
        self, CallbackSubscriptionFilter, DataTransform, MaxCountSubscriptionFilter, Message, MessageAuthenticity,
        MessageId, RawMessage, TopicHash, ValidationMode,
    },
    identity::Keypair,
};

use super::counters::Counters;
use crate::proto::signal::MAX_SEALED_BYTES;

/// Topics that one peer may tell us it is subscribed to: 34 for each call of 32, and several calls may ring at once.
const MAX_TOPICS_PER_PEER: usize = 1024;
/// `telecon/<uuid>/<DID>` has 101 bytes.
const MAX_TOPIC_BYTES: usize = 128;
/// 0.50.1 checks its read buffer against this, so that honest RPCs above half of a small limit can close the stream.
const MAX_RPC_BYTES: usize = 64 * 1024;
/// Messages waiting for one slow peer; further ones to it are dropped (gossipsub's default of 5000 is 40 MiB a peer).
const QUEUE_MESSAGES: usize = 256;
/// Heartbeats for which a message is kept for whoever asks (IWANT), and for which it is offered (IHAVE): 5 s and 1 s.
const HISTORY_KEPT: usize = 25;
const HISTORY_OFFERED: usize = 5;
/// How long a message is known by its id, so that it is taken once: four times as long as anybody offers it. Every id of the
/// time costs some 200 bytes, whoever sent it (libp2p's default is 60 s).
const IDS_KEPT: Duration = Duration::from_secs(20);
/// A call id is never used twice, so this only delays who leaves a call and comes back.
const UNSUBSCRIBE_BACKOFF: Duration = Duration::from_secs(1);

/// The topics that this node is subscribed to, shared with whoever changes them.
#[derive(Clone, Default)]
pub(super) struct Topics(Arc<Mutex<BTreeSet<String>>>);

impl Topics {
    /// Runs `f` on the set. The lock is only held for it, and `f` never waits.
    pub fn with<T>(&self, f: impl FnOnce(&mut BTreeSet<String>) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn contains(&self, topic: &str) -> bool {
        self.with(|topics| topics.contains(topic))
    }
}

type TopicFilter = CallbackSubscriptionFilter<fn(&TopicHash) -> bool>;
pub(super) type Gossip = gossipsub::Behaviour<Sieve, MaxCountSubscriptionFilter<TopicFilter>>;

/// Drops messages before gossipsub stores or forwards them: those that are too long, and those of topics that this node
/// is not subscribed to (gossipsub itself would keep them for 5 s).
pub(super) struct Sieve {
    topics: Topics,
    counters: Arc<Counters>,
}

impl DataTransform for Sieve {
    fn inbound_transform(&self, raw: RawMessage) -> Result<Message, io::Error> {
        if raw.data.len() > MAX_SEALED_BYTES {
            self.counters.oversize.add();
            return Err(io::ErrorKind::InvalidData.into());
        }
        if !self.topics.contains(raw.topic.as_str()) {
            self.counters.unsubscribed.add();
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(Message { source: raw.source, data: raw.data, sequence_number: raw.sequence_number, topic: raw.topic })
    }

    fn outbound_transform(&self, _topic: &TopicHash, data: Vec<u8>) -> Result<Vec<u8>, io::Error> {
        Ok(data)
    }
}

/// A gossipsub that signs with `author`, a key that is not the node's.
///
/// # Errors
/// The settings contradict each other (they do not; a test makes one).
pub(super) fn build(
    author: Keypair,
    topics: Topics,
    counters: Arc<Counters>,
    heartbeat: Duration,
) -> Result<Gossip, String> {
    let config = gossipsub::ConfigBuilder::default()
        .validation_mode(ValidationMode::Strict)
        .validate_messages()
        .message_id_fn(message_id)
        .max_transmit_size(MAX_RPC_BYTES)
        .flood_publish(true)
        .mesh_outbound_min(0)
        .mesh_n_low(1)
        .mesh_n(4)
        .mesh_n_high(8)
        .heartbeat_interval(heartbeat)
        .history_length(HISTORY_KEPT)
        .history_gossip(HISTORY_OFFERED)
        .duplicate_cache_time(IDS_KEPT)
        .heartbeat_initial_delay(heartbeat)
        .unsubscribe_backoff(UNSUBSCRIBE_BACKOFF)
        .connection_handler_queue_len(QUEUE_MESSAGES)
        .build()
        .map_err(|error| error.to_string())?;
    let filter = MaxCountSubscriptionFilter {
        filter: CallbackSubscriptionFilter(is_ours as fn(&TopicHash) -> bool),
        max_subscribed_topics: MAX_TOPICS_PER_PEER,
        max_subscriptions_per_request: MAX_TOPICS_PER_PEER,
    };
    let sieve = Sieve { topics, counters };
    Gossip::new_with_subscription_filter_and_transform(MessageAuthenticity::Signed(author), config, filter, sieve)
        .map_err(str::to_owned)
}

/// Other peers may be subscribed to whatever they like; only telecon's topics are worth remembering.
fn is_ours(topic: &TopicHash) -> bool {
    let topic = topic.as_str();
    topic.len() <= MAX_TOPIC_BYTES && (topic.starts_with("offer_call/") || topic.starts_with("telecon/"))
}

/// `from || seqno`, both in bytes, as in go-libp2p, so that IHAVE and IWANT mean the same everywhere.
fn message_id(message: &Message) -> MessageId {
    // Strict validation has dropped messages without author or number before.
    let mut id = message.source.map(|author| author.to_bytes()).unwrap_or_default();
    id.extend(message.sequence_number.unwrap_or_default().to_be_bytes());
    MessageId::from(id)
}

#[cfg(test)]
mod tests {
    use libp2p::PeerId;

    use super::*;

    #[test]
    fn a_message_id_is_the_authors_bytes_followed_by_the_big_endian_number() {
        let author = PeerId::random();
        let topic = TopicHash::from_raw("telecon/x");
        let message = Message { source: Some(author), data: vec![], sequence_number: Some(0x0102), topic };
        let mut expected = author.to_bytes();
        expected.extend([0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(message_id(&message).0, expected);
    }

    #[test]
    fn only_short_topics_of_this_protocol_are_remembered() {
        let did = "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK";
        for topic in [format!("offer_call/{did}"), format!("telecon/0b1e0f3a-5d0c-8a54-9c0e-3c6a2f1d7b42/{did}")] {
            assert!(is_ours(&TopicHash::from_raw(topic)));
        }
        for topic in ["", "chat", "offer_callx", &format!("telecon/{}", "x".repeat(200))] {
            assert!(!is_ours(&TopicHash::from_raw(topic)), "{topic}");
        }
    }

    #[test]
    fn the_sieve_drops_long_messages_and_foreign_topics_and_counts_them() {
        let counters = Arc::new(Counters::default());
        let topics = Topics::default();
        topics.with(|topics| topics.insert("telecon/mine".into()));
        let sieve = Sieve { topics, counters: counters.clone() };
        let pass = |topic: &str, length: usize| {
            let raw = RawMessage {
                source: None,
                data: vec![0; length],
                sequence_number: None,
                topic: TopicHash::from_raw(topic),
                signature: None,
                key: None,
                validated: false,
            };
            sieve.inbound_transform(raw).is_ok()
        };
        assert!(pass("telecon/mine", MAX_SEALED_BYTES));
        assert!(!pass("telecon/mine", MAX_SEALED_BYTES + 1));
        assert!(!pass("telecon/other", 1));
        let counted = counters.snapshot();
        assert_eq!((counted.oversize, counted.unsubscribed), (1, 1));
    }
}
