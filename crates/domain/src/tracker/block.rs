//! One block of devices: frontiers, holes, and what arrived too often.

use std::collections::BTreeMap;
use std::ops::Range;

use super::spans::Spans;
use super::{Horizon, REORDER_WINDOW, Totals};
use crate::receipts::Run;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Sent = 0,
    Acked = 1,
    Received = 2,
}

const KINDS: usize = 3;
/// Beside the holes of the three kinds: it may have arrived while nobody looked.
pub(super) const POSSIBLE: u8 = 1 << KINDS;
const HOLES: u8 = POSSIBLE - 1;

impl Kind {
    pub(super) const fn hole(self) -> u8 {
        1 << self as u8
    }
}

/// One device under one incarnation. No number at or beyond a frontier has that mark.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) incarnation: u32,
    pub(super) frontiers: [u32; KINDS],
    /// Nothing has arrived since the observer was blind.
    pub(super) is_blind: bool,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Block {
    /// The newest incarnation of each device.
    pub(super) lines: Vec<Line>,
    /// Older ones, by device and incarnation: a device that changed hands is rare.
    pub(super) past: BTreeMap<(u32, u32), Line>,
    /// Flags of the numbers below a frontier that lack that mark.
    pub(super) open: BTreeMap<u64, u8>,
    /// Arrivals beyond the first, by number and window.
    pub(super) surplus: BTreeMap<(u64, u32), u32>,
    /// Our own repetitions.
    pub(super) repeats: BTreeMap<u64, u32>,
    pub(super) out_of_order: u64,
    pub(super) late_events: u64,
    /// The observer has been blind at least once.
    pub(super) was_blind: bool,
    /// `None`: nobody asks for windows.
    pub(super) spans: Option<Spans>,
    /// Stretches that were left when settled ones were last looked for.
    pub(super) n_unsettled: usize,
}

impl PartialEq for Block {
    /// What is known, not when it was last looked through.
    fn eq(&self, other: &Self) -> bool {
        let known = |block: &Self| {
            let Self { out_of_order, late_events, was_blind, .. } = *block;
            (out_of_order, late_events, was_blind)
        };
        (&self.lines, &self.past, &self.open) == (&other.lines, &other.past, &other.open)
            && (&self.surplus, &self.repeats) == (&other.surplus, &other.repeats)
            && (known(self), &self.spans) == (known(other), &other.spans)
    }
}

/// Device 12 bits, incarnation 20, number 32: ascending like the three.
pub(super) const MAX_INCARNATION: u32 = (1 << 20) - 1;

pub(super) fn key(device: u32, incarnation: u32, n: u32) -> u64 {
    u64::from(device) << 52 | u64::from(incarnation.min(MAX_INCARNATION)) << 32 | u64::from(n)
}

pub(super) fn split(key: u64) -> (u32, u32, u32) {
    ((key >> 52) as u32, (key >> 32) as u32 & MAX_INCARNATION, key as u32)
}

impl Block {
    pub(super) fn new(n_devices: u32) -> Self {
        let lines = vec![Line::default(); n_devices as usize];
        Self { lines, spans: Some(Spans::default()), ..Self::default() }
    }

    pub(super) fn n_devices(&self) -> u32 {
        self.lines.len() as u32
    }

    /// `read`: what is counted of the window, where it is told by the observer.
    pub(super) fn mark(&mut self, kind: Kind, run: &Run, window: u32, read: &mut Totals) {
        let incarnation = run.incarnation.min(MAX_INCARNATION);
        let mut line = self.line(run.device, incarnation);
        self.place(kind, &line, run, window);
        let frontier = line.frontiers[kind as usize];
        // `Runs` ends below 2³².
        let (first, end) = (run.first, run.first + run.count);
        for n in first..end.min(frontier) {
            let at = key(run.device, incarnation, n);
            self.mark_below(kind, at, frontier - n, window, read);
        }
        if end > frontier {
            let hole = kind.hole() | if line.is_blind { POSSIBLE } else { 0 };
            let hole = if kind == Kind::Received { hole } else { kind.hole() };
            for n in frontier..first.max(frontier) {
                *self.open.entry(key(run.device, incarnation, n)).or_default() |= hole;
            }
            line.frontiers[kind as usize] = end;
            if kind == Kind::Received {
                line.is_blind = false;
            }
        }
        self.put(run.device, line);
    }

    /// A number that its frontier has passed; `behind` by how much.
    fn mark_below(&mut self, kind: Kind, key: u64, behind: u32, window: u32, read: &mut Totals) {
        if let Some(flags) = self.open.get_mut(&key)
            && *flags & kind.hole() != 0
        {
            *flags &= !kind.hole();
            if kind == Kind::Received {
                *flags &= !POSSIBLE;
                let is_late = behind > REORDER_WINDOW;
                self.out_of_order += 1;
                self.late_events += u64::from(is_late);
                read.out_of_order += 1;
                read.late_events += u64::from(is_late);
            }
            if *flags & HOLES == 0 {
                self.open.remove(&key);
            }
        } else if kind == Kind::Received {
            *self.surplus.entry((key, window)).or_default() += 1;
        }
    }

    pub(super) fn resent(&mut self, run: &Run) {
        for n in run.numbers() {
            *self.repeats.entry(key(run.device, run.incarnation, n as u32)).or_default() += 1;
        }
    }

    pub(super) fn blind(&mut self) {
        self.was_blind = true;
        for line in self.lines.iter_mut().chain(self.past.values_mut()) {
            line.is_blind = true;
        }
        let mut open = std::mem::take(&mut self.open);
        for (key, flags) in &mut open {
            // What was missing long before had been given up.
            let (device, incarnation, n) = split(*key);
            let frontier = self.line(device, incarnation).frontiers[Kind::Received as usize];
            if *flags & Kind::Received.hole() != 0 && frontier - n <= REORDER_WINDOW {
                *flags |= POSSIBLE;
            }
        }
        self.open = open;
    }

    pub(super) fn line(&self, device: u32, incarnation: u32) -> Line {
        let newest = self.lines[device as usize];
        if newest.incarnation == incarnation {
            return newest;
        }
        let past = self.past.get(&(device, incarnation)).copied();
        past.unwrap_or(Line { incarnation, is_blind: self.was_blind, ..Line::default() })
    }

    fn put(&mut self, device: u32, line: Line) {
        let newest = &mut self.lines[device as usize];
        if newest.incarnation == line.incarnation {
            *newest = line;
            return;
        }
        let mut older = line;
        if line.incarnation > newest.incarnation {
            std::mem::swap(newest, &mut older);
        }
        // The first incarnation of a device that was never heard of under it is nothing.
        if older.frontiers != [0; KINDS] {
            self.past.insert((device, older.incarnation), older);
        }
    }

    fn each_line(&self) -> impl Iterator<Item = (u32, &Line)> {
        let newest = self.lines.iter().enumerate().map(|(device, line)| (device as u32, line));
        newest.chain(self.past.iter().map(|((device, _), line)| (*device, line)))
    }

    /// Of the devices and incarnations that are wanted; all but the order of arrivals.
    pub(super) fn add_totals(
        &self,
        is_confirmed: bool,
        horizon: Horizon,
        is_wanted: &impl Fn(u32, u32) -> bool,
        totals: &mut Totals,
    ) {
        let mut count = Counts::default();
        let wanted = |(device, line): &(u32, &Line)| is_wanted(*device, line.incarnation);
        for (_, line) in self.each_line().filter(wanted) {
            for (numbers, state) in line.stretches() {
                let n = i64::from(numbers.end - numbers.start);
                count.add(state, is_confirmed, horizon, n);
            }
        }
        for (key, flags) in &self.open {
            let (device, incarnation, n) = split(*key);
            if !is_wanted(device, incarnation) {
                continue;
            }
            let plain = self.line(device, incarnation).plain(n);
            count.add(plain, is_confirmed, horizon, -1);
            count.add(plain.without(*flags), is_confirmed, horizon, 1);
        }
        count.add_to(totals);
        totals.received += count.unique.max(0) as u64;
        self.each_surplus(|key, _, ours, theirs| {
            let (device, incarnation, _) = split(key);
            if !is_wanted(device, incarnation) {
                return;
            }
            totals.received += u64::from(ours) + u64::from(theirs);
            totals.resent += u64::from(ours);
            totals.duplicated += u64::from(theirs);
        });
    }

    /// Calls `each` with a number, a window, our repetitions read in it, and theirs: of a number's
    /// surplus arrivals the first are ours.
    pub(super) fn each_surplus(&self, mut each: impl FnMut(u64, u32, u32, u32)) {
        let mut of = None;
        let mut left = 0;
        for ((key, window), surplus) in &self.surplus {
            if of != Some(*key) {
                of = Some(*key);
                left = self.repeats.get(key).copied().unwrap_or(0);
            }
            let ours = left.min(*surplus);
            left -= ours;
            each(*key, *window, ours, surplus - ours);
        }
    }

    /// Calls `each` for every device that lost messages.
    pub(super) fn lossy(
        &self,
        is_confirmed: bool,
        horizon: Horizon,
        mut each: impl FnMut(u32, u64),
    ) {
        let mut lost: BTreeMap<u32, i64> = BTreeMap::new();
        let is_lost = |state: State| state.class(is_confirmed, horizon) == Class::Lost;
        for (device, line) in self.each_line() {
            for (numbers, _) in line.stretches().filter(|(_, state)| is_lost(*state)) {
                *lost.entry(device).or_default() += i64::from(numbers.end - numbers.start);
            }
        }
        for (key, flags) in &self.open {
            let (device, incarnation, n) = split(*key);
            let plain = self.line(device, incarnation).plain(n);
            let step = i64::from(is_lost(plain.without(*flags))) - i64::from(is_lost(plain));
            if step != 0 {
                *lost.entry(device).or_default() += step;
            }
        }
        for (device, lost) in lost.into_iter().filter(|(_, lost)| *lost > 0) {
            each(device, lost as u64);
        }
    }

    pub(super) fn approximate_bytes(&self) -> usize {
        let entries = self.open.len() + self.surplus.len() + self.repeats.len();
        let spans = self.spans.as_ref().map_or(0, Spans::len);
        self.lines.len() * size_of::<Line>() + self.past.len() * 48 + entries * 18 + spans * 18
    }
}

/// What is known of one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct State {
    has: [bool; KINDS],
    is_possible: bool,
    /// A later one of its device has arrived.
    is_overtaken: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Unknown,
    Delivered,
    Unconfirmed,
    Lost,
    Undelivered,
    LostPossible,
    Pending,
}

impl Line {
    /// A number without an entry among the open ones.
    pub(super) fn plain(&self, n: u32) -> State {
        let has = self.frontiers.map(|frontier| n < frontier);
        let is_overtaken = has[Kind::Received as usize];
        State { has, is_possible: self.is_blind && !is_overtaken, is_overtaken }
    }

    /// The stretches of numbers that are alike where nothing is open.
    pub(super) fn stretches(&self) -> impl Iterator<Item = (Range<u32>, State)> + '_ {
        let mut cuts = self.frontiers;
        cuts.sort_unstable();
        let starts = [0, cuts[0], cuts[1]];
        let stretch = move |(start, end): (u32, u32)| (start..end, self.plain(start));
        starts.into_iter().zip(cuts).filter(|(start, end)| start < end).map(stretch)
    }
}

impl State {
    pub(super) fn without(mut self, flags: u8) -> Self {
        for kind in [Kind::Sent, Kind::Acked, Kind::Received] {
            self.has[kind as usize] &= flags & kind.hole() == 0;
        }
        self.is_possible |= flags & POSSIBLE != 0;
        self
    }

    fn class(self, is_confirmed: bool, horizon: Horizon) -> Class {
        match self.has {
            [_, true, true] => Class::Delivered,
            [_, false, true] if is_confirmed => Class::Unconfirmed,
            [_, false, true] => Class::Delivered,
            [false, false, false] => Class::Unknown,
            _ if horizon == Horizon::Open && !self.is_overtaken => Class::Pending,
            _ if self.is_possible => Class::LostPossible,
            [_, true, false] => Class::Lost,
            _ if is_confirmed => Class::Undelivered,
            _ => Class::LostPossible,
        }
    }
}

/// Signed while plain stretches are corrected by the open numbers.
#[derive(Debug, Default)]
pub(super) struct Counts {
    sent: i64,
    acked: i64,
    unique: i64,
    by_class: [i64; 7],
}

impl Counts {
    pub(super) fn add(&mut self, state: State, is_confirmed: bool, horizon: Horizon, n: i64) {
        let [sent, acked, received] = state.has;
        // What was acknowledged or has arrived was sent, whoever failed to say so.
        self.sent += n * i64::from(sent || acked || received);
        self.acked += n * i64::from(acked);
        self.unique += n * i64::from(received);
        self.by_class[state.class(is_confirmed, horizon) as usize] += n;
    }

    /// Everything but arrivals.
    pub(super) fn add_to(&self, totals: &mut Totals) {
        let plus = |to: &mut u64, n: i64| *to += n.max(0) as u64;
        plus(&mut totals.sent, self.sent);
        plus(&mut totals.acked, self.acked);
        plus(&mut totals.unique, self.unique);
        let class = |class: Class| self.by_class[class as usize];
        plus(&mut totals.lost, class(Class::Lost));
        plus(&mut totals.undelivered, class(Class::Undelivered));
        plus(&mut totals.unconfirmed, class(Class::Unconfirmed));
        plus(&mut totals.lost_possible, class(Class::LostPossible));
        plus(&mut totals.pending, class(Class::Pending));
    }
}
