//! What every grant has reported so far, as far as it takes to tell whether the next report can be true.
//!
//! Kept in memory only: after a restart the numbers come from the store, and the bound on slots counts
//! from there. Invariant: a delta that was not believed is never stored.

use std::collections::HashMap;
use std::time::Duration;

use shoal_domain::belief::{Credit, Given};
use shoal_domain::delta::Delta;
use shoal_domain::ids::{AgentId, GrantId};
use shoal_domain::shard::Shard;
use shoal_service_kit::Backoff;

use crate::fleet::Grant;
use crate::orchestrator::ActiveRun;
use crate::store::Store;

/// Grants that are remembered; beyond it all are asked for again.
const MOST_GRANTS: usize = 8_192;

#[derive(Default)]
pub(super) struct Beliefs {
    credits: HashMap<Grant, Credit>,
}

impl Beliefs {
    /// `Err`: why it cannot be true.
    pub(super) async fn take(
        &mut self,
        store: &Store,
        active: &ActiveRun,
        grant: &Grant,
        seq: u64,
        delta: &Delta,
        totals: Option<Delta>,
    ) -> Result<(), String> {
        if !self.credits.contains_key(grant) {
            let Some(credit) = stored(store, grant).await else { return Ok(()) };
            if self.credits.len() >= MOST_GRANTS {
                self.credits.clear();
            }
            self.credits.insert(grant.clone(), credit);
        }
        let Some(credit) = self.credits.get_mut(grant) else { return Ok(()) };
        let status = active.status.borrow();
        let roster = &status.record.roster;
        let owner = owner_of(&grant.0).filter(|_| !grant.0.contains(':'));
        let is_it = |id: &GrantId| id.epoch == grant.1 && owner.as_ref() == Some(&id.agent);
        let shard = match roster.grants.iter().find(|known| is_it(&known.id)) {
            Some(held) if !held.blocks.is_empty() => Shard { blocks: held.blocks.clone() },
            // It reads for an observer.
            None if owner.is_none() => Shard::default(),
            // What it holds is not read back yet: nothing to judge by.
            Some(_) | None => return Ok(()),
        };
        let given = Given { timetable: &active.timetable, shard: &shard };
        let believed = credit.take(given, seq, delta).and_then(|()| match &totals {
            Some(totals) => credit.total(given, totals),
            None => Ok(()),
        });
        believed.map_err(|impossible| impossible.to_string())
    }
}

/// `None`: it was never granted, as the store will say.
async fn stored(store: &Store, (assignment, epoch): &Grant) -> Option<Credit> {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(3));
    loop {
        match store.acked_through(assignment, *epoch as i64).await {
            Ok(through) => return through.map(Credit::stored_through),
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "deltas wait");
                tokio::time::sleep(backoff.next()).await;
            }
        }
    }
}

/// Whose assignment it is: ids are `<run>.<agent>`, of readers `<run>.<agent>:<observer>`.
pub(super) fn owner_of(assignment: &str) -> Option<AgentId> {
    let (_, agent) = assignment.split_once('.')?;
    agent.split(':').next()?.parse().ok()
}
