//! Sample rates at the edge: devices and files run at their own, everything inside at 48 kHz.

use rubato::{Fft, FixedSync, Resampler, audioadapter_buffers::direct::SequentialSlice};

use super::{BLOCK_SAMPLES, Block, SAMPLE_RATE_HZ};

/// A whole clip at 48 kHz.
pub fn resample_whole(mono: Vec<f32>, from_hz: usize) -> Result<Vec<f32>, String> {
    if from_hz == SAMPLE_RATE_HZ as usize || mono.is_empty() {
        return Ok(mono);
    }
    let mut fft = Fft::<f32>::new(from_hz, SAMPLE_RATE_HZ as usize, 1024, 1, FixedSync::Input)
        .map_err(|error| error.to_string())?;
    let input = SequentialSlice::new(&mono[..], 1, mono.len()).map_err(|error| error.to_string())?;
    let output = fft.process_all(&input, mono.len(), None).map_err(|error| error.to_string())?;
    let mut clip = output.take_data();
    clip.truncate(mono.len() * SAMPLE_RATE_HZ as usize / from_hz);
    Ok(clip)
}

/// From the device's rate to blocks of 48 kHz.
pub struct Inward(Option<Edge>);

/// From blocks of 48 kHz to the device's rate.
pub struct Outward(Option<Edge>);

struct Edge {
    fft: Fft<f32>,
    /// The device's side of one step.
    device: Vec<f32>,
}

impl Inward {
    /// For a microphone at `device_hz`.
    pub fn new(device_hz: u32) -> Result<Self, String> {
        Edge::new(device_hz, SAMPLE_RATE_HZ, FixedSync::Output, device_hz).map(Self)
    }

    /// Device samples that the next block takes.
    pub fn needs(&self) -> usize {
        self.0.as_ref().map_or(BLOCK_SAMPLES, |edge| edge.fft.input_frames_next())
    }

    /// Fills `block` from [`Self::needs`] device samples, which `take` copies into the slice that it is given.
    pub fn block(&mut self, block: &mut Block, take: impl FnOnce(&mut [f32])) {
        let Some(edge) = &mut self.0 else { return take(block) };
        let needs = edge.fft.input_frames_next();
        take(&mut edge.device[..needs]);
        let done = SequentialSlice::new(&edge.device[..needs], 1, needs).ok().and_then(|input| {
            let mut output = SequentialSlice::new_mut(&mut block[..], 1, BLOCK_SAMPLES).ok()?;
            edge.fft.process_into_buffer(&input, &mut output, None).ok()
        });
        if done.is_none() {
            block.fill(0.0);
        }
    }
}

impl Outward {
    /// For a speaker at `device_hz`.
    pub fn new(device_hz: u32) -> Result<Self, String> {
        Edge::new(SAMPLE_RATE_HZ, device_hz, FixedSync::Input, device_hz).map(Self)
    }

    /// The block at the device's rate.
    pub fn device_samples<'a>(&'a mut self, block: &'a Block) -> &'a [f32] {
        let Some(edge) = &mut self.0 else { return block };
        let room = edge.device.len();
        let done = SequentialSlice::new(&block[..], 1, BLOCK_SAMPLES).ok().and_then(|input| {
            let mut output = SequentialSlice::new_mut(&mut edge.device[..], 1, room).ok()?;
            edge.fft.process_into_buffer(&input, &mut output, None).ok()
        });
        &edge.device[..done.map_or(0, |(_, samples)| samples)]
    }
}

impl Edge {
    fn new(from_hz: u32, to_hz: u32, fixed: FixedSync, device_hz: u32) -> Result<Option<Self>, String> {
        if device_hz == SAMPLE_RATE_HZ {
            return Ok(None);
        }
        let fft = Fft::new(from_hz as usize, to_hz as usize, BLOCK_SAMPLES, 1, fixed)
            .map_err(|error| format!("the device's rate of {device_hz} Hz cannot be converted ({error})"))?;
        let room = fft.input_frames_max().max(fft.output_frames_max());
        Ok(Some(Self { fft, device: vec![0.0; room] }))
    }
}

#[cfg(test)]
mod tests {
    use assert_no_alloc::assert_no_alloc;

    use super::*;
    use crate::audio::testing::best_correlation;

    /// From 200 Hz to 3 kHz within two seconds: nothing in it is like anything else, so that no piece can be missing unnoticed.
    fn glide(rate_hz: u32) -> Vec<f32> {
        let at = |sample: u32| sample as f32 / rate_hz as f32;
        (0..2 * rate_hz)
            .map(|sample| 0.5 * (std::f32::consts::TAU * at(sample) * (200.0 + 700.0 * at(sample))).sin())
            .collect()
    }

    fn assert_same(said: &[f32], heard: &[f32], rate_hz: u32) {
        let (correlation, lag) = best_correlation(said, heard, heard.len() - said.len());
        assert!(correlation > 0.99, "{rate_hz} Hz: {correlation}");
        let power = |sound: &[f32]| sound.iter().map(|sample| sample * sample).sum::<f32>();
        let gain = (power(&heard[lag..lag + said.len()]) / power(said)).sqrt();
        assert!((gain - 1.0).abs() < 0.02, "{rate_hz} Hz: {gain} times as loud");
    }

    #[test]
    fn a_clip_of_any_rate_keeps_its_length_and_its_sound() {
        for rate_hz in [8_000, 16_000, 22_050, 44_100, 48_000, 96_000] {
            let clip = resample_whole(glide(rate_hz), rate_hz as usize).unwrap();
            assert_eq!(clip.len(), 96_000, "{rate_hz} Hz");
            assert_same(&glide(48_000)[..95_000], &clip, rate_hz);
        }
    }

    #[test]
    fn devices_of_other_rates_lose_and_add_nothing_and_allocate_nothing() {
        for rate_hz in [8_000, 16_000, 44_100, 96_000] {
            let (mut inward, mut outward) = (Inward::new(rate_hz).unwrap(), Outward::new(rate_hz).unwrap());
            let source = glide(48_000);
            let (mut device, mut back) = (Vec::with_capacity(300_000), Vec::with_capacity(300_000));
            assert_no_alloc(|| {
                for block in source.as_chunks::<BLOCK_SAMPLES>().0 {
                    device.extend_from_slice(outward.device_samples(block));
                }
                let mut rest = &device[..];
                while rest.len() >= inward.needs() {
                    let mut block = [0.0; BLOCK_SAMPLES];
                    inward.block(&mut block, |room| {
                        let (taken, left) = rest.split_at(room.len());
                        room.copy_from_slice(taken);
                        rest = left;
                    });
                    back.extend_from_slice(&block);
                }
            });
            assert!(device.len().abs_diff(2 * rate_hz as usize) < rate_hz as usize / 50, "{rate_hz}: {}", device.len());
            assert_same(&source[..92_000], &back, rate_hz);
        }
    }
}
