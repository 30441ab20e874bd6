//! The deployment as the README describes it: real binaries, a real Postgres, a real mosquitto, and
//! mosquitto's own subscriber as the witness of what arrived.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use shoal_testkit::expect::eventually;
use shoal_testkit::mosquitto::Mosquitto;
use shoal_testkit::postgres::Database;

const TOKEN: &str = "a token of this test";

/// A process that ends with its handle.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The three binaries stand beside each other in the target directory.
fn binary(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_shoal")).with_file_name(name);
    assert!(path.exists(), "{} is missing: run `cargo test --workspace`", path.display());
    path
}

struct Deployment {
    dir: tempfile::TempDir,
    database: Database,
    server: SocketAddr,
    control_plane: Option<Running>,
    agents: Vec<Running>,
}

impl Deployment {
    async fn start() -> Self {
        let database = Database::create().await;
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (control_plane, server) = start_control_plane(database.url(), any);
        let dir = tempfile::tempdir().expect("a temporary directory");
        Self { dir, database, server, control_plane: Some(control_plane), agents: vec![] }
    }

    fn agent(&self, id: &str, data_dir: &str, capacity: &str) -> Command {
        let mut command = Command::new(binary("shoal-agent"));
        command
            .args(["--server", &format!("http://{}", self.server), "--id", id])
            .args(["--capacity", capacity, "--data-dir"])
            .arg(self.dir.path().join(data_dir))
            .env("SHOAL_TOKEN", TOKEN)
            .current_dir(self.dir.path())
            .stdout(Stdio::null());
        command
    }

    fn add_agent(&mut self, id: &str, capacity: &str) {
        let child = self.agent(id, id, capacity).stderr(Stdio::null()).spawn();
        self.agents.push(Running(child.expect("shoal-agent can be started")));
    }

    fn shoal(&self, args: &[&str]) -> Output {
        self.shoal_with_token(TOKEN, args)
    }

    fn shoal_with_token(&self, token: &str, args: &[&str]) -> Output {
        let scenarios = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios");
        Command::new(env!("CARGO_BIN_EXE_shoal"))
            .args(args)
            .args(["--server", &format!("http://{}", self.server)])
            .env("SHOAL_TOKEN", token)
            .env("HOME", self.dir.path())
            .env_remove("XDG_CONFIG_HOME")
            .current_dir(scenarios)
            .output()
            .expect("shoal can be started")
    }

    /// kill -9, and another process on the same database and port.
    fn restart_control_plane(&mut self) {
        self.control_plane = None;
        let (control_plane, _) = start_control_plane(self.database.url(), self.server);
        self.control_plane = Some(control_plane);
    }
}

fn start_control_plane(database: &str, listen: SocketAddr) -> (Running, SocketAddr) {
    let mut child = Command::new(binary("shoal-control-plane"))
        .args(["--listen", &listen.to_string(), "--database", database, "--log-format", "json"])
        .env("SHOAL_TOKEN", TOKEN)
        .env("SHOAL_LOG", "info")
        .stderr(Stdio::piped())
        .spawn()
        .expect("shoal-control-plane can be started");
    let mut lines = BufReader::new(child.stderr.take().expect("stderr is piped")).lines();
    let running = Running(child);
    let addr = lines
        .by_ref()
        .map_while(Result::ok)
        .find_map(|line| {
            let line: Value = serde_json::from_str(&line).ok()?;
            line["addr"].as_str()?.parse().ok()
        })
        .expect("the control plane says where it serves");
    // Somebody has to read on, or the log's pipe fills.
    std::thread::spawn(move || lines.for_each(drop));
    (running, addr)
}

/// Counts what mosquitto hands to a subscriber of all telemetry.
struct Witness {
    _subscriber: Running,
    topics: Arc<Mutex<Vec<String>>>,
}

impl Witness {
    async fn of(broker: SocketAddr) -> Self {
        let mut child = Command::new("mosquitto_sub")
            .args(["-h", "127.0.0.1", "-p", &broker.port().to_string(), "-q", "1"])
            .args(["-t", "devices/+/telemetry", "-t", "ready", "-F", "%t"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("mosquitto_sub (package mosquitto-clients) can be started");
        let lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
        let topics = Arc::new(Mutex::new(Vec::new()));
        let seen = topics.clone();
        std::thread::spawn(move || {
            lines.map_while(Result::ok).for_each(|topic| seen.lock().unwrap().push(topic));
        });
        let witness = Self { _subscriber: Running(child), topics };
        eventually(Duration::from_secs(20), "the subscriber hears of a first message", || {
            let published = Command::new("mosquitto_pub")
                .args(["-h", "127.0.0.1", "-p", &broker.port().to_string()])
                .args(["-t", "ready", "-m", "?"])
                .status();
            let is_ready = published.is_ok() && witness.n("ready") > 0;
            async move { is_ready }
        })
        .await;
        witness
    }

    fn n(&self, ending: &str) -> u64 {
        self.topics.lock().unwrap().iter().filter(|topic| topic.ends_with(ending)).count() as u64
    }
}

fn telemetry_of(document: &Value) -> &Value {
    document["series"]
        .as_array()
        .unwrap()
        .iter()
        .find(|series| series["name"] == "telemetry" && series["stage"] == "all")
        .unwrap()
}

fn document(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
}

#[track_caller]
fn assert_refused(output: &Output, exit: i32, code: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(exit), "{said}{stdout}");
    assert!(said.contains(code), "{code} is not in: {said}");
}

fn telemetry_on(broker: SocketAddr, more: &[&str]) -> Vec<String> {
    let broker = format!("broker=mqtt://{broker}");
    let args = ["run", "telemetry.yaml", "--output", "json", "--set", &broker];
    args.iter().chain(more).map(|arg| (*arg).to_owned()).collect()
}

fn as_strs(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

#[tokio::test]
async fn two_agents_carry_a_run_whose_numbers_are_those_of_the_broker() {
    let broker = Mosquitto::start();
    let witness = Witness::of(broker.addr()).await;
    let mut deployment = Deployment::start().await;
    deployment.add_agent("large", "2");
    deployment.add_agent("small", "1");

    let sets = ["--set", "devices=300", "--set", "hold=3s", "--agents", "2"];
    let output = deployment.shoal(&as_strs(&telemetry_on(broker.addr(), &sets)));
    let run = document(&output);
    let telemetry = telemetry_of(&run);
    let slots = &telemetry["slots"];
    let sent = slots["sent"].as_u64().unwrap();
    let classes = ["sent", "missed", "not_connected", "away", "unsent", "unassigned"];
    let classed: u64 = classes.iter().map(|class| slots[*class].as_u64().unwrap()).sum();
    assert_eq!(slots["planned"].as_u64(), Some(classed), "{slots}");
    assert!(sent > 800, "{slots}");
    assert_eq!(telemetry["acked"].as_u64(), Some(sent));
    eventually(Duration::from_secs(20), "the witness has seen every message", || {
        let seen = witness.n("/telemetry");
        async move { seen >= sent }
    })
    .await;
    assert_eq!(witness.n("/telemetry"), sent, "what the broker handed on");
    let agents: Vec<(String, u64)> = run["agents"]
        .as_array()
        .unwrap()
        .iter()
        .map(|agent| {
            (agent["agent"].as_str().unwrap().to_owned(), agent["devices"].as_u64().unwrap())
        })
        .collect();
    assert_eq!(agents, [("large".to_owned(), 200), ("small".to_owned(), 100)]);
    // On a busy machine the generator may have stalled, and then it must say so.
    if slots["missed"] == 0 && run["validity"] == "VALID" {
        assert_eq!(output.status.code(), Some(0), "{run:#}");
    }

    deployment.restart_control_plane();
    let later = document(&deployment.shoal(&["show", "last", "--output", "json"]));
    assert_eq!(later["run"], run["run"]);
    assert_eq!(later["series"], run["series"]);
    assert_eq!(later["exit_code"], run["exit_code"]);
}

#[tokio::test]
async fn a_control_plane_killed_in_the_middle_costs_no_count() {
    let broker = Mosquitto::start();
    let witness = Witness::of(broker.addr()).await;
    let mut deployment = Deployment::start().await;
    deployment.add_agent("only", "1");
    let sets = ["--set", "devices=50", "--set", "hold=8s"];
    let args: Vec<String> = telemetry_on(broker.addr(), &sets);
    let start: Vec<&str> =
        args.iter().map(|arg| if arg == "run" { "start" } else { arg.as_str() }).collect();
    let started = deployment.shoal(&start);
    assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
    eventually(Duration::from_secs(30), "messages arrive", || {
        let seen = witness.n("/telemetry");
        async move { seen > 100 }
    })
    .await;
    deployment.restart_control_plane();
    eventually(Duration::from_secs(60), "the run ends", || {
        let run = document(&deployment.shoal(&["show", "last", "--output", "json"]));
        async move { run["phase"] == "FINISHED" }
    })
    .await;
    let run = document(&deployment.shoal(&["show", "last", "--output", "json"]));
    let telemetry = telemetry_of(&run);
    let sent = telemetry["slots"]["sent"].as_u64().unwrap();
    assert_eq!(telemetry["acked"].as_u64(), Some(sent));
    assert_eq!(witness.n("/telemetry"), sent, "{:#}", run["validity_reasons"]);
    assert_eq!(run["agents"][0]["totals_proved"], true);
}

#[tokio::test]
async fn what_cannot_be_done_is_refused_with_a_code() {
    let mut deployment = Deployment::start().await;
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();

    let no_agent = telemetry_on(closed, &["--agents-timeout", "1s"]);
    assert_refused(&deployment.shoal(&as_strs(&no_agent)), 2, "SH0201");
    assert_refused(&deployment.shoal_with_token("wrong", &["list"]), 2, "SH0402");
    assert_refused(&deployment.shoal(&["show", "no-such-run"]), 2, "SH0403");

    deployment.add_agent("twin", "1");
    let unreachable = telemetry_on(closed, &["--set", "devices=5"]);
    let output = deployment.shoal(&as_strs(&unreachable));
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(document(&output)["phase"], "FAILED_TO_START");

    let too_few = telemetry_on(closed, &["--agents", "2", "--agents-timeout", "1s"]);
    assert_refused(&deployment.shoal(&as_strs(&too_few)), 2, "SH0202");

    let mut second = Running(
        deployment
            .agent("twin", "another-directory", "1")
            .stderr(Stdio::piped())
            .spawn()
            .expect("shoal-agent can be started"),
    );
    let said = BufReader::new(second.0.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(said.into_iter().any(|line| line.contains("SH0406")), "the second twin says so");
}

#[tokio::test]
async fn refused_credentials_fail_the_devices_and_the_run() {
    let broker = Mosquitto::with_login("somebody", "else");
    let mut deployment = Deployment::start().await;
    deployment.add_agent("only", "1");
    let sets = ["--set", "devices=20", "--set", "hold=2s"];
    let output = deployment.shoal(&as_strs(&telemetry_on(broker.addr(), &sets)));
    let run = document(&output);
    assert_eq!(output.status.code(), Some(1), "{run:#}");
    assert_eq!(run["devices"]["failed"], 20);
    assert_eq!(telemetry_of(&run)["slots"]["sent"], 0);
    assert_eq!(run["failures"][0]["class"], "not_authorized");
}

#[tokio::test]
async fn garbage_on_the_port_harms_nobody() {
    let deployment = Deployment::start().await;
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0xff; 4096],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff",
    ] {
        let mut stream = TcpStream::connect(deployment.server).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let _ = stream.write_all(garbage);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    }
    assert!(deployment.shoal(&["list"]).status.success());
}
