//! What the run asks of its agents.

use super::Check;
use crate::plan::{Fleet, OnAgentLoss};

impl Check<'_> {
    /// Values that could not be read were reported; what stands in for them is never used.
    pub(super) fn fleet(&self) -> Fleet {
        let fleet = &self.file.fleet;
        let min_agents =
            fleet.min_agents.as_ref().and_then(|written| self.whole(written, 1, 10_000));
        let lease_us = fleet.lease.as_ref().and_then(|written| {
            let us = self.micros(written)?;
            if !(20_000_000..=300_000_000).contains(&us) {
                let resolved = self.resolve(written)?;
                self.misread(written, &resolved, "a duration from 20s to 300s");
            }
            Some(us)
        });
        Fleet {
            min_agents: min_agents.map_or(1, |n| n as u32),
            accept_degraded: fleet.accept.as_ref().is_some_and(|accept| accept.text == "degraded"),
            lease_us: lease_us.unwrap_or(30_000_000),
            on_agent_loss: match &fleet.on_agent_loss {
                Some(written) if written.text == "abort" => OnAgentLoss::Abort,
                Some(written) if written.text == "continue" => OnAgentLoss::Continue,
                _ => OnAgentLoss::Reassign,
            },
            rebalance: fleet.rebalance.as_ref().is_some_and(|rebalance| rebalance.text == "on"),
            spread_over: fleet.spread_over.as_ref().map(|label| label.text.clone()),
        }
    }
}
