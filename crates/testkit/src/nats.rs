//! A NATS server with JetStream for one test, and a publisher that is not the product's.
//!
//! Panics when `nats-server` is missing (`.ci/test` installs it): its tests must not pass without.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::authority::Authority;
use crate::daemon::Daemon;
use crate::programs;

/// The stream that it keeps, and the subjects in it.
pub const STREAM: &str = "OUT";
pub const SUBJECTS: &str = "out.>";
pub const LOGIN: (&str, &str) = ("reader", "s3cret");

const START_WITHIN: Duration = Duration::from_secs(30);
/// Somebody else may take the free port between our look and the server's bind.
const ATTEMPTS: usize = 5;

pub struct Nats {
    addr: SocketAddr,
    ca_pem: String,
    // In the order in which they end.
    _server: Daemon,
    _dir: TempDir,
}

impl Nats {
    /// With JetStream and its stream; whoever connects must log in, and may use TLS.
    pub fn start() -> Self {
        let nats = Self::launch("jetstream { store_dir: \"@/data\" }");
        nats.client().ask(
            &format!("$JS.API.STREAM.CREATE.{STREAM}"),
            &json!({
                "name": STREAM, "subjects": [SUBJECTS], "storage": "memory", "retention": "limits",
                "discard": "old", "num_replicas": 1, "max_msgs": -1, "max_bytes": -1, "max_age": 0,
            }),
        );
        nats
    }

    pub fn without_jetstream() -> Self {
        Self::launch("")
    }

    fn launch(more: &str) -> Self {
        let Some(program) = programs::find("nats-server", &programs::system()) else {
            panic!("this test needs nats-server: run `bash .ci/test`, or install it from Debian")
        };
        for _ in 0..ATTEMPTS {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let free = TcpListener::bind(("127.0.0.1", 0)).and_then(|free| free.local_addr());
            let addr = free.expect("a free port");
            let authority = Authority::new();
            let own = authority.sign(&["localhost"]);
            let at = |name: &str| dir.path().join(name).display().to_string();
            let write = |name: &str, text: &str| {
                std::fs::write(dir.path().join(name), text).expect("a temporary file");
            };
            write("own.pem", &own.cert_pem);
            write("own.key", &own.key_pem);
            let (user, password) = LOGIN;
            write(
                "server.conf",
                &format!(
                    "listen: \"{addr}\"\n\
                     authorization {{ user: {user}, password: {password} }}\n\
                     tls {{ cert_file: \"{}\", key_file: \"{}\" }}\n\
                     allow_non_tls: true\n{}\n",
                    at("own.pem"),
                    at("own.key"),
                    more.replace('@', &dir.path().display().to_string()),
                ),
            );
            let mut command = Command::new(&program);
            command.arg("-c").arg(at("server.conf"));
            let server = Daemon::start(command, dir.path().join("log"));
            let end = Instant::now() + START_WITHIN;
            while Instant::now() < end {
                if Client::try_connect(addr).is_some() {
                    let ca_pem = authority.cert_pem().to_owned();
                    return Self { addr, ca_pem, _server: server, _dir: dir };
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        panic!("nats-server did not start in {ATTEMPTS} attempts");
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Of the authority that signed its certificate, which is for localhost.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    pub fn client(&self) -> Client {
        Client::try_connect(self.addr).expect("the server takes connections")
    }
}

pub struct Client {
    read: BufReader<TcpStream>,
    write: TcpStream,
}

impl Client {
    fn try_connect(addr: SocketAddr) -> Option<Self> {
        let write = TcpStream::connect(addr).ok()?;
        write.set_read_timeout(Some(START_WITHIN)).ok()?;
        let mut client = Self { read: BufReader::new(write.try_clone().ok()?), write };
        client.line().starts_with("INFO").then_some(())?;
        let (user, pass) = LOGIN;
        let connect = json!({ "verbose": false, "user": user, "pass": pass });
        client.say(format!("CONNECT {connect}\r\nSUB _INBOX.test 1\r\nPING\r\n").as_bytes());
        while !client.line().starts_with("PONG") {}
        Some(client)
    }

    fn say(&mut self, bytes: &[u8]) {
        self.write.write_all(bytes).expect("the server takes bytes");
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        let n = self.read.read_line(&mut line).expect("the server says something");
        assert!(n > 0, "the server closed the connection");
        line
    }

    /// What JetStream answers; panics where it refuses.
    pub fn ask(&mut self, subject: &str, question: &Value) -> Value {
        let text = question.to_string();
        let n = text.len();
        self.say(format!("PUB {subject} _INBOX.test {n}\r\n{text}\r\n").as_bytes());
        loop {
            let line = self.line();
            if line.starts_with("PING") {
                self.say(b"PONG\r\n");
            } else if line.starts_with("MSG") {
                let n: usize =
                    line.split_whitespace().last().and_then(|n| n.parse().ok()).unwrap_or(0);
                let mut body = vec![0; n + 2];
                self.read.read_exact(&mut body).expect("the whole answer");
                let answer: Value = serde_json::from_slice(&body[..n]).expect("an answer in JSON");
                assert!(answer["error"].is_null(), "{subject}: {answer}");
                return answer;
            }
        }
    }

    /// Into the stream, in this order.
    pub fn publish(&mut self, subject: &str, values: &[Vec<u8>]) {
        let mut bytes = Vec::new();
        for value in values {
            bytes.extend_from_slice(format!("PUB {subject} {}\r\n", value.len()).as_bytes());
            bytes.extend_from_slice(value);
            bytes.extend_from_slice(b"\r\n");
        }
        self.say(&bytes);
    }

    /// How many messages the stream has taken.
    pub fn last(&mut self) -> u64 {
        let info = self.ask(&format!("$JS.API.STREAM.INFO.{STREAM}"), &json!({}));
        info["state"]["last_seq"].as_u64().expect("a number")
    }

    /// Retention: what is below is gone.
    pub fn delete_below(&mut self, number: u64) {
        self.ask(&format!("$JS.API.STREAM.PURGE.{STREAM}"), &json!({ "seq": number }));
    }
}
