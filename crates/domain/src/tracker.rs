//! Trackers: for each device of an observed series which numbers were sent, acknowledged, received.
//!
//! Each of the three is "everything below its frontier but the holes": 20 bytes a device while
//! nothing is missing, and one entry per open number, whatever the order in which agents report.
//! Loss is decided per number, never from totals: a loss and a duplicate do not cancel out.
//! Devices are kept in blocks of [`BLOCK`], the unit of the store. Invariant: the result depends on
//! the marks of each kind, not on how they were split into receipts; only `out_of_order` and
//! `late_events` depend on the order of the received ones, which is what they are about.

mod block;
mod codec;

pub use self::codec::BadBlock;

use self::block::{Block, Kind};
use crate::receipts::{Mark, Receipt, Run};

/// Devices of one stored block.
pub const BLOCK: u32 = 4_096;
/// An event that comes after so many later ones of its device is late.
pub const REORDER_WINDOW: u32 = 64;

/// One observer's trackers.
#[derive(Debug, Clone, PartialEq)]
pub struct Tracker {
    /// Whether the target confirms messages (QoS 1 and 2, HTTP).
    is_confirmed: bool,
    n_devices: u32,
    blocks: Vec<Block>,
    is_touched: Vec<bool>,
}

/// What became of the messages of a series.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    pub sent: u64,
    pub acked: u64,
    /// Events that arrived, with all repetitions.
    pub received: u64,
    /// Distinct messages that arrived.
    pub unique: u64,
    /// Acknowledged, never received.
    pub lost: u64,
    /// Not acknowledged, never received.
    pub undelivered: u64,
    /// Received, never acknowledged.
    pub unconfirmed: u64,
    /// Not received, and nobody can know whether it was the platform's doing.
    pub lost_possible: u64,
    /// Surplus arrivals beyond our own repetitions.
    pub duplicated: u64,
    /// Surplus arrivals that we may have caused by sending again.
    pub resent: u64,
    /// Arrived after a later one of its device.
    pub out_of_order: u64,
    /// Of them: more than [`REORDER_WINDOW`] numbers after.
    pub late_events: u64,
    /// Sent and not received, and no later one of its device has arrived: perhaps on its way.
    pub pending: u64,
}

/// Whether more can still arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Horizon {
    /// Numbers beyond the newest that arrived are pending.
    Open,
    /// Everything that has not arrived never will.
    Closed,
}

/// A device with messages that did not arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lossy {
    /// Index in its group.
    pub device: u32,
    pub lost: u64,
}

impl Tracker {
    pub fn new(n_devices: u64, is_confirmed: bool) -> Self {
        let n_devices = u32::try_from(n_devices).unwrap_or(u32::MAX);
        let block = |first: u32| Block::new(BLOCK.min(n_devices - first * BLOCK));
        let blocks: Vec<Block> = (0..n_devices.div_ceil(BLOCK)).map(block).collect();
        let is_touched = vec![false; blocks.len()];
        Self { is_confirmed, n_devices, blocks, is_touched }
    }

    /// Adds a receipt that is about this observer or its series. Marks of devices that the group
    /// does not have are not counted.
    pub fn add(&mut self, receipt: &Receipt) {
        let kind = match receipt.mark {
            Mark::Sent(_) => Kind::Sent,
            Mark::Acked(_) => Kind::Acked,
            Mark::Received(_) => Kind::Received,
            Mark::Resent(_) => return self.each(receipt, |block, run| block.resent(run)),
            Mark::Blind(_) => return self.blind(),
        };
        self.each(receipt, |block, run| block.mark(kind, run));
    }

    /// What arrives from now on until the next arrival of a device was perhaps not seen.
    pub fn blind(&mut self) {
        self.blocks.iter_mut().for_each(Block::blind);
        self.is_touched.fill(true);
    }

    fn each(&mut self, receipt: &Receipt, mut add: impl FnMut(&mut Block, &Run)) {
        for run in receipt.runs.iter().filter(|run| run.device < self.n_devices) {
            let place = (run.device / BLOCK) as usize;
            self.is_touched[place] = true;
            add(&mut self.blocks[place], &Run { device: run.device % BLOCK, ..run });
        }
    }

    pub fn totals(&self, horizon: Horizon) -> Totals {
        let mut totals = Totals::default();
        for block in &self.blocks {
            block.add_totals(self.is_confirmed, horizon, &mut totals);
        }
        totals
    }

    /// The devices that lost most, at most `n`.
    pub fn lossy(&self, horizon: Horizon, n: usize) -> Vec<Lossy> {
        let mut lossy: Vec<Lossy> = Vec::new();
        for (place, block) in self.blocks.iter().enumerate() {
            block.lossy(self.is_confirmed, horizon, |device, lost| {
                lossy.push(Lossy { device: place as u32 * BLOCK + device, lost });
            });
        }
        lossy.sort_by_key(|lossy| (std::cmp::Reverse(lossy.lost), lossy.device));
        lossy.truncate(n);
        lossy
    }

    /// Blocks changed since the last call, encoded, with their numbers.
    pub fn take_touched(&mut self) -> Vec<(u32, Vec<u8>)> {
        let touched = self.is_touched.iter_mut().enumerate();
        let touched =
            touched.filter_map(|(place, is_touched)| std::mem::take(is_touched).then_some(place));
        let places: Vec<usize> = touched.collect();
        places.into_iter().map(|place| (place as u32, codec::encode(&self.blocks[place]))).collect()
    }

    /// Puts back what [`Tracker::take_touched`] gave.
    pub fn restore(&mut self, number: u32, bytes: &[u8]) -> Result<(), BadBlock> {
        let block = self.blocks.get_mut(number as usize).ok_or(BadBlock("no such block"))?;
        *block = codec::decode(bytes, block.n_devices())?;
        Ok(())
    }

    /// Bytes held: for the promise in the documentation.
    pub fn approximate_bytes(&self) -> usize {
        self.blocks.iter().map(Block::approximate_bytes).sum()
    }
}

#[cfg(test)]
mod tests;
