//! When the outbox says what again.

use super::*;
use crate::proto::{
    id::{DeviceId, Instance},
    signal::{Sealing, Signal},
};

#[test]
fn who_asks_again_and_again_is_answered_each_time_and_begins_nothing_anew() {
    #[expect(clippy::disallowed_methods, reason = "tests need some instant to start from")]
    let (call, start) = (CallId::from_bytes([0x8f; 16]), Instant::now());
    let body = Body::Leave(Instance { number: 1, device: DeviceId([1; 16]) });
    let signal = Signal { id: MessageId([1; 16]), call, body };
    let outgoing = Outgoing { topic: Topic::Call(call), sealing: Sealing::Pairwise, to: None, signal };
    let mut outbox = Outbox::default();
    outbox.push(outgoing, Persistence::UntilAcked, start);
    let sent = |outbox: &mut Outbox, at: Instant| std::iter::from_fn(|| outbox.poll(at)).count();
    // By then it is repeated at its slowest.
    let mut at = start;
    while at < start + Duration::from_secs(20) {
        sent(&mut outbox, at);
        at = outbox.deadline().unwrap();
    }
    at += Duration::from_secs(1);
    for (hurried, repeated) in [(false, SLOW_REPEAT), (true, FIRST_REPEAT)] {
        sent(&mut outbox, at);
        at += Duration::from_secs(1);
        assert!(if hurried {
            outbox.hurry(at, Persistence::UntilAcked, |_| true)
        } else {
            outbox.say_again(at, |_| true)
        });
        assert_eq!((sent(&mut outbox, at), outbox.deadline()), (1, Some(at + repeated)));
        at += repeated;
    }
}
