//! Sealing: signals become bytes that only the right people can read or make, and bytes become verified signals.
//!
//! This file is the boundary; what stands behind it is [`Sealer`] (the real construction) or the simulator's stand-in.

mod block;
mod broadcast;
mod call;
mod envelope;
mod gate;
mod keys;
mod pairwise;
mod replay;
mod sealer;
#[cfg(test)]
mod tests;

pub use sealer::Sealer;

use super::{
    id::{CallId, Did, Instance},
    signal::{Incoming, Outgoing, Ticket, Topic},
};

/// Turns signals into bytes and back. It holds every key; the engine holds none but the call key in its ticket.
pub trait Seal {
    /// From now on this call's topics can be sealed and opened.
    fn open_call(&mut self, ticket: &Ticket);
    /// Begins a stay in the call: a fresh ephemeral key, a fresh signed join block.
    fn join(&mut self, call: CallId, instance: Instance);
    /// Forgets all keys of the call.
    fn close_call(&mut self, call: CallId);
    /// Whose envelopes have a budget of their own.
    fn set_contacts(&mut self, contacts: &[Did]);
    /// Seals one transmission (each has a fresh nonce). `None` when the keys for it are not there (yet).
    fn seal(&mut self, outgoing: &Outgoing, now: super::io::Now) -> Option<Vec<u8>>;
    /// Opens and verifies. Every failure is silent on the wire and counted by its reason.
    fn open(&mut self, topic: &Topic, bytes: &[u8], now: super::io::Now) -> Result<Incoming, Rejected>;
}

/// Why bytes were dropped. Each reason has a counter in `telecon stats`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Rejected {
    /// Longer than [`super::signal::MAX_SEALED_BYTES`], or not of the expected shape.
    #[error("malformed")]
    Malformed,
    /// Strangers sent more than their budget.
    #[error("over_budget")]
    OverBudget,
    /// Sealed to somebody else, under another key, or a byte was changed.
    #[error("undecryptable")]
    Undecryptable,
    /// The signature is not the named sender's.
    #[error("bad_signature")]
    BadSignature,
    /// Signed for another recipient, topic or call.
    #[error("wrong_recipient")]
    WrongRecipient,
    /// The call id does not match the offer.
    #[error("wrong_call_id")]
    WrongCallId,
    /// No valid chain of grants.
    #[error("not_granted")]
    NotGranted,
    /// These very bytes were opened before.
    #[error("replayed")]
    Replayed,
    /// The sender's clock is more than 120 s away.
    #[error("clock_skew")]
    ClockSkew,
    /// A call that this node is not in.
    #[error("unknown_call")]
    UnknownCall,
    /// A major version that this node does not speak.
    #[error("unknown_version")]
    UnknownVersion,
}

impl From<super::wire::WireError> for Rejected {
    fn from(error: super::wire::WireError) -> Self {
        match error {
            super::wire::WireError::Malformed => Self::Malformed,
            super::wire::WireError::Version => Self::UnknownVersion,
        }
    }
}
