//! How the delay is brought to where it should be: by stretching time, with more or less care for the place.

use super::{BLOCK, JitterBuffer, MS};

/// Shrinking leaves this much, so that a target that moves a little does not move time each time.
const SLACK: i64 = 3 * MS;
/// From here on the delay is brought down with less care for the place…
const FAR_ABOVE: i64 = 25 * MS;
/// …and from here on with none.
const FARTHEST_ABOVE: i64 = 120 * MS;
/// Packets come too late by so much: time grows with less care for the place.
const FAR_BELOW: i64 = -10 * MS;
/// Sound between two stretches near the target, and while time grows; far above the target every chance is taken.
const CALM_SAMPLES: i64 = 100 * MS;
const GROW_SAMPLES: i64 = 40 * MS;
/// Shortest change worth a stretch; `stretch` knows no shorter period.
pub(super) const SHORTEST_STRETCH: i64 = 120;

/// How what was decoded should be stretched, in samples; tell what was done with [`JitterBuffer::stretched`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advice {
    /// Leave it.
    Keep,
    /// Play it shorter by at most so much: the delay is more than needed.
    Shrink(usize, Haste),
    /// Play it longer by about so much: packets come later than they are played.
    Grow(usize, Haste),
}

/// How good the place must be at which time is stretched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Haste {
    /// Inaudible, or later.
    Calm,
    /// A fair one.
    Quick,
    /// The next best.
    Now,
}

impl JitterBuffer {
    /// How to bring the delay to where it should be; `ahead` samples are decoded and not played.
    pub fn advice(&self, ahead: usize) -> Advice {
        let (Some(offset), Some(target), 0) = (self.offsets.lowest(), self.target(), self.concealed) else {
            return Advice::Keep;
        };
        let excess = offset - target;
        // What is left over when a block is mixed is decoded earlier than needed.
        let left = ahead as i64 % BLOCK;
        let (samples, haste) = if excess < 0 {
            let missing = (-excess + BLOCK - 1) / BLOCK * BLOCK - left;
            (-missing, if excess < FAR_BELOW { Haste::Quick } else { Haste::Calm })
        } else {
            let haste = match excess {
                FARTHEST_ABOVE.. => Haste::Now,
                FAR_ABOVE.. => Haste::Quick,
                _ => Haste::Calm,
            };
            (left + (excess - SLACK).max(0) / BLOCK * BLOCK, haste)
        };
        let patience = match haste {
            Haste::Calm => CALM_SAMPLES,
            Haste::Quick | Haste::Now if samples < 0 => GROW_SAMPLES,
            Haste::Quick | Haste::Now => 0,
        };
        match usize::try_from(samples.abs()) {
            _ if self.since_stretch < patience => Advice::Keep,
            Ok(length) if samples < 0 => Advice::Grow(length.max(SHORTEST_STRETCH as usize), haste),
            Ok(length) if samples >= SHORTEST_STRETCH => Advice::Shrink(length, haste),
            Ok(_) | Err(_) => Advice::Keep,
        }
    }

    /// What was decoded last is played so many samples longer (or, negative, shorter); `ahead` as in [`Self::advice`].
    pub fn stretched(&mut self, samples: i64, ahead: usize) {
        let left = ahead as i64 % BLOCK;
        // Pulls come at whole blocks: the leftover takes up the rest.
        self.offsets.shift((left + samples).div_euclid(BLOCK) * BLOCK);
        self.since_stretch = 0;
        self.counts.stretches += 1;
    }
}
