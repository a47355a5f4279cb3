//! Which connections are let in, and which of two connections to the same peer stays.
//!
//! Pure bookkeeping: it is told what happened and says what is to be done; `links` carries it out.
//!
//! libp2p's own connection-limits behaviour is not used: it never forgets a PeerId, so that strangers with fresh keys
//! make it grow.
//!
//! # Two connections to one peer
//! A peer that was killed and came back must not wait until its old connection times out, and two peers that dial each
//! other at once must not each close a different one. What tells the cases apart is whether the attempts **crossed**:
//! the newer began before its side could know of the older.
//!
//! | attempts | older, newer | what happens |
//! |---|---|---|
//! | did not cross | any | the newer replaces the older at once |
//! | crossed | dialled by different sides | the one that the lower PeerId dialled stays, on both sides, in any order |
//! | crossed | both dialled by us | the older stays (we know both, so nobody else has to choose) |
//! | crossed | both dialled by the peer | both stay until the peer closes one, as it does by the rule above, or speaks on one |
//!
//! A peer that is killed within about two handshakes of connecting and comes back looks like a crossing: it is heard all
//! the same (it speaks, or it dials again after a refusal), but what its former self was subscribed to is only
//! forgotten with its last connection.
//!
//! # When strangers fill their places
//! A contact that comes from an address nobody knows is a stranger, too. So whoever comes gets in, and who is worth
//! least goes: first those that are subscribed to nothing of this protocol, as no telecon ever is, then those from a
//! source with more than [`MAX_PER_SOURCE`] connections; of either the largest source's oldest. Only when there are
//! none of them is the one who comes refused.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use libp2p::{Multiaddr, PeerId, swarm::ConnectionId};

use super::address;

/// Attempts from outside that are not authenticated yet.
const MAX_PENDING_INBOUND: usize = 128;
/// As many of them may come from one source.
const MAX_PENDING_OF_SOURCE: usize = MAX_PENDING_INBOUND / 2;
/// Own attempts in flight.
const MAX_PENDING_OUTBOUND: usize = 128;
/// Established connections that strangers opened.
pub(super) const MAX_INBOUND: usize = 128;
/// As many of them one source keeps, whatever it is subscribed to, when all places are taken (go-libp2p lets in no more).
const MAX_PER_SOURCE: usize = 8;
/// How long a stranger may take to say what it is subscribed to; telecon says so at once.
const PROBATION: Duration = Duration::from_secs(5);
/// Connections that are being closed while one more gives way: who does not read can keep one from being closed.
const MAX_CLOSING: usize = 64;
/// Established connections altogether (known peers included).
const MAX_TOTAL: usize = 512;
/// Established connections of one peer, those that are being closed included.
const MAX_PER_PEER: usize = 8;
/// Peers that get in when strangers fill their places.
const MAX_KNOWN: usize = 1024;
/// Upper bound for the time in which a crossing attempt can still arrive: a slow handshake is no reason to refuse a
/// peer that came back.
pub(super) const MAX_SLACK: Duration = Duration::from_secs(1);

/// Why a connection was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("too many connections")]
    Full,
    /// One of them may give way.
    #[error("too many connections of strangers")]
    Crowded,
    #[error("another connection to this peer stays")]
    Crossed,
}

/// What happens to the older connections when a new one is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// They are replaced.
    Alone,
    /// They stay until the peer has chosen.
    Beside,
}

/// One established connection.
#[derive(Debug, Clone)]
pub(super) struct Link {
    pub id: ConnectionId,
    pub address: Multiaddr,
    pub rtt: Option<Duration>,
    outbound: bool,
    began: Instant,
    established: Instant,
}

/// See the file's head.
pub(super) struct Gate {
    local: PeerId,
    /// Peers with a reserved place. Bounded by [`MAX_KNOWN`]; when full, further ones count as strangers.
    known: HashSet<PeerId>,
    /// With the source.
    pending_inbound: HashMap<ConnectionId, (Instant, Option<IpAddr>)>,
    pending_outbound: HashMap<ConnectionId, Instant>,
    /// Per peer, oldest first; the last is the one in use. No peer without a connection is kept.
    links: HashMap<PeerId, Vec<Link>>,
    /// Connections that were told to close and are not closed yet.
    closing: HashMap<ConnectionId, PeerId>,
}

impl Gate {
    pub fn new(local: PeerId) -> Self {
        Self {
            local,
            known: HashSet::new(),
            pending_inbound: HashMap::new(),
            pending_outbound: HashMap::new(),
            links: HashMap::new(),
            closing: HashMap::new(),
        }
    }

    /// From now on this peer has a place of its own.
    pub fn know(&mut self, peer: PeerId) {
        if self.known.len() < MAX_KNOWN {
            self.known.insert(peer);
        }
    }

    /// It is a stranger again.
    pub fn forget(&mut self, peer: &PeerId) {
        self.known.remove(peer);
    }

    pub fn knows(&self, peer: &PeerId) -> bool {
        self.known.contains(peer)
    }

    /// Somebody knocks; who it is is not known yet.
    pub fn knocked(&mut self, id: ConnectionId, from: &Multiaddr, now: Instant) -> Result<(), Refusal> {
        let source = address::source(from);
        let of_source = self.pending_inbound.values().filter(|(_, other)| *other == source).count();
        if self.pending_inbound.len() >= MAX_PENDING_INBOUND || of_source >= MAX_PENDING_OF_SOURCE {
            return Err(Refusal::Full);
        }
        self.pending_inbound.insert(id, (now, source));
        Ok(())
    }

    /// We dial.
    pub fn dialled(&mut self, id: ConnectionId, now: Instant) -> Result<(), Refusal> {
        if self.pending_outbound.len() >= MAX_PENDING_OUTBOUND {
            return Err(Refusal::Full);
        }
        self.pending_outbound.insert(id, now);
        Ok(())
    }

    /// The attempt came to nothing.
    pub fn failed(&mut self, id: ConnectionId) {
        self.pending_inbound.remove(&id);
        self.pending_outbound.remove(&id);
    }

    /// The peer is authenticated: may the connection be used?
    pub fn judge(&self, id: ConnectionId, peer: &PeerId, outbound: bool, now: Instant) -> Result<Admission, Refusal> {
        let links = self.links.get(peer).map_or(&[][..], Vec::as_slice);
        let leftovers = self.closing.values().filter(|other| *other == peer).count();
        if links.len() + leftovers >= MAX_PER_PEER {
            return Err(Refusal::Full);
        }
        let Some(older) = links.last() else {
            return self.check_room(peer, outbound).map(|()| Admission::Alone);
        };
        let crossed = self.began(id, outbound, now) <= older.established + older.slack(outbound);
        if !crossed {
            return Ok(Admission::Alone);
        }
        match (older.outbound, outbound) {
            (true, true) => Err(Refusal::Crossed),
            (false, false) => Ok(Admission::Beside),
            (true, false) | (false, true) => {
                let lower_dialled = outbound == (self.local < *peer);
                if lower_dialled { Ok(Admission::Alone) } else { Err(Refusal::Crossed) }
            }
        }
    }

    /// The connection is in use. Returns those that are to be closed.
    pub fn established(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        outbound: bool,
        address: Multiaddr,
        admission: Admission,
        now: Instant,
    ) -> Vec<ConnectionId> {
        let began = self.began(id, outbound, now);
        self.failed(id);
        let links = self.links.entry(peer).or_default();
        let replaced: Vec<ConnectionId> = match admission {
            Admission::Alone => links.drain(..).map(|link| link.id).collect(),
            Admission::Beside => Vec::new(),
        };
        links.push(Link { id, address, rtt: None, outbound, began, established: now });
        self.closing.extend(replaced.iter().map(|old| (*old, peer)));
        replaced
    }

    /// A connection is gone. Returns whether the peer has none left.
    pub fn closed(&mut self, id: ConnectionId, peer: &PeerId) -> bool {
        self.closing.remove(&id);
        let Some(links) = self.links.get_mut(peer) else { return true };
        links.retain(|link| link.id != id);
        let gone = links.is_empty();
        if gone {
            self.links.remove(peer);
        }
        gone
    }

    /// Takes over a measured round trip.
    pub fn measured(&mut self, id: ConnectionId, peer: &PeerId, rtt: Duration) {
        if let Some(link) = self.links.get_mut(peer).and_then(|links| links.iter_mut().find(|link| link.id == id)) {
            link.rtt = Some(rtt);
        }
    }

    /// The peer spoke on this connection: of several it has chosen this one. Returns those that are to be closed.
    ///
    /// Whoever drops one of its parallel attempts never speaks on it, and a dead connection is silent.
    pub fn spoke(&mut self, id: ConnectionId, peer: &PeerId) -> Vec<ConnectionId> {
        let Some(links) = self.links.get_mut(peer) else { return Vec::new() };
        if links.len() < 2 || !links.iter().any(|link| link.id == id) {
            return Vec::new();
        }
        let others: Vec<ConnectionId> = links.iter().map(|link| link.id).filter(|other| *other != id).collect();
        links.retain(|link| link.id == id);
        self.closing.extend(others.iter().map(|other| (*other, *peer)));
        others
    }

    /// Connections that stand beside a newer one since before `since`: their owner did not choose, so we do.
    pub fn leftovers(&mut self, since: Instant) -> Vec<(PeerId, ConnectionId)> {
        let mut left = Vec::new();
        for (peer, links) in &mut self.links {
            while links.len() > 1 && links[1].established < since {
                left.push((*peer, links.remove(0).id));
            }
        }
        self.closing.extend(left.iter().map(|(peer, id)| (*id, *peer)));
        left
    }

    /// Whether a peer has more than one connection, so that [`Self::leftovers`] has work to do later.
    pub fn undecided(&self) -> bool {
        self.links.values().any(|links| links.len() > 1)
    }

    /// The connection in use to each peer.
    pub fn peers(&self) -> impl Iterator<Item = (&PeerId, &Link)> {
        self.links.iter().filter_map(|(peer, links)| Some((peer, links.last()?)))
    }

    pub fn is_connected(&self, peer: &PeerId) -> bool {
        self.links.contains_key(peer)
    }

    /// After [`Refusal::Crowded`]: a stranger gives way with all its connections, which are to be closed. `subscribed` says
    /// who is subscribed to something of this protocol.
    pub fn make_room(
        &mut self,
        subscribed: impl Fn(&PeerId) -> bool,
        now: Instant,
    ) -> Option<(PeerId, Vec<ConnectionId>)> {
        if self.closing.len() >= MAX_CLOSING {
            return None;
        }
        let mut crowds: HashMap<Option<IpAddr>, usize> = HashMap::new();
        for (_, link) in self.strangers() {
            *crowds.entry(address::source(&link.address)).or_default() += 1;
        }
        let ranks = self.strangers().filter_map(|(peer, link)| {
            let crowd = crowds.get(&address::source(&link.address)).copied().unwrap_or_default();
            let idle = !subscribed(peer) && now.saturating_duration_since(link.established) >= PROBATION;
            (idle || crowd > MAX_PER_SOURCE).then_some(((!idle, Reverse(crowd), link.established), *peer))
        });
        let (_, peer) = ranks.min_by_key(|(rank, _)| *rank)?;
        let gone: Vec<ConnectionId> = self.links.remove(&peer)?.into_iter().map(|link| link.id).collect();
        self.closing.extend(gone.iter().map(|old| (*old, peer)));
        Some((peer, gone))
    }

    fn check_room(&self, peer: &PeerId, outbound: bool) -> Result<(), Refusal> {
        if self.links.values().map(Vec::len).sum::<usize>() >= MAX_TOTAL {
            return Err(Refusal::Full);
        }
        let stranger = !outbound && !self.known.contains(peer);
        if stranger && self.strangers().count() >= MAX_INBOUND { Err(Refusal::Crowded) } else { Ok(()) }
    }

    /// The connections that strangers opened.
    fn strangers(&self) -> impl Iterator<Item = (&PeerId, &Link)> {
        let strangers = self.links.iter().filter(|(peer, _)| !self.known.contains(*peer));
        let links = strangers.flat_map(|(peer, links)| links.iter().map(move |link| (peer, link)));
        links.filter(|(_, link)| !link.outbound)
    }

    fn began(&self, id: ConnectionId, outbound: bool, now: Instant) -> Instant {
        let inbound = || self.pending_inbound.get(&id).map(|(began, _)| *began);
        let began = if outbound { self.pending_outbound.get(&id).copied() } else { inbound() };
        began.unwrap_or(now)
    }
}

impl Link {
    /// How long after this link came up an attempt can arrive whose side did not know of the link.
    ///
    /// Of our own attempts we know when they began. The peer's was sent up to half a round trip before it arrived, by
    /// a peer that learned of this link up to half a round trip after us; a handshake takes at least one round trip.
    fn slack(&self, newer_outbound: bool) -> Duration {
        if newer_outbound { Duration::ZERO } else { (2 * (self.established - self.began)).min(MAX_SLACK) }
    }
}

#[cfg(test)]
mod tests;
