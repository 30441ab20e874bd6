//! The control plane: fleet, orchestrator, ingest, store, query, gRPC.

pub mod app;
pub mod store;
