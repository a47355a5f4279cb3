//! What must be true: of one node after each step, of all nodes once the world has settled, and after everybody hung up.
//!
//! It compares what a node says of itself (views, audio plan) with what the world knows (legs, consent, subscriptions).

use crate::proto::{
    id::{CallId, Did},
    io::{AudioPlan, CallState, CallView, ParticipantState, ParticipantView, Recorded, Standing},
    signal::{Body, MAX_PARTICIPANTS, Sealing, Topic},
};

use super::{
    coverage::Mark,
    legs::{SimLeg, Told},
    world::{NodeIx, World},
};

/// Of at most 32 calls that ring, go on or are just over, each has a topic of its own and one for each participant.
const MAX_SUBSCRIPTIONS: usize = 32 * 13;
const MAX_CALLS: usize = 64;

/// The configuration says yes for the user.
pub fn consents_by_configuration(world: &World, ix: NodeIx, call: CallId) -> bool {
    let views = world.nodes[ix].node.calls();
    let view = views.iter().find(|view| view.call == call);
    view.is_some_and(|view| {
        let others = view.participants.iter().map(|other| &other.did);
        world.nodes[ix].accepts_unasked(world.setup.auto_accept, others)
    })
}

fn is_engaged(view: &CallView) -> bool {
    matches!(view.state, CallState::Active | CallState::Outgoing | CallState::OnHold)
}

fn is_in(participant: &ParticipantView) -> bool {
    matches!(
        participant.state,
        ParticipantState::Connecting
            | ParticipantState::Joined
            | ParticipantState::Reconnecting
            | ParticipantState::OnHold
    )
}

fn is_connected(participant: &ParticipantView) -> bool {
    matches!(participant.state, ParticipantState::Joined | ParticipantState::OnHold)
}

fn is_up(leg: &SimLeg) -> bool {
    leg.told == Told::Up && !leg.closing
}

fn demand(truth: bool, what: &str) -> Result<(), String> {
    if truth { Ok(()) } else { Err(what.to_string()) }
}

/// One node, after a step.
pub fn check(world: &World, ix: NodeIx) -> Result<(), String> {
    let views = world.nodes[ix].node.calls();
    let (node, plan) = (&world.nodes[ix], &world.nodes[ix].plan);
    let engaged: Vec<&CallView> = views.iter().filter(|view| is_engaged(view)).collect();
    demand(engaged.iter().filter(|view| view.state != CallState::OnHold).count() <= 1, "two active calls")?;
    demand(engaged.iter().all(|view| node.consent.contains(&view.call)), "in a call without consent")?;
    demand(
        plan.ring == views.iter().any(|view| view.state == CallState::Incoming),
        "ring is not: an incoming call rings",
    )?;
    let calls_out = |view: &CallView| {
        let ringing = view.participants.iter().any(|participant| participant.state == ParticipantState::Ringing);
        view.state == CallState::Outgoing && ringing
    };
    demand(plan.ring_back == views.iter().any(calls_out), "ring-back is not: an own call rings and nobody is there")?;
    demand((plan.muted, plan.deafened) == (node.node.muted(), node.node.deafened()), "the plan forgot mute or deafen")?;
    let now = world.agenda.now(node.clock).mono;
    let talks = !world.setup.push_to_talk || node.talks_until.is_some_and(|until| now < until);
    demand(plan.muted == (node.mute || !talks), "muted is not: by the user, or nothing is pushed")?;
    let active = engaged.iter().filter(|view| view.state != CallState::OnHold);
    let joined = active.flat_map(|view| &view.participants).any(is_connected);
    demand(plan.microphone == joined, "microphone is not: consent and a joined leg up")?;
    let recorded = views.iter().find(|view| view.recording);
    demand(recorded.is_none_or(|view| node.records == Some(view.call)), "it is recorded, and nobody asked for it")?;
    let writes = recorded.filter(|view| view.state != CallState::OnHold).map(|view| view.call);
    demand(plan.recording.as_ref().map(|recording| recording.call) == writes, "recorded is not: shown as recorded")?;
    let known = |view: &CallView, did: &Did| view.participants.iter().any(|other| other.did == *did && other.recorded);
    for (leg, did) in plan.recording.iter().flat_map(|recording| &recording.who) {
        demand(plan.legs.contains(leg), "somebody is recorded who is not heard")?;
        demand(recorded.is_some_and(|view| known(view, did)), "somebody is recorded and not shown as that")?;
    }
    demand(views.len() <= MAX_CALLS, "too many calls")?;
    demand(views.iter().all(|view| view.participants.len() < MAX_PARTICIPANTS), "too many participants")?;
    demand(world.network.subscription_count(ix) <= MAX_SUBSCRIPTIONS, "too many topics")?;
    demand(world.network.is_subscribed(ix, &Topic::Inbox(world.dids[ix].clone())), "the own inbox is not subscribed")?;
    demand(!node.node.idle() || views.is_empty(), "idle with a call")?;
    check_store(world, ix, &views)?;
    for view in &views {
        demand(view.participants.iter().all(|p| p.did != world.dids[ix]), "oneself among the others")?;
        for participant in view.participants.iter().filter(|p| is_connected(p)) {
            let leg = world.legs.of(ix).find(|leg| Some(leg.id) == participant.leg);
            let fits = |leg: &SimLeg| is_up(leg) && leg.call == view.call && world.dids[leg.peer] == participant.did;
            demand(leg.is_some_and(fits), "shown as joined without a leg that is up")?;
        }
    }
    world.legs.of(ix).filter(|leg| !leg.closing).try_for_each(|leg| {
        recorded_in_sight(world, leg)?;
        check_leg(world, leg, &engaged)
    })
}

/// Whose sound comes over this leg and is written down, or goes over it and is written down there, is shown that it is.
fn recorded_in_sight(world: &World, leg: &SimLeg) -> Result<(), String> {
    let Some(far) = world.legs.other_end(leg).filter(|_| world.legs.connected(leg)) else { return Ok(()) };
    for (recorder, speaker) in [(leg, far), (far, leg)] {
        let plan = &world.nodes[recorder.owner].plan;
        let writes = plan.recording.as_ref().is_some_and(|recorded| recorded.who.contains_key(&recorder.id));
        let speaks = world.nodes[speaker.owner].plan.legs.contains(&speaker.id);
        if !writes || !speaks || [speaker, recorder].iter().any(|leg| world.is_insider(leg.owner)) {
            continue;
        }
        let views = world.nodes[speaker.owner].node.calls();
        let others = views.iter().filter(|view| view.call == speaker.call).flat_map(|view| &view.participants);
        let mut recorders = others.filter(|other| other.did == world.dids[recorder.owner] && other.recording);
        let sees = recorders.next().is_some();
        demand(sees, &format!("n{} records n{}, who is not shown it", recorder.owner, speaker.owner))?;
    }
    Ok(())
}

/// What is written down is what is: a daemon that is killed now comes back to exactly this.
fn check_store(world: &World, ix: NodeIx, views: &[CallView]) -> Result<(), String> {
    let node = &world.nodes[ix];
    if node.restoring {
        return Ok(());
    }
    for view in views {
        let kept = node.store.standing(view.call);
        let fits = match (view.state, kept) {
            (CallState::Incoming, Some(Standing::Ringing(_))) => true,
            (CallState::Active | CallState::Outgoing, Some(Standing::In { on_hold })) => !on_hold,
            (CallState::OnHold, Some(Standing::In { on_hold })) => on_hold,
            (_, Some(_) | None) => false,
        };
        if !fits {
            return Err(format!("{:?} is written down as {kept:?}", view.state));
        }
    }
    let shown = |call: &CallId| views.iter().any(|view| view.call == *call);
    let past: Vec<CallId> = node.node.past_calls().iter().map(|past| past.call).collect();
    for (call, kept) in node.store.calls.iter().filter(|(call, _)| !shown(call)) {
        let fits = matches!(kept.standing, Standing::Past(_)) && past.contains(call);
        if !fits {
            return Err(format!("{call} is written down as {:?} and is not so", kept.standing));
        }
    }
    demand(past.iter().all(|call| node.store.calls.contains_key(call)), "a past call that is not written down")
}

/// A leg is to somebody who is in a call that this node is in, and not blocked.
fn check_leg(world: &World, leg: &SimLeg, engaged: &[&CallView]) -> Result<(), String> {
    let to = &world.dids[leg.peer];
    let node = &world.nodes[leg.owner];
    demand(!node.blocks(to), "a leg to somebody who is blocked")?;
    let refused = (leg.call, to.clone());
    // An insider's invitations leave no trace in anybody's books.
    let asked_later = world.setup.insider || world.asked_later.contains(&refused);
    let declined = node.refused_by.contains(&refused) && !asked_later;
    demand(!declined, "a leg to somebody who declined")?;
    let view = engaged.iter().find(|view| view.call == leg.call);
    let participant = view.and_then(|view| view.participants.iter().find(|participant| participant.did == *to));
    let participant = participant.filter(|participant| is_in(participant));
    let Some(participant) = participant else {
        return Err(format!("{:?} to n{} who is not in the call", leg.id, leg.peer));
    };
    demand(participant.leg == Some(leg.id), "a leg that the view does not name")?;
    demand(!is_up(leg) || is_connected(participant), "a leg is up and its participant not joined")
}

/// A plan that records comes after the word to everybody in the call that it does.
pub fn told_of_recording(world: &World, ix: NodeIx, plan: &AudioPlan) -> Result<(), String> {
    let Some(Recorded { call, .. }) =
        plan.recording.as_ref().filter(|_| !world.setup.real_seal && !world.is_insider(ix))
    else {
        return Ok(());
    };
    let views = world.nodes[ix].node.calls();
    let others = views.iter().filter(|view| view.call == *call).flat_map(|view| &view.participants);
    let ledger = world.ledger.borrow();
    for other in others.filter(|other| is_in(other)) {
        let mut words = ledger.sealed.iter().rev().filter(|sealed| {
            let outgoing = &sealed.outgoing;
            let device = sealed.instance.map(|instance| instance.device);
            let by_it = sealed.from == world.dids[ix] && device == Some(world.nodes[ix].device);
            by_it && outgoing.signal.call == *call && outgoing.to.as_ref() == Some(&other.did)
        });
        let last = words.find_map(|sealed| match &sealed.outgoing.signal.body {
            Body::Join(presence) => Some(presence.state),
            Body::State(state) => Some(*state),
            _ => None,
        });
        demand(last.is_some_and(|state| state.recording), "it records before it tells")?;
    }
    Ok(())
}

/// All nodes: in calm weather for long enough, nobody presses.
pub fn settled(world: &mut World) -> Result<(), String> {
    let views: Vec<Vec<CallView>> = world.nodes.iter().map(|node| node.node.calls()).collect();
    let mut pairs = 0;
    for (a, calls) in views.iter().enumerate() {
        check(world, a).map_err(|what| format!("n{a}: {what}"))?;
        demand(!calls.is_empty() || world.legs.of(a).next().is_none(), &format!("n{a} has no call and yet a leg"))?;
        if world.is_insider(a) {
            continue;
        }
        for view in calls {
            let settled = matches!(view.state, CallState::Active | CallState::OnHold);
            demand(settled, &format!("n{a} is still {:?} in {}", view.state, view.call))?;
            let insider = view.participants.iter().any(|other| world.is_insiders(&other.did));
            let company = view.participants.iter().any(is_connected);
            demand(company || insider || world.setup.grace.is_zero(), &format!("n{a} is alone in {}", view.call))?;
            one_device(world, &views, a, view.call)?;
            for other in &view.participants {
                pairs += usize::from(settled_pair(world, &views, (a, view), other)?);
            }
        }
    }
    let calls: usize = views.iter().map(Vec::len).sum();
    (0..calls).for_each(|_| world.coverage.mark(Mark::SettledCall));
    (0..pairs).for_each(|_| world.coverage.mark(Mark::SettledPair));
    Ok(())
}

fn is_in_call(views: &[CallView], call: CallId) -> bool {
    views.iter().any(|view| view.call == call && is_engaged(view))
}

/// At most one device of a DID is in the call, of those that can hear each other.
fn one_device(world: &World, views: &[Vec<CallView>], a: NodeIx, call: CallId) -> Result<(), String> {
    let own = |b: &NodeIx| *b != a && world.dids[*b] == world.dids[a] && is_in_call(&views[*b], call);
    let topic = Topic::Member(call, world.dids[a].clone());
    match (0..views.len()).filter(own).find(|b| world.network.carries(&topic, a, *b)) {
        Some(b) => Err(format!("n{a} and n{b} are one person and both in {call}")),
        None => Ok(()),
    }
}

/// Both ends agree on whether `other` is in, and if so they hear each other.
fn settled_pair(
    world: &World,
    views: &[Vec<CallView>],
    (a, view): (NodeIx, &CallView),
    other: &ParticipantView,
) -> Result<bool, String> {
    let devices = || (0..world.dids.len()).filter(|b| world.dids[*b] == other.did);
    let Some(first) = devices().next() else { return Err("a stranger".into()) };
    let mut in_call = devices().filter(|b| is_in_call(&views[*b], view.call));
    let told = format!("n{a} shows n{first} as {:?} in {}", other.state, view.call);
    let blocked = world.nodes[a].blocks(&other.did) || devices().any(|b| world.nodes[b].blocks(&world.dids[a]));
    let refused = |a: NodeIx, b: NodeIx| world.nodes[a].refused_by.contains(&(view.call, world.dids[b].clone()));
    let not_wanted = blocked || devices().any(|b| refused(a, b) || refused(b, a));
    let Some(b) = in_call.next() else {
        let over = !is_in(other) && !matches!(other.state, ParticipantState::Invited | ParticipantState::Ringing);
        return demand(over || world.is_insiders(&other.did), &format!("{told}, who is not in it")).map(|()| false);
    };
    if not_wanted || world.is_insiders(&other.did) || in_call.next().is_some() {
        // They need not meet; or there are two of it that cannot hear each other.
        return Ok(false);
    }
    if !world.network.carries(&Topic::Call(view.call), a, b) && !is_in(other) {
        // No path of subscribers leads there: they cannot know.
        return Ok(false);
    }
    demand(is_connected(other), &format!("{told}, who is in it"))?;
    let leg = world.legs.of(a).find(|leg| Some(leg.id) == other.leg);
    demand(leg.is_some_and(|leg| world.legs.connected(leg)), &format!("{told}, but they are not connected"))?;
    let open = world.nodes[a].plan.microphone || view.state == CallState::OnHold;
    demand(open, &format!("n{a} has its microphone closed"))?;
    if !world.network.carries(&Topic::Member(view.call, world.dids[a].clone()), b, a) {
        // Nothing that the other says only to this one comes through.
        return Ok(true);
    }
    let holds = views[b].iter().any(|theirs| theirs.call == view.call && theirs.state == CallState::OnHold);
    demand((other.state == ParticipantState::OnHold) == holds, &format!("{told}, who put it on hold: {holds}"))?;
    let (muted, deafened) = (world.nodes[b].node.muted(), world.nodes[b].node.deafened());
    demand((other.muted, other.deafened) == (muted, deafened), &format!("{told} with another microphone or ears"))?;
    let records = views[b].iter().any(|theirs| theirs.call == view.call && theirs.recording) && !holds;
    demand(other.recording == records, &format!("{told}, who records: {records}"))?;
    let written = view.recording && view.state != CallState::OnHold;
    let is_told = world.network.carries(&Topic::Member(view.call, other.did.clone()), a, b);
    demand(other.recorded == (written && is_told), &format!("{told}, and as recorded: {}", other.recorded))?;
    Ok(true)
}

/// Nothing has to be said any more between two who hear each other: all is acknowledged.
pub fn quiet(world: &World, spoken: usize) -> Result<(), String> {
    let ledger = world.ledger.borrow();
    for sealed in ledger.sealed[spoken..].iter().filter(|sealed| sealed.outgoing.sealing == Sealing::Pairwise) {
        // Which device of a person it is does not show.
        let place = |did: &Did| {
            let mut places = (0..world.dids.len()).filter(|node| world.dids[*node] == *did);
            places.next().filter(|_| places.next().is_none())
        };
        let (from, to) = (place(&sealed.from), sealed.outgoing.to.as_ref().and_then(place));
        let (Some(from), Some(to)) = (from, to) else { continue };
        if world.is_insider(from) || world.is_insider(to) {
            continue;
        }
        // Acks need the way back.
        let topic = |node: NodeIx| Topic::Member(sealed.outgoing.signal.call, world.dids[node].clone());
        if world.network.carries(&topic(to), from, to) && world.network.carries(&topic(from), to, from) {
            return Err(format!("n{from} still tells n{to}: {:?}", sealed.outgoing.signal.body));
        }
    }
    Ok(())
}

/// All nodes: long after everybody hung up.
pub fn silent(world: &World) -> Result<(), String> {
    for (ix, node) in world.nodes.iter().enumerate().filter(|(ix, _)| !world.is_insider(*ix)) {
        let say = |what: &str| format!("n{ix} after everything: {what}");
        demand(node.node.calls().is_empty(), &say("a call"))?;
        demand(world.legs.of(ix).next().is_none(), &say("a leg"))?;
        demand(!node.plan.ring && !node.plan.microphone && !node.plan.playback, &say("sound"))?;
        demand(node.node.idle(), &say("not idle"))?;
        let timer = node.node.poll_timeout().is_some();
        demand(!timer || !node.node.past_calls().is_empty(), &say("a timer"))?;
        let topics = world.network.subscriptions(ix);
        demand(topics == [Topic::Inbox(world.dids[ix].clone())], &say(&format!("topics {topics:?}")))?;
    }
    Ok(())
}
