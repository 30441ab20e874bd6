//! The agent: session, runner, engine (devices), recorder, uplink.

pub mod app;
