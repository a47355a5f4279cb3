//! What clients see, as JSON: the fields that scripts rely on, with the names of contacts beside their DIDs.
//!
//! Pure: state in, JSON out.

use std::cmp::Reverse;

use serde_json::{Value, json};

use super::people::People;
use crate::{
    audio::{AudioStatus, DelayShares, LegAudioStats},
    control::wire::ContactEntry,
    leg::LegStats,
    net::{NetCounters, NetStatus, PeerInfo},
    proto::{
        id::{CallId, Did},
        io::{CallState, CallView, ParticipantView, PastCall},
        seal::Rejected,
    },
    store::{Contact, HistoryEntry},
};

/// Why a participant stays `connecting`, and what can be done.
pub(super) const NO_CONNECTION: &str = "signals arrive, audio does not: a firewall or NAT is in between; name a STUN or TURN \
                                        server under [network] ice_servers, on both sides";

/// All that `status` tells.
pub(super) struct Status<'a> {
    pub did: &'a Did,
    pub uptime_s: u64,
    pub net: &'a NetStatus,
    pub calls: &'a [CallView],
    pub people: &'a People,
    pub muted: bool,
    pub deafened: bool,
    pub push_to_talk: bool,
    pub waits_for_talk: bool,
    pub do_not_disturb: bool,
    pub stopping: bool,
    pub clock: Option<&'static str>,
    pub audio: &'a AudioStatus,
    pub recording: Value,
    pub recording_problem: Option<String>,
    pub seq: u64,
    pub marked: u64,
    pub missed: usize,
}

/// `daemon.status`, and the snapshot of `events.watch`.
pub(super) fn status(from: &Status<'_>) -> Value {
    let (mut active, mut pending, mut held) = (Value::Null, Vec::new(), Vec::new());
    for view in from.calls {
        let shown = call(view, from.people);
        match view.state {
            CallState::Active | CallState::Outgoing => active = shown,
            CallState::Incoming => pending.push(shown),
            CallState::OnHold => held.push(shown),
        }
    }
    json!({
        "did": from.did,
        "peer_id": from.net.peer_id.to_string(),
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_s": from.uptime_s,
        "listen": from.net.listen,
        "peers": from.net.peers.len(),
        "active_call": active,
        "held": held,
        "pending": pending,
        "muted": from.muted,
        "deafened": from.deafened,
        "push_to_talk": from.push_to_talk,
        "waits_for_talk": from.waits_for_talk,
        "speaking": from.people.user_speaks(),
        "do_not_disturb": from.do_not_disturb,
        "stopping": from.stopping,
        "clock": from.clock,
        "audio": from.audio,
        "recording": from.recording,
        "recording_problem": from.recording_problem,
        "seq": from.seq,
        "marked": from.marked,
        "missed": from.missed,
    })
}

/// `call.list`
pub(super) fn calls(calls: &[CallView], past: &[PastCall], people: &People) -> Value {
    let calls: Vec<_> = calls.iter().map(|view| call(view, people)).collect();
    let mut latest_first: Vec<_> = past.iter().collect();
    latest_first.sort_by_key(|view| Reverse(view.since_ms));
    let past: Vec<_> = latest_first.into_iter().map(|view| past_call(view, people)).collect();
    json!({ "calls": calls, "past": past })
}

/// `call.show`
pub(super) fn call(view: &CallView, people: &People) -> Value {
    let participants: Vec<_> = view.participants.iter().map(|other| participant(other, view.call, people)).collect();
    json!({
        "call": view.call,
        "state": view.state,
        "from": view.from,
        "from_name": people.name(&view.from),
        "closed": view.closed,
        "recording": view.recording,
        "participants": participants,
    })
}

/// Who records the call, as they say themselves.
pub(super) fn recorders(view: &CallView, people: &People) -> Value {
    let recorders = view.participants.iter().filter(|other| other.recording).map(|other| other.did.clone());
    named(&recorders.collect::<Vec<_>>(), people).into()
}

fn participant(view: &ParticipantView, call: CallId, people: &People) -> Value {
    let gain = people.gain(&view.did);
    json!({
        "did": view.did,
        "name": people.name(&view.did),
        "state": view.state,
        "problem": view.no_connection.then_some(NO_CONNECTION),
        "muted": view.muted,
        "deafened": view.deafened,
        "on_hold": view.on_hold,
        "speaking": people.speaks(call, &view.did),
        "recording": view.recording,
        "recorded": view.recorded,
        "decline": view.decline,
        "volume_percent": gain.percent,
        "audio_blocked": gain.blocked,
        "connected_ms": view.setup.first_audio,
        "setup": view.setup,
    })
}

fn past_call(view: &PastCall, people: &People) -> Value {
    json!({
        "call": view.call,
        "state": "past",
        "from": view.from,
        "from_name": people.name(&view.from),
        "participants": named(&view.participants, people),
        "since_ms": view.since_ms,
    })
}

/// `history.list`
pub(super) fn history(entries: &[HistoryEntry], people: &People) -> Value {
    let entry = |entry: &HistoryEntry| {
        json!({
            "call": entry.call,
            "direction": entry.direction,
            "from": entry.from,
            "from_name": people.name(&entry.from),
            "participants": named(&entry.participants, people),
            "known": entry.known,
            "started_ms": entry.started_ms,
            "joined_ms": entry.joined_ms,
            "ended_ms": entry.ended_ms,
            "outcome": entry.outcome,
        })
    };
    json!({ "history": entries.iter().map(entry).collect::<Vec<_>>() })
}

fn named(dids: &[Did], people: &People) -> Vec<Value> {
    dids.iter().map(|did| json!({ "did": did, "name": people.name(did) })).collect()
}

/// `contact.export`
pub(super) fn export(contacts: &[Contact]) -> Value {
    let entry = |contact: &Contact| ContactEntry {
        did: contact.did.to_string(),
        name: contact.name.to_string(),
        address: contact.address.as_ref().map(ToString::to_string),
        policy: Some(contact.policy),
        volume_percent: Some(contact.volume_percent),
        audio_blocked: Some(contact.audio_blocked),
    };
    json!({ "contacts": contacts.iter().map(entry).collect::<Vec<_>>() })
}

/// One leg of `media.stats`. What is heard is null until the audio thread has figures: 0 dB would be the loudest sound there is.
pub(super) fn leg(
    other: &ParticipantView,
    of: &CallView,
    leg: &LegStats,
    audio: Option<&LegAudioStats>,
    people: &People,
) -> Value {
    json!({
        "call": of.call,
        "did": other.did,
        "name": people.name(&other.did),
        "state": other.state,
        "rtt_ms": leg.rtt_ms,
        "jitter_ms": audio.map(|audio| audio.jitter_ms),
        "loss_pct": audio.map(|audio| audio.loss_pct),
        "concealed_pct": audio.map(|audio| audio.concealed_pct),
        "jitter_buffer_ms": audio.map(|audio| audio.jitter_buffer_ms),
        "target_delay_ms": audio.map(|audio| audio.target_ms),
        "playout_delay_ms": audio.map(|audio| audio.playout_delay_ms),
        "delay_ms": audio.map(|audio| delay(&audio.delay, leg.rtt_ms)),
        "recovered_by_copy": audio.map(|audio| audio.recovered_by_copy),
        "recovered_by_fec": audio.map(|audio| audio.recovered_by_fec),
        "recovered_by_dred": audio.map(|audio| audio.recovered_by_dred),
        "late": audio.map(|audio| audio.late),
        "stretches": audio.map(|audio| audio.stretches),
        "sent_kbps": leg.sent_kbps,
        "recv_kbps": leg.recv_kbps,
        "packets_sent": leg.packets_sent,
        "packets_received": leg.packets_received,
        "packets_ignored": leg.packets_ignored,
        "candidates_ignored": leg.candidates_ignored,
        "frames_dropped": leg.frames_dropped,
        "remote_loss_pct": leg.remote_loss_pct,
        "remote_outage_ms": leg.remote_outage_ms,
        "queue_ms": leg.queue_ms,
        "wire_kbps": leg.wire_kbps,
        "bitrate_kbps": leg.bitrate_kbps,
        "frame_ms": leg.frame_ms,
        "redundancy_ms": leg.redundancy_ms.iter().filter(|ms| **ms > 0).collect::<Vec<_>>(),
        "level_db": audio.map(|audio| audio.level_db),
        "connected_ms": other.setup.first_audio,
        "setup": other.setup,
    })
}

/// Every stage's share of the delay, in the order in which sound passes; half of the round trip stands for the network.
fn delay(shares: &DelayShares, rtt_ms: Option<f64>) -> Value {
    json!({
        "capture": shares.capture_ms,
        "processing": shares.processing_ms,
        "frame": shares.frame_ms,
        "network": rtt_ms.map(|rtt_ms| rtt_ms / 2.0),
        "jitter_buffer": shares.jitter_buffer_ms,
        "decoded": shares.decoded_ms,
        "ring": shares.ring_ms,
        "device": shares.device_ms,
    })
}

/// `media.stats`
pub(super) fn stats<'a>(
    legs: Vec<Value>,
    rejected: impl Iterator<Item = (&'a Rejected, &'a u64)>,
    net: NetCounters,
) -> Value {
    let rejected: serde_json::Map<_, _> =
        rejected.map(|(reason, count)| (reason.to_string(), Value::from(*count))).collect();
    json!({ "legs": legs, "rejected": rejected, "net": net })
}

/// One entry of `net.peers`.
pub(super) fn peer(info: &PeerInfo) -> Value {
    json!({ "peer_id": info.peer_id.to_string(), "address": info.address, "rtt_ms": info.rtt_ms })
}

#[cfg(test)]
pub(super) mod samples {
    use ed25519_dalek::SigningKey;

    use super::*;
    use crate::proto::{
        id::{CallId, LegId},
        io::{ParticipantState, Setup},
    };

    pub fn did_of(seed: u8) -> Did {
        Did::from_key(SigningKey::from_bytes(&[seed; 32]).verifying_key())
    }

    pub fn contact(seed: u8, name: &str) -> Contact {
        Contact::new(did_of(seed), name.parse().unwrap(), None)
    }

    pub fn call_view(byte: u8, state: CallState) -> CallView {
        let setup =
            Setup { signalled: Some(3), ice_connected: Some(20), dtls_connected: Some(41), first_audio: Some(66) };
        let other = ParticipantView {
            did: did_of(2),
            state: ParticipantState::Joined,
            no_connection: false,
            muted: false,
            deafened: true,
            on_hold: false,
            recording: false,
            recorded: false,
            decline: None,
            leg: Some(LegId(1)),
            setup,
        };
        CallView {
            call: CallId::from_bytes([byte; 16]),
            state,
            from: did_of(2),
            closed: false,
            recording: false,
            participants: vec![other],
        }
    }
}

#[cfg(test)]
mod tests {
    use libp2p::PeerId;

    use super::{samples::*, *};
    use crate::proto::id::LegId;

    fn keys(value: &Value) -> Vec<&str> {
        value.as_object().unwrap().keys().map(String::as_str).collect()
    }

    #[test]
    fn a_call_shows_names_beside_dids_and_no_internal_ids() {
        let shown = call(&call_view(0x11, CallState::Active), &People::new(vec![contact(2, "Bob")]));
        assert_eq!(shown["state"], "active");
        assert_eq!(shown["from_name"], "Bob");
        let other = &shown["participants"][0];
        assert_eq!(
            (&other["name"], &other["state"], &other["deafened"]),
            (&"Bob".into(), &"joined".into(), &true.into())
        );
        assert_eq!((&other["connected_ms"], &other["setup"]["signalled"]), (&66.into(), &3.into()));
        assert!(other.get("leg").is_none());
        assert_eq!(other["speaking"], false);
        let mut people = People::default();
        people.begins_to_speak(Some(LegId(1)), call_view(0x11, CallState::Active).call, did_of(2));
        let of = |byte| call(&call_view(byte, CallState::Active), &people)["participants"][0]["speaking"].clone();
        assert_eq!((of(0x11), of(0x12)), (true.into(), false.into()), "in this call, not in another");
        assert_eq!(
            call(&call_view(0x11, CallState::Active), &People::default())["participants"][0]["name"],
            Value::Null
        );
    }

    #[test]
    fn of_the_calls_that_can_be_joined_the_latest_stands_first() {
        let past = |byte, since_ms| PastCall {
            call: call_view(byte, CallState::Active).call,
            from: did_of(2),
            participants: vec![],
            since_ms,
        };
        let shown = calls(&[], &[past(0x11, 5), past(0x22, 7), past(0x33, 6)], &People::default());
        let times: Vec<_> = shown["past"].as_array().unwrap().iter().map(|one| one["since_ms"].clone()).collect();
        assert_eq!(times, [7, 6, 5]);
    }

    #[test]
    fn status_has_every_promised_field_and_tells_ringing_from_active() {
        let net = NetStatus {
            peer_id: PeerId::random(),
            listen: vec!["/ip4/127.0.0.1/tcp/4001".parse().unwrap()],
            peers: Vec::new(),
        };
        let calls = [
            call_view(0x11, CallState::Incoming),
            call_view(0x22, CallState::Outgoing),
            call_view(0x33, CallState::OnHold),
        ];
        let people = People::default();
        let audio = AudioStatus {
            backend: "null".into(),
            input: "silence".into(),
            output: "nothing".into(),
            processing: vec!["high_pass".into()],
            ..AudioStatus::default()
        };
        let did = did_of(1);
        let from = Status {
            did: &did,
            uptime_s: 7,
            net: &net,
            calls: &calls,
            people: &people,
            muted: true,
            deafened: false,
            push_to_talk: true,
            waits_for_talk: false,
            do_not_disturb: true,
            stopping: false,
            clock: None,
            audio: &audio,
            recording: Value::Null,
            recording_problem: None,
            seq: 9,
            marked: 4,
            missed: 2,
        };
        let shown = status(&from);
        let promised = "did peer_id version uptime_s listen peers active_call held pending muted deafened push_to_talk waits_for_talk speaking do_not_disturb \
                        audio seq marked missed";
        for field in promised.split_whitespace() {
            assert!(keys(&shown).contains(&field), "{field} is missing in {shown}");
        }
        assert_eq!(shown["active_call"]["state"], "outgoing");
        assert_eq!(
            (&shown["pending"][0]["state"], &shown["held"][0]["state"]),
            (&"incoming".into(), &"on_hold".into())
        );
        assert_eq!((&shown["pending"][1], &shown["held"][1]), (&Value::Null, &Value::Null));
        assert_eq!((&shown["peers"], &shown["listen"][0]), (&0.into(), &"/ip4/127.0.0.1/tcp/4001".into()));
        for field in ["backend", "input", "output"] {
            assert!(shown["audio"].get(field).is_some(), "audio.{field}");
        }
    }

    #[test]
    fn a_leg_has_every_promised_figure() {
        let view = call_view(0x11, CallState::Active);
        let delay = DelayShares { frame_ms: 20.0, ..DelayShares::default() };
        let audio = LegAudioStats { level_db: -21.5, delay, ..LegAudioStats::default() };
        let measured = LegStats { rtt_ms: Some(30.0), ..LegStats::default() };
        let shown = leg(&view.participants[0], &view, &measured, Some(&audio), &People::default());
        assert_eq!((&shown["delay_ms"]["frame"], &shown["delay_ms"]["network"]), (&20.0.into(), &15.0.into()));
        let promised = "did state rtt_ms jitter_ms loss_pct concealed_pct jitter_buffer_ms playout_delay_ms sent_kbps \
                        target_delay_ms delay_ms recovered_by_copy recovered_by_fec recovered_by_dred late stretches \
                        recv_kbps level_db connected_ms setup";
        for field in promised.split_whitespace() {
            assert!(keys(&shown).contains(&field), "{field} is missing in {shown}");
        }
        assert_eq!(keys(&shown["setup"]).len(), 4);
        assert_eq!(shown["level_db"], -21.5);
        let unheard = leg(&view.participants[0], &view, &LegStats::default(), None, &People::default());
        assert_eq!((unheard.get("level_db"), keys(&unheard)), (Some(&Value::Null), keys(&shown)));
        assert_eq!(shown["connected_ms"], 66);
    }

    #[test]
    fn a_leg_tells_how_the_voice_is_protected() {
        let view = call_view(0x11, CallState::Active);
        let protected = LegStats { redundancy_ms: [20, 200, 0], wire_kbps: 142.5, frame_ms: 20, ..LegStats::default() };
        let shown = leg(&view.participants[0], &view, &protected, None, &People::default());
        assert_eq!((&shown["redundancy_ms"], &shown["wire_kbps"]), (&json!([20, 200]), &json!(142.5)));
        let clean = leg(&view.participants[0], &view, &LegStats::default(), None, &People::default());
        assert_eq!((&clean["redundancy_ms"], &clean["remote_outage_ms"]), (&json!([]), &Value::Null));
    }

    #[test]
    fn rejections_are_counted_by_their_stable_words() {
        let rejected = std::collections::BTreeMap::from([(Rejected::BadSignature, 2), (Rejected::Replayed, 1)]);
        let shown = stats(Vec::new(), rejected.iter(), NetCounters { oversize: 3, ..NetCounters::default() });
        assert_eq!(shown["legs"], json!([]));
        assert_eq!(shown["rejected"], json!({ "bad_signature": 2, "replayed": 1 }));
        assert_eq!(shown["net"]["oversize"], 3);
    }
}
