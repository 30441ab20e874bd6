//! A reader of the partitions of an event hub that are its share, over AMQP.
//!
//! It trusts neither a link to report its end nor the service to send what it has: it remembers the
//! number of the next event of each partition, asks every few seconds how far the service is, and
//! where a link falls silent while events wait, all is connected anew from these numbers. A number that
//! is left out is an event that went by unseen, never a loss. Invariant: an event is handed on once, and
//! the position that goes with it right behind. [`EventHubsReader::read`] may be dropped at any await.

mod event;
mod hub;
mod rpc;
mod watched;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fe2o3_amqp::Receiver;
use fe2o3_amqp::link::RecvError;
use fe2o3_amqp::types::messaging::Body;
use fe2o3_amqp::types::primitives::Value;
use shoal_domain::eventhubs::ConnectionString;
use shoal_domain::observed::reads;
use shoal_service_kit::TargetGuard;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use self::event::Arrived;
use self::hub::{Extent, Hub};
use self::rpc::recv_failed;
use super::{Enqueued, Event, Headers, Heard};

const OPEN_WITHIN: Duration = Duration::from_secs(30);
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// For what was said before a connection ended.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// How often the service is asked which partitions there are, and how far they go.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// Events wait and none comes.
const SILENT: Duration = Duration::from_secs(8);
/// Stamps are whole milliseconds.
const US_PER_MS: u64 = 1_000;
/// Between the links and the reader; a full one holds up the links, whose credit then ends.
const MAX_WAITING: usize = 1_024;

pub(super) struct Source {
    pub(super) connection: ConnectionString,
    /// Host and port.
    pub(super) dialled: (String, u16),
    pub(super) hub: String,
    pub(super) consumer_group: String,
    pub(super) token_life_us: u64,
    pub(super) tls: Option<TlsConnector>,
    pub(super) guard: TargetGuard,
    pub(super) share: u32,
    pub(super) n_shares: u32,
}

pub(super) struct EventHubsReader {
    source: Arc<Source>,
    places: BTreeMap<u32, Place>,
    /// The first opening reads what comes from now on; a later one, or one that goes on for somebody
    /// else, everything of partitions that it does not know.
    is_first: bool,
    /// Of the connection that is open.
    tasks: JoinSet<String>,
    told: mpsc::Receiver<Told>,
    /// Sentences about events that are gone.
    missed: Vec<String>,
}

/// Where it stands in a partition.
#[derive(Debug, Clone, Copy)]
struct Place {
    next: u64,
    /// The service's newest word on where the next event will be.
    end: u64,
    /// What is below had waited when reading began.
    backlog_end: u64,
    /// Since when events wait and none comes.
    behind_since: Option<Instant>,
}

/// What the tasks of a connection say while it is there; how it ended is what they return.
enum Told {
    Event(u32, Arrived),
    Unreadable(u32),
    Looked(BTreeMap<u32, Extent>),
}

impl EventHubsReader {
    /// `starts`: where an earlier reader of the share had come to.
    pub(super) fn new(source: Source, starts: &[(u32, u64)], is_resumed: bool) -> Self {
        let place = |next| Place { next, end: next, backlog_end: next, behind_since: None };
        Self {
            source: Arc::new(source),
            places: starts.iter().map(|(partition, next)| (*partition, place(*next))).collect(),
            is_first: !is_resumed,
            tasks: JoinSet::new(),
            told: mpsc::channel(1).1,
            missed: Vec::new(),
        }
    }

    /// By partition: the next event to be read.
    pub(super) fn positions(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        self.places.iter().map(|(partition, place)| (*partition, place.next))
    }

    /// Events that are there and were not read.
    pub(super) fn n_unread(&self) -> u64 {
        self.places.values().map(|place| place.end.saturating_sub(place.next)).sum()
    }

    /// Connects, and finds its place in each partition of the share.
    pub(super) async fn open(&mut self) -> Result<(), String> {
        let ended = CancellationToken::new();
        let gone = gone_away(ended.clone());
        let greet = timeout(OPEN_WITHIN, self.greet(ended));
        tokio::select! {
            opened = greet => match opened {
                Ok(opened) => opened,
                Err(_) => Err(format!("the service did not answer within {OPEN_WITHIN:?}")),
            },
            why = gone => Err(why),
        }
    }

    async fn greet(&mut self, ended: CancellationToken) -> Result<(), String> {
        // Ends what is left of an earlier connection.
        self.tasks = JoinSet::new();
        let mut hub = Hub::open(&self.source, ended.clone()).await?;
        let (tell, told) = mpsc::channel(MAX_WAITING);
        let mut links = Vec::new();
        for partition in mine(&self.source, hub.partitions().await?) {
            let extent = hub.extent(partition).await?;
            let next = self.find_place(partition, extent);
            links.push((partition, hub.read_from(partition, next).await?));
        }
        for (partition, link) in links {
            self.tasks.spawn(follow(partition, link, tell.clone()));
        }
        // A link may be refused after it was taken; by the next answer that has been said.
        hub.partitions().await?;
        tokio::task::yield_now().await;
        if let Some(ended) = self.tasks.try_join_next() {
            return Err(sentence(ended));
        }
        self.tasks.spawn(keep(hub, Arc::clone(&self.source), tell));
        self.tasks.spawn(gone_away(ended));
        self.told = told;
        self.is_first = false;
        Ok(())
    }

    fn find_place(&mut self, partition: u32, extent: Extent) -> u64 {
        let Extent { begin, end } = extent;
        let next = match self.places.get(&partition).map(|place| place.next) {
            None if self.is_first => end,
            None => begin,
            Some(next) if next < begin => {
                self.missed.push(gone(partition, begin - next));
                begin
            }
            // What the service says of its end may be older than what it has sent.
            Some(next) => next,
        };
        let end = end.max(next);
        self.places.insert(partition, Place { next, end, backlog_end: end, behind_since: None });
        next
    }

    /// Waits for events and hands on all that are there. Cancel safe.
    pub(super) async fn read(&mut self, mut each: impl FnMut(Heard<'_>)) -> Result<(), String> {
        for why in self.missed.drain(..) {
            each(Heard::Missed(why));
        }
        let mut told = tokio::select! {
            // What came before the end was said belongs to it.
            biased;
            Some(told) = self.told.recv() => told,
            ended = self.tasks.join_next() => {
                return Err(ended.map_or_else(|| "not connected".to_owned(), sentence));
            }
        };
        for _ in 0..MAX_WAITING {
            self.hear(told, &mut each)?;
            match self.told.try_recv() {
                Ok(next) => told = next,
                Err(_) => break,
            }
        }
        Ok(())
    }

    fn hear(&mut self, told: Told, each: &mut impl FnMut(Heard<'_>)) -> Result<(), String> {
        match told {
            Told::Event(partition, arrived) => {
                let Some(place) = self.places.get_mut(&partition) else { return Ok(()) };
                let sequence = arrived.sequence;
                // Sent again by the service, after a change of its own.
                let Some(n_gone) = sequence.checked_sub(place.next) else { return Ok(()) };
                if n_gone > 0 {
                    each(Heard::Missed(gone(partition, n_gone)));
                }
                each(Heard::Event(event(partition, &arrived, sequence < place.backlog_end)));
                place.step(sequence + 1);
                each(Heard::Through { partition, next: place.next });
            }
            Told::Unreadable(partition) => {
                let Some(place) = self.places.get_mut(&partition) else { return Ok(()) };
                each(Heard::Unreadable(1));
                place.step(place.next + 1);
                each(Heard::Through { partition, next: place.next });
            }
            Told::Looked(found) => {
                for (partition, extent) in found {
                    match self.places.get_mut(&partition) {
                        Some(place) => place.compare(extent),
                        None => return Err(format!("partition {partition} is new")),
                    }
                }
            }
        }
        Ok(())
    }

    pub(super) fn keep_alive(&self) -> Result<(), String> {
        let is_silent =
            |place: &Place| place.behind_since.is_some_and(|since| since.elapsed() > SILENT);
        match self.places.iter().find(|(_, place)| is_silent(place)) {
            Some((partition, place)) => Err(format!(
                "partition {partition} is silent while {} events wait in it",
                place.end - place.next
            )),
            None => Ok(()),
        }
    }

    pub(super) fn close(&mut self) {
        self.tasks.abort_all();
    }
}

impl Place {
    fn step(&mut self, next: u64) {
        self.next = next;
        self.end = self.end.max(next);
        self.behind_since = None;
    }

    fn compare(&mut self, extent: Extent) {
        self.end = self.end.max(extent.end);
        let is_behind = self.end > self.next;
        self.behind_since = is_behind.then(|| self.behind_since.unwrap_or_else(Instant::now));
    }
}

fn mine(source: &Source, all: Vec<u32>) -> impl Iterator<Item = u32> + use<> {
    let (share, n_shares) = (source.share, source.n_shares);
    all.into_iter().filter(move |partition| reads(share, n_shares, *partition))
}

fn gone(partition: u32, n: u64) -> String {
    format!("partition {partition}: {n} events were gone before they were read")
}

fn sentence(ended: Result<String, tokio::task::JoinError>) -> String {
    ended.unwrap_or_else(|error| format!("a reader of a partition broke: {error}"))
}

/// Until the connection is gone; what the links make of it comes first.
async fn gone_away(ended: CancellationToken) -> String {
    ended.cancelled().await;
    tokio::time::sleep(LAST_WORDS).await;
    "the service closed the connection".to_owned()
}

/// Hands on what comes over one link, until it ends; returns why.
async fn follow(partition: u32, mut link: Receiver, tell: mpsc::Sender<Told>) -> String {
    loop {
        let (told, ended) = match link.recv::<Body<Value>>().await {
            Ok(delivery) => match Arrived::read(delivery.into_message()) {
                Some(arrived) => (Told::Event(partition, arrived), None),
                None => return format!("partition {partition}: an event without a number came"),
            },
            Err(RecvError::MessageDecode(_)) => (Told::Unreadable(partition), None),
            Err(error @ RecvError::MessageSizeExceeded(_)) => {
                (Told::Unreadable(partition), Some(recv_failed(&error)))
            }
            Err(error) => return format!("partition {partition}: {}", recv_failed(&error)),
        };
        if tell.send(told).await.is_err() {
            return "its reader is gone".to_owned();
        }
        if let Some(why) = ended {
            return format!("partition {partition}: {why}");
        }
    }
}

/// Holds the connection: asks how far the service is and renews its token; returns why it ended.
async fn keep(mut hub: Hub, source: Arc<Source>, tell: mpsc::Sender<Told>) -> String {
    let mut look = interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let renew_at = hub.renew_at;
        let renewal = async {
            match renew_at {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let is_renewal = tokio::select! {
            () = renewal => true,
            _ = look.tick() => false,
        };
        let done = timeout(ANSWER_WITHIN, async {
            match is_renewal {
                true => hub.renew(&source).await.map(|()| None),
                false => extents(&mut hub, &source).await.map(Some),
            }
        });
        match done.await {
            Ok(Ok(None)) => {}
            // Where there is no room the reader has enough to do.
            Ok(Ok(Some(found))) => drop(tell.try_send(Told::Looked(found))),
            Ok(Err(why)) => return why,
            Err(_) => return format!("the service did not answer within {ANSWER_WITHIN:?}"),
        }
    }
}

async fn extents(hub: &mut Hub, source: &Source) -> Result<BTreeMap<u32, Extent>, String> {
    let mut found = BTreeMap::new();
    for partition in mine(source, hub.partitions().await?) {
        found.insert(partition, hub.extent(partition).await?);
    }
    Ok(found)
}

fn event(partition: u32, arrived: &Arrived, is_backlog: bool) -> Event<'_> {
    let enqueued = match arrived.enqueued_ms {
        Some(ms) => {
            Enqueued::At { us: ms.saturating_mul(US_PER_MS), resolution_us: US_PER_MS, partition }
        }
        None => Enqueued::Unstamped,
    };
    Event {
        place: &arrived.key,
        payload: &arrived.body,
        headers: Headers::Named(&arrived.headers),
        enqueued,
        is_backlog,
    }
}
