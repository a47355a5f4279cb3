//! What becomes of the legs' wishes.

use super::*;
use crate::audio::{
    codec::{Decoder, packet_samples},
    testing::speech,
};

const WISH: Wish = Wish { bitrate_bps: 48_000, frame_ms: 20, fec: false, expected_loss_pct: 0, dred: false };

struct Bench {
    uplink: Uplink,
    frames: broadcast::Receiver<EncodedFrame>,
    legs: Vec<WishWriter>,
}

fn bench(legs: u64, constant_bitrate: bool) -> Bench {
    let (microphone, frames) = broadcast::channel(4096);
    let mut uplink = Uplink::new(microphone, constant_bitrate);
    let ids: BTreeSet<LegId> = (0..legs).map(LegId).collect();
    let writers = ids.iter().map(|id| {
        let (writer, reader) = wish();
        uplink.add_leg(*id, reader);
        writer
    });
    let legs = writers.collect();
    let epoch = Instant::now();
    uplink.address(ids, epoch, epoch);
    uplink.begin(epoch, epoch);
    Bench { uplink, frames, legs }
}

impl Bench {
    fn say(&mut self, clip: &[f32]) -> Vec<EncodedFrame> {
        for block in clip.as_chunks().0 {
            self.uplink.add(block);
        }
        std::iter::from_fn(|| self.frames.try_recv().ok()).collect()
    }
}

#[test]
fn a_wish_survives_as_a_number() {
    let most = Wish { bitrate_bps: u32::MAX, frame_ms: 40, fec: true, expected_loss_pct: 100, dred: true };
    for wish in [WISH, Wish::default(), most] {
        assert_eq!(Wish::from_bits(wish.to_bits()), Some(wish));
    }
    assert_eq!(wish().1.get(), None);
}

/// As bad as a path can be.
const WORST: Wish = Wish { bitrate_bps: 24_000, frame_ms: 40, fec: true, expected_loss_pct: 25, dred: false };

#[test]
fn the_narrowest_path_sets_the_bitrate_and_the_worst_one_the_protection() {
    let wishes = [
        Wish { bitrate_bps: 56_000, frame_ms: 10, ..WISH },
        WISH,
        Wish { bitrate_bps: 36_000, fec: true, expected_loss_pct: 8, ..WISH },
    ];
    let all = Wish { bitrate_bps: 36_000, frame_ms: 20, fec: true, expected_loss_pct: 8, dred: false };
    assert_eq!(Wish::together(&wishes), Some(all));
    assert_eq!(Wish::together(&wishes[..1]), Some(wishes[0]));
    assert_eq!(Wish::together(&[]), None);
}

#[test]
fn a_few_legs_make_the_voice_no_worse_than_clear_for_the_others() {
    assert_eq!(Wish::together(&[WORST]), Some(WORST), "nobody else hears it");
    for (narrow, legs) in [(1, 2), (1, 3), (2, 4), (15, 31)] {
        let wishes: Vec<Wish> = (0..legs).map(|leg| if leg < narrow { WORST } else { WISH }).collect();
        assert_eq!(Wish::together(&wishes), Some(Wish::default()), "{narrow} of {legs}");
    }
}

#[test]
fn deep_redundancy_is_sent_when_all_who_hear_ask_for_it_and_never_at_constant_bitrate() {
    let deep = Wish { bitrate_bps: 40_500, dred: true, ..WISH };
    let holds = |wishes: &[Wish], constant_bitrate| {
        let mut bench = bench(wishes.len() as u64, constant_bitrate);
        bench.legs.iter().zip(wishes).for_each(|(leg, wish)| leg.set(Some(*wish)));
        let frames = bench.say(&speech(2.0));
        let frame = frames.last().unwrap();
        let found = Decoder::new().unwrap().reach(&frame.payload) > 0;
        assert_eq!(found, frame.copy_bps < frame.bitrate_bps, "copies are known to be less");
        found
    };
    assert!(holds(&[deep], false) && holds(&[deep, deep, deep], false));
    assert!(!holds(&[deep, deep, WISH], false), "one of them hears well");
    assert!(!holds(&[deep], true));
}

#[test]
fn what_most_legs_need_holds_for_all() {
    for (narrow, legs) in [(2, 2), (2, 3), (16, 31)] {
        let wishes: Vec<Wish> = (0..legs).map(|leg| if leg < narrow { WORST } else { WISH }).collect();
        assert_eq!(Wish::together(&wishes), Some(WORST), "{narrow} of {legs}");
    }
}

#[test]
fn who_is_not_spoken_to_or_was_not_heard_of_has_no_say() {
    let mut bench = bench(3, false);
    let wishes = [WISH, WORST, WORST];
    bench.legs.iter().zip(wishes).for_each(|(leg, wish)| leg.set(Some(wish)));
    let frames = bench.say(&speech(1.0));
    assert!(frames.iter().all(|frame| (frame.samples, frame.bitrate_bps) == (1920, 24_000)));
    let now = Instant::now();
    bench.uplink.address([LegId(0), LegId(2)].into(), now, now);
    bench.say(&[0.0; 1920]);
    let frames = bench.say(&speech(1.0));
    assert!(frames.iter().all(|frame| (frame.samples, frame.bitrate_bps) == (960, 32_000)));
    bench.legs[2].set(None);
    let frames = bench.say(&speech(1.0));
    assert!(frames.iter().all(|frame| (frame.samples, frame.bitrate_bps) == (960, 48_000)));
    drop(bench.legs);
    bench.uplink.forget_abandoned_legs();
    assert!(bench.uplink.wishes.is_empty());
}

#[test]
fn frames_change_their_length_and_bitrate_at_a_border_and_no_sample_is_missing() {
    let clip = speech(6.0);
    let mut bench = bench(1, false);
    let mut frames = Vec::new();
    let wishes = [(10, 56_000), (20, 64_000), (40, 24_000), (20, 48_000)];
    for (part, (frame_ms, bitrate_bps)) in clip.chunks(BLOCK_SAMPLES * 133).zip(wishes) {
        bench.legs[0].set(Some(Wish { frame_ms, bitrate_bps, ..WISH }));
        let said = bench.say(part);
        let bits: usize = said.iter().map(|frame| 8 * frame.payload.len()).sum();
        let seconds: f64 = said.iter().map(|frame| f64::from(frame.samples) / 48_000.0).sum();
        println!("{frame_ms} ms, {bitrate_bps} bit/s: {:.0} bit/s", bits as f64 / seconds);
        assert!((bits as f64 / seconds) < 1.15 * f64::from(bitrate_bps));
        frames.extend(said);
    }
    for pair in frames.windows(2) {
        assert_eq!(pair[1].timestamp, pair[0].timestamp.wrapping_add(pair[0].samples));
        assert!(pair[0].payload == PAUSE || packet_samples(&pair[0].payload) == Some(pair[0].samples as usize));
    }
    // A frame of 20 ms, and 6.5 that the encoder looks ahead (RFC 6716, section 2).
    assert!((bench.uplink.frame_ms() - 26.5).abs() < 0.01, "{}", bench.uplink.frame_ms());
    let lengths: BTreeSet<u32> = frames.iter().map(|frame| frame.samples).collect();
    assert_eq!(lengths, [480, 960, 1920].into());
}

#[test]
fn silence_is_told_as_a_pause_unless_the_bitrate_is_constant() {
    let mut clip = speech(1.0);
    clip.resize(clip.len() + 96_000, 0.0);
    let pauses = |frames: &[EncodedFrame]| frames.iter().filter(|frame| frame.payload == PAUSE).count();
    let mut sparing = bench(1, false);
    sparing.legs[0].set(Some(WISH));
    let frames = sparing.say(&clip);
    let silent = &frames[60..];
    println!("{} of {} silent frames are pauses", pauses(silent), silent.len());
    assert!(pauses(silent) * 10 >= silent.len() * 7, "{}", pauses(silent));

    let mut constant = bench(1, true);
    constant.legs[0].set(Some(WISH));
    let frames = constant.say(&clip);
    let sizes: BTreeSet<usize> = frames.iter().map(|frame| frame.payload.len()).collect();
    assert_eq!(sizes, [120].into(), "speech and silence look the same");
}

/// Energy in dB of 8.5 to 14 kHz.
fn upper_band_db(sound: &[f32]) -> f64 {
    const LENGTH: usize = 2048;
    let transform = realfft::RealFftPlanner::<f32>::new().plan_fft_forward(LENGTH);
    let mut energy = 0.0;
    for chunk in sound.as_chunks::<LENGTH>().0 {
        let mut spectrum = transform.make_output_vec();
        let mut windowed = chunk.to_vec();
        for (at, sample) in windowed.iter_mut().enumerate() {
            *sample *= (std::f32::consts::PI * at as f32 / LENGTH as f32).sin();
        }
        transform.process(&mut windowed, &mut spectrum).unwrap();
        let bin = |hz: usize| hz * LENGTH / 48_000;
        energy += spectrum[bin(8_500)..bin(14_000)].iter().map(|bin| f64::from(bin.norm_sqr())).sum::<f64>();
    }
    10.0 * energy.log10()
}

#[test]
fn speech_stays_fullband_whatever_is_wished() {
    // Voices with sharp consonants: noise that comes and goes over the speech.
    let mut state = 7_u32;
    let mut clip = speech(4.0);
    for (at, sample) in clip.iter_mut().enumerate() {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let noise = (state >> 8) as f32 / (1 << 23) as f32 - 1.0;
        *sample += 0.03 * noise * (at as f32 / 48_000.0 * 4.0 * std::f32::consts::PI).sin().max(0.0);
    }
    for (bitrate_bps, fec) in
        [(24_000, true), (28_000, false), (32_000, true), (36_000, false), (48_000, false), (64_000, false)]
    {
        let mut bench = bench(1, false);
        let expected_loss_pct = if fec { 20 } else { 0 };
        bench.legs[0].set(Some(Wish { bitrate_bps, fec, expected_loss_pct, ..WISH }));
        let mut decoder = Decoder::new().unwrap();
        let frames = bench.say(&clip);
        let heard: Vec<f32> = frames.iter().flat_map(|frame| decoder.decode(&frame.payload, 960).to_vec()).collect();
        let change_db = upper_band_db(&heard) - upper_band_db(&clip);
        println!("{bitrate_bps} bit/s, FEC {fec}: {change_db:+.1} dB between 8.5 and 14 kHz");
        // The lowest one is for narrow paths only.
        assert!(change_db.abs() <= if bitrate_bps < 28_000 { 6.0 } else { 3.0 }, "{bitrate_bps} {change_db}");
    }
}
