//! What five hundred agents cost their control plane: memory, CPU, and whether it ever looked away.
//!
//! The control plane is a process of its own (this program again); agents and broker are in this one,
//! each agent with a session, beats, windows of every second and closing totals as in a deployment.
//! Run: `cargo bench --workspace --bench fleet`. It fails where a figure is above its limit or where
//! the run is not VALID.
#![expect(clippy::print_stdout, reason = "a bench prints its table")]

use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use shoal_control_plane::app;
use shoal_domain::run::{Phase, Validity};
use shoal_service_kit::{Lifecycle, limits};
use shoal_testkit::cluster::Cluster;

const AGENTS: usize = 500;
const DEVICES_PER_AGENT: usize = 2;
/// As many as a run with several operations in several groups has.
const SERIES: usize = 8;
const SETTLE: Duration = Duration::from_secs(10);
const MEASURED: Duration = Duration::from_secs(30);

const MAX_RESIDENT_MIB: f64 = 512.0;
const MAX_CORES: f64 = 1.0;

/// Every device sends each series once a second.
fn scenario(broker: &str) -> String {
    let hold = SETTLE + MEASURED + SETTLE;
    let mut text = format!(
        "version: 1\nname: fleet\ntargets: {{ b: {{ mqtt: {{ url: \"{broker}\" }} }} }}\n\
         load: [ {{ ramp: {{ to: 100%, over: 5s }} }}, {{ hold: {{ for: {}s }} }} ]\n\
         groups:\n  g:\n    target: b\n    devices: {}\n    send:\n",
        hold.as_secs(),
        AGENTS * DEVICES_PER_AGENT
    );
    for n in 0..SERIES {
        text.push_str(&format!(
            "      s{n}: {{ every: 1s, publish: {{ topic: \"${{device}}\", qos: 1, text: x }} }}\n"
        ));
    }
    text
}

/// Serves until this process is ended.
async fn control_plane(database: &str) {
    let lifecycle = Lifecycle::new();
    let config = app::Config {
        listen: (Ipv4Addr::LOCALHOST, 0).into(),
        database: database.to_owned(),
        token: None,
        metrics_listen: None,
        keep_seconds: None,
        outputs: Vec::new(),
        local: false,
    };
    let serving = app::start(config, &lifecycle).await.expect("a control plane serves");
    println!("http://{}", serving.expect("nobody else leads").addr);
    lifecycle.soft().cancelled().await;
}

struct Other {
    child: Child,
    server: String,
}

impl Other {
    fn start(database: &str) -> Self {
        let program = std::env::current_exe().expect("a running program has a path");
        let mut command = Command::new(program);
        command.args(["control-plane", database]).stdout(Stdio::piped());
        let mut child = command.spawn().expect("this program starts");
        let stdout = child.stdout.take().expect("it is piped");
        let mut server = String::new();
        BufReader::new(stdout).read_line(&mut server).expect("it says where it listens");
        Self { child, server: server.trim().to_owned() }
    }

    /// The most memory that it ever had, in MiB.
    fn resident_mib(&self) -> f64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
        let kib: f64 = line.trim().trim_end_matches("kB").trim().parse().expect("a number of kB");
        kib / 1024.0
    }

    fn cpu_s(&self) -> f64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("it runs");
        let of = |task: std::fs::DirEntry| -> Option<f64> {
            let stat = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
            stat.split_whitespace().next()?.parse::<f64>().ok()
        };
        tasks.filter_map(Result::ok).filter_map(of).sum::<f64>() / 1e9
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn measure() -> ExitCode {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let other = Other::start(&format!("sqlite:{}", dir.path().join("fleet.sqlite").display()));
    let began = Instant::now();
    let cluster = Cluster::of_control_plane(other.server.clone(), AGENTS).await;
    println!("{AGENTS} agents are there after {:.1} s", began.elapsed().as_secs_f64());
    println!("{:<32} {:>8.0}", "memory without a run, MiB", other.resident_mib());
    let run = cluster.run(&scenario(&cluster.broker_url()), &[]).await;
    run.has_sent(1).await;
    tokio::time::sleep(SETTLE).await;
    println!("{:<32} {:>8.0}", "memory at first, MiB", other.resident_mib());
    let (before_s, from) = (other.cpu_s(), Instant::now());
    tokio::time::sleep(MEASURED).await;
    let cores = (other.cpu_s() - before_s) / from.elapsed().as_secs_f64();
    let report = run.over().await;
    let resident_mib = other.resident_mib();

    println!(
        "{SERIES} series of {DEVICES_PER_AGENT} devices an agent, each every second, on SQLite"
    );
    println!("{:<32} {cores:>8.2}  <= {MAX_CORES}", "cores used by the control plane");
    println!("{:<32} {resident_mib:>8.0}  <= {MAX_RESIDENT_MIB}", "its most memory, MiB");
    let sent: u64 =
        report.series.iter().filter(|row| row.stage == "all").map(|row| row.count).sum();
    println!("{:<32} {sent:>8}", "attempts counted");
    let cause = report.cause.as_deref().unwrap_or("-");
    println!("{:<32} {:>8} ({cause})", "phase", report.phase.word());
    println!("{:<32} {:>8}", "validity", report.validity.map_or("none", Validity::word));
    for reason in &report.validity_reasons {
        println!("  {}: {}", reason.code, reason.text);
    }
    let proved = report.agents.iter().filter(|agent| agent.totals_proved == Some(true)).count();
    println!("{:<32} {proved:>8}  of {AGENTS}", "agents whose totals are proved");

    let holds = cores <= MAX_CORES
        && resident_mib <= MAX_RESIDENT_MIB
        && report.phase == Phase::Finished
        && report.validity == Some(Validity::Valid)
        && proved == AGENTS;
    println!("{}", if holds { "all limits hold" } else { "A LIMIT IS BROKEN" });
    if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn main() -> ExitCode {
    limits::raise_descriptor_limit();
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.expect("a runtime starts");
    match args.as_slice() {
        [role, database] if role == "control-plane" => {
            runtime.block_on(control_plane(database));
            ExitCode::SUCCESS
        }
        _ => runtime.block_on(measure()),
    }
}
