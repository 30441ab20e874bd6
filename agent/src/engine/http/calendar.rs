//! Coming and going as the calendar says: the load, visits, storms.
//!
//! A visit ends as it would in the field: the request that is on its way gets its reply, `on_stop`
//! runs, the connection closes. A storm takes the connection and leaves the session: who comes
//! back from one does not log in again.

use std::task::Poll;

use shoal_domain::outcome::ErrorClass;
use shoal_domain::plan::{Leave, WhileAway};
use shoal_domain::schedule::{Presence, Timetable};

use super::super::core::Core;
use super::life::Life;
use super::{Device, Failed, Phase};
use crate::recorder::SlotClass;

impl Device {
    /// Lives through all changes of presence up to `now`.
    pub(super) fn keep_calendar(&self, core: &Core, now: u64) {
        // The end of the run is no change: the core ends all of its devices then.
        let until = now.min(core.horizon_us().min(self.end_us(core)).saturating_sub(1));
        while self.change_us.get() <= until {
            let at_us = self.change_us.get();
            self.fall_due(core, at_us);
            let (presence, change_us) = self.calendar.borrow().at(at_us);
            self.change_us.set(change_us);
            if self.presence.replace(presence) != presence {
                self.turn(core, presence, at_us);
            }
        }
    }

    fn turn(&self, core: &Core, presence: Presence, at_us: u64) {
        match presence {
            Presence::Out => self.drain(core, SlotClass::Unsent),
            Presence::Away(leave) => {
                let is_lost =
                    |send: &shoal_domain::plan::Send| send.while_away != WhileAway::Buffer;
                self.drain_of(core, SlotClass::NotConnected, is_lost);
                if leave == Leave::Cut {
                    let text = "the storm cut its connection";
                    let failed = Failed::new(ErrorClass::ConnectionLost, text);
                    self.end_all(core, &failed);
                }
            }
            Presence::In => self.since_us.set(at_us),
        }
    }

    /// Everything that is open ends so.
    pub(super) fn end_all(&self, core: &Core, failed: &Failed) {
        let open: Vec<u64> = self.open.borrow().iter().map(|open| open.id).collect();
        for id in open {
            self.end(core, id, Err(failed), None);
        }
    }

    /// The load was revised: the same up to now and a while longer, then otherwise.
    pub(in crate::engine) fn revise(&self, core: &Core, timetable: &Timetable, now: u64) {
        let Some(calendar) = timetable.calendar(self.group, self.index) else { return };
        let sends = core.plan.groups[self.group].sends().iter();
        let slots = |send| timetable.slots_on(&calendar, self.group, self.index, send);
        self.book.borrow_mut().revise(sends.map(slots), now);
        if self.change_us.get() > now {
            self.change_us.set(calendar.at(now).1);
        }
        self.calendar.replace(calendar);
        self.n_revised.set(self.n_revised.get() + 1);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Life {
    /// Whether this visit is over: the load has ended for the device, or it is not present.
    pub(super) fn is_over(&self) -> bool {
        self.device.phase.get() >= Phase::Closing || self.device.presence.get() != Presence::In
    }

    /// Until then, or until the calendar may have changed something. Whoever waits looks again.
    pub(super) async fn wait_until(&self, run_us: u64) {
        let (core, device) = (&self.core, &self.device);
        let n_revised = device.n_revised.get();
        let at_us = run_us.min(device.next_change_us(core)).min(device.next_look_us(core));
        let revised = std::future::poll_fn(|cx| {
            if device.n_revised.get() != n_revised || device.phase.get() >= Phase::Closing {
                return Poll::Ready(());
            }
            device.listen(cx);
            Poll::Pending
        });
        let in_time = async {
            // However little is left to wait, the core's loop and the other devices have their turn.
            match at_us <= core.now_us() {
                true => tokio::task::yield_now().await,
                false => core.sleep_until(at_us).await,
            }
        };
        tokio::select! {
            biased;
            () = revised => {}
            () = in_time => {}
        }
        device.keep_calendar(core, core.now_us());
    }

    /// Sleeps until then or until the visit is over.
    pub(super) async fn rest_until(&self, run_us: u64) {
        while !self.is_over() && self.core.now_us() < run_us {
            self.wait_until(run_us).await;
        }
    }

    pub(super) async fn visit_ends(&self) {
        while !self.is_over() {
            self.wait_until(u64::MAX).await;
        }
    }

    /// Until the device is present (`true`) or its load has ended.
    pub(super) async fn visit_begins(&self) -> bool {
        let device = &self.device;
        while device.phase.get() < Phase::Closing && device.presence.get() != Presence::In {
            device.fall_due(&self.core, self.core.now_us());
            self.wait_until(device.next_due_us(&self.core)).await;
        }
        device.phase.get() < Phase::Closing
    }
}
