//! Published is not delivered: every signal that matters is sent again until it is acknowledged or pointless.
//!
//! The outbox knows when to send what again; it neither seals nor publishes.

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{
    id::{CallId, Did, MessageId},
    mutant::mutant,
    signal::{Body, MediaState, Outgoing, Topic},
};

/// First repetition while the round trip is unknown.
const FIRST_REPEAT: Duration = Duration::from_millis(100);
/// Repetitions never come closer than this, whatever the round trip.
const MIN_REPEAT: Duration = Duration::from_millis(20);
/// The slowest repetition, and the pace of what goes on although it is acknowledged.
const SLOW_REPEAT: Duration = Duration::from_secs(3);
/// The slowest repetition of what may be for nobody.
const PATIENT_REPEAT: Duration = Duration::from_secs(30);
/// Most entries; 31 legs need about 8 each. A full outbox drops the new signal, which its own state machine asks for again.
const CAPACITY: usize = 512;

/// When a signal is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Persistence {
    /// With its acknowledgement.
    UntilAcked,
    /// With its acknowledgement, which may never come: ever slower.
    Patiently,
    /// Not before this time, since another device of the recipient may lack it.
    Until(Instant),
}

#[derive(Debug)]
struct Entry {
    outgoing: Outgoing,
    persistence: Persistence,
    acked: bool,
    sent_at: Option<Instant>,
    repeated: bool,
    next_at: Instant,
    pause: Duration,
}

/// All signals under way.
#[derive(Debug, Default)]
pub struct Outbox {
    /// In the order of their making, so that an announcement leaves before what relies on it.
    entries: Vec<Entry>,
    round_trips: BTreeMap<Did, Duration>,
}

impl Outbox {
    /// Takes a signal over; it is due at once.
    pub fn push(&mut self, outgoing: Outgoing, persistence: Persistence, now: Instant) {
        if self.entries.len() >= CAPACITY {
            return;
        }
        let pause = match outgoing.to.as_ref().and_then(|to| self.round_trips.get(to)) {
            Some(round_trip) => (*round_trip * 3 / 2).clamp(MIN_REPEAT, SLOW_REPEAT),
            None => FIRST_REPEAT,
        };
        self.entries.push(Entry {
            outgoing,
            persistence,
            acked: false,
            sent_at: None,
            repeated: false,
            next_at: now,
            pause,
        });
    }

    /// Drops what has had its time.
    pub fn expire(&mut self, now: Instant) {
        self.entries.retain(|entry| match entry.persistence {
            Persistence::Until(end) => now < end,
            Persistence::UntilAcked | Persistence::Patiently => true,
        });
    }

    /// The next signal that is due; its repetition is scheduled. What has had its time must be gone ([`Self::expire`]).
    pub fn poll(&mut self, now: Instant) -> Option<Outgoing> {
        let entry = self.entries.iter_mut().filter(|entry| entry.next_at <= now).min_by_key(|entry| entry.next_at)?;
        entry.repeated = entry.sent_at.is_some();
        entry.sent_at = Some(now);
        if entry.acked {
            entry.pause = SLOW_REPEAT;
        }
        entry.next_at = now + entry.pause;
        let slowest = if entry.persistence == Persistence::Patiently { PATIENT_REPEAT } else { SLOW_REPEAT };
        entry.pause = (entry.pause * 2).min(slowest);
        Some(entry.outgoing.clone())
    }

    /// When [`Self::expire`] or [`Self::poll`] has something again.
    pub fn deadline(&self) -> Option<Instant> {
        let due = |entry: &Entry| match entry.persistence {
            Persistence::Until(end) => entry.next_at.min(end),
            Persistence::UntilAcked | Persistence::Patiently => entry.next_at,
        };
        self.entries.iter().map(due).min()
    }

    /// `from` says that it has `id`. Returns what was acknowledged, the first time.
    pub fn acknowledge(&mut self, id: MessageId, from: &Did, now: Instant) -> Option<Outgoing> {
        if mutant!(AckIgnored) {
            return None;
        }
        let at = self.entries.iter().position(|entry| entry.outgoing.signal.id == id)?;
        let entry = &mut self.entries[at];
        if entry.outgoing.to.as_ref() != Some(from) || entry.acked {
            return None;
        }
        if let (Some(sent_at), false) = (entry.sent_at, entry.repeated) {
            // Karn: only what was sent once measures a round trip.
            let sample = now.saturating_duration_since(sent_at);
            let known = self.round_trips.entry(from.clone()).or_insert(sample);
            *known = (*known * 7 + sample) / 8;
        }
        match entry.persistence {
            Persistence::UntilAcked | Persistence::Patiently => Some(self.entries.remove(at).outgoing),
            Persistence::Until(_) => {
                entry.acked = true;
                entry.next_at = now + SLOW_REPEAT;
                Some(entry.outgoing.clone())
            }
        }
    }

    /// A subscriber of the topic appeared: what waits there is due, unless it was sent a moment ago.
    pub fn subscribed(&mut self, topic: &Topic, now: Instant) {
        for entry in self.entries.iter_mut().filter(|entry| &entry.outgoing.topic == topic && !entry.acked) {
            entry.advance(now);
        }
    }

    /// Drops what has become pointless.
    pub fn drop_where(&mut self, mut pointless: impl FnMut(&Outgoing) -> bool) {
        self.entries.retain(|entry| !pointless(&entry.outgoing));
    }

    /// What is like this goes on, but ever slower: nobody may be there to acknowledge it.
    pub fn be_patient(&mut self, mut like: impl FnMut(&Outgoing) -> bool) {
        for entry in self.entries.iter_mut().filter(|entry| like(&entry.outgoing)) {
            entry.persistence = Persistence::Patiently;
        }
    }

    /// Somebody has it who may not be the one that it is for: it goes on, but slowly and ever slower. False: nothing is like this.
    pub fn slow_down(&mut self, now: Instant, mut like: impl FnMut(&Outgoing) -> bool) -> bool {
        let mut found = false;
        for entry in self.entries.iter_mut().filter(|entry| like(&entry.outgoing)) {
            found = true;
            entry.persistence = Persistence::Patiently;
            entry.pause = entry.pause.max(SLOW_REPEAT);
            entry.next_at = entry.next_at.max(now + entry.pause);
        }
        found
    }

    /// Announcements under way carry the present state from now on. They are new messages: who acknowledges a former
    /// transmission only now does not know the state yet. `new_id` gives none for whom nothing new is to be told.
    pub fn refresh_state(
        &mut self,
        call: CallId,
        state: MediaState,
        now: Instant,
        mut new_id: impl FnMut(Option<&Did>) -> Option<MessageId>,
    ) {
        for entry in self.entries.iter_mut().filter(|entry| entry.outgoing.signal.call == call) {
            if let Body::Join(presence) = &mut entry.outgoing.signal.body
                && let Some(id) = new_id(entry.outgoing.to.as_ref())
            {
                presence.state = state;
                entry.outgoing.signal.id = id;
                (entry.acked, entry.sent_at, entry.next_at) = (false, None, now);
            }
        }
    }

    /// Whether a signal like this is still unacknowledged; it is then sent at once, and goes on as if it were new.
    pub fn hurry(&mut self, now: Instant, persistence: Persistence, mut like: impl FnMut(&Outgoing) -> bool) -> bool {
        for entry in self.entries.iter_mut().filter(|entry| !entry.acked && like(&entry.outgoing)) {
            (entry.persistence, entry.pause) = (persistence, FIRST_REPEAT);
        }
        self.say_again(now, like)
    }

    /// Whether a signal like this is still unacknowledged; it is then sent at once, and goes on as before.
    pub fn say_again(&mut self, now: Instant, mut like: impl FnMut(&Outgoing) -> bool) -> bool {
        let mut found = false;
        for entry in self.entries.iter_mut().filter(|entry| !entry.acked && like(&entry.outgoing)) {
            found = true;
            entry.advance(now);
        }
        found
    }

    /// Whether a signal like this is under way.
    pub fn any(&self, mut like: impl FnMut(&Outgoing) -> bool) -> bool {
        self.entries.iter().any(|entry| like(&entry.outgoing))
    }

    /// Whether somebody still has to acknowledge something. `Answered` is for devices that may not exist.
    pub fn is_waiting(&self) -> bool {
        self.entries.iter().any(|entry| !entry.acked && !matches!(entry.outgoing.signal.body, Body::Answered(_)))
    }

    /// The smoothed round trip of signals to that DID, once one was measured.
    pub fn round_trip(&self, to: &Did) -> Option<Duration> {
        self.round_trips.get(to).copied()
    }

    /// Forgets the round trips of everyone for whom `known` is false.
    pub fn retain_round_trips(&mut self, mut known: impl FnMut(&Did) -> bool) {
        self.round_trips.retain(|did, _| known(did));
    }
}

impl Entry {
    /// Due now, unless it was sent a moment ago.
    fn advance(&mut self, now: Instant) {
        self.next_at = match self.sent_at {
            Some(sent_at) => self.next_at.min((sent_at + MIN_REPEAT).max(now)),
            None => now,
        };
    }
}
