//! Past runs: found by what was said about them, kept as baselines, pruned by policy.

use std::time::{Duration, Instant};

use shoal_control_plane::store::{AgentRow, NewRun, PrunePolicy, RunChange, RunFilter, Store};
use shoal_domain::ids::RunId;
use shoal_domain::labels::Labels;
use shoal_domain::run::{Phase, Validity, Verdict};

use crate::fixtures::{NOW_US, change, grant, new_run, run_id};

crate::on_both_databases!(
    runs_are_listed_by_what_was_said_about_them,
    labels_are_replaced_as_a_whole_and_listed_with_their_run,
    hostile_texts_come_back_as_they_went_in,
    an_agent_is_remembered_as_the_run_had_it,
    a_baseline_has_its_repeats_in_order_and_is_replaced_as_a_whole,
    pruning_spares_the_newest_the_young_the_living_and_baselines,
    a_rare_label_is_found_at_once_among_many_runs,
);

fn labels(texts: &[&str]) -> Labels {
    Labels::parse(texts.iter().copied()).unwrap()
}

fn labelled(n: u64, texts: &[&str]) -> NewRun {
    NewRun { labels: labels(texts), ..new_run(run_id(n), &format!("run-{n}")) }
}

async fn end(store: &Store, run: RunId, validity: Validity, verdict: Verdict, at_us: i64) {
    let change = RunChange {
        validity: Some(validity),
        verdict: Some(verdict),
        exit_code: Some(0),
        ended_at_us: Some(at_us),
        ..change(run, Phase::Finished)
    };
    store.change_run(&change, &[]).await.unwrap();
}

async fn listed(store: &Store, filter: RunFilter) -> Vec<RunId> {
    let page = store.list_runs(&filter, None, 100).await.unwrap();
    page.into_iter().map(|run| run.run_id).collect()
}

async fn runs_are_listed_by_what_was_said_about_them(store: &Store) {
    for (n, texts) in [
        (1, &["env=staging", "team=a"][..]),
        (2, &["env=staging"][..]),
        (3, &["env=prod", "team=a"][..]),
        (4, &[][..]),
    ] {
        let other = if n == 4 { "storm" } else { "telemetry" };
        let run = NewRun {
            scenario_name: other.to_owned(),
            created_at_us: NOW_US + n,
            ..labelled(n as u64, texts)
        };
        store.insert_run(&run).await.unwrap();
    }
    end(store, run_id(1), Validity::Valid, Verdict::Passed, NOW_US).await;
    end(store, run_id(2), Validity::Degraded, Verdict::Failed, NOW_US).await;

    let any = RunFilter::default;
    let by_labels = |texts: &[&str]| RunFilter { labels: labels(texts), ..any() };
    assert_eq!(listed(store, by_labels(&["env=staging"])).await, [2, 1].map(run_id));
    assert_eq!(listed(store, by_labels(&["env=staging", "team=a"])).await, [run_id(1)]);
    assert_eq!(listed(store, by_labels(&["team=b"])).await, []);
    let storm = RunFilter { scenario: Some("storm".into()), ..any() };
    assert_eq!(listed(store, storm).await, [run_id(4)]);
    let failed = RunFilter { verdict: Some(Verdict::Failed), ..any() };
    assert_eq!(listed(store, failed).await, [run_id(2)]);
    let valid = RunFilter { validity: Some(Validity::Valid), ..any() };
    assert_eq!(listed(store, valid).await, [run_id(1)]);
    let span = RunFilter { since_us: Some(NOW_US + 2), until_us: Some(NOW_US + 4), ..any() };
    assert_eq!(listed(store, span).await, [3, 2].map(run_id));
}

async fn labels_are_replaced_as_a_whole_and_listed_with_their_run(store: &Store) {
    store.insert_run(&labelled(1, &["env=staging", "team=a"])).await.unwrap();
    store.insert_run(&labelled(2, &[])).await.unwrap();
    store.set_labels(run_id(1), &labels(&["env=prod"])).await.unwrap();
    assert_eq!(store.labels(run_id(1)).await.unwrap(), labels(&["env=prod"]));
    let page = store.list_runs(&RunFilter::default(), None, 10).await.unwrap();
    let shown: Vec<String> = page.iter().map(|run| run.labels.to_string()).collect();
    assert_eq!(shown, ["", "env=prod"]);
}

async fn hostile_texts_come_back_as_they_went_in(store: &Store) {
    let hostile = "'; DROP TABLE runs; -- <script>alert(1)</script> =1+1 \u{202e}";
    let run = NewRun {
        note: hostile.to_owned(),
        started_by: hostile.to_owned(),
        revision: hostile.to_owned(),
        ..labelled(1, &[&format!("env={hostile}")])
    };
    store.insert_run(&run).await.unwrap();
    let read = store.run(run.run_id).await.unwrap().unwrap();
    assert_eq!([&read.note, &read.started_by, &read.revision], [hostile; 3]);
    let filter = RunFilter { labels: run.labels.clone(), ..RunFilter::default() };
    assert_eq!(listed(store, filter).await, [run.run_id]);
}

async fn an_agent_is_remembered_as_the_run_had_it(store: &Store) {
    let agent = |build: &str| AgentRow {
        agent_id: "agent-1".into(),
        incarnation: 1,
        build: build.into(),
        labels_json: "{}".into(),
        capacity_json: r#"{"cores":2.0}"#.into(),
        host_json: format!(r#"{{"kernel":"{build}"}}"#),
        first_seen_us: NOW_US,
        last_seen_us: NOW_US,
    };
    store.upsert_agent(&agent("0.1.0")).await.unwrap();
    let run = run_id(1);
    store.insert_run(&new_run(run, "steady-heron")).await.unwrap();
    store.insert_assignments(&[grant(run, "a", 1)]).await.unwrap();
    store.upsert_agent(&agent("0.2.0")).await.unwrap();
    store.insert_assignments(&[grant(run, "b", 1)]).await.unwrap();
    let agents = store.run_agents(run).await.unwrap();
    assert_eq!(agents.len(), 1);
    assert_eq!((agents[0].agent_id.as_str(), agents[0].build.as_str()), ("agent-1", "0.1.0"));
    assert_eq!(agents[0].host_json, r#"{"kernel":"0.1.0"}"#);
}

async fn a_baseline_has_its_repeats_in_order_and_is_replaced_as_a_whole(store: &Store) {
    for n in 1..=3 {
        store.insert_run(&labelled(n, &[])).await.unwrap();
    }
    let (any, staging) = (Labels::default(), labels(&["env=staging"]));
    store.set_baseline("telemetry", &any, &[2, 1].map(run_id), NOW_US).await.unwrap();
    store.set_baseline("telemetry", &staging, &[run_id(3)], NOW_US).await.unwrap();
    let of = async |labels: &Labels| {
        let rows = store.baselines(Some("telemetry")).await.unwrap();
        rows.into_iter().filter(|row| row.labels == *labels).map(|row| row.run_id).collect()
    };
    let runs: Vec<RunId> = of(&any).await;
    assert_eq!(runs, [2, 1].map(run_id));
    store.set_baseline("telemetry", &any, &[run_id(3)], NOW_US).await.unwrap();
    let runs: Vec<RunId> = of(&any).await;
    assert_eq!(runs, [run_id(3)]);
    assert!(store.clear_baseline("telemetry", &any).await.unwrap());
    assert!(!store.clear_baseline("telemetry", &any).await.unwrap());
    assert_eq!(store.baselines(None).await.unwrap().len(), 1);
    assert_eq!(store.baselines(Some("storm")).await.unwrap(), []);
}

async fn pruning_spares_the_newest_the_young_the_living_and_baselines(store: &Store) {
    for n in 1..=6 {
        store.insert_run(&labelled(n, &["env=x"])).await.unwrap();
        // Run 2 goes on, run 4 ended just now.
        if n != 2 {
            let at_us = if n == 4 { NOW_US } else { NOW_US - 1_000 };
            end(store, run_id(n), Validity::Valid, Verdict::Passed, at_us).await;
        }
    }
    store.set_baseline("telemetry", &Labels::default(), &[run_id(1)], NOW_US).await.unwrap();
    let policy = PrunePolicy { keep: 1, ended_before_us: NOW_US };
    let found = store.prunable(policy, 100).await.unwrap();
    let ids: Vec<RunId> = found.iter().map(|run| run.run_id).collect();
    assert_eq!(ids, [3, 5].map(run_id));
    assert_eq!(store.prunable(policy, 1).await.unwrap(), found[..1]);
    assert!(!store.delete_run(run_id(1)).await.unwrap(), "a baseline");
    assert!(!store.delete_run(run_id(2)).await.unwrap(), "goes on");
    assert!(store.delete_run(run_id(3)).await.unwrap());
    assert_eq!(store.labels(run_id(3)).await.unwrap(), Labels::default());
}

/// Generous for a debug build on a busy machine; `figures` measures 10,000 runs.
async fn a_rare_label_is_found_at_once_among_many_runs(store: &Store) {
    for n in 1..=1_000 {
        let env = if n % 10 == 0 { "env=staging" } else { "env=prod" };
        store.insert_run(&labelled(n, &[env])).await.unwrap();
    }
    let filter = RunFilter { labels: labels(&["env=staging"]), ..RunFilter::default() };
    let started = Instant::now();
    let page = store.list_runs(&filter, None, 50).await.unwrap();
    let rare = RunFilter { labels: labels(&["env=nowhere"]), ..RunFilter::default() };
    assert_eq!(store.list_runs(&rare, None, 50).await.unwrap(), []);
    let took = started.elapsed();
    assert_eq!(page.len(), 50);
    assert!(took < Duration::from_secs(1), "{took:?}");
}
