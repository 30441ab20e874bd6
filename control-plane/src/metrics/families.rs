//! The samples of all runs as metric families: the one shape that every format is written from.

use std::borrow::Cow;

use super::observers::ObserverSample;
use super::{NAMES, Process, RunSample, SeriesSample, TimeSample};

/// All points of one name.
pub(super) struct Family<'a> {
    pub(super) name: &'static str,
    /// `gauge`, `counter` or `histogram`.
    pub(super) kind: &'static str,
    pub(super) help: &'static str,
    pub(super) points: Vec<Point<'a>>,
}

pub(super) struct Point<'a> {
    pub(super) labels: Vec<(&'static str, Cow<'a, str>)>,
    pub(super) value: Value<'a>,
}

pub(super) enum Value<'a> {
    Number(u64),
    Time(&'a TimeSample),
}

/// In the order of [`NAMES`], those without a point too.
pub(super) fn of<'a>(runs: &'a [RunSample], process: Process) -> Vec<Family<'a>> {
    let family = |(name, kind, help)| {
        let points = match name {
            "shoal_build_info" => {
                let version = ("version", Cow::Borrowed(env!("CARGO_PKG_VERSION")));
                vec![Point { labels: vec![version], value: Value::Number(1) }]
            }
            "shoal_agents" => vec![alone(process.n_agents)],
            "shoal_runs" => vec![alone(process.n_runs)],
            _ => runs.iter().flat_map(|run| of_run(name, run)).collect(),
        };
        Family { name, kind, help, points }
    };
    NAMES.into_iter().map(family).collect()
}

fn alone(n: usize) -> Point<'static> {
    Point { labels: Vec::new(), value: Value::Number(n as u64) }
}

fn of_run<'a>(name: &str, run: &'a RunSample) -> Vec<Point<'a>> {
    let labels =
        || vec![("run", run.name.as_str().into()), ("scenario", run.scenario.as_str().into())];
    let one = |label: &'static str, text: &'a str, n: u64| {
        let mut labels: Vec<(&'static str, Cow<'a, str>)> = labels();
        labels.push((label, text.into()));
        Point { labels, value: Value::Number(n) }
    };
    match name {
        "shoal_run_phase" => vec![one("phase", run.phase.word(), 1)],
        "shoal_run_devices" => vec![
            one("state", "planned", run.planned),
            one("state", "connected", run.connected),
            one("state", "failed", run.failed),
        ],
        _ => {
            let of_series = |series| of_series(name, labels(), series);
            let of_observer = |observer: &'a ObserverSample| observer.points(name, labels());
            let of_observers = run.observers.iter().flat_map(of_observer);
            run.series.iter().flat_map(of_series).chain(of_observers).collect()
        }
    }
}

/// One point for each class, beside what they have in common.
pub(super) fn by_class<'a>(
    labels: &[(&'static str, Cow<'a, str>)],
    counts: &[(&'static str, u64)],
) -> Vec<Point<'a>> {
    let point = |(class, n): &(&'static str, u64)| {
        let mut labels = labels.to_vec();
        labels.push(("class", (*class).into()));
        Point { labels, value: Value::Number(*n) }
    };
    counts.iter().map(point).collect()
}

fn of_series<'a>(
    name: &str,
    mut labels: Vec<(&'static str, Cow<'a, str>)>,
    series: &'a SeriesSample,
) -> Vec<Point<'a>> {
    labels.push(("group", series.group.as_str().into()));
    labels.push(("series", series.series.as_str().into()));
    labels.push(("operation", series.operation.word().into()));
    let one = |value| vec![Point { labels: labels.clone(), value }];
    let by_class = |counts: &[(&'static str, u64)]| by_class(&labels, counts);
    let time =
        |time: &'a Option<TimeSample>| time.as_ref().map(Value::Time).map_or(Vec::new(), one);
    match name {
        "shoal_attempts_total" => one(Value::Number(series.attempts)),
        "shoal_acknowledged_total" => one(Value::Number(series.acknowledged)),
        "shoal_errors_total" => by_class(&series.errors),
        "shoal_slots_total" => series.slots.as_ref().map_or(Vec::new(), |slots| by_class(slots)),
        "shoal_response_time_seconds" => time(&series.response_time),
        "shoal_service_time_seconds" => time(&series.service_time),
        _ => Vec::new(),
    }
}
