//! What clients ask about recordings, and the end of one that cannot be written any further.

use std::path::PathBuf;

use serde_json::{Value, json};
use tracing::debug;

use super::{Answer, not_done};
use crate::{
    audio::{NewRecording, RecordingError},
    control::wire::Failure,
    daemon::{Daemon, resolve::Verb},
    private::prepare_directory,
    proto::{
        id::CallId,
        io::{CallState, Event, Now, Request},
    },
};

impl Daemon {
    /// Files first, then the core's yes: it has been asked whether it would say so, and from then on every block is written.
    pub(super) fn record(&mut self, call: Option<&str>, directory: Option<PathBuf>, now: Now) -> Answer {
        let call = self.find(call, Verb::Record)?;
        let runs = self.recorded().is_some_and(|(recorded, _)| recorded == call);
        let into = self.directory().filter(|_| runs);
        if let Some((into, wanted)) = into.as_ref().zip(directory.as_ref())
            && into.parent() != Some(wanted)
        {
            let why = format!("it is being recorded into {} already; `telecon record stop` ends that", into.display());
            return Err(Failure::new("records_another", why));
        }
        if !runs {
            self.node.may_record(call).map_err(|error| not_done(&error))?;
            let parent = match directory {
                Some(directory) => directory,
                None => {
                    prepare_directory(&self.recordings)
                        .map_err(|error| Failure::new("not_writable", error.to_string()))?;
                    self.recordings.clone()
                }
            };
            let names = self.people.contacts().iter().map(|contact| (contact.did.clone(), contact.name.to_string()));
            let (own, names) = (self.did.clone(), names.collect());
            let new = NewRecording { call, parent, unix_ms: now.unix_ms, own, names };
            self.audio.start_recording(&new).map_err(|error| not_writable(&error))?;
            self.ask(Request::Record { call, on: true }, now)?;
        }
        Ok(json!({ "call": call, "directory": self.directory() }))
    }

    pub(super) fn stop_record(&mut self, now: Now) -> Answer {
        let Some((call, _)) = self.recorded() else {
            return Err(Failure::new("not_recording", "no call is being recorded; `telecon record start` begins"));
        };
        self.ask(Request::Record { call, on: false }, now)?;
        Ok(json!({ "call": call, "directory": self.directory() }))
    }

    /// For `status`: what is recorded now, and why the last recording ended by itself.
    pub(super) fn recording(&self) -> (Value, Option<String>) {
        let problem = self.audio.recording().and_then(|recording| recording.problem);
        let Some((call, state)) = self.recorded() else { return (Value::Null, problem) };
        let paused = state == CallState::OnHold;
        (json!({ "call": call, "directory": self.directory(), "paused": paused }), problem)
    }

    /// The files cannot be written any more: clients are told why, and the others in the call that it is over.
    pub(in crate::daemon) fn recording_failed(&mut self, now: Now) {
        let Some((call, _)) = self.recorded() else { return };
        let Some(problem) = self.audio.recording().and_then(|recording| recording.problem) else { return };
        self.tell(Event::RecordingFailed { call, problem }, now);
        if let Err(error) = self.ask(Request::Record { call, on: false }, now) {
            debug!(%error, "the recording was over already");
        }
    }

    fn recorded(&self) -> Option<(CallId, CallState)> {
        let calls = self.node.calls();
        calls.iter().find(|view| view.recording).map(|view| (view.call, view.state))
    }

    fn directory(&self) -> Option<PathBuf> {
        self.audio.recording().map(|recording| recording.directory)
    }
}

fn not_writable(error: &RecordingError) -> Failure {
    let code = match error {
        RecordingError::Unusable { .. } | RecordingError::NoMemory(_) => "not_writable",
        RecordingError::Relative { .. } => "bad_directory",
    };
    Failure::new(code, error.to_string())
}
