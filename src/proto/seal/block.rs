//! Grants and join blocks: who was let into a call by whom, and the signed start of a stay in it.

use std::collections::BTreeSet;

use super::{
    Rejected,
    keys::{self, Me, transcript, verify},
};
use crate::proto::{
    id::{CallId, Did, Instance},
    signal::{Grant, MAX_CHAIN, Ticket},
    wire::{self, BlockFields},
};

/// Optional abilities that this node announces: none is defined yet.
const FEATURES: u32 = 0;

/// A join block whose signature and grants are checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct JoinBlock {
    pub(super) did: Did,
    pub(super) instance: Instance,
    /// The stay's X25519 public key.
    pub(super) key: [u8; 32],
    /// As signed and as received, signature included; this enters key derivation.
    pub(super) bytes: Vec<u8>,
}

/// Lets `invitee` into the call, in the name of this node.
pub(super) fn grant(me: &Me, call: CallId, invitee: &Did) -> Grant {
    let signature = me.sign(&grant_transcript(call, &me.did, invitee));
    Grant { inviter: me.did.clone(), invitee: invitee.clone(), signature }
}

/// Checks that the chain leads from the call's creator to `did`: connected, short, without doubles, every grant signed,
/// and in a closed call made by the creator alone.
pub(super) fn verify_chain(ticket: &Ticket, chain: &[Grant], did: &Did) -> Result<(), Rejected> {
    let longest = if ticket.settings.closed { 1 } else { MAX_CHAIN };
    if chain.len() > longest {
        return Err(Rejected::NotGranted);
    }
    let mut holder = &ticket.creator;
    let mut holders = BTreeSet::from([holder]);
    for grant in chain {
        if grant.inviter != *holder || !holders.insert(&grant.invitee) {
            return Err(Rejected::NotGranted);
        }
        holder = &grant.invitee;
    }
    if holder != did {
        return Err(Rejected::NotGranted);
    }
    for grant in chain {
        let signed = grant_transcript(ticket.call, &grant.inviter, &grant.invitee);
        verify(&grant.inviter, &signed, &grant.signature).map_err(|_| Rejected::NotGranted)?;
    }
    Ok(())
}

/// Signs the start of a stay in the ticket's call. `None` when the ticket's chain is too long.
pub(super) fn make(me: &Me, ticket: &Ticket, instance: Instance, key: [u8; 32]) -> Option<Vec<u8>> {
    let (did, chain) = (me.did.clone(), ticket.chain.clone());
    let mut bytes =
        wire::encode_block(&BlockFields { features: FEATURES, call: ticket.call, did, instance, key, chain })?;
    let signature = me.sign(&transcript(keys::JOIN_BLOCK, &[&bytes]));
    bytes.extend_from_slice(&signature);
    Some(bytes)
}

/// Checks a join block that `sender` showed: its own, for this call, signed, granted, with a usable key.
pub(super) fn open(me: &Me, ticket: &Ticket, sender: &Did, signed: Vec<u8>) -> Result<JoinBlock, Rejected> {
    let (fields, bytes, signature) = wire::decode_block(&signed)?;
    if fields.call != ticket.call {
        return Err(Rejected::WrongRecipient);
    }
    if fields.did != *sender {
        return Err(Rejected::BadSignature);
    }
    verify(sender, &transcript(keys::JOIN_BLOCK, &[bytes]), &signature)?;
    verify_chain(ticket, &fields.chain, sender)?;
    if !me.is_contributory(&fields.key) {
        return Err(Rejected::Malformed);
    }
    Ok(JoinBlock { did: fields.did, instance: fields.instance, key: fields.key, bytes: signed })
}

fn grant_transcript(call: CallId, inviter: &Did, invitee: &Did) -> Vec<u8> {
    transcript(keys::GRANT, &[call.as_bytes(), inviter.as_str().as_bytes(), invitee.as_str().as_bytes()])
}
