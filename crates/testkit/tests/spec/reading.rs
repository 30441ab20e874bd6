//! Platforms that do not carry the stamp through: their own fields say as exactly what came out.

use std::time::Duration;

use serde_json::{Value, json};
use shoal_domain::report::RunReport;
use shoal_domain::run::Phase;
use shoal_proto::v1::ShippedFile;
use shoal_testkit::cluster::{Cluster, observed, series};
use shoal_testkit::kafka::stand_in::{Security, StandIn, TOPIC};
use shoal_testkit::mosquitto::Mosquitto;
use shoal_testkit::platform::{Fate, Partitioned, Platform};

const FIELDS: &str = include_str!("../../../../scenarios/ingestion-fields.yaml");

fn sent(report: &RunReport, name: &str) -> u64 {
    series(report, name, "all").slots.expect("a series with a schedule").sent
}

#[tokio::test(flavor = "multi_thread")]
async fn injected_loss_duplicates_and_reordering_come_out_exact_by_fields() {
    let broker = Mosquitto::start();
    let platform = Platform::start(broker.addr(), Fate::in_a_thousand);
    let cluster = Cluster::start(2).await;
    let url = format!("mqtt://{}", broker.addr());
    let overrides = [
        ("broker", url.as_str()),
        ("output_broker", &url),
        ("output_filter", "out/#"),
        ("devices", "100"),
        ("period", "100ms"),
        ("hold", "8s"),
    ];
    // What is lost never comes: the drain is waited for.
    let scenario = FIELDS.replace("drain: 30s", "drain: 3s");
    let report = cluster.run(&scenario, &overrides).await.over().await;

    let seen = observed(&report);
    assert_eq!(seen.acked.unwrap(), platform.taken(), "{seen:#?}");
    assert!(seen.acked > Some(5_000), "{seen:#?}");
    assert_eq!(seen.lost, Some(platform.lost() + platform.garbled()), "{seen:#?}");
    assert_eq!(seen.duplicated, Some(platform.doubled()), "{seen:#?}");
    assert_eq!(seen.unparsed, platform.garbled(), "{seen:#?}");
    assert_eq!(seen.out_of_order, Some(platform.swapped()), "{seen:#?}");
    assert_eq!((seen.resent, seen.foreign), (Some(0), 0), "{seen:#?}");
    // Whole milliseconds are sent, so no delay is known better.
    assert!(seen.clock_bound_us >= 1_000, "{seen:#?}");
    let delays = seen.end_to_end_delay_us.unwrap();
    assert_eq!(delays.count, seen.received);
    assert!(delays.min > -(seen.clock_bound_us as i64) && delays.p50 < 5_000_000, "{delays:?}");
}

/// Ids of a table, so that an observer must have all of it; a platform that makes headers and
/// another document of everything.
const WAREHOUSE: &str = r#"
version: 1
name: warehouse
vars: { broker: mqtt://127.0.0.1:1883, kafka: "127.0.0.1:9092" }
targets: { platform: { mqtt: { url: "${vars.broker}" } } }
groups:
  meters:
    target: platform
    devices: 40
    rows: meters.csv
    id: ${row.serial}
    send:
      reading:
        every: 100ms
        publish:
          topic: devices/${device}/reading
          qos: 1
          json: { test: "${run}", n: "${seq}", at: "${now_us}", meter: "${device}" }
observers:
  rows:
    of: meters.reading
    drain: 20s
    read:
      run: /test
      device: { header: Serial }
      seq: /reading/n
      sent: { json: /reading/at_s, unit: s }
    kafka: { brokers: "${vars.kafka}", topic: TOPIC }
load: [ { ramp: { to: 100%, over: 400ms } }, { hold: { for: 3s } } ]
"#;

#[tokio::test(flavor = "multi_thread")]
async fn devices_are_known_by_ids_of_a_table_and_fields_by_headers() {
    let (broker, stand_in) = (Mosquitto::start(), StandIn::start(4, Security::default()));
    let output = stand_in.clone();
    let write = move |partition: i32, values: &[Vec<u8>]| {
        let event = |value: &Vec<u8>| {
            let sent: Value = serde_json::from_slice(value).expect("what a device sent");
            let at_us = sent["at"].as_u64().expect("a time");
            // Numbers become texts, the time seconds with a fraction, the device a header.
            let at_s = format!("{}.{:06}", at_us / 1_000_000, at_us % 1_000_000);
            let reading = json!({ "n": sent["n"].to_string(), "at_s": at_s });
            let value = json!({ "reading": reading, "test": sent["test"] }).to_string();
            let serial = sent["meter"].as_str().expect("an id").to_owned();
            (vec![("serial".to_owned(), serial)], value.into_bytes())
        };
        output.produce_with_headers(partition, &values.iter().map(event).collect::<Vec<_>>());
    };
    let to = Partitioned { n_partitions: 4, delay: Duration::ZERO, write: Box::new(write) };
    let platform = Platform::partitioned(broker.addr(), to, |_| Fate::Pass);
    let cluster = Cluster::start(2).await;
    let table: String = std::iter::once("serial\n".to_owned())
        .chain((0..40).map(|i| format!("SN-{:04}\n", i * 37)))
        .collect();
    let files = vec![ShippedFile { path: "meters.csv".into(), body: table.into_bytes() }];
    let url = format!("mqtt://{}", broker.addr());
    let overrides = [("broker", url.as_str()), ("kafka", &stand_in.bootstrap())];
    let scenario = WAREHOUSE.replace("TOPIC", TOPIC);
    let report = cluster.run_with(&scenario, &overrides, files).await.over().await;

    assert_eq!(report.phase, Phase::Finished, "{report:#?}");
    let (seen, sent) = (observed(&report), sent(&report, "reading"));
    assert_eq!((seen.unique, seen.lost, seen.duplicated), (Some(sent), Some(0), Some(0)));
    assert_eq!((seen.received, seen.unparsed, seen.foreign), (platform.taken(), 0, 0), "{seen:#?}");
    assert_eq!(seen.ingest_delay_us.unwrap().count, sent, "{seen:#?}");
}
