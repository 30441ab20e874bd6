//! The closed sets of labels: what a device does, and how it can go wrong.
//!
//! A name that is not here cannot become a label, so a hostile broker cannot grow our tables.
//! The words are stable: they stand on the wire, in the database and in the JSON document.

use serde::{Deserialize, Serialize};

/// What a device does; one part of a series' key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    Connect,
    Publish,
    Http,
    Subscribe,
    Command,
    Disconnect,
}

impl Operation {
    pub const ALL: [Self; 6] = [
        Self::Connect,
        Self::Publish,
        Self::Http,
        Self::Subscribe,
        Self::Command,
        Self::Disconnect,
    ];

    pub const fn word(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Publish => "publish",
            Self::Http => "http",
            Self::Subscribe => "subscribe",
            Self::Command => "command",
            Self::Disconnect => "disconnect",
        }
    }

    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|operation| operation.word() == word)
    }
}

/// Why an operation failed. `Generator*` are ours and never the target's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorClass {
    /// No TCP connection: refused, unreachable, name not found.
    Unreachable,
    /// No TCP connection or no CONNACK in time.
    ConnectTimeout,
    /// CONNACK 1.
    UnacceptableProtocolVersion,
    /// CONNACK 2.
    IdentifierRejected,
    /// CONNACK 3.
    ServerUnavailable,
    /// CONNACK 4.
    BadUserNameOrPassword,
    /// CONNACK 5.
    NotAuthorized,
    /// The peer broke the protocol: malformed packet, unknown CONNACK code, unexpected packet.
    Protocol,
    /// The connection was lost with this operation open.
    ConnectionLost,
    /// No acknowledgement within `ack_timeout`.
    AckTimeout,
    /// Still open when the run ended (a lower bound was recorded).
    OpenAtEnd,
    /// The generator ran out of file descriptors.
    GeneratorDescriptors,
    /// The generator ran out of local ports.
    GeneratorPorts,
}

impl ErrorClass {
    pub const ALL: [Self; 13] = [
        Self::Unreachable,
        Self::ConnectTimeout,
        Self::UnacceptableProtocolVersion,
        Self::IdentifierRejected,
        Self::ServerUnavailable,
        Self::BadUserNameOrPassword,
        Self::NotAuthorized,
        Self::Protocol,
        Self::ConnectionLost,
        Self::AckTimeout,
        Self::OpenAtEnd,
        Self::GeneratorDescriptors,
        Self::GeneratorPorts,
    ];

    pub const fn word(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::ConnectTimeout => "connect_timeout",
            Self::UnacceptableProtocolVersion => "unacceptable_protocol_version",
            Self::IdentifierRejected => "identifier_rejected",
            Self::ServerUnavailable => "server_unavailable",
            Self::BadUserNameOrPassword => "bad_user_name_or_password",
            Self::NotAuthorized => "not_authorized",
            Self::Protocol => "protocol",
            Self::ConnectionLost => "connection_lost",
            Self::AckTimeout => "ack_timeout",
            Self::OpenAtEnd => "open_at_end",
            Self::GeneratorDescriptors => "generator_descriptors",
            Self::GeneratorPorts => "generator_ports",
        }
    }

    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.word() == word)
    }

    /// Whether the generator, not the target, is at fault.
    pub const fn is_generators(self) -> bool {
        matches!(self, Self::GeneratorDescriptors | Self::GeneratorPorts)
    }

    /// Whether a first connection refused so is final: the device is *failed* and tries no more.
    pub const fn is_final_refusal(self) -> bool {
        matches!(
            self,
            Self::UnacceptableProtocolVersion
                | Self::IdentifierRejected
                | Self::BadUserNameOrPassword
                | Self::NotAuthorized
        )
    }
}
