//! Engine and seal as one: bytes in, outputs out. The daemon and the simulator both drive exactly this.

use std::{collections::BTreeMap, time::Instant};

use super::{
    engine::{Effect, Engine},
    id::CallId,
    io::{CallView, Input, Now, Output, PastCall, Reply, Request, RequestError},
    seal::{Rejected, Seal},
    signal::Topic,
};

/// One device's core.
#[derive(Debug)]
pub struct Node<S> {
    engine: Engine,
    seal: S,
    rejected: BTreeMap<Rejected, u64>,
    now: Option<Now>,
}

impl<S: Seal> Node<S> {
    /// Joins an engine and a seal.
    pub fn new(engine: Engine, seal: S) -> Self {
        Self { engine, seal, rejected: BTreeMap::new(), now: None }
    }

    /// Bytes arrived on a topic. A rejection changes nothing but its counter.
    pub fn handle_gossip(&mut self, topic: &Topic, bytes: &[u8], now: Now) -> Result<(), Rejected> {
        self.now = Some(now);
        if matches!(topic, Topic::Member(_, to) if to != self.engine.did()) {
            // Subscribed only so that it is forwarded.
            return Ok(());
        }
        match self.seal.open(topic, bytes, now) {
            Ok(incoming) => {
                self.engine.handle_input(Input::Signal(incoming), now);
                Ok(())
            }
            Err(reason) => {
                *self.rejected.entry(reason).or_default() += 1;
                Err(reason)
            }
        }
    }

    /// Something else happened.
    pub fn handle_input(&mut self, input: Input, now: Now) {
        self.now = Some(now);
        self.engine.handle_input(input, now);
    }

    /// A user asks for something.
    pub fn handle_request(&mut self, request: Request, now: Now) -> Result<Reply, RequestError> {
        self.now = Some(now);
        self.engine.handle_request(request, now)
    }

    /// The time that [`Self::poll_timeout`] named has come.
    pub fn handle_timeout(&mut self, now: Now) {
        self.now = Some(now);
        self.engine.handle_timeout(now);
    }

    /// What to do next; to be called until `None` after every `handle_…`.
    pub fn poll_output(&mut self) -> Option<Output> {
        loop {
            match self.engine.poll_effect()? {
                Effect::Send(outgoing) => {
                    // Without keys for it yet, the outbox brings it again.
                    if let Some(bytes) = self.now.and_then(|now| self.seal.seal(&outgoing, now)) {
                        return Some(Output::Publish(outgoing.topic, bytes));
                    }
                }
                Effect::OpenCall(ticket) => self.seal.open_call(&ticket),
                Effect::Join(call, instance) => self.seal.join(call, instance),
                Effect::CloseCall(call) => self.seal.close_call(call),
                Effect::SetContacts(contacts) => self.seal.set_contacts(&contacts),
                Effect::Output(output) => return Some(output),
            }
        }
    }

    /// When [`Self::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.engine.poll_timeout()
    }

    /// Calls that are not over.
    pub fn calls(&self) -> Vec<CallView> {
        self.engine.calls()
    }

    /// Calls that can be joined, though this device is not in them.
    pub fn past_calls(&self) -> Vec<PastCall> {
        self.engine.past_calls()
    }

    /// Whether a recording of this call may begin now.
    ///
    /// # Errors
    /// What [`Request::Record`] would answer.
    pub fn may_record(&self, call: CallId) -> Result<(), RequestError> {
        self.engine.may_record(call)
    }

    /// The user wants to hear no calls.
    pub fn do_not_disturb(&self) -> bool {
        self.engine.do_not_disturb()
    }

    /// The own microphone is off.
    pub fn muted(&self) -> bool {
        self.engine.muted()
    }

    /// The own microphone is off only since nothing is pushed.
    pub fn waits_for_talk(&self) -> bool {
        self.engine.waits_for_talk()
    }

    /// The own ears are off.
    pub fn deafened(&self) -> bool {
        self.engine.deafened()
    }

    /// What was dropped unopened, by reason.
    pub fn rejected(&self) -> &BTreeMap<Rejected, u64> {
        &self.rejected
    }

    /// Nothing is under way: a shutdown may finish.
    pub fn idle(&self) -> bool {
        self.engine.is_idle()
    }
}
