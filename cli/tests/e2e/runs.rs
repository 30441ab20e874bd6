//! Runs that take place: what is printed equals what the broker saw, and is still there afterwards.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use shoal_testkit::mosquitto::Mosquitto;
use shoal_testkit::subscriber::{Message, Subscriber};

use crate::deployment::{Deployment, series, shipped};

const TOPICS: &str = "devices/+/telemetry";

/// Every message carries its own mark, so equal counts cannot hide a loss behind a duplicate.
fn marks(messages: &[Message]) -> BTreeSet<String> {
    let mark = |message: &Message| {
        let payload: Value = serde_json::from_slice(&message.payload).unwrap();
        payload["trace"].as_str().unwrap().to_owned()
    };
    messages.iter().map(mark).collect()
}

#[tokio::test]
async fn two_agents_share_a_run_and_the_broker_counts_the_same() {
    let broker = Mosquitto::start();
    let witness = Subscriber::start(broker.addr(), TOPICS);
    let mut deployment = Deployment::start().await;
    deployment.agent("big", "2").await;
    deployment.agent("small", "1").await;

    let (file, target) = (shipped("telemetry.yaml"), format!("broker=mqtt://{}", broker.addr()));
    let ran = deployment
        .shoal(&[
            "run",
            &file,
            "--agents",
            "2",
            "--set",
            "devices=300",
            "--set",
            "hold=3s",
            "--set",
            "spawn_rate=300/s",
            "--set",
            &target,
            "--output",
            "json",
        ])
        .await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let document = ran.document();
    assert_eq!(document["validity"], "VALID", "{document:#}");
    assert_eq!(document["devices"], json!({ "planned": 300, "connected": 300, "failed": 0 }));

    // 300 devices at 1/s over 3 s, and half of them, on average, over the ramp's second.
    let telemetry = series(&document, "telemetry");
    assert_eq!(telemetry["slots"]["planned"], 1_050);
    assert_eq!(telemetry["slots"]["sent"], 1_050);
    assert_eq!(telemetry["acked"], 1_050);
    assert_eq!(telemetry["response_time_us"]["count"], 1_050);
    let arrived = witness.all();
    assert_eq!((arrived.len(), marks(&arrived).len()), (1_050, 1_050));
    let topics: BTreeSet<_> = arrived.iter().map(|message| &message.topic).collect();
    assert_eq!(topics.len(), 300);

    let agents = document["agents"].as_array().unwrap();
    let shares: Vec<_> = agents.iter().map(|row| (&row["agent"], &row["devices"])).collect();
    assert_eq!(shares, [(&json!("big"), &json!(200)), (&json!("small"), &json!(100))]);
    assert!(agents.iter().all(|row| row["totals_proved"] == true), "{document:#}");
}

#[tokio::test]
async fn a_finished_run_is_the_same_after_the_control_plane_was_killed() {
    let broker = Mosquitto::start();
    let mut deployment = Deployment::start().await;
    deployment.agent("only", "1").await;
    let (file, target) = (shipped("telemetry.yaml"), format!("broker=mqtt://{}", broker.addr()));
    let run = ["run", &file, "--set", "devices=50", "--set", "hold=1s", "--set", &target];
    let ran = deployment.shoal(&[&run[..], &["--output", "json"]].concat()).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let document = ran.document();

    let listed = deployment.shoal(&["list", "--output", "json"]).await.document();
    assert_eq!((&listed[0]["run"], &listed[0]["phase"]), (&document["run"], &"FINISHED".into()));
    assert_eq!(listed.as_array().unwrap().len(), 1);
    let shown = deployment.shoal(&["show", "last", "--output", "json"]).await;
    assert_eq!(shown.document(), document);

    deployment.restart_control_plane().await;

    let shown = deployment.shoal(&["show", "last", "--output", "json"]).await;
    assert_eq!(shown.document(), document);
    assert_eq!(deployment.shoal(&["list", "--output", "json"]).await.document(), listed);
}
