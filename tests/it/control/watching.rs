//! Events: the snapshot, then what is kept, then what happens; no gap, no double, and nobody is held up by who does not read.

use serde_json::{Value, json};
use telecon::{
    client::{Client, ClientError},
    control::wire::Method,
};

use tokio::io::Interest;

use super::fake::{Fake, Raw, large_event, small_event, soon};

fn done(_: &Method, _: &super::fake::Journal) -> super::fake::Answer {
    Some(Ok(json!({ "done": true })))
}

async fn watch(fake: &Fake, since: u64) -> Raw {
    let mut raw = fake.raw().await;
    let request = json!({ "jsonrpc": "2.0", "id": 1, "method": "events.watch", "params": { "since": since } });
    raw.send(&request.to_string()).await;
    raw
}

fn seq(line: &Value) -> u64 {
    assert_eq!((&line["jsonrpc"], &line["method"]), (&"2.0".into(), &"event".into()), "{line}");
    assert!(line.get("id").is_none());
    line["params"]["seq"].as_u64().expect("a seq")
}

#[tokio::test]
async fn a_watch_is_the_snapshot_then_what_is_kept_then_what_happens_without_a_gap() {
    let fake = Fake::new();
    for _ in 0..50 {
        fake.journal.emit(small_event());
    }
    let journal = fake.journal.clone();
    let emitting = tokio::spawn(async move {
        for _ in 0..200 {
            journal.emit(small_event());
            tokio::task::yield_now().await;
        }
    });
    let mut raw = watch(&fake, 20).await;
    let snapshot = raw.line().await;
    assert_eq!(snapshot["id"], 1);
    assert!(snapshot["result"]["seq"].as_u64() >= Some(50), "{snapshot}");
    for expected in 21..=250 {
        assert_eq!(seq(&raw.line().await), expected);
    }
    emitting.await.expect("no panic");
}

#[tokio::test]
async fn an_event_has_its_fields_beside_seq_and_time() {
    let fake = Fake::new();
    fake.journal.emit(small_event());
    let mut watch = Client::connect(&fake.socket()).await.expect("connects").watch(Some(0)).await.expect("watches");
    assert_eq!(watch.snapshot["seq"], 1);
    let event = soon(watch.next()).await.expect("one is kept").expect("no error");
    let expected = json!({ "seq": 1, "time_ms": 1000, "event": "media_changed", "muted": true, "deafened": false });
    assert_eq!(event, expected);
}

#[tokio::test]
async fn without_since_only_what_happens_from_now_on_is_sent() {
    let fake = Fake::new();
    fake.journal.emit(small_event());
    let mut watch = Client::connect(&fake.socket()).await.expect("connects").watch(None).await.expect("watches");
    fake.journal.emit(small_event());
    assert_eq!(soon(watch.next()).await.expect("one").expect("no error")["seq"], 2);
}

#[tokio::test]
async fn all_watchers_see_the_same_and_reading_drains_nothing() {
    let fake = Fake::new();
    let (mut one, mut two) = (watch(&fake, 0).await, watch(&fake, 0).await);
    one.line().await;
    two.line().await;
    for expected in 1..=20 {
        fake.journal.emit(small_event());
        assert_eq!(seq(&one.line().await), expected);
    }
    for expected in 1..=20 {
        assert_eq!(seq(&two.line().await), expected);
    }
    let mut three = watch(&fake, 0).await;
    three.line().await;
    assert_eq!(seq(&three.line().await), 1);
}

#[tokio::test]
async fn a_watcher_may_ask_on_the_same_connection_but_not_watch_twice() {
    let fake = Fake::new();
    let mut raw = watch(&fake, 0).await;
    raw.line().await;
    raw.ask(2, "daemon.status").await;
    assert_eq!(raw.line().await["id"], 2);
    raw.ask(3, "events.watch").await;
    assert_eq!(raw.line().await["error"]["data"]["code"], "already_watching");
    fake.journal.emit(small_event());
    assert_eq!(seq(&raw.line().await), 1, "the first watch goes on");
}

#[tokio::test]
async fn of_two_watches_sent_at_once_one_is_refused() {
    let fake = Fake::new();
    let mut raw = fake.raw().await;
    raw.write(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"events.watch\"}\n{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"events.watch\"}\n")
        .await;
    let mut answers = [raw.line().await, raw.line().await];
    answers.sort_by_key(|answer| answer["error"].is_object());
    assert!(answers[0]["result"].is_object(), "{answers:?}");
    assert_eq!(answers[1]["error"]["data"]["code"], "already_watching");
    fake.journal.emit(small_event());
    fake.journal.emit(small_event());
    assert_eq!((seq(&raw.line().await), seq(&raw.line().await)), (1, 2));
}

#[tokio::test]
async fn a_long_replay_waits_for_its_reader_and_does_not_lag() {
    let fake = Fake::new();
    for _ in 0..2_000 {
        fake.journal.emit(large_event());
    }
    let mut raw = watch(&fake, 0).await;
    raw.line().await;
    let mut other = Client::connect(&fake.socket()).await.expect("connects");
    for _ in 0..20 {
        soon(other.request(Method::DaemonStatus {}, None)).await.expect("served meanwhile");
    }
    for expected in 1..=2_000 {
        assert_eq!(seq(&raw.line().await), expected, "4 MB of kept events are not 1 MiB of backlog");
    }
}

/// Reads to the end: whole events, then `lagged`, then nothing.
async fn ends_with_lagged(mut raw: Raw) {
    let mut last_seq = None;
    loop {
        let line = raw.line().await;
        if line["method"] == "lagged" {
            break;
        }
        if line["method"] == "event" {
            let seq = seq(&line);
            assert!(last_seq.is_none_or(|last| seq == last + 1), "{seq} follows {last_seq:?}");
            last_seq = Some(seq);
        }
    }
    assert_eq!(raw.read().await, None);
}

/// Makes events until nobody watches any more.
async fn overrun(fake: &Fake) {
    let mut emitted = 0;
    while fake.journal.watchers() > 0 {
        fake.journal.emit(large_event());
        emitted += 1;
        assert!(emitted < 5_000, "10 MB wait, and the watcher is still there");
        soon(async {
            while fake.journal.watchers() > 0 && fake.journal.unread() > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    assert!(emitted > 500, "dropped after {emitted} events of 2 kB");
}

#[tokio::test]
async fn a_watcher_that_does_not_read_is_told_lagged_and_dropped_at_a_mebibyte() {
    let fake = Fake::new();
    let mut raw = watch(&fake, 0).await;
    raw.line().await;
    let mut other = Client::connect(&fake.socket()).await.expect("connects");
    overrun(&fake).await;
    soon(other.request(Method::DaemonStatus {}, None)).await.expect("others are served");
    ends_with_lagged(raw).await;
}

#[tokio::test]
async fn a_watcher_that_reads_only_when_all_is_over_still_finds_that_it_lagged() {
    let fake = Fake::new();
    let mut raw = watch(&fake, 0).await;
    raw.line().await;
    overrun(&fake).await;
    soon(async {
        while !raw.stream.get_ref().ready(Interest::READABLE).await.expect("open here").is_read_closed() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    ends_with_lagged(raw).await;
}

#[tokio::test]
async fn a_watcher_that_the_channel_outruns_is_told_lagged_and_dropped() {
    let fake = Fake::with_capacity(4, done);
    let mut raw = watch(&fake, 0).await;
    raw.line().await;
    for _ in 0..100 {
        fake.journal.emit(small_event());
    }
    ends_with_lagged(raw).await;
}

#[tokio::test]
async fn the_public_client_tells_lagged_as_its_last_item() {
    let fake = Fake::with_capacity(4, done);
    let mut watch = Client::connect(&fake.socket()).await.expect("connects").watch(None).await.expect("watches");
    for _ in 0..100 {
        fake.journal.emit(small_event());
    }
    let last = loop {
        match soon(watch.next()).await {
            Some(Ok(_)) => {}
            other => break other,
        }
    };
    assert!(matches!(last, Some(Err(ClientError::Lagged))), "{last:?}");
    assert!(soon(watch.next()).await.is_none());
}

#[tokio::test]
async fn a_watch_ends_when_the_daemon_stops() {
    let mut fake = Fake::new();
    let mut watch = Client::connect(&fake.socket()).await.expect("connects").watch(None).await.expect("watches");
    soon(fake.server.take().expect("running").shutdown()).await;
    assert!(soon(watch.next()).await.is_none());
}
