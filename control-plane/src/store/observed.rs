//! The far end of a run that is over, over time, as plain columns: for dashboards, which cannot read
//! trackers and histograms. Nothing of Shoal's own reads it.

use shoal_domain::ids::RunId;

use super::error::{unavailable, unless_taken};
use super::{Store, StoreError, in_tx};

/// One observer in one point of a run's course.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedRow {
    pub observer: i64,
    pub from_s: i64,
    pub step_s: i64,
    pub name: String,
    /// In the order of the table's columns.
    pub counts: [i64; 14],
    pub delays_us: [Option<i64>; 12],
}

impl Store {
    /// Replaces what was kept of the run.
    pub async fn put_observed(
        &self,
        run_id: RunId,
        rows: &[ObservedRow],
    ) -> Result<(), StoreError> {
        const CLEAR: &str = "DELETE FROM observed WHERE run_id = $1";
        const INSERT: &str = "INSERT INTO observed (run_id, observer, from_s, step_s, name, sent, \
             acked, uniquely_received, lost, undelivered, unconfirmed, lost_possible, received, \
             duplicated, resent, out_of_order, late_events, unparsed, foreign_events, \
             end_to_end_p50_us, end_to_end_p95_us, end_to_end_p99_us, end_to_end_max_us, \
             ingest_p50_us, ingest_p95_us, ingest_p99_us, ingest_max_us, delivery_p50_us, \
             delivery_p95_us, delivery_p99_us, delivery_max_us) VALUES ($1, $2, $3, $4, $5, $6, \
             $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, \
             $24, $25, $26, $27, $28, $29, $30, $31)";
        const DOING: &str = "keep what observers saw";
        let mut tx = self.begin(DOING).await?;
        in_tx!(tx, |c| sqlx::query(CLEAR).bind(run_id.to_string()).execute(c).await.map(drop))
            .map_err(unavailable(DOING))?;
        for row in rows {
            in_tx!(tx, |c| {
                let mut insert = sqlx::query(INSERT)
                    .bind(run_id.to_string())
                    .bind(row.observer)
                    .bind(row.from_s)
                    .bind(row.step_s)
                    .bind(&row.name);
                for count in row.counts {
                    insert = insert.bind(count);
                }
                for delay in row.delays_us {
                    insert = insert.bind(delay);
                }
                insert.execute(c).await.map(drop)
            })
            .map_err(unless_taken(DOING, || {
                format!("run {run_id} has observer {} at {} s twice", row.observer, row.from_s)
            }))?;
        }
        tx.commit(DOING).await
    }
}
