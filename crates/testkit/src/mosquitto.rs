//! A real mosquitto for one test: the independent witness that our MQTT is MQTT.
//!
//! It can be frozen and thawed (SIGSTOP, SIGCONT), which is what an overloaded platform looks like
//! from outside: connections stay, bytes are accepted, nothing is answered. Invariant: the process
//! ends with this handle, and with the test process when that is killed.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use tempfile::TempDir;

use crate::programs;
use crate::watchdog::Watchdog;

const START_WITHIN: Duration = Duration::from_secs(30);

/// Somebody else may take the free port between our look and mosquitto's bind.
const ATTEMPTS: usize = 5;

#[derive(Debug)]
pub struct Mosquitto {
    addr: SocketAddr,
    process: Child,
    watchdog: Watchdog,
    _dir: TempDir,
}

impl Mosquitto {
    /// Anybody may connect. Panics when mosquitto is missing: its tests must not pass without.
    pub fn start() -> Self {
        Self::launch(None)
    }

    /// Only this user may connect.
    pub fn with_login(user: &str, password: &str) -> Self {
        Self::launch(Some((user, password)))
    }

    fn launch(login: Option<(&str, &str)>) -> Self {
        let program = program("mosquitto");
        let mut said = String::new();
        for _ in 0..ATTEMPTS {
            match attempt(&program, login) {
                Ok(running) => return running,
                Err(why) => said = why,
            }
        }
        panic!("mosquitto did not start in {ATTEMPTS} attempts: {said}");
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
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

fn program(name: &str) -> PathBuf {
    programs::find(name, &programs::system()).unwrap_or_else(|| {
        panic!(
            "this test needs {name} and found none on this machine: install it with apt-get \
             install mosquitto or brew install mosquitto"
        )
    })
}

fn attempt(program: &Path, login: Option<(&str, &str)>) -> Result<Mosquitto, String> {
    let dir = tempfile::tempdir().map_err(|error| format!("no temporary directory: {error}"))?;
    let addr = free_port().map_err(|error| format!("no free port: {error}"))?;
    let config = dir.path().join("mosquitto.conf");
    std::fs::write(&config, configuration(addr, dir.path(), login)?)
        .map_err(|error| format!("cannot write {}: {error}", config.display()))?;
    let log = std::fs::File::create(dir.path().join("log")).map_err(|error| error.to_string())?;
    let mut process = Command::new(program)
        .arg("-c")
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .map_err(|error| format!("cannot run {}: {error}", program.display()))?;
    let watchdog = Watchdog::guard("kill -KILL \"$1\"", &[&process.id().to_string()]);
    let watchdog = watchdog.map_err(|error| format!("cannot start /bin/sh: {error}"))?;

    let end = Instant::now() + START_WITHIN;
    let why = loop {
        if let Ok(Some(status)) = process.try_wait() {
            let log = std::fs::read_to_string(dir.path().join("log")).unwrap_or_default();
            break format!("it ended at once ({status}): {}", log.trim());
        }
        if TcpStream::connect(addr).is_ok() {
            return Ok(Mosquitto { addr, process, watchdog, _dir: dir });
        }
        if Instant::now() > end {
            break format!("it did not listen within {START_WITHIN:?}");
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    // Through the handle, so that the process and its watchdog go.
    drop(Mosquitto { addr, process, watchdog, _dir: dir });
    Err(why)
}

fn configuration(
    addr: SocketAddr,
    dir: &Path,
    login: Option<(&str, &str)>,
) -> Result<String, String> {
    let mut text = format!("listener {} {}\npersistence false\n", addr.port(), addr.ip());
    // By default it drops what a slow reader has not taken, in silence.
    text.push_str("max_queued_messages 0\nmax_inflight_messages 1000\n");
    if Uid::effective().is_root() {
        // Else it becomes a user that cannot read the files of this test.
        text.push_str("user root\n");
    }
    match login {
        None => text.push_str("allow_anonymous true\n"),
        Some((user, password)) => {
            let file = dir.join("passwords");
            let made = Command::new(program("mosquitto_passwd"))
                .args(["-b", "-c"])
                .arg(&file)
                .args([user, password])
                .stderr(Stdio::null())
                .status();
            if !made.is_ok_and(|status| status.success()) {
                return Err("mosquitto_passwd failed".to_owned());
            }
            let file = file.display();
            text.push_str(&format!("allow_anonymous false\npassword_file {file}\n"));
        }
    }
    Ok(text)
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
}
