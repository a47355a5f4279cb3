//! Files that are not right and disks that fail: nothing is overwritten, the sentence says what to do, and calls go on.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tracing_subscriber::{
    layer::{Context, Layer, SubscriberExt},
    registry,
};

use super::*;

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
        store.append_event(&event(at), &own()).unwrap();
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
    assert!(matches!(error, StoreError::Directory(_)) && error.to_string().contains("file/state"), "{error}");
}

#[test]
fn a_write_that_fails_is_told_and_what_was_there_stays() {
    let (dir, _) = home();
    let mut store = Store::open(dir.path()).unwrap();
    store.put_contact(&contact(1, "Bob", None)).unwrap();
    store.break_for_tests();
    let error = store.put_contact(&contact(2, "Carol", None)).unwrap_err().to_string();
    assert!(error.contains("telecon.db") && error.contains("is read-only"), "{error}");
    store.append_event(&event(1), &own()).unwrap_err();
    store.remember(&did(1), message(1), Sender::Contact, 1).unwrap_err();
    assert_eq!(store.contacts().unwrap().len(), 1);
}

/// Counts what is logged at `ERROR`.
struct Errors(Arc<AtomicUsize>);

impl<S: tracing::Subscriber> Layer<S> for Errors {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        if *event.metadata().level() == tracing::Level::ERROR {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// How many errors are logged while that is done.
fn errors_logged(work: impl FnOnce()) -> usize {
    let count = Arc::default();
    tracing::subscriber::with_default(registry().with(Errors(Arc::clone(&count))), work);
    count.load(Ordering::Relaxed)
}

#[test]
fn a_full_disk_is_told_once_until_it_has_space_again_and_loses_only_what_happens_meanwhile() {
    let (dir, path) = home();
    let mut store = Store::open(dir.path()).unwrap();
    store.append_event(&event(1), &own()).unwrap();
    let pages = |store: &Store| store.db.pragma_query_value(None, "page_count", |row| row.get::<_, i64>(0)).unwrap();
    let limit = |store: &Store, pages: i64| {
        store.db.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(())).unwrap();
    };
    limit(&store, pages(&store));
    let mut lost = 0;
    let logged = errors_logged(|| {
        for seq in 2..500 {
            if let Err(error) = store.append_event(&event(seq), &own()) {
                assert!(matches!(error, StoreError::Full { .. }) && error.to_string().contains("free some space"));
                lost += 1;
            }
        }
    });
    assert!(lost > 100 && logged == 1, "{lost} were lost, {logged} times it was told");
    limit(&store, i64::from(u32::MAX - 1));
    store.append_event(&event(500), &own()).unwrap();
    let kept = read_events(&path, 0, u64::MAX).unwrap();
    assert_eq!((kept.len(), kept.first().unwrap().seq, kept.last().unwrap().seq), (500 - lost, 1, 500));
    store.break_for_tests();
    let logged = errors_logged(|| {
        store.set_do_not_disturb(true).unwrap_err();
        store.mark_seq(1).unwrap_err();
    });
    assert_eq!(logged, 1, "what fails once more is told once more");
}

#[test]
fn while_another_program_holds_the_lock_only_the_first_write_waits_for_it() {
    let (dir, path) = home();
    let mut store = Store::open(dir.path()).unwrap();
    let theirs = Connection::open(&path).unwrap();
    theirs.execute_batch("BEGIN IMMEDIATE").unwrap();
    let patience =
        |store: &Store| -> u32 { store.db.pragma_query_value(None, "busy_timeout", |row| row.get(0)).unwrap() };
    assert_eq!(u128::from(patience(&store)), open::BUSY_TIMEOUT.as_millis());
    let logged = errors_logged(|| {
        for seq in 1..50 {
            let error = store.append_event(&event(seq), &own()).unwrap_err();
            assert!(matches!(error, StoreError::Locked { .. }) && error.to_string().contains("close it"), "{error}");
            assert_eq!(patience(&store), 0);
        }
    });
    assert_eq!(logged, 1);
    assert!(store.contacts().unwrap().is_empty(), "what is there can be read");
    theirs.execute_batch("COMMIT").unwrap();
    store.append_event(&event(50), &own()).unwrap();
    assert_eq!(u128::from(patience(&store)), open::BUSY_TIMEOUT.as_millis());
}

#[test]
fn a_locked_database_is_told_at_the_start() {
    let (dir, path) = home();
    Store::open(dir.path()).unwrap();
    let theirs = Connection::open(&path).unwrap();
    theirs.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let error = Store::open(dir.path()).unwrap_err();
    assert!(matches!(error, StoreError::Locked { .. }) && error.to_string().contains("telecon.db"), "{error}");
    theirs.execute_batch("COMMIT").unwrap();
    Store::open(dir.path()).unwrap();
}
