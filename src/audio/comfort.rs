//! Comfort noise: what is heard of a participant's room while the sender pauses, or after a loss has faded.
//!
//! It is made of the quietest sound of the last seconds, in grains that overlap at random: as loud and as coloured as what
//! was heard before, and it costs next to nothing. A silent room stays silent.

use super::{BLOCK_SAMPLES, Block, mixer::mean_square};

/// What is kept of the room: 80 ms.
const KEPT_BLOCKS: usize = 8;
/// The floor is the least of the last one to two of these: 1 s.
const FLOOR_BLOCKS: u32 = 100;
/// Blocks up to this much above the floor are the room's.
const ROOM: f32 = 2.5;
/// Mean square above which nothing is taken for a room's noise: -45 dBFS.
const LOUDEST: f32 = 3e-5;
/// Mean square below which a room is silent: -85 dBFS.
const SILENT: f32 = 3e-9;

/// Learns a room's noise and makes more of it.
pub struct ComfortNoise {
    kept: [Block; KEPT_BLOCKS],
    /// Blocks taken so far.
    taken: usize,
    /// Least mean square of this window and of the one before.
    floors: [f32; 2],
    window: u32,
    /// How present it was at the end of the last block.
    gain: f32,
    /// Where the grain that fades out began.
    grain: usize,
    dice: u32,
}

impl Default for ComfortNoise {
    fn default() -> Self {
        Self {
            kept: [[0.0; BLOCK_SAMPLES]; KEPT_BLOCKS],
            taken: 0,
            floors: [f32::INFINITY; 2],
            window: 0,
            gain: 0.0,
            grain: 0,
            dice: 1,
        }
    }
}

impl ComfortNoise {
    /// Looks at what was really said.
    pub fn learn(&mut self, sound: &[f32]) {
        for block in sound.as_chunks::<BLOCK_SAMPLES>().0 {
            let mean_square = mean_square(block);
            self.window += 1;
            if self.window == FLOOR_BLOCKS {
                (self.floors, self.window) = ([f32::INFINITY, self.floors[0]], 0);
            }
            self.floors[0] = self.floors[0].min(mean_square);
            if mean_square <= LOUDEST && mean_square <= ROOM * self.floor() {
                self.kept[self.taken % KEPT_BLOCKS] = *block;
                self.taken += 1;
            }
        }
    }

    /// Mean square of the room's noise; 0 while nothing is known.
    pub fn floor(&self) -> f32 {
        let floor = self.floors[0].min(self.floors[1]);
        if floor.is_finite() { floor.min(LOUDEST) } else { 0.0 }
    }

    /// Adds 10 ms of the room, at the end of which it is as present as `gain` (0..=1) says; false when there is none to add.
    pub fn add_to(&mut self, block: &mut Block, gain: f32) -> bool {
        let from = std::mem::replace(&mut self.gain, gain);
        let known = self.taken.min(KEPT_BLOCKS);
        if known < 2 || self.floor() < SILENT || (from == 0.0 && gain == 0.0) {
            return false;
        }
        let length = known * BLOCK_SAMPLES;
        let new = self.roll(length);
        let fading = std::mem::replace(&mut self.grain, new);
        let kept = self.kept.as_flattened();
        for (at, sample) in block.iter_mut().enumerate() {
            let share = (at as f32 + 0.5) / BLOCK_SAMPLES as f32;
            // Grains are unlike each other, so their powers add up, not their amplitudes.
            let (old, new) = (kept[(fading + BLOCK_SAMPLES + at) % length], kept[(self.grain + at) % length]);
            let noise = old * (1.0 - share).sqrt() + new * share.sqrt();
            *sample += noise * (from + (gain - from) * share);
        }
        true
    }

    /// It was cut off; the next time it comes up softly.
    pub fn rest(&mut self) {
        self.gain = 0.0;
    }

    fn roll(&mut self, below: usize) -> usize {
        self.dice = self.dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.dice >> 8) as usize % below
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(amplitude: f32, samples: usize) -> Vec<f32> {
        let mut state = 7_u32;
        let noise = (0..samples).map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            amplitude * ((state >> 8) as f32 / (1 << 23) as f32 - 1.0)
        });
        noise.collect()
    }

    fn mean_square(sound: &[f32]) -> f32 {
        sound.iter().map(|sample| sample * sample).sum::<f32>() / sound.len() as f32
    }

    #[test]
    fn the_room_goes_on_as_loud_as_it_was_whatever_was_said_in_it() {
        let room = noise(0.003, 96_000);
        let mut comfort = ComfortNoise::default();
        let mut said = room.clone();
        said[20_000..60_000].iter_mut().enumerate().for_each(|(at, sample)| *sample += 0.3 * (at as f32 * 0.05).sin());
        comfort.learn(&said);
        let mut heard = Vec::new();
        for _ in 0..100 {
            let mut block = [0.0; BLOCK_SAMPLES];
            assert!(comfort.add_to(&mut block, 1.0));
            heard.extend(block);
        }
        let ratio_db = 10.0 * (mean_square(&heard[480..]) / mean_square(&room)).log10();
        assert!(ratio_db.abs() < 1.5, "{ratio_db} dB");
        let steepest = |sound: &[f32]| sound.windows(2).map(|pair| (pair[1] - pair[0]).abs()).fold(0.0, f32::max);
        assert!(steepest(&heard) < 1.5 * steepest(&room), "no click");
        let mut last = [0.0; BLOCK_SAMPLES];
        assert!(comfort.add_to(&mut last, 0.0) && last[479].abs() < 1e-4);
        assert!(!comfort.add_to(&mut last, 0.0), "and then it is over");
    }

    #[test]
    fn a_silent_room_stays_silent_and_a_loud_voice_is_no_room() {
        for sound in [vec![0.0; 96_000], noise(0.3, 96_000)] {
            let mut comfort = ComfortNoise::default();
            comfort.learn(&sound);
            let mut block = [0.0; BLOCK_SAMPLES];
            assert!(!comfort.add_to(&mut block, 1.0));
            assert_eq!(block, [0.0; BLOCK_SAMPLES]);
        }
    }
}
