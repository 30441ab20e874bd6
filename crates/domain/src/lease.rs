//! An agent's right to send, on both ends.
//!
//! The agent's deadline counts from the *send time* of the newest beat that was acknowledged, on a
//! clock that counts suspend. The control plane's counts from the receipt of the last beat and adds
//! a grace; so for any network delay the agent has stopped before the control plane says LOST.

/// Beats are sent this often.
pub const BEAT_US: u64 = 2_000_000;
/// Added to the lease by the control plane before an agent counts as lost.
pub const GRACE_US: u64 = 10_000_000;
pub const MIN_LEASE_US: u64 = 20_000_000;
pub const MAX_LEASE_US: u64 = 300_000_000;

/// The agent's end of a lease; times in CLOCK_BOOTTIME microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    epoch: u64,
    length_us: u64,
    until_us: u64,
}

/// Answer to a renewal; never just a bool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    Renewed(Lease),
    /// The ack is for an older grant; the lease stands as it was.
    OldEpoch {
        current: u64,
    },
    /// It had lapsed before the ack arrived: sending never resumes under it.
    Expired {
        since_us: u64,
    },
}

impl Lease {
    /// A lease begins when its assignment is received.
    pub fn granted(epoch: u64, length_us: u64, received_us: u64) -> Self {
        Self { epoch, length_us, until_us: received_us + length_us }
    }

    pub fn until_us(&self) -> u64 {
        self.until_us
    }

    pub fn holds_at(&self, now_us: u64) -> bool {
        now_us < self.until_us
    }

    /// Renews from the send time of an acknowledged beat.
    #[must_use]
    pub fn renew(self, epoch: u64, beat_sent_us: u64, now_us: u64) -> Renewal {
        if !self.holds_at(now_us) {
            return Renewal::Expired { since_us: self.until_us };
        }
        if epoch != self.epoch {
            return Renewal::OldEpoch { current: self.epoch };
        }
        let until_us = self.until_us.max(beat_sent_us + self.length_us);
        Renewal::Renewed(Self { until_us, ..self })
    }
}

/// The control plane's end: when did we last hear of this agent?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Liveness {
    last_heard_us: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    Alive,
    /// Three beats are missing; nothing is done yet.
    Suspect,
    Lost,
}

impl Liveness {
    pub fn heard_at(now_us: u64) -> Self {
        Self { last_heard_us: now_us }
    }

    pub fn hear(&mut self, now_us: u64) {
        self.last_heard_us = self.last_heard_us.max(now_us);
    }

    pub fn last_heard_us(&self) -> u64 {
        self.last_heard_us
    }

    pub fn presence(&self, now_us: u64, lease_us: u64) -> Presence {
        let silent_us = now_us.saturating_sub(self.last_heard_us);
        if silent_us >= lease_us + GRACE_US {
            Presence::Lost
        } else if silent_us >= 3 * BEAT_US {
            Presence::Suspect
        } else {
            Presence::Alive
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_expired_lease_cannot_be_renewed() {
        let lease = Lease::granted(1, 30_000_000, 0);
        assert_eq!(
            lease.renew(1, 29_000_000, 30_000_000),
            Renewal::Expired { since_us: 30_000_000 }
        );
    }

    #[test]
    fn an_ack_of_another_epoch_renews_nothing() {
        let lease = Lease::granted(2, 30_000_000, 0);
        assert_eq!(lease.renew(1, 2_000_000, 3_000_000), Renewal::OldEpoch { current: 2 });
    }

    proptest! {
        #[test]
        fn the_agent_has_stopped_before_the_control_plane_says_lost(
            delays in proptest::collection::vec((0u64..20_000_000, 0u64..20_000_000, any::<bool>()), 1..40),
        ) {
            // The control plane hears beats `there` late; acks come `back` late or are lost.
            let lease_us = 30_000_000;
            let mut lease = Lease::granted(1, lease_us, 0);
            let mut liveness = Liveness::heard_at(0);
            let mut acks: Vec<(u64, u64)> = vec![];
            for (n, (there, back, acked)) in delays.into_iter().enumerate() {
                let sent = n as u64 * BEAT_US;
                liveness.hear(sent + there);
                if acked {
                    acks.push((sent + there + back, sent));
                }
            }
            acks.sort_unstable();
            for (arrives, sent) in acks {
                if let Renewal::Renewed(renewed) = lease.renew(1, sent, arrives) {
                    lease = renewed;
                }
            }
            // At the agent's last permitted instant, the other side does not yet say LOST.
            prop_assert!(liveness.presence(lease.until_us(), lease_us) != Presence::Lost);
        }
    }
}
