//! The connection of an HTTP device: one at a time, made through the core's connect pace.
//!
//! Each attempt is one `sent` of the group's connect series at its TCP connect. hyper drives the
//! protocol in a task of its own, which ends with the connection. Invariant: no attempt begins
//! before its back-off is over, whoever asks for one.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use shoal_domain::outcome::ErrorClass;
use shoal_domain::plan::HttpProtocol;
use shoal_service_kit::Backoff;
use tokio::task::JoinHandle;

use super::super::transport::Transport;
use super::life::Life;
use super::{Failed, Standing};
use crate::protocol::{Dialogue, Protocol};

/// Head of a reply; also what an idle connection may come to hold.
const MAX_HEAD: usize = 64 * 1024;

type Requests = Full<Bytes>;

/// What hyper still reads, or what a protocol of somebody's own has read.
pub(super) type ReplyBody = http_body_util::Either<Incoming, Full<Bytes>>;

/// A connection that is up.
pub(super) struct Connection {
    sender: RefCell<Sender>,
    /// What drives it beside the requests.
    task: Option<JoinHandle<()>>,
}

enum Sender {
    Http1(http1::SendRequest<Requests>),
    Http2(http2::SendRequest<Requests>),
    Own(Own),
}

/// A connection that speaks a protocol of the agents' own: one request at a time.
enum Own {
    Idle(Box<dyn Dialogue>),
    Asking,
    /// A request has failed, and nobody knows where the next reply would begin.
    Over,
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// A request that was not answered.
pub(super) enum Unanswered {
    /// Nothing of it left: the connection had ended before.
    NotSent,
    Broken(Failed),
}

impl Connection {
    async fn open(transport: Transport, protocol: Spoken<'_>) -> Result<Self, Failed> {
        let broken = |error: hyper::Error| failure_of(&error);
        let (sender, task) = match protocol {
            Spoken::Http2 => {
                let io = TokioIo::new(transport);
                let (sender, connection) =
                    http2::handshake(LocalExecutor, io).await.map_err(broken)?;
                let task = tokio::task::spawn_local(async { drop(connection.await) });
                (Sender::Http2(sender), Some(task))
            }
            Spoken::Http1 => {
                let mut builder = http1::Builder::new();
                builder.max_buf_size(MAX_HEAD);
                let handshake = builder.handshake(TokioIo::new(transport));
                let (sender, connection) = handshake.await.map_err(broken)?;
                let task = tokio::task::spawn_local(async { drop(connection.await) });
                (Sender::Http1(sender), Some(task))
            }
            Spoken::Own(own) => {
                let dialogue = own.open(Box::new(transport)).await;
                let dialogue = dialogue.map_err(|error| failure_of_io(&error))?;
                (Sender::Own(Own::Idle(dialogue)), None)
            }
        };
        Ok(Self { sender: RefCell::new(sender), task })
    }

    pub(super) fn is_closed(&self) -> bool {
        match &*self.sender.borrow() {
            Sender::Http1(sender) => sender.is_closed(),
            Sender::Http2(sender) => sender.is_closed(),
            Sender::Own(own) => matches!(own, Own::Over),
        }
    }

    /// How many requests may be on their way at once.
    pub(super) fn capacity(&self, max_in_flight: u32) -> usize {
        match &*self.sender.borrow() {
            Sender::Http1(_) | Sender::Own(_) => 1,
            Sender::Http2(_) => max_in_flight as usize,
        }
    }

    /// Waits until the connection takes a request.
    pub(super) async fn ready(&self) -> bool {
        std::future::poll_fn(|cx| match &mut *self.sender.borrow_mut() {
            Sender::Http1(sender) => sender.poll_ready(cx),
            Sender::Http2(sender) => sender.poll_ready(cx),
            Sender::Own(_) => Poll::Ready(Ok(())),
        })
        .await
        .is_ok()
    }

    pub(super) async fn send(
        &self,
        request: Request<Bytes>,
    ) -> Result<Response<ReplyBody>, Unanswered> {
        if matches!(&*self.sender.borrow(), Sender::Own(_)) {
            return self.ask(request).await;
        }
        let request = request.map(Full::new);
        // The future does not borrow the sender, so no borrow is held while it waits.
        let answer = match &mut *self.sender.borrow_mut() {
            Sender::Http1(sender) => Either::Left(sender.try_send_request(request)),
            Sender::Http2(sender) => Either::Right(sender.try_send_request(request)),
            Sender::Own(_) => return Err(Unanswered::NotSent),
        };
        let answer = match answer {
            Either::Left(answer) => answer.await,
            Either::Right(answer) => answer.await,
        };
        answer.map(|reply| reply.map(ReplyBody::Left)).map_err(|mut error| {
            match error.take_message() {
                Some(_) => Unanswered::NotSent,
                None => Unanswered::Broken(failure_of(error.error())),
            }
        })
    }

    /// Dropped before it ends, it leaves a connection that nobody uses again.
    async fn ask(&self, request: Request<Bytes>) -> Result<Response<ReplyBody>, Unanswered> {
        let taken = std::mem::replace(&mut *self.sender.borrow_mut(), Sender::Own(Own::Asking));
        let Sender::Own(Own::Idle(mut dialogue)) = taken else { return Err(Unanswered::NotSent) };
        let answer = dialogue.exchange(request).await;
        let own = if answer.is_ok() { Own::Idle(dialogue) } else { Own::Over };
        *self.sender.borrow_mut() = Sender::Own(own);
        answer.map(|reply| reply.map(|body| ReplyBody::Right(Full::new(body)))).map_err(|error| {
            match error.kind() {
                io::ErrorKind::NotConnected => Unanswered::NotSent,
                _ => Unanswered::Broken(failure_of_io(&error)),
            }
        })
    }
}

enum Either<L, R> {
    Left(L),
    Right(R),
}

/// Which protocol a connection is to speak.
enum Spoken<'p> {
    Http1,
    Http2,
    Own(&'p dyn Protocol),
}

/// What an error of a body says about the peer.
pub(super) fn failure_of_body(error: &(dyn std::error::Error + 'static)) -> Failed {
    match error.downcast_ref::<hyper::Error>() {
        Some(error) => failure_of(error),
        None => Failed::answered(ErrorClass::Protocol, error.to_string()),
    }
}

/// What an error of a protocol of the agents' own says about the peer.
fn failure_of_io(error: &io::Error) -> Failed {
    if let Some((class, text)) = super::super::tls::class_of(error) {
        return Failed::new(class, text);
    }
    match error.kind() {
        io::ErrorKind::InvalidData => Failed::answered(ErrorClass::Protocol, error.to_string()),
        io::ErrorKind::InvalidInput => Failed::new(ErrorClass::Unsendable, error.to_string()),
        io::ErrorKind::UnexpectedEof => Failed::new(
            ErrorClass::ConnectionLost,
            "the peer closed the connection before its reply was complete",
        ),
        _ => Failed::new(ErrorClass::ConnectionLost, format!("the connection broke: {error}")),
    }
}

/// What an error of hyper says about the peer. The texts have no addresses, so that equal failures
/// have equal texts.
pub(super) fn failure_of(error: &hyper::Error) -> Failed {
    if error.is_parse_too_large() {
        let text = format!("the reply's head is longer than {} KiB", MAX_HEAD / 1024);
        return Failed::answered(ErrorClass::Protocol, text);
    }
    if error.is_parse() {
        return Failed::answered(ErrorClass::Protocol, format!("the reply is no HTTP: {error}"));
    }
    if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        let text = "the peer closed the connection before its reply was complete";
        return Failed::new(ErrorClass::ConnectionLost, text);
    }
    if error.is_user() {
        return Failed::new(ErrorClass::Unsendable, format!("the request cannot be sent: {error}"));
    }
    let mut cause = std::error::Error::source(error);
    while let Some(source) = cause {
        if let Some(io) = source.downcast_ref::<io::Error>() {
            if let Some((class, text)) = super::super::tls::class_of(io) {
                return Failed::new(class, text);
            }
            return match io.kind() {
                io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => {
                    Failed::answered(ErrorClass::Protocol, format!("the reply is no HTTP: {io}"))
                }
                io::ErrorKind::UnexpectedEof => Failed::new(
                    ErrorClass::ConnectionLost,
                    "the peer closed the connection before its reply was complete",
                ),
                _ => Failed::new(ErrorClass::ConnectionLost, format!("the connection broke: {io}")),
            };
        }
        cause = source.source();
    }
    Failed::answered(ErrorClass::Protocol, format!("the peer broke the protocol: {error}"))
}

/// Tasks of HTTP/2 connections stay on the device's thread.
#[derive(Debug, Clone, Copy)]
struct LocalExecutor;

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

impl Life {
    /// Connects if there is no connection; after a failure no earlier than the back-off says.
    pub(super) async fn ensure_connection(&self) -> Result<std::rc::Rc<Connection>, Failed> {
        if let Some(connection) = self.connection() {
            return Ok(connection);
        }
        let _turn = self.connecting.lock().await;
        if let Some(connection) = self.connection() {
            return Ok(connection);
        }
        // The first attempt is wanted at the device's start, a later one by whoever asks for it.
        let is_first = self.device.standing.get() == Standing::Starting;
        let asked_us = if is_first { 0 } else { self.core.now_us() };
        let intended_us = self.rest_until_us.get().max(asked_us);
        self.core.sleep_until(intended_us).await;
        match self.attempt(intended_us).await {
            Ok(connection) => {
                self.tries.set(0);
                self.device.is_here_from(&self.core, self.core.now_us());
                self.device.standing.set(Standing::Known);
                self.device.set_connected(&self.core, true);
                let connection = std::rc::Rc::new(connection);
                *self.connection.borrow_mut() = Some(std::rc::Rc::clone(&connection));
                Ok(connection)
            }
            Err(failed) => {
                self.device.set_connected(&self.core, false);
                self.rest_for_a_while();
                Err(failed)
            }
        }
    }

    /// The connection, if it is up.
    pub(super) fn connection(&self) -> Option<std::rc::Rc<Connection>> {
        let mut connection = self.connection.borrow_mut();
        if connection.as_ref().is_some_and(|connection| connection.is_closed()) {
            *connection = None;
        }
        connection.clone()
    }

    pub(super) fn drop_connection(&self) {
        *self.connection.borrow_mut() = None;
    }

    /// A request ended before its reply did. HTTP/2 only ends its stream; the connection of
    /// HTTP/1.1 would answer the next request with the rest.
    pub(super) fn abandon_reply(&self) {
        if self.target().protocol != HttpProtocol::Http2 {
            self.drop_connection();
        }
    }

    async fn attempt(&self, intended_us: u64) -> Result<Connection, Failed> {
        let core = &self.core;
        let ticket = core.gate.enter().await;
        core.sleep_until(core.gate.reserve(core.now_us())).await;
        let boot_us = core.boot_us();
        let began_us = core.run_us(boot_us);
        if !core.control.may_send(boot_us) {
            // The core's loop is about to cut this device.
            std::future::pending::<()>().await;
        }
        let group = self.group();
        let stage = core.plan.stage_of(self.device.group, intended_us);
        core.recorder.borrow_mut().tally(group.connect, stage).sent += 1;
        let open = self.device.begin(group.connect, stage, began_us, Some(intended_us));
        self.n_attempts.set(self.n_attempts.get() + 1);
        let route = &core.routes[&group.target];
        let own_tls = self.own_tls(route);
        let connect = async {
            let own_tls = own_tls.map_err(|text| Failed::new(ErrorClass::Tls, text))?;
            let dial = route.dial(self.device.ordinal, own_tls);
            let transport = dial.await.map_err(|lost| Failed::new(lost.class, lost.text))?;
            let spoken = match &self.target().protocol {
                HttpProtocol::Http1 => Spoken::Http1,
                HttpProtocol::Http2 => Spoken::Http2,
                HttpProtocol::Own(name) => match core.protocols.get(name) {
                    Some(own) => Spoken::Own(own),
                    // `prepare` has found it.
                    None => return Err(Failed::new(ErrorClass::Unsendable, "no such protocol")),
                },
            };
            Connection::open(transport, spoken).await
        };
        let patience = Duration::from_micros(self.target().connect_timeout_us);
        let result = match tokio::time::timeout(patience, connect).await {
            Ok(result) => result,
            Err(_) => {
                let text = format!("no connection within {patience:?}");
                Err(Failed::answered(ErrorClass::ConnectTimeout, text))
            }
        };
        drop(ticket);
        self.device.end(core, open, result.as_ref().map(|_| ()), None);
        result
    }

    /// Sets when the next attempt may begin: full jitter, from this device's own random numbers.
    fn rest_for_a_while(&self) {
        let pace = self.group().reconnect;
        let first = Duration::from_micros(pace.first_us);
        let backoff = Backoff::new(first, Duration::from_micros(pace.max_us));
        let device = &self.device;
        let key = [self.core.seed, device.group as u64, device.index, self.n_attempts.get()];
        let delay = backoff.delay(self.tries.get(), super::super::device::unit_random(&key));
        self.tries.set(self.tries.get().saturating_add(1));
        let now = self.core.now_us();
        self.rest_until_us.set(now.saturating_add(delay.as_micros() as u64).max(now + 1));
    }
}
