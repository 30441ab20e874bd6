//! Claims: a silent owner is replaced, a live one is left alone, a replaced one can do no harm.

use shoal_control_plane::store::{FoldBatch, NewRun, OWNER_SILENT_US, Store, StoreError};
use shoal_domain::clock::Anchor;
use shoal_domain::run::Phase;

use crate::fixtures::{
    NOW_US, change, delta, folded, ingest, new_run, run_id, run_with_two_grants, window,
};

crate::on_both_databases!(
    a_live_run_of_another_owner_is_left_alone,
    of_two_claims_of_a_silent_run_one_wins,
    an_owner_may_take_its_own_run_again_at_once,
    a_replaced_owner_can_neither_move_nor_fold,
    a_run_that_is_over_is_not_claimed,
    of_two_that_want_the_lead_one_gets_it_and_a_replaced_leader_is_told,
    whoever_has_lost_the_lead_accepts_no_more_runs,
    the_time_of_the_leader_outlasts_it,
);

async fn the_time_of_the_leader_outlasts_it(store: &Store) {
    assert_eq!(store.control_time().await.unwrap(), None);
    store.take_lead("one", None).await.unwrap();
    assert_eq!(store.control_time().await.unwrap(), None, "nobody has said it yet");
    let time = Anchor { boot_id: "here".to_owned(), unix_minus_boot_us: -7 };
    assert!(store.keep_control_time(1, &time).await.unwrap());
    let silent = store.leader().await.unwrap();
    store.take_lead("two", silent.as_ref()).await.unwrap();
    assert_eq!(store.control_time().await.unwrap(), Some(time.clone()));
    assert!(!store.keep_control_time(1, &time).await.unwrap(), "a replaced leader sets no clock");
}

async fn of_two_that_want_the_lead_one_gets_it_and_a_replaced_leader_is_told(store: &Store) {
    assert_eq!(store.leader().await.unwrap(), None);
    let (one, two) = tokio::join!(store.take_lead("one", None), store.take_lead("two", None));
    let led: Vec<i64> = [one.unwrap(), two.unwrap()].into_iter().flatten().collect();
    assert_eq!(led, [1], "exactly one");

    // Whoever beats is not replaced by somebody who read the row before.
    let seen = store.leader().await.unwrap().unwrap();
    assert!(store.keep_lead(1).await.unwrap());
    assert_eq!(store.take_lead("three", Some(&seen)).await.unwrap(), None);

    let silent = store.leader().await.unwrap().unwrap();
    assert_eq!(store.take_lead("three", Some(&silent)).await.unwrap(), Some(2));
    assert!(!store.keep_lead(1).await.unwrap());
    store.give_up_lead(1).await.unwrap();
    assert_eq!(store.leader().await.unwrap().unwrap().owner, "three");
    store.give_up_lead(2).await.unwrap();
    assert_eq!(store.leader().await.unwrap().unwrap().owner, "");
}

async fn whoever_has_lost_the_lead_accepts_no_more_runs(store: &Store) {
    assert_eq!(store.take_lead("one", None).await.unwrap(), Some(1));
    let run = |n: u64, epoch: i64| NewRun {
        lead_epoch: Some(epoch),
        ..new_run(run_id(n), &format!("run-{n}"))
    };
    store.insert_run(&run(1, 1)).await.unwrap();
    let seen = store.leader().await.unwrap();
    assert_eq!(store.take_lead("two", seen.as_ref()).await.unwrap(), Some(2));
    let refused = store.insert_run(&run(2, 1)).await.unwrap_err();
    assert!(matches!(refused, StoreError::NotInCharge), "{refused:?}");
    assert!(store.run(run_id(2)).await.unwrap().is_none(), "nothing half done");
    store.insert_run(&run(2, 2)).await.unwrap();
}

async fn a_live_run_of_another_owner_is_left_alone(store: &Store) {
    let run = run_id(1);
    store.insert_run(&new_run(run, "steady-heron")).await.unwrap();
    assert_eq!(store.touch_owner("one", NOW_US + 1_000_000).await.unwrap(), 1);
    assert_eq!(store.touch_owner("two", NOW_US).await.unwrap(), 0);

    let soon = NOW_US + 1_000_000 + OWNER_SILENT_US - 1;
    let refused = store.claim_run(run, None, "two", soon).await.unwrap_err();
    assert!(matches!(refused, StoreError::Conflict { .. }));
    assert_eq!(refused.to_string(), format!("run {run} is owned by `one`, last seen 14 s ago"));
    assert_eq!(store.claim_run(run, None, "two", soon + 1).await.unwrap(), 2);
    let row = store.run(run).await.unwrap().unwrap();
    assert_eq!((row.owner.as_str(), row.owner_epoch), ("two", 2));
    assert_eq!(row.owner_seen_us, soon + 1);
}

async fn of_two_claims_of_a_silent_run_one_wins(store: &Store) {
    let run = run_id(1);
    store.insert_run(&new_run(run, "steady-heron")).await.unwrap();
    let late = NOW_US + OWNER_SILENT_US;
    let (two, three) = tokio::join!(
        store.claim_run(run, Some("one"), "two", late),
        store.claim_run(run, Some("one"), "three", late),
    );
    assert!(two.is_ok() != three.is_ok(), "{two:?} and {three:?}");
    assert_eq!(store.run(run).await.unwrap().unwrap().owner_epoch, 2);
}

async fn an_owner_may_take_its_own_run_again_at_once(store: &Store) {
    let run = run_id(1);
    store.insert_run(&new_run(run, "steady-heron")).await.unwrap();
    assert_eq!(store.claim_run(run, None, "one", NOW_US).await.unwrap(), 2);
    assert!(store.claim_run(run, Some("two"), "one", NOW_US).await.is_err());
}

async fn a_replaced_owner_can_neither_move_nor_fold(store: &Store) {
    let run = run_with_two_grants(store).await;
    ingest(store, &[delta("a", 0)]).await;
    store.claim_run(run, None, "two", NOW_US + OWNER_SILENT_US).await.unwrap();

    let moved = store.change_run(&change(run, Phase::Preparing), &[]).await.unwrap_err();
    assert_eq!(moved.to_string(), format!("run {run} is owned by `two` under epoch 2, not 1"));
    let batch = FoldBatch {
        run_id: run,
        owner_epoch: 1,
        through: vec![folded("a", -1, 0)],
        windows: vec![window(0, 1)],
        summaries: vec![],
        trackers: vec![],
    };
    assert!(matches!(store.fold(&batch).await, Err(StoreError::Conflict { .. })));
    assert_eq!(store.windows_of(run, 0, 10).await.unwrap(), []);
    store.fold(&FoldBatch { owner_epoch: 2, ..batch }).await.unwrap();
}

async fn a_run_that_is_over_is_not_claimed(store: &Store) {
    let run = run_id(1);
    store.insert_run(&new_run(run, "steady-heron")).await.unwrap();
    store.change_run(&change(run, Phase::Aborted), &[]).await.unwrap();
    let refused = store.claim_run(run, None, "one", NOW_US).await.unwrap_err();
    assert_eq!(refused.to_string(), format!("run {run} is over (ABORTED)"));
    assert_eq!(store.touch_owner("one", NOW_US).await.unwrap(), 0);
}
