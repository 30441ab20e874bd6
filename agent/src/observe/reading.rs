//! The thread of one observer: read, count, report each window, reconnect, end when told.

use std::time::Duration;

use shoal_domain::delta::WINDOW_US;
use shoal_domain::ids::ObserverId;
use shoal_domain::observed::Positions;
use shoal_service_kit::{Backoff, Clock, SystemClock};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior};
use tracing::Instrument as _;

use super::eventhubs::EventHubsReader;
use super::kafka::KafkaReader;
use super::mqtt::MqttReader;
use super::nats::NatsReader;
use super::seen::Seen;
use super::webhook::WebhookReader;
use super::{Begin, Heard, ObserverJob};
use crate::engine::{Closed, CoreReport};

const TICK: Duration = Duration::from_millis(50);
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// Connections to one kind of source.
pub(super) enum Reader {
    Mqtt(Box<MqttReader>),
    Kafka(Box<KafkaReader>),
    EventHubs(Box<EventHubsReader>),
    Nats(Box<NatsReader>),
    Webhook(WebhookReader),
}

impl Reader {
    /// Whether what passes while there is no connection can be read later.
    fn keeps_events(&self) -> bool {
        matches!(self, Self::Kafka(_) | Self::EventHubs(_) | Self::Nats(_))
    }

    pub(super) async fn open(&mut self) -> Result<(), String> {
        match self {
            Self::Mqtt(mqtt) => mqtt.open().await,
            Self::Kafka(kafka) => kafka.open().await,
            Self::EventHubs(hub) => hub.open().await,
            Self::Nats(nats) => nats.open().await,
            Self::Webhook(webhook) => webhook.open().await,
        }
    }

    pub(super) async fn read(&mut self, each: impl FnMut(Heard<'_>)) -> Result<(), String> {
        match self {
            Self::Mqtt(mqtt) => mqtt.read(each).await,
            Self::Kafka(kafka) => kafka.read(each).await,
            Self::EventHubs(hub) => hub.read(each).await,
            Self::Nats(nats) => nats.read(each).await,
            Self::Webhook(webhook) => webhook.read(each).await,
        }
    }

    pub(super) async fn keep_alive(&mut self) -> Result<(), String> {
        match self {
            Self::Mqtt(mqtt) => mqtt.keep_alive().await,
            Self::Kafka(kafka) => kafka.keep_alive(),
            Self::EventHubs(hub) => hub.keep_alive(),
            Self::Nats(nats) => nats.keep_alive(),
            Self::Webhook(_) => Ok(()),
        }
    }

    pub(super) fn positions(&self, observer: ObserverId) -> Positions {
        let mut positions = Positions::default();
        let mut raise = |(partition, next)| positions.raise(observer, partition, next);
        match self {
            Self::Kafka(kafka) => kafka.positions().for_each(&mut raise),
            Self::EventHubs(hub) => hub.positions().for_each(&mut raise),
            Self::Nats(nats) => nats.positions().for_each(&mut raise),
            Self::Mqtt(_) | Self::Webhook(_) => {}
        }
        positions
    }

    /// Why not everything that is there was read; `None` where all was, or nothing is kept.
    fn left_behind(&self) -> Option<String> {
        let n = match self {
            Self::Kafka(kafka) => kafka.n_unread(),
            Self::EventHubs(hub) => hub.n_unread(),
            Self::Nats(nats) => nats.n_unread(),
            Self::Mqtt(_) | Self::Webhook(_) => 0,
        };
        (n > 0).then(|| format!("{n} events were not read before the end"))
    }

    pub(super) async fn close(&mut self) {
        match self {
            Self::Mqtt(mqtt) => mqtt.close().await,
            Self::Webhook(webhook) => webhook.close(),
            Self::EventHubs(hub) => hub.close(),
            Self::Kafka(_) | Self::Nats(_) => {}
        }
    }
}

pub(super) struct Reading {
    reader: Reader,
    observer: ObserverId,
    seen: Seen,
    /// As in [`ObserverJob`].
    from_us: u64,
    /// Who waits for the readiness probe; `None`: nobody, or it was seen.
    probe: Option<ProbeSeen>,
}

/// Told when the readiness probe was seen, or why it never will be.
pub(super) type ProbeSeen = oneshot::Sender<Result<(), String>>;

/// Where the reader stands.
enum Link {
    Up,
    /// Since this run time; tries again at the instant.
    Down {
        since_us: u64,
        why: String,
        again: Instant,
    },
}

impl Reading {
    pub(super) fn new(job: &ObserverJob, reader: Reader, probe: Option<ProbeSeen>) -> Self {
        let (observer, seen, from_us) = (job.observer, Seen::new(job), job.from_us);
        Self { reader, observer, seen, from_us, probe }
    }

    pub(super) fn run(
        mut self,
        ready: oneshot::Sender<Result<Positions, String>>,
        begun: oneshot::Receiver<Begin>,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => {
                // Nobody who asked is left if this fails.
                let _ = ready.send(Err(format!("cannot start its runtime: {error}")));
                return;
            }
        };
        runtime.block_on(async {
            let opened = self.reader.open().await;
            let is_open = opened.is_ok();
            if ready.send(opened.map(|()| self.reader.positions(self.observer))).is_err()
                || !is_open
            {
                return;
            }
            if let Some((begin, lost)) = self.wait(begun).await {
                let span = begin.span.clone();
                self.read(begin, lost).instrument(span).await;
            }
            self.reader.close().await;
        });
    }

    /// Until the run is armed. What comes in before was not sent by it, but for its readiness probe;
    /// a source that keeps its events is read for that one only: another reader may have left them.
    async fn wait(
        &mut self,
        mut begun: oneshot::Receiver<Begin>,
    ) -> Option<(Begin, Option<String>)> {
        let mut tick = tokio::time::interval(TICK);
        loop {
            let read = tokio::select! {
                begin = &mut begun => return Some((begin.ok()?, None)),
                _ = tick.tick() => self.reader.keep_alive().await,
                read = self.reader.read(|heard| look(&mut self.seen, &mut self.probe, &heard)),
                    if self.probe.is_some() || !self.reader.keeps_events() => read,
            };
            if let Err(why) = read {
                if let Some(probe) = self.probe.take() {
                    // Whoever waits may be gone.
                    let _ = probe.send(Err(format!("its source was lost before the start: {why}")));
                }
                // The loop that follows reconnects, and says since when nothing was seen.
                return Some((begun.await.ok()?, Some(why)));
            }
        }
    }

    async fn read(&mut self, begin: Begin, lost: Option<String>) {
        let Begin { t0_boot_us, control, reports, .. } = begin;
        self.seen.begin(control.control_unix_us(t0_boot_us));
        let run_us = || SystemClock.boot_us().saturating_sub(t0_boot_us);
        if self.from_us > 0 && !self.reader.keeps_events() {
            self.seen.blind();
            self.seen.gap(self.from_us, run_us(), "its reader was lost, and another one took over");
        }
        let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
        let mut link = match lost {
            None => Link::Up,
            Some(why) => {
                self.lose();
                Link::Down { since_us: self.from_us, why, again: Instant::now() }
            }
        };
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let is_up = matches!(link, Link::Up);
            let failed = tokio::select! {
                // Ticks first: a flood of events must not hold up a window's end.
                biased;
                // Nobody takes what it would read.
                () = reports.closed() => return,
                _ = tick.tick() => match is_up {
                    true => self.reader.keep_alive().await.err(),
                    false => None,
                },
                read = read(&mut self.reader, &mut self.seen, &control),
                    if is_up && !self.seen.is_full() => read.err(),
            };
            if let (Some(why), true) = (failed, is_up) {
                tracing::warn!(why, "observer lost its source");
                self.lose();
                link = Link::Down { since_us: run_us(), why, again: Instant::now() };
            }
            if let Link::Down { since_us, why, again } = &mut link
                && *again <= Instant::now()
            {
                match self.reader.open().await {
                    Ok(()) => {
                        if !self.reader.keeps_events() {
                            self.seen.gap(*since_us, run_us(), why);
                        }
                        backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
                        link = Link::Up;
                    }
                    Err(_) => *again = Instant::now() + backoff.next(),
                }
            }
            let boot_us = SystemClock.boot_us();
            let now_us = boot_us.saturating_sub(t0_boot_us);
            // A lease that lapsed ends the reading too: somebody else may have been given it.
            let is_held = control.may_send(boot_us);
            let end_us = control.end_us();
            if now_us >= end_us || !is_held {
                break;
            }
            if now_us / WINDOW_US > self.seen.window() {
                let delta = self.seen.swap(now_us / WINDOW_US, control.clock_error_us());
                let report = CoreReport { core: 0, delta, closed: None };
                match reports.try_send(report) {
                    Ok(()) => {}
                    Err(mpsc::error::TrySendError::Full(report)) => self.seen.keep(report.delta),
                    Err(mpsc::error::TrySendError::Closed(_)) => return,
                }
            }
        }
        control.gate_closed();
        let closed_at_us = run_us();
        let missed = match link {
            // Whoever holds the share now reads on.
            _ if self.reader.keeps_events() && control.fenced() => None,
            Link::Down { since_us, why, .. } => Some((since_us, why)),
            Link::Up => self.reader.left_behind().map(|why| (self.seen.newest_run_us(), why)),
        };
        if let Some((since_us, why)) = missed {
            if self.reader.keeps_events() {
                self.seen.blind();
            }
            self.seen.gap(since_us, closed_at_us, &why);
        }
        let window = (closed_at_us / WINDOW_US).max(self.seen.window());
        let delta = self.seen.swap(window, control.clock_error_us());
        let closed = Some(Closed { closed_at_us, error: None });
        // The last report may wait for room. No receiver, no reader.
        let _ = reports.send(CoreReport { core: 0, delta, closed }).await;
    }

    /// The connection is gone. Where events are kept they will be read.
    fn lose(&mut self) {
        if !self.reader.keeps_events() {
            self.seen.blind();
        }
    }
}

/// Whether this is what was waited for.
fn look(seen: &mut Seen, probe: &mut Option<ProbeSeen>, heard: &Heard<'_>) {
    if let Heard::Event(event) = heard
        && probe.is_some()
        && seen.is_probe(event)
        && let Some(probe) = probe.take()
    {
        // Whoever waited may be gone.
        let _ = probe.send(Ok(()));
    }
}

async fn read(
    reader: &mut Reader,
    seen: &mut Seen,
    control: &crate::engine::Control,
) -> Result<(), String> {
    let mut now_unix_us = None;
    reader
        .read(|heard| {
            // All events of one read came at its time.
            let now =
                *now_unix_us.get_or_insert_with(|| control.control_unix_us(SystemClock.boot_us()));
            match heard {
                Heard::Event(event) => seen.event(&event, now),
                Heard::Unreadable(n) => seen.unreadable(n, now),
                Heard::Through { partition, next } => seen.through(partition, next),
                Heard::Missed(why) => {
                    tracing::warn!(why, "observer missed events");
                    seen.blind();
                    seen.gap(seen.newest_run_us(), seen.run_us(now), &why);
                }
            }
        })
        .await
}
