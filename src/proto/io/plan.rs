//! What the audio thread is to do.

use std::collections::{BTreeMap, BTreeSet};

use crate::proto::id::{CallId, Did, LegId};

/// What the sound card is to do: derived from the whole state, sent whenever it changes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AudioPlan {
    /// The legs of the active call: only these get the microphone's sound, and only these are heard.
    pub legs: BTreeSet<LegId>,
    /// Capture and encode: consent, not on hold, a joined leg up.
    pub microphone: bool,
    /// Play what [`Self::legs`] bring.
    pub playback: bool,
    /// Send silence instead of the microphone.
    pub muted: bool,
    /// Play silence instead of the legs.
    pub deafened: bool,
    /// An incoming call rings.
    pub ring: bool,
    /// The active call was offered from here, nobody is there yet, and it rings with somebody.
    pub ring_back: bool,
    /// What is said is written down. Everybody in the call was told so before, and only who acknowledged it is in it.
    pub recording: Option<Recorded>,
}

/// What of the active call is written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// The call.
    pub call: CallId,
    /// Those of [`AudioPlan::legs`] whose sound may be written down, and whose it is.
    pub who: BTreeMap<LegId, Did>,
}

impl AudioPlan {
    /// Anything of a call is to be heard or said.
    pub fn is_heard(&self) -> bool {
        self.microphone || self.playback || self.ring || self.ring_back
    }
}
