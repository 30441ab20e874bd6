//! A small stand-in for an IoT platform: it reads what devices send to a broker, spoils some of it as
//! it is told, and publishes the rest to its own topics or writes it to Kafka.
//!
//! It counts what it did, so it is the oracle of everything that is said about its output.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rumqttc::{Client, Event, MqttOptions, Packet, QoS};
use shoal_domain::stamp::PROBE;

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

impl Fate {
    /// Of a thousand messages 10 are lost, 5 doubled, 2 swapped and 1 is garbled.
    pub fn in_a_thousand(number: u64) -> Self {
        match number % 1_000 {
            n if n % 100 == 50 => Self::Lose,
            n if n % 200 == 120 => Self::Double,
            n if n % 500 == 333 => Self::Swap,
            777 => Self::Garble,
            _ => Self::Pass,
        }
    }
}

/// What it did so far.
#[derive(Debug, Default)]
struct Counts {
    probes: AtomicU64,
    taken: AtomicU64,
    lost: AtomicU64,
    doubled: AtomicU64,
    swapped: AtomicU64,
    garbled: AtomicU64,
}

/// Takes values for a partition of a topic.
pub type Write = Box<dyn FnMut(i32, &[Vec<u8>]) + Send>;

/// Where events go when they are no MQTT messages.
pub struct Partitioned {
    pub n_partitions: i32,
    /// From taking an event to writing it.
    pub delay: Duration,
    pub write: Write,
}

/// Where it writes.
enum Output {
    /// `out/...` on the same broker.
    Mqtt,
    /// By device, in order.
    Partitions(i32, Sender<(Instant, i32, Vec<u8>)>),
}

pub struct Platform {
    client: Client,
    counts: Arc<Counts>,
    is_ending: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    writer: Option<JoinHandle<()>>,
}

/// What `Decide` is asked for a readiness probe.
pub const PROBED: u64 = u64::MAX;

/// Decides by the number of the message, from 0.
type Decide = Box<dyn Fn(u64) -> Fate + Send>;

/// A message that waits for the next one of its topic.
type Waiting = Arc<Mutex<HashMap<String, Vec<u8>>>>;

impl Platform {
    /// Reads `devices/#`, writes `out/...`; returns when it listens.
    pub fn start(broker: SocketAddr, decide: impl Fn(u64) -> Fate + Send + 'static) -> Self {
        Self::launch(broker, Box::new(decide), Output::Mqtt)
    }

    /// Reads `devices/#` and writes each device's events to one partition.
    pub fn partitioned(
        broker: SocketAddr,
        to: Partitioned,
        decide: impl Fn(u64) -> Fate + Send + 'static,
    ) -> Self {
        let (events, waiting) = channel();
        let output = Output::Partitions(to.n_partitions, events);
        let mut platform = Self::launch(broker, Box::new(decide), output);
        let Partitioned { delay, write, .. } = to;
        platform.writer = Some(std::thread::spawn(move || write_all(waiting, delay, write)));
        platform
    }

    fn launch(broker: SocketAddr, decide: Decide, output: Output) -> Self {
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
            decide,
            output,
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
        Self { client, counts, is_ending, thread, writer: None }
    }

    pub fn taken(&self) -> u64 {
        self.counts.taken.load(Ordering::SeqCst)
    }

    /// Readiness probes, which it counts nowhere else.
    pub fn probes(&self) -> u64 {
        self.counts.probes.load(Ordering::SeqCst)
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

/// By its number, in a stamp or in a field of its own.
pub fn is_probe(payload: &[u8]) -> bool {
    let number = PROBE.to_string();
    payload.windows(number.len()).any(|part| part == number.as_bytes())
}

fn wait<T>(ready: &Receiver<T>) -> T {
    ready.recv_timeout(PATIENCE).expect("the broker confirms the platform's subscription")
}

/// Writes each event when it is due, together with those that are due too.
fn write_all(waiting: Receiver<(Instant, i32, Vec<u8>)>, delay: Duration, mut write: Write) {
    let mut next = waiting.recv().ok();
    while let Some((taken, partition, event)) = next {
        std::thread::sleep((taken + delay).saturating_duration_since(Instant::now()));
        let mut due: HashMap<i32, Vec<Vec<u8>>> = HashMap::from([(partition, vec![event])]);
        next = None;
        while let Ok((taken, partition, event)) = waiting.try_recv() {
            if taken + delay > Instant::now() {
                next = Some((taken, partition, event));
                break;
            }
            due.entry(partition).or_default().push(event);
        }
        for (partition, events) in due {
            write(partition, &events);
        }
        next = next.or_else(|| waiting.recv().ok());
    }
}

struct Work {
    output: Output,
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
        if is_probe(payload) {
            count(&self.counts.probes);
            return match (self.decide)(PROBED) {
                Fate::Lose => {}
                Fate::Double => (0..2).for_each(|_| self.publish(topic, payload)),
                _ => self.publish(topic, payload),
            };
        }
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
        if let Output::Partitions(n_partitions, events) = &self.output {
            let mark = topic
                .bytes()
                .fold(0_u32, |mark, byte| mark.wrapping_mul(31).wrapping_add(u32::from(byte)));
            let partition = (mark % n_partitions.unsigned_abs()) as i32;
            // Its writer is gone only when the test has failed.
            let _ = events.send((Instant::now(), partition, payload.to_vec()));
            return;
        }
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
        for thread in [self.thread.take(), self.writer.take()].into_iter().flatten() {
            let _ = thread.join();
        }
    }
}
