//! A network in one process that loses, delays and fails, between two ends on 127.0.0.1.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{net::UdpSocket, task::JoinSet};

use crate::proto::{io::Role, signal::Ice};

/// A bad network between two ends that each have one candidate: UDP relays that lose and delay.
pub(super) struct BadNetwork {
    loss: f64,
    pub(super) delay: Duration,
    /// While set, nothing passes.
    pub(super) outage: Arc<AtomicBool>,
    /// Stands for a towards b, and the other way round.
    fronts: [Arc<UdpSocket>; 2],
    /// Where a and b really are.
    behind: Arc<Mutex<[Option<SocketAddr>; 2]>>,
    tasks: JoinSet<()>,
}

impl BadNetwork {
    pub(super) async fn new(loss: f64, delay: Duration) -> Self {
        Self::seeded(loss, delay, rand::random()).await
    }

    /// One that loses the same packets each time, as far as the ends send the same.
    pub(super) async fn seeded(loss: f64, delay: Duration, seed: u64) -> Self {
        let front = || async { Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap()) };
        let fronts = [front().await, front().await];
        let (outage, behind, tasks) = (Arc::default(), Arc::default(), JoinSet::new());
        let mut network = Self { loss, delay, outage, fronts, behind, tasks };
        for side in [0, 1] {
            let relay = network.relay(side, StdRng::seed_from_u64(seed.wrapping_add(side as u64)));
            network.tasks.spawn(relay);
        }
        network
    }

    /// One that only fails when it is told to.
    pub(super) async fn quiet() -> Self {
        Self::new(0.0, Duration::ZERO).await
    }

    /// What arrives at the front of `side` goes on to `side` from the other front.
    fn relay(&self, side: usize, mut rng: StdRng) -> impl Future<Output = ()> + Send + use<> {
        let (into, out) = (Arc::clone(&self.fronts[side]), Arc::clone(&self.fronts[1 - side]));
        let (behind, loss, delay) = (Arc::clone(&self.behind), self.loss, self.delay);
        let outage = Arc::clone(&self.outage);
        async move {
            let mut buffer = [0; 2048];
            while let Ok((length, _)) = into.recv_from(&mut buffer).await {
                let to = behind.lock().unwrap()[side];
                let passes = !outage.load(Ordering::Relaxed) && rng.random::<f64>() >= loss;
                let (Some(to), true) = (to, passes) else { continue };
                let (packet, out) = (buffer[..length].to_vec(), Arc::clone(&out));
                tokio::spawn(async move {
                    tokio::time::sleep(delay).await;
                    out.send_to(&packet, to).await.ok();
                });
            }
        }
    }

    /// Replaces a side's IPv4 candidate by its front and drops the others.
    pub(super) fn change(&self, from: Role, ice: &mut Ice) {
        let side = usize::from(from == Role::Answerer);
        ice.candidates.retain(|candidate| candidate.contains(" 127.0.0.1 "));
        for candidate in &mut ice.candidates {
            let mut fields: Vec<String> = candidate.split(' ').map(String::from).collect();
            self.behind.lock().unwrap()[side] = format!("127.0.0.1:{}", fields[5]).parse().ok();
            fields[5] = self.fronts[side].local_addr().unwrap().port().to_string();
            *candidate = fields.join(" ");
        }
    }
}
