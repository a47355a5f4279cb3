//! Carries out what the core wants done. Nothing here waits: every order goes into a bounded queue of the part that does it.

use libp2p::{Multiaddr, multiaddr::Protocol};
use tracing::{debug, warn};

use super::{Daemon, views::NO_CONNECTION};
use crate::{
    leg,
    proto::{
        id::{Did, LegId, MessageId},
        io::{Event, LegCommand, Now, Output, Request},
        signal::Contact,
        wire::MAX_ADDRESSES,
    },
    store::Sender,
};

impl Daemon {
    /// Does everything that the core wants, in its order, until it wants nothing more.
    pub(super) fn carry_out(&mut self, now: Now) {
        while let Some(output) = self.node.poll_output() {
            match output {
                Output::Subscribe(topic) => self.net.subscribe(topic.to_string()),
                Output::Unsubscribe(topic) => self.net.unsubscribe(topic.to_string()),
                Output::Publish(topic, bytes) => self.net.publish(topic.to_string(), bytes),
                Output::Dial(did, contact) => self.net.dial(did, contact),
                // Of both the store tells when the disk fails, and calls go on.
                Output::Keep(kept) => drop(self.store.keep_call(&kept)),
                Output::Discard(call) => drop(self.store.discard_call(call)),
                Output::Leg(id, command) => self.leg(id, command),
                Output::Audio(plan) => self.audio.apply(plan),
                Output::Remember(from, message) => self.remember(&from, message, now),
                Output::Event(event) => {
                    if matches!(event, Event::RecordingEnded { .. }) {
                        self.audio.stop_recording();
                    }
                    self.tell(event, now);
                }
            }
        }
    }

    /// Tells all clients.
    pub(super) fn tell(&mut self, event: Event, now: Now) {
        if matches!(event, Event::NoConnection { .. }) {
            warn!("no connection to a participant comes about: {NO_CONNECTION}");
        }
        self.rung.note(&event);
        self.sound(&event);
        self.journal.append(&mut self.store, event, now.unix_ms);
    }

    /// Tells the core where this node can be dialled now.
    pub(super) fn announce_addresses(&mut self, now: Now) {
        let status = self.net.status();
        let addresses = announced(status.listen);
        let contact = Contact { peer_id: status.peer_id.to_string(), addresses };
        if let Err(error) = self.node.handle_request(Request::SetAddresses(contact), now) {
            debug!(%error, "the core did not take the own addresses");
        }
    }

    /// Tells core and network who the contacts are now.
    pub(super) fn contacts_changed(&mut self, now: Now) {
        self.net.keep(self.people.addresses());
        if let Err(error) = self.node.handle_request(Request::SetContacts(self.people.policies()), now) {
            debug!(%error, "the core did not take the contacts");
        }
        self.apply_gains();
    }

    /// Makes everybody as loud as was decided.
    pub(super) fn apply_gains(&self) {
        for (id, (peer, _)) in &self.legs {
            self.audio.set_gain(*id, self.people.gain(peer));
        }
    }

    fn leg(&mut self, id: LegId, command: LegCommand) {
        if let LegCommand::Open { role, peer, .. } = command {
            let (microphone, speaker) = (self.audio.microphone(), self.audio.add_leg(id));
            self.audio.set_gain(id, self.people.gain(&peer));
            let leg = leg::spawn(id, role, self.ice.clone(), microphone, speaker, self.leg_events.clone());
            self.legs.insert(id, (peer, leg));
            return;
        }
        match self.legs.get(&id) {
            Some((_, leg)) => leg.command(command),
            // Its `Closed` was on the way when the core decided.
            None => debug!(leg = id.0, "an order for a leg that is gone"),
        }
    }

    /// Written before anything rings, so that a replay cannot ring after a crash. Without a working disk the core's own memory
    /// still keeps replays out until the daemon ends.
    fn remember(&mut self, from: &Did, message: MessageId, now: Now) {
        let sender = if self.people.contact(from).is_some() { Sender::Contact } else { Sender::Stranger };
        // The store tells of a disk that fails, and calls go on.
        let _told = self.store.remember(from, message, sender, now.unix_ms);
    }
}

/// The addresses that others are most likely to reach first: public and private ones before link-local before loopback; at most
/// [`MAX_ADDRESSES`].
fn announced(mut addresses: Vec<Multiaddr>) -> Vec<String> {
    addresses.sort_by_key(distance);
    addresses.iter().take(MAX_ADDRESSES).map(Multiaddr::to_string).collect()
}

fn distance(address: &Multiaddr) -> u8 {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) if ip.is_loopback() => 2,
        Some(Protocol::Ip6(ip)) if ip.is_loopback() => 2,
        Some(Protocol::Ip4(ip)) if ip.is_link_local() => 1,
        Some(Protocol::Ip6(ip)) if ip.is_unicast_link_local() => 1,
        Some(_) | None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_join_names_reachable_addresses_before_loopback_and_eight_at_most() {
        let parse = |text: &str| text.parse::<Multiaddr>().unwrap();
        let mut all = vec![parse("/ip4/127.0.0.1/tcp/1"), parse("/ip6/fe80::1/tcp/1"), parse("/ip4/192.0.2.7/tcp/1")];
        assert_eq!(announced(all.clone()), ["/ip4/192.0.2.7/tcp/1", "/ip6/fe80::1/tcp/1", "/ip4/127.0.0.1/tcp/1"]);
        all.extend((2..20).map(|port| parse(&format!("/ip4/192.0.2.7/tcp/{port}"))));
        assert_eq!(announced(all).len(), MAX_ADDRESSES);
    }
}
