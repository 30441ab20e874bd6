//! The control plane: it deals runs to agents, takes their deltas in exactly once, and answers
//! every question about runs from one place ([`query`]).
//!
//! `grpc` → `orchestrator`, `fleet`, `ingest`, `query` → `store` → domain. Nobody above `store`
//! writes SQL, and every number that leaves the process was made by `query`.

pub mod app;
mod clock;
pub mod coarsen;
pub mod config;
pub mod fleet;
pub mod fold;
pub mod grpc;
pub mod ingest;
mod leadership;
pub mod live;
pub mod logs;
pub mod metrics;
pub mod orchestrator;
pub mod query;
pub mod record;
pub mod refusal;
mod requests;
pub mod store;
mod trackers;
