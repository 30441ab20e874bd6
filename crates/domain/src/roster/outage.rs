//! Most agents silent at once: one incident, and while it lasts nothing moves.
//!
//! More agents silent than there are others is a network or a site, and no reason to give the few all
//! of the load. Devices wait until enough are back; their slots are nobody's meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{AgentSeen, Grant, Roster, Why};
use crate::ids::AgentId;

/// The latest one of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outage {
    /// Agents that were silent when it was noticed, of so many that held devices.
    pub silent: u64,
    pub agents: u64,
    /// Run times.
    pub from_us: u64,
    pub until_us: Option<u64>,
}

impl Outage {
    /// What a person reads of its begin or, once it is over, of its end.
    pub fn sentence(&self) -> String {
        let Self { silent, agents, from_us, until_us } = self;
        let Some(until_us) = until_us else {
            return format!(
                "{silent} of {agents} agents are silent at once, so nothing moves until most are back"
            );
        };
        let s = until_us.saturating_sub(*from_us).div_ceil(1_000_000);
        format!("most agents are back after {s} s: the devices of those that are not move now")
    }
}

impl Roster {
    /// Whether there is one at `now_us`; remembers its begin and its end. A single agent that is silent is
    /// no incident, but its devices wait as well where nobody else is there.
    pub(super) fn notice_outage(
        &mut self,
        agents: &BTreeMap<&AgentId, &AgentSeen>,
        now_us: u64,
    ) -> bool {
        let waits = |grant: &&Grant| {
            let is_silent = agents.get(&grant.id.agent).is_some_and(|agent| !agent.is_alive);
            let is_lost = grant.ended.as_ref().is_some_and(|ended| ended.why == Why::Lost);
            is_silent && (grant.is_live() || (is_lost && !grant.is_settled))
        };
        let of = |grants: &mut dyn Iterator<Item = &Grant>| -> u64 {
            grants.map(|grant| &grant.id.agent).collect::<BTreeSet<_>>().len() as u64
        };
        let silent = of(&mut self.grants.iter().filter(waits));
        let there = agents.values().filter(|agent| agent.can_take()).count() as u64;
        let is_outage = silent > there;
        let is_known = self.outage.as_ref().is_some_and(|outage| outage.until_us.is_none());
        if is_outage && !is_known && silent > 1 {
            let holds = |grant: &&Grant| grant.is_live() || waits(grant);
            let agents = of(&mut self.grants.iter().filter(holds));
            self.outage = Some(Outage { silent, agents, from_us: now_us, until_us: None });
        } else if !is_outage && let Some(outage) = self.outage.as_mut().filter(|_| is_known) {
            outage.until_us = Some(now_us);
        }
        is_outage
    }
}
