//! After everything, in calm weather: one fresh call of two neighbours, to see that no past trouble is left in anybody.

use std::time::Duration;

use crate::proto::{
    id::CallId,
    io::{CallState, EndReason, Former, ParticipantState, Reply, Request},
    seal::Rejected,
    signal::{Settings, Topic},
};

use super::world::{NodeIx, World};

impl World {
    /// Offers, then takes it back or talks and leaves; the other side must follow within seconds.
    pub fn encore(&mut self) -> Result<(), String> {
        let Some((a, b)) = self.some_neighbours() else { return Ok(()) };
        let invitees = vec![self.dids[b].clone()];
        let Ok(Reply::Offered(call)) = self.ask(a, Request::Offer { invitees, settings: Settings::default() })? else {
            return Err(format!("n{a} cannot call any more"));
        };
        let mutual = self.nodes[a].may_be_rung_by(self.setup.who_may_ring, &self.dids[b]);
        let alone = |node: NodeIx| self.dids.iter().filter(|did| **did == self.dids[node]).count() == 1;
        if mutual && alone(a) && alone(b) && !self.is_far_in_time(a, b) && self.agenda.chance.percent(30) {
            return self.glare(call, (a, b));
        }
        self.run_for(Duration::from_secs(2))?;
        let demand =
            |truth: bool, what: &str| if truth { Ok(()) } else { Err(format!("n{a} called n{b}, who {what}")) };
        if self.is_far_in_time(a, b) {
            // Its offers are from another time there, and the log says so.
            let rejected = self.nodes[b].node.rejected().contains_key(&Rejected::ClockSkew);
            demand(self.encore_state(b, call).is_none() && rejected, "takes offers of another time")?;
            // Another device of it may have taken the call.
            return self.hang_up_everything();
        }
        if self.encore_state(b, call) == Some(CallState::Incoming) {
            demand(self.nodes[b].plan.ring, "does not ring")?;
            if self.agenda.chance.percent(50) {
                let _ = self.ask(a, Request::Hangup(call))?;
                self.run_for(Duration::from_secs(2))?;
                return demand(self.nodes[b].ended.get(&call) == Some(&EndReason::Cancelled), "rings on");
            }
            let _ = self.ask(b, Request::Accept(call, Former::Hold))?;
        }
        self.run_for(Duration::from_secs(5))?;
        let connected = self.legs.of(a).find(|leg| self.legs.connected(leg)).and_then(|leg| self.legs.far_end(leg));
        // Another device may have taken the call by itself.
        let Some(b) = connected.filter(|other| self.dids[*other] == self.dids[b]) else {
            return demand(false, "is not connected");
        };
        let topic = Topic::Inbox(self.dids[b].clone());
        let own = (0..self.nodes.len()).filter(|own| *own != b && self.dids[*own] == self.dids[b]);
        for own in own.filter(|own| self.network.carries(&topic, b, *own) && !self.is_far_in_time(b, *own)) {
            demand(self.encore_state(own, call).is_none(), "answered, but another device of it rings on")?;
        }
        let _ = self.ask(a, Request::Hangup(call))?;
        self.run_for(Duration::from_secs(3))?;
        let views = self.nodes[b].node.calls();
        let others = views.iter().filter(|view| view.call == call).flat_map(|view| &view.participants);
        demand(others.clone().all(|other| other.state == ParticipantState::Left), "was not told of the end")?;
        demand(self.legs.of(b).next().is_none(), "keeps its leg")?;
        if self.encore_state(b, call).is_some() {
            let _ = self.ask(b, Request::Hangup(call))?;
        }
        Ok(())
    }

    /// At the same moment the other calls, too: one call must come of it, without any key press.
    fn glare(&mut self, call: CallId, (a, b): (NodeIx, NodeIx)) -> Result<(), String> {
        let offer = Request::Offer { invitees: vec![self.dids[a].clone()], settings: Settings::default() };
        let Ok(Reply::Offered(other)) = self.ask(b, offer)? else {
            return Err(format!("n{b} cannot call any more"));
        };
        self.run_for(Duration::from_secs(5))?;
        for node in [a, b] {
            let calls: Vec<CallId> = self.nodes[node].node.calls().iter().map(|view| view.call).collect();
            let connected = self.legs.of(node).any(|leg| self.legs.connected(leg));
            if calls != [call.min(other)] || !connected {
                return Err(format!("n{a} and n{b} called each other, and n{node} is in {calls:?}"));
            }
        }
        self.hang_up_everything()
    }

    fn encore_state(&self, node: NodeIx, call: CallId) -> Option<CallState> {
        self.nodes[node].node.calls().iter().find(|view| view.call == call).map(|view| view.state)
    }

    /// Their clocks differ by more than offers bear.
    fn is_far_in_time(&self, a: NodeIx, b: NodeIx) -> bool {
        self.nodes[a].clock.skew_ms.abs_diff(self.nodes[b].clock.skew_ms) > 120_000
    }

    /// Two who are linked, and of whom the second lets the first ring.
    fn some_neighbours(&mut self) -> Option<(NodeIx, NodeIx)> {
        let (first, count) = (self.agenda.chance.below(24) as usize, self.nodes.len());
        let honest = |node: NodeIx| !self.is_insider(node);
        let may_call = |a: NodeIx, b: NodeIx| {
            let rings = self.nodes[b].may_be_rung_by(self.setup.who_may_ring, &self.dids[a]);
            // Whichever of its devices takes the call must be reached.
            let devices = (0..count).filter(|device| self.dids[*device] == self.dids[b]);
            let reached = devices.into_iter().all(|device| self.network.linked(a, device));
            rings && reached && self.dids[a] != self.dids[b] && honest(a) && honest(b)
        };
        let pairs = (0..count * count).map(|pair| ((first + pair / count) % count, pair % count));
        pairs.filter(|(a, b)| a != b).find(|(a, b)| may_call(*a, *b))
    }
}
