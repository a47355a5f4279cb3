//! The daemon: one loop that owns all state, feeds the core and carries its outputs out.
//!
//! ```text
//!  clients ── commands ──┐
//!  signals, one timer ───┤                                  ┌─> net: subscribe, publish, dial
//!  audio thread ─────────┼─> Node::handle_*(…, now)  ──────>├─> legs: open, describe, close
//!  legs ─────────────────┤   then poll_output() until None  ├─> audio: plan
//!  net (strangers) ──────┘                                  └─> store, journal, answers
//! ```
//!
//! It decides nothing about calls (that is [`crate::proto`]) and moves no audio (that is between legs and the audio thread). It is the
//! only place that tells the core the time. The `select!` is biased in the order of the picture, so that strangers, who can only
//! reach the last branch, never make the user wait.
//!
//! Nothing here awaits slow work: dialling and listing devices run in tasks with replies of their own, at most `MAX_TASKS` at once.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use futures::future::join;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{Semaphore, mpsc},
    time::{sleep_until, timeout},
};
use tracing::{debug, info};

use crate::{
    audio::{Audio, AudioEvent},
    config::{Config, Paths},
    control::{
        server::{ServeError, Server},
        wire::Command,
    },
    identity::IdentityError,
    leg::{IceConfig, Leg},
    net::{Net, NetError, NetEvent},
    proto::{
        id::{Did, LegId},
        io::{Event, Input, LegEvent, Now, Request},
        node::Node,
        seal::Sealer,
        signal::Topic,
    },
    store::{Contact, Store, StoreError},
};

#[cfg(test)]
mod e2e;
mod idempotency;
mod journal;
mod outputs;
mod requests;
mod resolve;
mod start;
#[cfg(test)]
mod tests;
mod views;

use idempotency::Answers;
use journal::Journal;

/// Most slow requests (dialling, listing devices, long replays) at once; one more is told to try again.
const MAX_TASKS: usize = 16;
/// The timer's branch stands before those of legs and network; this keeps it from starving them.
const TIMER_REST: Duration = Duration::from_millis(1);
/// How long the last messages (Leave, Cancel) may take to be acknowledged when the daemon stops.
const OUTBOX_PATIENCE: Duration = Duration::from_secs(1);
/// How long after that legs may take to close.
const LEGS_PATIENCE: Duration = Duration::from_millis(500);
/// How long the network may take to close its connections.
const NET_PATIENCE: Duration = Duration::from_secs(1);

/// Why the daemon did not start or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The identity's files.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The control socket, or another daemon that answers there.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The network.
    #[error(transparent)]
    Net(#[from] NetError),
    /// An address in the configuration.
    #[error("[network] {key}: \"{text}\" is not a multiaddr; write it like /ip4/192.0.2.7/udp/4001/quic-v1")]
    Address {
        /// The key.
        key: &'static str,
        /// What stands there.
        text: String,
    },
    /// The signal handlers could not be set.
    #[error("cannot listen for signals: {0}")]
    Signals(std::io::Error),
    /// A part that must run until the end has ended.
    #[error("the {0} has stopped unexpectedly; the log says why, start the daemon again")]
    Ended(&'static str),
}

/// Runs until SIGTERM, SIGINT, SIGHUP or `daemon.stop`, then leaves all calls and tells the others (3 s at most). A second signal
/// returns at once.
pub async fn run(paths: Paths, config: Config) -> Result<(), DaemonError> {
    let mut signals = Signals::install()?;
    let (mut daemon, mut doors) = start::start(&paths, config)?;
    notify(&[sd_notify::NotifyState::Ready]);
    info!("ready");
    let ended = daemon.serve(&mut doors, &mut signals).await;
    let server = doors.turn_away();
    if !matches!(ended, Ok(End::AtOnce)) {
        let closed = join(server.shutdown(), timeout(NET_PATIENCE, daemon.net.shutdown()));
        tokio::select! {
            biased;
            () = signals.recv() => {}
            _ = closed => {}
        }
    }
    info!("stopped");
    ended.map(drop)
}

/// How the loop came to its end.
enum End {
    /// The others know, or had their time.
    InOrder,
    /// A second signal: nothing is waited for.
    AtOnce,
}

/// Everything that the loop owns.
struct Daemon {
    did: Did,
    config: Config,
    node: Node<Sealer>,
    net: Net,
    audio: Audio,
    store: Store,
    /// A copy of the store's, so that names are found without the disk.
    contacts: Vec<Contact>,
    journal: Journal,
    answers: Answers,
    /// Bounded by the core: 31 participants, and those that are closing.
    legs: BTreeMap<LegId, Leg>,
    leg_events: mpsc::Sender<(LegId, LegEvent)>,
    ice: Arc<IceConfig>,
    tasks: Arc<Semaphore>,
    started: Instant,
    timer_rests_until: Instant,
    stopping: Option<Stopping>,
}

/// What can happen to the loop, in the order in which it looks.
struct Doors {
    /// Full: the clients' connections wait.
    commands: mpsc::Receiver<Command>,
    /// Full: the audio thread drops its report, and the next one tells the same.
    audio: mpsc::Receiver<AudioEvent>,
    /// Full: the leg's task waits, its media too.
    legs: mpsc::Receiver<(LegId, LegEvent)>,
    /// Full: the network task decides (gossip is lossy and repeated).
    net: mpsc::Receiver<NetEvent>,
    /// Answers clients as long as it lives.
    server: Server,
}

/// The end, once it is asked for.
#[derive(Debug, Clone, Copy)]
struct Stopping {
    outbox_until: Instant,
    legs_until: Instant,
}

impl Daemon {
    async fn serve(&mut self, doors: &mut Doors, signals: &mut Signals) -> Result<End, DaemonError> {
        self.carry_out(now());
        while !self.finished(Instant::now()) {
            let wake = self.wake_at();
            tokio::select! {
                biased;
                command = doors.commands.recv() => {
                    let command = command.ok_or(DaemonError::Ended("control socket"))?;
                    self.command(command, now());
                }
                () = signals.recv() => {
                    if self.stopping.is_some() {
                        return Ok(End::AtOnce);
                    }
                    self.stop(now());
                }
                () = sleep_until(wake.into()) => {
                    self.node.handle_timeout(now());
                    self.timer_rests_until = Instant::now() + TIMER_REST;
                }
                Some(event) = doors.audio.recv() => self.audio_event(event, now()),
                Some((id, event)) = doors.legs.recv() => self.leg_event(id, event, now()),
                event = doors.net.recv() => self.net_event(event.ok_or(DaemonError::Ended("network"))?, now()),
            }
            self.carry_out(now());
        }
        Ok(End::InOrder)
    }

    /// The core's next timer, or the next limit of the stop; an hour when there is nothing to wait for.
    fn wake_at(&self) -> Instant {
        let limits = self.stopping.map(|stopping| [stopping.outbox_until, stopping.legs_until]);
        let now = Instant::now();
        let limits = limits.into_iter().flatten().filter(|limit| *limit > now);
        let timer = self.node.poll_timeout().map(|timer| timer.max(self.timer_rests_until));
        limits.chain(timer).min().unwrap_or(now + Duration::from_secs(3600))
    }

    fn finished(&self, now: Instant) -> bool {
        self.stopping.is_some_and(|stopping| {
            let told = self.node.idle() || now >= stopping.outbox_until;
            told && (self.legs.is_empty() || now >= stopping.legs_until)
        })
    }

    /// Leaves all calls; the loop goes on until the others know, or the limits are reached.
    fn stop(&mut self, now: Now) {
        if self.stopping.is_some() {
            return;
        }
        notify(&[sd_notify::NotifyState::Stopping]);
        info!("stopping");
        let outbox_until = now.mono + OUTBOX_PATIENCE;
        self.stopping = Some(Stopping { outbox_until, legs_until: outbox_until + LEGS_PATIENCE });
        if let Err(error) = self.node.handle_request(Request::Shutdown, now) {
            debug!(%error, "the core was stopping already");
        }
    }

    fn audio_event(&mut self, event: AudioEvent, now: Now) {
        match event {
            AudioEvent::FirstAudio(id) => self.node.handle_input(Input::Leg(id, LegEvent::FirstAudio), now),
            AudioEvent::TalkedWhileMuted => self.journal.append(&mut self.store, Event::TalkedWhileMuted, now.unix_ms),
            // `status` asks the audio thread itself.
            AudioEvent::Changed => debug!("the sound devices changed"),
        }
    }

    fn leg_event(&mut self, id: LegId, event: LegEvent, now: Now) {
        if event == LegEvent::Closed {
            self.audio.remove_leg(id);
            self.legs.remove(&id);
        }
        self.node.handle_input(Input::Leg(id, event), now);
    }

    fn net_event(&mut self, event: NetEvent, now: Now) {
        match event {
            NetEvent::Message { topic, bytes } => {
                let Ok(topic) = topic.parse::<Topic>() else { return };
                // The node counts what it rejects; strangers' noise is no line in the log.
                let _counted = self.node.handle_gossip(&topic, &bytes, now);
            }
            NetEvent::Subscribed { topic } => {
                if let Ok(topic) = topic.parse() {
                    self.node.handle_input(Input::Subscribed(topic), now);
                }
            }
            NetEvent::ListenChanged => self.announce_addresses(now),
        }
    }
}

impl Doors {
    /// Whoever still waits is told that the daemon stops, and so is whoever comes until the server is shut down.
    fn turn_away(mut self) -> Server {
        self.commands.close();
        while let Ok(command) = self.commands.try_recv() {
            let failure = requests::stopping();
            // A client that is gone needs no answer.
            let _gone = match command {
                Command::Call { reply, .. } => reply.send(Err(failure)).is_err(),
                Command::Watch { reply, .. } => reply.send(Err(failure)).is_err(),
            };
        }
        self.server
    }
}

/// What ends the daemon from outside.
struct Signals([Signal; 3]);

impl Signals {
    fn install() -> Result<Self, DaemonError> {
        let kinds = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
        let [terminate, interrupt, hangup] = kinds.map(signal);
        let all = || Ok([terminate?, interrupt?, hangup?]);
        all().map(Self).map_err(DaemonError::Signals)
    }

    async fn recv(&mut self) {
        let [terminate, interrupt, hangup] = &mut self.0;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

/// The time, for the core. Nothing below `src/proto` looks at a clock.
fn now() -> Now {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now { mono: Instant::now(), unix_ms: u64::try_from(unix.as_millis()).unwrap_or(u64::MAX) }
}

/// Tells systemd, where it started us (`Type=notify`).
fn notify(state: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        debug!(%error, "systemd could not be told");
    }
}
