//! Comparisons, trends and exports: references become runs, answers become documents.

use shoal_domain::compare::{Gate, Stages};
use shoal_proto::v1;

use super::ControlApi;
use crate::orchestrator::labels_from_wire;
use crate::query::compare::{Compared, Question, against_baseline, baseline_for, trend};
use crate::query::course::export;
use crate::refusal::{Kind, Refusal};
use crate::store::{RunFilter, RunRow};

const MOST_RUNS: u32 = 500;

impl ControlApi {
    pub(super) async fn compared(
        &self,
        request: v1::CompareRequest,
    ) -> Result<v1::CompareResponse, Refusal> {
        let gate = |text: &String| {
            Gate::parse(text).map_err(|why| Refusal::new(Kind::Invalid, "SH0706", why))
        };
        let question = Question {
            gates: request.gates.iter().map(gate).collect::<Result<_, _>>()?,
            stages: stages(request.all_stages, request.stages),
            force: request.force,
        };
        let candidates = self.find_all(&request.candidates).await?;
        let Some(candidate) = candidates.first() else {
            return Err(Refusal::new(Kind::Invalid, "SH0704", "no run was named to compare"));
        };
        let baseline = if request.baseline.is_empty() {
            let asked = labels_from_wire(request.labels)?;
            let asked = (!asked.is_empty()).then_some(&asked);
            baseline_for(&self.store, candidate, asked).await?
        } else {
            let mut named = vec![request.baseline];
            named.extend(request.repeats);
            self.find_all(&named).await?
        };
        let results = against_baseline(&self.store, &baseline, &candidates, &question).await?;
        let comparisons = results
            .into_iter()
            .zip(&candidates)
            .map(|(compared, candidate)| result(compared, &baseline, candidate))
            .collect::<Result<_, _>>()?;
        Ok(v1::CompareResponse { comparisons })
    }

    pub(super) async fn trended(
        &self,
        request: v1::TrendRequest,
    ) -> Result<v1::TrendResponse, Refusal> {
        let scenario = match request.scenario.as_str() {
            "" => self.find("last").await?.scenario_name,
            named => named.to_owned(),
        };
        let labels = labels_from_wire(request.labels)?;
        let filter = RunFilter { scenario: Some(scenario), labels, ..RunFilter::default() };
        let limit = if request.limit == 0 { 20 } else { request.limit.min(MOST_RUNS) };
        let stages = stages(request.all_stages, Vec::new());
        let trend = trend(&self.store, &request.metric, &filter, i64::from(limit), &stages).await?;
        Ok(v1::TrendResponse { json: written(&trend)? })
    }

    pub(super) async fn exported(
        &self,
        request: v1::ExportRunRequest,
    ) -> Result<v1::ExportRunResponse, Refusal> {
        let row = self.find(&request.run).await?;
        let export = export(&self.store, &row, &self.server, request.points).await?;
        Ok(v1::ExportRunResponse { json: written(&export)? })
    }

    async fn find_all(&self, references: &[String]) -> Result<Vec<RunRow>, Refusal> {
        let mut rows = Vec::new();
        for reference in references {
            rows.push(self.find(reference).await?);
        }
        Ok(rows)
    }
}

fn stages(all: bool, named: Vec<String>) -> Stages {
    match (all, named.is_empty()) {
        (true, _) => Stages::All,
        (false, true) => Stages::Steady,
        (false, false) => Stages::Named(named),
    }
}

fn written(document: &impl serde::Serialize) -> Result<Vec<u8>, Refusal> {
    serde_json::to_vec(document).map_err(|error| {
        Refusal::new(Kind::Internal, "SH0504", format!("the document cannot be written: {error}"))
    })
}

fn result(
    compared: Compared,
    baseline: &[RunRow],
    candidate: &RunRow,
) -> Result<v1::ComparisonResult, Refusal> {
    let reference =
        |row: &RunRow| v1::RunReference { run_id: row.run_id.to_string(), name: row.name.clone() };
    let gates = compared.gates.iter().map(|gate| v1::GateValues {
        baseline: gate.baseline,
        candidate: gate.candidate,
        unit: gate.unit.to_owned(),
    });
    Ok(v1::ComparisonResult {
        json: written(&compared.comparison)?,
        baseline: baseline.iter().map(reference).collect(),
        candidate: Some(reference(candidate)),
        gates: gates.collect(),
        remarks: compared.remarks,
    })
}
