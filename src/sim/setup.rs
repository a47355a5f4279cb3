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
    pub nodes: usize,
    /// Which [`person`] is the first node.
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
    /// Chance that one node has another as a contact.
    pub contact_percent: u64,
    pub max_skew_ms: u64,
    /// How long users press and faults happen.
    pub wild: Duration,
    /// Mean pause between two presses of one user; `None`: nobody presses.
    pub press_ms: Option<u64>,
    pub partitions: u64,
    pub kills: u64,
    pub real_seal: bool,
}

impl Setup {
    /// Drawn from the seed; every sixteenth world seals for real.
    pub fn random(seed: u64) -> Self {
        let mut chance = Chance::new(seed.wrapping_mul(0x1_0000_0001));
        let chance = &mut chance;
        let nodes = chance.between(2, 6) as usize;
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
        Self {
            seed,
            nodes,
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
            max_skew_ms: *chance.pick(&[0, 1_000, 55_000]),
            wild: Duration::from_secs(chance.between(20, 120)),
            press_ms: Some(*chance.pick(&[500, 2_000, 8_000])),
            partitions: chance.below(4),
            kills: chance.below(3),
            real_seal: seed % 16 == 15,
        }
    }

    /// A quiet world for a scenario: everybody linked, nothing goes wrong, nobody presses unasked.
    pub fn calm(nodes: usize) -> Self {
        Self {
            seed: 1,
            nodes,
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
            max_skew_ms: 0,
            wild: Duration::ZERO,
            press_ms: None,
            partitions: 0,
            kills: 0,
            real_seal: false,
        }
    }

    /// After this long in calm weather, with nobody pressing, everything has settled: rung out, reconnected or given up,
    /// met nobody for 30 s, waited out the grace time; and a margin for closing and trying again.
    pub fn settling(&self) -> Duration {
        self.ring + self.reconnect + Duration::from_secs(30) + self.grace + Duration::from_secs(45)
    }
}
