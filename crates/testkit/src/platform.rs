//! A small stand-in for an IoT platform: it reads what devices send to a broker, spoils some of it as
//! it is told, and publishes the rest to its own topics.
//!
//! It counts what it did, so it is the oracle of everything that is said about its output.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use rumqttc::{Client, Event, MqttOptions, Packet, QoS};

const PATIENCE: Duration = Duration::from_secs(30);

/// What becomes of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Pass,
    Lose,
    /// It comes out twice.
    Double,
    /// It comes out after the next one of its device.
    Swap,
    /// It comes out as something that nobody can read.
    Garble,
}

/// What it did so far.
#[derive(Debug, Default)]
struct Counts {
    taken: AtomicU64,
    lost: AtomicU64,
    doubled: AtomicU64,
    swapped: AtomicU64,
    garbled: AtomicU64,
}

pub struct Platform {
    client: Client,
    counts: Arc<Counts>,
    is_ending: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Decides by the number of the message, from 0.
type Decide = Box<dyn Fn(u64) -> Fate + Send>;

/// A message that waits for the next one of its topic.
type Waiting = Arc<Mutex<HashMap<String, Vec<u8>>>>;

impl Platform {
    /// Reads `devices/#`, writes `out/...`; returns when it listens.
    pub fn start(broker: SocketAddr, decide: impl Fn(u64) -> Fate + Send + 'static) -> Self {
        let name = format!("platform-{}-{}", std::process::id(), broker.port());
        let mut options = MqttOptions::new(&name, broker.ip().to_string(), broker.port());
        options.set_keep_alive(Duration::from_secs(60)).set_inflight(1_000);
        let (client, mut connection) = Client::new(options, 100_000);
        let (counts, is_ending) = (Arc::new(Counts::default()), Arc::new(AtomicBool::new(false)));
        let (confirmed, ready) = sync_channel(1);
        let work = Work {
            client: client.clone(),
            counts: Arc::clone(&counts),
            waiting: Waiting::default(),
            decide: Box::new(decide),
            confirmed,
        };
        let ends = Arc::clone(&is_ending);
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            for event in connection.iter() {
                match event {
                    Ok(event) => work.take(event),
                    Err(_) if ends.load(Ordering::SeqCst) => return,
                    Err(error) => panic!("the platform's connection broke: {error}"),
                }
            }
        });
        let thread = Some(thread.expect("the machine has room for a thread"));
        client.subscribe("devices/#", QoS::AtLeastOnce).expect("the thread takes requests");
        let _: () = wait(&ready);
        Self { client, counts, is_ending, thread }
    }

    pub fn taken(&self) -> u64 {
        self.counts.taken.load(Ordering::SeqCst)
    }

    pub fn lost(&self) -> u64 {
        self.counts.lost.load(Ordering::SeqCst)
    }

    pub fn doubled(&self) -> u64 {
        self.counts.doubled.load(Ordering::SeqCst)
    }

    pub fn swapped(&self) -> u64 {
        self.counts.swapped.load(Ordering::SeqCst)
    }

    pub fn garbled(&self) -> u64 {
        self.counts.garbled.load(Ordering::SeqCst)
    }
}

fn wait<T>(ready: &Receiver<T>) -> T {
    ready.recv_timeout(PATIENCE).expect("the broker confirms the platform's subscription")
}

struct Work {
    client: Client,
    counts: Arc<Counts>,
    waiting: Waiting,
    decide: Decide,
    confirmed: SyncSender<()>,
}

impl Work {
    fn take(&self, event: Event) {
        match event {
            Event::Incoming(Packet::SubAck(_)) => {
                let _ = self.confirmed.try_send(());
            }
            Event::Incoming(Packet::Publish(publish)) => {
                self.pass_on(&publish.topic, &publish.payload);
            }
            _ => {}
        }
    }

    fn pass_on(&self, topic: &str, payload: &[u8]) {
        let count = |counter: &AtomicU64| counter.fetch_add(1, Ordering::SeqCst);
        let number = count(&self.counts.taken);
        let held = self.lock().remove(topic);
        match (self.decide)(number) {
            Fate::Pass => self.publish(topic, payload),
            Fate::Lose => drop(count(&self.counts.lost)),
            Fate::Double => {
                count(&self.counts.doubled);
                self.publish(topic, payload);
                self.publish(topic, payload);
            }
            // Two in a row would come out in order after all.
            Fate::Swap if held.is_none() => {
                count(&self.counts.swapped);
                self.lock().insert(topic.to_owned(), payload.to_vec());
            }
            Fate::Swap => self.publish(topic, payload),
            Fate::Garble => {
                count(&self.counts.garbled);
                self.publish(topic, b"\xff\x00{sh1.");
            }
        }
        if let Some(held) = held {
            self.publish(topic, &held);
        }
    }

    fn publish(&self, topic: &str, payload: &[u8]) {
        let published =
            self.client.try_publish(format!("out/{topic}"), QoS::AtLeastOnce, false, payload);
        published.expect("its queue has room for all messages of a test");
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Vec<u8>>> {
        self.waiting.lock().expect("a panic of another test thread ends this test too")
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        self.is_ending.store(true, Ordering::SeqCst);
        // Fails when the connection is gone, and then the thread is too.
        let _ = self.client.disconnect();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
