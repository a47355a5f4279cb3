//! After everything, in calm weather: one fresh call of two neighbours, to see that no past trouble is left in anybody.

use std::time::Duration;

use crate::{
    config::WhoMayRing,
    proto::{
        id::CallId,
        io::{CallState, EndReason, Former, ParticipantState, Reply, Request},
        signal::Settings,
    },
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
        self.run_for(Duration::from_secs(2))?;
        let demand =
            |truth: bool, what: &str| if truth { Ok(()) } else { Err(format!("n{a} called n{b}, who {what}")) };
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
        let connected = [a, b].iter().all(|node| self.legs.of(*node).any(|leg| self.legs.connected(leg)));
        demand(connected, "is not connected")?;
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

    fn encore_state(&self, node: NodeIx, call: CallId) -> Option<CallState> {
        self.nodes[node].node.calls().iter().find(|view| view.call == call).map(|view| view.state)
    }

    /// Two who are linked, and of whom the second lets the first ring.
    fn some_neighbours(&mut self) -> Option<(NodeIx, NodeIx)> {
        let (first, count) = (self.agenda.chance.below(16) as usize, self.nodes.len());
        let may_ring = |a: NodeIx, b: NodeIx| match self.setup.who_may_ring {
            WhoMayRing::Anyone => true,
            WhoMayRing::Contacts => self.nodes[b].contacts.contains(&self.dids[a]),
        };
        let pairs = (0..count * count).map(|pair| ((first + pair / count) % count, pair % count));
        pairs.filter(|(a, b)| a != b && self.network.linked(*a, *b)).find(|(a, b)| may_ring(*a, *b))
    }
}
