//! Which runs may go, and how they go: over, old enough, not among the newest, nobody's baseline.

use shoal_domain::ids::RunId;
use sqlx::FromRow;

use super::error::unavailable;
use super::run_row::parse_run_id;
use super::{Store, StoreError, on_db};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrunePolicy {
    /// The newest so many stay, whatever their age.
    pub keep: i64,
    /// Only runs that ended before.
    pub ended_before_us: i64,
}

/// A run that the policy lets go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prunable {
    pub run_id: RunId,
    pub name: String,
}

#[derive(FromRow)]
struct RawPrunable {
    run_id: String,
    name: String,
}

impl Store {
    /// Oldest first, at most `limit`.
    pub async fn prunable(
        &self,
        policy: PrunePolicy,
        limit: i64,
    ) -> Result<Vec<Prunable>, StoreError> {
        const PRUNABLE: &str = "SELECT run_id, name FROM runs \
             WHERE ended_at_us IS NOT NULL AND ended_at_us < $1 \
             AND run_id NOT IN (SELECT run_id FROM runs ORDER BY run_id DESC LIMIT $2) \
             AND NOT EXISTS (SELECT 1 FROM baselines b WHERE b.run_id = runs.run_id) \
             ORDER BY run_id LIMIT $3";
        let rows: Vec<RawPrunable> = on_db!(self, read, |p| sqlx::query_as(PRUNABLE)
            .bind(policy.ended_before_us)
            .bind(policy.keep)
            .bind(limit)
            .fetch_all(p)
            .await)
        .map_err(unavailable("look for runs to prune"))?;
        rows.into_iter()
            .map(|row| Ok(Prunable { run_id: parse_run_id("runs", &row.run_id)?, name: row.name }))
            .collect()
    }

    /// Removes a run that is over and no baseline, with all that hangs on it; `false` if there is
    /// none such.
    pub async fn delete_run(&self, run_id: RunId) -> Result<bool, StoreError> {
        // A run that goes on has agents whose deltas must find their assignment.
        const DELETE: &str = "DELETE FROM runs WHERE run_id = $1 AND ended_at_us IS NOT NULL \
             AND NOT EXISTS (SELECT 1 FROM baselines b WHERE b.run_id = runs.run_id)";
        on_db!(self, write, |p| sqlx::query(DELETE)
            .bind(run_id.to_string())
            .execute(p)
            .await
            .map(|done| done.rows_affected() > 0))
        .map_err(unavailable("delete a run"))
    }
}
