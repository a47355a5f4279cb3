//! What became of the calls that rang here: who presses `accept` when somebody else was faster is told so.

use std::collections::VecDeque;

use crate::proto::{
    id::CallId,
    io::{EndReason, Event},
};

/// Calls that are remembered; the oldest go.
const KEPT: usize = 64;

/// The latest calls that rang, oldest first.
#[derive(Debug, Default)]
pub(super) struct Rung(VecDeque<(CallId, Fate)>);

/// What became of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Rings,
    Joined,
    Ended(EndReason),
}

impl Rung {
    /// Follows the calls.
    pub(super) fn note(&mut self, event: &Event) {
        match event {
            Event::CallRang { call, .. } => {
                self.0.retain(|(other, _)| other != call);
                if self.0.len() == KEPT {
                    self.0.pop_front();
                }
                self.0.push_back((*call, Fate::Rings));
            }
            Event::CallJoined { call } => self.set(*call, Fate::Joined),
            // What became of it once it was joined is another story.
            Event::CallEnded { call, reason } if self.fate(*call) == Some(Fate::Rings) => {
                self.set(*call, Fate::Ended(*reason));
            }
            Event::CallEnded { .. }
            | Event::CallOffered { .. }
            | Event::CallInvited { .. }
            | Event::CallHeld { .. }
            | Event::CallResumed { .. }
            | Event::CallSilenced { .. }
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
            | Event::EventsMarked { .. } => {}
        }
    }

    /// What became of the call with this id or beginning of one, or of the latest one, in words; `None`: it rings, or nothing
    /// is known of it.
    pub(super) fn story(&self, text: Option<&str>) -> Option<String> {
        let prefix = text.map(|text| text.trim().to_ascii_lowercase());
        let mut found = self.0.iter().rev();
        let (call, fate) = match prefix {
            None => found.next()?,
            Some(prefix) if prefix.is_empty() => return None,
            Some(prefix) => found.find(|(call, _)| call.to_string().starts_with(&prefix))?,
        };
        let what = match fate {
            Fate::Rings => return None,
            Fate::Joined => "it was accepted",
            Fate::Ended(EndReason::Rejected) => "it was rejected",
            Fate::Ended(EndReason::Cancelled) => "the caller took it back",
            Fate::Ended(EndReason::Missed) => "it was missed",
            Fate::Ended(EndReason::AnsweredElsewhere) => "another device answered it",
            Fate::Ended(EndReason::Superseded) => "you called each other, and the other call goes on",
            Fate::Ended(
                EndReason::HungUp
                | EndReason::Silenced
                | EndReason::Declined
                | EndReason::Busy
                | EndReason::NoAnswer
                | EndReason::Unreachable
                | EndReason::Gone
                | EndReason::Empty
                | EndReason::Stopped,
            ) => "it is over",
        };
        Some(format!("the call {call} does not ring any more: {what}"))
    }

    fn fate(&self, call: CallId) -> Option<Fate> {
        self.0.iter().find(|(other, _)| *other == call).map(|(_, fate)| *fate)
    }

    fn set(&mut self, call: CallId, fate: Fate) {
        if let Some((_, known)) = self.0.iter_mut().find(|(other, _)| *other == call) {
            *known = fate;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::views::samples::did_of;

    fn id(byte: u8) -> CallId {
        CallId::from_bytes([byte; 16])
    }

    fn rang(byte: u8) -> Event {
        Event::CallRang { call: id(byte), from: did_of(2), participants: Vec::new(), known: true }
    }

    fn ended(byte: u8, reason: EndReason) -> Event {
        Event::CallEnded { call: id(byte), reason }
    }

    #[test]
    fn a_call_that_does_not_ring_any_more_has_its_story_and_one_that_rings_has_none() {
        let mut rung = Rung::default();
        let events = [rang(0x11), ended(0x11, EndReason::Cancelled), rang(0x22), Event::CallJoined { call: id(0x22) }];
        for event in events {
            rung.note(&event);
        }
        let cancelled = format!("the call {} does not ring any more: the caller took it back", id(0x11));
        assert_eq!(rung.story(Some("1111")), Some(cancelled));
        let accepted = rung.story(None).unwrap();
        assert!(accepted.ends_with("it was accepted") && accepted.contains(&id(0x22).to_string()), "{accepted}");
        rung.note(&ended(0x22, EndReason::HungUp));
        assert_eq!(rung.story(Some("22")).as_ref(), Some(&accepted), "how a call ended is not why it stopped ringing");
        rung.note(&rang(0x33));
        assert_eq!((rung.story(None), rung.story(Some("")), rung.story(Some("44"))), (None, None, None));
        rung.note(&ended(0x55, EndReason::Missed));
        assert_eq!(rung.story(Some("55")), None, "it never rang");
    }

    #[test]
    fn it_does_not_grow_with_the_calls() {
        let mut rung = Rung::default();
        for byte in 0..=255 {
            rung.note(&rang(byte));
            rung.note(&rang(byte));
        }
        assert_eq!(rung.0.len(), KEPT);
        assert_eq!(rung.0.back(), Some(&(id(255), Fate::Rings)));
    }
}
