//! The smallest HTTP server there is: GET of a few paths, for supervisors and scrapers.
//!
//! One request per connection, read into a fixed buffer; a peer that is slow or wrong costs one of
//! few places for a few seconds. Invariant: nothing a peer sends costs more.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::Lifecycle;

/// Connections at once; more wait in the listener's backlog.
const MAX_CONNECTIONS: usize = 32;
const LIMIT: Duration = Duration::from_secs(5);
/// The request line and headers of a scrape are far shorter.
const MAX_REQUEST: usize = 4096;

/// What a path answers with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    pub content_type: &'static str,
    pub body: Vec<u8>,
}

impl Page {
    pub fn text(content_type: &'static str, body: impl Into<String>) -> Self {
        Self { content_type, body: body.into().into_bytes() }
    }
}

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked<'a> {
    pub path: &'a str,
    /// Its `Accept` headers; empty: it takes everything.
    pub accept: &'a str,
}

/// Serves until the soft stop. `page` is asked once per request; `None`: no such path.
pub async fn serve<F>(listener: TcpListener, lifecycle: Lifecycle, page: F)
where
    F: Fn(Asked<'_>) -> Option<Page> + Send + Sync + 'static,
{
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let page = Arc::new(page);
    let soft = lifecycle.soft();
    loop {
        let accepted = tokio::select! {
            () = soft.cancelled() => return,
            accepted = async {
                let place = Arc::clone(&places).acquire_owned().await;
                (place, listener.accept().await)
            } => accepted,
        };
        match accepted {
            (Ok(place), Ok((stream, _))) => {
                let page = Arc::clone(&page);
                lifecycle.spawn("http request", async move {
                    let _place = place;
                    // Too slow or broken: the peer's loss.
                    let _ = tokio::time::timeout(LIMIT, answer(stream, &*page)).await;
                });
            }
            // Out of descriptors, most likely: give what is closing a moment.
            _ => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn answer(
    mut stream: TcpStream,
    page: &(impl Fn(Asked<'_>) -> Option<Page> + Send + Sync),
) -> std::io::Result<()> {
    let mut request = [0; MAX_REQUEST];
    let mut n = 0;
    while !request[..n].windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut request[n..]).await? {
            0 => break,
            more => n += more,
        }
    }
    let (status, page) = respond(&request[..n], page);
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        page.content_type,
        page.body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(&page.body).await?;
    stream.shutdown().await
}

fn respond(request: &[u8], page: impl Fn(Asked<'_>) -> Option<Page>) -> (&'static str, Page) {
    let plain = |body: &str| Page::text("text/plain", body);
    let line = request.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let words: Vec<&str> = line.split(' ').collect();
    let [method, target, version] = words.as_slice() else {
        return ("400 Bad Request", plain("this is HTTP/1.1\n"));
    };
    if !version.starts_with("HTTP/1.") {
        return ("400 Bad Request", plain("this is HTTP/1.1\n"));
    }
    let path = target.split('?').next().unwrap_or_default();
    let accept = accepted(request);
    match (page(Asked { path, accept: &accept }), *method) {
        (None, _) => ("404 Not Found", plain("no such path\n")),
        (Some(page), "GET") => ("200 OK", page),
        (Some(_), _) => ("405 Method Not Allowed", plain("only GET\n")),
    }
}

/// The values of all `Accept` headers, as one.
fn accepted(request: &[u8]) -> String {
    let text = String::from_utf8_lossy(request);
    let headers = text.split("\r\n").skip(1).take_while(|line| !line.is_empty());
    let values = headers.filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("accept").then(|| value.trim())
    });
    values.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(asked: Asked<'_>) -> Option<Page> {
        let page = Page::text("text/plain; version=0.0.4", "x 1\n");
        (asked.path == "/metrics").then_some(page)
    }

    #[test]
    fn what_is_accepted_is_told() {
        let request = b"GET /metrics HTTP/1.1\r\nHost: x\r\naccept: a/b;q=0.5\r\nAccept:c/d\r\n\r\nAccept: e/f\r\n";
        assert_eq!(accepted(request), "a/b;q=0.5,c/d");
        assert_eq!(accepted(b"GET /metrics HTTP/1.1\r\n\r\n"), "");
    }

    #[tokio::test]
    async fn a_scrape_gets_the_page_and_nothing_else_is_there() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let lifecycle = Lifecycle::new();
        lifecycle.spawn("http", serve(listener, lifecycle.clone(), one));
        for (request, status, end) in [
            ("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200", "\r\n\r\nx 1\n"),
            ("GET /metrics?x=y HTTP/1.0\r\n\r\n", "HTTP/1.1 200", "x 1\n"),
            ("POST /metrics HTTP/1.1\r\n\r\n", "HTTP/1.1 405", "only GET\n"),
            ("GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 404", "no such path\n"),
            ("nonsense\r\n\r\n", "HTTP/1.1 400", "this is HTTP/1.1\n"),
        ] {
            let mut stream = TcpStream::connect(addr).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            assert!(text.starts_with(status) && text.ends_with(end), "{request}: {text}");
        }
        lifecycle.stop_hard();
    }

    proptest! {
        #[test]
        fn no_request_panics(request in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = respond(&request, one);
        }
    }
}
