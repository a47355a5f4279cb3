//! Events get their number here, go into the database, and reach everyone who watches.
//!
//! Reading takes nothing away: clients mark up to where the user has seen events, and calls that were missed since are counted.
//! The last [`RECENT`] stay in memory; older ones are read from the database beside the loop. When the disk fails, numbers go on and
//! watchers lose nothing; only replays older than memory have a gap, and numbers may repeat after a restart.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::sync::broadcast;

use crate::{
    control::wire::EventRecord,
    proto::{
        id::{CallId, Did},
        io::{EndReason, Event},
    },
    store::{self, Store, StoreError},
};

/// Events in memory; a client that was gone for a short while is served from here.
const RECENT: usize = 512;
/// Events that a watcher may be behind before it is told `lagged`.
const LIVE: usize = 1024;
/// Most missed calls that are counted.
const MAX_MISSED: usize = 1000;

/// Numbers, keeps and tells events.
#[derive(Debug)]
pub(super) struct Journal {
    /// This person: the history tells own calls from others'.
    own: Did,
    last_seq: u64,
    recent: VecDeque<Arc<EventRecord>>,
    live: broadcast::Sender<Arc<EventRecord>>,
    /// Up to which event the user has taken notice.
    marked: u64,
    /// Calls that came after it and were not taken, with the number of the event that says so; [`MAX_MISSED`] at most, the
    /// oldest go.
    missed: VecDeque<(u64, CallId)>,
}

/// What a watcher has missed.
#[derive(Debug, Default)]
pub(super) struct Replay {
    /// Still to be read from the database.
    stored: Option<Stored>,
    /// From memory.
    recent: Vec<Arc<EventRecord>>,
}

#[derive(Debug)]
struct Stored {
    database: PathBuf,
    after: u64,
    before: u64,
}

impl Journal {
    /// Goes on where the database ends.
    pub(super) fn new(store: &Store, own: Did) -> Result<Self, StoreError> {
        let (last_seq, marked) = (store.last_seq()?, store.marked_seq()?);
        let live = broadcast::Sender::new(LIVE);
        let mut journal = Self { own, last_seq, recent: VecDeque::new(), live, marked, missed: VecDeque::new() };
        for record in store::read_events(store.path(), marked, last_seq.saturating_add(1))? {
            journal.note_missed(record.seq, &record.event);
        }
        Ok(journal)
    }

    /// The number of the latest event; 0 before the first.
    pub(super) fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// Numbers the event, stores it and tells all watchers.
    pub(super) fn append(&mut self, store: &mut Store, event: Event, time_ms: u64) {
        self.last_seq += 1;
        self.note_missed(self.last_seq, &event);
        let record = Arc::new(EventRecord { seq: self.last_seq, time_ms, event });
        // The store tells of a disk that fails, and calls go on.
        let _told = store.append_event(&record, &self.own);
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(record.clone());
        // Nobody watches: nobody is told.
        let _watchers = self.live.send(record);
    }

    /// Tells all watchers of something that is over too soon to be kept: it bears the number of the event before it.
    pub(super) fn mention(&self, event: Event, time_ms: u64) {
        let _watchers = self.live.send(Arc::new(EventRecord { seq: self.last_seq, time_ms, event }));
    }

    /// Up to which event the user has taken notice.
    pub(super) fn marked(&self) -> u64 {
        self.marked
    }

    /// Calls that came since then and were not taken.
    pub(super) fn missed(&self) -> usize {
        self.missed.len()
    }

    /// The user has taken notice of all events up to this one; never goes back. Returns whether that was news.
    pub(super) fn mark(&mut self, store: &mut Store, seq: u64) -> bool {
        if seq <= self.marked {
            return false;
        }
        self.marked = seq;
        self.missed.retain(|(at, _)| *at > seq);
        // The store tells of a disk that fails; until the daemon ends the mark holds without it.
        let _told = store.mark_seq(seq);
        true
    }

    /// A call that the caller gave up is missed as well as one that rang in vain, or did not ring; one that was gone back to is not.
    fn note_missed(&mut self, seq: u64, event: &Event) {
        let (call, missed) = match event {
            Event::CallEnded { call, reason: EndReason::Missed | EndReason::Cancelled | EndReason::Silenced } => {
                (call, true)
            }
            Event::CallSilenced { call, .. } => (call, true),
            Event::CallJoined { call } => (call, false),
            Event::CallEnded { .. }
            | Event::CallOffered { .. }
            | Event::CallRang { .. }
            | Event::CallInvited { .. }
            | Event::CallHeld { .. }
            | Event::CallResumed { .. }
            | Event::CallInterrupted { .. }
            | Event::ParticipantChanged { .. }
            | Event::NoConnection { .. }
            | Event::ParticipantDeclined { .. }
            | Event::ParticipantMedia { .. }
            | Event::RecordingStarted { .. }
            | Event::RecordingEnded { .. }
            | Event::RecordingFailed { .. }
            | Event::MediaChanged { .. }
            | Event::DoNotDisturbChanged { .. }
            | Event::TalkedWhileMuted
            | Event::ParticipantSpeaking { .. }
            | Event::AudioChanged { .. }
            | Event::ContactsChanged
            | Event::VolumeChanged { .. }
            | Event::EventsMarked { .. } => return,
        };
        self.missed.retain(|(_, other)| other != call);
        if missed {
            self.missed.push_back((seq, *call));
        }
        if self.missed.len() > MAX_MISSED {
            self.missed.pop_front();
        }
    }

    /// Events from now on.
    pub(super) fn watch(&self) -> broadcast::Receiver<Arc<EventRecord>> {
        self.live.subscribe()
    }

    /// What happened after `since`, up to now.
    pub(super) fn replay(&self, since: u64, database: &Path) -> Replay {
        let before = self.recent.front().map_or(self.last_seq + 1, |first| first.seq);
        let missing = since.saturating_add(1) < before;
        let stored = missing.then(|| Stored { database: database.to_owned(), after: since, before });
        let recent = self.recent.iter().filter(|record| record.seq > since).cloned().collect();
        Replay { stored, recent }
    }
}

impl Replay {
    /// Whether [`Self::collect`] reads the disk.
    pub(super) fn is_slow(&self) -> bool {
        self.stored.is_some()
    }

    /// The events, oldest first. May read the disk: not on the loop.
    pub(super) fn collect(self) -> Result<Vec<Arc<EventRecord>>, StoreError> {
        let Some(stored) = self.stored else { return Ok(self.recent) };
        let mut all = store::read_events(&stored.database, stored.after, stored.before)?;
        all.extend(self.recent);
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::views::samples::did_of, *};

    fn media_changed(muted: bool) -> Event {
        Event::MediaChanged { muted, deafened: false }
    }

    fn opened(store: &Store) -> Journal {
        Journal::new(store, did_of(1)).unwrap()
    }

    fn seqs(replay: Replay) -> Vec<u64> {
        replay.collect().unwrap().iter().map(|record| record.seq).collect()
    }

    #[test]
    fn a_watcher_that_comes_back_gets_every_event_once_from_disk_and_memory() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path()).unwrap();
        let mut journal = opened(&store);
        let count = RECENT as u64 + 40;
        for at in 0..count {
            journal.append(&mut store, media_changed(at.is_multiple_of(2)), at);
        }
        for since in [0, 1, 39, 40, 41, count - 1, count, count + 7] {
            let replay = journal.replay(since, store.path());
            assert_eq!(replay.is_slow(), since < 40, "since {since}");
            assert_eq!(seqs(replay), (since + 1..=count).collect::<Vec<_>>(), "since {since}");
        }
    }

    #[test]
    fn numbers_go_on_after_a_restart_and_old_events_are_still_replayed() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path()).unwrap();
        let mut journal = opened(&store);
        journal.append(&mut store, media_changed(true), 5);
        drop((store, journal));
        let mut store = Store::open(dir.path()).unwrap();
        let mut journal = opened(&store);
        let mut live = journal.watch();
        journal.append(&mut store, media_changed(false), 6);
        assert_eq!(live.try_recv().unwrap().seq, 2);
        assert_eq!(seqs(journal.replay(0, store.path())), [1, 2]);
    }

    #[test]
    fn numbers_grow_and_watchers_are_told_when_the_disk_fails() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path()).unwrap();
        let mut journal = opened(&store);
        store.break_for_tests();
        let mut live = journal.watch();
        journal.append(&mut store, media_changed(true), 5);
        journal.append(&mut store, media_changed(false), 6);
        assert_eq!([live.try_recv().unwrap().seq, live.try_recv().unwrap().seq], [1, 2]);
        assert_eq!(seqs(journal.replay(0, store.path())), [1, 2]);
    }

    #[test]
    fn what_is_only_mentioned_is_told_live_under_the_last_number_and_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path()).unwrap();
        let mut journal = opened(&store);
        journal.append(&mut store, media_changed(true), 5);
        let mut live = journal.watch();
        journal.mention(media_changed(false), 6);
        assert_eq!((live.try_recv().unwrap().seq, journal.last_seq()), (1, 1));
        assert_eq!(seqs(journal.replay(0, store.path())), [1]);
    }

    fn ended(byte: u8, reason: EndReason) -> Event {
        Event::CallEnded { call: CallId::from_bytes([byte; 16]), reason }
    }

    #[test]
    fn missed_calls_are_counted_until_they_are_marked_over_restarts_too() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path()).unwrap();
        let mut journal = opened(&store);
        let call = |byte| CallId::from_bytes([byte; 16]);
        let silenced = Event::CallSilenced { call: call(3), from: did_of(2), participants: Vec::new(), known: true };
        let events = [
            ended(1, EndReason::Missed),
            ended(2, EndReason::Cancelled),
            silenced,
            ended(4, EndReason::HungUp),
            ended(5, EndReason::Missed),
            Event::CallJoined { call: call(5) },
        ];
        for event in events {
            journal.append(&mut store, event, 5);
        }
        assert_eq!((journal.marked(), journal.missed()), (0, 3));
        assert!(journal.mark(&mut store, 2));
        assert_eq!((journal.marked(), journal.missed()), (2, 1));
        assert!(!journal.mark(&mut store, 1), "a mark never goes back");
        assert_eq!(seqs(journal.replay(0, store.path())).len(), 6, "and takes nothing away");
        drop((store, journal));
        let store = Store::open(dir.path()).unwrap();
        let journal = opened(&store);
        assert_eq!((journal.marked(), journal.missed()), (2, 1));
    }
}
