//! The binary as people and pipelines use it: what it prints where, and how it exits.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use shoal_testkit::authority::Authority;
use shoal_testkit::http_server::{HttpServer, Reply};
use shoal_testkit::mosquitto::{Door, Mosquitto, Setup};
use shoal_testkit::subscriber::Subscriber;

#[path = "spec/results.rs"]
mod results;

/// A directory that no other test and no person uses, as home, store and working directory.
struct Desk(tempfile::TempDir);

impl Desk {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn shoal(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shoal"));
        command
            .args(args)
            .current_dir(self.path())
            .env("HOME", self.path())
            .env("SHOAL_DATA_DIR", self.path().join("data"))
            .env_remove("SHOAL_SERVER")
            .env_remove("SHOAL_TOKEN")
            .env_remove("XDG_CONFIG_HOME");
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.shoal(args).output().expect("shoal can be started")
    }

    /// Ten devices, two messages a second each, for as long as the test wants.
    fn scenario(&self, hold: &str, threshold: &str) -> PathBuf {
        let file = self.path().join("small.yaml");
        let text = format!(
            "version: 1\n\
             name: small\n\
             targets:\n  broker: {{ mqtt: {{ url: builtin, protocol: 3.1.1 }} }}\n\
             groups:\n  sensors:\n    target: broker\n    devices: 10\n    send:\n      \
             telemetry:\n        every: 500ms\n        \
             publish: {{ topic: \"t/${{device}}\", qos: 1, json: {{ trace: \"${{stamp}}\" }} }}\n\
             load:\n  - ramp: {{ to: 100%, rate: 100/s }}\n  - hold: {{ for: {hold} }}\n\
             thresholds:\n  - {threshold}\n"
        );
        std::fs::write(&file, text).expect("the directory is writable");
        file
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn document(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {} {}", stdout(output), stderr(output)))
}

#[test]
fn a_run_without_a_server_is_driven_judged_stored_and_shown() {
    let desk = Desk::new();
    let file = desk.scenario("1s", "sensors.telemetry.errors == 0");
    let output = desk.run(&["run", file.to_str().unwrap(), "--output", "json"]);
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
    assert!(stderr(&output).starts_with("server: this process, store ~/data/shoal.sqlite\n"));
    let ran = document(&output);
    assert_eq!((&ran["verdict"], &ran["exit_code"]), (&"PASSED".into(), &0.into()));
    assert_eq!(ran["devices"]["connected"], 10);

    let shown = desk.run(&["show", "last", "--output", "ndjson", "--quiet"]);
    assert_eq!(stderr(&shown), "");
    let mut shown = document(&shown);
    // Every control plane in its own process has its own address.
    shown["server"] = ran["server"].clone();
    assert_eq!(shown, ran);
    let listed = document(&desk.run(&["list", "--output", "json"]));
    assert_eq!(listed[0]["run"], ran["run"]);
}

#[test]
fn a_failed_threshold_is_exit_code_1() {
    let desk = Desk::new();
    let file = desk.scenario("1s", "sensors.telemetry.sent > 1000000");
    let output = desk.run(&["run", file.to_str().unwrap(), "--quiet"]);
    assert_eq!(output.status.code(), Some(1), "{}{}", stdout(&output), stderr(&output));
    assert_eq!(stderr(&output), "");
    assert!(stdout(&output).contains("\nFAILED sensors.telemetry.sent > 1000000: "));
}

#[test]
fn one_signal_ends_a_run_gracefully_and_it_is_judged() {
    let desk = Desk::new();
    let file = desk.scenario("60s", "sensors.telemetry.errors == 0");
    let mut child = desk
        .shoal(&["run", file.to_str().unwrap(), "--output", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut progress = BufReader::new(child.stderr.take().unwrap());
    wait_for(&mut progress, " RUNNING ");
    interrupt(&child);
    wait_for(&mut progress, "stopping: ");
    let output = child.wait_with_output().unwrap();
    let document = document(&output);
    assert_eq!(
        (&document["phase"], &document["cause"]),
        (&"FINISHED".into(), &"stopped_early".into())
    );
    assert_eq!(output.status.code(), document["exit_code"].as_i64().map(|code| code as i32));
}

fn wait_for(lines: &mut impl BufRead, part: &str) {
    let mut seen = String::new();
    while lines.read_line(&mut seen).is_ok_and(|n| n > 0) {
        if seen.lines().last().is_some_and(|line| line.contains(part)) {
            return;
        }
    }
    panic!("`{part}` was never said:\n{seen}");
}

fn interrupt(child: &Child) {
    let status = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(status.is_ok_and(|status| status.success()), "kill -INT works");
}

#[test]
fn the_demo_broker_ends_with_its_parent() {
    let desk = Desk::new();
    let mut broker =
        desk.shoal(&["demo-broker"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(broker.stdout.take().unwrap());
    wait_for(&mut lines, "listening on 127.0.0.1:");
    drop(broker.stdin.take());
    let mut rest = String::new();
    lines.read_to_string(&mut rest).unwrap();
    assert_eq!((rest.as_str(), broker.wait().unwrap().code()), ("", Some(0)));
}

#[test]
fn what_cannot_be_done_is_exit_code_2_with_a_code_and_help() {
    let desk = Desk::new();
    let file = desk.scenario("1s", "sensors.telemetry.errors == 0");
    let file = file.to_str().unwrap();
    for (args, code) in [
        (&["shw"][..], "SH0602"),
        (&["run", "no-such.yaml"], "SH0102"),
        (&["run", file, "--set", "devices"], "SH0103"),
        (&["--server", "127.0.0.1:1", "run", file], "SH0104"),
        (&["--server", "127.0.0.1:1", "list"], "SH0401"),
        (&["start", file], "SH0602"),
        (&["show", "last"], "SH0403"),
        (&["explain", "SH9999"], "SH0602"),
        (&["scenario", "plan", file, "--device", "10"], "SH0602"),
        (&["serve", "--listen", "0.0.0.0:0"], "SH0408"),
    ] {
        let output = desk.run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
        assert_eq!(stdout(&output), "", "{args:?}");
        assert!(
            stderr(&output).contains(&format!("error[{code}]: ")),
            "{args:?}: {}",
            stderr(&output)
        );
    }
}

#[test]
fn a_first_scenario_is_written_checked_and_never_overwritten() {
    let desk = Desk::new();
    assert_eq!(desk.run(&["scenario", "init"]).status.code(), Some(0));
    let checked = desk.run(&["scenario", "check", "scenario.yaml"]);
    assert!(stdout(&checked).starts_with("ok: scenario.yaml is a plan: 100 devices"));
    let again = desk.run(&["scenario", "init"]);
    assert_eq!(again.status.code(), Some(2));
    assert!(stderr(&again).contains("it is there already"));
}

#[test]
fn one_device_of_each_group_can_be_tried_step_by_step() {
    let desk = Desk::new();
    let file = desk.scenario("1s", "sensors.telemetry.errors == 0");
    let tried = desk.run(&["scenario", "try", file.to_str().unwrap(), "--output", "json"]);
    assert_eq!(tried.status.code(), Some(0), "{}{}", stdout(&tried), stderr(&tried));
    let tried = document(&tried);
    let steps: Vec<(&str, &str)> = tried[0]["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| (step["step"].as_str().unwrap(), step["what"].as_str().unwrap()))
        .collect();
    assert_eq!(steps[1], ("connack", "0 accepted"));
    assert_eq!(steps[3], ("topic", "t/sensors-0"));
    assert_eq!(steps[5], ("answer", "PUBACK"));

    let text = std::fs::read_to_string(&file).unwrap().replace("builtin", "mqtt://127.0.0.1:1");
    std::fs::write(&file, text).unwrap();
    let tried = desk.run(&["scenario", "try", file.to_str().unwrap()]);
    assert_eq!(tried.status.code(), Some(1));
    assert!(stdout(&tried).contains("failed   no connection to 127.0.0.1:1: "));
}

#[test]
fn an_edge_node_is_tried_with_its_births_and_deaths() {
    let (desk, broker) = (Desk::new(), Mosquitto::start());
    let witness = Subscriber::start(broker.addr(), "spBv1.0/#");
    for protocol in ["3.1.1", "5"] {
        let text = format!(
            "version: 1\nname: edge\ntargets:\n  b: {{ mqtt: {{ url: \"{}\", protocol: {protocol} }} }}\ngroups:\n  \
             e:\n    target: b\n    devices: 2\n    id: edge-${{index}}\n    sparkplug: {{ group: plant }}\n    \
             send:\n      node: {{ every: 1s, sparkplug: {{ metrics: {{ load: 5 }} }} }}\n      \
             press: {{ every: 1s, sparkplug: {{ device: press, metrics: {{ t: 1.5 }} }} }}\n\
             load: [ {{ ramp: {{ to: 100%, over: 1s }} }} ]\n",
            broker.url_of(Door::Plain)
        );
        std::fs::write(desk.path().join("edge.yaml"), text).expect("the directory is writable");
        let tried = desk.run(&["scenario", "try", "edge.yaml"]);
        let shown = stdout(&tried);
        assert_eq!(tried.status.code(), Some(0), "{shown}{}", stderr(&tried));
        let born = shown.find("birth    spBv1.0/plant/DBIRTH/edge-0/press").expect("it is born");
        let dead = shown.find("death    spBv1.0/plant/NDEATH/edge-0").expect("it dies");
        assert!(born < dead, "{shown}");
    }
    witness.hears(12);
    let kinds = ["NBIRTH", "DBIRTH", "NDATA", "DDATA", "DDEATH", "NDEATH"];
    let heard: Vec<String> = witness.all().into_iter().map(|heard| heard.topic).collect();
    let heard: Vec<&str> = heard.iter().filter_map(|topic| topic.split('/').nth(2)).collect();
    assert_eq!(heard, [kinds, kinds].concat(), "each once, and no will of the broker's");
}

#[test]
fn a_device_can_be_tried_at_every_door_of_a_broker_in_both_versions() {
    let (desk, authority) = (Desk::new(), Authority::new());
    // Whoever showed a certificate may publish under its name only.
    let setup = Setup::default().with_all_doors(&authority).allow("topic readwrite #");
    let broker = Mosquitto::with(&setup.allow("pattern write d/%u"));
    std::fs::write(desk.path().join("ca.pem"), authority.cert_pem())
        .expect("the directory is writable");
    let secrets = desk.path().join("secrets");
    std::fs::create_dir(&secrets).expect("the directory is writable");
    std::fs::write(secrets.join("ca_key"), authority.key_pem()).expect("so is this one");
    let try_at = |door: Door, protocol: &str, ca: &str| {
        let secured = match door {
            Door::Plain | Door::WebSocket => String::new(),
            _ => format!(", ca: {ca}"),
        };
        let credentials = match door {
            Door::MutualTls => {
                "    credentials: { certificate: { signed_by: { cert: ca.pem, key: \"${secret.ca_key}\" } } }\n"
            }
            _ => "",
        };
        let properties = if protocol == "5" { ", properties: { kind: sensor }" } else { "" };
        let text = format!(
            "version: 1\nname: doors\ntargets: {{ t: {{ mqtt: {{ url: \"{}\", protocol: {protocol}{secured} }} }} }}\n\
             groups:\n  g:\n    target: t\n    devices: 1\n{credentials}    send:\n      \
             a: {{ every: 1s, publish: {{ topic: \"d/${{device}}\", qos: 2, text: x{properties} }} }}\n\
             load: [ {{ ramp: {{ to: 100%, over: 1s }} }} ]\n",
            broker.url_of(door)
        );
        std::fs::write(desk.path().join("doors.yaml"), text).expect("the directory is writable");
        let tried = desk.run(&["scenario", "try", "doors.yaml", "--secrets-dir", "secrets"]);
        (tried.status.code(), format!("{door:?} {protocol}: {}{}", stdout(&tried), stderr(&tried)))
    };
    let doors = [Door::Plain, Door::Tls, Door::MutualTls, Door::WebSocket, Door::SecureWebSocket];
    for (door, protocol) in doors.into_iter().flat_map(|door| [(door, "3.1.1"), (door, "5")]) {
        let (code, said) = try_at(door, protocol, "ca.pem");
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("PUBREC, PUBCOMP"), "{said}");
        assert_eq!(said.contains("kind: sensor"), protocol == "5", "{said}");
    }
    let other = Authority::new();
    std::fs::write(desk.path().join("other.pem"), other.cert_pem())
        .expect("the directory is writable");
    let (code, said) = try_at(Door::Tls, "5", "other.pem");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("failed") && said.contains("certificate"), "{said}");
}

#[test]
fn a_device_can_be_tried_over_https_in_both_versions() {
    let (desk, authority) = (Desk::new(), Authority::new());
    let server = HttpServer::secured(&authority, |_| Reply::text("hello"));
    std::fs::write(desk.path().join("ca.pem"), authority.cert_pem()).expect("it is writable");
    for http2 in [false, true] {
        let text = format!(
            "version: 1\nname: https\ntargets: {{ t: {{ http: {{ url: \"{}\", ca: ca.pem, http2: {http2} }} }} }}\n\
             groups:\n  g: {{ target: t, devices: 1, send: {{ a: {{ every: 1s, http: {{ get: /hi }} }} }} }}\n\
             load: [ {{ ramp: {{ to: 100%, over: 1s }} }} ]\n",
            server.url()
        );
        std::fs::write(desk.path().join("https.yaml"), text).expect("the directory is writable");
        let tried = desk.run(&["scenario", "try", "https.yaml"]);
        let said = format!("{}{}", stdout(&tried), stderr(&tried));
        assert_eq!(tried.status.code(), Some(0), "{said}");
        assert!(said.contains("200 OK (5 bytes) hello") && said.contains(", TLS"), "{said}");
    }
    assert_eq!(server.count("/hi"), 2);
}

#[test]
fn an_observer_that_is_tried_shows_what_it_finds_in_one_event() {
    let desk = Desk::new();
    let file = desk.scenario("1s", "sensors.telemetry.errors == 0");
    let scenario = std::fs::read_to_string(&file).unwrap();
    let source = "mqtt: { url: builtin, filter: t/# }";
    let observed = |read: &str| {
        let observers =
            format!("observers:\n  out: {{ of: sensors.telemetry, {read}{source} }}\nload:");
        let fields = "trace: \"${stamp}\", run: \"${run}\", n: \"${seq}\", at: \"${now_us}\"";
        let text = scenario.replace("load:", &observers).replace("trace: \"${stamp}\"", fields);
        std::fs::write(&file, text).unwrap();
        desk.run(&["scenario", "try", file.to_str().unwrap(), "--output", "json"])
    };
    let steps = |tried: &Output| -> Vec<(String, String)> {
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        let tried = document(tried);
        assert_eq!(tried[1]["observer"], "out", "{tried:#}");
        let steps = tried[1]["steps"].as_array().unwrap().clone();
        steps.iter().map(|step| (text(&step["step"]), text(&step["what"]))).collect()
    };
    let tried = observed("");
    assert_eq!(tried.status.code(), Some(0), "{}{}", stdout(&tried), stderr(&tried));
    let seen = steps(&tried);
    assert_eq!(seen[0], ("reads".to_owned(), "subscribed to t/#".to_owned()));
    assert!(seen[1].1.ends_with("bytes at t/sensors-0"), "{seen:?}");
    assert!(seen[3].1.ends_with("device 0, incarnation 0, number 0"), "{seen:?}");
    assert!(seen[4].1.starts_with("end to end ") && !seen[4].1.contains('-'), "{seen:?}");

    // A field that is somewhere else is seen at once.
    let read = |seq: &str| {
        format!("read: {{ run: /run, device: /d, seq: {seq}, sent: {{ json: /at, unit: us }} }}, ")
    };
    let tried = observed(&read("/n"));
    assert_eq!(tried.status.code(), Some(1), "{}{}", stdout(&tried), stderr(&tried));
    let seen = steps(&tried);
    assert_eq!(seen[1].0, "failed", "{seen:?}");
    assert!(
        seen[2].0 == "unparsed" && seen[2].1.starts_with("1 events, like {\"trace\""),
        "{seen:?}"
    );
}

#[test]
fn help_is_data_and_teaches() {
    let desk = Desk::new();
    for (name, args) in [
        ("help.txt", &["--help"][..]),
        ("help_run.txt", &["run", "--help"]),
        ("help_start.txt", &["help", "start"]),
    ] {
        let output = desk.run(args);
        assert_eq!(output.status.code(), Some(0));
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
        if std::env::var_os("SHOAL_GOLDEN").is_some_and(|mode| mode == "write") {
            std::fs::write(&path, stdout(&output)).unwrap();
        }
        let expected = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(stdout(&output), expected, "{name} (SHOAL_GOLDEN=write accepts)");
    }
}
