//! One file that opens anywhere: no network, no script, light and dark, printable.
//!
//! The order is that of a reader's questions: may I rely on it, did it pass, what happened over
//! time, what are the numbers, what went wrong, what was run.

mod far_end;
mod over_time;
mod tables;

use std::fmt::Write as _;

use shoal_domain::export::RunExport;
use shoal_domain::report::{RunReport, ThresholdResult};
use shoal_domain::run::{Validity, Verdict};

use super::escaped;
use crate::render::numbers::{count, in_unit, micros, seconds, worst_window};

const STYLE: &str = include_str!("report.css");

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
        over_time::charts(&mut html, export);
        tables::tables(&mut html, report);
    }
    tables::failures(&mut html, report);
    tables::observers(&mut html, report);
    tables::history(&mut html, export);
    tables::agents(&mut html, report);
    tables::configuration(&mut html, export);
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
    for series in report.series.iter().filter(|s| s.stage == "all" && s.operation.is_send()).take(3)
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
