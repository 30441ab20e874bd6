//! Two runs on one fleet at one time: by labels, and by what is free.

use shoal_testkit::mosquitto::Mosquitto;
use shoal_testkit::subscriber::Subscriber;

use crate::deployment::{Deployment, series, shipped};
use crate::runs::marks;

#[tokio::test]
async fn two_runs_share_a_fleet_by_labels_and_by_what_is_free() {
    let brokers = [Mosquitto::start(), Mosquitto::start()];
    let witnesses = brokers.each_ref().map(|b| Subscriber::start(b.addr(), "devices/+/telemetry"));
    let mut deployment = Deployment::start().await;
    for (agent, labels) in [("anna", "SHOAL_LABELS=region=eu"), ("bert", "SHOAL_LABELS=region=us")]
    {
        deployment.agent_under(&["env", labels], agent, "1").await;
    }
    // The first is placed, the second goes wherever there is room: on both.
    let text = std::fs::read_to_string(shipped("telemetry.yaml")).unwrap();
    let placed = text.replace(
        "    devices: ${vars.devices}\n",
        "    devices: ${vars.devices}\n    place: { region: eu }\n",
    );
    assert_ne!(placed, text);
    let placed = deployment.file("placed.yaml", &placed);
    let files = [placed, shipped("telemetry.yaml")];
    let mut runs = Vec::new();
    for (file, broker) in files.iter().zip(&brokers) {
        let target = format!("broker=mqtt://{}", broker.addr());
        let set = ["--set", "devices=40", "--set", "hold=8s", "--set", &target];
        let start = [&["start", file, "--agents", "2"][..], &set[..]].concat();
        let started = deployment.shoal(&start).await;
        assert_eq!(started.code, Some(0), "{started:?}");
        runs.push(started.stdout.trim().to_owned());
    }
    for witness in &witnesses {
        witness.hears(80);
    }
    let shares = [vec![("anna", 40), ("bert", 0)], vec![("anna", 20), ("bert", 20)]];
    for ((run, witness), shares) in runs.iter().zip(&witnesses).zip(shares) {
        let watched = deployment.shoal(&["watch", run]).await;
        let document = deployment.shoal(&["show", run, "--output", "json"]).await.document();
        assert_eq!(watched.code, Some(0), "{watched:?} {document:#}");
        assert_eq!(document["validity"], "VALID", "{document:#}");
        let arrived = witness.all();
        assert_eq!(marks(&arrived).len(), arrived.len());
        assert_eq!(series(&document, "telemetry")["slots"]["sent"], arrived.len(), "{document:#}");
        assert_eq!(series(&document, "telemetry")["slots"]["planned"], arrived.len());
        for (agent, devices) in shares {
            let rows = document["agents"].as_array().unwrap();
            let row = rows.iter().find(|row| row["agent"] == agent);
            let held = row.map_or(0, |row| row["devices"].as_u64().unwrap());
            assert_eq!(held, devices, "of {agent} in {run}: {document:#}");
        }
    }
}
