//! `make install` puts a binary and valid systemd user units in place, and `make uninstall` takes them away.

use std::{
    path::Path,
    process::{Command, Output},
};

fn make(prefix: &Path, arguments: &[&str]) -> Output {
    Command::new("make")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        // Make's own variables of an outer `make test` must not reach this one.
        .env_remove("MAKEFLAGS")
        .env_remove("MAKELEVEL")
        .arg(format!("PREFIX={}", prefix.display()))
        .arg(format!("BINARY={}", env!("CARGO_BIN_EXE_telecon")))
        .args(arguments)
        .output()
        .expect("make runs")
}

fn assert_done(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_installed_units_are_valid_and_start_the_installed_binary() {
    let prefix = tempfile::tempdir().unwrap();
    assert_done(&make(prefix.path(), &["install"]));

    let binary = prefix.path().join("bin/telecon");
    let unit = prefix.path().join("share/systemd/user/telecon.service");
    let text = std::fs::read_to_string(&unit).unwrap();
    assert!(text.contains(&format!("\nExecStart={} daemon\n", binary.display())), "{text}");
    assert!(binary.exists());
    let socket = unit.with_extension("socket");
    let text = std::fs::read_to_string(&socket).unwrap();
    assert!(text.contains("\nListenStream=%t/telecon/control.sock\n"), "{text}");

    let verified = Command::new("systemd-analyze")
        .args(["--user", "verify"])
        .args([&unit, &socket])
        // It refuses to work without a runtime directory, which a build machine may lack.
        .env("XDG_RUNTIME_DIR", prefix.path())
        .output();
    match verified {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && !said.contains("telecon."), "systemd-analyze: {said}");
        }
        Err(error) => println!("skipped: systemd-analyze cannot be run here ({error})"),
    }

    assert_done(&make(prefix.path(), &["uninstall"]));
    assert!(!binary.exists() && !unit.exists() && !socket.exists());
}

#[test]
fn a_package_is_built_under_destdir_with_the_paths_of_its_prefix() {
    let root = tempfile::tempdir().unwrap();
    let destdir = format!("DESTDIR={}", root.path().display());
    assert_done(&make(Path::new("/usr"), &["install", &destdir]));
    let unit = std::fs::read_to_string(root.path().join("usr/share/systemd/user/telecon.service")).unwrap();
    assert!(unit.contains("\nExecStart=/usr/bin/telecon daemon\n"), "{unit}");
    assert!(root.path().join("usr/bin/telecon").exists());
}

#[test]
fn a_prefix_that_would_break_the_unit_is_refused() {
    for prefix in ["relative", "/with space", "/with%percent", "/with'quote"] {
        let output = make(Path::new(prefix), &["install", "DESTDIR=/nonexistent"]);
        assert!(!output.status.success(), "{prefix} was taken");
    }
}
