//! The verbs that go on: a call that is followed until it is joined or over, and the stream of events.

use std::{collections::BTreeSet, io, os::fd::AsFd, path::Path, pin::pin};

use serde_json::{Value, json};
use tokio::{io::Interest, net::unix::pipe};

use crate::{
    client::{Client, ClientError},
    control::wire::Method,
};

use super::{
    exit::{self, CliError},
    show::{self, Names},
    text::{self, Printer},
};

/// `telecon call WHO… --wait`: watches before it calls, so that no event is missed.
pub async fn call(socket: &Path, who: Vec<String>, closed: bool, mut printer: Printer) -> Result<(), CliError> {
    let mut watch = Client::connect(socket).await?.watch(None).await?;
    let mut client = Client::connect(socket).await?;
    let names = Names::of(&client.request(Method::ContactList {}, None).await?).with_own(&watch.snapshot);
    let offered = client.request(Method::CallOffer { who, closed }, None).await?;
    printer.answer(&offered, show::call_id)?;
    let mut follow = Follow::new(&offered);
    let mut unread = pin!(reader_gone());
    loop {
        let event = tokio::select! {
            next = watch.next() => next.ok_or_else(gone)??,
            () = &mut unread => return Ok(()),
        };
        let Some(step) = follow.step(&event) else { continue };
        if printer.is_json() {
            printer.print(&text::json_line(&event))?;
        } else {
            printer.print(&show::step(&event, &names))?;
        }
        match step {
            Step::On => {}
            Step::Joined => return Ok(()),
            Step::Over(code) => return Err(CliError::new(code, show::over(&event))),
        }
    }
}

/// `telecon watch`
pub async fn watch(socket: &Path, since: Option<u64>, mut printer: Printer) -> Result<(), CliError> {
    let mut client = Client::connect(socket).await?;
    let mut watch = Client::connect(socket).await?.watch(since).await?;
    let snapshot = watch.snapshot.take();
    let mut names = Names::of(&client.request(Method::ContactList {}, None).await?).with_own(&snapshot);
    if printer.is_json() {
        let line = json!({ "event": "snapshot", "seq": snapshot["seq"], "snapshot": snapshot });
        printer.print(&text::json_line(&line))?;
    }
    let mut unread = pin!(reader_gone());
    loop {
        let event = tokio::select! {
            next = watch.next() => next.ok_or_else(gone)??,
            () = &mut unread => return Ok(()),
        };
        if event["event"] == "contacts_changed" {
            names = Names::of(&client.request(Method::ContactList {}, None).await?).with_own(&snapshot);
        }
        let line = if printer.is_json() { text::json_line(&event) } else { show::event(&event, &names) };
        printer.print(&line)?;
    }
}

/// Comes when nobody reads stdout any more, as in `telecon watch | head -1`: the next event, at which writing would fail,
/// may be hours away. Never comes for a regular file, which cannot be waited for.
async fn reader_gone() {
    // Unchecked, since the checked one makes it non-blocking for the printer too; here nothing is written to it.
    let stdout = io::stdout().as_fd().try_clone_to_owned().and_then(pipe::Sender::from_owned_fd_unchecked);
    let gone = match &stdout {
        Ok(stdout) => stdout.ready(Interest::ERROR).await.is_ok(),
        Err(_) => false,
    };
    if !gone {
        std::future::pending().await
    }
}

fn gone() -> CliError {
    let error = CliError::from(ClientError::Closed);
    CliError { code: exit::NOT_RUNNING, ..error }
}

/// What an event means for a call that is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    On,
    Joined,
    Over(u8),
}

/// One's own offer, until somebody is there or it is over.
struct Follow {
    call: String,
    invitees: BTreeSet<String>,
    /// Those of them who may still be met, and whether somebody else accepted and cannot be connected to.
    awaited: BTreeSet<String>,
    unconnected: bool,
    /// Both called each other, and the other call goes on; its id is known from its first event.
    superseded: bool,
}

impl Follow {
    fn new(offered: &Value) -> Self {
        let call = offered["call"].as_str().unwrap_or_default().to_owned();
        Self { call, invitees: BTreeSet::new(), awaited: BTreeSet::new(), unconnected: false, superseded: false }
    }

    /// `None`: not about this call.
    fn step(&mut self, event: &Value) -> Option<Step> {
        let call = event["call"].as_str()?;
        let did = event["did"].as_str().unwrap_or_default();
        if self.superseded && call != self.call && self.invitees.contains(did) {
            call.clone_into(&mut self.call);
            self.superseded = false;
        }
        if call != self.call {
            return None;
        }
        match event["event"].as_str()? {
            "call_offered" => {
                let invitees = event["invitees"].as_array().into_iter().flatten();
                self.invitees = invitees.filter_map(|did| did.as_str().map(String::from)).collect();
                self.awaited.clone_from(&self.invitees);
                Some(Step::On)
            }
            "participant_changed" if event["state"] == "joined" => Some(Step::Joined),
            "participant_changed" => {
                if let Some("declined" | "unreachable" | "expired") = event["state"].as_str() {
                    self.awaited.remove(did);
                }
                Some(self.hope())
            }
            "no_connection" => {
                self.awaited.remove(did);
                self.unconnected = true;
                Some(self.hope())
            }
            "call_ended" if event["reason"] == "superseded" => {
                self.superseded = true;
                Some(Step::On)
            }
            "call_ended" => Some(Step::Over(code_of(event["reason"].as_str().unwrap_or_default()))),
            _ => Some(Step::On),
        }
    }

    /// Waiting goes on while there is somebody to wait for; the call ends by itself when nobody accepts.
    fn hope(&self) -> Step {
        if self.unconnected && self.awaited.is_empty() { Step::Over(exit::MEDIA_FAILED) } else { Step::On }
    }
}

/// The exit code for a call that ended before anybody was there.
fn code_of(reason: &str) -> u8 {
    match reason {
        "declined" => exit::DECLINED,
        "busy" => exit::BUSY,
        "unreachable" => exit::UNREACHABLE,
        "gone" | "empty" => exit::MEDIA_FAILED,
        "stopped" | "answered_elsewhere" => exit::TRY_AGAIN,
        _ => exit::NO_ANSWER,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follow() -> Follow {
        let mut follow = Follow::new(&json!({ "call": "c1" }));
        let offered = json!({ "event": "call_offered", "call": "c1", "invitees": ["did:a", "did:b"] });
        assert_eq!(follow.step(&offered), Some(Step::On));
        follow
    }

    #[test]
    fn a_call_is_joined_when_the_first_participant_is_heard() {
        let mut follow = follow();
        for (state, step) in [("ringing", Step::On), ("connecting", Step::On), ("joined", Step::Joined)] {
            let event = json!({ "event": "participant_changed", "call": "c1", "did": "did:a", "state": state });
            assert_eq!(follow.step(&event), Some(step));
        }
    }

    #[test]
    fn waiting_ends_when_everybody_who_accepted_cannot_be_connected_to_and_nobody_else_may_come() {
        let mut follow = follow();
        let event =
            |event: &str, did: &str, state: &str| json!({ "event": event, "call": "c1", "did": did, "state": state });
        assert_eq!(follow.step(&event("participant_changed", "did:a", "connecting")), Some(Step::On));
        assert_eq!(follow.step(&event("no_connection", "did:a", "")), Some(Step::On), "b may still accept");
        assert_eq!(follow.step(&event("participant_changed", "did:b", "ringing")), Some(Step::On));
        assert_eq!(follow.step(&event("participant_changed", "did:b", "expired")), Some(Step::Over(14)));
    }

    #[test]
    fn other_calls_are_not_followed() {
        let event = json!({ "event": "call_ended", "call": "c2", "reason": "declined" });
        assert_eq!(follow().step(&event), None);
    }

    #[test]
    fn every_end_has_its_exit_code() {
        for (reason, code) in [
            ("declined", 10),
            ("no_answer", 11),
            ("hung_up", 11),
            ("busy", 12),
            ("unreachable", 13),
            ("gone", 14),
            ("empty", 14),
            ("stopped", 75),
        ] {
            let event = json!({ "event": "call_ended", "call": "c1", "reason": reason });
            assert_eq!(follow().step(&event), Some(Step::Over(code)), "{reason}");
        }
    }

    #[test]
    fn after_glare_the_other_call_is_followed() {
        let mut follow = follow();
        let ended = json!({ "event": "call_ended", "call": "c1", "reason": "superseded" });
        assert_eq!(follow.step(&ended), Some(Step::On));
        let stranger = json!({ "event": "participant_changed", "call": "c3", "did": "did:x", "state": "joined" });
        assert_eq!(follow.step(&stranger), None);
        let joined = json!({ "event": "participant_changed", "call": "c2", "did": "did:a", "state": "joined" });
        assert_eq!(follow.step(&joined), Some(Step::Joined));
    }
}
