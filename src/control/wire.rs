//! The control socket's words, typed: what clients ask and how the daemon answers.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, oneshot};

/// A request, parsed. Method names and parameters are those on the socket (`call.offer`, …).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "method", content = "params", deny_unknown_fields)]
pub enum Method {
    /// State of the daemon.
    #[serde(rename = "daemon.status")]
    DaemonStatus {},
    /// Leave all calls and exit.
    #[serde(rename = "daemon.stop")]
    DaemonStop {},
    /// Own DID, peer id, addresses.
    #[serde(rename = "identity.show")]
    IdentityShow {},
    /// Offer a call to DIDs or contact names.
    #[serde(rename = "call.offer")]
    CallOffer {
        /// DIDs or contact names.
        who: Vec<String>,
    },
    /// Take a ringing call.
    #[serde(rename = "call.accept")]
    CallAccept {
        /// Id or unique prefix; may be left out when only one can be meant.
        #[serde(default)]
        call: Option<String>,
    },
    /// Refuse a ringing call.
    #[serde(rename = "call.reject")]
    CallReject {
        /// Id or unique prefix.
        #[serde(default)]
        call: Option<String>,
        /// `declined` (default) or `busy`.
        #[serde(default)]
        reason: Option<String>,
    },
    /// Leave a call or take an offer back.
    #[serde(rename = "call.hangup")]
    CallHangup {
        /// Id or unique prefix.
        #[serde(default)]
        call: Option<String>,
    },
    /// All calls.
    #[serde(rename = "call.list")]
    CallList {},
    /// One call.
    #[serde(rename = "call.show")]
    CallShow {
        /// Id or unique prefix.
        #[serde(default)]
        call: Option<String>,
    },
    /// Microphone off.
    #[serde(rename = "media.mute")]
    MediaMute {},
    /// Microphone on.
    #[serde(rename = "media.unmute")]
    MediaUnmute {},
    /// Ears off.
    #[serde(rename = "media.deafen")]
    MediaDeafen {},
    /// Ears on.
    #[serde(rename = "media.undeafen")]
    MediaUndeafen {},
    /// One object a leg.
    #[serde(rename = "media.stats")]
    MediaStats {},
    /// Sound devices.
    #[serde(rename = "audio.devices")]
    AudioDevices {},
    /// All contacts.
    #[serde(rename = "contact.list")]
    ContactList {},
    /// Add or change a contact.
    #[serde(rename = "contact.add")]
    ContactAdd {
        /// Its DID.
        did: String,
        /// A name that is unique here.
        name: String,
        /// A multiaddr that is dialled at start.
        #[serde(default)]
        address: Option<String>,
    },
    /// Remove a contact.
    #[serde(rename = "contact.remove")]
    ContactRemove {
        /// Name or DID.
        who: String,
    },
    /// Connected peers.
    #[serde(rename = "net.peers")]
    NetPeers {},
    /// Dial a multiaddr now.
    #[serde(rename = "net.connect")]
    NetConnect {
        /// Multiaddr, `/p2p/…` may be left out.
        address: String,
    },
    /// The configuration in force.
    #[serde(rename = "config.show")]
    ConfigShow {},
}

impl Method {
    /// Every method's name on the socket, `events.watch` apart: that one is [`Command::Watch`].
    pub const NAMES: [&str; 21] = [
        "daemon.status",
        "daemon.stop",
        "identity.show",
        "call.offer",
        "call.accept",
        "call.reject",
        "call.hangup",
        "call.list",
        "call.show",
        "media.mute",
        "media.unmute",
        "media.deafen",
        "media.undeafen",
        "media.stats",
        "audio.devices",
        "contact.list",
        "contact.add",
        "contact.remove",
        "net.peers",
        "net.connect",
        "config.show",
    ];
}

/// A failure with a stable word and a sentence that says what to do. Nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// A stable word, such as `no_such_call`.
    pub code: String,
    /// The thing, the cause and the remedy.
    pub message: String,
}

impl Failure {
    /// From its stable word and its sentence.
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into() }
    }
}

/// What the socket server hands to the daemon's loop (bounded channel; a full one makes the client wait).
#[derive(Debug)]
pub enum Command {
    /// A request.
    Call {
        /// What is asked.
        method: Method,
        /// The same key again returns the first answer.
        request_key: Option<String>,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<serde_json::Value, Failure>>,
    },
    /// `events.watch`
    Watch {
        /// Replay from the event after this one; `None`: only the snapshot and what comes.
        since: Option<u64>,
        /// Where the subscription goes.
        reply: oneshot::Sender<Result<Subscription, Failure>>,
    },
}

/// A watcher's view without gap or double: the snapshot, then the replay, then what is live.
#[derive(Debug)]
pub struct Subscription {
    /// `daemon.status` at this moment, with `seq` of the last event.
    pub snapshot: serde_json::Value,
    /// Kept events after `since`, oldest first.
    pub replay: Vec<Arc<EventRecord>>,
    /// Events from here on; a receiver that lags is told `lagged` and dropped.
    pub live: broadcast::Receiver<Arc<EventRecord>>,
}

/// A journalled event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventRecord {
    /// Grows by one with every event, over restarts too.
    pub seq: u64,
    /// Unix time in ms.
    pub time_ms: u64,
    /// What happened: `event` and its fields.
    #[serde(flatten)]
    pub event: crate::proto::io::Event,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_names_is_exactly_what_can_be_parsed() {
        let error = serde_json::from_value::<Method>(serde_json::json!({"method": "x", "params": {}})).unwrap_err();
        let listed: Vec<String> = Method::NAMES.iter().map(|name| format!("`{name}`")).collect();
        assert_eq!(error.to_string(), format!("unknown variant `x`, expected one of {}", listed.join(", ")));
    }
}
