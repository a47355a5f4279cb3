//! Builds what the loop owns, in the order in which others can rely on it: identity, socket, database, network, sound, core.
//!
//! The socket comes as early as the greeting's DID allows: clients that are early wait in its queue instead of failing.

use std::{
    collections::BTreeMap,
    os::unix::net::UnixListener,
    sync::Arc,
    time::{Duration, Instant},
};

use libp2p::Multiaddr;
use tokio::{
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tracing::debug;

use super::{
    Answers, Daemon, DaemonError, Doors, Journal, MAX_TASKS, People, Reading, Rung, Watchdog, devices, now, systemd,
};
use crate::{
    audio::Audio,
    config::{self, Config, Paths},
    control::server::{self, Greeting},
    identity::Identity,
    leg::IceConfig,
    net::{self, NetConfig},
    proto::{
        engine::{Engine, EngineConfig},
        id::{DeviceId, Did},
        io::Request,
        node::Node,
        seal::Sealer,
    },
    store::Store,
};

/// Commands of all clients that wait for the loop.
const COMMANDS: usize = 64;
/// Reports of the audio thread; a leg has one first packet.
const AUDIO_EVENTS: usize = 128;
/// Reports of all legs.
const LEG_EVENTS: usize = 256;
/// How long the network may take to find its first address before kept calls are joined again without it; it takes some ms.
const LISTEN_PATIENCE: Duration = Duration::from_millis(500);

/// Must be called inside the runtime.
pub(super) async fn start(
    paths: &Paths,
    config: Config,
    socket: Option<UnixListener>,
) -> Result<(Daemon, Doors), DaemonError> {
    let net_addresses = [("listen", &config.network.listen), ("peers", &config.network.peers)];
    let [listen, peers] = net_addresses.map(|(key, texts)| addresses(key, texts));
    let (listen, peers) = (listen?, peers?);
    let identity = Identity::load_or_create(&paths.state_dir)?;
    let (commands_in, commands) = mpsc::channel(COMMANDS);
    let greeting = Greeting { did: identity.did.clone() };
    let server = server::serve(&paths.socket, socket, greeting, commands_in)?;
    let mut store = Store::open(&paths.state_dir)?;
    let (calls, do_not_disturb) = (store.kept_calls()?, store.do_not_disturb()?);
    let people = People::new(store.contacts()?);
    let seen = store.seen(now().unix_ms)?;
    let journal = Journal::new(&store, identity.did.clone())?;
    let answers = Answers::load(&store, now().unix_ms)?;

    let may_listen = !listen.is_empty();
    let net_config = NetConfig { keypair: identity.node_key, listen, peers, mdns: config.network.mdns };
    let (net, net_events) = net::start(net_config)?;
    let (audio_events_in, audio_events) = mpsc::channel(AUDIO_EVENTS);
    let audio = Audio::start(&devices::with_choices(config.audio.clone(), &store)?, audio_events_in);
    let audio_told = devices::told(audio.status());
    let (found_in, found) = mpsc::channel(MAX_TASKS);
    let (leg_events_in, leg_events) = mpsc::channel(LEG_EVENTS);

    let engine_config = engine_config(&identity.did, identity.device, &config);
    let engine = Engine::new(engine_config, rand::random(), people.policies(), seen);
    let sealer = Sealer::new(identity.signing, identity.did.clone(), identity.device, rand::random());
    let mut daemon = Daemon {
        did: identity.did,
        node: Node::new(engine, sealer),
        net,
        audio,
        store,
        recordings: paths.recordings.clone(),
        to_record: None,
        to_complete: None,
        lost_recording: None,
        people,
        rung: Rung::default(),
        journal,
        answers,
        legs: BTreeMap::new(),
        leg_events: leg_events_in,
        ice: Arc::new(ice_config(&config.network)),
        tasks: Arc::new(Semaphore::new(MAX_TASKS)),
        looks: Arc::new(Semaphore::new(MAX_TASKS)),
        found: found_in,
        choices: devices::Choices::default(),
        present: devices::Present::default(),
        audio_told,
        started: Instant::now(),
        timer_rests_until: Instant::now(),
        skewed_at: None,
        clocks: Reading::now(),
        watchdog: Watchdog::new(systemd::watchdog_patience(), Instant::now()),
        stopping: None,
        config,
    };
    if let Some(call) = daemon.store.unfinished_recording()? {
        daemon.recording_lost(call, now());
    }
    if may_listen && !calls.is_empty() {
        // Who joins again says where it can be dialled, as soon as it knows.
        let _unknown_yet = timeout(LISTEN_PATIENCE, daemon.net.listening()).await;
    }
    daemon.contacts_changed(now());
    daemon.announce_addresses(now());
    let rejoin = daemon.config.call.rejoin;
    for request in [Request::SetDoNotDisturb(do_not_disturb), Request::Restore { calls, rejoin }] {
        if let Err(error) = daemon.node.handle_request(request, now()) {
            debug!(%error, "the core did not take what was kept");
        }
    }
    let doors = Doors { commands, found, audio: audio_events, legs: leg_events, net: net_events, server };
    Ok((daemon, doors))
}

fn addresses(key: &'static str, texts: &[String]) -> Result<Vec<Multiaddr>, DaemonError> {
    let parse = |text: &String| text.parse().map_err(|_| DaemonError::Address { key, text: text.clone() });
    texts.iter().map(parse).collect()
}

fn engine_config(did: &Did, device: DeviceId, config: &Config) -> EngineConfig {
    let (call, audio) = (&config.call, &config.audio);
    EngineConfig {
        did: did.clone(),
        device,
        ring: Duration::from_secs(call.ring_seconds.into()),
        grace: Duration::from_secs(call.grace_seconds.into()),
        reconnect: Duration::from_secs(call.reconnect_seconds.into()),
        auto_accept: call.auto_accept,
        who_may_ring: call.who_may_ring,
        push_to_talk: audio.push_to_talk,
        automute: audio.automute,
    }
}

fn ice_config(network: &config::Network) -> IceConfig {
    IceConfig {
        servers: network.ice_servers.clone(),
        interfaces: network.ice_interfaces.clone(),
        relay_only: network.ice_relay_only,
    }
}
