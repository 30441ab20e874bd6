//! The platform's output in NATS JetStream: read by the stream's numbers, so that nothing is lost or
//! counted twice whoever dies, with the time at which the server stored it.

use std::time::Duration;

use shoal_domain::report::{ObserverReport, RunReport};
use shoal_domain::run::Phase;
use shoal_proto::v1::ShippedFile;
use shoal_testkit::cluster::{self, Cluster, Run};
use shoal_testkit::expect::eventually;
use shoal_testkit::faults::FaultProxy;
use shoal_testkit::mosquitto::Mosquitto;
use shoal_testkit::nats::{LOGIN, Nats};
use shoal_testkit::platform::{Fate, Partitioned, Platform};

const INGESTION: &str = include_str!("../../../../scenarios/ingestion-nats.yaml");

/// Each event as a message of the stream; every fifth message there is of another subject.
fn to(nats: &Nats) -> Partitioned {
    let mut client = nats.client();
    let write = move |_: i32, values: &[Vec<u8>]| {
        client.publish("out.a", values);
        client.publish("out.b", &[b"of somebody else".to_vec()]);
    };
    Partitioned { n_partitions: 1, delay: Duration::ZERO, write: Box::new(write) }
}

async fn start(cluster: &Cluster, broker: &Mosquitto, nats: &str, hold: &str) -> Run {
    cluster.secret("nats", LOGIN.1);
    let broker = format!("mqtt://{}", broker.addr());
    let vars = [
        ("broker", broker.as_str()),
        ("nats", nats),
        ("subject", "out.a"),
        ("devices", "100"),
        ("period", "100ms"),
        ("hold", hold),
    ];
    cluster.run(INGESTION, &vars).await
}

fn observed(report: &RunReport) -> ObserverReport {
    assert_eq!(report.phase, Phase::Finished, "{report:#?}");
    cluster::observed(report)
}

async fn has_taken(platform: &Platform, n: u64) {
    eventually(Duration::from_secs(60), "the platform takes events", || {
        std::future::ready(platform.taken() >= n)
    })
    .await;
}

/// All that was sent arrived once.
#[track_caller]
fn is_whole(report: &RunReport, taken: u64) -> ObserverReport {
    let seen = observed(report);
    assert_eq!((seen.received, seen.unique), (taken, Some(taken)), "{seen:#?}");
    assert_eq!((seen.lost, seen.duplicated, seen.unparsed), (Some(0), Some(0), 0), "{seen:#?}");
    assert!(seen.reader_gaps.is_empty(), "{seen:#?}");
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn injected_loss_duplicates_and_reordering_come_out_exact() {
    let (broker, nats) = (Mosquitto::start(), Nats::start());
    // What was there before the run is not the run's.
    nats.client().publish("out.a", &[b"old".to_vec()]);
    let platform = Platform::partitioned(broker.addr(), to(&nats), Fate::in_a_thousand);
    let cluster = Cluster::start(2).await;
    cluster.secret("nats", LOGIN.1);
    let (broker, port) = (format!("mqtt://{}", broker.addr()), nats.addr().port());
    let nats_url = format!("tls://localhost:{port}");
    let vars = [
        ("broker", broker.as_str()),
        ("nats", nats_url.as_str()),
        ("subject", "out.a"),
        ("devices", "100"),
        ("period", "100ms"),
        ("hold", "8s"),
    ];
    let scenario = INGESTION.replace("drain: 30s", "drain: 3s");
    let scenario = scenario.replace("    nats:\n", "    nats:\n      ca: ca.pem\n");
    let body = nats.ca_pem().as_bytes().to_vec();
    let files = vec![ShippedFile { path: "ca.pem".to_owned(), body }];
    let report = cluster.run_with(&scenario, &vars, files).await.over().await;

    let seen = observed(&report);
    assert_eq!(seen.acked, Some(platform.taken()), "{seen:#?}");
    assert_eq!(seen.lost, Some(platform.lost() + platform.garbled()), "{seen:#?}");
    assert_eq!(seen.duplicated, Some(platform.doubled()), "{seen:#?}");
    assert_eq!(seen.out_of_order, Some(platform.swapped()), "{seen:#?}");
    assert_eq!((seen.unparsed, seen.foreign), (platform.garbled(), 0), "{seen:#?}");
    let ingest = seen.ingest_delay_us.expect("the server says when it stored a message");
    assert_eq!(ingest.count, seen.received, "{seen:#?}");
    assert!(ingest.min >= -(seen.platform_bound_us.unwrap() as i64), "{seen:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_connections_and_readers_that_die_cost_nothing() {
    let (broker, nats) = (Mosquitto::start(), Nats::start());
    let proxy = FaultProxy::start(nats.addr()).unwrap();
    let platform = Platform::partitioned(broker.addr(), to(&nats), |_| Fate::Pass);
    let mut cluster = Cluster::start(2).await;
    let run = start(&cluster, &broker, &format!("nats://{}", proxy.addr()), "8s").await;
    has_taken(&platform, 1_000).await;
    proxy.refuse(true);
    proxy.cut();
    has_taken(&platform, 2_000).await;
    proxy.heal();
    for (victim, taken) in [(0, 3_500), (1, 5_500)] {
        has_taken(&platform, taken).await;
        cluster.kill_agent(victim).await;
        cluster.start_agent(victim).await;
    }
    let report = run.over().await;
    let seen = is_whole(&report, platform.taken());
    assert!(seen.backlog > 0 && proxy.accepted() > 1, "{seen:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_were_deleted_before_they_were_read_are_a_gap_and_no_loss() {
    let (broker, nats) = (Mosquitto::start(), Nats::start());
    let proxy = FaultProxy::start(nats.addr()).unwrap();
    let platform = Platform::partitioned(broker.addr(), to(&nats), |_| Fate::Pass);
    let cluster = Cluster::start(1).await;
    let run = start(&cluster, &broker, &format!("nats://{}", proxy.addr()), "6s").await;
    has_taken(&platform, 1_000).await;
    proxy.refuse(true);
    proxy.cut();
    has_taken(&platform, 3_000).await;
    let mut client = nats.client();
    let last = client.last();
    client.delete_below(last);
    proxy.heal();
    let report = run.over().await;
    let seen = observed(&report);
    assert!(seen.lost_possible.unwrap() > 100, "{seen:#?}");
    assert_eq!((seen.lost, seen.duplicated), (Some(0), Some(0)), "{seen:#?}");
    assert!(seen.reader_gaps[0].why.contains("deleted before they were read"), "{seen:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_fails_the_start_with_a_sentence() {
    let (broker, nats, bare) = (Mosquitto::start(), Nats::start(), Nats::without_jetstream());
    let cluster = Cluster::start(1).await;
    let url = |nats: &Nats| format!("nats://{}", nats.addr());
    let cases = [
        (url(&nats), "password: \"${secret.nats}\"", "password: wrong", "refuses the login"),
        (url(&nats), "${vars.subject}", "nowhere.a", "no stream keeps nowhere.a"),
        (url(&nats), "    nats:\n", "    nats:\n      stream: NONE\n", "stream not found"),
        (url(&bare), "", "", "JetStream is not enabled there"),
        ("nats://127.0.0.1:1".to_owned(), "", "", "cannot connect"),
        (format!("nats://{}", broker.addr()), "", "", "127.0.0.1"),
    ];
    let broker = format!("mqtt://{}", broker.addr());
    cluster.secret("nats", LOGIN.1);
    for (nats, from, into, expected) in cases {
        let vars = [("broker", broker.as_str()), ("nats", nats.as_str()), ("hold", "2s")];
        let report = cluster.run(&INGESTION.replace(from, into), &vars).await.over().await;
        let cause = report.cause.unwrap_or_default();
        let ended = (report.phase, report.exit_code);
        assert_eq!(ended, (Phase::FailedToStart, Some(3)), "{expected}: {cause}");
        assert!(cause.contains("SH0310") && cause.contains(expected), "{expected}: {cause}");
    }
}
