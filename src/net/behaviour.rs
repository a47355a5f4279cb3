//! The swarm: transports, protocols and their settings.

use std::{sync::Arc, time::Duration};

use libp2p::{
    PeerId, Swarm, Transport,
    core::{
        muxing::StreamMuxerBox,
        transport::{Boxed, dummy::DummyTransport, timeout::TransportTimeout},
        upgrade,
    },
    dns, identify,
    identity::Keypair,
    mdns, noise, ping, quic,
    swarm::{NetworkBehaviour, behaviour::toggle::Toggle},
    tcp, yamux,
};

use super::{
    NetError,
    counters::Counters,
    gate::Gate,
    gossip::{self, Topics},
    links::Links,
};

/// Each handshake over TCP and QUIC ends by then; `connect` promises 10 s.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(8);
/// A connection with no stream on it; one that carries gossip is never idle.
const IDLE_LIMIT: Duration = Duration::from_secs(600);
/// One small packet each way; a peer that answers none is disconnected after interval plus limit.
const PING_INTERVAL: Duration = Duration::from_secs(15);
const PING_LIMIT: Duration = Duration::from_secs(10);
/// 1 s costs an idle daemon next to nothing; mesh repair in bigger networks takes up to that long, and what matters
/// at a fresh topic does not wait for it (flood publishing, `Subscribed`, repetition).
pub(super) const HEARTBEAT: Duration = Duration::from_secs(1);
/// gossip in and out, ping in and out, identify; a stranger's streams buffer 256 KiB each.
const MAX_STREAMS: usize = 32;
/// Unread bytes of one QUIC stream and connection; an RPC has at most 64 KiB.
const QUIC_STREAM_BYTES: u32 = 256 * 1024;
const QUIC_CONNECTION_BYTES: u32 = 1024 * 1024;

/// Everything that runs on a connection. Whoever may refuse one (`links`) comes last, as the others would not learn of it.
#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    pub identify: identify::Behaviour,
    pub ping: ping::Behaviour,
    pub mdns: Toggle<mdns::tokio::Behaviour>,
    pub links: Links,
}

/// Builds the swarm; it does not listen yet. Must be called inside a tokio runtime.
pub(super) fn build(
    keypair: &Keypair,
    with_mdns: bool,
    topics: Topics,
    counters: Arc<Counters>,
) -> Result<Swarm<Behaviour>, NetError> {
    let local = keypair.public().to_peer_id();
    let identify = identify::Config::new("telecon/1".into(), keypair.public())
        .with_agent_version(concat!("telecon/", env!("CARGO_PKG_VERSION")).into())
        .with_hide_listen_addrs(true)
        .with_cache_size(0);
    // A key made at each start: `from` tells no forwarder which node, let alone which person, speaks.
    let gossip = gossip::build(Keypair::generate_ed25519(), topics, counters, HEARTBEAT).map_err(NetError::Setup)?;
    let behaviour = Behaviour {
        identify: identify::Behaviour::new(identify),
        ping: ping::Behaviour::new(ping::Config::new().with_interval(PING_INTERVAL).with_timeout(PING_LIMIT)),
        mdns: Toggle::from(with_mdns.then(|| build_mdns(local)).flatten()),
        links: Links::new(Gate::new(local), gossip),
    };
    let config = libp2p::swarm::Config::with_tokio_executor()
        .with_idle_connection_timeout(IDLE_LIMIT)
        .with_max_negotiating_inbound_streams(MAX_STREAMS)
        .with_smart_dial();
    Ok(Swarm::new(transport(keypair)?, behaviour, local, config))
}

/// QUIC, and TCP with noise and yamux, to IP addresses and names.
fn transport(keypair: &Keypair) -> Result<Boxed<(PeerId, StreamMuxerBox)>, NetError> {
    let mut quic = quic::Config::new(keypair);
    quic.max_stream_data = QUIC_STREAM_BYTES;
    quic.max_connection_data = QUIC_CONNECTION_BYTES;
    quic.max_concurrent_stream_limit = MAX_STREAMS as u32;
    let mut muxer = yamux::Config::default();
    muxer.set_max_num_streams(MAX_STREAMS);
    let noise = noise::Config::new(keypair).map_err(|error| NetError::Setup(error.to_string()))?;
    let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
        .upgrade(upgrade::Version::V1Lazy)
        .authenticate(noise)
        .multiplex(muxer);
    let direct = quic::tokio::Transport::new(quic)
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
        .or_transport(tcp.map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer))))
        .map(|either, _| either.into_inner());
    // The system's settings are read twice, as a failed attempt would keep the transport.
    let named = if dns::tokio::Transport::system(DummyTransport::<()>::new()).is_ok() {
        dns::tokio::Transport::system(direct).map_err(|error| NetError::Setup(error.to_string()))?
    } else {
        tracing::warn!("this machine has no usable resolver settings; names in multiaddrs are not found");
        dns::tokio::Transport::custom(direct, dns::ResolverConfig::default(), dns::ResolverOpts::default())
    };
    Ok(TransportTimeout::new(named, HANDSHAKE_LIMIT).boxed())
}

/// The local network is a convenience: without it the node starts all the same.
fn build_mdns(local: PeerId) -> Option<mdns::tokio::Behaviour> {
    match mdns::tokio::Behaviour::new(mdns::Config::default(), local) {
        Ok(mdns) => Some(mdns),
        Err(error) => {
            tracing::warn!(%error, "mDNS does not work here; nodes on the local network are not found by themselves");
            None
        }
    }
}
