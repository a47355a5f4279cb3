//! Every shape of line a client can send, and what it gets.

use super::*;

/// The error that a line gets: number, word, sentence.
fn refused(line: &str) -> (i64, String, String) {
    let refusal = parse(line).expect_err(line).line().expect("an answer");
    let answer: Value = serde_json::from_str(&refusal).expect("JSON");
    assert_eq!(answer["jsonrpc"], "2.0");
    let error = &answer["error"];
    let word = |value: &Value| value.as_str().expect("a text").to_owned();
    (error["code"].as_i64().expect("a number"), word(&error["data"]["code"]), word(&error["message"]))
}

fn request(method: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#)
}

#[test]
fn a_request_is_read_with_its_parameters() {
    let line = r#"{"jsonrpc":"2.0","id":"a","method":"call.offer","params":{"who":["bob"],"request_key":"k"}}"#;
    let ask = Ask::Call {
        method: Method::CallOffer { who: vec!["bob".into()], closed: false },
        request_key: Some("k".into()),
    };
    assert_eq!(parse(line), Ok(Request { id: Some("a".into()), ask }));
}

#[test]
fn parameters_may_be_left_out_where_none_are_needed() {
    for line in [
        r#"{"jsonrpc":"2.0","id":1,"method":"daemon.status"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"daemon.status","params":null}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"daemon.status","params":{}}"#,
    ] {
        let ask = Ask::Call { method: Method::DaemonStatus {}, request_key: None };
        assert_eq!(parse(line), Ok(Request { id: Some(1.into()), ask }));
    }
}

#[test]
fn ids_are_strings_numbers_or_null_and_their_absence_makes_a_notification() {
    for (id, expected) in [
        (r#""id":"x","#, Some(Value::from("x"))),
        (r#""id":-3,"#, Some(Value::from(-3))),
        (r#""id":1.5,"#, Some(Value::from(1.5))),
        (r#""id":null,"#, Some(Value::Null)),
        ("", None),
    ] {
        let line = format!(r#"{{"jsonrpc":"2.0",{id}"method":"daemon.status"}}"#);
        assert_eq!(parse(&line).expect("right").id, expected, "{line}");
    }
    for id in ["true", "[1]", "{}"] {
        let line = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"daemon.status"}}"#);
        assert_eq!(refused(&line).1, "invalid_request", "{line}");
    }
}

#[test]
fn what_is_no_json_is_a_parse_error() {
    for line in ["", "x", "{", r#"{"jsonrpc":"2.0","id":1,"method":"daemon.status"} x"#, "\u{0}"] {
        let (number, word, _) = refused(line);
        assert_eq!((number, word.as_str()), (-32700, "parse_error"), "{line:?}");
    }
    assert_eq!(refused(&"[".repeat(10_000)).1, "parse_error", "nesting has an end");
}

#[test]
fn what_is_no_request_is_an_invalid_request() {
    for line in [
        "null",
        "3",
        r#""x""#,
        "{}",
        r#"{"jsonrpc":"1.0","id":1,"method":"daemon.status"}"#,
        r#"{"id":1,"method":"daemon.status"}"#,
        r#"{"jsonrpc":"2.0","id":1}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":3}"#,
    ] {
        let (number, word, _) = refused(line);
        assert_eq!((number, word.as_str()), (-32600, "invalid_request"), "{line}");
    }
    let (number, word, message) = refused(r#"[{"jsonrpc":"2.0","id":1,"method":"daemon.status"}]"#);
    assert_eq!((number, word.as_str()), (-32600, "invalid_request"));
    assert_eq!(message, "batches are not supported; send one request a line");
}

#[test]
fn an_unknown_method_names_the_nearest() {
    let (number, word, message) = refused(&request("call.ofer", "{}"));
    assert_eq!((number, word.as_str()), (-32601, "unknown_method"));
    assert_eq!(message, "there is no method call.ofer; did you mean call.offer?");
    assert!(refused(&request("event.watch", "{}")).2.ends_with("did you mean events.watch?"));
    assert!(refused(&request(&"x".repeat(60_000), "{}")).2.len() < 200, "a long name is not sent back whole");
}

#[test]
fn bad_parameters_say_what_is_wrong() {
    for (method, params, message) in [
        ("call.offer", "{}", "call.offer: missing field `who`"),
        ("call.offer", r#"{"who":[1]}"#, "call.offer: invalid type: integer `1`, expected a string"),
        ("call.show", r#"{"cal":"x"}"#, "call.show: unknown field `cal`, expected `call`"),
        ("daemon.status", r#"["x"]"#, "daemon.status: params must be an object, such as {\"who\": [\"bob\"]}"),
        ("daemon.status", "3", "daemon.status: params must be an object, such as {\"who\": [\"bob\"]}"),
        ("media.mute", r#"{"request_key":3}"#, "media.mute: request_key must be a string of 1 to 128 characters"),
        ("media.mute", r#"{"request_key":""}"#, "media.mute: request_key must be a string of 1 to 128 characters"),
        ("events.watch", r#"{"since":-1}"#, "events.watch: since must be the seq of an event"),
        ("events.watch", r#"{"from":1}"#, "events.watch: unknown field `from`, expected `since`"),
    ] {
        let (number, word, found) = refused(&request(method, params));
        assert_eq!((number, word.as_str(), found.as_str()), (-32602, "bad_params", message));
    }
}

#[test]
fn a_refusal_never_repeats_all_of_what_was_sent() {
    let long = "é".repeat(20_000);
    for (method, params) in [
        ("call.offer", format!(r#"{{"who":"{long}"}}"#)),
        ("events.mark", format!(r#"{{"seq":"{long}"}}"#)),
        ("call.join", format!(r#"{{"{long}":1}}"#)),
        ("events.watch", format!(r#"{{"{long}":1}}"#)),
        (long.as_str(), "{}".to_owned()),
    ] {
        let (_, _, message) = refused(&request(method, &params));
        assert!(message.chars().count() < 400 && message.contains("éé"), "{} characters", message.chars().count());
    }
}

#[test]
fn a_bad_notification_gets_no_answer() {
    for line in [r#"{"jsonrpc":"2.0","method":"call.ofer"}"#, r#"{"jsonrpc":"2.0","method":"call.offer","params":{}}"#]
    {
        assert_eq!(parse(line).expect_err(line).line(), None, "{line}");
    }
}

#[test]
fn an_answer_repeats_the_id_and_has_a_result_or_an_error_with_a_stable_word() {
    let done = answer_line(&"a".into(), Ok(json!({ "call": "c" })));
    assert_eq!(done, r#"{"id":"a","jsonrpc":"2.0","result":{"call":"c"}}"#);
    let failure = Failure { code: "no_such_call".into(), message: "there is no such call\n\u{1b}".into() };
    let failed = answer_line(&7.into(), Err(failure));
    assert!(!failed.contains('\n') && !failed.contains('\u{1b}'), "one line, escaped: {failed}");
    let failed: Value = serde_json::from_str(&failed).expect("JSON");
    assert_eq!((&failed["id"], &failed["error"]["code"]), (&7.into(), &(-32000).into()));
    assert_eq!(failed["error"]["data"]["code"], "no_such_call");
}

#[test]
fn an_answer_that_is_too_long_says_so() {
    let long = answer_line(&1.into(), Ok(Value::from("x".repeat(MAX_ANSWER_BYTES))));
    assert!(long.contains("answer_too_long") && long.len() < 300, "{}", long.len());
}
