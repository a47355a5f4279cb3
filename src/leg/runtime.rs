//! The library's driver task on a leash: it can be stopped from outside, and its end is seen.
//!
//! The driver may end by itself (a DTLS error) or panic without any event, and a connection that is dropped without
//! `close()` leaves it running. Its sockets repeat DTLS handshake packets, and see when the library refuses the peer's
//! certificate, which it tells nobody but the peer. Everything else is tokio's.

use std::{
    future::Future,
    io::{self, IoSliceMut},
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio_util::{sync::CancellationToken, task::TaskTracker};
use webrtc::runtime::{
    AsyncInterval, AsyncTcpListener, AsyncTcpStream, AsyncUdpSocket, JoinHandle, RecvMeta, Runtime, TokioRuntime,
    Transmit,
};

/// The driver waits for each name of a STUN or TURN server, and connects nothing meanwhile.
const RESOLVE_LIMIT: Duration = Duration::from_millis(500);

/// When a handshake packet goes out again. The library loses its retransmission timer when a flight is repeated, so
/// that one lost packet can hang the handshake for ever; exact copies are dropped by the receiver's replay window
/// (RFC 6347, §4.1.2.6) and do no harm. Spread so that a 60 ms outage does not take them all.
const REPEATS_MS: [u64; 3] = [10, 30, 80];
/// Handshake packets a leg that are repeated; an honest handshake has about 10.
const MAX_REPEATED: usize = 64;

type Pinned<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// One leg's view of tokio.
#[derive(Debug)]
pub(super) struct LegRuntime {
    tasks: Tasks,
    repeated: Arc<AtomicUsize>,
    refused: CancellationToken,
}

/// Tasks of one leg that can be stopped and waited for.
#[derive(Debug, Clone)]
struct Tasks {
    stop: CancellationToken,
    running: TaskTracker,
}

impl Tasks {
    fn spawn(&self, future: Pinned<'static, ()>) -> Box<dyn JoinHandle> {
        let stop = self.stop.clone();
        let future = async move { stop.run_until_cancelled_owned(future).await.unwrap_or(()) };
        TokioRuntime.spawn(Box::pin(self.running.track_future(future)))
    }
}

impl LegRuntime {
    pub(super) fn new() -> Self {
        let running = TaskTracker::new();
        running.close(); // Tasks may still be added; it only makes `stopped` end when there is none.
        let tasks = Tasks { stop: CancellationToken::new(), running };
        Self { tasks, repeated: Arc::default(), refused: CancellationToken::new() }
    }

    /// Waits until the library has refused the peer's certificate.
    pub(super) async fn refused(&self) {
        self.refused.cancelled().await;
    }

    /// Ends every task that the library started for this leg.
    pub(super) fn stop(&self) {
        self.tasks.stop.cancel();
    }

    /// Waits until none of them is left.
    pub(super) async fn stopped(&self) {
        self.tasks.running.wait().await;
    }
}

impl Runtime for LegRuntime {
    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) -> Box<dyn JoinHandle> {
        self.tasks.spawn(future)
    }

    fn wrap_udp_socket(&self, socket: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let inner = TokioRuntime.wrap_udp_socket(socket)?;
        let (tasks, repeated, refused) = (self.tasks.clone(), Arc::clone(&self.repeated), self.refused.clone());
        Ok(Arc::new(Watched { inner, tasks, repeated, refused }))
    }

    fn wrap_tcp_listener(&self, _: std::net::TcpListener) -> io::Result<Arc<dyn AsyncTcpListener>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Candidates are UDP only; nothing a peer says makes this node open a TCP connection.
    fn connect_tcp<'a>(&'a self, _: SocketAddr) -> Pinned<'a, io::Result<Arc<dyn AsyncTcpStream>>> {
        Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
    }

    fn resolve_host<'a>(&'a self, host: &'a str) -> Pinned<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move {
            let found = tokio::time::timeout(RESOLVE_LIMIT, tokio::net::lookup_host(host)).await;
            Ok(found.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??.collect())
        })
    }

    fn sleep(&self, duration: Duration) -> Pinned<'static, ()> {
        TokioRuntime.sleep(duration)
    }

    fn interval(&self, period: Duration) -> Box<dyn AsyncInterval> {
        TokioRuntime.interval(period)
    }

    fn block_on(&self, future: Pin<Box<dyn Future<Output = ()> + '_>>) {
        TokioRuntime.block_on(future);
    }

    fn name(&self) -> &'static str {
        "telecon"
    }
}

/// A socket that sends DTLS handshake packets more than once, and notices a refusal.
#[derive(Debug)]
struct Watched {
    inner: Arc<dyn AsyncUdpSocket>,
    tasks: Tasks,
    repeated: Arc<AtomicUsize>,
    refused: CancellationToken,
}

impl Watched {
    fn repeat(&self, transmit: &Transmit<'_>) {
        if self.repeated.fetch_add(1, Ordering::Relaxed) >= MAX_REPEATED {
            return;
        }
        let (socket, packet, to) = (Arc::clone(&self.inner), transmit.contents.to_vec(), transmit.destination);
        drop(self.tasks.spawn(Box::pin(async move {
            let mut passed_ms = 0;
            for at_ms in REPEATS_MS {
                tokio::time::sleep(Duration::from_millis(at_ms - passed_ms)).await;
                passed_ms = at_ms;
                // What cannot be sent is as good as lost; the next copy follows.
                drop(socket.send_to(&packet, to).await);
            }
        })));
    }
}

impl AsyncUdpSocket for Watched {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn poll_send(&self, cx: &mut Context<'_>, transmit: &Transmit<'_>) -> Poll<io::Result<usize>> {
        let sent = self.inner.poll_send(cx, transmit);
        if sent.is_ready() && transmit.segment_size.is_none() && is_handshake(transmit.contents) {
            self.repeat(transmit);
        }
        if is_refusal(transmit.contents) {
            self.refused.cancel();
        }
        sent
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.inner.poll_recv(cx, bufs, meta)
    }

    fn max_gso_segments(&self) -> usize {
        self.inner.max_gso_segments()
    }

    fn max_gro_segments(&self) -> usize {
        self.inner.max_gro_segments()
    }
}

/// A DTLS record of type change_cipher_spec or handshake (RFC 5246, §6.2.1); STUN, SRTP and TURN begin with other
/// bytes (RFC 7983, §7), and alerts are not repeated.
fn is_handshake(packet: &[u8]) -> bool {
    matches!(packet.first(), Some(20 | 22))
}

/// A DTLS alert in the clear, so before the handshake was done (RFC 6347, §4.1: type, version, epoch 0, …), that is fatal
/// and says bad_certificate (RFC 5246, §7.2).
fn is_refusal(packet: &[u8]) -> bool {
    matches!(packet, [21, _, _, 0, 0, _, _, _, _, _, _, _, _, 2, 42, ..])
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_refused_certificate_is_seen_and_other_alerts_are_not() {
        let runtime = LegRuntime::new();
        let socket = runtime.wrap_udp_socket(std::net::UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
        let send = |packet: Vec<u8>| {
            let socket = Arc::clone(&socket);
            async move { socket.send_to(&packet, "127.0.0.1:9".parse().unwrap()).await.map(drop) }
        };
        let alert = |epoch, level, what| vec![21, 254, 253, 0, epoch, 0, 0, 0, 0, 0, 7, 0, 2, level, what];
        // close_notify, an encrypted one, a short one.
        for packet in [alert(0, 1, 0), alert(1, 2, 42), vec![21, 254]] {
            send(packet).await.unwrap();
        }
        assert!(runtime.refused().now_or_never().is_none());
        send(alert(0, 2, 42)).await.unwrap();
        runtime.refused().await;
    }

    #[tokio::test]
    async fn handshake_packets_are_sent_four_times_and_others_once() {
        let runtime = LegRuntime::new();
        let socket = runtime.wrap_udp_socket(std::net::UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
        let peer = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        for packet in [[22, 1], [20, 2], [21, 3], [128, 4], [0, 5]] {
            socket.send_to(&packet, peer.local_addr().unwrap()).await.unwrap();
        }
        runtime.stopped().await;
        let mut counts = [0; 6];
        let mut packet = [0; 8];
        while let Ok((2, _)) = peer.try_recv_from(&mut packet) {
            counts[usize::from(packet[1])] += 1;
        }
        // Readiness may not be known yet before the first wait.
        while counts.iter().sum::<i32>() < 11 {
            peer.recv_from(&mut packet).await.unwrap();
            counts[usize::from(packet[1])] += 1;
        }
        assert_eq!(counts, [0, 4, 4, 1, 1, 1]);
    }

    #[tokio::test]
    async fn stopping_ends_what_the_library_started() {
        let runtime = LegRuntime::new();
        runtime.spawn(Box::pin(std::future::pending()));
        runtime.stop();
        tokio::time::timeout(Duration::from_secs(10), runtime.stopped()).await.expect("it ends");
    }
}
