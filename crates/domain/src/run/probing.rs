//! Readiness probes: does what the devices send come out where the observers read?
//!
//! When all agents are prepared, and all observers listen, the first device of each observed group
//! sends one message per observed series. The run starts when every observer has seen its own. It is
//! the one thing that is sent before the start, and no count of the run knows it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{ARM_LEAD_US, Limits, RunCommand, RunEvent, RunState};
use crate::ids::{GrantId, ObserverId};

/// For a device to connect and to send.
pub const PROBE_LIMIT_US: u64 = 30_000_000;

/// What an observer has to see before the start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    pub observer: ObserverId,
    pub name: String,
    /// From sending it.
    pub within_us: u64,
}

/// How it stands with one of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Awaited {
    pub probe: Probe,
    pub sent: Option<Sent>,
    pub is_seen: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// When it was heard of.
    pub at_us: u64,
    /// By whom and where, as a sentence without its end.
    pub what: String,
}

impl Probe {
    pub(super) fn awaited(&self) -> Awaited {
        Awaited { probe: self.clone(), sent: None, is_seen: false }
    }
}

/// Repeating a word changes nothing.
pub(super) fn hear(awaited: &mut [Awaited], event: RunEvent, now_us: u64) {
    let (RunEvent::ProbeSent { observer, .. } | RunEvent::ProbeSeen { observer }) = &event else {
        return;
    };
    let Some(one) = awaited.iter_mut().find(|one| one.probe.observer == *observer) else { return };
    match event {
        RunEvent::ProbeSent { what, .. } => {
            one.sent.get_or_insert(Sent { at_us: now_us, what });
        }
        _ => one.is_seen = true,
    }
}

/// Why the run cannot start any more.
pub(super) fn overdue(awaited: &[Awaited], deadline_us: u64, now_us: u64) -> Option<String> {
    awaited.iter().filter(|one| !one.is_seen).find_map(|one| match &one.sent {
        None => (now_us >= deadline_us).then(|| {
            let s = PROBE_LIMIT_US / 1_000_000;
            format!("the readiness probe for observer {} was not sent within {s} s", one.probe.name)
        }),
        Some(Sent { at_us, what }) => {
            (now_us >= at_us.saturating_add(one.probe.within_us)).then(|| {
                let (name, s) = (&one.probe.name, one.probe.within_us as f64 / 1e6);
                format!(
                    "the platform did not answer: {what}, and observer {name} saw nothing of it \
                     within {s} s; see with `shoal scenario try` where it stays, or give \
                     observers.{name} a longer `probe`, or `probe: off`"
                )
            })
        }
    })
}

/// The start, where all were seen.
pub(super) fn go_on(
    agents: BTreeSet<GrantId>,
    awaited: Vec<Awaited>,
    deadline_us: u64,
    now_us: u64,
    limits: &Limits,
) -> (RunState, Vec<RunCommand>) {
    if !awaited.iter().all(|one| one.is_seen) {
        return (RunState::Probing { agents, awaited, deadline_us }, vec![]);
    }
    let t0_us = now_us + ARM_LEAD_US;
    let end_us = t0_us + limits.duration_us;
    (RunState::Armed { agents, t0_us, end_us }, vec![RunCommand::Arm { t0_us }])
}
