//! Peers that break the protocol: each ends in an error class, and every slot in a class.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::BytesMut;
use rumqttc::mqttbytes::v4;
use shoal_domain::outcome::ErrorClass;
use shoal_domain::plan::{Protocol, Qos};

use super::trial::{Outcome, Trial, ms};

/// What a scripted peer says: to a CONNECT, and to whatever comes after it.
#[derive(Clone, Copy)]
struct Lines {
    to_connect: &'static [u8],
    to_more: &'static [u8],
    /// Then it closes.
    hangs_up: bool,
}

const WELCOME: &[u8] = &[0x20, 2, 0, 0];
const WELCOME_5: &[u8] = &[0x20, 3, 0, 0, 0];

fn peer(lines: Lines) -> impl Fn(SocketAddr) -> SocketAddr {
    move |_| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                std::thread::spawn(move || serve(stream.unwrap(), lines));
            }
        });
        addr
    }
}

/// Ends with the connection.
fn serve(mut stream: TcpStream, lines: Lines) {
    let mut buffer = [0; 4096];
    for says in [lines.to_connect, lines.to_more] {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        if stream.write_all(says).is_err() || (lines.to_more.is_empty() && lines.hangs_up) {
            return;
        }
    }
    if !lines.hangs_up {
        while !matches!(stream.read(&mut buffer), Ok(0) | Err(_)) {}
    }
}

fn against(protocol: Protocol, lines: Lines) -> Outcome {
    let outcome = Trial::new(1)
        .every(ms(100))
        .reconnect(ms(300), ms(300))
        .target(|target| target.protocol = protocol)
        .through(peer(lines))
        .lasting(ms(1_000))
        .run(|_| {});
    outcome.assert_every_slot_has_one_class();
    outcome
}

fn publish_error(protocol: Protocol, to_more: &'static [u8], class: ErrorClass) -> String {
    let to_connect = if protocol == Protocol::V3 { WELCOME } else { WELCOME_5 };
    let outcome = against(protocol, Lines { to_connect, to_more, hangs_up: false });
    let errors = outcome.publish().errors;
    assert!(errors.get(&class).is_some_and(|n| *n > 0), "{class:?}: {errors:?}");
    outcome.failures.iter().find(|failure| failure.class == class).unwrap().text.clone()
}

fn connect_error(protocol: Protocol, to_connect: &'static [u8], class: ErrorClass) -> String {
    let outcome = against(protocol, Lines { to_connect, to_more: &[], hangs_up: true });
    let errors = outcome.connect().errors;
    assert!(errors.get(&class).is_some_and(|n| *n > 0), "{class:?}: {errors:?}");
    outcome.failures.iter().find(|failure| failure.class == class).unwrap().text.clone()
}

#[test]
fn a_peer_that_breaks_the_protocol_is_a_protocol_error() {
    for to_more in [
        // Not a packet; one that nobody asked for; one that is far too large.
        &[0u8, 0, 0, 0][..],
        &[0x90, 3, 0, 1, 0],
        &[0x30, 0xff, 0xff, 0xff, 0x7f],
        &[0x40, 2, 0, 0],
        &[0x20, 2, 0, 0],
    ] {
        publish_error(Protocol::V3, to_more, ErrorClass::Protocol);
    }
    connect_error(Protocol::V3, b"HTTP/1.1 400 Bad Request\r\n\r\n", ErrorClass::Protocol);
    connect_error(Protocol::V3, &[0x20, 2, 0, 77], ErrorClass::Protocol);
}

#[test]
fn a_peer_that_closes_in_the_middle_of_a_packet_loses_the_connection() {
    let lines = Lines { to_connect: WELCOME, to_more: &[0x40, 2], hangs_up: true };
    let outcome = against(Protocol::V3, lines);
    assert!(outcome.publish().errors[&ErrorClass::ConnectionLost] > 0);
    connect_error(Protocol::V3, &[0x20], ErrorClass::ConnectionLost);
}

#[test]
fn a_peer_that_does_not_close_after_disconnect_is_not_waited_for() {
    let text = "version: 1\nname: mute\ntargets: { t: { mqtt: { url: builtin } } }\ngroups:\n  g: { target: t, \
                devices: 1, send: { s: { every: 10s, publish: { topic: a, text: x } } } }\n\
                load: [ { ramp: { to: 100%, over: 100ms } }, { hold: { for: 300ms } } ]\n";
    let mute = Lines { to_connect: WELCOME, to_more: &[], hangs_up: false };
    let outcome = Trial::of(text).through(peer(mute)).run(|_| {});
    let goodbyes = outcome.series("g.disconnect");
    assert_eq!((goodbyes.sent, goodbyes.acked, goodbyes.censored), (1, 0, 1));
    assert_eq!(goodbyes.errors, [(ErrorClass::OpenAtEnd, 1)].into());
    assert!(goodbyes.service_time.min_us().unwrap() >= 1_000_000);
}

#[test]
fn acks_of_messages_that_were_never_sent_acknowledge_nothing() {
    let lines = Lines {
        to_connect: WELCOME,
        to_more: &[0x40, 2, 0x7f, 0xff, 0x70, 2, 0, 9],
        hangs_up: false,
    };
    let outcome = against(Protocol::V3, lines);
    let total = outcome.publish();
    assert_eq!((total.acked, total.errors.len()), (0, 1), "{total:?}");
    assert_eq!(total.errors[&ErrorClass::OpenAtEnd], total.sent);
}

#[test]
fn an_mqtt_5_server_says_why_in_every_place() {
    let text = connect_error(Protocol::V5, &[0x20, 3, 0, 0x97, 0], ErrorClass::Refused);
    assert_eq!(text, "CONNACK 0x97: quota exceeded");
    let moved = &[0x20, 9, 0, 0x9c, 6, 0x1c, 0, 3, b'b', b':', b'1'];
    let text = connect_error(Protocol::V5, moved, ErrorClass::Redirected);
    assert_eq!(text, "CONNACK 0x9c: use another server, the server to use is b:1");
    let text = publish_error(Protocol::V5, &[0xe0, 1, 0x8b], ErrorClass::Disconnected);
    assert_eq!(text, "DISCONNECT 0x8b: server shutting down");
    let text = publish_error(Protocol::V5, &[0x40, 3, 0, 1, 0x87], ErrorClass::Rejected);
    assert_eq!(text, "PUBACK 0x87: not authorized");
}

#[test]
fn what_a_server_cannot_take_is_found_before_it_is_sent() {
    let small = &[0x20, 8, 0, 0, 5, 0x27, 0, 0, 0, 20];
    let outcome = against(Protocol::V5, Lines { to_connect: small, to_more: &[], hangs_up: false });
    let total = outcome.publish();
    assert_eq!((total.sent, total.errors[&ErrorClass::PacketTooLarge]), (0, total.unsent));
    assert!(total.unsent >= 9, "{total:?}");
    // Maximum QoS 0.
    let text = connect_error(Protocol::V5, &[0x20, 5, 0, 0, 2, 0x24, 0], ErrorClass::Unsupported);
    assert_eq!(text, "the broker takes QoS 0 at most, the group sends with QoS 1");
}

#[test]
fn a_receive_maximum_is_an_in_flight_limit() {
    let one = &[0x20, 6, 0, 0, 3, 0x21, 0, 1];
    let outcome = against(Protocol::V5, Lines { to_connect: one, to_more: &[], hangs_up: false });
    let total = outcome.publish();
    assert_eq!(total.sent, 1, "{total:?}");
    assert!(total.unsent >= 8, "{total:?}");
}

#[test]
fn a_pubrec_that_is_never_followed_is_acknowledged_and_open_at_the_end() {
    let outcome = Trial::new(1)
        .every(ms(400))
        .publish(|publish| publish.qos = Qos::ExactlyOnce)
        .through(peer(Lines { to_connect: WELCOME, to_more: &[0x50, 2, 0, 1], hangs_up: false }))
        .lasting(ms(300))
        .run(|_| {});
    let total = outcome.publish();
    assert_eq!((total.sent, total.acked), (1, 1));
    assert_eq!(total.errors[&ErrorClass::OpenAtEnd], 1);
}

/// Closes its first connection in the middle of a message; on the next it has kept the session.
fn forgetful(seen: Arc<Mutex<Vec<(u16, bool)>>>) -> impl Fn(SocketAddr) -> SocketAddr {
    move |_| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let seen = Arc::clone(&seen);
        std::thread::spawn(move || {
            // The first is the probe, which says nothing.
            let mut n_connections = 0;
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut unread = BytesMut::new();
                let mut buffer = [0; 4096];
                'packets: loop {
                    let n = stream.read(&mut buffer).unwrap_or(0);
                    if n == 0 {
                        break;
                    }
                    unread.extend_from_slice(&buffer[..n]);
                    while let Ok(packet) = v4::Packet::read(&mut unread, 4096) {
                        let says = match packet {
                            v4::Packet::Connect(connect) => {
                                assert!(!connect.clean_session);
                                n_connections += 1;
                                vec![0x20, 2, u8::from(n_connections > 1), 0]
                            }
                            v4::Packet::Publish(publish) => {
                                seen.lock().unwrap().push((publish.pkid, publish.dup));
                                if n_connections == 1 {
                                    break 'packets;
                                }
                                let [high, low] = publish.pkid.to_be_bytes();
                                vec![0x40, 2, high, low]
                            }
                            _ => Vec::new(),
                        };
                        stream.write_all(&says).unwrap();
                    }
                }
            }
        });
        addr
    }
}

#[test]
fn a_kept_session_sends_again_what_was_not_acknowledged() {
    let seen = Arc::default();
    let outcome = Trial::new(1)
        .every(ms(200))
        .reconnect(ms(50), ms(60))
        .target(|target| target.clean_start = false)
        .through(forgetful(Arc::clone(&seen)))
        .lasting(ms(1_500))
        .run(|_| {});
    outcome.assert_every_slot_has_one_class();
    let total = outcome.publish();
    assert_eq!((total.acked, total.n_errors()), (total.sent, 0), "{:?}", total.errors);
    assert_eq!(total.resent, 1);
    let seen = seen.lock().unwrap();
    let (first, again) = (seen[0], seen[1]);
    assert_eq!((first.1, again), (false, (first.0, true)), "the same id, marked as sent before");
    assert!(seen[2..].iter().all(|(_, dup)| !dup));
    assert_eq!(seen.len() as u64, total.sent + total.resent);
}

#[test]
fn a_broker_outage_is_followed_by_no_storm() {
    let outcome =
        Trial::new(300).every(ms(500)).reconnect(ms(10), ms(50)).lasting(ms(3_000)).run(|broker| {
            let dropped = Instant::now();
            broker.at(ms(1_000)).drop_all_connections();
            let before = broker.at(ms(1_000)).connects_seen();
            for bucket in 0..10 {
                let n = broker.at(ms(1_100 + 100 * bucket)).connects_seen() - before;
                // 1,000 a second, and at most 100 ms of it saved up; the rest is what clocks round.
                let most = 120 + dropped.elapsed().as_millis() as u64;
                assert!(n <= most, "{n} where at most {most} are due");
            }
        });
    outcome.assert_every_slot_has_one_class();
    assert_eq!(outcome.gauges(), (300, 300, 0));
    assert!(outcome.connect().acked > 300, "some were up when the broker went");
}
