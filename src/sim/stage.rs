//! A stage for scenarios: a quiet world, its people by number, and conditions to wait for.

use std::time::Duration;

use crate::proto::{
    id::CallId,
    io::{CallState, EndReason, Former, ParticipantState, Reply, Request, RequestError},
    signal::{Body, Settings},
};

use super::{
    oracle,
    seal::Sealed,
    setup::Setup,
    trace::Trace,
    world::{Fate, NodeIx, World},
};

/// A world that panics with its trace when a promise is broken.
pub struct Stage {
    pub world: World,
}

impl Stage {
    /// Quiet, with so many people; the first has the lowest DID, the last the highest.
    pub fn of(people: usize) -> Self {
        Self::with(Setup::calm(people))
    }

    pub fn with(setup: Setup) -> Self {
        let world = World::new(setup, Trace::on()).unwrap_or_else(|what| panic!("{what}"));
        Self { world }
    }

    /// The node with the `rank`-th DID, counted from the lowest.
    pub fn ranked(&self, rank: usize) -> NodeIx {
        let mut order: Vec<NodeIx> = (0..self.world.dids.len()).collect();
        order.sort_by(|a, b| self.world.dids[*a].cmp(&self.world.dids[*b]));
        order[rank]
    }

    pub fn fine<T>(&self, result: Result<T, String>) -> T {
        result.unwrap_or_else(|what| panic!("{}{what}", self.world.trace.tail(60, &self.world.dids)))
    }

    pub fn expect(&self, truth: bool, what: &str) {
        self.fine(if truth { Ok(()) } else { Err(format!("not so: {what}")) });
    }

    pub fn ask(&mut self, node: NodeIx, request: Request) -> Result<Reply, RequestError> {
        let result = self.world.ask(node, request);
        self.fine(result)
    }

    pub fn offer(&mut self, from: NodeIx, to: &[NodeIx]) -> CallId {
        let invitees = to.iter().map(|node| self.world.dids[*node].clone()).collect();
        match self.ask(from, Request::Offer { invitees, settings: Settings::default() }) {
            Ok(Reply::Offered(call)) => call,
            other => panic!("offered: {other:?}"),
        }
    }

    pub fn accept(&mut self, node: NodeIx, call: CallId) {
        assert_eq!(self.ask(node, Request::Accept(call, Former::Hold)), Ok(Reply::Done));
    }

    pub fn pass(&mut self, span: Duration) {
        let result = self.world.run_for(span);
        self.fine(result);
    }

    /// Lets time pass until it is true; fails if it is not within `limit_s`.
    pub fn until(&mut self, limit_s: u64, what: &str, truth: impl Fn(&Self) -> bool) {
        let end_us = self.world.now_us() + limit_s * 1_000_000;
        while !truth(self) {
            let result = self.world.step(end_us);
            let more = self.fine(result);
            self.expect(more || truth(self), what);
        }
    }

    pub fn state(&self, node: NodeIx, call: CallId) -> Option<CallState> {
        self.world.nodes[node].node.calls().iter().find(|view| view.call == call).map(|view| view.state)
    }

    pub fn ended(&self, node: NodeIx, call: CallId) -> Option<EndReason> {
        self.world.nodes[node].ended.get(&call).copied()
    }

    /// What `node` shows of `other`.
    pub fn shown(&self, node: NodeIx, call: CallId, other: NodeIx) -> Option<ParticipantState> {
        let views = self.world.nodes[node].node.calls();
        let view = views.iter().find(|view| view.call == call)?;
        view.participants.iter().find(|p| p.did == self.world.dids[other]).map(|p| p.state)
    }

    pub fn all_hear_each_other(&self, nodes: &[NodeIx], call: CallId) -> bool {
        nodes.iter().all(|a| {
            let others = nodes.iter().filter(|b| *b != a);
            others.clone().all(|b| self.shown(*a, call, *b) == Some(ParticipantState::Joined))
                && self.world.legs.of(*a).filter(|leg| leg.call == call && self.world.legs.connected(leg)).count()
                    == others.count()
        })
    }

    pub fn rings(&self, node: NodeIx) -> bool {
        self.world.nodes[node].plan.ring
    }

    pub fn censor(&mut self, censor: impl Fn(NodeIx, &Sealed) -> Fate + 'static) {
        self.world.censor = Some(Box::new(censor));
    }

    /// Drops every message that is like this.
    pub fn lose(&mut self, like: impl Fn(&Body) -> bool + 'static) {
        self.censor(move |_, sealed| if like(&sealed.outgoing.signal.body) { Fate::Drop } else { Fate::Pass });
    }

    /// Offered, ringing, accepted by all, connected.
    pub fn call(&mut self, from: NodeIx, to: &[NodeIx]) -> CallId {
        let call = self.offer(from, to);
        for node in to {
            self.until(2, "it rings", |stage| stage.rings(*node));
            self.accept(*node, call);
        }
        let all: Vec<NodeIx> = to.iter().chain([&from]).copied().collect();
        self.until(5, "all hear each other", |stage| stage.all_hear_each_other(&all, call));
        call
    }

    pub fn settles(&mut self) {
        self.pass(self.world.setup.settling());
        let result = oracle::settled(&mut self.world);
        self.fine(result);
    }
}
