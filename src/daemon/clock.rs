//! Notices that the machine slept, from three clocks that disagree afterwards.
//!
//! Timers run on CLOCK_MONOTONIC, which stands still while the machine sleeps; CLOCK_BOOTTIME does not (clock_gettime(2)). A
//! virtual machine that was paused may show neither, but its wall clock is set forward when it goes on. Nothing here acts on it.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A shorter sleep is nothing that the core's own patience would not cover.
const SLEEP: Duration = Duration::from_secs(2);
/// Corrections of a clock that runs wrong are smaller, but for the first one after the machine started.
const JUMP: Duration = Duration::from_secs(30);

/// All three clocks at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reading {
    /// CLOCK_MONOTONIC
    pub mono: Duration,
    /// CLOCK_BOOTTIME
    pub boot: Duration,
    /// CLOCK_REALTIME
    pub wall: Duration,
}

impl Reading {
    /// What the clocks show now.
    pub(super) fn now() -> Self {
        // None of them is before its epoch, unless somebody sets the wall clock to before 1970.
        let read = |clock| Duration::try_from(clock_gettime(clock)).unwrap_or_default();
        Self { mono: read(ClockId::Monotonic), boot: read(ClockId::Boottime), wall: read(ClockId::Realtime) }
    }

    /// How long the machine slept between `before` and this reading, if it did.
    pub(super) fn slept_since(&self, before: &Self) -> Option<Duration> {
        let awake = self.mono.saturating_sub(before.mono);
        let asleep = self.boot.saturating_sub(before.boot).saturating_sub(awake);
        let jumped = self.wall.saturating_sub(before.wall).saturating_sub(awake);
        if asleep >= SLEEP {
            return Some(asleep);
        }
        (jumped > JUMP).then_some(jumped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Readings in ms since the first.
    fn slept(mono_ms: u64, boot_ms: u64, wall_ms: i64) -> Option<u128> {
        let start = Duration::from_secs(1_000_000);
        let before = Reading { mono: start, boot: start * 2, wall: start * 3 };
        let wall = Duration::from_millis(wall_ms.unsigned_abs());
        let after = Reading {
            mono: before.mono + Duration::from_millis(mono_ms),
            boot: before.boot + Duration::from_millis(boot_ms),
            wall: if wall_ms < 0 { before.wall - wall } else { before.wall + wall },
        };
        after.slept_since(&before).map(|slept| slept.as_millis())
    }

    #[test]
    fn a_sleep_is_what_the_boot_clock_counted_and_the_monotonic_one_did_not() {
        assert_eq!(slept(1_000, 1_000, 1_000), None);
        assert_eq!(slept(1_000, 2_999, 2_999), None);
        assert_eq!(slept(1_000, 3_000, 3_000), Some(2_000));
        assert_eq!(slept(1_000, 8 * 3_600_000, 8 * 3_600_000), Some(8 * 3_600_000 - 1_000));
        assert_eq!(slept(0, 5_000, 0), Some(5_000), "whatever the wall clock shows");
    }

    #[test]
    fn a_wall_clock_that_jumps_forward_by_more_than_half_a_minute_was_a_pause() {
        assert_eq!(slept(1_000, 1_000, 31_000), None);
        assert_eq!(slept(1_000, 1_000, 31_001), Some(30_001));
        assert_eq!(slept(1_000, 1_000, -600_000), None, "backwards it was only wrong");
    }

    #[test]
    fn a_loop_that_was_busy_for_long_did_not_sleep() {
        assert_eq!(slept(120_000, 120_000, 120_000), None);
    }

    #[test]
    fn the_clocks_of_this_machine_go_forward_together() {
        let before = Reading::now();
        assert_eq!(Reading::now().slept_since(&before), None);
    }
}
