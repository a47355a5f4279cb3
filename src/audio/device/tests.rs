//! What devices of all kinds give and get, through the callbacks and rings of an open one.

use super::*;
use crate::audio::BLOCK_SAMPLES;

const TONE_HZ: f64 = 440.0;
const LEVEL: f64 = 0.5;
/// 22 050 and 11 025 Hz are converted in steps that do not fit a block.
const RATES_HZ: [u32; 8] = [8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000, 192_000];
const CHANNELS: [usize; 3] = [1, 2, 6];
const SECONDS: usize = 3;

fn tone(at: usize, rate_hz: u32) -> f32 {
    (LEVEL * (std::f64::consts::TAU * TONE_HZ * at as f64 / f64::from(rate_hz)).sin()) as f32
}

/// The level of the tone in `sound`, and the share of the power that is anything else: a gap, a click, another tone.
fn heard(sound: &[f32], rate_hz: u32) -> (f64, f64) {
    let (mut sine, mut cosine, mut power) = (0.0, 0.0, 0.0);
    for (at, sample) in sound.iter().enumerate() {
        let (s, c) = (std::f64::consts::TAU * TONE_HZ * at as f64 / f64::from(rate_hz)).sin_cos();
        let sample = f64::from(*sample);
        (sine, cosine, power) = (sine + s * sample, cosine + c * sample, power + sample * sample);
    }
    let half = sound.len() as f64 / 2.0;
    let level = (sine / half).hypot(cosine / half);
    (level, 1.0 - half * level * level / power)
}

fn assert_is_the_tone(what: &str, sound: &[f32], rate_hz: u32) {
    let (level, rest) = heard(sound, rate_hz);
    println!("{what}: level {level:.4}, {:.1} dB of anything else", 10.0 * rest.max(1e-12).log10());
    assert!((level - LEVEL).abs() < 0.01 && rest < 1e-4, "{what}: level {level}, {rest} of anything else");
}

fn broken() -> Arc<Broken> {
    Broken::new(Waker::here(), "the device".into())
}

fn microphone(rate_hz: u32, channels: usize) -> (InputEnd, DeviceInput) {
    let (producer, ring) = rtrb::RingBuffer::new((rate_hz / RING_SHARE) as usize);
    let wake_at = (rate_hz / 100) as usize;
    let end = InputEnd { ring: producer, channels, waker: Waker::here(), wake_at };
    let resampler = Inward::new(rate_hz).unwrap();
    let (delay_us, fresh) = (Arc::default(), true);
    (end, DeviceInput { _stream: Box::new(()), ring, delay_us, resampler, fresh, rate_hz, broken: broken() })
}

#[test]
fn what_the_sound_system_tells_of_a_microphones_age_is_part_of_its_delay() {
    let (mut end, input) = microphone(48_000, 1);
    end.captured(&[0.1; 480]);
    input.delay_us.store(7_000, Relaxed);
    assert!((input.delay_ms() - 17.0).abs() < 0.01, "{}", input.delay_ms());
}

#[test]
fn a_microphone_of_any_rate_and_any_channels_is_heard_as_it_is_without_a_gap() {
    for (rate_hz, channels) in RATES_HZ.into_iter().flat_map(|rate_hz| CHANNELS.map(|channels| (rate_hz, channels))) {
        let (mut end, mut input) = microphone(rate_hz, channels);
        let period = (rate_hz / 100) as usize;
        let (mut sound, mut block) = (Vec::new(), [0.0; BLOCK_SAMPLES]);
        for from in (0..rate_hz as usize * SECONDS).step_by(period) {
            let data: Vec<f32> = (from..from + period).flat_map(|at| vec![tone(at, rate_hz); channels]).collect();
            end.captured(&data);
            while input.read(&mut block, Instant::now()) {
                sound.extend(block);
            }
        }
        let lost = (48_000 * SECONDS).abs_diff(sound.len());
        assert!(lost < 3 * BLOCK_SAMPLES, "{rate_hz} Hz: {lost} samples too many or too few");
        let what = format!("{rate_hz} Hz, {channels} channels");
        assert_is_the_tone(&what, &sound[4_800..48_000 * (SECONDS - 1) + 4_800], SAMPLE_RATE_HZ);
    }
}

#[test]
fn a_microphone_that_nobody_read_for_a_while_is_not_heard_late() {
    for rate_hz in RATES_HZ {
        let (mut end, mut input) = microphone(rate_hz, 1);
        let mut block = [0.0; BLOCK_SAMPLES];
        let period = (rate_hz / 100) as usize;
        let mut read = |input: &mut DeviceInput| while input.read(&mut block, Instant::now()) {};
        end.captured(&vec![0.1; 2 * period]);
        read(&mut input);
        end.captured(&vec![0.1; 15 * period]);
        assert!(input.delay_ms() > 140.0);
        assert!(input.read(&mut [0.0; BLOCK_SAMPLES], Instant::now()));
        assert!(input.delay_ms() <= 20.0, "{rate_hz} Hz: {} ms", input.delay_ms());
        read(&mut input);
    }
}

#[test]
fn a_speaker_of_any_rate_and_any_channels_gets_what_is_played_without_a_gap() {
    for (rate_hz, channels) in RATES_HZ.into_iter().flat_map(|rate_hz| CHANNELS.map(|channels| (rate_hz, channels))) {
        let (ring, consumer) = rtrb::RingBuffer::new((rate_hz / RING_SHARE) as usize);
        let gauge = Arc::new(Gauge::default());
        let mut end = OutputEnd { ring: consumer, channels, waker: Waker::here(), gauge: gauge.clone(), primed: false };
        let period = (rate_hz / 100) as usize;
        let now = Instant::now();
        let mut output = DeviceOutput {
            _stream: Box::new(()),
            ring,
            resampler: Outward::new(rate_hz).unwrap(),
            gauge,
            rate_hz,
            periods: [period; 2],
            window_ends: now + PERIOD_WINDOW,
            broken: broken(),
        };
        let (mut sound, mut played) = (Vec::new(), 0);
        for _ in 0..100 * SECONDS {
            while output.wants(now) {
                output.play(&std::array::from_fn(|at| tone(played + at, SAMPLE_RATE_HZ)));
                played += BLOCK_SAMPLES;
            }
            let mut data = vec![9.0_f32; period * channels];
            end.wanted(&mut data, 0);
            assert!(data.chunks(channels).all(|frame| frame.iter().all(|sample| *sample == frame[0])));
            sound.extend(data.iter().step_by(channels));
        }
        let second = rate_hz as usize;
        let what = format!("{rate_hz} Hz, {channels} channels");
        assert_is_the_tone(&what, &sound[second / 10..(SECONDS - 1) * second + second / 10], rate_hz);
    }
}

#[test]
fn a_stream_that_is_disturbed_goes_on_and_only_one_that_ends_is_told_of() {
    let broken = broken();
    assert_no_alloc::assert_no_alloc(|| broken.report(&ErrorKind::Xrun.into()));
    assert_eq!((broken.disturbed.load(Relaxed), broken.take()), (1, None));
    assert_eq!(broken.disturbed.load(Relaxed), 0, "it is said once");
    broken.report(&ErrorKind::DeviceNotAvailable.into());
    assert!(broken.take().is_some_and(|why| why.starts_with("the device stopped (")));
    assert_eq!(broken.take(), None);
}
