//! What an observer counts beside its receipts: arrivals and delays, by stage of the send.
//!
//! Like tallies these add up in any order. Loss is not here: it is decided per number, by
//! [`crate::tracker`].

use std::collections::BTreeMap;

use crate::delay::Delays;
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
