//! The daemon as its clients meet it: a real one in a directory of its own, on the loopback, without sound.

mod calls;
mod devices;
mod people;
mod recording;

use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;

use super::{views::samples::did_of, *};
use crate::{
    config::Backend,
    control::wire::{Failure, Method, Subscription},
};

struct Home {
    dir: TempDir,
    daemon: Daemon,
    doors: Doors,
}

fn paths(dir: &TempDir) -> Paths {
    Paths::resolve(Some(dir.path())).unwrap()
}

fn quiet() -> Config {
    let mut config = Config::default();
    config.network.listen = vec!["/ip4/127.0.0.1/tcp/0".into()];
    config.network.mdns = false;
    config.audio.backend = Backend::Null;
    config
}

async fn home() -> Home {
    home_in(tempfile::tempdir().unwrap()).await
}

async fn home_in(dir: TempDir) -> Home {
    let (daemon, doors) = start::start(&paths(&dir), quiet(), None).await.unwrap();
    Home { dir, daemon, doors }
}

impl Home {
    /// Asks for something that may be answered later.
    fn begin(&mut self, method: Value, request_key: Option<&str>) -> oneshot::Receiver<Result<Value, Failure>> {
        let (reply, answer) = oneshot::channel();
        let method: Method = serde_json::from_value(method).unwrap();
        self.daemon.command(Command::Call { method, request_key: request_key.map(String::from), reply }, now());
        answer
    }

    async fn ask_with(&mut self, method: Value, request_key: Option<&str>) -> Result<Value, Failure> {
        let answer = self.begin(method, request_key);
        self.answered(answer).await
    }

    /// An answer, for which the recorder's thread may have to tell something first.
    async fn answered(&mut self, mut answer: oneshot::Receiver<Result<Value, Failure>>) -> Result<Value, Failure> {
        loop {
            tokio::select! {
                biased;
                answer = &mut answer => return answer.unwrap(),
                Some(event) = self.doors.audio.recv() => self.daemon.audio_event(event, now()),
            }
        }
    }

    async fn ask(&mut self, method: Value) -> Result<Value, Failure> {
        self.ask_with(method, None).await
    }

    /// What `ask` answers, which must be a success.
    async fn done(&mut self, name: &str, params: Value) -> Value {
        let request = method(name, params);
        self.ask(request.clone()).await.unwrap_or_else(|failure| panic!("{request}: {failure}"))
    }

    /// The code word of what `ask` answers, which must be a failure.
    async fn refusal(&mut self, name: &str, params: Value) -> String {
        let request = method(name, params);
        match self.ask(request.clone()).await {
            Err(failure) => failure.code,
            Ok(answer) => panic!("{request} was answered: {answer}"),
        }
    }

    /// All events so far.
    async fn events(&mut self) -> Vec<Value> {
        let replay = self.watch(Some(0)).await.unwrap().replay;
        replay.iter().map(|record| serde_json::to_value(&**record).unwrap()).collect()
    }

    /// Ends at once, as `kill -9` would, and starts in the same directory.
    async fn killed_and_started(self) -> Self {
        let Self { dir, daemon, doors } = self;
        drop(daemon);
        doors.server.shutdown().await;
        home_in(dir).await
    }

    async fn watch(&mut self, since: Option<u64>) -> Result<Subscription, Failure> {
        let (reply, answer) = oneshot::channel();
        self.daemon.command(Command::Watch { since, reply }, now());
        answer.await.unwrap()
    }

    /// All that a refused request must leave alone.
    async fn state(&mut self) -> [Value; 2] {
        let mut status = self.ask(method("daemon.status", json!({}))).await.unwrap();
        status["uptime_s"] = Value::Null;
        status["listen"] = Value::Null;
        [status, self.ask(method("contact.list", json!({}))).await.unwrap()]
    }
}

fn method(name: &str, params: Value) -> Value {
    json!({ "method": name, "params": params })
}

fn offer(who: &[&str]) -> Value {
    method("call.offer", json!({ "who": who }))
}

#[tokio::test]
async fn a_double_click_makes_one_call() {
    let mut home = home().await;
    let bob = did_of(2);
    let first = home.ask_with(offer(&[bob.as_str()]), Some("click")).await.unwrap();
    assert_eq!(home.ask_with(offer(&[bob.as_str()]), Some("click")).await.unwrap(), first);
    let calls = home.ask(method("call.list", json!({}))).await.unwrap();
    assert_eq!(calls["calls"].as_array().unwrap().len(), 1);
    let mut home = home.killed_and_started().await;
    assert_eq!(home.ask_with(offer(&[bob.as_str()]), Some("click")).await.unwrap(), first, "after a restart too");
    let other = home.ask_with(offer(&[bob.as_str()]), Some("another click")).await.unwrap();
    assert_ne!(other["call"], first["call"]);
}

#[tokio::test]
async fn a_refused_request_has_its_stable_code_and_changes_nothing() {
    let mut home = home().await;
    let (own, bob) = (home.daemon.did.to_string(), did_of(2).to_string());
    home.ask(method("contact.add", json!({ "did": bob, "name": "Bob" }))).await.unwrap();
    let before = home.state().await;
    let refused = [
        (offer(&["bop"]), "unknown_contact"),
        (offer(&["did:key:zNonsense"]), "bad_did"),
        (offer(&[&own]), "bad_invitees"),
        (offer(&[]), "bad_invitees"),
        (method("call.accept", json!({})), "no_such_call"),
        (method("call.reject", json!({ "reason": "bored" })), "bad_reason"),
        (method("call.reject", json!({ "text": "a\u{1b}b" })), "bad_text"),
        (method("call.reject", json!({ "text": "x".repeat(161) })), "bad_text"),
        (method("call.hangup", json!({ "call": "0b1e" })), "no_such_call"),
        (method("call.hold", json!({})), "no_such_call"),
        (method("call.resume", json!({})), "no_such_call"),
        (method("call.join", json!({})), "no_such_call"),
        (method("call.join", json!({ "call": "0b1e" })), "no_such_call"),
        (method("call.invite", json!({ "who": ["bob"] })), "no_such_call"),
        (method("call.invite", json!({ "who": ["bop"] })), "unknown_contact"),
        (method("media.volume", json!({ "who": "bob", "percent": 201 })), "bad_volume"),
        (method("media.volume", json!({ "who": "bop", "percent": 50 })), "unknown_contact"),
        (method("media.block", json!({ "who": own })), "own_did"),
        (method("contact.block", json!({ "who": did_of(3) })), "unknown_contact"),
        (method("events.mark", json!({ "seq": 1000 })), "bad_seq"),
        (method("call.show", json!({})), "no_such_call"),
        (method("contact.add", json!({ "did": own, "name": "me" })), "own_did"),
        (method("contact.add", json!({ "did": "x", "name": "x" })), "bad_did"),
        (method("contact.add", json!({ "did": did_of(3), "name": "BOB" })), "contact_exists"),
        (method("contact.add", json!({ "did": did_of(3), "name": "a\tb" })), "bad_name"),
        (method("contact.add", json!({ "did": did_of(3), "name": "c", "address": "10.0.0.1" })), "bad_address"),
        (method("contact.remove", json!({ "who": did_of(3) })), "unknown_contact"),
        (method("net.connect", json!({ "address": "nowhere" })), "bad_address"),
    ];
    for (request, code) in refused {
        let failure = home.ask(request.clone()).await.unwrap_err();
        assert_eq!(failure.code, code, "{request}: {failure}");
        assert!(failure.message.len() > 20, "{request}: {failure}");
    }
    assert_eq!(home.state().await, before);
}

#[tokio::test]
async fn a_contact_can_be_called_by_name_and_is_shown_with_it() {
    let mut home = home().await;
    let bob = did_of(2).to_string();
    home.ask(method("contact.add", json!({ "did": bob, "name": "Bob" }))).await.unwrap();
    let offered = home.ask(offer(&["bob"])).await.unwrap();
    let shown = home.ask(method("call.show", json!({ "call": offered["call"] }))).await.unwrap();
    assert_eq!(shown["participants"][0]["name"], "Bob");
    let status = home.ask(method("daemon.status", json!({}))).await.unwrap();
    assert_eq!(status["active_call"], shown);
    home.ask(method("contact.remove", json!({ "who": "BOB" }))).await.unwrap();
    let shown = home.ask(method("call.show", json!({}))).await.unwrap();
    assert_eq!((&shown["participants"][0]["name"], &shown["participants"][0]["did"]), (&Value::Null, &json!(bob)));
}

#[tokio::test]
async fn a_watcher_gets_the_snapshot_then_what_it_missed_then_what_comes() {
    let mut home = home().await;
    home.ask(method("media.mute", json!({}))).await.unwrap();
    home.ask(method("media.deafen", json!({}))).await.unwrap();
    let mut watch = home.watch(Some(1)).await.unwrap();
    assert_eq!((&watch.snapshot["seq"], &watch.snapshot["muted"]), (&json!(2), &json!(true)));
    assert_eq!(watch.replay.iter().map(|record| record.seq).collect::<Vec<_>>(), [2]);
    home.ask(method("media.unmute", json!({}))).await.unwrap();
    assert_eq!(watch.live.try_recv().unwrap().seq, 3);
    assert!(home.watch(None).await.unwrap().replay.is_empty());
}

#[tokio::test]
async fn while_the_daemon_stops_everybody_is_told_so() {
    let mut home = home().await;
    home.ask(method("daemon.stop", json!({}))).await.unwrap();
    for request in [offer(&[did_of(2).as_str()]), method("daemon.status", json!({}))] {
        assert_eq!(home.ask(request).await.unwrap_err().code, "stopping");
    }
    assert_eq!(home.watch(None).await.unwrap_err().code, "stopping");
    home.ask(method("daemon.stop", json!({}))).await.unwrap();
}

#[tokio::test]
async fn a_second_daemon_on_the_same_socket_is_refused() {
    let home = home().await;
    let Err(error) = start::start(&paths(&home.dir), quiet(), None).await else { panic!("two daemons on one socket") };
    assert!(matches!(error, DaemonError::Serve(_)), "{error}");
}

#[tokio::test]
async fn a_wrong_address_in_the_configuration_names_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = quiet();
    config.network.peers = vec!["192.0.2.7:4001".into()];
    let Err(error) = start::start(&paths(&dir), config, None).await else { panic!("started with a wrong address") };
    assert!(error.to_string().contains("[network] peers: \"192.0.2.7:4001\""), "{error}");
}

#[tokio::test]
async fn a_turn_password_is_never_shown() {
    let mut home = home().await;
    let server = crate::config::IceServer { credential: "hunter2".into(), ..Default::default() };
    home.daemon.config.network.ice_servers.push(server);
    let shown = home.ask(method("config.show", json!({}))).await.unwrap().to_string();
    assert!(!shown.contains("hunter2") && shown.contains("ice_servers"), "{shown}");
}

#[tokio::test]
async fn the_daemon_ends_in_time_when_asked_and_takes_its_socket_away() {
    let dir = tempfile::tempdir().unwrap();
    let paths = paths(&dir);
    let socket = paths.socket.clone();
    let running = tokio::spawn(run(paths, quiet(), None));
    let mut client = e2e::connect(&socket).await;
    client.request(Method::CallOffer { who: vec![did_of(2).to_string()], closed: false }, None).await.unwrap();
    client.request(Method::DaemonStop {}, None).await.unwrap();
    // Nobody acknowledges the Cancel, so the outbox has its whole second.
    tokio::time::timeout(Duration::from_secs(10), running).await.unwrap().unwrap().unwrap();
    assert!(!socket.exists());
}
