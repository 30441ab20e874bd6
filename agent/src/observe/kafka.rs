//! A reader of the partitions of a Kafka topic that are its share: one connection per broker, one
//! fetch on its way on each.
//!
//! Where it stands is its own affair and the control plane's: no group, nothing is committed to the
//! broker. After a lost connection it goes on where it stopped. What had waited meanwhile is marked as
//! backlog. Invariant: an event is handed on once, and the position that goes with it right behind.
//! [`KafkaReader::read`] may be dropped at any await.

mod link;

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::select_all;
use shoal_domain::observed::reads;
use shoal_domain::plan::SaslMechanism;
use shoal_service_kit::TargetGuard;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use self::link::{Answer, Link};
use super::{Enqueued, Event, Headers, Heard};
use crate::kafka::{Fetched, Leader, Listed, Metadata, Record, Stamped, sentence};

const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// A fetch is answered after half a second at the latest.
const SILENT: Duration = Duration::from_secs(30);
/// How often it is looked for new partitions and other leaders.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Kafka's stamps are whole milliseconds.
const US_PER_MS: u64 = 1_000;

const OUT_OF_RANGE: i16 = 1;

pub(super) struct Source {
    pub(super) brokers: Vec<(String, u16)>,
    pub(super) topic: String,
    pub(super) tls: Option<TlsConnector>,
    pub(super) login: Option<Login>,
    pub(super) guard: TargetGuard,
    pub(super) share: u32,
    pub(super) n_shares: u32,
}

pub(super) struct Login {
    pub(super) mechanism: SaslMechanism,
    pub(super) username: String,
    pub(super) password: String,
}

pub(super) struct KafkaReader {
    source: Source,
    links: Vec<Link>,
    places: BTreeMap<u32, Place>,
    /// The first opening reads what comes from now on; a later one, or one that goes on for somebody
    /// else, everything of partitions that it does not know.
    is_first: bool,
    looked: Instant,
    /// Sentences about events that are gone.
    missed: Vec<String>,
}

/// Where it stands in a partition.
#[derive(Debug, Clone, Copy)]
struct Place {
    next: u64,
    /// The broker's newest word on where the next event will be.
    end: u64,
    /// What is below had waited when reading began.
    backlog_end: u64,
    is_lost: bool,
}

impl KafkaReader {
    /// `starts`: where an earlier reader of the share had come to.
    pub(super) fn new(source: Source, starts: &[(u32, u64)], is_resumed: bool) -> Self {
        let place = |next| Place { next, end: next, backlog_end: next, is_lost: false };
        Self {
            source,
            links: Vec::new(),
            places: starts.iter().map(|(partition, next)| (*partition, place(*next))).collect(),
            is_first: !is_resumed,
            looked: Instant::now(),
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

    /// Connects to whoever leads a partition of the share, and finds its place in each.
    pub(super) async fn open(&mut self) -> Result<(), String> {
        match timeout(ANSWER_WITHIN, self.greet()).await {
            Ok(opened) => opened,
            Err(_) => Err(format!("the brokers did not answer within {ANSWER_WITHIN:?}")),
        }
    }

    async fn greet(&mut self) -> Result<(), String> {
        self.links.clear();
        let (first, found) = self.first_contact().await?;
        let mut links = vec![first];
        for (partition, leader) in self.mine(&found) {
            let (host, port) = match leader {
                Leader::At { host, port } => (host, *port),
                Leader::Missing(code) => {
                    return Err(format!("partition {partition}: {}", sentence(*code)));
                }
            };
            let at = links.iter().position(|link| link.is_to(host, port));
            let at = match at {
                Some(at) => at,
                None => {
                    links.push(Link::open(&self.source, host, port).await?);
                    links.len() - 1
                }
            };
            links[at].partitions.push(partition);
        }
        for link in &mut links {
            find_places(
                link,
                &self.source.topic,
                &mut self.places,
                self.is_first,
                &mut self.missed,
            )
            .await?;
        }
        // The first contact may lead nothing of ours; one is kept to hear of new partitions.
        if links.len() > 1 {
            links.retain(|link| !link.partitions.is_empty());
        }
        self.links = links;
        self.is_first = false;
        self.looked = Instant::now();
        Ok(())
    }

    /// The first broker of the list that answers, and what it says of the topic.
    async fn first_contact(&self) -> Result<(Link, Metadata), String> {
        let mut why = String::new();
        for (host, port) in &self.source.brokers {
            match Link::open(&self.source, host, *port).await {
                Ok(mut link) => {
                    let found = link.metadata(&self.source.topic).await?;
                    let topic = &self.source.topic;
                    return match (found.error, found.partitions.is_empty()) {
                        (0, false) => Ok((link, found)),
                        (0, true) => Err(format!("topic {topic} has no partitions")),
                        (code, _) => Err(format!("topic {topic}: {}", sentence(code))),
                    };
                }
                Err(error) => why = error,
            }
        }
        Err(why)
    }

    fn mine<'m>(&self, found: &'m Metadata) -> impl Iterator<Item = (u32, &'m Leader)> + use<'m> {
        let (share, n_shares) = (self.source.share, self.source.n_shares);
        let all = found.partitions.iter().map(|(partition, leader)| (*partition, leader));
        all.filter(move |(partition, _)| reads(share, n_shares, *partition))
    }

    /// Waits for bytes and hands on every whole event in them. Cancel safe.
    pub(super) async fn read(&mut self, mut each: impl FnMut(Heard<'_>)) -> Result<(), String> {
        for why in self.missed.drain(..) {
            each(Heard::Missed(why));
        }
        for link in &mut self.links {
            let places = &self.places;
            link.ask(&self.source.topic, |partition| {
                places.get(&partition).filter(|place| !place.is_lost).map(|place| place.next)
            });
            link.flush().await?;
        }
        let at = {
            let fills = self.links.iter_mut().map(|link| Box::pin(link.fill()));
            let (filled, at, _) = select_all(fills).await;
            filled?;
            at
        };
        let mut wrong = None;
        loop {
            let places = &mut self.places;
            let answer = self.links[at].answer(&self.source.topic, &mut |fetched| {
                hear(places, fetched, &mut wrong, &mut each);
            })?;
            match answer {
                None => break,
                Some(Answer::Fetched) => {}
                Some(Answer::Metadata(found)) => self.compare(&found)?,
                Some(Answer::Offsets(found)) => self.go_on(found)?,
            }
        }
        match wrong {
            Some((partition, code)) => Err(format!("partition {partition}: {}", sentence(code))),
            None => Ok(()),
        }
    }

    /// Whether everything is led as it was; else all is connected anew.
    fn compare(&self, found: &Metadata) -> Result<(), String> {
        for (partition, leader) in self.mine(found) {
            let Leader::At { host, port } = leader else { continue };
            let link = self.links.iter().find(|link| link.partitions.contains(&partition));
            match link {
                None => return Err(format!("partition {partition} is new")),
                Some(link) if !link.is_to(host, *port) => {
                    return Err(format!("partition {partition} has another leader"));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// Behind what the broker has deleted.
    fn go_on(&mut self, found: BTreeMap<u32, Result<u64, i16>>) -> Result<(), String> {
        for (partition, earliest) in found {
            let Some(place) = self.places.get_mut(&partition).filter(|place| place.is_lost) else {
                continue;
            };
            let earliest =
                earliest.map_err(|code| format!("partition {partition}: {}", sentence(code)))?;
            place.is_lost = false;
            if earliest <= place.next {
                // Not its beginning but its end was cut off: where it stands now is asked anew.
                return Err(format!("partition {partition} was cut back"));
            }
            self.missed.push(deleted(partition, place.next, earliest));
            place.next = earliest;
        }
        Ok(())
    }

    pub(super) fn keep_alive(&mut self) -> Result<(), String> {
        if self.links.iter().any(|link| link.is_silent(SILENT)) {
            return Err("a broker is silent".to_owned());
        }
        if self.looked.elapsed() > LOOK_EVERY {
            self.looked = Instant::now();
            if let Some(link) = self.links.first_mut() {
                link.ask_metadata(&self.source.topic)?;
            }
        }
        // Whose fetch was refused because its place is gone asks where the partition begins.
        let lost = |partition: &u32| self.places.get(partition).is_some_and(|place| place.is_lost);
        for link in &mut self.links {
            let gone: Vec<(u32, Listed)> = link
                .partitions
                .iter()
                .copied()
                .filter(&lost)
                .map(|partition| (partition, Listed::Earliest))
                .collect();
            if !gone.is_empty() {
                link.ask_offsets(&self.source.topic, &gone)?;
            }
        }
        Ok(())
    }
}

fn deleted(partition: u32, next: u64, earliest: u64) -> String {
    match earliest.checked_sub(next) {
        Some(n) => format!("partition {partition}: {n} events were deleted before they were read"),
        None => format!("partition {partition} was cut back: what stood from {next} on is gone"),
    }
}

/// The offsets of a link's partitions, asked for when it was opened.
async fn find_places(
    link: &mut Link,
    topic: &str,
    places: &mut BTreeMap<u32, Place>,
    is_first: bool,
    missed: &mut Vec<String>,
) -> Result<(), String> {
    if link.partitions.is_empty() {
        return Ok(());
    }
    let wrong = |partition: u32, code: i16| format!("partition {partition}: {}", sentence(code));
    let all = |listed| link_partitions(link, listed);
    let (ends, begins) = (all(Listed::Latest), all(Listed::Earliest));
    let ends = link.offsets(topic, &ends).await?;
    let begins = link.offsets(topic, &begins).await?;
    for partition in link.partitions.clone() {
        let told = |found: &BTreeMap<u32, Result<u64, i16>>| match found.get(&partition) {
            Some(Ok(offset)) => Ok(*offset),
            Some(Err(code)) => Err(wrong(partition, *code)),
            None => Err(format!("partition {partition}: the broker did not say where it ends")),
        };
        let (begin, end) = (told(&begins)?, told(&ends)?);
        let known = places.get(&partition).map(|place| place.next);
        let next = match known {
            None if is_first => end,
            None => begin,
            Some(next) if next < begin => {
                missed.push(deleted(partition, next, begin));
                begin
            }
            Some(next) if next > end => {
                missed.push(deleted(partition, next, begin));
                end
            }
            Some(next) => next,
        };
        places.insert(partition, Place { next, end, backlog_end: end, is_lost: false });
    }
    Ok(())
}

fn link_partitions(link: &Link, listed: Listed) -> Vec<(u32, Listed)> {
    link.partitions.iter().map(|partition| (*partition, listed)).collect()
}

/// One part of a response to a fetch.
fn hear(
    places: &mut BTreeMap<u32, Place>,
    fetched: Fetched<'_>,
    wrong: &mut Option<(u32, i16)>,
    each: &mut impl FnMut(Heard<'_>),
) {
    match fetched {
        Fetched::Partition { partition, error, end } => {
            let Some(place) = places.get_mut(&partition) else { return };
            match error {
                0 => place.end = end.max(place.next),
                OUT_OF_RANGE => place.is_lost = true,
                code => *wrong = Some((partition, code)),
            }
        }
        Fetched::Record(record) => {
            let Some(place) = places.get(&record.partition) else { return };
            if record.offset >= place.next {
                each(Heard::Event(event(&record, record.offset < place.backlog_end)));
            }
        }
        Fetched::Unreadable { n } => each(Heard::Unreadable(n)),
        Fetched::Through { partition, next } => {
            let Some(place) = places.get_mut(&partition) else { return };
            place.next = place.next.max(next);
            each(Heard::Through { partition, next: place.next });
        }
    }
}

fn event<'r>(record: &Record<'r>, is_backlog: bool) -> Event<'r> {
    let enqueued = match record.stamped {
        Stamped::Append(ms) => Enqueued::At {
            us: ms.saturating_mul(US_PER_MS),
            resolution_us: US_PER_MS,
            partition: record.partition,
        },
        Stamped::Create => Enqueued::Unstamped,
    };
    Event {
        place: record.key,
        payload: record.value,
        headers: Headers::Kafka(record.headers),
        enqueued,
        is_backlog,
    }
}
