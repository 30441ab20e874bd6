//! Wires the components; binds the port and migrates the database before it serves.

use std::net::SocketAddr;

/// Everything a control plane is told at start.
#[derive(Debug, Clone)]
pub struct Config {
    pub listen: SocketAddr,
    /// `sqlite:PATH` or `postgres://…`.
    pub database: String,
    /// Agents and CLI must send it; required beyond loopback.
    pub token: Option<String>,
    /// In the CLI's own process: `builtin` targets are allowed.
    pub local: bool,
}
