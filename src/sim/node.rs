//! One daemon of the world: its birth, its deaths, its sleep, and what its shell, its user and its books hold.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use crate::{
    config::{AutoAccept, WhoMayRing},
    proto::{
        engine::{Engine, EngineConfig},
        id::{CallId, DeviceId, Did, MessageId},
        io::{AudioPlan, EndReason, Input, Policy, Request, Standing},
        node::Node,
        signal::Contact,
    },
};

use super::{
    agenda::Clock,
    coverage::Mark,
    oracle,
    seal::AnySeal,
    setup::person,
    store::Store,
    world::{NodeIx, World},
};

/// One daemon and what its shell would hold.
pub struct SimNode {
    pub node: Node<AnySeal>,
    pub device: DeviceId,
    pub contacts: Vec<(Did, Policy)>,
    pub plan: AudioPlan,
    /// The user's last word on the microphone, or that of `automute`.
    pub mute: bool,
    /// With push-to-talk: until when the last push holds.
    pub talks_until: Option<Instant>,
    /// Survives a kill.
    pub store: Store,
    /// Calls that the user offered, accepted or joined, and that are not over.
    pub consent: BTreeSet<CallId>,
    /// Calls that are over here, and how often each rang in this life.
    pub ended: BTreeMap<CallId, EndReason>,
    pub rang: BTreeMap<CallId, u32>,
    /// When it forgot a call last, and with it what it had opened of it, in µs.
    pub forgot: BTreeMap<CallId, u64>,
    /// By whom.
    pub rang_by: BTreeSet<(CallId, Did)>,
    /// How often somebody in the call asked this person into it later on, without a ring so far.
    pub asked_anew: BTreeMap<CallId, u32>,
    /// When each stranger rang last, in µs.
    pub strangers: BTreeMap<Did, u64>,
    /// Who said no to an invitation of this device.
    pub refused_by: BTreeSet<(CallId, Did)>,
    /// An own offer has just lost to the same people's: joining theirs needs no key press.
    pub superseded: bool,
    /// The call that the user wants to have recorded; a daemon that is killed forgets it.
    pub records: Option<CallId>,
    /// Seen-set writes since the last ring.
    pub remembered: u32,
    /// It is being started with what it kept, so that what rang before may ring again.
    pub restoring: bool,
    pub clock: Clock,
    pub down: bool,
    /// When a suspended machine goes on, in µs.
    pub sleeps_until_us: Option<u64>,
    pub lives: u32,
    /// How often its clients were told that no connection comes about.
    pub told_no_connection: u32,
    pub wake_us: Option<u64>,
    pub timeouts_at: (u64, u32),
}

impl SimNode {
    pub fn policy(&self, did: &Did) -> Option<Policy> {
        self.contacts.iter().find(|(contact, _)| contact == did).map(|(_, policy)| *policy)
    }

    pub fn blocks(&self, did: &Did) -> bool {
        self.policy(did) == Some(Policy::Block)
    }

    /// The configuration says yes for the user to calls among these.
    pub fn accepts_unasked<'a>(&self, auto_accept: AutoAccept, mut others: impl Iterator<Item = &'a Did>) -> bool {
        let fits = |did: &Did| match (self.policy(did), auto_accept) {
            (Some(Policy::Allow), _) => true,
            (Some(Policy::Ask), AutoAccept::Contacts) => true,
            (Some(Policy::Ask | Policy::Block) | None, _) => false,
        };
        auto_accept == AutoAccept::All || others.all(fits)
    }

    /// Whether that DID's offer may ring here.
    pub fn may_be_rung_by(&self, who_may_ring: WhoMayRing, did: &Did) -> bool {
        match self.policy(did) {
            Some(Policy::Allow | Policy::Ask) => true,
            Some(Policy::Block) => false,
            None => who_may_ring == WhoMayRing::Anyone,
        }
    }
}

impl World {
    /// A node before its first life.
    pub fn newcomer(&mut self, ix: NodeIx) -> SimNode {
        let percent = self.setup.contact_percent;
        let chance = &mut self.agenda.chance;
        let first = self.dids.iter().position(|did| *did == self.dids[ix]).unwrap_or(ix);
        let contacts: Vec<(Did, Policy)> = if first < ix {
            // All devices of a person have the same contacts.
            self.nodes[first].contacts.clone()
        } else {
            let mut others: Vec<&Did> = self.people.iter().filter(|did| **did != self.dids[ix]).collect();
            others.retain(|_| chance.percent(percent));
            others.into_iter().map(|did| (did.clone(), Policy::Ask)).collect()
        };
        let span_ms = self.setup.max_skew_ms;
        let chance = &mut self.agenda.chance;
        let skew_ms = if first < ix {
            // A device that is far behind another of its DID cannot outbid the other's last stay, of which it knows nothing.
            self.nodes[first].clock.skew_ms + chance.below(200) as i64
        } else {
            chance.between(0, 2 * span_ms) as i64 - span_ms as i64
        };
        let device = DeviceId([ix as u8 + 1; 16]);
        SimNode {
            node: self.birth(ix, device, &contacts, Vec::new()),
            device,
            contacts,
            plan: AudioPlan::default(),
            mute: false,
            talks_until: None,
            store: Store::default(),
            consent: BTreeSet::new(),
            ended: BTreeMap::new(),
            rang: BTreeMap::new(),
            forgot: BTreeMap::new(),
            rang_by: BTreeSet::new(),
            asked_anew: BTreeMap::new(),
            strangers: BTreeMap::new(),
            refused_by: BTreeSet::new(),
            told_no_connection: 0,
            superseded: false,
            records: None,
            remembered: 0,
            restoring: false,
            clock: Clock { skew_ms, slept_us: 0 },
            down: false,
            sleeps_until_us: None,
            lives: 1,
            wake_us: None,
            timeouts_at: (0, 0),
        }
    }

    fn birth(
        &mut self,
        ix: NodeIx,
        device: DeviceId,
        contacts: &[(Did, Policy)],
        seen: Vec<(Did, MessageId)>,
    ) -> Node<AnySeal> {
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
            push_to_talk: setup.push_to_talk,
            automute: setup.automute,
        };
        let engine = Engine::new(config, self.agenda.chance.bytes(), contacts.to_vec(), seen);
        let seed = self.agenda.chance.bytes();
        let person = person(setup.first_person + setup.owners[ix]);
        Node::new(engine, AnySeal::new(setup.real_seal, person, device, seed, &self.ledger))
    }

    /// The first things that a daemon tells its engine.
    pub fn introduce(&mut self, ix: NodeIx) -> Result<(), String> {
        let contact = Contact { peer_id: format!("sim-{ix}"), addresses: vec![format!("/sim/{ix}")] };
        self.ask(ix, Request::SetAddresses(contact))?.map_err(|error| format!("SetAddresses: {error}"))?;
        Ok(())
    }

    /// `kill -9`: nothing is said, and all but the database is lost.
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
        node.sleeps_until_us = None;
        (node.mute, node.talks_until) = (false, None);
        node.rang.clear();
        node.consent.clear();
        node.records = None;
        node.strangers.clear();
        node.refused_by.clear();
    }

    /// As [`Self::kill`], and what was written last never reached the disk.
    pub fn kill_before_the_disk(&mut self, ix: NodeIx) {
        if !self.nodes[ix].down {
            self.coverage.mark(Mark::LostWrite);
            self.nodes[ix].store.lose_last_write();
            self.nodes[ix].rang_by.clear();
        }
        self.kill(ix);
    }

    pub fn revive(&mut self, ix: NodeIx) -> Result<(), String> {
        if !self.nodes[ix].down {
            return Ok(());
        }
        self.trace.line(self.agenda.now_us, || format!("n{ix} is started again"));
        let (device, contacts) = (self.nodes[ix].device, self.nodes[ix].contacts.clone());
        let node = self.birth(ix, device, &contacts, self.nodes[ix].store.seen.clone());
        self.nodes[ix].node = node;
        self.nodes[ix].down = false;
        self.nodes[ix].lives += 1;
        self.network.revive(ix, &mut self.agenda);
        self.nodes[ix].restoring = true;
        self.introduce(ix)?;
        self.restore(ix)?;
        self.nodes[ix].restoring = false;
        oracle::check(self, ix)
    }

    /// Tells the engine what was written down.
    fn restore(&mut self, ix: NodeIx) -> Result<(), String> {
        let rejoin = self.setup.rejoin;
        let calls: Vec<_> = self.nodes[ix].store.calls.values().cloned().collect();
        for kept in &calls {
            let call = kept.ticket.call;
            match kept.standing {
                Standing::In { .. } if rejoin => {
                    self.coverage.mark(Mark::Restored);
                    self.nodes[ix].consent.insert(call);
                }
                Standing::In { .. } => self.coverage.mark(Mark::Interrupted),
                Standing::Ringing(_) => {
                    self.coverage.mark(Mark::RestoredRing);
                    self.nodes[ix].rang_by.retain(|(rang, _)| *rang != call);
                }
                Standing::Past(_) => {}
            }
        }
        self.ask(ix, Request::Restore { calls, rejoin })?
            .map(drop)
            .map_err(|error| format!("n{ix} cannot be restored: {error}"))
    }

    /// The machine is suspended.
    pub fn suspend(&mut self, ix: NodeIx, span: Duration) {
        if self.nodes[ix].down || self.network.is_asleep(ix) {
            return;
        }
        self.trace.line(self.agenda.now_us, || format!("n{ix} falls asleep"));
        self.coverage.mark(if self.nodes[ix].consent.is_empty() { Mark::Slept } else { Mark::SleptInCall });
        let until_us = self.agenda.now_us + span.as_micros() as u64;
        self.nodes[ix].sleeps_until_us = Some(until_us);
        self.network.fall_asleep(ix);
        let (_, legs, mut sky) = self.split();
        legs.path_changed(&mut sky);
        self.agenda.at(until_us, super::world::Happening::GoOn { node: ix, slept: span });
    }

    /// The machine goes on where it stopped.
    pub fn go_on(&mut self, ix: NodeIx, slept: Duration) -> Result<(), String> {
        // It may have been killed, and even suspended again, in between.
        if self.nodes[ix].sleeps_until_us != Some(self.agenda.now_us) {
            return Ok(());
        }
        self.trace.line(self.agenda.now_us, || format!("n{ix} wakes up"));
        (self.nodes[ix].sleeps_until_us, self.nodes[ix].talks_until) = (None, None);
        self.nodes[ix].clock.slept_us += slept.as_micros() as u64;
        self.network.wake_up(ix, &mut self.agenda);
        let (_, legs, mut sky) = self.split();
        legs.path_changed(&mut sky);
        self.input(ix, Input::Woke(slept))
    }
}
