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

    /// What a scenario sends, and so what may have slots; the others happen to connections.
    pub const fn is_send(self) -> bool {
        match self {
            Self::Publish | Self::Http | Self::Command => true,
            Self::Connect | Self::Subscribe | Self::Disconnect => false,
        }
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
    /// The peer refused the connection for another reason that it named.
    Refused,
    /// The peer sent us to another server (MQTT 5 Server Reference, HTTP redirect).
    Redirected,
    /// The peer cannot do what the scenario asks for (its highest QoS, retained messages).
    Unsupported,
    /// The peer's certificate was not signed by an authority that the scenario trusts.
    CertificateUnknownIssuer,
    /// The peer's certificate is no longer, or not yet, valid.
    CertificateExpired,
    /// The peer's certificate is for another name.
    CertificateWrongName,
    /// The peer did not take the device's certificate.
    CertificateRefused,
    /// No TLS connection for another reason.
    Tls,
    /// The peer did not change to the WebSocket protocol, or broke it.
    WebSocket,
    /// The peer broke the protocol: malformed packet, unknown CONNACK code, unexpected packet.
    Protocol,
    /// The peer answered this operation with a failure.
    Rejected,
    /// The message is larger than the peer takes.
    PacketTooLarge,
    /// The peer ended the connection with a reason while this operation was open.
    Disconnected,
    /// The connection was lost with this operation open.
    ConnectionLost,
    /// No acknowledgement within `ack_timeout`.
    AckTimeout,
    /// No complete HTTP reply within `timeout`.
    RequestTimeout,
    /// The HTTP status was not an expected one.
    HttpStatus,
    /// Body or headers of the HTTP reply were not what `expect` says.
    BodyMismatch,
    /// The HTTP reply did not hold a value that a later step needs.
    CaptureFailed,
    /// More HTTP redirects than are followed.
    TooManyRedirects,
    /// The body of the HTTP reply was longer than `max_body`.
    BodyTooLarge,
    /// The request was never sent: a value that it needs was not captured or cannot stand in it.
    Unsendable,
    /// No matching reply to a command within its `timeout`.
    ReplyTimeout,
    /// Still open when the run ended (a lower bound was recorded).
    OpenAtEnd,
    /// The generator ran out of file descriptors.
    GeneratorDescriptors,
    /// The generator ran out of local ports.
    GeneratorPorts,
}

impl ErrorClass {
    pub const ALL: [Self; 33] = [
        Self::Unreachable,
        Self::ConnectTimeout,
        Self::UnacceptableProtocolVersion,
        Self::IdentifierRejected,
        Self::ServerUnavailable,
        Self::BadUserNameOrPassword,
        Self::NotAuthorized,
        Self::Refused,
        Self::Redirected,
        Self::Unsupported,
        Self::CertificateUnknownIssuer,
        Self::CertificateExpired,
        Self::CertificateWrongName,
        Self::CertificateRefused,
        Self::Tls,
        Self::WebSocket,
        Self::Protocol,
        Self::Rejected,
        Self::PacketTooLarge,
        Self::Disconnected,
        Self::ConnectionLost,
        Self::AckTimeout,
        Self::RequestTimeout,
        Self::HttpStatus,
        Self::BodyMismatch,
        Self::CaptureFailed,
        Self::TooManyRedirects,
        Self::BodyTooLarge,
        Self::Unsendable,
        Self::ReplyTimeout,
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
            Self::Refused => "refused",
            Self::Redirected => "redirected",
            Self::Unsupported => "unsupported",
            Self::CertificateUnknownIssuer => "certificate_unknown_issuer",
            Self::CertificateExpired => "certificate_expired",
            Self::CertificateWrongName => "certificate_wrong_name",
            Self::CertificateRefused => "certificate_refused",
            Self::Tls => "tls",
            Self::WebSocket => "web_socket",
            Self::Protocol => "protocol",
            Self::Rejected => "rejected",
            Self::PacketTooLarge => "packet_too_large",
            Self::Disconnected => "disconnected",
            Self::ConnectionLost => "connection_lost",
            Self::AckTimeout => "ack_timeout",
            Self::RequestTimeout => "request_timeout",
            Self::HttpStatus => "http_status",
            Self::BodyMismatch => "body_mismatch",
            Self::CaptureFailed => "capture_failed",
            Self::TooManyRedirects => "too_many_redirects",
            Self::BodyTooLarge => "body_too_large",
            Self::Unsendable => "unsendable",
            Self::ReplyTimeout => "reply_timeout",
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
                | Self::Redirected
                | Self::Unsupported
                | Self::CertificateUnknownIssuer
                | Self::CertificateExpired
                | Self::CertificateWrongName
                | Self::CertificateRefused
        )
    }
}
