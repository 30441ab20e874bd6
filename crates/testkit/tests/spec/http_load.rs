//! HTTP devices under every kind of load: they come and go, and the server's count is the
//! document's.

use std::time::Duration;

use shoal_domain::report::{RunReport, ValidityReason};
use shoal_domain::run::{Phase, Validity};
use shoal_testkit::authority::Authority;
use shoal_testkit::cluster::{Cluster, series};
use shoal_testkit::expect::eventually;
use shoal_testkit::http_server::{HttpServer, Reply};

/// Devices that log in, send ten times a second, and say goodbye; `load` and the `group` keys beside.
fn scenario(target: &str, group: &str, load: &str) -> String {
    format!(
        "version: 1\nname: http-load\nvars: {{ target: }}\nstop_timeout: 2s\n\
         targets: {{ t: {{ http: {{ url: \"${{vars.target}}\"{target} }} }} }}\n\
         groups:\n  g:\n    target: t\n    devices: 20\n    {group}\n    \
         on_start: [ {{ name: login, http: {{ post: /login, json: {{ id: \"${{device}}\" }} }} }} ]\n    \
         on_stop: [ {{ name: bye, http: {{ get: /bye }} }} ]\n    \
         send: {{ tick: {{ every: 100ms, http: {{ get: /tick }} }} }}\n\
         load: [ {load} ]\n"
    )
}

/// A server that takes a few milliseconds, so that requests are on their way when things happen.
fn server() -> HttpServer {
    HttpServer::start(|_| Reply::text("ok").after(Duration::from_millis(5)))
}

/// The equation holds, and what was counted here was counted there.
fn counts_agree(report: &RunReport, server: &HttpServer) {
    assert_eq!(report.phase, Phase::Finished);
    assert_ne!(report.validity, Some(Validity::Invalid), "{report:#?}");
    let slots = series(report, "tick", "all").slots.expect("a series of the open model");
    assert_eq!(slots.planned, slots.n_classed(), "{report:#?}");
    for (name, path) in [("login", "/login"), ("tick", "/tick"), ("bye", "/bye")] {
        assert_eq!(series(report, name, "all").count, server.count(path), "{name}: {report:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_takes_connections_and_leaves_sessions() {
    for (leave, away) in [("cut", "skip"), ("disconnect", "buffer")] {
        let server = server();
        let cluster = Cluster::start(1).await;
        let load = format!(
            "{{ ramp: {{ to: 100%, over: 200ms }} }}, {{ hold: {{ for: 1s }} }}, \
             {{ storm: {{ group: g, share: 50%, leave: {leave}, away: 500ms, back_within: 500ms }} }}, \
             {{ hold: {{ for: 1s }} }}"
        );
        let text = scenario("", "max_in_flight: 10", &load)
            .replace("every: 100ms", &format!("every: 100ms, while_away: {away}"));
        let report = cluster.run(&text, &[("target", &server.url())]).await.over().await;
        counts_agree(&report, &server);
        let slots = series(&report, "tick", "all").slots.unwrap();
        assert_eq!((server.count("/login"), server.count("/bye")), (20, 20), "{leave}");
        assert_eq!(server.connections(), 31, "the probe's, and half of them came twice");
        assert_eq!(series(&report, "connect", "all").acked, Some(30), "{report:#?}");
        match away {
            "skip" => assert!(slots.away >= 10 * 4, "{slots:?}"),
            _ => assert!(slots.away == 0 && slots.held >= 10 * 3, "{slots:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_visit_begins_with_a_login_and_ends_with_a_goodbye() {
    let server = server();
    let cluster = Cluster::start(1).await;
    let load = "{ ramp: { to: 100%, over: 200ms } }, { hold: { for: 4s } }";
    let text = scenario("", "churn: { stay: 500ms, away: 500ms }", load);
    let report = cluster.run(&text, &[("target", &server.url())]).await.over().await;
    counts_agree(&report, &server);
    let visits = server.count("/login");
    assert!((60..=100).contains(&visits), "{visits} in four seconds of 20 devices");
    assert_eq!(server.count("/bye"), visits);
    assert_eq!(series(&report, "connect", "all").acked, Some(visits));
    let slots = series(&report, "tick", "all").slots.unwrap();
    assert_eq!((slots.away, slots.not_connected), (0, 0), "there are no slots between visits");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_load_is_reached_and_nobody_logs_in_twice() {
    let server = server();
    let cluster = Cluster::start(2).await;
    let load = "{ ramp: { to: 5, over: 200ms } }, { hold: { for: 8s } }";
    let text = scenario("", "max_in_flight: 10", load);
    let run = cluster.run(&text, &[("target", &server.url())]).await;
    let logins = |n: u64| {
        let server = &server;
        eventually(Duration::from_secs(30), "devices log in", move || {
            std::future::ready(server.count("/login") >= n)
        })
    };
    logins(5).await;
    run.scale("g", 20, 50.0).await;
    logins(20).await;
    run.scale("g", 3, 50.0).await;
    eventually(Duration::from_secs(30), "devices say goodbye", || {
        std::future::ready(server.count("/bye") >= 17)
    })
    .await;
    let report = run.over().await;
    counts_agree(&report, &server);
    assert_eq!((server.count("/login"), server.count("/bye")), (20, 20));
    assert_eq!(series(&report, "connect", "all").acked, Some(20), "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn https_is_spoken_in_both_versions_and_a_wrong_authority_is_named() {
    let authority = Authority::new();
    let server = HttpServer::secured(&authority, |_| Reply::text("ok"));
    let cluster = Cluster::start(1).await;
    let ca = cluster.file("ca.pem", authority.cert_pem());
    let load = "{ ramp: { to: 100%, over: 200ms } }, { hold: { for: 1s } }";
    let mut before = [0, 0, 0];
    for http2 in [false, true] {
        let target = format!(", ca: \"agent:{ca}\", http2: {http2}");
        let text = scenario(&target, "max_in_flight: 10", load);
        let report = cluster.run(&text, &[("target", &server.url())]).await.over().await;
        assert_eq!((report.exit_code, report.devices.failed), (Some(0), 0), "{report:#?}");
        let names = [("login", "/login"), ("tick", "/tick"), ("bye", "/bye")];
        let seen = names.map(|(_, path)| server.count(path));
        for (i, (name, _)) in names.into_iter().enumerate() {
            let row = series(&report, name, "all");
            assert_eq!((row.count, row.errors), (seen[i] - before[i], 0), "{name} {http2}");
        }
        before = seen;
    }

    let other = cluster.file("other.pem", Authority::new().cert_pem());
    let text = scenario(&format!(", ca: \"agent:{other}\""), "max_in_flight: 10", load);
    let report = cluster.run(&text, &[("target", &server.url())]).await.over().await;
    assert_eq!((report.phase, report.exit_code), (Phase::FailedToStart, Some(3)), "{report:#?}");
    let cause = report.cause.unwrap();
    assert!(cause.contains("SH0307"), "{cause}");
    let is_loss = |reason: &ValidityReason| reason.code == "agent_lost";
    assert!(!report.validity_reasons.iter().any(is_loss), "{:?}", report.validity_reasons);
}
