//! Deltas on their way in: stored once, acknowledged after the commit, kept until folded.
//!
//! The hard part is the race with the fold and with the end of the run. Both are decided on the
//! assignment's row, which each transaction changes first and so locks: an ingest either sees
//! `folded_through` and the end of the intake as they are, or makes the other one wait.
//!
//! Invariant: a number at or below `folded_through` is stored, whatever happens to its row.

use std::collections::BTreeMap;

use shoal_domain::ids::RunId;
use sqlx::FromRow;

use super::error::unavailable;
use super::{IncomingRequests, Store, StoreError, Tx, in_tx, on_db, requests};

/// A delta as received. `seq` counts from 0 and `first_window <= last_window`: the caller has
/// refused others, since one of them here fails the whole batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IncomingDelta {
    pub assignment_id: String,
    pub epoch: i64,
    pub seq: i64,
    pub first_window: i64,
    pub last_window: i64,
    pub body: Vec<u8>,
    pub received_at_us: i64,
    pub requests: IncomingRequests,
}

/// A delta that waits for its fold.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct StoredDelta {
    pub assignment_id: String,
    pub epoch: i64,
    pub seq: i64,
    pub first_window: i64,
    pub last_window: i64,
    pub received_at_us: i64,
    pub body: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IngestOutcome {
    pub assignment_id: String,
    pub epoch: i64,
    pub seq: i64,
    pub outcome: Outcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Stored,
    /// Here before, perhaps folded since. To be acknowledged like `Stored`.
    AlreadyStored,
    /// Never granted, or its run was pruned.
    UnknownAssignment,
    /// The run takes no more.
    RunOver,
}

/// What the guarded UPDATE says about one grant.
enum Gate {
    Open { folded_through: i64 },
    Shut(Outcome),
}

impl Store {
    /// Takes all deltas in one transaction; outcomes stand in the order of `deltas`. Nothing may
    /// be acknowledged unless this returned `Ok`.
    pub async fn ingest(&self, deltas: &[IncomingDelta]) -> Result<Vec<IngestOutcome>, StoreError> {
        const DOING: &str = "take in deltas";
        let mut tx = self.begin(DOING).await?;
        let mut outcomes = vec![Outcome::UnknownAssignment; deltas.len()];
        // In order of assignment: two ingests or an ingest and a fold never wait in a circle.
        for ((assignment_id, epoch), positions) in by_assignment(deltas) {
            let max_seq = positions.iter().map(|at| deltas[*at].seq).max().unwrap_or(-1);
            let gate = gate(&mut tx, assignment_id, epoch, max_seq).await?;
            for at in positions {
                outcomes[at] = match gate {
                    Gate::Shut(outcome) => outcome,
                    Gate::Open { folded_through } if deltas[at].seq <= folded_through => {
                        Outcome::AlreadyStored
                    }
                    Gate::Open { .. } => insert_delta(&mut tx, &deltas[at]).await?,
                };
            }
        }
        tx.commit(DOING).await?;
        Ok(deltas
            .iter()
            .zip(outcomes)
            .map(|(delta, outcome)| IngestOutcome {
                assignment_id: delta.assignment_id.clone(),
                epoch: delta.epoch,
                seq: delta.seq,
                outcome,
            })
            .collect())
    }

    /// The highest number up to which every delta of the grant is stored, -1 if the first one is
    /// not; `None` if it was never granted.
    pub async fn acked_through(
        &self,
        assignment_id: &str,
        epoch: i64,
    ) -> Result<Option<i64>, StoreError> {
        // One statement, so that a fold in between cannot show half of itself.
        const WAITING: &str = "SELECT a.folded_through, d.seq FROM assignments a \
             LEFT JOIN deltas d ON d.assignment_id = a.assignment_id AND d.epoch = a.epoch \
             AND d.seq > a.folded_through \
             WHERE a.assignment_id = $1 AND a.epoch = $2 ORDER BY d.seq";
        let rows: Vec<(i64, Option<i64>)> = on_db!(self, read, |p| sqlx::query_as(WAITING)
            .bind(assignment_id)
            .bind(epoch)
            .fetch_all(p)
            .await)
        .map_err(unavailable("say what it has taken in"))?;
        let folded_through = rows.first().map(|(folded_through, _)| *folded_through);
        Ok(folded_through.map(|folded| {
            rows.iter()
                .filter_map(|(_, seq)| *seq)
                .fold(folded, |through, seq| if seq == through + 1 { seq } else { through })
        }))
    }

    /// What can be folded now: per grant the deltas that follow `folded_through` without a hole,
    /// up to the first that was not received before `received_before_us`.
    pub async fn unfolded(
        &self,
        run_id: RunId,
        received_before_us: Option<i64>,
    ) -> Result<Vec<StoredDelta>, StoreError> {
        const UNFOLDED: &str = "SELECT d.assignment_id, d.epoch, d.seq, d.first_window, \
             d.last_window, d.received_at_us, d.body, a.folded_through FROM assignments a \
             JOIN deltas d ON d.assignment_id = a.assignment_id AND d.epoch = a.epoch \
             WHERE a.run_id = $1 AND d.seq > a.folded_through AND d.received_at_us < $2 \
             ORDER BY d.assignment_id, d.epoch, d.seq";
        #[derive(FromRow)]
        struct Waiting {
            #[sqlx(flatten)]
            delta: StoredDelta,
            folded_through: i64,
        }
        let waiting: Vec<Waiting> = on_db!(self, read, |p| sqlx::query_as(UNFOLDED)
            .bind(run_id.to_string())
            .bind(received_before_us.unwrap_or(i64::MAX))
            .fetch_all(p)
            .await)
        .map_err(unavailable("read the deltas to fold"))?;

        let mut contiguous: Vec<StoredDelta> = Vec::with_capacity(waiting.len());
        for Waiting { delta, folded_through } in waiting {
            let through = match contiguous.last() {
                Some(last) if same_grant(last, &delta) => last.seq,
                _ => folded_through,
            };
            if delta.seq == through + 1 {
                contiguous.push(delta);
            }
        }
        Ok(contiguous)
    }
}

fn same_grant(one: &StoredDelta, other: &StoredDelta) -> bool {
    one.assignment_id == other.assignment_id && one.epoch == other.epoch
}

fn by_assignment(deltas: &[IncomingDelta]) -> BTreeMap<(&str, i64), Vec<usize>> {
    let mut grants: BTreeMap<(&str, i64), Vec<usize>> = BTreeMap::new();
    for (at, delta) in deltas.iter().enumerate() {
        grants.entry((&delta.assignment_id, delta.epoch)).or_default().push(at);
    }
    grants
}

async fn gate(
    tx: &mut Tx,
    assignment_id: &str,
    epoch: i64,
    max_seq: i64,
) -> Result<Gate, StoreError> {
    // Any epoch that was granted may report until the intake is over.
    const PASS: &str = "UPDATE assignments \
         SET max_seq = CASE WHEN max_seq < $3 THEN $3 ELSE max_seq END \
         WHERE assignment_id = $1 AND epoch = $2 AND intake_over = 0 RETURNING folded_through";
    const GRANTED: &str = "SELECT epoch FROM assignments WHERE assignment_id = $1 AND epoch = $2";
    const DOING: &str = "take in deltas";
    let passed: Option<i64> = in_tx!(*tx, |c| sqlx::query_scalar(PASS)
        .bind(assignment_id)
        .bind(epoch)
        .bind(max_seq)
        .fetch_optional(c)
        .await)
    .map_err(unavailable(DOING))?;
    if let Some(folded_through) = passed {
        return Ok(Gate::Open { folded_through });
    }
    let granted: Option<i64> = in_tx!(*tx, |c| sqlx::query_scalar(GRANTED)
        .bind(assignment_id)
        .bind(epoch)
        .fetch_optional(c)
        .await)
    .map_err(unavailable(DOING))?;
    Ok(Gate::Shut(match granted {
        Some(_) => Outcome::RunOver,
        None => Outcome::UnknownAssignment,
    }))
}

async fn insert_delta(tx: &mut Tx, delta: &IncomingDelta) -> Result<Outcome, StoreError> {
    const INSERT: &str = "INSERT INTO deltas (assignment_id, epoch, seq, first_window, \
         last_window, received_at_us, body) VALUES ($1, $2, $3, $4, $5, $6, $7) \
         ON CONFLICT (assignment_id, epoch, seq) DO NOTHING";
    let inserted = in_tx!(*tx, |c| sqlx::query(INSERT)
        .bind(&delta.assignment_id)
        .bind(delta.epoch)
        .bind(delta.seq)
        .bind(delta.first_window)
        .bind(delta.last_window)
        .bind(delta.received_at_us)
        .bind(&delta.body)
        .execute(c)
        .await
        .map(|done| done.rows_affected() > 0))
    .map_err(unavailable("take in deltas"))?;
    if inserted && !delta.requests.is_empty() {
        requests::insert(tx, delta).await?;
    }
    Ok(if inserted { Outcome::Stored } else { Outcome::AlreadyStored })
}
