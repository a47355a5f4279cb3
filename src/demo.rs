//! `telecon demo`: a real group call of several daemons on this machine, with synthetic voices.
//!
//! ```text
//!  voices ─ clips, in turns (score::Schedule) ─> one WAV a speaker ─> daemons (cast) ─ gossipsub, WebRTC ─> one WAV a listener
//!                                                                                                             │
//!                                        report, table <─ correlation of every clip with every WAV (score) <──┘
//! ```
//! Nothing here is a shortcut: the daemons are the installed binary, driven through their control sockets. Whether the demo
//! is `ok` is decided by what the listeners' WAVs hold, not by what the daemons say.

use std::{
    fs,
    future::Future,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    signal::unix::{SignalKind, signal},
    time::Instant,
};

use crate::audio::SAMPLE_RATE_HZ;

pub mod cast;
pub mod correlate;
pub mod observe;
pub mod report;
pub mod score;
pub mod table;
pub mod voices;

use cast::{Cast, Seen};
use report::Report;
use score::Schedule;
use voices::{MAX_VOICES, Voice};

/// A call is between two at least.
pub const MIN_PARTICIPANTS: usize = 2;
/// One clip each.
pub const MAX_PARTICIPANTS: usize = MAX_VOICES;
/// Ten minutes are enough to listen to, and their recordings (60 MB a listener) still fit into memory.
pub const MAX_SECONDS: u64 = 600;
/// Seconds of speech beyond a full round: what is on the way, and the end that is cut ([`report::TAIL_SAMPLES`]).
const MARGIN_SAMPLES: usize = SAMPLE_RATE_HZ as usize * 6 / 10;

/// What kind of demo.
#[derive(Debug, Clone)]
pub struct Options {
    participants: usize,
    asked_s: u64,
    seconds: u64,
    /// The telecon binary that the daemons run.
    pub program: PathBuf,
    /// Where the recordings are put; made if need be.
    pub directory: PathBuf,
}

impl Options {
    /// A demo of [`MIN_PARTICIPANTS`]..=[`MAX_PARTICIPANTS`] that speak for `seconds`, or longer if a full round of all
    /// voices takes longer. It runs this very binary and writes into `telecon-demo` in the present directory.
    ///
    /// # Errors
    /// [`DemoError::Participants`], [`DemoError::Seconds`], [`DemoError::File`] when this program's path is unknown.
    pub fn new(participants: usize, seconds: u64) -> Result<Self, DemoError> {
        if !(MIN_PARTICIPANTS..=MAX_PARTICIPANTS).contains(&participants) {
            return Err(DemoError::Participants(participants));
        }
        if seconds > MAX_SECONDS {
            return Err(DemoError::Seconds(seconds));
        }
        let needed = Schedule::new(participants).needed_samples() + MARGIN_SAMPLES;
        let needed_s = (needed as u64).div_ceil(u64::from(SAMPLE_RATE_HZ));
        let program = std::env::current_exe().map_err(DemoError::file(Path::new("/proc/self/exe")))?;
        let directory = PathBuf::from("telecon-demo");
        Ok(Self { participants, asked_s: seconds, seconds: seconds.max(needed_s), program, directory })
    }

    /// How long everybody is heard, in seconds.
    pub fn seconds(&self) -> u64 {
        self.seconds
    }

    /// The speakers.
    pub fn voices(&self) -> Vec<Voice> {
        voices::cast(self.participants)
    }
}

/// Why there was no demo, or none to the end.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// There is no voice for more, and no call for fewer.
    #[error(
        "a demo has {MIN_PARTICIPANTS} to {MAX_PARTICIPANTS} participants (there are {MAX_PARTICIPANTS} voices), not {0}"
    )]
    Participants(usize),
    /// Longer than anybody listens.
    #[error("a demo takes {MAX_SECONDS} seconds at most, not {0}")]
    Seconds(u64),
    /// The recordings could not be put there.
    #[error("the recordings cannot be put into {} ({source}); run it where you may write", path.display())]
    Directory {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file or program could not be used.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A participant's daemon failed.
    #[error("{name}'s daemon: {why}")]
    Daemon {
        /// The participant.
        name: &'static str,
        /// What happened, perhaps with the end of its log.
        why: String,
    },
    /// Something did not happen in time.
    #[error("{0} in time")]
    Late(String),
    /// Ctrl-C or SIGTERM.
    #[error("interrupted; all daemons of the demo have ended")]
    Interrupted,
}

impl DemoError {
    /// The command's exit code: 64 usage, 77 not permitted, 70 no directory to write to, 14 media failed, 130 interrupted.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Participants(_) | Self::Seconds(_) => 64,
            Self::Directory { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => 77,
            Self::Directory { .. } => 70,
            Self::File { .. } | Self::Daemon { .. } | Self::Late(_) => 14,
            Self::Interrupted => 130,
        }
    }

    fn file(path: &Path) -> impl Fn(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { path: path.clone(), source }
    }
}

/// What a demo tells while it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// A step begins.
    Step(String),
    /// The call goes on.
    Listening {
        /// So far.
        elapsed_s: u64,
        /// In all.
        total_s: u64,
    },
}

/// Runs a demo to its end. Whatever happens, Ctrl-C and SIGTERM included, no process is left behind.
///
/// # Errors
/// [`DemoError`]; a call in which somebody was not heard is no error but a report that is not `ok`.
pub async fn run(options: &Options, mut progress: impl FnMut(Progress)) -> Result<Report, DemoError> {
    prepare(&options.directory)?;
    if options.seconds > options.asked_s {
        let (asked, needed) = (options.asked_s, options.seconds);
        progress(Progress::Step(format!("{asked} s are too short for every voice to be heard; it takes {needed} s")));
    }
    let voices = options.voices();
    let mut cast = Cast::new()?;
    let performed = tokio::select! {
        performed = perform(options, &voices, &mut cast, &mut progress) => performed,
        interrupted = interruption() => Err(interrupted),
    };
    let stopped = cast.stop().await;
    let (setup, seen) = performed?;
    stopped?;
    progress(Progress::Step("Comparing what was heard with what was said".into()));
    report::report(&voices, &seen, setup, &options.directory)
}

/// Before anything is started: recordings can be put there, and none of an earlier demo is taken for one of this.
fn prepare(directory: &Path) -> Result<(), DemoError> {
    let prepared = || {
        let is_new = !directory.exists();
        fs::create_dir_all(directory)?;
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with("heard-by-") && name.ends_with(".wav") {
                fs::remove_file(entry.path())?;
            }
        }
        let probe = directory.join(format!(".probe-{}", std::process::id()));
        fs::File::create_new(&probe)?;
        fs::remove_file(&probe)?;
        // A demo that is interrupted leaves nothing.
        if is_new { fs::remove_dir(directory) } else { Ok(()) }
    };
    let path = std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned());
    prepared().map_err(|source| DemoError::Directory { path, source })
}

async fn perform(
    options: &Options,
    voices: &[Voice],
    cast: &mut Cast,
    progress: &mut impl FnMut(Progress),
) -> Result<(Duration, Vec<Seen>), DemoError> {
    progress(Progress::Step(format!("Starting {} daemons on the loopback", voices.len())));
    cast.start(&options.program, voices).await?;
    cast.introduce().await?;
    progress(Progress::Step(format!("{} calls everybody", voices[0].name)));
    let setup = cast.call().await?;
    progress(Progress::Step(format!("Everybody is connected after {} ms; they speak in turn", setup.as_millis())));
    listen(cast, options.seconds, progress).await?;
    Ok((setup, cast.observe().await?))
}

/// Lets the call go on for that long.
///
/// # Errors
/// [`DemoError::Daemon`] as soon as a daemon dies.
pub async fn listen(cast: &mut Cast, seconds: u64, progress: &mut impl FnMut(Progress)) -> Result<(), DemoError> {
    let start = Instant::now();
    for elapsed_s in 0..seconds {
        progress(Progress::Listening { elapsed_s, total_s: seconds });
        tokio::time::sleep_until(start + Duration::from_secs(elapsed_s + 1)).await;
        cast.check_alive()?;
    }
    progress(Progress::Listening { elapsed_s: seconds, total_s: seconds });
    Ok(())
}

/// Comes when the user or the system wants an end.
fn interruption() -> impl Future<Output = DemoError> {
    let signals = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(signal);
    async move {
        let waiting = signals.into_iter().filter_map(Result::ok).map(|mut signal| {
            Box::pin(async move {
                signal.recv().await;
            })
        });
        let waiting: Vec<_> = waiting.collect();
        if waiting.is_empty() {
            std::future::pending::<()>().await;
        }
        futures::future::select_all(waiting).await;
        DemoError::Interrupted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_demo_has_as_many_participants_as_there_are_voices() {
        for wrong in [0, 1, 9, usize::MAX] {
            let error = Options::new(wrong, 10).unwrap_err();
            assert_eq!(error.exit_code(), 64);
            assert!(error.to_string().contains("2 to 8 participants"), "{error}");
        }
        for right in [2, 3, 5, 8] {
            assert_eq!(Options::new(right, 10).unwrap().voices().len(), right);
        }
        assert_eq!(Options::new(3, MAX_SECONDS + 1).unwrap_err().exit_code(), 64);
    }

    #[test]
    fn recordings_of_an_earlier_demo_are_removed_and_nothing_else_is_left() {
        let work = tempfile::tempdir().unwrap();
        let directory = work.path().join("telecon-demo");
        prepare(&directory).unwrap();
        assert!(!directory.exists());
        fs::create_dir(&directory).unwrap();
        for file in ["heard-by-ada.wav", "mine.wav"] {
            fs::write(directory.join(file), "").unwrap();
        }
        prepare(&directory).unwrap();
        let left: Vec<_> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["mine.wav"]);
    }

    #[test]
    fn a_demo_lasts_at_least_one_round_of_all_voices() {
        let seconds = |participants, asked| Options::new(participants, asked).unwrap().seconds();
        assert_eq!((seconds(3, 10), seconds(5, 10), seconds(3, 60)), (10, 10, 60));
        assert_eq!((seconds(3, 0), seconds(5, 0), seconds(8, 10)), (6, 9, 13));
    }
}
