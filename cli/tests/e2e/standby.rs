//! Two control planes on one database: one leads, the other takes over, and nobody counts twice.

use std::collections::BTreeSet;

use shoal_testkit::mosquitto::Mosquitto;
use shoal_testkit::subscriber::Subscriber;

use crate::deployment::{Deployment, series, shipped};
use crate::runs::marks;

const TOPICS: &str = "devices/+/telemetry";

/// What one agent sent while its control plane changed: owned by a command that saw both.
async fn a_run_over_a_change_of_leaders(freeze: bool) {
    let broker = Mosquitto::start();
    let witness = Subscriber::start(broker.addr(), TOPICS);
    let mut deployment = Deployment::start().await;
    deployment.stand_by().await;
    deployment.agent("only", "1").await;
    let (file, target) = (shipped("telemetry.yaml"), format!("broker=mqtt://{}", broker.addr()));
    let run = ["run", &file, "--set", "devices=50", "--set", "hold=30s", "--set", &target];
    let running = deployment.launch_shoal(&[&run[..], &["--output", "json"]].concat());
    witness.hears(100);

    if freeze {
        deployment.freeze_leader()
    } else {
        deployment.kill_leader()
    }
    deployment.standby_serves().await;
    if freeze {
        deployment.thaw_leader();
        // It finds another one in charge, and ends for its supervisor to start it again.
        deployment.leader_ended().await;
    }

    let ran = running.answer().await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let document = ran.document();
    assert_eq!(document["validity"], "VALID", "{document:#}");
    let telemetry = series(&document, "telemetry");
    let arrived = witness.all();
    let unique: BTreeSet<String> = marks(&arrived);
    assert_eq!(unique.len(), arrived.len());
    assert_eq!(telemetry["slots"]["sent"], arrived.len(), "{document:#}");
    assert_eq!(telemetry["slots"]["planned"], arrived.len());
    assert_eq!(telemetry["acked"], arrived.len());
    assert_eq!(document["agents"][0]["totals_proved"], true, "{document:#}");
}

#[tokio::test]
async fn a_standby_takes_over_from_a_leader_that_was_killed_and_the_run_does_not_notice() {
    a_run_over_a_change_of_leaders(false).await;
}

#[tokio::test]
async fn a_leader_that_slept_through_its_replacement_does_no_harm_when_it_wakes() {
    a_run_over_a_change_of_leaders(true).await;
}
