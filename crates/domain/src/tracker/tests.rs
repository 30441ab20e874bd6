use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::ids::{ObserverId, SeriesId};
use crate::receipts::{Collected, Runs};

const SERIES: SeriesId = SeriesId(1);
const OBSERVER: ObserverId = ObserverId(0);

fn receipts(mark: Mark, runs: &[Run]) -> Vec<Receipt> {
    let mut collected = Collected::default();
    runs.iter().for_each(|run| collected.push(*run));
    let mut out = Vec::new();
    collected.take(mark, &mut out);
    out
}

fn add(tracker: &mut Tracker, mark: Mark, runs: &[Run]) {
    add_in(tracker, 0, mark, runs);
}

fn add_in(tracker: &mut Tracker, window: u64, mark: Mark, runs: &[Run]) {
    receipts(mark, runs).iter().for_each(|receipt| tracker.add(receipt, window));
}

fn run(device: u32, first: u32, count: u32) -> Run {
    Run { device, incarnation: 0, first, count }
}

/// The same by brute force: every number on its own.
#[derive(Default)]
struct Model {
    sent: BTreeSet<(u32, u32, u32)>,
    acked: BTreeSet<(u32, u32, u32)>,
    received: BTreeMap<(u32, u32, u32), u32>,
    repeats: BTreeMap<(u32, u32, u32), u32>,
    newest: BTreeMap<(u32, u32), u32>,
    /// Where each device stood when the observer was blind and has not been heard since.
    blind_at: BTreeMap<(u32, u32), u32>,
    has_been_blind: bool,
    possible: BTreeSet<(u32, u32, u32)>,
    out_of_order: u64,
    late: u64,
    /// When each was sent, and before that was told, when anything was first told of it.
    sent_in: BTreeMap<(u32, u32, u32), u64>,
    first_in: BTreeMap<(u32, u32, u32), u64>,
    surplus_in: BTreeMap<(u32, u32, u32), Vec<u64>>,
    read: Windows,
}

impl Model {
    fn arrive(&mut self, device: u32, incarnation: u32, n: u32, window: u64) {
        let read = self.read.entry(window).or_default();
        read.received += 1;
        let (line, key) = ((device, incarnation), (device, incarnation, n));
        let beyond = self.newest.get(&line).map_or(0, |newest| newest + 1);
        if n >= beyond {
            self.newest.insert(line, n);
            if self.is_blind(line) {
                self.possible.extend((beyond..n).map(|n| (device, incarnation, n)));
            }
            self.blind_at.insert(line, u32::MAX);
        } else if !self.received.contains_key(&key) {
            self.out_of_order += 1;
            self.late += u64::from(beyond - n > REORDER_WINDOW);
            read.out_of_order += 1;
            read.late_events += u64::from(beyond - n > REORDER_WINDOW);
        }
        if self.received.contains_key(&key) {
            self.surplus_in.entry(key).or_default().push(window);
        }
        self.first_in.entry(key).or_insert(window);
        *self.received.entry(key).or_default() += 1;
    }

    fn is_blind(&self, line: (u32, u32)) -> bool {
        self.has_been_blind && self.blind_at.get(&line) != Some(&u32::MAX)
    }

    fn blind(&mut self) {
        self.has_been_blind = true;
        self.blind_at.clear();
        for (line, newest) in &self.newest {
            let from = (newest + 1).saturating_sub(REORDER_WINDOW);
            for n in from..*newest {
                let key = (line.0, line.1, n);
                if !self.received.contains_key(&key) {
                    self.possible.insert(key);
                }
            }
        }
    }

    fn totals(&self, is_confirmed: bool) -> Totals {
        let mut totals = Totals::default();
        self.by_window(is_confirmed).values().for_each(|window| totals.merge(window));
        assert_eq!((totals.out_of_order, totals.late_events), (self.out_of_order, self.late));
        totals
    }

    fn by_window(&self, is_confirmed: bool) -> Windows {
        let mut windows = self.read.clone();
        let mut all: BTreeSet<(u32, u32, u32)> = &self.sent | &self.acked;
        all.extend(self.received.keys());
        for key in all {
            let window = self.sent_in.get(&key).or_else(|| self.first_in.get(&key));
            let totals = windows.entry(*window.unwrap()).or_default();
            totals.sent += 1;
            let acked = self.acked.contains(&key);
            totals.acked += u64::from(acked);
            if !self.received.contains_key(&key) {
                let line = (key.0, key.1);
                let beyond = self.newest.get(&line).map_or(0, |newest| newest + 1);
                let is_possible =
                    self.possible.contains(&key) || (key.2 >= beyond && self.is_blind(line));
                match (is_possible, acked, is_confirmed) {
                    (true, ..) | (_, false, false) => totals.lost_possible += 1,
                    (_, true, _) => totals.lost += 1,
                    _ => totals.undelivered += 1,
                }
                continue;
            }
            totals.unique += 1;
            totals.unconfirmed += u64::from(!acked && is_confirmed);
        }
        for (key, surplus) in &self.surplus_in {
            let ours = self.repeats.get(key).copied().unwrap_or(0) as usize;
            let mut surplus = surplus.clone();
            surplus.sort_unstable();
            for (n, window) in surplus.into_iter().enumerate() {
                let totals = windows.entry(window).or_default();
                totals.resent += u64::from(n < ours);
                totals.duplicated += u64::from(n >= ours);
            }
        }
        windows
    }
}

#[derive(Debug, Clone)]
enum Step {
    Sent(Run),
    Acked(Run),
    Resent(Run),
    Received(Run),
    Blind,
}

fn step() -> impl Strategy<Value = Step> {
    let run = (0u32..3, 0u32..3, 0u32..200, 1u32..90)
        .prop_map(|(device, incarnation, first, count)| Run { device, incarnation, first, count });
    (0u32..12, run).prop_map(|(kind, run)| match kind {
        0..=2 => Step::Sent(run),
        3..=5 => Step::Acked(run),
        6 => Step::Resent(Run { count: 1, ..run }),
        7 => Step::Blind,
        _ => Step::Received(run),
    })
}

proptest! {
    #[test]
    fn whatever_happens_the_totals_are_those_of_every_number_on_its_own(
        steps in proptest::collection::vec((step(), 0u64..6), 0..40), is_confirmed in any::<bool>(),
        cut in 0usize..40,
    ) {
        let mut tracker = Tracker::new(3, is_confirmed);
        let mut model = Model::default();
        let mut stored = Windows::new();
        for (at, (step, window)) in steps.iter().enumerate() {
            let window = *window;
            if at == cut {
                let (blocks, settled) = tracker.take_touched();
                merge_windows(&mut stored, &settled);
                let mut restored = Tracker::new(3, is_confirmed);
                for (number, bytes) in &blocks {
                    restored.restore(*number, bytes).unwrap();
                }
                prop_assert_eq!(&restored.blocks, &tracker.blocks);
                tracker = restored;
            }
            let numbers = |run: &Run| {
                run.numbers().map(|n| (run.device, run.incarnation, n as u32)).collect::<Vec<_>>()
            };
            match step {
                Step::Sent(run) => {
                    add_in(&mut tracker, window, Mark::Sent(SERIES), &[*run]);
                    for key in numbers(run) {
                        model.sent.insert(key);
                        model.sent_in.entry(key).or_insert(window);
                    }
                }
                Step::Acked(run) => {
                    add_in(&mut tracker, window, Mark::Acked(SERIES), &[*run]);
                    for key in numbers(run) {
                        model.acked.insert(key);
                        model.first_in.entry(key).or_insert(window);
                    }
                }
                Step::Resent(run) => {
                    add_in(&mut tracker, window, Mark::Resent(SERIES), &[*run]);
                    for key in numbers(run) {
                        *model.repeats.entry(key).or_default() += 1;
                    }
                }
                Step::Received(run) => {
                    add_in(&mut tracker, window, Mark::Received(OBSERVER), &[*run]);
                    for (device, incarnation, n) in numbers(run) {
                        model.arrive(device, incarnation, n, window);
                    }
                }
                Step::Blind => {
                    let receipt = Receipt { mark: Mark::Blind(OBSERVER), runs: Runs::default() };
                    tracker.add(&receipt, window);
                    model.blind();
                }
            }
        }
        prop_assert_eq!(tracker.totals(Horizon::Closed), model.totals(is_confirmed));
        merge_windows(&mut stored, &tracker.by_window(Horizon::Closed));
        stored.retain(|_, totals| *totals != Totals::default());
        prop_assert_eq!(stored, model.by_window(is_confirmed));
        // Every device under every incarnation by itself is the whole, but for the order.
        let mut parts = Totals::default();
        for (device, incarnation) in (0..3).flat_map(|device| (0..3).map(move |i| (device, i))) {
            let is_wanted = |d, i| (d, i) == (device, incarnation);
            parts.merge(&tracker.totals_of(Horizon::Closed, is_wanted));
        }
        let whole = model.totals(is_confirmed);
        prop_assert_eq!(parts, Totals { out_of_order: 0, late_events: 0, ..whole });
        let lost: u64 = tracker.lossy(Horizon::Closed, 9).iter().map(|lossy| lossy.lost).sum();
        prop_assert_eq!(lost, model.totals(is_confirmed).lost);
    }

    #[test]
    fn garbage_is_no_block(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut tracker = Tracker::new(20, true);
        let _ = tracker.restore(0, &bytes);
        let _ = tracker.totals(Horizon::Closed);
    }
}

#[test]
fn a_loss_and_a_duplicate_do_not_cancel_out() {
    let mut tracker = Tracker::new(1, true);
    add(&mut tracker, Mark::Sent(SERIES), &[run(0, 0, 100)]);
    add(&mut tracker, Mark::Acked(SERIES), &[run(0, 0, 100)]);
    add(&mut tracker, Mark::Received(OBSERVER), &[run(0, 0, 50), run(0, 49, 1), run(0, 51, 49)]);
    let totals = tracker.totals(Horizon::Closed);
    assert_eq!((totals.sent, totals.received), (100, 100));
    assert_eq!((totals.lost, totals.duplicated), (1, 1));
    assert_eq!(tracker.lossy(Horizon::Closed, 5), [Lossy { device: 0, lost: 1 }]);
}

#[test]
fn what_is_on_its_way_is_not_lost_yet() {
    let mut tracker = Tracker::new(1, true);
    add(&mut tracker, Mark::Sent(SERIES), &[run(0, 0, 10)]);
    add(&mut tracker, Mark::Acked(SERIES), &[run(0, 0, 10)]);
    add(&mut tracker, Mark::Received(OBSERVER), &[run(0, 0, 3), run(0, 4, 2)]);
    let totals = tracker.totals(Horizon::Open);
    assert_eq!((totals.lost, totals.pending), (1, 4));
    assert_eq!(tracker.totals(Horizon::Closed).lost, 5);
}

#[test]
fn a_takeover_is_never_a_gap_or_a_duplicate() {
    let mut tracker = Tracker::new(1, true);
    for incarnation in 0..2 {
        let numbers = [Run { device: 0, incarnation, first: 0, count: 20 }];
        for mark in [Mark::Sent(SERIES), Mark::Acked(SERIES), Mark::Received(OBSERVER)] {
            add(&mut tracker, mark, &numbers);
        }
    }
    let totals = tracker.totals(Horizon::Closed);
    let expected = Totals { sent: 40, acked: 40, received: 40, unique: 40, ..Totals::default() };
    assert_eq!(totals, expected);
}

#[test]
fn a_loss_counts_when_it_was_sent_and_a_repetition_when_it_was_read() {
    let mut tracker = Tracker::new(1, true);
    for window in 0..4 {
        add_in(&mut tracker, window, Mark::Sent(SERIES), &[run(0, 5 * window as u32, 5)]);
        add_in(&mut tracker, window, Mark::Acked(SERIES), &[run(0, 5 * window as u32, 5)]);
    }
    add_in(&mut tracker, 6, Mark::Received(OBSERVER), &[run(0, 0, 7), run(0, 8, 10)]);
    add_in(&mut tracker, 9, Mark::Received(OBSERVER), &[run(0, 3, 1)]);
    let (_, mut windows) = tracker.take_touched();
    merge_windows(&mut windows, &tracker.by_window(Horizon::Open));
    let of = |window: u64| windows.get(&window).copied().unwrap_or_default();
    assert_eq!((of(1).sent, of(1).unique, of(1).lost), (5, 4, 1));
    assert_eq!((of(3).sent, of(3).unique, of(3).pending), (5, 3, 2));
    assert_eq!((of(6).received, of(9).received, of(9).duplicated), (17, 1, 1));
    assert_eq!(of(0), Totals { sent: 5, acked: 5, unique: 5, ..Totals::default() });
}

#[test]
fn whoever_asks_for_no_windows_pays_for_none() {
    let mut tracker = Tracker::new(1, true);
    tracker.forget_windows();
    let bytes = tracker.approximate_bytes();
    for window in 0..50_u32 {
        add_in(&mut tracker, u64::from(window), Mark::Sent(SERIES), &[run(0, window, 1)]);
    }
    assert_eq!((tracker.by_window(Horizon::Open).len(), tracker.approximate_bytes()), (0, bytes));
    assert_eq!(tracker.totals(Horizon::Open).pending, 50);
    // What was stored without them stays so.
    let (blocks, _) = tracker.take_touched();
    let mut restored = Tracker::new(1, true);
    restored.restore(blocks[0].0, &blocks[0].1).unwrap();
    assert!(restored.by_window(Horizon::Open).is_empty());
}

#[test]
fn settled_messages_are_forgotten_while_they_go_by() {
    let mut tracker = Tracker::new(1, true);
    for n in 0..20_000 {
        for mark in [Mark::Sent(SERIES), Mark::Acked(SERIES), Mark::Received(OBSERVER)] {
            add_in(&mut tracker, u64::from(n) / 100, mark, &[run(0, n, 1)]);
        }
    }
    assert!(tracker.approximate_bytes() < 40_000, "{}", tracker.approximate_bytes());
    assert_eq!(tracker.by_window(Horizon::Open).len(), 200);
}

#[test]
fn a_platform_that_is_dead_for_long_takes_no_more_memory_by_the_second() {
    let (n_devices, seconds) = (2_000, 200);
    let mut tracker = Tracker::new(u64::from(n_devices), true);
    for second in 0..seconds {
        let sent: Vec<Run> = (0..n_devices).map(|device| run(device, second, 1)).collect();
        add_in(&mut tracker, u64::from(second), Mark::Sent(SERIES), &sent);
        add_in(&mut tracker, u64::from(second), Mark::Acked(SERIES), &sent);
    }
    assert!(tracker.approximate_bytes() < 8_000_000, "{}", tracker.approximate_bytes());
    let mut sum = Totals::default();
    tracker.by_window(Horizon::Closed).values().for_each(|window| sum.merge(window));
    assert_eq!(sum, tracker.totals(Horizon::Closed));
    assert_eq!(sum.lost, u64::from(n_devices * seconds));
}

#[test]
fn a_million_devices_take_less_than_forty_megabytes() {
    let tracker = Tracker::new(1_000_000, true);
    assert!(tracker.approximate_bytes() <= 40_000_000, "{}", tracker.approximate_bytes());
}
