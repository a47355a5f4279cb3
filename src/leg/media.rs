//! The voice on one leg, both ways: packets with their copies out, packets taken apart in, and what each side tells the
//! other about them.
//!
//! It neither waits nor sends: the leg's task does. How the voice is protected is decided by the adaptation.

use std::time::{Duration, Instant};

use bytes::Bytes;
use rtc::{rtcp::transport_feedbacks::cc_feedback_report::CcFeedbackReport, rtp};
use webrtc::peer_connection::RTCStatsReport;

use super::{
    LegStats,
    adaptation::{Adaptation, Circumstances, Plan, Voice},
    feedback::{Arrivals, Departures},
    red::{self, Spoken},
    rtp::RtpNumbers,
    statistics::Meter,
};
use crate::{
    audio::{EncodedFrame, FRAMES_A_SECOND, LegInput, ReceivedPacket, SAMPLE_RATE_HZ, SLOTS, Wish, is_pause},
    proto::id::LegId,
};

/// Longest payload that is taken: an Opus frame (RFC 6716, §3.4: 1275 bytes), or one of ours with its copies.
const MAX_PAYLOAD_BYTES: usize = 1500;
/// A pause is told so often, since it may be lost like every other packet.
const PAUSES: u8 = 2;
/// Who told nothing for so long has no say in how the voice is encoded: two keep-alives and their reports.
const SILENT: Duration = Duration::from_secs(2);
/// What a frame counts against [`FRAMES_A_SECOND`]…
const FRAME_SHARE: Duration = Duration::from_nanos(1_000_000_000 / FRAMES_A_SECOND as u64);
/// …of which so much may come at once, since a network that stood still lets go of everything then: all that the audio thread
/// has room for.
const AT_ONCE: Duration = Duration::from_nanos(SLOTS as u64 * 1_000_000_000 / FRAMES_A_SECOND as u64);
const MS: u32 = SAMPLE_RATE_HZ / 1000;

/// What was negotiated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Codecs {
    /// Payload type of Opus.
    pub(super) opus: u8,
    /// Payload type of frames with copies (RFC 2198), if the other side takes such.
    pub(super) red: Option<u8>,
    /// The other side tells what arrives (RFC 8888).
    pub(super) feedback: bool,
    /// The other side has the same libopus, and so reads its deep redundancy (DRED).
    pub(super) dred: bool,
}

/// One leg's voice in both directions.
pub(super) struct Media {
    pub(super) meter: Meter,
    /// `None` until the connection is proven to be the right one: before, nothing is sent or taken.
    codecs: Option<Codecs>,
    speaker: LegInput,
    numbers: RtpNumbers,
    spoken: Spoken,
    departures: Departures,
    arrivals: Arrivals,
    /// The stream that arrives.
    heard: Option<u32>,
    /// The other side has used up its [`FRAMES_A_SECOND`] until then.
    spent_until: Instant,
    adaptation: Adaptation,
    plan: Plan,
    /// How the voice should be encoded; `None` while this leg has no say.
    wish: Option<Wish>,
    /// Pauses in a row.
    paused: u8,
    /// Legs that hear the same voice.
    legs: usize,
    /// How it is encoded.
    voice: Option<Voice>,
    /// When the other side told something of the own packets that was not known.
    told: Instant,
    reachable: bool,
}

impl Media {
    /// Silence both ways, until [`Media::begin`].
    pub(super) fn new(speaker: LegInput, numbers: RtpNumbers, now: Instant) -> Self {
        let mut adaptation = Adaptation::new(now);
        let meter = Meter::new(now);
        let (redundancy, feedback, dred, ip_bytes) = (false, false, false, meter.ip_bytes);
        let nothing = Circumstances { redundancy, feedback, dred, rtt_ms: None, ip_bytes, legs: 1, voice: None };
        Self {
            meter,
            codecs: None,
            speaker,
            numbers,
            spoken: Spoken::default(),
            departures: Departures::new(now),
            arrivals: Arrivals::new(now),
            heard: None,
            spent_until: now,
            plan: adaptation.plan(now, nothing),
            adaptation,
            wish: None,
            paused: 0,
            legs: 1,
            voice: None,
            told: now,
            reachable: true,
        }
    }

    /// Voice may flow from now on.
    pub(super) fn begin(&mut self, codecs: Codecs, now: Instant) {
        self.codecs = Some(codecs);
        self.told = now;
        self.adapt(now);
    }

    /// Whether there is a path to the other side.
    pub(super) fn set_reachable(&mut self, reachable: bool, now: Instant) {
        self.reachable = reachable;
        self.adapt(now);
    }

    /// Whether voice may flow.
    pub(super) fn flows(&self) -> bool {
        self.codecs.is_some()
    }

    /// The packet for a frame, if this leg is to send it.
    pub(super) fn packet(&mut self, id: LegId, frame: &EncodedFrame, now: Instant) -> Option<rtp::Packet> {
        let codecs = self.codecs.filter(|_| frame.to.contains(&id))?;
        let frame_ms = u8::try_from(frame.samples / MS).unwrap_or(u8::MAX);
        let voice = Some(Voice { bitrate_bps: frame.bitrate_bps, copy_bps: frame.copy_bps, frame_ms });
        if (self.legs, self.voice) != (frame.to.len(), voice) {
            (self.legs, self.voice) = (frame.to.len(), voice);
            self.adapt(now);
        }
        let room = self.meter.room(frame.samples);
        let copies = match codecs.red {
            Some(_) => self.spoken.copies(frame, behind(&self.plan, frame.samples), room),
            None => Vec::new(),
        };
        self.spoken.keep(frame);
        self.paused = if is_pause(&frame.payload) { self.paused.saturating_add(1) } else { 0 };
        // What was said last is still sent again until every planned copy of it is out.
        if self.paused > PAUSES && copies.is_empty() {
            return None;
        }
        let (payload_type, payload) = match codecs.red.filter(|_| !copies.is_empty()) {
            Some(red) => (red, red::pack(codecs.opus, &copies, &frame.payload)),
            None => (codecs.opus, frame.payload.clone()),
        };
        self.meter.spoke(frame);
        let packet = self.numbers.packet(payload_type, payload, frame, now);
        self.departures.sent(packet.header.sequence_number, (frame.samples / MS) as u16, now);
        Some(packet)
    }

    /// A packet that says only that this end is still there.
    pub(super) fn keep_alive(&mut self, now: Instant) -> Option<rtp::Packet> {
        let packet = self.numbers.keep_alive(self.codecs?.opus, now);
        self.departures.sent(packet.header.sequence_number, 0, now);
        Some(packet)
    }

    /// Takes a packet in: each frame of it goes to the speaker, as long as they are no more than anybody speaks.
    pub(super) fn received(&mut self, packet: rtp::Packet, now: Instant) {
        let rtp::Packet { header, payload } = packet;
        let frames = self.codecs.and_then(|codecs| frames(codecs, header.payload_type, &payload));
        let Some((copies, primary)) = frames.filter(|(copies, _)| self.grants(1 + copies.len() as u32, now)) else {
            self.meter.stats.packets_ignored += 1;
            return;
        };
        self.meter.received(payload.len());
        self.arrivals.received(header.sequence_number, now);
        self.heard = Some(header.ssrc);
        let (sequence, timestamp, arrival) = (header.sequence_number, header.timestamp, now);
        let dred = self.codecs.is_some_and(|codecs| codecs.dred);
        for copy in copies {
            let timestamp = timestamp.wrapping_sub(copy.behind);
            self.speaker.push(ReceivedPacket { sequence, timestamp, payload: copy.payload, copy: true, dred, arrival });
        }
        self.speaker.push(ReceivedPacket { sequence, timestamp, payload: primary, copy: false, dred, arrival });
    }

    /// Whether the other side may have so many more frames heard.
    fn grants(&mut self, frames: u32, now: Instant) -> bool {
        let spent_until = self.spent_until.max(now) + FRAME_SHARE * frames;
        let grants = spent_until.saturating_duration_since(now) <= AT_ONCE;
        if grants {
            self.spent_until = spent_until;
        }
        grants
    }

    /// When to tell the other side what arrived.
    pub(super) fn report_due(&self) -> Option<Instant> {
        self.codecs.filter(|codecs| codecs.feedback).and_then(|_| self.arrivals.due())
    }

    /// What arrived.
    pub(super) fn report(&mut self, now: Instant) -> Option<CcFeedbackReport> {
        self.arrivals.report(self.numbers.ssrc(), self.heard?, now)
    }

    /// Takes in what the other side tells of the own packets, if it was agreed that it does. Each packet is learned of once,
    /// so that reports cost little however many come.
    pub(super) fn acknowledged(&mut self, report: &CcFeedbackReport, now: Instant) {
        if !self.codecs.is_some_and(|codecs| codecs.feedback) {
            return;
        }
        let outcomes = self.departures.acknowledge(report, self.numbers.ssrc());
        if !outcomes.is_empty() {
            self.told = now;
            self.adaptation.learn(&outcomes, self.meter.wire_kbps(now), now);
            self.adapt(now);
        }
    }

    /// Closes the window of the figures' rates.
    pub(super) fn statistics(&mut self, now: Instant, report: &RTCStatsReport) -> LegStats {
        self.meter.publish(now, report);
        self.adapt(now);
        let seen = self.adaptation.seen();
        let stats = &mut self.meter.stats;
        stats.remote_loss_pct = seen.loss.map(|loss| loss * 100.0).or(stats.remote_loss_pct);
        stats.remote_outage_ms = seen.outage_ms;
        stats.queue_ms = seen.queue_ms;
        let protects = self.codecs.is_some_and(|codecs| codecs.red.is_some());
        let mut copies = behind(&self.plan, u32::from(stats.frame_ms) * MS).filter(|_| protects);
        stats.redundancy_ms = [0; 3].map(|_| copies.next().map_or(0, |samples| (samples / MS) as u16));
        *stats
    }

    fn adapt(&mut self, now: Instant) {
        let Some(codecs) = self.codecs else { return };
        let circumstances = Circumstances {
            redundancy: codecs.red.is_some(),
            feedback: codecs.feedback,
            dred: codecs.dred,
            rtt_ms: self.meter.stats.rtt_ms,
            ip_bytes: self.meter.ip_bytes,
            legs: self.legs,
            voice: self.voice,
        };
        self.plan = self.adaptation.plan(now, circumstances);
        let silent = codecs.feedback && now.saturating_duration_since(self.told) > SILENT;
        self.wish = (self.reachable && !silent).then_some(self.plan.wish);
        self.speaker.wish(self.wish);
    }
}

/// How many samples back the frames lie that the plan wants to send again; a frame that only ends there is still in reach.
fn behind(plan: &Plan, frame_samples: u32) -> impl Iterator<Item = u32> + use<> {
    let near = plan.near.iter().map(move |back| u32::from(*back) * frame_samples);
    let most = (red::REACH_SAMPLES + 1).saturating_sub(frame_samples);
    near.chain(plan.far_ms.map(|ms| (u32::from(ms) * MS).min(most)))
}

/// The frames of a packet; `None` unless it is of a negotiated type and well-formed. Empty payloads only keep an address
/// alive.
fn frames(codecs: Codecs, payload_type: u8, payload: &Bytes) -> Option<(Vec<red::Copy>, Bytes)> {
    if !(1..=MAX_PAYLOAD_BYTES).contains(&payload.len()) {
        return None;
    }
    if codecs.red == Some(payload_type) {
        return red::parse(codecs.opus, payload);
    }
    (payload_type == codecs.opus).then(|| (Vec::new(), payload.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audio::{FRAME_SAMPLES, PAUSE};

    fn codecs() -> Codecs {
        Codecs { opus: 111, red: Some(63), feedback: true, dred: false }
    }

    fn frame(n: u32, payload: &[u8]) -> EncodedFrame {
        EncodedFrame {
            payload: Bytes::copy_from_slice(payload),
            timestamp: n * FRAME_SAMPLES as u32,
            samples: FRAME_SAMPLES as u32,
            bitrate_bps: 32_000,
            copy_bps: 32_000,
            to: std::sync::Arc::new([LegId(1)].into()),
        }
    }

    fn media(now: Instant) -> (Media, rtrb::Consumer<ReceivedPacket>) {
        let (speaker, heard) = LegInput::pair(64);
        let mut media = Media::new(speaker, RtpNumbers::random(now), now);
        media.begin(codecs(), now);
        (media, heard)
    }

    #[test]
    fn only_well_formed_packets_of_the_negotiated_types_are_taken() {
        let taken = |codecs, payload_type, bytes: Vec<u8>| frames(codecs, payload_type, &Bytes::from(bytes)).is_some();
        assert!(taken(codecs(), 111, vec![1]) && taken(codecs(), 111, vec![1; 1500]));
        assert!(!taken(codecs(), 96, vec![1; 80]));
        assert!(!taken(codecs(), 111, vec![]) && !taken(codecs(), 111, vec![1; 1501]));
        assert!(taken(codecs(), 63, vec![111, 1]) && !taken(codecs(), 63, vec![112, 1]));
        assert!(!taken(Codecs { red: None, ..codecs() }, 63, vec![111, 1]));
        let now = Instant::now();
        let (mut media, mut heard) = media(now);
        media.codecs = None;
        media.received(rtp::Packet { payload: Bytes::from_static(b"x"), ..Default::default() }, now);
        assert!(heard.pop().is_err() && media.meter.stats.packets_ignored == 1);
    }

    #[test]
    fn no_second_is_busier_than_it_may_be_whatever_the_plan_says() {
        let start = Instant::now();
        let (mut media, _) = media(start);
        let mut sent = Vec::new();
        for n in 0..500 {
            let now = start + n * Duration::from_millis(20);
            media.plan.near = &[1, 2, 3];
            let spoken = frame(n, &[1; 120]);
            let packet = media.packet(LegId(1), &spoken, now).expect("every frame is sent");
            assert!(packet.payload.ends_with(&spoken.payload));
            media.meter.sent(packet.payload.len(), now);
            // All of IPv6, UDP, RTP and SRTP's tag.
            sent.push(packet.payload.len() + 40 + 36);
        }
        let busiest = sent.windows(50).map(|second| second.iter().sum::<usize>()).max().unwrap();
        assert!((19_000..20_000).contains(&busiest), "{busiest} bytes in a second");
    }

    #[test]
    fn a_flood_is_handed_on_as_fast_as_anybody_speaks_and_the_rest_is_counted() {
        let start = Instant::now();
        let copy = |n: u32| red::Copy { behind: 960 * n, payload: Bytes::from_static(b"copy") };
        let copies: Vec<_> = (1..=3).rev().map(copy).collect();
        let payload = red::pack(111, &copies, &Bytes::from_static(b"frame"));
        // Frames handed on and packets ignored of so many packets a second, which come so many ms late at first.
        let come = |packets_a_second: u32, late_ms: u64| {
            let (mut media, mut heard) = media(start);
            let mut handed_on = 0;
            for n in 0..10 * packets_a_second {
                let sent = Duration::from_secs(1) * n / packets_a_second;
                let header = rtp::Header { payload_type: 63, sequence_number: n as u16, ..Default::default() };
                let packet = rtp::Packet { header, payload: payload.clone() };
                media.received(packet, start + sent.max(Duration::from_millis(late_ms)));
                handed_on += std::iter::from_fn(|| heard.pop().ok()).count();
            }
            (handed_on, media.meter.stats.packets_ignored)
        };
        assert_eq!(come(400, 0), (16_000, 0), "the shortest frames, each with three copies");
        assert_eq!(come(50, 1_200), (2_000, 0), "a network that stood still for a second");
        let (handed_on, ignored) = come(5_000, 0);
        assert!((16_000..=16_256).contains(&handed_on), "{handed_on}");
        assert_eq!(ignored as usize, 50_000 - handed_on / 4);
    }

    #[test]
    fn frames_come_with_a_copy_of_the_one_before_and_are_told_apart() {
        let now = Instant::now();
        let ((mut from, _), (mut to, mut heard)) = (media(now), media(now));
        for n in 0..3 {
            let packet = from.packet(LegId(1), &frame(n, &[n as u8; 40]), now).unwrap();
            assert_eq!(packet.header.payload_type, if n == 0 { 111 } else { 63 });
            to.received(packet, now);
        }
        let heard: Vec<_> = std::iter::from_fn(|| heard.pop().ok()).collect();
        let told: Vec<_> = heard.iter().map(|packet| (packet.payload[0], packet.copy)).collect();
        assert_eq!(told, [(0, false), (0, true), (1, false), (1, true), (2, false)]);
        assert_eq!(heard[0].timestamp, heard[1].timestamp);
        assert_eq!(heard[1].sequence, heard[2].sequence);
    }

    #[test]
    fn a_leg_of_which_nothing_new_is_heard_or_that_has_no_path_has_no_say() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let ((mut from, _), (mut to, _)) = (media(start), media(start));
        let has_say = |from: &mut Media, ms| {
            from.adapt(at(ms));
            from.wish.is_some()
        };
        assert!(has_say(&mut from, 1_900) && !has_say(&mut from, 2_100), "it never told anything");
        to.received(from.packet(LegId(1), &frame(0, &[1; 40]), at(2_100)).unwrap(), at(2_100));
        let report = to.report(at(2_200)).unwrap();
        from.acknowledged(&report, at(2_200));
        assert!(has_say(&mut from, 4_100));
        from.set_reachable(false, at(4_100));
        assert!(!has_say(&mut from, 4_100));
        from.set_reachable(true, at(4_100));
        from.acknowledged(&report, at(4_100));
        assert!(has_say(&mut from, 4_100) && !has_say(&mut from, 4_300), "the same again is no news");
    }

    #[test]
    fn reports_that_were_not_agreed_upon_change_nothing() {
        let now = Instant::now();
        for feedback in [true, false] {
            let ((mut from, _), (mut to, _)) = (media(now), media(now));
            from.begin(Codecs { feedback, ..codecs() }, now);
            to.received(from.packet(LegId(1), &frame(0, &[1; 40]), now).unwrap(), now);
            from.acknowledged(&to.report(now).unwrap(), now);
            from.adapt(now);
            assert_eq!(from.adaptation.seen().loss.is_some(), feedback);
        }
    }

    #[test]
    fn the_farthest_copy_is_in_reach_whatever_the_frames_length() {
        let now = Instant::now();
        for samples in [480, 960, 1920] {
            let (mut media, _) = media(now);
            let frame = |n: u32| EncodedFrame { timestamp: n * samples, samples, ..frame(n, &[n as u8; 40]) };
            let mut farthest = 0;
            for n in 0..40 {
                media.plan.far_ms = Some(320);
                let packet = media.packet(LegId(1), &frame(n), now).unwrap();
                let copies = frames(codecs(), packet.header.payload_type, &packet.payload).unwrap().0;
                farthest = copies.first().map_or(0, |copy| copy.behind);
            }
            assert!((14_000..=red::REACH_SAMPLES).contains(&farthest), "{samples} {farthest}");
        }
    }

    #[test]
    fn a_pause_is_told_twice_then_nothing_is_sent_and_numbers_go_on_by_one() {
        let now = Instant::now();
        let (mut media, _) = media(now);
        let mut sent = Vec::new();
        for n in 0..30 {
            let payload = if (5..25).contains(&n) { PAUSE } else { &[9; 40] };
            sent.extend(media.packet(LegId(1), &frame(n, payload), now).map(|packet| (n, packet.header)));
        }
        let spoken: Vec<_> = sent.iter().map(|(n, _)| *n).collect();
        assert_eq!(spoken, [0, 1, 2, 3, 4, 5, 6, 25, 26, 27, 28, 29]);
        assert_eq!(sent[5].1.payload_type, 63, "the last word is sent again behind the pause");
        let (before, after) = (&sent[6].1, &sent[7].1);
        assert_eq!(after.sequence_number, before.sequence_number.wrapping_add(1));
        assert_eq!(after.timestamp.wrapping_sub(before.timestamp), 19 * FRAME_SAMPLES as u32);
        assert!(after.marker);
    }
}
