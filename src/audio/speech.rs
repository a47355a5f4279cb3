//! Notices that somebody speaks: the user, at the microphone, and each participant, in what was decoded of it.
//!
//! A small neural network (`earshot`) tells voices from noise; it knows no words, and nothing of what it hears is kept.
//! Nobody's word is taken for it: what a participant says of itself plays no part.

use earshot::Detector;

use super::{BLOCK_SAMPLES, Block, SAMPLE_RATE_HZ, mixer::mean_square};

/// The network takes 16 ms at 16 kHz.
const FRAME_SAMPLES: usize = 256;
const DECIMATION: usize = (SAMPLE_RATE_HZ / 16_000) as usize;
/// A frame with at least this probability holds a voice.
const VOICED: f32 = 0.5;
/// Quieter blocks hold none, and the network is not asked. -65 dBFS, as a mean square.
const QUIET: f32 = 3.2e-7;
/// So many voiced frames in a row begin to be speech: a click has one or two.
const ONSET_FRAMES: u32 = 3;
/// Pauses up to this length, such as between words, belong to it.
const HANGOVER_BLOCKS: u32 = blocks(300);
/// So much speech while muted counts as talking: 300 ms and the pause after it.
const TALK_BLOCKS: u32 = blocks(300) + HANGOVER_BLOCKS;
/// Between two reports of the same mute.
const REPORT_BLOCKS: u32 = blocks(5_000);

const fn blocks(ms: u32) -> u32 {
    ms * (SAMPLE_RATE_HZ / 1000) / BLOCK_SAMPLES as u32
}

/// Tells whether one voice speaks.
pub struct SpeechDetector {
    network: Box<Detector>,
    frame: [f32; FRAME_SAMPLES],
    filled: usize,
    /// Voiced frames in a row.
    voiced: u32,
    /// Blocks since the last voiced frame that counted.
    paused: u32,
    speaks: bool,
}

impl Default for SpeechDetector {
    fn default() -> Self {
        Self {
            network: Detector::default_boxed(),
            frame: [0.0; FRAME_SAMPLES],
            filled: 0,
            voiced: 0,
            paused: 0,
            speaks: false,
        }
    }
}

impl SpeechDetector {
    /// Takes 10 ms in, `None` for silence; true while somebody speaks, and for 300 ms after it.
    pub fn hears(&mut self, block: Option<&Block>) -> bool {
        self.paused = self.paused.saturating_add(1);
        match block.filter(|block| is_loud(block)) {
            Some(block) => self.listen(block),
            None => self.voiced = 0,
        }
        self.speaks &= self.paused <= HANGOVER_BLOCKS;
        self.speaks
    }

    /// What it said last.
    pub fn speaks(&self) -> bool {
        self.speaks
    }

    fn listen(&mut self, block: &Block) {
        for samples in block.as_chunks::<DECIMATION>().0 {
            // The mean of three is a low-pass that is good enough for a judgement. The network takes -1..=1 only.
            let mean = samples.iter().sum::<f32>() / DECIMATION as f32;
            self.frame[self.filled] = mean.clamp(-1.0, 1.0);
            self.filled += 1;
            if self.filled < FRAME_SAMPLES {
                continue;
            }
            self.filled = 0;
            let voiced = self.network.predict_f32(&self.frame) >= VOICED;
            self.voiced = if voiced { self.voiced.saturating_add(1) } else { 0 };
            if self.voiced >= ONSET_FRAMES || (self.speaks && voiced) {
                (self.speaks, self.paused) = (true, 0);
            }
        }
    }
}

fn is_loud(block: &Block) -> bool {
    mean_square(block) > QUIET
}

/// The user's own voice, and whether the user should be told that nobody hears it.
#[derive(Default)]
pub struct OwnVoice {
    detector: SpeechDetector,
    /// Blocks of speech of the present talk, while muted.
    talked: u32,
    /// Blocks until it may tell again.
    rests: u32,
    muted: bool,
}

impl OwnVoice {
    /// Takes in what was captured; true when it is time to say that somebody talks while muted.
    pub fn hears(&mut self, block: Option<&Block>, muted: bool) -> bool {
        let speaks = self.detector.hears(block);
        if !(muted && self.muted) {
            (self.talked, self.rests) = (0, 0);
        }
        self.muted = muted;
        self.rests = self.rests.saturating_sub(1);
        self.talked = if speaks { self.talked.saturating_add(1) } else { 0 };
        let tells = muted && self.talked >= TALK_BLOCKS && self.rests == 0;
        if tells {
            self.rests = REPORT_BLOCKS;
        }
        tells
    }

    /// The user speaks to the others.
    pub fn speaks(&self) -> bool {
        self.detector.speaks() && !self.muted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audio::testing::speech;

    fn blocks_of(sound: &[f32]) -> impl Iterator<Item = &Block> {
        sound.as_chunks::<BLOCK_SAMPLES>().0.iter()
    }

    /// The blocks, counted from 0, at which it told.
    fn told(voice: &mut OwnVoice, sound: &[f32], muted: bool) -> Vec<usize> {
        let blocks = blocks_of(sound).enumerate();
        blocks.filter_map(|(number, block)| voice.hears(Some(block), muted).then_some(number)).collect()
    }

    fn noise(amplitude: f32, seconds: usize) -> Vec<f32> {
        let mut state = 7_u32;
        let sample = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            amplitude * ((state >> 8) as f32 / (1 << 23) as f32 - 1.0)
        };
        (0..seconds * 48_000).map(sample).collect()
    }

    /// The share of blocks in which somebody speaks.
    fn share(sound: &[f32]) -> f32 {
        let mut detector = SpeechDetector::default();
        let speaks = blocks_of(sound).filter(|block| detector.hears(Some(block))).count();
        speaks as f32 / (sound.len() / BLOCK_SAMPLES) as f32
    }

    #[test]
    fn a_voice_is_heard_within_150_ms_also_in_noise_and_a_quiet_one_within_500() {
        let clip = speech(4.0);
        let mixed = |gain: f32, noise_gain: f32| {
            clip.iter().zip(noise(noise_gain, 4)).map(|(voice, noise)| gain * voice + noise).collect::<Vec<_>>()
        };
        for (name, within, sound) in
            [("as it is", 15, mixed(1.0, 0.0)), ("noisy", 15, mixed(1.0, 0.02)), ("quiet", 50, mixed(0.2, 0.0))]
        {
            let mut detector = SpeechDetector::default();
            let first = blocks_of(&sound).position(|block| detector.hears(Some(block))).unwrap();
            let share = share(&sound);
            println!("{name}: after {first} blocks, {share:.2} of all");
            assert!(first <= within && share > 0.8, "{name}: {first}, {share}");
        }
    }

    #[test]
    fn it_ends_300_ms_after_the_last_word() {
        let mut detector = SpeechDetector::default();
        assert!(blocks_of(&speech(2.0)).filter(|block| detector.hears(Some(block))).count() > 0);
        let lasts = (0..100).take_while(|_| detector.hears(None)).count() as u32;
        assert!((1..=HANGOVER_BLOCKS).contains(&lasts), "{lasts}");
    }

    #[test]
    fn noise_clicks_and_silence_are_no_speech() {
        let clicks: Vec<f32> =
            noise(0.5, 10).into_iter().enumerate().map(|(at, s)| if at % 24_000 < 200 { s } else { 0.0 }).collect();
        for (name, sound) in [("silence", vec![0.0; 96_000]), ("noise", noise(0.1, 10)), ("clicks", clicks)] {
            let share = share(&sound);
            println!("{name}: {share:.3}");
            assert!(share < 0.1, "{name}: {share}");
        }
    }

    #[test]
    fn sound_beyond_the_scale_is_judged_too() {
        let loud: Vec<f32> = speech(1.0).iter().map(|sample| 8.0 * sample).collect();
        assert!(share(&loud) > 0.5);
    }

    #[test]
    fn speech_while_muted_is_told_soon_and_then_every_five_seconds_at_most() {
        let (mut voice, clip) = (OwnVoice::default(), speech(12.0));
        assert_eq!(told(&mut voice, &clip, false), [0; 0], "the microphone is open");
        assert!(voice.speaks());
        let told_at = told(&mut voice, &clip, true);
        assert!(!voice.speaks(), "not to the others");
        assert!((30..100).contains(&told_at[0]), "{told_at:?}");
        assert!(told_at.len() >= 2 && told_at.windows(2).all(|pair| pair[1] - pair[0] >= 500), "{told_at:?}");
    }

    #[test]
    fn every_mute_is_told_anew() {
        let (mut voice, clip) = (OwnVoice::default(), speech(2.0));
        for _ in 0..3 {
            assert_eq!(told(&mut voice, &clip, false).len(), 0);
            assert_eq!(told(&mut voice, &clip, true).len(), 1);
        }
    }

    #[test]
    fn a_cough_while_muted_is_no_talk() {
        let (mut voice, clip) = (OwnVoice::default(), speech(2.0));
        // 200 ms of sound now and then.
        for _ in 0..5 {
            assert_eq!(told(&mut voice, &clip[..9_600], true), [0; 0]);
            assert_eq!(told(&mut voice, &vec![0.0; 48_000], true), [0; 0]);
        }
    }
}
