//! From a prepared job to running threads: dealing devices to cores, one thread and runtime each.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;

use shoal_domain::delta::WINDOW_US;
use shoal_domain::schedule::Timetable;
use shoal_domain::shard::Block;
use tokio::runtime::LocalOptions;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::alarms::Alarms;
use super::close::Audience;
use super::core::{self, Core, CoreLoop};
use super::gate::ConnectGate;
use super::http::{Cap, Kitchen};
use super::ports::Reservation;
use super::prepare::Prepared;
use super::{Closed, Control, CoreReport, Job};
use crate::recorder::Recorder;

/// A device that has not started: all it costs until then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seat {
    /// `u64::MAX`: not unless the load is revised.
    pub(super) start_us: u64,
    /// Its slots before this run time are not this agent's.
    pub(super) from_us: u64,
    pub(super) incarnation: u32,
    pub(super) group: usize,
    pub(super) index: u64,
    /// Place among this agent's devices of the same target.
    pub(super) ordinal: u64,
}

/// The threads of a run.
pub struct Running {
    threads: Vec<JoinHandle<()>>,
    /// Dropped with it, when no thread has a connection any more.
    _ports: Vec<Reservation>,
}

impl Running {
    /// Blocks until all cores have ended; each has then sent its closing report.
    pub fn join(self) {
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a core of the device engine panicked: its last windows are lost");
            }
        }
    }
}

pub(super) fn start(
    mut prepared: Prepared,
    t0_boot_us: u64,
    control: &Arc<Control>,
    reports: &mpsc::Sender<CoreReport>,
) -> Running {
    let cores = prepared.job.cores.max(1);
    let plan = &prepared.job.plan;
    let end_us = plan.end_us().min(plan.max_duration_us.unwrap_or(u64::MAX));
    control.arm(t0_boot_us, end_us, cores);
    let ports = std::mem::take(&mut prepared.ports);
    let prepared = Arc::new(prepared);
    let start_one = |(number, seats): (usize, Vec<Seat>)| {
        let (prepared, control) = (Arc::clone(&prepared), Arc::clone(control));
        let reporter = reports.clone();
        let shard = tracing::Span::current();
        let body = move || {
            let _in = shard.entered();
            run_core(number, seats, &prepared, t0_boot_us, control, reporter);
        };
        let thread = std::thread::Builder::new().name(format!("core-{number}")).spawn(body);
        if let Err(error) = &thread {
            failed(number, format!("core {number}: cannot start its thread: {error}"), reports);
        }
        thread.ok()
    };
    let timetable = Timetable::new(Arc::clone(&prepared.job.plan), prepared.job.seed, &[]);
    let seats = deal(&prepared.job, &timetable, control.begins_us(), cores);
    let threads = seats.into_iter().enumerate().filter_map(start_one).collect();
    Running { threads, _ports: ports }
}

/// A core that never ran has classed nothing, so it closed at 0.
fn failed(core: usize, error: String, reports: &mpsc::Sender<CoreReport>) {
    let closed = Some(Closed { closed_at_us: 0, error: Some(error) });
    let report = CoreReport { core, delta: Default::default(), closed };
    if reports.try_send(report).is_err() {
        tracing::error!(core, "a core did not start and its report found no room");
    }
}

/// Deals the shard's devices to cores in turn, group after group: the counts of all devices and of
/// each group's differ by at most one. Each core's seats have the next one to start last.
pub(super) fn deal(
    job: &Job,
    timetable: &Timetable,
    begin_us: u64,
    cores: usize,
) -> Vec<Vec<Seat>> {
    let mut blocks: Vec<&Block> = job.shard.blocks.iter().collect();
    blocks.sort_unstable_by_key(|block| (block.group, block.devices.start));
    let mut ordinals = vec![0; job.plan.targets.len()];
    let n_devices = job.shard.devices() as usize;
    let mut seats = vec![Vec::with_capacity(n_devices / cores + 1); cores];
    let devices =
        blocks.into_iter().flat_map(|block| block.devices.clone().map(move |index| (block, index)));
    for (turn, (block, index)) in devices.enumerate() {
        let group = block.group;
        let ordinal = &mut ordinals[job.plan.groups[group].target];
        let from_us = begin_us + block.from_us;
        seats[turn % cores].push(Seat {
            start_us: timetable.start_us(group, index, from_us).unwrap_or(u64::MAX),
            from_us,
            incarnation: block.incarnation,
            group,
            index,
            ordinal: *ordinal,
        });
        *ordinal += 1;
    }
    seats.iter_mut().for_each(|seats| sort_seats(seats));
    seats
}

/// The next one to start last.
pub(super) fn sort_seats(seats: &mut [Seat]) {
    seats.sort_unstable_by_key(|seat| std::cmp::Reverse((seat.start_us, seat.group, seat.index)));
}

fn run_core(
    number: usize,
    seats: Vec<Seat>,
    prepared: &Prepared,
    t0_boot_us: u64,
    control: Arc<Control>,
    reports: mpsc::Sender<CoreReport>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build_local(LocalOptions::default())
    {
        Ok(runtime) => runtime,
        Err(error) => {
            let text = format!("core {number}: cannot start its runtime: {error}");
            control.gate_closed();
            control.awaits_answers(false);
            return failed(number, text, &reports);
        }
    };
    let job = &prepared.job;
    let core = Core {
        plan: Arc::clone(&job.plan),
        timetable: RefCell::new(Rc::new(Timetable::new(Arc::clone(&job.plan), job.seed, &[]))),
        seed: job.seed,
        mark: job.run.mark(),
        secrets: Arc::clone(&job.secrets),
        routes: Arc::clone(&prepared.routes),
        signers: Arc::clone(&prepared.signers),
        protocols: job.protocols.clone(),
        control,
        alarms: Alarms::default(),
        t0_boot_us,
        gate: ConnectGate::new(job.spawn_rate / job.cores.max(1) as f64),
        stalls: Default::default(),
        recorder: RefCell::new(Recorder::new(&job.plan, job.sampling, job.seed)),
        logs_requests: job.sampling.is_some(),
        window_end_us: Cell::new(WINDOW_US),
        n_open: Cell::new(0),
        closing: Cell::new(false),
        parcel: Default::default(),
        burst: Default::default(),
        read_buffer: core::read_buffer(),
        n_revised: Cell::new(0),
        answers: RefCell::default(),
        kitchen: Kitchen::new(&job.plan),
        caps: Cap::of_core(&job.plan, seats.iter().map(|seat| seat.group)),
    };
    let core_loop = CoreLoop {
        core: Rc::new(core),
        number,
        n_cores: job.cores.max(1),
        reports,
        audience: Audience::of(job, &seats),
        seats,
        devices: Vec::new(),
        tasks: JoinSet::new(),
        is_cut: false,
        n_releases: 0,
        next_release_us: u64::MAX,
        parting: Default::default(),
        due: vec![0; job.plan.series.len() * job.plan.stages.len()],
        due_us: 0,
        waited_us: 0,
    };
    runtime.block_on(core_loop.run());
}
