//! `GET /healthz` for supervisors: the process answers, so it lives.
//!
//! Also 200 while the control plane is away: restarting an agent would not bring that back, but
//! would cost its devices. One request per connection, read into a fixed buffer; a peer that is slow
//! or wrong costs one of few places for two seconds. Invariant: nothing a peer sends costs more.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use shoal_service_kit::{Clock, Lifecycle};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use crate::session::SessionState;

/// Connections at once; more wait in the listener's backlog.
const MAX_CONNECTIONS: usize = 32;
const LIMIT: Duration = Duration::from_secs(2);
/// A health check's request line and headers are far shorter.
const MAX_REQUEST: usize = 4096;

pub(crate) struct Healthz {
    pub(crate) listener: TcpListener,
    pub(crate) session: watch::Receiver<SessionState>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) lifecycle: Lifecycle,
}

impl Healthz {
    pub(crate) async fn bind(listen: SocketAddr) -> std::io::Result<TcpListener> {
        TcpListener::bind(listen).await
    }

    /// Until the soft stop.
    pub(crate) async fn run(self) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let soft = self.lifecycle.soft();
        loop {
            let accepted = tokio::select! {
                () = soft.cancelled() => return,
                accepted = async {
                    let place = Arc::clone(&places).acquire_owned().await;
                    (place, self.listener.accept().await)
                } => accepted,
            };
            match accepted {
                (Ok(place), Ok((stream, _))) => {
                    let body = self.body();
                    self.lifecycle.spawn("healthz request", async move {
                        let _place = place;
                        // Too slow or broken: the peer's loss.
                        let _ = tokio::time::timeout(LIMIT, answer(stream, &body)).await;
                    });
                }
                // Out of descriptors, most likely: give the devices' closing a moment.
                _ => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    fn body(&self) -> String {
        let now_us = self.clock.boot_us();
        let ago = |since_us: u64| now_us.saturating_sub(since_us) / 1_000_000;
        match &*self.session.borrow() {
            SessionState::Connected { .. } => "ok\nsession: connected\n".to_owned(),
            SessionState::Detached { since_boot_us, .. } => {
                format!("ok\nsession: detached since {} s\n", ago(*since_boot_us))
            }
            SessionState::Refused { since_boot_us, code, .. } => {
                format!("ok\nsession: refused ({code}) since {} s\n", ago(*since_boot_us))
            }
        }
    }
}

async fn answer(mut stream: TcpStream, body: &str) -> std::io::Result<()> {
    let mut request = [0; MAX_REQUEST];
    let mut n = 0;
    while !request[..n].windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut request[n..]).await? {
            0 => break,
            more => n += more,
        }
    }
    let (status, body) = respond(&request[..n], body);
    let text = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await
}

fn respond<'a>(request: &[u8], healthy: &'a str) -> (&'static str, &'a str) {
    let line = request.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    let (method, path, version) = (words.next(), words.next(), words.next());
    if !version.is_some_and(|version| version.starts_with(b"HTTP/1.")) {
        return ("400 Bad Request", "this is HTTP/1.1: GET /healthz\n");
    }
    match (method, path) {
        (Some(b"GET"), Some(b"/healthz")) => ("200 OK", healthy),
        (_, Some(b"/healthz")) => ("405 Method Not Allowed", "only GET\n"),
        _ => ("404 Not Found", "only /healthz is here\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use shoal_service_kit::TestClock;

    async fn ask(addr: SocketAddr, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn it_answers_also_while_the_control_plane_is_away() {
        let listener = Healthz::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let away = SessionState::Detached { since_boot_us: 1_000_000, why: "cut".into() };
        let (state, session) = watch::channel(away);
        let lifecycle = Lifecycle::new();
        let clock = Arc::new(TestClock::at(0, 8_000_000));
        let healthz = Healthz { listener, session, clock, lifecycle: lifecycle.clone() };
        lifecycle.spawn("healthz", healthz.run());

        let text = ask(addr, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
        assert!(text.ends_with("ok\nsession: detached since 7 s\n"), "{text}");
        state.send_replace(SessionState::Connected { since_boot_us: 8_000_000 });
        let text = ask(addr, b"GET /healthz HTTP/1.0\r\n\r\n").await;
        assert!(text.ends_with("ok\nsession: connected\n"), "{text}");
        assert!(ask(addr, b"GET / HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 404"));
        assert!(ask(addr, b"nonsense\r\n\r\n").await.starts_with("HTTP/1.1 400"));
        lifecycle.stop_hard();
    }

    proptest! {
        #[test]
        fn no_request_panics(request in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = respond(&request, "ok");
        }
    }
}
