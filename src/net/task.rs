//! The one task that owns the swarm.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, Swarm,
    core::{ConnectedPoint, transport::ListenerId},
    gossipsub::{self, IdentTopic, MessageAcceptance, PublishError},
    identify, mdns,
    multiaddr::Protocol,
    ping,
    swarm::{
        ConnectionId, DialError, SwarmEvent,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::{
    ConnectError, MAX_OF_ONE, MAX_PARTNERS, NetStatus, PeerInfo,
    address::{self, Dialable},
    behaviour::{Behaviour, BehaviourEvent},
    budget::Budget,
    counters::Counters,
    dialler::{Dialler, Reason},
    gossip::Topics,
    links::CHOICE,
    outlet::Outlet,
};
use crate::proto::{id::Did, signal::MAX_SEALED_BYTES};

/// `connect` calls that wait for an answer; further ones are told so.
const MAX_CONNECTS: usize = 32;
/// mDNS remembers what it is told without a bound; beyond this it is flooded and switched off.
const MAX_MDNS_RECORDS: usize = 1024;
/// At shutdown: for what was just published, then for the connections to close.
const LINGER: Duration = Duration::from_millis(50);
const CLOSE_LIMIT: Duration = Duration::from_millis(500);

/// What [`super::Net`] asks of the task. Subscriptions are no commands: they are a shared set.
pub(super) enum Command {
    Publish { topic: String, bytes: Vec<u8> },
    Keep(Vec<Dialable>),
    Forget(Vec<Multiaddr>),
    Dial { did: Did, peer: PeerId, addresses: Vec<Multiaddr> },
    Connect { to: Dialable, reply: oneshot::Sender<Result<PeerId, ConnectError>> },
    Shutdown(oneshot::Sender<()>),
}

/// See the file's head.
pub(super) struct Task {
    pub swarm: Swarm<Behaviour>,
    pub commands: mpsc::Receiver<Command>,
    pub outlet: Outlet,
    pub topics: Topics,
    pub topics_changed: Arc<Notify>,
    pub status: watch::Sender<NetStatus>,
    pub counters: Arc<Counters>,
    pub dialler: Dialler,
    pub budget: Budget,
    /// Listeners that were asked for a loopback address; bounded by the configuration.
    pub loopback_listeners: HashSet<ListenerId>,
    /// Their addresses: only these are shown beside others.
    pub asked_loopback: HashSet<Multiaddr>,
    /// What gossipsub is subscribed to; bounded by the shared set.
    pub joined: HashSet<String>,
    /// Explicit gossip peers and who announced them, oldest first; [`MAX_PARTNERS`] at most and [`MAX_OF_ONE`] of one person, then
    /// the oldest that is not connected is dropped.
    pub partners: Vec<(Did, PeerId)>,
    /// Until the other side says something, or does not. Bounded by [`MAX_CONNECTS`].
    pub connects: HashMap<ConnectionId, (Multiaddr, oneshot::Sender<Result<PeerId, ConnectError>>)>,
    /// When parallel connections are looked at again.
    pub settle_at: Option<Instant>,
}

impl Task {
    /// Runs until [`Command::Shutdown`], or until every [`super::Net`] is dropped.
    pub async fn run(mut self) {
        loop {
            self.dial_due();
            let events = self.outlet.events();
            let wake = [self.dialler.next_due(), self.settle_at].into_iter().flatten().min();
            tokio::select! {
                biased;
                command = self.commands.recv() => {
                    self.sync_topics();
                    match command {
                        Some(Command::Shutdown(done)) => return self.shut_down(Some(done)).await,
                        Some(command) => self.handle_command(command),
                        None => return self.shut_down(None).await,
                    }
                }
                () = self.topics_changed.notified() => self.sync_topics(),
                room = events.reserve(), if self.outlet.waiting() => {
                    // Nobody listens any more: only the handles keep this task alive.
                    if room.is_err() { return self.shut_down(None).await }
                    drop(room);
                    self.outlet.flush();
                }
                () = sleep_until(wake) => self.settle(),
                event = self.swarm.select_next_some() => self.handle_event(event),
            }
        }
    }

    fn handle_command(&mut self, command: Command) {
        match command {
            Command::Publish { topic, bytes } => self.publish(&topic, bytes),
            Command::Keep(addresses) => addresses.into_iter().for_each(|to| self.want(to, Reason::Kept)),
            Command::Forget(addresses) => addresses.iter().for_each(|address| self.dialler.drop_address(address)),
            Command::Dial { did, peer, addresses } => self.add_partner(did, peer, addresses),
            Command::Connect { to, reply } => self.connect(to, reply),
            Command::Shutdown(done) => drop(done),
        }
    }

    fn publish(&mut self, topic: &str, bytes: Vec<u8>) {
        if bytes.len() > MAX_SEALED_BYTES {
            self.counters.oversize.add();
            return;
        }
        self.outlet.published(topic);
        match self.swarm.behaviour_mut().links.gossip.publish(IdentTopic::new(topic), bytes) {
            // Nobody is there yet: whoever publishes repeats until acknowledged.
            Ok(_) | Err(PublishError::NoPeersSubscribedToTopic | PublishError::Duplicate) => {}
            Err(
                error @ (PublishError::SigningError(_)
                | PublishError::MessageTooLarge
                | PublishError::TransformFailed(_)
                | PublishError::AllQueuesFull(_)),
            ) => {
                tracing::debug!(%error, "a gossip message was not sent");
                self.counters.unsent.add();
            }
        }
    }

    /// Makes gossipsub's subscriptions equal to the shared set.
    fn sync_topics(&mut self) {
        let (add, remove) = self.topics.with(|wanted| {
            let add: Vec<String> = wanted.iter().filter(|topic| !self.joined.contains(*topic)).cloned().collect();
            let remove: Vec<String> = self.joined.iter().filter(|topic| !wanted.contains(*topic)).cloned().collect();
            (add, remove)
        });
        let gossip = &mut self.swarm.behaviour_mut().links.gossip;
        for topic in remove {
            gossip.unsubscribe(&IdentTopic::new(topic.as_str()));
            self.joined.remove(&topic);
        }
        for topic in add {
            match gossip.subscribe(&IdentTopic::new(topic.as_str())) {
                Ok(_) => {
                    self.joined.insert(topic);
                }
                Err(error) => {
                    tracing::debug!(%error, "not a topic of this protocol");
                    self.topics.with(|wanted| wanted.remove(&topic));
                }
            }
        }
    }

    fn want(&mut self, to: Dialable, reason: Reason) {
        let connected = to.peer.is_some_and(|peer| self.swarm.behaviour().links.gate.is_connected(&peer));
        if let (Reason::Kept, Some(peer)) = (&reason, to.peer) {
            self.swarm.behaviour_mut().links.gate.know(peer);
        }
        if !self.dialler.want(to, reason, connected, Instant::now()) {
            tracing::debug!("an address was not added: it is this node's own, or there are too many");
        }
    }

    fn add_partner(&mut self, did: Did, peer: PeerId, addresses: Vec<Multiaddr>) {
        if peer == *self.swarm.local_peer_id() {
            return;
        }
        let partner = (did, peer);
        if !self.partners.contains(&partner) && !self.room_for_partner(&partner.0) {
            return self.dial_once(peer, addresses);
        }
        for address in addresses {
            self.want(Dialable { address, peer: Some(peer), literal: true }, Reason::Call(Box::new(partner.0.clone())));
        }
        // Our own attempt has the addresses; gossipsub, which has none, finds the peer being dialled already.
        self.dial_due();
        self.partners.retain(|other| *other != partner);
        self.partners.push(partner);
        let links = &mut self.swarm.behaviour_mut().links;
        links.gate.know(peer);
        links.gossip.add_explicit_peer(&peer);
    }

    /// Makes room for a new partner, if it can be had. Who announces many nodes pushes out own ones only.
    fn room_for_partner(&mut self, did: &Did) -> bool {
        if self.partners.iter().filter(|(other, _)| other == did).count() >= MAX_OF_ONE {
            return self.drop_partner(|other| other == did);
        }
        self.partners.len() < MAX_PARTNERS || self.drop_partner(|_| true)
    }

    /// Drops the oldest of these partners that is not connected; never one that is. Returns false when all are connected.
    fn drop_partner(&mut self, of: impl Fn(&Did) -> bool) -> bool {
        let links = &mut self.swarm.behaviour_mut().links;
        let mut partners = self.partners.iter();
        let Some(at) = partners.position(|(did, peer)| of(did) && !links.gate.is_connected(peer)) else { return false };
        let (did, peer) = self.partners.remove(at);
        self.dialler.drop_peer(&peer, &Reason::Call(Box::new(did)));
        if self.partners.iter().any(|(_, other)| *other == peer) {
            return true;
        }
        links.gossip.remove_explicit_peer(&peer);
        if !self.dialler.keeps(&peer) {
            links.gate.forget(&peer);
        }
        true
    }

    /// No place is left among the partners: a connection is all that this one gets.
    fn dial_once(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        let options = DialOpts::peer_id(peer).addresses(addresses).condition(PeerCondition::Disconnected).build();
        if let Err(error) = self.swarm.dial(options) {
            tracing::debug!(%error, "could not dial a participant beyond the partners");
        }
    }

    fn connect(&mut self, to: Dialable, reply: oneshot::Sender<Result<PeerId, ConnectError>>) {
        self.connects.retain(|_, (_, reply)| !reply.is_closed());
        // Whoever asked may have gone; then nobody needs the answer.
        let answer = |reply: oneshot::Sender<_>, error| drop(reply.send(Err(error)));
        if self.connects.len() >= MAX_CONNECTS {
            return answer(reply, ConnectError::Busy);
        }
        if to.peer == Some(*self.swarm.local_peer_id()) || self.swarm.listeners().any(|own| *own == to.address) {
            return answer(reply, ConnectError::Oneself);
        }
        let options = match to.peer {
            Some(peer) => {
                DialOpts::peer_id(peer).addresses(vec![to.address.clone()]).condition(PeerCondition::Always).build()
            }
            None => DialOpts::unknown_peer_id().address(to.address.clone()).build(),
        };
        let id = options.connection_id();
        match self.swarm.dial(options) {
            Ok(()) => drop(self.connects.insert(id, (to.address, reply))),
            Err(error) => answer(reply, ConnectError::from_dial(&to.address, error)),
        }
    }

    fn dial_due(&mut self) {
        let now = Instant::now();
        while let Some(options) = self.dialler.due(now) {
            let (id, peer) = (options.connection_id(), options.get_peer_id());
            let Err(error) = self.swarm.dial(options) else { continue };
            tracing::debug!(%error, "could not dial");
            self.dial_failed(id, peer, &error);
        }
    }

    fn dial_failed(&mut self, id: ConnectionId, peer: Option<PeerId>, error: &DialError) {
        let now = Instant::now();
        let connected = peer.filter(|peer| self.swarm.behaviour().links.gate.is_connected(peer));
        match (connected, error) {
            (Some(peer), _) => self.dialler.connected(id, peer, now),
            // `NoAddresses`: the only address is one that we listen on.
            (None, DialError::LocalPeerId { .. } | DialError::NoAddresses) => self.dialler.is_self(id),
            (
                None,
                DialError::DialPeerConditionFalse(_)
                | DialError::Aborted
                | DialError::WrongPeerId { .. }
                | DialError::Denied { .. }
                | DialError::Transport(_),
            ) => self.dialler.failed(id, now),
        }
    }

    fn handle_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.handle_behaviour(event),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.connected(peer_id, connection_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, cause, .. } => {
                tracing::debug!(?cause, "a connection closed");
                let connected = self.swarm.behaviour().links.gate.is_connected(&peer_id);
                if !connected {
                    self.dialler.disconnected(&peer_id, Instant::now());
                }
                if let Some((address, reply)) = self.connects.remove(&connection_id) {
                    // Replaced by another connection to the same peer: that is what was asked for.
                    drop(reply.send(if connected { Ok(peer_id) } else { Err(ConnectError::Refused { address }) }));
                }
                self.publish_status();
            }
            SwarmEvent::OutgoingConnectionError { connection_id, peer_id, error } => {
                tracing::debug!(%error, "could not connect");
                self.dial_failed(connection_id, peer_id, &error);
                if let Some((address, reply)) = self.connects.remove(&connection_id) {
                    let connected = peer_id.filter(|peer| self.swarm.behaviour().links.gate.is_connected(peer));
                    // Refused because another connection to the same peer stays: that is what was asked for.
                    let denied = matches!(error, DialError::Denied { .. });
                    let result = match connected.filter(|_| denied) {
                        Some(peer) => Ok(peer),
                        None => Err(ConnectError::from_dial(&address, error)),
                    };
                    drop(reply.send(result));
                }
            }
            SwarmEvent::NewListenAddr { listener_id, address } => {
                if self.loopback_listeners.contains(&listener_id) {
                    self.asked_loopback.insert(address.clone());
                }
                if address::ip(&address).is_some_and(|ip| !ip.is_loopback()) {
                    self.dialler.network_changed(Instant::now());
                }
                self.tell_listen();
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                self.asked_loopback.remove(&address);
                self.tell_listen();
            }
            SwarmEvent::ListenerClosed { reason, .. } => {
                if let Err(error) = reason {
                    tracing::warn!(%error, "a listener closed");
                }
                self.tell_listen();
            }
            SwarmEvent::ListenerError { error, .. } => tracing::debug!(%error, "a listener failed to accept"),
            // Libp2p's enum is open; nothing else concerns this node.
            _uninteresting => {}
        }
    }

    fn connected(&mut self, peer: PeerId, id: ConnectionId, endpoint: &ConnectedPoint) {
        tracing::debug!(outbound = endpoint.is_dialer(), "a connection is up");
        self.dialler.connected(id, peer, Instant::now());
        if self.dialler.keeps(&peer) {
            self.swarm.behaviour_mut().links.gate.know(peer);
        }
        if self.settle_at.is_none() && self.swarm.behaviour().links.gate.undecided() {
            self.settle_at = Some(Instant::now() + CHOICE);
        }
        self.publish_status();
    }

    fn settle(&mut self) {
        let now = Instant::now();
        if self.settle_at.is_some_and(|at| at <= now) {
            let links = &mut self.swarm.behaviour_mut().links;
            links.settle(now);
            self.settle_at = links.gate.undecided().then(|| now + CHOICE);
        }
    }

    fn handle_behaviour(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Links(gossipsub::Event::Message { propagation_source, message_id, message }) => {
                let links = &mut self.swarm.behaviour_mut().links;
                let known = links.gate.knows(&propagation_source);
                let passes = self.budget.take(propagation_source, known, message.data.len(), Instant::now());
                let verdict = if passes { MessageAcceptance::Accept } else { MessageAcceptance::Ignore };
                links.gossip.report_message_validation_result(&message_id, &propagation_source, verdict);
                if passes {
                    self.outlet.message(message.topic.into_string(), message.data);
                } else {
                    self.counters.over_budget.add();
                }
            }
            BehaviourEvent::Links(gossipsub::Event::Subscribed { topic, .. }) => {
                self.outlet.subscribed(topic.as_str());
            }
            BehaviourEvent::Links(
                gossipsub::Event::Unsubscribed { .. }
                | gossipsub::Event::GossipsubNotSupported { .. }
                | gossipsub::Event::SlowPeer { .. },
            ) => {}
            BehaviourEvent::Identify(event) => {
                if let identify::Event::Received { connection_id, peer_id, .. } = event {
                    self.answered(connection_id, peer_id);
                }
            }
            BehaviourEvent::Ping(event) => self.pinged(event),
            BehaviourEvent::Mdns(event) => self.found(event),
        }
    }

    /// The other side has let this connection in: who refuses one does so only when the handshake is over on this side.
    fn answered(&mut self, id: ConnectionId, peer: PeerId) {
        if let Some((_, reply)) = self.connects.remove(&id) {
            drop(reply.send(Ok(peer)));
        }
    }

    fn pinged(&mut self, event: ping::Event) {
        if event.result.is_ok() {
            self.answered(event.connection, event.peer);
        }
        let links = &mut self.swarm.behaviour_mut().links;
        match event.result {
            Ok(rtt) => {
                links.gate.measured(event.connection, &event.peer, rtt);
                self.publish_status();
            }
            Err(ping::Failure::Unsupported) => {}
            Err(ping::Failure::Timeout | ping::Failure::Other { .. }) => links.close(event.peer, event.connection),
        }
    }

    fn found(&mut self, event: mdns::Event) {
        match event {
            mdns::Event::Discovered(records) => {
                for (peer, address) in records {
                    let Ok(to) = address::check(&address) else { continue };
                    self.want(Dialable { peer: Some(peer), ..to }, Reason::Found);
                }
            }
            mdns::Event::Expired(records) => {
                for (peer, _) in records {
                    self.dialler.drop_peer(&peer, &Reason::Found);
                }
            }
        }
        let mdns = &mut self.swarm.behaviour_mut().mdns;
        if mdns.as_ref().is_some_and(|mdns| mdns.discovered_nodes().len() > MAX_MDNS_RECORDS) {
            tracing::warn!("somebody floods the local network with mDNS records; mDNS is off until the next start");
            *mdns = None.into();
        }
    }

    fn tell_listen(&mut self) {
        self.publish_status();
        self.outlet.listen_changed();
    }

    fn publish_status(&mut self) {
        let peer_id = *self.swarm.local_peer_id();
        let mut peers: Vec<PeerInfo> = self
            .swarm
            .behaviour()
            .links
            .gate
            .peers()
            .map(|(peer, link)| PeerInfo {
                peer_id: *peer,
                address: link.address.clone(),
                rtt_ms: link.rtt.map(|rtt| rtt.as_secs_f64() * 1000.0),
            })
            .collect();
        peers.sort_by_key(|peer| peer.peer_id);
        let listen = dialable_listeners(&self.swarm, &self.asked_loopback);
        self.status.send_replace(NetStatus { peer_id, listen, peers });
    }

    async fn shut_down(mut self, done: Option<oneshot::Sender<()>>) {
        self.drive(LINGER, |_| false).await;
        let peers: Vec<PeerId> = self.swarm.connected_peers().copied().collect();
        for peer in peers {
            // It may have closed meanwhile.
            let _closed_already = self.swarm.disconnect_peer_id(peer);
        }
        self.drive(CLOSE_LIMIT, |swarm| swarm.connected_peers().next().is_none()).await;
        drop(self.swarm);
        if let Some(done) = done {
            let _nobody_waits = done.send(());
        }
    }

    /// Lets the swarm work until `until` holds or the time is over; its events are of no interest any more.
    async fn drive(&mut self, limit: Duration, until: impl Fn(&Swarm<Behaviour>) -> bool) {
        let swarm = &mut self.swarm;
        let work = async {
            while !until(swarm) {
                let _event = swarm.select_next_some().await;
            }
        };
        let _out_of_time = tokio::time::timeout(limit, work).await;
    }
}

/// Concrete addresses with `/p2p/…`. Loopback counts only when it was asked for, or when there is nothing else;
/// link-local IPv6 never (it cannot be dialled without a zone).
fn dialable_listeners(swarm: &Swarm<Behaviour>, asked: &HashSet<Multiaddr>) -> Vec<Multiaddr> {
    let link_local = |address: &&Multiaddr| match address.iter().next() {
        Some(Protocol::Ip6(ip)) => ip.is_unicast_link_local(),
        Some(_) | None => false,
    };
    let all: Vec<&Multiaddr> = swarm.listeners().filter(|address| !link_local(address)).collect();
    let loopback = |address: &Multiaddr| address::ip(address).is_some_and(|ip| ip.is_loopback());
    let only_loopback = all.iter().all(|address| loopback(address));
    let shown = all.into_iter().filter(|address| only_loopback || !loopback(address) || asked.contains(*address));
    let own = Protocol::P2p(*swarm.local_peer_id());
    let mut listen: Vec<Multiaddr> = shown.map(|address| address.clone().with(own.clone())).collect();
    listen.sort();
    listen
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
