//! What a peer says about its end of the connection, checked before the library sees it.
//!
//! The text comes from another participant, who may be hostile: here it is cut down to one audio section, one
//! fingerprint (the sealed one) and candidates that are plain UDP addresses. RFC 8866 (SDP), RFC 8122 (fingerprints),
//! RFC 8839 (candidates).

use std::net::IpAddr;

use super::addresses::is_link_local;
// An own description has about 700 bytes, the longest honest candidate (IPv6 relay) about 180.
use crate::{
    audio::codec::version,
    proto::wire::{MAX_CANDIDATE_BYTES, MAX_SDP_BYTES},
};

/// SHA-256 of a DTLS certificate.
pub(super) type Fingerprint = [u8; 32];

/// Which libopus an end has. The format of deep redundancy (DRED) is an experiment of each version's own, so it is used
/// between equal ones only. No `fmtp` parameter: the library would refuse Opus where the values differ.
const LIBOPUS: &str = "a=telecon-libopus:";

/// Why a description was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadDescription {
    #[error("the description is too long")]
    TooLong,
    #[error("the description is no clean text")]
    NotText,
    #[error("the description has not exactly one audio section")]
    NotOneAudio,
    #[error("the description has not exactly one SHA-256 fingerprint")]
    NotOneFingerprint,
    #[error("the description's fingerprint is not the sealed one")]
    OtherFingerprint,
}

/// A description that may be given to the library.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Description {
    /// The text, every line ended by CR LF, without candidates.
    pub(super) text: String,
    /// The candidates that stood in it, unchecked.
    pub(super) candidates: Vec<String>,
}

/// Checks a peer's description against the fingerprint it was sealed with.
pub(super) fn check(sdp: &str, sealed: &Fingerprint) -> Result<Description, BadDescription> {
    if sdp.len() > MAX_SDP_BYTES {
        return Err(BadDescription::TooLong);
    }
    if fingerprint(sdp)? != *sealed {
        return Err(BadDescription::OtherFingerprint);
    }
    let (mut text, mut candidates, mut audio) = (String::with_capacity(sdp.len() + 64), Vec::new(), 0);
    for line in lines(sdp) {
        // The library must read the same lines as this check: no folding, no blanks before a line, no controls.
        if line.starts_with(' ') || line.chars().any(char::is_control) {
            return Err(BadDescription::NotText);
        }
        if has_prefix(line, "m=") {
            if !line.starts_with("m=audio ") {
                return Err(BadDescription::NotOneAudio);
            }
            audio += 1;
        }
        if has_prefix(line, "a=candidate:") {
            candidates.push(line[2..].to_owned());
        } else if !has_prefix(line, "a=end-of-candidates") {
            text.push_str(line);
            text.push_str("\r\n");
        }
    }
    if audio == 1 { Ok(Description { text, candidates }) } else { Err(BadDescription::NotOneAudio) }
}

/// An own description that says which libopus this end has.
pub(super) fn announced(sdp: &str) -> String {
    format!("{sdp}{LIBOPUS}{}\r\n", version())
}

/// Whether a peer's description announces the same libopus.
pub(super) fn has_same_libopus(sdp: &str) -> bool {
    let mut announced = lines(sdp).filter_map(|line| line.strip_prefix(LIBOPUS));
    announced.next().is_some_and(|announced| announced == version()) && announced.next().is_none()
}

/// The one SHA-256 fingerprint of a description.
pub(super) fn fingerprint(sdp: &str) -> Result<Fingerprint, BadDescription> {
    let mut values = lines(sdp).filter(|line| has_prefix(line.trim_start(), "a=fingerprint"));
    let (Some(line), None) = (values.next(), values.next()) else {
        return Err(BadDescription::NotOneFingerprint);
    };
    let value = line.strip_prefix("a=fingerprint:").ok_or(BadDescription::NotOneFingerprint)?;
    let hex = value.strip_prefix("sha-256 ").ok_or(BadDescription::NotOneFingerprint)?;
    hash(hex).ok_or(BadDescription::NotOneFingerprint)
}

/// `AB:CD:…`, 32 bytes (RFC 8122, §5).
fn hash(hex: &str) -> Option<Fingerprint> {
    let mut bytes = [0; 32];
    let mut parts = hex.split(':');
    for byte in &mut bytes {
        let part = parts.next().filter(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()))?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(bytes)
}

fn lines(sdp: &str) -> impl Iterator<Item = &str> {
    sdp.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line)).filter(|line| !line.is_empty())
}

fn has_prefix(line: &str, prefix: &str) -> bool {
    line.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// Whether a `candidate:…` line may be tried: UDP to an address that can be a peer's (RFC 8839, §5.1).
///
/// Host names are refused, so that nobody makes this node resolve names or ask multicast DNS.
pub(super) fn is_usable_candidate(line: &str) -> bool {
    if line.len() > MAX_CANDIDATE_BYTES || line.chars().any(char::is_control) {
        return false;
    }
    let Some(rest) = line.strip_prefix("candidate:") else { return false };
    let fields: Vec<&str> = rest.split(' ').collect();
    let [_foundation, component, transport, priority, address, port, "typ", _kind, ..] = fields[..] else {
        return false;
    };
    let Ok(address) = address.parse::<IpAddr>() else { return false };
    let is_unicast = match address {
        IpAddr::V4(ip) => !ip.is_broadcast() && !ip.is_multicast(),
        IpAddr::V6(ip) => !ip.is_multicast(),
    };
    component == "1"
        && transport.eq_ignore_ascii_case("udp")
        && priority.parse::<u32>().is_ok()
        && port.parse::<u16>().is_ok_and(|port| port != 0)
        && is_unicast
        && !address.is_unspecified()
        && !is_link_local(&address)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEALED: Fingerprint = [0xab; 32];

    fn line(byte: &str) -> String {
        format!("a=fingerprint:sha-256 {}\r\n", [byte; 32].join(":"))
    }

    fn sdp(fingerprints: &str) -> String {
        format!(
            "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n{fingerprints}m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=sendrecv\r\n"
        )
    }

    #[test]
    fn a_description_with_the_sealed_fingerprint_passes_unchanged() {
        for byte in ["AB", "ab"] {
            let text = sdp(&line(byte));
            assert_eq!(check(&text, &SEALED), Ok(Description { text, candidates: Vec::new() }));
        }
    }

    #[test]
    fn none_two_other_and_weak_fingerprints_are_refused() {
        let refused = |fingerprints: &str| check(&sdp(fingerprints), &SEALED).unwrap_err();
        assert_eq!(refused(""), BadDescription::NotOneFingerprint);
        assert_eq!(refused(&(line("AB") + &line("AB"))), BadDescription::NotOneFingerprint);
        assert_eq!(refused(&(line("AB") + &line("AC"))), BadDescription::NotOneFingerprint);
        assert_eq!(refused(&(line("AB") + "A=FINGERPRINT:sha-256 AC\r\n")), BadDescription::NotOneFingerprint);
        assert_eq!(refused(&(line("AB") + " a=fingerprint:sha-256 AC\r\n")), BadDescription::NotOneFingerprint);
        assert_eq!(refused(&line("AB").replace("sha-256", "sha-1")), BadDescription::NotOneFingerprint);
        assert_eq!(refused(&line("+B")), BadDescription::NotOneFingerprint);
        assert_eq!(refused(&line("AC")), BadDescription::OtherFingerprint);
    }

    #[test]
    fn a_fingerprint_hidden_behind_a_lone_carriage_return_is_refused() {
        let hidden = sdp(&line("AB")).replace("s=-", "s=-\ra=fingerprint:sha-256 AC");
        assert_eq!(check(&hidden, &SEALED), Err(BadDescription::NotText));
    }

    #[test]
    fn only_one_section_and_only_audio_is_accepted() {
        let good = sdp(&line("AB"));
        let video = good.replace("m=audio", "m=video");
        let two = format!("{good}m=audio 9 UDP/TLS/RTP/SAVPF 111\r\n");
        let data = format!("{good}m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\n");
        for bad in [video, two, data, sdp(&line("AB")).replace("m=audio 9 UDP/TLS/RTP/SAVPF 111\r\n", "")] {
            assert_eq!(check(&bad, &SEALED), Err(BadDescription::NotOneAudio));
        }
        assert_eq!(check(&"v".repeat(MAX_SDP_BYTES + 1), &SEALED), Err(BadDescription::TooLong));
    }

    #[test]
    fn only_the_same_libopus_is_the_same() {
        let text = sdp(&line("AB"));
        let announced = announced(&text);
        assert!(has_same_libopus(&announced) && check(&announced, &SEALED).is_ok());
        assert!(!has_same_libopus(&text));
        assert!(!has_same_libopus(&announced.replace(LIBOPUS, "a=telecon-libopus:another ")));
        assert!(!has_same_libopus(&super::announced(&announced)), "said twice");
    }

    #[test]
    fn candidates_are_taken_out_of_the_description() {
        let candidate = "candidate:1 1 udp 2130706431 192.0.2.1 4000 typ host";
        let text = sdp(&line("AB"));
        let with = format!("{text}a={candidate}\r\na=end-of-candidates\r\n");
        assert_eq!(check(&with, &SEALED), Ok(Description { text, candidates: vec![candidate.into()] }));
    }

    #[test]
    fn plain_udp_candidates_are_usable() {
        for line in [
            "candidate:1 1 udp 2130706431 192.0.2.1 4000 typ host",
            "candidate:1 1 UDP 2130706431 fd00::2 4000 typ host ufrag abc",
            "candidate:1 1 udp 1 127.0.0.1 4000 typ host",
            "candidate:1 1 udp 1 203.0.113.9 4000 typ srflx raddr 0.0.0.0 rport 0",
        ] {
            assert!(is_usable_candidate(line), "{line}");
        }
    }

    #[test]
    fn other_candidates_are_not() {
        for line in [
            "",
            "candidate:",
            "candidate:1 1 udp 1 192.0.2.1 4000",
            "candidate:1 1 tcp 1 192.0.2.1 4000 typ host tcptype passive",
            "candidate:1 2 udp 1 192.0.2.1 4000 typ host",
            "candidate:1 1 udp 1 example.org 4000 typ host",
            "candidate:1 1 udp 1 0b1e0f3a.local 4000 typ host",
            "candidate:1 1 udp 1 0.0.0.0 4000 typ host",
            "candidate:1 1 udp 1 255.255.255.255 4000 typ host",
            "candidate:1 1 udp 1 224.0.0.251 5353 typ host",
            "candidate:1 1 udp 1 ff02::fb 5353 typ host",
            "candidate:1 1 udp 1 fe80::1 4000 typ host",
            "candidate:1 1 udp 1 192.0.2.1 0 typ host",
            "candidate:1 1 udp 1 192.0.2.1 70000 typ host",
            "candidate:1 1 udp x 192.0.2.1 4000 typ host",
            "candidate:1 1 udp 1 192.0.2.1 4000 typ host\u{1b}[2J",
        ] {
            assert!(!is_usable_candidate(line), "{line}");
        }
    }
}
