//! The part of the report that shows the course of a run.

use std::fmt::Write as _;

use super::far_end;
use shoal_domain::export::{RunExport, SeriesCourse};
use shoal_domain::outcome::Operation;

use crate::render::export::chart::{Band, COLORS, Chart, Line, Mark};
use crate::render::numbers::{count, seconds};

/// Series in one drawing; more would be a tangle. The others have their own drawings below.
const TOGETHER: usize = COLORS;

pub(super) fn axis_time(us: f64) -> String {
    let (value, unit) = match us {
        us if us < 1e3 => (us, "µs"),
        us if us < 1e6 => (us / 1e3, "ms"),
        us => (us / 1e6, "s"),
    };
    format!("{} {unit}", axis_rate(value))
}

/// An axis has round numbers, which need no zeros behind them.
pub(super) fn axis_rate(value: f64) -> String {
    if value.fract() == 0.0 { count(value as u64) } else { value.to_string() }
}

pub(super) struct Page<'a> {
    export: &'a RunExport,
    at_s: Vec<f64>,
    bands: Vec<Band>,
    marks: Vec<Mark>,
}

pub(super) fn charts(html: &mut String, export: &RunExport) {
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
    if course.observers.iter().any(|observer| observer.received.iter().any(|n| *n > 0)) {
        html.push_str(
            "<section><h2>The far end over time</h2><p class=\"hint\">What became of a message \
             stands where it was sent; what was read, and how late it was, where it was read.</p>\
             <div class=\"charts\">",
        );
        for observer in &course.observers {
            far_end::charts(&page, html, observer);
        }
        html.push_str("</div></section>\n");
    }
}

impl Page<'_> {
    pub(super) fn chart(&self, title: &str, lines: Vec<Line>, unit: fn(f64) -> String) -> String {
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

    pub(super) fn per_second(&self, counts: &[u64]) -> Vec<Option<f64>> {
        let (course, duration_s) = (&self.export.course, self.export.report.duration_s);
        let step_s = course.step_s as f64;
        // The load may end inside a point, which must not look like a fall; reading goes on after it.
        let length = |from_s: u64| match duration_s - from_s as f64 {
            left if left > 0.0 => left.clamp(0.001, step_s),
            _ => step_s,
        };
        let rate = |(n, from_s): (&u64, &u64)| Some(*n as f64 / length(*from_s));
        counts.iter().zip(&course.from_s).map(rate).collect()
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
        let is_send = |series: &SeriesCourse| {
            Operation::from_word(&series.operation).is_some_and(Operation::is_send)
        };
        let sends = || some(&is_send);
        let sent = together(sends(), &|series| self.per_second(&series.sent));
        html.push_str(&self.chart("attempts per second", sent, axis_rate));
        let timed = some(&|series| is_send(series) && series.time.is_some());
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
