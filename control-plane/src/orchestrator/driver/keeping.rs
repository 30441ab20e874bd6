//! Everything that a run writes into the store, and what becomes of it when the store does not answer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use shoal_domain::roster::{Changes, Grant, Roster};
use shoal_domain::run::{Phase, RunCommand};
use shoal_domain::shard::Shard;

use super::Driver;
use crate::orchestrator::Status;
use crate::orchestrator::compaction::{compact, repair};
use crate::query;
use crate::record::{Record, shard_to_blob};
use crate::refusal::{Kind, Refusal};
use crate::store::{GrantChanges, NewAssignment, NewEvent, RunChange, StoreError};

const COMPACT_EVERY_US: u64 = 30_000_000;
/// Deltas younger than this may still get company in their window.
const COMPACT_AGE_US: i64 = 10_000_000;
/// An end of the load is told to the agents after this, stored or not.
const STORE_PATIENCE: Duration = Duration::from_millis(500);

impl Driver {
    /// Repairs, folds the rest and makes the document whose verdict is stored with the last phase.
    pub(super) async fn judge(&mut self, record: &Record) -> Result<query::Judged, Refusal> {
        if let Some(compacting) = self.compacting.take() {
            // Gone without a word is gone as well.
            let _ = compacting.await;
        }
        // From here on late deltas hear that the run is over; what was acked is folded and judged.
        let (store, run, epoch) = (&self.runs.store, self.row.run_id, self.row.owner_epoch);
        store.stop_intake(run).await?;
        compact(store, run, epoch, None, &self.region_of(), &self.plan).await?;
        repair(store, run, epoch).await?;
        query::judge_and_keep(store, &self.row, &self.plan, record).await
    }

    pub(super) async fn persist(
        &mut self,
        record: Record,
        judged: Option<query::Judged>,
        changes: &Changes,
        events: &[NewEvent],
        commands: &[RunCommand],
        now_us: u64,
    ) -> Result<(), Refusal> {
        let phase = record.state.phase();
        let change = RunChange {
            run_id: self.row.run_id,
            version: self.row.version,
            owner_epoch: self.row.owner_epoch,
            phase,
            state_json: record.to_json(),
            validity: judged.and_then(|judged| judged.validity),
            verdict: judged.and_then(|judged| judged.verdict),
            exit_code: judged.map(|judged| i64::from(judged.exit_code)),
            cause: record.state.cause().map(|cause| cause.sentence()),
            t0_us: record.state.t0_us().map(|us| us as i64),
            ended_at_us: phase.is_over().then_some(now_us as i64),
        };
        let grants = self.grant_changes(&record.roster, changes);
        let store = self.runs.store.clone();
        let mut stored = Box::pin(store.change_run_and_grants(&change, events, &grants));
        let stored = match tokio::time::timeout(STORE_PATIENCE, &mut stored).await {
            Ok(stored) => stored,
            Err(_) => {
                self.tell_early(&record, commands, now_us);
                stored.await
            }
        };
        match stored {
            Ok(version) => self.row.version = version,
            Err(error) => {
                self.tell_early(&record, commands, now_us);
                return Err(self.not_stored(error).await);
            }
        }
        self.record = record.clone();
        let exit_code = judged.map(|judged| judged.exit_code);
        self.publish.send_replace(Status { record, exit_code });
        Ok(())
    }

    pub(super) fn grant_changes(&self, roster: &Roster, changes: &Changes) -> GrantChanges {
        let rows = |which: &BTreeSet<usize>| -> Vec<NewAssignment> {
            which.iter().map(|at| self.assignment_row(&roster.grants[*at])).collect()
        };
        let read = || changes.read.iter().map(|at| &roster.readers[*at]);
        let mut granted = rows(&changes.granted);
        granted.extend(read().map(|reader| self.reader_row(reader)));
        let superseded = read()
            .filter_map(|reader| roster.predecessor(reader))
            .map(|before| self.reader_key(before))
            .map(|(assignment_id, epoch)| (assignment_id, epoch as i64))
            .collect();
        GrantChanges { granted, cut: rows(&changes.cut), superseded }
    }

    pub(super) fn assignment_row(&self, grant: &Grant) -> NewAssignment {
        let (assignment_id, epoch) = self.grant_key(&grant.id);
        let incarnation = grant.blocks.iter().map(|block| block.incarnation).max().unwrap_or(0);
        NewAssignment {
            assignment_id,
            epoch: epoch as i64,
            run_id: self.row.run_id,
            agent_id: grant.id.agent.to_string(),
            n_devices: grant.devices() as i64,
            blocks: shard_to_blob(&Shard { blocks: grant.blocks.clone() }),
            incarnation: i64::from(incarnation),
        }
    }

    /// After a change that was not confirmed: what does the store say now?
    pub(super) async fn not_stored(&mut self, error: StoreError) -> Refusal {
        if !matches!(error, StoreError::Conflict { .. }) {
            let is_before_the_start =
                matches!(self.record.state.phase(), Phase::Preparing | Phase::Armed);
            self.is_store_away |= is_before_the_start;
            return error.into();
        }
        // Ours after all, and only the confirmation was lost; or somebody else's.
        match self.runs.store.run(self.row.run_id).await {
            Ok(Some(row)) if row.owner_epoch == self.row.owner_epoch => {
                if let Ok(record) = Record::of(&row) {
                    self.record = record;
                    self.row = row;
                    if let Err(refusal) = self.read_grants().await {
                        return refusal;
                    }
                }
            }
            Ok(_) => self.is_disowned = true,
            Err(error) => return error.into(),
        }
        Refusal::new(Kind::Conflict, "SH0504", error.to_string())
    }

    pub(super) fn region_of(&self) -> BTreeMap<String, String> {
        let region = |grant: &Grant| {
            let region = self.regions.get(&grant.id.agent).cloned().unwrap_or_default();
            (self.grant_key(&grant.id).0, region)
        };
        self.record.roster.grants.iter().map(region).collect()
    }

    /// In a task of its own: a slow store must not keep the run from being stopped.
    pub(super) fn compact_now_and_then(&mut self, now_us: u64) {
        use tokio::sync::oneshot::error::TryRecvError;
        if let Some(mut done) = self.compacting.take()
            && done.try_recv() == Err(TryRecvError::Empty)
        {
            self.compacting = Some(done);
            return;
        }
        if now_us < self.compacted_us + COMPACT_EVERY_US {
            return;
        }
        self.compacted_us = now_us;
        let (over, done) = tokio::sync::oneshot::channel::<()>();
        self.compacting = Some(done);
        let (store, regions, plan) =
            (self.runs.store.clone(), self.region_of(), Arc::clone(&self.plan));
        let (run, epoch) = (self.row.run_id, self.row.owner_epoch);
        self.runs.lifecycle.spawn("compaction", async move {
            let _over = over;
            let before_us = now_us as i64 - COMPACT_AGE_US;
            if let Err(error) = compact(&store, run, epoch, Some(before_us), &regions, &plan).await
            {
                tracing::warn!(%run, %error, "compaction is done later");
            }
        });
    }
}
