//! InfluxDB's line protocol: a line per run and one per series.

use std::fmt::Write as _;

use super::observers::ObserverSample;
use super::{RunSample, SeriesSample, TimeSample};

pub(super) const HEADERS: &str = "Content-Type: text/plain; charset=utf-8\r\n";

pub(super) fn lines(runs: &[RunSample], now_us: u64) -> String {
    let mut text = String::new();
    let at_ns = now_us.saturating_mul(1_000);
    for run in runs {
        let tags = format!("run={},scenario={}", tag(&run.name), tag(&run.scenario));
        let _ = writeln!(
            text,
            "shoal_run,{tags} phase=\"{}\",devices_planned={}i,devices_connected={}i,devices_failed={}i {at_ns}",
            run.phase.word(),
            run.planned,
            run.connected,
            run.failed
        );
        for series in &run.series {
            let _ = writeln!(text, "{} {at_ns}", series_line(&tags, series));
        }
        for observer in &run.observers {
            let _ = writeln!(text, "{} {at_ns}", observer_line(&tags, observer));
        }
    }
    text
}

fn series_line(run: &str, series: &SeriesSample) -> String {
    let mut line = format!(
        "shoal_series,{run},group={},series={},operation={} attempts={}i,acknowledged={}i,errors={}i",
        tag(&series.group),
        tag(&series.series),
        series.operation.word(),
        series.attempts,
        series.acknowledged,
        series.errors.iter().map(|(_, n)| n).sum::<u64>()
    );
    for (class, n) in series.slots.iter().flatten() {
        let _ = write!(line, ",slots_{class}={n}i");
    }
    let mut time = |name: &str, time: &Option<TimeSample>| {
        if let Some(time) = time {
            let (count, sum) = (time.count, time.sum_us);
            let _ = write!(line, ",{name}_count={count}i,{name}_sum_us={sum}i");
        }
    };
    time("response_time", &series.response_time);
    time("service_time", &series.service_time);
    line
}

fn observer_line(run: &str, observer: &ObserverSample) -> String {
    let counts = observer.events.iter().chain(&observer.messages);
    let counts: Vec<String> = counts.map(|(class, n)| format!("{class}={n}i")).collect();
    let mut line =
        format!("shoal_observer,{run},observer={} {}", tag(&observer.name), counts.join(","));
    let delays = [
        ("end_to_end_delay", &observer.end_to_end),
        ("ingest_delay", &observer.ingest),
        ("delivery_delay", &observer.delivery),
    ];
    for (name, time) in delays {
        if let Some(TimeSample { count, sum_us, .. }) = time {
            let _ = write!(line, ",{name}_count={count}i,{name}_sum_us={sum_us}i");
        }
    }
    line
}

/// A tag's value: commas, equal signs and spaces are escaped, what ends a line cannot be in it.
fn tag(value: &str) -> String {
    let mut safe = String::with_capacity(value.len());
    for c in value.chars() {
        match c {
            ',' | '=' | ' ' | '\\' => safe.extend(['\\', c]),
            c if c.is_control() => safe.push('_'),
            c => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(name: &str) -> RunSample {
        let series = SeriesSample {
            group: "a b".into(),
            series: "s".into(),
            operation: shoal_domain::outcome::Operation::Publish,
            attempts: 7,
            acknowledged: 6,
            errors: vec![("ack_timeout", 1)],
            slots: Some([
                ("sent", 7),
                ("missed", 0),
                ("not_connected", 0),
                ("away", 0),
                ("unsent", 0),
            ]),
            response_time: Some(TimeSample {
                buckets: [0; 14],
                sum_us: 900,
                count: 6,
                native: Default::default(),
            }),
            service_time: None,
        };
        RunSample {
            observers: Vec::new(),
            name: name.into(),
            scenario: "x".into(),
            phase: shoal_domain::run::Phase::Running,
            planned: 3,
            connected: 2,
            failed: 0,
            series: vec![series],
        }
    }

    #[test]
    fn a_run_is_a_line_and_each_series_is_one() {
        assert_eq!(
            lines(&[sample("calm-otter")], 5),
            "shoal_run,run=calm-otter,scenario=x phase=\"RUNNING\",devices_planned=3i,devices_connected=2i,devices_failed=0i 5000\n\
             shoal_series,run=calm-otter,scenario=x,group=a\\ b,series=s,operation=publish attempts=7i,acknowledged=6i,errors=1i,slots_sent=7i,slots_missed=0i,slots_not_connected=0i,slots_away=0i,slots_unsent=0i,response_time_count=6i,response_time_sum_us=900i 5000\n"
        );
    }

    #[test]
    fn a_hostile_name_stays_one_tag() {
        assert_eq!(tag("a,b=c d\\\nshoal x=1"), "a\\,b\\=c\\ d\\\\_shoal\\ x\\=1");
    }
}
