//! The device engine: one shard of one run, driven on a few single-threaded cores.
//!
//! Each core is a thread with its own runtime; devices are dealt to cores for good and each is one
//! task there, so their state needs no lock. [`prepare`] checks what can be checked without
//! sending; [`Prepared::start`] runs until the gate closes; what happened leaves as one
//! [`CoreReport`] per core and window. Invariant: of each device's slots with an intended time
//! before `closed_at`, every one is counted in exactly one class by exactly one core.

mod alarms;
mod book;
mod certificates;
mod close;
mod control;
mod core;
mod device;
mod dial;
mod gate;
mod http;
mod ports;
mod prepare;
mod probe;
mod releases;
mod secure;
mod simulated;
pub mod single;
mod stalls;
mod start;
mod tls;
mod transport;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use shoal_domain::delta::Delta;
use shoal_domain::ids::RunId;
use shoal_domain::plan::Plan;
use shoal_domain::requests::Sampling;
use shoal_domain::shard::Shard;
use shoal_service_kit::TargetGuard;

use crate::protocol::Protocols;

pub use self::control::Control;
pub use self::ports::{NotLocal, SourceAddresses};
pub use self::prepare::{PrepareError, Prepared, prepare};
pub(crate) use self::releases::Releases;
pub(crate) use self::secure::client_config;
pub use self::start::Running;

/// What this agent is to do in one run.
#[derive(Clone)]
pub struct Job {
    pub plan: Arc<Plan>,
    /// Its blocks begin relative to [`Control::begin_at`].
    pub shard: Shard,
    pub seed: u64,
    pub run: RunId,
    /// What the agent's owner provided, by name.
    pub secrets: Arc<BTreeMap<String, String>>,
    pub guard: TargetGuard,
    pub sources: SourceAddresses,
    /// What it can speak beside MQTT and HTTP.
    pub protocols: Protocols,
    /// Where the target `builtin` listens; only a run inside the CLI has one.
    pub builtin: Option<SocketAddr>,
    pub cores: usize,
    /// The share of requests that is logged; `None`: none.
    pub sampling: Option<Sampling>,
    /// Connects per second that this agent may make; a burst is at most 100 ms of it.
    pub spawn_rate: f64,
}

/// What one core reports. Its gauges and `progress` speak of this core's devices only.
#[derive(Debug)]
pub struct CoreReport {
    pub core: usize,
    /// Of exactly one window; of several where the receiver was full, and at the close.
    pub delta: Delta,
    /// In the last report of a core, and only there.
    pub closed: Option<Closed>,
}

/// How a core ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// Run time at which the gate closed, the same on all cores of an agent: every slot intended
    /// before it is classed, and none after it was sent.
    pub closed_at_us: u64,
    /// Why this core could not do its work, in one sentence.
    pub error: Option<String>,
}

#[cfg(test)]
mod tests;
