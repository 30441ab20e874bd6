//! A listener to which the platform pushes its output.
//!
//! Connections are tasks of the reader's own runtime. They hand over whole bodies and answer when the
//! reader has counted what was in them, so that a platform that sends again what was not answered
//! makes no loss. What comes while nobody listens is the platform's to keep. Invariant: all bodies
//! that wait together hold at most [`MAX_HELD`] bytes. [`WebhookReader::read`] may be dropped at any
//! await.

mod answer;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::HeaderMap;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use shoal_domain::batch::{self, Framing};
use shoal_service_kit::Permit;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;

use self::answer::answer;
use super::{Enqueued, Event, Headers, Heard};

/// Connections at once; more wait to be accepted.
const MAX_CONNECTIONS: usize = 1_024;
/// Bodies that wait to be counted; their senders wait for room.
const MAX_WAITING: usize = 64;
const MAX_HELD: usize = 64 * 1024 * 1024;
/// Of a body, packed and unpacked.
const MAX_BODY: usize = 8 * 1024 * 1024;
/// A request whose head takes longer is none, and a connection that is idle for longer is closed.
const HEAD_WITHIN: Duration = Duration::from_secs(75);

/// Where it listens, and to whom.
pub(super) struct Source {
    pub(super) permit: Permit,
    pub(super) path: String,
    /// Of the run, which may stand behind the path.
    pub(super) mark: String,
    pub(super) bearer: Option<String>,
}

pub(super) struct WebhookReader {
    shared: Arc<Shared>,
    open: Option<Open>,
}

struct Shared {
    source: Source,
    held: Arc<Semaphore>,
}

struct Open {
    listener: TcpListener,
    connections: JoinSet<()>,
    sender: mpsc::Sender<Push>,
    pushes: mpsc::Receiver<Push>,
}

/// What is to be counted.
enum Push {
    Body(Body),
    /// Somebody who may push has sent what nobody can read.
    Unreadable,
}

struct Body {
    path: String,
    headers: HeaderMap,
    bytes: Bytes,
    framing: Framing,
    counted: oneshot::Sender<Result<u64, batch::Broken>>,
}

impl WebhookReader {
    pub(super) fn new(source: Source) -> Self {
        let held = Arc::new(Semaphore::new(MAX_HELD));
        Self { shared: Arc::new(Shared { source, held }), open: None }
    }

    pub(super) async fn open(&mut self) -> Result<(), String> {
        self.open = None;
        let addr = self.shared.source.permit.addr();
        let listener = TcpListener::bind(addr).await;
        let listener = listener.map_err(|error| refused(addr, &error))?;
        let (sender, pushes) = mpsc::channel(MAX_WAITING);
        self.open = Some(Open { listener, connections: JoinSet::new(), sender, pushes });
        Ok(())
    }

    /// Waits for a body, or for whatever else has to be done. Cancel safe.
    pub(super) async fn read(&mut self, mut each: impl FnMut(Heard<'_>)) -> Result<(), String> {
        let Open { listener, connections, sender, pushes } =
            self.open.as_mut().ok_or("not listening")?;
        let is_full = connections.len() >= MAX_CONNECTIONS;
        tokio::select! {
            // Never closed: the sender is kept here.
            Some(push) = pushes.recv() => {
                push.hand_on(&mut each);
                while let Ok(push) = pushes.try_recv() {
                    push.hand_on(&mut each);
                }
            }
            accepted = listener.accept(), if !is_full => {
                let (stream, _) =
                    accepted.map_err(|error| format!("it cannot take connections: {error}"))?;
                connections.spawn(serve(stream, Arc::clone(&self.shared), sender.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
        Ok(())
    }

    /// Nobody is answered any more: what was not counted may be sent again.
    pub(super) fn close(&mut self) {
        self.open = None;
    }
}

impl Push {
    fn hand_on(self, each: &mut impl FnMut(Heard<'_>)) {
        let Self::Body(body) = self else { return each(Heard::Unreadable(1)) };
        let (place, headers) = (body.path.as_bytes(), Headers::Http(&body.headers));
        let n = batch::each(&body.bytes, body.framing, |payload| {
            // A request says nothing of when its events were taken in.
            let enqueued = Enqueued::Never;
            each(Heard::Event(Event { place, payload, headers, enqueued, is_backlog: false }));
        });
        if n.is_err() {
            each(Heard::Unreadable(1));
        }
        // Whoever pushed may be gone; what it pushed is counted all the same.
        let _ = body.counted.send(n);
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>, pushes: mpsc::Sender<Push>) {
    // Without it answers only come later.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let (shared, pushes) = (Arc::clone(&shared), pushes.clone());
        async move { Ok::<_, std::convert::Infallible>(answer(request, &shared, &pushes).await) }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN);
    // A connection that breaks is the peer's affair.
    let _ = server.serve_connection(TokioIo::new(stream), service).await;
}

fn refused(addr: SocketAddr, error: &std::io::Error) -> String {
    let help = match error.kind() {
        std::io::ErrorKind::AddrInUse => "; another run may listen there: give this one its own",
        std::io::ErrorKind::AddrNotAvailable => "; it must be an address of the agent's machine",
        _ => "",
    };
    format!("cannot listen on {addr}: {error}{help}")
}
