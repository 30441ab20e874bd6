//! The agent: session, runner, engine (devices), recorder, uplink.

pub mod app;
mod connection;
pub mod engine;
pub mod runner;
pub mod uplink;
