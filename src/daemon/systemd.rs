//! What systemd is told where it started the daemon (`Type=notify`): ready, stopping, and that the loop still turns.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tracing::debug;

/// The daemon serves its clients.
pub(super) fn ready() {
    notify(NotifyState::Ready);
}

/// The daemon leaves its calls.
pub(super) fn stopping() {
    notify(NotifyState::Stopping);
}

/// Oftener than this nobody is told: a mistake in the unit must not keep the loop busy with nothing else.
const SOONEST: Duration = Duration::from_millis(10);

/// Tells systemd from the loop that the loop is alive (`WatchdogSec=`): when it hangs, systemd starts the daemon again.
#[derive(Debug)]
pub(super) struct Watchdog {
    /// Half of the time after which systemd loses patience, as sd_watchdog_enabled(3) advises; `None`: nobody waits for it.
    every: Option<Duration>,
    due: Instant,
}

impl Watchdog {
    /// `patience`: how long systemd waits, from the environment that it set; nothing and for ever are no watchdog, as in
    /// sd_watchdog_enabled(3).
    pub(super) fn new(patience: Option<Duration>, now: Instant) -> Self {
        let patience = patience.filter(|patience| !patience.is_zero() && *patience < Duration::from_micros(u64::MAX));
        Self { every: patience.map(|patience| (patience / 2).max(SOONEST)), due: now }
    }

    /// When [`Self::feed`] has something to do.
    pub(super) fn due(&self) -> Option<Instant> {
        self.every.map(|_| self.due)
    }

    /// Says that the loop turns, if it is time for it.
    pub(super) fn feed(&mut self, now: Instant) {
        if self.is_fed(now) {
            notify(NotifyState::Watchdog);
        }
    }

    fn is_fed(&mut self, now: Instant) -> bool {
        let Some(every) = self.every.filter(|_| now >= self.due) else { return false };
        self.due = now + every;
        true
    }
}

/// How long systemd waits for a sign of life.
pub(super) fn watchdog_patience() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        debug!(%error, "systemd could not be told");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_is_fed_twice_in_its_time_and_only_where_there_is_one() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut watchdog = Watchdog::new(Some(Duration::from_secs(30)), start);
        let fed: Vec<u64> = (0..60).map(|s| s * 1_000).filter(|ms| watchdog.is_fed(at(*ms))).collect();
        assert_eq!(fed, [0, 15_000, 30_000, 45_000]);
        assert_eq!(watchdog.due(), Some(at(60_000)));
        let mut none = Watchdog::new(None, start);
        assert_eq!((none.is_fed(at(60_000)), none.due()), (false, None));
    }

    #[test]
    fn a_patience_that_cannot_be_meant_keeps_nobody_busy() {
        let start = Instant::now();
        for never in [0, u64::MAX] {
            assert_eq!(Watchdog::new(Some(Duration::from_micros(never)), start).due(), None, "{never} µs");
        }
        let mut hasty = Watchdog::new(Some(Duration::from_micros(1)), start);
        assert!(hasty.is_fed(start));
        assert_eq!(hasty.due(), Some(start + SOONEST));
    }
}
