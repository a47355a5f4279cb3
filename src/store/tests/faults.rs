//! Files that are not right and disks that fail: nothing is overwritten, the sentence says what to do, and calls go on.

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
    assert!(error.contains("telecon.db") && error.contains("check the free space"), "{error}");
    store.append_event(&event(1), &own()).unwrap_err();
    store.remember(&did(1), message(1), Sender::Contact, 1).unwrap_err();
    assert_eq!(store.contacts().unwrap().len(), 1);
}
