//! The part of a run's document that is about the platform's output.

use std::fmt::Write as _;

use shoal_domain::report::{DelayReport, ObserverReport, PartReport, RunReport};

use crate::render::clean;
use crate::render::columns::Columns;
use crate::render::numbers::{count, micros, percent, seconds};

/// What came out at the far end, and how late.
pub(super) fn observers(report: &RunReport, stages: bool) -> String {
    let mut columns = Columns::new(&[
        "observer",
        "source",
        ">sent",
        ">received",
        ">lost",
        ">undelivered",
        ">duplicated",
        ">out of order",
        ">end to end p50",
        ">p95",
        ">p99",
        ">max",
    ]);
    let known = |n: Option<u64>| n.map_or_else(|| "-".into(), count);
    for observer in report.observers.iter().filter(|o| stages || o.stage == "all") {
        let bound = observer.clock_bound_us;
        let delay = |pick: fn(&DelayReport) -> i64| match &observer.end_to_end_delay_us {
            Some(delay) => with_bound(pick(delay), bound),
            None => "-".into(),
        };
        columns.row(vec![
            match observer.stage.as_str() {
                "all" => observer.name.clone(),
                stage => format!("  {} in {stage}", observer.name),
            },
            observer.source.clone(),
            known(observer.sent),
            count(observer.received),
            known(observer.lost),
            known(observer.undelivered),
            known(observer.duplicated),
            known(observer.out_of_order),
            delay(|delay| delay.p50),
            delay(|delay| delay.p95),
            delay(|delay| delay.p99),
            delay(|delay| delay.max),
        ]);
    }
    let mut text = format!("\n{}", columns.render());
    for observer in report.observers.iter().filter(|observer| observer.stage == "all") {
        text.push_str(&remarks(observer));
    }
    text
}

/// What agents or regions have to do with the far end.
pub(super) fn of_parts(parts: &[PartReport]) -> String {
    let has_any = parts.iter().any(|part| !part.observers.is_empty());
    let Some(first) = parts.first().filter(|_| has_any) else { return String::new() };
    let mut columns = Columns::new(&[
        first.by.as_str(),
        "observer",
        ">sent here",
        ">of these received",
        ">lost",
        ">undelivered",
        ">duplicated",
        ">read here",
        ">end to end p50",
        ">p95",
        ">p99",
    ]);
    for part in parts {
        for (n, observer) in part.observers.iter().enumerate() {
            let delay = |pick: fn(&DelayReport) -> i64| {
                observer.end_to_end_delay_us.as_ref().map_or("-".into(), |d| signed(pick(d)))
            };
            columns.row(vec![
                if n == 0 { part.name.clone() } else { String::new() },
                observer.name.clone(),
                count(observer.sent),
                observer.received_ratio.map_or("-".into(), percent),
                count(observer.lost),
                count(observer.undelivered),
                count(observer.duplicated),
                count(observer.received),
                delay(|delay| delay.p50),
                delay(|delay| delay.p95),
                delay(|delay| delay.p99),
            ]);
        }
    }
    format!("\n{}", columns.render())
}

/// What is not zero and not ordinary about an observer, one line each.
fn remarks(observer: &ObserverReport) -> String {
    let mut text = String::new();
    let name = clean(&observer.name);
    let counted = [
        (observer.unconfirmed, "arrived although never acknowledged"),
        (
            observer.lost_possible,
            "did not arrive, perhaps not the platform's doing (lost_possible)",
        ),
        (observer.resent, "arrived more than once because we sent them again"),
        (observer.late_events, "came after more than 64 later ones of their device"),
        (observer.pending, "are on their way"),
        (Some(observer.unparsed), "events held nothing that could be read"),
        (Some(observer.foreign), "events belong to other runs or series"),
        (Some(observer.negative), "delays came out negative: the clocks differ"),
        (
            Some(observer.unstamped),
            "events carry the time of their writer, not of the platform: no ingest or delivery \
             delay (a topic needs message.timestamp.type=LogAppendTime)",
        ),
        (Some(observer.backlog), "had waited while nobody read: only their ingest delay is known"),
    ];
    for (n, what) in counted {
        if let Some(n) = n.filter(|n| *n > 0) {
            let _ = writeln!(text, "{name}: {} {what}", count(n));
        }
    }
    let delays = [
        ("ingest delay", &observer.ingest_delay_us),
        ("delivery delay", &observer.delivery_delay_us),
    ];
    for (what, delay) in delays {
        if let Some(delay) = delay {
            let bound = observer.platform_bound_us.unwrap_or(0);
            let [p50, p95, p99] = [delay.p50, delay.p95, delay.p99].map(|us| with_bound(us, bound));
            let _ = writeln!(text, "{name}: {what} p50 {p50}, p95 {p95}, p99 {p99}");
        }
    }
    if let Some(us) = observer.platform_clock_us.filter(|us| *us != 0) {
        let (by, way) = (micros(us.unsigned_abs() as f64), if us < 0 { "slow" } else { "fast" });
        let _ = writeln!(
            text,
            "{name}: the platform's clock is {by} {way}, which is taken off these delays"
        );
    }
    if observer.has_platform_clock_moved {
        let _ = writeln!(text, "{name}: the platform's clock moved against ours during the run");
    }
    if observer.end_to_end_delay_us.is_some() {
        let clock = match (observer.clock_bound_us, observer.is_indicative) {
            (0, _) => "sent and read by one clock: the delays are exact".to_owned(),
            (bound, false) => {
                format!("delays are right within {}", signed(bound as i64))
            }
            (bound, true) => format!(
                "delays are right within {}, more than 10 % of their median, so they are an indication only",
                signed(bound as i64)
            ),
        };
        let _ = writeln!(text, "{name}: {clock}");
    }
    for gap in &observer.reader_gaps {
        let (from, to) = (seconds(gap.from_s), seconds(gap.to_s));
        let _ = writeln!(text, "{name}: did not read from {from} to {to}: {}", clean(&gap.why));
    }
    if let Some(drain) = observer.drain_us {
        let _ = writeln!(text, "{name}: drained for {}", micros(drain as f64));
    }
    if !observer.lossy_devices.is_empty() {
        let lossy = observer.lossy_devices.iter();
        let lossy = lossy.map(|lossy| format!("{} ({})", clean(&lossy.device), count(lossy.lost)));
        let _ = writeln!(text, "{name}: most was lost by {}", lossy.collect::<Vec<_>>().join(", "));
    }
    text
}

fn signed(us: i64) -> String {
    let sign = if us < 0 { "-" } else { "" };
    format!("{sign}{}", micros(us.unsigned_abs() as f64))
}

fn with_bound(us: i64, bound_us: u64) -> String {
    match bound_us {
        0 => signed(us),
        bound => format!("{} ± {}", signed(us), micros(bound as f64)),
    }
}
