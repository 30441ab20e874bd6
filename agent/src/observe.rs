//! Observers: they read the platform's output and report which messages came out, and when.
//!
//! Each is one thread with its own runtime, so that no device can delay its clock. It connects and
//! subscribes while the run prepares, so that nothing of the run can pass before it listens; it goes
//! on after the load until the control plane lowers the end. Invariant: an event is counted in
//! exactly one of received, unparsed and foreign, and what may have passed unseen is a reader gap.

mod eventhubs;
mod finding;
mod kafka;
mod mqtt;
mod nats;
pub mod preview;
mod reading;
mod seen;
pub mod trial;
mod webhook;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

use rustls::pki_types::ServerName;
use shoal_domain::eventhubs::ConnectionString;
use shoal_domain::ids::{ObserverId, RunId};
use shoal_domain::observed::Positions;
use shoal_domain::plan::{
    Endpoint, EventHubsSource, KafkaSource, MqttSource, NatsLogin, NatsSource, Plan, Source, Tls,
    WebhookSource,
};
use shoal_domain::template::{DeviceScope, Template};
use shoal_service_kit::{Permit, TargetGuard};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};
use tokio_rustls::TlsConnector;

use self::eventhubs::EventHubsReader;
use self::kafka::KafkaReader;
use self::mqtt::MqttReader;
use self::nats::NatsReader;
use self::reading::{Reader, Reading};
use self::webhook::WebhookReader;
use crate::assignments::load::Refusal;
use crate::engine::{Control, CoreReport, client_config};

/// A connection to a source, inside TLS or not.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin + Debug {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + Debug> Stream for S {}

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
    None,
    Kafka(crate::kafka::Headers<'e>),
    Http(&'e hyper::HeaderMap),
    Named(&'e [(String, Vec<u8>)]),
    Nats(crate::nats::Headers<'e>),
}

impl<'e> Headers<'e> {
    fn get(self, name: &str) -> Option<&'e [u8]> {
        match self {
            Self::None => None,
            Self::Kafka(headers) => headers.get(name),
            Self::Http(headers) => headers.get(name).map(|value| value.as_bytes()),
            Self::Nats(headers) => headers.get(name),
            Self::Named(headers) => {
                headers.iter().find_map(|(known, value)| (known == name).then_some(&value[..]))
            }
        }
    }

    /// The first of the values for which there is something.
    fn find_map<T>(self, look: impl Fn(&'e [u8]) -> Option<T>) -> Option<T> {
        match self {
            Self::None => None,
            Self::Kafka(headers) => headers.iter().find_map(|(_, value)| look(value)),
            Self::Http(headers) => headers.values().find_map(|value| look(value.as_bytes())),
            Self::Named(headers) => headers.iter().find_map(|(_, value)| look(value)),
            Self::Nats(headers) => headers.iter().find_map(|(_, value)| look(value)),
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
    thread: JoinHandle<()>,
    begin: oneshot::Sender<Begin>,
}

impl Prepared {
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
    let reading = Reading::new(&job, reader);
    let body = move || reading.run(ready, begun);
    let thread = std::thread::Builder::new().name(format!("observer-{name}")).spawn(body);
    let failed = |why: String| Refusal::new("SH0310", format!("observer {name}: {why}"));
    let thread = thread.map_err(|error| failed(format!("cannot start its thread: {error}")))?;
    match is_ready.await {
        Ok(Ok(positions)) => Ok(Prepared { positions, thread, begin }),
        Ok(Err(why)) => Err(failed(why)),
        Err(_) => Err(failed("it ended before it could read".to_owned())),
    }
}

/// It is not connected yet.
async fn reader_of(job: &ObserverJob) -> Result<Reader, Refusal> {
    let observer = &job.plan.observers[job.observer.index()];
    let name = &observer.name;
    Ok(match &observer.source {
        Source::Mqtt(source) => Reader::Mqtt(Box::new(mqtt_reader(job, name, source).await?)),
        Source::Kafka(source) => Reader::Kafka(Box::new(kafka_reader(job, name, source).await?)),
        Source::EventHubs(source) => {
            Reader::EventHubs(Box::new(eventhubs_reader(job, name, source).await?))
        }
        Source::Nats(source) => Reader::Nats(Box::new(nats_reader(job, name, source).await?)),
        Source::Webhook(source) => Reader::Webhook(webhook_reader(job, name, source)?),
    })
}

async fn mqtt_reader(
    job: &ObserverJob,
    name: &str,
    source: &MqttSource,
) -> Result<MqttReader, Refusal> {
    let permits = resolve(job, &source.broker.endpoint).await?;
    let login = source.credentials.as_ref().map(|login| {
        let part =
            |part: &Option<Template>| part.as_ref().map(|part| render(job, part)).transpose();
        Ok::<_, Refusal>((part(&login.username)?, part(&login.password)?))
    });
    let (username, password) = login.transpose()?.unwrap_or_default();
    let tls = match &source.broker.tls {
        None => None,
        Some(wanted) => Some(mqtt_tls(job, name, source, wanted).await?),
    };
    let mark = job.run.mark();
    let filter = match &source.share {
        // Runs side by side must not take each other's events.
        Some(share) => format!("$share/{share}-{mark}/{}", source.filter),
        None => source.filter.clone(),
    };
    Ok(MqttReader::new(mqtt::Login {
        permits,
        tls,
        client_id: format!("shoal-{mark}-{name}-{}", job.share),
        username,
        password,
        filter,
        qos: source.qos,
    }))
}

/// What judges the broker's certificate, and whom it must be for.
async fn mqtt_tls(
    job: &ObserverJob,
    name: &str,
    source: &MqttSource,
    wanted: &Tls,
) -> Result<(TlsConnector, ServerName<'static>), Refusal> {
    let wrong = |why: String| Refusal::new("SH0310", format!("observer {name}: {why}"));
    let host = match (&wanted.server_name, &source.broker.endpoint) {
        (Some(name), _) => name.as_str(),
        (None, Endpoint::Tcp { host, .. }) => host.trim_start_matches('[').trim_end_matches(']'),
        (None, Endpoint::Builtin) => "localhost",
    };
    let host = ServerName::try_from(host.to_owned())
        .map_err(|_| wrong(format!("`{host}` is no name that a certificate can be for")))?;
    let config = client_config(&job.plan, wanted, &[]).await.map_err(wrong)?;
    Ok((TlsConnector::from(Arc::new(config)), host))
}

async fn kafka_reader(
    job: &ObserverJob,
    name: &str,
    source: &KafkaSource,
) -> Result<KafkaReader, Refusal> {
    let tls = match &source.tls {
        None => None,
        Some(wanted) => {
            let config = client_config(&job.plan, wanted, &[]).await;
            let wrong = |why| Refusal::new("SH0310", format!("observer {name}: {why}"));
            Some(TlsConnector::from(Arc::new(config.map_err(wrong)?)))
        }
    };
    let login = source.login.as_ref().map(|login| {
        let (username, password) = (render(job, &login.username)?, render(job, &login.password)?);
        Ok::<_, Refusal>(kafka::Login { mechanism: login.mechanism, username, password })
    });
    let starts: Vec<(u32, u64)> = job.positions.of(job.observer, job.share, job.n_shares).collect();
    let source = kafka::Source {
        brokers: source.brokers.clone(),
        topic: source.topic.clone(),
        tls,
        login: login.transpose()?,
        guard: job.guard.clone(),
        share: job.share,
        n_shares: job.n_shares,
    };
    Ok(KafkaReader::new(source, &starts, job.is_resumed))
}

async fn eventhubs_reader(
    job: &ObserverJob,
    name: &str,
    source: &EventHubsSource,
) -> Result<EventHubsReader, Refusal> {
    let wrong = |why: String| Refusal::new("SH0310", format!("observer {name}: {why}"));
    let text = render(job, &source.connection)?;
    let connection = ConnectionString::read(&text)
        .map_err(|bad| wrong(format!("its connection string cannot be used: {bad}")))?;
    let hub = match (&source.hub, &connection.hub) {
        (Some(hub), Some(other)) if hub != other => {
            let why = format!("its connection string is for the hub {other}, not for {hub}");
            return Err(wrong(why));
        }
        (Some(hub), _) | (None, Some(hub)) => hub.clone(),
        (None, None) => {
            let why = "neither `hub` nor `EntityPath` in its connection string names a hub";
            return Err(wrong(why.to_owned()));
        }
    };
    let tls = match connection.is_plain {
        true => None,
        false => {
            let config = client_config(&job.plan, &source.tls, &[]).await.map_err(wrong)?;
            Some(TlsConnector::from(Arc::new(config)))
        }
    };
    let starts: Vec<(u32, u64)> = job.positions.of(job.observer, job.share, job.n_shares).collect();
    let dialled = (connection.host.clone(), connection.port);
    let source = eventhubs::Source {
        dialled: source.endpoint.clone().unwrap_or(dialled),
        connection,
        hub,
        consumer_group: source.consumer_group.clone(),
        token_life_us: source.token_life_us,
        tls,
        guard: job.guard.clone(),
        share: job.share,
        n_shares: job.n_shares,
    };
    Ok(EventHubsReader::new(source, &starts, job.is_resumed))
}

async fn nats_reader(
    job: &ObserverJob,
    name: &str,
    source: &NatsSource,
) -> Result<NatsReader, Refusal> {
    let tls = match &source.tls {
        None => None,
        Some(wanted) => {
            let config = client_config(&job.plan, wanted, &[]).await;
            let wrong = |why| Refusal::new("SH0310", format!("observer {name}: {why}"));
            Some(TlsConnector::from(Arc::new(config.map_err(wrong)?)))
        }
    };
    let login = match &source.login {
        None => None,
        Some(NatsLogin::Token(token)) => Some(nats::Login::Token(render(job, token)?)),
        Some(NatsLogin::Password { username, password }) => {
            Some(nats::Login::Password(render(job, username)?, render(job, password)?))
        }
    };
    let next = job.positions.of(job.observer, job.share, job.n_shares).next();
    let source = nats::Source {
        host: source.host.clone(),
        port: source.port,
        tls,
        login,
        guard: job.guard.clone(),
        subject: source.subject.clone(),
        stream: source.stream.clone(),
    };
    Ok(NatsReader::new(source, next.map(|(_, next)| next), job.is_resumed))
}

/// To listen somewhere takes the same leave as to send there.
fn webhook_reader(
    job: &ObserverJob,
    name: &str,
    source: &WebhookSource,
) -> Result<WebhookReader, Refusal> {
    let WebhookSource { listen, path, bearer } = source;
    let permit = job.guard.authorize(&listen.ip().to_string(), *listen);
    let refused = |refused| Refusal::new("SH0302", format!("observer {name}: {refused}"));
    Ok(WebhookReader::new(webhook::Source {
        permit: permit.map_err(refused)?,
        path: path.clone(),
        mark: job.run.mark(),
        bearer: bearer.as_ref().map(|bearer| render(job, bearer)).transpose()?,
    }))
}

async fn resolve(job: &ObserverJob, endpoint: &Endpoint) -> Result<Vec<Permit>, Refusal> {
    let name = &job.plan.observers[job.observer.index()].name;
    let unresolved = |why: String| Refusal::new("SH0305", format!("observer {name}: {why}"));
    let (host, addrs): (&str, Vec<SocketAddr>) = match endpoint {
        Endpoint::Builtin => {
            let addr = job.builtin.ok_or_else(|| {
                unresolved("`builtin` exists only in a run inside the CLI".to_owned())
            })?;
            ("builtin", vec![addr])
        }
        Endpoint::Tcp { host, port } => {
            let plain = host.trim_start_matches('[').trim_end_matches(']');
            let found = tokio::net::lookup_host((plain, *port)).await;
            let found = found
                .map_err(|error| unresolved(format!("host {host} has no address: {error}")))?;
            (host.as_str(), found.collect())
        }
    };
    let permits = addrs.into_iter().map(|addr| job.guard.authorize(host, addr));
    let permits: Vec<Permit> = permits
        .collect::<Result<_, _>>()
        .map_err(|refused| Refusal::new("SH0302", format!("observer {name}: {refused}")))?;
    match permits.is_empty() {
        true => Err(unresolved(format!("host {host} has no address"))),
        false => Ok(permits),
    }
}

fn render(job: &ObserverJob, template: &Template) -> Result<String, Refusal> {
    let run = job.run.mark();
    // `check` allows nothing here but variables and secrets.
    let scope = DeviceScope {
        seed: 0,
        run: &run,
        group: 0,
        index: 0,
        device: "",
        lets: &[],
        rows: None,
        captured: &[],
        secrets: &job.secrets,
    };
    let mut bytes = Vec::new();
    template.render_device(&scope, &mut bytes).map_err(|missing| {
        let name = &job.plan.observers[job.observer.index()].name;
        Refusal::new("SH0303", format!("observer {name} cannot start: {missing}"))
    })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
