//! A small disk of a test's own, in a mount namespace: it can be filled to the last byte, and mounted for reading only.
//!
//! The test stays outside and reaches the files through `/proc`. Without root the namespace is made in a user namespace.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// A disk that ends with this value, and all that was on it.
pub struct Disk {
    holder: Child,
    mounted: PathBuf,
}

impl Disk {
    /// Mounts an empty disk over that directory, for whoever [`Self::enter`]s.
    pub fn over(directory: &Path, kib: u32) -> Self {
        let user: &[&str] = if rustix::process::geteuid().is_root() { &[] } else { &["--map-root-user"] };
        let mut holder = Command::new("unshare")
            .args(user)
            .args(["--mount", "--", "sh", "-c"])
            .arg(r#"mount -t tmpfs -o "mode=700,size=$2k" telecon-test "$1" && echo up && exec cat"#)
            .args(["sh".as_ref(), directory.as_os_str(), kib.to_string().as_ref()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this test needs unshare (util-linux)");
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "up", "the disk could not be mounted: it needs root, or user namespaces");
        Self { holder, mounted: directory.to_owned() }
    }

    /// The command that starts others where the disk is.
    pub fn enter(&self) -> Vec<String> {
        let mut words = vec!["nsenter".to_owned(), "--target".into(), self.holder.id().to_string(), "--mount".into()];
        if !rustix::process::geteuid().is_root() {
            words.extend(["--user".into(), "--preserve-credentials".into()]);
        }
        words.push("--".into());
        words
    }

    /// The root of all files as those see it who have entered.
    pub fn root(&self) -> PathBuf {
        Path::new("/proc").join(self.holder.id().to_string()).join("root")
    }

    /// A command among those who have entered.
    pub fn command(&self, program: &str) -> Command {
        let words = self.enter();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg(program);
        command
    }

    /// Leaves no byte free.
    pub fn fill(&self) {
        let mut file = File::create(self.filler()).unwrap();
        let full = (0..).find_map(|_| file.write_all(&[0x5a; 512]).err()).unwrap();
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull, "{full}");
    }

    /// Takes back what filled it.
    pub fn free(&self) {
        fs::remove_file(self.filler()).unwrap();
    }

    /// Nobody may write any more; needs that nobody does.
    pub fn make_read_only(&self) {
        let done = self.command("mount").args(["-o", "remount,ro"]).arg(&self.mounted).status().unwrap();
        assert!(done.success());
    }

    fn filler(&self) -> PathBuf {
        self.root().join(self.mounted.strip_prefix("/").unwrap()).join("filler")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(self.holder.kill());
        drop(self.holder.wait());
    }
}
