//! How a test tells the broker to misbehave, and what the broker counted.
//!
//! One cheap handle; every verb takes effect at once for all connections, present and future. The
//! counters are the oracle of end-to-end tests. Invariant: misbehaviour never changes a count of what
//! arrived, only of what was answered.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use crate::hub::Hub;

/// The verbs of misbehaviour. Clones control the same broker.
#[derive(Clone)]
pub struct Script {
    hub: Arc<Hub>,
}

/// Of client id, name and password.
type Judge = Arc<dyn Fn(&str, &str, &str) -> bool + Send + Sync>;
type Predicate = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// What connections look at before they answer.
#[derive(Clone, Default)]
pub(crate) struct Settings {
    pub(crate) stalled: bool,
    pub(crate) lose_acks: bool,
    pub(crate) delay_acks: Duration,
    login: Option<Judge>,
    refuse: Option<(u8, Predicate)>,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("stalled", &self.stalled).finish_non_exhaustive()
    }
}

/// CONNACK 4 of the standard.
const BAD_LOGIN: u8 = 4;

impl Settings {
    /// The CONNACK code for a client that must not come in.
    pub(crate) fn refusal(&self, client: &str, login: Option<(&str, &str)>) -> Option<u8> {
        if let Some((code, refused)) = &self.refuse
            && refused(client)
        {
            return Some(*code);
        }
        match (&self.login, login) {
            (None, _) => None,
            (Some(is_good), Some((user, password))) if is_good(client, user, password) => None,
            (Some(_), _) => Some(BAD_LOGIN),
        }
    }
}

/// One PUBLISH as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    pub client: String,
    pub topic: String,
    pub payload: Bytes,
    pub qos: u8,
    /// Wall time of arrival, microseconds since 1970.
    pub arrived_us: u64,
}

/// What was counted since the broker started. `publishes` counts every PUBLISH that arrived once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    pub connects_seen: u64,
    pub connects_accepted: u64,
    pub connects_refused: u64,
    /// Clients connected now.
    pub connected: u64,
    /// DISCONNECTs of clients.
    pub goodbyes: u64,
    pub publishes_seen: u64,
    pub payload_bytes_seen: u64,
    /// PUBACK and PUBREC that were written.
    pub acks_sent: u64,
    pub acks_lost: u64,
    pub delivered: u64,
    /// Not delivered because the subscriber's queue was full.
    pub dropped: u64,
    /// Not kept because the record was full.
    pub unrecorded: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) connects_seen: AtomicU64,
    pub(crate) connects_accepted: AtomicU64,
    pub(crate) connects_refused: AtomicU64,
    pub(crate) connected: AtomicU64,
    pub(crate) goodbyes: AtomicU64,
    pub(crate) publishes_seen: AtomicU64,
    pub(crate) payload_bytes_seen: AtomicU64,
    pub(crate) acks_sent: AtomicU64,
    pub(crate) acks_lost: AtomicU64,
    pub(crate) delivered: AtomicU64,
    pub(crate) dropped: AtomicU64,
    pub(crate) unrecorded: AtomicU64,
}

pub(crate) fn add(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

/// Bounds a forgotten `record(true)` to some hundred megabytes; beyond it messages are only counted.
const RECORD_LIMIT: usize = 1_000_000;

/// `None` while recording is off.
#[derive(Debug, Default)]
pub(crate) struct Record(Mutex<Option<Vec<Recorded>>>);

impl Record {
    /// Builds the entry only while recording is on; false when there was no room for it.
    pub(crate) fn keep(&self, entry: impl FnOnce() -> Recorded) -> bool {
        let mut record = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match record.as_mut() {
            None => true,
            Some(entries) if entries.len() < RECORD_LIMIT => {
                entries.push(entry());
                true
            }
            Some(_) => false,
        }
    }
}

impl Script {
    pub(crate) fn new(hub: Arc<Hub>) -> Self {
        Self { hub }
    }

    fn set(&self, change: impl FnOnce(&mut Settings)) {
        self.hub.settings.send_modify(change);
    }

    /// While true, bytes and connections are accepted but nothing is answered; afterwards everything
    /// that came in is answered at once, like a process that was stopped and goes on.
    pub fn stall(&self, stalled: bool) {
        self.set(|settings| settings.stalled = stalled);
    }

    /// Every CONNECT is answered with this code; `None` accepts again.
    pub fn refuse_connects(&self, code: Option<u8>) {
        self.set(|settings| {
            settings.refuse = code.map(|code| (code, Arc::new(|_: &str| true) as _))
        });
    }

    /// CONNECTs of client ids for which `refused` holds are answered with `code`.
    pub fn refuse_where(&self, code: u8, refused: impl Fn(&str) -> bool + Send + Sync + 'static) {
        self.set(|settings| settings.refuse = Some((code, Arc::new(refused))));
    }

    /// Refuses every `n`-th device: the client ids whose number at the end is divisible by `n`.
    pub fn refuse_every(&self, n: u64, code: u8) {
        self.refuse_where(code, move |client| {
            number_at_end(client).is_some_and(|number| number.is_multiple_of(n))
        });
    }

    /// Asks every client for this name and password (CONNACK 4 otherwise); `None` asks nobody.
    pub fn require_login(&self, login: Option<(&str, &str)>) {
        let Some((user, password)) = login else {
            return self.set(|settings| settings.login = None);
        };
        let (user, password) = (user.to_owned(), password.to_owned());
        self.judge_logins(move |_, given_user, given_password| {
            (given_user, given_password) == (user.as_str(), password.as_str())
        });
    }

    /// Lets those in for whom `is_good(client id, name, password)` holds (CONNACK 4 otherwise).
    pub fn judge_logins(&self, is_good: impl Fn(&str, &str, &str) -> bool + Send + Sync + 'static) {
        self.set(|settings| settings.login = Some(Arc::new(is_good)));
    }

    /// While true, messages are taken and delivered but PUBACK and PUBREC are not sent.
    pub fn lose_acks(&self, lose: bool) {
        self.set(|settings| settings.lose_acks = lose);
    }

    /// PUBACK and PUBREC are sent this much later. Order and throughput stay the same.
    pub fn delay_acks(&self, delay: Duration) {
        self.set(|settings| settings.delay_acks = delay);
    }

    /// Closes every connection without a word; wills are published.
    pub fn drop_all_connections(&self) {
        self.hub.kick_all();
    }

    /// Keeps each PUBLISH from now on, or forgets them.
    pub fn record(&self, on: bool) {
        *self.hub.record.0.lock().unwrap_or_else(PoisonError::into_inner) = on.then(Vec::new);
    }

    /// What was recorded so far, in order of arrival.
    pub fn recorded(&self) -> Vec<Recorded> {
        let record = self.hub.record.0.lock().unwrap_or_else(PoisonError::into_inner);
        record.clone().unwrap_or_default()
    }

    /// PUBLISHes that arrived, re-sends included.
    pub fn publishes_seen(&self) -> u64 {
        self.counters().publishes_seen
    }

    /// CONNECTs that arrived, refused ones included.
    pub fn connects_seen(&self) -> u64 {
        self.counters().connects_seen
    }

    pub fn counters(&self) -> Counters {
        let tally = &self.hub.tally;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            connects_seen: read(&tally.connects_seen),
            connects_accepted: read(&tally.connects_accepted),
            connects_refused: read(&tally.connects_refused),
            connected: read(&tally.connected),
            goodbyes: read(&tally.goodbyes),
            publishes_seen: read(&tally.publishes_seen),
            payload_bytes_seen: read(&tally.payload_bytes_seen),
            acks_sent: read(&tally.acks_sent),
            acks_lost: read(&tally.acks_lost),
            delivered: read(&tally.delivered),
            dropped: read(&tally.dropped),
            unrecorded: read(&tally.unrecorded),
        }
    }
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Script").field("counters", &self.counters()).finish()
    }
}

pub(crate) fn settings() -> watch::Sender<Settings> {
    watch::Sender::new(Settings::default())
}

fn number_at_end(client: &str) -> Option<u64> {
    let digits = client.len() - client.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    client[client.len() - digits..].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_a_device_is_what_its_id_ends_with() {
        assert_eq!(number_at_end("meters-17"), Some(17));
        assert_eq!(number_at_end("ü7"), Some(7));
        assert_eq!(number_at_end("meters"), None);
        assert_eq!(number_at_end("9".repeat(40).as_str()), None);
    }
}
