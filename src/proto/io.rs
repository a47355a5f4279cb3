//! The engine's doors: what may happen to it, what users may ask of it, what it wants done.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{
    id::{CallId, Did, LegId, MessageId},
    signal::{Contact, Decline, DeclineReason, Ice, Incoming, Note, Sdp, Settings, Topic},
};

mod kept;
mod plan;

pub use kept::{Asked, JOINABLE, KeptCall, PastCall, Standing};
pub use plan::{AudioPlan, Recorded};

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
    /// The machine slept for so long, while [`Now::mono`] stood still.
    Woke(Duration),
}

/// How a contact's calls are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// Without asking anybody: an intercom.
    Allow,
    /// They ring.
    #[default]
    Ask,
    /// Not at all, and the caller is not told.
    Block,
}

/// What becomes of the call that was active when another one becomes so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Former {
    /// It is put on hold.
    #[default]
    Hold,
    /// It is left.
    Leave,
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
    /// The peer's description, or a later one of the same certificate: the path is looked for anew.
    Remote(Sdp),
    /// The peer's candidates.
    Candidates(Ice),
    /// Look for a new path and keep the connection: a new [`LegEvent::Description`] follows, with the same certificate.
    /// Only for an [`Role::Initiator`] that was [`LegEvent::Connected`].
    RestartIce,
    /// Close, then report [`LegEvent::Closed`].
    Close,
}

/// What a user (through a client) asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Make a call to these DIDs; it becomes the active one.
    Offer {
        /// Without the own DID, no doubles.
        invitees: Vec<Did>,
        /// Fixed for the whole call.
        settings: Settings,
    },
    /// Take a ringing call; it becomes the active one.
    Accept(CallId, Former),
    /// Refuse a ringing call.
    Reject(CallId, Decline),
    /// Leave the call, or take back an unanswered offer.
    Hangup(CallId),
    /// Go (back) to a call that was left or missed less than [`JOINABLE`] ago; it becomes the active one.
    Join(CallId, Former),
    /// Ask more people into a call that this device is in.
    Invite {
        /// The call.
        call: CallId,
        /// Without the own DID, no doubles.
        invitees: Vec<Did>,
    },
    /// Neither speak to the call nor hear it; the others are told.
    Hold(CallId),
    /// Take it from hold; it becomes the active one, and the one that was is put on hold.
    Resume(CallId),
    /// Write down what is said in this call, which has to be the active one, or cease to. The others are told.
    Record {
        /// The call.
        call: CallId,
        /// Begin or end.
        on: bool,
    },
    /// Microphone off or on.
    Mute(bool),
    /// With push-to-talk: speak, for a minute at most, or cease to. A push ends with the last call, and when another one begins.
    Talk(bool),
    /// Ears off or on.
    Deafen(bool),
    /// Nothing rings and nothing is accepted; contacts are told so.
    SetDoNotDisturb(bool),
    /// The contact list changed.
    SetContacts(Vec<(Did, Policy)>),
    /// What was kept when the daemon ended. `rejoin`: calls that it was in are joined again, otherwise they count as left.
    Restore {
        /// Everything that was given to [`Output::Keep`] and not discarded.
        calls: Vec<KeptCall>,
        /// `[call] rejoin`
        rejoin: bool,
    },
    /// Where this node can be dialled, for `Join`.
    SetAddresses(Contact),
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
    /// It is no incoming call, or it does not ring any more.
    #[error("the call is not ringing here")]
    NotRinging,
    /// It is not left or missed, or that was too long ago.
    #[error("the call cannot be joined")]
    NotJoinable,
    /// This device has to be in it for that.
    #[error("this device is not in the call")]
    NotInCall,
    /// Only its creator may invite, and is somebody else.
    #[error("only the creator of this call may invite")]
    Closed,
    /// The own invitation is the fourth in a row from the creator.
    #[error("the invitation would be too many steps away from the call's creator")]
    TooFar,
    /// An invitee is blocked.
    #[error("one of these contacts is blocked")]
    Blocked,
    /// An invitee is on the own chain of invitations, and can join without a new one.
    #[error("who invited this device needs no invitation")]
    InvitedYou,
    /// What is on hold is not recorded.
    #[error("the call is on hold")]
    OnHold,
    /// One call is recorded at a time, and it is another one.
    #[error("another call, which is on hold, is being recorded")]
    RecordsAnother,
    /// As many calls as there may be are active or on hold.
    #[error("too many calls are on hold")]
    TooManyCalls,
    /// Nobody, oneself, or more than [`super::signal::MAX_PARTICIPANTS`].
    #[error("a call needs between 1 and 31 other participants")]
    BadInvitees,
    /// Only with push-to-talk is there something to push.
    #[error("push-to-talk is not switched on")]
    NoPushToTalk,
    /// Nobody would hear what is said.
    #[error("this device is in no call")]
    NoCall,
    /// The daemon is stopping.
    #[error("the daemon is stopping")]
    Stopping,
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
    Dial(Did, Contact),
    /// Drive a leg.
    Leg(LegId, LegCommand),
    /// Drive the sound card.
    Audio(AudioPlan),
    /// Write (sender, message) into the persistent seen-set before anything rings.
    Remember(Did, MessageId),
    /// Write this call down, over what was written of it before.
    Keep(Box<KeptCall>),
    /// What was written down of this call is not needed any more.
    Discard(CallId),
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
    /// In it, and put it on hold.
    OnHold,
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
    /// In it, and put on hold here.
    OnHold,
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
    /// It did not ring, since the user wanted to hear no calls, or since this stranger had rung a moment ago.
    Silenced,
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
    /// More people were asked into the call from here.
    CallInvited {
        /// The call.
        call: CallId,
        /// Whom.
        invitees: Vec<Did>,
    },
    /// The call was put on hold here.
    CallHeld {
        /// The call.
        call: CallId,
    },
    /// The call was taken from hold here.
    CallResumed {
        /// The call.
        call: CallId,
    },
    /// A call came and did not ring, since the user wants to hear none now, or since this stranger rang a moment ago.
    CallSilenced {
        /// The call.
        call: CallId,
        /// Who invites.
        from: Did,
        /// Everyone in it, the inviter included.
        participants: Vec<Did>,
        /// The inviter is a contact.
        known: bool,
    },
    /// The daemon ended in this call without leaving it, and is not to join again by itself.
    CallInterrupted {
        /// The call.
        call: CallId,
        /// Who made the offer that reached this daemon, or the own DID.
        from: Did,
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
    /// A participant accepted, and no connection to it came about yet; it is tried on. Told once until there is one.
    NoConnection {
        /// The call.
        call: CallId,
        /// Who.
        did: Did,
    },
    /// An invitee said no; its state follows.
    ParticipantDeclined {
        /// The call.
        call: CallId,
        /// Who.
        did: Did,
        /// Why.
        reason: DeclineReason,
        /// What it adds.
        text: Option<Note>,
    },
    /// A participant muted or deafened itself, put the call on hold, began to record it, or took something of that back.
    ParticipantMedia {
        /// The call.
        call: CallId,
        /// Who.
        did: Did,
        /// Sends silence.
        muted: bool,
        /// Hears nothing.
        deafened: bool,
        /// Has put the call on hold.
        on_hold: bool,
        /// Writes down what is said.
        #[serde(default)]
        recording: bool,
    },
    /// The call is recorded here from now on; everybody in it is told.
    RecordingStarted {
        /// The call.
        call: CallId,
    },
    /// The call is not recorded here any more.
    RecordingEnded {
        /// The call.
        call: CallId,
    },
    /// A recording could not be written any further; that it ended follows.
    RecordingFailed {
        /// The call.
        call: CallId,
        /// The cause and the remedy.
        problem: String,
    },
    /// The own microphone or ears were switched.
    MediaChanged {
        /// The own microphone is off.
        muted: bool,
        /// The own ears are off.
        deafened: bool,
    },
    /// The user wants to hear no calls, or takes it back.
    DoNotDisturbChanged {
        /// No calls.
        on: bool,
    },
    /// The user speaks while the microphone is off.
    TalkedWhileMuted,
    /// Somebody in the active call, or the user, began or ceased to speak, as heard here. It is told to those who watch, and
    /// not kept.
    ParticipantSpeaking {
        /// The call.
        call: CallId,
        /// Who; the own DID for the user.
        did: Did,
        /// Begins, or ceases.
        speaking: bool,
    },
    /// Sound comes from elsewhere or goes elsewhere than before, or does not work as it should, or does again.
    AudioChanged {
        /// The capture device.
        input: String,
        /// The playback device.
        output: String,
        /// What does not work: cause and remedy.
        problem: Option<String>,
    },
    /// A contact was added, changed or removed.
    ContactsChanged,
    /// How a person is heard here was changed.
    VolumeChanged {
        /// Who.
        did: Did,
        /// 100 is as it comes.
        percent: u16,
        /// Not heard at all.
        blocked: bool,
    },
    /// The user has seen all events up to this one.
    EventsMarked {
        /// Its number.
        up_to: u64,
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
    /// It is tried for so long to connect to it that clients were told.
    pub no_connection: bool,
    /// Tells that it is muted.
    pub muted: bool,
    /// Tells that it is deafened.
    pub deafened: bool,
    /// Tells that it has put the call on hold.
    pub on_hold: bool,
    /// Tells that it records the call.
    pub recording: bool,
    /// What it says is recorded here: it knows so.
    pub recorded: bool,
    /// Its no, where it said one to this device.
    pub decline: Option<Decline>,
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
    /// Only its creator may invite.
    pub closed: bool,
    /// It is recorded here; on hold the recording is paused.
    pub recording: bool,
    /// Everyone but the own DID.
    pub participants: Vec<ParticipantView>,
}
