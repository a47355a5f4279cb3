//! The demo's result: the score of every recording, with what the daemons told beside it, in the form of `--json`.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Serialize;

use super::{
    DemoError,
    cast::Seen,
    observe::Clock,
    score::{self, Heard, Schedule},
    voices::Voice,
};
use crate::audio::SAMPLE_RATE_HZ;

/// The end of each recording that is not looked at: there, the others are leaving already (300 ms).
pub const TAIL_SAMPLES: usize = SAMPLE_RATE_HZ as usize * 3 / 10;

/// The whole result.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Everybody, as a listener.
    pub participants: Vec<Participant>,
    /// From the offer until everybody had audio of everybody, in ms.
    pub setup_ms: u64,
    /// From accept to the first audio, in ms: median over all connections; `None` when no daemon told.
    pub connected_ms: Option<u64>,
    /// All heard the voices in one order; if not, speakers are swapped. Only of weight when everybody was heard.
    pub in_turn: bool,
    /// Everybody really heard everybody, in one order.
    pub ok: bool,
}

/// A listener.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Participant {
    /// DID.
    pub did: String,
    /// The voice's name.
    pub name: &'static str,
    /// What it heard of each other.
    pub heard: Vec<HeardOf>,
    /// What it heard, as a WAV.
    pub wav: PathBuf,
}

/// What a listener heard of one speaker. Level, correlation and gaps come from the WAV alone.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HeardOf {
    /// The speaker.
    pub did: String,
    /// The speaker's name.
    pub name: &'static str,
    /// RMS of the clip as heard, dB relative to full scale.
    pub level_db: f64,
    /// Of the best repetition, 0..=1.
    pub correlation: f64,
    /// Silences over 60 ms within speech, over all repetitions.
    pub gaps: u32,
    /// How often the whole clip was there to be heard.
    pub repetitions: u32,
    /// From the speaker's microphone to the listener's ear, by the machine's clock; `None` when not heard or not told.
    pub latency_ms: Option<f64>,
    /// Packets lost or late, as the listener's daemon counted them.
    pub loss_pct: Option<f64>,
}

/// Puts the recordings into `directory` and judges them.
///
/// # Errors
/// [`DemoError::File`] when a recording cannot be read, or not be copied there.
pub fn report(voices: &[Voice], seen: &[Seen], setup: Duration, directory: &Path) -> Result<Report, DemoError> {
    let schedule = Schedule::new(voices.len());
    fs::create_dir_all(directory).map_err(DemoError::file(directory))?;
    let directory = directory.canonicalize().map_err(DemoError::file(directory))?;
    let mut participants = Vec::new();
    let mut scores = Vec::new();
    for (listener, member) in seen.iter().enumerate() {
        let recording = read_wav(&member.recording).map_err(DemoError::file(&member.recording))?;
        let wav = directory.join(format!("heard-by-{}.wav", member.name.to_lowercase()));
        fs::copy(&member.recording, &wav).map_err(DemoError::file(&wav))?;

        let others: Vec<_> = (0..voices.len()).filter(|&speaker| speaker != listener).collect();
        let clips: Vec<_> = others.iter().map(|&speaker| (speaker, voices[speaker].clip.as_slice())).collect();
        let heard = score::listen(schedule, without_tail(recording), &clips);
        let heard_of = others.iter().zip(&heard).map(|(&speaker, heard)| of(schedule, seen, listener, speaker, heard));
        participants.push(Participant { did: member.did.clone(), name: member.name, heard: heard_of.collect(), wav });
        scores.push(heard);
    }
    Ok(Report {
        participants,
        setup_ms: u64::try_from(setup.as_millis()).unwrap_or(u64::MAX),
        connected_ms: median(seen.iter().flat_map(|member| member.legs.iter().filter_map(|leg| leg.first_audio_ms))),
        in_turn: score::in_turn(schedule, &scores),
        ok: score::all_heard(schedule, &scores),
    })
}

fn of(schedule: Schedule, seen: &[Seen], listener: usize, speaker: usize, heard: &Heard) -> HeardOf {
    let said_by = &seen[speaker];
    let leg = seen[listener].legs.iter().find(|leg| leg.did == said_by.did);
    let latency = latency_ms(schedule, said_by.clock, seen[listener].clock, heard);
    HeardOf {
        did: said_by.did.clone(),
        name: said_by.name,
        level_db: rounded(heard.level_db, 10.0),
        correlation: rounded(heard.correlation, 1000.0),
        gaps: heard.gaps,
        repetitions: heard.repetitions,
        latency_ms: latency.filter(|_| heard.is_heard()).map(|ms| rounded(ms, 10.0)),
        loss_pct: leg.and_then(|leg| leg.loss_pct).map(|pct| rounded(pct, 100.0)),
    }
}

/// How much later than spoken a clip was heard. Nobody numbers the rounds, so it is known modulo the cycle (seconds).
fn latency_ms(schedule: Schedule, speaker: Clock, listener: Clock, heard: &Heard) -> Option<f64> {
    let apart_us = listener.output_us?.cast_signed() - speaker.input_us?.cast_signed();
    let per_ms = f64::from(SAMPLE_RATE_HZ) / 1000.0;
    let cycle_ms = schedule.cycle_samples() as f64 / per_ms;
    let latency_ms = (apart_us as f64 / 1000.0 + heard.turn_samples as f64 / per_ms).rem_euclid(cycle_ms);
    Some(if latency_ms > cycle_ms / 2.0 { latency_ms - cycle_ms } else { latency_ms })
}

fn without_tail(mut recording: Vec<f32>) -> Vec<f32> {
    recording.truncate(recording.len().saturating_sub(TAIL_SAMPLES));
    recording
}

/// Samples of a 48 kHz mono WAV, 16 bit or float.
fn read_wav(file: &Path) -> io::Result<Vec<f32>> {
    let mut reader = hound::WavReader::open(file).map_err(wav_error)?;
    let spec = reader.spec();
    if (spec.sample_rate, spec.channels) != (SAMPLE_RATE_HZ, 1) {
        let found = format!("expected 48000 Hz mono, found {} Hz with {} channels", spec.sample_rate, spec.channels);
        return Err(io::Error::new(io::ErrorKind::InvalidData, found));
    }
    match spec.sample_format {
        hound::SampleFormat::Float => reader.samples::<f32>().map(|sample| sample.map_err(wav_error)).collect(),
        hound::SampleFormat::Int => {
            let full_scale = (1_i64 << (spec.bits_per_sample - 1)) as f32;
            reader.samples::<i32>().map(|sample| Ok(sample.map_err(wav_error)? as f32 / full_scale)).collect()
        }
    }
}

fn wav_error(error: hound::Error) -> io::Error {
    match error {
        hound::Error::IoError(error) => error,
        other => io::Error::new(io::ErrorKind::InvalidData, other),
    }
}

fn median(values: impl Iterator<Item = u64>) -> Option<u64> {
    let mut values: Vec<_> = values.collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}

fn rounded(value: f64, steps: f64) -> f64 {
    (value * steps).round() / steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        audio::testing::wav,
        demo::{observe::LegSeen, score::SLOT_SAMPLES, voices},
    };

    /// What `speakers` daemons would leave behind in `home` when everybody hears everybody 60 ms later.
    fn call_of(home: &Path, speakers: usize) -> (Vec<Voice>, Vec<Seen>) {
        let voices = voices::cast(speakers);
        let schedule = Schedule::new(speakers);
        let seen = (0..speakers).map(|listener| {
            let recording = home.join(format!("{listener}.wav"));
            let others = (0..speakers).filter(|&speaker| speaker != listener);
            let rounds: Vec<_> = others.map(|speaker| schedule.input(speaker, &voices[speaker].clip)).collect();
            let heard = (0..schedule.needed_samples() + TAIL_SAMPLES).map(|at| {
                let spoken = at + schedule.cycle_samples() - SAMPLE_RATE_HZ as usize * 60 / 1000;
                rounds.iter().map(|round| round[spoken % round.len()]).sum()
            });
            wav::write(&recording, &heard.collect::<Vec<f32>>());
            let legs = vec![LegSeen {
                did: "did:0".into(),
                loss_pct: Some(1.234),
                first_audio_ms: Some(80 + listener as u64),
            }];
            let clock = Clock { input_us: Some(1_000_000), output_us: Some(1_000_000) };
            Seen { name: voices[listener].name, did: format!("did:{listener}"), recording, legs, clock }
        });
        let seen = seen.collect();
        (voices, seen)
    }

    #[test]
    fn the_report_has_every_promised_field_and_the_recordings_are_where_it_says() {
        let home = tempfile::tempdir().unwrap();
        let (voices, seen) = call_of(home.path(), 3);
        let directory = home.path().join("new/recordings");
        let report = report(&voices, &seen, Duration::from_micros(212_900), &directory).unwrap();
        assert!(report.ok, "{report:?}");
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!((&json["ok"], &json["setup_ms"], &json["connected_ms"]), (&true.into(), &212.into(), &81.into()));
        for participant in json["participants"].as_array().unwrap() {
            assert!(participant["did"].is_string() && participant["name"].is_string());
            assert!(hound::WavReader::open(participant["wav"].as_str().unwrap()).unwrap().len() > 0);
            assert_eq!(participant["heard"].as_array().unwrap().len(), 2);
            for heard in participant["heard"].as_array().unwrap() {
                for field in ["did", "level_db", "correlation", "gaps", "latency_ms", "loss_pct"] {
                    assert!(heard.get(field).is_some(), "{field} is missing in {heard}");
                }
                assert_eq!(heard["latency_ms"], 60.0, "{heard}");
            }
        }
        assert_eq!(json["participants"][1]["heard"][0]["loss_pct"], 1.23);
    }

    #[test]
    fn a_speaker_who_was_not_heard_has_no_latency_and_makes_the_report_not_ok() {
        let home = tempfile::tempdir().unwrap();
        let (voices, mut seen) = call_of(home.path(), 2);
        seen[0].recording = seen[1].recording.clone();
        let report = report(&voices, &seen, Duration::ZERO, home.path()).unwrap();
        assert!(!report.ok);
        assert_eq!(report.participants[0].heard[0].latency_ms, None);
        assert!(report.participants[1].heard[0].latency_ms.is_some());
    }

    #[test]
    fn a_recording_that_is_missing_or_of_another_kind_is_told_by_its_name() {
        let home = tempfile::tempdir().unwrap();
        let (voices, seen) = call_of(home.path(), 2);
        fs::write(&seen[1].recording, b"no WAV").unwrap();
        let error = report(&voices, &seen, Duration::ZERO, home.path()).unwrap_err();
        assert!(error.to_string().contains("1.wav"), "{error}");
        fs::remove_file(&seen[1].recording).unwrap();
        assert!(report(&voices, &seen, Duration::ZERO, home.path()).is_err());
    }

    #[test]
    fn latency_is_the_time_between_mouth_and_ear_whatever_the_files_starts() {
        let schedule = Schedule::new(3);
        let per_ms = SAMPLE_RATE_HZ as usize / 1000;
        let heard = |turn_ms: usize| Heard {
            correlation: 1.0,
            level_db: -20.0,
            gaps: 0,
            repetitions: 1,
            at_samples: 0,
            turn_samples: turn_ms * per_ms,
        };
        let clock = |us| Clock { input_us: Some(us), output_us: Some(us) };
        let cycle_ms = 3 * SLOT_SAMPLES / per_ms;
        assert_eq!(latency_ms(schedule, clock(5_000_000), clock(5_000_000), &heard(70)), Some(70.0));
        assert_eq!(latency_ms(schedule, clock(5_000_000), clock(5_030_000), &heard(40)), Some(70.0));
        assert_eq!(latency_ms(schedule, clock(5_030_000), clock(5_000_000), &heard(100)), Some(70.0));
        assert_eq!(latency_ms(schedule, clock(5_000_000), clock(5_100_000), &heard(cycle_ms - 30)), Some(70.0));
        assert_eq!(latency_ms(schedule, Clock::default(), clock(1), &heard(0)), None);
    }
}
