//! The deltas of one assignment under one epoch: those in flight, and those that wait.
//!
//! Invariant: `in_flight` is ordered by number and ends just below `next_seq`; everything in
//! `waiting` is later than everything in flight.

use shoal_domain::requests::RequestLog;
use shoal_domain::stretch;

use super::{Key, MAX_IN_FLIGHT, MAX_WHOLE, VecDeque, metrics, split, v1};

#[derive(Debug, Default)]
pub(super) struct Lane {
    pub(super) in_flight: VecDeque<InFlight>,
    pub(super) waiting: VecDeque<Waiting>,
    next_seq: u64,
    /// The closing delta was pushed, or nobody wants more.
    pub(super) is_closed: bool,
    is_unwanted: bool,
    /// Windows that the control plane wants in one delta; 0 and 1: one.
    stretch: u64,
}

#[derive(Debug)]
pub(super) struct InFlight {
    message: v1::UploadDelta,
    /// Handed to the stream that is open now.
    pub(super) is_on_the_way: bool,
}

/// Never sent, so it may still change.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) first_window: u64,
    pub(super) last_window: u64,
    pub(super) body: Vec<u8>,
    pub(super) requests: RequestLog,
    pub(super) closing: Option<v1::Closing>,
    /// Cut from a delta whose first piece may be on its way: joins nobody.
    pub(super) is_piece: bool,
    /// It has positions: it is never cut.
    pub(super) is_whole: bool,
}

impl Waiting {
    fn span(&self) -> u64 {
        self.last_window.saturating_sub(self.first_window)
    }

    /// Whether the two may become one.
    fn joins(&self, next: &Self) -> bool {
        let is_whole = self.is_whole || next.is_whole;
        let is_small = self.body.len() + next.body.len() <= MAX_WHOLE;
        !self.is_piece && !next.is_piece && (is_small || !is_whole)
    }

    fn bytes(&self) -> usize {
        let totals = self.closing.as_ref().map_or(0, |closing| closing.totals.len());
        self.body.len() + self.requests.as_bytes().len() + totals
    }
}

impl Lane {
    pub(super) fn is_empty(&self) -> bool {
        self.in_flight.is_empty() && self.waiting.is_empty()
    }

    pub(super) fn has_something_to_send(&self) -> bool {
        self.in_flight.iter().any(|sent| !sent.is_on_the_way)
            || (self.in_flight.len() < MAX_IN_FLIGHT && self.is_ripe())
    }

    pub(super) fn stretch(&mut self, windows: u64) {
        self.stretch = windows;
    }

    /// Whether the front is whole: nothing that belongs to its stretch can still come.
    fn is_ripe(&self) -> bool {
        let (Some(front), Some(back)) = (self.waiting.front(), self.waiting.back()) else {
            return false;
        };
        let next = back.last_window + 1;
        self.is_closed
            || front.is_piece
            || !stretch::are_together(self.stretch, front.first_window, next)
    }

    /// Makes one of what belongs to the stretch of the front.
    fn join_front(&mut self) {
        while let (Some(front), Some(second)) = (self.waiting.front(), self.waiting.get(1)) {
            let is_one =
                stretch::are_together(self.stretch, front.first_window, second.last_window);
            if self.stretch <= 1 || !is_one || !front.joins(second) || !self.join(0) {
                return;
            }
        }
    }

    pub(super) fn next_to_send(&mut self, key: &Key, max_body: usize) -> Option<v1::UploadDelta> {
        if let Some(again) = self.in_flight.iter_mut().find(|sent| !sent.is_on_the_way) {
            again.is_on_the_way = true;
            return Some(again.message.clone());
        }
        if self.in_flight.len() >= MAX_IN_FLIGHT {
            return None;
        }
        if !self.is_ripe() {
            return None;
        }
        self.join_front();
        self.split_front(max_body);
        let next = self.waiting.pop_front()?;
        let message = v1::UploadDelta {
            assignment_id: key.assignment.clone(),
            epoch: key.epoch,
            seq: self.next_seq,
            body: next.body,
            first_window: next.first_window,
            last_window: next.last_window,
            closing: next.closing,
            requests_dropped: next.requests.dropped(),
            requests: next.requests.into_bytes(),
        };
        self.next_seq += 1;
        self.in_flight.push_back(InFlight { message: message.clone(), is_on_the_way: true });
        Some(message)
    }

    /// A front that is too large becomes several; the closing and the requests stay with the last of
    /// them.
    fn split_front(&mut self, max_body: usize) {
        let is_large =
            |front: &Waiting| !front.is_piece && !front.is_whole && front.body.len() > max_body;
        let Some(front) = self.waiting.pop_front_if(|front| is_large(front)) else { return };
        let Waiting { first_window, last_window, body, mut requests, mut closing, .. } = front;
        for body in split(body, max_body).into_iter().rev() {
            let (requests, closing) = (std::mem::take(&mut requests), closing.take());
            let (is_piece, is_whole) = (true, false);
            let piece =
                Waiting { first_window, last_window, body, requests, closing, is_piece, is_whole };
            self.waiting.push_front(piece);
        }
    }

    pub(super) fn take_sent(&mut self, seq: u64) -> bool {
        let at = self.in_flight.iter().position(|sent| sent.message.seq == seq);
        at.is_some_and(|at| self.in_flight.remove(at).is_some())
    }

    pub(super) fn drop_all(&mut self) {
        self.in_flight.clear();
        self.waiting.clear();
        self.is_unwanted = true;
    }

    pub(super) fn is_unwanted(&self) -> bool {
        self.is_unwanted
    }

    pub(super) fn waiting_bytes(&self) -> usize {
        self.waiting.iter().map(Waiting::bytes).sum()
    }

    /// What [`Lane::coalesce_one`] could still work on.
    pub(super) fn coalescable_bytes(&self) -> usize {
        let pairs = self.waiting.iter().zip(self.waiting.iter().skip(1));
        let is_possible = pairs.into_iter().any(|(left, right)| left.joins(right));
        let free = self.waiting.iter().filter(|waiting| !waiting.is_piece);
        if is_possible { free.map(Waiting::bytes).sum() } else { 0 }
    }

    /// Makes one of the two neighbours with the shortest common span, the oldest of equals.
    pub(super) fn coalesce_one(&mut self) -> bool {
        let pairs = self.waiting.iter().zip(self.waiting.iter().skip(1)).enumerate();
        let free = pairs.filter(|(_, (left, right))| left.joins(right));
        let shortest = free.min_by_key(|(_, (left, right))| left.span() + right.span());
        shortest.map(|(at, _)| at).is_some_and(|at| self.join(at))
    }

    /// Makes one of a waiting delta and the next.
    fn join(&mut self, at: usize) -> bool {
        let (Some(left), Some(right)) = (self.waiting.get(at), self.waiting.get(at + 1)) else {
            return false;
        };
        let (Ok(mut delta), Ok(later)) =
            (metrics::decode(&left.body), metrics::decode(&right.body))
        else {
            return false;
        };
        delta.absorb(later);
        let mut requests = std::mem::take(&mut self.waiting[at].requests);
        requests.absorb(std::mem::take(&mut self.waiting[at + 1].requests));
        let is_whole = !delta.positions.is_empty();
        let closing = self.waiting.remove(at + 1).and_then(|right| right.closing);
        self.waiting[at] = Waiting {
            first_window: delta.first_window,
            last_window: delta.last_window,
            body: metrics::encode(&delta),
            requests,
            closing,
            is_piece: false,
            is_whole,
        };
        true
    }
}
