//! What agents should hold, brought up to what is stored. Only an end of the load may come first.

use shoal_domain::ids::AgentId;
use shoal_domain::roster::Grant;
use shoal_domain::run::{Phase, RunCommand, RunState};
use shoal_domain::shard::Shard;
use shoal_proto::{assignment, v1};

use super::Driver;
use crate::orchestrator::scale;
use crate::record::{Record, overrides_of};
use crate::refusal::Refusal;

impl Driver {
    /// A grant as its agent is to hold it now.
    pub(super) fn wire(&self, grant: &Grant) -> Result<v1::Assignment, Refusal> {
        let share = grant.devices() as f64 / self.plan.devices().max(1) as f64;
        let overrides = overrides_of(&self.row)?
            .into_iter()
            .map(|(name, value)| v1::Override { name, value })
            .collect();
        let (assignment_id, epoch) = self.grant_key(&grant.id);
        let t0_us = self.record.state.t0_us().filter(|_| grant.from_us.is_some());
        let shard = Shard { blocks: grant.blocks.clone() };
        let load_end_us = self.record.load_end_us.min(self.told_end_us.unwrap_or(u64::MAX));
        Ok(v1::Assignment {
            assignment_id,
            epoch,
            run_id: self.row.run_id.to_string(),
            scenario: self.row.scenario_text.clone(),
            overrides,
            plan_hash: self.plan.hash().to_vec(),
            seed: self.row.seed,
            blocks: assignment::blocks_to_wire(&shard),
            from_us: grant.from_us.unwrap_or(0),
            handover: grant.handover,
            lease_us: self.plan.fleet.lease_us,
            t0_us: t0_us.unwrap_or(0),
            end_us: load_end_us,
            abort: self.record.state.is_abort(),
            // A batch must not wait for the one before it.
            spawn_rate: (scale::spawn_rate(&self.plan, &self.record) * share).max(1.0),
            revisions: assignment::revisions_to_wire(&self.record.revisions()),
            builtin: self.record.builtin.clone(),
            not_after_us: self.plan.max_duration_us.unwrap_or(u64::MAX).min(self.plan.end_us()),
            has_files: !self.plan.files.is_empty(),
            observe: None,
            probe: matches!(self.record.state, RunState::Probing { .. }),
            sample_millionths: self.record.sample_millionths,
        })
    }

    /// An end that cannot be stored yet is told all the same: it only ever makes the load less.
    pub(super) fn tell_early(&mut self, record: &Record, commands: &[RunCommand], now_us: u64) {
        let ends = |command: &RunCommand| matches!(command, RunCommand::End { .. });
        if commands.iter().any(ends) && self.told_end_us.is_none() {
            self.told_end_us = Some(record.load_end_us);
            let before = std::mem::replace(&mut self.record.state, record.state.clone());
            self.assign_all(now_us);
            self.record.state = before;
        }
        if commands.contains(&RunCommand::Disarm) {
            self.act(&RunCommand::Disarm);
        }
    }

    pub(super) fn act(&mut self, command: &RunCommand) {
        match command {
            RunCommand::Arm { .. } => {}
            RunCommand::End { abort, .. } => {
                self.wished_stop = self.wished_stop.filter(|wished_abort| *wished_abort && !abort);
            }
            RunCommand::Disarm | RunCommand::Judge => {
                for grant in &self.record.roster.grants {
                    self.runs.fleet.withdraw(&grant.id.agent, &self.grant_key(&grant.id));
                }
                for reader in &self.record.roster.readers {
                    self.runs.fleet.withdraw(&reader.id.agent, &self.reader_key(reader));
                }
            }
        }
    }

    /// Brings what agents should hold up to what is stored.
    pub(super) fn assign_all(&self, now_us: u64) {
        let phase = self.record.state.phase();
        if phase == Phase::Pending || phase.is_over() || self.is_store_away {
            return;
        }
        for grant in &self.record.roster.grants {
            // Who closed by itself is still to say what it measured; it needs no lease for that.
            match &grant.ended {
                Some(_) => self.runs.fleet.withdraw(&grant.id.agent, &self.grant_key(&grant.id)),
                None => self.assign(&grant.id.agent, self.wire(grant), now_us),
            }
        }
        for reader in &self.record.roster.readers {
            match &reader.ended {
                Some(_) => self.runs.fleet.withdraw(&reader.id.agent, &self.reader_key(reader)),
                None if self.is_waiting(reader) => {}
                None => self.assign(&reader.id.agent, self.reader_wire(reader), now_us),
            }
        }
    }

    pub(super) fn assign(
        &self,
        agent: &AgentId,
        wire: Result<v1::Assignment, Refusal>,
        now_us: u64,
    ) {
        match wire {
            Ok(wire) => self.runs.fleet.assign(agent, wire, now_us),
            Err(refusal) => tracing::error!(%refusal, "an assignment cannot be written"),
        }
    }
}
