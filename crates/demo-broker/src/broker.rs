//! Binds, accepts, and gives every client its task.
//!
//! A broker under test must not be the thing that fails first, so a failed `accept` (descriptors
//! used up) waits and goes on. Invariant: when [`Broker::run`] returns, every connection is closed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::connection::Connection;
use crate::hub::Hub;
use crate::script::Script;

/// A whole fleet may knock at once; the kernel cuts this to `net.core.somaxconn`.
const BACKLOG: u32 = 4096;

/// Long enough for some connections to end when descriptors have run out, short for a person.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the demo broker cannot listen on {addr}: choose a free address or port 0")]
    Listen {
        addr: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("the demo broker cannot start its thread: the machine is out of threads or memory")]
    Thread {
        #[source]
        source: std::io::Error,
    },
}

/// A broker that listens but serves nobody until [`Broker::run`].
pub struct Broker {
    listener: TcpListener,
    addr: SocketAddr,
    hub: Arc<Hub>,
}

impl Broker {
    /// Clients may connect from now on; they wait until the broker runs.
    pub async fn bind(addr: SocketAddr) -> Result<Self, Error> {
        let (listener, bound) = listen(addr).map_err(|source| Error::Listen { addr, source })?;
        Ok(Self { listener, addr: bound, hub: Arc::new(Hub::new()) })
    }

    /// Where it listens; the port is the real one.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn script(&self) -> Script {
        Script::new(Arc::clone(&self.hub))
    }

    /// Serves until `stop`, then closes all connections.
    pub async fn run(self, stop: CancellationToken) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                // Finished tasks are taken out, so that the set does not grow with every client.
                Some(_) = connections.join_next() => {}
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => self.welcome(stream, &stop, &mut connections),
                    Err(error) => {
                        tracing::warn!(%error, "demo broker cannot accept, tries again");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        drop(self.listener);
        while connections.join_next().await.is_some() {}
    }

    fn welcome(&self, stream: TcpStream, stop: &CancellationToken, tasks: &mut JoinSet<()>) {
        // Without it small acknowledgements would wait for each other; a failure only costs time.
        let _ = stream.set_nodelay(true);
        tasks.spawn(Connection::new(stream, &self.hub).run(stop.clone()));
    }
}

fn listen(addr: SocketAddr) -> std::io::Result<(TcpListener, SocketAddr)> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    let listener = socket.listen(BACKLOG)?;
    let bound = listener.local_addr()?;
    Ok((listener, bound))
}
