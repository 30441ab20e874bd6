//! Request logs: written with the deltas they came with, read second by second, gone with their run.
//!
//! Invariant: a log is there exactly if its delta was taken in, however often that was sent.

use shoal_domain::ids::RunId;
use sqlx::FromRow;

use super::error::unavailable;
use super::{IncomingDelta, Store, StoreError, Tx, in_tx, on_db};

/// The requests that came with a delta.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IncomingRequests {
    pub n_rows: i64,
    pub dropped: i64,
    pub body: Vec<u8>,
}

impl IncomingRequests {
    pub fn is_empty(&self) -> bool {
        self.n_rows == 0 && self.dropped == 0
    }
}

#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct RequestLogRow {
    pub agent_id: String,
    pub dropped: i64,
    pub body: Vec<u8>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromRow)]
pub struct RequestTotals {
    pub n_rows: i64,
    pub dropped: i64,
    pub n_bytes: i64,
}

pub(super) async fn insert(tx: &mut Tx, delta: &IncomingDelta) -> Result<(), StoreError> {
    const INSERT: &str = "INSERT INTO request_logs (run_id, last_window, assignment_id, epoch, seq, \
         n_rows, dropped, body) SELECT run_id, $1, assignment_id, epoch, $4, $5, $6, $7 \
         FROM assignments WHERE assignment_id = $2 AND epoch = $3";
    let requests = &delta.requests;
    in_tx!(*tx, |c| sqlx::query(INSERT)
        .bind(delta.last_window)
        .bind(&delta.assignment_id)
        .bind(delta.epoch)
        .bind(delta.seq)
        .bind(requests.n_rows)
        .bind(requests.dropped)
        .bind(&requests.body)
        .execute(c)
        .await
        .map(drop))
    .map_err(unavailable("take in request logs"))
}

impl Store {
    /// The first window behind `after` of which there is a log.
    pub async fn next_request_window(
        &self,
        run_id: RunId,
        after: i64,
    ) -> Result<Option<i64>, StoreError> {
        const NEXT: &str =
            "SELECT MIN(last_window) FROM request_logs WHERE run_id = $1 AND last_window > $2";
        on_db!(self, read, |p| sqlx::query_scalar(NEXT)
            .bind(run_id.to_string())
            .bind(after)
            .fetch_one(p)
            .await)
        .map_err(unavailable("read the request log of a run"))
    }

    /// What all agents logged in the window, by agent and in the order of their ends.
    pub async fn request_logs(
        &self,
        run_id: RunId,
        window: i64,
    ) -> Result<Vec<RequestLogRow>, StoreError> {
        const LOGS: &str = "SELECT a.agent_id, l.dropped, l.body FROM request_logs l \
             JOIN assignments a ON a.assignment_id = l.assignment_id AND a.epoch = l.epoch \
             WHERE l.run_id = $1 AND l.last_window = $2 ORDER BY l.assignment_id, l.epoch, l.seq";
        on_db!(self, read, |p| sqlx::query_as(LOGS)
            .bind(run_id.to_string())
            .bind(window)
            .fetch_all(p)
            .await)
        .map_err(unavailable("read the request log of a run"))
    }

    pub async fn request_totals(&self, run_id: RunId) -> Result<RequestTotals, StoreError> {
        const TOTALS: &str = "SELECT CAST(COALESCE(SUM(n_rows), 0) AS BIGINT) AS n_rows, \
             CAST(COALESCE(SUM(dropped), 0) AS BIGINT) AS dropped, \
             CAST(COALESCE(SUM(LENGTH(body)), 0) AS BIGINT) AS n_bytes \
             FROM request_logs WHERE run_id = $1";
        on_db!(self, read, |p| sqlx::query_as(TOTALS).bind(run_id.to_string()).fetch_one(p).await)
            .map_err(unavailable("sum the request log of a run"))
    }
}
