//! Real swarms over the loopback.

use std::collections::BTreeSet;

use libp2p::multiaddr::Protocol;
use tokio::runtime::Runtime;

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
