//! Time-stretching of one decoded frame by one pitch period, so that delay can change without a click.
//!
//! A period is cut out or doubled where the sound repeats itself (or is so quiet that nobody hears the seam), with a
//! cross-fade over the whole period. Where neither holds the frame is left alone; the next one may do.

/// Shortest period that is tried: 2.5 ms (400 Hz).
const SHORTEST: usize = 120;
/// Longest: 10 ms (100 Hz; lower voices wait for a quieter moment).
const LONGEST: usize = 480;
/// Neighbouring periods must be at least this much alike.
const ALIKE: f32 = 0.75;
/// Mean square below which any seam is inaudible: -50 dBFS.
const QUIET: f32 = 1e-5;
/// Step of the coarse search.
const COARSE: usize = 4;

/// Shortens `frame` by one period; returns the samples removed, 0 when there was no good place.
pub fn shrink(frame: &mut Vec<f32>) -> usize {
    let Some(period) = period(frame) else { return 0 };
    for at in 0..period {
        let share = at as f32 / period as f32;
        frame[at] += (frame[at + period] - frame[at]) * share;
    }
    frame.drain(period..2 * period);
    period
}

/// Lengthens `frame` by one period; returns the samples added, 0 when there was no good place.
pub fn grow(frame: &mut Vec<f32>) -> usize {
    let Some(period) = period(frame) else { return 0 };
    let seam: Vec<f32> = (0..period)
        .map(|at| {
            let share = at as f32 / period as f32;
            frame[period + at] + (frame[at] - frame[period + at]) * share
        })
        .collect();
    frame.splice(period..period, seam);
    period
}

/// The length at which the frame's beginning repeats best.
fn period(frame: &[f32]) -> Option<usize> {
    if frame.len() < 2 * LONGEST {
        return None;
    }
    if frame.iter().map(|sample| sample * sample).sum::<f32>() < QUIET * frame.len() as f32 {
        return Some(LONGEST);
    }
    let coarse = best(frame, (SHORTEST..=LONGEST).step_by(COARSE), COARSE)?.1;
    let near = coarse.saturating_sub(COARSE).max(SHORTEST)..=(coarse + COARSE).min(LONGEST);
    best(frame, near, 1).filter(|(likeness, _)| *likeness >= ALIKE).map(|(_, period)| period)
}

fn best(frame: &[f32], periods: impl Iterator<Item = usize>, step: usize) -> Option<(f32, usize)> {
    periods.map(|period| (likeness(frame, period, step), period)).max_by(|a, b| a.0.total_cmp(&b.0))
}

/// Normalised correlation of the first period with the second.
fn likeness(frame: &[f32], period: usize, step: usize) -> f32 {
    let (mut xy, mut xx, mut yy) = (0.0, 1e-9, 1e-9);
    for (x, y) in frame[..period].iter().zip(&frame[period..2 * period]).step_by(step) {
        xy += x * y;
        xx += x * x;
        yy += y * y;
    }
    xy / f32::sqrt(xx * yy)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tone(hz: f32, samples: usize) -> Vec<f32> {
        (0..samples).map(|at| 0.5 * (std::f32::consts::TAU * hz * at as f32 / 48_000.0).sin()).collect()
    }

    fn steepest(samples: &[f32]) -> f32 {
        samples.windows(2).map(|pair| (pair[1] - pair[0]).abs()).fold(0.0, f32::max)
    }

    #[test]
    fn a_tone_is_stretched_both_ways_without_a_click() {
        let whole = tone(220.0, 3 * 960);
        let limit = 1.2 * steepest(&whole);
        for stretch in [shrink, grow] {
            let mut frame = whole[960..1920].to_vec();
            let changed = stretch(&mut frame);
            assert!((SHORTEST..=LONGEST).contains(&changed));
            assert_eq!(frame.len().abs_diff(960), changed);
            let joined = [&whole[..960], &frame, &whole[1920..]].concat();
            assert!(steepest(&joined) < limit, "{} over {limit}", steepest(&joined));
        }
    }

    #[test]
    fn silence_is_stretched_and_noise_is_left_alone() {
        assert_eq!(shrink(&mut vec![0.0; 960]), LONGEST);
        let mut state = 7_u32;
        let noise = (0..960).map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32 - 0.5
        });
        assert_eq!(grow(&mut noise.collect()), 0);
        assert_eq!(grow(&mut vec![0.0; 100]), 0, "too short");
    }
}
