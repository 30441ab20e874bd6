//! A running load that is changed: what was asked takes place, counts exactly, and outlives the
//! control plane.

use std::collections::BTreeSet;

use shoal_testkit::mosquitto::Mosquitto;
use shoal_testkit::subscriber::Subscriber;

use crate::deployment::{Deployment, series};

const SCENARIO: &str = "\
version: 1
name: scaled
targets: { broker: { mqtt: { url: \"mqtt://BROKER\" } } }
groups:
  g:
    target: broker
    devices: 40
    id: g-${index}
    send: { telemetry: { every: 200ms, publish: { topic: \"devices/${device}/telemetry\", qos: 1, json: { trace: \"${stamp}\" } } } }
load:
  - ramp: { to: 10, over: 500ms }
  - hold: { for: 20s }
";

#[tokio::test]
async fn a_scaled_run_counts_what_the_broker_counts_also_over_a_killed_control_plane() {
    let broker = Mosquitto::start();
    let witness = Subscriber::start(broker.addr(), "devices/+/telemetry");
    let mut deployment = Deployment::start().await;
    deployment.agent("big", "2").await;
    deployment.agent("small", "1").await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("scaled.yaml");
    std::fs::write(&file, SCENARIO.replace("BROKER", &broker.addr().to_string())).unwrap();

    let started = deployment.shoal(&["start", file.to_str().unwrap(), "--agents", "2"]).await;
    assert_eq!(started.code, Some(0), "{started:?}");
    witness.hears(60);

    let too_many = deployment.shoal(&["scale", "last", "--devices", "41"]).await;
    too_many.refused(2, "SH0411");
    assert!(too_many.stderr.contains("group g has 40"), "{too_many:?}");
    let up = ["scale", "last", "--group", "g", "--devices", "40", "--rate", "30/s"];
    let up = deployment.shoal(&[&up[..], &["--output", "json"]].concat()).await.document();
    assert_eq!((&up["from_devices"], &up["devices"]), (&10.into(), &40.into()), "{up:#}");
    let took = up["reached_s"].as_f64().unwrap() - up["at_s"].as_f64().unwrap();
    assert!((took - 1.0).abs() < 0.001, "30 devices at 30/s: {up:#}");

    deployment.restart_control_plane().await;

    witness.hears(800);
    let down = ["scale", "last", "--devices", "5", "--rate", "100/s", "--output", "json"];
    let down = deployment.shoal(&down).await.document();
    assert_eq!(down["from_devices"], 40, "the first change is still in force: {down:#}");

    let watched = deployment.shoal(&["watch", "last"]).await;
    let document = deployment.shoal(&["show", "last", "--output", "json"]).await.document();
    assert_eq!(watched.code, Some(0), "{watched:?} {document:#}");
    assert_eq!(document["validity"], "VALID", "{document:#}");
    let revisions = document["load_revisions"].as_array().unwrap();
    assert_eq!((revisions.len(), &revisions[1]["devices"]), (2, &5.into()), "{document:#}");
    let telemetry = series(&document, "telemetry");
    let arrived = witness.all();
    assert_eq!(
        telemetry["slots"]["planned"],
        telemetry["slots"]["sent"].as_u64().unwrap()
            + telemetry["slots"]["unsent"].as_u64().unwrap(),
        "{document:#}"
    );
    assert_eq!(telemetry["slots"]["sent"], arrived.len(), "{document:#}");
    let topics: BTreeSet<_> = arrived.iter().map(|message| &message.topic).collect();
    assert_eq!(topics.len(), 40, "all devices have sent");
    assert_eq!(series(&document, "connect")["count"], 40, "and nobody connected twice");
    assert!(document["agents"].as_array().unwrap().iter().all(|row| row["totals_proved"] == true));

    let over = deployment.shoal(&["scale", "last", "--devices", "5"]).await;
    over.refused(2, "SH0411");
}
