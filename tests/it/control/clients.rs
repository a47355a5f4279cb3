//! What one client does must not reach another, and every line gets what it deserves.

use serde_json::json;
use telecon::{
    client::{Client, ClientError},
    control::{server::MAX_CLIENTS, wire::Method},
};
use tokio::io::AsyncWriteExt;

use super::fake::{Fake, did, failure, soon};

/// A client that is served proves that the others do no harm.
async fn is_served(fake: &Fake) {
    let mut client = soon(Client::connect(&fake.socket())).await.expect("connects");
    let answer = soon(client.request(Method::DaemonStatus {}, None)).await.expect("answers");
    assert_eq!(answer, json!({ "done": true }));
}

#[tokio::test]
async fn the_first_line_is_the_greeting() {
    let fake = Fake::new();
    let raw = fake.raw().await;
    let expected = json!({ "telecon": env!("CARGO_PKG_VERSION"), "api": 1, "did": did(1) });
    assert_eq!(raw.greeting, Some(expected));
}

#[tokio::test]
async fn malformed_lines_get_one_error_each_and_the_connection_goes_on() {
    let fake = Fake::new();
    let mut raw = fake.raw().await;
    let long = format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"{}\"}}", "x".repeat(70_000));
    let lines: [(&[u8], &str); 7] = [
        (b"nonsense", "parse_error"),
        (b"", "parse_error"),
        (b"\xff\xfe", "parse_error"),
        (b"[]", "invalid_request"),
        (b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"no.such\"}", "unknown_method"),
        (b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"call.offer\"}", "bad_params"),
        (long.as_bytes(), "line_too_long"),
    ];
    for (line, word) in lines {
        raw.write(line).await;
        raw.write(b"\n").await;
        let answer = raw.line().await;
        assert_eq!(answer["error"]["data"]["code"], word, "{answer}");
        raw.ask(5, "daemon.status").await;
        assert_eq!(raw.line().await, json!({ "jsonrpc": "2.0", "id": 5, "result": { "done": true } }));
    }
    assert_eq!(fake.asked(), vec![Method::DaemonStatus {}; lines.len()], "nothing malformed reached the daemon");
}

#[tokio::test]
async fn a_line_of_exactly_64_kib_is_read() {
    let fake = Fake::new();
    let mut raw = fake.raw().await;
    let mut line =
        json!({ "jsonrpc": "2.0", "id": 1, "method": "contact.remove", "params": { "who": "" } }).to_string();
    let who = "x".repeat(64 * 1024 - line.len());
    line = line.replace("\"who\":\"\"", &format!("\"who\":\"{who}\""));
    assert_eq!(line.len(), 64 * 1024);
    raw.send(&line).await;
    assert_eq!(raw.line().await["result"]["done"], true);
}

#[tokio::test]
async fn a_notification_is_carried_out_and_not_answered() {
    let fake = Fake::new();
    let mut raw = fake.raw().await;
    raw.send(r#"{"jsonrpc":"2.0","method":"media.mute"}"#).await;
    raw.ask(1, "daemon.status").await;
    assert_eq!(raw.line().await["id"], 1, "the first answer is the second line's");
    assert_eq!(fake.asked(), [Method::MediaMute {}, Method::DaemonStatus {}]);
}

#[tokio::test]
async fn requests_of_one_client_reach_the_daemon_in_their_order() {
    let fake = Fake::new();
    let mut raw = fake.raw().await;
    let lines: String = (0..100)
        .map(|at| {
            let method = if at % 2 == 0 { "media.mute" } else { "media.unmute" };
            format!("{{\"jsonrpc\":\"2.0\",\"id\":{at},\"method\":\"{method}\"}}\n")
        })
        .collect();
    raw.write(lines.as_bytes()).await;
    for _ in 0..100 {
        assert_eq!(raw.line().await["result"]["done"], true);
    }
    for pair in fake.asked().chunks(2) {
        assert_eq!(pair, [Method::MediaMute {}, Method::MediaUnmute {}]);
    }
}

#[tokio::test]
async fn a_refusal_has_a_stable_word_and_a_sentence() {
    let fake = Fake::answering(|_, _| failure("no_such_call", "there is no such call; `telecon calls` lists them"));
    let mut client = Client::connect(&fake.socket()).await.expect("connects");
    match client.request(Method::CallHangup { call: None }, None).await {
        Err(ClientError::Failed(failure)) => {
            assert_eq!(failure.code, "no_such_call");
            assert_eq!(failure.message, "there is no such call; `telecon calls` lists them");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_request_that_waits_delays_neither_its_own_client_nor_another() {
    let fake = Fake::answering(|method, _| match method {
        Method::NetConnect { .. } => None,
        _ => Some(Ok(json!({ "done": true }))),
    });
    let mut raw = fake.raw().await;
    raw.send(r#"{"jsonrpc":"2.0","id":1,"method":"net.connect","params":{"address":"/x"}}"#).await;
    raw.ask(2, "daemon.status").await;
    assert_eq!(raw.line().await["id"], 2);
    is_served(&fake).await;
}

#[tokio::test]
async fn two_clients_at_once_get_their_own_answers() {
    let fake = Fake::answering(|method, _| match method {
        Method::CallShow { call } => Some(Ok(json!({ "call": call }))),
        _ => None,
    });
    let (mut one, mut two) = (fake.raw().await, fake.raw().await);
    for round in 0..20 {
        for (raw, name) in [(&mut one, "one"), (&mut two, "two")] {
            let params = json!({ "call": name });
            raw.send(&json!({ "jsonrpc": "2.0", "id": round, "method": "call.show", "params": params }).to_string())
                .await;
        }
        assert_eq!(two.line().await["result"]["call"], "two");
        assert_eq!(one.line().await["result"]["call"], "one");
    }
}

#[tokio::test]
async fn a_client_that_dies_in_the_middle_harms_nobody_and_its_half_line_is_no_request() {
    let fake = Fake::new();
    for bytes in
        [&b"{\"jsonrpc\":\"2.0\",\"id\":1,\"met"[..], b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"media.mute\"}"]
    {
        let mut raw = fake.raw().await;
        raw.write(bytes).await;
        drop(raw);
        is_served(&fake).await;
    }
    assert!(!fake.asked().contains(&Method::MediaMute {}));
}

#[tokio::test]
async fn a_client_that_dies_while_it_waits_harms_nobody() {
    let fake = Fake::answering(|method, _| match method {
        Method::MediaMute {} => None,
        _ => Some(Ok(json!({ "done": true }))),
    });
    for _ in 0..2 * MAX_CLIENTS {
        let mut raw = fake.raw().await;
        raw.ask(1, "media.mute").await;
        raw.ask(2, "daemon.status").await;
        raw.line().await;
        let mut stream = raw.stream.into_inner();
        stream.shutdown().await.expect("open");
    }
    is_served_when_there_is_room(&fake).await;
}

/// Until the places of dead clients are free again.
async fn is_served_when_there_is_room(fake: &Fake) {
    soon(async {
        while Client::connect(&fake.socket()).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    is_served(fake).await;
}

#[tokio::test]
async fn a_client_that_has_said_all_still_gets_its_answers() {
    let fake = Fake::new();
    let mut raw = fake.raw().await;
    raw.ask(1, "daemon.status").await;
    raw.stream.get_mut().shutdown().await.expect("open");
    assert_eq!(raw.line().await["id"], 1);
    assert_eq!(raw.read().await, None);
}

#[tokio::test]
async fn a_client_that_sends_half_a_line_for_ever_is_not_noticed_by_others() {
    let fake = Fake::new();
    let mut raw = fake.raw().await;
    for _ in 0..64 {
        raw.write(&[b'x'; 64 * 1024]).await;
    }
    is_served(&fake).await;
    assert_eq!(raw.line().await["error"]["data"]["code"], "line_too_long");
    raw.write(b"\n").await;
    raw.ask(1, "daemon.status").await;
    assert_eq!(raw.line().await["id"], 1, "4 MiB without a newline were one line and one error");
}

#[tokio::test]
async fn a_client_that_floods_and_never_reads_is_stopped_and_costs_others_nothing() {
    const REQUESTS: usize = 5_000;
    let answer = "x".repeat(10_000);
    let fake = Fake::answering(move |method, _| match method {
        Method::CallList {} => Some(Ok(json!(answer))),
        _ => Some(Ok(json!({ "done": true }))),
    });
    let mut flood = fake.raw().await;
    let line = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"call.list\"}\n".repeat(REQUESTS);
    let flooding = tokio::spawn(async move {
        // Never ends: the server stops reading.
        let _broken = flood.stream.get_mut().write_all(line.as_bytes()).await;
    });
    let flooded = |fake: &Fake| fake.asked().iter().filter(|method| **method == Method::CallList {}).count();
    let (mut seen, mut quiet_rounds) = (0, 0);
    while quiet_rounds < 50 {
        is_served(&fake).await;
        let now = flooded(&fake);
        quiet_rounds = if now == seen && now > 0 { quiet_rounds + 1 } else { 0 };
        seen = now;
    }
    assert!(seen < 200, "{seen} answers of 10 kB are more than any buffer here");
    assert!(!flooding.is_finished());
    flooding.abort();
}

#[tokio::test]
async fn one_client_too_many_is_told_so_and_may_come_back() {
    let fake = Fake::new();
    let mut clients = Vec::new();
    for _ in 0..MAX_CLIENTS {
        clients.push(Client::connect(&fake.socket()).await.expect("there is room"));
    }
    match soon(Client::connect(&fake.socket())).await {
        Err(ClientError::Failed(failure)) => assert_eq!(failure.code, "too_many_clients"),
        other => panic!("{other:?}"),
    }
    let one = clients.last_mut().expect("64");
    soon(one.request(Method::DaemonStatus {}, None)).await.expect("those who are in are served");
    clients.pop();
    is_served_when_there_is_room(&fake).await;
}

#[tokio::test]
async fn a_daemon_that_stops_gives_the_answers_it_has_and_closes() {
    let mut fake = Fake::answering(|method, _| match method {
        Method::DaemonStop {} => Some(Ok(json!({ "stopping": true }))),
        _ => None,
    });
    let mut raw = fake.raw().await;
    raw.ask(1, "daemon.stop").await;
    assert_eq!(raw.line().await["result"]["stopping"], true);
    soon(fake.server.take().expect("running").shutdown()).await;
    assert_eq!(raw.read().await, None);
    assert!(!fake.socket().exists());
    match Client::connect(&fake.socket()).await {
        Err(ClientError::NotRunning { .. }) => {}
        other => panic!("{other:?}"),
    }
}
