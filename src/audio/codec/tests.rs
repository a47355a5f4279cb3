//! Speech through the codec: whole, with what FEC and deep redundancy bring back, and with what strangers send.

use super::*;
use crate::{
    audio::{
        FRAME_SAMPLES,
        testing::{best_correlation, speech},
    },
    demo::voices::cast,
};

#[test]
fn speech_survives_the_codec() {
    let clip = speech(4.0);
    let (mut encoder, mut decoder) = (Encoder::new().unwrap(), Decoder::new().unwrap());
    let mut heard = Vec::new();
    for frame in clip.as_chunks::<FRAME_SAMPLES>().0 {
        let payload = encoder.encode(frame).unwrap();
        assert!(payload.len() <= MAX_PAYLOAD_BYTES);
        assert_eq!(packet_samples(&payload), Some(FRAME_SAMPLES));
        heard.extend_from_slice(decoder.decode(&payload, FRAME_SAMPLES));
    }
    let (correlation, _) = best_correlation(&clip, &heard, 960);
    println!("correlation through the codec: {correlation:.3}");
    assert!(correlation > 0.9, "{correlation}");
}

#[test]
fn a_lost_frame_comes_back_from_the_next_ones_fec() {
    let clip = speech(2.0);
    let (mut encoder, mut decoder) = (Encoder::new().unwrap(), Decoder::new().unwrap());
    let packets: Vec<Bytes> =
        clip.as_chunks::<FRAME_SAMPLES>().0.iter().map(|frame| encoder.encode(frame).unwrap()).collect();
    let mut heard = Vec::new();
    for (at, packet) in packets.iter().enumerate() {
        match packets.get(at + 1) {
            Some(next) if at % 5 == 3 => heard.extend_from_slice(decoder.recover(next, FRAME_SAMPLES)),
            _ => heard.extend_from_slice(decoder.decode(packet, FRAME_SAMPLES)),
        }
    }
    let (correlation, _) = best_correlation(&clip, &heard, 960);
    assert!(correlation > 0.88, "{correlation}");
}

#[test]
fn garbage_is_concealed_and_never_panics() {
    let mut decoder = Decoder::new().unwrap();
    let mut state = 1_u32;
    for length in 0..300_usize {
        let bytes: Vec<u8> = (0..length)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .collect();
        assert!(!decoder.decode(&bytes, FRAME_SAMPLES).is_empty());
        assert!(!decoder.recover(&bytes, FRAME_SAMPLES).is_empty());
        let _ = packet_samples(&bytes);
    }
}

/// It needs bits, and in-band FEC would take them.
fn deep_redundancy() -> Settings {
    Settings { bitrate_bps: 40_500, fec: false, expected_loss_percent: 0, dred: true, ..Settings::default() }
}

/// In every second, the first frame of a gap; all voices speak there.
const GAP: usize = 5;

/// `clip` through the codec with a gap of `gap` frames in every second, which is concealed, or filled from what comes next.
fn with_gaps(clip: &[f32], gap: usize, fill: bool) -> Vec<f32> {
    let (mut encoder, mut decoder) = (Encoder::new().unwrap(), Decoder::new().unwrap());
    encoder.set(deep_redundancy()).unwrap();
    let frames = clip.as_chunks::<FRAME_SAMPLES>().0;
    let packets: Vec<Bytes> = frames.iter().map(|frame| encoder.encode(frame).unwrap()).collect();
    let (mut heard, mut unknown) = (Vec::new(), 0);
    for (at, packet) in packets.iter().enumerate() {
        if !(GAP..GAP + gap).contains(&(at % 50)) {
            heard.extend_from_slice(decoder.decode(packet, FRAME_SAMPLES));
        } else if !fill {
            heard.extend_from_slice(decoder.conceal(FRAME_SAMPLES));
        } else {
            let missing = GAP + gap - at % 50;
            // It does not describe silence.
            match decoder.dred(&packets[at + missing], missing * FRAME_SAMPLES, FRAME_SAMPLES) {
                Some(sound) => heard.extend_from_slice(sound),
                None => {
                    unknown += 1;
                    heard.extend_from_slice(decoder.conceal(FRAME_SAMPLES));
                }
            }
        }
    }
    println!("{unknown} of {} frames are not known", gap * clip.len() / 48_000);
    heard
}

/// Energy of a frame in bands up to 8 kHz, in dB, with a floor.
fn spectrum(sound: &[f32]) -> [f32; 18] {
    let mut window: Vec<f32> = sound
        .iter()
        .enumerate()
        .map(|(at, sample)| sample * (at as f32 * std::f32::consts::PI / sound.len() as f32).sin())
        .collect();
    let transform = realfft::RealFftPlanner::<f32>::new().plan_fft_forward(window.len());
    let mut bins = transform.make_output_vec();
    transform.process(&mut window, &mut bins).unwrap();
    // Bins of 50 Hz; bands as wide as a sixth of their frequency, and at least 200 Hz.
    let mut low = 2;
    std::array::from_fn(|_| {
        let high = low + (low / 6).max(4);
        let energy: f32 = bins[low..high].iter().map(|bin| bin.norm_sqr()).sum();
        low = high;
        10.0 * (energy / sound.len() as f32).max(1e-6).log10() + 60.0
    })
}

/// How far the spectrum of `heard` is from that of `said` within the gaps: the mean of bands and frames, in dB.
fn distance_in_gaps(said: &[f32], heard: &[f32], gap: usize) -> f32 {
    let frames = said.as_chunks::<FRAME_SAMPLES>().0.iter().zip(heard.as_chunks::<FRAME_SAMPLES>().0).enumerate();
    let missing = frames.filter(|(at, _)| (GAP..GAP + gap).contains(&(at % 50)));
    let (mut sum, mut count) = (0.0, 0);
    for (_, (said, heard)) in missing {
        sum += spectrum(said).iter().zip(spectrum(heard)).map(|(said, heard)| (said - heard).abs()).sum::<f32>() / 18.0;
        count += 1;
    }
    sum / count as f32
}

#[test]
fn deep_redundancy_brings_back_what_concealment_cannot() {
    for voice in cast(3) {
        let clip = voice.clip.repeat(3);
        let whole = with_gaps(&clip, 0, false);
        for gap in [4, 6, 9] {
            let concealed = distance_in_gaps(&whole, &with_gaps(&clip, gap, false), gap);
            let deep = distance_in_gaps(&whole, &with_gaps(&clip, gap, true), gap);
            println!("{}, {} ms: concealed {concealed:.1} dB, deep redundancy {deep:.1} dB", voice.name, 20 * gap);
            assert!(deep < 0.5 * concealed, "{}: {deep} {concealed}", voice.name);
        }
    }
}

#[test]
fn a_packet_without_its_deep_redundancy_sounds_the_same_and_is_as_small_as_was_reckoned() {
    let clip = speech(4.0);
    let (mut encoder, mut one, mut other) = (Encoder::new().unwrap(), Decoder::new().unwrap(), Decoder::new().unwrap());
    encoder.set(deep_redundancy()).unwrap();
    let (mut bytes, mut bare_bytes) = (0, 0);
    for frame in clip.as_chunks::<FRAME_SAMPLES>().0 {
        let packet = encoder.encode(frame).unwrap();
        let bare = without_dred(&packet);
        assert_eq!(one.reach(&bare), 0);
        assert_eq!(one.decode(&packet, FRAME_SAMPLES), other.decode(&bare, FRAME_SAMPLES));
        (bytes, bare_bytes) = (bytes + packet.len(), bare_bytes + bare.len());
    }
    let reckoned = f64::from(without_dred_bps(40_500)) / 40_500.0;
    let share = bare_bytes as f64 / bytes as f64;
    println!("{share:.2} is left, {reckoned:.2} was reckoned");
    assert!((share - reckoned).abs() < 0.1);
    assert_eq!(without_dred(&Bytes::from_static(&[3, 0xff])), Bytes::from_static(&[3, 0xff]), "no Opus");
}

#[test]
fn deep_redundancy_is_used_only_as_far_as_it_reaches() {
    let clip = speech(2.0);
    let (mut encoder, mut decoder) = (Encoder::new().unwrap(), Decoder::new().unwrap());
    let plain: Vec<Bytes> =
        clip.as_chunks::<FRAME_SAMPLES>().0.iter().map(|frame| encoder.encode(frame).unwrap()).collect();
    encoder.set(deep_redundancy()).unwrap();
    let deep: Vec<Bytes> =
        clip.as_chunks::<FRAME_SAMPLES>().0.iter().map(|frame| encoder.encode(frame).unwrap()).collect();
    assert!(decoder.dred(&plain[90], FRAME_SAMPLES, FRAME_SAMPLES).is_none(), "a packet without it");
    assert_eq!(decoder.dred(&deep[90], FRAME_SAMPLES, FRAME_SAMPLES).map(|sound| sound.len()), Some(FRAME_SAMPLES));
    assert!(decoder.dred(&deep[90], 48_000, FRAME_SAMPLES).is_none(), "further back than it reaches");
    assert!(decoder.dred(&plain[90], FRAME_SAMPLES, FRAME_SAMPLES).is_none(), "what another packet knew");
    assert!(decoder.dred(&Bytes::new(), FRAME_SAMPLES, FRAME_SAMPLES).is_none());
    assert!(decoder.dred(&deep[90], 0, FRAME_SAMPLES).is_none(), "the packet's own time");
}
