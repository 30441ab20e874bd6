//! Which control plane drives a run. A claim raises the owner epoch, and every change names the
//! epoch it was decided under, so an owner that was only slow can do no harm afterwards.
//!
//! Two processes may share one SQLite file: a run whose owner shows signs of life is left alone.

use shoal_domain::ids::RunId;

use super::error::unavailable;
use super::{Store, StoreError, on_db};

/// An owner that has not touched its runs for this long may be replaced: three times the beat of
/// 5 s that it is expected to keep.
pub const OWNER_SILENT_US: i64 = 15_000_000;

impl Store {
    /// Takes a run over and returns the epoch to drive it under. Allowed to the owner it already
    /// has, by name, and to others once that one is silent for [`OWNER_SILENT_US`]; with
    /// `from_owner` only as long as that is still its owner.
    pub async fn claim_run(
        &self,
        run_id: RunId,
        from_owner: Option<&str>,
        owner: &str,
        now_us: i64,
    ) -> Result<i64, StoreError> {
        // Of two that claim at once, the second no longer finds the silent owner.
        const CLAIM: &str = "UPDATE runs SET owner = $2, owner_epoch = owner_epoch + 1, \
             owner_seen_us = $3 WHERE run_id = $1 AND ended_at_us IS NULL \
             AND owner = COALESCE($4, owner) AND (owner = $2 OR owner_seen_us <= $5) \
             RETURNING owner_epoch";
        let claimed: Option<i64> = on_db!(self, write, |p| sqlx::query_scalar(CLAIM)
            .bind(run_id.to_string())
            .bind(owner)
            .bind(now_us)
            .bind(from_owner)
            .bind(now_us.saturating_sub(OWNER_SILENT_US))
            .fetch_optional(p)
            .await)
        .map_err(unavailable("claim a run"))?;
        match claimed {
            Some(owner_epoch) => Ok(owner_epoch),
            None => Err(StoreError::conflict(match self.run(run_id).await? {
                None => format!("there is no run {run_id}"),
                Some(run) if run.phase.is_over() => {
                    format!("run {run_id} is over ({})", run.phase.word())
                }
                Some(run) => format!(
                    "run {run_id} is owned by `{}`, last seen {} s ago",
                    run.owner,
                    now_us.saturating_sub(run.owner_seen_us).max(0) / 1_000_000
                ),
            })),
        }
    }

    /// The owner's sign of life on all its runs that go on; returns how many those are.
    pub async fn touch_owner(&self, owner: &str, now_us: i64) -> Result<u64, StoreError> {
        const TOUCH: &str =
            "UPDATE runs SET owner_seen_us = $2 WHERE owner = $1 AND ended_at_us IS NULL";
        on_db!(self, write, |p| sqlx::query(TOUCH)
            .bind(owner)
            .bind(now_us)
            .execute(p)
            .await
            .map(|done| done.rows_affected()))
        .map_err(unavailable("keep its owner's sign of life"))
    }
}
