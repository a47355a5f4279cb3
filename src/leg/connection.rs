//! Builds the PeerConnection of a leg: settings, codecs, own track, and what hands everything over.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use rtc::{
    ice::mdns::MulticastDnsMode,
    interceptor::{Interceptor, Packet, Slot, StreamInfo, TaggedPacket},
    media_stream::MediaStreamTrack,
    peer_connection::configuration::{
        interceptor_registry::configure_rtcp_reports, media_engine::MIME_TYPE_OPUS, setting_engine::SettingEngine,
    },
    rtcp::transport_feedbacks::cc_feedback_report::CcFeedbackReport,
    rtp_transceiver::rtp_sender::{
        RTCPFeedback, RTCRtpCodec, RTCRtpCodecParameters, RTCRtpCodingParameters, RTCRtpEncodingParameters,
        RtpCodecKind,
    },
    sansio::Protocol,
};
use tokio::sync::mpsc;
use webrtc::{
    media_stream::{track_local::static_rtp::TrackLocalStaticRTP, track_remote::TrackRemote},
    peer_connection::{
        MediaEngine, PeerConnection, PeerConnectionBuilder, PeerConnectionEventHandler, RTCConfiguration,
        RTCConfigurationBuilder, RTCIceConnectionState, RTCIceGatheringState, RTCIceServer, RTCIceTransportPolicy,
        RTCPeerConnectionIceEvent, RTCPeerConnectionState, Registry, SettingEngineBuilder,
    },
    rtp_transceiver::RtpSender,
};

use super::{
    IceConfig, LegRuntime,
    addresses::{self, Interfaces},
};

/// What the own offer calls Opus; an answer takes the offerer's number.
const OPUS_PAYLOAD_TYPE: u8 = 111;
/// And Opus with copies of earlier frames, which every browser offers under these numbers too.
const RED_PAYLOAD_TYPE: u8 = 63;
/// RFC 2198, §5: of which types the blocks are.
const RED_FMTP: &str = "111/111";
/// Redundant audio (RFC 2198).
pub(super) const MIME_TYPE_RED: &str = "audio/red";
/// 20 ms between checks: loopback offer to connected in 44 ms instead of 404 ms with the library's 200 ms.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);
/// With the interval above a pair is tried for 5 s.
const CHECKS_PER_PAIR: u16 = 250;
/// A peer that was killed shows as disconnected after this; four lost keepalives in a row.
const DISCONNECTED_AFTER: Duration = Duration::from_secs(2);
/// After that much more the attempt is lost; the same sum bounds the search for a first pair.
const FAILED_AFTER: Duration = Duration::from_secs(5);
const KEEPALIVE_INTERVAL: Duration = Duration::from_millis(500);
/// Server-reflexive pairs wait a little for a direct one.
const SRFLX_WAIT: Duration = Duration::from_millis(100);
/// Relayed pairs wait longer: they cost a server's bandwidth for the whole call.
const RELAY_WAIT: Duration = Duration::from_millis(500);
/// Behind all of the library's own.
const FEEDBACK_SLOT: usize = 20_000;

/// Why a connection could not be built.
#[derive(Debug, thiserror::Error)]
pub(super) enum BuildError {
    #[error("this machine has no address that ICE may use")]
    NoAddress,
    #[error("the WebRTC library: {0}")]
    Library(#[from] webrtc::error::Error),
}

/// What the library reported.
pub(super) enum Happened {
    /// A local candidate, `candidate:…`.
    Candidate(String),
    /// No more local candidates will come.
    Gathered,
    /// ICE's state.
    Ice(RTCIceConnectionState),
    /// The state of ICE and DTLS together.
    Peer(RTCPeerConnectionState),
    /// The peer's audio arrives.
    Track(Arc<dyn TrackRemote>),
}

/// A connection with its own audio track.
pub(super) struct Connection {
    pub(super) peer: Arc<dyn PeerConnection>,
    pub(super) sender: Arc<dyn RtpSender>,
    pub(super) track: Arc<TrackLocalStaticRTP>,
}

/// Builds a connection that sends `ssrc` and reports to `happened`, and to `feedback` what the peer tells of the own audio.
pub(super) async fn build(
    ice: &IceConfig,
    ssrc: u32,
    runtime: Arc<LegRuntime>,
    happened: mpsc::Sender<Happened>,
    feedback: mpsc::Sender<CcFeedbackReport>,
) -> Result<Connection, BuildError> {
    if addresses::local(&ice.interfaces).is_empty() {
        return Err(BuildError::NoAddress);
    }
    let mut codecs = MediaEngine::default();
    for (rtp_codec, payload_type) in [(opus(), OPUS_PAYLOAD_TYPE), (red(), RED_PAYLOAD_TYPE)] {
        codecs.register_codec(RTCRtpCodecParameters { rtp_codec, payload_type }, RtpCodecKind::Audio)?;
    }
    let reports = configure_rtcp_reports(Registry::new());
    let reports = reports.with(Slot::Custom(FEEDBACK_SLOT), FeedbackTap::new(feedback));
    let peer = PeerConnectionBuilder::<Interfaces>::new()
        .with_configuration(configuration(ice))
        .with_setting_engine(settings())
        .with_media_engine(codecs)
        .with_interceptor_registry(reports)
        .with_handler(Arc::new(Handler { happened }))
        .with_runtime(runtime)
        .with_udp_addrs(vec![Interfaces(ice.interfaces.clone())])
        .build()
        .await?;
    let peer: Arc<dyn PeerConnection> = Arc::new(peer);
    let track = Arc::new(TrackLocalStaticRTP::new(track(ssrc)));
    let sender = peer.add_track(Arc::clone(&track) as _).await?;
    Ok(Connection { peer, sender, track })
}

fn settings() -> SettingEngine {
    SettingEngineBuilder::new()
        .with_ice_connection_attempts(Some(CHECK_INTERVAL), Some(CHECKS_PER_PAIR))
        .with_ice_timeouts(Some(DISCONNECTED_AFTER), Some(FAILED_AFTER), Some(KEEPALIVE_INTERVAL))
        .with_prflx_acceptance_min_wait(Some(Duration::ZERO))
        .with_srflx_acceptance_min_wait(Some(SRFLX_WAIT))
        .with_relay_acceptance_min_wait(Some(RELAY_WAIT))
        // New sockets too: the old ones may be bound to addresses that are gone.
        .with_discard_local_candidates_during_ice_restart(true)
        .with_multicast_dns_mode(MulticastDnsMode::Disabled)
        .build()
}

fn configuration(ice: &IceConfig) -> RTCConfiguration {
    let policy = if ice.relay_only { RTCIceTransportPolicy::Relay } else { RTCIceTransportPolicy::All };
    RTCConfigurationBuilder::default().with_ice_servers(servers(ice)).with_ice_transport_policy(policy).build()
}

/// One entry a URL, so that one bad URL does not take its neighbours with it.
fn servers(ice: &IceConfig) -> Vec<RTCIceServer> {
    let mut usable = Vec::new();
    for server in &ice.servers {
        for url in &server.urls {
            let server = RTCIceServer {
                urls: vec![url.clone()],
                username: server.username.clone(),
                credential: server.credential.clone(),
            };
            if server.urls().is_ok() {
                usable.push(server);
            } else {
                tracing::warn!("an ice_servers entry was skipped: its URL or its credentials are not usable");
            }
        }
    }
    usable
}

/// RFC 7587, §7: always 48000/2 in SDP, whatever is encoded.
fn opus() -> RTCRtpCodec {
    RTCRtpCodec {
        mime_type: MIME_TYPE_OPUS.to_owned(),
        clock_rate: 48_000,
        channels: 2,
        sdp_fmtp_line: "minptime=10;useinbandfec=1".to_owned(),
        rtcp_feedback: vec![feedback()],
    }
}

/// RFC 2198, in the shape of RFC 7587's Opus.
fn red() -> RTCRtpCodec {
    RTCRtpCodec { mime_type: MIME_TYPE_RED.to_owned(), sdp_fmtp_line: RED_FMTP.to_owned(), ..opus() }
}

/// RFC 8888, §6: what arrived when is told.
pub(super) fn feedback() -> RTCPFeedback {
    RTCPFeedback { typ: "ack".to_owned(), parameter: "ccfb".to_owned() }
}

fn track(ssrc: u32) -> MediaStreamTrack {
    let coding = RTCRtpEncodingParameters {
        rtp_coding_parameters: RTCRtpCodingParameters { ssrc: Some(ssrc), ..Default::default() },
        codec: opus(),
        ..Default::default()
    };
    let name = || "telecon".to_owned();
    MediaStreamTrack::new(name(), name(), name(), RtpCodecKind::Audio, vec![coding])
}

/// Runs on the driver's task: hands over and returns. The queue holds more than one attempt can report (candidates
/// are bounded by sockets and servers, states by their transitions); what does not fit would be dropped.
struct Handler {
    happened: mpsc::Sender<Happened>,
}

impl Handler {
    fn report(&self, happened: Happened) {
        if self.happened.try_send(happened).is_err() {
            tracing::debug!("a leg's task did not take an event of its connection");
        }
    }
}

#[async_trait::async_trait]
impl PeerConnectionEventHandler for Handler {
    async fn on_ice_candidate(&self, event: RTCPeerConnectionIceEvent) {
        if let Ok(candidate) = event.candidate.to_json() {
            self.report(Happened::Candidate(candidate.candidate));
        }
    }

    async fn on_ice_gathering_state_change(&self, state: RTCIceGatheringState) {
        if state == RTCIceGatheringState::Complete {
            self.report(Happened::Gathered);
        }
    }

    async fn on_ice_connection_state_change(&self, state: RTCIceConnectionState) {
        self.report(Happened::Ice(state));
    }

    async fn on_connection_state_change(&self, state: RTCPeerConnectionState) {
        self.report(Happened::Peer(state));
    }

    async fn on_track(&self, track: Arc<dyn TrackRemote>) {
        self.report(Happened::Track(track));
    }
}

/// Stands on the way of what arrives, since reports end inside the library, and hands on those about own packets.
struct FeedbackTap {
    /// When it is full the task has more to do than to listen: the report is dropped, and the next one tells the same again.
    feedback: mpsc::Sender<CcFeedbackReport>,
    /// Emptied by the library after each packet.
    inward: VecDeque<TaggedPacket>,
    outward: VecDeque<TaggedPacket>,
}

impl FeedbackTap {
    fn new(feedback: mpsc::Sender<CcFeedbackReport>) -> Self {
        Self { feedback, inward: VecDeque::new(), outward: VecDeque::new() }
    }
}

impl Protocol<TaggedPacket, TaggedPacket, ()> for FeedbackTap {
    type Rout = TaggedPacket;
    type Wout = TaggedPacket;
    type Eout = ();
    type Error = rtc::shared::error::Error;
    type Time = Instant;

    fn handle_read(&mut self, message: TaggedPacket) -> Result<(), Self::Error> {
        if let Packet::Rtcp(packets) = &message.message.packet {
            for report in packets.iter().filter_map(|packet| packet.as_any().downcast_ref::<CcFeedbackReport>()) {
                if let Ok(room) = self.feedback.try_reserve() {
                    room.send(report.clone());
                }
            }
        }
        self.inward.push_back(message);
        Ok(())
    }

    fn poll_read(&mut self) -> Option<TaggedPacket> {
        self.inward.pop_front()
    }

    fn handle_write(&mut self, message: TaggedPacket) -> Result<(), Self::Error> {
        self.outward.push_back(message);
        Ok(())
    }

    fn poll_write(&mut self) -> Option<TaggedPacket> {
        self.outward.pop_front()
    }
}

impl Interceptor for FeedbackTap {
    fn bind_local_stream(&mut self, _: &StreamInfo) {}
    fn unbind_local_stream(&mut self, _: &StreamInfo) {}
    fn bind_remote_stream(&mut self, _: &StreamInfo) {}
    fn unbind_remote_stream(&mut self, _: &StreamInfo) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::IceServer;

    #[test]
    fn a_flood_of_reports_holds_up_nothing_and_is_not_kept() {
        let (told, mut feedback) = mpsc::channel(4);
        let mut tap = FeedbackTap::new(told);
        for report_timestamp in 0..1_000 {
            let report = CcFeedbackReport { sender_ssrc: 1, report_blocks: Vec::new(), report_timestamp };
            let packet = Packet::Rtcp(vec![Box::new(report)]);
            tap.handle_read(TaggedPacket {
                now: Instant::now(),
                transport: Default::default(),
                message: packet.into(),
            })
            .unwrap();
            assert!(tap.poll_read().is_some() && tap.poll_read().is_none(), "the library gets every one");
        }
        let kept: Vec<u32> =
            std::iter::from_fn(|| feedback.try_recv().ok()).map(|kept| kept.report_timestamp).collect();
        assert_eq!(kept, [0, 1, 2, 3]);
    }

    #[test]
    fn unusable_servers_are_skipped_one_by_one() {
        let urls = ["", "http://x", "stun:192.0.2.1:3478", "turn:192.0.2.1:3478"].map(String::from).to_vec();
        let anonymous = IceServer { urls, ..Default::default() };
        let user = IceServer { username: "user".into(), credential: "secret".into(), ..anonymous.clone() };
        let usable = servers(&IceConfig { servers: vec![anonymous, user], ..Default::default() });
        let urls: Vec<_> = usable.iter().map(|server| server.urls[0].as_str()).collect();
        assert_eq!(urls, ["stun:192.0.2.1:3478", "stun:192.0.2.1:3478", "turn:192.0.2.1:3478"]);
    }

    #[test]
    fn relay_only_asks_for_relays_only() {
        let policy = |relay_only| configuration(&IceConfig { relay_only, ..Default::default() }).ice_transport_policy();
        assert_eq!(policy(true), RTCIceTransportPolicy::Relay);
        assert_eq!(policy(false), RTCIceTransportPolicy::All);
    }
}
