//! A target that misbehaves is measured as it is, and the generator is not blamed for it.

use std::time::Duration;

use shoal_domain::outcome::ErrorClass;
use shoal_domain::run::{Phase, Validity, Verdict};
use shoal_testkit::cluster::{Cluster, series};
use shoal_testkit::expect::eventually;

use crate::STEADY;

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_broker_holds_slots_and_the_wait_is_in_the_response_time_only() {
    let cluster = Cluster::start(1).await;
    let run = cluster.run(STEADY, &[("hold", "4s"), ("max_in_flight", "1")]).await;
    run.has_sent(100).await;

    cluster.broker().stall(true);
    let begun = tokio::time::Instant::now();
    eventually(Duration::from_secs(10), "a second passes", || {
        std::future::ready(begun.elapsed() > Duration::from_secs(1))
    })
    .await;
    cluster.broker().stall(false);

    let report = run.over().await;
    assert_eq!(report.phase, Phase::Finished);
    assert_eq!(report.validity, Some(Validity::Valid), "{report:#?}");
    let telemetry = series(&report, "telemetry", "all");
    let slots = telemetry.slots.unwrap();
    // 20 devices, 10/s: of the ten slots in that second one waits for its ack, nine to be sent.
    assert!(slots.held >= 20 * 8, "{slots:?}");
    assert_eq!(slots.planned, slots.sent, "{slots:?}");
    assert_eq!(slots.sent, cluster.broker().publishes_seen());
    let (response, service) =
        (telemetry.response_time_us.unwrap(), telemetry.service_time_us.unwrap());
    assert!(response.max >= 900_000, "{response:?}");
    // Coordinated omission would show 20 slow replies of 800; here every slot of the second counts.
    assert!(response.p90 >= 200_000, "{response:?}");
    assert!(service.p90 < 100_000, "{service:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_devices_fail_and_with_them_the_run() {
    let cluster = Cluster::start(1).await;
    let refused = ["sensor-1", "sensor-4", "sensor-5", "sensor-9"];
    cluster.broker().refuse_where(5, move |client| refused.contains(&client));
    let report = cluster.run(STEADY, &[("devices", "10")]).await.over().await;

    assert_eq!((report.phase, report.exit_code), (Phase::Finished, Some(1)), "{report:#?}");
    assert_eq!(report.verdict, Some(Verdict::Failed));
    assert_eq!((report.devices.connected, report.devices.failed), (6, 4));
    let slots = series(&report, "telemetry", "all").slots.unwrap();
    assert_eq!(slots.planned, slots.sent + slots.not_connected, "{slots:?}");
    assert_eq!(slots.sent, cluster.broker().publishes_seen());
    let connect = series(&report, "connect", "all");
    assert_eq!(connect.errors_by_class[&ErrorClass::NotAuthorized], 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_ack_is_an_error_and_never_an_invented_reply() {
    let cluster = Cluster::start(1).await;
    let run = cluster.run(STEADY, &[("max_in_flight", "1000")]).await;
    run.has_sent(100).await;
    cluster.broker().lose_acks(true);

    let report = run.over().await;
    let telemetry = series(&report, "telemetry", "all");
    let slots = telemetry.slots.unwrap();
    let counters = cluster.broker().counters();
    assert_eq!(slots.sent, counters.publishes_seen);
    assert_eq!(telemetry.acked, Some(counters.acks_sent), "{report:#?}");
    assert!(counters.acks_lost > 0);
    assert_eq!(telemetry.censored, counters.acks_lost, "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_come_back_after_a_cut_and_the_slots_between_are_named() {
    let cluster = Cluster::start(1).await;
    let run = cluster.run(STEADY, &[("hold", "4s")]).await;
    run.has_sent(100).await;

    cluster.broker().drop_all_connections();

    let report = run.over().await;
    let slots = series(&report, "telemetry", "all").slots.unwrap();
    assert_eq!(slots.planned, slots.n_classed(), "{report:#?}");
    assert!(slots.not_connected > 0, "{slots:?}");
    assert_eq!(report.devices.failed, 0, "a device that was up never fails");
    assert!(cluster.broker().connects_seen() > 20);
    // What was written into a connection that died may not have arrived; nothing else may differ.
    let seen = cluster.broker().publishes_seen();
    assert!(seen <= slots.sent && slots.sent - seen <= 20, "{seen} {slots:?}");
}
