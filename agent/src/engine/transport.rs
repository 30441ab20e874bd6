//! What carries a device's bytes: a plain socket or one of its wrappings.
//!
//! Writing never waits and reading registers the task, so a device needs no task beside its own.
//! An idle transport holds no buffer: what a wrapping must keep, it keeps only while it is there.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use shoal_domain::outcome::ErrorClass;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::tls::TlsStream;
use crate::websocket::{self, Unwrapper};

pub(super) enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream>),
    WebSocket(Box<WebSocket>),
}

impl Transport {
    /// How many of the bytes were taken: all, some, or an error of kind `WouldBlock`.
    pub(super) fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.try_write(bytes),
            Self::Tls(tls) => tls.try_write(bytes),
            Self::WebSocket(socket) => socket.try_write(bytes),
        }
    }

    /// Whether bytes that were taken wait here for the socket.
    pub(super) fn is_behind(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(tls) => tls.is_behind(),
            Self::WebSocket(socket) => !socket.unsent.is_empty() || socket.under.is_behind(),
        }
    }

    /// Hands to the socket what waits here.
    pub(super) fn push(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Tls(tls) => tls.push(),
            Self::WebSocket(socket) => socket.push(),
        }
    }

    pub(super) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(tcp) => tcp.poll_write_ready(cx),
            Self::Tls(tls) => tls.poll_write_ready(cx),
            Self::WebSocket(socket) => socket.under.poll_write_ready(cx),
        }
    }

    /// 0 is the end.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(tcp) => {
                let mut read = ReadBuf::new(buffer);
                Pin::new(tcp).poll_read(cx, &mut read).map_ok(|()| read.filled().len())
            }
            Self::Tls(tls) => tls.poll_read_into(cx, buffer),
            Self::WebSocket(socket) => socket.poll_read(cx, buffer),
        }
    }

    /// Waits until all of `bytes` are taken.
    async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() || self.is_behind() {
            match self.try_write(bytes) {
                Ok(n) => bytes = &bytes[n..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    poll_fn(|cx| self.poll_write_ready(cx)).await?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// A WebSocket over plain TCP or TLS.
pub(super) struct WebSocket {
    under: Transport,
    unwrapper: Unwrapper,
    /// Of a frame, what the transport below did not take.
    unsent: Vec<u8>,
    mask: [u8; 4],
    is_closed: bool,
}

thread_local! {
    /// Frames that are about to be written.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::default();
}

impl WebSocket {
    /// Changes a connection to the WebSocket protocol.
    pub(super) async fn upgrade(
        mut under: Transport,
        host: &str,
        path: &str,
    ) -> io::Result<Transport> {
        let mut random = [0; 20];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let (key, mask) = random.split_at(16);
        let key: [u8; 16] = key.try_into().map_err(io::Error::other)?;
        under.write_all(&websocket::request(host, path, key)).await?;
        let mut head = Vec::new();
        let mut buffer = [0; 1024];
        loop {
            let n = poll_fn(|cx| under.poll_read(cx, &mut buffer)).await?;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            head.extend_from_slice(&buffer[..n]);
            match websocket::answer(&head, key).map_err(broken)? {
                None => {}
                Some(n) if n == head.len() => break,
                // A server has nothing to say before the CONNECT.
                Some(_) => return Err(broken(websocket::Broken::Frame("one before ours"))),
            }
        }
        Ok(Transport::WebSocket(Box::new(Self {
            under,
            unwrapper: Unwrapper::default(),
            unsent: Vec::new(),
            mask: mask.try_into().map_err(io::Error::other)?,
            is_closed: false,
        })))
    }

    /// Another mask for each frame.
    fn next_mask(&mut self) -> [u8; 4] {
        let mut word = u32::from_le_bytes(self.mask) | 1;
        word ^= word << 13;
        word ^= word >> 17;
        word ^= word << 5;
        self.mask = word.to_le_bytes();
        self.mask
    }

    /// Wraps all of `bytes` or, while older ones wait for the socket, none.
    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.push()?;
        if !self.unsent.is_empty() || self.under.is_behind() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if bytes.is_empty() {
            return Ok(0);
        }
        let mask = self.next_mask();
        SCRATCH.with_borrow_mut(|frame| {
            frame.clear();
            websocket::frame(frame, bytes, mask);
            let taken = self.under.try_write(frame)?;
            self.unsent.extend_from_slice(&frame[taken..]);
            Ok(bytes.len())
        })
    }

    fn push(&mut self) -> io::Result<()> {
        self.under.push()?;
        while !self.unsent.is_empty() {
            match self.under.try_write(&self.unsent) {
                Ok(n) => drop(self.unsent.drain(..n)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.unsent = Vec::new();
        Ok(())
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        while !self.is_closed {
            let n = ready!(self.under.poll_read(cx, buffer))?;
            if n == 0 {
                break;
            }
            let mask = self.next_mask();
            let mut answers = std::mem::take(&mut self.unsent);
            let found = self.unwrapper.unwrap(&mut buffer[..n], mask, &mut answers);
            self.unsent = answers;
            let found = found.map_err(broken)?;
            self.is_closed = found.is_closed;
            self.push()?;
            if found.n > 0 {
                return Poll::Ready(Ok(found.n));
            }
        }
        Poll::Ready(Ok(0))
    }
}

fn broken(error: websocket::Broken) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// The class and the words of an error in the WebSocket protocol; `None`: it is none of it.
pub(super) fn class_of(error: &io::Error) -> Option<(ErrorClass, String)> {
    let error = error.get_ref()?.downcast_ref::<websocket::Broken>()?;
    let class = match error {
        websocket::Broken::Elsewhere(_) => ErrorClass::Redirected,
        _ => ErrorClass::WebSocket,
    };
    Some((class, error.to_string()))
}

/// For protocols that read and write a stream.
impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, buffer),
            this => {
                let n = ready!(Self::poll_read(this, cx, buffer.initialize_unfilled()))?;
                buffer.advance(n);
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        loop {
            match this.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(this.poll_write_ready(cx))?;
                }
                done => return Poll::Ready(done),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            this.push()?;
            if !this.is_behind() {
                return Poll::Ready(Ok(()));
            }
            ready!(this.poll_write_ready(cx))?;
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(&mut **tls).poll_shutdown(cx),
            // The connection is closed by dropping it.
            Self::WebSocket(_) => Poll::Ready(Ok(())),
        }
    }
}
