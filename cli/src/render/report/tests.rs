//! The two documents every face is checked with: all went well, and nearly nothing did.

use shoal_domain::labels::Labels;
use shoal_domain::outcome::{ErrorClass, Operation};
use shoal_domain::report::{
    AgentReport, DeviceTotals, EventReport, FailureReport, HostReport, ValidityReason,
};
use shoal_domain::report::{LoadRevisionReport, SCHEMA, ScenarioReport, ThresholdReport};

use super::*;
use crate::render::golden;

fn time(p50: u64) -> TimeReport {
    TimeReport {
        count: 1_150,
        min: p50 / 2,
        mean: p50 as f64,
        p50,
        p90: p50 * 2,
        p95: p50 * 3,
        p99: p50 * 5,
        p999: p50 * 7,
        max: p50 * 10,
    }
}

fn one(name: &str, operation: Operation, stage: &str, count: u64) -> SeriesReport {
    let sends = operation == Operation::Publish;
    let slots = SlotReport { planned: count, sent: count, held: 3, ..SlotReport::default() };
    SeriesReport {
        group: "sensors".into(),
        name: name.into(),
        operation,
        model: "open".into(),
        stage: stage.into(),
        kind: (stage != "all").then(|| stage.into()),
        slots: sends.then_some(slots),
        acked: Some(count),
        count,
        errors: 0,
        errors_by_class: [].into(),
        rate_per_s: 95.83,
        censored: 0,
        resent: 0,
        received: 0,
        bytes: 0,
        response_time_us: Some(time(412)),
        service_time_us: Some(time(398)),
        send_lag_us: sends.then(|| time(61)),
        is_near_floor: false,
    }
}

fn threshold(expr: &str, value: Option<f64>, limit: f64, unit: &str) -> ThresholdReport {
    let result = match value {
        Some(value) if value <= limit => ThresholdResult::Passed,
        Some(_) => ThresholdResult::Failed,
        None => ThresholdResult::NoData,
    };
    ThresholdReport {
        expr: expr.into(),
        stage: None,
        value,
        limit,
        unit: unit.into(),
        samples: 1_150,
        result,
        breached_at_s: None,
        region: None,
        worst_region: None,
        windows: None,
    }
}

fn event(at_s: f64, kind: &str, text: &str) -> EventReport {
    let at = "2026-03-01T12:00:05Z".into();
    EventReport { at, at_s: Some(at_s), kind: kind.into(), text: text.into() }
}

pub(crate) fn passed() -> RunReport {
    RunReport {
        request_log: None,
        schema: SCHEMA,
        run: "run_01J9ZK3V5T8Q2W4E6R8T0Y2M4N".into(),
        name: "calm-otter".into(),
        server: "this process".into(),
        started_at: Some("2026-03-01T12:00:05Z".into()),
        duration_s: 12.0,
        exit_code: Some(0),
        scenario: ScenarioReport {
            name: "quickstart".into(),
            sha256: "ab".repeat(32),
            vars: [("broker".to_owned(), "builtin".to_owned())].into(),
            files: vec![],
        },
        labels: Labels::parse(["env=staging"]).unwrap(),
        note: "after the broker's update".into(),
        started_by: "kim".into(),
        revision: "1f6c2a9".into(),
        seed: 42,
        phase: Phase::Finished,
        cause: Some("completed".into()),
        validity: Some(Validity::Valid),
        validity_reasons: vec![],
        verdict: Some(Verdict::Passed),
        devices: DeviceTotals { planned: 100, connected: 100, failed: 0 },
        series: vec![
            one("connect", Operation::Connect, "all", 100),
            one("telemetry", Operation::Publish, "all", 1_150),
            one("telemetry", Operation::Publish, "ramp", 100),
            one("telemetry", Operation::Publish, "hold", 1_050),
        ],
        tasks: vec![],
        steady: vec![one("telemetry", Operation::Publish, "steady", 1_050)],
        load_revisions: vec![],
        failures: vec![],
        thresholds: vec![
            threshold("sensors.telemetry.errors == 0", Some(0.0), 0.0, "count"),
            threshold("sensors.telemetry.response_time.p95 < 250ms", Some(1_236.0), 250e3, "us"),
        ],
        observers: vec![],
        parts: Vec::new(),
        agents: vec![AgentReport {
            agent: "here-1".into(),
            build: "0.1.0".into(),
            devices: 100,
            state: "closed".into(),
            restarts: 0,
            stall_max_us: 1_200,
            stalled_us: 0,
            descriptor_errors: 0,
            port_errors: 0,
            cpu_cores: 0.25,
            memory_max_bytes: 48 << 20,
            descriptors_max: 131,
            network_received_bytes: 512,
            network_sent_bytes: 3_565_158,
            waited_ratio: 0.004,
            pressure_ratio: 0.061,
            stolen_ratio: 0.0,
            throttled_ratio: 0.0,
            start_lag_us: 900,
            clock_bound_us: 120,
            clock_offset_us: Some(-3_000),
            missed: 0,
            send_lag_p99_us: Some(1_120),
            totals_proved: Some(true),
            host: Some(HostReport {
                name: "build-7".into(),
                system: "Debian GNU/Linux 12".into(),
                kernel: "6.1.0".into(),
                processor: "AMD EPYC".into(),
                processors: 2,
                memory_bytes: 8 << 30,
                timer_p99_us: 1_180,
                echo_p50_us: 41,
                echo_p99_us: 96,
            }),
        }],
        events: vec![event(-0.5, "phase", "RUNNING"), event(12.0, "phase", "FINISHED completed")],
    }
}

pub(crate) fn failed() -> RunReport {
    let mut report = passed();
    report.exit_code = Some(1);
    report.verdict = Some(Verdict::Failed);
    report.validity = Some(Validity::Degraded);
    report.cause = Some("stopped_early".into());
    report.validity_reasons = vec![ValidityReason {
        code: "agent_lost".into(),
        agent: Some("a2".into()),
        from_s: Some(4),
        to_s: Some(9),
        text: "agent a2 was silent and its devices were not moved".into(),
    }];
    report.devices = DeviceTotals { planned: 100, connected: 96, failed: 4 };
    let mut qos0 = one("status", Operation::Publish, "all", 1_150);
    qos0.acked = None;
    qos0.response_time_us = None;
    qos0.service_time_us = None;
    report.series.push(qos0);
    let telemetry = &mut report.series[1];
    telemetry.errors = 12;
    telemetry.errors_by_class = [(ErrorClass::AckTimeout, 12)].into();
    telemetry.censored = 2;
    telemetry.slots = Some(SlotReport {
        planned: 1_150,
        sent: 1_000,
        held: 20,
        missed: 10,
        not_connected: 90,
        away: 0,
        unsent: 5,
        unassigned: 45,
    });
    report.failures = vec![FailureReport {
        series: "sensors.telemetry".into(),
        class: ErrorClass::AckTimeout,
        text: "no PUBACK within 30 s\x1b[31m".into(),
        count: 12,
        first_s: 4.0,
        last_s: 130.5,
        devices: vec!["sensor-000001".into(), "sensor-000002".into()],
    }];
    report.thresholds = vec![
        threshold("sensors.telemetry.errors < 0.1%", Some(0.012), 0.001, "ratio"),
        ThresholdReport {
            stage: Some("hold".into()),
            breached_at_s: Some(7.0),
            ..threshold("sensors.telemetry.response_time.p95 < 250ms", Some(1.2e6), 250e3, "us")
        },
        threshold("sensors.status.response_time.p95 < 1s", None, 1e6, "us"),
    ];
    report
}

#[test]
fn without_the_ramp_only_the_holds_are_counted_and_a_scaled_run_says_so() {
    let mut report = passed();
    report.load_revisions = vec![LoadRevisionReport {
        at_s: 4.5,
        group: "sensors".into(),
        from_devices: 100,
        devices: 40,
        rate_per_s: 20.0,
    }];
    let rows = RowArgs { exclude_ramp: true, ..RowArgs::default() };
    let text = render(&report, None, rows, Paint::PLAIN);
    assert!(text.contains("scaled at 4.50 s: sensors from 100 to 40 devices at 20.0/s"), "{text}");
    assert!(text.contains("sensors.telemetry (holds)") && text.contains("1,050"), "{text}");
    assert!(!text.contains("1,150"), "{text}");
}

#[test]
fn a_run_that_passed() {
    golden::assert("report_passed.txt", &render(&passed(), None, RowArgs::default(), Paint::PLAIN));
    golden::assert(
        "report_passed_stages.txt",
        &render(&passed(), None, RowArgs { stages: true, ..RowArgs::default() }, Paint::PLAIN),
    );
}

#[test]
fn a_run_that_failed_says_what_when_where_and_how_far_to_trust_it() {
    golden::assert("report_failed.txt", &render(&failed(), None, RowArgs::default(), Paint::PLAIN));
}

#[test]
fn a_median_that_the_generator_itself_needs_is_told_as_one() {
    let mut report = passed();
    let floor_us = noise_floor_us(&report.agents);
    assert_eq!(floor_us, 41);
    report.series[1].service_time_us = Some(time(3 * floor_us));
    let far = report.series[1].clone().beside_floor(floor_us);
    assert!(!far.is_near_floor && !far.beside_floor(0).is_near_floor);
    report.series[1].service_time_us = Some(time(3 * floor_us - 1));
    report.series[1] = report.series[1].clone().beside_floor(floor_us);
    let text = render(&report, None, RowArgs::default(), Paint::PLAIN);
    let told = "of sensors.telemetry: the median is within 3 times what the generator needs";
    assert!(text.contains(told), "{text}");
}

#[test]
fn an_equation_that_does_not_hold_is_not_shown_as_one() {
    let slots = SlotReport { planned: 3, sent: 2, ..SlotReport::default() };
    assert!(equation(&slots, true).starts_with("planned 3 does NOT equal sent 2 +"));
    assert!(equation(&slots, false).starts_with("planned 3 ≥ sent 2 +"));
}

#[test]
fn a_run_that_never_started_has_no_tables() {
    let mut report = passed();
    report.started_at = None;
    report.phase = Phase::FailedToStart;
    report.cause = Some("not enough agents came in time".into());
    report.exit_code = Some(2);
    report.verdict = None;
    report.thresholds = vec![];
    report.devices.connected = 0;
    report.duration_s = 0.0;
    golden::assert(
        "report_not_started.txt",
        &render(&report, None, RowArgs::default(), Paint::PLAIN),
    );
}
