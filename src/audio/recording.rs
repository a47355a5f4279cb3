//! Recordings: one Ogg/Opus file for each who is heard, one for the own microphone, and one of all of them together.
//!
//! ```text
//!  audio thread ── Tap ── ring of blocks, each with its place ──► recorder's thread ── Track ──► own.opus
//!                                                                                  ├─ Track ──► bob.opus
//!                                                                                  └─ Track ──► mixed.opus
//! ```
//!
//! All files have the same time line, which begins with the recording: a block is written to its place, and what never came
//! (lost, muted, on hold, not there yet) is silence of exactly that length. Nobody but the recorder's thread waits for the disk: what
//! finds the ring full is lost, and silence too. Whether anything is recorded is the core's decision ([`Recorded`]).
//!
//! [`Recorded`]: crate::proto::io::Recorded

mod own;
mod recorder;
mod tap;
#[cfg(test)]
mod tests;
mod track;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::AtomicU64,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};

use super::{BLOCK_SAMPLES, Block, SAMPLE_RATE_HZ};
use crate::{
    civil::file_stamp,
    private::{DirectoryError, prepare_directory},
    proto::id::{CallId, Did, LegId},
    text::cut,
};

pub use tap::Tap;

/// Blocks that the recorder's thread may lag behind, of all participants together: 10 s of two, 640 ms of 32.
const BLOCKS_WAITING: usize = 2048;
/// Blocks in a second.
const BLOCKS_PER_S: u64 = (SAMPLE_RATE_HZ as usize / BLOCK_SAMPLES) as u64;
/// Recordings of one call that begin in the same second.
const MOST_ALIKE: usize = 100;
/// Longest part of a file's name that is a contact's, in characters: with 4 bytes each it is a name still.
const MAX_NAME_CHARS: usize = 48;

/// Longest part of a path that an error repeats.
const MAX_PATH_CHARS: usize = 256;

/// What is to be recorded, and where.
#[derive(Debug, Clone)]
pub struct NewRecording {
    /// The call; blocks come while the plan names it.
    pub call: CallId,
    /// Where the recording gets a directory of its own; made when it is not there.
    pub parent: PathBuf,
    /// The parent is telecon's own, too: what others can write to is refused.
    pub is_private: bool,
    /// Unix time in ms, for the directory's name.
    pub unix_ms: u64,
    /// The own DID.
    pub own: Did,
    /// What people are called, for the names of files.
    pub names: BTreeMap<Did, String>,
}

/// The latest recording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordingStatus {
    /// Where its files are.
    pub directory: PathBuf,
    /// Once they are closed: whether there are any, since without any sound none are kept; or why they could not be written to their
    /// end, the cause and the remedy.
    pub end: Option<Result<bool, String>>,
}

/// Why nothing can be recorded.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// No directory or no file.
    #[error(
        "nothing can be recorded in {}: {source}; name a directory that you may write to, with space left",
        shown(path)
    )]
    Unusable {
        /// The directory or the file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The parent is relative, and the daemon was started somewhere.
    #[error("{} is no absolute path; write it from the root on", shown(path))]
    Relative {
        /// As given.
        path: PathBuf,
    },
    /// The parent, where it has to be telecon's own.
    #[error(transparent)]
    Parent(#[from] DirectoryError),
    /// No thread or no memory.
    #[error("there is no memory for a recording ({0}); free some, and begin again")]
    NoMemory(String),
}

/// A path in quotes; any client may have named it.
fn shown(path: &Path) -> String {
    cut(&format!("{path:?}"), MAX_PATH_CHARS)
}

/// One block on its way to the disk.
struct Piece {
    /// Its place: blocks since the beginning of the recording.
    at: u64,
    /// Who is heard in it; `None`: the own microphone.
    from: Option<LegId>,
    block: Block,
}

/// What both threads know.
struct Shared {
    /// When the time line begins.
    started: Instant,
    /// All blocks before this place were handed over, or never will be.
    place: AtomicU64,
    /// To whom each leg leads. Held for a copy only.
    people: Mutex<BTreeMap<LegId, Did>>,
}

/// A recording whose files are there. Dropped before it began, it leaves nothing behind.
pub struct Recording {
    pub(super) tap: Tap,
    pub(super) running: Running,
}

impl Recording {
    /// Where its files are.
    pub fn directory(&self) -> &Path {
        &self.running.directory
    }
}

/// A recording and its thread, as others see them.
pub struct Running {
    directory: PathBuf,
    /// As in [`RecordingStatus`].
    end: Arc<OnceLock<Result<bool, String>>>,
    /// Ends with the thread.
    is_done: Receiver<()>,
}

impl Running {
    /// Where it is, and how it ended.
    pub fn status(&self) -> RecordingStatus {
        RecordingStatus { directory: self.directory.clone(), end: self.end.get().cloned() }
    }

    /// Waits until its files are closed, at most so long.
    pub fn wait(self, patience: Duration) {
        let _ended_or_late = self.is_done.recv_timeout(patience);
    }
}

/// Begins the thread of a recording, which alone touches the disk: it makes the directory and the first two files, tells with
/// `made` how that went, and writes until the [`Tap`] is dropped. `ended` is called when the files are closed, also where it could not
/// go on; the status says why then. Never blocks; both are called on that thread.
///
/// # Errors
/// When there is no thread.
pub fn start(
    new: NewRecording,
    made: impl FnOnce(Result<Recording, RecordingError>) + Send + 'static,
    ended: impl FnOnce() + Send + 'static,
) -> Result<(), RecordingError> {
    let run = move || {
        let (recorder, recording, done) = match make(&new) {
            Ok(all) => all,
            Err(error) => return made(Err(error)),
        };
        let end = recording.running.end.clone();
        made(Ok(recording));
        let kept = recorder.run().inspect_err(|error| tracing::warn!(%error, "a recording ended"));
        end.get_or_init(|| kept.map_err(|error| error.to_string()));
        drop(done);
        ended();
    };
    let thread = std::thread::Builder::new().name("recorder".into()).spawn(run);
    thread.map(drop).map_err(|error| RecordingError::NoMemory(error.to_string()))
}

/// The files, both ends, and what is dropped when everything is written.
fn make(new: &NewRecording) -> Result<(recorder::Recorder, Recording, SyncSender<()>), RecordingError> {
    let directory = make_directory(new)?;
    let shared = Arc::new(Shared { started: Instant::now(), place: AtomicU64::new(0), people: Mutex::default() });
    let (sender, pieces) = rtrb::RingBuffer::new(BLOCKS_WAITING);
    let recorder = recorder::Recorder::new(new, &directory, shared.clone(), pieces)
        // Nobody else has seen it, and there is no sound in it.
        .inspect_err(|_| drop(fs::remove_dir_all(&directory)))?;
    let (done, is_done) = sync_channel(1);
    let running = Running { directory, end: Arc::default(), is_done };
    Ok((recorder, Recording { tap: Tap::new(new.call, sender, shared), running }, done))
}

/// A new directory with mode 0700 below the parent, named by time and call.
fn make_directory(new: &NewRecording) -> Result<PathBuf, RecordingError> {
    let unusable = |path: &Path| {
        let path = path.to_owned();
        move |source| RecordingError::Unusable { path, source }
    };
    if new.parent.is_relative() {
        return Err(RecordingError::Relative { path: new.parent.clone() });
    }
    if new.is_private {
        prepare_directory(&new.parent)?;
    } else {
        DirBuilder::new().recursive(true).mode(0o700).create(&new.parent).map_err(unusable(&new.parent))?;
    }
    let call: String = new.call.to_string().chars().take(8).collect();
    let name = format!("{}-{call}", file_stamp(new.unix_ms));
    let mut directory = new.parent.join(&name);
    for number in 2..=MOST_ALIKE {
        match DirBuilder::new().mode(0o700).create(&directory) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                directory = new.parent.join(format!("{name}-{number}"));
            }
            made => return made.map_err(unusable(&directory)).map(|()| directory),
        }
    }
    Err(unusable(&directory)(io::ErrorKind::AlreadyExists.into()))
}

/// Names for files, each given once.
#[derive(Default)]
struct FileNames(BTreeSet<String>);

impl FileNames {
    /// A name like `wanted` that stands for one file in one directory, whatever characters were in it.
    fn give(&mut self, wanted: &str) -> String {
        let safe = |c: char| if c.is_alphanumeric() || matches!(c, '-' | '_') { c } else { '_' };
        let stem: String = wanted.chars().take(MAX_NAME_CHARS).map(safe).collect();
        let mut name = format!("{stem}.opus");
        let mut number = 2_usize;
        while !self.0.insert(name.clone()) {
            name = format!("{stem}-{number}.opus");
            number += 1;
        }
        name
    }
}
