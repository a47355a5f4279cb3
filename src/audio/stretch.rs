//! Time-stretching of decoded sound by one or more pitch periods, so that delay can change without a click.
//!
//! Sound is cut out or doubled where it repeats itself (or is so quiet that nobody hears the seam), with a cross-fade over
//! the whole length of the change. What was played is looked at, too, so that time can grow within one short frame. Where
//! there is no good place the sound is left alone; the next one may do. Allocates nothing while there is capacity.

use super::{jitter::Haste, mixer::mean_square};

/// Shortest change: 2.5 ms (400 Hz).
const SHORTEST: usize = 120;
/// Longest change: 15 ms (67 Hz).
pub const LONGEST: usize = 720;
/// Likeness is measured over this much at least: 5 ms.
const COMPARED: usize = 240;
/// Mean square below which any seam is inaudible: -50 dBFS.
const QUIET: f32 = 1e-5;
/// Steps of the coarse search, over periods and over samples.
const COARSE: usize = 4;
/// How much more alike a short change must be to be preferred to the longest one, in haste.
const LENGTH_BONUS: f32 = 0.2;

/// Where and how time may be stretched.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// What is before this sample was played; it is not changed.
    pub from: usize,
    /// Longest change, in samples.
    pub most: usize,
    pub haste: Haste,
    /// Mean square of what is noise to this ear: a seam there is inaudible.
    pub noise: f32,
}

impl Place {
    /// How alike both sides of a seam must be.
    fn least_likeness(self) -> f32 {
        match self.haste {
            Haste::Calm => 0.9,
            Haste::Quick => 0.6,
            Haste::Now => 0.2,
        }
    }

    /// A change of at most `room` samples, at which `sound` repeats itself, `behind` samples before or after `from`.
    fn choose(self, room: usize, likeness: impl Fn(usize, usize) -> f32, mean_square: f32) -> Option<usize> {
        let longest = self.most.min(LONGEST).min(room);
        if longest < SHORTEST {
            return None;
        }
        if mean_square < QUIET.max(2.0 * self.noise) {
            return Some(longest);
        }
        let bonus = if self.haste == Haste::Calm { 0.0 } else { LENGTH_BONUS / LONGEST as f32 };
        let score = |period: usize, step| likeness(period, step) + bonus * period as f32;
        let best = |periods: &mut dyn Iterator<Item = usize>, step| {
            periods.map(|period| (score(period, step), period)).max_by(|a, b| a.0.total_cmp(&b.0))
        };
        let (_, coarse) = best(&mut (SHORTEST..=longest).step_by(COARSE), COARSE)?;
        let near = coarse.saturating_sub(COARSE).max(SHORTEST)..=(coarse + COARSE).min(longest);
        let (_, period) = best(&mut near.into_iter(), 1)?;
        (likeness(period, 1) >= self.least_likeness()).then_some(period)
    }
}

/// Shortens what is not played yet; returns the samples removed, 0 when there was no good place.
pub fn shrink(sound: &mut Vec<f32>, place: Place) -> usize {
    let unplayed = &sound[place.from..];
    let likeness = |period: usize, step| {
        let compared = period.max(COMPARED).min(unplayed.len() - period);
        likeness(&unplayed[..compared], &unplayed[period..period + compared], step)
    };
    let Some(period) = place.choose(unplayed.len() / 2, likeness, mean_square(unplayed)) else { return 0 };
    let from = place.from;
    for at in 0..period {
        let share = at as f32 / period as f32;
        sound[from + at] += (sound[from + period + at] - sound[from + at]) * share;
    }
    sound.copy_within(from + 2 * period.., from + period);
    sound.truncate(sound.len() - period);
    period
}

/// Lengthens what is not played yet; returns the samples added, 0 when there was no good place.
pub fn grow(sound: &mut Vec<f32>, place: Place) -> usize {
    let (played, unplayed) = sound.split_at(place.from);
    let likeness = |period: usize, step| {
        let before = &sound[place.from - period..];
        let compared = period.max(COMPARED).min(unplayed.len());
        likeness(&before[..compared], &unplayed[..compared], step)
    };
    let room = played.len().min(unplayed.len());
    let Some(period) = place.choose(room, likeness, mean_square(unplayed)) else { return 0 };
    let (from, length) = (place.from, sound.len());
    sound.resize(length + period, 0.0);
    sound.copy_within(from..length, from + period);
    // From what comes next back to what was played a period ago; behind it, what comes next follows.
    for at in 0..period {
        let share = at as f32 / period as f32;
        let (next, before) = (sound[from + period + at], sound[from - period + at]);
        sound[from + at] = next + (before - next) * share;
    }
    period
}

/// Normalised correlation.
fn likeness(one: &[f32], other: &[f32], step: usize) -> f32 {
    let (mut xy, mut xx, mut yy) = (0.0, 1e-9, 1e-9);
    for (x, y) in one.iter().zip(other).step_by(step) {
        xy += x * y;
        xx += x * x;
        yy += y * y;
    }
    xy / f32::sqrt(xx * yy)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALM: Place = Place { from: LONGEST, most: LONGEST, haste: Haste::Calm, noise: 0.0 };

    fn tone(hz: f32, samples: usize) -> Vec<f32> {
        (0..samples).map(|at| 0.5 * (std::f32::consts::TAU * hz * at as f32 / 48_000.0).sin()).collect()
    }

    fn noise(samples: usize) -> Vec<f32> {
        let mut state = 7_u32;
        let noise = (0..samples).map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32 - 0.5
        });
        noise.collect()
    }

    fn steepest(samples: &[f32]) -> f32 {
        samples.windows(2).map(|pair| (pair[1] - pair[0]).abs()).fold(0.0, f32::max)
    }

    #[test]
    fn a_tone_is_stretched_both_ways_without_a_click_in_frames_of_every_length() {
        let limit = 1.02 * steepest(&tone(220.0, 960));
        for (stretch, unplayed) in
            [(shrink as fn(&mut _, _) -> _, 960), (shrink, 1920), (grow, 480), (grow, 960), (grow, 1920)]
        {
            let whole = tone(220.0, LONGEST + unplayed + 960);
            let mut sound = whole[..LONGEST + unplayed].to_vec();
            let changed = stretch(&mut sound, CALM);
            assert!((SHORTEST..=LONGEST).contains(&changed), "{unplayed}: {changed}");
            assert_eq!(sound.len().abs_diff(LONGEST + unplayed), changed);
            assert_eq!(sound[..LONGEST], whole[..LONGEST], "what was played stays");
            sound.extend(&whole[LONGEST + unplayed..]);
            assert!(steepest(&sound) < limit, "{unplayed}: {} over {limit}", steepest(&sound));
        }
    }

    #[test]
    fn a_change_is_no_longer_than_asked() {
        for stretch in [shrink, grow] {
            let mut sound = tone(200.0, 3 * 960);
            assert_eq!(stretch(&mut sound, Place { most: 300, ..CALM }), 240, "one period of 5 ms");
            assert_eq!(stretch(&mut vec![0.0; 3 * 960], Place { most: 300, ..CALM }), 300);
            assert_eq!(stretch(&mut vec![0.0; 3 * 960], Place { most: 100, ..CALM }), 0);
        }
    }

    #[test]
    fn silence_and_noise_of_the_room_are_stretched_and_loud_noise_only_in_haste() {
        for stretch in [shrink, grow] {
            assert_eq!(stretch(&mut vec![0.0; 4 * LONGEST], CALM), LONGEST);
            assert_eq!(stretch(&mut noise(4 * LONGEST), CALM), 0);
            assert_eq!(stretch(&mut noise(4 * LONGEST), Place { noise: 0.1, ..CALM }), LONGEST);
            assert_eq!(stretch(&mut vec![0.0; LONGEST + 100], CALM), 0, "too short");
        }
    }
}
