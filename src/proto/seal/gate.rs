//! Who may cost this node public-key work: header tags tell contacts from strangers, budgets bound each.
//!
//! A tag is no proof: it chooses a budget, and whoever saw it can copy it for some minutes. That costs only the one
//! contact's budget, and everything that a budget lets through is verified all the same.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::keys::{self, Me, transcript};
use crate::proto::{id::Did, io::Now};

/// Bytes of a header tag.
pub(super) const TAG_BYTES: usize = 16;
/// How long a tag is the same, in ms of unix time.
const EPOCH_MS: u64 = 600_000;
/// All strangers together: 20 opens a second.
const STRANGERS: Rate = Rate { interval: Duration::from_millis(50), burst: 20 };
/// Each contact and each participant of an open call: 20 opens a second, and 60 at once when a large call begins.
const KNOWN: Rate = Rate { interval: Duration::from_millis(50), burst: 60 };

/// A header tag.
pub(super) type Tag = [u8; TAG_BYTES];

/// One action an `interval`, and up to `burst` at once.
#[derive(Debug, Clone, Copy)]
struct Rate {
    interval: Duration,
    burst: u32,
}

/// A rate limit after the generic cell rate algorithm (ITU-T I.371): one instant instead of a count of tokens.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    rate: Rate,
    /// When all that was taken will have been paid for.
    paid: Option<Instant>,
}

impl Bucket {
    /// The budget of all strangers together, or of all unproven holders of one call key.
    pub(super) fn for_strangers() -> Self {
        Self { rate: STRANGERS, paid: None }
    }

    /// The budget of one contact or participant.
    pub(super) fn for_known() -> Self {
        Self { rate: KNOWN, paid: None }
    }

    /// Takes one, if there is one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let paid = self.paid.map_or(now, |paid| paid.max(now));
        if paid.duration_since(now) > self.rate.interval * (self.rate.burst - 1) {
            return false;
        }
        self.paid = Some(paid + self.rate.interval);
        true
    }
}

struct Known {
    key: Zeroizing<[u8; 32]>,
    bucket: Bucket,
}

/// Tags and budgets. As many entries as there are contacts and participants of open calls; strangers add none.
pub(super) struct Gate {
    strangers: Bucket,
    known: BTreeMap<Did, Known>,
    /// What known senders' tags look like in this epoch and the two beside it.
    tags: BTreeMap<Tag, Did>,
    /// The epoch that `tags` was made for; `None` when who is known has changed since.
    epoch: Option<u64>,
}

impl Gate {
    pub(super) fn new() -> Self {
        Self { strangers: Bucket::for_strangers(), known: BTreeMap::new(), tags: BTreeMap::new(), epoch: None }
    }

    /// From now on exactly these have a budget of their own; who stays keeps what it has used.
    pub(super) fn set_known(&mut self, me: &Me, dids: &BTreeSet<Did>) {
        self.known.retain(|did, _| dids.contains(did));
        for did in dids {
            self.known
                .entry(did.clone())
                .or_insert_with(|| Known { key: me.contact_key(did), bucket: Bucket::for_known() });
        }
        self.epoch = None;
    }

    pub(super) fn is_known(&self, did: &Did) -> bool {
        self.known.contains_key(did)
    }

    /// The tag by which `to` can recognise this node, if it knows it.
    pub(super) fn tag_for(&self, me: &Me, to: &Did, now: Now) -> Tag {
        let epoch = now.unix_ms / EPOCH_MS;
        match self.known.get(to) {
            Some(known) => tag(&known.key, to, epoch),
            None => tag(&me.contact_key(to), to, epoch),
        }
    }

    /// Whom the tag of an envelope to this node points to; `None` for a stranger.
    pub(super) fn sender(&mut self, me: &Me, tag: &Tag, now: Now) -> Option<Did> {
        let epoch = now.unix_ms / EPOCH_MS;
        if self.epoch != Some(epoch) {
            self.refresh(me, epoch);
        }
        self.tags.get(tag).cloned()
    }

    /// Whether one more public-key operation may be spent on that sender now.
    pub(super) fn admit(&mut self, sender: Option<&Did>, now: Now) -> bool {
        match sender.and_then(|did| self.known.get_mut(did)) {
            Some(known) => known.bucket.take(now.mono),
            None => self.strangers.take(now.mono),
        }
    }

    fn refresh(&mut self, me: &Me, epoch: u64) {
        self.tags.clear();
        for (did, known) in &self.known {
            for epoch in epoch.saturating_sub(1)..=epoch.saturating_add(1) {
                self.tags.insert(tag(&known.key, &me.did, epoch), did.clone());
            }
        }
        self.epoch = Some(epoch);
    }
}

fn tag(key: &[u8; 32], recipient: &Did, epoch: u64) -> Tag {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(&transcript(keys::CONTACT_TAG, &[recipient.as_str().as_bytes(), &epoch.to_be_bytes()]));
    let digest: [u8; 32] = mac.finalize().into_bytes().into();
    let mut tag = [0; TAG_BYTES];
    tag.copy_from_slice(&digest[..TAG_BYTES]);
    tag
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{id::DeviceId, seal::tests::start};
    use ed25519_dalek::SigningKey;

    fn me(seed: u8) -> Me {
        Me::new(SigningKey::from_bytes(&[seed; 32]), DeviceId([seed; 16]))
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let start = start().mono;
        let mut bucket = Bucket::for_strangers();
        assert_eq!((0..100).filter(|_| bucket.take(start)).count(), 20);
        let taken = (1..=10_000).filter(|ms| bucket.take(start + Duration::from_millis(*ms))).count();
        assert_eq!(taken, 200, "20 a second");
    }

    #[test]
    fn a_contact_is_found_by_its_tag_in_the_neighbouring_epochs_and_never_by_another() {
        let (alice, bob) = (me(1), me(2));
        let (mut at_alice, mut at_bob) = (Gate::new(), Gate::new());
        at_alice.set_known(&alice, &BTreeSet::from([bob.did.clone()]));
        at_bob.set_known(&bob, &BTreeSet::from([alice.did.clone()]));
        let at = |unix_ms| Now { unix_ms, ..start() };
        let sent = at_alice.tag_for(&alice, &bob.did, at(10 * EPOCH_MS));
        for (unix_ms, found) in [
            (9 * EPOCH_MS - 1, false),
            (9 * EPOCH_MS, true),
            (10 * EPOCH_MS, true),
            (12 * EPOCH_MS - 1, true),
            (12 * EPOCH_MS, false),
        ] {
            assert_eq!(at_bob.sender(&bob, &sent, at(unix_ms)).is_some(), found, "{unix_ms}");
        }
        let back = at_bob.tag_for(&bob, &alice.did, at(10 * EPOCH_MS));
        assert_ne!(sent, back, "a tag says which way it goes");
        at_bob.set_known(&bob, &BTreeSet::new());
        assert_eq!(at_bob.sender(&bob, &sent, at(10 * EPOCH_MS)), None, "a former contact is a stranger");
    }
}
