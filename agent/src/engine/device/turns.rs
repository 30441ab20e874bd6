//! When a device runs: as soon as its connection has something, and when its alarm is due.
//!
//! A turn of its task is for the connection. What time alone brings about the core does itself, at
//! the alarm, for all devices that are due together (`burst.rs`); most messages are sent so, and the
//! task wakes only for their acks, after which nothing that the alarm was set for has changed.
//! Whatever may have changed it sets it anew.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::super::core::Core;
use super::Device;
use super::connecting::Link;

/// What came while a link was driven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    /// Acks of messages, which nothing waited for: what time will bring is what it was before.
    AcksOnly,
    /// Anything else, or nothing at all.
    Other,
}

impl Device {
    /// What its connection brings about, and where that changes what time will bring, its alarm.
    fn poll(&mut self, core: &Rc<Core>, cx: &mut Context<'_>) -> Poll<()> {
        self.waker.get_or_insert_with(|| cx.waker().clone());
        loop {
            self.drive_goodbye(core, cx);
            // Without an alarm it was to be seen to for something else.
            if self.drive_link(core, cx) == Heard::AcksOnly && core.alarms.is_set(self.alarm) {
                return Poll::Pending;
            }
            let blocked = self.blocked;
            let now = core.now_us();
            let moved = self.time_came(core, now) | self.send_on(core, now);
            // A link that has just changed, or a socket that has just filled up, must be polled
            // once more: only that registers this task for its next event.
            if !moved && self.blocked == blocked {
                self.set_alarm(core, now);
                return Poll::Pending;
            }
        }
    }

    pub(super) fn set_alarm(&self, core: &Core, now: u64) {
        // A revision that this core has not taken in yet: nothing to do until it has.
        let wake_us = if core.horizon_us() <= now { now + 1_000 } else { self.wake_us(core) };
        core.alarms.set(self.alarm, wake_us.max(now + 1));
    }

    /// Its task has something to see to, at its first turn at the latest.
    pub(super) fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    /// Everything that time alone brings about, up to what may be sent. Whether the link was
    /// replaced.
    pub(super) fn time_came(&mut self, core: &Rc<Core>, now: u64) -> bool {
        core.stalls.notice(now);
        let moved = self.keep_calendar(core, now);
        self.fall_due(core, now);
        self.expire_acks(core, now);
        self.talk_on_time(core, now);
        moved
    }

    /// Sends it, and all that time brings about after that. Whether the link was replaced.
    pub(super) fn send_on(&mut self, core: &Rc<Core>, now: u64) -> bool {
        self.pump(core);
        let moved = self.link_on_time(core, now);
        self.book.settle();
        moved
    }

    /// When this device must be looked at if nothing arrives before.
    fn wake_us(&self, core: &Core) -> u64 {
        let next_us = self.book.next_us();
        let end_us = core.control.end_us().min(self.until_us);
        // A slot of the next window waits a moment for the swap of this one.
        let due = match next_us {
            _ if next_us >= end_us => u64::MAX,
            _ if next_us >= core.window_end_us.get() => (next_us + 1).max(core.now_us() + 1_000),
            _ => next_us + 1,
        };
        let change = if self.change_us < end_us { self.change_us } else { u64::MAX };
        let leave = self.leave_by_us.unwrap_or(u64::MAX);
        let talk = match (&self.talk, &self.link) {
            (Some(talk), Link::Up(_)) if !self.blocked => talk.wake_us(),
            _ => u64::MAX,
        };
        let goodbye = self.goodbye.as_ref().map_or(u64::MAX, |goodbye| goodbye.deadline_us());
        let own = due.min(talk).min(self.ack_deadline_us).min(change).min(leave);
        own.min(goodbye).min(self.link_wake_us(core))
    }
}

/// Runs one device until its core drops it.
pub(in crate::engine) async fn drive(core: Rc<Core>, device: Rc<RefCell<Device>>) {
    std::future::poll_fn(|cx| device.borrow_mut().poll(&core, cx)).await;
}
