//! What has been stored of the active runs so far, merged in memory: for progress and for
//! thresholds that abort. The store stays the truth; a restarted control plane fills this from it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shoal_domain::delta::{
    Cells, Delta, DeviceGauge, Health, Progress, Samples, WINDOW_US, merge_cells,
};
use shoal_domain::ids::{ObserverId, RunId};
use shoal_domain::observed::{
    ArrivalCells, Arrivals, ReaderGap, SourceClocks, add_gap, merge_arrivals, merge_clocks,
};
use shoal_domain::outcome::Operation;
use shoal_domain::plan::{Plan, Region, Threshold};

use crate::fleet::Grant;
use crate::trackers::Trackers;

/// Windows kept for the "now" of progress; agents report about one window late.
const RECENT: usize = 8;
/// Seconds of assignments that wait to be judged; the oldest go. They are taken every second.
const SECONDS: usize = 4 * 1024;

#[derive(Debug, Clone, Default)]
pub struct LiveRuns {
    runs: Arc<Mutex<HashMap<RunId, LiveRun>>>,
}

#[derive(Debug, Default)]
pub struct LiveRun {
    pub cells: Cells,
    pub arrivals: ArrivalCells,
    pub clocks: SourceClocks,
    pub gaps: Vec<ReaderGap>,
    pub trackers: Trackers,
    pub parts: BTreeMap<Grant, LivePart>,
    recent: BTreeMap<u64, Moment>,
    /// A threshold asks for single regions: parts keep their cells.
    keeps_parts: bool,
    /// A threshold of windows may end the run: what was recorded in a second, not yet taken.
    seconds: Option<VecDeque<Second>>,
}

/// What an assignment told of one second.
#[derive(Debug)]
pub struct Second {
    pub second: u64,
    pub grant: Grant,
    /// Only cells and arrivals.
    pub delta: Delta,
}

/// The latest of what is absolute in an assignment's deltas, and the sum of its health.
#[derive(Debug, Clone, Default)]
pub struct LivePart {
    /// Of runs whose thresholds ask for single regions.
    pub cells: Cells,
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

/// Publishing and reading in one window, over all agents.
#[derive(Debug, Clone, Default)]
pub struct Moment {
    pub sent: u64,
    pub response_time: Samples,
    pub arrived: BTreeMap<ObserverId, Arrivals>,
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

    /// Changes an active run.
    pub fn change<T>(&self, run: RunId, change: impl FnOnce(&mut LiveRun) -> T) -> Option<T> {
        self.lock().get_mut(&run).map(change)
    }

    pub fn add(&self, run: RunId, plan: &Plan, grant: &Grant, delta: &Delta, is_closing: bool) {
        if let Some(live) = self.lock().get_mut(&run) {
            live.add(plan, grant, delta, is_closing);
        }
    }
}

impl LiveRun {
    pub fn of(plan: &Plan, mut trackers: Trackers) -> Self {
        trackers.forget_windows();
        let of_region =
            |threshold: &Threshold| threshold.region != Region::All && threshold.windows.is_none();
        let keeps_parts = plan.thresholds.iter().any(of_region);
        let keeps_seconds = plan.thresholds.iter().any(Threshold::is_watched_by_windows);
        let seconds = keeps_seconds.then(VecDeque::new);
        Self { trackers, keeps_parts, seconds, ..Self::default() }
    }

    /// What was recorded since the last time, second by second.
    pub fn take_seconds(&mut self) -> VecDeque<Second> {
        self.seconds.as_mut().map(std::mem::take).unwrap_or_default()
    }

    pub fn add(&mut self, plan: &Plan, grant: &Grant, delta: &Delta, is_closing: bool) {
        let delta_second = delta.last_window;
        merge_cells(&mut self.cells, &delta.cells);
        merge_arrivals(&mut self.arrivals, &delta.arrivals);
        merge_clocks(&mut self.clocks, &delta.clocks);
        for gap in &delta.gaps {
            add_gap(&mut self.gaps, gap.clone());
        }
        self.trackers.add(&delta.receipts, delta.last_window);
        let part = self.parts.entry(grant.clone()).or_default();
        part.health.merge(&delta.health);
        part.handover = part.handover.max(delta.handover);
        if self.keeps_parts {
            merge_cells(&mut part.cells, &delta.cells);
        }
        if let Some(seconds) = &mut self.seconds {
            let (cells, arrivals) = (delta.cells.clone(), delta.arrivals.clone());
            let delta = Delta { cells, arrivals, ..Delta::default() };
            seconds.push_back(Second { second: delta_second, grant: grant.clone(), delta });
            if seconds.len() > SECONDS {
                seconds.pop_front();
            }
        }
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
        for ((observer, _), arrivals) in &delta.arrivals {
            moment.arrived.entry(*observer).or_default().merge(arrivals);
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
            for (observer, arrivals) in &older.arrived {
                let delays = &mut now.arrived.entry(*observer).or_default().end_to_end;
                delays.merge(&arrivals.end_to_end);
            }
        }
        now
    }
}
