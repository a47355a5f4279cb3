//! The socket's file: whose it is, who may open it, what becomes of a dead daemon's.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, net::UnixListener},
    path::Path,
    sync::Barrier,
    time::{Duration, Instant},
};

use telecon::control::server::{self, Greeting, ServeError, Server};
use tokio::sync::mpsc;

use super::fake::{Fake, did};

fn serve(socket: &Path) -> Result<Server, ServeError> {
    server::serve(socket, None, Greeting { did: did(1) }, mpsc::channel(1).0)
}

/// Once nobody holds the former socket any more: a child that another test has just forked may, until it executes its program.
fn serve_when_free(socket: &Path) -> Server {
    let limit = Instant::now() + Duration::from_secs(10);
    loop {
        match serve(socket) {
            Err(ServeError::AlreadyRunning { .. }) if Instant::now() < limit => std::thread::yield_now(),
            served => return served.expect("nobody answers there"),
        }
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("there").permissions().mode() & 0o7777
}

#[tokio::test]
async fn the_socket_and_its_directories_are_the_users_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("run/telecon/control.sock");
    let _server = serve(&socket).expect("free");
    assert_eq!(mode(&socket), 0o600);
    assert_eq!(mode(socket.parent().expect("a directory")), 0o700);
    assert_eq!(mode(&dir.path().join("run")), 0o700);
}

#[tokio::test]
async fn a_directory_that_others_may_look_into_is_closed() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("own directory");
    let _server = serve(&dir.path().join("control.sock")).expect("free");
    assert_eq!(mode(dir.path()), 0o700);
}

#[tokio::test]
async fn a_second_daemon_is_refused_and_the_first_goes_on() {
    let fake = Fake::new();
    match serve(&fake.socket()) {
        Err(error @ ServeError::AlreadyRunning { .. }) => {
            assert!(error.to_string().starts_with("another telecon daemon is running on "), "{error}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(fake.raw().await.greeting.expect("greets")["api"], 1);
}

#[tokio::test]
async fn whoever_answers_on_the_socket_is_left_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("control.sock");
    let _other = UnixListener::bind(&socket).expect("free");
    assert!(matches!(serve(&socket), Err(ServeError::AlreadyRunning { .. })));
    assert!(socket.exists());
}

#[tokio::test]
async fn a_dead_daemons_socket_is_replaced() {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("control.sock");
    drop(UnixListener::bind(&socket).expect("free"));
    assert!(socket.exists(), "nobody removed it");
    let _server = serve_when_free(&socket);
    tokio::net::UnixStream::connect(&socket).await.expect("the new one does");
}

/// In a process of its own: what other tests start holds this process's lock and listener from its fork until it executes its
/// program, so that a daemon that is gone would still seem to be there.
#[test]
fn of_many_daemons_that_start_at_once_over_a_dead_ones_socket_exactly_one_wins() {
    let output = std::process::Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "control::files::many_daemons_start_at_once", "--ignored"])
        .output()
        .expect("it can be started");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

#[tokio::test]
#[ignore = "run by the test above in a process of its own"]
async fn many_daemons_start_at_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("control.sock");
    for _ in 0..20 {
        drop(UnixListener::bind(&socket).expect("free"));
        let (runtime, start) = (tokio::runtime::Handle::current(), Barrier::new(4));
        let served: Vec<Result<Server, ServeError>> = std::thread::scope(|scope| {
            let starts = (0..4).map(|_| {
                scope.spawn(|| {
                    let _inside = runtime.enter();
                    start.wait();
                    serve(&socket)
                })
            });
            let starts: Vec<_> = starts.collect();
            starts.into_iter().map(|start| start.join().expect("no panic")).collect()
        });
        assert_eq!(served.iter().filter(|one| one.is_ok()).count(), 1, "{served:?}");
        assert!(served.iter().all(|one| matches!(one, Ok(_) | Err(ServeError::AlreadyRunning { .. }))), "{served:?}");
    }
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_left_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("control.sock");
    fs::write(&socket, "precious").expect("own directory");
    assert!(matches!(serve(&socket), Err(ServeError::NotASocket { .. })));
    assert_eq!(fs::read_to_string(&socket).expect("there"), "precious");
}

#[tokio::test]
async fn the_socket_is_removed_at_the_end_only_if_it_is_still_the_own_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("control.sock");
    drop(serve(&socket).expect("free"));
    assert!(!socket.exists());
    let server = serve_when_free(&socket);
    fs::rename(&socket, dir.path().join("moved")).expect("own directory");
    let _somebody_elses = UnixListener::bind(&socket).expect("free");
    drop(server);
    assert!(socket.exists());
}
