//! The trackers of a run: the stored blocks, and the receipts that are not folded yet on top.
//!
//! Receipts of devices and of observers meet here and nowhere else. Invariant: a receipt is added
//! once, by whoever adds the delta that carried it.

use std::collections::BTreeMap;

use shoal_domain::ids::{ObserverId, SeriesId};
use shoal_domain::plan::{Plan, Send};
use shoal_domain::receipts::{Mark, Receipt};
use shoal_domain::tracker::{Horizon, Totals, Tracker, Windows};

use crate::record::internal;
use crate::refusal::Refusal;
use crate::store::TrackerRow;

/// What became of messages by the window of their sending, and what was read in it.
pub(crate) type ByWindow = BTreeMap<u64, BTreeMap<ObserverId, Totals>>;

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

    /// What happened in a window.
    pub fn add(&mut self, receipts: &[Receipt], window: u64) {
        for receipt in receipts {
            for (observer, (of, tracker)) in self.0.iter_mut().enumerate() {
                let is_meant = match receipt.mark {
                    Mark::Sent(series) | Mark::Acked(series) | Mark::Resent(series) => {
                        series == *of
                    }
                    Mark::Received(id) | Mark::Blind(id) => id.index() == observer,
                };
                if is_meant {
                    tracker.add(receipt, window);
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

    /// Only totals will be asked for.
    pub fn forget_windows(&mut self) {
        self.0.iter_mut().for_each(|(_, tracker)| tracker.forget_windows());
    }

    /// What is not among the stored windows yet, or will never be because it stays open.
    pub(crate) fn by_window(&self, horizon: Horizon) -> ByWindow {
        let mut all = ByWindow::new();
        for (observer, (_, tracker)) in self.0.iter().enumerate() {
            add_windows(&mut all, observer, tracker.by_window(horizon));
        }
        all
    }

    /// Blocks changed since they were restored, and what is settled since then.
    pub(crate) fn take_touched(&mut self) -> (Vec<TrackerRow>, ByWindow) {
        let (mut rows, mut settled) = (Vec::new(), ByWindow::new());
        for (observer, (_, tracker)) in self.0.iter_mut().enumerate() {
            let (blocks, windows) = tracker.take_touched();
            for (block, body) in blocks {
                rows.push(TrackerRow { observer: observer as i64, block: i64::from(block), body });
            }
            add_windows(&mut settled, observer, windows);
        }
        (rows, settled)
    }
}

fn add_windows(all: &mut ByWindow, observer: usize, windows: Windows) {
    for (window, totals) in windows {
        all.entry(window).or_default().insert(ObserverId(observer as u32), totals);
    }
}
