//! Every planned slot is accounted for, and the counts are the broker's.

use shoal_domain::run::{Phase, Validity, Verdict};
use shoal_testkit::cluster::{Cluster, series};

use crate::STEADY;

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_nobody_disturbs_is_valid_and_counts_what_the_broker_counts() {
    let cluster = Cluster::start(2).await;
    let report = cluster.run(STEADY, &[]).await.over().await;

    assert_eq!((report.phase, report.exit_code), (Phase::Finished, Some(0)), "{report:#?}");
    assert_eq!(report.validity, Some(Validity::Valid), "{report:#?}");
    assert_eq!(report.verdict, Some(Verdict::Passed));
    let telemetry = series(&report, "telemetry", "all");
    let slots = telemetry.slots.unwrap();
    assert_eq!(slots.planned, slots.sent);
    assert_eq!(slots.sent, cluster.broker().publishes_seen());
    assert_eq!(telemetry.acked, Some(slots.sent));
    assert_eq!(report.devices.connected, cluster.broker().connects_seen());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stages_add_up_to_the_run() {
    let cluster = Cluster::start(1).await;
    let report = cluster.run(STEADY, &[]).await.over().await;

    let of = |stage| series(&report, "telemetry", stage).slots.unwrap();
    let (ramp, hold, all) = (of("ramp"), of("hold"), of("all"));
    for slots in [ramp, hold, all] {
        assert_eq!(slots.planned, slots.n_classed(), "{report:#?}");
    }
    assert_eq!((ramp.planned + hold.planned, ramp.sent + hold.sent), (all.planned, all.sent));
    assert_eq!(hold.planned, 20 * 20, "20 devices, 10/s, 2 s");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_devices_behind_a_gateway_send_as_often_as_each_of_them_would() {
    const GATEWAYS: &str = include_str!("../../../../scenarios/gateways.yaml");
    let cluster = Cluster::start(1).await;
    cluster.broker().record(true);
    let vars = [
        ("broker", cluster.broker_url()),
        ("devices", "10".to_owned()),
        ("meters", "20".to_owned()),
        ("period", "1s".to_owned()),
        ("hold", "5s".to_owned()),
    ];
    let vars: Vec<(&str, &str)> =
        vars.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let report = cluster.run(GATEWAYS, &vars).await.over().await;
    assert_eq!(report.validity, Some(Validity::Valid), "{report:#?}");
    let slots = series(&report, "reading", "all").slots.unwrap();
    assert_eq!((slots.planned, slots.missed), (slots.sent, 0), "{report:#?}");
    let mut by_meter = std::collections::BTreeMap::<String, u64>::new();
    for message in cluster.broker().recorded() {
        if message.topic.ends_with("/reading") {
            *by_meter.entry(message.topic).or_default() += 1;
        }
    }
    assert_eq!((by_meter.len(), by_meter.values().sum()), (200, slots.sent));
    assert!(by_meter.values().all(|n| (5..=6).contains(n)), "{by_meter:?}");
    assert_eq!(report.devices.connected, 10, "connections");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_run_is_judged_by_what_was_planned_until_then() {
    let cluster = Cluster::start(1).await;
    let run = cluster.run(STEADY, &[("hold", "10m")]).await;
    run.has_sent(100).await;

    run.stop().await;

    let report = run.over().await;
    assert_eq!((report.phase, report.exit_code), (Phase::Finished, Some(0)), "{report:#?}");
    assert_eq!(report.cause.as_deref(), Some("stopped_early"));
    let slots = series(&report, "telemetry", "all").slots.unwrap();
    assert_eq!(slots.planned, slots.sent, "{report:#?}");
    assert_eq!(slots.sent, cluster.broker().publishes_seen());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_threshold_says_since_when() {
    let cluster = Cluster::start(1).await;
    let scenario = format!(
        "{STEADY}thresholds:\n  - sensors.telemetry.count < 100\n  - sensors.telemetry.count != 200\n"
    );
    let report = cluster.run(&scenario, &[("hold", "4s"), ("devices", "10")]).await.over().await;

    assert_eq!((report.phase, report.exit_code), (Phase::Finished, Some(1)), "{report:#?}");
    let at = |n: usize| report.thresholds[n].breached_at_s;
    // 100 sends a second: it broke early and stayed so, and whoever looked was at most late.
    assert!(at(0).is_some_and(|at| (0.9..4.0).contains(&at)), "{report:#?}");
    assert_eq!(at(1), None, "it holds at the end");
}
