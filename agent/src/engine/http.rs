//! One HTTP device: its connection, its session, its requests.
//!
//! A device is one task that lives like a client program: it connects, logs in (`on_start`), keeps
//! its schedule or its loop, and says goodbye (`on_stop`). What the core must reach from outside
//! (the end of the load, a cut) is shared in [`Device`]. Invariant: every attempt that began is in
//! the list of open ones until exactly one of its ends is recorded, by the task or, when the run
//! ends over it, by [`Device::finish`].

mod calendar;
mod connection;
mod exchange;
mod life;
mod recipe;
mod rounds;
mod slots;

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use shoal_domain::ids::{SeriesId, StageId};
use shoal_domain::outcome::ErrorClass;
use shoal_domain::plan::{Send, WhileAway};
use shoal_domain::requests::{End, Request};
use shoal_domain::schedule::{Calendar, Presence};

use self::life::Life;
pub(super) use self::recipe::{Kitchen, check_secrets};
pub(super) use self::rounds::Cap;
use super::book::{Fate, SlotBook};
use super::core::Core;
use super::device::{Identity, scope};
use super::start::Seat;
use crate::recorder::{FailedOperation, SlotClass};

/// A device that has nothing to do looks around once a day.
const FAR_US: u64 = 86_400_000_000;

/// How much of its life a device has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Running,
    /// No new slot, no new task: what was begun ends, then `on_stop`.
    Closing,
    /// The socket closes now.
    Over,
}

/// What a device has reached; decides what a slot without a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Before its first connection: slots wait.
    Starting,
    /// Has been connected; slots wait while it connects again.
    Known,
    /// The last attempt to connect again failed: slots are not_connected until the next.
    Away,
    /// Never got in, or failed in `on_start`, and tries no more.
    Failed,
}

pub(super) struct Device {
    pub(super) group: usize,
    pub(super) book: RefCell<SlotBook>,
    index: u64,
    ordinal: u64,
    from_us: u64,
    incarnation: u32,
    /// Earlier slots are nobody's: one that changed hands is here from its first connection on.
    here_us: Cell<u64>,
    /// Run time from which this device is let go, by the schedule of this number.
    until_us: Cell<u64>,
    n_releases: Cell<u64>,
    /// Another agent goes on with it, so it has no goodbye to say.
    moves: Cell<bool>,
    calendar: RefCell<Calendar>,
    presence: Cell<Presence>,
    /// When the calendar changes what it is.
    change_us: Cell<u64>,
    /// Since when it is present: what `connect_within` and the first pacing count from.
    since_us: Cell<u64>,
    /// Revisions of its calendar.
    n_revised: Cell<u64>,
    identity: Identity,
    phase: Cell<Phase>,
    standing: Cell<Standing>,
    /// Counted in the gauge of connected devices.
    connected: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    open: RefCell<Vec<Open>>,
    n_opened: Cell<u64>,
}

/// An attempt that has begun and not ended.
#[derive(Debug, Clone, Copy)]
struct Open {
    id: u64,
    series: SeriesId,
    stage: StageId,
    began_us: u64,
    /// `None` in the closed model, where nothing was intended.
    intended_us: Option<u64>,
}

/// Status and length of the last reply of a request that had one.
type Replied = Option<(u16, u64)>;

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Failed {
    class: ErrorClass,
    text: String,
    /// Answered by the peer or by our patience, so its time is a sample.
    answered: bool,
}

impl Failed {
    fn new(class: ErrorClass, text: impl Into<String>) -> Self {
        Self { class, text: text.into(), answered: false }
    }

    fn answered(class: ErrorClass, text: impl Into<String>) -> Self {
        Self { class, text: text.into(), answered: true }
    }
}

impl Device {
    /// `None` where its identity cannot render, which `prepare` has excluded.
    pub(super) fn new(core: &Core, seat: &Seat) -> Option<Self> {
        let group = &core.plan.groups[seat.group];
        let scope = scope(core.seed, &core.mark, seat.group, &core.secrets);
        let identity = Identity::render(group, &scope, seat.index).ok()?;
        let timetable = core.timetable.borrow();
        let calendar = timetable.calendar(seat.group, seat.index)?;
        let slots = |send| timetable.slots_on(&calendar, seat.group, seat.index, send);
        let book = SlotBook::new(group.sends().iter().map(slots), seat.from_us);
        // One that comes from another agent may come in the middle of a storm.
        let (presence, change_us) = calendar.at(seat.start_us);
        Some(Self {
            group: seat.group,
            book: RefCell::new(book),
            calendar: RefCell::new(calendar),
            presence: Cell::new(presence),
            change_us: Cell::new(change_us),
            since_us: Cell::new(seat.start_us),
            n_revised: Cell::new(0),
            from_us: seat.from_us,
            incarnation: seat.incarnation,
            here_us: Cell::new(if seat.incarnation > 0 { u64::MAX } else { 0 }),
            until_us: Cell::new(u64::MAX),
            n_releases: Cell::new(0),
            moves: Cell::new(false),
            index: seat.index,
            ordinal: seat.ordinal,
            identity,
            phase: Cell::new(Phase::Running),
            standing: Cell::new(Standing::Starting),
            connected: Cell::new(false),
            waker: RefCell::new(None),
            open: RefCell::default(),
            n_opened: Cell::new(0),
        })
    }

    /// Where its slots begin and end here, as known when it last ran.
    pub(super) fn tenure(&self) -> (u64, u64) {
        (self.from_us, self.until_us.get())
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.phase.get() >= Phase::Closing
    }

    /// Run time from which it is let go; asks for a newer schedule each time, at the price of a load.
    pub(super) fn until_us(&self, core: &Core) -> u64 {
        let n_releases = core.control.n_releases();
        if self.n_releases.replace(n_releases) != n_releases && !self.is_leaving() {
            self.until_us.set(core.control.releases().until_us(self.group, self.index));
        }
        self.until_us.get()
    }

    /// Run time at which the load ends for this device.
    fn end_us(&self, core: &Core) -> u64 {
        core.control.end_us().min(self.until_us(core))
    }

    /// Another agent is about to hold it.
    pub(super) fn let_go(&self) {
        self.moves.set(true);
        self.enter(Phase::Closing);
    }

    /// Another agent holds it: it counts here no more.
    pub(super) fn part(&self, core: &Core, now: u64) {
        self.set_connected(core, false);
        {
            let mut recorder = core.recorder.borrow_mut();
            let gauge = recorder.gauge(self.group);
            gauge.started -= 1;
            gauge.failed -= u64::from(self.standing.get() == Standing::Failed);
        }
        self.finish(core, now);
    }

    /// The load ends for this device: it finishes what it has begun and leaves.
    pub(super) fn close(&self) {
        self.enter(Phase::Closing);
    }

    /// No send may leave any more: the socket closes without a word.
    pub(super) fn cut(&self, core: &Core, now: u64) {
        self.end_open(core, now);
        self.enter(Phase::Over);
    }

    /// The run is over for this device: what is still open is censored, the connection ends.
    pub(super) fn finish(&self, core: &Core, now: u64) {
        self.end_open(core, now);
        self.fall_due(core, now);
        self.drain(core, SlotClass::Unsent);
        self.enter(Phase::Over);
    }

    fn enter(&self, phase: Phase) {
        if self.phase.get() < phase {
            self.phase.set(phase);
            if let Some(waker) = self.waker.take() {
                waker.wake();
            }
        }
    }

    /// Ready once the phase is at least this one. Only one such future is polled at a time by the
    /// device's one task, so one waker is enough.
    fn reached(&self, phase: Phase) -> impl Future<Output = ()> {
        std::future::poll_fn(move |cx| {
            if self.phase.get() >= phase {
                return Poll::Ready(());
            }
            self.listen(cx);
            Poll::Pending
        })
    }

    /// Wakes the device's task when its core has changed something about it.
    fn listen(&self, cx: &mut Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }

    /// The timer wheel does not take all of u64, and a revision must be taken in first.
    fn next_look_us(&self, core: &Core) -> u64 {
        let now = core.now_us();
        if core.horizon_us() <= now { now + 1_000 } else { now + FAR_US }
    }

    /// When the calendar next changes something. The end of the load is no such change: the core
    /// ends all of its devices then.
    fn next_change_us(&self, core: &Core) -> u64 {
        let change_us = self.change_us.get();
        if change_us < self.end_us(core).min(core.horizon_us()) { change_us } else { u64::MAX }
    }

    fn begin(&self, series: SeriesId, stage: StageId, began_us: u64, intended: Option<u64>) -> u64 {
        let id = self.n_opened.get();
        self.n_opened.set(id + 1);
        let open = Open { id, series, stage, began_us, intended_us: intended };
        self.open.borrow_mut().push(open);
        id
    }

    /// Records how an attempt ended; nothing where the run has ended over it.
    fn end(&self, core: &Core, id: u64, result: Result<(), &Failed>, reply: Replied) {
        let mut all = self.open.borrow_mut();
        let Some(at) = all.iter().position(|open| open.id == id) else { return };
        let open = all.swap_remove(at);
        drop(all);
        let now = core.now_us();
        if let Err(failed) = result {
            core.stalls.generator_error(failed.class);
            self.failed(core, open.series, open.stage, failed, now);
        }
        self.log(core, &open, now, result, reply);
        let mut recorder = core.recorder.borrow_mut();
        match result {
            Ok(()) => recorder.tally(open.series, open.stage).acked += 1,
            Err(failed) if !failed.answered => return,
            Err(_) => {}
        }
        recorder.took(open.series, open.stage, open.intended_us, open.began_us, now);
    }

    fn failed(&self, core: &Core, series: SeriesId, stage: StageId, failed: &Failed, now: u64) {
        let failed = FailedOperation {
            series,
            class: failed.class,
            text: &failed.text,
            device: &self.identity.id,
            at_us: now,
        };
        core.recorder.borrow_mut().failed(stage, &failed);
    }

    /// An attempt that is counted and did not come to its request.
    fn never_began(
        &self,
        core: &Core,
        (series, stage): (SeriesId, StageId),
        intended_us: Option<u64>,
        failed: &Failed,
        now: u64,
    ) {
        let id = self.n_opened.get();
        self.n_opened.set(id + 1);
        let open = Open { id, series, stage, began_us: now, intended_us };
        self.log(core, &open, now, Err(failed), None);
    }

    /// What became of an attempt, for the request log.
    fn log(&self, core: &Core, open: &Open, now: u64, result: Result<(), &Failed>, reply: Replied) {
        if !core.logs_requests {
            return;
        }
        let is_answered = result.map_or_else(|failed| failed.answered, |()| true);
        let request = Request {
            series: open.series,
            stage: open.stage,
            device: &self.identity.id,
            sent_us: open.began_us,
            lag_us: open.intended_us.map(|intended_us| open.began_us.saturating_sub(intended_us)),
            service_us: is_answered.then(|| now.saturating_sub(open.began_us)),
            bytes: reply.map_or(0, |(_, n_bytes)| n_bytes),
            status: reply.map(|(status, _)| status),
            end: match result {
                Ok(()) => End::Acked,
                Err(failed) => End::Failed(failed.class, &failed.text),
            },
        };
        let mut recorder = core.recorder.borrow_mut();
        recorder.ended(self.index, self.incarnation, open.id, &request);
    }

    /// Counts what waits for an answer as open at the end, with its time so far as a lower bound.
    fn end_open(&self, core: &Core, now: u64) {
        for open in self.open.take() {
            let failed = Failed::new(ErrorClass::OpenAtEnd, "no answer by the end of the run");
            self.failed(core, open.series, open.stage, &failed, now);
            self.log(core, &open, now, Err(&Failed { answered: true, ..failed }), None);
            let mut recorder = core.recorder.borrow_mut();
            recorder.tally(open.series, open.stage).censored += 1;
            recorder.took(open.series, open.stage, open.intended_us, open.began_us, now);
        }
    }

    /// Gives a class to every slot that has become due, or lets it wait.
    fn fall_due(&self, core: &Core, now: u64) {
        let until = now
            .min(self.end_us(core))
            .min(core.horizon_us())
            .min(core.window_end_us.get())
            .min(core.control.leased_until_us());
        let mut book = self.book.borrow_mut();
        if book.next_us() >= until {
            return;
        }
        let waits = match self.standing.get() {
            Standing::Starting | Standing::Known => true,
            // A cut is our doing: what it keeps from being sent is unsent.
            Standing::Away => core.control.is_cut(),
            Standing::Failed => false,
        };
        let sends = core.plan.groups[self.group].sends();
        let is_away = matches!(self.presence.get(), Presence::Away(_));
        let here_us = self.here_us.get();
        book.fall_due(until, |send, intended_us| {
            let away = is_away.then(|| sends[send].while_away);
            let class = match (away, core.stalls.contains(intended_us), waits) {
                _ if intended_us < here_us => SlotClass::Unassigned,
                (Some(WhileAway::Skip), ..) => SlotClass::Away,
                (_, true, _) => SlotClass::Missed,
                (Some(WhileAway::Buffer), ..) | (None, _, true) => return Fate::Waits,
                (Some(WhileAway::Fail), ..) | (None, _, false) => SlotClass::NotConnected,
            };
            let (series, stage) = (sends[send].series, core.plan.stage_of(self.group, intended_us));
            core.recorder.borrow_mut().class(series, stage, class);
            if (away, class) == (Some(WhileAway::Fail), SlotClass::NotConnected) {
                let failed = Failed::new(ErrorClass::ConnectionLost, "a storm has this device");
                self.failed(core, series, stage, &failed, intended_us);
            }
            Fate::Classed
        });
    }

    /// When the next slot falls due; in a day where none does before the load ends.
    fn next_due_us(&self, core: &Core) -> u64 {
        let (look_us, next_us) = (self.next_look_us(core), self.book.borrow().next_us());
        let due_us = match next_us {
            _ if next_us >= self.end_us(core).min(core.horizon_us()) => u64::MAX,
            // A slot of the next window waits a moment for the swap of this one.
            _ if next_us >= core.window_end_us.get() => (next_us + 1).max(core.now_us() + 1_000),
            _ => next_us + 1,
        };
        look_us.min(due_us)
    }

    /// Gives a class to all slots that still wait.
    fn drain(&self, core: &Core, class: SlotClass) {
        self.drain_of(core, class, |_| true);
    }

    fn drain_of(&self, core: &Core, class: SlotClass, meant: impl Fn(&Send) -> bool) {
        let sends = core.plan.groups[self.group].sends();
        let meant = |send: usize| meant(&sends[send]);
        self.book.borrow_mut().drain(meant, |send, intended_us| {
            let stage = core.plan.stage_of(self.group, intended_us);
            core.recorder.borrow_mut().class(sends[send].series, stage, class);
        });
    }

    /// Whether it counts as connected.
    fn set_connected(&self, core: &Core, connected: bool) {
        if self.connected.replace(connected) != connected {
            let mut recorder = core.recorder.borrow_mut();
            let gauge = recorder.gauge(self.group);
            if connected { gauge.connected += 1 } else { gauge.connected -= 1 }
        }
    }

    /// Whoever changed hands is here from its first connection on: what was due before is nobody's.
    fn is_here_from(&self, core: &Core, now: u64) {
        if self.here_us.get() == u64::MAX {
            self.here_us.set(now);
            self.fall_due(core, now);
        }
    }

    /// The device tries no more.
    fn give_up(&self, core: &Core) {
        self.is_here_from(core, core.now_us());
        self.set_connected(core, false);
        self.standing.set(Standing::Failed);
        core.recorder.borrow_mut().gauge(self.group).failed += 1;
        self.drain(core, SlotClass::NotConnected);
    }
}

/// Runs one device until its life or the run is over.
pub(super) async fn drive(core: Rc<Core>, device: Rc<Device>) {
    // The close waits for as many devices as have something to finish.
    core.opened();
    let life = Life::new(Rc::clone(&core), Rc::clone(&device));
    tokio::select! {
        biased;
        () = device.reached(Phase::Over) => {}
        () = life.live() => {}
    }
    core.answered();
}
