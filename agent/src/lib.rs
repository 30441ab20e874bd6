//! The agent: session, runner, engine (devices), recorder, uplink.

pub mod app;
pub mod engine;
mod mqtt;
mod recorder;
