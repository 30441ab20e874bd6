//! What is said of observers: loss from the trackers, delays with the bound of their clocks.

use std::collections::{BTreeMap, BTreeSet};

use shoal_domain::delay::{Delays, correction, is_indicative};
use shoal_domain::export::Watched;
use shoal_domain::ids::{ObserverId, StageId};
use shoal_domain::observed::{Arrivals, ReaderGap, SourceClocks, merge_arrivals, merge_clocks};
use shoal_domain::plan::{Observer, Plan};
use shoal_domain::report::{
    DelayReport, LossyReport, ObserverReport, PartObserverReport, ReaderGapReport,
};
use shoal_domain::run::Phase;
use shoal_domain::shard::Block;
use shoal_domain::template::DeviceScope;
use shoal_domain::tracker::{Horizon, Tracker};
use shoal_domain::validity::Blindness;
use shoal_domain::verdict::{Facts, ObserverFacts};
use shoal_proto::v1;

use super::shares::Share;
use crate::live::{LiveRun, Moment};
use crate::record::Record;
use crate::store::RunRow;
use crate::trackers::{ByWindow, Trackers};

/// Devices named for having lost most.
const MAX_LOSSY: usize = 10;

/// Everything about the observers of a run, for its facts and its document.
pub(super) struct Observing {
    pub(super) facts: Vec<ObserverFacts>,
    gaps: Vec<ReaderGap>,
    trackers: Trackers,
    horizon: Horizon,
}

impl Observing {
    pub(super) fn new(
        plan: &Plan,
        record: &Record,
        shares: &[Share],
        mut trackers: Trackers,
    ) -> Self {
        let is_over = record.state.phase().is_over();
        let horizon = if is_over { Horizon::Closed } else { Horizon::Open };
        let mut gaps: Vec<ReaderGap> =
            shares.iter().flat_map(|share| share.total.gaps.iter().cloned()).collect();
        for observer in (0..plan.observers.len()).map(|n| ObserverId(n as u32)) {
            let early = shares.iter().filter(|share| share.reads(observer) && !share.is_superseded);
            let early = early.filter_map(|share| ended_early(record, share)).min();
            if let (Some(from_us), true) = (early, is_over) {
                trackers.blind(observer);
                let why = "its agent was lost or stopped".to_owned();
                let to_us = record.load_end_us.max(from_us);
                gaps.push(ReaderGap { observer, from_us, to_us, why });
            }
        }
        let mut clocks = SourceClocks::new();
        shares.iter().for_each(|share| merge_clocks(&mut clocks, &share.total.clocks));
        let facts = |n: usize| {
            let id = ObserverId(n as u32);
            // A time that was cut off before it was sent says only this much.
            let resolution_us = plan.observers[n].resolution_us();
            let clock_bound_us = clock_bound_us(plan, shares, id) + resolution_us;
            let of = clocks.iter().filter(|((observer, _), _)| *observer == id);
            let totals = trackers.of(id).map(|tracker| tracker.totals(horizon));
            ObserverFacts {
                totals: totals.unwrap_or_default(),
                reader_gaps: gaps.iter().filter(|gap| gap.observer == id).count() as u64,
                clock_bound_us,
                platform_clock: correction(of.map(|(_, clock)| clock), clock_bound_us),
                drain_us: drain_us(record, shares, id),
            }
        };
        let facts = (0..plan.observers.len()).map(facts).collect();
        Self { facts, gaps, trackers, horizon }
    }

    pub(super) fn add_to(&self, facts: &mut Facts, shares: &[Share]) {
        for share in shares {
            merge_arrivals(&mut facts.arrivals, &share.total.arrivals);
        }
        facts.observers.clone_from(&self.facts);
    }

    /// What is not among the stored windows of what became of messages.
    pub(super) fn by_window(&self) -> ByWindow {
        self.trackers.by_window(self.horizon)
    }

    /// What a course has to know of each observer.
    pub(super) fn watched(&self, plan: &Plan) -> Vec<Watched> {
        let of = |(observer, facts): (&Observer, &ObserverFacts)| Watched {
            name: observer.name.clone(),
            platform_shift_us: facts.platform_shift_us(),
            has_classes: true,
        };
        let mut watched: Vec<Watched> = plan.observers.iter().zip(&self.facts).map(of).collect();
        for (n, watched) in watched.iter_mut().enumerate() {
            let tracker = self.trackers.of(ObserverId(n as u32));
            watched.has_classes = tracker.is_some_and(Tracker::knows_windows);
        }
        watched
    }

    pub(super) fn blindness(&self, plan: &Plan) -> Vec<Blindness> {
        let of = |gap: &ReaderGap| {
            let observer = plan.observers.get(gap.observer.index())?;
            Some(Blindness {
                observer: observer.name.clone(),
                from_us: gap.from_us,
                to_us: gap.to_us,
                why: gap.why.clone(),
            })
        };
        self.gaps.iter().filter_map(of).collect()
    }

    pub(super) fn reports(&self, plan: &Plan, row: &RunRow, facts: &Facts) -> Vec<ObserverReport> {
        let mut reports = Vec::new();
        for (n, observer) in plan.observers.iter().enumerate() {
            let id = ObserverId(n as u32);
            reports.push(self.report(plan, row, facts, id, None));
            let group = &plan.groups[plan.series[observer.of.index()].group];
            for stage in plan.loads[group.load].stages.clone() {
                reports.push(self.report(plan, row, facts, id, Some(StageId(stage as u32))));
            }
        }
        reports
    }

    fn report(
        &self,
        plan: &Plan,
        row: &RunRow,
        facts: &Facts,
        id: ObserverId,
        stage: Option<StageId>,
    ) -> ObserverReport {
        let observer = &plan.observers[id.index()];
        let known = self.facts[id.index()];
        let ObserverFacts { totals, clock_bound_us, platform_clock, drain_us, .. } = known;
        let shift_us = known.platform_shift_us();
        let arrivals = facts.arrived(id, stage);
        // Numbers know nothing of stages.
        let of_run = |n: u64| stage.is_none().then_some(n);
        let gap = |gap: &ReaderGap| ReaderGapReport {
            from_s: gap.from_us as f64 / 1e6,
            to_s: gap.to_us as f64 / 1e6,
            why: gap.why.clone(),
        };
        let gaps = self.gaps.iter().filter(|gap| gap.observer == id && stage.is_none());
        let median = arrivals.end_to_end.quantile_us(0.5);
        ObserverReport {
            name: observer.name.clone(),
            source: observer.source.word().to_owned(),
            of: plan.series_path(observer.of),
            stage: stage.map_or("all".into(), |stage| plan.stages[stage.index()].name.clone()),
            sent: of_run(totals.sent),
            acked: of_run(totals.acked),
            received: arrivals.received,
            unique: of_run(totals.unique),
            received_ratio: of_run(totals.unique)
                .filter(|_| totals.sent > 0)
                .map(|unique| unique as f64 / totals.sent as f64),
            lost: of_run(totals.lost),
            undelivered: of_run(totals.undelivered),
            unconfirmed: of_run(totals.unconfirmed),
            lost_possible: of_run(totals.lost_possible),
            duplicated: of_run(totals.duplicated),
            resent: of_run(totals.resent),
            out_of_order: of_run(totals.out_of_order),
            late_events: of_run(totals.late_events),
            pending: of_run(totals.pending),
            unparsed: arrivals.unparsed,
            foreign: arrivals.foreign,
            unstamped: arrivals.unstamped,
            backlog: arrivals.backlog,
            reader_gaps: gaps.map(gap).collect(),
            negative: arrivals.end_to_end.n_negative(),
            ingest_delay_us: delay(&arrivals.ingest, -shift_us),
            delivery_delay_us: delay(&arrivals.delivery, shift_us),
            end_to_end_delay_us: delay(&arrivals.end_to_end, 0),
            platform_clock_us: platform_clock.map(|clock| clock.shift_us),
            platform_bound_us: platform_clock.map(|clock| clock.bound_us),
            has_platform_clock_moved: platform_clock.is_some_and(|clock| clock.has_moved),
            clock_bound_us,
            is_indicative: median.is_some_and(|median| is_indicative(median, clock_bound_us)),
            drain_us,
            lossy_devices: match stage {
                None => self.lossy(plan, row, id),
                Some(_) => Vec::new(),
            },
        }
    }

    /// What some shares have to do with each observer.
    pub(super) fn of_part(&self, plan: &Plan, shares: &[&Share]) -> Vec<PartObserverReport> {
        let of = |(n, observer): (usize, &Observer)| {
            let id = ObserverId(n as u32);
            let group = plan.series[observer.of.index()].group;
            let mut held: Vec<&Block> =
                shares.iter().flat_map(|share| &share.shard.blocks).collect();
            held.retain(|block| block.group == group);
            let is_held = |device: u32, incarnation: u32| {
                let device = u64::from(device);
                held.iter().any(|block| {
                    block.incarnation == incarnation && block.devices.contains(&device)
                })
            };
            let tracker = self.trackers.of(id);
            let totals = tracker.map(|tracker| tracker.totals_of(self.horizon, is_held));
            let totals = totals.unwrap_or_default();
            let mut arrivals = Arrivals::default();
            for share in shares {
                for ((_, _), cell) in share.total.arrivals.iter().filter(|((of, _), _)| *of == id) {
                    arrivals.merge(cell);
                }
            }
            let shift_us = self.facts[n].platform_shift_us();
            let ratio = totals.unique as f64 / totals.sent as f64;
            PartObserverReport {
                name: observer.name.clone(),
                of: plan.series_path(observer.of),
                sent: totals.sent,
                acked: totals.acked,
                unique: totals.unique,
                received_ratio: (totals.sent > 0).then_some(ratio),
                lost: totals.lost,
                undelivered: totals.undelivered,
                unconfirmed: totals.unconfirmed,
                lost_possible: totals.lost_possible,
                duplicated: totals.duplicated,
                resent: totals.resent,
                pending: totals.pending,
                received: arrivals.received,
                unparsed: arrivals.unparsed,
                foreign: arrivals.foreign,
                negative: arrivals.end_to_end.n_negative(),
                ingest_delay_us: delay(&arrivals.ingest, -shift_us),
                delivery_delay_us: delay(&arrivals.delivery, shift_us),
                end_to_end_delay_us: delay(&arrivals.end_to_end, 0),
            }
        };
        plan.observers.iter().enumerate().map(of).collect()
    }

    fn lossy(&self, plan: &Plan, row: &RunRow, id: ObserverId) -> Vec<LossyReport> {
        let Some(tracker) = self.trackers.of(id) else { return Vec::new() };
        let group = plan.series[plan.observers[id.index()].of.index()].group;
        let lossy = tracker.lossy(self.horizon, MAX_LOSSY).into_iter();
        lossy
            .map(|lossy| LossyReport {
                device: device_id(plan, row, group, u64::from(lossy.device)),
                lost: lossy.lost,
            })
            .collect()
    }
}

/// Run time at which a share ended although there was more to read.
fn ended_early(record: &Record, share: &Share) -> Option<u64> {
    let Some(closing) = &share.row.closing else {
        return Some((share.total.last_window + 1) * shoal_domain::delta::WINDOW_US);
    };
    let closed_at_us = closing.closed_at_us as u64;
    (closed_at_us < record.load_end_us).then_some(closed_at_us)
}

/// Sent and read by one agent: one clock. Else both agents' errors add up.
fn clock_bound_us(plan: &Plan, shares: &[Share], observer: ObserverId) -> u64 {
    let group = plan.series[plan.observers[observer.index()].of.index()].group;
    let has_devices = |share: &&Share| share.shard.blocks.iter().any(|block| block.group == group);
    // An agent's devices and its observers follow one clock, and so one error.
    let mut errors: BTreeMap<&str, u64> = BTreeMap::new();
    for share in shares {
        let error = errors.entry(share.row.grant.agent_id.as_str()).or_default();
        *error = (*error).max(share.total.clock_error_us);
    }
    let agent = |share: &'_ Share| share.row.grant.agent_id.clone();
    let senders: BTreeSet<String> = shares.iter().filter(has_devices).map(agent).collect();
    let readers: BTreeSet<String> =
        shares.iter().filter(|share| share.reads(observer)).map(agent).collect();
    let error = |agent: &String| errors.get(agent.as_str()).copied().unwrap_or(0);
    let pairs = senders.iter().flat_map(|sender| {
        readers.iter().filter(move |reader| *reader != sender).map(move |reader| (sender, reader))
    });
    pairs.map(|(sender, reader)| error(sender) + error(reader)).max().unwrap_or(0)
}

/// Known once all shares have ended.
fn drain_us(record: &Record, shares: &[Share], observer: ObserverId) -> Option<u64> {
    if record.state.phase() < Phase::Collecting {
        return None;
    }
    let mut latest = None;
    let last = |share: &&Share| share.reads(observer) && !share.is_superseded;
    for share in shares.iter().filter(last) {
        let closed_at_us = share.row.closing.as_ref()?.closed_at_us as u64;
        latest = latest.max(Some(closed_at_us.saturating_sub(record.load_end_us)));
    }
    latest
}

fn device_id(plan: &Plan, row: &RunRow, group: usize, index: u64) -> String {
    let (secrets, run) = (BTreeMap::new(), row.run_id.mark());
    let scope = DeviceScope {
        seed: row.seed,
        run: &run,
        group: group as u32,
        index,
        device: "",
        lets: &[],
        rows: plan.groups[group].rows.as_ref(),
        captured: &[],
        secrets: &secrets,
    };
    let mut bytes = Vec::new();
    match plan.groups[group].id.render_device(&scope, &mut bytes) {
        Ok(()) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(_) => index.to_string(),
    }
}

/// With a constant added that two clocks differ by.
fn delay(delays: &Delays, shift_us: i64) -> Option<DelayReport> {
    let quantile = |q| delays.quantile_us(q).map(|us| us.saturating_add(shift_us));
    Some(DelayReport {
        count: delays.count(),
        min: delays.min_us()?.saturating_add(shift_us),
        mean: delays.mean_us()? + shift_us as f64,
        p50: quantile(0.5)?,
        p90: quantile(0.9)?,
        p95: quantile(0.95)?,
        p99: quantile(0.99)?,
        p999: quantile(0.999)?,
        max: delays.max_us()?.saturating_add(shift_us),
    })
}

/// What thresholds may ask of observers while the load goes on.
pub fn observe_live(facts: &mut Facts, plan: &Plan, live: &LiveRun) {
    facts.arrivals.clone_from(&live.arrivals);
    let known = |n: usize| {
        let tracker = live.trackers.of(ObserverId(n as u32));
        let totals = tracker.map(|tracker| tracker.totals(Horizon::Open)).unwrap_or_default();
        let of = live.clocks.iter().filter(|((observer, _), _)| observer.index() == n);
        let platform_clock = correction(of.map(|(_, clock)| clock), 0);
        let reader_gaps = live.gaps.iter().filter(|gap| gap.observer.index() == n).count() as u64;
        ObserverFacts { totals, platform_clock, reader_gaps, ..ObserverFacts::default() }
    };
    facts.observers = (0..plan.observers.len()).map(known).collect();
}

/// What a watcher sees of the observers.
pub(super) fn progress(plan: &Plan, live: &LiveRun, now: &Moment) -> Vec<v1::ObserverProgress> {
    let of = |(n, observer): (usize, &Observer)| {
        let id = ObserverId(n as u32);
        let tracker = live.trackers.of(id);
        let totals = tracker.map(|tracker| tracker.totals(Horizon::Open)).unwrap_or_default();
        let arrived = now.arrived.get(&id).cloned().unwrap_or_default();
        v1::ObserverProgress {
            name: observer.name.clone(),
            received_per_s: arrived.received,
            sent: totals.sent,
            unique: totals.unique,
            lost: totals.lost,
            undelivered: totals.undelivered,
            lost_possible: totals.lost_possible,
            duplicated: totals.duplicated,
            out_of_order: totals.out_of_order,
            pending: totals.pending,
            samples: arrived.end_to_end.count(),
            p95_us: arrived.end_to_end.quantile_us(0.95).unwrap_or(0),
        }
    };
    plan.observers.iter().enumerate().map(of).collect()
}
