//! What clients ask: control methods become requests to the core, or are answered from what the loop owns.

use std::sync::Arc;

use libp2p::Multiaddr;
use serde_json::{Value, json};
use tokio::{
    sync::{OwnedSemaphorePermit, oneshot},
    task,
};
use tracing::error;

use super::{
    Daemon,
    idempotency::Answer,
    resolve::{self, Verb, shown},
    views,
};
use crate::{
    audio,
    control::wire::{Command, Failure, Method, Subscription},
    net,
    proto::{
        io::{Former, Now, Reply, Request, RequestError},
        signal::{DeclineReason, Settings},
    },
    store::{Contact, ContactError, StoreError},
};

type ReplyTo<T> = oneshot::Sender<Result<T, Failure>>;

/// What everybody hears while the daemon stops.
pub(super) fn stopping() -> Failure {
    Failure::new("stopping", "the daemon is stopping; start it again, then ask again")
}

impl Daemon {
    /// Does one command and answers it. An answer whose client is gone is dropped; what was done stays done.
    pub(super) fn command(&mut self, command: Command, now: Now) {
        match command {
            Command::Call { method: Method::DaemonStop {}, reply, .. } => {
                self.stop(now);
                let _client_gone = reply.send(Ok(json!({ "stopping": true })));
            }
            Command::Call { reply, .. } if self.stopping.is_some() => drop(reply.send(Err(stopping()))),
            Command::Watch { reply, .. } if self.stopping.is_some() => drop(reply.send(Err(stopping()))),
            Command::Call { method: Method::NetConnect { address }, reply, .. } => self.connect(&address, reply),
            Command::Call { method: Method::AudioDevices {}, reply, .. } => self.devices(reply),
            Command::Call { method, request_key, reply } => {
                let answer = self.answer_once(method, request_key, now);
                // The events and the audio plan that belong to the answer come before it.
                self.carry_out(now);
                let _client_gone = reply.send(answer);
            }
            Command::Watch { since, reply } => self.watch(since, reply),
        }
    }

    /// The same key again gets the first answer, for requests that change something.
    fn answer_once(&mut self, method: Method, request_key: Option<String>, now: Now) -> Answer {
        let Some(key) = request_key.filter(|_| changes_something(&method)) else { return self.answer(method, now) };
        if let Some(answer) = self.answers.first(&key, &method, now.unix_ms) {
            return answer;
        }
        let answer = self.answer(method.clone(), now);
        self.answers.keep(&mut self.store, key, &method, &answer, now.unix_ms);
        answer
    }

    fn answer(&mut self, method: Method, now: Now) -> Answer {
        match method {
            Method::DaemonStatus {} => Ok(self.status()),
            Method::IdentityShow {} => {
                let net = self.net.status();
                Ok(json!({ "did": self.did, "peer_id": net.peer_id.to_string(), "listen": net.listen }))
            }
            Method::CallOffer { who } => self.offer(&who, now),
            Method::CallAccept { call } => self.accept(call.as_deref(), now),
            Method::CallReject { call, reason } => self.reject(call.as_deref(), reason.as_deref(), now),
            Method::CallHangup { call } => self.hangup(call.as_deref(), now),
            Method::CallList {} => {
                let calls = self.node.calls();
                let calls: Vec<_> = calls.iter().map(|view| views::call(view, &self.contacts)).collect();
                Ok(json!({ "calls": calls }))
            }
            Method::CallShow { call } => {
                let calls = self.node.calls();
                let view = resolve::call(call.as_deref(), Verb::Show, &calls)?;
                Ok(views::call(view, &self.contacts))
            }
            Method::MediaMute {} => self.media(Request::Mute(true), now),
            Method::MediaUnmute {} => self.media(Request::Mute(false), now),
            Method::MediaDeafen {} => self.media(Request::Deafen(true), now),
            Method::MediaUndeafen {} => self.media(Request::Deafen(false), now),
            Method::MediaStats {} => Ok(self.stats()),
            Method::ContactList {} => Ok(json!({ "contacts": self.contacts })),
            Method::ContactAdd { did, name, address } => self.add_contact(&did, &name, address.as_deref(), now),
            Method::ContactRemove { who } => self.remove_contact(&who, now),
            Method::NetPeers {} => {
                let peers: Vec<_> = self.net.status().peers.iter().map(views::peer).collect();
                Ok(json!({ "peers": peers }))
            }
            Method::ConfigShow {} => self.config(),
            // `command` has answered these.
            Method::DaemonStop {} | Method::NetConnect { .. } | Method::AudioDevices {} => {
                Err(Failure::new("internal", "this request is answered elsewhere; please report it"))
            }
        }
    }

    fn offer(&mut self, who: &[String], now: Now) -> Answer {
        let invitees = resolve::invitees(who, &self.did, &self.contacts)?;
        match self.ask(Request::Offer { invitees: invitees.clone(), settings: Settings::default() }, now)? {
            Reply::Offered(call) => Ok(json!({ "call": call, "invitees": invitees })),
            Reply::Done => Ok(json!({ "invitees": invitees })),
        }
    }

    fn accept(&mut self, call: Option<&str>, now: Now) -> Answer {
        let call = resolve::call(call, Verb::Accept, &self.node.calls())?.call;
        self.ask(Request::Accept(call, Former::Hold), now)?;
        Ok(json!({ "call": call }))
    }

    fn reject(&mut self, call: Option<&str>, reason: Option<&str>, now: Now) -> Answer {
        let reason = match reason {
            None | Some("declined") => DeclineReason::Declined,
            Some("busy") => DeclineReason::Busy,
            Some(other) => {
                let message = format!("{} is no reason; say declined or busy", shown(other));
                return Err(Failure::new("bad_reason", message));
            }
        };
        let call = resolve::call(call, Verb::Reject, &self.node.calls())?.call;
        self.ask(Request::Reject(call, reason.into()), now)?;
        Ok(json!({ "call": call }))
    }

    /// Hanging up a call that still rings refuses it.
    fn hangup(&mut self, call: Option<&str>, now: Now) -> Answer {
        let call = resolve::call(call, Verb::Hangup, &self.node.calls())?.call;
        self.ask(Request::Hangup(call), now)?;
        Ok(json!({ "call": call }))
    }

    fn media(&mut self, request: Request, now: Now) -> Answer {
        self.ask(request, now)?;
        Ok(json!({ "muted": self.node.muted(), "deafened": self.node.deafened() }))
    }

    fn add_contact(&mut self, did: &str, name: &str, address: Option<&str>, now: Now) -> Answer {
        let did = resolve::did(did)?;
        if did == self.did {
            return Err(Failure::new("own_did", "that is your own DID; add the DIDs of others"));
        }
        let name = name.parse().map_err(refused)?;
        let address = address.map(net::parse_address).transpose().map_err(ContactError::from).map_err(refused)?;
        let stored = self.store.put_contact(&Contact::new(did, name, address)).map_err(refused)?;
        self.reload_contacts(now)?;
        Ok(json!(stored))
    }

    fn remove_contact(&mut self, who: &str, now: Now) -> Answer {
        let did = resolve::person(who, &self.contacts)?;
        if !self.store.remove_contact(&did).map_err(store_failed)? {
            return Err(Failure::new("unknown_contact", "no contact has that DID; `telecon contacts list` shows all"));
        }
        self.reload_contacts(now)?;
        Ok(json!({ "removed": did }))
    }

    fn reload_contacts(&mut self, now: Now) -> Result<(), Failure> {
        let before = std::mem::replace(&mut self.contacts, self.store.contacts().map_err(store_failed)?);
        let dropped = dropped_addresses(&before, &self.contacts, &self.config.network.peers);
        self.net.forget(dropped);
        self.contacts_changed(now);
        Ok(())
    }

    fn ask(&mut self, request: Request, now: Now) -> Result<Reply, Failure> {
        self.node.handle_request(request, now).map_err(|error| not_done(&error))
    }

    fn status(&self) -> Value {
        views::status(&views::Status {
            did: &self.did,
            uptime_s: self.started.elapsed().as_secs(),
            net: &self.net.status(),
            calls: &self.node.calls(),
            contacts: &self.contacts,
            muted: self.node.muted(),
            deafened: self.node.deafened(),
            stopping: self.stopping.is_some(),
            audio: &self.audio.status(),
            seq: self.journal.last_seq(),
        })
    }

    fn stats(&self) -> Value {
        let heard = self.audio.leg_stats();
        let calls = self.node.calls();
        let pairs = calls.iter().flat_map(|call| call.participants.iter().map(move |other| (call, other)));
        let legs = pairs.filter_map(|(call, other)| {
            let id = other.leg?;
            Some(views::leg(other, call, &self.legs.get(&id)?.stats(), heard.get(&id), &self.contacts))
        });
        views::stats(legs.collect(), self.node.rejected().iter(), self.net.counters())
    }

    /// The configuration in force.
    fn config(&self) -> Answer {
        serde_json::to_value(self.config.clone().without_passwords())
            .map_err(|error| Failure::new("internal", format!("the configuration has no JSON form: {error}")))
    }

    fn connect(&self, address: &str, reply: ReplyTo<Value>) {
        let parsed = net::parse_address(address).map_err(ContactError::from).map_err(refused);
        let (address, permit) = match parsed.and_then(|address| Ok((address, self.permit()?))) {
            Ok(both) => both,
            Err(failure) => return drop(reply.send(Err(failure))),
        };
        let net = self.net.clone();
        task::spawn(async move {
            let answer = match net.connect(address).await {
                Ok(peer) => Ok(json!({ "peer_id": peer.to_string() })),
                Err(error) => Err(Failure::new("unreachable", error.to_string())),
            };
            let _client_gone = reply.send(answer);
            drop(permit);
        });
    }

    fn devices(&self, reply: ReplyTo<Value>) {
        let permit = match self.permit() {
            Ok(permit) => permit,
            Err(failure) => return drop(reply.send(Err(failure))),
        };
        let config = self.config.audio.clone();
        task::spawn_blocking(move || {
            let _client_gone = reply.send(Ok(json!({ "devices": audio::devices(&config) })));
            drop(permit);
        });
    }

    /// Subscribes at once, so that nothing falls between the replay and what is live; a long replay is read beside the loop.
    fn watch(&self, since: Option<u64>, reply: ReplyTo<Subscription>) {
        let (snapshot, live) = (self.status(), self.journal.watch());
        let replay = since.map(|since| self.journal.replay(since, self.store.path())).unwrap_or_default();
        let permit = match replay.is_slow().then(|| self.permit()).transpose() {
            Ok(permit) => permit,
            Err(failure) => return drop(reply.send(Err(failure))),
        };
        let send = move || {
            let subscription = replay.collect().map(|replay| Subscription { snapshot, replay, live });
            reply.send(subscription.map_err(store_failed))
        };
        match permit {
            Some(permit) => drop(task::spawn_blocking(move || (send(), permit))),
            None => drop(send()),
        }
    }

    fn permit(&self) -> Result<OwnedSemaphorePermit, Failure> {
        let permit = Arc::clone(&self.tasks).try_acquire_owned();
        permit.map_err(|_| Failure::new("try_again", "too many slow requests are under way; try again in a moment"))
    }
}

/// The requests that honour `request_key`. Dialling again and stopping again do no harm, and are not remembered.
fn changes_something(method: &Method) -> bool {
    match method {
        Method::CallOffer { .. }
        | Method::CallAccept { .. }
        | Method::CallReject { .. }
        | Method::CallHangup { .. }
        | Method::MediaMute {}
        | Method::MediaUnmute {}
        | Method::MediaDeafen {}
        | Method::MediaUndeafen {}
        | Method::ContactAdd { .. }
        | Method::ContactRemove { .. } => true,
        Method::DaemonStatus {}
        | Method::DaemonStop {}
        | Method::IdentityShow {}
        | Method::CallList {}
        | Method::CallShow { .. }
        | Method::MediaStats {}
        | Method::AudioDevices {}
        | Method::ContactList {}
        | Method::NetPeers {}
        | Method::NetConnect { .. }
        | Method::ConfigShow {} => false,
    }
}

fn not_done(error: &RequestError) -> Failure {
    let (code, remedy) = match error {
        RequestError::NoSuchCall => ("no_such_call", "`telecon calls` lists them"),
        RequestError::NotRinging => ("not_ringing", "`telecon calls` tells its state"),
        RequestError::NotJoinable => {
            ("not_joinable", "only calls left or missed within the last hour can be; `telecon calls` lists them")
        }
        RequestError::NotInCall => ("not_in_call", "`telecon calls` tells its state"),
        RequestError::Closed => ("closed_call", "ask its creator, or make a new call"),
        RequestError::TooFar => ("too_far", "ask somebody who was invited earlier, or make a new call"),
        RequestError::InvitedYou => ("invited_you", "they can come back with `telecon join`"),
        RequestError::Blocked => ("blocked", "`telecon contacts ask NAME` lets them in again"),
        RequestError::TooManyCalls => ("too_many_calls", "hang one up first"),
        RequestError::BadInvitees => ("bad_invitees", "name them by DID or contact name"),
        RequestError::Stopping => return stopping(),
    };
    Failure::new(code, format!("{error}; {remedy}"))
}

fn refused(error: ContactError) -> Failure {
    let code = match error {
        ContactError::Name => "bad_name",
        ContactError::Address(_) => "bad_address",
        ContactError::Taken { .. } => "contact_exists",
        ContactError::TooMany => "too_many_contacts",
        ContactError::Store(error) => return store_failed(error),
    };
    Failure::new(code, error.to_string())
}

fn store_failed(error: StoreError) -> Failure {
    error!(%error, "a request failed");
    Failure::new("store_failed", error.to_string())
}

/// Addresses that no contact has any more, and that are not kept for their own sake (`[network] peers`).
fn dropped_addresses(before: &[Contact], after: &[Contact], peers: &[String]) -> Vec<Multiaddr> {
    let still = |address: &Multiaddr| {
        after.iter().any(|contact| contact.address.as_ref() == Some(address)) || peers.contains(&address.to_string())
    };
    before.iter().filter_map(|contact| contact.address.clone()).filter(|address| !still(address)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::id::Did;

    #[test]
    fn an_address_is_forgotten_with_its_last_owner() {
        let address = |port: u16| format!("/ip4/192.0.2.7/tcp/{port}").parse::<Multiaddr>().unwrap();
        let contact = |seed: u8, port: u16| {
            let did = Did::from_key(ed25519_dalek::SigningKey::from_bytes(&[seed; 32]).verifying_key());
            Contact::new(did, format!("c{seed}").parse().unwrap(), Some(address(port)))
        };
        let before = [contact(1, 1), contact(2, 2), contact(3, 2), contact(4, 4)];
        let after = [contact(3, 2)];
        assert_eq!(dropped_addresses(&before, &after, &[address(4).to_string()]), [address(1)]);
    }
}
