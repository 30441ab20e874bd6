//! Outgoing packets, appended to a buffer that the caller reuses.
//!
//! A PUBLISH is rendered in place: its length is known only afterwards, so room for the usual
//! length bytes is left and the rest is moved only where that guess was wrong. Packets of which a
//! connection sees one each use rumqttc's codec.

use bytes::BytesMut;
use rumqttc::mqttbytes::{QoS as WireQos, v4};
use rumqttc::v5::mqttbytes::{QoS as WireQos5, v5};
use shoal_domain::plan::{Protocol, Qos};

pub(crate) const PINGREQ: [u8; 2] = [0xc0, 0];
pub(crate) const DISCONNECT: [u8; 2] = [0xe0, 0];

/// What four length bytes can say (MQTT 3.1.1, 2.2.3).
const MAX_REMAINING: usize = 268_435_455;
const MAX_TEXT: usize = 65_535;

/// How a PUBLISH goes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Delivery {
    pub(crate) qos: Qos,
    /// Never 0, but with QoS 0, which has none.
    pub(crate) pid: u16,
}

/// The header of a PUBLISH.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) protocol: Protocol,
    pub(crate) delivery: Delivery,
    pub(crate) retain: bool,
    /// The peer may have it already.
    pub(crate) dup: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TooLong {
    #[error("a text is longer than the 65535 bytes that MQTT allows")]
    Text,
    #[error("the message is longer than the 268435455 bytes that MQTT allows")]
    Message,
}

/// Appends one PUBLISH; `topic`, `properties` (not called with MQTT 3.1.1) and `payload` append
/// their part. On an error the buffer is as it was.
pub(crate) fn publish(
    out: &mut Vec<u8>,
    head: Head,
    topic: impl FnOnce(&mut Vec<u8>),
    properties: impl FnOnce(&mut Vec<u8>) -> Result<(), TooLong>,
    payload: impl FnOnce(&mut Vec<u8>),
) -> Result<(), TooLong> {
    let start = out.len();
    let Delivery { qos, pid } = head.delivery;
    out.push(0x30 | u8::from(head.dup) << 3 | qos.number() << 1 | u8::from(head.retain));
    let written = counted(out, 2, |out| {
        text(out, topic)?;
        if qos != Qos::AtMostOnce {
            out.extend_from_slice(&pid.to_be_bytes());
        }
        if head.protocol == Protocol::V5 {
            counted(out, 1, properties)?;
        }
        payload(out);
        Ok(())
    });
    if written.is_err() {
        out.truncate(start);
    }
    written
}

/// Appends what `body` appends with its variable length before it, which probably has `guess` bytes.
fn counted(
    out: &mut Vec<u8>,
    guess: usize,
    body: impl FnOnce(&mut Vec<u8>) -> Result<(), TooLong>,
) -> Result<(), TooLong> {
    let start = out.len();
    let after = start + guess;
    out.resize(after, 0);
    body(out)?;
    let n_body = out.len() - after;
    if n_body > MAX_REMAINING {
        return Err(TooLong::Message);
    }
    let (length, n) = variable_length(n_body);
    if n < guess {
        out.copy_within(after.., start + n);
        out.truncate(start + n + n_body);
    } else if n > guess {
        out.resize(start + n + n_body, 0);
        out.copy_within(after..after + n_body, start + n);
    }
    out[start..start + n].copy_from_slice(&length[..n]);
    Ok(())
}

/// Appends what `body` appends with its length in two bytes before it.
fn text(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) -> Result<(), TooLong> {
    let after = out.len() + 2;
    out.extend_from_slice(&[0, 0]);
    body(out);
    let n = u16::try_from(out.len() - after).map_err(|_| TooLong::Text)?;
    out[after - 2..after].copy_from_slice(&n.to_be_bytes());
    Ok(())
}

fn variable_length(mut value: usize) -> ([u8; 4], usize) {
    let mut bytes = [0; 4];
    let mut n = 0;
    loop {
        bytes[n] = (value % 128) as u8;
        value /= 128;
        n += 1;
        if value == 0 {
            return (bytes, n);
        }
        bytes[n - 1] |= 128;
    }
}

/// The properties that a device may give its messages (MQTT 5, 3.3.2.3).
pub(crate) mod property {
    use super::{TooLong, text};

    pub(crate) fn message_expiry(out: &mut Vec<u8>, seconds: u32) {
        out.push(0x02);
        out.extend_from_slice(&seconds.to_be_bytes());
    }

    pub(crate) fn topic_alias(out: &mut Vec<u8>, alias: u16) {
        out.push(0x23);
        out.extend_from_slice(&alias.to_be_bytes());
    }

    pub(crate) fn content_type(
        out: &mut Vec<u8>,
        value: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), TooLong> {
        out.push(0x03);
        text(out, value)
    }

    pub(crate) fn user(
        out: &mut Vec<u8>,
        name: &str,
        value: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), TooLong> {
        out.push(0x26);
        text(out, |out| out.extend_from_slice(name.as_bytes()))?;
        text(out, value)
    }
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP; the short form is that of success in both versions.
pub(crate) fn ack(out: &mut Vec<u8>, step: super::incoming::Step, pid: u16) {
    use super::incoming::Step;

    let first = match step {
        Step::Ack => 0x40,
        Step::Rec => 0x50,
        Step::Rel => 0x62,
        Step::Comp => 0x70,
    };
    let [high, low] = pid.to_be_bytes();
    out.extend_from_slice(&[first, 2, high, low]);
}

/// What a device says of itself when it connects.
pub(crate) struct Hello<'a> {
    pub(crate) protocol: Protocol,
    pub(crate) client_id: &'a str,
    pub(crate) keep_alive_s: u16,
    pub(crate) clean_start: bool,
    /// MQTT 5: how long the session outlives the connection.
    pub(crate) session_expiry_s: u32,
    /// MQTT 5: the longest packet that the device takes.
    pub(crate) max_packet: u32,
    pub(crate) username: Option<&'a str>,
    pub(crate) password: Option<&'a str>,
    pub(crate) will: Option<Will>,
}

/// What the broker publishes when the connection ends without a goodbye.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Will {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) qos: Qos,
    pub(crate) retain: bool,
}

/// A CONNECT packet.
pub(crate) fn connect(hello: &Hello<'_>) -> Result<Vec<u8>, TooLong> {
    let strings = [Some(hello.client_id), hello.username, hello.password];
    if strings.iter().flatten().any(|text| text.len() > MAX_TEXT) {
        return Err(TooLong::Text);
    }
    if let Some(will) = &hello.will
        && (will.topic.len() > MAX_TEXT || will.payload.len() > MAX_TEXT)
    {
        return Err(TooLong::Text);
    }
    let has_login = hello.username.is_some() || hello.password.is_some();
    let (user, password) = (hello.username.unwrap_or(""), hello.password.unwrap_or(""));
    let mut bytes = BytesMut::new();
    let written = match hello.protocol {
        Protocol::V3 => {
            let mut packet = v4::Connect::new(hello.client_id);
            packet.keep_alive = hello.keep_alive_s;
            packet.clean_session = hello.clean_start;
            packet.last_will = hello.will.as_ref().map(|will| {
                let qos = wire_qos(will.qos);
                v4::LastWill::new(&will.topic, will.payload.clone(), qos, will.retain)
            });
            if has_login {
                packet.set_login(user, password);
            }
            packet.write(&mut bytes).ok()
        }
        Protocol::V5 => {
            let mut properties = v5::ConnectProperties::new();
            properties.session_expiry_interval =
                (hello.session_expiry_s > 0).then_some(hello.session_expiry_s);
            properties.max_packet_size = Some(hello.max_packet);
            let packet = v5::Connect {
                keep_alive: hello.keep_alive_s,
                client_id: hello.client_id.to_owned(),
                clean_start: hello.clean_start,
                properties: Some(properties),
            };
            let will = hello.will.as_ref().map(|will| {
                let qos = wire_qos_5(will.qos);
                v5::LastWill::new(&will.topic, will.payload.clone(), qos, will.retain, None)
            });
            let login = has_login
                .then(|| v5::Login { username: user.to_owned(), password: password.to_owned() });
            packet.write(&will, &login, &mut bytes).ok()
        }
    };
    written.map(|_| bytes.to_vec()).ok_or(TooLong::Message)
}

/// A SUBSCRIBE for one filter.
pub(crate) fn subscribe(
    protocol: Protocol,
    pid: u16,
    filter: &str,
    qos: Qos,
) -> Result<Vec<u8>, TooLong> {
    if filter.len() > MAX_TEXT {
        return Err(TooLong::Text);
    }
    let mut bytes = BytesMut::new();
    let written = match protocol {
        Protocol::V3 => {
            let mut packet = v4::Subscribe::new(filter, wire_qos(qos));
            packet.pkid = pid;
            packet.write(&mut bytes).ok()
        }
        Protocol::V5 => {
            let filter = v5::Filter::new(filter, wire_qos_5(qos));
            let mut packet = v5::Subscribe::new(filter, None);
            packet.pkid = pid;
            packet.write(&mut bytes).ok()
        }
    };
    written.map(|_| bytes.to_vec()).ok_or(TooLong::Message)
}

fn wire_qos(qos: Qos) -> WireQos {
    match qos {
        Qos::AtMostOnce => WireQos::AtMostOnce,
        Qos::AtLeastOnce => WireQos::AtLeastOnce,
        Qos::ExactlyOnce => WireQos::ExactlyOnce,
    }
}

fn wire_qos_5(qos: Qos) -> WireQos5 {
    match qos {
        Qos::AtMostOnce => WireQos5::AtMostOnce,
        Qos::AtLeastOnce => WireQos5::AtLeastOnce,
        Qos::ExactlyOnce => WireQos5::ExactlyOnce,
    }
}
