//! What runs on the sound system's threads: plain functions over ring buffers. No allocation, no lock, no log.
//!
//! The rings hold mono at the device's rate; here channels are averaged or copied and sample formats converted.

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed},
};

use cpal::{FromSample, Sample};

use super::backend::Waker;

/// Forty dB above full scale no microphone is: what is larger, or no number, is a driver's mistake.
const LOUDEST: f32 = 100.0;

/// What the output callback tells the audio thread.
#[derive(Default)]
pub struct Gauge {
    /// Most frames asked for at once since this was last taken.
    pub period: AtomicUsize,
    /// From the callback to the ear, in µs, as the sound system says.
    pub delay_us: AtomicU32,
}

/// The callback's end of the microphone.
pub struct InputEnd {
    /// Mono at the device's rate. When full, new samples are dropped.
    pub ring: rtrb::Producer<f32>,
    /// Interleaved channels of the device, at least 1.
    pub channels: usize,
    /// Wakes the audio thread…
    pub waker: Waker,
    /// …when so many samples wait (10 ms).
    pub wake_at: usize,
}

impl InputEnd {
    /// The device captured `data`.
    pub fn captured<T: Sample>(&mut self, data: &[T])
    where
        f32: FromSample<T>,
    {
        let scale = 1.0 / self.channels as f32;
        let frames = (data.len() / self.channels).min(self.ring.slots());
        if let Ok(chunk) = self.ring.write_chunk_uninit(frames) {
            let mono = data
                .chunks_exact(self.channels)
                .map(|frame| frame.iter().map(|s| f32::from_sample(*s)).sum::<f32>() * scale)
                // A single one would stay in filters and in the encoder for ever.
                .map(|sample| if sample.abs() <= LOUDEST { sample } else { 0.0 });
            chunk.fill_from_iter(mono);
        }
        if self.ring.buffer().capacity() - self.ring.slots() >= self.wake_at {
            self.waker.wake();
        }
    }
}

/// The callback's end of the speaker.
pub struct OutputEnd {
    /// Mono at the device's rate. When empty, silence is played.
    pub ring: rtrb::Consumer<f32>,
    /// Interleaved channels of the device, at least 1.
    pub channels: usize,
    /// Wakes the audio thread to refill the ring.
    pub waker: Waker,
    /// Shared with the audio thread.
    pub gauge: Arc<Gauge>,
    /// The first request fills the server's whole buffer and says nothing about the rest.
    pub primed: bool,
}

impl OutputEnd {
    /// The device wants `data` filled; it will be heard `delay_us` later.
    pub fn wanted<T: Sample + FromSample<f32>>(&mut self, data: &mut [T], delay_us: u32) {
        let frames = data.len() / self.channels;
        if self.primed {
            self.gauge.period.fetch_max(frames, Relaxed);
        }
        self.primed = true;
        self.gauge.delay_us.store(delay_us, Relaxed);
        let ready = frames.min(self.ring.slots());
        let mut output = data.chunks_exact_mut(self.channels);
        if let Ok(chunk) = self.ring.read_chunk(ready) {
            for (sample, frame) in chunk.into_iter().zip(&mut output) {
                frame.fill(T::from_sample(sample));
            }
        }
        output.for_each(|frame| frame.fill(T::EQUILIBRIUM));
        self.waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use assert_no_alloc::assert_no_alloc;

    use super::*;

    #[test]
    fn capturing_averages_the_channels_and_allocates_nothing() {
        let (ring, mut taken) = rtrb::RingBuffer::new(8);
        let mut end = InputEnd { ring, channels: 2, waker: Waker::here(), wake_at: 1 };
        let data: Vec<i16> = vec![16_384, 0, -32_768, -32_768, 0, 0];
        assert_no_alloc(|| end.captured(&data));
        let mut mono = [9.0; 3];
        taken.pop_entire_slice(&mut mono).unwrap();
        assert_eq!(mono, [0.25, -1.0, 0.0]);
        assert_no_alloc(|| (0..10).for_each(|_| end.captured(&data)));
        assert_eq!(taken.slots(), 8, "full: the rest is dropped");
    }

    #[test]
    fn what_is_no_sound_is_silence_and_goes_no_further() {
        let (ring, mut taken) = rtrb::RingBuffer::new(8);
        let mut end = InputEnd { ring, channels: 1, waker: Waker::here(), wake_at: 1 };
        end.captured(&[0.5, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, -1.5]);
        let mut mono = [9.0; 6];
        taken.pop_entire_slice(&mut mono).unwrap();
        assert_eq!(mono, [0.5, 0.0, 0.0, 0.0, 0.0, -1.5]);
    }

    #[test]
    fn playing_fills_every_channel_then_silence_and_allocates_nothing() {
        let (mut fill, ring) = rtrb::RingBuffer::new(8);
        let gauge = Arc::new(Gauge::default());
        let mut end = OutputEnd { ring, channels: 2, waker: Waker::here(), gauge: gauge.clone(), primed: false };
        fill.push_entire_slice(&[0.5, -0.5]).unwrap();
        let mut data = vec![9.0_f32; 8];
        assert_no_alloc(|| end.wanted(&mut data, 7_000));
        assert_eq!(data, [0.5, 0.5, -0.5, -0.5, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!((gauge.period.load(Relaxed), gauge.delay_us.load(Relaxed)), (0, 7_000));
        assert_no_alloc(|| end.wanted(&mut data[..6], 0));
        assert_eq!(gauge.period.load(Relaxed), 3);
        let mut unsigned = vec![0_u8; 2];
        assert_no_alloc(|| end.wanted(&mut unsigned, 0));
        assert_eq!(unsigned, [128, 128]);
    }
}
