//! The middle of Shoal: everything that is a pure function of (state, event, now).
//!
//! No tokio, sqlx, tonic, clock, random source or file is reachable from here; CI checks it with
//! `cargo tree`.

pub mod ids;
pub mod outcome;
pub mod plan;
pub mod template;
