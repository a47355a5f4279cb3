//! What is known of calls beyond the daemon's life and the user's stay: written down, read back, shown as what can be joined.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::proto::{
    id::{CallId, Did, MessageId},
    signal::{Contact, Ticket},
};

/// What has to outlive the daemon of a call that this device is in, left, or missed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptCall {
    /// Id, key, settings, own chain of grants.
    pub ticket: Ticket,
    /// Who invited this device; the own DID when it made the call.
    pub from: Did,
    /// Everybody else who was invited or present, and where their nodes could be dialled.
    pub members: BTreeMap<Did, Option<Contact>>,
    /// Whom this device has invited and who may still accept.
    pub asked: BTreeMap<Did, Asked>,
    /// The number of the own latest stay; 0 when there was none.
    pub stay: u64,
    /// Where it stands.
    pub standing: Standing,
}

/// An own invitation that still holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// The offer, which rings once however often it is repeated.
    pub offer: MessageId,
    /// Unix time in ms.
    pub until_ms: u64,
}

/// Where a [`KeptCall`] stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Standing {
    /// Rings here until this unix time in ms.
    Ringing(u64),
    /// This device is in it; `on_hold`: and neither speaks nor hears.
    In {
        /// Put on hold by the user.
        on_hold: bool,
    },
    /// Left, or missed, at this unix time in ms: it can be joined for [`JOINABLE`] from then on.
    Past(u64),
}

/// How long a call that was left or missed can be joined.
pub const JOINABLE: Duration = Duration::from_secs(3600);

/// A call that can be joined again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastCall {
    /// The call.
    pub call: CallId,
    /// Who invited.
    pub from: Did,
    /// Everyone but the own DID.
    pub participants: Vec<Did>,
    /// When it was left or missed, unix time in ms.
    pub since_ms: u64,
}
