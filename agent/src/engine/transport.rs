//! What carries a device's bytes: a plain socket or one of its wrappings.
//!
//! Writing never waits and reading registers the task, so a device needs no task beside its own.
//! An idle transport holds no buffer: what a wrapping must keep, it keeps only while it is there.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;

use super::tls::TlsStream;

pub(super) enum Transport {
    Plain(TcpStream),
    Tls(TlsStream),
}

impl Transport {
    /// How many of the bytes were taken: all, some, or an error of kind `WouldBlock`.
    pub(super) fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.try_write(bytes),
            Self::Tls(tls) => tls.try_write(bytes),
        }
    }

    /// Whether bytes that were taken wait here for the socket.
    pub(super) fn is_behind(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(tls) => tls.is_behind(),
        }
    }

    /// Hands to the socket what waits here.
    pub(super) fn push(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Tls(tls) => tls.push(),
        }
    }

    pub(super) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(tcp) => tcp.poll_write_ready(cx),
            Self::Tls(tls) => tls.poll_write_ready(cx),
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
        }
    }
}
