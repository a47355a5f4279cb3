//! gossipsub behind the gate: lets connections in, closes replaced ones, and shows gossipsub only what it can cope with.
//!
//! gossipsub tells its subscriptions only to a peer's *first* connection, and all connections of a peer drain one queue.
//! After a peer was killed and came back, the old connection would swallow messages, and the new process would never
//! learn what we are subscribed to. So a replaced connection is reported to gossipsub as closed *before* the new one is
//! reported as the first; and when one of several parallel connections goes, the subscriptions are told again.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{ConnectedPoint, Endpoint, transport::PortUse},
    gossipsub,
    swarm::{
        CloseConnection, ConnectionClosed, ConnectionDenied, ConnectionId, DialFailure, FromSwarm, ListenFailure,
        NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm, behaviour::ConnectionEstablished,
    },
};

use super::{
    gate::{Admission, Gate, Refusal},
    gossip::Gossip,
};

/// How long a peer may take to choose among its parallel connections.
pub(super) const CHOICE: Duration = Duration::from_secs(5);

/// See the file's head.
pub(super) struct Links {
    pub gate: Gate,
    pub gossip: Gossip,
    /// What gossipsub believes to be connected; bounded by the gate.
    shown: HashMap<PeerId, Vec<(ConnectionId, ConnectedPoint)>>,
    /// The verdict on the connection that is just being set up.
    admitted: Option<(ConnectionId, Admission)>,
    /// Connections to close; bounded by the gate.
    closing: VecDeque<(PeerId, ConnectionId)>,
}

impl Links {
    pub fn new(gate: Gate, gossip: Gossip) -> Self {
        Self { gate, gossip, shown: HashMap::new(), admitted: None, closing: VecDeque::new() }
    }

    /// Closes this connection.
    pub fn close(&mut self, peer: PeerId, id: ConnectionId) {
        self.closing.push_back((peer, id));
    }

    /// Closes what should have been chosen among by `now` and was not.
    pub fn settle(&mut self, now: Instant) {
        if let Some(since) = now.checked_sub(CHOICE) {
            self.closing.extend(self.gate.leftovers(since));
        }
    }

    fn admit(&mut self, id: ConnectionId, peer: PeerId, outbound: bool) -> Result<(), ConnectionDenied> {
        let now = Instant::now();
        let mut verdict = self.gate.judge(id, &peer, outbound, now);
        if verdict == Err(Refusal::Crowded) && self.make_room(now) {
            verdict = self.gate.judge(id, &peer, outbound, now);
        }
        let admission = verdict.map_err(ConnectionDenied::new)?;
        self.admitted = Some((id, admission));
        if admission == Admission::Alone {
            self.hide_all(peer);
        }
        Ok(())
    }

    /// The stranger who is worth least gives way. Returns false when everybody may stay.
    fn make_room(&mut self, now: Instant) -> bool {
        let peers = self.gossip.all_peers();
        let subscribed: HashSet<PeerId> =
            peers.filter(|(_, topics)| !topics.is_empty()).map(|(peer, _)| *peer).collect();
        let Some((peer, gone)) = self.gate.make_room(|peer| subscribed.contains(peer), now) else { return false };
        tracing::debug!("strangers fill their places; one of them gives way");
        self.hide_all(peer);
        self.closing.extend(gone.into_iter().map(|id| (peer, id)));
        true
    }

    fn hide_all(&mut self, peer: PeerId) {
        let mut shown = self.shown.remove(&peer).unwrap_or_default();
        while let Some((old, endpoint)) = shown.pop() {
            self.hide(peer, old, &endpoint, shown.len());
        }
    }

    fn hide(&mut self, peer_id: PeerId, connection_id: ConnectionId, endpoint: &ConnectedPoint, remaining: usize) {
        self.gossip.on_swarm_event(FromSwarm::ConnectionClosed(ConnectionClosed {
            peer_id,
            connection_id,
            endpoint,
            cause: None,
            remaining_established: remaining,
        }));
    }

    /// `others` of 0 makes gossipsub tell the peer all subscriptions.
    fn show(&mut self, peer_id: PeerId, connection_id: ConnectionId, endpoint: &ConnectedPoint, others: usize) {
        self.gossip.on_swarm_event(FromSwarm::ConnectionEstablished(ConnectionEstablished {
            peer_id,
            connection_id,
            endpoint,
            failed_addresses: &[],
            other_established: others,
        }));
    }

    fn established(&mut self, event: &ConnectionEstablished<'_>) {
        let (peer, id) = (event.peer_id, event.connection_id);
        let admission = match self.admitted.take() {
            Some((admitted, admission)) if admitted == id => admission,
            Some(_) | None => Admission::Beside,
        };
        let address = event.endpoint.get_remote_address().clone();
        let replaced = self.gate.established(id, peer, event.endpoint.is_dialer(), address, admission, Instant::now());
        self.closing.extend(replaced.into_iter().map(|old| (peer, old)));
        let shown = self.shown.entry(peer).or_default();
        shown.push((id, event.endpoint.clone()));
        let others = shown.len() - 1;
        self.show(peer, id, event.endpoint, others);
    }

    fn closed(&mut self, event: &ConnectionClosed<'_>) {
        let (peer, id) = (event.peer_id, event.connection_id);
        self.gate.closed(id, &peer);
        let Some(shown) = self.shown.get_mut(&peer) else { return };
        let Some(at) = shown.iter().position(|(other, _)| *other == id) else { return };
        shown.remove(at);
        let remaining = shown.len();
        let next = shown.first().cloned();
        if remaining == 0 {
            self.shown.remove(&peer);
        }
        self.hide(peer, id, event.endpoint, remaining);
        if let Some((other, endpoint)) = next {
            self.show(peer, other, &endpoint, 0);
        }
    }
}

impl NetworkBehaviour for Links {
    type ConnectionHandler = THandler<Gossip>;
    type ToSwarm = gossipsub::Event;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        _local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.gate.knocked(id, remote, Instant::now()).map_err(ConnectionDenied::new)
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.admit(id, peer, false)?;
        self.gossip.handle_established_inbound_connection(id, peer, local, remote)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        _peer: Option<PeerId>,
        _addresses: &[Multiaddr],
        _role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.gate.dialled(id, Instant::now()).map_err(ConnectionDenied::new)?;
        Ok(Vec::new())
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.admit(id, peer, true)?;
        self.gossip.handle_established_outbound_connection(id, peer, address, role, port)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(event) => self.established(&event),
            FromSwarm::ConnectionClosed(event) => self.closed(&event),
            FromSwarm::DialFailure(DialFailure { connection_id, .. })
            | FromSwarm::ListenFailure(ListenFailure { connection_id, .. }) => self.gate.failed(connection_id),
            other => self.gossip.on_swarm_event(other),
        }
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, event: THandlerOutEvent<Self>) {
        let others = self.gate.spoke(id, &peer);
        self.closing.extend(others.into_iter().map(|other| (peer, other)));
        if self.shown.contains_key(&peer) {
            self.gossip.on_connection_handler_event(peer, id, event);
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        if let Some((peer_id, id)) = self.closing.pop_front() {
            return Poll::Ready(ToSwarm::CloseConnection { peer_id, connection: CloseConnection::One(id) });
        }
        match self.gossip.poll(cx) {
            // libp2p-gossipsub 0.50.1 sets its heartbeat again when it has fired, and returns without polling it: nobody
            // would wake an idle node for the next one.
            Poll::Pending => self.gossip.poll(cx),
            ready @ Poll::Ready(_) => ready,
        }
    }
}
