//! What the runs of this process counted so far, for other systems' databases.
//!
//! A scrape reads what was counted for the runs anyway; a registry of counters beside it would
//! count twice. Numbers are those of stored deltas, so they equal the API's. A run stays for five
//! minutes after its end, so that a scrape every minute sees its last second. Labels are a run's
//! name, its scenario and its series: as many as the scenario names, for at most a few runs.
//!
//! [`RunSample`]s become families of points, and those `/metrics` or what is sent by itself
//! ([`outputs`]).

mod families;
mod influx;
mod observers;
mod otlp;
pub mod outputs;
mod post;
mod protobuf;
mod remote_write;
mod text;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use shoal_domain::delta::{Samples, Tally};
use shoal_domain::histogram::Exponential;
use shoal_domain::ids::SeriesId;
use shoal_domain::outcome::Operation;
use shoal_domain::plan::Plan;
use shoal_domain::run::Phase;
use shoal_service_kit::http_get::Page;

use self::observers::ObserverSample;
use crate::fleet::Fleet;
use crate::live::LiveRun;
use crate::orchestrator::Runs;

/// How long and how many ended runs stay.
const STAYS_US: u64 = 5 * 60 * 1_000_000;
const MOST_ENDED: usize = 16;

/// Upper bounds of the time histograms, in µs; +Inf follows.
const BOUNDS_US: [u64; 14] = [
    1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000, 30_000_000,
];

/// Every name that is written, with its type and help; `docs/metrics.md` repeats them.
pub const NAMES: [(&str, &str, &str); 17] = [
    ("shoal_build_info", "gauge", "1; the label says which release"),
    ("shoal_agents", "gauge", "agents with an open session"),
    ("shoal_runs", "gauge", "runs that this process drives"),
    ("shoal_run_phase", "gauge", "1 for the phase that a run is in"),
    ("shoal_run_devices", "gauge", "devices of a run by state"),
    ("shoal_attempts_total", "counter", "attempts begun"),
    ("shoal_acknowledged_total", "counter", "attempts that the target acknowledged"),
    ("shoal_errors_total", "counter", "failed attempts by class"),
    ("shoal_slots_total", "counter", "planned slots by what became of them"),
    ("shoal_response_time_seconds", "histogram", "from the intended send to the reply"),
    ("shoal_service_time_seconds", "histogram", "from the real send to the reply"),
    ("shoal_observer_events_total", "counter", "events read at the far end, by what they were"),
    ("shoal_observer_messages", "gauge", "messages by what became of them as far as is known"),
    ("shoal_observer_reader_gaps", "gauge", "times in which an observer could not read"),
    ("shoal_end_to_end_delay_seconds", "histogram", "from the real send to the observer"),
    ("shoal_ingest_delay_seconds", "histogram", "from the real send to the platform's stamp"),
    ("shoal_delivery_delay_seconds", "histogram", "from the platform's stamp to the observer"),
];

/// One run as a scrape shows it: numbers only, no histograms.
#[derive(Debug, Clone)]
pub struct RunSample {
    name: String,
    scenario: String,
    phase: Phase,
    planned: u64,
    connected: u64,
    failed: u64,
    series: Vec<SeriesSample>,
    observers: Vec<ObserverSample>,
}

#[derive(Debug, Clone)]
struct SeriesSample {
    group: String,
    series: String,
    operation: Operation,
    attempts: u64,
    acknowledged: u64,
    errors: Vec<(&'static str, u64)>,
    /// `None`: what happens to connections has no slots.
    slots: Option<[(&'static str, u64); 5]>,
    response_time: Option<TimeSample>,
    service_time: Option<TimeSample>,
}

#[derive(Debug, Clone)]
struct TimeSample {
    /// Cumulative, at [`BOUNDS_US`].
    buckets: [u64; BOUNDS_US.len()],
    native: Exponential,
    sum_us: u64,
    count: u64,
}

/// Runs that ended a moment ago.
#[derive(Debug, Clone, Default)]
pub struct EndedRuns(Arc<Mutex<Vec<(u64, RunSample)>>>);

impl EndedRuns {
    pub fn keep(&self, run: RunSample, now_us: u64) {
        let mut runs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        runs.push((now_us, run));
        if runs.len() > MOST_ENDED {
            runs.remove(0);
        }
    }

    fn recent(&self, now_us: u64) -> Vec<RunSample> {
        let mut runs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        runs.retain(|(ended_us, _)| now_us.saturating_sub(*ended_us) < STAYS_US);
        runs.iter().map(|(_, run)| run.clone()).collect()
    }
}

impl RunSample {
    pub fn of(name: &str, plan: &Plan, phase: Phase, live: &LiveRun) -> Self {
        let mut by_series: BTreeMap<SeriesId, Tally> = BTreeMap::new();
        for ((series, _), tally) in &live.cells {
            by_series.entry(*series).or_default().merge(tally);
        }
        let known = |(id, tally): (SeriesId, Tally)| {
            let series = plan.series.get(id.index())?;
            let group = &plan.groups.get(series.group)?.name;
            let names = (group.clone(), series.name.clone(), series.operation);
            Some(SeriesSample::of(names, &tally))
        };
        let gauges = || live.parts.values().flat_map(|part| &part.devices);
        Self {
            name: name.to_owned(),
            scenario: plan.name.clone(),
            phase,
            planned: plan.devices(),
            connected: gauges().map(|gauge| gauge.connected).sum(),
            failed: gauges().map(|gauge| gauge.failed).sum(),
            series: by_series.into_iter().filter_map(known).collect(),
            observers: ObserverSample::all(plan, live),
        }
    }
}

impl SeriesSample {
    fn of((group, series, operation): (String, String, Operation), tally: &Tally) -> Self {
        let slots = [
            ("sent", tally.sent),
            ("missed", tally.missed),
            ("not_connected", tally.not_connected),
            ("away", tally.away),
            ("unsent", tally.unsent),
        ];
        Self {
            group,
            series,
            operation,
            attempts: tally.sent,
            acknowledged: tally.acked,
            errors: tally.errors.iter().map(|(class, n)| (class.word(), *n)).collect(),
            slots: operation.is_send().then_some(slots),
            response_time: TimeSample::of(&tally.response_time),
            service_time: TimeSample::of(&tally.service_time),
        }
    }
}

impl TimeSample {
    fn of(samples: &Samples) -> Option<Self> {
        (samples.count() > 0).then(|| Self {
            buckets: BOUNDS_US.map(|bound| samples.count_at_most(bound)),
            native: samples.exponential(),
            sum_us: samples.sum_us(),
            count: samples.count(),
        })
    }
}

/// Beside the runs: what this process is doing.
#[derive(Debug, Clone, Copy)]
struct Process {
    n_runs: usize,
    n_agents: usize,
}

impl Process {
    fn of(runs: &[RunSample], fleet: &Fleet) -> Self {
        let n_agents = fleet.members().iter().filter(|member| member.is_connected).count();
        Self { n_runs: runs.len(), n_agents }
    }
}

/// What a scrape gets now, in the format that it asks for.
pub fn scrape(runs: &Runs, fleet: &Fleet, accept: &str, now_us: u64) -> Page {
    let mut samples = runs.samples();
    let process = Process::of(&samples, fleet);
    samples.extend(runs.ended().recent(now_us));
    let families = families::of(&samples, process);
    if protobuf::is_wanted(accept) {
        let (content_type, body) = (protobuf::CONTENT_TYPE, protobuf::render(&families));
        return Page { content_type, body };
    }
    Page { content_type: text::CONTENT_TYPE, body: text::render(&families).into_bytes() }
}

#[cfg(test)]
pub(super) mod tests {
    use shoal_domain::check::parse_plan;
    use shoal_domain::delta::{Delta, DeviceGauge};
    use shoal_domain::files::Files;
    use shoal_domain::ids::{ObserverId, StageId};
    use shoal_domain::observed::Arrivals;
    use shoal_domain::outcome::ErrorClass;
    use shoal_domain::receipts::{Collected, Mark, Run};

    use crate::trackers::Trackers;

    use super::*;

    pub(super) fn sample() -> RunSample {
        let text = "version: 1\nname: small\ntargets:\n  b: { mqtt: { url: mqtt://h, protocol: 3.1.1 } }\n\
                    observers: { out: { mqtt: { url: mqtt://h, filter: b }, of: g.s } }\n\
                    groups:\n  g: { target: b, devices: 3, send: { s: { every: 1s, publish: { topic: a, qos: 1, text: \"${stamp}\" } } } }\n\
                    load: [ { ramp: { to: 100%, over: 1s } } ]\n";
        let plan = parse_plan(text, &[], &Files::none()).unwrap();
        let mut tally = Tally { sent: 3, acked: 2, missed: 1, ..Tally::default() };
        for us in [900, 1_100, 70_000] {
            tally.response_time.record(us);
        }
        tally.errors.insert(ErrorClass::AckTimeout, 1);
        let devices = vec![DeviceGauge { connected: 3, ..DeviceGauge::default() }];
        let cells = [((SeriesId(1), StageId(0)), tally)].into();
        let mut arrivals = Arrivals { received: 2, foreign: 4, ..Arrivals::default() };
        arrivals.end_to_end.record(900);
        arrivals.end_to_end.record(-5);
        let arrivals = [((ObserverId(0), StageId(0)), arrivals)].into();
        let mut sent = Collected::default();
        (0..3).for_each(|device| sent.push(Run::one(device, 0, 0)));
        let mut receipts = Vec::new();
        sent.take(Mark::Sent(SeriesId(1)), &mut receipts);
        let delta = Delta { cells, devices, arrivals, receipts, ..Delta::default() };
        let mut live = LiveRun::of(&plan, Trackers::new(&plan));
        live.add(&plan, &("a".to_owned(), 1), &delta, false);
        RunSample::of("calm-otter", &plan, Phase::Running, &live)
    }

    #[test]
    fn every_name_has_its_type_and_its_samples() {
        let process = Process { n_runs: 1, n_agents: 2 };
        let text = text::render(&families::of(&[sample()], process));
        for (name, kind, _) in NAMES {
            assert!(text.contains(&format!("# TYPE {name} {kind}\n")), "{name}");
        }
        let run = "run=\"calm-otter\",scenario=\"small\"";
        let series = format!("{run},group=\"g\",series=\"s\",operation=\"publish\"");
        for line in [
            "shoal_agents{} 2".to_owned(),
            format!("shoal_run_phase{{{run},phase=\"RUNNING\"}} 1"),
            format!("shoal_run_devices{{{run},state=\"connected\"}} 3"),
            format!("shoal_attempts_total{{{series}}} 3"),
            format!("shoal_errors_total{{{series},class=\"ack_timeout\"}} 1"),
            format!("shoal_slots_total{{{series},class=\"missed\"}} 1"),
            format!("shoal_response_time_seconds_bucket{{{series},le=\"0.001\"}} 1"),
            format!("shoal_response_time_seconds_bucket{{{series},le=\"0.1\"}} 3"),
            format!("shoal_response_time_seconds_bucket{{{series},le=\"+Inf\"}} 3"),
            format!("shoal_response_time_seconds_sum{{{series}}} 0.072"),
            format!("shoal_observer_events_total{{{run},observer=\"out\",class=\"foreign\"}} 4"),
            format!("shoal_observer_events_total{{{run},observer=\"out\",class=\"negative\"}} 1"),
            format!("shoal_observer_messages{{{run},observer=\"out\",class=\"pending\"}} 3"),
            format!("shoal_end_to_end_delay_seconds_count{{{run},observer=\"out\"}} 1"),
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn every_name_is_documented() {
        let page = include_str!("../../docs/metrics.md");
        for (name, kind, _) in NAMES {
            assert!(page.contains(&format!("| `{name}` | {kind} |")), "{name}");
        }
    }

    #[test]
    fn all_lines_of_a_name_stand_together() {
        let process = Process { n_runs: 2, n_agents: 0 };
        let text = text::render(&families::of(&[sample(), sample()], process));
        let mut seen = Vec::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let name = line.split('{').next().unwrap();
            let family = NAMES.iter().find(|(family, ..)| name.starts_with(family)).unwrap().0;
            if seen.last() != Some(&family) {
                assert!(!seen.contains(&family), "{family} twice");
                seen.push(family);
            }
        }
    }

    #[test]
    fn an_ended_run_stays_for_a_while_and_not_for_ever() {
        let ended = EndedRuns::default();
        for n in 0..20 {
            ended.keep(sample(), n);
        }
        assert_eq!(ended.recent(20).len(), MOST_ENDED);
        assert_eq!(ended.recent(STAYS_US + 20).len(), 0);
    }
}
