//! What each key may hold, and whether it has an effect yet: one table, and the checks of single values.
//!
//! A test proves that the table has exactly the keys of [`super::Config`].

use std::ops::RangeInclusive;

use libp2p::{Multiaddr, multiaddr::Protocol};

use crate::net;

/// Longest time that a key in seconds takes: an hour.
pub const MAX_SECONDS: u32 = 3600;

/// A key of the configuration file.
pub struct Key {
    /// Section and name.
    pub name: &'static str,
    /// What it may hold.
    pub kind: Kind,
    /// Whether the feature exists. A key without one is accepted, and `config check` says so.
    pub effect: Effect,
}

/// Whether setting a key changes anything in this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It does.
    Now,
    /// Its feature is not there yet.
    NotYet,
}

/// What a key may hold.
pub enum Kind {
    /// `true` or `false`.
    Switch,
    /// A text that may be empty.
    Text,
    /// A text that names something.
    Name,
    /// One of these words.
    Word(&'static [&'static str]),
    /// Whole seconds.
    Seconds(RangeInclusive<u32>),
    /// A list of multiaddrs to listen on.
    Listen,
    /// A list of multiaddrs to dial.
    Dial,
    /// A list of texts that name something.
    Names,
    /// A list of STUN and TURN servers.
    IceServers,
}

/// The keys of one entry of `network.ice_servers`.
pub const ICE_SERVER_KEYS: [&str; 3] = ["urls", "username", "credential"];

/// All keys of the file.
pub const KEYS: [Key; 30] = [
    now("network.listen", Kind::Listen),
    now("network.peers", Kind::Dial),
    now("network.mdns", Kind::Switch),
    not_yet("network.dht", Kind::Switch),
    not_yet("network.bootstrap", Kind::Dial),
    now("network.ice_servers", Kind::IceServers),
    now("network.ice_interfaces", Kind::Names),
    now("network.ice_relay_only", Kind::Switch),
    now("audio.backend", Kind::Word(&["auto", "pipewire", "pulseaudio", "alsa", "file", "null"])),
    now("audio.input", Kind::Name),
    now("audio.output", Kind::Name),
    now("audio.ring_output", Kind::Text),
    now("audio.ring_sound", Kind::Switch),
    now("audio.sounds", Kind::Switch),
    now("audio.input_file", Kind::Text),
    now("audio.output_file", Kind::Text),
    now("audio.echo_cancellation", Kind::Switch),
    now("audio.noise_suppression", Kind::Switch),
    now("audio.auto_gain", Kind::Switch),
    now("audio.high_pass", Kind::Switch),
    now("audio.process_files", Kind::Switch),
    now("audio.push_to_talk", Kind::Switch),
    now("audio.automute", Kind::Switch),
    now("audio.constant_bitrate", Kind::Switch),
    now("call.ring_seconds", Kind::Seconds(1..=MAX_SECONDS)),
    now("call.auto_accept", Kind::Word(&["none", "contacts", "all"])),
    now("call.who_may_ring", Kind::Word(&["contacts", "anyone"])),
    now("call.reconnect_seconds", Kind::Seconds(1..=MAX_SECONDS)),
    now("call.grace_seconds", Kind::Seconds(0..=MAX_SECONDS)),
    now("call.rejoin", Kind::Switch),
];

const fn now(name: &'static str, kind: Kind) -> Key {
    Key { name, kind, effect: Effect::Now }
}

const fn not_yet(name: &'static str, kind: Kind) -> Key {
    Key { name, kind, effect: Effect::NotYet }
}

/// The known key nearest to a wrong one: by the whole name, or by its last part when only the section is wrong.
pub fn nearest_key(wrong: &str) -> &'static str {
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    let score = |name: &str| strsim::jaro_winkler(wrong, name).max(strsim::jaro_winkler(&last(wrong), &last(name)));
    nearest(KEYS.iter().map(|key| (score(key.name), key.name)))
}

/// The word nearest to a wrong one.
pub fn nearest_word<'a>(wrong: &str, words: impl IntoIterator<Item = &'a str>) -> &'a str {
    nearest(words.into_iter().map(|word| (strsim::jaro_winkler(wrong, word), word)))
}

fn nearest<'a>(scored: impl Iterator<Item = (f64, &'a str)>) -> &'a str {
    scored.max_by(|a, b| a.0.total_cmp(&b.0)).map_or("", |(_, word)| word)
}

/// What is wrong with a value: the cause and the remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// What is the matter.
    pub cause: String,
    /// What to write instead.
    pub remedy: String,
}

/// A [`Wrong`] of its two halves.
pub fn wrong(cause: impl Into<String>, remedy: impl Into<String>) -> Wrong {
    Wrong { cause: cause.into(), remedy: remedy.into() }
}

/// Checks a multiaddr that is listened on: an IP address, then TCP or QUIC.
pub fn check_listen(text: &str) -> Result<(), Wrong> {
    let remedy = "write it like /ip4/0.0.0.0/udp/0/quic-v1 or /ip6/::/tcp/0";
    let address: Multiaddr =
        text.parse().map_err(|error| wrong(format!("{text:?} is not a multiaddr ({error})"), remedy))?;
    match address.iter().collect::<Vec<_>>()[..] {
        [Protocol::Ip4(_) | Protocol::Ip6(_), Protocol::Tcp(_)]
        | [Protocol::Ip4(_) | Protocol::Ip6(_), Protocol::Udp(_), Protocol::QuicV1] => Ok(()),
        _ => Err(wrong(format!("telecon cannot listen on {text:?}: only on an IP address with TCP or QUIC"), remedy)),
    }
}

/// Checks a multiaddr that is dialled: an IP address or a DNS name, then TCP or QUIC, then perhaps a peer id.
pub fn check_dial(text: &str) -> Result<(), Wrong> {
    net::parse_address(text).map(drop).map_err(|error| wrong(format!("{text:?} cannot be dialled"), error.to_string()))
}

/// Checks one URL of an ICE server (RFC 7064, RFC 7065). One that asks for TCP or TLS is right and has no effect yet.
pub fn check_ice_url(url: &str) -> Result<Effect, Wrong> {
    let remedy = "write it like stun:stun.example.org:3478 or turn:turn.example.org:3478";
    let bad = |cause: &str| Err(wrong(format!("{url:?} {cause}"), remedy));
    let Some((scheme, rest)) = url.split_once(':') else { return bad("is not the URL of a STUN or TURN server") };
    let (place, query) = rest.split_once('?').map_or((rest, None), |(place, query)| (place, Some(query)));
    let effect = match (scheme, query) {
        ("stun", None) | ("turn", None | Some("transport=udp")) => Effect::Now,
        ("stuns", None) | ("turns", None | Some("transport=tcp")) | ("turn", Some("transport=tcp")) => Effect::NotYet,
        ("stun" | "stuns" | "turn" | "turns", Some(_)) => {
            return bad("has something after ? that does not belong there");
        }
        _ => return bad("is not the URL of a STUN or TURN server"),
    };
    let (host, port) = match place.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        Some(_) | None => (place, None),
    };
    if port.is_some_and(|port| !port.parse::<u16>().is_ok_and(|port| port > 0)) {
        return bad("has no port between 1 and 65535 at its end");
    }
    let in_brackets = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let right = match in_brackets {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '-' | '_')),
    };
    if right { Ok(effect) } else { bad("names no host") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn the_table_has_exactly_the_keys_of_the_configuration() {
        let default = toml::Table::try_from(Config::default()).expect("serialises");
        let mut names: Vec<String> = Vec::new();
        for (section, keys) in &default {
            names.extend(keys.as_table().expect("a section").keys().map(|key| format!("{section}.{key}")));
        }
        let mut known: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
        names.sort();
        known.sort();
        assert_eq!(names, known);
    }

    #[test]
    fn every_word_of_the_table_is_a_value_of_its_key() {
        for key in &KEYS {
            let Kind::Word(words) = key.kind else { continue };
            let (section, name) = key.name.split_once('.').expect("a section");
            for word in words {
                let parsed: Result<Config, _> = toml::from_str(&format!("[{section}]\n{name} = \"{word}\""));
                assert!(parsed.is_ok(), "{} = {word}: {parsed:?}", key.name);
            }
            let error = toml::from_str::<Config>(&format!("[{section}]\n{name} = \"?\"")).unwrap_err().to_string();
            let count = error.matches('`').count() / 2 - 1;
            assert_eq!(count, words.len(), "the table lacks a word of {}: {error}", key.name);
        }
    }

    #[test]
    fn the_nearest_key_is_found_by_its_name_or_by_its_last_part() {
        for (wrong, right) in [
            ("network.lisen", "network.listen"),
            ("mdns", "network.mdns"),
            ("audio.ring_seconds", "call.ring_seconds"),
            ("call.autoaccept", "call.auto_accept"),
            ("network.ice-servers", "network.ice_servers"),
        ] {
            assert_eq!(nearest_key(wrong), right);
        }
    }

    #[test]
    fn addresses_to_dial_have_a_host_a_transport_and_perhaps_a_peer() {
        let peer = "12D3KooWGQmdpbHyLtRSNsCBDHkCYBKZjtkJPS8zpcCEGbYXSCoE";
        for right in ["/ip4/192.0.2.7/tcp/4001", "/dns4/a.example/udp/4001/quic-v1"] {
            assert_eq!(check_dial(right), Ok(()));
            assert_eq!(check_dial(&format!("{right}/p2p/{peer}")), Ok(()));
        }
        for wrong in [
            "",
            "bob",
            "192.0.2.7:4001",
            "/ip4/192.0.2.7",
            "/ip4/192.0.2.7/tcp/0",
            "/ip4/192.0.2.700/tcp/1",
            "/ip4/192.0.2.7/udp/4001",
            "/ip4/192.0.2.7/tcp/4001/quic-v1",
            "/ip4/192.0.2.7/tcp/4001/ws",
            "/ip4/192.0.2.7/tcp/4001/p2p/nobody",
        ] {
            assert!(check_dial(wrong).is_err(), "{wrong}");
        }
        assert!(check_dial(&format!("/ip4/192.0.2.7/tcp/4001/p2p/{peer}/p2p-circuit")).is_err());
    }

    #[test]
    fn addresses_to_listen_on_are_ip_addresses_with_a_transport() {
        for right in ["/ip4/0.0.0.0/udp/0/quic-v1", "/ip6/::/tcp/4001"] {
            assert_eq!(check_listen(right), Ok(()));
        }
        for wrong in
            ["", "0.0.0.0", "/ip4/0.0.0.0", "/dns4/a.example/tcp/0", "/ip4/0.0.0.0/udp/0", "/ip4/0.0.0.0/tcp/0/ws"]
        {
            assert!(check_listen(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn urls_of_ice_servers_are_stun_and_turn_and_have_an_effect_over_udp() {
        for right in [
            "stun:a.example",
            "stun:a.example:3478",
            "turn:192.0.2.7:3478?transport=udp",
            "turn:[2001:db8::1]:3478",
            "stun:[::1]",
        ] {
            assert_eq!(check_ice_url(right), Ok(Effect::Now));
        }
        for right in ["turns:a.example:5349", "turn:a.example?transport=tcp", "stuns:a.example"] {
            assert_eq!(check_ice_url(right), Ok(Effect::NotYet));
        }
        for wrong in [
            "",
            "a.example",
            "http://a.example",
            "stun:",
            "stun::3478",
            "stun:a.example:0",
            "stun:a.example:99999",
            "turn:a b",
            "turn:a.example?x",
            "stun:a.example?transport=udp",
            "stun:[::1",
            "stun://a.example",
        ] {
            assert!(check_ice_url(wrong).is_err(), "{wrong}");
        }
    }
}
