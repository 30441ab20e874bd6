//! The far end in comma-separated files: totals, and what became of messages over time.

use shoal_domain::export::{DelayCourse, ObserverCourse, RunExport};
use shoal_domain::report::{DelayReport, ObserverReport, RunReport};

use super::csv::{Cell, Rows, maybe, number, text};

const COUNTS: &str = "sent,acked,received,unique,received_ratio,lost,undelivered,unconfirmed,\
    lost_possible,duplicated,resent,out_of_order,late_events,pending,unparsed,foreign";
const DELAYS: [&str; 3] = ["end_to_end_delay", "ingest_delay", "delivery_delay"];

fn header(first: &str, statistics: &[&str]) -> String {
    let delays = DELAYS.iter().flat_map(|delay| {
        statistics.iter().map(move |stat| match *stat {
            "count" => format!("{delay}_count"),
            stat => format!("{delay}_{stat}_us"),
        })
    });
    format!("{first},{COUNTS},{}", delays.collect::<Vec<_>>().join(","))
}

/// One row per observer and stage, the whole run first.
pub(super) fn observers(report: &RunReport) -> String {
    let statistics = ["count", "min", "mean", "p50", "p90", "p95", "p99", "p999", "max"];
    let first = "run,observer,source,of,stage,unstamped,backlog,negative,reader_gaps,clock_bound_us,\
        platform_clock_us,platform_bound_us,drain_us";
    let mut rows = Rows::new(&header(first, &statistics));
    for observer in &report.observers {
        let mut cells = vec![
            text(&report.name),
            text(&observer.name),
            text(&observer.source),
            text(&observer.of),
            text(&observer.stage),
            number(observer.unstamped),
            number(observer.backlog),
            number(observer.negative),
            number(observer.reader_gaps.len()),
            number(observer.clock_bound_us),
            maybe(observer.platform_clock_us),
            maybe(observer.platform_bound_us),
            maybe(observer.drain_us),
        ];
        cells.extend(counts(observer));
        for delay in
            [&observer.end_to_end_delay_us, &observer.ingest_delay_us, &observer.delivery_delay_us]
        {
            cells.extend(statistics_of(delay.as_ref()));
        }
        rows.push(&cells);
    }
    rows.text()
}

fn counts(observer: &ObserverReport) -> [Cell; 16] {
    [
        maybe(observer.sent),
        maybe(observer.acked),
        number(observer.received),
        maybe(observer.unique),
        maybe(observer.received_ratio),
        maybe(observer.lost),
        maybe(observer.undelivered),
        maybe(observer.unconfirmed),
        maybe(observer.lost_possible),
        maybe(observer.duplicated),
        maybe(observer.resent),
        maybe(observer.out_of_order),
        maybe(observer.late_events),
        maybe(observer.pending),
        number(observer.unparsed),
        number(observer.foreign),
    ]
}

fn statistics_of(delay: Option<&DelayReport>) -> [Cell; 9] {
    [
        maybe(delay.map(|d| d.count)),
        maybe(delay.map(|d| d.min)),
        maybe(delay.map(|d| d.mean)),
        maybe(delay.map(|d| d.p50)),
        maybe(delay.map(|d| d.p90)),
        maybe(delay.map(|d| d.p95)),
        maybe(delay.map(|d| d.p99)),
        maybe(delay.map(|d| d.p999)),
        maybe(delay.map(|d| d.max)),
    ]
}

/// One row per point and observer.
pub(super) fn course(export: &RunExport) -> String {
    let first = "run,unix_s,from_s,step_s,observer";
    let mut rows = Rows::new(&header(first, &["p50", "p95", "p99", "max"]));
    let course = &export.course;
    let started = super::started_unix(export);
    for (n, from_s) in course.from_s.iter().enumerate() {
        for observer in &course.observers {
            let mut cells = vec![
                text(&export.report.name),
                number(started + from_s),
                number(from_s),
                number(course.step_s),
                text(&observer.name),
            ];
            cells.extend(counts_at(observer, n));
            for delay in
                [&observer.end_to_end_delay, &observer.ingest_delay, &observer.delivery_delay]
            {
                cells.extend(delay_at(delay, n));
            }
            rows.push(&cells);
        }
    }
    rows.text()
}

fn counts_at(observer: &ObserverCourse, n: usize) -> [Cell; 16] {
    let at = |values: &[u64]| maybe(values.get(n));
    [
        at(&observer.sent),
        at(&observer.acked),
        at(&observer.received),
        at(&observer.unique),
        maybe(observer.received_ratio.get(n).copied().flatten()),
        at(&observer.lost),
        at(&observer.undelivered),
        at(&observer.unconfirmed),
        at(&observer.lost_possible),
        at(&observer.duplicated),
        at(&observer.resent),
        at(&observer.out_of_order),
        at(&observer.late_events),
        at(&observer.pending),
        at(&observer.unparsed),
        at(&observer.foreign),
    ]
}

fn delay_at(delay: &DelayCourse, n: usize) -> [Cell; 4] {
    [&delay.p50_us, &delay.p95_us, &delay.p99_us, &delay.max_us]
        .map(|values| maybe(values.get(n).copied().flatten()))
}
