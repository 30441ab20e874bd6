//! Runs: accepted once, read by id, listed newest first.

use shoal_domain::ids::RunId;
use shoal_domain::labels::Labels;
use shoal_domain::run::{Phase, Validity, Verdict};

use super::error::{unavailable, unless_taken};
use super::labels::put_labels;
use super::leader::require_lead;
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
    pub labels: Labels,
    pub note: String,
    pub started_by: String,
    pub revision: String,
    /// The control plane that drives the run.
    pub owner: String,
    /// Under which it leads; `None`: nobody can take its place.
    pub lead_epoch: Option<i64>,
    pub owner_token_hash: Option<String>,
    pub phase: Phase,
    pub state_json: String,
}

/// Which runs a list shows; what is not asked for is not looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunFilter {
    pub scenario: Option<String>,
    pub validity: Option<Validity>,
    pub verdict: Option<Verdict>,
    /// All of these.
    pub labels: Labels,
    /// Accepted in `since..until`.
    pub since_us: Option<i64>,
    pub until_us: Option<i64>,
}

impl RunFilter {
    /// As many as the statement has places for.
    pub const MOST_LABELS: usize = 4;
}

/// A run id begins with its time, and no ULID begins with an 8: every run sorts before this.
const AFTER_EVERY_RUN: &str = "run_8";

impl Store {
    /// With its files. A name that another run has is a [`StoreError::Conflict`]; whoever has lost the
    /// lead meanwhile accepts no more: nobody would drive the run.
    pub async fn insert_run(&self, run: &NewRun) -> Result<(), StoreError> {
        const INSERT: &str = "INSERT INTO runs (run_id, name, scenario_name, scenario_text, \
             scenario_sha256, vars_json, seed, planned_devices, created_at_us, owner, \
             owner_epoch, owner_seen_us, owner_token_hash, version, n_events, phase, state_json, \
             note, started_by, revision) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 1, $9, $11, 1, 0, $12, $13, $14, \
             $15, $16)";
        const DOING: &str = "accept a run";
        let mut tx = self.begin(DOING).await?;
        if let Some(epoch) = run.lead_epoch {
            require_lead(&mut tx, epoch).await?;
        }
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
            .bind(&run.note)
            .bind(&run.started_by)
            .bind(&run.revision)
            .execute(c)
            .await
            .map(drop))
        .map_err(unless_taken(DOING, || {
            format!("a run named `{}` exists; give this one another name", run.name)
        }))?;
        files::insert(&mut tx, run.run_id, &run.files).await?;
        put_labels(&mut tx, run.run_id, &run.labels).await?;
        tx.commit(DOING).await
    }

    pub async fn run(&self, run_id: RunId) -> Result<Option<RunRow>, StoreError> {
        const RUN: &str = "SELECT run_id, name, scenario_name, scenario_text, scenario_sha256, \
             vars_json, seed, planned_devices, created_at_us, note, started_by, revision, owner, \
             owner_epoch, owner_seen_us, owner_token_hash, version, phase, state_json, validity, verdict, exit_code, cause, \
             t0_us, ended_at_us, window_s FROM runs WHERE run_id = $1";
        let raw: Option<RawRun> = on_db!(self, read, |p| sqlx::query_as(RUN)
            .bind(run_id.to_string())
            .fetch_optional(p)
            .await)
        .map_err(unavailable("read a run"))?;
        raw.map(RunRow::try_from).transpose()
    }

    /// The page of runs that `filter` lets through and that were accepted before `before`, newest
    /// first. The next page begins before the last run of this one.
    pub async fn list_runs(
        &self,
        filter: &RunFilter,
        before: Option<RunId>,
        limit: i64,
    ) -> Result<Vec<RunListing>, StoreError> {
        // An empty word filters nothing; every label has its own place.
        const PAGE: &str = "SELECT run_id, name, scenario_name, planned_devices, created_at_us, \
             started_by, revision, phase, validity, verdict, exit_code, cause, t0_us, ended_at_us \
             FROM runs WHERE run_id < $1 AND created_at_us >= $2 AND created_at_us < $3 \
             AND ($4 = '' OR scenario_name = $4) AND ($5 = '' OR validity = $5) \
             AND ($6 = '' OR verdict = $6) \
             AND ($7 = '' OR EXISTS (SELECT 1 FROM run_labels l \
                 WHERE l.run_id = runs.run_id AND l.name = $7 AND l.value = $8)) \
             AND ($9 = '' OR EXISTS (SELECT 1 FROM run_labels l \
                 WHERE l.run_id = runs.run_id AND l.name = $9 AND l.value = $10)) \
             AND ($11 = '' OR EXISTS (SELECT 1 FROM run_labels l \
                 WHERE l.run_id = runs.run_id AND l.name = $11 AND l.value = $12)) \
             AND ($13 = '' OR EXISTS (SELECT 1 FROM run_labels l \
                 WHERE l.run_id = runs.run_id AND l.name = $13 AND l.value = $14)) \
             ORDER BY run_id DESC LIMIT $15";
        if filter.labels.len() > RunFilter::MOST_LABELS {
            return Err(StoreError::conflict(format!(
                "at most {} labels can be asked for at once",
                RunFilter::MOST_LABELS
            )));
        }
        let before = before.map_or_else(|| AFTER_EVERY_RUN.to_owned(), |run_id| run_id.to_string());
        let mut labels = [("", ""); RunFilter::MOST_LABELS];
        for (place, label) in labels.iter_mut().zip(filter.labels.iter()) {
            *place = label;
        }
        let [first, second, third, fourth] = labels;
        let page: Vec<RawListing> = on_db!(self, read, |p| sqlx::query_as(PAGE)
            .bind(before)
            .bind(filter.since_us.unwrap_or(0))
            .bind(filter.until_us.unwrap_or(i64::MAX))
            .bind(filter.scenario.as_deref().unwrap_or(""))
            .bind(filter.validity.map_or("", Validity::word))
            .bind(filter.verdict.map_or("", Verdict::word))
            .bind(first.0)
            .bind(first.1)
            .bind(second.0)
            .bind(second.1)
            .bind(third.0)
            .bind(third.1)
            .bind(fourth.0)
            .bind(fourth.1)
            .bind(limit.max(0))
            .fetch_all(p)
            .await)
        .map_err(unavailable("list the runs"))?;
        let page = page.into_iter().map(RunListing::try_from).collect::<Result<Vec<_>, _>>()?;
        self.with_labels(page).await
    }

    /// Every run that is not over, oldest first: what a restarted control plane picks up.
    pub async fn unfinished_runs(&self) -> Result<Vec<RunRow>, StoreError> {
        const UNFINISHED: &str = "SELECT run_id, name, scenario_name, scenario_text, \
             scenario_sha256, vars_json, seed, planned_devices, created_at_us, note, started_by, \
             revision, owner, owner_epoch, owner_seen_us, owner_token_hash, version, phase, \
             state_json, validity, \
             verdict, exit_code, cause, t0_us, ended_at_us, window_s FROM runs \
             WHERE ended_at_us IS NULL ORDER BY run_id";
        let runs: Vec<RawRun> =
            on_db!(self, read, |p| sqlx::query_as(UNFINISHED).fetch_all(p).await)
                .map_err(unavailable("list the runs that go on"))?;
        runs.into_iter().map(RunRow::try_from).collect()
    }
}
