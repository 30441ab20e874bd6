//! One file that opens anywhere: no network, no script, light and dark, printable.
//!
//! The order is that of a reader's questions: may I rely on it, did it pass, what happened over
//! time, what are the numbers, what went wrong, what was run.

use std::fmt::Write as _;

use serde_json::Value;
use shoal_domain::export::{RunExport, SeriesCourse};
use shoal_domain::report::{RunReport, SeriesReport, ThresholdResult, TimeReport};
use shoal_domain::run::{Validity, Verdict};

use super::chart::{Band, COLORS, Chart, Line, Mark};
use super::escaped;
use crate::render::numbers::{count, in_unit, micros, percent, rate, seconds, worst_window};

const STYLE: &str = include_str!("report.css");
/// Series in one drawing; more would be a tangle. The others have their own drawings below.
const TOGETHER: usize = COLORS;

pub(super) fn render(export: &RunExport) -> String {
    let report = &export.report;
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{} · {} · Shoal</title>\n<style>{STYLE}</style></head><body>\n",
        escaped(&report.scenario.name),
        escaped(&report.name)
    );
    header(&mut html, report);
    trust(&mut html, report);
    thresholds(&mut html, report);
    if report.started_at.is_some() {
        charts(&mut html, export);
        tables(&mut html, report);
    }
    failures(&mut html, report);
    observers(&mut html, report);
    history(&mut html, export);
    agents(&mut html, report);
    configuration(&mut html, export);
    html.push_str(
        "<footer>Percentiles come from merged histograms with three significant digits. \
        Response time counts from the intended send, service time from the real one. \
        Written by Shoal.</footer>\n</body></html>\n",
    );
    html
}

fn header(html: &mut String, report: &RunReport) {
    let (class, word) = match (report.verdict, report.exit_code) {
        (Some(Verdict::Passed), Some(0)) => ("good", "PASSED"),
        (Some(Verdict::Failed), _) => ("bad", "FAILED"),
        (_, None) => ("warn", "NOT OVER YET"),
        _ => ("bad", "NO VERDICT"),
    };
    let _ = write!(
        html,
        "<header><h1>{} <span class=\"badge {class}\">{word}</span>",
        escaped(&report.scenario.name)
    );
    if let Some(validity) = report.validity {
        let class = match validity {
            Validity::Valid => "good",
            Validity::Degraded => "warn",
            Validity::Invalid => "bad",
        };
        let _ = write!(html, " <span class=\"badge {class}\">{}</span>", validity.word());
    }
    html.push_str("</h1>\n<p class=\"lead\">");
    let _ = write!(
        html,
        "Run <b>{}</b> <code>{}</code>, {}",
        escaped(&report.name),
        escaped(&report.run),
        report.phase.word()
    );
    if let Some(cause) = &report.cause {
        let _ = write!(html, ": {}", escaped(cause));
    }
    match &report.started_at {
        Some(at) => {
            let _ = write!(
                html,
                "<br>Started {}, load for {}",
                escaped(at),
                seconds(report.duration_s)
            );
        }
        None => html.push_str("<br>Never started"),
    }
    if let Some(code) = report.exit_code {
        let _ = write!(html, ", exit code {code}");
    }
    for (word, value) in [("by", &report.started_by), ("revision", &report.revision)] {
        if !value.is_empty() {
            let _ = write!(html, ", {word} <b>{}</b>", escaped(value));
        }
    }
    html.push_str("</p>\n");
    if !report.labels.is_empty() {
        html.push_str("<p>");
        for (name, value) in report.labels.iter() {
            let _ =
                write!(html, "<span class=\"label\">{}={}</span> ", escaped(name), escaped(value));
        }
        html.push_str("</p>\n");
    }
    if !report.note.is_empty() {
        let _ = writeln!(html, "<blockquote>{}</blockquote>", escaped(&report.note));
    }
    html.push_str("</header>\n");
}

/// Whether to believe it, and the numbers of a first look.
fn trust(html: &mut String, report: &RunReport) {
    if !report.validity_reasons.is_empty() {
        html.push_str("<section><h2>Limits of these numbers</h2><ul class=\"reasons\">");
        for reason in &report.validity_reasons {
            let _ = write!(html, "<li><code>{}</code> ", escaped(&reason.code));
            if let Some(from) = reason.from_s {
                let _ = write!(html, "from {from} s ");
            }
            if let Some(to) = reason.to_s.filter(|to| Some(*to) != reason.from_s) {
                let _ = write!(html, "to {to} s ");
            }
            let _ = write!(html, "{}</li>", escaped(&reason.text));
        }
        html.push_str("</ul></section>\n");
    }
    let devices = &report.devices;
    html.push_str("<section class=\"tiles\">");
    let mut tile = |value: &str, name: &str, class: &str| {
        let _ = write!(html, "<div class=\"tile {class}\"><b>{value}</b><span>{name}</span></div>");
    };
    tile(&count(devices.planned), "devices planned", "");
    tile(&count(devices.connected), "connected", "");
    tile(&count(devices.failed), "failed", if devices.failed > 0 { "bad" } else { "" });
    for series in
        report.series.iter().filter(|s| s.stage == "all" && s.operation.word() != "connect").take(3)
    {
        let name = escaped(&format!("{}.{}", series.group, series.name));
        tile(&count(series.count), &format!("{name} attempts"), "");
        let class = if series.errors > 0 { "bad" } else { "" };
        tile(&count(series.errors), &format!("{name} errors"), class);
        if let Some(time) = series.response_time_us.as_ref().or(series.service_time_us.as_ref()) {
            tile(&micros(time.p95 as f64), &format!("{name} p95"), "");
        }
    }
    html.push_str("</section>\n");
}

fn thresholds(html: &mut String, report: &RunReport) {
    if report.thresholds.is_empty() {
        return;
    }
    html.push_str("<section><h2>Thresholds</h2><p class=\"hint\">They judge the whole run, or the stage they name; a comparison looks at the steady stages only.</p><div class=\"scroll\"><table><thead><tr><th></th><th>threshold</th><th class=\"n\">value</th><th class=\"n\">limit</th><th class=\"n\">samples</th><th class=\"n\">broken at</th></tr></thead><tbody>");
    for threshold in &report.thresholds {
        let (class, word) = match threshold.result {
            ThresholdResult::Passed => ("good", "ok"),
            ThresholdResult::Failed => ("bad", "FAILED"),
            ThresholdResult::NoData => ("bad", "NO DATA"),
        };
        let worst = worst_window(threshold);
        let _ = write!(
            html,
            "<tr><td class=\"{class}\">{word}</td><td><code>{}</code>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
            escaped(&threshold.sentence()),
            worst.map(|worst| format!("<br>{}", escaped(&worst))).unwrap_or_default(),
            threshold.value.map_or("no data".into(), |value| in_unit(value, &threshold.unit)),
            in_unit(threshold.limit, &threshold.unit),
            count(threshold.samples),
            threshold.breached_at_s.map_or("-".into(), seconds)
        );
    }
    html.push_str("</tbody></table></div></section>\n");
}

fn axis_time(us: f64) -> String {
    let (value, unit) = match us {
        us if us < 1e3 => (us, "µs"),
        us if us < 1e6 => (us / 1e3, "ms"),
        us => (us / 1e6, "s"),
    };
    format!("{} {unit}", axis_rate(value))
}

/// An axis has round numbers, which need no zeros behind them.
fn axis_rate(value: f64) -> String {
    if value.fract() == 0.0 { count(value as u64) } else { value.to_string() }
}

struct Page<'a> {
    export: &'a RunExport,
    at_s: Vec<f64>,
    bands: Vec<Band>,
    marks: Vec<Mark>,
}

fn charts(html: &mut String, export: &RunExport) {
    let course = &export.course;
    if course.from_s.is_empty() {
        return;
    }
    let step = course.step_s as f64;
    let first_load = export.stages.first().map(|stage| stage.groups.clone()).unwrap_or_default();
    let bands = export.stages.iter().filter(|stage| stage.groups == first_load);
    let is_mark = |kind: &str| kind != "phase";
    let events = export.report.events.iter().filter(|event| is_mark(&event.kind));
    let page = Page {
        export,
        at_s: course.from_s.iter().map(|from| *from as f64 + step / 2.0).collect(),
        bands: bands
            .filter(|stage| stage.from_s < export.report.duration_s)
            .map(|stage| Band { name: stage.name.clone(), from_s: stage.from_s, to_s: stage.to_s })
            .collect(),
        marks: events
            .filter_map(|event| {
                let text = format!("{}: {}", event.kind, event.text);
                Some(Mark { at_s: event.at_s.filter(|at| *at >= 0.0)?, text })
            })
            .collect(),
    };
    html.push_str("<section><h2>Over time</h2>");
    let _ = write!(
        html,
        "<p class=\"hint\">Each point is {}; bands are stages, dashed lines are events (hover for their text).</p><div class=\"charts\">",
        seconds(step)
    );
    page.overview(html);
    html.push_str(
        "</div></section>\n<section><h2>Each series over time</h2><div class=\"charts\">",
    );
    for series in &course.series {
        page.series(html, series);
    }
    html.push_str("</div></section>\n");
}

impl Page<'_> {
    fn chart(&self, title: &str, lines: Vec<Line>, unit: fn(f64) -> String) -> String {
        Chart {
            title,
            at_s: &self.at_s,
            until_s: self.export.report.duration_s,
            lines,
            bands: &self.bands,
            marks: &self.marks,
            unit,
        }
        .render()
    }

    fn per_second(&self, counts: &[u64]) -> Vec<Option<f64>> {
        let step = self.export.course.step_s as f64;
        counts.iter().map(|n| Some(*n as f64 / step)).collect()
    }

    fn overview(&self, html: &mut String) {
        let course = &self.export.course;
        let together = |series: Vec<&SeriesCourse>,
                        values: &dyn Fn(&SeriesCourse) -> Vec<Option<f64>>| {
            let line = |(color, series): (usize, &&SeriesCourse)| Line {
                name: format!("{}.{}", series.group, series.name),
                color,
                values: values(series),
            };
            series.iter().take(TOGETHER).enumerate().map(line).collect::<Vec<_>>()
        };
        let some = |wanted: &dyn Fn(&SeriesCourse) -> bool| -> Vec<&SeriesCourse> {
            course.series.iter().filter(|series| wanted(series)).collect()
        };
        let sends = || some(&|series| series.operation != "connect");
        let sent = together(sends(), &|series| self.per_second(&series.sent));
        html.push_str(&self.chart("attempts per second", sent, axis_rate));
        let timed = some(&|series| series.operation != "connect" && series.time.is_some());
        let p95 = together(timed, &|series| times(&series.p95_us));
        html.push_str(&self.chart("95th percentile of the response time", p95, axis_time));
        let failing = some(&|series| series.errors.iter().any(|n| *n > 0));
        let errors = together(failing, &|series| self.per_second(&series.errors));
        html.push_str(&self.chart("errors per second", errors, axis_rate));
        if course.devices.iter().any(Option::is_some) {
            let values = course.devices.iter().map(|n| n.map(|n| n as f64)).collect();
            let line = Line { name: "connected devices".into(), color: 0, values };
            html.push_str(&self.chart("connected devices", vec![line], axis_rate));
        }
    }

    fn series(&self, html: &mut String, series: &SeriesCourse) {
        let name = format!("{}.{}", series.group, series.name);
        let line = |name: &str, color: usize, values: Vec<Option<f64>>| Line {
            name: name.to_owned(),
            color,
            values,
        };
        let mut counts = vec![
            line("attempts", 0, self.per_second(&series.sent)),
            line("errors", 3, self.per_second(&series.errors)),
        ];
        if series.missed.iter().any(|n| *n > 0) {
            counts.push(line("missed", 1, self.per_second(&series.missed)));
        }
        html.push_str(&self.chart(&format!("{name}: per second"), counts, axis_rate));
        if let Some(time) = &series.time {
            let lines = vec![
                line("p50", 2, times(&series.p50_us)),
                line("p95", 0, times(&series.p95_us)),
                line("p99", 4, times(&series.p99_us)),
            ];
            let title = format!("{name}: {}", time.replace('_', " "));
            html.push_str(&self.chart(&title, lines, axis_time));
        }
    }
}

fn times(us: &[Option<u64>]) -> Vec<Option<f64>> {
    us.iter().map(|us| us.map(|us| us as f64)).collect()
}

fn tables(html: &mut String, report: &RunReport) {
    html.push_str("<section><h2>Series</h2><div class=\"scroll\"><table><thead><tr><th>series</th><th>operation</th><th>stage</th><th class=\"n\">count</th><th class=\"n\">errors</th><th class=\"n\">rate/s</th><th>time</th><th class=\"n\">min</th><th class=\"n\">mean</th><th class=\"n\">p50</th><th class=\"n\">p90</th><th class=\"n\">p95</th><th class=\"n\">p99</th><th class=\"n\">p99.9</th><th class=\"n\">max</th></tr></thead><tbody>");
    for series in &report.series {
        let class = if series.stage == "all" { "whole" } else { "part" };
        let times: Vec<(&str, &TimeReport)> = [
            ("response", &series.response_time_us),
            ("service", &series.service_time_us),
            ("send lag", &series.send_lag_us),
        ]
        .into_iter()
        .filter_map(|(name, time)| Some((name, time.as_ref()?)))
        .collect();
        let rows = times.len().max(1);
        let error_class = if series.errors > 0 { " bad" } else { "" };
        let _ = write!(
            html,
            "<tr class=\"{class}\"><td rowspan=\"{rows}\">{}</td><td rowspan=\"{rows}\">{}</td><td rowspan=\"{rows}\">{}</td><td rowspan=\"{rows}\" class=\"n\">{}</td><td rowspan=\"{rows}\" class=\"n{error_class}\">{}</td><td rowspan=\"{rows}\" class=\"n\">{}</td>",
            escaped(&format!("{}.{}", series.group, series.name)),
            series.operation.word(),
            escaped(&series.stage),
            count(series.count),
            count(series.errors),
            rate(series.rate_per_s)
        );
        for (n, (name, time)) in times.iter().enumerate() {
            if n > 0 {
                let _ = write!(html, "</tr><tr class=\"{class}\">");
            }
            let _ = write!(html, "<td>{name}</td>");
            for value in [
                time.min as f64,
                time.mean,
                time.p50 as f64,
                time.p90 as f64,
                time.p95 as f64,
                time.p99 as f64,
                time.p999 as f64,
                time.max as f64,
            ] {
                let _ = write!(html, "<td class=\"n\">{}</td>", micros(value));
            }
        }
        if times.is_empty() {
            html.push_str("<td colspan=\"9\">no samples</td>");
        }
        html.push_str("</tr>");
    }
    html.push_str("</tbody></table></div></section>\n");
    slots(html, report);
}

/// Where every planned slot went.
fn slots(html: &mut String, report: &RunReport) {
    let with_slots: Vec<&SeriesReport> =
        report.series.iter().filter(|s| s.stage == "all" && s.slots.is_some()).collect();
    if with_slots.is_empty() {
        return;
    }
    html.push_str("<section><h2>Where every planned slot went</h2><p class=\"hint\">planned = sent + missed + not connected + away + unsent + unassigned</p><div class=\"scroll\"><table><thead><tr><th>series</th><th class=\"n\">planned</th><th class=\"n\">sent</th><th class=\"n\">missed</th><th class=\"n\">not connected</th><th class=\"n\">away</th><th class=\"n\">unsent</th><th class=\"n\">unassigned</th><th class=\"n\">held</th><th class=\"n\">acknowledged</th></tr></thead><tbody>");
    for series in with_slots {
        let Some(slots) = series.slots else { continue };
        let _ =
            write!(html, "<tr><td>{}</td>", escaped(&format!("{}.{}", series.group, series.name)));
        for n in [
            slots.planned,
            slots.sent,
            slots.missed,
            slots.not_connected,
            slots.away,
            slots.unsent,
            slots.unassigned,
            slots.held,
        ] {
            let _ = write!(html, "<td class=\"n\">{}</td>", count(n));
        }
        let acked = series.acked.map_or("-".into(), count);
        let _ = write!(html, "<td class=\"n\">{acked}</td></tr>");
    }
    html.push_str("</tbody></table></div></section>\n");
}

fn failures(html: &mut String, report: &RunReport) {
    if report.failures.is_empty() {
        return;
    }
    html.push_str("<section><h2>Failures</h2><div class=\"scroll\"><table><thead><tr><th>series</th><th>class</th><th class=\"n\">count</th><th class=\"n\">first</th><th class=\"n\">last</th><th>text</th><th>devices</th></tr></thead><tbody>");
    for failure in &report.failures {
        let _ = write!(
            html,
            "<tr><td>{}</td><td><code>{}</code></td><td class=\"n bad\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"wrap\">{}</td><td class=\"wrap\">{}</td></tr>",
            escaped(&failure.series),
            failure.class.word(),
            count(failure.count),
            seconds(failure.first_s),
            seconds(failure.last_s),
            escaped(&failure.text),
            escaped(&failure.devices.join(", "))
        );
    }
    html.push_str("</tbody></table></div></section>\n");
}

/// Every field of every observer, as the document has it.
fn observers(html: &mut String, report: &RunReport) {
    let Ok(Value::Array(observers)) = serde_json::to_value(&report.observers) else { return };
    let whole: Vec<&Value> = observers.iter().filter(|o| o["stage"] == "all").collect();
    if whole.is_empty() {
        return;
    }
    html.push_str("<section><h2>End to end</h2><div class=\"grid\">");
    for observer in whole {
        let title = format!(
            "{} reads {} ({})",
            observer["name"].as_str().unwrap_or("-"),
            observer["of"].as_str().unwrap_or("-"),
            observer["source"].as_str().unwrap_or("-")
        );
        let _ = write!(html, "<div><h3>{}</h3><table><tbody>", escaped(&title));
        for (name, value) in observer.as_object().into_iter().flatten() {
            if ["name", "of", "source", "stage"].contains(&name.as_str()) {
                continue;
            }
            if let Some(shown) = shown(name, value) {
                let word = escaped(&name.trim_end_matches("_us").replace('_', " "));
                let _ = write!(html, "<tr><td>{word}</td><td class=\"n\">{shown}</td></tr>");
            }
        }
        html.push_str("</tbody></table></div>");
    }
    html.push_str("</div></section>\n");
}

/// A value by what its name says of its unit; `None`: nothing to show.
fn shown(name: &str, value: &Value) -> Option<String> {
    match value {
        Value::Number(number) => {
            let number = number.as_f64()?;
            Some(if name.ends_with("_ratio") {
                percent(number)
            } else if name.ends_with("_us") {
                micros(number)
            } else {
                in_unit(number, "count")
            })
        }
        Value::Object(time) => {
            let stat = |stat: &str| Some(format!("{stat} {}", micros(time.get(stat)?.as_f64()?)));
            let stats: Vec<String> =
                ["p50", "p95", "p99", "max"].into_iter().filter_map(stat).collect();
            (!stats.is_empty()).then(|| stats.join(", "))
        }
        Value::String(text) => Some(escaped(text)),
        Value::Bool(is) => Some(if *is { "yes" } else { "no" }.into()),
        Value::Array(items) if !items.is_empty() => Some(count(items.len() as u64)),
        Value::Array(_) | Value::Null => None,
    }
}

fn history(html: &mut String, export: &RunExport) {
    html.push_str("<section><h2>Stages and events</h2><div class=\"grid\"><div class=\"scroll\"><table><thead><tr><th>stage</th><th>kind</th><th class=\"n\">from</th><th class=\"n\">to</th><th>groups</th></tr></thead><tbody>");
    for stage in &export.stages {
        let _ = write!(
            html,
            "<tr><td>{}</td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"wrap\">{}</td></tr>",
            escaped(&stage.name),
            escaped(&stage.kind),
            seconds(stage.from_s),
            seconds(stage.to_s),
            escaped(&stage.groups.join(", "))
        );
    }
    html.push_str("</tbody></table></div><div class=\"scroll\"><table><thead><tr><th class=\"n\">run time</th><th>event</th><th>text</th></tr></thead><tbody>");
    for event in &export.report.events {
        let at = event.at_s.map_or("-".into(), |at| format!("{at:.1} s"));
        let _ = write!(
            html,
            "<tr><td class=\"n\" title=\"{}\">{at}</td><td>{}</td><td class=\"wrap\">{}</td></tr>",
            escaped(&event.at),
            escaped(&event.kind),
            escaped(&event.text)
        );
    }
    html.push_str("</tbody></table></div></div></section>\n");
}

fn agents(html: &mut String, report: &RunReport) {
    if report.agents.is_empty() {
        return;
    }
    html.push_str("<section><h2>Agents</h2><div class=\"scroll\"><table><thead><tr><th>agent</th><th>state</th><th class=\"n\">devices</th><th class=\"n\">longest stall</th><th class=\"n\">stalled</th><th class=\"n\">descriptor errors</th><th class=\"n\">port errors</th><th>totals proved</th><th>build</th></tr></thead><tbody>");
    for agent in &report.agents {
        let class = if ["lost", "silent"].contains(&agent.state.as_str()) { "bad" } else { "" };
        let proved = match agent.totals_proved {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "-",
        };
        let _ = write!(
            html,
            "<tr><td>{}</td><td class=\"{class}\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td>{proved}</td><td>{}</td></tr>",
            escaped(&agent.agent),
            escaped(&agent.state),
            count(agent.devices),
            micros(agent.stall_max_us as f64),
            micros(agent.stalled_us as f64),
            count(agent.descriptor_errors),
            count(agent.port_errors),
            escaped(&agent.build)
        );
    }
    html.push_str("</tbody></table></div></section>\n");
}

fn configuration(html: &mut String, export: &RunExport) {
    let report = &export.report;
    html.push_str("<section><h2>Configuration</h2><div class=\"scroll\"><table><tbody>");
    let mut row = |name: &str, value: &str| {
        let _ = write!(
            html,
            "<tr><td>{}</td><td class=\"wrap\"><code>{}</code></td></tr>",
            escaped(name),
            escaped(value)
        );
    };
    row("server", &report.server);
    row("seed", &report.seed.to_string());
    row("scenario sha256", &report.scenario.sha256);
    for (name, value) in &report.scenario.vars {
        row(&format!("vars.{name}"), value);
    }
    html.push_str("</tbody></table></div>\n<details open><summary>The scenario</summary><pre>");
    html.push_str(&escaped(&export.scenario_text));
    html.push_str("</pre></details></section>\n");
}
