//! The leg towards one participant, as decisions: which attempt runs, how long it is given, when the next one begins.
//!
//! A connection has its own [`LegId`] and its own certificates. When it loses its path, ICE is restarted: it stays, and a
//! new path is looked for. When that does not help in time, it is closed completely and a new one is opened. Both are
//! attempts: the lower DID numbers them and offers, the higher answers and asks with `Restart`.

#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use super::{
    id::LegId,
    io::{LegCommand, LegEvent, Role},
    signal::{Body, Ice, Sdp, SdpKind},
};

/// Patience with an attempt on a path of no length. DTLS can hang for ever under packet loss (a lost flight is not
/// always sent again), so an attempt that is not up in time is thrown away.
const PATIENCE: Duration = Duration::from_millis(2_500);
/// ICE, DTLS and signalling take about 5 round trips; twice that is patience.
const PATIENCE_ROUND_TRIPS: u32 = 10;
const MAX_PATIENCE: Duration = Duration::from_secs(60);
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const MAX_PAUSE: Duration = Duration::from_secs(8);
/// A leg that was up for so long starts with fresh patience.
const STEADY: Duration = Duration::from_secs(10);
/// Candidates that are kept while their description is under way.
const MAX_EARLY_CANDIDATES: usize = 64;

/// What the engine has to do for a leg.
#[derive(Debug)]
pub enum Action {
    /// Open this connection; it is ours from now on until it reports `Closed`.
    Open(LegId, Role),
    /// Command it.
    Command(LegId, LegCommand),
    /// Tell the peer (pairwise, reliably).
    Send(Body),
    /// Signals of earlier attempts are pointless now.
    DropSignals,
}

/// What every decision needs.
pub struct Context<'a> {
    /// The time.
    pub now: Instant,
    /// Signalling round trip to the peer, if known.
    pub round_trip: Option<Duration>,
    /// The last `LegId` that was given out.
    pub last_leg: &'a mut u64,
    /// What to do.
    pub actions: Vec<Action>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Was never up; at the deadline it is given up.
    Connecting {
        deadline: Instant,
    },
    Up,
    /// Media is silent; at the deadline it is given up.
    Shaky {
        deadline: Instant,
    },
}

/// Where an ICE restart stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Restart {
    NotNeeded,
    /// Begins then.
    Due(Instant),
    /// Until media flows on the new path.
    UnderWay,
}

#[derive(Debug)]
struct Current {
    id: LegId,
    phase: Phase,
    restart: Restart,
    /// Initiator: the latest offer was answered.
    answered: bool,
    /// The peer's certificate; every description of this connection has the same.
    remote: Option<[u8; 32]>,
}

/// The leg towards one participant.
#[derive(Debug)]
pub struct Leg {
    role: Role,
    /// The number of the latest attempt; 0: none yet.
    attempt: u32,
    current: Option<Current>,
    closing: Option<LegId>,
    /// Initiator: when the next attempt begins. Answerer: before that none begins, however many are offered.
    next_at: Option<Instant>,
    /// Answerer: an offer that waits until the former connection is closed.
    pending: Option<Sdp>,
    early: Vec<Ice>,
    /// The peer's certificate of the latest connection that was closed here.
    dead: Option<[u8; 32]>,
    /// Connections that were given up since the leg was last steady.
    failures: u32,
    /// ICE restarts since the leg was last steady.
    restarts: u32,
    up_since: Option<Instant>,
    down_since: Option<Instant>,
    was_up: bool,
}

impl Leg {
    /// A leg that is wanted from now on.
    pub fn new(role: Role, now: Instant) -> Self {
        Self {
            role,
            attempt: 0,
            current: None,
            closing: None,
            next_at: Some(now),
            pending: None,
            early: Vec::new(),
            dead: None,
            failures: 0,
            restarts: 0,
            up_since: None,
            down_since: Some(now),
            was_up: false,
        }
    }

    /// A leg whose first connection has to wait until a former one is closed, and whose attempts are numbered on.
    pub fn after(former: Option<LegId>, attempt: u32, role: Role, now: Instant) -> Self {
        Self { closing: former, attempt, ..Self::new(role, now) }
    }

    /// The number of the latest attempt.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The connection that runs, or that still closes.
    pub fn id(&self) -> Option<LegId> {
        self.current.as_ref().map(|current| current.id).or(self.closing)
    }

    /// Media flows.
    pub fn is_up(&self) -> bool {
        matches!(self.current, Some(Current { phase: Phase::Up, .. }))
    }

    /// Was up once.
    pub fn was_up(&self) -> bool {
        self.was_up
    }

    /// Since when no media flows.
    pub fn down_since(&self) -> Option<Instant> {
        self.down_since
    }

    /// When [`Self::advance`] has something to decide.
    pub fn deadline(&self) -> Option<Instant> {
        match (&self.current, self.role) {
            (Some(current), _) => match (current.phase.deadline(), current.restart) {
                (deadline, Restart::Due(at)) => Some(deadline.map_or(at, |deadline| deadline.min(at))),
                (deadline, Restart::NotNeeded | Restart::UnderWay) => deadline,
            },
            (None, Role::Initiator) if self.closing.is_none() => self.next_at,
            (None, Role::Answerer) if self.closing.is_none() && self.pending.is_some() => self.next_at,
            (None, Role::Initiator | Role::Answerer) => None,
        }
    }

    /// Does what the time asks for.
    pub fn advance(&mut self, cx: &mut Context<'_>) {
        let deadline = self.current.as_ref().and_then(|current| current.phase.deadline());
        if deadline.is_some_and(|deadline| deadline <= cx.now) {
            self.fail(cx);
        }
        if self.current.as_ref().is_some_and(|current| matches!(current.restart, Restart::Due(at) if at <= cx.now)) {
            self.restart(cx);
        }
        if self.current.is_some() || self.closing.is_some() {
            return;
        }
        match self.role {
            Role::Initiator if self.next_at.is_some_and(|at| at <= cx.now) => {
                self.attempt += 1;
                self.open(cx);
            }
            Role::Initiator => {}
            Role::Answerer => {
                let may_open = self.next_at.is_none_or(|at| at <= cx.now);
                if let Some(offer) = self.pending.take_if(|_| may_open) {
                    self.attempt = offer.attempt;
                    let id = self.open(cx);
                    self.give(id, offer, cx);
                }
            }
        }
    }

    /// A connection of ours reports.
    pub fn handle_event(&mut self, id: LegId, event: LegEvent, cx: &mut Context<'_>) {
        if self.closing == Some(id) {
            if event == LegEvent::Closed {
                self.closing = None;
            }
            return self.advance(cx);
        }
        let Some(current) = self.current.as_mut().filter(|current| current.id == id) else { return };
        match event {
            LegEvent::Description { sdp, fingerprint } => {
                let kind = match self.role {
                    Role::Initiator => SdpKind::Offer,
                    Role::Answerer => SdpKind::Answer,
                };
                cx.actions.push(Action::Send(Body::Sdp(Sdp { attempt: self.attempt, kind, sdp, fingerprint })));
            }
            LegEvent::Candidates(candidates) => {
                cx.actions.push(Action::Send(Body::Ice(Ice { attempt: self.attempt, candidates })));
            }
            LegEvent::Connected | LegEvent::Recovered => {
                current.phase = Phase::Up;
                // An offer that is still out takes the connection to a new path when it is answered.
                if self.role == Role::Answerer || current.answered {
                    current.restart = Restart::NotNeeded;
                }
                self.up_since.get_or_insert(cx.now);
                self.was_up = true;
                self.down_since = None;
            }
            LegEvent::Disconnected => {
                if current.phase == Phase::Up {
                    self.down_since = Some(cx.now);
                    let deadline = self.want_restart(cx.now) + self.patience(0, cx);
                    if let Some(current) = &mut self.current {
                        current.phase = Phase::Shaky { deadline };
                    }
                }
            }
            LegEvent::Failed => self.fail(cx),
            LegEvent::Closed => {
                // It closed by itself: there is nothing left to wait for.
                self.fail(cx);
                self.closing = None;
            }
            LegEvent::IceConnected | LegEvent::FirstAudio => {}
        }
        self.advance(cx);
    }

    /// The peer's description.
    pub fn handle_sdp(&mut self, sdp: Sdp, cx: &mut Context<'_>) {
        match (self.role, sdp.kind) {
            (Role::Initiator, SdpKind::Answer) => {
                let Some(current) = self.current.as_mut() else { return };
                if sdp.attempt != self.attempt || current.answered {
                    return;
                }
                current.answered = true;
                let id = current.id;
                if current.remote.is_some_and(|remote| remote != sdp.fingerprint) {
                    // The far connection is gone, and another one answered what was meant for it.
                    self.fail(cx);
                    return self.advance(cx);
                }
                self.give(id, sdp, cx);
            }
            (Role::Answerer, SdpKind::Offer) => {
                let newest = self.pending.as_ref().map_or(self.attempt, |pending| pending.attempt);
                if sdp.attempt <= newest {
                    return;
                }
                self.early.retain(|ice| ice.attempt >= sdp.attempt);
                let (known, patience) = (Some(sdp.fingerprint), self.patience(0, cx));
                if let Some(current) = self.current.as_mut().filter(|current| current.remote == known) {
                    current.restart = Restart::UnderWay;
                    if let Phase::Shaky { deadline } = &mut current.phase {
                        *deadline = cx.now + patience;
                    }
                    let id = current.id;
                    self.attempt = sdp.attempt;
                    cx.actions.push(Action::DropSignals);
                    return self.give(id, sdp, cx);
                }
                if self.current.is_none() && self.dead == known {
                    // A new path to a connection that was closed here: only a new connection helps.
                    self.attempt = sdp.attempt;
                    cx.actions.push(Action::DropSignals);
                    return cx.actions.push(Action::Send(Body::Restart(self.attempt)));
                }
                self.pending = Some(sdp);
                self.close_current(cx);
                self.advance(cx);
            }
            // An offer from a higher DID, or an answer from a lower one: not for us.
            (Role::Initiator, SdpKind::Offer) | (Role::Answerer, SdpKind::Answer) => {}
        }
    }

    /// The peer's candidates; those that overtook their description are kept.
    pub fn handle_ice(&mut self, ice: Ice, cx: &mut Context<'_>) {
        if ice.candidates.is_empty() {
            return;
        }
        // Before its answer the initiator cannot know whose candidates they are.
        let described = |current: &&Current| self.role == Role::Answerer || current.answered;
        match self.current.as_ref().filter(described) {
            Some(current) if ice.attempt == self.attempt => {
                cx.actions.push(Action::Command(current.id, LegCommand::Candidates(ice)));
            }
            Some(_) | None => self.keep_early(ice),
        }
    }

    fn keep_early(&mut self, ice: Ice) {
        let attempt = self.attempt;
        let may_come = |of: u32| match self.role {
            Role::Initiator => of == attempt,
            Role::Answerer => of > attempt,
        };
        self.early.retain(|kept| may_come(kept.attempt));
        let kept: usize = self.early.iter().map(|ice| ice.candidates.len()).sum();
        if may_come(ice.attempt) && kept + ice.candidates.len() <= MAX_EARLY_CANDIDATES {
            self.early.push(ice);
        }
    }

    /// The answerer wants a new attempt after that one: a new path, or, when that is what was tried, a new connection.
    pub fn handle_restart(&mut self, attempt: u32, cx: &mut Context<'_>) {
        if self.role != Role::Initiator || attempt != self.attempt {
            return;
        }
        let Some(current) = &self.current else { return };
        match (current.phase, current.restart) {
            (Phase::Connecting { .. }, _) | (Phase::Up | Phase::Shaky { .. }, Restart::UnderWay) => self.fail(cx),
            (Phase::Up | Phase::Shaky { .. }, Restart::NotNeeded | Restart::Due(_)) => {
                self.want_restart(cx.now);
            }
        }
        self.advance(cx);
    }

    /// Not wanted any more; its connection still has to report `Closed`.
    pub fn stop(&mut self, cx: &mut Context<'_>) {
        self.close_current(cx);
        self.next_at = None;
        self.pending = None;
    }

    fn open(&mut self, cx: &mut Context<'_>) -> LegId {
        *cx.last_leg += 1;
        let id = LegId(*cx.last_leg);
        let deadline = cx.now + self.patience(self.failures.min(3), cx);
        self.next_at = match self.role {
            Role::Initiator => None,
            Role::Answerer => Some(cx.now + FIRST_PAUSE),
        };
        self.current = Some(Current {
            id,
            phase: Phase::Connecting { deadline },
            restart: Restart::NotNeeded,
            answered: false,
            remote: None,
        });
        cx.actions.push(Action::DropSignals);
        cx.actions.push(Action::Open(id, self.role));
        id
    }

    /// How long an attempt is given on this path.
    fn patience(&self, doublings: u32, cx: &Context<'_>) -> Duration {
        let path = cx.round_trip.unwrap_or_default() * PATIENCE_ROUND_TRIPS;
        let patience = ((PATIENCE + path) * 2u32.pow(doublings)).min(MAX_PATIENCE);
        match self.role {
            Role::Initiator => patience,
            // The initiator gives up first; the answerer only acts when it does not.
            Role::Answerer => patience * 2,
        }
    }

    /// Says when ICE is to be restarted, unless it is already: at once, or later when it was of late.
    fn want_restart(&mut self, now: Instant) -> Instant {
        self.forgive_if_steady(now);
        let begins = now + pause_after(self.restarts);
        match self.current.as_mut().map(|current| &mut current.restart) {
            Some(restart @ Restart::NotNeeded) => {
                *restart = Restart::Due(begins);
                begins
            }
            Some(Restart::Due(at)) => *at,
            Some(Restart::UnderWay) | None => now,
        }
    }

    /// Asks for a new path.
    fn restart(&mut self, cx: &mut Context<'_>) {
        let Some(current) = self.current.as_mut() else { return };
        current.restart = Restart::UnderWay;
        current.answered = false;
        self.restarts = self.restarts.saturating_add(1);
        match self.role {
            Role::Initiator => {
                self.attempt += 1;
                cx.actions.push(Action::DropSignals);
                cx.actions.push(Action::Command(current.id, LegCommand::RestartIce));
            }
            Role::Answerer => cx.actions.push(Action::Send(Body::Restart(self.attempt))),
        }
    }

    /// A leg that was up for long starts with fresh patience.
    fn forgive_if_steady(&mut self, now: Instant) {
        if self.up_since.take().is_some_and(|since| now >= since + STEADY) {
            (self.failures, self.restarts) = (0, 0);
        }
    }

    fn fail(&mut self, cx: &mut Context<'_>) {
        self.close_current(cx);
        self.forgive_if_steady(cx.now);
        match self.role {
            Role::Initiator => self.next_at = Some(cx.now + pause_after(self.failures)),
            Role::Answerer => cx.actions.push(Action::Send(Body::Restart(self.attempt))),
        }
        self.failures = self.failures.saturating_add(1);
        self.down_since.get_or_insert(cx.now);
    }

    fn close_current(&mut self, cx: &mut Context<'_>) {
        if let Some(current) = self.current.take() {
            self.closing = Some(current.id);
            self.dead = current.remote;
            self.down_since.get_or_insert(cx.now);
            cx.actions.push(Action::DropSignals);
            cx.actions.push(Action::Command(current.id, LegCommand::Close));
        }
    }

    /// Gives the connection the peer's description, and the candidates that came before it.
    fn give(&mut self, id: LegId, sdp: Sdp, cx: &mut Context<'_>) {
        if let Some(current) = &mut self.current {
            current.remote = Some(sdp.fingerprint);
        }
        cx.actions.push(Action::Command(id, LegCommand::Remote(sdp)));
        let attempt = self.attempt;
        for ice in self.early.extract_if(.., |ice| ice.attempt == attempt) {
            cx.actions.push(Action::Command(id, LegCommand::Candidates(ice)));
        }
    }
}

impl Phase {
    fn deadline(self) -> Option<Instant> {
        match self {
            Self::Connecting { deadline } | Self::Shaky { deadline } => Some(deadline),
            Self::Up => None,
        }
    }
}

/// None before the second attempt, then doubling: a restart storm is impossible.
fn pause_after(attempts: u32) -> Duration {
    match attempts {
        0 => Duration::ZERO,
        attempts => (FIRST_PAUSE * 2u32.pow((attempts - 1).min(8))).min(MAX_PAUSE),
    }
}
