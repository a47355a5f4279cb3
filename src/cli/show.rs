//! How the daemon's answers and events look to people: short, aligned, names instead of DIDs, states as words.
//!
//! Pure: JSON in, text out. Everything passes `text`, so that nobody's words reach the terminal as they are. A field
//! that is missing shows as `-`: an older daemon is no reason to show nothing.

mod events;
mod stats;

use std::collections::BTreeMap;

use serde_json::Value;

use super::text::{facts, safe, table};
use crate::civil::date_of;

pub use events::{event, over, step};
pub use stats::stats;

/// What contacts are called.
#[derive(Debug, Default)]
pub struct Names {
    called: BTreeMap<String, String>,
    own: Option<String>,
}

impl Names {
    /// From the answer to `contact.list`.
    pub fn of(contacts: &Value) -> Self {
        let all = list(contacts, "contacts").iter();
        let called = all.filter_map(|one| Some((one["did"].as_str()?.into(), one["name"].as_str()?.into()))).collect();
        Self { called, own: None }
    }

    /// The own DID, which stands in `status` and in every snapshot, becomes `you`.
    pub fn with_own(mut self, status: &Value) -> Self {
        self.own = status["did"].as_str().map(String::from);
        self
    }

    fn is_own(&self, did: &Value) -> bool {
        did.is_string() && did.as_str() == self.own.as_deref()
    }

    fn name<'a>(&'a self, did: &'a Value) -> &'a str {
        if self.is_own(did) {
            return "you";
        }
        let did = did.as_str().unwrap_or("-");
        self.called.get(did).map_or(did, String::as_str)
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
    line(&format!("accepted {}", word(&answer["call"]))) + &recorded_by(answer)
}

/// `telecon reject`
pub fn rejected(answer: &Value) -> String {
    line(&format!("rejected {}", word(&answer["call"])))
}

/// `telecon hangup`
pub fn hung_up(answer: &Value) -> String {
    line(&format!("hung up {}", word(&answer["call"])))
}

/// `telecon join`
pub fn joined(answer: &Value) -> String {
    line(&format!("joined {}", word(&answer["call"]))) + &recorded_by(answer)
}

/// A line for each who records the call that was entered.
fn recorded_by(answer: &Value) -> String {
    list(answer, "recorded_by").iter().map(|one| line(&format!("{} records this call", person(one)))).collect()
}

/// `telecon record start`: the directory alone, for scripts.
pub fn record_started(answer: &Value) -> String {
    line(&word(&answer["directory"]))
}

/// `telecon record stop`
pub fn record_stopped(answer: &Value) -> String {
    line(&match answer["directory"].as_str() {
        Some(directory) => format!("recorded in {directory}"),
        None => "stopped before there was any sound; nothing was recorded".into(),
    })
}

/// `telecon invite`
pub fn invited(answer: &Value) -> String {
    let call = word(&answer["call"]);
    line(&match list(answer, "invitees").len() {
        0 => format!("invited nobody to {call}: they are in it already"),
        1 => format!("invited 1 person to {call}"),
        count => format!("invited {count} people to {call}"),
    })
}

/// `telecon hold`
pub fn held(answer: &Value) -> String {
    line(&format!("{} is on hold", word(&answer["call"])))
}

/// `telecon resume`
pub fn resumed(answer: &Value) -> String {
    line(&format!("{} goes on", word(&answer["call"])))
}

/// `telecon dnd`
pub fn do_not_disturb(answer: &Value) -> String {
    line(&format!("do not disturb is {}", on_off(&answer["do_not_disturb"])))
}

fn on_off(value: &Value) -> &'static str {
    match value.as_bool() {
        Some(true) => "on",
        Some(false) => "off",
        None => "-",
    }
}

/// `telecon volume`
pub fn volume(answer: &Value) -> String {
    let (who, blocked) = (person(answer), &answer["audio_blocked"]);
    let again = if *blocked == true { format!("; telecon volume {who} on ends that") } else { String::new() };
    line(&format!("{who} is {}{again}", loudness(&answer["volume_percent"], blocked)))
}

fn loudness(percent: &Value, blocked: &Value) -> String {
    if *blocked == true { "not heard".into() } else { format!("heard at {} %", word(percent)) }
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
    let pushed = if answer["waits_for_talk"] == true { " until you push to talk" } else { "" };
    format!("microphone {}{pushed}, speaker {}", word(&answer["muted"]), word(&answer["deafened"]))
}

/// `telecon calls`
pub fn calls(answer: &Value) -> String {
    let state = |call: &Value| match call["state"].as_str() {
        Some("past") => "can be joined".into(),
        _ => spoken(&call["state"]),
    };
    let row = |call: &Value| vec![word(&call["call"]), state(call), caller(call), with(call)];
    let rows: Vec<_> = list(answer, "calls").iter().chain(list(answer, "past")).map(row).collect();
    if rows.is_empty() {
        return line("no calls");
    }
    let problems = list(answer, "calls").iter().flat_map(problems).map(|problem| line(&problem));
    table(&["CALL", "STATE", "FROM", "WITH"], &rows) + &problems.collect::<String>()
}

/// To whom no connection comes about, with cause and remedy.
fn problems(call: &Value) -> Vec<String> {
    let named = |one: &Value| Some(format!("{}: {}", person(one), one["problem"].as_str()?));
    list(call, "participants").iter().filter_map(named).collect()
}

fn people(call: &Value) -> String {
    list(call, "participants").iter().map(person).collect::<Vec<_>>().join(", ")
}

/// Who made the call, by name where one is known.
fn caller(call: &Value) -> String {
    if call["from_name"].is_string() {
        return word(&call["from_name"]);
    }
    let inviter = list(call, "participants").iter().find(|one| one["did"] == call["from"]);
    match (inviter, call["state"].as_str()) {
        (Some(inviter), _) => person(inviter),
        // Everybody else is among the participants.
        (None, Some("outgoing" | "active" | "on_hold" | "past")) => "you".into(),
        (None, _) => word(&call["from"]),
    }
}

/// Everybody else, with their states; these say nothing before the call is accepted, as nobody is connected to yet.
fn with(call: &Value) -> String {
    if matches!(call["state"].as_str(), Some("incoming" | "past")) {
        return people(call);
    }
    let participants = list(call, "participants").iter().map(|one| {
        let muted = match (&one["muted"], &one["speaking"]) {
            (Value::Bool(true), _) => ", muted",
            (_, Value::Bool(true)) => ", speaking",
            _ => "",
        };
        let deafened = if one["deafened"] == true { ", deafened" } else { "" };
        let heard = match (&one["audio_blocked"], one["volume_percent"].as_u64()) {
            (Value::Bool(true), _) => ", not heard".into(),
            (_, Some(percent)) if percent != 100 => format!(", {percent} %"),
            _ => String::new(),
        };
        let records = if one["recording"] == true { ", records" } else { "" };
        let recorded_here = call["recording"] == true && call["state"] == "active" && one["state"] == "joined";
        let left_out = if recorded_here && one["recorded"] == false { ", not recorded yet" } else { "" };
        let decline = &one["decline"];
        let why = if decline.is_object() { format!(": {}", reason(decline)) } else { String::new() };
        format!("{} ({}{why}{records}{left_out}{muted}{deafened}{heard})", person(one), spoken(&one["state"]))
    });
    participants.collect::<Vec<_>>().join(", ")
}

/// A no in words: `not now, "in an hour?"`.
fn reason(decline: &Value) -> String {
    match decline["text"].as_str() {
        Some(text) => format!("{}, \"{text}\"", spoken(&decline["reason"])),
        None => spoken(&decline["reason"]),
    }
}

/// `telecon status`
pub fn status(answer: &Value) -> String {
    let audio = &answer["audio"];
    let end = |value: &Value, none: &str| if value == "" { none.to_owned() } else { word(value) };
    let (input, output) = (end(&audio["input"], "silence"), end(&audio["output"], "nowhere"));
    let mut sound = format!("{}: {input} to {output}", word(&audio["backend"]));
    let processing: Vec<_> = list(audio, "processing").iter().map(spoken).collect();
    if let Some(ring) = audio["ring"].as_str() {
        sound = format!("{sound}, rings on {ring}");
    }
    if audio["realtime"] == true {
        sound.push_str(", real-time");
    }
    if !processing.is_empty() {
        sound = format!("{sound}\nmicrophone with {}", processing.join(", "));
    }
    if let Some(problem) = audio["problem"].as_str() {
        let idle = audio["capturing"] != true && audio["playing"] != true && answer["active_call"].is_null();
        let of_old = if idle { " (when it was last tried; the next call tries again)" } else { "" };
        sound = format!("{sound}\n{problem}{of_old}");
    }
    let active = match &answer["active_call"] {
        Value::Null => "none".into(),
        call => {
            let active = format!("{} {}, with {}", short_id(&call["call"]), spoken(&call["state"]), with(call));
            std::iter::once(active).chain(problems(call)).collect::<Vec<_>>().join("\n")
        }
    };
    let mut all = vec![
        ("did", word(&answer["did"])),
        ("peer id", word(&answer["peer_id"])),
        (
            "version",
            format!("{}, up {}", word(&answer["version"]), answer["uptime_s"].as_u64().map_or("-".into(), duration)),
        ),
        ("addresses", lines(answer, "listen")),
        ("peers", word(&answer["peers"])),
        ("call", active),
    ];
    let held = list(answer, "held").iter().map(|call| format!("{}, with {}", short_id(&call["call"]), with(call)));
    let ringing =
        list(answer, "pending").iter().map(|call| format!("{} from {}", short_id(&call["call"]), caller(call)));
    let missed = match answer["missed"].as_u64() {
        Some(count @ 1..) => format!("{count}; telecon history --seen shows them and marks them as seen"),
        Some(0) | None => String::new(),
    };
    let more = [("on hold", held.collect::<Vec<_>>().join("\n")), ("ringing", ringing.collect::<Vec<_>>().join("\n"))];
    all.extend(more.into_iter().chain([("missed", missed)]).filter(|(_, text)| !text.is_empty()));
    let recording = &answer["recording"];
    if recording.is_object() {
        let paused = if recording["paused"] == true { " (paused, on hold)" } else { "" };
        all.push((
            "recording",
            format!("{} into {}{paused}", short_id(&recording["call"]), word(&recording["directory"])),
        ));
    }
    if let Some(problem) = answer["recording_problem"].as_str() {
        all.push(("recording", problem.to_owned()));
    }
    all.push(("sound", sound));
    all.extend(answer["clock"].as_str().map(|hint| ("clock", hint.to_owned())));
    let quiet = if answer["do_not_disturb"] == true { ", do not disturb" } else { "" };
    all.push(("switches", media_words(answer) + quiet));
    facts(&all)
}

fn duration(seconds: u64) -> String {
    match seconds {
        s @ ..60 => format!("{s} s"),
        s @ ..3600 => format!("{} min", s / 60),
        s @ ..86_400 => format!("{} h {} min", s / 3600, s % 3600 / 60),
        s => format!("{} days {} h", s / 86_400, s % 86_400 / 3600),
    }
}

/// `telecon devices`
pub fn devices(answer: &Value) -> String {
    let devices = list(answer, "devices");
    if devices.is_empty() {
        return line("no sound devices; calls work, but nobody is heard");
    }
    let row = |one: &Value| {
        let marks = [("default", "default"), ("in_use", "in use"), ("monitor", "what a speaker plays")];
        let marks: Vec<&str> = marks.iter().filter(|(field, _)| one[*field] == true).map(|(_, mark)| *mark).collect();
        let description = if one["description"] == one["name"] { "" } else { &word(&one["description"]) };
        vec![word(&one["direction"]), word(&one["name"]), description.to_owned(), marks.join(", ")]
    };
    table(&["DIRECTION", "NAME", "DESCRIPTION", ""], &devices.iter().map(row).collect::<Vec<_>>())
}

/// `telecon device`
pub fn selected(answer: &Value) -> String {
    let name = match answer["name"].as_str() {
        Some("") => "the same as output".into(),
        Some(_) | None => word(&answer["name"]),
    };
    line(&format!("{} is {name}", word(&answer["direction"])))
}

/// `telecon test speaker`
pub fn speaker_tested(answer: &Value) -> String {
    let problem = answer["problem"].as_str().map_or(String::new(), line);
    problem + &line(&format!("four tones are played through {}", word(&answer["output"])))
}

/// `telecon test mic`, when the microphone is open.
pub fn mic_test_begun(input: &Value, seconds: u32) -> String {
    line(&format!("say something: {} listens for {seconds} s, then you hear it", word(input)))
}

/// The level, as a line that the next one overwrites.
pub fn meter(test: &Value) -> String {
    const WIDTH: usize = 40;
    let level_db = test["level_db"].as_i64().unwrap_or(-120);
    // From -60 dBFS to full scale.
    let full = usize::try_from((level_db + 60).clamp(0, 60)).unwrap_or(0) * WIDTH / 60;
    let bar = "#".repeat(full) + &" ".repeat(WIDTH - full);
    safe(&format!("{:<9} [{bar}] {level_db:>4} dB", word(&test["stage"]))).into_owned()
}

/// `telecon test mic`, at its end.
pub fn mic_test_over(answer: &Value) -> String {
    let problem = answer["problem"].as_str().map_or(String::new(), line);
    let heard = match (answer["loudest_db"].as_i64(), answer["heard"] == true) {
        (None, _) => return problem + &line("the microphone test has ended before it began; a call may have come"),
        (Some(loudest), true) => format!("the loudest was {loudest} dB"),
        (Some(_), false) => "nothing was heard; is the microphone muted? `telecon devices` lists others".into(),
    };
    problem + &line(&heard)
}

/// `telecon history`
pub fn history(answer: &Value) -> String {
    let calls = list(answer, "history");
    if calls.is_empty() {
        return line("no calls");
    }
    let row = |call: &Value| {
        let who = match call["direction"].as_str() {
            Some("out") => format!("to {}", people(call)),
            Some(_) | None => {
                let others = list(call, "participants").iter().filter(|one| one["did"] != call["from"]);
                let others: Vec<_> = others.map(person).collect();
                let with = if others.is_empty() { String::new() } else { format!(", with {}", others.join(", ")) };
                let stranger = if call["known"] == false { " (not a contact)" } else { "" };
                format!("from {}{stranger}{with}", caller(call))
            }
        };
        let what = match (call["direction"].as_str(), call["outcome"].as_str()) {
            (_, None) => "goes on".into(),
            (Some("in"), Some("cancelled")) => "missed (taken back)".into(),
            (_, Some(_)) => spoken(&call["outcome"]),
        };
        vec![date(&call["started_ms"]), short_id(&call["call"]), who, what, lasted(call)]
    };
    table(&["BEGAN", "CALL", "WHO", "WHAT", "LASTED"], &calls.iter().map(row).collect::<Vec<_>>())
}

/// From when somebody was there until the end.
fn lasted(call: &Value) -> String {
    match (call["joined_ms"].as_u64(), call["ended_ms"].as_u64()) {
        (Some(joined), Some(ended)) => duration(ended.saturating_sub(joined) / 1000),
        _ => String::new(),
    }
}

/// Day and minute, UTC.
fn date(ms: &Value) -> String {
    let Some(ms) = ms.as_u64() else { return "-".into() };
    let (days, s) = (ms / 86_400_000, ms / 1000 % 86_400);
    let (year, month, day) = date_of(days);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}Z", s / 3600, s / 60 % 60)
}

/// `telecon contacts list`
pub fn contacts(answer: &Value) -> String {
    let contacts = list(answer, "contacts");
    if contacts.is_empty() {
        return line("no contacts; add one with: telecon contacts add DID NAME");
    }
    let row = |one: &Value| {
        let heard = match (&one["audio_blocked"], one["volume_percent"].as_u64()) {
            (Value::Bool(true), _) => "off".into(),
            (_, Some(percent)) => format!("{percent} %"),
            _ => "-".into(),
        };
        vec![word(&one["name"]), word(&one["did"]), word(&one["policy"]), heard, word(&one["address"])]
    };
    table(&["NAME", "DID", "CALLS", "VOLUME", "ADDRESS"], &contacts.iter().map(row).collect::<Vec<_>>())
}

/// `telecon contacts allow` and its like.
pub fn policy(answer: &Value) -> String {
    let how = match answer["policy"].as_str() {
        Some("allow") => "are taken without asking",
        Some("ask") => "ring",
        Some("block") => "are not taken, without a word to the caller",
        Some(_) | None => "-",
    };
    line(&format!("calls from {} {how}", word(&answer["name"])))
}

/// `telecon contacts import`
pub fn imported(answer: &Value) -> String {
    let counts = ["added", "changed", "unchanged"].map(|key| format!("{} {key}", word(&answer[key])));
    let renamed = list(answer, "renamed").iter();
    let renamed = renamed.map(|one| line(&format!("{} is now {}", word(&one["from"]), word(&one["to"]))));
    line(&counts.join(", ")) + &renamed.collect::<String>()
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

#[cfg(test)]
mod tests;
