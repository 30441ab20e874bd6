//! When devices start and when their slots are due: pure functions of the plan.
//!
//! Device k in *start order* starts at k/rate of its ramp. Groups of one load are interleaved so
//! that all reach their share together. A device's phase is frac(index · golden ratio) of the
//! period, so any subset of devices spreads evenly. Intended times never depend on replies.

use crate::ids::StageId;
use crate::plan::{Plan, Send, StageKind};

const NS: u64 = 1_000;

/// The slots of one device and series: intended times `first + n · period`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slots {
    first_ns: u64,
    period_ns: u64,
}

impl Slots {
    /// Run time at which slot `n` is due.
    pub fn intended_us(&self, n: u64) -> u64 {
        (self.first_ns + n * self.period_ns) / NS
    }

    /// How many slots are due before run time `end_us`, which is also the number of the first slot
    /// due at or after it.
    pub fn due_before(&self, end_us: u64) -> u64 {
        (end_us * NS).saturating_sub(self.first_ns).div_ceil(self.period_ns)
    }
}

impl Plan {
    /// Place of a device in the start order of the groups of its load.
    pub fn start_rank(&self, group: usize, index: u64) -> u64 {
        let ours = u128::from(self.groups[group].devices);
        // Device i of n stands at (2i + 1) / 2n of the way; ties go to the earlier group.
        let place = 2 * u128::from(index) + 1;
        let before = |(other, count): (usize, u128)| {
            let scaled = place * count;
            let n = if other < group {
                if scaled < ours { 0 } else { (scaled - ours) / (2 * ours) + 1 }
            } else {
                scaled.saturating_sub(ours).div_ceil(2 * ours)
            };
            n.min(count) as u64
        };
        let load = &self.loads[self.groups[group].load];
        let others = load.groups.iter().filter(|other| **other != group);
        index + others.map(|o| before((*o, u128::from(self.groups[*o].devices)))).sum::<u64>()
    }

    /// Run time at which the load starts this device; `None` if no ramp reaches it.
    pub fn start_us(&self, group: usize, index: u64) -> Option<u64> {
        self.start_ns(group, index).map(|ns| ns / NS)
    }

    fn start_ns(&self, group: usize, index: u64) -> Option<u64> {
        let rank = self.start_rank(group, index);
        self.stages_of(group).iter().find_map(|stage| match stage.kind {
            StageKind::Ramp { from, to } if (from..to).contains(&rank) => {
                let length_ns = u128::from((stage.end_us - stage.start_us) * NS);
                let offset = u128::from(rank - from) * length_ns / u128::from(to - from);
                Some(stage.start_us * NS + offset as u64)
            }
            _ => None,
        })
    }

    /// The slots of device `index` of `group` for one of its series; `None` if it never starts.
    pub fn slots(&self, group: usize, index: u64, send: &Send) -> Option<Slots> {
        let first_ns = self.start_ns(group, index)? + phase_ns(index, send.pace.period_ns);
        Some(Slots { first_ns, period_ns: send.pace.period_ns })
    }

    /// The stage of a group that run time `us` belongs to; from the end on it is the last one.
    pub fn stage_of(&self, group: usize, us: u64) -> StageId {
        let stages = self.loads[self.groups[group].load].stages.clone();
        let ended = self.stages[stages.clone()].partition_point(|stage| stage.end_us <= us);
        StageId((stages.start + ended).min(stages.end - 1) as u32)
    }

    /// Adds the number of slots that are due in `[from_us, until_us)` to each stage's count.
    /// Slots end with the load, whatever `until_us` says.
    pub fn count_slots(&self, slots: &Slots, from_us: u64, until_us: u64, per_stage: &mut [u64]) {
        for (stage, count) in self.stages.iter().zip(per_stage) {
            let from = stage.start_us.max(from_us);
            let until = stage.end_us.min(until_us);
            if from < until {
                *count += slots.due_before(until) - slots.due_before(from);
            }
        }
    }

    /// Devices of the whole plan that the load has started by run time `us`.
    pub fn started_by(&self, us: u64) -> u64 {
        let mut started = 0;
        for stage in &self.stages {
            if let StageKind::Ramp { from, to } = stage.kind {
                if us >= stage.end_us {
                    started = to;
                } else if us >= stage.start_us {
                    let length = u128::from(stage.end_us - stage.start_us);
                    let due = u128::from(us - stage.start_us) * u128::from(to - from) / length;
                    started = (from + due as u64 + 1).min(to);
                }
            }
        }
        started
    }
}

/// frac(index · φ) · period, in 64-bit fixed point.
fn phase_ns(index: u64, period_ns: u64) -> u64 {
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let fraction = index.wrapping_mul(GOLDEN);
    ((u128::from(fraction) * u128::from(period_ns)) >> 64) as u64
}

#[cfg(test)]
pub(crate) mod tests;
