//! Opening and making the database file, its versions, and telling a foreign or damaged file from our own.

use std::{
    fs,
    io::{self, Read},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::{StoreError, migrations::MIGRATIONS};
use crate::private::prepare_directory;

/// `PRAGMA application_id` of telecon's databases: "tlcn".
pub(super) const APPLICATION_ID: u32 = 0x746c_636e;
const MAGIC: &[u8] = b"SQLite format 3\0";
const HEADER_BYTES: usize = 100;
const APPLICATION_ID_AT: usize = 68;
/// How long a write waits for another process (a backup, somebody's `sqlite3`) that holds the lock. It blocks the daemon's loop,
/// so it is short, and only the first of a row of writes waits; what then fails is told or logged.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_millis(250);

pub(super) fn open_or_create(state_dir: &Path, path: &Path) -> Result<Connection, StoreError> {
    let unreachable = |source| StoreError::Unreachable { path: path.to_owned(), source };
    prepare_directory(state_dir)?;
    if !path.try_exists().map_err(unreachable)? {
        create(path)?;
    }
    check_header(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(unreachable)?;
    let mut db = connect(path)?;
    check_pages(&db, path)?;
    migrate(&mut db, path)?;
    Ok(db)
}

/// Opens for reading, beside the daemon's own connection.
pub(super) fn open_to_read(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags).map_err(|error| explain(path, error))?;
    db.busy_timeout(BUSY_TIMEOUT).map_err(|error| explain(path, error))?;
    Ok(db)
}

/// Makes the database under another name and moves it into place whole, so that an empty or half-written `telecon.db` is always
/// somebody's damage and never our own interrupted start.
fn create(path: &Path) -> Result<(), StoreError> {
    let unreachable = |source| StoreError::Unreachable { path: path.to_owned(), source };
    let wal = with_suffix(path, "-wal");
    if wal.exists() {
        return Err(StoreError::LogAlone { path: path.to_owned(), wal });
    }
    let new = with_suffix(path, ".new");
    for leftover in [new.clone(), with_suffix(&new, "-wal"), with_suffix(&new, "-shm")] {
        match fs::remove_file(leftover) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(unreachable(error)),
            Ok(()) | Err(_) => {}
        }
    }
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new).map_err(unreachable)?;
    let mut db = connect(&new)?;
    let prepared = db.pragma_update(None, "journal_mode", "WAL");
    prepared
        .and_then(|()| db.pragma_update(None, "application_id", APPLICATION_ID))
        .map_err(|error| explain(path, error))?;
    migrate(&mut db, path)?;
    db.close().map_err(|(_, error)| explain(path, error))?;
    fs::File::open(&new).and_then(|file| file.sync_all()).map_err(unreachable)?;
    // A hard link, not a rename: it never replaces a file that came into being meanwhile.
    match fs::hard_link(&new, path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(unreachable(error)),
        Ok(()) | Err(_) => {}
    }
    fs::remove_file(&new).map_err(unreachable)
}

fn connect(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags).map_err(|error| explain(path, error))?;
    let set = db.busy_timeout(BUSY_TIMEOUT);
    let set = set.and_then(|()| db.pragma_update(None, "synchronous", "NORMAL"));
    // Keys of calls that are over are not left in free pages.
    let set = set.and_then(|()| db.pragma_update(None, "secure_delete", true));
    set.and_then(|()| db.pragma_update(None, "trusted_schema", false)).map_err(|error| explain(path, error))?;
    Ok(db)
}

/// Looks at the file before SQLite does, which may write even where it only reads (a WAL is folded in at closing).
/// Layout: <https://sqlite.org/fileformat2.html>, §1.3.
fn check_header(path: &Path) -> Result<(), StoreError> {
    let unreachable = |source| StoreError::Unreachable { path: path.to_owned(), source };
    let mut header = Vec::with_capacity(HEADER_BYTES);
    let file = fs::File::open(path).map_err(unreachable)?;
    file.take(HEADER_BYTES as u64).read_to_end(&mut header).map_err(unreachable)?;
    let magic = &header[..header.len().min(MAGIC.len())];
    if !MAGIC.starts_with(magic) {
        return Err(StoreError::Foreign { path: path.to_owned() });
    }
    if header.len() < HEADER_BYTES {
        return Err(StoreError::Damaged { path: path.to_owned(), detail: "it is cut off".into() });
    }
    if header[APPLICATION_ID_AT..APPLICATION_ID_AT + 4] != APPLICATION_ID.to_be_bytes() {
        return Err(StoreError::Foreign { path: path.to_owned() });
    }
    Ok(())
}

fn check_pages(db: &Connection, path: &Path) -> Result<(), StoreError> {
    let found: String =
        db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(|error| explain(path, error))?;
    if found != "ok" {
        return Err(StoreError::Damaged {
            path: path.to_owned(),
            detail: found.lines().next().unwrap_or("").to_owned(),
        });
    }
    Ok(())
}

fn migrate(db: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let known = MIGRATIONS.len() as i64;
    let found: i64 =
        db.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(|error| explain(path, error))?;
    if found > known {
        return Err(StoreError::Newer { path: path.to_owned(), found, known });
    }
    apply(db, MIGRATIONS, found).map_err(|error| explain(path, error))
}

/// Applies what comes after version `from`; each step and its version number land together or not at all.
pub(super) fn apply(db: &mut Connection, migrations: &[&str], from: i64) -> rusqlite::Result<()> {
    let done = usize::try_from(from).unwrap_or(0);
    for (at, step) in migrations.iter().enumerate().skip(done) {
        let transaction = db.transaction()?;
        transaction.execute_batch(step)?;
        transaction.pragma_update(None, "user_version", at as i64 + 1)?;
        transaction.commit()?;
    }
    Ok(())
}

/// SQLite's error as a sentence of ours.
pub(super) fn explain(path: &Path, error: rusqlite::Error) -> StoreError {
    let path = path.to_owned();
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => StoreError::Foreign { path },
        Some(ErrorCode::DatabaseCorrupt) => StoreError::Damaged { path, detail: error.to_string() },
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::Locked { path },
        Some(ErrorCode::DiskFull) => StoreError::Full { path },
        Some(ErrorCode::ReadOnly) => StoreError::ReadOnly { path },
        Some(_) | None => StoreError::Sqlite { path, source: error },
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
