//! A gate: how far a candidate may move away from its baseline, written as what must hold.
//!
//! `sensors.telemetry.response_time.p95 <= +10% (floor 5ms)`: at most a tenth above the baseline;
//! moves of up to 5 ms always pass, since a tenth of next to nothing is nothing. A percentage is of
//! the baseline's value, also for shares; an absolute step of a share is written in `pp`.

use super::{Measured, Side, unit};
use crate::outcome::Operation;
use crate::plan::{Comparison, Limit, Metric};
use crate::report::ThresholdResult;
use crate::threshold::{COUNTERS, STATISTICS, TIMES, parse_limit, split};

#[derive(Debug, Clone, PartialEq)]
pub struct Gate {
    /// As a person wrote it.
    pub text: String,
    path: MetricPath,
    comparison: Comparison,
    step: Step,
    /// In the metric's unit; smaller moves always pass.
    floor: f64,
}

/// A number of a run, as threshold paths name it.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricPath {
    subject: Subject,
    metric: Metric,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Subject {
    Series { group: String, name: String },
    All(Operation),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Step {
    /// Of the baseline's value.
    Relative(f64),
    /// In the metric's unit.
    Absolute(f64),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GateJudgement {
    pub baseline: Option<f64>,
    pub candidate: Option<f64>,
    /// `us`, `per_s`, `ratio` or `count`.
    pub unit: &'static str,
    pub result: ThresholdResult,
}

impl Gate {
    pub fn parse(text: &str) -> Result<Self, String> {
        let (path, comparison, rest) = split(text)?;
        let path = MetricPath::parse(path)?;
        if matches!(comparison, Comparison::Equal | Comparison::NotEqual) {
            return Err(format!("`{text}`: a gate says <=, <, >= or >"));
        }
        let (step, floor) = match rest.split_once('(') {
            None => (rest, None),
            Some((step, floor)) => {
                let floor = floor
                    .trim_end()
                    .strip_suffix(')')
                    .and_then(|floor| floor.trim().strip_prefix("floor "))
                    .ok_or_else(|| format!("`({floor}`: (floor 5ms) is expected"))?;
                (step, Some(floor.trim()))
            }
        };
        let step = path.step(step.trim())?;
        let floor = floor.map_or(Ok(0.0), |floor| path.amount(floor))?;
        Ok(Self { text: text.trim().to_owned(), path, comparison, step, floor })
    }

    /// No data fails.
    pub fn judge(&self, baseline: &Side, candidate: &Side) -> GateJudgement {
        let (before, after) = (self.path.value(baseline), self.path.value(candidate));
        let result = match before.zip(after) {
            None => ThresholdResult::NoData,
            Some((before, after)) if self.holds(before, after) => ThresholdResult::Passed,
            Some(_) => ThresholdResult::Failed,
        };
        let unit = unit(self.path.metric);
        GateJudgement { baseline: before, candidate: after, unit, result }
    }

    fn holds(&self, before: f64, after: f64) -> bool {
        let bound = match self.step {
            Step::Relative(share) => before + before * share,
            Step::Absolute(amount) => before + amount,
        };
        let (within, moved) = match self.comparison {
            Comparison::Less => (after < bound, after - before),
            Comparison::AtMost | Comparison::Equal => (after <= bound, after - before),
            Comparison::Greater => (after > bound, before - after),
            Comparison::AtLeast | Comparison::NotEqual => (after >= bound, before - after),
        };
        within || (self.floor > 0.0 && moved <= self.floor)
    }
}

impl MetricPath {
    pub fn parse(text: &str) -> Result<Self, String> {
        let shape = || {
            format!(
                "`{text}` is no metric path: <group>.<series>.<metric>[.<statistic>] or all.<operation>.<metric>[.<statistic>] is expected"
            )
        };
        let words: Vec<&str> = text.split('.').collect();
        let [first, second, rest @ ..] = words.as_slice() else { return Err(shape()) };
        let metric = metric(rest).ok_or_else(shape)?;
        let subject = if *first == "all" {
            Subject::All(
                Operation::from_word(second)
                    .ok_or_else(|| format!("`{second}` is no operation"))?,
            )
        } else {
            Subject::Series { group: (*first).to_owned(), name: (*second).to_owned() }
        };
        // What comes from the plan is no result, and is the same in both runs.
        if matches!(metric, Metric::Planned | Metric::Unassigned) {
            return Err(format!("`{text}` comes from the plan and is not compared"));
        }
        Ok(Self { subject, metric })
    }

    pub fn unit(&self) -> &'static str {
        unit(self.metric)
    }

    pub fn value(&self, side: &Side) -> Option<f64> {
        match &self.subject {
            Subject::Series { group, name } => side
                .series
                .iter()
                .find(|measured| measured.group == *group && measured.name == *name)?
                .value(self.metric),
            Subject::All(operation) => {
                let mut series =
                    side.series.iter().filter(|measured| measured.operation == *operation);
                let mut all: Measured = series.next()?.clone();
                for measured in series {
                    all.tally.merge(&measured.tally);
                    all.seconds = all.seconds.max(measured.seconds);
                }
                all.value(self.metric)
            }
        }
    }

    /// `+10%`, `-5%`, `+5ms`, `+0.5pp`.
    fn step(&self, text: &str) -> Result<Step, String> {
        let (sign, size) = match text.strip_prefix('-') {
            Some(size) => (-1.0, size),
            None => (1.0, text.strip_prefix('+').unwrap_or(text)),
        };
        match parse_limit(size.trim()) {
            Some(Limit::Ratio(share)) => Ok(Step::Relative(sign * share)),
            _ => Ok(Step::Absolute(sign * self.amount(size.trim())?)),
        }
    }

    /// A size in the metric's unit; of shares both `1%` and `1pp` are one in a hundred.
    fn amount(&self, text: &str) -> Result<f64, String> {
        let needs = match self.unit() {
            "us" => "a duration like 5ms",
            "per_s" => "a rate like 5/s",
            "ratio" => "a share like 0.5pp",
            _ => "a count like 100",
        };
        let points = text.strip_suffix("pp").map(|number| format!("{number}%"));
        let limit = parse_limit(points.as_deref().unwrap_or(text));
        match (self.unit(), limit) {
            ("us", Some(Limit::Micros(us))) => Ok(us),
            ("per_s", Some(Limit::PerSecond(rate))) => Ok(rate),
            ("ratio", Some(Limit::Ratio(share))) => Ok(share),
            ("count", Some(Limit::Count(count))) => Ok(count),
            _ => Err(format!("`{text}`: {needs} is expected, or a percentage of the baseline")),
        }
    }
}

fn metric(words: &[&str]) -> Option<Metric> {
    match words {
        [word] => COUNTERS.iter().find(|(known, _)| known == word).map(|(_, metric)| *metric),
        [word, stat] => {
            let (_, time) = TIMES.iter().find(|(known, _)| known == word)?;
            let (_, stat) = STATISTICS.iter().find(|(known, _)| known == stat)?;
            Some(time(*stat))
        }
        _ => None,
    }
}
