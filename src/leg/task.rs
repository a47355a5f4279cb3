//! One connection, from the first description to the last packet: the leg's own task.
//!
//! An ICE restart exchanges new descriptions of the same certificates. The offering side goes on with its old path until
//! the answer is there, so that a restart whose signals are lost makes nothing worse.

use std::{
    collections::VecDeque,
    future::pending,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::FutureExt as _;
use rtc::{
    peer_connection::configuration::{RTCOfferOptions, media_engine::MIME_TYPE_OPUS},
    rtcp::transport_feedbacks::cc_feedback_report::CcFeedbackReport,
    rtp,
    shared::marshal::MarshalSize as _,
};
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::{broadcast, mpsc, watch},
    time::{MissedTickBehavior, interval, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use webrtc::{
    media_stream::{
        track_local::TrackLocal as _,
        track_remote::{TrackRemote, TrackRemoteEvent},
    },
    peer_connection::{
        RTCIceCandidateInit, RTCIceConnectionState, RTCPeerConnectionState, RTCSessionDescription, StatsSelector,
    },
};

use super::{
    CLOSE_LIMIT, IceConfig, LegRuntime, LegStats,
    adaptation::{IPV4_BYTES, IPV6_BYTES},
    connection::{self, BuildError, Connection, Happened, MIME_TYPE_RED, feedback},
    description::{self, BadDescription, Fingerprint},
    media::{Codecs, Media},
    rtp::RtpNumbers,
};
use crate::{
    audio::{EncodedFrame, LegInput},
    proto::{
        id::LegId,
        io::{LegCommand, LegEvent, Role},
        signal::{Ice, Sdp, SdpKind},
        wire::MAX_CANDIDATES,
    },
};

/// Events of the connection that wait for the task.
const REPORTS: usize = 256;
/// What the peer tells of the own audio waits behind all sound; a peer that tells more often than four times while sound
/// is served is not listened to.
const FEEDBACK: usize = 4;
/// Remote candidates a description, early ones included; what comes beyond is counted and dropped.
const MAX_REMOTE_CANDIDATES: usize = 64;
/// Own candidates a description.
const MAX_LOCAL_CANDIDATES: usize = 64;
/// How long a batch waits for more while gathering goes on: host candidates come within one millisecond.
const BATCH_WAIT: Duration = Duration::from_millis(10);
/// From the remote description on. A failed DTLS handshake may never report itself; the engine retries much earlier.
const CONNECT_LIMIT: Duration = Duration::from_secs(8);
const STATISTICS_INTERVAL: Duration = Duration::from_secs(1);
/// Beside IP's header, UDP (8), SRTCP's index (4) and tag (16, RFC 7714) of each report.
pub(super) const REPORT_OVERHEAD_BYTES: usize = 28;
/// A leg that sent nothing for so long says that it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(1);

/// What [`super::spawn`] was given.
pub(super) struct Setup {
    pub(super) id: LegId,
    pub(super) role: Role,
    pub(super) ice: Arc<IceConfig>,
    pub(super) microphone: broadcast::Receiver<EncodedFrame>,
    pub(super) speaker: LegInput,
    pub(super) events: mpsc::Sender<(LegId, LegEvent)>,
    pub(super) inbox: mpsc::Receiver<LegCommand>,
    pub(super) publish: watch::Sender<LegStats>,
    pub(super) closing: CancellationToken,
    pub(super) runtime: Arc<LegRuntime>,
}

/// Why the attempt is lost. Holds no text of the peer, so that it can be logged.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error(transparent)]
    Description(#[from] BadDescription),
    #[error("the peer's description is of the wrong kind")]
    WrongKind,
    #[error("the WebRTC library refused to {0}")]
    Refused(&'static str),
    #[error("the peer's certificate is not the sealed one")]
    WrongCertificate,
    #[error("Opus was not negotiated")]
    NoOpus,
    #[error("no connection in time")]
    TooLate,
    #[error("ICE or DTLS failed")]
    Transport,
    #[error("the connection's driver ended")]
    DriverEnded,
}

/// Carries out one attempt until it is closed (`Ok`) or lost.
pub(super) async fn run(setup: Setup) -> Result<(), Failure> {
    let (happened, reports) = mpsc::channel(REPORTS);
    let (told, feedback) = mpsc::channel(FEEDBACK);
    let numbers = RtpNumbers::random(Instant::now());
    let built = tokio::select! {
        biased;
        () = setup.closing.cancelled() => return Ok(()),
        built = connection::build(&setup.ice, numbers.ssrc(), Arc::clone(&setup.runtime), happened, told) => built?,
    };
    let peer = Arc::clone(&built.peer);
    let media = Media::new(setup.speaker, numbers, Instant::now());
    let result = Attempt::new(built, media, setup.role)
        .drive(Doors {
            id: setup.id,
            inbox: setup.inbox,
            reports,
            feedback,
            microphone: setup.microphone,
            events: setup.events,
            publish: setup.publish,
            closing: setup.closing,
            runtime: setup.runtime,
        })
        .await;
    if timeout(CLOSE_LIMIT, peer.close()).await.is_err() {
        tracing::warn!(leg = setup.id.0, "a connection did not close in time");
    }
    result
}

/// Everything that the task waits on.
struct Doors {
    id: LegId,
    inbox: mpsc::Receiver<LegCommand>,
    reports: mpsc::Receiver<Happened>,
    feedback: mpsc::Receiver<CcFeedbackReport>,
    microphone: broadcast::Receiver<EncodedFrame>,
    events: mpsc::Sender<(LegId, LegEvent)>,
    publish: watch::Sender<LegStats>,
    closing: CancellationToken,
    runtime: Arc<LegRuntime>,
}

/// The state of one attempt.
struct Attempt {
    connection: Connection,
    role: Role,
    /// What flows once the peer's certificate was found to be the sealed one.
    media: Media,
    /// Events that the daemon has not taken yet. Bounded: there is one of each kind, candidates are bounded, and
    /// `Disconnected` and `Recovered` cancel each other.
    outbox: VecDeque<LegEvent>,
    /// [`MAX_CANDIDATES`] at most, then it goes.
    batch: Vec<String>,
    batch_due: Option<tokio::time::Instant>,
    local_candidates: usize,
    remote_candidates: usize,
    /// Candidates that came before their description. As bounded as those that are tried.
    early: Vec<Ice>,
    /// The own offer of an ICE restart, until it is answered.
    offered: Option<RTCSessionDescription>,
    /// The attempt of the peer's latest description.
    described: Option<u32>,
    /// The peer announced the libopus that this end has.
    same_libopus: bool,
    /// The fingerprint that was sealed with the peer's description, once that was accepted.
    sealed: Option<Fingerprint>,
    connect_due: Option<tokio::time::Instant>,
    ice_was_connected: bool,
    disconnected: bool,
    /// When to say that this end is still there; `None` before audio may flow.
    keep_alive_due: Option<tokio::time::Instant>,
    incoming: Option<Arc<dyn TrackRemote>>,
}

impl Attempt {
    fn new(connection: Connection, media: Media, role: Role) -> Self {
        Self {
            connection,
            role,
            media,
            outbox: VecDeque::new(),
            batch: Vec::new(),
            batch_due: None,
            local_candidates: 0,
            remote_candidates: 0,
            early: Vec::new(),
            offered: None,
            described: None,
            same_libopus: false,
            sealed: None,
            connect_due: None,
            ice_was_connected: false,
            disconnected: false,
            keep_alive_due: None,
            incoming: None,
        }
    }

    async fn drive(mut self, mut doors: Doors) -> Result<(), Failure> {
        if self.role == Role::Initiator {
            self.offer().await?;
        }
        let mut ticker = interval(STATISTICS_INTERVAL);
        ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut microphone_open = true;
        loop {
            tokio::select! {
                biased;
                () = doors.closing.cancelled() => return Ok(()),
                () = doors.runtime.stopped() => return Err(Failure::DriverEnded),
                () = doors.runtime.refused() => return Err(Failure::WrongCertificate),
                permit = doors.events.reserve(), if !self.outbox.is_empty() => {
                    // Nobody is left to be told when the daemon's loop is gone.
                    let Ok(permit) = permit else { return Ok(()) };
                    if let Some(event) = self.outbox.pop_front() {
                        permit.send((doors.id, event));
                    }
                }
                Some(command) = doors.inbox.recv() => self.on_command(command).await?,
                Some(happened) = doors.reports.recv() => {
                    if self.on_report(happened).await? {
                        // What was spoken before is not sent late.
                        doors.microphone = doors.microphone.resubscribe();
                        ticker.reset();
                    }
                }
                () = due(self.batch_due) => self.flush(),
                () = due(self.connect_due) => return Err(Failure::TooLate),
                () = due(self.keep_alive_due) => self.keep_alive()?,
                // The own frames first: nobody else can send too many of them.
                frame = doors.microphone.recv(), if self.media.flows() && microphone_open => {
                    microphone_open = self.on_frame(doors.id, frame)?;
                }
                event = next_event(self.incoming.as_ref()), if self.media.flows() => self.on_track_event(event),
                () = due(self.media.report_due().map(Into::into)) => self.tell_what_arrived(),
                _ = ticker.tick(), if self.media.flows() => {
                    let now = Instant::now();
                    let report = self.connection.peer.get_stats(now, StatsSelector::None).await;
                    if let Some(ip_bytes) = ip_bytes(&self.connection).await {
                        self.media.meter.ip_bytes = ip_bytes;
                    }
                    doors.publish.send_replace(self.media.statistics(now, &report));
                }
                Some(report) = doors.feedback.recv() => self.media.acknowledged(&report, Instant::now()),
            }
        }
    }

    /// Makes the offer; it goes out before any candidate is known.
    async fn offer(&mut self) -> Result<(), Failure> {
        let offer = self.connection.peer.create_offer(None).await.map_err(|_| Failure::Refused("make an offer"))?;
        self.describe(offer).await
    }

    /// Makes the offer of an ICE restart. The old path stays in use until the answer is there.
    async fn offer_new_path(&mut self) -> Result<(), Failure> {
        if self.role == Role::Answerer || !self.media.flows() {
            return Ok(()); // The engine asks for it only where it means something.
        }
        let options = RTCOfferOptions { ice_restart: true };
        let offer = self.connection.peer.create_offer(Some(options)).await;
        let offer = offer.map_err(|_| Failure::Refused("offer another path"))?;
        self.report_description(&offer)?;
        self.offered = Some(offer);
        Ok(())
    }

    fn report_description(&mut self, own: &RTCSessionDescription) -> Result<(), Failure> {
        let fingerprint = description::fingerprint(&own.sdp)?;
        self.outbox.push_back(LegEvent::Description { sdp: description::announced(&own.sdp), fingerprint });
        Ok(())
    }

    /// Reports the own description and starts gathering.
    async fn describe(&mut self, own: RTCSessionDescription) -> Result<(), Failure> {
        self.report_description(&own)?;
        self.gather(own).await
    }

    async fn gather(&mut self, own: RTCSessionDescription) -> Result<(), Failure> {
        (self.local_candidates, self.batch_due) = (0, None);
        self.batch.clear();
        let set = self.connection.peer.set_local_description(own).await;
        set.map_err(|_| Failure::Refused("take its own description"))
    }

    async fn on_command(&mut self, command: LegCommand) -> Result<(), Failure> {
        match command {
            LegCommand::Remote(sdp) => self.on_remote(sdp).await,
            LegCommand::Candidates(ice) => {
                self.on_candidates(ice).await;
                Ok(())
            }
            LegCommand::RestartIce => self.offer_new_path().await,
            // `Leg::command` sends neither.
            LegCommand::Open { .. } | LegCommand::Close => Ok(()),
        }
    }

    /// Takes the peer's description, answers an offer, then tries the candidates that came early. A second one of the same
    /// certificate restarts ICE.
    async fn on_remote(&mut self, sdp: Sdp) -> Result<(), Failure> {
        let restarts = self.sealed.is_some();
        let is_old = self.described.is_some_and(|described| sdp.attempt <= described);
        if is_old || (restarts && self.role == Role::Initiator && self.offered.is_none()) {
            return Ok(()); // What comes twice changes nothing.
        }
        let checked = description::check(&sdp.sdp, &sdp.fingerprint)?;
        if self.sealed.is_some_and(|sealed| sealed != sdp.fingerprint) {
            return Err(Failure::WrongCertificate);
        }
        let description = match (self.role, sdp.kind) {
            (Role::Initiator, SdpKind::Answer) => RTCSessionDescription::answer(checked.text),
            (Role::Answerer, SdpKind::Offer) => RTCSessionDescription::offer(checked.text),
            (Role::Initiator, SdpKind::Offer) | (Role::Answerer, SdpKind::Answer) => return Err(Failure::WrongKind),
        };
        let refused = |_| Failure::Refused("take the peer's description");
        if let Some(offer) = self.offered.take() {
            self.gather(offer).await?;
        }
        let peer = Arc::clone(&self.connection.peer);
        peer.set_remote_description(description.map_err(refused)?).await.map_err(refused)?;
        self.sealed = Some(sdp.fingerprint);
        self.same_libopus = description::has_same_libopus(&sdp.sdp);
        self.described = Some(sdp.attempt);
        if self.role == Role::Answerer {
            let answer = peer.create_answer(None).await.map_err(|_| Failure::Refused("make an answer"))?;
            self.describe(answer).await?;
        }
        if !restarts {
            self.connect_due = Some(tokio::time::Instant::now() + CONNECT_LIMIT);
        } else if self.media.flows() {
            // The old path is gone, and the new one is not there yet.
            self.set_disconnected(true);
        }
        self.remote_candidates = 0;
        self.on_candidates(Ice { attempt: sdp.attempt, candidates: checked.candidates }).await;
        for ice in std::mem::take(&mut self.early) {
            self.on_candidates(ice).await;
        }
        Ok(())
    }

    /// Tries remote candidates, or keeps them until their description is there. Those of an earlier one are worth nothing;
    /// bad ones are counted and dropped.
    async fn on_candidates(&mut self, ice: Ice) {
        if self.described.is_some_and(|described| ice.attempt < described) {
            return;
        }
        let mut early = Vec::new();
        for candidate in ice.candidates {
            if self.remote_candidates == MAX_REMOTE_CANDIDATES || !description::is_usable_candidate(&candidate) {
                self.media.meter.stats.candidates_ignored += 1;
                continue;
            }
            self.remote_candidates += 1;
            if self.described != Some(ice.attempt) {
                early.push(candidate);
                continue;
            }
            let init = RTCIceCandidateInit { candidate, sdp_mline_index: Some(0), ..Default::default() };
            if self.connection.peer.add_ice_candidate(init).await.is_err() {
                self.media.meter.stats.candidates_ignored += 1;
            }
        }
        if !early.is_empty() {
            self.early.push(Ice { attempt: ice.attempt, candidates: early });
        }
    }

    /// Takes in what the connection reports; true when audio may flow from now on.
    async fn on_report(&mut self, happened: Happened) -> Result<bool, Failure> {
        match happened {
            Happened::Candidate(candidate) => self.on_local_candidate(candidate),
            Happened::Gathered => self.flush(),
            Happened::Ice(state) => self.on_ice(state)?,
            Happened::Track(track) => {
                self.incoming.get_or_insert(track);
            }
            Happened::Peer(RTCPeerConnectionState::Connected) if !self.media.flows() => {
                let codecs = verify(&self.connection, self.sealed).await?;
                self.media.begin(Codecs { dred: self.same_libopus, ..codecs }, Instant::now());
                self.connect_due = None;
                self.keep_alive_due = Some(tokio::time::Instant::now() + KEEP_ALIVE);
                self.outbox.push_back(LegEvent::Connected);
                return Ok(true);
            }
            Happened::Peer(RTCPeerConnectionState::Failed | RTCPeerConnectionState::Closed) => {
                return Err(Failure::Transport);
            }
            Happened::Peer(_) => {} // The library's enum is open; every other state is on the way to these.
        }
        Ok(false)
    }

    fn on_local_candidate(&mut self, candidate: String) {
        // The last, empty one says only that gathering is over.
        if self.local_candidates == MAX_LOCAL_CANDIDATES || !description::is_usable_candidate(&candidate) {
            return;
        }
        self.local_candidates += 1;
        self.batch.push(candidate);
        if self.batch.len() == MAX_CANDIDATES {
            self.flush();
        } else if self.batch_due.is_none() {
            self.batch_due = Some(tokio::time::Instant::now() + BATCH_WAIT);
        }
    }

    fn flush(&mut self) {
        self.batch_due = None;
        if !self.batch.is_empty() {
            self.outbox.push_back(LegEvent::Candidates(std::mem::take(&mut self.batch)));
        }
    }

    fn on_ice(&mut self, state: RTCIceConnectionState) -> Result<(), Failure> {
        match state {
            RTCIceConnectionState::Connected | RTCIceConnectionState::Completed => {
                if !std::mem::replace(&mut self.ice_was_connected, true) {
                    self.outbox.push_back(LegEvent::IceConnected);
                }
                self.set_disconnected(false);
            }
            RTCIceConnectionState::Disconnected if self.media.flows() => self.set_disconnected(true),
            RTCIceConnectionState::Failed | RTCIceConnectionState::Closed => return Err(Failure::Transport),
            _ => {} // The library's enum is open; every other state is on the way to these.
        }
        Ok(())
    }

    fn set_disconnected(&mut self, disconnected: bool) {
        if std::mem::replace(&mut self.disconnected, disconnected) == disconnected {
            return;
        }
        self.media.set_reachable(!disconnected, Instant::now());
        let (event, opposite) = if disconnected {
            (LegEvent::Disconnected, LegEvent::Recovered)
        } else {
            (LegEvent::Recovered, LegEvent::Disconnected)
        };
        if self.outbox.back() == Some(&opposite) {
            self.outbox.pop_back();
        } else {
            self.outbox.push_back(event);
        }
    }

    /// Sends a frame that is for this leg; false when there is no microphone any more.
    fn on_frame(
        &mut self,
        id: LegId,
        frame: Result<EncodedFrame, broadcast::error::RecvError>,
    ) -> Result<bool, Failure> {
        let frame = match frame {
            Ok(frame) => frame,
            Err(broadcast::error::RecvError::Lagged(frames)) => {
                self.media.meter.stats.frames_dropped += frames;
                return Ok(true);
            }
            Err(broadcast::error::RecvError::Closed) => return Ok(false),
        };
        let now = Instant::now();
        if let Some(packet) = self.media.packet(id, &frame, now) {
            self.send(packet, now)?;
        }
        Ok(true)
    }

    fn keep_alive(&mut self) -> Result<(), Failure> {
        let now = Instant::now();
        let Some(packet) = self.media.keep_alive(now) else { return Ok(()) };
        self.send(packet, now)
    }

    fn send(&mut self, packet: rtp::Packet, now: Instant) -> Result<(), Failure> {
        self.keep_alive_due = Some(tokio::time::Instant::now() + KEEP_ALIVE);
        let bytes = packet.payload.len();
        // Waits only while the driver has 256 packets to do; a frame that old is worth nothing.
        match self.connection.track.write_rtp(packet).now_or_never() {
            Some(Ok(())) => self.media.meter.sent(bytes, now),
            Some(Err(_)) => return Err(Failure::DriverEnded),
            None => self.media.meter.stats.frames_dropped += 1,
        }
        Ok(())
    }

    fn tell_what_arrived(&mut self) {
        let now = Instant::now();
        let Some(report) = self.media.report(now) else { return };
        let bytes = REPORT_OVERHEAD_BYTES + report.marshal_size();
        // One that does not fit is as good as lost; the next tells the same again.
        if let Some(Ok(())) = self.connection.track.write_rtcp(vec![Box::new(report)]).now_or_never() {
            self.media.meter.wired(bytes, now);
        }
    }

    fn on_track_event(&mut self, event: Option<TrackRemoteEvent>) {
        match event {
            Some(TrackRemoteEvent::OnRtpPacket(packet)) => self.media.received(packet, Instant::now()),
            Some(_) => {} // Openings, mutes and RTCP: the library's own business.
            None => self.incoming = None,
        }
    }
}

/// Compares the certificate that was met with the sealed fingerprint (RFC 8122, §6.2); returns what was negotiated.
async fn verify(connection: &Connection, sealed: Option<Fingerprint>) -> Result<Codecs, Failure> {
    let sender = &connection.sender;
    let transport = sender.transport().await.ok().flatten().ok_or(Failure::WrongCertificate)?;
    let chain = transport.get_remote_certificates().await.map_err(|_| Failure::WrongCertificate)?;
    if !is_sealed(&chain, sealed.as_ref()) {
        return Err(Failure::WrongCertificate);
    }
    let parameters = sender.get_parameters().await.map_err(|_| Failure::NoOpus)?;
    let of_type = |mime_type: &str| {
        let mut codecs = parameters.rtp_parameters.codecs.iter();
        codecs.find(|codec| codec.rtp_codec.mime_type.eq_ignore_ascii_case(mime_type))
    };
    let opus = of_type(MIME_TYPE_OPUS).ok_or(Failure::NoOpus)?;
    Ok(Codecs {
        opus: opus.payload_type,
        red: of_type(MIME_TYPE_RED).map(|red| red.payload_type),
        feedback: opus.rtp_codec.rtcp_feedback.contains(&feedback()),
        dred: false, // The library knows nothing of it.
    })
}

/// IP's header on the path in use; `None` when there is no path.
async fn ip_bytes(connection: &Connection) -> Option<usize> {
    let transport = connection.sender.transport().await.ok().flatten()?;
    let pair = transport.ice_transport().get_selected_candidate_pair().await.ok().flatten()?;
    let address: IpAddr = pair.local().address.parse().ok()?;
    Some(if address.is_ipv6() { IPV6_BYTES } else { IPV4_BYTES })
}

/// Whether the peer's own certificate, the first of its chain, is the one that was sealed.
fn is_sealed(chain: &[Vec<u8>], sealed: Option<&Fingerprint>) -> bool {
    let met = chain.first().map(|certificate| Fingerprint::from(Sha256::digest(certificate)));
    met.is_some() && met.as_ref() == sealed
}

async fn due(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}

async fn next_event(track: Option<&Arc<dyn TrackRemote>>) -> Option<TrackRemoteEvent> {
    match track {
        Some(track) => track.poll().await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_certificate_of_the_chain_counts_and_none_is_never_enough() {
        let (one, two) = (b"one".to_vec(), b"two".to_vec());
        let sealed = Fingerprint::from(Sha256::digest(b"one"));
        assert!(is_sealed(&[one.clone(), two.clone()], Some(&sealed)));
        assert!(!is_sealed(&[two, one.clone()], Some(&sealed)));
        assert!(!is_sealed(&[], Some(&sealed)));
        assert!(!is_sealed(&[one], None));
        assert!(!is_sealed(&[], None));
    }
}
