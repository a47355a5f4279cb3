//! The sounds that telecon makes itself, synthesised: the ring tone and the ring-back, which go on, and short ones.

use std::{collections::VecDeque, f32::consts::TAU};

use super::{Block, SAMPLE_RATE_HZ, Sound};

/// Short sounds that wait for each other; more are not played.
const MAX_WAITING: usize = 4;

/// What is to be heard: notes, and after how many seconds they begin anew (or end, for a short one).
struct Score {
    notes: &'static [Note],
    round_s: f32,
    amplitude: f32,
}

/// Some pitches at once.
struct Note {
    begin_s: f32,
    length_s: f32,
    /// How soon it dies away; a plain tone does not.
    decay_s: f32,
    hz: &'static [f32],
}

const fn note(begin_s: f32, length_s: f32, decay_s: f32, hz: &'static [f32]) -> Note {
    Note { begin_s, length_s, decay_s, hz }
}

/// Of each note: from silence, and to it.
const ATTACK_S: f32 = 0.02;
/// A tone that does not die away.
const STEADY_S: f32 = 1e6;

/// Two soft chords, a falling third above a C, then a pause.
const RING: Score = Score {
    notes: &[note(0.0, 1.0, 0.3, &[523.25, 659.25]), note(0.45, 1.0, 0.3, &[440.0, 554.37])],
    round_s: 3.0,
    amplitude: 0.16,
};
/// The tone of most of the world (ITU-T E.180): a second of 425 Hz, then four of silence.
const RING_BACK: Score = Score { notes: &[note(0.0, 1.0, STEADY_S, &[425.0])], round_s: 5.0, amplitude: 0.08 };
/// As well from there: half a second each.
const BUSY: Score = Score {
    notes: &[
        note(0.0, 0.5, STEADY_S, &[425.0]),
        note(1.0, 0.5, STEADY_S, &[425.0]),
        note(2.0, 0.5, STEADY_S, &[425.0]),
    ],
    round_s: 2.5,
    amplitude: 0.08,
};
const JOINED: Score = Score {
    notes: &[note(0.0, 0.15, 0.08, &[523.25]), note(0.1, 0.25, 0.08, &[783.99])],
    round_s: 0.35,
    amplitude: 0.12,
};
const LEFT: Score = Score {
    notes: &[note(0.0, 0.15, 0.08, &[783.99]), note(0.1, 0.25, 0.08, &[523.25])],
    round_s: 0.35,
    amplitude: 0.12,
};
/// A broken chord.
const TEST: Score = Score {
    notes: &[
        note(0.0, 1.9, 0.6, &[261.63]),
        note(0.3, 1.6, 0.6, &[329.63]),
        note(0.6, 1.3, 0.6, &[392.0]),
        note(0.9, 1.0, 0.6, &[523.25]),
    ],
    round_s: 2.0,
    amplitude: 0.16,
};

/// Everything that telecon sounds at a time.
pub struct Sounds {
    ring: Tone,
    ring_back: Tone,
    short: VecDeque<(Sound, Tone)>,
}

impl Sounds {
    /// Silence.
    pub fn new() -> Self {
        Self { ring: Tone::new(&RING), ring_back: Tone::new(&RING_BACK), short: VecDeque::with_capacity(MAX_WAITING) }
    }

    /// Starts the ring tone from the beginning, or fades it out within the next block.
    pub fn ring(&mut self, on: bool) {
        self.ring.switch(on);
    }

    /// As [`Self::ring`], with what a caller hears.
    pub fn ring_back(&mut self, on: bool) {
        self.ring_back.switch(on);
    }

    /// Plays a short sound, after those that wait.
    pub fn play(&mut self, sound: Sound) {
        if self.short.len() == MAX_WAITING {
            return;
        }
        let mut tone = Tone::new(match sound {
            Sound::Joined => &JOINED,
            Sound::Left => &LEFT,
            Sound::Busy => &BUSY,
            Sound::Test => &TEST,
        });
        tone.switch(true);
        self.short.push_back((sound, tone));
    }

    /// The ring tone is to be heard, or to be faded out.
    pub fn rings(&self) -> bool {
        self.ring.sounds()
    }

    /// Anything else is.
    pub fn sounds(&self) -> bool {
        self.ring_back.sounds() || !self.short.is_empty()
    }

    /// The tones of a speaker test are.
    pub fn tests(&self) -> bool {
        self.short.front().is_some_and(|(sound, _)| *sound == Sound::Test)
    }

    /// Adds the next 10 ms of the ring tone to `sum`.
    pub fn add_ring_to(&mut self, sum: &mut Block) {
        self.ring.add_to(sum);
    }

    /// Adds the next 10 ms of everything else to `sum`.
    pub fn add_to(&mut self, sum: &mut Block) {
        self.ring_back.add_to(sum);
        if let Some((_, tone)) = self.short.front_mut() {
            tone.add_to(sum);
            if tone.rounds > 0 {
                self.short.pop_front();
            }
        }
    }
}

/// A score that is played.
struct Tone {
    score: &'static Score,
    at: usize,
    rounds: usize,
    on: bool,
    gain: f32,
}

impl Tone {
    fn new(score: &'static Score) -> Self {
        Self { score, at: 0, rounds: 0, on: false, gain: 0.0 }
    }

    fn switch(&mut self, on: bool) {
        if on && !self.on {
            (self.at, self.rounds) = (0, 0);
        }
        self.on = on;
    }

    fn sounds(&self) -> bool {
        self.on || self.gain > 0.0
    }

    fn add_to(&mut self, sum: &mut Block) {
        if !self.sounds() {
            return;
        }
        let target = if self.on { 1.0 } else { 0.0 };
        let step = (target - self.gain) / sum.len() as f32;
        let round = (self.score.round_s * SAMPLE_RATE_HZ as f32) as usize;
        for sample in sum.iter_mut() {
            self.gain += step;
            *sample += self.gain * self.score.at(self.at);
            self.at += 1;
            if self.at == round {
                self.at = 0;
                self.rounds += 1;
            }
        }
        self.gain = target;
    }
}

impl Score {
    fn at(&self, sample: usize) -> f32 {
        let now_s = sample as f32 / SAMPLE_RATE_HZ as f32;
        self.amplitude * self.notes.iter().map(|note| note.at(now_s - note.begin_s)).sum::<f32>()
    }
}

impl Note {
    fn at(&self, within_s: f32) -> f32 {
        if !(0.0..self.length_s).contains(&within_s) {
            return 0.0;
        }
        let tail = ((self.length_s - within_s) / ATTACK_S).min(1.0);
        let envelope = (within_s / ATTACK_S).min(1.0) * (-within_s / self.decay_s).exp() * tail;
        envelope * self.hz.iter().map(|hz| (TAU * hz * within_s).sin()).sum::<f32>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audio::BLOCK_SAMPLES;

    fn render(blocks: usize, mut add: impl FnMut(&mut Block)) -> Vec<f32> {
        let mut all = Vec::new();
        for _ in 0..blocks {
            let mut block = [0.0; BLOCK_SAMPLES];
            add(&mut block);
            all.extend(block);
        }
        all
    }

    fn peak(sound: &[f32]) -> f32 {
        sound.iter().fold(0.0_f32, |peak, sample| peak.max(sample.abs()))
    }

    /// Where a tone begins or ends at once, even in the middle of a wave, its course bends more than any note's own.
    fn clicks(sound: &[f32]) -> bool {
        sound.windows(3).any(|three| (three[0] - 2.0 * three[1] + three[2]).abs() > 0.003)
    }

    #[test]
    fn it_rings_in_rounds_with_a_pause_and_without_clicks() {
        let mut sounds = Sounds::new();
        assert!(!sounds.rings());
        sounds.ring(true);
        // To the middle of a chord.
        let mut all = render(610, |sum| sounds.add_ring_to(sum));
        sounds.ring(false);
        all.extend(render(1, |sum| sounds.add_ring_to(sum)));
        assert!(!sounds.rings(), "one block fades it out");
        assert!((0.1..0.6).contains(&peak(&all)), "{}", peak(&all));
        assert!(!clicks(&all), "it clicks");
        assert_eq!(all[2 * 48_000..3 * 48_000], [0.0; 48_000], "the pause");
        assert!(peak(&all[3 * 48_000..4 * 48_000]) > 0.1, "the second round");
    }

    #[test]
    fn a_caller_hears_the_ring_back_and_no_ring_tone() {
        let mut sounds = Sounds::new();
        sounds.ring_back(true);
        assert!(sounds.sounds() && !sounds.rings());
        // To the middle of a tone.
        let mut all = render(550, |sum| sounds.add_to(sum));
        assert!(
            peak(&all[..48_000]) > 0.05 && peak(&all[60_000..5 * 48_000]) == 0.0 && peak(&all[5 * 48_000..]) > 0.05
        );
        sounds.ring_back(false);
        all.extend(render(1, |sum| sounds.add_to(sum)));
        assert!(!sounds.sounds(), "one block fades it out");
        assert!(!clicks(&all), "it clicks");
    }

    #[test]
    fn short_sounds_come_one_after_the_other_without_clicks_and_end() {
        let mut sounds = Sounds::new();
        let all = [Sound::Joined, Sound::Left, Sound::Busy, Sound::Test];
        all.into_iter().chain(all).for_each(|sound| sounds.play(sound));
        let mut played = Vec::new();
        while sounds.sounds() {
            played.extend(render(1, |sum| sounds.add_to(sum)));
            assert!(played.len() < 10 * 48_000, "four are kept, and each ends");
        }
        assert!((0.1..0.6).contains(&peak(&played)), "{}", peak(&played));
        assert!(!clicks(&played), "it clicks");
        assert!(played.len() > 5 * 48_000, "one after the other");
    }
}
