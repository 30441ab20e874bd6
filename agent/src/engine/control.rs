//! What others may change while devices run: the lease, the end, the abort, the clock offset.
//!
//! Atomics, because every core reads them before every send. The end only ever moves earlier, and
//! never to a moment that a core may already have passed: all cores close at the same run time, so
//! what they count adds up to the plan's slots before it. A revision of the load likewise applies
//! from one run time on all cores, ahead of what any of them has classed. A lapsed lease or an abort forbids sends
//! at once and is then an end like any other.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shoal_domain::schedule::Revision;
use shoal_service_kit::{Clock, SystemClock};

use super::releases::Releases;

/// A new end lies at least this far ahead, so that no core (they read the end each time they wake)
/// has classed a slot behind it: far more than a thread needs between reading clock and end.
const END_MARGIN_US: u64 = 100_000;
/// In the place of a lease's end.
const LAPSED: u64 = 0;

const NEVER_STARTED: usize = usize::MAX;

/// Times are CLOCK_BOOTTIME microseconds where the name says `boot`, else run time microseconds.
#[derive(Debug)]
pub struct Control {
    lease_until_boot_us: AtomicU64,
    end_us: AtomicU64,
    /// `u64::MAX` until the run is armed.
    t0_boot_us: AtomicU64,
    fenced: AtomicBool,
    aborted: AtomicBool,
    control_unix_minus_boot_us: AtomicI64,
    /// What the beats say now; the stamps stay with the one above once a run is armed.
    heard_offset_us: AtomicI64,
    offset_error_us: AtomicU64,
    is_clock_fixed: AtomicBool,
    n_open_gates: AtomicUsize,
    /// Cores with something open, as they say while they close; before that, all.
    n_awaiting: AtomicUsize,
    from_us: AtomicU64,
    releases: Mutex<Arc<Releases>>,
    /// Counts the changes of `releases`, so that looking for one costs a load and no lock.
    n_releases: AtomicU64,
    /// In order; each applies from the same run time on all cores.
    revisions: Mutex<Vec<Revision>>,
    n_revisions: AtomicUsize,
    /// Connects per second, as the newest revision has it; the bits of an `f64`, 0: as prepared.
    spawn_rate_bits: AtomicU64,
    handover: AtomicU32,
}

impl Control {
    /// Until a clock offset is set, this machine's own wall clock stamps the messages.
    pub fn new(lease_until_boot_us: u64, end_us: u64) -> Self {
        let offset = SystemClock.unix_us().wrapping_sub(SystemClock.boot_us()) as i64;
        Self {
            lease_until_boot_us: lease_until_boot_us.into(),
            end_us: end_us.into(),
            t0_boot_us: u64::MAX.into(),
            fenced: false.into(),
            aborted: false.into(),
            control_unix_minus_boot_us: offset.into(),
            heard_offset_us: offset.into(),
            offset_error_us: 0.into(),
            is_clock_fixed: false.into(),
            n_open_gates: NEVER_STARTED.into(),
            n_awaiting: 0.into(),
            from_us: 0.into(),
            releases: Mutex::default(),
            n_releases: 0.into(),
            revisions: Mutex::default(),
            n_revisions: 0.into(),
            spawn_rate_bits: 0.into(),
            handover: 0.into(),
        }
    }

    /// The devices are this agent's from this run time on; to be called before the start.
    pub fn begin_at(&self, from_us: u64) {
        self.from_us.store(from_us, Ordering::SeqCst);
    }

    pub(super) fn begins_us(&self) -> u64 {
        self.from_us.load(Ordering::SeqCst)
    }

    /// Takes the schedule by which devices are let go. `false`: the first of them is due too soon to
    /// be sure that no core has classed a slot behind it, and nothing was changed.
    pub(crate) fn release(&self, releases: Releases, number: u32) -> bool {
        let t0 = self.t0_boot_us.load(Ordering::SeqCst);
        let now_us = SystemClock.boot_us().saturating_sub(t0);
        if releases.first_us() < now_us.saturating_add(END_MARGIN_US) {
            return false;
        }
        *self.releases.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(releases);
        self.handover.store(number, Ordering::SeqCst);
        self.n_releases.fetch_add(1, Ordering::SeqCst);
        true
    }

    /// The number of the newest schedule that was taken.
    pub(crate) fn handover(&self) -> u32 {
        self.handover.load(Ordering::SeqCst)
    }

    /// The number changes with [`Control::releases`]; 0: nobody is let go.
    pub(super) fn n_releases(&self) -> u64 {
        self.n_releases.load(Ordering::Acquire)
    }

    pub(super) fn releases(&self) -> Arc<Releases> {
        Arc::clone(&self.releases.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Without effect once the lease has lapsed: a fenced agent never sends again.
    pub fn renew_lease(&self, until_boot_us: u64) {
        let later = |known: u64| (known != LAPSED).then(|| known.max(until_boot_us));
        // Without a change where it has lapsed.
        let _ = self.lease_until_boot_us.fetch_update(Ordering::SeqCst, Ordering::SeqCst, later);
    }

    /// Ends the load at `run_us`, or just ahead of now where that has passed. A later end than the
    /// present one is ignored.
    pub fn end_at(&self, run_us: u64) {
        let t0 = self.t0_boot_us.load(Ordering::SeqCst);
        let floor = (SystemClock.boot_us() + END_MARGIN_US).saturating_sub(t0);
        self.end_us.fetch_min(run_us.max(floor), Ordering::SeqCst);
    }

    /// Takes over the revisions of the load beyond those it has, with the rate of connecting that
    /// they need. One whose time has passed, or is too near, applies just ahead of now.
    pub fn revise(&self, wanted: &[Revision], spawn_rate: f64) {
        let mut revisions = self.revisions();
        let Some(new) = wanted.get(revisions.len()..).filter(|new| !new.is_empty()) else { return };
        let t0 = self.t0_boot_us.load(Ordering::SeqCst);
        let floor = (SystemClock.boot_us() + END_MARGIN_US).saturating_sub(t0);
        for revision in new {
            let after = revisions.last().map_or(0, |last| last.at_us);
            let at_us = revision.at_us.max(floor).max(after);
            revisions.push(Revision { at_us, ..*revision });
        }
        self.spawn_rate_bits.store(spawn_rate.to_bits(), Ordering::SeqCst);
        self.n_revisions.store(revisions.len(), Ordering::SeqCst);
    }

    /// With the run times from which they apply here.
    pub(super) fn revisions(&self) -> MutexGuard<'_, Vec<Revision>> {
        // A panic while it was held leaves a plain list behind.
        self.revisions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn n_revisions(&self) -> usize {
        self.n_revisions.load(Ordering::SeqCst)
    }

    pub(super) fn spawn_rate(&self) -> f64 {
        f64::from_bits(self.spawn_rate_bits.load(Ordering::SeqCst))
    }

    /// Closes all sockets now; what was not sent stays unsent.
    pub fn abort(&self) {
        self.aborted.store(true, Ordering::SeqCst);
        self.end_at(0);
    }

    /// Whether the lease lapsed while this agent ran.
    pub fn fenced(&self) -> bool {
        self.fenced.load(Ordering::SeqCst)
    }

    /// What the beats say of the control plane's clock; `error_us` bounds how wrong it is.
    pub fn set_clock_offset(&self, control_unix_minus_boot_us: i64, error_us: u64) {
        self.heard_offset_us.store(control_unix_minus_boot_us, Ordering::Relaxed);
        self.offset_error_us.store(error_us, Ordering::Relaxed);
        if !self.is_clock_fixed.load(Ordering::Relaxed) {
            self.control_unix_minus_boot_us.store(control_unix_minus_boot_us, Ordering::Relaxed);
        }
    }

    /// From the arming on all stamps of this agent follow one clock, so that what it sends and what
    /// it reads differ by no correction; a better offset only changes the known error.
    pub fn fix_clock(&self, control_unix_minus_boot_us: i64) {
        self.control_unix_minus_boot_us.store(control_unix_minus_boot_us, Ordering::Relaxed);
        self.is_clock_fixed.store(true, Ordering::Relaxed);
    }

    /// By how much the stamps may differ from the control plane's time.
    pub(crate) fn clock_error_us(&self) -> u64 {
        let heard = self.heard_offset_us.load(Ordering::Relaxed);
        let used = self.control_unix_minus_boot_us.load(Ordering::Relaxed);
        heard.abs_diff(used).saturating_add(self.offset_error_us.load(Ordering::Relaxed))
    }

    /// This machine's wall clock minus the control plane's, as far as the beats tell.
    pub(crate) fn wall_offset_us(&self) -> i64 {
        let heard = self.heard_offset_us.load(Ordering::Relaxed);
        let control_us = SystemClock.boot_us().saturating_add_signed(heard);
        SystemClock.unix_us().wrapping_sub(control_us) as i64
    }

    /// `Some` once the gates of all cores have closed: from then on nothing is sent.
    pub fn gate_closed_at_us(&self) -> Option<u64> {
        (self.n_open_gates.load(Ordering::SeqCst) == 0).then(|| self.end_us())
    }

    /// The cores are about to run from `t0`; the load never lasts longer than `end_us`.
    pub(crate) fn arm(&self, t0_boot_us: u64, end_us: u64, n_cores: usize) {
        self.t0_boot_us.store(t0_boot_us, Ordering::SeqCst);
        self.end_us.fetch_min(end_us, Ordering::SeqCst);
        self.n_open_gates.store(n_cores, Ordering::SeqCst);
        self.n_awaiting.store(n_cores, Ordering::SeqCst);
    }

    /// A core that closes has come to wait for answers, or no more.
    pub(super) fn awaits_answers(&self, awaits: bool) {
        match awaits {
            true => self.n_awaiting.fetch_add(1, Ordering::SeqCst),
            false => self.n_awaiting.fetch_sub(1, Ordering::SeqCst),
        };
    }

    pub(super) fn any_awaits_answers(&self) -> bool {
        self.n_awaiting.load(Ordering::SeqCst) > 0
    }

    pub(crate) fn gate_closed(&self) {
        self.n_open_gates.fetch_sub(1, Ordering::SeqCst);
    }

    pub(crate) fn end_us(&self) -> u64 {
        self.end_us.load(Ordering::SeqCst)
    }

    /// Whether a send may leave at `boot_us`. The first caller that finds the lease lapsed fences
    /// the whole agent.
    pub(crate) fn may_send(&self, boot_us: u64) -> bool {
        if self.is_cut() {
            return false;
        }
        let until_us = self.lease_until_boot_us.load(Ordering::Relaxed);
        if boot_us < until_us {
            return true;
        }
        let lease = &self.lease_until_boot_us;
        // Renewed or lapsed in this very moment: whoever asks next learns which.
        if lease.compare_exchange(until_us, LAPSED, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            // However late this is noticed, what was due behind the lease is not this agent's.
            self.end_us.fetch_min(self.in_run_us(until_us), Ordering::SeqCst);
            self.fenced.store(true, Ordering::SeqCst);
        }
        false
    }

    /// No slot that is due from this run time on may be classed yet: it may turn out to be behind the
    /// lease.
    pub(super) fn leased_until_us(&self) -> u64 {
        if self.fenced() {
            // The end of the load says it now.
            return u64::MAX;
        }
        self.in_run_us(self.lease_until_boot_us.load(Ordering::SeqCst))
    }

    fn in_run_us(&self, boot_us: u64) -> u64 {
        boot_us.saturating_sub(self.t0_boot_us.load(Ordering::SeqCst))
    }

    /// Whether all sockets are to be closed without a word.
    pub(super) fn is_cut(&self) -> bool {
        self.fenced.load(Ordering::Relaxed) || self.aborted.load(Ordering::Relaxed)
    }

    pub(crate) fn control_unix_us(&self, boot_us: u64) -> u64 {
        boot_us.saturating_add_signed(self.control_unix_minus_boot_us.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_only_moves_earlier_and_never_into_the_past() {
        let control = Control::new(u64::MAX, 60_000_000);
        let t0 = SystemClock.boot_us() - 10_000_000;
        control.arm(t0, 60_000_000, 1);
        control.end_at(70_000_000);
        assert_eq!(control.end_us(), 60_000_000);
        control.end_at(20_000_000);
        assert_eq!(control.end_us(), 20_000_000);
        control.end_at(1);
        assert!((10_100_000..20_000_000).contains(&control.end_us()), "{}", control.end_us());
    }

    #[test]
    fn the_load_of_a_fenced_agent_ended_with_its_lease_however_late_it_wakes() {
        let control = Control::new(30_000_000, 60_000_000);
        control.arm(10_000_000, 60_000_000, 1);
        assert_eq!(control.leased_until_us(), 20_000_000);
        control.renew_lease(32_000_000);
        assert_eq!(control.leased_until_us(), 22_000_000);
        assert!(!control.may_send(46_000_000));
        assert_eq!((control.end_us(), control.leased_until_us()), (22_000_000, u64::MAX));
        control.renew_lease(90_000_000);
        assert!(!control.may_send(47_000_000) && control.fenced());
    }

    #[test]
    fn a_lapsed_lease_cannot_be_renewed() {
        let control = Control::new(1_000, 60_000_000);
        assert!(control.may_send(999));
        assert!(!control.may_send(1_000));
        control.renew_lease(2_000);
        assert!(!control.may_send(1_500));
        assert!(control.fenced());
    }

    #[test]
    fn the_gate_is_closed_when_the_last_core_has_closed() {
        let control = Control::new(u64::MAX, 5);
        assert_eq!(control.gate_closed_at_us(), None);
        control.arm(0, 5, 2);
        control.gate_closed();
        assert_eq!(control.gate_closed_at_us(), None);
        control.gate_closed();
        assert_eq!(control.gate_closed_at_us(), Some(5));
    }
}
