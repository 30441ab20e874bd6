//! The device engine's interface; the engine itself is not in this build, so nothing is sent.
//!
//! Invariant: every core ends with exactly one report that says when its gate closed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use shoal_domain::delta::{Delta, WINDOW_US};
use shoal_domain::ids::RunId;
use shoal_domain::plan::Plan;
use shoal_domain::shard::Shard;
use shoal_service_kit::{Clock, SystemClock, TargetGuard};
use tokio::sync::mpsc;

/// What this agent is to do in one run.
#[derive(Clone)]
pub struct Job {
    pub plan: Arc<Plan>,
    pub shard: Shard,
    pub seed: u64,
    pub run: RunId,
    pub incarnation: u32,
    pub secrets: Arc<BTreeMap<String, String>>,
    pub guard: TargetGuard,
    pub builtin: Option<SocketAddr>,
    pub cores: usize,
    pub spawn_rate: f64,
}

/// What may change while devices run. Times in CLOCK_BOOTTIME or run time microseconds.
#[derive(Debug)]
pub struct Control {
    lease_until_boot_us: AtomicU64,
    end_us: AtomicU64,
    is_aborted: AtomicBool,
    is_fenced: AtomicBool,
    offset_us: AtomicI64,
    closed_at_us: AtomicU64,
}

impl Control {
    pub fn new(lease_until_boot_us: u64, end_us: u64) -> Self {
        Self {
            lease_until_boot_us: lease_until_boot_us.into(),
            end_us: end_us.into(),
            is_aborted: false.into(),
            is_fenced: false.into(),
            offset_us: 0.into(),
            closed_at_us: u64::MAX.into(),
        }
    }

    pub fn renew_lease(&self, until_boot_us: u64) {
        self.lease_until_boot_us.fetch_max(until_boot_us, Ordering::Relaxed);
    }

    pub fn end_at(&self, run_us: u64) {
        self.end_us.fetch_min(run_us, Ordering::Relaxed);
    }

    pub fn abort(&self) {
        self.is_aborted.store(true, Ordering::Relaxed);
    }

    pub fn fenced(&self) -> bool {
        self.is_fenced.load(Ordering::Relaxed)
    }

    pub fn set_clock_offset(&self, control_unix_minus_boot_us: i64) {
        self.offset_us.store(control_unix_minus_boot_us, Ordering::Relaxed);
    }

    pub fn gate_closed_at_us(&self) -> Option<u64> {
        let at_us = self.closed_at_us.load(Ordering::Relaxed);
        (at_us != u64::MAX).then_some(at_us)
    }
}

/// Why a shard cannot be driven from here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PrepareError(String);

impl PrepareError {
    pub fn code(&self) -> &'static str {
        "SH0301"
    }
}

#[derive(Debug)]
pub struct Prepared(());

#[derive(Debug)]
pub struct Running(JoinHandle<()>);

#[derive(Debug)]
pub struct CoreReport {
    pub core: usize,
    pub delta: Delta,
    pub closed: Option<Closed>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    pub closed_at_us: u64,
    pub error: Option<String>,
}

pub async fn prepare(_job: Job) -> Result<Prepared, PrepareError> {
    Ok(Prepared(()))
}

impl Prepared {
    pub fn start(
        self,
        t0_boot_us: u64,
        control: Arc<Control>,
        reports: mpsc::Sender<CoreReport>,
    ) -> Running {
        Running(std::thread::spawn(move || {
            let run_us = loop {
                let boot_us = SystemClock.boot_us();
                let run_us = boot_us.saturating_sub(t0_boot_us);
                let lease_us = control.lease_until_boot_us.load(Ordering::Relaxed);
                control.is_fenced.fetch_or(boot_us >= lease_us, Ordering::Relaxed);
                let is_aborted = control.is_aborted.load(Ordering::Relaxed);
                let is_over = run_us >= control.end_us.load(Ordering::Relaxed);
                if control.fenced() || is_aborted || is_over {
                    break run_us;
                }
                std::thread::sleep(Duration::from_millis(10));
            };
            control.closed_at_us.store(run_us, Ordering::Relaxed);
            let window = run_us / WINDOW_US;
            let delta = Delta { first_window: window, last_window: window, ..Delta::default() };
            let closed = Some(Closed { closed_at_us: run_us, error: None });
            drop(reports.blocking_send(CoreReport { core: 0, delta, closed }));
        }))
    }
}

impl Running {
    pub fn join(self) {
        drop(self.0.join());
    }
}
