//! Every kind of message there and back, and what forged bytes achieve: nothing.

use super::*;
use ed25519_dalek::SigningKey;
use proptest::prelude::*;

fn person(seed: u8) -> Did {
    Did::from_key(SigningKey::from_bytes(&[seed; 32]).verifying_key())
}

fn call() -> CallId {
    CallId::from_bytes([7; 16])
}

fn grant(from: u8, to: u8) -> Grant {
    Grant { inviter: person(from), invitee: person(to), signature: std::array::from_fn(|n| n as u8) }
}

fn instance() -> Instance {
    Instance { number: 0x0102_0304_0506_0708, device: DeviceId([9; 16]) }
}

fn block(chain: Vec<Grant>) -> Vec<u8> {
    let fields = BlockFields { features: 0, call: call(), did: person(1), instance: instance(), key: [5; 32], chain };
    let mut bytes = encode_block(&fields).unwrap();
    bytes.extend_from_slice(&[0xaa; SIGNATURE_BYTES]);
    bytes
}

fn offer(chain: usize, participants: u8) -> Offer {
    Offer {
        ticket: Ticket {
            call: call(),
            creator: person(1),
            settings: Settings { closed: true },
            key: CallKey([3; 32]),
            chain: vec![grant(1, 2); chain],
        },
        participants: (1..=participants).map(person).collect(),
        ring_ms: 45_000,
    }
}

fn presence(contact: Option<Contact>) -> Presence {
    Presence {
        instance: instance(),
        state: MediaState { version: 3, muted: true, deafened: false, on_hold: false, recording: true },
        contact,
        granted_by: Some(person(1)),
    }
}

fn contact(addresses: usize, bytes: usize) -> Contact {
    Contact { peer_id: "12D3KooW".into(), addresses: vec!["a".repeat(bytes); addresses] }
}

fn sdp(bytes: usize) -> Sdp {
    Sdp { attempt: 2, kind: SdpKind::Answer, sdp: "v".repeat(bytes), fingerprint: [8; 32] }
}

fn ice(candidates: usize, bytes: usize) -> Ice {
    Ice { attempt: 2, candidates: vec!["c".repeat(bytes); candidates] }
}

fn every_body() -> Vec<Body> {
    vec![
        Body::Offer(Box::new(offer(MAX_CHAIN, MAX_PARTICIPANTS as u8))),
        Body::Cancel(CancelReason::Cancelled),
        Body::Cancel(CancelReason::RangOut),
        Body::Cancel(CancelReason::SupersededBy(CallId::from_bytes([1; 16]))),
        Body::Answered(Answered { device: DeviceId([4; 16]), joined: Some(7) }),
        Body::Ringing,
        Body::Decline(DeclineReason::Declined.into()),
        Body::Decline(DeclineReason::Busy.into()),
        Body::Join(presence(Some(contact(MAX_ADDRESSES, MAX_ADDRESS_BYTES)))),
        Body::Hello(presence(None)),
        Body::Leave(instance()),
        Body::Sdp(sdp(MAX_SDP_BYTES)),
        Body::Sdp(Sdp { kind: SdpKind::Offer, ..sdp(0) }),
        Body::Ice(ice(MAX_CANDIDATES, MAX_CANDIDATE_BYTES)),
        Body::Restart(u32::MAX),
        Body::State(MediaState { version: 1, muted: false, deafened: true, on_hold: false, recording: true }),
        Body::Ack(MessageId([6; 16])),
        Body::Unknown(999),
    ]
}

fn signal(body: Body) -> Signal {
    Signal { id: MessageId([2; 16]), call: call(), body }
}

fn encoded(body: Body) -> Vec<u8> {
    encode(&signal(body), Some(&block(vec![grant(1, 2); MAX_CHAIN]))).unwrap().to_vec()
}

#[test]
fn every_kind_comes_back_as_it_went() {
    for body in every_body() {
        let bytes = encoded(body.clone());
        let message = decode(&bytes).unwrap_or_else(|error| panic!("{error}: {body:?}"));
        assert_eq!(message.signal, signal(body.clone()));
        let carries_block = matches!(body, Body::Join(_) | Body::Hello(_));
        assert_eq!(message.block, carries_block.then(|| block(vec![grant(1, 2); MAX_CHAIN])));
    }
}

#[test]
fn no_kind_can_be_cut_short_or_be_given_more_bytes() {
    for body in every_body() {
        let bytes = encoded(body.clone());
        for length in 0..bytes.len() {
            assert!(decode(&bytes[..length]).is_err(), "{body:?} cut to {length}");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(decode(&longer).is_err(), "{body:?} with a byte behind");
        if matches!(body, Body::Unknown(_)) {
            continue;
        }
        // A byte more inside the body, with the length to match.
        let mut inside = longer;
        let length = (bytes.len() - MESSAGE_HEADER_BYTES + 1) as u32;
        inside[34..38].copy_from_slice(&length.to_be_bytes());
        assert!(decode(&inside).is_err(), "{body:?} with a byte inside");
    }
}

#[test]
fn what_breaks_a_limit_is_not_sent() {
    let too_much = [
        Body::Sdp(sdp(MAX_SDP_BYTES + 1)),
        Body::Ice(ice(MAX_CANDIDATES + 1, 1)),
        Body::Ice(ice(1, MAX_CANDIDATE_BYTES + 1)),
        Body::Join(presence(Some(contact(MAX_ADDRESSES + 1, 1)))),
        Body::Join(presence(Some(contact(1, MAX_ADDRESS_BYTES + 1)))),
        Body::Join(presence(Some(Contact { peer_id: "p".repeat(MAX_PEER_ID_BYTES + 1), addresses: vec![] }))),
        Body::Offer(Box::new(offer(MAX_CHAIN + 1, 2))),
        Body::Offer(Box::new(offer(1, MAX_PARTICIPANTS as u8 + 1))),
        Body::Unknown(1),
    ];
    for body in too_much {
        assert!(encode(&signal(body.clone()), Some(&block(vec![]))).is_none(), "{body:?}");
    }
    assert!(encode(&signal(Body::Hello(presence(None))), None).is_none(), "a Hello without its block");
}

#[test]
fn what_breaks_a_limit_is_not_read() {
    #[derive(Serialize)]
    struct Loose {
        attempt: u32,
        candidates: Vec<String>,
    }
    let message = |candidates: Vec<String>| {
        let body = to_bytes(&Loose { attempt: 1, candidates }).unwrap();
        let mut bytes = encoded(Body::Unknown(0));
        bytes[..2].copy_from_slice(&10u16.to_be_bytes());
        bytes[34..38].copy_from_slice(&(body.len() as u32).to_be_bytes());
        [bytes, body].concat()
    };
    assert!(decode(&message(vec!["c".repeat(MAX_CANDIDATE_BYTES); MAX_CANDIDATES])).is_ok());
    assert!(decode(&message(vec!["c".into(); MAX_CANDIDATES + 1])).is_err());
    assert!(decode(&message(vec!["c".repeat(MAX_CANDIDATE_BYTES + 1)])).is_err());
    assert!(decode(&[0; MAX_SEALED_BYTES + 1]).is_err());
}

#[test]
fn later_kinds_reasons_and_extensions_are_skipped() {
    let later = [encoded(Body::Ringing), vec![0x12, 0x34, 0, 3, 1, 2, 3, 0, 1, 0, 0]].concat();
    assert_eq!(decode(&later).unwrap().signal, signal(Body::Ringing));

    let mut unknown = [encoded(Body::Unknown(40_000)), vec![1, 2, 3]].concat();
    unknown[37] = 3;
    assert_eq!(decode(&unknown).unwrap().signal, signal(Body::Unknown(40_000)), "its body is not looked at");

    let mut cancel = encoded(Body::Cancel(CancelReason::Cancelled));
    cancel[MESSAGE_HEADER_BYTES] = 77;
    assert_eq!(decode(&cancel).unwrap().signal.body, Body::Cancel(CancelReason::Cancelled));

    let mut decline = encoded(Body::Decline(DeclineReason::Busy.into()));
    decline[MESSAGE_HEADER_BYTES] = 77;
    assert_eq!(decode(&decline).unwrap().signal.body, Body::Decline(DeclineReason::Declined.into()));
}

#[test]
fn an_audio_format_of_a_later_version_is_told_apart_from_rubbish() {
    let mut bytes = encoded(Body::Offer(Box::new(offer(1, 2))));
    bytes[MESSAGE_HEADER_BYTES] = 2;
    assert_eq!(decode(&bytes).unwrap_err(), WireError::Version);
}

#[test]
fn a_join_block_comes_back_with_what_is_signed_and_may_carry_extensions() {
    let chain = vec![grant(1, 2), grant(2, 3)];
    let signed = block(chain.clone());
    let (fields, bytes, signature) = decode_block(&signed).unwrap();
    assert_eq!((fields.chain, fields.did, fields.instance), (chain, person(1), instance()));
    assert_eq!(bytes, &signed[..signed.len() - SIGNATURE_BYTES]);
    assert_eq!(signature, [0xaa; SIGNATURE_BYTES]);

    let extended = [bytes, &[0, 9, 0, 1, 0xff], &signature[..]].concat();
    assert_eq!(decode_block(&extended).unwrap().0.key, [5; 32]);
    let broken = [bytes, &[0, 9, 0, 2, 0xff], &signature[..]].concat();
    assert_eq!(decode_block(&broken).unwrap_err(), WireError::Malformed);
    let mut later = signed;
    later[0] = 2;
    assert_eq!(decode_block(&later).unwrap_err(), WireError::Version);
}

#[test]
fn a_key_that_anybody_could_sign_for_is_no_did() {
    // The neutral element, of order one.
    let mut weak = [0; 32];
    weak[0] = 1;
    assert_eq!(did(&weak), Err(WireError::Malformed));
}

#[test]
fn a_forged_length_is_refused_before_memory_is_taken() {
    /// Fails when it is asked to read a single item.
    #[derive(Debug)]
    struct Untouched;
    impl<'de> Deserialize<'de> for Untouched {
        fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
            panic!("an item was read");
        }
    }
    for length in [17u64, 1 << 20, 1 << 40, u64::MAX] {
        let bytes = length.to_be_bytes();
        assert!(from_bytes::<Bounded<Untouched, 16>>(&bytes).is_err(), "{length}");
        assert!(from_bytes::<Text<16>>(&bytes).is_err(), "{length}");
        assert!(from_bytes::<serde_bytes::ByteBuf>(&bytes).is_err(), "{length}");
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
        let _ = decode(&bytes);
        let _ = decode_block(&bytes);
    }

    #[test]
    fn a_changed_byte_never_panics_and_what_is_read_can_be_written(which in 0usize..17, at in 0usize..4096, flip in 1u8..) {
        let mut bytes = encoded(every_body().swap_remove(which));
        let at = at % bytes.len();
        bytes[at] ^= flip;
        if let Ok(message) = decode(&bytes) {
            prop_assert!(encode(&message.signal, message.block.as_deref()).is_some());
        }
    }
}
