//! Protocols that an agent brings along: their devices are held, counted and judged like all others.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use line_agent::Lines;
use line_agent::server::Meters;
use shoal_agent::protocol::Protocols;
use shoal_domain::outcome::ErrorClass;
use shoal_domain::report::RunReport;
use shoal_domain::run::{Phase, Validity};
use shoal_testkit::cluster::{Cluster, series};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

const METERS: &str = include_str!("../../../../examples/line-agent/meters.yaml");

async fn cluster() -> Cluster {
    Cluster::speaking(Protocols::of([Arc::new(Lines) as _]), 2).await
}

async fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port of loopback");
    let url = format!("http://{}", listener.local_addr().expect("it is bound"));
    (listener, url)
}

async fn run(cluster: &Cluster, url: &str) -> RunReport {
    cluster.run(METERS, &[("target", url), ("hold", "3s")]).await.over().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_protocol_of_ones_own_has_its_series_and_what_it_sent_is_what_came_in() {
    let (listener, url) = listener().await;
    let meters = Arc::new(Meters::default());
    let serving = Arc::clone(&meters);
    let mut server = JoinSet::new();
    server.spawn(async move { serving.serve(listener).await });
    let report = run(&cluster().await, &url).await;
    drop(server);
    assert_eq!((report.phase, report.exit_code), (Phase::Finished, Some(0)), "{report:#?}");
    assert_eq!(report.validity, Some(Validity::Valid), "{report:#?}");
    let (limit, reading) = (series(&report, "limit", "all"), series(&report, "reading", "all"));
    assert_eq!((limit.count, reading.acked), (20, Some(reading.count)), "{report:#?}");
    assert_eq!(limit.count + reading.count, meters.received.load(Ordering::Relaxed));
    let slots = reading.slots.as_ref().expect("a series of the open model");
    assert_eq!(slots.planned, slots.n_classed(), "{report:#?}");
    assert!(slots.planned >= 60, "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_breaks_the_protocol_is_an_error_class_and_ends_the_connection() {
    let (listener, url) = listener().await;
    let mut server = JoinSet::new();
    server.spawn(async move {
        loop {
            let Ok((mut device, _)) = listener.accept().await else { break };
            // As much as it takes to look like an answer, and nothing of one.
            let _ = device.write_all(b"220 garbage ESMTP\n").await;
        }
    });
    let report = run(&cluster().await, &url).await;
    drop(server);
    let limit = series(&report, "limit", "all");
    assert_eq!(limit.errors_by_class.get(&ErrorClass::Protocol), Some(&20), "{report:#?}");
    assert_eq!(series(&report, "reading", "all").count, 0);
    assert_eq!(report.exit_code, Some(1), "no data is a breach: {report:#?}");
    assert!(report.failures.iter().any(|f| f.text.contains("220 garbage")), "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_does_not_speak_it_fails_the_start_and_says_so() {
    let (_listener, url) = listener().await;
    let report = run(&Cluster::start(1).await, &url).await;
    assert_eq!(report.phase, Phase::FailedToStart, "{report:#?}");
    let cause = report.cause.as_deref().unwrap_or_default();
    assert!(
        cause.starts_with("SH0308: agent agent-0: target head-end speaks `lines`, and this agent"),
        "{cause}"
    );
}
