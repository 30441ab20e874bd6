//! Packets from the peer: one pure function from bytes to packets.
//!
//! A device never subscribes here, so each packet that may come is at most four bytes long. Anything
//! longer is refused at its header: a hostile peer cannot make us hold more than three bytes.

use bytes::BytesMut;
use rumqttc::mqttbytes::{Error as CodecError, v4};
use shoal_domain::outcome::ErrorClass;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Incoming {
    /// CONNACK: accepted or why not.
    ConnAck(Result<(), Refusal>),
    PubAck(u16),
    PingResp,
}

/// A CONNACK other than 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) class: ErrorClass,
    pub(crate) text: &'static str,
}

/// The peer broke the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Broken {
    #[error("the peer sent a malformed packet")]
    Malformed,
    #[error("the peer sent a packet that this device never asked for")]
    Unexpected,
    #[error("the peer answered CONNECT with an unknown code")]
    UnknownConnectCode,
    #[error("the peer sent its CONNACK twice or another packet before it")]
    OutOfTurn,
}

/// The first packet of `bytes` and its length; `None` while it is not complete.
pub(crate) fn decode(bytes: &[u8]) -> Result<Option<(Incoming, usize)>, Broken> {
    let Some(&first) = bytes.first() else { return Ok(None) };
    let expected_len = match first {
        0x20 | 0x40 => 2,
        0xd0 => 0,
        // Known packets of a server that nobody asked for, whatever their flags are.
        _ if matches!(first >> 4, 3 | 5 | 6 | 7 | 9 | 11) => return Err(Broken::Unexpected),
        _ => return Err(Broken::Malformed),
    };
    let Some(&remaining) = bytes.get(1) else { return Ok(None) };
    if remaining != expected_len {
        return Err(Broken::Malformed);
    }
    let len = 2 + usize::from(remaining);
    let Some(packet) = bytes.get(..len) else { return Ok(None) };
    let incoming = match first {
        0x20 => connack(packet)?,
        0x40 => match u16::from_be_bytes([packet[2], packet[3]]) {
            0 => return Err(Broken::Malformed),
            pid => Incoming::PubAck(pid),
        },
        _ => Incoming::PingResp,
    };
    Ok(Some((incoming, len)))
}

fn connack(packet: &[u8]) -> Result<Incoming, Broken> {
    use v4::ConnectReturnCode as Code;

    let ack = match v4::Packet::read(&mut BytesMut::from(packet), 2) {
        Ok(v4::Packet::ConnAck(ack)) => ack,
        Err(CodecError::InvalidConnectReturnCode(_)) => return Err(Broken::UnknownConnectCode),
        _ => return Err(Broken::Malformed),
    };
    let (class, text) = match ack.code {
        Code::Success => return Ok(Incoming::ConnAck(Ok(()))),
        Code::RefusedProtocolVersion => (
            ErrorClass::UnacceptableProtocolVersion,
            "CONNACK 1: the broker refuses this protocol version",
        ),
        Code::BadClientId => {
            (ErrorClass::IdentifierRejected, "CONNACK 2: the broker rejects this client id")
        }
        Code::ServiceUnavailable => {
            (ErrorClass::ServerUnavailable, "CONNACK 3: the broker is unavailable")
        }
        Code::BadUserNamePassword => {
            (ErrorClass::BadUserNameOrPassword, "CONNACK 4: bad user name or password")
        }
        Code::NotAuthorized => (ErrorClass::NotAuthorized, "CONNACK 5: not authorized"),
    };
    Ok(Incoming::ConnAck(Err(Refusal { class, text })))
}
