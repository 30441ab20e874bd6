//! A run with its course, for reports and files: from the stored windows, read in order of time
//! and never all at once.

use std::collections::BTreeMap;

use prost::Message;
use shoal_domain::delta::{Cells, Samples, Tally, merge_cells};
use shoal_domain::export::{
    Course, CourseBuilder, Distribution, QUANTILES, RunExport, StageSpan, TimePart, WindowPart,
    mean_bytes,
};
use shoal_domain::ids::{ObserverId, SeriesId};
use shoal_domain::outcome::Operation;
use shoal_domain::plan::{Plan, StageKind, TargetKind};
use shoal_domain::tracker::Totals;
use shoal_proto::metrics::{arrivals_from, settled_from};
use shoal_proto::v1;

use super::observers::Observing;
use crate::fold::{FACTS, gauges_of};
use crate::orchestrator::decode;
use crate::record::{Record, grant_of, internal, plan_of};
use crate::refusal::Refusal;
use crate::store::{RunRow, Store};

/// Windows that are read at once.
const SPAN: i64 = 256;
/// Numbers in a course, over all its series: what fits into an answer.
const MOST_POINTS: u64 = 4_000;
const MOST_CELLS: u64 = 60_000;

/// `points`: at most so many in the course; 0: as many as fit.
pub async fn export(
    store: &Store,
    row: &RunRow,
    server: &str,
    points: u64,
) -> Result<RunExport, Refusal> {
    let plan = plan_of(store, row).await?;
    let record = Record::of(row)?;
    let (report, observing) = super::build(store, row, &plan, &record, server).await?;
    let distributions = distributions(store, row, &plan, report.duration_s).await?;
    let of = Of { plan: &plan, record: &record, observing: &observing };
    let course = course(store, row, &of, report.duration_s, points).await?;
    Ok(RunExport {
        report,
        scenario_text: row.scenario_text.clone(),
        stages: stages(&plan),
        distributions,
        course,
    })
}

fn stages(plan: &Plan) -> Vec<StageSpan> {
    let mut spans = Vec::new();
    for load in &plan.loads {
        let groups: Vec<String> =
            load.groups.iter().map(|group| plan.groups[*group].name.clone()).collect();
        for stage in &plan.stages[load.stages.clone()] {
            spans.push(StageSpan {
                name: stage.name.clone(),
                kind: match stage.kind {
                    StageKind::Ramp { .. } => "ramp",
                    StageKind::Hold => "hold",
                    StageKind::Storm(_) => "storm",
                    StageKind::Arrive { .. } => "arrive",
                }
                .to_owned(),
                from_s: stage.start_us as f64 / 1e6,
                to_s: stage.end_us as f64 / 1e6,
                groups: groups.clone(),
            });
        }
    }
    spans
}

/// What was stored of all stages and agents.
async fn cells(store: &Store, row: &RunRow) -> Result<Cells, Refusal> {
    let mut cells = Cells::new();
    for summary in store.summaries(row.run_id).await? {
        merge_cells(&mut cells, &decode("summaries", &summary.assignment_id, &summary.body)?.cells);
    }
    for stored in store.unfolded(row.run_id, None).await? {
        merge_cells(&mut cells, &decode("deltas", &stored.assignment_id, &stored.body)?.cells);
    }
    Ok(cells)
}

async fn distributions(
    store: &Store,
    row: &RunRow,
    plan: &Plan,
    seconds: f64,
) -> Result<Vec<Distribution>, Refusal> {
    let mut by_series: BTreeMap<SeriesId, Tally> = BTreeMap::new();
    for ((series, _), tally) in &cells(store, row).await? {
        by_series.entry(*series).or_default().merge(tally);
    }
    let mut rows = Vec::new();
    let mut all = Tally::default();
    let mut all_times = Samples::default();
    for (id, series) in plan.series.iter().enumerate() {
        let tally = by_series.remove(&SeriesId(id as u32)).unwrap_or_default();
        let (time, samples) = time_of(&tally);
        let id = SeriesId(id as u32);
        let (group, name) = (plan.groups[series.group].name.clone(), series.name.clone());
        rows.push(distribution(
            Some(series.operation),
            (kind_of(plan, id), group, name),
            &tally,
            time,
            samples,
            seconds,
        ));
        all_times.merge(samples);
        all.merge(&Tally {
            errors: tally.errors,
            sent: tally.sent,
            bytes: tally.bytes,
            ..Tally::default()
        });
    }
    let time = (all_times.count() > 0).then_some("response_time");
    rows.push(distribution(None, Default::default(), &all, time, &all_times, seconds));
    Ok(rows)
}

/// What Locust would call the type of a series' requests.
pub fn kind_of(plan: &Plan, id: SeriesId) -> String {
    let group = &plan.groups[plan.series[id.index()].group];
    let sent = group.sends().iter().find(|send| send.series == id);
    let sent = sent.and_then(|send| send.http()).map(|request| request.method);
    let method = sent
        .or_else(|| group.steps().find(|step| step.series == id).map(|step| step.request.method));
    match (method, &plan.targets[group.target].kind) {
        (Some(method), _) => method.key().to_uppercase(),
        (None, TargetKind::Mqtt(_)) => "MQTT".to_owned(),
        (None, TargetKind::Http(_)) => "HTTP".to_owned(),
    }
}

/// Locust knows one time per request; ours is the one from the intended send where there is one.
fn time_of(tally: &Tally) -> (Option<&'static str>, &Samples) {
    if tally.response_time.count() > 0 {
        (Some("response_time"), &tally.response_time)
    } else if tally.service_time.count() > 0 {
        (Some("service_time"), &tally.service_time)
    } else {
        (None, &tally.response_time)
    }
}

fn distribution(
    operation: Option<Operation>,
    (kind, group, name): (String, String, String),
    tally: &Tally,
    time: Option<&'static str>,
    samples: &Samples,
    seconds: f64,
) -> Distribution {
    let per_s = |n: u64| if seconds > 0.0 { n as f64 / seconds } else { 0.0 };
    Distribution {
        operation,
        group,
        name,
        kind,
        mean_bytes: mean_bytes(tally.bytes, tally.sent),
        count: tally.sent,
        errors: tally.n_errors(),
        rate_per_s: per_s(tally.sent),
        errors_per_s: per_s(tally.n_errors()),
        time: time.map(str::to_owned),
        mean_us: samples.mean_us(),
        min_us: samples.min_us(),
        max_us: samples.max_us(),
        quantiles_us: QUANTILES.iter().filter_map(|q| samples.quantile_us(*q)).collect(),
    }
}

/// What is not among the stored windows, by window.
type Waiting = BTreeMap<u64, Unstored>;

#[derive(Default)]
struct Unstored {
    /// As they lie on the wire, so that their histograms need not be unfolded.
    deltas: Vec<v1::Delta>,
    /// What became of messages of which anything is open.
    open: BTreeMap<ObserverId, Totals>,
}

/// The run that a course is of.
pub(super) struct Of<'a> {
    pub(super) plan: &'a Plan,
    pub(super) record: &'a Record,
    pub(super) observing: &'a Observing,
}

pub(super) async fn course(
    store: &Store,
    row: &RunRow,
    of: &Of<'_>,
    duration_s: f64,
    points: u64,
) -> Result<Course, Refusal> {
    let Of { plan, record, observing } = *of;
    let series = plan.series.iter().map(|series| {
        let group = plan.groups[series.group].name.clone();
        (group, series.name.clone(), series.operation.word().to_owned())
    });
    // An observer has about three times the columns of a series.
    let rows = (plan.series.len() + 3 * plan.observers.len()).max(1) as u64;
    let fit = MOST_POINTS.min(MOST_CELLS / rows).max(1);
    let points = if points == 0 { fit } else { points.min(fit) };
    let seconds = (duration_s.ceil() as u64).max(1);
    // A point holds whole windows, however long those are by now.
    let step_s = seconds.div_ceil(points).next_multiple_of(row.window_s.max(1) as u64);
    let mut builder = CourseBuilder::new(series, observing.watched(plan), step_s);
    let mut gauges = Gauges::default();
    let mut waiting = unfolded(store, row, &mut gauges).await?;
    for (window, open) in observing.by_window() {
        waiting.entry(window).or_default().open = open;
    }
    let mut from = 0i64;
    loop {
        let rows = store.windows_of(row.run_id, from, from + SPAN).await?;
        let is_last = rows.is_empty() && from as u64 >= seconds;
        for stored in rows {
            let window = stored.window.max(0) as u64;
            take_before(&mut waiting, window, &mut builder)?;
            let delta = read("windows", row, &stored.body)?;
            if stored.series == FACTS {
                gauges.add(&stored.region, window, &delta);
                add_observed(&mut builder, window, &delta)?;
            } else {
                add(&mut builder, window, &delta)?;
            }
        }
        if is_last {
            break;
        }
        from += SPAN;
    }
    take_before(&mut waiting, u64::MAX, &mut builder)?;
    let mut course = builder.finish();
    gauges.end(store, row, record).await?;
    course.devices = course.from_s.iter().map(|from_s| gauges.connected(from_s + step_s)).collect();
    Ok(course)
}

/// Deltas that wait for their fold, by window.
async fn unfolded(store: &Store, row: &RunRow, gauges: &mut Gauges) -> Result<Waiting, Refusal> {
    let mut waiting = Waiting::new();
    for stored in store.unfolded(row.run_id, None).await? {
        let delta = read("deltas", row, &stored.body)?;
        let grant = gauges_of(&stored.assignment_id, stored.epoch);
        gauges.add(&grant, delta.last_window, &delta);
        waiting.entry(delta.last_window).or_default().deltas.push(delta);
    }
    Ok(waiting)
}

fn take_before(
    waiting: &mut Waiting,
    window: u64,
    builder: &mut CourseBuilder,
) -> Result<(), Refusal> {
    while let Some(first) = waiting.first_entry().filter(|first| *first.key() < window) {
        let (window, Unstored { deltas, open }) = first.remove_entry();
        for delta in deltas {
            add(builder, window, &delta)?;
            add_observed(builder, window, &delta)?;
        }
        for (observer, totals) in open {
            builder.add_totals(window, observer, &totals);
        }
    }
    Ok(())
}

fn read(table: &str, row: &RunRow, body: &[u8]) -> Result<v1::Delta, Refusal> {
    v1::Delta::decode(body).map_err(|error| {
        internal(format!("table {table}, column body, id {}: {error}", row.run_id))
    })
}

fn add(builder: &mut CourseBuilder, window: u64, delta: &v1::Delta) -> Result<(), Refusal> {
    builder.reach(window);
    for cell in &delta.cells {
        let part = WindowPart {
            sent: cell.sent,
            acked: cell.acked,
            errors: cell.errors.values().sum(),
            missed: cell.missed,
            bytes: cell.bytes,
            times: [time_part(&cell.response_time), time_part(&cell.service_time)],
        };
        builder
            .add(window, cell.series as usize, &part)
            .map_err(|error| internal(format!("table windows, window {window}: {error}")))?;
    }
    Ok(())
}

fn add_observed(
    builder: &mut CourseBuilder,
    window: u64,
    delta: &v1::Delta,
) -> Result<(), Refusal> {
    for wire in &delta.arrivals {
        let observer = ObserverId(wire.observer);
        let arrivals = arrivals_from(wire.clone())
            .map_err(|error| internal(format!("table windows, window {window}: {error}")))?;
        builder.add_arrivals(window, observer, &arrivals);
    }
    for (observer, totals) in delta.settled.iter().map(settled_from) {
        builder.add_totals(window, observer, &totals);
    }
    Ok(())
}

fn time_part(samples: &Option<v1::Samples>) -> TimePart<'_> {
    samples.as_ref().map_or(TimePart::default(), |samples| TimePart {
        histogram: &samples.histogram,
        count: samples.count,
        sum_us: samples.sum_us,
        min_us: samples.min_us,
        max_us: samples.max_us,
    })
}

/// Connected devices per grant: the last value holds until the next, and none after its end.
#[derive(Debug, Default)]
struct Gauges(BTreeMap<String, BTreeMap<u64, u64>>);

impl Gauges {
    fn add(&mut self, grant: &str, window: u64, delta: &v1::Delta) {
        if !delta.devices.is_empty() {
            let connected = delta.devices.iter().map(|gauge| gauge.connected).sum();
            self.0.entry(grant.to_owned()).or_default().insert(window, connected);
        }
    }

    /// Where each grant ended, by its own word or because its agent was lost.
    async fn end(&mut self, store: &Store, row: &RunRow, record: &Record) -> Result<(), Refusal> {
        for assignment in store.assignments(row.run_id).await? {
            let ended = grant_of(&record.roster, &assignment).and_then(|grant| grant.ended.clone());
            let closed = assignment.closing.as_ref().map(|closing| closing.closed_at_us as u64);
            let end_us = closed.or(ended.map(|ended| ended.at_us));
            let grant = gauges_of(&assignment.grant.assignment_id, assignment.grant.epoch);
            if let (Some(end_us), Some(values)) = (end_us, self.0.get_mut(&grant)) {
                let end = end_us / 1_000_000 + 1;
                values.retain(|window, _| *window < end);
                values.insert(end, 0);
            }
        }
        Ok(())
    }

    /// Before run time `second`; `None` while nobody has told.
    fn connected(&self, second: u64) -> Option<u64> {
        let values = self
            .0
            .values()
            .filter_map(|values| values.range(..second).next_back().map(|(_, value)| *value));
        values.reduce(|a, b| a + b)
    }
}
