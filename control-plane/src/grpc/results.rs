//! Past runs: what people say about them, which ones others are compared with, which ones go.

use std::collections::HashMap;

use shoal_domain::labels::{Labels, MAX_TEXT};
use shoal_domain::logs::Level;
use shoal_domain::plan::Plan;
use shoal_proto::v1;
use shoal_service_kit::Clock;

use super::ControlApi;
use crate::clock::ControlClock;
use crate::logs;
use crate::orchestrator::{labels_from_wire, text};
use crate::record::{Record, plan_of};
use crate::refusal::{Kind, Refusal};
use crate::store::{BaselineRow, NewEvent, PrunePolicy, RunRow};

/// Runs that one call deletes; the caller repeats while there are more.
const PRUNED_AT_ONCE: i64 = 1_000;

pub(super) fn to_wire(labels: &Labels) -> HashMap<String, String> {
    labels.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn reference(row: &RunRow) -> v1::RunReference {
    v1::RunReference { run_id: row.run_id.to_string(), name: row.name.clone() }
}

impl ControlApi {
    pub(super) async fn logs_wanted(
        &self,
        request: v1::ReadLogsRequest,
    ) -> Result<logs::Wanted, Refusal> {
        let v1::ReadLogsRequest { run, agent_id, level, follow } = request;
        let word = if level.is_empty() { "INFO".to_owned() } else { level.to_uppercase() };
        let level = Level::from_word(&word).ok_or_else(|| {
            let message = format!("`{level}` is no level: error, warn or info is expected");
            Refusal::new(Kind::Invalid, "SH0602", message)
        })?;
        let run = self.find(&run).await?.run_id;
        let agent = (!agent_id.is_empty()).then_some(agent_id);
        Ok(logs::Wanted { run, agent, level, follow })
    }

    /// The run, its plan, and when its run time began.
    pub(super) async fn requests_wanted(&self, run: &str) -> Result<(RunRow, Plan, u64), Refusal> {
        let row = self.find(run).await?;
        let record = Record::of(&row)?;
        if record.sample_millionths == 0 {
            let message = format!("run {} keeps no request log", row.name);
            return Err(Refusal::new(Kind::Invalid, "SH0709", message)
                .help("start it with `--sample 1%`, or `shoal run … --request-log FILE`"));
        }
        let plan = plan_of(&self.store, &row).await?;
        Ok((row, plan, record.state.t0_us().unwrap_or(0)))
    }

    pub(super) async fn annotated(
        &self,
        request: v1::AnnotateRequest,
    ) -> Result<v1::RunReference, Refusal> {
        let text = text("annotation", request.text, MAX_TEXT)?;
        if text.is_empty() {
            return Err(Refusal::new(Kind::Invalid, "SH0701", "the annotation is empty"));
        }
        let row = self.find(&request.run).await?;
        let at_us = ControlClock.unix_us() as i64;
        let event = NewEvent { at_us, kind: "annotation".to_owned(), text };
        self.store.append_events(row.run_id, &[event]).await?;
        Ok(reference(&row))
    }

    pub(super) async fn labelled(
        &self,
        request: v1::ChangeLabelsRequest,
    ) -> Result<v1::ChangeLabelsResponse, Refusal> {
        let row = self.find(&request.run).await?;
        let before = self.store.labels(row.run_id).await?;
        let kept = before
            .iter()
            .filter(|(name, _)| !request.remove.iter().any(|removed| removed == name))
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let labels = labels_from_wire(kept.chain(request.set).collect())?;
        self.store.set_labels(row.run_id, &labels).await?;
        let labels = to_wire(&labels);
        Ok(v1::ChangeLabelsResponse { run: Some(reference(&row)), labels })
    }

    pub(super) async fn pruned(
        &self,
        request: v1::PruneRequest,
    ) -> Result<v1::PruneResponse, Refusal> {
        if !request.runs.is_empty() {
            return self.deleted(&request.runs, request.dry_run).await;
        }
        let now_us = ControlClock.unix_us();
        let policy = PrunePolicy {
            keep: request.keep.min(i64::MAX as u64) as i64,
            ended_before_us: now_us.saturating_sub(request.older_than_us) as i64,
        };
        let mut found = self.store.prunable(policy, PRUNED_AT_ONCE + 1).await?;
        let more = found.len() > PRUNED_AT_ONCE as usize;
        found.truncate(PRUNED_AT_ONCE as usize);
        let mut runs = Vec::new();
        for run in found {
            // One that became a baseline in between stays.
            if request.dry_run || self.store.delete_run(run.run_id).await? {
                runs.push(v1::RunReference { run_id: run.run_id.to_string(), name: run.name });
            }
        }
        Ok(v1::PruneResponse { runs, more })
    }

    async fn deleted(&self, wanted: &[String], dry: bool) -> Result<v1::PruneResponse, Refusal> {
        let mut rows = Vec::new();
        // All or none: first every reason against it.
        for run in wanted {
            let row = self.find(run).await?;
            if !row.phase.is_over() {
                let message = format!("run {} is {} and goes on", row.name, row.phase.word());
                return Err(Refusal::new(Kind::Conflict, "SH0702", message)
                    .help(format!("end it first: `shoal stop {}`", row.name)));
            }
            if let Some(baseline) =
                self.store.baselines(None).await?.iter().find(|known| known.run_id == row.run_id)
            {
                let scenario = &baseline.scenario_name;
                let message = format!("run {} belongs to the baseline of {scenario}", row.name);
                return Err(Refusal::new(Kind::Conflict, "SH0702", message)
                    .help(format!("first: `shoal baseline clear {scenario}`")));
            }
            rows.push(row);
        }
        let mut runs = Vec::new();
        for row in rows {
            if dry || self.store.delete_run(row.run_id).await? {
                runs.push(reference(&row));
            }
        }
        Ok(v1::PruneResponse { runs, more: false })
    }

    pub(super) async fn baseline_set(
        &self,
        request: v1::SetBaselineRequest,
    ) -> Result<v1::Baseline, Refusal> {
        let labels = labels_from_wire(request.labels)?;
        let mut rows: Vec<RunRow> = Vec::new();
        for run in &request.runs {
            let row = self.find(run).await?;
            if !row.phase.is_over() || row.t0_us.is_none() {
                let message = format!("run {} is {}", row.name, row.phase.word());
                return Err(Refusal::new(Kind::Invalid, "SH0703", message)
                    .help("a baseline is a run that sent and is over"));
            }
            if let Some(first) = rows.first()
                && first.scenario_name != row.scenario_name
            {
                let message = format!(
                    "{} is a run of {}, {} of {}",
                    first.name, first.scenario_name, row.name, row.scenario_name
                );
                return Err(Refusal::new(Kind::Invalid, "SH0703", message)
                    .help("the repeats of a baseline are runs of its scenario"));
            }
            if rows.iter().all(|known| known.run_id != row.run_id) {
                rows.push(row);
            }
        }
        let Some(first) = rows.first() else {
            return Err(Refusal::new(Kind::Invalid, "SH0703", "no run was named"));
        };
        let now_us = ControlClock.unix_us();
        let ids: Vec<_> = rows.iter().map(|row| row.run_id).collect();
        self.store.set_baseline(&first.scenario_name, &labels, &ids, now_us as i64).await?;
        Ok(v1::Baseline {
            scenario: first.scenario_name.clone(),
            labels: to_wire(&labels),
            runs: rows.iter().map(reference).collect(),
            set_at_us: now_us,
        })
    }

    pub(super) async fn baseline_cleared(
        &self,
        request: v1::ClearBaselineRequest,
    ) -> Result<v1::ClearBaselineResponse, Refusal> {
        let labels = labels_from_wire(request.labels)?;
        let was_set = self.store.clear_baseline(&request.scenario, &labels).await?;
        Ok(v1::ClearBaselineResponse { was_set })
    }

    pub(super) async fn baselines(&self, scenario: &str) -> Result<Vec<v1::Baseline>, Refusal> {
        let scenario = (!scenario.is_empty()).then_some(scenario);
        let rows = self.store.baselines(scenario).await?;
        let same = |a: &BaselineRow, b: &BaselineRow| {
            a.scenario_name == b.scenario_name && a.labels == b.labels
        };
        let baseline = |rows: &[BaselineRow]| v1::Baseline {
            scenario: rows[0].scenario_name.clone(),
            labels: to_wire(&rows[0].labels),
            runs: rows
                .iter()
                .map(|row| v1::RunReference {
                    run_id: row.run_id.to_string(),
                    name: row.run_name.clone(),
                })
                .collect(),
            set_at_us: rows[0].set_at_us as u64,
        };
        Ok(rows.chunk_by(same).map(baseline).collect())
    }
}
