//! Reads everything that nodes send and checks it against docs/protocol.md: who may send what, where, when and how often.
//!
//! Only worlds with the stand-in seal have it; the real seal hides what travels.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use crate::proto::{
    id::{CallId, DeviceId, Did, Instance, MessageId},
    io::Now,
    signal::{Body, CancelReason, Incoming, Outgoing, SdpKind, Sealing, Topic},
};

use super::coverage::{Coverage, Mark};

/// Hellos are sent in the first 5 s after joining and after a Hello or Join of a higher DID; a timer may be a little late.
const HELLO_WINDOW: Duration = Duration::from_millis(5_050);
/// Transmissions of one message: the dense beginning and one for each neighbour that subscribes …
const MAX_BURST: u64 = 120;
/// … then one every 3 s.
const MIN_PAUSE: Duration = Duration::from_secs(2);
/// A Cancel that overtook its Offer counts for so long at least.
const CANCEL_REMEMBERED: Duration = Duration::from_secs(290);

/// What one device is seen doing.
#[derive(Debug, Default)]
struct Suspect {
    /// When the Hello window opened last, with the instance that it is for.
    hello: BTreeMap<CallId, (Instance, Instant)>,
    /// When a Hello or Join of a higher DID was heard last.
    higher: BTreeMap<CallId, Instant>,
    /// Transmissions of each message to each recipient, and when the first was.
    sent: BTreeMap<(MessageId, Option<Did>), (u64, Instant)>,
    acked: BTreeMap<MessageId, u64>,
    /// Cancels that it heard, by call and sender, and when.
    cancels: BTreeMap<(CallId, Did), Instant>,
    /// Whom its user blocks.
    blocked: BTreeSet<Did>,
    /// Calls that went on on another device of its DID, so that this one has nothing to say.
    elsewhere: BTreeSet<CallId>,
}

#[derive(Debug, Default)]
pub struct Police {
    suspects: BTreeMap<(Did, DeviceId), Suspect>,
    /// The first offence.
    pub offence: Option<String>,
}

impl Police {
    fn suspect(&mut self, did: &Did, device: DeviceId) -> &mut Suspect {
        self.suspects.entry((did.clone(), device)).or_default()
    }

    /// A node was killed: it remembers nothing but its contacts, and so do we.
    pub fn restarted(&mut self, did: &Did, device: DeviceId) {
        let suspect = self.suspect(did, device);
        *suspect = Suspect { blocked: std::mem::take(&mut suspect.blocked), ..Suspect::default() };
    }

    /// From now on its user blocks exactly these.
    pub fn blocks(&mut self, did: &Did, device: DeviceId, blocked: BTreeSet<Did>) {
        self.suspect(did, device).blocked = blocked;
    }

    /// The call ended there, since another device has it.
    pub fn went_elsewhere(&mut self, did: &Did, device: DeviceId, call: CallId) {
        self.suspect(did, device).elsewhere.insert(call);
    }

    /// The device is in the call (again).
    pub fn speaks_again(&mut self, did: &Did, device: DeviceId, call: CallId) {
        self.suspect(did, device).elsewhere.remove(&call);
    }

    /// Who took an invitation back invites anew.
    pub fn invited_anew(&mut self, call: CallId, from: &Did) {
        for suspect in self.suspects.values_mut() {
            suspect.cancels.remove(&(call, from.clone()));
        }
    }

    /// Whether that call rings although its inviter took it back, as the device has heard.
    pub fn was_cancelled(&self, did: &Did, device: DeviceId, call: CallId, from: &Did, now: Now) -> bool {
        let suspect = self.suspects.get(&(did.clone(), device));
        let heard = suspect.and_then(|suspect| suspect.cancels.get(&(call, from.clone())));
        heard.is_some_and(|heard| now.mono < *heard + CANCEL_REMEMBERED)
    }

    pub fn heard(&mut self, did: &Did, device: DeviceId, incoming: &Incoming, now: Now) {
        let suspect = self.suspect(did, device);
        if matches!(incoming.signal.body, Body::Cancel(_)) && !suspect.blocked.contains(&incoming.from) {
            suspect.cancels.insert((incoming.signal.call, incoming.from.clone()), now.mono);
        }
        if matches!(incoming.signal.body, Body::Hello(_) | Body::Join(_)) && incoming.from > *did {
            let suspect = self.suspect(did, device);
            suspect.higher.insert(incoming.signal.call, now.mono);
        }
    }

    pub fn sent(
        &mut self,
        did: &Did,
        device: DeviceId,
        outgoing: &Outgoing,
        instance: Option<Instance>,
        now: Now,
        coverage: &mut Coverage,
    ) {
        let suspect = self.suspect(did, device);
        let offence = out_of_place(did, outgoing)
            .or_else(|| suspect.hello_out_of_window(outgoing, instance, now))
            .or_else(|| suspect.too_often(outgoing, now, coverage))
            .or_else(|| suspect.indiscreet(outgoing));
        if let (Some(offence), None) = (offence, &self.offence) {
            self.offence = Some(format!("{offence}: {:?} on {:?}", outgoing.signal, outgoing.topic));
        }
    }
}

impl Suspect {
    fn hello_out_of_window(
        &mut self,
        outgoing: &Outgoing,
        instance: Option<Instance>,
        now: Now,
    ) -> Option<&'static str> {
        let (Body::Hello(_), Some(instance)) = (&outgoing.signal.body, instance) else { return None };
        if instance.number == u64::MAX {
            // An insider forged a stay of its own DID, and the numbers are used up: its later stays look like one.
            return None;
        }
        let call = outgoing.signal.call;
        let joined = match self.hello.get(&call) {
            Some((known, since)) if *known == instance => *since,
            _ => {
                self.hello.insert(call, (instance, now.mono));
                now.mono
            }
        };
        let opened = self.higher.get(&call).map_or(joined, |higher| joined.max(*higher));
        (now.mono > opened + HELLO_WINDOW).then_some("a Hello outside its windows")
    }

    /// What nobody is to learn from this device.
    fn indiscreet(&self, outgoing: &Outgoing) -> Option<&'static str> {
        let blocked = outgoing.to.as_ref().is_some_and(|to| self.blocked.contains(to));
        let first = self.sent.get(&(outgoing.signal.id, outgoing.to.clone())).is_some_and(|(times, _)| *times == 1);
        match outgoing.signal.body {
            Body::Decline(_) | Body::Join(_) if blocked && first => Some("that tells a blocked caller"),
            Body::Leave(_) if self.elsewhere.contains(&outgoing.signal.call) => {
                Some("as if its DID had left, which is there on another device")
            }
            Body::Cancel(CancelReason::SupersededBy(winner)) if winner >= outgoing.signal.call => {
                Some("for a call that does not win")
            }
            Body::Offer(_) | Body::Cancel(_) | Body::Answered(_) | Body::Ringing | Body::Decline(_) => None,
            Body::Join(_) | Body::Hello(_) | Body::Leave(_) | Body::Sdp(_) | Body::Ice(_) => None,
            Body::Restart(_) | Body::State(_) | Body::Ack(_) | Body::Unknown(_) => None,
        }
    }

    fn too_often(&mut self, outgoing: &Outgoing, now: Now, coverage: &mut Coverage) -> Option<&'static str> {
        if let Body::Ack(of) = outgoing.signal.body {
            let times = self.acked.entry(of).or_default();
            *times += 1;
            if *times == 2 {
                coverage.mark(Mark::AckedAgain);
            }
            return None;
        }
        let key = (outgoing.signal.id, outgoing.to.clone());
        let (times, first) = self.sent.entry(key).or_insert((0, now.mono));
        *times += 1;
        if *times == 2 {
            coverage.mark(Mark::Retransmission);
        }
        let pauses = now.mono.duration_since(*first).as_millis() / MIN_PAUSE.as_millis();
        (u128::from(*times) > u128::from(MAX_BURST) + pauses).then_some("too often")
    }
}

/// Messages on a topic, under a sealing or from a side that docs/protocol.md does not allow.
fn out_of_place(did: &Did, outgoing: &Outgoing) -> Option<&'static str> {
    let call = outgoing.signal.call;
    let to = outgoing.to.as_ref();
    let on_inbox = to.is_some_and(|to| outgoing.topic == Topic::Inbox(to.clone()));
    let on_member = to.is_some_and(|to| outgoing.topic == Topic::Member(call, to.clone()));
    let on_call = to.is_none() && outgoing.topic == Topic::Call(call);
    let (place, sealing): (bool, &[Sealing]) = match &outgoing.signal.body {
        Body::Offer(_) | Body::Cancel(_) | Body::Answered(_) => (on_inbox, &[Sealing::Envelope]),
        Body::Ringing | Body::Decline(_) | Body::Join(_) => (on_member, &[Sealing::Envelope]),
        Body::Hello(_) => (on_call, &[Sealing::Broadcast]),
        Body::Leave(_) => (on_call || on_member, &[Sealing::Broadcast, Sealing::Pairwise, Sealing::Envelope]),
        Body::Sdp(_) | Body::Ice(_) | Body::Restart(_) | Body::State(_) => (on_member, &[Sealing::Pairwise]),
        Body::Ack(_) => (on_inbox || on_member, &[Sealing::Envelope, Sealing::Pairwise]),
        Body::Unknown(_) => return Some("an unknown kind was sent"),
    };
    if !place {
        return Some("on a wrong topic");
    }
    if !sealing.contains(&outgoing.sealing) {
        return Some("under a wrong sealing");
    }
    if to == Some(did) && !matches!(outgoing.signal.body, Body::Answered(_) | Body::Join(_) | Body::Ack(_)) {
        return Some("a message to oneself");
    }
    let lower = to.is_some_and(|to| did < to);
    let wrong_side = match &outgoing.signal.body {
        Body::Sdp(sdp) => (sdp.kind == SdpKind::Offer) != lower,
        Body::Restart(_) => lower,
        Body::Offer(_)
        | Body::Cancel(_)
        | Body::Answered(_)
        | Body::Ringing
        | Body::Decline(_)
        | Body::Join(_)
        | Body::Hello(_)
        | Body::Leave(_)
        | Body::Ice(_)
        | Body::State(_)
        | Body::Ack(_)
        | Body::Unknown(_) => false,
    };
    wrong_side.then_some("from the wrong side")
}
