//! From a run's totals to its thresholds, its verdict and its exit code: total functions, so a run
//! can never pass in silence.
//!
//! Exit codes, first match: 2 no agents in time · 3 failed to start, interrupted, invalid, aborted ·
//! 1 a threshold failed · 3 degraded and not accepted · 0.

use std::collections::BTreeMap;

use crate::delay::{ClockCorrection, Delays};
use crate::delta::{Cells, Samples, Tally};
use crate::ids::{ObserverId, SeriesId, StageId};
use crate::observed::{ArrivalCells, Arrivals};
use crate::plan::{Comparison, Limit, Metric, Observed, Plan, Statistic, Subject, Threshold};
use crate::report::ThresholdResult;
use crate::run::{Cause, Phase, Validity, Verdict};
use crate::tracker::Totals;

/// Slots of one series and stage as the plan has them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PlannedSlots {
    pub planned: u64,
    /// Of them: no agent held the device.
    pub unassigned: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GroupDevices {
    pub planned: u64,
    pub connected: u64,
    pub failed: u64,
}

/// Everything that thresholds can ask for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    pub cells: Cells,
    pub slots: BTreeMap<(SeriesId, StageId), PlannedSlots>,
    /// By index of the plan's groups.
    pub devices: Vec<GroupDevices>,
    pub arrivals: ArrivalCells,
    /// By index of the plan's observers; empty where nothing is known of them.
    pub observers: Vec<ObserverFacts>,
    /// Run time at which the load ended (or now).
    pub ended_us: u64,
}

/// What is known of one observer beside its arrivals.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ObserverFacts {
    pub totals: Totals,
    pub reader_gaps: u64,
    /// By how much end-to-end delays may be wrong; 0: sent and received by one clock.
    pub clock_bound_us: u64,
    /// What is known of the platform's clock, of a source that says when it took events in.
    pub platform_clock: Option<ClockCorrection>,
    /// How long it went on after the load; `None` until it has ended.
    pub drain_us: Option<u64>,
}

impl ObserverFacts {
    /// The platform's clock minus ours, as it is taken.
    pub fn platform_shift_us(&self) -> i64 {
        self.platform_clock.map_or(0, |clock| clock.shift_us)
    }
}

/// A threshold's result with the number it was judged by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Judgement {
    /// In the limit's unit; `None` without data.
    pub value: Option<f64>,
    pub samples: u64,
    pub result: ThresholdResult,
}

impl Facts {
    /// The sum over the cells that `wanted` names.
    pub fn total(&self, wanted: impl Fn(SeriesId, StageId) -> bool) -> (Tally, PlannedSlots) {
        let mut tally = Tally::default();
        let mut slots = PlannedSlots::default();
        for ((series, stage), cell) in &self.cells {
            if wanted(*series, *stage) {
                tally.merge(cell);
            }
        }
        for ((series, stage), planned) in &self.slots {
            if wanted(*series, *stage) {
                slots.planned += planned.planned;
                slots.unassigned += planned.unassigned;
            }
        }
        (tally, slots)
    }

    /// What an observer saw of a stage or of the whole run.
    pub fn arrived(&self, observer: ObserverId, stage: Option<StageId>) -> Arrivals {
        let mut arrivals = Arrivals::default();
        for ((known, at), cell) in &self.arrivals {
            if *known == observer && stage.is_none_or(|stage| stage == *at) {
                arrivals.merge(cell);
            }
        }
        arrivals
    }

    /// Seconds that a stage (or the run) lasted so far.
    pub fn seconds(&self, plan: &Plan, stage: Option<StageId>) -> f64 {
        let (start, end) = match stage {
            Some(stage) => {
                let stage = &plan.stages[stage.index()];
                (stage.start_us, stage.end_us.min(self.ended_us))
            }
            None => (0, self.ended_us),
        };
        end.saturating_sub(start) as f64 / 1e6
    }
}

/// Judges one threshold. No data fails.
pub fn judge(plan: &Plan, threshold: &Threshold, facts: &Facts) -> Judgement {
    let (value, samples) = measure(plan, threshold, facts);
    let result = match value {
        None => ThresholdResult::NoData,
        Some(value) if holds(value, threshold.comparison, threshold.limit.value()) => {
            ThresholdResult::Passed
        }
        Some(_) => ThresholdResult::Failed,
    };
    Judgement { value, samples, result }
}

fn measure(plan: &Plan, threshold: &Threshold, facts: &Facts) -> (Option<f64>, u64) {
    let in_stage = |stage: StageId| threshold.stage.is_none_or(|wanted| wanted == stage);
    let (tally, slots) = match &threshold.subject {
        Subject::Series(wanted) => {
            facts.total(|series, stage| series == *wanted && in_stage(stage))
        }
        Subject::All(operation) => facts.total(|series, stage| {
            plan.series[series.index()].operation == *operation && in_stage(stage)
        }),
        Subject::Observer(observer) => return measure_observed(threshold, *observer, facts),
        Subject::Devices(group) => {
            let devices = facts.devices.get(*group).copied().unwrap_or_default();
            let n = match threshold.metric {
                Metric::DevicesConnected => devices.connected,
                Metric::DevicesFailed => devices.failed,
                _ => devices.planned,
            };
            return scaled(n, devices.planned, threshold.limit);
        }
    };
    match threshold.metric {
        Metric::Errors => scaled(tally.n_errors(), tally.sent, threshold.limit),
        Metric::Count => scaled(tally.sent, tally.sent, threshold.limit),
        Metric::Rate => {
            let seconds = facts.seconds(plan, threshold.stage);
            ((seconds > 0.0).then(|| tally.sent as f64 / seconds), tally.sent)
        }
        Metric::ResponseTime(statistic) => statistic_of(&tally.response_time, statistic),
        Metric::ServiceTime(statistic) => statistic_of(&tally.service_time, statistic),
        Metric::SendLag(statistic) => statistic_of(&tally.send_lag, statistic),
        Metric::Planned => scaled(slots.planned, slots.planned, threshold.limit),
        // A sum over connection attempts has no plan, so only counts can be asked of it.
        Metric::Sent => scaled(tally.sent, slots.planned, threshold.limit),
        Metric::Missed => scaled(tally.missed, slots.planned, threshold.limit),
        Metric::Held => scaled(tally.held, slots.planned, threshold.limit),
        Metric::NotConnected => scaled(tally.not_connected, slots.planned, threshold.limit),
        Metric::Away => scaled(tally.away, slots.planned, threshold.limit),
        Metric::Unsent => scaled(tally.unsent, slots.planned, threshold.limit),
        Metric::Unassigned => scaled(slots.unassigned, slots.planned, threshold.limit),
        Metric::DevicesPlanned
        | Metric::DevicesConnected
        | Metric::DevicesFailed
        | Metric::Observed(_)
        | Metric::IngestDelay(_)
        | Metric::DeliveryDelay(_)
        | Metric::EndToEndDelay(_)
        | Metric::Drain
        | Metric::ClockBound => (None, 0),
    }
}

fn measure_observed(
    threshold: &Threshold,
    observer: ObserverId,
    facts: &Facts,
) -> (Option<f64>, u64) {
    let arrivals = facts.arrived(observer, threshold.stage);
    let known = facts.observers.get(observer.index()).copied().unwrap_or_default();
    let totals = known.totals;
    let events = arrivals.received + arrivals.unparsed + arrivals.foreign;
    let (n, whole) = match threshold.metric {
        // Stamps of two clocks: their difference is taken off the one and added to the other.
        Metric::IngestDelay(statistic) => {
            return delay(&arrivals.ingest, statistic, -known.platform_shift_us());
        }
        Metric::DeliveryDelay(statistic) => {
            return delay(&arrivals.delivery, statistic, known.platform_shift_us());
        }
        Metric::EndToEndDelay(statistic) => return delay(&arrivals.end_to_end, statistic, 0),
        Metric::Drain => return (known.drain_us.map(|us| us as f64), 1),
        Metric::ClockBound => return (Some(known.clock_bound_us as f64), totals.unique),
        Metric::Observed(count) => match count {
            Observed::Sent => (totals.sent, totals.sent),
            Observed::Acked => (totals.acked, totals.sent),
            Observed::Received => (totals.received, totals.acked),
            Observed::Unique => (totals.unique, totals.acked),
            Observed::Lost => (totals.lost, totals.acked),
            Observed::Undelivered => (totals.undelivered, totals.acked),
            Observed::Unconfirmed => (totals.unconfirmed, totals.acked),
            Observed::LostPossible => (totals.lost_possible, totals.acked),
            Observed::Duplicated => (totals.duplicated, totals.acked),
            Observed::Resent => (totals.resent, totals.acked),
            Observed::OutOfOrder => (totals.out_of_order, totals.acked),
            Observed::LateEvents => (totals.late_events, totals.acked),
            Observed::Unparsed => (arrivals.unparsed, events),
            Observed::Foreign => (arrivals.foreign, events),
            Observed::Negative => (arrivals.end_to_end.n_negative(), arrivals.end_to_end.count()),
            Observed::ReaderGaps => (known.reader_gaps, events),
        },
        _ => return (None, 0),
    };
    // Of a run in which nothing was sent, no loss proves nothing.
    if totals.sent == 0 && !matches!(threshold.metric, Metric::Observed(Observed::Sent)) {
        return (None, 0);
    }
    scaled(n, whole, threshold.limit)
}

fn delay(delays: &Delays, statistic: Statistic, shift_us: i64) -> (Option<f64>, u64) {
    let us = |value: Option<i64>| value.map(|us| us as f64);
    let value = match statistic {
        Statistic::Min => us(delays.min_us()),
        Statistic::Mean => delays.mean_us(),
        Statistic::P50 => us(delays.quantile_us(0.5)),
        Statistic::P90 => us(delays.quantile_us(0.9)),
        Statistic::P95 => us(delays.quantile_us(0.95)),
        Statistic::P99 => us(delays.quantile_us(0.99)),
        Statistic::P999 => us(delays.quantile_us(0.999)),
        Statistic::Max => us(delays.max_us()),
    };
    (value.map(|us| us + shift_us as f64), delays.count())
}

/// A count as it is, or as a share of `whole` where the limit is a ratio. An error count of a
/// series that did nothing is no data; a count of something planned is not.
fn scaled(n: u64, whole: u64, limit: Limit) -> (Option<f64>, u64) {
    match limit {
        Limit::Ratio(_) => ((whole > 0).then(|| n as f64 / whole as f64), whole),
        _ => (Some(n as f64), whole),
    }
}

pub(crate) fn statistic_of(samples: &Samples, statistic: Statistic) -> (Option<f64>, u64) {
    let us = |value: Option<u64>| value.map(|us| us as f64);
    let value = match statistic {
        Statistic::Min => us(samples.min_us()),
        Statistic::Mean => samples.mean_us(),
        Statistic::P50 => us(samples.quantile_us(0.5)),
        Statistic::P90 => us(samples.quantile_us(0.9)),
        Statistic::P95 => us(samples.quantile_us(0.95)),
        Statistic::P99 => us(samples.quantile_us(0.99)),
        Statistic::P999 => us(samples.quantile_us(0.999)),
        Statistic::Max => us(samples.max_us()),
    };
    (value, samples.count())
}

fn holds(value: f64, comparison: Comparison, limit: f64) -> bool {
    match comparison {
        Comparison::Less => value < limit,
        Comparison::AtMost => value <= limit,
        Comparison::Greater => value > limit,
        Comparison::AtLeast => value >= limit,
        Comparison::Equal => value == limit,
        Comparison::NotEqual => value != limit,
    }
}

impl Limit {
    pub fn value(self) -> f64 {
        match self {
            Self::Count(value)
            | Self::Ratio(value)
            | Self::Micros(value)
            | Self::PerSecond(value) => value,
        }
    }

    pub fn unit(self) -> &'static str {
        match self {
            Self::Count(_) => "count",
            Self::Ratio(_) => "ratio",
            Self::Micros(_) => "us",
            Self::PerSecond(_) => "per_s",
        }
    }
}

/// Error codes of a start that failed because agents were missing: the run was refused.
const REFUSED: [&str; 4] = ["SH0201", "SH0202", "SH0203", "SH0206"];

/// Verdict and exit code of a run that is over.
pub fn outcome(
    phase: Phase,
    cause: &Cause,
    validity: Validity,
    accept_degraded: bool,
    all_thresholds_hold: bool,
) -> (Option<Verdict>, u8) {
    match phase {
        Phase::FailedToStart => match cause {
            Cause::FailedToStart { code, .. } if REFUSED.contains(&code.as_str()) => (None, 2),
            _ => (None, 3),
        },
        Phase::Aborted | Phase::Interrupted => (None, 3),
        Phase::Finished => match (validity, all_thresholds_hold) {
            (Validity::Invalid, _) => (None, 3),
            (_, false) => (Some(Verdict::Failed), 1),
            (Validity::Degraded, true) if !accept_degraded => (Some(Verdict::Passed), 3),
            (_, true) => (Some(Verdict::Passed), 0),
        },
        // Not over: whoever asks now has lost sight of it.
        Phase::Pending
        | Phase::Preparing
        | Phase::Armed
        | Phase::Running
        | Phase::Stopping
        | Phase::Collecting => (None, 4),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::ErrorClass;
    use crate::schedule::tests::{plan, ramp_and_hold};
    use proptest::prelude::*;

    const SERIES: SeriesId = SeriesId(1);

    fn threshold(metric: Metric, comparison: Comparison, limit: Limit) -> Threshold {
        Threshold {
            text: "test".into(),
            subject: Subject::Series(SERIES),
            metric,
            comparison,
            limit,
            stage: None,
            region: crate::plan::Region::All,
            windows: None,
            abort_after_us: None,
            is_default: false,
        }
    }

    fn facts(sent: u64, errors: u64) -> Facts {
        let mut tally = Tally { sent, ..Tally::default() };
        for n in 0..sent {
            tally.response_time.record(1_000 * (n + 1));
        }
        if errors > 0 {
            tally.errors.insert(ErrorClass::AckTimeout, errors);
        }
        let slots = PlannedSlots { planned: 100, unassigned: 0 };
        Facts {
            cells: [((SERIES, StageId(1)), tally)].into(),
            slots: [((SERIES, StageId(1)), slots)].into(),
            devices: vec![GroupDevices { planned: 10, connected: 9, failed: 1 }],
            ended_us: 10_000_000,
            ..Facts::default()
        }
    }

    fn result(threshold: &Threshold, facts: &Facts) -> ThresholdResult {
        let plan = plan(&[10], 1_000_000, ramp_and_hold(10, 1_000_000, 9_000_000));
        judge(&plan, threshold, facts).result
    }

    #[test]
    fn a_percent_limit_divides_errors_by_attempts_and_slots_by_the_plan() {
        let errors = threshold(Metric::Errors, Comparison::Less, Limit::Ratio(0.1));
        assert_eq!(result(&errors, &facts(50, 4)), ThresholdResult::Passed);
        assert_eq!(result(&errors, &facts(50, 5)), ThresholdResult::Failed);
        let sent = threshold(Metric::Sent, Comparison::AtLeast, Limit::Ratio(0.95));
        assert_eq!(result(&sent, &facts(95, 0)), ThresholdResult::Passed);
        assert_eq!(result(&sent, &facts(94, 0)), ThresholdResult::Failed);
    }

    #[test]
    fn no_data_fails() {
        let limit = Limit::Micros(1e6);
        let p95 = threshold(Metric::ResponseTime(Statistic::P95), Comparison::Less, limit);
        assert_eq!(result(&p95, &facts(0, 0)), ThresholdResult::NoData);
        let errors = threshold(Metric::Errors, Comparison::Less, Limit::Ratio(0.1));
        assert_eq!(result(&errors, &facts(0, 0)), ThresholdResult::NoData);
    }

    #[test]
    fn percentiles_are_of_the_merged_histogram() {
        let limit = Limit::Micros(96_000.0);
        let p95 = threshold(Metric::ResponseTime(Statistic::P95), Comparison::Less, limit);
        assert_eq!(result(&p95, &facts(100, 0)), ThresholdResult::Passed);
        let stricter = Threshold { limit: Limit::Micros(94_000.0), ..p95 };
        assert_eq!(result(&stricter, &facts(100, 0)), ThresholdResult::Failed);
    }

    #[test]
    fn a_start_without_agents_is_a_refusal() {
        let cause = |code: &str| Cause::FailedToStart { code: code.into(), why: String::new() };
        let exit =
            |code| outcome(Phase::FailedToStart, &cause(code), Validity::Valid, false, false).1;
        assert_eq!((exit("SH0203"), exit("SH0301")), (2, 3));
    }

    proptest! {
        #[test]
        fn zero_is_only_for_a_finished_trusted_run_whose_thresholds_hold(
            phase in proptest::sample::select(Phase::ALL.to_vec()),
            validity in proptest::sample::select(vec![Validity::Valid, Validity::Degraded, Validity::Invalid]),
            accept in any::<bool>(), hold in any::<bool>(),
        ) {
            let (verdict, exit) = outcome(phase, &Cause::Completed, validity, accept, hold);
            let trusted = validity == Validity::Valid || (validity == Validity::Degraded && accept);
            prop_assert_eq!(exit == 0, phase == Phase::Finished && trusted && hold);
            prop_assert_eq!(exit == 1, verdict == Some(Verdict::Failed));
        }
    }
}
