//! What is asked about people: how their calls are taken, how they are heard, and lists of them.

use super::*;

async fn with_bob() -> Home {
    let mut home = home().await;
    home.done("contact.add", json!({ "did": did_of(2), "name": "Bob" })).await;
    home
}

#[tokio::test]
async fn how_a_contacts_calls_are_taken_is_kept_and_told_once() {
    let mut home = with_bob().await;
    for (name, policy) in [("contact.allow", "allow"), ("contact.block", "block"), ("contact.ask", "ask")] {
        for _ in 0..2 {
            assert_eq!(home.done(name, json!({ "who": "bob" })).await["policy"], policy);
        }
    }
    home.done("contact.block", json!({ "who": did_of(2) })).await;
    let told = home.events().await.into_iter().filter(|event| event["event"] == "contacts_changed").count();
    assert_eq!(told, 5, "added, and changed four times");
    assert_eq!(home.refusal("call.offer", json!({ "who": ["bob"] })).await, "blocked");
    let mut home = home.killed_and_started().await;
    assert_eq!(home.done("contact.list", json!({})).await["contacts"][0]["policy"], "block");
    assert_eq!(
        home.refusal("call.offer", json!({ "who": ["bob"] })).await,
        "blocked",
        "the core knows it from its start"
    );
}

#[tokio::test]
async fn volume_and_audio_block_are_kept_for_contacts_and_for_others_until_the_daemon_ends() {
    let mut home = with_bob().await;
    let carol = did_of(3);
    for who in ["bob", carol.as_str()] {
        home.done("media.volume", json!({ "who": who, "percent": 30 })).await;
        let heard = home.done("media.block", json!({ "who": who })).await;
        assert_eq!((&heard["volume_percent"], &heard["audio_blocked"]), (&json!(30), &json!(true)));
    }
    let told: Vec<Value> = home.events().await.into_iter().filter(|event| event["event"] == "volume_changed").collect();
    assert_eq!((told.len(), &told[3]["did"], &told[3]["blocked"]), (4, &json!(carol), &json!(true)));
    home.ask(offer(&["bob", carol.as_str()])).await.unwrap();
    let heard = |shown: &Value| -> Vec<(Value, Value)> {
        let all = shown["participants"].as_array().unwrap();
        all.iter().map(|one| (one["volume_percent"].clone(), one["audio_blocked"].clone())).collect()
    };
    assert_eq!(heard(&home.done("call.show", json!({})).await), vec![(json!(30), json!(true)); 2]);
    assert_eq!(home.done("media.unblock", json!({ "who": "bob" })).await["volume_percent"], 30);
    home.done("call.hangup", json!({})).await;

    let mut home = home.killed_and_started().await;
    home.ask(offer(&["bob", carol.as_str()])).await.unwrap();
    let shown = home.done("call.show", json!({})).await;
    let mut after = heard(&shown);
    after.sort_by_key(|(percent, _)| percent.as_u64());
    assert_eq!(after, [(json!(30), json!(false)), (json!(100), json!(false))]);
}

#[tokio::test]
async fn who_gets_a_name_is_heard_as_before() {
    let mut home = home().await;
    home.done("media.volume", json!({ "who": did_of(2), "percent": 40 })).await;
    assert_eq!(home.done("contact.add", json!({ "did": did_of(2), "name": "Bob" })).await["volume_percent"], 40);
    let mut home = home.killed_and_started().await;
    assert_eq!(home.done("contact.list", json!({})).await["contacts"][0]["volume_percent"], 40);
}

#[tokio::test]
async fn an_import_adds_all_or_nothing() {
    let mut home = with_bob().await;
    let carol = json!({ "did": did_of(3), "name": "Carol", "policy": "allow", "volume_percent": 50 });
    let before = home.state().await;
    for (bad, code) in [
        (json!({ "did": did_of(4), "name": "BOB" }), "contact_exists"),
        (json!({ "did": did_of(2), "name": "Robert" }), "contact_exists"),
        (json!({ "did": did_of(3), "name": "Caroline" }), "contact_exists"),
        (json!({ "did": "did:key:zNonsense", "name": "x" }), "bad_did"),
        (json!({ "did": did_of(4), "name": "" }), "bad_name"),
        (json!({ "did": did_of(4), "name": "x", "address": "here" }), "bad_address"),
        (json!({ "did": did_of(4), "name": "x", "volume_percent": 201 }), "bad_volume"),
    ] {
        assert_eq!(home.refusal("contact.import", json!({ "contacts": [carol, bad] })).await, code, "{bad}");
    }
    assert_eq!(home.state().await, before);

    let bob = json!({ "did": did_of(2), "name": "Bob", "policy": "block", "address": "/ip4/192.0.2.7/tcp/4001" });
    let answer = home.done("contact.import", json!({ "contacts": [carol, bob] })).await;
    assert_eq!(answer, json!({ "added": 1, "changed": 1, "unchanged": 0, "renamed": [] }));
    let exported = home.done("contact.export", json!({})).await;
    let [known, new] = [&exported["contacts"][0], &exported["contacts"][1]];
    assert_eq!((&known["policy"], &known["address"]), (&json!("ask"), &bob["address"]), "decisions stay");
    assert_eq!((&new["policy"], &new["volume_percent"]), (&json!("allow"), &json!(50)));
    let again = home.done("contact.import", exported.clone()).await;
    assert_eq!((&again["added"], &again["changed"], &again["unchanged"]), (&json!(0), &json!(0), &json!(2)));
    assert_eq!(home.done("contact.export", json!({})).await, exported);
}

#[tokio::test]
async fn a_contact_is_renamed_by_an_import_only_where_that_was_asked_for_and_it_is_said() {
    let mut home = with_bob().await;
    let robert = json!([{ "did": did_of(2), "name": "Robert" }]);
    assert_eq!(home.refusal("contact.import", json!({ "contacts": robert })).await, "contact_exists");
    let answer = home.done("contact.import", json!({ "contacts": robert, "rename": true })).await;
    assert_eq!(answer["renamed"], json!([{ "did": did_of(2), "from": "Bob", "to": "Robert" }]));
    assert_eq!(home.done("contact.list", json!({})).await["contacts"][0]["name"], "Robert");
}
