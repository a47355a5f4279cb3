//! WAV files as the `file` backend reads and writes them: 48 kHz, 16 bits; mono unless something else is said.

use std::path::Path;

/// All samples.
pub fn read(path: &Path) -> Vec<f32> {
    let mut reader = hound::WavReader::open(path).unwrap();
    assert_eq!((reader.spec().sample_rate, reader.spec().channels), (48_000, 1));
    reader.samples::<i16>().map(|sample| f32::from(sample.unwrap()) / 32_768.0).collect()
}

/// A new file.
pub fn write(path: &Path, samples: &[f32]) {
    write_channels(path, 1, samples);
}

/// A new file that holds the same in every channel.
pub fn write_channels(path: &Path, channels: u16, samples: &[f32]) {
    let spec =
        hound::WavSpec { channels, sample_rate: 48_000, bits_per_sample: 16, sample_format: hound::SampleFormat::Int };
    let mut writer = hound::WavWriter::create(path, spec).unwrap();
    for sample in samples {
        for _ in 0..channels {
            writer.write_sample((sample * 32_767.0) as i16).unwrap();
        }
    }
    writer.finalize().unwrap();
}
