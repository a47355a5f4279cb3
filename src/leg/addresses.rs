//! Which of this machine's addresses a leg binds.
//!
//! The library's own `0.0.0.0` never means the loopback, but two daemons on a machine without a network must find
//! each other. So addresses are listed here and bound one by one.

use std::{
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
};

use rtc::shared::ifaces::ifaces;

/// Sockets a leg; what a machine has beyond that is not used.
const MAX_ADDRESSES: usize = 16;

/// The interfaces whose addresses are bound: looked up when a connection is built, and again with every ICE restart, when
/// this machine may be in another network.
pub(super) struct Interfaces(pub(super) Vec<String>);

impl ToSocketAddrs for Interfaces {
    type Iter = std::vec::IntoIter<SocketAddr>;

    fn to_socket_addrs(&self) -> io::Result<Self::Iter> {
        Ok(local(&self.0).into_iter())
    }
}

/// Whether a leg can bind anything on the interface of that name now.
pub fn has_address(interface: &str) -> bool {
    !local(&[interface.to_owned()]).is_empty()
}

/// The addresses to bind, each with port 0; empty when the machine has none that fits.
pub(super) fn local(interfaces: &[String]) -> Vec<SocketAddr> {
    let listed = match ifaces() {
        Ok(listed) => listed,
        Err(error) => {
            tracing::warn!(%error, "cannot list the network interfaces");
            Vec::new()
        }
    };
    let found = listed.into_iter().filter_map(|interface| Some((interface.name, interface.addr?.ip())));
    choose(interfaces, found.collect()).into_iter().map(|ip| SocketAddr::new(ip, 0)).collect()
}

/// Named interfaces: all their addresses. Otherwise every address but the loopback's, or that when it stands alone.
fn choose(interfaces: &[String], found: Vec<(String, IpAddr)>) -> Vec<IpAddr> {
    let usable = |ip: &IpAddr| !ip.is_unspecified() && !ip.is_multicast() && !is_link_local(ip);
    let mut chosen: Vec<IpAddr> = Vec::new();
    for (name, ip) in &found {
        let wanted = if interfaces.is_empty() { !ip.is_loopback() } else { interfaces.contains(name) };
        if wanted && usable(ip) && !chosen.contains(ip) {
            chosen.push(*ip);
        }
    }
    if chosen.is_empty() && interfaces.is_empty() {
        // One is enough to reach another daemon on this machine; IPv4 where there is both.
        let loopbacks = || found.iter().map(|(_, ip)| *ip).filter(IpAddr::is_loopback);
        chosen.extend(loopbacks().find(IpAddr::is_ipv4).or_else(|| loopbacks().next()));
    }
    chosen.truncate(MAX_ADDRESSES);
    chosen
}

/// 169.254.0.0/16 (RFC 3927) and fe80::/10 (RFC 4291, §2.5.6): without the interface they mean nothing to a peer.
pub(super) fn is_link_local(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Vec<(String, IpAddr)> {
        [("lo", "127.0.0.1"), ("lo", "::1"), ("eth0", "192.0.2.2"), ("eth0", "fd00::2"), ("eth0", "fe80::1")]
            .map(|(name, ip)| (name.to_owned(), ip.parse().unwrap()))
            .to_vec()
    }

    fn texts(chosen: Vec<IpAddr>) -> Vec<String> {
        chosen.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn real_interfaces_are_used_without_loopback_and_link_local() {
        assert_eq!(texts(choose(&[], machine())), ["192.0.2.2", "fd00::2"]);
    }

    #[test]
    fn the_loopback_is_used_when_it_stands_alone() {
        let found: Vec<_> = machine().into_iter().take(2).collect();
        assert_eq!(texts(choose(&[], found)), ["127.0.0.1"]);
    }

    #[test]
    fn a_machine_with_only_link_local_addresses_uses_the_loopback() {
        let found = machine().into_iter().filter(|(name, ip)| name == "lo" || is_link_local(ip)).collect();
        assert_eq!(texts(choose(&[], found)), ["127.0.0.1"]);
    }

    #[test]
    fn named_interfaces_are_used_and_no_others() {
        assert_eq!(texts(choose(&["lo".into()], machine())), ["127.0.0.1", "::1"]);
        assert_eq!(texts(choose(&["eth0".into()], machine())), ["192.0.2.2", "fd00::2"]);
        assert!(choose(&["wlan0".into()], machine()).is_empty());
    }

    #[test]
    fn sockets_are_bounded() {
        let found = (0..200).map(|n| ("eth0".to_owned(), IpAddr::from([192, 0, 2, n]))).collect();
        assert_eq!(choose(&[], found).len(), MAX_ADDRESSES);
    }

    #[test]
    fn this_machine_has_an_address() {
        assert!(!local(&[]).is_empty());
        assert!(local(&["lo".into()]).iter().all(|address| address.ip().is_loopback()));
        assert!(has_address("lo") && !has_address("nowhere0"));
    }
}
