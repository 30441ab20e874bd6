//! Assignments: one row per assignment and epoch, so that each grant has its own numbering of
//! deltas and its own closing totals. Rows are never reused; an epoch once granted may report
//! until the run takes no more.

use shoal_domain::ids::RunId;
use sqlx::FromRow;

use super::error::{unavailable, unless_taken};
use super::run_row::parse_run_id;
use super::{Store, StoreError, Tx, in_tx, on_db};

/// A grant as it is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewAssignment {
    pub assignment_id: String,
    pub epoch: i64,
    pub run_id: RunId,
    pub agent_id: String,
    pub blocks: Vec<u8>,
    pub n_devices: i64,
    pub incarnation: i64,
}

/// What the agent said when it was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closing {
    pub closed_at_us: i64,
    /// Number of its last delta; -1 if it sent none.
    pub last_seq: i64,
    pub totals: Vec<u8>,
}

/// A grant and how far its deltas have come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssignmentRow {
    pub grant: NewAssignment,
    /// Every delta up to here is folded; -1: none.
    pub folded_through: i64,
    /// The highest number ever received; -1: none.
    pub max_seq: i64,
    pub closing: Option<Closing>,
}

#[derive(FromRow)]
struct RawAssignment {
    assignment_id: String,
    epoch: i64,
    run_id: String,
    agent_id: String,
    blocks: Vec<u8>,
    n_devices: i64,
    incarnation: i64,
    folded_through: i64,
    max_seq: i64,
    closed_at_us: Option<i64>,
    last_seq: Option<i64>,
    totals: Option<Vec<u8>>,
}

impl TryFrom<RawAssignment> for AssignmentRow {
    type Error = StoreError;

    fn try_from(raw: RawAssignment) -> Result<Self, StoreError> {
        let closing = match (raw.closed_at_us, raw.last_seq, raw.totals) {
            (Some(closed_at_us), Some(last_seq), Some(totals)) => {
                Some(Closing { closed_at_us, last_seq, totals })
            }
            (None, None, None) => None,
            _ => {
                return Err(StoreError::Inconsistent {
                    table: "assignments",
                    column: "closed_at_us",
                    id: format!("{} epoch {}", raw.assignment_id, raw.epoch),
                    why: "closed_at_us, last_seq and totals must be set together".to_owned(),
                });
            }
        };
        Ok(Self {
            grant: NewAssignment {
                run_id: parse_run_id("assignments", &raw.run_id)?,
                assignment_id: raw.assignment_id,
                epoch: raw.epoch,
                agent_id: raw.agent_id,
                blocks: raw.blocks,
                n_devices: raw.n_devices,
                incarnation: raw.incarnation,
            },
            folded_through: raw.folded_through,
            max_seq: raw.max_seq,
            closing,
        })
    }
}

/// Must be committed before an agent hears of its grant.
pub(super) async fn insert_assignments(
    tx: &mut Tx,
    grants: &[NewAssignment],
) -> Result<(), StoreError> {
    const INSERT: &str = "INSERT INTO assignments (assignment_id, epoch, run_id, agent_id, \
         blocks, n_devices, incarnation, folded_through, max_seq, intake_over) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, -1, -1, 0)";
    // The registry is overwritten when an agent comes back with another build.
    const REMEMBER: &str = "INSERT INTO run_agents (run_id, agent_id, build, labels_json, \
         capacity_json, host_json) \
         SELECT $1, agent_id, build, labels_json, capacity_json, host_json FROM agents \
         WHERE agent_id = $2 ON CONFLICT (run_id, agent_id) DO NOTHING";
    for grant in grants {
        in_tx!(*tx, |c| sqlx::query(INSERT)
            .bind(&grant.assignment_id)
            .bind(grant.epoch)
            .bind(grant.run_id.to_string())
            .bind(&grant.agent_id)
            .bind(&grant.blocks)
            .bind(grant.n_devices)
            .bind(grant.incarnation)
            .execute(c)
            .await
            .map(drop))
        .map_err(unless_taken("keep assignments", || {
            format!(
                "epoch {} of assignment {} was already granted",
                grant.epoch, grant.assignment_id
            )
        }))?;
        in_tx!(*tx, |c| sqlx::query(REMEMBER)
            .bind(grant.run_id.to_string())
            .bind(&grant.agent_id)
            .execute(c)
            .await
            .map(drop))
        .map_err(unavailable("keep assignments"))?;
    }
    Ok(())
}

/// The same devices with other tenures: some are to be let go.
pub(super) async fn cut_assignments(
    tx: &mut Tx,
    grants: &[NewAssignment],
) -> Result<(), StoreError> {
    const CUT: &str = "UPDATE assignments SET blocks = $3 WHERE assignment_id = $1 AND epoch = $2";
    for grant in grants {
        in_tx!(*tx, |c| sqlx::query(CUT)
            .bind(&grant.assignment_id)
            .bind(grant.epoch)
            .bind(&grant.blocks)
            .execute(c)
            .await
            .map(drop))
        .map_err(unavailable("cut assignments"))?;
    }
    Ok(())
}

impl Store {
    /// All or none, without moving their run.
    pub async fn insert_assignments(&self, grants: &[NewAssignment]) -> Result<(), StoreError> {
        const DOING: &str = "keep assignments";
        let mut tx = self.begin(DOING).await?;
        insert_assignments(&mut tx, grants).await?;
        tx.commit(DOING).await
    }

    pub async fn assignments(&self, run_id: RunId) -> Result<Vec<AssignmentRow>, StoreError> {
        const ASSIGNMENTS: &str = "SELECT assignment_id, epoch, run_id, agent_id, blocks, \
             n_devices, incarnation, folded_through, max_seq, closed_at_us, last_seq, totals \
             FROM assignments WHERE run_id = $1 ORDER BY assignment_id, epoch";
        let rows: Vec<RawAssignment> = on_db!(self, read, |p| sqlx::query_as(ASSIGNMENTS)
            .bind(run_id.to_string())
            .fetch_all(p)
            .await)
        .map_err(unavailable("read a run's assignments"))?;
        rows.into_iter().map(AssignmentRow::try_from).collect()
    }

    /// Keeps the closing totals. The same closing twice is fine, another one is a conflict.
    pub async fn close_assignment(
        &self,
        assignment_id: &str,
        epoch: i64,
        closing: &Closing,
    ) -> Result<(), StoreError> {
        // The first closing stands; its repetition after a lost reply finds itself.
        const CLOSE: &str = "UPDATE assignments SET closed_at_us = COALESCE(closed_at_us, $3), \
             last_seq = COALESCE(last_seq, $4), totals = COALESCE(totals, $5) \
             WHERE assignment_id = $1 AND epoch = $2 AND COALESCE(last_seq, $4) = $4 \
             AND COALESCE(totals, $5) = $5";
        let closed = on_db!(self, write, |p| sqlx::query(CLOSE)
            .bind(assignment_id)
            .bind(epoch)
            .bind(closing.closed_at_us)
            .bind(closing.last_seq)
            .bind(&closing.totals)
            .execute(p)
            .await
            .map(|done| done.rows_affected() > 0))
        .map_err(unavailable("close an assignment"))?;
        if closed {
            return Ok(());
        }
        Err(StoreError::conflict(format!(
            "epoch {epoch} of assignment {assignment_id} was never granted, or is closed with \
             other totals"
        )))
    }
}
