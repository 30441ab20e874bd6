//! A small MQTT 3.1.1 broker: something to load in the first minute, and the oracle of the tests.
//!
//! It is correct where a load test looks (acknowledgements, wildcards, retained messages, wills,
//! keep-alive, take-over of a client id) and it can be told to misbehave ([`Script`]): stall, refuse,
//! drop, lose or delay acknowledgements. What it counts is what arrived, so "the report says as many
//! as the broker saw" is a test.
//!
//! Deliberately missing: MQTT 5, TLS, persistent sessions (`session_present` is always false), QoS 2
//! towards subscribers (QoS 1 is granted instead), and any claim to be a broker for production.

mod broker;
mod connection;
mod hub;
mod script;
mod session;
mod thread;
mod topics;

pub use broker::{Broker, Error};
pub use script::{Counters, Recorded, Script};
pub use thread::BrokerThread;

use std::net::SocketAddr;

use tokio_util::sync::CancellationToken;

/// Binds `addr` and serves until `stop`. Use [`Broker::bind`] to learn the port when it is 0.
pub async fn serve(addr: SocketAddr, stop: CancellationToken) -> Result<(), Error> {
    let broker = Broker::bind(addr).await?;
    tracing::info!(addr = %broker.addr(), "demo broker listens");
    broker.run(stop).await;
    Ok(())
}
