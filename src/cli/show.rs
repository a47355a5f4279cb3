//! How the daemon's answers and events look to people: short, aligned, names instead of DIDs, states as words.
//!
//! Pure: JSON in, text out. Everything passes `text`, so that nobody's words reach the terminal as they are. A field
//! that is missing shows as `-`: an older daemon is no reason to show nothing.

use std::collections::BTreeMap;

use serde_json::Value;

use super::text::{facts, safe, table};

/// What contacts are called.
#[derive(Debug, Default)]
pub struct Names(BTreeMap<String, String>);

impl Names {
    /// From the answer to `contact.list`.
    pub fn of(contacts: &Value) -> Self {
        let all = list(contacts, "contacts").iter();
        Self(all.filter_map(|one| Some((one["did"].as_str()?.into(), one["name"].as_str()?.into()))).collect())
    }

    /// The own DID, which stands in `status` and in every snapshot, becomes `you`.
    pub fn with_own(mut self, status: &Value) -> Self {
        if let Some(did) = status["did"].as_str() {
            self.0.insert(did.into(), "you".into());
        }
        self
    }

    fn name<'a>(&'a self, did: &'a Value) -> &'a str {
        let did = did.as_str().unwrap_or("-");
        self.0.get(did).map_or(did, String::as_str)
    }
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

fn word(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".into(),
        other => other.to_string(),
    }
}

/// A state or a reason in words: `on_hold` becomes `on hold`.
fn spoken(value: &Value) -> String {
    word(value).replace('_', " ")
}

/// A participant's name, or its DID.
fn person(value: &Value) -> String {
    if value["name"].is_string() { word(&value["name"]) } else { word(&value["did"]) }
}

/// Enough of a call's id to name it.
fn short_id(call: &Value) -> String {
    word(call).chars().take(8).collect()
}

fn line(text: &str) -> String {
    safe(text).into_owned() + "\n"
}

/// `telecon id`
pub fn identity(answer: &Value) -> String {
    facts(&[
        ("did", word(&answer["did"])),
        ("peer id", word(&answer["peer_id"])),
        ("addresses", lines(answer, "listen")),
    ])
}

fn lines(answer: &Value, key: &str) -> String {
    let all: Vec<String> = list(answer, key).iter().map(word).collect();
    if all.is_empty() { "-".into() } else { all.join("\n") }
}

/// `telecon connect`
pub fn connected(answer: &Value) -> String {
    line(&format!("connected to {}", word(&answer["peer_id"])))
}

/// `telecon call`: the id alone, for scripts.
pub fn call_id(answer: &Value) -> String {
    line(&word(&answer["call"]))
}

/// `telecon accept`
pub fn accepted(answer: &Value) -> String {
    line(&format!("accepted {}", word(&answer["call"])))
}

/// `telecon reject`
pub fn rejected(answer: &Value) -> String {
    line(&format!("rejected {}", word(&answer["call"])))
}

/// `telecon hangup`
pub fn hung_up(answer: &Value) -> String {
    line(&format!("hung up {}", word(&answer["call"])))
}

/// `telecon mute` and its like.
pub fn media(answer: &Value) -> String {
    line(&media_words(answer))
}

fn media_words(answer: &Value) -> String {
    let word = |value: &Value| match value.as_bool() {
        Some(true) => "off",
        Some(false) => "on",
        None => "-",
    };
    format!("microphone {}, speaker {}", word(&answer["muted"]), word(&answer["deafened"]))
}

/// `telecon calls`
pub fn calls(answer: &Value) -> String {
    let calls = list(answer, "calls");
    if calls.is_empty() {
        return line("no calls");
    }
    let row = |call: &Value| vec![word(&call["call"]), spoken(&call["state"]), caller(call), with(call)];
    table(&["CALL", "STATE", "FROM", "WITH"], &calls.iter().map(row).collect::<Vec<_>>())
}

/// Who made the call, by name where one is known.
fn caller(call: &Value) -> String {
    if call["from_name"].is_string() {
        return word(&call["from_name"]);
    }
    let inviter = list(call, "participants").iter().find(|one| one["did"] == call["from"]);
    match (inviter, call["state"].as_str()) {
        (Some(inviter), _) => person(inviter),
        (None, Some("outgoing" | "active")) => "you".into(),
        (None, _) => word(&call["from"]),
    }
}

/// Everybody else, with their states; these say nothing before the call is accepted, as nobody is connected to yet.
fn with(call: &Value) -> String {
    let rings = call["state"] == "incoming";
    let participants = list(call, "participants").iter().map(|one| {
        if rings {
            return person(one);
        }
        let muted = if one["muted"] == true { ", muted" } else { "" };
        format!("{} ({}{muted})", person(one), spoken(&one["state"]))
    });
    participants.collect::<Vec<_>>().join(", ")
}

/// `telecon status`
pub fn status(answer: &Value) -> String {
    let audio = &answer["audio"];
    let end = |value: &Value, none: &str| if value == "" { none.to_owned() } else { word(value) };
    let (input, output) = (end(&audio["input"], "silence"), end(&audio["output"], "nowhere"));
    let mut sound = format!("{}: {input} to {output}", word(&audio["backend"]));
    if let Some(problem) = audio["problem"].as_str() {
        sound = format!("{sound}\n{problem}");
    }
    let active = match &answer["active_call"] {
        Value::Null => "none".into(),
        call => format!("{} {}, with {}", short_id(&call["call"]), spoken(&call["state"]), with(call)),
    };
    let mut all = vec![
        ("did", word(&answer["did"])),
        ("peer id", word(&answer["peer_id"])),
        ("version", format!("{}, up {}", word(&answer["version"]), uptime(&answer["uptime_s"]))),
        ("addresses", lines(answer, "listen")),
        ("peers", word(&answer["peers"])),
        ("call", active),
    ];
    let ringing =
        list(answer, "pending").iter().map(|call| format!("{} from {}", short_id(&call["call"]), caller(call)));
    let ringing = ringing.collect::<Vec<_>>().join("\n");
    if !ringing.is_empty() {
        all.push(("ringing", ringing));
    }
    all.push(("sound", sound));
    all.push(("switches", media_words(answer)));
    facts(&all)
}

fn uptime(seconds: &Value) -> String {
    match seconds.as_u64() {
        None => "-".into(),
        Some(s) if s < 60 => format!("{s} s"),
        Some(s) if s < 3600 => format!("{} min", s / 60),
        Some(s) if s < 86_400 => format!("{} h {} min", s / 3600, s % 3600 / 60),
        Some(s) => format!("{} days {} h", s / 86_400, s % 86_400 / 3600),
    }
}

/// `telecon stats`
pub fn stats(answer: &Value) -> String {
    let legs = list(answer, "legs");
    let heading = [
        "WHO",
        "STATE",
        "RTT ms",
        "JITTER ms",
        "LOSS %",
        "CONCEALED %",
        "BUFFER ms",
        "DELAY ms",
        "SENT kbit/s",
        "RECV kbit/s",
        "LEVEL dB",
        "CONNECTED ms",
    ];
    let figures = [
        "rtt_ms",
        "jitter_ms",
        "loss_pct",
        "concealed_pct",
        "jitter_buffer_ms",
        "playout_delay_ms",
        "sent_kbps",
        "recv_kbps",
        "level_db",
        "connected_ms",
    ];
    let row = |leg: &Value| {
        let start = [person(leg), spoken(&leg["state"])];
        start.into_iter().chain(figures.iter().map(|key| figure(&leg[*key]))).collect()
    };
    let mut text = match legs.is_empty() {
        true => line("nobody is connected"),
        false => table(&heading, &legs.iter().map(row).collect::<Vec<_>>()),
    };
    let dropped = answer["rejected"].as_object().into_iter().flatten();
    let dropped: Vec<String> = dropped.map(|(reason, count)| format!("{count} {}", reason.replace('_', " "))).collect();
    if !dropped.is_empty() {
        text.push_str(&line(&format!("dropped signals: {}", dropped.join(", "))));
    }
    text
}

fn figure(value: &Value) -> String {
    match value.as_f64() {
        Some(number) if number.fract() == 0.0 => format!("{number:.0}"),
        Some(number) => format!("{number:.1}"),
        None => word(value),
    }
}

/// `telecon devices`
pub fn devices(answer: &Value) -> String {
    let devices = list(answer, "devices");
    if devices.is_empty() {
        return line("no sound devices; calls work, but nobody is heard");
    }
    let row = |one: &Value| {
        let default = if one["default"] == true { "default" } else { "" };
        let description = if one["description"] == one["name"] { "" } else { &word(&one["description"]) };
        vec![word(&one["direction"]), word(&one["name"]), description.to_owned(), default.into()]
    };
    table(&["DIRECTION", "NAME", "DESCRIPTION", ""], &devices.iter().map(row).collect::<Vec<_>>())
}

/// `telecon contacts list`
pub fn contacts(answer: &Value) -> String {
    let contacts = list(answer, "contacts");
    if contacts.is_empty() {
        return line("no contacts; add one with: telecon contacts add DID NAME");
    }
    let row = |one: &Value| vec![word(&one["name"]), word(&one["did"]), word(&one["address"])];
    table(&["NAME", "DID", "ADDRESS"], &contacts.iter().map(row).collect::<Vec<_>>())
}

/// `telecon contacts add`
pub fn added(answer: &Value) -> String {
    let what =
        if answer["name"].is_string() { format!("{} is a contact", word(&answer["name"])) } else { "added".into() };
    line(&what)
}

/// `telecon contacts remove`
pub fn removed(_: &Value) -> String {
    line("removed")
}

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
    match event["event"].as_str() {
        Some("participant_changed") => line(&format!("{} {}", names.name(&event["did"]), spoken(&event["state"]))),
        // The id was printed, and how it ended is the error that follows.
        Some("call_offered" | "call_ended") => String::new(),
        Some(_) | None => line(&happened(event, names)),
    }
}

/// How a followed call ended without anybody being there.
pub fn over(event: &Value) -> String {
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
    let did = names.name(&event["did"]);
    let all = |key: &str| list(event, key).iter().map(|did| names.name(did)).collect::<Vec<_>>().join(", ");
    match event["event"].as_str() {
        Some("call_offered") => format!("{call} calling {}", all("invitees")),
        Some("call_rang") => {
            let stranger = if event["known"] == false { " (not a contact)" } else { "" };
            format!("{call} rings: {}{stranger}, with {}", names.name(&event["from"]), all("participants"))
        }
        Some("call_joined") => format!("{call} you are in"),
        Some("call_ended") => format!("{call} ended: {}", spoken(&event["reason"])),
        Some("participant_changed") => format!("{call} {did} {}", spoken(&event["state"])),
        Some("participant_media") => format!("{call} {did} {}", media_words(event)),
        Some("media_changed") => media_words(event),
        Some(other) => format!("{other} {event}"),
        None => event.to_string(),
    }
}

#[cfg(test)]
mod tests;
