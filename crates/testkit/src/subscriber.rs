//! An MQTT subscriber that keeps what arrives: the witness of what really reached the broker.
//!
//! It is another client than the engine's, on a thread of its own. Invariant: [`Subscriber::all`]
//! returns everything that the broker took before the call, because its own last message comes after
//! that in the broker's order.

use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use rumqttc::{Client, Event, MqttOptions, Packet, Publish, QoS};

const PATIENCE: Duration = Duration::from_secs(30);
/// Enough for every message of a test; a test that has more must read while it runs.
const ROOM: usize = 100_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub topic: String,
    pub payload: Vec<u8>,
}

pub struct Subscriber {
    client: Client,
    end: String,
    messages: Receiver<Message>,
    /// Taken from the channel by [`Subscriber::hears`].
    heard: Mutex<Vec<Message>>,
    thread: Option<JoinHandle<()>>,
}

impl Subscriber {
    /// Returns when the broker has confirmed the subscription. `filter` must not cover `end/#`.
    pub fn start(broker: SocketAddr, filter: &str) -> Self {
        let name = format!("witness-{}", std::process::id());
        let mut options = MqttOptions::new(&name, broker.ip().to_string(), broker.port());
        options.set_keep_alive(Duration::from_secs(60));
        let (client, mut connection) = Client::new(options, 16);
        let (confirmed, ready) = sync_channel(2);
        let (sink, messages) = sync_channel(ROOM);
        let thread = std::thread::Builder::new().name(name.clone()).spawn(move || {
            for event in connection.iter() {
                // An error is the broker's end or our disconnect; what was lost then shows up as a
                // difference of counts.
                let Ok(event) = event else { return };
                if take(event, &confirmed, &sink).is_err() {
                    return;
                }
            }
        });
        let thread = thread.expect("the machine has room for a thread");
        let end = format!("end/{name}");
        for filter in [filter, &end] {
            client.subscribe(filter, QoS::AtLeastOnce).expect("the thread takes requests");
            ready.recv_timeout(PATIENCE).expect("the broker confirms a subscription");
        }
        Self { client, end, messages, heard: Mutex::default(), thread: Some(thread) }
    }

    /// Everything that arrived at the broker until now, and was not returned before.
    pub fn all(&self) -> Vec<Message> {
        let published = self.client.publish(&self.end, QoS::AtLeastOnce, false, "");
        published.expect("the subscriber's connection is up");
        let mut all = std::mem::take(&mut *self.lock());
        loop {
            match self.next() {
                message if message.topic == self.end => return all,
                message => all.push(message),
            }
        }
    }

    /// Returns when at least `n` messages have arrived.
    pub fn hears(&self, n: usize) {
        let mut heard = self.lock();
        while heard.len() < n {
            heard.push(self.next());
        }
    }

    fn next(&self) -> Message {
        match self.messages.recv_timeout(PATIENCE) {
            Ok(message) => message,
            Err(RecvTimeoutError::Timeout) => panic!("the broker was silent for {PATIENCE:?}"),
            Err(RecvTimeoutError::Disconnected) => panic!("the broker cut the subscriber"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Message>> {
        self.heard.lock().expect("a panic of another test thread ends this test too")
    }
}

/// An error means that nobody listens any more.
fn take(event: Event, confirmed: &SyncSender<()>, sink: &SyncSender<Message>) -> Result<(), ()> {
    match event {
        Event::Incoming(Packet::SubAck(_)) => confirmed.send(()).map_err(drop),
        Event::Incoming(Packet::Publish(Publish { topic, payload, .. })) => {
            sink.send(Message { topic, payload: payload.to_vec() }).map_err(drop)
        }
        _ => Ok(()),
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        // Fails when the connection is gone, and then the thread is too.
        let _ = self.client.disconnect();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
