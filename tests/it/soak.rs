//! What must be right every time, many times: glare, two clients at once, kill -9 in a call, two devices at once.
//!
//! Real processes on the loopback. `make test` runs a few rounds of each, `make soak` (`TELECON_SOAK=1`) all of them; only
//! there the times are held against their limits, since they need a machine that does nothing else.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use serde_json::Value;
use telecon::{
    client::{Client, ClientError},
    control::wire::Method,
};

use crate::support::daemon::Daemon;

const SILENT: &str = "[audio]\nbackend = \"null\"\n";
/// Everything that is waited for; a busy machine takes longer than the limits below.
const PATIENCE: Duration = Duration::from_secs(60);
/// Both in one call after both have called.
const GLARE_LIMIT: Duration = Duration::from_secs(1);
/// All hear each other again after a killed daemon was started again.
const REJOIN_LIMIT: Duration = Duration::from_secs(3);

fn is_soak() -> bool {
    std::env::var_os("TELECON_SOAK").is_some()
}

fn rounds(few: usize, all: usize) -> usize {
    if is_soak() { all } else { few }
}

/// Prints how long the rounds took, and holds the slowest against the limit where nothing else runs.
fn judge(what: &str, mut times: Vec<Duration>, limit: Duration) {
    times.sort();
    let (median, slowest) = (times[times.len() / 2], times[times.len() - 1]);
    println!("{what}: {} times, median {} ms, slowest {} ms", times.len(), median.as_millis(), slowest.as_millis());
    assert!(!is_soak() || slowest <= limit, "{what} took {} ms", slowest.as_millis());
}

fn socket(daemon: &Daemon) -> std::path::PathBuf {
    daemon.home().join("control.sock")
}

async fn ask(socket: &Path, method: Method) -> Result<Value, ClientError> {
    Client::connect(socket).await?.request(method, None).await
}

fn offer(to: &Daemon) -> Method {
    offer_to(&[to])
}

fn offer_to(whom: &[&Daemon]) -> Method {
    let who: Vec<&str> = whom.iter().map(|daemon| daemon.did.as_str()).collect();
    serde_json::from_value(serde_json::json!({ "method": "call.offer", "params": { "who": who } })).unwrap()
}

fn plain(name: &str) -> Method {
    serde_json::from_value(serde_json::json!({ "method": name, "params": {} })).unwrap()
}

/// Waits until the calls of that daemon are as wanted.
async fn until(socket: &Path, what: &str, wanted: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let limit = Instant::now() + PATIENCE;
    let mut client = Client::connect(socket).await.unwrap();
    loop {
        let answer = client.request(plain("call.list"), None).await.unwrap();
        let calls = answer["calls"].as_array().unwrap().clone();
        if wanted(&calls) {
            return calls;
        }
        assert!(Instant::now() < limit, "{what}: never, last {calls:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// In exactly one call, with all of these people joined.
fn in_one_call_with(calls: &[Value], dids: &[&str]) -> bool {
    let [call] = calls else { return false };
    let others = call["participants"].as_array().unwrap();
    let joined = |did: &&str| others.iter().any(|other| other["did"] == **did && other["state"] == "joined");
    call["state"] == "active" && dids.iter().all(joined)
}

async fn hang_up(sockets: &[&Path]) {
    for socket in sockets {
        // It may be over by now.
        drop(ask(socket, plain("call.hangup")).await);
    }
    for socket in sockets {
        until(socket, "no call is left", <[Value]>::is_empty).await;
    }
}

fn acquainted(people: usize, config: &str) -> Vec<Daemon> {
    let mut daemons: Vec<Daemon> = (0..people).map(|_| Daemon::start(config)).collect();
    for at in 1..people {
        let (before, after) = daemons.split_at_mut(at);
        for other in before {
            after[0].connect(other);
        }
    }
    for (at, daemon) in daemons.iter().enumerate() {
        for (other, known) in daemons.iter().enumerate().filter(|(other, _)| *other != at) {
            daemon.json(&["contacts", "add", &known.did, &format!("friend{other}")]);
        }
    }
    daemons
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_who_call_each_other_at_once_are_in_one_call() {
    let daemons = acquainted(2, SILENT);
    let (ada, ben) = (socket(&daemons[0]), socket(&daemons[1]));
    let mut times = Vec::new();
    for round in 0..rounds(10, 200) {
        let began = Instant::now();
        let (by_ada, by_ben) = tokio::join!(ask(&ada, offer(&daemons[1])), ask(&ben, offer(&daemons[0])));
        let (by_ada, by_ben) = (by_ada.unwrap(), by_ben.unwrap());
        let of_ada = until(&ada, "ada is in", |calls| in_one_call_with(calls, &[&daemons[1].did])).await;
        let of_ben = until(&ben, "ben is in", |calls| in_one_call_with(calls, &[&daemons[0].did])).await;
        times.push(began.elapsed());
        assert_eq!(of_ada[0]["call"], of_ben[0]["call"], "round {round}");
        assert!([&by_ada["call"], &by_ben["call"]].contains(&&of_ada[0]["call"]), "round {round}");
        hang_up(&[&ada, &ben]).await;
    }
    judge("glare", times, GLARE_LIMIT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_clients_that_accept_and_reject_at_once_one_wins_and_the_other_is_told() {
    let daemons = acquainted(2, SILENT);
    let (ada, ben) = (socket(&daemons[0]), socket(&daemons[1]));
    let mut accepted = 0;
    let all = rounds(10, 100);
    for round in 0..all {
        ask(&ada, offer(&daemons[1])).await.unwrap();
        until(&ben, "it rings", |calls| calls.iter().any(|call| call["state"] == "incoming")).await;
        // Whose request is read first is left to chance, and to who connects first.
        let (yes, no) = if round % 2 == 0 {
            tokio::join!(ask(&ben, plain("call.accept")), ask(&ben, plain("call.reject")))
        } else {
            let (no, yes) = tokio::join!(ask(&ben, plain("call.reject")), ask(&ben, plain("call.accept")));
            (yes, no)
        };
        let loser = match (&yes, &no) {
            (Ok(_), Err(loser)) | (Err(loser), Ok(_)) => loser,
            both => panic!("round {round}: {both:?}"),
        };
        let ClientError::Failed(failure) = loser else { panic!("round {round}: {loser:?}") };
        assert!(["not_ringing", "no_such_call"].contains(&failure.code.as_str()), "round {round}: {failure:?}");
        if yes.is_ok() {
            accepted += 1;
            until(&ada, "ada is in", |calls| in_one_call_with(calls, &[&daemons[1].did])).await;
            until(&ben, "ben is in", |calls| in_one_call_with(calls, &[&daemons[0].did])).await;
        } else {
            until(&ada, "ada knows", <[Value]>::is_empty).await;
        }
        hang_up(&[&ada, &ben]).await;
    }
    println!("accept won {accepted} of {all} times");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_is_killed_in_a_call_is_back_in_it_and_never_was_gone() {
    let auto = format!("{SILENT}[call]\nauto_accept = \"all\"\n");
    let mut daemons = acquainted(3, &auto);
    let sockets: Vec<_> = daemons.iter().map(socket).collect();
    let dids: Vec<String> = daemons.iter().map(|daemon| daemon.did.clone()).collect();
    ask(&sockets[0], offer_to(&[&daemons[1], &daemons[2]])).await.unwrap();
    let others = |at: usize| -> Vec<&str> { (0..3).filter(|o| *o != at).map(|o| dids[o].as_str()).collect() };
    for (at, socket) in sockets.iter().enumerate() {
        until(socket, "all are in", |calls| in_one_call_with(calls, &others(at))).await;
    }
    let seq = ask(&sockets[0], plain("daemon.status")).await.unwrap()["seq"].as_u64().unwrap();
    let mut times = Vec::new();
    let all = rounds(3, 20);
    for round in 0..all {
        let victim = 1 + round % 2;
        daemons[victim].kill();
        check_database(daemons[victim].home());
        let began = Instant::now();
        daemons[victim].restart();
        for (at, socket) in sockets.iter().enumerate() {
            until(socket, "all hear each other again", |calls| in_one_call_with(calls, &others(at))).await;
        }
        times.push(began.elapsed());
    }
    // What a client of the first one was told meanwhile.
    let mut watch = Client::connect(&sockets[0]).await.unwrap().watch(Some(seq)).await.unwrap();
    let last = watch.snapshot["seq"].as_u64().unwrap();
    let mut reconnecting = 0;
    loop {
        let event = watch.next().await.unwrap().unwrap();
        if event["event"] == "participant_changed" {
            let state = event["state"].as_str().unwrap();
            assert!(["reconnecting", "joined"].contains(&state), "it was shown as {state}");
            reconnecting += usize::from(state == "reconnecting");
        }
        if event["seq"].as_u64() == Some(last) {
            break;
        }
    }
    assert!(reconnecting >= all, "each of {all} restarts is a reconnection, {reconnecting} were told");
    judge("kill -9 to hearing each other again", times, REJOIN_LIMIT);
}

/// What the killed daemon left is whole.
fn check_database(home: &Path) {
    let db = rusqlite::Connection::open(home.join("telecon.db")).unwrap();
    let verdict: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(verdict, "ok");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_devices_that_accept_at_once_one_stays_and_the_other_goes_silently() {
    let ada = Daemon::start(SILENT);
    let phone = Daemon::start(SILENT);
    let secrets = tempfile::tempdir().unwrap();
    let (backup, passphrase) = (secrets.path().join("backup"), secrets.path().join("passphrase"));
    std::fs::write(&passphrase, "correct horse battery\n").unwrap();
    let (backup, passphrase) = (backup.to_str().unwrap(), passphrase.to_str().unwrap());
    let exported = phone.run(&["id", "export", backup, "--passphrase-file", passphrase]);
    assert!(exported.status.success(), "{exported:?}");
    let laptop = Daemon::start_prepared(SILENT, |home| {
        let home = home.to_str().unwrap();
        let import = ["--home", home, "id", "import", backup, "--passphrase-file", passphrase];
        let imported = std::process::Command::new(env!("CARGO_BIN_EXE_telecon")).args(import).output().unwrap();
        assert!(imported.status.success(), "{imported:?}");
    });
    assert_eq!(phone.did, laptop.did);
    let mut all = [ada, phone, laptop];
    for at in 1..3 {
        let (before, after) = all.split_at_mut(at);
        before.iter_mut().for_each(|other| after[0].connect(other));
        all[at].json(&["contacts", "add", &all[0].did, "ada"]);
    }
    let sockets = all.each_ref().map(socket);
    for round in 0..rounds(3, 50) {
        let call = ask(&sockets[0], offer(&all[1])).await.unwrap()["call"].clone();
        for device in &sockets[1..] {
            until(device, "it rings", |calls| calls.iter().any(|call| call["state"] == "incoming")).await;
        }
        let answers = tokio::join!(ask(&sockets[1], plain("call.accept")), ask(&sockets[2], plain("call.accept")));
        assert!(answers.0.is_ok() || answers.1.is_ok(), "round {round}: {answers:?}");
        until(&sockets[0], "ada hears one", |calls| in_one_call_with(calls, &[&all[1].did])).await;
        let limit = Instant::now() + PATIENCE;
        loop {
            let in_it = |calls: &Value| calls["calls"].as_array().unwrap().iter().any(|known| known["call"] == call);
            let phone = ask(&sockets[1], plain("call.list")).await.unwrap();
            let laptop = ask(&sockets[2], plain("call.list")).await.unwrap();
            if in_it(&phone) != in_it(&laptop) {
                break;
            }
            assert!(Instant::now() < limit, "round {round}: {phone} {laptop}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        until(&sockets[0], "ada still hears one", |calls| in_one_call_with(calls, &[&all[1].did])).await;
        let paths: Vec<&Path> = sockets.iter().map(std::path::PathBuf::as_path).collect();
        hang_up(&paths).await;
    }
}
