//! Whose socket, whose directory; the rest of the file's life is in tests/it/control/files.rs.

use super::*;
use crate::private::DirectoryError;

#[test]
fn only_the_own_user_is_permitted() {
    let own = rustix::process::geteuid().as_raw();
    assert!(permitted(own));
    assert!(!permitted(own + 1));
    // Root may not either, when the daemon is not root's.
    assert_eq!(permitted(0), own == 0);
}

#[test]
fn a_path_that_no_unix_socket_can_have_is_named() {
    let path = PathBuf::from(format!("/tmp/{}/control.sock", "x".repeat(100)));
    assert!(matches!(SocketFile::bind(&path), Err(ServeError::PathTooLong { .. })));
}

#[test]
fn a_directory_that_everybody_may_write_to_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).expect("own directory");
    let refused = SocketFile::bind(&dir.path().join("control.sock"));
    assert!(matches!(refused, Err(ServeError::Directory(DirectoryError::Shared { .. }))), "{refused:?}");
    assert_eq!(fs::metadata(dir.path()).expect("there").mode() & 0o7777, 0o777);
}
