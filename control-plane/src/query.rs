//! The read side: every number of every face is made here, from the store, by one function.

mod agents;
pub mod compare;
pub mod course;
mod kept;
mod observers;
mod parts;
mod progress;
mod shares;
mod thresholds;

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use sha2::{Digest, Sha256};
use shoal_domain::account::{Holding, Until, account, applied, residual};
use shoal_domain::delta::{Cells, DeviceGauge, Failure, Samples, add_failure, merge_cells};
use shoal_domain::files::File;
use shoal_domain::ids::{SeriesId, StageId};
use shoal_domain::plan::{Plan, StageKind};
use shoal_domain::report::{
    DeviceTotals, EventReport, FailureReport, FileReport, LoadRevisionReport, RequestLogReport,
    RunReport, SCHEMA, ScenarioReport, SeriesReport, SlotReport, TaskReport, ThresholdResult,
    TimeReport, ValidityReason, noise_floor_us,
};
use shoal_domain::requests::Sampling;
use shoal_domain::run::{Phase, Validity, Verdict};
use shoal_domain::schedule::Timetable;
use shoal_domain::validity::{AgentHealth, Blindness, FleetHealth, assess};
use shoal_domain::verdict::{self, Facts};

use crate::record::{Record, Scaled, plan_of};
use crate::refusal::Refusal;
use crate::store::{EventRow, RunRow, Store, ThresholdRow};

pub use self::course::kind_of;
use self::observers::Observing;
pub use self::observers::observe_live;
pub use self::parts::{parts, plan_devices, region_in};
pub use self::progress::{elapsed_s, ended, progress};
use self::shares::Share;

/// What is stored with a run's last phase.
#[derive(Debug, Clone, Copy)]
pub struct Judged {
    /// `None`: the run never sent.
    pub validity: Option<Validity>,
    pub verdict: Option<Verdict>,
    pub exit_code: u8,
}

fn files(plan: &Plan) -> Vec<FileReport> {
    let report = |file: &File| FileReport {
        path: file.path.clone(),
        sha256: file.sha256_hex(),
        bytes: file.n_bytes,
    };
    let mut files: Vec<FileReport> = plan.files.iter().map(report).collect();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

/// A run's document as of now.
pub async fn report(store: &Store, row: &RunRow, server: &str) -> Result<RunReport, Refusal> {
    let plan = plan_of(store, row).await?;
    let record = Record::of(row)?;
    Ok(build(store, row, &plan, &record, server).await?.0)
}

/// The judgement of a run whose record says that it is over; keeps the thresholds' results and the
/// far end over time.
pub async fn judge_and_keep(
    store: &Store,
    row: &RunRow,
    plan: &Plan,
    record: &Record,
) -> Result<Judged, Refusal> {
    let (report, observing) = build(store, row, plan, record, "").await?;
    let rows: Vec<ThresholdRow> = report
        .thresholds
        .iter()
        .enumerate()
        .map(|(position, threshold)| ThresholdRow {
            position: position as i64,
            text: threshold.expr.clone(),
            value: threshold.value,
            limit: threshold.limit,
            result: result_word(threshold.result).to_owned(),
            breached_at_us: threshold.breached_at_s.map(|s| (s * 1e6) as i64),
            report_json: serde_json::to_string(threshold).unwrap_or_default(),
        })
        .collect();
    store.put_thresholds(row.run_id, &rows).await?;
    if !report.observers.is_empty() {
        let of = course::Of { plan, record, observing: &observing };
        kept::keep(store, row, &of, report.duration_s).await?;
    }
    Ok(Judged {
        validity: report.validity,
        verdict: report.verdict,
        exit_code: report.exit_code.unwrap_or(3),
    })
}

fn result_word(result: ThresholdResult) -> &'static str {
    match result {
        ThresholdResult::Passed => "passed",
        ThresholdResult::Failed => "failed",
        ThresholdResult::NoData => "no_data",
    }
}

async fn build(
    store: &Store,
    row: &RunRow,
    plan: &Plan,
    record: &Record,
    server: &str,
) -> Result<(RunReport, Observing), Refusal> {
    let phase = record.state.phase();
    let (shares, trackers) = shares::of_run(store, row, plan, record).await?;
    let observing = Observing::new(plan, record, &shares, trackers);
    let mut facts = facts(row, plan, record, shares.iter());
    observing.add_to(&mut facts, &shares);
    let has_run = record.state.t0_us().is_some();
    let blind = if has_run { observing.blindness(plan) } else { Vec::new() };
    let (validity, reasons) =
        trust(plan, record, &shares, &facts, &storage_gaps(store, row).await?, &blind);
    let asked = thresholds::Asked {
        store,
        row,
        plan,
        record,
        shares: &shares,
        facts: &facts,
        observing: &observing,
    };
    let thresholds = if has_run { asked.reports().await? } else { Vec::new() };
    let all_hold = thresholds.iter().all(|t| t.result == ThresholdResult::Passed);
    let (verdict, exit_code) = match record.state.cause() {
        Some(cause) if phase.is_over() => {
            let accept = plan.fleet.accept_degraded;
            let (verdict, exit) = verdict::outcome(phase, cause, validity, accept, all_hold);
            (verdict, Some(exit))
        }
        _ => (None, None),
    };
    let mut devices = DeviceTotals { planned: plan.devices(), ..DeviceTotals::default() };
    for group in &facts.devices {
        devices.connected += group.connected;
        devices.failed += group.failed;
    }
    let agents = agents::of_run(store, row, record, &shares).await?;
    let floor_us = noise_floor_us(&agents);
    let beside_floor = |rows: Vec<SeriesReport>| {
        rows.into_iter().map(|row| row.beside_floor(floor_us)).collect::<Vec<_>>()
    };
    let report = RunReport {
        schema: SCHEMA,
        run: row.run_id.to_string(),
        name: row.name.clone(),
        server: server.to_owned(),
        started_at: record.state.t0_us().map(rfc3339),
        duration_s: facts.ended_us as f64 / 1e6,
        exit_code,
        scenario: ScenarioReport {
            name: row.scenario_name.clone(),
            sha256: hex(&Sha256::digest(row.scenario_text.as_bytes())),
            vars: plan.vars.clone(),
            files: files(plan),
        },
        labels: store.labels(row.run_id).await?,
        note: row.note.clone(),
        started_by: row.started_by.clone(),
        revision: row.revision.clone(),
        seed: row.seed,
        phase,
        cause: record.state.cause().map(|cause| cause.sentence()),
        // A run that never sent has no numbers that could be trusted or not.
        validity: (phase.is_over() && has_run).then_some(validity),
        validity_reasons: reasons,
        verdict,
        devices,
        series: beside_floor(series(plan, &facts)),
        tasks: tasks(plan, &facts),
        steady: beside_floor(steady(plan, &facts)),
        load_revisions: load_revisions(plan, record),
        request_log: request_log(store, row, record).await?,
        failures: failures(plan, &shares),
        thresholds,
        agents,
        parts: Vec::new(),
        events: events(store, row, record).await?,
        observers: if has_run { observing.reports(plan, row, &facts) } else { Vec::new() },
    };
    Ok((report, observing))
}

fn facts<'s>(
    row: &RunRow,
    plan: &Plan,
    record: &Record,
    shares: impl Iterator<Item = &'s Share> + Clone,
) -> Facts {
    let (plan_of_all, revisions) = (Arc::new(plan.clone()), record.revisions());
    let timetables: Vec<Timetable> = shares
        .clone()
        .map(|share| {
            let total = &share.total;
            let applied = applied(&revisions, &total.revised_us, &total.progress);
            Timetable::new(Arc::clone(&plan_of_all), row.seed, &applied)
        })
        .collect();
    let mut cells = Cells::new();
    for share in shares.clone() {
        merge_cells(&mut cells, &share.total.cells);
    }
    let holdings: Vec<Holding<'_>> = shares
        .clone()
        .zip(&timetables)
        .map(|(share, timetable)| Holding {
            shard: &share.shard,
            timetable,
            progress: &share.total.progress,
            closed_at_us: share.row.closing.as_ref().map(|closing| closing.closed_at_us as u64),
        })
        .collect();
    let progress = shares.clone().flat_map(|share| &share.total.progress);
    let through = progress.map(|progress| progress.through_us);
    let through = through.max().unwrap_or(0);
    let is_ended = record.state.phase() >= Phase::Collecting && record.state.t0_us().is_some();
    let until = if is_ended { Until::Ended(record.load_end_us) } else { Until::Now };
    let mut facts = account(plan, cells, &holdings, until);
    facts.ended_us = if is_ended { record.load_end_us } else { through };
    // Devices of a grant that is over are somebody else's, or nobody's.
    let held = shares.filter(|share| share.ended.is_none());
    add_gauges(&mut facts, held.flat_map(|share| &share.total.devices));
    facts
}

async fn request_log(
    store: &Store,
    row: &RunRow,
    record: &Record,
) -> Result<Option<RequestLogReport>, Refusal> {
    let Some(sampling) = Sampling::from_millionths(record.sample_millionths) else {
        return Ok(None);
    };
    let totals = store.request_totals(row.run_id).await?;
    let (rows, dropped) = (totals.n_rows.max(0) as u64, totals.dropped.max(0) as u64);
    Ok(Some(RequestLogReport { sample_ratio: sampling.ratio(), rows, dropped }))
}

async fn storage_gaps(store: &Store, row: &RunRow) -> Result<Vec<String>, Refusal> {
    let events = store.events(row.run_id).await?.into_iter();
    Ok(events.filter(|event| event.kind == "storage_gap").map(|event| event.text).collect())
}

/// Adds the agents' gauges to the groups' devices; `connected` are those that ever were, each once
/// though it may have changed hands.
pub fn add_gauges<'a>(facts: &mut Facts, gauges: impl Iterator<Item = &'a DeviceGauge>) {
    for gauge in gauges {
        if let Some(devices) = facts.devices.get_mut(gauge.group as usize) {
            devices.connected += gauge.known.max(gauge.connected);
            devices.connected = devices.connected.min(devices.planned);
            devices.failed += gauge.failed;
        }
    }
}

fn trust(
    plan: &Plan,
    record: &Record,
    shares: &[Share],
    facts: &Facts,
    storage_gaps: &[String],
    blind: &[Blindness],
) -> (Validity, Vec<ValidityReason>) {
    let is_send = |series: SeriesId, _: StageId| plan.series[series.index()].operation.is_send();
    let (sends, slots) = facts.total(is_send);
    let (all, _) = facts.total(|_, _| true);
    let is_over = record.state.phase().is_over();
    let fleet = FleetHealth {
        planned: slots.planned,
        missed: sends.missed,
        unassigned: if is_over { slots.unassigned } else { 0 },
        attempts: all.sent,
        lag_p99_us: sends.send_lag.quantile_us(0.99),
        residual: if is_over { residual(facts) } else { 0 },
    };
    let agents: Vec<AgentHealth> = shares
        .iter()
        .map(|share| AgentHealth {
            agent: share.row.grant.agent_id.clone(),
            health: share.total.health,
            spells: share.total.spells.clone(),
            windows: share.total.seconds(),
            totals_proved: share.totals_proved,
        })
        .collect();
    assess(&fleet, &agents, &record.roster.moves, storage_gaps, blind)
}

fn series(plan: &Plan, facts: &Facts) -> Vec<SeriesReport> {
    let mut rows = Vec::new();
    for (id, _) in plan.series.iter().enumerate() {
        let id = SeriesId(id as u32);
        let all = Row { stage: "all", kind: None, seconds: facts.seconds(plan, None) };
        rows.push(series_row(plan, facts, id, &all, |_| true));
        for at in stages_of(plan, id) {
            let stage = &plan.stages[at.index()];
            let (kind, seconds) = (Some(stage.kind.word()), facts.seconds(plan, Some(at)));
            let row = Row { stage: &stage.name, kind, seconds };
            rows.push(series_row(plan, facts, id, &row, |stage| stage == at));
        }
    }
    rows
}

fn stages_of(plan: &Plan, series: SeriesId) -> impl Iterator<Item = StageId> {
    let group = &plan.groups[plan.series[series.index()].group];
    plan.loads[group.load].stages.clone().map(|stage| StageId(stage as u32))
}

/// Each series over all holds of its load.
fn steady(plan: &Plan, facts: &Facts) -> Vec<SeriesReport> {
    let is_steady = |stage: &StageId| plan.stages[stage.index()].kind == StageKind::Hold;
    let row = |id: SeriesId| {
        let holds: Vec<StageId> = stages_of(plan, id).filter(is_steady).collect();
        let seconds = holds.iter().map(|stage| facts.seconds(plan, Some(*stage))).sum();
        let row = Row { stage: "steady", kind: Some(StageKind::Hold.word()), seconds };
        let report = || series_row(plan, facts, id, &row, |stage| holds.contains(&stage));
        (!holds.is_empty()).then(report)
    };
    (0..plan.series.len()).filter_map(|id| row(SeriesId(id as u32))).collect()
}

fn load_revisions(plan: &Plan, record: &Record) -> Vec<LoadRevisionReport> {
    let report = |scaled: &Scaled| LoadRevisionReport {
        at_s: scaled.revision.at_us as f64 / 1e6,
        group: plan
            .groups
            .get(scaled.revision.group)
            .map(|group| group.name.clone())
            .unwrap_or_default(),
        from_devices: scaled.from_devices,
        devices: scaled.revision.devices,
        rate_per_s: scaled.rate_per_s,
    };
    record.scaled.iter().map(report).collect()
}

/// What a row of results is of.
struct Row<'r> {
    stage: &'r str,
    kind: Option<&'static str>,
    seconds: f64,
}

fn series_row(
    plan: &Plan,
    facts: &Facts,
    id: SeriesId,
    row: &Row<'_>,
    is_in: impl Fn(StageId) -> bool,
) -> SeriesReport {
    let series = &plan.series[id.index()];
    let group = &plan.groups[series.group];
    let (tally, slots) = facts.total(|series, stage| series == id && is_in(stage));
    let send = group.sends().iter().find(|send| send.series == id);
    let is_acked = plan.is_acknowledged(id);
    let seconds = row.seconds;
    SeriesReport {
        group: group.name.clone(),
        name: series.name.clone(),
        operation: series.operation,
        model: if plan.is_closed(id) { "closed" } else { "open" }.into(),
        stage: row.stage.to_owned(),
        kind: row.kind.map(str::to_owned),
        slots: send.map(|_| SlotReport {
            planned: slots.planned,
            sent: tally.sent,
            held: tally.held,
            missed: tally.missed,
            not_connected: tally.not_connected,
            away: tally.away,
            unsent: tally.unsent,
            unassigned: slots.unassigned,
        }),
        acked: is_acked.then_some(tally.acked),
        count: tally.sent,
        errors: tally.n_errors(),
        errors_by_class: tally.errors.clone(),
        rate_per_s: if seconds > 0.0 { tally.sent as f64 / seconds } else { 0.0 },
        censored: tally.censored,
        resent: tally.resent,
        received: tally.received,
        bytes: tally.bytes,
        response_time_us: time(&tally.response_time),
        service_time_us: time(&tally.service_time),
        send_lag_us: time(&tally.send_lag),
        is_near_floor: false,
    }
}

/// Planned and actual shares of the tasks of all loops.
fn tasks(plan: &Plan, facts: &Facts) -> Vec<TaskReport> {
    let of_group = |group: &shoal_domain::plan::Group| {
        let weights: u64 = group.tasks().iter().map(|task| u64::from(task.weight)).sum();
        let begins = |task: &shoal_domain::plan::Task| {
            let first = task.steps.iter().find(|step| step.when.is_none())?.series;
            let is_its_own = group.steps().filter(|step| step.series == first).count() == 1;
            is_its_own.then(|| facts.total(|series, _| series == first).0.sent)
        };
        let counts: Vec<Option<u64>> = group.tasks().iter().map(begins).collect();
        let all: Option<u64> = counts.iter().copied().sum();
        let row = |(task, count): (&shoal_domain::plan::Task, Option<u64>)| TaskReport {
            group: group.name.clone(),
            name: task.name.clone(),
            planned_ratio: f64::from(task.weight) / weights as f64,
            count,
            actual_ratio: count
                .zip(all.filter(|all| *all > 0))
                .map(|(n, all)| n as f64 / all as f64),
        };
        group.tasks().iter().zip(counts).map(row).collect::<Vec<_>>()
    };
    plan.groups.iter().flat_map(of_group).collect()
}

fn time(samples: &Samples) -> Option<TimeReport> {
    let quantile = |q| samples.quantile_us(q);
    Some(TimeReport {
        count: samples.count(),
        min: samples.min_us()?,
        mean: samples.mean_us()?,
        p50: quantile(0.5)?,
        p90: quantile(0.9)?,
        p95: quantile(0.95)?,
        p99: quantile(0.99)?,
        p999: quantile(0.999)?,
        max: samples.max_us()?,
    })
}

fn failures(plan: &Plan, shares: &[Share]) -> Vec<FailureReport> {
    let mut merged: Vec<Failure> = Vec::new();
    for failure in shares.iter().flat_map(|share| &share.total.failures) {
        add_failure(&mut merged, failure.clone());
    }
    merged.sort_by_key(|failure| std::cmp::Reverse(failure.count));
    let report = |failure: Failure| FailureReport {
        series: plan.series_path(failure.series),
        class: failure.class,
        text: failure.text,
        count: failure.count,
        first_s: failure.first_us as f64 / 1e6,
        last_s: failure.last_us as f64 / 1e6,
        devices: failure.devices,
    };
    let known = |failure: &Failure| failure.series.index() < plan.series.len();
    merged.into_iter().filter(known).map(report).collect()
}

async fn events(store: &Store, row: &RunRow, record: &Record) -> Result<Vec<EventReport>, Refusal> {
    let t0_us = record.state.t0_us();
    let events = store.events(row.run_id).await?;
    let report = |event: EventRow| EventReport {
        at: rfc3339(event.at_us.max(0) as u64),
        at_s: t0_us.map(|t0_us| (event.at_us as f64 - t0_us as f64) / 1e6),
        kind: event.kind,
        text: event.text.trim().to_owned(),
    };
    Ok(events.into_iter().map(report).collect())
}

fn rfc3339(unix_us: u64) -> String {
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_micros(unix_us)).to_string()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
