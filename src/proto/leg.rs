//! The leg towards one participant, as decisions: which attempt runs, how long it is given, when the next one begins.
//!
//! An attempt is one WebRTC connection with its own [`LegId`]. The lower DID numbers the attempts and offers; the higher
//! answers and asks with `Restart`. A connection is closed completely before the next one is opened.

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
/// How long media may be silent before a new attempt is made.
const SHAKY: Duration = Duration::from_secs(3);
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
    Connecting { deadline: Instant },
    Up,
    Shaky { since: Instant },
}

#[derive(Debug)]
struct Current {
    id: LegId,
    phase: Phase,
    answered: bool,
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
    failures: u32,
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
            failures: 0,
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
            (Some(current), _) => match current.phase {
                Phase::Connecting { deadline } => Some(deadline),
                Phase::Shaky { since } => Some(since + SHAKY),
                Phase::Up => None,
            },
            (None, Role::Initiator) if self.closing.is_none() => self.next_at,
            (None, Role::Answerer) if self.closing.is_none() && self.pending.is_some() => self.next_at,
            (None, Role::Initiator | Role::Answerer) => None,
        }
    }

    /// Does what the time asks for.
    pub fn advance(&mut self, cx: &mut Context<'_>) {
        let overdue = match &self.current {
            Some(current) => match current.phase {
                Phase::Connecting { deadline } => cx.now >= deadline,
                Phase::Shaky { since } => cx.now >= since + SHAKY,
                Phase::Up => false,
            },
            None => false,
        };
        if overdue {
            self.fail(cx);
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
                    cx.actions.push(Action::Command(id, LegCommand::Remote(offer)));
                    self.give_early(id, cx);
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
                self.up_since.get_or_insert(cx.now);
                self.was_up = true;
                self.down_since = None;
            }
            LegEvent::Disconnected => {
                if current.phase == Phase::Up {
                    current.phase = Phase::Shaky { since: cx.now };
                    self.down_since = Some(cx.now);
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
                cx.actions.push(Action::Command(current.id, LegCommand::Remote(sdp)));
            }
            (Role::Answerer, SdpKind::Offer) => {
                let newest = self.pending.as_ref().map_or(self.attempt, |pending| pending.attempt);
                if sdp.attempt <= newest {
                    return;
                }
                self.early.retain(|ice| ice.attempt >= sdp.attempt);
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
        match &self.current {
            Some(current) if ice.attempt == self.attempt => {
                cx.actions.push(Action::Command(current.id, LegCommand::Candidates(ice)));
            }
            Some(_) | None => {
                let kept: usize = self.early.iter().map(|ice| ice.candidates.len()).sum();
                let ahead = self.role == Role::Answerer && ice.attempt > self.attempt;
                if ahead && kept + ice.candidates.len() <= MAX_EARLY_CANDIDATES {
                    self.early.push(ice);
                }
            }
        }
    }

    /// The answerer wants a new attempt after that one.
    pub fn handle_restart(&mut self, attempt: u32, cx: &mut Context<'_>) {
        if self.role == Role::Initiator && attempt == self.attempt && self.current.is_some() {
            self.fail(cx);
            self.advance(cx);
        }
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
        let path = cx.round_trip.unwrap_or_default() * PATIENCE_ROUND_TRIPS;
        let mut patience = ((PATIENCE + path) * 2u32.pow(self.failures.min(3))).min(MAX_PATIENCE);
        if self.role == Role::Answerer {
            // The initiator gives up first; the answerer only acts when it does not.
            patience *= 2;
        }
        self.next_at = match self.role {
            Role::Initiator => None,
            Role::Answerer => Some(cx.now + FIRST_PAUSE),
        };
        self.current = Some(Current { id, phase: Phase::Connecting { deadline: cx.now + patience }, answered: false });
        cx.actions.push(Action::DropSignals);
        cx.actions.push(Action::Open(id, self.role));
        id
    }

    fn fail(&mut self, cx: &mut Context<'_>) {
        self.close_current(cx);
        if self.up_since.take().is_some_and(|since| cx.now >= since + STEADY) {
            self.failures = 0;
        }
        match self.role {
            Role::Initiator => self.next_at = Some(cx.now + self.pause()),
            Role::Answerer => cx.actions.push(Action::Send(Body::Restart(self.attempt))),
        }
        self.failures = self.failures.saturating_add(1);
        self.down_since.get_or_insert(cx.now);
    }

    /// None before the second attempt, then doubling: a restart storm is impossible.
    fn pause(&self) -> Duration {
        match self.failures {
            0 => Duration::ZERO,
            failures => (FIRST_PAUSE * 2u32.pow((failures - 1).min(8))).min(MAX_PAUSE),
        }
    }

    fn close_current(&mut self, cx: &mut Context<'_>) {
        if let Some(current) = self.current.take() {
            self.closing = Some(current.id);
            self.down_since.get_or_insert(cx.now);
            cx.actions.push(Action::DropSignals);
            cx.actions.push(Action::Command(current.id, LegCommand::Close));
        }
    }

    fn give_early(&mut self, id: LegId, cx: &mut Context<'_>) {
        let attempt = self.attempt;
        for ice in self.early.extract_if(.., |ice| ice.attempt == attempt) {
            cx.actions.push(Action::Command(id, LegCommand::Candidates(ice)));
        }
    }
}
