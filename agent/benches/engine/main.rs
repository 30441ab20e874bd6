//! What a message, an idle connection and a request cost, as multiples of the floor and of others.
//!
//! Absolute figures are the machine's; ratios inside one interleaved run are the engine's. Each
//! measurement is a process of its own (this program again, with arguments) against one sink in
//! another process, so that CPU time and memory are those of the generator alone. The floor is one
//! `send()` of a pre-built packet per message, round robin; the gates are multiples of it. What acks
//! add to it in the kernel alone, the floor of QoS 1 shows. Run: `cargo bench --workspace --bench
//! engine`.
#![expect(clippy::print_stdout, reason = "a bench prints its table")]

mod floor;
mod peer;
mod shoal;
mod sink;
mod web;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use self::shoal::Target;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

const CONNECTIONS: u64 = 1_000;
/// Per device and second.
const RATE: u64 = 10;
const MEASURED: Duration = Duration::from_secs(5);
/// Odd; neighbours of a virtual machine spoil single measurements.
const REPEATS: usize = 5;
const IDLE: [u64; 2] = [1_000, 8_000];
/// Each takes a handshake on both sides.
const IDLE_TLS: [u64; 2] = [500, 2_000];
const PAYLOAD: usize = 150;

const MAX_QOS0_RATIO: f64 = 1.5;
const MAX_QOS1_RATIO: f64 = 1.8;
const MAX_IDLE_BYTES: f64 = 2_500.0;
const MAX_IDLE_TLS_BYTES: f64 = 14_000.0;
/// Of requests per CPU second, by the client that is made like ours.
const MIN_SHARE_OF_OHA: f64 = 0.8;

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
        ["server"] => {
            web::serve();
            return ExitCode::SUCCESS;
        }
        ["publish", kind, qos, addr] => publish(kind, qos, Target { addr: parse(addr), ca: None }),
        ["publish", kind, qos, addr, ca] => {
            publish(kind, qos, Target { addr: parse(addr), ca: Some(ca) })
        }
        ["idle", kind, n, addr] => idle(kind, n, Target { addr: parse(addr), ca: None }),
        ["idle", kind, n, addr, ca] => idle(kind, n, Target { addr: parse(addr), ca: Some(ca) }),
        ["request", addr] => shoal::request(parse(addr), web::CONNECTIONS),
        _ => return compare(),
    };
    println!("{result}");
    // The threads of a measurement have nothing left to say.
    ExitCode::SUCCESS
}

fn parse(addr: &str) -> SocketAddr {
    addr.parse().expect("the parent passes an address")
}

fn publish(kind: &str, qos: &str, target: Target<'_>) -> f64 {
    let qos = qos.parse().expect("the parent passes 0, 1 or 2");
    match kind {
        "floor" => floor::publish(target.addr, qos),
        "shoal" => shoal::publish(target, qos),
        _ => peer::publish(target.addr, qos),
    }
}

fn idle(kind: &str, n: &str, target: Target<'_>) -> f64 {
    let n = n.parse().expect("the parent passes a count");
    match kind {
        "shoal" => shoal::idle(target, n),
        _ => peer::idle(target.addr, n),
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

/// This program in another role, which says on one line where it is.
struct Other {
    child: Child,
    words: Vec<String>,
}

impl Other {
    fn start(role: &str) -> Self {
        let mut child =
            this_program(&[role]).stdout(Stdio::piped()).spawn().expect("this program starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).expect("it says where it listens");
        Self { child, words: line.split_whitespace().map(str::to_owned).collect() }
    }
}

impl Drop for Other {
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
    let sink = Other::start("sink");
    let [plain, secure, ca] = sink.words.as_slice() else { panic!("{:?}", sink.words) };
    let holds = [publishes(plain, secure, ca), connections(plain, secure, ca), requests()];
    let _ = std::fs::remove_file(ca);
    let holds = holds.iter().all(|holds| *holds);
    println!("{}", if holds { "all gates hold" } else { "A GATE IS BROKEN" });
    if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn publishes(plain: &str, secure: &str, ca: &str) -> bool {
    let rows: [(&str, &[&str], Option<f64>); 9] = [
        ("floor, QoS 0", &["floor", "0", plain], None),
        ("floor, QoS 1", &["floor", "1", plain], None),
        ("shoal, QoS 0", &["shoal", "0", plain], Some(MAX_QOS0_RATIO)),
        ("shoal, QoS 1", &["shoal", "1", plain], Some(MAX_QOS1_RATIO)),
        ("shoal, QoS 2", &["shoal", "2", plain], None),
        ("shoal, QoS 1, TLS", &["shoal", "1", secure, ca], None),
        ("rumqttc, QoS 0", &["rumqttc", "0", plain], None),
        ("rumqttc, QoS 1", &["rumqttc", "1", plain], None),
        ("rumqttc, QoS 2", &["rumqttc", "2", plain], None),
    ];
    let mut samples = vec![Vec::new(); rows.len()];
    for _ in 0..REPEATS {
        for (row, samples) in rows.iter().zip(&mut samples) {
            samples.push(ask(&[&["publish"], row.1].concat()));
        }
    }
    let cost: Vec<f64> = samples.into_iter().map(median).collect();
    println!("CPU per publish, {CONNECTIONS} connections x {RATE}/s, median of {REPEATS}");
    println!("{:<18} {:>8} {:>8}  gate", "", "us", "x floor");
    let mut holds = true;
    for ((name, _, most), us) in rows.iter().zip(&cost) {
        let ratio = us / cost[0];
        let gate = most.map(|most| format!("<= {most}")).unwrap_or_default();
        println!("{name:<18} {us:>8.2} {ratio:>8.2}  {gate}");
        holds &= most.is_none_or(|most| ratio <= most);
    }
    holds
}

fn connections(plain: &str, secure: &str, ca: &str) -> bool {
    println!("resident bytes per idle connection, slope from {} to {}", IDLE[0], IDLE[1]);
    let slope = |kind: &str, [few, many]: [u64; 2], place: &[&str]| {
        let with = |n: u64| ask(&[&["idle", kind, &n.to_string()], place].concat());
        (with(many) - with(few)) / (many - few) as f64
    };
    let ours = slope("shoal", IDLE, &[plain]);
    let ours_tls = slope("shoal", IDLE_TLS, &[secure, ca]);
    let theirs = slope("rumqttc", IDLE, &[plain]);
    println!("{:<18} {ours:>8.0} {:>8}  <= {MAX_IDLE_BYTES}", "shoal", "");
    println!("{:<18} {ours_tls:>8.0} {:>8}  <= {MAX_IDLE_TLS_BYTES}", "shoal, TLS", "");
    println!("{:<18} {theirs:>8.0} {:>8.2}", "rumqttc", theirs / ours);
    ours <= MAX_IDLE_BYTES && ours_tls <= MAX_IDLE_TLS_BYTES
}

fn requests() -> bool {
    let server = Other::start("server");
    let addr = parse(&server.words[0]);
    let mut samples = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..REPEATS {
        samples[0].push(ask(&["request", &server.words[0]]));
        samples[1].extend(web::peer("oha", addr));
        samples[2].extend(web::peer("wrk", addr));
    }
    println!("HTTP requests per CPU second, {} connections, median of {REPEATS}", web::CONNECTIONS);
    let ours = median(std::mem::take(&mut samples[0]));
    println!("{:<18} {:>8.0}", "shoal", 1e6 / ours);
    let mut holds = true;
    for (name, samples) in ["oha", "wrk"].into_iter().zip(samples.into_iter().skip(1)) {
        if samples.is_empty() {
            println!("{name:<18} not installed, so not compared");
            continue;
        }
        let (theirs, gate) = (median(samples), name == "oha");
        let (share, text) = (theirs / ours, format!(">= {MIN_SHARE_OF_OHA}"));
        let text = if gate { text.as_str() } else { "" };
        println!("{name:<18} {:>8.0} shoal has {share:.2} of it  {text}", 1e6 / theirs);
        holds &= !gate || share >= MIN_SHARE_OF_OHA;
    }
    holds
}
