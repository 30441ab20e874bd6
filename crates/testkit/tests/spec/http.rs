//! HTTP devices against a server that counts: the closed loop's arithmetic, sessions, and what
//! servers do wrong.

use std::time::Duration;

use shoal_domain::outcome::ErrorClass;
use shoal_domain::report::{RunReport, SeriesReport};
use shoal_domain::run::{Phase, Validity, Verdict};
use shoal_testkit::cluster::{Cluster, series};
use shoal_testkit::http_server::{Content, HttpServer, RawServer, Reply};

const TUTORIAL: &str = include_str!("../../../../scenarios/http-tutorial.yaml");

/// A file with one group of HTTP devices that all start at once.
fn scenario(devices: u64, group: &str, hold: &str) -> String {
    let group: String = group.lines().map(|line| format!("    {line}\n")).collect();
    format!(
        "version: 1\nname: http\nvars: {{ target: }}\nstop_timeout: 2s\n\
         targets: {{ t: {{ http: {{ url: \"${{vars.target}}\" }} }} }}\n\
         groups:\n  g:\n    target: t\n    devices: {devices}\n{group}\
         load: [ {{ ramp: {{ to: 100%, over: 100ms }} }}, {{ hold: {{ until: {hold} }} }} ]\n"
    )
}

async fn run(cluster: &Cluster, text: &str, target: &str) -> RunReport {
    cluster.run(text, &[("target", target)]).await.over().await
}

/// One device that asks again and again; the row of its series and the failures' texts.
async fn asks(target: &str, request: &str) -> (SeriesReport, Vec<String>) {
    let cluster = Cluster::start(1).await;
    let group = format!(
        "reconnect: {{ first: 50ms, max: 100ms }}\nloop: {{ wait: {{ constant: 100ms }}, tasks: {{ ask: {{ http: {{ {request} }} }} }} }}"
    );
    let report = run(&cluster, &scenario(1, &group, "1500ms"), target).await;
    assert_eq!(report.phase, Phase::Finished, "{report:#?}");
    let texts = report.failures.iter().map(|failure| failure.text.clone()).collect();
    (series(&report, "ask", "all").clone(), texts)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tutorial_keeps_the_arithmetic_of_pacing() {
    let server = HttpServer::of_the_tutorial();
    let cluster = Cluster::start(2).await;
    let text = TUTORIAL.replace("pacing: 5s", "pacing: 500ms");
    let overrides = [
        ("target", server.url()),
        ("devices", "20".into()),
        ("spawn_rate", "10/s".into()),
        ("total", "4s".into()),
    ];
    let overrides: Vec<_> = overrides.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let report = cluster.run(&text, &overrides).await.over().await;

    // Device k starts at k/10 s and then every 500 ms; what would start at 4 s does not.
    let tasks: u64 = (0..20).map(|k: u64| (4_000 - 100 * k).div_ceil(500)).sum();
    let of = |name| series(&report, name, "all");
    assert_eq!((of("greet").count, server.count("/greet")), (20, 20));
    let counts = ["data", "health", "ota"].map(|name| of(name).count);
    assert_eq!(counts.iter().sum::<u64>(), tasks, "{counts:?}");
    assert_eq!(counts, ["/data", "/health", "/ota"].map(|path| server.count(path)));
    let share = counts[0] as f64 / tasks as f64;
    assert!((share - 10.0 / 12.0).abs() < 0.04, "{counts:?}");
    let data = of("data");
    assert_eq!((data.model.as_str(), data.errors, data.acked), ("closed", 0, Some(counts[0])));
    assert!(data.response_time_us.is_none() && data.slots.is_none());
    assert_eq!(data.service_time_us.unwrap().count, counts[0]);
    assert_eq!(report.devices.connected, 20);
    assert_eq!((report.verdict, report.exit_code), (Some(Verdict::Passed), Some(0)), "{report:#?}");
    assert_eq!(server.connections(), 22, "a connection per device, and each agent's probe");
    // Every device has drawn its own id.
    let ids: std::collections::BTreeSet<_> =
        server.seen().into_iter().filter(|r| r.path == "/greet").map(|r| r.query).collect();
    assert!(ids.len() > 15, "{ids:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_logs_in_and_what_it_captured_goes_on() {
    let server = HttpServer::start(|request| match request.path.as_str() {
        "/login" => {
            let id = String::from_utf8_lossy(&request.body).into_owned();
            Reply::text(&format!(r#"{{"token": {id}, "n": 7}}"#))
                .header("set-cookie", &format!("session={}; Path=/", request.connection))
                .header("x-trace", "abc")
        }
        "/old" => Reply::redirect(302, "/new?moved=1"),
        _ => Reply::text("{}"),
    });
    let cluster = Cluster::start(1).await;
    let group = r#"credentials: { bearer: "${captured.token}" }
on_start:
  - name: login
    http:
      post: /login
      json: "${device}"
      capture: { token: /token, n: /n, trace: { header: X-Trace } }
on_stop:
  - { name: bye, http: { delete: "/sessions/${captured.trace}" } }
loop:
  wait: { constant: 200ms }
  tasks:
    all:
      steps:
        - { name: json, http: { put: /json, json: { n: "${captured.n}", t: "${captured.token}" } } }
        - { name: form, http: { post: /form, form: { a: "ä b", n: "${captured.n}" } } }
        - { name: query, http: { get: /query, query: { at: "x&y", n: "${captured.n}" }, headers: { X-One: "${index}" } } }
        - { name: moved, http: { post: /old, text: hello } }
"#;
    let report = run(&cluster, &scenario(3, group, "1s"), &server.url()).await;
    assert_eq!(report.exit_code, Some(0), "{report:#?}");
    assert_eq!(server.count("/login"), 3);
    assert_eq!(series(&report, "bye", "all").count, 3);
    assert_eq!(server.count("/sessions/abc"), 3);
    assert_eq!(server.count("/old"), server.count("/new"));
    assert_eq!(series(&report, "moved", "all").count, server.count("/new"));
    for seen in server.seen().iter().filter(|seen| seen.path != "/login") {
        let token = seen.header("authorization").unwrap().strip_prefix("Bearer ").unwrap();
        assert!(token.starts_with("g-"), "{seen:?}");
        assert_eq!(seen.header("cookie").unwrap(), format!("session={}", seen.connection));
        match seen.path.as_str() {
            "/json" => {
                let expected = format!(r#"{{"n":7,"t":"{token}"}}"#);
                assert_eq!(String::from_utf8_lossy(&seen.body), expected);
                assert_eq!(seen.header("content-type"), Some("application/json"));
            }
            "/form" => assert_eq!(seen.body, b"a=%C3%A4%20b&n=7"),
            "/query" => {
                assert_eq!(seen.query, "at=x%26y&n=7");
                assert_eq!(seen.header("x-one"), token.strip_prefix("g-"));
            }
            "/new" => assert_eq!((seen.method.as_str(), seen.query.as_str()), ("GET", "moved=1")),
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_fails_in_on_start_has_failed() {
    let server = HttpServer::start(|request| match request.path.as_str() {
        "/login" if ["g-1", "g-3", "g-5", "g-7"].contains(&request.query.as_str()) => {
            Reply::status(403)
        }
        _ => Reply::text("ok"),
    });
    let cluster = Cluster::start(1).await;
    let group = "on_start: [ { name: login, http: { get: \"/login?${device}\" } } ]\n\
                 loop: { wait: { pacing: 100ms }, tasks: { work: { http: { get: /work } } } }";
    let report = run(&cluster, &scenario(10, group, "1s"), &server.url()).await;
    assert_eq!((report.devices.failed, report.devices.connected), (4, 6));
    assert_eq!((report.verdict, report.exit_code), (Some(Verdict::Failed), Some(1)));
    let failure = &report.failures[0];
    assert_eq!((failure.series.as_str(), failure.count), ("g.login", 4));
    assert_eq!(
        (failure.class, failure.text.as_str()),
        (ErrorClass::HttpStatus, "status 403 Forbidden")
    );
    assert_eq!(server.count("/work"), series(&report, "work", "all").count);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scenario_decides_what_a_success_is() {
    let server = HttpServer::start(|request| match request.path.as_str() {
        "/broken" => Reply::status(500),
        _ => Reply::text(r#"{"state": "down"}"#),
    });
    let (row, _) = asks(&server.url(), "get: /broken, expect: { status: [500] }").await;
    assert_eq!((row.errors, row.acked), (0, Some(row.count)));
    let (row, texts) = asks(&server.url(), "get: /, expect: { json: { /state: up } }").await;
    assert_eq!(row.errors_by_class[&ErrorClass::BodyMismatch], row.count);
    assert_eq!(texts, [r#"/state is "down", "up" expected"#]);
    let (row, texts) = asks(&server.url(), "get: /, capture: { token: /token }").await;
    assert_eq!(row.errors_by_class[&ErrorClass::CaptureFailed], row.count);
    assert_eq!(texts, ["the reply has no /token"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_server_does_wrong_is_an_error_with_a_name() {
    let server = HttpServer::start(|request| match request.path.as_str() {
        "/silent" => Reply::text("").with(Content::Silence),
        "/stall" => Reply::text("").with(Content::Stall),
        "/huge" => Reply::text("").with(Content::Long(100_000_000)),
        "/loop" => Reply::redirect(302, "/loop"),
        "/away" => Reply::redirect(302, "http://elsewhere.example/"),
        _ => Reply::status(503),
    });
    for (request, class, text) in [
        (
            "get: /silent, timeout: 200ms",
            ErrorClass::RequestTimeout,
            "no complete reply within 200ms",
        ),
        (
            "get: /stall, timeout: 200ms",
            ErrorClass::RequestTimeout,
            "no complete reply within 200ms",
        ),
        ("get: /huge", ErrorClass::BodyTooLarge, "the reply's body is longer than 16777216 bytes"),
        ("get: /loop, max_redirects: 5", ErrorClass::TooManyRedirects, "more than 5 redirects"),
        (
            "get: /away",
            ErrorClass::Redirected,
            "redirected to elsewhere.example, which is not the target",
        ),
        ("get: /x", ErrorClass::HttpStatus, "status 503 Service Unavailable"),
    ] {
        let (row, texts) = asks(&server.url(), request).await;
        assert!(row.count > 1, "{request}: the loop goes on: {row:?}");
        assert_eq!(row.errors_by_class.get(&class), Some(&row.count), "{request}: {row:?}");
        assert_eq!(texts, [text], "{request}");
        assert!(row.service_time_us.is_some(), "{request}");
    }
    assert_eq!(server.count("/loop") % 6, 0, "each request and its five redirects");
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_http_are_errors_with_a_name() {
    for (bytes, resets, class) in [
        (&b"SSH-2.0-OpenSSH_9.6\r\n"[..], false, ErrorClass::Protocol),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nhello",
            false,
            ErrorClass::Protocol,
        ),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhello", false, ErrorClass::ConnectionLost),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5, 6\r\n\r\nhello", false, ErrorClass::Protocol),
        (b"", false, ErrorClass::ConnectionLost),
        (b"HTTP/1.1 200", true, ErrorClass::ConnectionLost),
    ] {
        let server = RawServer::start(bytes, resets);
        let (row, texts) = asks(&server.url(), "get: /").await;
        let what = String::from_utf8_lossy(bytes);
        assert!(row.count > 1, "{what}: {row:?}");
        assert_eq!(row.errors_by_class.get(&class), Some(&row.count), "{what}: {row:?} {texts:?}");
        assert_eq!(texts.len(), 1, "{what}: {texts:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_schedule_holds_slots_while_the_server_is_slow() {
    let server = HttpServer::start(|_| Reply::text("ok").after(Duration::from_millis(150)));
    let cluster = Cluster::start(1).await;
    let group = "send: { tick: { every: 100ms, http: { get: /tick } } }";
    let report = run(&cluster, &scenario(2, group, "2s"), &server.url()).await;
    let row = series(&report, "tick", "all");
    let slots = row.slots.unwrap();
    assert_eq!(row.model, "open");
    assert_eq!(slots.planned, slots.n_classed(), "{slots:?}");
    assert_eq!(slots.sent, server.count("/tick"));
    assert!(slots.held > 10 && slots.unsent > 5, "{slots:?}");
    let response = row.response_time_us.unwrap();
    assert!(response.max > 500_000 && row.service_time_us.unwrap().p50 < 300_000, "{row:?}");
    assert_eq!(report.validity, Some(Validity::Valid), "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn http_2_has_several_requests_on_one_connection() {
    let server = HttpServer::start(|_| Reply::text("ok").after(Duration::from_millis(150)));
    let cluster = Cluster::start(1).await;
    let group = "send: { tick: { every: 50ms, http: { get: /tick } } }";
    let text = scenario(1, group, "2s").replace("\" } }", "\", http2: true } }");
    let report = run(&cluster, &text, &server.url()).await;
    let row = series(&report, "tick", "all");
    let slots = row.slots.unwrap();
    assert_eq!((slots.sent, slots.unsent), (slots.planned, 0), "{slots:?}");
    assert_eq!(slots.sent, server.count("/tick"));
    assert_eq!(server.connections(), 2, "the probe's and the device's");
    assert!(row.response_time_us.unwrap().p50 < 400_000, "{row:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_closes_every_connection_costs_no_request() {
    let server = HttpServer::start(|_| Reply::text("ok").header("connection", "close"));
    let (row, texts) = asks(&server.url(), "get: /").await;
    assert_eq!((row.errors, texts.len()), (0, 0), "{row:?} {texts:?}");
    assert!(row.count > 5);
    assert_eq!(row.count, server.total());
}
