//! Normalised cross-correlation of a short sound with a long one, by FFT in blocks (overlap-save).
//!
//! Pure arithmetic: it knows nothing of speakers and calls.

use std::ops::Range;

use realfft::{RealFftPlanner, num_complex::Complex32};

/// A stretch of sound quieter than this (mean square, -80 dBFS) resembles nothing.
const SILENCE_POWER: f64 = 1e-8;

/// A long sound that is searched for several short ones.
pub struct Haystack {
    samples: Vec<f32>,
    /// Sum of squares before each sample, for the energy of any stretch.
    energy_before: Vec<f64>,
    /// Keeps its plans; there are few lengths of needles.
    planner: RealFftPlanner<f32>,
}

impl Haystack {
    /// Prepares the search.
    pub fn new(samples: Vec<f32>) -> Self {
        let mut energy_before = Vec::with_capacity(samples.len() + 1);
        let mut sum = 0.0;
        energy_before.push(sum);
        for &sample in &samples {
            sum += f64::from(sample) * f64::from(sample);
            energy_before.push(sum);
        }
        Self { samples, energy_before, planner: RealFftPlanner::new() }
    }

    /// The sound.
    pub fn samples(&self) -> &[f32] {
        &self.samples
    }

    /// Sum of squares of `len` samples from `start`; what lies outside the sound counts as silence.
    pub fn energy(&self, start: usize, len: usize) -> f64 {
        let end = (start + len).min(self.samples.len());
        let start = start.min(end);
        self.energy_before[end] - self.energy_before[start]
    }

    /// How many lags there are at which a needle of that length lies wholly inside.
    pub fn lags(&self, needle_samples: usize) -> usize {
        (self.samples.len() + 1).saturating_sub(needle_samples)
    }

    /// Similarity (-1..=1) of `needle` and the sound at each of `lags` (cut to those where the needle lies wholly inside).
    /// 1 is the same shape, whatever its loudness; silence has similarity 0 with everything.
    pub fn search(&mut self, needle: &[f32], lags: Range<usize>) -> Vec<f32> {
        let end = lags.end.min(self.lags(needle.len()));
        let lags = lags.start.min(end)..end;
        let needle_energy = energy(needle);
        if needle_energy <= 0.0 {
            return vec![0.0; lags.len()];
        }
        let block = (2 * needle.len()).next_power_of_two();
        let step = block - needle.len() + 1;
        let needle_spectrum = self.spectrum(needle, block);
        let mut similarity = Vec::with_capacity(lags.len());
        for start in lags.clone().step_by(step) {
            let products = self.products(start, block, &needle_spectrum);
            for (lag, product) in (start..lags.end).zip(products.into_iter().take(step)) {
                let stretch_energy = self.energy(lag, needle.len());
                let heard = stretch_energy > SILENCE_POWER * needle.len() as f64;
                let scale = (needle_energy * stretch_energy).sqrt();
                similarity.push(if heard { (f64::from(product) / scale) as f32 } else { 0.0 });
            }
        }
        similarity
    }

    /// Lag and similarity of the best of `lags`; `None` when the needle fits at none of them.
    pub fn best(&mut self, needle: &[f32], lags: Range<usize>) -> Option<(usize, f32)> {
        let start = lags.start;
        let similarity = self.search(needle, lags);
        similarity.into_iter().enumerate().max_by(|a, b| a.1.total_cmp(&b.1)).map(|(at, best)| (start + at, best))
    }

    /// Inner products of the needle with the sound at the lags from `start` on; the first `block - needle + 1` are good.
    fn products(&mut self, start: usize, block: usize, needle_spectrum: &[Complex32]) -> Vec<f32> {
        let end = (start + block).min(self.samples.len());
        let stretch = self.samples[start..end].to_vec();
        let mut spectrum = self.spectrum(&stretch, block);
        for (bin, needle) in spectrum.iter_mut().zip(needle_spectrum) {
            *bin *= needle.conj() / block as f32;
        }
        // The transform of real sounds is real at both ends; rounding may have left a trace that the inverse refuses.
        for edge in [0, block / 2] {
            spectrum[edge].im = 0.0;
        }
        let mut products = vec![0.0; block];
        let done = self.planner.plan_fft_inverse(block).process(&mut spectrum, &mut products);
        debug_assert!(done.is_ok(), "the lengths are those of the plan");
        products
    }

    /// Spectrum of a sound, padded with silence to `block` samples.
    fn spectrum(&mut self, sound: &[f32], block: usize) -> Vec<Complex32> {
        let mut padded = vec![0.0; block];
        padded[..sound.len()].copy_from_slice(sound);
        let mut spectrum = vec![Complex32::default(); block / 2 + 1];
        let done = self.planner.plan_fft_forward(block).process(&mut padded, &mut spectrum);
        debug_assert!(done.is_ok(), "the lengths are those of the plan");
        spectrum
    }
}

/// Sum of squares.
pub fn energy(sound: &[f32]) -> f64 {
    sound.iter().map(|&sample| f64::from(sample) * f64::from(sample)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A noise that is the same in every run (xorshift).
    fn noise(len: usize, mut state: u32) -> Vec<f32> {
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as f32 / u32::MAX as f32 - 0.5
        };
        (0..len).map(|_| next()).collect()
    }

    #[test]
    fn a_sound_is_found_where_it_is_in_any_block_and_at_any_loudness() {
        let needle = noise(1000, 1);
        for at in [0, 1, 1047, 1048, 1049, 5000, 9000] {
            let mut sound = vec![0.0; 10_000];
            for (target, &sample) in sound[at..].iter_mut().zip(&needle) {
                *target = sample / 100.0;
            }
            let mut haystack = Haystack::new(sound);
            let (lag, best) = haystack.best(&needle, 0..usize::MAX).unwrap();
            assert_eq!(lag, at);
            assert!((best - 1.0).abs() < 1e-3, "{best}");
        }
    }

    #[test]
    fn the_fft_agrees_with_the_definition() {
        let (needle, sound) = (noise(300, 2), noise(2000, 3));
        let found = Haystack::new(sound.clone()).search(&needle, 40..1500);
        assert_eq!(found.len(), 1460);
        for (lag, similarity) in (40..1500).zip(found) {
            let stretch = &sound[lag..lag + needle.len()];
            let product: f64 = needle.iter().zip(stretch).map(|(a, b)| f64::from(a * b)).sum();
            let expected = product / (energy(&needle) * energy(stretch)).sqrt();
            assert!((f64::from(similarity) - expected).abs() < 1e-3, "lag {lag}: {similarity} and not {expected}");
        }
    }

    #[test]
    fn silence_and_sounds_that_are_too_short_resemble_nothing() {
        let needle = noise(100, 4);
        assert_eq!(Haystack::new(vec![0.0; 500]).best(&needle, 0..usize::MAX).unwrap().1, 0.0);
        assert_eq!(Haystack::new(noise(500, 5)).best(&[0.0; 100], 0..usize::MAX).unwrap().1, 0.0);
        assert_eq!(Haystack::new(noise(99, 6)).best(&needle, 0..usize::MAX), None);
        assert_eq!(Haystack::new(Vec::new()).best(&needle, 0..usize::MAX), None);
        assert_eq!(Haystack::new(noise(500, 7)).best(&needle, 450..460), None);
    }
}
