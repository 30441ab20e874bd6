//! A Kafka cluster for one test, and a client that is not the product's.
//!
//! [`Kafka::start`] takes the cluster that `KAFKA_BOOTSTRAP` names (Apache Kafka, Redpanda, any), or
//! starts a small Kafka-compatible server, which `.ci/test` installs. What no
//! small server can do (logins, TLS, faults) is done by [`stand_in`]. The client is written on the
//! `kafka-protocol` crate, so that what the product reads was written by somebody else.

mod client;
mod scram;
pub mod stand_in;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::daemon::Daemon;

pub use self::client::{Client, Stamps};

const START_WITHIN: Duration = Duration::from_secs(60);
/// Somebody else may take the free port between our look and the server's bind.
const ATTEMPTS: usize = 5;

pub struct Kafka {
    bootstrap: String,
    // In the order in which they end.
    _server: Option<Daemon>,
    _dir: Option<TempDir>,
}

impl Kafka {
    /// Panics when there is none: its tests must not pass without.
    pub fn start() -> Self {
        if let Ok(bootstrap) = std::env::var("KAFKA_BOOTSTRAP") {
            return Self { bootstrap, _server: None, _dir: None };
        }
        let Some(program) = program() else {
            panic!(
                "this test needs a Kafka cluster: run `bash .ci/test`, which installs a small one, \
                 or set KAFKA_BOOTSTRAP to host:port of one on which topics may be created"
            )
        };
        for _ in 0..ATTEMPTS {
            if let Some(started) = attempt(&program) {
                return started;
            }
        }
        panic!("{} did not start in {ATTEMPTS} attempts", program.display());
    }

    /// host:port, as a scenario has it.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// A new topic, whose name nobody else has.
    pub fn topic(&self, partitions: i32, stamps: Stamps) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let since = std::time::UNIX_EPOCH.elapsed().expect("the clock is right").as_micros();
        let name = format!("out-{}-{since}-{number}", std::process::id());
        self.client().create_topic(&name, partitions, stamps);
        name
    }

    pub fn client(&self) -> Client {
        Client::connect(&self.bootstrap)
    }
}

/// What `NOIDA_DB` names, else what `.ci/test` has installed beside the builds.
fn program() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("NOIDA_DB") {
        return Some(named.into());
    }
    let this = std::env::current_exe().ok()?;
    let built = this.ancestors().map(|dir| dir.join("noida-db/noida-db"));
    built.into_iter().find(|program| program.is_file())
}

fn attempt(program: &Path) -> Option<Kafka> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let port = TcpListener::bind(("127.0.0.1", 0)).and_then(|free| free.local_addr());
    let port = port.expect("a free port").port();
    let mut command = Command::new(program);
    command
        .args(["start", "--only", "kafka", "--host", "127.0.0.1", "--kafka-port"])
        .arg(port.to_string())
        .arg("--data-dir")
        .arg(dir.path().join("data"));
    let server = Daemon::start(command, dir.path().join("log"));
    let bootstrap = format!("127.0.0.1:{port}");
    let end = Instant::now() + START_WITHIN;
    while Instant::now() < end {
        if Client::is_answered(&bootstrap) {
            return Some(Kafka { bootstrap, _server: Some(server), _dir: Some(dir) });
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    None
}
