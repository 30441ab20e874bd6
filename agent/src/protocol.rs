//! Protocols of one's own: what an agent speaks beside MQTT and HTTP, brought along by whoever built it.
//!
//! Shoal keeps everything that makes a load: when a device connects and requests, the connect pace,
//! source addresses, TLS, back-off, time-outs, what is expected of a reply and what is counted. A
//! [`Protocol`] puts requests into bytes, and bytes into replies. A scenario names it beside the url
//! of a target (`protocol: lines`), and its devices are written like those of HTTP. Invariant: a
//! connection has at most one request on its way.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::LocalBoxFuture;
pub use hyper::{Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};

/// A connection to the target: TCP, or TLS where the scenario says `https://`.
pub trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

/// How devices talk with a target.
pub trait Protocol: Send + Sync {
    /// As scenarios name it: letters, digits, `_` and `-`.
    fn name(&self) -> &str;

    /// Takes over a new connection, after a handshake where the protocol has one. It ends within the
    /// target's `connect_timeout`, or is dropped.
    fn open(&self, stream: Box<dyn Stream>) -> LocalBoxFuture<'_, io::Result<Box<dyn Dialogue>>>;
}

/// One device's connection.
pub trait Dialogue {
    /// Sends a request and reads its reply. Method, path with query, headers and body are those of the
    /// scenario's request, rendered; `expect` and `capture` look at the status, headers and body of the
    /// reply. Dropped where the request's `timeout` is over, and the connection with it.
    ///
    /// An error ends the connection, and its kind says what is counted:
    /// - `InvalidData`: the peer broke the protocol (`protocol_error`)
    /// - `InvalidInput`: this request cannot be sent (`unsendable`)
    /// - `NotConnected`: the peer had closed before anything of the request left; it is sent again over
    ///   a new connection
    /// - any other: the connection was lost (`connection_lost`)
    fn exchange(
        &mut self,
        request: Request<Bytes>,
    ) -> LocalBoxFuture<'_, io::Result<Response<Bytes>>>;
}

/// Those that an agent speaks, by name.
#[derive(Clone, Default)]
pub struct Protocols(Arc<BTreeMap<String, Arc<dyn Protocol>>>);

impl Protocols {
    /// Of two with the same name the later one is spoken.
    pub fn of(protocols: impl IntoIterator<Item = Arc<dyn Protocol>>) -> Self {
        let named = |protocol: Arc<dyn Protocol>| (protocol.name().to_owned(), protocol);
        Self(Arc::new(protocols.into_iter().map(named).collect()))
    }

    pub(crate) fn get(&self, name: &str) -> Option<&dyn Protocol> {
        self.0.get(name).map(AsRef::as_ref)
    }

    /// For people.
    pub(crate) fn sentence(&self) -> String {
        if self.0.is_empty() {
            return "it speaks none but MQTT and HTTP".to_owned();
        }
        let names: Vec<&str> = self.0.keys().map(String::as_str).collect();
        format!("it speaks MQTT, HTTP and {}", names.join(", "))
    }
}

impl std::fmt::Debug for Protocols {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}
