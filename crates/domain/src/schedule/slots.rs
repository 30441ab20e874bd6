//! The slots of one device and series: those of its pace that lie where the device is active.

use std::sync::Arc;

use super::Interval;
use super::pace::Ticks;
use crate::plan::Stage;

const NS: u64 = 1_000;

/// Unique numbers in the order of their intended times, not always without gaps.
#[derive(Debug, Clone)]
pub struct Slots {
    ticks: Ticks,
    active: Arc<[Interval]>,
}

impl Slots {
    pub(super) fn new(ticks: Ticks, active: Arc<[Interval]>) -> Self {
        Self { ticks, active }
    }

    /// Run time at which slot `slot` is due.
    pub fn intended_us(&self, slot: u64) -> u64 {
        self.ticks.intended_ns(slot) / NS
    }

    /// The first slot that is due at `us` or later, with its intended time.
    pub fn first_from(&self, us: u64) -> Option<(u64, u64)> {
        let ended = self.active.partition_point(|interval| interval.until_us <= us);
        self.active[ended..].iter().find_map(|interval| {
            let slot = self.ticks.number_at(us.max(interval.from_us) * NS);
            let intended_us = self.intended_us(slot);
            (intended_us < interval.until_us).then_some((slot, intended_us))
        })
    }

    /// The slot after `slot`, with its intended time.
    pub fn after(&self, slot: u64) -> Option<(u64, u64)> {
        let next = self.ticks.successor(slot);
        let intended_us = self.intended_us(next);
        let ended = self.active.partition_point(|interval| interval.until_us <= intended_us);
        let interval = self.active.get(ended)?;
        if interval.from_us <= intended_us {
            return Some((next, intended_us));
        }
        self.first_from(interval.from_us)
    }

    /// How many slots are due before `us`.
    pub fn due_before(&self, us: u64) -> u64 {
        let due = |interval: &Interval| {
            let until_us = us.min(interval.until_us);
            if interval.from_us >= until_us {
                return 0;
            }
            self.ticks.count_before(until_us * NS) - self.ticks.count_before(interval.from_us * NS)
        };
        self.active.iter().map(due).sum()
    }

    /// Adds the slots in `[from_us, until_us)` to the counts of the stages they fall into.
    pub(super) fn count(&self, stages: &[Stage], from_us: u64, until_us: u64, counts: &mut [u64]) {
        let over = self.active.partition_point(|interval| interval.until_us <= from_us);
        for interval in &self.active[over..] {
            let until_us = until_us.min(interval.until_us);
            let mut at_us = from_us.max(interval.from_us);
            if at_us >= until_us {
                return;
            }
            let first = stages.partition_point(|stage| stage.end_us <= at_us);
            let mut before = self.ticks.count_before(at_us * NS);
            for (stage, count) in stages.iter().zip(counts.iter_mut()).skip(first) {
                let end_us = stage.end_us.min(until_us);
                let due = self.ticks.count_before(end_us * NS);
                *count += due - before;
                (before, at_us) = (due, end_us);
                if at_us >= until_us {
                    break;
                }
            }
        }
    }
}
