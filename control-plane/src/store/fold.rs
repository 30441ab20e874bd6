//! The fold: deltas become windows and summaries, once, in one transaction.
//!
//! The caller merges and hands over the merged bodies; this file makes the exchange atomic. Only
//! the run's owner may fold, since two that merge into one window would lose each other's part.
//! `folded_through` rises from the value that the caller merged on top of, so of two folds that
//! read the same deltas only one commits, and exactly the deltas it stands for are deleted.
//! A process killed at any statement leaves the state before.

use shoal_domain::ids::RunId;
use shoal_service_kit::Clock;

use super::error::unavailable;
use super::trackers::put_tracker;
use super::{Store, StoreError, SummaryRow, TrackerRow, Tx, WindowRow, in_tx};
use crate::clock::ControlClock;

/// How far one grant is folded by a batch.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FoldedThrough {
    pub assignment_id: String,
    pub epoch: i64,
    /// `folded_through` when the windows and summaries to merge with were read.
    pub from: i64,
    /// The last delta that is in this batch.
    pub through: i64,
}

/// Merged bodies, each replacing the row of its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoldBatch {
    pub run_id: RunId,
    /// The epoch under which the caller owns the run.
    pub owner_epoch: i64,
    pub through: Vec<FoldedThrough>,
    pub windows: Vec<WindowRow>,
    pub summaries: Vec<SummaryRow>,
    pub trackers: Vec<TrackerRow>,
}

impl Store {
    /// A [`StoreError::Conflict`] says that another fold came first, or another owner: nothing
    /// was written. An owner reads, merges and folds one batch of a run at a time.
    pub async fn fold(&self, batch: &FoldBatch) -> Result<(), StoreError> {
        const DOING: &str = "fold deltas";
        let mut tx = self.begin(DOING).await?;
        require_owner(&mut tx, batch.run_id, batch.owner_epoch).await?;
        // In order of assignment, like ingest: nobody waits in a circle.
        let mut grants: Vec<&FoldedThrough> = batch.through.iter().collect();
        grants.sort();
        for grant in grants {
            raise(&mut tx, batch.run_id, grant).await?;
            delete_folded(&mut tx, grant).await?;
        }
        for window in &batch.windows {
            put_window(&mut tx, batch.run_id, window).await?;
        }
        for summary in &batch.summaries {
            put_summary(&mut tx, batch.run_id, summary).await?;
        }
        for tracker in &batch.trackers {
            put_tracker(&mut tx, batch.run_id, tracker).await?;
        }
        tx.commit(DOING).await
    }
}

impl Store {
    /// Puts closing totals in the place of summaries that are not what an agent counted, marks the
    /// windows of those series, and writes it into the run's history: all or nothing.
    pub async fn repair(
        &self,
        run_id: RunId,
        owner_epoch: i64,
        summaries: &[SummaryRow],
        gone: &[(i64, i64)],
        text: &str,
    ) -> Result<(), StoreError> {
        const DOING: &str = "repair a run's sums";
        const DELETE: &str = "DELETE FROM summaries WHERE run_id = $1 AND assignment_id = $2 \
             AND epoch = $3 AND series = $4 AND stage = $5";
        const MARK: &str = "UPDATE windows SET storage_gap = 1 WHERE run_id = $1 AND series = $2";
        const EVENT: &str = "INSERT INTO events (run_id, n, at_us, kind, text) \
             SELECT run_id, n_events, $2, 'storage_gap', $3 FROM runs WHERE run_id = $1";
        const NUMBER: &str = "UPDATE runs SET n_events = n_events + 1 WHERE run_id = $1";
        let Some(first) = summaries.first() else { return Ok(()) };
        let mut tx = self.begin(DOING).await?;
        require_owner(&mut tx, run_id, owner_epoch).await?;
        for (series, stage) in gone {
            in_tx!(tx, |c| sqlx::query(DELETE)
                .bind(run_id.to_string())
                .bind(&first.assignment_id)
                .bind(first.epoch)
                .bind(*series)
                .bind(*stage)
                .execute(c)
                .await
                .map(drop))
            .map_err(unavailable(DOING))?;
        }
        for summary in summaries {
            put_summary(&mut tx, run_id, summary).await?;
            in_tx!(tx, |c| sqlx::query(MARK)
                .bind(run_id.to_string())
                .bind(summary.series)
                .execute(c)
                .await
                .map(drop))
            .map_err(unavailable(DOING))?;
        }
        let now_us = ControlClock.unix_us() as i64;
        in_tx!(tx, |c| sqlx::query(EVENT)
            .bind(run_id.to_string())
            .bind(now_us)
            .bind(text)
            .execute(c)
            .await
            .map(drop))
        .map_err(unavailable(DOING))?;
        in_tx!(tx, |c| sqlx::query(NUMBER).bind(run_id.to_string()).execute(c).await.map(drop))
            .map_err(unavailable(DOING))?;
        tx.commit(DOING).await
    }
}

async fn require_owner(tx: &mut Tx, run_id: RunId, owner_epoch: i64) -> Result<(), StoreError> {
    // Changes nothing but holds the row: a claim waits until this fold is there to be read.
    const REQUIRE: &str = "UPDATE runs SET owner_epoch = owner_epoch \
         WHERE run_id = $1 AND owner_epoch = $2";
    let owned = in_tx!(*tx, |c| sqlx::query(REQUIRE)
        .bind(run_id.to_string())
        .bind(owner_epoch)
        .execute(c)
        .await
        .map(|done| done.rows_affected() > 0))
    .map_err(unavailable("fold deltas"))?;
    if owned {
        return Ok(());
    }
    Err(StoreError::conflict(format!("run {run_id} is no longer owned under epoch {owner_epoch}")))
}

async fn raise(tx: &mut Tx, run_id: RunId, grant: &FoldedThrough) -> Result<(), StoreError> {
    // Only on top of what was merged with; never beyond what was received.
    const RAISE: &str = "UPDATE assignments SET folded_through = $4 \
         WHERE assignment_id = $1 AND epoch = $2 AND folded_through = $3 AND run_id = $5";
    let raised = in_tx!(*tx, |c| sqlx::query(RAISE)
        .bind(&grant.assignment_id)
        .bind(grant.epoch)
        .bind(grant.from)
        .bind(grant.through)
        .bind(run_id.to_string())
        .execute(c)
        .await
        .map(|done| done.rows_affected() > 0))
    .map_err(unavailable("fold deltas"))?;
    if raised {
        return Ok(());
    }
    Err(StoreError::conflict(format!(
        "epoch {} of assignment {} is no longer folded through {}; merge again",
        grant.epoch, grant.assignment_id, grant.from
    )))
}

async fn delete_folded(tx: &mut Tx, grant: &FoldedThrough) -> Result<(), StoreError> {
    const DELETE: &str = "DELETE FROM deltas WHERE assignment_id = $1 AND epoch = $2 \
         AND seq > $3 AND seq <= $4";
    let deleted = in_tx!(*tx, |c| sqlx::query(DELETE)
        .bind(&grant.assignment_id)
        .bind(grant.epoch)
        .bind(grant.from)
        .bind(grant.through)
        .execute(c)
        .await
        .map(|done| done.rows_affected()))
    .map_err(unavailable("fold deltas"))?;
    // A hole would be counted as stored for ever without having been merged.
    if i64::try_from(deleted).ok() == Some(grant.through - grant.from) {
        return Ok(());
    }
    Err(StoreError::conflict(format!(
        "epoch {} of assignment {} holds {deleted} deltas in {}..={}, a hole",
        grant.epoch,
        grant.assignment_id,
        grant.from + 1,
        grant.through
    )))
}

pub(super) async fn put_window(
    tx: &mut Tx,
    run_id: RunId,
    window: &WindowRow,
) -> Result<(), StoreError> {
    const PUT: &str = "INSERT INTO windows (run_id, window_index, series, region, sent, acked, \
         errors, body) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) \
         ON CONFLICT (run_id, window_index, series, region) DO UPDATE SET sent = excluded.sent, \
         acked = excluded.acked, errors = excluded.errors, body = excluded.body";
    in_tx!(*tx, |c| sqlx::query(PUT)
        .bind(run_id.to_string())
        .bind(window.window)
        .bind(window.series)
        .bind(&window.region)
        .bind(window.sent)
        .bind(window.acked)
        .bind(window.errors)
        .bind(&window.body)
        .execute(c)
        .await
        .map(drop))
    .map_err(unavailable("fold deltas into windows"))
}

async fn put_summary(tx: &mut Tx, run_id: RunId, summary: &SummaryRow) -> Result<(), StoreError> {
    const PUT: &str = "INSERT INTO summaries (run_id, series, stage, assignment_id, epoch, body) \
         VALUES ($1, $2, $3, $4, $5, $6) \
         ON CONFLICT (run_id, series, stage, assignment_id, epoch) \
         DO UPDATE SET body = excluded.body";
    in_tx!(*tx, |c| sqlx::query(PUT)
        .bind(run_id.to_string())
        .bind(summary.series)
        .bind(summary.stage)
        .bind(&summary.assignment_id)
        .bind(summary.epoch)
        .bind(&summary.body)
        .execute(c)
        .await
        .map(drop))
    .map_err(unavailable("fold deltas into summaries"))
}
