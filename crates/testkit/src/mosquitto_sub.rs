//! mosquitto's own subscriber: a witness that shares no line of code with us.
//!
//! Invariant: [`MosquittoSub::all`] returns everything that the broker took
//! before the call, because a last message of ours comes after that in the broker's order.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::mosquitto::program;
use crate::watchdog::Watchdog;

const PATIENCE: Duration = Duration::from_secs(30);

/// One message as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    pub topic: String,
    pub qos: u64,
    pub retain: bool,
    pub payload: String,
    pub content_type: Option<String>,
    /// In whole seconds, what is left of it.
    pub expiry_s: Option<u64>,
    pub user: BTreeMap<String, String>,
}

pub struct MosquittoSub {
    broker: SocketAddr,
    end: String,
    process: Child,
    watchdog: Watchdog,
    lines: Receiver<Heard>,
    /// Retained messages that came with the subscription.
    before: Mutex<Vec<Heard>>,
}

impl MosquittoSub {
    /// It sees what messages say beside their payload. Returns when it is subscribed, with QoS 2;
    /// `filter` must not cover `end/#`.
    pub fn start(broker: SocketAddr, filter: &str) -> Self {
        Self::launch(broker, filter, &["-V", "mqttv5"])
    }

    /// Its session goes on when the broker comes back. It speaks MQTT 3.1.1: with 5 it ends when the
    /// broker says goodbye.
    pub fn lasting(broker: SocketAddr, filter: &str) -> Self {
        Self::launch(broker, filter, &["-V", "mqttv311", "-c"])
    }

    fn launch(broker: SocketAddr, filter: &str, how: &[&str]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("mosquitto-sub-{}-{number}", std::process::id());
        let end = format!("end/{name}");
        // It comes as soon as the filters are known: the broker takes them in their order.
        publish(broker, &format!("{end}/begin"), true);
        let mut process = Command::new(program("mosquitto_sub"))
            .args(how)
            .args(["-q", "2", "-F", "%j", "-i", &name])
            .args(["-h", &broker.ip().to_string(), "-p", &broker.port().to_string()])
            .args(["-t", filter, "-t", &format!("{end}/+")])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("mosquitto_sub runs");
        let watchdog = Watchdog::guard("kill -KILL \"$1\"", &[&process.id().to_string()]);
        let watchdog = watchdog.expect("/bin/sh runs");
        let output = process.stdout.take().expect("its output is a pipe");
        let (sink, lines) = channel();
        let read = move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                // Nobody listens any more where this fails.
                if sink.send(heard(&line)).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new().name(name).spawn(read).expect("a thread starts");
        let this = Self { broker, end, process, watchdog, lines, before: Mutex::default() };
        let before = this.until("begin");
        *this.lock() = before;
        this
    }

    /// Everything that arrived at the broker until now, and was not returned before.
    pub fn all(&self) -> Vec<Heard> {
        publish(self.broker, &format!("{}/now", self.end), false);
        let mut all = std::mem::take(&mut *self.lock());
        all.extend(self.until("now"));
        all
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Heard>> {
        self.before.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn until(&self, word: &str) -> Vec<Heard> {
        let mut all = Vec::new();
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(heard) => match heard.topic.strip_prefix(&self.end) {
                    None => all.push(heard),
                    Some(found) if found.trim_start_matches('/') == word => return all,
                    // What it was told to begin with comes again with each subscription.
                    Some(_) => {}
                },
                Err(RecvTimeoutError::Timeout) => panic!("the broker was silent for {PATIENCE:?}"),
                Err(RecvTimeoutError::Disconnected) => panic!("mosquitto_sub has ended"),
            }
        }
    }
}

impl Drop for MosquittoSub {
    fn drop(&mut self) {
        self.watchdog.release();
        // Both fail only when it is gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// With QoS 1, so that it is there when this returns; a broker that just comes is waited for.
fn publish(broker: SocketAddr, topic: &str, retain: bool) {
    let end = Instant::now() + PATIENCE;
    loop {
        let mut command = Command::new(program("mosquitto_pub"));
        command.args(["-V", "mqttv5", "-q", "1", "-t", topic, "-m", "x"]);
        command.args(["-h", &broker.ip().to_string(), "-p", &broker.port().to_string()]);
        if retain {
            command.arg("-r");
        }
        let done = command.stdin(Stdio::null()).stderr(Stdio::null()).status();
        if done.expect("mosquitto_pub runs").success() {
            return;
        }
        assert!(Instant::now() < end, "the broker took no message within {PATIENCE:?}");
    }
}

fn heard(line: &str) -> Heard {
    let value: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"));
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let properties = &value["properties"];
    let user = properties["user-properties"].as_object().into_iter().flatten();
    Heard {
        topic: text(&value["topic"]).unwrap_or_default(),
        qos: value["qos"].as_u64().unwrap_or_default(),
        retain: value["retain"] == 1,
        payload: text(&value["payload"]).unwrap_or_default(),
        content_type: text(&properties["content-type"]),
        expiry_s: properties["message-expiry-interval"].as_u64(),
        user: user.filter_map(|(name, value)| Some((name.clone(), text(value)?))).collect(),
    }
}
