//! The simulator: whole calls among several daemons' cores in virtual time, from a seed.
//!
//! `TELECON_SEEDS=n` runs n seeds instead of the usual number, `TELECON_FIRST_SEED=n` begins with that one, and
//! `TELECON_SEED=n` runs only that one and prints its trace.

mod agenda;
mod books;
mod coverage;
mod drive;
mod elsewhere;
mod encore;
mod hostile;
mod insider;
mod legs;
mod microphone;
mod mutants;
mod network;
mod node;
mod oracle;
mod police;
mod recordings;
mod scenarios;
mod seal;
mod semantics;
mod setup;
mod stage;
mod store;
mod table;
mod trace;
mod users;
mod world;

use std::{
    fmt,
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use coverage::Coverage;
use setup::Setup;
use trace::Trace;
use world::World;

/// What CI runs.
const SEEDS: u64 = 2_000;
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

/// What some seeds came to.
#[derive(Default)]
struct Outcome {
    coverage: Coverage,
    /// The seeds that failed.
    failed: Vec<(u64, String)>,
    /// Steps, and how long one core took for them: with the stand-in seal, and with the real one.
    pace: [(u64, Duration); 2],
}

impl Outcome {
    fn of_one(seed: u64) -> Self {
        let begin = Instant::now();
        let (result, mut world) = run(seed, Trace::off());
        let mut pace = [(0, Duration::ZERO); 2];
        pace[usize::from(world.setup.real_seal)] = (world.coverage.steps, begin.elapsed());
        let ledger = world.ledger.take();
        world.coverage.add(&ledger.coverage);
        Self { coverage: world.coverage, failed: result.err().map(|what| (seed, what)).into_iter().collect(), pace }
    }

    fn add(&mut self, other: Self) {
        self.coverage.add(&other.coverage);
        self.failed.extend(other.failed);
        for ((steps, time), (more, longer)) in self.pace.iter_mut().zip(other.pace) {
            *steps += more;
            *time += longer;
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.coverage.fmt(f)?;
        for ((steps, time), seal) in self.pace.iter().zip(["the stand-in", "the real"]) {
            let steps_per_s = *steps as f64 / time.as_secs_f64();
            writeln!(f, "{steps_per_s:>10.0} steps a second on one core with {seal} seal")?;
        }
        Ok(())
    }
}

/// Runs all seeds on two threads.
fn run_all(seeds: Range<u64>) -> Outcome {
    let next = AtomicU64::new(seeds.start);
    let work = || {
        let mut sum = Outcome::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return sum;
            }
            sum.add(Outcome::of_one(seed));
        }
    };
    std::thread::scope(|scope| {
        let mut sum = Outcome::default();
        for thread in [scope.spawn(work), scope.spawn(work)] {
            sum.add(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        sum.failed.sort();
        sum
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
    let first = number("TELECON_FIRST_SEED").unwrap_or(0);
    let seeds = number("TELECON_SEEDS").unwrap_or(SEEDS);
    let outcome = run_all(first..first + seeds);
    println!("{outcome}");
    let failed = &outcome.failed;
    if let Some((seed, _)) = failed.first() {
        let list: Vec<String> = failed.iter().take(40).map(|(seed, what)| format!("{seed}: {what}")).collect();
        panic!("{}\n{} of {seeds} seeds failed:\n{}", account(*seed, SHOWN_LINES), failed.len(), list.join("\n"));
    }
    if seeds >= SEEDS {
        assert_eq!(outcome.coverage.missing(), Vec::<&str>::new(), "never exercised");
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let trace = |seed| account(seed, usize::MAX);
    for seed in [3, 4, 5] {
        assert!(trace(seed) == trace(seed), "seed {seed} ran in two ways");
    }
}
