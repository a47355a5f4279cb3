//! A participant, or somebody who declined, with the call key and no manners: replays, transplants, forges. All others must
//! keep their promises to each other.
//!
//! It speaks only for itself: that nobody can sign for another is the real seal's business, and tested there.

use crate::proto::{
    id::{CallId, DeviceId, Did, Instance, MessageId},
    signal::{
        Answered, Body, CallKey, CancelReason, DeclineReason, Ice, MediaState, Offer, Outgoing, Presence, Sdp, SdpKind,
        Sealing, Settings, Signal, Ticket, Topic,
    },
};

use super::{
    coverage::Mark,
    network::Sky,
    seal::Ledger,
    world::{Happening, NodeIx, World},
};

/// How far back it remembers.
const REMEMBERED: usize = 300;

impl World {
    /// The node's owner obeys no rule.
    pub fn is_insider(&self, node: NodeIx) -> bool {
        self.setup.insider && node + 1 == self.nodes.len()
    }

    pub fn is_insiders(&self, did: &Did) -> bool {
        self.setup.insider && self.dids.last() == Some(did)
    }

    /// One evil deed, and the next one before long.
    pub fn make_mischief(&mut self, ix: NodeIx) {
        let delay_us = self.agenda.chance.between(1_000, 1_500_000);
        self.agenda.after_us(delay_us, Happening::Mischief { node: ix });
        let sealed = self.ledger.borrow().sealed.len();
        if sealed == 0 || self.nodes[ix].down {
            return;
        }
        let chance = &mut self.agenda.chance;
        let mut recent = || sealed - 1 - chance.below(sealed.min(REMEMBERED) as u64) as usize;
        let (token, other) = (recent(), recent());
        let (mark, topic, bytes) = match self.agenda.chance.below(4) {
            0 => (Mark::InsiderReplay, self.topic_of(token), Ledger::bytes(token)),
            1 => (Mark::InsiderTransplant, self.topic_of(other), Ledger::bytes(token)),
            _ => {
                let (topic, bytes) = self.forge(ix, token);
                (Mark::InsiderForgery, topic, bytes)
            }
        };
        self.coverage.mark(mark);
        self.trace.line(self.agenda.now_us, || format!("n{ix} {mark:?} on {topic}"));
        let mut sky = Sky { agenda: &mut self.agenda, coverage: &mut self.coverage };
        self.network.publish(ix, topic, bytes, false, &mut sky);
    }

    fn topic_of(&self, token: usize) -> Topic {
        self.ledger.borrow().sealed[token].outgoing.topic.clone()
    }

    /// Says anything, in its own name, about the call that this message is of.
    fn forge(&mut self, ix: NodeIx, token: usize) -> (Topic, Vec<u8>) {
        let call = self.ledger.borrow().sealed[token].outgoing.signal.call;
        let victims: Vec<Did> = self.people.iter().filter(|did| !self.is_insiders(did)).cloned().collect();
        let victim = self.agenda.chance.pick(&victims).clone();
        let (sealing, body) = self.anything(call);
        let topic = match (&body, sealing) {
            (Body::Offer(_) | Body::Cancel(_) | Body::Answered(_), _) => Topic::Inbox(victim.clone()),
            (_, Sealing::Broadcast) => Topic::Call(call),
            (_, Sealing::Envelope | Sealing::Pairwise) => Topic::Member(call, victim.clone()),
        };
        let id = MessageId(self.agenda.chance.bytes()[..16].try_into().unwrap_or_default());
        let to = (sealing != Sealing::Broadcast).then_some(victim);
        let call = if let Body::Offer(offer) = &body { offer.ticket.call } else { call };
        let outgoing = Outgoing { topic: topic.clone(), sealing, to, signal: Signal { id, call, body } };
        let unix_ms = self.agenda.now(self.nodes[ix].clock).unix_ms;
        let with_chain = self.agenda.chance.percent(70);
        let bytes = self.ledger.borrow_mut().forge(&self.dids[ix], outgoing, with_chain, unix_ms);
        (topic, bytes)
    }

    fn anything(&mut self, call: CallId) -> (Sealing, Body) {
        let offer = self.an_offer(call);
        let chance = &mut self.agenda.chance;
        let device = DeviceId([*chance.pick(&[1, 2, 99]); 16]);
        let number = *chance.pick(&[0, 1, 1_767_225_700_000, u64::MAX]);
        let instance = Instance { number, device };
        let attempt = *chance.pick(&[0, 1, 2, 7, u32::MAX]);
        let state = MediaState { version: attempt, muted: true, on_hold: chance.percent(50), ..MediaState::default() };
        let presence = Presence { instance, state, contact: None, granted_by: None };
        match chance.below(14) {
            0 => (Sealing::Envelope, offer),
            1 => (Sealing::Envelope, Body::Cancel(CancelReason::Cancelled)),
            2 => (Sealing::Envelope, Body::Cancel(CancelReason::SupersededBy(call))),
            3 => (Sealing::Envelope, Body::Answered(Answered { device, joined: Some(number) })),
            4 => (Sealing::Envelope, Body::Ringing),
            5 => (Sealing::Envelope, Body::Decline(DeclineReason::Declined.into())),
            6 => (Sealing::Envelope, Body::Join(presence)),
            7 => (Sealing::Broadcast, Body::Hello(presence)),
            8 => (Sealing::Broadcast, Body::Leave(instance)),
            9 => (Sealing::Pairwise, Body::Leave(instance)),
            10 => {
                let kind = *chance.pick(&[SdpKind::Offer, SdpKind::Answer]);
                (Sealing::Pairwise, Body::Sdp(Sdp { attempt, kind, sdp: "garbage".into(), fingerprint: [7; 32] }))
            }
            11 => (Sealing::Pairwise, Body::Ice(Ice { attempt, candidates: vec!["garbage".into(); 3] })),
            12 => (Sealing::Pairwise, Body::Restart(attempt)),
            _ => (Sealing::Pairwise, Body::State(state)),
        }
    }

    /// An invitation: to a call of its own, or to one that it knows, or to one whose id it squats on.
    fn an_offer(&mut self, call: CallId) -> Body {
        let own = self.dids.last().cloned();
        let (creator, settings) = (own.unwrap_or_else(|| self.dids[0].clone()), Settings::default());
        let key = CallKey(self.agenda.chance.bytes());
        let fresh = CallId::derive(&creator, &settings, &key.0);
        let id = if self.agenda.chance.percent(50) { fresh } else { call };
        let known = self.ledger.borrow().sealed.iter().find_map(|sealed| match &sealed.outgoing.signal.body {
            Body::Offer(offer) if offer.ticket.call == call => Some(offer.ticket.clone()),
            _ => None,
        });
        let squatted = Ticket { call: id, creator, settings, key, chain: Vec::new() };
        let ticket = known.filter(|_| self.agenda.chance.percent(50)).unwrap_or(squatted);
        Body::Offer(Box::new(Offer { ticket, participants: self.people.clone(), ring_ms: 5_000 }))
    }
}
