//! What clients ask: control methods become requests to the core, or are answered from what the loop owns.

mod calls;
mod contacts;
mod recording;

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    task,
};
use tracing::error;

pub(super) use recording::{ToComplete, ToRecord};

use super::{
    Daemon,
    idempotency::{self, Answer},
    resolve::Verb,
    views,
};
use crate::{
    control::wire::{Command, Failure, Method, Subscription},
    net,
    proto::io::{Event, Now, Policy, Reply, Request, RequestError},
    store::{ContactError, StoreError},
};

/// Calls of the history in one answer, where the client does not say how many.
const DEFAULT_HISTORY: u32 = 50;
/// Most of them: even with many participants they fit into an answer.
const MAX_HISTORY: u32 = 500;

pub(super) type ReplyTo<T> = oneshot::Sender<Result<T, Failure>>;

/// A request that waits for its answer.
pub(super) struct Pending {
    method: Method,
    /// For requests that change something: the answer is kept under it.
    key: Option<String>,
    reply: ReplyTo<Value>,
}

/// What everybody hears while the daemon stops.
pub(super) fn stopping() -> Failure {
    Failure::new("stopping", "the daemon is stopping; start it again, then ask again")
}

impl Daemon {
    /// Does one command and answers it. An answer whose client is gone is dropped; what was done stays done.
    pub(super) fn command(&mut self, command: Command, now: Now) {
        match command {
            Command::Call { method: Method::DaemonStop {}, reply, .. } => {
                self.stop(now);
                let _client_gone = reply.send(Ok(json!({ "stopping": true })));
            }
            Command::Call { reply, .. } if self.stopping.is_some() => drop(reply.send(Err(stopping()))),
            Command::Watch { reply, .. } if self.stopping.is_some() => drop(reply.send(Err(stopping()))),
            Command::Call { method: Method::NetConnect { address }, reply, .. } => self.connect(&address, reply),
            Command::Call { method: Method::AudioDevices {}, reply, .. } => self.devices(reply),
            Command::Call { method: Method::AudioSelect { direction, name }, reply, .. } => {
                self.select_device(direction, name, reply);
            }
            Command::Call { method, request_key, reply } => {
                let key = request_key.filter(|_| changes_something(&method));
                self.answer_once(Pending { method, key, reply }, now);
            }
            Command::Watch { since, reply } => self.watch(since, reply),
        }
    }

    /// The same key again gets the first answer.
    fn answer_once(&mut self, pending: Pending, now: Now) {
        if let Some(first) = pending.key.as_ref().and_then(|key| self.answers.first(key, &pending.method, now.unix_ms))
        {
            return drop(pending.reply.send(first));
        }
        let is_other = |earlier: &Pending| pending.key == earlier.key && pending.method != earlier.method;
        if pending.key.is_some() && self.unanswered().any(is_other) {
            return drop(pending.reply.send(Err(idempotency::reused())));
        }
        match pending.method.clone() {
            Method::MediaRecord { call, directory } => self.record(pending, call.as_deref(), directory, now),
            Method::MediaStopRecord {} => self.stop_record(pending, now),
            method => {
                let answer = self.answer(method, now);
                self.conclude(pending, answer, now);
            }
        }
    }

    fn conclude(&mut self, pending: Pending, answer: Answer, now: Now) {
        if let Some(key) = pending.key {
            self.answers.keep(&mut self.store, key, &pending.method, &answer, now.unix_ms);
        }
        // The events and the audio plan that belong to the answer come before it.
        self.carry_out(now);
        let _client_gone = pending.reply.send(answer);
    }

    fn answer(&mut self, method: Method, now: Now) -> Answer {
        match method {
            Method::DaemonStatus {} => Ok(self.status()),
            Method::IdentityShow {} => {
                let net = self.net.status();
                Ok(json!({ "did": self.did, "peer_id": net.peer_id.to_string(), "listen": net.listen }))
            }
            Method::CallOffer { who, closed } => self.offer(&who, closed, now),
            Method::CallAccept { call, leave } => self.accept(call.as_deref(), leave, now),
            Method::CallReject { call, reason, text } => {
                self.reject(call.as_deref(), reason.as_deref(), text.as_deref(), now)
            }
            Method::CallHangup { call } => self.with_call(call.as_deref(), Verb::Hangup, Request::Hangup, now),
            Method::CallJoin { call, leave } => self.join(call.as_deref(), leave, now),
            Method::CallInvite { call, who } => self.invite(call.as_deref(), &who, now),
            Method::CallHold { call } => self.with_call(call.as_deref(), Verb::Hold, Request::Hold, now),
            Method::CallResume { call } => self.with_call(call.as_deref(), Verb::Resume, Request::Resume, now),
            Method::CallDoNotDisturb { on } => self.do_not_disturb(on, now),
            Method::CallList {} => Ok(views::calls(&self.node.calls(), &self.node.past_calls(), &self.people)),
            Method::CallShow { call } => self.show(call.as_deref()),
            Method::HistoryList { limit, before_ms } => self.history(limit, before_ms),
            Method::MediaMute {} => self.media(Request::Mute(true), now),
            Method::MediaUnmute {} => self.media(Request::Mute(false), now),
            Method::MediaTalk { on } => self.media(Request::Talk(on), now),
            Method::MediaDeafen {} => self.media(Request::Deafen(true), now),
            Method::MediaUndeafen {} => self.media(Request::Deafen(false), now),
            Method::MediaVolume { who, percent } => self.volume(&who, percent, now),
            Method::MediaBlock { who } => self.block_audio(&who, true, now),
            Method::MediaUnblock { who } => self.block_audio(&who, false, now),
            Method::MediaStats {} => Ok(self.stats()),
            Method::AudioTestMic { seconds } => self.test_microphone(seconds),
            Method::AudioTestSpeaker {} => self.test_speaker(),
            Method::ContactList {} => Ok(json!({ "contacts": self.people.contacts() })),
            Method::ContactAdd { did, name, address } => self.add_contact(&did, &name, address.as_deref(), now),
            Method::ContactRemove { who } => self.remove_contact(&who, now),
            Method::ContactAllow { who } => self.set_policy(&who, Policy::Allow, now),
            Method::ContactAsk { who } => self.set_policy(&who, Policy::Ask, now),
            Method::ContactBlock { who } => self.set_policy(&who, Policy::Block, now),
            Method::ContactImport { contacts, rename } => self.import_contacts(contacts, rename, now),
            Method::ContactExport {} => Ok(views::export(self.people.contacts())),
            Method::EventsMark { seq } => self.mark(seq, now),
            Method::NetPeers {} => {
                let peers: Vec<_> = self.net.status().peers.iter().map(views::peer).collect();
                Ok(json!({ "peers": peers }))
            }
            Method::ConfigShow {} => self.config(),
            // `command` and `answer_once` see to these.
            Method::DaemonStop {}
            | Method::MediaRecord { .. }
            | Method::MediaStopRecord {}
            | Method::NetConnect { .. }
            | Method::AudioDevices {}
            | Method::AudioSelect { .. } => {
                Err(Failure::new("internal", "this request is answered elsewhere; please report it"))
            }
        }
    }

    fn media(&mut self, request: Request, now: Now) -> Answer {
        self.ask(request, now)?;
        Ok(json!({ "muted": self.node.muted(), "deafened": self.node.deafened() }))
    }

    fn mark(&mut self, seq: u64, now: Now) -> Answer {
        let last = self.journal.last_seq();
        if seq > last {
            return Err(Failure::new("bad_seq", format!("there is no event {seq} yet; the last one is {last}")));
        }
        if self.journal.mark(&mut self.store, seq) {
            self.tell(Event::EventsMarked { up_to: seq }, now);
        }
        Ok(json!({ "marked": self.journal.marked(), "missed": self.journal.missed() }))
    }

    fn history(&self, limit: Option<u32>, before_ms: Option<u64>) -> Answer {
        let limit = limit.unwrap_or(DEFAULT_HISTORY).min(MAX_HISTORY);
        let entries = self.store.history(limit, before_ms).map_err(store_failed)?;
        Ok(views::history(&entries, &self.people))
    }

    fn ask(&mut self, request: Request, now: Now) -> Result<Reply, Failure> {
        self.node.handle_request(request, now).map_err(|error| not_done(&error))
    }

    fn status(&self) -> Value {
        let (recording, recording_problem) = self.recording();
        views::status(&views::Status {
            did: &self.did,
            uptime_s: self.started.elapsed().as_secs(),
            net: &self.net.status(),
            calls: &self.node.calls(),
            people: &self.people,
            muted: self.node.muted(),
            deafened: self.node.deafened(),
            push_to_talk: self.config.audio.push_to_talk,
            waits_for_talk: self.node.waits_for_talk(),
            do_not_disturb: self.node.do_not_disturb(),
            stopping: self.stopping.is_some(),
            clock: self.clock_hint(),
            audio: &self.audio.status(),
            recording,
            recording_problem,
            seq: self.journal.last_seq(),
            marked: self.journal.marked(),
            missed: self.journal.missed(),
        })
    }

    fn stats(&self) -> Value {
        let heard = self.audio.leg_stats();
        let calls = self.node.calls();
        let pairs = calls.iter().flat_map(|call| call.participants.iter().map(move |other| (call, other)));
        let legs = pairs.filter_map(|(call, other)| {
            let id = other.leg?;
            Some(views::leg(other, call, &self.legs.get(&id)?.1.stats(), heard.get(&id), &self.people))
        });
        views::stats(legs.collect(), self.node.rejected().iter(), self.net.counters())
    }

    /// The configuration in force.
    fn config(&self) -> Answer {
        serde_json::to_value(self.config.clone().without_passwords())
            .map_err(|error| Failure::new("internal", format!("the configuration has no JSON form: {error}")))
    }

    fn connect(&self, address: &str, reply: ReplyTo<Value>) {
        let parsed = net::parse_address(address).map_err(ContactError::from).map_err(contacts::refused);
        let (address, permit) = match parsed.and_then(|address| Ok((address, permit(&self.tasks)?))) {
            Ok(both) => both,
            Err(failure) => return drop(reply.send(Err(failure))),
        };
        let net = self.net.clone();
        task::spawn(async move {
            let answer = match net.connect(address).await {
                Ok(peer) => Ok(json!({ "peer_id": peer.to_string() })),
                Err(error) => Err(Failure::new("unreachable", error.to_string())),
            };
            let _client_gone = reply.send(answer);
            drop(permit);
        });
    }

    /// Subscribes at once, so that nothing falls between the replay and what is live; a long replay is read beside the loop.
    fn watch(&self, since: Option<u64>, reply: ReplyTo<Subscription>) {
        let (snapshot, live) = (self.status(), self.journal.watch());
        let replay = since.map(|since| self.journal.replay(since, self.store.path())).unwrap_or_default();
        let permit = match replay.is_slow().then(|| permit(&self.tasks)).transpose() {
            Ok(permit) => permit,
            Err(failure) => return drop(reply.send(Err(failure))),
        };
        let send = move || {
            let subscription = replay.collect().map(|replay| Subscription { snapshot, replay, live });
            reply.send(subscription.map_err(store_failed))
        };
        match permit {
            Some(permit) => drop(task::spawn_blocking(move || (send(), permit))),
            None => drop(send()),
        }
    }
}

/// Leave for one more slow request.
pub(super) fn permit(tasks: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Failure> {
    let permit = Arc::clone(tasks).try_acquire_owned();
    permit.map_err(|_| Failure::new("try_again", "too many slow requests are under way; try again in a moment"))
}

/// The requests that honour `request_key`. To dial, to stop, to choose a device and to test one again does no harm, and is not
/// remembered.
fn changes_something(method: &Method) -> bool {
    match method {
        Method::CallOffer { .. }
        | Method::CallAccept { .. }
        | Method::CallReject { .. }
        | Method::CallHangup { .. }
        | Method::CallJoin { .. }
        | Method::CallInvite { .. }
        | Method::CallHold { .. }
        | Method::CallResume { .. }
        | Method::CallDoNotDisturb { .. }
        | Method::MediaMute {}
        | Method::MediaUnmute {}
        | Method::MediaTalk { .. }
        | Method::MediaDeafen {}
        | Method::MediaUndeafen {}
        | Method::MediaVolume { .. }
        | Method::MediaBlock { .. }
        | Method::MediaUnblock { .. }
        | Method::MediaRecord { .. }
        | Method::MediaStopRecord {}
        | Method::ContactAdd { .. }
        | Method::ContactRemove { .. }
        | Method::ContactAllow { .. }
        | Method::ContactAsk { .. }
        | Method::ContactBlock { .. }
        | Method::ContactImport { .. }
        | Method::EventsMark { .. } => true,
        Method::DaemonStatus {}
        | Method::DaemonStop {}
        | Method::IdentityShow {}
        | Method::CallList {}
        | Method::CallShow { .. }
        | Method::HistoryList { .. }
        | Method::MediaStats {}
        | Method::AudioDevices {}
        | Method::AudioSelect { .. }
        | Method::AudioTestMic { .. }
        | Method::AudioTestSpeaker {}
        | Method::ContactList {}
        | Method::ContactExport {}
        | Method::NetPeers {}
        | Method::NetConnect { .. }
        | Method::ConfigShow {} => false,
    }
}

fn not_done(error: &RequestError) -> Failure {
    let (code, remedy) = match error {
        RequestError::NoSuchCall => ("no_such_call", "`telecon calls` lists them"),
        RequestError::NotRinging => ("not_ringing", "`telecon calls` tells its state"),
        RequestError::NotJoinable => {
            ("not_joinable", "only calls left or missed within the last hour can be; `telecon calls` lists them")
        }
        RequestError::NotInCall => ("not_in_call", "`telecon calls` tells its state"),
        RequestError::OnHold => ("on_hold", "`telecon resume` takes it from hold"),
        RequestError::RecordsAnother => ("records_another", "`telecon record stop` ends that recording"),
        RequestError::Closed => ("closed_call", "ask its creator, or make a new call"),
        RequestError::TooFar => ("too_far", "ask somebody who was invited earlier, or make a new call"),
        RequestError::InvitedYou => ("invited_you", "they can come back with `telecon join`"),
        RequestError::Blocked => ("blocked", "`telecon contacts ask NAME` lets them in again"),
        RequestError::TooManyCalls => ("too_many_calls", "hang one up first"),
        RequestError::BadInvitees => ("bad_invitees", "name them by DID or contact name"),
        RequestError::NoPushToTalk => ("no_push_to_talk", "set [audio] push_to_talk = true and restart telecon"),
        RequestError::NoCall => ("not_in_call", "`telecon call` makes one, and `telecon accept` takes one that rings"),
        RequestError::Stopping => return stopping(),
    };
    Failure::new(code, format!("{error}; {remedy}"))
}

fn store_failed(error: StoreError) -> Failure {
    error!(%error, "a request failed");
    Failure::new("store_failed", error.to_string())
}
