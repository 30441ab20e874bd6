//! Files with Locust's columns, so that what reads those reads ours.
//!
//! Differences that a reader should know (they stand in docs/results.md): times are from the
//! intended send where there is one; percentiles are of the histogram, rounded to whole
//! milliseconds, where Locust rounds to two digits; a history percentile is of everything so far.

use shoal_domain::export::{Distribution, RunExport};

use super::csv::{Cell, Rows, number, text};
use super::started_unix;

const STATS: &str = "Type,Name,Request Count,Failure Count,Median Response Time,Average Response Time,Min Response Time,Max Response Time,Average Content Size,Requests/s,Failures/s,50%,66%,75%,80%,90%,95%,98%,99%,99.9%,99.99%,100%";
const HISTORY: &str = "Timestamp,User Count,Type,Name,Requests/s,Failures/s,50%,66%,75%,80%,90%,95%,98%,99%,99.9%,99.99%,100%,Total Request Count,Total Failure Count,Total Median Response Time,Total Average Response Time,Total Min Response Time,Total Max Response Time,Total Average Content Size";
const FAILURES: &str = "Method,Name,Error,Occurrences,First Seen,Last Seen";
const EXCEPTIONS: &str = "Count,Message,Traceback,Nodes";
const N_QUANTILES: usize = 11;

/// As Python prints a float.
fn float(value: f64) -> String {
    if value.fract() == 0.0 { format!("{value:.1}") } else { value.to_string() }
}

fn whole_ms(us: u64) -> u64 {
    (us + 500) / 1_000
}

fn ms(us: Option<u64>) -> Cell {
    number(us.map_or("0".to_owned(), |us| float(us as f64 / 1e3)))
}

fn quantiles(us: &[u64]) -> Vec<Cell> {
    if us.is_empty() {
        return vec![number("N/A"); N_QUANTILES];
    }
    us.iter().map(|us| number(whole_ms(*us))).collect()
}

fn name(row: &Distribution) -> String {
    if row.operation.is_none() {
        "Aggregated".to_owned()
    } else {
        format!("{}.{}", row.group, row.name)
    }
}

pub(super) fn stats(export: &RunExport) -> String {
    let mut rows = Rows::new(STATS);
    let mut sorted: Vec<&Distribution> = export.distributions.iter().collect();
    // By name and method; the sum of all comes last.
    sorted.sort_by_key(|row| (row.operation.is_none(), name(row), row.kind.clone()));
    for row in sorted {
        let median = row.quantiles_us.first().copied();
        let mut cells = vec![
            text(&row.kind),
            text(&name(row)),
            number(row.count),
            number(row.errors),
            number(median.map_or(0, whole_ms)),
            number(float(row.mean_us.unwrap_or(0.0) / 1e3)),
            ms(row.min_us),
            ms(row.max_us),
            number(float(row.mean_bytes)),
            number(float(row.rate_per_s)),
            number(float(row.errors_per_s)),
        ];
        cells.extend(quantiles(&row.quantiles_us));
        rows.push(&cells);
    }
    rows.text()
}

pub(super) fn history(export: &RunExport) -> String {
    let mut rows = Rows::new(HISTORY);
    let course = &export.course;
    let started = started_unix(export);
    let (mut count, mut errors) = (0, 0);
    for (n, (from_s, so_far)) in course.from_s.iter().zip(&course.so_far).enumerate() {
        let per_s = |now: u64, before: u64| {
            format!("{:.6}", now.saturating_sub(before) as f64 / course.step_s.max(1) as f64)
        };
        let mut cells = vec![
            number(started + from_s + course.step_s),
            number(course.devices.get(n).copied().flatten().unwrap_or(0)),
            text(""),
            text("Aggregated"),
            number(per_s(so_far.count, count)),
            number(per_s(so_far.errors, errors)),
        ];
        (count, errors) = (so_far.count, so_far.errors);
        cells.extend(quantiles(&so_far.quantiles_us));
        let median = so_far.quantiles_us.first().copied();
        cells.extend([
            number(so_far.count),
            number(so_far.errors),
            number(median.map_or(0, whole_ms)),
            number(float(so_far.mean_us.unwrap_or(0.0) / 1e3)),
            ms(so_far.min_us),
            ms(so_far.max_us),
            number(float(so_far.mean_bytes)),
        ]);
        rows.push(&cells);
    }
    rows.text()
}

pub(super) fn failures(export: &RunExport) -> String {
    let mut rows = Rows::new(FAILURES);
    let started = started_unix(export);
    let instant = |run_s: f64| {
        let at =
            std::time::UNIX_EPOCH + std::time::Duration::from_secs(started + run_s.max(0.0) as u64);
        text(&humantime::format_rfc3339_seconds(at).to_string())
    };
    for failure in &export.report.failures {
        let row = export.distributions.iter().find(|row| name(row) == failure.series);
        rows.push(&[
            text(row.map_or("", |row| &row.kind)),
            text(&failure.series),
            text(&format!("{}: {}", failure.class.word(), failure.text)),
            number(failure.count),
            instant(failure.first_s),
            instant(failure.last_s),
        ]);
    }
    rows.text()
}

/// A device is no script that could raise one.
pub(super) fn exceptions() -> String {
    Rows::new(EXCEPTIONS).text()
}
