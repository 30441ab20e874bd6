//! The agent: it receives shards of simulated devices, drives them and reports what happened.
//!
//! `daemon` is the whole program. `session` talks with the control plane, `assignments` holds what it wants, `engine` drives the
//! devices, `observe` reads the platform's output, `runner` merges what its cores report, `uplink`
//! delivers it exactly once. Data moves engine → runner → uplink, control moves back as desired
//! state.

pub mod app;
mod assignments;
mod beat;
mod calibration;
pub mod config;
mod connection;
pub mod daemon;
pub mod engine;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod host;
mod identity;
mod kafka;
mod leases;
mod meter;
mod mqtt;
mod nats;
pub mod observe;
mod pages;
pub mod protocol;
mod recorder;
mod runner;
mod session;
mod sparkplug;
mod uplink;
mod websocket;
