//! Which of the control planes on one database is in charge; the others stand by.
//!
//! One row. Its leader counts beats, and who stands by watches whether they rise, on its own clock:
//! nobody compares times of two machines. Every take-over raises the epoch.

use shoal_domain::clock::Anchor;
use sqlx::FromRow;

use super::error::unavailable;
use super::{Store, StoreError, Tx, in_tx, on_db};

/// Keeps the lead as it is until the transaction ends; an error where another one has taken it.
pub(super) async fn require_lead(tx: &mut Tx, epoch: i64) -> Result<(), StoreError> {
    const REQUIRE: &str = "UPDATE leader SET epoch = epoch WHERE id = 1 AND epoch = $1";
    let kept = in_tx!(*tx, |c| sqlx::query(REQUIRE)
        .bind(epoch)
        .execute(c)
        .await
        .map(|done| done.rows_affected() > 0));
    match kept.map_err(unavailable("confirm the lead"))? {
        true => Ok(()),
        false => Err(StoreError::NotInCharge),
    }
}

/// The row as it was read.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Leader {
    /// Empty: it gave up in order.
    pub owner: String,
    pub epoch: i64,
    pub beats: i64,
}

impl Store {
    pub async fn leader(&self) -> Result<Option<Leader>, StoreError> {
        const LEADER: &str = "SELECT owner, epoch, beats FROM leader WHERE id = 1";
        on_db!(self, write, |p| sqlx::query_as(LEADER).fetch_optional(p).await)
            .map_err(unavailable("read who is in charge"))
    }

    /// Takes the lead from whoever had it when `seen` was read; the new epoch, or `None` if somebody
    /// else was faster or the leader has beaten since.
    pub async fn take_lead(
        &self,
        owner: &str,
        seen: Option<&Leader>,
    ) -> Result<Option<i64>, StoreError> {
        const FIRST: &str = "INSERT INTO leader (id, owner, epoch, beats) VALUES (1, $1, 1, 0) \
             ON CONFLICT (id) DO NOTHING RETURNING epoch";
        const NEXT: &str = "UPDATE leader SET owner = $1, epoch = epoch + 1, beats = 0 \
             WHERE id = 1 AND epoch = $2 AND beats = $3 RETURNING epoch";
        match seen {
            None => {
                on_db!(self, write, |p| sqlx::query_scalar(FIRST)
                    .bind(owner)
                    .fetch_optional(p)
                    .await)
            }
            Some(seen) => on_db!(self, write, |p| sqlx::query_scalar(NEXT)
                .bind(owner)
                .bind(seen.epoch)
                .bind(seen.beats)
                .fetch_optional(p)
                .await),
        }
        .map_err(unavailable("take the lead"))
    }

    /// The time that the leader goes by, if it has said so.
    pub async fn control_time(&self) -> Result<Option<Anchor>, StoreError> {
        const TIME: &str =
            "SELECT boot_id, unix_minus_boot_us FROM leader WHERE id = 1 AND boot_id <> ''";
        let row: Option<(String, i64)> =
            on_db!(self, write, |p| sqlx::query_as(TIME).fetch_optional(p).await)
                .map_err(unavailable("read the control plane's time"))?;
        Ok(row.map(|(boot_id, unix_minus_boot_us)| Anchor { boot_id, unix_minus_boot_us }))
    }

    /// Keeps the time that the leader goes by; `false`: somebody else leads.
    pub async fn keep_control_time(&self, epoch: i64, time: &Anchor) -> Result<bool, StoreError> {
        const KEEP: &str =
            "UPDATE leader SET boot_id = $1, unix_minus_boot_us = $2 WHERE id = 1 AND epoch = $3";
        on_db!(self, write, |p| sqlx::query(KEEP)
            .bind(&time.boot_id)
            .bind(time.unix_minus_boot_us)
            .bind(epoch)
            .execute(p)
            .await
            .map(|done| done.rows_affected() > 0))
        .map_err(unavailable("keep the control plane's time"))
    }

    /// The leader's sign of life; `false`: somebody else leads.
    pub async fn keep_lead(&self, epoch: i64) -> Result<bool, StoreError> {
        const KEEP: &str = "UPDATE leader SET beats = beats + 1 WHERE id = 1 AND epoch = $1";
        on_db!(self, write, |p| sqlx::query(KEEP)
            .bind(epoch)
            .execute(p)
            .await
            .map(|done| done.rows_affected() > 0))
        .map_err(unavailable("keep the lead"))
    }

    /// So that who stands by need not wait.
    pub async fn give_up_lead(&self, epoch: i64) -> Result<(), StoreError> {
        const GIVE_UP: &str =
            "UPDATE leader SET owner = '', beats = beats + 1 WHERE id = 1 AND epoch = $1";
        on_db!(self, write, |p| sqlx::query(GIVE_UP).bind(epoch).execute(p).await.map(drop))
            .map_err(unavailable("give up the lead"))
    }
}
