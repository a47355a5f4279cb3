//! Figures for docs/performance.md: latency of gossip, cold dial, and what an idle node costs.

use super::*;

/// User and system time of this process so far, threads that are gone included (proc_pid_stat(5): fields 14 and 15, in
/// ticks of 10 ms).
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let ticks: u64 = fields.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(10 * ticks)
}

fn median(mut samples: Vec<Duration>) -> Duration {
    samples.sort();
    samples[samples.len() / 2]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures, proves nothing; run alone with --ignored --nocapture"]
async fn measure_latency_cold_dial_and_idle_processor_time() {
    for listen in [QUIC, TCP] {
        let (mut cold, mut warm) = (Vec::new(), Vec::new());
        for _ in 0..20 {
            let mut a = Node::start(&[listen], &[]);
            a.net.subscribe("telecon/a".into());
            let to_a = a.address().await;
            let mut b = Node::start(&[listen], &[]);
            b.address().await;
            let dialled = Instant::now();
            b.net.keep(vec![to_a]);
            b.told_subscribed("telecon/a").await;
            b.net.publish("telecon/a".into(), b"first".to_vec());
            a.receives(b"first").await;
            cold.push(dialled.elapsed());
            for number in 0..20_u8 {
                let published = Instant::now();
                b.net.publish("telecon/a".into(), vec![number; 1024]);
                a.receives(&[number; 1024]).await;
                warm.push(published.elapsed());
            }
        }
        println!("{listen}: cold dial to first gossip {:?}, publish to receive {:?}", median(cold), median(warm));
    }
    let a = Node::start(&[QUIC, TCP], &[]);
    a.net.subscribe("telecon/a".into());
    let mut b = Node::start(&[QUIC, TCP], &[a.address().await]);
    b.told_subscribed("telecon/a").await;
    a.net.subscribe("telecon/b".into());
    let before = processor_time();
    tokio::time::sleep(Duration::from_secs(20)).await;
    let spent = processor_time() - before;
    println!(
        "two connected idle nodes: {spent:?} of processor time in 20 s, {:.3} % of a core each",
        spent.as_secs_f64() / 0.4
    );
}
