//! The leases of all assignments this agent holds, shared by the session (which renews them) and
//! the assignments (which start and stop load under them).
//!
//! Renewal happens on the session's own thread, so that no work of the agent can delay it. The lock
//! is held for a few instructions by the session's thread and the assignments' task, never over an
//! await. Invariant: a lease that lapsed is never renewed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shoal_domain::lease::{Lease, MAX_LEASE_US, Renewal};

use crate::beat::Offset;
use crate::engine::Control;
use crate::uplink::queue::Key;

#[derive(Debug, Clone, Default)]
pub(crate) struct Leases {
    held: Arc<Mutex<Held>>,
}

#[derive(Debug, Default)]
struct Held {
    grants: BTreeMap<Key, Grant>,
    offset: Option<Offset>,
}

#[derive(Debug)]
struct Grant {
    lease: Lease,
    control: Arc<Control>,
}

impl Leases {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a lease at the receipt of its assignment; one that is known stands as it is.
    pub(crate) fn grant(&self, key: &Key, lease_us: u64, end_us: u64, received_us: u64) {
        let mut held = self.held();
        let offset = held.offset;
        held.grants.entry(key.clone()).or_insert_with(|| {
            let lease = Lease::granted(key.epoch, lease_us.min(MAX_LEASE_US), received_us);
            let control = Control::new(lease.until_us(), end_us);
            if let Some(offset) = offset {
                control.set_clock_offset(offset.us, offset.error_us);
            }
            Grant { lease, control: Arc::new(control) }
        });
    }

    /// Renews from the send time of an acknowledged beat; unknown and lapsed ones stay as they are.
    pub(crate) fn renew(&self, key: &Key, beat_sent_us: u64, now_us: u64) {
        let mut held = self.held();
        let Some(grant) = held.grants.get_mut(key) else { return };
        match grant.lease.renew(key.epoch, beat_sent_us, now_us) {
            Renewal::Renewed(lease) => {
                grant.lease = lease;
                grant.control.renew_lease(lease.until_us());
            }
            Renewal::OldEpoch { .. } | Renewal::Expired { .. } => {}
        }
    }

    pub(crate) fn set_clock_offset(&self, offset: Offset) {
        let mut held = self.held();
        if held.offset.replace(offset) != Some(offset) {
            for grant in held.grants.values() {
                grant.control.set_clock_offset(offset.us, offset.error_us);
            }
        }
    }

    pub(crate) fn control(&self, key: &Key) -> Option<Arc<Control>> {
        self.held().grants.get(key).map(|grant| Arc::clone(&grant.control))
    }

    pub(crate) fn holds_at(&self, key: &Key, now_us: u64) -> bool {
        self.held().grants.get(key).is_some_and(|grant| grant.lease.holds_at(now_us))
    }

    /// What the control plane does not list any more is not renewed any more.
    pub(crate) fn keep_only(&self, is_wanted: impl Fn(&Key) -> bool) {
        self.held().grants.retain(|key, _| is_wanted(key));
    }

    #[cfg(test)]
    pub(crate) fn until_us(&self, key: &Key) -> Option<u64> {
        self.held().grants.get(key).map(|grant| grant.lease.until_us())
    }
}
