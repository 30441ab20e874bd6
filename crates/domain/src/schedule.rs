//! When devices run and when their slots are due: pure functions of (plan, seed, revisions).
//!
//! A [`Timetable`] answers for every device: in which [`Interval`]s the load holds it active, when
//! it is present or declared away ([`Calendar`]), and when the slots of its series are due
//! ([`Slots`]). Each series keeps one absolute schedule, anchored at the device's first start; a
//! slot outside the active intervals does not exist. Intended times never depend on replies, and
//! counting them costs the same whether a run lasts a minute or a month, so the control plane
//! computes what was planned from the plan alone.

mod calendar;
mod order;
mod pace;
mod poisson;
mod profile;
mod recorded;
mod slots;

use std::sync::Arc;

pub use self::calendar::{Absence, Calendar, Presence};
pub(crate) use self::order::of_level;
use self::pace::Ticks;
use self::profile::Profile;
pub use self::profile::{Interval, MAX_REVISIONS, Revision};
pub use self::slots::Slots;
use crate::ids::{SeriesId, StageId};
use crate::plan::{Plan, Send, Stage, StageKind};
use crate::values::{Source, Stream};

/// What tells the draws of a schedule from those of any generated value.
const SCHEDULE_FIELD: u64 = u64::from_be_bytes(*b"schedule");

/// A plan whose every intended time is known.
#[derive(Debug, Clone)]
pub struct Timetable {
    plan: Arc<Plan>,
    seed: u64,
    /// By group.
    profiles: Vec<Profile>,
}

impl Timetable {
    /// `seed` is the run's: pinned by the plan or drawn afresh. `revisions` are in the order in
    /// which they were made.
    pub fn new(plan: Arc<Plan>, seed: u64, revisions: &[Revision]) -> Self {
        let mut profiles: Vec<Profile> =
            (0..plan.groups.len()).map(|group| Profile::of(&plan, group)).collect();
        for revision in revisions {
            if let Some(profile) = profiles.get_mut(revision.group) {
                profile.revise(&plan, revision);
            }
        }
        Self { plan, seed, profiles }
    }

    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    pub const fn seed(&self) -> u64 {
        self.seed
    }

    /// Devices of a group that the load wants at run time `us`, arrivals that come and go aside.
    pub fn level_at(&self, group: usize, us: u64) -> u64 {
        self.profiles[group].count_at(&self.plan, group, us)
    }

    /// When the load holds this device active; `None` if it never does.
    pub fn calendar(&self, group: usize, index: u64) -> Option<Calendar> {
        let active = self.profiles[group].activity(&self.plan, group, index);
        let first_us = active.first()?.from_us;
        let visits = self.plan.groups[group].churn.map(|churn| {
            calendar::Visits::of(first_us, churn.stay_us, churn.away_us, spread(index))
        });
        let absences = self.plan.stages_of(group).iter().filter_map(|stage| match &stage.kind {
            StageKind::Storm(storm) if storm.group == group => storm.absence(stage, index),
            _ => None,
        });
        Some(Calendar::new(active.into(), visits, absences.collect()))
    }

    /// The first run time, `from_us` or later, at which this device is not out; `None` if no stage
    /// reaches it then.
    pub fn start_us(&self, group: usize, index: u64, from_us: u64) -> Option<u64> {
        self.calendar(group, index)?.first_from(from_us)
    }

    /// The slots of device `index` of `group` for one of its series.
    pub fn slots_on(&self, calendar: &Calendar, group: usize, index: u64, send: &Send) -> Slots {
        let source = |series: SeriesId| Source {
            seed: self.seed,
            group: group as u32,
            device: index,
            series: series.0,
            field: SCHEDULE_FIELD,
        };
        let stream = Stream::of(source(send.series));
        let ticks = Ticks::of(&send.pace, calendar, stream, spread(index));
        Slots::new(ticks, Arc::clone(&calendar.active))
    }

    /// The same for a device whose calendar is not at hand; `None` if it never starts.
    pub fn slots(&self, group: usize, index: u64, send: &Send) -> Option<Slots> {
        Some(self.slots_on(&self.calendar(group, index)?, group, index, send))
    }

    /// A bound on the slots of a device before `until_us`, wherever the load and its revisions hold it
    /// active: as if it were so all the time, and one more for where its schedule is anchored.
    pub fn most_slots(&self, group: usize, index: u64, send: &Send, until_us: u64) -> u64 {
        let always = Interval { from_us: 0, until_us };
        let calendar = Calendar::new([always].into(), None, [].into());
        self.slots_on(&calendar, group, index, send).due_before(until_us) + 1
    }

    /// Adds the number of a group's slots that are due in `[from_us, until_us)` to each stage's
    /// count; `per_stage` has a place for every stage of the plan.
    pub fn count_slots(
        &self,
        group: usize,
        slots: &Slots,
        from_us: u64,
        until_us: u64,
        per_stage: &mut [u64],
    ) {
        let place = self.plan.loads[self.plan.groups[group].load].stages.clone();
        slots.count(&self.plan.stages[place.clone()], from_us, until_us, &mut per_stage[place]);
    }
}

impl Plan {
    /// The stage of a group that run time `us` belongs to; from the end on it is the last one.
    pub fn stage_of(&self, group: usize, us: u64) -> StageId {
        let stages = self.loads[self.groups[group].load].stages.clone();
        let ended = self.stages[stages.clone()].partition_point(|stage| stage.end_us <= us);
        StageId((stages.start + ended).min(stages.end - 1) as u32)
    }

    /// Run time at which the load of a group ends.
    pub fn end_of(&self, group: usize) -> u64 {
        self.stages_of(group).last().map_or(0, |stage| stage.end_us)
    }
}

impl StageKind {
    /// Devices of the load when the stage is over, if `before` ran at its start.
    pub(crate) fn level_after(&self, before: u64) -> u64 {
        match self {
            Self::Ramp { to, .. } => *to,
            Self::Hold | Self::Storm(_) | Self::Arrive { .. } => before,
        }
    }
}

impl crate::plan::Storm {
    /// The absence of a device; `None` if the storm spares it. Device k of m is back at
    /// `away + back_within · k/m`: k steps through the group by a stride without common divisor,
    /// so those that leave, and any part of those that return, spread evenly over the group.
    fn absence(&self, stage: &Stage, index: u64) -> Option<Absence> {
        if index >= self.of {
            return None;
        }
        let k = (u128::from(index) * u128::from(self.stride) % u128::from(self.of)) as u64;
        if k >= self.devices {
            return None;
        }
        let offset = u128::from(self.back_within_us) * u128::from(k) / u128::from(self.devices);
        let until_us = stage.start_us + self.away_us + offset as u64;
        Some(Absence { from_us: stage.start_us, until_us, leave: self.leave })
    }
}

/// frac(index · φ) in 64-bit fixed point: any subset of devices spreads evenly.
const fn spread(index: u64) -> u64 {
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    index.wrapping_mul(GOLDEN)
}

/// `fraction` (64-bit fixed point) of `whole`; always less than it.
const fn part(fraction: u64, whole: u64) -> u64 {
    ((fraction as u128 * whole as u128) >> 64) as u64
}

#[cfg(test)]
pub(crate) mod tests;
