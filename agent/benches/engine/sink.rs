//! A black hole that speaks just enough MQTT: it accepts, acknowledges and forgets.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

pub(crate) fn run() {
    shoal_service_kit::limits::raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    LocalSet::new().block_on(&runtime.expect("a runtime starts"), async {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind(([127, 0, 0, 1], 0).into()).expect("a free port");
        let listener: TcpListener = socket.listen(4_096).expect("it listens");
        println!("{}", listener.local_addr().expect("it is bound"));
        while let Ok((stream, _)) = listener.accept().await {
            tokio::task::spawn_local(swallow(stream));
        }
    });
}

async fn swallow(mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let mut input = Vec::with_capacity(1_024);
    let mut replies = Vec::new();
    while let Ok(1..) = stream.read_buf(&mut input).await {
        replies.clear();
        let mut used = 0;
        while let Some(len) = answer(&input[used..], &mut replies) {
            used += len;
        }
        input.drain(..used);
        if !replies.is_empty() && stream.write_all(&replies).await.is_err() {
            return;
        }
    }
}

/// Length of the first packet, its reply appended; `None` while it is not complete.
fn answer(bytes: &[u8], replies: &mut Vec<u8>) -> Option<usize> {
    let first = *bytes.first()?;
    let (mut remaining, mut shift, mut body) = (0usize, 0, 1);
    loop {
        let byte = *bytes.get(body)?;
        remaining |= usize::from(byte & 127) << shift;
        shift += 7;
        body += 1;
        if byte < 128 {
            break;
        }
    }
    let packet = bytes.get(body..body + remaining)?;
    match first >> 4 {
        1 => replies.extend_from_slice(&[0x20, 2, 0, 0]),
        3 if first & 6 != 0 => {
            let topic = usize::from(u16::from_be_bytes([packet[0], packet[1]]));
            replies.extend_from_slice(&[0x40, 2, packet[2 + topic], packet[3 + topic]]);
        }
        12 => replies.extend_from_slice(&[0xd0, 0]),
        _ => {}
    }
    Some(body + remaining)
}
