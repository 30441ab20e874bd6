//! How each threshold of a run stands; the whole list is replaced at every judgement.

use shoal_domain::ids::RunId;
use sqlx::FromRow;

use super::error::{unavailable, unless_taken};
use super::{Store, StoreError, in_tx, on_db};

/// One threshold, at its place in the list.
#[derive(Debug, Clone, PartialEq, FromRow)]
pub struct ThresholdRow {
    pub position: i64,
    pub text: String,
    /// `None`: the metric had no data. Never NaN, which SQLite cannot keep.
    pub value: Option<f64>,
    #[sqlx(rename = "limit_value")]
    pub limit: f64,
    pub result: String,
    pub breached_at_us: Option<i64>,
    /// As the document shows it.
    pub report_json: String,
}

impl Store {
    pub async fn put_thresholds(
        &self,
        run_id: RunId,
        thresholds: &[ThresholdRow],
    ) -> Result<(), StoreError> {
        const CLEAR: &str = "DELETE FROM thresholds WHERE run_id = $1";
        const INSERT: &str = "INSERT INTO thresholds (run_id, position, text, value, \
             limit_value, result, breached_at_us, report_json) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
        const DOING: &str = "keep a run's thresholds";
        let mut tx = self.begin(DOING).await?;
        in_tx!(tx, |c| sqlx::query(CLEAR).bind(run_id.to_string()).execute(c).await.map(drop))
            .map_err(unavailable(DOING))?;
        for row in thresholds {
            in_tx!(tx, |c| sqlx::query(INSERT)
                .bind(run_id.to_string())
                .bind(row.position)
                .bind(&row.text)
                .bind(row.value)
                .bind(row.limit)
                .bind(&row.result)
                .bind(row.breached_at_us)
                .bind(&row.report_json)
                .execute(c)
                .await
                .map(drop))
            .map_err(unless_taken(DOING, || {
                format!("run {run_id} already has a threshold at position {}", row.position)
            }))?;
        }
        tx.commit(DOING).await
    }

    pub async fn thresholds(&self, run_id: RunId) -> Result<Vec<ThresholdRow>, StoreError> {
        const THRESHOLDS: &str = "SELECT position, text, value, limit_value, result, \
             breached_at_us, report_json FROM thresholds WHERE run_id = $1 ORDER BY position";
        on_db!(self, read, |p| sqlx::query_as(THRESHOLDS)
            .bind(run_id.to_string())
            .fetch_all(p)
            .await)
        .map_err(unavailable("read a run's thresholds"))
    }
}
