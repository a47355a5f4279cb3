//! Who is to be connected, and when to try again.
//!
//! Sans-IO: told the time and what became of each attempt; the task dials.

use std::time::{Duration, Instant};

use libp2p::{
    Multiaddr, PeerId,
    swarm::{
        ConnectionId,
        dial_opts::{DialOpts, PeerCondition},
    },
};

use super::address::{Dialable, MAX_ADDRESSES};
use crate::proto::id::Did;

/// Most targets altogether; further ones are refused, except that a new call or LAN peer replaces the oldest of its kind.
const MAX_TARGETS: usize = 512;
/// Most targets that were found on the local network.
const MAX_FOUND: usize = 64;
/// Tries for a target that nobody asked to keep; then it is forgotten.
const MAX_TRIES: u32 = 8;
/// Most attempts that run beside a target's first one, each with the addresses that were new when it began.
const MAX_BESIDE: usize = 3;
/// First wait after a failure, doubled up to [`MAX_WAIT`].
const FIRST_WAIT: Duration = Duration::from_secs(1);
const MAX_WAIT: Duration = Duration::from_secs(60);
/// A connection that lasted this long was a good one: when it is lost, the next attempt follows at once.
const STABLE: Duration = Duration::from_secs(5);
/// Spreads attempts that one event set off at many nodes.
const AT_ONCE: Duration = Duration::from_millis(100);

/// Why a target is dialled. A target may have several reasons.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reason {
    /// Configured, or a contact's address: never given up.
    Kept,
    /// In a call with us, as this person says. What one person announces stays apart from what others do: nobody can spoil the
    /// addresses of somebody else's node.
    Call(Box<Did>),
    /// Found on the local network.
    Found,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting { until: Instant },
    Dialling(ConnectionId),
    Connected { since: Instant },
}

struct Target {
    /// Never empty.
    addresses: Vec<Multiaddr>,
    /// Those of them that came during an attempt or a back-off and were not tried yet: they wait for neither.
    fresh: Vec<Multiaddr>,
    /// Attempts to reach fresh addresses; [`MAX_BESIDE`] at most. That they fail says nothing about the others, so the
    /// back-off does not count them.
    beside: Vec<ConnectionId>,
    /// Named by `/p2p/…`, or learned from the first connection.
    peer: Option<PeerId>,
    reasons: Vec<Reason>,
    state: State,
    failures: u32,
}

/// See the file's head.
pub(super) struct Dialler {
    local: PeerId,
    /// Oldest first.
    targets: Vec<Target>,
}

impl Dialler {
    pub fn new(local: PeerId) -> Self {
        Self { local, targets: Vec::new() }
    }

    /// Dials, and keeps connected. `connected` says whether the peer is connected already. Returns false when it is
    /// this node itself or when there are too many targets.
    pub fn want(&mut self, to: Dialable, reason: Reason, connected: bool, now: Instant) -> bool {
        if to.peer == Some(self.local) {
            return false;
        }
        let mut own = self.targets.iter_mut().filter(|target| target.announcer() == reason.announcer());
        let known = own.find(|target| match to.peer {
            Some(peer) => target.peer == Some(peer),
            None => target.addresses.contains(&to.address),
        });
        if let Some(target) = known {
            let kept = reason == Reason::Kept;
            let new = target.add(to.address, reason);
            if new && kept {
                target.start_afresh(now);
            }
            return true;
        }
        if !self.make_room(&reason) {
            return false;
        }
        let state = if connected { State::Connected { since: now } } else { State::Waiting { until: now } };
        let (addresses, reasons) = (vec![to.address], vec![reason]);
        let (fresh, beside) = (Vec::new(), Vec::new());
        self.targets.push(Target { addresses, fresh, beside, peer: to.peer, reasons, state, failures: 0 });
        true
    }

    /// This address is no longer kept. An existing connection stays.
    pub fn drop_address(&mut self, address: &Multiaddr) {
        for target in &mut self.targets {
            if target.reasons.contains(&Reason::Kept) && target.addresses.contains(address) {
                target.addresses.retain(|other| other != address);
                target.fresh.retain(|other| other != address);
                if target.addresses.is_empty() {
                    target.reasons.clear();
                }
            }
        }
        self.targets.retain(|target| !target.reasons.is_empty());
    }

    /// The peer is no longer wanted for this reason.
    pub fn drop_peer(&mut self, peer: &PeerId, reason: &Reason) {
        self.targets.retain_mut(|target| {
            if target.peer == Some(*peer) {
                target.reasons.retain(|other| other != reason);
            }
            !target.reasons.is_empty()
        });
    }

    /// Whether the peer is to be kept connected.
    pub fn keeps(&self, peer: &PeerId) -> bool {
        self.targets.iter().any(|target| target.peer == Some(*peer) && target.reasons.contains(&Reason::Kept))
    }

    /// The next attempt that is due. The caller must dial it and report what became of it.
    pub fn due(&mut self, now: Instant) -> Option<DialOpts> {
        let waited = |target: &Target| target.due_at().is_some_and(|until| until <= now);
        let target = self.targets.iter_mut().find(|target| waited(target) || target.due_beside())?;
        // Whoever else dials this peer may do so in vain, at an address that never answers: only a connection is a reason
        // not to dial.
        let to_peer = |peer, addresses| {
            DialOpts::peer_id(peer).addresses(addresses).condition(PeerCondition::Disconnected).build()
        };
        if let Some(peer) = target.peer.filter(|_| !waited(target)) {
            let options = to_peer(peer, std::mem::take(&mut target.fresh));
            target.beside.push(options.connection_id());
            return Some(options);
        }
        let options = match target.peer {
            Some(peer) => to_peer(peer, target.addresses.clone()),
            None => DialOpts::unknown_peer_id().address(target.addresses.first()?.clone()).build(),
        };
        target.fresh.clear();
        target.state = State::Dialling(options.connection_id());
        Some(options)
    }

    /// When [`Self::due`] has something again.
    pub fn next_due(&self) -> Option<Instant> {
        self.targets.iter().filter_map(Target::due_at).min()
    }

    /// A connection to the peer is up, whoever made it.
    pub fn connected(&mut self, id: ConnectionId, peer: PeerId, now: Instant) {
        for target in &mut self.targets {
            target.beside.retain(|other| *other != id);
            if target.state == State::Dialling(id) {
                target.peer = Some(peer);
            }
            if target.peer == Some(peer) && !matches!(target.state, State::Connected { .. }) {
                target.state = State::Connected { since: now };
                target.fresh.clear();
            }
        }
        self.merge(peer);
    }

    /// The attempt failed, and the peer is not connected otherwise.
    pub fn failed(&mut self, id: ConnectionId, now: Instant) {
        for target in &mut self.targets {
            target.beside.retain(|other| *other != id);
            if target.state == State::Dialling(id) {
                target.back_off(now);
            }
        }
        self.targets.retain(|target| target.failures < MAX_TRIES || target.reasons.contains(&Reason::Kept));
    }

    /// The attempt found this node itself: the address is never dialled again.
    pub fn is_self(&mut self, id: ConnectionId) {
        self.targets.retain(|target| target.state != State::Dialling(id));
        for target in &mut self.targets {
            target.beside.retain(|other| *other != id);
        }
    }

    /// The last connection to the peer is gone.
    pub fn disconnected(&mut self, peer: &PeerId, now: Instant) {
        for target in self.targets.iter_mut().filter(|target| target.peer == Some(*peer)) {
            let State::Connected { since } = target.state else { continue };
            if now.saturating_duration_since(since) >= STABLE {
                target.failures = 0;
                target.state = State::Waiting { until: now + jitter(AT_ONCE) };
            } else {
                target.back_off(now);
            }
        }
    }

    /// The network came back or changed: nobody waits for a back-off that an absent network caused.
    pub fn network_changed(&mut self, now: Instant) {
        for target in &mut self.targets {
            if let State::Waiting { until } = &mut target.state {
                target.failures = 0;
                *until = (*until).min(now + jitter(AT_ONCE));
            }
        }
    }

    /// What was an address without a name may turn out to be a peer that is wanted already.
    fn merge(&mut self, peer: PeerId) {
        let mut at = 0;
        while at < self.targets.len() {
            let (before, rest) = self.targets.split_at_mut(at);
            let of_peer = |target: &&mut Target| target.peer == Some(peer) && target.announcer() == rest[0].announcer();
            let Some(first) = before.iter_mut().find(of_peer).filter(|_| rest[0].peer == Some(peer)) else {
                at += 1;
                continue;
            };
            for address in &rest[0].addresses {
                for reason in &rest[0].reasons {
                    first.add(address.clone(), reason.clone());
                }
            }
            self.targets.remove(at);
        }
    }

    fn make_room(&mut self, reason: &Reason) -> bool {
        let only = |target: &Target| match reason {
            Reason::Call(_) => target.announcer().is_some(),
            Reason::Kept | Reason::Found => target.reasons == [reason.clone()],
        };
        let limit = match reason {
            Reason::Kept => return self.targets.len() < MAX_TARGETS,
            Reason::Call(_) => super::MAX_PARTNERS,
            Reason::Found => MAX_FOUND,
        };
        if self.targets.iter().filter(|target| only(target)).count() >= limit
            && let Some(oldest) = self.targets.iter().position(only)
        {
            self.targets.remove(oldest);
        }
        self.targets.len() < MAX_TARGETS
    }
}

impl Reason {
    /// Who says so, where one person's word must not touch another's.
    fn announcer(&self) -> Option<&Did> {
        match self {
            Self::Call(did) => Some(did),
            Self::Kept | Self::Found => None,
        }
    }
}

impl Target {
    /// All reasons of a target have the same.
    fn announcer(&self) -> Option<&Did> {
        self.reasons.iter().find_map(Reason::announcer)
    }

    /// Returns whether the address is new.
    fn add(&mut self, address: Multiaddr, reason: Reason) -> bool {
        if !self.reasons.contains(&reason) {
            self.reasons.push(reason);
        }
        if self.addresses.contains(&address) {
            return false;
        }
        if self.addresses.len() >= MAX_ADDRESSES {
            let oldest = self.addresses.remove(0);
            self.fresh.retain(|other| *other != oldest);
        }
        if !matches!(self.state, State::Connected { .. }) {
            self.fresh.push(address.clone());
        }
        self.addresses.push(address);
        true
    }

    /// The user named another address: what the former ones did does not count.
    fn start_afresh(&mut self, now: Instant) {
        self.failures = 0;
        if let State::Waiting { until } = &mut self.state {
            *until = (*until).min(now);
        }
    }

    /// Whether fresh addresses can be dialled beside whatever goes on.
    fn due_beside(&self) -> bool {
        self.peer.is_some() && !self.fresh.is_empty() && self.beside.len() < MAX_BESIDE
    }

    fn due_at(&self) -> Option<Instant> {
        match self.state {
            State::Waiting { until } => Some(until),
            State::Dialling(_) | State::Connected { .. } => None,
        }
    }

    fn back_off(&mut self, now: Instant) {
        let wait = FIRST_WAIT.saturating_mul(1 << self.failures.min(10)).min(MAX_WAIT);
        self.failures = self.failures.saturating_add(1);
        // ± 20 %, so that nodes that lost each other at one moment do not meet again and again.
        self.state = State::Waiting { until: now + wait.mul_f64(0.8) + jitter(wait.mul_f64(0.4)) };
    }
}

fn jitter(most: Duration) -> Duration {
    most.mul_f64(rand::random_range(0.0..1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(port: u16, peer: Option<PeerId>) -> Dialable {
        let address = format!("/ip4/192.0.2.7/tcp/{port}").parse().unwrap();
        Dialable { address, peer, literal: true }
    }

    fn did(seed: u8) -> Did {
        Did::from_key(ed25519_dalek::SigningKey::from_bytes(&[seed; 32]).verifying_key())
    }

    fn setup() -> (Dialler, Instant) {
        (Dialler::new(PeerId::random()), Instant::now())
    }

    #[test]
    fn a_kept_target_is_dialled_for_ever_with_doubling_waits_up_to_a_minute() {
        let (mut dialler, mut now) = setup();
        assert!(dialler.want(to(1, Some(PeerId::random())), Reason::Kept, false, now));
        let mut expected = 1.0;
        for _ in 0..20 {
            let id = dialler.due(now).expect("it is due").connection_id();
            assert!(dialler.due(now).is_none(), "one attempt at a time");
            dialler.failed(id, now);
            let wait = (dialler.next_due().unwrap() - now).as_secs_f64();
            assert!((0.79 * expected..1.21 * expected).contains(&wait), "{wait} for {expected}");
            now = dialler.next_due().unwrap();
            expected = f64::min(60.0, expected * 2.0);
        }
    }

    #[test]
    fn a_call_partner_is_given_up_after_some_tries() {
        let (mut dialler, mut now) = setup();
        dialler.want(to(1, Some(PeerId::random())), Reason::Call(Box::new(did(1))), false, now);
        for _ in 0..MAX_TRIES {
            let id = dialler.due(now).unwrap().connection_id();
            dialler.failed(id, now);
            now += 2 * MAX_WAIT;
        }
        assert!(dialler.due(now).is_none());
        assert!(dialler.targets.is_empty());
    }

    #[test]
    fn a_lost_good_connection_is_made_again_at_once_and_a_short_one_after_a_wait() {
        let (mut dialler, now) = setup();
        let peer = PeerId::random();
        dialler.want(to(1, None), Reason::Kept, false, now);
        let id = dialler.due(now).unwrap().connection_id();
        dialler.connected(id, peer, now);
        assert_eq!(dialler.next_due(), None);
        dialler.disconnected(&peer, now + STABLE);
        assert!(dialler.next_due().unwrap() <= now + STABLE + AT_ONCE);
        let options = dialler.due(now + STABLE + AT_ONCE).unwrap();
        assert_eq!(options.get_peer_id(), Some(peer), "the peer's name was learned");
        dialler.connected(options.connection_id(), peer, now);
        dialler.disconnected(&peer, now);
        assert!(dialler.next_due().unwrap() > now + FIRST_WAIT / 2);
    }

    #[test]
    fn a_changed_network_ends_every_wait() {
        let (mut dialler, now) = setup();
        dialler.want(to(1, None), Reason::Kept, false, now);
        for _ in 0..3 {
            let id = dialler.due(now + 10 * MAX_WAIT).unwrap().connection_id();
            dialler.failed(id, now);
        }
        dialler.network_changed(now);
        assert!(dialler.next_due().unwrap() <= now + AT_ONCE);
    }

    #[test]
    fn new_addresses_are_dialled_beside_a_pending_attempt_up_to_a_bound() {
        let (mut dialler, now) = setup();
        let peer = PeerId::random();
        dialler.want(to(1, Some(peer)), Reason::Kept, false, now);
        let dead = dialler.due(now).unwrap().connection_id();
        let mut beside = Vec::new();
        for port in 2..20 {
            dialler.want(to(port, Some(peer)), Reason::Found, false, now);
            beside.extend(dialler.due(now).map(|options| options.connection_id()));
            assert!(dialler.due(now).is_none(), "each address once");
        }
        assert_eq!(beside.len(), MAX_BESIDE);
        assert!(dialler.targets[0].fresh.len() <= MAX_ADDRESSES);
        assert_eq!(dialler.targets[0].state, State::Dialling(dead));
        dialler.failed(beside[0], now);
        assert_eq!(dialler.targets[0].state, State::Dialling(dead), "the first attempt goes on");
        let next = dialler.due(now).expect("there is room for the addresses that waited").connection_id();
        dialler.connected(next, peer, now);
        assert!(dialler.due(now).is_none());
        assert_eq!(dialler.next_due(), None);
    }

    #[test]
    fn a_new_address_does_not_wait_for_the_back_off_of_the_former_ones() {
        let (mut dialler, now) = setup();
        let peer = Some(PeerId::random());
        dialler.want(to(1, peer), Reason::Kept, false, now);
        for _ in 0..6 {
            let id = dialler.due(now + 10 * MAX_WAIT).unwrap().connection_id();
            dialler.failed(id, now);
        }
        let until = dialler.next_due().unwrap();
        assert!(until > now + 10 * FIRST_WAIT);
        // What the network tells is tried once at once, and changes nothing otherwise.
        dialler.want(to(2, peer), Reason::Found, false, now);
        let id = dialler.due(now).expect("at once").connection_id();
        dialler.failed(id, now);
        assert!(dialler.due(now).is_none());
        assert_eq!(dialler.next_due(), Some(until));
        // What is kept already is nothing new.
        dialler.want(to(1, peer), Reason::Kept, false, now);
        assert!(dialler.due(now).is_none());
        dialler.want(to(3, peer), Reason::Kept, false, now);
        let id = dialler.due(now).expect("at once").connection_id();
        assert!(dialler.due(now).is_none());
        dialler.failed(id, now);
        assert!(dialler.next_due().unwrap() < now + 2 * FIRST_WAIT, "the back-off begins anew");
    }

    #[test]
    fn addresses_of_one_peer_are_one_target() {
        let (mut dialler, now) = setup();
        let peer = PeerId::random();
        dialler.want(to(1, None), Reason::Kept, false, now);
        dialler.want(to(3, Some(peer)), Reason::Found, false, now);
        assert_eq!(dialler.targets.len(), 2);
        let id = dialler.due(now).unwrap().connection_id();
        dialler.connected(id, peer, now);
        assert_eq!(dialler.targets.len(), 1);
        assert_eq!(dialler.targets[0].addresses.len(), 2);
        dialler.drop_peer(&peer, &Reason::Found);
        assert_eq!(dialler.targets.len(), 1, "it is kept still");
        for port in [1, 3] {
            dialler.drop_address(&to(port, None).address);
        }
        assert!(dialler.targets.is_empty());
    }

    #[test]
    fn what_one_person_announces_does_not_spoil_the_addresses_that_another_did() {
        let (mut dialler, now) = setup();
        let peer = PeerId::random();
        dialler.want(to(1, Some(peer)), Reason::Call(Box::new(did(1))), false, now);
        for port in 2..40 {
            dialler.want(to(port, Some(peer)), Reason::Call(Box::new(did(2))), false, now);
        }
        assert_eq!(dialler.targets[0].addresses, [to(1, None).address]);
        let id = dialler.due(now).expect("the first target").connection_id();
        assert_eq!(dialler.targets[0].state, State::Dialling(id));
        dialler.connected(id, peer, now);
        assert_eq!(dialler.targets.len(), 2, "connected or not, they stay apart");
        assert_eq!(dialler.targets[0].addresses, [to(1, None).address]);
        assert!(dialler.due(now).is_none(), "and one connection is enough");
        dialler.drop_peer(&peer, &Reason::Call(Box::new(did(2))));
        assert_eq!(dialler.targets.len(), 1);
    }

    #[test]
    fn this_node_itself_is_never_dialled_twice() {
        let (mut dialler, now) = setup();
        assert!(!dialler.want(to(1, Some(dialler.local)), Reason::Kept, false, now));
        dialler.want(to(1, None), Reason::Kept, false, now);
        let id = dialler.due(now).unwrap().connection_id();
        dialler.is_self(id);
        assert_eq!(dialler.next_due(), None);
    }

    #[test]
    fn strangers_on_the_local_network_cannot_fill_the_list() {
        let (mut dialler, now) = setup();
        for port in 1..2000 {
            dialler.want(to(port, Some(PeerId::random())), Reason::Found, false, now);
        }
        assert_eq!(dialler.targets.len(), MAX_FOUND);
        assert!(dialler.want(to(1, None), Reason::Kept, false, now));
    }
}
