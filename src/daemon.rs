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
//! Nothing here awaits slow work: dialling and listing devices run in tasks with replies of their own, at most `MAX_TASKS` of each at once,
//! and a recording's own thread makes and completes its files.

use std::{
    collections::BTreeMap,
    os::unix::net::UnixListener,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use futures::future::join;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{Semaphore, mpsc},
    time::{sleep_until, timeout},
};
use tracing::{debug, info, warn};

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
        io::{CallState, Event, Input, LegEvent, Now, Request},
        node::Node,
        seal::{Rejected, Sealer},
        signal::Topic,
    },
    store::{Store, StoreError},
};

mod clock;
mod devices;
#[cfg(test)]
mod e2e;
mod idempotency;
mod journal;
mod outputs;
mod people;
mod requests;
mod resolve;
mod rung;
mod start;
mod systemd;
#[cfg(test)]
mod tests;
mod views;

use clock::Reading;
use idempotency::Answers;
use journal::Journal;
use people::People;
use rung::Rung;
use systemd::Watchdog;

/// Most slow requests (dialling, listing devices, long replays) at once; one more is told to try again.
const MAX_TASKS: usize = 16;
/// The timer's branch stands before those of legs and network; this keeps it from starving them.
const TIMER_REST: Duration = Duration::from_millis(1);
/// How often the clocks are looked at: no timer rings when the machine wakes up. Gossip's heartbeat comes as often anyway.
const LOOK: Duration = Duration::from_secs(1);
/// How long `status` tells of clocks that differ.
const CLOCK_HINT: Duration = Duration::from_secs(600);
const CLOCKS_DIFFER: &str = "a call could not be offered here, since the caller's clock and this one differ by more than two \
                             minutes; set the clock that is wrong (timedatectl)";
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
///
/// `socket`: the control socket, where systemd made it ([`crate::control::server::handed_over`]).
pub async fn run(paths: Paths, config: Config, socket: Option<UnixListener>) -> Result<(), DaemonError> {
    let mut signals = Signals::install()?;
    let (mut daemon, mut doors) = start::start(&paths, config, socket).await?;
    systemd::ready();
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
    /// Where recordings are kept, unless the user names another place.
    recordings: PathBuf,
    /// While the files of a recording are being made.
    to_record: Option<requests::ToRecord>,
    /// While those of one that was stopped are being completed.
    to_complete: Option<requests::ToComplete>,
    /// What is said of one that ended when the daemon was killed, until another one begins.
    lost_recording: Option<String>,
    people: People,
    rung: Rung,
    journal: Journal,
    answers: Answers,
    /// To whom each leads. Bounded by the core: 31 participants, and those that are closing.
    legs: BTreeMap<LegId, (Did, Leg)>,
    leg_events: mpsc::Sender<(LegId, LegEvent)>,
    ice: Arc<IceConfig>,
    tasks: Arc<Semaphore>,
    /// Apart from the others, since a sound server may hang.
    looks: Arc<Semaphore>,
    found: mpsc::Sender<devices::Found>,
    choices: devices::Choices,
    present: devices::Present,
    /// What clients know of sound.
    audio_told: Event,
    started: Instant,
    timer_rests_until: Instant,
    /// When an offer was dropped last because of the clocks.
    skewed_at: Option<Instant>,
    /// As they were in the loop's last turn.
    clocks: Reading,
    watchdog: Watchdog,
    stopping: Option<Stopping>,
}

/// What can happen to the loop, in the order in which it looks.
struct Doors {
    /// Full: the clients' connections wait.
    commands: mpsc::Receiver<Command>,
    /// Full: the task that looked for the device waits.
    found: mpsc::Receiver<devices::Found>,
    /// Full: the audio thread drops its report, and the next one tells the same.
    audio: mpsc::Receiver<AudioEvent>,
    /// Full: the leg's task waits, its media too.
    legs: mpsc::Receiver<(LegId, LegEvent)>,
    /// Full: the network task decides (gossip is lossy and repeated).
    net: mpsc::Receiver<NetEvent>,
    /// Answers clients as long as it lives.
    server: Server,
}

/// What happened to the loop.
enum Turn {
    Command(Command),
    Signal,
    Timer,
    Found(devices::Found),
    Audio(AudioEvent),
    Leg(LegId, LegEvent),
    Net(NetEvent),
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
            let turn = doors.next(self.wake_at(), signals).await?;
            self.look_at_the_clocks();
            match turn {
                Turn::Command(command) => self.command(command, now()),
                Turn::Signal if self.stopping.is_some() => return Ok(End::AtOnce),
                Turn::Signal => self.stop(now()),
                Turn::Timer => {
                    self.node.handle_timeout(now());
                    self.recording_late(now());
                    self.timer_rests_until = Instant::now() + TIMER_REST;
                }
                Turn::Found(found) => self.device_found(found),
                Turn::Audio(event) => self.audio_event(event, now()),
                Turn::Leg(id, event) => self.leg_event(id, event, now()),
                Turn::Net(event) => self.net_event(event, now()),
            }
            self.carry_out(now());
        }
        Ok(End::InOrder)
    }

    /// Before anything else is handled: after a sleep nothing is as it was. And a loop that comes here is alive.
    fn look_at_the_clocks(&mut self) {
        let reading = Reading::now();
        let slept = reading.slept_since(&self.clocks);
        self.clocks = reading;
        if let Some(slept) = slept {
            info!(seconds = slept.as_secs(), "the machine slept");
            self.node.handle_input(Input::Woke(slept), now());
            self.carry_out(now());
        }
        self.watchdog.feed(Instant::now());
    }

    /// The core's next timer, the next limit of the stop or of a recording's last pages, or the next look at the clocks.
    fn wake_at(&self) -> Instant {
        let limits = self.stopping.map(|stopping| [stopping.outbox_until, stopping.legs_until]);
        let now = Instant::now();
        let limits = limits.into_iter().flatten().filter(|limit| *limit > now);
        let timer = self.node.poll_timeout().map(|timer| timer.max(self.timer_rests_until));
        let pages = self.to_complete.as_ref().map(requests::ToComplete::due);
        limits.chain(timer).chain(pages).chain(self.watchdog.due()).fold(now + LOOK, Instant::min)
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
        systemd::stopping();
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
            // Who has to push for it, and does not, means it so.
            AudioEvent::TalkedWhileMuted if self.config.audio.push_to_talk => {}
            AudioEvent::TalkedWhileMuted => self.tell(Event::TalkedWhileMuted, now),
            AudioEvent::Speaking { who, speaking } => self.speaks(who, speaking, now),
            AudioEvent::RecordingMade => self.recording_made(now),
            AudioEvent::RecordingEnded => self.recording_ended(now),
            AudioEvent::Changed => self.audio_changed(now),
        }
    }

    fn leg_event(&mut self, id: LegId, event: LegEvent, now: Now) {
        if event == LegEvent::Closed {
            self.speaks(Some(id), false, now);
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
                if self.node.handle_gossip(&topic, &bytes, now) == Err(Rejected::ClockSkew) {
                    self.clocks_differ(now.mono);
                }
            }
            NetEvent::Subscribed { topic } => {
                if let Ok(topic) = topic.parse() {
                    self.node.handle_input(Input::Subscribed(topic), now);
                }
            }
            NetEvent::ListenChanged => self.announce_addresses(now),
        }
    }

    /// Somebody began or ceased to speak: a leg's other end, or the user.
    fn speaks(&mut self, who: Option<LegId>, speaking: bool, now: Now) {
        let event = if speaking {
            let calls = self.node.calls();
            let found = match who {
                None => calls.iter().find(|call| call.state == CallState::Active).map(|call| (call.call, &self.did)),
                Some(_) => calls.iter().find_map(|call| {
                    let other = call.participants.iter().find(|other| other.leg == who)?;
                    Some((call.call, &other.did))
                }),
            };
            let Some((call, did)) = found else { return };
            self.people.begins_to_speak(who, call, did.clone());
            Event::ParticipantSpeaking { call, did: did.clone(), speaking }
        } else {
            let Some((call, did)) = self.people.ceases_to_speak(who) else { return };
            Event::ParticipantSpeaking { call, did, speaking }
        };
        self.journal.mention(event, now.unix_ms);
    }

    /// An offer was dropped since its sender's clock says another time. The log tells it once in a while.
    fn clocks_differ(&mut self, now: Instant) {
        if self.clock_hint().is_none() {
            warn!("{CLOCKS_DIFFER}");
        }
        self.skewed_at = Some(now);
    }

    /// What the user should know about clocks.
    fn clock_hint(&self) -> Option<&'static str> {
        self.skewed_at.is_some_and(|at| at.elapsed() < CLOCK_HINT).then_some(CLOCKS_DIFFER)
    }
}

impl Doors {
    /// What happens next, at `wake` at the latest.
    async fn next(&mut self, wake: Instant, signals: &mut Signals) -> Result<Turn, DaemonError> {
        tokio::select! {
            biased;
            command = self.commands.recv() => command.map(Turn::Command).ok_or(DaemonError::Ended("control socket")),
            () = signals.recv() => Ok(Turn::Signal),
            () = sleep_until(wake.into()) => Ok(Turn::Timer),
            Some(found) = self.found.recv() => Ok(Turn::Found(found)),
            Some(event) = self.audio.recv() => Ok(Turn::Audio(event)),
            Some((id, event)) = self.legs.recv() => Ok(Turn::Leg(id, event)),
            event = self.net.recv() => event.map(Turn::Net).ok_or(DaemonError::Ended("network")),
        }
    }

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
