//! The life of a run: one state machine, three axes (phase, validity, verdict).
//!
//! ```text
//! PENDING ─assigned→ PREPARING ─all prepared→ ARMED ─t0→ RUNNING ─end/stop→ STOPPING ─all closed→ COLLECTING ─complete→ FINISHED
//!    │                   │                      │           │                                        ├─ aborted →  ABORTED
//!    └── stop, too few ──┴──── refused, late ───┘           └─ all leases lapsed ──→ COLLECTING ─────┴─ lapsed ──→ INTERRUPTED
//!                        → FAILED_TO_START (nobody sent)
//! ```
//!
//! [`apply`] is the only way a run moves. It is pure: `now` is an argument, effects are returned.
//! Every waiting phase has a deadline in its state, so no run waits for ever, and a restarted
//! control plane continues from the stored state alone. PREPARING has two steps: agents get ready, then
//! the readiness probes go through the platform (`run/probing.rs`).

mod probing;
mod words;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

pub use self::probing::{Awaited, PROBE_LIMIT_US, Probe, Sent};
pub use self::words::{Cause, Phase, Validity, Verdict};
use crate::ids::{AgentId, GrantId, ObserverId};

/// Where a run is, with exactly the facts that are true there. Times: control-plane time in
/// microseconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE", tag = "state")]
pub enum RunState {
    /// Waits for agents.
    Pending {
        deadline_us: u64,
    },
    /// Agents resolve, probe and check resources; nobody sends.
    Preparing {
        agents: BTreeSet<GrantId>,
        prepared: BTreeSet<GrantId>,
        deadline_us: u64,
    },
    /// All are prepared; one message per observed series is on its way through the platform. Still
    /// [`Phase::Preparing`].
    Probing {
        agents: BTreeSet<GrantId>,
        awaited: Vec<Awaited>,
        /// By then all are sent.
        deadline_us: u64,
    },
    /// All know the common start `t0`.
    Armed {
        agents: BTreeSet<GrantId>,
        t0_us: u64,
        end_us: u64,
    },
    /// `end_us`: when the load ends if nobody interferes.
    Running {
        agents: BTreeSet<GrantId>,
        closed: BTreeSet<GrantId>,
        t0_us: u64,
        end_us: u64,
    },
    /// The gate closes; open acknowledgements are waited for.
    Stopping {
        agents: BTreeSet<GrantId>,
        closed: BTreeSet<GrantId>,
        t0_us: u64,
        cause: Cause,
        deadline_us: u64,
    },
    /// Late deltas and closing totals are taken until the deadline.
    Collecting {
        t0_us: u64,
        cause: Cause,
        waiting: BTreeSet<GrantId>,
        deadline_us: u64,
    },
    Over {
        phase: Phase,
        t0_us: Option<u64>,
        cause: Cause,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunEvent {
    /// Enough agents: the plan was dealt to these.
    Assigned {
        agents: BTreeSet<GrantId>,
    },
    /// The waiting is over and no placement was possible.
    Unplaceable {
        code: String,
        why: String,
    },
    Prepared {
        grant: GrantId,
    },
    /// An agent cannot take its part (target unreachable, secret missing, plan differs).
    Refused {
        grant: GrantId,
        code: String,
        why: String,
    },
    /// The readiness probe of an observer is on its way, as the sentence says.
    ProbeSent {
        observer: ObserverId,
        what: String,
    },
    /// An observer has seen it.
    ProbeSeen {
        observer: ObserverId,
    },
    /// An agent has closed its gate and sockets.
    Closed {
        grant: GrantId,
    },
    /// Devices of a grant that goes were given to this one.
    Taken {
        grant: GrantId,
    },
    /// All deltas of an agent up to its closing one are stored, or it can have no more.
    Delivered {
        grant: GrantId,
    },
    /// Lease and grace are over, or the grant can have no more to say for another reason.
    Lost {
        grant: GrantId,
        abort: bool,
    },
    /// What agents hold kills them.
    Poisoned {
        first: AgentId,
        second: AgentId,
    },
    Stop {
        abort: bool,
    },
    Threshold,
    OwnerSilent,
    /// The store cannot be reached, so nothing that happens from here on could be kept.
    StoreAway,
    /// Time passes: deadlines are looked at.
    Tick,
}

/// What the shell has to do after a transition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunCommand {
    /// Tell all agents the start.
    Arm { t0_us: u64 },
    /// Tell all agents that the load ends then; `abort` closes sockets at once.
    End { at_us: u64, abort: bool },
    /// Take the assignments back: nobody has sent.
    Disarm,
    /// Fold everything, judge, store the verdict.
    Judge,
}

/// Facts of the plan that the machine needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Length of the load.
    pub duration_us: u64,
    pub stop_timeout_us: u64,
    /// Lease plus grace: when a silent agent is LOST.
    pub lost_after_us: u64,
    /// How long observers may wait for what has not arrived.
    pub drain_us: u64,
    /// What has to come through the platform before the start.
    pub probes: Vec<Probe>,
}

/// Barrier: agents that have not prepared by then fail the start.
pub const PREPARE_LIMIT_US: u64 = 60_000_000;
/// From the decision to start to the common start.
pub const ARM_LEAD_US: u64 = 1_000_000;
/// From the decision to stop to the end of load.
pub const STOP_LEAD_US: u64 = 500_000;
/// How long late deltas are waited for.
pub const COLLECT_LIMIT_US: u64 = 120_000_000;
/// Room for the last acks' way home and the closing handshake.
const CLOSE_GRACE_US: u64 = 5_000_000;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a run that is {from} cannot take {event}")]
pub struct IllegalTransition {
    pub from: &'static str,
    pub event: String,
}

impl RunState {
    pub fn phase(&self) -> Phase {
        match self {
            Self::Pending { .. } => Phase::Pending,
            Self::Preparing { .. } | Self::Probing { .. } => Phase::Preparing,
            Self::Armed { .. } => Phase::Armed,
            Self::Running { .. } => Phase::Running,
            Self::Stopping { .. } => Phase::Stopping,
            Self::Collecting { .. } => Phase::Collecting,
            Self::Over { phase, .. } => *phase,
        }
    }

    pub fn t0_us(&self) -> Option<u64> {
        match self {
            Self::Pending { .. } | Self::Preparing { .. } | Self::Probing { .. } => None,
            Self::Armed { t0_us, .. }
            | Self::Running { t0_us, .. }
            | Self::Stopping { t0_us, .. }
            | Self::Collecting { t0_us, .. } => Some(*t0_us),
            Self::Over { t0_us, .. } => *t0_us,
        }
    }

    /// Whether its sockets are to close without waiting for acks.
    pub fn is_abort(&self) -> bool {
        self.cause().is_some_and(|cause| cause.end() == Phase::Aborted)
    }

    /// Whether observers read what comes out: from its load's beginning until all of it is in, but
    /// not after an abort.
    pub fn may_be_read(&self) -> bool {
        let is_open =
            matches!(self, Self::Running { .. } | Self::Stopping { .. } | Self::Collecting { .. });
        is_open && !self.is_abort()
    }

    pub fn cause(&self) -> Option<&Cause> {
        match self {
            Self::Stopping { cause, .. }
            | Self::Collecting { cause, .. }
            | Self::Over { cause, .. } => Some(cause),
            _ => None,
        }
    }
}

/// Moves a run. Events that are late or repeated change nothing; events that make no sense in a
/// phase are an [`IllegalTransition`].
pub fn apply(
    state: RunState,
    event: RunEvent,
    now_us: u64,
    limits: &Limits,
) -> Result<(RunState, Vec<RunCommand>), IllegalTransition> {
    use RunEvent as E;
    use RunState as S;
    let stay = |state: RunState| Ok((state, vec![]));
    let fail = |cause: Cause| {
        let over = S::Over { phase: Phase::FailedToStart, t0_us: None, cause };
        Ok((over, vec![RunCommand::Disarm, RunCommand::Judge]))
    };
    let start_failed =
        |code: &str, why: String| fail(Cause::FailedToStart { code: code.into(), why });
    match (state, event) {
        // Over is over: whatever comes late changes nothing.
        (over @ S::Over { .. }, _) => stay(over),

        (S::Pending { .. }, E::Assigned { agents }) => {
            let deadline_us = now_us + PREPARE_LIMIT_US;
            stay(S::Preparing { agents, prepared: BTreeSet::new(), deadline_us })
        }
        (S::Pending { .. }, E::Unplaceable { code, why }) => start_failed(&code, why),
        (S::Pending { deadline_us }, E::Tick) if now_us >= deadline_us => {
            start_failed("SH0203", "not enough agents came in time".into())
        }
        (S::Preparing { agents, prepared, deadline_us }, E::Tick) if now_us >= deadline_us => {
            let late: Vec<String> =
                agents.difference(&prepared).map(|grant| grant.agent.to_string()).collect();
            start_failed("SH0204", format!("not prepared within 60 s: {}", late.join(", ")))
        }
        (
            S::Pending { .. } | S::Preparing { .. } | S::Probing { .. } | S::Armed { .. },
            E::Stop { .. },
        ) => start_failed("SH0207", "stopped before the load began".into()),
        (S::Preparing { .. } | S::Probing { .. } | S::Armed { .. }, E::StoreAway) => {
            start_failed("SH0501", "the store could not be reached before the load began".into())
        }
        (
            S::Pending { .. } | S::Preparing { .. } | S::Probing { .. } | S::Armed { .. },
            E::OwnerSilent,
        ) => start_failed("SH0208", "its owner was silent for 60 s before the load began".into()),
        (
            S::Preparing { agents, .. } | S::Probing { agents, .. } | S::Armed { agents, .. },
            E::Refused { grant, code, why },
        ) if agents.contains(&grant) => {
            start_failed(&code, format!("agent {}: {why}", grant.agent))
        }
        (
            S::Preparing { agents, .. } | S::Probing { agents, .. } | S::Armed { agents, .. },
            E::Lost { grant, .. },
        ) if agents.contains(&grant) => {
            start_failed("SH0205", format!("agent {} was lost before the start", grant.agent))
        }
        (S::Preparing { agents, mut prepared, deadline_us }, E::Prepared { grant })
            if now_us < deadline_us =>
        {
            if agents.contains(&grant) {
                prepared.insert(grant);
            }
            if prepared != agents {
                return stay(S::Preparing { agents, prepared, deadline_us });
            }
            let awaited = limits.probes.iter().map(Probe::awaited).collect();
            let deadline_us = now_us + PROBE_LIMIT_US;
            Ok(probing::go_on(agents, awaited, deadline_us, now_us, limits))
        }
        (
            S::Probing { agents, mut awaited, deadline_us },
            event @ (E::ProbeSent { .. } | E::ProbeSeen { .. } | E::Tick),
        ) => {
            probing::hear(&mut awaited, event, now_us);
            match probing::overdue(&awaited, deadline_us, now_us) {
                Some(why) => start_failed("SH0311", why),
                None => Ok(probing::go_on(agents, awaited, deadline_us, now_us, limits)),
            }
        }
        (S::Armed { agents, t0_us, end_us }, E::Tick) if now_us >= t0_us => {
            stay(S::Running { agents, closed: BTreeSet::new(), t0_us, end_us })
        }

        (S::Running { agents, closed, t0_us, end_us }, E::Tick) => {
            if now_us < end_us {
                return stay(S::Running { agents, closed, t0_us, end_us });
            }
            let state = stopping(agents, closed, t0_us, Cause::Completed, end_us, limits);
            Ok((settle(state, now_us, limits), vec![]))
        }
        (S::Running { agents, closed, t0_us, .. }, E::Stop { abort }) => {
            let cause = if abort { Cause::Aborted } else { Cause::StoppedEarly };
            Ok(halt(agents, closed, t0_us, cause, now_us, limits))
        }
        (S::Running { agents, closed, t0_us, .. }, E::Threshold) => {
            Ok(halt(agents, closed, t0_us, Cause::Threshold, now_us, limits))
        }
        (S::Running { agents, closed, t0_us, .. }, E::OwnerSilent) => {
            Ok(halt(agents, closed, t0_us, Cause::OwnerLost, now_us, limits))
        }
        (S::Running { agents, closed, t0_us, .. }, E::Poisoned { first, second }) => {
            let cause = Cause::Poisoned { first, second };
            Ok(halt(agents, closed, t0_us, cause, now_us, limits))
        }
        (S::Running { agents, mut closed, t0_us, end_us }, E::Lost { grant, abort }) => {
            if !agents.contains(&grant) {
                return stay(S::Running { agents, closed, t0_us, end_us });
            }
            let agent = grant.agent.clone();
            closed.insert(grant);
            if closed == agents {
                let deadline_us = now_us + limits.drain_us + COLLECT_LIMIT_US;
                let cause = Cause::AllAgentsLost;
                stay(S::Collecting { t0_us, cause, waiting: BTreeSet::new(), deadline_us })
            } else if abort {
                Ok(halt(agents, closed, t0_us, Cause::AgentLost { agent }, now_us, limits))
            } else {
                stay(S::Running { agents, closed, t0_us, end_us })
            }
        }
        (S::Running { mut agents, closed, t0_us, end_us }, E::Taken { grant }) => {
            agents.insert(grant);
            stay(S::Running { agents, closed, t0_us, end_us })
        }
        // An agent closes a moment before our own clock says so, or because it was fenced.
        (S::Running { agents, mut closed, t0_us, end_us }, E::Closed { grant }) => {
            if agents.contains(&grant) {
                closed.insert(grant);
            }
            if closed != agents {
                return stay(S::Running { agents, closed, t0_us, end_us });
            }
            let cause = if now_us + STOP_LEAD_US >= end_us {
                Cause::Completed
            } else {
                Cause::AllAgentsLost
            };
            let state = stopping(agents, closed, t0_us, cause, now_us, limits);
            Ok((settle(state, now_us, limits), vec![]))
        }

        (S::Stopping { mut agents, mut closed, t0_us, cause, deadline_us }, event) => {
            let (mut cause, mut deadline_us, mut commands) = (cause, deadline_us, vec![]);
            match event {
                // A share that is read on.
                E::Taken { grant } => {
                    agents.insert(grant);
                }
                E::Closed { grant } | E::Lost { grant, .. } if agents.contains(&grant) => {
                    closed.insert(grant);
                }
                E::Stop { abort: true } if cause.end() == Phase::Finished => {
                    cause = Cause::Aborted;
                    deadline_us = deadline_us.min(now_us + CLOSE_GRACE_US);
                    commands.push(RunCommand::End { at_us: now_us, abort: true });
                }
                _ => {}
            }
            let state = S::Stopping { agents, closed, t0_us, cause, deadline_us };
            Ok((settle(state, now_us, limits), commands))
        }

        (S::Collecting { t0_us, cause, mut waiting, deadline_us }, event) => {
            match event {
                E::Taken { grant } => {
                    waiting.insert(grant);
                }
                E::Delivered { grant } | E::Lost { grant, .. } => {
                    waiting.remove(&grant);
                }
                _ => {}
            }
            if waiting.is_empty() || now_us >= deadline_us {
                let phase = cause.end();
                let over = S::Over { phase, t0_us: Some(t0_us), cause };
                return Ok((over, vec![RunCommand::Judge]));
            }
            stay(S::Collecting { t0_us, cause, waiting, deadline_us })
        }

        // Ticks before a deadline, repeated and late observations.
        (
            state @ (S::Pending { .. }
            | S::Preparing { .. }
            | S::Probing { .. }
            | S::Armed { .. }
            | S::Running { .. }),
            E::Tick
            | E::Prepared { .. }
            | E::ProbeSent { .. }
            | E::ProbeSeen { .. }
            | E::Refused { .. }
            | E::Delivered { .. }
            | E::StoreAway
            | E::Poisoned { .. }
            | E::Lost { .. },
        ) => stay(state),
        (
            state @ (S::Pending { .. } | S::Preparing { .. } | S::Probing { .. } | S::Armed { .. }),
            E::Closed { .. },
        ) => stay(state),
        (state, event) => {
            Err(IllegalTransition { from: state.phase().word(), event: format!("{event:?}") })
        }
    }
}

fn stopping(
    agents: BTreeSet<GrantId>,
    closed: BTreeSet<GrantId>,
    t0_us: u64,
    cause: Cause,
    end_us: u64,
    limits: &Limits,
) -> RunState {
    // An agent that is cut off closes by itself when its lease ends; so LOST bounds the wait.
    let deadline_us = end_us + limits.stop_timeout_us + CLOSE_GRACE_US + limits.lost_after_us;
    RunState::Stopping { agents, closed, t0_us, cause, deadline_us }
}

fn halt(
    agents: BTreeSet<GrantId>,
    closed: BTreeSet<GrantId>,
    t0_us: u64,
    cause: Cause,
    now_us: u64,
    limits: &Limits,
) -> (RunState, Vec<RunCommand>) {
    let abort = cause.end() == Phase::Aborted;
    let at_us = if abort { now_us } else { now_us + STOP_LEAD_US };
    let state = stopping(agents, closed, t0_us, cause, at_us, limits);
    (settle(state, now_us, limits), vec![RunCommand::End { at_us, abort }])
}

/// STOPPING ends when all have closed, or by its deadline.
fn settle(state: RunState, now_us: u64, limits: &Limits) -> RunState {
    match state {
        RunState::Stopping { agents, closed, t0_us, cause, deadline_us }
            if closed == agents || now_us >= deadline_us =>
        {
            let deadline_us = now_us + limits.drain_us + COLLECT_LIMIT_US;
            RunState::Collecting { t0_us, cause, waiting: agents, deadline_us }
        }
        state => state,
    }
}

#[cfg(test)]
mod tests;
