//! A call and its roster: what is known of each participant, and what follows from it.
//!
//! Data and derivations only; what is done about it stands in [`super::engine`].

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use super::{
    id::{Did, Instance, LegId, MessageId},
    io::{CallState, CallView, EndReason, LegEvent, ParticipantState, ParticipantView, Setup},
    leg::Leg,
    seen::Recent,
    signal::{Contact, Decline, DeclineReason, MediaState, Ticket, Topic},
};

/// Message ids of one participant that are remembered, so that a repetition changes nothing.
const REMEMBERED_MESSAGES: usize = 256;

/// A connection takes a second, and a few more on a bad path: three attempts were in vain by then.
const CONNECTS: Duration = Duration::from_secs(18);

/// Where a call stands here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Rings here until this time. `silent`: the caller only thinks so, nobody here is told.
    Incoming { until: Instant, silent: bool },
    /// This device is in it.
    Joined { instance: Instance },
    /// Over; kept until its last signals are acknowledged, at most until this time.
    Ended { instance: Option<Instance>, until: Instant },
}

/// A call.
#[derive(Debug)]
pub struct Call {
    /// Id, key, settings, own chain of grants.
    pub ticket: Ticket,
    /// Who invited this device first; the own DID when it made the call.
    pub from: Did,
    /// Who else did, and has not taken it back.
    pub also_from: BTreeSet<Did>,
    /// Where it stands here.
    pub phase: Phase,
    /// Everybody but the own DID.
    pub members: BTreeMap<Did, Member>,
    /// The user has put it on hold.
    pub on_hold: bool,
    /// The user has it recorded; paused while it is on hold.
    pub recording: bool,
    /// When the invitation that made this call known here expires.
    pub ring_until: Instant,
    /// Gossip topics that are subscribed for this call.
    pub topics: BTreeSet<Topic>,
    /// When the next Hello is due.
    pub hello: HelloWindow,
    /// Somebody else was in it together with this device.
    pub met: bool,
    /// This device came back to it: there is somebody to be met, or nobody any more.
    pub rejoined: bool,
    /// The number of the highest stay of the own DID, on whatever device; 0: none.
    pub stay: u64,
    /// Since when nobody else is in it.
    pub alone_since: Option<Instant>,
}

impl Call {
    /// The instance of this device, while it is in the call.
    pub fn instance(&self) -> Option<Instance> {
        match self.phase {
            Phase::Joined { instance } => Some(instance),
            Phase::Incoming { .. } | Phase::Ended { .. } => None,
        }
    }

    /// Rings here, for the user to hear.
    pub fn rings(&self) -> bool {
        matches!(self.phase, Phase::Incoming { silent: false, .. })
    }

    /// Offered from here, nobody was there yet, and it rings with somebody.
    pub fn rings_elsewhere(&self, own: &Did) -> bool {
        let rings = |member: &Member| member.state() == ParticipantState::Ringing;
        self.is_offered_by(own) && !self.met && self.members.values().any(rings)
    }

    /// This device is in it and has not put it on hold.
    pub fn is_active(&self) -> bool {
        self.instance().is_some() && !self.on_hold
    }

    /// What is said is written down at the moment.
    pub fn is_recorded(&self) -> bool {
        self.recording && self.is_active()
    }

    /// That DID has invited this device, and it still holds.
    pub fn is_inviter(&self, did: &Did) -> bool {
        self.from == *did || self.also_from.contains(did)
    }

    /// That DID's invitation of this device holds no more; true if another one does.
    pub fn uninvite(&mut self, did: &Did) -> bool {
        self.also_from.remove(did);
        if self.from == *did
            && let Some(other) = self.also_from.pop_first()
        {
            self.from = other;
        }
        !self.is_inviter(did)
    }

    /// Offered by this device, in the stay that it is in.
    pub fn is_offered_by(&self, own: &Did) -> bool {
        self.from == *own && !self.rejoined
    }

    /// Not over.
    pub fn is_alive(&self) -> bool {
        !matches!(self.phase, Phase::Ended { .. })
    }

    /// Somebody else is in it now.
    pub fn has_company(&self) -> bool {
        self.members.values().any(|member| member.peer().is_some())
    }

    /// Somebody may still accept.
    pub fn is_awaited(&self) -> bool {
        self.members.values().any(Member::is_invited)
    }

    /// Media flows to or from somebody.
    pub fn has_leg_up(&self) -> bool {
        self.members.values().filter_map(Member::peer).any(|peer| peer.leg.as_ref().is_some_and(Leg::is_up))
    }

    /// The connections to the others.
    pub fn legs(&self) -> impl Iterator<Item = LegId> {
        self.members.values().filter_map(|member| member.leg()?.id())
    }

    /// Those of them whose sound may be written down, and whose it is.
    pub fn recorded_legs(&self) -> impl Iterator<Item = (LegId, Did)> {
        let knowing = self.members.iter().filter(|(_, member)| member.peer().is_some_and(|peer| peer.knows_recording));
        knowing.filter_map(|(did, member)| Some((member.leg()?.id()?, did.clone())))
    }

    /// Why an offer that nobody took is over.
    pub fn unanswered_reason(&self) -> EndReason {
        let presences = || self.members.values().map(|member| &member.presence);
        if presences().all(|presence| matches!(presence, Presence::Declined(no) if no.reason == DeclineReason::Busy)) {
            EndReason::Busy
        } else if presences().all(|presence| matches!(presence, Presence::Declined(_))) {
            EndReason::Declined
        } else if presences().all(|presence| matches!(presence, Presence::Unreachable)) {
            EndReason::Unreachable
        } else {
            EndReason::NoAnswer
        }
    }

    /// For clients; `None` when the call is over.
    pub fn view(&self, own: &Did) -> Option<CallView> {
        let state = match self.phase {
            Phase::Incoming { silent: false, .. } => CallState::Incoming,
            Phase::Joined { .. } if self.on_hold => CallState::OnHold,
            Phase::Joined { .. } if self.is_offered_by(own) && !self.met => CallState::Outgoing,
            Phase::Joined { .. } => CallState::Active,
            Phase::Incoming { silent: true, .. } | Phase::Ended { .. } => return None,
        };
        let participants = self.members.iter().map(|(did, member)| member.view(did, self.is_recorded())).collect();
        let closed = self.ticket.settings.closed;
        let (call, from, recording) = (self.ticket.call, self.from.clone(), self.recording);
        Some(CallView { call, state, from, closed, recording, participants })
    }
}

/// One other participant.
#[derive(Debug)]
pub struct Member {
    /// What is known of it.
    pub presence: Presence,
    /// This device has invited it.
    pub invited_here: bool,
    /// The latest offer that it did so with.
    pub offer: Option<MessageId>,
    /// Until when an invitation of it may be taken, as far as known here.
    pub invited_until: Instant,
    /// Where its node can be dialled, as it said last; it holds for every stay.
    pub contact: Option<Contact>,
    /// Stays up to this one are over; the participant said so.
    pub left: Option<Instance>,
    /// The number of the latest attempt of its former leg, with its stay.
    pub attempts: Option<(Instance, u32)>,
    /// The state that clients were told last.
    pub shown: ParticipantState,
    /// Clients were told that no connection to it came about, and there was none since.
    pub no_connection: bool,
    /// What clients were told last of its microphone, ears and recording (without the version), and until when they are told no more.
    pub media_shown: (MediaState, Option<Instant>),
    /// Its latest messages.
    pub heard: Recent<MessageId>,
}

/// What is known of a participant.
#[derive(Debug)]
pub enum Presence {
    /// Its invitation is out; `reached`: a device acknowledged it, `rings`: a device rings.
    Invited { reached: bool, rings: bool },
    /// Said no.
    Declined(Decline),
    /// The ring time passed without any sign of life.
    Unreachable,
    /// The ring time passed.
    Expired,
    /// In the call.
    In(Box<Peer>),
    /// Was in. `lost`: its stay may go on, though there was no network to it for too long, it took its invitation of this
    /// device back, or was blocked; what it told last of microphone and ears still holds if it comes back.
    Out { instance: Instance, lost: Option<MediaState> },
}

/// A participant that is in the call.
#[derive(Debug)]
pub struct Peer {
    /// Its stay.
    pub instance: Instance,
    /// Microphone, ears and recording.
    pub state: MediaState,
    /// It has acknowledged that the call is recorded here. Otherwise it is not shown there, and its sound is not recorded.
    pub knows_recording: bool,
    /// It was here a moment ago in a former stay: to the user it never left.
    pub continues: bool,
    /// When both were in.
    pub met_at: Option<Instant>,
    /// The leg, once both are in.
    pub leg: Option<Leg>,
    /// When the stages of the first connection were reached, since `met_at`.
    pub setup: Setup,
}

impl Peer {
    /// Notes when a stage of the connection was reached for the first time.
    pub fn stamp(&mut self, event: &LegEvent, now: Instant) {
        let Some(met_at) = self.met_at else { return };
        let slot = match event {
            LegEvent::IceConnected => &mut self.setup.ice_connected,
            LegEvent::Connected => &mut self.setup.dtls_connected,
            LegEvent::FirstAudio => &mut self.setup.first_audio,
            LegEvent::Description { .. }
            | LegEvent::Candidates(_)
            | LegEvent::Disconnected
            | LegEvent::Recovered
            | LegEvent::Failed
            | LegEvent::Closed => return,
        };
        slot.get_or_insert(elapsed_ms(met_at, now));
    }

    /// Notes that both sides have each other's Join.
    pub fn stamp_signalled(&mut self, now: Instant) {
        if let Some(met_at) = self.met_at {
            self.setup.signalled.get_or_insert(elapsed_ms(met_at, now));
        }
    }
}

fn elapsed_ms(since: Instant, now: Instant) -> u64 {
    u64::try_from(now.saturating_duration_since(since).as_millis()).unwrap_or(u64::MAX)
}

impl Member {
    /// An invitee.
    pub fn invited(invited_here: bool, invited_until: Instant) -> Self {
        Self {
            presence: Presence::Invited { reached: false, rings: false },
            invited_here,
            offer: None,
            invited_until,
            contact: None,
            left: None,
            attempts: None,
            shown: ParticipantState::Invited,
            no_connection: false,
            media_shown: (MediaState::default(), None),
            heard: Recent::new(REMEMBERED_MESSAGES),
        }
    }

    /// It may still accept.
    pub fn is_invited(&self) -> bool {
        matches!(self.presence, Presence::Invited { .. })
    }

    /// That stay shows itself sooner or later, and has not yet.
    pub fn is_to_be_met(&self, stay: Option<Instance>) -> bool {
        match &self.presence {
            Presence::In(peer) => stay > Some(peer.instance),
            Presence::Out { instance, .. } => stay > Some(*instance),
            Presence::Invited { .. } | Presence::Declined(_) | Presence::Unreachable | Presence::Expired => true,
        }
    }

    /// The participant, if it is in the call.
    pub fn peer(&self) -> Option<&Peer> {
        let Presence::In(peer) = &self.presence else { return None };
        Some(peer)
    }

    /// The participant, if it is in the call.
    pub fn peer_mut(&mut self) -> Option<&mut Peer> {
        let Presence::In(peer) = &mut self.presence else { return None };
        Some(peer)
    }

    /// The leg to it, while there is one.
    pub fn leg(&self) -> Option<&Leg> {
        self.peer()?.leg.as_ref()
    }

    /// What clients have to be told of its microphone, ears and recording.
    pub fn unshown_media(&self) -> Option<MediaState> {
        let media = MediaState { version: 0, ..self.peer()?.state };
        (media != self.media_shown.0).then_some(media)
    }

    /// The state to show.
    pub fn state(&self) -> ParticipantState {
        match &self.presence {
            Presence::Invited { rings: true, .. } => ParticipantState::Ringing,
            Presence::Invited { rings: false, .. } => ParticipantState::Invited,
            Presence::Declined(_) => ParticipantState::Declined,
            Presence::Unreachable => ParticipantState::Unreachable,
            Presence::Expired => ParticipantState::Expired,
            Presence::Out { .. } => ParticipantState::Left,
            Presence::In(peer) => match &peer.leg {
                Some(leg) if leg.is_up() && peer.state.on_hold => ParticipantState::OnHold,
                Some(leg) if leg.is_up() => ParticipantState::Joined,
                Some(leg) if leg.was_up() => ParticipantState::Reconnecting,
                Some(_) | None if peer.continues => ParticipantState::Reconnecting,
                Some(_) | None => ParticipantState::Connecting,
            },
        }
    }

    /// When clients are to be told that no connection to it comes about, unless they were.
    pub fn no_connection_at(&self) -> Option<Instant> {
        let connecting = !self.no_connection && self.state() == ParticipantState::Connecting;
        self.peer().filter(|_| connecting)?.met_at.map(|met_at| met_at + CONNECTS)
    }

    fn view(&self, did: &Did, is_recorded: bool) -> ParticipantView {
        let peer = self.peer();
        ParticipantView {
            did: did.clone(),
            state: self.state(),
            no_connection: self.no_connection && self.state() == ParticipantState::Connecting,
            muted: peer.is_some_and(|peer| peer.state.muted),
            deafened: peer.is_some_and(|peer| peer.state.deafened),
            on_hold: peer.is_some_and(|peer| peer.state.on_hold),
            recording: peer.is_some_and(|peer| peer.state.recording),
            recorded: is_recorded && peer.is_some_and(|peer| peer.knows_recording),
            decline: if let Presence::Declined(decline) = &self.presence { Some(decline.clone()) } else { None },
            leg: peer.and_then(|peer| peer.leg.as_ref()).and_then(Leg::id),
            setup: peer.map(|peer| peer.setup).unwrap_or_default(),
        }
    }
}

/// When this device says Hello: only for 5 s after its own joining and after a higher DID's, dense at first.
#[derive(Debug, Default)]
pub struct HelloWindow {
    opened: Option<Instant>,
    said: usize,
}

impl HelloWindow {
    /// Offsets in ms from the opening of the window.
    const SCHEDULE_MS: [u64; 9] = [0, 50, 150, 350, 750, 1_500, 2_500, 3_500, 4_500];

    /// Begins (or begins again) at `now`.
    pub fn open(&mut self, now: Instant) {
        self.opened = Some(now);
        self.said = 0;
    }

    /// No more until it is opened again.
    pub fn close(&mut self) {
        self.opened = None;
    }

    /// When the next Hello is due.
    pub fn deadline(&self) -> Option<Instant> {
        let offset_ms = Self::SCHEDULE_MS.get(self.said)?;
        self.opened.map(|opened| opened + Duration::from_millis(*offset_ms))
    }

    /// Whether a Hello is due; those that were missed are not made up for.
    pub fn take(&mut self, now: Instant) -> bool {
        let mut due = false;
        while self.deadline().is_some_and(|at| at <= now) {
            self.said += 1;
            due = true;
        }
        due
    }
}
