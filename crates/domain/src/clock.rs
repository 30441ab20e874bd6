//! The control plane's time: wall time as it was when the process began, carried on by the boot clock.
//!
//! Runs begin and end at times of this clock, leases lapse by it, and agents correct their own clocks to it.
//! Somebody who sets the wall clock of the machine must change none of that. So it is read once, and a process that
//! follows on the same boot of the same machine takes over what the one before it had. Invariant: while a run goes on,
//! this time passes as fast as the boot clock, over any number of restarts.

/// Where the time of day stood on the boot clock of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anchor {
    /// Which boot of which machine; empty where the system does not say, which nothing follows on.
    pub boot_id: String,
    pub unix_minus_boot_us: i64,
}

impl Anchor {
    /// By the clocks as they are now.
    pub fn now(boot_id: &str, unix_us: u64, boot_us: u64) -> Self {
        let unix_minus_boot_us = unix_us.wrapping_sub(boot_us) as i64;
        Self { boot_id: boot_id.to_owned(), unix_minus_boot_us }
    }

    /// What a process that begins goes by: the time of the one before it, if runs go on by that and it can still be
    /// read; otherwise what the clocks say.
    #[must_use]
    pub fn follow(self, before: Option<Self>, runs_go_on: bool) -> Self {
        let is_known = |before: &Self| !before.boot_id.is_empty() && before.boot_id == self.boot_id;
        before.filter(|before| runs_go_on && is_known(before)).unwrap_or(self)
    }

    pub fn unix_us(&self, boot_us: u64) -> u64 {
        boot_us.wrapping_add_signed(self.unix_minus_boot_us)
    }

    /// How far the wall clock is ahead of this time.
    pub fn wall_ahead_us(&self, unix_us: u64, boot_us: u64) -> i64 {
        unix_us.wrapping_sub(self.unix_us(boot_us)) as i64
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const YEAR_US: u64 = 365 * 24 * 3_600_000_000;

    proptest! {
        #[test]
        fn whatever_the_wall_clock_is_set_to_the_time_of_a_run_goes_on(
            steps in proptest::collection::vec((0..YEAR_US, 0..100_000_000u64, any::<bool>()), 1..30),
        ) {
            let (mut boot_us, begun_us) = (7_000_000, 50 * YEAR_US);
            let mut anchor = Anchor::now("here", begun_us, boot_us);
            let began_boot_us = boot_us;
            for (wall_us, passes_us, restarts) in steps {
                boot_us += passes_us;
                if restarts {
                    anchor = Anchor::now("here", wall_us, boot_us).follow(Some(anchor), true);
                }
                prop_assert_eq!(anchor.unix_us(boot_us) - begun_us, boot_us - began_boot_us);
                let ahead_us = anchor.wall_ahead_us(wall_us, boot_us);
                prop_assert_eq!(anchor.unix_us(boot_us).wrapping_add_signed(ahead_us), wall_us);
            }
        }
    }

    #[test]
    fn another_machine_another_boot_and_a_process_without_runs_go_by_their_own_clock() {
        let before = Anchor::now("boot-1", 5_000, 1_000);
        let other = Anchor::now("boot-2", 900_000, 10);
        assert_eq!(other.clone().follow(Some(before.clone()), true), other);
        let idle = Anchor::now("boot-1", 900_000, 2_000);
        assert_eq!(idle.clone().follow(Some(before.clone()), false), idle);
        assert_eq!(idle.clone().follow(None, true), idle);
        assert_eq!(idle.follow(Some(before.clone()), true), before);
        let nameless = Anchor::now("", 900_000, 2_000);
        assert_eq!(nameless.clone().follow(Some(Anchor::now("", 1, 1)), true), nameless);
    }
}
