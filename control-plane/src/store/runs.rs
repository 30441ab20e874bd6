//! Runs: accepted once, read by id, listed newest first.

use shoal_domain::ids::RunId;
use shoal_domain::run::Phase;

use super::error::{unavailable, unless_taken};
use super::run_row::{RawListing, RawRun, RunListing, RunRow};
use super::{RunFile, Store, StoreError, files, in_tx, on_db};

/// A run as it is accepted; its owner holds epoch 1, its version is 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRun {
    pub run_id: RunId,
    pub name: String,
    pub scenario_name: String,
    pub scenario_text: String,
    pub scenario_sha256: String,
    pub files: Vec<RunFile>,
    pub vars_json: String,
    pub seed: u64,
    pub planned_devices: i64,
    pub created_at_us: i64,
    /// The control plane that drives the run.
    pub owner: String,
    pub owner_token_hash: Option<String>,
    pub phase: Phase,
    pub state_json: String,
}

/// A run id begins with its time, and no ULID begins with an 8: every run sorts before this.
const AFTER_EVERY_RUN: &str = "run_8";

impl Store {
    /// With its files. A name that another run has is a [`StoreError::Conflict`].
    pub async fn insert_run(&self, run: &NewRun) -> Result<(), StoreError> {
        const INSERT: &str = "INSERT INTO runs (run_id, name, scenario_name, scenario_text, \
             scenario_sha256, vars_json, seed, planned_devices, created_at_us, owner, \
             owner_epoch, owner_seen_us, owner_token_hash, version, n_events, phase, state_json) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 1, $9, $11, 1, 0, $12, $13)";
        let mut tx = self.begin("accept a run").await?;
        in_tx!(tx, |c| sqlx::query(INSERT)
            .bind(run.run_id.to_string())
            .bind(&run.name)
            .bind(&run.scenario_name)
            .bind(&run.scenario_text)
            .bind(&run.scenario_sha256)
            .bind(&run.vars_json)
            .bind(run.seed.to_string())
            .bind(run.planned_devices)
            .bind(run.created_at_us)
            .bind(&run.owner)
            .bind(&run.owner_token_hash)
            .bind(run.phase.word())
            .bind(&run.state_json)
            .execute(c)
            .await
            .map(drop))
        .map_err(unless_taken("accept a run", || {
            format!("a run named `{}` exists; give this one another name", run.name)
        }))?;
        files::insert(&mut tx, run.run_id, &run.files).await?;
        tx.commit("accept a run").await
    }

    pub async fn run(&self, run_id: RunId) -> Result<Option<RunRow>, StoreError> {
        const RUN: &str = "SELECT run_id, name, scenario_name, scenario_text, scenario_sha256, \
             vars_json, seed, planned_devices, created_at_us, owner, owner_epoch, owner_seen_us, \
             owner_token_hash, version, phase, state_json, validity, verdict, exit_code, cause, \
             t0_us, ended_at_us FROM runs WHERE run_id = $1";
        let raw: Option<RawRun> = on_db!(self, read, |p| sqlx::query_as(RUN)
            .bind(run_id.to_string())
            .fetch_optional(p)
            .await)
        .map_err(unavailable("read a run"))?;
        raw.map(RunRow::try_from).transpose()
    }

    /// The page of runs accepted before `before`, newest first. The next page begins before the
    /// last run of this one.
    pub async fn list_runs(
        &self,
        before: Option<RunId>,
        limit: i64,
    ) -> Result<Vec<RunListing>, StoreError> {
        const PAGE: &str = "SELECT run_id, name, scenario_name, planned_devices, created_at_us, \
             phase, validity, verdict, exit_code, cause, t0_us, ended_at_us FROM runs \
             WHERE run_id < $1 ORDER BY run_id DESC LIMIT $2";
        let before = before.map_or_else(|| AFTER_EVERY_RUN.to_owned(), |run_id| run_id.to_string());
        let page: Vec<RawListing> = on_db!(self, read, |p| sqlx::query_as(PAGE)
            .bind(before)
            .bind(limit.max(0))
            .fetch_all(p)
            .await)
        .map_err(unavailable("list the runs"))?;
        page.into_iter().map(RunListing::try_from).collect()
    }

    /// Every run that is not over, oldest first: what a restarted control plane picks up.
    pub async fn unfinished_runs(&self) -> Result<Vec<RunRow>, StoreError> {
        const UNFINISHED: &str = "SELECT run_id, name, scenario_name, scenario_text, \
             scenario_sha256, vars_json, seed, planned_devices, created_at_us, owner, \
             owner_epoch, owner_seen_us, owner_token_hash, version, phase, state_json, validity, \
             verdict, exit_code, cause, t0_us, ended_at_us FROM runs \
             WHERE ended_at_us IS NULL ORDER BY run_id";
        let runs: Vec<RawRun> =
            on_db!(self, read, |p| sqlx::query_as(UNFINISHED).fetch_all(p).await)
                .map_err(unavailable("list the runs that go on"))?;
        runs.into_iter().map(RunRow::try_from).collect()
    }

    /// Removes a run that is over, with all that hangs on it; `false` if there is none such.
    pub async fn delete_run(&self, run_id: RunId) -> Result<bool, StoreError> {
        // A run that goes on has agents whose deltas must find their assignment.
        const DELETE: &str = "DELETE FROM runs WHERE run_id = $1 AND ended_at_us IS NOT NULL";
        on_db!(self, write, |p| sqlx::query(DELETE)
            .bind(run_id.to_string())
            .execute(p)
            .await
            .map(|done| done.rows_affected() > 0))
        .map_err(unavailable("delete a run"))
    }
}
