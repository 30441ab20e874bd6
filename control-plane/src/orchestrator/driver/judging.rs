//! Thresholds while the load goes on.

use std::collections::BTreeMap;
use std::sync::Arc;

use shoal_domain::account::{Holding, Until, account, applied};
use shoal_domain::ids::RunId;
use shoal_domain::report::ThresholdResult;
use shoal_domain::run::Phase;
use shoal_domain::schedule::Timetable;
use shoal_domain::verdict;

use super::Driver;
use crate::live::{LivePart, LiveRun};
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
        let Some(facts) = self.live_facts(self.row.run_id) else { return false };
        let run_us = now_us.saturating_sub(t0_us);
        let mut is_breached = false;
        for (n, threshold) in self.plan.thresholds.iter().enumerate() {
            if verdict::judge(&self.plan, threshold, &facts).result == ThresholdResult::Failed {
                let since_us = *self.false_since_us.entry(n).or_insert(run_us);
                let after_us = threshold.abort_after_us;
                is_breached |= after_us.is_some_and(|after_us| run_us >= since_us + after_us);
            } else {
                self.false_since_us.remove(&n);
            }
        }
        is_breached
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

    pub(super) fn live_facts(&self, run: RunId) -> Option<verdict::Facts> {
        self.runs.live.read(run, |live| {
            let timetables = self.timetables(live);
            let grants = &self.record.roster.grants;
            let parts: Vec<_> = grants
                .iter()
                .filter_map(|grant| {
                    let key = self.grant_key(&grant.id);
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
            let mut facts = account(&self.plan, live.cells.clone(), &holdings, Until::Now);
            let through = live.parts.values().flat_map(|part| &part.progress);
            facts.ended_us = through.map(|progress| progress.through_us).max().unwrap_or(0);
            query::observe_live(&mut facts, &self.plan, live);
            let held = parts.iter().filter(|(_, _, grant, _)| grant.is_live());
            let gauges = held.filter_map(|(_, part, ..)| *part).flat_map(|part| &part.devices);
            query::add_gauges(&mut facts, gauges);
            facts
        })
    }
}
