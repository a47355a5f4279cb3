//! The own microphone's blocks in a recording, fitted into the beat of what is mixed, without a hole and without a click: two sound
//! cards never run equally fast, so that every half a minute there is a block too many or too few.
//!
//! Pure, and it allocates nothing.

use std::collections::VecDeque;

use super::{BLOCK_SAMPLES, Block};

/// So many blocks may wait for their beat.
const MOST_WAITING: usize = 16;
/// So long it is looked how many of them wait for nothing.
const LOOK_BLOCKS: u32 = 100;
/// What was left out or made up passes into what follows within so many samples: 5 ms.
const SEAM_SAMPLES: usize = 240;
const SILENCE: Block = [0.0; BLOCK_SAMPLES];

/// Blocks that wait for their beat.
pub struct Own {
    waiting: VecDeque<Block>,
    /// The fewest that waited lately, and for how many beats that was counted.
    fewest: (usize, u32),
    /// What was played last…
    last: Block,
    /// …and what would follow, where it is not what comes next.
    follows: Option<Block>,
    /// Beats in a row that came too early.
    missed: u32,
}

impl Own {
    /// Nothing was said yet.
    pub fn new() -> Self {
        let waiting = VecDeque::with_capacity(MOST_WAITING);
        Self { waiting, fewest: (usize::MAX, 0), last: SILENCE, follows: Some(SILENCE), missed: u32::MAX }
    }

    /// Nothing waits any more.
    pub fn clear(&mut self) {
        self.waiting.clear();
        (self.fewest, self.follows, self.missed) = ((usize::MAX, 0), Some(SILENCE), u32::MAX);
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// No further one may wait.
    pub fn is_full(&self) -> bool {
        self.len() == MOST_WAITING
    }

    /// One more waits.
    pub fn push(&mut self, block: &Block) {
        self.waiting.push_back(*block);
    }

    /// The block for this beat; `None`: there was none for a while. What always waits is only late: it goes.
    pub fn next_on_beat(&mut self) -> Option<Block> {
        let (fewest, beats) = self.fewest;
        self.fewest = (fewest.min(self.len()), beats + 1);
        if beats + 1 == LOOK_BLOCKS {
            for _ in 1..self.fewest.0 {
                let left_out = self.waiting.pop_front();
                self.follows = self.follows.or(left_out);
            }
            self.fewest = (usize::MAX, 0);
        }
        self.next()
    }

    /// The block that has waited longest, or what stands in for it.
    pub fn next(&mut self) -> Option<Block> {
        let block = match self.waiting.pop_front() {
            Some(block) => self.join(block),
            None => self.stand_in()?,
        };
        self.last = block;
        Some(block)
    }

    fn join(&mut self, mut block: Block) -> Block {
        self.missed = 0;
        if let Some(follows) = self.follows.take() {
            for (at, (sample, before)) in block.iter_mut().zip(follows).enumerate().take(SEAM_SAMPLES) {
                *sample = before + (*sample - before) * (at + 1) as f32 / SEAM_SAMPLES as f32;
            }
        }
        block
    }

    /// A microphone that is slower has no block yet: the last one backwards goes on where it ended, and ends where it began. One
    /// that is gone fades away.
    fn stand_in(&mut self) -> Option<Block> {
        self.missed = self.missed.saturating_add(1);
        match self.missed {
            1 => {
                self.follows = Some(self.last);
                self.last.reverse();
                Some(self.last)
            }
            2 => {
                let mut fading = self.follows.replace(SILENCE).unwrap_or(SILENCE);
                for (at, sample) in fading.iter_mut().enumerate() {
                    *sample *= 1.0 - (at + 1) as f32 / BLOCK_SAMPLES as f32;
                }
                Some(fading)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is recorded of a tone through a microphone that is so much faster than the beat, in so many beats.
    fn recorded(faster_ppm: i64, beats: i64) -> Vec<f32> {
        let (mut own, mut sound, mut at) = (Own::new(), Vec::new(), 0);
        for beat in 1..=beats {
            while at * 1_000_000 / (1_000_000 + faster_ppm) < beat {
                let tone = |sample: usize| 0.5 * ((at as usize * BLOCK_SAMPLES + sample) as f32 * 0.0601).sin();
                own.push(&std::array::from_fn(tone));
                at += 1;
            }
            sound.extend(own.next_on_beat().expect("no hole"));
            assert!(own.len() < 3, "it is not late");
        }
        sound
    }

    #[test]
    fn a_microphone_with_a_clock_of_its_own_is_recorded_without_a_hole_and_without_a_click() {
        for faster_ppm in [-2_000, 0, 2_000] {
            let sound = recorded(faster_ppm, 2_500);
            let steepest = sound.windows(2).map(|pair| (pair[1] - pair[0]).abs()).fold(0.0, f32::max);
            let softest =
                sound[480..].chunks_exact(240).map(|piece| piece.iter().fold(0.0_f32, |peak, s| peak.max(s.abs())));
            let softest = softest.fold(f32::MAX, f32::min);
            println!("{faster_ppm} ppm: steepest {steepest}, softest {softest}");
            assert!(steepest < 1.2 * 0.5 * 0.0601 && softest > 0.2, "{faster_ppm} ppm: {steepest} {softest}");
        }
    }

    #[test]
    fn a_microphone_that_is_gone_fades_away_and_begins_softly_when_it_is_back() {
        let mut own = Own::new();
        let mut sound = Vec::new();
        assert_eq!(own.next_on_beat(), None, "nothing stands in for what never was");
        for speaks in [true, true, false, false, false, false, true] {
            if speaks {
                own.push(&[0.5; BLOCK_SAMPLES]);
            }
            sound.extend(own.next_on_beat().unwrap_or(SILENCE));
        }
        let steepest = sound.windows(2).map(|pair| (pair[1] - pair[0]).abs()).fold(sound[0], f32::max);
        assert!(steepest <= 0.5 / SEAM_SAMPLES as f32 + 1e-6, "{steepest}");
        assert!(sound[4 * BLOCK_SAMPLES..6 * BLOCK_SAMPLES].iter().all(|sample| *sample == 0.0));
    }
}
