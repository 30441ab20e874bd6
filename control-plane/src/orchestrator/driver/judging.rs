//! Thresholds while the load goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use shoal_domain::account::{Holding, Until, account, applied};
use shoal_domain::delta::{Cells, merge_cells};
use shoal_domain::plan::{Region, Threshold};
use shoal_domain::report::ThresholdResult;
use shoal_domain::run::Phase;
use shoal_domain::schedule::Timetable;
use shoal_domain::verdict;

use super::Driver;
use super::watched::{Watched, known_us};
use crate::live::{LivePart, LiveRun, Second};
use crate::{fleet, query};

/// How often thresholds are judged while the load goes on.
const JUDGE_EVERY_US: u64 = 1_000_000;

impl Driver {
    /// Keeps since when each threshold has been false; whether one has been so for its
    /// `abort_after`.
    pub(super) fn is_breached(&mut self, now_us: u64) -> bool {
        let is_due = now_us >= self.judged_us + JUDGE_EVERY_US;
        let (Phase::Running, true, Some(t0_us)) =
            (self.record.state.phase(), is_due, self.record.state.t0_us())
        else {
            return false;
        };
        self.judged_us = now_us;
        let Some(facts) = self.live_facts(None) else { return false };
        let known_us = self.take_seconds();
        let by_region = self.facts_by_region();
        let run_us = now_us.saturating_sub(t0_us);
        let mut is_breached = false;
        for (n, threshold) in self.plan.thresholds.iter().enumerate() {
            let fails = |facts: &verdict::Facts| {
                verdict::judge(&self.plan, threshold, facts).result == ThresholdResult::Failed
            };
            let is_false = match &threshold.region {
                _ if threshold.windows.is_some() => {
                    self.watched.is_false(&self.plan, n, known_us, &facts.observers)
                }
                Region::All => fails(&facts),
                Region::Named(name) => by_region.get(name).is_some_and(fails),
                Region::Each => by_region.values().any(fails),
            };
            if is_false {
                let since_us = *self.false_since_us.entry(n).or_insert(run_us);
                let after_us = threshold.abort_after_us;
                is_breached |= after_us.is_some_and(|after_us| run_us >= since_us + after_us);
            } else {
                self.false_since_us.remove(&n);
            }
        }
        is_breached
    }

    /// Hands what was recorded since the last look to the thresholds of windows. Up to where all is
    /// known.
    fn take_seconds(&mut self) -> u64 {
        if !Watched::is_needed(&self.plan) {
            return 0;
        }
        let seconds = self.runs.live.change(self.row.run_id, LiveRun::take_seconds);
        let regions = self.region_of();
        for Second { second, grant, delta } in seconds.into_iter().flatten() {
            let region = regions.get(&grant.0).map_or("", String::as_str);
            self.watched.add(&self.plan, second, region, &delta);
        }
        let roster = &self.record.roster;
        let drives = roster.grants.iter().filter(|grant| grant.is_live());
        let drives = drives.map(|grant| self.grant_key(&grant.id));
        let reads = roster.readers.iter().filter(|reader| reader.is_live());
        let reads = reads.map(|reader| self.reader_key(reader));
        let tells: Vec<fleet::Grant> = drives.chain(reads).collect();
        let known = |live: &LiveRun| {
            let through =
                |key: &fleet::Grant| live.parts.get(key).map_or(0, |part| part.through_us);
            known_us(tells.iter().map(through))
        };
        self.runs.live.read(self.row.run_id, known).unwrap_or(0)
    }

    /// Of the regions that have devices, where a threshold asks for single ones.
    fn facts_by_region(&self) -> BTreeMap<String, verdict::Facts> {
        let asks =
            |threshold: &Threshold| threshold.region != Region::All && threshold.windows.is_none();
        if !self.plan.thresholds.iter().any(asks) {
            return BTreeMap::new();
        }
        let regions: BTreeSet<String> = self.region_of().into_values().collect();
        let facts = |region: String| Some((region.clone(), self.live_facts(Some(&region))?));
        regions.into_iter().filter_map(facts).collect()
    }

    /// By assignment id, as the revisions came to apply there; none where nothing was revised.
    pub(super) fn timetables(&self, live: &LiveRun) -> BTreeMap<fleet::Grant, Timetable> {
        let revisions = self.record.revisions();
        if revisions.is_empty() {
            return BTreeMap::new();
        }
        let timetable = |(id, part): (&fleet::Grant, &LivePart)| {
            let applied = applied(&revisions, &part.revised_us, &part.progress);
            (id.clone(), Timetable::new(Arc::clone(&self.plan), self.row.seed, &applied))
        };
        live.parts.iter().map(timetable).collect()
    }

    /// Of one region, or of all.
    fn live_facts(&self, region: Option<&str>) -> Option<verdict::Facts> {
        let regions = self.region_of();
        self.runs.live.read(self.row.run_id, |live| {
            let timetables = self.timetables(live);
            let grants = &self.record.roster.grants;
            let parts: Vec<_> = grants
                .iter()
                .filter_map(|grant| {
                    let key = self.grant_key(&grant.id);
                    let is_in = |region| regions.get(&key.0).is_some_and(|known| known == region);
                    if !region.is_none_or(is_in) {
                        return None;
                    }
                    let part = live.parts.get(&key);
                    let shard = grant.tenures(part.map_or(0, |part| part.handover))?;
                    let timetable = timetables.get(&key).unwrap_or(&self.timetable);
                    Some((shard, part, grant, timetable))
                })
                .collect();
            let holdings: Vec<Holding<'_>> = parts
                .iter()
                .map(|(shard, part, _, timetable)| Holding {
                    shard,
                    timetable,
                    progress: part.map_or(&[], |live| live.progress.as_slice()),
                    closed_at_us: None,
                })
                .collect();
            let cells = match region {
                None => live.cells.clone(),
                Some(_) => {
                    let mut cells = Cells::new();
                    let told = parts.iter().filter_map(|(_, part, ..)| *part);
                    told.for_each(|part| merge_cells(&mut cells, &part.cells));
                    cells
                }
            };
            let mut facts = account(&self.plan, cells, &holdings, Until::Now);
            let through = live.parts.values().flat_map(|part| &part.progress);
            facts.ended_us = through.map(|progress| progress.through_us).max().unwrap_or(0);
            if region.is_none() {
                query::observe_live(&mut facts, &self.plan, live);
            }
            let held = parts.iter().filter(|(_, _, grant, _)| grant.is_live());
            let gauges = held.filter_map(|(_, part, ..)| *part).flat_map(|part| &part.devices);
            query::add_gauges(&mut facts, gauges);
            if region.is_some() {
                query::plan_devices(&mut facts, parts.iter().map(|(shard, ..)| shard));
            }
            facts
        })
    }
}
