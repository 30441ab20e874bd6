//! What load may be put on, and how it is reached.

use super::HttpTarget;
use crate::files::FileId;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub name: String,
    pub kind: TargetKind,
}

/// What a target speaks, with the options of that kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetKind {
    Mqtt(MqttTarget),
    Http(HttpTarget),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MqttTarget {
    pub endpoint: Endpoint,
    pub protocol: Protocol,
    pub keep_alive_us: u64,
    /// For one attempt, from its TCP connect to its CONNACK.
    pub connect_timeout_us: u64,
    pub tls: Option<Tls>,
    /// MQTT inside WebSocket messages: the path that is asked for.
    pub web_socket: Option<String>,
    /// Whether a device's first connection of a run begins without an older session. With MQTT
    /// 3.1.1 it says so for all of its connections.
    pub clean_start: bool,
    /// MQTT 5: how long a session outlives its connection; 0 with MQTT 3.1.1.
    pub session_expiry_s: u32,
}

/// How a target's certificate is judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// The authorities that may have signed its certificate; `None`: the public ones.
    pub ca: Option<FileRef>,
    /// Whom the certificate must be for; `None`: the host.
    pub server_name: Option<String>,
    /// Whether a device that comes back resumes its TLS session.
    pub resumption: bool,
}

/// A file that a scenario names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileRef {
    /// It goes with the run.
    Shipped(FileId),
    /// An absolute path on the agent, written `agent:/...`.
    OnAgent(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// MQTT 3.1.1.
    V3,
    /// MQTT 5.
    V5,
}

/// Where a target listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// The demo broker, which the CLI starts for a run in its own process.
    Builtin,
    Tcp {
        host: String,
        port: u16,
    },
}

impl Target {
    pub fn endpoint(&self) -> &Endpoint {
        match &self.kind {
            TargetKind::Mqtt(mqtt) => &mqtt.endpoint,
            TargetKind::Http(http) => &http.endpoint,
        }
    }

    pub fn http(&self) -> Option<&HttpTarget> {
        match &self.kind {
            TargetKind::Http(http) => Some(http),
            TargetKind::Mqtt(_) => None,
        }
    }

    pub fn mqtt(&self) -> Option<&MqttTarget> {
        match &self.kind {
            TargetKind::Mqtt(mqtt) => Some(mqtt),
            TargetKind::Http(_) => None,
        }
    }
}

impl MqttTarget {
    /// Whether a session goes on after its connection, with what was not acknowledged.
    pub fn keeps_session(&self) -> bool {
        match self.protocol {
            Protocol::V3 => !self.clean_start,
            Protocol::V5 => self.session_expiry_s > 0,
        }
    }
}
