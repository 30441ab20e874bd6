//! What one core counts: tallies of the open window, failures, gauges, and how far slots are classed.
//!
//! One recorder per core, so recording takes no lock. At each window's end it becomes a [`Delta`]
//! and starts afresh; only the classed counts, from which `open` is computed, and the gauges go on.
//! Invariant: what is recorded leaves in exactly one delta. If the receiver is full, deltas are
//! coalesced and wait here: counts are conserved and nobody is blocked.

use std::collections::BTreeMap;

use shoal_domain::delta::{Delta, DeviceGauge, Failure, Health, Progress, Tally, add_failure};
use shoal_domain::ids::{SeriesId, StageId};
use shoal_domain::outcome::ErrorClass;
use shoal_domain::plan::Plan;
use shoal_domain::receipts::{Collected, Mark, Run};
use shoal_domain::requests::{Request, RequestKey, RequestLog, Sampling};

/// What becomes of a slot that is not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SlotClass {
    Missed,
    Away,
    NotConnected,
    Unsent,
    /// Due while its device was on its way to this agent; what is due while no agent holds it, none can
    /// count.
    Unassigned,
}

#[derive(Debug)]
pub(crate) struct Recorder {
    n_stages: usize,
    /// By series, then stage; `None` until something happens there in this window.
    cells: Vec<Option<Box<Tally>>>,
    /// Times of the open window that are not in their histograms yet.
    times: Vec<(u32, Time, u64)>,
    /// By series, then stage: slots classed since the run began.
    classed: Vec<u64>,
    failures: Vec<Failure>,
    gauges: Vec<DeviceGauge>,
    window: u64,
    /// By series; `None` where no observer looks.
    ledgers: Vec<Option<Box<Ledger>>>,
    /// `None`: no request is logged.
    requests: Option<Box<Requests>>,
    /// Deltas that the receiver had no room for.
    waiting: Option<Delta>,
}

#[derive(Debug, Clone, Copy)]
enum Time {
    Response,
    Service,
    SendLag,
}

/// How many are counted at once. Between two messages the kernel has had the processor's caches; what
/// many times have in common, a histogram above all, is fetched once for all of them.
const TIMES: usize = 1_024;

/// The share of the run's requests that is logged, and those of the open window.
#[derive(Debug)]
struct Requests {
    sampling: Sampling,
    seed: u64,
    log: RequestLog,
}

/// The numbers of an observed series, as they happen.
#[derive(Debug, Default)]
struct Ledger {
    sent: Collected,
    acked: Collected,
    resent: Collected,
}

/// What happened to a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Passage {
    Sent,
    Acked,
    /// Handed to a socket once more.
    Resent,
}

/// A failed operation, for the list that people read.
pub(crate) struct FailedOperation<'a> {
    pub(crate) series: SeriesId,
    pub(crate) class: ErrorClass,
    pub(crate) text: &'a str,
    pub(crate) device: &'a str,
    pub(crate) at_us: u64,
}

impl Recorder {
    pub(crate) fn new(plan: &Plan, sampling: Option<Sampling>, seed: u64) -> Self {
        let n_stages = plan.stages.len();
        let n_cells = plan.series.len() * n_stages;
        let gauge = |group: usize| DeviceGauge { group: group as u32, ..Default::default() };
        let ledger =
            |series: usize| plan.is_observed(SeriesId(series as u32)).then(Box::<Ledger>::default);
        Self {
            n_stages,
            cells: (0..n_cells).map(|_| None).collect(),
            times: Vec::with_capacity(TIMES),
            classed: vec![0; n_cells],
            failures: Vec::new(),
            gauges: (0..plan.groups.len()).map(gauge).collect(),
            ledgers: (0..plan.series.len()).map(ledger).collect(),
            window: 0,
            requests: sampling
                .map(|sampling| Box::new(Requests { sampling, seed, log: RequestLog::default() })),
            waiting: None,
        }
    }

    /// The first window; nothing is recorded before.
    pub(crate) fn begin(&mut self, window: u64) {
        self.window = window;
    }

    pub(crate) fn window(&self) -> u64 {
        self.window
    }

    pub(crate) fn gauge(&mut self, group: usize) -> &mut DeviceGauge {
        &mut self.gauges[group]
    }

    fn cell(&self, series: SeriesId, stage: StageId) -> usize {
        series.index() * self.n_stages + stage.index()
    }

    /// For all but times.
    pub(crate) fn tally(&mut self, series: SeriesId, stage: StageId) -> &mut Tally {
        let cell = self.cell(series, stage);
        self.cells[cell].get_or_insert_default()
    }

    /// A slot was handed to the socket. The lag of a held one is the target's doing and must not
    /// convict the generator, so it is not recorded.
    pub(crate) fn sent(&mut self, series: SeriesId, stage: StageId, lag_us: u64, held: bool) {
        let cell = self.cell(series, stage);
        self.classed[cell] += 1;
        let tally = self.tally(series, stage);
        tally.sent += 1;
        if held {
            tally.held += 1;
        } else {
            self.time(series, stage, Time::SendLag, lag_us);
        }
    }

    /// How long an attempt took that was to be made at `intended_us`, unless it was to be made as
    /// soon as it could be.
    pub(crate) fn took(
        &mut self,
        series: SeriesId,
        stage: StageId,
        intended_us: Option<u64>,
        began_us: u64,
        ended_us: u64,
    ) {
        self.time(series, stage, Time::Service, ended_us.saturating_sub(began_us));
        if let Some(intended_us) = intended_us {
            self.time(series, stage, Time::Response, ended_us.saturating_sub(intended_us));
        }
    }

    fn time(&mut self, series: SeriesId, stage: StageId, time: Time, us: u64) {
        self.times.push((self.cell(series, stage) as u32, time, us));
        if self.times.len() == TIMES {
            self.count_times();
        }
    }

    fn count_times(&mut self) {
        for (cell, time, us) in self.times.drain(..) {
            let tally = self.cells[cell as usize].get_or_insert_default();
            match time {
                Time::Response => tally.response_time.record(us),
                Time::Service => tally.service_time.record(us),
                Time::SendLag => tally.send_lag.record(us),
            }
        }
    }

    pub(crate) fn class(&mut self, series: SeriesId, stage: StageId, class: SlotClass) {
        let cell = self.cell(series, stage);
        self.classed[cell] += 1;
        let tally = self.tally(series, stage);
        match class {
            SlotClass::Missed => tally.missed += 1,
            SlotClass::Away => tally.away += 1,
            SlotClass::NotConnected => tally.not_connected += 1,
            SlotClass::Unsent => tally.unsent += 1,
            SlotClass::Unassigned => tally.unassigned += 1,
        }
    }

    /// For the trackers, if anybody observes this series.
    pub(crate) fn number(&mut self, series: SeriesId, step: Passage, run: Run) {
        let Some(ledger) = &mut self.ledgers[series.index()] else { return };
        match step {
            Passage::Sent => ledger.sent.push(run),
            Passage::Acked => ledger.acked.push(run),
            Passage::Resent => ledger.resent.push(run),
        }
    }

    /// An attempt that was counted as sent has ended: logs it, if it is one of the sample.
    pub(crate) fn ended(&mut self, device: u64, incarnation: u32, number: u64, end: &Request<'_>) {
        let Some(requests) = &mut self.requests else { return };
        let key = RequestKey { series: end.series, device, incarnation, number };
        if requests.sampling.takes(requests.seed, key) {
            requests.log.push(end);
        }
    }

    /// Counts the error and lists it.
    pub(crate) fn failed(&mut self, stage: StageId, failed: &FailedOperation<'_>) {
        self.tally(failed.series, stage).error(failed.class);
        let failure = Failure {
            series: failed.series,
            class: failed.class,
            text: failed.text.to_owned(),
            count: 1,
            first_us: failed.at_us,
            last_us: failed.at_us,
            devices: vec![failed.device.to_owned()],
        };
        add_failure(&mut self.failures, failure);
    }

    /// Closes the open window and opens `next_window`. `due` holds, by series and stage, the slots
    /// that were due before `through_us`.
    pub(crate) fn swap(
        &mut self,
        next_window: u64,
        through_us: u64,
        due: &[u64],
        health: Health,
    ) -> Delta {
        self.count_times();
        let mut delta = Delta {
            first_window: self.window,
            last_window: self.window,
            devices: self.gauges.clone(),
            health,
            failures: std::mem::take(&mut self.failures),
            progress: self.progress(through_us, due),
            requests: self
                .requests
                .as_mut()
                .map(|all| std::mem::take(&mut all.log))
                .unwrap_or_default(),
            ..Default::default()
        };
        for (cell, tally) in self.cells.iter_mut().enumerate() {
            if let Some(tally) = tally.take() {
                let series = SeriesId((cell / self.n_stages) as u32);
                let stage = StageId((cell % self.n_stages) as u32);
                delta.cells.insert((series, stage), *tally);
            }
        }
        for (series, ledger) in self.ledgers.iter_mut().enumerate() {
            if let Some(ledger) = ledger {
                let series = SeriesId(series as u32);
                ledger.sent.take(Mark::Sent(series), &mut delta.receipts);
                ledger.acked.take(Mark::Acked(series), &mut delta.receipts);
                ledger.resent.take(Mark::Resent(series), &mut delta.receipts);
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
    pub(crate) fn keep(&mut self, delta: Delta) {
        self.waiting = Some(delta);
    }

    fn progress(&self, through_us: u64, due: &[u64]) -> Vec<Progress> {
        let by_series = self.classed.chunks(self.n_stages).zip(due.chunks(self.n_stages));
        let progress = |(series, (classed, due)): (usize, (&[u64], &[u64]))| {
            let open = classed.iter().zip(due).enumerate().filter_map(|(stage, (classed, due))| {
                let open = due.saturating_sub(*classed);
                (open > 0).then_some((StageId(stage as u32), open))
            });
            Progress {
                series: SeriesId(series as u32),
                through_us,
                open: open.collect::<BTreeMap<_, _>>(),
            }
        };
        by_series.enumerate().map(progress).collect()
    }
}

#[cfg(test)]
mod tests {
    use shoal_domain::files::Files;

    use super::*;

    #[test]
    fn every_time_of_a_window_leaves_with_it_however_many_there_are() {
        let text = "version: 1\nname: n\ntargets:\n  t: { mqtt: { url: builtin } }\ngroups:\n  g:\n    \
                    target: t\n    devices: 1\n    send:\n      s:\n        publish: { topic: t, text: x }\n        \
                    every: 1s\nload:\n  - hold: { for: 1s }\n";
        let plan = shoal_domain::check::parse_plan(text, &[], &Files::none());
        let plan = plan.unwrap_or_else(|e| panic!("{e:?}"));
        let series = plan.groups[0].sends()[0].series;
        let (stage, due) = (StageId(0), vec![0; plan.series.len() * plan.stages.len()]);
        let mut recorder = Recorder::new(&plan, None, 1);
        for window in 0..2 {
            let n = 2_500 + window;
            for i in 1..=n {
                recorder.sent(series, stage, i, false);
                recorder.took(series, stage, Some(1_000), 1_000 + i, 1_000 + 3 * i);
            }
            let delta = recorder.swap(window + 1, 0, &due, Health::default());
            let tally = &delta.cells[&(series, stage)];
            let all = n * (n + 1) / 2;
            let times = [&tally.send_lag, &tally.service_time, &tally.response_time];
            assert_eq!(times.map(|times| times.count()), [n; 3]);
            assert_eq!(times.map(|times| times.sum_us()), [all, 2 * all, 3 * all]);
        }
    }
}
