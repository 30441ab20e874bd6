//! The closed model: one task after the other, each after its wait.
//!
//! When a task starts and which one it is are `domain::closed`'s; here is only the clock. A device's
//! first wait counts from its start, so that `on_start` is part of the first interval.

use std::cell::Cell;
use std::collections::BTreeMap;

use shoal_domain::closed::Turn;
use shoal_domain::plan::Loop;
use shoal_domain::plan::{Behaviour, Plan};

use super::life::{Done, Life};

/// After a task that reached nobody there is at least this pause, whatever `wait` says: a loop
/// without a wait would only spin.
const BREATH_US: u64 = 100_000;

/// The share that one core has in a group's rate cap.
pub(in crate::engine) struct Cap {
    interval_us: f64,
    next_us: Cell<f64>,
}

impl Cap {
    /// Of all groups that have one, given the groups of the core's devices. Shares are those of the
    /// devices, so they add up to the cap over all cores of all agents.
    pub(in crate::engine) fn of_core(
        plan: &Plan,
        devices: impl Iterator<Item = usize>,
    ) -> BTreeMap<usize, Self> {
        let mut counts: BTreeMap<usize, u64> = BTreeMap::new();
        for group in devices {
            *counts.entry(group).or_default() += 1;
        }
        let cap = |(group, ours): (usize, u64)| {
            let Behaviour::Closed(closed) = &plan.groups[group].behaviour else { return None };
            let all = plan.groups[group].devices as f64;
            let interval_us = closed.cap_interval_ns? as f64 / 1e3 * all / ours as f64;
            Some((group, Self { interval_us, next_us: Cell::new(0.0) }))
        };
        counts.into_iter().filter_map(cap).collect()
    }

    /// When the next task may start; nothing is saved up.
    fn reserve(&self, now_us: u64) -> u64 {
        let at = self.next_us.get().max(now_us as f64);
        self.next_us.set(at + self.interval_us);
        at as u64
    }
}

impl Life {
    pub(super) async fn keep_rounds(&self, closed: &Loop) {
        let (core, device) = (&self.core, &self.device);
        let mut began_us = device.since_us.get();
        loop {
            if let Some(cap) = core.caps.get(&device.group) {
                self.rest_until(cap.reserve(core.now_us())).await;
            }
            if self.is_over() || core.now_us() >= device.end_us(core) {
                return;
            }
            let (group, round) = (device.group as u32, self.round.get());
            self.round.set(round + 1);
            let turn = Turn { seed: core.seed, group, device: device.index, round };
            let task = closed.task(turn);
            let reached = self.task(closed, task, round).await;
            let ended_us = core.now_us();
            let next_us = closed.wait.next_start_us(turn, began_us, ended_us);
            // Pacing counts from when a task was to start, so that late timers do not add up.
            began_us = next_us;
            let at_us = if reached { next_us } else { next_us.max(ended_us + BREATH_US) };
            if at_us <= ended_us {
                // Others on this core want to live as well.
                tokio::task::yield_now().await;
            }
            self.rest_until(at_us).await;
        }
    }

    /// The steps of a task in order; one that fails, or the end of the load, ends it. Whether
    /// anything was sent.
    async fn task(&self, closed: &Loop, task: usize, round: u64) -> bool {
        let steps = closed.tasks[task].steps.iter().zip(&self.recipes().tasks[task]);
        let mut reached = false;
        for (step, recipe) in steps {
            if reached && self.is_over() {
                break;
            }
            let n_before = self.n_sent.get();
            let done = self.step(step, recipe, round).await;
            reached |= self.n_sent.get() > n_before;
            if let Done::Failed(_) = done {
                break;
            }
        }
        reached
    }
}
