//! What tests need and no release contains: real databases and brokers for one test, faults between
//! two processes, and waiting for a condition instead of a time.
//!
//! Everything started here ends with the test process, also when that is killed. Nothing is skipped
//! silently: a missing program is a failed test whose message says how to get it.

pub mod authority;
pub mod cluster;
pub mod collector;
pub mod daemon;
pub mod eventhubs;
pub mod expect;
pub mod faults;
pub mod http_server;
pub mod impostor;
pub mod kafka;
pub mod mosquitto;
pub mod mosquitto_sub;
pub mod nats;
pub mod platform;
pub mod postgres;
mod programs;
pub mod subscriber;
mod watchdog;
pub mod webhook;
