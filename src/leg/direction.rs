//! One leg's voice in one direction without a connection, for simulations in virtual time.

use std::time::Instant;

use rtc::{rtcp::transport_feedbacks::cc_feedback_report::CcFeedbackReport, rtp, shared::marshal::MarshalSize as _};

use super::{
    adaptation::PACKET_OVERHEAD_BYTES,
    media::{Codecs, Media},
    rtp::RtpNumbers,
    task::REPORT_OVERHEAD_BYTES,
};
use crate::{
    audio::{EncodedFrame, LegInput},
    proto::id::LegId,
};

/// Who speaks and who hears.
pub(crate) struct Direction {
    from: Media,
    to: Media,
}

/// What travels.
pub(crate) enum Datagram {
    Voice(rtp::Packet),
    Report(CcFeedbackReport),
}

impl Datagram {
    /// With all headers.
    pub(crate) fn ip_bytes(&self) -> usize {
        match self {
            Self::Voice(packet) => PACKET_OVERHEAD_BYTES + packet.payload.len(),
            Self::Report(report) => REPORT_OVERHEAD_BYTES + report.marshal_size(),
        }
    }
}

impl Direction {
    /// `from` takes the wishes of the speaking side, `to` the packets of the hearing one.
    pub(crate) fn new(from: LegInput, to: LegInput, now: Instant) -> Self {
        let codecs = Codecs { opus: 111, red: Some(63), feedback: true };
        let [mut from, mut to] = [from, to].map(|input| Media::new(input, RtpNumbers::random(now), now));
        from.begin(codecs, now);
        to.begin(codecs, now);
        Self { from, to }
    }

    pub(crate) fn speak(&mut self, to: LegId, frame: &EncodedFrame, now: Instant) -> Option<Datagram> {
        let packet = self.from.packet(to, frame, now)?;
        self.from.meter.sent(packet.payload.len(), now);
        Some(Datagram::Voice(packet))
    }

    /// What the hearing side tells, when it is time to.
    pub(crate) fn report(&mut self, now: Instant) -> Option<Datagram> {
        self.to.report_due().filter(|due| *due <= now)?;
        self.to.report(now).map(Datagram::Report)
    }

    /// A datagram arrives at the side that it is for.
    pub(crate) fn arrive(&mut self, datagram: Datagram, now: Instant) {
        match datagram {
            Datagram::Voice(packet) => self.to.received(packet, now),
            Datagram::Report(report) => self.from.acknowledged(&report, now),
        }
    }
}
