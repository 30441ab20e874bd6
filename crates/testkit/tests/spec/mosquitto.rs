//! MQTT against a real mosquitto, with mosquitto's own subscriber as the oracle: what arrived, how,
//! and how often.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use shoal_domain::outcome::ErrorClass;
use shoal_domain::report::RunReport;
use shoal_domain::run::{Phase, Validity};
use shoal_testkit::authority::Authority;
use shoal_testkit::cluster::{Cluster, series};
use shoal_testkit::expect::eventually;
use shoal_testkit::mosquitto::{Door, Mosquitto, Setup};
use shoal_testkit::mosquitto_sub::{Heard, MosquittoSub};
use shoal_testkit::subscriber::Subscriber;

/// Devices that send ten times a second; `target` and `publish` are the options of those.
fn scenario(target: &str, group: &str, publish: &str, load: &str) -> String {
    format!(
        "version: 1\nname: mosquitto\nvars: {{ broker: }}\nstop_timeout: 2s\n\
         targets: {{ b: {{ mqtt: {{ url: \"${{vars.broker}}\", {target} }} }} }}\n\
         groups:\n  g:\n    target: b\n    devices: 10\n    {group}\n    \
         reconnect: {{ first: 50ms, max: 200ms }}\n    \
         send: {{ telemetry: {{ every: 100ms, publish: {{ topic: \"d/${{device}}\", {publish} }} }} }}\n\
         load: [ {{ ramp: {{ to: 100%, over: 100ms }} }}, {load} ]\n"
    )
}

const HOLD: &str = "{ hold: { for: 2s } }";

async fn run(cluster: &Cluster, text: &str, url: &str) -> RunReport {
    let report = cluster.run(text, &[("broker", url)]).await.over().await;
    assert_eq!(report.phase, Phase::Finished, "{report:#?}");
    report
}

async fn a_while(time: Duration) {
    let begun = tokio::time::Instant::now();
    eventually(2 * time + Duration::from_secs(10), "time passes", || {
        std::future::ready(begun.elapsed() > time)
    })
    .await;
}

/// How often each (topic, payload) came.
fn times(heard: &[Heard]) -> BTreeMap<(&str, &str), u64> {
    let mut times = BTreeMap::new();
    for heard in heard {
        *times.entry((heard.topic.as_str(), heard.payload.as_str())).or_default() += 1;
    }
    times
}

fn texts(report: &RunReport, class: ErrorClass) -> Vec<&str> {
    let failures = report.failures.iter().filter(|failure| failure.class == class);
    failures.map(|failure| failure.text.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_message_arrives_once_with_each_quality_of_service() {
    let broker = Mosquitto::start();
    let cluster = Cluster::start(1).await;
    let url = broker.url_of(Door::Plain);
    for (protocol, qos) in [("3.1.1", 0), ("3.1.1", 1), ("3.1.1", 2), ("5", 0), ("5", 1), ("5", 2)]
    {
        let witness = MosquittoSub::start(broker.addr(), "d/#");
        let text = scenario(
            &format!("protocol: {protocol}"),
            "max_in_flight: 3",
            &format!("qos: {qos}, text: \"${{seq}}\""),
            HOLD,
        );
        let report = run(&cluster, &text, &url).await;
        let row = series(&report, "telemetry", "all");
        let slots = row.slots.unwrap();
        assert_eq!(
            (slots.planned, row.errors),
            (slots.n_classed(), 0),
            "{protocol} {qos}: {slots:?}"
        );
        assert_eq!(row.acked, (qos > 0).then_some(slots.sent), "{protocol} {qos}");
        let heard = witness.all();
        assert!(heard.iter().all(|heard| heard.qos == qos), "{protocol} {qos}");
        let times = times(&heard);
        assert_eq!(times.len() as u64, slots.sent, "{protocol} {qos}");
        assert!(times.values().all(|n| *n == 1), "{protocol} {qos}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_message_says_beside_its_payload_arrives_also_by_the_number_of_its_topic() {
    let broker = Mosquitto::start();
    let witness = MosquittoSub::start(broker.addr(), "d/#");
    let cluster = Cluster::start(1).await;
    let publish = "qos: 1, message_expiry: 1m, content_type: text/plain, topic_alias: true, \
                   properties: { site: \"site ä ${index}\", seq: \"${seq}\" }, text: \"${seq}\"";
    let report = run(
        &cluster,
        &scenario("protocol: 5", "max_in_flight: 10", publish, HOLD),
        &broker.url_of(Door::Plain),
    )
    .await;
    let sent = series(&report, "telemetry", "all").slots.unwrap().sent;
    let heard = witness.all();
    assert_eq!((heard.len() as u64, times(&heard).len() as u64), (sent, sent));
    assert_eq!(heard.iter().map(|heard| &heard.topic).collect::<BTreeSet<_>>().len(), 10);
    for heard in &heard {
        let index = heard.topic.strip_prefix("d/g-").unwrap();
        assert_eq!(heard.user["site"], format!("site ä {index}"), "{heard:?}");
        assert_eq!(heard.user["seq"], heard.payload, "{heard:?}");
        assert_eq!(heard.content_type.as_deref(), Some("text/plain"), "{heard:?}");
        assert!(heard.expiry_s.is_some_and(|s| (58..=60).contains(&s)), "{heard:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limits_that_a_broker_grants_are_kept() {
    let setup = Setup::default().line("max_inflight_messages 3").line("max_packet_size 100");
    let broker = Mosquitto::with(&setup);
    let witness = Subscriber::start(broker.addr(), "d/#");
    let cluster = Cluster::start(1).await;
    // Every other message is too large.
    let publish = "qos: 1, text: \"${sequence('x', '0123456789012345678901234567890123456789\
                   0123456789012345678901234567890123456789012345678901234567890123456789')}\"";
    let text = scenario("protocol: 5", "max_in_flight: 100", publish, "{ hold: { for: 4s } }");
    let run = cluster.run(&text, &[("broker", &broker.url_of(Door::Plain))]).await;
    witness.hears(50);
    // Whoever sent more than three without an ack would be thrown out at the thaw.
    broker.freeze();
    a_while(Duration::from_secs(1)).await;
    broker.thaw();
    let report = run.over().await;

    let row = series(&report, "telemetry", "all");
    let slots = row.slots.unwrap();
    assert_eq!(row.errors_by_class[&ErrorClass::PacketTooLarge], row.errors, "{report:#?}");
    assert_eq!((row.errors, slots.sent), (slots.unsent, witness.all().len() as u64), "{slots:?}");
    assert_eq!(slots.planned, slots.n_classed(), "{slots:?}");
    assert!(slots.held > 0, "{slots:?}");
    assert_eq!(series(&report, "connect", "all").count, 10, "nobody was thrown out");
    let said = texts(&report, ErrorClass::PacketTooLarge);
    assert!(said.iter().all(|text| text.ends_with("but the broker takes 100")), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_broker_refuses_has_its_own_words() {
    let cluster = Cluster::start(1).await;
    let one = |target: &str, publish: &str| scenario(target, "max_in_flight: 10", publish, HOLD);

    let closed = Mosquitto::with_login("meter", "secret");
    let url = closed.url_of(Door::Plain);
    for (protocol, text) in [
        ("protocol: 3.1.1", "CONNACK 5: not authorized"),
        ("protocol: 5", "CONNACK 0x87: not authorized"),
    ] {
        let report = run(&cluster, &one(protocol, "qos: 1, text: x"), &url).await;
        assert_eq!(report.devices.failed, 10, "{report:#?}");
        assert_eq!(texts(&report, ErrorClass::NotAuthorized), [text]);
    }

    // Devices with an even number may publish.
    let mut setup = Setup::default().allow("topic read #").allow("topic write end/#");
    for i in [0, 2, 4, 6, 8] {
        setup = setup.allow(&format!("topic write d/g-{i}"));
    }
    let choosy = Mosquitto::with(&setup);
    let witness = Subscriber::start(choosy.addr(), "d/#");
    for qos in [1, 2] {
        let publish = format!("qos: {qos}, text: x");
        let report =
            run(&cluster, &one("protocol: 5", &publish), &choosy.url_of(Door::Plain)).await;
        let row = series(&report, "telemetry", "all");
        let sent = row.slots.unwrap().sent;
        let packet = if qos == 1 { "PUBACK" } else { "PUBREC" };
        assert_eq!(
            texts(&report, ErrorClass::Rejected),
            [format!("{packet} 0x87: not authorized")],
            "{report:#?}"
        );
        assert_eq!(row.errors_by_class[&ErrorClass::Rejected], row.errors);
        assert_eq!(row.acked, Some(sent - row.errors));
        assert_eq!(witness.all().len() as u64, sent - row.errors, "qos {qos}");
    }

    let forgetful = Mosquitto::with(&Setup::default().line("retain_available false"));
    let report = run(
        &cluster,
        &one("protocol: 5", "qos: 1, retain: true, text: x"),
        &forgetful.url_of(Door::Plain),
    )
    .await;
    assert_eq!(report.devices.failed, 10, "{report:#?}");
    assert_eq!(
        texts(&report, ErrorClass::Unsupported),
        ["the broker keeps no retained messages, the group sends some"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_session_brings_its_messages_over_a_restart_of_the_broker() {
    let cluster = Cluster::start(1).await;
    // Mosquitto 2.0 writes no session to its file that has begun with a clean start.
    let (old, new) = ("clean_start: false", "protocol: 5, clean_start: false, session_expiry: 1h");
    for (target, qos) in [(old, 1), (old, 2), (new, 1), (new, 2)] {
        let what = format!("{target} qos {qos}");
        let mut broker = Mosquitto::with(&Setup::default().persistent());
        let witness = MosquittoSub::lasting(broker.addr(), "d/#");
        let publish = format!("qos: {qos}, text: \"${{seq}}\"");
        let text = scenario(target, "max_in_flight: 10", &publish, "{ hold: { for: 5s } }");
        let run = cluster.run(&text, &[("broker", &broker.url_of(Door::Plain))]).await;
        eventually(Duration::from_secs(30), "devices send", || async {
            let report = run.report().await;
            report.series.iter().any(|row| row.name == "telemetry" && row.count > 100)
        })
        .await;
        // Messages of half a second are on their way when it ends.
        broker.freeze();
        a_while(Duration::from_millis(500)).await;
        broker.stop();
        broker.start_again();
        let report = run.over().await;

        assert_ne!(report.validity, Some(Validity::Invalid), "{what}: {report:#?}");
        let row = series(&report, "telemetry", "all");
        let slots = row.slots.unwrap();
        assert_eq!(slots.planned, slots.n_classed(), "{what}: {slots:?}");
        assert_eq!((row.errors, row.acked), (0, Some(slots.sent)), "{what}: {report:#?}");
        assert!(row.resent > 0, "{what}: {row:?}");
        assert_eq!(series(&report, "connect", "all").acked, Some(20), "{what}");
        let heard = witness.all();
        let times = times(&heard);
        assert_eq!(times.len() as u64, slots.sent, "{what}: nothing is lost");
        let surplus: u64 = times.values().map(|n| n - 1).sum();
        match qos {
            1 => assert!(surplus <= row.resent, "{what}: {surplus} of {}", row.resent),
            _ => assert_eq!(surplus, 0, "{what}: exactly once"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_the_broker_forgot_costs_its_open_messages_and_says_so() {
    let cluster = Cluster::start(1).await;
    let mut broker = Mosquitto::start();
    let witness = Subscriber::start(broker.addr(), "d/#");
    let text = scenario(
        "protocol: 5, session_expiry: 1h",
        "max_in_flight: 10",
        "qos: 1, text: \"${seq}\"",
        "{ hold: { for: 6s } }",
    );
    let run = cluster.run(&text, &[("broker", &broker.url_of(Door::Plain))]).await;
    witness.hears(100);
    broker.freeze();
    a_while(Duration::from_millis(500)).await;
    broker.kill();
    broker.start_again();
    let report = run.over().await;

    let row = series(&report, "telemetry", "all");
    let slots = row.slots.unwrap();
    assert_eq!(slots.planned, slots.n_classed(), "{slots:?}");
    assert!(row.errors > 0, "{row:?}");
    assert_eq!(row.errors_by_class[&ErrorClass::ConnectionLost], row.errors, "{report:#?}");
    assert_eq!((row.acked, row.resent), (Some(slots.sent - row.errors), 0), "{row:?}");
    let said = texts(&report, ErrorClass::ConnectionLost);
    assert!(said.contains(&"the broker did not keep the session"), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_will_is_published_for_every_cut_and_for_no_goodbye() {
    let cluster = Cluster::start(1).await;
    for protocol in ["3.1.1", "5"] {
        for (leave, wills) in [("cut", 10), ("disconnect", 0)] {
            let broker = Mosquitto::start();
            let witness = MosquittoSub::start(broker.addr(), "wills/#");
            let group = "will: { topic: \"wills/${device}\", qos: 2, retain: true, \
                         text: \"gone ${index}\" }";
            let load = format!(
                "{{ hold: {{ for: 500ms }} }}, {{ storm: {{ share: 100%, leave: {leave}, \
                 away: 500ms, back_within: 500ms }} }}, {{ hold: {{ for: 500ms }} }}"
            );
            let load = load.replace("share:", "group: g, share:");
            let text = scenario(&format!("protocol: {protocol}"), group, "qos: 1, text: x", &load);
            let report = run(&cluster, &text, &broker.url_of(Door::Plain)).await;
            assert_eq!(series(&report, "connect", "all").acked, Some(20), "{report:#?}");
            // Whoever is cut says nothing; all say goodbye at the end.
            let goodbyes = series(&report, "disconnect", "all");
            let n = 20 - wills as u64;
            assert_eq!((goodbyes.count, goodbyes.acked), (n, Some(n)), "{leave}: all are closed");
            assert_eq!(
                goodbyes.service_time_us.as_ref().map(|time| time.count),
                Some(n),
                "{leave}"
            );
            let heard = witness.all();
            assert_eq!(heard.len(), wills, "{protocol} {leave}: {heard:?}");
            for heard in &heard {
                let index = heard.topic.strip_prefix("wills/g-").unwrap();
                assert_eq!((heard.payload.clone(), heard.qos), (format!("gone {index}"), 2));
            }
            // Whoever comes later finds what is retained.
            let late = MosquittoSub::start(broker.addr(), "wills/#").all();
            assert!(late.len() == wills && late.iter().all(|heard| heard.retain), "{late:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retained_message_is_there_for_whoever_comes_later() {
    let broker = Mosquitto::start();
    let cluster = Cluster::start(1).await;
    let text = scenario(
        "protocol: 5",
        "max_in_flight: 10",
        "qos: 1, retain: true, text: \"${seq}\"",
        HOLD,
    );
    let report = run(&cluster, &text, &broker.url_of(Door::Plain)).await;
    let sent = series(&report, "telemetry", "all").slots.unwrap().sent;
    let heard = MosquittoSub::start(broker.addr(), "d/#").all();
    assert_eq!(heard.len(), 10, "one per topic: {heard:?}");
    assert!(heard.iter().all(|heard| heard.retain));
    let last: u64 = heard.iter().map(|heard| heard.payload.parse::<u64>().unwrap() + 1).sum();
    assert_eq!(last, sent, "and each is its device's last");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_door_of_a_broker_leads_in_and_a_certificate_is_its_devices_own() {
    let authority = Authority::new();
    // Whoever showed a certificate may publish under its name only.
    let setup = Setup::default()
        .with_all_doors(&authority)
        .allow("topic readwrite #")
        .allow("pattern write d/%u");
    let broker = Mosquitto::with(&setup);
    let witness = Subscriber::start(broker.addr(), "d/#");
    let cluster = Cluster::start(1).await;
    let ca = cluster.file("ca.pem", authority.cert_pem());
    cluster.secret("ca_key", authority.key_pem());
    let signed = format!(
        "credentials: {{ certificate: {{ signed_by: {{ cert: \"agent:{ca}\", \
         key: \"${{secret.ca_key}}\" }} }} }}"
    );
    for (door, group) in [
        (Door::Tls, "max_in_flight: 10"),
        (Door::MutualTls, signed.as_str()),
        (Door::WebSocket, "max_in_flight: 10"),
        (Door::SecureWebSocket, "max_in_flight: 10"),
    ] {
        for protocol in ["3.1.1", "5"] {
            let secured = match door {
                Door::WebSocket => String::new(),
                _ => format!(", ca: \"agent:{ca}\""),
            };
            let target = format!("protocol: {protocol}{secured}");
            let text = scenario(&target, group, "qos: 1, text: \"${seq}\"", HOLD);
            let report = run(&cluster, &text, &broker.url_of(door)).await;
            let row = series(&report, "telemetry", "all");
            let slots = row.slots.unwrap();
            let what = format!("{door:?} {protocol}: {report:#?}");
            assert_eq!((slots.planned, row.errors), (slots.n_classed(), 0), "{what}");
            assert!(slots.sent > 0, "{what}");
            assert_eq!(witness.all().len() as u64, slots.sent, "{what}");
        }
    }

    // With another authority's certificate nobody comes in, and the run says why.
    let other = Authority::new();
    let ca_of_other = cluster.file("other.pem", other.cert_pem());
    cluster.secret("ca_key", other.key_pem());
    let group = signed.replace(&ca, &ca_of_other);
    let text = scenario(&format!("ca: \"agent:{ca}\""), &group, "qos: 1, text: x", HOLD);
    let report =
        cluster.run(&text, &[("broker", &broker.url_of(Door::MutualTls))]).await.over().await;
    assert_ne!(report.exit_code, Some(0), "{report:#?}");
    let refused = texts(&report, ErrorClass::CertificateRefused);
    assert!(!refused.is_empty() && witness.all().is_empty(), "{report:#?}");
}
