//! What a leg counts, and what it reads from the library once a second.

use std::time::Instant;

use webrtc::peer_connection::{RTCStatsReport, RTCStatsReportEntry};

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
    /// What of the own packets the other side reported lost in its latest receiver report (RFC 3550, §6.4.1).
    pub remote_loss_pct: Option<f64>,
    /// Own frames that were not sent because this leg was late.
    pub frames_dropped: u64,
    /// Packets that were no Opus of the negotiated type, or too long.
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
    since: Instant,
}

impl Meter {
    pub(super) fn new(now: Instant) -> Self {
        Self { stats: LegStats::default(), sent_bytes: 0, received_bytes: 0, since: now }
    }

    pub(super) fn sent(&mut self, bytes: u64) {
        self.stats.packets_sent += 1;
        self.sent_bytes += bytes;
    }

    pub(super) fn received(&mut self, bytes: u64) {
        self.stats.packets_received += 1;
        self.received_bytes += bytes;
    }

    /// Closes the window of rates and takes in what the library knows.
    pub(super) fn publish(&mut self, now: Instant, report: &RTCStatsReport) -> LegStats {
        let seconds = now.saturating_duration_since(self.since).as_secs_f64();
        if seconds > 0.0 {
            let kbps = |bytes: u64| bytes as f64 * 8.0 / 1000.0 / seconds;
            (self.stats.sent_kbps, self.stats.recv_kbps) = (kbps(self.sent_bytes), kbps(self.received_bytes));
        }
        (self.sent_bytes, self.received_bytes, self.since) = (0, 0, now);
        self.stats.rtt_ms = rtt_ms(report);
        self.stats.remote_loss_pct = remote_loss_pct(report);
        self.stats
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
