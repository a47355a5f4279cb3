//! Speech through the codec: whole, with what FEC brings back, and with what strangers send.

use super::*;
use crate::audio::{
    FRAME_SAMPLES,
    testing::{best_correlation, speech},
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
