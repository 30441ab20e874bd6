//! The fold: an exchange of deltas for windows and summaries that happens wholly or not at all.

use std::time::Duration;

use shoal_control_plane::store::{FoldBatch, Store, StoreError, TrackerRow, WindowKey, WindowRow};
use shoal_domain::ids::RunId;
use shoal_testkit::expect::eventually;

use crate::databases::Opened;
use crate::fixtures::{delta, folded, ingest, run_with_two_grants, summary, window};

crate::on_both_databases!(
    folded_deltas_become_windows_and_summaries,
    a_later_fold_replaces_what_it_merged_with,
    of_two_folds_of_the_same_deltas_one_wins,
    a_fold_over_a_hole_is_refused,
    a_fold_that_fails_midway_leaves_the_state_before,
    a_fold_that_is_dropped_midway_leaves_the_state_before,
    windows_are_read_by_key_and_by_span,
);

async fn run_with_deltas(store: &Store) -> RunId {
    let run = run_with_two_grants(store).await;
    let deltas: Vec<_> = (0..3).flat_map(|seq| [delta("a", seq), delta("b", seq)]).collect();
    ingest(store, &deltas).await;
    run
}

fn batch(run: RunId) -> FoldBatch {
    FoldBatch {
        run_id: run,
        owner_epoch: 1,
        through: vec![folded("b", -1, 1), folded("a", -1, 2)],
        windows: vec![window(0, 2), window(1, 2), WindowRow { series: -1, ..window(1, 0) }],
        summaries: vec![summary(0, 0, b"five"), summary(-1, -1, b"health")],
        trackers: vec![TrackerRow { observer: 0, block: 2, body: b"seen".to_vec() }],
    }
}

/// Everything that a fold touches.
async fn state(store: &Store, run: RunId) -> String {
    format!(
        "{:?} {:?} {:?} {:?} {:?}",
        store.assignments(run).await.unwrap(),
        store.unfolded(run, None).await.unwrap(),
        store.windows_of(run, 0, i64::MAX).await.unwrap(),
        store.summaries(run).await.unwrap(),
        store.trackers(run).await.unwrap(),
    )
}

async fn folded_deltas_become_windows_and_summaries(store: &Store) {
    let run = run_with_deltas(store).await;
    let batch = batch(run);
    store.fold(&batch).await.unwrap();

    let rows = store.assignments(run).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.folded_through).collect::<Vec<_>>(), [2, 1]);
    let left = store.unfolded(run, None).await.unwrap();
    assert_eq!(
        left.iter().map(|d| (d.assignment_id.as_str(), d.seq)).collect::<Vec<_>>(),
        [("b", 2)]
    );
    assert_eq!(store.windows_of(run, 0, 9).await.unwrap().len(), 3);
    assert_eq!(
        store.summaries(run).await.unwrap(),
        [summary(-1, -1, b"health"), summary(0, 0, b"five")]
    );
    assert_eq!(store.acked_through("b", 1).await.unwrap(), Some(2));
}

async fn a_later_fold_replaces_what_it_merged_with(store: &Store) {
    let run = run_with_deltas(store).await;
    store.fold(&batch(run)).await.unwrap();
    let second = FoldBatch {
        through: vec![folded("b", 1, 2)],
        windows: vec![window(1, 3)],
        summaries: vec![summary(0, 0, b"six")],
        ..batch(run)
    };
    store.fold(&second).await.unwrap();
    assert_eq!(store.unfolded(run, None).await.unwrap(), []);
    let sent: Vec<i64> =
        store.windows_of(run, 0, 9).await.unwrap().into_iter().map(|row| row.sent).collect();
    assert_eq!(sent, [2, 0, 3]);
    assert_eq!(store.summaries(run).await.unwrap()[1], summary(0, 0, b"six"));
}

async fn of_two_folds_of_the_same_deltas_one_wins(store: &Store) {
    let run = run_with_deltas(store).await;
    let batch = batch(run);
    let (one, other) = tokio::join!(store.fold(&batch), store.fold(&batch));
    let lost = one.and(other).unwrap_err();
    assert!(matches!(lost, StoreError::Conflict { .. }), "{lost:?}");
    assert_eq!(store.unfolded(run, None).await.unwrap().len(), 1);
}

async fn a_fold_over_a_hole_is_refused(store: &Store) {
    let run = run_with_two_grants(store).await;
    ingest(store, &[delta("a", 0), delta("a", 2)]).await;
    let before = state(store, run).await;
    let over = FoldBatch { through: vec![folded("a", -1, 2)], ..batch(run) };
    let refused = store.fold(&over).await.unwrap_err();
    assert_eq!(refused.to_string(), "epoch 1 of assignment a holds 2 deltas in 0..=2, a hole");
    assert_eq!(state(store, run).await, before);

    let beyond = FoldBatch { through: vec![folded("a", -1, 7)], ..batch(run) };
    assert!(store.fold(&beyond).await.is_err());
    assert_eq!(state(store, run).await, before);
}

/// A failing CHECK stands for a failure at each of the statements.
async fn a_fold_that_fails_midway_leaves_the_state_before(store: &Store) {
    let run = run_with_deltas(store).await;
    let before = state(store, run).await;
    let whole = batch(run);
    for at in 0..whole.windows.len() {
        let mut broken = whole.clone();
        broken.windows[at].errors = -1;
        assert!(matches!(store.fold(&broken).await, Err(StoreError::Unavailable { .. })));
        assert_eq!(state(store, run).await, before);
    }
    for at in 0..whole.summaries.len() {
        let mut broken = whole.clone();
        broken.summaries[at].stage = -2;
        assert!(matches!(store.fold(&broken).await, Err(StoreError::Unavailable { .. })));
        assert_eq!(state(store, run).await, before);
    }
    let mut stale = whole.clone();
    stale.through[0].from = 0;
    assert!(matches!(store.fold(&stale).await, Err(StoreError::Conflict { .. })));
    assert_eq!(state(store, run).await, before);
    store.fold(&whole).await.unwrap();
}

/// The task is dropped after each of its first suspensions in turn, as a kill would end it. How
/// many there are is the scheduler's to say; the next test has one for sure.
async fn a_fold_that_is_dropped_midway_leaves_the_state_before(store: &Store) {
    let run = run_with_deltas(store).await;
    let before = state(store, run).await;
    let whole = batch(run);
    for polls in 1.. {
        let mut fold = Box::pin(store.fold(&whole));
        let mut left = polls;
        let done = std::future::poll_fn(|context| {
            left -= 1;
            match fold.as_mut().poll(context) {
                std::task::Poll::Ready(result) => std::task::Poll::Ready(Some(result)),
                std::task::Poll::Pending if left == 0 => std::task::Poll::Ready(None),
                std::task::Poll::Pending => std::task::Poll::Pending,
            }
        })
        .await;
        drop(fold);
        match done {
            None if state(store, run).await == before => continue,
            // Dropped while the commit was under way: then it is there as a whole.
            None | Some(Ok(()) | Err(StoreError::Conflict { .. })) => {}
            Some(Err(error)) => panic!("the fold failed by itself: {error}"),
        }
        assert_eq!(store.assignments(run).await.unwrap()[0].folded_through, 2);
        assert_eq!(store.windows_of(run, 0, 9).await.unwrap().len(), 3);
        assert_eq!(store.summaries(run).await.unwrap().len(), 2);
        assert_eq!(store.unfolded(run, None).await.unwrap().len(), 1);
        return;
    }
}

/// Another session holds the key of the last summary, so the fold waits there with all before it
/// done. SQLite has one writer, which cannot be held up halfway.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fold_killed_before_its_last_statement_leaves_the_state_before() {
    let opened = Opened::postgres().await;
    let store = &opened.store;
    let run = run_with_deltas(store).await;
    let before = state(store, run).await;
    let whole = batch(run);

    let pool = sqlx::PgPool::connect(&opened.url).await.unwrap();
    let mut holder = pool.begin().await.unwrap();
    sqlx::query(
        "INSERT INTO summaries (run_id, series, stage, assignment_id, epoch, body) \
         VALUES ($1, -1, -1, 'a', 1, 'held')",
    )
    .bind(run.to_string())
    .execute(&mut *holder)
    .await
    .unwrap();
    let waits = eventually(Duration::from_secs(20), "the fold waits for the key", || async {
        let blocked: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity \
             WHERE datname = current_database() AND wait_event_type = 'Lock'",
        )
        .fetch_one(&pool)
        .await
        .unwrap();
        blocked > 0
    });
    tokio::select! {
        biased;
        () = waits => {}
        folded = store.fold(&whole) => panic!("the fold did not wait: {folded:?}"),
    }

    holder.rollback().await.unwrap();
    assert_eq!(state(store, run).await, before);
    store.fold(&whole).await.unwrap();
    assert_ne!(state(store, run).await, before);
}

async fn windows_are_read_by_key_and_by_span(store: &Store) {
    let run = run_with_two_grants(store).await;
    let mut rows: Vec<WindowRow> = (0..6).map(|index| window(index, index)).collect();
    rows.push(WindowRow { region: "eu".to_owned(), ..window(4, 40) });
    let batch =
        FoldBatch { through: vec![], windows: rows.clone(), summaries: vec![], ..batch(run) };
    store.fold(&batch).await.unwrap();

    assert_eq!(store.windows_of(run, 1, 3).await.unwrap(), rows[1..3]);
    let keys = [rows[6].key(), rows[0].key(), WindowKey { window: 77, ..rows[0].key() }];
    assert_eq!(store.windows(run, &keys).await.unwrap(), [rows[0].clone(), rows[6].clone()]);
    assert_eq!(store.windows(run, &[]).await.unwrap(), []);
}
