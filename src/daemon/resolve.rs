//! What a user typed becomes what was meant: DIDs and contact names become DIDs, call ids and their prefixes become calls.
//!
//! Every failure is one sentence with a remedy and a stable code. What the user typed is shown back escaped and shortened.

use std::fmt::Write;

use crate::{
    control::wire::Failure,
    proto::{
        id::{CallId, Did},
        io::{CallState, CallView, PastCall},
    },
    store::{Contact, ContactName},
    text::cut,
};

/// Longest piece of a user's text in an answer, in characters.
const MAX_SHOWN_CHARS: usize = 64;

/// A user's text in quotes, escaped and shortened.
pub(super) fn shown(text: &str) -> String {
    let mut shown = String::from("\"");
    for c in cut(text, MAX_SHOWN_CHARS).chars() {
        if c == '"' { shown.push(c) } else { shown.extend(c.escape_debug()) }
    }
    shown + "\""
}

/// Whom a call invites: without doubles, in the order given, never the own DID.
pub(super) fn invitees(who: &[String], own: &Did, contacts: &[Contact]) -> Result<Vec<Did>, Failure> {
    let mut all = Vec::new();
    for text in who {
        let did = person(text, contacts)?;
        if did == *own {
            return Err(Failure::new("bad_invitees", "that is your own DID; name somebody else to call"));
        }
        if !all.contains(&did) {
            all.push(did);
        }
    }
    if all.is_empty() {
        return Err(Failure::new("bad_invitees", "nobody to call; name a DID or a contact"));
    }
    Ok(all)
}

/// One person: a DID, or the name of a contact in any case.
pub(super) fn person(text: &str, contacts: &[Contact]) -> Result<Did, Failure> {
    let text = text.trim();
    if text.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("did:")) {
        return did(text);
    }
    let folded = text.to_lowercase();
    if let Some(contact) = contacts.iter().find(|contact| contact.name.folded() == folded) {
        return Ok(contact.did.clone());
    }
    let mut message = format!("no contact is called {}", shown(text));
    match nearest(&folded, contacts) {
        // Writing to a String cannot fail.
        Some(name) => drop(write!(message, "; did you mean {name}?")),
        None => message.push_str("; add one with `telecon contacts add DID NAME`, or give a DID"),
    }
    Err(Failure::new("unknown_contact", message))
}

/// A DID that can be called.
pub(super) fn did(text: &str) -> Result<Did, Failure> {
    let parsed = text.trim().parse::<Did>();
    parsed.map_err(|error| Failure::new("bad_did", format!("{} is no DID that can be called: {error}", shown(text))))
}

fn nearest<'a>(folded: &str, contacts: &'a [Contact]) -> Option<&'a ContactName> {
    let patience = (folded.chars().count() / 3).clamp(1, 3);
    let distances =
        contacts.iter().map(|contact| (strsim::damerau_levenshtein(folded, &contact.name.folded()), &contact.name));
    distances.filter(|(distance, _)| *distance <= patience).min().map(|(_, name)| name)
}

/// What the user wants with the call, which tells what an omitted id can mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    /// Take one that rings.
    Accept,
    /// Refuse one that rings.
    Reject,
    /// Leave the active one or take an offer back; else leave the only one on hold, or refuse the only one that rings.
    Hangup,
    /// Go back to one that was left or missed.
    Join,
    /// Ask people into the active one, else into the only one on hold.
    Invite,
    /// Put the active one on hold.
    Hold,
    /// Take one from hold.
    Resume,
    /// Record the active one.
    Record,
    /// Look at one.
    Show,
}

/// A call that an id can mean, and how well the verb fits it: 0 best, `None` not at all.
type Candidate = (CallId, Option<u8>);

/// The call that is meant: by its id, a unique prefix of it, or as the only one that the verb fits best.
pub(super) fn call(text: Option<&str>, verb: Verb, calls: &[CallView], past: &[PastCall]) -> Result<CallId, Failure> {
    let present = calls.iter().map(|view| (view.call, verb.fits(view.state)));
    let past = past.iter().filter(|_| verb == Verb::Join).map(|past| (past.call, Some(0)));
    let all: Vec<Candidate> = present.chain(past).collect();
    let Some(text) = text else {
        let is_in_one = |view: &CallView| matches!(view.state, CallState::Active | CallState::Outgoing);
        let nothing = match verb {
            Verb::Join if calls.iter().any(is_in_one) => {
                "you are in the call already, and no other one was left or missed"
            }
            _ => verb.nothing(),
        };
        return best(&all).ok_or_else(|| Failure::new("no_such_call", nothing))?;
    };
    let prefix = text.trim().to_ascii_lowercase();
    let named = |(call, _): &&Candidate| !prefix.is_empty() && call.to_string().starts_with(&prefix);
    let found: Vec<Candidate> = all.iter().filter(named).copied().collect();
    match found[..] {
        [(call, _)] => Ok(call),
        [] => {
            Err(Failure::new("no_such_call", format!("there is no call {}; `telecon calls` lists them", shown(text))))
        }
        [..] => best(&found).unwrap_or_else(|| Err(ambiguous(&found))),
    }
}

/// The only candidate that fits best; `None`: none fits at all.
fn best(all: &[Candidate]) -> Option<Result<CallId, Failure>> {
    let rank = all.iter().filter_map(|(_, fits)| *fits).min()?;
    let fitting: Vec<Candidate> = all.iter().filter(|(_, fits)| *fits == Some(rank)).copied().collect();
    Some(match fitting[..] {
        [(call, _)] => Ok(call),
        [..] => Err(ambiguous(&fitting)),
    })
}

fn ambiguous(calls: &[Candidate]) -> Failure {
    let ids: Vec<_> = calls.iter().take(4).map(|(call, _)| call.to_string()).collect();
    let more = if calls.len() > ids.len() { ", …" } else { "" };
    let message = format!(
        "more than one call can be meant; name one of {}{more} (`telecon calls` shows whose they are)",
        ids.join(", ")
    );
    Failure::new("ambiguous_call", message)
}

impl Verb {
    fn fits(self, state: CallState) -> Option<u8> {
        match (self, state) {
            (Self::Show, _) => Some(0),
            (Self::Accept | Self::Reject, CallState::Incoming) => Some(0),
            (Self::Hangup | Self::Invite | Self::Hold | Self::Record, CallState::Active | CallState::Outgoing) => {
                Some(0)
            }
            (Self::Resume, CallState::OnHold) => Some(0),
            (Self::Hangup | Self::Invite, CallState::OnHold) => Some(1),
            (Self::Hangup, CallState::Incoming) => Some(2),
            (Self::Accept | Self::Reject, CallState::Active | CallState::Outgoing | CallState::OnHold)
            | (Self::Invite, CallState::Incoming)
            | (Self::Hold | Self::Record, CallState::Incoming | CallState::OnHold)
            | (Self::Resume, CallState::Incoming | CallState::Active | CallState::Outgoing)
            | (Self::Join, _) => None,
        }
    }

    fn nothing(self) -> &'static str {
        match self {
            Self::Accept => "no call is ringing, so there is nothing to accept",
            Self::Reject => "no call is ringing, so there is nothing to reject",
            Self::Hangup => "there is no call to hang up",
            Self::Join => "no call was left or missed within the last hour, so there is none to join",
            Self::Invite => "there is no call to invite anybody into; make one with `telecon call WHO`",
            Self::Hold => "there is no active call to put on hold",
            Self::Resume => "no call is on hold, so there is none to resume",
            Self::Record => "there is no active call to record; `telecon resume` takes one from hold",
            Self::Show => "there is no call; make one with `telecon call WHO`",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::views::samples::{call_view, contact, did_of};

    fn code<T: std::fmt::Debug>(result: Result<T, Failure>) -> String {
        result.unwrap_err().code
    }

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn names_in_any_case_and_dids_become_invitees_without_doubles() {
        let (own, bob, carol) = (did_of(1), did_of(2), did_of(3));
        let contacts = [contact(2, "Bob"), contact(3, "Änne")];
        let who = texts(&["bob", carol.as_str(), "BOB ", "änne"]);
        assert_eq!(invitees(&who, &own, &contacts), Ok(vec![bob, carol]));
    }

    #[test]
    fn the_own_did_and_nobody_are_refused() {
        let own = did_of(1);
        assert_eq!(code(invitees(&texts(&[own.as_str()]), &own, &[])), "bad_invitees");
        assert_eq!(code(invitees(&texts(&["me"]), &own, &[contact(1, "me")])), "bad_invitees");
        assert_eq!(code(invitees(&[], &own, &[])), "bad_invitees");
    }

    #[test]
    fn an_unknown_name_suggests_the_nearest_one_only_when_it_is_near() {
        let contacts = [contact(2, "Robert"), contact(3, "Carol")];
        let near = person("Robret", &contacts).unwrap_err();
        assert_eq!(near.code, "unknown_contact");
        assert!(near.message.contains("did you mean Robert?"), "{near}");
        let far = person("x", &contacts).unwrap_err();
        assert!(far.message.contains("telecon contacts add"), "{far}");
    }

    #[test]
    fn a_broken_did_is_told_with_its_cause_and_without_raw_control_characters() {
        assert_eq!(code(person("did:web:example.org", &[])), "bad_did");
        let hostile = format!("did:key:\u{1b}[31m{}", "x".repeat(500));
        let refused = person(&hostile, &[]).unwrap_err();
        assert!(!refused.message.contains('\u{1b}') && refused.message.len() < 300, "{refused:?}");
    }

    fn find(text: Option<&str>, verb: Verb, calls: &[CallView]) -> Result<CallId, Failure> {
        call(text, verb, calls, &[])
    }

    #[test]
    fn an_omitted_call_is_the_only_one_that_the_verb_fits() {
        let calls = [call_view(0x11, CallState::Active), call_view(0x22, CallState::Incoming)];
        assert_eq!(find(None, Verb::Accept, &calls).unwrap(), calls[1].call);
        assert_eq!(find(None, Verb::Reject, &calls).unwrap(), calls[1].call);
        assert_eq!(find(None, Verb::Hangup, &calls).unwrap(), calls[0].call);
        assert_eq!(code(find(None, Verb::Show, &calls)), "ambiguous_call");
        assert_eq!(code(find(None, Verb::Accept, &calls[..1])), "no_such_call");
        assert_eq!(find(None, Verb::Hangup, &calls[1..]).unwrap(), calls[1].call);
        assert_eq!(code(find(None, Verb::Hangup, &[])), "no_such_call");
        let two = [call_view(0x11, CallState::Incoming), call_view(0x22, CallState::Incoming)];
        assert_eq!(code(find(None, Verb::Accept, &two)), "ambiguous_call");
        assert_eq!(code(find(None, Verb::Hangup, &two)), "ambiguous_call");
    }

    #[test]
    fn with_several_calls_the_active_one_is_meant_where_it_can_be() {
        let calls = [
            call_view(0x11, CallState::OnHold),
            call_view(0x22, CallState::Active),
            call_view(0x33, CallState::Incoming),
        ];
        for verb in [Verb::Hangup, Verb::Invite, Verb::Hold] {
            assert_eq!(find(None, verb, &calls).unwrap(), calls[1].call, "{verb:?}");
        }
        assert_eq!(find(None, Verb::Resume, &calls).unwrap(), calls[0].call);
        assert_eq!(find(None, Verb::Hangup, &calls[..1]).unwrap(), calls[0].call);
        for (verb, calls) in [(Verb::Hold, &calls[..1]), (Verb::Resume, &calls[1..]), (Verb::Invite, &calls[2..])] {
            assert_eq!(code(find(None, verb, calls)), "no_such_call", "{verb:?}");
        }
        let held = [call_view(0x11, CallState::OnHold), call_view(0x22, CallState::OnHold)];
        for verb in [Verb::Resume, Verb::Hangup] {
            assert_eq!(code(find(None, verb, &held)), "ambiguous_call", "{verb:?}");
        }
    }

    #[test]
    fn only_a_past_call_can_be_joined_and_nothing_else_can_be_done_with_it() {
        let past = |byte| PastCall {
            call: CallId::from_bytes([byte; 16]),
            from: did_of(2),
            participants: vec![],
            since_ms: 7,
        };
        let (one, two) = ([past(0x11)], [past(0x11), past(0x12)]);
        assert_eq!(call(None, Verb::Join, &[], &one).unwrap(), one[0].call);
        assert_eq!(code(call(None, Verb::Join, &[], &two)), "ambiguous_call");
        assert_eq!(call(Some("12"), Verb::Join, &[], &two).unwrap(), two[1].call);
        for verb in [Verb::Accept, Verb::Hangup, Verb::Show, Verb::Resume] {
            assert_eq!(code(call(Some("11"), verb, &[], &one)), "no_such_call", "{verb:?}");
        }
        // The core says why a call that goes on cannot be joined.
        let active = [call_view(0x22, CallState::Active)];
        let refused = call(None, Verb::Join, &active, &[]).unwrap_err();
        assert!(refused.code == "no_such_call" && refused.message.contains("in the call already"), "{refused}");
        assert_eq!(call(Some("22"), Verb::Join, &active, &one).unwrap(), active[0].call);
    }

    #[test]
    fn a_prefix_must_be_unique_among_the_calls_that_the_verb_fits() {
        let calls = [call_view(0x11, CallState::Active), call_view(0x12, CallState::Incoming)];
        assert_eq!(find(Some("11"), Verb::Show, &calls).unwrap(), calls[0].call);
        assert_eq!(find(Some("1"), Verb::Accept, &calls).unwrap(), calls[1].call);
        assert_eq!(code(find(Some("1"), Verb::Show, &calls)), "ambiguous_call");
        assert_eq!(code(find(Some("1"), Verb::Resume, &calls)), "ambiguous_call");
        let full = calls[1].call.to_string().to_uppercase();
        assert_eq!(find(Some(&full), Verb::Hangup, &calls).unwrap(), calls[1].call);
    }

    #[test]
    fn an_empty_or_unknown_id_means_no_call_even_when_there_is_only_one() {
        let calls = [call_view(0x11, CallState::Active)];
        for text in ["", "  ", "2", "zz", "11111111-1111-1111-1111-1111111111111"] {
            assert_eq!(code(find(Some(text), Verb::Hangup, &calls)), "no_such_call", "{text:?}");
        }
    }
}
