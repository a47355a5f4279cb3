//! The library's driver task on a leash: it can be stopped from outside, and its end is seen.
//!
//! The driver may end by itself (a DTLS error) or panic without any event, and a connection that is dropped without
//! `close()` leaves it running. Everything else is tokio's.

use std::{future::Future, io, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use tokio_util::{sync::CancellationToken, task::TaskTracker};
use webrtc::runtime::{
    AsyncInterval, AsyncTcpListener, AsyncTcpStream, AsyncUdpSocket, JoinHandle, Runtime, TokioRuntime,
};

/// The driver waits for each name of a STUN or TURN server, and connects nothing meanwhile.
const RESOLVE_LIMIT: Duration = Duration::from_millis(500);

type Pinned<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// One leg's view of tokio.
#[derive(Debug)]
pub(super) struct LegRuntime {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl LegRuntime {
    pub(super) fn new() -> Self {
        let tasks = TaskTracker::new();
        tasks.close(); // Tasks may still be added; it only makes `stopped` end when there is none.
        Self { stop: CancellationToken::new(), tasks }
    }

    /// Ends every task that the library started for this leg.
    pub(super) fn stop(&self) {
        self.stop.cancel();
    }

    /// Waits until none of them is left.
    pub(super) async fn stopped(&self) {
        self.tasks.wait().await;
    }
}

impl Runtime for LegRuntime {
    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) -> Box<dyn JoinHandle> {
        let stop = self.stop.clone();
        let future = self.tasks.track_future(async move { stop.run_until_cancelled_owned(future).await.unwrap_or(()) });
        TokioRuntime.spawn(Box::pin(future))
    }

    fn wrap_udp_socket(&self, socket: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        TokioRuntime.wrap_udp_socket(socket)
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
