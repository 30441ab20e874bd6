//! What an observer has seen in the open window: arrivals by stage, receipts, gaps.
//!
//! The counterpart of the engine's recorder, with the same rule: what is recorded leaves in exactly
//! one delta, and a full receiver only costs resolution in time.

use std::sync::Arc;

use shoal_domain::delta::Delta;
use shoal_domain::fields::Reading;
use shoal_domain::ids::{ObserverId, SeriesId, StageId};
use shoal_domain::observed::{Arrivals, Positions, ReaderGap, SourceClocks, add_gap};
use shoal_domain::plan::Plan;
use shoal_domain::receipts::{Collected, Mark, Receipt, Run, Runs};
use shoal_domain::stamp::Stamp;

use super::finding::Finder;
use super::{Enqueued, Event, ObserverJob};

/// Numbers beyond so many times the plan's are no numbers of ours.
const ROOM_FOR_CHANCE: u64 = 4;
/// Runs of numbers in one delta, about six bytes each: what keeps a delta with positions, which is
/// never cut, within one message.
const MAX_RUNS: usize = 300_000;
/// A time this far from now is not that of a send.
const FAR_US: u64 = 7 * 24 * 3_600 * 1_000_000;

pub(super) struct Seen {
    plan: Arc<Plan>,
    observer: ObserverId,
    of: SeriesId,
    group: usize,
    mark: u32,
    n_devices: u64,
    max_n: u64,
    /// Control-plane time of the start.
    t0_unix_us: u64,
    window: u64,
    /// By stage.
    arrivals: Vec<Option<Box<Arrivals>>>,
    received: Collected,
    finder: Finder,
    receipts: Vec<Receipt>,
    gaps: Vec<ReaderGap>,
    positions: Positions,
    clocks: SourceClocks,
    /// Control-plane time of the newest event.
    newest_us: u64,
    waiting: Option<Delta>,
}

impl Seen {
    pub(super) fn new(job: &ObserverJob) -> Self {
        let plan = Arc::clone(&job.plan);
        let observer = &plan.observers[job.observer.index()];
        let group = plan.series[observer.of.index()].group;
        let period_ns = plan.observed(observer).map_or(1, |send| send.pace.period_ns).max(1);
        let planned = plan.end_us().saturating_mul(1_000) / period_ns;
        Self {
            observer: job.observer,
            of: observer.of,
            group,
            mark: u32::from_str_radix(&job.run.mark(), 16).unwrap_or_default(),
            n_devices: plan.groups[group].devices,
            max_n: planned.saturating_mul(ROOM_FOR_CHANCE) + 1_000,
            t0_unix_us: 0,
            window: 0,
            arrivals: plan.stages.iter().map(|_| None).collect(),
            received: Collected::default(),
            finder: Finder::new(job),
            receipts: Vec::new(),
            gaps: Vec::new(),
            positions: Positions::default(),
            clocks: SourceClocks::new(),
            newest_us: 0,
            waiting: None,
            plan,
        }
    }

    pub(super) fn begin(&mut self, t0_unix_us: u64) {
        self.t0_unix_us = t0_unix_us;
    }

    pub(super) fn window(&self) -> u64 {
        self.window
    }

    /// One event, read at `now_unix_us` of control-plane time.
    pub(super) fn event(&mut self, event: &Event<'_>, now_unix_us: u64) {
        self.newest_us = now_unix_us;
        let stamp = match self.finder.find(event) {
            Reading::Message(stamp) => stamp,
            Reading::Unparsed => {
                self.at(now_unix_us).unparsed += 1;
                return;
            }
            Reading::Foreign => {
                self.at(now_unix_us).foreign += 1;
                return;
            }
        };
        if self.is_late_probe(&stamp) {
            return;
        }
        let is_ours = self.is_of_the_run(&stamp) && u64::from(stamp.n) < self.max_n;
        if !is_ours {
            self.at(now_unix_us).foreign += 1;
            return;
        }
        if stamp.sent_us.abs_diff(now_unix_us) > FAR_US {
            // By a wrong unit, for one.
            self.at(now_unix_us).unparsed += 1;
            return;
        }
        self.received.push(Run::one(stamp.device, stamp.incarnation, stamp.n));
        let minus = |one: u64, other: u64| one.wrapping_sub(other) as i64;
        let arrivals = self.at(stamp.sent_us);
        arrivals.received += 1;
        // How long it lay there while nobody read is no delay of the platform's.
        match event.is_backlog {
            true => arrivals.backlog += 1,
            false => arrivals.end_to_end.record(minus(now_unix_us, stamp.sent_us)),
        }
        match event.enqueued {
            Enqueued::Never => {}
            Enqueued::Unstamped => arrivals.unstamped += 1,
            Enqueued::At { us, resolution_us, partition } => {
                arrivals.ingest.record(minus(us, stamp.sent_us));
                if event.is_backlog {
                    return;
                }
                arrivals.delivery.record(minus(now_unix_us, us));
                let clock = self.clocks.entry((self.observer, partition)).or_default();
                clock.narrow(stamp.sent_us, us, now_unix_us, resolution_us);
            }
        }
    }

    /// Whether this is the readiness probe: before the start nobody sends anything else.
    pub(super) fn is_probe(&mut self, event: &Event<'_>) -> bool {
        match self.finder.find(event) {
            Reading::Message(stamp) => self.is_of_the_run(&stamp) && stamp.device == 0,
            Reading::Unparsed | Reading::Foreign => false,
        }
    }

    /// The probe again, or read again: as old as one, with a number that no message can have. In a
    /// narrow field of `read` it is the largest that finds room.
    fn is_late_probe(&self, stamp: &Stamp) -> bool {
        self.is_of_the_run(stamp)
            && stamp.device == 0
            && u64::from(stamp.n) >= self.max_n
            && stamp.sent_us <= self.t0_unix_us
    }

    fn is_of_the_run(&self, stamp: &Stamp) -> bool {
        stamp.run == self.mark
            && stamp.series == self.of
            && u64::from(stamp.device) < self.n_devices
    }

    /// Events of which nothing can be read.
    pub(super) fn unreadable(&mut self, n: u64, now_unix_us: u64) {
        self.at(now_unix_us).unparsed += n;
    }

    /// What was handed over of this partition goes up to here.
    pub(super) fn through(&mut self, partition: u32, next: u64) {
        self.positions.raise(self.observer, partition, next);
    }

    /// Whether the open delta takes no more.
    pub(super) fn is_full(&self) -> bool {
        self.received.len() >= MAX_RUNS
    }

    pub(super) fn run_us(&self, unix_us: u64) -> u64 {
        unix_us.saturating_sub(self.t0_unix_us)
    }

    /// Run time of the newest event; the start where there was none.
    pub(super) fn newest_run_us(&self) -> u64 {
        self.run_us(self.newest_us)
    }

    /// The cell of the stage in which something happened at this control-plane time.
    fn at(&mut self, unix_us: u64) -> &mut Arrivals {
        let run_us = unix_us.saturating_sub(self.t0_unix_us);
        let stage = self.plan.stage_of(self.group, run_us);
        self.arrivals[stage.index()].get_or_insert_default()
    }

    /// From here to the next event something may have passed unseen.
    pub(super) fn blind(&mut self) {
        self.received.take(Mark::Received(self.observer), &mut self.receipts);
        let mark = Mark::Blind(self.observer);
        self.receipts.push(Receipt { mark, runs: Runs::default() });
    }

    pub(super) fn gap(&mut self, from_us: u64, to_us: u64, why: &str) {
        let why = why.to_owned();
        add_gap(&mut self.gaps, ReaderGap { observer: self.observer, from_us, to_us, why });
    }

    /// Closes the open window.
    pub(super) fn swap(&mut self, next_window: u64, clock_error_us: u64) -> Delta {
        self.received.take(Mark::Received(self.observer), &mut self.receipts);
        let mut delta = Delta {
            first_window: self.window,
            last_window: self.window,
            gaps: std::mem::take(&mut self.gaps),
            receipts: std::mem::take(&mut self.receipts),
            positions: std::mem::take(&mut self.positions),
            clocks: std::mem::take(&mut self.clocks),
            clock_error_us,
            ..Delta::default()
        };
        for (stage, arrivals) in self.arrivals.iter_mut().enumerate() {
            if let Some(arrivals) = arrivals.take() {
                delta.arrivals.insert((self.observer, StageId(stage as u32)), *arrivals);
            }
        }
        self.window = next_window;
        match self.waiting.take() {
            None => delta,
            Some(mut earlier) => {
                earlier.absorb(delta);
                earlier
            }
        }
    }

    /// There was no room for this delta: the next one takes it along.
    pub(super) fn keep(&mut self, delta: Delta) {
        self.waiting = Some(delta);
    }
}
