//! A black hole that speaks just enough MQTT: it accepts, acknowledges and forgets, plain and behind TLS.

use std::sync::Arc;

use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::LocalSet;
use tokio_rustls::TlsAcceptor;

/// Says where it listens, plain and behind TLS, and the file of its authority.
pub(crate) fn run() {
    shoal_service_kit::limits::raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    LocalSet::new().block_on(&runtime.expect("a runtime starts"), async {
        let (plain, secure) = (listener(), listener());
        let (acceptor, ca) = identity();
        let addr = |listener: &TcpListener| listener.local_addr().expect("it is bound");
        println!("{} {} {ca}", addr(&plain), addr(&secure));
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = secure.accept().await {
                let acceptor = acceptor.clone();
                let _ = stream.set_nodelay(true);
                tokio::task::spawn_local(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        swallow(stream).await;
                    }
                });
            }
        });
        while let Ok((stream, _)) = plain.accept().await {
            let _ = stream.set_nodelay(true);
            tokio::task::spawn_local(swallow(stream));
        }
    });
}

fn listener() -> TcpListener {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(([127, 0, 0, 1], 0).into()).expect("a free port");
    socket.listen(4_096).expect("it listens")
}

/// Signed by itself; the file is its own authority.
fn identity() -> (TlsAcceptor, String) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    let ca = std::env::temp_dir().join(format!("shoal-bench-{}.pem", std::process::id()));
    std::fs::write(&ca, made.cert.pem()).expect("the temporary directory is writable");
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring speaks TLS")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("they belong together");
    (TlsAcceptor::from(Arc::new(config)), ca.display().to_string())
}

async fn swallow(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut input = Vec::with_capacity(1_024);
    let mut replies = Vec::new();
    while let Ok(1..) = stream.read_buf(&mut input).await {
        replies.clear();
        let mut used = 0;
        while let Some(len) = answer(&input[used..], &mut replies) {
            used += len;
        }
        input.drain(..used);
        if replies.is_empty() {
            continue;
        }
        if stream.write_all(&replies).await.is_err() || stream.flush().await.is_err() {
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
            // PUBACK, or PUBREC of QoS 2.
            let kind = if first & 6 == 2 { 0x40 } else { 0x50 };
            replies.extend_from_slice(&[kind, 2, packet[2 + topic], packet[3 + topic]]);
        }
        6 => replies.extend_from_slice(&[0x70, 2, packet[0], packet[1]]),
        12 => replies.extend_from_slice(&[0xd0, 0]),
        _ => {}
    }
    Some(body + remaining)
}
