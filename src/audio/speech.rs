//! Notices that somebody speaks into a muted microphone. A gate on the level, no more: it hears neither words nor voices,
//! and nothing of what it hears is kept.

use super::{FRAME_SAMPLES, SAMPLE_RATE_HZ};

/// Quieter than this is no speech at a microphone, dBFS.
const QUIET_DB: f32 = -45.0;
/// Speech is at least this much louder than the room, dB.
const ABOVE_ROOM_DB: f32 = 10.0;
/// So fast follows the room's level when it grows louder, dB a frame (5 dB a second); a quieter room is believed at once.
const ROOM_RISES_DB: f32 = 0.1;
/// So much speech counts as talking…
const TALK_FRAMES: u32 = frames(300);
/// …in which pauses up to this length, such as between syllables, change nothing.
const HANGOVER_FRAMES: u32 = frames(200);
/// Between two reports of the same mute.
const REPORT_FRAMES: u32 = frames(5_000);

const fn frames(ms: u32) -> u32 {
    ms * (SAMPLE_RATE_HZ / 1000) / FRAME_SAMPLES as u32
}

/// Listens to all that is captured, so that it knows the room when the microphone is muted.
pub struct TalkGate {
    /// Level of the room without speech, dBFS.
    room_db: f32,
    /// Frames of speech of the present talk, while muted.
    talked: u32,
    /// Frames since the last one of speech.
    paused: u32,
    /// Frames until it may report again.
    rests: u32,
    was_muted: bool,
}

impl TalkGate {
    /// Knows nothing of the room.
    pub fn new() -> Self {
        Self { room_db: 0.0, talked: 0, paused: 0, rests: 0, was_muted: false }
    }

    /// Takes in a captured frame; true when it is time to say that somebody talks while muted.
    pub fn hears(&mut self, frame: &[f32; FRAME_SAMPLES], muted: bool) -> bool {
        let speaks = self.is_speech(frame);
        if !(muted && self.was_muted) {
            (self.talked, self.paused, self.rests) = (0, 0, 0);
        }
        self.was_muted = muted;
        self.rests = self.rests.saturating_sub(1);
        if speaks {
            (self.talked, self.paused) = (self.talked.saturating_add(1), 0);
        } else {
            self.paused = self.paused.saturating_add(1);
            if self.paused > HANGOVER_FRAMES {
                self.talked = 0;
            }
        }
        let tells = muted && speaks && self.talked >= TALK_FRAMES && self.rests == 0;
        if tells {
            self.rests = REPORT_FRAMES;
        }
        tells
    }

    fn is_speech(&mut self, frame: &[f32; FRAME_SAMPLES]) -> bool {
        let energy = frame.iter().map(|sample| sample * sample).sum::<f32>() / FRAME_SAMPLES as f32;
        let level_db = 10.0 * energy.max(1e-12).log10();
        self.room_db = (self.room_db + ROOM_RISES_DB).min(level_db);
        level_db > QUIET_DB && level_db > self.room_db + ABOVE_ROOM_DB
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audio::testing::speech;

    /// The frames, counted from 0, at which it told.
    fn told(gate: &mut TalkGate, sound: &[f32], muted: bool) -> Vec<usize> {
        let frames = sound.as_chunks::<FRAME_SAMPLES>().0.iter().enumerate();
        frames.filter_map(|(number, frame)| gate.hears(frame, muted).then_some(number)).collect()
    }

    #[test]
    fn speech_while_muted_is_told_soon_and_then_every_five_seconds_at_most() {
        let (mut gate, clip) = (TalkGate::new(), speech(12.0));
        assert_eq!(told(&mut gate, &clip, false), [0; 0], "the microphone is open");
        let told_at = told(&mut gate, &clip, true);
        assert!((14..50).contains(&told_at[0]), "{told_at:?}");
        assert!(told_at.len() >= 2 && told_at.windows(2).all(|pair| pair[1] - pair[0] >= 250), "{told_at:?}");
    }

    #[test]
    fn every_mute_is_told_anew() {
        let (mut gate, clip) = (TalkGate::new(), speech(2.0));
        for _ in 0..3 {
            assert_eq!(told(&mut gate, &clip, false).len(), 0);
            assert_eq!(told(&mut gate, &clip, true).len(), 1);
        }
    }

    #[test]
    fn a_cough_silence_and_a_noisy_room_are_no_talk() {
        let clip = speech(2.0);
        let mut gate = TalkGate::new();
        assert_eq!(told(&mut gate, &vec![0.0; 96_000], true), [0; 0]);
        // 200 ms of sound now and then.
        for _ in 0..5 {
            assert_eq!(told(&mut gate, &clip[..9_600], true), [0; 0]);
            assert_eq!(told(&mut gate, &vec![0.0; 24_000], true), [0; 0]);
        }
        let mut state = 7_u32;
        let noise: Vec<f32> = (0..480_000)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                0.2 * ((state >> 8) as f32 / (1 << 24) as f32 - 0.5)
            })
            .collect();
        assert_eq!(told(&mut TalkGate::new(), &noise, true), [0; 0]);
    }
}
