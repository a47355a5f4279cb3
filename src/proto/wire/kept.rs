//! The form in which a call outlives the daemon: a [`KeptCall`] as bytes for the disk, and back.
//!
//! It holds the call key. The first byte is the version of the form; what does not make a whole and possible call is refused.

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{Bounded, MAX_CHAIN, MAX_PARTICIPANTS, WireContact, WireError, WireGrant, did};
use crate::proto::{
    id::{CallId, Did, MessageId},
    io::{Asked, KeptCall, Standing},
    signal::{CallKey, Contact, Grant, Settings, Ticket},
};

const VERSION: u8 = 1;
/// Longest form: all participants with all their addresses.
const MAX_KEPT_BYTES: usize = 128 * 1024;

/// The bytes of a call to be kept; `None` when it breaks a limit of the protocol.
pub fn encode_kept(kept: &KeptCall) -> Option<Zeroizing<Vec<u8>>> {
    let bytes = Zeroizing::new(bincode::serde::encode_to_vec(WireKept::new(kept)?, config()).ok()?);
    let mut versioned = Zeroizing::new(Vec::with_capacity(1 + bytes.len()));
    versioned.push(VERSION);
    versioned.extend_from_slice(&bytes);
    Some(versioned)
}

/// Reads what [`encode_kept`] wrote.
///
/// # Errors
/// [`WireError::Version`] for bytes of a later telecon, [`WireError::Malformed`] for everything else that is no call, such as a ticket
/// whose id does not follow from its parts.
pub fn decode_kept(bytes: &[u8]) -> Result<KeptCall, WireError> {
    let (version, bytes) = bytes.split_first().ok_or(WireError::Malformed)?;
    if *version != VERSION {
        return Err(WireError::Version);
    }
    let decoded = bincode::serde::decode_from_slice::<WireKept, _>(bytes, config());
    match decoded.map_err(|_| WireError::Malformed)? {
        (kept, used) if used == bytes.len() => kept.into_kept(),
        _ => Err(WireError::Malformed),
    }
}

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_big_endian().with_fixed_int_encoding().with_limit::<MAX_KEPT_BYTES>()
}

#[derive(Serialize, Deserialize)]
struct WireKept {
    call: [u8; 16],
    creator: [u8; 32],
    closed: bool,
    key: CallKey,
    chain: Bounded<WireGrant, MAX_CHAIN>,
    from: [u8; 32],
    members: Bounded<WireMember, MAX_PARTICIPANTS>,
    asked: Bounded<WireAsked, MAX_PARTICIPANTS>,
    stay: u64,
    standing: WireStanding,
}

#[derive(Serialize, Deserialize)]
struct WireMember {
    did: [u8; 32],
    contact: Option<WireContact>,
}

#[derive(Serialize, Deserialize)]
struct WireAsked {
    did: [u8; 32],
    offer: [u8; 16],
    until_ms: u64,
}

impl WireAsked {
    fn new((did, asked): (&Did, &Asked)) -> Self {
        Self { did: *did.key().as_bytes(), offer: asked.offer.0, until_ms: asked.until_ms }
    }

    fn into_asked(self) -> Result<(Did, Asked), WireError> {
        Ok((did(&self.did)?, Asked { offer: MessageId(self.offer), until_ms: self.until_ms }))
    }
}

#[derive(Serialize, Deserialize)]
enum WireStanding {
    Ringing { until_ms: u64 },
    In { on_hold: bool },
    Past { since_ms: u64 },
}

impl WireKept {
    fn new(kept: &KeptCall) -> Option<Self> {
        Some(Self {
            call: *kept.ticket.call.as_bytes(),
            creator: *kept.ticket.creator.key().as_bytes(),
            closed: kept.ticket.settings.closed,
            key: kept.ticket.key.clone(),
            chain: Bounded::new(kept.ticket.chain.iter().map(WireGrant::from).collect())?,
            from: *kept.from.key().as_bytes(),
            members: Bounded::new(kept.members.iter().map(WireMember::new).collect())?,
            asked: Bounded::new(kept.asked.iter().map(WireAsked::new).collect())?,
            stay: kept.stay,
            standing: match kept.standing {
                Standing::Ringing(until_ms) => WireStanding::Ringing { until_ms },
                Standing::In { on_hold } => WireStanding::In { on_hold },
                Standing::Past(since_ms) => WireStanding::Past { since_ms },
            },
        })
    }

    fn into_kept(self) -> Result<KeptCall, WireError> {
        let (call, creator) = (CallId::from_bytes(self.call), did(&self.creator)?);
        let settings = Settings { closed: self.closed };
        if call != CallId::derive(&creator, &settings, &self.key.0) {
            return Err(WireError::Malformed);
        }
        let chain = self.chain.0.iter().map(Grant::try_from).collect::<Result<_, _>>()?;
        Ok(KeptCall {
            ticket: Ticket { call, creator, settings, key: self.key, chain },
            from: did(&self.from)?,
            members: self.members.0.into_iter().map(WireMember::into_member).collect::<Result<_, _>>()?,
            asked: self.asked.0.into_iter().map(WireAsked::into_asked).collect::<Result<_, _>>()?,
            stay: self.stay,
            standing: match self.standing {
                WireStanding::Ringing { until_ms } => Standing::Ringing(until_ms),
                WireStanding::In { on_hold } => Standing::In { on_hold },
                WireStanding::Past { since_ms } => Standing::Past(since_ms),
            },
        })
    }
}

impl WireMember {
    /// An address beyond the limits is none: without it the call can be gone back to as well.
    fn new((did, contact): (&Did, &Option<Contact>)) -> Self {
        Self { did: *did.key().as_bytes(), contact: contact.as_ref().and_then(WireContact::new) }
    }

    fn into_member(self) -> Result<(Did, Option<Contact>), WireError> {
        Ok((did(&self.did)?, self.contact.map(Contact::from)))
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{MAX_ADDRESS_BYTES, MAX_ADDRESSES, MAX_PEER_ID_BYTES},
        *,
    };
    use ed25519_dalek::SigningKey;
    use proptest::prelude::*;

    fn did(seed: u8) -> Did {
        Did::from_key(SigningKey::from_bytes(&[seed; 32]).verifying_key())
    }

    /// Every second has one, as large as it can be.
    fn contact(at: u8) -> Option<Contact> {
        let address = "a".repeat(MAX_ADDRESS_BYTES);
        let full = Contact { peer_id: "p".repeat(MAX_PEER_ID_BYTES), addresses: vec![address; MAX_ADDRESSES] };
        at.is_multiple_of(2).then_some(full)
    }

    fn kept(members: u8, grants: u8, standing: Standing) -> KeptCall {
        let (creator, settings, key) = (did(1), Settings { closed: true }, CallKey([7; 32]));
        let grant = |at| Grant { inviter: did(at), invitee: did(at + 1), signature: [at; 64] };
        KeptCall {
            ticket: Ticket {
                call: CallId::derive(&creator, &settings, &key.0),
                creator,
                settings,
                key,
                chain: (1..=grants).map(grant).collect(),
            },
            from: did(2),
            members: (10..10 + members).map(|at| (did(at), contact(at))).collect(),
            asked: (10..10 + members)
                .map(|at| (did(at), Asked { offer: MessageId([at; 16]), until_ms: u64::from(at) }))
                .collect(),
            stay: 1_763_600_000_000,
            standing,
        }
    }

    #[test]
    fn a_kept_call_comes_back_whole_however_it_stands() {
        let standings = [
            Standing::Ringing(7),
            Standing::In { on_hold: false },
            Standing::In { on_hold: true },
            Standing::Past(u64::MAX),
        ];
        for standing in standings {
            for (members, grants) in [(0, 0), (3, 1), (MAX_PARTICIPANTS as u8, MAX_CHAIN as u8)] {
                let kept = kept(members, grants, standing);
                assert_eq!(decode_kept(&encode_kept(&kept).unwrap()), Ok(kept));
            }
        }
    }

    #[test]
    fn a_call_beyond_the_protocols_limits_is_not_kept() {
        assert!(encode_kept(&kept(MAX_PARTICIPANTS as u8 + 1, 0, Standing::Past(1))).is_none());
        assert!(encode_kept(&kept(1, MAX_CHAIN as u8 + 1, Standing::Past(1))).is_none());
    }

    #[test]
    fn what_is_cut_off_too_long_or_of_a_later_version_is_refused() {
        let good = encode_kept(&kept(3, 2, Standing::Past(5))).unwrap();
        for length in 0..good.len() {
            assert_eq!(decode_kept(&good[..length]), Err(WireError::Malformed), "{length} bytes");
        }
        assert_eq!(decode_kept(&[&good[..], &[0]].concat()), Err(WireError::Malformed));
        let later = [&[VERSION + 1], &good[1..]].concat();
        assert_eq!(decode_kept(&later), Err(WireError::Version));
    }

    #[test]
    fn a_ticket_whose_parts_do_not_make_its_id_is_refused() {
        let good = encode_kept(&kept(3, 2, Standing::Past(5))).unwrap();
        // The version, then the id (16), the creator (32), `closed` (1) and the key (32).
        for at in 1..1 + 16 + 32 + 1 + 32 {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert_eq!(decode_kept(&bad), Err(WireError::Malformed), "byte {at}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = decode_kept(&bytes);
            let _ = decode_kept(&[&[VERSION], &bytes[..]].concat());
        }
    }
}
