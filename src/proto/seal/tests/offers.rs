//! Offers and everything else that comes to an inbox.

use super::*;
use crate::proto::{
    seal::gate::TAG_BYTES,
    signal::{Answered, Grant},
};
use proptest::prelude::*;

/// Where the header's tag stands in an envelope.
const TAG_AT: usize = 6;

#[test]
fn an_offer_arrives_as_the_recipients_own_ticket() {
    let (mut alice, mut bob) = (peer(1), peer(2));
    let (ticket, outgoing) = first_offer(&alice, &bob);
    let incoming = alice.tell(&outgoing, &mut bob, start()).unwrap();
    let Body::Offer(received) = &incoming.signal.body else { panic!("{incoming:?}") };
    assert_eq!((&incoming.from, incoming.instance, incoming.sealing), (&alice.did, None, Sealing::Envelope));
    assert_eq!(received.ticket, bob.granted(&ticket, &alice));
    assert_eq!(received.participants, [alice.did.clone(), bob.did.clone()]);
    assert_eq!((received.ring_ms, incoming.signal.id), (45_000, MessageId([1; 16])));
}

#[test]
fn an_offer_with_any_byte_flipped_is_refused_and_the_true_one_still_opens() {
    let (mut alice, mut bob) = (peer(1), peer(2));
    let (_, outgoing) = first_offer(&alice, &bob);
    let now = start();
    let good = alice.seal(&outgoing, now);
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        // Rested, so that each is refused for what it is and not for being one of many.
        let result = bob.sealer.open(&outgoing.topic, &bad, rested(now, 50 * at as u64));
        assert!(
            matches!(result, Err(Rejected::Undecryptable | Rejected::UnknownVersion | Rejected::Malformed)),
            "{at}"
        );
    }
    assert!(bob.sealer.open(&outgoing.topic, &good, rested(now, 100_000)).is_ok());
}

#[test]
fn an_offer_signed_by_somebody_else_than_it_names_is_refused() {
    let (alice, mut bob, mut mallory) = (peer(1), peer(2), peer(66));
    let ticket = bob.granted(&call_of(&alice, 9, false), &alice);
    let offered = signal(ticket.call, 1, offer(&ticket, &[&alice, &bob]));
    mallory.me.did = alice.did.clone();
    let forged = mallory.forge(&inbox(&bob), &bob, &offered, None, start());
    assert_eq!(bob.sealer.open(&inbox(&bob), &forged, start()), Err(Rejected::BadSignature));
}

#[test]
fn an_offer_that_somebody_else_hands_on_is_not_granted() {
    let (alice, mut bob, mut mallory) = (peer(1), peer(2), peer(66));
    let ticket = bob.granted(&call_of(&alice, 9, false), &alice);
    let offered = signal(ticket.call, 1, offer(&ticket, &[&alice, &bob, &mallory]));
    let forged = mallory.forge(&inbox(&bob), &bob, &offered, None, start());
    assert_eq!(bob.sealer.open(&inbox(&bob), &forged, start()), Err(Rejected::NotGranted));
}

#[test]
fn a_replayed_offer_is_refused_and_a_repeated_one_opens() {
    let (mut alice, mut bob) = (peer(1), peer(2));
    for known in [false, true] {
        if known {
            bob.sealer.set_contacts(std::slice::from_ref(&alice.did));
            alice.sealer.set_contacts(std::slice::from_ref(&bob.did));
        }
        let (_, outgoing) = first_offer(&alice, &bob);
        let first = alice.seal(&outgoing, start());
        let second = alice.seal(&outgoing, start());
        assert!(bob.sealer.open(&outgoing.topic, &first, start()).is_ok());
        assert_eq!(bob.sealer.open(&outgoing.topic, &first, start()), Err(Rejected::Replayed));
        let again = bob.sealer.open(&outgoing.topic, &second, start()).unwrap();
        assert_eq!(again.signal.id, outgoing.signal.id);
        assert_eq!(bob.sealer.open(&outgoing.topic, &first, after(start(), 119_000)), Err(Rejected::Replayed));
        assert_eq!(bob.sealer.open(&outgoing.topic, &second, after(start(), 400_000)), Err(Rejected::Replayed));
    }
}

#[test]
fn what_is_forgotten_as_a_replay_is_too_old_to_open() {
    let (mut alice, mut bob) = (peer(1), peer(2));
    let (_, outgoing) = first_offer(&alice, &bob);
    let first = alice.seal(&outgoing, start());
    bob.sealer.open(&outgoing.topic, &first, start()).unwrap();
    let later = after(start(), 301_000);
    let other = alice.seal(&outgoing, later);
    bob.sealer.open(&outgoing.topic, &other, later).unwrap();
    assert_eq!(bob.sealer.open(&outgoing.topic, &first, later), Err(Rejected::ClockSkew));
}

#[test]
fn an_offer_for_another_recipient_is_refused() {
    let (mut alice, mut bob, mut carol) = (peer(1), peer(2), peer(3));
    let (_, outgoing) = first_offer(&alice, &bob);
    let mut bytes = alice.seal(&outgoing, start());
    assert_eq!(carol.sealer.open(&inbox(&bob), &bytes, start()), Err(Rejected::WrongRecipient));
    assert_eq!(carol.sealer.open(&inbox(&carol), &bytes, start()), Err(Rejected::Undecryptable));
    bytes[2..6].copy_from_slice(&carol.me.key_id);
    assert_eq!(carol.sealer.open(&inbox(&carol), &bytes, start()), Err(Rejected::Undecryptable));
    assert!(bob.sealer.open(&inbox(&bob), &alice.seal(&outgoing, start()), start()).is_ok());
}

#[test]
fn an_offer_whose_id_does_not_match_what_it_holds_is_refused() {
    let (alice, mut bob, mut mallory) = (peer(1), peer(2), peer(66));
    let squatted = call_of(&alice, 9, false).call;
    let own = call_of(&mallory, 8, false);
    let others = [
        Ticket { call: squatted, ..own.clone() },
        Ticket { settings: Settings { closed: true }, ..own.clone() },
        Ticket { key: CallKey([7; 32]), ..own.clone() },
        Ticket { creator: alice.did.clone(), ..own.clone() },
    ];
    for ticket in others {
        let granted = bob.granted(&ticket, &mallory);
        let offered = signal(ticket.call, 1, offer(&granted, &[&mallory, &bob]));
        let forged = mallory.forge(&inbox(&bob), &bob, &offered, None, start());
        assert_eq!(bob.sealer.open(&inbox(&bob), &forged, start()), Err(Rejected::WrongCallId));
        // The honest way out refuses to make it.
        let outgoing = envelope_to(inbox(&bob), &bob, signal(ticket.call, 1, offer(&ticket, &[&mallory, &bob])));
        assert_eq!(mallory.sealer.seal(&outgoing, start()), None);
    }
}

#[test]
fn an_offer_without_a_valid_chain_of_grants_is_refused() {
    let (alice, mut bob, carol, mut mallory) = (peer(1), peer(2), peer(3), peer(66));
    let made = call_of(&alice, 9, false);
    let grant = |from: &Peer, to: &Peer| block::grant(&from.me, made.call, &to.did);
    let forged_grant = Grant { inviter: alice.did.clone(), ..grant(&mallory, &bob) };
    let elsewhere = block::grant(&alice.me, call_of(&alice, 8, false).call, &mallory.did);
    let chains = [
        vec![],
        vec![grant(&mallory, &bob)],
        vec![grant(&alice, &bob)],
        vec![forged_grant],
        vec![grant(&alice, &carol), grant(&mallory, &bob)],
        vec![grant(&alice, &mallory), grant(&mallory, &carol)],
        vec![elsewhere, grant(&mallory, &bob)],
        vec![grant(&alice, &alice), grant(&alice, &mallory), grant(&mallory, &bob)],
    ];
    for chain in chains {
        let ticket = Ticket { chain, ..made.clone() };
        let offered = signal(made.call, 1, offer(&ticket, &[&mallory, &bob]));
        let forged = mallory.forge(&inbox(&bob), &bob, &offered, None, start());
        assert_eq!(bob.sealer.open(&inbox(&bob), &forged, start()), Err(Rejected::NotGranted), "{:?}", ticket.chain);
    }
    let chain = vec![grant(&alice, &mallory), grant(&mallory, &bob)];
    let offered = signal(made.call, 1, offer(&Ticket { chain, ..made.clone() }, &[&mallory, &bob]));
    let honest = mallory.forge(&inbox(&bob), &bob, &offered, None, start());
    assert!(bob.sealer.open(&inbox(&bob), &honest, start()).is_ok(), "the chain that is right");
}

#[test]
fn a_chain_has_at_most_four_grants_and_in_a_closed_call_one() {
    for (closed, longest) in [(false, 4), (true, 1)] {
        let people: Vec<Peer> = (1..=6).map(peer).collect();
        let made = call_of(&people[0], 9, closed);
        let mut chain: Vec<Grant> = Vec::new();
        for pair in people.windows(2) {
            let (mut inviter, mut invitee) = (device(pair[0].did_seed(), 2), device(pair[1].did_seed(), 2));
            let ticket = Ticket { chain: chain.clone(), ..made.clone() };
            let body = offer(&ticket, &[&inviter, &invitee]);
            let outgoing = envelope_to(inbox(&invitee), &invitee, signal(made.call, 1, body));
            let sealed = inviter.sealer.seal(&outgoing, start());
            chain.push(block::grant(&inviter.me, made.call, &invitee.did));
            assert_eq!(sealed.is_some(), chain.len() <= longest, "{closed} {}", chain.len());
            if chain.len() <= 4 {
                let offered = offer(&Ticket { chain: chain.clone(), ..made.clone() }, &[&inviter, &invitee]);
                let bytes = inviter.forge(&inbox(&invitee), &invitee, &signal(made.call, 1, offered), None, start());
                let opened = invitee.sealer.open(&inbox(&invitee), &bytes, start());
                assert_eq!(opened.is_ok(), chain.len() <= longest, "{closed} {}", chain.len());
            }
        }
    }
}

#[test]
fn the_participants_of_an_offer_are_distinct_and_hold_both_ends() {
    let (mut alice, mut bob, carol) = (peer(1), peer(2), peer(3));
    let ticket = bob.granted(&call_of(&alice, 9, false), &alice);
    let many: Vec<Peer> = (1..=32).map(peer).collect();
    let rosters: [Vec<&Peer>; 4] = [vec![&alice, &carol], vec![&bob, &carol], vec![&alice, &bob, &bob], vec![]];
    let forged: Vec<_> = rosters.iter().map(|roster| signal(ticket.call, 1, offer(&ticket, roster))).collect();
    let full = signal(ticket.call, 1, offer(&ticket, &many.iter().collect::<Vec<_>>()));
    for offered in forged {
        let bytes = alice.forge(&inbox(&bob), &bob, &offered, None, start());
        assert_eq!(bob.sealer.open(&inbox(&bob), &bytes, start()), Err(Rejected::Malformed));
    }
    let bytes = alice.forge(&inbox(&bob), &bob, &full, None, start());
    assert!(bob.sealer.open(&inbox(&bob), &bytes, start()).is_ok(), "32 participants");
}

#[test]
fn only_inbox_envelopes_are_checked_against_the_clock() {
    let (mut alice, mut bob) = (peer(1), peer(2));
    let (ticket, outgoing) = first_offer(&alice, &bob);
    let now = start();
    for (skew_ms, fine) in [(-120_001, false), (-120_000, true), (0, true), (120_000, true), (120_001, false)] {
        let there = Now { unix_ms: now.unix_ms.checked_add_signed(skew_ms).unwrap(), ..now };
        let bytes = alice.seal(&outgoing, there);
        let opened = bob.sealer.open(&outgoing.topic, &bytes, now);
        assert_eq!(opened.err(), (!fine).then_some(Rejected::ClockSkew), "{skew_ms}");
    }
    alice.sealer.open_call(&ticket);
    let ringing = envelope_to(member(ticket.call, &alice), &alice, signal(ticket.call, 2, Body::Ringing));
    let bytes = bob.seal(&ringing, Now { unix_ms: 1, ..now });
    assert!(alice.sealer.open(&ringing.topic, &bytes, now).is_ok());
}

#[test]
fn only_the_own_other_devices_may_say_that_a_call_was_answered() {
    let (mut phone, mut laptop, mut mallory) = (device(2, 1), device(2, 2), peer(66));
    let call = call_of(&mallory, 9, false).call;
    let answered = envelope_to(
        inbox(&phone),
        &phone,
        signal(call, 1, Body::Answered(Answered { device: DeviceId([2; 16]), joined: Some(7) })),
    );
    assert_eq!(laptop.tell(&answered, &mut phone, start()).unwrap().from, phone.did);
    assert_eq!(mallory.tell(&answered, &mut phone, start()), Err(Rejected::WrongRecipient));
}

#[test]
fn an_envelope_has_one_of_four_sizes() {
    let (mut alice, mut bob) = (peer(1), peer(2));
    let (_, small) = first_offer(&alice, &bob);
    let people: Vec<Peer> = (1..=32).map(peer).collect();
    let ticket = call_of(&alice, 9, false);
    let large = offer(&ticket, &people.iter().collect::<Vec<_>>());
    let large = envelope_to(inbox(&bob), &bob, signal(ticket.call, 1, large));
    let cancel = envelope_to(inbox(&bob), &bob, signal(ticket.call, 1, Body::Cancel(CancelReason::Cancelled)));
    assert_eq!(alice.seal(&small, start()).len(), 1024);
    assert_eq!(alice.seal(&cancel, start()).len(), 1024, "an offer looks like a cancel");
    assert_eq!(alice.seal(&large, start()).len(), 2048);
    for length in [0, 1, 2, 53, 1023, 1025, 8191, 8193, 1 << 20] {
        let mut bytes = vec![0; length];
        bytes.iter_mut().zip([1, 1]).for_each(|(byte, value)| *byte = value);
        assert_eq!(bob.sealer.open(&inbox(&bob), &bytes, start()), Err(Rejected::Malformed), "{length}");
    }
}

#[test]
fn a_later_version_is_told_apart_from_rubbish() {
    let (mut alice, mut bob) = (peer(1), peer(2));
    let (_, outgoing) = first_offer(&alice, &bob);
    let mut bytes = alice.seal(&outgoing, start());
    bytes[0] = 2;
    assert_eq!(bob.sealer.open(&outgoing.topic, &bytes, start()), Err(Rejected::UnknownVersion));
    bytes[..2].copy_from_slice(&[1, 200]);
    assert_eq!(bob.sealer.open(&outgoing.topic, &bytes, start()), Err(Rejected::UnknownVersion));
    bytes[..2].copy_from_slice(&[1, 3]);
    assert_eq!(bob.sealer.open(&outgoing.topic, &bytes, start()), Err(Rejected::Malformed), "pairwise in an inbox");
}

#[test]
fn strangers_share_twenty_opens_a_second_and_a_contact_never_waits_behind_them() {
    let (mut alice, mut bob, mut mallory) = (peer(1), peer(2), peer(66));
    alice.sealer.set_contacts(std::slice::from_ref(&bob.did));
    bob.sealer.set_contacts(std::slice::from_ref(&alice.did));
    let now = start();
    let (ticket, outgoing) = first_offer(&alice, &bob);
    let noise = signal(ticket.call, 7, Body::Unknown(500));
    let mut flood = |bob: &mut Peer, count: usize, now: Now| {
        let results: Vec<_> = (0..count)
            .map(|_| {
                let bytes = mallory.forge(&inbox(bob), bob, &noise, None, now);
                bob.sealer.open(&inbox(bob), &bytes, now)
            })
            .collect();
        assert!(results.iter().all(|result| matches!(result, Ok(_) | Err(Rejected::OverBudget))));
        results.iter().filter(|result| result.is_ok()).count()
    };
    assert_eq!(flood(&mut bob, 100, now), 20);
    for _ in 0..20 {
        assert!(alice.tell(&outgoing, &mut bob, now).is_ok(), "a contact waited behind strangers");
    }
    assert_eq!(flood(&mut bob, 100, after(now, 500)), 10);
    assert_eq!(flood(&mut bob, 100, after(now, 1_500)), 20);
}

#[test]
fn a_copied_tag_spends_only_that_contacts_budget_and_is_no_proof() {
    let (mut alice, mut bob, mut carol, mut mallory) = (peer(1), peer(2), peer(3), peer(66));
    bob.sealer.set_contacts(&[alice.did.clone(), carol.did.clone()]);
    for friend in [&mut alice, &mut carol] {
        friend.sealer.set_contacts(std::slice::from_ref(&bob.did));
    }
    let now = start();
    let (ticket, outgoing) = first_offer(&alice, &bob);
    let seen = alice.seal(&outgoing, now);
    let noise = wire::encode(&signal(ticket.call, 7, Body::Unknown(500)), None).unwrap();
    let mut tag = [0; TAG_BYTES];
    tag.copy_from_slice(&seen[TAG_AT..TAG_AT + TAG_BYTES]);
    let mut opened = 0;
    for _ in 0..100 {
        let target = (&bob.did, &inbox(&bob));
        let bytes = envelope::seal(&mallory.me, &mut mallory.rng, target, &tag, now.unix_ms, &noise).unwrap();
        match bob.sealer.open(&inbox(&bob), &bytes, now) {
            Ok(incoming) => {
                assert_eq!(incoming.from, mallory.did, "the tag is believed");
                opened += 1;
            }
            Err(error) => assert_eq!(error, Rejected::OverBudget),
        }
    }
    assert_eq!(opened, 60);
    let other = call_of(&carol, 5, false);
    let from_carol = envelope_to(inbox(&bob), &bob, signal(other.call, 1, offer(&other, &[&carol, &bob])));
    assert!(carol.tell(&from_carol, &mut bob, now).is_ok());
}

#[test]
fn a_stranger_and_a_contact_cannot_be_told_apart_by_their_headers_form() {
    let (mut alice, mut bob) = (peer(1), peer(2));
    let (_, outgoing) = first_offer(&alice, &bob);
    let tag = |bytes: &[u8]| bytes[TAG_AT..TAG_AT + TAG_BYTES].to_vec();
    let (first, second) = (alice.seal(&outgoing, start()), alice.seal(&outgoing, start()));
    // Alice has offered the call, so Bob is one of those whom she knows; without that the tag is random.
    let cancel = envelope_to(inbox(&bob), &bob, signal(outgoing.signal.call, 2, Body::Cancel(CancelReason::Cancelled)));
    let mut fresh = peer(1);
    assert_ne!(tag(&fresh.seal(&cancel, start())), tag(&fresh.seal(&cancel, start())), "a stranger's tag is random");
    fresh.sealer.set_contacts(std::slice::from_ref(&bob.did));
    assert_eq!(tag(&fresh.seal(&cancel, start())), tag(&fresh.seal(&cancel, start())), "a contact's tag is its sign");
    assert_ne!(first, second, "no transmission looks like another");
    assert!(bob.sealer.open(&outgoing.topic, &first, start()).is_ok());
}

impl Peer {
    fn did_seed(&self) -> u8 {
        (1..=u8::MAX).find(|seed| peer(*seed).did == self.did).unwrap()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn arbitrary_bytes_never_panic_and_never_open(
        bytes in prop::collection::vec(any::<u8>(), 0..8200),
        size in prop::sample::select(vec![0usize, 1, 26, 58, 1024, 2048, 4096, 8192]),
        suite in 0u8..5,
        resize in any::<bool>(),
    ) {
        let (alice, mut bob) = (peer(1), peer(2));
        let ticket = bob.granted(&call_of(&alice, 9, false), &alice);
        bob.join(&ticket, 1);
        let mut bytes = bytes;
        if resize {
            bytes.resize(size, 7);
        }
        for (byte, value) in bytes.iter_mut().zip([1, suite]) {
            *byte = value;
        }
        if suite == 1 && bytes.len() > 6 {
            bytes[2..6].copy_from_slice(&bob.me.key_id);
        }
        let call = ticket.call;
        for topic in [inbox(&bob), member(call, &bob), Topic::Call(call), inbox(&alice), member(call, &alice)] {
            prop_assert!(bob.sealer.open(&topic, &bytes, start()).is_err());
        }
    }
}
