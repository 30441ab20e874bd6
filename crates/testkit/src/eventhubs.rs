//! Azure Event Hubs for one test, on the acceptor of `fe2o3-amqp`: tokens, `$management`, links to
//! partitions, TLS of an authority of its own; and all that the real one does only on bad days: cut
//! connections, silence, deleted events, numbers that are left out, new partitions.
//!
//! It keeps all that was written to it. Real Azure refuses a link where it is attached; this one takes it
//! and closes it with the same words.

mod access;
mod service;

use std::net::{Shutdown, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::authority::certified;

/// The hub that it has, and a consumer group beside `$Default`.
pub const HUB: &str = "telemetry";
pub const GROUP: &str = "shoal";
const POLICY: &str = "listen";
const KEY: &str = "bGlzdGVuIHRvIHRoZSBodWIgYXMgaXQgc2luZ3M=";

/// Names and texts.
pub type Properties = Vec<(String, String)>;

#[derive(Clone)]
pub struct StandIn {
    shared: Arc<Shared>,
}

struct Shared {
    addr: SocketAddr,
    tls: Option<TlsAcceptor>,
    ca_pem: String,
    log: Mutex<Log>,
    /// Changes when something was written or said.
    changed: watch::Sender<u64>,
    n_connections: AtomicU64,
    n_tokens: AtomicU64,
}

#[derive(Default)]
struct Log {
    partitions: Vec<Partition>,
    connections: Vec<std::net::TcpStream>,
    is_away: bool,
    is_silent: bool,
}

#[derive(Default)]
struct Partition {
    begin: i64,
    end: i64,
    events: Vec<Arc<Event>>,
}

struct Event {
    sequence: i64,
    enqueued_ms: i64,
    properties: Properties,
    body: Vec<u8>,
}

impl StandIn {
    pub fn start(partitions: usize, is_secure: bool) -> Self {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        listener.set_nonblocking(true).expect("a socket can be told not to wait");
        let (tls, ca_pem) = match is_secure {
            true => {
                let (config, pem) = certified();
                (Some(TlsAcceptor::from(Arc::new(config))), pem)
            }
            false => (None, String::new()),
        };
        let log = Log {
            partitions: (0..partitions).map(|_| Partition::default()).collect(),
            ..Log::default()
        };
        let shared = Arc::new(Shared {
            addr: listener.local_addr().expect("a bound socket has an address"),
            tls,
            ca_pem,
            log: Mutex::new(log),
            changed: watch::Sender::new(0),
            n_connections: AtomicU64::new(0),
            n_tokens: AtomicU64::new(0),
        });
        let serving = Arc::clone(&shared);
        // Ends with the test process.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime starts").block_on(service::serve(serving, listener));
        });
        Self { shared }
    }

    /// As the portal shows it; without TLS as the emulator's.
    pub fn connection_string(&self) -> String {
        self.connection_with(KEY)
    }

    /// Of a key that opens nothing.
    pub fn wrong_connection_string(&self) -> String {
        self.connection_with("bm90IHRoZSBrZXk=")
    }

    fn connection_with(&self, key: &str) -> String {
        let port = self.shared.addr.port();
        let emulator = match self.shared.tls {
            Some(_) => "",
            None => ";UseDevelopmentEmulator=true",
        };
        format!(
            "Endpoint=sb://localhost:{port}/;SharedAccessKeyName={POLICY};\
             SharedAccessKey={key}{emulator}"
        )
    }

    /// Of the authority that signed its certificate.
    pub fn ca_pem(&self) -> &str {
        &self.shared.ca_pem
    }

    pub fn n_connections(&self) -> u64 {
        self.shared.n_connections.load(Ordering::SeqCst)
    }

    /// Tokens that were taken.
    pub fn n_tokens(&self) -> u64 {
        self.shared.n_tokens.load(Ordering::SeqCst)
    }

    pub fn produce(&self, partition: i32, values: &[Vec<u8>]) {
        let bare = |value: &Vec<u8>| (Vec::new(), value.clone());
        self.produce_with_properties(partition, &values.iter().map(bare).collect::<Vec<_>>());
    }

    pub fn produce_with_properties(&self, partition: i32, events: &[(Properties, Vec<u8>)]) {
        let now = std::time::UNIX_EPOCH.elapsed().expect("the clock is right").as_millis() as i64;
        let mut log = self.shared.lock();
        let partition = &mut log.partitions[partition as usize];
        for (properties, body) in events {
            partition.events.push(Arc::new(Event {
                sequence: partition.end,
                enqueued_ms: now,
                properties: properties.clone(),
                body: body.clone(),
            }));
            partition.end += 1;
        }
        drop(log);
        self.shared.tell();
    }

    /// The next event's number is so much greater.
    pub fn leave_out(&self, partition: i32, n: i64) {
        self.shared.lock().partitions[partition as usize].end += n;
    }

    /// Retention: what is below is gone.
    pub fn delete_below(&self, partition: i32, sequence: i64) {
        let mut log = self.shared.lock();
        let partition = &mut log.partitions[partition as usize];
        partition.begin = sequence.min(partition.end);
        let begin = partition.begin;
        partition.events.retain(|event| event.sequence >= begin);
    }

    pub fn end_of(&self, partition: i32) -> i64 {
        self.shared.lock().partitions[partition as usize].end
    }

    pub fn add_partition(&self) {
        self.shared.lock().partitions.push(Partition::default());
    }

    /// No event is sent any more on the links that there are, and nothing is said about it.
    pub fn fall_silent(&self, is_silent: bool) {
        self.shared.lock().is_silent = is_silent;
        self.shared.tell();
    }

    /// Cuts every connection; `is_away`: and each new one, until it is said otherwise.
    pub fn cut(&self, is_away: bool) {
        let mut log = self.shared.lock();
        log.is_away = is_away;
        for connection in log.connections.drain(..) {
            // Fails when it is cut already.
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Log> {
        self.log.lock().expect("a panic of another thread ends this test too")
    }

    fn tell(&self) {
        self.changed.send_modify(|n| *n += 1);
    }

    /// Events of the partition from `next` on, some at a time; none while it is silent.
    fn events(&self, partition: usize, next: i64) -> Vec<Arc<Event>> {
        let log = self.lock();
        if log.is_silent {
            return Vec::new();
        }
        let events = &log.partitions[partition].events;
        let at = events.partition_point(|event| event.sequence < next);
        events[at..].iter().take(200).cloned().collect()
    }
}
