//! Ingest: a delta counts once, whoever repeats it, and not after the end.

use shoal_control_plane::store::{FoldBatch, IncomingDelta, Outcome, Store};
use shoal_domain::run::Phase;

use crate::fixtures::{NOW_US, change, delta, folded, ingest, run_with_two_grants};

use Outcome::{AlreadyStored, RunOver, Stored, UnknownAssignment};

crate::on_both_databases!(
    a_repeated_delta_is_stored_once,
    the_same_deltas_from_two_tasks_count_once,
    a_folded_delta_is_still_stored,
    an_unknown_grant_is_told_apart_from_the_end,
    nothing_is_taken_after_the_intake_was_stopped,
    what_was_stored_by_the_end_is_there_to_be_folded,
    acks_stop_at_a_hole,
    only_what_follows_the_fold_without_a_hole_can_be_folded,
    a_delta_that_came_late_holds_back_its_followers,
    a_batch_that_cannot_be_stored_is_not_half_stored,
);

async fn a_repeated_delta_is_stored_once(store: &Store) {
    let run = run_with_two_grants(store).await;
    let batch = [delta("b", 0), delta("a", 0), delta("b", 0), delta("a", 1)];
    let outcomes = store.ingest(&batch).await.unwrap();
    assert_eq!(
        outcomes.iter().map(|o| (o.assignment_id.as_str(), o.seq, o.outcome)).collect::<Vec<_>>(),
        [("b", 0, Stored), ("a", 0, Stored), ("b", 0, AlreadyStored), ("a", 1, Stored)]
    );
    assert_eq!(ingest(store, &batch).await, [AlreadyStored; 4]);

    let waiting = store.unfolded(run, None).await.unwrap();
    assert_eq!(waiting.len(), 3);
    assert_eq!(waiting[1].body, vec![1; 8]);
    assert_eq!(store.ingest(&[]).await.unwrap(), []);
}

async fn the_same_deltas_from_two_tasks_count_once(store: &Store) {
    let run = run_with_two_grants(store).await;
    let batch: Vec<IncomingDelta> =
        (0..50).flat_map(|seq| [delta("a", seq), delta("b", seq)]).collect();
    let reversed: Vec<IncomingDelta> = batch.iter().rev().cloned().collect();
    let (one, other) = tokio::join!(store.ingest(&batch), store.ingest(&reversed));

    let stored = [one.unwrap(), other.unwrap()].concat();
    assert_eq!(stored.iter().filter(|o| o.outcome == Stored).count(), 100);
    assert_eq!(stored.iter().filter(|o| o.outcome == AlreadyStored).count(), 100);
    assert_eq!(store.unfolded(run, None).await.unwrap().len(), 100);
}

async fn a_folded_delta_is_still_stored(store: &Store) {
    let run = run_with_two_grants(store).await;
    ingest(store, &[delta("a", 0), delta("a", 1)]).await;
    let batch = FoldBatch {
        run_id: run,
        owner_epoch: 1,
        through: vec![folded("a", -1, 1)],
        windows: vec![],
        summaries: vec![],
        trackers: vec![],
    };
    store.fold(&batch).await.unwrap();

    let again = [delta("a", 0), delta("a", 1), delta("a", 2)];
    assert_eq!(ingest(store, &again).await, [AlreadyStored, AlreadyStored, Stored]);
    assert_eq!(store.unfolded(run, None).await.unwrap().len(), 1);
    assert_eq!(store.acked_through("a", 1).await.unwrap(), Some(2));
}

async fn an_unknown_grant_is_told_apart_from_the_end(store: &Store) {
    let run = run_with_two_grants(store).await;
    ingest(store, &[delta("a", 0)]).await;
    let future = IncomingDelta { epoch: 2, ..delta("a", 0) };
    let batch = [delta("nobody", 0), future, delta("a", 1)];
    assert_eq!(ingest(store, &batch).await, [UnknownAssignment, UnknownAssignment, Stored]);

    store.change_run(&change(run, Phase::Finished), &[]).await.unwrap();
    assert_eq!(ingest(store, &batch).await, [UnknownAssignment, UnknownAssignment, RunOver]);
    assert_eq!(store.unfolded(run, None).await.unwrap().len(), 2);
}

async fn nothing_is_taken_after_the_intake_was_stopped(store: &Store) {
    let run = run_with_two_grants(store).await;
    ingest(store, &[delta("a", 0)]).await;
    store.stop_intake(run).await.unwrap();
    store.stop_intake(run).await.unwrap();
    assert_eq!(ingest(store, &[delta("a", 0), delta("a", 1)]).await, [RunOver, RunOver]);
    assert_eq!(store.run(run).await.unwrap().unwrap().phase, Phase::Pending);
    assert_eq!(store.unfolded(run, None).await.unwrap().len(), 1);
}

/// Ingests race with the end of the run: whatever was told `Stored` is there afterwards.
async fn what_was_stored_by_the_end_is_there_to_be_folded(store: &Store) {
    let run = run_with_two_grants(store).await;
    let deliver = async |assignment: &str| {
        let mut n_stored = 0;
        for seq in 0.. {
            match ingest(store, &[delta(assignment, seq)]).await[0] {
                Stored => n_stored += 1,
                outcome => {
                    assert_eq!(outcome, RunOver);
                    break;
                }
            }
        }
        n_stored
    };
    let end = async {
        while store.unfolded(run, None).await.unwrap().len() < 10 {}
        store.change_run(&change(run, Phase::Finished), &[]).await.unwrap();
        store.unfolded(run, None).await.unwrap().len()
    };
    let (a, b, n_at_the_end) = tokio::join!(deliver("a"), deliver("b"), end);
    assert_eq!(a + b, n_at_the_end);
}

async fn acks_stop_at_a_hole(store: &Store) {
    run_with_two_grants(store).await;
    assert_eq!(store.acked_through("a", 1).await.unwrap(), Some(-1));
    assert_eq!(store.acked_through("nobody", 1).await.unwrap(), None);
    ingest(store, &[delta("a", 1), delta("a", 3)]).await;
    assert_eq!(store.acked_through("a", 1).await.unwrap(), Some(-1));
    ingest(store, &[delta("a", 0)]).await;
    assert_eq!(store.acked_through("a", 1).await.unwrap(), Some(1));
    ingest(store, &[delta("a", 2)]).await;
    assert_eq!(store.acked_through("a", 1).await.unwrap(), Some(3));
}

async fn to_fold(store: &Store, run: shoal_domain::ids::RunId, before: Option<i64>) -> Vec<String> {
    let waiting = store.unfolded(run, before).await.unwrap();
    waiting.iter().map(|delta| format!("{}{}", delta.assignment_id, delta.seq)).collect()
}

async fn only_what_follows_the_fold_without_a_hole_can_be_folded(store: &Store) {
    let run = run_with_two_grants(store).await;
    ingest(store, &[delta("a", 0), delta("a", 2), delta("b", 1), delta("b", 2)]).await;
    assert_eq!(to_fold(store, run, None).await, ["a0"]);
    ingest(store, &[delta("b", 0)]).await;
    assert_eq!(to_fold(store, run, None).await, ["a0", "b0", "b1", "b2"]);
}

async fn a_delta_that_came_late_holds_back_its_followers(store: &Store) {
    let run = run_with_two_grants(store).await;
    let late = IncomingDelta { received_at_us: NOW_US + 1_000, ..delta("a", 1) };
    ingest(store, &[delta("a", 0), late, delta("a", 2)]).await;
    assert_eq!(to_fold(store, run, Some(NOW_US + 100)).await, ["a0"]);
    assert_eq!(to_fold(store, run, Some(NOW_US + 1_001)).await, ["a0", "a1", "a2"]);
    assert_eq!(to_fold(store, run, Some(NOW_US)).await, Vec::<String>::new());
}

async fn a_batch_that_cannot_be_stored_is_not_half_stored(store: &Store) {
    let run = run_with_two_grants(store).await;
    let backwards = IncomingDelta { first_window: 9, last_window: 8, ..delta("b", 0) };
    assert!(store.ingest(&[delta("a", 0), backwards]).await.is_err());
    assert_eq!(store.unfolded(run, None).await.unwrap(), []);
    assert_eq!(store.assignments(run).await.unwrap()[0].max_seq, -1);
}
