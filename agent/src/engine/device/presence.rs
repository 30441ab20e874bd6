//! Coming and going as the calendar says: the load, visits, storms.
//!
//! A device leaves as it would in the field: it sends nothing more, waits for what is open and says
//! DISCONNECT; only a storm that cuts closes the socket without a word. Slots before a change are
//! handled by what was true then, so a late wake-up changes nothing.

use std::rc::Rc;

use shoal_domain::outcome::ErrorClass;
use shoal_domain::plan::{Leave, WhileAway};
use shoal_domain::schedule::{Presence, Timetable};

use super::super::core::Core;
use super::connecting::Link;
use super::{Device, Lost, Standing};
use crate::recorder::SlotClass;

impl Device {
    /// Lives through all changes of presence up to `now`; whether the link was replaced.
    pub(super) fn keep_calendar(&mut self, core: &Rc<Core>, now: u64) -> bool {
        let mut moved = false;
        // The end of the run is no change: the core ends all of its devices then.
        let until = now.min(core.horizon_us().min(self.end_us(core)).saturating_sub(1));
        while self.change_us <= until {
            let at_us = self.change_us;
            self.fall_due(core, at_us);
            self.pump(core);
            let (presence, change_us) = self.calendar.at(at_us);
            self.change_us = change_us;
            if presence != self.presence {
                self.turn(core, presence, at_us, now);
                moved = true;
            }
        }
        moved
    }

    fn turn(&mut self, core: &Rc<Core>, presence: Presence, at_us: u64, now: u64) {
        self.presence = presence;
        match presence {
            Presence::Out => {
                self.drain(core, SlotClass::Unsent);
                self.begin_leave(core, now);
            }
            Presence::Away(Leave::Disconnect) => {
                self.drain_away(core);
                self.begin_leave(core, now);
            }
            Presence::Away(Leave::Cut) => {
                self.drain_away(core);
                match &self.link {
                    Link::Up(_) | Link::Dialing { .. } | Link::Greeting { .. } => {
                        let text = "the storm cut its connection".to_owned();
                        self.lost(core, Lost { class: ErrorClass::ConnectionLost, text });
                    }
                    Link::Resting { .. } | Link::Queued { .. } | Link::Down => {}
                }
                self.link = Link::Down;
            }
            Presence::In => {
                // Whoever is back before it was gone has left all the same.
                if self.leave_by_us.is_some() {
                    self.leave(core, now);
                }
                self.since_us = at_us;
                self.tries = 0;
                if self.standing != Standing::Failed {
                    self.link = Link::Resting { until_us: at_us };
                }
            }
        }
    }

    fn begin_leave(&mut self, core: &Core, now: u64) {
        match self.link {
            Link::Resting { .. } | Link::Queued { .. } | Link::Down => self.link = Link::Down,
            // An attempt ends as an attempt; a connection waits for its acknowledgements.
            Link::Dialing { .. } | Link::Greeting { .. } | Link::Up(_) => {
                self.leave_by_us = Some(now.saturating_add(core.plan.stop_timeout_us));
            }
        }
    }

    /// Ends a leave whose time has come; whether it did.
    pub(super) fn leave_on_time(&mut self, core: &Core, now: u64) -> bool {
        let Some(by_us) = self.leave_by_us else { return false };
        let is_done = match self.link {
            Link::Up(_) => {
                let awaits = self.talk.as_ref().is_some_and(|talk| talk.awaits_replies());
                self.session.n_live() == 0 && self.rest.is_empty() && !awaits
            }
            Link::Dialing { .. } | Link::Greeting { .. } => false,
            Link::Resting { .. } | Link::Queued { .. } | Link::Down => true,
        };
        if !is_done && now < by_us {
            return false;
        }
        self.leave(core, now);
        true
    }

    fn leave(&mut self, core: &Core, now: u64) {
        self.leave_by_us = None;
        if matches!(self.link, Link::Up(_)) {
            core.recorder.borrow_mut().gauge(self.group).connected -= 1;
        }
        self.end_open(core, now);
        if core.control.may_send(core.boot_us()) && self.say_goodbye(core) {
            self.ended_cleanly(core);
        }
        self.forget_connection();
        self.link = match self.is_renewing && self.presence == Presence::In {
            true => Link::Resting { until_us: now },
            false => Link::Down,
        };
    }

    /// A storm takes the device: what waits is lost, unless it is kept for its return.
    pub(super) fn drain_away(&mut self, core: &Core) {
        self.drain_of(core, SlotClass::NotConnected, |send| send.while_away != WhileAway::Buffer);
    }

    /// The load was revised: the same up to now and a while longer, then otherwise.
    pub(in crate::engine) fn revise(&mut self, core: &Core, timetable: &Timetable, now: u64) {
        let Some(calendar) = timetable.calendar(self.group, self.index) else { return };
        let sends = core.plan.groups[self.group].sends().iter();
        let slots = |send| timetable.slots_on(&calendar, self.group, self.index, send);
        self.book.revise(sends.map(slots), now);
        if self.change_us > now {
            self.change_us = calendar.at(now).1;
        }
        *self.calendar = calendar;
        core.alarms.set(self.alarm, 0);
    }
}
