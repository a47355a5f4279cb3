//! Calls among real daemons: what happens to the others when one is killed or stopped, and what forgers achieve.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ed25519_dalek::SigningKey;
use libp2p::identity::Keypair;
use serde_json::Value;
use telecon::{
    net::{self, Net, NetConfig, NetEvent},
    proto::{
        id::{CallId, DeviceId, Did, MessageId},
        io::Now,
        seal::{Seal, Sealer},
        signal::{Answered, Body, CallKey, CancelReason, Offer, Outgoing, Sealing, Settings, Signal, Ticket, Topic},
    },
};
use tokio::sync::mpsc;

use crate::support::{
    daemon::{Daemon, Start},
    namespace::Namespace,
};

const SILENT: &str = "[audio]\nbackend = \"null\"\n[call]\nauto_accept = \"all\"\nreconnect_seconds = 6\n";

/// Daemons that are all connected with each other, and their call: the first has called the others.
fn call_of(people: usize, config: &str) -> Vec<Daemon> {
    let mut daemons: Vec<Daemon> = (0..people).map(|_| Daemon::start(config)).collect();
    for at in 1..people {
        let (before, after) = daemons.split_at_mut(at);
        for other in before {
            after[0].connect(other);
        }
    }
    let others: Vec<String> = daemons[1..].iter().map(|daemon| daemon.did.clone()).collect();
    let words: Vec<&str> = ["call"].into_iter().chain(others.iter().map(String::as_str)).collect();
    daemons[0].json(&words);
    let dids: Vec<String> = daemons.iter().map(|daemon| daemon.did.clone()).collect();
    for (at, daemon) in daemons.iter_mut().enumerate() {
        for (_, did) in dids.iter().enumerate().filter(|(other, _)| *other != at) {
            daemon.until_shown(did, "joined");
        }
    }
    daemons
}

fn received_bytes_grow(daemon: &mut Daemon, from: &str) {
    let recv_kbps = |stats: &Value| {
        let legs = stats["legs"].as_array().cloned().unwrap_or_default();
        legs.iter().find(|leg| leg["did"] == from).and_then(|leg| leg["recv_kbps"].as_f64()).unwrap_or(0.0)
    };
    daemon.until(&["stats"], |stats| recv_kbps(stats) > 1.0);
}

#[test]
fn when_one_of_three_is_killed_the_others_talk_on_and_see_it_reconnecting_then_left() {
    let mut daemons = call_of(3, SILENT);
    let (third, killed_at) = (daemons[2].did.clone(), Instant::now());
    daemons[2].kill();
    let [ada, ben, _] = &mut daemons[..] else { unreachable!("three were started") };
    for daemon in [&mut *ada, &mut *ben] {
        daemon.until_shown(&third, "reconnecting");
    }
    println!("kill -9 to reconnecting: {} ms", killed_at.elapsed().as_millis());
    for daemon in [&mut *ada, &mut *ben] {
        daemon.until_shown(&third, "left");
    }
    let (ada_did, ben_did) = (ada.did.clone(), ben.did.clone());
    ada.until_shown(&ben_did, "joined");
    ben.until_shown(&ada_did, "joined");
    received_bytes_grow(ada, &ben_did);
    received_bytes_grow(ben, &ada_did);
}

#[test]
fn a_daemon_that_is_stopped_leaves_the_call_and_the_others_know() {
    let mut daemons = call_of(3, SILENT);
    let (third, stopped_at) = (daemons[2].did.clone(), Instant::now());
    daemons[2].terminate();
    println!("SIGTERM to the end of the process: {} ms", stopped_at.elapsed().as_millis());
    for daemon in &mut daemons[..2] {
        // It says so itself: no time passes in which it counts as reconnecting.
        let calls = daemon.until(&["calls"], |calls| {
            Daemon::roster(calls).iter().any(|(did, state)| did == &third && state != "joined")
        });
        assert!(Daemon::roster(&calls).contains(&(third.clone(), "left".into())), "{calls}");
    }
}

#[test]
fn a_daemon_that_is_not_to_go_back_offers_to_and_the_user_can() {
    let mut daemons = call_of(3, &format!("{SILENT}rejoin = false\n"));
    let (ada_did, eve_did) = (daemons[0].did.clone(), daemons[2].did.clone());
    let call = daemons[2].json(&["calls"])["calls"][0]["call"].clone();
    daemons[2].kill();
    daemons[2].restart();
    let [ada, _, eve] = &mut daemons[..] else { unreachable!("three were started") };
    let calls = eve.json(&["calls"]);
    assert_eq!((&calls["calls"], &calls["past"][0]["call"]), (&Value::Array(Vec::new()), &call), "{calls}");
    assert_eq!(eve.json(&["history"])["history"][0]["outcome"], "interrupted");
    eve.json(&["join"]);
    eve.until_shown(&ada_did, "joined");
    ada.until_shown(&eve_did, "joined");
    assert_eq!(eve.json(&["history"])["history"][0]["outcome"], Value::Null, "it goes on in its row");
}

#[test]
fn a_daemon_that_was_killed_can_be_called_again_at_once() {
    let mut daemons = call_of(2, SILENT);
    daemons[1].kill();
    let [ada, ben] = &mut daemons[..] else { unreachable!("two were started") };
    ada.run(&["hangup"]);
    ben.restart();
    ben.connect(ada);
    ada.json(&["call", &ben.did]);
    ada.until_shown(&ben.did, "joined");
}

/// As two machines on one local network, with the default configuration, and as it happens without a sound card.
#[test]
fn two_machines_on_one_network_find_each_other_and_are_in_a_call() {
    let namespaces = Namespace::linked();
    let [mut ada, mut ben] = namespaces.each_ref().map(|namespace| {
        Daemon::start_with(Start {
            config: "[call]\nauto_accept = \"all\"\n".into(),
            whole_network: true,
            env: vec![("PULSE_SERVER".into(), "unix:/nonexistent".into())],
            through: namespace.enter(),
            ..Start::default()
        })
    });
    for daemon in [&mut ada, &mut ben] {
        daemon.until(&["status"], |status| status["peers"].as_u64() >= Some(1));
    }
    ada.json(&["contacts", "add", &ben.did, "ben"]);
    ada.json(&["call", "ben"]);
    let (ada_did, ben_did) = (ada.did.clone(), ben.did.clone());
    ada.until_shown(&ben_did, "joined");
    ben.until_shown(&ada_did, "joined");
    received_bytes_grow(&mut ada, &ben_did);
    received_bytes_grow(&mut ben, &ada_did);
    let status = ada.json(&["status"]);
    assert!(status["audio"]["problem"].is_string(), "it has no sound card and does not say so: {status}");
}

#[test]
fn the_log_of_a_call_holds_no_did_no_address_and_no_key() {
    let mut daemons = call_of(2, SILENT);
    daemons[0].run(&["hangup"]);
    daemons[1].terminate();
    daemons[0].terminate();
    for daemon in &daemons {
        let log = daemon.log();
        assert!(log.contains("ready"), "the log is somewhere else:\n{log}");
        for secret in ["did:key", "z6Mk", "12D3Koo", "/ip4/", "127.0.0.1", "fingerprint", "candidate:", "a=ice"] {
            assert!(!log.contains(secret), "{secret} stands in the log:\n{log}");
        }
    }
}

/// A node that speaks telecon's gossip, and seals what it likes.
struct Mallory {
    net: Net,
    events: mpsc::Receiver<NetEvent>,
    sealer: Sealer,
    did: Did,
    messages: u128,
    /// How far its clock is ahead.
    ahead_ms: u64,
}

impl Mallory {
    async fn connected_to(address: &str, seed: u8) -> Self {
        let signing = SigningKey::from_bytes(&[seed; 32]);
        let did = Did::from_key(signing.verifying_key());
        let config = NetConfig {
            keypair: Keypair::generate_ed25519(),
            listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
            peers: Vec::new(),
            mdns: false,
        };
        let (net, mut events) = net::start(config).unwrap();
        net.connect(address.parse().unwrap()).await.unwrap();
        // What is published before the other side's subscription is known reaches nobody.
        while !matches!(next(&mut events).await, NetEvent::Subscribed { topic } if topic.starts_with("offer_call/")) {}
        let sealer = Sealer::new(signing, did.clone(), DeviceId([seed; 16]), [seed ^ 0xaa; 32]);
        Self { net, events, sealer, did, messages: 0, ahead_ms: 0 }
    }

    fn ticket(&self, key: u8) -> Ticket {
        let (settings, key) = (Settings::default(), CallKey([key; 32]));
        let call = CallId::derive(&self.did, &settings, &key.0);
        Ticket { call, creator: self.did.clone(), settings, key, chain: Vec::new() }
    }

    fn offer(&mut self, ticket: &Ticket, to: &Did) -> Vec<u8> {
        self.sealer.open_call(ticket);
        let participants = vec![self.did.clone(), to.clone()];
        let offer = Offer { ticket: ticket.clone(), participants, ring_ms: u32::MAX };
        self.seal_for_inbox(to, ticket.call, Body::Offer(Box::new(offer))).expect("it can be sealed")
    }

    fn seal_for_inbox(&mut self, to: &Did, call: CallId, body: Body) -> Option<Vec<u8>> {
        self.messages += 1;
        let signal = Signal { id: MessageId(self.messages.to_be_bytes()), call, body };
        let topic = Topic::Inbox(to.clone());
        let outgoing = Outgoing { topic, sealing: Sealing::Envelope, to: Some(to.clone()), signal };
        let now = now();
        let now = Now { unix_ms: now.unix_ms + self.ahead_ms, ..now };
        self.sealer.seal(&outgoing, now)
    }
}

async fn next(events: &mut mpsc::Receiver<NetEvent>) -> NetEvent {
    let event = tokio::time::timeout(Duration::from_secs(30), events.recv()).await;
    event.expect("something happens").expect("the network runs")
}

fn now() -> Now {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Now { mono: Instant::now(), unix_ms: unix.as_millis().try_into().unwrap() }
}

fn rejected(stats: &Value) -> u64 {
    stats["rejected"].as_object().map_or(0, |reasons| reasons.values().filter_map(Value::as_u64).sum())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_offers_ring_nobody_answer_nothing_and_are_counted() {
    let mut bob = Daemon::start("[audio]\nbackend = \"null\"\n");
    let victim: Did = bob.did.parse().unwrap();
    let mut mallory = Mallory::connected_to(&bob.address, 7).await;
    let mut eve = Mallory::connected_to(&bob.address, 8).await;
    let inbox = Topic::Inbox(victim.clone()).to_string();
    let third = Did::from_key(SigningKey::from_bytes(&[9; 32]).verifying_key());

    let good = mallory.ticket(1);
    let good_offer = mallory.offer(&good, &victim);
    let mut flipped = mallory.offer(&mallory.ticket(2), &victim);
    flipped[200] ^= 1;
    // Eve signs an offer in a call that Mallory made, for which she holds no grant.
    let wrong_signer = {
        let stolen = mallory.ticket(3);
        let real = eve.did.clone();
        let ticket = Ticket { creator: real, ..eve.ticket(3) };
        let mut offer = eve.offer(&ticket, &victim);
        let foreign = mallory.offer(&stolen, &victim);
        // Her sealed body under Mallory's header.
        offer[..54].copy_from_slice(&foreign[..54]);
        offer
    };
    let for_another = mallory.offer(&mallory.ticket(4), &third);
    // An id that does not match its content cannot even be sealed here; the seal's own tests forge one.
    for ticket in [&good, &mallory.ticket(2), &mallory.ticket(4)] {
        mallory.net.subscribe(Topic::Member(ticket.call, mallory.did.clone()).to_string());
    }

    let forged = [flipped, wrong_signer, for_another];
    for bytes in &forged {
        mallory.net.publish(inbox.clone(), bytes.clone());
    }
    bob.until(&["stats"], |stats| rejected(stats) >= forged.len() as u64);
    assert_eq!(bob.json(&["calls"])["calls"], Value::Array(Vec::new()), "a forged offer rings");

    // The honest one proves that silence above was no accident: it rings, and it is the first that is answered.
    mallory.net.publish(inbox.clone(), good_offer.clone());
    let answered = Topic::Member(good.call, mallory.did.clone()).to_string();
    let first_answer = loop {
        match next(&mut mallory.events).await {
            NetEvent::Message { topic, .. } => break topic,
            NetEvent::Subscribed { .. } | NetEvent::ListenChanged => {}
        }
    };
    assert_eq!(first_answer, answered);
    let calls = bob.until(&["calls"], |calls| calls["calls"].as_array().is_some_and(|calls| !calls.is_empty()));
    assert_eq!(calls["calls"][0]["call"], good.call.to_string());

    let before = rejected(&bob.json(&["stats"]));
    mallory.net.publish(inbox, good_offer);
    let stats = bob.until(&["stats"], |stats| rejected(stats) > before);
    assert!(stats["rejected"]["replayed"].as_u64() >= Some(1), "{stats}");
    assert_eq!(bob.json(&["calls"])["calls"].as_array().unwrap().len(), 1, "a replay rings");
}

fn callers(calls: &Value) -> Vec<&str> {
    calls["calls"].as_array().unwrap().iter().map(|call| call["from"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_silences_nobody_elses_call_and_an_offer_that_was_refused_rings_no_more_after_a_restart() {
    let mut bob = Daemon::start("[audio]\nbackend = \"null\"\n");
    let victim: Did = bob.did.parse().unwrap();
    let inbox = Topic::Inbox(victim.clone()).to_string();
    let mut ada = Mallory::connected_to(&bob.address, 7).await;
    let ticket = ada.ticket(1);
    let offer = ada.offer(&ticket, &victim);
    ada.net.publish(inbox.clone(), offer.clone());
    bob.until(&["calls"], |calls| callers(calls) == [ada.did.as_str()]);

    // Mallory knows the whole ticket, as somebody who was invited, too, does.
    let mut mallory = Mallory::connected_to(&bob.address, 8).await;
    mallory.sealer.open_call(&ticket);
    let answered = Body::Answered(Answered { device: DeviceId([9; 16]), joined: None });
    for body in [answered, Body::Cancel(CancelReason::Cancelled), Body::Cancel(CancelReason::RangOut)] {
        let bytes = mallory.seal_for_inbox(&victim, ticket.call, body).expect("it can be sealed");
        mallory.net.publish(inbox.clone(), bytes);
    }
    // What comes after them on the same connection has been handled: so have they.
    let own = mallory.offer(&mallory.ticket(2), &victim);
    mallory.net.publish(inbox.clone(), own);
    let both = |calls: &Value| callers(calls).contains(&mallory.did.as_str());
    let calls = bob.until(&["calls"], both);
    assert_eq!(callers(&calls).len(), 2, "somebody else's call was silenced: {calls}");

    for call in calls["calls"].as_array().unwrap() {
        bob.json(&["reject", call["call"].as_str().unwrap()]);
    }
    bob.kill();
    bob.restart();
    let mut replayer = Mallory::connected_to(&bob.address, 9).await;
    replayer.net.publish(inbox.clone(), offer);
    let fresh = replayer.offer(&replayer.ticket(3), &victim);
    replayer.net.publish(inbox, fresh);
    let calls = bob.until(&["calls"], |calls| callers(calls).contains(&replayer.did.as_str()));
    assert_eq!(callers(&calls).len(), 1, "a replay rings: {calls}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_calls_with_a_clock_that_is_wrong_rings_nobody_and_the_user_is_told_why() {
    let mut bob = Daemon::start("[audio]\nbackend = \"null\"\n");
    let victim: Did = bob.did.parse().unwrap();
    let mut friend = Mallory::connected_to(&bob.address, 7).await;
    friend.ahead_ms = 125_000;
    let offer = friend.offer(&friend.ticket(1), &victim);
    assert_eq!(bob.json(&["status"])["clock"], Value::Null);
    friend.net.publish(Topic::Inbox(victim.clone()).to_string(), offer);
    let status = bob.until(&["status"], |status| status["clock"].is_string());
    assert_eq!(status["pending"], Value::Array(Vec::new()), "{status}");
    assert!(bob.log().contains("timedatectl"), "{}", bob.log());
    friend.ahead_ms = 100_000;
    let offer = friend.offer(&friend.ticket(2), &victim);
    friend.net.publish(Topic::Inbox(victim).to_string(), offer);
    bob.until(&["calls"], |calls| calls["calls"].as_array().is_some_and(|calls| calls.len() == 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_who_floods_the_inbox_rings_once_and_keeps_no_contact_waiting() {
    let mut bob = Daemon::start("[audio]\nbackend = \"null\"\n");
    let mut ada = Daemon::start("[audio]\nbackend = \"null\"\n");
    ada.connect(&mut bob);
    bob.json(&["contacts", "add", &ada.did, "ada"]);
    ada.json(&["contacts", "add", &bob.did, "bob"]);
    let victim: Did = bob.did.parse().unwrap();
    let mut mallory = Mallory::connected_to(&bob.address, 7).await;
    let inbox = Topic::Inbox(victim.clone()).to_string();
    let flood: Vec<Vec<u8>> = (0..1_000_u32)
        .map(|n| {
            let mut key = [0; 32];
            key[..4].copy_from_slice(&n.to_be_bytes());
            let call = CallId::derive(&mallory.did, &Settings::default(), &key);
            let ticket = Ticket { call, key: CallKey(key), ..mallory.ticket(0) };
            let mut bytes = mallory.offer(&ticket, &victim);
            mallory.sealer.close_call(call);
            // Every other one costs its victim the public-key work and is noise.
            bytes[200] ^= u8::from(n % 2 == 1);
            bytes
        })
        .collect();
    let net = mallory.net.clone();
    let flooding = tokio::spawn(async move {
        let mut pace = tokio::time::interval(Duration::from_millis(2));
        for bytes in flood.iter().cycle().take(5_000) {
            net.publish(inbox.clone(), bytes.clone());
            pace.tick().await;
        }
    });
    bob.until(&["calls"], |calls| calls["calls"].as_array().is_some_and(|calls| !calls.is_empty()));
    let called_at = Instant::now();
    ada.json(&["call", "bob"]);
    let from = ada.did.clone();
    bob.until(&["calls"], |calls| calls["calls"].as_array().unwrap().iter().any(|call| call["from"] == from.as_str()));
    let waited = called_at.elapsed();
    assert!(!flooding.is_finished(), "the flood was over before the call");
    println!("a contact's call rang after {} ms", waited.as_millis());
    assert!(waited < Duration::from_secs(5), "a contact waited for {waited:?}");
    assert_eq!(bob.json(&["calls"])["calls"].as_array().unwrap().len(), 2, "the stranger's and the contact's");
    flooding.await.unwrap();
    assert_eq!(bob.json(&["calls"])["calls"].as_array().unwrap().len(), 2, "the stranger's and the contact's");
    assert!(rejected(&bob.json(&["stats"])) >= 100);
}

#[test]
fn bad_input_gets_one_sentence_the_right_exit_code_and_changes_nothing() {
    let daemon = Daemon::start("[audio]\nbackend = \"null\"\n");
    let state = |daemon: &Daemon| {
        let mut status = daemon.json(&["status"]);
        status.as_object_mut().unwrap().remove("uptime_s");
        (status, daemon.json(&["contacts", "list"]), daemon.json(&["calls"]))
    };
    let before = state(&daemon);
    let own = daemon.did.clone();
    let attempts: [(&[&str], i32); 12] = [
        (&["call", "nobody"], 65),
        (&["call", "did:key:z6MkwhatIsThis"], 65),
        (&["call", "did:web:example.org"], 65),
        (&["call", &own], 65),
        (&["call"], 64),
        (&["accept"], 65),
        (&["hangup", "zzz"], 65),
        (&["connect", "not-an-address"], 65),
        (&["connect", "/ip4/127.0.0.1"], 65),
        (&["contacts", "add", "did:key:z6Mkbad", "bob"], 65),
        (&["contacts", "remove", "bob"], 65),
        (&["mute", "--loudly"], 64),
    ];
    for (verb, code) in attempts {
        let output = daemon.run(verb);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{verb:?} said {said:?}");
        assert!(output.stdout.is_empty(), "{verb:?} printed to stdout");
        if code == 65 {
            assert_eq!(said.trim_end().lines().count(), 1, "{verb:?} said {said:?}");
            assert!(said.starts_with("telecon: "), "{verb:?} said {said:?}");
        }
    }
    assert_eq!(state(&daemon), before);
}
