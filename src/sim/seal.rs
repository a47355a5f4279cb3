//! A free, tamper-evident stand-in for sealing, with the real rules: what cannot be opened there cannot be opened here.
//!
//! Sealed bytes are a token with a checksum; what they say lies in the [`Ledger`] that all nodes of a world share. So
//! the world can also read what travels, and [`super::police`] checks it. No key, no cipher: those have tests of their own.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

use crate::proto::{
    id::{CallId, DeviceId, Did, Instance},
    io::Now,
    seal::{Rejected, Seal, Sealer},
    signal::{Body, Grant, Incoming, MAX_CHAIN, Outgoing, Presence, Sealing, Ticket, Topic},
};

use super::{
    agenda::mix,
    coverage::{Coverage, Mark},
    police::Police,
    setup::Person,
};

const CHECK: u64 = 0x5ea1_5ea1_5ea1_5ea1;
/// Envelopes on an inbox are only opened when the clocks agree so far.
const MAX_SKEW_MS: u64 = 120_000;

/// What was sealed: all transmissions of the whole world, by their token.
#[derive(Debug)]
pub struct Sealed {
    pub from: Did,
    pub outgoing: Outgoing,
    pub instance: Option<Instance>,
    to_instance: Option<Instance>,
    chain: Vec<Grant>,
    unix_ms: u64,
}

#[derive(Debug, Default)]
pub struct Ledger {
    pub sealed: Vec<Sealed>,
    pub coverage: Coverage,
    pub police: Police,
}

impl Ledger {
    /// Notes what was sealed; its bytes.
    fn enter(&mut self, sealed: Sealed) -> Vec<u8> {
        let token = self.sealed.len();
        self.sealed.push(sealed);
        Self::bytes(token)
    }

    /// The bytes of what was sealed with that token.
    pub fn bytes(token: usize) -> Vec<u8> {
        let token = token as u64;
        [token.to_le_bytes(), mix(token ^ CHECK).to_le_bytes()].concat()
    }

    /// What somebody seals who obeys no rule but has the keys: as `from`, in the latest stays that both are known with.
    pub fn forge(&mut self, from: &Did, outgoing: Outgoing, with_chain: bool, unix_ms: u64) -> Vec<u8> {
        let call = outgoing.signal.call;
        let mut latest = self.sealed.iter().rev().filter(|sealed| sealed.outgoing.signal.call == call);
        let own = latest.clone().find(|sealed| sealed.from == *from && sealed.instance.is_some());
        let to = outgoing.to.as_ref();
        let theirs = latest.find(|sealed| Some(&sealed.from) == to && sealed.instance.is_some());
        let to_instance = theirs.and_then(|sealed| sealed.instance);
        let said = presence(&outgoing.signal.body).map(|presence| presence.instance);
        let instance = said.or(own.and_then(|sealed| sealed.instance));
        let creator = self.sealed.iter().find_map(|sealed| match &sealed.outgoing.signal.body {
            Body::Offer(offer) if offer.ticket.call == call => Some(offer.ticket.clone()),
            _ => None,
        });
        let mut chain = own.map(|sealed| sealed.chain.clone()).unwrap_or_default();
        if let (true, Some(ticket), Body::Offer(_), Some(to)) = (with_chain, creator, &outgoing.signal.body, to) {
            if ticket.creator != *from {
                chain.push(grant(&ticket.creator, from, call));
            }
            chain.push(grant(from, to, call));
        }
        self.enter(Sealed { from: from.clone(), outgoing, instance, to_instance, chain, unix_ms })
    }

    /// What the bytes say, if the stand-in made them.
    pub fn read(&self, bytes: &[u8]) -> Option<&Sealed> {
        token_of(bytes).and_then(|token| self.sealed.get(token))
    }
}

fn token_of(bytes: &[u8]) -> Option<usize> {
    let (token, check) = bytes.split_first_chunk::<8>()?;
    let token = u64::from_le_bytes(*token);
    (check == mix(token ^ CHECK).to_le_bytes()).then_some(token as usize)
}

/// Keys that a node would have for one call.
#[derive(Debug)]
struct CallKeys {
    ticket: Ticket,
    own: Option<Instance>,
    /// The highest join block of each participant.
    peers: BTreeMap<Did, Instance>,
}

/// The stand-in or the real thing.
pub enum AnySeal {
    Free(Box<FreeSeal>),
    Real(Box<Sealer>),
}

impl AnySeal {
    pub fn new(real: bool, person: &Person, device: DeviceId, seed: [u8; 32], ledger: &Rc<RefCell<Ledger>>) -> Self {
        let did = person.did.clone();
        if real {
            Self::Real(Box::new(Sealer::new(person.key.clone(), did, device, seed)))
        } else {
            Self::Free(Box::new(FreeSeal::new(did, device, Rc::clone(ledger))))
        }
    }

    fn as_seal(&mut self) -> &mut dyn Seal {
        match self {
            Self::Free(seal) => seal.as_mut(),
            Self::Real(seal) => seal.as_mut(),
        }
    }
}

impl Seal for AnySeal {
    fn open_call(&mut self, ticket: &Ticket) {
        self.as_seal().open_call(ticket);
    }
    fn join(&mut self, call: CallId, instance: Instance) {
        self.as_seal().join(call, instance);
    }
    fn close_call(&mut self, call: CallId) {
        self.as_seal().close_call(call);
    }
    fn set_contacts(&mut self, contacts: &[Did]) {
        self.as_seal().set_contacts(contacts);
    }
    fn seal(&mut self, outgoing: &Outgoing, now: Now) -> Option<Vec<u8>> {
        self.as_seal().seal(outgoing, now)
    }
    fn open(&mut self, topic: &Topic, bytes: &[u8], now: Now) -> Result<Incoming, Rejected> {
        self.as_seal().open(topic, bytes, now)
    }
}

#[derive(Debug)]
pub struct FreeSeal {
    did: Did,
    device: DeviceId,
    ledger: Rc<RefCell<Ledger>>,
    calls: BTreeMap<CallId, CallKeys>,
    /// Tokens that were opened, as bits.
    opened: Vec<u64>,
}

impl FreeSeal {
    pub fn new(did: Did, device: DeviceId, ledger: Rc<RefCell<Ledger>>) -> Self {
        Self { did, device, ledger, calls: BTreeMap::new(), opened: Vec::new() }
    }

    /// Marks the token as opened; false if it was.
    fn first_time(&mut self, token: usize) -> bool {
        let (word, bit) = (token / 64, 1 << (token % 64));
        if self.opened.len() <= word {
            self.opened.resize(word + 1, 0);
        }
        let first = self.opened[word] & bit == 0;
        self.opened[word] |= bit;
        first
    }

    /// The instances that the transmission is bound to: the own one and, pairwise, the recipient's.
    fn binding(&self, outgoing: &Outgoing) -> Option<(Option<Instance>, Option<Instance>)> {
        let keys = self.calls.get(&outgoing.signal.call);
        match outgoing.sealing {
            Sealing::Envelope => match presence(&outgoing.signal.body) {
                Some(_) => Some((Some(keys?.own?), None)),
                None => Some((None, None)),
            },
            Sealing::Broadcast => Some((Some(keys?.own?), None)),
            Sealing::Pairwise => Some((Some(keys?.own?), Some(*keys?.peers.get(outgoing.to.as_ref()?)?))),
        }
    }

    /// Remembers a participant's join block; counts how it was met.
    fn learn(&mut self, from: &Did, call: CallId, instance: Instance, by_join: bool) {
        let Some(keys) = self.calls.get_mut(&call) else { return };
        let known = keys.peers.get(from).copied();
        if known.is_none_or(|known| known < instance) {
            keys.peers.insert(from.clone(), instance);
        }
        if known.is_none() {
            let mark = if by_join { Mark::MetByJoin } else { Mark::MetByHello };
            self.ledger.borrow_mut().coverage.mark(mark);
        }
    }

    fn check_keys(&self, sealed: &Sealed) -> Result<(), Rejected> {
        let outgoing = &sealed.outgoing;
        let keys = self.calls.get(&outgoing.signal.call);
        match outgoing.sealing {
            Sealing::Envelope if outgoing.to.as_ref() != Some(&self.did) => Err(Rejected::Undecryptable),
            Sealing::Envelope => match outgoing.topic {
                Topic::Inbox(_) => Ok(()),
                Topic::Call(_) => Err(Rejected::WrongRecipient),
                Topic::Member(..) => keys.map(|_| ()).ok_or(Rejected::UnknownCall),
            },
            Sealing::Broadcast => keys.map(|_| ()).ok_or(Rejected::UnknownCall),
            Sealing::Pairwise => {
                let keys = keys.ok_or(Rejected::UnknownCall)?;
                let bound = keys.own == sealed.to_instance && keys.peers.get(&sealed.from) == sealed.instance.as_ref();
                if outgoing.to.as_ref() == Some(&self.did) && bound { Ok(()) } else { Err(Rejected::Undecryptable) }
            }
        }
    }

    fn check_content(&self, sealed: &Sealed, now: Now) -> Result<(), Rejected> {
        let signal = &sealed.outgoing.signal;
        if matches!(sealed.outgoing.topic, Topic::Inbox(_)) && now.unix_ms.abs_diff(sealed.unix_ms) > MAX_SKEW_MS {
            return Err(Rejected::ClockSkew);
        }
        if let Body::Offer(offer) = &signal.body {
            let ticket = &offer.ticket;
            if ticket.call != signal.call
                || CallId::derive(&ticket.creator, &ticket.settings, &ticket.key.0) != signal.call
            {
                return Err(Rejected::WrongCallId);
            }
            return granted(&sealed.chain, &ticket.creator, &self.did, signal.call);
        }
        match (presence(&signal.body), self.calls.get(&signal.call)) {
            (Some(_), Some(keys)) => granted(&sealed.chain, &keys.ticket.creator, &sealed.from, signal.call),
            (Some(_), None) => Err(Rejected::UnknownCall),
            (None, _) => Ok(()),
        }
    }
}

impl Seal for FreeSeal {
    fn open_call(&mut self, ticket: &Ticket) {
        let keys = CallKeys { ticket: ticket.clone(), own: None, peers: BTreeMap::new() };
        // Who is invited anew holds another ticket.
        self.calls.entry(ticket.call).or_insert(keys).ticket = ticket.clone();
    }

    fn join(&mut self, call: CallId, instance: Instance) {
        if let Some(keys) = self.calls.get_mut(&call) {
            keys.own = Some(instance);
        }
    }

    fn close_call(&mut self, call: CallId) {
        self.calls.remove(&call);
    }

    fn set_contacts(&mut self, _contacts: &[Did]) {}

    fn seal(&mut self, outgoing: &Outgoing, now: Now) -> Option<Vec<u8>> {
        let (instance, to_instance) = self.binding(outgoing)?;
        let call = outgoing.signal.call;
        let chain = if let Body::Offer(offer) = &outgoing.signal.body {
            let mut chain = offer.ticket.chain.clone();
            chain.push(grant(&self.did, outgoing.to.as_ref()?, call));
            chain
        } else if presence(&outgoing.signal.body).is_some() {
            self.calls.get(&call)?.ticket.chain.clone()
        } else {
            Vec::new()
        };
        let mut ledger = self.ledger.borrow_mut();
        let ledger = &mut *ledger;
        ledger.police.sent(&self.did, self.device, outgoing, instance, now, &mut ledger.coverage);
        let (from, outgoing, unix_ms) = (self.did.clone(), outgoing.clone(), now.unix_ms);
        Some(ledger.enter(Sealed { from, outgoing, instance, to_instance, chain, unix_ms }))
    }

    fn open(&mut self, topic: &Topic, bytes: &[u8], now: Now) -> Result<Incoming, Rejected> {
        let ledger = Rc::clone(&self.ledger);
        let token = token_of(bytes).ok_or(Rejected::Undecryptable)?;
        let incoming = {
            let ledger = ledger.borrow();
            let sealed = ledger.sealed.get(token).ok_or(Rejected::Undecryptable)?;
            if sealed.outgoing.topic != *topic {
                return Err(Rejected::WrongRecipient);
            }
            self.check_keys(sealed)?;
            self.check_content(sealed, now)?;
            if !self.first_time(token) {
                return Err(Rejected::Replayed);
            }
            let mut signal = sealed.outgoing.signal.clone();
            if let Body::Offer(offer) = &mut signal.body {
                offer.ticket.chain.clone_from(&sealed.chain);
            }
            if let Body::Join(presence) | Body::Hello(presence) = &mut signal.body {
                presence.granted_by = sealed.chain.last().map(|grant| grant.inviter.clone());
            }
            Incoming { from: sealed.from.clone(), instance: sealed.instance, sealing: sealed.outgoing.sealing, signal }
        };
        if let Some(presence) = presence(&incoming.signal.body) {
            let by_join = incoming.sealing == Sealing::Envelope;
            self.learn(&incoming.from, incoming.signal.call, presence.instance, by_join);
        }
        ledger.borrow_mut().police.heard(&self.did, self.device, &incoming, now);
        Ok(incoming)
    }
}

fn presence(body: &Body) -> Option<&Presence> {
    let (Body::Join(presence) | Body::Hello(presence)) = body else { return None };
    Some(presence)
}

/// A "signature" that only fits its three fields.
fn grant(inviter: &Did, invitee: &Did, call: CallId) -> Grant {
    let mut signature = [0; 64];
    for (at, byte) in inviter.key().as_bytes().iter().chain(invitee.key().as_bytes()).enumerate() {
        signature[at] = byte ^ call.as_bytes()[at % 16];
    }
    Grant { inviter: inviter.clone(), invitee: invitee.clone(), signature }
}

/// Whether the chain leads from the creator to `to` without a gap.
fn granted(chain: &[Grant], creator: &Did, to: &Did, call: CallId) -> Result<(), Rejected> {
    let mut holder = creator;
    for link in chain {
        if link.inviter != *holder || *link != grant(&link.inviter, &link.invitee, call) {
            return Err(Rejected::NotGranted);
        }
        holder = &link.invitee;
    }
    if holder == to && chain.len() <= MAX_CHAIN { Ok(()) } else { Err(Rejected::NotGranted) }
}
