//! What the sealing knows of one open call: its keys, the own stay, who has shown a valid join block.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use hpke::rand_core::CryptoRng;
use x25519_dalek::{PublicKey, StaticSecret};

use super::{
    Rejected,
    block::{self, JoinBlock},
    broadcast::{self, Frame, TopicKey},
    gate::Bucket,
    keys::Me,
    pairwise::{self, Own, Session},
    replay::{Recent, Replays, Window},
};
use crate::proto::{
    id::{Did, Instance},
    signal::{MAX_PARTICIPANTS, Ticket, Topic},
};

/// Envelopes remembered against replay, of known senders and of strangers each; the oldest is forgotten when full.
const REPLAYS: usize = 1024;
/// Stays of one DID whose broadcast counters are remembered: the highest ones; lower ones are not heard any more.
const STAYS: usize = 4;

/// The own stay.
struct Stay {
    instance: Instance,
    secret: StaticSecret,
    /// The signed join block, the same for the whole stay.
    block: Vec<u8>,
    /// Counter of the next broadcast.
    next: u64,
}

/// A DID that has shown a valid join block.
struct Peer {
    /// Of its highest instance.
    block: JoinBlock,
    /// With the own stay; none before both have joined, and none with the own DID's other devices.
    session: Option<Session>,
    /// Broadcast counters of its stays, [`STAYS`] at most.
    windows: BTreeMap<Instance, Window>,
    /// For broadcasts that claim to be this DID's.
    bucket: Bucket,
}

/// An open call. At most [`MAX_PARTICIPANTS`] peers; further DIDs are refused.
pub(super) struct Call {
    pub(super) ticket: Ticket,
    pub(super) replays: Replays,
    topic_key: TopicKey,
    /// Who is expected: these get a budget of their own.
    members: BTreeSet<Did>,
    own: Option<Stay>,
    peers: BTreeMap<Did, Peer>,
    /// For holders of the call key that have shown no block yet.
    unproven: Bucket,
}

impl Call {
    pub(super) fn new(ticket: &Ticket) -> Self {
        Self {
            ticket: ticket.clone(),
            replays: Replays::new(Recent::new(REPLAYS, None), Recent::new(REPLAYS, None)),
            topic_key: broadcast::key(ticket.call, &ticket.key),
            members: BTreeSet::new(),
            own: None,
            peers: BTreeMap::new(),
            unproven: Bucket::for_strangers(),
        }
    }

    /// Expects these DIDs; more than twice [`MAX_PARTICIPANTS`] are not noted.
    pub(super) fn expect<'a>(&mut self, dids: impl IntoIterator<Item = &'a Did>) {
        for did in dids {
            if self.members.len() < 2 * MAX_PARTICIPANTS {
                self.members.insert(did.clone());
            }
        }
    }

    pub(super) fn members(&self) -> impl Iterator<Item = &Did> {
        self.members.iter()
    }

    /// Begins the own stay `instance`; nothing changes when it has begun already.
    pub(super) fn join(&mut self, me: &Me, rng: &mut impl CryptoRng, instance: Instance) {
        if self.own.as_ref().is_some_and(|own| own.instance == instance) {
            return;
        }
        let secret = StaticSecret::random_from_rng(rng);
        let key = PublicKey::from(&secret).to_bytes();
        let Some(block) = block::make(me, &self.ticket, instance, key) else { return };
        self.own = Some(Stay { instance, secret, block, next: 0 });
        let Self { own, peers, ticket, .. } = self;
        for peer in peers.values_mut() {
            peer.session = derive(me, own.as_ref(), &peer.block, ticket);
        }
    }

    /// The own instance and signed join block, once joined.
    pub(super) fn own_block(&self) -> Option<(Instance, &[u8])> {
        self.own.as_ref().map(|own| (own.instance, &own.block[..]))
    }

    pub(super) fn seal_broadcast(&mut self, me: &Me, rng: &mut impl CryptoRng, message: &[u8]) -> Option<Vec<u8>> {
        let own = self.own.as_mut()?;
        let counter = own.next;
        own.next = counter.checked_add(1)?;
        broadcast::seal(me, rng, (self.ticket.call, &self.topic_key), own.instance, counter, message)
    }

    pub(super) fn seal_pairwise(&mut self, topic: &Topic, to: &Did, message: &[u8]) -> Option<Vec<u8>> {
        self.peers.get_mut(to)?.session.as_mut()?.seal(topic, message)
    }

    /// Opens a broadcast and proves its signer, who is not yet known to be in the call.
    pub(super) fn open_broadcast(&mut self, me: &Me, bytes: &[u8], now: Instant) -> Result<Frame, Rejected> {
        let frame = Frame::open(self.ticket.call, &self.topic_key, bytes)?;
        if frame.from == me.did && frame.instance.device == me.device {
            return Err(Rejected::Replayed);
        }
        let bucket = match self.peers.get_mut(&frame.from) {
            Some(peer) if !peer.is_fresh(frame.instance, frame.counter) => return Err(Rejected::Replayed),
            Some(peer) => &mut peer.bucket,
            None => &mut self.unproven,
        };
        if !bucket.take(now) {
            return Err(Rejected::OverBudget);
        }
        frame.verify(self.ticket.call)?;
        Ok(frame)
    }

    /// Notes that a broadcast was opened. Its sender must have shown a block, or it is not in the call.
    pub(super) fn record_broadcast(&mut self, frame: &Frame) -> Result<(), Rejected> {
        let peer = self.peers.get_mut(&frame.from).ok_or(Rejected::NotGranted)?;
        peer.record(frame.instance, frame.counter);
        Ok(())
    }

    /// Opens a pairwise message and tells who sent it, from which stay.
    pub(super) fn open_pairwise(&mut self, topic: &Topic, bytes: &[u8]) -> Result<PairwiseOpened, Rejected> {
        let id = pairwise::session_id(bytes).ok_or(Rejected::Malformed)?;
        for peer in self.peers.values_mut() {
            if let Some(session) = peer.session.as_mut().filter(|session| session.receive_id() == id) {
                let message = session.open(topic, bytes)?;
                return Ok((peer.block.did.clone(), peer.block.instance, message));
            }
        }
        Err(Rejected::Undecryptable)
    }

    /// Checks a join block that `sender` showed and keeps it when it is the highest of that DID.
    pub(super) fn admit(&mut self, me: &Me, sender: &Did, signed: Vec<u8>) -> Result<Instance, Rejected> {
        if let Some(peer) = self.peers.get(sender)
            && peer.block.bytes == signed
        {
            return Ok(peer.block.instance);
        }
        let block = block::open(me, &self.ticket, sender, signed)?;
        let instance = block.instance;
        if *sender == me.did && instance.device == me.device {
            return Err(Rejected::Replayed);
        }
        let is_full = self.peers.len() >= MAX_PARTICIPANTS;
        match self.peers.get_mut(sender) {
            // Two different blocks of one stay: the first one counts.
            Some(peer) if peer.block.instance == instance => return Err(Rejected::Malformed),
            Some(peer) if peer.block.instance > instance => {}
            Some(peer) => {
                peer.session = derive(me, self.own.as_ref(), &block, &self.ticket);
                peer.block = block;
            }
            None if is_full => return Err(Rejected::OverBudget),
            None => {
                let session = derive(me, self.own.as_ref(), &block, &self.ticket);
                self.peers.insert(
                    sender.clone(),
                    Peer { block, session, windows: BTreeMap::new(), bucket: Bucket::for_known() },
                );
            }
        }
        Ok(instance)
    }
}

/// Sender, its stay, and the message.
type PairwiseOpened = (Did, Instance, zeroize::Zeroizing<Vec<u8>>);

impl Peer {
    fn is_fresh(&self, instance: Instance, counter: u64) -> bool {
        match self.windows.get(&instance) {
            Some(window) => window.is_fresh(counter),
            None => self.windows.len() < STAYS || self.windows.keys().next().is_some_and(|lowest| instance > *lowest),
        }
    }

    fn record(&mut self, instance: Instance, counter: u64) {
        self.windows.entry(instance).or_default().record(counter);
        while self.windows.len() > STAYS {
            self.windows.pop_first();
        }
    }
}

fn derive(me: &Me, own: Option<&Stay>, peer: &JoinBlock, ticket: &Ticket) -> Option<Session> {
    let own = own.filter(|_| peer.did != me.did)?;
    Session::new(&Own { did: &me.did, secret: &own.secret, block: &own.block }, peer, &ticket.key)
}
