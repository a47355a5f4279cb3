//! The simulator: whole calls among several daemons' cores in virtual time, from a seed.
//!
//! `TELECON_SEEDS=n` runs n seeds instead of the usual number; `TELECON_SEED=n` runs that one and prints its trace.

mod agenda;
mod coverage;
mod drive;
mod encore;
mod hostile;
mod legs;
mod network;
mod oracle;
mod police;
mod scenarios;
mod seal;
mod semantics;
mod setup;
mod stage;
mod trace;
mod users;
mod world;

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use coverage::Coverage;
use setup::Setup;
use trace::Trace;
use world::World;

/// What CI runs.
const SEEDS: u64 = 400;
/// Lines of the trace that are shown of a failed run.
const SHOWN_LINES: usize = 80;

fn run(seed: u64, trace: Trace) -> (Result<(), String>, World) {
    let mut world = World::new(Setup::random(seed), trace).unwrap_or_else(|what| panic!("seed {seed}: {what}"));
    let result = world.run();
    (result, world)
}

/// Runs the seed again with a trace and tells its end.
fn account(seed: u64, lines: usize) -> String {
    let (result, world) = run(seed, Trace::on());
    let outcome = result.map_or_else(|what| format!("FAILED: {what}"), |()| "fine".into());
    let at_s = world.now_us() as f64 / 1e6;
    format!(
        "{}seed {seed} {outcome} at {at_s:.4} s\n{:?}\nagain: TELECON_SEED={seed} cargo test --lib sim::",
        world.trace.tail(lines, &world.dids),
        world.setup
    )
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Runs all seeds on two threads; the sum of what they exercised, and the seeds that failed.
fn run_all(seeds: u64) -> (Coverage, Vec<(u64, String)>) {
    let next = AtomicU64::new(0);
    let work = || {
        let (mut sum, mut failed) = (Coverage::default(), Vec::new());
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                return (sum, failed);
            }
            let (result, mut world) = run(seed, Trace::off());
            let ledger = world.ledger.take();
            world.coverage.add(&ledger.coverage);
            sum.add(&world.coverage);
            if let Err(what) = result {
                failed.push((seed, what));
            }
        }
    };
    std::thread::scope(|scope| {
        let threads = [scope.spawn(work), scope.spawn(work)];
        let (mut sum, mut failed) = (Coverage::default(), Vec::new());
        for thread in threads {
            let (coverage, failures) = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            sum.add(&coverage);
            failed.extend(failures);
        }
        failed.sort();
        (sum, failed)
    })
}

#[test]
fn random_worlds_keep_all_promises() {
    if let Some(seed) = number("TELECON_SEED") {
        let account = account(seed, usize::MAX);
        println!("{account}");
        assert!(!account.contains("FAILED"), "seed {seed} failed");
        return;
    }
    let seeds = number("TELECON_SEEDS").unwrap_or(SEEDS);
    let begin = Instant::now();
    let (sum, failed) = run_all(seeds);
    let steps_per_s = sum.steps as f64 / begin.elapsed().as_secs_f64();
    println!("{sum}{steps_per_s:>10.0} steps a second on two threads");
    if let Some((seed, _)) = failed.first() {
        let list: Vec<String> = failed.iter().take(40).map(|(seed, what)| format!("{seed}: {what}")).collect();
        panic!("{}\n{} of {seeds} seeds failed:\n{}", account(*seed, SHOWN_LINES), failed.len(), list.join("\n"));
    }
    if seeds >= SEEDS {
        assert_eq!(sum.missing(), Vec::<&str>::new(), "never exercised");
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let trace = |seed| account(seed, usize::MAX);
    for seed in [3, 4, 5] {
        assert!(trace(seed) == trace(seed), "seed {seed} ran in two ways");
    }
}
