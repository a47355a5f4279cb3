//! Speech-like sound without a file, and the correlator that finds it again. 48 kHz mono throughout.

/// Samples a second.
const RATE_HZ: f32 = 48_000.0;

/// A voice that says nonsense: a pulse train of gliding pitch through three moving formants, four syllables a second,
/// some of them hissed, with pauses between phrases. Always the same.
pub fn speech(seconds: f32) -> Vec<f32> {
    const VOWELS_HZ: [[f32; 3]; 5] = [
        [730.0, 1090.0, 2440.0],
        [270.0, 2290.0, 3010.0],
        [570.0, 840.0, 2410.0],
        [530.0, 1840.0, 2480.0],
        [300.0, 870.0, 2240.0],
    ];
    let mut noise = 12_345_u32;
    let mut phase = 0.0_f32;
    let mut state = [[0.0_f32; 2]; 3];
    let total = (seconds * RATE_HZ) as usize;
    let mut samples = Vec::with_capacity(total);
    for at in 0..total {
        let t = at as f32 / RATE_HZ;
        let syllable = (t * 4.0) as usize;
        let within = (t * 4.0).fract();
        let spoken = syllable % 9 != 8;
        let hissed = syllable % 4 == 3 && within < 0.35;
        let pitch_hz = 130.0 + 35.0 * (t * 2.3).sin() + 12.0 * (t * 7.1).sin() + (syllable * 37 % 23) as f32;
        phase += pitch_hz / RATE_HZ;
        let pulse = if phase >= 1.0 {
            phase -= 1.0;
            1.0
        } else {
            0.0
        };
        noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let hiss = (noise >> 8) as f32 / (1 << 23) as f32 - 1.0;
        let source = if hissed { 0.05 * hiss } else { pulse + 0.003 * hiss };
        let envelope = if spoken { (within * std::f32::consts::PI).sin().powf(0.6) } else { 0.0 };
        let mut out = 0.0;
        for (formant, memory) in state.iter_mut().enumerate() {
            let centre_hz = VOWELS_HZ[syllable * 7 % 5][formant];
            let radius = (-std::f32::consts::PI * (60.0 + 40.0 * formant as f32) / RATE_HZ).exp();
            let coefficient = 2.0 * radius * (std::f32::consts::TAU * centre_hz / RATE_HZ).cos();
            let y = source + coefficient * memory[0] - radius * radius * memory[1];
            *memory = [y, memory[0]];
            out += y * [1.0, 0.6, 0.4][formant];
        }
        samples.push(out * envelope);
    }
    let peak = samples.iter().fold(1e-9_f32, |peak, sample| peak.max(sample.abs()));
    samples.iter_mut().for_each(|sample| *sample *= 0.6 / peak);
    samples
}

/// The best normalised correlation of `clip` inside `heard` over lags `0..=max_lag` samples, and its lag.
/// The search is coarse first (every 8th sample at every 4th lag), then exact around the best.
pub fn best_correlation(clip: &[f32], heard: &[f32], max_lag: usize) -> (f32, usize) {
    let coarse = (0..=max_lag).step_by(4).map(|lag| (correlation(clip, heard, lag, 8), lag));
    let (_, around) = coarse.fold((f32::MIN, 0), |best, found| if found.0 > best.0 { found } else { best });
    (around.saturating_sub(6)..=(around + 6).min(max_lag))
        .map(|lag| (correlation(clip, heard, lag, 1), lag))
        .fold((f32::MIN, 0), |best, found| if found.0 > best.0 { found } else { best })
}

/// Normalised correlation of `clip` with what stands `lag` samples into `heard`, looking at every `step`th sample.
pub fn correlation(clip: &[f32], heard: &[f32], lag: usize, step: usize) -> f32 {
    let (mut xy, mut xx, mut yy) = (0.0_f64, 1e-12_f64, 1e-12_f64);
    let pairs = clip.iter().zip(heard.get(lag..).unwrap_or_default());
    for (x, y) in pairs.step_by(step) {
        let (x, y) = (f64::from(*x), f64::from(*y));
        xy += x * y;
        xx += x * x;
        yy += y * y;
    }
    // What is not there was not heard: the clip's energy counts whole.
    let missing = clip.get(heard.len().saturating_sub(lag)..).unwrap_or_default();
    xx += missing.iter().step_by(step).map(|x| f64::from(*x).powi(2)).sum::<f64>();
    (xy / (xx * yy).sqrt()) as f32
}
