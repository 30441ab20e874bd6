//! A device of either kind, as its core sees it.
//!
//! The core starts it, ends it, and asks which of its slots are due; what lies between is the
//! device's own affair.

use std::cell::RefCell;
use std::rc::Rc;

use shoal_domain::schedule::Timetable;
use tokio::task::JoinSet;

use super::book::SlotBook;
use super::core::Core;
use super::start::Seat;
use super::{device, http};

#[derive(Clone)]
pub(super) enum Simulated {
    Mqtt(Rc<RefCell<device::Device>>),
    Http(Rc<http::Device>),
}

impl Simulated {
    /// Starts its task; `None` where its identity cannot render, which `prepare` has excluded.
    pub(super) fn start(core: &Rc<Core>, seat: &Seat, tasks: &mut JoinSet<()>) -> Option<Self> {
        let target = &core.plan.targets[core.plan.groups[seat.group].target];
        if target.http().is_some() {
            let device = Rc::new(http::Device::new(core, seat)?);
            tasks.spawn_local(http::drive(Rc::clone(core), Rc::clone(&device)));
            return Some(Self::Http(device));
        }
        let device = core.alarms.enter(|alarm| {
            device::Device::new(core, seat, alarm).map(|device| Rc::new(RefCell::new(device)))
        })?;
        tasks.spawn_local(device::drive(Rc::clone(core), Rc::clone(&device)));
        Some(Self::Mqtt(device))
    }

    pub(super) fn group(&self) -> usize {
        match self {
            Self::Mqtt(device) => device.borrow().group,
            Self::Http(device) => device.group,
        }
    }

    /// The load was revised.
    pub(super) fn revise(&self, core: &Core, timetable: &Timetable, now: u64) {
        match self {
            Self::Mqtt(device) => device.borrow_mut().revise(core, timetable, now),
            Self::Http(device) => device.revise(core, timetable, now),
        }
    }

    /// Shows its group and its slots.
    pub(super) fn look(&self, see: impl FnOnce(usize, &SlotBook)) {
        match self {
            Self::Mqtt(device) => {
                let device = device.borrow();
                see(device.group, &device.book);
            }
            Self::Http(device) => see(device.group, &device.book.borrow()),
        }
    }

    /// The gate closes: what is due is handled, the rest is unsent.
    pub(super) fn close(&self, core: &Rc<Core>, now: u64) {
        match self {
            Self::Mqtt(device) => device.borrow_mut().close(core, now),
            Self::Http(device) => device.close(),
        }
    }

    /// Where its slots begin and end on this agent, as known when it last ran.
    pub(super) fn tenure(&self) -> (u64, u64) {
        match self {
            Self::Mqtt(device) => device.borrow().tenure(),
            Self::Http(device) => device.tenure(),
        }
    }

    pub(super) fn is_leaving(&self) -> bool {
        match self {
            Self::Mqtt(device) => device.borrow().is_leaving(),
            Self::Http(device) => device.is_leaving(),
        }
    }

    /// Run time from which it is let go.
    pub(super) fn until_us(&self, core: &Core) -> u64 {
        match self {
            Self::Mqtt(device) => device.borrow_mut().until_us(core),
            Self::Http(device) => device.until_us(core),
        }
    }

    /// Another agent is about to hold it: its gate closes.
    pub(super) fn let_go(&self, core: &Rc<Core>, now: u64) {
        match self {
            Self::Mqtt(device) => device.borrow_mut().close(core, now),
            Self::Http(device) => device.let_go(),
        }
    }

    /// Another agent holds it: its connection ends, and it counts here no more.
    pub(super) fn part(&self, core: &Core, now: u64) {
        match self {
            Self::Mqtt(device) => device.borrow_mut().part(core, now),
            Self::Http(device) => device.part(core, now),
        }
    }

    /// No send may leave any more.
    pub(super) fn cut(&self, core: &Core, now: u64) {
        match self {
            Self::Mqtt(device) => device.borrow_mut().cut(core, now),
            Self::Http(device) => device.cut(core, now),
        }
    }

    /// The run is over for this device.
    pub(super) fn finish(&self, core: &Core, now: u64) {
        match self {
            Self::Mqtt(device) => device.borrow_mut().finish(core, now),
            Self::Http(device) => device.finish(core, now),
        }
    }
}
