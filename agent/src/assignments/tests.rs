//! Reconciling desired and observed state, with an engine that sends nothing.

use std::sync::Mutex;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use shoal_domain::delta::Delta;
use shoal_service_kit::SystemClock;
use tokio::time::timeout;

use super::*;
use crate::assignments::load::Join;
use crate::connection::Dialer;
use crate::engine::{Closed, CoreReport};
use crate::uplink;

const LIMIT: Duration = Duration::from_secs(10);

/// A started shard in the test's hands.
struct Started {
    t0_boot_us: u64,
    control: Arc<Control>,
    reports: mpsc::Sender<CoreReport>,
}

impl Started {
    async fn close(&self, at_us: u64) {
        let closed = Some(Closed { closed_at_us: at_us, error: None });
        let report = CoreReport { core: 0, delta: Delta::default(), closed };
        self.reports.send(report).await.unwrap();
    }
}

#[derive(Clone)]
struct Scripted {
    started: mpsc::Sender<Started>,
    /// Names assignments that are refused.
    refused: Arc<Mutex<Vec<String>>>,
}

impl Loader for Scripted {
    fn prepare(&self, wanted: v1::Assignment) -> BoxFuture<'static, Loaded> {
        let this = self.clone();
        async move {
            if this.refused.lock().unwrap().contains(&wanted.assignment_id) {
                return Err(Refusal { code: "SH0301", why: "nobody answers".into() });
            }
            Ok(([7; 32], Box::new(this) as Box<dyn Ready>))
        }
        .boxed()
    }
}

impl Ready for Scripted {
    fn n_cores(&self) -> usize {
        1
    }

    fn start(
        self: Box<Self>,
        t0_boot_us: u64,
        control: Arc<Control>,
        reports: mpsc::Sender<CoreReport>,
    ) -> Join {
        self.started.try_send(Started { t0_boot_us, control, reports }).ok().unwrap();
        Box::new(|| {})
    }
}

struct Bench {
    desired: watch::Sender<Desired>,
    offset: watch::Sender<Option<i64>>,
    observed: watch::Receiver<Vec<v1::Observed>>,
    leases: Leases,
    started: mpsc::Receiver<Started>,
    refused: Arc<Mutex<Vec<String>>>,
    lifecycle: Lifecycle,
}

impl Bench {
    fn start() -> Self {
        let lifecycle = Lifecycle::new();
        let (desired, desired_seen) = watch::channel(Desired::default());
        let (offset, offset_seen) = watch::channel(None);
        let (observed, observed_seen) = watch::channel(Vec::new());
        let (sender, started) = mpsc::channel(8);
        let refused = Arc::<Mutex<Vec<String>>>::default();
        // Nobody listens there: deltas stay in the queue.
        let dialer = Dialer::new("http://127.0.0.1:9", None).unwrap();
        let (uplink, actor) = uplink::new(dialer);
        lifecycle.spawn("uplink", actor.run());
        let leases = Leases::default();
        let assignments = Assignments {
            loader: Arc::new(Scripted { started: sender, refused: Arc::clone(&refused) }),
            leases: leases.clone(),
            uplink,
            clock: Arc::new(SystemClock),
            counts: Arc::default(),
            lifecycle: lifecycle.clone(),
            desired: desired_seen,
            offset: offset_seen,
            observed,
        };
        lifecycle.spawn("assignments", assignments.run());
        Self { desired, offset, observed: observed_seen, leases, started, refused, lifecycle }
    }

    /// As the session does it: leases first.
    fn desire(&self, assignments: &[v1::Assignment]) {
        let now_us = SystemClock.boot_us();
        self.leases.keep_only(|key| assignments.iter().any(|wanted| key_of(wanted) == *key));
        for wanted in assignments {
            self.leases.grant(&key_of(wanted), wanted.lease_us, hard_end_us(wanted), now_us);
        }
        self.desired.send_replace(Desired { assignments: assignments.to_vec(), is_known: true });
    }

    async fn see(&mut self, phase: v1::AssignmentPhase) -> v1::Observed {
        let is_there = |all: &Vec<v1::Observed>| all.iter().any(|one| one.phase() == phase);
        let all = timeout(LIMIT, self.observed.wait_for(is_there)).await;
        let all = all.unwrap_or_else(|_| panic!("no {} in time", phase.as_str_name()));
        all.unwrap().iter().find(|one| one.phase() == phase).unwrap().clone()
    }

    async fn see_nothing(&mut self) {
        timeout(LIMIT, self.observed.wait_for(Vec::is_empty)).await.unwrap().unwrap();
    }

    async fn sees(&mut self, so: impl Fn(&[v1::Observed]) -> bool) {
        timeout(LIMIT, self.observed.wait_for(|all| so(all))).await.unwrap().unwrap();
    }

    async fn started(&mut self) -> Started {
        timeout(LIMIT, self.started.recv()).await.expect("it starts").unwrap()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.lifecycle.stop_hard();
    }
}

fn wanted(epoch: u64) -> v1::Assignment {
    v1::Assignment {
        assignment_id: "x".into(),
        epoch,
        lease_us: 30_000_000,
        end_us: 60_000_000,
        not_after_us: 90_000_000,
        ..v1::Assignment::default()
    }
}

/// An offset of zero makes control-plane time boot time.
fn armed(epoch: u64) -> v1::Assignment {
    v1::Assignment { t0_us: SystemClock.boot_us() + 5_000_000, ..wanted(epoch) }
}

use shoal_proto::v1::AssignmentPhase as Phase;

#[tokio::test]
async fn an_assignment_is_prepared_started_once_and_closed() {
    let mut bench = Bench::start();
    bench.desire(&[wanted(1)]);
    assert_eq!(bench.see(Phase::Prepared).await.plan_hash, [7; 32]);
    let armed = armed(1);
    bench.desire(std::slice::from_ref(&armed));
    assert!(bench.started.try_recv().is_err(), "not before the offset of the clocks is known");
    bench.offset.send_replace(Some(0));
    let shard = bench.started().await;
    assert_eq!(shard.t0_boot_us, armed.t0_us);
    bench.see(Phase::Running).await;
    bench.desire(&[armed]);
    shard.close(60_000_000).await;
    let closed = bench.see(Phase::Closed).await;
    assert_eq!((closed.epoch, closed.closed_at_us), (1, 60_000_000));
    assert!(bench.started.try_recv().is_err(), "started once");
    bench.desire(&[]);
    bench.see_nothing().await;
}

#[tokio::test]
async fn what_cannot_be_prepared_is_refused_with_code_and_sentence() {
    let mut bench = Bench::start();
    bench.refused.lock().unwrap().push("x".into());
    bench.desire(&[wanted(1)]);
    let refused = bench.see(Phase::Refused).await;
    assert_eq!((refused.error_code.as_str(), refused.error.as_str()), ("SH0301", "nobody answers"));
}

#[tokio::test]
async fn epochs_are_held_side_by_side_and_one_that_ended_never_comes_back() {
    let mut bench = Bench::start();
    bench.offset.send_replace(Some(0));
    bench.desire(&[armed(1)]);
    let first = bench.started().await;
    bench.desire(&[armed(1), armed(2)]);
    let second = bench.started().await;
    bench.desire(&[armed(2)]);
    first.close(5).await;
    bench.sees(|all| matches!(all, [only] if only.epoch == 2)).await;
    bench.desire(&[armed(1), armed(2)]);
    second.close(9).await;
    let closed = bench.see(Phase::Closed).await;
    assert_eq!((closed.epoch, closed.closed_at_us), (2, 9));
    assert!(bench.started.try_recv().is_err(), "epoch 1 never starts again");
}

#[tokio::test]
async fn a_lapsed_lease_never_starts() {
    let mut bench = Bench::start();
    bench.offset.send_replace(Some(0));
    bench.desire(&[v1::Assignment { lease_us: 0, ..armed(1) }]);
    assert_eq!(bench.see(Phase::Fenced).await.closed_at_us, 0);
    assert!(bench.started.try_recv().is_err());
}

#[tokio::test]
async fn what_is_listed_no_more_is_dropped_and_forgotten_when_closed() {
    let mut bench = Bench::start();
    bench.offset.send_replace(Some(0));
    bench.desire(&[armed(1)]);
    let shard = bench.started().await;
    bench.see(Phase::Running).await;
    bench.desire(&[]);
    shard.close(1).await;
    bench.see_nothing().await;
    assert_eq!(shard.control.gate_closed_at_us(), None, "the scripted shard has no gates");
}

#[tokio::test]
async fn a_start_before_this_machine_was_booted_is_refused() {
    let mut bench = Bench::start();
    bench.offset.send_replace(Some(i64::MAX));
    bench.desire(&[armed(1)]);
    assert_eq!(bench.see(Phase::Refused).await.error_code, "SH0209");
}

#[tokio::test]
async fn an_abort_before_the_start_closes_at_zero() {
    let mut bench = Bench::start();
    bench.desire(&[wanted(1)]);
    bench.see(Phase::Prepared).await;
    bench.desire(&[v1::Assignment { abort: true, ..armed(1) }]);
    bench.offset.send_replace(Some(0));
    assert_eq!(bench.see(Phase::Closed).await.closed_at_us, 0);
    assert!(bench.started.try_recv().is_err());
}

#[tokio::test]
async fn a_core_that_dies_silently_still_closes_the_assignment() {
    let mut bench = Bench::start();
    bench.offset.send_replace(Some(0));
    bench.desire(&[armed(1)]);
    drop(bench.started().await);
    bench.see(Phase::Closed).await;
}
