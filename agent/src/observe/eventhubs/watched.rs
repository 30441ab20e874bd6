//! A connection that says at once when it has ended.
//!
//! Whoever waits for an answer on an AMQP link does not always hear that the connection under it is gone:
//! an attach, or the outcome of a message, may be waited for without end.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::CancellationToken;

use super::super::dial::Stream;

#[derive(Debug)]
pub(super) struct Watched {
    under: Box<dyn Stream>,
    /// Cancelled when the peer has closed it, or it broke.
    ended: CancellationToken,
}

impl Watched {
    pub(super) fn new(under: Box<dyn Stream>, ended: CancellationToken) -> Self {
        Self { under, ended }
    }

    fn seen<T>(&self, done: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(_)) = &done {
            self.ended.cancel();
        }
        done
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (before, has_room) = (buffer.filled().len(), buffer.remaining() > 0);
        let read = Pin::new(&mut self.under).poll_read(cx, buffer);
        if matches!(read, Poll::Ready(Ok(()))) && has_room && buffer.filled().len() == before {
            self.ended.cancel();
        }
        self.seen(read)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.under).poll_write(cx, bytes);
        self.seen(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.under).poll_flush(cx);
        self.seen(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.under).poll_shutdown(cx)
    }
}
