//! Pairwise: messages between two stays in a call, under keys that only these two can compute.
//!
//! Both keys come from the two fresh X25519 keys of the signed join blocks, the call key and both blocks, so that each
//! direction of each pair of stays has a key of its own, which is gone with the call.
//!
//! ```text
//! header (26)    version 1 | suite 1 | session id of that direction 16 | counter 8
//! sealed         ChaCha20-Poly1305 ciphertext of the message, and its tag; nonce = four zeros, counter
//! ```

use chacha20poly1305::{
    ChaCha20Poly1305, KeyInit,
    aead::{Aead, Payload},
};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use super::{
    Rejected,
    block::JoinBlock,
    keys::{self, AEAD_TAG_BYTES, VERSION, transcript},
    replay::Window,
};
use crate::proto::{
    id::Did,
    signal::{CallKey, MAX_SEALED_BYTES, Topic},
};

/// Suite byte: ChaCha20-Poly1305 under the keys of two stays.
pub(super) const SUITE: u8 = 3;

const SESSION_ID_BYTES: usize = 16;
const HEADER_BYTES: usize = 2 + SESSION_ID_BYTES + 8;

/// Names a direction of a session, so that the recipient finds its key; says nothing to others.
pub(super) type SessionId = [u8; SESSION_ID_BYTES];

/// What one side of a stay brings into key derivation.
pub(super) struct Own<'a> {
    pub(super) did: &'a Did,
    pub(super) secret: &'a StaticSecret,
    /// The signed join block.
    pub(super) block: &'a [u8],
}

struct Direction {
    id: SessionId,
    key: Zeroizing<[u8; 32]>,
}

/// The keys and counters between the own stay and one of another DID.
pub(super) struct Session {
    send: Direction,
    receive: Direction,
    /// Counter of the next message; the session ends before it could repeat.
    next: u64,
    window: Window,
}

impl Session {
    /// Derives a session. `None` when the peer's key forces the outcome (a key of small order).
    pub(super) fn new(own: &Own<'_>, peer: &JoinBlock, call_key: &CallKey) -> Option<Self> {
        let shared = own.secret.diffie_hellman(&PublicKey::from(peer.key));
        if !shared.was_contributory() {
            return None;
        }
        let mut secret = Zeroizing::new([0; 64]);
        secret[..32].copy_from_slice(shared.as_bytes());
        secret[32..].copy_from_slice(&call_key.0);
        let own_is_lower = *own.did < peer.did;
        let (lower, higher) = if own_is_lower { (own.block, &peer.bytes[..]) } else { (&peer.bytes[..], own.block) };
        let material: Zeroizing<[u8; 96]> =
            keys::expand(&secret[..], &transcript(keys::PAIRWISE_KEYS, &[lower, higher]));
        let from_lower = Direction::new(&material[..48]);
        let from_higher = Direction::new(&material[48..]);
        let (send, receive) = if own_is_lower { (from_lower, from_higher) } else { (from_higher, from_lower) };
        Some(Self { send, receive, next: 0, window: Window::default() })
    }

    /// The session id in what the peer sends.
    pub(super) fn receive_id(&self) -> SessionId {
        self.receive.id
    }

    /// Seals a message. `None` when it is too long.
    pub(super) fn seal(&mut self, topic: &Topic, message: &[u8]) -> Option<Vec<u8>> {
        if HEADER_BYTES + message.len() + AEAD_TAG_BYTES > MAX_SEALED_BYTES {
            return None;
        }
        let counter = self.next;
        self.next = counter.checked_add(1)?;
        let mut sealed = vec![VERSION, SUITE];
        sealed.extend_from_slice(&self.send.id);
        sealed.extend_from_slice(&counter.to_be_bytes());
        let payload = Payload { msg: message, aad: &associated(topic, &sealed) };
        let ciphertext = self.send.cipher().encrypt(&nonce(counter).into(), payload).ok()?;
        sealed.extend_from_slice(&ciphertext);
        Some(sealed)
    }

    /// Opens a message that came on `topic`, once.
    pub(super) fn open(&mut self, topic: &Topic, bytes: &[u8]) -> Result<Zeroizing<Vec<u8>>, Rejected> {
        let (header, sealed) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or(Rejected::Malformed)?;
        let (_, counter) = header.split_last_chunk().ok_or(Rejected::Malformed)?;
        let counter = u64::from_be_bytes(*counter);
        if !self.window.is_fresh(counter) {
            return Err(Rejected::Replayed);
        }
        let payload = Payload { msg: sealed, aad: &associated(topic, header) };
        let message =
            self.receive.cipher().decrypt(&nonce(counter).into(), payload).map_err(|_| Rejected::Undecryptable)?;
        self.window.record(counter);
        Ok(Zeroizing::new(message))
    }
}

impl Direction {
    /// From 48 bytes of key material: key, session id.
    fn new(material: &[u8]) -> Self {
        let (mut key, mut id) = (Zeroizing::new([0; 32]), [0; SESSION_ID_BYTES]);
        key.copy_from_slice(&material[..32]);
        id.copy_from_slice(&material[32..]);
        Self { id, key }
    }

    fn cipher(&self) -> ChaCha20Poly1305 {
        ChaCha20Poly1305::new((&*self.key).into())
    }
}

/// The session id of a pairwise message; `None` when it is too short to have one.
pub(super) fn session_id(bytes: &[u8]) -> Option<SessionId> {
    bytes.get(2..2 + SESSION_ID_BYTES)?.try_into().ok()
}

/// 96 bits, of which the counter is the last 64 (RFC 8439, §2.8).
fn nonce(counter: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_be_bytes());
    nonce
}

/// The cipher's associated data.
fn associated(topic: &Topic, header: &[u8]) -> Vec<u8> {
    transcript(keys::PAIRWISE, &[topic.to_string().as_bytes(), header])
}
