//! The wire form of signals: message bytes to [`Signal`] and back. The only module that names `bincode`.
//!
//! It knows shapes and limits, not keys: nothing here is believed before [`super::seal`] has checked who says it.
//! Every integer is big-endian and of fixed width, lists and texts have a `u64` length, options and booleans one byte.
//! Each collection has a bound that is checked before anything is allocated for it, and every byte must be used.

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{DeserializeOwned, Error as _, SeqAccess, Visitor},
};
use std::{fmt, marker::PhantomData};
use zeroize::Zeroizing;

use super::{
    id::{CallId, DeviceId, Did, Instance, MessageId},
    signal::{
        Answered, Body, CallKey, CancelReason, Contact, Decline, DeclineReason, Grant, Ice, MAX_CHAIN, MAX_NOTE_BYTES,
        MAX_PARTICIPANTS, MAX_SEALED_BYTES, MediaState, Offer, Presence, Sdp, SdpKind, Settings, Signal, Ticket,
    },
};

mod kept;

pub use kept::{decode_kept, encode_kept};

/// Longest session description, in bytes.
pub const MAX_SDP_BYTES: usize = 5 * 1024;
/// Most ICE candidates in one batch.
pub const MAX_CANDIDATES: usize = 16;
/// Longest ICE candidate line, in bytes.
pub const MAX_CANDIDATE_BYTES: usize = 256;
/// Most addresses that a `Join` names.
pub const MAX_ADDRESSES: usize = 8;
/// Longest multiaddr text, in bytes.
pub const MAX_ADDRESS_BYTES: usize = 256;
/// Longest PeerId text, in bytes (an Ed25519 one has 52).
pub const MAX_PEER_ID_BYTES: usize = 128;
/// Longest signed join block, in bytes: with four grants it has 693, the rest is for extensions.
pub const MAX_BLOCK_BYTES: usize = 1024;
/// Bytes of an Ed25519 signature.
pub const SIGNATURE_BYTES: usize = 64;

/// The only audio format of this version: Opus, 48 kHz, mono, 20 ms a packet.
const AUDIO_OPUS_48_KHZ_MONO: u8 = 1;
/// Version byte of the join block.
const BLOCK_VERSION: u8 = 1;
/// kind (2), message id (16), call id (16), length of the body (4).
const MESSAGE_HEADER_BYTES: usize = 38;

/// Bytes that are no message of this protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Too long, too short, out of bounds, or bytes left over.
    #[error("not the wire form of a message")]
    Malformed,
    /// An audio format or a join block of a later version.
    #[error("a version that this node does not speak")]
    Version,
}

/// A decoded message. Nothing in it is verified.
#[derive(Debug)]
pub struct Message {
    /// What it says.
    pub signal: Signal,
    /// With `Hello` and `Join`: the signed join block, as received.
    pub block: Option<Vec<u8>>,
}

/// What a join block says, before its signature and its grants are checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockFields {
    /// Bits of optional abilities; none is defined yet, unknown ones are ignored.
    pub features: u32,
    /// The call that is joined.
    pub call: CallId,
    /// Who joins.
    pub did: Did,
    /// This stay, and the device that stays.
    pub instance: Instance,
    /// A fresh X25519 public key (RFC 7748).
    pub key: [u8; 32],
    /// From the creator to `did`.
    pub chain: Vec<Grant>,
}

/// The number of a kind on the wire.
fn kind(body: &Body) -> u16 {
    match body {
        Body::Offer(_) => 1,
        Body::Cancel(_) => 2,
        Body::Answered(_) => 3,
        Body::Ringing => 4,
        Body::Decline(_) => 5,
        Body::Join(_) => 6,
        Body::Hello(_) => 7,
        Body::Leave(_) => 8,
        Body::Sdp(_) => 9,
        Body::Ice(_) => 10,
        Body::Restart(_) => 11,
        Body::State(_) => 12,
        Body::Ack(_) => 13,
        Body::Unknown(kind) => *kind,
    }
}

/// The bytes of a message. `block` is the own signed join block, needed for `Hello` and `Join` and ignored otherwise.
///
/// `None` when the signal breaks a limit of this module, or a join has no block.
pub fn encode(signal: &Signal, block: Option<&[u8]>) -> Option<Zeroizing<Vec<u8>>> {
    let body = Zeroizing::new(encode_body(signal, block)?);
    let mut bytes = Zeroizing::new(Vec::with_capacity(MESSAGE_HEADER_BYTES + body.len()));
    bytes.extend_from_slice(&kind(&signal.body).to_be_bytes());
    bytes.extend_from_slice(&signal.id.0);
    bytes.extend_from_slice(signal.call.as_bytes());
    bytes.extend_from_slice(&u32::try_from(body.len()).ok()?.to_be_bytes());
    bytes.extend_from_slice(&body);
    Some(bytes)
}

/// Reads a message; extensions of later versions are skipped, and a kind of a later version is [`Body::Unknown`].
pub fn decode(bytes: &[u8]) -> Result<Message, WireError> {
    if bytes.len() > MAX_SEALED_BYTES {
        return Err(WireError::Malformed);
    }
    let (header, rest) = bytes.split_first_chunk::<MESSAGE_HEADER_BYTES>().ok_or(WireError::Malformed)?;
    let kind = u16::from_be_bytes([header[0], header[1]]);
    let length = u32::from_be_bytes([header[34], header[35], header[36], header[37]]) as usize;
    let (body, extensions) = rest.split_at_checked(length).ok_or(WireError::Malformed)?;
    skip_extensions(extensions)?;
    let call = CallId::from_bytes(array(&header[18..34])?);
    let (body, block) = decode_body(kind, call, body)?;
    Ok(Message { signal: Signal { id: MessageId(array(&header[2..18])?), call, body }, block })
}

/// The bytes of a join block that its signature covers.
pub fn encode_block(fields: &BlockFields) -> Option<Vec<u8>> {
    to_bytes(&WireBlock {
        version: BLOCK_VERSION,
        features: fields.features,
        call: *fields.call.as_bytes(),
        did: *fields.did.key().as_bytes(),
        device: fields.instance.device.0,
        number: fields.instance.number,
        key: fields.key,
        chain: Bounded::new(fields.chain.iter().map(WireGrant::from).collect())?,
    })
}

/// Splits a signed join block into what it says, the bytes that are signed, and the signature.
pub fn decode_block(signed: &[u8]) -> Result<(BlockFields, &[u8], [u8; SIGNATURE_BYTES]), WireError> {
    if signed.len() > MAX_BLOCK_BYTES {
        return Err(WireError::Malformed);
    }
    let (bytes, signature) = signed.split_last_chunk::<SIGNATURE_BYTES>().ok_or(WireError::Malformed)?;
    if bytes.first() != Some(&BLOCK_VERSION) {
        return Err(WireError::Version);
    }
    let (block, used) = from_prefix::<WireBlock>(bytes)?;
    skip_extensions(&bytes[used..])?;
    let fields = BlockFields {
        features: block.features,
        call: CallId::from_bytes(block.call),
        did: did(&block.did)?,
        instance: Instance { number: block.number, device: DeviceId(block.device) },
        key: block.key,
        chain: block.chain.0.iter().map(Grant::try_from).collect::<Result<_, _>>()?,
    };
    Ok((fields, bytes, *signature))
}

/// Checks that the rest is a list of (type u16, length u16, bytes) and ignores what it says.
fn skip_extensions(mut rest: &[u8]) -> Result<(), WireError> {
    while !rest.is_empty() {
        let (header, tail) = rest.split_first_chunk::<4>().ok_or(WireError::Malformed)?;
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        rest = tail.get(length..).ok_or(WireError::Malformed)?;
    }
    Ok(())
}

fn encode_body(signal: &Signal, block: Option<&[u8]>) -> Option<Vec<u8>> {
    match &signal.body {
        Body::Offer(offer) => to_bytes(&WireOffer::new(offer)?),
        Body::Cancel(CancelReason::Cancelled) => to_bytes(&WireCancel { reason: 0, other: [0; 16] }),
        Body::Cancel(CancelReason::RangOut) => to_bytes(&WireCancel { reason: 2, other: [0; 16] }),
        Body::Cancel(CancelReason::SupersededBy(other)) => {
            to_bytes(&WireCancel { reason: 1, other: *other.as_bytes() })
        }
        Body::Answered(answered) => to_bytes(&WireAnswered { device: answered.device.0, joined: answered.joined }),
        Body::Ringing => Some(Vec::new()),
        Body::Decline(decline) => to_bytes(&WireDecline::new(decline)?),
        Body::Join(presence) | Body::Hello(presence) => to_bytes(&WirePresence::new(presence, block?)?),
        Body::Leave(instance) => to_bytes(&WireInstance::from(*instance)),
        Body::Sdp(sdp) => to_bytes(&WireSdp::new(sdp)?),
        Body::Ice(ice) => to_bytes(&WireIce::new(ice)?),
        Body::Restart(attempt) => to_bytes(attempt),
        Body::State(state) => to_bytes(&WireState::from(*state)),
        Body::Ack(MessageId(id)) => to_bytes(id),
        Body::Unknown(kind) => (!(1..=13).contains(kind)).then(Vec::new),
    }
}

fn decode_body(kind: u16, call: CallId, body: &[u8]) -> Result<(Body, Option<Vec<u8>>), WireError> {
    let body = match kind {
        1 => Body::Offer(Box::new(from_bytes::<WireOffer>(body)?.into_offer(call)?)),
        2 => {
            let cancel = from_bytes::<WireCancel>(body)?;
            Body::Cancel(match cancel.reason {
                1 => CancelReason::SupersededBy(CallId::from_bytes(cancel.other)),
                2 => CancelReason::RangOut,
                // A reason of a later version still takes the invitation back.
                _ => CancelReason::Cancelled,
            })
        }
        3 => {
            let WireAnswered { device, joined } = from_bytes(body)?;
            Body::Answered(Answered { device: DeviceId(device), joined })
        }
        4 if body.is_empty() => Body::Ringing,
        4 => return Err(WireError::Malformed),
        5 => Body::Decline(from_bytes::<WireDecline>(body)?.into()),
        6 | 7 => {
            let (presence, block) = from_bytes::<WirePresence>(body)?.into_presence()?;
            return Ok((if kind == 6 { Body::Join(presence) } else { Body::Hello(presence) }, Some(block)));
        }
        8 => Body::Leave(from_bytes::<WireInstance>(body)?.into()),
        9 => Body::Sdp(from_bytes::<WireSdp>(body)?.into()),
        10 => Body::Ice(from_bytes::<WireIce>(body)?.into()),
        11 => Body::Restart(from_bytes(body)?),
        12 => Body::State(from_bytes::<WireState>(body)?.into()),
        13 => Body::Ack(MessageId(from_bytes(body)?)),
        later => Body::Unknown(later),
    };
    Ok((body, None))
}

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_big_endian().with_fixed_int_encoding().with_limit::<MAX_SEALED_BYTES>()
}

fn to_bytes<T: Serialize>(value: &T) -> Option<Vec<u8>> {
    bincode::serde::encode_to_vec(value, config()).ok().filter(|bytes| bytes.len() <= MAX_SEALED_BYTES)
}

fn from_prefix<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, usize), WireError> {
    bincode::serde::decode_from_slice(bytes, config()).map_err(|_| WireError::Malformed)
}

fn from_bytes<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, WireError> {
    let (value, used) = from_prefix(bytes)?;
    if used == bytes.len() { Ok(value) } else { Err(WireError::Malformed) }
}

fn array<const N: usize>(bytes: &[u8]) -> Result<[u8; N], WireError> {
    bytes.try_into().map_err(|_| WireError::Malformed)
}

/// The DID of a 32-byte Ed25519 public key, as it stands on the wire.
pub fn did(key: &[u8; 32]) -> Result<Did, WireError> {
    Did::from_bytes(key).map_err(|_| WireError::Malformed)
}

/// A list with a bound that is checked before memory is taken for it.
struct Bounded<T, const MAX: usize>(Vec<T>);

impl<T, const MAX: usize> Bounded<T, MAX> {
    fn new(items: Vec<T>) -> Option<Self> {
        (items.len() <= MAX).then_some(Self(items))
    }
}

impl<T: Serialize, const MAX: usize> Serialize for Bounded<T, MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for Bounded<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items<T, const MAX: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Items<T, MAX> {
            type Value = Vec<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at most {MAX} items")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
                if seq.size_hint().is_none_or(|length| length > MAX) {
                    return Err(A::Error::custom("too many items"));
                }
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(items)
            }
        }
        deserializer.deserialize_seq(Items::<T, MAX>(PhantomData)).map(Self)
    }
}

/// A text with a bound in bytes.
#[derive(Serialize)]
struct Text<const MAX: usize>(String);

impl<const MAX: usize> Text<MAX> {
    fn new(text: &str) -> Option<Self> {
        (text.len() <= MAX).then(|| Self(text.to_owned()))
    }
}

impl<'de, const MAX: usize> Deserialize<'de> for Text<MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Not more than the message itself has is ever read: the decoder's limit is below.
        let text = String::deserialize(deserializer)?;
        if text.len() <= MAX { Ok(Self(text)) } else { Err(D::Error::custom("text too long")) }
    }
}

#[derive(Serialize, Deserialize)]
struct WireGrant {
    inviter: [u8; 32],
    invitee: [u8; 32],
    /// Two halves, since serde's arrays end at 32.
    signature: [[u8; 32]; 2],
}

impl From<&Grant> for WireGrant {
    fn from(grant: &Grant) -> Self {
        let mut signature = [[0; 32]; 2];
        signature[0].copy_from_slice(&grant.signature[..32]);
        signature[1].copy_from_slice(&grant.signature[32..]);
        Self { inviter: *grant.inviter.key().as_bytes(), invitee: *grant.invitee.key().as_bytes(), signature }
    }
}

impl TryFrom<&WireGrant> for Grant {
    type Error = WireError;

    fn try_from(wire: &WireGrant) -> Result<Self, WireError> {
        let mut signature = [0; SIGNATURE_BYTES];
        signature[..32].copy_from_slice(&wire.signature[0]);
        signature[32..].copy_from_slice(&wire.signature[1]);
        Ok(Self { inviter: did(&wire.inviter)?, invitee: did(&wire.invitee)?, signature })
    }
}

#[derive(Serialize, Deserialize)]
struct WireOffer {
    audio: u8,
    closed: bool,
    creator: [u8; 32],
    key: CallKey,
    ring_ms: u32,
    chain: Bounded<WireGrant, MAX_CHAIN>,
    participants: Bounded<[u8; 32], MAX_PARTICIPANTS>,
}

impl WireOffer {
    fn new(offer: &Offer) -> Option<Self> {
        Some(Self {
            audio: AUDIO_OPUS_48_KHZ_MONO,
            closed: offer.ticket.settings.closed,
            creator: *offer.ticket.creator.key().as_bytes(),
            key: offer.ticket.key.clone(),
            ring_ms: offer.ring_ms,
            chain: Bounded::new(offer.ticket.chain.iter().map(WireGrant::from).collect())?,
            participants: Bounded::new(offer.participants.iter().map(|did| *did.key().as_bytes()).collect())?,
        })
    }

    fn into_offer(self, call: CallId) -> Result<Offer, WireError> {
        if self.audio != AUDIO_OPUS_48_KHZ_MONO {
            return Err(WireError::Version);
        }
        Ok(Offer {
            ticket: Ticket {
                call,
                creator: did(&self.creator)?,
                settings: Settings { closed: self.closed },
                key: self.key,
                chain: self.chain.0.iter().map(Grant::try_from).collect::<Result<_, _>>()?,
            },
            participants: self.participants.0.iter().map(did).collect::<Result<_, _>>()?,
            ring_ms: self.ring_ms,
        })
    }
}

#[derive(Serialize, Deserialize)]
struct WireCancel {
    reason: u8,
    /// The call that goes on; zeros when there is none.
    other: [u8; 16],
}

#[derive(Serialize, Deserialize)]
struct WireInstance {
    number: u64,
    device: [u8; 16],
}

impl From<Instance> for WireInstance {
    fn from(instance: Instance) -> Self {
        Self { number: instance.number, device: instance.device.0 }
    }
}

impl From<WireInstance> for Instance {
    fn from(wire: WireInstance) -> Self {
        Self { number: wire.number, device: DeviceId(wire.device) }
    }
}

#[derive(Serialize, Deserialize)]
struct WireState {
    version: u32,
    muted: bool,
    deafened: bool,
    on_hold: bool,
    recording: bool,
}

impl From<MediaState> for WireState {
    fn from(state: MediaState) -> Self {
        let MediaState { version, muted, deafened, on_hold, recording } = state;
        Self { version, muted, deafened, on_hold, recording }
    }
}

impl From<WireState> for MediaState {
    fn from(wire: WireState) -> Self {
        let WireState { version, muted, deafened, on_hold, recording } = wire;
        Self { version, muted, deafened, on_hold, recording }
    }
}

#[derive(Serialize, Deserialize)]
struct WireAnswered {
    device: [u8; 16],
    joined: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct WireDecline {
    reason: u8,
    text: Option<Text<MAX_NOTE_BYTES>>,
}

impl WireDecline {
    fn new(decline: &Decline) -> Option<Self> {
        let reason = match decline.reason {
            DeclineReason::Declined => 0,
            DeclineReason::Busy => 1,
            DeclineReason::DoNotDisturb => 2,
            DeclineReason::NotNow => 3,
        };
        let text = match &decline.text {
            Some(note) => Some(Text::new(note.as_str())?),
            None => None,
        };
        Some(Self { reason, text })
    }
}

impl From<WireDecline> for Decline {
    fn from(wire: WireDecline) -> Self {
        let reason = match wire.reason {
            1 => DeclineReason::Busy,
            2 => DeclineReason::DoNotDisturb,
            3 => DeclineReason::NotNow,
            // A reason of a later version is still a no.
            _ => DeclineReason::Declined,
        };
        // So is one whose words cannot be shown.
        Self { reason, text: wire.text.and_then(|text| text.0.parse().ok()) }
    }
}

#[derive(Serialize, Deserialize)]
struct WireContact {
    peer_id: Text<MAX_PEER_ID_BYTES>,
    addresses: Bounded<Text<MAX_ADDRESS_BYTES>, MAX_ADDRESSES>,
}

impl WireContact {
    fn new(contact: &Contact) -> Option<Self> {
        let addresses = contact.addresses.iter().map(|address| Text::new(address)).collect::<Option<_>>()?;
        Some(Self { peer_id: Text::new(&contact.peer_id)?, addresses: Bounded::new(addresses)? })
    }
}

impl From<WireContact> for Contact {
    fn from(wire: WireContact) -> Self {
        Self { peer_id: wire.peer_id.0, addresses: wire.addresses.0.into_iter().map(|text| text.0).collect() }
    }
}

#[derive(Serialize, Deserialize)]
struct WirePresence {
    #[serde(with = "serde_bytes")]
    block: Vec<u8>,
    state: WireState,
    contact: Option<WireContact>,
}

impl WirePresence {
    fn new(presence: &Presence, block: &[u8]) -> Option<Self> {
        let contact = match &presence.contact {
            Some(contact) => Some(WireContact::new(contact)?),
            None => None,
        };
        Some(Self { block: block.to_owned(), state: presence.state.into(), contact })
    }

    fn into_presence(self) -> Result<(Presence, Vec<u8>), WireError> {
        let (fields, _, _) = decode_block(&self.block)?;
        let contact = self.contact.map(Contact::from);
        let granted_by = fields.chain.last().map(|grant| grant.inviter.clone());
        Ok((Presence { instance: fields.instance, state: self.state.into(), contact, granted_by }, self.block))
    }
}

#[derive(Serialize, Deserialize)]
struct WireSdp {
    attempt: u32,
    answer: bool,
    fingerprint: [u8; 32],
    sdp: Text<MAX_SDP_BYTES>,
}

impl WireSdp {
    fn new(sdp: &Sdp) -> Option<Self> {
        let answer = match sdp.kind {
            SdpKind::Offer => false,
            SdpKind::Answer => true,
        };
        Some(Self { attempt: sdp.attempt, answer, fingerprint: sdp.fingerprint, sdp: Text::new(&sdp.sdp)? })
    }
}

impl From<WireSdp> for Sdp {
    fn from(wire: WireSdp) -> Self {
        let kind = if wire.answer { SdpKind::Answer } else { SdpKind::Offer };
        Self { attempt: wire.attempt, kind, sdp: wire.sdp.0, fingerprint: wire.fingerprint }
    }
}

#[derive(Serialize, Deserialize)]
struct WireIce {
    attempt: u32,
    candidates: Bounded<Text<MAX_CANDIDATE_BYTES>, MAX_CANDIDATES>,
}

impl WireIce {
    fn new(ice: &Ice) -> Option<Self> {
        let candidates = ice.candidates.iter().map(|line| Text::new(line)).collect::<Option<_>>()?;
        Some(Self { attempt: ice.attempt, candidates: Bounded::new(candidates)? })
    }
}

impl From<WireIce> for Ice {
    fn from(wire: WireIce) -> Self {
        Self { attempt: wire.attempt, candidates: wire.candidates.0.into_iter().map(|text| text.0).collect() }
    }
}

#[derive(Serialize, Deserialize)]
struct WireBlock {
    version: u8,
    features: u32,
    call: [u8; 16],
    did: [u8; 32],
    device: [u8; 16],
    number: u64,
    key: [u8; 32],
    chain: Bounded<WireGrant, MAX_CHAIN>,
}

#[cfg(test)]
mod tests;
