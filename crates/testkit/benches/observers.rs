//! How many events one observer reads, finds the stamp of and accounts for in a second of CPU.
//!
//! The CPU time is that of the observer's thread alone; the server that it reads from is in this
//! process (or another one) and costs nothing here. Run: `cargo bench --workspace --bench observers`, with fewer
//! events `… -- 100000`.
#![expect(clippy::print_stdout, reason = "a bench prints its table")]

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::time::Instant;

use shoal_agent::observe::trial;
use shoal_domain::check::parse_plan;
use shoal_domain::files::Files;
use shoal_domain::ids::RunId;
use shoal_domain::plan::Plan;
use shoal_testkit::kafka::stand_in::{Security, StandIn, TOPIC};
use shoal_testkit::webhook::{Client, free_addr};
use shoal_testkit::{eventhubs, nats};

const KAFKA: &str = include_str!("../../../scenarios/ingestion-kafka.yaml");
const EVENTHUBS: &str = include_str!("../../../scenarios/ingestion-eventhubs.yaml");
const NATS: &str = include_str!("../../../scenarios/ingestion-nats.yaml");
const WEBHOOK: &str = include_str!("../../../scenarios/ingestion-webhook.yaml");
const MQTT: &str = include_str!("../../../scenarios/ingestion-mqtt.yaml");
const RUN: &str = "run_01M8AVMHFKBNQ148CS99KVE7T3";
const DEVICES: u64 = 6_000;
/// Unless the command line says otherwise; of sources that take longer a fourth.
const EVENTS: u64 = 1_200_000;
const PARTITIONS: u64 = 4;
const BATCH: u64 = 500;
/// Of an event, about: JSON around its stamp.
const BYTES: usize = 200;

/// What a platform's own event says in place of the stamp.
const READ: &str =
    "    read: { run: /run, device: /device, seq: /seq, sent: { json: /sent, unit: us } }\n";

const SENT: &str = "            run: ${run}\n            device: ${device}\n            seq: ${seq}\n            sent: ${now_us}\n";

/// What was promised.
const MIN_KAFKA: f64 = 300_000.0;
const MIN_MQTT: f64 = 150_000.0;

fn plan(text: &str, overrides: &[(&str, String)]) -> Plan {
    let mut all = vec![("devices".to_owned(), DEVICES.to_string())];
    all.extend(overrides.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    parse_plan(text, &all, &Files::none()).expect("a shipped scenario is a plan")
}

/// The n-th event of the run: devices in turn.
fn event(run: &RunId, n: u64) -> Vec<u8> {
    let sent_us = std::time::UNIX_EPOCH.elapsed().expect("the clock is right").as_micros();
    let (mark, device, number) = (run.mark(), n % DEVICES, n / DEVICES);
    let mut event = format!(
        "{{\"trace\":\"sh1.{mark}.1.{device}.0.{number}.{sent_us}\",\"temperature\":21.5,\"note\":\""
    );
    while event.len() < BYTES - 2 {
        event.push('x');
    }
    event.push_str("\"}");
    event.into_bytes()
}

/// The same by a platform's own fields.
fn own_event(run: &RunId, n: u64) -> Vec<u8> {
    let sent_us = std::time::UNIX_EPOCH.elapsed().expect("the clock is right").as_micros();
    let (mark, device, number) = (run.mark(), n % DEVICES, n / DEVICES);
    let mut event = format!(
        "{{\"run\":\"{mark}\",\"device\":\"sensor-{device:06}\",\"seq\":{number},\"sent\":{sent_us},\"note\":\""
    );
    while event.len() < BYTES - 2 {
        event.push('x');
    }
    event.push_str("\"}");
    event.into_bytes()
}

/// CPU time of the observer's thread in microseconds.
fn observer_cpu_us() -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").expect("this bench runs on Linux");
    let of = |task: std::fs::DirEntry| -> Option<f64> {
        let name = std::fs::read_to_string(task.path().join("comm")).ok()?;
        let stat = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        let ns: f64 = stat.split_whitespace().next()?.parse().ok()?;
        name.starts_with("observer-").then_some(ns / 1e3)
    };
    tasks.flatten().filter_map(of).sum()
}

/// Events per second of CPU, and per second.
fn measure(plan: Plan, run: RunId, events: u64, write: impl FnOnce()) -> (f64, f64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let (cpu, start) = (Cell::new(0.0), Cell::new(Instant::now()));
    let listening = || {
        // It reads while this is written.
        start.set(Instant::now());
        cpu.set(observer_cpu_us());
        write();
    };
    let spent = Cell::new((0.0, 0.0));
    let done = || {
        let wall = start.get().elapsed().as_secs_f64();
        spent.set(((observer_cpu_us() - cpu.get()) / 1e6, wall));
    };
    let read = trial::read(plan, run, events, listening, done);
    runtime.expect("a runtime").block_on(read).expect("it reads");
    let (cpu, wall) = spent.get();
    (events as f64 / cpu, events as f64 / wall)
}

/// Calls `produce` for every batch: a device's events stay in one partition.
fn in_batches(
    events: u64,
    event: impl Fn(u64) -> Vec<u8>,
    mut produce: impl FnMut(i32, &[Vec<u8>]),
) {
    for batch in 0..events / BATCH {
        let at = batch % PARTITIONS;
        let first = batch / PARTITIONS * BATCH;
        let numbers = (first..first + BATCH).map(|n| n * PARTITIONS + at);
        let values: Vec<Vec<u8>> = numbers.map(&event).collect();
        produce(at as i32, &values);
    }
}

fn kafka(run: &RunId, text: &str, events: u64, event: impl Fn(u64) -> Vec<u8>) -> (f64, f64) {
    let stand_in = StandIn::start(PARTITIONS as usize, Security::default());
    let overrides = [("kafka", stand_in.bootstrap()), ("kafka_topic", TOPIC.to_owned())];
    let write = || in_batches(events, event, |at, values| stand_in.produce(at, values));
    measure(plan(text, &overrides), *run, events, write)
}

fn event_hubs(run: &RunId, events: u64) -> (f64, f64) {
    let stand_in = eventhubs::StandIn::start(PARTITIONS as usize, false);
    let connection = format!("\"{}\"", stand_in.connection_string());
    let text = EVENTHUBS.replace("${secret.eventhub}", &connection);
    let write = || {
        in_batches(events, |n| event(run, n), |at, values| stand_in.produce(at, values));
    };
    measure(plan(&text, &[]), *run, events, write)
}

fn jetstream(run: &RunId, events: u64) -> (f64, f64) {
    let server = nats::Nats::start();
    let mut client = server.client();
    let text = NATS.replace("${secret.nats}", nats::LOGIN.1);
    let overrides = [("nats", format!("nats://{}", server.addr()))];
    let write = || {
        in_batches(events, |n| event(run, n), |_, values| client.publish("out.a", values));
    };
    measure(plan(&text, &overrides), *run, events, write)
}

/// Bodies of a batch each, a line per event.
fn webhook(run: &RunId, events: u64) -> (f64, f64) {
    let listen = free_addr();
    let overrides = [("listen", listen.to_string())];
    let mut client = Client::new(listen);
    let write = || {
        let mut body = Vec::new();
        in_batches(
            events,
            |n| event(run, n),
            |_, values| {
                body.clear();
                for value in values {
                    body.extend(value);
                    body.push(b'\n');
                }
                let headers = [("Content-Type", "application/x-ndjson")];
                let (status, said) =
                    client.send("POST", "/events", &headers, &body).expect("it listens");
                assert_eq!(status, 200, "{said}");
            },
        );
    };
    measure(plan(WEBHOOK, &overrides), *run, events, write)
}

/// One PUBLISH of QoS 1.
fn publish(n: u64, payload: &[u8]) -> Vec<u8> {
    let topic = b"devices/sensor-000001/telemetry";
    let length = 2 + topic.len() + 2 + payload.len();
    let mut packet = vec![0x32, (length % 128) as u8 | 0x80, (length / 128) as u8];
    packet.extend((topic.len() as u16).to_be_bytes());
    packet.extend(topic);
    packet.extend(((n % 60_000) as u16 + 1).to_be_bytes());
    packet.extend(payload);
    packet
}

/// A broker for one subscriber, which is given `events` when `go` is closed.
fn broker(events: Vec<u8>, go: std::sync::mpsc::Receiver<()>) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let addr = listener.local_addr().expect("a bound socket has an address");
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("the observer connects");
        let mut bytes = [0; 1_024];
        let greeting = stream.read(&mut bytes).expect("a CONNECT");
        assert!(greeting > 0);
        stream.write_all(&[0x20, 2, 0, 0]).expect("it listens");
        let subscribe = stream.read(&mut bytes).expect("a SUBSCRIBE");
        assert!(subscribe > 0);
        stream.write_all(&[0x90, 3, 0, 1, 1]).expect("it listens");
        // Its acks are read by nobody else.
        let mut acks = stream.try_clone().expect("a second handle");
        std::thread::spawn(move || while acks.read(&mut [0; 65_536]).is_ok_and(|n| n > 0) {});
        let _ = go.recv();
        // Ends when the observer has seen enough.
        let _ = stream.write_all(&events);
        std::thread::park();
    });
    addr
}

fn mqtt(run: &RunId, events: u64) -> (f64, f64) {
    let (go, gone) = std::sync::mpsc::channel();
    let bytes = (0..events).flat_map(|n| publish(n, &event(run, n))).collect();
    let url = format!("mqtt://{}", broker(bytes, gone));
    measure(plan(MQTT, &[("output_broker", url)]), *run, events, || drop(go))
}

fn main() -> ExitCode {
    let run: RunId = RUN.parse().expect("an id of a run");
    let wanted = std::env::args().skip(1).find_map(|arg| arg.parse().ok());
    // Whole batches in every partition.
    let events = wanted.unwrap_or(EVENTS).next_multiple_of(4 * BATCH * PARTITIONS);
    let fewer = events / 4;
    let own = KAFKA.replace("    kafka: {", &format!("{READ}    kafka: {{"));
    let own = own.replace("            trace: ${stamp}\n", SENT);
    let mut holds = true;
    println!("{events} events of {BYTES} bytes, {DEVICES} devices\n");
    println!("{:12} {:>16} {:>10} {:>10}", "source", "per CPU-second", "per second", "at least");
    let mut show = |name: &str, (per_cpu, per_second): (f64, f64), least: Option<f64>| {
        let promised = least.map_or("-".to_owned(), |least| format!("{least:.0}"));
        println!("{name:12} {per_cpu:16.0} {per_second:10.0} {promised:>10}");
        holds &= least.is_none_or(|least| per_cpu >= least);
    };
    show("kafka", kafka(&run, KAFKA, events, |n| event(&run, n)), Some(MIN_KAFKA));
    show("mqtt", mqtt(&run, events), Some(MIN_MQTT));
    show("kafka, read:", kafka(&run, &own, events, |n| own_event(&run, n)), None);
    show("webhook", webhook(&run, fewer), None);
    show("eventhubs", event_hubs(&run, fewer), None);
    show("nats", jetstream(&run, fewer), None);
    if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
