//! When one device is present, out, or declared away.
//!
//! *Out*: the load does not want it, or it is between two visits of a group with `churn`; slots do
//! not exist there. *Away*: a storm took its connection; slots exist and `while_away` decides what
//! becomes of them.

use std::sync::Arc;

use super::{Interval, part};
use crate::plan::Leave;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Absence {
    pub from_us: u64,
    pub until_us: u64,
    pub leave: Leave,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    Out,
    In,
    Away(Leave),
}

/// The visits of a group with `churn`: every cycle begins with one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Visits {
    pub(super) first_us: u64,
    pub(super) stay_us: u64,
    pub(super) cycle_us: u64,
}

impl Visits {
    /// The first visits of devices that start together spread over one cycle.
    pub(super) fn of(start_us: u64, stay_us: u64, away_us: u64, spread: u64) -> Self {
        let cycle_us = stay_us + away_us;
        Self { first_us: start_us + part(spread, cycle_us), stay_us, cycle_us }
    }

    /// Whether a visit goes on at `us`, and until when that is so.
    fn at(&self, us: u64) -> (bool, u64) {
        let Some(since_us) = us.checked_sub(self.first_us) else { return (false, self.first_us) };
        let begun_us = us - since_us % self.cycle_us;
        let left_us = begun_us + self.stay_us;
        if us < left_us { (true, left_us) } else { (false, begun_us + self.cycle_us) }
    }
}

/// Of one device; active at least once.
#[derive(Debug, Clone)]
pub struct Calendar {
    /// In order and apart.
    pub(super) active: Arc<[Interval]>,
    pub(super) visits: Option<Visits>,
    /// In order and apart: the storms of one load do not overlap.
    absences: Box<[Absence]>,
}

impl Calendar {
    pub(super) fn new(
        active: Arc<[Interval]>,
        visits: Option<Visits>,
        absences: Box<[Absence]>,
    ) -> Self {
        Self { active, visits, absences }
    }

    /// Run time of its first start by the load; slots are anchored here.
    pub(super) fn anchor_us(&self) -> u64 {
        self.active.first().map_or(0, |first| first.from_us)
    }

    /// The first moment, `us` or later, at which it is not out.
    pub fn first_from(&self, mut us: u64) -> Option<u64> {
        loop {
            match self.at(us) {
                (Presence::Out, u64::MAX) => return None,
                (Presence::Out, until_us) => us = until_us,
                _ => return Some(us),
            }
        }
    }

    /// What it is at `us`, and the run time until which nothing changes.
    pub fn at(&self, us: u64) -> (Presence, u64) {
        let ended = self.active.partition_point(|interval| interval.until_us <= us);
        let Some(interval) = self.active.get(ended) else { return (Presence::Out, u64::MAX) };
        if us < interval.from_us {
            return (Presence::Out, interval.from_us);
        }
        let mut until_us = interval.until_us;
        if let Some(visits) = &self.visits {
            let (is_here, change_us) = visits.at(us);
            until_us = until_us.min(change_us);
            if !is_here {
                return (Presence::Out, until_us);
            }
        }
        let over = self.absences.partition_point(|absence| absence.until_us <= us);
        match self.absences.get(over) {
            Some(absence) if absence.from_us <= us => {
                (Presence::Away(absence.leave), until_us.min(absence.until_us))
            }
            Some(absence) => (Presence::In, until_us.min(absence.from_us)),
            None => (Presence::In, until_us),
        }
    }
}
