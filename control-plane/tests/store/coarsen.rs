//! Retention: windows of old runs become coarser and count the same.

use std::time::Duration;

use shoal_control_plane::coarsen::coarsen;
use shoal_control_plane::store::{FoldBatch, Store, WindowRow};
use shoal_domain::delta::{Delta, Tally};
use shoal_domain::ids::{RunId, SeriesId, StageId};
use shoal_domain::run::Phase;
use shoal_proto::metrics;

use crate::fixtures::{NOW_US, change, new_run, run_id};
use crate::on_both_databases;

const SECONDS: i64 = 1_000;

fn window(window: i64) -> WindowRow {
    let mut tally = Tally { sent: 2, acked: 2, bytes: 40, ..Tally::default() };
    tally.response_time.record(window as u64 + 1);
    tally.response_time.record(500);
    let at = window as u64;
    let cells = [((SeriesId(0), StageId(0)), tally)].into();
    let delta = Delta { first_window: at, last_window: at, cells, ..Delta::default() };
    let body = metrics::encode(&delta);
    WindowRow { series: 0, region: "eu".into(), window, body, sent: 2, acked: 2, errors: 0 }
}

async fn with_windows(store: &Store, id: RunId, name: &str) {
    store.insert_run(&new_run(id, name)).await.unwrap();
    let windows = (0..SECONDS).map(window).collect();
    let (through, summaries, trackers) = (vec![], vec![], vec![]);
    let batch = FoldBatch { run_id: id, owner_epoch: 1, through, windows, summaries, trackers };
    store.fold(&batch).await.unwrap();
}

async fn total(store: &Store, id: RunId) -> (usize, i64, Delta) {
    let rows = store.windows_of(id, 0, i64::MAX).await.unwrap();
    let mut total = Delta::default();
    for row in &rows {
        assert_eq!(row.region, "eu");
        total.absorb(metrics::decode(&row.body).unwrap());
    }
    (rows.len(), rows.iter().map(|row| row.sent).sum(), total)
}

async fn windows_of_old_runs_become_coarser_and_count_the_same(store: &Store) {
    let (old, going_on) = (run_id(1), run_id(2));
    with_windows(store, old, "steady-heron").await;
    with_windows(store, going_on, "brisk-otter").await;
    store.change_run(&change(old, Phase::Finished), &[]).await.unwrap();
    let before = total(store, old).await;

    let day = Duration::from_secs(86_400);
    let now_us = |days: u64| NOW_US as u64 + days * 86_400_000_000 + 60_000_000;
    assert_eq!(coarsen(store, day, now_us(0)).await.unwrap(), 0, "too young");
    assert_eq!(coarsen(store, day, now_us(1)).await.unwrap(), 1);
    assert_eq!(coarsen(store, day, now_us(1)).await.unwrap(), 0, "once is enough");

    let after = total(store, old).await;
    assert_eq!((after.0, after.1), (100, before.1));
    assert_eq!(after.2.cells, before.2.cells, "every count and every bucket");
    assert_eq!(store.run(old).await.unwrap().unwrap().window_s, 10);
    assert_eq!(total(store, going_on).await.0, SECONDS as usize);

    assert_eq!(coarsen(store, day, now_us(4)).await.unwrap(), 1);
    let after = total(store, old).await;
    assert_eq!((after.0, after.2.cells), (17, before.2.cells));
}

on_both_databases!(windows_of_old_runs_become_coarser_and_count_the_same);
