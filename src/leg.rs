//! Legs: one WebRTC connection to one other participant, run by one task of its own.
//!
//! A leg is one attempt. It makes or answers an offer, trickles its candidates, proves that the certificate it met
//! is the one that was sealed, and then carries Opus both ways until it is closed or lost. It protects what it sends as
//! its path asks. It does **not** decide whether to try again, and when: that is the engine's business. It neither
//! encodes nor decodes.
//!
//! ```text
//!  daemon ── LegCommand ──> task ── LegEvent ──> daemon
//!  audio  ── EncodedFrame ─> task ── RTP ──> network ──> task ── ReceivedPacket ──> audio
//! ```
//!
//! This module alone names the `webrtc` and `rtc` crates.

mod adaptation;
mod addresses;
mod congestion;
mod connection;
mod description;
mod feedback;
mod media;
mod red;
mod rtp;
mod runtime;
mod statistics;
mod task;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt as _;
use tokio::sync::{broadcast, mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

pub use addresses::has_address;
pub use statistics::LegStats;

use crate::{
    audio::{EncodedFrame, LegInput},
    config::IceServer,
    proto::{
        id::LegId,
        io::{LegCommand, LegEvent, Role},
    },
};
use runtime::LegRuntime;
use task::{Failure, Setup};

/// Commands that wait for the task. An attempt has one description and 64 candidates at most, so a full queue means
/// that the task hangs: what comes then is dropped, and the engine's patience ends the attempt.
const COMMANDS: usize = 80;
/// Longest time that closing may take.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// How legs find their way through the network; shared by all of them.
#[derive(Clone, Default)]
pub struct IceConfig {
    /// STUN and TURN servers; unusable URLs are skipped.
    pub servers: Vec<IceServer>,
    /// Names of the interfaces that may be used. Empty: every interface but the loopback, and the loopback when
    /// there is no other address.
    pub interfaces: Vec<String>,
    /// Only TURN relays: the own addresses stay unknown to the other side.
    pub relay_only: bool,
}

/// A running leg. Dropping it closes the leg.
#[derive(Debug)]
pub struct Leg {
    commands: mpsc::Sender<LegCommand>,
    statistics: watch::Receiver<LegStats>,
    closing: CancellationToken,
    _dropped: DropGuard,
}

impl Leg {
    /// Hands a command to the leg's task; never blocks. `Close` always arrives. `Open` means nothing here, because a
    /// leg is opened by [`spawn`].
    pub fn command(&self, command: LegCommand) {
        match command {
            LegCommand::Open { .. } => {}
            LegCommand::Close => self.closing.cancel(),
            LegCommand::Remote(_) | LegCommand::Candidates(_) | LegCommand::RestartIce => {
                if self.commands.try_send(command).is_err() {
                    tracing::debug!("a leg took no command");
                }
            }
        }
    }

    /// The latest figures, renewed every second; never blocks.
    pub fn stats(&self) -> LegStats {
        *self.statistics.borrow()
    }
}

/// Starts one attempt to connect. Must be called inside a tokio runtime.
///
/// An [`Role::Initiator`] reports its offer at once; an [`Role::Answerer`] waits for [`LegCommand::Remote`]. Frames of
/// `microphone` that are for this leg are sent, and packets are pushed into `speaker`, only after [`LegEvent::Connected`]. Events go to
/// `events` in order; [`LegEvent::Closed`] comes exactly once and last, whatever happens. After [`LegEvent::Failed`]
/// the leg closes by itself. While `events` is full the leg keeps its events and goes on carrying audio.
pub fn spawn(
    id: LegId,
    role: Role,
    ice: Arc<IceConfig>,
    microphone: broadcast::Receiver<EncodedFrame>,
    speaker: LegInput,
    events: mpsc::Sender<(LegId, LegEvent)>,
) -> Leg {
    let (commands, inbox) = mpsc::channel(COMMANDS);
    let (publish, statistics) = watch::channel(LegStats::default());
    let closing = CancellationToken::new();
    let runtime = Arc::new(LegRuntime::new());
    let setup = Setup {
        id,
        role,
        ice,
        microphone,
        speaker,
        events: events.clone(),
        inbox,
        publish,
        closing: closing.clone(),
        runtime: Arc::clone(&runtime),
    };
    tokio::spawn(supervise(id, events, runtime, task::run(setup)));
    Leg { commands, statistics, _dropped: closing.clone().drop_guard(), closing }
}

/// Runs the leg's task and makes sure that nothing of it is left, even when it panics.
async fn supervise(
    id: LegId,
    events: mpsc::Sender<(LegId, LegEvent)>,
    runtime: Arc<LegRuntime>,
    task: impl Future<Output = Result<(), Failure>>,
) {
    let outcome = AssertUnwindSafe(task).catch_unwind().await;
    runtime.stop();
    if tokio::time::timeout(CLOSE_LIMIT, runtime.stopped()).await.is_err() {
        tracing::warn!(leg = id.0, "the connection's driver did not stop in time");
    }
    let failed = match outcome {
        Ok(Ok(())) => false,
        Ok(Err(failure)) => {
            tracing::debug!(leg = id.0, %failure, "leg failed");
            true
        }
        Err(_panic) => {
            tracing::error!(leg = id.0, "a leg's task panicked");
            true
        }
    };
    // Both sends fail only when the daemon's loop is gone; then nobody is left to be told.
    if failed {
        drop(events.send((id, LegEvent::Failed)).await);
    }
    drop(events.send((id, LegEvent::Closed)).await);
}
