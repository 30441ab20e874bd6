//! Outgoing packets, appended to a buffer that the caller reuses.
//!
//! A PUBLISH is rendered in place: its length is known only afterwards, so room for the usual two
//! length bytes is left and the rest is moved only where that guess was wrong.

use bytes::BytesMut;
use rumqttc::mqttbytes::v4;

pub(crate) const PINGREQ: [u8; 2] = [0xc0, 0];
pub(crate) const DISCONNECT: [u8; 2] = [0xe0, 0];

/// What four length bytes can say (MQTT 3.1.1, 2.2.3).
const MAX_REMAINING: usize = 268_435_455;
const MAX_TOPIC: usize = 65_535;

/// How a PUBLISH goes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivery {
    AtMostOnce,
    /// With its packet id, never 0.
    AtLeastOnce(u16),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TooLong {
    #[error("the topic is longer than the 65535 bytes that MQTT allows")]
    Topic,
    #[error("the message is longer than the 268435455 bytes that MQTT allows")]
    Message,
}

/// Appends one PUBLISH; `topic` and `payload` append their part. On an error the buffer is as it was.
pub(crate) fn publish(
    out: &mut Vec<u8>,
    delivery: Delivery,
    retain: bool,
    topic: impl FnOnce(&mut Vec<u8>),
    payload: impl FnOnce(&mut Vec<u8>),
) -> Result<(), TooLong> {
    const GUESS: usize = 2;
    let start = out.len();
    let qos = u8::from(matches!(delivery, Delivery::AtLeastOnce(_)));
    out.extend_from_slice(&[0x30 | qos << 1 | u8::from(retain), 0, 0, 0, 0]);
    let body = start + 1 + GUESS;
    topic(out);
    let topic_len = out.len() - body - 2;
    if topic_len > MAX_TOPIC {
        out.truncate(start);
        return Err(TooLong::Topic);
    }
    out[body..body + 2].copy_from_slice(&(topic_len as u16).to_be_bytes());
    if let Delivery::AtLeastOnce(pid) = delivery {
        out.extend_from_slice(&pid.to_be_bytes());
    }
    payload(out);
    let remaining = out.len() - body;
    if remaining > MAX_REMAINING {
        out.truncate(start);
        return Err(TooLong::Message);
    }
    let (length, n) = remaining_length(remaining);
    if n < GUESS {
        out.copy_within(body.., body - (GUESS - n));
        out.truncate(body - (GUESS - n) + remaining);
    } else if n > GUESS {
        out.resize(body + (n - GUESS) + remaining, 0);
        out.copy_within(body..body + remaining, body + (n - GUESS));
    }
    out[start + 1..start + 1 + n].copy_from_slice(&length[..n]);
    Ok(())
}

fn remaining_length(mut value: usize) -> ([u8; 4], usize) {
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

/// What a device says of itself when it connects; always a clean session.
pub(crate) struct Hello<'a> {
    pub(crate) client_id: &'a str,
    pub(crate) keep_alive_s: u16,
    pub(crate) username: Option<&'a str>,
    pub(crate) password: Option<&'a str>,
}

/// A CONNECT packet. The fields of MQTT strings are cut at 65,535 bytes by `check`, so this fails
/// only on what no plan holds.
pub(crate) fn connect(hello: &Hello<'_>) -> Result<Vec<u8>, TooLong> {
    let strings = [Some(hello.client_id), hello.username, hello.password];
    if strings.iter().flatten().any(|text| text.len() > MAX_TOPIC) {
        return Err(TooLong::Message);
    }
    let mut packet = v4::Connect::new(hello.client_id);
    packet.keep_alive = hello.keep_alive_s;
    packet.clean_session = true;
    if hello.username.is_some() || hello.password.is_some() {
        packet.set_login(hello.username.unwrap_or(""), hello.password.unwrap_or(""));
    }
    let mut bytes = BytesMut::with_capacity(packet.size());
    packet.write(&mut bytes).map_err(|_| TooLong::Message)?;
    Ok(bytes.to_vec())
}
