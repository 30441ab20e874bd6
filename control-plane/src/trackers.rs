//! The trackers of a run: the stored blocks, and the receipts that are not folded yet on top.
//!
//! Receipts of devices and of observers meet here and nowhere else. Invariant: a receipt is added
//! once, by whoever adds the delta that carried it.

use shoal_domain::ids::{ObserverId, SeriesId};
use shoal_domain::plan::{Plan, Send};
use shoal_domain::receipts::{Mark, Receipt};
use shoal_domain::tracker::Tracker;

use crate::record::internal;
use crate::refusal::Refusal;
use crate::store::TrackerRow;

/// By index of the plan's observers.
#[derive(Debug, Clone, Default)]
pub struct Trackers(Vec<(SeriesId, Tracker)>);

impl Trackers {
    pub fn new(plan: &Plan) -> Self {
        let tracker = |observer: &shoal_domain::plan::Observer| {
            let devices = plan.groups[plan.series[observer.of.index()].group].devices;
            let is_confirmed = plan.observed(observer).is_none_or(Send::is_acknowledged);
            (observer.of, Tracker::new(devices, is_confirmed))
        };
        Self(plan.observers.iter().map(tracker).collect())
    }

    /// With what was stored of them.
    pub fn restored(plan: &Plan, rows: &[TrackerRow]) -> Result<Self, Refusal> {
        let mut trackers = Self::new(plan);
        for row in rows {
            let id = format!("observer {} block {}", row.observer, row.block);
            let wrong = |why: &dyn std::fmt::Display| {
                internal(format!("table trackers, column body, id {id}: {why}"))
            };
            let observer = usize::try_from(row.observer).ok();
            let tracker = observer.and_then(|observer| trackers.0.get_mut(observer));
            let (_, tracker) = tracker.ok_or_else(|| wrong(&"no such observer"))?;
            let block = u32::try_from(row.block).map_err(|error| wrong(&error))?;
            tracker.restore(block, &row.body).map_err(|error| wrong(&error))?;
        }
        Ok(trackers)
    }

    pub fn add(&mut self, receipts: &[Receipt]) {
        for receipt in receipts {
            for (observer, (of, tracker)) in self.0.iter_mut().enumerate() {
                let is_meant = match receipt.mark {
                    Mark::Sent(series) | Mark::Acked(series) | Mark::Resent(series) => {
                        series == *of
                    }
                    Mark::Received(id) | Mark::Blind(id) => id.index() == observer,
                };
                if is_meant {
                    tracker.add(receipt);
                }
            }
        }
    }

    pub fn of(&self, observer: ObserverId) -> Option<&Tracker> {
        self.0.get(observer.index()).map(|(_, tracker)| tracker)
    }

    /// An observer that ended before its time: what had not arrived then may have arrived since.
    pub fn blind(&mut self, observer: ObserverId) {
        if let Some((_, tracker)) = self.0.get_mut(observer.index()) {
            tracker.blind();
        }
    }

    /// Blocks changed since they were restored.
    pub fn take_touched(&mut self) -> Vec<TrackerRow> {
        let mut rows = Vec::new();
        for (observer, (_, tracker)) in self.0.iter_mut().enumerate() {
            for (block, body) in tracker.take_touched() {
                rows.push(TrackerRow { observer: observer as i64, block: i64::from(block), body });
            }
        }
        rows
    }
}
