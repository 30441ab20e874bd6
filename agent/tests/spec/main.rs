//! The whole agent over real sockets: a scripted control plane above, the demo broker below.

#![expect(clippy::unwrap_used, reason = "a test's panic is its report")]

mod binary;
mod control_plane;

use std::time::Duration;

use shoal_agent::app::{self, Config, StartError};
use shoal_demo_broker::BrokerThread;
use shoal_domain::delta::Cells;
use shoal_domain::outcome::Operation;
use shoal_domain::plan::Plan;
use shoal_proto::v1::AssignmentPhase as Phase;
use shoal_service_kit::lifecycle::Stopped;
use shoal_service_kit::{Clock, Lifecycle, SystemClock};

use self::control_plane::ControlPlane;

const LIMIT: Duration = Duration::from_secs(30);

const SCENARIO: &str = r#"
version: 1
name: short
targets:
  broker: { mqtt: { url: builtin, protocol: 3.1.1, keep_alive: 60s } }
groups:
  sensors:
    target: broker
    devices: 20
    id: sensor-${index}
    send:
      telemetry:
        every: 200ms
        publish: { topic: "d/${device}", qos: 1, json: { trace: "${stamp}" } }
load:
  - ramp: { to: 100%, rate: 100/s }
  - hold: { for: HOLD }
"#;

struct Cluster {
    broker: BrokerThread,
    control_plane: ControlPlane,
    plan: Plan,
    scenario: String,
    agent: Lifecycle,
    dir: tempfile::TempDir,
}

impl Cluster {
    async fn start(hold: &str) -> Self {
        let scenario = SCENARIO.replace("HOLD", hold);
        let plan =
            shoal_domain::check::parse_plan(&scenario, &[], &shoal_domain::files::Files::none())
                .unwrap();
        let broker = BrokerThread::on_loopback().unwrap();
        let control_plane = ControlPlane::start().await;
        let (agent, dir) = (Lifecycle::new(), tempfile::tempdir().unwrap());
        let cluster = Self { broker, control_plane, plan, scenario, agent, dir };
        app::start(cluster.config(), &cluster.agent).await.unwrap();
        cluster
    }

    fn config(&self) -> Config {
        Config {
            server: format!("http://{}", self.control_plane.addr),
            token: None,
            id: "one".parse().unwrap(),
            data_dir: self.dir.path().to_owned(),
            labels: Default::default(),
            capacity: None,
            allow_target: vec![],
            secrets_dir: None,
            sources: Vec::new(),
            health_listen: None,
            protocols: Default::default(),
        }
    }

    /// Prepared, then started.
    async fn run(&self) {
        self.run_under(30_000_000).await;
    }

    async fn run_under(&self, lease_us: u64) {
        let wanted = control_plane::assignment(&self.scenario, &self.plan, self.broker.addr());
        let wanted = shoal_proto::v1::Assignment { lease_us, ..wanted };
        self.control_plane.desire(vec![wanted.clone()]);
        let prepared = self.control_plane.observed(Phase::Prepared).await;
        assert_eq!(prepared.plan_hash, self.plan.hash());
        let t0_us = SystemClock.unix_us() + 300_000;
        self.control_plane.desire(vec![shoal_proto::v1::Assignment { t0_us, ..wanted }]);
        self.control_plane.observed(Phase::Running).await;
    }

    fn publishes(&self, cells: &Cells) -> (u64, u64) {
        let publish = |series: usize| self.plan.series[series].operation == Operation::Publish;
        let tallies = cells.iter().filter(|((series, _), _)| publish(series.index()));
        tallies.fold((0, 0), |sum, (_, tally)| (sum.0 + tally.sent, sum.1 + tally.acked))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.agent.stop_hard();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_stored_is_what_the_broker_saw_although_uploads_break() {
    let cluster = Cluster::start("2s").await;
    // Every third delta is stored, but its ack is lost with the stream.
    cluster.control_plane.lose_every_third_ack();
    cluster.run().await;
    let closed = cluster.control_plane.observed(Phase::Closed).await;
    assert_eq!(closed.closed_at_us, cluster.plan.end_us());
    let (closed_at_us, totals, sum) = cluster.control_plane.delivered().await;
    assert_eq!(closed_at_us, closed.closed_at_us);
    assert_eq!(sum, totals.cells, "the totals are the sum");
    let (sent, acked) = cluster.publishes(&sum);
    assert!(sent > 100, "{sent}");
    assert_eq!(sent, cluster.broker.script().publishes_seen());
    assert_eq!(sent, acked);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn told_to_report_less_often_it_does_and_the_counts_are_the_same() {
    let cluster = Cluster::start("6s").await;
    cluster.control_plane.want_windows(2);
    cluster.run().await;
    cluster.control_plane.observed(Phase::Closed).await;
    let (_, totals, sum) = cluster.control_plane.delivered().await;
    assert_eq!(sum, totals.cells, "the totals are the sum");
    assert_eq!(cluster.publishes(&sum).0, cluster.broker.script().publishes_seen());
    let spans = cluster.control_plane.spans();
    let pairs = spans.iter().filter(|(first, last)| first % 2 == 0 && *last == first + 1).count();
    assert!(pairs >= 2 && spans.iter().all(|(first, last)| last - first <= 1), "{spans:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_soft_stop_ends_early_delivers_everything_and_says_closed() {
    let cluster = Cluster::start("600s").await;
    cluster.run().await;
    cluster.control_plane.stored(2).await;
    cluster.agent.stop_softly();
    assert_eq!(cluster.agent.wait(LIMIT).await, Stopped::Clean);
    let closed = cluster.control_plane.observed(Phase::Closed).await;
    assert!(closed.closed_at_us < 60_000_000, "{}", closed.closed_at_us);
    let (_, totals, sum) = cluster.control_plane.delivered().await;
    assert_eq!(sum, totals.cells);
    assert_eq!(cluster.publishes(&sum).0, cluster.broker.script().publishes_seen());
    // The lock is free again, and the next process knows whom it follows.
    let next = Lifecycle::new();
    app::start(cluster.config(), &next).await.unwrap();
    let hellos = cluster.control_plane.hellos(2).await;
    assert_eq!(hellos[1].predecessor, hellos[0].incarnation);
    assert_ne!(hellos[1].incarnation, hellos[0].incarnation);
    next.stop_hard();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_abort_reaches_the_running_load() {
    let cluster = Cluster::start("600s").await;
    cluster.run().await;
    cluster.control_plane.stored(1).await;
    cluster.control_plane.change(|wanted| wanted.abort = true);
    let closed = cluster.control_plane.observed(Phase::Closed).await;
    assert!(closed.closed_at_us < 60_000_000, "{}", closed.closed_at_us);
    let (_, totals, sum) = cluster.control_plane.delivered().await;
    assert_eq!(sum, totals.cells);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_agent_in_the_same_directory_does_not_start() {
    let cluster = Cluster::start("1s").await;
    let error = app::start(cluster.config(), &cluster.agent).await.unwrap_err();
    assert_eq!(error.code(), "SH0407");
    assert!(matches!(error, StartError::Identity(_)));
    assert!(error.to_string().contains(&cluster.dir.path().display().to_string()), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_whose_beats_are_not_acknowledged_stops_by_itself() {
    let cluster = Cluster::start("600s").await;
    cluster.run_under(3_000_000).await;
    cluster.control_plane.ack_no_more_beats();
    let fenced = cluster.control_plane.observed(Phase::Fenced).await;
    assert!(fenced.closed_at_us < 6_000_000, "{}", fenced.closed_at_us);
    let (closed_at_us, totals, sum) = cluster.control_plane.delivered().await;
    assert_eq!((closed_at_us, &sum), (fenced.closed_at_us, &totals.cells));
    assert_eq!(cluster.publishes(&sum).0, cluster.broker.script().publishes_seen());
}
