//! Before anybody sends, one message goes through the platform: whoever does not answer is told of at
//! the start, and no count of a run knows of it.

use std::time::Duration;

use shoal_domain::report::RunReport;
use shoal_domain::run::Phase;
use shoal_testkit::cluster::{Cluster, series};
use shoal_testkit::kafka::stand_in::{Security, StandIn, TOPIC};
use shoal_testkit::mosquitto::Mosquitto;
use shoal_testkit::platform::{Fate, PROBED, Partitioned, Platform};

/// Two readers of one series, so that with two agents one of them is not where device 0 is.
const SCENARIO: &str = r#"
version: 1
name: readiness
vars: { broker: builtin, kafka: "127.0.0.1:9092", probe: 20s, qos: 1 }
targets: { platform: { mqtt: { url: "${vars.broker}", protocol: 5 } } }
groups:
  sensors:
    target: platform
    devices: 20
    send:
      telemetry:
        every: 100ms
        publish:
          topic: devices/${device}/telemetry
          qos: ${vars.qos}
          properties: { kind: "${index}" }
          json: { trace: "${stamp}" }
observers:
  first: { of: sensors.telemetry, probe: "${vars.probe}", drain: 2s, OUTPUT }
  second: { of: sensors.telemetry, probe: "${vars.probe}", drain: 2s, OUTPUT }
load: [ { ramp: { to: 100%, over: 200ms } }, { hold: { for: 1s } } ]
"#;

fn by_mqtt() -> String {
    SCENARIO.replace("OUTPUT", r#"mqtt: { url: "${vars.broker}", filter: "out/#" }"#)
}

fn cause(report: &RunReport) -> &str {
    assert_eq!((report.phase, report.exit_code), (Phase::FailedToStart, Some(3)), "{report:#?}");
    report.cause.as_deref().unwrap_or_default()
}

/// Everything that was sent in the run was seen once, and nothing else was.
#[track_caller]
fn is_exact(report: &RunReport, platform: &Platform) {
    assert_eq!(report.phase, Phase::Finished, "{report:#?}");
    let sent = series(report, "telemetry", "all").slots.expect("it has a schedule").sent;
    assert!(sent > 100, "{report:#?}");
    assert_eq!((platform.probes(), platform.taken()), (1, sent));
    let seen: Vec<_> = report.observers.iter().filter(|seen| seen.stage == "all").collect();
    assert_eq!(seen.len(), 2);
    for seen in seen {
        assert_eq!((seen.received, seen.unique, seen.sent), (sent, Some(sent), Some(sent)));
        assert_eq!((seen.lost, seen.duplicated), (Some(0), Some(0)), "{seen:#?}");
        assert_eq!((seen.foreign, seen.unparsed, seen.backlog), (0, 0, 0), "{seen:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_load_waits_for_one_message_that_no_count_knows() {
    let broker = Mosquitto::start();
    let url = format!("mqtt://{}", broker.addr());
    for (n_agents, qos, fate) in
        [(1, "2", Fate::Pass), (2, "1", Fate::Double), (2, "0", Fate::Pass)]
    {
        let decide = move |number| if number == PROBED { fate } else { Fate::Pass };
        let platform = Platform::start(broker.addr(), decide);
        let cluster = Cluster::start(n_agents).await;
        let overrides = [("broker", url.as_str()), ("qos", qos)];
        let report = cluster.run(&by_mqtt(), &overrides).await.over().await;
        is_exact(&report, &platform);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_platform_that_does_not_answer_fails_the_start_with_a_sentence() {
    let broker = Mosquitto::start();
    let decide = |number| if number == PROBED { Fate::Lose } else { Fate::Pass };
    let platform = Platform::start(broker.addr(), decide);
    let cluster = Cluster::start(2).await;
    let url = format!("mqtt://{}", broker.addr());
    let overrides = [("broker", url.as_str()), ("probe", "700ms")];
    let report = cluster.run(&by_mqtt(), &overrides).await.over().await;

    let why = cause(&report);
    let parts =
        ["SH0311", "device sensors-0 sent", "topic devices/sensors-0/telemetry", "target platform"];
    for part in parts.into_iter().chain(["observer first", "within 0.7 s", "shoal scenario try"]) {
        assert!(why.contains(part), "{why}");
    }
    assert_eq!((platform.probes(), platform.taken()), (1, 0), "nobody else has sent");

    // Who knows better may go without.
    let overrides = [("broker", url.as_str()), ("probe", "off")];
    let report = cluster.run(&by_mqtt(), &overrides).await.over().await;
    assert_eq!(report.phase, Phase::Finished, "{report:#?}");
    assert_eq!(platform.probes(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_answer_is_one_in_time_only() {
    let (broker, kafka) = (Mosquitto::start(), StandIn::start(3, Security::default()));
    let output = kafka.clone();
    let write = move |partition: i32, values: &[Vec<u8>]| output.produce(partition, values);
    let to = Partitioned { n_partitions: 3, delay: Duration::from_secs(2), write: Box::new(write) };
    let platform = Platform::partitioned(broker.addr(), to, |_| Fate::Pass);
    let cluster = Cluster::start(2).await;
    let output = format!("kafka: {{ brokers: \"${{vars.kafka}}\", topic: {TOPIC} }}");
    let scenario = SCENARIO.replace("OUTPUT", &output).replace("drain: 2s", "drain: 20s");
    let (url, bootstrap) = (format!("mqtt://{}", broker.addr()), kafka.bootstrap());
    let overrides =
        |probe| [("broker", url.as_str()), ("kafka", bootstrap.as_str()), ("probe", probe)];
    let report = cluster.run(&scenario, &overrides("1s")).await.over().await;
    assert!(cause(&report).contains("within 1 s"), "{report:#?}");
    assert_eq!(platform.taken(), 0);

    // The answer to the first probe comes while the second run prepares, and is not its own.
    let report = cluster.run(&scenario, &overrides("20s")).await.over().await;
    assert_eq!(platform.probes(), 2);
    assert_eq!(report.phase, Phase::Finished, "{report:#?}");
    let sent = series(&report, "telemetry", "all").slots.unwrap().sent;
    for seen in report.observers.iter().filter(|seen| seen.stage == "all") {
        assert_eq!((seen.received, seen.lost), (sent, Some(0)), "{seen:#?}");
        assert_eq!((seen.duplicated, seen.foreign), (Some(0), 0), "{seen:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_refused_is_a_result_of_the_run_with_an_observer_as_without() {
    let (platform, cluster) = (Mosquitto::start(), Cluster::start(1).await);
    cluster.broker().refuse_connects(Some(5));
    let output = platform.addr();
    let output = format!("mqtt: {{ url: \"mqtt://{output}\", filter: \"out/#\" }}");
    let scenario = SCENARIO.replace("OUTPUT", &output).replace("protocol: 5", "protocol: 3.1.1");
    let observed = scenario.replace("          properties: { kind: \"${index}\" }\n", "");
    let (before, after) = observed.split_once("observers:").expect("it has some");
    let alone = format!("{before}load:{}", after.split_once("load:").expect("it has one").1);
    for scenario in [observed.as_str(), &alone] {
        let report = cluster.run(scenario, &[("broker", "builtin")]).await.over().await;
        assert_eq!((report.phase, report.exit_code), (Phase::Finished, Some(1)), "{report:#?}");
        assert_eq!((report.devices.planned, report.devices.failed), (20, 20));
    }
}
