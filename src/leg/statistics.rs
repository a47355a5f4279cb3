//! What a leg counts, and what it reads from the library once a second.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use webrtc::peer_connection::{RTCStatsReport, RTCStatsReportEntry};

use super::adaptation::{IPV6_BYTES, PACKET_OVERHEAD_BYTES};
use crate::audio::{EncodedFrame, SAMPLE_RATE_HZ};

/// RTP's fixed header (RFC 3550, §5.1).
const RTP_HEADER_BYTES: usize = 12;
const UDP_BYTES: usize = 8;
/// Over so much time IP bytes are counted.
const WIRE_WINDOW: Duration = Duration::from_secs(1);
/// No second of voice has more than 160 kbit/s (20 000 bytes). So many are earned in each…
const EARNED_BYTES: f64 = 18_700.0;
/// …and so many may be saved. The rest is for one frame that cannot wait, RTCP's own reports, and the checks of the path.
const SAVED_BYTES: f64 = 1_200.0;

/// Figures of one leg. Rates are means over about the last second.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct LegStats {
    /// Round trip of the latest connectivity check on the pair in use.
    pub rtt_ms: Option<f64>,
    /// RTP sent, headers included, without SRTP, UDP and IP.
    pub sent_kbps: f64,
    /// RTP received, headers included, without SRTP, UDP and IP.
    pub recv_kbps: f64,
    /// RTP packets sent.
    pub packets_sent: u64,
    /// RTP packets received that went to the speaker.
    pub packets_received: u64,
    /// IP bytes sent, reports and connectivity checks too.
    pub wire_kbps: f64,
    /// The encoded voice itself, without headers and copies.
    pub bitrate_kbps: f64,
    /// Length of the own frames.
    pub frame_ms: u8,
    /// How far behind frames are sent again; 0: no such copy.
    pub redundancy_ms: [u16; 3],
    /// What of the own packets of the last seconds the other side did not get.
    pub remote_loss_pct: Option<f64>,
    /// The longest outage of the last seconds: more packets lost in a row than by chance.
    pub remote_outage_ms: Option<u16>,
    /// How much longer than without a queue the own packets are on their way.
    pub queue_ms: Option<f64>,
    /// Own frames that were not sent because this leg was late.
    pub frames_dropped: u64,
    /// Packets that were no Opus of the negotiated type, too long, or more than anybody speaks.
    pub packets_ignored: u64,
    /// Remote candidates that were malformed, not UDP, or too many.
    pub candidates_ignored: u64,
}

/// Counts between two publications.
#[derive(Debug)]
pub(super) struct Meter {
    /// The figures that are published.
    pub(super) stats: LegStats,
    sent_bytes: u64,
    received_bytes: u64,
    voice_bytes: u64,
    voice_samples: u64,
    since: Instant,
    /// IP's header on the path in use.
    pub(super) ip_bytes: usize,
    /// IP bytes of voice and of what is told of what arrives, of [`WIRE_WINDOW`]; bounded by what is sent in that time.
    wire: VecDeque<(Instant, usize)>,
    /// IP bytes that may still be sent.
    spare_bytes: f64,
    /// Datagrams, and bytes in them, that had been sent when that was last looked up.
    datagrams: (u64, u64),
}

impl Meter {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            stats: LegStats::default(),
            sent_bytes: 0,
            received_bytes: 0,
            voice_bytes: 0,
            voice_samples: 0,
            since: now,
            // The dearer one, until the path is known.
            ip_bytes: IPV6_BYTES,
            wire: VecDeque::new(),
            spare_bytes: SAVED_BYTES,
            datagrams: (0, 0),
        }
    }

    /// A frame goes out.
    pub(super) fn spoke(&mut self, frame: &EncodedFrame) {
        self.voice_bytes += frame.payload.len() as u64;
        self.voice_samples += u64::from(frame.samples);
        self.stats.frame_ms = u8::try_from(frame.samples * 1000 / SAMPLE_RATE_HZ).unwrap_or(u8::MAX);
    }

    /// A packet of voice went out.
    pub(super) fn sent(&mut self, payload_bytes: usize, now: Instant) {
        self.stats.packets_sent += 1;
        self.sent_bytes += (RTP_HEADER_BYTES + payload_bytes) as u64;
        self.wired(PACKET_OVERHEAD_BYTES + payload_bytes, now);
    }

    /// A packet of so many bytes beside IP's header went out.
    pub(super) fn wired(&mut self, bytes: usize, now: Instant) {
        self.wire.push_back((now, self.ip_bytes + bytes));
        self.forget(now);
        // Who only listens owes no more than that.
        self.spare_bytes = (self.spare_bytes - (self.ip_bytes + bytes) as f64).max(-SAVED_BYTES);
    }

    fn forget(&mut self, now: Instant) {
        while self.wire.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) > WIRE_WINDOW) {
            self.wire.pop_front();
        }
    }

    /// IP bytes sent for the voice within the last second.
    pub(super) fn wire_kbps(&mut self, now: Instant) -> f64 {
        self.forget(now);
        self.wire.iter().map(|(_, bytes)| *bytes).sum::<usize>() as f64 * 8.0 / 1000.0 / WIRE_WINDOW.as_secs_f64()
    }

    /// How many bytes of payload a packet may have for its copies' sake; asked once for each frame. Budgets are means, and a
    /// voice that varies is busier at times.
    pub(super) fn room(&mut self, frame_samples: u32) -> usize {
        let earned_bytes = EARNED_BYTES * f64::from(frame_samples) / f64::from(SAMPLE_RATE_HZ);
        self.spare_bytes = (self.spare_bytes + earned_bytes).min(SAVED_BYTES);
        (self.spare_bytes as usize).saturating_sub(self.ip_bytes + PACKET_OVERHEAD_BYTES)
    }

    /// A packet of voice came in.
    pub(super) fn received(&mut self, payload_bytes: usize) {
        self.stats.packets_received += 1;
        self.received_bytes += (RTP_HEADER_BYTES + payload_bytes) as u64;
    }

    /// Closes the window of rates and takes in what the library knows.
    pub(super) fn publish(&mut self, now: Instant, report: &RTCStatsReport) {
        let seconds = now.saturating_duration_since(self.since).as_secs_f64();
        let (datagrams, datagram_bytes) =
            report.transport().map_or((0, 0), |path| (path.packets_sent, path.bytes_sent));
        if seconds > 0.0 {
            let kbps = |bytes: u64| bytes as f64 * 8.0 / 1000.0 / seconds;
            (self.stats.sent_kbps, self.stats.recv_kbps) = (kbps(self.sent_bytes), kbps(self.received_bytes));
            let headers = datagrams.saturating_sub(self.datagrams.0) * (self.ip_bytes + UDP_BYTES) as u64;
            self.stats.wire_kbps = kbps(datagram_bytes.saturating_sub(self.datagrams.1) + headers);
        }
        self.datagrams = (datagrams, datagram_bytes);
        if self.voice_samples > 0 {
            let voice_ms = self.voice_samples as f64 * 1000.0 / f64::from(SAMPLE_RATE_HZ);
            self.stats.bitrate_kbps = self.voice_bytes as f64 * 8.0 / voice_ms;
        }
        (self.sent_bytes, self.received_bytes, self.since) = (0, 0, now);
        (self.voice_bytes, self.voice_samples) = (0, 0);
        self.stats.rtt_ms = rtt_ms(report);
        self.stats.remote_loss_pct = remote_loss_pct(report);
    }
}

fn rtt_ms(report: &RTCStatsReport) -> Option<f64> {
    let selected = &report.transport()?.selected_candidate_pair_id;
    let pair = report.candidate_pairs().find(|pair| pair.stats.id == *selected)?;
    (pair.responses_received > 0).then_some(pair.current_round_trip_time * 1000.0)
}

fn remote_loss_pct(report: &RTCStatsReport) -> Option<f64> {
    report.iter().find_map(|entry| match entry {
        RTCStatsReportEntry::RemoteInboundRtp(stream) => Some(stream.fraction_lost * 100.0),
        _ => None,
    })
}
