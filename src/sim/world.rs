//! The world: nodes, the network between them, their legs and users, one clock, one seed.
//!
//! It drives the same [`Node`] through the same doors as the daemon does: one `handle_*`, then `poll_output` until it is
//! empty ([`super::drive`]). What is right is [`super::oracle`]'s to say; how bad things are, [`super::setup`]'s.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    time::Duration,
};

use crate::proto::{
    engine::{Engine, EngineConfig},
    id::{CallId, DeviceId, Did, MessageId},
    io::{AudioPlan, EndReason, Event, Input, KeptCall, LegEvent, Policy, Request, Standing},
    node::Node,
    seal::Rejected,
    signal::{Contact, Topic},
};

use super::{
    agenda::Agenda,
    coverage::{Coverage, Mark},
    legs::{Faults, Legs, Step},
    network::{Copy, Message, Network, Sky, Weather},
    oracle,
    seal::{AnySeal, Ledger, Sealed},
    setup::{Setup, person},
    trace::{Trace, describe},
};

/// A node's place in the world; the trace calls it `n3`.
pub type NodeIx = usize;

/// More timeouts than this of one node at one instant is a busy loop.
const MAX_TIMEOUTS_AT_ONCE: u32 = 3;
/// Calls that a daemon may let ring again after a restart.
const MAX_RINGING_AGAIN: u32 = 8;

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
    Kill { node: NodeIx },
    Revive { node: NodeIx },
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

/// One daemon and what its shell would hold.
pub struct SimNode {
    pub node: Node<AnySeal>,
    pub device: DeviceId,
    pub contacts: Vec<Did>,
    pub plan: AudioPlan,
    /// What the store would hold; survives a kill.
    pub seen: Vec<(Did, MessageId)>,
    pub kept: BTreeMap<CallId, KeptCall>,
    /// Calls that the user offered or accepted in this life.
    pub consent: BTreeSet<CallId>,
    /// Calls that are over here, and how often each rang; all lives together.
    pub ended: BTreeMap<CallId, EndReason>,
    pub rang: BTreeMap<CallId, u32>,
    /// An own offer has just lost to the same people's: joining theirs needs no key press.
    pub superseded: bool,
    /// Seen-set writes since the last ring.
    pub remembered: u32,
    pub skew_ms: i64,
    /// How long the machine slept so far; the monotonic clock stood still then.
    pub slept_us: u64,
    asleep_since_us: Option<u64>,
    pub down: bool,
    pub lives: u32,
    pub wake_us: Option<u64>,
    timeouts_at: (u64, u32),
}

pub struct World {
    pub setup: Setup,
    pub agenda: Agenda,
    pub coverage: Coverage,
    pub ledger: Rc<RefCell<Ledger>>,
    pub network: Network,
    pub legs: Legs,
    pub nodes: Vec<SimNode>,
    pub dids: Vec<Did>,
    /// Calls that were ever offered, for users who press on old ones.
    pub calls: Vec<CallId>,
    pub trace: Trace,
    /// What clients were told, where there is a trace.
    pub events: Vec<(NodeIx, Event)>,
    pub censor: Option<Censor>,
    /// Participants can dial each other.
    pub dialling: bool,
    /// Users press and faults happen.
    pub wild: bool,
}

impl World {
    pub fn new(setup: Setup, trace: Trace) -> Result<Self, String> {
        let mut agenda = Agenda::new(setup.seed);
        let count = setup.nodes;
        let network = Network::new(count, setup.density_percent, setup.weather, &mut agenda);
        let mut world = Self {
            legs: Legs::new(count, setup.faults),
            nodes: Vec::with_capacity(count),
            dids: (0..count).map(|node| person(setup.first_person + node).did.clone()).collect(),
            setup,
            agenda,
            coverage: Coverage::of_one_seed(),
            ledger: Rc::default(),
            network,
            calls: Vec::new(),
            trace,
            events: Vec::new(),
            censor: None,
            dialling: true,
            wild: true,
        };
        for ix in 0..count {
            let node = world.newcomer(ix);
            world.nodes.push(node);
            world.introduce(ix)?;
        }
        world.plan_the_wild();
        Ok(world)
    }

    /// A node before its first life.
    fn newcomer(&mut self, ix: NodeIx) -> SimNode {
        let percent = self.setup.contact_percent;
        let chance = &mut self.agenda.chance;
        let others = self.dids.iter().enumerate().filter(|(other, _)| *other != ix);
        let contacts: Vec<Did> = others.filter(|_| chance.percent(percent)).map(|(_, did)| did.clone()).collect();
        let span_ms = self.setup.max_skew_ms;
        let skew_ms = chance.between(0, 2 * span_ms) as i64 - span_ms as i64;
        let device = DeviceId([ix as u8 + 1; 16]);
        SimNode {
            node: self.birth(ix, device, &contacts, Vec::new()),
            device,
            contacts,
            plan: AudioPlan::default(),
            seen: Vec::new(),
            kept: BTreeMap::new(),
            consent: BTreeSet::new(),
            ended: BTreeMap::new(),
            rang: BTreeMap::new(),
            superseded: false,
            remembered: 0,
            skew_ms,
            slept_us: 0,
            asleep_since_us: None,
            down: false,
            lives: 1,
            wake_us: None,
            timeouts_at: (0, 0),
        }
    }

    fn birth(&mut self, ix: NodeIx, device: DeviceId, contacts: &[Did], seen: Vec<(Did, MessageId)>) -> Node<AnySeal> {
        let did = self.dids[ix].clone();
        let setup = &self.setup;
        let config = EngineConfig {
            did: did.clone(),
            device,
            ring: setup.ring,
            grace: setup.grace,
            reconnect: setup.reconnect,
            auto_accept: setup.auto_accept,
            who_may_ring: setup.who_may_ring,
        };
        let engine = Engine::new(
            config,
            self.agenda.chance.bytes(),
            contacts.iter().map(|did| (did.clone(), Policy::Ask)).collect(),
            seen,
        );
        let seed = self.agenda.chance.bytes();
        let person = person(setup.first_person + ix);
        Node::new(engine, AnySeal::new(setup.real_seal, person, device, seed, &self.ledger))
    }

    /// The first things that a daemon tells its engine.
    fn introduce(&mut self, ix: NodeIx) -> Result<(), String> {
        self.drain(ix)?;
        let contact = Contact { peer_id: format!("sim-{ix}"), addresses: vec![format!("/sim/{ix}")] };
        self.ask(ix, Request::SetContact(contact))?.map_err(|error| format!("SetContact: {error}"))?;
        Ok(())
    }

    fn plan_the_wild(&mut self) {
        let wild_us = self.setup.wild.as_micros() as u64;
        let agenda = &mut self.agenda;
        if let Some(press_ms) = self.setup.press_ms {
            for node in 0..self.setup.nodes {
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
        for _ in 0..self.setup.kills {
            let (at_us, node) = (agenda.chance.below(wild_us), agenda.chance.below(self.setup.nodes as u64) as usize);
            agenda.at(at_us, Happening::Kill { node });
            let down_us = agenda.chance.between(1_000, 20_000_000);
            agenda.at(at_us + down_us, Happening::Revive { node });
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
            Happening::Kill { node } if self.wild => self.kill(node),
            Happening::Revive { node } => self.revive(node)?,
            Happening::Part { .. } | Happening::Kill { .. } => {}
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
        let now = self.agenda.now(self.nodes[to].skew_ms, self.nodes[to].slept_us);
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
            Ok(()) if !message.first_opened(to) && self.nodes[to].lives == 1 => {
                return Err(format!("n{to} took the same bytes twice"));
            }
            Err(Rejected::Replayed) => self.coverage.mark(Mark::Replayed),
            Err(_) if copy == Copy::Tampered => self.coverage.mark(Mark::Tampered),
            Ok(()) | Err(_) => {}
        }
        self.drain(to)
    }

    pub fn input(&mut self, node: NodeIx, input: Input) -> Result<(), String> {
        let now = self.agenda.now(self.nodes[node].skew_ms, self.nodes[node].slept_us);
        self.nodes[node].node.handle_input(input, now);
        self.coverage.steps += 1;
        self.drain(node)
    }

    fn wake(&mut self, ix: NodeIx, at_us: u64) -> Result<(), String> {
        let node = &mut self.nodes[ix];
        if node.wake_us != Some(at_us) || node.down {
            return Ok(());
        }
        node.wake_us = None;
        node.timeouts_at = if node.timeouts_at.0 == at_us { (at_us, node.timeouts_at.1 + 1) } else { (at_us, 1) };
        if node.timeouts_at.1 > MAX_TIMEOUTS_AT_ONCE {
            return Err(format!("n{ix} asks for timeouts without end"));
        }
        let now = self.agenda.now(node.skew_ms, node.slept_us);
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
        if self.nodes[self.legs.owner(token)].asleep_since_us.is_some() {
            self.agenda.after_us(1_000_000, Happening::Leg { token, step });
            return Ok(());
        }
        let mut sky = Sky { agenda: &mut self.agenda, coverage: &mut self.coverage };
        let Some((owner, id, event)) = self.legs.step(token, step, &self.network, &mut sky) else { return Ok(()) };
        self.trace.line(self.agenda.now_us, || format!("n{owner} {id:?} -> {event:?}"));
        let came_up = matches!(event, LegEvent::Connected | LegEvent::Recovered);
        self.input(owner, Input::Leg(id, event))?;
        if came_up {
            let peer = self.legs.of(owner).find(|leg| leg.id == id).map(|leg| leg.peer);
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

    /// `kill -9`: nothing is said, and all but the seen-set is lost.
    pub fn kill(&mut self, ix: NodeIx) {
        if std::mem::replace(&mut self.nodes[ix].down, true) {
            return;
        }
        self.trace.line(self.agenda.now_us, || format!("n{ix} is killed"));
        self.coverage.mark(Mark::Restart);
        if !self.nodes[ix].consent.is_empty() {
            self.coverage.mark(Mark::RestartInCall);
        }
        self.network.kill(ix);
        let (_, legs, mut sky) = self.split();
        legs.kill(ix, &mut sky);
        self.ledger.borrow_mut().police.restarted(&self.dids[ix], self.nodes[ix].device);
        let node = &mut self.nodes[ix];
        (node.plan, node.wake_us, node.remembered) = (AudioPlan::default(), None, 0);
        node.consent.clear();
    }

    /// The machine falls asleep: nothing of it moves, and nothing reaches it.
    pub fn fall_asleep(&mut self, ix: NodeIx) {
        if self.nodes[ix].down {
            return;
        }
        self.trace.line(self.agenda.now_us, || format!("n{ix} falls asleep"));
        self.nodes[ix].down = true;
        self.nodes[ix].asleep_since_us = Some(self.agenda.now_us);
        self.part(1 << ix);
    }

    /// The machine wakes up, and its shell notices how long it slept.
    pub fn awake(&mut self, ix: NodeIx) -> Result<(), String> {
        let Some(since_us) = self.nodes[ix].asleep_since_us.take() else { return Ok(()) };
        self.trace.line(self.agenda.now_us, || format!("n{ix} wakes up"));
        let slept_us = self.agenda.now_us - since_us;
        self.nodes[ix].down = false;
        self.nodes[ix].slept_us += slept_us;
        self.heal();
        self.input(ix, Input::Woke(Duration::from_micros(slept_us)))
    }

    pub fn revive(&mut self, ix: NodeIx) -> Result<(), String> {
        if !self.nodes[ix].down || self.nodes[ix].asleep_since_us.is_some() {
            return Ok(());
        }
        self.trace.line(self.agenda.now_us, || format!("n{ix} is started again"));
        let (device, contacts) = (self.nodes[ix].device, self.nodes[ix].contacts.clone());
        let node = self.birth(ix, device, &contacts, self.nodes[ix].seen.clone());
        self.nodes[ix].node = node;
        self.nodes[ix].down = false;
        self.nodes[ix].lives += 1;
        self.network.revive(ix, &mut self.agenda);
        self.introduce(ix)?;
        let calls: Vec<KeptCall> = self.nodes[ix].kept.values().cloned().collect();
        let was_in = calls.iter().filter(|kept| matches!(kept.standing, Standing::In { .. }));
        let consent: Vec<CallId> = was_in.map(|kept| kept.ticket.call).collect();
        self.nodes[ix].consent.extend(consent);
        let rings = calls.iter().any(|kept| matches!(kept.standing, Standing::Ringing(_)));
        // What rings again was written down in the former life.
        self.nodes[ix].remembered = if rings { MAX_RINGING_AGAIN } else { 0 };
        self.nodes[ix].rang.clear();
        self.ask(ix, Request::Restore { calls, rejoin: true })?.map_err(|error| format!("Restore: {error}"))?;
        Ok(())
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
        (0..self.nodes.len()).try_for_each(|node| self.revive(node))
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

    fn hang_up_everything(&mut self) -> Result<(), String> {
        for ix in 0..self.nodes.len() {
            for view in self.nodes[ix].node.calls() {
                self.ask(ix, Request::Hangup(view.call))?.map_err(|error| format!("n{ix} cannot hang up: {error}"))?;
            }
        }
        Ok(())
    }
}
