//! A small HTTP server that answers as it is told and counts what it saw: the tests' witness.
//!
//! It speaks HTTP/1.1 and, to whoever begins with its preface, HTTP/2, on a thread of its own, so
//! that a busy test does not slow it down. What no server framework would send (half a chunk, a
//! reset) comes from [`RawServer`].

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::authority::{Authority, Pair};

/// Requests that are remembered whole; all are counted.
const REMEMBERED: usize = 20_000;

/// What a server answers to a request.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub content: Content,
    /// Before the head.
    pub delay: Duration,
}

#[derive(Debug, Clone)]
pub enum Content {
    Whole(Vec<u8>),
    /// So many bytes, in pieces.
    Long(u64),
    /// A head, and then nothing, ever.
    Stall,
    /// Not even a head.
    Silence,
}

impl Reply {
    pub fn status(status: u16) -> Self {
        let (headers, content) = (Vec::new(), Content::Whole(Vec::new()));
        Self { status, headers, content, delay: Duration::ZERO }
    }

    pub fn text(text: &str) -> Self {
        Self::status(200).with(Content::Whole(text.as_bytes().to_vec()))
    }

    pub fn redirect(status: u16, location: &str) -> Self {
        Self::status(status).header("location", location)
    }

    #[must_use]
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    #[must_use]
    pub fn with(self, content: Content) -> Self {
        Self { content, ..self }
    }

    #[must_use]
    pub fn after(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }
}

/// One request as it arrived.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    /// Without the query.
    pub path: String,
    pub query: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Which connection it came on, in the order of their acceptance.
    pub connection: u64,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }
}

type Handler = dyn Fn(&Seen) -> Reply + Send + Sync;

#[derive(Debug, Default)]
struct Ledger {
    counts: BTreeMap<String, u64>,
    seen: VecDeque<Seen>,
    connections: u64,
}

pub struct HttpServer {
    addr: SocketAddr,
    scheme: &'static str,
    ledger: Arc<Mutex<Ledger>>,
    _stop: DropGuard,
}

impl HttpServer {
    /// Answers every request with what `handler` says.
    pub fn start(handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::launch(None, handler)
    }

    /// The same behind TLS, where the client chooses between HTTP/1.1 and 2.
    pub fn secured(
        authority: &Authority,
        handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let pair = authority.sign(&["127.0.0.1", "localhost"]);
        Self::launch(Some(acceptor(&pair)), handler)
    }

    fn launch(
        tls: Option<TlsAcceptor>,
        handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        let handler: Arc<Handler> = Arc::new(handler);
        let shared = Arc::clone(&ledger);
        let (addr, stop) = on_a_thread(move |stream| {
            let (ledger, handler) = (Arc::clone(&shared), Arc::clone(&handler));
            let tls = tls.clone();
            let connection = {
                let mut ledger = locked(&ledger);
                ledger.connections += 1;
                ledger.connections - 1
            };
            Box::pin(async move {
                let service = service_fn(move |request| {
                    answer(connection, request, Arc::clone(&ledger), Arc::clone(&handler))
                });
                // A connection that the client breaks is the test's doing.
                let http = auto::Builder::new(TokioExecutor::new());
                match tls {
                    None => drop(http.serve_connection(TokioIo::new(stream), service).await),
                    Some(tls) => {
                        let Ok(stream) = tls.accept(stream).await else { return };
                        drop(http.serve_connection(TokioIo::new(stream), service).await);
                    }
                }
            })
        });
        Self { addr, scheme, ledger, _stop: stop }
    }

    /// The server of the HTTP tutorial: `/greet`, `/data`, `/health`, `/ota`, `/login`.
    pub fn of_the_tutorial() -> Self {
        Self::start(|request| match request.path.as_str() {
            "/login" => Reply::text(r#"{"token": "t"}"#),
            "/ota" => Reply::status(204),
            "/greet" | "/data" | "/health" => Reply::text(r#"{"ok": true}"#),
            _ => Reply::status(404),
        })
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.addr)
    }

    /// Requests for a path, whatever their queries.
    pub fn count(&self, path: &str) -> u64 {
        locked(&self.ledger).counts.get(path).copied().unwrap_or(0)
    }

    pub fn total(&self) -> u64 {
        locked(&self.ledger).counts.values().sum()
    }

    pub fn connections(&self) -> u64 {
        locked(&self.ledger).connections
    }

    /// In the order of their arrival; the latest 20,000.
    pub fn seen(&self) -> Vec<Seen> {
        locked(&self.ledger).seen.iter().cloned().collect()
    }
}

fn acceptor(pair: &Pair) -> TlsAcceptor {
    let cert = CertificateDer::from_pem_slice(pair.cert_pem.as_bytes());
    let key = PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has them")
        .with_no_client_auth()
        .with_single_cert(
            vec![cert.expect("a certificate in PEM form")],
            key.expect("a key in PEM form"),
        )
        .expect("a pair of an authority fits");
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config).into()
}

async fn answer(
    connection: u64,
    request: Request<Incoming>,
    ledger: Arc<Mutex<Ledger>>,
    handler: Arc<Handler>,
) -> Result<Response<Given>, Infallible> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_or_else(|_| Vec::new(), |body| body.to_bytes().to_vec());
    let text =
        |value: &hyper::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let seen = Seen {
        method: parts.method.to_string(),
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        headers: parts
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), text(value)))
            .collect(),
        body,
        connection,
    };
    {
        let mut ledger = locked(&ledger);
        *ledger.counts.entry(seen.path.clone()).or_default() += 1;
        if ledger.seen.len() == REMEMBERED {
            ledger.seen.pop_front();
        }
        ledger.seen.push_back(seen.clone());
    }
    let reply = handler(&seen);
    if matches!(reply.content, Content::Silence) {
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(reply.delay).await;
    let mut response = Response::builder().status(reply.status);
    for (name, value) in &reply.headers {
        response = response.header(*name, value);
    }
    let given = match reply.content {
        Content::Whole(bytes) => Given::Whole(Some(bytes.into())),
        Content::Long(n) => Given::Long(n),
        Content::Stall | Content::Silence => Given::Stall,
    };
    Ok(response.body(given).expect("a test gives headers that exist"))
}

/// The body of a reply.
enum Given {
    Whole(Option<Bytes>),
    Long(u64),
    Stall,
}

impl Body for Given {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(bytes) => {
                let left = bytes.take().filter(|bytes| !bytes.is_empty());
                Poll::Ready(left.map(|bytes| Ok(Frame::data(bytes))))
            }
            Self::Long(0) => Poll::Ready(None),
            Self::Long(left) => {
                let n = (*left).min(64 * 1024);
                *left -= n;
                Poll::Ready(Some(Ok(Frame::data(vec![b'x'; n as usize].into()))))
            }
            Self::Stall => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None)) || matches!(self, Self::Whole(Some(b)) if b.is_empty())
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        match self {
            Self::Whole(Some(bytes)) => hyper::body::SizeHint::with_exact(bytes.len() as u64),
            Self::Whole(None) => hyper::body::SizeHint::with_exact(0),
            _ => hyper::body::SizeHint::default(),
        }
    }
}

/// A server that answers each request with the same bytes, whatever they are, and then closes or
/// resets the connection.
pub struct RawServer {
    addr: SocketAddr,
    _stop: DropGuard,
}

impl RawServer {
    pub fn start(bytes: &'static [u8], resets: bool) -> Self {
        let (addr, stop) = on_a_thread(move |mut stream| {
            Box::pin(async move {
                let mut buffer = [0; 16 * 1024];
                // A test's request fits into one read.
                if !matches!(stream.read(&mut buffer).await, Ok(n) if n > 0) {
                    return;
                }
                let _ = stream.write_all(bytes).await;
                if resets {
                    let _ = stream.set_zero_linger();
                }
            })
        });
        Self { addr, _stop: stop }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }
}

type Serving = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Accepts connections on a free port of loopback until the guard is dropped.
fn on_a_thread(
    mut serve: impl FnMut(TcpStream) -> Serving + Send + 'static,
) -> (SocketAddr, DropGuard) {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let listener = listener.expect("a port of loopback is free");
    let addr = listener.local_addr().expect("a bound socket has an address");
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let body = move || -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async move {
            listener.set_nonblocking(true)?;
            let listener = TcpListener::from_std(listener)?;
            let mut connections = tokio::task::JoinSet::new();
            loop {
                tokio::select! {
                    () = stopped.cancelled() => return Ok(()),
                    accepted = listener.accept() => {
                        let (stream, _) = accepted?;
                        stream.set_nodelay(true)?;
                        connections.spawn(serve(stream));
                    }
                }
            }
        })
    };
    std::thread::Builder::new()
        .name("http-server".into())
        .spawn(|| body().expect("a server on loopback serves"))
        .expect("a thread starts");
    (addr, stop.drop_guard())
}

fn locked(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}
