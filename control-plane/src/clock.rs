//! The time of this process's control plane: it goes on as it began, whoever sets the wall clock.
//!
//! Invariant: nothing else in this crate asks for the time of day; what a wall clock says is only compared.

use std::sync::OnceLock;

use shoal_domain::clock::Anchor;
use shoal_service_kit::{Clock, SystemClock};

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ControlClock;

static ANCHOR: OnceLock<Anchor> = OnceLock::new();

impl ControlClock {
    /// Begins, following the process before this one if runs go on by its time. Whoever asks for the time first has
    /// begun as well, so this comes before that.
    pub(crate) fn begin(before: Option<Anchor>, runs_go_on: bool) -> &'static Anchor {
        ANCHOR.get_or_init(|| {
            let now = Anchor::now(&boot_id(), SystemClock.unix_us(), SystemClock.boot_us());
            now.follow(before, runs_go_on)
        })
    }

    /// How far the machine's wall clock is ahead of it.
    pub(crate) fn wall_ahead_us() -> i64 {
        let anchor = Self::begin(None, false);
        anchor.wall_ahead_us(SystemClock.unix_us(), SystemClock.boot_us())
    }
}

impl Clock for ControlClock {
    fn unix_us(&self) -> u64 {
        Self::begin(None, false).unix_us(self.boot_us())
    }

    fn boot_us(&self) -> u64 {
        SystemClock.boot_us()
    }
}

/// Empty where the system has no such thing.
fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}
