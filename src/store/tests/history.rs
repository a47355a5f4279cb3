//! The history: which events make which rows.

use super::*;
use crate::proto::{
    id::CallId,
    io::{EndReason, ParticipantState},
};

/// Tells the store one event after the other.
struct Told {
    _dir: TempDir,
    store: Store,
    seq: u64,
}

impl Told {
    fn new() -> Self {
        let (dir, _) = home();
        let store = Store::open(dir.path()).unwrap();
        Self { _dir: dir, store, seq: 0 }
    }

    fn tell(&mut self, time_ms: u64, event: Event) {
        self.seq += 1;
        self.store.append_event(&EventRecord { seq: self.seq, time_ms, event }, &own()).unwrap();
    }

    fn killed_and_started(&mut self) {
        self.store = Store::open(self._dir.path()).unwrap();
    }

    fn only(&self) -> HistoryEntry {
        let all = self.store.history(10, None).unwrap();
        assert_eq!(all.len(), 1, "{all:?}");
        all.into_iter().next().unwrap()
    }
}

fn call(number: u8) -> CallId {
    CallId::from_bytes([number; 16])
}

fn offered(number: u8) -> Event {
    Event::CallOffered { call: call(number), invitees: vec![did(1), did(2)] }
}

fn rang(number: u8) -> Event {
    Event::CallRang { call: call(number), from: did(1), participants: vec![did(1), own(), did(2)], known: true }
}

fn joined(number: u8) -> Event {
    Event::CallJoined { call: call(number) }
}

fn ended(number: u8, reason: EndReason) -> Event {
    Event::CallEnded { call: call(number), reason }
}

#[test]
fn a_call_from_here_has_a_row_from_its_offer_to_its_end() {
    let mut told = Told::new();
    told.tell(100, offered(1));
    let mut expected = HistoryEntry {
        call: call(1),
        direction: Direction::Out,
        from: own(),
        participants: vec![did(1), did(2)],
        known: true,
        started_ms: 100,
        joined_ms: None,
        ended_ms: None,
        outcome: None,
    };
    assert_eq!(told.only(), expected);
    told.tell(200, joined(1));
    told.tell(300, Event::CallInvited { call: call(1), invitees: vec![did(2), did(3)] });
    told.tell(310, Event::ParticipantChanged { call: call(1), did: did(4), state: ParticipantState::Joined });
    told.tell(400, ended(1, EndReason::HungUp));
    expected.joined_ms = Some(200);
    expected.participants.extend([did(3), did(4)]);
    expected.ended_ms = Some(400);
    expected.outcome = Some(Outcome::Ended(EndReason::HungUp));
    assert_eq!(told.only(), expected);
}

#[test]
fn a_call_from_here_is_joined_when_its_first_participant_is_there() {
    let mut told = Told::new();
    let changed = |number, state| Event::ParticipantChanged { call: call(1), did: did(number), state };
    told.tell(100, offered(1));
    told.tell(110, changed(1, ParticipantState::Connecting));
    assert_eq!(told.only().joined_ms, None);
    told.tell(120, changed(1, ParticipantState::Joined));
    told.tell(130, changed(2, ParticipantState::Joined));
    assert_eq!(told.only().joined_ms, Some(120));
}

#[test]
fn a_missed_call_has_its_caller_and_no_joining() {
    let mut told = Told::new();
    told.tell(100, Event::CallRang { call: call(1), from: did(1), participants: vec![did(1), own()], known: false });
    told.tell(145, ended(1, EndReason::Missed));
    let row = told.only();
    assert_eq!((row.direction, row.from, row.participants), (Direction::In, did(1), vec![did(1)]));
    assert_eq!((row.known, row.joined_ms, row.ended_ms), (false, None, Some(145)));
    assert_eq!(row.outcome, Some(Outcome::Ended(EndReason::Missed)));
}

#[test]
fn a_silenced_call_is_over_at_once_and_can_be_joined_later() {
    let mut told = Told::new();
    told.tell(100, Event::CallSilenced { call: call(1), from: did(1), participants: vec![did(1)], known: true });
    let row = told.only();
    assert_eq!(
        (row.started_ms, row.ended_ms, row.outcome),
        (100, Some(100), Some(Outcome::Ended(EndReason::Silenced)))
    );
    told.tell(110, ended(1, EndReason::Silenced));
    assert_eq!(told.only().ended_ms, Some(100), "a call ends once");
    told.tell(120, joined(1));
    assert_eq!((told.only().joined_ms, told.only().ended_ms, told.only().outcome), (Some(120), None, None));
}

#[test]
fn a_call_that_is_joined_again_goes_on_in_its_row() {
    let mut told = Told::new();
    told.tell(100, rang(1));
    told.tell(110, joined(1));
    told.tell(120, ended(1, EndReason::HungUp));
    told.tell(130, joined(1));
    assert_eq!((told.only().joined_ms, told.only().ended_ms, told.only().outcome), (Some(110), None, None));
    told.tell(140, ended(1, EndReason::Empty));
    assert_eq!(told.only().ended_ms, Some(140));
    told.tell(150, rang(1));
    told.tell(160, ended(1, EndReason::Cancelled));
    let row = told.only();
    assert_eq!((row.started_ms, row.joined_ms, row.ended_ms), (100, Some(110), Some(160)));
    assert_eq!(row.outcome, Some(Outcome::Ended(EndReason::Cancelled)));
}

#[test]
fn what_a_killed_daemon_left_open_is_closed_when_it_was_last_heard_of() {
    let mut told = Told::new();
    told.tell(100, offered(1));
    told.tell(110, joined(1));
    told.tell(120, offered(2));
    told.tell(130, ended(2, EndReason::NoAnswer));
    told.tell(500, Event::MediaChanged { muted: true, deafened: false });
    told.killed_and_started();
    let rows = told.store.history(10, None).unwrap();
    let ends: Vec<_> = rows.iter().map(|row| (row.call, row.ended_ms, row.outcome)).collect();
    let no_answer = Outcome::Ended(EndReason::NoAnswer);
    let expected = [(call(2), Some(130), Some(no_answer)), (call(1), Some(500), Some(Outcome::Interrupted))];
    assert_eq!(ends, expected);
}

#[test]
fn a_call_that_is_rejoined_after_a_kill_is_one_call() {
    let mut told = Told::new();
    told.tell(100, offered(1));
    told.tell(110, joined(1));
    told.killed_and_started();
    told.tell(900, joined(1));
    assert_eq!((told.only().joined_ms, told.only().outcome), (Some(110), None));
    told.killed_and_started();
    // Whether its return was told as a joining or not, its end counts.
    told.tell(990, ended(1, EndReason::Empty));
    assert_eq!((told.only().ended_ms, told.only().outcome), (Some(990), Some(Outcome::Ended(EndReason::Empty))));
}

#[test]
fn an_interruption_that_is_told_later_does_not_move_the_end() {
    let mut told = Told::new();
    told.tell(100, rang(1));
    told.tell(110, joined(1));
    told.killed_and_started();
    told.tell(9_000, Event::CallInterrupted { call: call(1), from: did(1) });
    assert_eq!((told.only().ended_ms, told.only().outcome), (Some(110), Some(Outcome::Interrupted)));
}

#[test]
fn the_latest_calls_come_first_and_older_ones_by_the_page() {
    let mut told = Told::new();
    for number in 1..=5 {
        told.tell(u64::from(number) * 100, offered(number));
    }
    let page = |limit, before| {
        let rows = told.store.history(limit, before).unwrap();
        rows.iter().map(|row| row.started_ms).collect::<Vec<_>>()
    };
    assert_eq!(page(2, None), [500, 400]);
    assert_eq!(page(2, Some(400)), [300, 200]);
    assert_eq!(page(2, Some(200)), [100]);
    assert_eq!(page(0, None), [0; 0]);
    assert_eq!(page(9, Some(u64::MAX)), [500, 400, 300, 200, 100]);
}

#[test]
fn the_last_ten_thousand_calls_are_kept() {
    let mut told = Told::new();
    let insert = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
                  INSERT INTO history (call, direction, inviter, participants, known, started_ms)
                  SELECT i, 'in', '', '[]', 0, i FROM n";
    told.store.db.execute(insert, [KEPT_HISTORY]).unwrap();
    told.tell(u64::from(KEPT_HISTORY) + 1, offered(1));
    let bounds: (u32, i64) =
        told.store.db.query_row("SELECT count(*), min(started_ms) FROM history", [], |row| row.try_into()).unwrap();
    assert_eq!(bounds, (KEPT_HISTORY, 2));
}

#[test]
fn the_list_of_participants_ends_with_what_a_call_can_hold() {
    let mut told = Told::new();
    told.tell(100, Event::CallOffered { call: call(1), invitees: (10..100).map(did).collect() });
    assert_eq!(told.only().participants.len(), crate::proto::signal::MAX_PARTICIPANTS);
}

#[test]
fn a_row_that_cannot_be_read_hides_no_other() {
    let mut told = Told::new();
    told.tell(100, offered(1));
    let broken = "INSERT INTO history VALUES ('x', 'in', 'nobody', '[', 0, 200, NULL, NULL, 'eaten')";
    told.store.db.execute(broken, []).unwrap();
    assert_eq!(told.only().call, call(1));
}

#[test]
fn every_outcome_is_one_word_and_comes_back() {
    let words = [
        (Outcome::Interrupted, "interrupted"),
        (Outcome::Ended(EndReason::Silenced), "silenced"),
        (Outcome::Ended(EndReason::HungUp), "hung_up"),
        (Outcome::Ended(EndReason::AnsweredElsewhere), "answered_elsewhere"),
    ];
    for (outcome, expected) in words {
        assert_eq!(word(&outcome).unwrap(), expected);
        assert_eq!(from_word(expected), Some(outcome));
    }
}

#[test]
fn a_ringing_call_that_a_killed_daemon_left_is_missed_or_rings_on() {
    for rings_on in [false, true] {
        let mut told = Told::new();
        told.tell(100, rang(1));
        told.killed_and_started();
        if rings_on {
            told.tell(110, rang(1));
            assert_eq!((told.only().ended_ms, told.only().outcome), (None, None));
        }
        told.tell(120, ended(1, EndReason::Missed));
        assert_eq!((told.only().started_ms, told.only().ended_ms), (100, Some(120)));
        assert_eq!(told.only().outcome, Some(Outcome::Ended(EndReason::Missed)));
    }
}
