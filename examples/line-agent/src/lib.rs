//! A protocol of one's own, as small as one can be: a line and a body there, a line and a body back.
//!
//! ```text
//! POST /meters/7 18\n{"kwh":1042,"n":3}      method, path, length of the body
//! 201 2\nok                                  status, length of the body
//! ```

use std::io;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::LocalBoxFuture;
use shoal_agent::protocol::{Dialogue, Protocol, Request, Response, Stream};
use tokio::io::{
    AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufStream,
};

pub mod server;

/// No line of either side is longer.
const MOST_LINE: u64 = 4 * 1024;
/// No body is longer, whatever a peer announces.
const MOST_BODY: usize = 1024 * 1024;

/// What a scenario calls `protocol: lines`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Lines;

impl Protocol for Lines {
    fn name(&self) -> &str {
        "lines"
    }

    fn open(&self, stream: Box<dyn Stream>) -> LocalBoxFuture<'_, io::Result<Box<dyn Dialogue>>> {
        let talk = Talk { stream: BufStream::with_capacity(512, 512, stream) };
        async move { Ok(Box::new(talk) as Box<dyn Dialogue>) }.boxed_local()
    }
}

struct Talk {
    stream: BufStream<Box<dyn Stream>>,
}

impl Dialogue for Talk {
    fn exchange(
        &mut self,
        request: Request<Bytes>,
    ) -> LocalBoxFuture<'_, io::Result<Response<Bytes>>> {
        async move {
            let (method, path, body) = (request.method(), request.uri(), request.body());
            let head = format!("{method} {path} {}\n", body.len());
            self.stream.write_all(head.as_bytes()).await?;
            self.stream.write_all(body).await?;
            self.stream.flush().await?;
            let line = line(&mut self.stream).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
            let [status, length] = words(&line)?;
            let mut response = Response::new(body_of(&mut self.stream, length).await?);
            *response.status_mut() = status.parse().map_err(|_| broken(&line))?;
            Ok(response)
        }
        .boxed_local()
    }
}

/// `None`: the peer has closed in good order.
async fn line(stream: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<String>> {
    let mut line = String::new();
    stream.take(MOST_LINE).read_line(&mut line).await?;
    match line.strip_suffix('\n') {
        Some(whole) => Ok(Some(whole.to_owned())),
        None if line.is_empty() => Ok(None),
        None => Err(broken(&line)),
    }
}

fn words<const N: usize>(line: &str) -> io::Result<[&str; N]> {
    let words: Vec<&str> = line.split(' ').collect();
    words.try_into().map_err(|_| broken(line))
}

async fn body_of(stream: &mut (impl AsyncBufRead + Unpin), length: &str) -> io::Result<Bytes> {
    let length: usize = length.parse().map_err(|_| broken(length))?;
    if length > MOST_BODY {
        return Err(broken(length));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(body.into())
}

fn broken(found: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("`{found}` is no line of this protocol"))
}
