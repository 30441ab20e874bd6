//! The platform's output in Kafka: read by position, so that nothing is lost or counted twice
//! whoever dies, and with the time at which the platform took it in.

use std::time::Duration;

use shoal_domain::report::{ObserverReport, RunReport, ThresholdResult};
use shoal_domain::run::Phase;
use shoal_proto::v1::ShippedFile;
use shoal_testkit::cluster::{Cluster, has_gap, observed, series};
use shoal_testkit::expect::eventually;
use shoal_testkit::kafka::stand_in::{Scram, Security, StandIn, TOPIC};
use shoal_testkit::kafka::{Kafka, Stamps};
use shoal_testkit::mosquitto::Mosquitto;
use shoal_testkit::platform::{Fate, Partitioned, Platform};

const INGESTION: &str = include_str!("../../../../scenarios/ingestion-kafka.yaml");
const PARTITIONS: i32 = 10;
const DEVICES: u64 = 100;

/// Of the shipped scenario, with its variables.
struct Vars {
    broker: String,
    kafka: String,
    topic: String,
    hold: &'static str,
}

impl Vars {
    fn new(broker: &Mosquitto, kafka: &str, topic: &str, hold: &'static str) -> Self {
        let broker = format!("mqtt://{}", broker.addr());
        Self { broker, kafka: kafka.to_owned(), topic: topic.to_owned(), hold }
    }

    fn list(&self) -> Vec<(&'static str, &str)> {
        vec![
            ("broker", &self.broker),
            ("kafka", &self.kafka),
            ("kafka_topic", &self.topic),
            ("devices", "100"),
            ("period", "100ms"),
            ("hold", self.hold),
        ]
    }
}

fn to_kafka(kafka: &Kafka, topic: &str, delay: Duration) -> Partitioned {
    let (mut client, topic) = (kafka.client(), topic.to_owned());
    let write = move |partition: i32, values: &[Vec<u8>]| client.produce(&topic, partition, values);
    Partitioned { n_partitions: PARTITIONS, delay, write: Box::new(write) }
}

fn to_stand_in(stand_in: &StandIn, n_partitions: i32) -> Partitioned {
    let stand_in = stand_in.clone();
    let write = move |partition: i32, values: &[Vec<u8>]| stand_in.produce(partition, values);
    Partitioned { n_partitions, delay: Duration::ZERO, write: Box::new(write) }
}

/// All that was sent arrived once.
#[track_caller]
fn is_whole(report: &RunReport) -> ObserverReport {
    assert_eq!(report.phase, Phase::Finished, "{report:#?}");
    let seen = observed(report);
    let sent = series(report, "telemetry", "all").slots.expect("a series with a schedule").sent;
    assert!(sent > DEVICES, "{report:#?}");
    assert_eq!((seen.sent, seen.acked, seen.unique), (Some(sent), Some(sent), Some(sent)));
    assert_eq!((seen.received, seen.lost, seen.duplicated), (sent, Some(0), Some(0)), "{seen:#?}");
    assert_eq!((seen.out_of_order, seen.unparsed), (Some(0), 0), "{seen:#?}");
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn four_observers_read_ten_partitions_and_all_is_there_once() {
    let (broker, kafka) = (Mosquitto::start(), Kafka::start());
    let topic = kafka.topic(PARTITIONS, Stamps::Append);
    // What was there before the run is not the run's.
    kafka.client().produce(&topic, 3, &[b"sh1.00000000.1.2.3.4.5".to_vec(), b"old".to_vec()]);
    let delay = Duration::from_millis(300);
    let platform =
        Platform::partitioned(broker.addr(), to_kafka(&kafka, &topic, delay), |_| Fate::Pass);
    let cluster = Cluster::start(4).await;
    let vars = Vars::new(&broker, kafka.bootstrap(), &topic, "4s");
    let report = cluster.run(INGESTION, &vars.list()).await.over().await;

    let seen = is_whole(&report);
    assert_eq!(seen.received, platform.taken());
    assert_eq!((seen.source.as_str(), seen.foreign, seen.unstamped), ("kafka", 0, 0), "{seen:#?}");
    assert_eq!((seen.reader_gaps.len(), seen.backlog), (0, 0), "{seen:#?}");
    assert!(!has_gap(&report), "{report:#?}");
    // The platform holds each event back for 300 ms before it is enqueued.
    let (ingest, delivery) = (seen.ingest_delay_us.unwrap(), seen.delivery_delay_us.unwrap());
    let bound = seen.platform_bound_us.unwrap() as i64;
    assert_eq!((ingest.count, delivery.count), (seen.received, seen.received));
    assert!(ingest.min >= 300_000 - bound, "{seen:#?}");
    assert!(delivery.min >= -bound, "{seen:#?}");
    let end_to_end = seen.end_to_end_delay_us.unwrap();
    assert!(end_to_end.min >= 300_000 - seen.clock_bound_us as i64, "{seen:#?}");
    assert!(end_to_end.mean > ingest.mean - bound as f64, "{seen:#?}");
    assert_eq!(seen.platform_clock_us, Some(0), "one machine has one clock: {seen:#?}");
    assert!(report.thresholds.iter().any(|t| t.expr.contains("ingest_delay")), "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn injected_loss_duplicates_and_reordering_come_out_exact() {
    let (broker, kafka) = (Mosquitto::start(), Kafka::start());
    let topic = kafka.topic(PARTITIONS, Stamps::Append);
    let to = to_kafka(&kafka, &topic, Duration::ZERO);
    let platform = Platform::partitioned(broker.addr(), to, Fate::in_a_thousand);
    let cluster = Cluster::start(2).await;
    let vars = Vars::new(&broker, kafka.bootstrap(), &topic, "8s");
    let scenario = INGESTION.replace("drain: 30s", "drain: 3s");
    let report = cluster.run(&scenario, &vars.list()).await.over().await;

    let seen = observed(&report);
    assert_eq!(seen.acked, Some(platform.taken()), "{seen:#?}");
    assert_eq!(seen.lost, Some(platform.lost() + platform.garbled()), "{seen:#?}");
    assert_eq!(seen.duplicated, Some(platform.doubled()), "{seen:#?}");
    assert_eq!(seen.out_of_order, Some(platform.swapped()), "{seen:#?}");
    assert_eq!(seen.unparsed, platform.garbled(), "{seen:#?}");
    assert_eq!(seen.received, seen.unique.unwrap() + platform.doubled());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_keeps_its_writers_times_has_no_ingest_delay_and_says_so() {
    let (broker, kafka) = (Mosquitto::start(), Kafka::start());
    let topic = kafka.topic(PARTITIONS, Stamps::Create);
    let to = to_kafka(&kafka, &topic, Duration::ZERO);
    let _platform = Platform::partitioned(broker.addr(), to, |_| Fate::Pass);
    let cluster = Cluster::start(1).await;
    let vars = Vars::new(&broker, kafka.bootstrap(), &topic, "2s");
    let report = cluster.run(INGESTION, &vars.list()).await.over().await;

    let seen = is_whole(&report);
    assert_eq!((seen.unstamped, seen.ingest_delay_us), (seen.received, None), "{seen:#?}");
    assert!(seen.end_to_end_delay_us.is_some());
    // A limit without data does not hold.
    let limit = report.thresholds.iter().find(|limit| limit.expr.contains("ingest_delay"));
    assert_eq!(limit.unwrap().result, ThresholdResult::NoData);
    assert!(report.exit_code.is_some_and(|code| code != 0), "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_fails_the_start_with_a_sentence() {
    let (broker, stand_in) = (Mosquitto::start(), StandIn::start(2, Security::default()));
    let cluster = Cluster::start(1).await;
    let elsewhere = "127.0.0.1:1".to_owned();
    let cases = [
        (elsewhere, TOPIC, "cannot connect"),
        (broker.addr().to_string(), TOPIC, "broker"),
        (stand_in.bootstrap(), "no-such-topic", "no such topic"),
    ];
    for (kafka, topic, expected) in cases {
        let vars = Vars::new(&broker, &kafka, topic, "2s");
        let report = cluster.run(INGESTION, &vars.list()).await.over().await;
        assert_eq!((report.phase, report.exit_code), (Phase::FailedToStart, Some(3)));
        let cause = report.cause.unwrap();
        assert!(cause.contains("SH0310") && cause.contains(expected), "{cause}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_with_tls_and_a_login_is_read() {
    is_read_with_login(None, "plain").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_with_a_login_that_proves_the_password_is_read() {
    is_read_with_login(Some(Scram::Sha256), "scram-sha-256").await;
    is_read_with_login(Some(Scram::Sha512), "scram-sha-512").await;
}

async fn is_read_with_login(scram: Option<Scram>, mechanism: &str) {
    let broker = Mosquitto::start();
    let login = Some(("$ConnectionString".to_owned(), "Endpoint=sb://x/;Key=s3cret=".to_owned()));
    let stand_in = StandIn::start(2, Security { is_secure: true, login, scram });
    let _platform = Platform::partitioned(broker.addr(), to_stand_in(&stand_in, 2), |_| Fate::Pass);
    let cluster = Cluster::start(2).await;
    let bootstrap = stand_in.bootstrap();
    let vars = Vars::new(&broker, &bootstrap, TOPIC, "2s");
    let run = |password: &'static str| {
        let credentials = format!(
            "topic: \"${{vars.kafka_topic}}\", tls: true, ca: ca.pem, \
             credentials: {{ mechanism: {mechanism}, username: $ConnectionString, \
             password: \"{password}\" }} }}"
        );
        let scenario = INGESTION.replace("topic: \"${vars.kafka_topic}\" }", &credentials);
        let body = stand_in.ca_pem().as_bytes().to_vec();
        let files = vec![ShippedFile { path: "ca.pem".to_owned(), body }];
        (scenario, files)
    };
    let (scenario, files) = run("Endpoint=sb://x/;Key=s3cret=");
    let report = cluster.run_with(&scenario, &vars.list(), files).await.over().await;
    let seen = is_whole(&report);
    // Stamped as a broker does it: the records themselves say that they are an hour old.
    let ingest = seen.ingest_delay_us.expect("appends are stamped");
    let bound = seen.platform_bound_us.expect("appends are stamped") as i64;
    assert!(ingest.min >= -bound && ingest.p50 < 5_000_000, "{seen:#?}");

    let (scenario, files) = run("wrong");
    let report = cluster.run_with(&scenario, &vars.list(), files).await.over().await;
    let cause = report.cause.expect("it did not start");
    assert!(cause.contains("SH0310") && cause.contains("login is refused"), "{cause}");
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_connections_and_new_partitions_cost_nothing() {
    let (broker, stand_in) = (Mosquitto::start(), StandIn::start(2, Security::default()));
    let _platform = Platform::partitioned(broker.addr(), to_stand_in(&stand_in, 2), |_| Fate::Pass);
    let cluster = Cluster::start(1).await;
    let bootstrap = stand_in.bootstrap();
    let vars = Vars::new(&broker, &bootstrap, TOPIC, "6s");
    let run = cluster.run(INGESTION, &vars.list()).await;
    let has = |n: i64| {
        let stand_in = stand_in.clone();
        eventually(Duration::from_secs(60), "events are written", move || {
            std::future::ready(stand_in.end_of(0) >= n)
        })
    };
    has(200).await;
    let connections = stand_in.n_connections();
    stand_in.cut(true);
    has(500).await;
    stand_in.cut(false);
    has(900).await;
    stand_in.add_partition();
    stand_in.cut(false);
    let report = run.over().await;
    let seen = is_whole(&report);
    assert!(stand_in.n_connections() > connections, "it did come back");
    // What lay there meanwhile has no delay that is the platform's.
    assert!(seen.backlog > 0, "{seen:#?}");
    let delays = (seen.end_to_end_delay_us.unwrap().count, seen.ingest_delay_us.unwrap().count);
    assert_eq!(delays, (seen.received - seen.backlog, seen.received), "{seen:#?}");
    assert!(seen.reader_gaps.is_empty() && !has_gap(&report), "{seen:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_that_eats_unread_events_is_a_gap_and_no_loss() {
    let (broker, stand_in) = (Mosquitto::start(), StandIn::start(2, Security::default()));
    let _platform = Platform::partitioned(broker.addr(), to_stand_in(&stand_in, 2), |_| Fate::Pass);
    let cluster = Cluster::start(1).await;
    let bootstrap = stand_in.bootstrap();
    let vars = Vars::new(&broker, &bootstrap, TOPIC, "6s");
    let run = cluster.run(INGESTION, &vars.list()).await;
    let has = |n: i64| {
        let stand_in = stand_in.clone();
        eventually(Duration::from_secs(60), "events are written", move || {
            std::future::ready(stand_in.end_of(0) >= n)
        })
    };
    has(200).await;
    stand_in.cut(true);
    has(600).await;
    stand_in.delete_below(0, stand_in.end_of(0));
    stand_in.cut(false);
    let report = run.over().await;
    let seen = observed(&report);
    assert_eq!(report.phase, Phase::Finished, "{report:#?}");
    assert!(has_gap(&report), "{report:#?}");
    assert!(seen.lost_possible.unwrap() > 100, "{seen:#?}");
    assert_eq!((seen.lost, seen.duplicated), (Some(0), Some(0)), "{seen:#?}");
    assert!(seen.reader_gaps[0].why.contains("deleted before they were read"), "{seen:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_dies_after_the_load_leaves_what_is_still_to_come_to_the_next() {
    let (broker, stand_in) = (Mosquitto::start(), StandIn::start(10, Security::default()));
    // Slow enough that most of it comes out after the load.
    let to = Partitioned { delay: Duration::from_secs(4), ..to_stand_in(&stand_in, PARTITIONS) };
    let platform = Platform::partitioned(broker.addr(), to, |_| Fate::Pass);
    let mut cluster = Cluster::start(2).await;
    let bootstrap = stand_in.bootstrap();
    let vars = Vars::new(&broker, &bootstrap, TOPIC, "3s");
    let run = cluster.run(INGESTION, &vars.list()).await;
    eventually(Duration::from_secs(60), "the load is over and its counts are in", async || {
        let report = run.report().await;
        let sent = series(&report, "telemetry", "all").slots.map(|slots| slots.sent);
        let is_proved = report.agents.iter().all(|agent| agent.totals_proved == Some(true));
        report.phase == Phase::Collecting && is_proved && sent == Some(platform.taken())
    })
    .await;
    cluster.kill_agent(1).await;
    cluster.start_agent(1).await;
    let report = run.over().await;
    let seen = observed(&report);
    assert_eq!(report.phase, Phase::Finished, "{report:#?}");
    assert_eq!(
        (seen.received, seen.unique),
        (platform.taken(), Some(platform.taken())),
        "{seen:#?}"
    );
    assert_eq!((seen.lost, seen.duplicated), (Some(0), Some(0)), "{seen:#?}");
    assert!(seen.reader_gaps.is_empty() && !has_gap(&report), "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_that_die_leave_their_partitions_to_others_and_nothing_is_lost_or_counted_twice() {
    let (broker, stand_in) = (Mosquitto::start(), StandIn::start(10, Security::default()));
    let to = to_stand_in(&stand_in, PARTITIONS);
    let platform = Platform::partitioned(broker.addr(), to, |_| Fate::Pass);
    let mut cluster = Cluster::start(4).await;
    let bootstrap = stand_in.bootstrap();
    let vars = Vars::new(&broker, &bootstrap, TOPIC, "14s");
    let run = cluster.run(INGESTION, &vars.list()).await;
    let has_taken = |n: u64| {
        let platform = &platform;
        eventually(Duration::from_secs(60), "the platform takes events", move || {
            std::future::ready(platform.taken() >= n)
        })
    };
    for (victim, taken) in [(1, 1_500), (3, 4_000), (2, 7_000)] {
        has_taken(taken).await;
        cluster.kill_agent(victim).await;
        // Its next process holds the directory's lock, which proves the death at once.
        cluster.start_agent(victim).await;
    }
    let report = run.over().await;
    assert_eq!(report.phase, Phase::Finished, "{report:#?}");
    let seen = observed(&report);
    let taken = platform.taken();
    assert_eq!((seen.received, seen.unique), (taken, Some(taken)), "{seen:#?}");
    assert_eq!((seen.lost, seen.duplicated, seen.unparsed), (Some(0), Some(0), 0), "{seen:#?}");
    assert!(seen.reader_gaps.is_empty() && !has_gap(&report), "{report:#?}");
    assert!(report.agents.iter().any(|agent| agent.restarts > 0), "{report:#?}");
    // They did read on, from what had waited.
    assert!(seen.backlog > 0 && seen.backlog < taken / 2, "{seen:#?}");
}
