//! A summary for a pull request: the verdict, what decided it, and the numbers that people ask for.

use std::fmt::Write as _;

use shoal_domain::report::{RunReport, ThresholdResult, TimeReport};
use shoal_domain::run::Verdict;

use crate::render::clean;
use crate::render::numbers::{count, in_unit, micros, rate, seconds};

/// Failures beyond these are counted, not shown.
const SHOWN_FAILURES: usize = 5;

/// Text inside a table cell: nothing in it may be markup, a link or a mention.
fn cell(text: &str) -> String {
    let mut safe = String::new();
    for c in clean(text).chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            // A word joiner behind it, and nobody is called.
            '@' => safe.push_str("@\u{2060}"),
            '|' | '*' | '_' | '`' | '[' | ']' | '\\' | '#' | '!' | '~' => {
                safe.push('\\');
                safe.push(c);
            }
            c => safe.push(c),
        }
    }
    safe
}

pub(super) fn render(report: &RunReport) -> String {
    let verdict = match (report.verdict, report.exit_code) {
        (Some(Verdict::Passed), Some(0)) => "✅ PASSED",
        (Some(Verdict::Failed), _) => "❌ FAILED",
        (_, None) => "⏳ not over yet",
        _ => "⚠️ NO TRUSTWORTHY VERDICT",
    };
    let mut text = format!("### {verdict}: {}\n\n", cell(&report.scenario.name));
    let validity = report.validity.map_or(String::new(), |v| format!(", {}", v.word()));
    let _ = writeln!(
        text,
        "Run **{}** ({}{validity}), {} of {} devices connected, load for {}{}{}.\n",
        cell(&report.name),
        report.phase.word(),
        count(report.devices.connected),
        count(report.devices.planned),
        seconds(report.duration_s),
        told(", revision ", &report.revision),
        told(", ", &report.labels.to_string()),
    );
    if !report.note.is_empty() {
        let _ = writeln!(text, "> {}\n", cell(&report.note));
    }
    for reason in &report.validity_reasons {
        let _ = writeln!(text, "- {}: {}", cell(&reason.code), cell(&reason.text));
    }
    thresholds(&mut text, report);
    series(&mut text, report);
    failures(&mut text, report);
    text
}

fn told(before: &str, value: &str) -> String {
    if value.is_empty() { String::new() } else { format!("{before}{}", cell(value)) }
}

fn thresholds(text: &mut String, report: &RunReport) {
    if report.thresholds.is_empty() {
        return;
    }
    text.push_str("\n| | threshold | value | limit |\n|---|---|--:|--:|\n");
    for threshold in &report.thresholds {
        let mark = match threshold.result {
            ThresholdResult::Passed => "✅",
            ThresholdResult::Failed | ThresholdResult::NoData => "❌",
        };
        let _ = writeln!(
            text,
            "| {mark} | {} | {} | {} |",
            cell(&threshold.sentence()),
            threshold.value.map_or("no data".into(), |value| in_unit(value, &threshold.unit)),
            in_unit(threshold.limit, &threshold.unit)
        );
    }
}

fn series(text: &mut String, report: &RunReport) {
    if report.started_at.is_none() {
        return;
    }
    text.push_str("\n| series | count | errors | rate/s | p50 | p95 | p99 |\n");
    text.push_str("|---|--:|--:|--:|--:|--:|--:|\n");
    for series in report.series.iter().filter(|series| series.stage == "all") {
        let time = series.response_time_us.as_ref().or(series.service_time_us.as_ref());
        let show = |pick: fn(&TimeReport) -> u64| {
            time.map_or("-".into(), |time| micros(pick(time) as f64))
        };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} |",
            cell(&format!("{}.{}", series.group, series.name)),
            count(series.count),
            count(series.errors),
            rate(series.rate_per_s),
            show(|t| t.p50),
            show(|t| t.p95),
            show(|t| t.p99),
        );
    }
}

fn failures(text: &mut String, report: &RunReport) {
    if report.failures.is_empty() {
        return;
    }
    text.push_str("\n| failures | count | class | text |\n|---|--:|---|---|\n");
    for failure in report.failures.iter().take(SHOWN_FAILURES) {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} |",
            cell(&failure.series),
            count(failure.count),
            failure.class.word().replace('_', "\\_"),
            cell(&failure.text)
        );
    }
    let more = report.failures.len().saturating_sub(SHOWN_FAILURES);
    if more > 0 {
        let _ = writeln!(text, "\n…and {more} more kinds of failure; see the report.");
    }
}
