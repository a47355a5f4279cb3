//! Tests of the database: what it keeps, what it forgets, and which files it refuses.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use ed25519_dalek::SigningKey;
use tempfile::TempDir;

use super::*;
use crate::{
    audio::Role,
    control::wire::EventRecord,
    proto::{
        id::{Did, MessageId},
        io::{Event, Policy},
        seen::MAX_STRANGERS,
    },
};

mod calls;
mod faults;
mod history;

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

fn own() -> Did {
    did(9)
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
        store.append_event(&event(seq), &own()).unwrap();
    }
    drop(store);
    let mut store = Store::open(dir.path()).unwrap();
    assert_eq!(store.last_seq().unwrap(), 3);
    let read =
        |after, before| read_events(&path, after, before).unwrap().iter().map(|e| (**e).clone()).collect::<Vec<_>>();
    assert_eq!(read(1, u64::MAX), [event(2), event(3)]);
    assert_eq!(read(0, 3), [event(1), event(2)]);
    store.append_event(&event(KEPT_EVENTS + 2), &own()).unwrap();
    assert_eq!(read(0, u64::MAX), [event(3), event(KEPT_EVENTS + 2)]);
}

#[test]
fn an_event_of_an_unknown_kind_is_left_out_of_a_replay() {
    let (dir, path) = home();
    let mut store = Store::open(dir.path()).unwrap();
    store.db.execute("INSERT INTO events VALUES (1, 1, '{\"event\":\"teleported\"}')", []).unwrap();
    store.append_event(&event(2), &own()).unwrap();
    assert_eq!(read_events(&path, 0, u64::MAX).unwrap().len(), 1);
}

#[test]
fn what_was_decided_about_a_contact_survives_a_restart_and_a_new_name() {
    let (dir, _) = home();
    let mut store = Store::open(dir.path()).unwrap();
    store.put_contact(&contact(1, "Bob", None)).unwrap();
    let untouched = store.put_contact(&contact(2, "Carol", None)).unwrap();
    assert_eq!((untouched.policy, untouched.volume_percent, untouched.audio_blocked), (Policy::Ask, 100, false));
    assert!(store.set_policy(&did(1), Policy::Block).unwrap());
    assert!(store.set_volume(&did(1), 150).unwrap());
    assert!(store.set_audio_blocked(&did(1), true).unwrap());
    drop(store);
    let mut store = Store::open(dir.path()).unwrap();
    let renamed = store.put_contact(&contact(1, "Robert", None)).unwrap();
    let expected =
        Contact { policy: Policy::Block, volume_percent: 150, audio_blocked: true, ..contact(1, "Robert", None) };
    assert_eq!(renamed, expected);
    assert_eq!(store.contacts().unwrap(), [untouched, expected]);
}

#[test]
fn nothing_is_decided_about_somebody_who_is_no_contact() {
    let (dir, _) = home();
    let mut store = Store::open(dir.path()).unwrap();
    assert!(!store.set_policy(&did(1), Policy::Allow).unwrap());
    assert!(!store.set_volume(&did(1), 10).unwrap());
    assert!(!store.set_audio_blocked(&did(1), true).unwrap());
    assert!(store.contacts().unwrap().is_empty());
}

#[test]
fn a_volume_ends_at_twice_as_loud() {
    let (dir, _) = home();
    let mut store = Store::open(dir.path()).unwrap();
    let loud = Contact { volume_percent: u16::MAX, ..contact(1, "Bob", None) };
    assert_eq!(store.put_contact(&loud).unwrap().volume_percent, MAX_VOLUME_PERCENT);
    store.set_volume(&did(1), 0).unwrap();
    assert_eq!(store.contacts().unwrap()[0].volume_percent, 0);
    store.set_volume(&did(1), u16::MAX).unwrap();
    assert_eq!(store.contacts().unwrap()[0].volume_percent, MAX_VOLUME_PERCENT);
}

#[test]
fn several_contacts_are_put_together_or_not_at_all() {
    let (dir, _) = home();
    let mut store = Store::open(dir.path()).unwrap();
    store.put_contact(&contact(1, "Bob", None)).unwrap();
    // Bob lets his name go, and somebody else takes it.
    let good = [contact(1, "Robert", None), contact(2, "Bob", None)];
    assert_eq!(store.put_contacts(&good).unwrap(), good);
    let bad = [contact(3, "Dave", None), contact(4, "robert", None)];
    assert!(matches!(store.put_contacts(&bad), Err(ContactError::Taken { .. })));
    let many: Vec<_> = (5..=255).map(|seed| contact(seed, &format!("c{seed}"), None)).collect();
    store.put_contacts(&many).unwrap();
    assert_eq!(store.contacts().unwrap().len(), 2 + many.len(), "Dave is not among them");
}

#[test]
fn the_contact_list_ends_somewhere_but_known_ones_can_still_be_renamed() {
    let (dir, _) = home();
    let mut store = Store::open(dir.path()).unwrap();
    let numbered = |at: u32| {
        let mut seed = [0; 32];
        seed[..4].copy_from_slice(&at.to_be_bytes());
        let did = Did::from_key(SigningKey::from_bytes(&seed).verifying_key());
        Contact::new(did, format!("c{at}").parse().unwrap(), None)
    };
    let full: Vec<_> = (0..contacts::MAX_CONTACTS as u32).map(numbered).collect();
    store.put_contacts(&full).unwrap();
    let one_more = numbered(contacts::MAX_CONTACTS as u32);
    assert!(matches!(store.put_contact(&one_more), Err(ContactError::TooMany)));
    store.put_contact(&Contact { name: "renamed".parse().unwrap(), ..full[7].clone() }).unwrap();
    assert_eq!(store.contacts().unwrap().len(), contacts::MAX_CONTACTS);
}

#[test]
fn chosen_devices_are_kept_each_for_itself_and_can_be_taken_back() {
    let dir = tempfile::tempdir().unwrap();
    let roles = [Role::Input, Role::Output, Role::Ring];
    let mut store = Store::open(dir.path()).unwrap();
    assert!(roles.iter().all(|role| store.device(*role).unwrap().is_none()));
    store.set_device(Role::Output, Some("headset")).unwrap();
    store.set_device(Role::Ring, Some("loudspeaker")).unwrap();
    drop(store);
    let mut store = Store::open(dir.path()).unwrap();
    let kept = [None, Some("headset".to_owned()), Some("loudspeaker".to_owned())];
    assert_eq!(roles.map(|role| store.device(role).unwrap()), kept);
    store.set_device(Role::Ring, None).unwrap();
    assert_eq!(store.device(Role::Ring).unwrap(), None);
}

#[test]
fn switches_and_the_mark_are_as_they_were_left() {
    let (dir, _) = home();
    let mut store = Store::open(dir.path()).unwrap();
    assert_eq!((store.do_not_disturb().unwrap(), store.marked_seq().unwrap()), (false, 0));
    store.set_do_not_disturb(true).unwrap();
    store.mark_seq(42).unwrap();
    drop(store);
    let mut store = Store::open(dir.path()).unwrap();
    assert_eq!((store.do_not_disturb().unwrap(), store.marked_seq().unwrap()), (true, 42));
    store.set_do_not_disturb(false).unwrap();
    assert_eq!((store.do_not_disturb().unwrap(), store.marked_seq().unwrap()), (false, 42));
}

#[test]
fn a_first_versions_database_keeps_all_its_rows() {
    let (dir, path) = home();
    let bob = contact(1, "Bob", Some("/ip4/127.0.0.1/tcp/1"));
    Store::open(dir.path()).unwrap();
    fs::remove_file(&path).unwrap();
    let first = Connection::open(&path).unwrap();
    first.execute_batch(migrations::MIGRATIONS[0]).unwrap();
    first.pragma_update(None, "journal_mode", "WAL").unwrap();
    first.pragma_update(None, "application_id", open::APPLICATION_ID).unwrap();
    first.pragma_update(None, "user_version", 1).unwrap();
    first.execute("INSERT INTO contacts VALUES (?1, 'Bob', 'bob', '/ip4/127.0.0.1/tcp/1')", [did(1).as_str()]).unwrap();
    first.execute("INSERT INTO seen VALUES (1, ?1, ?2, 1, 5000)", (did(1).as_str(), message(7).0)).unwrap();
    first.execute("INSERT INTO events VALUES (3, 30, '{\"event\":\"call_joined\",\"call\":\"\"}')", []).unwrap();
    let record = event(4);
    let json = serde_json::to_string(&record.event).unwrap();
    first.execute("INSERT INTO events VALUES (4, 40, ?1)", [json]).unwrap();
    drop(first);

    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.contacts().unwrap(), [bob]);
    assert_eq!(store.seen(5000).unwrap(), [(did(1), message(7))]);
    assert_eq!(store.last_seq().unwrap(), 4);
    assert_eq!(read_events(&path, 0, u64::MAX).unwrap(), [std::sync::Arc::new(record)]);
    assert!(store.history(10, None).unwrap().is_empty());
    assert!(!store.do_not_disturb().unwrap());
    drop(store);
    Store::open(dir.path()).unwrap();
}
