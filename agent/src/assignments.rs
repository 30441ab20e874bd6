//! What this agent holds: desired state in, observed state out.
//!
//! One task reconciles. It never waits for anything but its next event: preparing and following a
//! running shard happen in tasks of their own, which report back over one bounded channel. What the
//! control plane does not list any more is dropped, an end only ever moves earlier. One agent may hold
//! several epochs of an assignment side by side: what it has from the start, and what it took over.
//! Invariant: an epoch is started at most once, and only under a lease that holds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use shoal_domain::ids::RunId;
use shoal_domain::shard::Shard;
use shoal_proto::{assignment, v1};
use shoal_service_kit::{Clock, Lifecycle, traces};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::engine::{Control, Releases};
use crate::leases::Leases;
use crate::meter::Counts;
use crate::runner::{self, Ended};
use crate::session::{Desired, hard_end_us, key_of};
use crate::uplink::Uplink;
use crate::uplink::queue::Key;

use self::load::{Loaded, Loader, Ready, Refusal};
use self::probing::Probing;

mod files;
pub(crate) mod load;
mod probing;

/// Reports of preparing and following tasks; each has at most one open, so this is never full.
const REPORTS: usize = 64;
/// How long an agent that is asked to go waits for a schedule by which it hands over.
const HANDOVER_WAIT: Duration = Duration::from_secs(5);
/// How long a handover may take beyond that: below the limit of a soft stop.
const HANDOVER_LIMIT: Duration = Duration::from_secs(40);
/// From the last device that is let go to the end: its acks and its goodbye.
const PARTING_US: u64 = 400_000;
/// Keys of ended epochs that are remembered; each is from one run that this process took part in.
const ENDED: usize = 4_096;
/// Load ends this long after SIGTERM, so that all cores close their gates at the same run time.
const STOP_LEAD_US: u64 = 500_000;

pub(crate) struct Assignments {
    pub(crate) loader: Arc<dyn Loader>,
    pub(crate) leases: Leases,
    pub(crate) uplink: Uplink,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) counts: Arc<Counts>,
    pub(crate) lifecycle: Lifecycle,
    pub(crate) desired: watch::Receiver<Desired>,
    pub(crate) offset: watch::Receiver<Option<i64>>,
    pub(crate) observed: watch::Sender<Vec<v1::Observed>>,
}

/// One assignment under one epoch.
struct Held {
    key: Key,
    /// The newest schedule of releases that was taken.
    handover: u32,
    /// The newest one that came too late to be taken.
    handover_late: u32,
    wanted: v1::Assignment,
    control: Arc<Control>,
    state: State,
    /// Not listed any more: forgotten as soon as its cores have closed.
    is_leaving: bool,
    probing: Probing,
}

enum State {
    /// Dropping the token's guard stops it.
    Preparing {
        _stop: tokio_util::sync::DropGuard,
    },
    Prepared {
        plan_hash: [u8; 32],
        ready: Box<dyn Ready>,
    },
    Refused(Refusal),
    Running {
        t0_boot_us: u64,
    },
    Closed {
        closed_at_us: u64,
        is_fenced: bool,
    },
}

enum Report {
    Prepared { key: Key, result: Loaded },
    Probed { key: Key, said: Result<Vec<v1::Probed>, Refusal> },
    Ended(Ended),
}

struct Reconciler {
    shared: Assignments,
    held: BTreeMap<Key, Held>,
    /// Epochs that were held here and are not any more; they never come back.
    ended: BTreeSet<Key>,
    reports: mpsc::Sender<Report>,
    is_stopping: bool,
    /// While it is stopping: what still runs then, and has no end of its own, ends.
    deadline: Option<Instant>,
    /// The first deadline has passed.
    is_handed_over: bool,
}

impl Assignments {
    /// Until the soft stop, and then until everything that ran has closed.
    pub(crate) async fn run(self) {
        let (reports, mut inbox) = mpsc::channel(REPORTS);
        let soft = self.lifecycle.soft();
        let (mut desired, mut offset) = (self.desired.clone(), self.offset.clone());
        let mut this = Reconciler {
            shared: self,
            held: BTreeMap::new(),
            ended: BTreeSet::new(),
            reports,
            is_stopping: false,
            deadline: None,
            is_handed_over: false,
        };
        loop {
            let deadline = this.deadline.unwrap_or_else(Instant::now);
            tokio::select! {
                () = soft.cancelled(), if !this.is_stopping => this.stop(),
                Some(report) = inbox.recv() => this.report(report),
                Ok(()) = desired.changed() => {
                    let now = desired.borrow_and_update().clone();
                    this.desire(now);
                }
                Ok(()) = offset.changed() => {}
                () = tokio::time::sleep_until(deadline), if this.deadline.is_some() => this.end_rest(),
            }
            this.probe();
            this.start_armed();
            this.tell();
            if this.is_stopping && !this.is_running() {
                return;
            }
        }
    }
}

impl Reconciler {
    fn desire(&mut self, desired: Desired) {
        if !desired.is_known {
            return;
        }
        let keys: BTreeSet<Key> = desired.assignments.iter().map(key_of).collect();
        for held in self.held.values_mut().filter(|held| !keys.contains(&held.key)) {
            held.control.abort();
            held.is_leaving = true;
        }
        self.forget(|held| held.is_leaving && !held.is_running());
        for wanted in desired.assignments {
            match self.held.get_mut(&key_of(&wanted)) {
                Some(held) => {
                    // Listed again after it was dropped: it stays closed, a new epoch is needed.
                    held.is_leaving = false;
                    held.update(wanted);
                }
                None => self.adopt(wanted),
            }
        }
    }

    fn forget(&mut self, is_over: impl Fn(&Held) -> bool) {
        for (key, _) in self.held.extract_if(.., |_, held| is_over(held)) {
            if self.ended.len() == ENDED {
                self.ended.pop_first();
            }
            self.ended.insert(key);
        }
    }

    fn adopt(&mut self, wanted: v1::Assignment) {
        let key = key_of(&wanted);
        if self.is_stopping || self.ended.contains(&key) {
            return;
        }
        // No lease: a newer desired state without it is on its way.
        let Some(control) = self.shared.leases.control(&key) else { return };
        tracing::info!(
            assignment = key.assignment,
            epoch = key.epoch,
            run = wanted.run_id,
            "preparing"
        );
        let stop = CancellationToken::new();
        self.prepare(key.clone(), wanted.clone(), stop.clone());
        let state = State::Preparing { _stop: stop.drop_guard() };
        let mut held = Held {
            key: key.clone(),
            handover: 0,
            handover_late: 0,
            wanted: wanted.clone(),
            control,
            state,
            is_leaving: false,
            probing: Probing::Not,
        };
        held.update(wanted);
        self.held.insert(key, held);
    }

    fn prepare(&self, key: Key, wanted: v1::Assignment, stop: CancellationToken) {
        let (loader, reports) = (Arc::clone(&self.shared.loader), self.reports.clone());
        let span =
            tracing::info_span!("prepare shard", run = key.run(), assignment = key.assignment);
        let span = of_run(span, &wanted.run_id);
        let prepare = async move {
            tokio::select! {
                () = stop.cancelled() => {}
                result = loader.prepare(wanted) => {
                    // Refused only when the reconciler is gone, and nobody asks any more.
                    let _ = reports.send(Report::Prepared { key, result }).await;
                }
            }
        };
        self.shared.lifecycle.spawn("prepare", prepare.instrument(span));
    }

    fn report(&mut self, report: Report) {
        match report {
            Report::Prepared { key, result } => {
                let Some(held) = self.held_under(&key) else { return };
                if !matches!(held.state, State::Preparing { .. }) {
                    return;
                }
                held.state = match result {
                    Ok((plan_hash, ready)) => State::Prepared { plan_hash, ready },
                    Err(refusal) => refused(&key, refusal),
                };
            }
            Report::Probed { key, said } => self.probed(&key, said),
            Report::Ended(Ended { key, closed_at_us, errors }) => {
                for error in errors {
                    let run = key.run();
                    tracing::error!(run, assignment = key.assignment, error, "a core failed");
                }
                let Some(held) = self.held_under(&key) else { return };
                let is_fenced = held.control.fenced();
                let run = key.run();
                tracing::info!(run, assignment = key.assignment, closed_at_us, is_fenced, "closed");
                held.state = State::Closed { closed_at_us, is_fenced };
                self.forget(|held| held.key == key && held.is_leaving);
            }
        }
    }

    fn held_under(&mut self, key: &Key) -> Option<&mut Held> {
        self.held.get_mut(key)
    }

    /// Starts what is prepared and armed, as soon as the offset of the clocks is known.
    fn start_armed(&mut self) {
        let Some(offset_us) = *self.shared.offset.borrow() else { return };
        let now_us = self.shared.clock.boot_us();
        for held in self.held.values_mut() {
            let is_due = held.wanted.t0_us > 0 && !held.wanted.abort;
            if !is_due || self.is_stopping || !matches!(held.state, State::Prepared { .. }) {
                continue;
            }
            if !self.shared.leases.holds_at(&held.key, now_us) {
                held.state = State::Closed { closed_at_us: 0, is_fenced: true };
                continue;
            }
            let t0_boot_us = i128::from(held.wanted.t0_us) - i128::from(offset_us);
            let Ok(t0_boot_us) = u64::try_from(t0_boot_us) else {
                held.state = State::Refused(Refusal {
                    code: "SH0209",
                    why: format!(
                        "its start lies before this machine's: t0 {} µs",
                        held.wanted.t0_us
                    ),
                });
                continue;
            };
            held.control.fix_clock(offset_us);
            let running = State::Running { t0_boot_us };
            let State::Prepared { ready, .. } = std::mem::replace(&mut held.state, running) else {
                continue;
            };
            tracing::info!(
                run = held.key.run(),
                assignment = held.key.assignment,
                in_us = t0_boot_us.saturating_sub(now_us),
                "armed"
            );
            held.control.begin_at(held.wanted.from_us);
            let (sender, receiver) = mpsc::channel(runner::REPORTS);
            let n_cores = ready.n_cores();
            let gate = Arc::clone(&held.control);
            let (key, uplink) = (held.key.clone(), self.shared.uplink.clone());
            let (reports, counts) = (self.reports.clone(), Arc::clone(&self.shared.counts));
            let span =
                tracing::info_span!("run shard", run = key.run(), assignment = key.assignment);
            let span = of_run(span, &held.wanted.run_id);
            // What its threads say is about this shard.
            let running =
                span.in_scope(|| ready.start(t0_boot_us, Arc::clone(&held.control), sender));
            let run = async move {
                let ended = runner::follow(key, n_cores, receiver, (uplink, &counts), &gate).await;
                // The cores have closed; their threads end now. Blocking, so not on this runtime.
                let _ = tokio::task::spawn_blocking(running).await;
                let _ = reports.send(Report::Ended(ended)).await;
            };
            self.shared.lifecycle.spawn("runner", run.instrument(span));
        }
    }

    /// SIGTERM: nothing new is taken, and the control plane, which hears it from the session, may
    /// move the devices to others. Without a word from it the load ends early and in order.
    fn stop(&mut self) {
        self.is_stopping = true;
        let now_us = self.shared.clock.boot_us();
        for held in self.held.values() {
            if let State::Running { t0_boot_us } = held.state
                && now_us < t0_boot_us + held.wanted.from_us
            {
                // Before the start there is nothing to end in order.
                held.control.abort();
            }
        }
        self.held
            .retain(|_, held| matches!(held.state, State::Running { .. } | State::Closed { .. }));
        self.deadline = Some(Instant::now() + HANDOVER_WAIT);
    }

    /// Ends what nobody takes over; what is being handed over has until the last limit.
    fn end_rest(&mut self) {
        let now_us = self.shared.clock.boot_us();
        let is_last = self.is_handed_over;
        for held in self.held.values() {
            if let State::Running { t0_boot_us } = held.state
                && (is_last || held.handover == 0)
            {
                held.control.end_at(now_us.saturating_sub(t0_boot_us) + STOP_LEAD_US);
            }
        }
        self.is_handed_over = true;
        self.deadline = (!is_last).then(|| Instant::now() + HANDOVER_LIMIT);
    }

    fn is_running(&self) -> bool {
        self.held.values().any(Held::is_running)
    }

    fn tell(&self) {
        let now: Vec<v1::Observed> = self.held.values().map(Held::observed).collect();
        self.shared.observed.send_if_modified(|known| {
            let is_new = *known != now;
            *known = now;
            is_new
        });
    }
}

impl Held {
    fn is_running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }

    /// What may change under one epoch: the start once, the end only earlier, the abort.
    fn update(&mut self, wanted: v1::Assignment) {
        self.control.end_at(hard_end_us(&wanted));
        let revisions = assignment::revisions_from_wire(&wanted.revisions);
        self.control.revise(&revisions, wanted.spawn_rate);
        if wanted.abort {
            self.control.abort();
            if !self.is_running() && !matches!(self.state, State::Closed { .. } | State::Refused(_))
            {
                self.state = State::Closed { closed_at_us: 0, is_fenced: false };
            }
        }
        if wanted.handover > self.handover.max(self.handover_late) && self.is_running() {
            self.let_go(&wanted);
        }
        self.wanted = wanted;
    }

    /// Takes the schedule by which devices leave. One that comes too late or makes no sense is not
    /// taken, and the number that is told stays what it was.
    fn let_go(&mut self, wanted: &v1::Assignment) {
        let blocks = wanted.blocks.iter().map(assignment::block_from_wire);
        let releases = Releases::of(&Shard { blocks: blocks.collect() });
        let last_us = releases.last_us();
        if self.control.release(releases, wanted.handover) {
            self.handover = wanted.handover;
            if wanted.blocks.iter().all(|block| block.until_us > 0) {
                // Nobody stays: it ends with the last one that leaves.
                self.control.end_at(last_us + PARTING_US);
            }
            tracing::info!(
                run = self.key.run(),
                assignment = self.key.assignment,
                epoch = self.key.epoch,
                handover = self.handover,
                "devices are handed over"
            );
        } else {
            self.handover_late = wanted.handover;
        }
    }

    fn observed(&self) -> v1::Observed {
        use v1::AssignmentPhase as Phase;
        let mut observed = v1::Observed {
            assignment_id: self.key.assignment.clone(),
            epoch: self.key.epoch,
            handover: self.handover,
            handover_late: self.handover_late,
            ..v1::Observed::default()
        };
        let phase = match &self.state {
            State::Preparing { .. } => Phase::Preparing,
            State::Prepared { plan_hash, ready } => {
                observed.plan_hash = plan_hash.to_vec();
                observed.positions = ready.positions();
                observed.probed = self.probing.said();
                Phase::Prepared
            }
            State::Refused(Refusal { code, why }) => {
                observed.error_code = (*code).to_owned();
                observed.error.clone_from(why);
                Phase::Refused
            }
            State::Running { .. } => Phase::Running,
            State::Closed { closed_at_us, is_fenced } => {
                observed.closed_at_us = *closed_at_us;
                if *is_fenced { Phase::Fenced } else { Phase::Closed }
            }
        };
        observed.phase = phase.into();
        observed
    }
}

fn refused(key: &Key, refusal: Refusal) -> State {
    let Refusal { code, why } = &refusal;
    tracing::warn!(run = key.run(), assignment = key.assignment, code, why, "refused");
    State::Refused(refusal)
}

/// A span of the run's trace; one of its own where the id is none.
fn of_run(span: tracing::Span, run: &str) -> tracing::Span {
    match run.parse::<RunId>() {
        Ok(run) => traces::in_trace(span, run.number()),
        Err(_) => span,
    }
}

#[cfg(test)]
mod tests;
