//! The verdict on recordings that are mixed from the clips, with every fault that it must find.

use super::*;
use crate::audio::{FRAME_SAMPLES, codec};
use crate::demo::voices::{MAX_VOICES, Voice, cast};

const MS: usize = SAMPLE_RATE_HZ as usize / 1000;

/// A call of `speakers` as the network would carry it, without a network.
struct Call {
    schedule: Schedule,
    voices: Vec<Voice>,
    /// When each daemon's files start.
    starts: Vec<usize>,
    samples: usize,
}

impl Call {
    fn new(speakers: usize) -> Self {
        let schedule = Schedule::new(speakers);
        let starts = (0..speakers).map(|speaker| speaker * 37 % 110 * MS).collect();
        Self { schedule, voices: cast(speakers), starts, samples: schedule.needed_samples() + 500 * MS }
    }

    /// What `listener` records when `said(speaker)` is the round that a speaker's connection brings.
    fn mix(&self, listener: usize, said: impl Fn(usize) -> Option<Vec<f32>>) -> Vec<f32> {
        let mut recording = vec![0.0; self.samples];
        for speaker in (0..self.voices.len()).filter(|&speaker| speaker != listener) {
            let Some(round) = said(speaker) else { continue };
            // 60 ms on the way; the listener's file started at its own moment.
            let delay = self.starts[speaker] + 60 * MS;
            for (at, sample) in recording.iter_mut().enumerate() {
                let Some(spoken) = (at + self.starts[listener]).checked_sub(delay) else { continue };
                *sample += 0.5 * round[spoken % round.len()];
            }
        }
        recording
    }

    fn round(&self, speaker: usize) -> Vec<f32> {
        self.schedule.input(speaker, &self.voices[speaker].clip)
    }

    fn listen(&self, listener: usize, recording: Vec<f32>) -> Vec<Heard> {
        let others: Vec<_> = (0..self.voices.len())
            .filter(|&speaker| speaker != listener)
            .map(|speaker| (speaker, self.voices[speaker].clip.as_slice()))
            .collect();
        listen(self.schedule, recording, &others)
    }

    /// What all heard when `said(listener, speaker)` is what that connection brings.
    fn all(&self, said: impl Fn(usize, usize) -> Option<Vec<f32>>) -> Vec<Vec<Heard>> {
        (0..self.voices.len())
            .map(|listener| self.listen(listener, self.mix(listener, |speaker| said(listener, speaker))))
            .collect()
    }
}

#[test]
fn a_call_in_which_everybody_hears_everybody_is_ok() {
    for speakers in [2, 3, 5] {
        let call = Call::new(speakers);
        let heard = call.all(|_, speaker| Some(call.round(speaker)));
        assert!(all_heard(call.schedule, &heard), "{speakers} speakers: {heard:?}");
        for one in heard.iter().flatten() {
            assert!(one.correlation > 0.99 && one.gaps == 0 && one.repetitions >= 1, "{one:?}");
            assert!((-40.0..-20.0).contains(&one.level_db), "{one:?}");
        }
    }
}

#[test]
fn a_muted_speaker_is_not_ok() {
    let call = Call::new(3);
    let heard = call.all(|_, speaker| (speaker != 1).then(|| call.round(speaker)));
    assert!(!all_heard(call.schedule, &heard));
    let of_the_muted: Vec<_> = [heard[0][0], heard[2][1]].iter().map(Heard::is_heard).collect();
    let of_the_others: Vec<_> =
        [heard[0][1], heard[1][0], heard[1][1], heard[2][0]].iter().map(Heard::is_heard).collect();
    assert_eq!((of_the_muted, of_the_others), (vec![false; 2], vec![true; 4]));
}

#[test]
fn a_leg_that_works_one_way_only_is_not_ok() {
    let call = Call::new(3);
    let heard = call.all(|listener, speaker| ((listener, speaker) != (2, 0)).then(|| call.round(speaker)));
    assert!(!all_heard(call.schedule, &heard));
    let missing: Vec<_> = heard.iter().flatten().map(Heard::is_heard).collect();
    assert_eq!(missing, [true, true, true, true, false, true], "only the third does not hear the first");
}

#[test]
fn two_swapped_speakers_are_not_ok_though_every_clip_is_heard() {
    // Neighbours, and speakers half a round apart.
    for (speakers, first, second) in [(3, 0, 1), (4, 0, 2), (5, 1, 4)] {
        let call = Call::new(speakers);
        let listener = 3.min(speakers - 1);
        let heard = call.all(|at, speaker| {
            let voice = match speaker {
                _ if at != listener => speaker,
                _ if speaker == first => second,
                _ if speaker == second => first,
                _ => speaker,
            };
            Some(call.schedule.input(speaker, &call.voices[voice].clip))
        });
        assert!(heard.iter().flatten().all(Heard::is_heard));
        assert!(!in_turn(call.schedule, &heard), "{heard:?}");
        assert!(!all_heard(call.schedule, &heard));
    }
}

#[test]
fn speakers_who_were_given_each_others_voices_are_not_ok() {
    let call = Call::new(3);
    let voice = |speaker| [1, 0, 2][speaker];
    let heard = call.all(|_, speaker| Some(call.schedule.input(speaker, &call.voices[voice(speaker)].clip)));
    assert!(!all_heard(call.schedule, &heard));
    assert!(!heard[0][0].is_heard(), "the first hears itself instead of the second");
}

#[test]
fn files_may_start_seconds_apart() {
    let mut call = Call::new(3);
    // The second and the third speak in each other's turn, since their microphones opened that much later.
    call.starts = vec![0, SLOT_SAMPLES, 2 * SLOT_SAMPLES];
    call.samples += call.schedule.cycle_samples();
    let heard = call.all(|_, speaker| Some(call.round(speaker)));
    assert!(all_heard(call.schedule, &heard), "{heard:?}");
}

#[test]
fn a_listener_or_a_speaker_that_is_missing_in_the_results_is_not_ok() {
    let call = Call::new(3);
    let heard = call.all(|_, speaker| Some(call.round(speaker)));
    assert!(!all_heard(call.schedule, &heard[..2]));
    let mut fewer = heard.clone();
    fewer[1].pop();
    assert!(!all_heard(call.schedule, &fewer));
    assert!(!all_heard(call.schedule, &[]));
}

#[test]
fn no_voice_is_taken_for_another_one() {
    let voices = cast(MAX_VOICES);
    let schedule = Schedule::new(MAX_VOICES);
    let mut worst: f64 = 0.0;
    for (speaker, voice) in voices.iter().enumerate() {
        let said = [schedule.input(speaker, &voice.clip), schedule.input(speaker, &voice.clip)].concat();
        let others: Vec<_> = voices
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != speaker)
            .map(|(at, v)| (at, v.clip.as_slice()))
            .collect();
        worst = listen(schedule, said, &others).iter().fold(worst, |worst, heard| worst.max(heard.correlation));
    }
    println!("best correlation of a clip with another one: {worst:.2}");
    assert!(worst < 0.6, "{worst}");
}

#[test]
fn what_the_codec_and_the_jitter_buffer_do_to_a_voice_is_still_heard() {
    let call = Call::new(3);
    let mut worst: f64 = 1.0;
    for (speaker, voice) in cast(MAX_VOICES).iter().enumerate() {
        let round = coded(&Schedule::new(3).input(speaker % 3, &voice.clip), 24_000);
        // In the middle of the clip, 15 ms are cut out and later 10 ms are doubled.
        let middle = call.schedule.start_samples(speaker % 3) + CLIP_SAMPLES / 2;
        let mut bent = round[..middle].to_vec();
        bent.extend(&round[middle + 15 * MS..middle + 200 * MS]);
        bent.extend(&round[middle + 190 * MS..]);
        let heard = listen(call.schedule, [bent.clone(), bent].concat(), &[(speaker % 3, &voice.clip)]);
        println!("{}: {:.3}", voice.name, heard[0].correlation);
        worst = worst.min(heard[0].correlation);
        assert_eq!(heard[0].gaps, 0, "{}", voice.name);
    }
    assert!(worst >= 0.85, "{worst}");
}

/// Through Opus at `bitrate_bps` and back.
fn coded(sound: &[f32], bitrate_bps: i32) -> Vec<f32> {
    let (mut encoder, mut decoder) = (codec::Encoder::new().unwrap(), codec::Decoder::new().unwrap());
    encoder.set(codec::Settings { bitrate_bps, ..codec::Settings::default() }).unwrap();
    let mut out = Vec::with_capacity(sound.len());
    for frame in sound.chunks_exact(FRAME_SAMPLES) {
        let packet = encoder.encode(frame).unwrap();
        out.extend_from_slice(decoder.decode(&packet, FRAME_SAMPLES));
    }
    out
}

#[test]
fn gaps_are_silences_over_60_ms_within_speech() {
    let call = Call::new(2);
    let clip = &call.voices[0].clip;
    // The loudest 100 ms certainly hold speech.
    let loudest = (0..clip.len() - 100 * MS)
        .step_by(10 * MS)
        .max_by(|a, b| energy(&clip[*a..a + 100 * MS]).total_cmp(&energy(&clip[*b..b + 100 * MS])))
        .unwrap();
    for (gap_ms, expected) in [(0, 0), (40, 0), (100, 1)] {
        let mut broken = clip.clone();
        broken[loudest..loudest + gap_ms * MS].fill(0.0);
        let round = call.schedule.input(0, &broken);
        let heard = call.listen(1, call.mix(1, |_| Some(round.clone())));
        assert_eq!((heard[0].repetitions, heard[0].gaps), (2, 2 * expected), "{gap_ms} ms: {heard:?}");
    }
}

#[test]
fn a_voice_of_which_half_is_lost_is_not_heard() {
    let call = Call::new(2);
    let heard = call.all(|_, speaker| {
        let mut round = call.round(speaker);
        let start = call.schedule.start_samples(speaker);
        round[start..start + CLIP_SAMPLES / 2].fill(0.0);
        Some(round)
    });
    assert!(!heard.iter().flatten().any(Heard::is_heard), "{heard:?}");
}

#[test]
fn recordings_of_any_length_and_loudness_are_judged_without_panic() {
    let call = Call::new(3);
    for recording in
        [vec![], vec![0.0; 10], vec![0.0; CLIP_SAMPLES], vec![1.0; 2 * CLIP_SAMPLES], vec![f32::NAN; CLIP_SAMPLES + 5]]
    {
        let heard = call.listen(0, recording);
        assert!(!heard.iter().any(Heard::is_heard), "{heard:?}");
    }
}
