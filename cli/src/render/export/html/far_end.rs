//! The drawings of one observer.

use shoal_domain::export::{DelayCourse, ObserverCourse};

use super::over_time::{Page, axis_rate, axis_time};
use crate::render::export::chart::Line;

pub(super) fn charts(page: &Page<'_>, html: &mut String, observer: &ObserverCourse) {
    let name = &observer.name;
    let mut counts = Vec::new();
    if !observer.sent.is_empty() {
        counts.push(line("sent", 0, page.per_second(&observer.sent)));
    }
    counts.push(line("received", 2, page.per_second(&observer.received)));
    html.push_str(&page.chart(&format!("{name}: messages per second"), counts, axis_rate));
    let share = &observer.received_ratio;
    if share.iter().any(Option::is_some) {
        let values = share.iter().map(|ratio| ratio.map(|ratio| ratio * 100.0)).collect();
        let lines = vec![line("received share", 2, values)];
        html.push_str(&page.chart(&format!("{name}: received share"), lines, axis_percent));
    }
    let classes = [
        ("lost", 3, &observer.lost),
        ("undelivered", 1, &observer.undelivered),
        ("perhaps lost", 4, &observer.lost_possible),
        ("unconfirmed", 6, &observer.unconfirmed),
        ("duplicated", 5, &observer.duplicated),
        ("out of order", 7, &observer.out_of_order),
        ("unparsed", 0, &observer.unparsed),
    ];
    // Lines of nothing would only be looked at for nothing.
    let classes = classes.into_iter().filter(|(_, _, counts)| counts.iter().any(|n| *n > 0));
    let lines: Vec<Line> =
        classes.map(|(name, color, counts)| line(name, color, whole(counts))).collect();
    if !lines.is_empty() {
        html.push_str(&page.chart(&format!("{name}: what went wrong, messages"), lines, axis_rate));
    }
    for (what, delay) in [
        ("end-to-end delay", &observer.end_to_end_delay),
        ("ingest delay", &observer.ingest_delay),
        ("delivery delay", &observer.delivery_delay),
    ] {
        delays(page, html, &format!("{name}: {what}"), delay);
    }
}

fn delays(page: &Page<'_>, html: &mut String, title: &str, delay: &DelayCourse) {
    if delay.p50_us.iter().all(Option::is_none) {
        return;
    }
    // Below 0 there is no room in the drawing: the numbers are in the table and the files.
    let values = |us: &[Option<i64>]| us.iter().map(|us| us.map(|us| us.max(0) as f64)).collect();
    let lines = vec![
        line("p50", 2, values(&delay.p50_us)),
        line("p95", 0, values(&delay.p95_us)),
        line("p99", 4, values(&delay.p99_us)),
    ];
    html.push_str(&page.chart(title, lines, axis_time));
}

fn line(name: &str, color: usize, values: Vec<Option<f64>>) -> Line {
    Line { name: name.to_owned(), color, values }
}

fn whole(counts: &[u64]) -> Vec<Option<f64>> {
    counts.iter().map(|n| Some(*n as f64)).collect()
}

fn axis_percent(value: f64) -> String {
    format!("{} %", axis_rate(value))
}
