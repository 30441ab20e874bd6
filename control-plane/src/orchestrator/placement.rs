//! Which agents take a run, and with which share: pure over what the fleet knows.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use shoal_domain::ids::AgentId;
use shoal_domain::lease::{BEAT_US, Presence};
use shoal_domain::plan::{Group, Plan};
use shoal_domain::shard::{Shard, Share, deal};

use crate::fleet::Member;

/// Why a run cannot be placed (yet).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unplaceable {
    pub(super) code: &'static str,
    pub(super) why: String,
}

/// Who gets what.
pub(super) type Placed = Vec<(AgentId, Shard)>;

/// Deals the plan to all connected agents, weighted by capacity, within what they have free.
pub(super) fn place(
    plan: &Plan,
    members: &[Member],
    wanted: u32,
    now_us: u64,
) -> Result<Placed, Unplaceable> {
    let ready: Vec<&Member> = members
        .iter()
        .filter(|member| {
            member.is_connected
                && !member.is_leaving
                && member.liveness.presence(now_us, 3 * BEAT_US) == Presence::Alive
        })
        .collect();
    if ready.is_empty() {
        return Err(Unplaceable { code: "SH0201", why: "no agent is connected".into() });
    }
    if ready.len() < wanted as usize {
        let n_leaving =
            members.iter().filter(|member| member.is_connected && member.is_leaving).count();
        let why = match n_leaving {
            0 => format!("{wanted} agents are wanted, {} connected", ready.len()),
            n => format!(
                "{wanted} agents are wanted, {} connected, and {n} drained or leaving",
                ready.len()
            ),
        };
        return Err(Unplaceable { code: "SH0202", why });
    }
    let weights = weights(plan, &ready);
    let shares: Vec<Share> = ready
        .iter()
        .zip(weights)
        .map(|(member, weight)| Share {
            weight,
            cap: member.capacity.max_devices.saturating_sub(member.n_devices),
        })
        .collect();
    let barred: Vec<BTreeSet<usize>> =
        ready.iter().map(|member| barred(plan, &member.labels)).collect();
    let may = |agent: usize, group: usize| !barred[agent].contains(&group);
    if let Some(group) =
        (0..plan.groups.len()).find(|group| !(0..ready.len()).any(|a| may(a, *group)))
    {
        let why =
            format!("no agent has the labels that group {} asks for", plan.groups[group].name);
        return Err(Unplaceable { code: "SH0206", why });
    }
    let shards = deal(plan, &shares, may)
        .map_err(|error| Unplaceable { code: "SH0206", why: error.to_string() })?;
    let dealt = ready.iter().map(|member| member.id.clone()).zip(shards);
    Ok(dealt.filter(|(_, shard)| shard.devices() > 0).collect())
}

/// Groups that are placed on agents with other labels.
pub(super) fn barred(plan: &Plan, labels: &HashMap<String, String>) -> BTreeSet<usize> {
    let fits =
        |group: &Group| group.place.iter().all(|(name, value)| labels.get(name) == Some(value));
    (0..plan.groups.len()).filter(|group| !fits(&plan.groups[*group])).collect()
}

/// By capacity; with `spread_over` each value of that label weighs the same, split by capacity.
fn weights(plan: &Plan, ready: &[&Member]) -> Vec<f64> {
    let own = |member: &Member| match member.capacity.weight {
        weight if weight > 0.0 => weight,
        _ => 1.0,
    };
    let Some(label) = &plan.fleet.spread_over else {
        return ready.iter().map(|member| own(member)).collect();
    };
    let place = |member: &Member| member.labels.get(label).cloned().unwrap_or_default();
    let mut sums: BTreeMap<String, f64> = BTreeMap::new();
    for member in ready {
        *sums.entry(place(member)).or_default() += own(member);
    }
    ready.iter().map(|member| own(member) / sums[&place(member)]).collect()
}
