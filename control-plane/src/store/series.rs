//! What the series numbers of a run mean, so that a past run can be read without its plan.

use shoal_domain::ids::RunId;
use sqlx::FromRow;

use super::error::{unavailable, unless_taken};
use super::{Store, StoreError, in_tx, on_db};

/// One series; `operation` is a word of the domain.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct SeriesRow {
    pub series: i64,
    pub operation: String,
    pub group_name: String,
    pub name: String,
}

impl Store {
    pub async fn insert_series(
        &self,
        run_id: RunId,
        series: &[SeriesRow],
    ) -> Result<(), StoreError> {
        const INSERT: &str = "INSERT INTO series (run_id, series, operation, group_name, name) \
             VALUES ($1, $2, $3, $4, $5)";
        const DOING: &str = "keep a run's series";
        let mut tx = self.begin(DOING).await?;
        for row in series {
            in_tx!(tx, |c| sqlx::query(INSERT)
                .bind(run_id.to_string())
                .bind(row.series)
                .bind(&row.operation)
                .bind(&row.group_name)
                .bind(&row.name)
                .execute(c)
                .await
                .map(drop))
            .map_err(unless_taken(DOING, || {
                format!("run {run_id} already has a series {}", row.series)
            }))?;
        }
        tx.commit(DOING).await
    }

    pub async fn series(&self, run_id: RunId) -> Result<Vec<SeriesRow>, StoreError> {
        const SERIES: &str = "SELECT series, operation, group_name, name FROM series \
             WHERE run_id = $1 ORDER BY series";
        on_db!(self, read, |p| sqlx::query_as(SERIES).bind(run_id.to_string()).fetch_all(p).await)
            .map_err(unavailable("read a run's series"))
    }
}
