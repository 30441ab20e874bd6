//! Runs that take place: what is printed equals what the broker saw, and is still there afterwards.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use shoal_testkit::mosquitto::Mosquitto;
use shoal_testkit::subscriber::{Message, Subscriber};

use crate::deployment::{Deployment, series, shipped};

const TOPICS: &str = "devices/+/telemetry";

/// Every message carries its own mark, so equal counts cannot hide a loss behind a duplicate.
pub(crate) fn marks(messages: &[Message]) -> BTreeSet<String> {
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

#[tokio::test]
async fn a_control_plane_killed_in_the_middle_costs_no_count() {
    let broker = Mosquitto::start();
    let witness = Subscriber::start(broker.addr(), TOPICS);
    let mut deployment = Deployment::start().await;
    deployment.agent("only", "1").await;
    let (file, target) = (shipped("telemetry.yaml"), format!("broker=mqtt://{}", broker.addr()));
    let start = ["start", &file, "--set", "devices=50", "--set", "hold=8s", "--set", &target];
    let started = deployment.shoal(&start).await;
    assert_eq!(started.code, Some(0), "{started:?}");
    witness.hears(100);

    deployment.restart_control_plane().await;

    let watched = deployment.shoal(&["watch", "last"]).await;
    let document = deployment.shoal(&["show", "last", "--output", "json"]).await.document();
    assert_eq!(watched.code, Some(0), "{watched:?} {document:#}");
    let telemetry = series(&document, "telemetry");
    let arrived = witness.all();
    assert_eq!(marks(&arrived).len(), arrived.len());
    assert_eq!(telemetry["slots"]["sent"], arrived.len());
    assert_eq!(telemetry["slots"]["planned"], arrived.len());
    assert_eq!(telemetry["acked"], arrived.len());
    assert_eq!(document["agents"][0]["totals_proved"], true, "{document:#}");
}

#[tokio::test]
async fn the_owner_of_a_run_keeps_it_over_a_killed_control_plane() {
    let broker = Mosquitto::start();
    let witness = Subscriber::start(broker.addr(), TOPICS);
    let mut deployment = Deployment::start().await;
    deployment.agent("only", "1").await;
    let (file, target) = (shipped("telemetry.yaml"), format!("broker=mqtt://{}", broker.addr()));
    let run = ["run", &file, "--set", "devices=50", "--set", "hold=8s", "--set", &target];
    let running = deployment.launch_shoal(&[&run[..], &["--output", "json"]].concat());
    witness.hears(100);

    deployment.restart_control_plane().await;

    let ran = running.answer().await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let telemetry = series(&ran.document(), "telemetry").clone();
    assert_eq!(telemetry["slots"]["sent"], witness.all().len());
}

#[tokio::test]
async fn a_signal_ends_the_load_and_the_run_is_judged() {
    let broker = Mosquitto::start();
    let witness = Subscriber::start(broker.addr(), TOPICS);
    let mut deployment = Deployment::start().await;
    deployment.agent("only", "1").await;
    let (file, target) = (shipped("telemetry.yaml"), format!("broker=mqtt://{}", broker.addr()));
    let run = ["run", &file, "--set", "devices=50", "--set", "hold=10m", "--set", &target];
    let running = deployment.launch_shoal(&[&run[..], &["--output", "json"]].concat());
    witness.hears(100);

    running.interrupt();

    let ran = running.answer().await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let document = ran.document();
    assert_eq!(
        (&document["phase"], &document["cause"]),
        (&json!("FINISHED"), &json!("stopped_early"))
    );
    let slots = &series(&document, "telemetry")["slots"];
    assert_eq!(slots["sent"], witness.all().len());
    assert_eq!(slots["planned"], slots["sent"], "{document:#}");
}

#[tokio::test]
async fn an_agent_that_is_asked_to_go_delivers_what_it_measured() {
    let broker = Mosquitto::start();
    let witness = Subscriber::start(broker.addr(), TOPICS);
    let mut deployment = Deployment::start().await;
    deployment.agent("stays", "1").await;
    deployment.agent("goes", "1").await;
    let (file, target) = (shipped("telemetry.yaml"), format!("broker=mqtt://{}", broker.addr()));
    let run = ["run", &file, "--agents", "2", "--set", "devices=50", "--set", "hold=6s"];
    let run = [&run[..], &["--set", &target, "--output", "json"]].concat();
    let running = deployment.launch_shoal(&run);
    witness.hears(100);

    assert_eq!(deployment.dismiss("goes").await.code(), Some(0));

    let ran = running.answer().await;
    let document = ran.document();
    let slots = &series(&document, "telemetry")["slots"];
    assert_eq!(slots["sent"], witness.all().len(), "{document:#}");
    // One batch of 25 devices, without agent for half a second.
    assert!(slots["unassigned"].as_u64() <= Some(25), "{document:#}");
    assert!(matches!(ran.code, Some(0 | 3)), "{ran:?} {document:#}");
    assert_eq!(document["devices"]["connected"], 50, "{document:#}");
    assert!(document["agents"].as_array().unwrap().iter().all(|row| row["totals_proved"] == true));
}

#[tokio::test]
async fn an_agent_that_is_killed_makes_the_run_degraded_and_the_sum_still_holds() {
    let broker = Mosquitto::start();
    let witness = Subscriber::start(broker.addr(), TOPICS);
    let mut deployment = Deployment::start().await;
    deployment.agent("stays", "1").await;
    deployment.agent("dies", "1").await;
    let (file, target) = (shipped("telemetry.yaml"), format!("broker=mqtt://{}", broker.addr()));
    let run = ["run", &file, "--agents", "2", "--set", "devices=50", "--set", "hold=8s"];
    let run = [&run[..], &["--set", &target, "--output", "json"]].concat();
    let running = deployment.launch_shoal(&run);
    witness.hears(100);

    // Its next process holds the lock of its directory, which proves that the first one is dead.
    deployment.kill_agent("dies");
    deployment.agent("dies", "1").await;

    let ran = running.answer().await;
    let document = ran.document();
    assert_eq!((ran.code, &document["validity"]), (Some(1), &json!("DEGRADED")), "{document:#}");
    let reasons = document["validity_reasons"].as_array().unwrap();
    assert!(
        reasons.iter().any(|reason| reason["code"] == "agent_lost" && reason["agent"] == "dies"),
        "{document:#}"
    );
    let slots = &series(&document, "telemetry")["slots"];
    let n = |class: &str| slots[class].as_u64().unwrap();
    assert_eq!(n("planned"), 50 * 8 + 3, "{slots:#}");
    // What waited when it died is unsent.
    assert_eq!(n("planned"), n("sent") + n("unassigned") + n("unsent"), "{slots:#}");
    // What it had sent and not yet reported died with it, and nothing was reported that was not sent.
    let arrived = witness.all().len() as u64;
    assert!(n("sent") <= arrived, "{arrived} {slots:#}");
    assert!(arrived - n("sent") <= 25 * 3, "{arrived} {slots:#}");
}
