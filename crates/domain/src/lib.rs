//! The middle of Shoal: everything that is a pure function of (state, event, now).
//!
//! No tokio, sqlx, tonic, clock, random source or file is reachable from here; CI checks it with
//! `cargo tree`.

pub mod check;
pub mod diagnostics;
mod digits;
mod expression;
pub mod ids;
pub mod outcome;
pub mod plan;
mod scenario;
pub mod template;
mod threshold;
mod units;
mod values;
mod yaml;
