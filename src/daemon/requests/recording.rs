//! What clients ask about recordings, and the end of one that cannot be written any further.

use std::path::PathBuf;

use serde_json::{Value, json};
use tracing::debug;

use super::{Answer, Pending, not_done};
use crate::{
    audio::{NewRecording, RecordingError},
    control::wire::Failure,
    daemon::{Daemon, resolve::Verb},
    proto::{
        id::CallId,
        io::{CallState, Event, Now, Request},
    },
};

/// A recording whose files are being made.
pub(in crate::daemon) struct ToRecord {
    call: CallId,
    /// Who waits for it: the first, and the same request under the same key. Nobody any more: it was stopped, and ends with its files.
    asked: Vec<Pending>,
}

impl ToRecord {
    /// The same request waits for the same answer. Another one hears of a failure that no key keeps, since nothing was decided.
    fn also(&mut self, pending: Pending) {
        let is_same = |first: &Pending| first.key == pending.key && first.method == pending.method;
        if pending.key.is_some() && self.asked.iter().any(is_same) {
            self.asked.retain(|earlier| !earlier.reply.is_closed());
            return self.asked.push(pending);
        }
        let why = "the files of a recording are being made already; if that takes long, the disk does not answer";
        let _client_gone = pending.reply.send(Err(Failure::new("try_again", why)));
    }
}

impl Daemon {
    /// Files first, which take as long as the disk does; [`Self::recording_made`] goes on.
    pub(super) fn record(&mut self, pending: Pending, call: Option<&str>, directory: Option<PathBuf>, now: Now) {
        if let Some(to_record) = &mut self.to_record {
            return to_record.also(pending);
        }
        let answer = match self.find(call, Verb::Record) {
            Err(failure) => Err(failure),
            Ok(call) if self.recorded().is_some_and(|(recorded, _)| recorded == call) => {
                self.records_already(call, directory)
            }
            Ok(call) => match self.make_files(call, directory, now) {
                Ok(()) => return self.to_record = Some(ToRecord { call, asked: vec![pending] }),
                Err(failure) => Err(failure),
            },
        };
        self.conclude(pending, answer, now);
    }

    fn records_already(&self, call: CallId, wanted: Option<PathBuf>) -> Answer {
        let into = self.directory();
        if let Some((into, wanted)) = into.as_ref().zip(wanted)
            && into.parent() != Some(&wanted)
        {
            let why = format!("it is being recorded into {} already; `telecon record stop` ends that", into.display());
            return Err(Failure::new("records_another", why));
        }
        Ok(json!({ "call": call, "directory": into }))
    }

    fn make_files(&self, call: CallId, directory: Option<PathBuf>, now: Now) -> Result<(), Failure> {
        self.node.may_record(call).map_err(|error| not_done(&error))?;
        let is_private = directory.is_none();
        let parent = directory.unwrap_or_else(|| self.recordings.clone());
        let names = self.people.contacts().iter().map(|contact| (contact.did.clone(), contact.name.to_string()));
        let (own, names) = (self.did.clone(), names.collect());
        let new = NewRecording { call, parent, is_private, unix_ms: now.unix_ms, own, names };
        self.audio.make_recording(new).map_err(|error| not_writable(&error))
    }

    /// The files are there: with the core's yes every block is written from now on. The call may be over or on hold meanwhile,
    /// and where nobody waits for them any more they are dropped.
    pub(in crate::daemon) fn recording_made(&mut self, now: Now) {
        let Some((ToRecord { call, asked }, made)) = self.to_record.take().zip(self.audio.made_recording()) else {
            return;
        };
        if asked.iter().all(|pending| pending.reply.is_closed()) {
            return;
        }
        let answer = made.map_err(|error| not_writable(&error)).and_then(|recording| {
            self.ask(Request::Record { call, on: true }, now)?;
            let directory = recording.directory().to_owned();
            self.audio.start_recording(recording);
            Ok(json!({ "call": call, "directory": directory }))
        });
        for pending in asked {
            self.conclude(pending, answer.clone(), now);
        }
    }

    /// A recording whose files are not there yet is stopped as well: it never begins, and they go when they come.
    pub(super) fn stop_record(&mut self, now: Now) -> Answer {
        if let Some(ToRecord { call, asked }) = self.to_record.as_mut().filter(|to_record| !to_record.asked.is_empty())
        {
            let (call, asked) = (*call, std::mem::take(asked));
            let stopped = Failure::new(
                "not_recording",
                "the recording was stopped before its files were there; nothing was recorded",
            );
            for pending in asked {
                self.conclude(pending, Err(stopped.clone()), now);
            }
            return Ok(json!({ "call": call, "directory": null }));
        }
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
        RecordingError::Unusable { .. } | RecordingError::Parent(_) | RecordingError::NoMemory(_) => "not_writable",
        RecordingError::Relative { .. } => "bad_directory",
    };
    Failure::new(code, error.to_string())
}
