//! The control socket's words, typed: what clients ask and how the daemon answers.

use std::{path::PathBuf, sync::Arc};

use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, oneshot};

use crate::{audio::Role, proto::io::Policy};

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
        /// Nobody but this caller may invite more people.
        #[serde(default)]
        closed: bool,
    },
    /// Take a ringing call.
    #[serde(rename = "call.accept")]
    CallAccept {
        /// Id or unique prefix; may be left out when only one can be meant.
        #[serde(default)]
        call: Option<String>,
        /// Leave the call that is active instead of putting it on hold.
        #[serde(default)]
        leave: bool,
    },
    /// Refuse a ringing call.
    #[serde(rename = "call.reject")]
    CallReject {
        /// Id or unique prefix.
        #[serde(default)]
        call: Option<String>,
        /// `declined` (default), `busy`, `do_not_disturb` or `not_now`.
        #[serde(default)]
        reason: Option<String>,
        /// A few words for the caller, at most 160 bytes.
        #[serde(default)]
        text: Option<String>,
    },
    /// Go back to a call that was left, or to one that was missed.
    #[serde(rename = "call.join")]
    CallJoin {
        /// Id or unique prefix.
        #[serde(default)]
        call: Option<String>,
        /// Leave the call that is active instead of putting it on hold.
        #[serde(default)]
        leave: bool,
    },
    /// Ask more people into a call.
    #[serde(rename = "call.invite")]
    CallInvite {
        /// Id or unique prefix; left out: the active one.
        #[serde(default)]
        call: Option<String>,
        /// DIDs or contact names.
        who: Vec<String>,
    },
    /// Neither speak to a call nor hear it for a while.
    #[serde(rename = "call.hold")]
    CallHold {
        /// Id or unique prefix; left out: the active one.
        #[serde(default)]
        call: Option<String>,
    },
    /// Take a call from hold.
    #[serde(rename = "call.resume")]
    CallResume {
        /// Id or unique prefix.
        #[serde(default)]
        call: Option<String>,
    },
    /// Let nothing ring, or let it ring again.
    #[serde(rename = "call.do_not_disturb")]
    CallDoNotDisturb {
        /// No calls.
        on: bool,
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
    /// With push-to-talk: the microphone on for a minute at most, or off.
    #[serde(rename = "media.talk")]
    MediaTalk {
        /// Pushed, or let go.
        on: bool,
    },
    /// Ears off.
    #[serde(rename = "media.deafen")]
    MediaDeafen {},
    /// Ears on.
    #[serde(rename = "media.undeafen")]
    MediaUndeafen {},
    /// How loud one person is heard, in all calls.
    #[serde(rename = "media.volume")]
    MediaVolume {
        /// DID or contact name.
        who: String,
        /// 100 is as it comes; 200 at most.
        percent: u16,
    },
    /// Do not hear one person.
    #[serde(rename = "media.block")]
    MediaBlock {
        /// DID or contact name.
        who: String,
    },
    /// Hear the person again.
    #[serde(rename = "media.unblock")]
    MediaUnblock {
        /// DID or contact name.
        who: String,
    },
    /// One object a leg.
    #[serde(rename = "media.stats")]
    MediaStats {},
    /// Sound devices.
    #[serde(rename = "audio.devices")]
    AudioDevices {},
    /// Take another sound device from now on.
    #[serde(rename = "audio.select")]
    AudioSelect {
        /// What for.
        direction: Role,
        /// Its name or description; `default`: what the configuration says.
        name: String,
    },
    /// Open the microphone for a while, then play what it heard.
    #[serde(rename = "audio.test_mic")]
    AudioTestMic {
        /// How long it listens; 0 ends a test.
        #[serde(default)]
        seconds: Option<u32>,
    },
    /// Play a few tones.
    #[serde(rename = "audio.test_speaker")]
    AudioTestSpeaker {},
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
    /// Take this contact's calls without asking.
    #[serde(rename = "contact.allow")]
    ContactAllow {
        /// Name or DID.
        who: String,
    },
    /// Let this contact's calls ring.
    #[serde(rename = "contact.ask")]
    ContactAsk {
        /// Name or DID.
        who: String,
    },
    /// Take no calls of this contact, and do not tell so.
    #[serde(rename = "contact.block")]
    ContactBlock {
        /// Name or DID.
        who: String,
    },
    /// Add several contacts, all or none of them.
    #[serde(rename = "contact.import")]
    ContactImport {
        /// At most as many as fit into a line.
        contacts: Vec<ContactEntry>,
        /// Contacts that are there already under another name get the one that is written here; otherwise nothing is done.
        #[serde(default)]
        rename: bool,
    },
    /// All contacts, in the form that [`Method::ContactImport`] takes.
    #[serde(rename = "contact.export")]
    ContactExport {},
    /// What calls there were, the latest first.
    #[serde(rename = "history.list")]
    HistoryList {
        /// At most so many; 50 when left out.
        #[serde(default)]
        limit: Option<u32>,
        /// Only calls that began before this unix time in ms.
        #[serde(default)]
        before_ms: Option<u64>,
    },
    /// The user has seen all events up to this one.
    #[serde(rename = "events.mark")]
    EventsMark {
        /// The last event that was seen.
        seq: u64,
    },
    /// Write down what is said in the active call; the others in it are told.
    #[serde(rename = "media.record")]
    MediaRecord {
        /// Id or unique prefix; left out: the active call.
        #[serde(default)]
        call: Option<String>,
        /// Absolute path of the directory in which the recording gets one of its own; left out: the usual one.
        #[serde(default)]
        directory: Option<PathBuf>,
    },
    /// End the recording.
    #[serde(rename = "media.stop_record")]
    MediaStopRecord {},
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
    pub const NAMES: [&str; 42] = [
        "daemon.status",
        "daemon.stop",
        "identity.show",
        "call.offer",
        "call.accept",
        "call.reject",
        "call.join",
        "call.invite",
        "call.hold",
        "call.resume",
        "call.do_not_disturb",
        "call.hangup",
        "call.list",
        "call.show",
        "media.mute",
        "media.unmute",
        "media.talk",
        "media.deafen",
        "media.undeafen",
        "media.volume",
        "media.block",
        "media.unblock",
        "media.stats",
        "audio.devices",
        "audio.select",
        "audio.test_mic",
        "audio.test_speaker",
        "contact.list",
        "contact.add",
        "contact.remove",
        "contact.allow",
        "contact.ask",
        "contact.block",
        "contact.import",
        "contact.export",
        "history.list",
        "events.mark",
        "media.record",
        "media.stop_record",
        "net.peers",
        "net.connect",
        "config.show",
    ];
}

/// A contact as it is exported and imported: what is left out is not said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContactEntry {
    /// Its DID.
    pub did: String,
    /// A name that is unique here.
    pub name: String,
    /// A multiaddr that is dialled at start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// How its calls are taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,
    /// How loud it is heard; 100 is as it comes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_percent: Option<u16>,
    /// It is not heard at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audio_blocked: Option<bool>,
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

    const MANUAL: &str = include_str!("../../docs/control.md");

    /// Whether the manual names the word, or (`call.accept`, `reject`) its last part.
    fn is_documented(word: &str) -> bool {
        let last = word.rsplit('.').next().unwrap_or(word);
        [word, last].iter().any(|word| MANUAL.contains(&format!("`{word}`")))
    }

    #[test]
    fn the_manual_names_every_method() {
        let missing: Vec<_> = Method::NAMES.into_iter().filter(|name| !is_documented(name)).collect();
        assert!(missing.is_empty(), "docs/control.md lacks {missing:?}");
    }

    #[test]
    fn the_manual_names_every_event_every_state_and_every_end() {
        use crate::proto::io::{CallState, EndReason, Event, ParticipantState};
        fn words<T: serde::de::DeserializeOwned>(wrong: serde_json::Value) -> Vec<String> {
            let error = serde_json::from_value::<T>(wrong).err().expect("no such word").to_string();
            // The first is the wrong one.
            error.split('`').skip(3).step_by(2).map(String::from).collect()
        }
        let events = words::<Event>(serde_json::json!({ "event": "?" }));
        assert!(events.len() > 15, "{events:?}");
        let all = [events, words::<CallState>("?".into()), words::<ParticipantState>("?".into())].concat();
        let ends = words::<EndReason>("?".into());
        let missing: Vec<_> = all.into_iter().chain(ends).filter(|word| !is_documented(word)).collect();
        assert!(missing.is_empty(), "docs/control.md lacks {missing:?}");
    }
}
