//! What participants say to each other, as types: signals, their topics and their limits.
//!
//! How they look in bytes, and who can read or forge them, is the business of [`super::seal`].

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::id::{CallId, DeviceId, Did, Instance, MessageId};
use crate::text::is_dangerous;

/// Most DIDs that one call may have.
pub const MAX_PARTICIPANTS: usize = 32;
/// Longest sealed message in bytes; longer ones are dropped unread.
pub const MAX_SEALED_BYTES: usize = 8 * 1024;
/// Longest chain of grants from a participant to the call's creator.
pub const MAX_CHAIN: usize = 4;

/// A gossipsub topic. Its `Display` form is the topic's text on the network.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// `offer_call/<DID>`: what reaches a person's devices at any time.
    Inbox(Did),
    /// `telecon/<uuid>`: broadcasts to everyone in the call.
    Call(CallId),
    /// `telecon/<uuid>/<DID>`: what is meant for one participant of the call.
    Member(CallId, Did),
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inbox(did) => write!(f, "offer_call/{did}"),
            Self::Call(call) => write!(f, "telecon/{call}"),
            Self::Member(call, did) => write!(f, "telecon/{call}/{did}"),
        }
    }
}

/// A text that is no topic of this protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a telecon topic")]
pub struct TopicError;

impl FromStr for Topic {
    type Err = TopicError;

    fn from_str(text: &str) -> Result<Self, TopicError> {
        if let Some(did) = text.strip_prefix("offer_call/") {
            return did.parse().map(Self::Inbox).map_err(|_| TopicError);
        }
        let rest = text.strip_prefix("telecon/").ok_or(TopicError)?;
        let (call, did) = match rest.split_once('/') {
            Some((call, did)) => (call, Some(did)),
            None => (rest, None),
        };
        let call = call.parse().map_err(|_| TopicError)?;
        match did {
            Some(did) => did.parse().map(|did| Self::Member(call, did)).map_err(|_| TopicError),
            None => Ok(Self::Call(call)),
        }
    }
}

/// The secret that all invitees of a call share. It opens the call topic; it gives no authority.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop, Serialize, Deserialize)]
pub struct CallKey(pub [u8; 32]);

impl fmt::Debug for CallKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CallKey(…)")
    }
}

/// What the creator fixed for the whole call; it is part of the call id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Settings {
    /// Only the creator may invite.
    pub closed: bool,
}

impl Settings {
    /// The form that enters the call id.
    pub fn to_bytes(self) -> [u8; 1] {
        [u8::from(self.closed)]
    }
}

/// `inviter`'s permission for `invitee` to be in the call, signed by the inviter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Who invites.
    pub inviter: Did,
    /// Who is invited.
    pub invitee: Did,
    /// Ed25519 over (label, call id, inviter, invitee).
    pub signature: [u8; 64],
}

/// All that it takes to be in a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// The call's id, which must match the three fields below.
    pub call: CallId,
    /// Who made the call.
    pub creator: Did,
    /// What the creator fixed.
    pub settings: Settings,
    /// The shared key.
    pub key: CallKey,
    /// From the creator to the holder of this ticket; empty for the creator.
    pub chain: Vec<Grant>,
}

/// An invitation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The inviter's own ticket on the way out; sealing adds the recipient's grant, so that it is the recipient's on arrival.
    pub ticket: Ticket,
    /// Everyone who is invited or present, the inviter included.
    pub participants: Vec<Did>,
    /// How long it rings, in milliseconds from its first receipt.
    pub ring_ms: u32,
}

/// Why a ringing call was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeclineReason {
    /// The person said no.
    Declined,
    /// In another call.
    Busy,
    /// The person wants to hear no calls now.
    DoNotDisturb,
    /// Later, perhaps.
    NotNow,
}

/// A no, perhaps with a few words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decline {
    /// Why.
    pub reason: DeclineReason,
    /// What the person adds.
    pub text: Option<Note>,
}

impl From<DeclineReason> for Decline {
    fn from(reason: DeclineReason) -> Self {
        Self { reason, text: None }
    }
}

/// Longest [`Note`] in bytes of UTF-8.
pub const MAX_NOTE_BYTES: usize = 160;

/// A short text from one person to another: trimmed, not empty, at most [`MAX_NOTE_BYTES`], and nothing in it that a
/// terminal would obey.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Note(String);

/// A text that is no [`Note`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a note has 1 to {MAX_NOTE_BYTES} bytes and no control characters")]
pub struct NoteError;

impl Note {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Note {
    type Err = NoteError;

    fn from_str(text: &str) -> Result<Self, NoteError> {
        let text = text.trim();
        if text.is_empty() || text.len() > MAX_NOTE_BYTES || text.chars().any(is_dangerous) {
            return Err(NoteError);
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for Note {
    type Error = NoteError;

    fn try_from(text: String) -> Result<Self, NoteError> {
        text.parse()
    }
}

impl From<Note> for String {
    fn from(note: Note) -> Self {
        note.0
    }
}

/// Why an invitation was taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelReason {
    /// The inviter gave up or left.
    Cancelled,
    /// The ring time is over; where the offer arrived late it would ring on.
    RangOut,
    /// Both called each other; the other call goes on.
    SupersededBy(CallId),
}

/// What a participant tells about its microphone, its ears and its recording; a higher version replaces a lower one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MediaState {
    /// Grows with every change within an instance.
    pub version: u32,
    /// The microphone sends silence.
    pub muted: bool,
    /// Nothing is played.
    pub deafened: bool,
    /// Neither sends nor plays, and keeps the connection.
    pub on_hold: bool,
    /// Writes down what is said.
    pub recording: bool,
}

/// What a device tells the other devices of its DID: nobody else needs to answer this call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answered {
    /// Which device.
    pub device: DeviceId,
    /// The number of its stay; `None`: it refused the call.
    pub joined: Option<u64>,
}

/// Where a participant's node can be dialled.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Contact {
    /// libp2p PeerId in its text form.
    pub peer_id: String,
    /// Multiaddrs in their text form, 8 at most.
    pub addresses: Vec<String>,
}

/// A participant announces itself: the join block (which the seal adds and checks) and its present state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presence {
    /// This stay.
    pub instance: Instance,
    /// Microphone and ears.
    pub state: MediaState,
    /// Only in `Join`, as far as the privacy settings allow.
    pub contact: Option<Contact>,
    /// Whose invitation let the participant in, as the join block proves; `None`: it made the call, or the signal is on its
    /// way out.
    pub granted_by: Option<Did>,
}

/// Which half of the SDP exchange (RFC 8829).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SdpKind {
    /// From the lower DID.
    Offer,
    /// From the higher DID.
    Answer,
}

/// A session description bound to exactly one DTLS certificate.
#[derive(Clone, PartialEq, Eq)]
pub struct Sdp {
    /// The attempt it belongs to; the lower DID counts them from 1.
    pub attempt: u32,
    /// Offer or answer.
    pub kind: SdpKind,
    /// The text, without candidates or with the first of them.
    pub sdp: String,
    /// SHA-256 of the sender's DTLS certificate.
    pub fingerprint: [u8; 32],
}

impl fmt::Debug for Sdp {
    // SDP never reaches a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sdp({:?}, attempt {})", self.kind, self.attempt)
    }
}

/// A batch of trickled ICE candidates (RFC 8838).
#[derive(Clone, PartialEq, Eq)]
pub struct Ice {
    /// The attempt that they belong to.
    pub attempt: u32,
    /// `candidate:…` lines, 16 at most a batch.
    pub candidates: Vec<String>,
}

impl fmt::Debug for Ice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ice({} candidates, attempt {})", self.candidates.len(), self.attempt)
    }
}

/// One signal, the same in all its transmissions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signal {
    /// Random; a repeated transmission has the same id.
    pub id: MessageId,
    /// The call that it is about.
    pub call: CallId,
    /// What it says.
    pub body: Body,
}

/// What a signal says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// Inbox: you are invited.
    Offer(Box<Offer>),
    /// Inbox: my invitation is taken back.
    Cancel(CancelReason),
    /// Inbox of the own DID: answered there.
    Answered(Answered),
    /// To the inviter: a device rings.
    Ringing,
    /// To the inviter: no.
    Decline(Decline),
    /// To each participant: I am in. This is the acceptance.
    Join(Presence),
    /// Broadcast: I am in, lossy and quick.
    Hello(Presence),
    /// Broadcast and to each participant: that instance, and all before it, are out.
    Leave(Instance),
    /// Session description for the leg.
    Sdp(Sdp),
    /// Candidates for the leg.
    Ice(Ice),
    /// From the higher DID: begin an attempt after this one.
    Restart(u32),
    /// Microphone, ears or recording changed.
    State(MediaState),
    /// That message arrived.
    Ack(MessageId),
    /// A kind of a later version: acknowledged, otherwise skipped.
    Unknown(u16),
}

/// How a signal is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Sealing {
    /// HPKE to one DID with an inner signature.
    Envelope,
    /// The call key, with the sender's signature.
    Broadcast,
    /// Keys of two instances.
    Pairwise,
}

/// A signal on its way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// Where it is published.
    pub topic: Topic,
    /// How it is sealed.
    pub sealing: Sealing,
    /// Whom it is sealed to; `None` for broadcasts.
    pub to: Option<Did>,
    /// What it says.
    pub signal: Signal,
}

/// A signal that was opened: signature, grants, call id, freshness and limits are all checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incoming {
    /// The proven sender.
    pub from: Did,
    /// The sender's instance, where the sealing proves one (broadcast, pairwise, `Join`).
    pub instance: Option<Instance>,
    /// How it was sealed, so that an `Ack` goes the same way.
    pub sealing: Sealing,
    /// What it says.
    pub signal: Signal,
}
