//! Our packets against rumqttc's codec, and our reader against whatever a peer may send.

use bytes::BytesMut;
use proptest::prelude::*;
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v4::{self, ConnectReturnCode as Code, Packet};

use super::encode::{self, Delivery, Hello};
use super::incoming::{Broken, decode};
use super::{Event, Open, Session};

fn encoded(packet: &Packet) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    packet.write(&mut bytes, usize::MAX).unwrap();
    bytes.to_vec()
}

fn read(bytes: &[u8]) -> Packet {
    let mut stream = BytesMut::from(bytes);
    let packet = Packet::read(&mut stream, usize::MAX).unwrap();
    assert!(stream.is_empty(), "one packet and nothing after it");
    packet
}

/// Everything a broker may say to a device that has connected, for `acks` open messages.
fn conversation(acks: &[u16]) -> Vec<u8> {
    let mut bytes = encoded(&Packet::ConnAck(v4::ConnAck::new(Code::Success, false)));
    for pid in acks {
        bytes.extend(encoded(&Packet::PubAck(v4::PubAck::new(*pid))));
        bytes.extend(encoded(&Packet::PingResp));
    }
    bytes
}

fn open(pid: u16) -> Open {
    Open { pid, send: 0, expired: false, intended_us: 1, sent_us: 2 }
}

proptest! {
    #[test]
    fn every_publish_is_read_by_the_oracle_as_it_was_meant(
        topic in "[a-z/]{1,40}",
        payload in prop_oneof![
            proptest::collection::vec(any::<u8>(), 1..300),
            // Around the steps of the length's own length.
            (16_300usize..16_400).prop_map(|n| vec![7; n]),
            (2_097_100usize..2_097_200).prop_map(|n| vec![7; n]),
        ],
        pid in any::<u16>(), retain in any::<bool>(), before in 0usize..20,
    ) {
        let mut out = vec![9; before];
        let delivery = if pid == 0 { Delivery::AtMostOnce } else { Delivery::AtLeastOnce(pid) };
        encode::publish(
            &mut out, delivery, retain,
            |out| out.extend_from_slice(topic.as_bytes()),
            |out| out.extend_from_slice(&payload),
        ).unwrap();
        prop_assert!(out[..before].iter().all(|byte| *byte == 9), "what was there is untouched");
        let Packet::Publish(publish) = read(&out[before..]) else { panic!("not a PUBLISH") };
        prop_assert_eq!(&publish.topic, &topic);
        prop_assert_eq!(&publish.payload[..], &payload[..]);
        prop_assert_eq!(publish.pkid, pid);
        prop_assert_eq!(publish.retain, retain);
        prop_assert_eq!(publish.qos == QoS::AtLeastOnce, pid != 0);
    }

    #[test]
    fn wherever_the_bytes_are_cut_the_same_acks_arrive(
        acks in proptest::collection::vec(1u16.., 0..10), cuts in proptest::collection::vec(1usize..9, 1..50),
    ) {
        let bytes = conversation(&acks);
        let mut session = Session::default();
        acks.iter().for_each(|pid| session.opened(open(*pid)));
        let mut seen = Vec::new();
        let mut rest = &bytes[..];
        for cut in cuts.iter().cycle() {
            if rest.is_empty() { break }
            let (now, later) = rest.split_at((*cut).min(rest.len()));
            session.receive(now, |event| if let Event::Acked(open) = event { seen.push(open.pid) }).unwrap();
            rest = later;
        }
        prop_assert_eq!(seen, acks);
        prop_assert_eq!(session.n_live(), 0);
    }

    #[test]
    fn garbage_never_panics_and_never_makes_us_hold_more_than_a_packet(
        garbage in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut rest = &garbage[..];
        loop {
            match decode(rest) {
                Ok(Some((_, len))) => rest = &rest[len..],
                Ok(None) => { prop_assert!(rest.len() < 4); break }
                Err(_) => break,
            }
        }
        let _ = Session::default().receive(&garbage, |_| {});
    }

    #[test]
    fn a_connect_packet_says_what_it_should(
        id in "[a-z0-9-]{1,30}", user in "[a-z]{1,10}", password in "[a-z]{1,10}", keep_alive_s in any::<u16>(),
    ) {
        let hello = Hello { client_id: &id, keep_alive_s, username: Some(&user), password: Some(&password) };
        let Packet::Connect(packet) = read(&encode::connect(&hello).unwrap()) else { panic!() };
        prop_assert_eq!(packet.client_id, id);
        prop_assert_eq!(packet.keep_alive, keep_alive_s);
        prop_assert!(packet.clean_session);
        prop_assert_eq!(packet.login, Some(v4::Login { username: user, password }));
    }
}

#[test]
fn the_two_byte_packets_are_those_of_the_oracle() {
    assert_eq!(encoded(&Packet::PingReq), encode::PINGREQ);
    assert_eq!(encoded(&Packet::Disconnect), encode::DISCONNECT);
}

#[test]
fn a_conversation_cut_at_every_byte_means_the_same() {
    let bytes = conversation(&[1, 2]);
    for cut in 0..=bytes.len() {
        let mut session = Session::default();
        session.opened(open(1));
        session.opened(open(2));
        let mut events = 0;
        session.receive(&bytes[..cut], |_| events += 1).unwrap();
        session.receive(&bytes[cut..], |_| events += 1).unwrap();
        assert_eq!(events, 5, "cut at {cut}");
    }
}

#[test]
fn every_refusal_has_its_class_and_an_unknown_code_breaks_the_protocol() {
    for code in 1..=5u8 {
        let mut refusals = Vec::new();
        let keep = |event| refusals.push(event);
        Session::default().receive(&[0x20, 2, 0, code], keep).unwrap();
        let [Event::Refused(refusal)] = refusals[..] else { panic!("{refusals:?}") };
        assert!(refusal.text.starts_with(&format!("CONNACK {code}:")));
        assert_eq!(refusal.class.is_final_refusal(), code != 3);
    }
    assert_eq!(decode(&[0x20, 2, 0, 6]), Err(Broken::UnknownConnectCode));
}

#[test]
fn packets_out_of_turn_or_never_asked_for_are_refused() {
    assert_eq!(Session::default().receive(&[0xd0, 0], |_| {}), Err(Broken::OutOfTurn));
    let twice = [conversation(&[]), conversation(&[])].concat();
    assert_eq!(Session::default().receive(&twice, |_| {}), Err(Broken::OutOfTurn));
    assert_eq!(decode(&[0x90, 3]), Err(Broken::Unexpected));
    assert_eq!(decode(&[0x30, 255, 255, 255, 127]), Err(Broken::Unexpected));
    assert_eq!(decode(&[0x40, 255]), Err(Broken::Malformed));
}

#[test]
fn an_expired_message_frees_its_place_and_its_late_ack_is_known() {
    let mut session = Session::default();
    session.receive(&conversation(&[]), |_| {}).unwrap();
    session.opened(open(1));
    session.expire(|_| true, |_| {});
    assert_eq!(session.n_live(), 0);
    let mut seen = None;
    session.receive(&[0x40, 2, 0, 1], |event| seen = Some(event)).unwrap();
    assert_eq!(seen, Some(Event::Acked(Open { expired: true, ..open(1) })));
    let mut again = None;
    session.receive(&[0x40, 2, 0, 1], |event| again = Some(event)).unwrap();
    assert_eq!(again, None, "a second ack closes nothing");
}

#[test]
fn packet_ids_go_round_past_those_still_open_and_are_never_zero() {
    let mut session = Session::default();
    session.opened(open(1));
    for expected in (2..=u16::MAX).chain([2]) {
        assert_eq!(session.next_pid(), Some(expected));
    }
}
