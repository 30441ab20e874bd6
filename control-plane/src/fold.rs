//! Compaction: deltas into windows and summaries. Pure; the store applies the result in one
//! transaction, so a kill at any statement leaves either the deltas or what they were folded into.

use std::collections::{BTreeMap, BTreeSet};

use shoal_domain::delta::{Cells, Delta, DeviceGauge, Tally};
use shoal_domain::ids::{SeriesId, StageId};

use crate::trackers::ByWindow;

/// Key of the row that holds what is no cell: progress, gauges, health, failures.
pub const FACTS: i64 = -1;

/// Totals of one assignment and epoch, as rows `(series, stage)`; [`FACTS`] for the rest.
pub type SummaryKey = (i64, i64);
/// `(series, region, window)`.
pub type WindowKey = (i64, String, i64);

/// Adds a delta to the summaries of its assignment.
pub fn into_summaries(summaries: &mut BTreeMap<SummaryKey, Delta>, delta: &Delta) {
    for (key, tally) in &delta.cells {
        let row = summaries.entry((i64::from(key.0.0), i64::from(key.1.0))).or_default();
        row.cells.entry(*key).or_default().merge(tally);
    }
    // Receipts are for the trackers, and only once.
    let facts = Delta { cells: Cells::new(), receipts: Vec::new(), ..delta.clone() };
    match summaries.get_mut(&(FACTS, FACTS)) {
        Some(known) => known.absorb(facts),
        None => {
            summaries.insert((FACTS, FACTS), facts);
        }
    }
}

/// What stands instead of a region where gauges are kept, so that those of two grants never merge.
pub fn gauges_of(assignment: &str, epoch: i64) -> String {
    format!("{assignment}@{epoch}")
}

/// Keeps the gauges of a grant where they changed; the last ones hold until then.
pub fn gauges_into_windows(
    windows: &mut BTreeMap<WindowKey, Delta>,
    last: &mut BTreeMap<String, Vec<DeviceGauge>>,
    grant: &str,
    delta: &Delta,
) {
    if delta.devices.is_empty() || last.get(grant) == Some(&delta.devices) {
        return;
    }
    last.insert(grant.to_owned(), delta.devices.clone());
    let key = (FACTS, grant.to_owned(), delta.last_window as i64);
    let row = Delta {
        first_window: delta.last_window,
        last_window: delta.last_window,
        devices: delta.devices.clone(),
        ..Delta::default()
    };
    windows.insert(key, row);
}

/// What makes a grant's summaries equal to its closing totals.
#[derive(Debug, Clone, PartialEq)]
pub struct Repair {
    /// Rows that replace what is there.
    pub rows: BTreeMap<SummaryKey, Delta>,
    /// Rows that the totals know nothing of.
    pub gone: Vec<SummaryKey>,
    /// Attempts, slots and acks that the summaries lacked (or had too many of).
    pub n_lost: u64,
}

/// `None`: the summaries are what the totals say, cell by cell and bucket by bucket.
pub fn repair(known: &BTreeMap<SummaryKey, Delta>, totals: &Delta) -> Option<Repair> {
    let mut wanted = BTreeMap::new();
    into_summaries(&mut wanted, totals);
    let is_cell = |key: &SummaryKey| *key != (FACTS, FACTS);
    let cells = |delta: Option<&Delta>| delta.map(|delta| delta.cells.clone()).unwrap_or_default();
    let differs = |key: &SummaryKey| cells(known.get(key)) != cells(wanted.get(key));
    let keys: BTreeSet<SummaryKey> =
        known.keys().chain(wanted.keys()).filter(|key| is_cell(key)).copied().collect();
    let wrong: BTreeSet<SummaryKey> = keys.into_iter().filter(differs).collect();
    if wrong.is_empty() {
        return None;
    }
    let count =
        |cells: Cells| cells.values().map(|t| t.n_classed() + t.unassigned + t.acked).sum::<u64>();
    let n_lost = wrong
        .iter()
        .map(|key| count(cells(known.get(key))).abs_diff(count(cells(wanted.get(key)))))
        .sum();
    // Progress, gauges and failures are as old as the counts that are missing.
    let replaced = |key: &SummaryKey| wrong.contains(key) || !is_cell(key);
    let gone = known.keys().filter(|key| replaced(key) && !wanted.contains_key(key)).copied();
    Some(Repair {
        gone: gone.collect(),
        rows: wanted.into_iter().filter(|(key, _)| replaced(key)).collect(),
        n_lost,
    })
}

/// Adds a delta to the windows of its region; stages are not kept apart there.
pub fn into_windows(windows: &mut BTreeMap<WindowKey, Delta>, region: &str, delta: &Delta) {
    let mut by_series: BTreeMap<SeriesId, Tally> = BTreeMap::new();
    for ((series, _), tally) in &delta.cells {
        by_series.entry(*series).or_default().merge(tally);
    }
    for (series, tally) in by_series {
        let key = (i64::from(series.0), region.to_owned(), delta.last_window as i64);
        let row = windows.entry(key).or_default();
        row.first_window = delta.last_window;
        row.last_window = delta.last_window;
        row.cells.entry((series, StageId(0))).or_default().merge(&tally);
    }
    if !delta.arrivals.is_empty() {
        let row = windows.entry((FACTS, region.to_owned(), delta.last_window as i64)).or_default();
        row.first_window = delta.last_window;
        row.last_window = delta.last_window;
        for ((observer, _), arrivals) in &delta.arrivals {
            row.arrivals.entry((*observer, StageId(0))).or_default().merge(arrivals);
        }
    }
}

/// Adds what the trackers have settled; it belongs to no region.
pub(crate) fn settled_into_windows(windows: &mut BTreeMap<WindowKey, Delta>, settled: ByWindow) {
    for (window, of) in settled {
        let row = windows.entry((FACTS, String::new(), window as i64)).or_default();
        row.first_window = window;
        row.last_window = window;
        for (observer, totals) in of {
            row.settled.entry(observer).or_default().merge(&totals);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use shoal_domain::delta::{Health, Progress, merge_cells};

    fn delta(window: u64, values: &[u64]) -> Delta {
        let mut delta = Delta { first_window: window, last_window: window, ..Delta::default() };
        for value in values {
            let key = (SeriesId((value % 3) as u32), StageId((value % 2) as u32));
            let tally: &mut Tally = delta.cells.entry(key).or_default();
            tally.sent += 1;
            tally.response_time.record(*value);
        }
        delta.health = Health { stall_max_us: window, stalled_us: 1, ..Health::default() };
        delta.devices = vec![DeviceGauge { group: 0, started: window, ..DeviceGauge::default() }];
        let open = BTreeMap::new();
        delta.progress = vec![Progress { series: SeriesId(0), through_us: window, open }];
        delta
    }

    #[test]
    fn gauges_are_kept_where_they_change_and_by_assignment() {
        let (mut windows, mut last) = (BTreeMap::new(), BTreeMap::new());
        let told = |window: u64, connected: u64| Delta {
            devices: vec![DeviceGauge { connected, ..DeviceGauge::default() }],
            ..delta(window, &[])
        };
        for (assignment, window, connected) in
            [("a", 0, 5), ("b", 0, 5), ("a", 1, 5), ("a", 2, 4), ("a", 3, 4)]
        {
            gauges_into_windows(&mut windows, &mut last, assignment, &told(window, connected));
        }
        let keys: Vec<(&str, i64)> =
            windows.keys().map(|(_, assignment, window)| (assignment.as_str(), *window)).collect();
        assert_eq!(keys, [("a", 0), ("a", 2), ("b", 0)]);
    }

    proptest! {
        #[test]
        fn folding_in_any_portions_keeps_every_count(
            windows in proptest::collection::vec(proptest::collection::vec(1u64..1_000_000, 0..10), 1..12),
        ) {
            let deltas: Vec<Delta> =
                windows.iter().enumerate().map(|(n, values)| delta(n as u64, values)).collect();
            let mut expected = deltas[0].clone();
            for later in &deltas[1..] {
                expected.absorb(later.clone());
            }
            let mut summaries = BTreeMap::new();
            let mut by_window = BTreeMap::new();
            for delta in &deltas {
                into_summaries(&mut summaries, delta);
                into_windows(&mut by_window, "", delta);
            }
            let mut rows = summaries.values().cloned();
            let mut total = rows.next().unwrap();
            rows.for_each(|row| total.absorb(row));
            prop_assert_eq!(&total.cells, &expected.cells);
            prop_assert_eq!(total.health, expected.health);
            prop_assert_eq!(total.devices, expected.devices);
            prop_assert_eq!(total.progress, expected.progress);
            let sent = |cells: &Cells| cells.values().map(|tally| tally.sent).sum::<u64>();
            let in_windows: u64 = by_window.values().map(|row| sent(&row.cells)).sum();
            prop_assert_eq!(in_windows, sent(&expected.cells));
        }

        #[test]
        fn closing_totals_prove_the_sum_or_replace_what_is_wrong(
            windows in proptest::collection::vec(proptest::collection::vec(1u64..1_000_000, 1..10), 2..8),
            lost in any::<prop::sample::Index>(), twice in any::<bool>(),
        ) {
            let deltas: Vec<Delta> =
                windows.iter().enumerate().map(|(n, values)| delta(n as u64, values)).collect();
            let mut totals = deltas[0].clone();
            let mut right = BTreeMap::new();
            into_summaries(&mut right, &deltas[0]);
            for later in &deltas[1..] {
                totals.absorb(later.clone());
                into_summaries(&mut right, later);
            }
            prop_assert_eq!(repair(&right, &totals), None);
            let at = lost.index(deltas.len());
            let mut wrong = BTreeMap::new();
            for (n, delta) in deltas.iter().enumerate() {
                for _ in 0..if n != at { 1 } else if twice { 2 } else { 0 } {
                    into_summaries(&mut wrong, delta);
                }
            }
            let repair = repair(&wrong, &totals).expect("a delta is missing or there twice");
            prop_assert!(repair.n_lost >= windows[at].len() as u64);
            wrong.retain(|key, _| !repair.gone.contains(key));
            wrong.extend(repair.rows);
            let cells = |rows: &BTreeMap<SummaryKey, Delta>| {
                let mut all = Cells::new();
                rows.values().for_each(|row| merge_cells(&mut all, &row.cells));
                all
            };
            prop_assert_eq!(cells(&wrong), totals.cells);
        }
    }
}
