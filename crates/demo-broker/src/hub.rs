//! What all connections share: who is connected, who subscribed to what, what is retained.
//!
//! Locks are held for a walk or a push, never over an await: a subscriber gets messages through its
//! bounded queue, and a full queue drops the message and counts it, so one slow reader cannot stop
//! the others. Invariant: a client id belongs to at most one connection.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use bytes::Bytes;
use rumqttc::mqttbytes::QoS;
use shoal_service_kit::{Clock, SystemClock};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::script::{self, Record, Recorded, Settings, Tally, add};
use crate::topics::{self, Topics};

/// Messages waiting for one subscriber. Room for a burst of a large fleet at one observer; memory is
/// only used by what waits. Full: the message is dropped for this subscriber and counted.
const QUEUE: usize = 16_384;

/// More retained topics than any demo needs. Full: new topics are not retained.
const RETAINED_LIMIT: usize = 100_000;

pub(crate) struct Hub {
    pub(crate) settings: watch::Sender<Settings>,
    pub(crate) tally: Tally,
    pub(crate) record: Record,
    numbers: AtomicU64,
    /// Guards who is connected; taken at connect and close.
    clients: Mutex<Clients>,
    /// Guards subscriptions; read per publish, written per (un)subscribe and close.
    subscriptions: RwLock<Topics<Subscription>>,
    /// Guards retained messages; taken per retained publish and per subscribe.
    retained: Mutex<HashMap<String, Message>>,
}

#[derive(Default)]
struct Clients {
    kicks: HashMap<u64, CancellationToken>,
    by_id: HashMap<String, u64>,
}

struct Subscription {
    qos: QoS,
    queue: mpsc::Sender<Delivery>,
}

/// A message as it goes around inside the broker.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) topic: Arc<str>,
    pub(crate) payload: Bytes,
    pub(crate) qos: QoS,
}

/// A message for one subscriber.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) message: Message,
    pub(crate) qos: QoS,
    pub(crate) retained: bool,
}

/// What a new connection gets.
pub(crate) struct Seat {
    pub(crate) number: u64,
    pub(crate) kick: CancellationToken,
    pub(crate) to_me: mpsc::Sender<Delivery>,
    pub(crate) inbox: mpsc::Receiver<Delivery>,
}

impl Hub {
    pub(crate) fn new() -> Self {
        Self {
            settings: script::settings(),
            tally: Tally::default(),
            record: Record::default(),
            numbers: AtomicU64::new(0),
            clients: Mutex::default(),
            subscriptions: RwLock::default(),
            retained: Mutex::default(),
        }
    }

    pub(crate) fn arrive(&self) -> Seat {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let kick = CancellationToken::new();
        let (to_me, inbox) = mpsc::channel(QUEUE);
        self.clients().kicks.insert(number, kick.clone());
        Seat { number, kick, to_me, inbox }
    }

    /// Gives the client id to this connection; whoever had it is closed.
    pub(crate) fn claim(&self, client: &str, number: u64) {
        let mut clients = self.clients();
        let before = clients.by_id.insert(client.to_owned(), number);
        if let Some(kick) = before.and_then(|before| clients.kicks.get(&before)) {
            kick.cancel();
        }
        drop(clients);
        add(&self.tally.connects_accepted, 1);
        add(&self.tally.connected, 1);
    }

    /// Forgets a connection. `client` is given when it had claimed one.
    pub(crate) fn leave(&self, number: u64, client: Option<&str>, filters: &[String]) {
        if !filters.is_empty() {
            let mut subscriptions =
                self.subscriptions.write().unwrap_or_else(PoisonError::into_inner);
            for filter in filters {
                subscriptions.remove(filter, number);
            }
        }
        let mut clients = self.clients();
        clients.kicks.remove(&number);
        if let Some(client) = client {
            // A successor may own the id already.
            if clients.by_id.get(client) == Some(&number) {
                clients.by_id.remove(client);
            }
            self.tally.connected.fetch_sub(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn kick_all(&self) {
        for kick in self.clients().kicks.values() {
            kick.cancel();
        }
    }

    pub(crate) fn subscribe(
        &self,
        number: u64,
        filter: &str,
        qos: QoS,
        queue: &mpsc::Sender<Delivery>,
    ) {
        let subscription = Subscription { qos, queue: queue.clone() };
        let mut subscriptions = self.subscriptions.write().unwrap_or_else(PoisonError::into_inner);
        subscriptions.insert(filter, number, subscription);
        drop(subscriptions);
        let retained = self.retained.lock().unwrap_or_else(PoisonError::into_inner);
        for message in retained.values().filter(|message| topics::matches(filter, &message.topic)) {
            self.enqueue(queue, message.clone(), qos, true);
        }
    }

    pub(crate) fn unsubscribe(&self, number: u64, filter: &str) {
        let mut subscriptions = self.subscriptions.write().unwrap_or_else(PoisonError::into_inner);
        subscriptions.remove(filter, number);
    }

    /// Counts and records a PUBLISH as it came in.
    pub(crate) fn note(&self, client: &str, message: &Message) {
        add(&self.tally.publishes_seen, 1);
        add(&self.tally.payload_bytes_seen, message.payload.len() as u64);
        let kept = self.record.keep(|| Recorded {
            client: client.to_owned(),
            topic: message.topic.to_string(),
            payload: message.payload.clone(),
            qos: message.qos as u8,
            arrived_us: SystemClock.unix_us(),
        });
        if !kept {
            add(&self.tally.unrecorded, 1);
        }
    }

    /// Hands a message to everyone subscribed: once each, at the best QoS of overlapping filters.
    pub(crate) fn publish(&self, message: &Message, retain: bool) {
        if retain {
            self.retain(message);
        }
        let mut matched: Vec<(u64, QoS, mpsc::Sender<Delivery>)> = Vec::new();
        let subscriptions = self.subscriptions.read().unwrap_or_else(PoisonError::into_inner);
        subscriptions.visit(&message.topic, |owner, subscription| {
            match matched.iter_mut().find(|(other, ..)| *other == owner) {
                Some((_, best, _)) if (*best as u8) < subscription.qos as u8 => {
                    *best = subscription.qos;
                }
                Some(_) => {}
                None => matched.push((owner, subscription.qos, subscription.queue.clone())),
            }
        });
        // Still under the lock: messages of one publisher reach a subscriber in order anyway, but a
        // subscriber that has unsubscribed must not get one afterwards.
        for (_, qos, queue) in matched {
            self.enqueue(&queue, message.clone(), qos, false);
        }
    }

    fn enqueue(&self, queue: &mpsc::Sender<Delivery>, message: Message, qos: QoS, retained: bool) {
        let qos = if (message.qos as u8) < qos as u8 { message.qos } else { qos };
        match queue.try_send(Delivery { message, qos, retained }) {
            Ok(()) => add(&self.tally.delivered, 1),
            Err(_) => add(&self.tally.dropped, 1),
        }
    }

    fn retain(&self, message: &Message) {
        let mut retained = self.retained.lock().unwrap_or_else(PoisonError::into_inner);
        if message.payload.is_empty() {
            retained.remove(&*message.topic);
        } else if retained.len() < RETAINED_LIMIT || retained.contains_key(&*message.topic) {
            // Copied, so that a retained byte does not keep the whole read buffer it came in.
            let payload = Bytes::copy_from_slice(&message.payload);
            retained.insert(message.topic.to_string(), Message { payload, ..message.clone() });
        } else {
            tracing::debug!(topic = %message.topic, "not retained: too many retained topics");
        }
    }

    fn clients(&self) -> std::sync::MutexGuard<'_, Clients> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
