//! Trackers: for each device of an observed series which numbers were sent, acknowledged, received.
//!
//! Each of the three is "everything below its frontier but the holes": 20 bytes a device while
//! nothing is missing, and one entry per open number, whatever the order in which agents report.
//! Loss is decided per number, never from totals: a loss and a duplicate do not cancel out.
//! Devices are kept in blocks of [`BLOCK`], the unit of the store. Invariant: the result depends on
//! the marks of each kind, not on how they were split into receipts; only `out_of_order` and
//! `late_events` depend on the order of the received ones, which is what they are about.

mod block;
mod by_window;
mod codec;
mod spans;

pub use self::by_window::{Windows, merge_windows};
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
    /// What is settled or was read, by window; `None`: nobody asks for windows.
    windows: Option<Windows>,
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

impl Totals {
    pub fn merge(&mut self, other: &Self) {
        self.sent += other.sent;
        self.acked += other.acked;
        self.received += other.received;
        self.unique += other.unique;
        self.lost += other.lost;
        self.undelivered += other.undelivered;
        self.unconfirmed += other.unconfirmed;
        self.lost_possible += other.lost_possible;
        self.duplicated += other.duplicated;
        self.resent += other.resent;
        self.out_of_order += other.out_of_order;
        self.late_events += other.late_events;
        self.pending += other.pending;
    }
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
        Self { is_confirmed, n_devices, blocks, is_touched, windows: Some(Windows::new()) }
    }

    /// From now on only totals can be asked for, which takes less memory.
    pub fn forget_windows(&mut self) {
        self.windows = None;
        self.blocks.iter_mut().for_each(|block| block.spans = None);
    }

    /// Whether [`Tracker::by_window`] has everything.
    pub fn knows_windows(&self) -> bool {
        self.windows.is_some()
    }

    /// Adds a receipt that is about this observer or its series. Marks of devices that the group
    /// does not have are not counted. `window` is the one in which it happened.
    pub fn add(&mut self, receipt: &Receipt, window: u64) {
        let kind = match receipt.mark {
            Mark::Sent(_) => Kind::Sent,
            Mark::Acked(_) => Kind::Acked,
            Mark::Received(_) => Kind::Received,
            Mark::Resent(_) => return self.each(receipt, |block, run| block.resent(run)),
            Mark::Blind(_) => return self.blind(),
        };
        let short = u32::try_from(window).unwrap_or(u32::MAX);
        let (mut read, mut settled) = (Totals::default(), Windows::new());
        self.each(receipt, |block, run| {
            if kind == Kind::Received {
                read.received += u64::from(run.count);
            }
            block.mark(kind, run, short, &mut read);
            block.settle_some(&mut settled);
        });
        if let Some(windows) = &mut self.windows {
            merge_windows(windows, &settled);
            if read != Totals::default() {
                windows.entry(window).or_default().merge(&read);
            }
        }
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
        let mut totals = self.totals_of(horizon, |_, _| true);
        for block in &self.blocks {
            totals.out_of_order += block.out_of_order;
            totals.late_events += block.late_events;
        }
        totals
    }

    /// The same of some devices, by index and incarnation; their order is not known apart.
    pub fn totals_of(&self, horizon: Horizon, is_wanted: impl Fn(u32, u32) -> bool) -> Totals {
        let mut totals = Totals::default();
        for (place, block) in self.blocks.iter().enumerate() {
            let first = place as u32 * BLOCK;
            let is_wanted = |device: u32, incarnation| is_wanted(first + device, incarnation);
            block.add_totals(self.is_confirmed, horizon, &is_wanted, &mut totals);
        }
        totals
    }

    /// The same by window; nothing where it is not known. Without what [`Tracker::take_touched`] has
    /// given away.
    pub fn by_window(&self, horizon: Horizon) -> Windows {
        let Some(mut windows) = self.windows.clone() else { return Windows::new() };
        for block in &self.blocks {
            block.add_windows(self.is_confirmed, horizon, &mut windows);
        }
        windows
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

    /// Blocks changed since the last call, encoded, with their numbers; and what is settled or was
    /// read since then, by window. The two are kept together or neither is.
    pub fn take_touched(&mut self) -> (Vec<(u32, Vec<u8>)>, Windows) {
        let touched = self.is_touched.iter_mut().enumerate();
        let touched =
            touched.filter_map(|(place, is_touched)| std::mem::take(is_touched).then_some(place));
        let places: Vec<usize> = touched.collect();
        let mut windows = self.windows.as_mut().map(std::mem::take).unwrap_or_default();
        let mut blocks = Vec::with_capacity(places.len());
        for place in places {
            self.blocks[place].settle(&mut windows);
            blocks.push((place as u32, codec::encode(&self.blocks[place])));
        }
        (blocks, windows)
    }

    /// Puts back what [`Tracker::take_touched`] gave.
    pub fn restore(&mut self, number: u32, bytes: &[u8]) -> Result<(), BadBlock> {
        let block = self.blocks.get_mut(number as usize).ok_or(BadBlock("no such block"))?;
        *block = codec::decode(bytes, block.n_devices())?;
        if block.spans.is_none() {
            self.forget_windows();
        }
        Ok(())
    }

    /// Bytes held: for the promise in the documentation.
    pub fn approximate_bytes(&self) -> usize {
        self.blocks.iter().map(Block::approximate_bytes).sum()
    }
}

#[cfg(test)]
mod tests;
