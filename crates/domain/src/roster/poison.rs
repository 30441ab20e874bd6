//! What kills an agent must not be handed to one after the other.
//!
//! That an agent dies right after it began may be chance. That whoever takes its devices over dies
//! right after *it* began is what they do: no third one gets them, and the run ends.

use super::{Grant, Roster, Why};
use crate::ids::AgentId;

/// A death this soon after the begin is blamed on what was begun.
pub const SOON_US: u64 = 10_000_000;

impl Roster {
    /// Two agents that died right after they began the same devices, one after the other; it may be
    /// one that died twice.
    pub fn poisoned(&self) -> Option<(&AgentId, &AgentId)> {
        let takers = self.grants.iter().filter(|taker| taker.giver.is_some());
        takers.filter(|taker| self.died_soon(taker)).find_map(|taker| {
            let giver = self.holder(taker).filter(|giver| self.died_soon(giver))?;
            Some((&giver.id.agent, &taker.id.agent))
        })
    }

    fn died_soon(&self, grant: &Grant) -> bool {
        let (Some(from_us), Some(ended)) = (grant.from_us, &grant.ended) else { return false };
        if !matches!(ended.why, Why::Lost | Why::Restarted) {
            return false;
        }
        // Its last sign of life, which is long before anybody calls it lost.
        let last =
            self.moves.iter().find(|known| known.giver == grant.id && known.why == ended.why);
        last.is_some_and(|last| last.from_us <= from_us + SOON_US)
    }
}
