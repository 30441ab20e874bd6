//! What can be believed of an agent's report: it is checked against the plan and against what the agent
//! holds before it is added to anything.
//!
//! An honest agent never fails here, whatever the network repeats or the clocks do: the bounds come from
//! the plan, from what was granted and from the numbers themselves, never from the time of receipt. So
//! one that does fail is broken or hostile, and nothing more of it is believed. Invariant: what passed
//! names only things of the plan, and all sums over it fit into 63 bits.

use std::collections::{BTreeMap, BTreeSet};

use crate::delta::{Delta, Samples, Tally, WINDOW_US};
use crate::ids::{ObserverId, SeriesId};
use crate::plan::Plan;
use crate::receipts::Mark;
use crate::schedule::Timetable;
use crate::shard::{Block, Shard};

/// Deltas that an agent sends before the first of them is acknowledged, with room for later builds.
pub const MOST_AHEAD: u64 = 64;
/// No count, and no sum of microseconds or bytes, of one delta is above this. 2^43 of them fit into 63
/// bits a million times.
const MOST_COUNT: u64 = 1 << 43;
/// After the end of the load: acks, goodbyes, and observers that wait.
const MOST_AFTER_US: u64 = 3_600_000_000;
/// A bound on slots is computed for so much more than was asked, and serves until then.
const HORIZON_US: u64 = 30_000_000;

/// Why a report cannot be true.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Impossible {
    #[error("{what} {number}, of which the plan has {n}")]
    Unknown { what: &'static str, number: u64, n: u64 },
    #[error("window {found}, and the run is over after {most}")]
    Window { found: u64, most: u64 },
    #[error("{found} for {what}")]
    Count { what: &'static str, found: u64 },
    #[error("{found} slots of series {series} by window {window}, and its devices had {most}")]
    Slots { series: u32, window: u64, found: u64, most: u64 },
    #[error("{found} devices {what} in group {group}, and it holds {most}")]
    Devices { what: &'static str, group: u32, found: u64, most: u64 },
    #[error("what became of messages, which no agent can know")]
    Settled,
    #[error("delta number {found} where {next} comes next")]
    Number { found: u64, next: u64 },
}

/// What an agent was given, and the schedule of the run.
#[derive(Debug, Clone, Copy)]
pub struct Given<'a> {
    pub timetable: &'a Timetable,
    /// Without blocks: it reads for an observer.
    pub shard: &'a Shard,
}

/// What one grant has reported so far.
#[derive(Debug, Clone, Default)]
pub struct Credit {
    numbers: Numbers,
    /// Slots that ended in a class.
    classed: BTreeMap<SeriesId, u64>,
    /// By series: up to this run time its devices had at most so many slots.
    bounds: BTreeMap<SeriesId, (u64, u64)>,
}

impl Credit {
    /// Of a grant that is stored up to a number (-1: nothing is).
    pub fn stored_through(through: i64) -> Self {
        let next = u64::try_from(through.saturating_add(1)).unwrap_or(0);
        Self { numbers: Numbers { next, ahead: BTreeSet::new() }, ..Self::default() }
    }

    /// Believes a report or not; one that is not believed leaves everything as it was. One that came
    /// before is not looked at again.
    pub fn take(&mut self, given: Given<'_>, seq: u64, delta: &Delta) -> Result<(), Impossible> {
        if self.numbers.has(seq) {
            return Ok(());
        }
        self.numbers.fits(seq)?;
        names(given.timetable.plan(), delta)?;
        counts(delta)?;
        devices(given.shard, delta)?;
        let classed = self.slots(given, delta)?;
        self.classed.extend(classed);
        self.numbers.take(seq);
        Ok(())
    }

    /// The same for the sum of all that a grant ever reported.
    pub fn total(&mut self, given: Given<'_>, totals: &Delta) -> Result<(), Impossible> {
        names(given.timetable.plan(), totals)?;
        counts(totals)?;
        let mut fresh = Self { bounds: std::mem::take(&mut self.bounds), ..Self::default() };
        let believed = fresh.slots(given, totals).map(drop);
        self.bounds = fresh.bounds;
        believed
    }

    /// The new sums of the series that a delta has.
    fn slots(
        &mut self,
        given: Given<'_>,
        delta: &Delta,
    ) -> Result<BTreeMap<SeriesId, u64>, Impossible> {
        let mut sums = BTreeMap::new();
        for ((series, _), tally) in &delta.cells {
            let known = self.classed.get(series).copied().unwrap_or(0);
            let sum = sums.entry(*series).or_insert(known);
            *sum = sum.saturating_add(tally.n_classed()).saturating_add(tally.unassigned);
        }
        let until_us = delta.last_window.saturating_add(1).saturating_mul(WINDOW_US) + HORIZON_US;
        for (series, found) in &sums {
            let bound = self.bounds.get(series).copied();
            if bound.is_some_and(|(_, most)| *found <= most) {
                continue;
            }
            let Some(most) = most_slots(given, *series, until_us) else { continue };
            self.bounds.insert(*series, (until_us, most));
            if *found > most {
                let (series, window) = (series.0, delta.last_window);
                return Err(Impossible::Slots { series, window, found: *found, most });
            }
        }
        Ok(sums)
    }
}

/// The numbers of a grant's deltas: without holes, but for what is on its way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Numbers {
    next: u64,
    ahead: BTreeSet<u64>,
}

impl Numbers {
    fn has(&self, seq: u64) -> bool {
        seq < self.next || self.ahead.contains(&seq)
    }

    fn fits(&self, seq: u64) -> Result<(), Impossible> {
        match seq.checked_sub(self.next) {
            Some(ahead) if ahead > MOST_AHEAD => {
                Err(Impossible::Number { found: seq, next: self.next })
            }
            _ => Ok(()),
        }
    }

    fn take(&mut self, seq: u64) {
        self.ahead.insert(seq);
        while self.ahead.remove(&self.next) {
            self.next += 1;
        }
    }
}

/// How many slots the devices of a shard can have had, whenever the load held them; `None`: the series
/// has no slots.
fn most_slots(given: Given<'_>, series: SeriesId, until_us: u64) -> Option<u64> {
    let plan = given.timetable.plan();
    let group = plan.series.get(series.index())?.group;
    let send = plan.groups[group].sends().iter().find(|send| send.series == series)?;
    let of = |block: &Block| -> u64 {
        let devices = block.devices.clone();
        devices.map(|index| given.timetable.most_slots(group, index, send, until_us)).sum()
    };
    Some(given.shard.blocks.iter().filter(|block| block.group == group).map(of).sum())
}

fn names(plan: &Plan, delta: &Delta) -> Result<(), Impossible> {
    let known = |what: &'static str, number: u32, n: usize| {
        let (number, n) = (u64::from(number), n as u64);
        if number < n { Ok(()) } else { Err(Impossible::Unknown { what, number, n }) }
    };
    let series = |id: SeriesId| known("series", id.0, plan.series.len());
    let observer = |id: ObserverId| known("observer", id.0, plan.observers.len());
    let most =
        (plan.end_us().saturating_add(plan.drain_us()).saturating_add(MOST_AFTER_US)) / WINDOW_US;
    if delta.last_window > most {
        return Err(Impossible::Window { found: delta.last_window, most });
    }
    for (id, stage) in delta.cells.keys() {
        series(*id)?;
        known("stage", stage.0, plan.stages.len())?;
    }
    for (id, stage) in delta.arrivals.keys() {
        observer(*id)?;
        known("stage", stage.0, plan.stages.len())?;
    }
    if !delta.settled.is_empty() {
        return Err(Impossible::Settled);
    }
    for progress in &delta.progress {
        series(progress.series)?;
    }
    for failure in &delta.failures {
        series(failure.series)?;
    }
    for gap in &delta.gaps {
        observer(gap.observer)?;
    }
    for (id, _, _) in delta.positions.iter() {
        observer(id)?;
    }
    for (id, _) in delta.clocks.keys() {
        observer(*id)?;
    }
    for receipt in &delta.receipts {
        match receipt.mark {
            Mark::Sent(id) | Mark::Acked(id) | Mark::Resent(id) => series(id)?,
            Mark::Received(id) | Mark::Blind(id) => observer(id)?,
        }
    }
    Ok(())
}

fn counts(delta: &Delta) -> Result<(), Impossible> {
    let fits = |what: &'static str, found: u64| {
        if found > MOST_COUNT { Err(Impossible::Count { what, found }) } else { Ok(()) }
    };
    let samples = |samples: &Samples| {
        fits("samples", samples.count())?;
        fits("a sum of microseconds", samples.sum_us() / 1_000_000)
    };
    for tally in delta.cells.values() {
        for (what, found) in numbers_of(tally) {
            fits(what, found)?;
        }
        for found in tally.errors.values() {
            fits("errors", *found)?;
        }
        for times in [&tally.response_time, &tally.service_time, &tally.send_lag] {
            samples(times)?;
        }
    }
    for arrivals in delta.arrivals.values() {
        fits("arrivals", arrivals.received)?;
        fits("arrivals", arrivals.unparsed)?;
        fits("arrivals", arrivals.foreign)?;
    }
    for progress in &delta.progress {
        fits("run time", progress.through_us / 1_000_000)?;
        for open in progress.open.values() {
            fits("open slots", *open)?;
        }
    }
    for failure in &delta.failures {
        fits("failures", failure.count)?;
    }
    let health = &delta.health;
    let of_health = [
        health.stalled_us,
        health.cpu_us,
        health.descriptor_errors,
        health.port_errors,
        health.received_bytes / 1_024,
        health.sent_bytes / 1_024,
        health.wall_us,
        health.waited_us,
        health.pressure_us,
        health.stolen_us,
        health.throttled_us,
        health.start_lag_us,
    ];
    let of_spells = delta.spells.iter().flat_map(|spell| [spell.last_window, spell.amount]);
    of_health.into_iter().chain(of_spells).try_for_each(|found| fits("health", found))
}

fn numbers_of(tally: &Tally) -> [(&'static str, u64); 12] {
    [
        ("sent", tally.sent),
        ("held", tally.held),
        ("missed", tally.missed),
        ("not_connected", tally.not_connected),
        ("away", tally.away),
        ("unsent", tally.unsent),
        ("unassigned", tally.unassigned),
        ("acked", tally.acked),
        ("censored", tally.censored),
        ("resent", tally.resent),
        ("received", tally.received),
        ("bytes", tally.bytes / 1_024),
    ]
}

fn devices(shard: &Shard, delta: &Delta) -> Result<(), Impossible> {
    for gauge in &delta.devices {
        let group = gauge.group;
        let blocks = shard.blocks.iter().filter(|block| block.group == group as usize);
        let most: u64 = blocks.map(Block::len).sum();
        let told = [
            ("started", gauge.started),
            ("connected", gauge.connected),
            ("known", gauge.known),
            ("failed", gauge.failed),
        ];
        for (what, found) in told {
            if found > most {
                return Err(Impossible::Devices { what, group, found, most });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
