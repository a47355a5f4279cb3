//! Proves that the simulator can fail: each wrong rule of [`Mutant`] is noticed by random worlds.

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use crate::proto::mutant::{self, Mutant};

use super::{setup::Setup, trace::Trace, world::World};

/// None of these seals for real, which would only take longer.
const FIRST_SEED: u64 = 10_000;
const MOST_SEEDS: u64 = 1_000;

/// At which seed it was noticed, counted from 1, and how.
fn caught(wrong: Mutant) -> Option<(u64, String)> {
    mutant::set(Some(wrong));
    let end = |seed| World::new(Setup::random(seed), Trace::off()).and_then(|mut world| world.run());
    let caught = (0..MOST_SEEDS).find_map(|seed| Some((seed + 1, end(FIRST_SEED + seed).err()?)));
    mutant::set(None);
    caught
}

#[test]
fn every_wrong_rule_is_noticed_within_a_thousand_worlds() {
    let (next, report) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some((wrong, words)) = Mutant::ALL.get(next.fetch_add(1, Ordering::Relaxed)) {
            let caught = caught(*wrong);
            report.lock().unwrap().push((*words, caught));
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        scope.spawn(work);
    });
    let report = report.into_inner().unwrap();
    for (words, caught) in &report {
        match caught {
            Some((seed, how)) => println!("{words:<60} world {seed:>4}: {how}"),
            None => println!("{words:<60} UNNOTICED"),
        }
    }
    let unnoticed: Vec<&str> = report.iter().filter(|(_, caught)| caught.is_none()).map(|(words, _)| *words).collect();
    assert_eq!(unnoticed, Vec::<&str>::new());
}
