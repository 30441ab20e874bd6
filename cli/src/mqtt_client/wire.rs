//! The packets of a device that is tried, in both versions of MQTT.

use bytes::BytesMut;
use rumqttc::mqttbytes::{Error as ErrorV3, QoS as QosV3, v4};
use rumqttc::v5::mqttbytes::v5::{self, PubAckReason, PubCompReason, PubRecReason};
use rumqttc::v5::mqttbytes::{Error as ErrorV5, QoS as QosV5};
use shoal_domain::plan::{Protocol, Qos};

use super::Message;

/// Nothing that answers a connect or a publish is larger.
const MAX_PACKET: usize = 64 * 1024;
/// Seconds.
const KEEP_ALIVE: u16 = 60;

pub(super) enum Out<'m> {
    Connect {
        client_id: &'m str,
        login: Option<(&'m str, &'m str)>,
        /// Topic and payload.
        will: Option<&'m (String, Vec<u8>)>,
    },
    Publish {
        message: &'m Message,
        packet_id: u16,
    },
    PubRel {
        packet_id: u16,
    },
    Disconnect,
}

/// What a peer said, and what it did not like.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum In {
    ConnAck { refused: Option<String> },
    Ack { kind: &'static str, packet_id: u16, refused: Option<String> },
    Other(String),
}

pub(super) fn write(
    protocol: Protocol,
    packet: &Out<'_>,
    out: &mut BytesMut,
) -> Result<(), String> {
    match protocol {
        Protocol::V3 => write_v3(packet, out).map(drop).map_err(|error| format!("{error:?}")),
        Protocol::V5 => to_v5(packet).write(out, None).map(drop).map_err(|error| error.to_string()),
    }
}

/// `None`: more bytes are needed.
pub(super) fn read(protocol: Protocol, unread: &mut BytesMut) -> Result<Option<In>, String> {
    match protocol {
        Protocol::V3 => match v4::Packet::read(unread, MAX_PACKET) {
            Ok(packet) => Ok(Some(from_v3(packet))),
            Err(ErrorV3::InsufficientBytes(_)) => Ok(None),
            Err(error) => Err(format!("the peer does not speak MQTT 3.1.1 ({error:?})")),
        },
        Protocol::V5 => match v5::Packet::read(unread, Some(MAX_PACKET as u32)) {
            Ok(packet) => Ok(Some(from_v5(packet))),
            Err(ErrorV5::InsufficientBytes(_)) => Ok(None),
            Err(error) => Err(format!("the peer does not speak MQTT 5 ({error})")),
        },
    }
}

fn write_v3(packet: &Out<'_>, out: &mut BytesMut) -> Result<usize, ErrorV3> {
    match packet {
        Out::Connect { client_id, login, will } => {
            let mut connect = v4::Connect::new(*client_id);
            connect.keep_alive = KEEP_ALIVE;
            connect.login = login.map(|(name, password)| v4::Login::new(name, password));
            connect.last_will = will.map(|(topic, payload)| {
                v4::LastWill::new(topic, payload.clone(), QosV3::AtLeastOnce, false)
            });
            connect.write(out)
        }
        Out::Publish { message, packet_id } => {
            let qos = match message.qos {
                Qos::AtMostOnce => QosV3::AtMostOnce,
                Qos::AtLeastOnce => QosV3::AtLeastOnce,
                Qos::ExactlyOnce => QosV3::ExactlyOnce,
            };
            let mut publish = v4::Publish::new(&message.topic, qos, message.payload.clone());
            (publish.retain, publish.pkid) = (message.retain, *packet_id);
            publish.write(out)
        }
        Out::PubRel { packet_id } => v4::PubRel::new(*packet_id).write(out),
        Out::Disconnect => v4::Disconnect.write(out),
    }
}

fn to_v5(packet: &Out<'_>) -> v5::Packet {
    match packet {
        Out::Connect { client_id, login, will } => {
            let connect = v5::Connect {
                keep_alive: KEEP_ALIVE,
                client_id: (*client_id).to_owned(),
                clean_start: true,
                properties: None,
            };
            let login = login.map(|(name, password)| v5::Login::new(name, password));
            let will = will.map(|(topic, payload)| {
                v5::LastWill::new(topic.as_str(), payload.clone(), QosV5::AtLeastOnce, false, None)
            });
            v5::Packet::Connect(connect, will, login)
        }
        Out::Publish { message, packet_id } => {
            let qos = match message.qos {
                Qos::AtMostOnce => QosV5::AtMostOnce,
                Qos::AtLeastOnce => QosV5::AtLeastOnce,
                Qos::ExactlyOnce => QosV5::ExactlyOnce,
            };
            let properties = v5::PublishProperties {
                message_expiry_interval: message.expiry_s,
                content_type: message.content_type.clone(),
                user_properties: message.user.clone(),
                ..v5::PublishProperties::default()
            };
            let payload = message.payload.clone();
            let mut publish =
                v5::Publish::new(message.topic.as_str(), qos, payload, Some(properties));
            (publish.retain, publish.pkid) = (message.retain, *packet_id);
            v5::Packet::Publish(publish)
        }
        Out::PubRel { packet_id } => v5::Packet::PubRel(v5::PubRel::new(*packet_id, None)),
        Out::Disconnect => v5::Packet::Disconnect(v5::Disconnect::new(
            v5::DisconnectReasonCode::NormalDisconnection,
        )),
    }
}

fn from_v3(packet: v4::Packet) -> In {
    let ack = |kind, packet_id| In::Ack { kind, packet_id, refused: None };
    match packet {
        v4::Packet::ConnAck(connack) => In::ConnAck { refused: refusal(connack.code) },
        v4::Packet::PubAck(it) => ack("PUBACK", it.pkid),
        v4::Packet::PubRec(it) => ack("PUBREC", it.pkid),
        v4::Packet::PubComp(it) => ack("PUBCOMP", it.pkid),
        other => In::Other(format!("{other:?}")),
    }
}

fn from_v5(packet: v5::Packet) -> In {
    use PubAckReason as Ack;
    use PubRecReason as Rec;
    match packet {
        v5::Packet::ConnAck(it) => {
            let text = it.properties.and_then(|properties| properties.reason_string);
            In::ConnAck { refused: unless(&[v5::ConnectReturnCode::Success], &it.code, text) }
        }
        v5::Packet::PubAck(it) => {
            let text = it.properties.and_then(|properties| properties.reason_string);
            let refused = unless(&[Ack::Success, Ack::NoMatchingSubscribers], &it.reason, text);
            In::Ack { kind: "PUBACK", packet_id: it.pkid, refused }
        }
        v5::Packet::PubRec(it) => {
            let text = it.properties.and_then(|properties| properties.reason_string);
            let refused = unless(&[Rec::Success, Rec::NoMatchingSubscribers], &it.reason, text);
            In::Ack { kind: "PUBREC", packet_id: it.pkid, refused }
        }
        v5::Packet::PubComp(it) => {
            let text = it.properties.and_then(|properties| properties.reason_string);
            let refused = unless(&[PubCompReason::Success], &it.reason, text);
            In::Ack { kind: "PUBCOMP", packet_id: it.pkid, refused }
        }
        other => In::Other(format!("{other:?}")),
    }
}

/// The name of a reason that is not one of the good ones, and what the peer said of it.
fn unless<R: PartialEq + std::fmt::Debug>(
    good: &[R],
    reason: &R,
    text: Option<String>,
) -> Option<String> {
    if good.contains(reason) {
        return None;
    }
    Some(match text {
        Some(text) => format!("{reason:?} ({text})"),
        None => format!("{reason:?}"),
    })
}

fn refusal(code: v4::ConnectReturnCode) -> Option<String> {
    use v4::ConnectReturnCode as C;
    let name = match code {
        C::Success => return None,
        C::RefusedProtocolVersion => "1 unacceptable protocol version",
        C::BadClientId => "2 identifier rejected",
        C::ServiceUnavailable => "3 server unavailable",
        C::BadUserNamePassword => "4 bad user name or password",
        C::NotAuthorized => "5 not authorized",
    };
    Some(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(qos: Qos) -> Message {
        Message {
            topic: "a/b".into(),
            payload: b"x".to_vec(),
            qos,
            retain: false,
            user: vec![("k".into(), "v".into())],
            content_type: Some("text/plain".into()),
            expiry_s: Some(60),
        }
    }

    #[test]
    fn both_versions_write_packets_that_their_codecs_read_back() {
        let message = message(Qos::AtLeastOnce);
        let will = ("w".to_owned(), b"gone".to_vec());
        let all = [
            Out::Connect { client_id: "d", login: Some(("u", "p")), will: Some(&will) },
            Out::Publish { message: &message, packet_id: 7 },
            Out::PubRel { packet_id: 7 },
            Out::Disconnect,
        ];
        for packet in &all {
            let (mut three, mut five) = (BytesMut::new(), BytesMut::new());
            write(Protocol::V3, packet, &mut three).unwrap();
            write(Protocol::V5, packet, &mut five).unwrap();
            assert!(v4::Packet::read(&mut three, MAX_PACKET).is_ok() && three.is_empty());
            // The codec of version 5 does not read a DISCONNECT without a reason, which is good.
            if !matches!(packet, Out::Disconnect) {
                assert!(v5::Packet::read(&mut five, None).is_ok() && five.is_empty());
            }
        }
    }

    #[test]
    fn half_a_packet_is_none_yet_and_garbage_is_named() {
        for (protocol, connack) in
            [(Protocol::V3, &[0x20, 2, 0, 5][..]), (Protocol::V5, &[0x20, 3, 0, 0x87, 0])]
        {
            let mut unread = BytesMut::from(&connack[..2]);
            assert_eq!(read(protocol, &mut unread).unwrap(), None);
            unread.extend_from_slice(&connack[2..]);
            let Some(In::ConnAck { refused: Some(why) }) = read(protocol, &mut unread).unwrap()
            else {
                panic!("refused");
            };
            assert!(why.to_lowercase().contains("authorized"), "{why}");
            let mut garbage = BytesMut::from(&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..]);
            let read = read(protocol, &mut garbage);
            assert!(!matches!(read, Ok(Some(In::ConnAck { .. } | In::Ack { .. }))), "{read:?}");
        }
    }
}
