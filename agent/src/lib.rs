//! The agent: it receives shards of simulated devices and drives them.

pub mod engine;
mod mqtt;
mod recorder;
