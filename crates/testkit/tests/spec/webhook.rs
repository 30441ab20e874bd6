//! A platform that pushes its output: every event is counted before it is answered, and what is
//! wrong with a request is said to whoever sent it.

use std::time::Duration;

use shoal_domain::ids::RunId;
use shoal_domain::run::Phase;
use shoal_testkit::cluster::{Cluster, observed, series};
use shoal_testkit::expect::eventually;
use shoal_testkit::mosquitto::Mosquitto;
use shoal_testkit::platform::{Fate, Partitioned, Platform};
use shoal_testkit::webhook::{Client, WAYS, free_addr, push_to, zipped};

const INGESTION: &str = include_str!("../../../../scenarios/ingestion-webhook.yaml");

fn overrides<'o>(broker: &'o str, listen: &'o str, hold: &'o str) -> Vec<(&'static str, &'o str)> {
    vec![
        ("broker", broker),
        ("listen", listen),
        ("devices", "100"),
        ("period", "100ms"),
        ("hold", hold),
    ]
}

fn pushing(
    broker: &Mosquitto,
    listen: std::net::SocketAddr,
    decide: impl Fn(u64) -> Fate + Send + 'static,
) -> Platform {
    let write = push_to(listen, "/events");
    let to = Partitioned { n_partitions: WAYS, delay: Duration::from_millis(20), write };
    Platform::partitioned(broker.addr(), to, decide)
}

#[tokio::test(flavor = "multi_thread")]
async fn injected_loss_duplicates_and_reordering_come_out_exact_of_pushes() {
    let (broker, listen) = (Mosquitto::start(), free_addr());
    let platform = pushing(&broker, listen, Fate::in_a_thousand);
    let cluster = Cluster::start(1).await;
    let (url, listen) = (format!("mqtt://{}", broker.addr()), listen.to_string());
    // What is lost never comes: the drain is waited for.
    let scenario = INGESTION.replace("drain: 30s", "drain: 3s");
    let run = cluster.run(&scenario, &overrides(&url, &listen, "8s")).await;
    let report = run.over().await;

    assert_eq!(report.phase, Phase::Finished, "{report:#?}");
    let seen = observed(&report);
    assert!(seen.acked > Some(5_000), "{seen:#?}");
    assert_eq!(seen.acked.unwrap(), platform.taken(), "{seen:#?}");
    assert_eq!(seen.lost, Some(platform.lost() + platform.garbled()), "{seen:#?}");
    assert_eq!(seen.duplicated, Some(platform.doubled()), "{seen:#?}");
    assert_eq!(seen.unparsed, platform.garbled(), "{seen:#?}");
    assert_eq!(seen.out_of_order, Some(platform.swapped()), "{seen:#?}");
    assert_eq!(seen.received, seen.unique.unwrap() + platform.doubled());
    assert_eq!((seen.source.as_str(), seen.foreign), ("webhook", 0), "{seen:#?}");
    assert!(seen.ingest_delay_us.is_none() && seen.reader_gaps.is_empty(), "{seen:#?}");
    assert!(seen.end_to_end_delay_us.unwrap().min >= 20_000, "{seen:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_dies_is_replaced_and_what_may_be_missing_is_a_gap() {
    let (broker, listen) = (Mosquitto::start(), free_addr());
    let platform = pushing(&broker, listen, |_| Fate::Pass);
    let mut cluster = Cluster::start(2).await;
    let (url, listen) = (format!("mqtt://{}", broker.addr()), listen.to_string());
    let run = cluster.run(INGESTION, &overrides(&url, &listen, "12s")).await;
    run.has_reported("telemetry", 1_000).await;

    // The first agent listens for the only observer; its next process proves that it is dead.
    cluster.kill_agent(0).await;
    cluster.start_agent(0).await;

    let report = run.over().await;
    assert_eq!(report.phase, Phase::Finished, "{report:#?}");
    let seen = observed(&report);
    assert_eq!(seen.lost, Some(0), "{seen:#?}");
    let [gap] = seen.reader_gaps.as_slice() else { panic!("one gap: {seen:#?}") };
    assert!(gap.from_s < gap.to_s, "{gap:?}");
    assert!(report.validity_reasons.iter().any(|reason| reason.code == "reader_gap"));
    assert!(seen.unique > Some(6_000) && platform.taken() >= seen.unique.unwrap(), "{seen:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_push_is_answered_with_a_sentence() {
    let listen = free_addr();
    let cluster = Cluster::start(1).await;
    cluster.secret("hook", "s3cret");
    let (url, listen_text) = (cluster.broker_url(), listen.to_string());
    let path = "path: /events";
    let with_token = "path: /events, credentials: { bearer: \"${secret.hook}\" }";
    // Nothing is pushed here but by hand.
    let scenario = INGESTION.replace(path, with_token);
    let scenario = scenario.replace("drain: 30s", "drain: 100ms\n    probe: off");
    assert!(scenario.contains(with_token) && scenario.contains("probe"));
    let run = cluster.run(&scenario, &overrides(&url, &listen_text, "60s")).await;
    run.has_reported("telemetry", 10).await;

    let mark = run.report().await.run.parse::<RunId>().unwrap().mark();
    let pushed = tokio::task::spawn_blocking(move || {
        let token = ("Authorization", "Bearer s3cret");
        let send = |method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]| {
            Client::new(listen).send(method, path, headers, body).expect("an answer")
        };
        let foreign = b"{\"trace\":\"sh1.00000000.1.2.3.4.5\"}".as_slice();
        let of_run = format!("/events/{mark}");
        let large = vec![b'x'; 9 * 1024 * 1024];
        let bomb = zipped(&vec![b' '; 20 * 1024 * 1024]);
        vec![
            send("POST", "/events", &[token], foreign),
            send("PUT", &of_run, &[token], &[b"[", foreign, b",", foreign, b"]"].concat()),
            send("POST", "/events", &[], foreign),
            send("POST", "/events", &[("Authorization", "Bearer x")], foreign),
            send("POST", "/other", &[token], foreign),
            send("POST", "/events/00000000", &[token], foreign),
            send("GET", "/events", &[token], b""),
            send("POST", "/events", &[token], b""),
            send("POST", "/events", &[token], b"[{\"a\":1},"),
            send("POST", "/events", &[token, ("Content-Encoding", "br")], foreign),
            send("POST", "/events", &[token, ("Content-Encoding", "gzip")], foreign),
            send("POST", "/events", &[token, ("Content-Encoding", "gzip")], &bomb),
            send("OPTIONS", "/events", &[("WebHook-Request-Origin", "p")], b""),
            Client::new(listen).send("POST", "/events", &[token], &large).unwrap_or_default(),
        ]
    });
    let pushed = pushed.await.unwrap();
    let statuses: Vec<u16> = pushed.iter().map(|(status, _)| *status).collect();
    let expected = [200, 200, 401, 401, 404, 404, 405, 400, 400, 415, 400, 413, 200];
    assert_eq!(statuses[..13], expected, "{pushed:#?}");
    // The answer may overtake the rest of a body that is refused.
    assert!([0, 413].contains(&statuses[13]), "{pushed:#?}");
    for (at, part) in [
        (0, "1 counted"),
        (1, "2 counted"),
        (3, "bearer token"),
        (5, "is not of this run"),
        (6, "not by GET"),
        (8, "JSON array"),
        (9, "not with br"),
        (11, "at most 8 MiB"),
    ] {
        assert!(pushed[at].1.contains(part), "{part}: {:?}", pushed[at]);
    }
    // Counted before they are answered; the report follows by the second.
    eventually(Duration::from_secs(20), "pushes are in the report", || async {
        let seen = observed(&run.report().await);
        // Empty, broken, not gzip, too large.
        seen.foreign == 3 && seen.unparsed >= 4
    })
    .await;
    run.stop().await;
    let report = run.over().await;
    assert_eq!(series(&report, "telemetry", "all").errors, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_taken_fails_the_start_with_a_sentence() {
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let cluster = Cluster::start(1).await;
    let url = cluster.broker_url();
    let report = cluster.run(INGESTION, &overrides(&url, &listen, "3s")).await.over().await;
    assert_eq!((report.phase, report.exit_code), (Phase::FailedToStart, Some(3)), "{report:#?}");
    let cause = report.cause.unwrap();
    assert!(cause.contains("SH0310") && cause.contains("another run may listen"), "{cause}");
}
