//! The clean end of a connection: DISCONNECT, and how long the broker takes to close.
//!
//! The connection that ends lives on beside the device, which may be gone or on its next one by
//! then. Each goodbye is one `sent` of the group's disconnect series and ends in exactly one of
//! closed by the broker, an error, or open at the end.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use shoal_domain::outcome::ErrorClass;
use shoal_domain::requests::End;

use super::super::core::Core;
use super::super::transport::Transport;
use super::connecting::Link;
use super::tried::Tried;
use super::{Device, Lost};
use crate::mqtt::encode;

/// MQTT wants the server to close at once; one that does not is not waited for any longer.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// A connection that DISCONNECT was said on.
pub(super) struct Goodbye {
    transport: Transport,
    said_us: u64,
    /// Of the attempt that made the connection.
    number: u64,
}

impl Goodbye {
    pub(super) fn deadline_us(&self) -> u64 {
        self.said_us.saturating_add(CLOSE_WITHIN.as_micros() as u64)
    }

    /// Whatever still comes was sent before the broker knew.
    fn poll_closed(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<()> {
        // A wrapping may still hold the end of the DISCONNECT; an error is an end like another.
        if self.transport.push().is_err() {
            return Poll::Ready(());
        }
        if self.transport.is_behind() && self.transport.poll_write_ready(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        while let Ok(1..) = ready!(self.transport.poll_read(cx, buffer)) {}
        Poll::Ready(())
    }
}

impl Device {
    /// A clean end, so that the broker publishes no will. The link is down then; whether
    /// DISCONNECT was said.
    pub(super) fn say_goodbye(&mut self, core: &Core) -> bool {
        let (mut bytes, n_deaths) = self.deaths(core.control.control_unix_us(core.boot_us()));
        bytes.extend_from_slice(&encode::DISCONNECT);
        let link = std::mem::replace(&mut self.link, Link::Down);
        let (Link::Up(mut transport), true, false) = (link, self.rest.is_empty(), self.blocked)
        else {
            return false;
        };
        // Best effort: what the socket does not take now is not said.
        if !transport.try_write(&bytes).is_ok_and(|n| n == bytes.len()) {
            return false;
        }
        let now = core.now_us();
        self.note_deaths(core, n_deaths, now);
        self.goodbye_open(core, now);
        if let Some(series) = core.plan.groups[self.group].disconnect {
            let stage = core.plan.stage_of(self.group, now);
            core.recorder.borrow_mut().tally(series, stage).sent += 1;
            core.opened();
            let number = self.n_attempts;
            self.goodbye = Some(Box::new(Goodbye { transport, said_us: now, number }));
        }
        // Its task is the one to hear of the close.
        self.wake();
        true
    }

    /// Hears that the broker has closed.
    pub(super) fn drive_goodbye(&mut self, core: &Core, cx: &mut Context<'_>) {
        let Some(goodbye) = &mut self.goodbye else { return };
        let is_closed = goodbye.poll_closed(cx, &mut core.read_buffer.borrow_mut()).is_ready();
        let now = core.now_us();
        if is_closed {
            self.goodbye_ended(core, now, None);
        } else if now >= goodbye.deadline_us() {
            let text = format!("the broker did not close within {CLOSE_WITHIN:?} of DISCONNECT");
            self.goodbye_ended(core, now, Some(Lost { class: ErrorClass::AckTimeout, text }));
        }
    }

    /// One that nobody waits for any longer: its time so far is a lower bound.
    pub(super) fn goodbye_open(&mut self, core: &Core, now: u64) {
        let text = "the broker had not closed by then".to_owned();
        self.goodbye_ended(core, now, Some(Lost { class: ErrorClass::OpenAtEnd, text }));
    }

    fn goodbye_ended(&mut self, core: &Core, now: u64, lost: Option<Lost>) {
        let series = core.plan.groups[self.group].disconnect;
        let (Some(goodbye), Some(series)) = (self.goodbye.take(), series) else { return };
        core.answered();
        let Goodbye { said_us, number, .. } = *goodbye;
        let stage = core.plan.stage_of(self.group, said_us);
        let tried = Tried { series, number, intended_us: said_us, sent_us: said_us, bytes: 0 };
        let end = match &lost {
            None => End::Acked,
            Some(lost) => End::Failed(lost.class, &lost.text),
        };
        self.who().ended(core, &tried, Some(now), end);
        let mut recorder = core.recorder.borrow_mut();
        recorder.took(series, stage, Some(said_us), said_us, now);
        let tally = recorder.tally(series, stage);
        match &lost {
            None => tally.acked += 1,
            Some(lost) => tally.censored += u64::from(lost.class == ErrorClass::OpenAtEnd),
        }
        drop(recorder);
        if let Some(lost) = lost {
            self.failed(core, series, stage, &lost, now);
        }
    }
}
