//! A network namespace of a test's own, with nothing but a loopback that can be made lossy (nftables).
//!
//! Control sockets are files, so that a test stays outside and talks to daemons inside. Without root it is made in a user namespace.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, Command, Stdio},
};

/// A namespace that ends with this value.
pub struct Namespace {
    holder: Child,
}

impl Namespace {
    /// Makes one, its loopback up.
    pub fn new() -> Self {
        let mut command = Command::new("unshare");
        if !rustix::process::geteuid().is_root() {
            command.arg("--map-root-user");
        }
        let mut holder = command
            .args(["--net", "--", "sh", "-c", "ip link set lo up && echo up && exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this test needs unshare (util-linux) and ip (iproute2)");
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "up", "the namespace could not be made: it needs root, or user namespaces");
        Self { holder }
    }

    /// The command that starts others inside.
    pub fn enter(&self) -> Vec<String> {
        let mut words = vec!["nsenter".to_owned(), "--target".into(), self.holder.id().to_string(), "--net".into()];
        if !rustix::process::geteuid().is_root() {
            words.extend(["--user".into(), "--preserve-credentials".into()]);
        }
        words.push("--".into());
        words
    }

    /// A firewall for all UDP of the namespace.
    pub fn firewall(&self) -> Firewall {
        let words = self.enter();
        let mut nft = Command::new(&words[0])
            .args(&words[1..])
            .args(["nft", "--interactive"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("this test needs nft: apt-get install nftables");
        let input = nft.stdin.take().unwrap();
        let mut firewall = Firewall { nft, input };
        firewall.say("add table inet loss");
        firewall.say("add chain inet loss noise { type filter hook input priority 0; }");
        firewall.say("add chain inet loss outage { type filter hook input priority 1; }");
        firewall
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.holder.kill());
        drop(self.holder.wait());
    }
}

/// Packet loss by nftables.
pub struct Firewall {
    nft: Child,
    input: ChildStdin,
}

impl Firewall {
    /// Loses so many of a hundred UDP packets.
    pub fn lose_percent(&mut self, percent: u32) {
        self.say("flush chain inet loss noise");
        self.say(&format!("add rule inet loss noise meta l4proto udp numgen random mod 100 < {percent} drop"));
    }

    /// Loses every UDP packet, or none.
    pub fn outage(&mut self, out: bool) {
        self.say(if out { "add rule inet loss outage meta l4proto udp drop" } else { "flush chain inet loss outage" });
    }

    fn say(&mut self, line: &str) {
        writeln!(self.input, "{line}").and_then(|()| self.input.flush()).expect("nft takes commands");
    }
}

impl Drop for Firewall {
    fn drop(&mut self) {
        drop(self.nft.kill());
        drop(self.nft.wait());
    }
}
