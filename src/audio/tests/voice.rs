//! Speech through the whole of a leg in virtual time, over simulated networks: what `make bench-voice` scores.
//!
//! Nothing is asserted here. Each run reads `reference.wav` (48 kHz, mono) from a directory and writes what was heard, and
//! figures for each second beside it; `scripts/bench-voice` makes the one and compares the other.

use std::fs;

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::*;
use crate::{
    audio::{
        mixer::Limiter,
        processing::{Processing, Stages},
        uplink::Uplink,
    },
    leg::testing::{Datagram, Line},
};

/// The speaker asks for sound this long after the microphone had a block: the middle of what may be.
const PHASE: Duration = Duration::from_millis(5);
/// Goes on so long after the last word.
const TAIL_BLOCKS: usize = 100;
/// Outages begin so often…
const OUTAGE_EVERY_MS: u64 = 2_000;
/// …and last so long.
const OUTAGE_MS: std::ops::Range<f64> = 100.0..200.0;
const LEG: LegId = LegId(1);

/// What a network does to packets.
#[derive(Clone, Copy)]
struct Network {
    name: &'static str,
    loss: f64,
    outages: bool,
    delay_ms: f64,
    /// The delay is that much more or less, for each packet alone, so packets overtake each other.
    jitter_ms: f64,
    /// From here on it is clean.
    until_s: f64,
    /// The microphone's sound is processed before, as that of a device is.
    processed: bool,
}

const CLEAN: Network = Network {
    name: "clean",
    loss: 0.0,
    outages: false,
    delay_ms: 0.0,
    jitter_ms: 0.0,
    until_s: f64::INFINITY,
    processed: false,
};
const NETWORKS: [Network; 13] = [
    CLEAN,
    Network { name: "loss-05", loss: 0.05, ..CLEAN },
    Network { name: "loss-10", loss: 0.10, ..CLEAN },
    Network { name: "loss-20", loss: 0.20, ..CLEAN },
    Network { name: "loss-30", loss: 0.30, ..CLEAN },
    Network { name: "loss-40", loss: 0.40, ..CLEAN },
    Network { name: "loss-50", loss: 0.50, ..CLEAN },
    Network { name: "loss-60", loss: 0.60, ..CLEAN },
    Network { name: "loss-70", loss: 0.70, ..CLEAN },
    Network { name: "outages", outages: true, ..CLEAN },
    Network { name: "jitter", delay_ms: 40.0, jitter_ms: 20.0, ..CLEAN },
    Network { name: "recovery", loss: 0.30, until_s: 30.0, ..CLEAN },
    Network { name: "processed", processed: true, ..CLEAN },
];

/// A network under way.
struct Route {
    network: Network,
    random: StdRng,
    /// How long the outage lasts that began last, by its number.
    outage: (u64, f64),
}

impl Route {
    fn new(network: Network, seed: u64) -> Self {
        Self { network, random: StdRng::seed_from_u64(seed), outage: (0, 0.0) }
    }

    /// How long a packet sent at `at_ms` travels, or `None` when it is lost.
    fn carry(&mut self, at_ms: f64) -> Option<f64> {
        let Network { loss, outages, delay_ms, jitter_ms, until_s, .. } = self.network;
        let chance: f64 = self.random.random();
        let jitter = jitter_ms * (2.0 * self.random.random::<f64>() - 1.0);
        if at_ms >= until_s * 1000.0 {
            return Some(delay_ms);
        }
        let number = at_ms as u64 / OUTAGE_EVERY_MS;
        if number > self.outage.0 {
            self.outage = (number, self.random.random_range(OUTAGE_MS));
        }
        let out = outages && at_ms - (number * OUTAGE_EVERY_MS) as f64 <= self.outage.1;
        (!out && chance >= loss).then_some(delay_ms + jitter)
    }
}

/// What happened in one second.
#[derive(Default, serde::Serialize)]
struct Second {
    wire_bytes: usize,
    packets: usize,
    lost: usize,
    jitter_buffer_ms: f64,
    concealed_pct: f64,
}

#[derive(serde::Serialize)]
struct Run {
    network: &'static str,
    seed: u64,
    phase_ms: f64,
    seconds: Vec<Second>,
}

/// Datagrams on their way in one direction, and when they arrive.
struct Way {
    route: Route,
    under_way: Vec<(Instant, Datagram)>,
}

impl Way {
    fn new(network: Network, seed: u64) -> Self {
        Self { route: Route::new(network, seed), under_way: Vec::new() }
    }

    /// False when it is lost.
    fn send(&mut self, datagram: Datagram, epoch: Instant, now: Instant) -> bool {
        let arrival = self.route.carry((now - epoch).as_secs_f64() * 1000.0);
        let Some(ms) = arrival else { return false };
        self.under_way.push((now + Duration::from_secs_f64(ms / 1000.0), datagram));
        true
    }

    /// What has arrived by now, in that order.
    fn arrived(&mut self, now: Instant) -> impl Iterator<Item = (Instant, Datagram)> {
        self.under_way.sort_by_key(|(arrival, _)| *arrival);
        let arrived = self.under_way.partition_point(|(arrival, _)| *arrival <= now);
        self.under_way.drain(..arrived)
    }
}

/// Speaks the clip into one end and returns what the other one hears.
fn call(clip: &[f32], network: Network, seed: u64) -> (Vec<f32>, Run) {
    let epoch = Instant::now();
    let (microphone, mut frames) = broadcast::channel(MICROPHONE_FRAMES);
    let mut uplink = Uplink::new(microphone, false);
    let (wish, reader) = uplink::wish();
    uplink.add_leg(LEG, reader);
    uplink.address([LEG].into(), epoch, epoch);
    uplink.begin(epoch, epoch);
    let mut here = Line::new(LegInput { wish, ..LegInput::pair(SLOTS).0 }, epoch);
    let (speaker, heard) = LegInput::pair(SLOTS);
    let mut there = Line::new(speaker, epoch);
    let (mut leg, mut limiter) = (Remote::new(heard, epoch), Limiter::default());
    let (mut to, mut back) = (Way::new(network, 2 * seed), Way::new(network, 2 * seed + 1));
    let (mut sound, mut seconds) = (Vec::new(), Vec::<Second>::new());
    let stages = Stages::of(&config::Audio::default());
    let mut processing = if network.processed { Processing::new(stages) } else { None };
    let silence = [[0.0; BLOCK_SAMPLES]; TAIL_BLOCKS];
    for (number, block) in clip.as_chunks::<BLOCK_SAMPLES>().0.iter().chain(&silence).enumerate() {
        if number % 100 == 0 {
            seconds.push(Second::default());
        }
        let second = seconds.last_mut().unwrap();
        let mut block = *block;
        if let Some(processing) = &mut processing {
            processing.captured(&mut block, 0.0);
        }
        uplink.add(&block);
        for ms in 0..10 {
            let now = epoch + backend::BLOCK * (number as u32 + 1) + Duration::from_millis(ms);
            let voice = std::iter::from_fn(|| frames.try_recv().ok()).filter_map(|frame| here.send(LEG, &frame, now));
            let voice: Vec<Datagram> = voice.collect();
            for datagram in voice.into_iter().chain(here.report(now)) {
                second.packets += 1;
                second.wire_bytes += datagram.bytes();
                second.lost += usize::from(!to.send(datagram, epoch, now));
            }
            to.arrived(now).for_each(|(arrival, datagram)| there.receive(datagram, arrival));
            back.arrived(now).for_each(|(arrival, datagram)| here.receive(datagram, arrival));
            if let Some(report) = there.report(now) {
                back.send(report, epoch, now);
            }
            if now - epoch == backend::BLOCK * (number as u32 + 1) + PHASE {
                leg.receive(true);
                let mut block = leg.block(now, &mut false).unwrap_or([0.0; BLOCK_SAMPLES]);
                limiter.apply(&mut block);
                sound.extend(block);
            }
        }
        let stats = leg.stats(DelayShares::default());
        (second.jitter_buffer_ms, second.concealed_pct) = (stats.jitter_buffer_ms, stats.concealed_pct);
    }
    // The first block was heard when the first block had been said, and a phase later.
    let phase_ms = (backend::BLOCK + PHASE).as_secs_f64() * 1000.0;
    (sound, Run { network: network.name, seed, phase_ms, seconds })
}

/// `TELECON_VOICE=<directory>` says where reference.wav is; `TELECON_VOICE_NETWORKS` names some of the networks, and
/// `TELECON_VOICE_SEEDS` says how many calls there are over each.
#[test]
#[ignore = "writes what scripts/bench-voice scores; run make bench-voice"]
fn speech_over_bad_networks() {
    let directory = PathBuf::from(std::env::var_os("TELECON_VOICE").expect("TELECON_VOICE names a directory"));
    let wanted = std::env::var("TELECON_VOICE_NETWORKS").unwrap_or_default();
    let seeds = std::env::var("TELECON_VOICE_SEEDS").map_or(1, |seeds| seeds.parse().unwrap());
    // `scripts/bench-voice` makes it.
    let clip = wav::read(&directory.join("reference.wav"));
    for network in NETWORKS {
        if !wanted.is_empty() && !wanted.split_whitespace().any(|name| name == network.name) {
            continue;
        }
        for seed in 1..=seeds {
            let (sound, run) = call(&clip, network, seed);
            let name = format!("{}-{seed}", network.name);
            wav::write(&directory.join(format!("{name}.wav")), &sound);
            fs::write(directory.join(format!("{name}.json")), serde_json::to_string(&run).unwrap()).unwrap();
        }
    }
}
