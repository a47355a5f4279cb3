//! What the daemons tell about themselves, out of their JSON answers. None of it decides whether the demo is ok.

use serde_json::Value;

/// One connection, as the listener's daemon sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct LegSeen {
    /// The speaker.
    pub did: String,
    /// Packets that never arrived or came too late, in percent.
    pub loss_pct: Option<f64>,
    /// From accept to the first decoded audio, in ms.
    pub first_audio_ms: Option<u64>,
}

/// When a daemon's sound files started, in microseconds of Unix time; `None`: not yet, or it does not tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Clock {
    /// First sample of the microphone's file.
    pub input_us: Option<u64>,
    /// First sample of the speaker's file.
    pub output_us: Option<u64>,
}

/// Own DID and an address to be dialled at, out of `identity.show`; `None` while the node does not listen.
pub fn identity(answer: &Value) -> Option<(String, String)> {
    let did = answer["did"].as_str()?;
    let addresses: Vec<_> = answer["listen"].as_array()?.iter().filter_map(Value::as_str).collect();
    let quic = addresses.iter().find(|address| address.contains("/quic"));
    Some((did.to_owned(), (*quic.or(addresses.first())?).to_owned()))
}

/// How many peers are connected, out of `daemon.status`.
pub fn peers(status: &Value) -> usize {
    status["peers"].as_u64().and_then(|peers| usize::try_from(peers).ok()).unwrap_or(0)
}

/// When the files started, out of `daemon.status`.
pub fn clock(status: &Value) -> Clock {
    let audio = &status["audio"];
    Clock { input_us: audio["input_started_unix_us"].as_u64(), output_us: audio["output_started_unix_us"].as_u64() }
}

/// All connections, out of `media.stats`.
pub fn legs(stats: &Value) -> Vec<LegSeen> {
    let Some(legs) = stats["legs"].as_array() else { return Vec::new() };
    legs.iter()
        .filter_map(|leg| {
            Some(LegSeen {
                did: leg["did"].as_str()?.to_owned(),
                loss_pct: leg["loss_pct"].as_f64(),
                first_audio_ms: leg["setup"]["first_audio"].as_u64(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_identity_counts_only_once_it_listens_and_quic_is_preferred() {
        assert_eq!(identity(&json!({ "did": "did:key:z", "listen": [] })), None);
        let listen = ["/ip4/127.0.0.1/tcp/1/p2p/x", "/ip4/127.0.0.1/udp/2/quic-v1/p2p/x"];
        let both = identity(&json!({ "did": "did:key:z", "listen": listen })).unwrap();
        assert_eq!(both, ("did:key:z".to_owned(), listen[1].to_owned()));
        let tcp = identity(&json!({ "did": "did:key:z", "listen": listen[..1] })).unwrap();
        assert_eq!(tcp.1, listen[0]);
    }

    #[test]
    fn figures_that_a_daemon_does_not_have_yet_are_none() {
        let stats = json!({ "legs": [
            { "did": "a", "loss_pct": 1.5, "setup": { "first_audio": 66 } },
            { "did": "b", "loss_pct": null, "setup": { "first_audio": null } },
            { "state": "joined" },
        ] });
        let seen = legs(&stats);
        assert_eq!(seen.len(), 2, "a leg without a DID is none");
        assert_eq!((seen[0].loss_pct, seen[0].first_audio_ms), (Some(1.5), Some(66)));
        assert_eq!((seen[1].loss_pct, seen[1].first_audio_ms), (None, None));
        assert_eq!((legs(&json!(null)), peers(&json!({}))), (Vec::new(), 0));
        let status = json!({ "peers": 2, "audio": { "input_started_unix_us": 5 } });
        assert_eq!((peers(&status), clock(&status)), (2, Clock { input_us: Some(5), output_us: None }));
    }
}
