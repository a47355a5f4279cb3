//! The speakers: names and clips that are built into the binary (made by `scripts/make-voices`).

use std::io::Cursor;

use crate::audio::SAMPLE_RATE_HZ;

/// One synthetic speaker.
#[derive(Debug, Clone)]
pub struct Voice {
    /// What the participant is called.
    pub name: &'static str,
    /// What it says: 48 kHz mono, -1..=1, one second.
    pub clip: Vec<f32>,
}

/// Most participants a demo can have: one clip each.
pub const MAX_VOICES: usize = CLIPS.len();

/// Length of each clip in samples.
pub const CLIP_SAMPLES: usize = SAMPLE_RATE_HZ as usize;

const CLIPS: [(&str, &[u8]); 8] = [
    ("Ada", include_bytes!("../../assets/voices/ada.wav")),
    ("Ben", include_bytes!("../../assets/voices/ben.wav")),
    ("Cleo", include_bytes!("../../assets/voices/cleo.wav")),
    ("Dora", include_bytes!("../../assets/voices/dora.wav")),
    ("Emil", include_bytes!("../../assets/voices/emil.wav")),
    ("Fina", include_bytes!("../../assets/voices/fina.wav")),
    ("Gaspar", include_bytes!("../../assets/voices/gaspar.wav")),
    ("Hanna", include_bytes!("../../assets/voices/hanna.wav")),
];

/// The first `count` voices ([`MAX_VOICES`] at most), always in the same order.
pub fn cast(count: usize) -> Vec<Voice> {
    CLIPS.iter().take(count).map(|(name, wav)| Voice { name, clip: decode(wav) }).collect()
}

/// Samples of a 16-bit WAV. A shipped clip that is none would be caught by this file's test.
fn decode(wav: &[u8]) -> Vec<f32> {
    let Ok(mut reader) = hound::WavReader::new(Cursor::new(wav)) else { return Vec::new() };
    reader.samples::<i16>().map_while(Result::ok).map(|sample| f32::from(sample) / 32_768.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_clip_is_one_second_of_48_khz_mono_speech_and_all_are_small() {
        let mut bytes = 0;
        for (name, wav) in CLIPS {
            let spec = hound::WavReader::new(Cursor::new(wav)).unwrap().spec();
            assert_eq!((spec.sample_rate, spec.channels, spec.bits_per_sample), (SAMPLE_RATE_HZ, 1, 16), "{name}");
            bytes += wav.len();
        }
        assert!(bytes < 1_000_000, "{bytes} bytes of clips");
        for voice in cast(MAX_VOICES) {
            assert_eq!(voice.clip.len(), CLIP_SAMPLES, "{}", voice.name);
            let power = voice.clip.iter().map(|s| s * s).sum::<f32>() / CLIP_SAMPLES as f32;
            assert!(10.0 * power.log10() > -30.0, "{} is nearly silent", voice.name);
        }
    }
}
