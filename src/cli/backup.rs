//! `telecon id export` and `telecon id import`: the person's key into a sealed file, and out of it on a second device.
//!
//! Both work on the files alone. A daemon reads its key once, at its start, so an import waits until none runs.

use std::{
    fs::File,
    io::{self, ErrorKind, Read},
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::{
    exit::{self, CliError},
    passphrase::{self, Asking},
    text::{Printer, safe},
};
use crate::{
    config::Paths,
    control::socket,
    daemon::DaemonError,
    identity::{
        Adopted, Identity, IdentityError,
        backup::{Backup, BackupError, MAX_BACKUP_BYTES},
    },
    private,
};

/// `telecon id export`
pub fn export(paths: &Paths, file: &Path, passphrase: Option<&Path>, mut printer: Printer) -> Result<(), CliError> {
    let Some(identity) = Identity::load(&paths.state_dir).map_err(no_identity)? else {
        let message = format!(
            "there is no identity in {} yet; the daemon makes one at its first start, \
             and `telecon id import` brings one from a backup",
            paths.state_dir.display()
        );
        return Err(CliError::new(exit::BAD_DATA, message));
    };
    // Before anybody has typed anything; the writing itself never replaces a file.
    if file.symlink_metadata().is_ok() {
        return Err(not_written(file, &ErrorKind::AlreadyExists.into()));
    }
    let passphrase = passphrase::read(passphrase, Asking::Twice)?;
    let backup = Backup::seal(&identity.signing, &passphrase).map_err(|error| {
        CliError::new(code(error), format!("the backup {} cannot be made: {error}", file.display()))
    })?;
    private::write_new(file, backup.render().as_bytes()).map_err(|error| not_written(file, &error))?;
    printer.answer(&json!({ "did": identity.did, "file": path_text(file) }), |answer| {
        format!(
            "{} holds the key of {}. Keep it and its passphrase apart; without the passphrase nobody can open it, you included.",
            word(answer, "file"),
            word(answer, "did")
        )
    })
}

/// `telecon id import`
pub fn import(paths: &Paths, file: &Path, passphrase: Option<&Path>, mut printer: Printer) -> Result<(), CliError> {
    let refused = |error: BackupError| {
        CliError::new(code(error), format!("the backup {} cannot be opened: {error}", file.display()))
    };
    let bytes = read(file).map_err(|error| {
        let message =
            format!("the backup {} cannot be read: {error}; check its name and its permissions", file.display());
        CliError::new(exit::BAD_DATA, message)
    })?;
    let backup = Backup::parse(&bytes).map_err(refused)?;
    let _no_daemon_meanwhile = socket::lock(&paths.socket).map_err(DaemonError::from)?;
    let passphrase = passphrase::read(passphrase, Asking::Once)?;
    let person = backup.open(&passphrase).map_err(refused)?;
    let (identity, changed) = match Identity::adopt(&paths.state_dir, &person).map_err(no_identity)? {
        Adopted::Now(identity) => (identity, true),
        Adopted::Already(identity) => (identity, false),
    };
    printer.answer(&json!({ "did": identity.did, "changed": changed }), |answer| {
        let did = word(answer, "did");
        match answer["changed"] == Value::Bool(true) {
            true => {
                format!("This installation is a new device of {did}. Start the daemon; contacts are not in a backup.")
            }
            false => format!("This installation is {did} already; nothing was changed."),
        }
    })
}

/// At most one byte more than a backup can have.
fn read(file: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(file)?.take(MAX_BACKUP_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn not_written(file: &Path, error: &io::Error) -> CliError {
    let file = file.display();
    match error.kind() {
        ErrorKind::AlreadyExists => {
            CliError::new(exit::BAD_DATA, format!("{file} exists already and stays as it is; give another name"))
        }
        _ => {
            let message = format!("the backup {file} cannot be written: {error}; check the folder and the free space");
            CliError::new(exit::FAILED, message)
        }
    }
}

fn no_identity(error: IdentityError) -> CliError {
    let code = match &error {
        IdentityError::Another { .. } => exit::BAD_DATA,
        IdentityError::Owner { .. } => exit::NOT_PERMITTED,
        IdentityError::Directory(_)
        | IdentityError::Link { .. }
        | IdentityError::NotAFile { .. }
        | IdentityError::Exposed { .. }
        | IdentityError::Content { .. }
        | IdentityError::Io { .. }
        | IdentityError::Random => exit::FAILED,
    };
    CliError::new(code, error.to_string())
}

fn code(error: BackupError) -> u8 {
    match error {
        BackupError::Foreign | BackupError::Newer | BackupError::Damaged | BackupError::Costly => exit::BAD_DATA,
        BackupError::WrongPassphrase => exit::NOT_PERMITTED,
        BackupError::Memory => exit::TRY_AGAIN,
        BackupError::Random => exit::FAILED,
    }
}

fn path_text(file: &Path) -> PathBuf {
    std::path::absolute(file).unwrap_or_else(|_| file.to_owned())
}

fn word(answer: &Value, name: &str) -> String {
    safe(answer[name].as_str().unwrap_or("")).into_owned()
}
