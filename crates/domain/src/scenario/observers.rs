//! Observers: what reads the platform's output.

use super::fields::{Field, Fields};
use super::{MqttTarget, Read, Written, reading};
use crate::diagnostics::{Collector, Place};

#[derive(Debug)]
pub(crate) struct Observer {
    pub(crate) name: String,
    pub(crate) path: String,
    pub(crate) place: Place,
    pub(crate) of: Option<Written>,
    pub(crate) drain: Option<Written>,
    pub(crate) probe: Option<Written>,
    pub(crate) has_read: bool,
    pub(crate) read: Option<Read>,
    /// `eventhubs`, `kafka`, ...
    pub(crate) source: &'static str,
    pub(crate) mqtt: Option<MqttSource>,
    pub(crate) kafka: Option<KafkaSource>,
    pub(crate) eventhubs: Option<EventHubsSource>,
    pub(crate) nats: Option<NatsSource>,
    pub(crate) webhook: Option<WebhookSource>,
}

#[derive(Debug)]
pub(crate) struct MqttSource {
    pub(crate) broker: MqttTarget,
    pub(crate) filter: Option<Written>,
    pub(crate) qos: Option<Written>,
    pub(crate) share: Option<Written>,
    pub(crate) username: Option<Written>,
    pub(crate) password: Option<Written>,
}

#[derive(Debug)]
pub(crate) struct KafkaSource {
    pub(crate) brokers: Option<Written>,
    pub(crate) topic: Option<Written>,
    pub(crate) tls: Option<Written>,
    pub(crate) ca: Option<Written>,
    pub(crate) credentials: Option<KafkaCredentials>,
}

#[derive(Debug)]
pub(crate) struct KafkaCredentials {
    pub(crate) mechanism: Option<Written>,
    pub(crate) username: Option<Written>,
    pub(crate) password: Option<Written>,
}

#[derive(Debug)]
pub(crate) struct EventHubsSource {
    pub(crate) connection: Option<Written>,
    pub(crate) hub: Option<Written>,
    pub(crate) consumer_group: Option<Written>,
    pub(crate) endpoint: Option<Written>,
    pub(crate) ca: Option<Written>,
    pub(crate) ttl: Option<Written>,
}

#[derive(Debug)]
pub(crate) struct NatsSource {
    pub(crate) url: Option<Written>,
    pub(crate) subject: Option<Written>,
    pub(crate) stream: Option<Written>,
    pub(crate) ca: Option<Written>,
    pub(crate) username: Option<Written>,
    pub(crate) password: Option<Written>,
    pub(crate) token: Option<Written>,
}

#[derive(Debug)]
pub(crate) struct WebhookSource {
    pub(crate) listen: Option<Written>,
    pub(crate) path: Option<Written>,
    /// `credentials.bearer`.
    pub(crate) bearer: Option<Written>,
}

pub(super) fn read(name: String, field: &Field<'_>, out: &Collector) -> Option<Observer> {
    let (path, place) = (field.path.clone(), field.key_place);
    let mut fields = Fields::open(field.node, &field.path, out)?;
    let of = fields.required_text("of");
    let drain = fields.text("drain");
    let probe = fields.text("probe");
    let read = fields.find("read");
    let has_read = read.is_some();
    let read = read.and_then(|field| reading::read(&field, out));
    let kind = fields.exactly_one(&["mqtt", "kafka", "eventhubs", "webhook", "nats"]);
    fields.close();
    let (source, field) = kind?;
    let (mut of_mqtt, mut of_kafka, mut of_eventhubs) = (None, None, None);
    let (mut of_nats, mut of_webhook) = (None, None);
    match source {
        "mqtt" => of_mqtt = Some(mqtt(&field, out)?),
        "kafka" => of_kafka = Some(kafka(&field, out)?),
        "eventhubs" => of_eventhubs = Some(eventhubs(&field, out)?),
        "nats" => of_nats = Some(nats(&field, out)?),
        _ => of_webhook = Some(webhook(&field, out)?),
    }
    Some(Observer {
        name,
        path,
        place,
        of,
        drain,
        probe,
        has_read,
        read,
        source,
        mqtt: of_mqtt,
        kafka: of_kafka,
        eventhubs: of_eventhubs,
        nats: of_nats,
        webhook: of_webhook,
    })
}

fn webhook(field: &Field<'_>, out: &Collector) -> Option<WebhookSource> {
    let mut inner = Fields::open(field.node, &field.path, out)?;
    let (listen, path) = (inner.required_text("listen"), inner.text("path"));
    let mut bearer = None;
    if let Some(mut credentials) = inner.map("credentials") {
        bearer = credentials.required_text("bearer");
        credentials.close();
    }
    inner.close();
    Some(WebhookSource { listen, path, bearer })
}

fn kafka(field: &Field<'_>, out: &Collector) -> Option<KafkaSource> {
    let mut inner = Fields::open(field.node, &field.path, out)?;
    let (brokers, topic) = (inner.required_text("brokers"), inner.required_text("topic"));
    let (tls, ca) = (inner.text("tls"), inner.text("ca"));
    let mut credentials = None;
    if let Some(mut fields) = inner.map("credentials") {
        credentials = Some(KafkaCredentials {
            mechanism: fields.text("mechanism"),
            username: fields.required_text("username"),
            password: fields.required_text("password"),
        });
        fields.close();
    }
    inner.close();
    Some(KafkaSource { brokers, topic, tls, ca, credentials })
}

fn eventhubs(field: &Field<'_>, out: &Collector) -> Option<EventHubsSource> {
    let mut inner = Fields::open(field.node, &field.path, out)?;
    let source = EventHubsSource {
        connection: inner.required_text("connection"),
        hub: inner.text("hub"),
        consumer_group: inner.text("consumer_group"),
        endpoint: inner.text("endpoint"),
        ca: inner.text("ca"),
        ttl: inner.text("ttl"),
    };
    inner.close();
    Some(source)
}

fn mqtt(field: &Field<'_>, out: &Collector) -> Option<MqttSource> {
    let mut inner = Fields::open(field.node, &field.path, out)?;
    let broker = MqttTarget {
        url: inner.required_text("url"),
        protocol: inner.text("protocol"),
        ca: inner.text("ca"),
        ..MqttTarget::default()
    };
    let filter = inner.required_text("filter");
    let (qos, share) = (inner.text("qos"), inner.text("share"));
    let (mut username, mut password) = (None, None);
    if let Some(mut credentials) = inner.map("credentials") {
        username = credentials.text("username");
        password = credentials.text("password");
        credentials.close();
    }
    inner.close();
    Some(MqttSource { broker, filter, qos, share, username, password })
}

fn nats(field: &Field<'_>, out: &Collector) -> Option<NatsSource> {
    let mut inner = Fields::open(field.node, &field.path, out)?;
    let (url, subject) = (inner.required_text("url"), inner.required_text("subject"));
    let (stream, ca) = (inner.text("stream"), inner.text("ca"));
    let (mut username, mut password, mut token) = (None, None, None);
    if let Some(mut credentials) = inner.map("credentials") {
        username = credentials.text("username");
        password = credentials.text("password");
        token = credentials.text("token");
        credentials.close();
    }
    inner.close();
    Some(NatsSource { url, subject, stream, ca, username, password, token })
}
