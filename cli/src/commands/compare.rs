//! `shoal compare` and `shoal trend`: past runs against each other.

use serde_json::Value;
use shoal_domain::compare::Comparison;
use shoal_domain::report::ThresholdResult;
use shoal_proto::v1::{CompareRequest, ComparisonResult, TrendRequest};

use super::DONE;
use super::past::to_wire;
use crate::about;
use crate::args::results::{CompareArgs, TrendArgs};
use crate::args::{Global, Output};
use crate::config::Settings;
use crate::error::Error;
use crate::here::Wish;
use crate::place::Place;
use crate::render::{self, Paint, comparison, json};

/// A gate that does not hold, like a threshold that fails.
const FAILED: u8 = 1;

pub(super) async fn compare(
    global: &Global,
    settings: &Settings,
    args: CompareArgs,
) -> Result<u8, Error> {
    let (baseline, candidates) = sides(&args)?;
    let request = CompareRequest {
        baseline,
        repeats: args.repeat,
        candidates,
        gates: args.gate,
        stages: args.stage,
        all_stages: args.all_stages,
        force: args.force,
        labels: to_wire(&about::labels(&args.label)?),
    };
    let mut place = Place::open(settings, Wish::private(0), global.quiet).await?;
    let answer = place.client.compare(request).await;
    let results = answer.map_err(|status| place.refused(&status))?.into_inner().comparisons;
    let (text, holds) = shown(&results, global.output, args.all)?;
    render::data(&text)?;
    place.close().await;
    Ok(if holds { DONE } else { FAILED })
}

/// The baseline (empty: the stored one) and the runs to compare with it.
fn sides(args: &CompareArgs) -> Result<(String, Vec<String>), Error> {
    if args.baseline {
        let last = || vec!["last".to_owned()];
        let runs = if args.runs.is_empty() { last() } else { args.runs.clone() };
        return Ok((String::new(), runs));
    }
    match args.runs.as_slice() {
        [baseline, candidates @ ..] if !candidates.is_empty() => {
            Ok((baseline.clone(), candidates.to_vec()))
        }
        _ => Err(Error::Usage {
            why: "a comparison needs a baseline and a run".into(),
            help: "`shoal compare BASELINE RUN`, or `shoal compare --baseline RUN`".into(),
        }),
    }
}

fn shown(results: &[ComparisonResult], output: Output, all: bool) -> Result<(String, bool), Error> {
    let mut holds = true;
    let mut texts = Vec::new();
    let mut values: Vec<Value> = Vec::new();
    for result in results {
        let run = || result.candidate.as_ref().map(|run| run.name.clone()).unwrap_or_default();
        let bad =
            |error: serde_json::Error| Error::BadDocument { run: run(), why: error.to_string() };
        let value: Value = serde_json::from_slice(&result.json).map_err(bad)?;
        let read: Comparison = serde_json::from_value(value.clone()).map_err(bad)?;
        holds &= read.gates.iter().all(|gate| gate.result == ThresholdResult::Passed);
        texts.push(comparison::render(&read, result, all, Paint::for_stdout()));
        values.push(value);
    }
    let text = match output {
        Output::Table => texts.join("\n"),
        Output::Csv => json::rows(&values.iter().map(of_runs).collect::<Vec<_>>(), "series"),
        // One comparison is one document, as most pipelines ask for one.
        output if values.len() == 1 => json::document(&values[0], output),
        output => json::documents(values, output),
    };
    Ok((text, holds))
}

/// In a table the columns `baseline` and `candidate` are values, so the runs have others.
fn of_runs(comparison: &Value) -> Value {
    let mut value = comparison.clone();
    for name in ["baseline", "candidate"] {
        value[format!("{name}_run")] = value[name].take();
    }
    value
}

pub(super) async fn trend(
    global: &Global,
    settings: &Settings,
    args: TrendArgs,
) -> Result<u8, Error> {
    let request = TrendRequest {
        metric: args.metric,
        scenario: args.scenario.unwrap_or_default(),
        labels: to_wire(&about::labels(&args.label)?),
        limit: args.limit,
        all_stages: args.all_stages,
    };
    let mut place = Place::open(settings, Wish::private(0), global.quiet).await?;
    let answer = place.client.trend(request).await;
    let bytes = answer.map_err(|status| place.refused(&status))?.into_inner().json;
    let value: Value = serde_json::from_slice(&bytes)
        .map_err(|error| Error::BadDocument { run: "trend".into(), why: error.to_string() })?;
    let text = match global.output {
        Output::Table => comparison::trend(&value),
        Output::Csv => json::rows(&[value], "runs"),
        output => json::document(&value, output),
    };
    render::data(&text)?;
    place.close().await;
    Ok(DONE)
}
