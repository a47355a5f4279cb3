//! What a node's database holds, and what becomes of it when the daemon is killed between a write and the disk.

use std::collections::BTreeMap;

use crate::proto::{
    id::{CallId, Did, MessageId},
    io::{KeptCall, Standing},
};

/// More calls than this are never written down: 8 that it is in, 8 that ring, 32 past ones, and some margin.
const MAX_KEPT: usize = 64;

/// Survives a kill.
#[derive(Debug, Default)]
pub struct Store {
    pub seen: Vec<(Did, MessageId)>,
    pub calls: BTreeMap<CallId, KeptCall>,
    last: Option<Write>,
}

/// The last write, as what takes it back.
#[derive(Debug)]
enum Write {
    Seen,
    Call(CallId, Option<KeptCall>),
}

impl Store {
    pub fn remember(&mut self, did: Did, id: MessageId) -> Result<(), String> {
        if self.seen.iter().any(|(known, seen)| *seen == id && *known == did) {
            return Err("an envelope that is already in the seen-set".into());
        }
        self.seen.push((did, id));
        self.last = Some(Write::Seen);
        Ok(())
    }

    pub fn keep(&mut self, kept: KeptCall) -> Result<(), String> {
        let call = kept.ticket.call;
        let former = self.calls.insert(call, kept);
        self.last = Some(Write::Call(call, former));
        if self.calls.len() > MAX_KEPT { Err("too many calls are written down".into()) } else { Ok(()) }
    }

    pub fn discard(&mut self, call: CallId) {
        if let Some(former) = self.calls.remove(&call) {
            self.last = Some(Write::Call(call, Some(former)));
        }
    }

    /// The daemon was killed before the last write reached the disk.
    pub fn lose_last_write(&mut self) {
        match self.last.take() {
            Some(Write::Seen) => drop(self.seen.pop()),
            Some(Write::Call(call, Some(former))) => drop(self.calls.insert(call, former)),
            Some(Write::Call(call, None)) => drop(self.calls.remove(&call)),
            None => {}
        }
    }

    pub fn standing(&self, call: CallId) -> Option<Standing> {
        self.calls.get(&call).map(|kept| kept.standing)
    }
}
