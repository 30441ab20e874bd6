use proptest::prelude::*;
use shoal_domain::delta::{Cells, Tally, merge_cells};
use shoal_domain::ids::StageId;

use super::*;

const SERIES: SeriesId = SeriesId(0);

fn delta(window: u64, sent: u64, through_us: u64, open: u64, connected: u64) -> Delta {
    let tally = Tally { sent, ..Tally::default() };
    let open = BTreeMap::from([(StageId(0), open)]);
    Delta {
        first_window: window,
        last_window: window,
        cells: Cells::from([((SERIES, StageId(0)), tally)]),
        progress: vec![Progress { series: SERIES, through_us, open }],
        devices: vec![DeviceGauge {
            group: 0,
            started: connected,
            connected,
            known: connected,
            failed: 0,
        }],
        ..Delta::default()
    }
}

fn sent(delta: &Delta) -> u64 {
    delta.cells.values().map(|tally| tally.sent).sum()
}

#[test]
fn a_window_waits_for_every_live_core() {
    let mut windows = Windows::new(2);
    windows.add(0, delta(0, 5, 1_000_000, 2, 10), false);
    assert_eq!(windows.take_complete(|_| {}), None);
    windows.add(1, delta(0, 7, 900_000, 1, 20), false);
    let merged = windows.take_complete(|_| {}).unwrap();
    assert_eq!(sent(&merged), 12);
    assert_eq!(merged.progress[0].through_us, 900_000, "the slowest core's");
    assert_eq!(merged.progress[0].open[&StageId(0)], 3);
    assert_eq!(merged.devices[0].connected, 30);
}

#[test]
fn a_core_that_is_far_behind_is_not_waited_for_and_loses_nothing() {
    let mut windows = Windows::new(2);
    windows.add(1, delta(0, 1, 0, 0, 4), false);
    for window in 0..=MAX_LAG + 1 {
        windows.add(0, delta(window, 1, 0, 0, 3), false);
    }
    assert_eq!(sent(&windows.take_complete(|_| {}).unwrap()), 2);
    assert_eq!(windows.take_complete(|_| {}), None);
    windows.add(0, delta(MAX_LAG + 2, 1, 0, 0, 3), false);
    let overdue = windows.take_complete(|_| {}).unwrap();
    assert_eq!((overdue.last_window, sent(&overdue)), (1, 1));
    assert_eq!(overdue.devices[0].connected, 7, "the silent core's gauge stays");
    windows.add(1, delta(1, 9, 0, 0, 5), false);
    let late = windows.take_complete(|_| {}).unwrap();
    assert_eq!((late.last_window, sent(&late)), (1, 9));
}

#[test]
fn a_closed_core_holds_nobody_up() {
    let mut windows = Windows::new(2);
    windows.add(1, delta(0, 1, 0, 0, 0), true);
    windows.add(0, delta(0, 1, 0, 0, 0), false);
    windows.add(0, delta(1, 1, 0, 0, 0), false);
    assert!(windows.take_complete(|_| {}).is_some() && windows.take_complete(|_| {}).is_some());
    assert!(!windows.all_closed());
}

#[test]
fn an_end_without_reports_still_has_a_closing_delta() {
    let (rest, totals) = Windows::new(2).finish(|_| {});
    assert_eq!((rest, totals), (Delta::default(), Delta::default()));
}

proptest! {
    #[test]
    fn no_count_is_lost_and_the_totals_are_the_sum(
        reports in proptest::collection::vec((0usize..3, 0u64..3, 1u64..100), 0..40),
        closing in any::<bool>(),
    ) {
        let mut windows = Windows::new(3);
        let (mut at, mut pushed, mut seen) = ([0u64; 3], 0, Cells::new());
        for (core, step, n) in reports {
            at[core] += step;
            windows.add(core, delta(at[core], n, at[core], 0, 1), false);
            pushed += n;
            while let Some(merged) = windows.take_complete(|_| {}) {
                merge_cells(&mut seen, &merged.cells);
            }
        }
        if closing {
            for (core, window) in at.into_iter().enumerate() {
                windows.add(core, delta(window + 1, 1, 0, 0, 1), true);
                pushed += 1;
                while let Some(merged) = windows.take_complete(|_| {}) {
                    merge_cells(&mut seen, &merged.cells);
                }
            }
            prop_assert!(windows.all_closed());
        }
        let (rest, totals) = windows.finish(|_| {});
        merge_cells(&mut seen, &rest.cells);
        prop_assert_eq!(seen.values().map(|tally| tally.sent).sum::<u64>(), pushed);
        prop_assert_eq!(totals.cells, seen);
    }
}
