//! Comparisons and trends as text. The judgement stands beside the difference it is about.

use std::fmt::Write as _;

use serde_json::Value;
use shoal_domain::compare::{ComparedMetric, Comparison, Judged};
use shoal_domain::report::ThresholdResult;
use shoal_proto::v1::ComparisonResult;

use super::columns::Columns;
use super::numbers::{count, in_unit, instant, percent};
use super::spark::spark;
use super::{Paint, clean};

/// What a table shows of each series unless asked for everything.
const SHOWN: [(&str, Option<&str>); 8] = [
    ("response_time", Some("p50")),
    ("response_time", Some("p95")),
    ("response_time", Some("p99")),
    ("service_time", Some("p95")),
    ("errors", None),
    ("rate", None),
    ("missed", None),
    ("not_connected", None),
];

pub(crate) fn render(
    comparison: &Comparison,
    result: &ComparisonResult,
    all: bool,
    paint: Paint,
) -> String {
    let name = |run: Option<&shoal_proto::v1::RunReference>| {
        run.map_or(String::new(), |run| clean(&run.name))
    };
    let candidate = name(result.candidate.as_ref());
    let baseline = name(result.baseline.first());
    let repeats: Vec<String> = result.baseline.iter().skip(1).map(|run| clean(&run.name)).collect();
    let mut text = format!("{} against {}", paint.strong(&candidate), paint.strong(&baseline));
    if !repeats.is_empty() {
        let _ = write!(text, ", repeated by {}", repeats.join(", "));
    }
    text.push_str("\n\n");
    let mut columns = Columns::new(&[
        "series",
        "metric",
        ">baseline",
        ">candidate",
        ">difference",
        ">relative",
        "judged",
    ]);
    for row in comparison.series.iter().filter(|row| all || is_shown(row)) {
        columns.row(cells(row));
    }
    text.push_str(&columns.render());
    text.push_str("\nstages: the steady ones unless --stage or --all-stages says otherwise; thresholds judge the whole run\n");
    if result.baseline.len() < 2 {
        text.push_str(
            "not judged: one run against one; --repeat names further runs of the baseline\n",
        );
    }
    for remark in &result.remarks {
        let _ = writeln!(text, "note: {}", clean(remark));
    }
    text.push_str(&gates(comparison, result, paint));
    text
}

/// The rows of a first look: the usual numbers, without classes that stayed empty.
fn is_shown(row: &ComparedMetric) -> bool {
    let is_empty_class = matches!(row.metric.as_str(), "missed" | "not_connected")
        && row.baseline.unwrap_or(0.0) == 0.0
        && row.candidate.unwrap_or(0.0) == 0.0;
    let metric = (row.metric.as_str(), row.stat.as_deref());
    SHOWN.contains(&metric) && !is_empty_class
}

fn unit(row: &ComparedMetric) -> &'static str {
    match row.metric.as_str() {
        "rate" => "per_s",
        "response_time" | "service_time" | "send_lag" => "us",
        _ => "ratio",
    }
}

fn cells(row: &ComparedMetric) -> Vec<String> {
    let unit = unit(row);
    let value = |value: Option<f64>| value.map_or("-".into(), |value| in_unit(value, unit));
    let judged = match row.judged {
        Judged::NotJudged => "not judged",
        Judged::NoDifference => "no difference",
        Judged::Better => "better",
        Judged::Worse => "WORSE",
    };
    vec![
        format!("{}.{}", row.group, row.name),
        match &row.stat {
            Some(stat) => format!("{} {stat}", row.metric),
            None => row.metric.clone(),
        },
        value(row.baseline),
        value(row.candidate),
        row.difference.map_or("-".into(), |value| signed(value, |size| in_unit(size, unit))),
        row.relative_ratio.map_or("-".into(), |ratio| signed(ratio, percent)),
        judged.into(),
    ]
}

fn signed(value: f64, show: impl Fn(f64) -> String) -> String {
    let sign = if value > 0.0 {
        "+"
    } else if value < 0.0 {
        "-"
    } else {
        ""
    };
    format!("{sign}{}", show(value.abs()))
}

fn gates(comparison: &Comparison, result: &ComparisonResult, paint: Paint) -> String {
    if comparison.gates.is_empty() {
        return String::new();
    }
    let mut text = String::from("\ngates\n");
    for (n, gate) in comparison.gates.iter().enumerate() {
        let mark = match gate.result {
            ThresholdResult::Passed => paint.good("ok    "),
            ThresholdResult::Failed => paint.bad("FAILED"),
            ThresholdResult::NoData => paint.bad("NODATA"),
        };
        let _ = write!(text, "{mark} {}", clean(&gate.expr));
        if let Some(values) = result.gates.get(n) {
            let value = |value: Option<f64>| {
                value.map_or("no data".into(), |value| in_unit(value, &values.unit))
            };
            let _ = write!(text, ": {} after {}", value(values.candidate), value(values.baseline));
        }
        text.push('\n');
    }
    text
}

/// `shoal trend`: a line of blocks, then the runs, oldest first.
pub(crate) fn trend(trend: &Value) -> String {
    let unit = trend["unit"].as_str().unwrap_or("count");
    let runs = trend["runs"].as_array().map_or(&[][..], Vec::as_slice);
    if runs.is_empty() {
        return "no runs\n".into();
    }
    let values: Vec<Option<f64>> = runs.iter().map(|run| run["value"].as_f64()).collect();
    let word = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let mut text = format!(
        "{} of {}, {} runs\n{}\n\n",
        clean(&word(&trend["metric"])),
        clean(&word(&trend["scenario"])),
        count(runs.len() as u64),
        spark(&values, 80)
    );
    let mut columns =
        Columns::new(&["run", "created (UTC)", "validity", "verdict", "revision", ">value"]);
    for (run, value) in runs.iter().zip(values) {
        columns.row(vec![
            word(&run["name"]),
            instant(run["created_us"].as_u64().unwrap_or(0)),
            word(&run["validity"]),
            word(&run["verdict"]),
            word(&run["revision"]),
            value.map_or("-".into(), |value| in_unit(value, unit)),
        ]);
    }
    text.push_str(&columns.render());
    text
}

#[cfg(test)]
mod tests {
    use shoal_domain::compare::GateReport;
    use shoal_domain::outcome::Operation;
    use shoal_proto::v1::{GateValues, RunReference};

    use super::*;
    use crate::render::golden;

    fn row(metric: &str, stat: Option<&str>, values: (f64, f64), judged: Judged) -> ComparedMetric {
        let difference = values.1 - values.0;
        ComparedMetric {
            group: "sensors".into(),
            name: "telemetry".into(),
            operation: Operation::Publish,
            metric: metric.into(),
            stat: stat.map(str::to_owned),
            baseline: Some(values.0),
            candidate: Some(values.1),
            difference: Some(difference),
            relative_ratio: (values.0 != 0.0).then(|| difference / values.0),
            judged,
        }
    }

    #[test]
    fn a_comparison_shows_what_changed_and_what_can_be_said_about_it() {
        let comparison = Comparison {
            schema: 1,
            baseline: "run_a".into(),
            candidate: "run_b".into(),
            series: vec![
                row("response_time", Some("p50"), (412.0, 412.0), Judged::NoDifference),
                row("response_time", Some("p95"), (1_236.0, 2_500.0), Judged::Worse),
                row("response_time", Some("max"), (9_000.0, 8_000.0), Judged::Better),
                row("errors", None, (0.0, 0.0012), Judged::NotJudged),
                row("rate", None, (100.0, 99.0), Judged::NotJudged),
                row("missed", None, (0.0, 0.0), Judged::NoDifference),
            ],
            gates: vec![GateReport {
                expr: "sensors.telemetry.response_time.p95 <= +10%".into(),
                result: ThresholdResult::Failed,
            }],
        };
        let run =
            |name: &str| RunReference { run_id: format!("run_{name}"), name: name.to_owned() };
        let result = ComparisonResult {
            json: vec![],
            baseline: vec![run("calm-otter"), run("keen-wren")],
            candidate: Some(run("brave-heron")),
            gates: vec![GateValues {
                baseline: Some(1_236.0),
                candidate: Some(2_500.0),
                unit: "us".into(),
            }],
            remarks: vec!["broker: a against b".into()],
        };
        golden::assert("comparison.txt", &render(&comparison, &result, false, Paint::PLAIN));
        assert!(render(&comparison, &result, true, Paint::PLAIN).contains("response_time max"));
    }

    #[test]
    fn a_trend_is_a_line_and_a_table() {
        let value = serde_json::json!({
            "schema": 1, "scenario": "telemetry", "unit": "us",
            "metric": "sensors.telemetry.response_time.p95",
            "runs": [
                { "name": "calm-otter", "created_us": 1_772_366_405_000_000u64, "validity": "VALID",
                  "verdict": "PASSED", "revision": "1f6c2a9", "value": 1_236.0 },
                { "name": "keen-wren", "created_us": 1_772_366_505_000_000u64, "validity": null,
                  "verdict": null, "revision": null, "value": null },
            ],
        });
        golden::assert("trend.txt", &trend(&value));
    }
}
