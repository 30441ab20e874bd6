//! The totals of a tracker, window by window.
//!
//! What became of a message counts in the window in which it was sent; what happened on the way out
//! (an arrival, a repetition, a wrong order) in the window in which it was read. The first is told
//! exactly for as long as a number is open, since its window is kept as long; once it is sent,
//! acknowledged and received it is *settled* and only counted. A number whose sending nobody told
//! (its agent was killed before it could) stands where the first news of it came from.
//! Invariant: the sum over all windows is [`super::Tracker::totals`].

use std::collections::BTreeMap;

use super::block::{Block, Counts, Kind, Line, key, split};
use super::spans::{MAX_SPANS, Span, Spans};
use super::{Horizon, Totals};
use crate::receipts::Run;

/// By window; see the module.
pub type Windows = BTreeMap<u64, Totals>;

/// Stretches that may come before settled ones are looked for, beside as many as were open.
const ROOM: usize = 1_024;

/// Adds every window of `other`.
pub fn merge_windows(into: &mut Windows, other: &Windows) {
    for (window, totals) in other {
        into.entry(*window).or_default().merge(totals);
    }
}

impl Block {
    /// Before a mark is set: where in time these numbers belong.
    pub(super) fn place(&mut self, kind: Kind, line: &Line, run: &Run, window: u32) {
        let Some(spans) = &mut self.spans else { return };
        let at = |n: u32| key(run.device, line.incarnation, n);
        let mut put = |first: u32, end: u32| {
            let span = Span { count: end - first, window };
            match kind {
                Kind::Sent => spans.put(at(first), span),
                // Overtaken by its own acknowledgement or arrival, which is told by somebody else.
                Kind::Acked | Kind::Received => spans.fill(at(first), span),
            }
        };
        let (end, told) = (run.first + run.count, line.frontiers[Kind::Sent as usize]);
        if end > told {
            put(run.first.max(told), end);
        }
        if run.first < told && !self.open.is_empty() {
            for (key, flags) in self.open.range(at(run.first)..at(end.min(told))) {
                let n = split(*key).2;
                if *flags & Kind::Sent.hole() != 0 {
                    put(n, n + 1);
                }
            }
        }
    }

    /// Counts settled numbers and forgets when they were sent, once that is worth the look.
    pub(super) fn settle_some(&mut self, settled: &mut Windows) {
        let n_spans = self.spans.as_ref().map_or(0, Spans::len);
        if n_spans > (2 * self.n_unsettled).min(self.n_unsettled + MAX_SPANS / 2) + ROOM {
            self.settle(settled);
        }
    }

    pub(super) fn settle(&mut self, settled: &mut Windows) {
        let Some(spans) = self.spans.take() else { return };
        let mut open = Vec::new();
        for (first, span) in spans.iter() {
            let (device, incarnation, n) = split(first);
            let frontiers = self.line(device, incarnation).frontiers;
            let told = frontiers.into_iter().min().unwrap_or(0);
            let (end, sure) = (n + span.count, told.clamp(n, n + span.count));
            let mut n_settled = sure - n;
            for (at, _) in self.open.range(first..key(device, incarnation, sure)) {
                n_settled -= 1;
                open.push((*at, Span { count: 1, ..span }));
            }
            if sure < end {
                let rest = Span { count: end - sure, ..span };
                open.push((key(device, incarnation, sure), rest));
            }
            if n_settled > 0 {
                let n = u64::from(n_settled);
                let done = Totals { sent: n, acked: n, unique: n, ..Totals::default() };
                settled.entry(u64::from(span.window)).or_default().merge(&done);
            }
        }
        if open.len() > MAX_SPANS {
            open = Spans::joined(open, MAX_SPANS);
        }
        self.n_unsettled = open.len();
        self.spans = Some(Spans::from_sorted(open));
    }

    /// Adds what is open or surplus: with what was settled and read it is all there is.
    pub(super) fn add_windows(&self, is_confirmed: bool, horizon: Horizon, windows: &mut Windows) {
        let Some(spans) = &self.spans else { return };
        for (first, span) in spans.iter() {
            let (device, incarnation, n) = split(first);
            let line = self.line(device, incarnation);
            let (start, end) = (n, n + span.count);
            let mut count = Counts::default();
            for (numbers, state) in line.stretches() {
                let inside = numbers.end.min(end).saturating_sub(numbers.start.max(start));
                count.add(state, is_confirmed, horizon, i64::from(inside));
            }
            for (at, flags) in self.open.range(first..first + u64::from(span.count)) {
                let plain = line.plain(split(*at).2);
                count.add(plain, is_confirmed, horizon, -1);
                count.add(plain.without(*flags), is_confirmed, horizon, 1);
            }
            count.add_to(windows.entry(u64::from(span.window)).or_default());
        }
        self.each_surplus(|_, window, ours, theirs| {
            let totals = windows.entry(u64::from(window)).or_default();
            totals.resent += u64::from(ours);
            totals.duplicated += u64::from(theirs);
        });
    }
}
