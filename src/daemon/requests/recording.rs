//! What clients ask about recordings, and how they end. The answers come when the disk has done its part.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tracing::{debug, warn};

use super::{Answer, Pending, not_done};
use crate::{
    audio::{NewRecording, RecordingError, RecordingStatus},
    control::wire::Failure,
    daemon::{Daemon, resolve::Verb},
    proto::{
        id::CallId,
        io::{CallState, Event, Now, Request},
    },
};

/// How long `media.stop_record` waits for the last pages.
const LAST_PAGES: Duration = Duration::from_secs(5);

/// A recording whose files are being made.
pub(in crate::daemon) struct ToRecord {
    call: CallId,
    /// Who waits for it: the first, and the same request under the same key. Nobody any more: it was stopped, and ends with its files.
    asked: Vec<Pending>,
}

impl ToRecord {
    /// The same request waits for the same answer. Another one hears of a failure that no key keeps, since nothing was decided.
    fn also(&mut self, pending: Pending) {
        if pending.key.is_some() && self.asked.iter().any(|first| first.key == pending.key) {
            return wait(&mut self.asked, pending);
        }
        try_again(
            pending,
            "the files of a recording are being made already; if that takes long, the disk does not answer",
        );
    }
}

/// A recording that is over, and whose files are being completed.
pub(in crate::daemon) struct ToComplete {
    call: CallId,
    /// Who waits for it.
    asked: Vec<Pending>,
    until: Instant,
}

impl ToComplete {
    /// When nobody waits any longer.
    pub(in crate::daemon) fn due(&self) -> Instant {
        self.until
    }
}

/// Also that one waits; in place of clients that are gone, so that the others bound how many there are.
fn wait(asked: &mut Vec<Pending>, pending: Pending) {
    asked.retain(|earlier| !earlier.reply.is_closed());
    asked.push(pending);
}

fn try_again(pending: Pending, why: &str) {
    let _client_gone = pending.reply.send(Err(Failure::new("try_again", why)));
}

impl Daemon {
    /// The requests whose answers the disk holds up.
    pub(super) fn unanswered(&self) -> impl Iterator<Item = &Pending> {
        let to_record = self.to_record.iter().flat_map(|to_record| &to_record.asked);
        to_record.chain(self.to_complete.iter().flat_map(|to_complete| &to_complete.asked))
    }

    /// Files first, which take as long as the disk does; [`Self::recording_made`] goes on.
    pub(super) fn record(&mut self, pending: Pending, call: Option<&str>, directory: Option<PathBuf>, now: Now) {
        if let Some(to_record) = &mut self.to_record {
            return to_record.also(pending);
        }
        if self.to_complete.is_some() {
            return try_again(pending, "the files of the last recording are being completed");
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
        self.conclude_all(asked, answer, now);
    }

    /// The answer comes when the files are closed; [`Self::recording_ended`] or [`Self::recording_late`] goes on.
    pub(super) fn stop_record(&mut self, pending: Pending, now: Now) {
        if let Some(to_complete) = &mut self.to_complete {
            return wait(&mut to_complete.asked, pending);
        }
        let stopped = match (self.stop_early(now), self.recorded()) {
            (Some(call), _) => return self.conclude(pending, Ok(json!({ "call": call, "directory": null })), now),
            (None, Some((call, _))) => self.ask(Request::Record { call, on: false }, now).map(|_| call),
            (None, None) => {
                Err(Failure::new("not_recording", "no call is being recorded; `telecon record start` begins"))
            }
        };
        match stopped {
            Err(failure) => self.conclude(pending, Err(failure), now),
            Ok(call) => {
                self.to_complete = Some(ToComplete { call, asked: vec![pending], until: now.mono + LAST_PAGES });
                self.carry_out(now);
                // It may have ended by itself a moment ago.
                self.recording_ended(now);
            }
        }
    }

    /// A recording whose files are not there yet never begins, and they go when they come. `None`: there is no such one.
    fn stop_early(&mut self, now: Now) -> Option<CallId> {
        let to_record = self.to_record.as_mut().filter(|to_record| !to_record.asked.is_empty())?;
        let (call, asked) = (to_record.call, std::mem::take(&mut to_record.asked));
        let why = "the recording was stopped before its files were there; nothing was recorded";
        self.conclude_all(asked, Err(Failure::new("not_recording", why)), now);
        Some(call)
    }

    /// Files are closed: those of a recording that was stopped, and whoever did that is told; or of one that cannot be written any
    /// further, and everybody is. What became of one that is not the latest nobody asks any more.
    pub(in crate::daemon) fn recording_ended(&mut self, now: Now) {
        let Some(RecordingStatus { directory, end: Some(end) }) = self.audio.recording() else { return };
        if let Some(ToComplete { call, asked, .. }) = self.to_complete.take() {
            let directory = |kept: bool| kept.then_some(directory);
            let answer = end.clone().map(|kept| json!({ "call": call, "directory": directory(kept) }));
            let lacking = |problem| format!("the recording is over, and the end of its files is missing: {problem}");
            self.conclude_all(asked, answer.map_err(|problem| Failure::new("not_writable", lacking(problem))), now);
        }
        if let (Err(problem), Some((call, _))) = (end, self.recorded()) {
            self.tell(Event::RecordingFailed { call, problem }, now);
            if let Err(error) = self.ask(Request::Record { call, on: false }, now) {
                debug!(%error, "the recording was over already");
            }
        }
    }

    /// The daemon was killed while this call was recorded.
    pub(in crate::daemon) fn recording_lost(&mut self, call: CallId, now: Now) {
        let problem = format!(
            "the recording of the call {call} ended when telecon was killed; what was said until then is in the directory that \
             `telecon record start` named"
        );
        warn!("{problem}");
        self.lost_recording = Some(problem.clone());
        self.tell(Event::RecordingFailed { call, problem }, now);
    }

    /// A disk that hangs holds no answer up for ever.
    pub(in crate::daemon) fn recording_late(&mut self, now: Now) {
        let Some(ToComplete { asked, .. }) = self.to_complete.take_if(|to_complete| now.mono >= to_complete.until)
        else {
            return;
        };
        let directory = self.directory().unwrap_or_default();
        let why = format!(
            "the recording in {} is over, but the disk has not taken the end of its files for {} s; they are complete once it does",
            directory.display(),
            LAST_PAGES.as_secs()
        );
        self.conclude_all(asked, Err(Failure::new("not_writable", why)), now);
    }

    fn conclude_all(&mut self, asked: Vec<Pending>, answer: Answer, now: Now) {
        for pending in asked {
            self.conclude(pending, answer.clone(), now);
        }
    }

    /// For `status`: what is recorded now, and why the last recording ended by itself.
    pub(super) fn recording(&self) -> (Value, Option<String>) {
        let problem = match self.audio.recording() {
            Some(recording) => recording.end.and_then(Result::err),
            None => self.lost_recording.clone(),
        };
        let Some((call, state)) = self.recorded() else { return (Value::Null, problem) };
        let paused = state == CallState::OnHold;
        (json!({ "call": call, "directory": self.directory(), "paused": paused }), problem)
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
