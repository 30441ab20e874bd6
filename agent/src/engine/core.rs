//! One core: what all of its devices share, and the loop that starts, watches and closes them.
//!
//! The loop runs every 10 ms: it is the stall probe, closes windows, starts devices and sees the
//! lease. Devices read the clock and the [`Control`] themselves before each send; the loop is what
//! makes sure that nothing depends on a device waking.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future as _;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use shoal_domain::delta::{Delta, WINDOW_US};
use shoal_domain::plan::Plan;
use shoal_domain::schedule::Timetable;
use shoal_service_kit::usage::waited_of_this_thread_us;
use shoal_service_kit::{Clock, SystemClock};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::alarms::Alarms;
use super::certificates::Signer;
use super::device;
use super::dial::Route;
use super::gate::ConnectGate;
use super::http::{Cap, Kitchen};
use super::simulated::Simulated;
use super::stalls::{PROBE_US, Stalls};
use super::start::{Seat, sort_seats};
use super::{Closed, Control, CoreReport, close};
use crate::protocol::Protocols;
use crate::recorder::Recorder;

/// How long a device that is let go may still get an ack: shorter than its next holder waits.
const PARTING_US: u64 = 300_000;
/// Acks are four bytes; this holds those of many messages.
const READ_BUFFER: usize = 4 * 1024;

pub(super) struct Core {
    pub(super) plan: Arc<Plan>,
    /// Of the plan, as the load was revised so far.
    pub(super) timetable: RefCell<Rc<Timetable>>,
    pub(super) seed: u64,
    pub(super) mark: String,
    pub(super) secrets: Arc<BTreeMap<String, String>>,
    pub(super) routes: Arc<BTreeMap<usize, Route>>,
    /// By group: the test authority that signs its devices' certificates.
    pub(super) signers: Arc<BTreeMap<usize, Signer>>,
    pub(super) protocols: Protocols,
    pub(super) control: Arc<Control>,
    pub(super) alarms: Alarms<Rc<RefCell<device::Device>>>,
    pub(super) t0_boot_us: u64,
    pub(super) gate: ConnectGate,
    pub(super) stalls: Stalls,
    pub(super) recorder: RefCell<Recorder>,
    /// Whether what becomes of single requests is to be told.
    pub(super) logs_requests: bool,
    /// End of the open window. No slot behind it is classed before the window is swapped, so all
    /// cores of an agent speak of the same slots when they say how far they have come.
    pub(super) window_end_us: Cell<u64>,
    /// Messages and connection attempts that wait for an answer.
    pub(super) n_open: Cell<u64>,
    /// The gate has closed: no new connections.
    pub(super) closing: Cell<bool>,
    /// Where messages are rendered before one write.
    pub(super) parcel: RefCell<device::Parcel>,
    /// The devices that are being looked at.
    pub(super) burst: RefCell<device::Burst>,
    pub(super) read_buffer: RefCell<Box<[u8]>>,
    /// Revisions that the timetable has taken in.
    pub(super) n_revised: Cell<usize>,
    /// What the protocol answers to what was just read.
    pub(super) answers: RefCell<Vec<u8>>,
    /// What requests of one kind have in common.
    pub(super) kitchen: Kitchen,
    /// This core's share of the rate caps, by group.
    pub(super) caps: BTreeMap<usize, Cap>,
}

impl Core {
    pub(super) fn boot_us(&self) -> u64 {
        SystemClock.boot_us()
    }

    pub(super) fn run_us(&self, boot_us: u64) -> u64 {
        boot_us.saturating_sub(self.t0_boot_us)
    }

    pub(super) fn now_us(&self) -> u64 {
        self.run_us(self.boot_us())
    }

    /// When a timer must go off to wake at `run_us`. Only a suspended machine makes the two clocks
    /// part; the next wake-up then counts from the right time again.
    pub(super) fn instant(&self, now_us: u64, run_us: u64) -> Instant {
        Instant::now() + Duration::from_micros(run_us.saturating_sub(now_us))
    }

    pub(super) async fn sleep_until(&self, run_us: u64) {
        let now_us = self.now_us();
        if now_us < run_us {
            tokio::time::sleep_until(self.instant(now_us, run_us)).await;
        }
    }

    /// Until `run_us`, and looks at the devices whose time comes meanwhile.
    pub(super) async fn rest_until(self: &Rc<Self>, run_us: u64) {
        loop {
            let now_us = self.now_us();
            let more_are_due = self.burst.borrow_mut().run(self, now_us);
            if more_are_due {
                // Others have their turn: what comes from the network, too.
                tokio::task::yield_now().await;
            }
            if now_us >= run_us {
                return;
            }
            if !more_are_due {
                self.sleep_until_next(now_us, run_us).await;
            }
        }
    }

    /// Until the first alarm, or until `run_us`.
    async fn sleep_until_next(&self, now_us: u64, run_us: u64) {
        let until_us = self.alarms.next_us().min(run_us);
        let mut timer = pin!(tokio::time::sleep_until(self.instant(now_us, until_us)));
        std::future::poll_fn(|cx| {
            if self.alarms.next_us() < until_us {
                return Poll::Ready(());
            }
            self.alarms.core_sleeps(until_us, cx.waker());
            timer.as_mut().poll(cx)
        })
        .await;
        self.alarms.core_is_awake();
    }

    /// Up to here nobody may have classed a slot: a revision that this core has not taken in
    /// applies from then on.
    pub(super) fn horizon_us(&self) -> u64 {
        let n_revised = self.n_revised.get();
        if self.control.n_revisions() == n_revised {
            return u64::MAX;
        }
        self.control.revisions().get(n_revised).map_or(u64::MAX, |revision| revision.at_us)
    }

    pub(super) fn opened(&self) {
        self.n_open.set(self.n_open.get() + 1);
    }

    pub(super) fn answered(&self) {
        self.n_open.set(self.n_open.get().saturating_sub(1));
    }
}

/// The loop of one core and what only it holds.
pub(super) struct CoreLoop {
    pub(super) core: Rc<Core>,
    pub(super) number: usize,
    pub(super) n_cores: usize,
    pub(super) reports: mpsc::Sender<CoreReport>,
    /// In start order, the next one last.
    pub(super) seats: Vec<Seat>,
    pub(super) devices: Vec<Simulated>,
    pub(super) tasks: JoinSet<()>,
    pub(super) is_cut: bool,
    pub(super) audience: close::Audience,
    /// The schedule of releases that `next_release_us` is of.
    pub(super) n_releases: u64,
    pub(super) next_release_us: u64,
    /// Devices that are let go and may still get an ack until this run time.
    pub(super) parting: VecDeque<(u64, Simulated)>,
    /// By series, then stage: slots due before `due_us`.
    pub(super) due: Vec<u64>,
    pub(super) due_us: u64,
    /// What this thread had waited for a processor at the last look.
    pub(super) waited_us: u64,
}

impl CoreLoop {
    pub(super) async fn run(mut self) {
        self.wait_for_the_begin().await;
        let from_us = self.core.control.begins_us();
        self.core.recorder.borrow_mut().begin(from_us / WINDOW_US);
        self.core.window_end_us.set((from_us / WINDOW_US + 1) * WINDOW_US);
        self.core.stalls.begin(from_us, self.core.now_us());
        self.waited_us = waited_of_this_thread_us();
        let mut closed_at = self.core.control.end_us();
        loop {
            self.revise();
            let boot = self.core.boot_us();
            let now = self.core.run_us(boot);
            self.start_due(now);
            self.release_due(now);
            self.beat_at(boot, now);
            closed_at = closed_at.min(self.core.control.end_us());
            if now >= closed_at {
                break;
            }
            let next_start = self.seats.last().map_or(u64::MAX, |seat| seat.start_us);
            self.core
                .rest_until(
                    (now + PROBE_US)
                        .min(next_start.max(now + 1))
                        .min(self.core.window_end_us.get())
                        .min(closed_at),
                )
                .await;
        }
        close::close(&mut self, closed_at).await;
        let now = self.core.now_us();
        let delta = self.swap(now / WINDOW_US, closed_at);
        let closed = Some(Closed { closed_at_us: closed_at, error: None });
        // The last report may wait for room: nothing is sent any more. No receiver, no reader.
        let _ = self.reports.send(CoreReport { core: self.number, delta, closed }).await;
    }

    /// For t0, or for the moment at which the devices become this agent's.
    async fn wait_for_the_begin(&self) {
        let begin = self.core.t0_boot_us + self.core.control.begins_us();
        loop {
            let boot = self.core.boot_us();
            if boot >= begin || self.core.run_us(boot) >= self.core.control.end_us() {
                return;
            }
            let wait = (begin - boot).min(PROBE_US);
            tokio::time::sleep(Duration::from_micros(wait)).await;
        }
    }

    /// Lets go who is to be let go by now: the gate of such a device closes, and a moment later its
    /// connection.
    fn release_due(&mut self, now_us: u64) {
        let control = &self.core.control;
        let is_new = self.n_releases != control.n_releases();
        if is_new || now_us >= self.next_release_us {
            self.n_releases = control.n_releases();
            self.next_release_us = u64::MAX;
            for device in &self.devices {
                if device.is_leaving() {
                    continue;
                }
                let until_us = device.until_us(&self.core);
                if until_us <= now_us {
                    device.let_go(&self.core, now_us);
                    self.parting.push_back((now_us + PARTING_US, device.clone()));
                } else {
                    self.next_release_us = self.next_release_us.min(until_us);
                }
            }
            let releases = control.releases();
            self.seats.retain(|seat| {
                let until_us = releases.until_us(seat.group, seat.index);
                // One that is to start later than it leaves never starts here.
                until_us == u64::MAX || seat.start_us < until_us
            });
        }
        while self.parting.front().is_some_and(|(at_us, _)| *at_us <= now_us) {
            if let Some((_, device)) = self.parting.pop_front() {
                device.part(&self.core, now_us);
            }
        }
    }

    /// What is due every 10 ms whatever else happens.
    pub(super) fn beat(&mut self) {
        let boot = self.core.boot_us();
        self.beat_at(boot, self.core.run_us(boot));
    }

    /// All devices that start before `now` have been started.
    fn beat_at(&mut self, boot: u64, now: u64) {
        self.core.stalls.probe(now);
        if !self.core.control.may_send(boot) && !self.is_cut {
            self.is_cut = true;
            for device in &self.devices {
                device.cut(&self.core, now);
            }
        }
        let window = now / WINDOW_US;
        if window > self.core.recorder.borrow().window() {
            let through_us = self.core.window_end_us.get().min(self.core.control.end_us());
            let delta = self.swap(window, through_us);
            self.report(delta);
            self.core.window_end_us.set((window + 1) * WINDOW_US);
        }
    }

    /// Never waits: a full channel only costs resolution in time. Where nobody takes the counts any
    /// more, nothing is sent any more.
    fn report(&self, delta: Delta) {
        let report = CoreReport { core: self.number, delta, closed: None };
        match self.reports.try_send(report) {
            Ok(()) => {}
            Err(TrySendError::Full(report)) => {
                self.core.recorder.borrow_mut().keep(report.delta);
            }
            Err(TrySendError::Closed(_)) => self.core.control.abort(),
        }
    }

    fn swap(&mut self, next_window: u64, through_us: u64) -> Delta {
        let (plan, timetable) = (&self.core.plan, self.core.timetable.borrow());
        let n_stages = plan.stages.len();
        for device in &self.devices {
            let (from_us, until_us) = device.tenure();
            let (from_us, until_us) = (from_us.max(self.due_us), through_us.min(until_us));
            let due = &mut self.due;
            device.look(|group, book| {
                let sends = plan.groups[group].sends();
                for (send, slots) in sends.iter().zip(book.schedules()) {
                    let first = send.series.index() * n_stages;
                    let due = &mut due[first..first + n_stages];
                    timetable.count_slots(group, slots, from_us, until_us, due);
                }
            });
        }
        self.due_us = self.due_us.max(through_us);
        let mut health = self.core.stalls.take_health();
        let waited_us = waited_of_this_thread_us();
        let before_us = std::mem::replace(&mut self.waited_us, waited_us);
        health.waited_us = waited_us.saturating_sub(before_us) / self.n_cores.max(1) as u64;
        let mut delta =
            self.core.recorder.borrow_mut().swap(next_window, through_us, &self.due, health);
        let revisions = self.core.control.revisions();
        delta.clock_error_us = delta.clock_error_us.max(self.core.control.clock_error_us());
        delta.wall_offset_us = Some(self.core.control.wall_offset_us());
        delta.revised_us = revisions.iter().map(|revision| revision.at_us).collect();
        delta
    }

    /// Takes in the revisions of the load that have come since the last look.
    fn revise(&mut self) {
        let core = &self.core;
        if core.control.n_revisions() == core.n_revised.get() {
            return;
        }
        let now = core.now_us();
        let revisions = core.control.revisions().clone();
        let timetable = Timetable::new(Arc::clone(&core.plan), core.seed, &revisions);
        let revised: BTreeSet<usize> =
            revisions[core.n_revised.get()..].iter().map(|revision| revision.group).collect();
        for device in &self.devices {
            if revised.contains(&device.group()) {
                device.revise(core, &timetable, now);
            }
        }
        let releases = core.control.releases();
        for seat in self.seats.iter_mut().filter(|seat| revised.contains(&seat.group)) {
            let start_us = timetable.start_us(seat.group, seat.index, seat.from_us);
            let until_us = releases.until_us(seat.group, seat.index);
            seat.start_us = start_us.filter(|us| *us < until_us).unwrap_or(u64::MAX);
        }
        sort_seats(&mut self.seats);
        core.gate.set_rate(core.control.spawn_rate() / self.n_cores as f64);
        core.timetable.replace(Rc::new(timetable));
        core.n_revised.set(revisions.len());
    }

    fn start_due(&mut self, now_us: u64) {
        let until = (now_us + 1).min(self.core.control.end_us()).min(self.core.horizon_us());
        while let Some(seat) = self.seats.pop_if(|seat| seat.start_us < until) {
            if let Some(device) = Simulated::start(&self.core, &seat, &mut self.tasks) {
                self.core.recorder.borrow_mut().gauge(seat.group).started += 1;
                self.devices.push(device);
            }
        }
    }
}

pub(super) fn read_buffer() -> RefCell<Box<[u8]>> {
    RefCell::new(vec![0; READ_BUFFER].into_boxed_slice())
}
