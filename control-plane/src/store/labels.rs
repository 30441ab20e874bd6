//! Labels of runs, and the agents as a run had them: what makes an old run findable and readable.

use std::collections::HashMap;

use shoal_domain::ids::RunId;
use shoal_domain::labels::Labels;
use sqlx::FromRow;

use super::error::unavailable;
use super::{RunListing, Store, StoreError, Tx, in_tx, on_db};

/// An agent as it was when the run was dealt to it.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct RunAgentRow {
    pub agent_id: String,
    pub build: String,
    pub labels_json: String,
    pub capacity_json: String,
    pub host_json: String,
}

type LabelRow = (String, String, String);

pub(super) async fn put_labels(
    tx: &mut Tx,
    run_id: RunId,
    labels: &Labels,
) -> Result<(), StoreError> {
    const PUT: &str = "INSERT INTO run_labels (run_id, name, value) VALUES ($1, $2, $3)";
    for (name, value) in labels.iter() {
        in_tx!(*tx, |c| sqlx::query(PUT)
            .bind(run_id.to_string())
            .bind(name)
            .bind(value)
            .execute(c)
            .await
            .map(drop))
        .map_err(unavailable("keep a run's labels"))?;
    }
    Ok(())
}

impl Store {
    /// All labels of a run, in place of what it had.
    pub async fn set_labels(&self, run_id: RunId, labels: &Labels) -> Result<(), StoreError> {
        const CLEAR: &str = "DELETE FROM run_labels WHERE run_id = $1";
        const DOING: &str = "keep a run's labels";
        let mut tx = self.begin(DOING).await?;
        in_tx!(tx, |c| sqlx::query(CLEAR).bind(run_id.to_string()).execute(c).await.map(drop))
            .map_err(unavailable(DOING))?;
        put_labels(&mut tx, run_id, labels).await?;
        tx.commit(DOING).await
    }

    pub async fn labels(&self, run_id: RunId) -> Result<Labels, StoreError> {
        let id = run_id.to_string();
        let rows = self.labels_between(&id, &id).await?;
        labels_of(&id, rows.into_iter().map(|(_, name, value)| (name, value)))
    }

    /// Rows in order of run.
    async fn labels_between(&self, first: &str, last: &str) -> Result<Vec<LabelRow>, StoreError> {
        const LABELS: &str = "SELECT run_id, name, value FROM run_labels \
             WHERE run_id >= $1 AND run_id <= $2 ORDER BY run_id, name";
        on_db!(self, read, |p| sqlx::query_as(LABELS).bind(first).bind(last).fetch_all(p).await)
            .map_err(unavailable("read labels"))
    }

    /// One statement for the page: its runs lie side by side.
    pub(super) async fn with_labels(
        &self,
        mut page: Vec<RunListing>,
    ) -> Result<Vec<RunListing>, StoreError> {
        let (Some(newest), Some(oldest)) = (page.first(), page.last()) else { return Ok(page) };
        let rows =
            self.labels_between(&oldest.run_id.to_string(), &newest.run_id.to_string()).await?;
        let mut by_run: HashMap<String, Vec<(String, String)>> = HashMap::new();
        for (run, name, value) in rows {
            by_run.entry(run).or_default().push((name, value));
        }
        for run in &mut page {
            let id = run.run_id.to_string();
            if let Some(pairs) = by_run.remove(&id) {
                run.labels = labels_of(&id, pairs)?;
            }
        }
        Ok(page)
    }

    pub async fn run_agents(&self, run_id: RunId) -> Result<Vec<RunAgentRow>, StoreError> {
        const AGENTS: &str = "SELECT agent_id, build, labels_json, capacity_json, host_json \
             FROM run_agents WHERE run_id = $1 ORDER BY agent_id";
        on_db!(self, read, |p| sqlx::query_as(AGENTS).bind(run_id.to_string()).fetch_all(p).await)
            .map_err(unavailable("read a run's agents"))
    }
}

fn labels_of(
    run_id: &str,
    pairs: impl IntoIterator<Item = (String, String)>,
) -> Result<Labels, StoreError> {
    Labels::new(pairs).map_err(|error| StoreError::Inconsistent {
        table: "run_labels",
        column: "name",
        id: run_id.to_owned(),
        why: error.to_string(),
    })
}
