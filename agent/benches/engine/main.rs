//! What a message and an idle connection cost, as multiples of the floor.
//!
//! Absolute figures are the machine's; ratios inside one interleaved run are the engine's. Each
//! measurement is a process of its own (this program again, with arguments) against one sink in
//! another process, so that CPU time and memory are those of the generator alone. The floor is one
//! `send()` of a pre-built packet per message, round robin. Run: `cargo bench -p shoal-agent --bench
//! engine`.
#![expect(clippy::print_stdout, reason = "a bench prints its table")]

mod floor;
mod peer;
mod shoal;
mod sink;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

const CONNECTIONS: u64 = 1_000;
/// Per device and second.
const RATE: u64 = 10;
const MEASURED: Duration = Duration::from_secs(5);
const REPEATS: usize = 3;
const IDLE: [u64; 2] = [1_000, 8_000];
const PAYLOAD: usize = 150;

const MAX_QOS0_RATIO: f64 = 1.5;
const MAX_QOS1_RATIO: f64 = 1.8;
const MAX_IDLE_BYTES: f64 = 2_500.0;

/// User and system time of this process in microseconds.
fn cpu_us() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("Linux always answers for SELF");
    (usage.user_time().num_microseconds() + usage.system_time().num_microseconds()) as f64
}

fn resident_bytes() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("this bench runs on Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS is there");
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse().expect("a number of kB");
    kib * 1024.0
}

/// CPU time per message, given a count of messages sent so far. The engine's count moves by whole
/// windows, so the measured time begins and ends at a step of the count.
fn measure(sent: impl Fn() -> u64) -> f64 {
    let step = || {
        let before = sent();
        while sent() == before {
            std::thread::sleep(Duration::from_millis(1));
        }
        (cpu_us(), sent())
    };
    let from = step();
    std::thread::sleep(MEASURED - Duration::from_millis(100));
    let to = step();
    (to.0 - from.0) / (to.1 - from.1) as f64
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args[..] {
        ["sink"] => {
            sink::run();
            return ExitCode::SUCCESS;
        }
        ["publish", kind, qos, addr] => publish(kind, qos == "1", parse(addr)),
        ["idle", kind, n, addr] => idle(kind, n.parse().expect("a count"), parse(addr)),
        _ => return compare(),
    };
    println!("{result}");
    // The threads of a measurement have nothing left to say.
    ExitCode::SUCCESS
}

fn parse(addr: &str) -> SocketAddr {
    addr.parse().expect("the parent passes an address")
}

fn publish(kind: &str, qos1: bool, addr: SocketAddr) -> f64 {
    match kind {
        "floor" => floor::publish(addr),
        "shoal" => shoal::publish(addr, qos1),
        _ => peer::publish(addr, qos1),
    }
}

fn idle(kind: &str, n: u64, addr: SocketAddr) -> f64 {
    match kind {
        "shoal" => shoal::idle(addr, n),
        _ => peer::idle(addr, n),
    }
}

fn this_program(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("a running program has a path"));
    command.args(args);
    command
}

fn ask(args: &[&str]) -> f64 {
    let output = this_program(args).output().expect("this program starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    text.trim().parse().unwrap_or_else(|_| panic!("{args:?} said {text:?} {errors}"))
}

struct Sink {
    child: Child,
    addr: String,
}

impl Sink {
    fn start() -> Self {
        let mut child =
            this_program(&["sink"]).stdout(Stdio::piped()).spawn().expect("this program starts");
        let mut addr = String::new();
        let stdout = child.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut addr).expect("the sink says where it listens");
        Self { child, addr: addr.trim().to_owned() }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn compare() -> ExitCode {
    let sink = Sink::start();
    let rows = [
        ("floor, QoS 0", "floor", "0"),
        ("shoal, QoS 0", "shoal", "0"),
        ("shoal, QoS 1", "shoal", "1"),
        ("rumqttc, QoS 0", "rumqttc", "0"),
        ("rumqttc, QoS 1", "rumqttc", "1"),
    ];
    let mut samples = vec![Vec::new(); rows.len()];
    for _ in 0..REPEATS {
        for (row, samples) in rows.iter().zip(&mut samples) {
            samples.push(ask(&["publish", row.1, row.2, &sink.addr]));
        }
    }
    let cost: Vec<f64> = samples.into_iter().map(median).collect();
    println!("CPU per publish, {CONNECTIONS} connections x {RATE}/s, median of {REPEATS}");
    println!("{:<16} {:>8} {:>8}  gate", "", "us", "x floor");
    for (row, us) in rows.iter().zip(&cost) {
        let gate = match (row.1, row.2) {
            ("shoal", "0") => format!("<= {MAX_QOS0_RATIO}"),
            ("shoal", "1") => format!("<= {MAX_QOS1_RATIO}"),
            _ => String::new(),
        };
        println!("{:<16} {us:>8.2} {:>8.2}  {gate}", row.0, us / cost[0]);
    }

    println!("resident bytes per idle connection, slope from {} to {}", IDLE[0], IDLE[1]);
    let slope = |kind: &str| {
        let [few, many] = IDLE.map(|n| ask(&["idle", kind, &n.to_string(), &sink.addr]));
        (many - few) / (IDLE[1] - IDLE[0]) as f64
    };
    let (ours, theirs) = (slope("shoal"), slope("rumqttc"));
    println!("{:<16} {ours:>8.0} {:>8}  <= {MAX_IDLE_BYTES}", "shoal", "");
    println!("{:<16} {theirs:>8.0} {:>8.2}", "rumqttc", theirs / ours);

    let holds = cost[1] / cost[0] <= MAX_QOS0_RATIO
        && cost[2] / cost[0] <= MAX_QOS1_RATIO
        && ours <= MAX_IDLE_BYTES;
    println!("{}", if holds { "all gates hold" } else { "A GATE IS BROKEN" });
    if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
