//! Thresholds of windows that may end the run, while it goes on.
//!
//! Seconds come from many agents, each a little late; a window is judged when all agents that drive
//! or read have told of it, and at the latest [`PATIENCE_US`] after the first has. What comes later than
//! that counts in the result, not here.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use shoal_domain::delta::{Delta, WINDOW_US};
use shoal_domain::ids::RunId;
use shoal_domain::plan::{Plan, Region, Threshold};
use shoal_domain::report::ThresholdResult;
use shoal_domain::verdict::ObserverFacts;
use shoal_domain::windowed::Windowed;

use crate::orchestrator::compaction::decode;
use crate::refusal::Refusal;
use crate::store::Store;

/// An agent that is silent for longer is not waited for: it may be lost.
const PATIENCE_US: u64 = 15_000_000;
/// Windows that are read at once.
const SPAN: i64 = 256;

/// By position of the threshold and region.
#[derive(Debug, Default)]
pub(super) struct Watched(BTreeMap<(usize, Option<String>), Windowed>);

impl Watched {
    pub(super) fn is_needed(plan: &Plan) -> bool {
        plan.thresholds.iter().any(Threshold::is_watched_by_windows)
    }

    /// What was recorded and folded before this process drove the run.
    pub(super) async fn restore(
        &mut self,
        store: &Store,
        plan: &Plan,
        run: RunId,
    ) -> Result<(), Refusal> {
        let end = (plan.end_us() / WINDOW_US) as i64 + SPAN;
        for from in (0..end).step_by(SPAN as usize) {
            for row in store.windows_of(run, from, from + SPAN).await? {
                let delta = decode("windows", &run.to_string(), &row.body)?;
                self.add(plan, row.window.max(0) as u64, &row.region, &delta);
            }
        }
        Ok(())
    }

    /// What was recorded in one second by agents of a region.
    pub(super) fn add(&mut self, plan: &Plan, second: u64, region: &str, delta: &Delta) {
        for (n, threshold) in plan.thresholds.iter().enumerate() {
            let of = match &threshold.region {
                _ if !threshold.is_watched_by_windows() => continue,
                Region::All => None,
                Region::Named(name) if name != region => continue,
                Region::Named(_) | Region::Each => Some(region.to_owned()),
            };
            let windowed = match self.0.entry((n, of)) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => match Windowed::new(plan, threshold) {
                    Some(windowed) => entry.insert(windowed),
                    None => continue,
                },
            };
            windowed.add(second, &delta.cells, &delta.arrivals);
        }
    }

    /// Whether it would fail if the run ended now; in any of its regions.
    pub(super) fn is_false(
        &mut self,
        plan: &Plan,
        position: usize,
        known_us: u64,
        observers: &[ObserverFacts],
    ) -> bool {
        let Some(windows) = plan.thresholds[position].windows else { return false };
        let mut is_false = false;
        for (_, windowed) in self.0.iter_mut().filter(|((n, _), _)| *n == position) {
            let held = windowed.known(plan, known_us, observers);
            is_false |= held.result(windows.held_ratio) == ThresholdResult::Failed;
        }
        is_false
    }
}

/// Run time up to which all is known of agents that have told so far each.
pub(super) fn known_us(through_us: impl Iterator<Item = u64> + Clone) -> u64 {
    let newest = through_us.clone().max().unwrap_or(0);
    through_us.min().unwrap_or(0).max(newest.saturating_sub(PATIENCE_US))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_agent_is_waited_for_and_then_not() {
        let known = |through: &[u64]| known_us(through.iter().copied());
        assert_eq!(known(&[]), 0);
        assert_eq!(known(&[9_000_000, 3_000_000]), 3_000_000);
        assert_eq!(known(&[40_000_000, 3_000_000]), 25_000_000);
    }
}
