//! Which device a port is to have: what the user chose, what there is, and where the sound server has put the stream.
//! Pure.

use super::watch::Seen;

/// What the user chose for one port.
#[derive(Debug)]
pub struct Choice {
    /// `default`, or a device's name or description.
    wanted: String,
    /// Where the user moved the stream by means of the sound server, until the port closes.
    moved_to: Option<String>,
    /// Where the stream was seen last, and that device's number then.
    at: Option<(String, u32)>,
}

/// What is to be done with a port that is open.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// Nothing.
    Stay,
    /// The stream is elsewhere by now, and stays there.
    Moved(&'a str),
    /// Another device should be opened.
    Switch,
}

impl Choice {
    /// Chosen: `default` (or nothing), or a device.
    pub fn new(wanted: &str) -> Self {
        Self { wanted: wanted.to_owned(), moved_to: None, at: None }
    }

    /// What to open.
    pub fn name(&self) -> &str {
        self.moved_to.as_deref().unwrap_or(&self.wanted)
    }

    /// The user chose the same for both, wherever the streams are by now.
    pub fn is_chosen_like(&self, other: &Self) -> bool {
        self.wanted == other.wanted || (is_default(&self.wanted) && is_default(&other.wanted))
    }

    /// Where the stream was moved does not count any more.
    pub fn forget_move(&mut self) {
        self.moved_to = None;
    }

    /// What is to be done while `open` is open.
    pub fn step<'a>(&mut self, open: &str, seen: &'a Seen) -> Step<'a> {
        let target = self.target(seen);
        // A server that moves the stream of a device that vanished, and may be back by now, has moved it anywhere: the own rule
        // decides where to.
        if let Some(number) = seen.number(open) {
            if let Some(at) = seen.moved_from(open) {
                let was_unplugged = self.at.as_ref().is_some_and(|(name, was)| name == open && *was != number);
                if target != Some(at) && !was_unplugged {
                    self.moved_to = Some(at.to_owned());
                }
                return Step::Moved(at);
            }
            self.at = Some((open.to_owned(), number));
        }
        match target {
            Some(target) if target != open => Step::Switch,
            Some(_) | None => Step::Stay,
        }
    }

    /// The device that should be open: the one that was chosen, or the default as long as that is not there.
    fn target<'a>(&self, seen: &'a Seen) -> Option<&'a str> {
        let moved_to = self.moved_to.as_deref().and_then(|name| seen.find(name));
        moved_to.or_else(|| seen.find(&self.wanted)).or(seen.default.as_deref())
    }
}

/// Whether this is the word for the sound system's own choice.
pub fn is_default(wanted: &str) -> bool {
    wanted.is_empty() || wanted == "default"
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::audio::watch::Listed;

    fn listed(name: &str, number: u32) -> Listed {
        Listed { name: name.to_owned(), description: format!("the {name}"), number }
    }

    fn seen(devices: &[&str], default: &str, ours: &[&str]) -> Seen {
        Seen {
            at: Instant::now(),
            devices: devices.iter().map(|name| listed(name, 1)).collect(),
            default: Some(default.to_owned()),
            ours: ours.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    #[test]
    fn a_device_that_vanishes_is_replaced_by_the_default_and_comes_back_by_itself() {
        let mut choice = Choice::new("the headset");
        let both = seen(&["headset", "loudspeaker"], "loudspeaker", &["headset"]);
        assert_eq!(choice.step("headset", &both), Step::Stay);
        // The server may have moved the stream by then, to anywhere.
        for ours in [&[][..], &["loudspeaker"], &["hdmi"]] {
            assert_eq!(choice.step("headset", &seen(&["loudspeaker", "hdmi"], "loudspeaker", ours)), Step::Switch);
        }
        assert_eq!(choice.step("loudspeaker", &seen(&["loudspeaker"], "loudspeaker", &["loudspeaker"])), Step::Stay);
        let again = seen(&["headset", "loudspeaker"], "loudspeaker", &["loudspeaker"]);
        assert_eq!(choice.step("loudspeaker", &again), Step::Switch);
    }

    #[test]
    fn the_default_is_followed_whether_the_server_moves_the_stream_or_not() {
        let mut choice = Choice::new("default");
        assert_eq!(choice.step("a", &seen(&["a", "b"], "b", &["a"])), Step::Switch);
        assert_eq!(choice.step("a", &seen(&["a", "b"], "b", &["b"])), Step::Moved("b"));
        assert_eq!(choice.step("b", &seen(&["a", "b"], "b", &["b"])), Step::Stay);
        assert_eq!(choice.name(), "default", "nothing but the default was chosen");
    }

    #[test]
    fn a_stream_that_the_user_moves_stays_there_until_the_device_is_gone() {
        let mut choice = Choice::new("a");
        assert_eq!(choice.step("a", &seen(&["a", "b"], "a", &["b"])), Step::Moved("b"));
        assert_eq!(choice.step("b", &seen(&["a", "b"], "a", &["b"])), Step::Stay);
        assert_eq!(choice.step("b", &seen(&["a"], "a", &["a"])), Step::Switch);
    }

    #[test]
    fn a_device_that_was_unplugged_and_is_back_when_somebody_looks_is_gone_back_to() {
        let mut choice = Choice::new("a");
        assert_eq!(choice.step("a", &seen(&["a", "b"], "b", &["a"])), Step::Stay);
        let rescued = Seen { devices: vec![listed("a", 2), listed("b", 1)], ..seen(&[], "b", &["b"]) };
        assert_eq!(choice.step("a", &rescued), Step::Moved("b"));
        assert_eq!(choice.step("b", &rescued), Step::Switch);
        assert_eq!(choice.name(), "a");
    }

    #[test]
    fn two_ports_have_the_same_device_chosen_whatever_became_of_the_streams() {
        let (mut output, ring) = (Choice::new("a"), Choice::new("a"));
        assert_eq!(output.step("a", &seen(&["a", "b"], "a", &["a"])), Step::Stay);
        assert!(output.is_chosen_like(&ring), "it was in use");
        assert_eq!(output.step("a", &seen(&["a", "b"], "a", &["b"])), Step::Moved("b"));
        assert!(ring.is_chosen_like(&output), "it was moved");
        assert!(Choice::new("default").is_chosen_like(&Choice::new("")) && !ring.is_chosen_like(&Choice::new("b")));
    }

    #[test]
    fn without_any_device_nothing_is_tried() {
        let nothing = Seen { default: None, ..seen(&[], "", &[]) };
        assert_eq!(Choice::new("default").step("a", &nothing), Step::Stay);
    }
}
