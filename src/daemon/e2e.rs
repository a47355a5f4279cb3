//! Two daemons in one process call each other over the loopback: real gossip, real sealing, real WebRTC, WAV files for sound.

use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::*;
use crate::{
    audio::{SAMPLE_RATE_HZ, testing::wav},
    client::{Client, ClientError, Watch},
    config::Backend,
    control::wire::Method,
};

/// Between two looks at what has no event.
const POLL: Duration = Duration::from_millis(10);
/// What has not happened by then does not happen: the test fails instead of hanging.
const PATIENCE: Duration = Duration::from_secs(60);

struct Member {
    dir: TempDir,
    running: JoinHandle<Result<(), DaemonError>>,
    client: Client,
    events: Watch,
}

impl Member {
    async fn start(tone_hz: f32, peers: Vec<String>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let input = dir.path().join("says.wav");
        write_tone(&input, tone_hz);
        let mut config = Config::default();
        config.network.listen = vec!["/ip4/127.0.0.1/udp/0/quic-v1".into()];
        config.network.mdns = false;
        config.network.peers = peers;
        config.network.ice_interfaces = vec!["lo".into()];
        config.audio.backend = Backend::File;
        config.audio.input_file = input.to_str().unwrap().into();
        config.audio.output_file = dir.path().join("hears.wav").to_str().unwrap().into();
        let paths = Paths::resolve(Some(dir.path())).unwrap();
        let socket = paths.socket.clone();
        let running = tokio::spawn(run(paths, config, None));
        let client = connect(&socket).await;
        let events = connect(&socket).await.watch(None).await.unwrap();
        Self { dir, running, client, events }
    }

    async fn ask(&mut self, method: Method) -> Value {
        self.client.request(method, None).await.unwrap()
    }

    /// Reads events until one is as described.
    async fn event(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        let look = async {
            loop {
                let event = self.events.next().await.expect("events go on").unwrap();
                if wanted(&event) {
                    return event;
                }
            }
        };
        timeout(PATIENCE, look).await.expect("the event comes")
    }

    /// Asks until the answer is as wanted.
    async fn until(&mut self, method: Method, wanted: impl Fn(&Value) -> bool) -> Value {
        let look = async {
            loop {
                let answer = self.ask(method.clone()).await;
                if wanted(&answer) {
                    return answer;
                }
                tokio::time::sleep(POLL).await;
            }
        };
        timeout(PATIENCE, look).await.expect("the answer becomes as wanted")
    }

    /// Stops the daemon and tells how much of what this member heard was each tone.
    async fn stop(mut self, tones_hz: [f32; 2]) -> [f32; 2] {
        self.ask(Method::DaemonStop {}).await;
        self.running.await.unwrap().unwrap();
        tones_hz.map(|tone_hz| share_of(&self.dir.path().join("hears.wav"), tone_hz))
    }
}

pub(super) async fn connect(socket: &Path) -> Client {
    let look = async {
        loop {
            match Client::connect(socket).await {
                Ok(client) => return client,
                Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    };
    timeout(PATIENCE, look).await.expect("the daemon answers")
}

fn write_tone(path: &Path, tone_hz: f32) {
    let angle = |at: u32| at as f32 / SAMPLE_RATE_HZ as f32 * tone_hz * std::f32::consts::TAU;
    wav::write(path, &(0..SAMPLE_RATE_HZ).map(|at| 0.25 * angle(at).sin()).collect::<Vec<f32>>());
}

/// How much of the WAV is this tone, relative to all of it (Goertzel).
fn share_of(path: &Path, tone_hz: f32) -> f32 {
    let samples = wav::read(path);
    let (mut re, mut im, mut energy) = (0.0_f64, 0.0_f64, 0.0_f64);
    let mut best = 0.0_f64;
    for (at, sample) in samples.iter().enumerate() {
        let angle = f64::from(tone_hz) * at as f64 / f64::from(SAMPLE_RATE_HZ) * std::f64::consts::TAU;
        re += f64::from(*sample) * angle.cos();
        im += f64::from(*sample) * angle.sin();
        energy += f64::from(*sample).powi(2);
        if (at + 1) % 4800 == 0 {
            best = best.max(2.0 * (re * re + im * im) / 4800.0 / energy.max(1e-9));
            (re, im, energy) = (0.0, 0.0, 0.0);
        }
    }
    best as f32
}

#[tokio::test(flavor = "multi_thread")]
async fn two_daemons_hear_each_other_and_end_the_call_together() {
    let mut anna = Member::start(440.0, Vec::new()).await;
    let me = anna.until(Method::IdentityShow {}, |me| me["listen"][0].is_string()).await;
    let mut bert = Member::start(880.0, vec![me["listen"][0].as_str().unwrap().into()]).await;
    bert.until(Method::DaemonStatus {}, |status| status["peers"] == 1).await;

    let offered = bert.ask(Method::CallOffer { who: vec![me["did"].as_str().unwrap().into()], closed: false }).await;
    let rang = anna.event(|event| event["event"] == "call_rang").await;
    assert_eq!(rang["call"], offered["call"]);
    anna.ask(Method::CallAccept { call: None, leave: false }).await;
    let heard = |stats: &Value| stats["legs"][0]["level_db"].as_f64().is_some_and(|level_db| level_db > -20.0);
    for member in [&mut anna, &mut bert] {
        member.event(|event| event["event"] == "participant_changed" && event["state"] == "joined").await;
        let stats = member.until(Method::MediaStats {}, heard).await;
        assert_eq!((&stats["legs"][0]["state"], &stats["rejected"]), (&json!("joined"), &json!({})), "{stats}");
        assert!(stats["legs"][0]["connected_ms"].is_u64(), "{stats}");
    }
    let who = vec![me["did"].as_str().unwrap().into()];
    let invited = bert.ask(Method::CallInvite { call: None, who }).await;
    assert_eq!(invited["invitees"], json!([]), "Anna is in it already");
    bert.ask(Method::CallHangup { call: None }).await;
    let ended = anna.event(|event| event["event"] == "call_ended" || event["state"] == "left").await;
    assert_eq!(ended["call"], offered["call"]);
    let [own, other] = anna.stop([440.0, 880.0]).await;
    assert!(own < 0.1 && other > 0.5, "Anna hears Bert alone: {own} {other}");
    let [own, other] = bert.stop([880.0, 440.0]).await;
    assert!(own < 0.1 && other > 0.5, "Bert hears Anna alone: {own} {other}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_clients_that_accept_and_reject_at_once_one_wins_and_the_other_is_told() {
    let mut anna = Member::start(440.0, Vec::new()).await;
    let me = anna.until(Method::IdentityShow {}, |me| me["listen"][0].is_string()).await;
    let mut bert = Member::start(880.0, vec![me["listen"][0].as_str().unwrap().into()]).await;
    bert.until(Method::DaemonStatus {}, |status| status["peers"] == 1).await;
    let socket = Paths::resolve(Some(anna.dir.path())).unwrap().socket;
    let (mut one, mut two) = (connect(&socket).await, connect(&socket).await);
    // A stranger would ring only once.
    let did = bert.ask(Method::IdentityShow {}).await["did"].as_str().unwrap().to_owned();
    anna.ask(Method::ContactAdd { did, name: "Bert".into(), address: None }).await;
    let mut watch = connect(&socket).await.watch(Some(0)).await.unwrap();

    for accept_first in [true, false] {
        bert.ask(Method::CallOffer { who: vec![me["did"].as_str().unwrap().into()], closed: false }).await;
        let call = anna.event(|event| event["event"] == "call_rang").await["call"].as_str().map(String::from);
        let accept = one.request(Method::CallAccept { call: call.clone(), leave: false }, None);
        let reject = two.request(Method::CallReject { call: call.clone(), reason: None, text: None }, None);
        // Both are on their way before either is answered; who is polled first is first.
        let (accepted, rejected) = match accept_first {
            true => futures::join!(accept, reject),
            false => {
                let (rejected, accepted) = futures::join!(reject, accept);
                (accepted, rejected)
            }
        };
        let loser = match (accepted, rejected) {
            (Ok(_), Err(error)) | (Err(error), Ok(_)) => error,
            both => panic!("one wins: {both:?}"),
        };
        let ClientError::Failed(failure) = loser else { panic!("{loser}") };
        assert_eq!(failure.code, "not_ringing", "{failure}");
        assert!(failure.message.ends_with("accepted") || failure.message.ends_with("rejected"), "{failure}");
        // With the call left out it is the same.
        let late = one.request(Method::CallAccept { call: None, leave: false }, None).await;
        assert!(matches!(late, Err(ClientError::Failed(failure)) if failure.code == "not_ringing"));
        for member in [&mut anna, &mut bert] {
            let _over_already = member.client.request(Method::CallHangup { call: None }, None).await;
            member.until(Method::CallList {}, |calls| calls["calls"] == json!([])).await;
        }
    }
    // All watchers see all of it, in one order with the same numbers.
    let seen = anna.client.request(Method::DaemonStatus {}, None).await.unwrap()["seq"].as_u64().unwrap();
    for seq in 1..=seen {
        assert_eq!(watch.next().await.unwrap().unwrap()["seq"], seq);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_to_be_heard_is_not_from_the_first_sound_on() {
    let mut anna = Member::start(440.0, Vec::new()).await;
    let me = anna.until(Method::IdentityShow {}, |me| me["listen"][0].is_string()).await;
    let mut bert = Member::start(880.0, vec![me["listen"][0].as_str().unwrap().into()]).await;
    bert.until(Method::DaemonStatus {}, |status| status["peers"] == 1).await;
    let who = bert.ask(Method::IdentityShow {}).await["did"].as_str().unwrap().to_owned();
    anna.ask(Method::MediaBlock { who: who.clone() }).await;
    bert.ask(Method::CallOffer { who: vec![me["did"].as_str().unwrap().into()], closed: false }).await;
    anna.event(|event| event["event"] == "call_rang").await;
    anna.ask(Method::CallAccept { call: None, leave: false }).await;
    let received = |stats: &Value| stats["legs"][0]["packets_received"].as_u64() >= Some(50);
    let heard = |stats: &Value| stats["legs"][0]["level_db"].as_f64().is_some_and(|level_db| level_db > -20.0);
    let stats = anna.until(Method::MediaStats {}, received).await;
    assert!(!heard(&stats), "he speaks, and is not heard: {stats}");
    anna.ask(Method::MediaUnblock { who }).await;
    anna.until(Method::MediaStats {}, heard).await;
    let [_, other] = anna.stop([440.0, 880.0]).await;
    assert!(other > 0.5, "he is heard in the middle of the call: {other}");
    bert.stop([880.0, 440.0]).await;
}
