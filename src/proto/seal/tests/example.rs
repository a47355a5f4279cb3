//! One call in bytes, from fixed seeds: the worked example of the protocol's documentation. Whoever changes a byte on
//! the wire changes this file, and knows it.
//!
//! Alice's Ed25519 seed is 32 times 01, Bob's 32 times 02; device ids 16 times 01 and 16 times 02; each sealer's random
//! source is ChaCha12 seeded with 32 times its person's number.

use super::*;
use crate::proto::seal::{broadcast, envelope::Header, keys};

fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn person(number: u8) -> Peer {
    let key = SigningKey::from_bytes(&[number; 32]);
    let did = Did::from_key(key.verifying_key());
    let device = DeviceId([number; 16]);
    Peer {
        sealer: Sealer::new(key.clone(), did.clone(), device, [number; 32]),
        did,
        me: Me::new(key, device),
        rng: StdRng::from_seed([number; 32]),
    }
}

/// Everything that is said in the example, in this order.
struct Example {
    ticket: Ticket,
    offer: Vec<u8>,
    grant: [u8; 64],
    alices_block: Vec<u8>,
    bobs_block: Vec<u8>,
    bobs_hello: Vec<u8>,
    restart: Vec<u8>,
}

fn play() -> Example {
    let (mut alice, mut bob) = (person(1), person(2));
    let ticket = call_of(&alice, 9, false);
    let call = ticket.call;
    alice.sealer.set_contacts(std::slice::from_ref(&bob.did));
    bob.sealer.set_contacts(std::slice::from_ref(&alice.did));
    alice.join(&ticket, UNIX_MS);

    let outgoing = envelope_to(inbox(&bob), &bob, signal(call, 0xa1, offer(&ticket, &[&alice, &bob])));
    let offer = alice.seal(&outgoing, start());
    let Body::Offer(received) = bob.sealer.open(&outgoing.topic, &offer, start()).unwrap().signal.body else {
        panic!()
    };
    bob.join(&received.ticket, UNIX_MS + 1_000);
    let hello = broadcast(signal(call, 0xb1, Body::Hello(presence(instance(&bob, UNIX_MS + 1_000)))));
    let bobs_hello = bob.seal(&hello, start());
    alice.sealer.open(&hello.topic, &bobs_hello, start()).unwrap();
    let restart = pairwise_to(&bob, signal(call, 0xa2, Body::Restart(7)));
    let restart = alice.seal(&restart, start());

    let block = |peer: &Peer| peer.sealer.calls[&call].own_block().unwrap().1.to_vec();
    Example {
        offer,
        grant: received.ticket.chain[0].signature,
        alices_block: block(&alice),
        bobs_block: block(&bob),
        bobs_hello,
        restart,
        ticket,
    }
}

#[test]
fn the_same_seeds_make_the_same_bytes() {
    let (first, second) = (play(), play());
    assert_eq!(first.offer, second.offer);
    assert_eq!(first.bobs_hello, second.bobs_hello);
    assert_eq!(first.restart, second.restart);
}

#[test]
fn one_call_in_bytes() {
    let example = play();
    let (ticket, call) = (&example.ticket, example.ticket.call);
    assert_eq!(person(1).did.as_str(), "did:key:z6Mkon3Necd6NkkyfoGoHxid2znGc59LU3K7mubaRcFbLfLX");
    assert_eq!(person(2).did.as_str(), "did:key:z6Mko9hTggMwjSTEaJaPUfE6tqcy2xvU6BnNq3e3o8qVBiyH");
    assert_eq!(call.to_string(), "7c3cdaf2-64b9-8fc4-b468-e531ebf0caef");

    // The envelope: header (version, suite, key id, tag, enc), then what only Bob can open.
    assert_eq!(
        (hex(&example.offer[..2]), hex(&example.offer[2..6]), hex(&example.offer[6..22])),
        ("0101".into(), "b76cf7b6".into(), "7266a01c0f0722699c7d9dd7eee1bc7a".into())
    );
    assert_eq!(hex(&example.offer[22..54]), "0149f955165695058fe340b741e3bd1a7bdc50b69a6d98c2930ccc1c43de6d7a");
    assert_eq!(example.offer.len(), 1024);
    assert_eq!(hex(keys::hash(&example.offer)), "935ef4ca74f11dc854edf3b78f033613da6aec1ca52fda052d2ecd44727da319");
    let grant = "23427149ca6cee9c9ea9d50a89aa7ec36b799d4aa5fb594e6dc2140db191a2e6\
         1b84d82034ee0280e0c148eecf7fb9b575a6b12e00729f9e8ff903e3e8c0ca0c";
    assert_eq!(hex(example.grant), grant);
    let header = Header::parse(&example.offer).unwrap();
    let opened = envelope::open(&person(2).me, &inbox(&person(2)), header).unwrap();
    assert_eq!(hex(&opened.message), OFFER);

    assert_eq!(hex(&example.alices_block), ALICES_BLOCK);
    assert_eq!(hex(&example.bobs_block), BOBS_BLOCK);
    assert_eq!(
        hex(&broadcast::key(call, &ticket.key)[..]),
        "4887bc8030362903e5a6a2f9a1ed008f4f405403640e24be81931ef23f361125"
    );
    assert_eq!(hex(&example.bobs_hello), BOBS_HELLO);
    assert_eq!(hex(&example.restart), RESTART);
}

/// The offer's message: kind, message id, call id, length, body.
const OFFER: &str = "\
         0001a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a17c3cdaf264b98fc4b468e531ebf0caef0000011601008a88e3dd7409f195fd52\
         db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c09090909090909090909090909090909090909090909090909090909\
         090909090000afc800000000000000018a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c8139\
         770ea87d175f56a35466c34c7ecccb8d8a91b4ee37a25df60f5b8fc9b39423427149ca6cee9c9ea9d50a89aa7ec36b799d4a\
         a5fb594e6dc2140db191a2e61b84d82034ee0280e0c148eecf7fb9b575a6b12e00729f9e8ff903e3e8c0ca0c000000000000\
         00028a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c8139770ea87d175f56a35466c34c7ecc\
         cb8d8a91b4ee37a25df60f5b8fc9b394";
/// The creator's join block: no grants.
const ALICES_BLOCK: &str = "\
         01000000007c3cdaf264b98fc4b468e531ebf0caef8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b4\
         0f6f5c01010101010101010101010101010101000001a1f8660d0041cdc12750ed415c0d865b43bd06e570b1120c073a42cb\
         656a6fbcc77bea356d00000000000000007c03f8db708bd823e01a3907863cda233622d9ebfbdfa509ff8e0e6ba371c199d9\
         4cf638b79555bc838d54a1857a64b4073786b1dd94f159db08935d0e0beb0a";
/// Bob's join block: one grant.
const BOBS_BLOCK: &str = "\
         01000000007c3cdaf264b98fc4b468e531ebf0caef8139770ea87d175f56a35466c34c7ecccb8d8a91b4ee37a25df60f5b8f\
         c9b39402020202020202020202020202020202000001a1f86610e8992ed971c50ca3ab9c5f8064804caf63d1f3640df8a75e\
         85ac87019f5dd81f2100000000000000018a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c81\
         39770ea87d175f56a35466c34c7ecccb8d8a91b4ee37a25df60f5b8fc9b39423427149ca6cee9c9ea9d50a89aa7ec36b799d\
         4aa5fb594e6dc2140db191a2e61b84d82034ee0280e0c148eecf7fb9b575a6b12e00729f9e8ff903e3e8c0ca0c0dea8403c9\
         e4cda6d4b1df9f5b871df034a8a72270110af8e4b14811f58b2d4b17076e6eb792453d1018eb415e245fe27a976c08c8b0f4\
         422fd4d4c36132670b";
/// Bob's `Hello`, sealed with the call key.
const BOBS_HELLO: &str = "\
         010217c4ed47226fe5ff0e3b10510ad1d9bdccdcecf1d01b3ce8353bb8f473bc103301aec5246e54bd9b11134a65909f388d\
         47da815ff94e51890bae9c33cdbda1e43294c513fac93492f127ee784067de9c1b9e35d5dcbdfde11ae0609667cd42c6a03a\
         d411fd5473e8625f41f05321eb1b17b0acffda83c728fdaae5791a34ec17b39e423b5fd66a331d10304b2c735dbc7bada05e\
         b55eccac74845dd7b794fd6d1c9d511594ccf878d883b4017f27c8f8f441a0661501ea5a1fd4ef0784e825b48cdc228bdc75\
         2210ce6b5b81ef5bbb4a25a67a5c94c7a19d9c5832eaf7404221a2d713a161afcebdaf04d98ef0a228d87785d053467deb51\
         708b5a1c2052a7a380c8afb6c87cea814dfefb43ee627ba435ae92e941e65aa18ea961e6f449f00c7d3391b5462316abc60e\
         452c1e48a9493fe5cfc83f10b823cdf9c22d7d441acbc945a15ef7207079e141926aab0cbc0304016d9da56080621b27d4cc\
         fb53cf116fcbd0ad4bf97db8bc081b50489c717e9a962ed1433ff000ce9863de008e2f0fb155e21759ab3a58422dacbff761\
         cfdadce935f9407598f4eecb3333a407a59d5173a898c1362682f2a211d8e63948ba06b984508f3d7a05cc7c07f36062d2ed\
         48f91214fecd97e8dc0d7f247b7afea6b2d9fcb5e8416e584dd65b7c0dfa4f6acb07efb001f24fea31cd380335a87475dc07\
         3db7a27750045eb31a278c06e3cdc9331a55c1a097f8e6a315a14be1c04089cdcdc1";
/// Alice's `Restart` 7 to Bob, the first message of their pair.
const RESTART: &str = "\
         0103e6990d8783c5cb8027ad1dbaef35705e0000000000000000498a9c26fac84dc72146be4a8553d5012513dfe9b46b92f7\
         2a1e55af4fc5891ff988f308a26ae39da9a74f988ced7f72482b950eed4f6a36af97";
