//! How many devices of a group run, over time, and so in which intervals each one does.
//!
//! Devices stand in an order (the start rank of a shared load; the index where somebody scaled
//! the group alone) and those below the level run: a ramp up starts the next ones, a ramp down
//! stops the last started first. An operator's [`Revision`] replaces what the plan says of one
//! group from its run time on; what was before stays as it was, to the microsecond.

use serde::{Deserialize, Serialize};

use crate::plan::{Plan, StageKind};

/// Half-open, in run time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interval {
    pub from_us: u64,
    pub until_us: u64,
}

/// A change of a running run's load: from `at_us` on the group goes to `devices` and stays there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision {
    pub at_us: u64,
    /// Index into [`Plan::groups`].
    pub group: usize,
    pub devices: u64,
    /// How long the way there takes; at least 1.
    pub over_us: u64,
}

/// More than a person or a script would make of one run; each is sent with every assignment.
pub const MAX_REVISIONS: usize = 1_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    StartRank,
    Index,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Course {
    /// From one level to another in `over_us`, also where the segment is cut short.
    Ramp {
        from: u64,
        to: u64,
        over_us: u64,
    },
    Hold(u64),
    /// Above the level, `arrivals` visits in `over_us`, each of `stay_us`, by the devices that do
    /// not run all the time, in turn.
    Arrive {
        level: u64,
        pool: u64,
        arrivals: u64,
        over_us: u64,
        stay_us: u64,
    },
}

#[derive(Debug, Clone, Copy)]
struct Segment {
    start_us: u64,
    end_us: u64,
    order: Order,
    course: Course,
}

/// The load of one group, from 0 to its end.
#[derive(Debug, Clone)]
pub(super) struct Profile {
    segments: Vec<Segment>,
    end_us: u64,
}

impl Profile {
    pub(super) fn of(plan: &Plan, group: usize) -> Self {
        let mut level = 0;
        let mut segments = Vec::new();
        let devices = plan.devices_of(plan.groups[group].load);
        for stage in plan.stages_of(group) {
            let (start_us, end_us) = (stage.start_us, stage.end_us);
            let over_us = (end_us - start_us).max(1);
            let course = match stage.kind {
                StageKind::Ramp { from, to } => Course::Ramp { from, to, over_us },
                StageKind::Arrive { arrivals, stay_us } => {
                    let pool = devices.saturating_sub(level).max(1);
                    Course::Arrive { level, pool, arrivals, over_us, stay_us }
                }
                StageKind::Hold | StageKind::Storm(_) => Course::Hold(level),
            };
            segments.push(Segment { start_us, end_us, order: Order::StartRank, course });
            level = stage.kind.level_after(level);
        }
        Self { segments, end_us: plan.end_of(group) }
    }

    pub(super) fn revise(&mut self, plan: &Plan, revision: &Revision) {
        let at_us = revision.at_us;
        if at_us >= self.end_us {
            return;
        }
        let from = self.count_at(plan, revision.group, at_us);
        self.segments.retain(|segment| segment.start_us < at_us);
        if let Some(last) = self.segments.last_mut() {
            last.end_us = last.end_us.min(at_us);
        }
        let (to, over_us) = (revision.devices, revision.over_us.max(1));
        let reached_us = at_us.saturating_add(over_us).min(self.end_us);
        let ramp = Course::Ramp { from, to, over_us };
        for (start_us, end_us, course) in
            [(at_us, reached_us, ramp), (reached_us, self.end_us, Course::Hold(to))]
        {
            self.segments.push(Segment { start_us, end_us, order: Order::Index, course });
        }
    }

    /// Devices of the group that run at `us`, visitors aside: always those of the lowest indices.
    pub(super) fn count_at(&self, plan: &Plan, group: usize, us: u64) -> u64 {
        let started = self.segments.partition_point(|segment| segment.start_us < us);
        let Some(segment) = started.checked_sub(1).map(|last| &self.segments[last]) else {
            return 0;
        };
        let crossed = |n: u64, over_us: u64| {
            let elapsed = u128::from(us.min(segment.end_us) - segment.start_us);
            (elapsed * u128::from(n)).div_ceil(u128::from(over_us)).min(u128::from(n)) as u64
        };
        let level = match segment.course {
            Course::Ramp { from, to, over_us } if to >= from => from + crossed(to - from, over_us),
            Course::Ramp { from, to, over_us } => from - crossed(from - to, over_us),
            Course::Hold(level) | Course::Arrive { level, .. } => level,
        };
        match segment.order {
            Order::StartRank => plan.of_level(group, level),
            Order::Index => level,
        }
    }

    /// When a device runs, in order and apart.
    pub(super) fn activity(&self, plan: &Plan, group: usize, index: u64) -> Vec<Interval> {
        let rank = plan.start_rank(group, index);
        let mut intervals: Vec<Interval> = Vec::new();
        let mut has_visits = false;
        let mut since_us = None;
        for segment in &self.segments {
            let place = match segment.order {
                Order::StartRank => rank,
                Order::Index => index,
            };
            let crossing = |nth: u64, n: u64, over_us: u64| {
                let offset = u128::from(nth) * u128::from(over_us) / u128::from(n);
                Some(segment.start_us + offset as u64).filter(|us| *us < segment.end_us)
            };
            match segment.course {
                Course::Ramp { from, to, over_us } if (from..to).contains(&place) => {
                    since_us = since_us.or_else(|| crossing(place - from, to - from, over_us));
                }
                Course::Ramp { from, to, over_us } if (to..from).contains(&place) => {
                    let left = crossing(from - 1 - place, from - to, over_us);
                    if let (Some(from_us), Some(until_us)) = (since_us, left) {
                        intervals.push(Interval { from_us, until_us });
                        since_us = None;
                    }
                }
                Course::Arrive { level, pool, arrivals, over_us, stay_us } if place >= level => {
                    let visit = |nth| {
                        let from_us = crossing(nth, arrivals, over_us)?;
                        let until_us = from_us.saturating_add(stay_us).min(self.end_us);
                        Some(Interval { from_us, until_us })
                    };
                    let turns = (place - level..arrivals).step_by(pool as usize);
                    intervals.extend(turns.map_while(visit));
                    has_visits = true;
                }
                Course::Ramp { .. } | Course::Hold(_) | Course::Arrive { .. } => {}
            }
        }
        intervals.extend(since_us.map(|from_us| Interval { from_us, until_us: self.end_us }));
        intervals.retain(|interval| interval.from_us < interval.until_us);
        // A visit may reach into a later stage that starts the device for good.
        if has_visits { merged(intervals) } else { intervals }
    }
}

fn merged(mut intervals: Vec<Interval>) -> Vec<Interval> {
    intervals.sort_unstable_by_key(|interval| interval.from_us);
    let mut apart: Vec<Interval> = Vec::with_capacity(intervals.len());
    for interval in intervals {
        match apart.last_mut() {
            Some(last) if interval.from_us <= last.until_us => {
                last.until_us = last.until_us.max(interval.until_us);
            }
            _ => apart.push(interval),
        }
    }
    apart
}
