//! The slot account: what the plan asked for against what agents reported.
//!
//! `planned` and `unassigned` come from the plan alone, the other classes from agents. So a count
//! that an agent loses or invents shows up as a residual instead of vanishing in a total.

use crate::delta::{Cells, Progress};
use crate::ids::{SeriesId, StageId};
use crate::plan::{Plan, Send};
use crate::schedule::{Revision, Timetable};
use crate::shard::{Block, Shard};
use crate::verdict::{Facts, GroupDevices, PlannedSlots};

/// What is known of one grant.
#[derive(Debug, Clone)]
pub struct Holding<'a> {
    /// In run time; tenures of one device do not overlap.
    pub shard: &'a Shard,
    /// With the load's revisions at the run times from which they apply there.
    pub timetable: &'a Timetable,
    /// Latest progress per series; empty if it never reported.
    pub progress: &'a [Progress],
    /// Run time at which its gate closed, by its closing message.
    pub closed_at_us: Option<u64>,
}

/// The load's revisions with the run times from which they apply on one agent: as it told, or, of
/// those that it has not told of yet, after all that it has classed.
pub fn applied(revisions: &[Revision], revised_us: &[u64], progress: &[Progress]) -> Vec<Revision> {
    let through = progress.iter().map(|progress| progress.through_us).max().unwrap_or(0);
    let at_us =
        |n: usize, wanted: u64| revised_us.get(n).copied().unwrap_or_else(|| wanted.max(through));
    let revision = |(n, revision): (usize, &Revision)| Revision {
        at_us: at_us(n, revision.at_us),
        ..*revision
    };
    revisions.iter().enumerate().map(revision).collect()
}

/// How far the account goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// The run goes on: only what agents have classed so far is planned so far.
    Now,
    /// The load ended at this run time; what nobody classed is unassigned.
    Ended(u64),
}

/// Adds the planned slots of all devices that were ever held, and what dead grants left open, to the
/// facts. A slot that is due while nobody holds its device is *unassigned*: before the begin of a
/// tenure, and behind the last word of the one before. So is one that was due after a device had moved
/// and before it was connected again: its agent tells which.
pub fn account(plan: &Plan, cells: Cells, holdings: &[Holding<'_>], until: Until) -> Facts {
    let mut facts = Facts { cells, ..Facts::default() };
    for group in 0..plan.groups.len() {
        let stretches = stretches(holdings, group);
        for send in plan.groups[group].sends() {
            count_series(plan, holdings, &stretches, group, send, until, &mut facts);
        }
    }
    facts.devices = plan
        .groups
        .iter()
        .map(|group| GroupDevices { planned: group.devices, ..GroupDevices::default() })
        .collect();
    facts
}

/// Devices with the same tenures: (holding, block) of each, in order of time.
type Stretch<'a> = (std::ops::Range<u64>, Vec<(usize, &'a Block)>);

fn stretches<'a>(holdings: &'a [Holding<'_>], group: usize) -> Vec<Stretch<'a>> {
    let tenures = || {
        holdings.iter().enumerate().flat_map(|(at, holding)| {
            let blocks = holding.shard.blocks.iter();
            blocks.filter(|block| block.group == group).map(move |block| (at, block))
        })
    };
    let mut cuts: Vec<u64> =
        tenures().flat_map(|(_, block)| [block.devices.start, block.devices.end]).collect();
    cuts.sort_unstable();
    cuts.dedup();
    let mut stretches: Vec<Stretch<'a>> =
        cuts.windows(2).map(|pair| (pair[0]..pair[1], Vec::new())).collect();
    for (at, block) in tenures() {
        let first = cuts.partition_point(|cut| *cut < block.devices.start);
        let end = cuts.partition_point(|cut| *cut < block.devices.end);
        for (_, tenures) in &mut stretches[first..end] {
            tenures.push((at, block));
        }
    }
    for (_, tenures) in &mut stretches {
        tenures.sort_by_key(|(_, block)| block.incarnation);
    }
    stretches
}

/// Run time up to which a holding has classed a series, or left it open.
fn through_us(holding: &Holding<'_>, series: SeriesId) -> u64 {
    let progress = holding.progress.iter().find(|progress| progress.series == series);
    holding.closed_at_us.unwrap_or_else(|| progress.map_or(0, |progress| progress.through_us))
}

fn count_series(
    plan: &Plan,
    holdings: &[Holding<'_>],
    stretches: &[Stretch<'_>],
    group: usize,
    send: &Send,
    until: Until,
    facts: &mut Facts,
) {
    let series = send.series;
    let mut planned = vec![0; plan.stages.len()];
    let mut held = vec![0; plan.stages.len()];
    for (devices, tenures) in stretches {
        // Half-open spans that somebody answers for.
        let spans: Vec<(usize, u64, u64)> = tenures
            .iter()
            .map(|(at, block)| {
                let through_us = through_us(&holdings[*at], series).min(block.until_us);
                (*at, block.from_us, through_us.max(block.from_us))
            })
            .collect();
        let begun = |(_, from_us, to_us): &&(usize, u64, u64)| to_us > from_us;
        let reached_us = spans.iter().filter(begun).map(|(_, _, to_us)| *to_us).max().unwrap_or(0);
        let end_us = match until {
            Until::Now => reached_us,
            Until::Ended(end_us) => end_us.max(reached_us),
        };
        let Some((newest, ..)) = spans.last() else { continue };
        for index in devices.clone() {
            let count = |at: usize, from_us: u64, to_us: u64, into: &mut [u64]| {
                let timetable = holdings[at].timetable;
                if let Some(slots) = timetable.slots(group, index, send) {
                    timetable.count_slots(group, &slots, from_us, to_us, into);
                }
            };
            count(*newest, 0, end_us, &mut planned);
            for (at, from_us, to_us) in &spans {
                count(*at, *from_us, *to_us, &mut held);
            }
        }
    }
    for (stage, (planned, held)) in planned.into_iter().zip(held).enumerate() {
        if planned > 0 {
            let key = (series, StageId(stage as u32));
            let moving = facts.cells.get(&key).map_or(0, |tally| tally.unassigned);
            let slots: &mut PlannedSlots = facts.slots.entry(key).or_default();
            slots.planned += planned;
            slots.unassigned += planned.saturating_sub(held) + moving;
        }
    }
    for holding in holdings.iter().filter(|holding| holding.closed_at_us.is_none()) {
        let progress = holding.progress.iter().find(|progress| progress.series == series);
        for (stage, open) in progress.iter().flat_map(|progress| &progress.open) {
            if matches!(until, Until::Ended(_)) {
                // What a dead epoch left waiting can never be sent.
                facts.cells.entry((series, *stage)).or_default().unsent += open;
            } else if let Some(slots) = facts.slots.get_mut(&(series, *stage)) {
                // Still waiting: not planned *so far*, so that the account holds at any moment.
                slots.planned = slots.planned.saturating_sub(*open);
            }
        }
    }
}

/// Planned minus classed, over all series that have slots; 0 when the account holds.
pub fn residual(facts: &Facts) -> i64 {
    let mut residual = 0i64;
    for (key, slots) in &facts.slots {
        let classed = facts.cells.get(key).map_or(0, |tally| tally.n_classed());
        residual += (slots.planned as i64 - slots.unassigned as i64 - classed as i64).abs();
    }
    residual
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::tests::{plan, ramp_and_hold, timetable};
    use crate::shard::{Share, deal};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_account_holds_when_one_agent_closes_and_the_other_is_lost(
            devices in 1u64..60, lost_at in 0u64..12_000_000, stop_at in 3_000_000u64..14_000_000,
            open in 0u64..5,
        ) {
            let plan = plan(&[devices], 700_000, ramp_and_hold(devices, 2_000_000, 10_000_000));
            let share = Share { weight: 1.0, cap: 1_000 };
            let shards = deal(&plan, &[share, share], |_, _| true).unwrap();
            let timetable = timetable(&plan);
            let send = &plan.groups[0].sends()[0];
            let closed_at = stop_at + 1_234;
            let mut cells = Cells::new();
            let mut open_left = std::collections::BTreeMap::new();
            for (shard, until, left) in [(&shards[0], closed_at, 0), (&shards[1], lost_at, open)] {
                let mut due = vec![0; 2];
                for (group, index) in shard.each() {
                    let slots = timetable.slots(group, index, send).unwrap();
                    timetable.count_slots(group, &slots, 0, until, &mut due);
                }
                for (stage, due) in due.into_iter().enumerate() {
                    let left = left.min(due);
                    let stage = StageId(stage as u32);
                    if left > 0 { open_left.insert(stage, left); }
                    cells.entry((send.series, stage)).or_default().sent += due - left;
                }
            }
            let progress = [Progress { series: send.series, through_us: lost_at, open: open_left }];
            let holdings = [
                Holding { shard: &shards[0], timetable: &timetable, progress: &[], closed_at_us: Some(closed_at) },
                Holding { shard: &shards[1], timetable: &timetable, progress: &progress, closed_at_us: None },
            ];
            let facts = account(&plan, cells.clone(), &holdings, Until::Ended(stop_at));
            prop_assert_eq!(residual(&facts), 0);
            let so_far = account(&plan, cells, &holdings, Until::Now);
            prop_assert_eq!(residual(&so_far), 0);
        }

        #[test]
        fn the_account_holds_when_agents_take_a_revision_in_at_their_own_times(
            devices in 2u64..60, to in 0u64..60, wanted_us in 1_000_000u64..8_000_000,
            late_us in 0u64..3_000_000, lost_at in 500_000u64..11_000_000, has_told: bool,
        ) {
            let plan = std::sync::Arc::new(plan(&[devices], 300_000, ramp_and_hold(devices, 2_000_000, 10_000_000)));
            let share = Share { weight: 1.0, cap: 1_000 };
            let shards = deal(&plan, &[share, share], |_, _| true).unwrap();
            let send = &plan.groups[0].sends()[0];
            let revision = |at_us| Revision { at_us, group: 0, devices: to % (devices + 1), over_us: 700_000 };
            let true_one = |at_us: Option<u64>| {
                let revisions: Vec<Revision> = at_us.into_iter().map(revision).collect();
                Timetable::new(std::sync::Arc::clone(&plan), 1, &revisions)
            };
            // One takes it in late and closes; the other is lost, before it takes it in or after.
            let late = wanted_us + late_us;
            let other = (has_told && wanted_us < lost_at).then_some(wanted_us);
            let truth = [true_one(Some(late)), true_one(other)];
            let closed_at = 12_000_000;
            let mut cells = Cells::new();
            for (n, until) in [closed_at, lost_at].into_iter().enumerate() {
                let mut due = vec![0; 2];
                for (group, index) in shards[n].each() {
                    let Some(slots) = truth[n].slots(group, index, send) else { continue };
                    truth[n].count_slots(group, &slots, 0, until, &mut due);
                }
                for (stage, due) in due.into_iter().enumerate() {
                    cells.entry((send.series, StageId(stage as u32))).or_default().sent += due;
                }
            }
            let progress = [Progress { series: send.series, through_us: lost_at, open: Default::default() }];
            let told = [vec![late], other.into_iter().collect()];
            let seen = [&[][..], &progress[..]];
            let timetables: Vec<Timetable> = (0..2)
                .map(|n| {
                    let applied = applied(&[revision(wanted_us)], &told[n], seen[n]);
                    Timetable::new(std::sync::Arc::clone(&plan), 1, &applied)
                })
                .collect();
            let holdings = [
                Holding { shard: &shards[0], timetable: &timetables[0], progress: &[], closed_at_us: Some(closed_at) },
                Holding { shard: &shards[1], timetable: &timetables[1], progress: &progress, closed_at_us: None },
            ];
            for until in [Until::Ended(closed_at), Until::Now] {
                let facts = account(&plan, cells.clone(), &holdings, until);
                prop_assert_eq!(residual(&facts), 0);
            }
        }

        #[test]
        fn a_device_that_changes_hands_is_unassigned_between_two_tenures_and_nowhere_else(
            devices in 1u64..40, lost_at in 0u64..6_000_000, gap in 0u64..3_000_000,
            from_batch in 0u64..1_500_000, again in any::<bool>(), connects in 0u64..2_000_000,
        ) {
            let plan = plan(&[devices], 700_000, ramp_and_hold(devices, 2_000_000, 10_000_000));
            let (timetable, send) = (timetable(&plan), &plan.groups[0].sends()[0]);
            let end = 12_000_000;
            let half = devices / 2;
            let tenure = |from_us, until_us, incarnation, range| Block {
                from_us, until_us, incarnation, ..Block::new(0, range)
            };
            // All on one agent, which dies; then each half on its own; the second may hand on.
            let second = lost_at + gap;
            let third = second + from_batch + 2_000_000;
            let until = if again { third } else { u64::MAX };
            let shards = [
                vec![tenure(0, u64::MAX, 0, 0..devices)],
                vec![tenure(second, u64::MAX, 1, 0..half)],
                vec![tenure(second + from_batch, until, 1, half..devices)],
                if again { vec![tenure(third + 500_000, u64::MAX, 2, half..devices)] } else { vec![] },
            ].map(|blocks| Shard { blocks: blocks.into_iter().filter(|b| !b.is_empty()).collect() });
            let through = [lost_at, end, end, end];
            let mut cells = Cells::new();
            let mut expected = 0;
            for (shard, through) in shards.iter().zip(through) {
                for block in &shard.blocks {
                    for index in block.devices.clone() {
                        let slots = timetable.slots(0, index, send).unwrap();
                        let mut due = vec![0; 2];
                        // Its first connection on a new agent starts its slots there.
                        let to_us = through.min(block.until_us);
                        let up_us = if block.incarnation > 0 { block.from_us + connects } else { 0 };
                        let up_us = up_us.clamp(block.from_us, to_us.max(block.from_us));
                        timetable.count_slots(0, &slots, up_us, to_us, &mut due);
                        let mut moving = vec![0; 2];
                        timetable.count_slots(0, &slots, block.from_us, up_us, &mut moving);
                        for (stage, (due, moving)) in due.into_iter().zip(moving).enumerate() {
                            let tally: &mut crate::delta::Tally = cells.entry((send.series, StageId(stage as u32))).or_default();
                            (tally.sent, tally.unassigned) = (tally.sent + due, tally.unassigned + moving);
                            expected += due;
                        }
                    }
                }
            }
            let progress = [Progress { series: send.series, through_us: lost_at, open: Default::default() }];
            let holdings: Vec<Holding<'_>> = shards.iter().enumerate().map(|(n, shard)| Holding {
                shard,
                timetable: &timetable,
                progress: if n == 0 { &progress } else { &[] },
                closed_at_us: (n > 0).then_some(end),
            }).collect();
            for until in [Until::Now, Until::Ended(end)] {
                let facts = account(&plan, cells.clone(), &holdings, until);
                prop_assert_eq!(residual(&facts), 0);
                let (tally, slots) = facts.total(|_, _| true);
                prop_assert_eq!((tally.sent, slots.planned), (expected, expected + slots.unassigned));
            }
        }
    }
}
