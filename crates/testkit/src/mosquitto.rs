//! A real mosquitto for one test: the independent witness that our MQTT is MQTT.
//!
//! It can be frozen and thawed (SIGSTOP, SIGCONT), which is what an overloaded platform looks like
//! from outside: connections stay, bytes are accepted, nothing is answered. It can end and come back
//! at the same addresses with what it kept. Invariant: the process ends with this handle, and with
//! the test process when that is killed.

mod setup;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

pub use self::setup::{Door, Setup};
use crate::programs;
use crate::watchdog::Watchdog;

const START_WITHIN: Duration = Duration::from_secs(30);

/// Somebody else may take the free port between our look and mosquitto's bind.
const ATTEMPTS: usize = 5;

#[derive(Debug)]
pub struct Mosquitto {
    doors: Vec<(Door, SocketAddr)>,
    process: Child,
    watchdog: Watchdog,
    dir: TempDir,
}

impl Mosquitto {
    /// Anybody may connect. Panics when mosquitto is missing: its tests must not pass without.
    pub fn start() -> Self {
        Self::with(&Setup::default())
    }

    /// Only this user may connect.
    pub fn with_login(user: &str, password: &str) -> Self {
        Self::with(&Setup::default().login(user, password))
    }

    pub fn with(setup: &Setup) -> Self {
        let mut said = String::new();
        for _ in 0..ATTEMPTS {
            match attempt(setup) {
                Ok(running) => return running,
                Err(why) => said = why,
            }
        }
        panic!("mosquitto did not start in {ATTEMPTS} attempts: {said}");
    }

    /// Where it takes MQTT as it is.
    pub fn addr(&self) -> SocketAddr {
        self.addr_of(Door::Plain)
    }

    /// Panics where the setup has no such door.
    pub fn addr_of(&self, door: Door) -> SocketAddr {
        let found = self.doors.iter().find(|(known, _)| *known == door);
        found.unwrap_or_else(|| panic!("this broker has no door for {door:?}")).1
    }

    /// As a target's url.
    pub fn url_of(&self, door: Door) -> String {
        format!("{}://{}", door.scheme(), self.addr_of(door))
    }

    /// Stops answering, keeps all connections. [`Mosquitto::thaw`] goes on.
    pub fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    pub fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// Ends it without any goodbye.
    pub fn kill(&mut self) {
        self.watchdog.release();
        // Both fail only when it is gone already, which is what was asked for.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Ends it in order: it closes its connections and, where it is persistent, writes what it keeps.
    pub fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        // Whoever is frozen ends when it thaws.
        self.thaw();
        let _ = self.process.wait();
        self.watchdog.release();
    }

    /// Starts again, after its end, at the same addresses and with what it kept.
    pub fn start_again(&mut self) {
        let end = Instant::now() + START_WITHIN;
        loop {
            match launch(self.dir.path(), self.addr()) {
                Ok((process, watchdog)) => {
                    (self.process, self.watchdog) = (process, watchdog);
                    return;
                }
                // A connection of somebody else may hold the port for a moment.
                Err(why) => assert!(Instant::now() < end, "mosquitto did not start again: {why}"),
            }
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.process.id()).expect("process ids fit an i32");
        kill(Pid::from_raw(pid), signal).expect("mosquitto is our child and not yet waited for");
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(crate) fn program(name: &str) -> PathBuf {
    programs::find(name, &programs::system()).unwrap_or_else(|| {
        panic!(
            "this test needs {name} and found none on this machine: install it with apt-get \
             install mosquitto mosquitto-clients or brew install mosquitto"
        )
    })
}

fn attempt(setup: &Setup) -> Result<Mosquitto, String> {
    let dir = tempfile::tempdir().map_err(|error| format!("no temporary directory: {error}"))?;
    let mut doors = Vec::new();
    for door in setup.doors() {
        doors.push((door, free_port().map_err(|error| format!("no free port: {error}"))?));
    }
    let text = setup.configuration(&doors, dir.path())?;
    std::fs::write(dir.path().join(CONFIG), text)
        .map_err(|error| format!("cannot write its configuration: {error}"))?;
    let (_, plain) = doors[0];
    let (process, watchdog) = launch(dir.path(), plain)?;
    Ok(Mosquitto { doors, process, watchdog, dir })
}

const CONFIG: &str = "mosquitto.conf";

/// Returns when it listens.
fn launch(dir: &Path, addr: SocketAddr) -> Result<(Child, Watchdog), String> {
    let program = program("mosquitto");
    let log = std::fs::File::create(dir.join("log")).map_err(|error| error.to_string())?;
    let mut process = Command::new(&program)
        .arg("-c")
        .arg(dir.join(CONFIG))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .map_err(|error| format!("cannot run {}: {error}", program.display()))?;
    let watchdog = Watchdog::guard("kill -KILL \"$1\"", &[&process.id().to_string()]);
    let mut watchdog = watchdog.map_err(|error| format!("cannot start /bin/sh: {error}"))?;

    let end = Instant::now() + START_WITHIN;
    let why = loop {
        if let Ok(Some(status)) = process.try_wait() {
            let log = std::fs::read_to_string(dir.join("log")).unwrap_or_default();
            break format!("it ended at once ({status}): {}", log.trim());
        }
        if TcpStream::connect(addr).is_ok() {
            return Ok((process, watchdog));
        }
        if Instant::now() > end {
            break format!("it did not listen within {START_WITHIN:?}");
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    watchdog.release();
    let _ = process.kill();
    let _ = process.wait();
    Err(why)
}

fn free_port() -> std::io::Result<SocketAddr> {
    TcpListener::bind(("127.0.0.1", 0))?.local_addr()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rumqttc::{AsyncClient, ConnectReturnCode, ConnectionError, Event, MqttOptions, Packet};

    use super::*;

    async fn connack(
        addr: SocketAddr,
        login: Option<(&str, &str)>,
    ) -> Result<ConnectReturnCode, ConnectionError> {
        let mut options = MqttOptions::new("c", addr.ip().to_string(), addr.port());
        if let Some((user, password)) = login {
            options.set_credentials(user, password);
        }
        let (_client, mut events) = AsyncClient::new(options, 1);
        let polled = tokio::time::timeout(Duration::from_secs(10), events.poll());
        match polled.await.expect("an answer within 10 s")? {
            Event::Incoming(Packet::ConnAck(ack)) => Ok(ack.code),
            other => panic!("expected CONNACK, got {other:?}"),
        }
    }

    #[tokio::test]
    async fn it_takes_clients_and_is_gone_after_the_handle() {
        let broker = Mosquitto::start();
        let addr = broker.addr();
        assert_eq!(connack(addr, None).await.unwrap(), ConnectReturnCode::Success);
        drop(broker);
        assert!(TcpStream::connect(addr).is_err());
    }

    #[tokio::test]
    async fn a_login_is_asked_for() {
        let broker = Mosquitto::with_login("meter", "secret");
        let good = connack(broker.addr(), Some(("meter", "secret"))).await;
        assert_eq!(good.unwrap(), ConnectReturnCode::Success);
        assert!(connack(broker.addr(), Some(("meter", "wrong"))).await.is_err());
    }

    #[tokio::test]
    async fn a_frozen_broker_answers_after_the_thaw() {
        let broker = Mosquitto::start();
        broker.freeze();
        // The kernel still accepts the connection; the broker is not there to answer.
        TcpStream::connect(broker.addr()).unwrap();
        broker.thaw();
        assert_eq!(connack(broker.addr(), None).await.unwrap(), ConnectReturnCode::Success);
    }

    #[tokio::test]
    async fn it_comes_back_where_it_was() {
        let mut broker = Mosquitto::with(&Setup::default().persistent());
        let addr = broker.addr();
        broker.stop();
        assert!(TcpStream::connect(addr).is_err());
        broker.start_again();
        assert_eq!(connack(addr, None).await.unwrap(), ConnectReturnCode::Success);
    }
}
