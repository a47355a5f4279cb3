//! Carries sealed signals between nodes: libp2p gossipsub over QUIC and TCP.
//!
//! It knows topics and bytes. What they mean, who may say it and how often it is repeated is decided in [`crate::proto`].
//! One task owns the swarm; [`Net`] is a handle to it that never blocks.
//!
//! Published is not delivered: messages are dropped when a queue is full, when nobody is connected, or on the way.

mod address;
mod behaviour;
mod budget;
mod counters;
mod dialler;
mod gate;
mod gossip;
mod links;
mod outlet;
mod task;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use libp2p::{Multiaddr, PeerId, identity::Keypair, swarm::DialError};
use tokio::sync::{Notify, mpsc, oneshot, watch};

pub use self::{
    address::{AddressError, MAX_ADDRESS_BYTES, MAX_ADDRESSES, parse as parse_address},
    counters::NetCounters,
};
use self::{
    budget::Budget,
    counters::Counters,
    dialler::Dialler,
    gossip::Topics,
    outlet::Outlet,
    task::{Command, Task},
};
use crate::proto::{id::Did, signal::Contact};

/// Events that wait for the daemon. When full, gossip messages are dropped; nothing else is (see [`NetEvent`]).
const EVENTS: usize = 1024;
/// Commands that wait for the task. When full, further ones are dropped and counted; subscriptions are not commands.
const COMMANDS: usize = 1024;
/// Topics that this node may be subscribed to: 34 for each call of 32.
const MAX_TOPICS: usize = 1024;
/// Call partners that gossip is always sent to and that are kept connected; for a new one, the oldest that is not connected
/// is dropped.
const MAX_PARTNERS: usize = 64;
/// As many of them may be announced by one person, who has one device in a call, or two while it moves from one to the other.
const MAX_OF_ONE: usize = 2;
/// How long [`Net::connect`] takes at most.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long [`Net::shutdown`] takes at most.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(1);

/// What the network needs to start.
pub struct NetConfig {
    /// The device's key, never the person's.
    pub keypair: Keypair,
    /// Where to listen. Empty: nowhere, the node only dials.
    pub listen: Vec<Multiaddr>,
    /// Dialled at start and kept connected; `/p2p/<id>` may be left out. What cannot be dialled is logged and left out.
    pub peers: Vec<Multiaddr>,
    /// Find nodes on the local network. Where it does not work, the node starts without.
    pub mdns: bool,
}

/// Why the network did not start.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// Not one of the configured addresses can be listened on.
    #[error("cannot listen on any address of [network] listen: {0}")]
    Listen(String),
    /// Keys, settings or the system's sockets.
    #[error("the network cannot be set up: {0}")]
    Setup(String),
}

/// Why [`Net::connect`] did not connect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The address is of a kind that cannot be dialled.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// It leads to this very node.
    #[error("this address leads to this node itself")]
    Oneself,
    /// Somebody else answered than the one named by `/p2p/…`.
    #[error("another node answered: {obtained}; check the /p2p/ part of the address")]
    WrongPeer {
        /// Who answered.
        obtained: PeerId,
    },
    /// Nobody could be reached.
    #[error("{address} cannot be reached: {cause}")]
    Unreachable {
        /// What was dialled.
        address: Multiaddr,
        /// The operating system's or the transport's words.
        cause: String,
    },
    /// The other side closed the connection before it said a word.
    #[error(
        "{address} closed the connection at once; the other node has no room for more connections now, try again later"
    )]
    Refused {
        /// What was dialled.
        address: Multiaddr,
    },
    /// No answer in 10 s.
    #[error("no answer within {} seconds; is the address right and the other node running?", CONNECT_LIMIT.as_secs())]
    TimedOut,
    /// Too many attempts at once.
    #[error("too many connection attempts at once; try again")]
    Busy,
    /// The network has stopped.
    #[error("the network is stopping")]
    Stopped,
}

/// What the network tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetEvent {
    /// Somebody published to a topic that this node is subscribed to. Dropped when the channel is full.
    Message {
        /// The topic's text.
        topic: String,
        /// At most [`crate::proto::signal::MAX_SEALED_BYTES`]; unopened, from anybody.
        bytes: Vec<u8>,
    },
    /// A connected peer subscribed to the topic: publishing to it reaches somebody now. Several peers may be told as one
    /// while the channel is full; a topic that this node subscribed or published to is never left out.
    Subscribed {
        /// The topic's text, unchecked beyond its prefix and length.
        topic: String,
    },
    /// [`NetStatus::listen`] may have changed.
    ListenChanged,
}

/// A picture of the network, not older than the last change.
#[derive(Debug, Clone, PartialEq)]
pub struct NetStatus {
    /// This node.
    pub peer_id: PeerId,
    /// Where it can be dialled: concrete, with `/p2p/…`. Loopback only if configured so or if there is nothing else.
    pub listen: Vec<Multiaddr>,
    /// Connected peers, ordered by id.
    pub peers: Vec<PeerInfo>,
}

/// A connected peer.
#[derive(Debug, Clone, PartialEq)]
pub struct PeerInfo {
    /// Who.
    pub peer_id: PeerId,
    /// The far end of the connection in use.
    pub address: Multiaddr,
    /// Latest ping, in ms.
    pub rtt_ms: Option<f64>,
}

/// A handle to the network. When the last one is dropped, the network stops.
#[derive(Clone)]
pub struct Net {
    commands: mpsc::Sender<Command>,
    topics: Topics,
    topics_changed: Arc<Notify>,
    status: watch::Receiver<NetStatus>,
    counters: Arc<Counters>,
}

/// Starts listening and dialling. Must be called inside a tokio runtime.
///
/// # Errors
/// [`NetError`] when there is no address to listen on although some are configured. If only some of them fail, each is
/// logged and the node goes on.
pub fn start(config: NetConfig) -> Result<(Net, mpsc::Receiver<NetEvent>), NetError> {
    let (topics, counters) = (Topics::default(), Arc::new(Counters::default()));
    let mut swarm = behaviour::build(&config.keypair, config.mdns, topics.clone(), counters.clone())?;
    let loopback_listeners = listen(&mut swarm, &config.listen)?;
    let local = *swarm.local_peer_id();
    let (commands, command_queue) = mpsc::channel(COMMANDS);
    let (events, event_queue) = mpsc::channel(EVENTS);
    let (status, status_seen) = watch::channel(NetStatus { peer_id: local, listen: Vec::new(), peers: Vec::new() });
    let topics_changed = Arc::new(Notify::new());
    let task = Task {
        swarm,
        commands: command_queue,
        outlet: Outlet::new(events, counters.clone(), topics.clone()),
        topics: topics.clone(),
        topics_changed: topics_changed.clone(),
        status,
        counters: counters.clone(),
        dialler: Dialler::new(local),
        budget: Budget::new(Instant::now()),
        loopback_listeners,
        asked_loopback: HashSet::new(),
        joined: HashSet::new(),
        partners: Vec::new(),
        connects: HashMap::new(),
        settle_at: None,
    };
    let net = Net { commands, topics, topics_changed, status: status_seen, counters };
    net.keep(config.peers);
    tokio::spawn(task.run());
    Ok((net, event_queue))
}

/// Returns the listeners that were asked for a loopback address.
fn listen(
    swarm: &mut libp2p::Swarm<behaviour::Behaviour>,
    addresses: &[Multiaddr],
) -> Result<HashSet<libp2p::core::transport::ListenerId>, NetError> {
    let (mut asked_loopback, mut problems) = (HashSet::new(), Vec::new());
    for (at, address) in addresses.iter().enumerate() {
        match swarm.listen_on(address.clone()) {
            Ok(id) => {
                if address::ip(address).is_some_and(|ip| ip.is_loopback()) {
                    asked_loopback.insert(id);
                }
            }
            Err(error) => {
                let cause = root_cause(&error);
                // The address itself is a matter for DEBUG, or for the error that ends the start.
                tracing::warn!("cannot listen on address {} of [network] listen: {cause}", at + 1);
                tracing::debug!(%address, "that address");
                problems.push(format!("{address}: {cause}"));
            }
        }
    }
    if !addresses.is_empty() && problems.len() == addresses.len() {
        return Err(NetError::Listen(problems.join("; ")));
    }
    Ok(asked_loopback)
}

impl Net {
    /// Subscribes, if it is a topic of this protocol. Never lost: subscriptions are a shared set (`MAX_TOPICS` at most;
    /// further ones are refused and counted), which the task follows before it carries out any later command.
    pub fn subscribe(&self, topic: String) {
        let full = self.topics.with(|topics| {
            let full = topics.len() >= MAX_TOPICS && !topics.contains(&topic);
            if !full {
                topics.insert(topic);
            }
            full
        });
        if full {
            tracing::warn!("too many topics; one was not subscribed to");
            self.counters.commands_full.add();
        }
        self.topics_changed.notify_one();
    }

    /// Takes a subscription back.
    pub fn unsubscribe(&self, topic: String) {
        self.topics.with(|topics| topics.remove(&topic));
        self.topics_changed.notify_one();
    }

    /// Publishes to all connected peers that are subscribed to the topic; they forward it. Dropped and counted when the
    /// command queue is full or when it is longer than [`crate::proto::signal::MAX_SEALED_BYTES`].
    pub fn publish(&self, topic: String, bytes: Vec<u8>) {
        self.command(Command::Publish { topic, bytes });
    }

    /// Dials these addresses and keeps them connected, beside those that are kept already (512 at most). What cannot be
    /// dialled is logged and left out.
    pub fn keep(&self, addresses: Vec<Multiaddr>) {
        let checked = addresses.iter().filter_map(|address| match address::check(address) {
            Ok(dialable) => Some(dialable),
            Err(error) => {
                tracing::warn!(%error, "a peer's address is left out");
                tracing::debug!(%address, "that address");
                None
            }
        });
        self.command(Command::Keep(checked.collect()));
    }

    /// These addresses are no longer kept (a contact was removed); an open connection stays.
    pub fn forget(&self, addresses: Vec<Multiaddr>) {
        let checked = addresses.iter().filter_map(|address| address::check(address).ok());
        self.command(Command::Forget(checked.map(|dialable| dialable.address).collect()));
    }

    /// A participant of a call announced this node: it is dialled unless connected, and gossip is always sent to it directly.
    /// Nonsense is ignored; at most [`MAX_ADDRESSES`] addresses are used, and no names.
    /// While `MAX_PARTNERS` of them, or `MAX_OF_ONE` of the same person, are connected, a further one is dialled once and that
    /// is all.
    pub fn dial(&self, did: Did, contact: Contact) {
        match address::check_contact(&contact) {
            Some((peer, addresses)) => self.command(Command::Dial { did, peer, addresses }),
            None => tracing::debug!("a participant told no address that can be dialled"),
        }
    }

    /// Dials now, until the other side lets the connection in; one that the peer has already is replaced. `/p2p/<id>` may be
    /// left out. Takes at most 10 s.
    ///
    /// # Errors
    /// [`ConnectError`], a sentence for the user.
    pub async fn connect(&self, address: Multiaddr) -> Result<PeerId, ConnectError> {
        let to = address::check(&address)?;
        let (reply, answer) = oneshot::channel();
        self.commands.try_send(Command::Connect { to, reply }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => ConnectError::Busy,
            mpsc::error::TrySendError::Closed(_) => ConnectError::Stopped,
        })?;
        match tokio::time::timeout(CONNECT_LIMIT, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(ConnectError::Stopped),
            Err(_) => Err(ConnectError::TimedOut),
        }
    }

    /// The latest picture; never waits for the task.
    pub fn status(&self) -> NetStatus {
        self.status.borrow().clone()
    }

    /// Waits until there is an address at which this node can be dialled, or until the network has stopped.
    pub async fn listening(&self) {
        let mut status = self.status.clone();
        let _stopped = status.wait_for(|status| !status.listen.is_empty()).await;
    }

    /// How often something was dropped.
    pub fn counters(&self) -> NetCounters {
        self.counters.snapshot()
    }

    /// Lets what was just published go out, closes all connections and stops. Takes at most 1 s.
    pub async fn shutdown(&self) {
        let (done, closed) = oneshot::channel();
        let work = async {
            if self.commands.send(Command::Shutdown(done)).await.is_ok() {
                let _closed_or_gone = closed.await;
            }
        };
        let _out_of_time = tokio::time::timeout(SHUTDOWN_LIMIT, work).await;
    }

    fn command(&self, command: Command) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.commands.try_send(command) {
            self.counters.commands_full.add();
        }
    }
}

impl ConnectError {
    fn from_dial(address: &Multiaddr, error: DialError) -> Self {
        let unreachable = |cause: String| Self::Unreachable { address: address.clone(), cause };
        match error {
            DialError::LocalPeerId { .. } => Self::Oneself,
            DialError::WrongPeerId { obtained, .. } => Self::WrongPeer { obtained },
            DialError::Transport(mut errors) => match errors.pop() {
                Some((_, error)) => unreachable(root_cause(&error)),
                None => unreachable("no transport took it".into()),
            },
            DialError::Denied { cause } => unreachable(root_cause(&cause)),
            error @ (DialError::NoAddresses | DialError::DialPeerConditionFalse(_) | DialError::Aborted) => {
                unreachable(error.to_string())
            }
        }
    }
}

/// The innermost error's words, without control characters.
fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string().chars().filter(|char| !char.is_control()).take(200).collect()
}
