//! How a run moves: compare-and-set on version and owner epoch, with its events, in one
//! transaction.
//!
//! The end of a run also ends the intake of its deltas in that transaction: an ingest either
//! committed before, and its deltas are there to be folded, or it is told that the run is over.
//! Invariant: a run that is over never changes.

use shoal_domain::ids::RunId;
use shoal_domain::run::{Phase, Validity, Verdict};
use sqlx::FromRow;

use super::assignments::{cut_assignments, insert_assignments};
use super::error::unavailable;
use super::{NewAssignment, Store, StoreError, Tx, in_tx, on_db};

/// The whole of a run's changing part. `version` and `owner_epoch` are those that were read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunChange {
    pub run_id: RunId,
    pub version: i64,
    pub owner_epoch: i64,
    pub phase: Phase,
    pub state_json: String,
    pub validity: Option<Validity>,
    pub verdict: Option<Verdict>,
    pub exit_code: Option<i64>,
    pub cause: Option<String>,
    pub t0_us: Option<i64>,
    /// Set exactly when `phase` is over.
    pub ended_at_us: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    pub at_us: i64,
    pub kind: String,
    pub text: String,
}

/// One line of a run's history, numbered from 0 without holes.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct EventRow {
    pub n: i64,
    pub at_us: i64,
    pub kind: String,
    pub text: String,
}

/// What changes with a run of what agents are to hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GrantChanges {
    pub granted: Vec<NewAssignment>,
    /// Their blocks are other ones now.
    pub cut: Vec<NewAssignment>,
    /// Assignment and epoch of readers whose share somebody else reads on from the last that is
    /// stored: what they report later would be there twice.
    pub superseded: Vec<(String, i64)>,
}

impl Store {
    /// [`Store::change_run_and_grants`] of a change that leaves all grants as they are.
    pub async fn change_run(
        &self,
        change: &RunChange,
        events: &[NewEvent],
    ) -> Result<i64, StoreError> {
        self.change_run_and_grants(change, events, &GrantChanges::default()).await
    }

    /// Moves a run, and with it what agents are to hold. Returns the new version. A
    /// [`StoreError::Conflict`] says that somebody else moved or owns the run, or that it is over;
    /// nothing was written then.
    pub async fn change_run_and_grants(
        &self,
        change: &RunChange,
        events: &[NewEvent],
        grants: &GrantChanges,
    ) -> Result<i64, StoreError> {
        // Only the current owner's newest view may move a run, and only until it is over.
        const CHANGE: &str = "UPDATE runs SET version = version + 1, n_events = n_events + $4, \
             phase = $5, state_json = $6, validity = $7, verdict = $8, exit_code = $9, \
             cause = $10, t0_us = $11, ended_at_us = $12 \
             WHERE run_id = $1 AND version = $2 AND owner_epoch = $3 AND ended_at_us IS NULL \
             RETURNING version, n_events";
        const DOING: &str = "change a run";
        let mut tx = self.begin(DOING).await?;
        let n_new = events.len() as i64;
        let changed: Option<(i64, i64)> = in_tx!(tx, |c| sqlx::query_as(CHANGE)
            .bind(change.run_id.to_string())
            .bind(change.version)
            .bind(change.owner_epoch)
            .bind(n_new)
            .bind(change.phase.word())
            .bind(&change.state_json)
            .bind(change.validity.map(Validity::word))
            .bind(change.verdict.map(Verdict::word))
            .bind(change.exit_code)
            .bind(&change.cause)
            .bind(change.t0_us)
            .bind(change.ended_at_us)
            .fetch_optional(c)
            .await)
        .map_err(unavailable(DOING))?;
        let Some((version, n_events)) = changed else {
            return Err(self.why_unchanged(&mut tx, change).await?);
        };
        insert_events(&mut tx, change.run_id, n_events - n_new, events).await?;
        insert_assignments(&mut tx, &grants.granted).await?;
        cut_assignments(&mut tx, &grants.cut).await?;
        for (assignment_id, epoch) in &grants.superseded {
            end_intake_of(&mut tx, assignment_id, *epoch).await?;
        }
        if change.phase.is_over() {
            end_intake(&mut tx, change.run_id).await?;
        }
        tx.commit(DOING).await?;
        Ok(version)
    }

    /// Adds to a run's history without moving it, also after its end.
    pub async fn append_events(
        &self,
        run_id: RunId,
        events: &[NewEvent],
    ) -> Result<(), StoreError> {
        const NUMBER: &str =
            "UPDATE runs SET n_events = n_events + $2 WHERE run_id = $1 RETURNING n_events";
        const DOING: &str = "keep events";
        let mut tx = self.begin(DOING).await?;
        let n_new = events.len() as i64;
        let n_events: Option<i64> = in_tx!(tx, |c| sqlx::query_scalar(NUMBER)
            .bind(run_id.to_string())
            .bind(n_new)
            .fetch_optional(c)
            .await)
        .map_err(unavailable(DOING))?;
        let n_events =
            n_events.ok_or_else(|| StoreError::conflict(format!("there is no run {run_id}")))?;
        insert_events(&mut tx, run_id, n_events - n_new, events).await?;
        tx.commit(DOING).await
    }

    pub async fn events(&self, run_id: RunId) -> Result<Vec<EventRow>, StoreError> {
        const EVENTS: &str = "SELECT n, at_us, kind, text FROM events WHERE run_id = $1 ORDER BY n";
        on_db!(self, read, |p| sqlx::query_as(EVENTS).bind(run_id.to_string()).fetch_all(p).await)
            .map_err(unavailable("read a run's events"))
    }

    /// From its return on no delta of the run is taken any more, so that the last fold sees all
    /// that ever counted. The run's phase stays.
    pub async fn stop_intake(&self, run_id: RunId) -> Result<(), StoreError> {
        const DOING: &str = "end the intake of a run";
        let mut tx = self.begin(DOING).await?;
        end_intake(&mut tx, run_id).await?;
        tx.commit(DOING).await
    }

    async fn why_unchanged(
        &self,
        tx: &mut Tx,
        change: &RunChange,
    ) -> Result<StoreError, StoreError> {
        const NOW: &str = "SELECT version, owner_epoch, owner, phase FROM runs WHERE run_id = $1";
        let now: Option<(i64, i64, String, String)> = in_tx!(*tx, |c| sqlx::query_as(NOW)
            .bind(change.run_id.to_string())
            .fetch_optional(c)
            .await)
        .map_err(unavailable("change a run"))?;
        let run_id = change.run_id;
        Ok(StoreError::conflict(match now {
            None => format!("there is no run {run_id}"),
            Some((_, epoch, owner, _)) if epoch != change.owner_epoch => format!(
                "run {run_id} is owned by `{owner}` under epoch {epoch}, not {}",
                change.owner_epoch
            ),
            Some((_, _, _, phase)) if Phase::from_word(&phase).is_some_and(Phase::is_over) => {
                format!("run {run_id} is over ({phase}) and changes no more")
            }
            Some((version, ..)) => format!(
                "run {run_id} has moved on to version {version} from {}; read it again",
                change.version
            ),
        }))
    }
}

async fn insert_events(
    tx: &mut Tx,
    run_id: RunId,
    first: i64,
    events: &[NewEvent],
) -> Result<(), StoreError> {
    const INSERT: &str =
        "INSERT INTO events (run_id, n, at_us, kind, text) VALUES ($1, $2, $3, $4, $5)";
    for (n, event) in (first..).zip(events) {
        in_tx!(*tx, |c| sqlx::query(INSERT)
            .bind(run_id.to_string())
            .bind(n)
            .bind(event.at_us)
            .bind(&event.kind)
            .bind(&event.text)
            .execute(c)
            .await
            .map(drop))
        .map_err(unavailable("keep events"))?;
    }
    Ok(())
}

/// Row by row in the order in which ingest and fold lock them, so that nobody waits in a circle.
async fn end_intake(tx: &mut Tx, run_id: RunId) -> Result<(), StoreError> {
    const OPEN: &str =
        "SELECT assignment_id, epoch FROM assignments WHERE run_id = $1 AND intake_over = 0";
    let mut open: Vec<(String, i64)> =
        in_tx!(*tx, |c| sqlx::query_as(OPEN).bind(run_id.to_string()).fetch_all(c).await)
            .map_err(unavailable("end the intake of a run"))?;
    open.sort();
    for (assignment_id, epoch) in open {
        end_intake_of(tx, &assignment_id, epoch).await?;
    }
    Ok(())
}

async fn end_intake_of(tx: &mut Tx, assignment_id: &str, epoch: i64) -> Result<(), StoreError> {
    const END: &str =
        "UPDATE assignments SET intake_over = 1 WHERE assignment_id = $1 AND epoch = $2";
    in_tx!(*tx, |c| sqlx::query(END).bind(assignment_id).bind(epoch).execute(c).await.map(drop))
        .map_err(unavailable("end the intake of an assignment"))
}
