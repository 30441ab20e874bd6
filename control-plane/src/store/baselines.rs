//! Baselines: per scenario and labels, the run that later ones are compared with, and its repeats.

use shoal_domain::ids::RunId;
use shoal_domain::labels::Labels;
use sqlx::FromRow;

use super::error::{unavailable, unless_taken};
use super::run_row::parse_run_id;
use super::{Store, StoreError, in_tx, on_db};

/// One run of a baseline; position 0 is the one that differences are taken from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaselineRow {
    pub scenario_name: String,
    pub labels: Labels,
    pub position: i64,
    pub run_id: RunId,
    pub run_name: String,
    pub set_at_us: i64,
}

#[derive(FromRow)]
struct RawBaseline {
    scenario_name: String,
    labels: String,
    position: i64,
    run_id: String,
    run_name: String,
    set_at_us: i64,
}

impl TryFrom<RawBaseline> for BaselineRow {
    type Error = StoreError;

    fn try_from(raw: RawBaseline) -> Result<Self, StoreError> {
        let labels = serde_json::from_str(&raw.labels).map_err(|error| {
            let (id, why) = (raw.scenario_name.clone(), error.to_string());
            StoreError::Inconsistent { table: "baselines", column: "labels", id, why }
        })?;
        Ok(Self {
            labels,
            run_id: parse_run_id("baselines", &raw.run_id)?,
            scenario_name: raw.scenario_name,
            position: raw.position,
            run_name: raw.run_name,
            set_at_us: raw.set_at_us,
        })
    }
}

impl Store {
    /// In place of what was the baseline there; the first run is it, the others are its repeats.
    pub async fn set_baseline(
        &self,
        scenario_name: &str,
        labels: &Labels,
        runs: &[RunId],
        now_us: i64,
    ) -> Result<(), StoreError> {
        const INSERT: &str = "INSERT INTO baselines (scenario_name, labels, position, run_id, \
             set_at_us) VALUES ($1, $2, $3, $4, $5)";
        const DOING: &str = "keep a baseline";
        let mut tx = self.begin(DOING).await?;
        in_tx!(tx, |c| sqlx::query(CLEAR)
            .bind(scenario_name)
            .bind(labels.canonical())
            .execute(c)
            .await
            .map(drop))
        .map_err(unavailable(DOING))?;
        for (position, run_id) in runs.iter().enumerate() {
            in_tx!(tx, |c| sqlx::query(INSERT)
                .bind(scenario_name)
                .bind(labels.canonical())
                .bind(position as i64)
                .bind(run_id.to_string())
                .bind(now_us)
                .execute(c)
                .await
                .map(drop))
            .map_err(unless_taken(DOING, || {
                format!("somebody else sets the baseline of `{scenario_name}` just now")
            }))?;
        }
        tx.commit(DOING).await
    }

    /// Whether there was one.
    pub async fn clear_baseline(
        &self,
        scenario_name: &str,
        labels: &Labels,
    ) -> Result<bool, StoreError> {
        on_db!(self, write, |p| sqlx::query(CLEAR)
            .bind(scenario_name)
            .bind(labels.canonical())
            .execute(p)
            .await
            .map(|done| done.rows_affected() > 0))
        .map_err(unavailable("clear a baseline"))
    }

    /// All of a scenario, or of all scenarios (`None`), each with its runs in order.
    pub async fn baselines(&self, scenario: Option<&str>) -> Result<Vec<BaselineRow>, StoreError> {
        const BASELINES: &str = "SELECT b.scenario_name, b.labels, b.position, b.run_id, \
             r.name AS run_name, b.set_at_us FROM baselines b JOIN runs r ON r.run_id = b.run_id \
             WHERE ($1 = '' OR b.scenario_name = $1) \
             ORDER BY b.scenario_name, b.labels, b.position";
        let rows: Vec<RawBaseline> = on_db!(self, read, |p| sqlx::query_as(BASELINES)
            .bind(scenario.unwrap_or(""))
            .fetch_all(p)
            .await)
        .map_err(unavailable("read the baselines"))?;
        rows.into_iter().map(BaselineRow::try_from).collect()
    }
}

const CLEAR: &str = "DELETE FROM baselines WHERE scenario_name = $1 AND labels = $2";
