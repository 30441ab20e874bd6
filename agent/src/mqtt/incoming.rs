//! Packets from the peer: one pure function from bytes to packets.
//!
//! The acks of every message have their own short path; all others are read by [`Reader`], which
//! borrows. A packet longer than [`Rules::max_packet`] is refused at its header, so a hostile peer
//! cannot make us hold more than that.

use shoal_domain::plan::Protocol;

use super::reader::{Properties, Reader, UserProperties, length};
use super::reason::{self, Refusal, Said};

/// What the peer may say on this connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rules {
    pub(crate) protocol: Protocol,
    /// The longest packet that is read, without its header.
    pub(crate) max_packet: u32,
    /// Whether the device subscribed to anything, now or in an earlier connection of its session.
    pub(crate) expects_messages: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Incoming<'a> {
    /// CONNACK: accepted or why not.
    ConnAck(Result<Welcome, Refusal>),
    /// PUBACK, PUBREC, PUBREL or PUBCOMP.
    Ack {
        step: Step,
        pid: u16,
        /// `Some` where the peer says that it failed.
        refusal: Option<Refusal>,
    },
    SubAck {
        pid: u16,
        refusal: Option<Refusal>,
    },
    Publish(Message<'a>),
    PingResp,
    /// MQTT 5: the server ends the connection.
    Disconnect(Refusal),
}

/// The steps of a delivery: PUBACK, or PUBREC, PUBREL and PUBCOMP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Ack,
    Rec,
    Rel,
    Comp,
}

/// A message for the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Message<'a> {
    pub(crate) topic: &'a str,
    pub(crate) payload: &'a [u8],
    pub(crate) qos: u8,
    /// 0 with QoS 0.
    pub(crate) pid: u16,
    /// The past of its topic, which a subscription begins with.
    pub(crate) retain: bool,
    pub(crate) user: UserProperties<'a>,
}

/// What a server grants with its CONNACK; MQTT 3.1.1 sets no limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Welcome {
    pub(crate) session_present: bool,
    /// Messages without their last ack that it takes.
    pub(crate) receive_maximum: u16,
    /// Of a packet with its header.
    pub(crate) maximum_packet: u32,
    pub(crate) topic_alias_maximum: u16,
    pub(crate) maximum_qos: u8,
    pub(crate) retain_available: bool,
    /// Instead of the one that was asked for.
    pub(crate) keep_alive_s: Option<u16>,
}

impl Welcome {
    pub(crate) const fn plain(session_present: bool) -> Self {
        Self {
            session_present,
            receive_maximum: u16::MAX,
            maximum_packet: u32::MAX,
            topic_alias_maximum: 0,
            maximum_qos: 2,
            retain_available: true,
            keep_alive_s: None,
        }
    }
}

/// The peer broke the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Broken {
    #[error("the peer sent a malformed packet")]
    Malformed,
    #[error("the peer sent a packet that this device never asked for")]
    Unexpected,
    #[error("the peer sent a packet of {0} bytes, more than this device takes")]
    TooLarge(usize),
    #[error("the peer answered CONNECT with an unknown code")]
    UnknownConnectCode,
    #[error("the peer sent its CONNACK twice or another packet before it")]
    OutOfTurn,
    #[error("the peer sent more QoS 2 messages at once than a device keeps")]
    TooManyOpen,
}

/// The first packet of `bytes` and its length; `None` while it is not complete.
pub(crate) fn decode(rules: Rules, bytes: &[u8]) -> Result<Option<(Incoming<'_>, usize)>, Broken> {
    // What comes once per message, without properties.
    if let [first @ (0x40 | 0x50 | 0x70), 2, high, low, ..] = *bytes {
        let pid = u16::from_be_bytes([high, low]);
        if pid == 0 {
            return Err(Broken::Malformed);
        }
        let step = match first {
            0x40 => Step::Ack,
            0x50 => Step::Rec,
            _ => Step::Comp,
        };
        return Ok(Some((Incoming::Ack { step, pid, refusal: None }, 4)));
    }
    let Some(&first) = bytes.first() else { return Ok(None) };
    let shortest = shortest(rules, first)?;
    let Some((remaining, n)) = length(&bytes[1..])? else { return Ok(None) };
    if remaining < shortest || (remaining > shortest && is_fixed(rules, first)) {
        return Err(Broken::Malformed);
    }
    if remaining > rules.max_packet as usize {
        return Err(Broken::TooLarge(remaining));
    }
    let len = 1 + n + remaining;
    let Some(packet) = bytes.get(1 + n..len) else { return Ok(None) };
    let incoming = match first >> 4 {
        2 => connack(rules, packet)?,
        3 => publish(rules, first, packet)?,
        4 => ack(Step::Ack, packet)?,
        5 => ack(Step::Rec, packet)?,
        6 => ack(Step::Rel, packet)?,
        7 => ack(Step::Comp, packet)?,
        9 => suback(rules, packet)?,
        14 => disconnect(packet)?,
        _ => Incoming::PingResp,
    };
    Ok(Some((incoming, len)))
}

/// The least remaining length of a packet that begins so; an error where a server may not say it.
fn shortest(rules: Rules, first: u8) -> Result<usize, Broken> {
    let is_5 = rules.protocol == Protocol::V5;
    Ok(match (first >> 4, first & 0x0f) {
        (2 | 4 | 5 | 7, 0) | (6, 2) => 2,
        (9, 0) if rules.expects_messages => 3,
        (3, flags) if rules.expects_messages && flags & 0b110 != 0b110 => 3,
        (13, 0) => 0,
        (14, 0) if is_5 => 0,
        (3 | 9 | 11, _) | (15, 0) => return Err(Broken::Unexpected),
        _ => return Err(Broken::Malformed),
    })
}

/// Packets of one length only.
fn is_fixed(rules: Rules, first: u8) -> bool {
    match first >> 4 {
        2 | 4..=7 => rules.protocol == Protocol::V3,
        13 => true,
        _ => false,
    }
}

fn connack(rules: Rules, packet: &[u8]) -> Result<Incoming<'_>, Broken> {
    let mut reader = Reader::new(packet);
    let (flags, code) = (reader.u8()?, reader.u8()?);
    if flags > 1 {
        return Err(Broken::Malformed);
    }
    let session_present = flags == 1;
    let answer = match (rules.protocol, code) {
        (Protocol::V3, 0) => Ok(Welcome::plain(session_present)),
        (Protocol::V3, code) => Err(reason::connack_3(code).ok_or(Broken::UnknownConnectCode)?),
        (Protocol::V5, code) => {
            // A broker of the older standard answers with its own short CONNACK.
            if code == 1 && reader.is_empty() {
                return Ok(Incoming::ConnAck(Err(reason::connack_5(0x84, Said::default()))));
            }
            let found = Properties::read(&mut reader)?;
            match code {
                0 => Ok(welcome(session_present, &found)?),
                0x80.. => Err(reason::connack_5(code, said(&found))),
                _ => return Err(Broken::UnknownConnectCode),
            }
        }
    };
    if !reader.is_empty() {
        return Err(Broken::Malformed);
    }
    Ok(Incoming::ConnAck(answer))
}

fn welcome(session_present: bool, found: &Properties<'_>) -> Result<Welcome, Broken> {
    let plain = Welcome::plain(session_present);
    let welcome = Welcome {
        receive_maximum: found.receive_maximum.unwrap_or(plain.receive_maximum),
        maximum_packet: found.maximum_packet.unwrap_or(plain.maximum_packet),
        topic_alias_maximum: found.topic_alias_maximum.unwrap_or(0),
        maximum_qos: found.maximum_qos.unwrap_or(2),
        retain_available: found.retain_available != Some(0),
        keep_alive_s: found.server_keep_alive,
        ..plain
    };
    if welcome.receive_maximum == 0 || welcome.maximum_packet == 0 || welcome.maximum_qos > 2 {
        return Err(Broken::Malformed);
    }
    Ok(welcome)
}

fn ack(step: Step, packet: &[u8]) -> Result<Incoming<'_>, Broken> {
    let mut reader = Reader::new(packet);
    let pid = reader.packet_id()?;
    let code = if reader.is_empty() { 0 } else { reader.u8()? };
    let found = Properties::read(&mut reader)?;
    if !reader.is_empty() {
        return Err(Broken::Malformed);
    }
    let packet = match step {
        Step::Ack => "PUBACK",
        Step::Rec => "PUBREC",
        Step::Rel => "PUBREL",
        Step::Comp => "PUBCOMP",
    };
    let refusal = (code >= 0x80).then(|| reason::rejected(packet, code, said(&found)));
    Ok(Incoming::Ack { step, pid, refusal })
}

/// A device asks for one filter at a time, so there is one code.
fn suback(rules: Rules, packet: &[u8]) -> Result<Incoming<'_>, Broken> {
    let mut reader = Reader::new(packet);
    let pid = reader.packet_id()?;
    let found = match rules.protocol {
        Protocol::V3 => Properties::default(),
        Protocol::V5 => Properties::read(&mut reader)?,
    };
    let code = reader.u8()?;
    if !reader.is_empty() {
        return Err(Broken::Malformed);
    }
    let refusal = match code {
        0..=2 => None,
        0x80.. => Some(reason::rejected("SUBACK", code, said(&found))),
        _ => return Err(Broken::Malformed),
    };
    Ok(Incoming::SubAck { pid, refusal })
}

fn publish(rules: Rules, first: u8, packet: &[u8]) -> Result<Incoming<'_>, Broken> {
    let mut reader = Reader::new(packet);
    let topic = reader.text()?;
    let qos = first >> 1 & 3;
    let pid = if qos == 0 { 0 } else { reader.packet_id()? };
    let mut user = UserProperties::default();
    if rules.protocol == Protocol::V5 {
        let found = Properties::read_present(&mut reader)?;
        // We announce that we take no topic aliases.
        if found.topic_alias.is_some() {
            return Err(Broken::Malformed);
        }
        user = found.user;
    }
    if topic.is_empty() {
        return Err(Broken::Malformed);
    }
    let (payload, retain) = (reader.rest(), first & 1 == 1);
    Ok(Incoming::Publish(Message { topic, payload, qos, pid, retain, user }))
}

fn disconnect(packet: &[u8]) -> Result<Incoming<'_>, Broken> {
    let mut reader = Reader::new(packet);
    let code = if reader.is_empty() { 0 } else { reader.u8()? };
    let found = Properties::read(&mut reader)?;
    if !reader.is_empty() {
        return Err(Broken::Malformed);
    }
    Ok(Incoming::Disconnect(reason::disconnect(code, said(&found))))
}

fn said<'a>(found: &Properties<'a>) -> Said<'a> {
    Said { reason: found.reason, server: found.server_reference }
}
