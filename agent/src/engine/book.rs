//! The slots of one device: which are due, which wait, which come next.
//!
//! Pure bookkeeping. Each series has a cursor over its schedule and the ranges of slots that are
//! due and wait for the target. Invariant: a slot leaves the cursor once and the waiting ranges
//! once, so whatever the order of events, its class is given exactly once.

use std::ops::Range;

use shoal_domain::schedule::Slots;
use smallvec::SmallVec;

/// What becomes of a slot at its intended time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is to be sent as soon as allowed.
    Waits,
    /// The judge has counted it in a class.
    Classed,
}

/// A slot that is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Due {
    /// Place of the series among the group's sends.
    pub(super) send: usize,
    pub(super) slot: u64,
    pub(super) intended_us: u64,
    /// It waited for the target.
    pub(super) held: bool,
}

#[derive(Debug)]
struct Cursor {
    slots: Slots,
    /// The next slot that is not due yet and its intended time; `None` after the last.
    next: Option<(u64, u64)>,
    /// Slots before this one have waited at least once already.
    fresh_from: u64,
    /// Ascending and apart; one range as long as no slot between two others was classed at once.
    waiting: SmallVec<[Range<u64>; 1]>,
}

#[derive(Debug)]
pub(super) struct SlotBook {
    cursors: Box<[Cursor]>,
}

impl SlotBook {
    /// One schedule per series of the group, in the plan's order; slots intended before `from_us`
    /// are somebody else's.
    pub(super) fn new(schedules: impl Iterator<Item = Slots>, from_us: u64) -> Self {
        let cursor = |slots: Slots| {
            let next = slots.first_from(from_us);
            Cursor { slots, next, fresh_from: 0, waiting: SmallVec::new() }
        };
        Self { cursors: schedules.map(cursor).collect() }
    }

    /// The schedule of each series.
    pub(super) fn schedules(&self) -> impl Iterator<Item = &Slots> {
        self.cursors.iter().map(|cursor| &cursor.slots)
    }

    /// Intended time of the earliest slot that is not due yet; `u64::MAX` without series.
    pub(super) fn next_us(&self) -> u64 {
        let next = |cursor: &Cursor| cursor.next.map(|(_, intended_us)| intended_us);
        self.cursors.iter().filter_map(next).min().unwrap_or(u64::MAX)
    }

    /// The first slot of a series that has not been taken: one that waits, or the next.
    pub(super) fn next_slot(&self, send: usize) -> u64 {
        let cursor = &self.cursors[send];
        let waiting = cursor.waiting.first().map(|range| range.start);
        waiting.or(cursor.next.map(|(slot, _)| slot)).unwrap_or(0)
    }

    /// Moves past all slots intended before `until_us`; `judge` says for each (series, intended
    /// time) whether it waits.
    pub(super) fn fall_due(&mut self, until_us: u64, mut judge: impl FnMut(usize, u64) -> Fate) {
        for (send, cursor) in self.cursors.iter_mut().enumerate() {
            while let Some((slot, intended_us)) = cursor.next
                && intended_us < until_us
            {
                cursor.next = cursor.slots.after(slot);
                if judge(send, intended_us) == Fate::Classed {
                    continue;
                }
                match cursor.waiting.last_mut() {
                    Some(last) if last.end == slot => last.end += 1,
                    _ => cursor.waiting.push(slot..slot + 1),
                }
            }
        }
    }

    /// Takes the waiting slot with the earliest intended time of the series that `may_go`.
    pub(super) fn take(&mut self, may_go: impl Fn(usize) -> bool) -> Option<Due> {
        let first = |(send, cursor): (usize, &Cursor)| {
            let slot = cursor.waiting.first()?.start;
            may_go(send).then(|| (cursor.slots.intended_us(slot), send, slot))
        };
        let (intended_us, send, slot) = self.cursors.iter().enumerate().filter_map(first).min()?;
        let cursor = &mut self.cursors[send];
        let held = slot < cursor.fresh_from;
        let range = cursor.waiting.first_mut().expect("its first slot was just read");
        range.start += 1;
        if range.is_empty() {
            cursor.waiting.remove(0);
        }
        Some(Due { send, slot, intended_us, held })
    }

    /// Whether any slot waits.
    pub(super) fn has_waiting(&self) -> bool {
        self.cursors.iter().any(|cursor| !cursor.waiting.is_empty())
    }

    /// Puts back what [`SlotBook::take`] gave; of several, the last taken first.
    pub(super) fn put_back(&mut self, due: &Due) {
        let waiting = &mut self.cursors[due.send].waiting;
        match waiting.first_mut() {
            Some(first) if first.start == due.slot + 1 => first.start = due.slot,
            _ => waiting.insert(0, due.slot..due.slot + 1),
        }
    }

    /// The load was revised: the same slots up to `now_us` and a while longer, then others.
    pub(super) fn revise(&mut self, schedules: impl Iterator<Item = Slots>, now_us: u64) {
        for (cursor, slots) in self.cursors.iter_mut().zip(schedules) {
            if cursor.next.is_none_or(|(_, intended_us)| intended_us >= now_us) {
                cursor.next = slots.first_from(now_us);
            }
            cursor.slots = slots;
        }
    }

    /// From now on, whatever still waits is held by the target.
    pub(super) fn settle(&mut self) {
        for cursor in &mut self.cursors {
            cursor.fresh_from = cursor.next.map_or(u64::MAX, |(slot, _)| slot);
        }
    }

    /// Empties the waiting ranges of the series that are `meant`; `class` counts each (series,
    /// intended time).
    pub(super) fn drain(
        &mut self,
        meant: impl Fn(usize) -> bool,
        mut class: impl FnMut(usize, u64),
    ) {
        let meant = |(send, _): &(usize, &mut Cursor)| meant(*send);
        for (send, cursor) in self.cursors.iter_mut().enumerate().filter(meant) {
            for slot in std::mem::take(&mut cursor.waiting).into_iter().flatten() {
                class(send, cursor.slots.intended_us(slot));
            }
        }
    }
}

#[cfg(test)]
mod tests;
