//! The pace of connecting on one core: a token bucket and a bound on attempts in flight.
//!
//! A storm of reconnects must be a declared stage, never an accident of this tool, so every
//! attempt passes here: at most `rate` a second, at most 100 ms of it at once, at most
//! [`MAX_IN_FLIGHT`] between TCP connect and CONNACK.

use std::cell::Cell;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// More at once only queue in the kernel and time out there.
const MAX_IN_FLIGHT: usize = 200;
const BURST_US: f64 = 100_000.0;

pub(super) struct ConnectGate {
    /// Time between two connects at the full rate.
    interval_us: Cell<f64>,
    /// When the bucket would be empty and filled again by one token.
    next_us: Cell<f64>,
    in_flight: Arc<Semaphore>,
}

/// Leave for one attempt; dropping it lets the next one in.
pub(super) struct Ticket {
    _permit: OwnedSemaphorePermit,
}

impl ConnectGate {
    pub(super) fn new(rate_per_s: f64) -> Self {
        Self {
            interval_us: Cell::new(interval_us(rate_per_s)),
            next_us: Cell::new(0.0),
            in_flight: Arc::new(Semaphore::new(MAX_IN_FLIGHT)),
        }
    }

    pub(super) fn set_rate(&self, rate_per_s: f64) {
        self.interval_us.set(interval_us(rate_per_s));
    }

    /// A place among the attempts in flight; then [`ConnectGate::reserve`] says when it may start.
    pub(super) async fn enter(&self) -> Ticket {
        let permit = Arc::clone(&self.in_flight).acquire_owned().await;
        Ticket { _permit: permit.expect("the semaphore is never closed") }
    }

    /// Takes a token and returns the run time from which it may be used.
    pub(super) fn reserve(&self, now_us: u64) -> u64 {
        let now = now_us as f64;
        // The bucket holds what 100 ms fill, and at least the one token that is needed.
        let interval_us = self.interval_us.get();
        let credit = (BURST_US - interval_us).max(0.0);
        let at = self.next_us.get().max(now - credit);
        self.next_us.set(at + interval_us);
        at.max(0.0) as u64
    }
}

fn interval_us(rate_per_s: f64) -> f64 {
    1e6 / if rate_per_s.is_finite() && rate_per_s > 0.0 { rate_per_s } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_a_second_burst_by_a_hundred_and_then_keep_their_pace() {
        let gate = ConnectGate::new(1_000.0);
        let at: Vec<u64> = (0..300).map(|_| gate.reserve(1_000_000)).collect();
        assert_eq!(at.iter().filter(|at| **at <= 1_000_000).count(), 100);
        assert_eq!(at[299], 1_200_000);
    }

    #[test]
    fn a_slow_rate_still_lets_one_pass_at_once() {
        let gate = ConnectGate::new(2.0);
        assert_eq!(gate.reserve(5_000_000), 5_000_000);
        assert_eq!(gate.reserve(5_000_000), 5_500_000);
    }
}
