//! What an observer counts beside its receipts: arrivals and delays, by stage of the send.
//!
//! Like tallies these add up in any order. Loss is not here: it is decided per number, by
//! [`crate::tracker`]. A source that can be read again is read from stored positions: they travel
//! with what was read up to them, so that both are kept or neither is.

use std::collections::BTreeMap;

use crate::delay::{ClockInterval, Delays};
use crate::ids::{ObserverId, StageId};

/// Arrivals of messages that were sent in one stage; what names no message counts in the stage of
/// its arrival.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Arrivals {
    /// Events of the series and run, repetitions included.
    pub received: u64,
    /// Events in which nothing was found.
    pub unparsed: u64,
    /// Events of other runs or series.
    pub foreign: u64,
    /// Of `received`: stamped by whoever wrote them, so that nobody knows when they were enqueued.
    pub unstamped: u64,
    /// Of `received`: they had waited while nobody read, so their delay is not the platform's.
    pub backlog: u64,
    /// Enqueued by the platform − sent.
    pub ingest: Delays,
    /// Received − enqueued.
    pub delivery: Delays,
    /// Received − sent.
    pub end_to_end: Delays,
}

impl Arrivals {
    pub fn merge(&mut self, other: &Self) {
        self.received += other.received;
        self.unparsed += other.unparsed;
        self.foreign += other.foreign;
        self.unstamped += other.unstamped;
        self.backlog += other.backlog;
        self.ingest.merge(&other.ingest);
        self.delivery.merge(&other.delivery);
        self.end_to_end.merge(&other.end_to_end);
    }
}

pub type ArrivalCells = BTreeMap<(ObserverId, StageId), Arrivals>;

/// Adds every cell of `other`.
pub fn merge_arrivals(into: &mut ArrivalCells, other: &ArrivalCells) {
    for (key, arrivals) in other {
        into.entry(*key).or_default().merge(arrivals);
    }
}

/// Whether a source's partition belongs to one of an observer's readers: they are dealt in turn, so
/// ten over four are 3, 3, 2 and 2, and a partition that is added later has a reader already.
pub fn reads(share: u32, n_shares: u32, partition: u32) -> bool {
    partition % n_shares.max(1) == share
}

/// By observer and partition: the number of the next event to be read.
///
/// Positions only rise, so the greatest of all that are known is how far was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Positions(BTreeMap<(ObserverId, u32), u64>);

impl Positions {
    pub fn raise(&mut self, observer: ObserverId, partition: u32, next: u64) {
        let known = self.0.entry((observer, partition)).or_default();
        *known = next.max(*known);
    }

    pub fn merge(&mut self, other: &Self) {
        for (observer, partition, next) in other.iter() {
            self.raise(observer, partition, next);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (ObserverId, u32, u64)> + '_ {
        self.0.iter().map(|((observer, partition), next)| (*observer, *partition, *next))
    }

    /// Those of one reader.
    pub fn of(
        &self,
        observer: ObserverId,
        share: u32,
        n_shares: u32,
    ) -> impl Iterator<Item = (u32, u64)> + '_ {
        let is_meant = move |partition| reads(share, n_shares, partition);
        let of =
            self.iter().filter(move |(of, partition, _)| *of == observer && is_meant(*partition));
        of.map(|(_, partition, next)| (partition, next))
    }
}

/// What causality says of the clocks of a source's partitions, by observer and partition.
pub type SourceClocks = BTreeMap<(ObserverId, u32), ClockInterval>;

/// Takes every interval of `other` in.
pub fn merge_clocks(into: &mut SourceClocks, other: &SourceClocks) {
    for (key, interval) in other {
        into.entry(*key).or_default().merge(interval);
    }
}

/// A stretch of run time in which an observer may have missed events that cannot be read again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReaderGap {
    pub observer: ObserverId,
    pub from_us: u64,
    pub to_us: u64,
    pub why: String,
}

/// More gaps than this are joined with the last one: a source that flaps is one fault.
pub const MAX_READER_GAPS: usize = 100;

pub fn add_gap(list: &mut Vec<ReaderGap>, gap: ReaderGap) {
    let is_full = list.len() >= MAX_READER_GAPS;
    let last = list.iter_mut().rev().find(|known| known.observer == gap.observer);
    match last {
        // Gaps that touch are one.
        Some(last) if is_full || (gap.from_us <= last.to_us && gap.why == last.why) => {
            last.to_us = last.to_us.max(gap.to_us);
        }
        _ => list.push(gap),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ten_partitions_over_four_readers_are_three_three_two_two() {
        let dealt = |share| (0..10).filter(|partition| reads(share, 4, *partition)).count();
        assert_eq!([0, 1, 2, 3].map(dealt), [3, 3, 2, 2]);
    }

    proptest! {
        #[test]
        fn every_partition_has_one_reader_and_none_has_two_more_than_another(
            n_partitions in 0u32..200, n_shares in 1u32..40,
        ) {
            let dealt = |share| (0..n_partitions).filter(|n| reads(share, n_shares, *n)).count();
            let counts: Vec<usize> = (0..n_shares).map(dealt).collect();
            prop_assert_eq!(counts.iter().sum::<usize>(), n_partitions as usize);
            prop_assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1);
        }

        #[test]
        fn positions_merge_in_any_order_and_portions(
            told in proptest::collection::vec((0u32..3, 0u32..6, 0u64..1_000), 0..40),
            cut in 0usize..40,
        ) {
            let all = |told: &[(u32, u32, u64)]| {
                let mut positions = Positions::default();
                for (observer, partition, next) in told {
                    positions.raise(ObserverId(*observer), *partition, *next);
                }
                positions
            };
            let (left, right) = told.split_at(cut.min(told.len()));
            let mut merged = all(right);
            merged.merge(&all(left));
            prop_assert_eq!(&merged, &all(&told));
            let shares = (0..4).map(|share| merged.of(ObserverId(1), share, 4).count());
            prop_assert_eq!(shares.sum::<usize>(), merged.iter().filter(|p| p.0.0 == 1).count());
        }
    }
}
