//! What a watcher sees of a run while it goes on: from memory, not from the store.

use std::collections::BTreeSet;

use shoal_domain::ids::{GrantId, RunId};
use shoal_domain::outcome::Operation;
use shoal_domain::roster::Move;
use shoal_domain::run::RunState;
use shoal_proto::v1;
use shoal_service_kit::Clock;

use super::observers;
use crate::clock::ControlClock;
use crate::fleet::grant_key;
use crate::live::LiveRuns;
use crate::orchestrator::{ActiveRun, Status};
use crate::record::Record;
use crate::store::RunRow;

/// Seconds of run time now, negative before t0.
pub fn elapsed_s(record: &Record) -> f64 {
    record.state.t0_us().map_or(0.0, |t0_us| (ControlClock.unix_us() as f64 - t0_us as f64) / 1e6)
}

/// What a watcher sees of a run that this process drives.
pub fn progress(run: RunId, active: &ActiveRun, live: &LiveRuns) -> v1::RunProgress {
    let Status { record, exit_code } = active.status.borrow().clone();
    let phase = record.state.phase();
    let elapsed_s = elapsed_s(&record);
    let run_us = if elapsed_s > 0.0 { (elapsed_s * 1e6) as u64 } else { 0 };
    let stage = active.plan.stage_of(0, run_us);
    let mut progress = v1::RunProgress {
        run_id: run.to_string(),
        name: active.name.clone(),
        phase: phase.word().to_owned(),
        elapsed_s,
        planned_s: record.load_end_us as f64 / 1e6,
        stage: active.plan.stages[stage.index()].name.clone(),
        devices_planned: active.plan.devices(),
        note: note(&record),
        over: phase.is_over(),
        exit_code: i32::from(exit_code.unwrap_or(0)),
        ..v1::RunProgress::default()
    };
    live.read(run, |live| {
        let held = record.roster.grants.iter().filter(|grant| grant.is_live());
        let held = held.filter_map(|grant| live.parts.get(&grant_key(run, &grant.id)));
        for gauge in held.flat_map(|part| &part.devices) {
            progress.devices_connected += gauge.connected;
            progress.devices_failed += gauge.failed;
        }
        for ((series, _), tally) in &live.cells {
            progress.errors += tally.n_errors();
            progress.missed += tally.missed;
            let operation = active.plan.series.get(series.index()).map(|s| s.operation);
            if operation.is_some_and(Operation::is_send) {
                progress.sent += tally.sent;
            }
        }
        let now = live.now();
        progress.sent_per_s = now.sent as f64;
        let quantile = |q| now.response_time.quantile_us(q).unwrap_or(0);
        (progress.p50_us, progress.p95_us, progress.p99_us) =
            (quantile(0.5), quantile(0.95), quantile(0.99));
        progress.observers = observers::progress(&active.plan, live, &now);
    });
    progress
}

fn note(record: &Record) -> String {
    let list = |grants: Vec<&GrantId>| {
        let names: BTreeSet<&str> = grants.iter().map(|grant| grant.agent.as_str()).collect();
        names.into_iter().collect::<Vec<_>>().join(", ")
    };
    match &record.state {
        RunState::Pending { .. } => format!("waiting for {} agent(s)", record.agents_wanted),
        RunState::Preparing { agents, prepared, .. } => {
            format!("waiting for {} to prepare", list(agents.difference(prepared).collect()))
        }
        RunState::Probing { awaited, .. } => {
            let unseen = awaited.iter().filter(|one| !one.is_seen);
            let names: Vec<&str> = unseen.map(|one| one.probe.name.as_str()).collect();
            format!("waiting for the platform's answer at {}", names.join(", "))
        }
        RunState::Stopping { agents, closed, .. } => {
            format!("waiting for {} to close", list(agents.difference(closed).collect()))
        }
        RunState::Collecting { waiting, .. } => {
            format!("waiting for the last deltas of {}", list(waiting.iter().collect()))
        }
        RunState::Over { cause, .. } => cause.sentence(),
        RunState::Armed { .. } | RunState::Running { .. } => {
            let run_us = (elapsed_s(record).max(0.0) * 1e6) as u64;
            let moved = record.roster.moves.last().map(Move::sentence).unwrap_or_default();
            match record.roster.without_agent(run_us) {
                0 => moved,
                n => format!("{n} devices without agent now; {moved}"),
            }
        }
    }
}

/// A finished run as a watcher sees it who came too late.
pub fn ended(row: &RunRow) -> v1::RunProgress {
    v1::RunProgress {
        run_id: row.run_id.to_string(),
        name: row.name.clone(),
        phase: row.phase.word().to_owned(),
        devices_planned: row.planned_devices as u64,
        note: row.cause.clone().unwrap_or_default(),
        over: row.phase.is_over(),
        exit_code: row.exit_code.unwrap_or(4) as i32,
        ..v1::RunProgress::default()
    }
}
