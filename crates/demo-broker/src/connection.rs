//! One client's socket: reads, writes, timers. What the packets mean is the session's.
//!
//! One task per connection and no buffer while idle: the socket is read into a buffer of the thread
//! and only bytes that are no whole packet yet are kept. Reading stops while the client does not take
//! its answers, so memory per connection is bounded. Invariant: while stalled nothing is written and
//! nothing is judged, and afterwards all that came in is answered in order.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use rumqttc::mqttbytes::{Error as CodecError, v4::Packet};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::hub::{Hub, Seat};
use crate::script::Settings;
use crate::session::{Close, Outbox, Session};

/// The largest packet that is taken. Larger ones close the connection.
const MAX_PACKET: usize = 1024 * 1024;

/// The first byte of every connection.
const CONNECT: u8 = 0x10;

/// Type byte and four length bytes.
const MAX_HEADER: usize = 5;

/// Bytes kept unread (stalled) or unsent (slow reader). Full: the socket is not read until they go.
const BUFFERED: usize = 256 * 1024;

/// A buffer that is empty but larger than this is given back.
const KEPT_CAPACITY: usize = 1024;

/// How long a new connection may take to say CONNECT.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; 16 * 1024].into_boxed_slice());
}

pub(crate) struct Connection {
    stream: TcpStream,
    session: Session,
    seat: Seat,
    settings: watch::Receiver<Settings>,
    unread: BytesMut,
    out: Outbox,
    /// When the client was last heard, for its keep-alive.
    heard: Instant,
}

/// Why the socket is closed.
enum End {
    Close(Close),
    /// The peer closed or the socket broke.
    Gone,
    Silent,
    /// Another connection took the client id, or the script dropped everyone.
    Kicked,
    Shutdown,
}

impl Connection {
    pub(crate) fn new(stream: TcpStream, hub: &Arc<Hub>) -> Self {
        let seat = hub.arrive();
        let session = Session::new(Arc::clone(hub), seat.number, seat.to_me.clone());
        Self {
            stream,
            session,
            seat,
            settings: hub.settings.subscribe(),
            unread: BytesMut::new(),
            out: Outbox::default(),
            heard: Instant::now(),
        }
    }

    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let end = self.serve(&shutdown).await;
        if let End::Close(Close::Protocol(why)) = end {
            tracing::debug!(connection = self.seat.number, why, "connection closed");
        }
        // A broker that stops takes its wills along: nobody is left to read them.
        let goodbye = matches!(end, End::Close(Close::Goodbye) | End::Shutdown);
        self.session.end(goodbye);
    }

    async fn serve(&mut self, shutdown: &CancellationToken) -> End {
        loop {
            let stalled = self.settings.borrow_and_update().stalled;
            let mut timer = None;
            if !stalled {
                if let Err(close) = self.answer() {
                    // Best effort: a refusal should still be read by the client.
                    let _ = self.flush();
                    return End::Close(close);
                }
                // A client that never stops sending still gets what waits for it.
                self.deliver_waiting();
                timer = self.out.release(Instant::now());
                let was_full = self.out.bytes.len() >= BUFFERED;
                if self.flush().is_err() {
                    return End::Gone;
                }
                if was_full && self.out.bytes.len() < BUFFERED {
                    // There may be whole packets left that no event would announce again.
                    continue;
                }
                let allowed = match self.session.is_connected() {
                    true => self.session.silence(),
                    false => Some(CONNECT_WITHIN),
                };
                if let Some(allowed) = allowed {
                    let deadline = self.heard + allowed;
                    if deadline <= Instant::now() {
                        return End::Silent;
                    }
                    timer = Some(timer.map_or(deadline, |due| due.min(deadline)));
                }
            }
            let deliver =
                !stalled && self.out.bytes.len() < BUFFERED && self.session.accepts_deliveries();
            let interest = self.interest(stalled);
            // Every branch is cancel safe: nothing is taken from a source that was not chosen.
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return End::Shutdown,
                () = self.seat.kick.cancelled() => return End::Kicked,
                changed = self.settings.changed() => {
                    if changed.is_err() { return End::Shutdown; }
                    // The client is not to blame for a stall that ends now.
                    if stalled { self.heard = Instant::now(); }
                }
                ready = ready(&self.stream, interest) => match ready {
                    Ok(ready) if ready.is_readable() => {
                        if !self.pull() { return End::Gone; }
                    }
                    Ok(_) => {}
                    Err(_) => return End::Gone,
                },
                delivery = self.seat.inbox.recv(), if deliver => {
                    if let Some(delivery) = delivery {
                        self.session.deliver(delivery, &mut self.out);
                        self.deliver_waiting();
                    }
                }
                () = wait_until(timer) => {}
            }
        }
    }

    /// More of the queue in one write, as far as there is room.
    fn deliver_waiting(&mut self) {
        while self.out.bytes.len() < BUFFERED
            && self.session.accepts_deliveries()
            && let Ok(delivery) = self.seat.inbox.try_recv()
        {
            self.session.deliver(delivery, &mut self.out);
        }
    }

    fn interest(&self, stalled: bool) -> Option<Interest> {
        // Unless stalled, only the beginning of one packet or what a slow reader delays is unread.
        let most = if stalled { BUFFERED } else { MAX_PACKET + MAX_HEADER };
        let read = self.unread.len() < most && self.out.bytes.len() < BUFFERED;
        let write = !stalled && !self.out.bytes.is_empty();
        match (read, write) {
            (true, true) => Some(Interest::READABLE | Interest::WRITABLE),
            (true, false) => Some(Interest::READABLE),
            (false, true) => Some(Interest::WRITABLE),
            (false, false) => None,
        }
    }

    /// Takes what the socket has; false at its end.
    fn pull(&mut self) -> bool {
        SCRATCH.with_borrow_mut(|scratch| match self.stream.try_read(scratch) {
            Ok(0) => false,
            Ok(read) => {
                self.unread.extend_from_slice(&scratch[..read]);
                self.heard = Instant::now();
                true
            }
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        })
    }

    /// Answers every whole packet among the unread bytes.
    fn answer(&mut self) -> Result<(), Close> {
        while !self.unread.is_empty() && self.out.bytes.len() < BUFFERED {
            // Anything else may look like the beginning of a long packet: an HTTP request does.
            if !self.session.is_connected() && self.unread[0] != CONNECT {
                return Err(Close::Protocol("the first packet was not a CONNECT"));
            }
            if !self.session.is_connected()
                && connect_level(&self.unread).is_some_and(|level| level != 4)
            {
                return Err(self.session.refuse_version(&mut self.out));
            }
            let packet = match Packet::read(&mut self.unread, MAX_PACKET) {
                Ok(packet) => packet,
                Err(CodecError::InsufficientBytes(_)) => break,
                Err(error) => {
                    tracing::debug!(connection = self.seat.number, %error, "unreadable packet");
                    return Err(Close::Protocol("a packet that cannot be read"));
                }
            };
            let settings = self.settings.borrow();
            self.session.on_packet(packet, &settings, &mut self.out)?;
        }
        if self.unread.is_empty() && self.unread.capacity() > KEPT_CAPACITY {
            self.unread = BytesMut::new();
        }
        Ok(())
    }

    /// Writes what the socket takes now.
    fn flush(&mut self) -> io::Result<()> {
        while !self.out.bytes.is_empty() {
            match self.stream.try_write(&self.out.bytes) {
                Ok(written) => drop(self.out.bytes.split_to(written)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        if self.out.bytes.capacity() > KEPT_CAPACITY {
            self.out.bytes = BytesMut::new();
        }
        Ok(())
    }
}

async fn ready(stream: &TcpStream, interest: Option<Interest>) -> io::Result<tokio::io::Ready> {
    match interest {
        Some(interest) => stream.ready(interest).await,
        None => std::future::pending().await,
    }
}

async fn wait_until(timer: Option<Instant>) {
    match timer {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// The protocol level of a CONNECT, once that byte is there. Read before the codec, which takes a
/// CONNECT of MQTT 5 for one of 3.1.1 and stumbles over its properties.
fn connect_level(bytes: &[u8]) -> Option<u8> {
    let after_type = bytes.strip_prefix(&[CONNECT])?;
    let length = after_type.iter().take(4).position(|byte| byte & 0x80 == 0)? + 1;
    let rest = &after_type[length..];
    let name = usize::from(u16::from_be_bytes([*rest.first()?, *rest.get(1)?]));
    // Other names than MQTT (3.1.1, 5) and MQIsdp (3.1) are left to the codec, which refuses them.
    matches!(rest.get(2..2 + name)?, b"MQTT" | b"MQIsdp").then(|| rest.get(2 + name).copied())?
}
