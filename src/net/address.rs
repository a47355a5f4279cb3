//! Which multiaddrs this node dials, and one clear sentence for those that it does not.
//!
//! Nothing is resolved or dialled here.

use std::net::{IpAddr, Ipv6Addr};

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};

pub use crate::proto::wire::{MAX_ADDRESS_BYTES, MAX_ADDRESSES};
use crate::proto::{signal::Contact, wire::MAX_PEER_ID_BYTES};

/// Why a text or a multiaddr cannot be dialled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Longer than [`MAX_ADDRESS_BYTES`].
    #[error("a multiaddr has at most {MAX_ADDRESS_BYTES} bytes")]
    TooLong,
    /// Not the multiaddr syntax at all.
    #[error("not a multiaddr; one looks like /ip4/192.0.2.7/udp/4001/quic-v1 or /dns/example.org/tcp/4001")]
    Syntax,
    /// A transport or an order of parts that this node does not speak.
    #[error("/{0} cannot be dialled here; use /ip4, /ip6 or /dns with /tcp/PORT or /udp/PORT/quic-v1")]
    Unsupported(String),
    /// Ends before a transport is complete.
    #[error("the multiaddr is incomplete; it needs a host and /tcp/PORT or /udp/PORT/quic-v1")]
    Incomplete,
    /// 0.0.0.0, a multicast address, port 0.
    #[error("the multiaddr names no host and port that can be dialled (such as 0.0.0.0 or port 0)")]
    NoDestination,
}

/// Where a dialable address leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Dialable {
    /// Without `/p2p/…`.
    pub address: Multiaddr,
    /// From `/p2p/…`, when it is there.
    pub peer: Option<PeerId>,
    /// The host is an IP address, not a name.
    pub literal: bool,
}

/// Parses a user's text. `/p2p/<id>` may be left out.
///
/// # Errors
/// [`AddressError`], whose text tells the user what to write instead.
pub fn parse(text: &str) -> Result<Multiaddr, AddressError> {
    if text.len() > MAX_ADDRESS_BYTES {
        return Err(AddressError::TooLong);
    }
    let address: Multiaddr = text.parse().map_err(|_| AddressError::Syntax)?;
    check(&address).map(|_| address)
}

/// `host / (tcp | udp / quic-v1) [/ p2p]`, and nothing else.
pub(super) fn check(address: &Multiaddr) -> Result<Dialable, AddressError> {
    if address.len() > MAX_ADDRESS_BYTES {
        return Err(AddressError::TooLong);
    }
    let mut parts = address.iter();
    let literal = check_host(parts.next().ok_or(AddressError::Incomplete)?)?;
    let port = match parts.next().ok_or(AddressError::Incomplete)? {
        Protocol::Tcp(port) => port,
        Protocol::Udp(port) => match parts.next().ok_or(AddressError::Incomplete)? {
            Protocol::QuicV1 => port,
            other => return Err(unsupported(&other)),
        },
        other => return Err(unsupported(&other)),
    };
    let peer = match parts.next() {
        None => None,
        Some(Protocol::P2p(peer)) => Some(peer),
        Some(other) => return Err(unsupported(&other)),
    };
    if let Some(other) = parts.next() {
        return Err(unsupported(&other));
    }
    if port == 0 {
        return Err(AddressError::NoDestination);
    }
    let address = address.iter().filter(|part| !matches!(part, Protocol::P2p(_))).collect();
    Ok(Dialable { address, peer, literal })
}

/// What a participant's node told in its `Join`, as far as it can be dialled: IP addresses only, so that a stranger
/// cannot make this node ask for names.
pub(super) fn check_contact(contact: &Contact) -> Option<(PeerId, Vec<Multiaddr>)> {
    if contact.peer_id.len() > MAX_PEER_ID_BYTES {
        return None;
    }
    let peer: PeerId = contact.peer_id.parse().ok()?;
    let addresses: Vec<Multiaddr> = contact
        .addresses
        .iter()
        .take(MAX_ADDRESSES)
        .filter_map(|text| check(&parse(text).ok()?).ok())
        .filter(|dialable| dialable.literal && dialable.peer.is_none_or(|named| named == peer))
        .map(|dialable| dialable.address)
        .collect();
    if addresses.is_empty() { None } else { Some((peer, addresses)) }
}

/// The address's IP, when it begins with one.
pub(super) fn ip(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.into()),
        _other => None,
    }
}

/// Where somebody comes from, as far as it costs something to come from elsewhere: an IPv4 address, or the 56 bits of an IPv6
/// address that a customer of a provider has in common (RFC 6177; go-libp2p counts by them, too).
pub(super) fn source(address: &Multiaddr) -> Option<IpAddr> {
    Some(match ip(address)?.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 72 << 72).into(),
        ip @ IpAddr::V4(_) => ip,
    })
}

/// Whether the host is an IP address (true) or a name (false).
fn check_host(part: Protocol<'_>) -> Result<bool, AddressError> {
    let ip: IpAddr = match part {
        Protocol::Ip4(ip) => ip.into(),
        Protocol::Ip6(ip) => ip.into(),
        Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_) => return Ok(false),
        other => return Err(unsupported(&other)),
    };
    if ip.is_unspecified() || ip.is_multicast() || ip == IpAddr::from([255; 4]) {
        return Err(AddressError::NoDestination);
    }
    Ok(true)
}

fn unsupported(part: &Protocol<'_>) -> AddressError {
    AddressError::Unsupported(part.tag().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: &str = "12D3KooWGMYMmN1RGUYjWaSV6P3XtnBjwnosnJGNMnttfVCRnd6g";

    #[test]
    fn tcp_and_quic_to_hosts_and_names_are_dialled_with_and_without_peer_id() {
        for host in ["/ip4/192.0.2.7", "/ip6/2001:db8::1", "/dns/example.org", "/dns4/a.example", "/dns6/a.example"] {
            for transport in ["/tcp/4001", "/udp/4001/quic-v1"] {
                for suffix in [String::new(), format!("/p2p/{PEER}")] {
                    let text = format!("{host}{transport}{suffix}");
                    let dialable = check(&parse(&text).unwrap()).unwrap();
                    assert_eq!(dialable.address.to_string(), format!("{host}{transport}"));
                    assert_eq!(dialable.peer.is_some(), !suffix.is_empty());
                    assert_eq!(dialable.literal, host.starts_with("/ip"));
                }
            }
        }
    }

    #[test]
    fn each_mistake_in_a_multiaddr_has_its_own_sentence() {
        let long = format!("/dns/{}/tcp/1", "a".repeat(300));
        let relay = format!("/ip4/192.0.2.7/tcp/1/p2p/{PEER}/p2p-circuit");
        for (text, error) in [
            ("", AddressError::Incomplete),
            ("192.0.2.7:4001", AddressError::Syntax),
            ("/ip4/300.0.0.1/tcp/1", AddressError::Syntax),
            ("/ip4/192.0.2.7", AddressError::Incomplete),
            ("/ip4/192.0.2.7/udp/4001", AddressError::Incomplete),
            ("/ip4/192.0.2.7/udp/4001/quic", AddressError::Unsupported("quic".into())),
            ("/ip4/192.0.2.7/tcp/4001/ws", AddressError::Unsupported("ws".into())),
            ("/unix/tmp", AddressError::Unsupported("unix".into())),
            (relay.as_str(), AddressError::Unsupported("p2p-circuit".into())),
            ("/ip4/0.0.0.0/tcp/4001", AddressError::NoDestination),
            ("/ip4/224.0.0.1/tcp/4001", AddressError::NoDestination),
            ("/ip4/192.0.2.7/tcp/0", AddressError::NoDestination),
            (long.as_str(), AddressError::TooLong),
        ] {
            assert_eq!(parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn a_source_is_an_ipv4_address_or_what_the_ipv6_addresses_of_one_customer_have_in_common() {
        let source = |text: &str| source(&text.parse().unwrap());
        assert_ne!(source("/ip4/192.0.2.7/tcp/1"), source("/ip4/192.0.2.8/tcp/1"));
        assert_eq!(source("/ip4/192.0.2.7/tcp/1"), source("/ip4/192.0.2.7/udp/2/quic-v1"));
        assert_eq!(source("/ip4/192.0.2.7/tcp/1"), source("/ip6/::ffff:192.0.2.7/tcp/1"));
        assert_eq!(source("/ip6/2001:db8:0:100::1/tcp/1"), source("/ip6/2001:db8:0:1ff:a::2/tcp/2"));
        assert_ne!(source("/ip6/2001:db8:0:100::1/tcp/1"), source("/ip6/2001:db8:0:200::1/tcp/1"));
    }

    #[test]
    fn a_contact_keeps_at_most_eight_literal_addresses_of_its_own_peer() {
        let other = PeerId::random();
        let mut addresses = vec![
            "/dns/internal.example/tcp/80".to_owned(),
            "nonsense".to_owned(),
            format!("/ip4/192.0.2.7/tcp/1/p2p/{other}"),
            format!("/ip4/192.0.2.7/tcp/1/p2p/{PEER}"),
        ];
        addresses.extend((2..20).map(|port| format!("/ip4/192.0.2.7/tcp/{port}")));
        let (peer, kept) = check_contact(&Contact { peer_id: PEER.into(), addresses }).unwrap();
        assert_eq!(peer.to_string(), PEER);
        assert_eq!(kept.len(), MAX_ADDRESSES - 3);
        let nonsense = Contact { peer_id: "x".repeat(1000), addresses: vec!["/ip4/192.0.2.7/tcp/1".into()] };
        assert_eq!(check_contact(&nonsense), None);
        assert_eq!(check_contact(&Contact { peer_id: PEER.into(), addresses: vec![] }), None);
    }
}
