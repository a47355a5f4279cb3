//! The same `request_key` again gets the first answer: a double click, or a client that asks again after a lost answer, never makes
//! two calls.
//!
//! The last [`KEPT`] answers are kept while the daemon runs; older keys are forgotten, oldest first. A failure is an answer too: whoever wants to try
//! again takes a new key. Requests are kept as hashes, so that a key costs the same whatever was asked.

use std::collections::{BTreeMap, VecDeque};

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::control::wire::{Failure, Method};

/// Answers that are kept.
const KEPT: usize = 1024;

/// An answer to a client.
pub(super) type Answer = Result<Value, Failure>;

/// The answers that were given under a key.
#[derive(Debug, Default)]
pub(super) struct Answers {
    by_key: BTreeMap<String, ([u8; 32], Answer)>,
    oldest_first: VecDeque<String>,
}

impl Answers {
    /// The first answer under this key (its length was checked at the socket), or why it cannot be used; `None`: it is new.
    pub(super) fn first(&self, key: &str, method: &Method) -> Option<Answer> {
        let (asked, answer) = self.by_key.get(key)?;
        if *asked != hash(method) {
            let message = "this request_key belongs to another request; take a new key for each request";
            return Some(Err(Failure::new("request_key_reused", message)));
        }
        Some(answer.clone())
    }

    /// Keeps the answer to a new request.
    pub(super) fn keep(&mut self, key: String, method: &Method, answer: Answer) {
        if self.by_key.insert(key.clone(), (hash(method), answer)).is_none() {
            self.oldest_first.push_back(key);
        }
        if self.oldest_first.len() > KEPT
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.by_key.remove(&oldest);
        }
    }
}

fn hash(method: &Method) -> [u8; 32] {
    // A method came from JSON and goes back to it; should that ever fail, `Debug` tells requests apart as well.
    let text = serde_json::to_string(method).unwrap_or_else(|_| format!("{method:?}"));
    Sha256::digest(text).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(who: &str) -> Method {
        Method::CallOffer { who: vec![who.into()] }
    }

    #[test]
    fn the_same_key_gets_the_first_answer() {
        let mut answers = Answers::default();
        assert_eq!(answers.first("k", &offer("bob")), None);
        answers.keep("k".into(), &offer("bob"), Ok(1.into()));
        assert_eq!(answers.first("k", &offer("bob")), Some(Ok(1.into())));
        assert_eq!(answers.first("l", &offer("bob")), None);
    }

    #[test]
    fn a_failure_is_an_answer_too() {
        let mut answers = Answers::default();
        let failure = Failure::new("in_a_call", "another call is active");
        answers.keep("k".into(), &offer("bob"), Err(failure.clone()));
        assert_eq!(answers.first("k", &offer("bob")), Some(Err(failure)));
    }

    #[test]
    fn a_key_of_another_request_is_refused() {
        let mut answers = Answers::default();
        answers.keep("k".into(), &offer("bob"), Ok(1.into()));
        let refused = answers.first("k", &offer("carol")).unwrap().unwrap_err();
        assert_eq!(refused.code, "request_key_reused");
    }

    #[test]
    fn keys_are_bounded_in_number() {
        let mut answers = Answers::default();
        for at in 0..=KEPT {
            answers.keep(at.to_string(), &offer("bob"), Ok(at.into()));
        }
        assert_eq!((answers.by_key.len(), answers.oldest_first.len()), (KEPT, KEPT));
        assert_eq!(answers.first("0", &offer("bob")), None);
        assert_eq!(answers.first("1", &offer("bob")), Some(Ok(1.into())));
    }
}
