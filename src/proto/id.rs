//! Names: who a person is (DID), which installation (device), which call, which stay in it, which message.
//!
//! Only parsing and printing; no randomness is drawn here.

use std::{cmp::Ordering, fmt, str::FromStr, sync::Arc};

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
/// It is one word to copy: rosters, topics and messages are full of DIDs.
#[derive(Clone)]
pub struct Did(Arc<Named>);

struct Named {
    text: Box<str>,
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
        Self(Arc::new(Named { text: text.into(), key }))
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
        &self.0.text
    }

    /// The Ed25519 public key that the DID names.
    pub fn key(&self) -> &VerifyingKey {
        &self.0.key
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
        Arc::ptr_eq(&self.0, &other.0) || self.0.text == other.0.text
    }
}
impl Eq for Did {}
impl PartialOrd for Did {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Did {
    fn cmp(&self, other: &Self) -> Ordering {
        if Arc::ptr_eq(&self.0, &other.0) { Ordering::Equal } else { self.0.text.cmp(&other.0.text) }
    }
}
impl std::hash::Hash for Did {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.text.hash(state);
    }
}
impl fmt::Display for Did {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)
    }
}
impl fmt::Debug for Did {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)
    }
}
impl Serialize for Did {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.text)
    }
}
impl<'de> Deserialize<'de> for Did {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A call: a UUIDv8 (RFC 9562, §5.8) made of what the call is, so that nobody can squat on somebody's id.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
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

impl PartialOrd for CallId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for CallId {
    /// Bytewise, as numbers: every step of the engine looks calls up.
    fn cmp(&self, other: &Self) -> Ordering {
        u128::from_be_bytes(self.0).cmp(&u128::from_be_bytes(other.0))
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId(pub [u8; 16]);

impl DeviceId {
    /// No device's: of two stays with the same number, the other is the higher.
    pub const LOWEST: Self = Self([0; 16]);
}

/// One stay of a device in a call; a higher instance of a DID replaces the lower.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instance {
    /// Unix time in ms at which the stay began. A device never joins the same call twice, so its own stays need no more.
    pub number: u64,
    /// Breaks ties between two devices that accept in the same millisecond.
    pub device: DeviceId,
}

/// One message, the same over all its transmissions; random.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(pub [u8; 16]);

/// One attempt to connect to one other participant; never used twice by a daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LegId(pub u64);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::signal::Settings;
    use ed25519_dalek::SigningKey;
    use proptest::prelude::*;

    /// Seed's last byte, DID, and X25519 key (multibase of 0xec01 and the key) from the did:key specification's
    /// `test-vectors/ed25519-x25519.json`.
    const VECTORS: [(u8, &str, &str); 5] = [
        (
            0,
            "did:key:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp",
            "z6LShs9GGnqk85isEBzzshkuVWrVKsRp24GnDuHk8QWkARMW",
        ),
        (
            1,
            "did:key:z6MkjchhfUsD6mmvni8mCdXHw216Xrm9bQe2mBH1P5RDjVJG",
            "z6LSrHyXiPBhUbvPUtyUCdf32sniiMGPTAesgHrtEa4FePtr",
        ),
        (
            2,
            "did:key:z6MknGc3ocHs3zdPiJbnaaqDi58NGb4pk1Sp9WxWufuXSdxf",
            "z6LSkkqoZRC34AEpbkhZCqLDcHQVAxuLpQ7kC8XCXMVUfvjE",
        ),
        (
            3,
            "did:key:z6MkvqoYXQfDDJRv8L4wKzxYeuKyVZBfi9Qo6Ro8MiLH3kDQ",
            "z6LSiUo6AEDat8Ze4nQzDo67SGuHLLwsUGkxndHGUjsywHow",
        ),
        (
            4,
            "did:key:z6MkwW6aqMnjgrhJXFUko3NnZPGzVpkNzhYK7yEhnsibmLwL",
            "z6LSrGb3qm4xMCEBjvwkLb2WEcXfTM94Tu1RyGCbT5wbg8i9",
        ),
    ];

    fn key(last: u8) -> SigningKey {
        let mut seed = [0; 32];
        seed[31] = last;
        SigningKey::from_bytes(&seed)
    }

    #[test]
    fn the_specifications_vectors_hold_both_ways() {
        for (last, text, x25519) in VECTORS {
            let did = Did::from_key(key(last).verifying_key());
            assert_eq!(did.as_str(), text);
            let parsed: Did = text.parse().unwrap();
            assert_eq!((parsed.key(), &parsed), (key(last).as_ref(), &did));
            let agreement = [&[0xec, 0x01], &did.key().to_montgomery().to_bytes()[..]].concat();
            assert_eq!(multibase::encode(multibase::Base::Base58Btc, agreement), x25519);
        }
    }

    #[test]
    fn what_is_no_callable_did_is_told_apart() {
        let (_, good, x25519) = VECTORS[0];
        let encoded = |bytes: &[u8]| format!("did:key:{}", multibase::encode(multibase::Base::Base58Btc, bytes));
        let neutral_element = [&[0xed, 0x01, 1], &[0; 31][..]].concat();
        let cases = [
            (String::new(), DidError::Method),
            ("did:web:example.org".into(), DidError::Method),
            (good.replacen("did", "DID", 1), DidError::Method),
            ("did:key:".into(), DidError::Encoding),
            (good.replace("key:z", "key:m"), DidError::Encoding),
            (format!("{good}#{}", &good[8..]), DidError::Encoding),
            (format!("{good} "), DidError::Encoding),
            (format!("did:key:{x25519}"), DidError::KeyType),
            (encoded(&[0xed, 0x01, 1, 2, 3]), DidError::Key),
            (encoded(&[&[0xed, 0x01], &[0; 33][..]].concat()), DidError::Key),
            (encoded(&neutral_element), DidError::Key),
            ("did:key:z".to_owned() + &"1".repeat(100_000), DidError::Encoding),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<Did>(), Err(error), "{}", &text[..text.len().min(80)]);
        }
        // The same 34 bytes in another base: not the canonical spelling.
        let bytes = multibase::decode(&good[8..]).unwrap().1;
        let other = format!("did:key:{}", multibase::encode(multibase::Base::Base64Url, bytes));
        assert_eq!(other.parse::<Did>(), Err(DidError::Encoding));
    }

    #[test]
    fn dids_are_ordered_bytewise_over_their_text() {
        let mut dids: Vec<Did> = VECTORS.iter().map(|(_, text, _)| text.parse().unwrap()).rev().collect();
        dids.sort();
        assert_eq!(dids.iter().map(Did::as_str).collect::<Vec<_>>(), VECTORS.map(|(_, text, _)| text));
        // Upper case comes before lower case, whatever the keys' bytes say.
        assert!("did:key:z6MkZ" < "did:key:z6Mka");
    }

    #[test]
    fn a_call_id_is_a_uuid_of_version_8_and_depends_on_each_part() {
        let (creator, open) = (Did::from_key(key(0).verifying_key()), Settings { closed: false });
        let id = CallId::derive(&creator, &open, &[1; 32]);
        let text = id.to_string();
        assert_eq!((&text[14..15], text.len()), ("8", 36));
        assert!(matches!(&text[19..20], "8" | "9" | "a" | "b"), "{text}");
        assert_eq!(text.parse(), Ok(id));
        assert_eq!(CallId::derive(&creator, &open, &[1; 32]), id);
        assert_ne!(CallId::derive(&creator, &open, &[2; 32]), id);
        assert_ne!(CallId::derive(&creator, &Settings { closed: true }, &[1; 32]), id);
        assert_ne!(CallId::derive(&Did::from_key(key(1).verifying_key()), &open, &[1; 32]), id);
    }

    #[test]
    fn only_one_spelling_of_a_call_id_is_read() {
        let text = CallId::from_bytes([0xab; 16]).to_string();
        assert!(text.parse::<CallId>().is_ok());
        for wrong in [text.to_uppercase(), text.replace('-', ""), text[1..].into(), format!("{text}0"), "é".repeat(16)]
        {
            assert_eq!(wrong.parse::<CallId>(), Err(CallIdError), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in ".{0,80}") {
            let _ = text.parse::<Did>();
            let _ = format!("did:key:z{text}").parse::<Did>();
            let _ = text.parse::<CallId>();
        }

        #[test]
        fn every_key_has_one_did(seed in any::<[u8; 32]>()) {
            let did = Did::from_key(SigningKey::from_bytes(&seed).verifying_key());
            prop_assert_eq!(did.as_str().parse::<Did>(), Ok(did.clone()));
            prop_assert_eq!(Did::from_bytes(did.key().as_bytes()), Ok(did));
        }
    }
}
