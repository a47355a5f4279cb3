//! The call topic: one message to everyone in the call, under the call key, with the sender's signature inside.
//!
//! The call key keeps outsiders out and proves nothing; who speaks is what the signature says.
//!
//! ```text
//! header (26)    version 1 | suite 1 | nonce 24
//! sealed         XChaCha20-Poly1305 ciphertext and its tag
//! inside         sender's Ed25519 key 32 | instance number 8 | device 16 | counter 8 | signature 64 | message
//! ```

use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305,
    aead::{Aead, Payload},
};
use hpke::rand_core::CryptoRng;
use zeroize::Zeroizing;

use super::{
    Rejected,
    keys::{self, AEAD_TAG_BYTES, Me, VERSION, transcript, verify},
};
use crate::proto::{
    id::{CallId, DeviceId, Did, Instance},
    signal::{CallKey, MAX_SEALED_BYTES, Topic},
    wire::{self, SIGNATURE_BYTES},
};

/// Suite byte: XChaCha20-Poly1305 under the call key.
pub(super) const SUITE: u8 = 2;

const NONCE_BYTES: usize = 24;
const HEADER_BYTES: usize = 2 + NONCE_BYTES;
/// Sender's key, instance number, device, counter, signature.
const INNER_HEADER_BYTES: usize = 32 + 8 + 16 + 8 + SIGNATURE_BYTES;

/// The key of a call's topic.
pub(super) type TopicKey = Zeroizing<[u8; 32]>;

/// A broadcast that was sealed with the call key. Its sender is claimed, not proven.
pub(super) struct Frame {
    pub(super) from: Did,
    pub(super) instance: Instance,
    pub(super) counter: u64,
    pub(super) message: Zeroizing<Vec<u8>>,
    signature: [u8; SIGNATURE_BYTES],
}

/// Expands the topic's key from the call key.
pub(super) fn key(call: CallId, key: &CallKey) -> TopicKey {
    keys::expand(&key.0, &transcript(keys::CALL_TOPIC_KEY, &[call.as_bytes()]))
}

/// Seals a message of the own stay `instance` to everyone in the call; `counter` must never repeat in that stay.
/// `None` when it is too long.
pub(super) fn seal(
    me: &Me,
    rng: &mut impl CryptoRng,
    (call, key): (CallId, &TopicKey),
    instance: Instance,
    counter: u64,
    message: &[u8],
) -> Option<Vec<u8>> {
    if HEADER_BYTES + INNER_HEADER_BYTES + message.len() + AEAD_TAG_BYTES > MAX_SEALED_BYTES {
        return None;
    }
    let mut nonce = [0; NONCE_BYTES];
    rng.fill_bytes(&mut nonce);
    let mut sealed = vec![VERSION, SUITE];
    sealed.extend_from_slice(&nonce);

    let signature = me.sign(&signed(call, &me.did, instance, counter, message));
    let mut inner = Vec::with_capacity(INNER_HEADER_BYTES + message.len());
    inner.extend_from_slice(me.did.key().as_bytes());
    inner.extend_from_slice(&instance.number.to_be_bytes());
    inner.extend_from_slice(&instance.device.0);
    inner.extend_from_slice(&counter.to_be_bytes());
    inner.extend_from_slice(&signature);
    inner.extend_from_slice(message);
    let payload = Payload { msg: &inner, aad: &associated(call, &sealed) };
    let ciphertext = XChaCha20Poly1305::new((&**key).into()).encrypt(&nonce.into(), payload).ok()?;
    sealed.extend_from_slice(&ciphertext);
    Some(sealed)
}

impl Frame {
    /// Opens a broadcast with the call key.
    pub(super) fn open(call: CallId, key: &TopicKey, bytes: &[u8]) -> Result<Self, Rejected> {
        let (header, sealed) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or(Rejected::Malformed)?;
        let mut nonce = [0; NONCE_BYTES];
        nonce.copy_from_slice(&header[2..]);
        let payload = Payload { msg: sealed, aad: &associated(call, header) };
        let inner = XChaCha20Poly1305::new((&**key).into())
            .decrypt(&nonce.into(), payload)
            .map_err(|_| Rejected::Undecryptable)?;
        let inner = Zeroizing::new(inner);
        let (from, rest) = inner.split_first_chunk::<32>().ok_or(Rejected::Malformed)?;
        let (number, rest) = rest.split_first_chunk().ok_or(Rejected::Malformed)?;
        let (device, rest) = rest.split_first_chunk().ok_or(Rejected::Malformed)?;
        let (counter, rest) = rest.split_first_chunk().ok_or(Rejected::Malformed)?;
        let (signature, message) = rest.split_first_chunk().ok_or(Rejected::Malformed)?;
        Ok(Self {
            from: wire::did(from)?,
            instance: Instance { number: u64::from_be_bytes(*number), device: DeviceId(*device) },
            counter: u64::from_be_bytes(*counter),
            message: Zeroizing::new(message.to_vec()),
            signature: *signature,
        })
    }

    /// Proves that the claimed sender made it, for this call.
    pub(super) fn verify(&self, call: CallId) -> Result<(), Rejected> {
        let signed = signed(call, &self.from, self.instance, self.counter, &self.message);
        verify(&self.from, &signed, &self.signature)
    }
}

/// What the signature covers; the kind is the message's first two bytes and stands there once more by itself.
fn signed(call: CallId, from: &Did, instance: Instance, counter: u64, message: &[u8]) -> Vec<u8> {
    let topic = Topic::Call(call).to_string();
    transcript(
        keys::CALL_TOPIC_SIGNATURE,
        &[
            topic.as_bytes(),
            call.as_bytes(),
            from.as_str().as_bytes(),
            &instance.number.to_be_bytes(),
            &instance.device.0,
            &counter.to_be_bytes(),
            message.get(..2).unwrap_or_default(),
            &keys::hash(message),
        ],
    )
}

/// The cipher's associated data.
fn associated(call: CallId, header: &[u8]) -> Vec<u8> {
    transcript(keys::CALL_TOPIC, &[Topic::Call(call).to_string().as_bytes(), header])
}
