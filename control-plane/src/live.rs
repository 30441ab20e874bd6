//! What has been stored of the active runs so far, merged in memory: for progress and for
//! thresholds that abort. The store stays the truth; a restarted control plane fills this from it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shoal_domain::delta::{
    Cells, Delta, DeviceGauge, Health, Progress, Samples, WINDOW_US, merge_cells,
};
use shoal_domain::ids::RunId;
use shoal_domain::observed::{ArrivalCells, SourceClocks, merge_arrivals, merge_clocks};
use shoal_domain::outcome::Operation;
use shoal_domain::plan::Plan;

use crate::fleet::Grant;
use crate::trackers::Trackers;

/// Windows kept for the "now" of progress; agents report about one window late.
const RECENT: usize = 8;

#[derive(Debug, Clone, Default)]
pub struct LiveRuns {
    runs: Arc<Mutex<HashMap<RunId, LiveRun>>>,
}

#[derive(Debug, Default)]
pub struct LiveRun {
    pub cells: Cells,
    pub arrivals: ArrivalCells,
    pub clocks: SourceClocks,
    pub trackers: Trackers,
    pub parts: BTreeMap<Grant, LivePart>,
    recent: BTreeMap<u64, Moment>,
}

/// The latest of what is absolute in an assignment's deltas, and the sum of its health.
#[derive(Debug, Clone, Default)]
pub struct LivePart {
    pub progress: Vec<Progress>,
    pub devices: Vec<DeviceGauge>,
    pub health: Health,
    /// Run times from which the load's revisions apply there.
    pub revised_us: Vec<u64>,
    /// The newest schedule by which it lets devices go.
    pub handover: u32,
    /// Run time up to which it has reported windows.
    pub through_us: u64,
    /// Its closing delta is stored.
    pub is_delivered: bool,
}

/// Publishing in one window, over all agents.
#[derive(Debug, Clone, Default)]
pub struct Moment {
    pub sent: u64,
    pub response_time: Samples,
}

impl LiveRuns {
    fn lock(&self) -> MutexGuard<'_, HashMap<RunId, LiveRun>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn open(&self, run: RunId, filled: LiveRun) {
        self.lock().insert(run, filled);
    }

    pub fn close(&self, run: RunId) {
        self.lock().remove(&run);
    }

    /// Reads an active run; `None` if it is not one of ours.
    pub fn read<T>(&self, run: RunId, read: impl FnOnce(&LiveRun) -> T) -> Option<T> {
        self.lock().get(&run).map(read)
    }

    pub fn add(&self, run: RunId, plan: &Plan, grant: &Grant, delta: &Delta, is_closing: bool) {
        if let Some(live) = self.lock().get_mut(&run) {
            live.add(plan, grant, delta, is_closing);
        }
    }
}

impl LiveRun {
    pub fn with(trackers: Trackers) -> Self {
        Self { trackers, ..Self::default() }
    }

    pub fn add(&mut self, plan: &Plan, grant: &Grant, delta: &Delta, is_closing: bool) {
        merge_cells(&mut self.cells, &delta.cells);
        merge_arrivals(&mut self.arrivals, &delta.arrivals);
        merge_clocks(&mut self.clocks, &delta.clocks);
        self.trackers.add(&delta.receipts);
        let part = self.parts.entry(grant.clone()).or_default();
        part.health.merge(&delta.health);
        part.handover = part.handover.max(delta.handover);
        if !delta.progress.is_empty() {
            part.progress.clone_from(&delta.progress);
        }
        if !delta.devices.is_empty() {
            part.devices.clone_from(&delta.devices);
        }
        if delta.revised_us.len() > part.revised_us.len() {
            part.revised_us.clone_from(&delta.revised_us);
        }
        if !is_closing {
            part.through_us = part.through_us.max((delta.last_window + 1) * WINDOW_US);
        }
        part.is_delivered |= is_closing;
        let moment = self.recent.entry(delta.last_window).or_default();
        for ((series, _), tally) in &delta.cells {
            let operation = plan.series.get(series.index()).map(|series| series.operation);
            if operation.is_some_and(Operation::is_send) {
                moment.sent += tally.sent;
                moment.response_time.merge(&tally.response_time);
            }
        }
        while self.recent.len() > RECENT {
            self.recent.pop_first();
        }
    }

    /// The newest window that all agents can have reported, and the samples of the last few.
    pub fn now(&self) -> Moment {
        let mut windows = self.recent.values().rev().skip(1).take(3);
        let Some(newest) = windows.next() else { return Moment::default() };
        let mut now = newest.clone();
        for older in windows {
            now.response_time.merge(&older.response_time);
        }
        now
    }
}
