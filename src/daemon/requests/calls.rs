//! What clients ask about calls: ids, names and words become requests to the core.

use serde_json::{Value, json};

use super::{Answer, not_done};
use crate::{
    control::wire::Failure,
    daemon::{
        Daemon,
        resolve::{self, Verb, shown},
        views,
    },
    proto::{
        id::{CallId, Did},
        io::{Former, Now, ParticipantState, Reply, Request, RequestError},
        signal::{Decline, DeclineReason, Settings},
    },
};

impl Daemon {
    pub(super) fn offer(&mut self, who: &[String], closed: bool, now: Now) -> Answer {
        let invitees = resolve::invitees(who, &self.did, self.people.contacts())?;
        let settings = Settings { closed };
        match self.ask(Request::Offer { invitees: invitees.clone(), settings }, now)? {
            Reply::Offered(call) => Ok(json!({ "call": call, "invitees": invitees })),
            Reply::Done => Ok(json!({ "invitees": invitees })),
        }
    }

    pub(super) fn accept(&mut self, call: Option<&str>, leave: bool, now: Now) -> Answer {
        let answer = self.with_ringing(call, Verb::Accept, |call| Request::Accept(call, former(leave)), now)?;
        Ok(self.with_recorders(answer))
    }

    pub(super) fn reject(&mut self, call: Option<&str>, reason: Option<&str>, text: Option<&str>, now: Now) -> Answer {
        let reason = match reason {
            None | Some("declined") => DeclineReason::Declined,
            Some("busy") => DeclineReason::Busy,
            Some("do_not_disturb") => DeclineReason::DoNotDisturb,
            Some("not_now") => DeclineReason::NotNow,
            Some(other) => {
                let message = format!("{} is no reason; say declined, busy, do_not_disturb or not_now", shown(other));
                return Err(Failure::new("bad_reason", message));
            }
        };
        let text = text.map(str::parse).transpose();
        let text = text.map_err(|error| Failure::new("bad_text", format!("the text cannot be sent: {error}")))?;
        self.with_ringing(call, Verb::Reject, |call| Request::Reject(call, Decline { reason, text }), now)
    }

    pub(super) fn join(&mut self, call: Option<&str>, leave: bool, now: Now) -> Answer {
        let answer = self.with_call(call, Verb::Join, |call| Request::Join(call, former(leave)), now)?;
        Ok(self.with_recorders(answer))
    }

    pub(super) fn invite(&mut self, call: Option<&str>, who: &[String], now: Now) -> Answer {
        let invitees = resolve::invitees(who, &self.did, self.people.contacts())?;
        let call = self.find(call, Verb::Invite)?;
        let present = self.present(call);
        self.ask(Request::Invite { call, invitees: invitees.clone() }, now)?;
        let asked: Vec<Did> = invitees.into_iter().filter(|did| !present.contains(did)).collect();
        Ok(json!({ "call": call, "invitees": asked }))
    }

    /// Whoever comes into a call is told who records it, as far as that is known yet.
    fn with_recorders(&self, mut answer: Value) -> Value {
        let calls = self.node.calls();
        let view = calls.iter().find(|view| answer["call"] == view.call.to_string());
        answer["recorded_by"] = view.map_or(json!([]), |view| views::recorders(view, &self.people));
        answer
    }

    /// Who is in the call: they need no invitation.
    fn present(&self, call: CallId) -> Vec<Did> {
        let calls = self.node.calls();
        let participants = calls.iter().filter(|view| view.call == call).flat_map(|view| &view.participants);
        let present = participants.filter(|one| match one.state {
            ParticipantState::Connecting
            | ParticipantState::Joined
            | ParticipantState::Reconnecting
            | ParticipantState::OnHold => true,
            ParticipantState::Invited
            | ParticipantState::Ringing
            | ParticipantState::Declined
            | ParticipantState::Unreachable
            | ParticipantState::Expired
            | ParticipantState::Left => false,
        });
        present.map(|one| one.did.clone()).collect()
    }

    /// The switch works without the disk; only that it outlives the daemon needs one, and the store tells when it fails.
    pub(super) fn do_not_disturb(&mut self, on: bool, now: Now) -> Answer {
        self.ask(Request::SetDoNotDisturb(on), now)?;
        drop(self.store.set_do_not_disturb(on));
        Ok(json!({ "do_not_disturb": on }))
    }

    pub(super) fn show(&self, call: Option<&str>) -> Answer {
        let call = self.find(call, Verb::Show)?;
        let calls = self.node.calls();
        let view = calls.iter().find(|view| view.call == call).ok_or_else(|| not_done(&RequestError::NoSuchCall))?;
        Ok(views::call(view, &self.people))
    }

    /// Asks for something that needs nothing but the call.
    pub(super) fn with_call(
        &mut self,
        call: Option<&str>,
        verb: Verb,
        request: impl FnOnce(CallId) -> Request,
        now: Now,
    ) -> Answer {
        let call = self.find(call, verb)?;
        self.ask(request(call), now)?;
        Ok(json!({ "call": call }))
    }

    /// As [`Self::with_call`]; who comes too late for a call that rang is told what became of it.
    fn with_ringing(
        &mut self,
        call: Option<&str>,
        verb: Verb,
        request: impl FnOnce(CallId) -> Request,
        now: Now,
    ) -> Answer {
        self.with_call(call, verb, request, now).map_err(|failure| match failure.code.as_str() {
            "no_such_call" | "not_ringing" => match self.rung.story(call) {
                Some(story) => Failure::new("not_ringing", story),
                None => failure,
            },
            _ => failure,
        })
    }

    pub(super) fn find(&self, call: Option<&str>, verb: Verb) -> Result<CallId, Failure> {
        resolve::call(call, verb, &self.node.calls(), &self.node.past_calls())
    }
}

fn former(leave: bool) -> Former {
    if leave { Former::Leave } else { Former::Hold }
}
