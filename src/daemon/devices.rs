//! Sound devices for clients: listed, chosen and kept, tested; and which sound belongs to which event.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use tokio::task;

use super::{
    Daemon,
    requests::{ReplyTo, permit},
    resolve::shown,
};
use crate::{
    audio::{self, AudioStatus, Device, MAX_TEST_SECONDS, Role, Sound},
    config::{self, Backend},
    control::wire::Failure,
    proto::{
        id::{CallId, Did},
        io::{CallState, EndReason, Event, Now, ParticipantState},
    },
    store::{Store, StoreError},
};

/// How long a microphone test listens, where the client does not say.
const TEST_SECONDS: u32 = 5;

/// A device that was looked for so that it can be chosen: its name, or why not.
pub(super) struct Found {
    pub(super) role: Role,
    /// Of [`Choices`].
    pub(super) number: u64,
    pub(super) device: Result<Option<String>, Failure>,
    pub(super) reply: ReplyTo<Value>,
}

/// In which order devices were chosen: one that was asked for earlier may be found later.
#[derive(Debug, Default)]
pub(super) struct Choices {
    asked: u64,
    held: BTreeMap<Role, u64>,
}

impl Choices {
    /// The number of the next one.
    pub(super) fn next(&mut self) -> u64 {
        self.asked += 1;
        self.asked
    }

    /// Whether nothing later was chosen for that role.
    fn holds(&mut self, role: Role, number: u64) -> bool {
        let held = self.held.entry(role).or_default();
        *held = number.max(*held);
        *held == number
    }
}

/// Who has joined which call and has not left it since.
#[derive(Debug, Default)]
pub(super) struct Present(BTreeSet<(CallId, Did)>);

impl Present {
    /// False of one who was there all the time, and only comes back from hold or from an interruption.
    pub(super) fn is_news(&mut self, event: &Event) -> bool {
        if let Event::CallEnded { call, .. } = event {
            self.0.retain(|(of, _)| of != call);
        }
        let Event::ParticipantChanged { call, did, state } = event else { return true };
        let who = (*call, did.clone());
        match state {
            ParticipantState::Joined => return self.0.insert(who),
            ParticipantState::Left
            | ParticipantState::Declined
            | ParticipantState::Expired
            | ParticipantState::Unreachable => drop(self.0.take(&who)),
            ParticipantState::Invited
            | ParticipantState::Ringing
            | ParticipantState::Connecting
            | ParticipantState::Reconnecting
            | ParticipantState::OnHold => {}
        }
        true
    }
}

/// The configuration with what the user chose since.
pub(super) fn with_choices(mut config: config::Audio, store: &Store) -> Result<config::Audio, StoreError> {
    for role in [Role::Input, Role::Output, Role::Ring] {
        if let Some(name) = store.device(role)? {
            *configured(&mut config, role) = name;
        }
    }
    Ok(config)
}

fn configured(config: &mut config::Audio, role: Role) -> &mut String {
    match role {
        Role::Input => &mut config.input,
        Role::Output => &mut config.output,
        Role::Ring => &mut config.ring_output,
    }
}

impl Daemon {
    pub(super) fn devices(&self, reply: ReplyTo<Value>) {
        let permit = match permit(&self.looks) {
            Ok(permit) => permit,
            Err(failure) => return drop(reply.send(Err(failure))),
        };
        // Who asks may just have mended what `status` complains about.
        self.audio.look_again();
        let (config, status) = (self.config.audio.clone(), self.audio.status());
        task::spawn_blocking(move || {
            let in_use = |device: &Device| match device.direction.as_str() {
                "input" => status.capturing && status.input == device.name,
                _ => status.playing && status.output == device.name,
            };
            let shown = |device| {
                let in_use = in_use(&device);
                let mut shown = json!(device);
                shown["in_use"] = json!(in_use);
                shown
            };
            let all = audio::devices(&config).map(|all| all.into_iter().map(shown).collect::<Vec<_>>());
            let _client_gone = reply.send(all.map(|all| json!({ "devices": all })).map_err(hangs));
            drop(permit);
        });
    }

    /// Looks for the device, since only one that is there can be chosen; [`Self::device_found`] goes on.
    pub(super) fn select_device(&mut self, role: Role, name: String, reply: ReplyTo<Value>) {
        let permit = match permit(&self.looks) {
            Ok(permit) => permit,
            Err(failure) => return drop(reply.send(Err(failure))),
        };
        let (config, found, number) = (self.config.audio.clone(), self.found.clone(), self.choices.next());
        task::spawn_blocking(move || {
            let device = find(&config, role, &name);
            // The loop is gone: the client sees that its connection is.
            let _stopped = found.blocking_send(Found { role, number, device, reply }).is_err();
            drop(permit);
        });
    }

    /// What was looked for is there, or is not.
    pub(super) fn device_found(&mut self, found: Found) {
        let Found { role, number, device, reply } = found;
        if reply.is_closed() {
            // Whoever wanted it has given up; that it happens after all is not expected any more.
            return;
        }
        let answer = device.map(|device| {
            let name = device.clone().unwrap_or_else(|| configured(&mut self.config.audio.clone(), role).clone());
            if self.choices.holds(role, number) {
                // Of a disk that fails the store tells; until the daemon ends the choice holds without it.
                let _told = self.store.set_device(role, device.as_deref());
                self.audio.select(role, &name);
            }
            json!({ "direction": role, "name": name })
        });
        let _client_gone = reply.send(answer);
    }

    /// Begins or ends a microphone test. One never mixes with a call.
    pub(super) fn test_microphone(&self, seconds: Option<u32>) -> Result<Value, Failure> {
        let seconds = seconds.unwrap_or(TEST_SECONDS);
        if seconds > MAX_TEST_SECONDS {
            return Err(Failure::new("bad_seconds", format!("a test listens for {MAX_TEST_SECONDS} seconds at most")));
        }
        if seconds > 0 {
            self.is_quiet()?;
        }
        if !self.audio.test_microphone(seconds) {
            let text = "another microphone test is under way; try again when it is over";
            return Err(Failure::new("try_again", text));
        }
        Ok(json!({ "seconds": seconds, "input": self.audio.status().input }))
    }

    /// Plays a few tones.
    pub(super) fn test_speaker(&self) -> Result<Value, Failure> {
        self.is_quiet()?;
        let output = self.audio.status().output;
        tracing::info!(output, "the speaker is tested");
        self.audio.play(Sound::Test);
        Ok(json!({ "output": output }))
    }

    fn is_quiet(&self) -> Result<(), Failure> {
        if self.node.calls().iter().all(|call| call.state == CallState::OnHold) {
            return Ok(());
        }
        Err(Failure::new("in_call", "a call goes on or rings; hang up or put it on hold, then test again"))
    }

    /// Tells clients when sound comes from elsewhere, goes elsewhere, or has a problem that it had not.
    pub(super) fn audio_changed(&mut self, now: Now) {
        let event = told(self.audio.status());
        if self.audio_told != event {
            self.audio_told = event.clone();
            self.tell(event, now);
        }
    }

    /// Makes heard what happens in the call that is heard.
    pub(super) fn sound(&mut self, event: &Event) {
        if !self.present.is_news(event) {
            return;
        }
        let is_heard = |call| {
            let heard = |state| matches!(state, CallState::Active | CallState::Outgoing);
            self.node.calls().iter().any(|view| view.call == call && heard(view.state))
        };
        match sound_of(event) {
            Some((Some(call), sound)) if is_heard(call) => self.audio.play(sound),
            Some((None, sound)) => self.audio.play(sound),
            Some(_) | None => {}
        }
    }
}

/// What clients are told of sound.
pub(super) fn told(status: AudioStatus) -> Event {
    Event::AudioChanged { input: status.input, output: status.output, problem: status.problem }
}

/// The name under which a device is chosen; `None`: what the configuration says. May take seconds.
fn find(config: &config::Audio, role: Role, wanted: &str) -> Result<Option<String>, Failure> {
    if wanted == "default" {
        return Ok(None);
    }
    if matches!(config.backend, Backend::File | Backend::Null) {
        let text =
            "[audio] backend is \"file\" or \"null\", which have no devices; set it to \"auto\" and restart the daemon";
        return Err(Failure::new("no_such_device", text));
    }
    let direction = if role == Role::Input { "input" } else { "output" };
    let devices = audio::devices(config).map_err(hangs)?;
    let mut of_it = devices.iter().filter(|device| device.direction == direction);
    let found = of_it.find(|device| device.name == wanted || device.description == wanted);
    let missing =
        || format!("there is no {direction} device called {}; `telecon devices` lists what there is", shown(wanted));
    found.map(|device| Some(device.name.clone())).ok_or_else(|| Failure::new("no_such_device", missing()))
}

fn hangs(error: audio::Hangs) -> Failure {
    Failure::new("try_again", error.to_string())
}

/// The sound of an event, and the call that has to be heard for it.
pub(super) fn sound_of(event: &Event) -> Option<(Option<CallId>, Sound)> {
    match event {
        Event::ParticipantChanged { call, state: ParticipantState::Joined, .. } => Some((Some(*call), Sound::Joined)),
        Event::ParticipantChanged { call, state: ParticipantState::Left, .. } => Some((Some(*call), Sound::Left)),
        Event::CallEnded { reason, .. } => match reason {
            EndReason::Declined | EndReason::Busy | EndReason::NoAnswer | EndReason::Unreachable | EndReason::Gone => {
                Some((None, Sound::Busy))
            }
            EndReason::Empty => Some((None, Sound::Left)),
            EndReason::HungUp
            | EndReason::Rejected
            | EndReason::Cancelled
            | EndReason::Missed
            | EndReason::Silenced
            | EndReason::AnsweredElsewhere
            | EndReason::Superseded
            | EndReason::Stopped => None,
        },
        Event::ParticipantChanged { .. }
        | Event::CallOffered { .. }
        | Event::CallRang { .. }
        | Event::CallSilenced { .. }
        | Event::CallJoined { .. }
        | Event::CallInvited { .. }
        | Event::CallHeld { .. }
        | Event::CallResumed { .. }
        | Event::CallInterrupted { .. }
        | Event::NoConnection { .. }
        | Event::ParticipantDeclined { .. }
        | Event::ParticipantMedia { .. }
        | Event::RecordingStarted { .. }
        | Event::RecordingEnded { .. }
        | Event::RecordingFailed { .. }
        | Event::MediaChanged { .. }
        | Event::DoNotDisturbChanged { .. }
        | Event::TalkedWhileMuted
        | Event::ParticipantSpeaking { .. }
        | Event::AudioChanged { .. }
        | Event::ContactsChanged
        | Event::VolumeChanged { .. }
        | Event::EventsMarked { .. } => None,
    }
}
