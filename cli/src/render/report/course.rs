//! The course of a run, small: for where a person would rather look than read.
//!
//! Every row is drawn from 0 to its own largest value, which stands beside it.

use std::fmt::Write as _;

use shoal_domain::export::{Course, ObserverCourse, SeriesCourse};

use crate::render::clean;
use crate::render::numbers::{count, micros};
use crate::render::spark::spark;

/// Fewer points are read faster than looked at.
const FEWEST: usize = 4;
const WIDTH: usize = 60;

/// A row of blocks with what it is and its largest value.
struct Row {
    name: String,
    what: &'static str,
    values: Vec<Option<f64>>,
    most: String,
}

pub(super) fn render(course: &Course) -> String {
    if course.from_s.len() < FEWEST {
        return String::new();
    }
    let mut rows = Vec::new();
    let devices: Vec<Option<f64>> = course.devices.iter().map(|n| n.map(|n| n as f64)).collect();
    if devices.iter().any(Option::is_some) {
        let most = course.devices.iter().flatten().max().copied().unwrap_or(0);
        rows.push(Row { name: "devices".into(), what: "", values: devices, most: count(most) });
    }
    for series in &course.series {
        add(&mut rows, series);
    }
    for observer in &course.observers {
        add_observer(&mut rows, observer);
    }
    let whats = rows.iter().map(|row| row.what.len()).max().unwrap_or(0).max(6);
    let names = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
    let step = course.step_s;
    let mut text =
        format!("\nover time, a mark is {step} s, each row from 0 to its highest mark\n");
    for row in rows {
        let _ = writeln!(
            text,
            "{:<names$}  {:<whats$}  {}  {}",
            row.name,
            row.what,
            spark(&row.values, WIDTH),
            row.most
        );
    }
    text
}

fn add(rows: &mut Vec<Row>, series: &SeriesCourse) {
    let name = clean(&format!("{}.{}", series.group, series.name));
    let counts = |values: &[u64]| values.iter().map(|n| Some(*n as f64)).collect();
    let most = |values: &[u64]| values.iter().max().copied().unwrap_or(0);
    if most(&series.sent) == 0 {
        return;
    }
    rows.push(Row {
        name,
        what: "sent",
        values: counts(&series.sent),
        most: count(most(&series.sent)),
    });
    let mut more = |what, values, most| {
        rows.push(Row { name: String::new(), what, values, most });
    };
    if let Some(slowest) = series.p95_us.iter().flatten().max() {
        let values = series.p95_us.iter().map(|us| us.map(|us| us as f64)).collect();
        more("p95", values, micros(*slowest as f64));
    }
    // A row of nothing would only be looked at for nothing.
    for (what, values) in [("errors", &series.errors), ("missed", &series.missed)] {
        if most(values) > 0 {
            more(what, counts(values), count(most(values)));
        }
    }
}

fn add_observer(rows: &mut Vec<Row>, observer: &ObserverCourse) {
    let most = observer.received.iter().max().copied().unwrap_or(0);
    if most == 0 {
        return;
    }
    let counts = |values: &[u64]| values.iter().map(|n| Some(*n as f64)).collect();
    let name = clean(&observer.name);
    rows.push(Row { name, what: "read", values: counts(&observer.received), most: count(most) });
    let mut more = |what, values, most| {
        rows.push(Row { name: String::new(), what, values, most });
    };
    let late = &observer.end_to_end_delay.p95_us;
    if let Some(slowest) = late.iter().flatten().max() {
        // A negative delay has no height.
        let values = late.iter().map(|us| us.map(|us| us.max(0) as f64)).collect();
        more("p95", values, micros(*slowest as f64));
    }
    for (what, values) in [
        ("lost", &observer.lost),
        ("undelivered", &observer.undelivered),
        ("perhaps lost", &observer.lost_possible),
        ("doubled", &observer.duplicated),
        ("out of order", &observer.out_of_order),
    ] {
        let most = values.iter().max().copied().unwrap_or(0);
        if most > 0 {
            more(what, counts(values), count(most));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_course_shows_what_there_is_and_no_rows_of_nothing() {
        let series = SeriesCourse {
            group: "sensors".into(),
            name: "telemetry".into(),
            sent: vec![5, 10, 10, 10],
            errors: vec![0, 0, 3, 0],
            missed: vec![0; 4],
            p95_us: vec![Some(1_000), Some(4_000), None, Some(1_000)],
            ..SeriesCourse::default()
        };
        let course = Course {
            step_s: 2,
            from_s: vec![0, 2, 4, 6],
            devices: vec![Some(5), Some(10), Some(10), Some(10)],
            series: vec![series],
            observers: Vec::new(),
            so_far: Vec::new(),
        };
        assert_eq!(
            render(&course),
            "\nover time, a mark is 2 s, each row from 0 to its highest mark\n\
             devices                    ▄███  10\n\
             sensors.telemetry  sent    ▄███  10\n\
             \u{20}                  p95     ▂█ ▂  4.00 ms\n\
             \u{20}                  errors  ▁▁█▁  3\n"
        );
        let short = Course { from_s: vec![0], ..course };
        assert_eq!(render(&short), "");
    }
}
