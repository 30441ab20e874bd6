//! The least a message can cost: one `send()` of bytes that were built before.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::{CONNECTIONS, PAYLOAD, RATE};

pub(crate) fn publish(addr: SocketAddr) -> f64 {
    let mut streams: Vec<TcpStream> = (0..CONNECTIONS).map(|i| connect(addr, i)).collect();
    let topic = b"devices/g-0000/telemetry";
    let mut packet = vec![0x30];
    let remaining = 2 + topic.len() + PAYLOAD;
    packet.extend_from_slice(&[(remaining % 128) as u8 | 128, (remaining / 128) as u8]);
    packet.extend_from_slice(&(topic.len() as u16).to_be_bytes());
    packet.extend_from_slice(topic);
    packet.resize(packet.len() + PAYLOAD, b'x');

    let sent = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&sent);
    std::thread::spawn(move || {
        let start = Instant::now();
        let per_ms = CONNECTIONS * RATE / 1_000;
        for (round, ms) in (0u64..).enumerate() {
            let due = start + Duration::from_millis(ms);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            for i in 0..per_ms {
                let turn = (round as u64 * per_ms + i) % CONNECTIONS;
                streams[turn as usize].write_all(&packet).expect("the sink takes everything");
            }
            counter.fetch_add(per_ms, Ordering::Relaxed);
        }
    });
    crate::measure(|| sent.load(Ordering::Relaxed))
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
