//! Stalls of the generator: gaps of the core's 10 ms probe longer than 100 ms.
//!
//! Whoever wakes first after a gap notices it, before any slot is judged: the probe or a device.
//! A slot intended inside a gap is *missed*. Only the latest gaps are kept; devices wake within
//! milliseconds of each, so an older one has no slot left to judge.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use shoal_domain::delta::Health;
use shoal_domain::outcome::ErrorClass;

pub(super) const PROBE_US: u64 = 10_000;
const STALL_US: u64 = 100_000;
const KEPT: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Stalls {
    beat_us: Cell<u64>,
    last_end_us: Cell<u64>,
    gaps: RefCell<VecDeque<(u64, u64)>>,
    health: Cell<Health>,
}

impl Stalls {
    /// The core is to run from `run_us` on, and does at `now_us`.
    pub(super) fn begin(&self, run_us: u64, now_us: u64) {
        self.beat_us.set(run_us);
        let mut health = self.health.get();
        health.start_lag_us = now_us.saturating_sub(run_us);
        self.health.set(health);
    }

    /// Somebody runs at `now_us`: a gap since the last beat is noted.
    pub(super) fn notice(&self, now_us: u64) {
        let from = self.beat_us.get();
        if now_us.saturating_sub(from) <= STALL_US {
            return;
        }
        let mut gaps = self.gaps.borrow_mut();
        if gaps.len() == KEPT {
            gaps.pop_front();
        }
        gaps.push_back((from, now_us));
        self.last_end_us.set(now_us);
        let mut health = self.health.get();
        health.stalled_us += now_us - from;
        self.health.set(health);
        self.beat(now_us);
    }

    /// The probe runs at `now_us`.
    pub(super) fn probe(&self, now_us: u64) {
        self.notice(now_us);
        self.beat(now_us);
    }

    fn beat(&self, now_us: u64) {
        let mut health = self.health.get();
        let over = now_us.saturating_sub(self.beat_us.get()).saturating_sub(PROBE_US);
        health.stall_max_us = health.stall_max_us.max(over);
        self.health.set(health);
        self.beat_us.set(now_us);
    }

    /// An attempt failed for want of descriptors or ports.
    pub(super) fn generator_error(&self, class: ErrorClass) {
        let mut health = self.health.get();
        match class {
            ErrorClass::GeneratorDescriptors => health.descriptor_errors += 1,
            ErrorClass::GeneratorPorts => health.port_errors += 1,
            _ => return,
        }
        self.health.set(health);
    }

    pub(super) fn contains(&self, intended_us: u64) -> bool {
        intended_us < self.last_end_us.get()
            && self.gaps.borrow().iter().any(|(from, to)| (*from..*to).contains(&intended_us))
    }

    /// What was seen since the last call.
    pub(super) fn take_health(&self) -> Health {
        self.health.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_of_the_probe_above_100_ms_is_a_stall_and_a_shorter_one_is_not() {
        let stalls = Stalls::default();
        stalls.probe(10_000);
        stalls.probe(110_000);
        assert!(!stalls.contains(50_000));
        stalls.notice(210_001);
        assert!(stalls.contains(110_000) && stalls.contains(210_000));
        assert!(!stalls.contains(109_999) && !stalls.contains(210_001));
        let health = stalls.take_health();
        assert_eq!((health.stalled_us, health.stall_max_us), (100_001, 90_001));
        assert_eq!(stalls.take_health(), Health::default());
    }
}
