//! The table in docs/protocol.md: what a device does with each message and each request in each state of a call.
//!
//! It is made by asking the engine. `TELECON_WRITE_TABLE=1 cargo test --lib sim::table` writes it anew.

use std::{
    fmt::Write,
    path::Path,
    time::{Duration, Instant},
};

use crate::{
    config::{AutoAccept, WhoMayRing},
    proto::{
        engine::{Effect, Engine, EngineConfig},
        id::{CallId, DeviceId, Did, Instance, MessageId},
        io::{Event, Former, Input, LegCommand, LegEvent, Now, Output, Policy, Reply, Request, RequestError},
        signal::{
            Answered, Body, CallKey, CancelReason, Contact, DeclineReason, Ice, Incoming, MediaState, Offer, Presence,
            Sdp, SdpKind, Sealing, Settings, Signal, Ticket,
        },
    },
};

use super::setup::person;

const BEGIN: &str = "<!-- The table begins: made by the test sim::table. -->\n";
const END: &str = "<!-- The table ends. -->\n";

/// Where a call stands at a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Unknown,
    Rings,
    Pretends,
    Outgoing,
    Active,
    OnHold,
    Ended,
    Past,
}

const STATES: [(State, &str); 8] = [
    (State::Unknown, "unknown"),
    (State::Rings, "rings"),
    (State::Pretends, "only seems to ring"),
    (State::Outgoing, "offered, nobody joined"),
    (State::Active, "active"),
    (State::OnHold, "on hold"),
    (State::Ended, "just left"),
    (State::Past, "left long ago"),
];

/// One device, the lower DID of two, and what it did last.
struct Subject {
    engine: Engine,
    me: Did,
    peer: Did,
    now: Now,
    call: CallId,
    messages: u128,
    /// What it takes to be in the call.
    ticket: Ticket,
    /// What it sent, for acknowledging.
    sent: Vec<MessageId>,
    leg: Option<crate::proto::id::LegId>,
    did: Vec<String>,
    /// The row that its last request belongs to.
    asked: Option<&'static str>,
}

impl Subject {
    fn in_state(state: State) -> Self {
        let mut dids = [person(0).did.clone(), person(1).did.clone()];
        dids.sort();
        let [me, peer] = dids;
        let config = EngineConfig {
            did: me.clone(),
            device: DeviceId([1; 16]),
            ring: Duration::from_secs(45),
            grace: Duration::from_secs(10),
            reconnect: Duration::from_secs(45),
            auto_accept: AutoAccept::None,
            who_may_ring: WhoMayRing::Anyone,
            push_to_talk: false,
            automute: false,
        };
        let contacts = if state == State::Pretends { Vec::new() } else { vec![(peer.clone(), Policy::Ask)] };
        let ticket = ticket(&peer, 1);
        let call = ticket.call;
        let now = Now { mono: Instant::now(), unix_ms: 1_800_000_000_000 };
        let engine = Engine::new(config, [7; 32], contacts, Vec::new());
        let (sent, leg, did, asked) = (Vec::new(), None, Vec::new(), None);
        let mut subject = Self { engine, me, peer, now, call, ticket, messages: 0, sent, leg, did, asked };
        subject.bring_to(state);
        subject.did.clear();
        subject
    }

    fn bring_to(&mut self, state: State) {
        match state {
            State::Unknown => {}
            State::Rings => self.hear(Sealing::Envelope, offer(&self.peer, &self.me, self.ticket.clone())),
            State::Pretends => {
                let _ = self.ask(Request::SetDoNotDisturb(true));
                self.hear(Sealing::Envelope, offer(&self.peer, &self.me, self.ticket.clone()));
            }
            State::Outgoing => {
                let request = Request::Offer { invitees: vec![self.peer.clone()], settings: Settings::default() };
                let Ok(Reply::Offered(call)) = self.ask(request) else { panic!("it is offered") };
                self.call = call;
            }
            State::Active => {
                self.bring_to(State::Outgoing);
                self.hear(Sealing::Envelope, Body::Join(presence(5)));
                let leg = self.leg.expect("a leg is made");
                let sdp = LegEvent::Description { sdp: "ours".into(), fingerprint: [1; 32] };
                for event in [sdp, LegEvent::IceConnected, LegEvent::Connected] {
                    self.engine.handle_input(Input::Leg(leg, event), self.now);
                    self.drain();
                }
                self.acknowledge_all();
            }
            State::OnHold => {
                self.bring_to(State::Active);
                assert_eq!(self.ask(Request::Hold(self.call)), Ok(Reply::Done));
                self.acknowledge_all();
            }
            State::Ended => {
                self.bring_to(State::Active);
                assert_eq!(self.ask(Request::Hangup(self.call)), Ok(Reply::Done));
            }
            State::Past => {
                self.bring_to(State::Ended);
                self.pass(Duration::from_secs(100));
            }
        }
    }

    fn acknowledge_all(&mut self) {
        for of in std::mem::take(&mut self.sent) {
            self.hear(Sealing::Pairwise, Body::Ack(of));
        }
    }

    fn pass(&mut self, span: Duration) {
        let end = self.now.mono + span;
        while let Some(at) = self.engine.poll_timeout().filter(|at| *at <= end) {
            self.now.unix_ms += at.saturating_duration_since(self.now.mono).as_millis() as u64;
            self.now.mono = self.now.mono.max(at);
            self.engine.handle_timeout(self.now);
            self.drain();
        }
    }

    fn ask(&mut self, request: Request) -> Result<Reply, RequestError> {
        self.asked = Some(row_of(&request));
        let result = self.engine.handle_request(request, self.now);
        self.drain();
        result
    }

    fn hear(&mut self, sealing: Sealing, body: Body) {
        let from = if matches!(body, Body::Answered(_)) { self.me.clone() } else { self.peer.clone() };
        self.hear_from(from, sealing, body);
    }

    fn hear_from(&mut self, from: Did, sealing: Sealing, body: Body) {
        self.messages += 1;
        let instance = match &body {
            Body::Join(presence) | Body::Hello(presence) => Some(presence.instance),
            _ if sealing == Sealing::Envelope => None,
            _ => Some(presence(5).instance),
        };
        let call = if let Body::Offer(offer) = &body { offer.ticket.call } else { self.call };
        let signal = Signal { id: MessageId(self.messages.to_be_bytes()), call, body };
        self.engine.handle_input(Input::Signal(Incoming { from, instance, sealing, signal }), self.now);
        self.drain();
    }

    /// Does what a shell would, and notes it in words.
    fn drain(&mut self) {
        while let Some(effect) = self.engine.poll_effect() {
            let word = match effect {
                Effect::Send(outgoing) => {
                    self.sent.push(outgoing.signal.id);
                    Some(format!("`{}`", kind(&outgoing.signal.body)))
                }
                Effect::Output(Output::Leg(id, command)) => {
                    let word = leg_word(&command);
                    if matches!(command, LegCommand::Open { .. }) {
                        self.leg = Some(id);
                    }
                    if command == LegCommand::Close {
                        self.engine.handle_input(Input::Leg(id, LegEvent::Closed), self.now);
                    }
                    Some(word.to_owned())
                }
                Effect::Output(Output::Event(event)) => event_word(&event),
                Effect::OpenCall(ticket) => {
                    self.ticket = ticket;
                    None
                }
                Effect::Output(_) | Effect::Join(..) | Effect::CloseCall(_) | Effect::SetContacts(_) => None,
            };
            self.did.extend(word.filter(|word| !self.did.contains(word)));
        }
    }

    fn cell(self, result: Option<Result<Reply, RequestError>>) -> String {
        let refused = result.and_then(Result::err).map(|error| format!("*{error}*"));
        let words: Vec<String> = refused.into_iter().chain(self.did).collect();
        if words.is_empty() { "–".into() } else { words.join(", ") }
    }
}

fn ticket(creator: &Did, key: u8) -> Ticket {
    let (key, settings) = ([key; 32], Settings::default());
    let call = CallId::derive(creator, &settings, &key);
    Ticket { call, creator: creator.clone(), settings, key: CallKey(key), chain: Vec::new() }
}

fn offer(from: &Did, to: &Did, ticket: Ticket) -> Body {
    let participants = vec![from.clone(), to.clone()];
    Body::Offer(Box::new(Offer { ticket, participants, ring_ms: 45_000 }))
}

fn presence(number: u64) -> Presence {
    let instance = Instance { number, device: DeviceId([9; 16]) };
    Presence { instance, state: MediaState::default(), contact: None, granted_by: None }
}

fn kind(body: &Body) -> &'static str {
    match body {
        Body::Offer(_) => "Offer",
        Body::Cancel(_) => "Cancel",
        Body::Answered(_) => "Answered",
        Body::Ringing => "Ringing",
        Body::Decline(_) => "Decline",
        Body::Join(_) => "Join",
        Body::Hello(_) => "Hello",
        Body::Leave(_) => "Leave",
        Body::Sdp(_) => "Sdp",
        Body::Ice(_) => "Ice",
        Body::Restart(_) => "Restart",
        Body::State(_) => "State",
        Body::Ack(_) => "Ack",
        Body::Unknown(_) => "a kind of a later version",
    }
}

fn leg_word(command: &LegCommand) -> &'static str {
    match command {
        LegCommand::Open { .. } => "opens a connection",
        LegCommand::Remote(_) => "describes the connection",
        LegCommand::Candidates(_) => "tries the candidates",
        LegCommand::RestartIce => "looks for a new path",
        LegCommand::Close => "closes the connection",
    }
}

/// How snake case is read.
fn plain(word: impl std::fmt::Debug) -> String {
    let mut plain = String::new();
    for letter in format!("{word:?}").chars() {
        if letter.is_uppercase() && !plain.is_empty() {
            plain.push(' ');
        }
        plain.extend(letter.to_lowercase());
    }
    plain
}

fn event_word(event: &Event) -> Option<String> {
    Some(match event {
        Event::CallOffered { .. } => "**offered**".into(),
        Event::CallRang { .. } => "**rings**".into(),
        Event::CallJoined { .. } => "**joined**".into(),
        Event::CallInvited { .. } => "**invited**".into(),
        Event::CallHeld { .. } => "**on hold**".into(),
        Event::CallResumed { .. } => "**resumed**".into(),
        Event::RecordingStarted { .. } => "**recorded**".into(),
        Event::RecordingEnded { .. } => "**recorded no more**".into(),
        Event::CallSilenced { .. } => "**silenced**".into(),
        Event::CallInterrupted { .. } => "**interrupted**".into(),
        Event::CallEnded { reason, .. } => format!("**ends: {}**", plain(reason)),
        Event::ParticipantChanged { state, .. } => format!("shown as {}", plain(state)),
        Event::NoConnection { .. } | Event::ParticipantDeclined { .. } | Event::ParticipantMedia { .. } => {
            "shown".into()
        }
        Event::MediaChanged { .. } | Event::DoNotDisturbChanged { .. } => "told to clients".into(),
        // These are the shell's own.
        Event::TalkedWhileMuted
        | Event::ParticipantSpeaking { .. }
        | Event::AudioChanged { .. }
        | Event::RecordingFailed { .. } => return None,
        Event::ContactsChanged | Event::VolumeChanged { .. } | Event::EventsMarked { .. } => return None,
    })
}

/// What happens, and how to make it happen.
type Row = (&'static str, fn(&mut Subject) -> Option<Result<Reply, RequestError>>);

fn envelope(subject: &mut Subject, body: Body) -> Option<Result<Reply, RequestError>> {
    subject.hear(Sealing::Envelope, body);
    None
}

fn pairwise(subject: &mut Subject, body: Body) -> Option<Result<Reply, RequestError>> {
    subject.hear(Sealing::Pairwise, body);
    None
}

const MESSAGES: &[Row] = &[
    ("`Offer` of this call", |subject| {
        let body = offer(&subject.peer, &subject.me, subject.ticket.clone());
        envelope(subject, body)
    }),
    ("`Offer` of another call, the same people", |subject| {
        // Of those that lose in glare.
        let loses = |key: &u8| ticket(&subject.peer, *key).call > subject.call;
        let key = (2..=255).find(loses).expect("one of them does");
        let body = offer(&subject.peer, &subject.me, ticket(&subject.peer, key));
        envelope(subject, body)
    }),
    ("`Cancel`", |subject| envelope(subject, Body::Cancel(CancelReason::Cancelled))),
    ("`Answered`, by another device that joined", |subject| {
        envelope(subject, Body::Answered(Answered { device: DeviceId([2; 16]), joined: Some(u64::MAX) }))
    }),
    ("`Answered`, by another device in an older stay", |subject| {
        envelope(subject, Body::Answered(Answered { device: DeviceId([2; 16]), joined: Some(1) }))
    }),
    ("`Answered`, by another device that refused", |subject| {
        envelope(subject, Body::Answered(Answered { device: DeviceId([2; 16]), joined: None }))
    }),
    ("`Ringing`", |subject| envelope(subject, Body::Ringing)),
    ("`Decline`", |subject| envelope(subject, Body::Decline(DeclineReason::Declined.into()))),
    ("`Join` of the known stay, or the first", |subject| envelope(subject, Body::Join(presence(5)))),
    ("`Join` of a higher stay", |subject| envelope(subject, Body::Join(presence(6)))),
    ("`Join` of the own DID, a higher stay", |subject| {
        let me = subject.me.clone();
        subject.hear_from(me, Sealing::Envelope, Body::Join(presence(u64::MAX)));
        None
    }),
    ("`Hello`", |subject| {
        subject.hear(Sealing::Broadcast, Body::Hello(presence(5)));
        None
    }),
    ("`Leave`", |subject| pairwise(subject, Body::Leave(presence(5).instance))),
    ("`Sdp`, an answer", |subject| {
        let (kind, sdp) = (SdpKind::Answer, "theirs".to_owned());
        pairwise(subject, Body::Sdp(Sdp { attempt: 1, kind, sdp, fingerprint: [2; 32] }))
    }),
    ("`Sdp`, an offer (from the higher DID)", |subject| {
        let (kind, sdp) = (SdpKind::Offer, "theirs".to_owned());
        pairwise(subject, Body::Sdp(Sdp { attempt: 1, kind, sdp, fingerprint: [2; 32] }))
    }),
    ("`Ice`", |subject| pairwise(subject, Body::Ice(Ice { attempt: 1, candidates: vec!["candidate:…".into()] }))),
    ("`Restart`", |subject| pairwise(subject, Body::Restart(1))),
    ("`State`", |subject| {
        let state = MediaState { version: 1, muted: true, ..MediaState::default() };
        pairwise(subject, Body::State(state))
    }),
    ("`Ack`", |subject| {
        let of = subject.sent.last().copied().unwrap_or(MessageId([0; 16]));
        envelope(subject, Body::Ack(of))
    }),
    ("a kind of a later version", |subject| pairwise(subject, Body::Unknown(999))),
];

const REQUESTS: &[Row] = &[
    ("offer a call to the same people", |subject| {
        let request = Request::Offer { invitees: vec![subject.peer.clone()], settings: Settings::default() };
        Some(subject.ask(request))
    }),
    ("accept", |subject| Some(subject.ask(Request::Accept(subject.call, Former::Hold)))),
    ("reject", |subject| Some(subject.ask(Request::Reject(subject.call, DeclineReason::Declined.into())))),
    ("hang up", |subject| Some(subject.ask(Request::Hangup(subject.call)))),
    ("join", |subject| Some(subject.ask(Request::Join(subject.call, Former::Hold)))),
    ("invite", |subject| {
        let invitees = vec![person(2).did.clone()];
        Some(subject.ask(Request::Invite { call: subject.call, invitees }))
    }),
    ("hold", |subject| Some(subject.ask(Request::Hold(subject.call)))),
    ("resume", |subject| Some(subject.ask(Request::Resume(subject.call)))),
    ("record", |subject| Some(subject.ask(Request::Record { call: subject.call, on: true }))),
    ("mute", |subject| Some(subject.ask(Request::Mute(true)))),
    ("push to talk", |subject| Some(subject.ask(Request::Talk(true)))),
    ("deafen", |subject| Some(subject.ask(Request::Deafen(true)))),
    ("do not disturb", |subject| Some(subject.ask(Request::SetDoNotDisturb(true)))),
    ("block the other", |subject| {
        let contacts = vec![(subject.peer.clone(), Policy::Block)];
        Some(subject.ask(Request::SetContacts(contacts)))
    }),
    ("tell where this node is dialled", |subject| Some(subject.ask(Request::SetAddresses(Contact::default())))),
    ("restore nothing", |subject| Some(subject.ask(Request::Restore { calls: Vec::new(), rejoin: true }))),
    ("shut down", |subject| Some(subject.ask(Request::Shutdown))),
];

const TIME: &[Row] = &[
    ("a minute passes", |subject| {
        subject.pass(Duration::from_secs(60));
        None
    }),
    ("the machine slept for a minute", |subject| {
        subject.engine.handle_input(Input::Woke(Duration::from_secs(60)), subject.now);
        subject.drain();
        None
    }),
];

/// The row that is about this request: a new kind of request needs one.
fn row_of(request: &Request) -> &'static str {
    match request {
        Request::Offer { .. } => "offer a call to the same people",
        Request::Accept(..) => "accept",
        Request::Reject(..) => "reject",
        Request::Hangup(_) => "hang up",
        Request::Join(..) => "join",
        Request::Invite { .. } => "invite",
        Request::Hold(_) => "hold",
        Request::Resume(_) => "resume",
        Request::Record { .. } => "record",
        Request::Mute(_) => "mute",
        Request::Talk(_) => "push to talk",
        Request::Deafen(_) => "deafen",
        Request::SetDoNotDisturb(_) => "do not disturb",
        Request::SetContacts(_) => "block the other",
        Request::SetAddresses(_) => "tell where this node is dialled",
        Request::Restore { .. } => "restore nothing",
        Request::Shutdown => "shut down",
    }
}

fn table() -> String {
    let mut table = String::new();
    for (title, rows) in [("message", MESSAGES), ("request", REQUESTS), ("time", TIME)] {
        let names: Vec<&str> = STATES.iter().map(|(_, name)| *name).collect();
        let _ = writeln!(table, "| {title} | {} |\n|{}", names.join(" | "), "---|".repeat(STATES.len() + 1));
        for (name, happen) in rows {
            let cells = STATES.iter().map(|(state, _)| {
                let mut subject = Subject::in_state(*state);
                let result = happen(&mut subject);
                assert!(result.is_none() || subject.asked == Some(*name), "{name} is another request");
                subject.cell(result)
            });
            let _ = writeln!(table, "| {name} | {} |", cells.collect::<Vec<_>>().join(" | "));
        }
        table.push('\n');
    }
    table
}

#[test]
fn the_table_of_all_states_and_events_in_the_protocol_is_what_the_engine_does() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/protocol.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).expect("docs/protocol.md has a place for the table");
    let (written, after) = rest.split_once(END).expect("the table ends");
    let made = format!("\n{}", table());
    if std::env::var_os("TELECON_WRITE_TABLE").is_some() {
        std::fs::write(&path, [before, BEGIN, &made, END, after].concat()).unwrap();
        return;
    }
    let differs = written.lines().zip(made.lines()).find(|(written, made)| written != made);
    assert!(
        written == made,
        "docs/protocol.md says something else, first {differs:?}; TELECON_WRITE_TABLE=1 corrects it"
    );
}

#[test]
fn the_table_has_every_kind_of_message() {
    let kinds = ["Offer", "Cancel", "Answered", "Ringing", "Decline", "Join", "Hello", "Leave", "Sdp", "Ice"];
    for kind in kinds.iter().chain(&["Restart", "State", "Ack", "a kind of a later version"]) {
        assert!(MESSAGES.iter().any(|(name, _)| name.contains(kind)), "{kind}");
    }
}
