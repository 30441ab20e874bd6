//! Comma-separated files: one header, one row per thing, units in the names, nothing rounded.

use std::collections::BTreeMap;

use serde_json::Value;
use shoal_domain::export::RunExport;
use shoal_domain::report::{RunReport, SeriesReport, ThresholdResult, TimeReport};

/// Rows of cells; quoting and neutralising happen here and nowhere else.
#[derive(Debug, Default)]
pub(crate) struct Rows(String);

impl Rows {
    pub(crate) fn new(header: &str) -> Self {
        Self(format!("{header}\n"))
    }

    pub(crate) fn push(&mut self, cells: &[Cell]) {
        for (n, cell) in cells.iter().enumerate() {
            if n > 0 {
                self.0.push(',');
            }
            match cell {
                Cell::Text(text) => self.0.push_str(&quoted(text)),
                Cell::Number(number) => self.0.push_str(number),
            }
        }
        self.0.push('\n');
    }

    pub(crate) fn text(self) -> String {
        self.0
    }
}

#[derive(Debug, Clone)]
pub(crate) enum Cell {
    Text(String),
    /// As written by us; empty: none.
    Number(String),
}

pub(crate) fn text(text: &str) -> Cell {
    Cell::Text(text.to_owned())
}

pub(crate) fn number(number: impl ToString) -> Cell {
    Cell::Number(number.to_string())
}

pub(crate) fn maybe(number: Option<impl ToString>) -> Cell {
    Cell::Number(number.map(|number| number.to_string()).unwrap_or_default())
}

/// A text that begins like a formula gets an apostrophe, so that a spreadsheet shows it instead of
/// computing it.
fn quoted(text: &str) -> String {
    let text: String =
        text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect();
    let text = match text.trim_start().chars().next() {
        Some('=' | '+' | '-' | '@') => format!("'{text}"),
        _ => text,
    };
    if text.contains([',', '"', '\n']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text
    }
}

/// Documents as one table: a column for every scalar at any depth, named by its path.
pub(crate) fn flat(documents: &[Value]) -> String {
    let mut names: Vec<String> = Vec::new();
    let mut found: Vec<BTreeMap<String, Cell>> = Vec::new();
    for document in documents {
        let mut row = BTreeMap::new();
        leaves("", document, &mut |path, cell| {
            if !names.iter().any(|name| name == path) {
                names.push(path.to_owned());
            }
            row.insert(path.to_owned(), cell);
        });
        found.push(row);
    }
    // What is null in one document and has parts in another is its parts.
    let has_parts = |name: &String| {
        names.iter().any(|other| other.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))
    };
    let names: Vec<String> = names.iter().filter(|name| !has_parts(name)).cloned().collect();
    let header: Vec<String> = names.iter().map(|name| quoted(name)).collect();
    let mut rows = Rows::new(&header.join(","));
    for mut row in found {
        let cells: Vec<Cell> = names
            .iter()
            .map(|name| row.remove(name).unwrap_or(Cell::Number(String::new())))
            .collect();
        rows.push(&cells);
    }
    rows.text()
}

fn leaves(path: &str, value: &Value, found: &mut impl FnMut(&str, Cell)) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                leaves(&path, value, found);
            }
        }
        Value::Array(items) => {
            let words: Vec<String> = items
                .iter()
                .map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned))
                .collect();
            found(path, text(&words.join(" ")));
        }
        Value::String(word) => found(path, text(word)),
        Value::Null => found(path, Cell::Number(String::new())),
        Value::Bool(_) | Value::Number(_) => found(path, number(value)),
    }
}

const SERIES: &str = "run,group,name,operation,model,stage,count,errors,rate_per_s,acked,planned,sent,held,\
    missed,not_connected,away,unsent,unassigned,censored,resent,received";
const TIMES: [&str; 3] = ["response_time", "service_time", "send_lag"];
const STATISTICS: [&str; 9] = ["count", "min", "mean", "p50", "p90", "p95", "p99", "p999", "max"];

pub(crate) fn series(report: &RunReport) -> String {
    let times = TIMES.iter().flat_map(|time| {
        STATISTICS.iter().map(move |stat| match *stat {
            "count" => format!("{time}_count"),
            stat => format!("{time}_{stat}_us"),
        })
    });
    let header = format!("{SERIES},{}", times.collect::<Vec<_>>().join(","));
    let mut rows = Rows::new(&header);
    for series in &report.series {
        rows.push(&series_row(report, series));
    }
    rows.text()
}

fn series_row(report: &RunReport, series: &SeriesReport) -> Vec<Cell> {
    let mut cells = vec![
        text(&report.name),
        text(&series.group),
        text(&series.name),
        text(series.operation.word()),
        text(&series.model),
        text(&series.stage),
        number(series.count),
        number(series.errors),
        number(series.rate_per_s),
        maybe(series.acked),
    ];
    let slots = series.slots;
    for pick in [
        slots.map(|s| s.planned),
        slots.map(|s| s.sent),
        slots.map(|s| s.held),
        slots.map(|s| s.missed),
        slots.map(|s| s.not_connected),
        slots.map(|s| s.away),
        slots.map(|s| s.unsent),
        slots.map(|s| s.unassigned),
    ] {
        cells.push(maybe(pick));
    }
    cells.extend([number(series.censored), number(series.resent), number(series.received)]);
    for time in [&series.response_time_us, &series.service_time_us, &series.send_lag_us] {
        cells.extend(time_cells(time.as_ref()));
    }
    cells
}

fn time_cells(time: Option<&TimeReport>) -> [Cell; 9] {
    [
        maybe(time.map(|t| t.count)),
        maybe(time.map(|t| t.min)),
        maybe(time.map(|t| t.mean)),
        maybe(time.map(|t| t.p50)),
        maybe(time.map(|t| t.p90)),
        maybe(time.map(|t| t.p95)),
        maybe(time.map(|t| t.p99)),
        maybe(time.map(|t| t.p999)),
        maybe(time.map(|t| t.max)),
    ]
}

/// One row per point and series.
pub(crate) fn course(export: &RunExport) -> String {
    let mut rows = Rows::new(
        "run,unix_s,from_s,step_s,group,name,operation,devices,sent,acked,errors,missed,time,\
         p50_us,p95_us,p99_us,max_us",
    );
    let course = &export.course;
    let started = super::started_unix(export);
    for (n, from_s) in course.from_s.iter().enumerate() {
        for series in &course.series {
            let at = |values: &[u64]| maybe(values.get(n));
            let time = |values: &[Option<u64>]| maybe(values.get(n).copied().flatten());
            rows.push(&[
                text(&export.report.name),
                number(started + from_s),
                number(from_s),
                number(course.step_s),
                text(&series.group),
                text(&series.name),
                text(&series.operation),
                maybe(course.devices.get(n).copied().flatten()),
                at(&series.sent),
                at(&series.acked),
                at(&series.errors),
                at(&series.missed),
                text(series.time.as_deref().unwrap_or("")),
                time(&series.p50_us),
                time(&series.p95_us),
                time(&series.p99_us),
                time(&series.max_us),
            ]);
        }
    }
    rows.text()
}

pub(crate) fn failures(report: &RunReport) -> String {
    let mut rows = Rows::new("run,series,class,count,first_s,last_s,text,devices");
    for failure in &report.failures {
        rows.push(&[
            text(&report.name),
            text(&failure.series),
            text(failure.class.word()),
            number(failure.count),
            number(failure.first_s),
            number(failure.last_s),
            text(&failure.text),
            text(&failure.devices.join(" ")),
        ]);
    }
    rows.text()
}

pub(crate) fn thresholds(report: &RunReport) -> String {
    let header = "run,expr,in,value,limit,unit,samples,result,breached_at_s,region,windows_s,worst,worst_at_s";
    let mut rows = Rows::new(header);
    for threshold in &report.thresholds {
        rows.push(&[
            text(&report.name),
            text(&threshold.expr),
            text(threshold.stage.as_deref().unwrap_or("")),
            maybe(threshold.value),
            number(threshold.limit),
            text(&threshold.unit),
            number(threshold.samples),
            text(match threshold.result {
                ThresholdResult::Passed => "passed",
                ThresholdResult::Failed => "failed",
                ThresholdResult::NoData => "no_data",
            }),
            maybe(threshold.breached_at_s),
            text(threshold.worst_region.as_ref().or(threshold.region.as_ref()).map_or("", |r| r)),
            maybe(threshold.windows.as_ref().map(|windows| windows.seconds)),
            maybe(threshold.windows.as_ref().and_then(|windows| windows.worst)),
            maybe(threshold.windows.as_ref().and_then(|windows| windows.worst_at_s)),
        ]);
    }
    rows.text()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn documents_become_rows_with_the_columns_of_all_of_them() {
        let documents = [
            json!({ "run": "a", "labels": { "env": "=cmd()" }, "exit_code": null }),
            json!({ "run": "b, c", "labels": null, "exit_code": 0, "devices": ["d1", "d2"] }),
        ];
        assert_eq!(
            flat(&documents),
            "run,labels.env,exit_code,devices\na,'=cmd(),,\n\"b, c\",,0,d1 d2\n"
        );
    }
}
