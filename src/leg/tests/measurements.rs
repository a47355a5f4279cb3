//! How fast, how dear, how robust: `cargo test --release --lib leg::tests::measurements -- --ignored --nocapture
//! --test-threads=1`. They print; they assert nothing.

use super::{network::BadNetwork, *};

#[tokio::test]
#[ignore = "a measurement"]
async fn measure_offer_to_connected() {
    let mut times = Vec::new();
    for _ in 0..40 {
        let at = Instant::now();
        let (mut a, mut b) = connected().await;
        times.push(at.elapsed());
        a.leg.command(LegCommand::Close);
        b.leg.command(LegCommand::Close);
        a.rest().await;
        b.rest().await;
    }
    times.sort();
    println!("offer to connected: median {:?}, worst {:?}", times[20], times[39]);
}

/// Processor time of this process in seconds (proc(5), `/proc/pid/stat`, fields 14 and 15, in 1/100 s).
fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<f64> = stat.rsplit(')').next().unwrap().split(' ').filter_map(|f| f.parse().ok()).collect();
    (fields[10] + fields[11]) / 100.0
}

#[tokio::test]
#[ignore = "a measurement"]
async fn measure_processor_time_of_a_connected_leg() {
    for packets_per_second in [0_u32, 50] {
        let (mut a, mut b) = connected().await;
        let (before, at) = (processor_seconds(), Instant::now());
        let mut pace = tokio::time::interval(Duration::from_millis(20));
        for n in 0..1500 {
            pace.tick().await;
            if packets_per_second > 0 {
                a.say(vec![0; 80], n * 960);
                b.say(vec![0; 80], n * 960);
            }
            while a.heard.pop().is_ok() || b.heard.pop().is_ok() {}
        }
        let percent = (processor_seconds() - before) / at.elapsed().as_secs_f64() * 100.0 / 2.0;
        println!("{packets_per_second} packets/s each way: {percent:.2} % of a core a leg, {:?}", a.leg.stats());
        a.leg.command(LegCommand::Close);
        b.leg.command(LegCommand::Close);
        a.rest().await;
        b.rest().await;
    }
}

/// One attempt through a bad network whose signalling takes one way too.
async fn attempt(network: &BadNetwork, limit: Duration) -> Result<Duration, Duration> {
    let (mut a, mut b) = pair();
    let at = Instant::now();
    let mut done = [false; 2];
    let mut lost = false;
    while done != [true; 2] && !lost && at.elapsed() < limit {
        let (event, side) = tokio::select! {
            event = a.event() => (event, 0),
            event = b.event() => (event, 1),
            () = tokio::time::sleep(limit.saturating_sub(at.elapsed())) => break,
        };
        let (from, to) = if side == 0 { (&a, &b) } else { (&b, &a) };
        if let Some(mut command) = from.command_of(&event) {
            if let LegCommand::Candidates(ice) = &mut command {
                network.change(from.role, ice);
            }
            tokio::time::sleep(network.delay).await;
            to.leg.command(command);
        }
        done[side] |= event == LegEvent::Connected;
        lost |= event == LegEvent::Failed;
    }
    if done == [true; 2] { Ok(at.elapsed()) } else { Err(at.elapsed()) }
}

#[tokio::test]
#[ignore = "a measurement"]
async fn measure_attempts_through_a_bad_network() {
    for (loss, delay_ms) in [(0.02, 40), (0.1, 40), (0.1, 150), (0.2, 40)] {
        let attempts = (0..60).map(|_| async move {
            let network = BadNetwork::new(loss, Duration::from_millis(delay_ms)).await;
            attempt(&network, Duration::from_secs(12)).await
        });
        let (ok, lost): (Vec<_>, Vec<_>) =
            futures::future::join_all(attempts).await.into_iter().partition(Result::is_ok);
        let mut taken: Vec<Duration> = ok.into_iter().flatten().collect();
        println!("lost: {lost:?}");
        taken.sort();
        let at = |share: f64| taken.get((taken.len() as f64 * share) as usize);
        println!("{loss} loss, {delay_ms} ms: {} of 60, {:?} {:?} {:?}", taken.len(), at(0.5), at(0.9), taken.last());
    }
}
