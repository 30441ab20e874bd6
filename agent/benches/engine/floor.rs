//! The least a message can cost: one `send()` of bytes that were built before, and with QoS 1 one
//! `recv()` of its ack when epoll says so.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::{CONNECTIONS, PAYLOAD, RATE};

pub(crate) fn publish(addr: SocketAddr, qos: u8) -> f64 {
    let mut streams: Vec<TcpStream> = (0..CONNECTIONS).map(|i| connect(addr, i)).collect();
    let packet = packet(qos);
    let acks = (qos > 0).then(|| Acks::of(&streams));
    let sent = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&sent);
    std::thread::spawn(move || {
        let start = Instant::now();
        let per_ms = CONNECTIONS * RATE / 1_000;
        for (round, ms) in (0u64..).enumerate() {
            let due = start + Duration::from_millis(ms);
            match &acks {
                Some(acks) => acks.take_until(due, &mut streams),
                None => std::thread::sleep(due.saturating_duration_since(Instant::now())),
            }
            for i in 0..per_ms {
                let turn = (round as u64 * per_ms + i) % CONNECTIONS;
                streams[turn as usize].write_all(&packet).expect("the sink takes everything");
            }
            counter.fetch_add(per_ms, Ordering::Relaxed);
        }
    });
    crate::measure(|| sent.load(Ordering::Relaxed))
}

fn packet(qos: u8) -> Vec<u8> {
    let topic = b"devices/g-0000/telemetry";
    // A device's messages may all have one packet id: each is acknowledged before the next.
    let pid: &[u8] = if qos > 0 { &[0, 1] } else { &[] };
    let remaining = 2 + topic.len() + pid.len() + PAYLOAD;
    let mut packet = vec![0x30 | qos << 1, (remaining % 128) as u8 | 128, (remaining / 128) as u8];
    packet.extend_from_slice(&(topic.len() as u16).to_be_bytes());
    packet.extend_from_slice(topic);
    packet.extend_from_slice(pid);
    packet.resize(packet.len() + PAYLOAD, b'x');
    packet
}

/// Says which streams have one.
struct Acks(Epoll);

impl Acks {
    fn of(streams: &[TcpStream]) -> Self {
        let epoll = Epoll::new(EpollCreateFlags::empty()).expect("an epoll");
        for (i, stream) in streams.iter().enumerate() {
            let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, i as u64);
            epoll.add(stream, event).expect("a socket can be watched");
        }
        Self(epoll)
    }

    fn take_until(&self, due: Instant, streams: &mut [TcpStream]) {
        let mut events = [EpollEvent::empty(); 256];
        loop {
            // In whole milliseconds, as a core sleeps; acks wake it before.
            let left = due.saturating_duration_since(Instant::now()).as_micros().div_ceil(1_000);
            if left == 0 {
                return;
            }
            let left = EpollTimeout::try_from(left as u32).expect("a millisecond or two");
            let n = self.0.wait(&mut events, left).expect("it can be waited for");
            for event in &events[..n] {
                let n = streams[event.data() as usize].read(&mut [0; 64]).expect("an ack");
                assert!(n > 0, "the sink is gone");
            }
        }
    }
}

fn connect(addr: SocketAddr, i: u64) -> TcpStream {
    let mut stream = TcpStream::connect(addr).expect("the sink accepts");
    stream.set_nodelay(true).expect("a TCP socket");
    let id = format!("floor-{i}");
    let mut hello = vec![0x10, 12 + id.len() as u8, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 60];
    hello.extend_from_slice(&[0, id.len() as u8]);
    hello.extend_from_slice(id.as_bytes());
    stream.write_all(&hello).expect("the sink reads");
    stream.read_exact(&mut [0; 4]).expect("the sink answers");
    stream
}
