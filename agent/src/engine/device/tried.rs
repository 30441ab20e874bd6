//! What single attempts became, for the request log.
//!
//! Each attempt that a series counts as sent is told here once, where it ends: with its answer, its
//! error, at the end of the run, or at once where nothing answers it.

use shoal_domain::ids::SeriesId;
use shoal_domain::requests::{End, Request};

use super::super::core::Core;
use super::connecting::Attempt;
use super::ending::series_of;
use super::{Device, Who};
use crate::mqtt::{Open, What};

pub(super) struct Tried {
    pub(super) series: SeriesId,
    /// Tells it from the others of this series and device.
    pub(super) number: u64,
    pub(super) intended_us: u64,
    pub(super) sent_us: u64,
    pub(super) bytes: u64,
}

impl Tried {
    pub(super) fn open(core: &Core, group: usize, open: &Open) -> Self {
        let (number, bytes) = match open.what {
            What::Slot { n, n_bytes, .. } => (n, n_bytes),
            What::Reply { n_bytes, .. } => (u32::from(open.pid), n_bytes),
            What::Subscribe(_) => (u32::from(open.pid), 0),
        };
        Self {
            series: series_of(core, group, &open.what),
            number: u64::from(number),
            intended_us: open.intended_us,
            sent_us: open.sent_us,
            bytes: u64::from(bytes),
        }
    }
}

impl Who<'_> {
    /// `done_us`: the answer's time, or that of our patience; `None` where there was nothing to
    /// wait for any more.
    pub(super) fn ended(&self, core: &Core, tried: &Tried, done_us: Option<u64>, end: End<'_>) {
        if !core.logs_requests {
            return;
        }
        let request = Request {
            series: tried.series,
            stage: core.plan.stage_of(self.group, tried.intended_us),
            device: self.id,
            sent_us: tried.sent_us,
            lag_us: Some(tried.sent_us.saturating_sub(tried.intended_us)),
            service_us: done_us.map(|done_us| done_us.saturating_sub(tried.sent_us)),
            bytes: tried.bytes,
            status: None,
            end,
        };
        let mut recorder = core.recorder.borrow_mut();
        recorder.ended(self.index, self.incarnation, tried.number, &request);
    }
}

impl Device {
    pub(super) fn who(&self) -> Who<'_> {
        let Self { group, index, incarnation, identity, .. } = self;
        Who { group: *group, index: *index, incarnation: *incarnation, id: &identity.id }
    }

    /// How its present attempt to connect ended.
    pub(super) fn connect_ended(
        &self,
        core: &Core,
        attempt: &Attempt,
        done_us: Option<u64>,
        end: End<'_>,
    ) {
        let tried = Tried {
            series: core.plan.groups[self.group].connect,
            number: self.n_attempts,
            intended_us: attempt.intended_us,
            sent_us: attempt.began_us,
            bytes: 0,
        };
        self.who().ended(core, &tried, done_us, end);
    }
}
