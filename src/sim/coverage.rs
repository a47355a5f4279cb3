//! What the runs exercised. A simulator that never loses a Hello proves nothing about lost Hellos.

use std::fmt;

macro_rules! marks {
    ($($name:ident => $words:literal,)*) => {
        /// Something worth having happened at least once in a suite of seeds.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Mark { $($name,)* }

        const MARKS: &[(Mark, &str)] = &[$((Mark::$name, $words),)*];
    };
}

marks! {
    Offer => "calls offered",
    GroupOffer => "group calls offered",
    Ring => "calls that rang",
    StrangerRing => "strangers' calls that rang",
    Accept => "calls accepted",
    AutoAccept => "calls accepted by configuration",
    Decline => "calls refused",
    Cancel => "calls taken back before an answer",
    RingTimeout => "calls missed",
    NoAnswer => "offers without answer",
    Unreachable => "offers that reached no device",
    Declined => "offers that everybody refused",
    Gone => "joins that met nobody",
    Empty => "calls that everybody else left",
    Leave => "calls left",
    WrongRequest => "wrong requests refused",
    TooManyCalls => "calls refused since too many are on hold",
    ClosedCall => "invitations into a closed call refused",
    TooFar => "invitations too far from the creator refused",
    BlockedInvitee => "invitations of blocked contacts refused",
    CrossingOffer => "crossing offers",
    Glare => "crossing offers that became one call",
    Superseded => "calls ended by a crossing one",
    Invited => "invitations into a running call",
    Held => "calls put on hold",
    Resumed => "calls taken from hold",
    ShownOnHold => "participants shown as on hold",
    JoinedAgain => "calls joined that were left or missed",
    Silenced => "calls that came and did not ring",
    ToldNotToDisturb => "callers told not to disturb",
    DeclineWithText => "calls refused with a few words",
    Blocked => "contacts blocked",
    RangOnTwoDevices => "calls that rang on a second device",
    AnsweredElsewhere => "rings that stopped since another device answered",
    MovedElsewhere => "calls that moved to another device",
    LostMessage => "transmissions lost",
    LostHello => "Hellos lost",
    MetByJoin => "participants first met by Join",
    MetByHello => "participants first met by Hello",
    AckedAgain => "duplicates acknowledged again",
    Retransmission => "messages sent again",
    Duplicate => "copies duplicated by the network",
    Replayed => "replays rejected",
    Tampered => "tampered copies rejected",
    Forwarded => "messages forwarded by a third node",
    Partition => "partitions",
    Healed => "partitions healed",
    Dialled => "participants dialled",
    LegUp => "legs connected",
    LegHung => "legs that hung",
    LegFailed => "legs that failed",
    LegLost => "legs that lost their network",
    LegRecovered => "legs that recovered",
    PathCut => "paths lost for good",
    IceRestarted => "ends that went on after an ICE restart",
    LegRepaired => "pairs connected again by a new leg",
    FirstAudio => "first audio heard",
    Reconnecting => "participants shown as reconnecting",
    MediaState => "participants' mute and deafen shown",
    Talked => "pushes to talk",
    BegunMuted => "calls begun muted",
    Recorded => "recordings begun",
    ShownRecording => "participants shown as recording",
    RecordingPaused => "recordings paused on hold",
    Restart => "daemons killed and started again",
    RestartInCall => "daemons killed in a call",
    LostWrite => "daemons killed before the last write reached the disk",
    Restored => "calls gone back into after a restart",
    RestoredRing => "calls that rang on after a restart",
    Interrupted => "calls not gone back into after a restart",
    Slept => "machines suspended",
    SleptInCall => "machines suspended in a call",
    ClockJump => "clocks that jumped",
    ClockSkew => "offers rejected for their time",
    InsiderReplay => "messages replayed by an insider",
    InsiderTransplant => "messages transplanted by an insider",
    InsiderForgery => "messages forged by an insider",
    SettledCall => "calls that still stood at the end",
    SettledPair => "pairs that heard each other at the end",
}

/// How often each [`Mark`] was made.
#[derive(Debug, Clone)]
pub struct Coverage {
    counts: [u64; MARKS.len()],
    pub seeds: u64,
    pub steps: u64,
}

impl Default for Coverage {
    fn default() -> Self {
        Self { counts: [0; MARKS.len()], seeds: 0, steps: 0 }
    }
}

impl Coverage {
    pub fn of_one_seed() -> Self {
        Self { seeds: 1, ..Self::default() }
    }

    pub fn mark(&mut self, mark: Mark) {
        self.counts[mark as usize] += 1;
    }

    pub fn count(&self, mark: Mark) -> u64 {
        self.counts[mark as usize]
    }

    pub fn add(&mut self, other: &Self) {
        for (sum, count) in self.counts.iter_mut().zip(other.counts) {
            *sum += count;
        }
        self.seeds += other.seeds;
        self.steps += other.steps;
    }

    /// The marks that were never made, by their words.
    pub fn missing(&self) -> Vec<&'static str> {
        MARKS.iter().filter(|(mark, _)| self.count(*mark) == 0).map(|(_, words)| *words).collect()
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:>10} seeds\n{:>10} steps", self.seeds, self.steps)?;
        MARKS.iter().try_for_each(|(mark, words)| writeln!(f, "{:>10} {words}", self.count(*mark)))
    }
}
