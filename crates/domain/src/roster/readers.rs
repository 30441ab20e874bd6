//! Who reads which share of an observer's source.
//!
//! A share is read under an epoch of its own, taken from the same counter as those of devices, so
//! that a [`GrantId`] names one or the other. When its agent goes while there is something to read, another
//! one reads on from where the last word of the old one ended; what a source cannot give again is then a
//! reader gap. Invariant: a share has at most one living reader.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{AgentSeen, Changes, Ended, GrantSeen, Policy, Roster, Why};
use crate::ids::{AgentId, GrantId, ObserverId};
use crate::plan::OnAgentLoss;

/// The n-th of so many parts of an observer's source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ReadShare {
    pub observer: ObserverId,
    pub share: u32,
    pub n_shares: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reader {
    pub id: GrantId,
    pub of: ReadShare,
    /// Run time from which it has to answer for the source: where the reader before it ended.
    pub from_us: u64,
    /// It took the share over in the middle of the run.
    pub is_successor: bool,
    pub ended: Option<Ended>,
}

impl Reader {
    pub fn is_live(&self) -> bool {
        self.ended.is_none()
    }
}

impl Roster {
    /// The readers of a run's start.
    #[must_use]
    pub fn reading(mut self, shares: impl IntoIterator<Item = (AgentId, ReadShare)>) -> Self {
        for (agent, of) in shares {
            self.epoch += 1;
            let id = GrantId { agent, epoch: self.epoch };
            self.readers.push(Reader { id, of, from_us: 0, is_successor: false, ended: None });
        }
        self
    }

    pub fn reader(&self, id: &GrantId) -> Option<&Reader> {
        self.readers.iter().find(|reader| reader.id == *id)
    }

    /// Whoever read the share before this one.
    pub fn predecessor(&self, reader: &Reader) -> Option<&Reader> {
        let epoch = reader.id.epoch;
        self.readers.iter().rev().find(|other| other.of == reader.of && other.id.epoch < epoch)
    }

    /// Whoever reads the share after this one.
    pub fn successor(&self, reader: &Reader) -> Option<&Reader> {
        let epoch = reader.id.epoch;
        self.readers.iter().find(|other| other.of == reader.of && other.id.epoch > epoch)
    }

    pub(super) fn step_readers(
        &mut self,
        policy: &Policy,
        agents: &BTreeMap<&AgentId, &AgentSeen>,
        seen: &impl Fn(&GrantId) -> GrantSeen,
        now_us: u64,
        changes: &mut Changes,
    ) {
        for at in 0..self.readers.len() {
            let reader = &self.readers[at];
            if !reader.is_live() {
                continue;
            }
            let agent = agents.get(&reader.id.agent).copied();
            let said = seen(&reader.id);
            // The end of the run overtook it before it read anything: nothing comes from it.
            let never_began = !policy.is_reading && said.closed_at_us == Some(0);
            let fate = policy.fate(agent, &said, false, reader.is_successor);
            if let Some(why) = fate.or(never_began.then_some(Why::Dropped)) {
                self.readers[at].ended = Some(Ended { at_us: now_us, why });
                changes.unread.insert(at);
            }
        }
        if policy.is_reading && policy.on_loss == OnAgentLoss::Reassign {
            for at in 0..self.readers.len() {
                self.read_on(at, agents, seen, changes);
            }
        }
    }

    /// A new reader for a share whose last one is over: on the agent that reads least.
    fn read_on(
        &mut self,
        at: usize,
        agents: &BTreeMap<&AgentId, &AgentSeen>,
        seen: &impl Fn(&GrantId) -> GrantSeen,
        changes: &mut Changes,
    ) {
        let last = &self.readers[at];
        if last.is_live() || self.successor(last).is_some() {
            return;
        }
        let could_not = |agent: &AgentId| {
            self.readers.iter().any(|reader| {
                let is_refused =
                    reader.ended.as_ref().is_some_and(|ended| ended.why == Why::Refused);
                reader.of == last.of && reader.id.agent == *agent && is_refused
            })
        };
        let n_reads = |agent: &AgentId| {
            self.readers
                .iter()
                .filter(|reader| reader.is_live() && reader.id.agent == *agent)
                .count()
        };
        let able = agents.values().filter(|agent| agent.can_take() && !could_not(&agent.id));
        let Some(agent) = able.min_by_key(|agent| (n_reads(&agent.id), agent.id.clone())) else {
            return;
        };
        self.epoch += 1;
        // One that never read anything hands on what it was to read.
        let from_us = last.from_us.max(seen(&last.id).read_through_us);
        let id = GrantId { agent: agent.id.clone(), epoch: self.epoch };
        let reader = Reader { id, of: last.of, from_us, is_successor: true, ended: None };
        changes.read.insert(self.readers.len());
        self.readers.push(reader);
    }
}
