//! The sealing as a whole: several people's sealers, a clock, and forgers who know all constructions but not the keys.

mod calls;
mod example;
mod offers;

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

use ed25519_dalek::SigningKey;
use hpke::rand_core::SeedableRng;
use rand::rngs::StdRng;

use super::{
    Rejected, Seal, Sealer, block, envelope,
    keys::{Me, x25519_of},
};
use crate::proto::{
    id::{CallId, DeviceId, Did, Instance, MessageId},
    io::Now,
    signal::{
        Body, CallKey, CancelReason, Incoming, MediaState, Offer, Outgoing, Presence, Sealing, Settings, Signal,
        Ticket, Topic,
    },
    wire,
};

/// 2026-11-20 10:00:00 UTC.
const UNIX_MS: u64 = 1_795_168_800_000;

/// One device of one person, and the same person as a forger who calls the constructions directly.
struct Peer {
    sealer: Sealer,
    did: Did,
    me: Me,
    rng: StdRng,
}

/// Alice is 1, Bob 2, Carol 3, Dave 4, Mallory 66.
fn peer(person: u8) -> Peer {
    device(person, 1)
}

fn device(person: u8, device: u8) -> Peer {
    let key = SigningKey::from_bytes(&[person; 32]);
    let did = Did::from_key(key.verifying_key());
    let (device, seed) = (DeviceId([device; 16]), [person ^ device.wrapping_mul(31); 32]);
    Peer {
        sealer: Sealer::new(key.clone(), did.clone(), device, seed),
        did,
        me: Me::new(key, device),
        rng: StdRng::from_seed([person; 32]),
    }
}

/// The same moment for the whole run: time passes only where a test says so.
pub(super) fn start() -> Now {
    #[expect(clippy::disallowed_methods, reason = "tests need some instant to start from")]
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    Now { mono: *START, unix_ms: UNIX_MS }
}

/// Later on the monotonic clock, and on the wall clock.
fn after(now: Now, ms: u64) -> Now {
    Now { mono: now.mono + Duration::from_millis(ms), unix_ms: now.unix_ms + ms }
}

/// Later for budgets only.
fn rested(now: Now, ms: u64) -> Now {
    Now { mono: now.mono + Duration::from_millis(ms), ..now }
}

fn call_of(creator: &Peer, key: u8, closed: bool) -> Ticket {
    let (settings, key) = (Settings { closed }, CallKey([key; 32]));
    let call = CallId::derive(&creator.did, &settings, &key.0);
    Ticket { call, creator: creator.did.clone(), settings, key, chain: vec![] }
}

fn offer(ticket: &Ticket, participants: &[&Peer]) -> Body {
    let participants = participants.iter().map(|peer| peer.did.clone()).collect();
    Body::Offer(Box::new(Offer { ticket: ticket.clone(), participants, ring_ms: 45_000 }))
}

fn signal(call: CallId, id: u8, body: Body) -> Signal {
    Signal { id: MessageId([id; 16]), call, body }
}

fn instance(peer: &Peer, number: u64) -> Instance {
    Instance { number, device: peer.me.device }
}

fn presence(instance: Instance) -> Presence {
    Presence { instance, state: MediaState::default(), contact: None, granted_by: None }
}

/// Where a message to that DID goes.
fn inbox(to: &Peer) -> Topic {
    Topic::Inbox(to.did.clone())
}

fn member(call: CallId, to: &Peer) -> Topic {
    Topic::Member(call, to.did.clone())
}

fn envelope_to(topic: Topic, to: &Peer, signal: Signal) -> Outgoing {
    Outgoing { topic, sealing: Sealing::Envelope, to: Some(to.did.clone()), signal }
}

fn pairwise_to(to: &Peer, signal: Signal) -> Outgoing {
    Outgoing { topic: member(signal.call, to), sealing: Sealing::Pairwise, to: Some(to.did.clone()), signal }
}

fn broadcast(signal: Signal) -> Outgoing {
    Outgoing { topic: Topic::Call(signal.call), sealing: Sealing::Broadcast, to: None, signal }
}

impl Peer {
    fn seal(&mut self, outgoing: &Outgoing, now: Now) -> Vec<u8> {
        self.sealer.seal(outgoing, now).expect("this can be sealed")
    }

    /// Seals and opens one message.
    fn tell(&mut self, outgoing: &Outgoing, to: &mut Peer, now: Now) -> Result<Incoming, Rejected> {
        let bytes = self.seal(outgoing, now);
        to.sealer.open(&outgoing.topic, &bytes, now)
    }

    /// An envelope with a stranger's tag and any content, without the checks that the sealer makes on the way out.
    fn forge(&mut self, topic: &Topic, to: &Peer, signal: &Signal, block: Option<&[u8]>, now: Now) -> Vec<u8> {
        let message = wire::encode(signal, block).unwrap();
        envelope::seal(&self.me, &mut self.rng, (&to.did, topic), &[0x55; 16], now.unix_ms, &message).unwrap()
    }

    /// The ticket that `inviter` would hand on to this peer.
    fn granted(&self, ticket: &Ticket, inviter: &Peer) -> Ticket {
        let mut ticket = ticket.clone();
        ticket.chain.push(block::grant(&inviter.me, ticket.call, &self.did));
        ticket
    }

    /// Opens the call and joins it.
    fn join(&mut self, ticket: &Ticket, number: u64) -> Instance {
        let instance = instance(self, number);
        self.sealer.open_call(ticket);
        self.sealer.join(ticket.call, instance);
        instance
    }
}

/// An offer from Alice to Bob, ready to be sent.
fn first_offer(alice: &Peer, bob: &Peer) -> (Ticket, Outgoing) {
    let ticket = call_of(alice, 9, false);
    let outgoing = envelope_to(inbox(bob), bob, signal(ticket.call, 1, offer(&ticket, &[alice, bob])));
    (ticket, outgoing)
}

#[test]
fn labels_are_unique_and_end_in_nul() {
    use super::keys::*;
    let labels = [
        b"telecon/1 call id\0",
        GRANT,
        JOIN_BLOCK,
        KEY_ID,
        ENVELOPE,
        ENVELOPE_SIGNATURE,
        CONTACT_KEY,
        CONTACT_TAG,
        CALL_TOPIC_KEY,
        CALL_TOPIC,
        CALL_TOPIC_SIGNATURE,
        PAIRWISE_KEYS,
        PAIRWISE,
    ];
    for (at, label) in labels.iter().enumerate() {
        assert_eq!(label.iter().position(|byte| *byte == 0), Some(label.len() - 1));
        assert!(label.is_ascii() && !labels[..at].contains(label));
    }
}
