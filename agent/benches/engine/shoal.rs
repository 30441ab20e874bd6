//! The engine under test, through its public face.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use shoal_agent::engine::{Control, CoreReport, Job, SourceAddresses, prepare};
use shoal_domain::ids::RunId;
use shoal_domain::outcome::Operation;
use shoal_domain::plan::Plan;
use shoal_domain::shard::{Block, Shard};
use shoal_service_kit::{Clock, SystemClock, TargetGuard};
use tokio::sync::mpsc;

use crate::{CONNECTIONS, MEASURED, PAYLOAD, RATE};

const RAMP: Duration = Duration::from_secs(2);
const SETTLE: Duration = Duration::from_secs(3);

pub(crate) fn publish(addr: SocketAddr, qos1: bool) -> f64 {
    let every = format!("{}ms", 1_000 / RATE);
    let hold = SETTLE + MEASURED + SETTLE;
    let text = scenario(CONNECTIONS, &every, u8::from(qos1), RAMP, hold);
    let sent = start(addr, &text);
    std::thread::sleep(RAMP + SETTLE);
    // Counts arrive by the second: the measured time is whole windows, give or take one's jitter.
    crate::measure(|| sent.load(Ordering::Relaxed))
}

/// Resident bytes with `n` idle connections.
pub(crate) fn idle(addr: SocketAddr, n: u64) -> f64 {
    let ramp = Duration::from_secs(4);
    start(addr, &scenario(n, "10h", 1, ramp, Duration::from_secs(60)));
    std::thread::sleep(ramp + SETTLE);
    crate::resident_bytes()
}

fn scenario(n: u64, every: &str, qos: u8, ramp: Duration, hold: Duration) -> String {
    let payload = "x".repeat(PAYLOAD);
    format!(
        "version: 1\nname: bench\n\
         targets:\n  sink: {{ mqtt: {{ url: builtin }} }}\n\
         groups:\n  g:\n    target: sink\n    devices: {n}\n    send:\n      telemetry:\n        \
         publish: {{ topic: \"devices/${{device}}/telemetry\", qos: {qos}, text: \"{payload}\" }}\n        \
         every: {every}\n\
         load:\n  - ramp: {{ to: 100%, over: {}s }}\n  - hold: {{ for: {}s }}\n",
        ramp.as_secs(),
        hold.as_secs(),
    )
}

/// Starts a run on one core and returns the count of messages sent, by whole windows.
fn start(addr: SocketAddr, text: &str) -> Arc<AtomicU64> {
    let plan = shoal_domain::check::parse_plan(text, &[], &shoal_domain::files::Files::none())
        .unwrap_or_else(|e| panic!("{e:?}"));
    let job = Job {
        shard: Shard { blocks: vec![Block::new(0, 0..plan.devices())] },
        spawn_rate: plan.spawn_rate() * 2.0,
        plan: Arc::new(plan),
        seed: 1,
        run: RunId::from_parts(0, 1),
        secrets: Arc::default(),
        sources: SourceAddresses::default(),
        protocols: Default::default(),
        guard: TargetGuard::any(),
        builtin: Some(addr),
        sampling: None,
        cores: 1,
    };
    let plan = Arc::clone(&job.plan);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let prepared = runtime.expect("a runtime starts").block_on(prepare(job));
    let prepared = prepared.unwrap_or_else(|error| panic!("{error}"));
    let control = Arc::new(Control::new(u64::MAX, u64::MAX));
    let (sender, reports) = mpsc::channel(64);
    prepared.start(SystemClock.boot_us(), control, sender);
    let sent = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&sent);
    std::thread::spawn(move || count(&plan, reports, &counter));
    sent
}

fn count(plan: &Plan, mut reports: mpsc::Receiver<CoreReport>, counter: &AtomicU64) {
    while let Some(report) = reports.blocking_recv() {
        for ((series, _), tally) in &report.delta.cells {
            if plan.series[series.index()].operation == Operation::Publish {
                counter.fetch_add(tally.sent, Ordering::Relaxed);
            }
        }
    }
}
