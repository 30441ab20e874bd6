//! The faces of one run are held against each other, and against texts that want to be code.

use shoal_domain::export::{
    Course, DelayCourse, Distribution, ObserverCourse, SeriesCourse, SoFar, StageSpan,
};
use shoal_domain::labels::Labels;
use shoal_domain::outcome::Operation;

use super::*;
use crate::render::golden;
use crate::render::report::tests::{failed, passed};

const HOSTILE: &str = "=cmd|' /C calc'!A0 <script>alert(1)</script> \"]]> & @all |x| \u{1b}[31m";

pub(crate) fn export() -> RunExport {
    let mut report = failed();
    report.note = "after the broker's update".into();
    let row = |operation: Option<Operation>, name: &str| Distribution {
        operation,
        group: if operation.is_some() { "sensors".into() } else { String::new() },
        name: name.into(),
        kind: if operation.is_some() { "MQTT".into() } else { String::new() },
        count: 1_150,
        errors: 12,
        mean_bytes: 11.0,
        rate_per_s: 95.83,
        errors_per_s: 1.0,
        time: Some("response_time".into()),
        mean_us: Some(12_500.0),
        min_us: Some(400),
        max_us: Some(4_120_600),
        quantiles_us: vec![
            412, 824, 900, 1_236, 1_500, 2_060, 3_000, 4_120, 9_999, 12_000, 4_120_600,
        ],
    };
    let silent = Distribution {
        count: 0,
        errors: 0,
        mean_bytes: 0.0,
        rate_per_s: 0.0,
        errors_per_s: 0.0,
        time: None,
        mean_us: None,
        min_us: None,
        max_us: None,
        quantiles_us: vec![],
        ..row(Some(Operation::Publish), "status")
    };
    let so_far = |count: u64, errors: u64| SoFar {
        count,
        errors,
        mean_bytes: 11.0,
        mean_us: Some(12_500.0),
        min_us: Some(400),
        max_us: Some(4_120_600),
        quantiles_us: vec![412; 11],
    };
    RunExport {
        scenario_text: "version: 1\nname: quickstart\n".into(),
        stages: vec![StageSpan {
            name: "ramp".into(),
            kind: "ramp".into(),
            from_s: 0.0,
            to_s: 1.0,
            groups: vec!["sensors".into()],
        }],
        distributions: vec![row(Some(Operation::Publish), "telemetry"), silent, row(None, "")],
        course: Course {
            step_s: 1,
            from_s: vec![0, 1],
            devices: vec![None, Some(100)],
            series: vec![SeriesCourse {
                group: "sensors".into(),
                name: "telemetry".into(),
                operation: "publish".into(),
                time: Some("response_time".into()),
                sent: vec![100, 1_050],
                acked: vec![100, 1_038],
                errors: vec![0, 12],
                missed: vec![0, 0],
                p50_us: vec![Some(412), Some(412)],
                p95_us: vec![Some(1_236), None],
                p99_us: vec![Some(2_060), None],
                max_us: vec![Some(4_120_600), None],
            }],
            observers: vec![ObserverCourse {
                name: "ingestion".into(),
                sent: vec![100, 1_050],
                acked: vec![100, 1_038],
                unique: vec![99, 1_000],
                received_ratio: vec![Some(0.99), None],
                lost: vec![1, 30],
                undelivered: vec![0, 12],
                unconfirmed: vec![0, 0],
                lost_possible: vec![0, 8],
                pending: vec![0, 0],
                duplicated: vec![0, 5],
                resent: vec![0, 0],
                out_of_order: vec![2, 0],
                late_events: vec![0, 0],
                received: vec![90, 1_014],
                unparsed: vec![0, 0],
                foreign: vec![3, 0],
                end_to_end_delay: DelayCourse {
                    p50_us: vec![Some(-5), Some(1_000)],
                    p95_us: vec![Some(2_000), None],
                    p99_us: vec![Some(3_000), None],
                    max_us: vec![Some(4_000), None],
                },
                ..ObserverCourse::default()
            }],
            so_far: vec![so_far(100, 0), so_far(1_150, 12)],
        },
        report,
    }
}

#[test]
fn locusts_columns_are_byte_equal() {
    let export = export();
    let golden_of = |name: &str| {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/locust");
        let text = std::fs::read_to_string(dir.join(name)).unwrap();
        text.lines().next().unwrap().trim_end().to_owned()
    };
    let header = |text: &str| text.lines().next().unwrap().to_owned();
    assert_eq!(header(&locust::stats(&export)), golden_of("iot_stats.csv"));
    assert_eq!(header(&locust::history(&export)), golden_of("iot_stats_history_head_tail.csv"));
    assert_eq!(header(&locust::failures(&export)), golden_of("f_failures.csv"));
    assert_eq!(header(&locust::exceptions()), golden_of("iot_exceptions.csv"));
    golden::assert("locust_stats.csv", &locust::stats(&export));
    golden::assert("locust_stats_history.csv", &locust::history(&export));
    golden::assert("locust_failures.csv", &locust::failures(&export));
}

#[test]
fn the_sum_of_all_comes_last_and_a_silent_series_says_so() {
    let text = locust::stats(&export());
    let last = text.lines().last().unwrap();
    assert!(last.starts_with(",Aggregated,1150,12,"), "{last}");
    assert!(text.contains("MQTT,sensors.status,0,0,0,0.0,0,0,0.0,0.0,0.0,N/A,N/A,"), "{text}");
}

#[test]
fn our_own_files_have_their_units_in_their_names() {
    let export = export();
    golden::assert("series.csv", &csv::series(&export.report));
    golden::assert("course.csv", &csv::course(&export));
    golden::assert("observers_course.csv", &far_end::course(&export));
    golden::assert("failures.csv", &csv::failures(&export.report));
    golden::assert("thresholds.csv", &csv::thresholds(&export.report));
}

#[test]
fn pipelines_and_pull_requests_get_the_verdict_and_what_decided_it() {
    golden::assert("junit_failed.xml", &junit::render(&export().report));
    golden::assert("junit_passed.xml", &junit::render(&passed()));
    golden::assert("summary_failed.md", &markdown::render(&export().report));
    golden::assert("summary_passed.md", &markdown::render(&passed()));
}

#[test]
fn the_report_needs_nothing_but_itself() {
    let html = html::render(&export());
    for outside in ["http://", "https://", "<script", "<link", "<img", "url(", "@import"] {
        assert!(!html.contains(outside), "{outside}");
    }
    for part in
        ["Thresholds", "Over time", "Failures", "Stages and events", "Agents", "Configuration"]
    {
        assert!(html.contains(&format!("<h2>{part}</h2>")), "{part}");
    }
    for chart in ["ingestion: messages per second", "end-to-end delay", "received share"] {
        assert!(html.contains(chart), "{chart}");
    }
    // Every element that is opened is closed.
    for tag in ["table", "tbody", "section", "figure", "svg", "div", "td", "tr", "text", "path"] {
        let opened =
            html.matches(&format!("<{tag}>")).count() + html.matches(&format!("<{tag} ")).count();
        assert_eq!(opened, html.matches(&format!("</{tag}>")).count(), "{tag}");
    }
}

#[test]
fn texts_that_want_to_be_code_are_only_shown() {
    let mut export = export();
    export.report.note = HOSTILE.into();
    export.report.started_by = HOSTILE.into();
    export.report.revision = HOSTILE.into();
    export.report.labels =
        Labels::parse([format!("env={}", HOSTILE.replace('\u{1b}', "")).as_str()]).unwrap();
    export.report.failures[0].text = HOSTILE.into();
    export.report.failures[0].devices = vec![HOSTILE.into()];
    export.report.thresholds[0].expr = HOSTILE.into();
    export.report.validity_reasons[0].text = HOSTILE.into();
    export.report.events[0].text = HOSTILE.into();
    export.scenario_text = HOSTILE.into();
    export.course.series[0].name = HOSTILE.into();
    export.report.agents[0].agent = HOSTILE.into();
    export.report.scenario.vars.insert(HOSTILE.into(), HOSTILE.into());
    for (name, text) in files(Format::All, &export, &export) {
        if name == "run.json" {
            continue;
        }
        // In a spreadsheet a tag is text.
        assert!(name.ends_with(".csv") || !text.contains("<script>"), "{name}");
        assert!(!text.contains('\u{1b}'), "{name}");
        for line in text.lines().filter(|_| name.ends_with(".csv")) {
            assert!(!line.starts_with('=') && !line.contains(",="), "{name}: {line}");
        }
        if name == "summary.md" {
            assert!(!text.contains("@all") && !text.contains(" |x|"), "{text}");
        }
    }
}

#[test]
fn a_run_that_never_started_has_files_too() {
    let mut export = export();
    export.report = passed();
    export.report.started_at = None;
    export.report.exit_code = Some(2);
    export.report.verdict = None;
    export.report.validity = None;
    export.report.thresholds.clear();
    export.course = Course::default();
    let all = files(Format::All, &export, &export);
    assert_eq!(all.len(), 14);
    assert!(all.iter().all(|(_, text)| !text.is_empty()));
    assert!(html::render(&export).contains("Never started"));
}

#[test]
fn a_name_says_which_run_it_is() {
    let mut export = export();
    export.report.started_at = Some("2026-03-01T12:00:05.123Z".into());
    assert_eq!(
        named("out/{scenario}-{run}-{time}", &export.report),
        "out/quickstart-calm-otter-20260301T120005"
    );
}
