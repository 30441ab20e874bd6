//! Windows of runs that are over, exchanged for coarser ones; see [`crate::coarsen`].

use shoal_domain::ids::RunId;

use super::error::unavailable;
use super::fold::put_window;
use super::run_row::parse_run_id;
use super::{Store, StoreError, WindowRow, in_tx, on_db};

impl Store {
    /// Runs that ended before and whose windows are finer, the oldest first.
    pub async fn finer_than(
        &self,
        seconds: i64,
        ended_before_us: i64,
        limit: i64,
    ) -> Result<Vec<RunId>, StoreError> {
        const FINER: &str = "SELECT run_id FROM runs WHERE ended_at_us IS NOT NULL \
             AND ended_at_us < $1 AND window_s < $2 ORDER BY run_id LIMIT $3";
        let ids: Vec<(String,)> = on_db!(self, read, |p| sqlx::query_as(FINER)
            .bind(ended_before_us)
            .bind(seconds)
            .bind(limit)
            .fetch_all(p)
            .await)
        .map_err(unavailable("look for runs with fine windows"))?;
        ids.iter().map(|(id,)| parse_run_id("runs", id)).collect()
    }

    pub async fn last_window(&self, run_id: RunId) -> Result<Option<i64>, StoreError> {
        const LAST: &str = "SELECT MAX(window_index) FROM windows WHERE run_id = $1";
        let (last,): (Option<i64>,) = on_db!(self, read, |p| sqlx::query_as(LAST)
            .bind(run_id.to_string())
            .fetch_one(p)
            .await)
        .map_err(unavailable("look for a run's last window"))?;
        Ok(last)
    }

    /// All windows of a span of a run that is over give way to these.
    pub async fn replace_windows(
        &self,
        run_id: RunId,
        (from, to): (i64, i64),
        rows: &[WindowRow],
    ) -> Result<(), StoreError> {
        const CLEAR: &str = "DELETE FROM windows WHERE run_id = $1 AND window_index >= $2 \
             AND window_index < $3";
        const DOING: &str = "exchange a run's windows";
        let mut tx = self.begin(DOING).await?;
        in_tx!(tx, |c| sqlx::query(CLEAR)
            .bind(run_id.to_string())
            .bind(from)
            .bind(to)
            .execute(c)
            .await
            .map(drop))
        .map_err(unavailable(DOING))?;
        for row in rows {
            put_window(&mut tx, run_id, row).await?;
        }
        tx.commit(DOING).await
    }

    /// From now on its windows are read as so long.
    pub async fn set_window_seconds(&self, run_id: RunId, seconds: i64) -> Result<(), StoreError> {
        const SET: &str = "UPDATE runs SET window_s = $2 \
             WHERE run_id = $1 AND ended_at_us IS NOT NULL AND window_s < $2";
        on_db!(self, write, |p| sqlx::query(SET)
            .bind(run_id.to_string())
            .bind(seconds)
            .execute(p)
            .await
            .map(drop))
        .map_err(unavailable("say how long a run's windows are"))
    }
}
