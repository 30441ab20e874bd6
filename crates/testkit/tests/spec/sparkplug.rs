//! Edge nodes of Sparkplug B, read by a decoder that knows the public schema and nothing of ours.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use prost_reflect::{DescriptorPool, DynamicMessage, ReflectMessage as _, Value};
use rumqttc::{Client, MqttOptions, QoS};
use shoal_domain::run::{Phase, Validity};
use shoal_testkit::cluster::{Cluster, series};
use shoal_testkit::expect::eventually;
use shoal_testkit::mosquitto::{Door, Mosquitto};
use shoal_testkit::subscriber::{Message, Subscriber};

const SCENARIO: &str = r#"
version: 1
name: sparkplug
vars: { broker: }
targets: { b: { mqtt: { url: "${vars.broker}" } } }
groups:
  edges:
    target: b
    devices: 4
    id: edge-${index}
    reconnect: { first: 50ms, max: 100ms }
    sparkplug: { group: "plant-${run}" }
    send:
      node: { every: 100ms, sparkplug: { metrics: { load: "${int(-5, 5)}", "Properties/serial": "SN-${index}" } } }
      press: { every: 20ms, sparkplug: { device: press-1, metrics: { t: { float: "${walk(15, 95, 0.5)}" }, n: { uint16: "${step(0, 1)}" }, low: { int8: -3 }, on: { boolean: "${choice('true', 'false')}" }, raw: "${bytes(4)}" } } }
      oven: { every: 50ms, sparkplug: { device: "oven-${index}", metrics: { t: "${float(100, 200)}" } } }
load:
  - ramp: { to: 100%, over: 100ms }
  - hold: { for: 4s }
  - storm: { group: edges, share: 50%, leave: cut, away: 300ms, back_within: 100ms }
  - hold: { for: 2s }
"#;

/// What one payload says.
#[derive(Debug, Clone)]
struct Said {
    kind: String,
    /// Below the edge node.
    device: Option<String>,
    seq: Option<u64>,
    metrics: Vec<Metric>,
}

#[derive(Debug, Clone)]
struct Metric {
    name: Option<String>,
    alias: Option<u64>,
    datatype: Option<u64>,
    value: Value,
}

struct Decoder(DescriptorPool);

impl Decoder {
    fn new() -> Self {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/proto");
        let set = protox::compile(["sparkplug_b.proto"], [dir]).expect("our schema compiles");
        Self(DescriptorPool::from_file_descriptor_set(set).expect("and stands alone"))
    }

    fn message(&self, name: &str) -> prost_reflect::MessageDescriptor {
        self.0.get_message_by_name(name).expect("a message of the schema")
    }

    /// By edge node, in the order of their arrival.
    fn by_node(&self, messages: &[Message]) -> BTreeMap<String, Vec<Said>> {
        let mut nodes: BTreeMap<String, Vec<Said>> = BTreeMap::new();
        for message in messages {
            let levels: Vec<&str> = message.topic.split('/').collect();
            assert_eq!(levels[0], "spBv1.0");
            assert!(levels[1].starts_with("plant-"), "{levels:?}");
            let device = levels.get(4).map(|device| (*device).to_owned());
            let said = self.said(levels[2], device, &message.payload);
            nodes.entry(levels[3].to_owned()).or_default().push(said);
        }
        nodes
    }

    fn said(&self, kind: &str, device: Option<String>, payload: &[u8]) -> Said {
        let payload = DynamicMessage::decode(self.message("sparkplug.Payload"), payload);
        let payload = payload.expect("a payload of the schema");
        assert_eq!(payload.unknown_fields().count(), 0);
        let number = |message: &DynamicMessage, name: &str| {
            let value = message.has_field_by_name(name).then(|| message.get_field_by_name(name));
            value.flatten().and_then(|v| v.as_u64().or(v.as_u32().map(u64::from)))
        };
        let now_ms = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("after 1970").as_millis();
        let is_now = |ms: u64| now_ms.abs_diff(u128::from(ms)) < 600_000;
        assert!(number(&payload, "timestamp").is_some_and(is_now), "{payload:?}");
        let metrics = payload.get_field_by_name("metrics").expect("a field of the schema");
        let metrics = metrics.as_list().expect("a list").iter().map(|metric| {
            let metric = metric.as_message().expect("a metric");
            assert_eq!(metric.unknown_fields().count(), 0);
            assert!(number(metric, "timestamp").is_some_and(is_now), "{metric:?}");
            let oneof = metric.descriptor().oneofs().next().expect("the value");
            let value = oneof.fields().find(|field| metric.has_field(field));
            let name =
                metric.get_field_by_name("name").filter(|_| metric.has_field_by_name("name"));
            Metric {
                name: name.map(|name| name.as_str().expect("text").to_owned()),
                alias: number(metric, "alias"),
                datatype: number(metric, "datatype"),
                value: metric.get_field(&value.expect("every metric has a value")).into_owned(),
            }
        });
        let (kind, seq) = (kind.to_owned(), number(&payload, "seq"));
        Said { kind, device, seq, metrics: metrics.collect() }
    }

    /// The command to be born again.
    fn rebirth(&self) -> Vec<u8> {
        use prost_reflect::prost::Message as _;
        let mut metric = DynamicMessage::new(self.message("sparkplug.Metric"));
        metric.set_field_by_name("name", Value::String("Node Control/Rebirth".to_owned()));
        metric.set_field_by_name("datatype", Value::U32(11));
        metric.set_field_by_name("boolean_value", Value::Bool(true));
        let mut payload = DynamicMessage::new(self.message("sparkplug.Payload"));
        payload.set_field_by_name("metrics", Value::List(vec![Value::Message(metric)]));
        payload.encode_to_vec()
    }
}

/// Publishes to topics that a witness has seen.
fn publish(broker: SocketAddr, topic: &str, payload: &[u8]) {
    let options = MqttOptions::new("host-application", broker.ip().to_string(), broker.port());
    let is_ack = |event| matches!(event, Ok(rumqttc::Event::Incoming(rumqttc::Packet::PubAck(_))));
    // The client has a runtime of its own, which needs a thread of its own.
    let acked = std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            let (client, mut connection) = Client::new(options, 4);
            client.publish(topic, QoS::AtLeastOnce, false, payload).expect("room for one request");
            connection.iter().any(is_ack)
        });
        client.join().expect("it does not panic")
    });
    assert!(acked, "the broker has the command");
}

fn value<'s>(said: &'s Said, name: &str) -> &'s Value {
    let found = said.metrics.iter().find(|metric| metric.name.as_deref() == Some(name));
    &found.unwrap_or_else(|| panic!("no metric {name} in {said:?}")).value
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_node_is_born_reports_in_sequence_and_dies_as_the_standard_says() {
    let decoder = Decoder::new();
    let broker = Mosquitto::start();
    let witness = Subscriber::start(broker.addr(), "spBv1.0/#");
    let cluster = Cluster::start(1).await;
    let run = cluster.run(SCENARIO, &[("broker", &broker.url_of(Door::Plain))]).await;
    witness.hears(200);
    let mut messages = witness.all();
    let group = messages[0].topic.split('/').nth(1).unwrap().to_owned();
    let ask = |node: &str| format!("spBv1.0/{group}/NCMD/{node}");
    publish(broker.addr(), &ask("edge-1"), &decoder.rebirth());
    publish(broker.addr(), &ask("edge-3"), &[0xff, 0xff, 0xff]);
    let deadline = Duration::from_secs(60);
    eventually(deadline, "it is born again", || async {
        let report = run.report().await;
        report.series.iter().any(|row| row.name == "birth" && row.count >= 15)
    })
    .await;
    let report = run.over().await;
    messages.extend(witness.all());
    messages.retain(|message| !message.topic.contains("/NCMD/"));

    assert_eq!(report.phase, Phase::Finished);
    assert_ne!(report.validity, Some(Validity::Invalid), "{report:#?}");
    let nodes = decoder.by_node(&messages);
    assert_eq!(nodes.keys().collect::<Vec<_>>(), ["edge-0", "edge-1", "edge-2", "edge-3"]);
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for (node, all) in &nodes {
        let (mut expected, mut born, mut bd_seq) = (None, BTreeMap::new(), None);
        let mut births_of_node = 0;
        for said in all {
            *counts
                .entry(match said.kind.as_str() {
                    "NBIRTH" | "DBIRTH" => "birth",
                    "NDATA" => "node",
                    "DDATA" if said.device.as_deref() == Some("press-1") => "press",
                    "DDATA" => "oven",
                    "NDEATH" | "DDEATH" => "death",
                    other => panic!("{other}"),
                })
                .or_default() += 1;
            match said.kind.as_str() {
                "NBIRTH" => {
                    births_of_node += 1;
                    assert_eq!(said.seq, Some(0), "{node}");
                    assert_eq!(value(said, "Node Control/Rebirth"), &Value::Bool(false));
                    bd_seq = value(said, "bdSeq").as_u64();
                    assert!(bd_seq.is_some());
                    born.clear();
                }
                "NDEATH" => {
                    assert_eq!((said.seq, value(said, "bdSeq").as_u64()), (None, bd_seq), "{node}");
                    expected = None;
                    continue;
                }
                _ => assert_eq!(said.seq, expected, "{node} {said:?}"),
            }
            expected = said.seq.map(|seq| (seq + 1) % 256);
            for metric in &said.metrics {
                if said.kind.ends_with("BIRTH") {
                    assert!(metric.datatype.is_some() && metric.name.is_some(), "{metric:?}");
                    if let Some(alias) = metric.alias {
                        let what = (said.device.clone(), metric.name.clone(), metric.datatype);
                        assert!(born.insert(alias, what).is_none(), "an alias has one meaning");
                    }
                } else {
                    // A report names its metrics by what the birth has said.
                    assert_eq!((&metric.name, metric.datatype), (&None, None), "{metric:?}");
                    let (device, _, datatype) = &born[&metric.alias.unwrap()];
                    assert_eq!(device, &said.device, "{node}");
                    let fits = matches!(
                        (datatype, &metric.value),
                        (Some(4), Value::U64(_))
                            | (Some(12), Value::String(_))
                            | (Some(9), Value::F32(_))
                            | (Some(6 | 1), Value::U32(_))
                            | (Some(11), Value::Bool(_))
                            | (Some(17), Value::Bytes(_))
                            | (Some(10), Value::F64(_))
                    );
                    assert!(fits, "{datatype:?} {metric:?}");
                }
            }
        }
        let names: BTreeSet<_> = born.values().filter_map(|(_, name, _)| name.as_deref()).collect();
        let expected = ["load", "Properties/serial", "t", "n", "low", "on", "raw"];
        assert_eq!(names, expected.into_iter().collect(), "{node}");
        let dead: Vec<_> = all[all.len() - 3..].iter().map(|said| said.device.as_deref()).collect();
        let oven = node.replace("edge", "oven");
        assert_eq!(dead, [Some("press-1"), Some(oven.as_str()), None], "{node} dies last");
        let cut = all.iter().filter(|said| said.kind == "NDEATH").count() - 1;
        let reborn = usize::from(node == "edge-1");
        assert_eq!(births_of_node, 1 + cut + reborn, "{node}");
    }
    // The first birth of a node whose values are known: those of its first reports.
    let first = &nodes["edge-2"];
    let birth = first.iter().find(|said| said.kind == "DBIRTH").unwrap();
    let report_of_press = first.iter().find(|said| said.kind == "DDATA").unwrap();
    assert_eq!(birth.device.as_deref(), Some("press-1"));
    assert_eq!(value(birth, "low"), &Value::U32(-3_i32 as u32));
    assert_eq!(value(birth, "t"), &report_of_press.metrics[0].value);

    for name in ["node", "press", "oven"] {
        let row = series(&report, name, "all");
        let slots = row.slots.unwrap();
        assert_eq!((slots.sent, slots.planned), (counts[name], slots.n_classed()), "{name}");
        assert_eq!(row.acked, None, "nobody acknowledges a report");
    }
    let births = series(&report, "birth", "all");
    assert_eq!((births.count, births.acked), (counts["birth"], None));
    // Two were cut, one was asked for; each is a node's and two devices'.
    assert_eq!(counts["birth"], 3 * (4 + 2 + 1));
    assert_eq!(series(&report, "death", "all").count, 3 * 4, "the others are the broker's word");
    assert_eq!(counts["death"], 3 * 4 + 2);
    let told = series(&report, "subscribe", "all");
    assert_eq!((told.received, told.errors), (2, 1), "{told:?}");
    assert_eq!(told.acked, Some(2 * (4 + 2)));
}
