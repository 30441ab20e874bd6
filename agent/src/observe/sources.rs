//! From what the plan says of a source to a reader of it: names resolved, leave asked for, secrets rendered.
//! Everything that is wrong is one sentence, before anything is read.

use std::net::SocketAddr;
use std::sync::Arc;

use shoal_domain::eventhubs::ConnectionString;
use shoal_domain::plan::{
    Endpoint, EventHubsSource, KafkaSource, MqttSource, NatsLogin, NatsSource, Source, Tls,
    WebhookSource,
};
use shoal_domain::template::{DeviceScope, Template};
use shoal_service_kit::Permit;
use tokio_rustls::TlsConnector;

use super::eventhubs::{self, EventHubsReader};
use super::kafka::{self, KafkaReader};
use super::mqtt::{self, MqttReader};
use super::nats::{self, NatsReader};
use super::webhook::{self, WebhookReader};
use super::{ObserverJob, Reader};
use crate::assignments::load::Refusal;
use crate::engine::client_config;
use crate::engine::single::Broker;

/// It is not connected yet.
pub(super) async fn reader_of(job: &ObserverJob) -> Result<Reader, Refusal> {
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
    let wrong = |why: String| Refusal::new("SH0310", format!("observer {name}: {why}"));
    let broker = Broker::of(&job.plan, &source.broker, permits).await.map_err(wrong)?;
    let mark = job.run.mark();
    let filter = match &source.share {
        // Runs side by side must not take each other's events.
        Some(share) => format!("$share/{share}-{mark}/{}", source.filter),
        None => source.filter.clone(),
    };
    Ok(MqttReader::new(mqtt::Login {
        broker,
        protocol: source.broker.protocol,
        client_id: format!("shoal-{mark}-{name}-{}", job.share),
        username,
        password,
        filter,
        qos: source.qos,
    }))
}

/// Trusts whom the scenario trusts.
async fn connector(job: &ObserverJob, name: &str, wanted: &Tls) -> Result<TlsConnector, Refusal> {
    let config = client_config(&job.plan, wanted, &[]).await;
    let wrong = |why| Refusal::new("SH0310", format!("observer {name}: {why}"));
    Ok(TlsConnector::from(Arc::new(config.map_err(wrong)?)))
}

async fn kafka_reader(
    job: &ObserverJob,
    name: &str,
    source: &KafkaSource,
) -> Result<KafkaReader, Refusal> {
    let tls = match &source.tls {
        None => None,
        Some(wanted) => Some(connector(job, name, wanted).await?),
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
        false => Some(connector(job, name, &source.tls).await?),
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
        Some(wanted) => Some(connector(job, name, wanted).await?),
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
