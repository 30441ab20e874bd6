//! Our packets against rumqttc's codec, and our reader against whatever a peer may send.

use bytes::BytesMut;
use proptest::prelude::*;
use rumqttc::mqttbytes::v4;
use rumqttc::v5::mqttbytes::{QoS as Qos5, v5};
use shoal_domain::outcome::ErrorClass;
use shoal_domain::plan::{Protocol, Qos};

use super::encode::{self, Delivery, Head, Hello, Will, property};
use super::incoming::{Broken, Incoming, Rules, decode};
use super::{Event, Open, Session, What};

const MAX_PACKET: u32 = 1_000;

fn rules(protocol: Protocol) -> Rules {
    Rules { protocol, max_packet: MAX_PACKET, expects_messages: false }
}

fn listening(protocol: Protocol) -> Rules {
    Rules { expects_messages: true, ..rules(protocol) }
}

fn encoded(packet: &v4::Packet) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    packet.write(&mut bytes, usize::MAX).unwrap();
    bytes.to_vec()
}

fn encoded_5(packet: &v5::Packet) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    packet.write(&mut bytes, None).unwrap();
    bytes.to_vec()
}

fn read(bytes: &[u8]) -> v4::Packet {
    let mut stream = BytesMut::from(bytes);
    let packet = v4::Packet::read(&mut stream, usize::MAX).unwrap();
    assert!(stream.is_empty(), "one packet and nothing after it");
    packet
}

fn read_5(bytes: &[u8]) -> v5::Packet {
    let mut stream = BytesMut::from(bytes);
    let packet = v5::Packet::read(&mut stream, None).unwrap();
    assert!(stream.is_empty(), "one packet and nothing after it");
    packet
}

fn connack(session_present: bool) -> Vec<u8> {
    vec![0x20, 2, u8::from(session_present), 0]
}

/// Everything a broker may say to a device that has connected, for open messages.
fn conversation(pids: &[(u16, Qos)]) -> Vec<u8> {
    let mut bytes = connack(false);
    for (pid, qos) in pids {
        if *qos == Qos::AtLeastOnce {
            bytes.extend(encoded(&v4::Packet::PubAck(v4::PubAck::new(*pid))));
        } else {
            bytes.extend(encoded(&v4::Packet::PubRec(v4::PubRec::new(*pid))));
            bytes.extend(encoded(&v4::Packet::PubComp(v4::PubComp::new(*pid))));
        }
        bytes.extend([0xd0, 0]);
    }
    bytes
}

fn open(pid: u16, qos: Qos) -> Open {
    let what = What::Slot { send: 0, slot: 7, n: 3, now_us: 5, qos, n_bytes: 1 };
    Open { pid, what, expired: false, released: false, intended_us: 1, sent_us: 2 }
}

fn connected(protocol: Protocol) -> Session {
    let mut session = Session::new(listening(protocol));
    let bytes = match protocol {
        Protocol::V3 => connack(false),
        Protocol::V5 => vec![0x20, 3, 0, 0, 0],
    };
    session.receive(&bytes, &mut Vec::new(), |_| {}).unwrap();
    session
}

/// What happened, in short, and what was answered.
fn say(session: &mut Session, bytes: &[u8]) -> (Vec<String>, Vec<u8>) {
    let (mut events, mut answers) = (Vec::new(), Vec::new());
    session
        .receive(bytes, &mut answers, |event| {
            events.push(match event {
                Event::Acked(open) => format!("acked {}", open.pid),
                Event::Done(open) => format!("done {}", open.pid),
                Event::Rejected(open, refusal) => format!("rejected {} {}", open.pid, refusal.text),
                Event::Message(message) => format!("message {}", message.topic),
                Event::Ended(refusal) => format!("ended {:?} {}", refusal.class, refusal.text),
                Event::Refused(refusal) => format!("refused {:?} {}", refusal.class, refusal.text),
                Event::Accepted(welcome) => format!("accepted {}", welcome.session_present),
                Event::Pong => "pong".to_owned(),
            });
        })
        .unwrap();
    (events, answers)
}

fn qos() -> impl Strategy<Value = Qos> {
    prop_oneof![Just(Qos::AtLeastOnce), Just(Qos::ExactlyOnce)]
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 1..300),
        // Around the steps of the length's own length.
        (16_300usize..16_400).prop_map(|n| vec![7; n]),
        (2_097_100usize..2_097_200).prop_map(|n| vec![7; n]),
    ]
}

proptest! {
    #[test]
    fn every_publish_is_read_by_the_oracle_as_it_was_meant(
        topic in "[a-z/]{1,40}", payload in payload(), pid in 1u16.., number in 0u8..3,
        retain in any::<bool>(), dup in any::<bool>(), before in 0usize..20,
    ) {
        let qos = [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce][usize::from(number)];
        let delivery = Delivery { qos, pid };
        let mut out = vec![9; before];
        let head = Head { protocol: Protocol::V3, delivery, retain, dup };
        encode::publish(
            &mut out, head,
            |out| out.extend_from_slice(topic.as_bytes()),
            |_| panic!("MQTT 3.1.1 has no properties"),
            |out| out.extend_from_slice(&payload),
        ).unwrap();
        prop_assert!(out[..before].iter().all(|byte| *byte == 9), "what was there is untouched");
        let v4::Packet::Publish(publish) = read(&out[before..]) else { panic!("not a PUBLISH") };
        prop_assert_eq!(&publish.topic, &topic);
        prop_assert_eq!(&publish.payload[..], &payload[..]);
        prop_assert_eq!(publish.pkid, if number == 0 { 0 } else { pid });
        prop_assert_eq!((publish.retain, publish.dup, publish.qos as u8), (retain, dup, number));
    }

    #[test]
    fn every_publish_with_properties_is_read_by_the_oracle_as_it_was_meant(
        topic in "[a-z/]{0,40}", payload in payload(), pid in 1u16..,
        expiry in proptest::option::of(any::<u32>()), alias in proptest::option::of(1u16..),
        kind in proptest::option::of("[a-z/]{0,20}"),
        user in proptest::collection::vec(("[a-z]{0,10}", "[ -~]{0,200}"), 0..4),
    ) {
        let mut out = Vec::new();
        let head = Head {
            protocol: Protocol::V5, delivery: Delivery { qos: Qos::ExactlyOnce, pid }, retain: false, dup: false,
        };
        encode::publish(
            &mut out, head,
            |out| out.extend_from_slice(topic.as_bytes()),
            |out| {
                if let Some(expiry) = expiry { property::message_expiry(out, expiry) }
                if let Some(alias) = alias { property::topic_alias(out, alias) }
                if let Some(kind) = &kind {
                    property::content_type(out, |out| out.extend_from_slice(kind.as_bytes()))?;
                }
                for (name, value) in &user {
                    property::user(out, name, |out| out.extend_from_slice(value.as_bytes()))?;
                }
                Ok(())
            },
            |out| out.extend_from_slice(&payload),
        ).unwrap();
        let v5::Packet::Publish(publish) = read_5(&out) else { panic!("not a PUBLISH") };
        prop_assert_eq!(&publish.topic[..], topic.as_bytes());
        prop_assert_eq!(&publish.payload[..], &payload[..]);
        prop_assert_eq!((publish.pkid, publish.qos), (pid, Qos5::ExactlyOnce));
        let found = publish.properties.unwrap_or_default();
        prop_assert_eq!(found.message_expiry_interval, expiry);
        prop_assert_eq!(found.topic_alias, alias);
        prop_assert_eq!(found.content_type, kind);
        prop_assert_eq!(found.user_properties, user);
    }

    #[test]
    fn wherever_the_bytes_are_cut_the_same_acks_arrive(
        pids in proptest::collection::btree_map(1u16.., qos(), 0..10),
        cuts in proptest::collection::vec(1usize..9, 1..50),
    ) {
        let pids: Vec<(u16, Qos)> = pids.into_iter().collect();
        let bytes = conversation(&pids);
        let mut session = Session::new(rules(Protocol::V3));
        pids.iter().for_each(|(pid, qos)| session.opened(open(*pid, *qos)));
        let (mut acked, mut done, mut answers) = (Vec::new(), Vec::new(), Vec::new());
        let mut rest = &bytes[..];
        for cut in cuts.iter().cycle() {
            if rest.is_empty() { break }
            let (now, later) = rest.split_at((*cut).min(rest.len()));
            session.receive(now, &mut answers, |event| match event {
                Event::Acked(open) => acked.push(open.pid),
                Event::Done(open) => done.push(open.pid),
                _ => {}
            }).unwrap();
            rest = later;
        }
        let all: Vec<u16> = pids.iter().map(|(pid, _)| *pid).collect();
        prop_assert_eq!(&acked, &all);
        prop_assert_eq!(&done, &all);
        let released: Vec<u8> = pids.iter().filter(|(_, qos)| *qos == Qos::ExactlyOnce)
            .flat_map(|(pid, _)| encoded(&v4::Packet::PubRel(v4::PubRel::new(*pid)))).collect();
        prop_assert_eq!(answers, released);
        prop_assert_eq!(session.room(10), 10);
    }

    #[test]
    fn garbage_never_panics_and_never_makes_us_hold_more_than_a_packet(
        head in proptest::option::of(prop_oneof![Just(0x20u8), Just(0x30), Just(0x34), Just(0x90), Just(0xe0), Just(0x62)]),
        garbage in proptest::collection::vec(any::<u8>(), 0..2_000), is_5 in any::<bool>(), listens in any::<bool>(),
    ) {
        let protocol = if is_5 { Protocol::V5 } else { Protocol::V3 };
        let rules = Rules { expects_messages: listens, ..rules(protocol) };
        let garbage: Vec<u8> = head.into_iter().chain(garbage).collect();
        let mut rest = &garbage[..];
        loop {
            match decode(rules, rest) {
                Ok(Some((_, len))) => rest = &rest[len..],
                Ok(None) => { prop_assert!(rest.len() <= MAX_PACKET as usize + 4); break }
                Err(_) => break,
            }
        }
        let mut session = connected(protocol);
        let _ = session.receive(&garbage, &mut Vec::new(), |_| {});
    }

    #[test]
    fn a_connect_packet_says_what_it_should(
        id in "[a-z0-9-]{1,30}", user in "[a-z]{1,10}", password in "[a-z]{1,10}", keep_alive_s in any::<u16>(),
        clean_start in any::<bool>(), topic in "[a-z]{1,9}", message in "[a-z]{0,9}", session_expiry_s in any::<u32>(),
    ) {
        let will = Will { topic: topic.clone(), payload: message.clone().into(), qos: Qos::ExactlyOnce, retain: true };
        let hello = |protocol| Hello {
            protocol, client_id: &id, keep_alive_s, clean_start, session_expiry_s, max_packet: 5_000,
            username: Some(&user), password: Some(&password), will: Some(will.clone()),
        };
        let v4::Packet::Connect(packet) = read(&encode::connect(&hello(Protocol::V3)).unwrap()) else { panic!() };
        prop_assert_eq!(&packet.client_id, &id);
        prop_assert_eq!((packet.keep_alive, packet.clean_session), (keep_alive_s, clean_start));
        let login = packet.login.unwrap();
        prop_assert_eq!((&login.username, &login.password), (&user, &password));
        let found = packet.last_will.unwrap();
        prop_assert_eq!((&found.topic, &found.message[..], found.qos as u8, found.retain), (&topic, message.as_bytes(), 2, true));

        let v5::Packet::Connect(packet, found, login) = read_5(&encode::connect(&hello(Protocol::V5)).unwrap()) else { panic!() };
        prop_assert_eq!(&packet.client_id, &id);
        prop_assert_eq!((packet.keep_alive, packet.clean_start), (keep_alive_s, clean_start));
        let properties = packet.properties.unwrap();
        prop_assert_eq!(properties.session_expiry_interval.unwrap_or(0), session_expiry_s);
        prop_assert_eq!(properties.max_packet_size, Some(5_000));
        let login = login.unwrap();
        prop_assert_eq!((&login.username, &login.password), (&user, &password));
        let found = found.unwrap();
        prop_assert_eq!((&found.topic[..], &found.message[..]), (topic.as_bytes(), message.as_bytes()));
    }

    #[test]
    fn what_an_mqtt_5_server_grants_is_read_as_the_oracle_wrote_it(
        receive_max in proptest::option::of(1u16..), max_packet_size in proptest::option::of(1u32..),
        topic_alias_max in proptest::option::of(any::<u16>()), server_keep_alive in proptest::option::of(any::<u16>()),
        reason in proptest::option::of("[ -~]{0,40}"), user in proptest::collection::vec(("[a-z]{1,4}", "[a-z]{0,9}"), 0..3),
        session_present in any::<bool>(), expiry in proptest::option::of(any::<u32>()),
    ) {
        let properties = v5::ConnAckProperties {
            session_expiry_interval: expiry, receive_max, max_qos: Some(1), retain_available: Some(0),
            max_packet_size, assigned_client_identifier: Some("x".into()), topic_alias_max,
            reason_string: reason, user_properties: user, wildcard_subscription_available: Some(1),
            subscription_identifiers_available: Some(1), shared_subscription_available: Some(0),
            server_keep_alive, response_information: None, server_reference: Some("other:1883".into()),
            authentication_method: None, authentication_data: None,
        };
        let ack = v5::ConnAck { session_present, code: v5::ConnectReturnCode::Success, properties: Some(properties) };
        let bytes = encoded_5(&v5::Packet::ConnAck(ack));
        let (packet, len) = decode(rules(Protocol::V5), &bytes).unwrap().unwrap();
        prop_assert_eq!(len, bytes.len());
        let Incoming::ConnAck(Ok(welcome)) = packet else { panic!("{packet:?}") };
        prop_assert_eq!(welcome.session_present, session_present);
        prop_assert_eq!(welcome.receive_maximum, receive_max.unwrap_or(u16::MAX));
        prop_assert_eq!(welcome.maximum_packet, max_packet_size.unwrap_or(u32::MAX));
        prop_assert_eq!(welcome.topic_alias_maximum, topic_alias_max.unwrap_or(0));
        prop_assert_eq!((welcome.maximum_qos, welcome.retain_available), (1, false));
        prop_assert_eq!(welcome.keep_alive_s, server_keep_alive);
    }

    #[test]
    fn a_message_is_read_as_the_oracle_wrote_it(
        topic in "[a-z/]{1,30}", payload in proptest::collection::vec(any::<u8>(), 0..200), pid in 1u16..,
        kind in proptest::option::of("[a-z]{0,9}"),
    ) {
        let properties = v5::PublishProperties { content_type: kind, ..Default::default() };
        let mut publish = v5::Publish::new(topic.clone(), Qos5::AtLeastOnce, payload.clone(), Some(properties));
        publish.pkid = pid;
        let bytes = encoded_5(&v5::Packet::Publish(publish));
        let (packet, len) = decode(listening(Protocol::V5), &bytes).unwrap().unwrap();
        prop_assert_eq!(len, bytes.len());
        let Incoming::Publish(message) = packet else { panic!("{packet:?}") };
        prop_assert_eq!((message.topic, message.payload, message.qos, message.pid), (&topic[..], &payload[..], 1, pid));
    }
}

#[test]
fn each_connack_code_has_its_class_and_text() {
    let classes = [1u8, 2, 3, 4, 5].map(|code| {
        let (events, _) = say(&mut Session::new(rules(Protocol::V3)), &[0x20, 2, 0, code]);
        assert!(events[0].contains(&format!("CONNACK {code}:")), "{events:?}");
        events[0].split(' ').nth(1).unwrap().to_owned()
    });
    assert_eq!(
        classes.join(" "),
        "UnacceptableProtocolVersion IdentifierRejected ServerUnavailable BadUserNameOrPassword NotAuthorized"
    );
    let unknown = decode(rules(Protocol::V3), &[0x20, 2, 0, 6]);
    assert_eq!(unknown.unwrap_err(), Broken::UnknownConnectCode);
}

#[test]
fn an_mqtt_5_server_gives_its_reason_by_name_and_may_send_us_elsewhere() {
    let refused = |bytes: &[u8]| say(&mut Session::new(rules(Protocol::V5)), bytes).0.join("");
    assert_eq!(
        refused(&[0x20, 3, 0, 0x87, 0]),
        "refused NotAuthorized CONNACK 0x87: not authorized"
    );
    let moved = [&[0x20, 12, 0, 0x9d, 9, 0x1c, 0, 6][..], b"b:1883"].concat();
    assert_eq!(
        refused(&moved),
        "refused Redirected CONNACK 0x9d: server moved, the server to use is b:1883"
    );
    // A broker that knows MQTT 3.1.1 only.
    assert!(refused(&[0x20, 2, 0, 1]).starts_with("refused UnacceptableProtocolVersion"));
    let mut session = connected(Protocol::V5);
    assert_eq!(
        say(&mut session, &[0xe0, 1, 0x8e]).0,
        ["ended Disconnected DISCONNECT 0x8e: session taken over"]
    );
    session.opened(open(1, Qos::AtLeastOnce));
    let rejection = [&[0x40, 10, 0, 1, 0x97, 6, 0x1f, 0, 3][..], b"oh\n"].concat();
    assert_eq!(say(&mut session, &rejection).0, ["rejected 1 PUBACK 0x97: quota exceeded (oh )"]);
    assert_eq!(session.room(1), 1);
}

#[test]
fn packets_out_of_turn_or_never_asked_for_are_refused() {
    let err = |session: &mut Session, bytes: &[u8]| session.receive(bytes, &mut Vec::new(), |_| {});
    let rules = rules(Protocol::V3);
    assert_eq!(err(&mut Session::new(rules), &[0xd0, 0]), Err(Broken::OutOfTurn));
    let twice = [connack(false), connack(false)].concat();
    assert_eq!(err(&mut Session::new(rules), &twice), Err(Broken::OutOfTurn));
    for (bytes, broken) in [
        (&[0x90, 3][..], Broken::Unexpected),
        (&[0x30, 255, 255, 255, 127], Broken::Unexpected),
        (&[0xf0, 0], Broken::Unexpected),
        (&[0x40, 255, 1], Broken::Malformed),
        (&[0x40, 2, 0, 0], Broken::Malformed),
        (&[0xe0, 0], Broken::Malformed),
        (&[0x41, 2, 0, 1], Broken::Malformed),
        (&[0x20, 255, 255, 255, 255], Broken::Malformed),
    ] {
        assert_eq!(decode(rules, bytes).unwrap_err(), broken, "{bytes:?}");
    }
    let large = decode(listening(Protocol::V3), &[0x30, 0xe9, 0x07]);
    assert_eq!(large.unwrap_err(), Broken::TooLarge(1_001));
}

#[test]
fn an_expired_message_frees_its_place_and_its_late_ack_is_known() {
    let mut session = connected(Protocol::V3);
    session.opened(open(1, Qos::AtLeastOnce));
    assert_eq!(session.room(1), 0);
    session.expire(|_| true, |_| {});
    assert_eq!(session.room(1), 1);
    assert_eq!(say(&mut session, &[0x40, 2, 0, 1]).0, ["acked 1", "done 1"]);
    assert_eq!(say(&mut session, &[0x40, 2, 0, 1]).0, [""; 0], "a second ack closes nothing");
}

#[test]
fn exactly_once_is_acknowledged_by_pubrec_and_done_by_pubcomp() {
    let mut session = connected(Protocol::V3);
    session.opened(open(1, Qos::ExactlyOnce));
    assert_eq!(say(&mut session, &[0x40, 2, 0, 1]).0, [""; 0], "a PUBACK is not its ack");
    assert_eq!(
        say(&mut session, &[0x50, 2, 0, 1]),
        (vec!["acked 1".to_owned()], vec![0x62, 2, 0, 1])
    );
    // The peer repeats itself: it gets its answer and nothing is counted twice.
    assert_eq!(say(&mut session, &[0x50, 2, 0, 1]), (vec![], vec![0x62, 2, 0, 1]));
    assert_eq!(session.room(1), 0);
    assert_eq!(say(&mut session, &[0x70, 2, 0, 1]).0, ["done 1"]);
    assert_eq!(session.room(1), 1);
}

#[test]
fn a_message_for_the_device_arrives_once_and_is_answered() {
    let mut session = connected(Protocol::V3);
    let once = [0x30, 4, 0, 1, b'a', b'x'];
    assert_eq!(say(&mut session, &once), (vec!["message a".to_owned()], vec![]));
    let at_least_once = [0x32, 5, 0, 1, b'b', 0, 9];
    assert_eq!(
        say(&mut session, &at_least_once),
        (vec!["message b".to_owned()], vec![0x40, 2, 0, 9])
    );
    let exactly_once = [0x34, 5, 0, 1, b'c', 0, 8];
    assert_eq!(
        say(&mut session, &exactly_once),
        (vec!["message c".to_owned()], vec![0x50, 2, 0, 8])
    );
    assert_eq!(say(&mut session, &exactly_once), (vec![], vec![0x50, 2, 0, 8]));
    assert_eq!(say(&mut session, &[0x62, 2, 0, 8]), (vec![], vec![0x70, 2, 0, 8]));
    assert_eq!(say(&mut session, &exactly_once).0, ["message c"]);
}

#[test]
fn a_peer_cannot_make_us_remember_messages_without_end() {
    let mut session = connected(Protocol::V3);
    let message = |pid: u16| {
        let [high, low] = pid.to_be_bytes();
        [0x34, 5, 0, 1, b'c', high, low]
    };
    for pid in 1..=1_000 {
        say(&mut session, &message(pid));
    }
    let one_more = session.receive(&message(1_001), &mut Vec::new(), |_| {});
    assert_eq!(one_more, Err(Broken::TooManyOpen));
}

#[test]
fn a_session_that_goes_on_keeps_its_messages_and_their_ids() {
    let mut session = connected(Protocol::V3);
    session.opened(open(1, Qos::AtLeastOnce));
    session.opened(open(2, Qos::ExactlyOnce));
    say(&mut session, &[0x50, 2, 0, 2]);
    // Half a packet of the old connection means nothing on the new one.
    say(&mut session, &[0x40, 2, 0]);
    assert_eq!(session.suspend(), []);
    assert_eq!(say(&mut session, &connack(true)).0, ["accepted true"]);
    let unfinished: Vec<(u16, bool)> =
        session.unfinished().iter().map(|open| (open.pid, open.released)).collect();
    assert_eq!(unfinished, [(1, false), (2, true)]);
    assert_eq!(session.room(3), 1);
    assert_eq!(
        say(&mut session, &[0x40, 2, 0, 1, 0x70, 2, 0, 2]).0,
        ["acked 1", "done 1", "done 2"]
    );
}

#[test]
fn a_server_that_takes_one_message_at_a_time_gets_one_at_a_time() {
    let mut session = Session::new(rules(Protocol::V5));
    say(&mut session, &[0x20, 6, 0, 0, 3, 0x21, 0, 1]);
    assert_eq!(session.room(10), 1);
    session.opened(open(1, Qos::AtLeastOnce));
    assert_eq!(session.room(10), 0);
}

#[test]
fn packet_ids_go_round_past_those_still_open_and_are_never_zero() {
    let mut session = connected(Protocol::V3);
    session.opened(open(1, Qos::AtLeastOnce));
    for expected in (2..=u16::MAX).chain([2]) {
        assert_eq!(session.next_pid(), Some(expected));
    }
}

#[test]
fn classes_that_end_a_device_are_those_that_will_not_change() {
    assert!(ErrorClass::Redirected.is_final_refusal());
    assert!(!ErrorClass::ServerUnavailable.is_final_refusal());
    assert!(!ErrorClass::Disconnected.is_final_refusal());
}
