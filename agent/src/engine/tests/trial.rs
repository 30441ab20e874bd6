//! A run of the engine against a broker on a thread of its own.
//!
//! Each device is a group of one, because a literal id cannot tell devices of one group apart.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use shoal_demo_broker::{BrokerThread, Script};
use shoal_domain::check::parse_plan;
use shoal_domain::delta::{Cells, DeviceGauge, Failure, Tally, add_failure, merge_cells};
use shoal_domain::files::Files;
use shoal_domain::ids::{RunId, SeriesId, StageId};
use shoal_domain::outcome::Operation;
use shoal_domain::plan::*;
use shoal_domain::requests::Sampling;
use shoal_domain::schedule::{Revision, Timetable};
use shoal_domain::shard::{Block, Shard};
use shoal_domain::template::Template;
use shoal_service_kit::{Clock, SystemClock, TargetGuard};

use crate::engine::{Control, Job, SourceAddresses, prepare};

pub(super) const fn ms(ms: u64) -> u64 {
    ms * 1_000
}

/// All times in microseconds.
pub(super) struct Trial {
    plan: Plan,
    cores: usize,
    lease_us: u64,
    front: Option<Box<dyn Fn(SocketAddr) -> SocketAddr>>,
}

/// The hands that move things while a run goes on.
pub(super) struct Hands<'a> {
    pub(super) control: Arc<Control>,
    script: &'a Script,
    t0_boot_us: u64,
}

impl Hands<'_> {
    /// Waits for this run time.
    pub(super) fn at(&self, run_us: u64) -> &Script {
        let wait = (self.t0_boot_us + run_us).saturating_sub(SystemClock.boot_us());
        std::thread::sleep(Duration::from_micros(wait));
        self.script
    }
}

pub(super) struct Outcome {
    plan: Arc<Plan>,
    pub(super) control: Arc<Control>,
    pub(super) broker: Script,
    pub(super) closed_at_us: u64,
    pub(super) failures: Vec<Failure>,
    cells: Cells,
    /// By core: the last ones reported.
    gauges: BTreeMap<usize, Vec<DeviceGauge>>,
    /// Of the load, as they were wanted, and when they came to apply.
    pub(super) revisions: Vec<Revision>,
    pub(super) revised_us: Vec<u64>,
}

impl Trial {
    pub(super) fn new(devices: u64) -> Self {
        let group = |i: u64| Group {
            name: format!("g{i}"),
            target: 0,
            load: 0,
            devices: 1,
            rows: None,
            id: Template::literal(&format!("device-{i}")),
            lets: vec![],
            credentials: None,
            reconnect: Reconnect { first_us: ms(100), max_us: ms(1_000) },
            max_in_flight: 10,
            connect_within_us: ms(60_000),
            place: BTreeMap::new(),
            churn: None,
            will: None,
            sparkplug: None,
            connect: SeriesId(2 * i as u32),
            listeners: vec![],
            disconnect: None,
            subscribe: None,
            captures: vec![],
            on_start: vec![],
            on_stop: vec![],
            behaviour: Behaviour::Open(vec![Send {
                series: SeriesId(2 * i as u32 + 1),
                pace: Pace {
                    period_ns: ms(100) * 1_000,
                    children: 1,
                    arrivals: Arrivals::Even { jitter_ppm: 0 },
                    phase: Phase::Spread,
                },
                while_away: WhileAway::Skip,
                action: Action::Publish(Publish {
                    topic: Template::literal("devices/telemetry"),
                    qos: Qos::AtLeastOnce,
                    retain: false,
                    payload: Template::literal("{\"temperature\": 21.5}"),
                    properties: Properties::default(),
                    ack_timeout_us: ms(30_000),
                }),
            }]),
        };
        let series = |group: u64| {
            [(Operation::Connect, "connect"), (Operation::Publish, "telemetry")].map(
                |(operation, name)| Series { operation, name: name.into(), group: group as usize },
            )
        };
        let plan = Plan {
            name: "trial".into(),
            vars: BTreeMap::new(),
            seed: Some(1),
            files: vec![],
            targets: vec![Target {
                name: "broker".into(),
                kind: TargetKind::Mqtt(MqttTarget {
                    endpoint: Endpoint::Builtin,
                    keep_alive_us: ms(60_000),
                    connect_timeout_us: 10_000_000,
                    tls: None,
                    web_socket: None,
                    protocol: Protocol::V3,
                    clean_start: true,
                    session_expiry_s: 0,
                }),
            }],
            groups: (0..devices).map(group).collect(),
            series: (0..devices).flat_map(series).collect(),
            stages: vec![],
            loads: vec![Load { groups: (0..devices as usize).collect(), stages: 0..2 }],
            observers: vec![],
            thresholds: vec![],
            fleet: Fleet {
                min_agents: 1,
                accept_degraded: false,
                lease_us: ms(30_000),
                on_agent_loss: OnAgentLoss::Continue,
                rebalance: false,
                spread_over: None,
            },
            stop_timeout_us: ms(1_000),
            max_duration_us: None,
        };
        Self { plan, cores: 1, lease_us: ms(3_600_000), front: None }.lasting(ms(1_000))
    }

    /// A run of this file, whose target is `builtin`.
    pub(super) fn of(text: &str) -> Self {
        let plan =
            parse_plan(text, &[], &Files::none()).unwrap_or_else(|found| panic!("{found:#?}"));
        Self { plan, cores: 1, lease_us: ms(3_600_000), front: None }
    }

    /// Everybody starts within the first 100 ms, which is a stage of its own.
    pub(super) fn lasting(mut self, us: u64) -> Self {
        let to = self.plan.devices();
        let stage = |name: &str, kind, start_us, end_us| Stage {
            name: name.into(),
            kind,
            start_us,
            end_us,
        };
        self.plan.stages = vec![
            stage("ramp", StageKind::Ramp { from: 0, to }, 0, ms(100)),
            stage("hold", StageKind::Hold, ms(100), us),
        ];
        self
    }

    fn each_group(mut self, change: impl Fn(&mut Group)) -> Self {
        self.plan.groups.iter_mut().for_each(change);
        self
    }

    pub(super) fn signatures_last(self, us: u64) -> Self {
        self.each_group(|group| {
            let sas = group.credentials.as_mut().and_then(|login| login.sas.as_mut());
            sas.expect("devices that sign").life_us = us;
        })
    }

    pub(super) fn every(self, us: u64) -> Self {
        self.each_group(|group| send_of(group).pace.period_ns = us * 1_000)
    }

    pub(super) fn qos(self, qos: Qos) -> Self {
        self.each_group(|group| publish_of(group).qos = qos)
    }

    pub(super) fn ack_timeout(self, us: u64) -> Self {
        self.each_group(|group| publish_of(group).ack_timeout_us = us)
    }

    pub(super) fn max_in_flight(self, n: u32) -> Self {
        self.each_group(|group| group.max_in_flight = n)
    }

    pub(super) fn connect_within(self, us: u64) -> Self {
        self.each_group(|group| group.connect_within_us = us)
    }

    pub(super) fn reconnect(self, first_us: u64, max_us: u64) -> Self {
        self.each_group(|group| group.reconnect = Reconnect { first_us, max_us })
    }

    pub(super) fn keep_alive(mut self, us: u64) -> Self {
        let TargetKind::Mqtt(mqtt) = &mut self.plan.targets[0].kind else { unreachable!() };
        mqtt.keep_alive_us = us;
        self
    }

    pub(super) fn target(mut self, change: impl FnOnce(&mut MqttTarget)) -> Self {
        let TargetKind::Mqtt(mqtt) = &mut self.plan.targets[0].kind else { unreachable!() };
        change(mqtt);
        self
    }

    pub(super) fn certificate(self, certificate: &Certificate) -> Self {
        self.each_group(|group| {
            let certificate = Some(certificate.clone());
            group.credentials = Some(Credentials {
                username: None,
                password: None,
                bearer: None,
                certificate,
                sas: None,
            });
        })
    }

    pub(super) fn publish(self, change: impl Fn(&mut Publish)) -> Self {
        self.each_group(|group| change(publish_of(group)))
    }

    /// What the devices reach instead of the broker, whose address it gets.
    pub(super) fn through(mut self, front: impl Fn(SocketAddr) -> SocketAddr + 'static) -> Self {
        self.front = Some(Box::new(front));
        self
    }

    pub(super) fn stop_timeout(mut self, us: u64) -> Self {
        self.plan.stop_timeout_us = us;
        self
    }

    pub(super) fn cores(mut self, cores: usize) -> Self {
        self.cores = cores;
        self
    }

    /// The lease lapses at this run time.
    pub(super) fn lease(mut self, us: u64) -> Self {
        self.lease_us = us;
        self
    }

    pub(super) fn job(&self) -> Job {
        let block = |group: usize| Block::new(group, 0..self.plan.groups[group].devices);
        Job {
            plan: Arc::new(self.plan.clone()),
            shard: Shard { blocks: (0..self.plan.groups.len()).map(block).collect() },
            seed: 1,
            run: RunId::from_parts(0, 1),
            secrets: Arc::default(),
            sources: SourceAddresses::default(),
            protocols: Default::default(),
            guard: TargetGuard::any(),
            builtin: None,
            sampling: Some(Sampling::ALL),
            cores: self.cores,
            spawn_rate: 1_000.0_f64.max(self.plan.spawn_rate()),
        }
    }

    pub(super) fn prepare_error(self, spoil: impl FnOnce(&mut Job)) -> String {
        let broker = BrokerThread::on_loopback().unwrap();
        let mut job = self.job();
        job.builtin = Some(self.reached(broker.addr()));
        spoil(&mut job);
        runtime().block_on(prepare(job)).err().expect("the job is spoilt").to_string()
    }

    fn reached(&self, broker: SocketAddr) -> SocketAddr {
        self.front.as_ref().map_or(broker, |front| front(broker))
    }

    pub(super) fn run(self, during: impl FnOnce(&Hands<'_>)) -> Outcome {
        self.run_with(|_| {}, during)
    }

    pub(super) fn run_with(
        self,
        before: impl FnOnce(&Script),
        during: impl FnOnce(&Hands<'_>),
    ) -> Outcome {
        let broker = BrokerThread::on_loopback().unwrap();
        before(broker.script());
        let mut job = self.job();
        job.builtin = Some(self.reached(broker.addr()));
        let plan = Arc::clone(&job.plan);
        let prepared = runtime().block_on(prepare(job)).unwrap_or_else(|e| panic!("{e}"));
        let t0_boot_us = SystemClock.boot_us() + ms(20);
        let control = Arc::new(Control::new(t0_boot_us + self.lease_us, u64::MAX));
        let (sender, mut reports) = tokio::sync::mpsc::channel(64);
        let running = prepared.start(t0_boot_us, Arc::clone(&control), sender);
        let hands = Hands { control: Arc::clone(&control), script: broker.script(), t0_boot_us };
        during(&hands);
        running.join();

        let mut outcome = Outcome {
            plan,
            control,
            broker: broker.script().clone(),
            closed_at_us: 0,
            failures: Vec::new(),
            cells: Cells::new(),
            gauges: BTreeMap::new(),
            revised_us: Vec::new(),
            revisions: Vec::new(),
        };
        let mut n_closed = 0;
        let mut n_logged: BTreeMap<SeriesId, u64> = BTreeMap::new();
        while let Ok(report) = reports.try_recv() {
            for request in report.delta.requests.iter() {
                *n_logged.entry(request.series).or_default() += 1;
            }
            merge_cells(&mut outcome.cells, &report.delta.cells);
            outcome.gauges.insert(report.core, report.delta.devices);
            if report.delta.revised_us.len() > outcome.revised_us.len() {
                outcome.revised_us = report.delta.revised_us;
            }
            for failure in report.delta.failures {
                add_failure(&mut outcome.failures, failure);
            }
            if let Some(closed) = report.closed {
                assert_eq!(closed.error, None);
                assert!(report.delta.progress.iter().all(|progress| progress.open.is_empty()));
                outcome.closed_at_us = closed.closed_at_us;
                n_closed += 1;
            }
        }
        assert_eq!(n_closed, self.cores);
        for (at, series) in outcome.plan.series.iter().enumerate() {
            let (at, path) = (SeriesId(at as u32), outcome.plan.series_path(SeriesId(at as u32)));
            let logged = n_logged.get(&at).copied().unwrap_or(0);
            assert_eq!(
                outcome.series(&path).sent,
                logged,
                "a row for every attempt of {}",
                series.name
            );
        }
        outcome.revisions = outcome.control.revisions().clone();
        outcome
    }
}

impl Outcome {
    /// One operation in one stage, by its name.
    pub(super) fn stage(&self, operation: Operation, name: &str) -> Tally {
        let mut total = Tally::default();
        for ((series, stage), tally) in &self.cells {
            if self.plan.series[series.index()].operation == operation
                && self.plan.stages[stage.index()].name == name
            {
                total.merge(tally);
            }
        }
        total
    }

    /// All stages of one series, by its path.
    pub(super) fn series(&self, path: &str) -> Tally {
        let mut total = Tally::default();
        for ((series, _), tally) in &self.cells {
            if self.plan.series_path(*series) == path {
                total.merge(tally);
            }
        }
        total
    }

    fn total(&self, operation: Operation) -> Tally {
        let mut total = Tally::default();
        for ((series, _), tally) in &self.cells {
            if self.plan.series[series.index()].operation == operation {
                total.merge(tally);
            }
        }
        total
    }

    pub(super) fn publish(&self) -> Tally {
        self.total(Operation::Publish)
    }

    pub(super) fn connect(&self) -> Tally {
        self.total(Operation::Connect)
    }

    /// (started, connected, failed) over all groups.
    pub(super) fn gauges(&self) -> (u64, u64, u64) {
        self.gauges.values().flatten().fold((0, 0, 0), |sum, gauge| {
            (sum.0 + gauge.started, sum.1 + gauge.connected, sum.2 + gauge.failed)
        })
    }

    fn planned_per_stage(&self, group: usize) -> Vec<u64> {
        let mut planned = vec![0; self.plan.stages.len()];
        let timed = self.revisions.iter().zip(&self.revised_us);
        let revisions: Vec<Revision> =
            timed.map(|(revision, at_us)| Revision { at_us: *at_us, ..*revision }).collect();
        let timetable = Timetable::new(Arc::clone(&self.plan), 1, &revisions);
        for send in self.plan.groups[group].sends() {
            for index in 0..self.plan.groups[group].devices {
                if let Some(slots) = timetable.slots(group, index, send) {
                    timetable.count_slots(group, &slots, 0, self.closed_at_us, &mut planned);
                }
            }
        }
        planned
    }

    pub(super) fn planned(&self) -> u64 {
        (0..self.plan.groups.len()).flat_map(|group| self.planned_per_stage(group)).sum()
    }

    /// What was handed to a socket may still be on its way when the run is over.
    pub(super) fn assert_the_broker_saw_all(&self) {
        let sent = self.publish().sent;
        let deadline = SystemClock.boot_us() + ms(3_000);
        while self.broker.publishes_seen() < sent && SystemClock.boot_us() < deadline {
            std::thread::yield_now();
        }
        assert_eq!(self.broker.publishes_seen(), sent);
    }

    pub(super) fn assert_every_slot_has_one_class(&self) {
        for (index, group) in self.plan.groups.iter().enumerate() {
            let series = group.sends()[0].series;
            for (stage, planned) in self.planned_per_stage(index).into_iter().enumerate() {
                let cell = self.cells.get(&(series, StageId(stage as u32)));
                let classed = cell.map_or(0, Tally::n_classed);
                assert_eq!(classed, planned, "{} in stage {stage}: {cell:?}", group.name);
            }
        }
    }
}

fn send_of(group: &mut Group) -> &mut Send {
    let Behaviour::Open(sends) = &mut group.behaviour else { unreachable!() };
    &mut sends[0]
}

fn publish_of(group: &mut Group) -> &mut Publish {
    let Action::Publish(publish) = &mut send_of(group).action else { unreachable!() };
    publish
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}
