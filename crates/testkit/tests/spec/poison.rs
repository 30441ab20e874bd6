//! What a far end may throw at an observer: events of gigabytes, floods of what is not ours, a broker
//! that restarts. Nothing is lost silently, nothing grows, and the rest is counted as ever.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use shoal_domain::run::{Phase, Validity};
use shoal_testkit::cluster::{Cluster, observed};
use shoal_testkit::kafka::stand_in::{Security, StandIn, TOPIC};
use shoal_testkit::mosquitto::Mosquitto;
use shoal_testkit::platform::{Fate, Partitioned, Platform};
use shoal_testkit::webhook::{WAYS, free_addr, push_to};

const MQTT: &str = include_str!("../../../../scenarios/ingestion-mqtt.yaml");
const KAFKA: &str = include_str!("../../../../scenarios/ingestion-kafka.yaml");
const WEBHOOK: &str = include_str!("../../../../scenarios/ingestion-webhook.yaml");

/// Remaining length of the largest packet that MQTT has: 256 MiB.
const LARGEST: usize = 268_435_455;
const GIGABYTE: usize = 1 << 30;
/// More than other tests of this process need meanwhile, less than one of these events.
const ROOM_KB: u64 = 200_000;

/// A line of what the kernel says of this process, in kB.
fn memory(line: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let found = status.lines().find_map(|known| known.strip_prefix(line)).unwrap_or_default();
    found.trim_end_matches("kB").trim().parse().unwrap_or(0)
}

/// Sends one event as large as the protocol allows, without ever holding it.
fn publish_largest(broker: SocketAddr, topic: &str) {
    let mut stream = TcpStream::connect(broker).expect("the broker listens");
    stream.write_all(b"\x10\x10\0\x04MQTT\x04\x02\0\x3c\0\x04huge").expect("CONNECT");
    let mut connack = [0; 4];
    stream.read_exact(&mut connack).expect("CONNACK");
    assert_eq!(connack, [0x20, 2, 0, 0]);
    stream.write_all(&[0x30, 0xff, 0xff, 0xff, 0x7f, 0, topic.len() as u8]).expect("PUBLISH");
    stream.write_all(topic.as_bytes()).expect("its topic");
    let (chunk, mut left) = (vec![0; 1 << 20], LARGEST - 2 - topic.len());
    while left > 0 {
        let n = left.min(chunk.len());
        stream.write_all(&chunk[..n]).expect("its payload");
        left -= n;
    }
    stream.write_all(&[0xc0, 0]).expect("PINGREQ");
    let mut pong = [0; 2];
    stream.read_exact(&mut pong).expect("the broker has taken all of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_event_of_mqtt_is_skipped_and_counted() {
    let (broker, cluster) = (Mosquitto::start(), Cluster::start(1).await);
    let (url, before) = (format!("mqtt://{}", broker.addr()), memory("VmRSS:"));
    let overrides = [
        ("broker", url.as_str()),
        ("output_broker", &url),
        ("output_filter", "devices/+/telemetry"),
        ("devices", "50"),
        ("period", "100ms"),
        ("hold", "6s"),
    ];
    let run = cluster.run(MQTT, &overrides).await;
    run.has_reported("telemetry", 200).await;
    let addr = broker.addr();
    let publishing = tokio::task::spawn_blocking(move || {
        publish_largest(addr, "devices/huge/telemetry");
    });
    publishing.await.expect("it is published");
    let report = run.over().await;

    assert_eq!(report.phase, Phase::Finished, "{report:#?}");
    let seen = observed(&report);
    assert_eq!((seen.unparsed, seen.lost, seen.unique), (1, Some(0), seen.sent), "{seen:#?}");
    assert!(seen.reader_gaps.is_empty(), "{seen:#?}");
    let most = memory("VmHWM:");
    assert!(most < before + ROOM_KB, "{before} kB before, {most} kB at most");
}

/// Pushes zeros until the other side has had enough; what it said.
fn push_gigabyte(listen: &str, framing: &str, chunk: &[u8]) -> String {
    let mut stream = TcpStream::connect(listen).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a time-out is set");
    let head = format!("POST /events HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n");
    stream.write_all(head.as_bytes()).expect("a head");
    let mut sent = 0;
    while sent < GIGABYTE && stream.write_all(chunk).is_ok() {
        sent += chunk.len();
    }
    assert!(sent < GIGABYTE, "it took a gigabyte");
    let mut said = [0; 512];
    // It may have hung up on what was still on its way, and the answer with it.
    let n = stream.read(&mut said).unwrap_or(0);
    String::from_utf8_lossy(&said[..n]).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gigabyte_that_is_pushed_is_refused_while_it_comes() {
    let (broker, listen) = (Mosquitto::start(), free_addr());
    let to = Partitioned {
        n_partitions: WAYS,
        delay: Duration::ZERO,
        write: push_to(listen, "/events"),
    };
    let _platform = Platform::partitioned(broker.addr(), to, |_| Fate::Pass);
    let (cluster, before) = (Cluster::start(1).await, memory("VmRSS:"));
    let (url, listen) = (format!("mqtt://{}", broker.addr()), listen.to_string());
    let overrides = [
        ("broker", url.as_str()),
        ("listen", &listen),
        ("devices", "50"),
        ("period", "100ms"),
        ("hold", "4s"),
    ];
    let run = cluster.run(WEBHOOK, &overrides).await;
    run.has_reported("telemetry", 200).await;
    let pushing = tokio::task::spawn_blocking(move || {
        let announced = format!("Content-Length: {GIGABYTE}");
        let one = push_gigabyte(&listen, &announced, &vec![0; 1 << 16]);
        let mut chunk = b"10000\r\n".to_vec();
        chunk.extend(vec![0; 1 << 16]);
        chunk.extend(b"\r\n");
        [one, push_gigabyte(&listen, "Transfer-Encoding: chunked", &chunk)]
    });
    let said = pushing.await.expect("it is pushed");
    let report = run.over().await;

    for said in said.iter().filter(|said| !said.is_empty()) {
        assert!(said.starts_with("HTTP/1.1 413"), "{said}");
    }
    assert_eq!(report.phase, Phase::Finished, "{report:#?}");
    let seen = observed(&report);
    assert_eq!((seen.unparsed, seen.lost, seen.unique), (2, Some(0), seen.sent), "{seen:#?}");
    let most = memory("VmHWM:");
    assert!(most < before + ROOM_KB, "{before} kB before, {most} kB at most");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_foreign_events_hides_nothing_and_holds_nothing_up() {
    const FOREIGN: u64 = 200_000;
    let (broker, stand_in) = (Mosquitto::start(), StandIn::start(2, Security::default()));
    let write = {
        let stand_in = stand_in.clone();
        Box::new(move |at: i32, values: &[Vec<u8>]| stand_in.produce(at, values))
    };
    let to = Partitioned { n_partitions: 2, delay: Duration::ZERO, write };
    let platform = Platform::partitioned(broker.addr(), to, |_| Fate::Pass);
    let cluster = Cluster::start(1).await;
    let (url, bootstrap) = (format!("mqtt://{}", broker.addr()), stand_in.bootstrap());
    let overrides = [
        ("broker", url.as_str()),
        ("kafka", &bootstrap),
        ("kafka_topic", TOPIC),
        ("devices", "50"),
        ("period", "100ms"),
        ("hold", "5s"),
    ];
    let run = cluster.run(KAFKA, &overrides).await;
    run.has_reported("telemetry", 200).await;
    let flood = tokio::task::spawn_blocking(move || {
        let foreign = |n: u64| format!("{{\"trace\":\"sh1.0badcafe.1.7.0.{n}.1700000000000000\"}}");
        for from in (0..FOREIGN).step_by(500) {
            let values: Vec<Vec<u8>> = (from..from + 500).map(|n| foreign(n).into()).collect();
            stand_in.produce((from / 500 % 2) as i32, &values);
        }
    });
    flood.await.expect("it is written");
    let report = run.over().await;

    assert_eq!(report.phase, Phase::Finished, "{report:#?}");
    let seen = observed(&report);
    assert_eq!((seen.acked.unwrap_or(0), seen.unparsed), (platform.taken(), 0), "{seen:#?}");
    assert_eq!((seen.unique, seen.lost, seen.duplicated), (seen.sent, Some(0), Some(0)));
    // Its end is the last message of ours, which may lie before the last of the others'.
    assert!(seen.foreign > 0 && seen.foreign <= FOREIGN, "{seen:#?}");
    assert!(seen.reader_gaps.is_empty(), "{seen:#?}");
    assert!(seen.drain_us.is_some_and(|us| us < 30_000_000), "{seen:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_restarts_under_an_observer_is_a_gap_and_no_loss() {
    let (mut broker, cluster) = (Mosquitto::start(), Cluster::start(1).await);
    let url = format!("mqtt://{}", broker.addr());
    let overrides = [
        ("broker", url.as_str()),
        ("output_broker", &url),
        ("output_filter", "devices/+/telemetry"),
        ("devices", "50"),
        ("period", "100ms"),
        ("hold", "8s"),
    ];
    // What was under way when it ended never comes: the drain is waited for.
    let scenario = MQTT.replace("drain: 30s", "drain: 2s");
    let run = cluster.run(&scenario, &overrides).await;
    run.has_reported("telemetry", 1_000).await;
    broker.kill();
    broker.start_again();
    let report = run.over().await;

    assert_eq!(report.phase, Phase::Finished, "{report:#?}");
    let seen = observed(&report);
    let [gap] = seen.reader_gaps.as_slice() else { panic!("one gap: {seen:#?}") };
    assert!(gap.from_s < gap.to_s, "{gap:?}");
    assert!(report.validity_reasons.iter().any(|reason| reason.code == "reader_gap"));
    assert_ne!(report.validity, Some(Validity::Valid));
    // What did not come out then may have passed while nobody read.
    assert_eq!((seen.lost, seen.undelivered, seen.duplicated), (Some(0), Some(0), Some(0)));
    let (unique, possible) = (seen.unique.unwrap_or(0), seen.lost_possible.unwrap_or(0));
    assert_eq!(Some(unique + possible), seen.sent, "{seen:#?}");
    // Both before it and after it events were read.
    let course = run.export(0).await.course;
    let read = |from: f64, to: f64| -> u64 {
        let points = course.from_s.iter().zip(&course.observers[0].received);
        points.filter(|(at, _)| (from..to).contains(&(**at as f64))).map(|(_, n)| n).sum()
    };
    assert!(read(0.0, gap.from_s) > 0 && read(gap.to_s, f64::MAX) > 0, "{course:#?}");
}
