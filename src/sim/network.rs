//! The gossip network: who is linked to whom, who subscribed to what, and what the weather does to messages.
//!
//! As in gossipsub, only a topic's subscribers forward its messages, a copy that was seen is not forwarded again, and a
//! publisher knows a neighbour's subscription only after it travelled. There is no repair here (gossipsub's IHAVE):
//! the protocol must do without.

use std::{cell::Cell, collections::BTreeMap, rc::Rc};

use crate::proto::{id::CallId, signal::Topic};

use super::{
    agenda::Agenda,
    coverage::{Coverage, Mark},
    world::{Happening, NodeIx},
};

/// How long news of a subscription takes to reach a neighbour, in µs.
const SUBSCRIPTION_TRAVEL_US: u64 = 1_500;

/// What the network does to each copy on each hop.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    pub loss_percent: u64,
    pub duplicate_percent: u64,
    /// A copy with one byte changed arrives beside the right one.
    pub tamper_percent: u64,
    /// Delays are uniform from 0.2 ms up to this, so that long ones reorder.
    pub max_delay_us: u64,
}

impl Weather {
    /// What the last phase of every run has.
    pub const CALM: Self = Self { loss_percent: 0, duplicate_percent: 0, tamper_percent: 0, max_delay_us: 20_000 };
}

/// One published message on its way.
#[derive(Debug)]
pub struct Message {
    pub topic: Topic,
    topic_ix: usize,
    pub author: NodeIx,
    pub published_us: u64,
    pub bytes: Vec<u8>,
    /// Whether it is a Hello, for the counts.
    pub hello: bool,
    /// Nodes whose gossip layer has it, as bits.
    seen: Cell<u32>,
    /// Nodes that opened it, as bits.
    opened: Cell<u32>,
}

impl Message {
    /// Notes that the node opened it; false if it had.
    pub fn first_opened(&self, node: NodeIx) -> bool {
        let opened = self.opened.get();
        self.opened.set(opened | 1 << node);
        opened & (1 << node) == 0
    }
}

/// How a copy arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copy {
    /// From the neighbour; dropped if another copy came first.
    Plain,
    /// A doubled copy that gossip's own memory does not catch.
    Again,
    /// With a byte changed (only in passing; it is not forwarded).
    Tampered,
}

#[derive(Debug)]
pub struct Network {
    pub weather: Weather,
    /// Linked neighbours of each node, as bits.
    links: Vec<u32>,
    /// Nodes of different groups do not reach each other.
    group: Vec<u8>,
    /// Suspended machines, as bits; nobody reaches them.
    asleep: u32,
    topics: BTreeMap<Topic, usize>,
    names: Vec<Topic>,
    /// Topic and time of the subscription, of each node.
    subscribed: Vec<Vec<(usize, u64)>>,
}

impl Network {
    /// A random connected topology; every pair that is not on the way is linked in `density_percent` of the cases.
    pub fn new(nodes: usize, density_percent: u64, weather: Weather, agenda: &mut Agenda) -> Self {
        let mut network = Self {
            weather,
            links: vec![0; nodes],
            group: vec![0; nodes],
            asleep: 0,
            topics: BTreeMap::new(),
            names: Vec::new(),
            subscribed: vec![Vec::new(); nodes],
        };
        for node in 1..nodes {
            let to = agenda.chance.below(node as u64) as usize;
            network.connect(node, to);
            for other in 0..node {
                if agenda.chance.percent(density_percent) {
                    network.connect(node, other);
                }
            }
        }
        network
    }

    fn connect(&mut self, a: NodeIx, b: NodeIx) {
        self.links[a] |= 1 << b;
        self.links[b] |= 1 << a;
    }

    /// Links exactly these pairs; for scenarios.
    pub fn set_links(&mut self, pairs: &[(NodeIx, NodeIx)]) {
        self.links.fill(0);
        pairs.iter().for_each(|(a, b)| self.connect(*a, *b));
    }

    /// A new link between nodes that dialled; each hears the other's subscriptions.
    pub fn link(&mut self, a: NodeIx, b: NodeIx, agenda: &mut Agenda) -> bool {
        if a == b || self.links[a] & (1 << b) != 0 || !self.reachable(a, b) {
            return false;
        }
        self.connect(a, b);
        self.greet(a, b, agenda);
        true
    }

    /// Both are in the same part of the network: packets pass (also a leg's).
    pub fn reachable(&self, a: NodeIx, b: NodeIx) -> bool {
        self.group[a] == self.group[b] && self.asleep & (1 << a | 1 << b) == 0
    }

    pub fn linked(&self, a: NodeIx, b: NodeIx) -> bool {
        self.links[a] & (1 << b) != 0
    }

    fn neighbours(&self, of: NodeIx) -> impl Iterator<Item = NodeIx> + use<> {
        let links = self.links[of];
        (0..self.links.len()).filter(move |node| links & (1 << node) != 0)
    }

    /// Parts the network: bit `n` of `side` says on which side node `n` is.
    pub fn part(&mut self, side: u32) {
        for (node, group) in self.group.iter_mut().enumerate() {
            *group = (side >> node & 1) as u8;
        }
    }

    pub fn is_whole(&self) -> bool {
        self.group.iter().all(|group| *group == self.group[0])
    }

    /// All parts are one again; links that were cut come up and tell their subscriptions.
    pub fn heal(&mut self, agenda: &mut Agenda) {
        let before = std::mem::replace(&mut self.group, vec![0; self.links.len()]);
        for a in 0..self.links.len() {
            for b in self.neighbours(a).filter(|b| *b > a && before[a] != before[*b]) {
                self.greet(a, b, agenda);
            }
        }
    }

    /// Each of two newly connected neighbours hears what the other is subscribed to.
    fn greet(&self, a: NodeIx, b: NodeIx, agenda: &mut Agenda) {
        for (to, of) in [(a, b), (b, a)] {
            for (topic_ix, _) in &self.subscribed[of] {
                agenda.after_us(SUBSCRIPTION_TRAVEL_US, Happening::NeighbourSubscribed { to, of, topic_ix: *topic_ix });
            }
        }
    }

    fn intern(&mut self, topic: &Topic) -> usize {
        if let Some(ix) = self.topics.get(topic) {
            return *ix;
        }
        let ix = self.names.len();
        self.names.push(topic.clone());
        self.topics.insert(topic.clone(), ix);
        ix
    }

    pub fn is_subscribed(&self, node: NodeIx, topic: &Topic) -> bool {
        self.topics.get(topic).is_some_and(|ix| self.has(node, *ix))
    }

    fn has(&self, node: NodeIx, topic_ix: usize) -> bool {
        self.subscribed[node].iter().any(|(ix, _)| *ix == topic_ix)
    }

    pub fn subscriptions(&self, node: NodeIx) -> Vec<Topic> {
        self.subscribed[node].iter().map(|(ix, _)| self.names[*ix].clone()).collect()
    }

    pub fn subscription_count(&self, node: NodeIx) -> usize {
        self.subscribed[node].len()
    }

    pub fn subscribe(&mut self, node: NodeIx, topic: &Topic, agenda: &mut Agenda) {
        let topic_ix = self.intern(topic);
        if self.has(node, topic_ix) {
            return;
        }
        self.subscribed[node].push((topic_ix, agenda.now_us));
        for to in self.neighbours(node).filter(|to| self.reachable(*to, node)) {
            agenda.after_us(SUBSCRIPTION_TRAVEL_US, Happening::NeighbourSubscribed { to, of: node, topic_ix });
        }
    }

    pub fn unsubscribe(&mut self, node: NodeIx, topic: &Topic) {
        if let Some(topic_ix) = self.topics.get(topic) {
            self.subscribed[node].retain(|(ix, _)| ix != topic_ix);
        }
    }

    /// The machine is suspended: its links stay, but nothing passes.
    pub fn fall_asleep(&mut self, node: NodeIx) {
        self.asleep |= 1 << node;
    }

    /// It goes on: it and its neighbours find each other again.
    pub fn wake_up(&mut self, node: NodeIx, agenda: &mut Agenda) {
        self.asleep &= !(1 << node);
        self.revive(node, agenda);
    }

    pub fn is_asleep(&self, node: NodeIx) -> bool {
        self.asleep & (1 << node) != 0
    }

    /// The node was killed: nothing of it is subscribed any more.
    pub fn kill(&mut self, node: NodeIx) {
        self.asleep &= !(1 << node);
        self.subscribed[node].clear();
    }

    /// The node is back: its neighbours tell it what they are subscribed to.
    pub fn revive(&mut self, node: NodeIx, agenda: &mut Agenda) {
        for other in self.neighbours(node).filter(|other| self.reachable(*other, node)) {
            self.greet(node, other, agenda);
        }
    }

    /// The topic's text if `of` is still subscribed and connected to `to`.
    pub fn subscription_news(&self, to: NodeIx, of: NodeIx, topic_ix: usize) -> Option<Topic> {
        let known = self.reachable(to, of) && self.has(of, topic_ix);
        known.then(|| self.names[topic_ix].clone())
    }

    pub fn publish(&mut self, from: NodeIx, topic: Topic, bytes: Vec<u8>, hello: bool, sky: &mut Sky<'_>) {
        let topic_ix = self.intern(&topic);
        let message = Rc::new(Message {
            topic,
            topic_ix,
            author: from,
            published_us: sky.agenda.now_us,
            bytes,
            hello,
            seen: Cell::new(1 << from),
            opened: Cell::new(0),
        });
        self.flood(from, None, &message, sky);
    }

    fn flood(&self, from: NodeIx, except: Option<NodeIx>, message: &Rc<Message>, sky: &mut Sky<'_>) {
        for to in self.neighbours(from).filter(|to| Some(*to) != except && self.reachable(from, *to)) {
            let since = self.subscribed[to].iter().find(|(ix, _)| *ix == message.topic_ix);
            if since.is_some_and(|(_, since_us)| since_us + SUBSCRIPTION_TRAVEL_US <= sky.agenda.now_us) {
                self.hop(from, to, message, sky);
            }
        }
    }

    fn hop(&self, from: NodeIx, to: NodeIx, message: &Rc<Message>, sky: &mut Sky<'_>) {
        let weather = self.weather;
        if sky.agenda.chance.percent(weather.loss_percent) {
            sky.coverage.mark(Mark::LostMessage);
            if message.hello {
                sky.coverage.mark(Mark::LostHello);
            }
            return;
        }
        let mut send = |copy| {
            let delay_us = sky.agenda.chance.between(200, weather.max_delay_us.max(200));
            sky.agenda.after_us(delay_us, Happening::Arrive { from, to, copy, message: Rc::clone(message) });
        };
        send(Copy::Plain);
        if sky.agenda.chance.percent(weather.duplicate_percent) {
            sky.coverage.mark(Mark::Duplicate);
            let delay_us = sky.agenda.chance.between(200, weather.max_delay_us.max(200));
            let happening = Happening::Arrive { from, to, copy: Copy::Again, message: Rc::clone(message) };
            sky.agenda.after_us(delay_us, happening);
        }
        if sky.agenda.chance.percent(weather.tamper_percent) {
            let happening = Happening::Arrive { from, to, copy: Copy::Tampered, message: Rc::clone(message) };
            sky.agenda.after_us(200, happening);
        }
    }

    /// A copy reaches `to`: forwards it and says whether the node gets it.
    pub fn arrive(&self, (from, to): (NodeIx, NodeIx), copy: Copy, message: &Rc<Message>, sky: &mut Sky<'_>) -> bool {
        if !self.reachable(from, to) || !self.has(to, message.topic_ix) {
            return false;
        }
        if copy != Copy::Plain {
            return true;
        }
        let seen = message.seen.get();
        if seen & (1 << to) != 0 {
            return false;
        }
        message.seen.set(seen | 1 << to);
        if from != message.author {
            sky.coverage.mark(Mark::Forwarded);
        }
        self.flood(to, Some(from), message, sky);
        true
    }

    /// Whether a path of subscribers of the topic leads from `a` to `b`.
    pub fn carries(&self, topic: &Topic, a: NodeIx, b: NodeIx) -> bool {
        let Some(topic_ix) = self.topics.get(topic) else { return false };
        let mut met: u32 = 1 << a;
        let mut waiting = vec![a];
        while let Some(node) = waiting.pop() {
            for next in self.neighbours(node).filter(|next| self.reachable(node, *next) && self.has(*next, *topic_ix)) {
                if met & (1 << next) == 0 {
                    met |= 1 << next;
                    waiting.push(next);
                }
            }
        }
        met & (1 << b) != 0
    }
}

/// What every part of the world needs to let something happen.
pub struct Sky<'a> {
    pub agenda: &'a mut Agenda,
    pub coverage: &'a mut Coverage,
}

/// The call that a topic belongs to.
pub fn call_of(topic: &Topic) -> Option<CallId> {
    match topic {
        Topic::Call(call) | Topic::Member(call, _) => Some(*call),
        Topic::Inbox(_) => None,
    }
}
