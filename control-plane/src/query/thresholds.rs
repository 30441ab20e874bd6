//! How each threshold stands: over its whole time, or window by window; of all agents, or of those
//! of a region.
//!
//! The windows of a run are read once, in order of time, for all thresholds that ask for them.
//! Invariant: what has no agent, no window or no sample is no data, which fails.

use std::collections::{BTreeMap, BTreeSet};

use shoal_domain::delta::Delta;
use shoal_domain::plan::{Plan, Region, Subject, Threshold};
use shoal_domain::report::{ThresholdReport, ThresholdResult, WindowsReport};
use shoal_domain::verdict::{Facts, Judgement, judge};
use shoal_domain::windowed::{Held, Windowed};

use super::observers::Observing;
use super::parts::{Regions, facts_of, name_of};
use super::shares::Share;
use crate::fold::FACTS;
use crate::orchestrator::decode;
use crate::record::Record;
use crate::refusal::Refusal;
use crate::store::{RunRow, Store};

/// Windows that are read at once.
const SPAN: i64 = 256;

/// Whom and what the thresholds of one run are asked.
pub(super) struct Asked<'a> {
    pub(super) store: &'a Store,
    pub(super) row: &'a RunRow,
    pub(super) plan: &'a Plan,
    pub(super) record: &'a Record,
    pub(super) shares: &'a [Share],
    pub(super) facts: &'a Facts,
    pub(super) observing: &'a Observing,
}

/// One threshold in one region, while its windows are read.
struct Asking {
    position: usize,
    region: Option<String>,
    windows: Windowed,
}

impl Asked<'_> {
    pub(super) async fn reports(&self) -> Result<Vec<ThresholdReport>, Refusal> {
        if let Some(kept) = self.kept().await? {
            return Ok(kept);
        }
        let regions = Regions::of(self.store, self.row).await?;
        let by_region: BTreeMap<&str, Facts> = self
            .wanted_regions(&regions)
            .into_iter()
            .map(|region| {
                let is_of = |share: &&Share| regions.of_share(share) == region;
                (region, self.facts_of(self.shares.iter().filter(is_of)))
            })
            .collect();
        let held = self.held(&regions, &by_region).await?;
        let report = |(n, threshold): (usize, &Threshold)| match threshold.windows {
            Some(_) => windowed_report(self.plan, threshold, held.get(&n)),
            None => self.report(n, threshold, &by_region),
        };
        Ok(self.plan.thresholds.iter().enumerate().map(report).collect())
    }

    /// What was judged at the end: the windows that it was judged by may be coarser now. Only
    /// where windows were judged; all else is made anew from the summaries.
    async fn kept(&self) -> Result<Option<Vec<ThresholdReport>>, Refusal> {
        let is_of_windows = |threshold: &Threshold| threshold.windows.is_some();
        if !self.row.phase.is_over() || !self.plan.thresholds.iter().any(is_of_windows) {
            return Ok(None);
        }
        let rows = self.store.thresholds(self.row.run_id).await?;
        let reports = rows.iter().map(|row| serde_json::from_str(&row.report_json).ok());
        let reports: Option<Vec<ThresholdReport>> = reports.collect();
        Ok(reports.filter(|reports| reports.len() == self.plan.thresholds.len()))
    }

    /// Those that any threshold asks for and that have a device.
    fn wanted_regions<'r>(&self, regions: &'r Regions) -> BTreeSet<&'r str> {
        let thresholds = &self.plan.thresholds;
        let driving = self.shares.iter().filter(|share| share.observe.is_none());
        driving
            .map(|share| regions.of_share(share))
            .filter(|known| {
                thresholds.iter().any(|threshold| match &threshold.region {
                    Region::All => false,
                    Region::Named(name) => name == known,
                    Region::Each => true,
                })
            })
            .collect()
    }

    fn facts_of<'s>(&self, shares: impl Iterator<Item = &'s Share> + Clone) -> Facts {
        facts_of(self.row, self.plan, self.record, self.facts.ended_us, shares)
    }

    fn report(
        &self,
        position: usize,
        threshold: &Threshold,
        by_region: &BTreeMap<&str, Facts>,
    ) -> ThresholdReport {
        let judge = |facts: &Facts| judge(self.plan, threshold, facts);
        let in_region = by_region.iter().map(|(region, facts)| (Some(*region), judge(facts)));
        let (worst_region, judgement) = match &threshold.region {
            Region::All => (None, judge(self.facts)),
            Region::Named(name) => (None, by_region.get(name.as_str()).map_or(NOTHING, judge)),
            Region::Each => in_region
                .max_by(|(_, a), (_, b)| badness(threshold, a).total_cmp(&badness(threshold, b)))
                .unwrap_or((None, NOTHING)),
        };
        // One that was true whenever it was looked at broke at the very end.
        let since_us = self.record.false_since_us.get(&position).copied();
        let is_over = self.record.state.phase().is_over();
        let since_us = since_us.or(is_over.then_some(self.facts.ended_us));
        let is_broken = judgement.result == ThresholdResult::Failed;
        ThresholdReport {
            value: judgement.value,
            limit: threshold.limit.value(),
            unit: threshold.limit.unit().to_owned(),
            samples: judgement.samples,
            result: judgement.result,
            breached_at_s: since_us.filter(|_| is_broken).map(|us| us as f64 / 1e6),
            worst_region: worst_region.map(name_of),
            ..blank(self.plan, threshold)
        }
    }

    /// By position of the threshold: how it stood in the windows of the worst region.
    async fn held(
        &self,
        regions: &Regions,
        by_region: &BTreeMap<&str, Facts>,
    ) -> Result<BTreeMap<usize, (Option<String>, Held)>, Refusal> {
        let mut asking = self.asking(by_region);
        if !asking.is_empty() {
            self.read_windows(regions, &mut asking).await?;
        }
        let ended_us = self.facts.ended_us;
        let mut worst: BTreeMap<usize, (Option<String>, Held)> = BTreeMap::new();
        for Asking { position, region, mut windows } in asking {
            let held = windows.known(self.plan, ended_us, &self.facts.observers);
            let is_worse =
                worst.get(&position).is_none_or(|(_, known)| held.ratio() < known.ratio());
            if is_worse {
                worst.insert(position, (region, held));
            }
        }
        Ok(worst)
    }

    fn asking(&self, by_region: &BTreeMap<&str, Facts>) -> Vec<Asking> {
        let mut asking = Vec::new();
        for (position, threshold) in self.plan.thresholds.iter().enumerate() {
            let regions: Vec<Option<String>> = match &threshold.region {
                Region::All => vec![None],
                Region::Named(name) => {
                    by_region.keys().filter(|known| *known == name).map(named).collect()
                }
                Region::Each => by_region.keys().map(named).collect(),
            };
            for region in regions {
                if let Some(windows) = Windowed::new(self.plan, threshold) {
                    asking.push(Asking { position, region, windows });
                }
            }
        }
        asking
    }

    async fn read_windows(&self, regions: &Regions, asking: &mut [Asking]) -> Result<(), Refusal> {
        let is_wanted = |series: i64| {
            self.plan.thresholds.iter().filter(|threshold| threshold.windows.is_some()).any(
                |threshold| match &threshold.subject {
                    Subject::Series(wanted) => i64::from(wanted.0) == series,
                    Subject::All(operation) => usize::try_from(series)
                        .ok()
                        .and_then(|series| self.plan.series.get(series))
                        .is_some_and(|series| series.operation == *operation),
                    Subject::Observer(_) => series == FACTS,
                    Subject::Devices(_) => false,
                },
            )
        };
        let run = self.row.run_id;
        let mut waiting = self.unfolded(regions).await?;
        let end = (self.facts.ended_us / 1_000_000) as i64 + 1;
        for from in (0..end).step_by(SPAN as usize) {
            for stored in self.store.windows_of(run, from, from + SPAN).await? {
                if !is_wanted(stored.series) {
                    continue;
                }
                let window = stored.window.max(0) as u64;
                take_before(&mut waiting, window, asking);
                // Nothing of an earlier second comes any more.
                for asking in asking.iter_mut() {
                    let until_us = (window * 1_000_000).min(self.facts.ended_us);
                    asking.windows.known(self.plan, until_us, &self.facts.observers);
                }
                let delta = decode("windows", &run.to_string(), &stored.body)?;
                give(asking, window, &stored.region, &delta);
            }
        }
        take_before(&mut waiting, u64::MAX, asking);
        Ok(())
    }

    /// Deltas that wait for their fold and what is open of messages, by window, with the region of
    /// their agent.
    async fn unfolded(
        &self,
        regions: &Regions,
    ) -> Result<BTreeMap<u64, Vec<(String, Delta)>>, Refusal> {
        let region_of = |assignment: &str| {
            let share = self.shares.iter().find(|s| s.row.grant.assignment_id == assignment);
            share.map_or("", |share| regions.of_share(share)).to_owned()
        };
        let mut waiting: BTreeMap<u64, Vec<(String, Delta)>> = BTreeMap::new();
        for stored in self.store.unfolded(self.row.run_id, None).await? {
            let delta = decode("deltas", &stored.assignment_id, &stored.body)?;
            let region = region_of(&stored.assignment_id);
            waiting.entry(delta.last_window).or_default().push((region, delta));
        }
        for (window, settled) in self.observing.by_window() {
            let delta = Delta { settled, ..Delta::default() };
            waiting.entry(window).or_default().push((String::new(), delta));
        }
        Ok(waiting)
    }
}

const NOTHING: Judgement = Judgement { value: None, samples: 0, result: ThresholdResult::NoData };

fn named(region: &&str) -> Option<String> {
    Some((*region).to_owned())
}

/// Orders judgements from the best to the worst: no data is worst, then what is furthest beyond.
fn badness(threshold: &Threshold, judgement: &Judgement) -> f64 {
    use shoal_domain::plan::Comparison as C;
    let Some(value) = judgement.value else { return f64::INFINITY };
    match threshold.comparison {
        C::Less | C::AtMost => value,
        C::Greater | C::AtLeast => -value,
        C::Equal => (value - threshold.limit.value()).abs(),
        C::NotEqual => -(value - threshold.limit.value()).abs(),
    }
}

fn blank(plan: &Plan, threshold: &Threshold) -> ThresholdReport {
    ThresholdReport {
        expr: threshold.text.clone(),
        stage: threshold.stage.map(|stage| plan.stages[stage.index()].name.clone()),
        value: None,
        limit: threshold.limit.value(),
        unit: threshold.limit.unit().to_owned(),
        samples: 0,
        result: ThresholdResult::NoData,
        breached_at_s: None,
        region: match &threshold.region {
            Region::All => None,
            Region::Named(name) => Some(name.clone()),
            Region::Each => Some("each".to_owned()),
        },
        worst_region: None,
        windows: None,
    }
}

fn windowed_report(
    plan: &Plan,
    threshold: &Threshold,
    held: Option<&(Option<String>, Held)>,
) -> ThresholdReport {
    let blank = blank(plan, threshold);
    let Some(windows) = threshold.windows else { return blank };
    let (region, held) = held.cloned().unwrap_or_default();
    let is_each = threshold.region == Region::Each;
    let result = held.result(windows.held_ratio);
    let seconds = |us: u64| us as f64 / 1e6;
    ThresholdReport {
        value: held.ratio(),
        limit: windows.held_ratio,
        unit: "ratio".to_owned(),
        samples: held.windows,
        result,
        breached_at_s: held.broken_at_us.filter(|_| result == ThresholdResult::Failed).map(seconds),
        worst_region: region.filter(|_| is_each).as_deref().map(name_of),
        windows: Some(WindowsReport {
            seconds: windows.seconds,
            judged: held.windows,
            held: held.held,
            worst: held.worst.map(|(value, _)| value),
            worst_at_s: held.worst.map(|(_, at_us)| seconds(at_us)),
            limit: threshold.limit.value(),
            unit: threshold.limit.unit().to_owned(),
        }),
        ..blank
    }
}

fn give(asking: &mut [Asking], window: u64, region: &str, delta: &Delta) {
    for asking in asking {
        if asking.region.as_deref().is_none_or(|wanted| wanted == region) {
            asking.windows.add(window, &delta.cells, &delta.arrivals);
            for (observer, totals) in &delta.settled {
                asking.windows.add_totals(window, *observer, totals);
            }
        }
    }
}

fn take_before(
    waiting: &mut BTreeMap<u64, Vec<(String, Delta)>>,
    window: u64,
    asking: &mut [Asking],
) {
    while let Some(first) = waiting.first_entry().filter(|first| *first.key() < window) {
        let (window, deltas) = first.remove_entry();
        for (region, delta) in deltas {
            give(asking, window, &region, &delta);
        }
    }
}
