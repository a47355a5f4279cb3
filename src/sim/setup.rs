//! What a world is like: drawn from its seed, or written down by a scenario.

use std::{sync::OnceLock, time::Duration};

use crate::{
    config::{AutoAccept, WhoMayRing},
    proto::id::Did,
};
use ed25519_dalek::SigningKey;

use super::{agenda::Chance, legs::Faults, network::Weather};

/// Most nodes that a random world has, and a few persons more so that worlds differ in the order of their DIDs.
const PEOPLE: usize = 16;

/// Every tenth of the first worlds seals for real, 200 of those that CI runs: public-key work takes as long as all else together.
const REAL_SEEDS: u64 = 2_000;

/// Somebody with a key; the same in every world.
pub struct Person {
    pub did: Did,
    pub key: SigningKey,
}

/// Making keys is slow, so that all worlds share these.
pub fn person(ix: usize) -> &'static Person {
    static PERSONS: OnceLock<Vec<Person>> = OnceLock::new();
    let make = |seed: u64| {
        let key = SigningKey::from_bytes(&Chance::new(seed).bytes());
        Person { did: Did::from_key(key.verifying_key()), key }
    };
    &PERSONS.get_or_init(|| (0..PEOPLE as u64).map(make).collect())[ix % PEOPLE]
}

/// Everything that a seed decides before the first step.
#[derive(Debug, Clone)]
pub struct Setup {
    pub seed: u64,
    /// Whose device each node is: persons are counted from 0.
    pub owners: Vec<usize>,
    /// Which [`person`] is the first of them.
    pub first_person: usize,
    /// Chance of a link beyond those that connect everybody.
    pub density_percent: u64,
    pub weather: Weather,
    pub faults: Faults,
    pub ring: Duration,
    pub grace: Duration,
    pub reconnect: Duration,
    pub auto_accept: AutoAccept,
    pub who_may_ring: WhoMayRing,
    /// Chance that one person has another as a contact.
    pub contact_percent: u64,
    /// Whether a daemon that is started again goes back into its calls unasked.
    pub rejoin: bool,
    pub max_skew_ms: u64,
    /// One node's clock jumps so far at some time, in ms, farther than offers bear.
    pub clock_jump_ms: Option<i64>,
    /// How long users press and faults happen.
    pub wild: Duration,
    /// Mean pause between two presses of one user; `None`: nobody presses.
    pub press_ms: Option<u64>,
    pub partitions: u64,
    pub kills: u64,
    /// How often a machine is suspended.
    pub sleeps: u64,
    /// Whether the last node's owner forges, replays and transplants.
    pub insider: bool,
    pub real_seal: bool,
    pub push_to_talk: bool,
    pub automute: bool,
}

impl Setup {
    /// Drawn from the seed.
    pub fn random(seed: u64) -> Self {
        let mut chance = Chance::new(seed.wrapping_mul(0x1_0000_0001));
        let chance = &mut chance;
        let real_seal = seed < REAL_SEEDS && seed % 10 == 9;
        // Most worlds are small: there faults meet, and they are fast.
        let large = !real_seal && chance.percent(3);
        let owners = owners(if large { (7, 12) } else { (2, if real_seal { 4 } else { 6 }) }, chance);
        let nodes = owners.len();
        // Several hops together stay around the 8 s that the protocol must bear.
        let max_delay_us = *chance.pick(&[2_000, 20_000, 150_000, 1_000_000, 8_000_000 / (nodes as u64 - 1)]);
        let weather = Weather {
            loss_percent: *chance.pick(&[0, 0, 2, 10, 30, 50]),
            duplicate_percent: *chance.pick(&[0, 5, 30]),
            tamper_percent: *chance.pick(&[0, 2]),
            max_delay_us,
        };
        let faults = Faults {
            hang_percent: *chance.pick(&[0, 5, 20]),
            half_hang_percent: *chance.pick(&[0, 5, 10]),
            fail_percent: *chance.pick(&[0, 5, 20]),
            cut_percent: *chance.pick(&[0, 10, 40]),
        };
        let insider = !real_seal && owners.iter().filter(|owner| owners.last() == Some(owner)).count() == 1;
        Self {
            seed,
            owners,
            first_person: chance.below(PEOPLE as u64) as usize,
            density_percent: *chance.pick(&[0, 50, 100, 100]),
            weather,
            faults,
            ring: Duration::from_secs(*chance.pick(&[5, 20, 45])),
            grace: Duration::from_secs(*chance.pick(&[0, 1, 10, 10])),
            reconnect: Duration::from_secs(*chance.pick(&[10, 45])),
            auto_accept: *chance.pick(&[AutoAccept::None, AutoAccept::None, AutoAccept::Contacts, AutoAccept::All]),
            who_may_ring: *chance.pick(&[WhoMayRing::Anyone, WhoMayRing::Anyone, WhoMayRing::Contacts]),
            contact_percent: *chance.pick(&[50, 90, 100]),
            rejoin: chance.percent(75),
            max_skew_ms: *chance.pick(&[0, 1_000, 55_000]),
            clock_jump_ms: chance.percent(10).then(|| *chance.pick(&[-400_000, 400_000])),
            wild: Duration::from_secs(if large || real_seal { chance.between(20, 40) } else { chance.between(20, 80) }),
            press_ms: Some(*chance.pick(&[500, 2_000, 8_000])),
            partitions: chance.below(4),
            kills: chance.below(3),
            sleeps: chance.below(2),
            insider: insider && chance.percent(15),
            real_seal,
            push_to_talk: chance.percent(25),
            automute: chance.percent(25),
        }
    }

    /// A quiet world for a scenario: everybody linked, nothing goes wrong, nobody presses unasked.
    pub fn calm(nodes: usize) -> Self {
        Self {
            seed: 1,
            owners: (0..nodes).collect(),
            first_person: 0,
            density_percent: 100,
            weather: Weather::CALM,
            faults: Faults::NONE,
            ring: Duration::from_secs(45),
            grace: Duration::from_secs(10),
            reconnect: Duration::from_secs(45),
            auto_accept: AutoAccept::None,
            who_may_ring: WhoMayRing::Anyone,
            contact_percent: 100,
            rejoin: true,
            max_skew_ms: 0,
            clock_jump_ms: None,
            wild: Duration::ZERO,
            press_ms: None,
            partitions: 0,
            kills: 0,
            sleeps: 0,
            insider: false,
            real_seal: false,
            push_to_talk: false,
            automute: false,
        }
    }

    /// After this long in calm weather, with nobody pressing, everything has settled: rung out, reconnected or given up,
    /// met nobody for 30 s, waited out the grace time; and a margin for closing and trying again.
    pub fn settling(&self) -> Duration {
        self.ring + self.reconnect + Duration::from_secs(30) + self.grace + Duration::from_secs(45)
    }
}

/// Persons with one device each, in some worlds with up to three.
fn owners((fewest, most): (u64, u64), chance: &mut Chance) -> Vec<usize> {
    let several = chance.percent(30);
    let mut owners = Vec::new();
    for owner in 0..chance.between(fewest, most) as usize {
        let devices = if several { *chance.pick(&[1, 1, 2, 3]) } else { 1 };
        owners.extend(std::iter::repeat_n(owner, devices));
    }
    // A message notes its readers in the bits of a word.
    owners.truncate(24);
    owners
}
