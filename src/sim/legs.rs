//! Simulated connections: what a WebRTC leg would report, when, and what it may do wrong.
//!
//! Two connections find each other when each was given the other's description and at least one the other's candidates.
//! Then they come up, or fail, or hang without ever saying so (DTLS under packet loss). A path that is up may be lost for
//! good; then an ICE restart, a new generation of descriptions and candidates, finds another. What the engine must never
//! do to a leg is an `Err` here.

use std::collections::BTreeMap;

use crate::proto::{
    id::{CallId, Did, LegId},
    io::{LegCommand, LegEvent, Role},
    signal::{Sdp, SdpKind},
};

use super::{
    coverage::Mark,
    network::{Network, Sky},
    world::{Happening, NodeIx},
};

/// WebRTC notices a silent path after about 1.2 s and gives it up 5 s later.
const NOTICE_US: (u64, u64) = (1_200_000, 1_700_000);
const GIVE_UP_US: u64 = 5_000_000;

/// How legs misbehave, in percent of those that found each other.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    pub hang_percent: u64,
    pub half_hang_percent: u64,
    pub fail_percent: u64,
    /// Of those that came up: their path is lost for good.
    pub cut_percent: u64,
}

impl Faults {
    pub const NONE: Self = Self { hang_percent: 0, half_hang_percent: 0, fail_percent: 0, cut_percent: 0 };
}

/// What becomes of a leg next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Describe,
    Gather,
    FindPath,
    ComeUp,
    Hear,
    Notice,
    GiveUp,
    Recover,
    Cut,
    Vanish,
}

/// What the engine was last told of the media path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    Nothing,
    Up,
    Disconnected,
    Failed,
}

#[derive(Debug)]
pub struct SimLeg {
    pub owner: NodeIx,
    pub id: LegId,
    pub call: CallId,
    /// The first node of the person at the other end, whichever of its devices that is.
    pub peer: NodeIx,
    role: Role,
    remote: Option<usize>,
    /// How often ICE was restarted: as described by itself, and as the far end's latest description said.
    generation: u32,
    remote_generation: u32,
    /// The leg whose candidates it was given, and of which generation.
    candidates_of: Option<(usize, u32)>,
    /// The generation in which both ends may find each other.
    paired: Option<u32>,
    /// There is no path any more, and without an ICE restart there will be none.
    cut: bool,
    /// Never reports anything more of its path.
    hung: bool,
    pub told: Told,
    pub closing: bool,
    /// Closed, or gone with its node.
    pub gone: bool,
    heard: bool,
}

#[derive(Debug, Default)]
pub struct Legs {
    all: Vec<SimLeg>,
    /// The first node of each node's person.
    persons: Vec<NodeIx>,
    /// Legs of each node that are not gone.
    by_id: Vec<BTreeMap<LegId, usize>>,
    /// The highest leg id of each node's present life.
    last_id: Vec<u64>,
    /// How often each pair (lower node index first) came up in this call.
    came_up: BTreeMap<(CallId, NodeIx, NodeIx), u32>,
    pub faults: Faults,
}

impl Legs {
    pub fn new(dids: &[Did], faults: Faults) -> Self {
        let nodes = dids.len();
        let persons = dids.iter().map(|did| dids.iter().position(|other| other == did).unwrap_or_default()).collect();
        Self { persons, by_id: vec![BTreeMap::new(); nodes], last_id: vec![0; nodes], faults, ..Self::default() }
    }

    pub fn of(&self, node: NodeIx) -> impl Iterator<Item = &SimLeg> {
        self.by_id[node].values().map(|token| &self.all[*token])
    }

    pub fn owner(&self, token: usize) -> NodeIx {
        self.all[token].owner
    }

    /// Whether media flows both ways on this leg, as far as both engines know.
    pub fn connected(&self, leg: &SimLeg) -> bool {
        let whole = |leg: &SimLeg| leg.told == Told::Up && !leg.closing && !leg.gone;
        whole(leg) && leg.remote.is_some_and(|remote| whole(&self.all[remote]) && leg.paired.is_some())
    }

    pub fn command(
        &mut self,
        node: NodeIx,
        id: LegId,
        command: &LegCommand,
        dids: &[Did],
        sky: &mut Sky<'_>,
    ) -> Result<(), String> {
        if let LegCommand::Open { call, peer, role } = command {
            return self.open((node, id), *call, peer, *role, dids, sky);
        }
        let Some(token) = self.by_id[node].get(&id).copied() else {
            return Err(format!("{id:?} is gone or never was"));
        };
        if self.all[token].closing {
            return Err(format!("{id:?} was told to close before {command:?}"));
        }
        match command {
            LegCommand::Open { .. } => Ok(()),
            LegCommand::Remote(sdp) => self.describe_remote(token, sdp, sky),
            LegCommand::Candidates(ice) => {
                for candidate in ice.candidates.iter().filter(|text| !Self::is_garbage(text)) {
                    let named = candidate.strip_prefix("candidate:").and_then(end_and_generation);
                    let leg = &self.all[token];
                    if leg.generation > 0 && leg.remote != named.map(|(of, _)| of) {
                        // Of a new connection that answers an ICE restart: its user fragment is foreign here.
                        continue;
                    }
                    let of = self.belongs(token, named.map(|(of, _)| of))?;
                    self.all[token].candidates_of = named.map(|(_, generation)| (of, generation));
                }
                self.pair(token, sky);
                Ok(())
            }
            LegCommand::RestartIce => {
                let leg = &mut self.all[token];
                if leg.role == Role::Answerer || leg.told == Told::Nothing || leg.generation > leg.remote_generation {
                    return Err(format!("{id:?} was told to restart ICE at the wrong time"));
                }
                leg.generation += 1;
                self.describe_soon(token, sky);
                Ok(())
            }
            LegCommand::Close => {
                self.all[token].closing = true;
                let slow = sky.agenda.chance.percent(5);
                let delay_us = sky.agenda.chance.between(100, if slow { 2_000_000 } else { 20_000 });
                sky.agenda.after_us(delay_us, Happening::Leg { token, step: Step::Vanish });
                self.lose_remote(token, sky);
                Ok(())
            }
        }
    }

    fn open(
        &mut self,
        (node, id): (NodeIx, LegId),
        call: CallId,
        peer: &Did,
        role: Role,
        dids: &[Did],
        sky: &mut Sky<'_>,
    ) -> Result<(), String> {
        let Some(peer_ix) = dids.iter().position(|did| did == peer) else { return Err(format!("a leg to {peer}")) };
        if self.of(node).any(|leg| leg.peer == peer_ix && leg.call == call) {
            return Err(format!("a second leg to n{peer_ix} before the first was closed"));
        }
        if id.0 <= self.last_id[node] {
            return Err(format!("{id:?} was used before"));
        }
        if (role == Role::Initiator) != (dids[node] < *peer) || self.persons[node] == peer_ix {
            return Err(format!("{role:?} towards n{peer_ix}"));
        }
        self.last_id[node] = id.0;
        let token = self.all.len();
        self.by_id[node].insert(id, token);
        self.all.push(SimLeg {
            owner: node,
            id,
            call,
            peer: peer_ix,
            role,
            remote: None,
            generation: 0,
            remote_generation: 0,
            candidates_of: None,
            paired: None,
            cut: false,
            hung: false,
            told: Told::Nothing,
            closing: false,
            gone: false,
            heard: false,
        });
        if role == Role::Initiator {
            self.describe_soon(token, sky);
        }
        Ok(())
    }

    fn describe_soon(&self, token: usize, sky: &mut Sky<'_>) {
        let describe_us = sky.agenda.chance.between(500, 30_000);
        sky.agenda.after_us(describe_us, Happening::Leg { token, step: Step::Describe });
        let gather_us = sky.agenda.chance.between(500, 60_000);
        sky.agenda.after_us(gather_us, Happening::Leg { token, step: Step::Gather });
    }

    /// The leg `of`, if it is the other end of an attempt that `token` may belong to.
    fn belongs(&self, token: usize, of: Option<usize>) -> Result<usize, String> {
        let leg = &self.all[token];
        let fits = |other: &SimLeg| self.persons[other.owner] == leg.peer && other.peer == self.persons[leg.owner];
        let of = of.filter(|of| self.all.get(*of).is_some_and(fits));
        let of = of.ok_or_else(|| format!("{:?} was given what is not of its peer", leg.id))?;
        if leg.remote.or(leg.candidates_of.map(|(of, _)| of)).is_some_and(|known| known != of)
            || self.all[of].call != leg.call
        {
            return Err(format!("{:?} was given something of another attempt", leg.id));
        }
        Ok(of)
    }

    /// What no peer of ours sends: WebRTC fails at it sooner or later, as it does when nothing comes.
    fn is_garbage(text: &str) -> bool {
        text == "garbage"
    }

    fn describe_remote(&mut self, token: usize, sdp: &Sdp, sky: &mut Sky<'_>) -> Result<(), String> {
        if Self::is_garbage(&sdp.sdp) {
            return Ok(());
        }
        let named = end_and_generation(&sdp.sdp);
        let of = self.belongs(token, named.map(|(of, _)| of))?;
        let generation = named.map_or(0, |(_, generation)| generation);
        let leg = &mut self.all[token];
        let fits = (sdp.kind == SdpKind::Answer) == (leg.role == Role::Initiator);
        if !fits || sdp.fingerprint != fingerprint(of) {
            return Err(format!("{:?} was given a wrong {:?}", leg.id, sdp.kind));
        }
        let restarts = leg.remote.replace(of).is_some();
        if restarts && generation <= leg.remote_generation
            || leg.role == Role::Initiator && generation != leg.generation
        {
            return Err(format!("{:?} was described twice, or out of turn", leg.id));
        }
        leg.remote_generation = generation;
        if leg.role == Role::Answerer {
            leg.generation = generation;
            self.describe_soon(token, sky);
        }
        if restarts {
            // The old path is given up when the far end's description is there, not before.
            self.all[token].cut = true;
            let delay_us = sky.agenda.chance.between(100, 2_000);
            sky.agenda.after_us(delay_us, Happening::Leg { token, step: Step::Notice });
        }
        self.pair(token, sky);
        Ok(())
    }

    fn is_whole(&self, token: usize) -> bool {
        !self.all[token].gone && !self.all[token].closing
    }

    /// Both ends may now find each other.
    fn pair(&mut self, a: usize, sky: &mut Sky<'_>) {
        let Some(b) = self.all[a].remote.filter(|b| self.all[*b].remote == Some(a)) else { return };
        let generation = self.all[a].generation;
        let agree = [a, b].map(|token| (self.all[token].generation, self.all[token].remote_generation));
        let candidates = [a, b].map(|token| self.all[token].candidates_of.map(|(_, generation)| generation));
        if agree != [(generation, generation); 2]
            || !candidates.contains(&Some(generation))
            || self.all[a].paired == Some(generation)
            || !self.is_whole(a)
            || !self.is_whole(b)
        {
            return;
        }
        for token in [a, b] {
            self.all[token].paired = Some(generation);
            self.all[token].cut = false;
            let delay_us = sky.agenda.chance.between(2_000, 300_000);
            sky.agenda.after_us(delay_us, Happening::Leg { token, step: Step::FindPath });
        }
        let faults = self.faults;
        let dice = sky.agenda.chance.below(100);
        if dice < faults.hang_percent + faults.half_hang_percent {
            sky.coverage.mark(Mark::LegHung);
            self.all[a].hung = true;
            self.all[b].hung = dice < faults.hang_percent;
        } else if dice < faults.hang_percent + faults.half_hang_percent + faults.fail_percent {
            let delay_us = sky.agenda.chance.between(1_000, 5_000_000);
            sky.agenda.after_us(delay_us, Happening::Leg { token: a, step: Step::GiveUp });
            self.all[a].hung = true;
            self.all[b].hung = true;
        }
    }

    /// Whether packets of the far end arrive here.
    fn flows(&self, token: usize, network: &Network) -> bool {
        let leg = &self.all[token];
        let heard = |remote: usize| self.is_whole(remote) && !self.all[remote].hung && !self.all[remote].cut;
        !leg.cut && leg.remote.is_some_and(heard) && self.reaches(token, network)
    }

    /// Whether the network leads to the other end.
    fn reaches(&self, token: usize, network: &Network) -> bool {
        let leg = &self.all[token];
        leg.remote.is_some_and(|remote| network.reachable(leg.owner, self.all[remote].owner))
    }

    /// The node at the other end, once that is known.
    pub fn far_end(&self, leg: &SimLeg) -> Option<NodeIx> {
        self.other_end(leg).map(|far| far.owner)
    }

    pub fn other_end(&self, leg: &SimLeg) -> Option<&SimLeg> {
        leg.remote.map(|remote| &self.all[remote])
    }

    /// The far end of `token` will notice that nothing comes any more.
    fn lose_remote(&self, token: usize, sky: &mut Sky<'_>) {
        if let Some(remote) = self.all[token].remote {
            let delay_us = sky.agenda.chance.between(NOTICE_US.0, NOTICE_US.1);
            sky.agenda.after_us(delay_us, Happening::Leg { token: remote, step: Step::Notice });
        }
    }

    /// Lets the step happen; the event is for the leg's engine.
    pub fn step(
        &mut self,
        token: usize,
        step: Step,
        network: &Network,
        sky: &mut Sky<'_>,
    ) -> Option<(NodeIx, LegId, LegEvent)> {
        let (flows, leg) = (self.flows(token, network), &self.all[token]);
        if leg.gone || (leg.closing && step != Step::Vanish) {
            return None;
        }
        let (owner, id) = (leg.owner, leg.id);
        let later = |step, delay_us, sky: &mut Sky<'_>| sky.agenda.after_us(delay_us, Happening::Leg { token, step });
        let event = match step {
            Step::Describe => LegEvent::Description {
                sdp: format!("sim {token} {}", leg.generation),
                fingerprint: fingerprint(token),
            },
            Step::Gather => LegEvent::Candidates(vec![format!("candidate:sim {token} {}", leg.generation)]),
            Step::FindPath if leg.generation > 0 && leg.told != Told::Nothing => {
                return self.find_another_path(token, flows, sky);
            }
            Step::FindPath if self.reaches(token, network) => {
                later(Step::ComeUp, 5_000 + sky.agenda.chance.below(50_000), sky);
                LegEvent::IceConnected
            }
            Step::FindPath => {
                later(Step::GiveUp, GIVE_UP_US, sky);
                return None;
            }
            // A hung far end looks up from here, until nothing comes.
            Step::ComeUp if !leg.hung && self.reaches(token, network) => return self.come_up(token, sky),
            Step::Hear if flows && leg.told == Told::Up && !leg.heard => {
                self.all[token].heard = true;
                sky.coverage.mark(Mark::FirstAudio);
                LegEvent::FirstAudio
            }
            Step::Notice if !flows && leg.told == Told::Up => {
                sky.coverage.mark(Mark::LegLost);
                if sky.agenda.chance.percent(70) {
                    later(Step::GiveUp, GIVE_UP_US, sky);
                }
                self.all[token].told = Told::Disconnected;
                LegEvent::Disconnected
            }
            Step::Recover if flows && leg.told == Told::Disconnected => {
                sky.coverage.mark(Mark::LegRecovered);
                self.all[token].told = Told::Up;
                LegEvent::Recovered
            }
            Step::GiveUp if leg.hung || (!flows && leg.told != Told::Failed) => {
                sky.coverage.mark(Mark::LegFailed);
                self.all[token].told = Told::Failed;
                LegEvent::Failed
            }
            Step::Cut => {
                sky.coverage.mark(Mark::PathCut);
                self.all[token].cut = true;
                self.lose_remote(token, sky);
                later(Step::Notice, sky.agenda.chance.between(NOTICE_US.0, NOTICE_US.1), sky);
                return None;
            }
            Step::Vanish => {
                self.all[token].gone = true;
                self.by_id[owner].remove(&id);
                LegEvent::Closed
            }
            Step::ComeUp | Step::Hear | Step::Notice | Step::Recover | Step::GiveUp => return None,
        };
        Some((owner, id, event))
    }

    /// ICE was restarted: it finds a path, or gives up.
    fn find_another_path(&mut self, token: usize, flows: bool, sky: &mut Sky<'_>) -> Option<(NodeIx, LegId, LegEvent)> {
        let leg = &mut self.all[token];
        if flows && !leg.hung && leg.told == Told::Disconnected {
            leg.told = Told::Up;
            sky.coverage.mark(Mark::IceRestarted);
            return Some((leg.owner, leg.id, LegEvent::Recovered));
        }
        sky.agenda.after_us(GIVE_UP_US, Happening::Leg { token, step: Step::GiveUp });
        None
    }

    fn come_up(&mut self, token: usize, sky: &mut Sky<'_>) -> Option<(NodeIx, LegId, LegEvent)> {
        let leg = &mut self.all[token];
        if leg.told != Told::Nothing {
            return None;
        }
        leg.told = Told::Up;
        let (own, peer) = (self.persons[leg.owner], leg.peer);
        let key = (leg.call, own.min(peer), own.max(peer));
        let times = self.came_up.entry(key).or_default();
        *times += 1;
        sky.coverage.mark(if *times == 3 { Mark::LegRepaired } else { Mark::LegUp });
        if sky.agenda.chance.percent(self.faults.cut_percent) {
            let delay_us = sky.agenda.chance.between(500_000, 20_000_000);
            sky.agenda.after_us(delay_us, Happening::Leg { token, step: Step::Cut });
        }
        // If the far end is lost or hung by then, it is noticed.
        let delay_us = sky.agenda.chance.between(NOTICE_US.0, NOTICE_US.1);
        sky.agenda.after_us(delay_us, Happening::Leg { token, step: Step::Notice });
        Some((leg.owner, leg.id, LegEvent::Connected))
    }

    /// Where a microphone is open, the far ends of its legs hear it soon.
    pub fn carry_audio(&self, microphone_of: NodeIx, sky: &mut Sky<'_>) {
        for leg in self.of(microphone_of).filter(|leg| leg.told == Told::Up) {
            if let Some(token) = leg.remote.filter(|remote| !self.all[*remote].heard) {
                let delay_us = sky.agenda.chance.between(20_000, 100_000);
                sky.agenda.after_us(delay_us, Happening::Leg { token, step: Step::Hear });
            }
        }
    }

    /// The network parted or healed: legs notice or recover.
    pub fn path_changed(&self, sky: &mut Sky<'_>) {
        for token in self.by_id.iter().flat_map(BTreeMap::values).copied() {
            let (step, (low_us, high_us)) = match self.all[token].told {
                Told::Up => (Step::Notice, NOTICE_US),
                Told::Disconnected => (Step::Recover, (5_000, 500_000)),
                Told::Nothing | Told::Failed => continue,
            };
            let delay_us = sky.agenda.chance.between(low_us, high_us);
            sky.agenda.after_us(delay_us, Happening::Leg { token, step });
        }
    }

    /// The node was killed: its legs are gone without a word.
    pub fn kill(&mut self, node: NodeIx, sky: &mut Sky<'_>) {
        self.last_id[node] = 0;
        for token in std::mem::take(&mut self.by_id[node]).into_values() {
            self.all[token].gone = true;
            self.lose_remote(token, sky);
        }
    }
}

/// What `sim <leg> <generation>` says.
fn end_and_generation(text: &str) -> Option<(usize, u32)> {
    let (token, generation) = text.strip_prefix("sim ")?.split_once(' ')?;
    Some((token.parse().ok()?, generation.parse().ok()?))
}

fn fingerprint(token: usize) -> [u8; 32] {
    let mut fingerprint = [7; 32];
    fingerprint[..8].copy_from_slice(&(token as u64).to_be_bytes());
    fingerprint
}
