//! Where sound comes from and goes to, as the engine sees it; and the backend that is nothing at all.

use std::{
    sync::OnceLock,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use super::{BLOCK_SAMPLES, Block, SAMPLE_RATE_HZ};

/// 10 ms.
pub const BLOCK: Duration = Duration::from_millis(BLOCK_SAMPLES as u64 * 1000 / SAMPLE_RATE_HZ as u64);
/// A microphone that falls this far behind skips, so that the delay does not stay.
const MAX_BACKLOG_BLOCKS: u64 = 10;

/// Wakes the audio thread; neither locks nor allocates.
#[derive(Clone)]
pub struct Waker(std::thread::Thread);

impl Waker {
    /// Wakes the thread that calls this.
    pub fn here() -> Self {
        Self(std::thread::current())
    }

    /// Ends its sleep, or its next one.
    pub fn wake(&self) {
        self.0.unpark();
    }
}

/// An open microphone. Closing is dropping.
pub trait Capture: Send {
    /// Fills `block` with the next 10 ms when they were captured by `now`.
    fn read(&mut self, block: &mut Block, now: Instant) -> bool;
    /// When the next block will be there; `None` when a callback wakes the thread.
    fn due(&self) -> Option<Instant>;
    /// How old the last sample of a block is when it is read, in ms.
    fn delay_ms(&self) -> f64 {
        0.0
    }
    /// Unix time at which sample 0 of the file was captured, in µs.
    fn started_unix_us(&self) -> Option<u64> {
        None
    }
    /// It does not only exist: sound flows.
    fn flows(&self) -> bool {
        true
    }
    /// Why it does not work any more.
    fn broken(&mut self) -> Option<String> {
        None
    }
}

/// An open speaker. Closing is dropping.
pub trait Playback: Send {
    /// Another block should be mixed now.
    fn wants(&mut self, now: Instant) -> bool;
    /// Takes the next 10 ms.
    fn play(&mut self, block: &Block);
    /// When it next wants a block; `None` when a callback wakes the thread.
    fn due(&self) -> Option<Instant>;
    /// Sound that is on its way from here to the ear, in ms: what waits for the device to ask, and what it has.
    fn delays_ms(&self) -> (f64, f64) {
        (0.0, 0.0)
    }
    /// All of it.
    fn delay_ms(&self) -> f64 {
        let (waiting_ms, device_ms) = self.delays_ms();
        waiting_ms + device_ms
    }
    /// Unix time at which sample 0 of the file was played, in µs.
    fn started_unix_us(&self) -> Option<u64> {
        None
    }
    /// It does not only exist: sound flows.
    fn flows(&self) -> bool {
        true
    }
    /// Why it does not work any more.
    fn broken(&mut self) -> Option<String> {
        None
    }
}

/// Ticks every 10 ms of the monotonic clock, with absolute deadlines: it never drifts.
pub struct Pace {
    next: Instant,
}

impl Pace {
    /// The first tick is at `first`.
    pub fn new(first: Instant) -> Self {
        Self { next: first }
    }

    /// Ticks from about now on together with all others of this kind, so that one wake serves both directions.
    fn together() -> Self {
        static EPOCH: OnceLock<Instant> = OnceLock::new();
        let epoch = *EPOCH.get_or_init(Instant::now);
        let passed = epoch.elapsed().as_nanos() / BLOCK.as_nanos() + 1;
        Self::new(epoch + BLOCK * u32::try_from(passed).unwrap_or(0))
    }

    /// When the next tick is.
    pub fn due(&self) -> Instant {
        self.next
    }

    /// Takes one tick when it is due.
    pub fn tick(&mut self, now: Instant) -> bool {
        let due = now >= self.next;
        if due {
            self.next += BLOCK;
        }
        due
    }

    /// Skips ticks that are long overdue; returns how many.
    pub fn catch_up(&mut self, now: Instant) -> u64 {
        let behind = (now.saturating_duration_since(self.next).as_nanos() / BLOCK.as_nanos()) as u64;
        if behind <= MAX_BACKLOG_BLOCKS {
            return 0;
        }
        self.next += BLOCK * u32::try_from(behind).unwrap_or(u32::MAX);
        behind
    }
}

/// A microphone that hears nothing.
pub struct Silence(Pace);

impl Silence {
    /// Begins to capture silence now.
    pub fn new() -> Self {
        Self(Pace::together())
    }
}

impl Capture for Silence {
    fn read(&mut self, block: &mut Block, now: Instant) -> bool {
        self.0.catch_up(now);
        block.fill(0.0);
        self.0.tick(now)
    }

    fn due(&self) -> Option<Instant> {
        Some(self.0.due())
    }
}

/// A speaker that nobody hears; it still consumes in real time.
pub struct Nowhere(Pace);

impl Nowhere {
    /// Begins to consume now.
    pub fn new() -> Self {
        Self(Pace::together())
    }
}

impl Playback for Nowhere {
    fn wants(&mut self, now: Instant) -> bool {
        self.0.catch_up(now);
        self.0.tick(now)
    }

    fn play(&mut self, _block: &Block) {}

    fn due(&self) -> Option<Instant> {
        Some(self.0.due())
    }
}

/// Unix time in µs.
pub fn unix_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_and_nowhere_wake_the_thread_at_the_same_moments() {
        let (Some(heard), Some(played)) = (Silence::new().due(), Nowhere::new().due()) else {
            panic!("they have no clock")
        };
        let apart = heard.max(played) - heard.min(played);
        assert_eq!(apart.as_nanos() % BLOCK.as_nanos(), 0, "{apart:?}");
        assert!(heard.saturating_duration_since(Instant::now()) <= BLOCK);
    }
}
