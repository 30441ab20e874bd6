//! Somebody sets the wall clocks of the machines while a run goes on, by an hour in both directions, and
//! the control plane is killed in between: nobody is lost, nothing ends early, no count differs.

use shoal_testkit::mosquitto::Mosquitto;
use shoal_testkit::subscriber::Subscriber;

use crate::deployment::{Deployment, series, shipped};
use crate::runs::marks;

#[tokio::test]
async fn setting_the_wall_clock_in_the_middle_of_a_run_changes_nothing() {
    let broker = Mosquitto::start();
    let witness = Subscriber::start(broker.addr(), "devices/+/telemetry");
    let mut deployment = Deployment::with_a_wall_clock().await;
    deployment.agent("only", "1").await;
    let (file, target) = (shipped("telemetry.yaml"), format!("broker=mqtt://{}", broker.addr()));
    let start = ["start", &file, "--set", "devices=50", "--set", "hold=12s", "--set", &target];
    let started = deployment.shoal(&start).await;
    assert_eq!(started.code, Some(0), "{started:?}");
    witness.hears(100);
    deployment.set_wall_clock("+3600").await;
    witness.hears(150);
    deployment.restart_control_plane().await;
    witness.hears(100);
    deployment.set_wall_clock("-3600").await;
    let watched = deployment.shoal(&["watch", "last"]).await;
    let document = deployment.shoal(&["show", "last", "--output", "json"]).await.document();
    assert_eq!(watched.code, Some(0), "{watched:?} {document:#}");
    let arrived = witness.all();
    assert_eq!(marks(&arrived).len(), arrived.len());
    let telemetry = series(&document, "telemetry");
    assert_eq!(document["validity"], "VALID", "{document:#}");
    let whole = document["duration_s"].as_f64().is_some_and(|seconds| seconds > 12.0);
    assert!(whole, "it neither ends early nor late: {document:#}");
    assert_eq!(telemetry["slots"]["sent"], arrived.len(), "{document:#}");
    assert_eq!(telemetry["slots"]["planned"], arrived.len(), "{document:#}");
    assert_eq!(document["agents"][0]["totals_proved"], true, "{document:#}");
}
