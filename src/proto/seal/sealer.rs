//! The real sealing: which construction goes where, who may say what, in which order the checks run.
//!
//! The constructions themselves stand beside this file. What a message means, and whether it still matters, is the
//! engine's business: the same message may be opened in several transmissions, each of them only once.
//!
//! Cheap first: size, version, topic, replay, budget; then public-key work; then what the message may say.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use ed25519_dalek::SigningKey;
use hpke::rand_core::{Rng, SeedableRng};
use rand::rngs::StdRng;

use super::{
    Rejected, Seal, block, broadcast,
    call::Call,
    envelope::{self, Header},
    gate::{Gate, TAG_BYTES},
    keys::{Me, VERSION},
    pairwise,
    replay::{Recent, Replays},
};
use crate::proto::{
    id::{CallId, DeviceId, Did, Instance},
    io::Now,
    signal::{
        Body, Incoming, MAX_CHAIN, MAX_PARTICIPANTS, MAX_SEALED_BYTES, Offer, Outgoing, Sealing, Signal, Ticket, Topic,
    },
    wire,
};

/// Most calls that are open at once; further ones stay closed to sealing.
const MAX_CALLS: usize = 64;
/// How far an inbox envelope's time may be from the own clock, in ms.
const MAX_SKEW_MS: u64 = 120_000;
/// An inbox envelope is fresh for twice [`MAX_SKEW_MS`]; remembered a little longer.
const KEEP_REPLAYS: Duration = Duration::from_secs(300);
/// Inbox envelopes remembered from contacts; the oldest is forgotten when full.
const KNOWN_REPLAYS: usize = 4096;
/// The same of strangers: more than their budget lets through in [`KEEP_REPLAYS`].
const STRANGERS_REPLAYS: usize = 8192;
/// Offers whose participants are remembered until the call is opened, of contacts and strangers each.
const OFFERS: usize = 64;

/// Seals and opens for one device of one person. Holds all keys; draws all randomness from its seed.
pub struct Sealer {
    me: Me,
    rng: StdRng,
    gate: Gate,
    replays: Replays,
    contacts: BTreeSet<Did>,
    pub(super) calls: BTreeMap<CallId, Call>,
    offered: Rosters,
    offered_by_strangers: Rosters,
}

/// Who takes part in calls that were offered lately; the oldest is forgotten beyond [`OFFERS`].
type Rosters = VecDeque<(CallId, Vec<Did>)>;

impl Sealer {
    /// A sealer for the person `identity` on the device `device`.
    ///
    /// `did` is the DID of `identity`. `seed` must be fresh from the system's random source at every start: the same
    /// seed twice makes the same keys and nonces twice.
    pub fn new(identity: SigningKey, did: Did, device: DeviceId, seed: [u8; 32]) -> Self {
        let me = Me::new(identity, device);
        debug_assert_eq!(me.did, did, "the DID belongs to the key");
        let mut sealer = Self {
            me,
            rng: StdRng::from_seed(seed),
            gate: Gate::new(),
            replays: Replays::new(
                Recent::new(KNOWN_REPLAYS, Some(KEEP_REPLAYS)),
                Recent::new(STRANGERS_REPLAYS, Some(KEEP_REPLAYS)),
            ),
            contacts: BTreeSet::new(),
            calls: BTreeMap::new(),
            offered: VecDeque::new(),
            offered_by_strangers: VecDeque::new(),
        };
        sealer.update_known();
        sealer
    }

    /// Contacts, the own other devices and the participants of open calls have a budget of their own.
    fn update_known(&mut self) {
        let members = self.calls.values().flat_map(Call::members);
        let known = self.contacts.iter().chain(members).chain([&self.me.did]).cloned().collect();
        self.gate.set_known(&self.me, &known);
    }

    fn seal_envelope(&mut self, topic: &Topic, to: &Did, message: &[u8], now: Now) -> Option<Vec<u8>> {
        let mut tag = [0; TAG_BYTES];
        if self.is_acquainted(to) {
            tag = self.gate.tag_for(&self.me, to, now);
        } else {
            self.rng.fill_bytes(&mut tag);
        }
        envelope::seal(&self.me, &mut self.rng, (to, topic), &tag, now.unix_ms, message)
    }

    /// Contacts, participants, and whoever was in an offer lately: they may know this node by its tag, as the inviter
    /// does who waits for `Ringing`. Strangers get random bytes.
    fn is_acquainted(&self, did: &Did) -> bool {
        let mut offered = self.offered.iter().chain(&self.offered_by_strangers);
        self.gate.is_known(did) || offered.any(|(_, roster)| roster.contains(did))
    }

    /// The invitation as `to` is to receive it: with the grant that this node gives.
    fn grant(&self, offer: &Offer, to: &Did) -> Option<Offer> {
        let mut offer = offer.clone();
        offer.ticket.chain.push(block::grant(&self.me, offer.ticket.call, to));
        self.check_offer(&offer, &self.me.did, to).ok()?;
        Some(offer)
    }

    /// Whether an offer that `from` makes to `to` is one that `to` can accept.
    fn check_offer(&self, offer: &Offer, from: &Did, to: &Did) -> Result<(), Rejected> {
        let ticket = &offer.ticket;
        if CallId::derive(&ticket.creator, &ticket.settings, &ticket.key.0) != ticket.call {
            return Err(Rejected::WrongCallId);
        }
        let distinct: BTreeSet<_> = offer.participants.iter().collect();
        let complete = distinct.contains(from) && distinct.contains(to);
        if !complete || distinct.len() != offer.participants.len() || distinct.len() > MAX_PARTICIPANTS {
            return Err(Rejected::Malformed);
        }
        if ticket.chain.len() > MAX_CHAIN || ticket.chain.last().is_none_or(|last| last.inviter != *from) {
            return Err(Rejected::NotGranted);
        }
        block::verify_chain(ticket, &ticket.chain, to)
    }

    fn open_envelope(&mut self, topic: &Topic, bytes: &[u8], now: Now) -> Result<Incoming, Rejected> {
        let header = Header::parse(bytes)?;
        if header.key_id() != self.me.key_id {
            return Err(Rejected::Undecryptable);
        }
        if self.replays_of(topic)?.contains(&header.enc()) {
            return Err(Rejected::Replayed);
        }
        let hinted = self.gate.sender(&self.me, &header.tag(), now);
        if !self.gate.admit(hinted.as_ref(), now) {
            return Err(Rejected::OverBudget);
        }
        let opened = envelope::open(&self.me, topic, header)?;
        let is_known = self.gate.is_known(&opened.from);
        self.replays_of(topic)?.record(is_known, header.enc(), now.mono);
        if matches!(topic, Topic::Inbox(_)) && opened.unix_ms.abs_diff(now.unix_ms) > MAX_SKEW_MS {
            return Err(Rejected::ClockSkew);
        }
        let wire::Message { signal, block } = wire::decode(&opened.message)?;
        check_place(topic, Sealing::Envelope, &signal)?;
        let instance = self.check_envelope(&opened.from, &signal, block)?;
        Ok(Incoming { from: opened.from, instance, sealing: Sealing::Envelope, signal })
    }

    /// The memory of transmissions that such a topic has: a call's own, or the inbox's.
    fn replays_of(&mut self, topic: &Topic) -> Result<&mut Replays, Rejected> {
        match topic {
            Topic::Inbox(_) => Ok(&mut self.replays),
            Topic::Call(call) | Topic::Member(call, _) => {
                self.calls.get_mut(call).map(|call| &mut call.replays).ok_or(Rejected::UnknownCall)
            }
        }
    }

    /// What its proven sender may say in an envelope. Returns the instance that a `Join` proves.
    fn check_envelope(
        &mut self,
        from: &Did,
        signal: &Signal,
        block: Option<Vec<u8>>,
    ) -> Result<Option<Instance>, Rejected> {
        match &signal.body {
            Body::Offer(offer) => {
                self.check_offer(offer, from, &self.me.did)?;
                let known = self.gate.is_known(from);
                let rosters = if known { &mut self.offered } else { &mut self.offered_by_strangers };
                remember(rosters, signal.call, &offer.participants);
                Ok(None)
            }
            Body::Answered(_) if *from != self.me.did => Err(Rejected::WrongRecipient),
            Body::Join(_) => {
                let call = self.calls.get_mut(&signal.call).ok_or(Rejected::UnknownCall)?;
                let instance = call.admit(&self.me, from, block.ok_or(Rejected::Malformed)?)?;
                self.expect(signal.call, [from]);
                Ok(Some(instance))
            }
            Body::Answered(_)
            | Body::Cancel(_)
            | Body::Ringing
            | Body::Decline(_)
            | Body::Ack(_)
            | Body::Unknown(_) => Ok(None),
            Body::Hello(_) | Body::Leave(_) | Body::Sdp(_) | Body::Ice(_) | Body::Restart(_) | Body::State(_) => {
                Err(Rejected::Malformed)
            }
        }
    }

    fn open_broadcast(&mut self, id: CallId, bytes: &[u8], now: Now) -> Result<Incoming, Rejected> {
        let call = self.calls.get_mut(&id).ok_or(Rejected::UnknownCall)?;
        let frame = call.open_broadcast(&self.me, bytes, now.mono)?;
        let wire::Message { signal, block } = wire::decode(&frame.message)?;
        check_place(&Topic::Call(id), Sealing::Broadcast, &signal)?;
        check_instance(&signal, frame.instance)?;
        if let Some(block) = block {
            call.admit(&self.me, &frame.from, block)?;
        }
        call.record_broadcast(&frame)?;
        self.expect(id, [&frame.from]);
        Ok(Incoming { from: frame.from, instance: Some(frame.instance), sealing: Sealing::Broadcast, signal })
    }

    fn open_pairwise(&mut self, topic: &Topic, id: CallId, bytes: &[u8]) -> Result<Incoming, Rejected> {
        let call = self.calls.get_mut(&id).ok_or(Rejected::UnknownCall)?;
        let (from, instance, message) = call.open_pairwise(topic, bytes)?;
        let wire::Message { signal, .. } = wire::decode(&message)?;
        check_place(topic, Sealing::Pairwise, &signal)?;
        check_instance(&signal, instance)?;
        Ok(Incoming { from, instance: Some(instance), sealing: Sealing::Pairwise, signal })
    }

    /// Gives these a budget of their own while the call is open.
    fn expect<'a>(&mut self, call: CallId, dids: impl IntoIterator<Item = &'a Did>) {
        let Some(call) = self.calls.get_mut(&call) else { return };
        let news: Vec<_> = dids.into_iter().filter(|did| !self.gate.is_known(did)).collect();
        if !news.is_empty() {
            call.expect(news);
            self.update_known();
        }
    }
}

impl Seal for Sealer {
    fn open_call(&mut self, ticket: &Ticket) {
        if CallId::derive(&ticket.creator, &ticket.settings, &ticket.key.0) != ticket.call {
            return;
        }
        if let Some(call) = self.calls.get_mut(&ticket.call) {
            call.ticket = ticket.clone();
        } else if self.calls.len() < MAX_CALLS {
            self.calls.insert(ticket.call, Call::new(ticket));
        }
        let offered = self.offered.iter().chain(&self.offered_by_strangers);
        let roster = offered.filter(|(call, _)| *call == ticket.call).flat_map(|(_, roster)| roster).cloned();
        let granted = ticket.chain.iter().map(|grant| grant.inviter.clone()).chain([ticket.creator.clone()]);
        let expected: Vec<_> = granted.chain(roster).collect();
        self.expect(ticket.call, &expected);
    }

    fn join(&mut self, call: CallId, instance: Instance) {
        if let Some(call) = self.calls.get_mut(&call) {
            call.join(&self.me, &mut self.rng, instance);
        }
    }

    fn close_call(&mut self, call: CallId) {
        if self.calls.remove(&call).is_some() {
            self.update_known();
        }
    }

    fn set_contacts(&mut self, contacts: &[Did]) {
        self.contacts = contacts.iter().cloned().collect();
        self.update_known();
    }

    fn seal(&mut self, outgoing: &Outgoing, now: Now) -> Option<Vec<u8>> {
        let Outgoing { topic, sealing, to, signal } = outgoing;
        check_place(topic, *sealing, signal).ok()?;
        match (sealing, topic, to) {
            (Sealing::Envelope, Topic::Inbox(did) | Topic::Member(_, did), Some(to)) if did == to => {
                let message = match &signal.body {
                    Body::Offer(offer) => {
                        let offer = Box::new(self.grant(offer, to)?);
                        self.expect(signal.call, &offer.participants);
                        wire::encode(&Signal { id: signal.id, call: signal.call, body: Body::Offer(offer) }, None)?
                    }
                    _ => wire::encode(signal, self.own_block_for(signal)?)?,
                };
                self.seal_envelope(topic, to, &message, now)
            }
            (Sealing::Broadcast, Topic::Call(id), None) => {
                let message = wire::encode(signal, self.own_block_for(signal)?)?;
                self.calls.get_mut(id)?.seal_broadcast(&self.me, &mut self.rng, &message)
            }
            (Sealing::Pairwise, Topic::Member(id, did), Some(to)) if did == to => {
                let message = wire::encode(signal, None)?;
                self.calls.get_mut(id)?.seal_pairwise(topic, to, &message)
            }
            (Sealing::Envelope | Sealing::Broadcast | Sealing::Pairwise, ..) => None,
        }
    }

    fn open(&mut self, topic: &Topic, bytes: &[u8], now: Now) -> Result<Incoming, Rejected> {
        if bytes.len() > MAX_SEALED_BYTES {
            return Err(Rejected::Malformed);
        }
        let [version, suite, ..] = *bytes else { return Err(Rejected::Malformed) };
        if version != VERSION {
            return Err(Rejected::UnknownVersion);
        }
        match topic {
            Topic::Inbox(did) | Topic::Member(_, did) if *did != self.me.did => Err(Rejected::WrongRecipient),
            Topic::Inbox(_) if suite == envelope::SUITE => self.open_envelope(topic, bytes, now),
            Topic::Member(..) if suite == envelope::SUITE => self.open_envelope(topic, bytes, now),
            Topic::Member(call, _) if suite == pairwise::SUITE => self.open_pairwise(topic, *call, bytes),
            Topic::Call(call) if suite == broadcast::SUITE => self.open_broadcast(*call, bytes, now),
            Topic::Inbox(_) | Topic::Member(..) | Topic::Call(_) => Err(suite_error(suite)),
        }
    }
}

impl Sealer {
    /// The own join block where the signal carries one: outer `None` when it should and there is none.
    fn own_block_for(&self, signal: &Signal) -> Option<Option<&[u8]>> {
        let (Body::Hello(presence) | Body::Join(presence)) = &signal.body else { return Some(None) };
        let (instance, block) = self.calls.get(&signal.call)?.own_block()?;
        (instance == presence.instance).then_some(Some(block))
    }
}

/// A known suite in a place where it does not belong, or one of a later version.
fn suite_error(suite: u8) -> Rejected {
    match suite {
        envelope::SUITE | broadcast::SUITE | pairwise::SUITE => Rejected::Malformed,
        _ => Rejected::UnknownVersion,
    }
}

/// Which kinds are said where, under which sealing, and that the call is the topic's. Kinds of later versions may come anywhere.
fn check_place(topic: &Topic, sealing: Sealing, signal: &Signal) -> Result<(), Rejected> {
    match topic {
        Topic::Call(call) | Topic::Member(call, _) if *call != signal.call => return Err(Rejected::WrongRecipient),
        Topic::Inbox(_) | Topic::Call(_) | Topic::Member(..) => {}
    }
    let fits = match &signal.body {
        Body::Offer(_) | Body::Cancel(_) | Body::Answered(_) => {
            matches!((topic, sealing), (Topic::Inbox(_), Sealing::Envelope))
        }
        Body::Ringing | Body::Decline(_) | Body::Join(_) => {
            matches!((topic, sealing), (Topic::Member(..), Sealing::Envelope))
        }
        Body::Hello(_) => matches!((topic, sealing), (Topic::Call(_), Sealing::Broadcast)),
        Body::Leave(_) => {
            matches!((topic, sealing), (Topic::Call(_), Sealing::Broadcast) | (Topic::Member(..), Sealing::Pairwise))
        }
        Body::Sdp(_) | Body::Ice(_) | Body::Restart(_) | Body::State(_) => {
            matches!((topic, sealing), (Topic::Member(..), Sealing::Pairwise))
        }
        Body::Ack(_) => !matches!(topic, Topic::Call(_)),
        Body::Unknown(_) => true,
    };
    if fits { Ok(()) } else { Err(Rejected::Malformed) }
}

/// A stay speaks for itself: `Hello` for exactly this one, `Leave` for this one or one before it.
fn check_instance(signal: &Signal, instance: Instance) -> Result<(), Rejected> {
    let speaks_for_itself = match &signal.body {
        Body::Hello(presence) => presence.instance == instance,
        Body::Leave(left) => *left <= instance,
        Body::Offer(_) | Body::Cancel(_) | Body::Answered(_) | Body::Ringing | Body::Decline(_) | Body::Join(_) => true,
        Body::Sdp(_) | Body::Ice(_) | Body::Restart(_) | Body::State(_) | Body::Ack(_) | Body::Unknown(_) => true,
    };
    if speaks_for_itself { Ok(()) } else { Err(Rejected::BadSignature) }
}

fn remember(rosters: &mut Rosters, call: CallId, participants: &[Did]) {
    rosters.retain(|(known, _)| *known != call);
    if rosters.len() >= OFFERS {
        rosters.pop_front();
    }
    rosters.push_back((call, participants.to_vec()));
}
