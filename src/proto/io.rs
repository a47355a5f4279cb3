//! The engine's doors: what may happen to it, what users may ask of it, what it wants done.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::{
    id::{CallId, Did, LegId, MessageId},
    signal::{Contact, DeclineReason, Ice, Incoming, Sdp, Topic},
};

/// The time, as the shell tells it with every call.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// For every duration; never jumps.
    pub mono: Instant,
    /// Unix time in ms; only for instances and for the age of envelopes.
    pub unix_ms: u64,
}

/// Something happened outside.
#[derive(Debug, Clone)]
pub enum Input {
    /// A verified signal.
    Signal(Incoming),
    /// A peer that we are connected to subscribed to the topic: what waits there is sent at once.
    Subscribed(Topic),
    /// A leg reports.
    Leg(LegId, LegEvent),
}

/// Which side of the SDP exchange a leg is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The lower DID: sends the SDP offer.
    Initiator,
    /// The higher DID: answers.
    Answerer,
}

/// What a leg reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LegEvent {
    /// The local description is ready to be sent (offer or answer, after the role).
    Description {
        /// SDP text.
        sdp: String,
        /// SHA-256 of the own DTLS certificate.
        fingerprint: [u8; 32],
    },
    /// Local candidates, batched.
    Candidates(Vec<String>),
    /// ICE found a pair.
    IceConnected,
    /// DTLS is up and the peer's certificate has the sealed fingerprint: audio may flow.
    Connected,
    /// The first audio packet of the peer was decoded.
    FirstAudio,
    /// No media for a while; it may come back.
    Disconnected,
    /// Media flows again after `Disconnected`.
    Recovered,
    /// This attempt is lost.
    Failed,
    /// Everything of this leg is gone; always the last event.
    Closed,
}

/// What the engine wants of a leg.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LegCommand {
    /// Make a connection.
    Open {
        /// The call.
        call: CallId,
        /// The other end.
        peer: Did,
        /// Offers or answers.
        role: Role,
    },
    /// The peer's description.
    Remote(Sdp),
    /// The peer's candidates.
    Candidates(Ice),
    /// Close, then report [`LegEvent::Closed`].
    Close,
}

/// What a user (through a client) asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Make a call to these DIDs.
    Offer {
        /// Without the own DID, no doubles.
        invitees: Vec<Did>,
    },
    /// Take a ringing call.
    Accept(CallId),
    /// Refuse a ringing call.
    Reject(CallId, DeclineReason),
    /// Leave the call, or take back an unanswered offer.
    Hangup(CallId),
    /// Microphone off or on.
    Mute(bool),
    /// Ears off or on.
    Deafen(bool),
    /// The contact list changed.
    SetContacts(Vec<Did>),
    /// Where this node can be dialled, for `Join`.
    SetContact(Contact),
    /// Leave everything; new offers are not answered any more.
    Shutdown,
}

/// What a request that was done returns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The new call.
    Offered(CallId),
    /// Done.
    Done,
}

/// Why a request was not done; nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// No call with that id is ringing or active.
    #[error("there is no such call")]
    NoSuchCall,
    /// It is no incoming call that still rings.
    #[error("the call is not ringing here")]
    NotRinging,
    /// One active call at a time.
    #[error("another call is active")]
    InACall,
    /// Nobody, oneself, or more than [`super::signal::MAX_PARTICIPANTS`].
    #[error("a call needs between 1 and 31 other participants")]
    BadInvitees,
    /// The daemon is stopping.
    #[error("the daemon is stopping")]
    Stopping,
}

/// What the sound card is to do: derived from the whole state, sent whenever it changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AudioPlan {
    /// Capture and encode: consent, not on hold, a joined leg up.
    pub microphone: bool,
    /// Play what the legs bring.
    pub playback: bool,
    /// Send silence instead of the microphone.
    pub muted: bool,
    /// Play silence instead of the legs.
    pub deafened: bool,
    /// An incoming call rings.
    pub ring: bool,
}

/// What the engine wants done, in this order.
#[derive(Debug, Clone)]
pub enum Output {
    /// Join the gossip topic.
    Subscribe(Topic),
    /// Leave the gossip topic.
    Unsubscribe(Topic),
    /// Publish sealed bytes.
    Publish(Topic, Vec<u8>),
    /// Dial a participant directly.
    Dial(Contact),
    /// Drive a leg.
    Leg(LegId, LegCommand),
    /// Drive the sound card.
    Audio(AudioPlan),
    /// Write (sender, message) into the persistent seen-set before anything rings.
    Remember(Did, MessageId),
    /// Tell clients.
    Event(Event),
}

/// A participant as seen from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ParticipantState {
    /// The offer is out; no device answered yet.
    Invited,
    /// A device rings.
    Ringing,
    /// Joined; the leg is being made.
    Connecting,
    /// Joined, and the leg is up.
    Joined,
    /// The leg was up and is not now.
    Reconnecting,
    /// Said no.
    Declined,
    /// The ring time is over and no device ever answered.
    Unreachable,
    /// The ring time is over.
    Expired,
    /// Was in and is out.
    Left,
}

/// A call as seen from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallState {
    /// Rings here.
    Incoming,
    /// Offered from here; nobody has joined yet.
    Outgoing,
    /// In it.
    Active,
}

/// Why a call is over for this daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// The user hung up.
    HungUp,
    /// The user refused it.
    Rejected,
    /// The inviter took it back.
    Cancelled,
    /// It rang until the ring time was over.
    Missed,
    /// Every invitee declined.
    Declined,
    /// Every invitee who declined was in another call.
    Busy,
    /// Nobody accepted in time.
    NoAnswer,
    /// No device of any invitee ever answered.
    Unreachable,
    /// Another device of the same DID answered, or the call moved there.
    AnsweredElsewhere,
    /// Accepted, but nobody was met in 30 s.
    Gone,
    /// Everybody else left.
    Empty,
    /// Both called each other; the other call goes on.
    Superseded,
    /// The daemon stopped.
    Stopped,
}

/// What clients are told; past tense, each with a `seq` that the daemon adds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A call was offered from here.
    CallOffered {
        /// The call.
        call: CallId,
        /// Whom it invites.
        invitees: Vec<Did>,
    },
    /// A call rings here.
    CallRang {
        /// The call.
        call: CallId,
        /// Who invites.
        from: Did,
        /// Everyone in it, the inviter included.
        participants: Vec<Did>,
        /// The inviter is a contact.
        known: bool,
    },
    /// This daemon joined the call.
    CallJoined {
        /// The call.
        call: CallId,
    },
    /// The call is over here.
    CallEnded {
        /// The call.
        call: CallId,
        /// Why.
        reason: EndReason,
    },
    /// A participant's state changed.
    ParticipantChanged {
        /// The call.
        call: CallId,
        /// Who.
        did: Did,
        /// The new state.
        state: ParticipantState,
    },
    /// A participant muted or deafened itself, or took it back.
    ParticipantMedia {
        /// The call.
        call: CallId,
        /// Who.
        did: Did,
        /// Sends silence.
        muted: bool,
        /// Hears nothing.
        deafened: bool,
    },
    /// The own microphone or ears were switched.
    MediaChanged {
        /// The own microphone is off.
        muted: bool,
        /// The own ears are off.
        deafened: bool,
    },
}

/// When the stages of a leg were reached, in ms since both sides had accepted (as known here).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Setup {
    /// Both joins exchanged.
    pub signalled: Option<u64>,
    /// ICE pair found.
    pub ice_connected: Option<u64>,
    /// DTLS up and fingerprint checked.
    pub dtls_connected: Option<u64>,
    /// First audio decoded.
    pub first_audio: Option<u64>,
}

/// A participant, for `call.show`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParticipantView {
    /// Who.
    pub did: Did,
    /// State.
    pub state: ParticipantState,
    /// Tells that it is muted.
    pub muted: bool,
    /// Tells that it is deafened.
    pub deafened: bool,
    /// The leg to it, while there is one.
    pub leg: Option<LegId>,
    /// Stages of the latest leg.
    pub setup: Setup,
}

/// A call, for `call.show`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallView {
    /// The call.
    pub call: CallId,
    /// State.
    pub state: CallState,
    /// Who made the offer that reached this daemon, or the own DID.
    pub from: Did,
    /// Everyone but the own DID.
    pub participants: Vec<ParticipantView>,
}
