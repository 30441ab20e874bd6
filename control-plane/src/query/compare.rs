//! Runs against a baseline, and one number over the last runs: what `domain::compare` computes,
//! from the summaries. Windows are never touched, so an hour costs as much as a minute.

use std::collections::BTreeSet;

use serde::Serialize;
use shoal_domain::compare::{
    Comparison, Differences, Gate, GateJudgement, MetricPath, Side, Stages, choose, compare,
    differences, side,
};
use shoal_domain::delta::{Cells, merge_cells};
use shoal_domain::ids::StageId;
use shoal_domain::labels::Labels;
use shoal_domain::plan::Plan;
use shoal_domain::report::SCHEMA;
use shoal_domain::run::{Validity, Verdict};
use shoal_domain::verdict::Facts;

use crate::orchestrator::decode;
use crate::record::{Record, plan_of};
use crate::refusal::{Kind, Refusal};
use crate::store::{RunFilter, RunRow, Store};

/// What is asked of a comparison beside the runs.
#[derive(Debug, Clone, Default)]
pub struct Question {
    pub gates: Vec<Gate>,
    pub stages: Stages,
    /// Compare INVALID runs and different loads all the same.
    pub force: bool,
}

#[derive(Debug, Clone)]
pub struct Compared {
    pub comparison: Comparison,
    pub gates: Vec<GateJudgement>,
    /// What a reader must know of this pair.
    pub remarks: Vec<String>,
}

/// Every candidate against the first run of `baseline`; the others of it are its repeats.
pub async fn against_baseline(
    store: &Store,
    baseline: &[RunRow],
    candidates: &[RunRow],
    question: &Question,
) -> Result<Vec<Compared>, Refusal> {
    let (first, repeats) = baseline
        .split_first()
        .ok_or_else(|| Refusal::new(Kind::Invalid, "SH0703", "no baseline was named"))?;
    for row in baseline.iter().chain(candidates) {
        trusted(row, question.force)?;
    }
    let before_plan = plan_of(store, first).await?;
    let stages = chosen(&before_plan, first, &question.stages)?;
    let before = measured(store, first, &before_plan, &stages).await?;
    let mut repeated = Vec::new();
    for row in repeats {
        let plan = plan_of(store, row).await?;
        alike(first, row, &differences(&before_plan, &plan), question.force)?;
        let stages = chosen(&plan, row, &question.stages)?;
        repeated.push(measured(store, row, &plan, &stages).await?);
    }
    let mut results = Vec::new();
    for row in candidates {
        let plan = plan_of(store, row).await?;
        let found = differences(&before_plan, &plan);
        let remarks = alike(first, row, &found, question.force)?;
        let stages = chosen(&plan, row, &question.stages)?;
        let after = measured(store, row, &plan, &stages).await?;
        results.push(Compared {
            comparison: compare(&before, &repeated, &after, &question.gates),
            gates: question.gates.iter().map(|gate| gate.judge(&before, &after)).collect(),
            remarks,
        });
    }
    Ok(results)
}

/// The stored baseline that fits a run best: of its scenario, with the most labels, all of them
/// among the run's (or among `asked`, where a caller names them).
pub async fn baseline_for(
    store: &Store,
    candidate: &RunRow,
    asked: Option<&Labels>,
) -> Result<Vec<RunRow>, Refusal> {
    let own = store.labels(candidate.run_id).await?;
    let rows = store.baselines(Some(&candidate.scenario_name)).await?;
    let fits = |labels: &Labels| asked.map_or(labels.are_among(&own), |asked| labels == asked);
    let best = rows.iter().map(|row| &row.labels).filter(|labels| fits(labels));
    let Some(best) = best.max_by_key(|labels| labels.len()).cloned() else {
        let message =
            format!("no baseline of {} fits run {}", candidate.scenario_name, candidate.name);
        return Err(Refusal::new(Kind::NotFound, "SH0703", message)
            .help("`shoal baseline show` lists them, `shoal baseline set RUN` sets one"));
    };
    let mut runs = Vec::new();
    for row in rows.iter().filter(|row| row.labels == best && row.run_id != candidate.run_id) {
        runs.extend(store.run(row.run_id).await?);
    }
    if runs.is_empty() {
        let message = format!("run {} is the baseline itself", candidate.name);
        return Err(Refusal::new(Kind::Invalid, "SH0703", message)
            .help("name another run to compare it with"));
    }
    Ok(runs)
}

/// A run that never sent has nothing to compare, one that is INVALID has nothing to trust.
fn trusted(row: &RunRow, force: bool) -> Result<(), Refusal> {
    if row.t0_us.is_none() {
        let message = format!("run {} is {} and never sent", row.name, row.phase.word());
        return Err(Refusal::new(Kind::Invalid, "SH0704", message));
    }
    if row.validity == Some(Validity::Invalid) && !force {
        let message = format!("run {} is INVALID: its numbers must not be trusted", row.name);
        return Err(Refusal::new(Kind::Invalid, "SH0705", message)
            .help(format!("`shoal show {}` says why; --force compares all the same", row.name)));
    }
    Ok(())
}

/// Different loads are compared only when asked to; then the differences are remarks.
fn alike(
    first: &RunRow,
    row: &RunRow,
    found: &Differences,
    force: bool,
) -> Result<Vec<String>, Refusal> {
    let of = |text: &String| format!("{} against {}: {text}", first.name, row.name);
    if !found.load.is_empty() && !force {
        let message = format!(
            "{} and {} were not asked alike: {}",
            first.name,
            row.name,
            found.load.join("; ")
        );
        return Err(Refusal::new(Kind::Invalid, "SH0704", message)
            .help("--force compares them all the same"));
    }
    let mut remarks: Vec<String> = found.load.iter().chain(&found.vars).map(of).collect();
    for run in [first, row] {
        match run.validity {
            Some(Validity::Valid) => {}
            Some(validity) => remarks.push(format!("{} is {}", run.name, validity.word())),
            None if !run.phase.is_over() => remarks.push(format!("{} goes on", run.name)),
            None => remarks.push(format!("{} was not judged", run.name)),
        }
    }
    Ok(remarks)
}

fn chosen(plan: &Plan, row: &RunRow, stages: &Stages) -> Result<BTreeSet<StageId>, Refusal> {
    choose(plan, stages).map_err(|unknown| {
        let names: Vec<&str> = plan.stages.iter().map(|stage| stage.name.as_str()).collect();
        let message = format!("run {} has no stage `{unknown}`", row.name);
        Refusal::new(Kind::Invalid, "SH0704", message)
            .help(format!("its stages are {}", names.join(", ")))
    })
}

async fn measured(
    store: &Store,
    row: &RunRow,
    plan: &Plan,
    stages: &BTreeSet<StageId>,
) -> Result<Side, Refusal> {
    let record = Record::of(row)?;
    let mut cells = Cells::new();
    for summary in store.summaries(row.run_id).await? {
        // A stage that is not asked for is not even decoded.
        if summary.stage >= 0 && stages.contains(&StageId(summary.stage as u32)) {
            merge_cells(
                &mut cells,
                &decode("summaries", &summary.assignment_id, &summary.body)?.cells,
            );
        }
    }
    for stored in store.unfolded(row.run_id, None).await? {
        merge_cells(&mut cells, &decode("deltas", &stored.assignment_id, &stored.body)?.cells);
    }
    let ran_us = (super::elapsed_s(&record).max(0.0) * 1e6) as u64;
    let ended_us = record.load_end_us.min(if row.phase.is_over() { u64::MAX } else { ran_us });
    let facts = Facts { cells, ended_us, ..Facts::default() };
    Ok(side(row.run_id.to_string(), plan, &facts, stages))
}

/// One number over the last runs of a scenario, oldest first.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Trend {
    pub schema: u32,
    pub scenario: String,
    pub metric: String,
    pub unit: &'static str,
    pub runs: Vec<TrendPoint>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrendPoint {
    pub run: String,
    pub name: String,
    pub created_us: i64,
    pub validity: Option<Validity>,
    pub verdict: Option<Verdict>,
    pub revision: Option<String>,
    /// Null where the run has no such number.
    pub value: Option<f64>,
}

/// Runs that never sent are left out.
pub async fn trend(
    store: &Store,
    text: &str,
    filter: &RunFilter,
    limit: i64,
    stages: &Stages,
) -> Result<Trend, Refusal> {
    let path = MetricPath::parse(text).map_err(|why| Refusal::new(Kind::Invalid, "SH0706", why))?;
    let mut runs = Vec::new();
    for listing in store.list_runs(filter, None, limit).await? {
        let Some(row) = store.run(listing.run_id).await? else { continue };
        if row.t0_us.is_none() {
            continue;
        }
        let plan = plan_of(store, &row).await?;
        // A scenario may have been another one a year ago.
        let value = match choose(&plan, stages) {
            Ok(stages) => path.value(&measured(store, &row, &plan, &stages).await?),
            Err(_) => None,
        };
        runs.push(TrendPoint {
            run: row.run_id.to_string(),
            name: row.name,
            created_us: row.created_at_us,
            validity: row.validity,
            verdict: row.verdict,
            revision: Some(row.revision).filter(|revision| !revision.is_empty()),
            value,
        });
    }
    runs.reverse();
    Ok(Trend {
        schema: SCHEMA,
        scenario: filter.scenario.clone().unwrap_or_default(),
        metric: text.to_owned(),
        unit: path.unit(),
        runs,
    })
}
