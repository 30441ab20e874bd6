//! The request log: a row for every request of the sample, and all rows are what the target saw.

use shoal_proto::v1::LoggedRequest;
use shoal_testkit::cluster::{Cluster, series};
use shoal_testkit::http_server::{HttpServer, Reply};

use crate::STEADY;

fn of<'r>(rows: &'r [LoggedRequest], name: &str) -> Vec<&'r LoggedRequest> {
    rows.iter().filter(|row| row.name == name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_message_that_the_broker_counted_is_a_row() {
    let cluster = Cluster::start(2).await;
    let run = cluster.run_logged(STEADY, &[]).await;
    let report = run.over().await;
    let rows = run.requests().await;

    let telemetry = of(&rows, "telemetry");
    assert_eq!(telemetry.len() as u64, cluster.broker().publishes_seen());
    assert_eq!(of(&rows, "connect").len() as u64, cluster.broker().connects_seen());
    let log = report.request_log.as_ref().expect("the document tells of the log");
    assert_eq!((log.rows, log.dropped, log.sample_ratio), (rows.len() as u64, 0, 1.0));
    let slowest = telemetry.iter().filter_map(|row| row.response_us).max();
    let times = series(&report, "telemetry", "all").response_time_us.as_ref().unwrap();
    assert_eq!(slowest, Some(times.max));
    for row in telemetry {
        assert_eq!((row.outcome.as_str(), row.kind.as_str(), row.status), ("acked", "MQTT", 0));
        assert!(row.device.starts_with("sensor-") && row.bytes > 20, "{row:?}");
        assert_eq!(row.response_us, Some(row.lag_us.unwrap() + row.service_us.unwrap()));
    }
    let ends: Vec<u64> = rows.iter().map(|row| row.run_us + row.service_us.unwrap_or(0)).collect();
    assert!(ends.is_sorted_by_key(|end| end / 1_000_000), "second by second");
    let agents: std::collections::BTreeSet<&str> = rows.iter().map(|row| &*row.agent).collect();
    assert_eq!(agents.len(), 2);
}

/// Nobody answers these, so a row is written at the send: the rows are what was counted as sent, to
/// the last delta of the agent that was killed.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_agent_had_told_is_logged_once() {
    let mut cluster = Cluster::start(2).await;
    let scenario = STEADY.replace("qos: 1", "qos: 0");
    let run = cluster.run_logged(&scenario, &[("hold", "8s")]).await;
    run.has_reported("telemetry", 300).await;

    cluster.kill_agent(1).await;
    cluster.start_agent(1).await;

    let report = run.over().await;
    let rows = run.requests().await;
    let slots = series(&report, "telemetry", "all").slots.unwrap();
    assert!(slots.unassigned > 0, "{report:#?}");
    let telemetry = of(&rows, "telemetry");
    assert_eq!(telemetry.len() as u64, slots.sent);
    assert!(telemetry.iter().all(|row| row.outcome == "sent" && row.service_us.is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn http_requests_are_logged_with_their_status_and_their_error() {
    let server = HttpServer::start(|request| match request.path.as_str() {
        "/bad" => Reply::status(503),
        _ => Reply::text("hello"),
    });
    let cluster = Cluster::start(1).await;
    let scenario = r#"
version: 1
name: http
vars: { target: }
targets: { t: { http: { url: "${vars.target}" } } }
groups:
  g:
    target: t
    devices: 5
    send:
      good: { every: 100ms, http: { get: /good } }
      bad: { every: 200ms, http: { get: /bad } }
load: [ { ramp: { to: 100%, over: 100ms } }, { hold: { for: 2s } } ]
"#;
    let run = cluster.run_logged(scenario, &[("target", &server.url())]).await;
    run.over().await;
    let rows = run.requests().await;
    let (good, bad) = (of(&rows, "good"), of(&rows, "bad"));
    assert_eq!(good.len() as u64, server.count("/good"));
    assert_eq!(bad.len() as u64, server.count("/bad"));
    let told = |row: &&LoggedRequest| (row.kind.clone(), row.status, row.bytes, row.class.clone());
    assert!(good.iter().all(|row| told(row) == ("GET".into(), 200, 5, String::new())), "{good:?}");
    let failed = |row: &LoggedRequest| row.outcome == "failed" && row.response_us.is_some();
    assert!(bad.iter().all(|row| row.status == 503 && row.class == "http_status" && failed(row)));
}
