//! The middle of Shoal: everything that is a pure function of (state, event, now).
//!
//! No tokio, sqlx, tonic, clock, random source or file is reachable from here; CI checks it with
//! `cargo tree`. The data goes one way:
//!
//! | from | function | to |
//! |---|---|---|
//! | scenario text | [`check::files_named`] | the files that go with a run |
//! | scenario text, files | [`check::parse_plan`] | [`plan::Plan`], or all mistakes at once |
//! | plan, capacities | [`shard::deal`] | [`shard::Shard`] per agent |
//! | plan, seed | [`schedule::Timetable`] | intended times of every device and series |
//! | device events | [`delta::Tally`] | [`delta::Delta`] per window |
//! | windows | [`strain::judge`] | spells in which the generator strained |
//! | deltas | [`delta::Delta::absorb`] | totals per series and stage |
//! | totals, plan | [`account::account`] | [`verdict::Facts`] |
//! | facts | [`verdict::judge`], [`validity::assess`] | thresholds, validity |
//! | two runs' facts | [`compare::compare`] | differences, gates |
//! | phase, cause, validity, thresholds | [`verdict::outcome`] | verdict and exit code |

pub mod account;
pub mod batch;
pub mod belief;
pub mod capacity;
pub mod check;
pub mod clock;
pub mod closed;
pub mod compare;
pub mod cookies;
pub mod delay;
pub mod delta;
pub mod diagnostics;
mod digits;
pub mod eventhubs;
pub mod export;
mod expression;
pub mod fields;
pub mod files;
pub mod histogram;
pub mod ids;
pub mod labels;
pub mod lease;
pub mod logs;
pub mod object;
pub mod observed;
pub mod outcome;
pub mod plan;
pub mod receipts;
pub mod redirect;
pub mod reply;
pub mod report;
pub mod request;
pub mod requests;
pub mod roster;
pub mod run;
pub mod sas;
mod scenario;
pub mod schedule;
pub mod shard;
pub mod stamp;
pub mod strain;
pub mod stretch;
pub mod template;
mod threshold;
pub mod tracker;
mod units;
pub mod validity;
mod values;
pub mod verdict;
pub mod windowed;
mod yaml;
