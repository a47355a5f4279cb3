//! Recordings whose files take their time, which the loop does not wait for.

use std::path::PathBuf;

use super::*;
use crate::audio::AudioEvent;

/// For what takes a moment; who waits longer waits for ever.
const PATIENCE: Duration = Duration::from_secs(60);

type Answer = oneshot::Receiver<Result<Value, Failure>>;

impl Home {
    /// Asks for a recording of the active call; the answer comes when the files are there.
    fn record(&mut self, request_key: Option<&str>) -> Answer {
        self.begin(method("media.record", json!({})), request_key)
    }

    /// Asks for its end; the answer comes when its files are closed.
    fn stop(&mut self, request_key: Option<&str>) -> Answer {
        self.begin(method("media.stop_record", json!({})), request_key)
    }

    /// A call that is recorded, and the directory.
    async fn recorded(&mut self) -> (Value, PathBuf) {
        let call = self.ask(offer(&[did_of(2).as_str()])).await.unwrap()["call"].clone();
        let answer = self.record(None);
        self.until_made().await;
        let directory = answer.await.unwrap().unwrap()["directory"].as_str().unwrap().into();
        (call, directory)
    }

    /// Lets the loop see that they are.
    async fn until_made(&mut self) {
        let made = async {
            loop {
                let event = self.doors.audio.recv().await.unwrap();
                self.daemon.audio_event(event, now());
                if event == AudioEvent::RecordingMade {
                    return;
                }
            }
        };
        timeout(PATIENCE, made).await.expect("the files are made");
    }

    /// Waits until no recording has left anything behind.
    async fn until_nothing_is_left(&self) {
        let gone = async {
            while std::fs::read_dir(&self.daemon.recordings).unwrap().count() > 0 {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, gone).await.expect("the files go");
    }
}

#[tokio::test]
async fn while_the_files_of_a_recording_are_made_the_daemon_goes_on() {
    let mut home = home().await;
    home.ask(offer(&[did_of(2).as_str()])).await.unwrap();
    let mut first = home.record(Some("click"));
    assert!(first.try_recv().is_err(), "the files are not there yet, as far as the loop knows");
    assert_eq!(home.done("daemon.status", json!({})).await["recording"], Value::Null);
    assert_eq!(home.record(None).try_recv().unwrap().unwrap_err().code, "try_again");
    home.until_made().await;
    let first = first.await.unwrap().unwrap();
    assert_eq!(home.done("daemon.status", json!({})).await["recording"]["directory"], first["directory"]);
    assert_eq!(home.record(None).try_recv().unwrap().unwrap(), first, "once more, without new files");
    home.done("media.stop_record", json!({})).await;
    assert_eq!(home.record(Some("click")).try_recv().unwrap().unwrap(), first, "the first answer under this key");
    assert_eq!(home.done("daemon.status", json!({})).await["recording"], Value::Null);
}

#[tokio::test]
async fn a_call_that_is_over_when_its_files_are_there_is_not_recorded() {
    let mut home = home().await;
    home.ask(offer(&[did_of(2).as_str()])).await.unwrap();
    let answer = home.record(None);
    home.done("call.hangup", json!({})).await;
    home.until_made().await;
    assert_eq!(answer.await.unwrap().unwrap_err().code, "no_such_call");
    home.until_nothing_is_left().await;
}

#[tokio::test]
async fn a_recording_that_is_stopped_while_its_files_are_made_never_begins() {
    let mut home = home().await;
    let call = home.ask(offer(&[did_of(2).as_str()])).await.unwrap()["call"].clone();
    let mut first = home.record(None);
    assert_eq!(home.done("media.stop_record", json!({})).await, json!({ "call": call, "directory": null }));
    assert_eq!(first.try_recv().unwrap().unwrap_err().code, "not_recording");
    assert_eq!(home.refusal("media.stop_record", json!({})).await, "not_recording");
    assert_eq!(home.record(None).try_recv().unwrap().unwrap_err().code, "try_again", "these files come first");
    home.until_made().await;
    assert_eq!(home.done("daemon.status", json!({})).await["recording"], Value::Null);
    home.until_nothing_is_left().await;
    let again = home.record(None);
    home.until_made().await;
    let again = again.await.unwrap().unwrap();
    assert_eq!(home.done("daemon.status", json!({})).await["recording"]["directory"], again["directory"]);
}

#[tokio::test]
async fn nothing_is_recorded_for_a_client_that_is_gone() {
    let mut home = home().await;
    home.ask(offer(&[did_of(2).as_str()])).await.unwrap();
    drop(home.record(Some("click")));
    home.until_made().await;
    assert_eq!(home.done("daemon.status", json!({})).await["recording"], Value::Null);
    home.until_nothing_is_left().await;
}

#[tokio::test]
async fn a_double_click_while_the_files_are_made_gets_one_answer() {
    let mut home = home().await;
    home.ask(offer(&[did_of(2).as_str()])).await.unwrap();
    drop(home.record(Some("click")));
    let (mut second, mut third) = (home.record(Some("click")), home.record(Some("click")));
    assert!(second.try_recv().is_err() && third.try_recv().is_err(), "both wait, though the first client is gone");
    let mut other = home.record(Some("another click"));
    assert_eq!(other.try_recv().unwrap().unwrap_err().code, "try_again");
    home.until_made().await;
    let made = second.await.unwrap().unwrap();
    assert_eq!(third.await.unwrap().unwrap(), made);
    assert_eq!(home.record(Some("click")).try_recv().unwrap().unwrap(), made, "the first answer under this key");
    let other = home.record(Some("another click")).try_recv().unwrap();
    assert_eq!(other.unwrap(), made, "`try_again` was no answer that a key keeps");
}

#[tokio::test]
async fn who_stops_a_recording_is_answered_when_its_files_are_closed() {
    let mut home = home().await;
    let (call, directory) = home.recorded().await;
    assert!(directory.exists());
    let (mut first, mut second) = (home.stop(Some("stop")), home.stop(Some("stop")));
    assert!(first.try_recv().is_err() && second.try_recv().is_err(), "as far as the loop knows, they are open");
    assert_eq!(home.done("daemon.status", json!({})).await["recording"], Value::Null);
    assert_eq!(home.record(None).try_recv().unwrap().unwrap_err().code, "try_again", "one after the other");
    let answer = home.answered(first).await.unwrap();
    assert_eq!(answer, json!({ "call": call, "directory": null }), "nobody was there who could be heard");
    assert!(!directory.exists());
    assert_eq!(second.await.unwrap().unwrap(), answer);
    assert_eq!(home.stop(Some("stop")).try_recv().unwrap().unwrap(), answer, "the first answer under this key");
    assert_eq!(home.refusal("media.stop_record", json!({})).await, "not_recording");
}

#[tokio::test]
async fn a_disk_that_hangs_holds_the_end_of_a_recording_up_for_a_while_only() {
    let mut home = home().await;
    home.recorded().await;
    let mut answer = home.stop(None);
    let late = |by: Duration| Now { mono: Instant::now() + by, ..now() };
    home.daemon.recording_late(late(Duration::from_secs(4)));
    assert!(answer.try_recv().is_err());
    home.daemon.recording_late(late(Duration::from_secs(5)));
    assert_eq!(answer.try_recv().unwrap().unwrap_err().code, "not_writable");
    let again = home.record(None);
    home.until_made().await;
    assert!(again.await.unwrap().is_ok(), "the next one does not wait for it");
}

#[tokio::test]
async fn a_key_that_waits_for_the_disk_is_no_other_requests() {
    let mut home = home().await;
    home.ask(offer(&[did_of(2).as_str()])).await.unwrap();
    let answer = home.record(Some("click"));
    let elsewhere = method("media.record", json!({ "directory": "/elsewhere" }));
    for other in [method("media.mute", json!({})), elsewhere, method("media.stop_record", json!({}))] {
        let refused = home.begin(other, Some("click")).try_recv().unwrap().unwrap_err();
        assert_eq!(refused.code, "request_key_reused");
    }
    assert_eq!(home.done("daemon.status", json!({})).await["muted"], false);
    home.until_made().await;
    assert!(answer.await.unwrap().is_ok());
    let stopped = home.stop(Some("stop"));
    let refused = home.begin(method("media.mute", json!({})), Some("stop")).try_recv().unwrap().unwrap_err();
    assert_eq!(refused.code, "request_key_reused");
    assert!(home.answered(stopped).await.is_ok());
}

#[tokio::test]
async fn a_recording_that_ended_since_the_daemon_was_killed_is_told_of_once() {
    let mut home = home().await;
    home.recorded().await;
    for recorded in [true, false] {
        home = home.killed_and_started().await;
        let problem = home.ask(method("daemon.status", json!({}))).await.unwrap()["recording_problem"].clone();
        assert_eq!(
            problem.as_str().is_some_and(|problem| problem.contains("telecon was killed")),
            recorded,
            "{problem}"
        );
    }
}
