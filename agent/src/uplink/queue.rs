//! The uplink without its socket: which delta is sent next, under which number, and until when.
//!
//! Exactly once is made of three rules. A delta gets its number at its first send, so numbers have
//! no holes. What was sent once is sent again unchanged until it is acknowledged, because its ack
//! may have been lost. Only deltas that were never sent may coalesce, when memory runs short or the control plane asks for it: counts
//! are conserved, only resolution in time is lost. Invariant: what a receiver stores that keeps each
//! (assignment, epoch, number) once adds up to what was pushed.

use std::collections::{BTreeMap, VecDeque};

use shoal_domain::delta::{Cells, Delta};
use shoal_domain::requests;
use shoal_proto::{metrics, v1};

use self::lane::{Lane, Waiting};

mod lane;

/// Bounds what cannot be coalesced any more, and so the memory that a dead uplink can pin.
pub(crate) const MAX_IN_FLIGHT: usize = 8;
/// A body above this is split by series, so that no message delays an ack for long.
pub(crate) const MAX_BODY: usize = 512 * 1024;
/// Of deltas that are never cut: neighbours above this together stay apart.
pub(crate) const MAX_WHOLE: usize = 2 * 1024 * 1024;
/// Encoded bytes of never-sent deltas that wait before neighbours coalesce.
pub(crate) const BUDGET: usize = 64 * 1024 * 1024;
/// Totals above this are not sent: the message would be refused as a whole and with it the delta.
const MAX_TOTALS: usize = shoal_proto::MAX_MESSAGE - MAX_BODY - requests::MAX_BYTES - 64 * 1024;

/// An assignment under one epoch; numbers count from 0 for each.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub(crate) assignment: String,
    pub(crate) epoch: u64,
}

impl Key {
    pub(crate) fn run(&self) -> &str {
        run_of(&self.assignment)
    }
}

/// The run that an assignment is a part of: what stands before the first dot.
pub(crate) fn run_of(assignment: &str) -> &str {
    assignment.split('.').next().unwrap_or_default()
}

/// What goes with the last delta of an assignment.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Closing {
    /// Run time at which the gate closed.
    pub(crate) closed_at_us: u64,
    /// Everything that all deltas together say.
    pub(crate) totals: Delta,
}

/// What an ack did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Acked {
    /// The delta is the control plane's now.
    Stored,
    /// The closing delta is stored too: nothing of this assignment is left.
    Finished,
    /// Nobody wants this assignment's deltas any more; so many were dropped.
    Dropped { sent: usize, waiting: usize, run_over: bool },
    /// Repeated, or for something that was never sent: changes nothing.
    Unexpected,
}

#[derive(Debug)]
pub(crate) struct UplinkQueue {
    lanes: BTreeMap<Key, Lane>,
    budget: usize,
    max_body: usize,
    /// How often two neighbours were made one.
    n_coalesced: u64,
}

impl UplinkQueue {
    pub(crate) fn new() -> Self {
        Self::with_limits(BUDGET, MAX_BODY)
    }

    fn with_limits(budget: usize, max_body: usize) -> Self {
        Self { lanes: BTreeMap::new(), budget, max_body, n_coalesced: 0 }
    }

    /// Takes a delta in. Nothing is accepted for an assignment after its closing.
    pub(crate) fn push(&mut self, key: &Key, delta: &Delta, closing: Option<&Closing>) {
        let lane = self.lanes.entry(key.clone()).or_default();
        if lane.is_closed {
            return;
        }
        lane.is_closed = closing.is_some();
        if lane.is_unwanted() {
            // The tombstone has seen the last delta it had to swallow.
            if lane.is_closed {
                self.lanes.remove(key);
            }
            return;
        }
        lane.waiting.push_back(Waiting {
            first_window: delta.first_window,
            last_window: delta.last_window,
            body: metrics::encode(delta),
            requests: delta.requests.clone(),
            closing: closing.map(to_wire),
            is_piece: false,
            is_whole: !delta.positions.is_empty(),
        });
        self.keep_budget();
    }

    /// The next message to hand to the stream; repeated ones first, in the order of their numbers.
    pub(crate) fn next_to_send(&mut self) -> Option<v1::UploadDelta> {
        let max_body = self.max_body;
        self.lanes.iter_mut().find_map(|(key, lane)| lane.next_to_send(key, max_body))
    }

    pub(crate) fn has_something_to_send(&self) -> bool {
        self.lanes.values().any(Lane::has_something_to_send)
    }

    pub(crate) fn ack(&mut self, ack: &v1::UploadAck) -> Acked {
        let key = Key { assignment: ack.assignment_id.clone(), epoch: ack.epoch };
        let Some(lane) = self.lanes.get_mut(&key) else { return Acked::Unexpected };
        if lane.is_unwanted() {
            return Acked::Unexpected;
        }
        lane.stretch(u64::from(ack.windows));
        match ack.outcome() {
            v1::UploadOutcome::Stored => {
                if !lane.take_sent(ack.seq) {
                    return Acked::Unexpected;
                }
                if lane.is_closed && lane.is_empty() {
                    self.lanes.remove(&key);
                    return Acked::Finished;
                }
                Acked::Stored
            }
            outcome @ (v1::UploadOutcome::RunOver | v1::UploadOutcome::Unknown) => {
                let (sent, waiting) = (lane.in_flight.len(), lane.waiting.len());
                let run_over = outcome == v1::UploadOutcome::RunOver;
                // The lane stays as a tombstone while its run still produces deltas.
                lane.drop_all();
                if lane.is_closed {
                    self.lanes.remove(&key);
                }
                Acked::Dropped { sent, waiting, run_over }
            }
            v1::UploadOutcome::Unspecified => Acked::Unexpected,
        }
    }

    /// The stream is gone: whatever has no ack yet is sent again, unchanged.
    pub(crate) fn disconnected(&mut self) {
        for sent in self.lanes.values_mut().flat_map(|lane| &mut lane.in_flight) {
            sent.is_on_the_way = false;
        }
    }

    /// Nothing waits, nothing is in flight.
    pub(crate) fn is_idle(&self) -> bool {
        self.lanes.values().all(Lane::is_empty)
    }

    pub(crate) fn n_coalesced(&self) -> u64 {
        self.n_coalesced
    }

    fn waiting_bytes(&self) -> usize {
        self.lanes.values().map(Lane::waiting_bytes).sum()
    }

    /// Coalesces neighbours, those of the shortest span first, until the rest fits: resolution goes
    /// 1 s, 2 s, 4 s evenly, instead of one delta that swallows all.
    fn keep_budget(&mut self) {
        while self.waiting_bytes() > self.budget {
            let largest = self.lanes.values_mut().max_by_key(|lane| lane.coalescable_bytes());
            if !largest.is_some_and(Lane::coalesce_one) {
                return;
            }
            self.n_coalesced += 1;
        }
    }
}

fn to_wire(closing: &Closing) -> v1::Closing {
    let mut totals = metrics::encode(&closing.totals);
    if totals.len() > MAX_TOTALS {
        totals.clear();
    }
    v1::Closing { closed_at_us: closing.closed_at_us, totals }
}

/// Cuts a delta into bodies of at most `max_body` (a single cell or receipt may exceed it): the facts
/// that are neither go with the first, each piece holds other cells and then other receipts, whose
/// order is kept. Positions are stored with all that was read up to them, so a delta with positions
/// is never cut; readers keep it small enough.
fn split(body: Vec<u8>, max_body: usize) -> Vec<Vec<u8>> {
    if body.len() <= max_body {
        return vec![body];
    }
    let Ok(mut delta) = metrics::decode(&body) else { return vec![body] };
    if !delta.positions.is_empty() {
        return vec![body];
    }
    let cells = std::mem::take(&mut delta.cells);
    let receipts = std::mem::take(&mut delta.receipts);
    let mut pieces = Vec::new();
    let mut piece = delta;
    let mut size = metrics::encode(&piece).len();
    let (first_window, last_window) = (piece.first_window, piece.last_window);
    for (key, tally) in cells {
        let alone = Delta { cells: Cells::from([(key, tally)]), ..Delta::default() };
        let cell = metrics::encode(&alone).len();
        let is_started = !piece.cells.is_empty() || pieces.is_empty();
        if size + cell > max_body && is_started {
            pieces.push(metrics::encode(&piece));
            piece = Delta { first_window, last_window, ..Delta::default() };
            size = 0;
        }
        size += cell;
        piece.cells.extend(alone.cells);
    }
    for receipt in receipts {
        let bytes = receipt.runs.as_bytes().len() + 16;
        if size + bytes > max_body && size > 0 {
            pieces.push(metrics::encode(&piece));
            piece = Delta { first_window, last_window, ..Delta::default() };
            size = 0;
        }
        size += bytes;
        piece.receipts.push(receipt);
    }
    pieces.push(metrics::encode(&piece));
    pieces
}

#[cfg(test)]
mod tests;
