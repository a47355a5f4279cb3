//! Calls that can be gone back to.

use super::*;
use crate::proto::{
    id::{CallId, MessageId},
    io::{Asked, KeptCall, Standing},
    signal::{CallKey, Settings, Ticket},
};

fn kept(key: u8, standing: Standing) -> KeptCall {
    let (creator, settings, key) = (own(), Settings::default(), CallKey([key; 32]));
    let call = CallId::derive(&creator, &settings, &key.0);
    KeptCall {
        ticket: Ticket { call, creator, settings, key, chain: Vec::new() },
        from: own(),
        members: [(did(1), None), (did(2), None)].into(),
        asked: [(did(2), Asked { offer: MessageId([5; 16]), until_ms: 78 })].into(),
        stay: 77,
        standing,
    }
}

#[test]
fn kept_calls_come_back_after_a_restart_as_they_were_last_written() {
    let (dir, _) = home();
    let mut store = Store::open(dir.path()).unwrap();
    let (first, second) = (kept(1, Standing::In { on_hold: false }), kept(2, Standing::In { on_hold: true }));
    store.keep_call(&first).unwrap();
    store.keep_call(&second).unwrap();
    store.discard_call(kept(3, Standing::Past(0)).ticket.call).unwrap();
    let left = KeptCall { standing: Standing::Past(500), ..first };
    store.keep_call(&left).unwrap();
    drop(store);
    let mut store = Store::open(dir.path()).unwrap();
    assert_eq!(store.kept_calls().unwrap(), [second.clone(), left.clone()]);
    store.discard_call(second.ticket.call).unwrap();
    assert_eq!(store.kept_calls().unwrap(), [left]);
}

#[test]
fn a_kept_call_that_cannot_be_read_is_dropped_and_the_others_stay() {
    let (dir, _) = home();
    let mut store = Store::open(dir.path()).unwrap();
    let (good, other) = (kept(1, Standing::Past(1)), kept(2, Standing::Past(1)));
    for call in [&good, &other] {
        store.keep_call(call).unwrap();
    }
    store.db.execute("INSERT INTO kept_calls (call, bytes) VALUES ('\u{1b}[2J', x'01')", []).unwrap();
    let swap = "UPDATE kept_calls SET bytes = (SELECT bytes FROM kept_calls WHERE call = ?1) WHERE call = ?2";
    store.db.execute(swap, [good.ticket.call.to_string(), other.ticket.call.to_string()]).unwrap();
    assert_eq!(store.kept_calls().unwrap(), [good]);
    let left: i64 = store.db.query_row("SELECT count(*) FROM kept_calls", [], |row| row.get(0)).unwrap();
    assert_eq!(left, 1);
}

#[test]
fn kept_calls_are_bounded_and_the_one_written_longest_ago_goes_first() {
    let (dir, _) = home();
    let mut store = Store::open(dir.path()).unwrap();
    let calls: Vec<_> = (0..=255).map(|key| kept(key, Standing::Past(1))).collect();
    assert_eq!(calls.len(), MAX_KEPT_CALLS as usize);
    for call in calls.iter().chain([&calls[0]]) {
        store.keep_call(call).unwrap();
    }
    let mut one_more = kept(0, Standing::Past(1));
    one_more.ticket.settings.closed = true;
    one_more.ticket.call = CallId::derive(&own(), &one_more.ticket.settings, &one_more.ticket.key.0);
    store.keep_call(&one_more).unwrap();
    let left = store.kept_calls().unwrap();
    assert_eq!(left.len(), MAX_KEPT_CALLS as usize);
    assert!(left.contains(&calls[0]) && left.contains(&one_more) && !left.contains(&calls[1]));
}

#[test]
fn the_key_of_a_discarded_call_is_not_left_in_the_database() {
    let (dir, path) = home();
    let mut store = Store::open(dir.path()).unwrap();
    let call = kept(0xa7, Standing::In { on_hold: false });
    let holds_key = || fs::read(&path).unwrap().windows(32).any(|bytes| bytes == call.ticket.key.0);
    let fold = |store: &Store| store.db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    store.keep_call(&call).unwrap();
    fold(&store);
    assert!(holds_key());
    store.discard_call(call.ticket.call).unwrap();
    fold(&store);
    assert!(!holds_key());
}
