//! The world: nodes, the network between them, their legs and users, one clock, one seed.
//!
//! It drives the same [`Node`] through the same doors as the daemon does: one `handle_*`, then `poll_output` until it is
//! empty ([`super::drive`]). What is right is [`super::oracle`]'s to say; how bad things are, [`super::setup`]'s.

use std::{cell::RefCell, collections::BTreeSet, rc::Rc, time::Duration};

use crate::proto::{
    id::{CallId, Did},
    io::{Event, Input, LegEvent, Policy, Request},
    seal::Rejected,
    signal::Topic,
};

use super::{
    agenda::Agenda,
    coverage::{Coverage, Mark},
    legs::{Faults, Legs, Step},
    network::{Copy, Message, Network, Sky, Weather, call_of},
    node::SimNode,
    oracle,
    seal::{Ledger, Sealed},
    setup::{Setup, person},
    trace::{Trace, describe},
};

/// A node's place in the world; the trace calls it `n3`.
pub type NodeIx = usize;

/// More timeouts than this of one node at one instant is a busy loop.
const MAX_TIMEOUTS_AT_ONCE: u32 = 3;

/// What may be waiting on the agenda.
#[derive(Debug)]
pub enum Happening {
    Arrive { from: NodeIx, to: NodeIx, copy: Copy, message: Rc<Message> },
    Publish { from: NodeIx, message: Box<(Topic, Vec<u8>)> },
    NeighbourSubscribed { to: NodeIx, of: NodeIx, topic_ix: usize },
    Wake { node: NodeIx, at_us: u64 },
    Leg { token: usize, step: Step },
    Linked { a: NodeIx, b: NodeIx },
    Press { node: NodeIx },
    Part { side: u32 },
    Heal,
    Kill { node: NodeIx, before_the_disk: bool },
    Revive { node: NodeIx },
    Suspend { node: NodeIx, span: Duration },
    GoOn { node: NodeIx, slept: Duration },
    ClockJump { node: NodeIx, by_ms: i64 },
    Mischief { node: NodeIx },
}

/// What a scenario does with a message that is being published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Pass,
    Drop,
    DelayMs(u64),
}

/// A scenario's hand in the network: who sends what.
pub type Censor = Box<dyn Fn(NodeIx, &Sealed) -> Fate>;

pub struct World {
    pub setup: Setup,
    pub agenda: Agenda,
    pub coverage: Coverage,
    pub ledger: Rc<RefCell<Ledger>>,
    pub network: Network,
    pub legs: Legs,
    pub nodes: Vec<SimNode>,
    /// Of each node's person.
    pub dids: Vec<Did>,
    /// Each person once.
    pub people: Vec<Did>,
    /// Calls that were ever offered, for users who press on old ones.
    pub calls: Vec<CallId>,
    /// Who was invited into which call by somebody who was in it already.
    pub asked_later: BTreeSet<(CallId, Did)>,
    pub trace: Trace,
    /// What clients were told, where there is a trace.
    pub events: Vec<(NodeIx, Event)>,
    pub censor: Option<Censor>,
    /// Participants can dial each other.
    pub dialling: bool,
    /// Users press and faults happen.
    pub wild: bool,
    /// When a clock jumped.
    pub jumped_at_us: Option<u64>,
}

impl World {
    pub fn new(setup: Setup, trace: Trace) -> Result<Self, String> {
        let mut agenda = Agenda::new(setup.seed);
        let count = setup.owners.len();
        let network = Network::new(count, setup.density_percent, setup.weather, &mut agenda);
        let did_of = |owner: &usize| person(setup.first_person + owner).did.clone();
        let dids: Vec<Did> = setup.owners.iter().map(did_of).collect();
        let mut people = dids.clone();
        people.dedup();
        let mut world = Self {
            legs: Legs::new(&dids, setup.faults),
            nodes: Vec::with_capacity(count),
            dids,
            people,
            setup,
            agenda,
            coverage: Coverage::of_one_seed(),
            ledger: Rc::default(),
            network,
            calls: Vec::new(),
            asked_later: BTreeSet::new(),
            trace,
            events: Vec::new(),
            censor: None,
            dialling: true,
            wild: true,
            jumped_at_us: None,
        };
        for ix in 0..count {
            let node = world.newcomer(ix);
            world.nodes.push(node);
            world.introduce(ix)?;
        }
        world.plan_the_wild();
        Ok(world)
    }

    fn plan_the_wild(&mut self) {
        let wild_us = self.setup.wild.as_micros() as u64;
        let agenda = &mut self.agenda;
        if let Some(press_ms) = self.setup.press_ms {
            for node in 0..self.setup.owners.len() {
                let at_us = agenda.chance.between(0, 2_000 * press_ms);
                agenda.at(at_us, Happening::Press { node });
            }
        }
        for _ in 0..self.setup.partitions {
            let at_us = agenda.chance.below(wild_us);
            let side = agenda.chance.next() as u32;
            agenda.at(at_us, Happening::Part { side });
            // Mostly shorter than the patience for a lost leg, sometimes longer.
            let long = agenda.chance.percent(30);
            let span_us = agenda.chance.between(50_000, if long { 60_000_000 } else { 8_000_000 });
            agenda.at(at_us + span_us, Happening::Heal);
        }
        let count = self.setup.owners.len() as u64;
        for _ in 0..self.setup.kills {
            let (at_us, node) = (agenda.chance.below(wild_us), agenda.chance.below(count) as usize);
            let before_the_disk = agenda.chance.percent(40);
            agenda.at(at_us, Happening::Kill { node, before_the_disk });
            let down_us = agenda.chance.between(1_000, 20_000_000);
            agenda.at(at_us + down_us, Happening::Revive { node });
        }
        for _ in 0..self.setup.sleeps {
            let (at_us, node) = (agenda.chance.below(wild_us), agenda.chance.below(count) as usize);
            let long = agenda.chance.percent(30);
            let span = Duration::from_millis(agenda.chance.between(500, if long { 90_000 } else { 15_000 }));
            agenda.at(at_us, Happening::Suspend { node, span });
        }
        if let Some(by_ms) = self.setup.clock_jump_ms {
            let (at_us, node) = (agenda.chance.below(wild_us), agenda.chance.below(count) as usize);
            let owners = &self.setup.owners;
            if owners.iter().filter(|owner| **owner == owners[node]).count() == 1 {
                agenda.at(at_us, Happening::ClockJump { node, by_ms });
            }
        }
        if self.setup.insider {
            let at_us = agenda.chance.below(wild_us);
            agenda.at(at_us, Happening::Mischief { node: count as usize - 1 });
        }
    }

    /// The network, the agenda and the counts, for what needs the three at once.
    pub fn split(&mut self) -> (&mut Network, &mut Legs, Sky<'_>) {
        (&mut self.network, &mut self.legs, Sky { agenda: &mut self.agenda, coverage: &mut self.coverage })
    }

    pub fn now_us(&self) -> u64 {
        self.agenda.now_us
    }

    /// Lets the next thing happen, if one is due by then; false when none is.
    pub fn step(&mut self, until_us: u64) -> Result<bool, String> {
        let Some(happening) = self.agenda.next(until_us) else { return Ok(false) };
        match happening {
            Happening::Arrive { from, to, copy, message } => self.arrive(from, to, copy, &message)?,
            Happening::Publish { from, message } => self.publish(from, message.0, message.1),
            Happening::NeighbourSubscribed { to, of, topic_ix } => {
                if let Some(topic) = self.network.subscription_news(to, of, topic_ix).filter(|_| !self.nodes[to].down) {
                    self.input(to, Input::Subscribed(topic))?;
                }
            }
            Happening::Wake { node, at_us } => self.wake(node, at_us)?,
            Happening::Leg { token, step } => self.leg_step(token, step)?,
            Happening::Linked { a, b } => {
                if !self.nodes[a].down && !self.nodes[b].down && self.network.link(a, b, &mut self.agenda) {
                    self.trace.line(self.agenda.now_us, || format!("n{a} and n{b} are linked"));
                }
            }
            Happening::Press { node } => self.press(node)?,
            Happening::Part { side } if self.wild => self.part(side),
            Happening::Heal => self.heal(),
            Happening::Kill { node, before_the_disk } if self.wild => {
                if before_the_disk {
                    self.kill_before_the_disk(node)
                } else {
                    self.kill(node)
                }
            }
            Happening::Revive { node } => self.revive(node)?,
            Happening::Suspend { node, span } if self.wild => self.suspend(node, span),
            Happening::GoOn { node, slept } => self.go_on(node, slept)?,
            Happening::ClockJump { node, by_ms } if self.wild => {
                self.trace.line(self.agenda.now_us, || format!("n{node}'s clock jumps by {by_ms} ms"));
                self.coverage.mark(Mark::ClockJump);
                self.nodes[node].clock.skew_ms += by_ms;
                self.jumped_at_us = Some(self.agenda.now_us);
            }
            Happening::Mischief { node } if self.wild => self.make_mischief(node),
            Happening::Part { .. }
            | Happening::Kill { .. }
            | Happening::Suspend { .. }
            | Happening::ClockJump { .. }
            | Happening::Mischief { .. } => {}
        }
        Ok(true)
    }

    fn arrive(&mut self, from: NodeIx, to: NodeIx, copy: Copy, message: &Rc<Message>) -> Result<(), String> {
        let (network, _, mut sky) = self.split();
        if !network.arrive((from, to), copy, message, &mut sky) || self.nodes[to].down {
            return Ok(());
        }
        let mut flipped;
        let bytes = if copy == Copy::Tampered {
            flipped = message.bytes.clone();
            let at = self.agenda.chance.below(flipped.len() as u64) as usize;
            flipped[at] ^= 1 << self.agenda.chance.below(8);
            &flipped
        } else {
            &message.bytes
        };
        let now = self.agenda.now(self.nodes[to].clock);
        let result = self.nodes[to].node.handle_gossip(&message.topic, bytes, now);
        self.coverage.steps += 1;
        if self.trace.is_on() {
            let ledger = self.ledger.borrow();
            let text = ledger.read(&message.bytes).map_or_else(|| message.topic.to_string(), describe);
            let (author, outcome) =
                (message.author, result.map_or_else(|reason| format!(" REJECTED {reason}"), |()| String::new()));
            self.trace.line(self.agenda.now_us, || format!("n{to} <- n{author} {text} {copy:?}{outcome}"));
        }
        let forwarded_only = matches!(&message.topic, Topic::Member(_, did) if *did != self.dids[to]);
        match result {
            Ok(()) if forwarded_only => {}
            Ok(()) if copy == Copy::Tampered => return Err(format!("n{to} took bytes that were changed on the way")),
            Ok(()) if !message.first_opened(to) && self.nodes[to].lives == 1 && !self.began_anew(to, message) => {
                return Err(format!("n{to} took the same bytes twice"));
            }
            Err(Rejected::Replayed) => self.coverage.mark(Mark::Replayed),
            Err(_) if copy == Copy::Tampered => self.coverage.mark(Mark::Tampered),
            Err(Rejected::ClockSkew) => self.coverage.mark(Mark::ClockSkew),
            Ok(()) | Err(_) => {}
        }
        self.drain(to)
    }

    /// What was opened is remembered as long as the call: the node has forgotten it since, and it is known again. What comes
    /// twice must change nothing then, as when it is sent again.
    fn began_anew(&self, node: NodeIx, message: &Message) -> bool {
        let forgot_us = call_of(&message.topic).and_then(|call| self.nodes[node].forgot.get(&call));
        forgot_us.is_some_and(|forgot_us| message.published_us < *forgot_us)
    }

    pub fn input(&mut self, node: NodeIx, input: Input) -> Result<(), String> {
        let now = self.agenda.now(self.nodes[node].clock);
        self.nodes[node].node.handle_input(input, now);
        self.coverage.steps += 1;
        self.drain(node)
    }

    fn wake(&mut self, ix: NodeIx, at_us: u64) -> Result<(), String> {
        let node = &mut self.nodes[ix];
        if node.wake_us != Some(at_us) || node.down || node.sleeps_until_us.is_some() {
            return Ok(());
        }
        node.wake_us = None;
        node.timeouts_at = if node.timeouts_at.0 == at_us { (at_us, node.timeouts_at.1 + 1) } else { (at_us, 1) };
        if node.timeouts_at.1 > MAX_TIMEOUTS_AT_ONCE {
            return Err(format!("n{ix} asks for timeouts without end"));
        }
        let now = self.agenda.now(node.clock);
        node.node.handle_timeout(now);
        self.coverage.steps += 1;
        if self.trace.is_on() {
            self.trace.line(self.agenda.now_us, || format!("n{ix} timeout"));
        }
        self.drain(ix)?;
        match self.nodes[ix].node.poll_timeout() {
            Some(next) if next <= now.mono => Err(format!("n{ix} wants a timeout that is over")),
            Some(_) | None => Ok(()),
        }
    }

    fn leg_step(&mut self, token: usize, step: Step) -> Result<(), String> {
        if let Some(until_us) = self.nodes[self.legs.owner(token)].sleeps_until_us {
            // A suspended machine does it later.
            self.agenda.at(until_us + 1, Happening::Leg { token, step });
            return Ok(());
        }
        let mut sky = Sky { agenda: &mut self.agenda, coverage: &mut self.coverage };
        let Some((owner, id, event)) = self.legs.step(token, step, &self.network, &mut sky) else { return Ok(()) };
        self.trace.line(self.agenda.now_us, || format!("n{owner} {id:?} -> {event:?}"));
        let came_up = matches!(event, LegEvent::Connected | LegEvent::Recovered);
        self.input(owner, Input::Leg(id, event))?;
        if came_up {
            let peer = self.legs.of(owner).find(|leg| leg.id == id).and_then(|leg| self.legs.far_end(leg));
            for speaker in peer.into_iter().chain([owner]) {
                self.carry_audio(speaker);
            }
        }
        Ok(())
    }

    pub fn carry_audio(&mut self, speaker: NodeIx) {
        if self.nodes[speaker].plan.microphone {
            let mut sky = Sky { agenda: &mut self.agenda, coverage: &mut self.coverage };
            self.legs.carry_audio(speaker, &mut sky);
        }
    }

    pub fn part(&mut self, side: u32) {
        self.trace.line(self.agenda.now_us, || format!("the network parts: {side:b}"));
        self.coverage.mark(Mark::Partition);
        self.network.part(side);
        let (_, legs, mut sky) = self.split();
        legs.path_changed(&mut sky);
    }

    pub fn heal(&mut self) {
        if self.network.is_whole() {
            return;
        }
        self.trace.line(self.agenda.now_us, || "the network heals".into());
        self.coverage.mark(Mark::Healed);
        self.network.heal(&mut self.agenda);
        let (_, legs, mut sky) = self.split();
        legs.path_changed(&mut sky);
    }

    /// Lets things happen for this long.
    pub fn run_for(&mut self, span: Duration) -> Result<(), String> {
        let until_us = self.agenda.now_us + span.as_micros() as u64;
        while self.step(until_us)? {}
        Ok(())
    }

    /// Users stop pressing, all faults end, the network is whole.
    pub fn calm_down(&mut self) -> Result<(), String> {
        self.wild = false;
        self.trace.line(self.agenda.now_us, || "calm".into());
        self.network.weather = Weather::CALM;
        self.legs.faults = Faults::NONE;
        self.heal();
        // Who sleeps wakes up by itself.
        while (0..self.nodes.len()).any(|ix| self.network.is_asleep(ix)) {
            self.run_for(Duration::from_secs(5))?;
        }
        for ix in 0..self.nodes.len() {
            self.revive(ix)?;
            if self.nodes[ix].node.do_not_disturb() {
                self.ask(ix, Request::SetDoNotDisturb(false))?.map_err(|error| format!("n{ix}: {error}"))?;
            }
        }
        Ok(())
    }

    /// The whole life of a random world.
    pub fn run(&mut self) -> Result<(), String> {
        self.run_for(self.setup.wild)?;
        self.calm_down()?;
        self.run_for(self.setup.settling())?;
        oracle::settled(self)?;
        let spoken = self.ledger.borrow().sealed.len();
        self.run_for(Duration::from_secs(20))?;
        oracle::quiet(self, spoken)?;
        self.hang_up_everything()?;
        // A Cancel that overtook its Offer is remembered for 5 minutes.
        self.run_for(self.setup.ring + Duration::from_secs(330))?;
        oracle::silent(self)?;
        self.encore()?;
        self.run_for(self.setup.ring + Duration::from_secs(330))?;
        oracle::silent(self)
    }

    pub fn hang_up_everything(&mut self) -> Result<(), String> {
        for ix in 0..self.nodes.len() {
            for view in self.nodes[ix].node.calls() {
                self.ask(ix, Request::Hangup(view.call))?.map_err(|error| format!("n{ix} cannot hang up: {error}"))?;
            }
            // Whoever was blocked is a contact like any other from now on.
            let mut contacts = self.nodes[ix].contacts.clone();
            contacts.iter_mut().for_each(|(_, policy)| *policy = Policy::Ask);
            self.ask(ix, Request::SetContacts(contacts))?.map_err(|error| format!("n{ix}: {error}"))?;
        }
        Ok(())
    }
}
