//! Network namespaces of a test's own: one whose loopback can be made lossy (nftables), or two that are linked like two machines.
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
        let user: &[&str] = if rustix::process::geteuid().is_root() { &[] } else { &["--map-root-user"] };
        Self::hold(Command::new("unshare").args(user))
    }

    /// Makes two, linked by a cable: 10.77.0.1 and 10.77.0.2.
    pub fn linked() -> [Self; 2] {
        let first = Self::new();
        let second = Self::hold(first.command().arg("unshare"));
        let both = [first, second];
        Self::link(&both, "cable", "10.77.0");
        for namespace in &both {
            namespace.run(&["ip", "route", "add", "default", "dev", "cable"]);
        }
        both
    }

    /// Links two by one more cable of that name; their addresses end in 1 and 2.
    pub fn link([first, second]: &[Self; 2], name: &str, network: &str) {
        let peer = second.holder.id().to_string();
        first.run(&["ip", "link", "add", name, "type", "veth", "peer", "name", name, "netns", &peer]);
        for (namespace, number) in [(first, 1), (second, 2)] {
            namespace.run(&["ip", "address", "add", &format!("{network}.{number}/24"), "dev", name]);
            namespace.run(&["ip", "link", "set", name, "up"]);
        }
    }

    /// Pulls a cable out.
    pub fn unlink(&self, name: &str) {
        self.run(&["ip", "link", "delete", name]);
    }

    fn hold(unshare: &mut Command) -> Self {
        let mut holder = unshare
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

    fn command(&self) -> Command {
        let words = self.enter();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        command
    }

    fn run(&self, words: &[&str]) {
        assert!(self.command().args(words).status().unwrap().success(), "{words:?} failed in the namespace");
    }

    /// A firewall for all UDP of the namespace.
    pub fn firewall(&self) -> Firewall {
        let mut nft = self
            .command()
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
