//! How many gossip bytes a peer may bring: gossipsub keeps every accepted message for five heartbeats.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use libp2p::PeerId;

/// Bytes a second. A call of 32 sets up with some 10 000 messages of 1-2 KiB in a few seconds, over many peers.
const BYTES_PER_SECOND: f64 = 1024.0 * 1024.0;
/// Bytes at once.
const BURST_BYTES: f64 = 4.0 * BYTES_PER_SECOND;
/// Most buckets; when full, those that are full of tokens again are dropped, and else the peer counts as a stranger.
const MAX_BUCKETS: usize = 1024;
/// What a message costs beside its bytes (id, topic, bookkeeping).
const OVERHEAD_BYTES: usize = 256;

/// A bucket for each known peer, and one for all strangers together, so that fresh keys bring no more.
pub(super) struct Budget {
    strangers: Bucket,
    known: HashMap<PeerId, Bucket>,
}

impl Budget {
    pub fn new(now: Instant) -> Self {
        Self { strangers: Bucket::full(now), known: HashMap::new() }
    }

    /// Whether a message of that length may pass.
    pub fn take(&mut self, peer: PeerId, known: bool, bytes: usize, now: Instant) -> bool {
        if known && self.known.len() >= MAX_BUCKETS && !self.known.contains_key(&peer) {
            self.known.retain(|_, bucket| !bucket.is_full(now));
        }
        let own = known && (self.known.len() < MAX_BUCKETS || self.known.contains_key(&peer));
        let bucket =
            if own { self.known.entry(peer).or_insert_with(|| Bucket::full(now)) } else { &mut self.strangers };
        bucket.take(bytes + OVERHEAD_BYTES, now)
    }
}

struct Bucket {
    bytes: f64,
    at: Instant,
}

impl Bucket {
    fn full(now: Instant) -> Self {
        Self { bytes: BURST_BYTES, at: now }
    }

    fn is_full(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) > Duration::from_secs_f64(BURST_BYTES / BYTES_PER_SECOND)
    }

    fn take(&mut self, bytes: usize, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        self.bytes = (self.bytes + passed * BYTES_PER_SECOND).min(BURST_BYTES);
        let enough = self.bytes >= bytes as f64;
        if enough {
            self.bytes -= bytes as f64;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_share_one_budget_and_a_known_peer_has_its_own() {
        let now = Instant::now();
        let mut budget = Budget::new(now);
        let passed = (0..10_000).filter(|_| budget.take(PeerId::random(), false, 8 * 1024, now)).count();
        assert!((100..1000).contains(&passed), "{passed}");
        assert!(budget.known.is_empty(), "strangers make it grow");
        let friend = PeerId::random();
        assert!(budget.take(friend, true, 8 * 1024, now));
        assert!(!budget.take(PeerId::random(), false, 8 * 1024, now));
        assert!(budget.take(PeerId::random(), false, 8 * 1024, now + Duration::from_secs(1)));
    }
}
