//! What observers read: what each kind of source must say, and what it cannot have.

use super::{plan, with};
use crate::plan::Source;

#[test]
fn a_webhook_says_where_it_listens_and_has_no_time_of_enqueueing() {
    const WEBHOOK: &str = include_str!("../../../../../scenarios/ingestion-webhook.yaml");
    let plan = plan(WEBHOOK, &[("listen", "127.0.0.1:9000")]);
    let source = &plan.observers[0].source;
    assert_eq!((source.keeps_events(), source.max_readers()), (false, 1));
    let listen = "listen: \"${vars.listen}\"";
    let path = "path: /events";
    for (left, right, expected) in [
        (listen, "listen: localhost:9000", "an address of the agent with a port"),
        (listen, "listen: 0.0.0.0", "an address of the agent with a port"),
        (listen, "listen: 0.0.0.0:0", "an address of the agent with a port"),
        (path, "path: events", "a path without a query"),
        (path, "path: /a?b", "a path without a query"),
        (path, "path: /a, ca: x", "unknown key `ca`"),
        (path, "credentials: { username: u }", "`bearer` is missing"),
        ("ingestion.lost < 0.01%", "ingestion.ingest_delay.p95 < 1s", "webhook does not carry"),
    ] {
        let found = with(WEBHOOK, left, right);
        assert!(found.iter().any(|line| line.contains(expected)), "{right}: {found:#?}");
    }
}

#[test]
fn a_kafka_source_says_what_is_wrong_with_it() {
    const KAFKA: &str = include_str!("../../../../../scenarios/ingestion-kafka.yaml");
    let plan = plan(KAFKA, &[("kafka", "a.example, [::1]:9093")]);
    let source = &plan.observers[0].source;
    let Source::Kafka(kafka) = source else { panic!("{source:?}") };
    assert_eq!(kafka.brokers, [("a.example".to_owned(), 9092), ("::1".to_owned(), 9093)]);
    assert!(source.keeps_events());
    let topic = "topic: \"${vars.kafka_topic}\"";
    for (left, right, expected) in [
        ("\"${vars.kafka}\"", "\"a b:1\"", "host:port"),
        (topic, "topic: no/such", "the name of a topic"),
        (topic, "topic: t, ca: agent:/x.pem", "`ca` is for brokers with TLS"),
        (topic, "topic: t, group: g", "unknown key `group`"),
        (topic, "topic: t, credentials: { username: u }", "`password` is missing"),
        (
            topic,
            "topic: t, credentials: { mechanism: gssapi, username: u, password: p }",
            "one of plain, scram-sha-256, scram-sha-512",
        ),
    ] {
        let found = with(KAFKA, left, right);
        assert!(found.iter().any(|line| line.contains(expected)), "{right}: {found:#?}");
    }
}

#[test]
fn an_event_hub_says_what_is_wrong_with_it() {
    const EVENT_HUB: &str = include_str!("../../../../../scenarios/ingestion-eventhubs.yaml");
    let plan = plan(EVENT_HUB, &[("hub", "other")]);
    let source = &plan.observers[0].source;
    let Source::EventHubs(hub) = source else { panic!("{source:?}") };
    assert_eq!((hub.hub.as_deref(), hub.consumer_group.as_str()), (Some("other"), "$Default"));
    assert_eq!((hub.token_life_us, hub.endpoint.as_ref()), (3_600_000_000, None));
    assert!(source.keeps_events());
    let key = "hub: ${vars.hub}";
    for (left, right, expected) in [
        (key, "hub: a/b", "the name of an event hub"),
        ("${vars.consumer_group}", "a b", "the name of a consumer group"),
        (key, "endpoint: a b:1", "host:port"),
        (key, "ttl: 9s", "a duration of at least 10s"),
        (key, "topic: t", "unknown key `topic`"),
        ("connection: ${secret.eventhub}", "ttl: 1h", "`connection` is missing"),
        ("connection: ${secret.eventhub}", "connection: ${device}", "fixed when the plan is made"),
    ] {
        let found = with(EVENT_HUB, left, right);
        assert!(found.iter().any(|line| line.contains(expected)), "{right}: {found:#?}");
    }
    assert_eq!(with(EVENT_HUB, key, "endpoint: localhost"), Vec::<String>::new());
}

#[test]
fn a_stream_of_nats_says_what_is_wrong_with_it() {
    const NATS: &str = include_str!("../../../../../scenarios/ingestion-nats.yaml");
    let of = |url: &str| match &plan(NATS, &[("nats", url)]).observers[0].source {
        Source::Nats(nats) => (nats.host.clone(), nats.port, nats.tls.is_some()),
        other => panic!("{other:?}"),
    };
    assert_eq!(of("nats://a.example"), ("a.example".to_owned(), 4222, false));
    assert_eq!(of("tls://[::1]:7000"), ("::1".to_owned(), 7000, true));
    let (url, subject) = ("url: ${vars.nats}", "subject: ${vars.subject} ");
    for (left, right, expected) in [
        (url, "url: mqtt://a", "nats://host[:port] or tls://host[:port]"),
        (subject, "subject: a..b ", "a subject, in which"),
        (subject, "subject: a.>.b ", "a subject, in which"),
        (url, "url: nats://a\n      stream: a.b", "the name of a stream"),
        ("username: reader, ", "", "`username` and `password`, or `token` alone"),
        (url, "url: nats://a\n      durable: d", "unknown key `durable`"),
    ] {
        let found = with(NATS, left, right);
        assert!(found.iter().any(|line| line.contains(expected)), "{right}: {found:#?}");
    }
}
