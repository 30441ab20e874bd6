//! Each verb against an echo server, seen from a plain socket.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener as StdListener;
use std::net::TcpStream as StdStream;
use std::sync::mpsc;
use std::time::Instant;

use super::*;

const DEADLINE: Duration = Duration::from_secs(10);
const A_WHILE: Duration = Duration::from_millis(100);

/// Echoes; sends a word down the channel when a connection was closed to it.
fn echo() -> (SocketAddr, mpsc::Receiver<()>) {
    let listener = StdListener::bind(("127.0.0.1", 0)).unwrap();
    let addr = listener.local_addr().unwrap();
    let (closed, on_close) = mpsc::sync_channel(16);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let closed = closed.clone();
            std::thread::spawn(move || {
                let (mut from, mut to) = (stream.try_clone().unwrap(), stream);
                let _ = std::io::copy(&mut from, &mut to);
                let _ = closed.try_send(());
            });
        }
    });
    (addr, on_close)
}

fn dial(proxy: &FaultProxy) -> StdStream {
    let stream = StdStream::connect(proxy.addr()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

fn round_trip(stream: &mut StdStream) {
    stream.write_all(b"ping").unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"ping");
}

fn is_closed(stream: &mut StdStream) -> bool {
    match stream.read(&mut [0; 1]) {
        Ok(read) => read == 0,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

fn is_silent(stream: &mut StdStream) -> bool {
    stream.set_read_timeout(Some(A_WHILE)).unwrap();
    let read = stream.read(&mut [0; 1]);
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    read.is_err_and(|error| matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut))
}

#[test]
fn of_every_second_commit_a_part_is_lost_with_its_connection() {
    const COMMIT: &[u8; 12] = b"Q\0\0\0\x0bCOMMIT\0";
    for what in [Lost::Commit, Lost::Answer] {
        let (addr, _on_close) = echo();
        let proxy = FaultProxy::start(addr).unwrap();
        proxy.lose(what, 2);
        let mut stream = dial(&proxy);
        round_trip(&mut stream);
        stream.write_all(COMMIT).unwrap();
        let mut answer = [0; COMMIT.len()];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!((&answer, proxy.n_lost()), (COMMIT, 0));
        stream.write_all(COMMIT).unwrap();
        assert!(is_closed(&mut stream), "{what:?}");
        assert_eq!(proxy.n_lost(), 1);
        proxy.heal();
        round_trip(&mut dial(&proxy));
    }
}

#[test]
fn a_cut_closes_both_sides_and_the_next_connection_works() {
    let (target, closed) = echo();
    let proxy = FaultProxy::start(target).unwrap();
    let mut stream = dial(&proxy);
    round_trip(&mut stream);
    proxy.cut();
    assert!(is_closed(&mut stream));
    closed.recv_timeout(DEADLINE).unwrap();
    round_trip(&mut dial(&proxy));
    assert_eq!(proxy.accepted(), 2);
}

#[test]
fn a_black_hole_holds_the_bytes_until_it_is_healed() {
    let (target, _) = echo();
    let proxy = FaultProxy::start(target).unwrap();
    let mut stream = dial(&proxy);
    round_trip(&mut stream);
    proxy.black_hole(true);
    stream.write_all(b"ping").unwrap();
    assert!(is_silent(&mut stream));
    proxy.heal();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"ping");
}

#[test]
fn a_half_open_connection_is_closed_to_the_target_and_silent_to_the_client() {
    let (target, closed) = echo();
    let proxy = FaultProxy::start(target).unwrap();
    let mut stream = dial(&proxy);
    round_trip(&mut stream);
    proxy.half_open();
    closed.recv_timeout(DEADLINE).unwrap();
    stream.write_all(b"ping").unwrap();
    assert!(is_silent(&mut stream));
    proxy.cut();
    assert!(is_closed(&mut stream));
}

#[test]
fn a_delay_holds_in_each_direction() {
    let (target, _) = echo();
    let proxy = FaultProxy::start(target).unwrap();
    let mut stream = dial(&proxy);
    round_trip(&mut stream);
    proxy.delay(A_WHILE);
    // What the proxy took before the verb may pass at once; what is sent now may not.
    let since = Instant::now();
    round_trip(&mut stream);
    assert!(since.elapsed() >= A_WHILE * 2, "{:?}", since.elapsed());
}

#[test]
fn a_refusing_proxy_closes_new_connections_only() {
    let (target, _) = echo();
    let proxy = FaultProxy::start(target).unwrap();
    let mut stream = dial(&proxy);
    round_trip(&mut stream);
    proxy.refuse(true);
    assert!(is_closed(&mut dial(&proxy)));
    round_trip(&mut stream);
}

#[test]
fn a_close_of_the_client_reaches_the_target() {
    let (target, closed) = echo();
    let proxy = FaultProxy::start(target).unwrap();
    let mut stream = dial(&proxy);
    round_trip(&mut stream);
    drop(stream);
    closed.recv_timeout(DEADLINE).unwrap();
}
