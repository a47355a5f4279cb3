//! The `file` backend: a WAV is spoken into the call, a WAV is written of what the speaker would play.
//!
//! Both are paced by the monotonic clock. The clip is held in memory (five minutes of it at most).

use std::{
    fs::{File, OpenOptions},
    io::{self, BufReader, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use super::{
    BLOCK_SAMPLES, Block, SAMPLE_RATE_HZ,
    backend::{BLOCK, Capture, Pace, Playback, unix_us},
    resample::resample_whole,
};

/// What is kept of a clip; of one with a rate above 48 kHz it is less, so that it never takes more than 58 MB while it is
/// read.
const MAX_CLIP_SECONDS: usize = 5 * 60;
/// Blocks between two writes: the header is right again every 200 ms.
const BLOCKS_A_WRITE: usize = 20;
const HEADER_BYTES: usize = 44;
/// Six hours; a WAV's lengths are 32 bits of bytes.
const MAX_OUTPUT_SAMPLES: u64 = 6 * 3600 * SAMPLE_RATE_HZ as u64;
const SAMPLES_A_SECOND: u64 = SAMPLE_RATE_HZ as u64;

const NO_SOUND: &str = "it holds no sound";

/// A clip, 48 kHz mono, at least one sample.
pub type Clip = Arc<[i16]>;

/// Whether a file begins like one that can be spoken. The error is a sentence for the user.
pub fn check_clip(path: &Path) -> Result<(), String> {
    open_clip(path).map(drop)
}

fn cannot(path: &Path, why: &dyn std::fmt::Display) -> String {
    format!("the file {} of [audio] input_file cannot be spoken ({why}); name a readable WAV file", path.display())
}

fn open_clip(path: &Path) -> Result<hound::WavReader<BufReader<File>>, String> {
    let reader = open_wav(path).map_err(|error| cannot(path, &error))?;
    let hound::WavSpec { channels, sample_rate, .. } = reader.spec();
    if !(8_000..=384_000).contains(&sample_rate) || !(1..=32).contains(&channels) {
        return Err(cannot(path, &format_args!("{sample_rate} Hz, {channels} channels")));
    }
    if reader.duration() == 0 {
        return Err(cannot(path, &NO_SOUND));
    }
    Ok(reader)
}

fn open_wav(path: &Path) -> Result<hound::WavReader<BufReader<File>>, hound::Error> {
    // A pipe is not waited for: without this flag nobody might ever open its other end.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file").into());
    }
    hound::WavReader::new(BufReader::new(file))
}

/// Reads a WAV of any rate and channel count. The error is a sentence for the user.
pub fn read_clip(path: &Path) -> Result<Clip, String> {
    let fail = |why: &dyn std::fmt::Display| cannot(path, why);
    let reader = open_clip(path)?;
    let spec = reader.spec();
    let rate = spec.sample_rate as usize;
    let channels = usize::from(spec.channels);
    let most = MAX_CLIP_SECONDS * rate.min(SAMPLE_RATE_HZ as usize);
    let mono = match spec.sample_format {
        hound::SampleFormat::Float => downmixed(reader.into_samples::<f32>(), channels, most),
        hound::SampleFormat::Int => {
            let scale = 1.0 / (1_i64 << (spec.bits_per_sample.clamp(1, 32) - 1)) as f32;
            let samples = reader.into_samples::<i32>();
            downmixed(samples.map(|sample| sample.map(|sample| sample as f32 * scale)), channels, most)
        }
    };
    let mono = mono.map_err(|error| fail(&error))?;
    let clip = resample_whole(mono, rate).map_err(|error| fail(&error))?;
    if clip.is_empty() {
        return Err(fail(&NO_SOUND));
    }
    Ok(clip.into_iter().map(to_pcm).collect())
}

/// The mean of all channels, of the first `most` frames.
fn downmixed(
    samples: impl Iterator<Item = hound::Result<f32>>,
    channels: usize,
    most: usize,
) -> hound::Result<Vec<f32>> {
    let mut mono = Vec::new();
    for (at, sample) in samples.take(most * channels).enumerate() {
        if at % channels == 0 {
            mono.push(0.0);
        }
        if let Some(frame) = mono.last_mut() {
            *frame += sample? / channels as f32;
        }
    }
    Ok(mono)
}

/// Speaks a clip, looped.
pub struct FileInput {
    clip: Clip,
    at: usize,
    pace: Pace,
    /// When the present pass of the clip began.
    started_unix_us: u64,
}

impl FileInput {
    /// Begins with the clip's first sample, now.
    pub fn new(clip: Clip) -> Self {
        Self { clip, at: 0, pace: Pace::new(Instant::now() + BLOCK), started_unix_us: unix_us() }
    }

    fn advance(&mut self, samples: u64) {
        let length = self.clip.len() as u64;
        let at = self.at as u64 + samples;
        let passes = at / length;
        // Longer than u64 / 1e6 samples no process lives.
        self.started_unix_us += passes * length * 1_000_000 / SAMPLES_A_SECOND;
        self.at = (at % length) as usize;
    }
}

impl Capture for FileInput {
    fn read(&mut self, block: &mut Block, now: Instant) -> bool {
        let skipped = self.pace.catch_up(now);
        self.advance(skipped * BLOCK_SAMPLES as u64);
        if !self.pace.tick(now) {
            return false;
        }
        for (sample, at) in block.iter_mut().zip(self.at..) {
            *sample = f32::from(self.clip[at % self.clip.len()]) / 32768.0;
        }
        self.advance(BLOCK_SAMPLES as u64);
        true
    }

    fn due(&self) -> Option<Instant> {
        Some(self.pace.due())
    }

    fn started_unix_us(&self) -> Option<u64> {
        Some(self.started_unix_us)
    }
}

/// Writes what would be played: 48 kHz, mono, 16 bit, valid at any moment but for the last 200 ms.
pub struct FileOutput {
    file: File,
    path: PathBuf,
    samples: u64,
    pending: Vec<u8>,
    pace: Pace,
    started_unix_us: u64,
    broken: Option<String>,
}

impl FileOutput {
    /// Opens or makes the file. One that telecon wrote before is continued, anything else is refused, so that no
    /// recording is ever lost. The error is a sentence for the user.
    pub fn open(path: &Path) -> Result<Self, String> {
        let fail = |why: &dyn std::fmt::Display| {
            format!(
                "the file {} of [audio] output_file cannot be written ({why}); name another file or remove it",
                path.display()
            )
        };
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let mut file = options.map_err(|error| fail(&error))?;
        let length = file.metadata().map_err(|error| fail(&error))?.len();
        let mut samples = 0;
        if length > 0 {
            let mut found = [0; HEADER_BYTES];
            file.read_exact(&mut found).map_err(|error| fail(&error))?;
            if !same_format(&found) {
                return Err(fail(&"it exists and is no 48 kHz mono 16-bit WAV of telecon's"));
            }
            // What the header has not yet counted was recorded too.
            samples = (length - HEADER_BYTES as u64) / 2;
        }
        let mut output = Self {
            file,
            path: path.to_owned(),
            samples,
            pending: Vec::with_capacity(BLOCKS_A_WRITE * BLOCK_SAMPLES * 2),
            pace: Pace::new(Instant::now()),
            started_unix_us: unix_us().saturating_sub(samples * 1_000_000 / SAMPLES_A_SECOND),
            broken: None,
        };
        output.write().map_err(|error| fail(&error))?;
        Ok(output)
    }

    fn write(&mut self) -> std::io::Result<()> {
        let written = self.samples - self.pending.len() as u64 / 2;
        self.file.seek(SeekFrom::Start(HEADER_BYTES as u64 + 2 * written))?;
        self.file.write_all(&self.pending)?;
        self.pending.clear();
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&header(self.samples))
    }

    fn flush(&mut self) {
        if let Err(error) = self.write() {
            self.pending.clear();
            self.broken = Some(format!(
                "writing {} failed ({error}); make room or name another [audio] output_file",
                self.path.display()
            ));
        }
    }
}

impl Playback for FileOutput {
    fn wants(&mut self, now: Instant) -> bool {
        self.pace.tick(now)
    }

    fn play(&mut self, block: &Block) {
        if self.samples >= MAX_OUTPUT_SAMPLES {
            self.broken =
                Some(format!("{} holds six hours and is full; name another [audio] output_file", self.path.display()));
            return;
        }
        self.pending.extend(block.iter().flat_map(|sample| to_pcm(*sample).to_le_bytes()));
        self.samples += BLOCK_SAMPLES as u64;
        if self.pending.len() >= BLOCKS_A_WRITE * BLOCK_SAMPLES * 2 {
            self.flush();
        }
    }

    fn due(&self) -> Option<Instant> {
        Some(self.pace.due())
    }

    fn started_unix_us(&self) -> Option<u64> {
        Some(self.started_unix_us)
    }

    fn broken(&mut self) -> Option<String> {
        self.broken.take()
    }
}

impl Drop for FileOutput {
    fn drop(&mut self) {
        self.flush();
    }
}

fn to_pcm(sample: f32) -> i16 {
    (sample * 32767.0).round().clamp(-32768.0, 32767.0) as i16
}

/// A canonical WAV header (RIFF, `fmt ` of PCM, `data`).
fn header(samples: u64) -> [u8; HEADER_BYTES] {
    let data_bytes = u32::try_from(samples * 2).unwrap_or(u32::MAX - 36);
    let mut bytes = Vec::with_capacity(HEADER_BYTES);
    bytes.extend(b"RIFF");
    bytes.extend((data_bytes + 36).to_le_bytes());
    bytes.extend(b"WAVEfmt ");
    bytes.extend(16_u32.to_le_bytes());
    bytes.extend(1_u16.to_le_bytes()); // PCM
    bytes.extend(1_u16.to_le_bytes()); // mono
    bytes.extend(SAMPLE_RATE_HZ.to_le_bytes());
    bytes.extend((SAMPLE_RATE_HZ * 2).to_le_bytes()); // bytes a second
    bytes.extend(2_u16.to_le_bytes()); // bytes a sample
    bytes.extend(16_u16.to_le_bytes()); // bits a sample
    bytes.extend(b"data");
    bytes.extend(data_bytes.to_le_bytes());
    let mut header = [0; HEADER_BYTES];
    header.copy_from_slice(&bytes);
    header
}

/// All of the header but its two lengths.
fn same_format(found: &[u8; HEADER_BYTES]) -> bool {
    let own = header(0);
    found[..4] == own[..4] && found[8..40] == own[8..40]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audio::testing::best_correlation;

    fn tone(rate_hz: u32) -> impl Iterator<Item = f32> {
        (0..rate_hz).map(move |at| 0.4 * (std::f32::consts::TAU * 440.0 * at as f32 / rate_hz as f32).sin())
    }

    #[test]
    fn clips_of_any_format_become_48_khz_mono() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("clip.wav");
        let reference: Vec<f32> = tone(48_000).collect();
        for (sample_rate, channels, bits_per_sample, sample_format) in [
            (44_100, 2, 24, hound::SampleFormat::Int),
            (16_000, 1, 8, hound::SampleFormat::Int),
            (96_000, 6, 32, hound::SampleFormat::Float),
        ] {
            let spec = hound::WavSpec { channels, sample_rate, bits_per_sample, sample_format };
            let mut writer = hound::WavWriter::create(&path, spec).unwrap();
            for sample in tone(sample_rate) {
                for _ in 0..channels {
                    match sample_format {
                        hound::SampleFormat::Float => writer.write_sample(sample).unwrap(),
                        hound::SampleFormat::Int => {
                            let scale = (1_i64 << (bits_per_sample - 1)) as f32 - 1.0;
                            writer.write_sample((sample * scale) as i32).unwrap();
                        }
                    }
                }
            }
            writer.finalize().unwrap();
            let clip: Vec<f32> = read_clip(&path).unwrap().iter().map(|sample| f32::from(*sample) / 32_768.0).collect();
            let (correlation, _) = best_correlation(&reference[..47_000], &clip, 200);
            assert!(correlation > 0.99 && clip.len() == 48_000, "{spec:?}: {correlation}, {}", clip.len());
            let loudest = clip.iter().fold(0.0_f32, |peak, sample| peak.max(sample.abs()));
            assert!((loudest - 0.4).abs() < 0.02, "{spec:?}: {loudest}");
        }
    }

    #[test]
    fn what_is_no_clip_gets_a_sentence_with_cause_and_remedy() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("clip.wav");
        for content in [None, Some(&b""[..]), Some(b"RIFF\xff\xff\xff\xffWAVEfmt "), Some(&[0; 4_000])] {
            if let Some(content) = content {
                std::fs::write(&path, content).unwrap();
            }
            let sentence = read_clip(&path).unwrap_err();
            assert!(sentence.contains("clip.wav") && sentence.contains("input_file"), "{sentence}");
        }
        for (sample_rate, samples, why) in [(1, 1, "1 Hz, 1 channels"), (48_000, 0, NO_SOUND)] {
            let (channels, bits_per_sample, sample_format) = (1, 16, hound::SampleFormat::Int);
            let spec = hound::WavSpec { channels, sample_rate, bits_per_sample, sample_format };
            let mut writer = hound::WavWriter::create(&path, spec).unwrap();
            (0..samples).for_each(|_| writer.write_sample(7_i16).unwrap());
            writer.finalize().unwrap();
            let sentence = check_clip(&path).unwrap_err();
            assert!(sentence.contains(why), "{sentence}");
            assert_eq!(read_clip(&path).unwrap_err(), sentence);
        }
        let pipe = directory.path().join("pipe.wav");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        for path in [&pipe, Path::new("/dev/zero"), directory.path()] {
            let sentence = read_clip(path).unwrap_err();
            assert!(sentence.contains("no regular file"), "{sentence}");
        }
    }

    #[test]
    fn of_a_clip_that_is_too_long_only_the_beginning_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("long.wav");
        let (bits_per_sample, sample_format) = (8, hound::SampleFormat::Int);
        for (sample_rate, kept_s) in [(8_000, MAX_CLIP_SECONDS), (96_000, MAX_CLIP_SECONDS / 2)] {
            let spec = hound::WavSpec { channels: 1, sample_rate, bits_per_sample, sample_format };
            let mut writer = hound::WavWriter::create(&path, spec).unwrap();
            (0..(kept_s + 1) * sample_rate as usize).for_each(|_| writer.write_sample(1).unwrap());
            writer.finalize().unwrap();
            assert_eq!(read_clip(&path).unwrap().len(), kept_s * SAMPLE_RATE_HZ as usize, "{sample_rate} Hz");
        }
    }

    #[test]
    fn a_recording_is_readable_at_any_moment_and_continued_after_a_crash() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out.wav");
        let samples =
            || hound::WavReader::open(&path).unwrap().into_samples::<i16>().map(Result::unwrap).collect::<Vec<_>>();
        let mut output = FileOutput::open(&path).unwrap();
        assert!(samples().is_empty());
        (0..BLOCKS_A_WRITE).for_each(|_| output.play(&[0.5; BLOCK_SAMPLES]));
        assert_eq!(samples().len(), BLOCKS_A_WRITE * BLOCK_SAMPLES);
        // A crash: nothing is flushed, and the header counts less than the file holds.
        std::mem::forget(output);
        let mut file = OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all(&header(10)).unwrap();
        let mut output = FileOutput::open(&path).unwrap();
        let written = (BLOCKS_A_WRITE * BLOCK_SAMPLES) as u64;
        assert!(output.started_unix_us().unwrap() <= unix_us() - written * 1_000_000 / SAMPLES_A_SECOND);
        output.play(&[-0.5; BLOCK_SAMPLES]);
        drop(output);
        let all = samples();
        assert_eq!(all.len(), (BLOCKS_A_WRITE + 1) * BLOCK_SAMPLES);
        assert!(all[..all.len() - BLOCK_SAMPLES].iter().all(|sample| *sample > 0));
        assert!(all[all.len() - BLOCK_SAMPLES..].iter().all(|sample| *sample < 0));
    }
}
