//! One run against another: differences of what was measured, and whether they mean anything.
//!
//! Only the steady stages are compared unless a caller asks for others, because a ramp measures the
//! ramp; thresholds judge the whole run. Values come from the merged histograms of those stages.
//! A difference is judged only where repeats of the baseline say how much such runs differ by
//! themselves; one run against one run is shown and not judged. `docs/results.md` has the method.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::delta::Tally;
use crate::ids::{SeriesId, StageId};
use crate::outcome::Operation;
use crate::plan::{Metric, Plan, StageKind, Statistic};
use crate::report::{SCHEMA, ThresholdResult};
use crate::threshold::{COUNTERS, STATISTICS, TIMES};
use crate::verdict::{Facts, statistic_of};

mod differences;
mod gate;
mod noise;

pub use differences::{Differences, differences};
pub use gate::{Gate, GateJudgement, MetricPath};
pub use noise::{Judged, judge};

/// What is compared of a run: its series over the chosen stages.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Side {
    pub run: String,
    pub series: Vec<Measured>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    pub group: String,
    pub name: String,
    pub operation: Operation,
    pub tally: Tally,
    /// Length of the chosen stages, as far as the run came.
    pub seconds: f64,
}

/// Which part of the runs is compared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Stages {
    /// Those in which the load does not change; all, if there is none such.
    #[default]
    Steady,
    All,
    Named(Vec<String>),
}

/// The document of `shoal compare --output json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    pub schema: u32,
    /// Ids of the runs.
    pub baseline: String,
    pub candidate: String,
    pub series: Vec<ComparedMetric>,
    pub gates: Vec<GateReport>,
}

/// One number of one series in both runs; null where a run has none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ComparedMetric {
    pub group: String,
    pub name: String,
    pub operation: Operation,
    /// As in threshold paths. Times are in µs, rates per second, all others shares 0..1.
    pub metric: String,
    pub stat: Option<String>,
    pub baseline: Option<f64>,
    pub candidate: Option<f64>,
    /// Candidate − baseline.
    pub difference: Option<f64>,
    /// Difference / baseline; null where the baseline is 0.
    pub relative_ratio: Option<f64>,
    pub judged: Judged,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GateReport {
    pub expr: String,
    pub result: ThresholdResult,
}

/// In the order of a reader's questions.
const COMPARED: [Metric; 16] = [
    Metric::ResponseTime(Statistic::P50),
    Metric::ResponseTime(Statistic::P90),
    Metric::ResponseTime(Statistic::P95),
    Metric::ResponseTime(Statistic::P99),
    Metric::ResponseTime(Statistic::Mean),
    Metric::ResponseTime(Statistic::Max),
    Metric::ServiceTime(Statistic::P50),
    Metric::ServiceTime(Statistic::P95),
    Metric::ServiceTime(Statistic::P99),
    Metric::SendLag(Statistic::P99),
    Metric::Errors,
    Metric::Rate,
    Metric::Held,
    Metric::Missed,
    Metric::NotConnected,
    Metric::Unsent,
];

/// The ids of the chosen stages; the name of one that the plan does not have is an error.
pub fn choose(plan: &Plan, stages: &Stages) -> Result<BTreeSet<StageId>, String> {
    let ids = || (0..plan.stages.len()).map(|n| StageId(n as u32));
    let stage = |id: &StageId| &plan.stages[id.index()];
    match stages {
        Stages::All => Ok(ids().collect()),
        Stages::Steady => {
            let steady: BTreeSet<StageId> =
                ids().filter(|id| matches!(stage(id).kind, StageKind::Hold)).collect();
            Ok(if steady.is_empty() { ids().collect() } else { steady })
        }
        Stages::Named(names) => {
            if let Some(unknown) =
                names.iter().find(|name| plan.stages.iter().all(|stage| stage.name != **name))
            {
                return Err(unknown.clone());
            }
            Ok(ids().filter(|id| names.contains(&stage(id).name)).collect())
        }
    }
}

/// What `stages` of a run amount to. Of `facts` only the cells and the end are looked at.
pub fn side(run: String, plan: &Plan, facts: &Facts, stages: &BTreeSet<StageId>) -> Side {
    let measured = |(id, series): (usize, &crate::plan::Series)| {
        let group = &plan.groups[series.group];
        let load = &plan.loads[group.load].stages;
        let seconds = stages.iter().filter(|stage| load.contains(&stage.index()));
        Measured {
            group: group.name.clone(),
            name: series.name.clone(),
            operation: series.operation,
            tally: facts
                .total(|of, in_stage| of == SeriesId(id as u32) && stages.contains(&in_stage))
                .0,
            seconds: seconds.map(|stage| facts.seconds(plan, Some(*stage))).sum(),
        }
    };
    Side { run, series: plan.series.iter().enumerate().map(measured).collect() }
}

/// `repeats` are further runs of what the baseline tested.
pub fn compare(baseline: &Side, repeats: &[Side], candidate: &Side, gates: &[Gate]) -> Comparison {
    let mut series = Vec::new();
    for key in keys(baseline, candidate) {
        for metric in COMPARED {
            series.extend(compared(&key, metric, baseline, repeats, candidate));
        }
    }
    let gates = gates.iter().map(|gate| GateReport {
        expr: gate.text.clone(),
        result: gate.judge(baseline, candidate).result,
    });
    Comparison {
        schema: SCHEMA,
        baseline: baseline.run.clone(),
        candidate: candidate.run.clone(),
        series,
        gates: gates.collect(),
    }
}

type Key = (String, String, Operation);

impl Measured {
    fn key(&self) -> Key {
        (self.group.clone(), self.name.clone(), self.operation)
    }

    /// `None` without data. Slot classes are shares of the slots that were classed.
    pub fn value(&self, metric: Metric) -> Option<f64> {
        let tally = &self.tally;
        let share = |n: u64, whole: u64| (whole > 0).then(|| n as f64 / whole as f64);
        match metric {
            Metric::ResponseTime(statistic) => statistic_of(&tally.response_time, statistic).0,
            Metric::ServiceTime(statistic) => statistic_of(&tally.service_time, statistic).0,
            Metric::SendLag(statistic) => statistic_of(&tally.send_lag, statistic).0,
            Metric::Errors => share(tally.n_errors(), tally.sent),
            Metric::Rate => (self.seconds > 0.0).then(|| tally.sent as f64 / self.seconds),
            Metric::Sent | Metric::Count => Some(tally.sent as f64),
            // What happens to connections has attempts, not slots.
            _ if !self.operation.is_send() => None,
            Metric::Missed => share(tally.missed, tally.n_classed()),
            Metric::Held => share(tally.held, tally.n_classed()),
            Metric::NotConnected => share(tally.not_connected, tally.n_classed()),
            Metric::Away => share(tally.away, tally.n_classed()),
            Metric::Unsent => share(tally.unsent, tally.n_classed()),
            _ => None,
        }
    }
}

impl Side {
    fn of(&self, key: &Key) -> Option<&Measured> {
        self.series.iter().find(|measured| measured.key() == *key)
    }
}

/// The series of both, the baseline's first.
fn keys(baseline: &Side, candidate: &Side) -> Vec<Key> {
    let mut keys: Vec<Key> = Vec::new();
    for measured in baseline.series.iter().chain(&candidate.series) {
        if !keys.contains(&measured.key()) {
            keys.push(measured.key());
        }
    }
    keys
}

/// `None`: neither run has such a number.
fn compared(
    key: &Key,
    metric: Metric,
    baseline: &Side,
    repeats: &[Side],
    candidate: &Side,
) -> Option<ComparedMetric> {
    let value = |side: &Side| side.of(key).and_then(|measured| measured.value(metric));
    let (before, after) = (value(baseline), value(candidate));
    before.or(after)?;
    let both = before.zip(after);
    let difference = both.map(|(before, after)| after - before);
    let relative =
        both.filter(|(before, _)| *before != 0.0).map(|(before, after)| (after - before) / before);
    let judged = both.map_or(Judged::NotJudged, |(before, after)| {
        let repeated: Vec<f64> =
            std::iter::once(before).chain(repeats.iter().filter_map(value)).collect();
        judge(metric, &repeated, after)
    });
    let (word, stat) = words(metric)?;
    Some(ComparedMetric {
        group: key.0.clone(),
        name: key.1.clone(),
        operation: key.2,
        metric: word.to_owned(),
        stat: stat.map(str::to_owned),
        baseline: before,
        candidate: after,
        difference,
        relative_ratio: relative,
        judged,
    })
}

/// A metric as threshold paths write it.
fn words(metric: Metric) -> Option<(&'static str, Option<&'static str>)> {
    if let Some((word, _)) = COUNTERS.iter().find(|(_, known)| *known == metric) {
        return Some((word, None));
    }
    TIMES.iter().find_map(|(word, time)| {
        let (stat, _) = STATISTICS.iter().find(|(_, known)| time(*known) == metric)?;
        Some((*word, Some(*stat)))
    })
}

/// `us`, `per_s`, `count` or `ratio`.
pub fn unit(metric: Metric) -> &'static str {
    match metric {
        Metric::ResponseTime(_) | Metric::ServiceTime(_) | Metric::SendLag(_) => "us",
        Metric::Rate => "per_s",
        Metric::Sent | Metric::Count => "count",
        _ => "ratio",
    }
}

#[cfg(test)]
mod tests;
