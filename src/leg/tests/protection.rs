//! Copies and reports over real connections.

use super::*;

/// What an offer or answer says of RFC 2198, taken out: a peer that knows Opus alone.
fn without_red(_: Role, command: &mut LegCommand) {
    if let LegCommand::Remote(sdp) = command {
        let lines = sdp.sdp.lines().filter(|line| !line.starts_with("a=rtpmap:63") && !line.starts_with("a=fmtp:63"));
        let lines = lines.filter(|line| !line.starts_with("a=rtcp-fb:63"));
        sdp.sdp = lines.map(|line| line.replace("SAVPF 111 63", "SAVPF 111") + "\r\n").collect();
    }
}

/// Both say twenty frames; what both heard, copies too.
async fn talk(a: &mut End, b: &mut End, frames: usize) -> [Vec<ReceivedPacket>; 2] {
    for n in 0..frames {
        a.say(vec![n as u8 + 1; 60], (n * FRAME_SAMPLES) as u32);
        b.say(vec![n as u8 + 1; 60], (n * FRAME_SAMPLES) as u32);
    }
    let mut heard = [Vec::new(), Vec::new()];
    for (end, heard) in [a, b].into_iter().zip(&mut heard) {
        while heard.iter().filter(|packet: &&ReceivedPacket| !packet.copy).count() < frames {
            heard.extend(end.hear_with(1, |_| true).await);
        }
    }
    heard
}

#[tokio::test]
async fn frames_arrive_with_a_copy_of_the_one_before_while_nothing_is_known_of_the_path() {
    let (mut a, mut b) = connected().await;
    for heard in talk(&mut a, &mut b, 10).await {
        let (copies, frames): (Vec<_>, Vec<_>) = heard.into_iter().partition(|packet| packet.copy);
        assert_eq!(copies.len(), 9);
        for (frame, copy) in frames.iter().zip(&copies) {
            assert_eq!((&frame.payload, frame.timestamp), (&copy.payload, copy.timestamp));
            assert_eq!(copy.sequence, frame.sequence.wrapping_add(1), "it came with the next one");
        }
    }
}

#[tokio::test]
async fn a_peer_without_copies_is_spoken_to_in_plain_opus() {
    for tampered in [Role::Initiator, Role::Answerer] {
        let (mut a, mut b) = pair();
        signal(&mut a, &mut b, &LegEvent::Connected, |from, command| {
            if from == tampered {
                without_red(from, command);
            }
        })
        .await;
        // Only the one that was told so knows that the other cannot.
        let heard = talk(&mut a, &mut b, 10).await;
        let by = if tampered == Role::Initiator { &heard[0] } else { &heard[1] };
        assert!(by.iter().all(|packet| !packet.copy), "{tampered:?}");
    }
}

#[tokio::test]
async fn what_gets_lost_is_told_and_answered_with_more_copies() {
    let network = network::BadNetwork::seeded(0.2, Duration::ZERO, 1).await;
    let (mut a, mut b) = pair();
    signal(&mut a, &mut b, &LegEvent::Connected, |from, command| {
        if let LegCommand::Candidates(ice) = command {
            network.change(from, ice);
        }
    })
    .await;
    let mut statistics = a.leg.statistics.clone();
    let told = async {
        let protects =
            |stats: &LegStats| stats.redundancy_ms[1] > 0 && stats.remote_loss_pct.is_some_and(|pct| pct > 2.0);
        *statistics.wait_for(protects).await.unwrap()
    };
    let talk = async {
        let mut pace = tokio::time::interval(Duration::from_millis(20));
        // What was missed while the machine did something else is not sent in a burst.
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for n in 0.. {
            pace.tick().await;
            a.say(vec![7; 60], n * FRAME_SAMPLES as u32);
        }
    };
    let stats = tokio::select! {
        stats = timeout(PATIENCE, told) => stats.expect("it is noticed"),
        () = talk => unreachable!(),
    };
    println!("{stats:?}");
    assert!(stats.redundancy_ms[..2] == [20, 40] && stats.wire_kbps < 160.0 && stats.frame_ms == 20);
}

#[tokio::test]
async fn all_that_a_leg_sends_counts_the_checks_of_a_silent_one_too() {
    let (a, _b) = connected().await;
    let mut statistics = a.leg.statistics.clone();
    // Keep-alives alone, and what is told of the other's, are less than one.
    let counts = statistics.wait_for(|stats| stats.wire_kbps > 3.0 && stats.sent_kbps < 1.0);
    timeout(PATIENCE, counts).await.expect("checks are counted").unwrap();
}

#[tokio::test]
async fn a_clean_path_is_known_as_such_and_speech_goes_out_once() {
    let (a, mut b) = connected().await;
    let mut pace = tokio::time::interval(Duration::from_millis(5));
    let mut once = 0;
    for n in 0.. {
        pace.tick().await;
        a.say(vec![7; 80], n * FRAME_SAMPLES as u32);
        while let Ok(packet) = b.heard.pop() {
            once = if packet.copy { 0 } else { once + 1 };
        }
        if once > 20 {
            return;
        }
        assert!(n < 4_000, "copies go on for ever");
    }
}

/// Whether what `b` hears may be looked into for deep redundancy, when `a`'s description was changed on the way to it.
async fn may_be_looked_into(change: impl Fn(String) -> String) -> [bool; 2] {
    let (mut a, mut b) = pair();
    signal(&mut a, &mut b, &LegEvent::Connected, |from, command| {
        if let LegCommand::Remote(sdp) = command
            && from == Role::Initiator
        {
            sdp.sdp = change(std::mem::take(&mut sdp.sdp));
        }
    })
    .await;
    talk(&mut a, &mut b, 10).await.map(|heard| heard.iter().all(|packet| packet.dred))
}

#[tokio::test]
async fn deep_redundancy_is_for_equal_versions_of_libopus_and_others_connect_without_it() {
    assert_eq!(may_be_looked_into(|sdp| sdp).await, [true, true]);
    let other = may_be_looked_into(|sdp| sdp.replace("telecon-libopus:", "telecon-libopus:another ")).await;
    let missing = |sdp: String| {
        let lines = sdp.lines().filter(|line| !line.contains("libopus"));
        lines.map(|line| line.to_owned() + "\r\n").collect()
    };
    // `a` was told of an equal one, and what it is sent is read; `b` neither reads nor asks for any.
    assert_eq!((other, may_be_looked_into(missing).await), ([true, false], [true, false]));
}
