//! Retention: the seconds of old runs become coarser windows, so that a past costs little.
//!
//! Summaries, from which every total, percentile and comparison is read, are not touched, and every
//! count of a window is in exactly one coarser one. A span is exchanged in one transaction and
//! coarse windows fold to themselves, so a process killed in the middle, or a second one that does
//! the same, changes nothing. Runs that go on are never touched.

use std::collections::BTreeMap;
use std::time::Duration;

use shoal_domain::delta::Delta;
use shoal_domain::ids::RunId;
use shoal_service_kit::{Clock, Lifecycle};

use crate::clock::ControlClock;
use crate::fold::WindowKey;
use crate::orchestrator::{decode, window_row};
use crate::refusal::Refusal;
use crate::store::Store;

/// Windows of so many seconds, once a run is so many times older than seconds are kept.
const STEPS: [(i64, u64); 2] = [(10, 1), (60, 4)];
/// Seconds that are exchanged at once; whole windows of every step.
const SPAN: i64 = 240;
const FIRST_LOOK: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_secs(3_600);
const RUNS_AT_ONCE: i64 = 16;

/// Joins windows into ones of `seconds`; of gauges the last stays.
pub fn coarser(
    windows: impl IntoIterator<Item = (WindowKey, Delta)>,
    seconds: i64,
) -> BTreeMap<WindowKey, Delta> {
    let mut sorted: Vec<(WindowKey, Delta)> = windows.into_iter().collect();
    sorted.sort_by_key(|(key, _)| key.2);
    let mut joined: BTreeMap<WindowKey, Delta> = BTreeMap::new();
    for ((series, region, window), delta) in sorted {
        let begin = window.div_euclid(seconds) * seconds;
        match joined.entry((series, region, begin)) {
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(delta);
            }
            std::collections::btree_map::Entry::Occupied(mut entry) => {
                entry.get_mut().absorb(delta);
            }
        }
    }
    joined
}

/// Coarsens all runs that are due; how many were.
pub async fn coarsen(store: &Store, keep_seconds: Duration, now_us: u64) -> Result<u64, Refusal> {
    let mut n = 0;
    for (seconds, times) in STEPS {
        let age_us = u64::try_from(keep_seconds.as_micros()).unwrap_or(u64::MAX);
        let before_us = now_us.saturating_sub(age_us.saturating_mul(times));
        loop {
            let due = store.finer_than(seconds, before_us as i64, RUNS_AT_ONCE).await?;
            if due.is_empty() {
                break;
            }
            for run in due {
                coarsen_run(store, run, seconds).await?;
                n += 1;
            }
        }
    }
    Ok(n)
}

async fn coarsen_run(store: &Store, run: RunId, seconds: i64) -> Result<(), Refusal> {
    let end = store.last_window(run).await?.map_or(0, |last| last + 1);
    for from in (0..end).step_by(SPAN as usize) {
        let rows = store.windows_of(run, from, from + SPAN).await?;
        let mut windows = Vec::with_capacity(rows.len());
        for row in rows {
            let delta = decode("windows", &run.to_string(), &row.body)?;
            windows.push(((row.series, row.region, row.window), delta));
        }
        let joined = coarser(windows, seconds);
        let rows: Vec<_> = joined.iter().map(|(key, delta)| window_row(key, delta)).collect();
        store.replace_windows(run, (from, from + SPAN), &rows).await?;
    }
    store.set_window_seconds(run, seconds).await?;
    Ok(())
}

/// Looks every hour, until the process ends.
pub fn keep(store: Store, keep_seconds: Duration, lifecycle: &Lifecycle) {
    let soft = lifecycle.soft();
    lifecycle.spawn("retention", async move {
        let mut pause = FIRST_LOOK;
        loop {
            tokio::select! {
                () = soft.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            pause = LOOK_EVERY;
            match coarsen(&store, keep_seconds, ControlClock.unix_us()).await {
                Ok(0) => {}
                Ok(runs) => tracing::info!(runs, "windows of old runs are coarser now"),
                Err(error) => tracing::warn!(%error, "retention waits for the next look"),
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use shoal_domain::delta::{DeviceGauge, Tally};
    use shoal_domain::ids::{SeriesId, StageId};

    fn window(at: i64, series: u32, values: &[u64], connected: u64) -> (WindowKey, Delta) {
        let mut tally = Tally::default();
        for us in values {
            tally.sent += 1;
            tally.bytes += us % 7;
            tally.response_time.record(*us);
        }
        let delta = Delta {
            first_window: at as u64,
            last_window: at as u64,
            cells: [((SeriesId(series), StageId(0)), tally)].into(),
            devices: vec![DeviceGauge { connected, ..DeviceGauge::default() }],
            ..Delta::default()
        };
        ((i64::from(series), String::new(), at), delta)
    }

    fn total(windows: &BTreeMap<WindowKey, Delta>) -> Delta {
        let mut total = Delta::default();
        for delta in windows.values() {
            total.absorb(delta.clone());
        }
        total
    }

    proptest! {
        // Every window has histograms, which cost more than what is looked for.
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn coarser_windows_have_every_count_and_fold_to_themselves(
            values in proptest::collection::vec(
                (0u32..3, proptest::collection::vec(1u64..1_000_000, 0..4)), 1..24),
            seconds in proptest::sample::select(vec![2i64, 10, 60]),
        ) {
            let fine: BTreeMap<WindowKey, Delta> = values
                .iter()
                .enumerate()
                .map(|(at, (series, values))| window(at as i64 * 7, *series, values, at as u64))
                .collect();
            let coarse = coarser(fine.clone(), seconds);
            prop_assert_eq!(total(&coarse).cells, total(&fine).cells);
            prop_assert!(coarse.keys().all(|(_, _, window)| window % seconds == 0));
            prop_assert!(coarse.len() <= fine.len());
            prop_assert_eq!(&coarser(coarse.clone(), seconds), &coarse);
            // In two steps or in one: the same.
            prop_assert_eq!(coarser(coarser(fine.clone(), 2), 60), coarser(fine, 60));
        }
    }

    #[test]
    fn of_gauges_the_last_stays() {
        let coarse = coarser([window(3, 0, &[], 5), window(9, 0, &[], 7)], 10);
        assert_eq!(coarse.values().next().unwrap().devices[0].connected, 7);
    }
}
