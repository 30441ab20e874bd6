//! Files that go with a run: every device gets its own row, wherever it is simulated.

use std::collections::BTreeSet;

use shoal_domain::run::{Phase, Validity};
use shoal_proto::v1::ShippedFile;
use shoal_testkit::cluster::{Cluster, series};

const ROWS: &str = r#"
version: 1
name: rows
targets: { broker: { mqtt: { url: builtin } } }
groups:
  users:
    target: broker
    devices: 40
    rows: data/users.csv
    id: ${row.user}
    let: { home: "at ${row.site}" }
    send:
      here: { every: 500ms, publish: { topic: "d/${index}", qos: 1, text: "${row.user} ${let.home}" } }
load: [ { ramp: { to: 100%, over: 200ms } }, { hold: { for: 2s } } ]
"#;

#[tokio::test(flavor = "multi_thread")]
async fn each_device_of_two_agents_sends_its_own_row() {
    let cluster = Cluster::start(2).await;
    cluster.broker().record(true);
    let rows = (0..40).map(|i| format!("user-{i:02},\"site {i}, north\"\n"));
    let table: String = std::iter::once("user,site\n".to_owned()).chain(rows).collect();
    let files = vec![ShippedFile { path: "data/users.csv".into(), body: table.into_bytes() }];
    let report = cluster.run_with(ROWS, &[], files).await.over().await;

    assert_eq!((report.phase, report.validity), (Phase::Finished, Some(Validity::Valid)));
    assert_eq!(report.scenario.files[0].path, "data/users.csv");
    let seen: BTreeSet<(String, String)> = cluster
        .broker()
        .recorded()
        .into_iter()
        .map(|message| (message.topic, String::from_utf8(message.payload.to_vec()).unwrap()))
        .collect();
    let expected: BTreeSet<(String, String)> =
        (0..40).map(|i| (format!("d/{i}"), format!("user-{i:02} at site {i}, north"))).collect();
    assert_eq!(seen, expected);
}

const REPLAY: &str = r#"
version: 1
name: replay
targets: { broker: { mqtt: { url: builtin } } }
groups:
  meters:
    target: broker
    devices: 8
    send:
      day: { replay: { file: day.csv, loop: true, speed: 2, qos: 1 } }
load: [ { ramp: { to: 100%, over: 400ms } }, { hold: { for: 2s } } ]
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_is_replayed_and_every_slot_of_it_is_accounted_for() {
    let cluster = Cluster::start(2).await;
    cluster.broker().record(true);
    let table = "offset,topic,payload_base64\n0,a,AAE=\n300ms,b,/w==\n0.6,a,AAE=\n";
    let files = vec![ShippedFile { path: "day.csv".into(), body: table.into() }];
    let report = cluster.run_with(REPLAY, &[], files).await.over().await;

    assert_eq!((report.phase, report.validity), (Phase::Finished, Some(Validity::Valid)));
    let slots = series(&report, "day", "all").slots.unwrap();
    assert_eq!((slots.planned, slots.sent), (slots.n_classed(), slots.planned), "{slots:?}");
    let recorded = cluster.broker().recorded();
    assert_eq!(slots.sent, recorded.len() as u64);
    let of_b = recorded.iter().filter(|message| message.topic == "b").count();
    assert!(of_b * 3 >= recorded.len() - 2 * 8 && of_b * 3 <= recorded.len() + 2 * 8);
    let is_whole = |message: &shoal_demo_broker::Recorded| match message.topic.as_str() {
        "a" => message.payload[..] == [0, 1],
        topic => topic == "b" && message.payload[..] == [255],
    };
    assert!(recorded.iter().all(is_whole));
}
