//! Wires session, runner and uplink.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use shoal_domain::ids::AgentId;

/// Everything an agent is told at start.
#[derive(Debug, Clone)]
pub struct Config {
    /// `http://host:port` of the control plane.
    pub server: String,
    pub token: Option<String>,
    pub id: AgentId,
    /// Locked for as long as the process lives; holds the incarnation.
    pub data_dir: PathBuf,
    pub labels: BTreeMap<String, String>,
    /// Relative weight in dealing; default: the cores its cgroup allows.
    pub capacity: Option<f64>,
    /// What it may put load on; empty: everything.
    pub allow_target: Vec<String>,
    pub secrets_dir: Option<PathBuf>,
    /// Where `/healthz` is served.
    pub health_listen: Option<SocketAddr>,
}
