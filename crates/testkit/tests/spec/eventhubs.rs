//! The platform's output in Azure Event Hubs, here a stand-in: read by number, so that nothing is lost or
//! counted twice whoever dies, with the time at which the platform took it in.

use std::time::Duration;

use shoal_agent::observe::trial;
use shoal_domain::check::parse_plan;
use shoal_domain::files::Files;
use shoal_domain::ids::RunId;
use shoal_domain::report::{ObserverReport, RunReport};
use shoal_domain::run::Phase;
use shoal_proto::v1::ShippedFile;
use shoal_testkit::cluster::{Cluster, Run, has_gap, observed, series};
use shoal_testkit::eventhubs::{GROUP, HUB, StandIn};
use shoal_testkit::expect::eventually;
use shoal_testkit::mosquitto::Mosquitto;
use shoal_testkit::platform::{Fate, Partitioned, Platform};

const INGESTION: &str = include_str!("../../../../scenarios/ingestion-eventhubs.yaml");
const PARTITIONS: usize = 10;
const DEVICES: u64 = 100;

/// Events of each partition of the hub, as the platform writes them.
fn to(stand_in: &StandIn, n_partitions: usize) -> Partitioned {
    let stand_in = stand_in.clone();
    let write = move |partition: i32, values: &[Vec<u8>]| stand_in.produce(partition, values);
    Partitioned { n_partitions: n_partitions as i32, delay: Duration::ZERO, write: Box::new(write) }
}

/// Runs the shipped scenario, or one that was made of it.
async fn start(cluster: &Cluster, broker: &Mosquitto, scenario: &str, hold: &str) -> Run {
    let broker = format!("mqtt://{}", broker.addr());
    let vars =
        [("broker", broker.as_str()), ("devices", "100"), ("period", "100ms"), ("hold", hold)];
    cluster.run(scenario, &vars).await
}

/// All that was sent arrived once.
#[track_caller]
fn is_whole(report: &RunReport) -> ObserverReport {
    assert_eq!(report.phase, Phase::Finished, "{report:#?}");
    let seen = observed(report);
    let sent = series(report, "telemetry", "all").slots.expect("a series with a schedule").sent;
    assert!(sent > DEVICES, "{report:#?}");
    let counts = (seen.sent, seen.acked, seen.unique);
    assert_eq!(counts, (Some(sent), Some(sent), Some(sent)), "{report:#?}");
    assert_eq!((seen.received, seen.lost, seen.duplicated), (sent, Some(0), Some(0)), "{seen:#?}");
    assert_eq!((seen.out_of_order, seen.unparsed), (Some(0), 0), "{seen:#?}");
    assert!(seen.reader_gaps.is_empty() && !has_gap(report), "{seen:#?}");
    seen
}

async fn has(stand_in: &StandIn, n: i64) {
    eventually(Duration::from_secs(60), "events are written", || {
        std::future::ready(stand_in.end_of(0) >= n)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn four_observers_read_ten_partitions_and_all_is_there_once() {
    let (broker, stand_in) = (Mosquitto::start(), StandIn::start(PARTITIONS, true));
    // What was there before the run is not the run's.
    stand_in.produce(3, &[b"sh1.00000000.1.2.3.4.5".to_vec(), b"old".to_vec()]);
    let mut to = to(&stand_in, PARTITIONS);
    to.delay = Duration::from_millis(300);
    let platform = Platform::partitioned(broker.addr(), to, |_| Fate::Pass);
    let cluster = Cluster::start(4).await;
    cluster.secret("eventhub", &stand_in.connection_string());
    let scenario = INGESTION.replace("eventhubs:\n", "eventhubs:\n      ca: ca.pem\n");
    let body = stand_in.ca_pem().as_bytes().to_vec();
    let files = vec![ShippedFile { path: "ca.pem".to_owned(), body }];
    let url = format!("mqtt://{}", broker.addr());
    let vars = [("broker", url.as_str()), ("devices", "100"), ("period", "100ms"), ("hold", "4s")];
    let report = cluster.run_with(&scenario, &vars, files).await.over().await;

    let seen = is_whole(&report);
    assert_eq!(seen.received, platform.taken());
    assert_eq!((seen.source.as_str(), seen.foreign, seen.unstamped), ("eventhubs", 0, 0));
    assert_eq!((stand_in.n_connections(), stand_in.n_tokens()), (4, 4));
    // The platform holds each event back for 300 ms before it is enqueued.
    let (ingest, delivery) = (seen.ingest_delay_us.unwrap(), seen.delivery_delay_us.unwrap());
    let bound = seen.platform_bound_us.unwrap() as i64;
    assert_eq!((ingest.count, delivery.count), (seen.received, seen.received));
    assert!(ingest.min >= 300_000 - bound && delivery.min >= -bound, "{seen:#?}");
    let end_to_end = seen.end_to_end_delay_us.unwrap();
    assert!(end_to_end.min >= 300_000 - seen.clock_bound_us as i64, "{seen:#?}");
    assert_eq!(seen.platform_clock_us, Some(0), "one machine has one clock: {seen:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn injected_loss_duplicates_and_reordering_come_out_exact() {
    let (broker, stand_in) = (Mosquitto::start(), StandIn::start(4, false));
    let platform = Platform::partitioned(broker.addr(), to(&stand_in, 4), Fate::in_a_thousand);
    let cluster = Cluster::start(2).await;
    cluster.secret("eventhub", &stand_in.connection_string());
    let scenario = INGESTION.replace("drain: 30s", "drain: 3s");
    let report = start(&cluster, &broker, &scenario, "8s").await.over().await;

    let seen = observed(&report);
    assert_eq!(seen.acked, Some(platform.taken()), "{seen:#?}");
    assert_eq!(seen.lost, Some(platform.lost() + platform.garbled()), "{seen:#?}");
    assert_eq!(seen.duplicated, Some(platform.doubled()), "{seen:#?}");
    assert_eq!(seen.out_of_order, Some(platform.swapped()), "{seen:#?}");
    assert_eq!(seen.unparsed, platform.garbled(), "{seen:#?}");
    assert_eq!(seen.received, seen.unique.unwrap() + platform.doubled());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_fails_the_start_with_a_sentence() {
    let (broker, stand_in) = (Mosquitto::start(), StandIn::start(2, false));
    let cluster = Cluster::start(1).await;
    let good = stand_in.connection_string();
    let closed = good.replace(|c: char| c.is_ascii_digit(), "1");
    let not_amqp = format!(
        "Endpoint=sb://{};SharedAccessKeyName=a;SharedAccessKey=b;UseDevelopmentEmulator=true",
        broker.addr()
    );
    let group = format!("consumer_group: {GROUP}-of-nobody");
    let cases = [
        (stand_in.wrong_connection_string(), "", "", "its token is refused: status 401"),
        (good.clone(), "hub: telemetry", "hub: elsewhere", "event hub elsewhere: status 404"),
        (good.clone(), "consumer_group: $Default", &group, "could not be found"),
        (format!("{good};EntityPath=other"), "", "", "is for the hub other, not for telemetry"),
        ("Endpoint=sb://x/".to_owned(), "", "", "it has no `SharedAccessKeyName`"),
        (closed, "", "", "cannot connect"),
        (not_amqp, "", "", "127.0.0.1"),
    ];
    for (connection, from, into, expected) in cases {
        cluster.secret("eventhub", &connection);
        let scenario = INGESTION.replace(from, into);
        let report = start(&cluster, &broker, &scenario, "2s").await.over().await;
        let cause = report.cause.unwrap_or_default();
        let ended = (report.phase, report.exit_code);
        assert_eq!(ended, (Phase::FailedToStart, Some(3)), "{expected}: {cause}");
        assert!(cause.contains("SH0310") && cause.contains(expected), "{expected}: {cause}");
        assert!(!cause.contains("SharedAccessKey="), "{cause}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_connections_and_new_partitions_cost_nothing() {
    let (broker, stand_in) = (Mosquitto::start(), StandIn::start(2, false));
    let _platform = Platform::partitioned(broker.addr(), to(&stand_in, 2), |_| Fate::Pass);
    let cluster = Cluster::start(1).await;
    cluster.secret("eventhub", &stand_in.connection_string());
    let run = start(&cluster, &broker, INGESTION, "6s").await;
    has(&stand_in, 200).await;
    let connections = stand_in.n_connections();
    stand_in.cut(true);
    has(&stand_in, 500).await;
    stand_in.cut(false);
    has(&stand_in, 900).await;
    stand_in.add_partition();
    stand_in.cut(false);
    let report = run.over().await;
    let seen = is_whole(&report);
    assert!(stand_in.n_connections() > connections, "it did come back");
    // What lay there meanwhile has no delay that is the platform's.
    assert!(seen.backlog > 0, "{seen:#?}");
    let delays = (seen.end_to_end_delay_us.unwrap().count, seen.ingest_delay_us.unwrap().count);
    assert_eq!(delays, (seen.received - seen.backlog, seen.received), "{seen:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_falls_silent_is_noticed_and_read_anew() {
    let (broker, stand_in) = (Mosquitto::start(), StandIn::start(2, false));
    let _platform = Platform::partitioned(broker.addr(), to(&stand_in, 2), |_| Fate::Pass);
    let cluster = Cluster::start(1).await;
    cluster.secret("eventhub", &stand_in.connection_string());
    let run = start(&cluster, &broker, INGESTION, "4s").await;
    has(&stand_in, 200).await;
    let connections = stand_in.n_connections();
    stand_in.fall_silent(true);
    eventually(Duration::from_secs(60), "the reader comes back", || {
        std::future::ready(stand_in.n_connections() > connections)
    })
    .await;
    stand_in.fall_silent(false);
    let seen = is_whole(&run.over().await);
    assert!(seen.backlog > 0, "{seen:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_renewed_before_it_ends() {
    let (broker, stand_in) = (Mosquitto::start(), StandIn::start(2, false));
    let _platform = Platform::partitioned(broker.addr(), to(&stand_in, 2), |_| Fate::Pass);
    let cluster = Cluster::start(1).await;
    cluster.secret("eventhub", &stand_in.connection_string());
    let scenario = INGESTION.replace("eventhubs:\n", "eventhubs:\n      ttl: 10s\n");
    let report = start(&cluster, &broker, &scenario, "14s").await.over().await;
    let seen = is_whole(&report);
    // The service ends a link whose token has ended.
    assert_eq!((stand_in.n_connections(), seen.backlog), (1, 0), "{seen:#?}");
    assert!(stand_in.n_tokens() >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_are_gone_before_they_were_read_are_a_gap_and_no_loss() {
    let (broker, stand_in) = (Mosquitto::start(), StandIn::start(2, false));
    let _platform = Platform::partitioned(broker.addr(), to(&stand_in, 2), |_| Fate::Pass);
    let cluster = Cluster::start(1).await;
    cluster.secret("eventhub", &stand_in.connection_string());
    let run = start(&cluster, &broker, INGESTION, "6s").await;
    has(&stand_in, 200).await;
    // Retention, while nobody reads.
    stand_in.cut(true);
    has(&stand_in, 600).await;
    stand_in.delete_below(0, stand_in.end_of(0));
    stand_in.cut(false);
    has(&stand_in, 800).await;
    // And numbers that never come, while it does read.
    stand_in.leave_out(1, 17);
    let report = run.over().await;
    let seen = observed(&report);
    assert_eq!(report.phase, Phase::Finished, "{report:#?}");
    assert!(has_gap(&report), "{report:#?}");
    assert!(seen.lost_possible.unwrap() > 100, "{seen:#?}");
    assert_eq!((seen.lost, seen.duplicated), (Some(0), Some(0)), "{seen:#?}");
    let whys: Vec<&str> = seen.reader_gaps.iter().map(|gap| gap.why.as_str()).collect();
    assert!(whys.iter().all(|why| why.contains("gone before they were read")), "{whys:?}");
    assert!(whys.iter().any(|why| why.contains("partition 1: 17 events")), "{whys:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_that_die_leave_their_partitions_to_others_and_nothing_is_lost_or_counted_twice() {
    let (broker, stand_in) = (Mosquitto::start(), StandIn::start(PARTITIONS, false));
    let platform = Platform::partitioned(broker.addr(), to(&stand_in, PARTITIONS), |_| Fate::Pass);
    let mut cluster = Cluster::start(4).await;
    cluster.secret("eventhub", &stand_in.connection_string());
    let run = start(&cluster, &broker, INGESTION, "14s").await;
    for (victim, taken) in [(1, 1_500), (3, 4_000), (2, 7_000)] {
        eventually(Duration::from_secs(60), "the platform takes events", || {
            std::future::ready(platform.taken() >= taken)
        })
        .await;
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

#[tokio::test(flavor = "multi_thread")]
async fn properties_beside_an_event_are_read_too() {
    let (broker, stand_in) = (Mosquitto::start(), StandIn::start(2, false));
    let write = {
        let stand_in = stand_in.clone();
        move |partition: i32, values: &[Vec<u8>]| {
            let moved = values.iter().map(|value| {
                let text = String::from_utf8_lossy(value).into_owned();
                (vec![("beside".to_owned(), text)], b"a body of its own".to_vec())
            });
            stand_in.produce_with_properties(partition, &moved.collect::<Vec<_>>());
        }
    };
    let to = Partitioned { n_partitions: 2, delay: Duration::ZERO, write: Box::new(write) };
    let _platform = Platform::partitioned(broker.addr(), to, |_| Fate::Pass);
    let cluster = Cluster::start(1).await;
    cluster.secret("eventhub", &format!("{};EntityPath={HUB}", stand_in.connection_string()));
    let scenario = INGESTION.replace("      hub: ${vars.hub}\n", "");
    let scenario = scenario.replace("  hub: telemetry\n", "");
    is_whole(&start(&cluster, &broker, &scenario, "2s").await.over().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_is_read_to_its_end() {
    let stand_in = StandIn::start(4, false);
    let run: RunId = "run_01M8AVMHFKBNQ148CS99KVE7T3".parse().unwrap();
    let connection = stand_in.connection_string();
    let text = INGESTION.replace("${secret.eventhub}", &format!("\"{connection}\""));
    let overrides = [("devices".to_owned(), "100".to_owned())];
    let plan = parse_plan(&text, &overrides, &Files::none()).unwrap();
    let n = 20_000_u64;
    let write = || {
        let at_us = std::time::UNIX_EPOCH.elapsed().unwrap().as_micros();
        for partition in 0..4 {
            let event = |number: u64| {
                let mark = run.mark();
                format!("sh1.{mark}.1.{}.0.{}.{at_us}", number % 100, number / 100).into_bytes()
            };
            let numbers = (0..n).filter(|number| number % 4 == partition);
            let all: Vec<Vec<u8>> = numbers.map(event).collect();
            stand_in.produce(partition as i32, &all);
        }
    };
    // More than credit and windows allow at once.
    trial::read(plan, run, n, write, || {}).await.unwrap();
}
