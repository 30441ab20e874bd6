//! Assignments: one row per grant, closed once.

use shoal_control_plane::store::{Closing, Store, StoreError};

use crate::fixtures::{delta, grant, ingest, new_run, run_id, run_with_two_grants};

crate::on_both_databases!(
    each_epoch_of_an_assignment_has_its_own_row,
    an_epoch_is_granted_once_and_all_or_none,
    a_closing_stands_and_may_be_repeated,
);

async fn each_epoch_of_an_assignment_has_its_own_row(store: &Store) {
    let run = run_id(1);
    store.insert_run(&new_run(run, "steady-heron")).await.unwrap();
    let grants = [grant(run, "a", 1), grant(run, "a", 2), grant(run, "b", 1)];
    store.insert_assignments(&grants).await.unwrap();
    ingest(store, &[delta("a", 0), delta("a", 4)]).await;

    let rows = store.assignments(run).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.grant.clone()).collect::<Vec<_>>(), grants);
    let reached: Vec<(i64, i64)> = rows.iter().map(|r| (r.folded_through, r.max_seq)).collect();
    assert_eq!(reached, [(-1, 4), (-1, -1), (-1, -1)]);
    assert!(rows.iter().all(|row| row.closing.is_none()));
}

async fn an_epoch_is_granted_once_and_all_or_none(store: &Store) {
    let run = run_with_two_grants(store).await;
    let again =
        store.insert_assignments(&[grant(run, "c", 1), grant(run, "a", 1)]).await.unwrap_err();
    assert!(matches!(again, StoreError::Conflict { .. }));
    assert_eq!(again.to_string(), "epoch 1 of assignment a was already granted");
    assert_eq!(store.assignments(run).await.unwrap().len(), 2);
    assert!(store.insert_assignments(&[grant(run_id(9), "z", 1)]).await.is_err());
}

async fn a_closing_stands_and_may_be_repeated(store: &Store) {
    let run = run_with_two_grants(store).await;
    let closing = Closing { closed_at_us: 70, last_seq: -1, totals: vec![9, 9] };
    store.close_assignment("a", 1, &closing).await.unwrap();
    store.close_assignment("a", 1, &Closing { closed_at_us: 99, ..closing.clone() }).await.unwrap();
    assert_eq!(store.assignments(run).await.unwrap()[0].closing, Some(closing.clone()));

    let other = Closing { totals: vec![8], ..closing.clone() };
    assert!(matches!(
        store.close_assignment("a", 1, &other).await,
        Err(StoreError::Conflict { .. })
    ));
    assert!(store.close_assignment("a", 2, &closing).await.is_err());
    assert_eq!(store.assignments(run).await.unwrap()[0].closing, Some(closing));
}
