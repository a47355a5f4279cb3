//! Strangers who take all places, and nodes that let nobody in.

use libp2p::{
    PeerId, Swarm,
    core::{
        Transport,
        transport::{ListenerId, TransportEvent},
    },
    futures::StreamExt,
    gossipsub::IdentTopic,
    swarm::NetworkBehaviour,
};

use super::*;

/// Strangers who take all places of that node: each with a key of its own, all from one address.
async fn fill<B>(node: &Node, behaviour: impl Fn() -> B)
where
    B: NetworkBehaviour + Send + 'static,
    B::ToSwarm: Send,
{
    let address = node.address().await;
    for taken in 1..=gate::MAX_INBOUND {
        let key = Keypair::generate_ed25519();
        let config = libp2p::swarm::Config::with_tokio_executor().with_idle_connection_timeout(10 * PATIENCE);
        let transport = behaviour::transport(&key).unwrap();
        let mut stranger = Swarm::new(transport, behaviour(), key.public().to_peer_id(), config);
        stranger.dial(address.clone()).unwrap();
        tokio::spawn(async move { while stranger.next().await.is_some() {} });
        node.status("one more", |status| status.peers.len() == taken).await;
    }
}

async fn contacts_get_in_and_are_heard(mut a: Node) {
    for number in 0..3 {
        let topic = format!("telecon/{number}");
        let b = Node::start(&[], &[a.address().await]);
        b.net.subscribe(topic.clone());
        a.told_subscribed(&topic).await;
        a.connected_to(b.id()).await;
        publish_until_received(&b, &mut a, "telecon/a", topic.as_bytes()).await;
    }
    a.status("not more", |status| status.peers.len() <= gate::MAX_INBOUND).await;
}

#[tokio::test]
async fn a_contact_from_an_unknown_address_gets_in_and_is_heard_though_idle_strangers_fill_all_places() {
    let a = Node::start(&[TCP], &[]);
    a.net.subscribe("telecon/a".into());
    fill(&a, || libp2p::ping::Behaviour::new(libp2p::ping::Config::new())).await;
    contacts_get_in_and_are_heard(a).await;
}

#[tokio::test]
async fn a_contact_gets_in_and_is_heard_though_strangers_from_one_address_who_are_subscribed_fill_all_places() {
    let a = Node::start(&[TCP], &[]);
    a.net.subscribe("telecon/a".into());
    let subscribed = || {
        let author = Keypair::generate_ed25519();
        let mut gossip = gossip::build(author, Topics::default(), Arc::default(), behaviour::HEARTBEAT).unwrap();
        gossip.subscribe(&IdentTopic::new("telecon/theirs")).unwrap();
        gossip
    };
    fill(&a, subscribed).await;
    contacts_get_in_and_are_heard(a).await;
}

#[tokio::test]
async fn connect_tells_a_node_that_closes_the_connection_at_once_from_one_that_lets_it_in() {
    let mut full = behaviour::transport(&Keypair::generate_ed25519()).unwrap();
    full.listen_on(ListenerId::next(), TCP.parse().unwrap()).unwrap();
    let Some(TransportEvent::NewAddress { listen_addr, .. }) = full.next().await else { panic!("it listens") };
    let turn_away = async {
        while let Some(event) = full.next().await {
            if let TransportEvent::Incoming { upgrade, .. } = event {
                drop(upgrade.await);
            }
        }
    };
    let node = Node::start(&[], &[]);
    tokio::select! {
        () = turn_away => panic!("it listens on"),
        result = node.net.connect(listen_addr.clone()) => {
            assert_eq!(result, Err(ConnectError::Refused { address: listen_addr }));
        }
    }
    let peers: Vec<PeerId> = node.net.status().peers.iter().map(|peer| peer.peer_id).collect();
    assert_eq!(peers, []);
}
