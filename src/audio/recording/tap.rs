//! The audio thread's end of a recording: gives every block its place and hands it over, without waiting or allocating.
//!
//! Time passes with the blocks that are mixed, since all participants are heard on that beat; the own microphone, which has
//! a beat of its own, is fitted into it. While nothing is mixed, since a speaker hangs, it passes with the own microphone's blocks.
//! After a pause the clock says how long it was.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use super::{BLOCKS_PER_S, Block, Piece, Shared, own::Own};
use crate::{
    audio::lock,
    proto::{
        id::{CallId, LegId},
        io::Recorded,
    },
};

/// Without a block for so long, the clock says where the next one belongs.
const PAUSE: Duration = Duration::from_millis(200);
/// As many legs are remembered, so that what was handed over finds its file although the leg is gone.
const MAX_LEGS: usize = 256;
/// The beat of a sound card may be ahead of the clock by so many blocks before the clock is not believed any more.
const MAX_AHEAD: u64 = BLOCKS_PER_S / 2;

/// Hands blocks over to the recorder. Dropping it ends the recording.
pub struct Tap {
    call: CallId,
    pub(super) pieces: rtrb::Producer<Piece>,
    shared: Arc<Shared>,
    /// The plan says that this call is recorded.
    is_open: bool,
    /// Whose sound may be written down: no other is handed over.
    legs: BTreeSet<LegId>,
    /// The place of the block that is being mixed, and when that began.
    place: u64,
    ticked_at: Option<Instant>,
    /// It was closed since.
    paused: bool,
    own: Own,
    /// Nothing was mixed for so long that no more own blocks could wait.
    alone: bool,
}

impl Tap {
    pub(super) fn new(call: CallId, pieces: rtrb::Producer<Piece>, shared: Arc<Shared>) -> Self {
        Self {
            call,
            pieces,
            shared,
            is_open: false,
            legs: BTreeSet::new(),
            place: 0,
            ticked_at: None,
            paused: true,
            own: Own::new(),
            alone: false,
        }
    }

    /// What the plan says now.
    pub fn follow(&mut self, plan: Option<&Recorded>) {
        let Some(recorded) = plan.filter(|recorded| recorded.call == self.call) else {
            self.close();
            return;
        };
        self.is_open = true;
        self.legs = recorded.who.keys().copied().collect();
        let mut people = lock(&self.shared.people);
        if people.len() + recorded.who.len() > MAX_LEGS {
            people.retain(|leg, _| recorded.who.contains_key(leg));
        }
        people.extend(recorded.who.iter().map(|(leg, did)| (*leg, did.clone())));
    }

    fn close(&mut self) {
        if std::mem::take(&mut self.is_open) && self.ticked_at.is_some() {
            self.shared.place.store(self.place + 1, Ordering::Release);
        }
        self.paused = true;
        self.own.clear();
        self.alone = false;
    }

    /// 10 ms of the own microphone, as they are sent.
    pub fn own(&mut self, block: &Block, now: Instant) {
        if !self.is_open {
            return;
        }
        if self.own.is_full() {
            self.alone = true;
            self.pass(now, Own::next);
        }
        self.own.push(block);
    }

    /// The next 10 ms are mixed: what others bring until the next call belongs to them.
    pub fn tick(&mut self, now: Instant) {
        if !self.is_open {
            return;
        }
        if std::mem::take(&mut self.alone) {
            // What was said before this beat belongs before it.
            while self.own.len() > 1 {
                self.pass(now, Own::next);
            }
        }
        self.pass(now, Own::next_on_beat);
    }

    fn pass(&mut self, now: Instant, next: fn(&mut Own) -> Option<Block>) {
        self.place = self.next_place(now);
        self.ticked_at = Some(now);
        self.shared.place.store(self.place, Ordering::Release);
        if let Some(block) = next(&mut self.own) {
            self.hand_over(None, &block);
        }
    }

    /// 10 ms of a participant, as loud as they came. Nothing of whom the plan does not name is taken.
    pub fn heard(&mut self, leg: LegId, block: &Block) {
        if self.is_open && self.ticked_at.is_some() && self.legs.contains(&leg) {
            self.hand_over(Some(leg), block);
        }
    }

    fn hand_over(&mut self, from: Option<LegId>, block: &Block) {
        // Full: silence in its place.
        drop(self.pieces.push(Piece { at: self.place, from, block: *block }));
    }

    fn next_place(&mut self, now: Instant) -> u64 {
        let by_clock = blocks(now.saturating_duration_since(self.shared.started));
        let Some(ticked_at) = self.ticked_at else {
            self.paused = false;
            return by_clock;
        };
        let since = now.saturating_duration_since(ticked_at);
        if !std::mem::take(&mut self.paused) && since < PAUSE {
            return self.place + 1;
        }
        let by_beat = self.place + blocks(since);
        // What a speaker took in advance when it was opened is made up for here; a card that runs faster is not.
        if by_beat > by_clock + MAX_AHEAD { by_beat } else { by_clock.max(self.place + 1) }
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        // What was mixed last is whole.
        self.close();
    }
}

fn blocks(span: Duration) -> u64 {
    u64::try_from(span.as_micros() * u128::from(BLOCKS_PER_S) / 1_000_000).unwrap_or(u64::MAX)
}
