//! Names: who a person is (DID), which installation (device), which call, which stay in it, which message.
//!
//! Only parsing and printing; no randomness is drawn here.

use std::{fmt, str::FromStr, sync::Arc};

use ed25519_dalek::VerifyingKey;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Multicodec `ed25519-pub` as an unsigned varint (<https://github.com/multiformats/multicodec>).
const ED25519_PUB: [u8; 2] = [0xed, 0x01];
const PREFIX: &str = "did:key:";
/// `did:key:z` and 34 bytes in base58btc take 56 characters; anything much longer is refused before decoding.
const MAX_DID_CHARS: usize = 64;

/// A person: a canonical `did:key` of an Ed25519 public key (W3C CCG did:key, §"Ed25519").
///
/// Ordered bytewise over its text: in each pair the lower DID initiates the WebRTC connection.
#[derive(Clone)]
pub struct Did {
    text: Arc<str>,
    key: VerifyingKey,
}

/// Why a text is no DID that telecon can call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DidError {
    /// Not the `did:key:` method.
    #[error("a DID starts with did:key:")]
    Method,
    /// Not base58btc (`z…`), too long, or not the one canonical spelling.
    #[error("what follows did:key: must be canonical base58btc (z…)")]
    Encoding,
    /// A key of another kind than Ed25519.
    #[error("only Ed25519 keys (did:key:z6Mk…) can be called")]
    KeyType,
    /// The bytes are no usable point of the curve.
    #[error("the DID's bytes are not a valid Ed25519 public key")]
    Key,
}

impl Did {
    /// The DID of an Ed25519 public key.
    pub fn from_key(key: VerifyingKey) -> Self {
        let mut bytes = [0; 34];
        bytes[..2].copy_from_slice(&ED25519_PUB);
        bytes[2..].copy_from_slice(key.as_bytes());
        let text = format!("{PREFIX}{}", multibase::encode(multibase::Base::Base58Btc, bytes));
        Self { text: text.into(), key }
    }

    /// The DID of an Ed25519 public key's 32 bytes.
    ///
    /// # Errors
    /// [`DidError::Key`] when they are no point of the curve, or one of small order, for which anybody could sign.
    pub fn from_bytes(key: &[u8; 32]) -> Result<Self, DidError> {
        let key = VerifyingKey::from_bytes(key).map_err(|_| DidError::Key)?;
        if key.is_weak() { Err(DidError::Key) } else { Ok(Self::from_key(key)) }
    }

    /// The DID's text, `did:key:z6Mk…`.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The Ed25519 public key that the DID names.
    pub fn key(&self) -> &VerifyingKey {
        &self.key
    }
}

impl FromStr for Did {
    type Err = DidError;

    fn from_str(text: &str) -> Result<Self, DidError> {
        let encoded = text.strip_prefix(PREFIX).ok_or(DidError::Method)?;
        if text.len() > MAX_DID_CHARS || !encoded.starts_with('z') {
            return Err(DidError::Encoding);
        }
        let (_, bytes) = multibase::decode(encoded).map_err(|_| DidError::Encoding)?;
        let key = bytes.strip_prefix(&ED25519_PUB).ok_or(DidError::KeyType)?;
        let did = Self::from_bytes(key.try_into().map_err(|_| DidError::Key)?)?;
        if did.as_str() == text { Ok(did) } else { Err(DidError::Encoding) }
    }
}

impl PartialEq for Did {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}
impl Eq for Did {}
impl PartialOrd for Did {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Did {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.text.cmp(&other.text)
    }
}
impl std::hash::Hash for Did {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}
impl fmt::Display for Did {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
impl fmt::Debug for Did {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
impl Serialize for Did {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}
impl<'de> Deserialize<'de> for Did {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A call: a UUIDv8 (RFC 9562, §5.8) made of what the call is, so that nobody can squat on somebody's id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId([u8; 16]);

impl CallId {
    /// Derives the id from the creator, the settings and the call key; every field is length-prefixed.
    pub fn derive(creator: &Did, settings: &crate::proto::signal::Settings, key: &[u8; 32]) -> Self {
        let mut hash = Sha256::new();
        let settings = settings.to_bytes();
        for field in [&b"telecon/1 call id\0"[..], creator.as_str().as_bytes(), &settings, key] {
            hash.update((field.len() as u32).to_be_bytes());
            hash.update(field);
        }
        let digest = hash.finalize();
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        id[6] = (id[6] & 0x0f) | 0x80;
        id[8] = (id[8] & 0x3f) | 0x80;
        Self(id)
    }

    /// The id's 16 bytes.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// An id from its 16 bytes, as it stands on the wire.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}
impl fmt::Debug for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no lower-case hyphenated UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a call id is a lower-case UUID such as 0b1e0f3a-5d0c-8a54-9c0e-3c6a2f1d7b42")]
pub struct CallIdError;

impl FromStr for CallId {
    type Err = CallIdError;

    fn from_str(text: &str) -> Result<Self, CallIdError> {
        let hex: String = text.split('-').collect();
        if hex.len() != 32 || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(CallIdError);
        }
        let mut bytes = [0; 16];
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).map_err(|_| CallIdError)?;
        }
        let id = Self(bytes);
        if id.to_string() == text { Ok(id) } else { Err(CallIdError) }
    }
}
impl Serialize for CallId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
impl<'de> Deserialize<'de> for CallId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// One installation of telecon, random, made at first start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DeviceId(pub [u8; 16]);

/// One stay of a device in a call; a higher instance of a DID replaces the lower.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Instance {
    /// max(unix ms, highest heard for the own DID in this call + 1).
    pub number: u64,
    /// Breaks ties between two devices that accept in the same millisecond.
    pub device: DeviceId,
}

/// One message, the same over all its transmissions; random.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MessageId(pub [u8; 16]);

/// One attempt to connect to one other participant; never used twice by a daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LegId(pub u64);
