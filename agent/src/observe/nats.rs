//! A reader of one subject of a NATS JetStream stream: an ephemeral consumer that begins at a number of
//! the stream, acknowledges nothing, and is asked for messages as they can be taken.
//!
//! Where it stands is its own affair and the control plane's: the server keeps nothing that outlives a
//! connection by a minute. Another subject's messages have numbers of the same stream, so what is left
//! out is told by the consumer's own count. Invariant: an event is handed on once, and the position that goes
//! with it right behind. [`NatsReader::read`] may be dropped at any await.

mod link;

use std::time::Duration;

use bytes::Buf as _;
use serde_json::{Value, json};
use shoal_service_kit::TargetGuard;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use self::link::{ANSWERS, Link, answer};
use super::{Enqueued, Event, Headers, Heard};
use crate::nats::{self, Message, Said, Standing};

const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// The server says something every three seconds.
const SILENT: Duration = Duration::from_secs(12);
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// Messages that are asked for at once.
const PULL: u64 = 2_000;
const SECOND_NS: u64 = 1_000_000_000;
/// A stream is one partition.
const PARTITION: u32 = 0;

pub(super) struct Source {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: Option<TlsConnector>,
    pub(super) login: Option<Login>,
    pub(super) guard: TargetGuard,
    pub(super) subject: String,
    pub(super) stream: Option<String>,
}

pub(super) enum Login {
    Password(String, String),
    Token(String),
}

pub(super) struct NatsReader {
    source: Source,
    open: Option<Open>,
    /// The number of the stream's next message that may be ours.
    next: Option<u64>,
    /// The first opening reads what comes from now on; one that goes on for somebody else everything.
    is_first: bool,
    missed: Vec<String>,
}

/// A connection with its consumer.
struct Open {
    link: Link,
    stream: String,
    consumer: String,
    /// Messages that were asked for and did not come yet.
    awaited: u64,
    /// The consumer's count of the newest message.
    counted: u64,
    /// The consumer's newest word on messages that are there and did not come.
    unread: u64,
    /// What is below had waited when reading began.
    backlog_end: u64,
    looked: Instant,
}

impl NatsReader {
    /// `next`: where an earlier reader had come to.
    pub(super) fn new(source: Source, next: Option<u64>, is_resumed: bool) -> Self {
        Self { source, open: None, next, is_first: !is_resumed, missed: Vec::new() }
    }

    pub(super) fn positions(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        self.next.into_iter().map(|next| (PARTITION, next))
    }

    /// Messages that are there and were not read.
    pub(super) fn n_unread(&self) -> u64 {
        self.open.as_ref().map_or(0, |open| open.unread)
    }

    pub(super) async fn open(&mut self) -> Result<(), String> {
        let Source { host, port, .. } = &self.source;
        let failed = format!("{host}:{port}");
        match timeout(ANSWER_WITHIN, self.greet()).await {
            Ok(opened) => opened.map_err(|why| format!("{failed}: {why}")),
            Err(_) => Err(format!("{failed}: it did not answer within {ANSWER_WITHIN:?}")),
        }
    }

    async fn greet(&mut self) -> Result<(), String> {
        self.open = None;
        let mut link = Link::open(&self.source).await?;
        let subject = &self.source.subject;
        let stream = match &self.source.stream {
            Some(stream) => stream.clone(),
            None => {
                let names =
                    link.ask("$JS.API.STREAM.NAMES", &json!({ "subject": subject })).await?;
                let name = names["streams"][0].as_str();
                name.ok_or_else(|| format!("no stream keeps {subject}"))?.to_owned()
            }
        };
        let info = link.ask(&format!("$JS.API.STREAM.INFO.{stream}"), &json!({})).await;
        let info = info.map_err(|why| format!("stream {stream}: {why}"))?;
        let (begin, end) = extent(&info)?;
        let next = match self.next {
            None if self.is_first => end,
            None => begin,
            Some(next) if next < begin => {
                self.missed.push(gone(begin));
                begin
            }
            Some(next) => next,
        };
        let question = json!({
            "stream_name": stream,
            "config": {
                "deliver_policy": "by_start_sequence", "opt_start_seq": next,
                "ack_policy": "none", "replay_policy": "instant", "filter_subject": subject,
                "inactive_threshold": 60 * SECOND_NS, "mem_storage": true,
            },
        });
        let made = link.ask(&format!("$JS.API.CONSUMER.CREATE.{stream}"), &question).await;
        let made = made.map_err(|why| format!("stream {stream}: {why}"))?;
        let consumer = made["name"].as_str().ok_or("JetStream names no consumer")?.to_owned();
        self.open = Some(Open {
            link,
            stream,
            consumer,
            awaited: 0,
            counted: 0,
            unread: made["num_pending"].as_u64().unwrap_or_default(),
            backlog_end: end,
            looked: Instant::now(),
        });
        self.next = Some(next);
        self.is_first = false;
        Ok(())
    }

    /// Waits for bytes and hands on every whole event in them. Cancel safe.
    pub(super) async fn read(&mut self, mut each: impl FnMut(Heard<'_>)) -> Result<(), String> {
        for why in self.missed.drain(..) {
            each(Heard::Missed(why));
        }
        let open = self.open.as_mut().ok_or("not connected")?;
        open.pull();
        open.link.flush().await?;
        open.link.fill().await?;
        let next = self.next.get_or_insert(1);
        loop {
            let bytes = std::mem::take(&mut open.link.incoming);
            let read = nats::read(&bytes).map_err(|bad| bad.to_string());
            let heard = match &read {
                Ok(Some((said, _))) => open.hear(said, next, &mut each),
                _ => Ok(()),
            };
            let n = read.as_ref().ok().and_then(|read| read.as_ref().map(|(_, n)| *n));
            let failed = read.err();
            open.link.incoming = bytes;
            if let Some(why) = failed {
                return Err(why);
            }
            heard?;
            match n {
                Some(n) => open.link.incoming.advance(n),
                None => return Ok(()),
            }
        }
    }

    pub(super) fn keep_alive(&mut self) -> Result<(), String> {
        let Some(open) = &mut self.open else { return Ok(()) };
        if open.awaited > 0 && open.link.heard.elapsed() > SILENT {
            return Err("the server is silent".to_owned());
        }
        if open.looked.elapsed() > LOOK_EVERY {
            open.looked = Instant::now();
            let Open { stream, consumer, .. } = &*open;
            let of_consumer = format!("$JS.API.CONSUMER.INFO.{stream}.{consumer}");
            let of_stream = format!("$JS.API.STREAM.INFO.{stream}");
            open.link.question(&of_consumer, &json!({}));
            open.link.question(&of_stream, &json!({}));
        }
        Ok(())
    }
}

impl Open {
    /// One question for messages is open at a time.
    fn pull(&mut self) {
        if self.awaited > 0 {
            return;
        }
        self.awaited = PULL;
        let question = json!({
            "batch": PULL, "expires": 10 * SECOND_NS, "idle_heartbeat": 3 * SECOND_NS,
        });
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{}.{}", self.stream, self.consumer);
        self.link.pull(&subject, &question);
    }

    fn hear(
        &mut self,
        said: &Said<'_>,
        next: &mut u64,
        each: &mut impl FnMut(Heard<'_>),
    ) -> Result<(), String> {
        match said {
            Said::Ping => self.link.pong(),
            Said::Error(why) => return Err(format!("the server says: {why}")),
            Said::Message(message) if message.sid == ANSWERS => {
                self.compare(&answer(message.payload)?, next, each);
            }
            Said::Message(message) => match message.headers.status() {
                // A heartbeat.
                Some((100, _)) => {}
                // Nothing came in its time: it is asked again.
                Some((404 | 408, _)) => self.awaited = 0,
                Some((_, words)) => return Err(format!("the consumer ended: {words}")),
                None => return self.event(message, next, each),
            },
            Said::Info(_) | Said::Ok | Said::Pong => {}
        }
        Ok(())
    }

    fn event(
        &mut self,
        message: &Message<'_>,
        next: &mut u64,
        each: &mut impl FnMut(Heard<'_>),
    ) -> Result<(), String> {
        let standing = Standing::read(message.reply)
            .ok_or("a message came that does not say where it stands")?;
        if standing.consumer != self.counted + 1 {
            return Err(format!("message {} of the consumer did not come", self.counted + 1));
        }
        self.counted = standing.consumer;
        self.awaited = self.awaited.saturating_sub(1);
        self.unread = self.unread.saturating_sub(1);
        if standing.stream < *next {
            return Ok(());
        }
        each(Heard::Event(Event {
            place: message.subject,
            payload: message.payload,
            headers: Headers::Nats(message.headers),
            enqueued: Enqueued::At {
                us: standing.at_ns / 1_000,
                resolution_us: 1,
                partition: PARTITION,
            },
            is_backlog: standing.stream < self.backlog_end,
        }));
        *next = standing.stream + 1;
        each(Heard::Through { partition: PARTITION, next: *next });
        Ok(())
    }

    /// What the consumer or the stream says of itself.
    fn compare(&mut self, told: &Value, next: &mut u64, each: &mut impl FnMut(Heard<'_>)) {
        if let Some(waiting) = told["num_pending"].as_u64() {
            let sent = told["delivered"]["consumer_seq"].as_u64().unwrap_or_default();
            self.unread = waiting + sent.saturating_sub(self.counted);
        } else if let Ok((begin, _)) = extent(told)
            && begin > *next
            && self.unread > 0
        {
            // Retention was faster; what the consumer sends next lies behind it.
            each(Heard::Missed(gone(begin)));
            *next = begin;
            each(Heard::Through { partition: PARTITION, next: begin });
        }
    }
}

/// The first message that is there, and the next that will be.
fn extent(info: &Value) -> Result<(u64, u64), String> {
    let number = |name: &str| info["state"][name].as_u64();
    let (Some(first), Some(last)) = (number("first_seq"), number("last_seq")) else {
        return Err("JetStream does not say where the stream begins and ends".to_owned());
    };
    Ok((first.max(1), last + 1))
}

fn gone(begin: u64) -> String {
    format!("messages below {begin} were deleted before they were read")
}
