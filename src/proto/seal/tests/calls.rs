//! Everything that is said within a call: Hello, Join, Leave, pairwise.

use super::*;
use crate::proto::{
    seal::{
        broadcast,
        keys::{JOIN_BLOCK, transcript},
        pairwise,
    },
    signal::{DeclineReason, Ice, MAX_PARTICIPANTS, Sdp, SdpKind},
};

/// Alice's call; Bob and Carol are invited by her. All three have joined, nobody has heard of the others.
fn three() -> (Ticket, Peer, Peer, Peer) {
    let (mut alice, mut bob, mut carol) = (peer(1), peer(2), peer(3));
    let ticket = call_of(&alice, 9, false);
    alice.join(&ticket, 100);
    let granted = bob.granted(&ticket, &alice);
    bob.join(&granted, 100);
    let granted = carol.granted(&ticket, &alice);
    carol.join(&granted, 100);
    (ticket, alice, bob, carol)
}

fn hello(from: &Peer, call: CallId, number: u64) -> Outgoing {
    broadcast(signal(call, 0x40, Body::Hello(presence(instance(from, number)))))
}

fn join(from: &Peer, to: &Peer, call: CallId, number: u64) -> Outgoing {
    envelope_to(member(call, to), to, signal(call, 0x41, Body::Join(presence(instance(from, number)))))
}

fn leave(from: &Peer, call: CallId, number: u64) -> Outgoing {
    broadcast(signal(call, 0x42, Body::Leave(instance(from, number))))
}

fn restart(to: &Peer, call: CallId, attempt: u32) -> Outgoing {
    pairwise_to(to, signal(call, attempt as u8, Body::Restart(attempt)))
}

/// Both hear each other's Hello.
fn introduce(a: &mut Peer, b: &mut Peer, call: CallId) {
    let (from_a, from_b) = (hello(a, call, 100), hello(b, call, 100));
    a.tell(&from_a, b, start()).unwrap();
    b.tell(&from_b, a, start()).unwrap();
}

/// A broadcast with any content, in the name of `from`, with a counter that was not heard yet.
fn forge_broadcast(from: &mut Peer, ticket: &Ticket, number: u64, signal: &Signal, block: Option<&[u8]>) -> Vec<u8> {
    let key = broadcast::key(ticket.call, &ticket.key);
    let (message, instance) = (wire::encode(signal, block).unwrap(), instance(from, number));
    broadcast::seal(&from.me, &mut from.rng, (ticket.call, &key), instance, 50, &message).unwrap()
}

#[test]
fn a_hello_introduces_and_then_both_speak_pairwise() {
    let (ticket, mut alice, mut bob, _) = three();
    assert_eq!(alice.sealer.seal(&restart(&bob, ticket.call, 1), start()), None, "nobody has met Bob yet");
    let heard = bob.tell(&hello(&bob, ticket.call, 100), &mut alice, start());
    assert_eq!(heard.unwrap().instance, Some(instance(&bob, 100)));
    let outgoing = restart(&bob, ticket.call, 1);
    let early = alice.seal(&outgoing, start());
    assert_eq!(bob.sealer.open(&outgoing.topic, &early, start()), Err(Rejected::Undecryptable), "Bob met nobody");
    let heard = alice.tell(&join(&alice, &bob, ticket.call, 100), &mut bob, start()).unwrap();
    assert_eq!((heard.instance, heard.sealing), (Some(instance(&alice, 100)), Sealing::Envelope));
    let incoming = bob.sealer.open(&outgoing.topic, &early, start()).unwrap();
    assert_eq!((&incoming.from, incoming.instance), (&alice.did, Some(instance(&alice, 100))));
    assert_eq!((incoming.sealing, incoming.signal), (Sealing::Pairwise, outgoing.signal));
    assert!(bob.tell(&restart(&alice, ticket.call, 1), &mut alice, start()).is_ok());
}

#[test]
fn the_join_block_is_the_same_in_every_hello_and_join() {
    let (ticket, mut alice, mut bob, mut carol) = three();
    alice.tell(&hello(&alice, ticket.call, 100), &mut bob, start()).unwrap();
    alice.tell(&join(&alice, &bob, ticket.call, 100), &mut bob, start()).unwrap();
    alice.tell(&join(&alice, &carol, ticket.call, 100), &mut carol, start()).unwrap();
    bob.tell(&hello(&bob, ticket.call, 100), &mut alice, start()).unwrap();
    // The session that Bob derived from the Hello is still the one after the Join.
    assert!(bob.tell(&restart(&alice, ticket.call, 1), &mut alice, start()).is_ok());
    assert_eq!(alice.sealer.seal(&hello(&alice, ticket.call, 101), start()), None, "another instance than the joined");
    alice.sealer.join(ticket.call, instance(&alice, 100));
    assert!(alice.tell(&restart(&bob, ticket.call, 2), &mut bob, start()).is_ok(), "joining twice changes nothing");
}

#[test]
fn an_outsider_with_the_call_key_is_not_heard() {
    let (ticket, mut alice, bob, carol) = three();
    let mut mallory = peer(66);
    // She knows everything but a grant: she made her own, took Bob's, or has none.
    let stolen = bob.granted(&ticket, &alice).chain;
    let own = mallory.granted(&ticket, &mallory).chain;
    let from_carol = mallory.granted(&carol.granted(&ticket, &mallory), &carol).chain;
    for (n, chain) in (3..).zip([vec![], stolen, own, from_carol]) {
        let mut outsider = device(66, n);
        outsider.join(&Ticket { chain, ..ticket.clone() }, 500);
        let hello = hello(&outsider, ticket.call, 500);
        assert_eq!(outsider.tell(&hello, &mut alice, start()), Err(Rejected::NotGranted));
        let join = join(&outsider, &alice, ticket.call, 500);
        assert_eq!(outsider.tell(&join, &mut alice, start()), Err(Rejected::NotGranted));
        assert_eq!(alice.sealer.seal(&restart(&outsider, ticket.call, 1), start()), None);
    }
    let leave = forge_broadcast(&mut mallory, &ticket, 500, &leave(&bob, ticket.call, 100).signal, None);
    assert_eq!(alice.sealer.open(&Topic::Call(ticket.call), &leave, start()), Err(Rejected::NotGranted));
}

#[test]
fn nobody_leaves_in_anothers_name() {
    let (ticket, mut alice, mut bob, mut carol) = three();
    introduce(&mut alice, &mut bob, ticket.call);
    introduce(&mut alice, &mut carol, ticket.call);
    let left = leave(&bob, ticket.call, 100);
    // Carol signs as herself, under Bob's name.
    let carols_did = std::mem::replace(&mut carol.me.did, bob.did.clone());
    let forged = forge_broadcast(&mut carol, &ticket, 100, &left.signal, None);
    carol.me.did = carols_did;
    let now = after(start(), 1_000);
    assert_eq!(alice.sealer.open(&left.topic, &forged, now), Err(Rejected::BadSignature));
    // Under her own name a Leave is hers.
    let outgoing = broadcast(Signal { body: Body::Leave(instance(&carol, 100)), ..left.signal.clone() });
    assert_eq!(carol.tell(&outgoing, &mut alice, now).unwrap().from, carol.did);
    // And not for a stay that is not hers yet.
    let outgoing = broadcast(Signal { body: Body::Leave(instance(&carol, 101)), ..left.signal.clone() });
    assert_eq!(carol.tell(&outgoing, &mut alice, now), Err(Rejected::BadSignature));
    assert_eq!(bob.tell(&left, &mut alice, now).unwrap().from, bob.did);
}

#[test]
fn nobody_joins_with_anothers_block() {
    let (ticket, mut alice, mut bob, mut carol) = three();
    bob.tell(&hello(&bob, ticket.call, 100), &mut carol, start()).unwrap();
    let bobs = block::make(&bob.me, &bob.granted(&ticket, &alice), instance(&bob, 100), [9; 32]).unwrap();
    let joined = join(&bob, &alice, ticket.call, 100);
    let forged = carol.forge(&joined.topic, &alice, &joined.signal, Some(&bobs), start());
    assert_eq!(alice.sealer.open(&joined.topic, &forged, start()), Err(Rejected::BadSignature));
    let said = hello(&bob, ticket.call, 100);
    let forged = forge_broadcast(&mut carol, &ticket, 100, &said.signal, Some(&bobs));
    assert_eq!(alice.sealer.open(&said.topic, &forged, start()), Err(Rejected::BadSignature));
    // A block that says it is Bob's, signed by Carol, shown by Carol: she would get his place in the keys.
    let carols = carol.granted(&ticket, &alice);
    let carols_did = std::mem::replace(&mut carol.me.did, bob.did.clone());
    let posed = block::make(&carol.me, &carols, instance(&carol, 100), x25519_of(&peer(5).did).to_bytes()).unwrap();
    carol.me.did = carols_did;
    let forged = carol.forge(&joined.topic, &alice, &joined.signal, Some(&posed), start());
    assert_eq!(alice.sealer.open(&joined.topic, &forged, start()), Err(Rejected::BadSignature));
    // A block that Carol made up for Bob.
    let mut forger = device(3, 9);
    forger.me.did = bob.did.clone();
    let made_up = block::make(&forger.me, &bob.granted(&ticket, &alice), instance(&bob, 100), [9; 32]).unwrap();
    let forged = bob.forge(&joined.topic, &alice, &joined.signal, Some(&made_up), start());
    assert_eq!(alice.sealer.open(&joined.topic, &forged, start()), Err(Rejected::BadSignature));
}

#[test]
fn a_join_block_with_any_byte_flipped_is_refused() {
    let (ticket, mut alice, mut bob, _) = three();
    let key = x25519_of(&peer(5).did).to_bytes();
    let good = block::make(&bob.me, &bob.granted(&ticket, &alice), instance(&bob, 100), key).unwrap();
    let joined = join(&bob, &alice, ticket.call, 100);
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        let bytes = bob.forge(&joined.topic, &alice, &joined.signal, Some(&bad), start());
        let opened = alice.sealer.open(&joined.topic, &bytes, rested(start(), 50 * at as u64));
        assert!(opened.is_err(), "{at}");
    }
    let bytes = bob.forge(&joined.topic, &alice, &joined.signal, Some(&good), start());
    assert!(alice.sealer.open(&joined.topic, &bytes, rested(start(), 100_000)).is_ok());
}

#[test]
fn a_block_of_another_call_or_with_a_key_of_small_order_is_refused() {
    let (ticket, mut alice, mut bob, _) = three();
    let other = call_of(&alice, 8, false);
    let topic = member(ticket.call, &alice);
    let joined = join(&bob, &alice, ticket.call, 100).signal;
    let elsewhere = block::make(&bob.me, &bob.granted(&other, &alice), instance(&bob, 100), [9; 32]).unwrap();
    let bytes = bob.forge(&topic, &alice, &joined, Some(&elsewhere), start());
    assert_eq!(alice.sealer.open(&topic, &bytes, start()), Err(Rejected::WrongRecipient));
    let mut one = [0; 32];
    one[0] = 1;
    for small in [[0; 32], one] {
        let weak = block::make(&bob.me, &bob.granted(&ticket, &alice), instance(&bob, 100), small).unwrap();
        let bytes = bob.forge(&topic, &alice, &joined, Some(&weak), start());
        assert_eq!(alice.sealer.open(&topic, &bytes, start()), Err(Rejected::Malformed));
    }
}

#[test]
fn of_two_blocks_of_one_stay_the_first_counts() {
    let (ticket, mut alice, mut bob, _) = three();
    introduce(&mut alice, &mut bob, ticket.call);
    let second = block::make(&bob.me, &bob.granted(&ticket, &alice), instance(&bob, 100), [9; 32]).unwrap();
    let joined = join(&bob, &alice, ticket.call, 100);
    let bytes = bob.forge(&joined.topic, &alice, &joined.signal, Some(&second), start());
    assert_eq!(alice.sealer.open(&joined.topic, &bytes, start()), Err(Rejected::Malformed));
    assert!(bob.tell(&restart(&alice, ticket.call, 1), &mut alice, start()).is_ok());
}

#[test]
fn what_was_said_in_one_call_or_place_is_not_heard_in_another() {
    let (first, mut alice, mut bob, mut carol) = three();
    let second = call_of(&alice, 8, false);
    alice.join(&second, 100);
    let granted = bob.granted(&second, &alice);
    bob.join(&granted, 100);
    introduce(&mut alice, &mut bob, first.call);
    introduce(&mut alice, &mut bob, second.call);

    let said = leave(&bob, first.call, 100);
    let bytes = bob.seal(&said, start());
    assert_eq!(alice.sealer.open(&Topic::Call(second.call), &bytes, start()), Err(Rejected::Undecryptable));
    let joined = join(&bob, &alice, first.call, 100);
    let bytes = bob.seal(&joined, start());
    assert_eq!(alice.sealer.open(&member(second.call, &alice), &bytes, start()), Err(Rejected::Undecryptable));
    assert_eq!(alice.sealer.open(&inbox(&alice), &bytes, start()), Err(Rejected::Undecryptable));
    let private = restart(&alice, first.call, 1);
    let bytes = bob.seal(&private, start());
    assert_eq!(alice.sealer.open(&member(second.call, &alice), &bytes, start()), Err(Rejected::Undecryptable));
    assert_eq!(carol.sealer.open(&private.topic, &bytes, start()), Err(Rejected::WrongRecipient));
    assert_eq!(carol.sealer.open(&member(first.call, &carol), &bytes, start()), Err(Rejected::Undecryptable));
    assert!(alice.sealer.open(&private.topic, &bytes, start()).is_ok());

    // Rightly sealed for the place, but about another call.
    let bytes = bob.forge(&member(first.call, &alice), &alice, &signal(second.call, 1, Body::Ringing), None, start());
    let opened = alice.sealer.open(&member(first.call, &alice), &bytes, start());
    assert_eq!(opened, Err(Rejected::WrongRecipient));
}

#[test]
fn each_kind_is_heard_only_in_its_place() {
    let (ticket, mut alice, mut bob, _) = three();
    introduce(&mut alice, &mut bob, ticket.call);
    let call = ticket.call;
    let (sdp, ice) = (
        Sdp { attempt: 1, kind: SdpKind::Offer, sdp: "v=0".into(), fingerprint: [1; 32] },
        Ice { attempt: 1, candidates: vec![] },
    );
    // Body, and whether it is heard in an inbox, in an envelope to a member, from the call, pairwise.
    let cases = [
        (Body::Cancel(CancelReason::Cancelled), [true, false, false, false]),
        (Body::Ringing, [false, true, false, false]),
        (Body::Decline(DeclineReason::Busy.into()), [false, true, false, false]),
        (Body::Leave(instance(&bob, 100)), [false, false, true, true]),
        (Body::Sdp(sdp), [false, false, false, true]),
        (Body::Ice(ice), [false, false, false, true]),
        (Body::Restart(1), [false, false, false, true]),
        (Body::State(MediaState::default()), [false, false, false, true]),
        (Body::Ack(MessageId([3; 16])), [true, true, false, true]),
        (Body::Unknown(700), [true, true, true, true]),
    ];
    // Bob's own pairwise session, to say there what his sealer would refuse to.
    let bobs = Outgoing { to: None, ..restart(&alice, call, 1) };
    assert_eq!(bob.sealer.seal(&bobs, start()), None, "pairwise to nobody");
    for (n, (body, heard)) in cases.into_iter().enumerate() {
        let now = after(start(), 2_000 * (n as u64 + 1));
        let said = signal(call, n as u8, body.clone());
        let places = [
            envelope_to(inbox(&alice), &alice, said.clone()),
            envelope_to(member(call, &alice), &alice, said.clone()),
            broadcast(said.clone()),
            pairwise_to(&alice, said.clone()),
        ];
        for (outgoing, heard) in places.iter().zip(heard) {
            assert_eq!(bob.sealer.seal(outgoing, now).is_some(), heard, "{body:?} {:?}", outgoing.sealing);
            let bytes = match outgoing.sealing {
                Sealing::Envelope => bob.forge(&outgoing.topic, &alice, &said, None, now),
                Sealing::Broadcast => {
                    let message = wire::encode(&said, None).unwrap();
                    let call = bob.sealer.calls.get_mut(&call).unwrap();
                    call.seal_broadcast(&bob.me, &mut bob.rng, &message).unwrap()
                }
                Sealing::Pairwise => {
                    let message = wire::encode(&said, None).unwrap();
                    let call = bob.sealer.calls.get_mut(&call).unwrap();
                    call.seal_pairwise(&outgoing.topic, &alice.did, &message).unwrap()
                }
            };
            let opened = alice.sealer.open(&outgoing.topic, &bytes, now);
            assert_eq!(opened.err(), (!heard).then_some(Rejected::Malformed), "{body:?} {:?}", outgoing.sealing);
        }
    }
}

#[test]
fn broadcasts_are_heard_once_in_any_order_within_the_window() {
    let (ticket, mut alice, mut bob, _) = three();
    let outgoing = hello(&bob, ticket.call, 100);
    let sent: Vec<_> = (0..70).map(|_| bob.seal(&outgoing, start())).collect();
    let now = start();
    let mut open = |n: usize, seconds: u64| alice.sealer.open(&outgoing.topic, &sent[n], after(now, 1_000 * seconds));
    assert!(open(1, 0).is_ok());
    assert!(open(0, 0).is_ok(), "late, but in the window");
    assert_eq!(open(0, 0), Err(Rejected::Replayed));
    assert_eq!(open(1, 0), Err(Rejected::Replayed));
    assert!(open(69, 1).is_ok());
    assert_eq!(open(5, 1), Err(Rejected::Replayed), "64 behind");
    assert!(open(6, 1).is_ok());
    assert_eq!(open(69, 1), Err(Rejected::Replayed));
}

#[test]
fn pairwise_messages_are_heard_once_though_some_are_lost_and_others_overtake() {
    let (ticket, mut alice, mut bob, _) = three();
    introduce(&mut alice, &mut bob, ticket.call);
    let sent: Vec<_> = (0..200).map(|n| bob.seal(&restart(&alice, ticket.call, n), start())).collect();
    let topic = member(ticket.call, &alice);
    let mut open = |n: usize| alice.sealer.open(&topic, &sent[n], start());
    for n in [3, 1, 2, 10, 9, 70, 7] {
        let opened = open(n).unwrap();
        assert_eq!(opened.signal.body, Body::Restart(n as u32));
        assert_eq!(open(n), Err(Rejected::Replayed), "{n}");
    }
    assert_eq!(open(6), Err(Rejected::Replayed), "64 behind");
    assert!(open(199).is_ok());
    assert_eq!(open(70), Err(Rejected::Replayed));
    // A changed counter does not move the window.
    let mut changed = sent[198].clone();
    changed[18] = 0x7f;
    assert_eq!(alice.sealer.open(&topic, &changed, start()), Err(Rejected::Undecryptable));
    assert!(alice.sealer.open(&topic, &sent[198], start()).is_ok());
}

#[test]
fn a_pairwise_message_with_any_byte_flipped_is_refused_and_not_sent_back_as_ones_own() {
    let (ticket, mut alice, mut bob, _) = three();
    introduce(&mut alice, &mut bob, ticket.call);
    let outgoing = restart(&alice, ticket.call, 1);
    let good = bob.seal(&outgoing, start());
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        assert!(alice.sealer.open(&outgoing.topic, &bad, start()).is_err(), "{at}");
    }
    for length in 0..good.len() {
        assert!(alice.sealer.open(&outgoing.topic, &good[..length], start()).is_err(), "cut to {length}");
    }
    assert_eq!(bob.sealer.open(&member(ticket.call, &bob), &good, start()), Err(Rejected::Undecryptable));
    assert!(alice.sealer.open(&outgoing.topic, &good, start()).is_ok());
}

#[test]
fn a_higher_instance_takes_over_and_a_lower_one_does_not_come_back() {
    let (ticket, mut alice, mut bob, _) = three();
    let mut laptop = device(2, 2);
    let granted = laptop.granted(&ticket, &alice);
    laptop.join(&granted, 200);
    introduce(&mut alice, &mut bob, ticket.call);
    let old_hello = bob.seal(&hello(&bob, ticket.call, 100), start());
    let heard = laptop.tell(&hello(&laptop, ticket.call, 200), &mut alice, start()).unwrap();
    assert_eq!((&heard.from, heard.instance), (&bob.did, Some(instance(&laptop, 200))));
    alice.tell(&join(&alice, &laptop, ticket.call, 100), &mut laptop, start()).unwrap();

    let to_bob = restart(&laptop, ticket.call, 1);
    let bytes = alice.seal(&to_bob, start());
    assert_eq!(bob.sealer.open(&to_bob.topic, &bytes, start()), Err(Rejected::Undecryptable), "the old device");
    assert!(laptop.sealer.open(&to_bob.topic, &bytes, start()).is_ok(), "the new device");
    let from_old = restart(&alice, ticket.call, 2);
    assert_eq!(bob.tell(&from_old, &mut alice, start()), Err(Rejected::Undecryptable));
    assert!(laptop.tell(&from_old, &mut alice, start()).is_ok());

    // The stale one is still heard, so that it can be told; it takes nothing back.
    let opened = alice.sealer.open(&Topic::Call(ticket.call), &old_hello, start()).unwrap();
    assert_eq!(opened.instance, Some(instance(&bob, 100)));
    let late = join(&bob, &alice, ticket.call, 100);
    assert_eq!(bob.tell(&late, &mut alice, start()).unwrap().instance, Some(instance(&bob, 100)));
    assert!(laptop.tell(&from_old, &mut alice, start()).is_ok());
    // And it hears of the new one itself.
    let heard = laptop.tell(&hello(&laptop, ticket.call, 200), &mut bob, start()).unwrap();
    assert_eq!((&heard.from, heard.instance), (&bob.did, Some(instance(&laptop, 200))));
}

#[test]
fn a_new_stay_of_the_same_device_has_new_keys_and_hears_nothing_old() {
    let (ticket, mut alice, mut bob, _) = three();
    introduce(&mut alice, &mut bob, ticket.call);
    let old = bob.seal(&restart(&alice, ticket.call, 1), start());
    let granted = bob.granted(&ticket, &alice);
    bob.join(&granted, 101);
    bob.tell(&hello(&bob, ticket.call, 101), &mut alice, start()).unwrap();
    assert_eq!(alice.sealer.open(&member(ticket.call, &alice), &old, start()), Err(Rejected::Undecryptable));
    assert!(alice.tell(&restart(&bob, ticket.call, 2), &mut bob, start()).is_ok(), "Bob still knows Alice's block");
    // A Leave of the stay before, repeated from the new one.
    assert!(bob.tell(&leave(&bob, ticket.call, 100), &mut alice, start()).is_ok());
}

#[test]
fn an_own_message_that_comes_back_is_a_replay() {
    let (ticket, mut alice, mut bob, _) = three();
    let hello = bob.seal(&hello(&bob, ticket.call, 100), start());
    let bytes = bob.seal(&leave(&bob, ticket.call, 100), start());
    for own in [&hello, &bytes] {
        assert_eq!(bob.sealer.open(&Topic::Call(ticket.call), own, start()), Err(Rejected::Replayed));
    }
    alice.sealer.close_call(ticket.call);
    assert_eq!(alice.sealer.open(&Topic::Call(ticket.call), &bytes, start()), Err(Rejected::UnknownCall));
}

#[test]
fn a_closed_call_seals_and_opens_nothing() {
    let (ticket, mut alice, mut bob, _) = three();
    introduce(&mut alice, &mut bob, ticket.call);
    let private = restart(&alice, ticket.call, 1);
    let bytes = bob.seal(&private, start());
    let joined = bob.seal(&join(&bob, &alice, ticket.call, 100), start());
    alice.sealer.close_call(ticket.call);
    for bytes in [bytes, joined] {
        assert_eq!(alice.sealer.open(&private.topic, &bytes, start()), Err(Rejected::UnknownCall));
    }
    for outgoing in
        [hello(&alice, ticket.call, 100), restart(&bob, ticket.call, 1), join(&alice, &bob, ticket.call, 100)]
    {
        assert_eq!(alice.sealer.seal(&outgoing, start()), None);
    }
}

#[test]
fn who_is_invited_by_an_invitee_joins_with_both_grants() {
    let (ticket, mut alice, mut bob, _) = three();
    let mut dave = peer(4);
    let bobs = bob.granted(&ticket, &alice);
    let invite = envelope_to(inbox(&dave), &dave, signal(ticket.call, 1, offer(&bobs, &[&alice, &bob, &dave])));
    let Body::Offer(received) = bob.tell(&invite, &mut dave, start()).unwrap().signal.body else { panic!() };
    dave.join(&received.ticket, 100);
    introduce(&mut alice, &mut dave, ticket.call);
    assert!(dave.tell(&restart(&alice, ticket.call, 1), &mut alice, start()).is_ok());
}

#[test]
fn participants_of_an_open_call_never_wait_behind_strangers() {
    let (mut alice, mut bob, mut carol, mut mallory) = (peer(1), peer(2), peer(3), peer(66));
    let ticket = call_of(&alice, 9, false);
    alice.join(&ticket, 100);
    for invitee in [&mut bob, &mut carol] {
        let people = [&peer(1), &peer(2), &peer(3)];
        let offered = envelope_to(inbox(invitee), invitee, signal(ticket.call, 1, offer(&ticket, &people)));
        let Body::Offer(received) = alice.tell(&offered, invitee, start()).unwrap().signal.body else { panic!() };
        invitee.join(&received.ticket, 100);
    }
    let now = after(start(), 5_000);
    let noise = signal(ticket.call, 7, Body::Unknown(500));
    let mut dave = peer(4);
    let offered = envelope_to(inbox(&dave), &dave, signal(ticket.call, 2, offer(&ticket, &[&alice, &dave])));
    alice.tell(&offered, &mut dave, start()).unwrap();
    for target in [&mut alice, &mut bob] {
        for _ in 0..50 {
            let bytes = mallory.forge(&member(ticket.call, target), target, &noise, None, now);
            let _ = target.sealer.open(&member(ticket.call, target), &bytes, now);
        }
        let bytes = mallory.forge(&member(ticket.call, target), target, &noise, None, now);
        let opened = target.sealer.open(&member(ticket.call, target), &bytes, now);
        assert_eq!(opened, Err(Rejected::OverBudget));
        // Carol is nobody's contact: the offer named her.
        let joined = join(&carol, target, ticket.call, 100);
        assert!(carol.tell(&joined, target, now).is_ok());
    }
    // Nor does an invitee who has not answered yet, and to whom Alice is a stranger.
    let ringing = envelope_to(member(ticket.call, &alice), &alice, signal(ticket.call, 3, Body::Ringing));
    assert!(dave.tell(&ringing, &mut alice, now).is_ok());
}

#[test]
fn holders_of_the_call_key_cannot_buy_endless_signature_checks() {
    let (ticket, mut alice, mut bob, mut carol) = three();
    introduce(&mut alice, &mut bob, ticket.call);
    let key = broadcast::key(ticket.call, &ticket.key);
    let message = wire::encode(&leave(&bob, ticket.call, 100).signal, None).unwrap();
    for name in [&bob.did, &peer(77).did] {
        carol.me.did = name.clone();
        let mut checked = 0;
        for counter in 0..200 {
            let stay = Instance { number: 100, device: bob.me.device };
            let target = (ticket.call, &key);
            let bytes = broadcast::seal(&carol.me, &mut carol.rng, target, stay, 10 + counter, &message).unwrap();
            match alice.sealer.open(&Topic::Call(ticket.call), &bytes, start()) {
                Err(Rejected::BadSignature) => checked += 1,
                result => assert_eq!(result, Err(Rejected::OverBudget)),
            }
        }
        assert!((1..=60).contains(&checked), "{checked}");
    }
    carol.me.did = carol.did.clone();
    let joined = join(&carol, &alice, ticket.call, 100);
    assert!(carol.tell(&joined, &mut alice, start()).is_ok(), "her Join has a budget of its own");
}

#[test]
fn a_call_holds_at_most_32_peers() {
    let mut alice = peer(1);
    let ticket = call_of(&alice, 9, false);
    alice.join(&ticket, 100);
    for n in 0..=MAX_PARTICIPANTS as u8 {
        let mut guest = peer(100 + n);
        let granted = guest.granted(&ticket, &alice);
        guest.join(&granted, 100);
        let now = after(start(), 1_000 * u64::from(n));
        let heard = guest.tell(&hello(&guest, ticket.call, 100), &mut alice, now);
        let full = usize::from(n) >= MAX_PARTICIPANTS;
        assert_eq!(heard.err(), full.then_some(Rejected::OverBudget), "{n}");
    }
}

#[test]
fn broadcast_counters_are_remembered_for_four_stays_only() {
    let (ticket, mut alice, mut bob, _) = three();
    let granted = bob.granted(&ticket, &alice);
    let mut sent = Vec::new();
    for number in 101..110 {
        bob.join(&granted, number);
        sent.push(bob.seal(&hello(&bob, ticket.call, number), start()));
        sent.push(bob.seal(&hello(&bob, ticket.call, number), start()));
    }
    for bytes in sent.iter().step_by(2) {
        assert!(alice.sealer.open(&Topic::Call(ticket.call), bytes, start()).is_ok());
    }
    let now = after(start(), 10_000);
    let heard: Vec<bool> =
        sent.iter().map(|bytes| alice.sealer.open(&Topic::Call(ticket.call), bytes, now).is_ok()).collect();
    // Each second Hello of the four latest stays; nothing twice, nothing of older ones.
    let expected: Vec<bool> = (0..18).map(|n| n >= 10 && n % 2 == 1).collect();
    assert_eq!(heard, expected);
}

#[test]
fn a_message_that_would_be_too_long_is_not_sealed() {
    let (ticket, mut alice, mut bob, _) = three();
    introduce(&mut alice, &mut bob, ticket.call);
    let sdp = |bytes| Sdp { attempt: 1, kind: SdpKind::Offer, sdp: "s".repeat(bytes), fingerprint: [1; 32] };
    let [longest, longer] = [wire::MAX_SDP_BYTES, wire::MAX_SDP_BYTES + 1]
        .map(|bytes| pairwise_to(&alice, signal(ticket.call, 1, Body::Sdp(sdp(bytes)))));
    assert!(bob.tell(&longest, &mut alice, start()).is_ok());
    assert_eq!(bob.sealer.seal(&longer, start()), None);
}

#[test]
fn the_session_of_a_pair_has_two_ids_that_tell_nothing_of_either() {
    let (ticket, mut alice, mut bob, mut carol) = three();
    introduce(&mut alice, &mut bob, ticket.call);
    introduce(&mut alice, &mut carol, ticket.call);
    let ids: Vec<_> = [
        bob.seal(&restart(&alice, ticket.call, 1), start()),
        alice.seal(&restart(&bob, ticket.call, 1), start()),
        carol.seal(&restart(&alice, ticket.call, 1), start()),
    ]
    .iter()
    .map(|bytes| pairwise::session_id(bytes).unwrap())
    .collect();
    assert!(ids[0] != ids[1] && ids[0] != ids[2] && ids[1] != ids[2]);
}

#[test]
fn a_join_block_signs_what_it_says() {
    let alice = peer(1);
    let ticket = call_of(&alice, 9, false);
    let signed = block::make(&alice.me, &ticket, instance(&alice, 5), [9; 32]).unwrap();
    let (fields, bytes, signature) = wire::decode_block(&signed).unwrap();
    assert_eq!((fields.call, fields.did, fields.features), (ticket.call, alice.did.clone(), 0));
    assert_eq!(signature, alice.me.sign(&transcript(JOIN_BLOCK, &[bytes])));
}
