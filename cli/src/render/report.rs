//! A run's document as text: what was run, what happened to every planned slot, what it took, what
//! went wrong, and whether to believe it.
//!
//! The order is the order of a reader's questions; the verdict comes last, where the eye rests.
//! No arithmetic: a number that is not in the document is not shown.

mod course;
mod generator;
mod observers;

use std::fmt::Write as _;

use shoal_domain::export::Course;
use shoal_domain::report::{
    NEAR_FLOOR, PartReport, RunReport, SeriesReport, SlotReport, ThresholdResult, TimeReport,
    noise_floor_us,
};
use shoal_domain::run::{Phase, Validity, Verdict};

use self::generator::{agents, validity};
use self::observers::observers;
use super::columns::Columns;
use super::export::requests::held;
use super::numbers::{count, in_unit, micros, rate, seconds, worst_window};
use super::{Paint, clean};
use crate::args::RowArgs;

pub(crate) fn render(
    report: &RunReport,
    course: Option<&Course>,
    rows: RowArgs,
    paint: Paint,
) -> String {
    let mut text = header(report, paint);
    // What never started has nothing to tell but why.
    let started = report.started_at.is_some();
    if started && !report.series.is_empty() {
        text.push_str(&series(report, rows));
        text.push_str(&slots(report, rows));
        text.push_str(&tasks(report));
        text.push_str(&parts(&report.parts));
        text.push_str(&course.map(course::render).unwrap_or_default());
    }
    let devices = &report.devices;
    let _ = writeln!(
        text,
        "\ndevices: {} planned, {} connected, {} failed",
        count(devices.planned),
        count(devices.connected),
        count(devices.failed)
    );
    if started && !report.observers.is_empty() {
        text.push_str(&observers(report, rows.stages));
    }
    text.push_str(&thresholds(report, paint));
    text.push_str(&failures(report));
    if let Some(log) = &report.request_log {
        let _ = writeln!(text, "\nrequest log: {}", held(log));
    }
    if started {
        text.push_str(&agents(report));
    }
    if started {
        text.push_str(&validity(report));
    }
    text.push_str(&verdict(report, paint));
    text
}

fn header(report: &RunReport, paint: Paint) -> String {
    let mut text = format!(
        "run {} ({}), {}",
        paint.strong(&clean(&report.name)),
        clean(&report.run),
        report.phase.word()
    );
    if let Some(cause) = &report.cause {
        let _ = write!(text, ": {}", clean(cause));
    }
    let _ = write!(text, "\nscenario {}", clean(&report.scenario.name));
    if !report.scenario.vars.is_empty() {
        let vars = report.scenario.vars.iter().map(|(name, value)| format!("{name}={value}"));
        let _ = write!(text, " ({})", clean(&vars.collect::<Vec<_>>().join(", ")));
    }
    let _ = write!(text, "\nload for {}, seed {}", seconds(report.duration_s), report.seed);
    match &report.started_at {
        Some(at) => {
            let _ = writeln!(text, ", started {}, on {}", clean(at), clean(&report.server));
        }
        None => {
            let _ = writeln!(text, ", never started, on {}", clean(&report.server));
        }
    }
    about(&mut text, report);
    text
}

/// What was said about the run; nothing where nothing was said.
fn about(text: &mut String, report: &RunReport) {
    if !report.labels.is_empty() {
        let _ = writeln!(text, "labels {}", clean(&report.labels.to_string()));
    }
    let told =
        [("by", &report.started_by), ("revision", &report.revision), ("note:", &report.note)];
    let told: Vec<String> = told
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(word, value)| format!("{word} {}", clean(value)))
        .collect();
    if !told.is_empty() {
        let _ = writeln!(text, "{}", told.join(", "));
    }
    for revision in &report.load_revisions {
        let _ = writeln!(
            text,
            "scaled at {}: {} from {} to {} devices at {}/s",
            seconds(revision.at_s),
            clean(&revision.group),
            count(revision.from_devices),
            count(revision.devices),
            rate(revision.rate_per_s)
        );
    }
    for event in report.events.iter().filter(|event| event.kind == "annotation") {
        let _ = writeln!(text, "noted {}: {}", clean(&event.at), clean(&event.text));
    }
}

/// The rows a reader asked for: whole runs, each stage as well, or the holds together.
fn shown(report: &RunReport, rows: RowArgs) -> impl Iterator<Item = &SeriesReport> {
    let all = if rows.exclude_ramp { &report.steady } else { &report.series };
    all.iter().filter(move |series| rows.stages || rows.exclude_ramp || series.stage == "all")
}

fn name(series: &SeriesReport, rows: RowArgs) -> String {
    if rows.exclude_ramp {
        format!("{}.{} (holds)", series.group, series.name)
    } else if series.stage == "all" {
        format!("{}.{}", series.group, series.name)
    } else {
        format!("  {}.{} in {}", series.group, series.name, series.stage)
    }
}

fn series(report: &RunReport, rows: RowArgs) -> String {
    let mut columns = Columns::new(&[
        "series",
        "operation",
        ">count",
        ">errors",
        ">rate/s",
        ">response p50",
        ">p95",
        ">p99",
        ">max",
        ">service p50",
        ">p95",
        ">send lag p99",
    ]);
    let time = |time: &Option<TimeReport>, pick: fn(&TimeReport) -> u64| match time {
        Some(time) => micros(pick(time) as f64),
        None => "-".into(),
    };
    for series in shown(report, rows) {
        let (response, service) = (&series.response_time_us, &series.service_time_us);
        columns.row(vec![
            name(series, rows),
            series.operation.word().into(),
            count(series.count),
            count(series.errors),
            rate(series.rate_per_s),
            time(response, |t| t.p50),
            time(response, |t| t.p95),
            time(response, |t| t.p99),
            time(response, |t| t.max),
            time(service, |t| t.p50),
            time(service, |t| t.p95),
            time(&series.send_lag_us, |t| t.p99),
        ]);
    }
    let mut text = format!("\n{}", columns.render());
    for series in
        shown(report, RowArgs { stages: false, ..rows }).filter(|series| series.censored > 0)
    {
        let _ = writeln!(
            text,
            "of {}: {} response times are lower bounds, of sends still open at the end",
            clean(&name(series, rows)),
            count(series.censored)
        );
    }
    let floor = micros(noise_floor_us(&report.agents) as f64);
    for series in
        shown(report, RowArgs { stages: false, ..rows }).filter(|series| series.is_near_floor)
    {
        let _ = writeln!(
            text,
            "of {}: the median is within {NEAR_FLOOR} times what the generator needs for an echo of its own ({floor}), so \
             it says little of the target",
            clean(&name(series, rows)),
        );
    }
    text
}

fn slots(report: &RunReport, rows: RowArgs) -> String {
    let mut text = String::new();
    for series in shown(report, rows) {
        if let Some(slots) = &series.slots {
            let name = clean(&name(series, rows));
            let _ = writeln!(text, "{name}: {}", equation(slots, report.phase.is_over()));
        }
    }
    if text.is_empty() { text } else { format!("\nslots\n{text}") }
}

/// How a loop's tasks were chosen, beside how they were to be.
fn tasks(report: &RunReport) -> String {
    if report.tasks.is_empty() {
        return String::new();
    }
    let mut columns = Columns::new(&["task", ">count", ">planned", ">actual"]);
    let share =
        |ratio: Option<f64>| ratio.map_or("-".into(), |ratio| format!("{:.1} %", ratio * 100.0));
    for task in &report.tasks {
        columns.row(vec![
            format!("{}.{}", task.group, task.name),
            task.count.map_or("-".into(), count),
            share(Some(task.planned_ratio)),
            share(task.actual_ratio),
        ]);
    }
    format!("\n{}", columns.render())
}

/// What agents or regions did by themselves.
fn parts(parts: &[PartReport]) -> String {
    let Some(first) = parts.first() else { return String::new() };
    let mut columns = Columns::new(&[
        first.by.as_str(),
        ">devices",
        "series",
        ">count",
        ">errors",
        ">rate/s",
        ">missed",
        ">p50",
        ">p95",
        ">p99",
        ">max",
    ]);
    for part in parts {
        for (n, series) in part.series.iter().enumerate() {
            // Of a closed loop the service time is all there is.
            let time = series.response_time_us.as_ref().or(series.service_time_us.as_ref());
            let show = |pick: fn(&TimeReport) -> u64| {
                time.map_or("-".into(), |time| micros(pick(time) as f64))
            };
            let once = |text: String| if n == 0 { text } else { String::new() };
            columns.row(vec![
                once(part.name.clone()),
                once(count(part.devices.connected)),
                format!("{}.{}", series.group, series.name),
                count(series.count),
                count(series.errors),
                rate(series.rate_per_s),
                series.slots.map_or("-".into(), |slots| count(slots.missed)),
                show(|t| t.p50),
                show(|t| t.p95),
                show(|t| t.p99),
                show(|t| t.max),
            ]);
        }
    }
    format!("\n{}{}", columns.render(), observers::of_parts(parts))
}

/// Where every planned slot went. While the run goes on, some are not classed yet.
fn equation(slots: &SlotReport, over: bool) -> String {
    let sign = match slots.n_classed() == slots.planned {
        true => "=",
        false if over => "does NOT equal",
        false => "≥",
    };
    format!(
        "planned {} {sign} sent {} + missed {} + not connected {} + away {} + unsent {} + unassigned {} (held {})",
        count(slots.planned),
        count(slots.sent),
        count(slots.missed),
        count(slots.not_connected),
        count(slots.away),
        count(slots.unsent),
        count(slots.unassigned),
        count(slots.held)
    )
}

fn thresholds(report: &RunReport, paint: Paint) -> String {
    if report.thresholds.is_empty() {
        return String::new();
    }
    let mut text = String::from("\nthresholds\n");
    for threshold in &report.thresholds {
        let mark = match threshold.result {
            ThresholdResult::Passed => paint.good("ok    "),
            ThresholdResult::Failed => paint.bad("FAILED"),
            ThresholdResult::NoData => paint.bad("NODATA"),
        };
        let value = match threshold.value {
            Some(value) => in_unit(value, &threshold.unit),
            None => "no data, which fails".into(),
        };
        let _ = write!(text, "{mark} {}", clean(&threshold.sentence()));
        let limit = in_unit(threshold.limit, &threshold.unit);
        let _ = write!(text, ": {value}, limit {limit}");
        if let Some(at) = threshold.breached_at_s {
            let _ = write!(text, ", broken at {}", seconds(at));
        }
        if let Some(worst) = worst_window(threshold) {
            let _ = write!(text, ", {worst}");
        }
        text.push('\n');
    }
    text
}

fn failures(report: &RunReport) -> String {
    if report.failures.is_empty() {
        return String::new();
    }
    let mut columns =
        Columns::new(&["failures", "class", ">count", ">first", ">last", "text", "devices"]);
    for failure in &report.failures {
        columns.row(vec![
            failure.series.clone(),
            failure.class.word().into(),
            count(failure.count),
            seconds(failure.first_s),
            seconds(failure.last_s),
            failure.text.clone(),
            failure.devices.join(", "),
        ]);
    }
    format!("\n{}", columns.render())
}

fn verdict(report: &RunReport, paint: Paint) -> String {
    let Some(code) = report.exit_code else {
        return format!("\nnot over yet: {}\n", report.phase.word());
    };
    let word = match (report.verdict, code) {
        (Some(Verdict::Passed), 0) => paint.good(Verdict::Passed.word()),
        (Some(verdict), _) => paint.bad(verdict.word()),
        (None, _) => paint.bad("NO VERDICT"),
    };
    format!("\n{word}, exit code {code}: {}\n", meaning(report, code))
}

fn meaning(report: &RunReport, code: u8) -> &'static str {
    match code {
        0 => "the run ended as it should and every threshold holds",
        1 => "a threshold failed",
        2 => "refused before anything ran",
        _ => match (report.phase, report.validity) {
            (Phase::FailedToStart, _) => "it could not start, no load was sent",
            (Phase::Aborted, _) => "aborted, so there is nothing to judge",
            (Phase::Interrupted, _) => "all agents were lost, so there is nothing to judge",
            (_, Some(Validity::Degraded)) => {
                "DEGRADED is not accepted (`fleet: { accept: degraded }` would)"
            }
            _ => "no trustworthy verdict",
        },
    }
}

#[cfg(test)]
pub(crate) mod tests;
