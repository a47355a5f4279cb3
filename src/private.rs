//! Files and directories that are nobody else's business: the one place that makes them, closes them and refuses shared ones.

use std::{
    fs::{self, DirBuilder, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rustix::process::geteuid;

/// Others' writing, and the sticky bit: a place like /tmp, which is everybody's and must not be closed.
const EVERYBODYS: u32 = 0o1002;
/// What the group and others may do.
const OTHERS: u32 = 0o077;

/// Why a directory cannot hold private files. Each text names the directory, the cause and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// It cannot be made or examined.
    #[error("cannot use the directory {}: {source}; make it a directory that you may write to", path.display())]
    Unusable {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It is somebody else's, or everybody writes to it: others could put their own files there.
    #[error("the directory {} is shared with others; use a directory of your own with mode 0700", path.display())]
    Shared {
        /// The directory.
        path: PathBuf,
    },
}

/// Makes the directory with mode 0700 (and those above it), or closes an own one to others. A shared one is left as it is.
///
/// # Errors
/// Everything in [`DirectoryError`].
pub fn prepare_directory(path: &Path) -> Result<(), DirectoryError> {
    let unusable = |source| DirectoryError::Unusable { path: path.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(unusable)?;
    let metadata = fs::metadata(path).map_err(unusable)?;
    let mode = metadata.mode() & 0o7777;
    if metadata.uid() != geteuid().as_raw() || mode & EVERYBODYS != 0 {
        return Err(DirectoryError::Shared { path: path.to_owned() });
    }
    if mode & OTHERS != 0 {
        fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(unusable)?;
    }
    Ok(())
}

/// Writes a new file with mode 0600 to the disk, whole or not at all. A file that stands there stays ([`io::ErrorKind::AlreadyExists`]).
///
/// # Errors
/// What the system says.
pub fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    if written.is_err() {
        // The cause is told; that half of a file could not be removed either would only hide it.
        let _half = fs::remove_file(path);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn a_directory_is_made_private_with_those_above_it() {
        let home = tempfile::tempdir().unwrap();
        let deep = home.path().join("a/b");
        prepare_directory(&deep).unwrap();
        assert_eq!((mode(&deep), mode(&home.path().join("a"))), (0o700, 0o700));
    }

    #[test]
    fn an_own_directory_is_closed_to_others_and_a_shared_one_refused() {
        let home = tempfile::tempdir().unwrap();
        for open in [0o755, 0o775, 0o750, 0o701] {
            fs::set_permissions(home.path(), Permissions::from_mode(open)).unwrap();
            prepare_directory(home.path()).unwrap();
            assert_eq!(mode(home.path()), 0o700);
        }
        for shared in [0o1777, 0o777, 0o702] {
            fs::set_permissions(home.path(), Permissions::from_mode(shared)).unwrap();
            let error = prepare_directory(home.path()).unwrap_err();
            assert!(matches!(error, DirectoryError::Shared { .. }), "{error}");
            assert_eq!(mode(home.path()), shared, "a shared directory is left as it is");
        }
    }

    #[test]
    fn a_file_in_the_directorys_place_is_named() {
        let home = tempfile::tempdir().unwrap();
        let place = home.path().join("state");
        fs::write(&place, "").unwrap();
        let error = prepare_directory(&place).unwrap_err().to_string();
        assert!(error.contains("state") && error.contains(';'), "{error}");
    }

    #[test]
    fn a_new_file_is_private_and_never_takes_anothers_place() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("file");
        write_new(&file, b"first").unwrap();
        assert_eq!(mode(&file), 0o600);
        assert_eq!(write_new(&file, b"second").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&file).unwrap(), b"first");
    }
}
