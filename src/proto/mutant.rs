//! Wrong rules: each is one line of the engine that a test can make wrong, to see whether the simulator notices.
//!
//! Outside of tests `mutant!(…)` is `false`, and nothing of this exists.

/// Whether this rule is wrong at the moment; never outside of tests.
#[cfg(not(test))]
macro_rules! mutant {
    ($rule:ident) => {
        false
    };
}
#[cfg(test)]
macro_rules! mutant {
    ($rule:ident) => {
        $crate::proto::mutant::is_active($crate::proto::mutant::Mutant::$rule)
    };
}
pub(crate) use mutant;

#[cfg(test)]
pub use in_tests::{Mutant, is_active, set};

#[cfg(test)]
mod in_tests {
    use std::cell::Cell;

    macro_rules! mutants {
        ($($name:ident => $words:literal,)*) => {
            /// A rule that can be made wrong.
            #[derive(Debug, Clone, Copy, PartialEq, Eq)]
            pub enum Mutant { $($name,)* }

            impl Mutant {
                /// All of them, and what each does.
                pub const ALL: &[(Self, &str)] = &[$((Self::$name, $words),)*];
            }
        };
    }

    mutants! {
        HigherInitiates => "the higher DID initiates",
        CancelIgnored => "a Cancel is ignored",
        NoSeenSet => "an offer that was seen rings again",
        NoJoin => "no Join, only Hello",
        LeaveForGood => "a Leave ends every stay, later ones, too",
        EarlyCancelForgotten => "a Cancel that overtakes its Offer is forgotten",
        AckedOnce => "a repetition is not acknowledged again",
        AckIgnored => "what was acknowledged is sent again",
        GlareBothWin => "in glare each believes that its own call wins",
        GlareHigherWins => "in glare the higher call id wins",
        MicrophoneEarly => "the microphone is open before anybody joined",
        RingsOn => "an expired invitation rings on",
        SecondLegEarly => "a second leg is opened before the first is closed",
        StayNotAbove => "a stay is not numbered above the stored one",
        HoldKeepsMicrophone => "hold keeps the microphone open",
        BlockedIsTold => "a blocked caller gets a Decline",
        DevicesApart => "devices of one DID do not notice each other",
        ElsewhereAloud => "a device that gives way says Leave",
        DeclinedComesIn => "who declined comes in by a Join",
        RecordingUntold => "a recording is not told",
        RecordingToldLate => "a recording begins before it is told",
        RecordsWhoDoesNotKnow => "who has not acknowledged a recording is in it",
        KnowsForEver => "who knew of a recording is in the next one at once",
        HoldKeepsRecording => "a call on hold is recorded on",
        OldStateCounts => "an older State replaces a newer one",
        StrangersRingOn => "the same stranger rings again and again",
        QuietRings => "it rings although the user wants to hear no calls",
        NotWrittenDown => "what this device is in is not written down",
        NoGrace => "a call that everybody left goes on",
        TalkIgnored => "push-to-talk leaves the microphone open",
        TalksForEver => "a push to talk never ends",
        TalkOutlivesCall => "a push to talk outlives its call, and holds in the next",
        BeginsAloud => "a call does not begin muted",
        NobodyAnswersJoin => "a Join is not answered with one's own",
    }

    thread_local! {
        static ACTIVE: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    /// Makes this rule wrong, and no other, for what this thread does from now on.
    pub fn set(mutant: Option<Mutant>) {
        ACTIVE.set(mutant);
    }

    /// Whether this rule is wrong.
    pub fn is_active(mutant: Mutant) -> bool {
        ACTIVE.get() == Some(mutant)
    }
}
