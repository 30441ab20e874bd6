//! Tracker blocks: written by the fold that takes in the receipts they stand for, never alone.

use shoal_domain::ids::RunId;
use sqlx::FromRow;

use super::error::unavailable;
use super::{Store, StoreError, Tx, in_tx, on_db};

/// One block of devices of one observer.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct TrackerRow {
    pub observer: i64,
    pub block: i64,
    pub body: Vec<u8>,
}

impl Store {
    pub async fn trackers(&self, run_id: RunId) -> Result<Vec<TrackerRow>, StoreError> {
        const TRACKERS: &str = "SELECT observer, block, body FROM trackers WHERE run_id = $1 \
             ORDER BY observer, block";
        on_db!(self, read, |p| sqlx::query_as(TRACKERS).bind(run_id.to_string()).fetch_all(p).await)
            .map_err(unavailable("read a run's trackers"))
    }
}

pub(super) async fn put_tracker(
    tx: &mut Tx,
    run_id: RunId,
    tracker: &TrackerRow,
) -> Result<(), StoreError> {
    const PUT: &str = "INSERT INTO trackers (run_id, observer, block, body) \
         VALUES ($1, $2, $3, $4) \
         ON CONFLICT (run_id, observer, block) DO UPDATE SET body = excluded.body";
    in_tx!(*tx, |c| sqlx::query(PUT)
        .bind(run_id.to_string())
        .bind(tracker.observer)
        .bind(tracker.block)
        .bind(&tracker.body)
        .execute(c)
        .await
        .map(drop))
    .map_err(unavailable("fold receipts into trackers"))
}
