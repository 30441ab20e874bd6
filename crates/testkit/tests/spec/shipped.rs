//! Every scenario that we ship runs, cut short, on the broker that we ship or on an HTTP server.

use std::path::Path;
use std::time::Duration;

use shoal_domain::check::files_named;
use shoal_domain::outcome::Operation;
use shoal_domain::report::{
    AgentReport, RunReport, ThresholdReport, ThresholdResult, ValidityReason,
};
use shoal_domain::run::Phase;
use shoal_proto::v1::ShippedFile;
use shoal_testkit::cluster::Cluster;
use shoal_testkit::eventhubs;
use shoal_testkit::http_server::HttpServer;
use shoal_testkit::kafka::stand_in::{Security, StandIn, TOPIC};
use shoal_testkit::nats;
use shoal_testkit::platform::{Fate, Partitioned, Platform};
use shoal_testkit::webhook::{WAYS, free_addr, push_to};

/// On a machine that is busy with something else the generator sleeps through slots, and the run says so:
/// one of fifty is two percent, and INVALID. That is right, and no fault of a scenario; but only where
/// the kernel itself says that these threads were ready and had no processor.
fn is_starved(report: &RunReport, reason: &ValidityReason) -> bool {
    let causes = ["run_queue_delay", "cpu_pressure", "cpu_steal", "cpu_throttled"];
    let had_none = |agent: &AgentReport| agent.waited_ratio > 0.01 || agent.stolen_ratio > 0.01;
    let is_effect = ["missed_slots", "send_lag"].contains(&reason.code.as_str());
    causes.contains(&reason.code.as_str()) || (is_effect && report.agents.iter().any(had_none))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_shipped_scenario_runs() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scenarios");
    let mut names: Vec<_> =
        std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    names.sort();
    assert!(names.len() >= 3, "{names:?}");
    for file in names {
        let cluster = Cluster::start(1).await;
        let text = std::fs::read_to_string(&file).unwrap();
        let speaks_http = text.contains("http: {");
        let server = HttpServer::of_the_tutorial();
        let mut overrides = if speaks_http {
            vec![("target", server.url()), ("total", "7s".to_owned())]
        } else {
            vec![("broker", cluster.broker_url())]
        };
        if text.contains("vars.devices") {
            // Of those that come and go only a few are there at a time.
            let devices = match (speaks_http, text.contains("churn:")) {
                (true, _) => "10",
                (_, true) => "600",
                _ => "50",
            };
            overrides.push(("devices", devices.to_owned()));
        }
        // What comes in at the broker goes out at Kafka.
        let stand_in = StandIn::start(2, Security::default());
        let mut platform = None;
        if text.contains("vars.kafka") {
            overrides.push(("kafka", stand_in.bootstrap()));
            overrides.push(("kafka_topic", TOPIC.to_owned()));
            let write = {
                let stand_in = stand_in.clone();
                Box::new(move |at: i32, values: &[Vec<u8>]| stand_in.produce(at, values))
            };
            let to = Partitioned { n_partitions: 2, delay: Duration::ZERO, write };
            platform = Some(Platform::partitioned(cluster.broker_addr(), to, |_| Fate::Pass));
        }
        // Or at Event Hubs.
        let event_hub = eventhubs::StandIn::start(2, false);
        if text.contains("eventhubs:") {
            cluster.secret("eventhub", &event_hub.connection_string());
            let write = {
                let event_hub = event_hub.clone();
                Box::new(move |at: i32, values: &[Vec<u8>]| event_hub.produce(at, values))
            };
            let to = Partitioned { n_partitions: 2, delay: Duration::ZERO, write };
            platform = Some(Platform::partitioned(cluster.broker_addr(), to, |_| Fate::Pass));
        }
        // Or in JetStream.
        let stream = text.contains("vars.nats").then(nats::Nats::start);
        if let Some(stream) = &stream {
            cluster.secret("nats", nats::LOGIN.1);
            overrides.push(("nats", format!("nats://{}", stream.addr())));
            let mut client = stream.client();
            let write = Box::new(move |_: i32, values: &[Vec<u8>]| client.publish("out.a", values));
            let to = Partitioned { n_partitions: 1, delay: Duration::ZERO, write };
            platform = Some(Platform::partitioned(cluster.broker_addr(), to, |_| Fate::Pass));
        }
        // Or is pushed.
        let listen = free_addr();
        if text.contains("vars.listen") {
            overrides.push(("listen", listen.to_string()));
            let write = push_to(listen, "/events");
            let to = Partitioned { n_partitions: WAYS, delay: Duration::ZERO, write };
            platform = Some(Platform::partitioned(cluster.broker_addr(), to, |_| Fate::Pass));
        }
        if text.contains("vars.output_broker") {
            overrides.push(("output_broker", cluster.broker_url()));
        }
        if text.contains("vars.hold") {
            let hold = if text.contains("churn:") { "20s" } else { "2s" };
            overrides.push(("hold", hold.to_owned()));
        }
        if text.contains("vars.period") {
            overrides.push(("period", "500ms".to_owned()));
        }
        let overrides: Vec<_> =
            overrides.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let named = files_named(&text, &[]).into_iter();
        let files = named.map(|path| {
            let body = std::fs::read(dir.join(&path)).unwrap();
            ShippedFile { path, body }
        });
        let run = cluster.run_with(&text, &overrides, files.collect()).await;
        if !speaks_http {
            run.has_sent(50).await;
            run.stop().await;
        }
        let report = run.over().await;
        drop(platform);

        let what = file.display();
        assert_eq!(report.phase, Phase::Finished, "{what}");
        // A run that was cut short never came to its later stages.
        let holds = |t: &ThresholdReport| match t.result {
            ThresholdResult::Passed => true,
            ThresholdResult::NoData => t.stage.is_some(),
            ThresholdResult::Failed => false,
        };
        assert!(report.thresholds.iter().all(holds), "{what}: {:#?}", report.thresholds);
        let faults = report.validity_reasons.iter().filter(|reason| !is_starved(&report, reason));
        let faults: Vec<_> = faults.collect();
        assert!(faults.is_empty(), "{what}: {faults:#?} of {report:#?}");
        if speaks_http {
            let http = report.series.iter().filter(|row| row.operation == Operation::Http);
            let count: u64 = http.filter(|row| row.stage == "all").map(|row| row.count).sum();
            assert_eq!(count, server.total(), "{what}");
            continue;
        }
        let of_all = report.series.iter().filter(|series| series.stage == "all");
        let publishes = of_all
            .filter(|series| matches!(series.operation, Operation::Publish | Operation::Command));
        let published: u64 = publishes.map(|series| series.count).sum();
        // Of an observed series one message goes ahead.
        let probes = u64::from(text.contains("observers:"));
        assert_eq!(published + probes, cluster.broker().publishes_seen(), "{what}");
    }
}
