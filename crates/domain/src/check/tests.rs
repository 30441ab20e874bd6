mod sources;

use proptest::prelude::*;

use super::*;
use crate::plan::{
    Arrivals, Churn, Endpoint, Leave, Limit, Metric, OnAgentLoss, Phase, Qos, StageKind, Subject,
};

const QUICKSTART: &str = include_str!("../../../../scenarios/quickstart.yaml");
const TELEMETRY: &str = include_str!("../../../../scenarios/telemetry.yaml");
const STALL: &str = include_str!("../../../../scenarios/stall.yaml");
const STORM: &str = include_str!("../../tests/fixtures/3-reconnect-storm.yaml");
const NODES: &str = include_str!("../../tests/fixtures/2-http-nodes.yaml");

fn with(text: &str, left: &str, right: &str) -> Vec<String> {
    assert!(text.contains(left), "{left}");
    match parse_plan(&text.replacen(left, right, 1), &[], &Files::none()) {
        Ok(_) => Vec::new(),
        Err(found) => found.iter().map(ToString::to_string).collect(),
    }
}

fn plan(text: &str, overrides: &[(&str, &str)]) -> Plan {
    let overrides: Vec<_> =
        overrides.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    parse_plan(text, &overrides, &Files::none()).unwrap_or_else(|found| panic!("{found:#?}"))
}

#[test]
fn the_quickstart_is_a_plan() {
    let plan = plan(QUICKSTART, &[]);
    assert_eq!(plan.targets[0].endpoint(), &Endpoint::Builtin);
    assert_eq!(plan.groups[0].connect.0, 0);
    assert_eq!(plan.groups[0].sends()[0].series.0, 1);
    assert_eq!(plan.stages[0].kind, StageKind::Ramp { from: 0, to: 100 });
    assert_eq!((plan.stages[1].start_us, plan.end_us()), (2_000_000, 12_000_000));
    assert_eq!(plan.fleet.on_agent_loss, OnAgentLoss::Reassign);
    assert_eq!(plan.stop_timeout_us, 5_000_000);
    let texts: Vec<&str> = plan.thresholds.iter().map(|t| t.text.as_str()).collect();
    assert_eq!(
        texts[2..],
        ["all.publish.sent > 0", "sensors.devices.failed == 0", "sensors.telemetry.sent >= 95%"]
    );
}

#[test]
fn variables_are_overridden() {
    let text = &TELEMETRY.replace("    id:", "    # id\n    id:");
    let plan = plan(text, &[("devices", "50"), ("qos", "0"), ("period", "200ms")]);
    assert_eq!(plan.groups[0].devices, 50);
    assert_eq!(plan.groups[0].sends()[0].publish().unwrap().qos, Qos::AtMostOnce);
    assert_eq!(plan.groups[0].sends()[0].pace.period_ns, 200_000_000);
    assert_eq!(plan.vars["devices"], "50");
}

#[test]
fn mistakes_of_an_edge_node_are_named() {
    let text = "version: 1
name: s
targets: { b: { mqtt: { url: builtin } } }
groups:
  g:
    target: b
    devices: 2
    sparkplug: { group: plant }
    send:
      a: { every: 1s, sparkplug: { metrics: { t: { int8: 5 } } } }
      b: { every: 1s, sparkplug: { device: d, metrics: { t: 1.5 } } }
load: [ { hold: { for: 1s } } ]
";
    plan(text, &[]);
    for (left, right, expected) in [
        (
            "sparkplug: { group: plant }",
            "will: { topic: a, text: x }",
            "10:23 groups.g.send.a.sparkplug: reports of Sparkplug need the group's own key `sparkplug` | help: write `sparkplug: { group: NAME }` beside `send`",
        ),
        (
            "group: plant",
            "group: a/b",
            "8:25 groups.g.sparkplug.group: `/` may not stand in a name of Sparkplug",
        ),
        (
            "url: builtin",
            "url: builtin, clean_start: false",
            "8:5 groups.g.sparkplug: an edge node begins with a clean session: its target may not keep one",
        ),
        (
            "device: d, ",
            "",
            "11:47 groups.g.send.b.sparkplug.metrics.t: this metric is reported already: each has one place in a birth certificate",
        ),
        (
            "int8: 5",
            "int8: 200",
            "10:58 groups.g.send.a.sparkplug.metrics.t.int8: `200` found, a value of type int8 expected",
        ),
        (
            "int8: 5",
            "int9: 5",
            "10:52 groups.g.send.a.sparkplug.metrics.t.int9: no type `int9` | help: did you mean `int8`?",
        ),
        (
            "t: 1.5",
            "bdSeq: 1",
            "11:58 groups.g.send.b.sparkplug.metrics.bdSeq: every edge node has this metric of itself",
        ),
        (
            "{ t: 1.5 }",
            "{}",
            "11:56 groups.g.send.b.sparkplug.metrics: at least one metric is expected",
        ),
        (
            "      a:",
            "      birth:",
            "8:5 groups.g: `birth` is the series of its birth certificates",
        ),
    ] {
        assert_eq!(with(text, left, right), [expected], "{right}");
    }
}

#[test]
fn equal_texts_are_equal_plans() {
    assert_eq!(plan(STALL, &[]).hash(), plan(STALL, &[]).hash());
    assert_ne!(plan(STALL, &[]).hash(), plan(STALL, &[("broker", "mqtt://127.0.0.1:1884")]).hash());
}

#[test]
fn an_override_is_a_mistake_where_it_is_used() {
    let overrides =
        [("devices".to_owned(), "6k".to_owned()), ("devces".to_owned(), "1".to_owned())];
    let found: Vec<String> = parse_plan(TELEMETRY, &overrides, &Files::none())
        .unwrap_err()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        found,
        [
            "3:17 vars.devces: `--set devces` names no variable of this file | help: did you mean `devices`?",
            "9:14 groups.sensors.devices: `6k` (from --set devices) found, a whole number expected",
        ]
    );
}

#[test]
fn rates_are_of_the_whole_group() {
    let text = QUICKSTART.replace("every: 1s", "rate: 6000/min");
    assert_eq!(plan(&text, &[]).groups[0].sends()[0].pace.period_ns, 1_000_000_000);
}

#[test]
fn a_written_threshold_replaces_the_default_on_its_path() {
    let text = QUICKSTART.replace("sensors.telemetry.errors == 0", "sensors.telemetry.sent >= 50%");
    let plan = plan(&text, &[]);
    let kept: Vec<_> = plan
        .thresholds
        .iter()
        .filter(|t| t.metric == Metric::Sent && matches!(t.subject, Subject::Series(_)))
        .collect();
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0].limit, Limit::Ratio(0.5));
}

#[test]
fn hopeless_amounts_are_refused() {
    for (right, part) in [
        ("devices: 0", "from 1 to 10000000"),
        ("devices: 1000000000000", "from 1 to 10000000"),
        ("devices: 99999999999999999999999", "a whole number"),
    ] {
        let found = with(QUICKSTART, "devices: 100", right);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains(part), "{found:?}");
    }
    let found = with(QUICKSTART, "every: 1s", "every: 2us");
    assert!(found[0].contains("50000000 messages per second"), "{found:?}");
    let found = with(QUICKSTART, "for: 10s", "for: 800h");
    assert!(found[0].contains("longer than 30 days"), "{found:?}");
}

#[test]
fn one_mistake_gets_one_line() {
    let cases = [
        ("topic: devices/${device}/telemetry", "topic: devices/+/x", "wildcard"),
        ("topic: devices/${device}/telemetry", "topic: ''", "empty"),
        ("qos: 1", "qos: 3", "`3` found, 0, 1 or 2 expected"),
        ("qos: 1", "message_expiry: 5s", "`message_expiry` needs MQTT 5"),
        ("qos: 1", "properties: { a: b }", "`properties` needs MQTT 5"),
        ("protocol: 3.1.1", "protocol: 4", "3.1.1 or 5"),
        ("protocol: 3.1.1", "session_expiry: 1h", "`session_expiry` needs MQTT 5"),
        ("protocol: 3.1.1", "server_name: a/b", "a host name"),
        ("qos: 1", "qos: 0", "nothing is acknowledged"),
        ("id: sensor-${pad(index, 6)}", "id: sensor", "share this id"),
        ("id: sensor-${pad(index, 6)}", "id: s-${device}", "cannot name itself"),
        ("target: broker", "target: brokr", "did you mean `broker`?"),
        ("{ to: 100%,", "{ to: 200,", "at most 100"),
        ("hold: { for: 10s }", "ramp: { to: 100%, over: 1s }", "100 devices run already"),
        ("hold: { for: 10s }", "hold: { until: 1s }", "after this stage's start (2s)"),
        ("version: 1", "version: 2", "version 1 expected"),
        ("  sensors:\n", "  all:\n", "reserved name"),
        ("p95 < 250ms", "p95 < 250", "a duration, like 250ms"),
        ("telemetry.errors == 0", "telemtry.errors == 0", "did you mean `sensors.telemetry`?"),
        ("telemetry.errors == 0", "connect.sent == 0", "attempts, not slots"),
        ("    send:", "    max_in_flight: 0\n    send:", "from 1 to 65535"),
        ("walk(15, 35, 0.2)", "walk(35, 15, 0.2)", "goes from 35 up to 15"),
        ("walk(15, 35, 0.2)", "walk(35, 15)", "`walk(low, high, step)` expected"),
        ("int(20, 100)", "int(20.5, 100)", "whole numbers"),
        ("${stamp}", "${row.x}", "`row.x` needs a table of rows"),
        ("url: \"${vars.broker}\"", "url: \"mqtt://\"", "mqtts://host[:port]"),
        ("keep_alive: 60s", "keep_alive: 100h", "from 1s to 65535s"),
    ];
    for (left, right, part) in cases {
        let found = with(QUICKSTART, left, right);
        let found: Vec<String> = found.into_iter().filter(|line| line.contains(part)).collect();
        assert_eq!(found.len(), 1, "{right}: {:#?}", with(QUICKSTART, left, right));
    }
}

#[test]
fn load_goes_up_and_down_in_stages_of_all_kinds() {
    let stages = "for: 10s }
  - storm: { group: sensors, share: 50%, leave: disconnect, away: 10s, back_within: 30s }
  - ramp: { to: 20, rate: 40/s }
  - { name: visitors, arrive: { rate: 2/s, for: 1m, stay: 5s } }
  - ramp: { to: 0%, over: 4s }";
    let plan = plan(&QUICKSTART.replace("for: 10s }", stages), &[]);
    let kinds: Vec<StageKind> = plan.stages.iter().map(|stage| stage.kind).collect();
    let StageKind::Storm(storm) = kinds[2] else { panic!("{kinds:?}") };
    assert_eq!((storm.devices, storm.of, storm.leave), (50, 100, Leave::Disconnect));
    assert_eq!(kinds[3], StageKind::Ramp { from: 100, to: 20 });
    assert_eq!(kinds[4], StageKind::Arrive { arrivals: 120, stay_us: 5_000_000 });
    assert_eq!(plan.levels(), [0, 100, 100, 100, 20, 20]);
    let ends: Vec<u64> = plan.stages.iter().map(|stage| stage.end_us / 1_000_000).collect();
    assert_eq!(ends, [2, 12, 52, 54, 114, 118]);
}

#[test]
fn a_group_with_its_own_load_has_its_own_stages() {
    let text = QUICKSTART.replace(
        "load:\n",
        "  meters: { target: broker, devices: 10, send: { s: { every: 1s, publish: { topic: a, qos: 1, text: x } } },
    load: [ { hold: { for: 5s } }, { ramp: { to: 10, over: 5s } }, { name: night, hold: { until: 1m } },
            { storm: { share: 30%, away: 1s, back_within: 1s } } ] }
load:\n",
    );
    let plan = plan(&text, &[]);
    let names: Vec<&str> = plan.stages.iter().map(|stage| stage.name.as_str()).collect();
    assert_eq!(names, ["ramp", "hold", "meters-hold", "meters-ramp", "night", "meters-storm"]);
    assert_eq!((plan.groups[0].load, plan.groups[1].load), (0, 1));
    assert_eq!(
        (plan.end_of(0), plan.end_of(1), plan.end_us()),
        (12_000_000, 62_000_000, 62_000_000)
    );
    assert_eq!(plan.stage_of(1, 6_000_000).0, 3);
}

#[test]
fn groups_share_the_devices_by_weight_after_those_with_a_number() {
    let group = |name: &str, count: &str| {
        format!(
            "  {name}: {{ target: t, {count}, send: {{ s: {{ every: 1s, publish: {{ topic: a, text: x }} }} }} }}\n"
        )
    };
    let file = |devices: u64, groups: &[(&str, &str)]| {
        let groups: String = groups.iter().map(|(name, count)| group(name, count)).collect();
        format!(
            "version: 1\nname: shares\ndevices: {devices}\ntargets: {{ t: {{ mqtt: {{ url: builtin }} }} }}\n\
             groups:\n{groups}load: [ {{ ramp: {{ to: 100%, over: 1s }} }} ]\n"
        )
    };
    let counts = |devices, groups: &[(&str, &str)]| -> Vec<u64> {
        plan(&file(devices, groups), &[]).groups.iter().map(|group| group.devices).collect()
    };
    let classes = [("a", "weight: 10"), ("b", "weight: 1"), ("c", "weight: 1")];
    assert_eq!(counts(6_000, &classes), [5_000, 500, 500]);
    assert_eq!(counts(10, &[("f", "devices: 3"), ("a", "weight: 10")]), [3, 7]);
    for (devices, groups, part) in [
        (10, [("a", "weight: 0"), ("b", "weight: 1")], "a number above 0"),
        (3, [("a", "devices: 3"), ("b", "weight: 1")], "too few are left"),
        (3, [("a", "weight: 1000"), ("b", "weight: 1")], "none of the 3 devices"),
        (3, [("a", "devices: 1"), ("b", "devices: 1")], "no group has a `weight`"),
        (3, [("a", "weight: 1, devices: 1"), ("b", "weight: 1")], "found both"),
    ] {
        let found = with(&file(devices, &groups), "version: 1", "version: 1");
        assert!(found.len() == 1 && found[0].contains(part), "{part}: {found:?}");
    }
    let found = with(&file(10, &classes), "devices: 10\n", "");
    assert!(found.len() == 3 && found[0].contains("`devices`, which are missing"), "{found:?}");
}

#[test]
fn devices_behind_a_connection_share_its_slots() {
    let send =
        |keys: &str| plan(&QUICKSTART.replace("every: 1s", keys), &[]).groups[0].sends()[0].clone();
    let pace = send("every: 1s\n        children: 50").pace;
    assert_eq!((pace.period_ns, pace.children), (20_000_000, 50));
    let pace = send("rate: 100/s\n        children: 50").pace;
    assert_eq!((pace.period_ns, pace.children), (1_000_000_000, 50), "the rate is the group's");
    for (keys, part) in [
        ("every: 1s\n        children: 0", "`0` found"),
        ("every: 1s\n        children: 200000", "`200000` found"),
        ("every: 5us\n        children: 50", "leaves each of the children 1us"),
    ] {
        let found = with(QUICKSTART, "every: 1s", keys);
        assert!(found.len() == 1 && found[0].contains(part), "{keys}: {found:?}");
    }
    let found = with(QUICKSTART, "${device}", "${child}");
    assert!(found.iter().any(|line| line.contains("several devices")), "{found:?}");
}

#[test]
fn a_series_says_how_its_slots_arrive() {
    let pace = |keys: &str| {
        plan(&QUICKSTART.replace("every: 1s", keys), &[]).groups[0].sends()[0].pace.clone()
    };
    assert_eq!(
        pace("every: 1s\n        jitter: 20%").arrivals,
        Arrivals::Even { jitter_ppm: 200_000 }
    );
    let poisson = pace("rate: 100/s\n        arrivals: poisson");
    assert_eq!((poisson.arrivals, poisson.period_ns), (Arrivals::Poisson, 1_000_000_000));
    assert_eq!(pace("every: 1s\n        phase: together").phase, Phase::Together);
    for (keys, part) in [
        ("every: 1s\n        jitter: 120%", "at most 100%"),
        ("every: 1s\n        arrivals: random", "`random` found"),
        ("every: 1s\n        arrivals: poisson\n        jitter: 1%", "`jitter` has no meaning"),
        ("every: 30h\n        arrivals: poisson", "at most 24h"),
    ] {
        let found = with(QUICKSTART, "every: 1s", keys);
        assert!(found.len() == 1 && found[0].contains(part), "{part}: {found:?}");
    }
    let churn = "devices: 100\n    churn: { stay: 10s, away: 50s }";
    let plan = plan(&QUICKSTART.replace("devices: 100", churn), &[]);
    assert_eq!(plan.groups[0].churn, Some(Churn { stay_us: 10_000_000, away_us: 50_000_000 }));
}

#[test]
fn loads_that_cannot_be_are_refused() {
    let cases = [
        ("{ arrive: { rate: 1/h, for: 1s, stay: 1s } }", "no device arrives"),
        ("{ arrive: { rate: 10/s, for: 1m, stay: 20s } }", "than 201 would be there at once"),
        ("{ arrive: { rate: 1000/s, for: 1h, stay: 1ms } }", "at most 1000 are allowed"),
        (
            "{ storm: { group: sensors, share: 1%, away: 1s, back_within: 1s } }",
            "a storm of no device",
        ),
        ("{ storm: { group: sensors, share: 150%, away: 1s, back_within: 1s } }", "at most 100%"),
        ("{ storm: { group: sensor, share: 50%, away: 1s, back_within: 1s } }", "did you mean"),
    ];
    for (stage, part) in cases {
        let text =
            QUICKSTART.replace("ramp: { to: 100%, rate: 50/s }", "ramp: { to: 20, over: 1s }");
        let text = text.replace("- hold: { for: 10s }", &format!("- {stage}"));
        let found = with(&text, "version: 1", "version: 1");
        assert!(found.len() == 1 && found[0].contains(part), "{part}: {found:?}");
    }
}

#[test]
fn an_observer_needs_a_stamp_and_a_source_that_can_answer() {
    let observed = format!(
        "{QUICKSTART}observers:\n  out: {{ of: sensors.telemetry, drain: 5s, mqtt: {{ url: builtin, filter: \"a/+/#\" }} }}\n"
    );
    let plan = plan(&observed, &[]);
    assert_eq!(plan.observers[0].drain_us, 5_000_000);
    assert!(plan.is_observed(plan.observers[0].of));
    let wants = |line: &str| format!("thresholds:\n  - {line}\n");
    let (lost, ingest) = (wants("out.lost < 0.01%"), wants("out.ingest_delay.p95 < 1s"));
    let cases: [(&str, &str, &str); 10] = [
        ("${stamp}", "x", "carries no ${stamp}"),
        ("drain: 5s", "probe: 5", "like 30s, or off"),
        ("drain: 5s", "probe: 11m", "from 100ms to 10m"),
        ("of: sensors.telemetry", "of: sensors.connect", "sends by no schedule"),
        ("a/+/#", "a/+b", "a topic filter"),
        ("a/+/#", "a/#/b", "a topic filter"),
        ("drain: 5s", "drain: 5", "a duration with its unit"),
        ("  out:", "  sensors:", "share one namespace"),
        ("thresholds:\n", &lost.replace("lost", "lots"), "no metric of an observer"),
        ("thresholds:\n", &ingest, "which mqtt does not carry"),
    ];
    for (left, right, part) in cases {
        let found = with(&observed, left, right);
        assert!(found.iter().any(|line| line.contains(part)), "{right}: {found:#?}");
    }
    let in_stage = wants("{ expect: out.lost < 0.01%, in: hold }");
    let found = with(&observed, "thresholds:\n", &in_stage);
    assert!(found[0].contains("for the whole run only"), "{found:#?}");
    assert_eq!(with(&observed, "thresholds:\n", &lost), Vec::<String>::new());
}

#[test]
fn fields_that_are_read_must_be_sent_and_have_a_place() {
    use crate::fields::{DeviceIs, TimeUnit};
    const FIELDS: &str = include_str!("../../../../scenarios/ingestion-fields.yaml");
    let plan = plan(FIELDS, &[]);
    let fields = plan.observers[0].read.as_ref().unwrap();
    assert_eq!((fields.device_is, fields.unit), (DeviceIs::Id, TimeUnit::Millis));
    assert_eq!((fields.resolution_us, plan.observers[0].needs_ids()), (1_000, true));
    let seq = "seq: /info/number";
    let sent = "sent: { json: /info/timestamp, unit: ms }";
    for (left, right, expected) in [
        ("${seq}", "7", "carry no ${seq}"),
        ("run_id: \"${run}\", ", "", "carry no ${run}"),
        ("${now_ms}", "12", "carry no time (like ${now_us})"),
        ("device: /context/user", "index: /context/user", "carry no ${index}"),
        ("device: /context/user", "", "one of device, index is expected"),
        (seq, "seq: info/number", "a JSON pointer"),
        (seq, "seq: { header: n }", "MQTT 3.1.1 has no headers"),
        (seq, "seq: { json: /n, header: n }", "exactly one of"),
        (seq, "seq: { binary: { at: 0, as: u24 } }", "`u24` found"),
        (seq, "", "`seq` is missing"),
        (sent, "sent: { json: /t }", "`unit` is missing"),
        (sent, "sent: { json: /t, unit: m }", "allowed: iso, ms, ns, s, us"),
        (sent, "sent: { binary: { at: 0, as: u64 }, unit: iso }", "`iso` is text"),
        ("run: /info/run_id", "run: { binary: { at: 0, as: u64 } }", "`run` is text"),
    ] {
        let found = with(FIELDS, left, right);
        assert!(found.len() == 1 && found[0].contains(expected), "{right}: {found:#?}");
    }
    for right in ["seq: { binary: { at: 0, as: u64le } }", "seq: { json: /n }"] {
        assert_eq!(with(FIELDS, seq, right), Vec::<String>::new());
    }
    assert_eq!(with(FIELDS, "${now_ms}", "${now_s}"), Vec::<String>::new());
}

#[test]
fn later_stages_of_a_kind_are_numbered() {
    let text = QUICKSTART.replace("for: 10s }", "for: 10s }\n  - hold: { for: 1s }");
    assert_eq!(plan(&text, &[]).stages[2].name, "hold-2");
    let text = text.replace("- hold: { for: 1s }", "- { name: hold, hold: { for: 1s } }");
    let names: Vec<String> = plan(&text, &[]).stages.into_iter().map(|s| s.name).collect();
    assert_eq!(names, ["ramp", "hold-2", "hold"]);
}

#[test]
fn nothing_at_all_is_an_error() {
    for text in ["", "[]", "x", "version: 1", "load: []", "groups: {}", "{}"] {
        assert!(parse_plan(text, &[], &Files::none()).is_err(), "{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_text_makes_it_panic(text in "[\\PC\n]{0,300}") {
        prop_assert!(parse_plan(&text, &[], &Files::none()).is_err());
    }

    #[test]
    fn no_damage_to_a_file_makes_it_panic(
        file in 0..4_usize, at: prop::sample::Index, n in 0..40_usize, put in "[-\\[\\]{}$(),:.#'\" \n0-9a-z%]{0,6}"
    ) {
        let text = [QUICKSTART, TELEMETRY, STORM, NODES][file];
        let chars: Vec<char> = text.chars().collect();
        let at = at.index(chars.len());
        let end = (at + n).min(chars.len());
        let damaged: String =
            chars[..at].iter().copied().chain(put.chars()).chain(chars[end..].iter().copied()).collect();
        if let Err(found) = parse_plan(&damaged, &[], &Files::none()) {
            prop_assert!(!found.is_empty());
            prop_assert!(found.iter().all(|one| one.line >= 1 && !one.to_string().contains('\n')), "{:?}", found);
        }
    }
}

#[test]
fn a_threshold_of_windows_or_of_a_region_says_what_it_cannot_know() {
    let wants =
        |line: &str| with(QUICKSTART, "thresholds:\n", &format!("thresholds:\n  - {line}\n"));
    let good = "{ expect: sensors.telemetry.errors < 1%, held: 99%, windows: 10s, region: each }";
    assert_eq!(wants(good), Vec::<String>::new());
    let cases = [
        ("{ expect: sensors.telemetry.sent >= 95%, held: 99% }", "not known per window"),
        ("{ expect: sensors.devices.failed == 0, windows: 1s }", "over the whole run"),
        ("{ expect: sensors.telemetry.errors == 0, windows: 1500ms }", "whole seconds"),
        ("{ expect: sensors.telemetry.errors == 0, held: 101% }", "a share of at most 100%"),
        ("{ expect: sensors.telemetry.errors == 0, held: 0% }", "a share of at most 100%"),
        ("{ expect: sensors.telemetry.errors == 0, holds: 9% }", "unknown key `holds`"),
    ];
    for (line, part) in cases {
        let found = wants(line);
        assert!(found.iter().any(|message| message.contains(part)), "{line}: {found:#?}");
    }
}
