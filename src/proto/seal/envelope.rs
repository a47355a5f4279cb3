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
    keys::{self, AEAD_TAG_BYTES, HpkeKem, HpkePrivate, HpkePublic, KeyId, Me, VERSION, transcript, verify},
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

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use ed25519_dalek::SigningKey;
    use hpke::{Kem, rand_core::SeedableRng, rand_core::TryCryptoRng, rand_core::TryRng};
    use rand::rngs::StdRng;

    use super::*;
    use crate::proto::id::DeviceId;

    /// Gives the key material of a test vector instead of randomness.
    struct Fixed([u8; 32]);
    impl TryRng for Fixed {
        type Error = Infallible;
        fn try_next_u32(&mut self) -> Result<u32, Infallible> {
            unreachable!("the vector fills bytes")
        }
        fn try_next_u64(&mut self) -> Result<u64, Infallible> {
            unreachable!("the vector fills bytes")
        }
        fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
            bytes.copy_from_slice(&self.0);
            Ok(())
        }
    }
    impl TryCryptoRng for Fixed {}

    fn unhex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    /// RFC 9180, appendix A.2.1: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20-Poly1305, base mode.
    #[test]
    fn the_vectors_of_rfc_9180_hold() {
        let info = unhex("4f6465206f6e2061204772656369616e2055726e");
        let ikm_e = unhex("909a9b35d3dc4713a5e72a4da274b55d3d3821a37e5d099e74a647db583a904b");
        let ikm_r = unhex("1ac01f181fdf9f352797655161c58b75c656a6cc2716dcb66372da835542e1df");
        let enc = unhex("1afa08d3dec047a643885163f1180476fa7ddb54c6a8029ea33f95796bf2ac4a");
        let public = unhex("4310ee97d88cc1f088a5576c77ab0cf5c3ac797f3d95139c6c84b5429c59662a");
        let plain = unhex("4265617574792069732074727574682c20747275746820626561757479");
        let sealed = [
            (
                "436f756e742d30",
                "1c5250d8034ec2b784ba2cfd69dbdb8af406cfe3ff938e131f0def8c8b60b4db21993c62ce81883d2dd1b51a28",
            ),
            (
                "436f756e742d31",
                "6b53c051e4199c518de79594e1c4ab18b96f081549d45ce015be002090bb119e85285337cc95ba5f59992dc98c",
            ),
            (
                "436f756e742d32",
                "71146bd6795ccc9c49ce25dda112a48f202ad220559502cef1f34271e0cb4b02b4f10ecac6f48c32f878fae86b",
            ),
        ];
        let (private_r, public_r) = HpkeKem::derive_keypair(&ikm_r);
        assert_eq!(public_r.to_bytes().to_vec(), public);
        let (made, mut sender) = setup(&mut Fixed(ikm_e.try_into().unwrap()), &public_r, &info).unwrap();
        assert_eq!(made.to_vec(), enc);
        let mut receiver = receive(&private_r, &made, &info).unwrap();
        for (aad, ciphertext) in sealed {
            assert_eq!(sender.seal(&plain, &unhex(aad)).unwrap(), unhex(ciphertext));
            assert_eq!(receiver.open(&unhex(ciphertext), &unhex(aad)).unwrap(), plain);
        }
    }

    fn me(seed: u8) -> Me {
        Me::new(SigningKey::from_bytes(&[seed; 32]), DeviceId([seed; 16]))
    }

    /// Opens what `me` received and seals the very same inside to `to`, as its recipient could.
    fn passed_on(me: &Me, (bytes, topic): (&[u8], &Topic), to: &Did, on: &Topic) -> Vec<u8> {
        let header = Header::parse(bytes).unwrap();
        let inner = receive(&me.hpke, &header.enc(), &info(topic)).unwrap().open(header.sealed, header.bytes).unwrap();
        let (enc, mut context) = setup(&mut StdRng::from_seed([5; 32]), &keys::hpke_key_of(to), &info(on)).unwrap();
        let mut sealed = header.bytes.to_vec();
        sealed[2..6].copy_from_slice(&keys::key_id(&keys::x25519_of(to)));
        sealed[HEADER_BYTES - ENC_BYTES..].copy_from_slice(&enc);
        let ciphertext = context.seal(&inner, &sealed).unwrap();
        [sealed, ciphertext].concat()
    }

    #[test]
    fn what_was_opened_cannot_be_passed_on_as_the_senders() {
        let (alice, bob, carol) = (me(1), me(2), me(3));
        let (to_bob, to_carol) = (Topic::Inbox(bob.did.clone()), Topic::Inbox(carol.did.clone()));
        let mut rng = StdRng::from_seed([9; 32]);
        let bytes = seal(&alice, &mut rng, (&bob.did, &to_bob), &[0; 16], 7, b"message").unwrap();
        let opened = open(&bob, &to_bob, Header::parse(&bytes).unwrap()).unwrap();
        assert_eq!((opened.from, opened.unix_ms, &opened.message[..]), (alice.did.clone(), 7, &b"message"[..]));
        let forged = passed_on(&bob, (&bytes, &to_bob), &carol.did, &to_carol);
        assert_eq!(open(&carol, &to_carol, Header::parse(&forged).unwrap()).err(), Some(Rejected::BadSignature));
        let again = passed_on(&bob, (&bytes, &to_bob), &bob.did, &to_bob);
        assert_eq!(
            open(&bob, &to_bob, Header::parse(&again).unwrap()).err(),
            Some(Rejected::BadSignature),
            "another enc"
        );
    }

    /// A rightly signed envelope of 1 KiB whose inside was changed behind the signature.
    fn crafted(from: &Me, to: &Me, topic: &Topic, content: &[u8], change: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
        let mut rng = StdRng::from_seed([9; 32]);
        let (enc, mut context) = setup(&mut rng, &keys::hpke_key_of(&to.did), &info(topic)).unwrap();
        let header = [&[VERSION, SUITE][..], &to.key_id, &[0; TAG_BYTES], &enc].concat();
        let signature = from.sign(&signed(&header, &from.did, &to.did, topic, content));
        let length = (content.len() as u32).to_be_bytes();
        let mut inner = [&from.did.key().as_bytes()[..], &signature, &length, content].concat();
        inner.resize(SIZES[0] - HEADER_BYTES - AEAD_TAG_BYTES, 0);
        change(&mut inner);
        let ciphertext = context.seal(&inner, &header).unwrap();
        [header, ciphertext].concat()
    }

    #[test]
    fn the_inside_is_exactly_what_the_layout_says() {
        let (alice, bob) = (me(1), me(2));
        let topic = Topic::Inbox(bob.did.clone());
        let opened = |content: &[u8], change: &dyn Fn(&mut Vec<u8>)| {
            let bytes = crafted(&alice, &bob, &topic, content, change);
            open(&bob, &topic, Header::parse(&bytes).unwrap()).err()
        };
        let content = b"12345678message";
        let padding = INNER_HEADER_BYTES + content.len();
        assert_eq!(opened(content, &|_| ()), None);
        assert_eq!(opened(content, &|inner| *inner.last_mut().unwrap() = 1), Some(Rejected::Malformed));
        assert_eq!(opened(content, &|inner| inner[padding] = 1), Some(Rejected::Malformed), "the padding begins there");
        assert_eq!(opened(content, &|inner| inner[96] = 0xff), Some(Rejected::Malformed), "a length beyond the end");
        assert_eq!(opened(content, &|inner| inner[99] += 1), Some(Rejected::BadSignature));
        assert_eq!(opened(b"1234567", &|_| ()), Some(Rejected::Malformed), "no room for the time");
        let weak = |inner: &mut Vec<u8>| inner[..32].copy_from_slice(&[&[1][..], &[0; 31]].concat());
        assert_eq!(opened(content, &weak), Some(Rejected::Malformed), "a key that anybody can sign for");
    }

    #[test]
    fn a_message_fills_the_smallest_size_that_holds_it() {
        let (alice, bob) = (me(1), me(2));
        let topic = Topic::Inbox(bob.did.clone());
        let mut rng = StdRng::from_seed([9; 32]);
        let mut size = |length| {
            let sealed = seal(&alice, &mut rng, (&bob.did, &topic), &[0; 16], 7, &vec![1; length])?;
            assert_eq!(open(&bob, &topic, Header::parse(&sealed).ok()?).ok()?.message.len(), length);
            Some(sealed.len())
        };
        let overhead = HEADER_BYTES + AEAD_TAG_BYTES + INNER_HEADER_BYTES + TIME_BYTES;
        for fits in SIZES {
            assert_eq!(size(fits - overhead), Some(fits));
            assert_eq!(size(fits - overhead + 1), SIZES.into_iter().find(|size| *size > fits));
        }
        assert_eq!(size(0), Some(1024));
    }
}
