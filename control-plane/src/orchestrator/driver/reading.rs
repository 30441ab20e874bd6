//! The observers of a run: which agent reads which share, and until when.
//!
//! A share is an assignment of its own, so that its deltas have their own numbers and their own end:
//! it goes on after the load until everything has arrived, or until the drain is over. Invariant: a
//! share's end only ever moves earlier.

use std::collections::BTreeMap;

use shoal_domain::ids::{AgentId, ObserverId};
use shoal_domain::observed::Positions;
use shoal_domain::plan::Plan;
use shoal_domain::roster::{Grant, ReadShare, Reader};
use shoal_domain::run::Phase;
use shoal_domain::tracker::Horizon;
use shoal_proto::metrics::{positions_from_wire, positions_to_wire};
use shoal_proto::v1;

use super::Driver;
use crate::fold::FACTS;
use crate::live::LiveRun;
use crate::orchestrator::compaction::decode;
use crate::record::observe_to_blob;
use crate::refusal::Refusal;
use crate::store::NewAssignment;

/// How often it is looked whether everything has arrived.
const LOOK_EVERY_US: u64 = 200_000;
/// Repetitions come close behind what they repeat.
const LINGER_US: u64 = 500_000;

/// What this process found out about the ends of observers; another one finds it out again.
#[derive(Default)]
pub(super) struct Reading {
    /// Run time at which everything had arrived.
    settled_us: BTreeMap<ObserverId, u64>,
    looked_us: u64,
    /// By epoch: where those begin that read on for another one.
    begins: BTreeMap<u64, Positions>,
}

/// Deals the shares of all observers: as many readers as the source has use for, each observer
/// beginning with the next agent.
pub(super) fn deal_reads(plan: &Plan, agents: &[AgentId]) -> Vec<(AgentId, ReadShare)> {
    let mut dealt = Vec::new();
    for (n, observer) in plan.observers.iter().enumerate() {
        let n_shares = agents.len().min(observer.source.max_readers());
        for share in 0..n_shares {
            let agent = agents[(n + share) % agents.len()].clone();
            let (share, n_shares) = (share as u32, n_shares as u32);
            dealt.push((agent, ReadShare { observer: ObserverId(n as u32), share, n_shares }));
        }
    }
    dealt
}

impl Driver {
    pub(super) fn reader_row(&self, reader: &Reader) -> NewAssignment {
        let (assignment_id, epoch) = self.reader_key(reader);
        NewAssignment {
            assignment_id,
            epoch: epoch as i64,
            run_id: self.row.run_id,
            agent_id: reader.id.agent.to_string(),
            blocks: observe_to_blob(wire_share(reader.of)),
            n_devices: 0,
            incarnation: 0,
        }
    }

    /// A share as its agent is to hold it now.
    pub(super) fn reader_wire(&self, reader: &Reader) -> Result<v1::Assignment, Refusal> {
        let observer = &self.plan.observers[reader.of.observer.index()];
        let (assignment_id, epoch) = self.reader_key(reader);
        let devices = Grant::of_no_devices(reader.id.clone());
        let wire = self.wire(&devices)?;
        let drained_us = wire.end_us.saturating_add(observer.drain_us);
        let settled_us = self.reading.settled_us.get(&reader.of.observer);
        Ok(v1::Assignment {
            assignment_id,
            epoch,
            from_us: reader.from_us,
            t0_us: self.record.state.t0_us().unwrap_or(0),
            end_us: settled_us.map_or(drained_us, |settled_us| drained_us.min(*settled_us)),
            not_after_us: wire.not_after_us.saturating_add(observer.drain_us),
            observe: Some(v1::ObserverShare {
                positions: self
                    .reading
                    .begins
                    .get(&epoch)
                    .map(positions_to_wire)
                    .unwrap_or_default(),
                is_resumed: reader.is_successor,
                ..wire_share(reader.of)
            }),
            ..wire
        })
    }

    /// What the readers of a start say of where they begin.
    pub(super) fn told_starts(&self) -> Positions {
        let mut starts = Positions::default();
        for reader in &self.record.roster.readers {
            let said = self.runs.fleet.observed(&reader.id.agent, &self.reader_key(reader));
            starts.merge(&positions_from_wire(&said.unwrap_or_default().positions));
        }
        starts
    }

    /// Whether it reads on for another one, and it is not known yet from where.
    pub(super) fn is_waiting(&self, reader: &Reader) -> bool {
        let source = &self.plan.observers[reader.of.observer.index()].source;
        let is_known = self.reading.begins.contains_key(&reader.id.epoch);
        reader.is_live() && reader.is_successor && source.keeps_events() && !is_known
    }

    /// Finds out where readers begin that go on for others. The grant of a reader is stored together
    /// with the end of what the one before it may store, so what is there now stays.
    pub(super) async fn find_begins(&mut self) -> Result<bool, Refusal> {
        let readers = self.record.roster.readers.iter();
        let waiting: Vec<u64> = readers
            .filter(|reader| self.is_waiting(reader))
            .map(|reader| reader.id.epoch)
            .collect();
        if waiting.is_empty() {
            return Ok(false);
        }
        let stored = self.stored_positions().await?;
        self.reading.begins.extend(waiting.into_iter().map(|epoch| (epoch, stored.clone())));
        Ok(true)
    }

    /// How far all sources were read, by what is stored.
    async fn stored_positions(&self) -> Result<Positions, Refusal> {
        let (store, run) = (&self.runs.store, self.row.run_id);
        let mut positions = self.record.starts();
        // In this order: what is folded meanwhile is found in its summary.
        for row in store.unfolded(run, None).await? {
            positions.merge(&decode("deltas", &row.assignment_id, &row.body)?.positions);
        }
        for row in store.summaries(run).await?.iter().filter(|row| row.series == FACTS) {
            positions.merge(&decode("summaries", &row.assignment_id, &row.body)?.positions);
        }
        Ok(positions)
    }

    /// Ends the shares of observers for which nothing is on its way any more.
    pub(super) fn drain(&mut self, now_us: u64) {
        let (Phase::Collecting, Some(t0_us)) =
            (self.record.state.phase(), self.record.state.t0_us())
        else {
            return;
        };
        if now_us < self.reading.looked_us + LOOK_EVERY_US {
            return;
        }
        self.reading.looked_us = now_us;
        let end_us = now_us.saturating_sub(t0_us) + LINGER_US;
        for observer in (0..self.plan.observers.len()).map(|n| ObserverId(n as u32)) {
            if self.has_all_arrived(observer) {
                // Once is enough: a later look would move the end no more.
                self.reading.settled_us.entry(observer).or_insert(end_us);
            }
        }
        self.assign_all(now_us);
    }

    /// Whether every message that is known to be sent has arrived, and no agent can add to them.
    fn has_all_arrived(&self, observer: ObserverId) -> bool {
        let is_told = |live: &LiveRun, grant: &Grant| {
            let why = grant.ended.as_ref().map(|ended| ended.why);
            let part = live.parts.get(&self.grant_key(&grant.id));
            why.is_some_and(|why| why.is_silent()) || part.is_some_and(|part| part.is_delivered)
        };
        let is_settled = |live: &LiveRun| {
            self.record.roster.grants.iter().all(|grant| is_told(live, grant))
                && live.trackers.of(observer).is_some_and(|tracker| {
                    let totals = tracker.totals(Horizon::Open);
                    totals.unique == totals.sent
                })
        };
        self.runs.live.read(self.row.run_id, is_settled).unwrap_or(false)
    }
}

fn wire_share(of: ReadShare) -> v1::ObserverShare {
    v1::ObserverShare {
        observer: of.observer.0,
        share: of.share,
        n_shares: of.n_shares,
        ..Default::default()
    }
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
        assert_eq!(deal_reads(&plan, &agents(3)).len(), 1);
        let shared = SCENARIO.replace("qos: 1 }", "qos: 1, share: readers }");
        let plan = parse_plan(&shared, &[], &Files::none()).unwrap();
        let dealt = deal_reads(&plan, &agents(3));
        let shares: Vec<(u32, u32)> =
            dealt.iter().map(|(_, share)| (share.share, share.n_shares)).collect();
        assert_eq!(shares, [(0, 3), (1, 3), (2, 3)]);
    }
}
