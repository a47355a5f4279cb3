//! ICE restarts: the connection stays, its path changes.

use std::collections::BTreeMap;

use super::{network::BadNetwork, *};

/// Two ends that are connected through `network`.
async fn connected_through(network: &BadNetwork) -> (End, End) {
    let (mut a, mut b) = pair();
    signal(&mut a, &mut b, &LegEvent::Connected, through(network)).await;
    (a, b)
}

/// Puts the network between both ends.
fn through(network: &BadNetwork) -> impl FnMut(Role, &mut LegCommand) {
    |from, command| {
        if let LegCommand::Candidates(ice) = command {
            network.change(from, ice);
        }
    }
}

async fn hears_both_ways(a: &mut End, b: &mut End) {
    a.say(vec![7; 60], 960_000);
    b.hear_sound(vec![7; 60]).await;
    b.say(vec![8; 60], 960_000);
    a.hear_sound(vec![8; 60]).await;
}

#[tokio::test]
async fn a_path_that_is_cut_is_replaced_by_another_and_the_connection_stays() {
    let (first, second) = (BadNetwork::quiet().await, BadNetwork::quiet().await);
    let (mut a, mut b) = pair();
    let mut fingerprints = BTreeMap::new();
    signal(&mut a, &mut b, &LegEvent::Connected, |from, command| {
        if let LegCommand::Remote(sdp) = command {
            fingerprints.insert(from == Role::Initiator, sdp.fingerprint);
        }
        through(&first)(from, command);
    })
    .await;
    first.outage.store(true, Ordering::Relaxed);
    let cut_at = Instant::now();
    assert_eq!((a.event().await, b.event().await), (LegEvent::Disconnected, LegEvent::Disconnected));
    let noticed = cut_at.elapsed();
    a.leg.command(LegCommand::RestartIce);
    let mut described = 0;
    signal_attempt(2, &mut a, &mut b, &LegEvent::Recovered, |from, command| {
        if let LegCommand::Remote(sdp) = command {
            described += 1;
            assert_eq!(fingerprints[&(from == Role::Initiator)], sdp.fingerprint, "the same certificate");
        }
        through(&second)(from, command);
    })
    .await;
    println!("cut, noticed after {noticed:?}, media again after {:?}", cut_at.elapsed());
    assert_eq!(described, 2, "one offer and one answer");
    hears_both_ways(&mut a, &mut b).await;
}

#[tokio::test]
async fn a_restart_without_need_keeps_the_connection_and_may_be_repeated() {
    let (mut a, mut b) = connected().await;
    for attempt in 2..5 {
        a.leg.command(LegCommand::RestartIce);
        signal_attempt(attempt, &mut a, &mut b, &LegEvent::Recovered, |_, _| {}).await;
        hears_both_ways(&mut a, &mut b).await;
    }
}

#[tokio::test]
async fn a_restart_whose_offer_is_lost_leaves_the_old_path_in_use() {
    let network = BadNetwork::quiet().await;
    let (mut a, mut b) = connected_through(&network).await;
    a.leg.command(LegCommand::RestartIce);
    assert!(matches!(a.event().await, LegEvent::Description { .. }), "an offer that nobody gets");
    hears_both_ways(&mut a, &mut b).await;
    network.outage.store(true, Ordering::Relaxed);
    assert_eq!((a.event().await, b.event().await), (LegEvent::Disconnected, LegEvent::Disconnected));
    network.outage.store(false, Ordering::Relaxed);
    assert_eq!((a.event().await, b.event().await), (LegEvent::Recovered, LegEvent::Recovered));
}

#[tokio::test]
async fn a_restart_with_another_certificate_fails_the_leg() {
    let (mut a, mut b) = connected().await;
    let (mut stranger, _) = pair();
    let LegEvent::Description { sdp, fingerprint } = stranger.event().await else { panic!("the offer") };
    b.leg.command(LegCommand::Remote(Sdp { attempt: 2, kind: SdpKind::Offer, sdp, fingerprint }));
    assert_eq!(b.rest().await, [LegEvent::Failed, LegEvent::Closed]);
    a.leg.command(LegCommand::Close);
    a.rest().await;
}

#[tokio::test]
async fn descriptions_and_candidates_of_earlier_attempts_change_nothing() {
    let (mut a, mut b) = connected().await;
    a.leg.command(LegCommand::RestartIce);
    let offer = a.event().await;
    let Some(LegCommand::Remote(old)) = a.command_for(1, &offer) else { panic!("the offer") };
    b.leg.command(LegCommand::Remote(old));
    hears_both_ways(&mut a, &mut b).await;
    b.leg.command(a.command_for(2, &offer).unwrap());
    let candidates = vec!["candidate:1 1 udp 1 127.0.0.1 9 typ host".into()];
    b.leg.command(LegCommand::Candidates(Ice { attempt: 1, candidates }));
    signal_attempt(2, &mut a, &mut b, &LegEvent::Recovered, |_, _| {}).await;
    hears_both_ways(&mut a, &mut b).await;
}
