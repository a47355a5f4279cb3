//! The envelope: one message to one DID, readable only there, provably from its sender.
//!
//! HPKE base mode (RFC 9180) hides; an Ed25519 signature inside proves. The signature covers the header with the
//! encapsulated key, both DIDs, the topic and the content, so that nobody who opened an envelope can pass it on as the
//! sender's to somebody else or to another topic.
//!
//! ```text
//! header (54)    version 1 | suite 1 | key id 4 | tag 16 | enc 32
//! sealed         HPKE ciphertext and its tag, so that the whole has 1, 2, 4 or 8 KiB
//! inside         sender's Ed25519 key 32 | signature 64 | content length 4 | content | zeros
//! content        unix time in ms 8 | message
//! ```

use hpke::{
    Deserializable, OpModeR, OpModeS, Serializable, aead::ChaCha20Poly1305, kdf::HkdfSha256, rand_core::CryptoRng,
};
use zeroize::Zeroizing;

use super::{
    Rejected,
    gate::{TAG_BYTES, Tag},
    keys::{self, HpkeKem, HpkePrivate, HpkePublic, KeyId, Me, VERSION, transcript, verify},
};
use crate::proto::{
    id::Did,
    signal::{MAX_SEALED_BYTES, Topic},
    wire::{self, SIGNATURE_BYTES},
};

/// Suite byte: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20-Poly1305.
pub(super) const SUITE: u8 = 1;

/// All sizes that an envelope may have, in bytes.
const SIZES: [usize; 4] = [1024, 2048, 4096, MAX_SEALED_BYTES];
const ENC_BYTES: usize = 32;
const AEAD_TAG_BYTES: usize = 16;
const HEADER_BYTES: usize = 2 + 4 + TAG_BYTES + ENC_BYTES;
/// Sender's key, signature, length of the content.
const INNER_HEADER_BYTES: usize = 32 + SIGNATURE_BYTES + 4;
const TIME_BYTES: usize = 8;

type Sender = hpke::aead::AeadCtxS<ChaCha20Poly1305, HkdfSha256, HpkeKem>;
type Receiver = hpke::aead::AeadCtxR<ChaCha20Poly1305, HkdfSha256, HpkeKem>;

/// The readable part of an envelope.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header<'a> {
    bytes: &'a [u8; HEADER_BYTES],
    sealed: &'a [u8],
}

/// What an envelope held; the sender is proven.
pub(super) struct Opened {
    pub(super) from: Did,
    pub(super) unix_ms: u64,
    pub(super) message: Zeroizing<Vec<u8>>,
}

impl<'a> Header<'a> {
    /// Splits an envelope. Only sizes are checked.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, Rejected> {
        if !SIZES.contains(&bytes.len()) {
            return Err(Rejected::Malformed);
        }
        let (bytes, sealed) = bytes.split_first_chunk().ok_or(Rejected::Malformed)?;
        Ok(Self { bytes, sealed })
    }

    /// The recipient's key that it was sealed to.
    pub(super) fn key_id(&self) -> KeyId {
        let mut key_id = KeyId::default();
        key_id.copy_from_slice(&self.bytes[2..6]);
        key_id
    }

    /// The tag that points to a contact.
    pub(super) fn tag(&self) -> Tag {
        let mut tag = Tag::default();
        tag.copy_from_slice(&self.bytes[6..6 + TAG_BYTES]);
        tag
    }

    /// The encapsulated key: fresh in each transmission, and nobody can use it again without its secret.
    pub(super) fn enc(&self) -> [u8; ENC_BYTES] {
        let mut enc = [0; ENC_BYTES];
        enc.copy_from_slice(&self.bytes[HEADER_BYTES - ENC_BYTES..]);
        enc
    }
}

/// Seals a message to `to`. `None` when it is too long, or when `to` is no key that can be sealed to.
pub(super) fn seal(
    me: &Me,
    rng: &mut impl CryptoRng,
    (to, topic): (&Did, &Topic),
    tag: &Tag,
    unix_ms: u64,
    message: &[u8],
) -> Option<Vec<u8>> {
    let content_length = TIME_BYTES + message.len();
    let overhead = HEADER_BYTES + AEAD_TAG_BYTES;
    let size = *SIZES.iter().find(|size| **size >= overhead + INNER_HEADER_BYTES + content_length)?;

    let recipient = keys::x25519_of(to);
    let (enc, mut context) = setup(rng, &keys::hpke_key_of(to), &info(topic))?;
    let mut sealed = Vec::with_capacity(size);
    sealed.extend_from_slice(&[VERSION, SUITE]);
    sealed.extend_from_slice(&keys::key_id(&recipient));
    sealed.extend_from_slice(tag);
    sealed.extend_from_slice(&enc);

    let mut content = Zeroizing::new(Vec::with_capacity(content_length));
    content.extend_from_slice(&unix_ms.to_be_bytes());
    content.extend_from_slice(message);
    let signature = me.sign(&signed(&sealed, &me.did, to, topic, &content));

    let mut inner = Zeroizing::new(Vec::with_capacity(size - overhead));
    inner.extend_from_slice(me.did.key().as_bytes());
    inner.extend_from_slice(&signature);
    inner.extend_from_slice(&(content_length as u32).to_be_bytes());
    inner.extend_from_slice(&content);
    inner.resize(size - overhead, 0);
    let ciphertext = context.seal(&inner, &sealed).ok()?;
    sealed.extend_from_slice(&ciphertext);
    Some(sealed)
}

/// Opens an envelope that came on `topic`, and proves its sender.
pub(super) fn open(me: &Me, topic: &Topic, header: Header<'_>) -> Result<Opened, Rejected> {
    let mut context = receive(&me.hpke, &header.enc(), &info(topic)).ok_or(Rejected::Undecryptable)?;
    let inner = context.open(header.sealed, header.bytes).map_err(|_| Rejected::Undecryptable)?;
    let inner = Zeroizing::new(inner);

    let (sender, rest) = inner.split_first_chunk::<32>().ok_or(Rejected::Malformed)?;
    let (signature, rest) = rest.split_first_chunk::<SIGNATURE_BYTES>().ok_or(Rejected::Malformed)?;
    let (length, rest) = rest.split_first_chunk::<4>().ok_or(Rejected::Malformed)?;
    let (content, padding) = rest.split_at_checked(u32::from_be_bytes(*length) as usize).ok_or(Rejected::Malformed)?;
    if padding.iter().any(|byte| *byte != 0) {
        return Err(Rejected::Malformed);
    }
    let from = wire::did(sender)?;
    verify(&from, &signed(header.bytes, &from, &me.did, topic, content), signature)?;
    let (unix_ms, message) = content.split_first_chunk::<TIME_BYTES>().ok_or(Rejected::Malformed)?;
    Ok(Opened { from, unix_ms: u64::from_be_bytes(*unix_ms), message: Zeroizing::new(message.to_vec()) })
}

/// What the inner signature covers.
fn signed(header: &[u8], from: &Did, to: &Did, topic: &Topic, content: &[u8]) -> Vec<u8> {
    let (from, to, topic) = (from.as_str().as_bytes(), to.as_str().as_bytes(), topic.to_string());
    transcript(keys::ENVELOPE_SIGNATURE, &[header, from, to, topic.as_bytes(), &keys::hash(content)])
}

/// HPKE's `info`: an envelope opens only on the topic that it was made for.
fn info(topic: &Topic) -> Vec<u8> {
    transcript(keys::ENVELOPE, &[topic.to_string().as_bytes()])
}

/// RFC 9180, §5.1.1, sender. `None` only for a recipient's key of small order.
fn setup(rng: &mut impl CryptoRng, to: &HpkePublic, info: &[u8]) -> Option<([u8; ENC_BYTES], Sender)> {
    let (enc, context) = hpke::setup_sender_with_rng::<_, _, HpkeKem>(&OpModeS::Base, to, info, rng).ok()?;
    Some((enc.to_bytes().into(), context))
}

/// RFC 9180, §5.1.1, recipient. `None` only for an encapsulated key of small order.
fn receive(key: &HpkePrivate, enc: &[u8; ENC_BYTES], info: &[u8]) -> Option<Receiver> {
    let enc = <HpkeKem as hpke::Kem>::EncappedKey::from_bytes(enc).ok()?;
    hpke::setup_receiver(&OpModeR::Base, key, &enc, info).ok()
}
