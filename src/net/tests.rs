//! Real swarms over the loopback.

mod crowd;
mod measure;

use std::collections::BTreeSet;

use libp2p::multiaddr::Protocol;

use super::*;

const QUIC: &str = "/ip4/127.0.0.1/udp/0/quic-v1";
const TCP: &str = "/ip4/127.0.0.1/tcp/0";
/// Nothing below waits for time, only for conditions; this is when a condition counts as never coming.
const PATIENCE: Duration = Duration::from_secs(8);

/// A node that remembers what it was told.
struct Node {
    net: Net,
    events: mpsc::Receiver<NetEvent>,
}

impl Node {
    fn start(listen: &[&str], peers: &[Multiaddr]) -> Self {
        Self::with_key(Keypair::generate_ed25519(), listen, peers)
    }

    fn with_key(keypair: Keypair, listen: &[&str], peers: &[Multiaddr]) -> Self {
        let listen = listen.iter().map(|text| text.parse().unwrap()).collect();
        let (net, events) = start(NetConfig { keypair, listen, peers: peers.to_vec(), mdns: false }).unwrap();
        Self { net, events }
    }

    fn id(&self) -> PeerId {
        self.net.status().peer_id
    }

    async fn status(&self, what: &str, condition: impl Fn(&NetStatus) -> bool) -> NetStatus {
        let mut status = self.net.status.clone();
        let seen = tokio::time::timeout(PATIENCE, status.wait_for(|status| condition(status))).await;
        seen.unwrap_or_else(|_| panic!("never: {what}: {:?}", self.net.status())).unwrap().clone()
    }

    async fn address(&self) -> Multiaddr {
        self.status("listens", |status| !status.listen.is_empty()).await.listen[0].clone()
    }

    async fn connected_to(&self, other: PeerId) {
        self.status("connected", |status| status.peers.iter().any(|peer| peer.peer_id == other)).await;
    }

    async fn event(&mut self, what: &str, wanted: impl Fn(&NetEvent) -> bool) -> NetEvent {
        let search = async {
            loop {
                let event = self.events.recv().await.expect("the task runs");
                if wanted(&event) {
                    return event;
                }
            }
        };
        tokio::time::timeout(PATIENCE, search).await.unwrap_or_else(|_| panic!("never: {what}"))
    }

    async fn told_subscribed(&mut self, topic: &str) {
        self.event("subscribed", |event| *event == NetEvent::Subscribed { topic: topic.into() }).await;
    }

    async fn receives(&mut self, expected: &[u8]) {
        self.event("received", |event| matches!(event, NetEvent::Message { bytes, .. } if bytes == expected)).await;
    }
}

fn without_peer_id(address: &Multiaddr) -> Multiaddr {
    address.iter().filter(|part| !matches!(part, Protocol::P2p(_))).collect()
}

async fn publish_and_receive_both_ways(listen: &str) {
    let mut a = Node::start(&[listen], &[]);
    a.net.subscribe("telecon/a".into());
    let mut b = Node::start(&[listen], &[a.address().await]);
    b.net.subscribe("telecon/b".into());
    a.told_subscribed("telecon/b").await;
    a.net.publish("telecon/b".into(), b"to b".to_vec());
    b.receives(b"to b").await;
    b.net.publish("telecon/a".into(), b"to a".to_vec());
    a.receives(b"to a").await;
}

#[tokio::test]
async fn what_is_published_is_received_over_quic() {
    publish_and_receive_both_ways(QUIC).await;
}

#[tokio::test]
async fn what_is_published_is_received_over_tcp() {
    publish_and_receive_both_ways(TCP).await;
}

/// A message of another author that waits for nobody: published until it arrives, as the engine does.
async fn publish_until_received(from: &Node, to: &mut Node, topic: &str, bytes: &[u8]) {
    let mut again = tokio::time::interval(Duration::from_millis(20));
    let search = async {
        loop {
            tokio::select! {
                _ = again.tick() => from.net.publish(topic.into(), bytes.to_vec()),
                event = to.events.recv() => {
                    let event = event.expect("the task runs");
                    if matches!(&event, NetEvent::Message { bytes: got, .. } if got == bytes) { return }
                }
            }
        }
    };
    tokio::time::timeout(PATIENCE, search).await.expect("the message never arrived");
}

#[tokio::test]
async fn who_is_in_the_middle_forwards_if_and_only_if_it_is_subscribed() {
    let mut b = Node::start(&[QUIC], &[]);
    let hub = b.address().await;
    let (mut a, mut c) = (Node::start(&[], std::slice::from_ref(&hub)), Node::start(&[], std::slice::from_ref(&hub)));
    b.net.subscribe("telecon/both".into());
    for topic in ["telecon/both", "telecon/not-b", "telecon/end"] {
        c.net.subscribe(topic.into());
    }
    b.told_subscribed("telecon/end").await;
    a.told_subscribed("telecon/both").await;
    publish_until_received(&a, &mut c, "telecon/both", b"forwarded").await;
    // C subscribed to this one too, and B even published to it; but B is not subscribed, so nothing of A comes through.
    for _ in 0..10 {
        a.net.publish("telecon/not-b".into(), b"not forwarded".to_vec());
    }
    publish_until_received(&a, &mut c, "telecon/both", b"after it").await;
    b.net.publish("telecon/end".into(), b"end".to_vec());
    let mut seen = BTreeSet::new();
    while !seen.contains(&b"end"[..]) {
        let event = c.event("the end", |event| matches!(event, NetEvent::Message { .. })).await;
        let NetEvent::Message { bytes, .. } = event else { unreachable!("filtered") };
        seen.insert(bytes);
    }
    assert!(!seen.contains(&b"not forwarded"[..]));
}

#[tokio::test]
async fn a_reader_that_sleeps_stops_neither_the_swarm_nor_later_events() {
    let mut a = Node::start(&[QUIC], &[]);
    a.net.subscribe("telecon/a".into());
    let mut b = Node::start(&[], &[a.address().await]);
    b.told_subscribed("telecon/a").await;
    let mut status = tokio::time::interval(Duration::from_millis(5));
    let flooded = async {
        while a.net.counters().events_full == 0 {
            status.tick().await;
            (0..200).for_each(|_| b.net.publish("telecon/a".into(), vec![7; 100]));
        }
    };
    tokio::time::timeout(PATIENCE, flooded).await.expect("the channel fills");
    // The swarm goes on: it connects, and tells of a subscription once there is room.
    let c = Node::start(&[], &[a.address().await]);
    c.net.subscribe("telecon/c".into());
    a.connected_to(c.id()).await;
    a.told_subscribed("telecon/c").await;
}

#[tokio::test]
async fn a_message_above_the_limit_reaches_nobody() {
    let mut a = Node::start(&[QUIC], &[]);
    a.net.subscribe("telecon/a".into());
    let mut b = Node::start(&[], &[a.address().await]);
    b.told_subscribed("telecon/a").await;
    b.net.publish("telecon/a".into(), vec![1; crate::proto::signal::MAX_SEALED_BYTES + 1]);
    b.net.publish("telecon/a".into(), vec![2; crate::proto::signal::MAX_SEALED_BYTES]);
    let first = a.event("a message", |event| matches!(event, NetEvent::Message { .. })).await;
    assert!(matches!(first, NetEvent::Message { bytes, .. } if bytes[0] == 2));
    assert_eq!(b.net.counters().oversize, 1);
}

/// Runs a node in a runtime of its own, so that it can be killed: its sockets and tasks go without a farewell.
fn start_mortal(
    key: &Keypair,
    listen: &'static [&'static str],
    peers: Vec<Multiaddr>,
) -> (tokio::runtime::Runtime, Node) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let key = key.clone();
    let (sender, receiver) = std::sync::mpsc::channel();
    runtime.spawn(async move { sender.send(Node::with_key(key, listen, &peers)).expect("the test waits") });
    (runtime, receiver.recv_timeout(PATIENCE).expect("it starts"))
}

async fn killed_and_restarted(listen: &'static [&'static str], key: Keypair, other: Keypair) {
    let mut a = Node::with_key(other, listen, &[]);
    a.net.subscribe("telecon/a".into());
    let to_a = vec![a.address().await];
    let (runtime, mut b) = start_mortal(&key, listen, to_a.clone());
    b.net.subscribe("telecon/b".into());
    b.net.subscribe("telecon/old".into());
    b.told_subscribed("telecon/a").await;
    a.told_subscribed("telecon/old").await;
    // Later than any crossing attempt could arrive: time itself is the condition here.
    tokio::time::sleep(gate::MAX_SLACK).await;
    let old_address = a.net.status().peers[0].address.clone();
    runtime.shutdown_background();
    drop(b);
    let killed = Instant::now();
    let (runtime, mut b) = start_mortal(&key, listen, to_a);
    b.net.subscribe("telecon/b".into());
    // What waits for B is sent when B is heard to subscribe again, though its former self had subscribed before.
    a.told_subscribed("telecon/b").await;
    // Both directions, and A's subscriptions from before the kill, are known on the new connection.
    publish_until_received(&b, &mut a, "telecon/a", b"back").await;
    publish_until_received(&a, &mut b, "telecon/b", b"welcome").await;
    println!("{} killed and restarted: both ways after {:?}", listen[0], killed.elapsed());
    // What only B's former self was subscribed to is forgotten.
    a.net.publish("telecon/old".into(), b"to the dead".to_vec());
    a.net.publish("telecon/b".into(), b"to the living".to_vec());
    b.receives(b"to the living").await;
    assert_eq!(b.net.counters().unsubscribed, 0);
    let status = a.status("one peer", |status| status.peers.len() == 1).await;
    assert_ne!(status.peers[0].address, old_address);
    runtime.shutdown_background();
}

#[tokio::test]
async fn a_killed_peer_that_comes_back_over_quic_is_heard_before_its_old_connection_times_out() {
    // QUIC's idle time-out is 10 s, longer than the patience of this test.
    let (low, high) = ordered_keys();
    killed_and_restarted(&[QUIC], low.clone(), high.clone()).await;
    killed_and_restarted(&[QUIC], high, low).await;
}

#[tokio::test]
async fn a_killed_peer_that_comes_back_over_tcp_is_heard() {
    let (low, high) = ordered_keys();
    killed_and_restarted(&[TCP], low.clone(), high.clone()).await;
    killed_and_restarted(&[TCP], high, low).await;
}

/// A TCP way to `to` on which everything takes `delay` longer, and on which a killed sender is not noticed. Returns its
/// port.
async fn slow_way(to: Multiaddr, delay: Duration) -> u16 {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    async fn carry(mut from: impl AsyncReadExt + Unpin, mut to: impl AsyncWriteExt + Unpin, delay: Duration) {
        let mut buffer = vec![0; 65536];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            tokio::time::sleep(delay).await;
            if to.write_all(&buffer[..length]).await.is_err() {
                break;
            }
        }
        // Both ends stay open as long as the test runs.
        std::future::pending::<()>().await;
    }
    let port = to.iter().find_map(|part| if let Protocol::Tcp(port) = part { Some(port) } else { None }).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own_port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (near, _) = listener.accept().await.unwrap();
        let far = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
        tokio::join!(carry(near_in, far_out, delay), carry(far_in, near_out, delay));
    });
    own_port
}

#[tokio::test]
async fn a_peer_that_is_killed_right_after_a_slow_handshake_and_comes_back_is_heard() {
    // So soon after it, and from the same side, the new connection looks like one of several parallel attempts: the dead
    // one stays beside it until the peer speaks.
    let mut a = Node::start(&[TCP], &[]);
    a.net.subscribe("telecon/a".into());
    let to_a = a.address().await;
    let slow = slow_way(to_a.clone(), Duration::from_millis(100)).await;
    let key = Keypair::generate_ed25519();
    let (runtime, b) = start_mortal(&key, &[], vec![format!("/ip4/127.0.0.1/tcp/{slow}").parse().unwrap()]);
    b.net.subscribe("telecon/last-words".into());
    a.told_subscribed("telecon/last-words").await;
    runtime.shutdown_background();
    drop(b);
    let (runtime, mut b) = start_mortal(&key, &[], vec![to_a]);
    b.net.subscribe("telecon/b".into());
    b.told_subscribed("telecon/a").await;
    publish_until_received(&b, &mut a, "telecon/a", b"back").await;
    publish_until_received(&a, &mut b, "telecon/b", b"welcome").await;
    runtime.shutdown_background();
}

fn ordered_keys() -> (Keypair, Keypair) {
    let (one, other) = (Keypair::generate_ed25519(), Keypair::generate_ed25519());
    if one.public().to_peer_id() < other.public().to_peer_id() { (one, other) } else { (other, one) }
}

#[tokio::test]
async fn crossing_dials_settle_on_a_connection_that_works_both_ways() {
    for round in 0..10 {
        let listen: &[&str] = if round % 2 == 0 { &[QUIC] } else { &[TCP] };
        let (mut a, mut b) = (Node::start(listen, &[]), Node::start(listen, &[]));
        a.net.subscribe("telecon/a".into());
        b.net.subscribe("telecon/b".into());
        let (to_a, to_b) = (a.address().await, b.address().await);
        a.net.keep(vec![to_b]);
        b.net.keep(vec![to_a]);
        let early = b"early".to_vec();
        publish_until_received(&a, &mut b, "telecon/b", &early).await;
        publish_until_received(&b, &mut a, "telecon/a", &early).await;
        // One connection is left, the same on both sides.
        a.status("one end", |status| status.peers.len() == 1).await;
        b.status("one end", |status| status.peers.len() == 1).await;
        publish_until_received(&a, &mut b, "telecon/b", b"settled").await;
        publish_until_received(&b, &mut a, "telecon/a", b"settled").await;
    }
}

#[tokio::test]
async fn a_peer_that_opens_several_connections_at_once_hears_and_is_heard() {
    use libp2p::{
        Swarm,
        futures::StreamExt,
        gossipsub::{Event, IdentTopic},
        swarm::{
            SwarmEvent,
            dial_opts::{DialOpts, PeerCondition},
        },
    };
    for _ in 0..10 {
        let mut node = Node::start(&[QUIC, TCP], &[]);
        node.net.subscribe("telecon/node".into());
        let status = node.status("listens twice", |status| status.listen.len() == 2).await;
        // Another implementation: it has no gate and closes nothing by itself.
        let (key, topics) = (Keypair::generate_ed25519(), Topics::default());
        let gossip = gossip::build(Keypair::generate_ed25519(), topics, Arc::default(), behaviour::HEARTBEAT).unwrap();
        let config = libp2p::swarm::Config::with_tokio_executor().with_idle_connection_timeout(PATIENCE);
        let mut peer = Swarm::new(behaviour::transport(&key).unwrap(), gossip, key.public().to_peer_id(), config);
        peer.behaviour_mut().subscribe(&IdentTopic::new("telecon/peer")).unwrap();
        for address in status.listen.iter().chain(&status.listen) {
            let to = DialOpts::peer_id(status.peer_id).addresses(vec![without_peer_id(address)]);
            peer.dial(to.condition(PeerCondition::Always).build()).unwrap();
        }
        let node_id = status.peer_id;
        let one_connection = async {
            let (mut told, mut opened, mut closed) = (false, 0, 0);
            while !(told && opened >= 2 && opened - closed == 1) {
                match peer.select_next_some().await {
                    SwarmEvent::Behaviour(Event::Subscribed { peer_id, .. }) => told |= peer_id == node_id,
                    SwarmEvent::ConnectionEstablished { .. } => opened += 1,
                    SwarmEvent::ConnectionClosed { .. } => closed += 1,
                    _other => {}
                }
            }
        };
        tokio::time::timeout(PATIENCE, one_connection).await.expect("one of several connections stays");
        let mut again = tokio::time::interval(Duration::from_millis(20));
        let heard = async {
            loop {
                tokio::select! {
                    // Nobody may be subscribed yet.
                    _ = again.tick() => drop(peer.behaviour_mut().publish(IdentTopic::new("telecon/node"), b"heard")),
                    _ = peer.select_next_some() => {}
                    () = node.receives(b"heard") => return,
                }
            }
        };
        heard.await;
    }
}

/// An address at which packets arrive and nothing ever answers, as long as the socket lives.
fn silent_address() -> (std::net::UdpSocket, Multiaddr) {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = format!("/ip4/127.0.0.1/udp/{}/quic-v1", socket.local_addr().unwrap().port()).parse().unwrap();
    (socket, address)
}

fn did(seed: u8) -> Did {
    Did::from_key(ed25519_dalek::SigningKey::from_bytes(&[seed; 32]).verifying_key())
}

fn contact(peer: PeerId, address: &Multiaddr) -> Contact {
    Contact { peer_id: peer.to_string(), addresses: vec![address.to_string()] }
}

#[tokio::test]
async fn a_living_address_is_dialled_while_a_dead_one_of_the_same_peer_is_still_waited_for() {
    let (a, b) = (Node::start(&[QUIC], &[]), Node::start(&[], &[]));
    let (_silent, dead) = silent_address();
    let dead = dead.with(Protocol::P2p(a.id()));
    let living = a.address().await;
    b.net.keep(vec![dead.clone()]);
    tokio::select! {
        biased;
        // It began after the kept address was dialled, so it is given up after that.
        result = b.net.connect(dead) => panic!("the dead address was waited for: {result:?}"),
        () = async {
            b.net.dial(did(1), contact(a.id(), &living));
            b.connected_to(a.id()).await;
        } => {}
    }
}

#[tokio::test]
async fn any_number_of_announced_nodes_does_not_push_out_a_partner_that_is_connected() {
    let key = Keypair::generate_ed25519();
    let (a, b) = (Node::with_key(key.clone(), &[TCP], &[]), Node::start(&[], &[]));
    let to_a = a.address().await;
    b.net.dial(did(1), contact(a.id(), &to_a));
    b.connected_to(a.id()).await;
    let (_silent, dead) = silent_address();
    for at in 0..MAX_PARTNERS + 8 {
        b.net.dial(did(at as u8), contact(PeerId::random(), &dead));
    }
    // The answer comes after all that was asked for before.
    let own: Multiaddr = format!("/ip4/127.0.0.1/tcp/1/p2p/{}", b.id()).parse().unwrap();
    assert_eq!(b.net.connect(own).await, Err(ConnectError::Oneself));
    a.net.shutdown().await;
    b.status("alone", |status| status.peers.is_empty()).await;
    // Only who is still a partner is dialled again.
    let a = Node::with_key(key, &[&without_peer_id(&to_a).to_string()], &[]);
    b.connected_to(a.id()).await;
}

#[tokio::test]
async fn one_person_who_announces_many_nodes_pushes_out_none_of_another_person() {
    let key = Keypair::generate_ed25519();
    let (_silent, dead) = silent_address();
    // Nobody listens there for now, so that the first attempt fails at once.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let to_a: Multiaddr = format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap();
    let b = Node::start(&[], &[]);
    b.net.dial(did(1), contact(PeerId::from(key.public()), &to_a));
    for _ in 0..2 * MAX_PARTNERS {
        b.net.dial(did(2), contact(PeerId::random(), &dead));
    }
    // The answer comes after all that was asked for before.
    let own: Multiaddr = format!("/ip4/127.0.0.1/tcp/1/p2p/{}", b.id()).parse().unwrap();
    assert_eq!(b.net.connect(own).await, Err(ConnectError::Oneself));
    // Only who is still a partner is dialled again.
    let a = Node::with_key(key, &[&to_a.to_string()], &[]);
    b.connected_to(a.id()).await;
}

#[tokio::test]
async fn a_node_recognises_itself() {
    let node = Node::start(&[QUIC, TCP], &[]);
    let status = node.status("listens twice", |status| status.listen.len() == 2).await;
    for address in &status.listen {
        assert_eq!(node.net.connect(address.clone()).await, Err(ConnectError::Oneself));
        assert_eq!(node.net.connect(without_peer_id(address)).await, Err(ConnectError::Oneself));
    }
}

#[tokio::test]
async fn a_node_recognises_itself_behind_an_address_that_it_does_not_list() {
    let node = Node::start(&["/ip4/0.0.0.0/tcp/0"], &[]);
    let address = node.address().await;
    let port = address.iter().find_map(|part| if let Protocol::Tcp(port) = part { Some(port) } else { None }).unwrap();
    let alias: Multiaddr = format!("/ip4/127.0.0.2/tcp/{port}").parse().unwrap();
    assert_eq!(node.net.connect(alias).await, Err(ConnectError::Oneself));
}

#[tokio::test]
async fn wildcards_are_listed_as_concrete_addresses_and_loopback_only_if_there_is_nothing_else_or_it_was_asked_for() {
    let loopback = |address: &&Multiaddr| address::ip(address).is_some_and(|ip| ip.is_loopback());
    let node = Node::start(&["/ip4/0.0.0.0/tcp/0", QUIC], &[]);
    let asked = |status: &NetStatus| status.listen.iter().any(|address| address.to_string().contains("quic-v1"));
    let status = node.status("both listen", |status| asked(status) && status.listen.len() > 1).await;
    assert!(status.listen.iter().all(|address| !address::ip(address).unwrap().is_unspecified()));
    assert!(status.listen.iter().all(|address| address.iter().last() == Some(Protocol::P2p(status.peer_id))));
    let tcp: Vec<&Multiaddr> = status.listen.iter().filter(|address| address.to_string().contains("/tcp/")).collect();
    let shown_loopback = tcp.iter().copied().filter(|address| loopback(address)).count();
    assert!(shown_loopback == 0 || shown_loopback == tcp.len(), "{:?}", status.listen);
}

#[tokio::test]
async fn a_node_that_stops_tells_its_peers() {
    let mut a = Node::start(&[QUIC], &[]);
    a.net.subscribe("telecon/a".into());
    let mut b = Node::start(&[], &[a.address().await]);
    b.told_subscribed("telecon/a").await;
    b.net.publish("telecon/a".into(), b"farewell".to_vec());
    b.net.shutdown().await;
    a.receives(b"farewell").await;
    // QUIC's idle time-out is longer than the patience of this test.
    a.status("alone", |status| status.peers.is_empty()).await;
}

#[tokio::test]
async fn a_topic_that_was_left_can_be_joined_again_at_once() {
    let mut a = Node::start(&[QUIC], &[]);
    a.net.subscribe("telecon/a".into());
    let mut b = Node::start(&[], &[a.address().await]);
    b.told_subscribed("telecon/a").await;
    a.net.unsubscribe("telecon/a".into());
    a.net.subscribe("telecon/marker".into());
    b.told_subscribed("telecon/marker").await;
    a.net.subscribe("telecon/a".into());
    b.told_subscribed("telecon/a").await;
    publish_until_received(&b, &mut a, "telecon/a", b"again").await;
}

#[tokio::test]
async fn connect_says_in_a_sentence_why_it_did_not() {
    let node = Node::start(&[TCP], &[]);
    let other = Node::start(&[TCP], &[]);
    let right = other.address().await;
    let stranger = PeerId::random();
    let wrong_peer = without_peer_id(&right).with(Protocol::P2p(stranger));
    assert_eq!(node.net.connect(wrong_peer).await, Err(ConnectError::WrongPeer { obtained: other.id() }));
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let refused = node.net.connect(format!("/ip4/127.0.0.1/tcp/{closed}").parse().unwrap()).await;
    let sentence = refused.unwrap_err().to_string();
    assert!(sentence.contains(&closed.to_string()) && sentence.contains("refused"), "{sentence}");
    let websocket = node.net.connect("/ip4/127.0.0.1/tcp/1/ws".parse().unwrap()).await;
    assert_eq!(websocket, Err(ConnectError::Address(AddressError::Unsupported("ws".into()))));
    assert_eq!(node.net.connect(without_peer_id(&right)).await, Ok(other.id()));
    assert_eq!(node.net.connect(right).await, Ok(other.id()), "again, though connected");
    node.connected_to(other.id()).await;
    node.net.shutdown().await;
    assert_eq!(node.net.connect(other.address().await).await, Err(ConnectError::Stopped));
}

#[tokio::test]
async fn a_kept_peer_without_an_id_is_connected_as_soon_as_it_is_there() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let text: &'static str = format!("/ip4/127.0.0.1/tcp/{port}").leak();
    let early = Node::start(&[], &[text.parse().unwrap()]);
    let late = Node::start(&[text], &[]);
    early.connected_to(late.id()).await;
}

#[tokio::test]
async fn a_participant_is_dialled_and_hears_gossip_directly() {
    let mut a = Node::start(&[QUIC], &[]);
    a.net.subscribe("telecon/a".into());
    let b = Node::start(&[QUIC], &[]);
    b.net.subscribe("telecon/b".into());
    let contact = Contact { peer_id: a.id().to_string(), addresses: vec![a.address().await.to_string()] };
    b.net.dial(did(1), Contact { peer_id: "nonsense".into(), addresses: vec!["\u{1b}[31m".into()] });
    b.net.dial(did(1), contact);
    b.connected_to(a.id()).await;
    publish_until_received(&b, &mut a, "telecon/a", b"direct").await;
}

#[tokio::test]
async fn an_address_that_cannot_be_listened_on_is_named_with_its_cause() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let text = format!("/ip4/127.0.0.1/tcp/{}", taken.local_addr().unwrap().port());
    let config = |listen: &[&str]| NetConfig {
        keypair: Keypair::generate_ed25519(),
        listen: listen.iter().map(|text| text.parse().unwrap()).collect(),
        peers: vec![],
        mdns: false,
    };
    let Err(error) = start(config(&[&text])) else { panic!("the port is taken") };
    assert!(error.to_string().contains(&text) && error.to_string().contains("in use"), "{error}");
    let (net, events) = start(config(&[&text, TCP])).expect("one of two works");
    let node = Node { net, events };
    assert_ne!(node.address().await.to_string(), text);
    drop(taken);
}

#[tokio::test]
async fn the_author_of_gossip_is_not_the_node() {
    use libp2p::{futures::StreamExt, gossipsub, swarm::SwarmEvent};
    let node = Node::start(&[QUIC], &[]);
    let topics = Topics::default();
    topics.with(|topics| topics.insert("telecon/a".into()));
    let mut observer =
        behaviour::build(&Keypair::generate_ed25519(), false, topics, Arc::default()).expect("it is set up");
    observer.behaviour_mut().links.gossip.subscribe(&gossipsub::IdentTopic::new("telecon/a")).unwrap();
    observer.dial(node.address().await).unwrap();
    let mut again = tokio::time::interval(Duration::from_millis(20));
    let (mut numbers, mut authors) = (Vec::new(), BTreeSet::new());
    let observe = async {
        while numbers.len() < 3 {
            tokio::select! {
                _ = again.tick() => node.net.publish("telecon/a".into(), vec![1]),
                event = observer.select_next_some() => {
                    let SwarmEvent::Behaviour(behaviour::BehaviourEvent::Links(event)) = event else { continue };
                    let gossipsub::Event::Message { message_id, message, .. } = event else { continue };
                    let (author, number) = (message.source.unwrap(), message.sequence_number.unwrap());
                    assert_eq!(message_id.0, [author.to_bytes(), number.to_be_bytes().to_vec()].concat());
                    authors.insert(author);
                    numbers.push(number);
                }
            }
        }
    };
    tokio::time::timeout(PATIENCE, observe).await.expect("messages arrive");
    assert!(!authors.contains(&node.id()), "the author is the node");
    assert_eq!(authors.len(), 1);
    assert!(numbers.is_sorted_by(|one, next| one < next), "{numbers:?}");
}
