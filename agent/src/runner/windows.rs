//! Many cores' deltas become one delta per window.
//!
//! A window is complete when every live core has reported it or a later one. A core that is more
//! than [`MAX_LAG`] windows behind is not waited for; what it reports later goes out as a delta of
//! its own, so counts are never lost. Gauges and progress are absolute per core: the sum (of open
//! slots and devices) and the minimum (of `through`) over every core's newest word. What the process used
//! meanwhile is asked for each window, and by all of that the window is judged.

use std::collections::{BTreeMap, btree_map};

use shoal_domain::delta::{Delta, DeviceGauge, Health, Progress};
use shoal_domain::ids::SeriesId;
use shoal_domain::strain::judge;

/// Windows that one core may be behind the others.
pub(crate) const MAX_LAG: u64 = 3;

#[derive(Debug)]
pub(crate) struct Windows {
    cores: Vec<Core>,
    /// By last window; not yet handed out.
    open: BTreeMap<u64, Vec<(usize, Delta)>>,
    /// Everything handed out.
    totals: Delta,
    is_first: bool,
}

#[derive(Debug, Default, Clone)]
struct Core {
    newest: Option<u64>,
    is_closed: bool,
    progress: BTreeMap<SeriesId, Progress>,
    devices: BTreeMap<u32, DeviceGauge>,
}

impl Windows {
    pub(crate) fn new(n_cores: usize) -> Self {
        Self {
            cores: vec![Core::default(); n_cores],
            open: BTreeMap::new(),
            totals: Delta::default(),
            is_first: true,
        }
    }

    /// Takes one core's report in; reports of cores that do not exist are ignored.
    pub(crate) fn add(&mut self, core: usize, delta: Delta, closes: bool) {
        let Some(state) = self.cores.get_mut(core) else { return };
        state.newest = state.newest.max(Some(delta.last_window));
        state.is_closed |= closes;
        self.open.entry(delta.last_window).or_default().push((core, delta));
    }

    pub(crate) fn all_closed(&self) -> bool {
        self.cores.iter().all(|core| core.is_closed)
    }

    /// The oldest complete window, merged; `None` when none is.
    pub(crate) fn take_complete(&mut self, meter: impl FnMut(&mut Health)) -> Option<Delta> {
        let entry = self.open.first_entry()?;
        let newest = self.cores.iter().filter_map(|core| core.newest).max().unwrap_or(0);
        let mut live = self.cores.iter().filter(|core| !core.is_closed);
        let is_reported = live.all(|core| core.newest >= Some(*entry.key()));
        // The last window of all stays for the closing delta.
        let is_last = *entry.key() == newest;
        let is_overdue = newest - *entry.key() > MAX_LAG;
        if (is_reported && !(is_last && self.all_closed())) || is_overdue {
            return self.take_first(meter);
        }
        None
    }

    /// What is left as one delta, and the totals of everything. For the end only.
    pub(crate) fn finish(mut self, mut meter: impl FnMut(&mut Health)) -> (Delta, Delta) {
        let mut rest = Delta::default();
        let mut is_first = true;
        while let Some(delta) = self.take_first(&mut meter) {
            if is_first {
                rest = delta
            } else {
                rest.absorb(delta)
            }
            is_first = false;
        }
        if is_first {
            // Nothing is left: an empty delta that carries only where all cores stand.
            rest.first_window = self.totals.last_window;
            rest.last_window = self.totals.last_window;
            rest.progress = self.progress();
            rest.devices = self.devices();
        }
        (rest, self.totals)
    }

    fn take_first(&mut self, mut meter: impl FnMut(&mut Health)) -> Option<Delta> {
        let (_, reports) = self.open.pop_first()?;
        let mut merged: Option<Delta> = None;
        for (core, mut delta) in reports {
            let state = &mut self.cores[core];
            for progress in delta.progress.drain(..) {
                later(&mut state.progress, progress);
            }
            for gauge in delta.devices.drain(..) {
                state.devices.insert(gauge.group, gauge);
            }
            match &mut merged {
                Some(merged) => merged.absorb(delta),
                None => merged = Some(delta),
            }
        }
        let mut merged = merged?;
        merged.progress = self.progress();
        merged.devices = self.devices();
        meter(&mut merged.health);
        merged.spells = judge(&merged);
        // Receipts and single requests are no totals.
        let receipts = std::mem::take(&mut merged.receipts);
        let requests = std::mem::take(&mut merged.requests);
        if self.is_first {
            self.totals = merged.clone();
            self.is_first = false;
        } else {
            self.totals.absorb(merged.clone());
        }
        (merged.receipts, merged.requests) = (receipts, requests);
        Some(merged)
    }

    fn progress(&self) -> Vec<Progress> {
        let mut sum: BTreeMap<SeriesId, Progress> = BTreeMap::new();
        for progress in self.cores.iter().flat_map(|core| core.progress.values()) {
            match sum.entry(progress.series) {
                btree_map::Entry::Vacant(entry) => drop(entry.insert(progress.clone())),
                btree_map::Entry::Occupied(mut entry) => {
                    let known = entry.get_mut();
                    known.through_us = known.through_us.min(progress.through_us);
                    for (stage, n) in &progress.open {
                        *known.open.entry(*stage).or_default() += n;
                    }
                }
            }
        }
        sum.into_values().collect()
    }

    fn devices(&self) -> Vec<DeviceGauge> {
        let mut sum: BTreeMap<u32, DeviceGauge> = BTreeMap::new();
        for gauge in self.cores.iter().flat_map(|core| core.devices.values()) {
            let known = sum
                .entry(gauge.group)
                .or_insert(DeviceGauge { group: gauge.group, ..Default::default() });
            known.started += gauge.started;
            known.connected += gauge.connected;
            known.known += gauge.known;
            known.failed += gauge.failed;
        }
        sum.into_values().collect()
    }
}

/// A core's progress never goes back, also when an old window of it comes late.
fn later(known: &mut BTreeMap<SeriesId, Progress>, progress: Progress) {
    let is_old =
        known.get(&progress.series).is_some_and(|known| known.through_us > progress.through_us);
    if !is_old {
        known.insert(progress.series, progress);
    }
}

#[cfg(test)]
mod tests;
