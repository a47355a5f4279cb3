//! One mutation, then drain fully: carries a node's outputs out, as the daemon's loop does, and keeps the books.

use crate::proto::{
    engine::TALK,
    io::{CallView, LegCommand, Output, PastCall, Policy, Reply, Request, RequestError},
    signal::{Body, Contact, Decline, MAX_SEALED_BYTES, Topic},
};

use super::{
    coverage::Mark,
    network::{Sky, call_of},
    oracle,
    trace::describe,
    users::{self, Sight, Verdict},
    world::{Fate, Happening, NodeIx, World},
};

/// More outputs than this after one input is a loop.
const MAX_OUTPUTS: usize = 4_000;

impl World {
    /// Carries out everything that the node wants, sets its timer, and lets the oracle look.
    pub fn drain(&mut self, ix: NodeIx) -> Result<(), String> {
        let mut outputs = 0;
        let mut quiet = true;
        while let Some(output) = self.nodes[ix].node.poll_output() {
            outputs += 1;
            if outputs > MAX_OUTPUTS {
                return Err(format!("n{ix} has outputs without end"));
            }
            quiet &= matches!(output, Output::Publish(..));
            self.carry_out(ix, output).map_err(|what| format!("n{ix}: {what}"))?;
        }
        if self.nodes[ix].node.poll_output().is_some() {
            return Err(format!("n{ix} has outputs after it was drained"));
        }
        let wake_us = self.nodes[ix].node.poll_timeout();
        let wake_us = wake_us.map(|at| self.agenda.at_us(at, self.nodes[ix].clock));
        if wake_us != self.nodes[ix].wake_us {
            self.nodes[ix].wake_us = wake_us;
            if let Some(at_us) = wake_us {
                // Stale or past timers come at once, and the wake must be found under the time it was asked for.
                let at_us = at_us.max(self.agenda.now_us);
                self.nodes[ix].wake_us = Some(at_us);
                self.agenda.at(at_us, Happening::Wake { node: ix, at_us });
            }
        }
        if let Some(offence) = self.ledger.borrow_mut().police.offence.take() {
            return Err(format!("n{ix} sent something {offence}"));
        }
        // Looking is dearer than a step: where nothing but messages came out, every eighth step is enough.
        if quiet && !self.coverage.steps.is_multiple_of(8) {
            return Ok(());
        }
        oracle::check(self, ix).map_err(|what| format!("n{ix}: {what}"))
    }

    fn carry_out(&mut self, ix: NodeIx, output: Output) -> Result<(), String> {
        if self.trace.is_on() {
            self.trace_output(ix, &output);
        }
        match output {
            Output::Subscribe(topic) => self.network.subscribe(ix, &topic, &mut self.agenda),
            Output::Unsubscribe(topic) => {
                self.network.unsubscribe(ix, &topic);
                if let Some(call) = call_of(&topic) {
                    self.nodes[ix].forgot.insert(call, self.agenda.now_us);
                }
            }
            Output::Publish(topic, bytes) if bytes.len() > MAX_SEALED_BYTES => {
                return Err(format!("{} bytes on {topic}", bytes.len()));
            }
            Output::Publish(topic, bytes) => self.censored(ix, topic, bytes),
            Output::Dial(_, contact) => self.dial(ix, &contact)?,
            Output::Leg(id, command) => {
                if let LegCommand::Open { call, .. } = &command
                    && !self.nodes[ix].consent.contains(call)
                    && !oracle::consents_by_configuration(self, ix, *call)
                {
                    return Err("a leg without consent".into());
                }
                let mut sky = Sky { agenda: &mut self.agenda, coverage: &mut self.coverage };
                self.legs.command(ix, id, &command, &self.dids, &mut sky)?;
            }
            Output::Audio(plan) => {
                if plan == self.nodes[ix].plan {
                    return Err(format!("the same audio plan twice: {plan:?}"));
                }
                oracle::told_of_recording(self, ix, &plan)?;
                self.nodes[ix].plan = plan;
                self.carry_audio(ix);
            }
            Output::Remember(did, id) => {
                self.nodes[ix].store.remember(did, id)?;
                self.nodes[ix].remembered += 1;
            }
            Output::Keep(kept) => self.nodes[ix].store.keep(*kept)?,
            Output::Discard(call) => self.nodes[ix].store.discard(call),
            Output::Event(event) => self.event(ix, &event)?,
        }
        Ok(())
    }

    fn censored(&mut self, from: NodeIx, topic: Topic, bytes: Vec<u8>) {
        let fate = match (&self.censor, self.ledger.borrow().read(&bytes)) {
            (Some(censor), Some(sealed)) => censor(from, sealed),
            (Some(_) | None, _) => Fate::Pass,
        };
        match fate {
            Fate::Pass => self.publish(from, topic, bytes),
            Fate::Drop => {}
            Fate::DelayMs(delay_ms) => {
                let message = Box::new((topic, bytes));
                self.agenda.after_us(delay_ms * 1000, Happening::Publish { from, message });
            }
        }
    }

    pub fn publish(&mut self, from: NodeIx, topic: Topic, bytes: Vec<u8>) {
        let hello = self
            .ledger
            .borrow()
            .read(&bytes)
            .is_some_and(|sealed| matches!(sealed.outgoing.signal.body, Body::Hello(_)));
        let mut sky = Sky { agenda: &mut self.agenda, coverage: &mut self.coverage };
        self.network.publish(from, topic, bytes, hello, &mut sky);
    }

    fn dial(&mut self, from: NodeIx, contact: &Contact) -> Result<(), String> {
        let to = contact.peer_id.strip_prefix("sim-").and_then(|ix| ix.parse().ok());
        let to = to.ok_or_else(|| format!("dialled {:?}", contact.peer_id))?;
        self.coverage.mark(Mark::Dialled);
        // In wild times half of the attempts meet a NAT or a firewall.
        if self.dialling && (!self.wild || self.agenda.chance.percent(50)) {
            let delay_us = self.agenda.chance.between(2_000, 200_000);
            self.agenda.after_us(delay_us, Happening::Linked { a: from, b: to });
        }
        Ok(())
    }

    fn trace_output(&mut self, ix: NodeIx, output: &Output) {
        let ledger = self.ledger.borrow();
        let text = match output {
            Output::Publish(topic, bytes) => {
                format!("publishes {}", ledger.read(bytes).map_or_else(|| topic.to_string(), describe))
            }
            Output::Subscribe(_)
            | Output::Unsubscribe(_)
            | Output::Dial(..)
            | Output::Keep(_)
            | Output::Discard(_)
            | Output::Leg(..)
            | Output::Audio(_)
            | Output::Remember(..)
            | Output::Event(_) => format!("{output:?}"),
        };
        self.trace.line(self.agenda.now_us, || format!("n{ix} {text}"));
    }

    pub fn press(&mut self, ix: NodeIx) -> Result<(), String> {
        let Some(press_ms) = self.setup.press_ms.filter(|_| self.wild) else { return Ok(()) };
        let delay_us = self.agenda.chance.between(1, 2_000 * press_ms);
        self.agenda.after_us(delay_us, Happening::Press { node: ix });
        if self.nodes[ix].down || self.network.is_asleep(ix) {
            return Ok(());
        }
        let (views, past) = (self.nodes[ix].node.calls(), self.nodes[ix].node.past_calls());
        let mut chance = self.agenda.chance.split();
        let sight = self.sight(ix, &views, &past);
        let Some(request) = users::press(&sight, &mut chance) else { return Ok(()) };
        if self.agenda.chance.percent(10) {
            // Twice: the second press meets whatever the first one made.
            let _ = self.ask(ix, request.clone())?;
        }
        self.ask(ix, request).map(drop)
    }

    /// What the user of the node sees.
    fn sight<'a>(&'a self, ix: NodeIx, views: &'a [CallView], past: &'a [PastCall]) -> Sight<'a> {
        let (people, calls, contacts) = (&self.people, &self.calls, &self.nodes[ix].contacts);
        let push_to_talk = self.setup.push_to_talk;
        Sight { own: &self.dids[ix], people, contacts, views, past, calls, push_to_talk }
    }

    /// A user's request; the outer error is a violation, the inner one the engine's answer.
    pub fn ask(&mut self, ix: NodeIx, request: Request) -> Result<Result<Reply, RequestError>, String> {
        let (views, past) = (self.nodes[ix].node.calls(), self.nodes[ix].node.past_calls());
        let verdict = self.sight(ix, &views, &past).verdict(&request);
        let wanted = match &request {
            Request::Accept(call, _) | Request::Join(call, _) => Some(*call),
            Request::Offer { .. } | Request::Reject(..) | Request::Hangup(_) | Request::Invite { .. } => None,
            Request::Hold(_) | Request::Resume(_) | Request::Record { .. } => None,
            Request::Mute(_) | Request::Deafen(_) | Request::Talk(_) => None,
            Request::SetDoNotDisturb(_) | Request::SetContacts(_) | Request::SetAddresses(_) => None,
            Request::Restore { .. } | Request::Shutdown => None,
        };
        let consented = wanted.is_some_and(|call| !self.nodes[ix].consent.insert(call));
        if let Request::SetContacts(contacts) = &request {
            let blocked = contacts.iter().filter(|(_, policy)| *policy == Policy::Block).map(|(did, _)| did.clone());
            self.ledger.borrow_mut().police.blocks(&self.dids[ix], self.nodes[ix].device, blocked.collect());
            self.nodes[ix].contacts.clone_from(contacts);
        }
        let now = self.agenda.now(self.nodes[ix].clock);
        let result = self.nodes[ix].node.handle_request(request.clone(), now);
        self.coverage.steps += 1;
        self.trace.line(self.agenda.now_us, || format!("n{ix} user: {request:?} -> {result:?}"));
        match (&result, verdict) {
            (Ok(_), Verdict::Refused) => return Err(format!("n{ix} did {request:?}")),
            (Err(error), Verdict::Done) => return Err(format!("n{ix} refused {request:?}: {error}")),
            (Err(error), Verdict::Refused | Verdict::Either) => {
                self.coverage.mark(mark_of(error));
                if let Some(call) = wanted.filter(|_| !consented) {
                    self.nodes[ix].consent.remove(&call);
                }
                let due = self.nodes[ix].wake_us.is_some_and(|at_us| at_us <= self.agenda.now_us);
                let unchanged = self.nodes[ix].node.calls() == views;
                let output = if due { None } else { self.nodes[ix].node.poll_output() };
                if !due && (!unchanged || output.is_some()) {
                    return Err(format!("n{ix} refused {request:?} and yet changed: {output:?}"));
                }
            }
            (Ok(Reply::Offered(call)), _) => {
                self.nodes[ix].consent.insert(*call);
                self.calls.push(*call);
            }
            (Ok(Reply::Done), _) => match request {
                Request::Accept(..) => self.coverage.mark(Mark::Accept),
                Request::Join(call, _) if past.iter().any(|past| past.call == call) => {
                    self.coverage.mark(Mark::JoinedAgain);
                }
                Request::Reject(_, Decline { text: Some(_), .. }) => self.coverage.mark(Mark::DeclineWithText),
                Request::SetContacts(contacts) if contacts.iter().any(|(_, policy)| *policy == Policy::Block) => {
                    self.coverage.mark(Mark::Blocked);
                }
                Request::Mute(muted) => self.nodes[ix].mute = muted,
                Request::Talk(talks) => {
                    self.nodes[ix].talks_until = talks.then_some(now.mono + TALK);
                    self.coverage.mark(Mark::Talked);
                }
                Request::Record { call, on } => {
                    let records = &mut self.nodes[ix].records;
                    *records = if on { Some(call) } else { records.filter(|other| *other != call) };
                }
                Request::Offer { .. } | Request::Reject(..) | Request::Hangup(_) | Request::Join(..) => {}
                Request::Invite { .. } | Request::Hold(_) | Request::Resume(_) => {}
                Request::Deafen(_) | Request::SetDoNotDisturb(_) | Request::SetContacts(_) => {}
                Request::SetAddresses(_) | Request::Restore { .. } | Request::Shutdown => {}
            },
        }
        self.drain(ix)?;
        oracle::check(self, ix).map_err(|what| format!("n{ix}: {what}"))?;
        Ok(result)
    }
}

fn mark_of(error: &RequestError) -> Mark {
    match error {
        RequestError::TooManyCalls => Mark::TooManyCalls,
        RequestError::Closed => Mark::ClosedCall,
        RequestError::TooFar | RequestError::InvitedYou => Mark::TooFar,
        RequestError::Blocked => Mark::BlockedInvitee,
        RequestError::NoSuchCall
        | RequestError::NotRinging
        | RequestError::NotJoinable
        | RequestError::NotInCall
        | RequestError::OnHold
        | RequestError::RecordsAnother
        | RequestError::BadInvitees
        | RequestError::NoPushToTalk
        | RequestError::NoCall
        | RequestError::Stopping => Mark::WrongRequest,
    }
}
