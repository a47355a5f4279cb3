//! What was dropped, and how often. Dropping is silent on the wire.

use std::sync::atomic::{AtomicU64, Ordering};

/// One number that only grows.
#[derive(Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The live numbers.
        #[derive(Default)]
        pub(super) struct Counters { $(pub $name: Counter,)* }

        /// How often the network dropped something since the start.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
        pub struct NetCounters { $($(#[$doc])* pub $name: u64,)* }

        impl Counters {
            pub fn snapshot(&self) -> NetCounters {
                NetCounters { $($name: self.$name.0.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Messages handed over.
    delivered,
    /// Messages dropped because the daemon did not read its events fast enough.
    events_full,
    /// Commands dropped because their queue was full.
    commands_full,
    /// Messages, in or out, above the limit of a sealed message.
    oversize,
    /// Messages of topics that this node is not subscribed to.
    unsubscribed,
    /// Messages above a peer's (or all strangers') budget.
    over_budget,
    /// Told subscriptions to topics that this node has nothing to do with, while too many others waited.
    subscriptions_dropped,
    /// Messages that could not be sent although somebody was there to receive them.
    unsent,
}
