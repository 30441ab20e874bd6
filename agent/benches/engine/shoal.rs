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

/// Where devices connect to, and whom they trust: a sink behind TLS has an authority.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target<'t> {
    pub(crate) addr: SocketAddr,
    pub(crate) ca: Option<&'t str>,
}

impl Target<'_> {
    fn mqtt(&self) -> String {
        match self.ca {
            None => "mqtt: { url: builtin }".to_owned(),
            Some(ca) => format!("mqtt: {{ url: \"mqtts://{}\", ca: \"agent:{ca}\" }}", self.addr),
        }
    }
}

pub(crate) fn publish(target: Target<'_>, qos: u8) -> f64 {
    let every = format!("{}ms", 1_000 / RATE);
    let hold = SETTLE + MEASURED + SETTLE;
    let text = scenario(target, CONNECTIONS, &every, qos, RAMP, hold);
    let sent = start(target.addr, &text, Operation::Publish);
    std::thread::sleep(RAMP + SETTLE);
    // Counts arrive by the second: the measured time is whole windows, give or take one's jitter.
    crate::measure(|| sent.load(Ordering::Relaxed))
}

/// Resident bytes with `n` idle connections.
pub(crate) fn idle(target: Target<'_>, n: u64) -> f64 {
    let ramp = Duration::from_secs(4);
    let text = scenario(target, n, "10h", 1, ramp, Duration::from_secs(60));
    start(target.addr, &text, Operation::Publish);
    std::thread::sleep(ramp + SETTLE);
    crate::resident_bytes()
}

/// CPU microseconds per request of devices that ask again and again.
pub(crate) fn request(addr: SocketAddr, n: u64) -> f64 {
    let hold = SETTLE + MEASURED + SETTLE;
    let text = format!(
        "version: 1\nname: bench\ntargets:\n  server: {{ http: {{ url: \"http://{addr}\" }} }}\n\
         groups:\n  g:\n    target: server\n    devices: {n}\n    \
         loop: {{ tasks: {{ ask: {{ http: {{ get: / }} }} }} }}\n\
         load:\n  - ramp: {{ to: 100%, over: 1s }}\n  - hold: {{ for: {}s }}\n",
        hold.as_secs()
    );
    let sent = start(addr, &text, Operation::Http);
    std::thread::sleep(Duration::from_secs(1) + SETTLE);
    crate::measure(|| sent.load(Ordering::Relaxed))
}

fn scenario(
    target: Target<'_>,
    n: u64,
    every: &str,
    qos: u8,
    ramp: Duration,
    hold: Duration,
) -> String {
    let payload = "x".repeat(PAYLOAD);
    format!(
        "version: 1\nname: bench\n\
         targets:\n  sink: {{ {} }}\n\
         groups:\n  g:\n    target: sink\n    devices: {n}\n    send:\n      telemetry:\n        \
         publish: {{ topic: \"devices/${{device}}/telemetry\", qos: {qos}, text: \"{payload}\" }}\n        \
         every: {every}\n\
         load:\n  - ramp: {{ to: 100%, over: {}s }}\n  - hold: {{ for: {}s }}\n",
        target.mqtt(),
        ramp.as_secs(),
        hold.as_secs(),
    )
}

/// Starts a run on one core and returns how often it did `counted`, by whole windows.
fn start(addr: SocketAddr, text: &str, counted: Operation) -> Arc<AtomicU64> {
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
    std::thread::spawn(move || count(&plan, counted, reports, &counter));
    sent
}

fn count(
    plan: &Plan,
    counted: Operation,
    mut reports: mpsc::Receiver<CoreReport>,
    counter: &AtomicU64,
) {
    while let Some(report) = reports.blocking_recv() {
        for ((series, _), tally) in &report.delta.cells {
            if plan.series[series.index()].operation == counted {
                counter.fetch_add(tally.sent, Ordering::Relaxed);
            }
        }
    }
}
