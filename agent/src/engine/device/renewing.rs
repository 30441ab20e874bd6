//! A new connection before the old one's signature ends: nothing is lost, slots wait a moment.
//!
//! The hub ends a connection whose token has ended, so the device leaves in order and comes back with
//! a fresh one. That is our doing, so slots due in between are held and not *not_connected*; only when
//! the new connection fails is the device cut off like any other.

use shoal_domain::plan::Group;
use shoal_domain::sas;

use super::super::core::Core;
use super::Device;
use super::connecting::Link;

impl Device {
    /// Leaves as soon as nothing is open; `leave` then dials again.
    pub(super) fn renew(&mut self, core: &Core, now: u64) {
        self.renew_us = u64::MAX;
        if matches!(self.link, Link::Up(_)) && self.leave_by_us.is_none() {
            self.is_renewing = true;
            self.leave_by_us = Some(now.saturating_add(core.plan.stop_timeout_us));
        }
    }
}

/// When a connection that is being opened now must be renewed.
pub(super) fn renewal_us(group: &Group, now: u64) -> u64 {
    let sas = group.credentials.as_ref().and_then(|credentials| credentials.sas.as_ref());
    sas.map_or(u64::MAX, |sas| now.saturating_add(sas::renew_after_us(sas.life_us)))
}
