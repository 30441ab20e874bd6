use proptest::prelude::*;

use super::*;
use crate::outcome::ErrorClass;
use crate::schedule::tests::{plan, ramp_and_hold};

fn measured(times: &[u64], errors: u64) -> Measured {
    let mut tally = Tally::default();
    for us in times {
        tally.sent += 1;
        tally.response_time.record(*us);
    }
    if errors > 0 {
        tally.errors.insert(ErrorClass::AckTimeout, errors);
    }
    Measured {
        group: "sensors".into(),
        name: "telemetry".into(),
        operation: Operation::Publish,
        tally,
        seconds: 10.0,
    }
}

fn one(run: &str, times: &[u64], errors: u64) -> Side {
    Side { run: run.into(), series: vec![measured(times, errors)] }
}

fn gate(text: &str) -> Gate {
    Gate::parse(text).unwrap()
}

fn result(text: &str, before: &Side, after: &Side) -> ThresholdResult {
    gate(text).judge(before, after).result
}

#[test]
fn a_comparison_names_both_values_their_difference_and_its_share() {
    let (before, after) = (one("a", &[10_000; 50], 0), one("b", &[12_000; 50], 5));
    let compared = compare(&before, &[], &after, &[gate("sensors.telemetry.errors <= +0%")]);
    assert_eq!((compared.baseline.as_str(), compared.candidate.as_str()), ("a", "b"));
    let find = |metric: &str, stat: Option<&str>| {
        let same = |row: &&ComparedMetric| row.metric == metric && row.stat.as_deref() == stat;
        compared.series.iter().find(same).unwrap()
    };
    let mean = find("response_time", Some("mean"));
    assert_eq!((mean.baseline, mean.candidate), (Some(10_000.0), Some(12_000.0)));
    assert_eq!((mean.difference, mean.relative_ratio), (Some(2_000.0), Some(0.2)));
    assert_eq!(mean.judged, Judged::NotJudged);
    let errors = find("errors", None);
    assert_eq!((errors.difference, errors.relative_ratio), (Some(0.1), None));
    assert_eq!(find("rate", None).judged, Judged::NoDifference);
    assert_eq!(compared.gates[0].result, ThresholdResult::Failed);
    // Nobody measured a service time, so there is no row that says nothing.
    assert!(compared.series.iter().all(|row| row.metric != "service_time"));
}

#[test]
fn the_document_has_the_fields_that_pipelines_read() {
    let compared = compare(
        &one("a", &[10], 0),
        &[],
        &one("b", &[10], 0),
        &[gate("sensors.telemetry.rate >= -5%")],
    );
    let document = serde_json::to_value(&compared).unwrap();
    let fields = |value: &serde_json::Value| -> Vec<String> {
        value.as_object().unwrap().keys().cloned().collect()
    };
    assert_eq!(fields(&document), ["schema", "baseline", "candidate", "series", "gates"]);
    assert_eq!(
        fields(&document["series"][0]),
        [
            "group",
            "name",
            "operation",
            "metric",
            "stat",
            "baseline",
            "candidate",
            "difference",
            "relative_ratio",
            "judged"
        ]
    );
    assert_eq!(fields(&document["gates"][0]), ["expr", "result"]);
}

#[test]
fn a_series_of_one_run_only_is_shown_and_not_judged() {
    let compared = compare(&one("a", &[10], 0), &[], &Side::default(), &[]);
    assert!(compared.series.iter().all(|row| row.candidate.is_none() && row.difference.is_none()));
    assert!(compared.series.iter().all(|row| row.judged == Judged::NotJudged));
}

#[test]
fn a_gate_is_a_share_of_the_baseline_with_a_floor() {
    let (before, after) = (one("a", &[10_000; 50], 0), one("b", &[12_000; 50], 0));
    let p95 = "sensors.telemetry.response_time.p95";
    assert_eq!(result(&format!("{p95} <= +10%"), &before, &after), ThresholdResult::Failed);
    assert_eq!(result(&format!("{p95} <= +25%"), &before, &after), ThresholdResult::Passed);
    assert_eq!(
        result(&format!("{p95} <= +10% (floor 5ms)"), &before, &after),
        ThresholdResult::Passed
    );
    assert_eq!(result(&format!("{p95} <= +1ms"), &before, &after), ThresholdResult::Failed);
    assert_eq!(result(&format!("{p95} <= +3ms"), &before, &after), ThresholdResult::Passed);
    assert_eq!(result(&format!("{p95} <= -10%"), &after, &before), ThresholdResult::Passed);
    assert_eq!(result("sensors.telemetry.rate >= -5%", &before, &after), ThresholdResult::Passed);
    assert_eq!(result("all.publish.errors <= +0.5pp", &before, &after), ThresholdResult::Passed);
    assert_eq!(result("sensors.status.errors <= +1%", &before, &after), ThresholdResult::NoData);
}

#[test]
fn errors_that_were_none_need_a_floor_or_points() {
    let (before, after) = (one("a", &[10; 1_000], 0), one("b", &[10; 1_000], 1));
    assert_eq!(
        result("sensors.telemetry.errors <= +50%", &before, &after),
        ThresholdResult::Failed
    );
    let floored = "sensors.telemetry.errors <= +50% (floor 0.2%)";
    assert_eq!(result(floored, &before, &after), ThresholdResult::Passed);
    let points = "sensors.telemetry.errors <= +0.05pp";
    assert_eq!(result(points, &before, &after), ThresholdResult::Failed);
}

#[test]
fn a_gate_that_cannot_be_meant_is_refused() {
    for (text, why) in [
        ("sensors.telemetry.errors", "no comparison"),
        ("telemetry <= +1%", "no metric path"),
        ("sensors.telemetry.response_time <= +1%", "no metric path"),
        ("sensors.telemetry.response_time.p95 <= +5", "a duration like 5ms"),
        ("sensors.telemetry.response_time.p95 <= +10% (floor 5)", "a duration like 5ms"),
        ("sensors.telemetry.response_time.p95 <= +10% (roof 5ms)", "(floor 5ms) is expected"),
        ("sensors.telemetry.rate == +1%", "<=, <, >= or >"),
        ("sensors.telemetry.planned <= +1%", "comes from the plan"),
        ("all.telemetry.rate >= -1%", "no operation"),
    ] {
        let error = Gate::parse(text).unwrap_err();
        assert!(error.contains(why), "{text}: {error}");
    }
}

#[test]
fn only_steady_stages_are_compared_unless_asked_otherwise() {
    let plan = plan(&[10], 1_000_000, ramp_and_hold(10, 2_000_000, 8_000_000));
    let names = |stages: &Stages| {
        let chosen = choose(&plan, stages).unwrap();
        chosen.iter().map(|id| plan.stages[id.index()].name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(&Stages::Steady), ["hold"]);
    assert_eq!(names(&Stages::All), ["ramp", "hold"]);
    assert_eq!(names(&Stages::Named(vec!["ramp".into()])), ["ramp"]);
    assert_eq!(choose(&plan, &Stages::Named(vec!["storm".into()])), Err("storm".to_owned()));

    let send = SeriesId(1);
    let tally = |sent| Tally { sent, ..Tally::default() };
    let cells = [((send, StageId(0)), tally(7)), ((send, StageId(1)), tally(80))].into();
    let facts = Facts { cells, ended_us: 10_000_000, ..Facts::default() };
    let steady = choose(&plan, &Stages::Steady).unwrap();
    let side = side("a".into(), &plan, &facts, &steady);
    let series = &side.series[1];
    assert_eq!((series.tally.sent, series.seconds), (80, 8.0));
    assert_eq!(series.value(Metric::Rate), Some(10.0));
}

#[test]
fn runs_that_were_asked_alike_have_no_differences() {
    let before = plan(&[10], 1_000_000, ramp_and_hold(10, 2_000_000, 8_000_000));
    let mut after = before.clone();
    assert_eq!(differences(&before, &after), Differences::default());
    after.vars.insert("broker".into(), "mqtt://b".into());
    assert_eq!(differences(&before, &after).load, Vec::<String>::new());
    assert_eq!(differences(&before, &after).vars, ["broker:  against mqtt://b"]);
    after.groups[0].devices = 20;
    let load = differences(&before, &after).load;
    assert!(load[0].contains("10 devices against 20"), "{load:?}");
    let longer = plan(&[10], 2_000_000, ramp_and_hold(10, 2_000_000, 9_000_000));
    let load = differences(&before, &longer).load;
    assert!(load.iter().any(|text| text.contains("another pace")), "{load:?}");
    assert!(load.iter().any(|text| text.starts_with("stages ")), "{load:?}");
}

proptest! {
    #[test]
    fn any_gate_text_parses_or_is_refused(text in "\\PC{0,60}") {
        let _ = Gate::parse(&text);
    }

    #[test]
    fn a_run_against_itself_differs_in_nothing_and_passes_every_gate_upwards(
        times in proptest::collection::vec(1u64..10_000_000, 1..50), errors in 0u64..5,
    ) {
        let side = one("a", &times, errors);
        let gates = [gate("sensors.telemetry.response_time.p95 <= +0%"), gate("sensors.telemetry.errors <= +0%")];
        let compared = compare(&side, &[], &side, &gates);
        prop_assert!(compared.series.iter().all(|row| row.judged == Judged::NoDifference));
        prop_assert!(compared.series.iter().all(|row| row.difference == Some(0.0)));
        prop_assert!(compared.gates.iter().all(|gate| gate.result == ThresholdResult::Passed));
    }

    #[test]
    fn a_longer_leash_never_fails_what_a_shorter_one_passed(
        before in 1u64..1_000_000, after in 1u64..1_000_000, leash in 0u32..100, more in 0u32..100,
    ) {
        let (before, after) = (one("a", &[before], 0), one("b", &[after], 0));
        let text = |percent: u32| format!("sensors.telemetry.response_time.mean <= +{percent}%");
        if result(&text(leash), &before, &after) == ThresholdResult::Passed {
            prop_assert_eq!(result(&text(leash + more), &before, &after), ThresholdResult::Passed);
        }
    }
}
