//! One trace per run, over all parts; a collector that is not there harms nobody.

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
    eventually(Duration::from_secs(30), "spans of every part arrive", || {
        let spans = of_run();
        let services: BTreeSet<&str> = spans.iter().map(|span| span.service.as_str()).collect();
        let has_first = spans.iter().any(|span| span.parent.is_empty());
        std::future::ready(has_first && SERVICES.iter().all(|part| services.contains(part)))
    })
    .await;

    let spans = of_run();
    let first: Vec<_> = spans.iter().filter(|span| span.parent.is_empty()).collect();
    assert_eq!(first.len(), 1, "{spans:#?}");
    assert!(spans.iter().all(|span| *span == *first[0] || span.parent == first[0].id));
    let names: BTreeSet<&str> = spans.iter().map(|span| span.name.as_str()).collect();
    for name in ["run", "shoal run", "drive run", "prepare shard", "run shard"] {
        assert!(names.contains(name), "{name} in {names:?}");
    }
    // Twenty devices sent for a second: nothing is traced per message.
    assert!(spans.len() < 12, "{spans:#?}");
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
