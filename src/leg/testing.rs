//! The voice of two legs without a connection between them, for measurements in the audio room.

use std::time::Instant;

use rtc::{rtcp::transport_feedbacks::cc_feedback_report::CcFeedbackReport, rtp, shared::marshal::MarshalSize as _};

use super::{
    adaptation::{IPV4_BYTES, PACKET_OVERHEAD_BYTES},
    media::{Codecs, Media},
    rtp::RtpNumbers,
    task::REPORT_OVERHEAD_BYTES,
};
use crate::{
    audio::{EncodedFrame, LegInput},
    proto::id::LegId,
};

/// One end of a connection that negotiated everything.
pub(crate) struct Line(Media);

/// What travels between two ends.
pub(crate) enum Datagram {
    Voice(rtp::Packet),
    Report(CcFeedbackReport),
}

impl Datagram {
    /// Bytes of IPv4.
    pub(crate) fn bytes(&self) -> usize {
        IPV4_BYTES
            + match self {
                Self::Voice(packet) => PACKET_OVERHEAD_BYTES + packet.payload.len(),
                Self::Report(report) => REPORT_OVERHEAD_BYTES + report.marshal_size(),
            }
    }
}

impl Line {
    pub(crate) fn new(speaker: LegInput, now: Instant) -> Self {
        let mut media = Media::new(speaker, RtpNumbers::random(now), now);
        media.meter.ip_bytes = IPV4_BYTES;
        media.begin(Codecs { opus: 111, red: Some(63), feedback: true, dred: true }, now);
        Self(media)
    }

    /// What is sent for a frame.
    pub(crate) fn send(&mut self, id: LegId, frame: &EncodedFrame, now: Instant) -> Option<Datagram> {
        let packet = self.0.packet(id, frame, now)?;
        // What may be sent depends on what is.
        self.0.meter.sent(packet.payload.len(), now);
        Some(Datagram::Voice(packet))
    }

    /// What is told of what arrived, when it is time for that.
    pub(crate) fn report(&mut self, now: Instant) -> Option<Datagram> {
        self.0.report_due().filter(|due| *due <= now)?;
        self.0.report(now).map(Datagram::Report)
    }

    pub(crate) fn receive(&mut self, datagram: Datagram, now: Instant) {
        match datagram {
            Datagram::Voice(packet) => self.0.received(packet, now),
            Datagram::Report(report) => self.0.acknowledged(&report, now),
        }
    }
}
