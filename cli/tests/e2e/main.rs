//! The shipped binaries as a deployment: processes, a real Postgres, a real mosquitto.
//!
//! What other tests prove inside one process is proved here for what people install: flags, exit
//! codes, what survives a kill -9. The oracle is a subscriber that is not ours.

#![expect(clippy::unwrap_used, reason = "a test's panic is its report")]

#[cfg(target_os = "linux")]
mod apart;
mod apply;
mod borders;
mod chaos;
#[cfg(target_os = "linux")]
mod clocks;
mod deployment;
mod faces;
mod load;
mod logs;
mod outages;
mod refusals;
mod runs;
mod scarcity;
#[cfg(target_os = "linux")]
mod slow_clock;
mod standby;
mod times;
mod together;
mod traces;
