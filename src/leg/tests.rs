//! Legs over real sockets on the loopback.

mod measurements;
mod network;
mod odd_peers;
mod protection;
mod restart;

use std::{collections::BTreeSet, sync::atomic::Ordering, time::Instant};

use bytes::Bytes;
use tokio::time::timeout;

use webrtc::runtime::Runtime as _;

use super::*;
use crate::{
    audio::{FRAME_SAMPLES, PAUSE, ReceivedPacket},
    proto::signal::{Ice, Sdp, SdpKind},
};

/// Only keeps a hanging test from hanging for ever.
const PATIENCE: Duration = Duration::from_secs(30);

/// One side of a call of two.
struct End {
    leg: Leg,
    role: Role,
    events: mpsc::Receiver<(LegId, LegEvent)>,
    microphone: broadcast::Sender<EncodedFrame>,
    heard: rtrb::Consumer<ReceivedPacket>,
}

fn loopback() -> IceConfig {
    IceConfig { interfaces: vec!["lo".into()], ..Default::default() }
}

fn open(role: Role) -> End {
    open_with(role, loopback())
}

fn open_with(role: Role, ice: IceConfig) -> End {
    open_toward(role, ice, 16)
}

/// A leg whose daemon takes `events` events without reading them.
fn open_toward(role: Role, ice: IceConfig, events: usize) -> End {
    let (microphone, frames) = broadcast::channel(64);
    let (speaker, heard) = LegInput::pair(4096);
    let (sender, events) = mpsc::channel(events);
    let leg = spawn(LegId(1), role, Arc::new(ice), frames, speaker, sender);
    End { leg, role, events, microphone, heard }
}

/// Every leg here has the same id.
fn for_it() -> Arc<BTreeSet<LegId>> {
    Arc::new([LegId(1)].into())
}

fn pair() -> (End, End) {
    (open(Role::Initiator), open(Role::Answerer))
}

impl End {
    async fn event(&mut self) -> LegEvent {
        timeout(PATIENCE, self.events.recv()).await.expect("an event").expect("the leg ends with Closed").1
    }

    /// Everything up to `Closed`, and proof that nothing follows.
    async fn rest(&mut self) -> Vec<LegEvent> {
        let mut rest = Vec::new();
        while rest.last() != Some(&LegEvent::Closed) {
            rest.push(self.event().await);
        }
        assert!(timeout(PATIENCE, self.events.recv()).await.expect("the end").is_none());
        rest
    }

    fn command_of(&self, event: &LegEvent) -> Option<LegCommand> {
        self.command_for(1, event)
    }

    fn command_for(&self, attempt: u32, event: &LegEvent) -> Option<LegCommand> {
        let kind = if self.role == Role::Initiator { SdpKind::Offer } else { SdpKind::Answer };
        match event.clone() {
            LegEvent::Description { sdp, fingerprint } => {
                Some(LegCommand::Remote(Sdp { attempt, kind, sdp, fingerprint }))
            }
            LegEvent::Candidates(candidates) => Some(LegCommand::Candidates(Ice { attempt, candidates })),
            _ => None,
        }
    }

    /// Waits until `count` frames were heard; those that only came again do not count.
    async fn hear(&mut self, count: usize) -> Vec<ReceivedPacket> {
        self.hear_with(count, |packet| !packet.copy).await
    }

    async fn hear_with(&mut self, count: usize, counts: impl Fn(&ReceivedPacket) -> bool) -> Vec<ReceivedPacket> {
        let mut packets = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        while packets.len() < count {
            assert!(Instant::now() < deadline, "heard {} of {count}", packets.len());
            match self.heard.pop() {
                Ok(packet) if counts(&packet) => packets.push(packet),
                Ok(_) => {}
                Err(_) => tokio::task::yield_now().await,
            }
        }
        packets
    }

    /// Waits for this payload; what only says that the other end is there may come before.
    async fn hear_sound(&mut self, payload: Vec<u8>) {
        loop {
            let packet = self.hear(1).await.remove(0);
            if packet.payload != PAUSE {
                return assert_eq!(packet.payload, payload);
            }
        }
    }

    fn say(&self, payload: Vec<u8>, timestamp: u32) {
        let frame = EncodedFrame {
            payload: payload.into(),
            timestamp,
            samples: FRAME_SAMPLES as u32,
            bitrate_bps: 32_000,
            copy_bps: 32_000,
            to: for_it(),
        };
        assert!(self.microphone.send(frame).is_ok(), "the leg listens");
    }
}

/// Carries descriptions and candidates across until both sides reported `wanted`; `change` may tamper with them.
async fn signal(a: &mut End, b: &mut End, wanted: &LegEvent, change: impl FnMut(Role, &mut LegCommand)) {
    signal_attempt(1, a, b, wanted, change).await;
}

async fn signal_attempt(
    attempt: u32,
    a: &mut End,
    b: &mut End,
    wanted: &LegEvent,
    mut change: impl FnMut(Role, &mut LegCommand),
) {
    let (mut a_done, mut b_done) = (false, false);
    while !(a_done && b_done) {
        let (event, from_a) = tokio::select! {
            event = a.event() => (event, true),
            event = b.event() => (event, false),
        };
        let (from, to) = if from_a { (&*a, &*b) } else { (&*b, &*a) };
        if let Some(mut command) = from.command_for(attempt, &event) {
            change(from.role, &mut command);
            to.leg.command(command);
        }
        if from_a { a_done |= event == *wanted } else { b_done |= event == *wanted }
    }
}

async fn connected() -> (End, End) {
    let (mut a, mut b) = pair();
    signal(&mut a, &mut b, &LegEvent::Connected, |_, _| {}).await;
    (a, b)
}

#[tokio::test]
async fn two_legs_connect_and_frames_arrive_in_order_with_their_timestamps() {
    let (mut a, mut b) = connected().await;
    let start = u32::MAX - 5 * FRAME_SAMPLES as u32;
    for from in [&a, &b] {
        for n in 0..20_u8 {
            from.say(vec![n; 60], start.wrapping_add(u32::from(n) * FRAME_SAMPLES as u32));
        }
    }
    for end in [&mut a, &mut b] {
        let packets = end.hear(20).await;
        for (n, packet) in packets.iter().enumerate() {
            assert_eq!(packet.payload, Bytes::from(vec![n as u8; 60]));
            assert_eq!(packet.sequence, packets[0].sequence.wrapping_add(n as u16));
            assert_eq!(packet.timestamp, packets[0].timestamp.wrapping_add((n * FRAME_SAMPLES) as u32));
        }
    }
}

#[tokio::test]
async fn the_offer_comes_first_and_ice_before_connected() {
    let (mut a, mut b) = pair();
    let LegEvent::Description { sdp, fingerprint } = a.event().await else { panic!("the offer comes first") };
    assert_eq!(description::fingerprint(&sdp), Ok(fingerprint));
    assert!(!sdp.contains("a=candidate"), "the offer does not wait for gathering");
    assert!(sdp.contains("opus/48000/2") && sdp.contains("minptime=10;useinbandfec=1"));
    b.leg.command(LegCommand::Remote(Sdp { attempt: 1, kind: SdpKind::Offer, sdp, fingerprint }));
    signal(&mut a, &mut b, &LegEvent::IceConnected, |_, _| {}).await;
    signal(&mut a, &mut b, &LegEvent::Connected, |_, _| {}).await;
}

#[tokio::test]
async fn candidates_before_the_description_are_kept() {
    let (mut a, mut b) = pair();
    let offer = a.event().await;
    let LegEvent::Candidates(candidates) = a.event().await else { panic!("candidates follow the offer") };
    b.leg.command(LegCommand::Candidates(Ice { attempt: 1, candidates }));
    b.leg.command(a.command_of(&offer).unwrap());
    // b knows a only through its early candidates; a is told none of b's.
    signal(&mut a, &mut b, &LegEvent::Connected, |_, command| {
        if let LegCommand::Candidates(ice) = command {
            ice.candidates.clear();
        }
    })
    .await;
}

#[tokio::test]
async fn candidates_inside_the_description_are_tried() {
    let (mut a, mut b) = pair();
    let LegEvent::Description { mut sdp, fingerprint } = a.event().await else { panic!("the offer") };
    let LegEvent::Candidates(candidates) = a.event().await else { panic!("candidates") };
    for candidate in candidates {
        sdp += &format!("a={candidate}\r\n");
    }
    b.leg.command(LegCommand::Remote(Sdp { attempt: 1, kind: SdpKind::Offer, sdp, fingerprint }));
    signal(&mut a, &mut b, &LegEvent::Connected, |_, _| {}).await;
}

#[tokio::test]
async fn a_description_with_another_than_the_sealed_fingerprint_fails_the_leg() {
    let (mut a, mut b) = pair();
    let LegEvent::Description { sdp, mut fingerprint } = a.event().await else { panic!("the offer") };
    fingerprint[0] ^= 1;
    b.leg.command(LegCommand::Remote(Sdp { attempt: 1, kind: SdpKind::Offer, sdp, fingerprint }));
    assert_eq!(b.rest().await, [LegEvent::Failed, LegEvent::Closed]);
}

#[tokio::test]
async fn a_description_of_the_wrong_kind_fails_the_leg() {
    let (mut a, mut b) = pair();
    let LegEvent::Description { sdp, fingerprint } = a.event().await else { panic!("the offer") };
    b.leg.command(LegCommand::Remote(Sdp { attempt: 1, kind: SdpKind::Answer, sdp, fingerprint }));
    assert_eq!(b.rest().await, [LegEvent::Failed, LegEvent::Closed]);
}

/// An attacker in the signalling path who could change both the text and the sealed hash, but not the certificate.
#[tokio::test]
async fn another_certificate_never_connects_and_no_audio_passes() {
    let (mut a, mut b) = pair();
    let replace = |_, command: &mut LegCommand| {
        if let LegCommand::Remote(sdp) = command
            && sdp.kind == SdpKind::Offer
        {
            sdp.fingerprint = [0xab; 32];
            let line = format!("a=fingerprint:sha-256 {}", ["AB"; 32].join(":"));
            let lines = sdp.sdp.lines().map(|l| if l.starts_with("a=fingerprint") { line.as_str() } else { l });
            sdp.sdp = lines.collect::<Vec<_>>().join("\r\n") + "\r\n";
        }
    };
    signal(&mut a, &mut b, &LegEvent::IceConnected, replace).await;
    let at = Instant::now();
    for end in [&mut b, &mut a] {
        end.microphone
            .send(EncodedFrame {
                payload: vec![1; 60].into(),
                timestamp: 0,
                samples: FRAME_SAMPLES as u32,
                bitrate_bps: 32_000,
                copy_bps: 32_000,
                to: for_it(),
            })
            .ok();
        let rest = end.rest().await;
        assert_eq!(rest[rest.len() - 2..], [LegEvent::Failed, LegEvent::Closed]);
        assert!(!rest.contains(&LegEvent::Connected));
        assert_eq!((end.heard.slots(), end.leg.stats().packets_sent), (0, 0));
    }
    println!("refused after {:?}", at.elapsed());
}

#[tokio::test]
async fn garbage_descriptions_fail_the_leg_without_a_panic() {
    let (mut a, _) = pair();
    let LegEvent::Description { sdp, fingerprint } = a.event().await else { panic!("the offer") };
    let mut garbage = vec![String::new(), "v=0".into(), "\u{0}".repeat(100), "m=audio ".repeat(100)];
    garbage.push(format!("{sdp}{sdp}"));
    garbage.push(sdp.replace("a=ice-ufrag", "a=ice-nothing"));
    garbage.push(sdp.replace("opus/48000/2", "PCMU/8000"));
    for sdp in garbage {
        let mut b = open(Role::Answerer);
        b.leg.command(LegCommand::Remote(Sdp { attempt: 1, kind: SdpKind::Offer, sdp, fingerprint }));
        let rest = b.rest().await;
        assert_eq!(rest[rest.len() - 2..], [LegEvent::Failed, LegEvent::Closed]);
        assert!(!rest.contains(&LegEvent::Connected));
    }
}

#[tokio::test]
async fn garbage_and_too_many_candidates_are_counted_and_harm_nothing() {
    let (mut a, mut b) = pair();
    let garbage: Vec<String> = (0..40).map(|n| format!("candidate:{n} 1 tcp 1 127.0.0.1 9 typ host")).collect();
    let many: Vec<String> = (0..70).map(|n| format!("candidate:x 1 udp 1 127.0.0.1 {} typ host", 1 + n)).collect();
    for candidates in [garbage, vec!["\u{0}".into(), String::new(), "x".repeat(9_000)]] {
        b.leg.command(LegCommand::Candidates(Ice { attempt: 1, candidates }));
    }
    signal(&mut a, &mut b, &LegEvent::Connected, |_, _| {}).await;
    b.leg.command(LegCommand::Candidates(Ice { attempt: 1, candidates: many }));
    timeout(PATIENCE, b.leg.statistics.wait_for(|stats| stats.candidates_ignored >= 43 + 6)).await.unwrap().unwrap();
    a.say(vec![7; 60], 0);
    b.hear_sound(vec![7; 60]).await;
}

#[tokio::test]
async fn bad_servers_are_skipped() {
    let servers = ["", "http://x", "turn:127.0.0.1:9", "stun:127.0.0.1:9", "stun:no-such-name.invalid"];
    let server = |url: &str| IceServer { urls: vec![url.into()], ..Default::default() };
    let ice = IceConfig { servers: servers.map(server).to_vec(), ..loopback() };
    let (mut a, mut b) = (open_with(Role::Initiator, ice.clone()), open_with(Role::Answerer, ice));
    signal(&mut a, &mut b, &LegEvent::Connected, |_, _| {}).await;
}

#[tokio::test]
async fn a_machine_without_the_named_interface_fails_the_leg() {
    let mut end = open_with(Role::Initiator, IceConfig { interfaces: vec!["nothing".into()], ..Default::default() });
    assert_eq!(end.rest().await, [LegEvent::Failed, LegEvent::Closed]);
}

#[tokio::test]
async fn legs_connect_on_whatever_interfaces_this_machine_has() {
    let (mut a, mut b) = (open_with(Role::Initiator, IceConfig::default()), open_with(Role::Answerer, loopback()));
    signal(&mut a, &mut b, &LegEvent::Connected, |_, _| {}).await;
}

#[tokio::test]
async fn closing_ends_with_closed_here_and_disconnected_there() {
    let (mut a, mut b) = connected().await;
    a.leg.command(LegCommand::Close);
    assert_eq!(a.rest().await, [LegEvent::Closed]);
    assert!(a.heard.is_abandoned(), "nothing of the leg is left");
    // b talks on into a port that refuses it.
    let (microphone, at) = (b.microphone.clone(), Instant::now());
    let talk = tokio::spawn(async move {
        let mut pace = tokio::time::interval(Duration::from_millis(20));
        let frame = |n| EncodedFrame {
            payload: vec![0; 60].into(),
            timestamp: n * FRAME_SAMPLES as u32,
            samples: FRAME_SAMPLES as u32,
            bitrate_bps: 32_000,
            copy_bps: 32_000,
            to: for_it(),
        };
        for n in 0.. {
            pace.tick().await;
            if microphone.send(frame(n)).is_err() {
                return;
            }
        }
    });
    assert_eq!(b.event().await, LegEvent::Disconnected);
    println!("disconnected after {:?}", at.elapsed());
    assert_eq!(b.rest().await, [LegEvent::Failed, LegEvent::Closed]);
    println!("failed after {:?}", at.elapsed());
    timeout(PATIENCE, talk).await.expect("the leg gave its microphone back").unwrap();
}

#[tokio::test]
async fn dropping_the_handle_closes_the_leg() {
    let (a, mut b) = connected().await;
    let End { leg, mut events, .. } = a;
    drop(leg);
    assert_eq!(timeout(PATIENCE, events.recv()).await.unwrap(), Some((LegId(1), LegEvent::Closed)));
    assert_eq!(timeout(PATIENCE, events.recv()).await.unwrap(), None);
    b.leg.command(LegCommand::Close);
    b.leg.command(LegCommand::Close);
    assert_eq!(b.rest().await, [LegEvent::Closed]);
}

#[tokio::test]
async fn a_leg_that_is_closed_at_once_reports_closed_once() {
    for role in [Role::Initiator, Role::Answerer] {
        let mut end = open(role);
        end.leg.command(LegCommand::Close);
        assert_eq!(end.rest().await.last(), Some(&LegEvent::Closed));
    }
}

#[tokio::test]
async fn frames_from_before_the_connection_are_not_sent() {
    let (mut a, mut b) = pair();
    for end in [&a, &b] {
        end.say(vec![1; 60], 0);
    }
    signal(&mut a, &mut b, &LegEvent::Connected, |_, _| {}).await;
    for end in [&a, &b] {
        end.say(vec![2; 60], 48_000);
    }
    for end in [&mut a, &mut b] {
        assert_eq!(end.hear(1).await[0].payload, Bytes::from(vec![2; 60]));
    }
}

#[tokio::test]
async fn frames_for_other_legs_are_not_sent_and_a_leg_that_sends_nothing_says_that_it_is_there() {
    let (mut a, mut b) = connected().await;
    let elsewhere = EncodedFrame {
        payload: vec![1; 60].into(),
        timestamp: 0,
        samples: FRAME_SAMPLES as u32,
        bitrate_bps: 32_000,
        copy_bps: 32_000,
        to: Arc::new([LegId(2)].into()),
    };
    assert!(a.microphone.send(elsewhere).is_ok());
    for end in [&mut a, &mut b] {
        let packets = end.hear(2).await;
        assert!(packets.iter().all(|packet| packet.payload == PAUSE), "{packets:?}");
        assert_eq!(packets[1].sequence, packets[0].sequence.wrapping_add(1));
        let step = packets[1].timestamp.wrapping_sub(packets[0].timestamp);
        assert!(step >= 48_000, "time goes on: {step}");
    }
    a.say(vec![2; 60], 960);
    b.hear_sound(vec![2; 60]).await;
}

#[tokio::test]
async fn statistics_tell_round_trip_and_counts() {
    let (a, mut b) = connected().await;
    for n in 0..50 {
        a.say(vec![0; 88], n * FRAME_SAMPLES as u32);
    }
    b.hear(50).await;
    let mut sender = a.leg.statistics.clone();
    let ready = |stats: &LegStats| stats.packets_sent >= 50 && stats.rtt_ms.is_some();
    let sent = *timeout(PATIENCE, sender.wait_for(ready)).await.unwrap().unwrap();
    assert!(sent.rtt_ms.unwrap() < 1000.0);
    let mut receiver = b.leg.statistics.clone();
    let received = *timeout(PATIENCE, receiver.wait_for(|s| s.packets_received >= 50)).await.unwrap().unwrap();
    assert!(received.recv_kbps > 0.0 && received.packets_ignored == 0);
}

#[tokio::test]
async fn an_outage_shows_as_disconnected_and_then_recovered() {
    let network = network::BadNetwork::new(0.0, Duration::ZERO).await;
    let (mut a, mut b) = pair();
    signal(&mut a, &mut b, &LegEvent::Connected, |from, command| {
        if let LegCommand::Candidates(ice) = command {
            network.change(from, ice);
        }
    })
    .await;
    network.outage.store(true, Ordering::Relaxed);
    assert_eq!((a.event().await, b.event().await), (LegEvent::Disconnected, LegEvent::Disconnected));
    network.outage.store(false, Ordering::Relaxed);
    assert_eq!((a.event().await, b.event().await), (LegEvent::Recovered, LegEvent::Recovered));
    a.say(vec![7; 60], 0);
    b.hear_sound(vec![7; 60]).await;
}

#[tokio::test]
async fn legs_connect_over_ipv6_alone() {
    if std::net::UdpSocket::bind("[::1]:0").is_err() {
        return; // A machine without IPv6.
    }
    let (mut a, mut b) = pair();
    signal(&mut a, &mut b, &LegEvent::Connected, |_, command| {
        if let LegCommand::Candidates(ice) = command {
            ice.candidates.retain(|candidate| candidate.contains(" ::1 "));
        }
    })
    .await;
}

#[tokio::test]
async fn a_daemon_that_takes_no_events_delays_no_audio_and_loses_no_event() {
    let mut a = open(Role::Initiator);
    let mut b = open_toward(Role::Answerer, loopback(), 1);
    let offer = a.event().await;
    b.leg.command(a.command_of(&offer).unwrap());
    while !matches!(a.event().await, LegEvent::Candidates(_)) {}
    let LegEvent::Description { sdp, fingerprint } = b.event().await else { panic!("the answer") };
    let LegEvent::Candidates(candidates) = b.event().await else { panic!("candidates") };
    a.leg.command(LegCommand::Remote(Sdp { attempt: 1, kind: SdpKind::Answer, sdp, fingerprint }));
    a.leg.command(LegCommand::Candidates(Ice { attempt: 1, candidates }));
    while a.event().await != LegEvent::Connected {}
    // From here on nobody reads b's events; its queue holds one.
    for n in 0..50 {
        a.say(vec![7; 60], n * FRAME_SAMPLES as u32);
    }
    b.hear(50).await;
    assert_eq!((b.event().await, b.event().await), (LegEvent::IceConnected, LegEvent::Connected));
}

#[tokio::test]
async fn a_panic_in_the_task_ends_with_failed_and_closed() {
    let (events, mut reports) = mpsc::channel(4);
    let runtime = Arc::new(LegRuntime::new());
    runtime.spawn(Box::pin(std::future::pending()));
    supervise(LegId(1), events, Arc::clone(&runtime), async { panic!("a test's own panic") }).await;
    assert!(runtime.stopped().now_or_never().is_some(), "nothing of the leg runs on");
    assert_eq!(reports.recv().await, Some((LegId(1), LegEvent::Failed)));
    assert_eq!(reports.recv().await, Some((LegId(1), LegEvent::Closed)));
    assert_eq!(reports.recv().await, None);
}

/// Descriptors belong to the process, so the cycles run in one of their own.
#[test]
fn open_and_close_cycles_leak_no_descriptor() {
    let tests = std::env::current_exe().unwrap();
    let alone = ["--exact", "leg::tests::cycles_in_a_process_of_their_own", "--ignored", "--nocapture"];
    let output = std::process::Command::new(tests).args(alone).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[tokio::test]
#[ignore = "counts the descriptors of the whole process; the test above runs it"]
async fn cycles_in_a_process_of_their_own() {
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let mut counts = Vec::new();
    for _ in 0..21 {
        let (mut a, mut b) = connected().await;
        counts.push(descriptors());
        a.leg.command(LegCommand::Close);
        b.leg.command(LegCommand::Close);
        a.rest().await;
        b.rest().await;
        counts.push(descriptors());
    }
    assert!(counts[0] > counts[1], "open legs have sockets: {counts:?}");
    assert_eq!(counts[1], counts[41], "{counts:?}");
}
