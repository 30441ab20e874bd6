//! What a past costs to ask: two runs of an hour with 20 series on two agents, one of them lost, and
//! ten thousand more runs, on SQLite and on Postgres.
//!
//! Run: `cargo bench --workspace --bench figures`. With `SHOAL_FIGURES=DIR` the SQLite store stays
//! there, for looking at with `shoal --data-dir DIR`. It fails where a figure is above its limit.
#![expect(clippy::unwrap_used, reason = "a bench's panic is its report")]
#![expect(clippy::print_stdout, reason = "a bench prints its table")]

#[path = "../tests/store/databases.rs"]
#[expect(dead_code, reason = "shared with the tests of the store, which use all of it")]
mod databases;
#[path = "../tests/store/fixtures.rs"]
#[expect(dead_code, reason = "shared with the tests of the store, which use all of it")]
mod fixtures;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use shoal_control_plane::coarsen::coarsen;
use shoal_control_plane::query::compare::{Question, against_baseline};
use shoal_control_plane::query::course;
use shoal_control_plane::record::{Record, shard_to_blob};
use shoal_control_plane::store::{
    FoldBatch, NewAssignment, NewRun, RunChange, RunFilter, RunRow, Store, SummaryRow, WindowRow,
};
use shoal_domain::check::parse_plan;
use shoal_domain::delta::{Delta, DeviceGauge, Tally};
use shoal_domain::files::Files;
use shoal_domain::ids::{RunId, SeriesId, StageId};
use shoal_domain::outcome::ErrorClass;
use shoal_domain::plan::Plan;
use shoal_domain::roster::{Ended, Roster, Why};
use shoal_domain::run::{Cause, Phase, RunState, Validity};
use shoal_domain::shard::{Share, deal};
use shoal_proto::metrics;

use databases::Opened;
use fixtures::{NOW_US, change, new_run, run_id};

const HOUR: u64 = 3_600;
const LOST_AT: u64 = 2_400;
const AGENTS: [&str; 2] = ["agent-1", "agent-2"];

fn scenario() -> String {
    let mut text = String::from(
        "version: 1\nname: hour\ntargets:\n  broker: { mqtt: { url: mqtt://127.0.0.1, protocol: 3.1.1 } }\n\
         groups:\n  sensors:\n    target: broker\n    devices: 1000\n    send:\n",
    );
    // With connect and disconnect these are twenty series.
    for n in 1..19 {
        text.push_str(&format!(
            "      series-{n:02}: {{ every: 10s, publish: {{ topic: a, qos: 1, text: x }} }}\n"
        ));
    }
    text.push_str("load:\n  - ramp: { to: 100%, over: 60s }\n  - hold: { for: 59m }\n");
    text
}

/// A second of one series on one agent: fifty answers around `around_us`, sometimes an error.
fn second(window: u64, series: u64, around_us: u64) -> Tally {
    let mut tally = Tally::default();
    for n in 0..50u64 {
        let noise = (window * 31 + series * 17 + n * 7_919).wrapping_mul(2_654_435_761) % 1_000;
        let us = around_us + around_us * noise * noise / 1_000_000;
        tally.sent += 1;
        tally.acked += 1;
        tally.response_time.record(us);
        tally.service_time.record(us * 9 / 10);
        tally.send_lag.record(noise / 10 + 1);
    }
    if window % 97 == series {
        tally.acked -= 1;
        tally.errors.insert(ErrorClass::AckTimeout, 1);
    }
    tally
}

async fn fill(store: &Store, run_id: RunId, name: &str, around_us: u64) {
    let text = scenario();
    let plan = parse_plan(&text, &[], &Files::none()).expect("the scenario is fine");
    let roster = one_is_lost(&plan);
    let t0_us = Some(NOW_US as u64 + 5);
    let record = Record {
        sample_millionths: 0,
        state: RunState::Over { phase: Phase::Finished, t0_us, cause: Cause::Completed },
        load_end_us: plan.end_us(),
        roster,
        false_since_us: BTreeMap::new(),
        scaled: vec![],
        starts: Vec::new(),
        agents_wanted: 2,
        is_owned: false,
        builtin: String::new(),
    };
    let new = NewRun {
        scenario_name: plan.name.clone(),
        scenario_text: text,
        vars_json: "[]".into(),
        ..new_run(run_id, name)
    };
    store.insert_run(&new).await.unwrap();
    assign(store, &plan, run_id).await;
    fold(store, run_id, around_us).await;
    let change = RunChange {
        state_json: record.to_json(),
        validity: Some(Validity::Degraded),
        ended_at_us: Some(NOW_US + HOUR as i64 * 1_000_000),
        ..change(run_id, Phase::Finished)
    };
    store.change_run(&change, &[]).await.unwrap();
}

fn one_is_lost(plan: &Plan) -> Roster {
    let share = Share { weight: 1.0, cap: 10_000 };
    let shards = deal(plan, &[share, share], |_, _| true).expect("two agents are enough");
    let agents = AGENTS.iter().map(|agent| agent.parse().expect("a name"));
    let mut roster = Roster::dealt(agents.zip(shards));
    roster.grants[1].ended = Some(Ended { at_us: LOST_AT * 1_000_000, why: Why::Lost });
    roster
}

async fn assign(store: &Store, plan: &Plan, run_id: RunId) {
    let share = Share { weight: 1.0, cap: 10_000 };
    let shards = deal(plan, &[share, share], |_, _| true).expect("two agents are enough");
    let grants: Vec<NewAssignment> = AGENTS
        .iter()
        .zip(&shards)
        .map(|(agent, shard)| NewAssignment {
            assignment_id: format!("{run_id}-{agent}"),
            epoch: 1,
            run_id,
            agent_id: (*agent).to_owned(),
            blocks: shard_to_blob(shard),
            n_devices: 500,
            incarnation: 1,
        })
        .collect();
    store.insert_assignments(&grants).await.unwrap();
}

async fn fold(store: &Store, run_id: RunId, around_us: u64) {
    let mut totals: BTreeMap<(usize, SeriesId, StageId), Tally> = BTreeMap::new();
    let mut windows = Vec::new();
    for window in 0..HOUR {
        let living = if window < LOST_AT { 2 } else { 1 };
        for series in 0..20u64 {
            let mut sum = Tally::default();
            for agent in 0..living {
                let tally = second(window, series, around_us + 1_000 * agent as u64);
                sum.merge(&tally);
                let stage = StageId(u32::from(window >= 60));
                let key = (agent, SeriesId(series as u32), stage);
                totals.entry(key).or_default().merge(&tally);
            }
            windows.push(row(window, series, sum));
        }
        for (n, agent) in AGENTS.iter().enumerate().take(living).filter(|_| window % 30 == 0) {
            windows.push(gauge(run_id, agent, window, n));
        }
        if windows.len() > 5_000 || window + 1 == HOUR {
            put(store, run_id, std::mem::take(&mut windows), vec![]).await;
        }
    }
    let summaries = totals.into_iter().map(|((agent, series, stage), tally)| SummaryRow {
        series: i64::from(series.0),
        stage: i64::from(stage.0),
        assignment_id: format!("{run_id}-{}", AGENTS[agent]),
        epoch: 1,
        body: metrics::encode(&Delta {
            cells: [((series, stage), tally)].into(),
            ..Delta::default()
        }),
    });
    put(store, run_id, vec![], summaries.collect()).await;
}

fn row(window: u64, series: u64, tally: Tally) -> WindowRow {
    let (sent, acked, errors) = (tally.sent as i64, tally.acked as i64, tally.n_errors() as i64);
    let cells = [((SeriesId(series as u32), StageId(0)), tally)].into();
    let delta = Delta { first_window: window, last_window: window, cells, ..Delta::default() };
    WindowRow {
        series: series as i64,
        region: String::new(),
        window: window as i64,
        body: metrics::encode(&delta),
        sent,
        acked,
        errors,
    }
}

fn gauge(run_id: RunId, agent: &str, window: u64, n: usize) -> WindowRow {
    let connected = (window * 8).min(500 - n as u64);
    let devices = vec![DeviceGauge { connected, ..DeviceGauge::default() }];
    let delta = Delta { first_window: window, last_window: window, devices, ..Delta::default() };
    WindowRow {
        series: -1,
        region: format!("{run_id}-{agent}@1"),
        window: window as i64,
        body: metrics::encode(&delta),
        sent: 0,
        acked: 0,
        errors: 0,
    }
}

async fn put(store: &Store, run_id: RunId, windows: Vec<WindowRow>, summaries: Vec<SummaryRow>) {
    let batch =
        FoldBatch { run_id, owner_epoch: 1, through: vec![], windows, summaries, trackers: vec![] };
    store.fold(&batch).await.unwrap();
}

async fn found(store: &Store, run_id: RunId) -> RunRow {
    store.run(run_id).await.unwrap().expect("it was filled")
}

/// The shortest of three, so that a busy machine counts less.
async fn timed<T>(
    (what, kind, at_most): (&str, &str, Duration),
    mut act: impl AsyncFnMut() -> T,
) -> (T, bool) {
    let mut best: Option<(T, Duration)> = None;
    for _ in 0..3 {
        let started = Instant::now();
        let done = act().await;
        let took = started.elapsed();
        if best.as_ref().is_none_or(|(_, known)| took < *known) {
            best = Some((done, took));
        }
    }
    let (done, took) = best.expect("three were tried");
    let over = took > at_most;
    let word = if over { "TOO SLOW" } else { "ok" };
    println!(
        "{kind:<9} {what:<40} {:>8.1} ms  at most {:>5} ms  {word}",
        took.as_secs_f64() * 1e3,
        at_most.as_millis()
    );
    (done, over)
}

/// Whether every figure is within its limit.
async fn figures(store: &Store, kind: &str) -> bool {
    let ms = Duration::from_millis;
    let (before, after) = (run_id(1), run_id(2));
    fill(store, before, "steady-heron", 2_000).await;
    fill(store, after, "brisk-otter", 2_200).await;
    let baseline = [found(store, before).await];
    let candidate = [found(store, after).await];
    let question = Question { force: true, ..Question::default() };
    let (compared, slow_compare) =
        timed(("compare two hours of 20 series", kind, ms(300)), async || {
            against_baseline(store, &baseline, &candidate, &question).await.unwrap()
        })
        .await;
    assert_eq!(compared[0].comparison.series.iter().filter(|row| row.metric == "rate").count(), 20);
    let (export, slow_course) =
        timed(("an hour of 20 series as a course", kind, ms(3_000)), async || {
            course::export(store, &candidate[0], "here", 240).await.unwrap()
        })
        .await;
    let sent: u64 = export.course.series.iter().flat_map(|series| &series.sent).sum();
    let total = export.distributions.last().map(|all| all.count);
    assert_eq!(Some(sent), total);
    for n in 10..10_010 {
        store.insert_run(&new_run(run_id(n), &format!("run-{n}"))).await.unwrap();
    }
    let (page, slow_list) = timed(("list 50 of 10,000 runs", kind, ms(100)), async || {
        store.list_runs(&RunFilter::default(), None, 50).await.unwrap()
    })
    .await;
    assert_eq!(page.len(), 50);
    let rare = RunFilter { scenario: Some("hour".into()), ..RunFilter::default() };
    let (page, slow_find) =
        timed(("find 2 of 10,000 runs by scenario", kind, ms(100)), async || {
            store.list_runs(&rare, None, 50).await.unwrap()
        })
        .await;
    assert_eq!(page.len(), 2);
    sizes(store, kind, after).await;
    !(slow_compare || slow_course || slow_list || slow_find)
}

/// Bytes that the windows and summaries of one run hold, by second and series, and after the
/// windows became coarser.
async fn sizes(store: &Store, kind: &str, run: RunId) {
    let bodies = async || {
        let windows = store.windows_of(run, 0, i64::MAX).await.unwrap();
        let bytes: usize = windows.iter().map(|row| row.body.len()).sum();
        (windows.len(), bytes)
    };
    let say = |what: &str, (n, bytes): (usize, usize)| {
        let per_hour_and_series = bytes / 20;
        println!(
            "{kind:<9} {what:<40} {n:>8} rows, {bytes:>10} bytes: {per_hour_and_series} per run-hour and series"
        );
    };
    say("windows of one second", bodies().await);
    coarsen(store, Duration::ZERO, u64::MAX / 4).await.unwrap();
    say("windows of a minute", bodies().await);
    let summaries = store.summaries(run).await.unwrap();
    let bytes: usize = summaries.iter().map(|row| row.body.len()).sum();
    println!("{kind:<9} {:<40} {:>8} rows, {bytes:>10} bytes", "summaries", summaries.len());
}

async fn all() -> bool {
    let is_fast = match std::env::var_os("SHOAL_FIGURES").map(PathBuf::from) {
        None => figures(&Opened::sqlite().await.store, "SQLite").await,
        Some(dir) => {
            let url = format!("sqlite:{}", dir.join("shoal.sqlite").display());
            let store = Store::open(&url).await.unwrap();
            let is_fast = figures(&store, "SQLite").await;
            store.close().await;
            is_fast
        }
    };
    figures(&Opened::postgres().await.store, "Postgres").await && is_fast
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    if runtime.block_on(all()) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
