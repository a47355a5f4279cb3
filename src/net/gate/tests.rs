//! Which connections are let in, and which of two stays.

use super::*;

const RTT: Duration = Duration::from_millis(40);

fn two_peers() -> (PeerId, PeerId) {
    let (one, other) = (PeerId::random(), PeerId::random());
    if one < other { (one, other) } else { (other, one) }
}

fn address() -> Multiaddr {
    "/ip4/192.0.2.7/tcp/1".parse().unwrap()
}

fn id(number: usize) -> ConnectionId {
    ConnectionId::new_unchecked(number)
}

/// One node's gate, driven as the swarm drives it.
struct Node {
    gate: Gate,
    peer: PeerId,
    open: Vec<ConnectionId>,
}

impl Node {
    fn new(local: PeerId, peer: PeerId) -> Self {
        Self { gate: Gate::new(local), peer, open: Vec::new() }
    }

    fn begin(&mut self, number: usize, outbound: bool, at: Instant) {
        if outbound { self.gate.dialled(id(number), at) } else { self.gate.knocked(id(number), &address(), at) }
            .unwrap();
    }

    /// Returns the connections that are closed now, the new one included when it is refused.
    fn establish(&mut self, number: usize, outbound: bool, at: Instant) -> Vec<ConnectionId> {
        match self.gate.judge(id(number), &self.peer, outbound, at) {
            Ok(admission) => {
                self.open.push(id(number));
                let replaced = self.gate.established(id(number), self.peer, outbound, address(), admission, at);
                replaced.iter().for_each(|old| self.close(*old));
                replaced
            }
            Err(_) => {
                self.gate.failed(id(number));
                vec![id(number)]
            }
        }
    }

    fn close(&mut self, old: ConnectionId) {
        self.open.retain(|open| *open != old);
        self.gate.closed(old, &self.peer);
    }
}

/// Both nodes dial at their own time; connection 1 is dialled by the lower, connection 2 by the higher peer. Each event
/// reaches each side at a time of its own. Returns what is left on either side.
fn cross(dial_offset: Duration, lower_order: [usize; 2], higher_order: [usize; 2]) -> [Vec<ConnectionId>; 2] {
    let (low, high) = two_peers();
    let (mut lower, mut higher) = (Node::new(low, high), Node::new(high, low));
    let start = Instant::now();
    lower.begin(1, true, start);
    higher.begin(1, false, start + RTT / 2);
    higher.begin(2, true, start + dial_offset);
    lower.begin(2, false, start + dial_offset + RTT / 2);
    let mut closed = Vec::new();
    for (at, (on_lower, on_higher)) in lower_order.into_iter().zip(higher_order).enumerate() {
        let now = start + RTT + dial_offset + Duration::from_millis(at as u64);
        closed.extend(lower.establish(on_lower, on_lower == 1, now));
        closed.extend(higher.establish(on_higher, on_higher == 2, now));
    }
    // What one side closes is closed on the other a little later.
    for old in closed {
        lower.close(old);
        higher.close(old);
    }
    [lower.open, higher.open]
}

#[test]
fn crossing_dials_leave_the_same_single_connection_on_both_sides_in_any_order() {
    for offset_ms in [0, 1, 5, 10, 19] {
        for lower_order in [[1, 2], [2, 1]] {
            for higher_order in [[1, 2], [2, 1]] {
                let left = cross(Duration::from_millis(offset_ms), lower_order, higher_order);
                assert_eq!(left, [vec![id(1)], vec![id(1)]], "{offset_ms} ms, {lower_order:?} {higher_order:?}");
            }
        }
    }
}

/// The peer came back: this node still has a connection that `older_outbound` says who dialled, and one arrives (or is
/// dialled) `after` it came up.
fn comes_back(local_is_lower: bool, older_outbound: bool, newer_outbound: bool, after: Duration) -> Vec<ConnectionId> {
    let (low, high) = two_peers();
    let (local, peer) = if local_is_lower { (low, high) } else { (high, low) };
    let mut node = Node::new(local, peer);
    let start = Instant::now();
    node.begin(1, older_outbound, start);
    node.establish(1, older_outbound, start + RTT);
    node.begin(2, newer_outbound, start + RTT + after);
    node.establish(2, newer_outbound, start + RTT + after + RTT);
    node.open
}

#[test]
fn a_peer_that_came_back_replaces_its_old_connection_whoever_dialled_and_whoever_is_lower() {
    for local_is_lower in [false, true] {
        for older_outbound in [false, true] {
            for newer_outbound in [false, true] {
                let left = comes_back(local_is_lower, older_outbound, newer_outbound, 3 * RTT);
                assert_eq!(left, [id(2)], "{local_is_lower} {older_outbound} {newer_outbound}");
            }
        }
    }
}

#[test]
fn a_slow_handshake_does_not_keep_a_peer_out_for_longer_than_a_second() {
    let (low, high) = two_peers();
    let mut node = Node::new(low, high);
    let start = Instant::now();
    node.begin(1, true, start);
    let up = start + Duration::from_secs(8);
    node.establish(1, true, up);
    node.begin(2, false, up + MAX_SLACK + Duration::from_millis(1));
    node.establish(2, false, up + MAX_SLACK + RTT);
    assert_eq!(node.open, [id(2)]);
}

#[test]
fn of_two_parallel_own_dials_the_first_stays() {
    let (low, high) = two_peers();
    for (local, peer) in [(low, high), (high, low)] {
        let mut node = Node::new(local, peer);
        let start = Instant::now();
        node.begin(1, true, start);
        node.begin(2, true, start);
        assert_eq!(node.establish(1, true, start + RTT), []);
        assert_eq!(node.establish(2, true, start + RTT), [id(2)]);
        assert_eq!(node.open, [id(1)]);
    }
}

#[test]
fn of_two_parallel_dials_of_the_peer_both_stay_until_it_chooses_or_its_time_is_over() {
    let (low, high) = two_peers();
    let mut node = Node::new(low, high);
    let start = Instant::now();
    node.begin(1, false, start);
    node.begin(2, false, start);
    assert_eq!(node.establish(1, false, start + RTT), []);
    assert_eq!(node.establish(2, false, start + RTT), []);
    assert!(node.gate.undecided());
    assert_eq!(node.gate.leftovers(start), []);
    assert_eq!(node.gate.leftovers(start + 2 * RTT), [(high, id(1))]);
    assert!(!node.gate.undecided());
    assert_eq!(node.gate.peers().map(|(_, link)| link.id).collect::<Vec<_>>(), [id(2)]);
}

#[test]
fn of_two_parallel_dials_of_the_peer_the_one_that_it_speaks_on_stays() {
    for chosen in [1, 2] {
        let (low, high) = two_peers();
        let mut node = Node::new(low, high);
        let start = Instant::now();
        for number in [1, 2] {
            node.begin(number, false, start);
            node.establish(number, false, start + RTT);
        }
        assert_eq!(node.gate.spoke(id(chosen), &high), [id(3 - chosen)]);
        assert_eq!(node.gate.spoke(id(3 - chosen), &high), [], "the last words of the other change nothing");
        assert!(!node.gate.undecided());
    }
}

#[test]
fn strangers_neither_fill_the_places_of_known_peers_nor_make_the_gate_grow() {
    let (low, high) = two_peers();
    let mut gate = Gate::new(low);
    gate.know(high);
    let now = Instant::now();
    let mut number = 0;
    let mut knock = |gate: &mut Gate, peer: PeerId| {
        number += 1;
        gate.knocked(id(number), &address(), now).unwrap();
        let verdict = gate.judge(id(number), &peer, false, now);
        match verdict {
            Ok(admission) => drop(gate.established(id(number), peer, false, address(), admission, now)),
            Err(_) => gate.failed(id(number)),
        }
        verdict.map(|_| id(number))
    };
    let mut strangers = Vec::new();
    for _ in 0..3 * MAX_INBOUND {
        let stranger = PeerId::random();
        if let Ok(open) = knock(&mut gate, stranger) {
            strangers.push((open, stranger));
        }
    }
    assert_eq!(strangers.len(), MAX_INBOUND);
    assert!(knock(&mut gate, high).is_ok());
    for (open, stranger) in strangers {
        gate.closed(open, &stranger);
    }
    assert_eq!(gate.links.len(), 1, "nothing is left of who is gone");
    assert!(gate.pending_inbound.is_empty() && gate.closing.is_empty());
}

/// A gate whose strangers' places are full. They came one after the other, a millisecond apart, each as its number says.
fn full(address: impl Fn(usize) -> String) -> (Gate, Vec<PeerId>, Instant) {
    let mut gate = Gate::new(PeerId::random());
    let mut now = Instant::now();
    let mut strangers = Vec::new();
    for number in 0..MAX_INBOUND {
        now += Duration::from_millis(1);
        let stranger = PeerId::random();
        let admission = gate.judge(id(number), &stranger, false, now).unwrap();
        gate.established(id(number), stranger, false, address(number).parse().unwrap(), admission, now);
        strangers.push(stranger);
    }
    assert_eq!(gate.judge(id(9999), &PeerId::random(), false, now), Err(Refusal::Crowded));
    (gate, strangers, now)
}

fn from_anywhere(number: usize) -> String {
    format!("/ip4/192.0.2.{number}/tcp/1")
}

#[test]
fn of_strangers_who_fill_all_places_the_oldest_that_is_subscribed_to_nothing_gives_way_to_whoever_comes() {
    let (mut gate, strangers, now) = full(from_anywhere);
    let subscribed = |peer: &PeerId| *peer == strangers[0] || *peer == strangers[2];
    assert_eq!(gate.make_room(subscribed, now), None, "they came a moment ago");
    let now = now + PROBATION;
    for gone in [1, 3, 4] {
        assert_eq!(gate.make_room(subscribed, now), Some((strangers[gone], vec![id(gone)])));
        let stranger = PeerId::random();
        assert_eq!(gate.judge(id(1000 + gone), &stranger, false, now), Ok(Admission::Alone));
        let from = from_anywhere(MAX_INBOUND + gone).parse().unwrap();
        gate.established(id(1000 + gone), stranger, false, from, Admission::Alone, now);
        assert_eq!(gate.judge(id(9999), &PeerId::random(), false, now), Err(Refusal::Crowded));
    }
}

#[test]
fn of_strangers_from_one_source_the_oldest_gives_way_whatever_they_are_subscribed_to() {
    let crowd = |number: usize| match number {
        0..20 => from_anywhere(number),
        _ => format!("/ip6/2001:db8::{number:x}/tcp/1"),
    };
    let (mut gate, strangers, now) = full(crowd);
    for (gone, stranger) in strangers.iter().enumerate().take(MAX_INBOUND - MAX_PER_SOURCE).skip(20) {
        assert_eq!(gate.make_room(|_| true, now), Some((*stranger, vec![id(gone)])));
        gate.closed(id(gone), stranger);
    }
    assert_eq!(gate.make_room(|_| true, now), None, "so many may stay");
}

#[test]
fn strangers_from_everywhere_who_are_subscribed_stay_and_whoever_comes_is_refused() {
    let (mut gate, _, now) = full(from_anywhere);
    assert_eq!(gate.make_room(|_| true, now + PROBATION), None);
}

#[test]
fn a_known_peer_and_one_that_was_dialled_never_give_way() {
    let (mut gate, strangers, now) = full(|_| "/ip4/192.0.2.7/tcp/1".into());
    strangers[1..].iter().for_each(|peer| gate.know(*peer));
    let dialled = PeerId::random();
    gate.established(id(1000), dialled, true, address(), Admission::Alone, now);
    let now = now + PROBATION;
    assert_eq!(gate.make_room(|_| false, now), Some((strangers[0], vec![id(0)])));
    assert_eq!(gate.make_room(|_| false, now), None);
}

#[test]
fn nobody_gives_way_while_too_many_connections_do_not_close() {
    let (mut gate, strangers, now) = full(from_anywhere);
    let now = now + PROBATION;
    for _ in 0..MAX_CLOSING {
        assert!(gate.make_room(|_| false, now).is_some());
    }
    assert_eq!(gate.make_room(|_| false, now), None);
    gate.closed(id(0), &strangers[0]);
    assert!(gate.make_room(|_| false, now).is_some());
}

#[test]
fn attempts_in_flight_and_connections_of_one_peer_are_bounded() {
    let (low, high) = two_peers();
    let mut gate = Gate::new(low);
    let now = Instant::now();
    let (one, other) = (from_anywhere(1).parse().unwrap(), from_anywhere(2).parse().unwrap());
    for number in 0..MAX_PENDING_OF_SOURCE {
        gate.knocked(id(number), &one, now).unwrap();
    }
    assert_eq!(gate.knocked(id(9999), &one, now), Err(Refusal::Full), "there is room for others");
    for number in MAX_PENDING_OF_SOURCE..MAX_PENDING_INBOUND {
        gate.knocked(id(number), &other, now).unwrap();
    }
    assert_eq!(gate.knocked(id(9999), &address(), now), Err(Refusal::Full));
    for number in 0..MAX_PER_PEER {
        let admission = gate.judge(id(number), &high, false, now).unwrap();
        gate.established(id(number), high, false, address(), admission, now);
    }
    assert_eq!(gate.judge(id(60), &high, false, now), Err(Refusal::Full));
}
