//! Events as sentences, for `telecon watch` and for a call that is followed.

use serde_json::Value;

use super::{Names, line, list, loudness, media_words, on_off, reason, short_id, spoken, word};

/// The rest stands in `calls` and `status`.
const NO_CONNECTION: &str = "no audio connection comes about: telecon calls says what can be done";

/// One event of `telecon watch`: time (UTC), seq, what happened.
pub fn event(event: &Value, names: &Names) -> String {
    let time = event["time_ms"].as_u64().map_or("-".into(), |ms| {
        let s = ms / 1000 % 86_400;
        format!("{:02}:{:02}:{:02}Z", s / 3600, s / 60 % 60, s % 60)
    });
    line(&format!("{time} {:>5}  {}", word(&event["seq"]), happened(event, names)))
}

/// One event of a call that is followed.
pub fn step(event: &Value, names: &Names) -> String {
    let did = names.name(&event["did"]);
    match event["event"].as_str() {
        // Why came just before it.
        Some("participant_changed") if event["state"] == "declined" => String::new(),
        Some("participant_changed") => line(&format!("{did} {}", spoken(&event["state"]))),
        Some("participant_declined") => line(&format!("{did} {}", declined(event))),
        // The id was printed, and how it ended is the error that follows.
        Some("call_offered" | "call_ended") => String::new(),
        // Each participant tells its switches once when it comes.
        Some("participant_media") if event["on_hold"] != true && event["recording"] != true => String::new(),
        Some("no_connection") => line(&format!("{did}: {NO_CONNECTION}")),
        Some(_) | None => line(&happened(event, names)),
    }
}

/// How a followed call ended without anybody being there.
pub fn over(event: &Value) -> String {
    if event["event"] != "call_ended" {
        return format!("the call was accepted, but {NO_CONNECTION} (it is tried on, until you hang up)");
    }
    match event["reason"].as_str() {
        Some("declined") => "the call was declined".into(),
        Some("busy") => "busy: in another call".into(),
        Some("no_answer") => "nobody answered".into(),
        Some("unreachable") => "unreachable: no device answered; is the other daemon running and connected?".into(),
        Some("gone" | "empty") => "the call was accepted, but no audio connection came about".into(),
        Some("hung_up") => "the call was hung up before anybody was there".into(),
        Some("stopped") => "the daemon stopped".into(),
        Some("answered_elsewhere") => "the call moved to another device".into(),
        Some(_) | None => format!("the call is over: {}", spoken(&event["reason"])),
    }
}

fn happened(event: &Value, names: &Names) -> String {
    let call = short_id(&event["call"]);
    let (did, from) = (names.name(&event["did"]), names.name(&event["from"]));
    let all = |key: &str| list(event, key).iter().map(|did| names.name(did)).collect::<Vec<_>>().join(", ");
    let stranger = if event["known"] == false { " (not a contact)" } else { "" };
    let others = list(event, "participants").iter().filter(|did| **did != event["from"] && !names.is_own(did));
    let others = others.map(|did| names.name(did)).collect::<Vec<_>>().join(", ");
    let with = if others.is_empty() { others } else { format!(", with {others}") };
    match event["event"].as_str() {
        Some("call_offered") => format!("{call} calling {}", all("invitees")),
        Some("call_rang") => format!("{call} rings: {from}{stranger}{with}"),
        Some("call_silenced") if event["known"] == false => {
            format!(
                "{call} did not ring (not a contact: these ring once in half a minute, and not while do not disturb is on): {from}{with}"
            )
        }
        Some("call_silenced") => format!("{call} did not ring, do not disturb is on: {from}{with}"),
        Some("call_joined") => format!("{call} you are in"),
        Some("call_invited") => format!("{call} you invited {}", all("invitees")),
        Some("call_held") => format!("{call} is on hold"),
        Some("call_resumed") => format!("{call} goes on"),
        Some("call_interrupted") => format!("{call} was interrupted when the daemon ended; go back with telecon join"),
        Some("call_ended") => format!("{call} ended: {}", spoken(&event["reason"])),
        Some("participant_changed") => format!("{call} {did} {}", spoken(&event["state"])),
        Some("no_connection") => format!("{call} {did}: {NO_CONNECTION}"),
        Some("participant_declined") => format!("{call} {did} {}", declined(event)),
        Some("participant_media") => {
            let hold = if event["on_hold"] == true { ", has put the call on hold" } else { "" };
            let records = if event["recording"] == true { ", records the call" } else { "" };
            format!("{call} {did}: {}{hold}{records}", media_words(event))
        }
        Some("media_changed") => media_words(event),
        Some("do_not_disturb_changed") => format!("do not disturb {}", on_off(&event["on"])),
        Some("participant_speaking") => {
            let words = match (did == "you", event["speaking"] == true) {
                (true, true) => "speak",
                (true, false) => "are silent",
                (false, true) => "speaks",
                (false, false) => "is silent",
            };
            format!("{call} {did} {words}")
        }
        Some("recording_started") => format!("{call} is recorded here"),
        Some("recording_ended") => format!("{call} is not recorded here any more"),
        Some("recording_failed") => format!("{call} recording failed: {}", word(&event["problem"])),
        Some("audio_changed") => {
            let (input, output) = (word(&event["input"]), word(&event["output"]));
            let problem = event["problem"].as_str().map_or(String::new(), |problem| format!("; {problem}"));
            format!("sound: {input} to {output}{problem}")
        }
        Some("talked_while_muted") => "you are talking, and your microphone is off".into(),
        Some("contacts_changed") => "the contacts changed".into(),
        Some("volume_changed") => format!("{did} is {}", loudness(&event["percent"], &event["blocked"])),
        Some("events_marked") => format!("seen up to {}", word(&event["up_to"])),
        Some(other) => format!("{other} {event}"),
        None => event.to_string(),
    }
}

/// A no of the invitee that the sentence is about.
fn declined(event: &Value) -> String {
    match (event["reason"].as_str(), event["text"].as_str()) {
        (Some("declined"), None) => "declined".into(),
        (Some("declined"), Some(text)) => format!("declined: \"{text}\""),
        _ => format!("declined: {}", reason(event)),
    }
}
