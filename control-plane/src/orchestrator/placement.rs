//! Which agents take a run, and with which share: pure over what the fleet knows.

use shoal_domain::ids::AgentId;
use shoal_domain::lease::{BEAT_US, Presence};
use shoal_domain::plan::Plan;
use shoal_domain::shard::{Shard, Share, deal};

use crate::fleet::Member;

/// Why a run cannot be placed (yet).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unplaceable {
    pub(super) code: &'static str,
    pub(super) why: String,
}

/// Deals the plan to all connected agents, weighted by capacity, within what they have free.
pub(super) fn place(
    plan: &Plan,
    members: &[Member],
    wanted: u32,
    now_us: u64,
) -> Result<Vec<(AgentId, Shard)>, Unplaceable> {
    let ready: Vec<&Member> = members
        .iter()
        .filter(|member| {
            member.is_connected && member.liveness.presence(now_us, 3 * BEAT_US) == Presence::Alive
        })
        .collect();
    if ready.is_empty() {
        return Err(Unplaceable { code: "SH0201", why: "no agent is connected".into() });
    }
    if ready.len() < wanted as usize {
        let why = format!("{wanted} agents are wanted, {} connected", ready.len());
        return Err(Unplaceable { code: "SH0202", why });
    }
    let shares: Vec<Share> = ready
        .iter()
        .map(|member| Share {
            weight: if member.capacity.weight > 0.0 { member.capacity.weight } else { 1.0 },
            cap: member.capacity.max_devices.saturating_sub(member.n_devices),
        })
        .collect();
    let shards = deal(plan, &shares)
        .map_err(|error| Unplaceable { code: "SH0206", why: error.to_string() })?;
    let dealt = ready.iter().map(|member| member.id.clone()).zip(shards);
    Ok(dealt.filter(|(_, shard)| shard.devices() > 0).collect())
}
