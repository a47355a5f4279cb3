//! The small tools of the sealing: labels, transcripts, signatures, key derivation, the own long-term keys.
//!
//! Every label is unique and ends in NUL; every field is preceded by its length (u32, big-endian), so that no two
//! different lists of fields have the same bytes.

use ed25519_dalek::{Signature, Signer, SigningKey};
use hkdf::Hkdf;
use hpke::{Deserializable, kem::X25519HkdfSha256};
use sha2::{Digest, Sha256};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use super::Rejected;
use crate::proto::{
    id::{DeviceId, Did},
    wire::SIGNATURE_BYTES,
};

pub(super) const GRANT: &[u8] = b"telecon/1 grant\0";
pub(super) const JOIN_BLOCK: &[u8] = b"telecon/1 join block\0";
pub(super) const KEY_ID: &[u8] = b"telecon/1 key id\0";
pub(super) const ENVELOPE: &[u8] = b"telecon/1 envelope\0";
pub(super) const ENVELOPE_SIGNATURE: &[u8] = b"telecon/1 envelope signature\0";
pub(super) const CONTACT_KEY: &[u8] = b"telecon/1 contact key\0";
pub(super) const CONTACT_TAG: &[u8] = b"telecon/1 contact tag\0";
pub(super) const CALL_TOPIC_KEY: &[u8] = b"telecon/1 call topic key\0";
pub(super) const CALL_TOPIC: &[u8] = b"telecon/1 call topic\0";
pub(super) const CALL_TOPIC_SIGNATURE: &[u8] = b"telecon/1 call topic signature\0";
pub(super) const PAIRWISE_KEYS: &[u8] = b"telecon/1 pairwise keys\0";
pub(super) const PAIRWISE: &[u8] = b"telecon/1 pairwise\0";

/// First byte of everything sealed: the protocol's major version.
pub(super) const VERSION: u8 = 1;
/// What each of the ciphers adds to a message: Poly1305's tag (RFC 8439, §2.5).
pub(super) const AEAD_TAG_BYTES: usize = 16;

/// The key id of a DID's X25519 key in the envelope header.
pub(super) type KeyId = [u8; 4];

pub(super) type HpkeKem = X25519HkdfSha256;
pub(super) type HpkePublic = <HpkeKem as hpke::Kem>::PublicKey;
pub(super) type HpkePrivate = <HpkeKem as hpke::Kem>::PrivateKey;

/// Who this node is: the person's keys and the device.
pub(super) struct Me {
    pub(super) did: Did,
    pub(super) device: DeviceId,
    pub(super) key_id: KeyId,
    pub(super) hpke: HpkePrivate,
    signing: SigningKey,
    secret: StaticSecret,
}

impl Me {
    pub(super) fn new(signing: SigningKey, device: DeviceId) -> Self {
        // The clamped scalar of RFC 8032 is the X25519 key (RFC 7748) of the same person.
        let scalar = Zeroizing::new(signing.to_scalar_bytes());
        let secret = StaticSecret::from(*scalar);
        let hpke = HpkePrivate::from_bytes(&scalar[..]).expect("an X25519 private key is any 32 bytes");
        let did = Did::from_key(signing.verifying_key());
        let key_id = key_id(&x25519_of(&did));
        Self { did, device, key_id, hpke, signing, secret }
    }

    pub(super) fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        self.signing.sign(message).to_bytes()
    }

    /// The secret that only this person and `other` can compute, under [`CONTACT_KEY`].
    pub(super) fn contact_key(&self, other: &Did) -> Zeroizing<[u8; 32]> {
        let shared = self.secret.diffie_hellman(&x25519_of(other));
        expand(shared.as_bytes(), &transcript(CONTACT_KEY, &[]))
    }

    /// Whether a Diffie-Hellman key leaves the outcome open (RFC 7748, §6.1: no all-zero result).
    pub(super) fn is_contributory(&self, key: &[u8; 32]) -> bool {
        self.secret.diffie_hellman(&PublicKey::from(*key)).was_contributory()
    }
}

/// The X25519 key of a DID: its Ed25519 point on the Montgomery curve (RFC 7748, §4.1).
pub(super) fn x25519_of(did: &Did) -> PublicKey {
    PublicKey::from(did.key().to_montgomery().to_bytes())
}

/// The same for HPKE.
pub(super) fn hpke_key_of(did: &Did) -> HpkePublic {
    HpkePublic::from_bytes(x25519_of(did).as_bytes()).expect("an X25519 public key is any 32 bytes")
}

/// Names an X25519 key, so that a DID may have several of them some day.
pub(super) fn key_id(key: &PublicKey) -> KeyId {
    let digest = Sha256::digest(transcript(KEY_ID, &[key.as_bytes()]));
    [digest[0], digest[1], digest[2], digest[3]]
}

/// The label and the fields, each preceded by its length.
pub(super) fn transcript(label: &[u8], fields: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(4 + label.len() + fields.iter().map(|field| 4 + field.len()).sum::<usize>());
    for field in std::iter::once(&label).chain(fields) {
        bytes.extend_from_slice(&(field.len() as u32).to_be_bytes());
        bytes.extend_from_slice(field);
    }
    bytes
}

/// HKDF-SHA256 (RFC 5869) without salt.
pub(super) fn expand<const N: usize>(secret: &[u8], info: &[u8]) -> Zeroizing<[u8; N]> {
    let mut key = Zeroizing::new([0; N]);
    Hkdf::<Sha256>::new(None, secret)
        .expand(info, &mut key[..])
        .expect("HKDF-SHA256 gives up to 8160 bytes, and no caller asks for more than 96");
    key
}

/// Checks a signature of the person `did` (RFC 8032, strictly: no small-order keys, no second spelling).
pub(super) fn verify(did: &Did, message: &[u8], signature: &[u8; SIGNATURE_BYTES]) -> Result<(), Rejected> {
    did.key().verify_strict(message, &Signature::from_bytes(signature)).map_err(|_| Rejected::BadSignature)
}

/// SHA-256.
pub(super) fn hash(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}
