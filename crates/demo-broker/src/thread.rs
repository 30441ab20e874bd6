//! A broker on a thread of its own, for tests and tools that must not share its runtime.
//!
//! The load generator and the thing it loads would otherwise take turns on one thread and measure
//! each other. Invariant: dropping the handle stops the broker and waits for its thread.

use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread::JoinHandle;

use tokio::runtime::Builder;
use tokio_util::sync::CancellationToken;

use crate::{Broker, Error, Script};

#[derive(Debug)]
pub struct BrokerThread {
    addr: SocketAddr,
    script: Script,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl BrokerThread {
    /// Blocks until the broker listens.
    pub fn start(addr: SocketAddr) -> Result<Self, Error> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|source| Error::Thread { source })?;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        // One answer: bound or not.
        let (bound, wait) = mpsc::sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("demo-broker".to_owned())
            .spawn(move || {
                runtime.block_on(async move {
                    match Broker::bind(addr).await {
                        Ok(broker) => {
                            let _ = bound.send(Ok((broker.addr(), broker.script())));
                            broker.run(stopped).await;
                        }
                        Err(error) => drop(bound.send(Err(error))),
                    }
                });
            })
            .map_err(|source| Error::Thread { source })?;
        let gone = || Error::Thread { source: std::io::Error::other("the thread ended early") };
        let (addr, script) = wait.recv().map_err(|_| gone())??;
        Ok(Self { addr, script, stop, thread: Some(thread) })
    }

    /// On a free port of the loopback address.
    pub fn on_loopback() -> Result<Self, Error> {
        Self::start(SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn script(&self) -> &Script {
        &self.script
    }
}

impl Drop for BrokerThread {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // A panic over there was printed there; a second one here would abort.
            let _ = thread.join();
        }
    }
}
