//! The contract of the store: every statement on both databases, in one process.
//!
//! Each test is written once and runs twice, on a SQLite file and on Postgres. Without Postgres
//! the second half fails and says how to get it; it is never skipped.

#![expect(clippy::unwrap_used, reason = "specifications call fixtures that are no test functions")]

mod databases;
mod fixtures;

mod agents_and_series;
mod assignments;
mod coarsen;
mod dashboards;
mod fold;
mod ingest;
mod logs;
mod open;
mod owners;
mod requests;
mod results;
mod runs;

/// Runs each named specification on both databases.
macro_rules! on_both_databases {
    ($($specification:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $specification() {
                super::$specification(&crate::databases::Opened::sqlite().await.store).await;
            })+
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $specification() {
                super::$specification(&crate::databases::Opened::postgres().await.store).await;
            })+
        }
    };
}
use on_both_databases;
