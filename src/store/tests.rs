//! Tests of the database: what it keeps, what it forgets, and which files it refuses.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use ed25519_dalek::SigningKey;
use tempfile::TempDir;

use super::*;
use crate::{
    control::wire::EventRecord,
    proto::{
        id::{Did, MessageId},
        io::Event,
        seen::MAX_STRANGERS,
    },
};

fn home() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE_NAME);
    (dir, path)
}

fn did(seed: u8) -> Did {
    Did::from_key(SigningKey::from_bytes(&[seed; 32]).verifying_key())
}

fn contact(seed: u8, name: &str, address: Option<&str>) -> Contact {
    Contact::new(did(seed), name.parse().unwrap(), address.map(|text| text.parse().unwrap()))
}

fn message(number: u32) -> MessageId {
    let mut id = [0; 16];
    id[..4].copy_from_slice(&number.to_be_bytes());
    MessageId(id)
}

fn event(seq: u64) -> EventRecord {
    EventRecord { seq, time_ms: seq * 10, event: Event::MediaChanged { muted: seq.is_multiple_of(2), deafened: false } }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_new_database_is_private_and_has_the_latest_version() {
    let (dir, _) = home();
    let state_dir = dir.path().join("state");
    let store = Store::open(&state_dir).unwrap();
    store.db.execute("INSERT INTO events VALUES (1, 1, '{}')", []).unwrap();
    assert_eq!(mode(&state_dir), 0o700);
    for suffix in ["", "-wal", "-shm"] {
        assert_eq!(mode(&state_dir.join(format!("{FILE_NAME}{suffix}"))), 0o600, "{suffix}");
    }
    let version: i64 = store.db.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    let mode: String = store.db.pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
    assert_eq!((version, mode.as_str()), (migrations::MIGRATIONS.len() as i64, "wal"));
    assert!(!state_dir.join("telecon.db.new").exists());
}

#[test]
fn an_interrupted_first_start_is_made_good_by_the_next() {
    let (dir, path) = home();
    fs::write(dir.path().join("telecon.db.new"), "half a data").unwrap();
    Store::open(dir.path()).unwrap();
    assert!(path.exists());
}

#[test]
fn migrations_run_from_the_version_that_is_there_and_each_lands_whole_or_not_at_all() {
    let mut db = Connection::open_in_memory().unwrap();
    let version = |db: &Connection| db.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0)).unwrap();
    open::apply(&mut db, &["CREATE TABLE a (x)"], 0).unwrap();
    open::apply(&mut db, &["broken, and not run again", "CREATE TABLE b (x)"], 1).unwrap();
    assert_eq!(version(&db), 2);
    let failing = ["", "", "CREATE TABLE c (x)", "CREATE TABLE d (x); nonsense"];
    open::apply(&mut db, &failing, 2).unwrap_err();
    assert_eq!(version(&db), 3);
    let tables: i64 = db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).unwrap();
    assert_eq!(tables, 3, "a, b and c");
}

#[test]
fn a_later_versions_database_is_refused_and_left_alone() {
    let (dir, path) = home();
    Store::open(dir.path()).unwrap().db.pragma_update(None, "user_version", 99).unwrap();
    let before = fs::read(&path).unwrap();
    let error = Store::open(dir.path()).unwrap_err();
    assert!(matches!(error, StoreError::Newer { found: 99, .. }), "{error}");
    assert!(error.to_string().contains("install the later telecon"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn a_foreign_file_is_refused_and_left_alone() {
    for wal in [false, true] {
        let (dir, path) = home();
        let theirs = Connection::open(&path).unwrap();
        if wal {
            theirs.pragma_update(None, "journal_mode", "WAL").unwrap();
        }
        theirs.execute_batch("CREATE TABLE contacts (theirs); INSERT INTO contacts VALUES (1)").unwrap();
        drop(theirs);
        assert_refused(&dir, &path, "is not a telecon database");
    }
    let (dir, path) = home();
    fs::write(&path, "my shopping list").unwrap();
    assert_refused(&dir, &path, "is not a telecon database");
}

#[test]
fn a_truncated_or_overwritten_database_is_refused_and_left_alone() {
    let (dir, path) = home();
    let mut store = Store::open(dir.path()).unwrap();
    for at in 1..=100 {
        store.append_event(&event(at), &did(9)).unwrap();
    }
    drop(store);
    let whole = fs::read(&path).unwrap();
    for bytes in [0, 15, 99, 100, 4096, whole.len() / 2, whole.len() - 4096] {
        fs::write(&path, &whole[..bytes]).unwrap();
        assert_refused(&dir, &path, "is damaged");
    }
    let mut scribbled = whole.clone();
    scribbled[4096..8192].fill(0xa5);
    fs::write(&path, &scribbled).unwrap();
    assert_refused(&dir, &path, "is damaged");
    fs::write(&path, &whole).unwrap();
    assert_eq!(Store::open(dir.path()).unwrap().last_seq().unwrap(), 100);
}

fn assert_refused(dir: &TempDir, path: &Path, why: &str) {
    let before = fs::read(path).unwrap();
    let error = Store::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains(why) && error.contains("telecon.db") && error.contains("move it away"), "{error}");
    assert_eq!(fs::read(path).unwrap(), before, "{} bytes: the file was changed", before.len());
}

#[test]
fn a_log_without_its_database_is_not_played_onto_a_new_one() {
    let (dir, path) = home();
    let store = Store::open(dir.path()).unwrap();
    store.db.execute("INSERT INTO events VALUES (1, 1, '{}')", []).unwrap();
    let wal = fs::read(dir.path().join("telecon.db-wal")).unwrap();
    drop(store);
    fs::remove_file(&path).unwrap();
    fs::write(dir.path().join("telecon.db-wal"), wal).unwrap();
    assert!(matches!(Store::open(dir.path()), Err(StoreError::LogAlone { .. })));
}

#[test]
fn a_state_directory_that_cannot_be_made_is_told_with_its_path() {
    let (dir, _) = home();
    fs::write(dir.path().join("file"), "").unwrap();
    let error = Store::open(&dir.path().join("file/state")).unwrap_err();
    assert!(matches!(error, StoreError::Unreachable { .. }) && error.to_string().contains("file/state"), "{error}");
}

#[test]
fn contacts_survive_a_restart_in_the_order_of_their_names() {
    let (dir, _) = home();
    let mut store = Store::open(dir.path()).unwrap();
    store.put_contact(&contact(2, "carol", None)).unwrap();
    store.put_contact(&contact(1, "Bob", Some("/ip4/127.0.0.1/udp/4001/quic-v1"))).unwrap();
    drop(store);
    let store = Store::open(dir.path()).unwrap();
    let expected = [contact(1, "Bob", Some("/ip4/127.0.0.1/udp/4001/quic-v1")), contact(2, "carol", None)];
    assert_eq!(store.contacts().unwrap(), expected);
}

#[test]
fn a_name_is_unique_whatever_its_case_and_a_refusal_changes_nothing() {
    let (dir, _) = home();
    let mut store = Store::open(dir.path()).unwrap();
    store.put_contact(&contact(1, "Änne", None)).unwrap();
    let refused = store.put_contact(&contact(2, "äNNE", None)).unwrap_err();
    assert!(matches!(&refused, ContactError::Taken { owner, .. } if **owner == did(1)), "{refused}");
    assert_eq!(store.contacts().unwrap(), [contact(1, "Änne", None)]);
}

#[test]
fn adding_a_known_did_again_renames_it_and_keeps_an_address_that_is_left_out() {
    let (dir, _) = home();
    let mut store = Store::open(dir.path()).unwrap();
    store.put_contact(&contact(1, "Bob", Some("/ip4/127.0.0.1/tcp/1"))).unwrap();
    let renamed = contact(1, "BOB", Some("/ip4/127.0.0.1/tcp/1"));
    assert_eq!(store.put_contact(&contact(1, "BOB", None)).unwrap(), renamed);
    assert_eq!(store.contacts().unwrap(), [renamed]);
    let moved = contact(1, "BOB", Some("/ip4/127.0.0.1/tcp/2"));
    assert_eq!(store.put_contact(&moved).unwrap(), moved);
    assert_eq!(store.contacts().unwrap(), [moved]);
}

#[test]
fn a_removed_contact_is_gone_and_its_name_is_free() {
    let (dir, _) = home();
    let mut store = Store::open(dir.path()).unwrap();
    store.put_contact(&contact(1, "Bob", None)).unwrap();
    assert!(store.remove_contact(&did(1)).unwrap());
    assert!(!store.remove_contact(&did(1)).unwrap());
    store.put_contact(&contact(2, "bob", None)).unwrap();
}

#[test]
fn names_that_no_one_could_use_are_refused() {
    let long = "x".repeat(65);
    for bad in ["", "   ", "a\u{1b}[2Jb", "a\nb", "did:key:z6Mk", "DID:web:x", "\u{202e}bob", &long] {
        assert!(bad.parse::<ContactName>().is_err(), "{bad:?}");
    }
    for (good, trimmed) in [(" Bob B. ", "Bob B."), ("ännchen ☎", "ännchen ☎"), (&long[1..], &long[1..])] {
        assert_eq!(good.parse::<ContactName>().unwrap().as_str(), trimmed);
    }
}

#[test]
fn a_seen_message_is_remembered_over_a_restart_for_ten_minutes() {
    let (dir, _) = home();
    let mut store = Store::open(dir.path()).unwrap();
    let start = 1_000_000_000;
    store.remember(&did(1), message(1), Sender::Contact, start).unwrap();
    store.remember(&did(2), message(2), Sender::Stranger, start + 1).unwrap();
    store.remember(&did(1), message(1), Sender::Contact, start + 2).unwrap();
    drop(store);
    let store = Store::open(dir.path()).unwrap();
    let both = vec![(did(1), message(1)), (did(2), message(2))];
    assert_eq!(store.seen(start + SEEN_MS).unwrap(), both);
    assert_eq!(store.seen(start + SEEN_MS + 1).unwrap(), both[1..]);
}

#[test]
fn what_is_too_old_is_deleted_by_the_next_message_of_whomever() {
    let (dir, _) = home();
    let mut store = Store::open(dir.path()).unwrap();
    store.remember(&did(1), message(1), Sender::Contact, 1000).unwrap();
    store.remember(&did(2), message(2), Sender::Stranger, 1001 + SEEN_MS).unwrap();
    assert_eq!(store.seen(0).unwrap(), [(did(2), message(2))]);
}

#[test]
fn strangers_cannot_push_contacts_out_and_the_oldest_goes_first() {
    let (dir, _) = home();
    let mut store = Store::open(dir.path()).unwrap();
    store.remember(&did(1), message(0), Sender::Contact, 1).unwrap();
    let transaction = store.db.unchecked_transaction().unwrap();
    for at in 0..MAX_STRANGERS as u32 {
        let insert = "INSERT INTO seen (sender, message, contact, time_ms) VALUES (?1, ?2, 0, ?3)";
        store.db.prepare_cached(insert).unwrap().execute((did(2).as_str(), message(at).0, 2 + at)).unwrap();
    }
    transaction.commit().unwrap();
    store.remember(&did(2), message(u32::MAX), Sender::Stranger, 100_000).unwrap();
    let seen = store.seen(0).unwrap();
    assert_eq!(seen.len(), MAX_STRANGERS + 1);
    assert_eq!(seen[0], (did(1), message(0)));
    assert_eq!(seen[1], (did(2), message(1)), "the stranger's oldest message made room");
}

#[test]
fn events_go_on_after_a_restart_and_the_last_ten_thousand_are_kept() {
    let (dir, path) = home();
    let mut store = Store::open(dir.path()).unwrap();
    assert_eq!(store.last_seq().unwrap(), 0);
    for seq in [1, 2, 3] {
        store.append_event(&event(seq), &did(9)).unwrap();
    }
    drop(store);
    let mut store = Store::open(dir.path()).unwrap();
    assert_eq!(store.last_seq().unwrap(), 3);
    let read =
        |after, before| read_events(&path, after, before).unwrap().iter().map(|e| (**e).clone()).collect::<Vec<_>>();
    assert_eq!(read(1, u64::MAX), [event(2), event(3)]);
    assert_eq!(read(0, 3), [event(1), event(2)]);
    store.append_event(&event(KEPT_EVENTS + 2), &did(9)).unwrap();
    assert_eq!(read(0, u64::MAX), [event(3), event(KEPT_EVENTS + 2)]);
}

#[test]
fn an_event_of_an_unknown_kind_is_left_out_of_a_replay() {
    let (dir, path) = home();
    let mut store = Store::open(dir.path()).unwrap();
    store.db.execute("INSERT INTO events VALUES (1, 1, '{\"event\":\"teleported\"}')", []).unwrap();
    store.append_event(&event(2), &did(9)).unwrap();
    assert_eq!(read_events(&path, 0, u64::MAX).unwrap().len(), 1);
}

#[test]
fn a_write_that_fails_is_told_and_what_was_there_stays() {
    let (dir, _) = home();
    let mut store = Store::open(dir.path()).unwrap();
    store.put_contact(&contact(1, "Bob", None)).unwrap();
    store.break_for_tests();
    let error = store.put_contact(&contact(2, "Carol", None)).unwrap_err().to_string();
    assert!(error.contains("telecon.db") && error.contains("check the free space"), "{error}");
    store.append_event(&event(1), &did(9)).unwrap_err();
    store.remember(&did(1), message(1), Sender::Contact, 1).unwrap_err();
    assert_eq!(store.contacts().unwrap().len(), 1);
}
