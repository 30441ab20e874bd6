//! Observers: they read the platform's output and report which messages came out, and when.
//!
//! Each is one thread with its own runtime, so that no device can delay its clock. It connects and
//! subscribes while the run prepares, so that nothing of the run can pass before it listens; it goes
//! on after the load until the control plane lowers the end. Invariant: an event is counted in
//! exactly one of received, unparsed and foreign, and what may have passed unseen is a reader gap.

mod dial;
mod eventhubs;
mod finding;
mod kafka;
mod mqtt;
mod nats;
pub mod preview;
mod reading;
mod seen;
mod sources;
pub mod trial;
mod webhook;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

use shoal_domain::ids::{ObserverId, RunId};
use shoal_domain::observed::Positions;
use shoal_domain::plan::Plan;
use shoal_service_kit::TargetGuard;
use tokio::sync::{mpsc, oneshot};

use self::reading::{Reader, Reading};
use self::sources::reader_of;
use crate::assignments::load::Refusal;
use crate::engine::{Control, CoreReport};

/// What this agent is to read in one run.
pub(crate) struct ObserverJob {
    pub(crate) plan: Arc<Plan>,
    pub(crate) observer: ObserverId,
    /// Which of the observer's readers this is.
    pub(crate) share: u32,
    pub(crate) n_shares: u32,
    /// Where an earlier reader of the share had come to.
    pub(crate) positions: Positions,
    /// There was one.
    pub(crate) is_resumed: bool,
    /// Run time from which it has to answer for the source: later than 0 after another reader.
    pub(crate) from_us: u64,
    pub(crate) run: RunId,
    pub(crate) seed: u64,
    pub(crate) secrets: Arc<BTreeMap<String, String>>,
    pub(crate) guard: TargetGuard,
    pub(crate) builtin: Option<SocketAddr>,
}

impl ObserverJob {
    /// The whole of a source, read from its beginning by nobody else.
    pub(crate) fn alone(plan: Arc<Plan>, observer: ObserverId, run: RunId, seed: u64) -> Self {
        Self {
            plan,
            observer,
            share: 0,
            n_shares: 1,
            positions: Positions::default(),
            is_resumed: false,
            from_us: 0,
            run,
            seed,
            secrets: Arc::default(),
            guard: TargetGuard::any(),
            builtin: None,
        }
    }
}

/// One event of the platform's output.
#[derive(Debug, Clone, Copy)]
struct Event<'e> {
    /// Topic, key or path.
    place: &'e [u8],
    payload: &'e [u8],
    headers: Headers<'e>,
    enqueued: Enqueued,
    /// It had waited while nobody read.
    is_backlog: bool,
}

/// What stands beside the value of an event.
#[derive(Debug, Clone, Copy)]
enum Headers<'e> {
    Kafka(crate::kafka::Headers<'e>),
    Http(&'e hyper::HeaderMap),
    Named(&'e [(String, Vec<u8>)]),
    Nats(crate::nats::Headers<'e>),
    Mqtt(crate::mqtt::UserProperties<'e>),
}

impl<'e> Headers<'e> {
    fn get(self, name: &str) -> Option<&'e [u8]> {
        match self {
            Self::Kafka(headers) => headers.get(name),
            Self::Http(headers) => headers.get(name).map(|value| value.as_bytes()),
            Self::Nats(headers) => headers.get(name),
            Self::Mqtt(user) => {
                user.iter().find_map(|(known, value)| (known == name).then_some(value.as_bytes()))
            }
            Self::Named(headers) => {
                headers.iter().find_map(|(known, value)| (known == name).then_some(&value[..]))
            }
        }
    }

    /// The first of the values for which there is something.
    fn find_map<T>(self, look: impl Fn(&'e [u8]) -> Option<T>) -> Option<T> {
        match self {
            Self::Kafka(headers) => headers.iter().find_map(|(_, value)| look(value)),
            Self::Http(headers) => headers.values().find_map(|value| look(value.as_bytes())),
            Self::Named(headers) => headers.iter().find_map(|(_, value)| look(value)),
            Self::Nats(headers) => headers.iter().find_map(|(_, value)| look(value)),
            Self::Mqtt(user) => user.iter().find_map(|(_, value)| look(value.as_bytes())),
        }
    }
}

/// What a source says about the time at which the platform took an event in.
#[derive(Debug, Clone, Copy)]
enum Enqueued {
    /// Nothing: it never does.
    Never,
    /// Nothing this time, although it could.
    Unstamped,
    /// By the platform's clock, cut off to the resolution.
    At { us: u64, resolution_us: u64, partition: u32 },
}

/// What a reader hands on.
enum Heard<'e> {
    Event(Event<'e>),
    /// So many events were there that nobody can read.
    Unreadable(u64),
    /// Everything of the partition below this was handed on or can never be.
    Through {
        partition: u32,
        next: u64,
    },
    /// Events went by unseen, as the sentence says.
    Missed(String),
}

/// What the thread learns when the run is armed.
struct Begin {
    /// What is read belongs to it.
    span: tracing::Span,
    t0_boot_us: u64,
    control: Arc<Control>,
    reports: mpsc::Sender<CoreReport>,
}

/// It listens already. Dropped, it ends.
pub(crate) struct Prepared {
    /// Where it begins, of a source that keeps its events.
    pub(crate) positions: Positions,
    /// Known when the readiness probe was seen, or why it never will be; `None`: none is awaited.
    probe: Option<oneshot::Receiver<Result<(), String>>>,
    name: String,
    thread: JoinHandle<()>,
    begin: oneshot::Sender<Begin>,
}

impl Prepared {
    /// Until the readiness probe has come out; `None` where none is awaited.
    pub(crate) fn probe(
        &mut self,
    ) -> Option<impl Future<Output = Result<(), Refusal>> + Send + use<>> {
        let (probe, name) = (self.probe.take()?, self.name.clone());
        Some(async move {
            let seen = probe.await.unwrap_or_else(|_| Err("its thread ended".to_owned()));
            seen.map_err(|why| Refusal::new("SH0310", format!("observer {name}: {why}")))
        })
    }

    pub(crate) fn start(
        self,
        t0_boot_us: u64,
        control: Arc<Control>,
        reports: mpsc::Sender<CoreReport>,
    ) -> impl FnOnce() + Send + use<> {
        control.arm(t0_boot_us, u64::MAX, 1);
        // It fails when the thread is gone; its channel of reports is then closed, which is seen.
        let _ =
            self.begin.send(Begin { span: tracing::Span::current(), t0_boot_us, control, reports });
        move || {
            if self.thread.join().is_err() {
                tracing::error!("an observer panicked: its last windows are lost");
            }
        }
    }
}

/// Connects and subscribes; everything that is wrong is one sentence.
pub(crate) async fn prepare(job: ObserverJob) -> Result<Prepared, Refusal> {
    let name = job.plan.observers[job.observer.index()].name.clone();
    let reader = reader_of(&job).await?;
    let (ready, is_ready) = oneshot::channel();
    let (begin, begun) = oneshot::channel();
    // Who reads on for another one comes after the start.
    let is_probed = !job.is_resumed && job.plan.observers[job.observer.index()].probe_us.is_some();
    let (seen, probe) = is_probed.then(oneshot::channel).unzip();
    let reading = Reading::new(&job, reader, seen);
    let body = move || reading.run(ready, begun);
    let thread = std::thread::Builder::new().name(format!("observer-{name}")).spawn(body);
    let failed = |why: String| Refusal::new("SH0310", format!("observer {name}: {why}"));
    let thread = thread.map_err(|error| failed(format!("cannot start its thread: {error}")))?;
    match is_ready.await {
        Ok(Ok(positions)) => Ok(Prepared { positions, probe, name, thread, begin }),
        Ok(Err(why)) => Err(failed(why)),
        Err(_) => Err(failed("it ended before it could read".to_owned())),
    }
}
