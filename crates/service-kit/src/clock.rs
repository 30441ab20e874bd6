//! Time, as something that is passed in.
//!
//! Two clocks, because they answer different questions: wall time goes into documents and may step;
//! boot time goes on while the machine sleeps and never steps, so leases and pacing are measured
//! with it. Invariant: no other file of the workspace asks the operating system for the time of day.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::time::{ClockId, clock_gettime};

pub trait Clock: Send + Sync {
    /// Wall time, microseconds since 1970. May step; never subtract two of these for a lease.
    fn unix_us(&self) -> u64;

    /// Microseconds since boot, counting suspended time. Never steps, never runs backwards.
    fn boot_us(&self) -> u64;
}

impl<C: Clock + ?Sized> Clock for Arc<C> {
    fn unix_us(&self) -> u64 {
        (**self).unix_us()
    }

    fn boot_us(&self) -> u64 {
        (**self).boot_us()
    }
}

/// The clocks of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

/// macOS has no boot-time clock with that name; its monotonic clock counts sleep already.
#[cfg(target_os = "linux")]
const BOOT: ClockId = ClockId::CLOCK_BOOTTIME;
#[cfg(not(target_os = "linux"))]
const BOOT: ClockId = ClockId::CLOCK_MONOTONIC;

impl Clock for SystemClock {
    fn unix_us(&self) -> u64 {
        read(ClockId::CLOCK_REALTIME)
    }

    fn boot_us(&self) -> u64 {
        read(BOOT)
    }
}

fn read(clock: ClockId) -> u64 {
    let at = clock_gettime(clock).expect("both clocks exist on every system that Shoal builds for");
    // Only a wall clock set before 1970 is negative; zero is the nearest truth.
    let secs = u64::try_from(at.tv_sec()).unwrap_or(0);
    let nanos = u64::try_from(at.tv_nsec()).unwrap_or(0);
    secs * 1_000_000 + nanos / 1_000
}

/// A clock that moves only when a test says so. Clones share the same hands.
#[derive(Debug, Clone, Default)]
pub struct TestClock {
    unix: Arc<AtomicU64>,
    boot: Arc<AtomicU64>,
}

impl TestClock {
    pub fn at(unix_us: u64, boot_us: u64) -> Self {
        Self { unix: Arc::new(unix_us.into()), boot: Arc::new(boot_us.into()) }
    }

    /// Time passes: both clocks move.
    pub fn advance(&self, by: std::time::Duration) {
        let us = u64::try_from(by.as_micros()).unwrap_or(u64::MAX);
        self.unix.fetch_add(us, Ordering::SeqCst);
        self.boot.fetch_add(us, Ordering::SeqCst);
    }

    /// Somebody sets the wall clock: only wall time moves.
    pub fn set_unix_us(&self, unix_us: u64) {
        self.unix.store(unix_us, Ordering::SeqCst);
    }

    pub fn set_boot_us(&self, boot_us: u64) {
        self.boot.store(boot_us, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn unix_us(&self) -> u64 {
        self.unix.load(Ordering::SeqCst)
    }

    fn boot_us(&self) -> u64 {
        self.boot.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_system_clocks_are_plausible_and_boot_time_never_runs_backwards() {
        let clock = SystemClock;
        assert!(clock.unix_us() > 1_700_000_000_000_000, "after 2023");
        let first = clock.boot_us();
        assert!(clock.boot_us() >= first);
    }

    #[test]
    fn stepping_the_wall_clock_leaves_boot_time_alone() {
        let clock = TestClock::at(1_000, 10);
        clock.advance(Duration::from_micros(5));
        clock.set_unix_us(99);
        assert_eq!((clock.unix_us(), clock.boot_us()), (99, 15));
    }
}
