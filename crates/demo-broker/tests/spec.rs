//! What the demo broker promises, seen from the socket.
//!
//! Most tests speak packet by packet, so that a wrong answer fails at its place; one drives the
//! broker with a complete client of somebody else.
#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use rumqttc::mqttbytes::v4::{
    ConnAck, Connect, ConnectReturnCode, LastWill, Packet, PubAck, PubComp, PubRec, PubRel,
    Publish, SubAck, Subscribe, SubscribeReasonCode, UnsubAck, Unsubscribe,
};
use rumqttc::mqttbytes::{Error, QoS};
use shoal_demo_broker::BrokerThread;

const DEADLINE: Duration = Duration::from_secs(10);

struct Client {
    stream: TcpStream,
    unread: BytesMut,
}

impl Client {
    fn dial(broker: &BrokerThread) -> Self {
        let stream = TcpStream::connect(broker.addr()).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        Self { stream, unread: BytesMut::new() }
    }

    fn connected(broker: &BrokerThread, id: &str) -> Self {
        let mut client = Self::dial(broker);
        client.send(&Packet::Connect(Connect::new(id)));
        assert_eq!(client.connack(), ConnectReturnCode::Success);
        client
    }

    fn send(&mut self, packet: &Packet) {
        let mut bytes = BytesMut::new();
        packet.write(&mut bytes, usize::MAX).unwrap();
        self.stream.write_all(&bytes).unwrap();
    }

    /// The next packet; `None` when the broker has closed the connection.
    fn next(&mut self) -> Option<Packet> {
        loop {
            match Packet::read(&mut self.unread, usize::MAX) {
                Ok(packet) => return Some(packet),
                Err(Error::InsufficientBytes(_)) => {}
                Err(error) => panic!("broker wrote garbage: {error}"),
            }
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(read) => self.unread.extend_from_slice(&chunk[..read]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("no packet within {DEADLINE:?}: {error}"),
            }
        }
    }

    fn connack(&mut self) -> ConnectReturnCode {
        match self.next() {
            Some(Packet::ConnAck(ConnAck { code, .. })) => code,
            other => panic!("expected CONNACK, got {other:?}"),
        }
    }

    /// Everything sent before has been dealt with once this returns; other packets are an error.
    fn sync(&mut self) {
        self.send(&Packet::PingReq);
        assert_eq!(self.next(), Some(Packet::PingResp));
    }

    fn subscribe(&mut self, filter: &str, qos: QoS) -> SubscribeReasonCode {
        let mut subscribe = Subscribe::new(filter, qos);
        subscribe.pkid = 9;
        self.send(&Packet::Subscribe(subscribe));
        match self.next() {
            Some(Packet::SubAck(SubAck { pkid: 9, return_codes })) => return_codes[0],
            other => panic!("expected SUBACK, got {other:?}"),
        }
    }

    fn publish(&mut self, topic: &str, qos: QoS, retain: bool, payload: &str) {
        let mut publish = Publish::new(topic, qos, payload);
        publish.retain = retain;
        publish.pkid = if qos == QoS::AtMostOnce { 0 } else { 7 };
        self.send(&Packet::Publish(publish));
        match (qos, if qos == QoS::AtMostOnce { None } else { self.next() }) {
            (QoS::AtMostOnce, _)
            | (QoS::AtLeastOnce, Some(Packet::PubAck(PubAck { pkid: 7 })))
            | (QoS::ExactlyOnce, Some(Packet::PubRec(PubRec { pkid: 7 }))) => {}
            (_, other) => panic!("wrong answer {other:?}"),
        }
    }

    fn message(&mut self) -> Publish {
        match self.next() {
            Some(Packet::Publish(publish)) => publish,
            other => panic!("expected a message, got {other:?}"),
        }
    }
}

fn broker() -> BrokerThread {
    BrokerThread::on_loopback().unwrap()
}

#[test]
fn a_message_reaches_those_whose_filter_matches_at_the_lower_qos() {
    let broker = broker();
    let mut wild = Client::connected(&broker, "wild");
    let mut other = Client::connected(&broker, "other");
    assert_eq!(
        wild.subscribe("a/+/c", QoS::AtLeastOnce),
        SubscribeReasonCode::Success(QoS::AtLeastOnce)
    );
    other.subscribe("a/#/c", QoS::AtMostOnce);
    other.subscribe("b/#", QoS::AtMostOnce);

    let mut device = Client::connected(&broker, "device");
    device.publish("a/b/c", QoS::AtMostOnce, false, "one");
    device.publish("a/b/c", QoS::AtLeastOnce, false, "two");

    let first = wild.message();
    assert_eq!((first.qos, &first.payload[..]), (QoS::AtMostOnce, &b"one"[..]));
    let second = wild.message();
    assert_eq!((second.qos, &second.payload[..]), (QoS::AtLeastOnce, &b"two"[..]));
    assert!(second.pkid > 0 && !second.retain);
    other.sync();
}

#[test]
fn a_filter_that_breaks_the_rules_is_refused_and_qos_2_is_granted_as_1() {
    let broker = broker();
    let mut client = Client::connected(&broker, "c");
    assert_eq!(client.subscribe("a/#/b", QoS::AtMostOnce), SubscribeReasonCode::Failure);
    assert_eq!(
        client.subscribe("a", QoS::ExactlyOnce),
        SubscribeReasonCode::Success(QoS::AtLeastOnce)
    );
}

#[test]
fn overlapping_filters_bring_a_message_once() {
    let broker = broker();
    let mut client = Client::connected(&broker, "c");
    client.subscribe("a/#", QoS::AtMostOnce);
    client.subscribe("a/+", QoS::AtLeastOnce);
    let mut device = Client::connected(&broker, "device");
    device.publish("a/b", QoS::AtLeastOnce, false, "x");
    assert_eq!(client.message().qos, QoS::AtLeastOnce);
    client.sync();
}

#[test]
fn after_unsubscribe_nothing_comes() {
    let broker = broker();
    let mut client = Client::connected(&broker, "c");
    client.subscribe("a", QoS::AtMostOnce);
    let mut unsubscribe = Unsubscribe::new("a");
    unsubscribe.pkid = 3;
    client.send(&Packet::Unsubscribe(unsubscribe));
    assert_eq!(client.next(), Some(Packet::UnsubAck(UnsubAck { pkid: 3 })));
    Client::connected(&broker, "device").publish("a", QoS::AtLeastOnce, false, "x");
    client.sync();
}

#[test]
fn a_retained_message_waits_for_subscribers_until_an_empty_one_clears_it() {
    let broker = broker();
    let mut device = Client::connected(&broker, "device");
    device.publish("state/1", QoS::AtLeastOnce, true, "on");
    let mut client = Client::connected(&broker, "c");
    client.subscribe("state/+", QoS::AtMostOnce);
    let message = client.message();
    assert!(message.retain);
    assert_eq!(&message.payload[..], b"on");

    device.publish("state/1", QoS::AtLeastOnce, true, "");
    let mut late = Client::connected(&broker, "late");
    late.subscribe("state/+", QoS::AtMostOnce);
    late.sync();
}

fn with_will(id: &str) -> Packet {
    let mut connect = Connect::new(id);
    connect.last_will = Some(LastWill::new("will", "gone", QoS::AtMostOnce, false));
    Packet::Connect(connect)
}

#[test]
fn a_will_is_published_when_a_client_goes_without_goodbye_and_only_then() {
    let broker = broker();
    let mut watcher = Client::connected(&broker, "watcher");
    watcher.subscribe("will", QoS::AtMostOnce);

    let mut polite = Client::dial(&broker);
    polite.send(&with_will("polite"));
    polite.connack();
    polite.send(&Packet::Disconnect);
    assert_eq!(polite.next(), None);
    watcher.sync();

    let mut rude = Client::dial(&broker);
    rude.send(&with_will("rude"));
    rude.connack();
    drop(rude);
    assert_eq!(&watcher.message().payload[..], b"gone");
}

#[test]
fn a_second_client_with_the_same_id_takes_over() {
    let broker = broker();
    let mut first = Client::connected(&broker, "same");
    let mut second = Client::connected(&broker, "same");
    assert_eq!(first.next(), None);
    second.sync();
    assert_eq!(broker.script().counters().connected, 1);
}

#[test]
fn a_client_that_is_silent_for_one_and_a_half_keep_alives_is_closed() {
    let broker = broker();
    let mut client = Client::dial(&broker);
    let mut connect = Connect::new("silent");
    connect.keep_alive = 1;
    client.send(&Packet::Connect(connect));
    client.connack();
    let since = Instant::now();
    assert_eq!(client.next(), None);
    assert!(since.elapsed() >= Duration::from_millis(1400), "{:?}", since.elapsed());
}

#[test]
fn a_qos_2_message_that_is_sent_twice_is_delivered_once() {
    let broker = broker();
    let mut client = Client::connected(&broker, "c");
    client.subscribe("a", QoS::AtLeastOnce);
    let mut device = Client::connected(&broker, "device");
    device.publish("a", QoS::ExactlyOnce, false, "x");
    device.publish("a", QoS::ExactlyOnce, false, "x");
    device.send(&Packet::PubRel(PubRel { pkid: 7 }));
    assert_eq!(device.next(), Some(Packet::PubComp(PubComp { pkid: 7 })));
    client.message();
    client.sync();
}

#[test]
fn clients_that_break_the_protocol_are_closed() {
    let broker = broker();
    for bytes in [&b"\xc0\x00"[..], b"GET / HTTP/1.1\r\n\r\n", b"\x10\x00", b"\xf0\x01\x00"] {
        let mut client = Client::dial(&broker);
        client.stream.write_all(bytes).unwrap();
        assert_eq!(client.next(), None, "{bytes:?}");
    }
    let mut twice = Client::connected(&broker, "twice");
    twice.send(&Packet::Connect(Connect::new("twice")));
    assert_eq!(twice.next(), None);
    let mut wild = Client::connected(&broker, "wild");
    wild.send(&Packet::Publish(Publish::new("a/+", QoS::AtMostOnce, "x")));
    assert_eq!(wild.next(), None);
}

#[test]
fn mqtt_5_is_refused_with_code_1() {
    let broker = broker();
    let mut client = Client::dial(&broker);
    client.stream.write_all(b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x01a").unwrap();
    assert_eq!(client.connack(), ConnectReturnCode::RefusedProtocolVersion);
}

#[test]
fn a_message_of_many_reads_arrives_whole() {
    let broker = broker();
    let mut client = Client::connected(&broker, "c");
    client.subscribe("big", QoS::AtMostOnce);
    let payload = "x".repeat(900_000);
    Client::connected(&broker, "device").publish("big", QoS::AtLeastOnce, false, &payload);
    assert_eq!(client.message().payload, Bytes::from(payload));
}

#[test]
fn four_of_ten_devices_can_be_refused() {
    let broker = broker();
    broker.script().refuse_where(5, |client| client.ends_with(['0', '1', '2', '3']));
    let refused = (0..10).filter(|device| {
        let mut client = Client::dial(&broker);
        client.send(&Packet::Connect(Connect::new(format!("d-{device}"))));
        client.connack() == ConnectReturnCode::NotAuthorized
    });
    assert_eq!(refused.count(), 4);
    let counters = broker.script().counters();
    assert_eq!((counters.connects_seen, counters.connects_refused), (10, 4));

    broker.script().refuse_connects(None);
    Client::connected(&broker, "d-0");
}

#[test]
fn a_required_login_is_checked() {
    let broker = broker();
    broker.script().require_login(Some(("meter", "secret")));
    for (password, expected) in
        [("secret", ConnectReturnCode::Success), ("wrong", ConnectReturnCode::BadUserNamePassword)]
    {
        let mut connect = Connect::new("c");
        connect.set_login("meter", password);
        let mut client = Client::dial(&broker);
        client.send(&Packet::Connect(connect));
        assert_eq!(client.connack(), expected);
    }
}

#[test]
fn a_stalled_broker_answers_everything_in_order_once_it_goes_on() {
    let broker = broker();
    let mut client = Client::connected(&broker, "c");
    broker.script().stall(true);
    for pkid in 1..=3 {
        let mut publish = Publish::new("a", QoS::AtLeastOnce, "x");
        publish.pkid = pkid;
        client.send(&Packet::Publish(publish));
    }
    let mut newcomer = Client::dial(&broker);
    newcomer.send(&Packet::Connect(Connect::new("new")));
    client.stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let silence = client.stream.read(&mut [0; 1]).unwrap_err();
    assert!(matches!(silence.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut));
    client.stream.set_read_timeout(Some(DEADLINE)).unwrap();

    broker.script().stall(false);
    for pkid in 1..=3 {
        assert_eq!(client.next(), Some(Packet::PubAck(PubAck { pkid })));
    }
    assert_eq!(newcomer.connack(), ConnectReturnCode::Success);
}

#[test]
fn lost_acknowledgements_are_counted_and_the_message_still_arrives() {
    let broker = broker();
    broker.script().record(true);
    broker.script().lose_acks(true);
    let mut client = Client::connected(&broker, "c");
    let mut publish = Publish::new("a", QoS::AtLeastOnce, "x");
    publish.pkid = 1;
    client.send(&Packet::Publish(publish));
    client.sync();
    let counters = broker.script().counters();
    assert_eq!((counters.publishes_seen, counters.acks_lost, counters.acks_sent), (1, 1, 0));
    let recorded = broker.script().recorded();
    assert_eq!((&*recorded[0].client, &*recorded[0].topic, recorded[0].qos), ("c", "a", 1));
}

#[test]
fn delayed_acknowledgements_come_late_but_without_costing_throughput() {
    let broker = broker();
    let delay = Duration::from_millis(200);
    broker.script().delay_acks(delay);
    let mut client = Client::connected(&broker, "c");
    let since = Instant::now();
    for pkid in 1..=50 {
        let mut publish = Publish::new("a", QoS::AtLeastOnce, "x");
        publish.pkid = pkid;
        client.send(&Packet::Publish(publish));
    }
    for pkid in 1..=50 {
        assert_eq!(client.next(), Some(Packet::PubAck(PubAck { pkid })));
    }
    assert!(since.elapsed() >= delay && since.elapsed() < delay * 10, "{:?}", since.elapsed());
}

#[test]
fn dropped_connections_are_closed_and_new_ones_welcome() {
    let broker = broker();
    let mut client = Client::connected(&broker, "c");
    broker.script().drop_all_connections();
    assert_eq!(client.next(), None);
    Client::connected(&broker, "c").sync();
}

#[test]
fn dropping_the_handle_closes_everything() {
    let broker = broker();
    let mut client = Client::connected(&broker, "c");
    let addr = broker.addr();
    drop(broker);
    assert_eq!(client.next(), None);
    assert!(TcpStream::connect(addr).is_err());
}

#[test]
fn a_subscriber_that_does_not_acknowledge_gets_no_more_than_the_window() {
    let broker = broker();
    let mut slow = Client::connected(&broker, "slow");
    slow.subscribe("a", QoS::AtLeastOnce);
    let mut device = Client::connected(&broker, "device");
    for _ in 0..1_100 {
        device.publish("a", QoS::AtLeastOnce, false, "x");
    }
    let ids: Vec<u16> = (0..1_024).map(|_| slow.message().pkid).collect();
    slow.sync();
    slow.send(&Packet::PubAck(PubAck { pkid: ids[0] }));
    slow.message();
    slow.sync();
}

#[tokio::test]
async fn a_complete_client_of_somebody_else_gets_its_messages() {
    let broker = broker();
    let mut options =
        rumqttc::MqttOptions::new("full", broker.addr().ip().to_string(), broker.addr().port());
    options.set_keep_alive(Duration::from_secs(5));
    let (client, mut events) = rumqttc::AsyncClient::new(options, 16);
    client.subscribe("a/#", QoS::AtLeastOnce).await.unwrap();
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        client.publish("a/b", qos, false, "x").await.unwrap();
    }
    let (mut messages, mut completed) = (0, 0);
    let all = async {
        while messages < 3 || completed < 2 {
            match events.poll().await.unwrap() {
                rumqttc::Event::Incoming(Packet::Publish(_)) => messages += 1,
                rumqttc::Event::Incoming(Packet::PubAck(_) | Packet::PubComp(_)) => completed += 1,
                _ => {}
            }
        }
    };
    tokio::time::timeout(DEADLINE, all).await.expect("three messages and two completions");
    assert_eq!(broker.script().publishes_seen(), 3);
}
