//! One trace per run, over all parts, and its metrics; a collector that is not there harms nobody.

use std::collections::BTreeSet;
use std::time::Duration;

use shoal_domain::ids::RunId;
use shoal_testkit::collector::Collector;
use shoal_testkit::expect::eventually;
use shoal_testkit::mosquitto::Mosquitto;

use crate::deployment::{Deployment, shipped};

const SERVICES: [&str; 3] = ["shoal", "shoal-agent", "shoal-control-plane"];

async fn run(deployment: &Deployment, broker: &Mosquitto) -> crate::deployment::Answer {
    let (file, target) = (shipped("telemetry.yaml"), format!("broker=mqtt://{}", broker.addr()));
    let run = ["run", &file, "--set", "devices=20", "--set", "hold=1s", "--set", &target];
    deployment.shoal(&[&run[..], &["--output", "json"]].concat()).await
}

#[tokio::test]
async fn all_parts_of_a_run_are_in_the_trace_with_its_number() {
    let (broker, collector) = (Mosquitto::start(), Collector::start().await);
    let mut deployment = Deployment::traced(&collector.endpoint()).await;
    deployment.agent("only", "1").await;
    let ran = run(&deployment, &broker).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");

    let run: RunId = ran.document()["run"].as_str().unwrap().parse().unwrap();
    let number = format!("{:032x}", run.number());
    let of_run = || {
        let spans = collector.spans();
        spans.into_iter().filter(|span| span.trace == number).collect::<Vec<_>>()
    };
    let names = ["run", "shoal run", "drive run", "prepare shard", "run shard"];
    eventually(Duration::from_secs(30), "spans of every part arrive", || {
        let spans = of_run();
        let is_there = |name: &&str| spans.iter().any(|span| span.name == **name);
        std::future::ready(names.iter().all(is_there))
    })
    .await;

    let spans = of_run();
    let first: Vec<_> = spans.iter().filter(|span| span.parent.is_empty()).collect();
    assert_eq!(first.len(), 1, "{spans:#?}");
    assert!(spans.iter().all(|span| *span == *first[0] || span.parent == first[0].id));
    let services: BTreeSet<&str> = spans.iter().map(|span| span.service.as_str()).collect();
    assert_eq!(services.into_iter().collect::<Vec<_>>(), SERVICES);
    // Twenty devices sent for a second: nothing is traced per message.
    assert!(spans.len() < 12, "{spans:#?}");

    // The last point of a run says what its document says.
    let document = ran.document();
    let (name, telemetry) = (&document["name"], &document["series"]);
    let telemetry = telemetry.as_array().unwrap().iter().find(|one| one["name"] == "telemetry");
    let sent = telemetry.unwrap()["count"].as_i64();
    let labels = format!(
        "run={},scenario=telemetry,group=sensors,series=telemetry,operation=publish",
        name.as_str().unwrap()
    );
    for metric in ["shoal_attempts_total", "shoal_response_time_seconds"] {
        let key = format!("{metric}{{{labels}}}");
        eventually(Duration::from_secs(30), "the collector has all that was counted", || {
            std::future::ready(collector.metric(&key) == sent)
        })
        .await;
    }
}

#[tokio::test]
async fn a_collector_that_is_not_there_costs_spans_and_no_run() {
    let broker = Mosquitto::start();
    let mut deployment = Deployment::traced("http://127.0.0.1:9").await;
    deployment.agent("only", "1").await;
    let ran = run(&deployment, &broker).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(ran.document()["validity"], "VALID", "{ran:?}");
}
