//! A TCP proxy that breaks what it carries: the network between two processes, on demand.
//!
//! It runs on a thread of its own, so the processes under test and paused test clocks do not disturb
//! it. The verbs take effect at once for all connections. Invariant: bytes are delayed, held or lost
//! with their connection, never changed or reordered.

mod pipe;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::runtime::Builder;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The state of the network.
#[derive(Debug, Clone, Default)]
struct Weather {
    /// No byte passes to the target, or from it.
    silent_up: bool,
    silent_down: bool,
    refuse: bool,
    delay: Duration,
    /// Connections of an older number are cut.
    cuts: u64,
    /// Connections of an older number have lost their far end.
    half_open: u64,
    /// Which part of which transactions is lost.
    lost: Option<(Lost, u64)>,
}

/// What of a transaction of Postgres is lost with its connection: whoever asked for it cannot tell one from the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// The COMMIT on its way there: nothing happened.
    Commit,
    /// The answer on its way back: all of it happened.
    Answer,
}

#[derive(Debug)]
pub struct FaultProxy {
    addr: SocketAddr,
    weather: watch::Sender<Weather>,
    accepted: Arc<AtomicU64>,
    open: Arc<AtomicU64>,
    commits: Arc<Commits>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

/// How many transactions were asked to commit, and how many of them lost something.
#[derive(Debug, Default)]
struct Commits {
    asked: AtomicU64,
    lost: AtomicU64,
}

impl FaultProxy {
    /// Carries to `target` what arrives at [`FaultProxy::addr`].
    pub fn start(target: impl Into<Target>) -> std::io::Result<Self> {
        let target = target.into();
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
        listener.set_nonblocking(true)?;
        let addr = listener.local_addr()?;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let weather = watch::Sender::new(Weather::default());
        let stop = CancellationToken::new();
        let proxy = Proxy {
            target,
            weather: weather.clone(),
            accepted: Arc::default(),
            open: Arc::default(),
            commits: Arc::default(),
            stop: stop.clone(),
        };
        let (accepted, open) = (Arc::clone(&proxy.accepted), Arc::clone(&proxy.open));
        let commits = Arc::clone(&proxy.commits);
        let thread = std::thread::Builder::new()
            .name("fault-proxy".to_owned())
            .spawn(move || runtime.block_on(proxy.run(listener)))?;
        Ok(Self { addr, weather, accepted, open, commits, stop, thread: Some(thread) })
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Closes every connection, on both sides. New ones are carried.
    pub fn cut(&self) {
        self.weather.send_modify(|weather| weather.cuts += 1);
    }

    /// While true, new connections are closed as soon as they come.
    pub fn refuse(&self, refuse: bool) {
        self.weather.send_modify(|weather| weather.refuse = refuse);
    }

    /// While true, connections stay open and no byte passes in either direction.
    pub fn black_hole(&self, on: bool) {
        self.weather.send_modify(|weather| (weather.silent_up, weather.silent_down) = (on, on));
    }

    /// While true, what the clients send does not arrive; what is sent to them does.
    pub fn mute(&self, on: bool) {
        self.weather.send_modify(|weather| weather.silent_up = on);
    }

    /// While true, what is sent to the clients does not arrive; what they send does.
    pub fn deafen(&self, on: bool) {
        self.weather.send_modify(|weather| weather.silent_down = on);
    }

    /// The target sees every connection closed; the clients are not told and may go on writing.
    pub fn half_open(&self) {
        self.weather.send_modify(|weather| weather.half_open += 1);
    }

    /// Every byte arrives this much later, in each direction.
    pub fn delay(&self, delay: Duration) {
        self.weather.send_modify(|weather| weather.delay = delay);
    }

    /// Of every `n`-th COMMIT that Postgres is sent this part is lost, and its connection.
    pub fn lose(&self, what: Lost, n: u64) {
        self.weather.send_modify(|weather| weather.lost = Some((what, n.max(1))));
    }

    /// Transactions that lost something.
    pub fn n_lost(&self) -> u64 {
        self.commits.lost.load(Ordering::SeqCst)
    }

    /// Connections are carried without fault again. What was cut stays cut.
    pub fn heal(&self) {
        self.weather.send_modify(|weather| {
            (weather.silent_up, weather.silent_down) = (false, false);
            weather.refuse = false;
            weather.delay = Duration::ZERO;
            weather.lost = None;
        });
    }

    /// Connections taken since the start.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Connections open now.
    pub fn open(&self) -> u64 {
        self.open.load(Ordering::SeqCst)
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Where a proxy carries to.
#[derive(Debug, Clone)]
pub enum Target {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl From<SocketAddr> for Target {
    fn from(addr: SocketAddr) -> Self {
        Self::Tcp(addr)
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Target {
    async fn connect(&self) -> std::io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Tcp(addr) => {
                let stream = TcpStream::connect(addr).await?;
                // Small packets must not wait for each other here; a failure only costs time.
                let _ = stream.set_nodelay(true);
                Box::new(stream)
            }
            Self::Unix(path) => Box::new(UnixStream::connect(path).await?),
        })
    }
}

struct Proxy {
    target: Target,
    weather: watch::Sender<Weather>,
    accepted: Arc<AtomicU64>,
    open: Arc<AtomicU64>,
    commits: Arc<Commits>,
    stop: CancellationToken,
}

impl Proxy {
    async fn run(self, listener: std::net::TcpListener) {
        let listener = TcpListener::from_std(listener).expect("the listener is non-blocking");
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                Some(_) = connections.join_next() => {}
                accepted = listener.accept() => {
                    let Ok((client, _)) = accepted else { continue };
                    if self.weather.borrow().refuse { continue }
                    self.accepted.fetch_add(1, Ordering::SeqCst);
                    self.open.fetch_add(1, Ordering::SeqCst);
                    let open = Arc::clone(&self.open);
                    let (target, weather) = (self.target.clone(), self.weather.subscribe());
                    let commits = Arc::clone(&self.commits);
                    connections.spawn(async move {
                        carry(client, target, weather, &commits).await;
                        open.fetch_sub(1, Ordering::SeqCst);
                    });
                }
            }
        }
    }
}

/// One connection, until either side closes or the weather cuts it.
async fn carry(
    mut near: TcpStream,
    target: Target,
    mut weather: watch::Receiver<Weather>,
    commits: &Commits,
) {
    let born = weather.borrow().clone();
    let mut half_open_weather = weather.clone();
    let Ok(mut far) = target.connect().await else { return };
    let _ = near.set_nodelay(true);
    let half_open = {
        let (near_read, near_write) = near.split();
        let (far_read, far_write) = tokio::io::split(&mut far);
        let (now, answer_is_lost) = (weather.clone(), AtomicBool::new(false));
        let asks = |bytes: &[u8]| {
            let Some((what, n)) = now.borrow().lost.filter(|_| asks_to_commit(bytes)) else {
                return Ok(());
            };
            if !(commits.asked.fetch_add(1, Ordering::SeqCst) + 1).is_multiple_of(n) {
                return Ok(());
            }
            match what {
                Lost::Commit => {
                    commits.lost.fetch_add(1, Ordering::SeqCst);
                    Err(pipe::Broken)
                }
                Lost::Answer => {
                    answer_is_lost.store(true, Ordering::SeqCst);
                    Ok(())
                }
            }
        };
        let answers = |_: &[u8]| {
            if !answer_is_lost.load(Ordering::SeqCst) {
                return Ok(());
            }
            commits.lost.fetch_add(1, Ordering::SeqCst);
            Err(pipe::Broken)
        };
        let (up, down) = (weather.clone(), weather.clone());
        let up = pipe::carry(near_read, far_write, up, |now| now.silent_up, asks);
        let down = pipe::carry(far_read, near_write, down, |now| now.silent_down, answers);
        tokio::select! {
            _ = async { tokio::try_join!(up, down) } => false,
            () = broken(&mut weather, |now| now.cuts != born.cuts) => false,
            () = broken(&mut half_open_weather, |now| now.half_open != born.half_open) => true,
        }
    };
    drop(far);
    if half_open {
        // The client is kept, and not read: to it the other side has simply fallen silent.
        broken(&mut weather, |now| now.cuts != born.cuts).await;
    }
}

/// A simple query of Postgres' protocol that commits.
fn asks_to_commit(bytes: &[u8]) -> bool {
    const COMMIT: &[u8] = b"Q\0\0\0\x0bCOMMIT\0";
    bytes.windows(COMMIT.len()).any(|message| message == COMMIT)
}

/// Returns when `so` becomes true, or with the proxy.
async fn broken(weather: &mut watch::Receiver<Weather>, so: impl FnMut(&Weather) -> bool) {
    // An error is the end of the proxy, which ends its connections too.
    let _ = weather.wait_for(so).await;
}

#[cfg(test)]
mod tests;
