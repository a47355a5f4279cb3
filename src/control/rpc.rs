//! JSON-RPC 2.0 (<https://www.jsonrpc.org/specification>) as lines: a client's line becomes a request or the error that
//! it gets; answers and events become lines. Pure functions; what a request means is not known here.

use serde_json::{Map, Value, json};

use super::wire::{EventRecord, Failure, Method};
use crate::text::cut;

/// Longest line that a client may send, its newline apart.
pub const MAX_REQUEST_BYTES: usize = 64 * 1024;
/// Longest answer: what a client must be ready to buffer when it asks for a long list.
pub const MAX_ANSWER_BYTES: usize = 1024 * 1024;
/// Longest `request_key`.
const MAX_KEY_CHARS: usize = 128;
/// Longest sentence of the parser on parameters that do not fit; those about known words are shorter.
const MAX_CAUSE_CHARS: usize = 256;

/// JSON-RPC's own error numbers (specification, §5.1); everything else is `APPLICATION`.
const PARSE_ERROR: i32 = -32700;
const INVALID_REQUEST: i32 = -32600;
const METHOD_NOT_FOUND: i32 = -32601;
const INVALID_PARAMS: i32 = -32602;
/// The request was understood and not done; `data.code` says why in one stable word.
const APPLICATION: i32 = -32000;

/// A line that can be carried out.
#[derive(Debug, PartialEq)]
pub struct Request {
    /// What the answer repeats; `None`: a notification, which gets no answer.
    pub id: Option<Value>,
    /// What is asked.
    pub ask: Ask,
}

/// What a request asks for.
#[derive(Debug, PartialEq)]
pub enum Ask {
    /// Everything but `events.watch`.
    Call {
        /// Name and parameters.
        method: Method,
        /// The same key again returns the first answer.
        request_key: Option<String>,
    },
    /// `events.watch`
    Watch {
        /// Replay from the event after this one.
        since: Option<u64>,
    },
}

/// A line that cannot be carried out.
#[derive(Debug, PartialEq)]
pub struct Refusal {
    /// The request's id as far as it could be read; `None`: a notification, so nobody is told.
    id: Option<Value>,
    number: i32,
    code: &'static str,
    message: String,
}

impl Refusal {
    fn new(id: Option<Value>, number: i32, code: &'static str, message: impl Into<String>) -> Self {
        Self { id, number, code, message: message.into() }
    }

    /// For a line longer than [`MAX_REQUEST_BYTES`].
    pub fn line_too_long() -> Self {
        let message = format!("a request is one line of at most {MAX_REQUEST_BYTES} bytes; this one was skipped");
        Self::new(Some(Value::Null), INVALID_REQUEST, "line_too_long", message)
    }

    /// For a line that is not UTF-8.
    pub fn not_utf8() -> Self {
        Self::new(Some(Value::Null), PARSE_ERROR, "parse_error", "a request is one line of JSON in UTF-8")
    }

    /// For a request that stands alone on the connection and was made again.
    pub fn already_watching(id: Option<Value>) -> Self {
        let message = "this connection watches already; open another one to watch from somewhere else";
        Self::new(id, APPLICATION, "already_watching", message)
    }

    /// The line that tells the client; `None` when it did not ask for an answer.
    pub fn line(self) -> Option<String> {
        let id = self.id?;
        Some(error_line(&id, self.number, self.code, &self.message))
    }
}

/// Reads one line.
pub fn parse(line: &str) -> Result<Request, Refusal> {
    let null = || Some(Value::Null);
    let value: Value = serde_json::from_str(line).map_err(|error| {
        Refusal::new(null(), PARSE_ERROR, "parse_error", format!("a request is one line of JSON: {error}"))
    })?;
    let mut object = match value {
        Value::Object(object) => object,
        Value::Array(_) => {
            let message = "batches are not supported; send one request a line";
            return Err(Refusal::new(null(), INVALID_REQUEST, "invalid_request", message));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            let message = "a request is a JSON object with jsonrpc, id, method and params";
            return Err(Refusal::new(null(), INVALID_REQUEST, "invalid_request", message));
        }
    };
    let id = match object.remove("id") {
        None => None,
        Some(id @ (Value::String(_) | Value::Number(_) | Value::Null)) => Some(id),
        Some(Value::Bool(_) | Value::Array(_) | Value::Object(_)) => {
            let message = "id must be a string, a number or null";
            return Err(Refusal::new(null(), INVALID_REQUEST, "invalid_request", message));
        }
    };
    if object.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
        let message = "the request needs \"jsonrpc\":\"2.0\"";
        return Err(Refusal::new(id.or_else(null), INVALID_REQUEST, "invalid_request", message));
    }
    let Some(Value::String(method)) = object.remove("method") else {
        let message = "the request needs a method, such as \"daemon.status\"";
        return Err(Refusal::new(id.or_else(null), INVALID_REQUEST, "invalid_request", message));
    };
    let params = match object.remove("params") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(params)) => params,
        Some(Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) => {
            return Err(bad_params(id, &method, "params must be an object, such as {\"who\": [\"bob\"]}"));
        }
    };
    match read_ask(&method, params) {
        Ok(ask) => Ok(Request { id, ask }),
        Err(Unread::Method(message)) => Err(Refusal::new(id, METHOD_NOT_FOUND, "unknown_method", message)),
        Err(Unread::Params(message)) => Err(bad_params(id, &method, &message)),
    }
}

fn bad_params(id: Option<Value>, method: &str, message: &str) -> Refusal {
    Refusal::new(id, INVALID_PARAMS, "bad_params", format!("{}: {message}", short(method)))
}

enum Unread {
    Method(String),
    Params(String),
}

fn read_ask(method: &str, mut params: Map<String, Value>) -> Result<Ask, Unread> {
    if method == "events.watch" {
        let since = match params.remove("since") {
            None | Some(Value::Null) => None,
            Some(since) => {
                Some(since.as_u64().ok_or_else(|| Unread::Params("since must be the seq of an event".into()))?)
            }
        };
        return match params.keys().next() {
            None => Ok(Ask::Watch { since }),
            Some(key) => Err(Unread::Params(format!("unknown field `{}`, expected `since`", short(key)))),
        };
    }
    if !Method::NAMES.contains(&method) {
        return Err(Unread::Method(unknown_method(method)));
    }
    let request_key = match params.remove("request_key") {
        None | Some(Value::Null) => None,
        Some(Value::String(key)) if (1..=MAX_KEY_CHARS).contains(&key.chars().count()) => Some(key),
        Some(_) => {
            return Err(Unread::Params(format!("request_key must be a string of 1 to {MAX_KEY_CHARS} characters")));
        }
    };
    let method = serde_json::from_value(json!({ "method": method, "params": params }));
    // The parser repeats a word that it does not know, however long that is.
    let cause = |error: serde_json::Error| Unread::Params(cut(&error.to_string(), MAX_CAUSE_CHARS));
    method.map(|method| Ask::Call { method, request_key }).map_err(cause)
}

fn unknown_method(method: &str) -> String {
    let names = Method::NAMES.iter().copied().chain(["events.watch"]);
    let known = names.map(|name| (strsim::jaro_winkler(short(method).as_str(), name), name));
    let nearest = known.max_by(|a, b| a.0.total_cmp(&b.0)).map_or("daemon.status", |(_, name)| name);
    format!("there is no method {}; did you mean {nearest}?", short(method))
}

/// A client's own words in an error: enough to recognise them, never all of 64 KiB.
fn short(text: &str) -> String {
    cut(text, 64)
}

/// The line that answers a request.
pub fn answer_line(id: &Value, answer: Result<Value, Failure>) -> String {
    let result = match answer {
        Ok(result) => result,
        Err(failure) => return failure_line(id, &failure),
    };
    let line = json!({ "jsonrpc": "2.0", "id": id, "result": result }).to_string();
    if line.len() <= MAX_ANSWER_BYTES {
        return line;
    }
    let message = format!("the answer would be {} bytes long; at most {MAX_ANSWER_BYTES} are sent", line.len());
    error_line(id, APPLICATION, "answer_too_long", &message)
}

/// The line that says why a request was not done, or (with id null) why a client is not served.
pub fn failure_line(id: &Value, failure: &Failure) -> String {
    error_line(id, APPLICATION, &failure.code, &failure.message)
}

fn error_line(id: &Value, number: i32, code: &str, message: &str) -> String {
    let error = json!({ "code": number, "message": message, "data": { "code": code } });
    json!({ "jsonrpc": "2.0", "id": id, "error": error }).to_string()
}

/// The line that tells a watcher of an event.
pub fn event_line(record: &EventRecord) -> String {
    json!({ "jsonrpc": "2.0", "method": "event", "params": record }).to_string()
}

/// The last line that a watcher gets when it did not read fast enough.
pub fn lagged_line() -> String {
    let message = "too many events waited to be read; connect again and watch since the last seq you saw";
    json!({ "jsonrpc": "2.0", "method": "lagged", "params": { "message": message } }).to_string()
}

#[cfg(test)]
mod tests;
