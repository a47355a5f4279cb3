//! The same `request_key` again gets the first answer: a double click, or a client that asks again after a lost answer, never makes
//! two calls.
//!
//! The last [`KEPT_ANSWERS`] answers of the last day are kept, in memory and in the database, so that a restart does not lose them
//! and a full disk does not either; the oldest are forgotten first. A failure is an answer too: whoever wants to try again takes a
//! new key. Requests are kept as hashes, so that a key costs the same whatever was asked.

use std::collections::VecDeque;

use serde_json::Value;
use sha2::{Digest, Sha256};
use tracing::warn;

use crate::{
    control::wire::{Failure, Method},
    store::{ANSWER_MS, KEPT_ANSWERS, KeptAnswer, Store, StoreError},
};

/// An answer to a client.
pub(super) type Answer = Result<Value, Failure>;

/// The answers that were given under a key.
#[derive(Debug)]
pub(super) struct Answers {
    oldest_first: VecDeque<KeptAnswer>,
}

impl Answers {
    /// Goes on where the database ends.
    pub(super) fn load(store: &Store, now_ms: u64) -> Result<Self, StoreError> {
        Ok(Self { oldest_first: store.answers(now_ms)?.into() })
    }

    /// The first answer under this key (its length was checked at the socket), or why it cannot be used; `None`: it is new.
    pub(super) fn first(&self, key: &str, method: &Method, now_ms: u64) -> Option<Answer> {
        let fresh = |kept: &&KeptAnswer| kept.key == key && now_ms.saturating_sub(kept.time_ms) <= ANSWER_MS;
        let kept = self.oldest_first.iter().find(fresh)?;
        if kept.asked != hash(method) {
            return Some(Err(reused()));
        }
        let unreadable = |_| {
            let message =
                "this request was answered, but the answer cannot be read any more; `telecon status` shows what is";
            Err(Failure::new("internal", message))
        };
        Some(serde_json::from_value(kept.answer.clone()).unwrap_or_else(unreadable))
    }

    /// Keeps the answer to a new request.
    pub(super) fn keep(&mut self, store: &mut Store, key: String, method: &Method, answer: &Answer, now_ms: u64) {
        let json = match serde_json::to_value(answer) {
            Ok(json) => json,
            Err(error) => return warn!(%error, "an answer has no JSON form and is not kept"),
        };
        let kept = KeptAnswer { key, asked: hash(method), answer: json, time_ms: now_ms };
        // The store tells of a disk that fails, and calls go on.
        let _told = store.keep_answer(&kept);
        self.oldest_first.retain(|old| old.key != kept.key);
        self.oldest_first.push_back(kept);
        if self.oldest_first.len() > KEPT_ANSWERS {
            self.oldest_first.pop_front();
        }
    }
}

/// For a key that another request has.
pub(super) fn reused() -> Failure {
    let message = "this request_key belongs to another request; take a new key for each request";
    Failure::new("request_key_reused", message)
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
        Method::CallOffer { who: vec![who.into()], closed: false }
    }

    fn home() -> (tempfile::TempDir, Store, Answers) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let answers = Answers::load(&store, 0).unwrap();
        (dir, store, answers)
    }

    #[test]
    fn the_same_key_gets_the_first_answer_also_after_a_restart() {
        let (dir, mut store, mut answers) = home();
        assert_eq!(answers.first("k", &offer("bob"), 5), None);
        answers.keep(&mut store, "k".into(), &offer("bob"), &Ok(1.into()), 5);
        assert_eq!(answers.first("k", &offer("bob"), 5), Some(Ok(1.into())));
        assert_eq!(answers.first("l", &offer("bob"), 5), None);
        drop(store);
        let answers = Answers::load(&Store::open(dir.path()).unwrap(), 6).unwrap();
        assert_eq!(answers.first("k", &offer("bob"), 6), Some(Ok(1.into())));
        assert_eq!(answers.first("k", &offer("carol"), 6).unwrap().unwrap_err().code, "request_key_reused");
    }

    #[test]
    fn the_same_key_gets_the_first_answer_on_a_full_disk_too() {
        let (_dir, mut store, mut answers) = home();
        store.break_for_tests();
        answers.keep(&mut store, "k".into(), &offer("bob"), &Ok(1.into()), 5);
        assert_eq!(answers.first("k", &offer("bob"), 5), Some(Ok(1.into())));
    }

    #[test]
    fn a_failure_is_an_answer_too() {
        let (dir, mut store, mut answers) = home();
        let failure = Failure::new("too_many_calls", "another call is active");
        answers.keep(&mut store, "k".into(), &offer("bob"), &Err(failure.clone()), 5);
        assert_eq!(answers.first("k", &offer("bob"), 5), Some(Err(failure.clone())));
        drop(store);
        let answers = Answers::load(&Store::open(dir.path()).unwrap(), 6).unwrap();
        assert_eq!(answers.first("k", &offer("bob"), 6), Some(Err(failure)));
    }

    #[test]
    fn a_key_of_another_request_is_refused() {
        let (_dir, mut store, mut answers) = home();
        answers.keep(&mut store, "k".into(), &offer("bob"), &Ok(1.into()), 5);
        let refused = answers.first("k", &offer("carol"), 5).unwrap().unwrap_err();
        assert_eq!(refused.code, "request_key_reused");
    }

    #[test]
    fn keys_are_bounded_in_number_and_age() {
        let (_dir, mut store, mut answers) = home();
        for at in 0..=KEPT_ANSWERS {
            answers.keep(&mut store, at.to_string(), &offer("bob"), &Ok(at.into()), 5);
        }
        assert_eq!(answers.oldest_first.len(), KEPT_ANSWERS);
        assert_eq!(answers.first("0", &offer("bob"), 5), None);
        assert_eq!(answers.first("1", &offer("bob"), 5 + ANSWER_MS), Some(Ok(1.into())));
        assert_eq!(answers.first("1", &offer("bob"), 6 + ANSWER_MS), None);
        assert_eq!(Answers::load(&store, 5 + ANSWER_MS).unwrap().oldest_first, answers.oldest_first);
        assert!(Answers::load(&store, 6 + ANSWER_MS).unwrap().oldest_first.is_empty());
    }
}
