//! The observers of a run: which agent reads which share, and until when.
//!
//! A share is an assignment of its own, so that its deltas have their own numbers and their own end:
//! it goes on after the load until everything has arrived, or until the drain is over. Invariant: a
//! share's end only ever moves earlier.

use std::collections::BTreeMap;

use shoal_domain::ids::{AgentId, ObserverId};
use shoal_domain::plan::Plan;
use shoal_domain::run::{Phase, RunEvent};
use shoal_domain::shard::Shard;
use shoal_domain::tracker::Horizon;
use shoal_proto::v1;

use super::{Driver, EPOCH};
use crate::record::observe_to_blob;
use crate::refusal::Refusal;
use crate::store::NewAssignment;

/// How often it is looked whether everything has arrived.
const LOOK_EVERY_US: u64 = 200_000;
/// Repetitions come close behind what they repeat.
const LINGER_US: u64 = 500_000;

/// One share, on the agent that reads it.
pub(super) struct Watch {
    pub(super) agent: AgentId,
    pub(super) wire: v1::Assignment,
}

/// By assignment id.
#[derive(Default)]
pub(super) struct Watches {
    pub(super) parts: BTreeMap<String, Watch>,
    looked_us: u64,
}

/// Deals the shares of all observers: as many readers as the source has use for, each observer
/// beginning with the next agent.
fn deal(plan: &Plan, agents: &[AgentId]) -> Vec<(AgentId, v1::ObserverShare)> {
    let mut dealt = Vec::new();
    for (observer, written) in plan.observers.iter().enumerate() {
        let n_shares = agents.len().min(written.source.max_readers());
        for share in 0..n_shares {
            let agent = agents[(observer + share) % agents.len()].clone();
            let (observer, share) = (observer as u32, share as u32);
            let share = v1::ObserverShare {
                observer,
                share,
                n_shares: n_shares as u32,
                ..Default::default()
            };
            dealt.push((agent, share));
        }
    }
    dealt
}

impl Driver {
    /// The shares for these agents, and their rows in the store.
    pub(super) fn deal_watches(
        &self,
        agents: &[AgentId],
    ) -> Result<(Watches, Vec<NewAssignment>), Refusal> {
        let (mut parts, mut rows) = (BTreeMap::new(), Vec::new());
        for (agent, share) in deal(&self.plan, agents) {
            let wire = self.watch_wire(&agent, share.clone())?;
            rows.push(NewAssignment {
                assignment_id: wire.assignment_id.clone(),
                epoch: EPOCH as i64,
                run_id: self.row.run_id,
                agent_id: agent.to_string(),
                blocks: observe_to_blob(share),
                n_devices: 0,
                incarnation: 0,
            });
            parts.insert(wire.assignment_id.clone(), Watch { agent, wire });
        }
        Ok((Watches { parts, looked_us: 0 }, rows))
    }

    pub(super) fn watch_wire(
        &self,
        agent: &AgentId,
        share: v1::ObserverShare,
    ) -> Result<v1::Assignment, Refusal> {
        let observer = &self.plan.observers[share.observer as usize];
        let wire = self.wire(agent, &Shard::default())?;
        let end_us = self.record.load_end_us.saturating_add(observer.drain_us);
        Ok(v1::Assignment {
            // An agent id has no colon.
            assignment_id: format!("{}:{}", wire.assignment_id, observer.name),
            t0_us: self.record.state.t0_us().unwrap_or(0),
            end_us,
            // A pace, which nobody keeps here, must be one.
            spawn_rate: 1.0,
            not_after_us: wire.not_after_us.saturating_add(observer.drain_us),
            observe: Some(share),
            ..wire
        })
    }

    /// What the shares of an agent say, beside its devices.
    pub(super) fn observe_watches(&self, agent: &AgentId) -> Watched {
        use v1::AssignmentPhase as P;
        let mut watched = Watched::default();
        for (id, _) in self.watches.parts.iter().filter(|(_, watch)| watch.agent == *agent) {
            let said = self.runs.fleet.observed(agent, &(id.clone(), EPOCH));
            match said.as_ref().map(v1::Observed::phase) {
                Some(P::Refused) => {
                    let said = said.unwrap_or_default();
                    let (code, why) = (said.error_code, said.error);
                    watched.refused = Some(RunEvent::Refused { agent: agent.clone(), code, why });
                }
                Some(P::Prepared | P::Running | P::Closed | P::Fenced) => {}
                Some(P::Unspecified | P::Preparing) | None => watched.is_preparing = true,
            }
            let is_delivered = self.runs.live.read(self.row.run_id, |live| {
                live.parts.get(id).is_some_and(|part| part.is_delivered)
            });
            watched.is_reading |= !is_delivered.unwrap_or(false);
        }
        watched
    }

    /// The load has another end now.
    pub(super) fn end_watches(&mut self, abort: bool) {
        for watch in self.watches.parts.values_mut() {
            let observer = watch.wire.observe.as_ref().map_or(0, |share| share.observer as usize);
            let drain_us = self.plan.observers.get(observer).map_or(0, |o| o.drain_us);
            let end_us = self.record.load_end_us.saturating_add(drain_us);
            watch.wire.end_us = watch.wire.end_us.min(end_us);
            watch.wire.abort |= abort;
        }
    }

    /// Ends the shares of observers for which nothing is on its way any more.
    pub(super) fn drain(&mut self, now_us: u64) {
        let (Phase::Collecting, Some(t0_us)) =
            (self.record.state.phase(), self.record.state.t0_us())
        else {
            return;
        };
        if now_us < self.watches.looked_us + LOOK_EVERY_US {
            return;
        }
        self.watches.looked_us = now_us;
        let end_us = now_us.saturating_sub(t0_us) + LINGER_US;
        for observer in 0..self.plan.observers.len() {
            if !self.has_all_arrived(ObserverId(observer as u32)) {
                continue;
            }
            for watch in self.watches.parts.values_mut() {
                let is_of =
                    watch.wire.observe.as_ref().is_some_and(|o| o.observer as usize == observer);
                // Once is enough: a later look would move the end no more.
                if is_of && watch.wire.end_us > end_us {
                    watch.wire.end_us = end_us;
                }
            }
        }
        self.assign_all(now_us);
    }

    /// Whether every message that is known to be sent has arrived, and no agent can add to them.
    fn has_all_arrived(&self, observer: ObserverId) -> bool {
        let is_settled = |live: &crate::live::LiveRun| {
            let all_told = self.parts.iter().all(|(agent, part)| {
                self.record.lost.contains_key(agent)
                    || live
                        .parts
                        .get(&part.wire.assignment_id)
                        .is_some_and(|part| part.is_delivered)
            });
            all_told
                && live.trackers.of(observer).is_some_and(|tracker| {
                    let totals = tracker.totals(Horizon::Open);
                    totals.unique == totals.sent
                })
        };
        self.runs.live.read(self.row.run_id, is_settled).unwrap_or(false)
    }
}

/// How the shares of one agent stand together.
#[derive(Debug, Default)]
pub(super) struct Watched {
    pub(super) refused: Option<RunEvent>,
    /// At least one does not read yet.
    pub(super) is_preparing: bool,
    /// At least one has not delivered its last delta.
    pub(super) is_reading: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_domain::check::parse_plan;
    use shoal_domain::files::Files;

    const SCENARIO: &str = include_str!("../../../../scenarios/ingestion-mqtt.yaml");

    fn agents(n: usize) -> Vec<AgentId> {
        (0..n).map(|n| format!("a{n}").parse().unwrap()).collect()
    }

    #[test]
    fn one_reader_gets_all_unless_they_share() {
        let plan = parse_plan(SCENARIO, &[], &Files::none()).unwrap();
        assert_eq!(deal(&plan, &agents(3)).len(), 1);
        let shared = SCENARIO.replace("qos: 1 }", "qos: 1, share: readers }");
        let plan = parse_plan(&shared, &[], &Files::none()).unwrap();
        let dealt = deal(&plan, &agents(3));
        let shares: Vec<(u32, u32)> =
            dealt.iter().map(|(_, share)| (share.share, share.n_shares)).collect();
        assert_eq!(shares, [(0, 3), (1, 3), (2, 3)]);
    }
}
