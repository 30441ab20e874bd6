//! Why a peer refused or ended something, in words.
//!
//! The codes are a closed set of the standards, so a hostile peer cannot invent a class; what it
//! says in its own words is cut before it becomes part of a text.

use shoal_domain::outcome::ErrorClass;

/// The longest text of a peer that we repeat, in bytes.
const MAX_QUOTE: usize = 120;

/// A refusal with its class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) class: ErrorClass,
    pub(crate) text: String,
}

/// A return code of MQTT 3.1.1's CONNACK; `None` is no code of the standard.
pub(super) fn connack_3(code: u8) -> Option<Refusal> {
    let (class, text) = match code {
        1 => (
            ErrorClass::UnacceptableProtocolVersion,
            "CONNACK 1: the broker refuses this protocol version",
        ),
        2 => (ErrorClass::IdentifierRejected, "CONNACK 2: the broker rejects this client id"),
        3 => (ErrorClass::ServerUnavailable, "CONNACK 3: the broker is unavailable"),
        4 => (ErrorClass::BadUserNameOrPassword, "CONNACK 4: bad user name or password"),
        5 => (ErrorClass::NotAuthorized, "CONNACK 5: not authorized"),
        _ => return None,
    };
    Some(Refusal { class, text: text.to_owned() })
}

/// A reason code of MQTT 5's CONNACK.
pub(super) fn connack_5(code: u8, said: Said<'_>) -> Refusal {
    let class = match code {
        0x84 => ErrorClass::UnacceptableProtocolVersion,
        0x85 => ErrorClass::IdentifierRejected,
        0x86 => ErrorClass::BadUserNameOrPassword,
        0x87 | 0x8a | 0x8c => ErrorClass::NotAuthorized,
        0x88 | 0x89 | 0x9f => ErrorClass::ServerUnavailable,
        0x9c | 0x9d => ErrorClass::Redirected,
        0x81 | 0x82 => ErrorClass::Protocol,
        _ => ErrorClass::Refused,
    };
    Refusal { class, text: said.sentence("CONNACK", code) }
}

/// DISCONNECT of an MQTT 5 server.
pub(super) fn disconnect(code: u8, said: Said<'_>) -> Refusal {
    let class = match code {
        0x9c | 0x9d => ErrorClass::Redirected,
        _ => ErrorClass::Disconnected,
    };
    Refusal { class, text: said.sentence("DISCONNECT", code) }
}

/// PUBACK, PUBREC, PUBCOMP or SUBACK with a failure.
pub(super) fn rejected(packet: &str, code: u8, said: Said<'_>) -> Refusal {
    Refusal { class: ErrorClass::Rejected, text: said.sentence(packet, code) }
}

/// What a peer added to a reason code.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Said<'a> {
    pub(super) reason: Option<&'a str>,
    pub(super) server: Option<&'a str>,
}

impl Said<'_> {
    fn sentence(self, packet: &str, code: u8) -> String {
        let mut text = format!("{packet} 0x{code:02x}: {}", name(code));
        if let Some(reason) = self.reason.filter(|reason| !reason.is_empty()) {
            text.push_str(&format!(" ({})", quote(reason)));
        }
        if let Some(server) = self.server {
            text.push_str(&format!(", the server to use is {}", quote(server)));
        }
        text
    }
}

/// On one line and short.
fn quote(text: &str) -> String {
    let end = text.floor_char_boundary(MAX_QUOTE);
    text[..end].chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// MQTT 5, 2.4.
pub(super) fn name(code: u8) -> &'static str {
    match code {
        0x00 => "success",
        0x01 => "granted QoS 1",
        0x02 => "granted QoS 2",
        0x04 => "disconnect with will message",
        0x10 => "no matching subscribers",
        0x11 => "no subscription existed",
        0x18 => "continue authentication",
        0x19 => "re-authenticate",
        0x80 => "unspecified error",
        0x81 => "malformed packet",
        0x82 => "protocol error",
        0x83 => "implementation specific error",
        0x84 => "unsupported protocol version",
        0x85 => "client identifier not valid",
        0x86 => "bad user name or password",
        0x87 => "not authorized",
        0x88 => "server unavailable",
        0x89 => "server busy",
        0x8a => "banned",
        0x8b => "server shutting down",
        0x8c => "bad authentication method",
        0x8d => "keep alive timeout",
        0x8e => "session taken over",
        0x8f => "topic filter invalid",
        0x90 => "topic name invalid",
        0x91 => "packet identifier in use",
        0x92 => "packet identifier not found",
        0x93 => "receive maximum exceeded",
        0x94 => "topic alias invalid",
        0x95 => "packet too large",
        0x96 => "message rate too high",
        0x97 => "quota exceeded",
        0x98 => "administrative action",
        0x99 => "payload format invalid",
        0x9a => "retain not supported",
        0x9b => "QoS not supported",
        0x9c => "use another server",
        0x9d => "server moved",
        0x9e => "shared subscriptions not supported",
        0x9f => "connection rate exceeded",
        0xa0 => "maximum connect time",
        0xa1 => "subscription identifiers not supported",
        0xa2 => "wildcard subscriptions not supported",
        _ => "a code that is not of the standard",
    }
}
