//! The middle of Shoal: everything that is a pure function of (state, event, now).
//!
//! No tokio, sqlx, tonic, clock, random source or file is reachable from here; CI checks it with
//! `cargo tree`.

pub mod delta;
pub mod histogram;
pub mod ids;
pub mod lease;
pub mod outcome;
pub mod plan;
pub mod report;
pub mod run;
pub mod schedule;
pub mod shard;
pub mod template;
pub mod validity;
pub mod verdict;
