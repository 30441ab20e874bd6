//! The other side, to try it against: it counts what it is sent.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncWriteExt as _, BufStream};
use tokio::net::{TcpListener, TcpStream};

/// What came in, by any connection.
#[derive(Debug, Default)]
pub struct Meters {
    pub received: AtomicU64,
}

impl Meters {
    /// Until it is dropped.
    pub async fn serve(&self, listener: TcpListener) -> io::Result<()> {
        let mut devices = futures::stream::FuturesUnordered::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => devices.push(self.answer(accepted?.0)),
                // What one device does wrong is its own affair.
                Some(_) = futures::StreamExt::next(&mut devices) => {}
            }
        }
    }

    async fn answer(&self, device: TcpStream) -> io::Result<()> {
        device.set_nodelay(true)?;
        let mut device = BufStream::new(device);
        while let Some(line) = super::line(&mut device).await? {
            let [method, path, length] = super::words(&line)?;
            let body = super::body_of(&mut device, length).await?;
            self.received.fetch_add(1, Ordering::Relaxed);
            let (status, reply) = match (method, path) {
                ("GET", "/limit") => (200, r#"{"limit":7}"#),
                ("POST", _) if !body.is_empty() => (201, "ok"),
                _ => (404, "no such meter"),
            };
            device.write_all(format!("{status} {}\n{reply}", reply.len()).as_bytes()).await?;
            device.flush().await?;
        }
        Ok(())
    }
}
