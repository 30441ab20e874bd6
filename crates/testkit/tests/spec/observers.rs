//! What comes out at the far end is accounted for message by message; a real broker is the way, a
//! stand-in for the platform is the oracle.

use std::collections::BTreeMap;

use shoal_domain::export::Course;
use shoal_domain::report::{RunReport, ThresholdResult};
use shoal_domain::run::Phase;
use shoal_testkit::authority::Authority;
use shoal_testkit::cluster::{Cluster, observed, series};
use shoal_testkit::mosquitto::{Door, Mosquitto, Setup};
use shoal_testkit::platform::{Fate, Platform};

const INGESTION: &str = include_str!("../../../../scenarios/ingestion-mqtt.yaml");

fn overrides<'o>(broker: &'o str, filter: &'o str, hold: &'o str) -> Vec<(&'static str, &'o str)> {
    vec![
        ("broker", broker),
        ("output_broker", broker),
        ("output_filter", filter),
        ("devices", "100"),
        ("period", "100ms"),
        ("hold", hold),
    ]
}

fn url(broker: &Mosquitto) -> String {
    format!("mqtt://{}", broker.addr())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_platform_that_loses_nothing_is_said_to_lose_nothing() {
    let broker = Mosquitto::start();
    let cluster = Cluster::start(1).await;
    let url = url(&broker);
    let overrides = overrides(&url, "devices/+/telemetry", "3s");
    let report = cluster.run(INGESTION, &overrides).await.over().await;

    assert_eq!(report.phase, Phase::Finished, "{report:#?}");
    let seen = observed(&report);
    let sent = series(&report, "telemetry", "all").slots.unwrap().sent;
    assert_eq!((seen.sent, seen.acked, seen.unique), (Some(sent), Some(sent), Some(sent)));
    assert_eq!((seen.received, seen.lost, seen.duplicated), (sent, Some(0), Some(0)), "{seen:#?}");
    assert_eq!((seen.undelivered, seen.out_of_order), (Some(0), Some(0)), "{seen:#?}");
    assert_eq!((seen.unparsed, seen.foreign, seen.negative), (0, 0, 0), "{seen:#?}");
    // Sent and read on one agent, and the drain ends when everything is there.
    assert_eq!(seen.clock_bound_us, 0);
    assert!(seen.drain_us.is_some_and(|us| us < 10_000_000), "{seen:#?}");
    let delays = seen.end_to_end_delay_us.unwrap();
    assert_eq!(delays.count, sent);
    assert!(delays.min > 0, "{delays:?}");
    let stages = report.observers.iter().filter(|observer| observer.stage != "all");
    assert_eq!(stages.map(|observer| observer.received).sum::<u64>(), sent);
}

#[tokio::test(flavor = "multi_thread")]
async fn injected_loss_duplicates_and_reordering_come_out_exact() {
    let broker = Mosquitto::start();
    let platform = Platform::start(broker.addr(), Fate::in_a_thousand);
    let cluster = Cluster::start(2).await;
    let url = url(&broker);
    let overrides = overrides(&url, "out/#", "10s");
    // What is lost never comes: the drain is waited for.
    let scenario = INGESTION.replace("drain: 30s", "drain: 3s");
    let limit = "ingestion.lost < 0.01%";
    let by_window = "{ expect: ingestion.lost <= 5%, windows: 2s, held: 50% }\n  \
         - { expect: ingestion.lost < 0.01%, windows: 2s }\n  \
         - { expect: ingestion.end_to_end_delay.p95 < 10s, windows: 2s, held: 50% }";
    let limits = format!("ingestion.lost < 1.2%\n  - ingestion.duplicated < 1%\n  - {by_window}");
    let scenario = scenario.replace(limit, &limits);
    let run = cluster.run(&scenario, &overrides).await;
    let (report, export) = (run.over().await, run.export(0).await);
    adds_up(&report, &export.course);
    // Joined into fewer points.
    adds_up(&report, &run.export(3).await.course);
    let results = report.thresholds.iter().filter(|threshold| threshold.windows.is_some());
    let results: Vec<_> = results.map(|t| (t.windows.as_ref().unwrap(), t.result)).collect();
    assert_eq!(results.len(), 3);
    // What was lost was lost somewhere, and nowhere much.
    assert_eq!(results[0].1, ThresholdResult::Passed, "{results:?}");
    assert_eq!(results[1].1, ThresholdResult::Failed, "{results:?}");
    assert!(results[1].0.worst.is_some_and(|worst| worst > 0.0001 && worst < 0.2), "{results:?}");
    assert_eq!(results[2].1, ThresholdResult::Passed, "{results:?}");

    let seen = observed(&report);
    let acked = seen.acked.unwrap();
    assert_eq!(acked, platform.taken(), "{seen:#?}");
    assert_eq!(seen.lost, Some(platform.lost() + platform.garbled()), "{seen:#?}");
    assert_eq!(seen.duplicated, Some(platform.doubled()), "{seen:#?}");
    assert_eq!(seen.unparsed, platform.garbled(), "{seen:#?}");
    // A swapped message with none after it was never let go, and is lost; that is at most the end.
    let out_of_order = seen.out_of_order.unwrap();
    assert_eq!(out_of_order, platform.swapped(), "{seen:#?}");
    assert_eq!((seen.resent, seen.late_events), (Some(0), Some(0)), "{seen:#?}");
    assert_eq!(seen.received, seen.unique.unwrap() + platform.doubled());
    assert!(!seen.lossy_devices.is_empty());
    // Devices of two agents, one reader: the bound of their clocks is said.
    assert!(seen.clock_bound_us > 0 && seen.clock_bound_us < 1_000_000, "{seen:#?}");
}

/// Every row of the far end over time is the total, cut into points.
fn adds_up(report: &RunReport, course: &Course) {
    let (seen, over_time) = (observed(report), &course.observers[0]);
    let sum = |counts: &[u64]| Some(counts.iter().sum::<u64>());
    assert_eq!(sum(&over_time.sent), seen.sent, "{over_time:#?}");
    assert_eq!(sum(&over_time.acked), seen.acked, "{over_time:#?}");
    assert_eq!(sum(&over_time.unique), seen.unique, "{over_time:#?}");
    assert_eq!(sum(&over_time.lost), seen.lost, "{over_time:#?}");
    assert_eq!(sum(&over_time.undelivered), seen.undelivered, "{over_time:#?}");
    assert_eq!(sum(&over_time.unconfirmed), seen.unconfirmed, "{over_time:#?}");
    assert_eq!(sum(&over_time.lost_possible), seen.lost_possible, "{over_time:#?}");
    assert_eq!(sum(&over_time.duplicated), seen.duplicated, "{over_time:#?}");
    assert_eq!(sum(&over_time.resent), seen.resent, "{over_time:#?}");
    assert_eq!(sum(&over_time.out_of_order), seen.out_of_order, "{over_time:#?}");
    assert_eq!(sum(&over_time.late_events), seen.late_events, "{over_time:#?}");
    assert_eq!(sum(&over_time.received), Some(seen.received), "{over_time:#?}");
    assert_eq!(sum(&over_time.unparsed), Some(seen.unparsed), "{over_time:#?}");
    // What was sent in a point is all accounted for in it, and is what the series says.
    for n in 0..course.from_s.len() {
        let fates = [&over_time.unique, &over_time.lost, &over_time.undelivered];
        let fates: u64 = fates.map(|counts| counts[n]).iter().sum();
        assert_eq!(fates + over_time.lost_possible[n] + over_time.pending[n], over_time.sent[n]);
        let series =
            course.series.iter().find(|series| series.name == "telemetry").expect("it is observed");
        assert_eq!(over_time.sent[n], series.sent[n], "in point {n}");
    }
    assert!(over_time.end_to_end_delay.p95_us.iter().any(Option::is_some));
    assert!(over_time.ingest_delay.p95_us.is_empty(), "MQTT does not say when");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_runs_at_once_never_credit_each_other() {
    let broker = Mosquitto::start();
    let (one, two) = (Cluster::start(1).await, Cluster::start(1).await);
    let url = url(&broker);
    let overrides = overrides(&url, "devices/+/telemetry", "4s");
    // The ids of their devices must differ, or the broker would cut one for the other.
    let other = INGESTION.replace("id: sensor-", "id: meter-");
    let (first, second) = (one.run(INGESTION, &overrides).await, two.run(&other, &overrides).await);
    for report in [first.over().await, second.over().await] {
        let seen = observed(&report);
        assert_eq!((seen.unique, seen.lost), (seen.sent, Some(0)), "{seen:#?}");
        assert_eq!(seen.duplicated, Some(0), "{seen:#?}");
        assert!(seen.foreign > 0, "they did run at once: {seen:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_are_compressed_are_read() {
    let broker = Mosquitto::start();
    let cluster = Cluster::start(1).await;
    let url = url(&broker);
    let overrides = overrides(&url, "devices/+/telemetry", "2s");
    let zipped =
        INGESTION.replace("          qos: 1\n", "          qos: 1\n          gzip: true\n");
    assert_ne!(zipped, INGESTION);
    let report = cluster.run(&zipped, &overrides).await.over().await;
    let seen = observed(&report);
    assert!(seen.sent.is_some_and(|sent| sent > 0), "{seen:#?}");
    assert_eq!((seen.unique, seen.lost, seen.unparsed), (seen.sent, Some(0), 0), "{seen:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_read_over_tls_from_a_broker_that_proves_who_it_is() {
    let authority = Authority::new();
    let broker = Mosquitto::with(&Setup::default().with_all_doors(&authority));
    let cluster = Cluster::start(1).await;
    let ca = cluster.file("ca.pem", authority.cert_pem());
    let (url, secured) = (url(&broker), broker.url_of(Door::Tls));
    let mut overrides: BTreeMap<_, _> =
        overrides(&url, "devices/+/telemetry", "2s").into_iter().collect();
    overrides.insert("output_broker", &secured);
    let overrides: Vec<_> = overrides.into_iter().collect();
    let trusting = INGESTION.replace("filter: \"$", &format!("ca: \"agent:{ca}\", filter: \"$"));
    assert_ne!(trusting, INGESTION);
    let report = cluster.run(&trusting, &overrides).await.over().await;
    let seen = observed(&report);
    assert!(seen.sent.is_some_and(|sent| sent > 0), "{report:#?}");
    assert_eq!((seen.unique, seen.lost, seen.received), (seen.sent, Some(0), seen.sent.unwrap()));

    // The public authorities do not know it.
    let report = cluster.run(INGESTION, &overrides).await.over().await;
    assert_eq!(report.phase, Phase::FailedToStart, "{report:#?}");
    let cause = report.cause.unwrap();
    assert!(cause.contains("SH0310") && cause.contains("was not signed by"), "{cause}");
}

/// What the platform adds to or changes of the value, a property says it all.
const BY_PROPERTIES: &str = r#"
    read:
      run: { header: run }
      device: { header: device }
      seq: { header: n }
      sent: { header: at, unit: us }
"#;

#[tokio::test(flavor = "multi_thread")]
async fn mqtt_5_is_read_through_every_door_by_stamp_and_by_user_properties() {
    let authority = Authority::new();
    let broker = Mosquitto::with(&Setup::default().with_all_doors(&authority));
    let cluster = Cluster::start(2).await;
    let ca = cluster.file("ca.pem", authority.cert_pem());
    let url = url(&broker);
    let five = INGESTION.replace("protocol: 3.1.1", "protocol: 5");
    let five = five.replace("qos: 1 }", &format!("qos: 1, protocol: 5, ca: \"agent:{ca}\" }}"));
    let properties = "          properties: { run: \"${run}\", device: \"${device}\", n: \"${seq}\", at: \"${now_us}\" }\n";
    let by_properties = five
        .replace("          json:\n", &format!("{properties}          json:\n"))
        .replace("trace: ${stamp}", "trace: none")
        .replace("    drain: 30s\n", &format!("    drain: 30s{BY_PROPERTIES}"));
    let in_property = five
        .replace(
            "          json:\n",
            "          properties: { mark: \"${stamp}\" }\n          json:\n",
        )
        .replace("trace: ${stamp}", "trace: none");
    let shared = five.replace("protocol: 5, ca", "share: readers, protocol: 5, ca");
    for (door, scenario) in [
        (Door::Plain, &by_properties),
        (Door::WebSocket, &in_property),
        (Door::Tls, &shared),
        (Door::SecureWebSocket, &five),
    ] {
        let output = broker.url_of(door);
        let mut overrides: BTreeMap<_, _> =
            overrides(&url, "devices/+/telemetry", "1s").into_iter().collect();
        overrides.insert("output_broker", &output);
        let overrides: Vec<_> = overrides.into_iter().collect();
        let report = cluster.run(scenario, &overrides).await.over().await;
        assert_eq!(report.phase, Phase::Finished, "{door:?}: {report:#?}");
        let seen = observed(&report);
        let sent = seen.sent.unwrap();
        assert!(sent > 100, "{door:?}: {seen:#?}");
        assert_eq!(
            (seen.received, seen.unique, seen.lost),
            (sent, Some(sent), Some(0)),
            "{door:?}"
        );
        assert_eq!((seen.unparsed, seen.foreign, seen.duplicated), (0, 0, Some(0)), "{door:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_observer_that_is_refused_fails_the_start_with_a_sentence() {
    let broker = Mosquitto::start();
    let cluster = Cluster::start(1).await;
    let broker_url = url(&broker);
    let mut overrides: BTreeMap<_, _> =
        overrides(&broker_url, "devices/#", "3s").into_iter().collect();
    overrides.insert("output_broker", "mqtt://127.0.0.1:1");
    let overrides: Vec<_> = overrides.into_iter().collect();
    let report = cluster.run(INGESTION, &overrides).await.over().await;

    assert_eq!((report.phase, report.exit_code), (Phase::FailedToStart, Some(3)), "{report:#?}");
    let cause = report.cause.unwrap();
    assert!(cause.contains("SH0310") && cause.contains("ingestion"), "{cause}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_whose_agent_dies_is_read_on_and_what_passed_meanwhile_is_no_loss() {
    let broker = Mosquitto::start();
    let mut cluster = Cluster::start(2).await;
    let url = url(&broker);
    let overrides = overrides(&url, "devices/+/telemetry", "12s");
    let run = cluster.run(INGESTION, &overrides).await;
    run.has_reported("telemetry", 1_000).await;

    // The first agent reads for the only observer; its next process proves that it is dead.
    cluster.kill_agent(0).await;
    cluster.start_agent(0).await;

    let report = run.over().await;
    assert_eq!(report.phase, Phase::Finished, "{report:#?}");
    let seen = observed(&report);
    assert_eq!((seen.lost, seen.duplicated), (Some(0), Some(0)), "{seen:#?}");
    let [gap] = seen.reader_gaps.as_slice() else { panic!("one gap: {seen:#?}") };
    assert!(gap.from_s < gap.to_s && gap.to_s < 12.0, "{gap:?}");
    assert!(seen.lost_possible > Some(0), "the other agent's devices went on: {seen:#?}");
    let code = |code: &str| report.validity_reasons.iter().any(|reason| reason.code == code);
    assert!(code("reader_gap") && code("agent_lost"), "{report:#?}");
    assert!(seen.unique > Some(8_000), "{seen:#?}");
}
