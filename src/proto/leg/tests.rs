//! Decisions of one leg, without a network: what is asked of its connection, and what of the peer.

use std::sync::LazyLock;

use super::*;
use crate::proto::id::LegId;

const OURS: [u8; 32] = [1; 32];
const THEIRS: [u8; 32] = [2; 32];

/// A leg and its clock.
struct Bench {
    leg: Leg,
    now: Instant,
    last_leg: u64,
}

impl Bench {
    fn new(role: Role) -> Self {
        #[expect(clippy::disallowed_methods, reason = "tests need some instant to start from")]
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        Self { leg: Leg::new(role, *START), now: *START, last_leg: 0 }
    }

    /// A connection that came up as attempt 1, and has been up for long.
    fn up(role: Role) -> Self {
        let mut bench = Self::new(role);
        match role {
            Role::Initiator => {
                bench.act(|leg, cx| leg.advance(cx));
                bench.report(LegEvent::Description { sdp: String::new(), fingerprint: OURS });
                bench.sdp(1, SdpKind::Answer, THEIRS);
            }
            Role::Answerer => {
                bench.sdp(1, SdpKind::Offer, THEIRS);
                bench.report(LegEvent::Description { sdp: String::new(), fingerprint: OURS });
            }
        }
        bench.report(LegEvent::Connected);
        assert!(bench.leg.is_up());
        bench.now += 2 * STEADY;
        bench
    }

    /// What is done, in words.
    fn act(&mut self, decide: impl FnOnce(&mut Leg, &mut Context<'_>)) -> Vec<String> {
        let mut cx = Context { now: self.now, round_trip: None, last_leg: &mut self.last_leg, actions: Vec::new() };
        decide(&mut self.leg, &mut cx);
        let said = |action: &Action| match action {
            Action::Open(id, _) => Some(format!("open {}", id.0)),
            Action::Command(id, LegCommand::Remote(sdp)) => Some(format!("remote {} to {}", sdp.attempt, id.0)),
            Action::Command(id, LegCommand::Candidates(ice)) => Some(format!("candidates {} to {}", ice.attempt, id.0)),
            Action::Command(id, LegCommand::RestartIce) => Some(format!("restart {}", id.0)),
            Action::Command(id, LegCommand::Close) => Some(format!("close {}", id.0)),
            Action::Command(_, LegCommand::Open { .. }) => panic!("a leg is opened by Action::Open"),
            Action::Send(Body::Sdp(sdp)) => Some(format!("send description {}", sdp.attempt)),
            Action::Send(Body::Restart(attempt)) => Some(format!("ask after {attempt}")),
            Action::Send(_) | Action::DropSignals => None,
        };
        cx.actions.iter().filter_map(said).collect()
    }

    /// The present connection reports.
    fn report(&mut self, event: LegEvent) -> Vec<String> {
        let id = self.leg.id().unwrap_or(LegId(0));
        self.act(|leg, cx| leg.handle_event(id, event, cx))
    }

    fn sdp(&mut self, attempt: u32, kind: SdpKind, fingerprint: [u8; 32]) -> Vec<String> {
        let sdp = Sdp { attempt, kind, sdp: String::new(), fingerprint };
        self.act(|leg, cx| leg.handle_sdp(sdp, cx))
    }

    fn candidates(&mut self, attempt: u32) -> Vec<String> {
        let ice = Ice { attempt, candidates: vec!["candidate".into()] };
        self.act(|leg, cx| leg.handle_ice(ice, cx))
    }

    /// Lets the time come that the leg waits for.
    fn wait(&mut self) -> Vec<String> {
        self.now = self.now.max(self.leg.deadline().expect("it waits for something"));
        self.act(Leg::advance)
    }
}

fn description() -> LegEvent {
    LegEvent::Description { sdp: String::new(), fingerprint: OURS }
}

#[test]
fn a_lost_path_restarts_ice_at_once_and_keeps_the_connection() {
    let mut bench = Bench::up(Role::Initiator);
    assert_eq!(bench.report(LegEvent::Disconnected), ["restart 1"]);
    assert_eq!(bench.report(description()), ["send description 2"]);
    assert!(bench.candidates(1).is_empty() && bench.candidates(2).is_empty());
    assert_eq!(bench.sdp(2, SdpKind::Answer, THEIRS), ["remote 2 to 1", "candidates 2 to 1"]);
    assert_eq!(bench.candidates(2), ["candidates 2 to 1"]);
    assert!(bench.report(LegEvent::Recovered).is_empty());
    assert!(bench.leg.is_up() && bench.leg.down_since().is_none() && bench.leg.deadline().is_none());
}

#[test]
fn the_answerer_asks_and_gives_what_is_offered_to_the_same_connection() {
    let mut bench = Bench::up(Role::Answerer);
    assert_eq!(bench.report(LegEvent::Disconnected), ["ask after 1"]);
    assert!(bench.candidates(2).is_empty());
    assert_eq!(bench.sdp(2, SdpKind::Offer, THEIRS), ["remote 2 to 1", "candidates 2 to 1"]);
    assert_eq!(bench.report(description()), ["send description 2"]);
    assert!(bench.report(LegEvent::Recovered).is_empty() && bench.leg.is_up());
}

#[test]
fn a_restart_that_does_not_help_in_time_ends_in_a_new_connection_after_the_old_one_is_closed() {
    let mut bench = Bench::up(Role::Initiator);
    bench.report(LegEvent::Disconnected);
    let began = bench.now;
    assert_eq!(bench.wait(), ["close 1"]);
    assert_eq!(bench.now - began, PATIENCE);
    assert_eq!(bench.report(LegEvent::Closed), ["open 2"]);
    assert_eq!(bench.report(description()), ["send description 3"]);
    assert_eq!(bench.leg.down_since(), Some(began), "it is down since its media fell silent");
}

#[test]
fn a_path_that_comes_back_before_the_answer_is_used_until_then() {
    let mut bench = Bench::up(Role::Initiator);
    bench.report(LegEvent::Disconnected);
    bench.report(description());
    assert!(bench.report(LegEvent::Recovered).is_empty());
    assert!(bench.leg.is_up() && bench.leg.deadline().is_none());
    assert_eq!(bench.sdp(2, SdpKind::Answer, THEIRS), ["remote 2 to 1"]);
    assert!(bench.report(LegEvent::Disconnected).is_empty(), "the way to the new path, and no reason for a third");
    assert!(bench.report(LegEvent::Recovered).is_empty() && bench.leg.is_up());
}

#[test]
fn who_is_asked_restarts_ice_first_and_makes_a_new_connection_when_asked_again() {
    let mut bench = Bench::up(Role::Initiator);
    assert_eq!(bench.act(|leg, cx| leg.handle_restart(1, cx)), ["restart 1"]);
    assert!(bench.leg.is_up(), "media may well flow in this direction");
    assert!(bench.act(|leg, cx| leg.handle_restart(1, cx)).is_empty(), "an old wish");
    assert_eq!(bench.act(|leg, cx| leg.handle_restart(2, cx)), ["close 1"]);
}

#[test]
fn a_new_path_to_a_connection_that_is_closed_is_refused_and_one_to_another_certificate_is_a_new_connection() {
    let mut bench = Bench::up(Role::Answerer);
    assert_eq!(bench.report(LegEvent::Failed), ["close 1", "ask after 1"]);
    assert!(bench.report(LegEvent::Closed).is_empty());
    assert_eq!(bench.sdp(2, SdpKind::Offer, THEIRS), ["ask after 2"]);
    assert_eq!(bench.sdp(3, SdpKind::Offer, [3; 32]), ["open 2", "remote 3 to 2"]);
    let mut bench = Bench::up(Role::Answerer);
    assert_eq!(bench.sdp(2, SdpKind::Offer, [3; 32]), ["close 1"]);
    assert_eq!(bench.report(LegEvent::Closed), ["open 2", "remote 2 to 2"]);
}

#[test]
fn an_answer_of_another_certificate_to_a_restart_means_that_the_far_connection_is_gone() {
    let mut bench = Bench::up(Role::Initiator);
    bench.report(LegEvent::Disconnected);
    assert!(bench.candidates(2).is_empty(), "whose they are is not known yet");
    assert_eq!(bench.sdp(2, SdpKind::Answer, [3; 32]), ["close 1"]);
    assert_eq!(bench.report(LegEvent::Closed), ["open 2"]);
}

#[test]
fn neither_a_flapping_path_nor_a_peer_who_always_asks_makes_a_storm() {
    for asks in [false, true] {
        let mut bench = Bench::up(Role::Initiator);
        let (begin, mut attempts) = (bench.now, 0);
        while bench.now < begin + Duration::from_secs(60) {
            let mut done = if asks {
                let attempt = bench.leg.attempt();
                bench.act(|leg, cx| leg.handle_restart(attempt, cx))
            } else {
                bench.report(LegEvent::Disconnected)
            };
            done.extend(bench.act(Leg::advance));
            if done.iter().any(|done| done.starts_with("restart")) {
                // The new path is found at once, and lost as soon.
                let attempt = bench.leg.attempt();
                bench.sdp(attempt, SdpKind::Answer, THEIRS);
                bench.report(LegEvent::Recovered);
            }
            if done.iter().any(|action| action.starts_with("close")) {
                done.extend(bench.report(LegEvent::Closed));
            }
            attempts += done.iter().filter(|done| done.starts_with("restart") || done.starts_with("open")).count();
            bench.now += Duration::from_millis(10);
        }
        assert!((8..25).contains(&attempts), "asked: {asks}, {attempts} attempts in a minute");
    }
}
