//! Devices that are due together.
//!
//! All of them take one step before any takes the next: a step's code, and what it needs of the
//! kernel, stays in the processor's caches, which sends between two steps would empty. Each message
//! is still rendered and stamped at its own write.

use std::cell::RefCell;
use std::rc::Rc;

use super::super::core::Core;
use super::Device;
use super::sending::Parcel;

/// How many are looked at before others have a turn: half a millisecond of sends.
const MOST: usize = 32;

/// Memory of the core for those that are looked at.
#[derive(Default)]
pub(in crate::engine) struct Burst {
    looks: Vec<Look>,
    /// By place among the looks.
    parcels: Vec<Parcel>,
}

/// What one device has reached.
struct Look {
    device: Rc<RefCell<Device>>,
    was_blocked: bool,
    /// Its link was replaced.
    moved: bool,
    /// It has written a parcel.
    wrote: bool,
}

impl Burst {
    /// Does for all devices whose alarm is due what time alone brings about. Whether there may be
    /// more of them.
    pub(in crate::engine) fn run(&mut self, core: &Rc<Core>, now: u64) -> bool {
        while self.looks.len() < MOST
            && let Some(device) = core.alarms.due(now)
        {
            self.looks.push(Look { device, was_blocked: false, moved: false, wrote: false });
        }
        for look in &mut self.looks {
            let mut device = look.device.borrow_mut();
            look.was_blocked = device.blocked;
            look.moved = device.time_came(core, now);
        }
        if self.parcels.len() < self.looks.len() {
            self.parcels.resize_with(self.looks.len(), Parcel::default);
        }
        for (look, parcel) in self.looks.iter_mut().zip(&mut self.parcels) {
            look.wrote = look.device.borrow_mut().write(core, parcel);
        }
        let is_full = self.looks.len() == MOST;
        for (look, parcel) in self.looks.drain(..).zip(&mut self.parcels) {
            look.device.borrow_mut().end_look(core, now, &look, parcel);
        }
        is_full
    }
}

impl Device {
    /// What was due needs no turn of its task, unless the connection is to be seen to.
    fn end_look(&mut self, core: &Rc<Core>, now: u64, look: &Look, parcel: &mut Parcel) {
        if look.wrote {
            self.commit(core, parcel);
        }
        let moved = self.send_on(core, now) | look.moved;
        if moved || self.blocked != look.was_blocked || self.goodbye.is_some() {
            self.wake();
        } else {
            self.set_alarm(core, now);
        }
    }
}
