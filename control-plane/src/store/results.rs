//! What was folded: windows for the course of a run, summaries for its sum.

use std::collections::{BTreeSet, HashSet};

use shoal_domain::ids::RunId;
use sqlx::FromRow;

use super::error::unavailable;
use super::{Store, StoreError, on_db};

/// One window of one series in one region; series -1 for what belongs to no series.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct WindowRow {
    pub series: i64,
    pub region: String,
    #[sqlx(rename = "window_index")]
    pub window: i64,
    pub body: Vec<u8>,
    pub sent: i64,
    pub acked: i64,
    pub errors: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WindowKey {
    pub series: i64,
    pub region: String,
    pub window: i64,
}

impl WindowRow {
    pub fn key(&self) -> WindowKey {
        WindowKey { series: self.series, region: self.region.clone(), window: self.window }
    }
}

/// The sum of one grant in one cell; series -1 with stage -1 for what belongs to no cell.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct SummaryRow {
    pub series: i64,
    pub stage: i64,
    pub assignment_id: String,
    pub epoch: i64,
    pub body: Vec<u8>,
}

impl Store {
    /// Windows `from..to` with all their series, in order of time.
    pub async fn windows_of(
        &self,
        run_id: RunId,
        from: i64,
        to: i64,
    ) -> Result<Vec<WindowRow>, StoreError> {
        const SPAN: &str = "SELECT series, region, window_index, body, sent, acked, errors \
             FROM windows WHERE run_id = $1 AND window_index >= $2 AND window_index < $3 \
             ORDER BY window_index, series, region";
        on_db!(self, read, |p| sqlx::query_as(SPAN)
            .bind(run_id.to_string())
            .bind(from)
            .bind(to)
            .fetch_all(p)
            .await)
        .map_err(unavailable("read a run's windows"))
    }

    /// Those of the windows named by `keys` that exist. One statement per stretch of adjacent
    /// windows: what is folded together lies close together.
    pub async fn windows(
        &self,
        run_id: RunId,
        keys: &[WindowKey],
    ) -> Result<Vec<WindowRow>, StoreError> {
        let wanted: HashSet<&WindowKey> = keys.iter().collect();
        let mut found = Vec::new();
        for (from, to) in stretches(keys.iter().map(|key| key.window).collect()) {
            let rows = self.windows_of(run_id, from, to).await?;
            found.extend(rows.into_iter().filter(|row| wanted.contains(&row.key())));
        }
        Ok(found)
    }

    pub async fn summaries(&self, run_id: RunId) -> Result<Vec<SummaryRow>, StoreError> {
        const SUMMARIES: &str = "SELECT series, stage, assignment_id, epoch, body \
             FROM summaries WHERE run_id = $1 ORDER BY series, stage, assignment_id, epoch";
        on_db!(self, read, |p| sqlx::query_as(SUMMARIES)
            .bind(run_id.to_string())
            .fetch_all(p)
            .await)
        .map_err(unavailable("read a run's summaries"))
    }
}

/// Adjacent numbers joined into half-open spans.
fn stretches(windows: BTreeSet<i64>) -> Vec<(i64, i64)> {
    let mut spans: Vec<(i64, i64)> = Vec::new();
    for window in windows {
        match spans.last_mut() {
            Some((_, to)) if *to == window => *to += 1,
            _ => spans.push((window, window + 1)),
        }
    }
    spans
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adjacent_windows_are_read_together() {
        assert_eq!(stretches([3, 4, 5, 9, -1].into()), [(-1, 0), (3, 6), (9, 10)]);
        assert_eq!(stretches(BTreeSet::new()), []);
    }
}
