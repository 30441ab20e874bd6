//! The seed article's load through a whole platform: 6,000 devices, one message a second each, to a
//! broker; a stand-in forwards them to Kafka; one observer reads them there, and every one of the
//! 340,000 a minute is accounted for.
//!
//! Control plane, agent and the stand-ins share this process and its machine with mosquitto. Run:
//! `cargo bench --workspace --bench end_to_end`, for another time `… -- 600s`. It fails where anything
//! is lost, doubled or missing in any point of time, and where a minute had fewer.
#![expect(clippy::print_stdout, reason = "a bench prints its table")]

use std::process::ExitCode;
use std::time::Duration;

use shoal_domain::run::Phase;
use shoal_testkit::cluster::{Cluster, observed, series};
use shoal_testkit::kafka::stand_in::{Security, StandIn, TOPIC};
use shoal_testkit::mosquitto::Mosquitto;
use shoal_testkit::platform::{Fate, Partitioned, Platform};

const KAFKA: &str = include_str!("../../../scenarios/ingestion-kafka.yaml");
const PARTITIONS: usize = 4;
const MIN_PER_MINUTE: f64 = 340_000.0;

#[tokio::main]
async fn main() -> ExitCode {
    let hold = std::env::args().skip(1).find(|arg| arg.ends_with('s') && !arg.starts_with('-'));
    let hold = hold.unwrap_or_else(|| "60s".to_owned());
    let (broker, stand_in) = (Mosquitto::start(), StandIn::start(PARTITIONS, Security::default()));
    let write = {
        let stand_in = stand_in.clone();
        Box::new(move |at: i32, values: &[Vec<u8>]| stand_in.produce(at, values))
    };
    let to = Partitioned { n_partitions: PARTITIONS as i32, delay: Duration::ZERO, write };
    let platform = Platform::partitioned(broker.addr(), to, |_| Fate::Pass);
    let cluster = Cluster::start(1).await;
    let (url, bootstrap) = (format!("mqtt://{}", broker.addr()), stand_in.bootstrap());
    let overrides = [
        ("broker", url.as_str()),
        ("kafka", &bootstrap),
        ("kafka_topic", TOPIC),
        ("devices", "6000"),
        ("period", "1s"),
        ("hold", &hold),
    ];
    let run = cluster.run(KAFKA, &overrides).await;
    let report = loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let report = run.report().await;
        if report.phase.is_over() {
            break report;
        }
    };
    let export = run.export(0).await;

    let seen = observed(&report);
    let steady = series(&report, "telemetry", "hold");
    let per_minute = steady.rate_per_s * 60.0;
    let sent = seen.sent.unwrap_or(0);
    println!("sent {sent}, platform {}, read {}", platform.taken(), seen.received);
    println!(
        "lost {:?}, undelivered {:?}, unconfirmed {:?}, perhaps lost {:?}, duplicated {:?}, out of order {:?}",
        seen.lost,
        seen.undelivered,
        seen.unconfirmed,
        seen.lost_possible,
        seen.duplicated,
        seen.out_of_order
    );
    for (name, delay) in [
        ("ingest", &seen.ingest_delay_us),
        ("delivery", &seen.delivery_delay_us),
        ("end to end", &seen.end_to_end_delay_us),
    ] {
        if let Some(delay) = delay {
            println!("{name}: p50 {} µs, p95 {} µs, p99 {} µs", delay.p50, delay.p95, delay.p99);
        }
    }
    let agent = report.agents.first();
    let (cores, memory) =
        agent.map_or((0.0, 0), |agent| (agent.cpu_cores, agent.memory_max_bytes >> 20));
    println!(
        "{per_minute:.0} a minute while it holds; {cores:.2} cores and {memory} MiB for all of this process"
    );
    println!("validity {:?} {:?}", report.validity, report.validity_reasons);

    let course = &export.course.observers[0];
    let all_there = course.sent.iter().zip(&course.unique).all(|(sent, unique)| sent == unique);
    let holds = report.phase == Phase::Finished
        && sent > 0
        && seen.unique == Some(sent)
        && platform.taken() == sent
        && (seen.lost, seen.duplicated) == (Some(0), Some(0))
        && all_there
        && per_minute >= MIN_PER_MINUTE;
    println!("{}", if holds { "all accounted for" } else { "NOT all accounted for" });
    if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
