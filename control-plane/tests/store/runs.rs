//! Runs: accepted once, found by what people type, paged, moved by compare-and-set.

use shoal_control_plane::store::{
    Found, NewEvent, NewRun, RunChange, RunFile, RunFilter, Store, StoreError,
};
use shoal_domain::ids::RunId;
use shoal_domain::run::{Phase, Validity, Verdict};

use crate::fixtures::{NOW_US, change, delta, grant, ingest, new_run, run_id};

crate::on_both_databases!(
    a_run_reads_back_as_it_was_accepted,
    the_files_of_a_run_live_and_go_with_it,
    a_name_belongs_to_one_run,
    a_run_is_found_by_id_name_beginning_and_last,
    a_beginning_of_several_ids_is_ambiguous,
    pages_of_runs_join_without_gap_or_repetition,
    a_change_writes_state_and_events_together,
    a_change_from_an_old_version_is_a_conflict,
    of_two_changes_at_once_one_wins,
    a_run_that_is_over_never_changes,
    an_impossible_phase_is_not_written,
    events_are_numbered_without_holes,
    only_a_run_that_is_over_can_be_deleted,
);

async fn a_run_reads_back_as_it_was_accepted(store: &Store) {
    let new = new_run(run_id(1), "steady-heron");
    assert_eq!(store.run(new.run_id).await.unwrap(), None);
    store.insert_run(&new).await.unwrap();

    let run = store.run(new.run_id).await.unwrap().unwrap();
    assert_eq!(run.run_id, new.run_id);
    assert_eq!(run.name, new.name);
    assert_eq!(run.scenario_text, new.scenario_text);
    assert_eq!(run.scenario_sha256, new.scenario_sha256);
    assert_eq!(run.vars_json, new.vars_json);
    assert_eq!(run.seed, u64::MAX);
    assert_eq!(run.planned_devices, 6_000);
    assert_eq!((run.owner.as_str(), run.owner_epoch, run.version), ("one", 1, 1));
    assert_eq!(run.owner_token_hash, new.owner_token_hash);
    assert_eq!(run.phase, Phase::Pending);
    assert_eq!((run.validity, run.verdict, run.exit_code), (None, None, None));
    assert_eq!((run.t0_us, run.ended_at_us), (None, None));
    assert_eq!(store.unfinished_runs().await.unwrap(), [run]);
}

async fn the_files_of_a_run_live_and_go_with_it(store: &Store) {
    let file = |path: &str, body: Vec<u8>| RunFile {
        path: path.to_owned(),
        sha256: "ef".repeat(32),
        body,
    };
    let files = vec![file("certs/ca.pem", vec![0, 255, 10]), file("users.csv", vec![7; 2 << 20])];
    let new = NewRun { files: files.clone(), ..new_run(run_id(1), "steady-heron") };
    store.insert_run(&new).await.unwrap();
    assert_eq!(store.run_files(new.run_id).await.unwrap(), files);
    assert_eq!(store.run_files(run_id(2)).await.unwrap(), []);

    let taken = NewRun { run_id: run_id(2), ..new.clone() };
    assert!(store.insert_run(&taken).await.is_err());
    assert_eq!(store.run_files(run_id(2)).await.unwrap(), [], "refused with all that hangs on it");

    store.change_run(&change(new.run_id, Phase::Finished), &[]).await.unwrap();
    assert!(store.delete_run(new.run_id).await.unwrap());
    assert_eq!(store.run_files(new.run_id).await.unwrap(), []);
}

async fn a_name_belongs_to_one_run(store: &Store) {
    store.insert_run(&new_run(run_id(1), "steady-heron")).await.unwrap();
    let taken = store.insert_run(&new_run(run_id(2), "steady-heron")).await.unwrap_err();
    assert!(matches!(taken, StoreError::Conflict { .. }));
    assert_eq!(taken.to_string(), "a run named `steady-heron` exists; give this one another name");
}

async fn found(store: &Store, reference: &str) -> Option<RunId> {
    match store.find_run(reference).await.unwrap() {
        Found::One(run) => Some(run.run_id),
        Found::None => None,
        Found::Ambiguous(ids) => panic!("`{reference}` is ambiguous: {ids:?}"),
    }
}

async fn a_run_is_found_by_id_name_beginning_and_last(store: &Store) {
    assert_eq!(found(store, "last").await, None);
    let (old, new) = (run_id(1), run_id(1 << 46));
    store.insert_run(&new_run(old, "steady-heron")).await.unwrap();
    store.insert_run(&new_run(new, "brisk-otter")).await.unwrap();

    assert_eq!(found(store, &old.to_string()).await, Some(old));
    assert_eq!(found(store, "brisk-otter").await, Some(new));
    assert_eq!(found(store, "brisk").await, None);
    assert_eq!(found(store, &new.to_string()[..9]).await, Some(new));
    assert_eq!(found(store, &new.to_string()[4..12].to_lowercase()).await, Some(new));
    assert_eq!(found(store, "last").await, Some(new));
    assert_eq!(found(store, "last~1").await, Some(old));
    assert_eq!(found(store, "last~2").await, None);
    assert_eq!(found(store, "%").await, None);
    assert_eq!(found(store, "").await, None);
}

async fn a_beginning_of_several_ids_is_ambiguous(store: &Store) {
    store.insert_run(&new_run(run_id(1), "steady-heron")).await.unwrap();
    store.insert_run(&new_run(run_id(2), "brisk-otter")).await.unwrap();
    let Found::Ambiguous(ids) = store.find_run("run_0").await.unwrap() else {
        panic!("both ids begin with run_0")
    };
    assert_eq!(ids, [run_id(2).to_string(), run_id(1).to_string()]);

    // An exact name wins, also one that looks like the beginning of an id.
    store.insert_run(&new_run(run_id(3), "0000")).await.unwrap();
    assert_eq!(found(store, "0000").await, Some(run_id(3)));
}

async fn pages_of_runs_join_without_gap_or_repetition(store: &Store) {
    for n in 1..=5 {
        store.insert_run(&new_run(run_id(n), &format!("run-{n}"))).await.unwrap();
    }
    let mut listed = Vec::new();
    let mut before = None;
    loop {
        let page = store.list_runs(&RunFilter::default(), before, 2).await.unwrap();
        assert!(page.len() <= 2);
        let Some(last) = page.last() else { break };
        before = Some(last.run_id);
        listed.extend(page.into_iter().map(|run| run.run_id));
    }
    assert_eq!(listed, [5, 4, 3, 2, 1].map(run_id));
}

fn event(kind: &str) -> NewEvent {
    NewEvent { at_us: NOW_US, kind: kind.to_owned(), text: format!("{kind} happened") }
}

async fn a_change_writes_state_and_events_together(store: &Store) {
    let run = run_id(1);
    store.insert_run(&new_run(run, "steady-heron")).await.unwrap();
    let to_finished = RunChange {
        validity: Some(Validity::Degraded),
        verdict: Some(Verdict::Failed),
        exit_code: Some(1),
        cause: Some("completed".to_owned()),
        ..change(run, Phase::Finished)
    };
    let version =
        store.change_run(&to_finished, &[event("stopped"), event("finished")]).await.unwrap();
    assert_eq!(version, 2);

    let row = store.run(run).await.unwrap().unwrap();
    assert_eq!((row.phase, row.version), (Phase::Finished, 2));
    assert_eq!(row.validity, Some(Validity::Degraded));
    assert_eq!(row.verdict, Some(Verdict::Failed));
    assert_eq!((row.exit_code, row.cause.as_deref()), (Some(1), Some("completed")));
    assert_eq!((row.t0_us, row.ended_at_us), (Some(NOW_US + 5), Some(NOW_US + 9)));
    let kinds: Vec<String> =
        store.events(run).await.unwrap().into_iter().map(|event| event.kind).collect();
    assert_eq!(kinds, ["stopped", "finished"]);
    assert_eq!(store.unfinished_runs().await.unwrap(), []);
}

async fn a_change_from_an_old_version_is_a_conflict(store: &Store) {
    let run = run_id(1);
    store.insert_run(&new_run(run, "steady-heron")).await.unwrap();
    store.change_run(&change(run, Phase::Preparing), &[]).await.unwrap();

    let late = store.change_run(&change(run, Phase::Armed), &[event("armed")]).await.unwrap_err();
    assert!(matches!(late, StoreError::Conflict { .. }));
    assert_eq!(
        late.to_string(),
        format!("run {run} has moved on to version 2 from 1; read it again")
    );
    assert_eq!(store.run(run).await.unwrap().unwrap().phase, Phase::Preparing);
    assert_eq!(store.events(run).await.unwrap(), []);

    let unknown = store.change_run(&change(run_id(2), Phase::Armed), &[]).await.unwrap_err();
    assert_eq!(unknown.to_string(), format!("there is no run {}", run_id(2)));
}

async fn of_two_changes_at_once_one_wins(store: &Store) {
    let run = run_id(1);
    store.insert_run(&new_run(run, "steady-heron")).await.unwrap();
    let (preparing, aborted) = (change(run, Phase::Preparing), change(run, Phase::Aborted));
    let kinds = [event("preparing"), event("aborted")];
    let (one, other) = tokio::join!(
        store.change_run(&preparing, &kinds[..1]),
        store.change_run(&aborted, &kinds[1..]),
    );
    assert!(one.is_ok() != other.is_ok(), "{one:?} and {other:?}");
    assert_eq!(store.events(run).await.unwrap().len(), 1);
}

async fn a_run_that_is_over_never_changes(store: &Store) {
    let run = run_id(1);
    store.insert_run(&new_run(run, "steady-heron")).await.unwrap();
    let version = store.change_run(&change(run, Phase::Aborted), &[]).await.unwrap();
    let again = RunChange { version, ..change(run, Phase::Running) };
    let refused = store.change_run(&again, &[]).await.unwrap_err();
    assert_eq!(refused.to_string(), format!("run {run} is over (ABORTED) and changes no more"));
}

async fn an_impossible_phase_is_not_written(store: &Store) {
    let run = run_id(1);
    store.insert_run(&new_run(run, "steady-heron")).await.unwrap();
    let no_end = RunChange { ended_at_us: None, ..change(run, Phase::Finished) };
    assert!(store.change_run(&no_end, &[event("finished")]).await.is_err());
    let no_start = RunChange { t0_us: None, ..change(run, Phase::Running) };
    assert!(store.change_run(&no_start, &[]).await.is_err());
    assert_eq!(store.run(run).await.unwrap().unwrap().version, 1);
    assert_eq!(store.events(run).await.unwrap(), []);
}

async fn events_are_numbered_without_holes(store: &Store) {
    let run = run_id(1);
    store.insert_run(&new_run(run, "steady-heron")).await.unwrap();
    let kinds = [event("one"), event("two")];
    let (one, two) =
        tokio::join!(store.append_events(run, &kinds), store.append_events(run, &kinds));
    one.unwrap();
    two.unwrap();
    store.change_run(&change(run, Phase::Preparing), &[event("three")]).await.unwrap();
    let numbers: Vec<i64> =
        store.events(run).await.unwrap().into_iter().map(|event| event.n).collect();
    assert_eq!(numbers, [0, 1, 2, 3, 4]);
    assert!(store.append_events(run_id(2), &kinds).await.is_err());
}

async fn only_a_run_that_is_over_can_be_deleted(store: &Store) {
    let run = run_id(1);
    store.insert_run(&new_run(run, "steady-heron")).await.unwrap();
    store.insert_assignments(&[grant(run, "a", 1)]).await.unwrap();
    ingest(store, &[delta("a", 0)]).await;
    assert!(!store.delete_run(run).await.unwrap());

    store.change_run(&change(run, Phase::Aborted), &[event("aborted")]).await.unwrap();
    assert!(store.delete_run(run).await.unwrap());
    assert_eq!(store.run(run).await.unwrap(), None);
    assert_eq!(store.events(run).await.unwrap(), []);
    assert_eq!(store.assignments(run).await.unwrap(), []);
    assert_eq!(store.acked_through("a", 1).await.unwrap(), None);
}
