//! What this agent holds: desired state in, observed state out.
//!
//! One task reconciles. It never waits for anything but its next event: preparing and following a
//! running shard happen in tasks of their own, which report back over one bounded channel. What the
//! control plane does not list any more is dropped, older epochs are ignored, an end only ever moves
//! earlier. Invariant: an assignment is started at most once per epoch, and only under a lease that
//! holds.

use std::collections::BTreeMap;
use std::sync::Arc;

use shoal_proto::v1;
use shoal_service_kit::{Clock, Lifecycle};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::engine::Control;
use crate::leases::Leases;
use crate::runner::{self, Ended};
use crate::session::{Desired, hard_end_us, key_of};
use crate::uplink::Uplink;
use crate::uplink::queue::Key;

use self::load::{Loaded, Loader, Ready, Refusal};

mod files;
pub(crate) mod load;

/// Reports of preparing and following tasks; each has at most one open, so this is never full.
const REPORTS: usize = 64;
/// Load ends this long after SIGTERM, so that all cores close their gates at the same run time.
const STOP_LEAD_US: u64 = 500_000;

pub(crate) struct Assignments {
    pub(crate) loader: Arc<dyn Loader>,
    pub(crate) leases: Leases,
    pub(crate) uplink: Uplink,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) lifecycle: Lifecycle,
    pub(crate) desired: watch::Receiver<Desired>,
    pub(crate) offset: watch::Receiver<Option<i64>>,
    pub(crate) observed: watch::Sender<Vec<v1::Observed>>,
}

/// One assignment under its newest epoch.
struct Held {
    key: Key,
    wanted: v1::Assignment,
    control: Arc<Control>,
    state: State,
    /// Not listed any more: forgotten as soon as its cores have closed.
    is_leaving: bool,
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
    Ended(Ended),
}

struct Reconciler {
    shared: Assignments,
    held: BTreeMap<String, Held>,
    reports: mpsc::Sender<Report>,
    is_stopping: bool,
}

impl Assignments {
    /// Until the soft stop, and then until everything that ran has closed.
    pub(crate) async fn run(self) {
        let (reports, mut inbox) = mpsc::channel(REPORTS);
        let soft = self.lifecycle.soft();
        let (mut desired, mut offset) = (self.desired.clone(), self.offset.clone());
        let mut this =
            Reconciler { shared: self, held: BTreeMap::new(), reports, is_stopping: false };
        loop {
            tokio::select! {
                () = soft.cancelled(), if !this.is_stopping => this.stop(),
                Some(report) = inbox.recv() => this.report(report),
                Ok(()) = desired.changed() => {
                    let now = desired.borrow_and_update().clone();
                    this.desire(now);
                }
                Ok(()) = offset.changed() => {}
            }
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
        let ids: Vec<&String> = desired.assignments.iter().map(|a| &a.assignment_id).collect();
        for (_, held) in self.held.iter_mut().filter(|(id, _)| !ids.contains(id)) {
            held.control.abort();
            held.is_leaving = true;
        }
        self.held.retain(|_, held| !held.is_leaving || held.is_running());
        for wanted in desired.assignments {
            self.want(wanted);
        }
    }

    fn want(&mut self, wanted: v1::Assignment) {
        match self.held.get_mut(&wanted.assignment_id) {
            Some(held) if held.key.epoch > wanted.epoch => {}
            Some(held) if held.key.epoch == wanted.epoch => {
                // Listed again after it was dropped: it stays closed, a new epoch is needed.
                held.is_leaving = false;
                held.update(wanted);
            }
            Some(held) => {
                // Its runner goes on alone and delivers what the old epoch did.
                held.control.abort();
                self.adopt(wanted);
            }
            None => self.adopt(wanted),
        }
    }

    fn adopt(&mut self, wanted: v1::Assignment) {
        if self.is_stopping {
            return;
        }
        let key = key_of(&wanted);
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
        let id = wanted.assignment_id.clone();
        let mut held = Held { key, wanted: wanted.clone(), control, state, is_leaving: false };
        held.update(wanted);
        self.held.insert(id, held);
    }

    fn prepare(&self, key: Key, wanted: v1::Assignment, stop: CancellationToken) {
        let (loader, reports) = (Arc::clone(&self.shared.loader), self.reports.clone());
        self.shared.lifecycle.spawn("prepare", async move {
            tokio::select! {
                () = stop.cancelled() => {}
                result = loader.prepare(wanted) => {
                    // Refused only when the reconciler is gone, and nobody asks any more.
                    let _ = reports.send(Report::Prepared { key, result }).await;
                }
            }
        });
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
                    Err(refusal) => {
                        let Refusal { code, why } = &refusal;
                        tracing::warn!(assignment = key.assignment, code, why, "refused");
                        State::Refused(refusal)
                    }
                };
            }
            Report::Ended(Ended { key, closed_at_us, errors }) => {
                for error in errors {
                    tracing::error!(assignment = key.assignment, error, "a core failed");
                }
                let Some(held) = self.held_under(&key) else { return };
                let is_fenced = held.control.fenced();
                tracing::info!(assignment = key.assignment, closed_at_us, is_fenced, "closed");
                held.state = State::Closed { closed_at_us, is_fenced };
                if held.is_leaving {
                    self.held.remove(&key.assignment);
                }
            }
        }
    }

    fn held_under(&mut self, key: &Key) -> Option<&mut Held> {
        self.held.get_mut(&key.assignment).filter(|held| held.key == *key)
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
            let running = State::Running { t0_boot_us };
            let State::Prepared { ready, .. } = std::mem::replace(&mut held.state, running) else {
                continue;
            };
            tracing::info!(
                assignment = held.key.assignment,
                in_us = t0_boot_us.saturating_sub(now_us),
                "armed"
            );
            let (sender, receiver) = mpsc::channel(runner::REPORTS);
            let n_cores = ready.n_cores();
            let running = ready.start(t0_boot_us, Arc::clone(&held.control), sender);
            let gate = Arc::clone(&held.control);
            let (key, uplink) = (held.key.clone(), self.shared.uplink.clone());
            let reports = self.reports.clone();
            self.shared.lifecycle.spawn("runner", async move {
                let gate = || gate.gate_closed_at_us();
                let ended = runner::follow(key, n_cores, receiver, uplink, gate).await;
                // The cores have closed; their threads end now. Blocking, so not on this runtime.
                let _ = tokio::task::spawn_blocking(running).await;
                let _ = reports.send(Report::Ended(ended)).await;
            });
        }
    }

    /// SIGTERM is an early end: gates close, reports go out, nothing new is taken.
    fn stop(&mut self) {
        self.is_stopping = true;
        let now_us = self.shared.clock.boot_us();
        for held in self.held.values() {
            if let State::Running { t0_boot_us } = held.state {
                // Before the start there is nothing to end in order.
                let run_us = now_us.saturating_sub(t0_boot_us);
                held.control.end_at(run_us + STOP_LEAD_US);
                if now_us < t0_boot_us {
                    held.control.abort();
                }
            }
        }
        self.held
            .retain(|_, held| matches!(held.state, State::Running { .. } | State::Closed { .. }));
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
        if wanted.abort {
            self.control.abort();
            if !self.is_running() && !matches!(self.state, State::Closed { .. } | State::Refused(_))
            {
                self.state = State::Closed { closed_at_us: 0, is_fenced: false };
            }
        }
        self.wanted = wanted;
    }

    fn observed(&self) -> v1::Observed {
        use v1::AssignmentPhase as Phase;
        let mut observed = v1::Observed {
            assignment_id: self.key.assignment.clone(),
            epoch: self.key.epoch,
            ..v1::Observed::default()
        };
        let phase = match &self.state {
            State::Preparing { .. } => Phase::Preparing,
            State::Prepared { plan_hash, .. } => {
                observed.plan_hash = plan_hash.to_vec();
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

#[cfg(test)]
mod tests;
