//! A run as files: for people (HTML, Markdown), for pipelines (JUnit, JSON), for spreadsheets (CSV,
//! also with the columns of Locust's files).
//!
//! Every number was made by the control plane; what is done here is laying out, scaling to a
//! drawing, and escaping: labels, notes and error texts come from anywhere.

mod chart;
pub(crate) mod csv;
mod far_end;
mod html;
mod junit;
mod locust;
mod markdown;
pub(crate) mod requests;

use std::time::UNIX_EPOCH;

use shoal_domain::export::RunExport;
use shoal_domain::report::RunReport;

use crate::args::results::Format;

/// A file's name and what is in it.
pub(crate) type File = (&'static str, String);

/// Points that a chart can show; more are joined by the control plane.
pub(crate) const CHART_POINTS: u64 = 240;

/// The files of one format. `drawn` has few points, `full` as many as fit.
pub(crate) fn files(format: Format, drawn: &RunExport, full: &RunExport) -> Vec<File> {
    match format {
        Format::All => [
            Format::Html,
            Format::Json,
            Format::Junit,
            Format::Markdown,
            Format::Csv,
            Format::Locust,
        ]
        .into_iter()
        .flat_map(|format| files(format, drawn, full))
        .collect(),
        Format::Html => vec![("report.html", html::render(drawn))],
        Format::Json => {
            let text = serde_json::to_string_pretty(drawn).unwrap_or_default();
            vec![("run.json", text + "\n")]
        }
        Format::Junit => vec![("junit.xml", junit::render(&drawn.report))],
        Format::Markdown => vec![("summary.md", markdown::render(&drawn.report))],
        Format::Csv => vec![
            ("series.csv", csv::series(&full.report)),
            ("course.csv", csv::course(full)),
            ("observers.csv", far_end::observers(&full.report)),
            ("observers_course.csv", far_end::course(full)),
            ("failures.csv", csv::failures(&full.report)),
            ("thresholds.csv", csv::thresholds(&full.report)),
        ],
        // Written page by page.
        Format::Requests => Vec::new(),
        Format::Locust => vec![
            ("locust_stats.csv", locust::stats(full)),
            ("locust_stats_history.csv", locust::history(full)),
            ("locust_failures.csv", locust::failures(full)),
            ("locust_exceptions.csv", locust::exceptions()),
        ],
    }
}

/// Replaces `{run}`, `{scenario}` and `{time}`.
pub(crate) fn named(pattern: &str, report: &RunReport) -> String {
    let time: String = report
        .started_at
        .as_deref()
        .unwrap_or("never-started")
        .split('.')
        .next()
        .unwrap_or_default()
        .chars()
        .filter(|c| !matches!(c, '-' | ':' | 'Z'))
        .collect();
    pattern
        .replace("{run}", &report.name)
        .replace("{scenario}", &report.scenario.name)
        .replace("{time}", &time)
}

/// Seconds since 1970 of the start.
fn started_unix(export: &RunExport) -> u64 {
    let at = export.report.started_at.as_deref();
    at.and_then(|at| humantime::parse_rfc3339(at).ok())
        .and_then(|at| at.duration_since(UNIX_EPOCH).ok())
        .map_or(0, |since| since.as_secs())
}

/// Text inside an element or a quoted attribute, of HTML and of XML.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            '\n' | '\t' => safe.push(c),
            // XML has no way to write these, and a terminal or page should not get them.
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => safe.push('\u{fffd}'),
            c => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
pub(crate) mod tests;
