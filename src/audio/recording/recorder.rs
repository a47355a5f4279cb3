//! The recorder's thread: takes what the audio thread handed over, and writes each block into its files.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use super::{BLOCKS_PER_S, Block, FileNames, NewRecording, Piece, RecordingError, Shared, track::Track};
use crate::{
    audio::{
        BLOCK_SAMPLES, lock,
        mixer::{self, Limiter},
    },
    proto::{
        id::{CallId, Did, LegId},
        signal::MAX_PARTICIPANTS,
    },
};

/// How often it looks whether there is something to write.
const LOOK: Duration = Duration::from_millis(20);
/// While nothing comes (a call on hold, nobody there), the files stay so far behind the clock: what comes then comes later.
const BEHIND_BLOCKS: u64 = BLOCKS_PER_S;
/// Files of participants; whoever comes beyond that is heard in the mix alone.
const MAX_FILES: usize = 2 * MAX_PARTICIPANTS;

/// All files of one recording.
pub struct Recorder {
    call: CallId,
    directory: PathBuf,
    contacts: BTreeMap<Did, String>,
    file_names: FileNames,
    shared: Arc<Shared>,
    pieces: rtrb::Consumer<Piece>,
    own: Track,
    mixed: Track,
    others: BTreeMap<Did, Track>,
    /// The block of the mix that is not complete yet, and its place.
    sum: (u64, Block),
    limiter: Limiter,
    /// The latest place that was seen, and since when it is the same.
    seen: (u64, Instant),
}

impl Recorder {
    /// Makes the files that every recording has.
    pub fn new(
        new: &NewRecording,
        directory: &Path,
        shared: Arc<Shared>,
        pieces: rtrb::Consumer<Piece>,
    ) -> Result<Self, RecordingError> {
        let mut file_names = FileNames::default();
        let mut track = |name: &str, tags: &[String]| {
            let call = format!("TELECON_CALL={}", new.call);
            let tags: Vec<String> = [call].into_iter().chain(tags.iter().cloned()).collect();
            Track::create(&directory.join(file_names.give(name)), &tags)
        };
        let (own, mixed) = (track("own", &[did_tag(&new.own)])?, track("mixed", &[])?);
        Ok(Self {
            call: new.call,
            directory: directory.to_owned(),
            contacts: new.names.clone(),
            file_names,
            seen: (0, shared.started),
            shared,
            pieces,
            own,
            mixed,
            others: BTreeMap::new(),
            sum: (0, [0.0; BLOCK_SAMPLES]),
            limiter: Limiter::default(),
        })
    }

    /// Writes until the other end is gone, then ends the files; false: there was nothing to keep. Where that does not work, what
    /// holds no sound goes.
    pub fn run(mut self) -> Result<bool, RecordingError> {
        self.write_all().inspect_err(|_| self.remove_empty())
    }

    fn write_all(&mut self) -> Result<bool, RecordingError> {
        loop {
            // Looked at first: what was handed over before is there now.
            let is_over = self.pieces.is_abandoned();
            self.write(Instant::now())?;
            if is_over {
                return self.finish();
            }
            std::thread::park_timeout(LOOK);
        }
    }

    fn write(&mut self, now: Instant) -> Result<(), RecordingError> {
        let place = self.shared.place.load(Ordering::Acquire);
        while let Ok(piece) = self.pieces.pop() {
            self.take(&piece)?;
        }
        if place > self.sum.0 {
            self.mix()?;
        }
        if place != self.seen.0 {
            self.seen = (place, now);
        }
        let silent = now.saturating_duration_since(self.seen.1).as_millis() as u64 * BLOCKS_PER_S / 1000;
        self.pad_to(place + silent.saturating_sub(BEHIND_BLOCKS))
    }

    fn take(&mut self, piece: &Piece) -> Result<(), RecordingError> {
        let person = piece.from.and_then(|leg| self.person(leg));
        if person.is_none() && piece.from.is_some() {
            // Nobody's, not even in the mix.
            return Ok(());
        }
        if piece.at > self.sum.0 {
            self.mix()?;
            self.sum = (piece.at, [0.0; BLOCK_SAMPLES]);
        }
        mixer::add(&mut self.sum.1, &piece.block);
        let track = match person {
            None => Some(&mut self.own),
            Some(did) => self.track_of(did)?,
        };
        track.map_or(Ok(()), |track| track.write(piece.at, &piece.block))
    }

    /// Writes the sum of its place, once.
    fn mix(&mut self) -> Result<(), RecordingError> {
        let (at, mut block) = self.sum;
        if at < self.mixed.place() {
            return Ok(());
        }
        if at > self.mixed.place() {
            // What the limiter still holds of before belongs to before.
            self.limiter = Limiter::default();
        }
        self.limiter.apply(&mut block);
        self.mixed.write(at, &block)
    }

    /// To whom the leg leads, or led.
    fn person(&self, leg: LegId) -> Option<Did> {
        lock(&self.shared.people).get(&leg).cloned()
    }

    /// Their file; somebody who comes back goes on in the same one.
    fn track_of(&mut self, did: Did) -> Result<Option<&mut Track>, RecordingError> {
        if !self.others.contains_key(&did) {
            if self.others.len() == MAX_FILES {
                return Ok(None);
            }
            let track = self.new_track(&did)?;
            self.others.insert(did.clone(), track);
        }
        Ok(self.others.get_mut(&did))
    }

    fn new_track(&mut self, did: &Did) -> Result<Track, RecordingError> {
        let name = self.contacts.get(did).map(String::as_str);
        let key = did.as_str().rsplit(':').next();
        let file = self.file_names.give(name.or(key).unwrap_or("somebody"));
        let mut tags = vec![format!("TELECON_CALL={}", self.call), did_tag(did)];
        tags.extend(name.map(|name| format!("ARTIST={name}")));
        Track::create(&self.directory.join(file), &tags)
    }

    fn pad_to(&mut self, place: u64) -> Result<(), RecordingError> {
        self.tracks().try_for_each(|track| track.pad_to(place))
    }

    fn tracks(&mut self) -> impl Iterator<Item = &mut Track> {
        [&mut self.own, &mut self.mixed].into_iter().chain(self.others.values_mut())
    }

    /// All files end together. Without a single block nothing was recorded, and there is nothing to keep.
    fn finish(&mut self) -> Result<bool, RecordingError> {
        let end = self.tracks().map(|track| track.place()).max().unwrap_or(0);
        if end == 0 {
            let path = self.directory.clone();
            return fs::remove_dir_all(&path)
                .map_err(|source| RecordingError::Unusable { path, source })
                .map(|()| false);
        }
        self.pad_to(end)?;
        self.tracks().try_for_each(Track::finish).map(|()| true)
    }

    /// Files without sound, and the directory when no other is in it. What cannot be removed stays: the disk fails already.
    fn remove_empty(&mut self) {
        for track in self.tracks().filter(|track| track.is_empty()) {
            track.remove();
        }
        drop(fs::remove_dir(&self.directory));
    }
}

fn did_tag(did: &Did) -> String {
    format!("TELECON_DID={did}")
}
