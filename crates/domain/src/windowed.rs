//! A threshold judged window by window: it must hold in a share of them.
//!
//! Windows go by the time of recording, like everything that is kept by the second. One of them is
//! judged as if it were a run of that length, so a window and a run can never be measured
//! differently. Seconds may come in any order and from many agents; a window is judged, once, when
//! all of it is known, and forgotten. Only whole windows of the judged time count, and one without
//! data does not hold: that a stall left no samples is no excuse.

use std::collections::BTreeMap;

use crate::delta::{Cells, merge_cells};
use crate::ids::ObserverId;
use crate::observed::{ArrivalCells, merge_arrivals};
use crate::plan::{Comparison, Plan, Threshold};
use crate::report::ThresholdResult;
use crate::tracker::Totals;
use crate::verdict::{Facts, Judgement, ObserverFacts, judge};

const SECOND_US: u64 = 1_000_000;

/// How a threshold stood in its windows.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Held {
    pub windows: u64,
    pub held: u64,
    /// Where its first window that did not hold begins.
    pub broken_at_us: Option<u64>,
    /// The value furthest beyond the limit (or nearest to it), and where its window begins.
    pub worst: Option<(f64, u64)>,
}

/// The windows of one threshold.
#[derive(Debug)]
pub struct Windowed {
    /// For one window: without a stage, which the windows are cut from already.
    one: Threshold,
    /// In seconds of run time: where the first begins, and where the last must have ended.
    from: u64,
    end: u64,
    every: u64,
    /// All windows before this one are judged.
    next: u64,
    open: BTreeMap<u64, Facts>,
    found: Held,
}

impl Windowed {
    /// `None`: the threshold is judged over its whole time.
    pub fn new(plan: &Plan, threshold: &Threshold) -> Option<Self> {
        let windows = threshold.windows?;
        let (start_us, end_us) = match threshold.stage {
            Some(stage) => {
                let stage = &plan.stages[stage.index()];
                (stage.start_us, stage.end_us)
            }
            None => (0, u64::MAX),
        };
        Some(Self {
            one: Threshold { stage: None, windows: None, ..threshold.clone() },
            from: start_us.div_ceil(SECOND_US),
            end: end_us / SECOND_US,
            every: windows.seconds,
            next: 0,
            open: BTreeMap::new(),
            found: Held::default(),
        })
    }

    /// What was recorded in a second of the run; ignored where its window is judged already.
    pub fn add(&mut self, second: u64, cells: &Cells, arrivals: &ArrivalCells) {
        if let Some(facts) = self.open(second) {
            merge_cells(&mut facts.cells, cells);
            merge_arrivals(&mut facts.arrivals, arrivals);
        }
    }

    /// The same of what became of an observer's messages.
    pub fn add_totals(&mut self, second: u64, observer: ObserverId, totals: &Totals) {
        if let Some(facts) = self.open(second) {
            let n = facts.observers.len().max(observer.index() + 1);
            facts.observers.resize(n, ObserverFacts::default());
            facts.observers[observer.index()].totals.merge(totals);
        }
    }

    fn open(&mut self, second: u64) -> Option<&mut Facts> {
        let window = second.checked_sub(self.from)? / self.every;
        let is_open = window >= self.next && window < self.n_before(self.end);
        is_open.then(|| self.open.entry(window).or_default())
    }

    /// Everything up to this run time is known: judges the windows that lie before it. How it has
    /// stood so far. Of `observers` the clocks are taken, which no window knows of.
    pub fn known(&mut self, plan: &Plan, until_us: u64, observers: &[ObserverFacts]) -> Held {
        let until = self.n_before((until_us / SECOND_US).min(self.end));
        while self.next < until {
            let mut facts = self.open.remove(&self.next).unwrap_or_default();
            facts.ended_us = self.every * SECOND_US;
            let n = facts.observers.len().max(observers.len());
            facts.observers.resize(n, ObserverFacts::default());
            for (facts, known) in facts.observers.iter_mut().zip(observers) {
                *facts = ObserverFacts { totals: facts.totals, ..*known };
            }
            let judgement = judge(plan, &self.one, &facts);
            let at_us = (self.from + self.next * self.every) * SECOND_US;
            self.found.add(&judgement, self.one.comparison, at_us);
            self.next += 1;
        }
        self.found
    }

    /// Whole windows before a second.
    fn n_before(&self, second: u64) -> u64 {
        second.saturating_sub(self.from) / self.every
    }
}

impl Held {
    fn add(&mut self, judgement: &Judgement, comparison: Comparison, at_us: u64) {
        self.windows += 1;
        if judgement.result == ThresholdResult::Passed {
            self.held += 1;
        } else {
            self.broken_at_us.get_or_insert(at_us);
        }
        let is_worse = |value: f64| match self.worst {
            None => true,
            Some((worst, _)) => match comparison {
                Comparison::Less | Comparison::AtMost => value > worst,
                Comparison::Greater | Comparison::AtLeast => value < worst,
                Comparison::Equal | Comparison::NotEqual => {
                    judgement.result != ThresholdResult::Passed
                }
            },
        };
        if let Some(value) = judgement.value.filter(|value| is_worse(*value)) {
            self.worst = Some((value, at_us));
        }
    }

    /// The share of windows in which it held; `None`: there was no window.
    pub fn ratio(&self) -> Option<f64> {
        (self.windows > 0).then(|| self.held as f64 / self.windows as f64)
    }

    /// No window at all is no data, which fails.
    pub fn result(&self, held_ratio: f64) -> ThresholdResult {
        match self.ratio() {
            None => ThresholdResult::NoData,
            Some(ratio) if ratio >= held_ratio => ThresholdResult::Passed,
            Some(_) => ThresholdResult::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delta::Tally;
    use crate::ids::{SeriesId, StageId};
    use crate::plan::{Limit, Metric, Region, Statistic, Subject, Windows};
    use crate::schedule::tests::{plan, ramp_and_hold};
    use proptest::prelude::*;

    const SERIES: SeriesId = SeriesId(1);

    fn threshold(metric: Metric, comparison: Comparison, limit: Limit, seconds: u64) -> Threshold {
        Threshold {
            text: "test".into(),
            subject: Subject::Series(SERIES),
            metric,
            comparison,
            limit,
            stage: None,
            region: Region::All,
            windows: Some(Windows { seconds, held_ratio: 0.9 }),
            abort_after_us: None,
            is_default: false,
        }
    }

    fn cells(response_us: &[u64]) -> Cells {
        let mut tally = Tally { sent: response_us.len() as u64, ..Tally::default() };
        for us in response_us {
            tally.response_time.record(*us);
        }
        [((SERIES, StageId(0)), tally)].into()
    }

    fn held(threshold: &Threshold, windows: &[(u64, Vec<u64>)], ended_us: u64) -> Held {
        let plan = plan(&[10], 1_000_000, ramp_and_hold(10, 2_500_000, 60_000_000));
        let mut judge = Windowed::new(&plan, threshold).unwrap();
        for (window, values) in windows {
            judge.add(*window, &cells(values), &ArrivalCells::new());
        }
        judge.known(&plan, ended_us, &[])
    }

    fn p95(seconds: u64) -> Threshold {
        let metric = Metric::ResponseTime(Statistic::P95);
        threshold(metric, Comparison::Less, Limit::Micros(1_000.0), seconds)
    }

    #[test]
    fn it_must_hold_in_a_share_of_the_windows() {
        let mut windows: Vec<(u64, Vec<u64>)> = (0..10).map(|n| (n, vec![500])).collect();
        windows[7].1.push(2_000);
        let found = held(&p95(1), &windows, 10_000_000);
        assert_eq!((found.windows, found.held), (10, 9));
        assert_eq!(found.broken_at_us, Some(7_000_000));
        assert_eq!(found.worst, Some((2_000.0, 7_000_000)));
        assert_eq!(found.result(0.9), ThresholdResult::Passed);
        assert_eq!(found.result(0.91), ThresholdResult::Failed);
    }

    #[test]
    fn a_window_without_data_does_not_hold_and_a_part_of_one_does_not_count() {
        let found = held(&p95(1), &[(0, vec![500]), (3, vec![500])], 4_900_000);
        assert_eq!((found.windows, found.held, found.broken_at_us), (4, 2, Some(1_000_000)));
        let found = held(&p95(10), &[(0, vec![500])], 9_999_999);
        assert_eq!(found.result(0.5), ThresholdResult::NoData);
    }

    #[test]
    fn what_became_of_messages_is_judged_by_the_window_of_their_sending() {
        use crate::plan::Observed;
        let plan = plan(&[10], 1_000_000, ramp_and_hold(10, 2_500_000, 60_000_000));
        let lost = Metric::Observed(Observed::Lost);
        let at_most = threshold(lost, Comparison::AtMost, Limit::Ratio(0.05), 2);
        let of_out = Threshold { subject: Subject::Observer(ObserverId(0)), ..at_most };
        let mut windowed = Windowed::new(&plan, &of_out).unwrap();
        for (second, lost) in [(0, 0), (1, 1), (2, 0), (3, 2), (4, 0)] {
            let totals =
                Totals { sent: 10, acked: 10, unique: 10 - lost, lost, ..Totals::default() };
            windowed.add_totals(second, ObserverId(0), &totals);
        }
        let held = windowed.known(&plan, 8_000_000, &[]);
        // The third window has half of its messages, the fourth none: no data does not hold.
        assert_eq!((held.windows, held.held), (4, 2));
        assert_eq!(held.worst, Some((0.1, 2_000_000)));
    }

    #[test]
    fn the_windows_of_a_stage_lie_wholly_in_it() {
        let rate = threshold(Metric::Rate, Comparison::AtLeast, Limit::PerSecond(2.0), 2);
        let in_hold = Threshold { stage: Some(StageId(1)), ..rate };
        // The hold begins at 2.5 s, so the first window is 3..5 s.
        let windows: Vec<(u64, Vec<u64>)> =
            (0..8).map(|n| (n, if n < 5 { vec![1; 2] } else { vec![1] })).collect();
        let found = held(&in_hold, &windows, 8_000_000);
        assert_eq!((found.windows, found.held), (2, 1));
        assert_eq!((found.broken_at_us, found.worst), (Some(5_000_000), Some((1.0, 5_000_000))));
    }

    proptest! {
        /// Whoever judges while the load goes on, in whatever order seconds come from however many
        /// agents, finds at the end what one finds who has read everything.
        #[test]
        fn it_stands_the_same_in_whatever_order_its_seconds_come(
            mut told in proptest::collection::vec((0u64..40, 1u64..3_000), 0..120),
            seconds in 1u64..5, looks in proptest::collection::vec(0u64..40, 0..5),
        ) {
            let plan = plan(&[10], 1_000_000, ramp_and_hold(10, 2_500_000, 60_000_000));
            let whole: Vec<(u64, Vec<u64>)> = told.iter().map(|(at, us)| (*at, vec![*us])).collect();
            let at_once = held(&p95(seconds), &whole, 40_000_000);
            let mut live = Windowed::new(&plan, &p95(seconds)).unwrap();
            let mut looks = looks;
            looks.sort_unstable();
            for look in looks {
                // All before it has come, and of the rest some.
                let (come, later): (Vec<_>, Vec<_>) =
                    told.into_iter().partition(|(at, us)| *at < look || us % 2 == 0);
                told = later;
                for (at, us) in come {
                    live.add(at, &cells(&[us]), &ArrivalCells::new());
                }
                let standing = live.known(&plan, look * 1_000_000, &[]);
                prop_assert_eq!(standing.windows, look / seconds);
                prop_assert!(standing.held <= at_once.held);
            }
            for (at, us) in told {
                live.add(at, &cells(&[us]), &ArrivalCells::new());
            }
            prop_assert_eq!(live.known(&plan, 40_000_000, &[]), at_once);
        }

        #[test]
        fn each_window_is_judged_as_a_run_of_its_own(
            values in proptest::collection::vec(proptest::collection::vec(1u64..3_000, 0..6), 1..30),
            seconds in 1u64..5,
        ) {
            let windows: Vec<(u64, Vec<u64>)> =
                values.iter().cloned().enumerate().map(|(n, values)| (n as u64, values)).collect();
            let found = held(&p95(seconds), &windows, values.len() as u64 * 1_000_000);
            let chunks = values.chunks_exact(seconds as usize);
            prop_assert_eq!(found.windows, chunks.len() as u64);
            let holds = |chunk: &&[Vec<u64>]| {
                let tally = cells(&chunk.concat()).remove(&(SERIES, StageId(0))).unwrap();
                tally.response_time.quantile_us(0.95).is_some_and(|us| us < 1_000)
            };
            prop_assert_eq!(found.held, chunks.filter(holds).count() as u64);
        }
    }
}
