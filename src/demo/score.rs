//! Who heard whom: reads only what the listeners' WAV files hold and the clips that were spoken.
//!
//! Speakers take turns: a cycle has one slot for each, and a speaker's own clip stands in its own slot only, so that a mix
//! of all of them can be taken apart. Each clip is searched in the listener's recording. It counts as heard when its
//! normalised correlation reaches [`HEARD`], and all listeners must have heard the same order of turns: that finds speakers
//! who were swapped.
//!
//! The files of different daemons start at different moments (each microphone and speaker opens when its first connection
//! is up), so positions are compared with each other, modulo the cycle, never with a clock; see [`in_turn`]. A jitter
//! buffer stretches time by some ms now and then, so a clip is compared in pieces of `PIECE_SAMPLES`, each of which may
//! lie up to `SHIFT_SAMPLES` beside its place.

use super::{
    correlate::{Haystack, energy},
    voices::CLIP_SAMPLES,
};
use crate::audio::SAMPLE_RATE_HZ;

/// Least correlation of a clip that counts as heard.
pub const HEARD: f64 = 0.8;
/// One turn: a clip of 1 s and 400 ms of silence, more than the daemons' files are apart.
pub const SLOT_SAMPLES: usize = SAMPLE_RATE_HZ as usize * 14 / 10;
/// How far the listeners' orders of turns may be apart: half a slot, beyond which it is another one's turn.
const TURN_TOLERANCE_SAMPLES: usize = SLOT_SAMPLES / 2;
/// A clip is compared in four pieces of 250 ms.
const PIECE_SAMPLES: usize = CLIP_SAMPLES / 4;
/// How far time may be stretched or cut within a clip: 60 ms.
const SHIFT_SAMPLES: usize = SAMPLE_RATE_HZ as usize * 60 / 1000;
/// How far a later repetition may lie beside its place, after the jitter buffer changed its delay: 300 ms.
const DRIFT_SAMPLES: usize = SAMPLE_RATE_HZ as usize * 300 / 1000;
/// Gaps are looked for in steps of 10 ms.
const STEP_SAMPLES: usize = SAMPLE_RATE_HZ as usize / 100;
/// A gap is longer than 60 ms.
const GAP_STEPS: usize = 6;
/// A step holds speech when its power is above this part (-30 dB) of the clip's mean.
const SPEECH_POWER: f64 = 1e-3;
/// A step is silent when it has lost this part (-20 dB) of the power that it should have.
const SILENT_POWER: f64 = 1e-2;

/// Who speaks when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    speakers: usize,
}

impl Schedule {
    /// One slot for each of `speakers`.
    pub fn new(speakers: usize) -> Self {
        Self { speakers: speakers.max(1) }
    }

    /// Length of one round in samples.
    pub fn cycle_samples(self) -> usize {
        self.speakers * SLOT_SAMPLES
    }

    /// Where in the cycle a speaker's clip starts, in samples.
    pub fn start_samples(self, speaker: usize) -> usize {
        speaker * SLOT_SAMPLES
    }

    /// What one speaker says in one round; the file backend repeats it.
    pub fn input(self, speaker: usize, clip: &[f32]) -> Vec<f32> {
        let mut round = vec![0.0; self.cycle_samples()];
        for (target, &sample) in round.iter_mut().skip(self.start_samples(speaker)).zip(clip) {
            *target = sample;
        }
        round
    }

    /// A recording of this many samples holds every clip whole at least once, wherever in the cycle it starts.
    pub fn needed_samples(self) -> usize {
        self.cycle_samples() + CLIP_SAMPLES
    }
}

/// What a listener heard of one speaker.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Heard {
    /// Correlation of the best repetition: mean over its pieces, weighted by their energy in the clip. 0..=1
    pub correlation: f64,
    /// Loudness of that repetition, RMS in dB relative to full scale; -120 for silence.
    pub level_db: f64,
    /// Silences over 60 ms where there should be speech, over all repetitions that lie wholly in the recording.
    pub gaps: u32,
    /// How many repetitions lie wholly in the recording.
    pub repetitions: u32,
    /// Where the best repetition starts in the recording, in samples.
    pub at_samples: usize,
    /// `at_samples` less the place of the speaker's turn, modulo the cycle.
    pub turn_samples: usize,
}

impl Heard {
    /// The clip is there.
    pub fn is_heard(&self) -> bool {
        self.correlation >= HEARD
    }
}

/// Searches what each of `speakers` (index and clip) said in one listener's recording.
pub fn listen(schedule: Schedule, recording: Vec<f32>, speakers: &[(usize, &[f32])]) -> Vec<Heard> {
    let mut recording = Haystack::new(recording);
    speakers.iter().map(|&(speaker, clip)| find(schedule, &mut recording, speaker, clip)).collect()
}

/// All listeners heard the voices in one order: `listeners` holds, for each participant, what it heard of all others, in
/// the order of participants.
///
/// What listener L heard of speaker S lies at t(L, S) = s(S) - o(L) + delay in its recording, with unknown starts s and o of
/// the two files. In the sum t(a, b) - t(a, c) + t(b, c) - t(b, a) + t(c, a) - t(c, b) over any three participants all
/// starts cancel, and only differences of delays, far below a slot, are left. A speaker who was heard in another one's turn
/// leaves whole slots. Of two participants nothing can be compared: a swap means there that one heard itself.
pub fn in_turn(schedule: Schedule, listeners: &[Vec<Heard>]) -> bool {
    let cycle = schedule.cycle_samples();
    let turn = |listener: usize, speaker: usize| -> Option<usize> {
        let at = if speaker < listener { speaker } else { speaker - 1 };
        Some(listeners.get(listener)?.get(at)?.turn_samples)
    };
    let loop_of = |a, b, c| -> Option<usize> {
        let there = turn(a, b)? + turn(b, c)? + turn(c, a)?;
        let back = turn(a, c)? + turn(b, a)? + turn(c, b)?;
        let apart = there.abs_diff(back) % cycle;
        Some(apart.min(cycle - apart))
    };
    let count = listeners.len();
    (0..count).all(|a| {
        (a + 1..count)
            .all(|b| (b + 1..count).all(|c| loop_of(a, b, c).is_some_and(|apart| apart < TURN_TOLERANCE_SAMPLES)))
    })
}

/// Everybody heard everybody: `listeners` as for [`in_turn`].
pub fn all_heard(schedule: Schedule, listeners: &[Vec<Heard>]) -> bool {
    let others = schedule.speakers - 1;
    let complete = listeners.len() == schedule.speakers && listeners.iter().all(|heard| heard.len() == others);
    complete && listeners.iter().flatten().all(Heard::is_heard) && in_turn(schedule, listeners)
}

/// One place where a clip is, or would be.
struct Repetition {
    correlation: f64,
    /// Where each piece was found.
    places: Vec<usize>,
}

fn find(schedule: Schedule, recording: &mut Haystack, speaker: usize, clip: &[f32]) -> Heard {
    let repetitions = repetitions(schedule, recording, clip);
    let mut heard =
        Heard { correlation: 0.0, level_db: -120.0, gaps: 0, repetitions: 0, at_samples: 0, turn_samples: 0 };
    let cycle = schedule.cycle_samples();
    for repetition in &repetitions {
        heard.repetitions += 1;
        heard.gaps += gaps(recording, clip, repetition);
        if repetition.correlation > heard.correlation {
            let at = repetition.places[0];
            heard.correlation = repetition.correlation;
            heard.at_samples = at;
            heard.turn_samples = (at + cycle - schedule.start_samples(speaker)) % cycle;
            heard.level_db = level_db(recording.energy(at, clip.len()), clip.len());
        }
    }
    heard
}

/// The best place of the whole clip, and the places one or more cycles before and after it.
fn repetitions(schedule: Schedule, recording: &mut Haystack, clip: &[f32]) -> Vec<Repetition> {
    let Some((best, _)) = recording.best(clip, 0..usize::MAX) else { return Vec::new() };
    let cycle = schedule.cycle_samples();
    let lags = recording.lags(clip.len());
    (best % cycle..lags)
        .step_by(cycle)
        .filter_map(|place| {
            let near = place.saturating_sub(DRIFT_SAMPLES)..place + DRIFT_SAMPLES;
            let at = if place == best { best } else { recording.best(clip, near)?.0 };
            Some(compare(recording, clip, at))
        })
        .collect()
}

/// Compares a clip piece by piece with what is at `at`.
fn compare(recording: &mut Haystack, clip: &[f32], at: usize) -> Repetition {
    let mut places = Vec::new();
    let mut sum = 0.0;
    for (number, piece) in clip.chunks(PIECE_SAMPLES).enumerate() {
        let place = at + number * PIECE_SAMPLES;
        let near = place.saturating_sub(SHIFT_SAMPLES)..place + SHIFT_SAMPLES + 1;
        let (found, similarity) = recording.best(piece, near).unwrap_or((place, 0.0));
        places.push(found);
        sum += f64::from(similarity).max(0.0) * energy(piece);
    }
    Repetition { correlation: sum / energy(clip).max(f64::MIN_POSITIVE), places }
}

/// Counts the silences over 60 ms where the clip has speech.
fn gaps(recording: &Haystack, clip: &[f32], repetition: &Repetition) -> u32 {
    let clip_energy = energy(clip).max(f64::MIN_POSITIVE);
    let recorded: f64 = repetition.places.iter().map(|&place| recording.energy(place, PIECE_SAMPLES)).sum();
    // A clip that is not there at all would set its own standard of loudness.
    let gain = if repetition.correlation >= HEARD { recorded / clip_energy } else { 1.0 };
    let step_energy = clip_energy * STEP_SAMPLES as f64 / clip.len() as f64;
    let (mut count, mut run) = (0, 0);
    for (number, step) in clip.chunks(STEP_SAMPLES).enumerate() {
        let start = number * STEP_SAMPLES;
        let place = repetition.places[start / PIECE_SAMPLES] + start % PIECE_SAMPLES;
        let spoken = energy(step);
        let silent = recording.energy(place, step.len()) < spoken * gain * SILENT_POWER;
        run = if spoken > step_energy * SPEECH_POWER && silent { run + 1 } else { 0 };
        count += u32::from(run == GAP_STEPS + 1);
    }
    count
}

fn level_db(energy: f64, samples: usize) -> f64 {
    (10.0 * (energy / samples.max(1) as f64).max(1e-12).log10()).max(-120.0)
}

#[cfg(test)]
mod tests;
