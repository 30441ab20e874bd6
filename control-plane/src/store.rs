//! The store: every fact that must outlive the process, on Postgres or SQLite.
//!
//! One concrete type over two typed pools with one SQL text per statement, because two dialects
//! would drift apart and a trait would double every signature. The price is a portable subset:
//! times are binds, words are TEXT with a CHECK, no row locks by name. A row is locked by the
//! guarded UPDATE that a transaction starts with.
//!
//! The store keeps bytes and plain columns; it knows nothing of the wire. Numbers are bound as
//! `i64` everywhere, since the statement cache keeps the parameter types of the first use.
//!
//! Invariant: a delta is in `deltas` or in what was folded, never in both and never in neither,
//! from the commit that acknowledged it on.

use sqlx::{PgPool, Postgres, Sqlite, SqlitePool, Transaction};

mod agents;
mod assignments;
mod baselines;
mod changes;
mod coarsen;
mod deltas;
mod error;
mod files;
mod find;
mod fold;
mod labels;
mod leader;
mod logs;
mod observed;
mod open;
mod owners;
mod prune;
mod requests;
mod results;
mod run_row;
mod runs;
mod series;
mod thresholds;
mod trackers;

pub use agents::{AgentRow, QuarantineRow};
pub use assignments::{AssignmentRow, Closing, NewAssignment};
pub use baselines::BaselineRow;
pub use changes::{EventRow, GrantChanges, NewEvent, RunChange};
pub use deltas::{IncomingDelta, IngestOutcome, Outcome, StoredDelta};
pub use error::StoreError;
pub use files::RunFile;
pub use find::Found;
pub use fold::{FoldBatch, FoldedThrough};
pub use labels::RunAgentRow;
pub use leader::Leader;
pub use logs::{LogRow, LogsAfter, NewLogLine};
pub use observed::ObservedRow;
pub use owners::OWNER_SILENT_US;
pub use prune::{Prunable, PrunePolicy};
pub use requests::{IncomingRequests, RequestLogRow, RequestTotals};
pub use results::{SummaryRow, WindowKey, WindowRow};
pub use run_row::{RunListing, RunRow};
pub use runs::{NewRun, RunFilter};
pub use series::SeriesRow;
pub use thresholds::ThresholdRow;
pub use trackers::TrackerRow;

use error::unavailable;

/// Handle to the open database; clones share its connections.
#[derive(Debug, Clone)]
pub struct Store {
    db: Db,
}

/// SQLite writes through one connection, so that writers queue here and never at its file lock.
#[derive(Debug, Clone)]
enum Db {
    Sqlite { writer: SqlitePool, readers: SqlitePool },
    Postgres(PgPool),
}

/// Runs one statement on whichever database is open; each arm is compiled on its own.
macro_rules! on_db {
    ($store:expr, read, |$pool:ident| $statement:expr) => {
        match &$store.db {
            $crate::store::Db::Sqlite { readers: $pool, .. } => $statement,
            $crate::store::Db::Postgres($pool) => $statement,
        }
    };
    ($store:expr, write, |$pool:ident| $statement:expr) => {
        match &$store.db {
            $crate::store::Db::Sqlite { writer: $pool, .. } => $statement,
            $crate::store::Db::Postgres($pool) => $statement,
        }
    };
}
use on_db;

/// A write transaction. Dropped without a commit it is rolled back.
#[derive(Debug)]
enum Tx {
    Sqlite(Transaction<'static, Sqlite>),
    Postgres(Transaction<'static, Postgres>),
}

/// Runs one statement inside a [`Tx`].
macro_rules! in_tx {
    ($tx:expr, |$connection:ident| $statement:expr) => {
        match &mut $tx {
            $crate::store::Tx::Sqlite(tx) => {
                let $connection = &mut **tx;
                $statement
            }
            $crate::store::Tx::Postgres(tx) => {
                let $connection = &mut **tx;
                $statement
            }
        }
    };
}
use in_tx;

impl Store {
    /// One round trip, for health checks.
    pub async fn ping(&self) -> Result<(), StoreError> {
        const PING: &str = "SELECT 1";
        on_db!(self, write, |p| sqlx::query(PING).execute(p).await.map(drop))
            .map_err(unavailable("answer"))
    }

    /// Waits until all connections are closed; SQLite then folds its log into the file.
    pub async fn close(&self) {
        match &self.db {
            Db::Sqlite { writer, readers } => {
                readers.close().await;
                writer.close().await;
            }
            Db::Postgres(pool) => pool.close().await,
        }
    }

    /// On SQLite the write lock is taken at once: a reader that turns writer halfway would fail
    /// with "database is locked" instead of waiting for another process.
    async fn begin(&self, doing: &'static str) -> Result<Tx, StoreError> {
        match &self.db {
            Db::Sqlite { writer, .. } => writer.begin_with("BEGIN IMMEDIATE").await.map(Tx::Sqlite),
            Db::Postgres(pool) => pool.begin().await.map(Tx::Postgres),
        }
        .map_err(unavailable(doing))
    }
}

impl Tx {
    async fn commit(self, doing: &'static str) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(tx) => tx.commit().await,
            Self::Postgres(tx) => tx.commit().await,
        }
        .map_err(unavailable(doing))
    }
}
